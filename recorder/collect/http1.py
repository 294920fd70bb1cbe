"""HTTP/1.1 as the proxy reads it (RFC 9112): bytes as they come → heads, and what of a body was decoded. Pure.

A response is not rebuilt: its body's bytes go on with the framing that they came in, and reading them says only where the
response ends and what the log is to hold. So a client meets what the upstream sent to the byte, a broken chunk too. What
cannot be read is handed on as it came, to be as broken for the client as it would be without a proxy. Heads are written anew,
without the headers that are meant for one connection; names, values and their order stay, and the reason too.

A request's body is decoded, and framed again as its head says.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import httptools

HEAD_LIMIT = 1024 * 1024
"""Bytes of a head from which on it is refused."""

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110, 7.6.1: for one connection only, as are the headers that Connection names, but for those below."""

_END_TO_END = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"age",
        b"api-key",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"etag",
        b"expect",
        b"host",
        b"last-modified",
        b"location",
        b"origin",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"transfer-encoding",
        b"vary",
        b"www-authenticate",
        b"x-api-key",
    }
)
"""Headers that Connection cannot name, for they say what the message is and whose (RFC 9110, 7.6.1). Without them the body of a
request would be a request of its own to the upstream, and a response would not end."""

_SPACE_BEFORE_COLON = re.compile(rb"^([^\s:]+)[ \t]+:", re.MULTILINE)
_BLANK_LINES = re.compile(rb"[\r\n]+")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_LENIENCIES = (
    "lenient_headers",
    "lenient_chunked_length",
    "lenient_keep_alive",
    "lenient_transfer_encoding",
    "lenient_version",
    "lenient_data_after_close",
    "lenient_optional_cr_before_lf",
    "lenient_optional_crlf_after_chunk",
    "lenient_spaces_after_chunk_size",
)


class Malformed(Exception):
    """A request that is no HTTP; it says why. status: of the response to it."""

    status = b"400 Bad Request"


class TooLong(Malformed):
    """What comes before or after a body does not end."""

    status = b"431 Request Header Fields Too Large"

    def __init__(self) -> None:
        super().__init__(f"the head is longer than {HEAD_LIMIT:,} bytes")


class Patience:
    """Bounds the bytes that a parser holds while it gives nothing: an endless header, trailer or chunk extension."""

    __slots__ = ("_before", "_silent", "given")

    def __init__(self) -> None:
        self.given = 0  # what the parser has given so far: callbacks, counted
        self._before = self._silent = 0

    def ends(self, size: int) -> bool:
        """Whether it has been fed HEAD_LIMIT bytes for nothing; size: of the bytes just fed."""
        self._silent = self._silent + size if self.given == self._before else 0
        self._before = self.given
        return self._silent > HEAD_LIMIT


class Request:
    """A request as it comes: `pieces` of its body that have come, and whether it is `complete`."""

    __slots__ = ("chunked", "complete", "expects", "headers", "keep_alive", "method", "pieces", "target", "upgrade", "version")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.version = ""
        self.headers: Headers = []
        self.keep_alive = True
        self.upgrade = False
        self.chunked = False
        self.pieces: list[bytes] = []
        self.complete = False

    def value(self, name: bytes) -> bytes | None:
        return value(self.headers, name)

    @property
    def length(self) -> int:
        """Bytes of the body, as its Content-Length says; 0 without one. (The parser takes lengths below 2**64 alone.)"""
        return int(self.value(b"content-length") or 0)

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0


