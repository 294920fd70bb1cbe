"""The replay transport: recorded responses in-process, for a client of httpx or httpx2, sync or async, without a socket."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import anyio
import sqlalchemy as sa

from recorder import database, jsontext
from recorder.collect.client import http_client_of
from recorder.collect.transport import Transport, family_of
from recorder.database import DEFAULT_URL
from recorder.errors import Busy
from recorder.projections import runner
from recorder.projections.turn import PATIENCE_SECONDS
from recorder.replay import library
from recorder.replay.divergence import Watch
from recorder.replay.faults import Faulted, plan
from recorder.replay.fidelity import Fidelity
from recorder.replay.match import Asked, Library, Match, Place, decoded
from recorder.replay.playback import Playback, Timed
from recorder.replay.volatile import Volatile

logger = logging.getLogger(__name__)


class ReplayTransport(Transport):
    """A transport that answers with what was recorded, and never goes to the network.

    ids: streams, runs, sessions or threads; without any, all that the database holds. db: its URL; else RECORDER_DB, else
    sqlite:///recorder.db. speed: times the original pace; None, the default: at once. max_gap: seconds that a pause lasts at
    the most. strict: only requests that equal a recorded one are answered. volatile: JSON paths of what may differ in an equal
    one, beside those of recorder.replay.volatile. faults: what is to go wrong, as `cut@137` (recorder.replay.faults).
    fallback: the transport that is asked, on the network if that is its way, for what no recording answers.

    How requests are matched stands in recorder.replay.match; this transport is one client there. What no recording answers
    gets a 404 that names the nearest. A pause longer than the client's own read timeout raises its ReadTimeout. Raises
    DatabaseError, UnknownID, UsageError, and RecorderError where there is nothing to replay.
    """

    def __init__(
        self,
        *ids: str,
        db: str | None = None,
        speed: float | None = None,
        max_gap: float | None = None,
        strict: bool = False,
        volatile: Iterable[str] = (),
        faults: Iterable[str] = (),
        fallback: Any = None,
    ) -> None:
        planned = plan(faults)
        self._engine = database.connect_existing(db or os.environ.get("RECORDER_DB") or DEFAULT_URL, read_only=True)
        try:
            _catch_up(self._engine)
            self._exchanges = library.load(self._engine, ids, strict=strict, volatile=Volatile(volatile))
            library.check(self._engine, self._exchanges.ids, planned)
        except BaseException:
            self._engine.dispose()
            raise
        self.replay: Replay | None = None
        self._place = Place(self._exchanges)
        self._lock = threading.Lock()
        self._speed = speed
        self._max_gap = max_gap
        self._faults = planned
        self._fallback = fallback
        self._watch = Watch(self._engine, self._exchanges, planned, named=bool(ids))

    @property
    def exchanges(self) -> Library:
        """What is replayed."""
        return self._exchanges

    def explained(self, request: Any) -> dict[str, Any]:
        """What a client is told whose request nothing answers."""
        return library.not_found(self._engine, self._exchanges, _asked(request))

    def report(self) -> dict[str, Any]:
        """What was asked so far and how it differs from what was recorded, as `/-/report` of `recorder serve` has it."""
        return self._watch.document()

    def handle_request(self, request: Any) -> Any:
        request.read()
        match, number = self._take(request)
        if match is None:
            if self._fallback:
                return self._fallback.handle_request(request)
            return refusal(request, self.explained(request))
        replayed = self._replayed(request, match, number)
        replayed.wait_for_head()
        return replayed.response(match)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        match, number = self._take(request)
        if match is None:
            if self._fallback:
                return await self._fallback.handle_async_request(request)
            return refusal(request, self.explained(request))
        replayed = self._replayed(request, match, number)
        await replayed.wait_for_head_async()
        return replayed.response(match)

    def close(self) -> None:
        if self._fallback:
            self._fallback.close()
        self._engine.dispose()

    async def aclose(self) -> None:
        if self._fallback:
            await self._fallback.aclose()
        self._engine.dispose()

    def _take(self, request: Any) -> tuple[Match | None, int]:
        """What answers a request, and which of this client's it is."""
        asked = _asked(request)
        with self._lock:
            match = self._place.take(asked)
            number = self._place.asked
            if match is None and self._fallback:
                self._watch.passed_on += 1
            else:
                self._watch.saw(self._place, asked, match)
        return match and library.compared(self._engine, match, asked), number

    def _replayed(self, request: Any, match: Match, number: int) -> Any:
        stream_id, path = match.exchange.stream_id, match.exchange.path[1]
        recorded = library.playback(self._engine, stream_id)
        playback = library.faulted(recorded, self._faults, stream_id, number, path, self._watch.happened)
        timed = playback.timed(self._speed, self._max_gap)
        late = None if self._speed is None else self._watch.fidelity
        return _stream_class(family_of(request))(family_of(request), playback, timed, _patience(request), late)


def refusal(request: Any, error: dict[str, Any]) -> Any:
    """A 404 with this error, for a request of either family."""
    body, family = jsontext.dumps(error).encode(), family_of(request)
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return family.Response(404, headers=headers, stream=family.ByteStream(body))  # a content= could not be read raw


def play(
    client: object,
    *ids: str,
    db: str | None = None,
    speed: float | None = None,
    max_gap: float | None = None,
    strict: bool = False,
    volatile: Iterable[str] = (),
    faults: Iterable[str] = (),
) -> Replay:
    """Have an existing client receive what was recorded, until what this returns is closed (it is a context, too).

    client: as of record(); its transports are set aside meanwhile. The rest: as of ReplayTransport.
    """
    found = http_client_of(client)
    transport = ReplayTransport(*ids, db=db, speed=speed, max_gap=max_gap, strict=strict, volatile=volatile, faults=faults)
    return Replay(found, transport)


class Replay:
    """A client that is given what was recorded; play() makes it."""

    def __init__(self, client: Any, transport: ReplayTransport) -> None:
        self._client = client
        self._transport = transport
        self._before = client._transport, client._mounts
        client._transport, client._mounts = transport, {}
        transport.replay = self

    def report(self) -> dict[str, Any]:
        """What was asked so far and how it differs from what was recorded."""
        return self._transport.report()

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

    patience: seconds without a byte after which the client gives up, as it would on a network. late: counts how far from
    their time chunks were.
    """

    def __init__(
        self, family: Any, playback: Playback | Faulted, timed: Iterator[Timed], patience: float, late: Fidelity | None
    ) -> None:
        self._late = late
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
                self._came(at_us)
                yield chunk
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at_us, chunk in self._timed:
            await self._wait_async(at_us)
            if chunk is not None:
                self._came(at_us)
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

    def _came(self, at_us: float) -> None:
        if self._late is not None:
            self._late.add(-self._left(at_us) * 1e6)

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
    asked = Asked(request.method, path, query, request.content, request.headers.get("content-type"))
    return decoded(asked, request.headers.get("content-encoding"))


def _catch_up(engine: sa.Engine) -> None:
    """Project what is pending, so that sessions are known; where that cannot be written, they are as they were."""
    try:
        runner.catch_up(engine, patience=PATIENCE_SECONDS)
    except Busy as busy:
        logger.warning("sessions may be out of date: %s", busy)
    except sa.exc.DBAPIError as error:
        logger.warning("sessions may be out of date: %s", database.translated(error, database.shown(engine)))
