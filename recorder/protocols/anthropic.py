"""Anthropic's Messages stream → runs, steps, tool calls and messages.

A message is a run, by its own id. Its content blocks come one after the other, each by its index: text is the run's message,
thinking is reasoning, tool_use a call that the client answers in its next request, server_tool_use one that a block named
*_tool_result answers in the same message. The usage of message_delta is cumulative, and input_tokens leave out what was read
from or written to the cache. There is no [DONE]: message_stop is the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recorder import jsontext
from recorder.protocols import endings, objects
from recorder.protocols.conversation import Call, Conversation, Item, Output, Said, conversation, occurrence
from recorder.protocols.deltas import Fragments
from recorder.protocols.errors import ToolError, error_code, error_in, event_of, tool_error
from recorder.protocols.partial import Entity, Part, Partial, Request
from recorder.protocols.payload import as_list, as_object, as_output, as_text, calls_nothing, is_id, value
from recorder.protocols.usage import COST_FIELDS, Reading, follow, read, shown
from recorder.protocols.view import EntityView, MergedRun, Shown

__all__ = ["FOLD_VERSION", "NAME", "begin", "body", "evolve", "matches", "matches_body", "matches_event", "present", "repeats"]

NAME = "anthropic"

FOLD_VERSION = 5

STREAMED = {
    "text_delta": ("text", "text"),
    "input_json_delta": ("partial_json", "input_json"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "compaction_delta": ("content", "content"),
}
"""type of a delta → (its field, the text of the block that it goes on with)."""

_BEGINNINGS = {"text": ("text",), "thinking": ("thinking", "signature"), "compaction": ("content",)}
"""type of a block → the texts that it may begin with."""

_MESSAGE_REASONS = {"max_completion_tokens": "max_tokens", "max_prompt_tokens": "max_tokens", "content_filter": "content_filter"}
_SAME = ("temperature", "top_p", "tools", "tool_choice", "metadata")
_EXTRAS = ("top_k", "stop_sequences", "thinking", "service_tier", "container", "mcp_servers")
_EVENTS = frozenset(
    {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
)

Object = dict[str, Any]


def matches(request: Request) -> bool:
    """Whether the request makes a message: /v1/messages under any prefix."""
    segments = [segment for segment in request.path.split("/") if segment]
    return segments[-2:] == ["v1", "messages"] and request.method in ("POST", "")


def matches_event(type: str, data: str) -> bool:
    """Whether an event can only be this protocol's: one named as its data's type is."""
    return type in _EVENTS and as_object(value(data)).get("type") == type


def matches_body(found: Any) -> bool:
    """Whether a body can only be this protocol's: a message."""
    return isinstance(found, dict) and found.get("type") == "message" and isinstance(found.get("content"), list)


def begin(partial: Partial, request: Request) -> None:
    """What the request alone tells: what it asks for, and the calls that it answers."""
    asked = as_object(request.body)
    partial.asked = {key: asked[key] for key in ("model", "max_tokens", *_SAME, *_EXTRAS) if asked.get(key) is not None}
    partial.answers, partial.before = repeats(request)


def repeats(request: Request) -> Conversation:
    """What the request's messages repeat: the outputs are their tool_result blocks."""
    body = as_object(request.body)
    user = as_object(body.get("metadata")).get("user_id")
    return conversation(_items(body), user if isinstance(user, str) else None)


def _items(body: Object) -> Iterator[Item]:
    yield Said("system", body.get("system"))
    for message in as_list(body.get("messages")):
        role, content = as_object(message).get("role"), as_object(message).get("content")
        blocks = as_list(content) if isinstance(content, list) else [content]
        results = _results(message)
        for block in blocks:
            kind = as_object(block).get("type")
            if kind == "tool_result":
                continue
            if kind == "tool_use" and is_id(as_object(block).get("id")):
                call = as_object(block)
                yield Call(call["id"], as_text(call.get("name")), call.get("input"))
            elif kind in ("thinking", "redacted_thinking"):
                yield Said("assistant", None)  # clients leave out that of earlier turns
            else:
                yield Said(str(role), [block])
        for result in results:  # what a user adds to them comes before: the request ends with them
            content = result.get("content")
            yield Output(result["tool_use_id"], ToolError(content) if result.get("is_error") is True else as_output(content))


