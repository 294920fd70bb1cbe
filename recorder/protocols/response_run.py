"""A response as a run: its output items as steps, tool calls and messages of the read model.

One item is one step. What a run has and a response has not is null, never made up. A call that the client is to answer has its
output in the input of the next request; as long as none is known, the run waits for it, whatever its status says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.protocols import objects
from recorder.protocols.conversation import occurrence
from recorder.protocols.errors import ToolError, tool_error
from recorder.protocols.payload import as_list, as_object, as_output, as_seconds, as_text, calls_nothing, is_id
from recorder.protocols.usage import COST_FIELDS, Reading, read, shown
from recorder.protocols.view import EntityView, MergedRun, Shown

Object = dict[str, Any]

CALLS = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "tool_search_call",
        "mcp_approval_request",
    }
)
"""Item types that the client may have to answer."""

_HOSTED: dict[str, Callable[[Object], bool]] = {
    "shell_call": lambda item: as_object(item.get("environment")).get("type") not in (None, "local"),
    "tool_search_call": lambda item: item.get("execution") != "client",
}
"""Where the server answers them itself."""

_OPEN = frozenset({"in_progress", "searching", "interpreting", "generating", "calling", "compacting", "queued"})
_TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})
_NOT_DONE = ("failed", "incomplete")

_SAME = ("model", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "metadata")
_EXTRAS = (
    *("previous_response_id", "conversation", "background", "service_tier", "reasoning", "text", "store", "truncation"),
    *("prompt", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user", "max_tool_calls", "top_logprobs"),
)
_REASONS = {"max_output_tokens": "max_completion_tokens"}
_MESSAGE_REASONS = {"max_output_tokens": "max_tokens", "content_filter": "content_filter"}


class Item(NamedTuple):
    """An output item. final: whether it is as its end left it. where: how to find it, for what is too large to repeat."""

    number: int
    object: Object
    final: bool
    where: Object


def present(run: MergedRun) -> Shown:
    """The Run object, its steps and messages, of what is known of a response."""
    said = run.said
    compaction = run.object.get("object") == "response.compaction"  # what it repeats of the input nobody said anew
    items = [item for item in _items(run) if not compaction or item.object.get("type") != "message"]
    items = [item for item in items if not _is_nothing(item.object)]
    outputs = _outputs(items, run.answered)
    if run.left:
        run.object["status"] = "completed"  # as far as its client wanted it
    completed = run.object.get("status") == "completed"
    pending = [item.object for item in items if completed and _is_pending(item, outputs)]
    reading = read(run.object.get("usage"), run.object.get("model"))
    object = _run(run, pending, reading)
    steps: list[EntityView] = []
    messages: list[EntityView] = []
    taken: set[str] = set()
    for item in items:
        if item.number in outputs.placed:
            continue  # it stands on the step of its call
        id = _id(item.object.get("id"))
        if id is None or id in taken:
            id = f"{run.id}:{item.number}"
        taken.add(id)
        steps.append(_step(run, object, item, id, outputs))
        if item.object.get("type") == "message":
            messages.append(_message(run, object, item, id))
    status = "requires_action" if pending else object["status"]
    return Shown(object, steps, messages, source_object=said or None, status=status, reading=reading)


def answered_call(item: Any) -> tuple[str, Any] | None:
    """(call id, output) where an input or output item answers a call; of an approval (its id, what was said).

    The output is a ToolError where the item says that the call failed.
    """
    if not isinstance(item, dict):
        return None
    id = _answers(item)
    if id is None:
        return None
    if item.get("type") == "mcp_approval_response":
        return id, {"approve": item.get("approve"), "reason": item.get("reason")}
    if item.get("type") == "tool_search_output":
        return id, item.get("tools")
    if item.get("type") == "program_output":
        return id, item.get("output", item.get("result"))
    output = item.get("output")
    return id, ToolError(output) if item.get("status") in _NOT_DONE else output


# The run


def _run(run: MergedRun, pending: list[Object], reading: Reading | None) -> Object:
    response = run.object
    conversation = response.get("conversation")
    error, details = response.get("error"), response.get("incomplete_details")
    reason = as_text(as_object(details).get("reason"))
    status = response.get("status")
    return objects.run(
        run.id,
        created_at=as_seconds(response.get("created_at")),
        thread_id=as_object(conversation).get("id") if isinstance(conversation, dict) else as_text(conversation),
        assistant_id=_assistant(response),
        status=status if isinstance(status, str) else "in_progress" if run.families else None,
        required_action=_required_action(pending),
        last_error={**error, "code": error.get("code"), "message": error.get("message")}
        if isinstance(error, dict)
        else _last_error(error),
        completed_at=as_seconds(response.get("completed_at")),
        incomplete_details={"reason": _REASONS.get(reason or "", reason)} if isinstance(details, dict) else None,
        instructions=as_output(response.get("instructions")),
        **{key: response.get(key) for key in _SAME},
        max_completion_tokens=response.get("max_output_tokens"),
        truncation_strategy={"type": response["truncation"]} if isinstance(response.get("truncation"), str) else None,
        response_format=as_object(response.get("text")).get("format"),
        usage=shown(_usage(response["usage"]), reading.counts) if reading else None,
        extras={key: response[key] for key in _EXTRAS if response.get(key) is not None},
    )


def _assistant(response: Object) -> str | None:
    """The prompt that was used, or the agent (of Foundry) that answered."""
    prompt = as_text(as_object(response.get("prompt")).get("id"))
    agent = as_object(response.get("agent") or response.get("agent_reference"))
    return prompt or as_text(agent.get("id")) or as_text(agent.get("name"))


def _usage(usage: Object) -> Object:
    """The details of a usage under the names that runs have, and what it says of costs."""
    names = {"input_tokens_details": "prompt_tokens_details", "output_tokens_details": "completion_tokens_details"}
    found = {names.get(key, key): value for key, value in usage.items() if key in names or key in COST_FIELDS}
    return {key: value for key, value in found.items() if value is not None}


def _required_action(pending: list[Object]) -> Object | None:
    """What the client has to do about calls that nobody answered; approvals in the way of Azure's agents."""
    if not pending:
        return None
    approvals = [_call(item, None) for item in pending if item.get("type") == "mcp_approval_request"]
    calls = [_call(item, None) for item in pending if item.get("type") != "mcp_approval_request"]
    action: Object = {"type": "submit_tool_outputs" if calls else "submit_tool_approval"}
    if calls:
        action["submit_tool_outputs"] = {"tool_calls": [_without_output(call) for call in calls]}
    if approvals:
        action["submit_tool_approval"] = {"tool_calls": approvals}
    return action


