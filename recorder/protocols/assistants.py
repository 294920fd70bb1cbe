"""The Assistants stream of OpenAI, of Azure's classic agents and of servers compatible with them: events → partial states.

The shapes are those of OpenAI's API description (openai-openapi 2.3.0, its Assistants section); what it leaves open follows
real streams. The rules of the fold:

1. Streamed strings are concatenated (steps.STREAMED); every other value of a delta replaces what was there, null never does.
2. Lists in deltas are merged by `index`; the index goes when they are shown.
3. A lifecycle event carries a snapshot: keys that it has overwrite, keys that it lacks keep their value, and then what its
   status no longer holds is dropped (a required_action, a last_error, incomplete_details).
4. A final snapshot wins over accumulated deltas, which are compared with it: a difference is an anomaly. A snapshot that is
   not final never empties what deltas built.
5. Events may come in any order: a delta, or a final snapshot, of an unknown object creates it.
6. A run is found by its id in payloads or in the URL, never by its connection: one run may have several streams.

Nothing is refused: a transition that the API does not know is applied and flagged, and what is unknown (event names, step
and tool types, statuses, fields) is carried along.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from recorder.protocols import deltas, endings
from recorder.protocols.conversation import Conversation
from recorder.protocols.errors import error, error_in, event_of
from recorder.protocols.partial import STREAM, Entity, Part, Partial, Request
from recorder.protocols.payload import is_id, stamp, value
from recorder.protocols.usage import follow, read
from recorder.protocols.view import EntityView, Merged, MergedRun, Shown
from recorder.vocabulary import MESSAGE_TERMINAL, RUN_TERMINAL, STEP_TERMINAL, STREAMED

NAME = "assistants"

FOLD_VERSION = 5
"""Raise it when the fold's result changes: streams folded by an older version are folded again by themselves."""

# What may follow which status. One that is not listed is one that we do not know, and anything may follow it.
_ENDINGS = frozenset({"cancelling", "cancelled", "expired", "failed", "completed", "incomplete"})
RUN_TRANSITIONS: dict[str, frozenset[str]] = {
    "queued": frozenset({"queued", "in_progress", "requires_action"}) | _ENDINGS,
    "in_progress": frozenset({"in_progress", "requires_action"}) | _ENDINGS,
    "requires_action": frozenset({"requires_action", "queued", "in_progress", "cancelling", "cancelled", "expired", "failed"}),
    "cancelling": frozenset({"cancelling", "cancelled", "completed", "failed", "expired", "incomplete"}),
} | {status: frozenset({status}) for status in RUN_TERMINAL}

# Absent from a snapshot, these no longer hold in any other status (rule 3).
_HOLDS_IN: dict[str, Callable[[str | None], bool]] = {
    "required_action": lambda status: status == "requires_action",
    "last_error": lambda status: status not in ("queued", "in_progress", "completed"),
    "incomplete_details": lambda status: status == "incomplete",
}

_INHERITED = ("expired", "cancelled", "failed")
"""What a run's end makes of its steps that no event ended."""

_DETAIL_LISTS = ("tool_calls", "activities")

_BELOW = {
    "runs": frozenset({(), ("cancel",), ("submit_tool_outputs",), ("steps",), ("steps", "*")}),
    "messages": frozenset({(), ("files",), ("files", "*")}),
}
"""What may follow the id of a run or message in a path; * is an id. Other services have threads and runs too."""

_NO_IDS = frozenset({"batch", "count", "crons", "search", "stream", "wait"})
"""What stands in the place of an id in the paths of such services (LangGraph's)."""


def matches(request: Request) -> bool:
    """Whether the request is one of this API: about runs or messages of threads, under any prefix.

    A thread alone is something that many services have: it is taken for one of this API at the hosts that are known.
    """
    after = _after_threads(request.path)
    if after is None:
        return False
    if after == ["runs"]:
        return True
    if len(after) < 2:
        return "openai" in request.path or request.host.partition(":")[0].endswith(("openai.com", "azure.com"))
    family, below = after[1], after[2:]
    if family not in _BELOW or not below:
        return family in _BELOW
    return below[0] not in _NO_IDS and (*below[1:2], *("*" for _ in below[2:])) in _BELOW[family]


