"""When each chunk of a replay is due: pure generators over (µs, item), composed.

    schedule(chunks, speed=10, max_gap=2.0)   ≡   absolute(scaled(capped(gaps(chunks), 2.0), 10))

Deadlines are absolute, so what one sleep oversleeps the next makes up for: a replay does not drift.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Timed = Iterable[tuple[float, Item]]


def gaps(items: Timed[Item], start_us: float = 0) -> Iterator[tuple[float, Item]]:
    """(µs since the item before, item) from (µs since the start, item)."""
    before = start_us
    for at, item in items:
        yield max(0.0, at - before), item
        before = max(before, at)


def capped(items: Timed[Item], max_gap_us: float) -> Iterator[tuple[float, Item]]:
    """No gap longer than this."""
    for gap, item in items:
        yield min(gap, max_gap_us), item


def scaled(items: Timed[Item], speed: float) -> Iterator[tuple[float, Item]]:
    """Gaps as they are at `speed` times the pace."""
    for gap, item in items:
        yield gap / speed, item


def absolute(items: Timed[Item]) -> Iterator[tuple[float, Item]]:
    """(µs since the start, item) from (µs since the item before, item)."""
    at = 0.0
    for gap, item in items:
        at += gap
        yield at, item


def schedule(
    items: Timed[Item], speed: float | None = 1.0, max_gap: float | None = None, start_us: float = 0
) -> Iterator[tuple[float, Item]]:
    """(µs since the start of the replay, item). speed None: all at once. max_gap: seconds, in the recording's time."""
    if speed is None:
        return ((0.0, item) for _, item in items)
    between = gaps(items, start_us)
    if max_gap is not None:
        between = capped(between, max_gap * 1e6)
    return absolute(scaled(between, speed))


def paced(items: Timed[Item], late: Callable[[float], None] | None = None) -> Iterator[Item]:
    """Items when they are due, from (µs since the start, item): sleeps in between. late: is told by how many µs each is."""
    began = time.perf_counter()
    for at, item in items:
        wait = began + at / 1e6 - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        if late is not None:
            late((time.perf_counter() - began) * 1e6 - at)
        yield item
