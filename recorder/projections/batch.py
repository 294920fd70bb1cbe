"""A batch of folded streams, written: what they say, and the rows of all runs that they touch.

Everything here is done in a transaction of the caller's, which holds the write lock.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import database, log, prices
from recorder.database import slices
from recorder.log import Stream
from recorder.projections import PROJECTIONS, costs
from recorder.projections.anomalies import anomalies
from recorder.projections.answers import answered_runs, outputs, replace_answers, replace_calls, tool_answers
from recorder.projections.failures import failures
from recorder.projections.failures import stream_rows as failures_of_stream
from recorder.projections.folds import contribution, folds, source_of, to_rows
from recorder.projections.pending_sums import note
from recorder.projections.places import Places
from recorder.projections.runs import runs
from recorder.projections.sessions import session_streams, stream_row
from recorder.projections.silences import silences
from recorder.projections.silences import stream_rows as silences_of_stream
from recorder.protocols import FOLD_VERSION
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import filter_runs, merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import Contribution, RunView


class Folded(NamedTuple):
    """A stream folded up to now. checkpoint: where it stood when it was read, None before any projection."""

    stream: Stream
    fold: StreamFold
    checkpoint: int | None


def project_safely(connection: sa.Connection, batch: list[Folded]) -> None:
    """Project a batch; a stream that cannot be written gets an anomaly instead, and the others do not wait for it."""
    if not batch:
        return
    try:
        with connection.begin_nested():
            project(connection, batch)
    except Exception as error:
        if isinstance(error, sa.exc.DBAPIError) and not database.is_about_data(error):
            raise
        if len(batch) > 1:
            for entry in batch:
                project_safely(connection, [entry])
            return
        stream_id = batch[0].stream.stream_id
        connection.execute(anomalies.delete().where(anomalies.c.stream_id == stream_id, anomalies.c.run_key == STREAM))
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:500].replace("\0", "\ufffd")
        connection.execute(
            anomalies.insert().values(
                run_key=STREAM,
                stream_id=stream_id,
                ordinal=0,
                position=batch[0].fold.position,
                kind="not_projected",
                detail=detail,
            )
        )


def project(connection: sa.Connection, batch: Sequence[Folded]) -> None:
    """Write what folded streams say: their folds, the rows of the runs they touch, and what is to be summed up then."""
    ids = [entry.stream.stream_id for entry in batch]
    states = {entry.stream.stream_id: entry.fold.states() for entry in batch}
    keys = {key for parts in states.values() for key in parts}
    keys.update(connection.execute(sa.select(folds.c.run_key).where(folds.c.stream_id.in_(ids))).scalars())
    keys |= replace_answers(connection, [(entry.stream, entry.fold) for entry in batch])
    connection.execute(folds.delete().where(folds.c.stream_id.in_(ids)))
    keys.discard(STREAM)
    note(connection, *_touched(connection, ids, keys))
    places = _replace_runs(connection, batch, states, keys)
    # After the runs: what else is known of them is read from the folds, and need not be sifted out of these.
    insert(
        connection, folds, [row for entry in batch for row in to_rows(entry.stream, entry.fold, states[entry.stream.stream_id])]
    )
    for table in (session_streams, silences):
        connection.execute(table.delete().where(table.c.stream_id.in_(ids)))
    rows, failed, paused = [], [], []
    for entry in batch:
        session_id = places.session_of(source_of(entry.stream, entry.fold))
        run_ids = filter_runs(states[entry.stream.stream_id])
        rows.append(stream_row(entry.stream, entry.fold, run_ids, session_id))
        if not run_ids:
            failed += failures_of_stream(entry.stream, entry.fold, session_id)
        paused += silences_of_stream(entry.stream, entry.fold)
    insert(connection, session_streams, rows)
    insert(connection, failures, failed)
    insert(connection, silences, paused)
    note(connection, {row["session_id"] for row in rows}, set())


def erase(connection: sa.Connection, stream_ids: list[str]) -> None:
    """Take streams out of the log, and their part out of every row that was made of them."""
    keys = set(connection.execute(sa.select(folds.c.run_key).where(folds.c.stream_id.in_(stream_ids))).scalars())
    keys |= answered_runs(connection, stream_ids)
    keys.discard(STREAM)
    note(connection, *_touched(connection, stream_ids, keys))
    for table in (folds, tool_answers, session_streams, silences, failures, anomalies, *log.LOG_TABLES):
        connection.execute(table.delete().where(table.c.stream_id.in_(stream_ids)))
    _replace_runs(connection, [], {}, keys)


def _replace_runs(
    connection: sa.Connection, batch: Sequence[Folded], states: dict[str, dict[str, Any]], keys: set[str]
) -> Places:
    """Replace the rows of these runs, and what concerns the streams at hand alone, in every family of PROJECTIONS.

    Runs whose place depends on theirs are replaced too. What is to be summed up then is noted.
    """
    places = Places(connection)
    keys = set(keys)
    views, depending = _views(connection, batch, states, keys)
    if depending - keys:
        note(connection, *_touched(connection, [], depending))
        keys |= depending
        views, _ = _views(connection, batch, states, keys)
    more = places.add(keys, views)
    while more:
        note(connection, *_touched(connection, [], more))
        followers, _ = _views(connection, (), states, more)
        keys |= more
        more = places.add(more, followers)
        views += followers
    for family in PROJECTIONS:
        rows: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table in family.TABLES}
        for view in views:
            for table, found in family.rows(view).items():
                rows[table] += found
        for table, found in rows.items():
            for some in slices(keys):
                connection.execute(table.delete().where(table.c.run_key.in_(some)))
            if "stream_id" in table.primary_key.columns:
                connection.execute(table.delete().where(table.c.run_key == STREAM, table.c.stream_id.in_(list(states))))
            insert(connection, table, found)
    _move_streams(connection, places, states)
    costs.forget(connection, keys)
    costs.report(connection, views)
    note(connection, *_touched(connection, [], keys), {view.key for view in views if view.is_run} if prices.wanted() else ())
    return places


def _move_streams(connection: sa.Connection, places: Places, at_hand: Container[str]) -> None:
    """Write the sessions of streams that are not at hand, where a run has brought its followers to another."""
    columns = session_streams.c
    for some in slices(places.moved):
        chosen = sa.select(columns.stream_id, columns.session_id, columns.root_run_id).where(columns.root_run_id.in_(some))
        # Neither by an index: SQLite would rather go through all streams without a thread than look for these runs.
        unnamed = chosen.where(*(sa.func.coalesce(column, "") == "" for column in (columns.label, columns.thread_id)))
        for stream_id, session_id, root in connection.execute(unnamed).all():
            now = places.session_of_run(root)
            if session_id != now and stream_id not in at_hand:
                for table in (session_streams, failures):
                    own = table.c.stream_id == stream_id
                    if table is failures:
                        own &= failures.c.run_key == STREAM
                    connection.execute(table.update().where(own).values(session_id=now))
                note(connection, {session_id, now}, set())


def _views(
    connection: sa.Connection, batch: Sequence[Folded], states: dict[str, dict[str, Any]], keys: set[str]
) -> tuple[list[RunView], set[str]]:
    """The views of these runs, from the streams at hand and from the kept folds of all others that speak of them.

    And the keys of other runs whose outputs may have changed because of theirs.
    """
    found: dict[str, list[Contribution]] = {}
    views = []
    for entry in batch:
        source = source_of(entry.stream, entry.fold)
        for key, part in states[entry.stream.stream_id].items():
            if key != STREAM:
                found.setdefault(key, []).append(Contribution(source, part))
            elif part["part"]:
                views.append(merge(STREAM, [Contribution(source, part["part"])]))
    for some in slices(keys):
        kept = sa.select(*(folds.c[name] for name in ("stream_id", "run_key", "state", "fold_version")))
        for stream_id, key, state, version in connection.execute(kept.where(folds.c.run_key.in_(some))):
            # Not in the statement: SQLite would go through all folds of this version, which is every one.
            if version == FOLD_VERSION and stream_id not in states:
                found.setdefault(key, []).append(contribution(state))
    made = {key: merge(key, given) for key, given in found.items()}
    depending = replace_calls(connection, made.values(), keys)
    for key, answered in outputs(connection, made.values()).items():
        made[key] = merge(key, found[key], answered)
    return [*views, *made.values()], depending


def _touched(connection: sa.Connection, ids: list[str], keys: set[str]) -> tuple[set[str], set[datetime]]:
    """The sessions and hours that these streams and runs stand in now."""
    at: set[str] = set(
        connection.execute(sa.select(session_streams.c.session_id).where(session_streams.c.stream_id.in_(ids))).scalars()
    )
    hours: set[datetime] = set()
    for some in slices(keys):
        for session_id, hour in connection.execute(
            sa.select(runs.c.session_id, runs.c.hour).where(runs.c.run_key.in_(some)).distinct()
        ):
            at.add(session_id)
            hours.add(hour)
    return at, hours


def insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)
