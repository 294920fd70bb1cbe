"""What the log takes on disk: the shared streams many times over, each time as new streams, beside the bytes that count.

Bytes that count are those of type and data of every event. Events come 20 ms apart, as import gives them with --pace 50.
They are appended twice over: stream after stream, as an import does, and twenty streams at a time in small batches, as a
recording service does, whose streams grow side by side.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from recorder import database, log
from recorder.collect.import_ import find, read_file
from recorder.collect.streamid import new_stream_id
from recorder.log import Row, Stream
from tests.benchmarks import generated, peers
from tests.benchmarks.append import disposed, emptied, remove_of
from tests.benchmarks.bench import Bench
from tests.benchmarks.report import RATIO, Figure, at_most, number

TITLE = "Log size on disk"
SHARED = Path(__file__).parents[3] / "shared" / "streams"
AIM = at_most(1.35)
BATCH = 2000
SIDE_BY_SIDE = 20
BURST = 10  # events of a stream in one commit


class Recorded(NamedTuple):
    stream: Stream
    rows: list[Row]


def run(bench: Bench) -> list[Figure]:
    if not SHARED.is_dir():
        raise peers.Missing(f"{SHARED} is not there")
    found = [Recorded(*_read(path)) for path in find([str(SHARED)]) if not path.name.endswith(".recording.jsonl")]
    size = sum(payload(recorded.rows) for recorded in found)
    rounds = max(1, bench.size(100_000_000, 15_000_000) // size)
    events = sum(len(recorded.rows) for recorded in found)
    name = f"{len(found)} files of {SHARED.name}, {events:,} events of {size / events:.0f} bytes, {rounds} times over"
    bench.say(name)
    figures = []
    for way, side_by_side in (("stream after stream", 1), (f"{SIDE_BY_SIDE} streams at a time", SIDE_BY_SIDE)):
        engine = bench.database()
        fill(engine, found, rounds, side_by_side)
        used = sqlite_size(engine)
        parts = ", ".join(f"{table} {number(share / size / rounds)}" for table, share in sqlite_parts(engine).items())
        engine.dispose()
        remove_of(engine)
        rates = f"{used / 1e6:,.1f} MB against {size * rounds / 1e6:,.1f}" + (f" ({parts})" if parts else "")
        figures.append(Figure(f"SQLite file / bytes of type and data, {way}", used / size / rounds, RATIO, rates, AIM))
    generated_rows = generated.sessions(bench.size(500, 100))
    engine = bench.database()
    generated.fill(engine, len(generated_rows))
    used, counted = sqlite_size(engine), payload(generated_rows)
    engine.dispose()
    remove_of(engine)
    figures.append(
        Figure(
            f"SQLite file / bytes of type and data, generated sessions ({counted / len(generated_rows):.0f} bytes an event)",
            used / counted,
            RATIO,
            f"{used / 1e6:,.1f} MB against {counted / 1e6:,.1f}",
        )
    )
    return figures + _postgres(bench, found, rounds, size)


def _postgres(bench: Bench, found: list[Recorded], rounds: int, size: int) -> list[Figure]:
    try:
        engine = bench.stack.enter_context(disposed(database.engine(bench.postgres, create=True)))
    except peers.Missing as error:
        bench.say(f"PostgreSQL is left out: {error}")
        return []
    database.migrate(engine)
    emptied(engine)
    fill(engine, found, rounds, 1)
    with engine.connect() as connection:
        used = sum(
            connection.execute(sa.select(sa.func.pg_total_relation_size(table.name))).scalar_one() for table in log.LOG_TABLES
        )
    emptied(engine)
    rates = f"{used / 1e6:,.1f} MB against {size * rounds / 1e6:,.1f}"
    return [
        Figure("PostgreSQL log tables / bytes of type and data, stream after stream", used / size / rounds, RATIO, rates, AIM)
    ]


def fill(engine: sa.Engine, found: list[Recorded], rounds: int, side_by_side: int) -> None:
    """Append everything `rounds` times, each time under new ids."""
    order = random.Random(7)
    for _ in range(rounds):
        again = [Recorded(recorded.stream._replace(stream_id=new_stream_id()), recorded.rows) for recorded in found]
        if side_by_side > 1:
            order.shuffle(again)
        for at in range(0, len(again), side_by_side):
            _together(engine, again[at : at + side_by_side], BATCH if side_by_side == 1 else BURST)


def _together(engine: sa.Engine, some: list[Recorded], step: int) -> None:
    with database.write(engine) as connection:
        log.insert_streams(connection, [recorded.stream for recorded in some])
    at = 0
    while at < max(len(recorded.rows) for recorded in some):
        with database.write(engine) as connection:
            log.append(
                connection,
                {
                    recorded.stream.stream_id: [(recorded.stream.stream_id, *row[1:]) for row in recorded.rows[at : at + step]]
                    for recorded in some
                },
            )
        at += step


def payload(rows: list[Row]) -> int:
    """Bytes of type and data; of an event that only raw holds, those of raw."""
    return sum(len(row[3].encode()) + (len(row[4].encode()) if row[4] is not None else len(row[5] or b"")) for row in rows)


def sqlite_size(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    return Path(str(engine.url.database)).stat().st_size


def sqlite_parts(engine: sa.Engine) -> dict[str, int]:
    """Bytes by table, where this SQLite can tell."""
    try:
        with engine.connect() as connection:
            names = [table.name for table in log.LOG_TABLES]
            found = connection.execute(sa.text("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC")).tuples()
            return {name: size for name, size in found if name in names}
    except sa.exc.DBAPIError:
        return {}


def _read(path: Path) -> tuple[Stream, list[Row]]:
    stream, frames = read_file(path, pace=50)
    return stream, [log.row(stream.stream_id, position, frame) for position, frame in enumerate(frames)]