def matches_event(type: str, data: str) -> bool:
    """Whether an event can only be this protocol's: by its name, or in LiteLLM's envelope {"event": …, "data": …}."""
    if type:
        return type.startswith("thread.")
    return '"thread.' in data and _unwrap("", value(data))[0].startswith("thread.")


def begin(partial: Partial, request: Request) -> None:
    """What the request alone tells: ids in its URL, and the tool outputs that it submits."""
    after = _after_threads(request.path) or []
    if after and after[0] != "runs" and is_id(after[0]):
        partial.thread_id = after[0]
    if len(after) > 2 and after[1] == "runs" and is_id(after[2]) and after[2] not in _NO_IDS:
        partial.run_key = after[2]
    body = request.body if isinstance(request.body, dict) else {}
    lists = [given for given in (body.get("tool_outputs"), body.get("tool_approvals")) if isinstance(given, list)]
    if partial.run_key and lists:
        part = partial.part(partial.run_key, 0, 0)
        for entry in (entry for given in lists for entry in given):
            if isinstance(entry, dict) and isinstance(entry.get("tool_call_id"), str):
                part.outputs[entry["tool_call_id"]] = entry["output"] if "output" in entry else {"approve": entry.get("approve")}


def matches_body(found: Any) -> bool:
    """Whether a body can only be this protocol's: an object of it, or a list of such."""
    return _kind(found).startswith("thread")


def body(partial: Partial, position: int, offset_us: int, found: Any) -> None:
    """Fold a response that is no stream: an object is its snapshot, a list those of its entries."""
    entries = found.get("data") if isinstance(found, dict) and found.get("object") == "list" else [found]
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        handler = BODY_HANDLERS.get(_kind(entry))
        if handler is not None and is_id(entry.get("id")):
            handler(partial, position, offset_us, "", entry)
        _on_thread_id(partial, entry)


def repeats(request: Request) -> Conversation:
    """Nothing: what is submitted here names its run in the URL, and is kept with that."""
    return Conversation([], None)


def present(run: MergedRun) -> Shown:
    """The run as it is, cleared of what its status no longer holds; steps and messages in order of creation."""
    if run.object:
        clear(run.object, run.said)
    status = run.object.get("status")
    steps = [_step_view(step, status) for step in _in_order(run.family("steps"))]
    messages = [
        EntityView(message.id, {"id": message.id} | message.object, message.terminal)
        for message in _in_order(run.family("messages"))
    ]
    reading = read(run.object.get("usage"), run.object.get("model"))
    return Shown(run.object, steps, messages, status=_effective(run) if isinstance(status, str) else None, reading=reading)


def evolve(partial: Partial, position: int, offset_us: int, type: str, data: str) -> None:
    """Fold one event into the partial state, in place."""
    found = None if data == "[DONE]" else value(data)
    name, payload = _unwrap(type, found)
    handler = HANDLERS.get(name)
    if handler is None and isinstance(payload, dict):
        handler = OBJECT_HANDLERS.get(payload.get("object", ""))  # an unknown event about a known object is its snapshot
    if handler is None:
        if data not in ("[DONE]", "") and found is None:
            partial.unparsable(position, offset_us, name, data)
        if not name and error_in(told := event_of("", data) if found is None else payload) is not None:
            _on_error(partial, position, offset_us, name, told)
        return
    if name == "error":
        said = payload if isinstance(payload, dict) else event_of(name, payload if isinstance(payload, str) else data)
        _on_error(partial, position, offset_us, name, said or {})
    elif not isinstance(payload, dict) or not is_id(payload.get("id")):
        kind = "unparsable" if found is None else "no_object"
        _part_of_connection(partial, position, offset_us).anomaly(position, kind, f"{name}: {data[:200]}")
    else:
        handler(partial, position, offset_us, name, payload)


