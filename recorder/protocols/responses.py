"""The Responses stream of OpenAI, and of all who speak it: events → partial states. What it shows as is in response_run.py.

The shapes are those of OpenAI's API description (openai-openapi 2.3.0) and openai-python 3.54; what it leaves open follows
real streams. The rules of the fold:

1. The type in the payload counts, the event's name only where that is missing.
2. An item is located by its output_index, never by its id, which changes between events on several servers.
3. `added` is a skeleton, deltas extend it, `done` replaces the part, output_item.done the item, and the response of a final
   event everything; unless its output is empty, which some gateways send: then the accumulated items stay.
4. Sequence numbers are optional. Where they are, a delta whose number was seen is the same delta again: one response may have
   several connections that overlap. Numbers that are missing in all of them are an anomaly.
5. The response is found by its id in payloads or in the URL; an event without an id is of the response of its connection.
6. What deltas add up to is compared with the text that ends them, where this stream has all of them.

Obfuscation, keep-alives and the pictures of partial images are not folded; they stay in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from recorder.protocols import endings
from recorder.protocols.conversation import ANSWERS_LIMIT, Call, Conversation, Item, Output, Said, conversation
from recorder.protocols.deltas import Fragments
from recorder.protocols.errors import error_in, event_of
from recorder.protocols.partial import STREAM, UNNUMBERED, Entity, Part, Partial, Request
from recorder.protocols.payload import as_object, as_text, is_id, stamp, value
from recorder.protocols.response_run import CALLS, answered_call, present
from recorder.protocols.usage import follow

__all__ = ["FOLD_VERSION", "NAME", "begin", "body", "evolve", "matches", "matches_body", "matches_event", "present", "repeats"]

NAME = "responses"

FOLD_VERSION = 4

TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})

# What may follow which status; after one that is not listed anything may.
TRANSITIONS: dict[str, frozenset[str]] = {
    "queued": frozenset({"queued", "in_progress"}) | TERMINAL,
    "in_progress": frozenset({"in_progress"}) | TERMINAL,
} | {status: frozenset({status}) for status in TERMINAL}

_FUNCTIONS = frozenset({"function_call", "custom_tool_call", "mcp_approval_request"})
"""Calls that have a name and arguments."""

_SCOPE = ("user", "safety_identifier", "prompt_cache_key")
"""Fields of a request that differ from user to user, or from conversation to conversation."""

COMPACTION = "response.compaction"
"""The object that /responses/compact answers with: no response, but billed like one."""

NO_IDS = frozenset({"cancel", "compact", "count_tokens", "input_items", "input_tokens"})
"""What stands in the place of an id in the paths of calls about no response."""

_BODY_KEYS = frozenset({"model", "input", "previous_response_id", "conversation", "prompt", "instructions", "tools"})

UNINDEXED = "unindexed"
"""The family of what says where an item is that events without an output_index name: {id of an item: its index}."""

Event = dict[str, Any]


class Streamed(NamedTuple):
    """Where the text of a delta goes: a field of a part of its item.

    part: the kind of the part, a list of the item, or the item's own field. number: the key of the part's number, where it has
    one. item_type, part_type: what these are where no event has said so.
    """

    field: str
    item_type: str
    part: str
    number: str = ""
    part_type: str = ""


_CONTENT = ("content", "content_index")
_SUMMARY = ("summary", "summary_index")

STREAMED: dict[str, Streamed] = {
    "response.output_text": Streamed("text", "message", *_CONTENT, "output_text"),
    "response.refusal": Streamed("refusal", "message", *_CONTENT, "refusal"),
    "response.reasoning_text": Streamed("text", "reasoning", *_CONTENT, "reasoning_text"),
    "response.reasoning_summary_text": Streamed("text", "reasoning", *_SUMMARY, "summary_text"),
    "response.function_call_arguments": Streamed("arguments", "function_call", "arguments"),
    "response.custom_tool_call_input": Streamed("input", "custom_tool_call", "input"),
    "response.mcp_call_arguments": Streamed("arguments", "mcp_call", "arguments"),
    "response.code_interpreter_call_code": Streamed("code", "code_interpreter_call", "code"),
    "response.shell_call_command": Streamed("command", "shell_call", "command", "command_index"),
    "response.apply_patch_call_operation_diff": Streamed("diff", "apply_patch_call", "operation"),
}
"""Event names without their .delta or .done."""

_COMPARED = frozenset({"arguments", "input", "code"})


def matches(request: Request) -> bool:
    """Whether the request makes, gets or cancels a response: /responses under any prefix."""
    segments = [segment for segment in request.path.split("/") if segment]
    if "responses" not in segments:
        return False
    after = segments[len(segments) - segments[::-1].index("responses") :]
    if not after:
        known = not isinstance(request.body, dict) or not _BODY_KEYS.isdisjoint(request.body)
        return request.method in ("POST", "") and known
    if after[0] in NO_IDS:
        return False  # of a compaction its answer tells
    of_openai = request.host.partition(":")[0].endswith(("openai.com", "azure.com"))
    return after[1:] in ([], ["cancel"]) and is_id(after[0]) and (after[0].startswith("resp") or of_openai)


def matches_event(type: str, data: str) -> bool:
    """Whether an event can only be this protocol's: by its name, or the type in its payload."""
    if type:
        return type.startswith("response.")
    found = value(data) if '"response.' in data else None
    return isinstance(found, dict) and _name("", found).startswith("response.")


