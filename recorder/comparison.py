"""Two recordings held against each other: exchange by exchange, step by step, event by event. Pure.

What differs from run to run and says nothing is left out: ids that a server made, times, metadata (replay/volatile.py), tokens,
and into how many deltas a text was cut. Exchanges are aligned by method and path, steps by type and tools, events by type.
"""

from __future__ import annotations

import difflib
import json
import re
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.log import Event, Stream, texts
from recorder.projections.folds import request_of, source_of
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import Contribution
from recorder.replay.difference import differences
from recorder.replay.volatile import Volatile
from recorder.sse import is_system
from recorder.steps import Message, RunStep

_ID = re.compile(r"(run|thread|step|msg|call|toolu|fc|rs|ws|item|resp|conv|chatcmpl|chat|gen|req)[-_][A-Za-z0-9_-]+")
"""Ids that are made anew for each run; those of assistants, files and models are not among them."""

_PAIRS = 1_000_000
"""Pairs of entries up to which sequences are aligned; of longer ones, what comes after their first difference is not."""

_RUN_FACTS = ("status", "model", "last_error", "incomplete_details")

_SHOWN_LINES = 12
_CONTEXT = 30  # characters of a long line that are shown before the first difference


class Item(NamedTuple):
    """One thing that an exchange says: its request, a run, a step, a message, the response as a whole.

    key: what it is aligned by. id: how it is found again in an earlier state of the exchange. position: of the event that first
    spoke of it, None of a request. Facts that are None are those that nobody said.
    """

    key: Hashable
    id: str
    name: str
    position: int | None
    facts: dict[str, Any]


class Side(NamedTuple):
    """One side of a difference. value: None where this side has none. id: of its item. position: see Item."""

    exchange: int | None
    value: Any
    id: str = ""
    position: int | None = None


class Difference(NamedTuple):
    """item: what differs. fact: in what; '' where only one side has the item. field: where in it first, as in `.city`."""

    item: str
    fact: str
    field: str
    a: Side
    b: Side

    def __str__(self) -> str:
        number = self.a.exchange or self.b.exchange
        what = self.item if self.item.startswith("exchange") else f"exchange {number}, {self.item}"
        if not self.fact:
            return f"{what} is only in {'A' if self.b.value is None else 'B'}"
        return f"{what}: {self.fact}" + (f" at {self.field}" if self.field else "")