def clear(object: dict[str, Any], said: dict[str, Any]) -> None:
    """Drop from a run what its status no longer holds, unless the snapshot itself says it (rule 3)."""
    for key, holds in _HOLDS_IN.items():
        if object.get(key) is not None and key not in said and not holds(object.get("status")):
            object[key] = None


def _after_threads(path: str) -> list[str] | None:
    """The segments of a path after `threads`, None where it has none."""
    segments = [segment for segment in path.split("/") if segment]
    return segments[segments.index("threads") + 1 :] if "threads" in segments else None


def _effective(run: MergedRun) -> str:
    """The status of a run; one that waits for nothing any more, since all its calls are answered, is queued again."""
    status = str(run.object["status"])
    action = run.object.get("required_action")
    asked = [calls for said in (action.values() if isinstance(action, dict) else ()) if (calls := _calls(said))]
    ids = [call.get("id") for calls in asked for call in calls if isinstance(call, dict)]
    answered = bool(ids) and all(isinstance(id, str) and id in run.answered for id in ids)
    return "queued" if status == "requires_action" and answered else status


def _calls(action: Any) -> list[Any]:
    calls = action.get("tool_calls") if isinstance(action, dict) else None
    return calls if isinstance(calls, list) else []


def _on_thread_id(partial: Partial, payload: dict[str, Any]) -> None:
    if partial.thread_id is None and is_id(payload.get("thread_id")):
        partial.thread_id = payload["thread_id"]


def _unwrap(type: str, value: Any) -> tuple[str, Any]:
    """(event name, payload), out of the envelope where a gateway put both into the data."""
    if not type and isinstance(value, dict) and isinstance(value.get("event"), str) and "data" in value:
        return value["event"], value["data"]
    return type, value


def _kind(found: Any) -> str:
    """The `object` of a body; of a list that of its first entry."""
    if isinstance(found, dict) and found.get("object") == "list" and isinstance(found.get("data"), list):
        found = next(iter(found["data"]), None)
    kind = found.get("object") if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else ""


def _in_order(entities: dict[str, Merged]) -> list[Merged]:
    return sorted(entities.values(), key=lambda entity: (_created(entity.object), entity.order))


def _created(object: dict[str, Any]) -> float:
    at = stamp(object.get("created_at"))
    return float("inf") if at is None else at


def _step_view(step: Merged, status: Any) -> EntityView:
    details = step.object.get("step_details")
    if "type" not in step.object and isinstance(details, dict):
        step.object["type"] = details.get("type")
    derived = status if not step.terminal and status in _INHERITED else None
    return EntityView(step.id, {"id": step.id} | step.object, step.terminal, derived)


def _part_of_connection(partial: Partial, position: int, offset_us: int) -> Part:
    return partial.part(partial.run_key or STREAM, position, offset_us)


def _owner(partial: Partial, family: str, payload: dict[str, Any]) -> str:
    """The key of the run that a step or message belongs to: by its own word, by an earlier event, by its connection."""
    run_id = payload.get("run_id")
    if is_id(run_id):
        return str(run_id)
    owner = partial.owners.get((family, payload["id"]))
    if owner is not None:
        return owner
    if run_id is None and "run_id" in payload:
        return str(payload["id"])  # a message of the user's: no run made it
    return partial.run_key or str(payload["id"])


def _status(name: str, payload: dict[str, Any]) -> str | None:
    """The payload's status: it may differ from the event's name, and sparse servers leave it out."""
    if "status" in payload:
        status = payload["status"]
        return status if isinstance(status, str) else None
    last = name.rpartition(".")[2]
    return {"created": "queued" if name == "thread.run.created" else "in_progress"}.get(last, last) or None


def _on_thread(partial: Partial, position: int, offset_us: int, name: str, payload: dict[str, Any]) -> None:
    partial.thread_id = payload["id"]
    partial.thread = payload