def matches_body(found: Any) -> bool:
    """Whether a body can only be this protocol's: a response."""
    return isinstance(found, dict) and found.get("object") in ("response", COMPACTION) and "deleted" not in found


def begin(partial: Partial, request: Request) -> None:
    """What the request alone tells: the response in its URL, its conversation or the response before, the calls it answers."""
    segments = [segment for segment in request.path.split("/") if segment]
    if "responses" in segments[:-1]:
        id = segments[segments.index("responses") + 1]
        partial.run_key = id if is_id(id) and id not in NO_IDS else None
        partial.root = partial.run_key
    after = parse_qs(request.query).get("starting_after", [""])[0]
    partial.after = int(after) if after.isdecimal() and len(after) < 16 else None
    asked = request.body if isinstance(request.body, dict) else {}
    if segments[-1:] == ["compact"]:
        partial.asked = {"model": asked.get("model")}  # which its answer does not repeat
    _on_links(partial, asked, None)
    partial.answers, partial.before = repeats(request)


def repeats(request: Request) -> Conversation:
    """What the request's input repeats, or what the response or the conversation that it names has."""
    body = as_object(request.body)
    previous, thread = body.get("previous_response_id"), _conversation(body)
    scope = {key: body[key] for key in _SCOPE if body.get(key)}
    return conversation(_said(body), scope, previous if is_id(previous) else None, thread)


def _said(body: dict[str, Any]) -> Iterator[Item]:
    given = body.get("input")
    yield Said("system", as_text(body.get("instructions")))
    for item in given if isinstance(given, list) else [{"role": "user", "content": given}] if isinstance(given, str) else []:
        if not isinstance(item, dict):
            continue
        kind, role = item.get("type"), item.get("role")
        ids = [str(id) for id in (item.get("call_id"), item.get("id")) if is_id(id)]
        if (answered := answered_call(item)) is not None:
            yield Output(*answered)
        elif isinstance(kind, str) and kind in CALLS:
            if ids:
                of = item if kind in _FUNCTIONS else {}
                given = of.get("arguments", of.get("input"))
                yield Call(ids[0], as_text(of.get("name")), given, also=ids[1] if ids[1:] else None)
        elif isinstance(role, str):
            yield Said("system" if role == "developer" else role, item.get("content"))
        elif kind == "reasoning":
            yield Said("assistant", None)  # many clients leave it out
        else:
            yield Said("assistant", item)


