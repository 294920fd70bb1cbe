"""Where two requests differ, field by field: pure, over JSON values.

A field is named as it would be written in a program: `.messages[1].content`. What was made unreadable before it was recorded
(`xxxx` of the same length) is taken for equal: nobody knows what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.redaction.filler import blank, blank_number

ABSENT = object()
"""Stands for a member that one side does not have."""

SHOWN = 4096
"""Characters of a value's JSON from which on it is cut short in a report."""

_TELLING = 4
"""Characters from which on a filler is known for one: `x` may be a text of its own."""


class Difference(NamedTuple):
    """at: the field; '' is the whole body. call: the tool call whose output it is in, where it is.

    Of lists of different lengths, recorded and seen are what one has beyond the other; there, and of bodies that are no JSON,
    `lengths` says (recorded, seen) in this unit.
    """

    at: str
    recorded: Any
    seen: Any
    call: str | None = None
    lengths: tuple[int, int] | None = None
    unit: str = "entries"

    def __str__(self) -> str:
        name = self.at or "the body"
        if self.lengths:
            return f"{name} has {self.lengths[1]} {self.unit}, recorded were {self.lengths[0]}"
        if self.recorded is ABSENT or self.seen is ABSENT:
            return f"{name} is {'new' if self.recorded is ABSENT else 'missing'}"
        return f"{name} is {_short(self.seen)}, recorded was {_short(self.recorded)}"

    def document(self) -> dict[str, Any]:
        """The same for a program; a side that has no such member is left out."""
        sides = {"recorded": self.recorded, "seen": self.seen}
        said = {"field": self.at, **{side: _bounded(value) for side, value in sides.items() if value is not ABSENT}}
        return said | ({"tool_call_id": self.call} if self.call else {})


def differences(recorded: Any, seen: Any) -> list[Difference]:
    """All of them, in the order of the fields' names; of tool outputs first, as nothing else changes what a model says more."""
    found = list(_walk(recorded, seen, "", None))
    if any(_redacted(one, _TELLING) for one in found):
        found = [one for one in found if not _redacted(one, 1)]
    return sorted(found, key=lambda one: one.call is None)


def first_difference(recorded: Any, seen: Any) -> str | None:
    """The first difference with both values; None where there is none."""
    found = next(_walk(recorded, seen, "", None), None)
    return None if found is None else str(found)


def of_bytes(recorded: bytes, seen: bytes) -> Difference:
    """The difference of two bodies of which one at least is no JSON."""
    was, now = (body[:SHOWN].decode("utf-8", "backslashreplace") for body in (recorded, seen))
    return Difference("", was, now, lengths=(len(recorded), len(seen)), unit="bytes")


def normal(value: Any) -> Any:
    """A JSON value with its keys in order, and 1.0 as 1: JSON knows but one kind of number (RFC 8259, 6)."""
    if isinstance(value, dict):
        return {key: normal(value[key]) for key in sorted(value)}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [normal(entry) for entry in value] if isinstance(value, list) else value


def _walk(recorded: Any, seen: Any, at: str, call: str | None) -> Iterator[Difference]:
    if isinstance(recorded, dict) and isinstance(seen, dict):
        call = _call(recorded) or call
        for key in sorted(recorded.keys() | seen.keys()):
            if key not in recorded or key not in seen:
                yield Difference(f"{at}.{key}", recorded.get(key, ABSENT), seen.get(key, ABSENT), call)
            else:
                yield from _walk(recorded[key], seen[key], f"{at}.{key}", call)
    elif isinstance(recorded, list) and isinstance(seen, list):
        for number, (one, other) in enumerate(zip(recorded, seen, strict=False)):
            yield from _walk(one, other, f"{at}[{number}]", call)
        if len(recorded) != len(seen):
            both = min(len(recorded), len(seen))
            beyond = next((id for entry in (*recorded[both:], *seen[both:]) if (id := _call(entry))), None)
            yield Difference(at, recorded[both:], seen[both:], call or beyond, (len(recorded), len(seen)))
    elif jsontext.dumps(normal(recorded)) != jsontext.dumps(normal(seen)):
        yield Difference(at, recorded, seen, call)


def _call(entry: Any) -> str | None:
    """The tool call that an object is the output of: of Assistants, Chat Completions, Responses, or Messages."""
    if not isinstance(entry, dict) or not ("output" in entry or "content" in entry):
        return None
    found = entry.get("tool_call_id") or entry.get("call_id") or entry.get("tool_use_id")
    return found if isinstance(found, str) else None


def _redacted(one: Difference, telling: int) -> bool:
    """Whether what was recorded is what redaction makes of what is seen, and so long that it is no accident."""
    recorded, seen = one.recorded, one.seen
    if isinstance(recorded, str) and isinstance(seen, str) and len(recorded) == len(seen):
        fillers = [was for was, now in zip(recorded, seen, strict=True) if was != now]
        hidden = all(was in (now, blank(now), "/") for was, now in zip(recorded, seen, strict=True))
        return hidden and len(fillers) >= telling
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (recorded, seen))
    return numbers and len(str(seen)) >= telling and str(recorded) == blank_number(str(seen))


def _short(value: Any) -> str:
    text = jsontext.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _bounded(value: Any) -> Any:
    text = jsontext.dumps(value)
    return value if len(text) <= SHOWN else text[:SHOWN] + "…"
