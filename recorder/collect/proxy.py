"""The recording proxy: it stands before one upstream, passes everything through, and records it.

The upstream is fixed, so a request can name no other. Each client's connection has one of its own to the upstream: the two are
opened, kept and closed together, so a client meets what it would meet without the proxy, down to how a connection ends: closed
where the upstream closed its, reset where it reset it, and closed without a response where it could not be reached. Bodies go
on as they come, in both directions, and no faster than the other side takes them; the tee sees each chunk after it was
forwarded (with strict durability: before).

What differs from the client's own request: the Host is the upstream's; headers that are meant for one connection stay behind
(RFC 9110, 7.6.1), and recorder's own; and the upstream is asked for an unencoded body (`Accept-Encoding: identity`), for an
LLM's stream is rarely compressed, and readable events are worth more than its bytes. What is encoded all the same passes
untouched, and is decoded for the log alone. No Via or Forwarded is added, though a gateway is to add a Via (RFC 9110, 7.6.3):
upstreams decide by it (some compress no more, or close), and the client is to meet what it would meet without the proxy.

What begins with `/-/` is the proxy's own and is not passed on; anything else is. Where the upstream takes up another protocol
(WebSocket), that passes both ways, unrecorded.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from recorder.collect import exchange, gate, http1
from recorder.collect.connection import TURN_BYTES, Client, Connection
from recorder.collect.gate import Names
from recorder.collect.http1 import Request, RequestReader
from recorder.collect.metrics import CONTENT_TYPE, Metrics
from recorder.collect.origin import Origin
from recorder.collect.relay import Exchange, Terms
from recorder.collect.writer import Writer

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 1.0
"""How long the rest of a stream is read on after its client left behind [DONE] (which SDKs do)."""

IDLE_SECONDS = 3600.0
"""How long a connection may be idle. Its two ends know better, and close it when they like: this is for ends that are gone."""

OWN = b"/-/"
"""What the paths of the proxy's own pages begin with."""

_JSON = b"application/json"


class Proxy:
    """Attends to connections of clients; the caller owns the writer.

    upstream: scheme, host and port, no path: path and query are forwarded as they come.
    session_header: the request header whose value labels a session; it is not passed on. session: the label without one.
    token: what a request must carry (gate.py), but for /-/health. names: what it may be called by; those of loopback by default.
    """

    def __init__(
        self,
        upstream: str,
        writer: Writer,
        *,
        strict: bool = False,
        session_header: str = exchange.SESSION_HEADER,
        session: str | None = None,
        token: str | None = None,
        names: Names | None = None,
    ) -> None:
        origin = Origin(upstream)
        self.host = origin.host
        self.leads_to = origin.is_at
        self._terms = Terms(origin, writer, strict, session_header.lower(), session)
        self._token = token
        self._names = names or Names()
        self._metrics = Metrics(writer)

    async def attend(self, client: Client) -> None:
        """Answer a client's requests, one after the other, until its connection ends."""
        line = _Line(client, self._terms.origin)
        try:
            await self._serve(line)
        except Exception:
            logger.exception("a connection failed in the proxy")
        finally:
            line.close()

    async def _serve(self, line: _Line) -> None:
        try:
            while (request := await line.next()) is not None:
                if not await self._answer(line, request):
                    return
        except http1.Malformed as error:
            await _refuse(line.client, error.status, f"the request is no HTTP: {error}", "bad_request")

    async def _answer(self, line: _Line, request: Request) -> bool:
        """Answer a request; whether the connection goes on. Raises Malformed."""
        found = None if request.method == b"CONNECT" else http1.target_of(request.target)
        if found is None:
            what = f"{request.method.decode()} {request.target.decode('latin-1')}"
            return await _refuse(line.client, b"501 Not Implemented", f"{what}: this proxy has one upstream", "bad_target")
        target, authority = found
        if authority is not None and self._terms.origin.is_called(authority):
            authority = None  # somebody made this the proxy for its upstream, which it is
        own = target.partition(b"?")[0] if target.startswith(OWN) else None
        admitted = gate.admitted(self._token, request.headers, b"proxy-authorization")
        if not admitted and own != b"/-/health":
            body = gate.refusal("Proxy-Authorization")
            return await _tell(line.client, request, b"401 Unauthorized", _JSON, body, b"%b: %b" % gate.REALM)
        if authority is not None or not (self._token and admitted):
            refused = self._names.refused(request.headers, authority)
            if refused is not None:
                return await _tell(line.client, request, refused.status, _JSON, refused.body)
        if own == b"/-/health":
            healthy, body = self._metrics.health()
            return await _tell(line.client, request, b"200 OK" if healthy else b"503 Service Unavailable", _JSON, body)
        if own == b"/-/metrics":
            return await _tell(line.client, request, b"200 OK", CONTENT_TYPE, self._metrics.text())
        if own is not None:
            body = gate.error("the recorder has no such page; it has /-/health and /-/metrics", "not_found")
            return await _tell(line.client, request, b"404 Not Found", _JSON, body)
        return await self._relay(line, request, target)

    async def _relay(self, line: _Line, request: Request, target: bytes) -> bool:
        """Pass a request on, and its response back, for as long as the client stays."""
        passing = Exchange(self._terms, line, request, target)
        work = asyncio.create_task(passing.run())
        try:
            ends: set[asyncio.Future[Any]] = {work, line.client.lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if passing.record.done:
                await asyncio.wait({work}, timeout=DRAIN_SECONDS)
            passing.record.end("client_closed")
            return False
        finally:
            if not passing.record.ended:  # the server stops, and waits no longer; or the proxy failed
                if passing.unbounded:
                    line.client.break_off()  # else the client would take what it has got for the whole
                passing.record.end("lost", "the recorder was stopped while this stream was open")
            if not work.done():
                line.leave()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)


