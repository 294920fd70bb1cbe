"""`runs`: one row for each run, with the API's own column names and the Run object itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import StreamID, UTCTime, metadata
from recorder.protocols.errors import error_code
from recorder.protocols.failure import calls_of
from recorder.protocols.payload import as_object
from recorder.protocols.usage import Counts, read
from recorder.protocols.view import RunView
from recorder.schema import name as name
from recorder.schema import text as text

FAILED = ("failed", "expired", "incomplete")
"""Statuses of runs that did not do what they were asked to. (A cancelled one did.)"""

COUNTERS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens", "total_tokens")

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("label", sa.Text),  # of its streams
    sa.Column("stream_id", StreamID, nullable=False),  # of the last stream that spoke of it
    sa.Column("protocol", sa.Text),
    sa.Column("thread_id", sa.Text),
    sa.Column("assistant_id", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("status", sa.Text),  # the API's, as last seen
    sa.Column("effective_status", sa.Text),  # requires_action where the client has calls to answer, whatever the API calls it
    sa.Column("state", sa.Text, nullable=False),  # ended, waiting, active, unknown
    sa.Column("failed", sa.Boolean, nullable=False),  # it failed, expired, came out incomplete, or broke off with an error
    sa.Column("previous_run_id", sa.Text),  # of the run before it in its chain
    sa.Column("continued_run_id", sa.Text, index=True),  # of the run whose calls its request answers
    sa.Column("logical_run_id", sa.Text),  # of the first run in a row of such, which is one run to the Assistants API
    sa.Column("began_at", UTCTime),  # when it was created, as far as anybody says, else when its first stream began
    sa.Column("ended_at", UTCTime),  # when the last event came that spoke of it; its end, where state is ended
    sa.Column("observed_at", UTCTime),  # when its first stream began
    sa.Column("created_at", UTCTime),
    sa.Column("started_at", UTCTime),
    sa.Column("expires_at", UTCTime),
    sa.Column("completed_at", UTCTime),
    sa.Column("failed_at", UTCTime),
    sa.Column("cancelled_at", UTCTime),
    sa.Column("last_error_code", sa.Text),
    sa.Column("last_error_message", sa.Text),
    sa.Column("incomplete_reason", sa.Text),
    sa.Column("error_code", sa.Text),  # of an error event in the stream
    sa.Column("error_message", sa.Text),
    sa.Column("required_action_type", sa.Text),
    sa.Column("prompt_tokens", sa.BigInteger),
    sa.Column("cached_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("completion_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("total_tokens", sa.BigInteger),
    sa.Column("usage", sa.Text),  # JSON, verbatim
    sa.Column("usage_source", sa.Text),  # who said it: run, steps (their sum) or response; null where nobody did
    sa.Column("failure_kind", sa.Text),  # null where it did not fail; see `failures` for the event that showed it
    sa.Column("failure_code", sa.Text),
    sa.Column("failure_message", sa.Text),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("tool_calls", sa.Integer),
    sa.Column("anomalies", sa.Integer),
    sa.Column("streams", sa.Integer, nullable=False),
    sa.Column("first_event_us", sa.BigInteger),  # here and below µs since its first stream began
    sa.Column("first_delta_us", sa.BigInteger),
    sa.Column("first_text_us", sa.BigInteger),
    sa.Column("duration_us", sa.BigInteger),  # as it was recorded; of a file without timing by the API's times, null without such
    sa.Column("hour", UTCTime, nullable=False),  # in which it was created: the bucket of usage_hourly
    sa.Column("object", sa.Text, nullable=False),  # JSON: the Run object, {} where none was seen
    sa.Column(
        "source_id", sa.Text, index=True
    ),  # of that object, where it is not the run's: an alias, which several runs may have
    sa.Column("source_object", sa.Text),  # JSON: the object as the API gave it, where that is no Run
    sa.Index("runs_run_id", "run_id"),
    sa.Index("runs_began_at", "began_at"),
    sa.Index("runs_model", "model", "began_at", "session_id"),
    sa.Index("runs_status", "status", "state", "session_id"),
    sa.Index("runs_thread_id", "thread_id"),
    # These two hold all that usage_hourly and sessions are computed from: the rows themselves, with their objects, stay unread.
    sa.Index("runs_usage", "hour", "protocol", "model", "assistant_id", *COUNTERS, "run_key"),
    sa.Index("runs_session", "session_id", "failed", "state", *COUNTERS, "run_key"),
)

TABLES = (runs,)


def without_usage() -> sa.ColumnElement[int]:
    """1 for a run that did not say its usage, else 0."""
    unknown = sa.and_(*(runs.c[name].is_(None) for name in ("prompt_tokens", "completion_tokens", "total_tokens")))
    return sa.case((unknown, 1), else_=0)


def rows(view: RunView) -> dict[sa.Table, list[dict[str, Any]]]:
    if not view.is_run:
        return {runs: []}
    run, last = view.object, view.sources[-1]
    previous = next((source.previous for source in view.sources if source.previous), None)
    error, details, action = (as_object(run.get(key)) for key in ("last_error", "incomplete_details", "required_action"))
    created_at = utc(run.get("created_at"))
    observed_at = datetime.fromisoformat(view.sources[0].started_at)
    began = created_at or observed_at
    ended = next((at for key in _ENDS if (at := utc(run.get(key))) is not None), None)
    failure = view.failure
    return {
        runs: [
            {
                "run_key": view.key,
                "run_id": view.key,
                "session_id": view.session_id,
                "label": name(view.label),
                "stream_id": last.stream_id,
                "protocol": view.protocol,
                "thread_id": name(run.get("thread_id")) or last.thread_id,
                "assistant_id": name(run.get("assistant_id")),
                "model": name(run.get("model")),
                "status": name(run.get("status")),
                "effective_status": text(view.status),
                "previous_run_id": name(previous),
                "continued_run_id": view.continued_run_id,
                "logical_run_id": view.logical_run_id,
                "observed_at": observed_at,
                "began_at": began,
                "ended_at": later(observed_at, view.ended_us) if view.ended_us else ended,
                "state": view.state,
                "failed": run.get("status") in FAILED or bool(error) or (view.error is not None and view.state != "ended"),
                "created_at": created_at,
                **{key: utc(run.get(key)) for key in ("started_at", "expires_at", "completed_at", "failed_at", "cancelled_at")},
                "last_error_code": text(error.get("code")),
                "last_error_message": text(error.get("message")),
                "incomplete_reason": text(details.get("reason")),
                "error_code": text(error_code(view.error or {})),
                "error_message": text((view.error or {}).get("message")),
                "required_action_type": text(action.get("type")),
                **(usage_columns(run.get("usage"), view.counts) if view.usage_source != "steps" else _sum_of_steps(view)),
                "usage_source": view.usage_source,
                "failure_kind": failure.kind if failure else None,
                "failure_code": name(failure.code) if failure else None,
                "failure_message": text(failure.message) if failure else None,
                "steps": len(view.steps),
                "tool_calls": sum(len(calls_of(step)) for step in view.steps),
                "anomalies": len(view.anomalies),
                "streams": len(view.sources),
                "first_event_us": view.first_us,
                "first_delta_us": view.first_delta_us,
                "first_text_us": view.first_text_us,
                "duration_us": view.ended_us or _duration_us(created_at, ended),
                "hour": began.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
                "object": jsontext.dumps(run),
                "source_id": _alias(view),
                "source_object": None if view.source_object is None else jsontext.dumps(view.source_object),
            }
        ]
    }


_ENDS = ("completed_at", "failed_at", "cancelled_at", "expired_at")


def _duration_us(created_at: datetime | None, ended: datetime | None) -> int | None:
    """By the API's times, which are whole seconds."""
    if created_at is None or ended is None or ended < created_at:
        return None
    return (ended - created_at) // timedelta(microseconds=1)


