"""How streams end, and what may become of the recorder meanwhile: the log says it, and the caller never notices."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import psycopg
import pytest

import recorder
from recorder import database, log
from recorder.collect import exchange, secrets
from recorder.collect.recording import Recording
from recorder.collect.tee import tee_class
from recorder.replay.transport import ReplayTransport
from recorder.settings import QUEUE_BYTES
from tests import leftovers, smalldisk
from tests.clients import ASYNC_KINDS, KINDS, SYNC_KINDS, Kind, finished, following
from tests.commands import output, until
from tests.recorded import Recorded
from tests.upstream import PATIENCE, SSE, Asked, Upstream, Wire
from tests.writing import DONE, encoded

SSE_LENGTH = [SSE, ("Content-Length", "1000000")]


def event(number: int) -> bytes:
    return b'event: thread.message.delta\ndata: {"n":%d}\n\n' % number


EVENTS = b"".join(event(number) for number in range(200))


def pieces(body: bytes = EVENTS, size: int = 77) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


class Lockstep:
    """An answer whose every piece waits until the client has the one before, and what is done after the last."""

    def __init__(self, sent: list[bytes], ending: Callable[[Wire], None], chunked: bool = True) -> None:
        self._sent, self._ending, self._chunked = sent, ending, chunked
        self._has = threading.Semaphore(0)

    def __call__(self, wire: Wire, asked: Asked) -> None:
        if self._chunked:
            wire.begin()
        else:
            wire.head(200, SSE_LENGTH)
        for piece in self._sent:
            wire.chunk(piece) if self._chunked else wire.send(piece)
            assert self._has.acquire(timeout=PATIENCE), f"the client never got {piece!r}"
        self._ending(wire)

    def had(self, chunk: bytes) -> None:
        self._has.release()


def cut_in_a_chunk(wire: Wire) -> None:
    wire.send(b"ff\r\nhalf a chunk")
    wire.cut()


ENDINGS: list[Any] = [
    pytest.param([event(0)], Wire.end, "eof", "eof", True, id="eof"),
    pytest.param([event(0), encoded([DONE])], Wire.end, "done", "eof", True, id="done-then-eof"),
    pytest.param([event(0), encoded([DONE])], Wire.cut, "done", "cut", True, id="done-then-cut"),
    pytest.param([event(0), b'event: error\ndata: {"error":{}}\n\n'], Wire.end, "error", "eof", True, id="error"),
    pytest.param([event(0), b"data: half an ev"], Wire.end, "eof", "eof", True, id="eof-in-an-event"),
    pytest.param([event(0), event(1)], Wire.cut, "cut", "cut", True, id="cut"),
    pytest.param([event(0), event(1)], Wire.reset, "cut", "cut", True, id="reset"),
    pytest.param([event(0)], cut_in_a_chunk, "cut", "cut", True, id="cut-in-a-chunk"),
    pytest.param([event(0)], lambda wire: wire.send(b"no size\r\n"), "cut", "cut", True, id="not-http-any-more"),
    pytest.param([], Wire.end, "eof", "eof", True, id="nothing"),
    pytest.param([], Wire.reset, "cut", "cut", True, id="nothing-and-reset"),
    pytest.param([event(0), event(1)], Wire.cut, "cut", "cut", False, id="cut-before-its-length"),
    pytest.param([event(0), event(1)], Wire.reset, "cut", "cut", False, id="reset-before-its-length"),
    pytest.param([event(0), encoded([DONE])], Wire.cut, "done", "cut", False, id="done-then-cut-before-its-length"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("sent", "ending", "outcome", "closed", "chunked"), ENDINGS)
async def test_an_end_by_the_server_is_recorded_and_is_the_same_for_the_client(
    kind: Kind,
    upstream: Upstream,
    db: str,
    sent: list[bytes],
    ending: Callable[[Wire], None],
    outcome: str,
    closed: str,
    chunked: bool,
) -> None:
    """The client has the same bytes and then the very same error, of the same type and with the same text, or none."""
    client = kind.client()
    said = []
    for number, into in enumerate((None, db)):
        answer = Lockstep(sent, ending, chunked)
        upstream.on(f"/{number}", answer)
        async with kind.recorded(client, into) if into else contextlib.AsyncExitStack():
            said.append((await kind.fetch(client, f"{upstream.origin}/{number}", had=answer.had)).said)
    await kind.close(client)
    assert said[0] == said[1]
    recorded = Recorded(db)
    (stream,) = recorded.streams()
    assert recorded.body(stream.stream_id).startswith(b"".join(sent))
    assert recorded.outcome(stream.stream_id) == outcome
    (end,) = recorded.said(stream.stream_id, "$end")
    _, _, failed, text = said[0]
    detail = "" if closed != "cut" else f"{failed.__name__}: {text}" if text else failed.__name__
    assert end == {"outcome": outcome, "closed": closed} | ({"detail": detail} if detail else {})
    assert (closed == "cut") == (failed is not type(None))


async def open_stream(kind: Kind, upstream: Upstream, client: Any, sent: bytes = event(0)) -> tuple[Any, Any]:
    """A response whose first piece has been read, and which goes on only when the client leaves: (response, its chunks)."""

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(sent)
        assert wire.left(), "the client never left"

    upstream.on("/v1", answer)
    response = await kind.begin(client, f"{upstream.origin}/v1")
    chunks = kind.raw(response)
    assert await following(chunks) == sent
    return response, chunks


def ended(db: str) -> dict[str, Any]:
    """What the log says of the end of its only stream."""
    recorded = Recorded(db)
    (stream,) = until(lambda: [each for each in recorded.streams() if recorded.outcome(each.stream_id)])
    (end,) = recorded.said(stream.stream_id, "$end")
    assert end["outcome"] == recorded.outcome(stream.stream_id)
    recorded.engine.dispose()
    return end  # type: ignore[no-any-return]


@pytest.mark.anyio
async def test_a_client_that_leaves_in_the_midst_closed_it(kind: Kind, upstream: Upstream, db: str) -> None:
    client = kind.client()
    async with kind.recorded(client, db):
        response, chunks = await open_stream(kind, upstream, client)
        await kind.close(response)
        await kind.close(response)
        await kind.close(chunks)
        assert ended(db) == {"outcome": "client_closed", "closed": "client_closed"}
    await kind.close(client)


@pytest.mark.anyio
async def test_a_client_that_leaves_after_done_is_done(kind: Kind, upstream: Upstream, db: str) -> None:
    """Which is what the SDKs do: they close at [DONE], and never see the end of the body."""
    client = kind.client()
    async with kind.recorded(client, db):
        response, chunks = await open_stream(kind, upstream, client, event(0) + encoded([DONE]))
        await kind.close(response)
        await kind.close(chunks)
        assert ended(db) == {"outcome": "done", "closed": "client_closed"}
    await kind.close(client)


@pytest.mark.anyio
async def test_a_response_that_nobody_reads_has_a_begin_and_an_end(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    client = kind.client()
    async with kind.recorded(client, db):
        response = await kind.begin(client, f"{upstream.origin}/v1")
        await kind.close(response)
        assert ended(db) == {"outcome": "client_closed", "closed": "client_closed"}
    await kind.close(client)


@pytest.mark.anyio
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "unread"])
async def test_a_response_that_is_dropped_was_closed_by_its_client(kind: Kind, upstream: Upstream, db: str, begun: bool) -> None:
    """Nobody closes it, it is only forgotten: the log says that it ended as soon as it cannot go on any more."""
    client = kind.client()
    async with kind.recorded(client, db):
        response, chunks = await open_stream(kind, upstream, client)
        if not begun:
            response, chunks = await kind.begin(client, f"{upstream.origin}/v1"), None
        del response, chunks
        gc.collect()
        await asyncio.sleep(0)  # where the loop finalizes asynchronous generators
        await asyncio.sleep(0.05)
        gc.collect()
        recorded = Recorded(db)
        for stream in until(recorded.streams):
            until(lambda stream=stream: recorded.outcome(stream.stream_id))
            assert recorded.said(stream.stream_id, "$end") == [{"outcome": "client_closed", "closed": "client_closed"}]
        recorded.engine.dispose()
    await kind.close(client)


@pytest.mark.anyio
async def test_an_error_of_the_program_that_reads_is_its_own(kind: Kind, upstream: Upstream, db: str) -> None:
    """It comes out of `with client.stream(…)` as it was, and the log says that the client closed the stream."""
    client = kind.client()
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    error = ValueError("of the program")

    async def read() -> None:
        if kind.is_async:
            async with client.stream("POST", f"{upstream.origin}/v1") as response:
                async for _ in response.aiter_bytes():
                    raise error
        else:
            with client.stream("POST", f"{upstream.origin}/v1") as response:
                for _ in response.iter_bytes():
                    raise error

    async with kind.recorded(client, db):
        with pytest.raises(ValueError, match="of the program") as raised:
            await read()
        assert raised.value is error
        gc.collect()
        assert ended(db) == {"outcome": "client_closed", "closed": "client_closed"}
    await kind.close(client)


@pytest.mark.anyio
async def test_a_client_that_waits_no_longer_closed_it(kind: Kind, upstream: Upstream, db: str) -> None:
    """A read timeout in the midst: the client gave up, and the log has its words."""
    client = kind.client(timeout=kind.family.Timeout(PATIENCE, read=0.3))
    errors = []
    for into in (None, db):
        async with kind.recorded(client, into) if into else contextlib.AsyncExitStack():
            response, chunks = await open_stream(kind, upstream, client)
            with pytest.raises(kind.family.ReadTimeout) as raised:
                await following(chunks)
            errors.append((type(raised.value), str(raised.value)))
            await kind.close(response)
    await kind.close(client)
    assert errors[0] == errors[1]
    assert ended(db) == {
        "outcome": "client_closed",
        "closed": "client_closed",
        "detail": f"ReadTimeout: {errors[0][1]}" if errors[0][1] else "ReadTimeout",
    }


LOOPS = [
    "asyncio",
    pytest.param("trio", marks=pytest.mark.skipif(not importlib.util.find_spec("trio"), reason="trio is not installed")),
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.name)
def test_a_task_that_is_cancelled_closed_it(kind: Kind, upstream: Upstream, db: str, loop: str) -> None:
    """The cancellation goes its way: nothing is swallowed, and nothing waits."""
    left: list[bytes] = []

    async def main() -> None:
        nonlocal left
        client = kind.client()
        async with recorder.record(client, db):
            with anyio.move_on_after(0.3) as scope:
                async with client.stream("POST", f"{upstream.origin}/v1") as response:
                    async for chunk in response.aiter_raw():
                        left += [chunk]
                left.append(b"not cancelled")
            assert scope.cancelled_caught
        await client.aclose()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0))
        assert wire.left()

    upstream.on("/v1", answer)
    anyio.run(main, backend=loop)
    assert left == [event(0)]
    end = ended(db)
    assert end.pop("detail").startswith("Cancelled")
    assert end == {"outcome": "client_closed", "closed": "client_closed"}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.name)
async def test_a_task_that_is_cancelled_is_cancelled_with_its_own_message(kind: Kind, upstream: Upstream, db: str) -> None:
    client = kind.client()
    async with recorder.record(client, db):
        response, chunks = await open_stream(kind, upstream, client)
        task = asyncio.create_task(following(chunks))
        await asyncio.sleep(0.1)
        task.cancel("enough of it")
        with pytest.raises(asyncio.CancelledError, match="enough of it"):
            await task
        assert task.cancelled()
        await kind.close(response)
    await client.aclose()
    assert ended(db) == {
        "outcome": "client_closed",
        "closed": "client_closed",
        "detail": "CancelledError: enough of it",
    }


@pytest.mark.parametrize("kind", SYNC_KINDS, ids=lambda kind: kind.name)
def test_an_interrupt_from_the_keyboard_goes_its_way(kind: Kind, upstream: Upstream, db: str, keyboard: None) -> None:
    client = kind.client()

    def interrupt(wire: Wire) -> None:
        time.sleep(0.2)  # until the client waits for the next chunk
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        wire.left()

    answer = Lockstep([event(0)], interrupt)
    upstream.on("/v1", answer)
    with recorder.record(client, db):
        response = client.send(client.build_request("POST", f"{upstream.origin}/v1"), stream=True)
        chunks = response.iter_raw()
        assert next(chunks) == event(0)
        with pytest.raises(KeyboardInterrupt):
            interrupted(answer, chunks)
        response.close()
    client.close()
    assert ended(db) == {"outcome": "client_closed", "closed": "client_closed", "detail": "KeyboardInterrupt"}


@pytest.fixture
def keyboard() -> Iterator[None]:
    """SIGINT is a KeyboardInterrupt, as in a program that a terminal runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(answer: Lockstep, chunks: Iterator[bytes]) -> None:
    """Wait for a chunk, and for the interrupt that comes instead."""
    answer.had(event(0))
    next(chunks, None)
    time.sleep(PATIENCE)


