"""Many clients, threads, tasks and processes record into one database: whatever each of them committed is there, whole.

What the processes do stands in tests.processes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import sqlalchemy as sa

import recorder
from recorder import database, log
from recorder.collect import sharing, writer
from recorder.errors import DatabaseError
from recorder.settings import Settings
from tests import leftovers
from tests.clients import ASYNC_KINDS, SYNC_KINDS, Kind
from tests.commands import environment, until
from tests.commands import recorder as command
from tests.recorded import Recorded
from tests.test_writer import begun, types
from tests.upstream import Asked, Upstream, Wire

PROJECT = Path(__file__).parents[1]

LOOPS: list[Any] = [
    "asyncio",
    pytest.param("trio", marks=pytest.mark.skipif(not importlib.util.find_spec("trio"), reason="trio is not installed")),
]

slow = pytest.mark.slow


def echo(wire: Wire, asked: Asked) -> None:
    """A stream that is of its request alone: each of its events says the request's query."""
    wire.stream([b"data: %s %d\n\n" % (asked.target.partition("?")[2].encode(), number) for number in range(20)])


def echoed(who: str) -> bytes:
    return b"".join(b"data: %s %d\n\n" % (who.encode(), number) for number in range(20))


def open_or_echo(wire: Wire, asked: Asked) -> None:
    """`?open` takes a while: it goes on for as long as a process needs to end."""
    if not asked.target.endswith("?open"):
        echo(wire, asked)
        return
    wire.begin()
    for number in range(20):
        wire.chunk(b"data: open %d\n\n" % number)
        time.sleep(0.1)
    wire.end()


@pytest.fixture
def asking(upstream: Upstream) -> str:
    """The URL of an upstream that answers `?who` with a stream of its own."""
    upstream.on("/v1", open_or_echo)
    return f"{upstream.origin}/v1"


@pytest.fixture
def either(engine: sa.Engine) -> str:
    """The URL of a database of either kind, ready to be written."""
    engine.dispose()
    return engine.url.render_as_string(hide_password=False)


def missing(db: str, asked: list[str]) -> list[str]:
    """Those of these queries whose streams the log has not, or has not whole."""
    log = Recorded(db)
    try:
        found = {stream.query: stream.stream_id for stream in log.streams()}
        return [who for who in asked if who not in found or log.body(found[who]) != echoed(who) or not log.outcome(found[who])]
    finally:
        log.engine.dispose()


def check(db: str, asked: list[str], others: bool = False) -> None:
    """All of these are in the log, each once and whole, nothing else is (unless there may be others), and the log is sound."""
    assert asked
    assert len(set(asked)) == len(asked)
    assert missing(db, asked) == []
    log = Recorded(db)
    found = sorted(stream.query for stream in log.streams())
    log.engine.dispose()
    assert others or found == sorted(asked)
    verified = command("verify", db=db)
    assert verified.returncode == 0, verified.stdout.decode() + verified.stderr.decode()


# Threads and tasks


@pytest.mark.parametrize("kind", SYNC_KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("clients", [1, 5])
def test_streams_of_many_threads_are_all_whole(kind: Kind, asking: str, either: str, clients: int) -> None:
    """Twenty threads, on one client or on several, all of them into one database."""
    made = [kind.client(timeout=60) for _ in range(clients)]
    hooks = [recorder.record(client, either) for client in made]

    def ask(number: int) -> list[str]:
        asked = []
        for turn in range(5):
            asked.append(f"{number}-{turn}")
            response = made[number % clients].get(f"{asking}?{asked[-1]}")
            assert response.content == echoed(asked[-1])
        return asked

    with ThreadPoolExecutor(20) as pool:
        asked = [who for each in pool.map(ask, range(20)) for who in each]
    assert len(leftovers.writers()) == 1
    for hook in hooks:
        hook.close()
    for client in made:
        client.close()
    check(either, asked)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.name)
def test_streams_of_many_tasks_are_all_whole(kind: Kind, asking: str, either: str, loop: str) -> None:
    """Two hundred tasks at once on one client."""
    asked: list[str] = []

    async def main() -> None:
        async def ask(number: int) -> None:
            response = await client.get(f"{asking}?{number}")
            assert response.content == echoed(str(number))
            asked.append(str(number))

        async with kind.client(timeout=60) as client, recorder.record(client, either), anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(ask, number)

    anyio.run(main, backend=loop)
    assert len(asked) == 200
    check(either, asked)


