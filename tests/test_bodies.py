"""Responses that are no SSE: their bytes and their chunks come back too, and lines of JSON become events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import kind, sse
from recorder.bodies import PIECE, BodyDecoder, Decoder, LinesDecoder, decoder_for
from recorder.sse import Frame, SSEDecoder

TOKENS = (
    *(b'{"a":1}', b'{"a":1}\n', b'{"a":1}\r\n', b"[]", b"null", b"1", b'"\\ud800"', b"\n", b"\r", b"\r\n", b" ", b"\t", b"{"),
    *(b"data", b"data: x\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", "€𝄞".encode()),
)

BODIES = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=16).map(b"".join)


@st.composite
def cut_bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """(body, its chunks, none of them empty)."""
    body = draw(BODIES)
    if draw(st.booleans()):
        return body, [body[at : at + 1] for at in range(len(body))]
    ends = draw(st.sets(st.integers(1, max(len(body) - 1, 1)), max_size=8))
    edges = [0, *sorted(end for end in ends if end < len(body)), len(body)]
    return body, [body[start:end] for start, end in pairwise(edges) if start < end]


def decoded(decoder: Decoder, chunks: Iterable[bytes]) -> list[Frame]:
    """Frames of chunks that arrive 10 µs apart."""
    return [frame for number, chunk in enumerate(chunks, 1) for frame in decoder.feed(chunk, number * 10)] + decoder.finish()


def line_bytes(frame: Frame) -> bytes:
    """The bytes of a frame of LinesDecoder: a line without raw is its data and an LF."""
    if frame.raw is not None:
        return frame.raw
    return sse.encode(frame.type, frame.data) if sse.is_system(frame.type) else frame.data.encode() + b"\n"


def body_bytes(frame: Frame) -> bytes:
    return sse.encode(frame.type, frame.data) if frame.raw is None else frame.raw


def restored(frames: list[Frame], lines: bool) -> Iterator[tuple[int, bytes]]:
    wire = line_bytes if lines else body_bytes
    return sse.chunks((wire(frame), frame.offset_us, frame.cuts) for frame in frames)


@given(cut_bodies())
def test_lines_come_back_in_their_chunks_and_do_not_depend_on_the_cutting(
    cut: tuple[bytes, list[bytes]],
) -> None:
    body, chunks = cut
    frames = decoded(LinesDecoder(), chunks)
    assert b"".join(map(line_bytes, frames)) == body
    assert list(restored(frames, lines=True)) == [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]
    whole = decoded(LinesDecoder(), [body])
    assert [(frame.type, frame.data, frame.raw) for frame in frames] == [(frame.type, frame.data, frame.raw) for frame in whole]


@given(cut_bodies(), st.booleans())
def test_a_body_comes_back_byte_for_byte_and_chunk_for_chunk(cut: tuple[bytes, list[bytes]], join: bool) -> None:
    body, chunks = cut
    frames = decoded(BodyDecoder(join), chunks)
    assert b"".join(map(body_bytes, frames)) == body
    assert list(restored(frames, lines=False)) == [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]
    assert {frame.type for frame in frames} <= {"$body"}
    if join:
        assert len(frames) == bool(body)
    else:
        assert [body_bytes(frame) for frame in frames] == chunks


@given(cut_bodies())
def test_a_frame_arrives_with_the_chunk_that_completes_it(cut: tuple[bytes, list[bytes]]) -> None:
    _, chunks = cut
    for decoder in (LinesDecoder(), BodyDecoder(join=False), BodyDecoder(join=True)):
        for number, chunk in enumerate(chunks, 1):
            assert {frame.offset_us for frame in decoder.feed(chunk, number * 10)} <= {number * 10}
        assert {frame.offset_us for frame in decoder.finish()} <= {len(chunks) * 10}


@given(cut_bodies(), st.integers(0, 30))
def test_an_empty_chunk_changes_nothing(cut: tuple[bytes, list[bytes]], place: int) -> None:
    _, chunks = cut
    place = min(place, len(chunks))
    stamped = [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]
    with_empty = [*stamped[:place], (place * 10 + 5, b""), *stamped[place:]]
    for made in (LinesDecoder, BodyDecoder):
        one, other = made(), made()
        frames = [frame for offset_us, chunk in stamped for frame in one.feed(chunk, offset_us)] + one.finish()
        assert [frame for offset_us, chunk in with_empty for frame in other.feed(chunk, offset_us)] + other.finish() == frames


@given(BODIES)
def test_text_that_a_database_cannot_hold_stays_in_raw(body: bytes) -> None:
    for decoder in (LinesDecoder(), BodyDecoder()):
        for frame in decoded(decoder, [body]):
            if frame.raw is None:
                assert "\0" not in frame.data


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":1}\n{"a":2}\n', [("", '{"a":1}', None), ("", '{"a":2}', None)]),
        (b'{"a":1}\r\n', [("", '{"a":1}', b'{"a":1}\r\n')]),
        (b'{"a":1}', [("", '{"a":1}', b'{"a":1}')]),
        (b'{"a":1}\n{"a":', [("", '{"a":1}', None), ("$tail", '{"a":', None)]),
        (b"\n{}\n", [("$block", "\n", None), ("", "{}", None)]),
        (b"not json\n", [("", "not json", None)]),
        (b'"a\xe2\x80\xa8b"\n', [("", '"a\u2028b"', None)]),
        (b'"\xff"\n', [("", '"\ufffd"', b'"\xff"\n')]),
        (b"", []),
    ],
)
def test_each_line_is_an_event_without_a_type(body: bytes, expected: list[tuple[str, str, bytes | None]]) -> None:
    assert [(frame.type, frame.data, frame.raw) for frame in decoded(LinesDecoder(), [body])] == expected


def test_a_line_is_there_with_the_chunk_that_ends_it() -> None:
    decoder = LinesDecoder()
    assert [len(decoder.feed(chunk, at)) for at, chunk in enumerate([b'{"a"', b":1}", b'\n{"a":2}\n', b"\n"])] == [0, 0, 2, 1]


def test_a_long_body_is_cut_into_pieces() -> None:
    body = bytes(range(256)) * 16384
    frames = decoded(BodyDecoder(), [body[at : at + 65536] for at in range(0, len(body), 65536)])
    assert [len(body_bytes(frame)) for frame in frames] == [PIECE] * 4
    assert b"".join(map(body_bytes, frames)) == body


@pytest.mark.parametrize(
    ("body", "decoder"), [(kind.SSE, SSEDecoder), (kind.LINES, LinesDecoder), (kind.JSON, BodyDecoder), (kind.OTHER, BodyDecoder)]
)
def test_each_kind_of_body_has_its_decoder(body: str, decoder: type) -> None:
    assert type(decoder_for(body)) is decoder


def test_json_is_kept_as_one_text_and_other_bodies_chunk_by_chunk() -> None:
    chunks = [b'{"a":', b"1}"]
    assert len(decoded(decoder_for(kind.JSON), chunks)) == 1
    assert len(decoded(decoder_for(kind.OTHER), chunks)) == 2


@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_many_empty_lines_in_a_row_are_few_frames_however_they_are_cut(size: int) -> None:
    body = b'{"a":1}\n' + b"\n" * 200_000 + b'{"b":2}\n'
    frames = decoded(LinesDecoder(), [body[at : at + size] for at in range(0, len(body), size)])
    assert b"".join(map(line_bytes, frames)) == body
    assert len(frames) < sse.RUN + 10
    assert [frame[:3] for frame in frames] == [frame[:3] for frame in decoded(LinesDecoder(), [body])]


def test_a_line_over_the_limit_leaves_in_pieces_and_the_next_is_an_event() -> None:
    body = b"x" * 5000 + b"\n" + b'{"a":1}\n'
    frames = decoded(LinesDecoder(limit=1000), [body[at : at + 100] for at in range(0, len(body), 100)])
    assert [frame.type for frame in frames] == ["$piece", ""]
    assert b"".join(map(line_bytes, frames)) == body