def evolve(partial: Partial, position: int, offset_us: int, type: str, data: str) -> None:
    """Fold one event into the partial state, in place."""
    if data == "[DONE]":
        return
    event = event_of(type, data)
    if event is None:
        if data:
            partial.part(_known(partial) or STREAM, position, offset_us).anomaly(
                position, "unparsable", f"{type or 'message'}: {data[:200]}"
            )
        return
    name = _name(type, event)
    if name not in ("", "error"):  # a flat error is told by what it lacks
        event["type"] = name
    given = event.get("sequence_number")
    number = given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else None
    streamed = _DELTAS.get(name)
    if streamed is not None:
        _on_delta(_part(partial, position, offset_us), streamed, position, offset_us, number, event)
    elif isinstance(event.get("response"), dict):
        _on_response(partial, position, offset_us, name, number, event["response"])
    elif name in HANDLERS:
        part = _part(partial, position, offset_us)
        spot = Spot(position, number, number is None or part.count(number, position))
        if not _has_ended(part, spot, name):
            HANDLERS[name](part, spot, name, event)
    elif (told := error_in(event, name == "error")) is not None:
        _on_error(partial, position, offset_us, number, told)
    elif number is not None and (key := _known(partial)):
        partial.part(key, position, offset_us).count(number, position)  # a keep-alive takes a number too


def body(partial: Partial, position: int, offset_us: int, found: Any) -> None:
    """Fold a response that came whole: it is a snapshot of itself."""
    if matches_body(found):
        done = {"status": "completed", **(partial.asked or {})} if found["object"] == COMPACTION else {}
        _on_response(partial, position, offset_us, "", None, {**done, **found})


class Spot(NamedTuple):
    """Where an event stands: position, sequence number, and whether that number is new (or there is none)."""

    position: int
    number: int | None
    new: bool


def _name(type: str, event: Event) -> str:
    name = event.get("type")
    return name if isinstance(name, str) and name else type


def _known(partial: Partial) -> str | None:
    """The key of the connection's response, where something was told of it."""
    return partial.run_key if partial.run_key in partial.parts else None


def _part(partial: Partial, position: int, offset_us: int) -> Part:
    """The part of the connection's response; one without an id has the stream's."""
    key = partial.run_key
    if key is None:
        key = partial.run_key = _unnamed(partial)
    part = partial.parts.get(key)
    if part is None:
        part = partial.part(key, position, offset_us)
        part.expects = 0 if partial.after is None else partial.after + 1
    else:
        part.last = position
        if offset_us > part.last_us:
            part.last_us = offset_us
    return part


def _unnamed(partial: Partial) -> str:
    return f"response_{partial.stream_id}"


def _has_ended(part: Part, spot: Spot, name: str) -> bool:
    """Whether the last word on a response's items was said."""
    ended = part.terminal and bool(part.object.get("output"))
    if ended and spot.new:
        part.anomaly(spot.position, "delta_after_end", f"{name} after the final response")
    return ended


def _on_links(partial: Partial, object: dict[str, Any], id: str | None) -> None:
    """The conversation and the response before, as a request or a response names them."""
    if partial.thread_id is None:
        partial.thread_id = _conversation(object)
    previous = object.get("previous_response_id")
    if partial.previous is None and is_id(previous) and previous != id:
        partial.previous = partial.root = previous
    if partial.root is None and id is not None:
        partial.root = id


def _conversation(object: dict[str, Any]) -> str | None:
    """The id of the conversation that a request or a response names."""
    given = object.get("conversation")
    id = given.get("id") if isinstance(given, dict) else given
    return id if is_id(id) else None