def test_two_databases_at_once_keep_apart(asking: str, db: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    with httpx.Client() as one, httpx.Client() as two, recorder.record(one, db), recorder.record(two, other):
        for number in range(20):
            one.get(f"{asking}?one-{number}")
            two.get(f"{asking}?two-{number}")
        assert len(leftovers.writers()) == 2
    check(db, [f"one-{number}" for number in range(20)])
    check(other, [f"two-{number}" for number in range(20)])


def test_clients_of_all_kinds_share_one_writer(asking: str, db: str) -> None:
    async def ask(kind: Kind) -> None:
        client = kind.client()
        hook = recorder.record(client, db)
        assert (await kind.fetch(client, f"{asking}?{kind.name}")).body == echoed(kind.name)
        assert len(leftovers.writers()) == 1
        await kind.close(hook)
        await kind.close(client)

    async def main() -> None:
        with httpx.Client() as client, recorder.record(client, db):
            client.get(f"{asking}?first")
            await asyncio.gather(*map(ask, [*ASYNC_KINDS, *SYNC_KINDS]))

    asyncio.run(main())
    check(db, ["first", *(kind.name for kind in [*ASYNC_KINDS, *SYNC_KINDS])])


# One writer a database


def test_a_database_has_one_writer_whatever_it_is_called(tmp_path: Path, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with httpx.Client() as one, httpx.Client() as two, recorder.record(one, db), recorder.record(two, "sqlite:///x.db"):
        assert len(sharing._shared) == 1


def test_a_name_means_the_file_that_it_means_where_the_program_is(
    tmp_path: Path, asking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that goes to another folder goes on recording where it began; a new hook there begins in that folder."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with httpx.Client() as one, httpx.Client() as two, recorder.record(one, "sqlite:///log.db"):
        monkeypatch.chdir(tmp_path / "b")
        with recorder.record(two, "sqlite:///log.db"):
            one.get(f"{asking}?a")
            two.get(f"{asking}?b")
    check(f"sqlite:///{tmp_path}/a/log.db", ["a"])
    check(f"sqlite:///{tmp_path}/b/log.db", ["b"])


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    """What is recorded there would be gone before anybody could ask for it."""
    with httpx.Client() as client, pytest.raises(DatabaseError, match=r"memory.*name a file"):
        recorder.record(client, url).close()
    assert sharing._shared == {}


def test_a_database_is_opened_again_after_its_last_user_left(asking: str, db: str) -> None:
    with httpx.Client() as client:
        for number in range(20):
            with recorder.record(client, db):
                client.get(f"{asking}?{number}")
            assert sharing._shared == {}
            assert leftovers.writers() == []
            assert leftovers.open_files(db) == []
    check(db, [str(number) for number in range(20)])


def test_hooks_opened_and_closed_by_many_threads_lose_nothing(asking: str, db: str) -> None:
    asked: list[str] = []

    def open_and_close(number: int) -> None:
        for turn in range(10):
            who = f"{number}-{turn}"
            with httpx.Client(timeout=60) as client, recorder.record(client, db):
                client.get(f"{asking}?{who}")
            asked.append(who)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_close, range(8)))
    assert len(asked) == 80
    assert sharing._shared == {}
    until(lambda: leftovers.writers() == [])
    check(db, asked)


def test_what_everybody_has_left_begins_no_writer_that_nobody_would_close(asking: str, db: str) -> None:
    with httpx.Client() as client:
        hook = recorder.record(client, db)
        client.get(f"{asking}?1")
        late = client.build_request("GET", f"{asking}?2")
        hook.close()
        assert hook._observer.begin(late, None, 0) is None
    with pytest.raises(DatabaseError, match="was closed"):
        hook._shared.writer  # noqa: B018
    assert leftovers.writers() == []
    check(db, ["1"])


def test_a_transport_that_is_closed_has_committed_what_it_recorded_also_if_another_goes_on(
    asking: str, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = log.insert_streams

    def slowly(*args: Any) -> None:
        time.sleep(0.2)
        insert(*args)

    monkeypatch.setattr(log, "insert_streams", slowly)
    other = recorder.RecordingTransport(httpx.HTTPTransport(), db)
    transport = recorder.RecordingTransport(httpx.HTTPTransport(), db)
    with httpx.Client(transport=transport) as client:
        client.get(f"{asking}?1")
    assert transport.complete
    check(db, ["1"])
    other.close()


def test_a_transport_whose_own_does_not_close_is_given_back(db: str) -> None:
    class Broken(httpx.HTTPTransport):
        def close(self) -> None:
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        recorder.RecordingTransport(Broken(), db).close()
    assert sharing._shared == {}


# Processes


def played(scene: str, db: str, url: str, *args: str, status: int = 0, **variables: str) -> tuple[list[str], str]:
    """Play a scene of tests.processes: (what its processes say is committed, its stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes", scene, db, url, *args],
        cwd=PROJECT,
        env=environment() | variables,
        capture_output=True,
        timeout=300,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{scene} ended with {done.returncode}: {done.stderr}"
    return done.stdout.split(), done.stderr


@slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_no_event_is_lost_whoever_forks_and_whoever_ends_first(db: str, asking: str, seed: str) -> None:
    """Parents fork in the midst of a commit. Parent and child then write the same file, and end in either order."""
    said, errors = played("parents_and_children", db, asking, "60", seed)
    assert len(said) > 300
    check(db, said)
    assert errors == ""


@slow
def test_control_a_recorder_that_does_nothing_about_forks_loses_events(db: str, asking: str, tmp_path: Path) -> None:
    """SQLite's locks are the process's, and a child that inherits an open file believes that it holds them."""
    harmed: list[str] = []
    for seed in range(20):
        file = tmp_path / f"{seed}.db"
        file.write_bytes(Path(db.removeprefix("sqlite:///")).read_bytes())
        try:
            said, _ = played("parents_and_children", f"sqlite:///{file}", asking, "6", str(seed), WITHOUT_LETTING_GO="1")
            harmed += missing(f"sqlite:///{file}", said)
        except (AssertionError, sqlite3.Error, sa.exc.DBAPIError) as error:
            harmed.append(str(error))
        if harmed:
            break
    assert harmed


@slow
def test_parents_and_children_lose_nothing_in_either_database(either: str, asking: str) -> None:
    said, errors = played("parents_and_children", either, asking, "15", "7")
    check(either, said)
    assert errors == ""


@slow
def test_children_that_record_nothing_harm_nothing(either: str, asking: str) -> None:
    """They end by sys.exit, by os._exit, with the hook closed, flushed, or thrown away, while their parent is at it."""
    said, errors = played("silent_children", either, asking, "24")
    assert len(said) > 24
    check(either, said)
    assert errors == ""


@slow
def test_a_fork_in_the_midst_of_closing_loses_nothing(db: str, asking: str) -> None:
    said, errors = played("closing_while_forking", db, asking, "50")
    check(db, said)
    assert errors == ""


@slow
def test_children_of_children_record_too(either: str, asking: str) -> None:
    said, errors = played("grandchildren", either, asking)
    assert len({who.split(".")[1] for who in said}) == 15
    check(either, said)
    assert errors == ""


@slow
def test_a_stream_that_is_open_in_the_parent_is_the_parents_alone(either: str, asking: str) -> None:
    """A child inherits it, drops it and ends: the parent's goes on, and the log has one whole stream and one end."""
    said, errors = played("open_stream_and_fork", either, asking)
    log = Recorded(either)
    (opened,) = [stream for stream in log.streams() if stream.query == "open"]
    assert log.body(opened.stream_id) == b"".join(b"data: open %d\n\n" % number for number in range(20))
    assert log.said(opened.stream_id, "$end") == [{"outcome": "eof", "closed": "eof"}]
    log.engine.dispose()
    assert missing(either, [who for who in said if who != "open"]) == []
    assert "open" in said
    assert errors == ""


@slow
def test_a_server_that_forks_its_workers_and_they_record_into_one_database(either: str, asking: str) -> None:
    """Whether a worker closes, flushes, exits or is terminated."""
    said, errors = played("prefork_server", either, asking)
    assert {who.split(".")[0] for who in said} == {"master", "worker0", "worker1", "worker2", "worker3"}
    check(either, said)
    assert errors == ""


@slow
@pytest.mark.parametrize(("method", "inherit"), [("fork", "inherit"), ("fork", "own"), ("forkserver", "own"), ("spawn", "own")])
def test_children_of_multiprocessing_flush_when_they_end(db: str, asking: str, method: str, inherit: str) -> None:
    """Processes of its own, of an executor, and of a pool; none of them closes anything."""
    said, errors = played("multiprocessed", db, asking, method, inherit)
    assert len({who.split(".")[1] for who in said}) >= 6
    check(db, said)
    assert errors == ""


@slow
def test_a_fork_does_not_wait_long_for_a_database_that_is_held(db: str, asking: str) -> None:
    """Another process holds it for good: the program forks, and its child ends, in seconds."""
    with holding(db):
        played("fork_while_held", db, asking)
    assert command("verify", db=db).returncode == 0


def test_a_fork_in_the_midst_of_a_transaction_does_not_wait_for_it(either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child leaves a server's connection alone; into a file that its parent is just writing it does not record."""
    monkeypatch.setattr(sharing, "FORK_FILE_SECONDS", 0.1)
    monkeypatch.setattr(writer, "HANGING_SECONDS", 0.01)
    goes_on, insert = threading.Event(), log.insert_streams

    def stalled(*args: Any) -> None:
        goes_on.wait(30)
        insert(*args)

    shared = sharing.acquire(either, Settings())
    monkeypatch.setattr(log, "insert_streams", stalled)
    recording = begun(shared.writer)
    until(lambda: shared.writer.hanging_since)
    child = os.fork()
    if child == 0:
        refused = 0
        try:
            for _ in range(2):
                try:
                    shared.writer  # noqa: B018
                except DatabaseError:
                    refused += 1
                if grandchild := os.fork():  # which makes the file no less its parent's
                    os.waitpid(grandchild, 0)
                else:
                    os._exit(0)
        finally:
            os._exit(refused)
    assert shared.writer.hanging_since, "the fork did not wait for it"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (2 if either.startswith("sqlite") else 0)
    goes_on.set()
    recording.end("completed")
    sharing.release(shared)
    engine = database.connect(either)
    assert types(engine, recording)[-1] == "$end"
    engine.dispose()


# The end of a process


class holding:
    """Another process's lock on a SQLite file."""

    def __init__(self, db: str) -> None:
        self._connection = sqlite3.connect(db.removeprefix("sqlite:///"), isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *error: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


@slow
@pytest.mark.parametrize(("how", "status"), [("returns", 0), ("exit", 3), ("exception", 1), ("keyboard", -2), ("transport", 0)])
def test_the_end_of_a_process_flushes(either: str, asking: str, how: str, status: int) -> None:
    """Its exit status and what it says on stderr are its own."""
    said, errors = played("ends", either, asking, how, status=status)
    check(either, said)
    assert bool(errors) == (status in (1, -2))
    assert "recorder." not in errors


@slow
@pytest.mark.parametrize("how", ["thread", "daemon"])
def test_the_end_of_a_process_with_a_stream_still_open_flushes_what_came(either: str, asking: str, how: str) -> None:
    """A thread is waited for by the interpreter, and its stream is whole; a daemon is not, and the log says so."""
    said, errors = played("ends", either, asking, how)
    assert missing(either, [who for who in said if who != "open"]) == []
    log = Recorded(either)
    (opened,) = [stream for stream in log.streams() if stream.query == "open"]
    body = b"".join(b"data: open %d\n\n" % number for number in range(20))
    kept, outcome = log.body(opened.stream_id), log.outcome(opened.stream_id)
    log.engine.dispose()
    assert kept == body if how == "thread" else body.startswith(kept) and kept
    assert outcome == ("eof" if how == "thread" else "lost")
    assert errors == ""
    assert command("verify", db=either).returncode == 0


@slow
def test_the_end_of_a_process_does_not_wait_for_ever_for_a_database_that_is_held(db: str, asking: str) -> None:
    """It ends, by itself and with its own status, and says what is lost."""
    with holding(db):
        _, errors = played("ends", db, asking, "exit", status=3)
    assert "are lost" in errors
    assert "Traceback" not in errors
    assert command("verify", db=db).returncode == 0
