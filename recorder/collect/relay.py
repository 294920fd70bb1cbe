"""One request and its response on their way through the proxy, and what the log is told of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from recorder.collect import exchange, gate, http1, secrets
from recorder.collect.budget import Budget
from recorder.collect.connection import TURN_BYTES, Client, Connection
from recorder.collect.http1 import Body, Head, Request, RequestReader, ResponseReader
from recorder.collect.origin import Origin, said
from recorder.collect.recording import FULL, Recording
from recorder.collect.writer import Writer

logger = logging.getLogger(__name__)

PIECE_COST = 100
"""Bytes of memory of a piece of a request's body, beside what it holds."""

STRICT_SECONDS = 1.0
"""With strict durability, how long a chunk may wait for its commit."""

NOT_THROUGH = "not recorded: the request's body, which was not through when the response began or all was over"
"""The reason of a gap."""

_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})  # idempotent: RFC 9110, 9.2.2


@dataclass(frozen=True)
class Terms:
    """What the exchanges of a proxy have in common.

    session_header: in lower case; its value labels the session. session: the label without one.
    """

    origin: Origin
    writer: Writer
    strict: bool
    session_header: str
    session: str | None


class Line(Protocol):
    """A client's connection, and the upstream's that goes with it."""

    client: Client
    requests: RequestReader

    async def connected(self) -> tuple[Connection, bool]:
        """The connection to the upstream, and whether it was used before. Raises OSError."""