def _on_response(
    partial: Partial, position: int, offset_us: int, name: str, number: int | None, response: dict[str, Any]
) -> None:
    """An event with the whole response: a snapshot, and at the end the last word."""
    key = _key(partial, name, response.get("id"), position)
    if partial.root == partial.run_key and partial.root not in partial.parts:
        partial.root = None  # the URL had another id, or this one has changed
    partial.run_key = key
    part = _part(partial, position, offset_us)
    _on_links(partial, response, key)
    created = stamp(response.get("created_at"))
    if name == "response.created" and part.created is not None and created not in (None, part.created):
        kind = f"created_at {part.created}, then {created}: taken for another run"
        part = partial.restart(key, position, offset_us)
        part.anomaly(position, "id_reused", kind)
    new = number is None or part.count(number, position)
    if not new and (part.terminal or (part.number is not None and number is not None and number < part.number)):
        return
    before = part.object.get("status")
    status = _status(name, response)
    if status is not None and status not in endings.RESPONSES:
        part.anomaly(position, "unknown_status", f"response {status}")
    if before in TRANSITIONS and status in TRANSITIONS and status not in TRANSITIONS[before]:
        kind = "resurrected" if part.terminal and status not in TERMINAL else "illegal_transition"
        part.anomaly(position, kind, f"response from {before} to {status}")
    part.object = {**part.object, **response, **_usage(part, position, response.get("usage"))}
    if status != response.get("status"):
        part.object["status"] = status
    part.created = part.created if created is None else created
    part.number = number
    part.terminal = status in TERMINAL
    output = response.get("output")
    items = list(enumerate(output)) if isinstance(output, list) else []
    for index, item in items:
        if isinstance(item, dict):
            _note_call(part, item)
            _compare(part, position, str(index), item, number)
            if not part.terminal:
                _on_item(part, Spot(position, None, True), index, item, _ends(item))
    if part.terminal:
        _note_gaps(part, position, len(items))
    if part.terminal and items:
        part.families.clear()


def _usage(part: Part, position: int, usage: Any) -> dict[str, Any]:
    """{usage: what snapshots say of it so far}, {} where none says anything."""
    have = part.object.get("usage")
    if isinstance(usage, dict):
        followed: dict[str, Any] = have if isinstance(have, dict) else {}
        if fell := follow(followed, usage):
            part.anomaly(position, "usage_fell", ", ".join(fell))
        return {"usage": followed}
    return {"usage": have} if isinstance(have, dict) else {}


def _ends(item: dict[str, Any]) -> bool:
    return isinstance(item.get("status"), str) and item["status"] in TERMINAL


def _key(partial: Partial, name: str, id: Any, position: int) -> str:
    """The key of a response: its id; and where an id changes in the middle of one (gateways do that), the later."""
    current = partial.run_key
    known = _known(partial)
    if not is_id(id):
        return current or _unnamed(partial)
    if known is None or id == current or id in partial.parts:
        return str(id)
    if current == _unnamed(partial):
        partial.rename(known, id)
    elif name != "response.created" and not partial.parts[known].terminal:
        partial.rename(known, id).anomaly(position, "id_changed", f"{known}, then {id}, in the middle of one response")
    return str(id)


def _status(name: str, response: dict[str, Any]) -> str | None:
    """The response's status: as it says, but a final event is one whatever it says, and one with an error alone has failed."""
    said, of_event = response.get("status"), _ENDS.get(name)
    if isinstance(said, str):
        known = endings.RESPONSES.get(said)
        status = said if known is None else known.status
        return status if status in TERMINAL or of_event is None else of_event
    if of_event is None and isinstance(response.get("error"), dict) and response["error"]:
        return "failed"
    return of_event or {"response.created": "in_progress"}.get(name, name.removeprefix("response.") or None)


def _on_error(partial: Partial, position: int, offset_us: int, number: int | None, told: Event) -> None:
    part = partial.part(key, position, offset_us) if (key := _known(partial)) is not None else None
    partial.fail(told, position, part)
    if part is not None and number is not None:
        part.count(number, position)


# Items


def _index(part: Part, event: Event) -> str:
    """The output_index of an event's item; without one, that of the item with its item_id, else the latest."""
    index = event.get("output_index")
    if type(index) is int:
        return str(index)
    items, known = part.family("items"), part.family(UNINDEXED)
    given = event.get("item")
    named: str | None = event.get("item_id") if given is None else _own_id(given)
    named = named if is_id(named) else None
    if named in known:
        return str(known[named].object["index"])
    latest = next(reversed(items), None)
    near = islice(reversed(items), ANSWERS_LIMIT if named else 0)
    told = next((id for id in near if _own_id(items[id].object) == named), None)  # it was added with an index
    if told is not None:
        latest = told
    elif event.get("type") == "response.output_item.added" or latest is None or not _fits(items[latest], event):
        latest = str(len(items))
        while latest in items:
            latest = str(int(latest) + 1)
    if named is not None:
        known[named] = Entity(part.last)
        known[named].object = {"index": latest}
    return latest


