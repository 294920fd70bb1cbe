"""What never reaches the queue: headers that are not allowed, and the secrets of queries and of request bodies.

A body is looked at by what it is, not by what it is said to be: JSON, also as lines, as a text and in UTF-16 or UTF-32, a form,
and parts of these. It comes in decoded; one that is still compressed shows nothing.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from recorder.kind import media_type
from recorder.redaction import fields, urls
from recorder.redaction.names import is_secret, is_secret_parameter
from recorder.redaction.urls import REDACTED

REQUEST_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "openai-beta",
        "user-agent",
        "x-request-id",
        "x-stainless-retry-count",
        "x-stainless-stream-helper",
    }
)

RESPONSE_HEADERS = frozenset(
    {
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "x-ms-region",
        "x-ms-request-id",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-request-id",
        "x-should-retry",
    }
)
"""Also what an SDK decides by whether and when it asks again: a replay must say it, too."""

Known = set[str]
"""Secrets of a request, for as long as it is recorded."""


def headers(given: Iterable[tuple[str, str]], allowed: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The headers that may be stored, names in lower case, in their order."""
    return tuple((name.lower(), value) for name, value in given if name.lower() in allowed)


def of_headers(given: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The secrets in headers: what stands in those that are called so, and keys among the subprotocols of a WebSocket."""
    for name, value in given:
        if is_secret(name) or name.lower() == "sec-websocket-protocol":
            for part in _HEADER_PARTS.split(value):
                yield from fields.words(part)


_HEADER_PARTS = re.compile(r"[;,]\s*(?:[\w-]+=)?|api-key\.|\s+")


def query(given: str, known: Known | None = None) -> str:
    """A query string with the values of secret parameters replaced; all else as it was. known: gets what was replaced."""
    return _replaced(given, urls.of_query(given), known)


def url(given: str) -> str:
    """A URL, or the path of one, without its secrets."""
    if "://" in given:
        return urls.replaced(given, urls.of_url(given, cited=False))
    path, mark, rest = given.partition("?")
    return f"{path}{mark}{query(rest)}"


def body(given: bytes, content_type: str | None = None, known: Known | None = None) -> bytes:
    """A request body with its secrets replaced; the same bytes where it has none. known: gets what was replaced.

    JSON that ends to be JSON before a name that is secret goes from there on.
    """
    encoding, mark = _encoding(given)
    try:
        text = given[len(mark) :].decode(encoding, "surrogatepass")
    except UnicodeError:  # half a character at its end, at least
        return REDACTED.encode() if fields.may_hold(given.replace(b"\0", b"").decode("latin-1")) else given
    shown = _text(text, media_type(content_type), known)
    return given if shown is text else mark + shown.encode(encoding, "surrogatepass")


def _text(text: str, kind: str, known: Known | None) -> str:
    """The same text, by identity, where it has no secret."""
    begin = text.lstrip(_SPACE)[:2]
    if begin == "--" and (parts := _parts(text)) is not None:
        return _multipart(text, parts, known)
    if begin[:1] in ("{", "[", '"'):
        return _json(text, known)
    if kind == "application/x-www-form-urlencoded" or _FORM.fullmatch(text):
        return _replaced(text, urls.of_query(text), known)
    return _replaced(text, urls.of_url(text), known)


_SPACE = " \t\r\n\ufeff,\x1e"  # also what stands between records (RFC 7464)
_FORM = re.compile(r"[\w.~%+*\[\]-]{1,200}=[^\s\"{}<>]*")
_LINE = re.compile(r"[^\r\n]+")


def _json(text: str, known: Known | None) -> str:
    if not fields.may_hold(text):
        return text
    spans: list[urls.Span] = []
    found = fields.find(text)
    if found.end == len(text) or "\n" not in text:
        spans = _spans(text, found, 0)
    else:
        for line in _LINE.finditer(text):  # of which some may be no JSON
            if fields.may_hold(line[0]):
                spans += _spans(line[0], fields.find(line[0]), line.start())
    return _replaced(text, spans, known)


def _spans(text: str, found: fields.Found, at: int) -> list[urls.Span]:
    """What is to be replaced in a text that stands at a place of another."""
    spans = [(start + at, end + at, instead) for start, end, _, instead in found.hits]
    if found.end < len(text) and fields.may_hold(text[found.end :]):
        start = found.end + at
        spans = [*(span for span in spans if span[1] <= start), (start, len(text) + at, REDACTED)]
    return spans


Part = tuple[int, int, str, str]
"""text[start:end] is the content of a part; its name in the form, and its media type."""

_BOUNDARY = re.compile(r"\s*--([^\r\n]{1,200})(?=\r?\n)")
_NAME = re.compile(r"""content-disposition:[^\r\n]*?;\s*name=(?:"([^"\r\n]*)"|([^\s;]+))""", re.IGNORECASE)
_TYPE = re.compile(r"content-type:([^\r\n]*)", re.IGNORECASE)
_HEAD_ENDS = re.compile(r"\r?\n[ \t]*\r?\n")


def _parts(text: str) -> list[Part] | None:
    """The parts of a multipart body (RFC 2046, 5.1); None where it is none."""
    first = _BOUNDARY.match(text)
    if first is None:
        return None
    found: list[Part] = []
    mark = "--" + first[1].rstrip()
    at = first.end()
    while at < len(text):
        stop = text.find("\n" + mark, at)
        end = len(text) if stop < 0 else stop
        head = _HEAD_ENDS.search(text, at, end)
        begin = head.end() if head else at
        described = text[at : head.start()] if head else ""
        name, kind = _NAME.search(described), _TYPE.search(described)
        found.append((begin, end, (name[1] or name[2] or "") if name else "", media_type(kind[1]) if kind else ""))
        at = len(text) if stop < 0 else stop + 1 + len(mark)
    return found


def _multipart(text: str, parts: list[Part], known: Known | None) -> str:
    spans: list[urls.Span] = []
    for start, end, name, kind in parts:
        content = text[start:end].rstrip("\r")
        if name != "key" and is_secret_parameter(name) and content != REDACTED:
            spans.append((start, start + len(content), REDACTED))
        elif (shown := _text(content, kind, known)) is not content:
            spans.append((start, start + len(content), shown))
    return _replaced(text, spans, known)


def _replaced(text: str, spans: list[urls.Span], known: Known | None) -> str:
    if not spans:
        return text
    if known is not None:
        known.update(part for start, end, _ in spans for part in fields.words(text[start:end]))
    return urls.replaced(text, spans)


_MARKS = (
    ("latin-1", codecs.BOM_UTF8),  # of UTF-8, too, what matters here is ASCII, and each byte a character
    ("utf-32-le", codecs.BOM_UTF32_LE),
    ("utf-32-be", codecs.BOM_UTF32_BE),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
)

_ZEROS = ((b".000", "utf-32-le"), (b"000.", "utf-32-be"), (b".0.0", "utf-16-le"), (b"0.0.", "utf-16-be"))


def _encoding(given: bytes) -> tuple[str, bytes]:
    """How a text is encoded, and its byte order mark; without one by its zeros, as JSON's begins with ASCII (RFC 4627, 3)."""
    for encoding, mark in _MARKS:
        if given.startswith(mark):
            return encoding, mark
    zeros = bytes(ord(".") if byte else ord("0") for byte in given[:4])
    return next((encoding for look, encoding in _ZEROS if zeros == look), "latin-1"), b""
