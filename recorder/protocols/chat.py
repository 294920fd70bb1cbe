"""The Chat Completions stream of OpenAI, and of all who speak it: chunks → partial states. What it shows as is in chat_run.py.

The shapes are those of OpenAI's API description (openai-openapi 2.3.0) and openai-python 3.54; what it leaves open follows
real streams. The rules of the fold:

1. A run is its stream: completion ids are not unique, and some servers send none, or another in every chunk.
2. A choice is found by its index, never by its place in the list, and a chunk need not have any.
3. A tool call is found by its choice and index; without one, a new id begins a new call and anything else extends the last.
   An index that comes back with another id and a name is another call: some servers count each call from 0.
4. Texts and arguments are joined; of anything else that is not null the last counts, but of a finish_reason, an id, a name
   of a model and a time the first.
5. Usage is wherever a server puts it, the last that is not null; where none is, it is unknown.
6. A run is over when as many choices have finished as were asked for, or all that there are at [DONE], or with an error.
   Without a finish_reason its end is unknown, whatever the connection says.

Obfuscation and padding are not folded; they stay in the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.protocols import deltas, endings
from recorder.protocols.chat_run import ASKED, REASONING, call_id, calls_of, present
from recorder.protocols.conversation import ANSWERS_LIMIT, Conversation, Item, Output, Said, conversation
from recorder.protocols.deltas import Fragments
from recorder.protocols.errors import ToolError, error_in, event_of
from recorder.protocols.partial import Entity, Part, Partial, Request
from recorder.protocols.payload import as_list, as_object, as_text, is_id, stamp, value
from recorder.protocols.usage import follow

__all__ = ["FOLD_VERSION", "NAME", "begin", "body", "evolve", "matches", "matches_body", "matches_event", "present", "repeats"]

NAME = "chat"

FOLD_VERSION = 4

_SCOPE = ("user", "safety_identifier", "prompt_cache_key")
"""Fields of a request that differ from user to user, or from conversation to conversation."""

STREAMED = frozenset({"content", "refusal", *REASONING})
"""Strings of a delta that are joined."""

_INNER = frozenset({("audio", "transcript"), ("audio", "data")}) | {
    ("reasoning_details", field) for field in ("text", "summary", "data")
}
"""The same further down, as (parent key, key)."""

_FIRST = frozenset({"id", "created", "model"})
_ELSEWHERE = frozenset({"choices", "object", "usage", "obfuscation", "p"})
_ELSEWHERE_OF_CHOICE = frozenset({"index", "delta", "message", "logprobs", "finish_reason", "usage", "error"})

_BODY_KEYS = frozenset({"messages", "model", "stream"})

Object = dict[str, Any]


def matches(request: Request) -> bool:
    """Whether the request makes a completion, or gets, changes or deletes a stored one: /chat/completions under any prefix."""
    segments = [segment for segment in request.path.split("/") if segment]
    if "completions" not in segments[1:] or segments[(at := segments.index("completions", 1)) - 1] != "chat":
        return False
    if len(segments) == at + 1 and request.method in ("POST", ""):
        return not isinstance(request.body, dict) or not _BODY_KEYS.isdisjoint(request.body)
    return len(segments) <= at + 3


def matches_event(type: str, data: str) -> bool:
    """Whether an event can only be this protocol's: a chunk."""
    if type not in ("", "message") or '"choices"' not in data:
        return False
    found = value(data)
    if not isinstance(found, dict) or not isinstance(found.get("choices"), list):
        return False
    with_delta = any(isinstance(choice, dict) and isinstance(choice.get("delta"), dict) for choice in found["choices"])
    return with_delta or found.get("object") == "chat.completion.chunk" or "prompt_filter_results" in found


def matches_body(found: Any) -> bool:
    """Whether a body can only be this protocol's: a completion."""
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list):
        return False
    return found.get("object") == "chat.completion" or any(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices
    )


def begin(partial: Partial, request: Request) -> None:
    """What the request alone tells: what it asks for, and the calls that it answers."""
    segments = [segment for segment in request.path.split("/") if segment]
    if "completions" in segments[:-1] or request.method not in ("POST", ""):
        partial.asked = None  # what it is about was made by another request
        return
    asked = request.body if isinstance(request.body, dict) else {}
    partial.asked = {key: asked[key] for key in ASKED if asked.get(key) is not None}
    partial.answers, partial.before = repeats(request)


