"""Catching up: from the log to the read models on one core, and whether an event costs the same among a million.

Wall-clock rates; the processor time beside them tells work from waiting and from what others do on the machine.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import sqlalchemy as sa

from recorder import database
from recorder.projections import runner
from tests.benchmarks import generated
from tests.benchmarks.append import remove_of
from tests.benchmarks.bench import Bench, median
from tests.benchmarks.report import RATIO, Figure, at_least, at_most, number

TITLE = "Catching up, one core"
SMALL = 10_000
SHORT = 50  # events of a run, where runs are many


class Took(NamedTuple):
    """µs an event."""

    wall: float
    cpu: float


def run(bench: Bench) -> list[Figure]:
    path, events = bench.large
    repeated = bench.size(5, 2)
    bench.say(f"{SMALL:,} events, {repeated} times before and after {events:,}")
    small = [fresh(bench, SMALL) for _ in range(repeated)]
    engine = database.connect(f"sqlite:///{path}")
    large = caught_up(bench, engine, events)
    engine.dispose()
    small += [fresh(bench, SMALL) for _ in range(repeated)]
    long_events = bench.size(200_000, 20_000)
    bench.say(f"one stream of {long_events:,} events")
    long = fresh(bench, long_events, long_events)
    busy_events = bench.size(800_000, 100_000)
    busy_runs = busy_events // SHORT
    bench.say(f"{busy_runs:,} runs of {SHORT} events that began in the same hour, and a quarter of them")
    few, busy = fresh(bench, busy_events // 4, SHORT, 1000), fresh(bench, busy_events, SHORT, 1000)
    wall, cpu = median([took.wall for took in small]), median([took.cpu for took in small])
    return [
        Figure(
            f"catching up on {events:,} events in {events // generated.SIZE:,} streams",
            1e6 / large.wall,
            "events/s",
            f"{number(large.wall)} µs an event, {number(large.cpu)} of them processor time",
            at_least(50_000),
        ),
        Figure(
            f"an event at {events:,} / an event at {SMALL:,}",
            large.wall / wall,
            RATIO,
            f"{number(large.wall)} µs against {number(wall)}; in processor time {number(large.cpu)} against {number(cpu)}",
            at_most(1.2),
        ),
        Figure(f"catching up on one stream of {long_events:,} events", 1e6 / long.wall, "events/s", aim=at_least(50_000)),
        Figure(
            f"an event of {busy_runs:,} short runs in one hour / of {busy_runs // 4:,}",
            busy.wall / few.wall,
            RATIO,
            f"{number(busy.wall)} µs against {number(few.wall)}, {SHORT} events a run",
            at_most(1.2),
        ),
    ]


def fresh(bench: Bench, events: int, size: int = generated.SIZE, a_second: int = 1) -> Took:
    """Of a log of its own."""
    engine = bench.database()
    generated.fill(engine, events, size, a_second)
    took = caught_up(bench, engine, events, quiet=True)
    engine.dispose()
    remove_of(engine)
    return took


def caught_up(bench: Bench, engine: sa.Engine, events: int, quiet: bool = False) -> Took:
    done = 0
    began, cpu = time.perf_counter(), time.process_time()
    shown = began

    def progress(count: int) -> None:
        nonlocal done, shown
        done += count
        if not quiet and time.perf_counter() - shown > 5:
            shown = time.perf_counter()
            bench.say(f"{done:,} of {events:,} events, {done / (shown - began):,.0f}/s")

    count = runner.catch_up(engine, progress)
    wall, spent = time.perf_counter() - began, time.process_time() - cpu
    if count != events:
        raise RuntimeError(f"{count:,} events were projected, {events:,} are there")
    return Took(1e6 * wall / events, 1e6 * spent / events)