# Streams that a transport makes


class Pieces:
    """A stream of a transport's own, sync and async at once, as caches and test doubles have them."""

    def __init__(self, sent: list[bytes]) -> None:
        self.sent, self.closed = sent, 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.sent

    async def __aiter__(self) -> Any:
        for piece in self.sent:
            yield piece

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


def of_both(kind: Kind, sent: list[bytes]) -> Any:
    return type("Both", (Pieces, kind.family.SyncByteStream, kind.family.AsyncByteStream), {})(sent)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["hook", "transport"])
async def test_a_stream_that_is_sync_and_async_at_once_stays_both(kind: Kind, db: str, how: str) -> None:
    stream = of_both(kind, pieces())
    inner = kind.family.MockTransport(lambda request: kind.family.Response(200, headers=[SSE], stream=stream))
    transport = recorder.RecordingTransport(inner, db) if how == "transport" else inner
    client = kind.client(transport=transport)
    async with kind.recorded(client, db) if how == "hook" else contextlib.AsyncExitStack():
        had = await kind.fetch(client, "http://x/v1")
    await kind.close(client)
    assert (had.body, had.failed, stream.closed) == (EVENTS, None, 1)
    recorded = Recorded(db)
    (each,) = recorded.streams()
    assert recorded.chunks(each.stream_id) == pieces()
    assert recorded.outcome(each.stream_id) == "eof"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["hook", "transport"])