def repeats(request: Request) -> Conversation:
    """What the request's messages repeat; an output without an id is of a call before it that has none either."""
    body = as_object(request.body)
    return conversation(_items(as_list(body.get("messages"))), {key: body[key] for key in _SCOPE if body.get(key)})


def _items(messages: Iterable[Any]) -> Iterator[Item]:
    for message in messages:
        role = as_object(message).get("role")
        if role in ("tool", "function"):
            id = message.get("tool_call_id")
            said = message.get("content")
            failed = True in (message.get("is_error"), message.get("isError"))
            yield Output(id if is_id(id) else None, ToolError(said) if failed else said, as_text(message.get("name")))
        elif isinstance(role, str):
            yield Said("system" if role == "developer" else role, message.get("content"))
            if role == "assistant":
                yield from calls_of(message)


def evolve(partial: Partial, position: int, offset_us: int, type: str, data: str) -> None:
    """Fold one event into the partial state, in place."""
    if partial.asked is None:
        return
    if data[:6] == "[DONE]":
        if (part := _known(partial, position, offset_us)) is not None:
            part.object["done"] = True
            _settle(part)
        return
    event = event_of(type, data)
    if event is None:
        if data:
            partial.unparsable(position, offset_us, type, data)
        return
    choices = event.get("choices")
    if choices is not None or "usage" in event or str(event.get("object")).startswith("chat.completion"):
        part = _part(partial, position, offset_us)
        if part.object.get("done"):
            part.anomaly(position, "delta_after_end", "a chunk after [DONE]")
        else:
            _on_chunk(part, position, offset_us, event, choices if isinstance(choices, list) else [])
    if not choices or '"error"' in data or type == "error" or "base_resp" in event:
        _on_error(partial, position, offset_us, error_in(event, type == "error"))


def body(partial: Partial, position: int, offset_us: int, found: Any) -> None:
    """Fold a completion that came whole."""
    if partial.asked is None:
        return
    if not matches_body(found):
        return
    part = _part(partial, position, offset_us)
    choices = [choice for choice in found["choices"] if isinstance(choice, dict)]
    part.object |= {"completion": found, "whole": True, "done": True}
    if not found.get("usage"):
        part.object["usage"] = next((usage for _, usage in _usages(found, choices)), None)
    reasons = [endings.said(choice.get("finish_reason")) for choice in choices]
    part.object["open"] = reasons.count(None)
    part.created = stamp(found.get("created"))
    part.first_delta_us = part.first_text_us = offset_us
    part.families = {"choices": {str(at): Entity(position) for at in range(len(choices))}}
    for choice in choices:
        for call in calls_of(choice.get("message")):
            _note(part, call.id)
    for at, reason in enumerate(reasons):
        _check_reason(part, Spot(position, offset_us, str(at)), reason)
    _settle(part)
    _on_error(partial, position, offset_us, error_in(found))


class Spot(NamedTuple):
    """Where a chunk stands: position and offset, and which choice of it is meant."""

    position: int
    offset_us: int
    choice: str


def _known(partial: Partial, position: int, offset_us: int) -> Part | None:
    """The part of the stream's run, where there is one."""
    return partial.part(partial.run_key, position, offset_us) if partial.run_key in partial.parts else None


def _part(partial: Partial, position: int, offset_us: int) -> Part:
    """The part of the stream's run, with what its request asked for."""
    part = _known(partial, position, offset_us)
    if part is None:
        partial.run_key = f"chat_{partial.stream_id}"
        part = partial.part(partial.run_key, position, offset_us)
        part.object = {"asked": partial.asked, "completion": {}, "open": 0}  # open: choices that have not finished
        partial.asked = {}
    return part


def _settle(part: Part) -> None:
    """Whether the run is over, as far as this stream tells."""
    choices = part.family("choices")
    asked = part.object["asked"].get("n")
    enough = bool(part.object.get("done")) or len(choices) >= (asked if type(asked) is int else 1)
    part.terminal = "error" in part.object or (enough and bool(choices) and not part.object["open"])


