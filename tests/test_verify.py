"""verify: silent on what recorder wrote, and never silent on one cell that somebody else changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log
from recorder.collect.import_ import import_paths
from recorder.log import checkpoints, events, heads, pending, streams
from recorder.projections import PROJECTED, runner
from recorder.projections.costs import COSTS
from recorder.projections.verify import verify
from recorder.sse import Frame
from tests import chatting
from tests.responding import RESPONSES, answering, called, replied
from tests.writing import answered, asked, frames, said, stream, stream_id, submitting, write

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[1] / "fixtures" / "assistants"
CASES = (
    "message-annotations-refusal",
    "functions-parallel",
    "functions-parallel-outputs",
    "failed-last-error",
    "expired-steps-inherit",
    "error-nested",
    "cut-in-the-middle",
)

CHECKED = (*PROJECTED, events, heads)


def fill(engine: sa.Engine) -> None:
    """Fixture streams, and one with raw bytes, cuts, a response and a label; all projected."""
    import_paths(engine, [str(FIXTURES / f"{case}.sse") for case in CASES])
    odd = [
        Frame("$response", '{"status":200,"headers":[]}', None, 5, None),
        Frame("thread.run.created", "\ufffd", b"event: thread.run.created\ndata: \xff\n\n", 7, [(3, 6)]),
        Frame("$comment", "ping", None, 8),
        *(frame._replace(offset_us=frame.offset_us + 10, cuts=[(2, 9)]) for frame in frames(said(id="run_odd"))),
    ]
    write(engine, stream(1, label="labelled"), odd)
    write(engine, stream(2), frames(asked("run_waiting"), None))
    write(engine, stream(3, RESPONSES), frames(called(), "eof"))
    write(engine, stream(4, answering()), frames(replied(id="resp_2", previous_response_id="resp_1"), "eof"))
    write(engine, stream(5, chatting.CHAT), frames(chatting.called()))
    cut = [*frames(said(id="run_silent")[:5], None), log.system_frame("$end", {"outcome": "cut"}, 12_000_000)]
    write(engine, stream(7), cut)
    write(engine, stream(6, chatting.history(("call_1", "rain"))), frames(chatting.said(usage=chatting.USAGE)))
    runner.catch_up(engine)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file, filled and projected, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "x.db"
    engine = database.connect(f"sqlite:///{path}")
    fill(engine)
    assert verify(engine).problems == []
    engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # one file, so that it can be copied
    connection.close()
    return path


@pytest.fixture
def copied(filled: Path) -> Iterator[Callable[[], sa.Engine]]:
    """Makes a copy of the filled database, in memory, over the one before: so statements are compiled once."""
    source = sqlite3.connect(filled)
    engine = database.engine("sqlite://", create=True)

    def copy() -> sa.Engine:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            source.backup(driver)
        return engine

    yield copy
    engine.dispose()
    source.close()


def test_what_recorder_wrote_is_clean(engine: sa.Engine) -> None:
    fill(engine)
    report = verify(engine)
    assert report.problems == []
    assert report.streams == len(CASES) + 7
    with database.read(engine) as connection:
        assert report.events == connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()


def test_anomalies_are_counted_and_are_no_problem(engine: sa.Engine) -> None:
    fill(engine)
    assert verify(engine).anomalies["unfinished_tail"] == 1


def test_an_empty_database_is_clean(engine: sa.Engine) -> None:
    assert verify(engine) == (0, 0, 0, [], {})


def test_what_waits_to_be_projected_is_no_problem(engine: sa.Engine) -> None:
    write(engine, stream(1), frames(said())[:5])
    assert verify(engine).problems == []
    runner.catch_up(engine)
    write(engine, stream(1), frames(said())[5:], 5)
    assert verify(engine).problems == []


def others(column: sa.Column[Any], value: Any) -> list[Any]:
    """Other values that this cell could have, and that the rest of the database contradicts."""
    if column is heads.c.ended_at:  # that it ended is also told by its events; when, is told here alone
        changed: list[Any] = [] if value else [datetime.fromisoformat("2026-01-01T00:00:00+00:00")]
    elif isinstance(column.type, database.UTCTime):
        changed = [value + timedelta(microseconds=1) if value else datetime.fromisoformat("2026-01-01T00:00:00+00:00")]
    elif isinstance(column.type, sa.Boolean):
        changed = [not value]
    elif isinstance(column.type, sa.Integer):
        changed = [1 if value is None else value + (1000 if column.primary_key else 1)]
    elif isinstance(column.type, sa.LargeBinary):
        changed = [b"" if value is None else bytes(value) + b"\n"]
    elif column.name == "stream_id":
        changed = [stream_id(999)]
    else:
        changed = ["" if value is None else value + " "]
    return [*changed, None] if column.nullable and value is not None else changed


def cells(engine: sa.Engine, table: sa.Table) -> list[tuple[sa.ColumnElement[bool], sa.Column[Any], Any]]:
    """(where, column, another value) for every cell of a table and every other value that it could have."""
    with database.read(engine) as connection:
        found = connection.execute(sa.select(table)).mappings().all()
    return [
        (sa.and_(*(table.c[key.name] == row[key.name] for key in table.primary_key.columns)), column, other)
        for row in found
        for column in table.columns
        if column.name not in COSTS  # which are no function of the log
        for other in others(column, row[column.name])
    ]


def sample(given: list[Any], most: int) -> list[Any]:
    """At most so many of these, from all over."""
    return given[:: -(-len(given) // most)]


def undetected(copy: Callable[[], sa.Engine], table: sa.Table, most: int) -> list[str]:
    """Changes of single cells that verify does not report."""
    engine = copy()
    by_column: dict[str, list[Any]] = {}
    for cell in cells(engine, table):
        by_column.setdefault(cell[1].name, []).append(cell)
    silent = []
    for found in by_column.values():
        for where, column, other in sample(found, most):
            with database.write(engine) as connection:
                assert connection.execute(table.update().where(where).values({column.name: other})).rowcount == 1
            if not verify(engine).problems:
                silent.append(f"{where.compile(compile_kwargs={'literal_binds': True})}: {column.name} = {other!r}")
            engine = copy()
    return silent


@pytest.mark.parametrize("table", CHECKED, ids=lambda table: table.name)
def test_a_cell_changed_in_any_column_is_reported(copied: Callable[[], sa.Engine], table: sa.Table) -> None:
    assert undetected(copied, table, 1) == []


@pytest.mark.slow
@pytest.mark.parametrize("table", CHECKED, ids=lambda table: table.name)
def test_any_cell_changed_is_reported(copied: Callable[[], sa.Engine], table: sa.Table) -> None:
    assert undetected(copied, table, 2) == []


@pytest.mark.parametrize("table", CHECKED, ids=lambda table: table.name)
def test_a_row_that_is_gone_is_reported(copied: Callable[[], sa.Engine], table: sa.Table) -> None:
    engine = copied()
    with database.read(engine) as connection:
        found = connection.execute(sa.select(*table.primary_key.columns)).mappings().all()
    assert found, "nothing to take away"
    for row in sample(list(found), 6):
        engine = copied()
        with database.write(engine) as connection:
            gone = connection.execute(table.delete().where(*(table.c[key] == value for key, value in row.items())))
            assert gone.rowcount == 1
        assert verify(engine).problems, dict(row)


@pytest.mark.parametrize("table", CHECKED, ids=lambda table: table.name)
def test_a_row_that_was_added_is_reported(copied: Callable[[], sa.Engine], table: sa.Table) -> None:
    engine = copied()
    with database.read(engine) as connection:
        row = dict(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings().all()[-1])
    for column in table.primary_key.columns:
        if row[column.name] not in ("", None):
            row[column.name] = others(column, row[column.name])[0]
    with database.write(engine) as connection:
        connection.execute(table.insert().values(**row))
    assert verify(engine).problems


def test_a_stream_without_its_row_is_reported(copied: Callable[[], sa.Engine]) -> None:
    engine = copied()
    with database.write(engine) as connection:
        connection.execute(streams.delete().where(streams.c.stream_id == stream_id(1)))
    assert any(stream_id(1) in line for line in verify(engine).problems)


@pytest.mark.parametrize("column", ["path", "session_label", "started_at", "request_body"])
def test_a_request_that_the_read_model_was_made_of_cannot_change_silently(copied: Callable[[], sa.Engine], column: str) -> None:
    engine = copied()
    changed = {"path": "/elsewhere", "session_label": "x", "started_at": datetime.fromisoformat("2020-01-01T00:00:00+00:00")}
    body = b'{"tool_outputs": [{"tool_call_id": "call_FuncA", "output": "18"}]}'
    with database.write(engine) as connection:
        where = streams.c.request_body.is_not(None) if column == "request_body" else streams.c.stream_id == stream_id(1)
        connection.execute(streams.update().where(where).values({column: changed.get(column, body)}))
    assert verify(engine).problems


@pytest.mark.parametrize("step", [-1, 1, 99])
def test_a_checkpoint_that_moved_is_reported(copied: Callable[[], sa.Engine], step: int) -> None:
    engine = copied()
    with database.write(engine) as connection:
        connection.execute(
            checkpoints.update().where(checkpoints.c.stream_id == stream_id(1)).values(position=checkpoints.c.position + step)
        )
    assert verify(engine).problems


@pytest.mark.parametrize("of_all", [True, False])
def test_a_stream_that_nobody_would_project_further_is_reported(engine: sa.Engine, of_all: bool) -> None:
    write(engine, stream(1), frames(said())[:5])
    runner.catch_up(engine)
    write(engine, stream(1), frames(said())[5:], 5)
    with database.write(engine) as connection:
        connection.execute(pending.delete())
    chosen = None if of_all else [stream_id(1)]
    assert [line for line in verify(engine, chosen).problems if stream_id(1) in line and "projected to 4 of" in line]
    runner.rebuild(engine)
    assert verify(engine, chosen).problems == []


def test_two_events_that_changed_places_are_reported(copied: Callable[[], sa.Engine]) -> None:
    engine = copied()
    with database.write(engine) as connection:
        of_stream = events.c.stream_id == stream_id(2)
        for before, after in ((2, 99), (3, 2), (99, 3)):
            connection.execute(events.update().where(of_stream, events.c.position == before).values(position=after))
    assert verify(engine).problems


def test_a_problem_names_the_stream_or_the_row_and_the_column(copied: Callable[[], sa.Engine]) -> None:
    engine = copied()
    with database.write(engine) as connection:
        table = next(table for table in PROJECTED if table.name == "runs")
        connection.execute(table.update().where(table.c.run_key == "run_odd").values(total_tokens=1))
        connection.execute(events.update().where(events.c.stream_id == stream_id(2), events.c.position == 0).values(offset_us=1))
    problems = verify(engine).problems
    assert any("run_odd" in line and "total_tokens" in line for line in problems)
    assert any(stream_id(2) in line and "crc" in line for line in problems)


def test_one_stream_is_verified_with_all_that_its_runs_are_made_of(engine: sa.Engine) -> None:
    write(engine, stream(1), frames(asked()))
    write(engine, stream(2, submitting()), frames(answered()))
    write(engine, stream(3), frames(said(id="run_3")))
    runner.catch_up(engine)
    assert verify(engine, [stream_id(1)]).problems == []
    assert verify(engine, [stream_id(1)]).streams == 2
    runs = next(table for table in PROJECTED if table.name == "runs")
    with database.write(engine) as connection:
        connection.execute(runs.update().where(runs.c.run_key == "run_1").values(status="failed"))
    assert verify(engine, [stream_id(1)]).problems
    assert verify(engine, [stream_id(2)]).problems
    assert verify(engine, [stream_id(3)]).problems == []


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("runs", "total_tokens", 7),
        ("runs", "object", "{}"),
        ("messages", "text", "x"),
        ("sessions", "runs", 9),
        ("usage_hourly", "runs_without_usage", 9),
        ("folds", "state", "{}"),
        ("events", "data", "x"),
        ("events", "offset_us", 77),
        ("heads", "crc", 5),
        ("heads", "outcome", "eof"),
    ],
)
def test_a_changed_cell_is_reported_on_either_engine(engine: sa.Engine, name: str, column: str, value: Any) -> None:
    write(engine, stream(1), frames(said()))
    runner.catch_up(engine)
    assert verify(engine).problems == []
    table = next(table for table in CHECKED if table.name == name)
    with database.write(engine) as connection:
        connection.execute(table.update().values({column: value}))
    assert verify(engine).problems


def test_verifying_changes_nothing(copied: Callable[[], sa.Engine]) -> None:
    engine = copied()

    def everything() -> list[Any]:
        with database.read(engine) as connection:
            return [connection.execute(sa.select(table)).all() for table in (*CHECKED, streams, pending, checkpoints)]

    before = everything()
    verify(engine)
    assert everything() == before
