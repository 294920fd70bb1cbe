"""What a benchmark is given: sizes, a folder that is gone afterwards, and rounds in which its sides take turns."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from recorder import database
from tests.benchmarks import generated, peers

Size = TypeVar("Size", int, float)


class Bench:
    """Given to every benchmark of a run. `stack` closes what they share (a PostgreSQL server, a large log) at the end."""

    def __init__(self, folder: Path, stack: ExitStack, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.stack = stack
        self._files = 0

    def size(self, full: Size, quick: Size) -> Size:
        return quick if self.quick else full

    def say(self, message: str) -> None:
        """Progress, on stderr."""
        print(f"  {message}", file=sys.stderr, flush=True)

    def fresh(self, suffix: str = ".db") -> Path:
        """A path in the folder that nobody has used."""
        self._files += 1
        return self.folder / f"{self._files}{suffix}"

    def database(self) -> sa.Engine:
        """A new SQLite log, as `recorder` makes it."""
        return database.connect(f"sqlite:///{self.fresh()}")

    @cached_property
    def large(self) -> tuple[Path, int]:
        """A SQLite log of a million events (quick: a hundred thousand), made once for all; (its path, its events)."""
        events = self.size(1_000_000, 100_000)
        path = self.fresh()
        self.say(f"appending {events:,} events")
        engine = database.connect(f"sqlite:///{path}")
        began = time.perf_counter()
        generated.fill(engine, events)
        self.say(f"{events:,} events generated and appended in {time.perf_counter() - began:.1f} s")
        engine.dispose()
        return path, events

    @cached_property
    def postgres(self) -> str:
        """The URL of a real PostgreSQL that lasts for this run. Raises peers.Missing."""
        self.say("starting PostgreSQL")
        return self.stack.enter_context(peers.postgres(self.folder))


def remove(path: Path) -> None:
    """A SQLite file and what is beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def rounds(sides: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """What each side gives (seconds) in each of `count` rounds. They take turns, and take turns in going first."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.freeze()  # the data they share is not searched for garbage over and over
    try:
        for number in range(count):
            for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                gc.collect()
                found[name].append(sides[name]())
    finally:
        gc.unfreeze()
    return found


def best(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The fastest round of each side: what others do on the machine only ever adds."""
    return {name: min(seconds) for name, seconds in found.items()}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)