def _without_output(call: Object) -> Object:
    inner = call.get(call["type"])
    return {**call, call["type"]: {key: value for key, value in inner.items() if key != "output"}} if inner else call


# Items


def _items(run: MergedRun) -> Iterator[Item]:
    """The output items, in order: of the response itself where that is final and has any, else as they were accumulated."""
    output = run.said.get("output")
    if run.terminal and isinstance(output, list) and output:
        for index, item in enumerate(output):
            if isinstance(item, dict):
                yield Item(index, item, True, {"pointer": f"/source_object/output/{index}"})
        return
    parts = _parts(run)
    for key, entity in sorted(run.family("items").items(), key=lambda pair: int(pair[0])):
        object = entity.object if entity.terminal else _assembled(entity.object, parts.get(key, []))
        yield Item(int(key), object, entity.terminal, {"position": entity.order[1]})


def _is_nothing(item: Object) -> bool:
    given = {"function_call": "arguments", "custom_tool_call": "input"}.get(str(item.get("type")))
    return given is not None and calls_nothing(item.get("name"), item.get(given))


def _parts(run: MergedRun) -> dict[str, list[tuple[str, int, Object]]]:
    """{output_index: [(kind, number, object) …]} of the parts of items that are not final, in order."""
    annotations: dict[str, list[tuple[int, Object]]] = {}
    for id, annotation in run.family("annotations").items():
        of, _, number = id.rpartition("/")
        annotations.setdefault(of, []).append((int(number), annotation.object))
    found: dict[str, list[tuple[str, int, Object]]] = {}
    for id, part in run.family("parts").items():
        index, kind, number = id.split("/")
        object = part.object
        if id in annotations:
            object = {**object, "annotations": [value for _, value in sorted(annotations[id], key=lambda pair: pair[0])]}
        found.setdefault(index, []).append((kind, int(number), object))
    return {index: sorted(parts, key=lambda part: part[:2]) for index, parts in found.items()}


