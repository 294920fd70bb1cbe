"""`run_steps` and `tool_calls`: the steps of each run, and each tool call of theirs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import UTCTime, metadata
from recorder.projections.runs import name, text, usage_columns, utc
from recorder.protocols.failure import calls_of, failed_calls
from recorder.protocols.payload import as_object
from recorder.protocols.view import EntityView, RunView
from recorder.steps import ToolCall

run_steps = sa.Table(
    "run_steps",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("step_id", sa.Text, primary_key=True),
    sa.Column("ordinal", sa.Integer, nullable=False),  # in order of creation, from 0
    sa.Column("run_id", sa.Text),
    sa.Column("thread_id", sa.Text),
    sa.Column("assistant_id", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("status", sa.Text),
    sa.Column("status_derived", sa.Boolean, nullable=False),  # no event ended the step: its run's end did
    sa.Column("created_at", UTCTime),
    sa.Column("expires_at", UTCTime),
    sa.Column("expired_at", UTCTime),
    sa.Column("completed_at", UTCTime),
    sa.Column("failed_at", UTCTime),
    sa.Column("cancelled_at", UTCTime),
    sa.Column("last_error_code", sa.Text),
    sa.Column("last_error_message", sa.Text),
    sa.Column("message_id", sa.Text),
    sa.Column("prompt_tokens", sa.BigInteger),
    sa.Column("cached_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("completion_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("total_tokens", sa.BigInteger),
    sa.Column("usage", sa.Text),
    sa.Column("tool_calls", sa.Integer),
    sa.Column("first_us", sa.BigInteger),  # when an event first spoke of it, and last: µs since its run's first stream began
    sa.Column("last_us", sa.BigInteger),
    sa.Column("object", sa.Text, nullable=False),  # JSON: the RunStep object, final or as accumulated so far
    sa.Index("run_steps_step_id", "step_id"),
)

tool_calls = sa.Table(
    "tool_calls",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("step_id", sa.Text, primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True),
    sa.Column("tool_call_id", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("arguments", sa.Text),  # or the code interpreter's input
    sa.Column("arguments_bytes", sa.BigInteger),  # in UTF-8
    sa.Column("output_bytes", sa.BigInteger),
    sa.Column("failed", sa.Boolean),  # it says so, or its step does
    sa.Column("output", sa.Text),  # or its logs; what the client submitted where no event repeats it
    sa.Column("child_run_id", sa.Text),  # of an Azure connected agent
    sa.Column("awaited", sa.Boolean),  # whether its output is to come with a later request, which need not name the run
    sa.Column("object", sa.Text, nullable=False),
    sa.Index("tool_calls_tool_call_id", "tool_call_id"),
)

TABLES = (run_steps, tool_calls)


def rows(view: RunView) -> dict[sa.Table, list[dict[str, Any]]]:
    run_id = view.key if view.is_run else None
    steps = [_step(view, run_id, ordinal, step) for ordinal, step in enumerate(view.steps)]
    calls = [call for step in view.steps for call in _calls(view, run_id, step)]
    return {run_steps: steps, tool_calls: calls}


def _step(view: RunView, run_id: str | None, ordinal: int, step: EntityView) -> dict[str, Any]:
    object = step.object
    error, details = as_object(object.get("last_error")), as_object(object.get("step_details"))
    return {
        "run_key": view.key,
        "step_id": step.id,
        "ordinal": ordinal,
        "run_id": run_id,
        "thread_id": text(object.get("thread_id")),
        "assistant_id": text(object.get("assistant_id")),
        "type": text(object.get("type")),
        "status": step.derived_status or text(object.get("status")),
        "status_derived": step.derived_status is not None,
        **{
            key: utc(object.get(key))
            for key in ("created_at", "expires_at", "expired_at", "completed_at", "failed_at", "cancelled_at")
        },
        "last_error_code": text(error.get("code")),
        "last_error_message": text(error.get("message")),
        "message_id": text(as_object(details.get("message_creation")).get("message_id")),
        **usage_columns(object.get("usage")),
        "tool_calls": len(calls_of(step)),
        "first_us": step.first_us,
        "last_us": step.last_us,
        "object": jsontext.dumps(object),
    }


def _calls(view: RunView, run_id: str | None, step: EntityView) -> list[dict[str, Any]]:
    found = []
    failed = [id(call) for call in failed_calls(step)]
    for ordinal, given in enumerate(calls_of(step)):
        call = ToolCall.of(given)
        call_id = given.get("id")
        submitted = view.outputs.get(call_id) if isinstance(call_id, str) else None
        output = call.output if call.output is not None else submitted
        shown = text(output if isinstance(output, str) or output is None else jsontext.dumps(output))
        arguments = text(call.arguments)
        found.append(
            {
                "run_key": view.key,
                "step_id": step.id,
                "ordinal": ordinal,
                "tool_call_id": name(call_id),
                "run_id": run_id,
                "type": text(given.get("type")),
                "name": text(call.name),
                "arguments": arguments,
                "output": shown,
                "arguments_bytes": _bytes(arguments),
                "output_bytes": _bytes(shown),
                "failed": id(given) in failed,
                "awaited": isinstance(call_id, str) and call_id in view.calls,
                "child_run_id": name(call.child_run_id),
                "object": jsontext.dumps(given),
            }
        )
    return found


def _bytes(found: str | None) -> int | None:
    return None if found is None else len(found.encode())