class Exchange:
    """A stream with its events, as it is compared."""

    def __init__(self, stream: Stream, events: Sequence[Event]) -> None:
        self.stream = stream
        self.events = events
        self.items = self.items_after(len(events))

    @property
    def name(self) -> str:
        return f"{self.stream.method} {self.stream.path}".strip() or "without a request"

    @property
    def key(self) -> Hashable:
        return self.stream.method, "/".join(map(_anonymous, self.stream.path.split("/")))

    def items_after(self, count: int) -> list[Item]:
        """What the exchange says by so many of its events."""
        fold = StreamFold(request_of(self.stream))
        fold.feed_all(texts(self.events[:count]))
        return [self._request(), *self._folded(fold), *self._plain(fold, count)]

    def _request(self) -> Item:
        body: Any = request_of(self.stream).body
        if body is None and self.stream.request_body:
            body = bytes(self.stream.request_body).decode("utf-8", "backslashreplace")
        return Item("request", "request", "the request", None, {"query": self.stream.query or None, "body": body})

    def _folded(self, fold: StreamFold) -> Iterator[Item]:
        """The runs, steps and messages that the stream speaks of."""
        source = source_of(self.stream, fold)
        parts = sorted((part["position"], key, part) for key, part in fold.states().items() if key != STREAM)
        runs = steps = messages = 0
        for position, key, part in parts:
            view = merge(key, [Contribution(source, part)])
            first = {id: each["position"] for family in part["families"].values() for id, each in family.items()}
            if view.is_run:
                runs += 1
                facts = {name: view.object.get(name) for name in _RUN_FACTS} | {"error": view.error}
                yield Item("run", f"run {key}", f"run {runs}", position, facts)
            for entity in view.steps:
                steps += 1
                step = RunStep.of(entity.object)
                known = [first[id] for id in (entity.id, *(call.id for call in step.tool_calls)) if id in first]
                yield _step(f"step {steps}", entity.id, step, min(known, default=position))
            for entity in view.messages:
                messages += 1
                message = Message.of(entity.object)
                yield Item(
                    ("message", message.role),
                    entity.id,
                    f"message {messages}" + (f" ({message.role})" if message.role else ""),
                    first.get(entity.id, position),
                    {"status": message.status, "text": message.text},
                )

    def _plain(self, fold: StreamFold, count: int) -> Iterator[Item]:
        """The response as a whole; and of one that no protocol reads, its body and its events."""
        shown = self.events[:count]
        if fold.protocol is None:
            body = [event for event in shown if event.type == "$body"]
            if body:
                yield Item("body", "body", "the body", body[0].position, {"body": "".join(event.data for event in body)})
            for event in shown:
                if not is_system(event.type):
                    id = f"event {event.position}"
                    yield Item(
                        ("event", event.type), id, f"{id} ({event.type or 'message'})", event.position, {"data": event.data}
                    )
        last = shown[-1].position if shown else None
        yield Item("response", "response", "the response", last, {"status": fold.status, "outcome": fold.outcome})

    def types(self) -> list[tuple[str, int]]:
        """The types of its events with the position of each; what comes in pieces (deltas, chunks), in a row, is one entry."""
        found: list[tuple[str, int]] = []
        pieces: set[str] = set()
        for event in self.events:
            if is_system(event.type) and event.type != "$gap":
                continue
            name = _type(event)
            if "delta" not in name and "chunk" not in name:
                pieces = set()
                found.append((name, event.position))
                continue
            at = found.pop()[1] if pieces else event.position
            pieces.add(name)
            found.append((" and ".join(sorted(pieces)), at))
        return found


def compare(a: Sequence[Exchange], b: Sequence[Exchange]) -> list[Difference]:
    """All differences: in the order of the exchanges, and within each of the events of A."""
    found: list[Difference] = []
    for one, other in _aligned([exchange.key for exchange in a], [exchange.key for exchange in b]):
        if one is None or other is None:
            number, lone = (one, a) if one is not None else (other or 0, b)
            sides = [Side(None, None) if at is None else Side(at + 1, lone[at].name) for at in (one, other)]
            found.append(Difference(f"exchange {number + 1} ({lone[number].name})", "", "", *sides))
        else:
            found += sorted(_of_pair(one + 1, a[one], other + 1, b[other]), key=_order)
    return found


def located(difference: Difference, a: Sequence[Exchange], b: Sequence[Exchange]) -> Difference:
    """The same with the very events with which the two sides part, where it is in how something came out."""
    if not difference.fact or difference.a.position is None or difference.b.position is None:
        return difference
    ends = difference.a, difference.b
    common = _common(*(end.value for end in ends))
    found = [
        end._replace(position=_since(exchanges[(end.exchange or 1) - 1], difference.fact, end, common))
        for end, exchanges in zip(ends, (a, b), strict=True)
    ]
    return difference._replace(a=found[0], b=found[1])


def unified(a: Any, b: Any) -> list[str]:
    """Two values one above the other, line by line where they have several: `- ` what A has, `+ ` what B has."""
    ours, theirs = (_lines(value) for value in (a, b))
    if len(ours) <= 1 and len(theirs) <= 1:
        ours, theirs = ours or [""], theirs or [""]
        start = max(0, _common(ours[0], theirs[0]) - _CONTEXT) if max(len(ours[0]), len(theirs[0])) > 100 else 0
        shown = [
            ("…" if start else "") + line[start : start + 100] + ("…" if len(line) > start + 100 else "")
            for line in (*ours, *theirs)
        ]
        return [f"{sign} {line}" for sign, line, value in zip("-+", shown, (a, b), strict=True) if value is not None]
    lines = [
        line[:1] + " " + line[1:101] + ("…" if len(line) > 101 else "")
        for line in difflib.unified_diff(ours, theirs, lineterm="", n=1)
        if not line.startswith(("---", "+++", "@@"))
    ]
    return lines[:_SHOWN_LINES] + (["…"] if len(lines) > _SHOWN_LINES else [])


