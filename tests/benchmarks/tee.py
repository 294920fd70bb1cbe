"""The tee: what Recording.chunk() costs on the thread that calls it, while a writer commits to SQLite.

At a pace (10,000 chunks a second, as of 200 streams) each call is timed by itself: nearly all wait for nobody. Unpaced, the
caller competes with the writer for the interpreter; there it is the caller's own processor time that counts.
"""

from __future__ import annotations

import time
from functools import partial

from recorder.collect.writer import Recording, Writer
from tests.benchmarks import generated
from tests.benchmarks.append import remove_of
from tests.benchmarks.bench import Bench, median, quantile
from tests.benchmarks.report import Figure, at_most, number

TITLE = "Tee, on the caller's thread"
PACE = 10_000
STREAMS = 200


def run(bench: Bench) -> list[Figure]:
    chunks = [generated.body([row]) for row in generated.session(0)[1:-1]]
    engine = bench.database()
    bench.say(f"{PACE:,} chunks/s into {STREAMS} streams for {bench.size(5, 2)} s")
    with Writer(engine) as writer:
        recordings = [begun(writer, number) for number in range(STREAMS)]
        took = timed(recordings, chunks, bench.size(5, 2) * PACE)
        writer.flush(30)
        lost = writer.dropped_bytes
    count = bench.size(100_000, 20_000)
    bench.say(f"{count:,} chunks unpaced")
    with Writer(engine) as writer:
        recording = begun(writer, STREAMS)
        cpu, began = time.thread_time(), time.perf_counter()
        for chunk in (chunks * (count // len(chunks) + 1))[:count]:
            recording.chunk(chunk)
        unpaced, waited = (time.thread_time() - cpu) / count * 1e6, (time.perf_counter() - began) / count * 1e6
        lost += writer.dropped_bytes
    engine.dispose()
    remove_of(engine)
    tail = f"p50 {number(median(took))} µs, p99 {number(quantile(took, 0.99))}, max {number(max(took))}; lost {lost} bytes"
    mean = sum(took) / len(took)
    return [
        Figure(f"a chunk at {PACE:,}/s, mean", mean, "µs", tail, at_most(5)),
        Figure("a chunk unpaced, processor time of its thread", unpaced, "µs", f"{number(waited)} µs by the clock"),
    ]


def begun(writer: Writer, number: int) -> Recording:
    recording = writer.begin(generated.stream(number))
    recording.response(200, (("content-type", "text/event-stream"),), "text/event-stream")
    return recording


def timed(recordings: list[Recording], chunks: list[bytes], count: int) -> list[float]:
    """µs of each call, in bursts of 10 a ms."""
    found: list[float] = []
    clock = time.perf_counter_ns
    calls = [partial(recording.chunk) for recording in recordings]
    began = clock()
    for turn in range(count):
        due = began + turn // 10 * 1_000_000
        while (wait := due - clock()) > 0:
            time.sleep(wait / 1e9)
        call, chunk = calls[turn % len(calls)], chunks[turn % len(chunks)]
        before = clock()
        call(chunk)
        found.append((clock() - before) / 1000)
    return found
