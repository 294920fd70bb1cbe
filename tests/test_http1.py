"""HTTP/1.1 heads and bodies as the proxy reads them: the same however the bytes are cut."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from recorder.collect import http1
from recorder.collect.http1 import Body, Head, RequestReader, ResponseReader

SSE = b"data: 1\n\n"


class Read(NamedTuple):
    """What a reader made of a response: its interim heads' statuses, its head, and how it ended."""

    interim: list[int]
    status: int | None
    reason: bytes
    framing: str | None
    keep_alive: bool
    raw: bytes
    decoded: bytes
    complete: bool
    excess: bool
    broken: bool


def read(method: bytes, pieces: list[bytes], *, orderly: bool | None = None) -> Read:
    """orderly: how the connection ended then; None: it did not."""
    reader = ResponseReader(method)
    found = [item for piece in pieces for item in reader.feed(piece)]
    if orderly is not None:
        found += reader.finish(orderly=orderly)
    heads = [item for item in found if isinstance(item, Head)]
    bodies = [item for item in found if isinstance(item, Body)]
    final = [head for head in heads if not head.interim]
    assert len(final) <= 1
    return Read(
        [head.status for head in heads if head.interim],
        final[0].status if final else None,
        final[0].reason if final else b"",
        reader.framing,
        bool(final) and final[0].keep_alive,
        b"".join(body.raw for body in bodies),
        b"".join(body.decoded for body in bodies),
        reader.complete,
        reader.excess,
        bool(reader.broken),
    )


OK = b"HTTP/1.1 200 OK\r\n"
NINE = OK + b"Content-Length: 9\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = b"9\r\n" + SSE + b"\r\n0\r\n\r\n"
CHUNKS = b"4;a=b\r\ndata\r\n5\r\n: 1\n\n\r\n0\r\nX-Sum: 1\r\n\r\n"


class Case(NamedTuple):
    """A response, how its connection ended, and what is to be read. raw: of the body."""

    head: bytes
    raw: bytes
    framing: str | None
    decoded: bytes
    method: bytes = b"GET"
    ended: bool | None = None
    complete: bool = True
    broken: bool = False

    @property
    def data(self) -> bytes:
        return self.head + self.raw


