"""Verifying: each stream against its crc, and every read model against a projection made from nothing.

The second projection runs into a scratch database, by the same code, up to the same checkpoints; then all cells are compared.
What is compared is one state of the database: a single read transaction spans it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import database, jsontext, log
from recorder.database import slices
from recorder.log import Stream, checkpoints, events, heads, pending, streams
from recorder.projections import PROJECTED
from recorder.projections.anomalies import anomalies
from recorder.projections.answers import answered_runs, related_streams
from recorder.projections.batch import Folded, project_safely
from recorder.projections.costs import COSTS
from recorder.projections.failures import failures
from recorder.projections.folds import folds, request_of
from recorder.projections.pending_sums import pending_sums, sum_up
from recorder.projections.runner import STEP_EVENTS
from recorder.projections.runs import runs
from recorder.projections.sessions import session_streams
from recorder.protocols import FOLD_VERSION
from recorder.protocols.fold import StreamFold

_BATCH = 5000


class Report(NamedTuple):
    """What verify found. problems: one line each, none where all is well. anomalies: {kind: how many}, never a problem."""

    streams: int
    events: int
    runs: int
    problems: list[str]
    anomalies: dict[str, int]


def verify(engine: sa.Engine, stream_ids: list[str] | None = None, progress: Callable[[int], None] | None = None) -> Report:
    """Check streams, all or these, and the rows of the runs that they speak of. Sessions and usage are checked with all only."""
    scratch = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    database.metadata.create_all(scratch)
    problems: list[str] = []
    count = 0
    with database.read(engine) as connection, scratch.connect() as target:
        keys = None if stream_ids is None else _runs_of(connection, stream_ids)
        wanted = None if keys is None else _made_from(connection, stream_ids or [], keys)
        ids = list(
            connection.execute(
                _chosen(sa.select(heads.c.stream_id), heads.c.stream_id, wanted).order_by(heads.c.stream_id)
            ).scalars()
        )
        if keys is None:
            problems += _strays(connection)
        problems += _forgotten(connection, wanted)
        batch: list[Folded] = []
        pending_events = 0
        for stream_id in ids:
            folded, seen = _check_stream(connection, stream_id, problems)
            count += seen
            pending_events += seen
            if progress:
                progress(seen)
            if folded:
                batch.append(folded)
                if folded.fold.answers:  # its request is looked at again, for the outputs that stand in it
                    log.insert_streams(target, [folded.stream])
            if pending_events >= STEP_EVENTS or len(batch) >= 200:
                project_safely(target, batch)
                batch, pending_events = [], 0
        if batch:
            project_safely(target, batch)
        target.commit()
        sum_up(scratch)
        stale = _stale(connection)
        for table in PROJECTED:
            if keys is None:
                problems += _differences(connection, target, table, None, stale.get(table.name, frozenset()))
            elif "stream_id" in table.c and table not in (anomalies, failures, runs):
                problems += _differences(connection, target, table, ("stream_id", stream_ids or []))
            elif "run_key" in table.c:
                problems += _differences(connection, target, table, ("run_key", keys))
        counted = target.execute(sa.select(anomalies.c.kind, sa.func.count()).group_by(anomalies.c.kind))
        kinds = {kind: number for kind, number in counted}  # noqa: C416 - rows are no pairs to the type checker
        ran = target.execute(sa.select(sa.func.count()).select_from(runs)).scalar_one()
    return Report(len(ids), count, ran, problems, kinds)


def _check_stream(connection: sa.Connection, stream_id: str, problems: list[str]) -> tuple[Folded | None, int]:
    """Check one stream's events against its head and fold it to its checkpoint; (that, its events)."""
    head = log.head(connection, stream_id)
    stream = log.get_streams(connection, [stream_id]).get(stream_id)
    checkpoint = connection.execute(sa.select(checkpoints.c.position).where(checkpoints.c.stream_id == stream_id)).scalar()
    if stream is None:
        problems.append(f"stream {stream_id}: its row in streams is missing")
        stream = Stream(stream_id)
    fold = StreamFold(request_of(stream))
    crc = expected = 0
    outcome: str | None = None
    for rows in _rows(connection, stream_id):
        crc = log.checksum(rows, crc)
        for row in rows:
            if row[1] != expected:
                problems.append(f"stream {stream_id}: position {expected} is missing")
                expected = row[1]
            expected += 1
            try:
                event = log.event(row[1:])
            except (jsontext.JSONError, TypeError, ValueError) as error:
                problems.append(f"stream {stream_id}: the event at {row[1]} cannot be read ({error})")
                continue
            if event.type == "$end":
                outcome = log.outcome_of(event.data)
            if checkpoint is not None and event.position <= checkpoint:
                fold.feed_all(log.texts((event,)))
    if head is None or expected != head.position + 1:
        problems.append(f"stream {stream_id}: {expected} events, but its head says {head.position + 1 if head else 0}")
    elif crc != head.crc:
        problems.append(
            f"stream {stream_id}: its events do not have the crc that was recorded ({crc:08x}, recorded {head.crc:08x})"
        )
    if head is not None and (outcome != head.outcome or (outcome is None) != (head.ended_at is None)):
        problems.append(f"stream {stream_id}: its head says {head.outcome}, its events {outcome}")
    if checkpoint is not None and checkpoint > expected - 1:
        problems.append(f"stream {stream_id}: its checkpoint {checkpoint} is beyond its end")
    return (Folded(stream, fold, None) if checkpoint is not None else None), expected


