"""Redacts a request: its body, and what of its path, query and headers matches. As many bytes come out as went in."""

from __future__ import annotations

from urllib.parse import unquote_plus

from recorder.redaction.filler import blank
from recorder.redaction.matching import find_whole
from recorder.redaction.overlay import Slot, written
from recorder.redaction.redactor import Redactor
from recorder.redaction.rules import Rules
from recorder.sse import Frame


def body(rules: Rules, given: bytes) -> bytes:
    text = given.decode("utf-8", "surrogateescape")
    slot = Slot(Frame("$body", text), text, lambda frame, after: frame._replace(data=after))
    Redactor(rules, wait=False).look_at(slot, text, whole=True)
    return slot.done().data.encode("utf-8", "surrogateescape")


def text(rules: Rules, given: str) -> str:
    """A plain text that is whole: a header's value, a message."""
    found = find_whole(rules.patterns, given)
    return written(given, [(start, end, blank) for start, end in found]) if found else given


def path(rules: Rules, given: str) -> str:
    return "/".join(_part(rules, part) for part in given.split("/"))


def query(rules: Rules, given: str) -> str:
    """A query, with the matches in its values redacted."""
    parts = (part.partition("=") for part in given.split("&"))
    return "&".join(name + equals + _part(rules, value) for name, equals, value in parts)


def _part(rules: Rules, given: str) -> str:
    """A part of a URL; one that matches only without its %-escapes goes as a whole."""
    part = text(rules, given)
    if "%" in part or "+" in part:
        plain = unquote_plus(part)
        return part if text(rules, plain) == plain else "x" * len(part)
    return part