def _assembled(item: Object, parts: list[tuple[str, int, Object]]) -> Object:
    """An item that is not final, with the parts that it has so far."""
    item = dict(item)
    for kind in ("content", "summary"):
        found = [object for of, _, object in parts if of == kind]
        if found:
            item[kind] = found
    for of, _, object in parts:
        if of in ("arguments", "input", "code"):
            item |= object
    commands = [object.get("command", "") for of, _, object in parts if of == "command"]
    if commands:
        item["action"] = {**as_object(item.get("action")), "commands": commands}
    for of, _, object in parts:
        if of == "operation":
            item["operation"] = {**as_object(item.get("operation")), **object}
        elif of == "shell_output":
            whole = object.get("output")
            have = item["output"] if isinstance(item.get("output"), list) else []
            item["output"] = [*have, *(whole if isinstance(whole, list) else [object])]
    return item


class _Outputs(NamedTuple):
    """by_call: {occurrence() of a call: output}. placed: numbers of the items that answer a call of this same response.

    calls: {number of an item: its occurrence()}.
    """

    by_call: Object
    placed: set[int]
    calls: dict[int, str]

    def of(self, item: Item) -> Any:
        return self.by_call.get(self.calls.get(item.number) or _call_id(item.object) or "")


def _outputs(items: list[Item], answered: Mapping[str, Any]) -> _Outputs:
    """The outputs of calls: those that later requests gave, and those among the items."""
    known: dict[str, str] = {}  # any id of a call → its occurrence
    unanswered: dict[str, list[str]] = {}  # item type → such, in order
    seen: dict[str, int] = {}
    found = _Outputs({}, set(), {})
    for item in items:
        type, call_id = str(item.object.get("type")), _call_id(item.object)
        answer = answered_call(item.object)
        if answer is None:
            if call_id is not None:
                key = found.calls[item.number] = occurrence(seen, call_id)
                known |= {id: key for id in (call_id, _id(item.object.get("id"))) if id}
                unanswered.setdefault(type, []).append(key)
            continue
        id, output = answer
        waiting = unanswered.get(f"{type.removesuffix('_output')}_call", [])
        if id not in known and item.object.get("call_id") is None and waiting:
            id = waiting[0]  # the server's own tools have no call ids: they follow each other
        if known.get(id) in waiting:
            waiting.remove(known[id])
        if id in known:
            found.placed.add(item.number)
        found.by_call[known.get(id, id)] = output
    for id, output in answered.items():
        found.by_call.setdefault(id if id in found.calls.values() else known.get(id, id), output)
    return found


def _answers(item: Object) -> str | None:
    """The id of the call that an item answers."""
    type = item.get("type")
    if type == "mcp_approval_response":
        return _id(item.get("approval_request_id"))
    if isinstance(type, str) and type.endswith("_output"):
        return _id(item.get("call_id")) or _id(item.get("id"))
    return None


def _call_id(item: Object) -> str | None:
    return _id(item.get("call_id")) or _id(item.get("id"))


def _is_pending(item: Item, outputs: _Outputs) -> bool:
    type = as_text(item.object.get("type")) or ""
    hosted = _HOSTED.get(type)
    return type in CALLS and not (hosted and hosted(item.object)) and outputs.calls.get(item.number) not in outputs.by_call


# Steps


