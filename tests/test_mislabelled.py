"""A stream under another label is recorded and folded as what it is, live, and comes back byte for byte."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from recorder import sse
from recorder.collect.decoding import Closed, Decoding, Response
from recorder.log import Event, wire
from recorder.protocols import Request
from recorder.protocols.fold import StreamFold
from recorder.sse import Frame
from tests.commands import ProxyProcess, answer
from tests.recorded import Recorded
from tests.upstream import Asked, Upstream, Wire

PATH = "/v1/chat/completions"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHUNKS: list[dict[str, Any]] = [
    {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]},
    {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE},
]
WHOLE = {
    **CHUNK,
    "object": "chat.completion",
    "usage": USAGE,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
}
EVENTS = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in CHUNKS) + b"data: [DONE]\n\n"
JSON = json.dumps(WHOLE).encode()
LINES = b"".join(json.dumps(chunk).encode() + b"\n" for chunk in CHUNKS)

BODIES = [
    *((kind, EVENTS) for kind in ("application/json", "text/plain", "application/octet-stream", "", "application/x-ndjson")),
    ("application/json", b"\n  \n" + EVENTS),
    ("text/plain", b"\xef\xbb\xbf" + EVENTS),
    *((kind, JSON) for kind in ("text/event-stream", "", "text/plain")),
    *((kind, b"\n   \n" + JSON) for kind in ("text/event-stream", "application/json", "")),
    ("application/json", b"\xef\xbb\xbf" + JSON),
    ("text/event-stream", JSON + b"\n\ndata: [DONE]\n\n"),
    ("text/event-stream", JSON + b"data: [DONE]\n\n"),
    *((kind, LINES) for kind in ("application/json", "text/plain", "text/event-stream", "application/octet-stream", "")),
]


def frames_of(kind: str, body: bytes, size: int, coding: str = "") -> list[Frame]:
    decoding = Decoding()
    headers = (("content-type", kind),) if kind else ()
    found = decoding.frames(Response(200, headers, kind or None, coding), 0)
    for number, at in enumerate(range(0, len(body), size), 1):
        found += decoding.frames(body[at : at + size], number)
    return found + decoding.frames(Closed("eof", None), len(body) + 1)


def stored(frames: list[Frame]) -> list[Event]:
    return [Event(position, each.offset_us, each.type, each.data, each.raw, each.cuts) for position, each in enumerate(frames)]


def folded(frames: list[Frame]) -> StreamFold:
    fold = StreamFold(Request("POST", "h", PATH, "", {"model": "m"}, "id"))
    for position, frame in enumerate(frames):
        fold.feed(position, frame.offset_us, frame.type, frame.data)
    return fold


def says(fold: StreamFold) -> str:
    return json.dumps(fold.states()).replace(" ", "").replace("\\", "")


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(("kind", "body"), BODIES)
def test_it_is_folded_and_comes_back_chunk_for_chunk(kind: str, body: bytes, size: int) -> None:
    frames = frames_of(kind, body, size)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert [piece for _, piece in sse.chunks(wire(stored(frames)))] == pieces
    assert '"total_tokens":7' in says(folded(frames))
    assert "$gap" not in [frame.type for frame in frames]


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", ""])
def test_it_is_told_of_what_is_decoded(kind: str) -> None:
    frames = frames_of(kind, gzip.compress(EVENTS), 20, "gzip")
    assert [frame.type for frame in frames] == ["$response", "", "", "", "$end"]


@pytest.mark.parametrize("cut", [1, 50, 100_000])
def test_events_that_were_recorded_as_a_body_are_folded_from_it(cut: int) -> None:
    """As recorders did that went by the content type: a rebuild is enough."""
    pieces = [EVENTS[at : at + cut] for at in range(0, len(EVENTS), cut)]
    body = [Frame("$body", piece.decode(), None, number) for number, piece in enumerate(pieces)]
    head = Frame("$response", json.dumps({"status": 200, "headers": [["content-type", "text/plain"]]}))
    assert '"total_tokens":7' in says(folded([head, *body, Frame("$end", '{"outcome":"done"}')])).replace(" ", "").replace(
        "\\", ""
    )


def test_json_that_was_recorded_as_the_tail_of_a_stream_is_folded_from_it() -> None:
    head = Frame("$response", json.dumps({"status": 200, "headers": []}))
    found = folded([head, Frame("$tail", JSON.decode()), Frame("$end", '{"outcome":"eof"}')])
    assert '"total_tokens":7' in says(found)


def test_events_under_another_label_are_there_as_they_come(tmp_path: Path) -> None:
    def answered(wire: Wire, asked: Asked) -> None:
        wire.begin([("Content-Type", "application/json")])
        for event in EVENTS.split(b"\n\n")[:-1]:
            wire.chunk(event + b"\n\n")
        wire.end()

    with Upstream() as upstream, ProxyProcess(upstream.origin, db=tmp_path / "log.db") as proxy:
        upstream.on(PATH, answered)
        received = httpx.post(f"http://{proxy.host}:{proxy.port}{PATH}", json={"model": "m", "stream": True}, trust_env=False)
        assert received.content == EVENTS
        assert proxy.stop() == 0
    recorded = Recorded(tmp_path / "log.db")
    (stream,) = recorded.streams(PATH)
    assert recorded.body(stream.stream_id) == EVENTS
    (run,) = answer("usage", db=tmp_path / "log.db")
    assert run["total_tokens"] == 7
