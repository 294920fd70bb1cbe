"""What a client asked, held against what was recorded: which requests are the same, changed, missing, more, or in another order.

Pure. The cheapest way from one order to the other (Wagner and Fischer, 1974), after which what is missing in one place and more
in another has moved. How often something is polled says nothing: timing decides that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import NamedTuple

_CELLS = 2_000_000
"""Comparisons beyond which order is not looked at: a second's work."""

_MORE = _MISSING = 50_000
_POLL = 10_000
_CHANGED, _CHANGED_OTHERWISE = 80_000, 90_000
"""Less than one missing and one more; the recording that answered it is the one that it is held against, if either will do."""

_ELSEWHERE = 1
"""Of two that change places around a third, the third has stayed where it was."""


class Recorded(NamedTuple):
    """key: what makes requests the same. path: what they must have in common to be one that has changed. safe: it only reads."""

    key: bytes
    path: tuple[str, str]
    safe: bool = False


class Seen(NamedTuple):
    """key: that of the recorded ones that it is the same as; None where there are none. given: the recorded one that answered."""

    key: bytes | None
    path: tuple[str, str]
    given: int | None = None


class Step(NamedTuple):
    """kind: same, changed, extra, missing or reordered. recorded, seen: places in the two orders, None where there is none."""

    kind: str
    recorded: int | None
    seen: int | None


def align(recorded: Sequence[Recorded], seen: Sequence[Seen]) -> list[Step]:
    """The steps from one order to the other, in that of the requests seen; what is missing, where it was recorded."""
    counts: Counter[bytes | None] = Counter(one.key for one in recorded)
    counts |= Counter(one.key for one in seen)
    keys = {one.key for one in seen}
    polled: Set[bytes | None] = {one.key for one in recorded if one.safe and one.key in keys and counts[one.key] > 1}
    if len(seen) <= len(recorded) and all(map(_in_place, range(len(seen)), recorded, seen)):
        pairs = enumerate(zip(recorded, seen, strict=False))
        placed = [Step("same" if now.key == was.key else "changed", at, at) for at, (was, now) in pairs]
        placed += [Step("missing", at, None) for at in range(len(seen), len(recorded))]
        return _moved(placed, recorded, seen, polled)
    start = 0
    while start < min(len(recorded), len(seen)) and recorded[start].key == seen[start].key:
        start += 1
    end = 0
    while end < min(len(recorded), len(seen)) - start and recorded[-1 - end].key == seen[-1 - end].key:
        end += 1
    was, now = recorded[start : len(recorded) - end], seen[start : len(seen) - end]
    middle = _cheapest(was, now, start, polled) if len(was) * len(now) <= _CELLS else _as_given(was, now, start)
    steps = [Step("same", number, number) for number in range(start)]
    steps += [Step(kind, None if r is None else r + start, None if s is None else s + start) for kind, r, s in middle]
    steps += [Step("same", len(recorded) - number, len(seen) - number) for number in range(end, 0, -1)]
    return _moved(steps, recorded, seen, polled)


def _in_place(at: int, recorded: Recorded, seen: Seen) -> bool:
    """Whether a request is the recorded one of this place, or was answered as if it were."""
    return seen.key == recorded.key or (seen.key is None and seen.given == at and seen.path == recorded.path)