def _own_id(item: Any) -> Any:
    """What tells an item from others: its id, else that of its call."""
    found = item if isinstance(item, dict) else {}
    return found.get("id") if is_id(found.get("id")) else found.get("call_id")


def _fits(item: Entity, event: Event) -> bool:
    """Whether an event without an index may be about this item, as far as its type says."""
    given, streamed = event.get("item"), _BY_NAME.get(str(event.get("type")))
    wanted = given.get("type") if isinstance(given, dict) else streamed.item_type if streamed else None
    return wanted is None or item.object.get("type") in (None, wanted)


def _item(part: Part, spot: Spot, event: Event, item_type: str) -> tuple[str, Entity]:
    """An event's item; one that was not announced is made up, which is amiss where this stream began before it did."""
    index = _index(part, event)
    part.touch(index)
    items = part.family("items")
    item = items.get(index)
    if item is None:
        item = items[index] = Entity(spot.position)
        item.object = {"type": item_type}
        if is_id(event.get("item_id")):
            item.object["id"] = event["item_id"]
        if not part.expects:
            part.anomaly(spot.position, "delta_without_object", f"item {index}: {event.get('type')} before the item was added")
    return index, item


def _opened(spot: Spot) -> int:
    return UNNUMBERED if spot.number is None else spot.number


def _on_item(part: Part, spot: Spot, index: int, object: dict[str, Any], done: bool) -> None:
    """A snapshot of an item: its skeleton, or the item itself."""
    items = part.family("items")
    item = items.get(str(index))
    if item is not None and item.terminal and not done:
        return
    part.touch(str(index))
    if item is None:
        item = items[str(index)] = Entity(spot.position)
    before = item.object.get("type")
    if before is not None and object.get("type") not in (None, before):
        part.anomaly(spot.position, "item_changed", f"item {index} was a {before}, then a {object.get('type')}")
    item.object = object
    item.number = spot.number
    _note_call(part, object)
    if done:
        item.terminal = True
        for family in ("parts", "annotations"):
            entities = part.family(family)
            for id in [id for id in entities if id.startswith(f"{index}/")]:
                del entities[id]


def _on_item_added(part: Part, spot: Spot, name: str, event: Event) -> None:
    index, object = _index(part, event), event.get("item")
    known = part.family("items").get(index)
    if known is not None and (not spot.new or known.terminal):
        return
    if known is not None and known.since is not None:
        part.anomaly(spot.position, "item_again", f"item {index} was added before")
    _on_item(part, spot, int(index), object if isinstance(object, dict) else {}, done=False)
    part.family("items")[index].since = _opened(spot)


def _on_item_done(part: Part, spot: Spot, name: str, event: Event) -> None:
    index, object = _index(part, event), event.get("item")
    if isinstance(object, dict):
        _compare(part, spot.position, index, object, spot.number)
        _note_part_gaps(part, spot, index)
        _on_item(part, spot, int(index), object, done=True)


def _on_item_status(part: Part, spot: Spot, name: str, event: Event) -> None:
    """response.web_search_call.searching and its like: the item's type and status are in the name."""
    _, item_type, status = name.split(".")
    _, item = _item(part, spot, event, item_type)
    if spot.new and not item.terminal:
        item.object = {**item.object, "status": status}
        if type(event.get("partial_image_index")) is int:
            item.object |= {"status": "generating", "partial_images": event["partial_image_index"] + 1}
        item.number = spot.number