def _on_error(partial: Partial, position: int, offset_us: int, told: Object | None) -> None:
    if told is None:
        return
    part = _known(partial, position, offset_us)
    partial.fail(told, position, part)
    if part is not None:
        part.object["error"] = told
        _settle(part)


def _on_chunk(part: Part, position: int, offset_us: int, chunk: Object, choices: list[Any]) -> None:
    completion = part.object["completion"]
    for key, found in chunk.items():
        if found is None or key in _ELSEWHERE:
            continue
        if key not in _FIRST:
            completion[key] = found
        elif found and not completion.get(key):
            completion[key] = found
            if key == "created":
                part.created = stamp(found)
        elif key == "id" and found and found != completion["id"] and "ids" not in part.object:
            part.object["ids"] = "differ"
            part.anomaly(position, "id_changed", f"{completion['id']!s:.100}, then {found!s:.100}, in the middle of one stream")
    for holder, usage in _usages(chunk, choices):
        _on_usage(part, position, holder, usage)
    for at, choice in enumerate(choices):
        if isinstance(choice, dict):
            index = choice.get("index")
            number = index if type(index) is int and 0 <= index < deltas.INDEX_LIMIT else at
            _on_choice(part, Spot(position, offset_us, str(number)), choice)


def _usages(chunk: Object, choices: list[Any]) -> Iterator[tuple[str, Object]]:
    """(where it is, usage) of what a chunk says: its own, else those of its choices (Moonshot), else that in x_groq."""
    own, groq = chunk.get("usage"), chunk.get("x_groq")
    if isinstance(own, dict) and own:
        yield "chunk", own
        return
    found = False
    for at, choice in enumerate(choices):
        usage = choice.get("usage") if isinstance(choice, dict) else None
        if isinstance(usage, dict) and usage:
            found = True
            yield f"choice {choice.get('index', at)}", usage
    usage = groq.get("usage") if isinstance(groq, dict) else None
    if isinstance(usage, dict) and usage and not found:
        yield "x_groq", usage


def _on_usage(part: Part, position: int, holder: str, usage: Object) -> None:
    """Counts are cumulative where they are repeated in one place; in another place they are told again."""
    completion, have = part.object["completion"], {}
    if part.object.get("usage_of") == holder:
        have = completion["usage"]
    part.object["usage_of"] = holder
    if fell := follow(have, usage):
        part.anomaly(position, "usage_fell", ", ".join(fell))
    completion["usage"] = have


def _on_choice(part: Part, spot: Spot, choice: Object) -> None:
    choices = part.family("choices")
    entity = choices.get(spot.choice)
    if entity is None:
        entity = choices[spot.choice] = Entity(spot.position)
        part.family("messages")[spot.choice] = Entity(spot.position)
        part.object["open"] += 1
        _settle(part)
    message = part.family("messages")[spot.choice]
    own = entity.object
    for key, found in choice.items():
        if found is None or key in _ELSEWHERE_OF_CHOICE:
            continue
        if isinstance(found, dict) and isinstance(own.get(key), dict):
            own[key] = {**own[key], **found}  # of content_filter_results each chunk may have some
        else:
            own[key] = found
    _on_logprobs(own, choice.get("logprobs"))
    delta, whole, reason = choice.get("delta"), choice.get("message"), choice.get("finish_reason")
    if isinstance(delta, dict) and delta:
        _on_delta(part, spot, message, delta, own.get("finish_reason") is not None)
    elif isinstance(whole, dict) and whole and delta is None:
        _replace_texts(part, spot, message, whole)
        message.object, message.terminal = whole, True
        for call in calls_of(whole):
            _note(part, call.id)
    finish_reason = None if reason is None else endings.said(reason)
    if finish_reason is not None:
        if own.get("finish_reason") is None:
            own["finish_reason"] = finish_reason
            part.object["open"] -= 1
            part.object.setdefault("finished", {})[spot.choice] = spot.position
            _check_reason(part, spot, finish_reason)
            _on_finish(part, spot)
            if isinstance(whole, dict) and isinstance(delta, dict) and whole.get("content") != delta.get("content"):
                _replace_texts(part, spot, message, whole)  # perplexity sends the whole beside each delta, writer a copy of it
        elif finish_reason != own["finish_reason"]:
            detail = f"choice {spot.choice} finished with {own['finish_reason']}, then with {finish_reason}"
            part.anomaly(spot.position, "illegal_transition", detail)


