"""The replay transport: recorded responses in-process, for a client of httpx or httpx2, sync or async, without a socket."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

import anyio
import sqlalchemy as sa

from recorder import database, jsontext
from recorder.collect.client import http_client_of
from recorder.collect.transport import Transport, family_of
from recorder.database import DEFAULT_URL
from recorder.projections import runner
from recorder.replay import library
from recorder.replay.match import Asked, Match, Place
from recorder.replay.playback import Playback, Timed
from recorder.replay.timing import schedule

logger = logging.getLogger(__name__)


class ReplayTransport(Transport):
    """A transport that answers with what was recorded, and never goes to the network.

    ids: streams, runs, sessions or threads; without any, all that the database holds. db: its URL; else RECORDER_DB, else
    sqlite:///recorder.db. speed: times the original pace; None, the default: at once. max_gap: seconds that a pause lasts at
    the most. strict: only requests that equal a recorded one are answered.

    How requests are matched stands in recorder.replay.match; this transport is one client there. What no recording answers
    gets a 404 that names the nearest. A pause longer than the client's own read timeout raises its ReadTimeout. Raises
    DatabaseError, UnknownID, and RecorderError where there is nothing to replay.
    """

    def __init__(
        self,
        *ids: str,
        db: str | None = None,
        speed: float | None = None,
        max_gap: float | None = None,
        strict: bool = False,
    ) -> None:
        self._engine = database.connect(db or os.environ.get("RECORDER_DB") or DEFAULT_URL, create=False)
        try:
            _catch_up(self._engine)
            self._exchanges = library.load(self._engine, ids, strict=strict)
        except BaseException:
            self._engine.dispose()
            raise
        self.replay: Replay | None = None
        self._place = Place(self._exchanges)
        self._lock = threading.Lock()
        self._speed = speed
        self._max_gap = max_gap

    def handle_request(self, request: Any) -> Any:
        request.read()
        match = self._take(request)
        if match is None:
            return self._refused(request)
        replayed = self._replayed(request, match)
        replayed.wait_for_head()
        return replayed.response(match)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        match = self._take(request)
        if match is None:
            return self._refused(request)
        replayed = self._replayed(request, match)
        await replayed.wait_for_head_async()
        return replayed.response(match)

    def close(self) -> None:
        self._engine.dispose()

    async def aclose(self) -> None:
        self._engine.dispose()

    def _take(self, request: Any) -> Match | None:
        asked = _asked(request)
        with self._lock:
            match = self._place.take(asked)
        return match and library.compared(self._engine, match, asked)

    def _refused(self, request: Any) -> Any:
        error = jsontext.dumps(library.not_found(self._engine, self._exchanges, _asked(request))).encode()
        return family_of(request).Response(404, headers={"content-type": "application/json"}, content=error)

    def _replayed(self, request: Any, match: Match) -> Any:
        playback = library.playback(self._engine, match.exchange.stream_id)
        timed = schedule(playback.chunks(), self._speed, self._max_gap)
        return _stream_class(family_of(request))(family_of(request), playback, timed, _patience(request))


def play(
    client: object,
    *ids: str,
    db: str | None = None,
    speed: float | None = None,
    max_gap: float | None = None,
    strict: bool = False,
) -> Replay:
    """Have an existing client receive what was recorded, until what this returns is closed (it is a context, too).

    client: as of record(); its transports are set aside meanwhile. The rest: as of ReplayTransport.
    """
    return Replay(http_client_of(client), ReplayTransport(*ids, db=db, speed=speed, max_gap=max_gap, strict=strict))


class Replay:
    """A client that is given what was recorded; play() makes it."""

    def __init__(self, client: Any, transport: ReplayTransport) -> None:
        self._client = client
        self._transport = transport
        self._before = client._transport, client._mounts
        client._transport, client._mounts = transport, {}
        transport.replay = self

    def close(self) -> None:
        """Give the client its own transports back; where another replay was begun on top of this one, once that is closed."""
        if self._client._transport is self._transport:
            self._client._transport, self._client._mounts = self._before
        above = getattr(self._client._transport, "replay", None)
        while isinstance(above, Replay):
            if above._before[0] is self._transport:
                above._before = self._before
            above = getattr(above._before[0], "replay", None)
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Replayed:
    """The stream of a replayed response: its chunks when they are due, and its end as it was.

    patience: seconds without a byte after which the client gives up, as it would on a network.
    """

    def __init__(self, family: Any, playback: Playback, timed: Iterator[Timed], patience: float) -> None:
        self._began = time.perf_counter()
        self._family = family
        self._playback = playback
        self._timed = timed
        self._patience = patience

    def wait_for_head(self) -> None:
        self._wait(next(self._timed)[0])

    async def wait_for_head_async(self) -> None:
        await self._wait_async(next(self._timed)[0])

    def response(self, match: Match) -> Any:
        """The response. Raises the family's error where none ever came."""
        if self._playback.status is None:
            raise self._broken("Server disconnected without sending a response.")
        headers = [*self._playback.headers, *match.headers]
        return self._family.Response(self._playback.status, headers=headers, stream=self)

    def __iter__(self) -> Iterator[bytes]:
        for at_us, chunk in self._timed:
            self._wait(at_us)
            if chunk is not None:
                yield chunk
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at_us, chunk in self._timed:
            await self._wait_async(at_us)
            if chunk is not None:
                yield chunk
        self._end()

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _wait(self, at_us: float) -> None:
        wait = self._left(at_us)
        if wait > 0:
            time.sleep(min(wait, self._patience))
        self._give_up(wait)

    async def _wait_async(self, at_us: float) -> None:
        wait = self._left(at_us)
        if wait > 0:
            await anyio.sleep(min(wait, self._patience))
        self._give_up(wait)

    def _left(self, at_us: float) -> float:
        return self._began + at_us / 1e6 - time.perf_counter()

    def _give_up(self, wait: float) -> None:
        if wait > self._patience:
            raise self._family.ReadTimeout("timed out")

    def _end(self) -> None:
        if self._playback.closed != "eof":
            raise self._broken("peer closed connection without sending complete message body (incomplete chunked read)")

    def _broken(self, otherwise: str) -> Exception:
        """The error with which the connection broke: its own where a client of this kind saw it, else what one would see."""
        name, _, message = self._playback.detail.partition(": ")
        kind = getattr(self._family, name, None) if name.isidentifier() else None
        own = isinstance(kind, type) and issubclass(kind, self._family.TransportError)
        error: Exception = kind(message) if kind and own else self._family.RemoteProtocolError(otherwise)
        return error


def _stream_class(family: Any) -> type:
    return type("Replayed", (_Replayed, family.SyncByteStream, family.AsyncByteStream), {})


def _patience(request: Any) -> float:
    """Seconds that the client waits for more bytes: the read timeout that it gives its transport."""
    seconds = (request.extensions.get("timeout") or {}).get("read")
    return math.inf if seconds is None else float(seconds)


def _asked(request: Any) -> Asked:
    path, _, query = request.url.raw_path.decode("latin-1").partition("?")
    return Asked(request.method, path, query, request.content, request.headers.get("content-type"))


def _catch_up(engine: sa.Engine) -> None:
    """Project what is pending, so that sessions are known; where that cannot be written, they are as they were."""
    try:
        runner.catch_up(engine)
    except sa.exc.DBAPIError as error:
        logger.warning("sessions may be out of date: %s", database.translated(error, database.shown(engine)))