def _sum_of_steps(view: RunView) -> dict[str, Any]:
    """Counters of a run that does not say them, while all of its steps do."""
    each = [usage_columns(step.object.get("usage")) for step in view.steps]
    known = {name: [counted[name] for counted in each if counted[name] is not None] for name in COUNTERS}
    return {**{name: sum(counts) if counts else None for name, counts in known.items()}, "usage": None}


def _alias(view: RunView) -> str | None:
    found = name((view.source_object or {}).get("id"))
    return found if found != view.key else None


def usage_columns(usage: Any, counts: Counts | None = None) -> dict[str, Any]:
    """Counters of a usage object, null where it does not say them, and the object verbatim. counts: where they were read."""
    if counts is None:
        reading = read(usage)
        counts = reading.counts if reading else Counts()
    found = {f"{name}_tokens": tokens(value) for name, value in counts._asdict().items()}
    return {**found, "usage": jsontext.dumps(usage) if isinstance(usage, dict) else None}


def tokens(value: Any) -> int | None:
    """A count of tokens; one beyond a trillion is nonsense that sums could not hold (`usage` has it as it came)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**40 else None


def later(at: datetime, us: int) -> datetime:
    """A time so many µs later, or that time itself where the calendar ends before."""
    try:
        return at + timedelta(microseconds=us)
    except OverflowError:
        return at


def utc(value: Any) -> datetime | None:
    """The time of a Unix timestamp in seconds; None where it is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
