"""The objects of the read model as the Assistants API has them, for protocols whose own are others.

Each has every field of its kind: what nobody said is null, never made up.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

_RUN: Object = {
    "id": None,
    "object": "thread.run",
    **dict.fromkeys(("created_at", "thread_id", "assistant_id", "status", "required_action", "last_error", "expires_at")),
    **dict.fromkeys(("started_at", "cancelled_at", "failed_at", "completed_at", "incomplete_details", "instructions", "model")),
    **dict.fromkeys(("temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "metadata", "response_format")),
    **dict.fromkeys(("max_prompt_tokens", "max_completion_tokens", "truncation_strategy", "usage")),
}


def run(id: str, **said: Any) -> Object:
    """A Run with what was said of it."""
    return {**_RUN, "id": id, **said}


def step(
    run: Object,
    id: str,
    type: str,
    status: str,
    details: Object,
    *,
    position: int | None = None,
    last_error: Object | None = None,
) -> Object:
    """A RunStep of a run. details: its step_details, with their type. position: its place, where the protocol numbers it."""
    return {
        "id": id,
        "object": "thread.run.step",
        "created_at": None,
        "run_id": run["id"],
        "thread_id": run["thread_id"],
        "assistant_id": run["assistant_id"],
        "type": type,
        "status": status,
        **({} if position is None else {"position": position}),
        "step_details": details,
        "last_error": last_error,
        **dict.fromkeys(("expired_at", "cancelled_at", "failed_at", "completed_at", "metadata", "usage")),
    }


def message(run: Object, id: str, role: str, status: str, content: list[Object], reason: str | None = None) -> Object:
    """A Message of a run. reason: why it is incomplete, where that is known."""
    return {
        "id": id,
        "object": "thread.message",
        "created_at": None,
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "assistant_id": run["assistant_id"],
        "role": role,
        "status": status,
        "incomplete_details": {"reason": reason} if reason else None,
        "completed_at": None,
        "incomplete_at": None,
        "content": content,
        "attachments": None,
        "metadata": None,
    }
