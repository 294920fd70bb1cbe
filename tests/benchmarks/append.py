"""Appending in batches of 500: what log.append costs beside the driver alone, and beside the eventsourcing library.

Rows are ready before the clock starts. recorder's side includes its transactions, the heads with their crc and what is
queued for projection; the raw side has one statement a batch, into the same table with the same pragmas.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import sqlalchemy as sa

from recorder import database, log
from recorder.log import Row
from tests.benchmarks import generated, peers
from tests.benchmarks.bench import Bench, best, remove, rounds
from tests.benchmarks.report import RATIO, Aim, Figure, at_least, per_second

TITLE = "Append, batches of 500"
BATCH = 500
INSERT = "INSERT INTO events (stream_id, position, offset_us, type, data, raw, cuts) VALUES (?, ?, ?, ?, ?, ?, ?)"
COPY = "COPY events (stream_id, position, offset_us, type, data, raw, cuts) FROM STDIN"
SQLITE_AIM, POSTGRES_AIM = at_least(0.9), at_least(0.7)

Side = Callable[[], float]


def run(bench: Bench) -> list[Figure]:
    sessions = bench.size(400, 100)
    rows = generated.sessions(sessions)
    streams = [generated.stream(number) for number in range(sessions)]
    one = generated.session(0, len(rows))
    stored = eventsourcing_events(rows)
    count = bench.size(5, 2)
    bench.say(f"{len(rows):,} events of {generated.mean_size(rows):.0f} bytes of data, {count} rounds a side, into SQLite")
    sqlite = {
        "recorder": partial(sqlite_append, bench, streams, rows),
        "one": partial(sqlite_append, bench, streams[:1], one),
        "raw": partial(sqlite_raw, bench, rows, BATCH),
        "aggregate": partial(sqlite_eventsourcing, bench, stored, "SQLiteAggregateRecorder"),
        "application": partial(sqlite_eventsourcing, bench, stored, "SQLiteApplicationRecorder"),
    }
    figures = compared("SQLite", "executemany", SQLITE_AIM, best(rounds(sqlite, count)), len(rows))
    try:
        engine = bench.stack.enter_context(disposed(database.engine(bench.postgres, create=True)))
        peers.psycopg_pool()
    except peers.Missing as error:
        bench.say(f"PostgreSQL is left out: {error}")
        return figures
    database.migrate(engine)
    bench.say("the same into PostgreSQL")
    postgres = {
        "recorder": partial(postgres_append, engine, streams, rows),
        "one": partial(postgres_append, engine, streams[:1], one),
        "raw": partial(postgres_raw, engine, rows),
        "aggregate": partial(postgres_eventsourcing, engine, stored, "PostgresAggregateRecorder"),
        "application": partial(postgres_eventsourcing, engine, stored, "PostgresApplicationRecorder"),
    }
    return figures + compared("PostgreSQL", "COPY", POSTGRES_AIM, best(rounds(postgres, count)), len(rows))


def compared(engine: str, raw: str, aim: Aim, seconds: dict[str, float], events: int) -> list[Figure]:
    def figure(mine: str, what: str, other: str, aim: Aim | None = None) -> Figure:
        rates = f"{per_second(events, seconds[mine])} against {per_second(events, seconds[other])}"
        return Figure(f"{engine}: {what}", seconds[other] / seconds[mine], RATIO, rates, aim)

    return [
        figure("recorder", f"append of streams of {generated.SIZE} events / raw {raw}", "raw", aim),
        figure("one", f"append of one long stream / raw {raw}", "raw", aim),
        figure("recorder", "append / eventsourcing's application recorder, whose events can be followed", "application"),
        figure("recorder", "append / eventsourcing's aggregate recorder, whose events can not", "aggregate"),
    ]


def sqlite_append(bench: Bench, streams: list[log.Stream], rows: list[Row]) -> float:
    engine = bench.database()
    with database.write(engine) as connection:
        log.insert_streams(connection, streams)
    seconds = append(engine, rows)
    engine.dispose()
    remove_of(engine)
    return seconds


def append(engine: sa.Engine, rows: list[Row]) -> float:
    held = generated.batches(rows, BATCH)
    # One connection, kept, as the writer and the other sides keep theirs.
    with engine.connect().execution_options(**database.WRITING) as connection:
        began = time.perf_counter()
        for batch in held:
            with connection.begin():
                log.append(connection, batch)
        return time.perf_counter() - began


def sqlite_raw(bench: Bench, rows: list[Row], size: int) -> float:
    """The driver's executemany into the same table, `size` rows a transaction."""
    engine = bench.database()
    engine.dispose()
    held = [rows[at : at + size] for at in range(0, len(rows), size)]
    with contextlib.closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        began = time.perf_counter()
        for batch in held:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT, batch)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
    remove_of(engine)
    return seconds


def eventsourcing_events(rows: list[Row]) -> list[object]:
    """The same payloads as that library's stored events."""
    from eventsourcing.persistence import StoredEvent

    ids = {row[0]: uuid.UUID(row[0]) for row in rows}
    return [StoredEvent(ids[row[0]], row[1], row[3], (row[4] or "").encode()) for row in rows]


def sqlite_eventsourcing(bench: Bench, stored: list[object], kind: str) -> float:
    from eventsourcing import sqlite

    path = bench.fresh()
    datastore = sqlite.SQLiteDatastore(str(path))
    recorder = getattr(sqlite, kind)(datastore)
    recorder.create_table()
    seconds = inserted(recorder.insert_events, stored)
    datastore.close()
    remove(path)
    return seconds


def inserted(insert: Callable[..., object], stored: list[object]) -> float:
    held = [stored[at : at + BATCH] for at in range(0, len(stored), BATCH)]
    began = time.perf_counter()
    for batch in held:
        insert(batch)
    return time.perf_counter() - began


def postgres_append(engine: sa.Engine, streams: list[log.Stream], rows: list[Row]) -> float:
    emptied(engine)
    with database.write(engine) as connection:
        log.insert_streams(connection, streams)
    return append(engine, rows)


def postgres_raw(engine: sa.Engine, rows: list[Row]) -> float:
    """psycopg's COPY, a row at a write, 500 rows a transaction."""
    emptied(engine)
    held = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    with psycopg.connect(plain_url(engine)) as connection:
        began = time.perf_counter()
        for batch in held:
            with connection.cursor().copy(COPY) as copy:
                for row in batch:
                    copy.write_row(row)
            connection.commit()
        return time.perf_counter() - began


def postgres_eventsourcing(engine: sa.Engine, stored: list[object], kind: str) -> float:
    from eventsourcing import postgres

    emptied(engine)
    url = engine.url
    datastore = postgres.PostgresDatastore(
        dbname=url.database or "", host=str(url.query["host"]), port=url.port or 5432, user=url.username or "", password=""
    )
    try:
        recorder = getattr(postgres, kind)(datastore)
        recorder.create_table()
        return inserted(recorder.insert_events, stored)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS stored_events")
        datastore.close()


def emptied(engine: sa.Engine) -> None:
    """Empty log tables, and nothing left to be written behind the next side's back."""
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE " + ", ".join(table.name for table in log.LOG_TABLES))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CHECKPOINT")


def plain_url(engine: sa.Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextlib.contextmanager
def disposed(engine: sa.Engine) -> Iterator[sa.Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def remove_of(engine: sa.Engine) -> None:
    """The file of a SQLite engine."""
    remove(Path(str(engine.url.database)))
