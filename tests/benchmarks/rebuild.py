"""Rebuilding a large log while another process records into it: how long what is recorded waits for its commit.

`recorder rebuild` runs in a process of its own; a Writer here records twenty streams at 50 events/s each. A commit's delay
is from the chunk's call to its being on disk, so what it waits for the rebuild's write lock is in it.
"""

from __future__ import annotations

import subprocess
import sys
import time

import sqlalchemy as sa

from recorder import database, log
from recorder.collect.recording import Recording
from recorder.collect.streamid import new_stream_id
from recorder.collect.writer import Writer
from tests.benchmarks import generated
from tests.benchmarks.bench import Bench, median, quantile
from tests.benchmarks.report import Figure, at_most, number

TITLE = "Rebuild beside a recording process"
STREAMS = 20
PACE = 50  # events/s of a stream
PROBE = 5  # every so many chunks one is followed to its commit


def run(bench: Bench) -> list[Figure]:
    path, events = bench.large
    engine = database.connect(f"sqlite:///{path}")
    with database.read(engine) as connection:
        before = connection.execute(sa.select(sa.func.count()).select_from(log.heads)).scalar_one()
    chunks = [generated.body([row]) for row in generated.session(0)[1:-1]]
    alone = bench.size(4.0, 2.0)
    bench.say(f"recording {STREAMS} streams at {PACE} events/s each: {alone:g} s alone, then beside the rebuild")
    with Writer(engine) as writer:
        recordings = [_begun(writer, number) for number in range(STREAMS)]
        quiet = recorded(writer, recordings, chunks, lambda passed: passed < alone)
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from recorder.cli import main; raise SystemExit(main())",
                "--db",
                f"sqlite:///{path}",
                "rebuild",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            began = time.perf_counter()
            delays = recorded(writer, recordings, chunks, lambda passed: child.poll() is None and passed < 300)
            took = time.perf_counter() - began
            for recording in recordings:
                recording.end("eof")
            writer.flush(30)
            said = child.communicate(timeout=10)[1].strip()
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
        errors, dropped = writer.errors, writer.dropped_bytes
    if child.returncode:
        raise RuntimeError(f"the rebuild failed: {said}")
    with database.read(engine) as connection:
        gaps = connection.execute(sa.select(sa.func.count()).where(log.events.c.type == "$gap")).scalar_one()
        after = connection.execute(sa.select(sa.func.count()).select_from(log.heads)).scalar_one()
    engine.dispose()
    if after != before + STREAMS:
        raise RuntimeError(f"{after - before} streams were recorded, not {STREAMS}")
    rates = (
        f"p50 {number(median(delays))} ms, max {number(max(delays))} over {len(delays):,} commits;"
        f" without the rebuild p50 {number(median(quiet))}, p99 {number(quantile(quiet, 0.99))}, max {number(max(quiet))}"
    )
    return [
        Figure(
            f"p99 delay of a commit beside the rebuild of {events:,} events", quantile(delays, 0.99), "ms", rates, at_most(100)
        ),
        Figure("gaps recorded meanwhile", gaps, "events", f"{errors} failed commits, {dropped} bytes lost", at_most(0)),
        Figure("the rebuild beside it", events / took, "events/s", "start-up and sweep included"),
    ]


def recorded(writer: Writer, recordings: list[Recording], chunks: list[bytes], going: object) -> list[float]:
    """Record at the pace for as long as `going` says; the delay of each commit that was followed, in ms."""
    assert callable(going)
    delays: list[float] = []
    began = time.perf_counter()
    number = 0
    while going(time.perf_counter() - began):
        due = began + number / (len(recordings) * PACE)
        while (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        asked = time.perf_counter()
        recordings[number % len(recordings)].chunk(chunks[number // len(recordings) % len(chunks)])
        if number % PROBE == 0:
            writer.after_commit(lambda asked=asked: delays.append((time.perf_counter() - asked) * 1e3))  # type: ignore[misc]
        number += 1
    writer.flush(60)
    return delays


def _begun(writer: Writer, number: int) -> Recording:
    """A stream that begins now: its id sorts after all that the log holds."""
    recording = writer.begin(generated.stream(number)._replace(stream_id=new_stream_id(), session_label="beside"))
    recording.response(200, (("content-type", "text/event-stream"),), "text/event-stream")
    return recording
