"""How a run, or a stream without one, failed: one of KINDS, told from what was recorded alone.

What the API says of a run goes before what its connection shows; a run that went on elsewhere and ended well did not fail.
"""

from __future__ import annotations

from typing import Any

from recorder.protocols.errors import error_code, tool_error
from recorder.protocols.payload import as_list, as_object, as_text, value
from recorder.protocols.view import EntityView, Failure, RunView, Source

KINDS = (
    "failed",
    "incomplete",
    "cancelled",
    "expired",
    "requires_action",
    "tool_failed",
    "cut",
    "client_closed",
    "stalled",
    "http_error",
    "no_response",
    "unknown",
)

_STATUSES = ("failed", "incomplete", "cancelled", "expired")

ERRORS = (*_STATUSES, "tool_failed", "http_error")
"""Kinds that the API told; the others are what the connection shows, or that somebody waits."""

PROBES = ("HEAD", "OPTIONS")
NOT_THERE = (404, 405)
"""HTTP statuses that answer a GET which only looks."""

_IN_ORDER = ("done", "eof")

_OUTCOMES = ("cut", "client_closed", "no_response")
"""Of streams: kinds of failures by the same names."""


def failure_of_run(view: RunView, ended: tuple[str, int] | None) -> Failure | None:
    """How a run failed; None where it did not, or is still at work.

    ended: the stream and position of the event that ended it, or else of the last that spoke of it.
    """
    last = view.sources[-1]
    status = view.object.get("status")
    if view.state == "ended":
        at = ended or (last.stream_id, last.position)
        if status in _STATUSES:
            said = as_object(view.object.get("last_error")) or (view.error or {})
            details = as_object(view.object.get("incomplete_details"))
            code = as_text(details.get("reason")) or error_code(said) or ("error" if view.error else str(status))
            if view.error is not None and view.error.get("message") == said.get("message"):
                at = _of_error(view, at)
            return Failure(str(status), code, as_text(said.get("message")) or as_text(details.get("message")), *at)
        return next((_of_call(step, call, at) for step in view.steps for call in _failed(step)), None)
    if view.error is not None:
        at = _of_error(view, (last.stream_id, last.position))
        return Failure("failed", error_code(view.error) or "error", as_text(view.error.get("message")), *at)
    if view.state == "active":
        return None
    if last.outcome == "http_error":
        return _of_response(last)
    if view.state == "waiting":
        action = as_object(view.object.get("required_action"))
        return Failure(
            "requires_action", as_text(action.get("type")) or "requires_action", None, *(ended or (last.stream_id, last.position))
        )
    return failure_of_stream(last) or Failure("unknown", last.outcome or "unknown", None, last.stream_id, last.position)


def failure_of_stream(source: Source) -> Failure | None:
    """How a stream failed that speaks of no run, or did not say how its run ended."""
    if source.is_probe and source.outcome in ("http_error", *_IN_ORDER):
        return None  # whoever looks whether something is there has the answer
    if source.outcome == "http_error":
        return _of_response(source)
    at = (source.stream_id, source.position)
    message = source.error_message
    if source.outcome == "error" or source.error_at is not None:  # the outcome of a file that was imported is how it ends
        shown = source.position if source.error_at is None else source.error_at
        return Failure("failed", source.error_code or "error", message, source.stream_id, shown)
    if source.protocol is None and source.outcome in _IN_ORDER:
        return None  # nobody knows how a dialect that is not known says that it is over
    if source.stalled:
        return Failure("stalled", source.outcome, message, *at)
    if source.outcome == "eof" and source.events:
        return Failure("cut", "eof", None, *at)  # it ended in order, and too early
    if source.outcome in _OUTCOMES:
        return Failure(source.outcome, source.outcome, message, *at)
    return Failure("unknown", "lost", None, *at) if source.outcome == "lost" else None


def is_probe(method: str, protocol: str | None, status: int | None) -> bool:
    """Whether a request only looks whether something is there: HEAD, OPTIONS, or a GET of no API that nothing is found at."""
    return method in PROBES or (method == "GET" and protocol is None and status in NOT_THERE)


def code_of_stream(outcome: str | None, status: int | None, error: dict[str, Any] | None) -> str | None:
    """The code of a stream's error: as it was told, else HTTP's status, or that there was one. None where there was none."""
    if error is not None and (code := error_code(error)) is not None:
        return code
    return str(status) if outcome == "http_error" and status is not None else "error" if error is not None else None


def calls_of(step: EntityView) -> list[dict[str, Any]]:
    """The tool calls of a step, as its object has them."""
    calls = as_object(step.object.get("step_details")).get("tool_calls")
    return [call for call in as_list(calls) if isinstance(call, dict)]


def failed_calls(step: EntityView) -> list[dict[str, Any]]:
    """The tool calls of a step that failed: by their own word, or by their step's."""
    calls = calls_of(step)
    if step.object.get("status") == "failed" and step.derived_status is None:
        return calls
    return [call for call in calls if _has_failed(call)]


def _failed(step: EntityView) -> list[dict[str, Any]]:
    """The tool calls of a step that failed, and what else was asked of the servers of tools in vain."""
    asked = as_list(as_object(step.object.get("step_details")).get("activities"))
    return [*failed_calls(step), *(each for each in asked if isinstance(each, dict) and each.get("error"))]


def tool_of(view: RunView) -> str | None:
    """The tool that a run called last: a function's name, else the type."""
    for step in reversed(view.steps):
        for call in reversed(calls_of(step)):
            return tool_name(call)
    return None


def tool_name(call: dict[str, Any]) -> str | None:
    """What a tool call calls: a function by its name, else the type of tool."""
    kind = as_text(call.get("type"))
    inner = as_object(call.get(kind)) if kind else {}
    return (as_text(inner.get("name")) or as_text(call.get("name")) if kind == "function" else None) or kind


def is_whole(call: dict[str, Any]) -> bool:
    """Whether a call has all of its arguments, as far as they tell."""
    arguments = as_object(call.get("function")).get("arguments")
    return not isinstance(arguments, str) or not arguments.strip() or value(arguments) is not None


def _has_failed(call: dict[str, Any]) -> bool:
    bodies = (call, as_object(call.get(str(call.get("type")))))
    return any(body.get("error") or body.get("status") == "failed" or tool_error(body.get("output")) for body in bodies)


def _of_call(step: EntityView, call: dict[str, Any], ended: tuple[str, int]) -> Failure:
    bodies = (call, as_object(call.get(str(call.get("type")))))
    told = (body.get("error") or tool_error(body.get("output")) for body in bodies)
    error = next((each for each in told if each), None) or step.object.get("last_error")
    said = as_object(error)
    message = as_text(said.get("message")) or as_text(error)
    place = next((place for place, each in enumerate(calls_of(step)) if each is call), -1)
    return Failure("tool_failed", error_code(said) or tool_name(call), message, *(step.results.get(place) or step.shown or ended))


def _of_error(view: RunView, else_at: tuple[str, int]) -> tuple[str, int]:
    """The stream and position of the event that told the error of a run."""
    position = (view.error or {}).get("position")
    return (view.error_stream or else_at[0], position) if isinstance(position, int) else else_at


def _of_response(source: Source) -> Failure:
    return Failure("http_error", source.error_code, source.error_message, source.stream_id, 0)  # $response comes first