def evolve(partial: Partial, position: int, offset_us: int, type: str, data: str) -> None:
    """Fold one event into the partial state, in place."""
    event = event_of(type, data)
    if event is None:
        if data:
            partial.unparsable(position, offset_us, type, data)
        return
    kind = event.get("type") or type
    told = None if kind in _EVENTS else error_in(event, kind == "error")
    if told is not None:
        kind = "error"
        partial.fail({**told, "code": error_code(told)}, position)
    elif kind == "message_start":
        message = as_object(event.get("message"))
        partial.run_key = message["id"] if is_id(message.get("id")) else f"anthropic_{partial.stream_id}"
        part = partial.part(partial.run_key, position, offset_us)
        part.object |= {
            "message": {key: found for key, found in message.items() if key not in ("content", "usage")},
            "asked": partial.asked,
        }
        if usage := as_object(message.get("usage")):
            _on_usage(part, usage)
        part.begun = True
    if partial.run_key is None or kind == "ping":
        return
    part = partial.part(partial.run_key, position, offset_us)
    if kind in ("content_block_start", "content_block_delta", "content_block_stop"):
        _on_block(part, position, offset_us, str(kind), event)
    elif kind == "message_delta":
        _on_message_delta(part, event)
    elif kind == "message_stop":
        part.object["stopped"] = part.terminal = True
    elif kind == "error":
        partial.fail(partial.error or {}, position, part)
        part.object["error"], part.terminal = partial.error, True


def body(partial: Partial, position: int, offset_us: int, found: Any) -> None:
    """Fold a message that came whole."""
    if not matches_body(found):
        return
    partial.run_key = found["id"] if is_id(found.get("id")) else f"anthropic_{partial.stream_id}"
    part = partial.part(partial.run_key, position, offset_us)
    part.object |= {"message": {key: each for key, each in found.items() if key != "content"}, "asked": partial.asked}
    part.terminal = part.begun = True
    _check_reason(part, position)
    part.first_delta_us = part.first_text_us = offset_us
    for at, block in enumerate(found["content"]):
        part.touch(str(at))
        entity = part.family("blocks")[str(at)] = Entity(position)
        entity.object, entity.terminal = as_object(block), True
        _note(part, entity.object)


def present(run: MergedRun) -> Shown:
    """The Run object, its steps and messages, of what is known of a message."""
    asked, message, failure = (as_object(run.object.get(key)) for key in ("asked", "message", "error"))
    blocks = [(key, _whole(block.object)) for key, block in sorted(run.family("blocks").items(), key=lambda each: int(each[0]))]
    content = [block for _, block in blocks]
    blocks = [(index, block) for index, block in blocks if not _is_nothing(block)]
    seen: dict[str, int] = {}
    calls = {index: occurrence(seen, str(block.get("id"))) for index, block in blocks if block.get("type") == "tool_use"}
    given = {index: run.answered[key] for index, key in calls.items() if key in run.answered}
    pending = [block for index, block in blocks if index in calls and index not in given]
    status, reason = _status(message.get("stop_reason"), run.terminal, bool(failure), bool(pending))
    stop_reason = as_text(message.get("stop_reason"))
    broken = {"code": failure.get("code") or stop_reason, "message": failure.get("message") or f"it stopped with {stop_reason}"}
    reading = _usage(message.get("usage"))
    object = objects.run(
        run.id,
        status=status,
        required_action=_required_action(pending) if status == "requires_action" and pending else None,
        last_error=broken if status == "failed" else None,
        incomplete_details=_incomplete_details(reason, message.get("stop_details")),
        model=message.get("model") or asked.get("model"),
        **{key: asked.get(key) for key in _SAME},
        max_completion_tokens=asked.get("max_tokens"),
        usage=shown(_kept(message["usage"]), reading.counts) if reading else None,
        extras={key: asked[key] for key in _EXTRAS if key in asked},
    )
    source = {**message, "content": content}
    said = _message(object, blocks, reason)
    return Shown(object, list(_steps(run, object, blocks, given)), [said] if said else [], source, status, reading)


# Events


def _on_block(part: Part, position: int, offset_us: int, kind: str, event: Object) -> None:
    blocks = part.family("blocks")
    index = event.get("index")
    if index is None:  # blocks come one after the other
        index = len(blocks) if kind == "content_block_start" or not blocks else int(next(reversed(blocks)))
    if type(index) is not int or index < 0:
        part.anomaly(position, "index_gap", f"{kind} with the index {index!r:.20}")
        return
    entity = blocks.get(str(index))
    if entity is None:
        if kind != "content_block_start":
            part.anomaly(position, "delta_without_object", f"{kind} of block {index}, which did not begin")
        if index > len(blocks):
            part.anomaly(position, "index_gap", f"block {index} comes after {len(blocks)} blocks")
        entity = blocks[str(index)] = Entity(position)
    part.touch(str(index))
    if kind == "content_block_start":
        entity.object = dict(as_object(event.get("content_block")))
        for field in _BEGINNINGS.get(str(entity.object.get("type")), ()):  # what a block begins with comes before its deltas
            if isinstance(first := entity.object.pop(field, None), str):
                entity.texts.setdefault(field, Fragments()).add(first)
        _note(part, entity.object)
    elif kind == "content_block_delta":
        delta = as_object(event.get("delta"))
        given, field = STREAMED.get(str(delta.get("type")), ("", ""))
        if isinstance(fragment := delta.get(given), str):
            entity.texts.setdefault(field, Fragments()).add(fragment)
        elif delta.get("type") == "citations_delta":
            if not isinstance(entity.object.get("citations"), list):
                entity.object["citations"] = []
            entity.object["citations"].append(delta.get("citation"))
        if part.first_delta_us is None:
            part.first_delta_us = offset_us
        if part.first_text_us is None and field == "text":
            part.first_text_us = offset_us