def _note_call(part: Part, item: dict[str, Any]) -> None:
    """Remember a call that the client may answer."""
    if isinstance(item.get("type"), str) and item["type"] in CALLS:
        ids = [str(id) for id in (item.get("call_id"), item.get("id")) if is_id(id)]
        for id in ids if item["type"] == "local_shell_call" else ids[:1]:  # whose output may name either
            if id not in part.calls:
                part.calls.append(id)


# Parts of items


def _on_delta(part: Part, streamed: Streamed, position: int, offset_us: int, number: int | None, event: Event) -> None:
    if part.first_delta_us is None:
        part.first_delta_us = offset_us
    if part.first_text_us is None and streamed.item_type == "message":
        part.first_text_us = offset_us
    new = number is None or part.count(number, position)
    spot = Spot(position, number, new)
    if part.terminal and _has_ended(part, spot, str(event.get("type"))):
        return
    entity, id = _streamed(part, spot, streamed, event)
    delta = event.get("delta")
    if type(delta) is not str:
        part.anomaly(position, "no_object", f"{event.get('type')} without a delta")
        return
    if entity is None or entity.terminal:
        if new:
            part.anomaly(position, "delta_after_end", f"item {id}: a delta after its text had ended")
        return
    text = entity.texts.get(streamed.field)
    if text is None:
        text = entity.texts[streamed.field] = Fragments()
        said = entity.object.get(streamed.field)
        if isinstance(said, str) and said:
            text.add(said, entity.number)  # what the skeleton began with
    if not new and number is not None:
        again = text.at(number)
        if again == delta:
            return
        part.anomaly(position, "sequence_invalid", f"sequence number {number} came before, with something else")
        number = None
    text.add(delta, number)


def _streamed(part: Part, spot: Spot, streamed: Streamed, event: Event) -> tuple[Entity | None, str]:
    """The entity whose text an event speaks of, None where its item has ended; and its id."""
    index, item = _item(part, spot, event, streamed.item_type)
    if item.terminal:
        return None, index
    number = event.get(streamed.number) if streamed.number else 0
    id = f"{index}/{streamed.part}/{number if type(number) is int else 0}"
    found = part.family("parts").get(id)
    if found is None:
        known = {"type": streamed.part_type} if streamed.part_type else {}
        if streamed.part == streamed.field and streamed.field in item.object:
            known = {streamed.field: item.object[streamed.field]}
        found = _part_of_item(part, spot, item, id, known)
    return found, id


def _part_of_item(part: Part, spot: Spot, item: Entity, id: str, object: dict[str, Any]) -> Entity:
    """A part of an item; it is whole where its item is."""
    parts = part.family("parts")
    found = parts.get(id)
    if found is None:
        found = parts[id] = Entity(spot.position, item.since)
        found.object = object
    return found


def _on_text_done(part: Part, spot: Spot, name: str, event: Event) -> None:
    """The whole text, which deltas should have added up to."""
    streamed = STREAMED[name.removesuffix(".done")]
    entity, id = _streamed(part, spot, streamed, event)
    text = event.get(streamed.field)
    if entity is None or not isinstance(text, str):
        return
    fragments = entity.texts.pop(streamed.field, None)
    if fragments is not None and part.is_whole(entity, spot.number) and fragments.text() != text:
        part.anomaly(spot.position, "delta_mismatch", f"item {id}: deltas do not add up to the final {streamed.field}")
    entity.object = {**entity.object, streamed.field: text}
    entity.number = spot.number
    entity.terminal = True


def _on_part_added(part: Part, spot: Spot, name: str, event: Event) -> None:
    found = _named_part(part, spot, name, event)
    if found is not None and spot.new and not found[0].terminal and not found[0].texts:
        entity, object, _ = found
        entity.object, entity.number = object, spot.number


def _on_part_done(part: Part, spot: Spot, name: str, event: Event) -> None:
    found = _named_part(part, spot, name, event)
    if found is None:
        return
    entity, object, id = found
    for field in ("text", "refusal"):
        have = entity.texts[field].text() if field in entity.texts else entity.object.get(field)
        if isinstance(have, str) and part.is_whole(entity, spot.number) and have != (object.get(field) or ""):
            part.anomaly(spot.position, "delta_mismatch", f"item {id}: deltas do not add up to the final {field}")
    entity.object, entity.number, entity.terminal = object, spot.number, True
    entity.texts.clear()


