"""A stream as people read it: its events in order, silences between them, and deltas of one kind joined to running text.

Pure: events in, lines out. What an event adds to which text, each protocol says in its own words: PIECES, by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recorder.protocols import anthropic, assistants, chat, responses
from recorder.protocols.fold import SILENCE_US
from recorder.protocols.payload import as_list, as_object, as_text, value

_DATA_LIMIT = 160  # characters of data that says nothing we know


class Piece(NamedTuple):
    """What an event adds to a text. kind: text, refusal, arguments, reasoning …; of: which text of that kind, where there are
    several at once; name: of the tool whose arguments these are."""

    kind: str
    text: str
    of: str = ""
    name: str | None = None


@dataclass
class Line:
    """One line of a transcript. offset_us: of its first event; silence_us: of a silence, which has no event.

    kind: of the text that its events add up to, '' where it is one event by itself. events: how many of them; last: the position
    of the latest. is_wrong: it tells of an error.
    """

    position: int
    offset_us: int
    type: str
    kind: str = ""
    of: str = ""
    name: str | None = None
    events: int = 1
    silence_us: int = 0
    last: int = -1
    is_wrong: bool = False
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def transcript(protocol: str | None, events: Iterable[tuple[int, int, str, str]]) -> Iterator[Line]:
    """The lines of a stream. events: (position, offset_us, type, data), in order."""
    pieces_of = PIECES.get(protocol or "", _no_pieces)
    growing: dict[str, Line] = {}  # of each text its line, while deltas are neighbours
    before_us = 0
    for position, offset_us, type, data in events:
        if offset_us - before_us >= SILENCE_US:
            yield from growing.values()
            growing = {}
            yield Line(position, before_us, "", events=0, silence_us=offset_us - before_us)
        before_us = offset_us
        payload = as_object(value(data))
        shown = type or as_text(payload.get("type")) or as_text(payload.get("object")) or "message"
        pieces = [] if type.startswith("$") else pieces_of(type, payload)
        for piece in pieces:
            line = growing.get(piece.of)
            if line is None or (line.type, line.kind) != (shown, piece.kind):
                if line is not None:
                    yield from growing.values()
                    growing = {}
                line = growing[piece.of] = Line(position, offset_us, shown, piece.kind, piece.of)
            elif line.last != position:
                line.events += 1
            line.last = position
            line.name = line.name or piece.name
            line.pieces.append(piece.text)
        if not pieces or _ends(payload):
            yield from growing.values()
            growing = {}
            said = gist(payload) or data[:_DATA_LIMIT]
            yield Line(position, offset_us, shown, is_wrong=type in _LOSSES or _is_wrong(payload), pieces=[said])
    yield from growing.values()


def _ends(payload: dict[str, Any]) -> bool:
    """Whether an event says beside its text how that ended."""
    return "error" in payload or any(as_object(choice).get("finish_reason") for choice in as_list(payload.get("choices")))


_FACTS = (
    *("outcome", "status", "finish_reason", "stop_reason", "role", "name", "code", "reason", "message", "detail"),
    *("total_tokens", "events", "bytes"),
)
_IDS = ("id", "item_id")
_BARE = frozenset({"outcome", "status", "message", "detail", *_IDS})
"""What says by itself what it is."""

_INSIDE = (
    *("response", "item", "message", "content_block", "delta", "part", "error", "last_error", "incomplete_details", "usage"),
    "required_action",
)
_WRONG = ("error", "last_error", "message", "detail")
"""Where something is told that is worth more than one line."""


def gist(payload: dict[str, Any]) -> str:
    """What matters of an event, wherever it stands: how it ended and what was wrong, status, names, and ids last."""
    outer = [payload, *map(as_object, as_list(payload.get("choices")))]
    inner = [as_object(holder.get(key)) for holder in outer for key in _INSIDE]
    holders = [*outer, *inner, *(as_object(holder.get(key)) for holder in inner for key in _INSIDE)]
    said = [(key, holder.get(key)) for keys in (_FACTS, _IDS) for holder in holders for key in keys]
    facts = [
        str(fact) if key in _BARE else f"{key} {fact}"
        for key, fact in said
        if isinstance(fact, (str, int)) and not isinstance(fact, bool) and fact != ""
    ]
    return "  ".join(dict.fromkeys(facts))


_LOSSES = frozenset({"$block", "$gap", "$tail"})


def _is_wrong(payload: dict[str, Any]) -> bool:
    holders = (payload, as_object(payload.get("response")))
    return any(holder.get(key) and not isinstance(holder[key], list) for holder in holders for key in _WRONG)


# What an event adds to which text: (type, data) → pieces


def _no_pieces(type: str, payload: dict[str, Any]) -> list[Piece]:
    return []


def _of_assistants(type: str, payload: dict[str, Any]) -> list[Piece]:
    if not type and isinstance(payload.get("event"), str):  # a gateway's envelope
        type, payload = payload["event"], as_object(payload.get("data"))
    delta, id = as_object(payload.get("delta")), str(payload.get("id"))
    if type.endswith("message.delta"):
        return [piece for part in as_list(delta.get("content")) for piece in _of_part(id, as_object(part))]
    calls = as_list(as_object(delta.get("step_details")).get("tool_calls")) if type.endswith("step.delta") else []
    return [piece for call in calls for piece in _of_call(id, as_object(call))]


def _of_part(id: str, part: dict[str, Any]) -> Iterator[Piece]:
    texts = {"text": as_object(part.get("text")).get("value"), "refusal": part.get("refusal")}
    return (Piece(kind, text, id) for kind, text in texts.items() if isinstance(text, str))


def _of_call(id: str, call: dict[str, Any]) -> Iterator[Piece]:
    of = f"{id}/{call.get('index')}"
    code = as_object(call.get("code_interpreter"))
    for given in (as_object(call.get("function")), call):
        if isinstance(given.get("arguments"), str):
            yield Piece("arguments", given["arguments"], of, as_text(given.get("name")))
    if isinstance(code.get("input"), str):
        yield Piece("arguments", code["input"], of, "code_interpreter")
    for output in map(as_object, as_list(code.get("outputs"))):
        if isinstance(output.get("logs"), str):
            yield Piece("logs", output["logs"], of)


_OF_RESPONSES = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_text": "reasoning",
    "reasoning_summary_text": "reasoning",
}


def _of_responses(type: str, payload: dict[str, Any]) -> list[Piece]:
    name, _, last = (as_text(payload.get("type")) or type).rpartition(".")
    if last != "delta" or name not in responses.STREAMED or not isinstance(payload.get("delta"), str):
        return []
    kind = _OF_RESPONSES.get(name.removeprefix("response."), "arguments")
    number = responses.STREAMED[name].number
    return [Piece(kind, payload["delta"], f"{payload.get('output_index')}/{payload.get(number)}")]


def _of_chat(type: str, payload: dict[str, Any]) -> list[Piece]:
    found: list[Piece] = []
    for at, choice in enumerate(map(as_object, as_list(payload.get("choices")))):
        index = choice.get("index", at)
        delta = as_object(choice.get("delta"))
        found += [
            Piece(_OF_CHAT.get(key, "reasoning"), said, f"{index}")
            for key, said in delta.items()
            if key in chat.STREAMED and isinstance(said, str) and said
        ]
        for part in map(as_object, as_list(delta.get("content"))):
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                found.append(Piece("text", part["text"], f"{index}"))
            found += [
                Piece("reasoning", thought["text"], f"{index}")
                for thought in map(as_object, as_list(part.get("thinking")))
                if isinstance(thought.get("text"), str)
            ]
        calls = [*as_list(delta.get("tool_calls")), *([delta["function_call"]] if "function_call" in delta else [])]
        for call in map(as_object, calls):
            given = as_object(call.get("function") or call.get("custom")) or call
            said = given.get("arguments", given.get("input"))
            if isinstance(said, str):
                found.append(Piece("arguments", said, f"{index}/{call.get('index')}", as_text(given.get("name"))))
    return found


_OF_CHAT = {"content": "text", "refusal": "refusal"}


def _of_anthropic(type: str, payload: dict[str, Any]) -> list[Piece]:
    delta = as_object(payload.get("delta"))
    field, _ = anthropic.STREAMED.get(str(delta.get("type")), ("", ""))
    if payload.get("type") != "content_block_delta" or not isinstance(delta.get(field), str):
        return []
    return [Piece(_OF_ANTHROPIC.get(field, field), delta[field], f"{payload.get('index')}")]


_OF_ANTHROPIC = {"partial_json": "arguments", "thinking": "reasoning"}

PIECES: dict[str, Callable[[str, dict[str, Any]], list[Piece]]] = {
    assistants.NAME: _of_assistants,
    responses.NAME: _of_responses,
    chat.NAME: _of_chat,
    anthropic.NAME: _of_anthropic,
}
