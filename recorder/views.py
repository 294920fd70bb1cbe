"""The views: questions on runs, steps, tool calls, failures, streams and usage, for people with a database shell.

They are a contract: columns are added, never changed or taken away while VERSION stays. They have the same columns and the same
values on SQLite and PostgreSQL: flags are 0 or 1, durations are seconds, tokens are counts or null where nobody said them. None
of them reads the events of the log.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder.projections.costs import costs, joined
from recorder.projections.failures import failures
from recorder.projections.run_steps import run_steps, tool_calls
from recorder.projections.runs import COUNTERS, runs
from recorder.projections.sessions import session_streams
from recorder.projections.silences import silences
from recorder.projections.usage import KEYS, usage_daily, usage_hourly
from recorder.protocols.failure import ERRORS

VERSION = 1


class View(NamedTuple):
    """about: what a row is. columns: {name: its meaning, with the unit}."""

    about: str
    select: sa.Select[Any]
    columns: dict[str, str]


def create(connection: sa.Connection) -> None:
    """Make all views, anew where they are there."""
    drop(connection)
    for name, view in VIEWS.items():
        compiled = view.select.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {compiled}".replace("%", "%%"))


def drop(connection: sa.Connection) -> None:
    for name in reversed(VIEWS):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")


def _seconds(us: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(us, sa.Double) / 1e6


def _dollars(nusd: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(nusd, sa.Double) / 1e9


def _flag(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.case((column, 1), else_=0)


def _known(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.nullif(column, "", type_=column.type)


def _told(own: str, of_failure: str) -> sa.ColumnElement[Any]:
    """What the last failure says that a stream shows, so that both views say one thing; else what its own error does."""
    told = sa.and_(failures.c.stream_id == session_streams.c.stream_id, failures.c.kind.in_(ERRORS))
    order = failures.c.position.desc(), sa.cast(failures.c.run_key, _BYTEWISE).desc()
    last = sa.select(failures.c[of_failure]).where(told).order_by(*order).limit(1).scalar_subquery()
    return sa.case((sa.exists().where(told), last), else_=session_streams.c[own]).label(own)


_BYTEWISE = sa.Text(collation="C").with_variant(sa.Text(collation="BINARY"), "sqlite")
"""Text that both databases sort alike."""

_TOKENS = {
    "prompt_tokens": "tokens read, cached ones included; null where nobody said it, as with all tokens",
    "cached_tokens": "of these, read from the cache",
    "cache_write_tokens": "of these, written to the cache",
    "completion_tokens": "tokens written, reasoning included",
    "reasoning_tokens": "of these, reasoning",
    "total_tokens": "as the API says it",
}

_WHERE = {"session_id": "the session", "model": "as the API names it", "protocol": "assistants, responses, chat or anthropic"}

_step_s = _seconds(run_steps.c.last_us - run_steps.c.first_us)

VIEWS = {
    "v_runs": View(
        "a run, over all its streams",
        sa.select(
            *(runs.c[name] for name in ("run_id", "session_id", "label", "protocol", "model", "assistant_id", "thread_id")),
            *(runs.c[name] for name in ("status", "state", "failure_kind", "failure_code", "failure_message")),
            runs.c.began_at.label("started_at"),
            runs.c.ended_at,
            _seconds(runs.c.duration_us).label("duration_s"),
            _seconds(runs.c.first_event_us).label("first_event_s"),
            _seconds(runs.c.first_text_us).label("first_text_s"),
            *(runs.c[name] for name in COUNTERS),
            runs.c.usage_source,
            _dollars(costs.c.cost_nusd).label("cost_usd"),
            costs.c.price_date,
            *(runs.c[name] for name in ("steps", "tool_calls", "streams", "anomalies", "stream_id")),
        ).select_from(joined),
        {
            "run_id": "the API's; `chat_` and the stream's id of a chat completion",
            "session_id": "the session it is of",
            "label": "the session's label, where it has one",
            "protocol": _WHERE["protocol"],
            "model": _WHERE["model"],
            "assistant_id": "the assistant or agent, where there is one",
            "thread_id": "the thread or conversation, where there is one",
            "status": "the API's, as last seen",
            "state": "ended, waiting (for tool outputs), active (being streamed), unknown (its end was not seen)",
            "failure_kind": "how it failed, see below; null where it did not",
            "failure_code": "the API's error code, the reason it is incomplete, or what else tells more",
            "failure_message": "the API's words",
            "started_at": "time it was created, else its first stream began",
            "ended_at": "time of the last event that spoke of it",
            "duration_s": "seconds from the beginning of its first stream to that event",
            "first_event_s": "seconds from that beginning to the first event that spoke of it",
            "first_text_s": "seconds from that beginning to the first text for the user; null where there was none",
            **_TOKENS,
            "usage_source": "who said the tokens: run, steps (their sum), response; null where nobody did",
            "cost_usd": "US dollars, by its model's price on its day, else as the provider says; null where neither is known",
            "price_date": "the day from which that price holds; null where the list says none",
            "steps": "how many steps",
            "tool_calls": "how many tool calls",
            "streams": "how many streams spoke of it",
            "anomalies": "how many of its events make no sense",
            "stream_id": "the last stream that spoke of it",
        },
    ),
    "v_steps": View(
        "a step of a run",
        sa.select(
            runs.c.run_id,
            *(run_steps.c[name] for name in ("step_id", "ordinal", "type", "status")),
            run_steps.c.created_at.label("started_at"),
            _step_s.label("duration_s"),
            run_steps.c.tool_calls,
            *(run_steps.c[name] for name in COUNTERS),
            run_steps.c.last_error_code.label("error_code"),
            run_steps.c.last_error_message.label("error_message"),
            run_steps.c.message_id,
            runs.c.session_id,
            runs.c.model,
        ).join_from(run_steps, runs, runs.c.run_key == run_steps.c.run_key),
        {
            "run_id": "the run",
            "step_id": "the API's id, or one made of the run's where it has none",
            "ordinal": "its place in the run, from 0",
            "type": "message_creation, tool_calls, reasoning …",
            "status": "the API's; by its run where no event ended it",
            "started_at": "time it was created, as the API says it",
            "duration_s": "seconds from the first to the last event that spoke of it; null where none did",
            "tool_calls": "how many tool calls",
            **_TOKENS,
            "error_code": "of its last_error",
            "error_message": "of its last_error",
            "message_id": "the message it made",
            "session_id": _WHERE["session_id"],
            "model": "the run's",
        },
    ),
    "v_tool_calls": View(
        "a tool call",
        sa.select(
            runs.c.run_id,
            *(tool_calls.c[name] for name in ("step_id", "ordinal", "tool_call_id", "type", "name")),
            *(tool_calls.c[name] for name in ("arguments_bytes", "output_bytes")),
            _step_s.label("duration_s"),
            _flag(tool_calls.c.failed).label("failed"),
            runs.c.session_id,
            runs.c.model,
            runs.c.began_at.label("started_at"),
        )
        .join_from(tool_calls, runs, runs.c.run_key == tool_calls.c.run_key)
        .outerjoin(run_steps, sa.and_(run_steps.c.run_key == tool_calls.c.run_key, run_steps.c.step_id == tool_calls.c.step_id)),
        {
            "run_id": "the run",
            "step_id": "the step",
            "ordinal": "its place in the step, from 0",
            "tool_call_id": "the API's",
            "type": "function, code_interpreter, file_search, mcp …",
            "name": "the function's, or the tool's on its server",
            "arguments_bytes": "size of what it was given, in bytes of UTF-8",
            "output_bytes": "size of what came out; null where nothing did",
            "duration_s": "its step's, in seconds; of a function that includes the client's work",
            "failed": "1 where it or its step says that it failed, else 0",
            "session_id": _WHERE["session_id"],
            "model": "the run's",
            "started_at": "time at which its run began",
        },
    ),
    "v_failures": View(
        "a run that failed, in whatever way, or a stream that failed and speaks of no run",
        sa.select(
            *(failures.c[name] for name in ("at", "kind", "code", "message", "run_id", "session_id", "label", "protocol")),
            *(failures.c[name] for name in ("model", "tool", "stream_id", "position")),
        ),
        {
            "at": "time, as the API says it, else as it was seen",
            "kind": "one of the kinds below",
            "code": "the API's error code, the reason it is incomplete, the HTTP status, or what else tells more",
            "message": "the API's words",
            "run_id": "the run; null of a stream that speaks of none",
            "session_id": _WHERE["session_id"],
            "label": "the session's label, where it has one",
            "protocol": _WHERE["protocol"],
            "model": _WHERE["model"],
            "tool": "the tool that was called last: a function's name, else the type",
            "stream_id": "the stream with the event that showed it",
            "position": "that event's position",
        },
    ),
    **{
        name: View(
            f"the runs that were created in {about}, by protocol, model and assistant",
            sa.select(
                when,
                *(_known(table.c[key]).label(key) for key in KEYS),
                *(table.c[key] for key in ("runs", "runs_without_usage", *COUNTERS)),
                _dollars(table.c.cost_nusd).label("cost_usd"),
                (table.c.runs - sa.func.coalesce(table.c.runs_with_cost, 0)).label("runs_without_cost"),
            ),
            {
                when.name: meaning,
                "protocol": _WHERE["protocol"],
                "model": _WHERE["model"],
                "assistant_id": "null where there is none",
                "runs": "how many runs",
                "runs_without_usage": "how many of these did not say their usage, and are in none of the sums",
                **_TOKENS,
                "cost_usd": "US dollars, of the runs whose cost is known; null where there are none",
                "runs_without_cost": "how many runs have no known cost",
            },
        )
        for name, about, table, when, meaning in (
            ("v_usage_hourly", "an hour", usage_hourly, usage_hourly.c.hour, "time at which the hour begins"),
            ("v_usage_daily", "a day", usage_daily, usage_daily.c.day, "the day in UTC, as text: 2026-11-22"),
        )
    },
    "v_streams": View(
        "an HTTP exchange",
        sa.select(
            *(session_streams.c[name] for name in ("stream_id", "session_id", "label", "protocol", "method", "host", "path")),
            *(session_streams.c[name] for name in ("status", "outcome", "events", "bytes", "started_at")),
            _seconds(session_streams.c.last_us).label("duration_s"),
            _seconds(session_streams.c.first_event_us).label("first_event_s"),
            _seconds(session_streams.c.longest_gap_us).label("longest_gap_s"),
            session_streams.c.stalls,
            *(_told(name, name.removeprefix("error_")) for name in ("error_code", "error_message")),
        ),
        {
            "stream_id": "a UUIDv7: sorts by time",
            "session_id": _WHERE["session_id"],
            "label": "the session's label, where it has one",
            "protocol": "null where it is none that recorder knows",
            "method": "of the request",
            "host": "of the request",
            "path": "of the request",
            "status": "of the response",
            "outcome": "how it ended: done, eof, error, cut, client_closed, http_error, no_response, lost; null while it is open",
            "events": "how many events, without those that only recorder makes",
            "bytes": "of their data, or of the body",
            "started_at": "time of the request",
            "duration_s": "seconds from the request to the last event",
            "first_event_s": "seconds from the request to the first event",
            "longest_gap_s": "seconds of the longest time without an event",
            "stalls": "how many such times were of 10 s and more",
            "error_code": "of the last failure in it that the API told, as `code` in v_failures; else of an error event in it",
            "error_message": "of the same, as `message` in v_failures",
        },
    ),
    "v_gaps": View(
        "a silence between two events of a stream, of a second or more (the first hundred of each stream)",
        sa.select(
            silences.c.stream_id,
            session_streams.c.session_id,
            silences.c.position,
            _seconds(silences.c.offset_us).label("offset_s"),
            _seconds(silences.c.gap_us).label("gap_s"),
            silences.c.type,
        ).join_from(silences, session_streams, session_streams.c.stream_id == silences.c.stream_id),
        {
            "stream_id": "the stream",
            "session_id": _WHERE["session_id"],
            "position": "of the event that ended it",
            "offset_s": "seconds from the request to that event",
            "gap_s": "seconds it lasted",
            "type": "of that event",
        },
    ),
}