def passes(recorded: Sequence[Recorded], seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """Where a client that goes through a session again and again begins anew: (from, to) of the requests seen."""
    whole = {one.key for one in recorded if not one.safe}
    begins = [0]
    met: set[bytes | None] = set()
    for number, one in enumerate(seen):
        if whole and met >= whole and one.key == recorded[0].key:
            begins.append(number)
            met = set()
        met.add(one.key)
    return list(zip(begins, [*begins[1:], len(seen)], strict=True))


def _cheapest(recorded: Sequence[Recorded], seen: Sequence[Seen], start: int, polled: Set[bytes | None]) -> list[Step]:
    spare_recorded = Counter(one.key for one in recorded) - Counter(one.key for one in seen if one.key is not None)
    spare_seen = Counter(one.key for one in seen if one.key is not None) - Counter(one.key for one in recorded)
    missing = [_POLL if one.key in polled else _MISSING for one in recorded]
    more = [_POLL if one.key in polled else _MORE for one in seen]
    rows = [[0]]
    for cost in missing:
        rows[0].append(rows[0][-1] + cost)
    for s, one in enumerate(seen):
        above, row = rows[-1], [rows[-1][0] + more[s]]
        changeable = one.key is None or one.key in spare_seen
        for r, other in enumerate(recorded):
            best = min(row[r] + missing[r], above[r + 1] + more[s])
            if one.key == other.key:
                best = min(best, above[r] + (_ELSEWHERE if s != r else 0))
            elif changeable and one.path == other.path and other.key in spare_recorded:
                best = min(best, above[r] + (_CHANGED if one.given == r + start else _CHANGED_OTHERWISE))
            row.append(best)
        rows.append(row)
    steps = []
    s, r = len(seen), len(recorded)
    while s or r:
        here = rows[s][r]
        if s and r:
            one, other, diagonal = seen[s - 1], recorded[r - 1], rows[s - 1][r - 1]
            if one.key == other.key and here == diagonal + (_ELSEWHERE if s != r else 0):
                s, r = s - 1, r - 1
                steps.append(Step("same", r, s))
                continue
            cost = _CHANGED if one.given == r - 1 + start else _CHANGED_OTHERWISE
            changeable = (one.key is None or one.key in spare_seen) and other.key in spare_recorded
            if one.key != other.key and changeable and one.path == other.path and here == diagonal + cost:
                s, r = s - 1, r - 1
                steps.append(Step("changed", r, s))
                continue
        if s and here == rows[s - 1][r] + more[s - 1]:
            s -= 1
            steps.append(Step("extra", None, s))
        else:
            r -= 1
            steps.append(Step("missing", r, None))
    return steps[::-1]


def _as_given(recorded: Sequence[Recorded], seen: Sequence[Seen], start: int) -> list[Step]:
    """By what answered each, where there are too many to look at their order."""
    left = set(range(len(recorded)))
    steps = []
    for number, one in enumerate(seen):
        given = None if one.given is None else one.given - start
        if given in left and given is not None:
            left.discard(given)
            steps.append(Step("same" if one.key == recorded[given].key else "changed", given, number))
        else:
            steps.append(Step("extra", None, number))
    return steps + [Step("missing", number, None) for number in sorted(left)]


def _moved(steps: Sequence[Step], recorded: Sequence[Recorded], seen: Sequence[Seen], polled: Set[bytes | None]) -> list[Step]:
    """What is missing here and more there has moved; what is polled more or less often is left out."""
    missing: dict[bytes, list[int]] = {}
    for step in steps:
        if step.kind == "missing" and step.recorded is not None:
            missing.setdefault(recorded[step.recorded].key, []).append(step.recorded)
    kept = {seen[step.seen].key for step in steps if step.kind == "same" and step.seen is not None}
    unmade = {step.recorded for step in steps if step.kind == "missing"}
    found: list[Step] = []
    moved: set[int] = set()
    for step in steps:
        one = seen[step.seen] if step.kind == "extra" and step.seen is not None else None
        if one is None:
            found.append(step)
        elif one.key is None:
            if one.given in unmade and one.given is not None:  # it was changed, and made in another place
                unmade.discard(one.given)
                moved.add(one.given)
                step = Step("changed", one.given, step.seen)
            found.append(step)
        elif one.key in polled and one.key in kept:
            continue
        elif places := missing.get(one.key):
            moved.add(places[0])
            found.append(Step("reordered", places.pop(0), step.seen))
        elif one.key not in polled:
            found.append(step)
    return [
        step
        for step in found
        if step.kind != "missing"
        or (step.recorded is not None and step.recorded not in moved and recorded[step.recorded].key not in polled)
    ]
