"""`failures`: how each run failed that did, and each stream that failed and speaks of no run; with the event that showed it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recorder.database import StreamID, UTCTime, metadata
from recorder.log import Stream
from recorder.projections.folds import request_of, source_of
from recorder.projections.runs import later, name, text, utc
from recorder.protocols.failure import failure_of_stream, tool_of
from recorder.protocols.fold import StreamFold
from recorder.protocols.partial import STREAM
from recorder.protocols.payload import as_object
from recorder.protocols.view import Failure, RunView

failures = sa.Table(
    "failures",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),  # '' of a stream that speaks of no run
    sa.Column("stream_id", StreamID, primary_key=True),  # of the event that showed it
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("at", UTCTime, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("status", sa.Text),  # of the run, unknown where its end was not seen; of a stream its outcome
    sa.Column("run_id", sa.Text),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("protocol", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("tool", sa.Text),  # that was called last: a function's name, else the type
    sa.Index("failures_at", "at"),
    sa.Index("failures_stream_id", "stream_id"),
    # This holds all that failures are counted by.
    sa.Index("failures_kind", "kind", "code", "model", "tool", "at"),
)

TABLES = (failures,)


def rows(view: RunView) -> dict[sa.Table, list[dict[str, Any]]]:
    failure = view.failure
    if failure is None or not view.is_run:
        return {failures: []}
    run, last = view.object, view.sources[-1]
    said = next((at for key in ("failed_at", "cancelled_at", "completed_at") if (at := utc(run.get(key)))), None)
    return {
        failures: [
            {
                "run_key": view.key,
                **_shown_by(failure),
                "at": said or later(datetime.fromisoformat(last.started_at), last.last_us),
                "status": "unknown" if view.state == "unknown" else text(run.get("status")),
                "run_id": view.key,
                "session_id": view.session_id,
                "label": name(view.label),
                "protocol": view.protocol,
                "model": name(run.get("model")),
                "tool": name(tool_of(view)),
            }
        ]
    }


def stream_rows(stream: Stream, fold: StreamFold, session_id: str) -> list[dict[str, Any]]:
    """The row of a stream that speaks of no run, where it failed."""
    failure = failure_of_stream(source_of(stream, fold))
    if failure is None:
        return []
    return [
        {
            "run_key": STREAM,
            **_shown_by(failure),
            "at": later(stream.started_at, fold.last_us),
            "status": fold.outcome,
            "run_id": None,
            "session_id": session_id,
            "label": name(stream.session_label),
            "protocol": fold.protocol,
            "model": name(as_object(request_of(stream).body).get("model")),
            "tool": None,
        }
    ]


def _shown_by(failure: Failure) -> dict[str, Any]:
    return {
        "stream_id": failure.stream_id,
        "position": failure.position,
        "kind": failure.kind,
        "code": name(failure.code),
        "message": text(failure.message),
    }
