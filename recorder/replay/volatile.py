"""What of a request changes from run to run and changes no answer: pure. The second rung of the ladder leaves it out.

By where it stands (JSON paths; a query is an object of its parameters), and by what it looks like, wherever in a text: UUIDs
and times to the second. A date alone is not: it may be what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from recorder import jsonpath
from recorder.errors import UsageError

PATHS = (
    "$..metadata",
    "$..user",
    "$..safety_identifier",
    "$..prompt_cache_key",
    "$..idempotency_key",
    "$..client_request_id",
    "$..request_id",
    "$..trace_id",
    "$..span_id",
    "$..event_id",
    "$..nonce",
    "$..timestamp",
    "$..created_at",
    "$..updated_at",
    "$..sent_at",
)
"""What nobody's answer should depend on. More can be named, none taken away: who wants to have it compared asks strictly."""

_MADE = re.compile(
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"  # a UUID
    r"|\b[0-9a-fA-F]{32}\b"  # the same without its dashes
    r"|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d)\b)?"  # RFC 3339, ISO 8601
    r"|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d (?:GMT|UTC|[+-]\d{4})"  # RFC 9110, RFC 5322
)

_BOUNDARY = re.compile(r"boundary=(?:\"([^\"]+)\"|([^\s;]+))", re.IGNORECASE)


class Volatile:
    """The fields that are left out: PATHS, and these. Raises UsageError for a path that is none."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        given = [*PATHS, *more]
        for path in given:
            try:
                jsonpath.parse(path)
            except ValueError as error:
                raise UsageError(f"{path!r} names no volatile field: {error}; write it as $..trace_id") from None
        self._paths = jsonpath.Paths(given)

    def without(self, value: Any) -> Any:
        """A JSON value without them."""
        return self._without(value, self._paths.start)

    def _without(self, value: Any, state: jsonpath.State) -> Any:
        step, hit = self._paths.step, jsonpath.HIT
        if isinstance(value, dict):
            members = ((key, inner, step(state, key)) for key, inner in value.items())
            return {key: self._without(inner, after) for key, inner, after in members if after is not hit}
        if isinstance(value, list):
            entries = ((inner, step(state, number)) for number, inner in enumerate(value))
            return [None if after is hit else self._without(inner, after) for inner, after in entries]
        return _MADE.sub("", value) if isinstance(value, str) else value


def without_boundary(body: bytes, content_type: str | None) -> bytes:
    """A multipart body without the boundary that its client made up."""
    found = _BOUNDARY.search(content_type or "")
    return body.replace((found[1] or found[2]).encode("latin-1", "replace"), b"") if found else body