def _rows(connection: sa.Connection, stream_id: str) -> Iterator[list[log.Row]]:
    after = -1
    while rows := log.read_rows(connection, stream_id, after, _BATCH):
        yield rows
        after = rows[-1][1]


def _runs_of(connection: sa.Connection, stream_ids: list[str]) -> list[str]:
    """The keys of the runs that these streams speak of."""
    spoken = sa.select(folds.c.run_key).where(folds.c.stream_id.in_(stream_ids), folds.c.run_key != "")
    return sorted(connection.execute(spoken.distinct()).scalars())


def _made_from(connection: sa.Connection, stream_ids: list[str], keys: list[str]) -> list[str]:
    """These streams and all others that the rows of these runs are made from.

    Those are the streams that speak of them, that answer their calls, and those of the runs before them, whose places they share.
    """
    found = set(stream_ids)
    before = {*keys, *answered_runs(connection, stream_ids)}
    seen: set[str] = set()
    while before - seen:
        new, before = before - seen, set()
        seen |= new
        for some in slices(new):
            speaking = set(connection.execute(sa.select(folds.c.stream_id).where(folds.c.run_key.in_(some))).scalars())
            found |= speaking | related_streams(connection, speaking, some)
            columns = session_streams.c
            roots = sa.select(columns.root_run_id).where(columns.stream_id.in_(speaking), columns.root_run_id.is_not(None))
            before.update(connection.execute(roots).scalars())
            continued = sa.select(runs.c.continued_run_id).where(runs.c.run_key.in_(some), runs.c.continued_run_id.is_not(None))
            before.update(connection.execute(continued).scalars())
    return sorted(found)


def _strays(connection: sa.Connection) -> list[str]:
    """Rows of the log tables that belong to no stream that has a head."""
    found = []
    for table in (streams, events, checkpoints):
        column = table.c.stream_id
        stray = sa.select(column).where(~sa.exists().where(heads.c.stream_id == column)).distinct().limit(5)
        if table is streams:  # a stream is inserted before its first event: one without any is not amiss
            stray = stray.where(sa.exists().where(events.c.stream_id == column))
        found += [f"{table.name}: stream {stream_id} has no head" for stream_id in connection.execute(stray).scalars()]
    old = connection.execute(
        sa.select(sa.func.count()).select_from(folds).where(folds.c.fold_version != FOLD_VERSION)
    ).scalar_one()
    return [*found, f"folds: {old} rows of another fold version"] if old else found


def _forgotten(connection: sa.Connection, stream_ids: list[str] | None) -> list[str]:
    """Streams that go on beyond their checkpoint while nothing is noted to be projected: their rows stay as they are for ever."""
    ends = heads.outerjoin(checkpoints, checkpoints.c.stream_id == heads.c.stream_id)
    chosen = sa.select(heads.c.stream_id, heads.c.position, checkpoints.c.position).select_from(ends)
    beyond = heads.c.position > sa.func.coalesce(checkpoints.c.position, -1)
    chosen = chosen.where(beyond, ~sa.exists().where(pending.c.stream_id == heads.c.stream_id))
    return [
        f"stream {stream_id}: projected to {-1 if reached is None else reached} of {position}, and nothing is to project the rest"
        for some in ([None] if stream_ids is None else slices(stream_ids))
        for stream_id, position, reached in connection.execute(
            _chosen(chosen, heads.c.stream_id, some).order_by(heads.c.stream_id).limit(20)
        )
    ]


def _stale(connection: sa.Connection) -> dict[str, frozenset[Any]]:
    """Keys of sums that are noted to be computed again: {table: first key columns}."""
    noted = connection.execute(sa.select(pending_sums)).all()
    return {
        "sessions": frozenset(key for kind, key in noted if kind == "session"),
        "usage_hourly": frozenset(datetime.fromisoformat(key) for kind, key in noted if kind == "hour"),
    }


def _differences(
    connection: sa.Connection,
    target: sa.Connection,
    table: sa.Table,
    scope: tuple[str, list[str]] | None,
    stale: frozenset[Any] = frozenset(),
) -> Iterator[str]:
    """Rows of a table that are not as a fresh projection has them: one line a row, the first few of each table.

    scope: (column, values), where not the whole table is compared. stale: first keys of rows that are not.
    """
    keys = [column.name for column in table.primary_key.columns]
    chosen = sa.select(table)
    if scope is not None:
        chosen = chosen.where(table.c[scope[0]].in_(scope[1]))
    have = {tuple(row[key] for key in keys): dict(row) for row in connection.execute(chosen).mappings()}
    lines = 0
    for row in target.execute(chosen).mappings():
        key = tuple(row[name] for name in keys)
        found = have.pop(key, None)
        if key[0] in stale:
            continue
        if found is None:
            line = "is missing"
        elif found != dict(row):
            wrong = [name for name in row if found[name] != row[name] and name not in COSTS]
            if not wrong:
                continue
            line = "differs in " + ", ".join(
                f"{name} ({_short(found[name])}, refolded {_short(row[name])})" for name in wrong[:3]
            )
        else:
            continue
        lines += 1
        if lines <= 10:
            yield f"{table.name} {'/'.join(map(str, key))} {line}"
    have = {key: row for key, row in have.items() if key[0] not in stale}
    for key in list(have)[:10]:
        yield f"{table.name} {'/'.join(map(str, key))} is nothing that the log says"
    if lines + len(have) > 20:
        yield f"{table.name}: {lines + len(have)} rows in all"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "…"


def _chosen(statement: Any, column: Any, ids: list[str] | None) -> Any:
    return statement if ids is None else statement.where(column.in_(ids))
