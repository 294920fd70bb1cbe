"""A deck: one recording file that a test plays, makes, or both, for clients in this process or at a base URL.

    none          what is in the file is played; anything else is refused
    once          the same; but where there is no file yet, it is made
    new_episodes  what is in the file is played; anything else is asked and added
    all           everything is asked; what was not asked again stays in the file
    rewrite       everything is asked; the file is made anew

A request is answered by the recording that equals it, or differs in what is volatile alone: never by one of the same path only,
which would hide that what is asked has changed. What is recorded is redacted before it is written, and what is asked is redacted
alike before it is compared.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import sqlalchemy as sa

from recorder import database, jsontext, log
from recorder.collect.client import http_client_of
from recorder.collect.gate import Gate, Names
from recorder.collect.import_ import import_paths
from recorder.collect.serving import listen, serving
from recorder.collect.transport import RecordingTransport, Transport, family_of
from recorder.deck_server import App
from recorder.errors import RecorderError, UsageError
from recorder.log import Event, Stream, streams
from recorder.recording import events_of, read_recording, write_recording
from recorder.redaction import request as redaction
from recorder.redaction.known import with_known
from recorder.redaction.rules import Rules
from recorder.replay import library
from recorder.replay.match import exact_key
from recorder.replay.transport import ReplayTransport, refusal
from recorder.settings import Settings, load
from recorder.sse import SSEDecoder, is_system
from recorder.testing import MODES

_PLAYING = frozenset({"none", "once", "new_episodes"})
_KEEPING = frozenset({"new_episodes", "all"})

Client = TypeVar("Client")


class Unanswered(NamedTuple):
    """A request that nothing in the file answers. said: why, with the nearest recording and the first difference."""

    request: str
    said: str


class Answer(NamedTuple):
    """What came of a request: its status, None where no response came; and how that ended.

    ended: the type of the last event; `whole` where it had none; `broken` where the connection broke.
    """

    request: str
    status: int | None
    ended: str


class Request(NamedTuple):
    """A recorded request, to be asked again."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    content: bytes

    def ask(self, client: Any) -> Answer:
        """Ask it with a sync client of httpx or httpx2."""
        status, ended = None, "whole"
        request = client.build_request(self.method, self.url, headers=self.headers, content=self.content)
        name = f"{self.method} {request.url.path}"
        family = family_of(request)
        try:
            response = client.send(request, stream=True)
            status = response.status_code
            body = response.read()
        except family.TransportError:
            return Answer(name, status, "broken")
        decoder = SSEDecoder()
        for frame in (*decoder.feed(body), *decoder.finish()):
            if frame.data != "[DONE]" and not is_system(frame.type):
                said = jsontext.object_of(frame.data)
                ended = str(frame.type or said.get("type") or said.get("object") or "message")
        return Answer(name, status, ended)


