"""JSON text ⇄ values: fast where it can be, and never bending a value to get there.

msgspec decodes at C speed but refuses lone surrogates, NaN and numbers beyond a double; the standard library takes them
all, so it is the second try. What it then yields that msgspec would write wrongly (NaN as null) is marked with a type
that makes msgspec refuse, so that encoding too falls back.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

JSONError = ValueError
"""What loads() raises for text that is no JSON (msgspec.DecodeError is one too)."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _NonFinite(float):
    """NaN or an infinity: a float that msgspec refuses instead of writing null."""


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _NonFinite(value)


_lenient = json.JSONDecoder(parse_constant=_NonFinite, parse_float=_float)


def loads(text: str | bytes) -> Any:
    """The value of a JSON text. Raises JSONError where it is none."""
    try:
        return _decode(text)
    except (ValueError, RecursionError):
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        try:
            return _lenient.decode(text.removeprefix("\ufeff"))
        except RecursionError:
            raise ValueError("nested too deep to be read") from None


def object_of(text: str | None) -> dict[str, Any]:
    """The object of a JSON text; an empty one where the text is something else, or no JSON."""
    try:
        value = loads(text or "")
    except JSONError:
        return {}
    return value if isinstance(value, dict) else {}


def is_deeper(value: Any, limit: int) -> bool:
    """Whether a value nests objects and lists deeper than `limit`: what recursion could not walk."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def dumps(value: Any) -> str:
    """Compact JSON text of a value, storable in any database: no NUL, no lone surrogate outside an escape."""
    try:
        return _encode(value).decode()
    except (UnicodeEncodeError, TypeError, RecursionError):
        return json.dumps(value, separators=(",", ":"))
