"""How a stream ended: by its own marks first, then by how its connection closed."""

from __future__ import annotations

import pytest

from recorder.collect.outcome import Ending
from recorder.sse import Frame, SSEDecoder

DELTA, DONE, ERROR = b'data: {"a":1}\n\n', b"data: [DONE]\n\n", b'event: error\ndata: {"message":"m"}\n\n'
NAMED_DONE = b"event: done\ndata: [DONE]\n\n"


def ending(*chunks: bytes) -> Ending:
    decoder, found = SSEDecoder(), Ending()
    for chunk in chunks:
        found.see(decoder.feed(chunk))
    found.see(decoder.finish())
    return found


def of_body(*frames: Frame) -> Ending:
    found = Ending()
    found.see(frames)
    return found


@pytest.mark.parametrize(
    ("chunks", "closed", "status", "outcome"),
    [
        ((DELTA, DONE), "eof", 200, "done"),
        ((DELTA, NAMED_DONE), "eof", 200, "done"),
        ((DELTA, DONE), "client_closed", 200, "done"),
        ((DELTA, DONE), "cut", 200, "done"),
        ((DELTA, DONE[:7], DONE[7:]), "eof", 200, "done"),
        ((DELTA, DONE[:-1]), "cut", 200, "cut"),
        ((DELTA,), "eof", 200, "eof"),
        ((), "eof", 200, "eof"),
        ((DELTA,), "cut", 200, "cut"),
        ((DELTA,), "client_closed", 200, "client_closed"),
        ((), "client_closed", None, "client_closed"),
        ((), "no_response", None, "no_response"),
        ((DELTA, ERROR), "eof", 200, "error"),
        ((DELTA, ERROR, DONE), "eof", 200, "error"),
        ((DELTA, ERROR), "client_closed", 200, "error"),
        ((DELTA, ERROR[:-1]), "cut", 200, "cut"),
        ((DELTA,), "eof", 500, "http_error"),
        ((DELTA, DONE), "cut", 404, "http_error"),
        ((ERROR,), "client_closed", 400, "http_error"),
        ((DELTA,), "eof", 399, "eof"),
        ((b'data: {"error":{"message":"m"}}\n\n',), "eof", 200, "error"),
        ((b'data: {"error":"m"}\n\n', DONE), "eof", 200, "error"),
        ((b'data: {"type":"error","message":"m"}\n\n',), "cut", 200, "error"),
        ((b'data: {"event":"error","data":"m"}\n\n',), "eof", 200, "error"),
        ((b'data: {"choices":[],"error":{"code":502}}\n\n', DONE), "eof", 200, "error"),
        ((b'data: {"object":"error","message":"m","type":"T","code":500}\n\n', DONE), "eof", 200, "error"),
        ((b'data: {"choices":[{"index":0,"error":{"code":502}}]}\n\n', DONE), "eof", 200, "error"),
        ((b'data: {"choices":[],"x_groq":{"error":"over capacity"}}\n\n', DONE), "eof", 200, "error"),
        ((b'data: {"error":null}\n\n', DONE), "eof", 200, "done"),
        ((b'data: {"text":"an \\"error\\""}\n\n', DONE), "eof", 200, "done"),
        ((b'data: {"response":{"error":{"code":"x"}}}\n\n',), "eof", 200, "eof"),
        ((b'data: no "error" at all\n\n',), "eof", 200, "eof"),
        ((b'event: update\ndata: {"error":{"message":"m"}}\n\n',), "eof", 200, "eof"),
    ],
)
def test_of_a_captured_stream(chunks: tuple[bytes, ...], closed: str, status: int | None, outcome: str) -> None:
    assert ending(*chunks).of_connection(closed, status) == outcome


@pytest.mark.parametrize(
    ("closed", "status", "outcome"),
    [("eof", 200, "done"), ("cut", 200, "cut"), ("client_closed", 200, "client_closed"), ("eof", 500, "http_error")],
)
def test_of_a_captured_body(closed: str, status: int, outcome: str) -> None:
    assert of_body(Frame("$body", '{"id":"run_1"}')).of_connection(closed, status) == outcome


@pytest.mark.parametrize(
    ("chunks", "outcome"),
    [
        ((), "eof"),
        ((DELTA,), "eof"),
        ((DELTA, DONE), "done"),
        ((DELTA, b"data: half"), "cut"),
        ((DELTA, DONE, b"data: half"), "done"),
        ((b": a comment\n\n",), "eof"),
        ((b"event: done\ndata: something else\n\n",), "eof"),
    ],
)
def test_of_an_imported_file(chunks: tuple[bytes, ...], outcome: str) -> None:
    """done, cut (a tail is left) or eof."""
    assert ending(*chunks).of_file() == outcome


def test_an_imported_body_is_done() -> None:
    assert of_body(Frame("$body", "{}")).of_file() == "done"


def test_a_comment_that_says_done_ends_nothing() -> None:
    """Nor does a tail: only an event's data is the mark."""
    assert ending(b": [DONE]\n\n").of_file() == "eof"
    assert ending(b"data: x\n\n", b"[DONE]").of_file() == "cut"


def test_an_event_that_is_called_like_a_system_event_is_none() -> None:
    """`event: $tail` on the wire is a name like any other."""
    assert ending(b"event: $tail\ndata: x\n\n").of_file() == "eof"
    assert ending(b"event: $body\ndata: x\n\n").of_file() == "eof"
