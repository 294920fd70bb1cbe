"""The replay transport: recorded responses in-process, for a client of httpx or httpx2, sync or async, without a socket."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
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
from recorder.replay.playback import Playback
from recorder.replay.timing import schedule

logger = logging.getLogger(__name__)


class ReplayTransport(Transport):
    """A transport that answers with what was recorded, and never goes to the network.

    ids: streams, runs, sessions or threads; without any, all that the database holds. db: its URL; else RECORDER_DB, else
    sqlite:///recorder.db. speed: times the original pace; None, the default: at once. max_gap: seconds that a pause lasts at
    the most. strict: only requests that equal a recorded one are answered.

    How requests are matched stands in recorder.replay.match; this transport is one client there. What no recording answers
    gets a 404 that names the nearest. Raises DatabaseError, UnknownID, and RecorderError where there is nothing to replay.
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
        self._place = Place(self._exchanges)
        self._lock = threading.Lock()
        self._speed = speed
        self._max_gap = max_gap

    def handle_request(self, request: Any) -> Any:
        request.read()
        response, timed = self._answer(request)
        for pause in timed:
            time.sleep(pause)
        return response()

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        response, timed = self._answer(request)
        for pause in timed:
            await anyio.sleep(pause)
        return response()

    def close(self) -> None:
        self._engine.dispose()

    async def aclose(self) -> None:
        self._engine.dispose()

    def _answer(self, request: Any) -> tuple[Callable[[], Any], Iterator[float]]:
        """How to make the response, and the pauses (seconds) to wait before that: until its head is due."""
        family = family_of(request)
        asked = _asked(request)
        with self._lock:
            match = self._place.take(asked)
        if match is None:
            error = jsontext.dumps(library.not_found(self._engine, self._exchanges, asked)).encode()
            return lambda: family.Response(404, headers={"content-type": "application/json"}, content=error), iter(())
        began = time.perf_counter()
        playback = library.playback(self._engine, match.exchange.stream_id)
        timed = schedule(playback.chunks(), self._speed, self._max_gap)

        def respond() -> Any:
            if playback.status is None:
                raise _broken(family, playback, "Server disconnected without sending a response.")
            stream = _stream_class(family)(family, playback, timed, began)
            return family.Response(playback.status, headers=[*playback.headers, *_own(match)], stream=stream)

        return respond, (wait for at_us, _ in _first(timed) if (wait := began + at_us / 1e6 - time.perf_counter()) > 0)


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

    def close(self) -> None:
        """Give the client its own transports back."""
        if self._client._transport is self._transport:
            self._client._transport, self._client._mounts = self._before
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Replayed:
    """The stream of a replayed response: its chunks when they are due, and its end as it was."""

    def __init__(self, family: Any, playback: Playback, timed: Iterator[tuple[float, bytes]], began: float) -> None:
        self._family = family
        self._playback = playback
        self._timed = timed
        self._began = began

    def __iter__(self) -> Iterator[bytes]:
        for at_us, chunk in self._timed:
            if (wait := self._began + at_us / 1e6 - time.perf_counter()) > 0:
                time.sleep(wait)
            yield chunk
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at_us, chunk in self._timed:
            if (wait := self._began + at_us / 1e6 - time.perf_counter()) > 0:
                await anyio.sleep(wait)
            yield chunk
        self._end()

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _end(self) -> None:
        if self._playback.closed != "eof":
            reason = "peer closed connection without sending complete message body (incomplete chunked read)"
            raise _broken(self._family, self._playback, reason)


def _stream_class(family: Any) -> type:
    return type("Replayed", (_Replayed, family.SyncByteStream, family.AsyncByteStream), {})


def _broken(family: Any, playback: Playback, otherwise: str) -> Exception:
    """The error with which a recorded connection broke: its own where a client of this kind saw it, else what one would see."""
    error: Exception
    name, _, message = playback.detail.partition(": ")
    kind = getattr(family, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, family.TransportError):
        error = kind(message)
    else:
        error = family.RemoteProtocolError(otherwise)
    return error


def _first(timed: Iterator[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    head = next(timed, None)
    if head is not None:
        yield head


def _own(match: Match) -> list[tuple[str, str]]:
    return [("x-recorder-stream", match.exchange.stream_id), ("x-recorder-match", match.rung)]


def _asked(request: Any) -> Asked:
    path, _, query = request.url.raw_path.decode("latin-1").partition("?")
    return Asked(request.method, path, query, request.content, request.headers.get("content-type"))


def _catch_up(engine: sa.Engine) -> None:
    """Project what is pending, so that sessions are known; where that cannot be written, they are as they were."""
    try:
        runner.catch_up(engine)
    except sa.exc.DBAPIError as error:
        logger.warning("sessions may be out of date: %s", database.translated(error, database.shown(engine)))
