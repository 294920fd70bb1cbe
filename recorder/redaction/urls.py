"""The secrets of URLs: who asks (`user:password@`), and parameters of the query or fragment by their names."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from recorder.redaction.names import ALSO_ORDINARY, is_secret_parameter, is_unlikely, plain

REDACTED = "REDACTED"

_URL = re.compile(r"\s*[a-zA-Z][a-zA-Z0-9+.-]*://[^\s]*\s*", re.ASCII)
_AUTHORITY = re.compile(r"://([^/?#\\]*)@")
_PART = re.compile(r"[^&#?]+")
_INNER = re.compile(r"[^;]+")
_BEGIN = re.compile(r"[?#]")

_NESTED = 3  # URLs within a parameter's value within a URL

Span = tuple[int, int, str]
"""text[start:end] is secret, and what stands there instead."""


def of_query(query: str, depth: int = 0, *, cited: bool = False) -> list[Span]:
    """The secrets of a query or form: of `name=value&…`, the values of those that are secret, and those within URLs.

    cited: it is that of a URL that stands in a text.
    """
    found: list[Span] = []
    for part in _PART.finditer(query):
        name, equals, value = part[0].partition("=")
        if equals and _is_secret(name, value, cited):
            found += _of_value(query, part.start() + len(name) + 1, part.end(), depth, secret=True)
            continue
        for inner in _INNER.finditer(query, *part.span()):
            name, equals, value = inner[0].partition("=")
            if equals:
                at = inner.start() + len(name) + 1
                found += _of_value(query, at, inner.end(), depth, secret=_is_secret(name, value, cited))
    return found


def _is_secret(name: str, value: str, cited: bool) -> bool:
    name = unquote_plus(name)
    return is_secret_parameter(name) and not (cited and plain(name) in ALSO_ORDINARY and not is_unlikely(value))


def _of_value(query: str, start: int, end: int, depth: int, *, secret: bool) -> list[Span]:
    value = query[start:end]
    if secret:
        return [(start, end, REDACTED)] if value != REDACTED else []
    if depth < _NESTED and ("%" in value or "://" in value):
        inner = unquote_plus(value)
        if within := of_url(inner, depth + 1):
            return [(start, end, quote(replaced(inner, within), safe=""))]
    return []


def of_url(text: str, depth: int = 0, *, cited: bool = True) -> list[Span]:
    """The secrets of a text that is a URL and nothing else. cited: of of_query."""
    if "://" not in text or _URL.fullmatch(text) is None:
        return []
    found: list[Span] = []
    if (userinfo := _AUTHORITY.search(text)) and userinfo[1] != REDACTED:
        found.append((*userinfo.span(1), REDACTED))
    begin = _BEGIN.search(text)
    if begin is not None:
        at = begin.end()
        found += [(start + at, end + at, instead) for start, end, instead in of_query(text[at:], depth, cited=cited)]
    return found


def replaced(text: str, spans: list[Span]) -> str:
    """The text with what stands instead of these parts of it; those come in order and do not overlap."""
    pieces: list[str] = []
    at = 0
    for start, end, instead in spans:
        pieces += (text[at:start], instead)
        at = end
    return "".join((*pieces, text[at:]))