def _on_run(partial: Partial, position: int, offset_us: int, name: str, payload: dict[str, Any]) -> None:
    key = payload["id"]
    part = partial.part(key, position, offset_us)
    partial.run_key = key
    _on_thread_id(partial, payload)
    created = part.object.get("created_at")
    if created is not None and payload.get("created_at") not in (None, created):
        part = partial.restart(key, position, offset_us)
        part.anomaly(position, "id_reused", f"created_at {created}, then {payload['created_at']}: taken for another run")
    before, status = part.object.get("status"), _status(name, payload)
    if before in RUN_TRANSITIONS and status in RUN_TRANSITIONS and status not in RUN_TRANSITIONS[before]:
        kind = "resurrected" if part.terminal and status not in RUN_TERMINAL else "illegal_transition"
        part.anomaly(position, kind, f"run from {before} to {status}")
    if status is not None and status not in endings.ASSISTANTS:
        part.anomaly(position, "unknown_status", f"run {status}")
    _update(part, part.object, position, payload)
    part.object["status"] = status
    part.begun = part.begun or name == "thread.run.created"
    part.created = stamp(part.object.get("created_at"))
    part.terminal = status in RUN_TERMINAL
    clear(part.object, payload)


def _update(part: Part, object: dict[str, Any], position: int, payload: dict[str, Any]) -> None:
    """Overwrite what a snapshot says; of a usage what it says of it."""
    usage = object.get("usage")
    object.update(payload)
    if isinstance(usage, dict):
        object["usage"] = usage
        if isinstance(payload.get("usage"), dict) and (fell := follow(usage, payload["usage"])):
            part.anomaly(position, "usage_fell", f"{payload.get('id')}: {', '.join(fell)}")
    elif isinstance(payload.get("usage"), dict):
        object["usage"] = {}
        follow(object["usage"], payload["usage"])  # a copy: later snapshots go on with it


def _on_step(partial: Partial, position: int, offset_us: int, name: str, payload: dict[str, Any]) -> None:
    part, step, _ = partial.entity("steps", payload["id"], _owner(partial, "steps", payload), position, offset_us)
    if partial.run_key is None and is_id(payload.get("run_id")):
        partial.run_key = payload["run_id"]
    _on_thread_id(partial, payload)
    details = payload.get("step_details")
    content = details
    if isinstance(details, dict):
        content = next((details[key] for key in _DETAIL_LISTS if isinstance(details.get(key), list)), details)
    _snapshot(part, step, position, name, payload, STEP_TERMINAL, "step_details", content)


def _on_message(partial: Partial, position: int, offset_us: int, name: str, payload: dict[str, Any]) -> None:
    part, message, _ = partial.entity("messages", payload["id"], _owner(partial, "messages", payload), position, offset_us)
    _on_thread_id(partial, payload)
    _snapshot(part, message, position, name, payload, MESSAGE_TERMINAL, "content", payload.get("content"))


def _snapshot(
    part: Part,
    entity: Entity,
    position: int,
    name: str,
    payload: dict[str, Any],
    terminal: frozenset[str],
    field: str,
    content: Any,
) -> None:
    """Apply a step's or message's snapshot: present keys overwrite, but nothing empties what is there (rules 3 to 5)."""
    status = _status(name, payload)
    ends = status in terminal
    if entity.terminal and not ends:
        part.anomaly(position, "resurrected", f"{payload['id']} from {entity.object.get('status')} to {status}")
    if ends:
        accumulated = deltas.plain(entity.delta.get(field))
        for path in deltas.gaps(accumulated, payload.get(field), STREAMED, field):
            part.anomaly(position, "index_gap", f"{payload['id']}: no delta had {path}, though one had what follows it")
        for path in deltas.differences(accumulated, payload.get(field), STREAMED, field):
            part.anomaly(position, "delta_mismatch", f"{payload['id']}: deltas do not add up to the final {field} at {path}")
    elif content:
        entity.delta[field] = deepcopy(payload[field])  # later deltas extend it; the snapshot stays as it came
    kept = entity.object.get(field)
    _update(part, entity.object, position, payload)
    entity.object["status"] = status
    if not content and kept and not ends:
        entity.object[field] = kept
    entity.terminal = ends


