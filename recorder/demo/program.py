"""A program that uses the API: it asks an assistant, runs the functions that the model calls, and reads the answer.

It knows nothing of a recorder but the base URL. What it receives it also keeps, byte for byte with the time of each chunk, so
that the recording can be held against it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from recorder.demo.sessions import question

KEY = "sk-demo-0n3-k3y-th4t-n0-l0g-may-h0ld"
"""The API key that programs send. The upstream asks for none."""

_TIMEOUT_SECONDS = 30
_WORK_SECONDS = 0.4  # that the functions take

FUNCTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "stock_level": lambda arguments: {"article": arguments["article"], "available": 17},
    "delivery_days": lambda arguments: {"postcode": arguments["postcode"], "working_days": 3},
}


@dataclass
class Exchange:
    """A response as it was received: (seconds by time.perf_counter, bytes) of each chunk."""

    path: str
    chunks: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)


@dataclass
class Conversation:
    """What became of a question. outputs: of the functions, by call id. error: how its connection broke, where it did."""

    exchanges: list[Exchange] = field(default_factory=list)
    run_id: str = ""
    thread_id: str = ""
    answer: str = ""
    status: str = ""
    usage: dict[str, int] | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    error: str | None = None


def converse(origin: str, name: str, speed: float = 1.0) -> Conversation:
    """Have one of the sessions, through to its answer or its failure."""
    conversation = Conversation()
    headers = {"Authorization": f"Bearer {KEY}", "OpenAI-Beta": "assistants=v2", "X-Recorder-Session": name}
    transport = _Listening(conversation.exchanges)
    with httpx.Client(base_url=origin, headers=headers, transport=transport, timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
        path = "/v1/threads/runs"
        body: dict[str, Any] | None = question(name)
        try:
            while body is not None:
                calls = _read(client, path, body, conversation)
                path = f"/v1/threads/{conversation.thread_id}/runs/{conversation.run_id}/submit_tool_outputs"
                body = _submission(calls, conversation, speed) if calls else None
        except httpx.HTTPError as error:
            conversation.error = str(error) or type(error).__name__
    return conversation


def _read(client: httpx.Client, path: str, body: dict[str, Any], conversation: Conversation) -> list[dict[str, Any]]:
    """Read one stream to its end; the tool calls that the run waits for."""
    calls: list[dict[str, Any]] = []
    with connect_sse(client, "POST", path, json=body) as source:
        source.response.raise_for_status()
        for event in source.iter_sse():
            if event.event != "done":
                calls = _hear(event, conversation) or calls
    return calls


def _hear(event: ServerSentEvent, conversation: Conversation) -> list[dict[str, Any]]:
    data = json.loads(event.data)
    if data["object"] == "thread.run":
        conversation.run_id, conversation.thread_id = data["id"], data["thread_id"]
        conversation.status, conversation.usage = data["status"], data["usage"]
        if data["required_action"]:
            return list(data["required_action"]["submit_tool_outputs"]["tool_calls"])
    elif data["object"] == "thread.message.delta":
        conversation.answer += "".join(part["text"]["value"] for part in data["delta"]["content"])
    return []


def _submission(calls: list[dict[str, Any]], conversation: Conversation, speed: float) -> dict[str, Any]:
    """Run the functions; the body that submits what they return."""
    time.sleep(_WORK_SECONDS / speed)
    for call in calls:
        function = call["function"]
        conversation.outputs[call["id"]] = json.dumps(FUNCTIONS[function["name"]](json.loads(function["arguments"])))
    outputs = [{"tool_call_id": call["id"], "output": conversation.outputs[call["id"]]} for call in calls]
    return {"tool_outputs": outputs, "stream": True}


class _Listening(httpx.HTTPTransport):
    """A transport that keeps what passes through it."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        super().__init__()
        self._exchanges = exchanges

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        exchange = Exchange(request.url.path)
        self._exchanges.append(exchange)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Kept(response.stream, exchange)
        return response


class _Kept(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._exchange.chunks.append((time.perf_counter(), chunk))
            yield chunk

    def close(self) -> None:
        self._stream.close()