def _named_part(part: Part, spot: Spot, name: str, event: Event) -> tuple[Entity, dict[str, Any], str] | None:
    """(entity, object, id) of the part that a content_part or reasoning_summary_part event carries."""
    kind, key = _SUMMARY if "summary" in name else _CONTENT
    object, number = event.get("part"), event.get(key)
    if not isinstance(object, dict):
        return None
    item_type = "reasoning" if kind == "summary" or object.get("type") == "reasoning_text" else "message"
    index, item = _item(part, spot, event, item_type)
    if item.terminal:
        return None
    id = f"{index}/{kind}/{number if type(number) is int else 0}"
    return _part_of_item(part, spot, item, id, object), object, id


def _on_annotation(part: Part, spot: Spot, name: str, event: Event) -> None:
    entity, id = _streamed(part, spot, STREAMED["response.output_text"], event)
    number, object = event.get("annotation_index"), event.get("annotation")
    if entity is not None and isinstance(object, dict):
        annotations = part.family("annotations")
        at = number if type(number) is int else len(annotations)
        found = annotations[f"{id}/{at}"] = Entity(spot.position)
        found.object, found.number = object, spot.number


def _on_command_added(part: Part, spot: Spot, name: str, event: Event) -> None:
    entity, _ = _streamed(part, spot, STREAMED["response.shell_call_command"], event)
    if entity is not None and spot.new and not entity.terminal and isinstance(event.get("command"), str):
        entity.object = {"command": event["command"]}
        entity.number = spot.number


def _on_shell_output(part: Part, spot: Spot, name: str, event: Event) -> None:
    """The output of a shell command: stdout and stderr, in fragments, then whole."""
    index, item = _item(part, spot, event, "shell_call_output")
    at = event.get("command_index")
    if item.terminal:
        return
    entity = _part_of_item(part, spot, item, f"{index}/shell_output/{at if type(at) is int else 0}", {})
    delta, output = event.get("delta"), event.get("output")
    if isinstance(delta, dict) and spot.new and not entity.terminal:
        for field in ("stdout", "stderr"):
            if isinstance(delta.get(field), str):
                entity.texts.setdefault(field, Fragments()).add(delta[field], spot.number)
    elif isinstance(output, list):
        entity.object, entity.number, entity.terminal = {"output": output}, spot.number, True
        entity.texts.clear()


def _on_audio(part: Part, spot: Spot, name: str, event: Event) -> None:
    """The transcript of spoken output; of the sound itself, how much of it came."""
    audio = part.family("audio").setdefault("audio", Entity(spot.position))
    delta = event.get("delta")
    if not spot.new or not isinstance(delta, str):
        return
    if "transcript" in name:
        audio.texts.setdefault("transcript", Fragments()).add(delta, spot.number)
    else:
        audio.object = {"base64_bytes": audio.object.get("base64_bytes", 0) + len(delta)}
        audio.number = spot.number


# Comparing


def _compare(part: Part, position: int, index: str, final: dict[str, Any], number: int | None) -> None:
    """Note where the text that was accumulated of an item is not what its final object says."""
    said = dict(_texts(final))
    for path, text, entity in _accumulated(part, index):
        if part.is_whole(entity, number) and text != said.get(path, ""):
            part.anomaly(position, "delta_mismatch", f"item {index}: deltas do not add up to the final {path}")


def _accumulated(part: Part, index: str) -> Iterator[tuple[str, str, Entity]]:
    """(path, text, entity) of the texts that an item has so far."""
    item = part.family("items").get(index)
    if item is None:
        return
    if item.terminal:
        yield from ((path, text, item) for path, text in _texts(item.object))
    for id, entity in part.family("parts").items():
        if not id.startswith(f"{index}/"):
            continue
        _, kind, number = id.split("/")
        for field in (kind,) if kind in _COMPARED else ("text", "refusal") if kind in ("content", "summary") else ():
            streamed = entity.texts.get(field)
            text = entity.object.get(field) if streamed is None else streamed.text()
            if isinstance(text, str) and text:
                yield field if field == kind else f"{kind}/{number}/{field}", text, entity