async def test_a_response_that_was_made_whole_is_recorded_whole(kind: Kind, db: str, how: str) -> None:
    inner = kind.family.MockTransport(lambda request: kind.family.Response(200, json={"ok": True}))
    transport = recorder.RecordingTransport(inner, db) if how == "transport" else inner
    client = kind.client(transport=transport)
    async with kind.recorded(client, db) if how == "hook" else contextlib.AsyncExitStack():
        response = await finished(client.get("http://x/v1"))
        assert response.json() == {"ok": True}
    await kind.close(client)
    recorded = Recorded(db)
    (stream,) = recorded.streams()
    assert recorded.body(stream.stream_id) == response.content
    assert recorded.outcome(stream.stream_id) == "done"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["hook", "transport"])
async def test_a_replay_can_be_recorded_again(kind: Kind, upstream: Upstream, db: str, tmp_path: Path, how: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    client = kind.client()
    async with kind.recorded(client, db):
        await kind.fetch(client, f"{upstream.origin}/v1", content=b"{}")
    await kind.close(client)
    again = f"sqlite:///{tmp_path}/again.db"
    inner = ReplayTransport(db=db)
    client = kind.client(transport=recorder.RecordingTransport(inner, again) if how == "transport" else inner)
    async with kind.recorded(client, again) if how == "hook" else contextlib.AsyncExitStack():
        had = await kind.fetch(client, f"{upstream.origin}/v1", content=b"{}")
    await kind.close(client)
    assert (had.body, had.failed) == (EVENTS, None)
    assert output("export", "last", "--format", "sse", db=again) == EVENTS


def test_the_tee_is_of_the_family_and_kind_of_what_it_wraps() -> None:
    for family in (httpx, httpx2):
        sync_tee = tee_class(type("Sync", (family.SyncByteStream,), {}))
        async_tee = tee_class(type("Async", (family.AsyncByteStream,), {}))
        assert issubclass(sync_tee, family.SyncByteStream)
        assert not issubclass(sync_tee, family.AsyncByteStream)
        assert issubclass(async_tee, family.AsyncByteStream)
        assert not issubclass(async_tee, family.SyncByteStream)
        assert issubclass(tee_class(family.ByteStream), family.SyncByteStream)
        assert issubclass(tee_class(family.ByteStream), family.AsyncByteStream)
        assert tee_class(type("Another", (family.SyncByteStream,), {})) is sync_tee, "classes do not pile up"
    with pytest.raises(TypeError, match="Pieces is no byte stream of httpx or httpx2"):
        tee_class(Pieces)


# Never any harm: what the client has is what it would have without the hook, whatever becomes of the recorder


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the logger `recorder` and those below it have said so far, from warnings on."""
    caplog.set_level(logging.WARNING, "recorder")
    return lambda: [record.getMessage() for record in caplog.records if record.name.split(".")[0] == "recorder"]


class Bug(TypeError):
    pass


def bug(*_: Any, **__: Any) -> Any:
    raise Bug("of the recorder's own")


def after(calls: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that works so many times, and has a bug from then on."""
    left = iter(range(calls))

    def called(*args: Any, **options: Any) -> Any:
        return bug() if next(left, None) is None else real(*args, **options)

    return called


BUGS: list[Any] = [
    pytest.param(exchange, "begun", bug, id="describing the request"),
    pytest.param(secrets, "headers", bug, id="allowed headers"),
    pytest.param(secrets, "headers", after(1, secrets.headers), id="allowed headers of the response"),
    pytest.param(Recording, "response", bug, id="the response's beginning"),
    pytest.param(Recording, "chunk", bug, id="the first chunk"),
    pytest.param(Recording, "chunk", after(20, Recording.chunk), id="a later chunk"),
    pytest.param(Recording, "now", after(10, Recording.now), id="the time"),
    pytest.param(Recording, "end", bug, id="the end"),
    pytest.param(Recording, "gap", bug, id="a gap"),
    pytest.param(log, "row", bug, id="the rows"),
    pytest.param(log, "append", bug, id="appending"),
    pytest.param(log, "append", after(1, log.append), id="appending later"),
    pytest.param(log, "insert_streams", bug, id="a stream's row"),
    pytest.param(log, "system_frame", bug, id="what the recorder says itself"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["hook", "transport"])
@pytest.mark.parametrize(("where", "name", "broken"), BUGS)
async def test_a_bug_in_the_recorder_never_shows_in_the_client(
    kind: Kind,
    upstream: Upstream,
    db: str,
    said: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    broken: Any,
    how: str,
) -> None:
    """Its stream is byte-identical and comes to its end, and what happened is logged; a stream without the bug is recorded."""
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    upstream.on("/cut", Lockstep([], Wire.cut))
    plain = kind.client()
    expected = [(await kind.fetch(plain, f"{upstream.origin}{path}")).said for path in ("/v1", "/cut")]
    await kind.close(plain)
    client, shared = recorded_client(kind, db, how)
    with monkeypatch.context() as patching:
        patching.setattr(where, name, broken)
        had = []
        for path in ("/v1", "/cut"):
            had.append((await kind.fetch(client, f"{upstream.origin}{path}")).said)
            assert shared.flush(PATIENCE)
    assert had == expected
    assert (await kind.fetch(client, f"{upstream.origin}/v1")).said == expected[0]
    assert shared.flush(PATIENCE)
    await kind.close(shared)
    await kind.close(client)
    if name != "gap":
        messages = said()
        assert messages
        assert len(messages) <= 20, "it is not logged for each chunk"
    recorded = Recorded(db)
    last = recorded.streams()[-1]
    assert recorded.body(last.stream_id) == EVENTS
    assert recorded.outcome(last.stream_id) == "eof"


def recorded_client(kind: Kind, db: str, how: str) -> tuple[Any, Any]:
    """A client that is recorded one way or the other, and what is to be flushed and closed."""
    if how == "transport":
        transport = recorder.RecordingTransport(kind.transport(), db)
        return kind.client(transport=transport), transport
    client = kind.client()
    return client, recorder.record(client, db)


@pytest.mark.anyio
async def test_a_bug_in_the_midst_of_a_stream_is_said_in_the_stream(
    kind: Kind, upstream: Upstream, db: str, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    upstream.on("/v1", Lockstep([event(0), event(1), event(2)], Wire.end))
    answer = Lockstep([event(0), event(1), event(2)], Wire.end)
    upstream.on("/v1", answer)
    client = kind.client()
    monkeypatch.setattr(Recording, "chunk", after(1, Recording.chunk))
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1", had=answer.had)
    await kind.close(client)
    assert had.chunks == [event(0), event(1), event(2)]
    recorded = Recorded(db)
    (stream,) = recorded.streams()
    assert [entry.type for entry in recorded.events(stream.stream_id)] == ["$response", "thread.message.delta", "$gap", "$end"]
    assert recorded.outcome(stream.stream_id) == "lost"
    assert len(said()) == 1


@pytest.mark.anyio
async def test_an_error_that_cannot_say_what_it_is_reaches_the_client_as_it_was(
    kind: Kind, db: str, said: Callable[[], list[str]]
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise Bug("not even this")

    error = Unspeakable()

    class Breaking(Pieces):
        def __iter__(self) -> Iterator[bytes]:
            yield event(0)
            raise error

        async def __aiter__(self) -> Any:
            yield event(0)
            raise error

    stream = type("Both", (Breaking, kind.family.SyncByteStream, kind.family.AsyncByteStream), {})([])
    client = kind.client(transport=kind.family.MockTransport(lambda request: kind.family.Response(200, stream=stream)))
    async with kind.recorded(client, db):
        response = await kind.begin(client, "http://x/v1")
        chunks = kind.raw(response)
        assert await following(chunks) == event(0)
        with pytest.raises(Unspeakable) as raised:
            await following(chunks)
        assert raised.value is error
        await kind.close(response)
    await kind.close(client)
    assert ended(db)["outcome"] == "client_closed"
    assert len(said()) == 1


@pytest.mark.anyio
async def test_a_database_that_is_locked_for_long_is_waited_for_by_the_writer_alone(
    kind: Kind, upstream: Upstream, db: str, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds it in the midst of a stream, for longer than the busy timeout: later all of it is there."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 200)
    answer = Lockstep(pieces(), Wire.end)
    upstream.on("/v1", answer)
    client = kind.client()
    hook = recorder.record(client, db)
    response = await kind.begin(client, f"{upstream.origin}/v1")
    chunks = kind.raw(response)
    had = [await following(chunks) or b""]
    answer.had(b"")
    assert hook.flush(PATIENCE)
    holding = sqlite3.connect(db.removeprefix("sqlite:///"), isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")
    while (chunk := await following(chunks)) is not None:
        had.append(chunk)
        answer.had(chunk)
    await kind.close(response)
    assert b"".join(had) == EVENTS
    until(said)
    assert not hook.flush(0.5), "nothing can be committed yet"
    holding.execute("ROLLBACK")
    holding.close()
    await kind.close(hook)
    await kind.close(client)
    recorded = Recorded(db)
    (stream,) = recorded.streams()
    assert recorded.body(stream.stream_id) == EVENTS
    assert recorded.outcome(stream.stream_id) == "eof"
    assert recorded.said(stream.stream_id, "$gap") == []
    first, second = said()
    assert "waits in memory" in first
    assert "locked" in first
    assert "again" in second


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=lambda kind: kind.name)
async def test_what_does_not_fit_into_memory_is_dropped_counted_and_said(
    kind: Kind, upstream: Upstream, db: str, said: Callable[[], list[str]]
) -> None:
    """While the database is held, more comes than may wait: the client has it all, and the log knows what it has not."""
    piece = b"data: " + b"x" * 50_000 + b"\n\n"
    count = 2 * QUEUE_BYTES // len(piece)
    held, over = threading.Event(), threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0))
        assert held.wait(PATIENCE)
        for _ in range(count):
            wire.chunk(piece)
        assert over.wait(PATIENCE)
        wire.chunk(event(1))
        wire.end()

    upstream.on("/v1", answer)
    client = kind.client(timeout=60)
    hook = recorder.record(client, db)
    response = await kind.begin(client, f"{upstream.origin}/v1")
    chunks = kind.raw(response)
    size = len(await following(chunks) or b"")
    assert hook.flush(PATIENCE)
    holding = sqlite3.connect(db.removeprefix("sqlite:///"), isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")
    held.set()
    while size < len(event(0)) + count * len(piece):
        size += len(await following(chunks) or b"")
    holding.execute("ROLLBACK")
    holding.close()
    assert hook.flush(60)
    over.set()
    assert await following(chunks) == event(1)
    assert await following(chunks) is None
    await kind.close(response)
    await kind.close(hook)
    await kind.close(client)
    recorded = Recorded(db)
    (stream,) = recorded.streams()
    gaps = recorded.said(stream.stream_id, "$gap")  # several, where a small chunk still fits after a large one
    kept = recorded.body(stream.stream_id)
    assert {gap["reason"] for gap in gaps} == {"queue full"}
    assert len(kept) + sum(gap["bytes"] for gap in gaps) == size + len(event(1))
    assert kept.startswith(event(0) + piece * 100)
    assert kept.endswith(event(1))


@pytest.mark.anyio
async def test_a_database_that_is_removed_harms_nobody(kind: Kind, upstream: Upstream, db: str) -> None:
    """Its file and those beside it are gone in the midst of a stream. That one goes on in a new file, and the next is in it."""
    answer = Lockstep(pieces(), Wire.end)
    upstream.on("/v1", answer)
    client = kind.client()
    async with kind.recorded(client, db) as hook:
        response = await kind.begin(client, f"{upstream.origin}/v1")
        chunks = kind.raw(response)
        had = [await following(chunks) or b""]
        assert hook.flush(PATIENCE)
        for suffix in ("", "-wal", "-shm"):
            Path(db.removeprefix("sqlite:///") + suffix).unlink()
        answer.had(b"")
        while (chunk := await following(chunks)) is not None:
            had.append(chunk)
            answer.had(chunk)
        await kind.close(response)
    assert b"".join(had) == EVENTS
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    async with kind.recorded(client, db):
        assert (await kind.fetch(client, f"{upstream.origin}/v1")).body == EVENTS
    await kind.close(client)
    recorded = Recorded(db)
    broken, whole = recorded.streams()
    assert recorded.body(whole.stream_id) == EVENTS
    (gap,) = recorded.said(broken.stream_id, "$gap")
    assert recorded.body(broken.stream_id) == EVENTS[gap["bytes"] :]


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    with smalldisk.small_disk("1m") as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_full_disk_harms_nobody_and_nothing_is_lost_when_there_is_room_again(
    kind: Kind, upstream: Upstream, tiny_disk: Path, said: Callable[[], list[str]]
) -> None:
    body = b"".join(event(number) for number in range(40_000))
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces(body, 20_000)))
    db = f"sqlite:///{tiny_disk}/log.db"
    client = kind.client()
    hook = recorder.record(client, db)
    had = await kind.fetch(client, f"{upstream.origin}/v1")
    assert (had.body, had.failed) == (body, None)
    until(said)
    assert len(said()) == 1
    assert not hook.flush(0.5)
    assert (await kind.fetch(client, f"{upstream.origin}/v1")).body == body
    subprocess.run(["mount", "-o", "remount,size=100m", str(tiny_disk)], check=True)
    await kind.close(hook)
    await kind.close(client)
    recorded = Recorded(db)
    for stream in recorded.streams():
        assert recorded.body(stream.stream_id) == body
        assert recorded.outcome(stream.stream_id) == "eof"
    assert len(recorded.streams()) == 2
    output("verify", db=db)
    recorded.engine.dispose()


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_disk_that_stays_full_keeps_what_it_could(
    kind: Kind, upstream: Upstream, tiny_disk: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing gives up in the end, says how much is lost, and what was committed is whole."""
    monkeypatch.setattr("recorder.collect.sharing.CLOSE_SECONDS", 0.3)
    body = b"".join(event(number) for number in range(40_000))
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces(body, 20_000)))
    db = f"sqlite:///{tiny_disk}/log.db"
    client = kind.client()
    hook = recorder.record(client, db)
    had = await kind.fetch(client, f"{upstream.origin}/v1")
    assert (had.body, had.failed) == (body, None)
    await kind.close(hook)
    await kind.close(client)
    assert any("are lost" in line for line in said())
    recorded = Recorded(db)
    for stream in recorded.streams():
        assert body.startswith(recorded.body(stream.stream_id))
    recorded.engine.dispose()
    subprocess.run(["mount", "-o", "remount,size=100m", str(tiny_disk)], check=True)
    until(lambda: not leftovers.writers())
    assert leftovers.open_files(db) == []
    output("verify", db=db)


def terminate(url: str) -> int:
    """Have PostgreSQL end all connections to a database but this one; how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        other = "datname = current_database() AND pid <> pg_backend_pid()"
        found = connection.execute(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {other}").fetchone()
        return int(found[0]) if found else 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_postgresql_that_ends_its_connections_loses_nothing(
    kind: Kind, upstream: Upstream, postgresql_url: str, said: Callable[[], list[str]]
) -> None:
    engine = database.engine(postgresql_url, create=True)
    database.check(engine, upgrade=True)
    engine.dispose()
    answer = Lockstep(pieces(), Wire.end)
    upstream.on("/v1", answer)
    client = kind.client()
    ends = 0
    async with kind.recorded(client, postgresql_url) as hook:
        response = await kind.begin(client, f"{upstream.origin}/v1")
        chunks = kind.raw(response)
        had = []
        while (chunk := await following(chunks)) is not None:
            had.append(chunk)
            if len(had) % 20 == 0:
                assert hook.flush(PATIENCE)
                ends += terminate(postgresql_url)
            answer.had(chunk)
        await kind.close(response)
    await kind.close(client)
    assert ends > 2
    assert b"".join(had) == EVENTS
    recorded = Recorded(postgresql_url)
    (stream,) = recorded.streams()
    assert recorded.body(stream.stream_id) == EVENTS
    assert recorded.outcome(stream.stream_id) == "eof"
    assert recorded.said(stream.stream_id, "$gap") == []
    assert any("waits in memory" in line for line in said())
    recorded.engine.dispose()
