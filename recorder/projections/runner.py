"""Catching up, rebuilding and erasing: how the log becomes tables.

A row is computed from the folds and replaced, so projecting twice, or from the start, gives the same tables. Work is done in
steps so that a recording process beside this one never waits long: read, end the transaction, fold, then take the write
lock, check that nobody else has moved the checkpoints meanwhile, and write for about WRITE_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import sqlalchemy as sa

from recorder import database, log, prices
from recorder.database import slices
from recorder.log import Stream, checkpoints, heads, pending
from recorder.projections import PROJECTIONS, batch, costs, sessions, usage
from recorder.projections.answers import call_keys, tool_answers
from recorder.projections.failures import failures
from recorder.projections.folds import folds, resume
from recorder.projections.pending_sums import note, sum_up
from recorder.projections.runs import runs
from recorder.projections.sessions import session_streams
from recorder.projections.silences import silences
from recorder.projections.turn import announced, only_projector
from recorder.protocols import FOLD_VERSION
from recorder.protocols.fold import StreamFold

WRITE_SECONDS = 0.05
"""How long a step should hold the write lock."""

READ_EVENTS = 5000
"""Events that one transaction reads."""

STEP_EVENTS = 20_000
"""Events folded before what they say is written."""

_PROJECTED = pending.delete().where(pending.c.stream_id == sa.bindparam("id"), pending.c.position <= sa.bindparam("reached"))

Progress = Callable[[int], None]
"""Called with the number of events projected since the last call."""


def catch_up(
    engine: sa.Engine,
    progress: Progress | None = None,
    cache: dict[str, StreamFold] | None = None,
    patience: float | None = None,
) -> int:
    """Project all that is pending; how many events that were.

    cache: open folds that a follower keeps from one call to the next, by stream_id. patience: of a question, how many seconds
    it waits for another who projects. Raises UsageError for a bad file of prices, Busy.
    """
    known = prices.load()
    done = 0
    size = 16
    with ExitStack() as turn:
        turn.enter_context(only_projector(engine, patience))
        if patience is None and behind(engine):
            turn.enter_context(announced(engine))
        _refold_old_versions(engine)
        while True:
            with database.read(engine) as connection:
                waiting = _waiting(connection, size)
            if not waiting:
                sum_up(engine, known)
                return done
            folded, count = _fold(engine, waiting, cache)
            took = _write(engine, folded, cache)
            done += count
            if progress:
                progress(count)
            size = _next_size(size, took)


def _next_size(size: int, took: float) -> int:
    """How many streams the next step takes, when these many took so long to write: towards WRITE_SECONDS, half or twice at most.

    Much of a step's time does not depend on its size, so a step that is shorter than it may be is wasted.
    """
    return max(1, min(512, round(size * min(2.0, max(0.5, WRITE_SECONDS / took)))))


def behind(engine: sa.Engine) -> int:
    """How many events are not projected yet."""
    with database.read(engine) as connection:
        missing = pending.c.position - sa.func.coalesce(checkpoints.c.position, -1)
        joined = pending.outerjoin(checkpoints, checkpoints.c.stream_id == pending.c.stream_id)
        return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(missing), 0)).select_from(joined)).scalar_one())


def rebuild(engine: sa.Engine, progress: Progress | None = None) -> int:
    """Project every stream from its first event again; how many events that were.

    In place: readers see old rows replaced by new ones, never an empty table. What nothing supports any more goes last.
    """
    known = prices.load()
    with announced(engine):
        with only_projector(engine):
            after: str | None = None
            while True:
                with database.write(engine) as connection:
                    after = _reset(connection, after)
                if after is None:
                    break
        done = catch_up(engine, progress)
        with only_projector(engine):
            _sweep(engine)
            sum_up(engine, known)
    return done


def erase(engine: sa.Engine, stream_ids: list[str]) -> None:
    """Erase streams from the log, and their part in every row that was made of them: the one exception to append-only."""
    known = prices.load()
    with only_projector(engine):
        with database.write(engine) as connection:
            batch.erase(connection, stream_ids)
        sum_up(engine, known)


def fold_stream(engine: sa.Engine, stream: Stream, fold: StreamFold) -> int:
    """Feed a fold what its stream has after its position; how many events that were."""
    before = fold.position
    while True:
        with database.read(engine) as connection:
            found = log.read_texts(connection, stream.stream_id, fold.position, READ_EVENTS)
        fold.feed_all(found)
        if len(found) < READ_EVENTS:
            return fold.position - before


def _waiting(connection: sa.Connection, size: int) -> list[tuple[Stream, dict[str, str], int | None]]:
    """Streams with something new: (stream, its kept folds, its checkpoint)."""
    found = connection.execute(
        sa.select(pending.c.stream_id, checkpoints.c.position)
        .select_from(pending.outerjoin(checkpoints, checkpoints.c.stream_id == pending.c.stream_id))
        .order_by(pending.c.stream_id)
        .limit(size)
    ).all()
    ids = [stream_id for stream_id, _ in found]
    known = log.get_streams(connection, ids)
    kept: dict[str, dict[str, str]] = {}
    going_on = [stream_id for stream_id, position in found if position is not None]
    for stream_id, key, state in connection.execute(
        sa.select(folds.c.stream_id, folds.c.run_key, folds.c.state).where(folds.c.stream_id.in_(going_on))
    ):
        kept.setdefault(stream_id, {})[key] = state
    return [(known.get(stream_id) or Stream(stream_id), kept.get(stream_id, {}), position) for stream_id, position in found]


def _fold(
    engine: sa.Engine, waiting: list[tuple[Stream, dict[str, str], int | None]], cache: dict[str, StreamFold] | None
) -> tuple[list[batch.Folded], int]:
    """Fold streams as far as they go, until STEP_EVENTS are done; (what is folded, how many events that were)."""
    read: list[tuple[batch.Folded, list[tuple[int, int, str, str]]]] = []
    count = 0
    with database.read(engine) as connection:
        for stream, kept, checkpoint in waiting:
            fold = cache.get(stream.stream_id) if cache is not None else None
            if fold is None or fold.position != checkpoint:
                fold = resume(stream, kept)
            texts = log.read_texts(connection, stream.stream_id, fold.position, READ_EVENTS)
            read.append((batch.Folded(stream, fold, checkpoint), texts))
            count += texts[-1][0] - fold.position if texts else 0
            if count >= STEP_EVENTS:
                break
    for entry, texts in read:
        entry.fold.feed_all(texts)
        if len(texts) >= READ_EVENTS:
            count += fold_stream(engine, entry.stream, entry.fold)
    return [entry for entry, _ in read], count


def _write(engine: sa.Engine, folded: list[batch.Folded], cache: dict[str, StreamFold] | None) -> float:
    """Project what is folded in one transaction, but for streams that somebody else projected meanwhile; seconds it took."""
    with database.write(engine) as connection:
        began = time.perf_counter()
        ids = [entry.stream.stream_id for entry in folded]
        standing = connection.execute(sa.select(checkpoints).where(checkpoints.c.stream_id.in_(ids)))
        now = {stream_id: position for stream_id, position in standing}  # noqa: C416 - rows are no pairs to the type checker
        ours = [entry for entry in folded if now.get(entry.stream.stream_id) == entry.checkpoint]
        batch.project_safely(connection, ours)
        reached = [{"stream_id": entry.stream.stream_id, "position": entry.fold.position} for entry in ours]
        connection.execute(checkpoints.delete().where(checkpoints.c.stream_id.in_([row["stream_id"] for row in reached])))
        batch.insert(connection, checkpoints, reached)
        if reached:
            connection.execute(_PROJECTED, [{"id": row["stream_id"], "reached": row["position"]} for row in reached])
    if cache is not None:
        for entry in folded:
            if entry in ours and entry.fold.outcome is None:
                cache[entry.stream.stream_id] = entry.fold
            else:
                cache.pop(entry.stream.stream_id, None)
    return time.perf_counter() - began


def _refold_old_versions(engine: sa.Engine) -> None:
    """Queue the streams that another version of the folds has projected."""
    while True:
        with database.read(engine) as connection:
            versions = [sa.select(end(folds.c.fold_version)).scalar_subquery() for end in (sa.func.min, sa.func.max)]
            if not set(connection.execute(sa.select(*versions)).one()) - {FOLD_VERSION, None}:
                return  # as nearly always: the ends of an index say so
            projected = folds.join(checkpoints, checkpoints.c.stream_id == folds.c.stream_id)
            old = sa.select(folds.c.stream_id).select_from(projected).where(folds.c.fold_version != FOLD_VERSION)
            ids = list(connection.execute(old.distinct().limit(500)).scalars())
        if not ids:
            return
        with database.write(engine) as connection:
            _queue(connection, ids)


def _reset(connection: sa.Connection, after: str | None) -> str | None:
    """Queue the next streams for projection from their start; the last of them, or None where there was none left."""
    column = heads.c.stream_id
    further = sa.true() if after is None else column > after
    ids = list(connection.execute(sa.select(column).where(further).order_by(column).limit(500)).scalars())
    _queue(connection, ids)
    return ids[-1] if ids else None


def _queue(connection: sa.Connection, ids: list[str]) -> None:
    if ids:
        connection.execute(checkpoints.delete().where(checkpoints.c.stream_id.in_(ids)))
        heads_of = sa.select(heads.c.stream_id, heads.c.position).where(heads.c.stream_id.in_(ids))
        connection.execute(log.insert_missing(connection, pending).from_select(["stream_id", "position"], heads_of))


def _sweep(engine: sa.Engine) -> None:
    """Delete rows that no fold supports, and note all to be summed up. They are looked for without a lock, which is long."""
    for table, column, supported in (
        (folds, folds.c.stream_id, heads.c.stream_id),
        (session_streams, session_streams.c.stream_id, heads.c.stream_id),
        (silences, silences.c.stream_id, heads.c.stream_id),
        (failures, failures.c.stream_id, heads.c.stream_id),
        (tool_answers, tool_answers.c.stream_id, heads.c.stream_id),
        (call_keys, call_keys.c.run_key, folds.c.run_key),
        *((table, table.c.run_key, folds.c.run_key) for family in PROJECTIONS for table in family.TABLES),
        (costs.costs, costs.costs.c.run_key, runs.c.run_key),
    ):
        stray = ~sa.exists().where(supported == column)  # NOT IN would have PostgreSQL go through all of them for each
        with database.read(engine) as connection:
            strays = set(connection.execute(sa.select(column).where(stray).distinct()).scalars())
        for some in slices(strays, 500):
            with database.write(engine) as connection:
                connection.execute(table.delete().where(column.in_(some), stray))
    with database.read(engine) as connection:
        known = set(connection.execute(sa.select(sessions.sessions.c.session_id)).scalars())
        known.update(connection.execute(sa.select(session_streams.c.session_id).distinct()).scalars())
        hours = set(connection.execute(sa.select(usage.usage_hourly.c.hour).distinct()).scalars())
        hours.update(connection.execute(sa.select(runs.c.hour).distinct()).scalars())
    for some in slices(known):
        with database.write(engine) as connection:
            note(connection, set(some), set())
    with database.write(engine) as connection:
        note(connection, set(), hours)
