"""What a body is, its content tells, however it is cut, and no later than its first event is complete."""

from __future__ import annotations

import pytest

from recorder.kind import JSON, LINES, OTHER, SSE, UNKNOWN, Telling, kind_of, media_type

OBJECT = b'{"a": 1}'
EVENT = b'data: {"a": 1}\n\n'
BOM = b"\xef\xbb\xbf"
GENERIC = ("application/json", "text/plain; charset=utf-8", "application/octet-stream", "text/html", None)

CASES = [
    *((kind, EVENT, SSE) for kind in (*GENERIC, "text/event-stream", "application/x-ndjson", "audio/mpeg")),
    *((kind, b" \n\r\n\t" + EVENT, SSE) for kind in GENERIC),
    *((kind, BOM + EVENT, SSE) for kind in GENERIC),
    *((kind, b": ping\n\n: ping\n\nid: 1\nevent: e\n" + EVENT, SSE) for kind in GENERIC),
    *((kind, EVENT.replace(b"\n", end), SSE) for kind in GENERIC for end in (b"\r\n", b"\r")),
    *((kind, EVENT.rstrip(), SSE) for kind in GENERIC),
    *((kind, OBJECT, JSON) for kind in (*GENERIC, "text/event-stream")),
    *((kind, b"\n         \n" * 3 + OBJECT + b"\n", JSON) for kind in (*GENERIC, "text/event-stream")),
    *((kind, BOM + b'{\n  "a": 1\n}\n', JSON) for kind in (*GENERIC, "text/event-stream")),
    *((kind, OBJECT + b"\n" + OBJECT + b"\n", LINES) for kind in (*GENERIC, "text/event-stream", "application/x-ndjson")),
    ("text/event-stream", OBJECT + b"data: [DONE]\n\n", JSON),
    ("text/event-stream", OBJECT + b"\n\ndata: [DONE]\n\n", JSON),
    ("text/event-stream", OBJECT + b"\n" + EVENT, SSE),
    ("text/event-stream", b"anything: else\n\n", SSE),
    ("text/event-stream", b"{anything: else}\n\n", SSE),
    ("application/x-ndjson", OBJECT, LINES),
    ("application/x-ndjson", b"1\n2\n", LINES),
    ("application/json", b'"a text"', JSON),
    ("application/json", b"", JSON),
    ("text/plain", b"data:image/png;base64,AAAA", OTHER),
    ("text/plain", b"data: a\nname: b\n", OTHER),
    ("text/plain", b"id: 7\nname: x\n\n", OTHER),
    ("audio/mpeg", b"ID3\x04\0\0", OTHER),
    ("application/octet-stream", b"\0\1\2", OTHER),
    (None, b"<html>", OTHER),
    (None, b"hello", OTHER),
    (None, b"odd: field\n" + EVENT, SSE),
    (None, b"", SSE),
]


@pytest.mark.parametrize(("content_type", "body", "kind"), CASES)
def test_the_content_tells_what_a_body_is_however_it_is_cut(content_type: str | None, body: bytes, kind: str) -> None:
    assert kind_of(body, content_type) == kind
    for size in (1, 2, 3, 7):
        assert told(body, content_type, size)[0] == kind


def test_white_space_that_comes_byte_by_byte_is_looked_at_once() -> None:
    telling = Telling("application/json")
    assert telling.add(b"{", 0) is None
    offset_us = 0
    while (kind := telling.add(b" ", offset_us)) is None:  # with each byte looked at again that would take half a minute
        offset_us += 1
    assert (kind, offset_us > 50_000) == (JSON, True)


def told(body: bytes, content_type: str | None, size: int) -> tuple[str, int]:
    """What it is, and after how many bytes that was known."""
    telling = Telling(content_type)
    for at in range(0, len(body), size):
        if kind := telling.add(body[at : at + size], at):
            assert b"".join(chunk for chunk, _ in telling.chunks()) == body[: at + size]
            return kind, at + size
    return telling.end(), len(body)


@pytest.mark.parametrize("content_type", GENERIC)
def test_no_event_waits_for_longer_than_itself(content_type: str | None) -> None:
    assert told(EVENT * 3, content_type, 1) == (SSE, len(EVENT))


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/x-ndjson"])
def test_what_is_what_it_says_is_known_with_its_first_byte(content_type: str) -> None:
    assert told(EVENT if "event" in content_type else OBJECT, content_type, 1)[1] == 1


@pytest.mark.parametrize("filler", [b" ", b"\n", b":", b'{"a": "', b"data: x"])
def test_what_is_held_is_bounded(filler: bytes) -> None:
    telling = Telling("application/json")
    for at in range(0, 3 * UNKNOWN, 10_000):
        if telling.add((filler + b"x" * 10_000 if filler.isalnum() else filler * 10_000)[:10_000], at):
            break
    assert telling.held < UNKNOWN + 20_000


def test_without_a_content_type_a_failure_is_no_stream() -> None:
    assert kind_of(b"odd", None, 500) == OTHER
    assert kind_of(OBJECT, None, 500) == JSON


@pytest.mark.parametrize(("header", "named"), [(None, ""), ("", ""), (" A/B ; c=d", "a/b"), ("a/b", "a/b")])
def test_the_media_type_is_lower_case_and_without_parameters(header: str | None, named: str) -> None:
    assert media_type(header) == named
