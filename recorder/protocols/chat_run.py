"""A chat completion as a run: its choices as steps, tool calls and messages of the read model.

A choice is up to three steps: its reasoning, its message, its tool calls. The API gives a completion no status, so it is made
of what the choices finished with. Calls have their outputs in the next request; as long as one has none, the run waits for it.
What a run has and a completion has not is null, never made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from recorder.protocols import endings, objects
from recorder.protocols.conversation import Call, made_id, occurrence
from recorder.protocols.deltas import whole
from recorder.protocols.endings import Ending
from recorder.protocols.errors import ToolError, error_code, tool_error
from recorder.protocols.payload import as_object, as_output, as_seconds, as_text, calls_nothing, is_id
from recorder.protocols.usage import read, shown
from recorder.protocols.view import EntityView, MergedRun, Shown

Object = dict[str, Any]

REASONING = ("reasoning_content", "reasoning", "reasoning_text")
"""Fields of a message in which servers give the model's reasoning."""

_SAME = ("temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "metadata", "response_format")
_EXTRAS = (
    *("n", "stop", "seed", "user", "store", "logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty"),
    *("reasoning_effort", "verbosity", "modalities", "audio", "prediction", "moderation", "web_search_options"),
    *("functions", "function_call", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
)
ASKED = ("model", *_SAME, "max_completion_tokens", "max_tokens", *_EXTRAS)
"""Fields of a request that its run shows: the answer does not repeat them."""

_MESSAGE_REASONS = {"max_completion_tokens": "max_tokens", "max_prompt_tokens": "max_tokens", "content_filter": "content_filter"}

_CALLED = ("function", "custom")

_BROKEN = ("failed", "incomplete", "cancelled")


class Choice(NamedTuple):
    """number, finish_reason and message as the completion has them; ending: what that reason stands for, None before any.

    calls: (tool call in the form that steps have it, whether the client has yet to answer it). where: a JSON pointer.
    """

    number: int
    finish_reason: str | None
    ending: Ending | None
    message: Object
    calls: list[tuple[Object, bool]]
    where: str

    @property
    def status(self) -> str:
        """in_progress, completed, incomplete, cancelled or failed."""
        return self.ending.status if self.ending else "in_progress"


def present(run: MergedRun) -> Shown:
    """The Run object, its steps and messages, of what is known of a completion."""
    asked = as_object(run.object.get("asked"))
    completion = as_object(run.object.get("completion"))
    if "whole" not in run.object:
        completion = _assembled(completion, run)
    choices = list(_choices(completion, run.answered, run.left))
    usage, model = run.object.get("usage") or _usage(completion), completion.get("model") or asked.get("model")
    reading = read(usage, model)
    error = run.object.get("error")
    pending = [call for choice in choices for call, waits in choice.calls if waits]
    status, reason = _status(run.terminal, choices, bool(error), bool(pending))
    object = objects.run(
        run.id,
        created_at=as_seconds(completion.get("created")),
        status=status,
        required_action=_required_action(pending) if status == "requires_action" else None,
        last_error=_last_error(error, choices) if status == "failed" else None,
        incomplete_details={"reason": reason} if reason else None,
        model=model,
        **{key: asked.get(key) for key in _SAME},
        max_completion_tokens=asked.get("max_completion_tokens", asked.get("max_tokens")),
        usage=shown(usage, reading.counts) if usage and reading else None,
        extras={
            key: found
            for key in _EXTRAS
            if (found := completion["service_tier"] if key == "service_tier" and "service_tier" in completion else asked.get(key))
            is not None
        },
    )
    steps: list[EntityView] = []
    messages: list[EntityView] = []
    for choice in choices:
        steps += _steps(run, object, choice)
        if (message := _message(object, choice)) is not None:
            messages.append(message)
    return Shown(object, steps, messages, completion or None, status, reading, None if error else _decided(run, choices, status))


def calls_of(message: Any) -> Iterator[Call]:
    """The calls of a message."""
    if not isinstance(message, dict):
        return
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else ()), {"function": message.get("function_call")}]:
        if isinstance(call, dict) and (isinstance(call.get("function"), dict) or isinstance(call.get("custom"), dict)):
            inner = as_object(call.get("function")) or as_object(call.get("custom"))
            given = inner.get("arguments", inner.get("input"))
            id = call_id(call.get("id"), inner.get("name"), given)
            yield Call(id, as_text(inner.get("name")), given, id == call.get("id"))


def call_id(id: Any, name: Any, arguments: Any) -> str:
    """The id of a call, or the one that is made for it."""
    return str(id) if is_id(id) else made_id(name, arguments)


# The completion


