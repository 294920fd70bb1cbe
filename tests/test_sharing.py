"""One writer for each database and process, through forks and to the end of the process: what was read is in the log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import recorder
from recorder.collect import sharing
from tests.commands import PATIENCE, environment, sqlite
from tests.commands import recorder as run
from tests.leftovers import open_files, writers
from tests.recorded import Recorded
from tests.upstream import Asked, Upstream, Wire

pytestmark = pytest.mark.slow

BODY = b"".join(b"data: %d\n\n" % number for number in range(5)) + b"data: [DONE]\n\n"
ROUNDS = 15  # each of which lost events before a writer let go of its file at a fork


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        if asked.target.startswith("/endless"):
            while True:
                wire.chunk(b"data: on and on\n\n")
                if wire.left(0.05):
                    return
        for line in BODY.splitlines(keepends=True):
            wire.chunk(line)
        wire.end()

    with Upstream(answer) as upstream:
        yield upstream


def forking(how: str, db: str, upstream: Upstream, status: int = 0) -> dict[str, int]:
    """Run the program; {name: how many requests of that name it says it made}."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.forking", how, db, upstream.origin, str(ROUNDS)],
        capture_output=True,
        cwd=Path(__file__).parents[1],
        env=environment(),
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stderr.decode()
    return {name: int(count) for name, count in (line.split() for line in done.stdout.decode().splitlines())}


def check(db: str, expected: dict[str, int]) -> None:
    """Every request is in the log, once and whole, and the log is sound."""
    recorded = Recorded(db)
    found: dict[str, int] = {}
    for stream in recorded.streams():
        name = stream.path.split("/")[1]
        found[name] = found.get(name, 0) + 1
        if name != "endless":
            assert recorded.body(stream.stream_id) == BODY
            assert recorded.outcome(stream.stream_id) == "done"
        else:
            assert recorded.body(stream.stream_id).startswith(b"data: on and on\n\n")
            assert recorded.outcome(stream.stream_id) == "lost"
    recorded.engine.dispose()
    assert found == expected
    verified = run("verify", db=db)
    assert verified.returncode == 0, verified.stderr.decode()


@pytest.mark.parametrize("how", ["prefork", "parent_first", "children_first", "pool"])
def test_what_forked_processes_record_is_in_the_log(how: str, upstream: Upstream, tmp_path: Path) -> None:
    """SQLite's locks are a process's; who inherits an open file without them loses what it commits (see database.py)."""
    db = sqlite(tmp_path / "log.db")
    check(db, forking(how, db, upstream))


@pytest.mark.parametrize("how", ["prefork", "pool"])
def test_and_on_postgresql(how: str, upstream: Upstream, postgresql_url: str) -> None:
    assert run("db", "upgrade", db=postgresql_url).returncode == 0
    check(postgresql_url, forking(how, postgresql_url, upstream))


def test_the_end_of_the_process_flushes(upstream: Upstream, tmp_path: Path) -> None:
    db = sqlite(tmp_path / "log.db")
    check(db, forking("ends", db, upstream))


def test_also_an_end_by_an_exception(upstream: Upstream, tmp_path: Path) -> None:
    db = sqlite(tmp_path / "log.db")
    check(db, forking("fails_at_the_end", db, upstream, status=1))


def test_a_stream_that_is_open_at_the_end_says_so(upstream: Upstream, tmp_path: Path) -> None:
    db = sqlite(tmp_path / "log.db")
    check(db, forking("still_streaming", db, upstream))


def test_hooks_on_one_database_share_a_writer_and_the_last_one_closes_it(upstream: Upstream, tmp_path: Path) -> None:
    db, other = sqlite(tmp_path / "log.db"), sqlite(tmp_path / "other.db")
    with httpx.Client() as first, httpx.Client() as second, httpx.Client() as third:
        hooks = [recorder.record(first, db), recorder.record(second, db), recorder.record(third, other)]
        for client in (first, second, third):
            client.post(f"{upstream.origin}/shared/0")
        assert len(writers()) == 2
        hooks[0].close()
        second.post(f"{upstream.origin}/shared/1")
        hooks[2].close()
        assert len(writers()) == 1
        hooks[1].close()
    assert not writers()
    assert not sharing._shared
    assert not open_files(db)
    assert not open_files(other)
    check(db, {"shared": 3})
    check(other, {"shared": 1})


def test_a_relative_path_is_of_the_folder_where_recording_began(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with httpx.Client() as client, recorder.record(client, "sqlite:///log.db"):
        monkeypatch.chdir(elsewhere)
        client.post(f"{upstream.origin}/relative/0")
    check(sqlite(tmp_path / "log.db"), {"relative": 1})