def _check_reason(part: Part, spot: Spot, reason: str | None) -> None:
    if reason is not None and not endings.is_known(endings.CHAT, reason):
        part.anomaly(spot.position, "unknown_finish_reason", f"choice {spot.choice} finished with {reason}")


def _on_finish(part: Part, spot: Spot) -> None:
    for call in part.family(f"calls/{spot.choice}").values():
        if not is_id(call.object.get("id")):
            arguments = call.texts["arguments"].text() if "arguments" in call.texts else ""
            _note(part, call_id(None, call.object.get("name"), arguments))
    _settle(part)


def _on_logprobs(choice: Object, logprobs: Any) -> None:
    if isinstance(logprobs, dict):
        have = choice.setdefault("logprobs", {})
        for key, found in logprobs.items():
            if isinstance(found, list) and isinstance(have.get(key), list):
                have[key].extend(found)
            elif found is not None or key not in have:
                have[key] = list(found) if isinstance(found, list) else found


def _replace_texts(part: Part, spot: Spot, message: Entity, whole: Object) -> None:
    """The final texts replace what was accumulated of them, and should be the same."""
    for key in ("content", "refusal"):
        final = whole.get(key)
        if key in message.texts and isinstance(final, str) and final and message.texts[key].text() != final:
            detail = f"choice {spot.choice}: deltas do not add up to the final {key}"
            part.anomaly(spot.position, "delta_mismatch", detail)
            message.texts[key] = Fragments([[None, [final]]])


# Deltas


def _on_delta(part: Part, spot: Spot, message: Entity, delta: Object, finished: bool) -> None:
    if message.terminal:
        part.anomaly(spot.position, "delta_after_end", f"choice {spot.choice}: a delta after its whole message")
        return
    rest: Object = {}
    grown: dict[str, None] = {}  # the kinds of steps whose texts grew, in the order in which they did: a state must not vary
    for key, found in delta.items():
        if found is None:
            continue
        if key in STREAMED and type(found) is str:
            if _add(message, key, found):
                grown["reasoning" if key in REASONING else "message_creation"] = None
        elif key == "content" and isinstance(found, list):
            if _on_parts(message, found):
                grown["message_creation"] = None
        elif key == "tool_calls" and isinstance(found, list):
            if _on_calls(part, spot, found):
                grown["tool_calls"] = None
        elif key == "function_call" and isinstance(found, dict):
            call = part.family(f"calls/{spot.choice}").setdefault("function_call", Entity(spot.position))
            if _on_body(call, found, "arguments"):
                grown["tool_calls"] = None
        elif isinstance(found, list) and not any(isinstance(entry, dict) and "index" in entry for entry in found):
            message.object.setdefault(key, []).extend(found)
        else:
            rest[key] = found
    if rest:
        deltas.merge(message.delta, rest, _INNER, _unheard)
        if "audio" in rest:
            grown["message_creation"] = None
    if grown and part.first_delta_us is None:
        part.first_delta_us = spot.offset_us
    if "message_creation" in grown and part.first_text_us is None:
        part.first_text_us = spot.offset_us
    for step in grown:
        part.touch(f"{spot.choice}:{step}")
    if grown and finished:
        part.anomaly(spot.position, "delta_after_end", f"choice {spot.choice}: a delta after its finish_reason")


def _unheard(kind: str, detail: str) -> None:
    """What is wrong with the indices of lists that are not OpenAI's is nobody's fault."""


def _add(entity: Entity, field: str, fragment: str) -> bool:
    """Extend a text; whether it grew."""
    text = entity.texts.get(field)
    if text is None:
        text = entity.texts[field] = Fragments()
    elif not fragment:
        return False
    text.add(fragment)
    return bool(fragment)