class Exchange:
    """Passes a request on and its response back. unbounded: the client knows the response's end by that of its connection."""

    def __init__(self, terms: Terms, line: Line, request: Request, target: bytes) -> None:
        self.record = Record(terms, request, target)
        self.unbounded = False
        self._terms = terms
        self._line = line
        self._client = line.client
        self._request = request
        self._target = target
        self._limit = terms.writer.settings.max_request_body
        self._copy = _Copy(self._limit, terms.writer.budget)
        self._head: Head | None = None
        self._interim = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> bool:
        """Until both are through; whether the client's connection goes on. Raises Malformed of the request's body."""
        try:
            return await self._run()
        finally:
            self._copy.forget()

    async def _run(self) -> bool:
        if self._request.length > self._limit:
            self.record.begin(None, exchange.too_large(self._limit))
        while True:
            try:
                upstream, used = await self._line.connected()
            except OSError as error:
                while self._client.holds and not self._request.complete:
                    self._line.requests.feed(await self._client.read())
                self._framed()
                self.record.begin(*(self._copy.whole_or_why() if self._request.complete else (None,)))
                self.record.end("no_response", said(error))
                await self._close()
                return False
            try:
                going_on = await self._over(upstream, used)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                self._tasks.clear()
            if going_on is not None:
                return going_on

    async def _over(self, upstream: Connection, used: bool) -> bool | None:
        """Over this connection. None: the upstream had left it, and the request may be sent again (RFC 9112, 9.3.1)."""
        self._send(upstream)
        reader = ResponseReader(self._request.method, upgrade=self._request.upgrade)
        while not reader.complete:
            data = await upstream.read(TURN_BYTES if reader.framing == "chunked" else None)
            pieces = reader.feed(data) if data else reader.finish(orderly=upstream.error is None)
            if self._terms.strict and pieces:
                await self._commit(pieces, reader.complete)
            for piece in pieces:
                await self._pass(upstream, piece)
            if reader.broken:
                self.record.end("cut" if self._head else "no_response", f"the response is no HTTP: {reader.broken}")
            if not data:
                break
        if reader.complete:
            self.record.end("eof")
            return await self._completed(upstream, reader.excess)
        if used and reader.untouched and not self._interim and self._repeatable():
            return None
        upstream.abort()
        malformed = self._line.requests.malformed
        if malformed and not self._request.complete and self._head is None:
            self.record.end("client_closed", f"the request is no HTTP: {malformed}")
            raise malformed
        why = said(upstream.error) if upstream.error else "the upstream closed the connection before the response was complete"
        self.record.end("cut" if self._head else "no_response", why)
        if upstream.error or self.unbounded:
            await self._client.reset()
        else:
            await self._close()
        return False

    # The request

    def _send(self, upstream: Connection) -> None:
        """Send what there is of it; the rest follows as it comes."""
        request = self._request
        head = http1.request_head(request, self._target, self._terms.origin.header, self._headers())
        upstream.write(head)
        if (whole := self._copy.whole()) and request.complete:  # it was sent before, in vain
            request.pieces.append(whole)
            self._copy.forget()
        if request.complete:
            upstream.write(*self._framed())
            asyncio.get_running_loop().call_soon(self.record.begin, *self._copy.whole_or_why())  # the request goes out first
        else:
            self._tasks.append(asyncio.create_task(self._upload(upstream)))

    async def _upload(self, upstream: Connection) -> None:
        upstream.hold_on()  # the upstream may refuse what comes, and close
        try:
            while True:
                upstream.write(*self._framed())
                await upstream.drained()
                if self._request.complete:
                    self.record.begin(*self._copy.whole_or_why())
                    return
                if self._line.requests.malformed:
                    upstream.abort()
                    return
                data = await self._client.read(TURN_BYTES)
                if not data or upstream.lost.done():
                    return
                self._line.requests.feed(data)
        finally:
            if self._request.complete:
                upstream.let_go()

    def _framed(self) -> list[bytes]:
        """What has come of the body, as it is sent on."""
        request = self._request
        piece = b"".join(request.pieces)  # chunks of one byte go on together
        request.pieces = []
        pieces = [piece] if piece else []
        self._copy.add(piece)
        if not request.chunked:
            return pieces
        return [*map(http1.chunk, pieces), *([http1.LAST_CHUNK] if request.complete else [])]

    def _headers(self) -> http1.Headers:
        terms = self._terms
        own = (b"host", b"accept-encoding", b"trailer", gate.TOKEN_HEADER, terms.session_header.encode("latin-1"))
        headers = [*http1.passed(self._request.headers, *own), (b"Accept-Encoding", b"identity")]
        if terms.origin.credentials and self._request.value(b"authorization") is None:
            headers.append((b"Authorization", terms.origin.credentials))
        return headers

    def _repeatable(self) -> bool:
        return self._request.method in _REPEATABLE and self._request.complete and self._copy.whole() is not None

    # The response

    async def _commit(self, pieces: list[Head | Body], last: bool) -> None:
        """With strict durability: have this on disk before the client gets it."""
        for piece in pieces:
            if isinstance(piece, Body):
                self.record.chunk(piece.decoded, self.record.now())
            elif not piece.interim:
                self.record.response(piece)
        await self.record.committed(last)

    async def _pass(self, upstream: Connection, piece: Head | Body) -> None:
        client, modern = self._client, self._request.version == "1.1"
        if isinstance(piece, Body):
            arrived_us = self.record.now()
            client.write(piece.raw if modern or self._head is None else piece.decoded)
            if not self._terms.strict:
                self.record.chunk(piece.decoded, arrived_us)
            await client.drained()
            return
        coded = http1.value(piece.headers, b"transfer-encoding") is not None
        uncounted = coded or piece.interim  # RFC 9112, 6.3; RFC 9110, 8.6
        headers = http1.passed(piece.headers, *([b"content-length"] if uncounted else []))
        if piece.interim:
            self._interim = True
            if modern:
                client.write(http1.response_head(piece, headers, framed=False, close=False))
            return
        self._head = piece
        self.unbounded = piece.framing == "close" or (piece.framing == "chunked" and not modern)
        if not self._terms.strict:
            self.record.response(piece)
        close = client.leaving or not (self._request.keep_alive and piece.keep_alive)
        client.write(http1.response_head(piece, headers, framed=modern, close=close))
        if piece.framing == "other":
            self.record.gap("another protocol was taken up: what it carries is not recorded")
            self._tasks.append(asyncio.create_task(self._tunnel(upstream)))

    async def _tunnel(self, upstream: Connection) -> None:
        """Pass on what the client sends in the other protocol."""
        data = self._line.requests.beyond or b""
        while not upstream.lost.done():
            upstream.write(data)
            await upstream.drained()
            data = await self._client.read()
            if not data:
                return

    async def _completed(self, upstream: Connection, excess: bool) -> bool:
        """The response is through, but perhaps not the request; whether the connection goes on."""
        request, head = self._request, self._head
        assert head is not None
        if not request.complete and head.keep_alive:
            await asyncio.wait({*self._tasks, upstream.lost}, return_when=asyncio.FIRST_COMPLETED)
        going_on = request.complete and request.keep_alive and head.keep_alive and not excess and not upstream.ended
        if going_on and not self._client.leaving:
            self._line.requests.go_on()
            return True
        upstream.abort()
        await self._close()
        return False

    async def _close(self) -> None:
        """Close the client's connection in an orderly way, whether it is still sending or not."""
        if self._request.complete and not self._client.holds:
            self._client.close()
        else:
            await self._client.finish()