def _assembled(completion: Object, run: MergedRun) -> Object:
    """The completion that the chunks add up to, in the API's shape."""
    usage = {"usage": completion["usage"]} if "usage" in completion else {}
    rest = {key: value for key, value in completion.items() if key not in ("id", "created", "model", "usage")}
    choices = sorted(run.family("choices").items(), key=lambda pair: int(pair[0]))
    return {
        "id": completion.get("id"),
        "object": "chat.completion",
        "created": completion.get("created"),
        "model": completion.get("model"),
        **rest,
        "choices": [
            {"index": int(key), "finish_reason": None, **choice.object, "message": _assembled_message(run, key)}
            for key, choice in choices
        ],
        **usage,
    }


def _assembled_message(run: MergedRun, key: str) -> Object:
    entity = run.family("messages").get(key)
    if entity is None:
        return {}
    if entity.terminal:
        return entity.object
    message = {"role": "assistant", "content": None, **entity.object}
    thinking, parts = message.pop("thinking", None), message.pop("parts", [])
    if thinking is not None or parts:
        thought = [{"type": "thinking", "thinking": [{"type": "text", "text": thinking}]}] if thinking is not None else []
        said = [{"type": "text", "text": message["content"]}] if message["content"] else []
        message["content"] = [*thought, *said, *parts]
    calls = run.family(f"calls/{key}")
    legacy = calls.get("function_call")
    if legacy is not None:
        message["function_call"] = {key: legacy.object.get(key, "") for key in ("name", "arguments")}
    tool_calls = [call.object for key, call in calls.items() if key != "function_call"]
    if not any("again" in call for call in tool_calls):  # else they are in order as they came
        tool_calls.sort(key=lambda call: int(call["index"]))
    if tool_calls:
        message["tool_calls"] = [_assembled_call(call) for call in tool_calls]
    return message


def _assembled_call(call: Object) -> Object:
    kind = call.get("type") or "function"
    field = "input" if "input" in call and "arguments" not in call else "arguments"
    return {
        "id": call.get("id"),
        "type": kind,
        kind: {"name": call.get("name"), field: call.get(field, "")},
        **call.get("extras", {}),
    }


def _choices(completion: Object, answered: Mapping[str, Any], left: bool) -> Iterator[Choice]:
    choices = completion.get("choices")
    taken: set[int] = set()
    seen: dict[str, int] = {}
    for at, choice in enumerate(choices if isinstance(choices, list) else ()):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index")
        index = index if type(index) is int and index not in taken else at
        while index in taken:
            index += 1
        taken.add(index)
        message = as_object(choice.get("message"))
        finish_reason = endings.said(choice.get("finish_reason"))
        ended = None if finish_reason is None else endings.ending(endings.CHAT, finish_reason)
        if left and ended is None:
            ended = Ending("completed")
        given = ended is not None and (ended.status == "completed" or not ended.known)  # calls that the client has whole
        calls = []
        for call in _tool_calls(message):
            key = occurrence(seen, call["id"])
            calls.append((_with_output(call, answered.get(key)), given and key not in answered))
        yield Choice(index, finish_reason, ended, message, calls, f"/source_object/choices/{at}")


def _tool_calls(message: Object) -> Iterator[Object]:
    """The calls of a message, in the form that steps have them."""
    calls = message.get("tool_calls")
    legacy = message.get("function_call")
    for call in [*(calls if isinstance(calls, list) else ()), *([{"function": legacy}] if isinstance(legacy, dict) else [])]:
        if not isinstance(call, dict):
            continue
        kind = as_text(call.get("type")) or ("custom" if "custom" in call and "function" not in call else "function")
        inner = as_object(call.get(kind))
        if kind in _CALLED and calls_nothing(inner.get("name"), inner.get("arguments") or inner.get("input")):
            continue
        id = call_id(call.get("id"), inner.get("name"), inner.get("arguments", inner.get("input")))
        rest = {key: value for key, value in call.items() if key not in ("index", "id", "type", kind)}
        if kind == "function":
            inner = {"name": inner.get("name"), "arguments": as_output(inner.get("arguments"))}
        yield {"id": id, "type": kind, kind: inner, **rest}


def _with_output(call: Object, output: Any) -> Object:
    if isinstance(output, ToolError):
        return {**_with_output(call, output.output), "error": tool_error(output)}
    return {**call, call["type"]: {**call[call["type"]], "output": as_output(output)}}


# The run


def _status(over: bool, choices: list[Choice], broken: bool, pending: bool) -> tuple[str, str | None]:
    """(status, the reason why it is incomplete) of a run: the worst of its choices."""
    statuses = {choice.status for choice in choices}
    if broken or "failed" in statuses:
        return "failed", None
    if not over:
        return "in_progress", None
    if pending:
        return "requires_action", None
    if "incomplete" in statuses:
        return "incomplete", next(each.reason for choice in choices if (each := choice.ending) and each.reason)
    return "cancelled" if "cancelled" in statuses else "completed", None


