"""What an upstream can do wrong: answers by name, each to a request for a chat completion that is to be streamed.

What a client makes of one is to be the same through a proxy as without.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable

from tests.upstream import SSE, Answer, Asked, Wire

JSON = ("Content-Type", "application/json")

STALL_SECONDS = 3.0
"""How long a stalling upstream keeps still; then it breaks off."""


def piece(number: int) -> bytes:
    """An event of a stream of a chat completion."""
    delta = {"content": f"word {number} "} if number else {"role": "assistant", "content": ""}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    said = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(said).encode()


PIECES = [piece(number) for number in range(3)]
DONE = b"data: [DONE]\n\n"


def error(code: str, message: str = "it is not to be") -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", "param": None, "code": code}}).encode()


def _begun(wire: Wire) -> None:
    """The head and the first events of a chunked answer, two of them in one chunk."""
    wire.begin()
    wire.chunk(PIECES[0])
    wire.chunk(PIECES[1] + PIECES[2])


def _sending(*data: bytes, ending: Callable[[Wire], None] = Wire.cut) -> Answer:
    """Send these bytes, and then end."""

    def answer(wire: Wire, asked: Asked) -> None:
        for part in data:
            wire.send(part)
        _arrived()
        ending(wire)

    return answer


def _streaming(*more: bytes, ending: Callable[[Wire], None] = Wire.cut) -> Answer:
    """Begin a stream, send these bytes, and then end."""

    def answer(wire: Wire, asked: Asked) -> None:
        _begun(wire)
        for part in more:
            wire.send(part)
        _arrived()
        ending(wire)

    return answer


def _stalling(begun: bool) -> Answer:
    def answer(wire: Wire, asked: Asked) -> None:
        if begun:
            _begun(wire)
        wire.left(STALL_SECONDS)
        wire.cut()

    return answer


def _arrived() -> None:
    """What was sent is read before the end comes, so that a reset finds nothing to discard."""
    time.sleep(0.1)


def _whole(body: bytes, status: int = 200, *headers: tuple[str, str]) -> Answer:
    return lambda wire, asked: wire.whole(body, headers or (JSON,), status)


def _hinting(wire: Wire, asked: Asked) -> None:
    wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n")
    _begun(wire)
    wire.chunk(DONE)
    wire.end()


def _streamed(*pieces: bytes) -> Answer:
    return lambda wire, asked: wire.stream([*PIECES, *pieces])


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
LONGER = OK + b"Content-Length: 9999\r\n\r\n" + b"".join(PIECES)
UNTIL_CLOSE = OK + b"Connection: close\r\n\r\n" + b"".join(PIECES)

HALF = gzip.compress(b"".join(PIECES))[:-12]

FAULTS: dict[str, Answer] = {
    # no response, or half of one
    "closes before a byte": _sending(),
    "resets before a byte": _sending(ending=Wire.reset),
    "closes in the head": _sending(OK + b"Content-Le"),
    "resets in the head": _sending(OK + b"Content-Le", ending=Wire.reset),
    "stalls before the head": _stalling(begun=False),
    # what is no HTTP
    "is another protocol": _sending(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "sends a bad status line": _sending(b"HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n"),
    "sends a bad header": _sending(b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\n{}"),
    # a stream that breaks
    "closes in a chunked stream": _streaming(),
    "closes in a chunk": _streaming(b"64\r\ndata: {"),
    "resets in a chunked stream": _streaming(ending=Wire.reset),
    "closes before its length": _sending(LONGER),
    "resets before its length": _sending(LONGER, ending=Wire.reset),
    "resets a stream without a length": _sending(UNTIL_CLOSE, ending=Wire.reset),
    "sends a bad chunk size": _streaming(b"zz\r\ndata: 1\n\n\r\n"),
    "sends a chunk that is longer than it says": _streaming(b"3\r\ndata: 1\n\n\r\n0\r\n\r\n"),
    "stalls in the stream": _stalling(begun=True),
    # a whole stream that says something is wrong
    "ends without a length": _sending(UNTIL_CLOSE + DONE),
    "ends without [DONE]": _streamed(),
    "says an error in the stream": _streamed(b"data: " + error("server_error") + b"\n\n", DONE),
    "says no JSON in the stream": _streamed(b"data: {no JSON\n\n", DONE),
    "hints before it answers": _hinting,
    # refusals
    "refuses with 400": _whole(error("bad"), 400),
    "refuses with 429": _whole(error("slow"), 429, JSON, ("Retry-After", "0"), ("X-Request-Id", "req_1")),
    "fails with 500 in HTML": _whole(b"<html>\xe9</html>", 500, ("Content-Type", "text/html")),
    "fails with 503 and no body": lambda wire, asked: wire.head(503, [("Content-Length", "0")]),
    "fails with 599": _whole(error("odd"), 599),
    "refuses with a body that breaks off": _sending(
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n" + error("bad")
    ),
    "answers with 204": lambda wire, asked: wire.head(204, []),
    "sends what is not gzip": lambda wire, asked: wire.stream([b"not gzip"], [SSE, ("Content-Encoding", "gzip")]),
    "sends half of its gzip": lambda wire, asked: wire.stream([HALF], [SSE, ("Content-Encoding", "gzip")]),
}