class _Line:
    """A client's connection, and the upstream's that goes with it."""

    def __init__(self, client: Client, origin: Origin) -> None:
        self.client = client
        self.requests = RequestReader()
        self._origin = origin
        self._upstream: Connection | None = None

    async def next(self) -> Request | None:
        """The next request of the connection, once its head is there. Raises Malformed."""
        client, requests = self.client, self.requests
        while not requests.requests:
            if requests.malformed:
                raise requests.malformed
            client.idle = requests.idle
            if client.idle and (client.leaving or (self._upstream is not None and self._upstream.ended)):
                return None
            patience = asyncio.get_running_loop().call_later(IDLE_SECONDS, client.abort)
            try:
                data = await client.read(TURN_BYTES)
            finally:
                patience.cancel()
                client.idle = False
            if not data:
                return None
            requests.feed(data)
        return requests.requests.popleft()

    async def connected(self) -> tuple[Connection, bool]:
        """The connection to the upstream, and whether it was used before. Raises OSError."""
        upstream = self._upstream
        if upstream is not None and not upstream.ended and not upstream.holds:
            return upstream, True
        self.leave()
        self._upstream = upstream = await self._origin.connect()
        upstream.lost.add_done_callback(self._upstream_left)
        return upstream, False

    def leave(self) -> None:
        """Close the upstream's connection."""
        if self._upstream is not None:
            self._upstream.abort()

    def close(self) -> None:
        """Close both; what is on its way to a client that is being closed still goes out."""
        self.leave()
        if not self.client.transport.is_closing():
            self.client.close()

    def _upstream_left(self, lost: asyncio.Future[None]) -> None:
        """The upstream closed an idle connection: so does the proxy, for a client knows how to deal with that."""
        if self.client.idle and self._upstream is not None and self._upstream.lost is lost:
            self.client.close()


async def _tell(client: Client, request: Request, status: bytes, content_type: bytes, body: bytes, *headers: bytes) -> bool:
    """Answer with a page of our own; whether the connection goes on."""
    going_on = request.complete and request.keep_alive and not request.upgrade and not client.leaving
    head_only = request.method == b"HEAD"
    client.write(http1.answer(status, body, content_type, *headers, close=not going_on, head_only=head_only))
    await client.drained()
    if not going_on:
        await client.finish()
    return going_on


async def _refuse(client: Client, status: bytes, message: str, code: str) -> bool:
    client.write(http1.answer(status, gate.error(message, code), _JSON, close=True))
    await client.finish()
    return False
