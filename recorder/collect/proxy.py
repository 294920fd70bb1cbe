"""The recording proxy: an ASGI application in front of one upstream that passes everything through and records it.

The upstream is fixed, so a request can name no other. Bodies are relayed as they come, in both directions, unbuffered; the
tee sees each chunk after it was forwarded (with strict durability: before). The upstream is asked for an unencoded body
(`Accept-Encoding: identity`): an LLM's stream is rarely compressed, and readable events are worth more than its bytes; what
is encoded all the same passes through untouched, and is decoded for the log alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from recorder import jsontext
from recorder.collect import exchange, secrets
from recorder.collect.writer import Recording, Writer
from recorder.errors import UsageError
from recorder.log import Stream

logger = logging.getLogger(__name__)

STRICT_SECONDS = 1.0
"""With strict durability, how long a chunk may wait for its commit."""

DRAIN_SECONDS = 1.0
"""How long the rest of a stream is read on after its client left behind [DONE] (which SDKs do)."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, 7.6.1: for one connection only, with what the Connection header names beside."""

_NOT_FORWARDED = _HOP_BY_HOP | {"host", "accept-encoding", "content-length", "expect"}


class Proxy:
    """The ASGI application. Its lifespan opens the client; the caller owns the writer.

    upstream: scheme, host and port, no path: path and query are forwarded as they come.
    session_header: the request header whose value labels a session; it is not passed on. session: the label without one.
    """

    def __init__(
        self,
        upstream: str,
        writer: Writer,
        *,
        strict: bool = False,
        session_header: str = exchange.SESSION_HEADER,
        session: str | None = None,
    ) -> None:
        self.origin = _origin(upstream)
        self.host = urlsplit(self.origin).netloc.rpartition("@")[2]
        self._writer = writer
        self._strict = strict
        self._session_header = session_header.lower()
        self._session = session
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._relay(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=256 * 1024,
            max_line_size=65536,
            max_field_size=65536,
        ) as self._client:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._client is not None
        headers = [(name.decode("latin-1"), _header_text(value)) for name, value in scope["headers"]]
        body = _RequestBody(receive)
        whole = await body.head(headers)
        if body.left:
            return
        recording = self._writer.begin(self._stream(scope, headers, whole))
        call = asyncio.create_task(self._forward(scope, headers, body, whole, recording, send))
        gone = asyncio.create_task(body.disconnected())
        try:
            await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                if recording.ending.done:
                    await asyncio.wait({call}, timeout=DRAIN_SECONDS)
                call.cancel()
                recording.end("client_closed")
            await asyncio.gather(call, return_exceptions=True)
            if not call.cancelled() and (error := call.exception()) is not None:
                logger.error("a request failed in the proxy: %r", error)
        except asyncio.CancelledError:  # the server ends, and waits no longer
            recording.end("lost", "the recorder was closed while this stream was open")
            raise
        finally:
            call.cancel()
            gone.cancel()
            recording.end("client_closed")

    async def _forward(
        self,
        scope: Scope,
        headers: list[tuple[str, str]],
        body: _RequestBody,
        whole: bytes | None,
        recording: Recording,
        send: Send,
    ) -> None:
        assert self._client is not None
        url = URL(
            self.origin
            + scope["raw_path"].decode("latin-1")
            + ("?" + query if (query := scope["query_string"].decode("latin-1")) else ""),
            encoded=True,
        )
        data: bytes | AsyncIterator[bytes] | None = whole if whole is not None else body.chunks()
        try:
            response = await self._client.request(
                scope["method"],
                url,
                headers=self._upstream_headers(headers, whole),
                data=data or None,
                allow_redirects=False,
            )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            recording.end("client_closed" if body.left else "no_response", _said(error))
            await _bad_gateway(send, f"recorder could not reach {self.host}: {_said(error)}")
            return
        try:
            await self._respond(response, recording, send)
        finally:
            response.close()

    async def _respond(self, response: aiohttp.ClientResponse, recording: Recording, send: Send) -> None:
        raw = [(name.lower(), value) for name, value in response.raw_headers]
        named = {token.strip().lower() for name, value in raw if name == b"connection" for token in value.split(b",")}
        dropped = {name.encode() for name in _HOP_BY_HOP} | named
        if response.status == 304:
            dropped.add(b"content-length")  # of what is not sent: the server would wait for it
        passed = [(name, value) for name, value in raw if name not in dropped]
        text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
        kept = secrets.headers(text, secrets.RESPONSE_HEADERS)
        recording.response(response.status, kept, response.headers.get("content-type"), response.headers.get("content-encoding"))
        await send({"type": "http.response.start", "status": response.status, "headers": passed})
        closed, detail = "eof", None
        try:
            async for chunk in _chunks(response.content):
                if self._strict:
                    await self._committed(recording, chunk)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                else:
                    arrived_us = recording.now()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    recording.chunk(chunk, arrived_us)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            closed, detail = "cut", _said(error)
        recording.end(closed, detail)
        if closed == "eof":  # else the server closes the connection without an end, as the upstream did
            await send({"type": "http.response.body", "body": b""})

    async def _committed(self, recording: Recording, chunk: bytes) -> None:
        """Record a chunk and wait until it is on disk, for STRICT_SECONDS at the most."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone by then
                loop.call_soon_threadsafe(done.set)

        recording.chunk(chunk)
        self._writer.after_commit(tell)
        try:
            await asyncio.wait_for(done.wait(), STRICT_SECONDS)
        except TimeoutError:
            recording.gap(f"forwarded before it was committed: no commit for {STRICT_SECONDS:g} s")

    def _stream(self, scope: Scope, headers: list[tuple[str, str]], body: bytes | None) -> Stream:
        return exchange.begun(
            scope["method"],
            self.host,
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            headers,
            body,
            source="proxy",
            label=next((value for name, value in headers if name.lower() == self._session_header), None) or self._session,
        )

    def _upstream_headers(self, headers: list[tuple[str, str]], whole: bytes | None) -> CIMultiDict[str]:
        named = {token.strip().lower() for name, value in headers if name.lower() == "connection" for token in value.split(",")}
        dropped = _NOT_FORWARDED | named | {self._session_header}
        passed = CIMultiDict((name, value) for name, value in headers if name.lower() not in dropped)
        passed["Accept-Encoding"] = "identity"
        if whole is None and (length := next((value for name, value in headers if name.lower() == "content-length"), None)):
            passed["Content-Length"] = length
        elif whole == b"" and any(name.lower() == "content-length" for name, _ in headers):
            passed["Content-Length"] = "0"
        return passed


class _RequestBody:
    """The request's body, whole where it is small enough to be recorded, else streamed on as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._first = b""
        self._over = False
        self.left = False
        self._read = asyncio.Event()

    async def head(self, headers: list[tuple[str, str]]) -> bytes | None:
        """The whole body, or None where it is too large: then chunks() has it."""
        held = bytearray()
        length = next((value for name, value in headers if name.lower() == "content-length"), "0")
        if length.isdigit() and int(length) > exchange.BODY_LIMIT:
            return None
        while not self._over:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.left = True
                return b""
            held += message.get("body", b"")
            self._over = not message.get("more_body", False)
            if len(held) > exchange.BODY_LIMIT and not self._over:
                self._first = bytes(held)
                return None
        self._read.set()
        return bytes(held)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._first:
            yield self._first
        while not self._over:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.left = True
                raise ConnectionResetError("the client left while sending its request")
            self._over = not message.get("more_body", False)
            if message.get("body"):
                yield message["body"]
        self._read.set()

    async def disconnected(self) -> None:
        """Returns when the client is gone."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _header_text(value: bytes) -> str:
    """A header's value such that aiohttp, which writes UTF-8, sends the same bytes on wherever they are UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _bad_gateway(send: Send, message: str) -> None:
    error = {"message": message, "type": "upstream_error", "param": None, "code": "no_response"}
    body = jsontext.dumps({"error": error}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 502,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _chunks(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """What arrived, as it arrived; also what had arrived before the connection broke, which aiohttp would keep to itself."""
    try:
        async for chunk in content.iter_any():
            yield chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        if rest := content._read_nowait(-1):
            yield rest
        raise


def _said(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the upstream closed the connection before the response was complete"
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__


def _origin(upstream: str) -> str:
    parts = urlsplit(upstream if "//" in upstream else f"https://{upstream}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--upstream {upstream!r} is no origin; write scheme, host and port: https://api.openai.com")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if port == -1:
        raise UsageError(f"--upstream {upstream!r} has no port that exists; write a number up to 65535")
    if parts.path not in ("", "/") or parts.query:
        raise UsageError(f"--upstream {upstream!r} has a path; give the origin only, the client's own path is forwarded")
    return f"{parts.scheme}://{parts.netloc}"
