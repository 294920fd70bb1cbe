"""The plan of each question that recorder asks of its tables: none reads a table whole that grows with every run or event.

SQLite plans by its schema alone. PostgreSQL would read small tables whole whatever indexes there are, so it is told to avoid
that: what it reads whole all the same, it could not do otherwise.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, queries, reports
from recorder.collect.import_ import import_paths
from recorder.database import metadata
from recorder.projections import runner
from recorder.projections.verify import verify
from recorder.views import VIEWS
from tests.conftest import OWN
from tests.population import making
from tests.population.making import Population
from tests.writing import asked, frames, said, stream, write

LARGE = {"streams", "events", "heads", "checkpoints", "folds", "runs", "run_steps", "tool_calls", "messages", "session_streams"}
"""Tables that have a row for each run, stream, event, or more."""

AT = datetime(2026, 5, 28, 20, tzinfo=UTC)
SINCE = AT.replace(minute=30)
ABROAD = timezone(timedelta(hours=9))
INDIA = timezone(timedelta(hours=5, minutes=30))

Query = Callable[[sa.Connection], object]

QUERIES: dict[str, Query] = {
    "usage": reports.usage,
    **{f"usage by {by}": lambda connection, by=by: reports.usage(connection, by) for by in reports.USAGE_BY},  # type: ignore[misc]
    **{
        f"usage by {by} since": lambda connection, by=by: reports.usage(connection, by, SINCE, AT + timedelta(days=3))  # type: ignore[misc]
        for by in reports.USAGE_BY
    },
    "usage since the hour": lambda connection: reports.usage(connection, None, AT, AT + timedelta(days=3)),
    "usage of an hour": lambda connection: reports.usage(connection, "model", AT, AT + timedelta(hours=1)),
    "usage by day of a zone": lambda connection: reports.usage(connection, "day", zone=ABROAD),
    "failures": lambda connection: reports.failures(connection, limit=100),
    "failures since": lambda connection: reports.failures(connection, since=SINCE, limit=100),
    "failures of a kind": lambda connection: reports.failures(connection, kind="cut", limit=100),
    **{f"failures by {by}": lambda connection, by=by: reports.failures(connection, by) for by in reports.FAILURES_BY},  # type: ignore[misc]
    "ls": queries.list_sessions,
    "ls --failed": lambda connection: queries.list_sessions(connection, failed=True),
    "ls --since": lambda connection: queries.list_sessions(connection, since=SINCE),
    "ls --label": lambda connection: queries.list_sessions(connection, label="nightly"),
    "ls --model": lambda connection: queries.list_sessions(connection, model="gpt-4o"),
    "ls --status": lambda connection: queries.list_sessions(connection, status="failed"),
    "ls --status unknown": lambda connection: queries.list_sessions(connection, status="unknown"),
    "show RUN": lambda connection: queries.show_run(connection, "run_1"),
    "show STREAM": lambda connection: queries.show_stream(connection, stream(1).stream_id),
    "show SESSION": lambda connection: queries.show_session(connection, queries.Named("session", "thread_1")),
    "show THREAD": lambda connection: queries.show_session(connection, queries.Named("thread", "thread_1")),
    "show last": lambda connection: queries.resolve(connection, "last"),
    "show ID": lambda connection: queries.resolve(connection, "run_1"),
    "tail": lambda connection: queries.recent_events(connection, 10),
    **{
        f"the latest of {name}": lambda connection, name=name, by=by: connection.exec_driver_sql(  # type: ignore[misc]
            f"SELECT * FROM {name} ORDER BY {by} DESC LIMIT 50"
        )
        for name, by in (
            *(("v_runs", "started_at"), ("v_failures", "at"), ("v_usage_hourly", "hour"), ("v_usage_daily", "day")),
            *(("v_streams", "stream_id"), ("v_gaps", "gap_s")),
        )
    },
    **{
        f"{name} of a {key}": lambda connection, name=name, key=key, value=value: connection.exec_driver_sql(  # type: ignore[misc]
            f"SELECT * FROM {name} WHERE {key} = '{value}'"
        )
        for name, key, value in (
            *(("v_runs", "run_id", "run_1"), ("v_runs", "session_id", "thread_1"), ("v_steps", "run_id", "run_1")),
            *(("v_steps", "session_id", "thread_1"), ("v_tool_calls", "run_id", "run_1")),
            *(("v_tool_calls", "session_id", "thread_1"), ("v_streams", "session_id", "thread_1")),
            *(("v_streams", "stream_id", stream(1).stream_id), ("v_gaps", "stream_id", stream(1).stream_id)),
        )
    },
    "v_runs of a day and model": lambda connection: connection.exec_driver_sql(
        "SELECT count(*), sum(total_tokens) FROM v_runs"
        " WHERE model = 'gpt-4o' AND started_at >= '2026-05-28 00:00:00' AND started_at < '2026-05-29 00:00:00'"
    ),
}

WHOLE: dict[str, set[str]] = {}
"""The tables that a question reads whole all the same, and may."""


@pytest.fixture(scope="module")
def filled(module_url: str) -> Iterator[sa.Engine]:
    """A database with two runs, for all the questions."""
    engine = database.engine(module_url, create=True)
    write(engine, stream(0), frames(said()))
    write(engine, stream(1), frames(asked("run_2")))
    runner.catch_up(engine)
    yield engine
    engine.dispose()


def statements(connection: sa.Connection, query: Query) -> list[tuple[str, Any]]:
    """What is sent to the database for a question."""
    sent: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        sent.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    query(connection)
    sa.event.remove(connection, "before_cursor_execute", note)
    return sent


def read_whole(connection: sa.Connection, statement: str, parameters: Any) -> set[str]:
    """The tables that a statement reads whole."""
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        named = (row[3].split() for row in plan)
        ordered = "LIMIT" in statement  # by an index, of which only the beginning is read
        return {
            words[1]
            for words in named
            if words[0] == "SCAN" and words[1] in metadata.tables and not (ordered and "INDEX" in words)
        }
    (plan,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalars()
    found: set[str] = set()

    def look(node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan":
            found.add(node["Relation Name"])
        for inner in node.get("Plans", ()):
            look(inner)

    look((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return found


@pytest.mark.parametrize("name", QUERIES)
def test_a_question_reads_no_large_table_whole(filled: sa.Engine, name: str) -> None:
    with database.read(filled) as connection:
        sent = statements(connection, QUERIES[name])
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        found = {table for statement, parameters in sent for table in read_whole(connection, statement, parameters)}
    assert sent
    assert found & LARGE == WHOLE.get(name, set())


def test_a_question_that_does_is_found_out(filled: sa.Engine) -> None:
    with database.read(filled) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        assert read_whole(connection, "SELECT count(*) FROM events WHERE data LIKE 'x'", ()) == {"events"}
        assert read_whole(connection, "SELECT * FROM runs WHERE failure_message = 'x'", ()) == {"runs"}


@pytest.mark.parametrize("name", VIEWS)
def test_no_view_reads_the_events(filled: sa.Engine, name: str) -> None:
    with database.read(filled) as connection:
        if connection.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT * FROM {name}").all()
        else:
            plan = connection.exec_driver_sql(f"EXPLAIN SELECT * FROM {name}").all()
    read = {word for row in plan for word in str(row[-1]).split()} & set(metadata.tables)
    assert read
    assert not read & {table.name for table in log.LOG_TABLES}


TICK = 10
"""Instructions of SQLite's machine that are counted as one."""