def _on_step_delta(partial: Partial, position: int, offset_us: int, name: str, payload: dict[str, Any]) -> None:
    delta = payload.get("delta")
    details = delta.get("step_details") if isinstance(delta, dict) else None
    if isinstance(details, dict) and isinstance(details.get("tool_calls"), list) and details.get("type") != "tool_calls":
        details["type"] = "tool_calls"  # Azure says mcp or openapi here
    _merge(partial, position, offset_us, "steps", payload, delta)


def _on_message_delta(partial: Partial, position: int, offset_us: int, name: str, payload: dict[str, Any]) -> None:
    _merge(partial, position, offset_us, "messages", payload, payload.get("delta"))


def _merge(partial: Partial, position: int, offset_us: int, family: str, payload: dict[str, Any], delta: Any) -> None:
    part, entity, new = partial.entity(family, payload["id"], _owner(partial, family, payload), position, offset_us)
    if part.first_delta_us is None:
        part.first_delta_us = offset_us
    if part.first_text_us is None and family == "messages":
        part.first_text_us = offset_us
    if new:
        part.anomaly(position, "delta_without_object", f"{payload['id']}: a delta before its object was created")
    elif entity.terminal:
        part.anomaly(position, "delta_after_end", f"{payload['id']}: a delta after its final snapshot")
    if isinstance(delta, dict):
        deltas.merge(entity.delta, delta, STREAMED, partial.problem)
        for kind, detail in partial.problems:
            part.anomaly(position, kind, f"{payload['id']}: {detail}")
        partial.problems.clear()
    else:
        part.anomaly(position, "no_object", f"{payload['id']}: a delta event without a delta")


def _on_error(partial: Partial, position: int, offset_us: int, name: str, payload: Any) -> None:
    """Of an error event, in any of its shapes: nested, flat, or a text."""
    part = None if partial.run_key is None else partial.part(partial.run_key, position, offset_us)
    partial.fail(error_in(payload, named=True) or error(payload), position, part)


Handler = Callable[[Partial, int, int, str, dict[str, Any]], None]

HANDLERS: dict[str, Handler] = {
    "thread.created": _on_thread,
    "thread.run.created": _on_run,
    "thread.run.queued": _on_run,
    "thread.run.in_progress": _on_run,
    "thread.run.requires_action": _on_run,
    "thread.run.completed": _on_run,
    "thread.run.incomplete": _on_run,
    "thread.run.failed": _on_run,
    "thread.run.cancelling": _on_run,
    "thread.run.cancelled": _on_run,
    "thread.run.expired": _on_run,
    "thread.run.step.created": _on_step,
    "thread.run.step.in_progress": _on_step,
    "thread.run.step.delta": _on_step_delta,
    "thread.run.step.completed": _on_step,
    "thread.run.step.failed": _on_step,
    "thread.run.step.cancelled": _on_step,
    "thread.run.step.expired": _on_step,
    "thread.message.created": _on_message,
    "thread.message.in_progress": _on_message,
    "thread.message.delta": _on_message_delta,
    "thread.message.completed": _on_message,
    "thread.message.incomplete": _on_message,
    "error": _on_error,
}

OBJECT_HANDLERS: dict[str, Handler] = {
    "thread": _on_thread,
    "thread.run": _on_run,
    "thread.run.step": _on_step,
    "thread.run.step.delta": _on_step_delta,
    "thread.message": _on_message,
    "thread.message.delta": _on_message_delta,
}

BODY_HANDLERS = {kind: OBJECT_HANDLERS[kind] for kind in ("thread", "thread.run", "thread.run.step", "thread.message")}