class RequestReader:
    """Reads the requests of a connection, pipelined ones too: feed() appends them to `requests` once their head is there.

    malformed: why it reads no further; the requests before that stand.
    """

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.malformed: Malformed | None = None
        self.beyond: bytes | None = None  # what came after a request that asks for another protocol, and may be of it
        self.idle = True  # nothing of a next request has come
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._request = Request()
        self._targets: list[bytes] = []
        self._in_head = self._resuming = False
        self._size = 0
        self._patience = Patience()

    def feed(self, data: bytes) -> None:
        if self.malformed:
            return
        if self.beyond is not None:
            self.beyond += data
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            beyond = data[upgrade.args[0] :]
            if self._request.has_body:
                self._read_body(beyond)
            else:
                self.beyond = beyond
        except httptools.HttpParserError as error:
            said = error.__context__
            self.malformed = said if isinstance(said, Malformed) else Malformed(str(said or error))
        if not self.malformed and not self.idle and self._patience.ends(len(data)):
            self.malformed = TooLong()

    def go_on(self) -> None:
        """The other protocol was not taken up: what came after its request is HTTP as well."""
        beyond, self.beyond = self.beyond, None
        if beyond:
            self.feed(beyond)

    def _read_body(self, data: bytes) -> None:
        """Go on with the body of a request that asks for another protocol, and will not get it: the parser takes it for that."""
        request = self._request
        request.upgrade = request.complete = False
        framing = [(name, value) for name, value in request.headers if name.lower() in (b"content-length", b"transfer-encoding")]
        self._parser = httptools.HttpRequestParser(self)
        self._resuming = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % header for header in framing))
        self._resuming = self.idle = False
        self.feed(data)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        self._request, self._targets = Request(), []
        self._in_head, self.idle, self._size = True, False, 0
        self._patience.given += 1

    def on_url(self, part: bytes) -> None:
        if self._resuming:
            return
        self._grow(len(part))
        self._targets.append(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        if self._in_head:  # else it is a trailer, which is dropped (RFC 9112, 7.1.2)
            self._request.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        self._in_head = False
        self._patience.given += 1
        request = self._request
        request.target = b"".join(self._targets)
        request.method = self._parser.get_method()
        request.version = self._parser.get_http_version()
        if request.version not in ("1.0", "1.1"):
            raise Malformed(f"it is of version {request.version}")
        if wrong := hosts_amiss(request.headers, request.version):
            raise Malformed(wrong)
        request.keep_alive = request.version == "1.1" and self._parser.should_keep_alive()
        request.upgrade = self._parser.should_upgrade() and b"h2c" not in tokens(request.headers, b"upgrade")
        codings = tokens(request.headers, b"transfer-encoding")
        if codings and (codings != [b"chunked"] or request.version == "1.0"):  # RFC 9112, 6.1
            raise Malformed("Transfer-Encoding is other than chunked, or of HTTP/1.0")
        request.chunked = bool(codings)
        request.headers = [_plain_length(*header) for header in request.headers]
        self.requests.append(request)

    def on_body(self, part: bytes) -> None:
        self._patience.given += 1
        self._request.pieces.append(part)

    def on_message_complete(self) -> None:
        self._patience.given += 1
        self._request.complete = self.idle = True

    def _grow(self, size: int) -> None:
        self._patience.given += 1
        self._size += size
        if self._size > HEAD_LIMIT:
            raise TooLong


class Head(NamedTuple):
    """A response's. framing: none, length, chunked, close (the body ends with the connection), or other: another protocol."""

    status: int
    reason: bytes
    headers: Headers
    framing: str
    keep_alive: bool

    @property
    def interim(self) -> bool:
        return self.status < 200 and self.status != 101

    def value(self, name: bytes) -> bytes | None:
        return value(self.headers, name)


class Body(NamedTuple):
    """Bytes of a body as they came, and what of it they are once their framing is taken off."""

    raw: bytes
    decoded: bytes


class ResponseReader:
    """Reads the response to one request: feed() says what the bytes amount to, interim heads (1xx) included.

    complete: it is there as a whole. broken: why it can be read no further; what comes after that is a Body of no content.
    excess: more came than the response. framing: of its head, once that is there. upgrade: whether the request asks for another
    protocol.
    """

    def __init__(self, method: bytes, *, upgrade: bool = True) -> None:
        self.complete = self.excess = False
        self.untouched = True  # nothing has come
        self.broken: str | None = None
        self.framing: str | None = None
        self._method = method
        self._upgrade = upgrade
        self._held = bytearray()
        self._scan = 0
        self._patience = Patience()
        self._parser: httptools.HttpResponseParser | None = None
        self._reason = b""
        self._headers: Headers = []
        self._begun = self._in_body = False
        self._decoded: list[bytes] = []

    def feed(self, data: bytes) -> list[Head | Body]:
        if self.framing is not None:
            return [self._body(data)]
        if self.broken:
            return [Body(data, b"")]
        found: list[Head | Body] = []
        self.untouched = False
        held = self._held
        held += data
        while self.framing is None and not self.broken:
            if not self._scan and (blank := _BLANK_LINES.match(held)):
                del held[: blank.end()]  # before a head they say nothing, and might be taken for its end
            end = _END_OF_HEAD.search(held, self._scan)
            if not end:
                self._scan = max(len(held) - 3, self._scan)
                if len(held) > HEAD_LIMIT:
                    self.broken = f"the head is longer than {HEAD_LIMIT:,} bytes"
                break
            head = self._head(bytes(held[: end.end()]))
            if head is None:
                break
            found.append(head)
            del held[: end.end()]
            self._scan = 0
            if not head.interim:
                self.framing = head.framing
                self.complete = head.framing == "none"
        if self.framing is not None or self.broken:
            rest = bytes(held)
            held.clear()
            if self.broken:
                found.append(Body(rest, b""))
            elif rest:
                found.append(self._body(rest))
        return found

    def finish(self, *, orderly: bool) -> list[Head | Body]:
        """The connection ended: so may the body, if that was orderly. The beginning of a head is handed on as it is."""
        if self.framing in ("close", "other") and orderly:
            self.complete = True
        return [Body(bytes(self._held), b"")] if self._held and self.framing is None and not self.broken else []

    def _head(self, data: bytes) -> Head | None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**dict.fromkeys(_LENIENCIES, True))
        self._reason, self._headers, self._begun, self._in_body = b"", [], False, False
        try:
            self._parser.feed_data(_SPACE_BEFORE_COLON.sub(rb"\1:", data))  # which a proxy is to remove (RFC 9112, 5.1)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self.broken = str(error)
        if not self._begun or self.broken:
            self.broken = self.broken or "its head does not end"
            self.complete = False
            return None
        status = self._parser.get_status_code()
        if status == 101 and not self._upgrade:
            self.broken = "it takes up another protocol, which nobody asked for"
            return None
        close = self._parser.get_http_version() != "1.1" or b"close" in tokens(self._headers, b"connection")
        framing = self._framing(status)
        self.complete = False  # the parser knows neither the method nor that an interim head is not all
        return Head(status, self._reason, self._headers, framing, not close and framing not in ("close", "other"))

    def _framing(self, status: int) -> str:
        """RFC 9112, 6.3."""
        if status == 101:
            return "other"
        if self._method == b"HEAD" or status < 200 or status in (204, 304):
            return "none"
        codings = tokens(self._headers, b"transfer-encoding")
        if codings:
            return "chunked" if codings[-1] == b"chunked" else "close"
        length = value(self._headers, b"content-length")
        if length is None:
            return "close"
        return "none" if not length.strip(b"0") else "length"

    def _body(self, data: bytes) -> Body:
        if self.framing in ("close", "other") or self.broken:
            return Body(data, b"" if self.broken or self.framing == "other" else data)
        if self.complete:
            self.excess = True
            return Body(data, b"")
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                self.broken = str(error)
        if not self.complete and self._patience.ends(len(data)):
            self.broken = f"what follows its chunks is longer than {HEAD_LIMIT:,} bytes"
        if self.broken:
            self._parser = None  # with what it holds
        decoded = self._decoded[0] if len(self._decoded) == 1 else b"".join(self._decoded)
        self._decoded.clear()
        return Body(data, decoded)

    # What the parser calls

    def on_status(self, part: bytes) -> None:
        self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._patience.given += 1
        if not self._begun:  # else it is a trailer, which goes on with the body's framing
            self._headers.append((name, value.replace(b"\0", b" ")))  # RFC 9110, 5.5

    def on_headers_complete(self) -> None:
        self._begun = True

    def on_body(self, part: bytes) -> None:
        self._patience.given += 1
        if not self.complete:
            self._decoded.append(part)

    def on_message_begin(self) -> None:
        if self.complete:
            self.excess = True

    def on_message_complete(self) -> None:
        self.complete = True


