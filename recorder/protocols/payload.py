"""What every protocol reads alike: an event's JSON, an id, values of a type."""

from __future__ import annotations

from typing import Any

from recorder import jsontext

ID_LIMIT = 256
"""Bytes of an id: it is a key in every database."""

DEPTH_LIMIT = 100
"""Levels of nested objects and lists in a payload that is folded."""


def value(data: str) -> Any:
    """The JSON of an event's data, or None where it is none, or nested too deep to be folded."""
    try:
        found = jsontext.loads(data)
    except jsontext.JSONError:
        return None
    nested = data.count("{") + data.count("[") > DEPTH_LIMIT and jsontext.is_deeper(found, DEPTH_LIMIT)
    return None if nested else found


def is_id(value: Any) -> bool:
    """Whether a value can serve as an id, which is a key in every database: text of a sane length, without NUL."""
    if not isinstance(value, str) or not 0 < len(value) <= ID_LIMIT or "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        return len(value.encode()) <= ID_LIMIT
    except UnicodeEncodeError:
        return False


def stamp(value: Any) -> float | None:
    """A time in seconds, None where a value is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None


def as_object(value: Any) -> dict[str, Any]:
    """The object that a value is; an empty one where it is something else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The list that a value is; an empty one where it is something else."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str | None:
    """The text that a value is; None where it is something else."""
    return value if isinstance(value, str) else None


def as_output(value: Any) -> str | None:
    """An output as the text that runs have: one of several parts as its JSON."""
    return value if value is None or isinstance(value, str) else jsontext.dumps(value)


def calls_nothing(name: Any, given: Any) -> bool:
    """Whether a tool call has neither a name nor arguments: some servers send such, and nobody waits for its output."""
    return not name and (not given or (isinstance(given, str) and given.strip() in ("", "{}")))


def as_seconds(value: Any) -> int | None:
    """A time in whole seconds, None where a value is none or no database's integer holds it exactly."""
    at = stamp(value)
    return int(at) if at is not None and abs(at) < 2**53 else None
