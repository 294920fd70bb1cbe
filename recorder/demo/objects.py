"""The API's objects, whole: Run, RunStep, Message and their deltas with every field that the API gives them."""

from __future__ import annotations

import random
import string
import time
from typing import Any

Object = dict[str, Any]

_ALPHABET = string.ascii_letters + string.digits
_draw = random.SystemRandom()
_EXPIRES = 600  # seconds after its creation that a run has


def new_id(prefix: str) -> str:
    """An id as the API makes them: the prefix and 24 letters and digits, new each time."""
    return prefix + "_" + "".join(_draw.choices(_ALPHABET, k=24))


def now() -> int:
    return int(time.time())


def usage(prompt: int, completion: int) -> Object:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def summed(*usages: Object) -> Object:
    return {key: sum(each[key] for each in usages) for key in ("prompt_tokens", "completion_tokens", "total_tokens")}


def thread() -> Object:
    return {"id": new_id("thread"), "object": "thread", "created_at": now(), "metadata": {}, "tool_resources": {}}


def run(thread_id: str, assistant_id: str, model: str, instructions: str, tools: list[Object]) -> Object:
    """A Run as it is created: queued."""
    created = now()
    return {
        "id": new_id("run"),
        "object": "thread.run",
        "created_at": created,
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "status": "queued",
        "started_at": None,
        "expires_at": created + _EXPIRES,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": model,
        "instructions": instructions,
        "tools": tools,
        "tool_resources": {},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_tokens": None,
        "max_prompt_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "incomplete_details": None,
        "usage": None,
        "response_format": "auto",
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def step(run: Object, details: Object) -> Object:
    """A RunStep as it is created: in progress. details: its step_details."""
    return {
        "id": new_id("step"),
        "object": "thread.run.step",
        "created_at": now(),
        "run_id": run["id"],
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "type": details["type"],
        "status": "in_progress",
        "cancelled_at": None,
        "completed_at": None,
        "expires_at": run["expires_at"],
        "expired_at": None,
        "failed_at": None,
        "last_error": None,
        "step_details": details,
        "metadata": {},
        "usage": None,
    }


def message(run: Object) -> Object:
    """A Message of the assistant's as it is created: in progress and empty."""
    return {
        "id": new_id("msg"),
        "object": "thread.message",
        "created_at": now(),
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "status": "in_progress",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": None,
        "role": "assistant",
        "content": [],
        "attachments": [],
        "metadata": {},
    }


def text(value: str) -> list[Object]:
    """A message's content of one text part."""
    return [{"type": "text", "text": {"value": value, "annotations": []}}]


def message_delta(message: Object, value: str) -> Object:
    part = {"index": 0, "type": "text", "text": {"value": value}}
    return {"id": message["id"], "object": "thread.message.delta", "delta": {"content": [part]}}


def step_delta(step: Object, *calls: Object) -> Object:
    """calls: parts of tool calls, each with its index."""
    details = {"type": "tool_calls", "tool_calls": list(calls)}
    return {"id": step["id"], "object": "thread.run.step.delta", "delta": {"step_details": details}}