def value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value under a name, which is given in lower case."""
    return next((value for key, value in headers if key.lower() == name), None)


def hosts_amiss(headers: Iterable[tuple[bytes, bytes]], version: str) -> str | None:
    """Why a request of this version may name two hosts, or none (RFC 9112, 3.2)."""
    count = sum(name.lower() == b"host" for name, _ in headers)
    return f"it has {count or 'no'} Host headers" if count > 1 or (not count and version == "1.1") else None


def tokens(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """What the comma-separated values under a name list, in lower case."""
    return [
        token for key, value in headers if key.lower() == name for part in value.split(b",") if (token := part.strip().lower())
    ]


def passed(headers: Headers, *dropped: bytes) -> Headers:
    """Without those of the connection, those that it may name and does, and those of these names."""
    without = {*_HOP_BY_HOP, *(set(tokens(headers, b"connection")) - _END_TO_END), *dropped}
    return [(name, value) for name, value in headers if name.lower() not in without]


def request_head(request: Request, target: bytes, host: bytes, headers: Headers) -> bytes:
    """The head of a request that is sent on: with this target and host, these headers, and its framing."""
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (request.method, target, host)]
    lines += [b"%b: %b\r\n" % header for header in headers]
    if request.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if request.upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (request.value(b"upgrade") or b""))
    elif not request.keep_alive:
        lines.append(b"Connection: close\r\n")
    return b"".join((*lines, b"\r\n"))


def response_head(head: Head, headers: Headers, *, framed: bool, close: bool) -> bytes:
    """The head of a response that is passed on with these headers. framed: its body keeps its transfer coding."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    lines += [b"%b: %b\r\n" % header for header in headers]
    if framed:
        lines += [b"%b: %b\r\n" % header for header in head.headers if header[0].lower() == b"transfer-encoding"]
    if head.framing == "other":
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (head.value(b"upgrade") or b""))
    elif close:
        lines.append(b"Connection: close\r\n")
    return b"".join((*lines, b"\r\n"))


def answer(status: bytes, body: bytes, content_type: bytes, *more: bytes, close: bool, head_only: bool = False) -> bytes:
    """A whole response of our own. status: with its reason. more: header lines. head_only: without its body."""
    lines = [b"HTTP/1.1 %b" % status, b"Content-Type: %b" % content_type, b"Content-Length: %d" % len(body), *more]
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join((*lines, b"", b"" if head_only else body))


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


LAST_CHUNK = b"0\r\n\r\n"


class Target(NamedTuple):
    """A request's target: the path and query, and the authority (user, host and port) of the absolute form."""

    path: bytes
    authority: bytes | None


def target_of(target: bytes) -> Target | None:
    """A request's target, taken apart (RFC 9112, 3.2); None for one that names no resource, as of CONNECT."""
    if target[:1] == b"/" or target == b"*":
        return Target(target, None)
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return None
    authority = re.match(rb"[^/?#]*", rest)
    assert authority
    rest = rest[authority.end() :]
    return Target(rest if rest.startswith(b"/") else b"/" + rest, authority[0])


def _plain_length(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A Content-Length without leading zeros: of any number of digits, and not every server reads them all."""
    return (name, value.strip().lstrip(b"0") or b"0") if name.lower() == b"content-length" else (name, value)
