"""Paths into JSON: a small part of RFC 9535, compiled so that a walk through a JSON text knows at each step what it has hit.

    $              the whole value               .name   ['name']     the member of this name
    .*   [*]       every member or element       [n]                  the element of this number, from 0
    ..name   ..['name']   ..*   ..[*]   ..[n]    the same at any depth

What a path hits is hit with all that is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

Key = str | int
"""A member's name, or an element's number."""

State = frozenset[tuple[int, int]]
"""How far which paths have come: (path, segments behind it)."""

HIT: State = frozenset({(-1, -1)})
"""At what a path hits, and below it."""

_SEGMENT = re.compile(
    r"""(?P<deep>\.\.)?(?:
        \[ (?: (?P<number>0|[1-9]\d*) | (?P<wild>\*) | '(?P<single>(?:[^'\\]|\\.)*)' | (?P<double>"(?:[^"\\]|\\.)*") ) \]
        | (?(deep)|\.) (?: (?P<star>\*) | (?P<name>[^\W\d]\w*) )
    )""",
    re.VERBOSE,
)


class Segment(NamedTuple):
    """deep: at any depth from here on. key: None for every one."""

    deep: bool
    key: Key | None


def parse(path: str) -> tuple[Segment, ...]:
    """The segments of a path. Raises ValueError, which says from where on it is none."""
    if not path.startswith("$"):
        raise ValueError("it does not begin with $")
    segments = []
    at = 1
    while at < len(path):
        found = _SEGMENT.match(path, at)
        if found is None:
            raise ValueError(f"from {path[at:]!r} on it is none of .name, ['name'], [n], [*], ..name")
        segments.append(Segment(bool(found["deep"]), _key(found)))
        at = found.end()
    return tuple(segments)


def _key(found: re.Match[str]) -> Key | None:
    if found["number"] is not None:
        return int(found["number"])
    if found["single"] is not None:
        text = re.sub(r"\\.|\"", lambda part: {"\\'": "'", '"': '\\"'}.get(part[0], part[0]), found["single"])
        return str(json.loads(f'"{text}"'))
    return str(json.loads(found["double"])) if found["double"] is not None else found["name"]


class Paths:
    """Several paths at once. A walk begins in `start`, and goes on with step() at each member and element."""

    def __init__(self, given: Iterable[str]) -> None:
        self._paths = [parse(path) for path in given]
        self._keys = {segment.key for path in self._paths for segment in path}
        self._steps: dict[tuple[State, Key | None], State] = {}
        self.start = self._state((number, 0) for number in range(len(self._paths)))

    def step(self, state: State, key: Key) -> State:
        """Where a walk comes by this member or element; an empty state where no path leads on."""
        if state is HIT or not state:
            return state
        known = key if key in self._keys else None  # all others are alike
        after = self._steps.get((state, known))
        if after is None:
            after = self._steps[state, known] = self._state(self._after(state, known))
        return after

    def _after(self, state: State, key: Key | None) -> Iterable[tuple[int, int]]:
        for number, at in state:
            segment = self._paths[number][at]
            if segment.deep:
                yield number, at
            if segment.key is None or segment.key == key:
                yield number, at + 1

    def _state(self, came: Iterable[tuple[int, int]]) -> State:
        state = frozenset(came)
        return HIT if any(at == len(self._paths[number]) for number, at in state) else state
