"""The replay server: an ASGI application that answers requests with the recorded responses, at their pace or as asked.

It sends nothing to any network, but what is passed on where that was asked for (passing.py). Each response says in headers
which stream it is (X-Recorder-Stream), which rung of match.py found it (X-Recorder-Match), and where it is not an equal
request that it answers, in which fields (X-Recorder-Differs).

A client's place is named by the header X-Recorder-Client, or by the base path /s/SESSION/v1. Pages of its own: /-/report, and
/-/step and /-/continue where events are let go by hand.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote

import httpx
import sqlalchemy as sa

from recorder import jsontext
from recorder.collect.asgi import Receive, Scope, Send, body_of, disconnected
from recorder.replay import library
from recorder.replay.divergence import Watch
from recorder.replay.faults import Fault, Faulted
from recorder.replay.match import Asked, Library, Match, Places, decoded
from recorder.replay.passing import Passing, given
from recorder.replay.playback import Playback
from recorder.replay.stepping import Hand, Waiting, moves

logger = logging.getLogger(__name__)

CLIENT_HEADER = b"x-recorder-client"
"""The request header by which a client names itself, to have a place of its own in the session."""

OWN = "/-/"
"""What paths of the server's own pages begin with."""

STEP_SECONDS = 10.0
"""How long POST /-/step waits for an event that it can let go."""

BATCH = 256
"""Chunks that are read ahead: the next ones are fetched while these are sent."""

LINGER_SECONDS = 5.0
"""How long a connection that its recorded client left stays open after that: this client is to leave by itself, first."""

SETTLE_TURNS = 10
"""Turns of the event loop before a new connection is given its place: the client that opened it may have closed another just
before, as SDKs do at [DONE], and the loop is to see that first."""

_EARLY_SECONDS = 0.0005  # the loop's timers count in ms: what is this near is due

_SESSION = re.compile(r"/s/([^/]+)(?=/)")

Item = TypeVar("Item")


