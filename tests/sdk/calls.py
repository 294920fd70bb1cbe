"""What the SDKs are asked to do, and how the upstream answers: the shared streams, each through all calls that can fetch it.

A shared stream's own request decides the call: the end of its path says which, the rest of the path is the base URL, and what
the call has no parameter for goes along as extra body or query. Some answers of our own are there for how things go wrong.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from tests.conftest import SHARED
from tests.upstream import SSE, Asked, Upstream, Wire

FOLDER = SHARED / "streams"

NAME_HEADER = "X-Stream"
"""The request header by which the upstream knows which stream is meant: many have the same path."""

JSON = ("Content-Type", "application/json")

STAND_INS: dict[str, tuple[str, str, Any]] = {
    "assistants-runs-list-": ("GET", "/v1/threads/thread_1/runs", None),
    "assistants-steps-list-": ("GET", "/v1/threads/thread_1/runs/run_1/steps", None),
    "assistants-": ("POST", "/v1/threads/runs", {"assistant_id": "{name}", "stream": True}),
    "chat-": ("POST", "/v1/chat/completions", {"model": "{name}", "messages": [], "stream": True}),
    "responses-": ("POST", "/v1/responses", {"model": "{name}", "input": "Hello", "stream": True}),
}
"""By the first part of its name, the request of a stream that was found without one."""

CALLS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "POST",
        r"/threads/(?P<thread_id>\w+)/runs/(?P<run_id>\w+)/submit_tool_outputs",
        ("beta.threads.runs.submit_tool_outputs_stream", "beta.threads.runs.submit_tool_outputs"),
    ),
    ("POST", r"/threads/(?P<thread_id>\w+)/runs/(?P<run_id>\w+)/cancel", ("beta.threads.runs.cancel",)),
    ("GET", r"/threads/(?P<thread_id>\w+)/runs/(?P<run_id>\w+)/steps/(?P<step_id>\w+)", ("beta.threads.runs.steps.retrieve",)),
    ("GET", r"/threads/(?P<thread_id>\w+)/runs/(?P<run_id>\w+)/steps", ("beta.threads.runs.steps.list",)),
    ("POST", r"/threads/(?P<thread_id>\w+)/runs", ("beta.threads.runs.stream", "beta.threads.runs.create")),
    ("POST", r"/threads/runs", ("beta.threads.create_and_run_stream", "beta.threads.create_and_run")),
    ("GET", r"/threads/(?P<thread_id>\w+)/runs/(?P<run_id>\w+)", ("beta.threads.runs.retrieve",)),
    ("GET", r"/threads/(?P<thread_id>\w+)/runs", ("beta.threads.runs.list",)),
    ("POST", r"/chat/completions", ("chat.completions.create",)),
    ("GET", r"/responses/(?P<response_id>\w+)", ("responses.retrieve",)),
    ("POST", r"/responses", ("responses.create",)),
    ("POST", r"/chat", ("post",)),  # Writer's own path: the SDK has no method for it but the one for any path
)
"""(HTTP method, end of the path, the SDK's calls by their Python names). Those that end in `stream` are its helpers."""

LEFT_OUT: dict[str, str] = {
    ".events.jsonl": "payloads whose framing is gone: there are no bytes that an upstream could send",
}
"""By the end of its name, what no SDK is given, and why."""


RUNGS = {"user": "volatile", "model": "path"}
"""What is another each time → the rung on which the request is found then."""


class Call(NamedTuple):
    """A call of the SDK. base: the path of its base URL. ids: what the path names. body, query: as the request has them.

    retries: how often the SDK may ask again. changing: what of its body is another each time, as a key of RUNGS.
    """

    name: str
    sdk: str
    base: str
    path: str
    ids: dict[str, str]
    query: dict[str, Any]
    body: dict[str, Any] | None
    retries: int = 0
    changing: str = ""

    @property
    def id(self) -> str:
        return f"{self.name} by {self.sdk}"

    def on(self, way: str) -> Call:
        """The call as it is made on a way."""
        return self._replace(body={**(self.body or {}), self.changing: way}) if self.changing else self


class Own(NamedTuple):
    """An answer of our own. breaks: after its bytes the connection does. refused: the body of an answer that comes first."""

    request: tuple[str, str, Any]
    body: bytes
    status: int = 200
    header: tuple[str, str] = SSE
    breaks: bool = False
    refused: bytes | None = None
    refused_with: int = 429


def _chat(user: str, base: str = "") -> tuple[str, str, Any]:
    asked = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "Gruß"}], "stream": True}
    return "POST", f"{base}/v1/chat/completions", {**asked, "user": user}


def _run(assistant: str) -> tuple[str, str, Any]:
    return "POST", "/v1/threads/thread_1/runs", {"assistant_id": assistant, "stream": True}


def _error(message: str, code: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}).encode()


_CHUNK = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Grüße 💡"}}]}\n\n'
_QUEUED = 'event: thread.run.queued\ndata: {"id":"run_1","object":"thread.run","thread_id":"thread_1","status":"queued"}\n\n'
_COMPLETED = _QUEUED.replace("queued", "completed")
_DONE = "data: [DONE]\n\n"
_BUSY = _error("Slow down: 1 µs too early.", "rate_limit_exceeded")

