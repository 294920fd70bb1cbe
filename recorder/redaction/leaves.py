"""The leaves of a JSON text: where in it its strings and numbers stand, and under which names.

A decoder would lose the places. This scanner keeps them, and is lenient where redaction must be: JSON that ends too early is
scanned up to there, one value after another is fine, and where it is no JSON any more it stops and says so. Linear in the text.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import NamedTuple

from recorder.jsonpath import HIT, Key, Paths, State

_TOKEN = re.compile(
    r'[ \t\n\r\ufeff,]*+(?:"((?:[^"\\]++|\\.)*+)(?:(")(?:[ \t\n\r]*+(:))?)?'
    r"|([{}\[\]])|(-?[0-9][0-9.eE+-]*+)|(true|false|null|NaN|-?Infinity))",
    re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\r\ufeff,]*+")
_CUT, _STRING, _NAME, _MARK, _NUMBER = 1, 2, 3, 4, 5  # groups, by the last one that took part

_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL
)  # of one character

_NO_STATE: State = frozenset()

FACTS = frozenset(
    {
        *("event", "type", "object", "role"),
        *("index", "output_index", "content_index", "summary_index", "id", "item_id"),
    }
)
"""Members of an object that say which it is."""


class Node:
    """An object, or a list. key: under which it stands in its parent; name: the same, of a list's element the list's.

    facts: those of its members that are in FACTS. text[start:end] is all of it; end is -1 where the text has none.
    """

    __slots__ = ("end", "facts", "is_list", "key", "name", "opaque", "parent", "place", "secret", "start", "state", "within")

    def __init__(self, parent: Node | None, key: Key, is_list: bool, state: State, start: int = 0) -> None:
        self.parent, self.key, self.is_list, self.state = parent, key, is_list, state
        self.start, self.end = start, -1
        self.name: str = key if isinstance(key, str) else parent.name if parent else ""
        self.facts: dict[str, str] = {}
        self.place: int | None = None  # these are worked out by whoever asks for them
        self.opaque: bool | None = None
        self.secret: Node | None = None
        self.within: int = 0


class Leaf(NamedTuple):
    """text[start:end] is what stands between a string's quotes, or a number. whole: its end is there.

    hit: whether a path hits it. key: under which it stands in its node; a list's elements are counted.
    """

    is_number: bool
    start: int
    end: int
    whole: bool
    hit: bool
    node: Node
    key: Key

    @property
    def name(self) -> str:
        """The name under which it stands: of a list's element, the list's."""
        return self.key if isinstance(self.key, str) else self.node.name


class Scan(NamedTuple):
    """end: where the text stopped to be JSON, else its length."""

    leaves: list[Leaf]
    root: Node
    end: int


def scan(text: str, paths: Paths | None = None) -> Scan:
    leaves: list[Leaf] = []
    root = node = Node(None, 0, True, paths.start if paths else _NO_STATE)
    key: Key = -1  # of the value that came last, or whose name did
    named = False  # whether a member's name was read, and its value is due
    at, match = 0, _TOKEN.match
    while (found := match(text, at)) is not None:
        kind = found.lastindex
        if kind == _NAME:
            if node.is_list or named:
                break
            name = found[1]
            key, named = (_decoded(name) if "\\" in name else name), True
        elif kind == _MARK and found[4] in "}]":
            if node.parent is None or named or node.is_list != (found[4] == "]"):
                break
            node.end = found.end()
            key, node = node.key, node.parent
        else:
            if node.is_list:
                key = int(key) + 1
            elif not named:
                break
            named = False
            if kind == _MARK:
                node = Node(node, key, found[4] == "[", _state(paths, node, key), found.start(4))
                key = -1
            elif kind == _NUMBER:
                start, end = found.span(5)
                leaves.append(Leaf(True, start, end, True, paths is not None and _state(paths, node, key) is HIT, node, key))
                if key in FACTS:
                    node.facts[str(key)] = text[start:end]
            elif kind in (_STRING, _CUT):
                start, end = found.span(1)
                if kind == _CUT:
                    end = len(text)
                leaves.append(
                    Leaf(False, start, end, kind == _STRING, paths is not None and _state(paths, node, key) is HIT, node, key)
                )
                if key in FACTS:
                    node.facts[str(key)] = text[start:end]
                if kind == _CUT:
                    return Scan(leaves, root, end)
        at = found.end()
    spaces = _SPACE.match(text, at)
    end = spaces.end() if spaces else at
    return Scan(leaves, root, end if end == len(text) else at)


def _state(paths: Paths | None, node: Node, key: Key) -> State:
    if paths is None:
        return _NO_STATE
    return paths.step(node.state, key) if node.parent is not None else node.state  # the root is around the text


def _decoded(raw: str) -> str:
    try:
        return str(json.loads(f'"{raw}"', strict=False))
    except ValueError:
        return raw


class Decoded:
    """The text of a JSON string, and where in it each of its characters was written."""

    __slots__ = ("_here", "_there", "text")

    def __init__(self, raw: str) -> None:
        self._here, self._there = [0], [0]  # where runs of unescaped characters, and escapes, begin: in text, in raw
        if "\\" not in raw:
            self.text = raw
            return
        pieces: list[str] = []
        here = there = 0
        for found in _ESCAPE.finditer(raw):
            run = raw[there : found.start()]
            pieces += (run, _character(found[0]))
            here += len(run)
            self._here += (here, here + 1)
            self._there += (found.start(), found.end())
            here, there = here + 1, found.end()
        pieces.append(raw[there:])
        self.text = "".join(pieces)

    def raw(self, start: int, end: int) -> tuple[int, int]:
        """Where text[start:end] was written."""
        return self._at(start), self._at(end)

    def _at(self, place: int) -> int:
        run = bisect_right(self._here, place) - 1
        return self._there[run] + place - self._here[run]


_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _character(escape: str) -> str:
    if len(escape) == 2:
        return _SHORT.get(escape[1], escape[1])
    if len(escape) == 6:
        return chr(int(escape[2:], 16))
    high, low = int(escape[2:6], 16), int(escape[8:], 16)
    return chr(0x10000 + (high - 0xD800 << 10) + (low - 0xDC00))