# Pairs


def _of_pair(number: int, a: Exchange, other: int, b: Exchange) -> Iterator[Difference]:
    for one, two in _aligned([item.key for item in a.items], [item.key for item in b.items]):
        here = None if one is None else a.items[one]
        there = None if two is None else b.items[two]
        if here and there:
            for fact in dict.fromkeys((*here.facts, *there.facts)):
                values = here.facts.get(fact), there.facts.get(fact)
                field = _field(here, *values)
                if field is not None:
                    sides = Side(number, values[0], here.id, here.position), Side(other, values[1], there.id, there.position)
                    yield Difference(here.name, fact, field, *sides)
        elif here or there:
            item = here or there
            assert item is not None
            sides = (
                Side(number, here and here.name, here.id if here else "", here.position if here else _before(a, b, item)),
                Side(other, there and there.name, there.id if there else "", there.position if there else _before(b, a, item)),
            )
            yield Difference(item.name, "", "", *sides)
    yield from _of_types(number, a, other, b)


def _of_types(number: int, a: Exchange, other: int, b: Exchange) -> Iterator[Difference]:
    """Where the types of the events first differ."""
    ours, theirs = a.types(), b.types()
    at = _common([name for name, _ in ours], [name for name, _ in theirs])
    if at < max(len(ours), len(theirs)):
        sides = [
            Side(exchange, types[at][0] if at < len(types) else None, "", types[at][1] if at < len(types) else _last(whole))
            for exchange, types, whole in ((number, ours, a), (other, theirs, b))
        ]
        yield Difference("the events", "type", "", *sides)


def _order(difference: Difference) -> tuple[int, int]:
    """Requests first, then by the event; of one event, what it led to is said before its type."""
    position = difference.a.position
    return -1 if position is None else position, difference.item == "the events"


def _field(item: Item, a: Any, b: Any) -> str | None:
    """Where two values of an item differ first, '' where that is all of them; None where they don't."""
    if a == b:
        return None
    if isinstance(a, str) and isinstance(b, str):
        ours, theirs = _json(a), _json(b)
        if ours is None or theirs is None:
            return "" if _anonymous(a) != _anonymous(b) else None
        a, b = ours, theirs
    volatile = _volatile if item.key in ("request", "body") else None
    found = differences(*(_bare(value if volatile is None else volatile.without(value)) for value in (a, b)))
    return found[0].at if found else None


def _bare(value: Any) -> Any:
    """A JSON value without what is made anew for each run."""
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items() if not key.endswith("_at") and key not in ("created", "usage")}
    if isinstance(value, list):
        return [_bare(inner) for inner in value]
    return _anonymous(value) if isinstance(value, str) else value


def _anonymous(text: str) -> str:
    found = _ID.fullmatch(text)
    return f"{found[1]}_…" if found else text


def _step(name: str, id: str, step: RunStep, position: int) -> Item:
    calls = step.tool_calls
    tools = tuple(call.name or call.type or "" for call in calls)
    facts: dict[str, Any] = {"status": step.status, "last_error": step.last_error}
    for number, (call, tool) in enumerate(zip(calls, tools, strict=True), 1):
        of = f"{tool} (call {number})" if len(calls) > 1 else tool
        facts |= {f"arguments of {of}": call.arguments, f"output of {of}": call.output}
    shown = ": ".join(part for part in (step.type, ", ".join(tools)) if part)
    return Item(("step", step.type, tools), id, f"{name} ({shown})" if shown else name, position, facts)


# Sequences