OWN: dict[str, Own] = {
    "own-chat-broken-off": Own(_chat("broken"), f"{_CHUNK}{_CHUNK[:-2]}".encode(), breaks=True),
    "own-run-broken-off": Own(_run("broken"), f"{_QUEUED}{_QUEUED[:30]}".encode(), breaks=True),
    "own-run-refused": Own(_run("refused"), _error("Gone: use Résponses.", "gone"), status=404, header=JSON),
    "own-chat-retried": Own(_chat("retried"), f"{_CHUNK}{_DONE}".encode(), refused=_BUSY),
    "own-chat-told-to-retry": Own(_chat("told"), f"{_CHUNK}{_DONE}".encode(), refused=_BUSY, refused_with=400),
    "own-run-retried": Own(_run("retried"), f"{_COMPLETED}event: done\n{_DONE}".encode(), refused=_BUSY),
    **{f"own-turn-{n}": Own(_chat("", "/turns"), f"{_CHUNK}{_CHUNK.replace('Grüße', str(n))}{_DONE}".encode()) for n in range(8)},
}


def names() -> list[str]:
    """All that the upstream can send: the shared streams and bodies, and our own."""
    found = FOLDER.iterdir() if FOLDER.is_dir() else ()
    bodies = sorted(path.name for path in found if path.suffix in (".sse", ".json") and not path.name.endswith(".request.json"))
    return bodies + list(OWN)


def left_out() -> dict[str, str]:
    """What of the shared streams no SDK is given, and why."""
    found = sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []
    return {name: why for name in found for end, why in LEFT_OUT.items() if name.endswith(end)}


def calls() -> list[Call]:
    return [call for name in names() for call in _calls(name)]


def _calls(name: str) -> Iterator[Call]:
    method, target, body = _request(name)
    path, _, query = target.partition("?")
    for calls_method, tail, sdk_calls in CALLS:
        matched = re.fullmatch(f"(?P<base>.*?){tail}", path)
        if matched and calls_method == method:
            ids = matched.groupdict()
            base = ids.pop("base")
            retries = 2 if name in OWN and OWN[name].refused else 0
            for sdk in sdk_calls:
                yield Call(name, sdk, base, path, ids, _query(query), body, retries, _changing(name))
            return
    raise AssertionError(f"{name}: no call of the SDK makes {method} {path}")


def _changing(name: str) -> str:
    return list(RUNGS)[int(name[-1]) % 2] if name.startswith("own-turn") else ""


def _request(name: str) -> tuple[str, str, Any]:
    """Method, target and body of the request that a stream answers."""
    if name in OWN:
        return OWN[name].request
    file = FOLDER / f"{name.rpartition('.')[0]}.request.json"
    if file.exists():
        said = json.loads(file.read_text())
        return said["method"], re.sub(r"^<(\w+)>", r"/\1", said["path"]), said["body"]
    method, path, body = next(request for start, request in STAND_INS.items() if name.startswith(start))
    return method, path, body and {key: name if value == "{name}" else value for key, value in body.items()}


def _query(query: str) -> dict[str, Any]:
    """The parameters of a query; those whose name ends in [] are lists."""
    found: dict[str, Any] = {}
    for key, value in parse_qsl(query):
        if key.endswith("[]"):
            found.setdefault(key.removesuffix("[]"), []).append(value)
        else:
            found[key] = value == "true" if value in ("true", "false") else value
    return found


def sent(name: str) -> bytes:
    """The body that the upstream sends."""
    return OWN[name].body if name in OWN else (FOLDER / name).read_bytes()


def pieces(name: str) -> list[bytes]:
    """A body cut at varied places, the same in every run: events in halves, many in one piece, and characters cut in two."""
    body, draw = sent(name), random.Random(name)
    cuts = {at for at in range(1, len(body)) if body[at] & 0xC0 == 0x80 and draw.random() < 0.3}
    at = 0
    while (at := at + draw.choice((1, 9, 80, 400, 2500))) < len(body):
        cuts.add(at)
    places = [0, *sorted(cuts), len(body)]
    return [body[start:end] for start, end in pairwise(places)]


def bodies(call: Call) -> list[bytes]:
    """All that the upstream sends for a call, answer by answer."""
    refused = OWN[call.name].refused if call.name in OWN else None
    return [*filter(None, [refused]), sent(call.name)]


def answer(wire: Wire, asked: Asked) -> None:
    """How the upstream answers every request."""
    name = asked.header(NAME_HEADER)[0]
    own = OWN.get(name)
    said = ("X-Request-Id", f"req_{name}")
    if own and own.refused and asked.header("x-stainless-retry-count") == ["0"]:
        wire.whole(own.refused, [JSON, said, ("Retry-After-Ms", "1"), ("X-Should-Retry", "true")], own.refused_with)
        return
    header = own.header if own else JSON if name.endswith(".json") else SSE
    wire.begin([header, said], own.status if own else 200)
    for piece in pieces(name):
        wire.chunk(piece)
    if own and own.breaks:
        wire.cut()
    else:
        wire.end()


def answering(upstream: Upstream) -> Upstream:
    """An upstream that answers all of calls()."""
    for call in calls():
        upstream.on(call.path, answer)
    return upstream