class Deck:
    """One recording file, for as long as a test runs; close it, or use it as a context.

    path: the file. mode: of MODES. again: the command that records in a {mode}, for messages. speed: times the original pace, at
    once by default. settings: what is redacted, as of record(); what is known to be a key or token is in any case.

    unanswered: requests that were refused. keeps: whether what was recorded is written when it is closed. unused: what of the
    file nobody asked for, once it is closed. saved: how many exchanges were written then, None where the file stayed as it was.
    """

    def __init__(
        self,
        path: Path,
        mode: str = "none",
        *,
        again: str = "",
        label: str | None = None,
        speed: float | None = None,
        settings: Settings | str | os.PathLike[str] | None = None,
    ) -> None:
        if mode not in MODES:
            raise UsageError(f"{mode!r} is no record mode; there are {', '.join(MODES)}")
        self.path = path
        self.mode = mode
        self.unanswered: list[Unanswered] = []
        self.unused: list[str] = []
        self.saved: int | None = None
        self.keeps = True
        there = path.exists()
        self.plays = there and mode in _PLAYING
        self.records = mode != "none" and not (mode == "once" and there)
        self._again = again
        self._label = label or path.name.partition(".")[0]
        self._speed = speed
        self._settings = with_known(load(settings))
        self._rules = Rules.of(self._settings)
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._bases: dict[str, str] = {}
        self._player: _Player | None = None
        self._db: str | None = None
        self._recorders: list[RecordingTransport] = []
        self._closed = False

    # What a test takes from it

    def attach(self, client: Client) -> Client:
        """Have a client of httpx or httpx2, or an SDK object that holds one, get its answers here until the deck is closed."""
        held = http_client_of(client)
        before = held._transport, held._mounts
        held._transport = self.transport(before[0])
        held._mounts = {pattern: mount and self.transport(mount) for pattern, mount in before[1].items()}
        self._stack.callback(_give_back, held, *before)
        return client

    def transport(self, inner: Any = None) -> Transport:
        """A transport for a client of either family, sync or async. inner: what asks in its place where that is recorded."""
        self._ready()
        return _DeckTransport(self, inner)

    def url(self, upstream: str = "https://api.openai.com") -> str:
        """The base URL at which the answers of an API are to be had, for clients of any kind, also in other processes.

        upstream: the API's own, scheme and host, and a path where the base URL has one: `https://api.openai.com/v1`.
        """
        self._ready()
        scheme, separator, rest = upstream.partition("://")
        host, slash, path = rest.partition("/")
        if not (separator and host):
            raise UsageError(f"{upstream!r} is no base URL; write it as https://api.openai.com/v1")
        origin = f"{scheme}://{host}"
        with self._lock:
            if origin not in self._bases:
                listener = self._stack.enter_context(listen("127.0.0.1", 0))
                self._stack.enter_context(serving(Gate(App(origin, self), Names()), listener, grace_seconds=1.0))
                self._bases[origin] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return f"{self._bases[origin]}{slash}{path}"

    @property
    def requests(self) -> list[Request]:
        """What the file says was asked, in order."""
        if not self.path.exists():
            raise UsageError(self.missing)
        asked = sorted((stream for stream, _ in read_recording(self.path) if stream.path), key=lambda stream: stream.started_at)
        return [
            Request(
                stream.method,
                f"http://{stream.host or 'recorded'}{stream.path}" + (f"?{stream.query}" if stream.query else ""),
                [(name, value) for name, value in stream.request_headers if name != "content-length"],
                bytes(stream.request_body or b""),
            )
            for stream in asked
        ]

    # Its life

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give clients back their own transports, and write what was recorded, unless `keeps` was set to False."""
        if self._closed:
            return
        self._closed = True
        self._stack.close()
        try:
            if self._player is not None:
                self.unused = self._player.unused()
            for recorder in self._recorders:
                recorder.close()
            if self._db is not None and self.keeps:
                self._save(self._db)
        finally:
            if self._player is not None:
                self._player.close()
            if self._db is not None:
                _remove(self._db)

    @property
    def missing(self) -> str:
        """What to say where there is no recording, and none may be made."""
        how = f"; make one: {self._again.format(mode='once')}" if self._again else "; record one with --record-mode=once"
        return f"no recording: {_near(self.path)} is not there{how}"

    def answer(self, request: Any) -> Any:
        """The response to a request of a sync client that is in the file, else None."""
        player = self._playing()
        return player and player.accepted(player.transport.handle_request(self._redacted(request)))

    async def answer_async(self, request: Any) -> Any:
        player = self._playing()
        return player and player.accepted(await player.transport.handle_async_request(self._redacted(request)))

    def refuse(self, request: Any) -> Any:
        """The response to a request that nothing answers: 404, with an error that explains itself."""
        player = self._playing()
        assert player is not None
        error = player.transport.explained(self._redacted(request))
        if self._again:
            error["error"]["message"] += f"; if that is meant, record it again: {self._again.format(mode='rewrite')}"
        self.unanswered.append(Unanswered(f"{request.method} {request.url.path}", str(error["error"]["message"])))
        return refusal(request, error)

    def recorder(self, asker: Transport) -> RecordingTransport:
        """What records that which asks."""
        with self._lock:
            if self._db is None:
                self._db = _new_database()
            made = RecordingTransport(asker, self._db, session=self._label, settings=self._settings)
            self._recorders.append(made)
            return made

    def _ready(self) -> None:
        if self._closed:
            raise RecorderError(f"the recording {_near(self.path)} is closed: its test is over")
        if not self.plays and not self.records:
            raise UsageError(self.missing)
        self._playing()

    def _playing(self) -> _Player | None:
        """What plays the file; read when it is first needed."""
        with self._lock:
            if self.plays and self._player is None:
                self._player = _Player(self.path, self._speed)
            return self._player

    def _redacted(self, request: Any) -> Any:
        """A copy of a request as it would have been recorded."""
        rules, family, url = self._rules, family_of(request), request.url
        content = request.content
        if rules is not None:
            path, _, query = url.raw_path.decode("ascii").partition("?")
            target = redaction.path(rules, path) + (f"?{redaction.query(rules, query)}" if query else "")
            url = url.copy_with(raw_path=target.encode("ascii"))
            content = redaction.body(rules, content) if content else content
        return family.Request(request.method, url, headers=request.headers, content=content, extensions=request.extensions)

    def _save(self, db: str) -> None:
        """Write what was recorded, after what is kept of the file."""
        new = _recorded(db)
        if not new:
            return
        kept = read_recording(self.path) if self.mode in _KEEPING and self.path.exists() else []
        if self.mode == "all":
            asked = {exact_key(library.asked(stream)) for stream, _ in new}
            kept = [(stream, frames) for stream, frames in kept if exact_key(library.asked(stream)) not in asked]
        every = [(stream, events_of(frames)) for stream, frames in kept] + new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.writelines(write_recording(every))
        beside.replace(self.path)
        self.saved = len(new)


class _Player:
    """A recording file in a database of its own, and the transport that plays it."""

    def __init__(self, path: Path, speed: float | None) -> None:
        self._db = _new_database()
        engine = database.connect(self._db)
        try:
            rows = import_paths(engine, [str(path)])
        finally:
            engine.dispose()
        ids = [row.stream_id for row in rows]
        self.transport = ReplayTransport(*ids, db=self._db, speed=speed)
        self._given: set[str] = set()

    def accepted(self, response: Any) -> Any:
        """A response that answers the very request, volatile fields aside, else None."""
        headers = response.headers
        stream_id = headers.get("x-recorder-stream")
        if stream_id is None or (headers.get("x-recorder-match") == "path" and "x-recorder-differs" in headers):
            return None
        self._given.add(stream_id)
        return response

    def unused(self) -> list[str]:
        """The exchanges that were not given to anybody, by their method and path."""
        return [" ".join(one.path) for one in self.transport.exchanges.exchanges if one.stream_id not in self._given]

    def close(self) -> None:
        self.transport.close()
        _remove(self._db)


class _DeckTransport(Transport):
    """Plays, records or refuses."""

    def __init__(self, deck: Deck, inner: Any) -> None:
        self._deck = deck
        self._asker = _Asker(inner)
        self._recorder: RecordingTransport | None = None

    def handle_request(self, request: Any) -> Any:
        deck = self._deck
        request.read()
        response = deck.answer(request)
        if response is not None:
            return response
        return self._recording().handle_request(request) if deck.records else deck.refuse(request)

    async def handle_async_request(self, request: Any) -> Any:
        deck = self._deck
        await request.aread()
        response = await deck.answer_async(request)
        if response is not None:
            return response
        return await self._recording().handle_async_request(request) if deck.records else deck.refuse(request)

    def close(self) -> None:
        self._asker.end()

    async def aclose(self) -> None:
        await self._asker.aend()

    def _recording(self) -> RecordingTransport:
        if self._recorder is None:
            self._recorder = self._deck.recorder(self._asker)
        return self._recorder


class _Asker(Transport):
    """The transport that asks, by default the family's own. It ends with its client, not with what records it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def handle_request(self, request: Any) -> Any:
        return self._of(request, "HTTPTransport").handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        return await self._of(request, "AsyncHTTPTransport").handle_async_request(request)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def end(self) -> None:
        if self._inner is not None:
            self._inner.close()

    async def aend(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()

    def _of(self, request: Any, default: str) -> Any:
        if self._inner is None:
            self._inner = getattr(family_of(request), default)()
        return self._inner


def _give_back(client: Any, transport: Any, mounts: Any) -> None:
    client._transport, client._mounts = transport, mounts


def _recorded(db: str) -> list[tuple[Stream, Iterable[Event]]]:
    """What a database holds, in the order in which it was asked."""
    engine = database.connect(db)
    try:
        with database.read(engine) as connection:
            ids = connection.execute(sa.select(streams.c.stream_id).order_by(streams.c.started_at, streams.c.stream_id)).scalars()
            every = list(ids)
            found = log.get_streams(connection, every)
            return [(found[stream_id], log.read(connection, stream_id)) for stream_id in every]
    finally:
        engine.dispose()


def _near(path: Path) -> str:
    """A path as it is seen from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# Databases of a moment


@cache
def _empty() -> Path:
    """A database with the current schema, to be copied: making one takes longer than many a test."""
    folder = Path(tempfile.mkdtemp(prefix="recorder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database.connect(f"sqlite:///{folder}/empty.db").dispose()
    return folder / "empty.db"


def _new_database() -> str:
    folder = tempfile.mkdtemp(prefix="recorder-")
    return f"sqlite:///{shutil.copy(_empty(), folder)}"


def _remove(db: str) -> None:
    shutil.rmtree(Path(db.removeprefix("sqlite:///")).parent, ignore_errors=True)