def _step(run: MergedRun, object: Object, item: Item, id: str, outputs: _Outputs) -> EntityView:
    of_item = item.object
    type = as_text(of_item.get("type"))
    status = as_text(of_item.get("status"))
    error = of_item.get("error")
    if status is None:
        status = "completed" if item.final else "in_progress"
    elif status in _OPEN:
        status = "in_progress"
    if error is not None and type in ("mcp_call", "mcp_list_tools"):
        status = "failed"
    waits = type == "mcp_approval_request" and _is_pending(item, outputs)
    if waits:
        status = "in_progress"
    derived = object["status"] if status == "in_progress" and object["status"] in _TERMINAL and not waits else None
    step_type, details = _details(item, id, outputs)
    step = objects.step(object, id, step_type, status, details, position=item.number, last_error=_last_error(error))
    return EntityView(id, step, status != "in_progress", derived, (str(item.number),))


def _last_error(error: Any) -> Object | None:
    if error is None:
        return None
    if isinstance(error, dict):
        code = error.get("code") if error.get("code") is not None else error.get("type")
        return {"code": None if code is None else str(code), "message": as_text(error.get("message"))}
    return {"code": None, "message": error if isinstance(error, str) else jsontext.dumps(error)}


def _details(item: Item, id: str, outputs: _Outputs) -> tuple[str, Object]:
    """(step type, step_details) of an item."""
    of_item = item.object
    type = as_text(of_item.get("type"))
    if type == "message":
        return "message_creation", {"type": "message_creation", "message_creation": {"message_id": id}}
    if type == "reasoning":
        thought = {"summary": of_item.get("summary") or [], "content": of_item.get("content") or []}
        thought["encrypted_content"] = of_item.get("encrypted_content")
        return "reasoning", {"type": "reasoning", "reasoning": thought}
    if type in ("mcp_list_tools", "compaction", "additional_tools"):
        return "activities", {"type": "activities", "activities": [_activity(of_item)]}
    if type in _BUILDERS or _answers(of_item) is not None:
        call = _call(of_item, outputs.of(item), item.where)
        return "tool_calls", {"type": "tool_calls", "tool_calls": [call]}
    return "other", {"type": "other", "other": of_item}


def _activity(item: Object) -> Object:
    """An activity as Azure's agents have it: the tools of a server by their names."""
    if item.get("type") != "mcp_list_tools" or not isinstance(item.get("tools"), list):
        return item
    tools = [tool for tool in item["tools"] if isinstance(tool, dict)]
    by_name = {
        str(tool.get("name")): {"description": tool.get("description"), "parameters": tool.get("input_schema")} for tool in tools
    }
    return {**item, "tools": by_name}


def _call(item: Object, output: Any, where: Object | None = None) -> Object:
    """The tool call of an item, in the form that steps have it."""
    type = str(item.get("type"))
    failed = output if isinstance(output, ToolError) else None
    if failed is not None:
        output = failed.output
    if type.endswith("_output"):  # an answer to a call of an earlier response
        if item.get("status") in _NOT_DONE:
            failed = ToolError(item.get("output"))
        type = type.removesuffix("_output")
        type = type if type in _BUILDERS else f"{type}_call"
        output = item.get("output", item.get("tools"))
    elif type == "mcp_approval_response":
        type = "mcp_approval_request"
    call = _BUILDERS.get(type, _other)(item, output, where or {})
    rest = {key: item[key] for key in ("namespace", "caller") if item.get(key) is not None}
    return {"id": _call_id(item), **call, **rest, **({} if failed is None else {"error": tool_error(failed)})}


def _function(item: Object, output: Any, where: Object) -> Object:
    return {
        "type": "function",
        "function": {"name": item.get("name"), "arguments": item.get("arguments"), "output": as_output(output)},
    }


def _custom(item: Object, output: Any, where: Object) -> Object:
    return {"type": "custom", "custom": {"name": item.get("name"), "input": item.get("input"), "output": as_output(output)}}


def _file_search(item: Object, output: Any, where: Object) -> Object:
    search: Object = {"queries": item.get("queries")}
    if isinstance(item.get("results"), list):
        search["results"] = [_result(found) for found in item["results"] if isinstance(found, dict)]
    return {"type": "file_search", "file_search": search}


def _result(found: Object) -> Object:
    result = {"file_id": found.get("file_id"), "file_name": found.get("filename"), "score": found.get("score")}
    if isinstance(found.get("text"), str):
        result["content"] = [{"type": "text", "text": found["text"]}]
    if found.get("attributes"):
        result["attributes"] = found["attributes"]
    return result


