"""The decoder against the standard's vectors, against any bytes cut anywhere, and against httpx-sse."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import httpx
import httpx_sse
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recorder import sse
from recorder.sse import Frame, SSEDecoder
from tests.conftest import SHARED, SHARED_ABSENT

VECTORS = SHARED / "reference" / "sse_vectors.json"

ABSENT = pytest.mark.skipif(not VECTORS.exists(), reason=SHARED_ABSENT)


class Vector(NamedTuple):
    """One vector: bytes in, events out."""

    name: str
    body: bytes
    content_type: str
    events: list[tuple[str, str, str, int | None]]
    last_event_id: str
    reconnection_time: int | None
    chunk_lengths: list[int]
    events_after_each_chunk: list[int]


def vector(entry: dict[str, Any]) -> Vector:
    parts = entry.get("input_parts") or [{"base64": entry["input_base64"], "times": 1}]
    return Vector(
        entry["name"],
        b"".join(base64.b64decode(part["base64"]) * part["times"] for part in parts),
        entry.get("content_type", "text/event-stream"),
        [(event["event"], data_of(event), event["id"], event["retry"]) for event in entry["expected"]],
        entry["final_last_event_id"],
        entry["final_reconnection_time"],
        entry.get("chunk_lengths", []),
        entry.get("events_after_each_chunk", []),
    )


def data_of(event: dict[str, Any]) -> str:
    if "data" in event:
        return str(event["data"])
    return "".join(part["text"] * part["times"] for part in event["data_parts"])


ALL = [vector(entry) for entry in json.loads(VECTORS.read_bytes())] if VECTORS.exists() else []
EVERY_VECTOR = [pytest.param(found, id=found.name) for found in ALL] or [pytest.param(None, id="absent", marks=ABSENT)]


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def decoded(chunks: Iterable[bytes], decoder: SSEDecoder | None = None, step_us: int = 10) -> list[Frame]:
    """The frames of a stream whose chunks arrive step_us apart, the first at step_us."""
    decoder = decoder or SSEDecoder()
    frames = [frame for number, chunk in enumerate(chunks, 1) for frame in decoder.feed(chunk, number * step_us)]
    return frames + decoder.finish()


def wire(frame: Frame) -> bytes:
    return sse.encode(frame.type, frame.data) if frame.raw is None else frame.raw


def dispatched(frames: Iterable[Frame]) -> list[tuple[str, str, str, int | None]]:
    """The events among frames, as a client has them."""
    return [
        (sse.wire_name(frame.type) or "message", frame.data, frame.id, frame.retry)
        for frame in frames
        if not sse.is_system(frame.type)
    ]


def content(frames: Iterable[Frame]) -> list[tuple[str, str, bytes | None, str, int | None]]:
    """What must not depend on how the bytes were cut."""
    return [(frame.type, frame.data, frame.raw, frame.id, frame.retry) for frame in frames]


# The vectors.


@ABSENT
def test_all_144_vectors_are_here() -> None:
    assert len(ALL) == 144
    assert len({found.name for found in ALL}) == 144


@pytest.mark.parametrize("size", [pytest.param(0, id="whole"), 1, 2, 3, 7])
@pytest.mark.parametrize("vector", EVERY_VECTOR)
def test_a_vector_gives_its_events_and_its_bytes_however_it_is_cut(vector: Vector, size: int) -> None:
    decoder = SSEDecoder()
    frames = decoded(pieces(vector.body, size or len(vector.body) or 1), decoder)
    assert dispatched(frames) == vector.events
    assert decoder.last_event_id == vector.last_event_id
    assert decoder.reconnection_time == vector.reconnection_time
    assert b"".join(map(wire, frames)) == vector.body


@pytest.mark.parametrize(
    "vector", [pytest.param(found, id=found.name) for found in ALL if found.chunk_lengths] or [pytest.param(None, marks=ABSENT)]
)
def test_an_event_is_there_with_the_chunk_that_completes_its_blank_line(vector: Vector) -> None:
    decoder = SSEDecoder()
    frames: list[Frame] = []
    counts = []
    at = 0
    for number, length in enumerate(vector.chunk_lengths, 1):
        frames += decoder.feed(vector.body[at : at + length], number)
        at += length
        counts.append(len(dispatched(frames)))
    assert at == len(vector.body)
    assert counts == vector.events_after_each_chunk
    frames += decoder.finish()
    assert dispatched(frames) == vector.events
    assert b"".join(map(wire, frames)) == vector.body


# Any bytes, cut anywhere.

TOKENS = (
    *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b":", b" ", b": ", b"$"),
    *(b"data", b"data: x\n\n", b"data: ", b"event", b"event: e\n", b"event: $e\ndata: x\n\n", b"id", b"id: 1\n", b"retry: 5\n"),
    *(b": c\n\n", b": ", b"[DONE]", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\0", b"\xff", b"\xc3", b"\xe2\x80\xa8", "é€𝄞".encode()),
)

BODIES = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=24).map(b"".join)


@st.composite
def cut_bodies(draw: st.DrawFn, bodies: st.SearchStrategy[bytes] = BODIES) -> tuple[bytes, list[bytes]]:
    """(body, its chunks, none of them empty)."""
    body = draw(bodies)
    if draw(st.booleans()):
        ends = list(range(1, len(body)))
    else:
        ends = sorted(draw(st.sets(st.integers(1, max(len(body) - 1, 1)), max_size=8)))
    edges = [0, *(end for end in ends if end < len(body)), len(body)]
    return body, [body[start:end] for start, end in pairwise(edges) if start < end]


@given(cut_bodies())
@example((b"\xef\xbb\xbfdata: x\n\n", [b"\xef", b"\xbb", b"\xbfdata: x\n\n"]))
@example((b"data: x\r\n\r\n", [b"data: x\r\n\r", b"\n"]))
def test_any_bytes_come_back_in_their_chunks_and_give_the_same_frames_however_cut(
    cut: tuple[bytes, list[bytes]],
) -> None:
    body, chunks = cut
    frames = decoded(chunks)
    assert b"".join(map(wire, frames)) == body
    assert list(sse.chunks((wire(frame), frame.offset_us, frame.cuts) for frame in frames)) == [
        (number * 10, chunk) for number, chunk in enumerate(chunks, 1)
    ]
    assert content(frames) == content(decoded([body]))


@given(cut_bodies(), st.data())
def test_chunks_that_share_an_offset_come_back_as_one(cut: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    _, chunks = cut
    decoder = SSEDecoder()
    frames: list[Frame] = []
    expected: list[tuple[int, bytes]] = []
    at = 0
    for chunk in chunks:
        at += data.draw(st.integers(0, 1))
        frames += decoder.feed(chunk, at)
        if expected and expected[-1][0] == at:
            expected[-1] = (at, expected[-1][1] + chunk)
        else:
            expected.append((at, chunk))
    frames += decoder.finish()
    assert list(sse.chunks((wire(frame), frame.offset_us, frame.cuts) for frame in frames)) == expected


@given(cut_bodies(), st.integers(0, 30))
def test_an_empty_chunk_changes_nothing(cut: tuple[bytes, list[bytes]], place: int) -> None:
    _, chunks = cut
    place = min(place, len(chunks))
    stamped = [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]
    with_empty = [*stamped[:place], (place * 10 + 5, b""), *stamped[place:]]

    def frames_of(given: list[tuple[int, bytes]]) -> list[Frame]:
        decoder = SSEDecoder()
        return [frame for offset_us, chunk in given for frame in decoder.feed(chunk, offset_us)] + decoder.finish()

    assert frames_of(with_empty) == frames_of(stamped)


@given(cut_bodies())
def test_a_frame_arrives_with_the_chunk_that_completes_it(cut: tuple[bytes, list[bytes]]) -> None:
    """offset_us is that chunk's, not an earlier or later one's; what finish() gives arrived with the last chunk."""
    _, chunks = cut
    decoder = SSEDecoder()
    for number, chunk in enumerate(chunks, 1):
        assert {frame.offset_us for frame in decoder.feed(chunk, number * 10)} <= {number * 10}
    assert {frame.offset_us for frame in decoder.finish()} <= {len(chunks) * 10}


@given(BODIES)
@example(b"event: a\0b\ndata: x\n\n")
def test_raw_is_kept_exactly_where_type_and_data_do_not_give_the_bytes(body: bytes) -> None:
    for frame in decoded([body]):
        if frame.raw is None:
            assert "\0" not in frame.type + frame.data
        else:
            exact = "\0" not in frame.type + frame.data and frame.raw.decode("utf-8", "replace").encode() == frame.raw
            assert not exact or sse.encode(frame.type, frame.data) != frame.raw


@given(BODIES)
def test_parse_gives_type_and_data_of_an_event_from_its_raw_bytes(body: bytes) -> None:
    for frame in decoded([body]):
        if frame.raw is not None and not sse.is_system(frame.type):
            assert sse.parse(frame.raw) == (frame.type, frame.data)


@pytest.mark.parametrize("name", ["$", "$end", "$$", "$$end", "$response"])
def test_a_wire_name_with_a_dollar_gets_a_second_one_and_loses_it_again(name: str) -> None:
    body = f"event: {name}\ndata: x\n\n".encode()
    (frame,) = decoded([body])
    assert frame.type == "$" + name
    assert frame.raw is None
    assert not sse.is_system(frame.type)
    assert sse.wire_name(frame.type) == name
    assert sse.encode(frame.type, frame.data) == body
    assert decoded([body.replace(b"\n", b"\r\n")])[0].type == "$" + name


@pytest.mark.parametrize(
    ("body", "types"),
    [
        (b": ping\n\n", ["$comment"]),
        (b": a\n: b\n\n", ["$comment"]),
        (b": a\nid: 1\n\n", ["$block"]),
        (b"id: 1\n\n", ["$block"]),
        (b"\n", ["$block"]),
        (b"\xef\xbb\xbf", ["$block"]),
        (b"\xef\xbb\xbfdata: x\n\n", ["$block", ""]),
        (b"data: x\r\n\r\n", ["", "$block"]),
        (b"data: x\n", ["$tail"]),
        (b"data: x\n\nda", ["", "$tail"]),
        (b"", []),
    ],
)
def test_what_dispatches_no_event_is_kept_as_a_system_frame(body: bytes, types: list[str]) -> None:
    assert [frame.type for frame in decoded([body])] == types


# Blocks over the limit.

LONG = st.lists(
    st.sampled_from(TOKENS) | st.binary(max_size=3) | st.integers(1, 200).map(lambda times: b"data: " + b"x" * times + b"\n\n"),
    max_size=12,
).map(b"".join)


@given(cut_bodies(LONG), st.integers(16, 64))
@example((b"data: " + b"x" * 40 + b"\n\ndata: y\n\n", [b"data: " + b"x" * 40 + b"\n", b"\ndata: y\n\n"]), 16)
def test_over_the_limit_bytes_and_chunks_still_come_back(cut: tuple[bytes, list[bytes]], limit: int) -> None:
    body, chunks = cut
    frames = decoded(chunks, SSEDecoder(limit))
    assert b"".join(map(wire, frames)) == body
    assert list(sse.chunks((wire(frame), frame.offset_us, frame.cuts) for frame in frames)) == [
        (number * 10, chunk) for number, chunk in enumerate(chunks, 1)
    ]
    assert all(len(wire(frame)) <= limit for frame in frames if frame.type == "$piece")


@given(cut_bodies(LONG), st.integers(16, 64))
def test_over_the_limit_frames_do_not_depend_on_the_cutting(cut: tuple[bytes, list[bytes]], limit: int) -> None:
    """The chunks share one offset here: ends of chunks are not kept then, whose memory counts against the limit too."""
    body, chunks = cut
    cut_frames = decoded(chunks, SSEDecoder(limit), step_us=0)
    assert content(cut_frames) == content(decoded([body], SSEDecoder(limit)))
    assert b"".join(map(wire, cut_frames)) == body


@given(cut_bodies(LONG))
def test_a_limit_leaves_alone_what_is_below_it(cut: tuple[bytes, list[bytes]]) -> None:
    body, chunks = cut
    assert content(decoded(chunks, SSEDecoder(limit=1_000_000))) == content(decoded([body]))


@pytest.mark.parametrize("size", [0, 1, 5, 16, 17])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"])
def test_the_stream_goes_on_after_an_oversized_block(size: int, end: bytes) -> None:
    long = b"event: long\ndata: " + b"x" * 90 + end
    body = b"data: before" + end + long + b"id: 7\ndata: after" + end
    frames = decoded(pieces(body, size or len(body)), SSEDecoder(limit=32), step_us=0)
    assert [(type, data) for type, data, _, _ in dispatched(frames)] == [("message", "before"), ("message", "after")]
    oversized = b"".join(wire(frame) for frame in frames if frame.type == "$piece")
    assert oversized.lstrip(b"\n") == long.removesuffix(b"\n") + (b"\n" if long.endswith(b"\n\n") else b"")
    assert b"".join(map(wire, frames)) == body


# Memory and time.


def test_an_endless_line_stays_below_the_limit_and_a_piece() -> None:
    decoder = SSEDecoder(limit=64 * 1024)
    chunk = b"x" * 1000
    decoder.feed(b"data: ")
    tracemalloc.start()
    try:
        for number in range(8_000):
            for frame in decoder.feed(chunk, number // 100):
                assert frame.type == "$piece"
            assert len(decoder._buffer) <= 2 * 64 * 1024
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # of 8 MB that went through


def test_an_endless_line_in_single_bytes_does_not_grow_either() -> None:
    """Each chunk end is kept with its time, which costs more than its byte, until the bytes leave as a piece."""

    def peak(chunks: int) -> int:
        decoder = SSEDecoder(limit=4096)
        tracemalloc.start()
        try:
            for number in range(chunks):
                decoder.feed(b"x", number)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(30_000) < 1.2 * peak(10_000)


def test_no_byte_of_an_unfinished_block_is_searched_again() -> None:
    """Where the search for the block's end goes on is at the buffer's end, so a chunk costs its own length."""
    decoder = SSEDecoder()
    for number in range(3000):
        assert decoder.feed(b"data: and a line\n", number) == []
        assert decoder._scan >= len(decoder._buffer) - 2
    (frame,) = decoder.feed(b"\n", 3000)
    assert frame.data == "\n".join(["and a line"] * 3000)
    assert frame.cuts is not None
    assert len(frame.cuts) == 3000


# httpx-sse, where it departs from the rules and where not.

DEPARTURES = {
    "bom": "a BOM at the start is not stripped",
    "phantom": "a phantom event at each blank line once an id was seen",
    "no_data": "a block without data is dispatched",
    "retry": "retry takes what int() takes, not digits alone",
    "charset": "the charset parameter is obeyed",
}


def by_the_rules(body: bytes, content_type: str, departures: Iterable[str] = ()) -> list[tuple[str, str, str, int | None]]:
    """The events of a whole stream, read off WHATWG HTML 9.2.6, but for the named departures."""
    charset = httpx.Response(200, headers={"content-type": content_type}).charset_encoding if "charset" in departures else None
    text = body.decode(charset or "utf-8", "replace")
    if "bom" not in departures:
        text = text.removeprefix("\ufeff")
    events = []
    type, data, last_event_id, retry = "", [], "", None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line in lines[:-1]:  # a last line without its end is not complete
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            phantom = "phantom" in departures and last_event_id and not (type or data or retry is not None)
            no_data = "no_data" in departures and (type or retry is not None or (last_event_id and "phantom" in departures))
            if data or phantom or no_data:
                events.append((type or "message", "\n".join(data), last_event_id, retry))
            type, data, retry = "", [], None
        elif name == "data":
            data.append(value)
        elif name == "event":
            type = value
        elif name == "id" and "\0" not in value:
            last_event_id = value
        elif name == "retry":
            if "retry" in departures:
                retry = lenient(value, retry)
            elif value.isascii() and value.isdigit():
                retry = int(value)
    return events


def lenient(value: str, before: int | None) -> int | None:
    try:
        return int(value)
    except ValueError:
        return before


def by_httpx_sse(chunks: Iterable[bytes], content_type: str) -> list[tuple[str, str, str, int | None]]:
    response = httpx.Response(200, headers={"content-type": content_type}, content=iter(list(chunks)))
    return [(event.event, event.data, event.id, event.retry) for event in httpx_sse.EventSource(response).iter_sse()]


@pytest.mark.parametrize("vector", EVERY_VECTOR)
def test_httpx_sse_differs_by_the_named_departures_and_nothing_else(vector: Vector) -> None:
    assert by_the_rules(vector.body, vector.content_type) == vector.events
    theirs = by_httpx_sse([vector.body], vector.content_type)
    assert theirs == by_the_rules(vector.body, vector.content_type, DEPARTURES)
    assert by_httpx_sse(pieces(vector.body, 1000), vector.content_type) == theirs


@ABSENT
@pytest.mark.parametrize("departure", DEPARTURES)
def test_each_departure_of_httpx_sse_is_seen(departure: str) -> None:
    """Without this one, the other four do not explain what httpx-sse gives for the vectors."""
    others = set(DEPARTURES) - {departure}
    unexplained = [
        found.name
        for found in ALL
        if by_httpx_sse([found.body], found.content_type) != by_the_rules(found.body, found.content_type, others)
    ]
    assert unexplained


@given(BODIES)
def test_on_any_bytes_the_decoder_follows_the_rules_and_httpx_sse_departs_only_as_named(body: bytes) -> None:
    assert dispatched(decoded([body])) == by_the_rules(body, "text/event-stream")
    assert by_httpx_sse([body] if body else [], "text/event-stream") == by_the_rules(body, "text/event-stream", DEPARTURES)


def test_httpx_sse_holds_back_an_event_that_ends_in_cr_and_the_decoder_does_not() -> None:
    chunks = [b"data: a\r\r", b"data: b\r\r", b""]

    def counted(read: Callable[[Iterator[bytes]], Iterator[object]]) -> list[int]:
        """How many events were there each time that the next chunk was asked for."""
        counts: list[int] = []
        events = 0

        def source() -> Iterator[bytes]:
            for chunk in chunks:
                counts.append(events)
                yield chunk

        for _ in read(source()):
            events += 1
        return [*counts[1:], events]

    def theirs(source: Iterator[bytes]) -> Iterator[object]:
        headers = {"content-type": "text/event-stream"}
        return httpx_sse.EventSource(httpx.Response(200, headers=headers, content=source)).iter_sse()

    def ours(source: Iterator[bytes]) -> Iterator[object]:
        decoder = SSEDecoder()
        for chunk in source:
            yield from decoder.feed(chunk)

    assert counted(ours) == [1, 2, 2]
    assert counted(theirs) == [0, 1, 2]


@given(st.sampled_from(["", "a.b", "$end", "$block", "$comment", "$$a", "é"]), st.text())
def test_the_size_of_a_frame_is_known_without_making_it(type: str, data: str) -> None:
    data = data.encode("utf-8", "ignore").decode()
    assert sse.encoded_size(type, data) == len(sse.encode(type, data))


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_many_blank_lines_in_a_row_are_few_frames_however_they_are_cut(end: bytes, size: int) -> None:
    body = b"data: a\n\n" + end * 100_000 + b"data: b\n\n" + end * 100
    decoder = SSEDecoder()
    frames = [frame for at in range(0, len(body), size) for frame in decoder.feed(body[at : at + size], at)] + decoder.finish()
    assert b"".join(sse.encode(frame.type, frame.data) if frame.raw is None else frame.raw for frame in frames) == body
    assert len(frames) < 2 * sse.RUN + 10 + len(end) * 100_000 // sse.RUN_BYTES
    whole = SSEDecoder()
    assert [frame[:3] for frame in frames] == [frame[:3] for frame in (*whole.feed(body), *whole.finish())]
    assert [frame.data for frame in frames if not sse.is_system(frame.type)] == ["a", "b"]


def test_a_block_of_more_lines_than_anyone_writes_is_kept_in_pieces() -> None:
    body = b":\n" * (sse.MANY_LINES + 1) + b"\n"
    frames = SSEDecoder().feed(body)
    assert {frame.type for frame in frames} == {"$piece"}
    assert "".join(frame.data for frame in frames).encode() == body


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_a_block_that_there_is_no_room_for_leaves_as_it_came(size: int) -> None:
    body = b"data: a\n\ndata: " + b"x" * 500 + b"\n\ndata: b\n\n"
    decoder, frames = SSEDecoder(), []
    for at in range(0, len(body), size):
        frames += decoder.feed(body[at : at + size], at)
        frames += decoder.spill()
    frames += decoder.finish()
    assert b"".join(sse.encode(frame.type, frame.data) if frame.raw is None else frame.raw for frame in frames) == body
