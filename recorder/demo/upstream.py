"""The upstream: the runs of script.py over HTTP, as the Assistants API streams them, at their pace or faster."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import threading
from typing import Any, NamedTuple

import uvicorn

from recorder.collect.asgi import Receive, Scope, Send
from recorder.demo import objects
from recorder.demo.objects import Object
from recorder.demo.script import ASSISTANTS, AWAIT_OUTPUTS, CUT, MODEL, Beat, Mark, Outputs, Script

_RUNS = re.compile(r"/v1/threads(?:/(?P<thread>thread_\w+))?/runs")
_OUTPUTS = re.compile(r"/v1/threads/(?P<thread>thread_\w+)/runs/(?P<run>run_\w+)/submit_tool_outputs")

_SPLIT_SHARE = 0.05  # of the events: they arrive in two chunks
_SPLIT_SECONDS = 0.004  # between the two
_CUT_SECONDS = 0.2  # at any speed: what was sent should have arrived before the connection breaks


class _Waiting(NamedTuple):
    """A run that waits for the outputs of these calls."""

    script: Script
    call_ids: list[str]


class Upstream:
    """Serves on a free port of 127.0.0.1 from a thread of its own, from __enter__ until close().

    speed: times the pace of script.py; infinity does not pause at all. seed: of the jitter, and of where events are split.
    sent: with `keep`, what was sent: the bodies of each run's streams, by run id, in order.
    """

    def __init__(self, speed: float = 1.0, seed: int = 1, keep: bool = False) -> None:
        self.origin = ""
        self.sent: dict[str, list[bytes]] = {}
        self._speed = speed
        self._pace = random.Random(seed)
        self._keep = keep
        self._waiting: dict[str, _Waiting] = {}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Upstream:
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            lifespan="off",
            interface="asgi3",
            ws="none",
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="demo-upstream", daemon=True)
        self._thread.start()  # the socket listens already: a request that comes before the server is up waits in its backlog
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; streams that are open break off."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _json_body(receive)
        path = scope["path"]
        if scope["method"] != "POST" or not isinstance(body, dict):
            await _refuse(send, 404, f"Invalid URL ({scope['method']} {path})")
        elif body.get("stream") is not True:
            await _refuse(send, 400, "This upstream only streams: send stream: true.")
        elif matched := _RUNS.fullmatch(path):
            await self._start(send, body, matched["thread"])
        elif matched := _OUTPUTS.fullmatch(path):
            await self._go_on(send, body, matched["run"])
        else:
            await _refuse(send, 404, f"Invalid URL ({scope['method']} {path})")

    async def _start(self, send: Send, body: Object, thread_id: str | None) -> None:
        """Create a run, and its thread where the URL names none."""
        assistant = next((one for one in ASSISTANTS.values() if one.id == body.get("assistant_id")), None)
        if assistant is None:
            await _refuse(send, 404, f"No assistant found with id '{body.get('assistant_id')}'.")
            return
        thread = objects.thread() if thread_id is None else {"id": thread_id}
        run = objects.run(
            thread["id"],
            assistant.id,
            body.get("model") or MODEL,
            body.get("instructions") or assistant.instructions,
            body.get("tools") or assistant.tools,
        )
        stream = _Stream(send, self._speed, self._pace)
        await stream.begin()
        if thread_id is None:
            await stream.event(0.1, _encode("thread.created", thread))
        await self._play(stream, assistant.script(run, self._pace), run["id"], None)

    async def _go_on(self, send: Send, body: Object, run_id: str) -> None:
        """Take a run's tool outputs, all at once as the API demands, and let it go on."""
        waiting = self._waiting.get(run_id)
        if waiting is None:
            await _refuse(send, 400, f"Run {run_id} is not in status requires_action.")
            return
        outputs = {entry.get("tool_call_id"): entry.get("output") or "" for entry in body.get("tool_outputs") or ()}
        if sorted(map(str, outputs)) != sorted(waiting.call_ids):
            await _refuse(send, 400, f"Expected tool outputs for call_ids {waiting.call_ids}, got {list(outputs)}")
            return
        del self._waiting[run_id]
        stream = _Stream(send, self._speed, self._pace)
        await stream.begin()
        await self._play(stream, waiting.script, run_id, outputs)

    async def _play(self, stream: _Stream, script: Script, run_id: str, outputs: Outputs | None) -> None:
        """Send what the script says until it waits or ends. What follows CUT breaks off, and the response has no end."""
        try:
            beat = self._next(script, outputs)
            while isinstance(beat, Beat):
                pause, encoded, action = beat.pause, _encode(beat.event, beat.data), beat.data.get("required_action")
                beat = self._next(script, None)
                if beat is AWAIT_OUTPUTS and action:  # before it is sent: who gets it may answer at once
                    calls = action["submit_tool_outputs"]["tool_calls"]
                    self._waiting[run_id] = _Waiting(script, [call["id"] for call in calls])
                await stream.event(pause, encoded)
            if beat is CUT and isinstance(last := self._next(script, None), Beat):
                await stream.half(last.pause, _encode(last.event, last.data))
                await asyncio.sleep(_CUT_SECONDS)
            else:
                await stream.done()
        finally:
            if self._keep:
                self.sent.setdefault(run_id, []).append(b"".join(stream.sent))

    @staticmethod
    def _next(script: Script, outputs: Outputs | None) -> Beat | Mark | None:
        try:
            return next(script) if outputs is None else script.send(outputs)
        except StopIteration:
            return None


class _Stream:
    """An event stream on its way to the client, paced by absolute deadlines."""

    def __init__(self, send: Send, speed: float, pace: random.Random) -> None:
        self.sent: list[bytes] = []
        self._send = send
        self._speed = speed
        self._pace = pace
        self._due = asyncio.get_running_loop().time()

    async def begin(self) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache, must-revalidate",
            "openai-version": "2020-10-01",
            "x-request-id": objects.new_id("req"),
        }
        await self._send({"type": "http.response.start", "status": 200, "headers": _raw(headers)})

    async def event(self, pause: float, encoded: bytes) -> None:
        """Send an event when it is due, now and then in two chunks."""
        await self._wait(pause)
        if self._pace.random() < _SPLIT_SHARE:
            at = self._pace.randrange(1, len(encoded))
            await self._put(encoded[:at])
            await self._wait(_SPLIT_SECONDS)
            encoded = encoded[at:]
        await self._put(encoded)

    async def half(self, pause: float, encoded: bytes) -> None:
        await self._wait(pause)
        await self._put(encoded[: len(encoded) // 2])

    async def done(self) -> None:
        await self._put(b"event: done\ndata: [DONE]\n\n")
        await self._send({"type": "http.response.body", "body": b""})

    async def _put(self, chunk: bytes) -> None:
        self.sent.append(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _wait(self, pause: float) -> None:
        self._due += pause / self._speed
        left = self._due - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)


def _encode(name: str, data: Object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def _json_body(receive: Receive) -> Any:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    try:
        return json.loads(body)
    except ValueError:
        return None


async def _refuse(send: Send, status: int, message: str) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": body})


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