class Replayer:
    """The ASGI application over the exchanges of a library.

    speed: times the original pace; None: all at once. max_gap: seconds that a pause lasts at the most, before speed.
    faults: what goes wrong. hand: lets events go one by one. passing: who is asked where nothing was recorded. named: whether
    somebody said what is replayed. watch: what was asked, and how it differs.
    """

    def __init__(
        self,
        engine: sa.Engine,
        exchanges: Library,
        *,
        speed: float | None = 1.0,
        max_gap: float | None = None,
        faults: Iterable[Fault] = (),
        hand: Hand | None = None,
        passing: Passing | None = None,
        named: bool = False,
    ) -> None:
        self._faults = tuple(faults)
        self.watch = Watch(engine, exchanges, self._faults, named=named)
        self._engine = engine
        self._exchanges = exchanges
        self._places = Places(exchanges)
        self._speed = speed
        self._max_gap = max_gap
        self._hand = hand
        self._passing = passing
        self._has_sessions = not any(_SESSION.match(one.path[1]) for one in exchanges.exchanges)

    @property
    def served(self) -> int:
        return self.watch.served

    @property
    def unmatched(self) -> int:
        return self.watch.unmatched

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                if stage == "shutdown" and self._passing:
                    await self._passing.aclose()
                await send({"type": f"lifespan.{stage}.complete"})
        elif scope["type"] == "http":
            asked = await _asked(scope, receive)
            if asked is None:
                return
            if asked.path.startswith(OWN):
                await self._own(asked, send)
            else:
                await self._answer(scope, asked, receive, send)

    async def _answer(self, scope: Scope, asked: Asked, receive: Receive, send: Send) -> None:
        name = next((value.decode("latin-1") for key, value in scope["headers"] if key == CLIENT_HEADER), None)
        session = None
        if self._has_sessions and (found := _SESSION.match(asked.path)):
            session, asked = unquote(found[1]), asked._replace(path=asked.path[found.end() :])
        named = name is not None or session is not None
        connection = scope["recorder.connection"]
        if not named and not self._places.knows(connection):
            for _ in range(SETTLE_TURNS):
                await asyncio.sleep(0)
        place = self._places.enter(asked, connection, name, session)
        with ExitStack() as seat:
            seat.callback(self._places.leave, place, named)
            match = place.take(asked)
            if match is None and self._passing:
                self.watch.passed_on += 1
                seat.close()
                await self._beside(receive, self._pass_on(self._passing, asked, scope, send))
                return
            self.watch.saw(place, asked, match, session if name is None else name)
            if match is None:
                seat.close()
                await _say(send, 404, await asyncio.to_thread(library.not_found, self._engine, place.library, asked))
                return
            await self._beside(receive, self._play(match, asked, place.asked, scope, send, seat.close), seat.close)

    async def _beside(self, receive: Receive, answering: Any, leave: Callable[[], None] = lambda: None) -> None:
        """Answer until that is done, or the client has left."""
        playing = asyncio.create_task(answering)
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({playing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
        finally:
            leave()  # first of all: its client may be back over another connection already
            for task in (playing, gone):
                task.cancel()
            await asyncio.gather(playing, gone, return_exceptions=True)

    async def _play(self, match: Match, asked: Asked, number: int, scope: Scope, send: Send, leave: Callable[[], None]) -> None:
        """Send the recorded response as it came; where its connection broke, break this one.

        number: of its client's request. leave: called before what may be the last byte goes out, with which the client may be
        off and back.
        """
        began = asyncio.get_running_loop().time()
        match, playback = await asyncio.to_thread(self._prepared, match, asked, number)
        if self._hand is None:
            await self._at_pace(playback, match, began, send, leave)
        else:
            await self._by_hand(self._hand, playback, match, began, send, leave)
        if playback.closed == "eof":
            await send({"type": "http.response.body", "body": b""})
            return
        if playback.left and self._speed is not None:
            await asyncio.sleep(LINGER_SECONDS)
        scope["recorder.connection"].transport.close()

    async def _at_pace(
        self, playback: Playback | Faulted, match: Match, began: float, send: Send, leave: Callable[[], None]
    ) -> None:
        timed = _marked(playback.timed(self._speed, self._max_gap))
        now = asyncio.get_running_loop().time
        late = None if self._speed is None else self.watch.fidelity.add
        async with aclosing(_batches(timed)) as batches:
            async for batch in batches:
                for (at_us, chunk), is_last in batch:
                    due = began + at_us / 1e6
                    await _until(due)
                    if is_last:
                        leave()
                    if chunk:
                        if late is not None:
                            late((now() - due) * 1e6)
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    elif chunk is not None:
                        await send(_start(playback, match))

    async def _by_hand(
        self, hand: Hand, playback: Playback | Faulted, match: Match, began: float, send: Send, leave: Callable[[], None]
    ) -> None:
        mode = hand.mode()
        now = asyncio.get_running_loop().time
        async with aclosing(_batches(_marked(moves(playback, self._speed, self._max_gap)))) as batches:
            async for batch in batches:
                for (at_us, move), is_last in batch:
                    if mode.waits(move):
                        await hand.hold(mode, Waiting(match.exchange.stream_id, move.position, move.type))
                        began = now() - at_us / 1e6  # what follows is as long after it as it was
                    elif not mode.stepping or move.chunk is not None:
                        await _until(began + at_us / 1e6)
                    if is_last:
                        leave()
                    if move.chunk:
                        await send({"type": "http.response.body", "body": move.chunk, "more_body": True})
                    elif move.chunk is not None:
                        await send(_start(playback, match))

    def _prepared(self, match: Match, asked: Asked, number: int) -> tuple[Match, Playback | Faulted]:
        stream_id, path = match.exchange.stream_id, match.exchange.path[1]
        recorded = library.playback(self._engine, stream_id)
        playback = library.faulted(recorded, self._faults, stream_id, number, path, self.watch.happened)
        return library.compared(self._engine, match, asked), playback

    async def _pass_on(self, passing: Passing, asked: Asked, scope: Scope, send: Send) -> None:
        """Answer as the upstream does; where that breaks, break the client's connection."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        try:
            async with passing.response(asked, headers) as response:
                await send({"type": "http.response.start", "status": response.status_code, "headers": given(response)})
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except httpx.TransportError as error:
            logger.warning("%s %s was passed on to %s and failed: %r", asked.method, asked.path, passing.host, error)
            scope["recorder.connection"].transport.close()

    async def _own(self, asked: Asked, send: Send) -> None:
        page = f"{asked.method} {asked.path}"
        if page == f"GET {OWN}report":
            await _say(send, 200, await asyncio.to_thread(self.watch.document))
        elif page in (f"POST {OWN}step", f"POST {OWN}continue") and self._hand:
            stream_id = parse_qs(asked.query).get("stream", [""])[-1]
            went = await self._hand.let_go(STEP_SECONDS, stream_id=stream_id, on=asked.path == f"{OWN}continue")
            if went is None:
                await _say(send, 409, _error("recorder: no event waits to be let go", "nothing_waits"))
            else:
                await _say(send, 200, went._asdict())
        elif page == f"GET {OWN}step" and self._hand:
            await _say(send, 200, {"waiting": [waiting._asdict() for waiting in self._hand.waiting]})
        else:
            pages = "GET /-/report" + (", GET and POST /-/step, POST /-/continue" if self._hand else "")
            await _say(send, 404, _error(f"recorder: there is no {page}; there is {pages}", "not_found"))


def _marked(items: Iterator[Item]) -> Iterator[tuple[Item, bool]]:
    """Chunks with whether each is the last before the end, which comes last."""
    held = list(islice(items, 2))
    if len(held) < 2:
        yield from ((item, False) for item in held)
        return
    one, other = held
    for item in items:
        yield one, False
        one, other = other, item
    yield one, True
    yield other, False


async def _batches(items: Iterator[Item]) -> AsyncGenerator[list[Item], None]:
    """What an iterator that reads on the database gives, read ahead in threads."""
    upcoming = asyncio.create_task(asyncio.to_thread(_next, items))
    try:
        while batch := await upcoming:
            upcoming = asyncio.create_task(asyncio.to_thread(_next, items))
            yield batch
            await asyncio.sleep(0)  # others' turn: a send that need not wait does not give way
    finally:
        await asyncio.wait({upcoming})  # its thread reads on the database, which may be closed next


def _next(items: Iterator[Item]) -> list[Item]:
    return list(islice(items, BATCH))


async def _until(due: float) -> None:
    """Wait until a time of the loop's clock."""
    now = asyncio.get_running_loop().time
    while (wait := due - now()) > _EARLY_SECONDS:  # noqa: ASYNC110 - a timer may ring early: there is nothing else to wait for
        await asyncio.sleep(wait)


def _start(playback: Playback | Faulted, match: Match) -> dict[str, Any]:
    headers = [(name, value) for name, value in playback.headers if playback.status != 304 or name != "content-length"]
    encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in (*headers, *match.headers)]
    return {"type": "http.response.start", "status": playback.status, "headers": encoded}


async def _asked(scope: Scope, receive: Receive) -> Asked | None:
    """The request, whole; None where its client left before it was."""
    body = await body_of(receive)
    if body is None:
        return None
    content_type = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"content-type"), None)
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    coding = ", ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding")
    return decoded(Asked(scope["method"], path, query, body, content_type), coding)


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


async def _say(send: Send, status: int, document: dict[str, Any]) -> None:
    body = jsontext.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