def worked(path: Path, runs: int) -> dict[str, dict[str, int]]:
    """{what: {statement: instructions}} of bringing the fixtures into a log that has so many runs, and one of them out again.

    The runs lie in proportionally many days: hours and days that are summed up hold about the same.
    """
    engine = database.engine(f"sqlite:///{path}", create=True)
    database.check(engine, upgrade=True)
    making.fill(engine, Population(runs, 30 * runs, days=runs // 10))
    runner.catch_up(engine)
    engine.dispose()
    done: dict[str, Counter[str]] = {"import": Counter(), "catch_up": Counter(), "catch_up again": Counter(), "erase": Counter()}
    at = ["import", ""]

    def listen(dbapi: Any, record: Any) -> None:
        dbapi.set_progress_handler(lambda: done[at[0]].update([at[1]]), TICK)  # None: go on

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        at[1] = re.sub(r"IN \(\?(, \?)*\)", "IN (...)", re.sub(r"\?(, \?)+", "?, ...", statement))

    sa.event.listen(engine, "connect", listen)
    sa.event.listen(engine, "before_cursor_execute", note)
    imported = import_paths(engine, OWN)
    for at[0] in ("catch_up", "catch_up again"):
        runner.catch_up(engine)
    at[0] = "erase"
    runner.erase(engine, [row.stream_id for row in imported][:20])
    engine.dispose()
    return {what: {statement: TICK * ticks for statement, ticks in counted.items()} for what, counted in done.items()}


def test_what_is_new_costs_the_same_in_a_log_of_ten_times_the_size(tmp_path: Path) -> None:
    small, large = (worked(tmp_path / f"{runs}.db", runs) for runs in (60, 600))
    for what, statements in large.items():
        grown = {
            statement: (small[what].get(statement, 0), count)
            for statement, count in statements.items()
            if count > 1.5 * small[what].get(statement, 0) + 500
        }
        assert grown == {}, what
    assert sum(large["catch_up"].values()) > 10_000 > sum(large["catch_up again"].values())


def test_postgresql_compares_no_two_tables_row_by_row(postgresql_url: str) -> None:
    """A subplan is run for each row, which only one that looks up a key may be, or hashed as long as it fits in memory."""
    engine = database.engine(postgresql_url, create=True)
    database.check(engine, upgrade=True)
    write(engine, stream(0), frames(said()))
    sent: dict[str, Any] = {}

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if statement.startswith(("SELECT", "DELETE", "UPDATE", "INSERT")):
            sent[statement] = parameters[0] if executemany else parameters

    sa.event.listen(engine, "before_cursor_execute", note)
    runner.catch_up(engine)
    runner.rebuild(engine)
    assert verify(engine).problems == []
    runner.erase(engine, [stream(0).stream_id])
    sa.event.remove(engine, "before_cursor_execute", note)
    assert len(sent) > 50
    with database.read(engine) as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")  # as it would be if there were many rows
        plans = {
            statement: "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
            for statement, parameters in sent.items()
        }
    engine.dispose()
    slow = {
        statement: plan for statement, plan in plans.items() if "SubPlan" in plan and ("hashed" in plan or "Seq Scan" in plan)
    }
    assert slow == {}
