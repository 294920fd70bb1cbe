"""The secrets of a JSON text by the names of its members, and of the URLs in it: where they stand in the text.

Looked at are the names of members as the API has them; what a schema, a model, a tool or a user calls so is none (names.py).
Linear in the text: whether any name in it is telling is seen before it is scanned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from recorder.redaction import names, urls
from recorder.redaction.leaves import Decoded, Leaf, Node, scan
from recorder.redaction.names import is_secret, is_telling, plain
from recorder.redaction.urls import REDACTED

_NAME = re.compile(r'"([A-Za-z][\w-]*+)\\*+"[ \t\r\n]*+:', re.ASCII)
_ESCAPED = re.compile(r"\\u00(?:2[df]|3[0-9af]|4[0-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])", re.IGNORECASE)
"""What a name or URL has no reason to escape."""

_SCHEME = re.compile(r"[ ]*[A-Za-z][A-Za-z0-9+.-]*")

_DEEP = 4  # JSON within a string within JSON


class Hit(NamedTuple):
    """text[start:end] is secret: what stands between a string's quotes, or, with `whole`, a value of another kind.

    instead: JSON that may stand there.
    """

    start: int
    end: int
    whole: bool
    instead: str


class Found(NamedTuple):
    """hits: in order, none over another. end: where the text stopped to be JSON, else its length."""

    hits: list[Hit]
    end: int


def may_hold(text: str) -> bool:
    """Whether there may be a secret in this text, if it is JSON. No hit is missed; most texts without any are told by this."""
    if any(map(is_telling, set(_NAME.findall(text)))):
        return True
    if "://" in text and _has_telling_url(text, "://"):
        return True
    if ":\\/" in text and _has_telling_url(text, ":\\/"):
        return True
    return '"ek_' in text or ("\\u00" in text and _ESCAPED.search(text) is not None)


def _has_telling_url(text: str, mark: str) -> bool:
    """Whether a string begins as a URL does, and has somebody who asks, a query or a fragment."""
    at = text.find(mark)
    while at >= 0:
        begin = text.rfind('"', max(0, at - 24), at)
        if begin >= 0 and _SCHEME.fullmatch(text, begin + 1, at):
            end = text.find('"', at)
            end = len(text) if end < 0 else end
            if any(text.find(sign, at, end) >= 0 for sign in "?@#"):
                return True
        at = text.find(mark, at + 3)
    return False


def find(text: str, depth: int = 0) -> Found:
    """The secrets of a JSON text, or of several one after another."""
    seen = scan(text)
    hits: list[Hit] = []
    done: Node | None = None  # the object or list that was taken as a whole last
    before: Leaf | None = None
    for leaf in seen.leaves:
        node = _secret(leaf.node)
        if node is not None:
            if node is not done:
                end = len(text) if node.end < 0 else node.end
                hits.append(Hit(node.start, end, True, f'"{REDACTED}"'))
                done = node
        else:
            hits += _of_leaf(text, leaf, before, depth)
        before = leaf
    return Found(hits, seen.end)


def strings(text: str, hits: list[Hit]) -> Iterator[tuple[int, int]]:
    """The parts of a text that are to be unreadable where its structure stays: of a whole value, the strings in it."""
    for start, end, whole, _ in hits:
        if not whole:
            yield start, end
        elif text[start] in "{[":
            yield from ((start + leaf.start, start + leaf.end) for leaf in scan(text[start:end]).leaves if not leaf.is_number)


def words(secret: str) -> list[str]:
    """What of a secret is known again where somebody quotes it: no name, and no word that may stand there by chance."""
    if secret[:1] in ("{", "["):
        values = [secret[leaf.start : leaf.end] for leaf in scan(secret).leaves if not leaf.is_number]
    else:
        values = [secret]
    found = (word for value in values for word in value.split() if word != REDACTED)
    return [word for word in found if names.is_unlikely(word)]


def _of_leaf(text: str, leaf: Leaf, before: Leaf | None, depth: int) -> Iterator[Hit]:
    """The secrets of a string or number that stands in no secret object."""
    raw = text[leaf.start : leaf.end]
    if not raw or raw == REDACTED:
        return
    opaque = _is_opaque(leaf.node)
    if not opaque and _is_named(leaf, text, before):
        yield Hit(leaf.start, leaf.end, leaf.is_number, f'"{REDACTED}"' if leaf.is_number else REDACTED)
        return
    if leaf.is_number or plain(leaf.name) in names.TEXTS:
        return
    if ":/" in raw or ":\\/" in raw:
        decoded = Decoded(raw)
        for start, end, instead in urls.of_url(decoded.text):
            start, end = decoded.raw(start, end)
            yield Hit(leaf.start + start, leaf.start + end, False, json.dumps(instead)[1:-1])
    if not opaque and depth < _DEEP and raw.lstrip()[:1] in ("{", "[") and may_hold(Decoded(raw).text):
        decoded = Decoded(raw)
        for hit in find(decoded.text, depth + 1).hits:
            start, end = decoded.raw(hit.start, hit.end)
            yield Hit(leaf.start + start, leaf.start + end, False, json.dumps(hit.instead)[1:-1])


def _is_named(leaf: Leaf, text: str, before: Leaf | None) -> bool:
    """Whether a string or number is secret by the name under which it stands."""
    node = leaf.node
    known = plain(leaf.name)
    if node.within & _AUTHENTICATION:
        return known not in names.NOT_SECRET
    if leaf.key == 1 and before is not None and before.node is node and node.within & _HEADERS:  # ["Cookie", "…"]
        return is_secret(text[before.start : before.end])
    if known in names.AUTHENTICATION or (known in names.CALLED_WITH_SECRETS and node.within & _CALLED_WITH):
        return not leaf.is_number
    if known == "value":  # a client secret of OpenAI's Realtime API
        return text.startswith("ek_", leaf.start)
    return is_secret(known)


def _secret(node: Node) -> Node | None:
    """The outermost secret object or list that a node is in."""
    _work_out(node)
    return node.secret


def _is_opaque(node: Node) -> bool:
    _work_out(node)
    return bool(node.opaque)


_CALLED_WITH, _AUTHENTICATION, _HEADERS = 1, 2, 4
"""What an object or list may be within."""


def _work_out(node: Node) -> None:
    """Whether it is opaque, secret, and what it is within. Not recursive: JSON may be nested as deep as its text is long."""
    unknown: list[Node] = []
    at: Node | None = node
    while at is not None and at.opaque is None:
        unknown.append(at)
        at = at.parent
    for inner in reversed(unknown):
        above = inner.parent
        if above is None:
            inner.opaque = False
            continue
        known = plain(inner.key) if isinstance(inner.key, str) else ""
        inner.opaque = above.opaque or _begins_opaque(inner, above, known)
        inner.secret = above.secret
        if inner.opaque:
            continue
        inner.within = above.within | _BEGINS.get(known, 0)
        secret = is_secret(known) or (known in names.CALLED_WITH_SECRETS and above.within & _CALLED_WITH)
        if known and inner.secret is None and secret:
            inner.secret = inner


def _begins_opaque(node: Node, above: Node, known: str) -> bool:
    if known == "response":  # what a function gave back (Gemini)
        return plain(above.name) == "functionresponse"
    if known == "parameters":
        return plain(above.name) not in names.SOURCES
    return known in names.OPAQUE and not (node.is_list and known in names.ITEMS)


_BEGINS = {
    **dict.fromkeys(names.CALLED_WITH, _CALLED_WITH),
    **dict.fromkeys(names.AUTHENTICATION, _AUTHENTICATION),
    "headers": _HEADERS,
}
