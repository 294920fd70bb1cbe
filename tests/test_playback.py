"""A recorded response as it is given again: what its head says, its chunks with their times, and how it ends."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import log
from recorder.log import Event
from recorder.replay.playback import Playback
from recorder.sse import Frame, SSEDecoder
from tests.exchanges import JSON, MS, SECOND, SSE, cut, response

EVENT = b"event: a\ndata: 1\n\n"


def events(frames: Iterable[Frame]) -> list[Event]:
    """Frames as they are read from the log."""
    rows = (log.row("", position, frame) for position, frame in enumerate(frames))
    return [log.event(row[1:]) for row in rows]


def played(frames: Iterable[Frame]) -> tuple[Playback, list[tuple[float, bytes | None]]]:
    """A playback that is through, and what it gave."""
    playback = Playback(events(frames))
    return playback, list(playback.chunks())


def imported(body: bytes) -> list[Frame]:
    """The frames of a file without a word of its response, as import makes them."""
    decoder = SSEDecoder()
    return [*decoder.feed(body), *decoder.finish(), log.system_frame("$end", {"outcome": "eof"}, 0)]


def test_a_response_is_its_head_its_chunks_and_its_end_each_at_its_time() -> None:
    chunks = [(30 * MS, b"event: a\nda"), (40 * MS, b"ta: 1\n\nevent: b\n"), (90 * MS, b"data: 2\n\n")]
    playback, given_out = played(response(chunks, head_us=20 * MS, end_us=400 * MS))
    assert given_out == [(20 * MS, b""), *chunks, (400 * MS, None)]
    assert (playback.status, playback.headers, playback.closed) == (200, [SSE], "eof")


def test_the_head_is_known_before_the_chunks_are_read() -> None:
    def lazily() -> Iterable[Event]:
        yield from events(response([(1, EVENT)], status=201, headers=[SSE, ("x-request-id", "r")]))[:1]
        raise AssertionError("read too far")

    playback = Playback(lazily())
    assert (playback.status, playback.headers) == (201, [SSE, ("x-request-id", "r")])
    assert next(playback.chunks()) == (0, b"")


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 429, 500, 503, 529])
def test_any_status(status: int) -> None:
    playback, given_out = played(response([(5, b'{"a":1}')] if status != 204 else [], status=status, headers=[JSON]))
    assert playback.status == status
    assert playback.closed == "eof"
    assert [chunk for _, chunk in given_out] == ([b"", b'{"a":1}', None] if status != 204 else [b"", None])


def test_headers_of_a_body_that_was_decoded_do_not_speak_of_the_encoded_one() -> None:
    headers = [SSE, ("content-encoding", "gzip"), ("content-length", "17"), ("x-request-id", "r")]
    assert played(response([(1, EVENT)], headers=headers, decoded="gzip"))[0].headers == [SSE, ("x-request-id", "r")]


def test_headers_of_a_body_that_is_kept_encoded_stay() -> None:
    headers = [SSE, ("content-encoding", "zstd"), ("content-length", str(len(EVENT)))]
    playback, given_out = played(response([(1, EVENT)], headers=headers))
    assert playback.headers == headers
    assert given_out == [(0, b""), (1, EVENT), (1, None)]


@pytest.mark.parametrize(
    ("closed", "body", "status", "expected", "left"),
    [
        ("eof", EVENT, 200, "eof", False),
        ("cut", EVENT, 200, "cut", False),
        ("cut", b"data: [DONE]\n\n", 200, "cut", False),
        ("client_closed", EVENT, 200, "cut", True),
        ("client_closed", b"data: [DONE]\n\n", 200, "eof", False),
        ("client_closed", b"event: error\ndata: {}\n\n", 200, "eof", False),
        ("client_closed", b"{}", 500, "cut", True),
        ("lost", EVENT, 200, "cut", False),
        ("lost", b"data: [DONE]\n\n", 200, "eof", False),
        (None, EVENT, 200, "cut", False),
        (None, b"data: [DONE]\n\n", 200, "cut", False),
    ],
    ids=str,
)
def test_how_it_ends(closed: str | None, body: bytes, status: int, expected: str, left: bool) -> None:
    """A client that left when all had been said did not break anything; one that left before did, and so it is again."""
    playback, given_out = played(response([(7, body)], status=status, closed=closed, end_us=9))
    assert (playback.closed, playback.left) == (expected, left)
    assert given_out == [(0, b""), (7, body), (7 if closed is None else 9, None)]


def test_what_was_said_of_the_end_is_kept() -> None:
    assert played(response([(1, EVENT)], closed="cut", detail="ReadError: gone"))[0].detail == "ReadError: gone"
    assert played(response([(1, EVENT)]))[0].detail == ""


def test_a_cut_keeps_the_bytes_of_an_unfinished_event() -> None:
    playback, given_out = played(response([(1, EVENT), (2, b"data: ha")], closed="cut", end_us=300 * MS))
    assert given_out == [(0, b""), (1, EVENT), (2, b"data: ha"), (300 * MS, None)]
    assert playback.closed == "cut"


def test_where_no_response_came_there_is_nothing_but_its_end() -> None:
    frames = response(status=None, closed="no_response", end_us=70 * MS, detail="ConnectError: refused")
    playback = Playback(events(frames))
    assert playback.status is None
    assert list(playback.chunks()) == [(70 * MS, None)]
    assert (playback.closed, playback.detail) == ("no_response", "ConnectError: refused")


@pytest.mark.parametrize("closed", ["client_closed", "lost"])
def test_where_the_client_gave_up_before_any_response_there_is_none_either(closed: str) -> None:
    """What never came is not made up: no status, no headers, only the time it took."""
    frames = response(status=None, closed=closed, end_us=70 * MS, detail="ReadTimeout: timed out")
    playback, given_out = played(frames)
    assert playback.status is None
    assert given_out == [(70 * MS, None)]
    assert playback.closed != "eof"
    assert playback.left == (closed == "client_closed")
    assert playback.detail == "ReadTimeout: timed out"


def test_a_stream_whose_recorder_died_before_anything_came_has_no_response() -> None:
    playback, given_out = played([])
    assert (playback.status, playback.closed) == (None, "no_response")
    assert [chunk for _, chunk in given_out] == [None]


def test_a_file_is_a_stream_that_ended_well() -> None:
    playback, given_out = played(imported(EVENT * 2))
    assert (playback.status, playback.headers, playback.closed) == (200, [SSE], "eof")
    assert given_out == [(0, b""), (0, EVENT * 2), (0, None)]


def test_an_empty_file_is_an_empty_stream() -> None:
    playback, given_out = played(imported(b""))
    assert (playback.status, playback.headers, playback.closed) == (200, [SSE], "eof")
    assert given_out == [(0, b""), (0, None)]


def test_a_file_that_breaks_off_ends_where_it_ends() -> None:
    """Whether it did on the wire nobody knows."""
    decoder = SSEDecoder()
    body = EVENT + b"data: ha"
    frames = [*decoder.feed(body), *decoder.finish(), log.system_frame("$end", {"outcome": "cut"}, 0)]
    playback, given_out = played(frames)
    assert given_out == [(0, b""), (0, body), (0, None)]
    assert playback.closed == "eof"


def test_a_gap_stands_for_no_bytes() -> None:
    gap = log.system_frame("$gap", {"chunks": 1, "bytes": 9, "reason": "queue full"}, 5)
    frames = response([(1, EVENT), (9, EVENT)])
    playback, given_out = played([*frames[:2], gap, *frames[2:]])
    assert given_out == [(0, b""), (1, EVENT), (9, EVENT), (9, None)]
    assert playback.closed == "eof"


@pytest.mark.parametrize("said", ["{}", "[]", "no JSON", '{"status":"x","headers":7}'])
def test_a_head_that_says_nothing_of_use_is_a_plain_one(said: str) -> None:
    playback = Playback(events([Frame("$response", said, None, 3), Frame("a", "1", None, 4)]))
    assert (playback.status, playback.headers) == (200, [])


BLOCKS = (EVENT, b"data: \xff\x00\r\n\r\n", b": c\n\n", b"id: 1\r", b"\n", b"\xef\xbb\xbf", b"data: x\ndata: y\n\n", b"e")
BODIES = {
    "text/event-stream": st.lists(st.sampled_from(BLOCKS), max_size=12).map(b"".join),
    "application/json": st.sampled_from([b'{"a": [1, 2, 3], "b": "\xc3\xa9"}', b"", b"no json at all"]),
    "application/x-ndjson": st.sampled_from([b'{"a":1}\n{"b":2}\r\n\n{"c":', b"{}\n"]),
    "image/png": st.binary(max_size=60),
}


@pytest.mark.parametrize("content_type", BODIES)
@given(data=st.data())
def test_any_body_comes_out_in_the_chunks_in_which_it_came(content_type: str, data: st.DataObject) -> None:
    body = data.draw(BODIES[content_type])
    pieces = cut(body, data.draw(st.sets(st.integers(1, 60))))
    gaps = data.draw(st.lists(st.integers(1, SECOND), min_size=len(pieces), max_size=len(pieces)))
    chunks = list(zip(accumulate(gaps), pieces, strict=True))
    playback, given_out = played(response(chunks, headers=[("content-type", content_type)], end_us=10**9))
    assert given_out == [(0, b""), *chunks, (10**9, None)]
    assert playback.closed == "eof"