def _decided(run: MergedRun, choices: list[Choice], status: str) -> tuple[str, int] | None:
    """The event with the finish_reason of the choice that makes the run fail: others may have ended after it."""
    found = (run.object.get("finished", {}).get(str(choice.number)) for choice in choices if choice.status == status)
    position = next((each for each in found if each is not None), None) if status in _BROKEN else None
    return None if position is None else (run.order[0][2], position)


def _required_action(pending: list[Object]) -> Object:
    calls = [{**call, call["type"]: {k: v for k, v in call[call["type"]].items() if k != "output"}} for call in pending]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def _last_error(error: Any, choices: list[Choice]) -> Object:
    if isinstance(error, dict):
        message = error.get("message")
        return {"code": error_code(error), "message": as_output(message) or "the server gave no reason"}
    choice = next(choice for choice in choices if choice.status == "failed")
    return {"code": choice.finish_reason, "message": f"choice {choice.number} finished with {choice.finish_reason}"}


def _usage(completion: Object) -> Object | None:
    """Token counts as they were said, else what llama.cpp measured."""
    usage, timings = completion.get("usage"), completion.get("timings")
    if isinstance(usage, dict) and usage:
        return usage
    if isinstance(timings, dict) and type(timings.get("predicted_n")) is int:
        said, read, cached = timings["predicted_n"], timings.get("prompt_n"), timings.get("cache_n")
        prompt = read + cached if type(read) is int and type(cached) is int else None  # prompt_n is what was not cached
        return {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": None if prompt is None else prompt + said,
            **({} if prompt is None else {"prompt_tokens_details": {"cached_tokens": cached}}),
        }
    return None


# Steps and messages


def _steps(run: MergedRun, object: Object, choice: Choice) -> Iterator[EntityView]:
    """The steps of a choice, in order; all but the last are done where the next has begun."""
    found: list[tuple[str, Object]] = []
    reasoning = _reasoning(choice.message)
    if reasoning:
        thought = {"summary": [], "content": [{"type": "reasoning_text", "text": reasoning}], "encrypted_content": None}
        found.append(("reasoning", thought))
    if _content(choice.message):
        found.append(("message_creation", {"message_id": f"{run.id}:{choice.number}:message"}))
    if choice.calls:
        found.append(("tool_calls", [call for call, _ in choice.calls]))  # type: ignore[arg-type]
    broken = object["status"] if run.terminal and object["status"] in _BROKEN else None
    for number, (type, details) in enumerate(found, 1):
        id = f"{run.id}:{choice.number}:{type}"
        own = "completed" if number < len(found) else choice.status
        if type == "tool_calls" and any(waits for _, waits in choice.calls):
            own = "in_progress"
        derived = broken if own == "in_progress" else None
        step = objects.step(object, id, type, own, {"type": type, type: details})
        yield EntityView(id, step, own != "in_progress", derived, (f"{choice.number}:{type}",))


def _message(object: Object, choice: Choice) -> EntityView | None:
    content = _content(choice.message)
    if not content:
        return None
    id = f"{object['id']}:{choice.number}:message"
    reason = _MESSAGE_REASONS.get((choice.ending.reason if choice.ending else None) or "")
    own = "incomplete" if choice.status in _BROKEN else choice.status
    message = objects.message(object, id, as_text(choice.message.get("role")) or "assistant", own, content, reason)
    audio = choice.message.get("audio")
    if isinstance(audio, dict):
        kept, sound = {key: audio.get(key) for key in ("id", "expires_at")}, audio.get("data")
        if isinstance(sound, str):  # it stays where it is
            kept["data"] = {"base64_bytes": len(sound), "pointer": f"{choice.where}/message/audio/data"}
        message["extras"] = {"audio": kept}
    return EntityView(id, message, message["status"] != "in_progress")


def _content(message: Object) -> list[Object]:
    """The content of a message: what it says, or what it speaks, and what it refuses."""
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        content = whole("".join(text for text in texts if isinstance(text, str)))
    said = content if isinstance(content, str) and content else as_text(as_object(message.get("audio")).get("transcript"))
    annotations = message.get("annotations")
    found: list[Object] = []
    if said:
        found.append(
            {"type": "text", "text": {"value": said, "annotations": annotations if isinstance(annotations, list) else []}}
        )
    if isinstance(refusal, str) and refusal:
        found.append({"type": "refusal", "refusal": refusal})
    return found


def _reasoning(message: Object) -> str:
    """What the model thought, from the first field that has any of it."""
    for key in REASONING:
        if isinstance(message.get(key), str) and message[key]:
            return str(message[key])
    details, content = message.get("reasoning_details"), message.get("content")
    entries = details if isinstance(details, list) else []
    said = [as_text(entry.get("text")) or as_text(entry.get("summary")) or "" for entry in entries if isinstance(entry, dict)]
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "thinking" and isinstance(part.get("thinking"), list):
            said += [as_text(inner.get("text")) or "" for inner in part["thinking"] if isinstance(inner, dict)]
    return whole("".join(said))