def _aligned(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int | None, int | None]]:
    """Indexes of what belongs together, None where one side has nothing; in the order of both."""
    start = _common(a, b)
    end = _common(a[start:][::-1], b[start:][::-1])
    ours, theirs = a[start : len(a) - end], b[start : len(b) - end]
    pairs: list[tuple[int | None, int | None]] = [(number, number) for number in range(start)]
    if len(ours) * len(theirs) <= _PAIRS:
        blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    else:
        blocks = [("replace", 0, len(ours), 0, len(theirs))]
    for kind, one, one_end, other, other_end in blocks:
        left, right = list(range(start + one, start + one_end)), list(range(start + other, start + other_end))
        if kind == "replace":
            pairs += _of_a_kind(a, left, b, right)
        elif kind == "equal":
            pairs += zip(left, right, strict=True)
        else:
            pairs += [*((number, None) for number in left), *((None, number) for number in right)]
    return pairs + [(len(a) - end + number, len(b) - end + number) for number in range(end)]


def _of_a_kind(
    a: Sequence[Hashable], left: list[int], b: Sequence[Hashable], right: list[int]
) -> Iterator[tuple[int | None, int | None]]:
    """What stands in the same place and is of one kind, a step and a step, belongs together though their keys differ."""
    for number in range(max(len(left), len(right))):
        one = left[number] if number < len(left) else None
        other = right[number] if number < len(right) else None
        if one is not None and other is not None and _kind(a[one]) != _kind(b[other]):
            yield one, None
            yield None, other
        else:
            yield one, other


def _kind(key: Hashable) -> Hashable:
    return key[0] if isinstance(key, tuple) else key


def _common(a: Any, b: Any) -> int:
    """How long two texts or sequences are equal from their beginning."""
    if not isinstance(a, (str, list, tuple)) or not isinstance(b, (str, list, tuple)):
        return 0
    return next((number for number, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


# Events


def _since(exchange: Exchange, fact: str, side: Side, common: int) -> int | None:
    """The position of the event by which a fact had become what it is, or a text had gone its own way."""

    def there(count: int) -> bool:
        item = next((item for item in exchange.items_after(count) if item.id == side.id), None)
        value = item.facts.get(fact) if item else None
        if isinstance(side.value, str) and isinstance(value, str) and fact != "status":
            return value.startswith(side.value[: common + 1])
        return item is not None and value == side.value

    count = bisect_left(range(len(exchange.events)), True, key=there)
    return exchange.events[count - 1].position if 0 < count <= len(exchange.events) else side.position


def _before(exchange: Exchange, other: Exchange, item: Item) -> int | None:
    """Where an item of the other exchange is missing in this one: with the last event of what comes before it there."""
    before = {
        one.key for one in other.items if one.position is not None and item.position is not None and one.position < item.position
    }
    return max(
        (one.position for one in exchange.items if one.position is not None and one.key in before), default=_last(exchange)
    )


def _last(exchange: Exchange) -> int | None:
    return exchange.events[-1].position if exchange.events else None


def _type(event: Event) -> str:
    """What an event is: its name, or what its data says that it is."""
    if event.type:
        return event.type
    if event.data == "[DONE]":
        return "done"
    said = jsontext.object_of(event.data)
    return str(said.get("type") or said.get("object") or "message")


# Texts


def _json(text: str) -> Any:
    """The object or list of a JSON text, None where it is none."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return jsontext.loads(text)
    except jsontext.JSONError:
        return None


def _lines(value: Any) -> list[str]:
    """A value as it is shown: texts by their lines, JSON spread out."""
    if value is None:
        return []
    if isinstance(value, str):
        found = _json(value)
        if found is None:
            return value.splitlines() or [""]
        value = found
    if isinstance(value, (dict, list)) and len(jsontext.dumps(value)) > 60:
        return json.dumps(value, indent=2, ensure_ascii=False).splitlines()
    return [jsontext.dumps(value)]


_volatile = Volatile()