RESPONSES = {
    "length": Case(NINE, SSE, "length", SSE),
    "no content": Case(OK + b"Content-Length: 0\r\n\r\n", b"", "none", b"", b"POST"),
    "204": Case(b"HTTP/1.1 204 \r\n\r\n", b"", "none", b""),
    "304 with a length": Case(b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", b"", "none", b""),
    "HEAD": Case(NINE, b"", "none", b"", b"HEAD"),
    "HEAD of a chunked one": Case(CHUNKED, b"", "none", b"", b"HEAD"),
    "until close": Case(OK + b"\r\n", SSE, "close", SSE, ended=True),
    "until reset": Case(OK + b"\r\n", SSE, "close", SSE, ended=False, complete=False),
    "HTTP/1.0": Case(b"HTTP/1.0 200 OK\r\n\r\n", SSE, "close", SSE, ended=True),
    "chunked": Case(CHUNKED, ONE_CHUNK, "chunked", SSE),
    "chunks with extensions and trailers": Case(CHUNKED, CHUNKS, "chunked", SSE),
    "chunked and cut": Case(CHUNKED, b"9\r\ndata", "chunked", b"data", ended=True, complete=False),
    "length and cut": Case(NINE, b"data", "length", b"data", ended=True, complete=False),
    "both framings": Case(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", ONE_CHUNK, "chunked", SSE),
    "another coding": Case(OK + b"Transfer-Encoding: gzip\r\n\r\n", b"zip", "close", b"zip", ended=True),
    "bare line feeds": Case(b"HTTP/1.1 200 OK\nContent-Length: 9\n\n", SSE, "length", SSE),
    "blank lines first": Case(b"\r\n\r\n" + NINE, SSE, "length", SSE),
    "another protocol": Case(b"HTTP/1.1 101 So\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", b"\1\2", "other", b"", ended=True),
    "a bad chunk": Case(CHUNKED, b"4\r\ndata\r\nzz\r\n", "chunked", b"data", ended=True, complete=False, broken=True),
    "no HTTP": Case(b"", b"SSH-2.0-x\r\n\r\nmore", None, b"", ended=True, complete=False, broken=True),
    "a length that is none": Case(b"", OK + b"Content-Length: x\r\n\r\nab", None, b"", ended=True, complete=False, broken=True),
    "a head that ends in two ways": Case(b"", OK + b"X: x\r\n\rY: y\r\n\r\n", None, b"", ended=True, complete=False, broken=True),
    "half a head": Case(b"", OK + b"Content-", None, b"", ended=True, complete=False),
    "nothing": Case(b"", b"", None, b"", ended=True, complete=False),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_read_alike_however_it_is_cut(name: str) -> None:
    case = RESPONSES[name]
    for size in (len(case.data) or 1, 1, 2, 3, 7):
        pieces = [case.data[at : at + size] for at in range(0, len(case.data), size)]
        found = read(case.method, pieces, orderly=case.ended)
        assert (found.framing, found.decoded, found.complete) == (case.framing, case.decoded, case.complete), size
        assert (found.raw, found.broken) == (case.raw, case.broken), size
        assert not found.excess


def test_interim_heads_come_before_the_one_that_counts() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    for size in (len(data), 1):
        found = read(b"POST", [data[at : at + size] for at in range(0, len(data), size)])
        assert (found.interim, found.status, found.complete) == ([100, 103], 204, True)


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive, Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
        (CHUNKED, True),
    ],
)
def test_a_head_says_whether_its_connection_goes_on(head: bytes, keeps: bool) -> None:
    assert read(b"GET", [head]).keep_alive is keeps


def test_what_comes_after_a_response_is_said_to_be_too_much() -> None:
    for data in (b"HTTP/1.1 204 No\r\n\r\nx", CHUNKED + b"0\r\n\r\nx", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"):
        found = read(b"GET", [data])
        assert found.complete
        assert found.excess
        assert found.raw[-1:] in (b"x", b"b")
        assert found.decoded in (b"", b"a")


def test_statuses_and_reasons_are_any() -> None:
    assert read(b"GET", [b"HTTP/1.1 999 Out of \xe9 range\r\n\r\n"])[1:3] == (999, b"Out of \xe9 range")
    assert read(b"GET", [b"HTTP/1.1 200\r\n\r\n"])[1:3] == (200, b"")


def test_a_head_without_an_end_is_handed_on_at_some_length() -> None:
    data = b"HTTP/1.1 200 OK\r\nX: " + b"x" * (http1.HEAD_LIMIT + 1)
    found = read(b"GET", [data, b"more"])
    assert found.broken
    assert found.raw == data + b"more"


def test_heads_are_passed_on_without_what_is_for_one_connection() -> None:
    headers = [
        (b"X-A", b"1"),
        (b"Connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"Keep-Alive", b"t"),
        (b"X-A", b"\xe9"),
        (b"Own", b""),
    ]
    assert http1.passed(headers, b"own") == [(b"X-A", b"1"), (b"X-A", b"\xe9")]
    (head,) = ResponseReader(b"GET").feed(b"HTTP/1.1 299 So so\r\nx-A:  1\r\nTransfer-Encoding: chunked\r\nX-a: 2\r\n\r\n")
    assert isinstance(head, Head)
    kept = http1.passed(head.headers)
    assert (
        http1.response_head(head, kept, framed=True, close=False)
        == b"HTTP/1.1 299 So so\r\nx-A: 1\r\nX-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert http1.response_head(head, kept, framed=False, close=True).endswith(b"X-a: 2\r\nConnection: close\r\n\r\n")


# Requests

POST = b"POST /a?b HTTP/1.1\r\nHost: h\r\nX: \xe9\r\nContent-Length: 3\r\n\r\nabc"
PUT = b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: 1\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_requests_are_read_one_after_the_other_however_they_are_cut(size: int) -> None:
    data = POST + PUT + b"GET / HTTP/1.0\r\n\r\n"
    reader = RequestReader()
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
    assert reader.malformed is None
    assert [(asked.method, asked.target, b"".join(asked.pieces), asked.complete) for asked in reader.requests] == [
        (b"POST", b"/a?b", b"abc", True),
        (b"PUT", b"/c", b"abcde", True),
        (b"GET", b"/", b"", True),
    ]
    assert reader.requests[0].headers == [(b"Host", b"h"), (b"X", b"\xe9"), (b"Content-Length", b"3")]
    assert [asked.chunked for asked in reader.requests] == [False, True, False]
    assert [asked.keep_alive for asked in reader.requests] == [True, True, False]
    assert [value for name, value in reader.requests[1].headers if name == b"T"] == [], "a trailer is no header"
    assert reader.idle


def test_a_request_is_there_before_its_body() -> None:
    reader = RequestReader()
    reader.feed(POST[:-2])
    assert (reader.requests[0].complete, reader.requests[0].pieces, reader.idle) == (False, [b"a"], False)
    reader.feed(b"bc")
    assert (reader.requests[0].complete, reader.idle) == (True, True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * (http1.HEAD_LIMIT + 1),
        b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * (http1.HEAD_LIMIT // 5),
        b"GET / HTTP/1.1\r\nX\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_request_is_said_to_be_none_and_what_was_before_it_stands(data: bytes) -> None:
    reader = RequestReader()
    reader.feed(POST + data)
    reader.feed(POST)
    assert reader.malformed is not None
    assert str(reader.malformed)
    first, *more = reader.requests
    assert (first.target, first.complete) == (b"/a?b", True)
    assert all(not asked.complete for asked in more)


def test_what_comes_after_an_upgrade_waits_until_it_is_decided() -> None:
    reader = RequestReader()
    reader.feed(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /next")
    reader.feed(b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [asked.upgrade for asked in reader.requests] == [True]
    assert reader.beyond == b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
    reader.go_on()
    assert [asked.target for asked in reader.requests] == [b"/ws", b"/next"]


@pytest.mark.parametrize("size", [1, 1000])
def test_a_request_with_a_body_is_http_whatever_it_asks_for(size: int) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for framed in (b"Content-Length: 3\r\n\r\nabc", chunked):
        reader = RequestReader()
        data = b"POST /h2c HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + framed + POST
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
        assert [(asked.upgrade, b"".join(asked.pieces), asked.complete) for asked in reader.requests] == [
            (False, b"abc", True)
        ] * 2
        assert [asked.target for asked in reader.requests] == [b"/h2c", b"/a?b"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a/b?c=d", (b"/a/b?c=d", None)),
        (b"//a", (b"//a", None)),
        (b"*", (b"*", None)),
        (b"http://other.example/a?b", (b"/a?b", b"other.example")),
        (b"HTTPS://u@other.example:1", (b"/", b"u@other.example:1")),
        (b"http://other.example?q", (b"/?q", b"other.example")),
        (b"other.example:443", None),
        (b"ftp://other.example/a", None),
    ],
)
def test_a_target_is_a_path_and_perhaps_an_authority(target: bytes, expected: tuple[bytes, bytes | None] | None) -> None:
    assert http1.target_of(target) == expected


def test_an_upgrade_to_http_2_is_not_passed_on_for_its_requests_would_not_be_seen() -> None:
    reader = RequestReader()
    reader.feed(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n")
    (asked,) = reader.requests
    head = http1.request_head(asked, b"/", b"h", http1.passed(asked.headers, b"host"))
    assert head == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (http1.HEAD_LIMIT + 1), 431),
        (b"GET /" + b"x" * (http1.HEAD_LIMIT + 1), 431),
    ],
    ids=["no Host", "two Hosts", "chunked in 1.0", "a long value", "a long target"],
)
def test_what_may_be_read_in_two_ways_is_no_request(head: bytes, status: int) -> None:
    reader = RequestReader()
    for at in range(0, len(head), 65_536):
        reader.feed(head[at : at + 65_536])
    reader.feed(b"x" * 65_536)
    assert reader.malformed is not None
    assert reader.malformed.status.startswith(b"%d " % status)


UPLOAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "begins",
    [b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX", UPLOAD + b"0\r\nX: ", UPLOAD + b"0\r\nX", UPLOAD + b"3;x="],
    ids=["a value", "a name", "a trailer's value", "a trailer's name", "a chunk's extension"],
)
def test_what_does_not_end_is_given_up_after_a_megabyte(begins: bytes) -> None:
    reader, fed = RequestReader(), 0
    reader.feed(begins)
    while not reader.malformed:
        reader.feed(b"a" * 65_536)
        fed += 65_536
        assert fed <= http1.HEAD_LIMIT + 2 * 65_536
    assert isinstance(reader.malformed, http1.TooLong)


def test_many_small_chunks_are_no_endless_head() -> None:
    reader = RequestReader()
    reader.feed(UPLOAD)
    for _ in range(40):
        reader.feed(b"1\r\na\r\n" * 10_000)
    assert reader.malformed is None
    assert sum(map(len, reader.requests[0].pieces)) == 400_000


@pytest.mark.parametrize("begins", [b"0\r\nX: ", b"3;x="], ids=["a trailer", "a chunk's extension"])
def test_a_response_that_does_not_end_goes_on_to_the_client_and_is_read_no_further(begins: bytes) -> None:
    reader = ResponseReader(b"GET")
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + begins)
    for _ in range(20):
        assert reader.feed(b"a" * 65_536) == [Body(b"a" * 65_536, b"")]
    assert reader.broken
    assert not reader.complete


def test_another_protocol_that_nobody_asked_for_is_no_response() -> None:
    reader = ResponseReader(b"GET", upgrade=False)
    assert [type(piece) for piece in reader.feed(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nabc")] == [Body]
    assert reader.broken


@pytest.mark.parametrize("digits", [b"2", b"0" * 5_000 + b"2"])
def test_a_length_of_any_number_of_digits_is_a_number_for_everyone(digits: bytes) -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + digits + b"\r\n\r\nab")
    (asked,) = reader.requests
    assert (asked.length, asked.value(b"content-length"), asked.complete) == (2, b"2", True)


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "Authorization", "Content-Type", "Set-Cookie"])
def test_connection_cannot_name_a_header_that_says_what_the_message_is(name: str) -> None:
    header = (name.encode(), b"5")
    kept = http1.passed([(b"Connection", name.lower().encode() + b", X-Hop"), header, (b"X-Hop", b"1")])
    assert kept == ([] if name == "Transfer-Encoding" else [header])  # the coding is written with the framing


def test_a_response_is_read_as_any_client_may_read_it() -> None:
    """White space before a colon and NUL in a value are not passed on (RFC 9112, 5.1; RFC 9110, 5.5)."""
    reader = ResponseReader(b"GET")
    head, body = reader.feed(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length : 3\r\n\r\nabc")
    assert isinstance(head, http1.Head)
    assert (head.headers, head.framing, reader.complete) == ([(b"X", b"a b"), (b"Content-Length", b"3")], "length", True)
    assert body == Body(b"abc", b"abc")
