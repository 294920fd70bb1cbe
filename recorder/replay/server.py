"""The replay server: an ASGI application that answers requests with the recorded responses, at their pace or as asked.

It sends nothing to any network. Each response says in headers which stream it is (X-Recorder-Stream) and which rung of
match.py found it (X-Recorder-Match).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack
from itertools import islice
from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.replay import library
from recorder.replay.match import Asked, Library, Match, Places
from recorder.replay.playback import Playback, Timed
from recorder.replay.timing import schedule

logger = logging.getLogger(__name__)

CLIENT_HEADER = b"x-recorder-client"
"""The request header by which a client names itself, to have a place of its own in the session."""

BATCH = 256
"""Chunks that are read ahead: the next ones are fetched while these are sent."""

LINGER_SECONDS = 5.0
"""How long a connection that its recorded client left stays open after that: this client is to leave by itself, first."""

SETTLE_TURNS = 10
"""Turns of the event loop before a new connection is given its place: the client that opened it may have closed another just
before, as SDKs do at [DONE], and the loop is to see that first."""

_EARLY_SECONDS = 0.0005  # the loop's timers count in ms: what is this near is due

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Marked = tuple[float, bytes | None, bool]


class Replayer:
    """The ASGI application over the exchanges of a library.

    speed: times the original pace; None: all at once. max_gap: seconds that a pause lasts at the most, before speed.
    served, unmatched: how many requests were answered, and how many were not.
    """

    def __init__(self, engine: sa.Engine, exchanges: Library, *, speed: float | None = 1.0, max_gap: float | None = None) -> None:
        self.served = self.unmatched = 0
        self._engine = engine
        self._exchanges = exchanges
        self._places = Places(exchanges)
        self._speed = speed
        self._max_gap = max_gap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
        elif scope["type"] == "http":
            asked = await _asked(scope, receive)
            if asked is not None:
                await self._answer(scope, asked, receive, send)

    async def _answer(self, scope: Scope, asked: Asked, receive: Receive, send: Send) -> None:
        named = next((value.decode("latin-1") for name, value in scope["headers"] if name == CLIENT_HEADER), None)
        connection = scope["recorder.connection"]
        if named is None and not self._places.knows(connection):
            for _ in range(SETTLE_TURNS):
                await asyncio.sleep(0)
        place = self._places.enter(asked, connection, named)
        with ExitStack() as seat:
            seat.callback(self._places.leave, place, named is not None)
            match = place.take(asked)
            if match is None:
                seat.close()
                self.unmatched += 1
                await _refuse(send, await asyncio.to_thread(library.not_found, self._engine, self._exchanges, asked))
                return
            self.served += 1
            if match.rung != "exact":
                match = await asyncio.to_thread(library.compared, self._engine, match, asked)
            playing = asyncio.create_task(self._play(match, scope, send, seat.close))
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait({playing, gone}, return_when=asyncio.FIRST_COMPLETED)
                if playing.done():
                    playing.result()
            finally:
                seat.close()  # first of all: its client may be back over another connection already
                for task in (playing, gone):
                    task.cancel()
                await asyncio.gather(playing, gone, return_exceptions=True)

    async def _play(self, match: Match, scope: Scope, send: Send, leave: Callable[[], None]) -> None:
        """Send the recorded response as it came; where its connection broke, break this one.

        leave: called before what may be the last byte goes out, with which the client may be off and back.
        """
        began = asyncio.get_running_loop().time()
        playback = await asyncio.to_thread(library.playback, self._engine, match.exchange.stream_id)
        timed = _marked(schedule(playback.chunks(), self._speed, self._max_gap))
        upcoming = asyncio.create_task(asyncio.to_thread(_next, timed))
        try:
            while batch := await upcoming:
                upcoming = asyncio.create_task(asyncio.to_thread(_next, timed))
                for at_us, chunk, is_last in batch:
                    await _until(began + at_us / 1e6)
                    if is_last:
                        leave()
                    if chunk:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    elif chunk is not None:
                        await send(
                            {"type": "http.response.start", "status": playback.status, "headers": _headers(playback, match)}
                        )
                await asyncio.sleep(0)  # others' turn: a send that need not wait does not give way
        finally:
            await asyncio.wait({upcoming})  # its thread reads on the database, which may be closed next
        if playback.closed == "eof":
            await send({"type": "http.response.body", "body": b""})
            return
        if playback.left and self._speed is not None:
            await asyncio.sleep(LINGER_SECONDS)
        scope["recorder.connection"].transport.close()


def _marked(timed: Iterable[Timed]) -> Iterator[Marked]:
    """Chunks with whether each is the last before the end."""
    held: Timed | None = None
    for item in timed:
        if held is not None:
            yield (*held, item[1] is None)
        held = item
    if held is not None:
        yield (*held, False)


def _next(timed: Iterator[Marked]) -> list[Marked]:
    return list(islice(timed, BATCH))


async def _until(due: float) -> None:
    """Wait until a time of the loop's clock."""
    now = asyncio.get_running_loop().time
    while (wait := due - now()) > _EARLY_SECONDS:  # noqa: ASYNC110 - a timer may ring early: there is nothing else to wait for
        await asyncio.sleep(wait)


def _headers(playback: Playback, match: Match) -> list[tuple[bytes, bytes]]:
    headers = [(name, value) for name, value in playback.headers if playback.status != 304 or name != "content-length"]
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in (*headers, *match.headers)]


async def _asked(scope: Scope, receive: Receive) -> Asked | None:
    """The request, whole; None where its client left before it was."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    content_type = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"content-type"), None)
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return Asked(scope["method"], path, query, bytes(body), content_type)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, error: dict[str, Any]) -> None:
    body = jsontext.dumps(error).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})