def _on_message_delta(part: Part, event: Object) -> None:
    delta, message = as_object(event.get("delta")), part.object.setdefault("message", {})
    message |= delta
    if usage := as_object(event.get("usage")):
        _on_usage(part, usage)
    if endings.said(delta.get("stop_reason")) is not None:
        part.terminal = True
        _check_reason(part, part.last)


def _on_usage(part: Part, usage: Object) -> None:
    """The usage of message_start, and what message_delta says of it: counts are cumulative, null says nothing."""
    message = part.object["message"]
    have = message["usage"] = as_object(message.get("usage"))
    if fell := follow(have, usage):
        part.anomaly(part.last, "usage_fell", ", ".join(fell))


def _check_reason(part: Part, position: int) -> None:
    reason = endings.said(part.object["message"].get("stop_reason"))
    if reason is not None and not endings.is_known(endings.ANTHROPIC, reason):
        part.anomaly(position, "unknown_finish_reason", f"the message stopped with {reason}")


def _note(part: Part, block: Object) -> None:
    """Note a call that the client is to answer."""
    if block.get("type") == "tool_use" and is_id(block.get("id")) and block["id"] not in part.calls:
        part.calls.append(block["id"])


# The run


def _status(stop_reason: Any, over: bool, broken: bool, pending: bool) -> tuple[str, str | None]:
    """(status, the reason why it is incomplete)"""
    reason = endings.said(stop_reason)
    if broken:
        return "failed", None
    if reason is None:
        return ("completed" if over else "in_progress"), None
    found = endings.ending(endings.ANTHROPIC, reason)
    if pending and (found.status == "completed" or not found.known):
        return "requires_action", None  # a stop reason that says nothing of the calls (others' models): the client has them whole
    return found.status, found.reason


def _incomplete_details(reason: str | None, details: Any) -> Object | None:
    """Why it is incomplete; of a refusal also what kind it is, and the words that explain it."""
    given = as_object(details)
    more = {"category": given.get("category"), "message": given.get("explanation")}
    return {"reason": reason, **{key: found for key, found in more.items() if found is not None}} if reason else None


def _usage(usage: Any) -> Reading | None:
    """Token counts as OpenAI's count."""
    reading = read(usage, dialect="anthropic")
    return None if reading is None or reading.counts.prompt is reading.counts.completion is None else reading


def _kept(usage: Object) -> Object:
    """What a usage says of costs, and of what was billed one by one."""
    return {key: usage[key] for key in (*COST_FIELDS, "iterations") if usage.get(key) is not None}


def _required_action(pending: list[Object]) -> Object:
    calls = [
        {
            "id": each.get("id"),
            "type": "function",
            "function": {"name": each.get("name"), "arguments": as_output(each.get("input"))},
        }
        for each in pending
    ]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def _is_nothing(block: Object) -> bool:
    return block.get("type") == "tool_use" and calls_nothing(block.get("name"), block.get("input"))


def _whole(block: Object) -> Object:
    """A block as the API gives it whole: its input read from what was streamed of it."""
    streamed = block.get("input_json")
    if not isinstance(streamed, str):
        return block
    rest = {key: each for key, each in block.items() if key != "input_json"}
    if not streamed:
        return rest
    try:
        return {**rest, "input": jsontext.loads(streamed)}
    except jsontext.JSONError:  # it was cut off
        return {**rest, "input": streamed}


# Steps and messages