class Record:
    """What the log is told of an exchange. Whatever fails in it is logged, and does not reach the exchange.

    ended: how the exchange ended has been said.
    """

    def __init__(self, terms: Terms, request: Request, target: bytes) -> None:
        self._terms = terms
        self._request = request
        self._target = target
        self._began_ns = time.perf_counter_ns()
        self._started_at = datetime.now(UTC)
        self._recording: Recording | None = None
        self.ended = False
        self._begun = False
        self._last = b""
        self._late: int | None = None  # how many commits there had been when one did not come in time

    @property
    def done(self) -> bool:
        """Whether [DONE] has passed: then the client may leave."""
        return b"[DONE]" in self._last or (self._recording is not None and self._recording.ending.done)

    def now(self) -> int:
        return self._recording.now() if self._recording is not None else 0

    def begin(self, body: bytes | None, missing: str = "") -> None:
        """The request is through, with this body; None where it is not stored, and why. The first call counts.

        Half a body is not stored: it answers no question, and would be taken for a whole one.
        """
        if self._begun:
            return
        self._begun = True
        try:
            terms, request = self._terms, self._request
            headers = [(name.decode("latin-1"), _text(value)) for name, value in request.headers]
            label = next((value for name, value in headers if name.lower() == terms.session_header), None)
            path, _, query = self._target.decode("latin-1").partition("?")
            if terms.writer.settings.skips_path(path):
                return
            if body is None and not missing and request.has_body:
                missing = NOT_THROUGH
            known: secrets.Known = set()
            stream, unread = exchange.begun(
                request.method.decode("latin-1"),
                terms.origin.host,
                path,
                query,
                headers,
                body,
                source="proxy",
                label=label or terms.session,
                limit=terms.writer.settings.max_request_body,
                known=known,
            )
            stream = stream._replace(started_at=self._started_at)
            self._recording = terms.writer.begin(stream, self._began_ns, strict=terms.strict, known=known)
            self._recording.note(missing or unread)
        except Exception as error:  # noqa: BLE001 - here and below: whatever fails, the exchange goes on
            self._give_up(error)

    def response(self, head: Head) -> None:
        self.begin(None)
        if self._recording is None:
            return
        try:
            headers = [(name.decode("latin-1").lower(), _text(value)) for name, value in head.headers]
            named = dict(reversed(headers))
            kept = secrets.headers(headers, secrets.RESPONSE_HEADERS)
            self._recording.response(head.status, kept, named.get("content-type"), named.get("content-encoding"))
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    def chunk(self, body: bytes, arrived_us: int) -> None:
        """A chunk arrived, when now() said so."""
        if self._recording is None or not body:
            return
        self._last = body
        try:
            self._recording.chunk(body, arrived_us)
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    async def committed(self, whole: bool) -> None:
        """Wait until what was recorded is on disk: for STRICT_SECONDS at the most, and then no more until something is again.

        whole: the body is through.
        """
        writer = self._terms.writer
        if self._recording is None or self._late == writer.commits:
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone by then
                loop.call_soon_threadsafe(done.set)

        try:
            if whole:
                self._recording.whole()
            writer.after_commit(tell)
            try:
                await asyncio.wait_for(done.wait(), STRICT_SECONDS)
            except TimeoutError:
                self._late = writer.commits
                self._recording.gap(f"forwarded before it was committed: no commit for {STRICT_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    def gap(self, reason: str) -> None:
        if self._recording is not None:
            self._recording.gap(reason)

    def end(self, closed: str, detail: str | None = None) -> None:
        """The first call counts."""
        self.begin(None)
        if self.ended:
            return
        self.ended = True
        if self._recording is not None:
            try:
                self._recording.end(closed, detail)
            except Exception as error:  # noqa: BLE001
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Record no more of this stream, and say so once."""
        recording, self._recording = self._recording, None
        logger.error("a stream is recorded no further: %s", said(error), exc_info=error)
        with contextlib.suppress(Exception):
            if recording is not None:
                recording.end("lost", f"the recorder failed: {said(error)}")


class _Copy:
    """A request's body for the log, as long as it is not too large, and there is memory for it."""

    def __init__(self, limit: int, budget: Budget) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit = limit
        self._budget = budget
        self._missing = ""

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._missing:
            return
        self._pieces.append(piece)
        self._budget.requests += len(piece) + PIECE_COST
        if self._size > self._limit:
            self._leave(exchange.too_large(self._limit))
        elif self._budget.requests > self._budget.limit // 2:
            self._leave(f"{FULL}: the request's body is not recorded")

    def whole(self) -> bytes | None:
        return None if self._missing else b"".join(self._pieces)

    def whole_or_why(self) -> tuple[bytes | None, str]:
        return self.whole(), self._missing

    def forget(self) -> None:
        self._budget.requests -= sum(map(len, self._pieces)) + PIECE_COST * len(self._pieces)
        self._pieces, self._size = [], 0

    def _leave(self, missing: str) -> None:
        self._missing = missing
        self.forget()


def _text(value: bytes) -> str:
    """A header's value: UTF-8 where it is, else a character for each byte."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
