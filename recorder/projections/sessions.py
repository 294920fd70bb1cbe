"""`session_streams` and `sessions`: each stream as it is folded so far, and the sessions that streams make up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import StreamID, UTCTime, metadata, slices
from recorder.log import Stream
from recorder.projections import costs
from recorder.projections.anomalies import anomalies
from recorder.projections.costs import COSTS
from recorder.projections.runs import COUNTERS, runs, text, without_usage
from recorder.projections.runs import name as indexed
from recorder.protocols.failure import NOT_THERE, PROBES, code_of_stream
from recorder.protocols.fold import StreamFold

session_streams = sa.Table(
    "session_streams",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("session_id", sa.Text, nullable=False, index=True),
    sa.Column("label", sa.Text),
    sa.Column("thread_id", sa.Text, index=True),
    sa.Column("protocol", sa.Text),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),  # HTTP
    sa.Column("outcome", sa.Text),
    sa.Column("error_code", sa.Text),  # of an error event or an error response
    sa.Column("error_message", sa.Text),
    sa.Column("events", sa.Integer, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # of data
    sa.Column("started_at", UTCTime, nullable=False),
    sa.Column("first_event_us", sa.BigInteger),
    sa.Column("last_us", sa.BigInteger, nullable=False),
    sa.Column("longest_gap_us", sa.BigInteger),  # the longest time without an event
    sa.Column("stalls", sa.Integer),  # how many such times were of STALL_US and more
    sa.Column("runs", sa.Text, nullable=False),  # JSON: the ids of the runs that it speaks of
    sa.Column("root_run_id", sa.Text, index=True),  # of the run that it follows, or else its own, where runs form chains
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("label", sa.Text),
    sa.Column("thread_id", sa.Text),
    sa.Column("streams", sa.Integer, nullable=False),
    sa.Column("open_streams", sa.Integer, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
    sa.Column("runs", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),  # failed runs, and streams that ended in an error without one
    sa.Column("unknown", sa.Integer, nullable=False),  # runs whose end nobody saw
    sa.Column("anomalies", sa.Integer, nullable=False),
    sa.Column("runs_without_usage", sa.Integer),
    *(sa.Column(name, sa.BigInteger) for name in (*COUNTERS, *COSTS)),
    sa.Column("started_at", UTCTime, nullable=False),  # of its first stream
    sa.Column("last_started_at", UTCTime, nullable=False),  # of its latest
    sa.Index("sessions_last_started_at", "last_started_at"),
    sa.Index("sessions_label", "label", "last_started_at"),
    sa.Index("sessions_failed", "failed", "last_started_at"),
)

TABLES = (session_streams, sessions)

FAILED_OUTCOMES = ("error", "http_error", "no_response")
"""Outcomes of streams in which the other side said or showed that it failed."""


def stream_row(stream: Stream, fold: StreamFold, run_ids: Iterable[str], session_id: str) -> dict[str, Any]:
    error = fold.error or {}
    return {
        "stream_id": stream.stream_id,
        "session_id": session_id,
        "label": indexed(stream.session_label),
        "thread_id": fold.thread_id,
        "protocol": fold.protocol,
        "method": stream.method,
        "host": stream.host,
        "path": stream.path,
        "status": fold.status,
        "outcome": fold.outcome,
        "error_code": text(code_of_stream(fold.outcome, fold.status, fold.error)),
        "error_message": text(error.get("message")),
        "events": fold.events,
        "bytes": fold.bytes,
        "started_at": stream.started_at,
        "first_event_us": fold.first_event_us,
        "last_us": fold.last_us,
        "longest_gap_us": fold.longest_gap_us,
        "stalls": fold.stalls,
        "runs": jsontext.dumps(sorted(run_ids)),
        "root_run_id": fold.root,
    }


def apply(connection: sa.Connection, touched: set[str]) -> None:
    """Recompute these sessions from their streams and runs; one that has no stream any more goes."""
    ids = sorted(touched)
    connection.execute(sessions.delete().where(sessions.c.session_id.in_(ids)))
    streams = session_streams.c
    by_session = connection.execute(
        sa.select(
            streams.session_id,
            sa.func.max(streams.label).label("label"),
            sa.func.max(streams.thread_id).label("thread_id"),
            sa.func.count().label("streams"),
            sa.func.sum(sa.case((streams.outcome.is_(None), 1), else_=0)).label("open_streams"),
            sa.func.sum(streams.events).label("events"),
            sa.func.min(streams.started_at).label("started_at"),
            sa.func.max(streams.started_at).label("last_started_at"),
        )
        .where(streams.session_id.in_(ids))
        .group_by(streams.session_id)
    ).mappings()
    counts: dict[str, Any] = {"runs": 0, "failed": 0, "unknown": 0, "anomalies": 0, "runs_without_usage": 0}
    counts |= dict.fromkeys((*COUNTERS, *COSTS))
    rows = {found["session_id"]: {**found, **counts} for found in by_session}
    for found in connection.execute(
        sa.select(
            runs.c.session_id,
            sa.func.count().label("runs"),
            sa.func.sum(sa.case((runs.c.failed, 1), else_=0)).label("failed"),
            sa.func.sum(sa.case((runs.c.state == "unknown", 1), else_=0)).label("unknown"),
            sa.func.sum(without_usage()).label("runs_without_usage"),
            *(sa.func.sum(runs.c[name]).label(name) for name in COUNTERS),
            *(column.label(name) for name, column in zip(COSTS, costs.sums(), strict=True)),
        )
        .select_from(costs.joined)
        .where(runs.c.session_id.in_(ids))
        .group_by(runs.c.session_id)
    ).mappings():
        if found["session_id"] in rows:
            rows[found["session_id"]].update(found)
    for session_id in failed_streams(connection, streams.session_id.in_(ids)).values():
        rows[session_id]["failed"] += 1
    for session_id, count in connection.execute(
        sa.select(streams.session_id, sa.func.count())
        .join_from(session_streams, anomalies, anomalies.c.stream_id == streams.stream_id)
        .where(streams.session_id.in_(ids))
        .group_by(streams.session_id)
    ):
        rows[session_id]["anomalies"] = count
    if rows:
        connection.execute(
            sessions.insert(),
            [
                {**row, "events": int(row["events"]), **{name: _int(row[name]) for name in (*COUNTERS, *COSTS)}}
                for row in rows.values()
            ],
        )


def failed_streams(connection: sa.Connection, where: sa.ColumnElement[bool]) -> dict[str, str]:
    """{stream_id: session_id} of streams that ended in an error, or told one, while no run of theirs counts as failed."""
    columns = session_streams.c
    told = sa.or_(columns.outcome.in_(FAILED_OUTCOMES), columns.error_code.is_not(None))
    nothing = sa.and_(columns.method == "GET", columns.protocol.is_(None), sa.func.coalesce(columns.status, 0).in_(NOT_THERE))
    probe = sa.and_(sa.or_(columns.method.in_(PROBES), nothing), columns.outcome.in_(("http_error", "done", "eof")))
    told = sa.and_(told, sa.not_(probe))
    ended = sa.select(columns.stream_id, columns.session_id, columns.runs).where(where, told)
    found = connection.execute(ended.order_by(columns.started_at, columns.stream_id)).all()
    failed: set[str] = set()
    for some in slices({key for _, _, speaks_of in found for key in jsontext.loads(speaks_of)}):
        failed.update(connection.execute(sa.select(runs.c.run_key).where(runs.c.run_key.in_(some), runs.c.failed)).scalars())
    return {stream_id: session_id for stream_id, session_id, of in found if not failed.intersection(jsontext.loads(of))}


def _int(value: Any) -> int | None:
    """PostgreSQL sums bigints as numeric."""
    return None if value is None else int(value)