def _steps(run: MergedRun, object: Object, blocks: list[tuple[str, Object]], given: Mapping[str, Any]) -> Iterator[EntityView]:
    """The steps, in the order of the blocks that they begin with; all but the last are done where the next has begun.

    given: {index of a tool_use block: its output}.
    """
    results: dict[str, Object] = {}
    told: dict[str, tuple[str, int]] = {}
    for index, block in blocks:
        if str(block.get("type")).endswith("_tool_result") and is_id(block.get("tool_use_id")):
            results[block["tool_use_id"]], told[block["tool_use_id"]] = block, run.family("blocks")[index].first
    found: list[tuple[list[str], str, Any]] = []  # (indexes, type, details)
    said = False
    for index, block in blocks:
        kind = str(block.get("type"))
        if kind in ("thinking", "redacted_thinking"):
            thought = [{"type": "reasoning_text", "text": as_text(block.get("thinking")) or ""}] if kind == "thinking" else []
            hidden = block.get("data") or block.get("signature") or None
            found.append(([index], "reasoning", {"summary": [], "content": thought, "encrypted_content": hidden}))
        elif kind == "text":
            if not said:
                said = True
                found.append(([index], "message_creation", {"message_id": f"{run.id}:message"}))
        elif kind == "compaction":
            found.append(([index], "activities", [block]))
        elif kind.endswith("tool_use"):
            call = _call(block, given.get(index), results)
            if found and found[-1][1] == "tool_calls":
                found[-1][0].append(index)
                found[-1][2].append(call)
            else:
                found.append(([index], "tool_calls", [call]))
    waits = {index for index, block in blocks if block.get("type") == "tool_use"} - set(given)
    ended = "completed" if run.terminal else "in_progress"
    over = object["status"] if object["status"] in ("failed", "incomplete", "cancelled") else ended
    for number, (indexes, type, details) in enumerate(found, 1):
        id = f"{run.id}:{indexes[0]}:{type}"
        own = "completed" if number < len(found) else over
        if type == "tool_calls" and own == "completed" and not waits.isdisjoint(indexes):
            own = "in_progress"
        step = objects.step(object, id, type, own, {"type": type, type: details})
        calls = details if type == "tool_calls" else []
        shown_by = {place: told[call["id"]] for place, call in enumerate(calls) if is_id(call["id"]) and call["id"] in told}
        yield EntityView(id, step, own != "in_progress", spans=tuple(indexes), results=shown_by)


def _call(block: Object, output: Any, results: Mapping[str, Object]) -> Object:
    """A call in the form that steps have it; one that the server ran is of the type of its tool."""
    id, name = block.get("id"), block.get("name")
    if block.get("type") == "tool_use":
        told = as_output(output.output if isinstance(output, ToolError) else output)
        function = {"name": name, "arguments": as_output(block.get("input")), "output": told}
        return {"id": id, "type": "function", "function": function, **_error(tool_error(output))}
    result = results.get(id) if isinstance(id, str) else None
    failed = _error(_result_error(result))
    output = None if result is None else as_output(result.get("content"))
    if block.get("type") == "mcp_tool_use":
        given = {"name": name, "arguments": as_output(block.get("input")), "output": output}
        return {"id": id, "type": "mcp", "server_label": block.get("server_name"), **given, **failed}
    kind = name if isinstance(name, str) and name not in ("id", "type") else "server_tool"
    return {"id": id, "type": kind, kind: {"name": name, "arguments": as_output(block.get("input")), "output": output}, **failed}


def _error(told: Object | None) -> Object:
    return {} if told is None else {"error": told}


def _result_error(result: Object | None) -> Object | None:
    """What a result block of a tool that the server ran says that failed: `is_error`, or a content that is an error."""
    content = None if result is None else result.get("content")
    if result is not None and result.get("is_error") is True:
        return tool_error(ToolError(content))
    if isinstance(content, dict) and (str(content.get("type")).endswith("_error") or content.get("error_code")):
        return {"code": as_text(content.get("error_code")), "message": as_text(content.get("error_message"))}
    return None


def _message(object: Object, blocks: list[tuple[str, Object]], reason: str | None) -> EntityView | None:
    texts = [block for _, block in blocks if block.get("type") == "text"]
    if not texts:
        return None
    status = str(object["status"])
    own = {"failed": "incomplete", "cancelled": "incomplete", "requires_action": "completed"}.get(status, status)
    content = [
        {"type": "text", "text": {"value": as_text(each.get("text")) or "", "annotations": as_list(each.get("citations"))}}
        for each in texts
    ]
    message = objects.message(object, f"{object['id']}:message", "assistant", own, content, _MESSAGE_REASONS.get(reason or ""))
    return EntityView(message["id"], message, own != "in_progress")


# The next request


def _results(message: Any) -> list[Object]:
    """The tool_result blocks of a message."""
    blocks = as_list(as_object(message).get("content"))
    found = [block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result"]
    return [block for block in found if is_id(block.get("tool_use_id"))]