def _code_interpreter(item: Object, output: Any, where: Object) -> Object:
    outputs = item.get("outputs")
    return {
        "type": "code_interpreter",
        "code_interpreter": {
            "input": item.get("code") or "",
            "outputs": [
                {"type": "image", "image": {"url": entry.get("url")}} if entry.get("type") == "image" else entry
                for entry in (outputs if isinstance(outputs, list) else ())
                if isinstance(entry, dict)
            ],
            "container_id": item.get("container_id"),
        },
    }


def _web_search(item: Object, output: Any, where: Object) -> Object:
    return {"type": "web_search", "web_search": {"action": item.get("action")}}


def _image_generation(item: Object, output: Any, where: Object) -> Object:
    """The picture stays where it is: in the response, or in the event that brought it."""
    rest = {key: value for key, value in item.items() if key not in ("id", "type", "status", "result")}
    result = item.get("result")
    reference = {"base64_bytes": len(result), **where} if isinstance(result, str) else None
    return {"type": "image_generation", "image_generation": {"result": reference, **rest}}


def _mcp(item: Object, output: Any, where: Object) -> Object:
    fields = ("server_label", "name", "arguments", "output", "error", "approval_request_id")
    return {"type": "mcp", **{key: item.get(key) for key in fields}}


def _mcp_approval(item: Object, output: Any, where: Object) -> Object:
    call = {"type": "mcp", **{key: item.get(key) for key in ("server_label", "name", "arguments")}}
    said = output if isinstance(output, dict) else item
    if isinstance(said.get("approve"), bool):
        call["approve"] = said["approve"]
    return call


def _computer(item: Object, output: Any, where: Object) -> Object:
    kept = {key: item[key] for key in ("action", "actions", "pending_safety_checks") if key in item}
    return {"type": "computer_use_preview", "computer_use_preview": {**kept, "output": output}}


def _other(item: Object, output: Any, where: Object) -> Object:
    """Of tools whose items have no form among the run's: the item's own fields, under its own word."""
    word = str(item.get("type")).removesuffix("_output").removesuffix("_call")
    rest = {key: value for key, value in item.items() if key not in _ELSEWHERE}
    return {"type": word, word: {**rest, "output": output}}


_ELSEWHERE = frozenset({"id", "type", "status", "call_id", "output", "namespace", "caller"})

_BUILDERS: dict[str, Callable[[Object, Any, Object], Object]] = {
    "function_call": _function,
    "custom_tool_call": _custom,
    "file_search_call": _file_search,
    "code_interpreter_call": _code_interpreter,
    "web_search_call": _web_search,
    "image_generation_call": _image_generation,
    "mcp_call": _mcp,
    "mcp_approval_request": _mcp_approval,
    "mcp_approval_response": _mcp_approval,
    "computer_call": _computer,
    "local_shell_call": _other,
    "shell_call": _other,
    "apply_patch_call": _other,
    "tool_search_call": _other,
    "program": _other,
}


# Messages


def _message(run: MergedRun, object: Object, item: Item, id: str) -> EntityView:
    of_item = item.object
    status = as_text(of_item.get("status")) or ("completed" if item.final else "in_progress")
    reason = _MESSAGE_REASONS.get(as_text(as_object(run.object.get("incomplete_details")).get("reason")) or "")
    parts = [_content(part) for part in as_list(of_item.get("content")) if isinstance(part, dict)]
    message = objects.message(
        object, id, of_item.get("role") or "assistant", status, parts, reason if status == "incomplete" else None
    )
    if of_item.get("phase") is not None:
        message["extras"] = {"phase": of_item["phase"]}
    return EntityView(id, message, status in ("completed", "incomplete"), spans=(str(item.number),))


def _content(part: Object) -> Object:
    if part.get("type") == "output_text":
        return {"type": "text", "text": {"value": part.get("text") or "", "annotations": part.get("annotations") or []}}
    if part.get("type") == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal") or ""}
    return part


# Values


def _id(value: Any) -> str | None:
    return value if is_id(value) else None
