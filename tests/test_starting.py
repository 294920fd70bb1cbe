"""What a command loads before it does anything: no more than it needs, for that is most of the time that it takes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import database, queries
from recorder.cli import quick
from recorder.cli.ls import SESSION_FIELDS
from recorder.collect.lease import Lease
from recorder.projections import runner
from recorder.projections.sessions import sessions
from tests import writing
from tests.commands import PATIENCE, answer, environment, output, sqlite
from tests.writing import said

HEAVY = {"alembic", "asyncio", "httpx", "prometheus_client", "psycopg", "pydantic", "regex", "rich", "sqlalchemy", "uvicorn"}

SAID = "import json, sys; {}; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
LOADED = SAID.format("from recorder.cli import main; main(sys.argv[1:])")


def loaded(program: str, *args: str) -> set[str]:
    """The names of all modules that a program has loaded, which it prints on stderr at its end."""
    given = [sys.executable, "-c", program, *args]
    done = subprocess.run(given, capture_output=True, env=environment(), timeout=PATIENCE, check=True)
    return set(json.loads(done.stderr))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file in which nothing is to be done."""
    file = tmp_path / "log.db"
    engine = database.connect(sqlite(file))
    writing.write(engine, writing.on("thread_1", "mine"), writing.frames(said(model="gpt-4o")))
    runner.catch_up(engine)
    engine.dispose()
    return file


@pytest.mark.parametrize("options", [(), ("--json",), ("--csv", "--model", "gpt-4o", "--since", "2020-01-01", "--label", "mine")])
def test_ls_loads_nothing_heavy(file: Path, options: tuple[str, ...]) -> None:
    assert not loaded(LOADED, "--db", sqlite(file), "ls", *options) & HEAVY


def test_help_loads_no_command(file: Path) -> None:
    found = loaded(LOADED, "--help")
    assert not found & HEAVY
    assert sorted(name for name in found if name.startswith("recorder.cli.")) == ["recorder.cli.columns", "recorder.cli.output"]


def test_the_library_loads_what_is_used() -> None:
    assert not loaded(SAID.format("import recorder")) & HEAVY


def test_a_command_on_a_current_file_does_not_load_the_migrations(file: Path) -> None:
    found = loaded(LOADED, "--db", sqlite(file), "show", "last")
    assert not found & {"alembic", "psycopg", "prometheus_client", "uvicorn", "httpx"}


def test_the_fields_are_the_columns_of_the_table() -> None:
    assert tuple(column.name for column in sessions.columns) == SESSION_FIELDS


def test_ls_says_the_same_either_way(file: Path) -> None:
    engine = database.connect(sqlite(file))
    with database.read(engine) as connection:
        expected = queries.list_sessions(connection)
    engine.dispose()
    assert expected
    assert answer("ls", db=file) == expected


# What is not current is asked the ordinary way


def nothing(ask: object) -> str:
    return "answered"


def changed(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_current_file_is_asked_at_once(file: Path) -> None:
    assert quick.asked(sqlite(file), nothing) == "answered"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE recorder_version SET version_num = '0001'",
        "INSERT INTO pending SELECT stream_id, 1 FROM streams",
        "INSERT INTO pending_sums VALUES ('session', 'mine')",
        "INSERT INTO pending_sums VALUES ('cost', 'run_1')",
        "UPDATE folds SET fold_version = 1",
        "DROP TABLE pending",
    ],
)
def test_a_file_in_which_there_is_something_to_do_is_not(file: Path, statement: str) -> None:
    changed(file, statement)
    assert quick.asked(sqlite(file), nothing) is None


def test_a_writer_that_lives_is_no_reason_to_wait_and_one_that_died_is(file: Path) -> None:
    engine: sa.Engine = database.connect(sqlite(file))
    with database.write(engine) as connection:
        assert Lease().hold(connection)
    engine.dispose()
    assert quick.asked(sqlite(file), nothing) == "answered"
    changed(file, f"UPDATE writers SET process_started = '1' WHERE pid = {os.getpid()}")
    assert quick.asked(sqlite(file), nothing) is None


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///{}?mode=ro", "postgresql://x/{}", "sqlite:///{}.not"]
)
def test_other_databases_are_not(file: Path, url: str) -> None:
    assert quick.asked(url.format(file), nothing) is None
    assert not Path(f"{file}.not").exists()


def test_what_was_recorded_last_is_in_the_answer(file: Path) -> None:
    engine = database.connect(sqlite(file))
    writing.write(engine, writing.on("thread_2", "new", 1), writing.frames(said(id="run_2", thread_id="thread_2")))
    engine.dispose()
    assert b"new" in output("ls", db=file)