def _on_parts(message: Entity, parts: Iterable[Any]) -> bool:
    """Content as a list: texts, and the thinking of Mistral's models."""
    grown = False
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "thinking" and isinstance(part.get("thinking"), list):
            texts = (inner.get("text") for inner in part["thinking"] if isinstance(inner, dict))
            for text in texts:
                grown = (isinstance(text, str) and _add(message, "thinking", text)) or grown
        elif kind == "text" and isinstance(part.get("text"), str):
            grown = _add(message, "content", part["text"]) or grown
        else:
            message.object.setdefault("parts", []).append(part)
    return grown


# Tool calls


def _on_calls(part: Part, spot: Spot, entries: list[Any]) -> bool:
    grown = bare = False
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        call = _call(part, spot, entry, bare)
        bare = bare or type(entry.get("index")) is not int
        if isinstance(entry.get("id"), str) and not is_id(call.object.get("id")):
            call.object["id"] = entry["id"]
            if is_id(entry["id"]):
                _note(part, entry["id"])
        if isinstance(entry.get("type"), str) and entry["type"]:
            call.object["type"] = entry["type"]
        for kind, field in (("function", "arguments"), ("custom", "input")):
            if isinstance(entry.get(kind), dict):
                call.object.setdefault("type", kind)
                grown = _on_body(call, entry[kind], field) or grown
        extras = {key: found for key, found in entry.items() if key not in _OF_CALL and found is not None}
        if extras:
            call.object["extras"] = {**call.object.get("extras", {}), **extras}
    return grown


_OF_CALL = frozenset({"index", "id", "type", "function", "custom"})


def _on_body(call: Entity, body: Object, field: str) -> bool:
    """The name of a call and a piece of its arguments; whether there was any."""
    name, given = body.get("name"), body.get(field)
    if isinstance(name, str) and name:
        have = call.object.get("name") or ""
        if name != have:  # some repeat it, and some send it in pieces
            call.object["name"] = have + name
    if isinstance(given, (dict, list)):
        given = jsontext.dumps(given)  # some send it as what it should be the text of
    grown = _add(call, field, given) if isinstance(given, str) else False
    return grown or bool(name)


def _call(part: Part, spot: Spot, entry: Object, bare: bool) -> Entity:
    """The call that an entry of tool_calls is of (rule 3). bare: an entry before it in the same list had no index."""
    calls = part.family(f"calls/{spot.choice}")
    id = entry.get("id") if is_id(entry.get("id")) else None
    name = next((entry[key].get("name") for key in ("function", "custom") if isinstance(entry.get(key), dict)), None)
    index = entry.get("index")
    last = next(reversed(calls.values()), None)
    if type(index) is not int:
        if id is not None:
            found = next((call for call in islice(reversed(calls.values()), ANSWERS_LIMIT) if call.object.get("id") == id), None)
            if found is None and not name and last is not None and last.object.get("name"):
                part.anomaly(spot.position, "id_changed", f"choice {spot.choice}: a call without a name, {id:.100}")
                found = last  # a piece of it under an id of its own
        else:
            another = last is not None and bool(last.texts) and bool(name) and name != last.object.get("name")
            found = None if another or (bare and name) else last
        return found or _new_call(calls, spot, f"-/{len(calls)}", len(calls))
    first = calls.get(f"{index}/0")
    if first is None:
        if index > len(calls) or index < 0:
            part.anomaly(spot.position, "index_gap", f"choice {spot.choice}: tool call {index} after {len(calls)} others")
        return _new_call(calls, spot, f"{index}/0", index)
    again = first.object.get("again", 0)
    current = calls[f"{index}/{again}"]
    known = current.object.get("id")
    if id is None or not is_id(known) or id == known:
        return current
    detail = f"choice {spot.choice}: tool call {index} was {known:.100}, then {id:.100}"
    if not name:
        part.anomaly(spot.position, "id_changed", detail)
        return current
    part.anomaly(spot.position, "index_reused", detail)
    first.object["again"] = again + 1
    return _new_call(calls, spot, f"{index}/{again + 1}", index)


def _new_call(calls: dict[str, Entity], spot: Spot, key: str, index: int) -> Entity:
    call = calls[key] = Entity(spot.position)
    call.object["index"] = index
    return call


def _note(part: Part, id: str) -> None:
    """Remember a call that the client may answer."""
    if id not in part.calls[-ANSWERS_LIMIT:]:
        part.calls.append(id)