def _texts(item: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, text) of the streamed texts of a final item."""
    for field in sorted(_COMPARED):
        if isinstance(item.get(field), str):
            yield field, item[field]
    for kind in ("content", "summary"):
        entries = item.get(kind)
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            for field in ("text", "refusal"):
                if isinstance(entry, dict) and isinstance(entry.get(field), str):
                    yield f"{kind}/{number}/{field}", entry[field]


def _note_gaps(part: Part, position: int, count: int) -> None:
    """Note items that were streamed and are not in the final output, and those that the streamed ones skip."""
    streamed = sorted(map(int, part.family("items")))
    for index in streamed:
        if index >= count > 0:
            part.anomaly(position, "index_gap", f"item {index} was streamed, but the final output has {count} items")
    from_the_start = not part.expects and not (part.numbers and part.numbers[0][0] > 1)
    if from_the_start and streamed and streamed[0] >= 0:
        for index in sorted(set(range(min(streamed[-1], len(streamed)) + 1)) - set(streamed))[:1]:
            part.anomaly(position, "index_gap", f"item {index} was not streamed, though item {streamed[-1]} was")


def _note_part_gaps(part: Part, spot: Spot, index: str) -> None:
    """Note parts of an item that the streamed ones skip."""
    item = part.family("items").get(index)
    if item is None or not part.is_whole(item, spot.number):
        return
    for kind in ("content", "summary"):
        lead = f"{index}/{kind}/"
        numbers = {int(id.removeprefix(lead)) for id in part.family("parts") if id.startswith(lead)}
        missing = next((number for number in range(len(numbers)) if number not in numbers), None)
        if missing is not None:
            part.anomaly(spot.position, "index_gap", f"item {index}: {kind} {missing} was not streamed, though one after it was")


_ENDS = {
    "response.completed": "completed",
    "response.failed": "failed",
    "response.incomplete": "incomplete",
    "response.cancelled": "cancelled",
    "response.canceled": "cancelled",
    "response.error": "failed",
    "response.done": "completed",
}
"""Event names that end a response, and the status they stand for. The last four are gateways'."""

_DELTAS = {f"{name}.delta": streamed for name, streamed in STREAMED.items()}

_BY_NAME = _DELTAS | {f"{name}.done": streamed for name, streamed in STREAMED.items()}

Handler = Callable[[Part, Spot, str, Event], None]

HANDLERS: dict[str, Handler] = {
    "response.output_item.added": _on_item_added,
    "response.output_item.done": _on_item_done,
    "response.content_part.added": _on_part_added,
    "response.content_part.done": _on_part_done,
    "response.reasoning_summary_part.added": _on_part_added,
    "response.reasoning_summary_part.done": _on_part_done,
    "response.output_text.annotation.added": _on_annotation,
    **{f"{name}.done": _on_text_done for name in STREAMED},
    "response.shell_call_command.added": _on_command_added,
    "response.shell_call_output_content.delta": _on_shell_output,
    "response.shell_call_output_content.done": _on_shell_output,
    **{
        f"response.{item_type}.{status}": _on_item_status
        for item_type, statuses in {
            "file_search_call": ("in_progress", "searching", "completed"),
            "web_search_call": ("in_progress", "searching", "completed"),
            "code_interpreter_call": ("in_progress", "interpreting", "completed"),
            "image_generation_call": ("in_progress", "generating", "partial_image", "completed"),
            "mcp_call": ("in_progress", "completed", "failed"),
            "mcp_list_tools": ("in_progress", "completed", "failed"),
            "compaction": ("compacting",),
        }.items()
        for status in statuses
    },
    "response.audio.delta": _on_audio,
    "response.audio.transcript.delta": _on_audio,
}
