"""Exchanges that the tests record themselves: a request, and its response chunk by chunk with its times.

Both go through what the recorder itself uses (redaction, decoders, outcome), so that they are as it would have kept them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import sqlalchemy as sa

from recorder import database, log
from recorder.collect import exchange
from recorder.collect.decoding import Decoding, Response, Whole
from recorder.log import Stream
from recorder.projections import runner
from recorder.sse import Frame
from tests import writing

MS = 1000
SECOND = 1000 * MS
SSE = ("content-type", "text/event-stream")
JSON = ("content-type", "application/json")

Chunks = Iterable[tuple[int, bytes]]
"""(µs since the request, bytes)"""


def response(
    chunks: Chunks = (),
    *,
    status: int | None = 200,
    headers: Iterable[tuple[str, str]] = (SSE,),
    decoded: str | None = None,
    head_us: int = 0,
    end_us: int | None = None,
    closed: str | None = "eof",
    detail: str | None = None,
) -> list[Frame]:
    """The frames of a response. status None: none came; closed None: the recording breaks off before any end.

    end_us: when it ended, by default with its last chunk. decoded: the content coding that was taken off for the log.
    """
    decoding = Decoding()
    frames: list[Frame] = []
    last_us = head_us
    if status is not None:
        kept = tuple(headers)
        content_type = next((value for name, value in kept if name == "content-type"), None)
        frames += decoding.frames(Response(status, kept, content_type, None), head_us)
        if decoded:
            said = {"status": status, "headers": kept, "decoded": decoded}
            frames = [log.system_frame("$response", said, head_us)]
        for last_us, chunk in chunks:
            frames += decoding.frames(chunk, last_us)
        frames += decoding.frames(Whole(), last_us)
    if closed is not None:
        end = {
            "outcome": decoding.ending.of_connection(closed, status),
            "closed": closed,
            **({"detail": detail} if detail else {}),
        }
        frames.append(log.system_frame("$end", end, last_us if end_us is None else end_us))
    return frames


def json_response(body: bytes, status: int = 200, *headers: tuple[str, str]) -> list[Frame]:
    """The frames of a JSON response with its length, all in one chunk."""
    return response([(0, body)], status=status, headers=[JSON, ("content-length", str(len(body))), *headers])


def cut(body: bytes, at: Iterable[int]) -> list[bytes]:
    """The pieces of a body that is cut at these bytes, none of them empty."""
    ends = sorted({0, len(body), *(byte for byte in at if byte < len(body))})
    return [body[start:end] for start, end in pairwise(ends)]


def asking(
    number: int,
    method: str,
    target: str,
    body: bytes = b"",
    label: str | None = None,
    content_type: str | None = "application/json",
) -> Stream:
    """The row of the stream of this number, which sent this request."""
    path, _, query = target.partition("?")
    headers = [("content-type", content_type)] if content_type else []
    row, _ = exchange.begun(method, "api.example.com", path, query, headers, body or None, source="test", label=label)
    at = writing.stream(number).started_at
    return row._replace(stream_id=writing.stream_id(number), started_at=at, recorded_at=at)


def record(engine: sa.Engine, recorded: Iterable[tuple[Stream, list[Frame]]]) -> list[str]:
    """Append exchanges, and project them; their stream ids."""
    found = list(recorded)
    with database.write(engine) as connection:
        log.insert_streams(connection, [stream for stream, _ in found])
        rows = {
            stream.stream_id: [log.row(stream.stream_id, position, frame) for position, frame in enumerate(frames)]
            for stream, frames in found
        }
        log.append(connection, rows)
    runner.catch_up(engine)
    return list(rows)
