"""`recorder serve` as its clients have it: a stream at once, beside the same bytes of a plain upstream; and fifty at their pace.

Three processes: the server, the client on bare sockets with uvloop, and this one, which waits. Each event is a chunk of its
own, and each is stamped with its time, so that the client can tell how far from it the event came.
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from recorder import database, log, sse
from tests.benchmarks import generated
from tests.benchmarks.bench import Bench, best, median, quantile, remove, rounds
from tests.benchmarks.proxying import burst, client, process, upstream
from tests.benchmarks.report import RATIO, Figure, at_least, at_most, number, per_second
from tests.benchmarks.upstream import EVENT

TITLE = "Serve, at once and at the pace of 50 sessions"
SESSIONS = 50
PACE = 50  # events a second

_SERVING = re.compile(r"http://127\.0\.0\.1:(\d+)/")


def run(bench: Bench) -> list[Figure]:
    return instantly(bench) + at_their_pace(bench)


def instantly(bench: Bench) -> list[Figure]:
    events, count = bench.size(200_000, 40_000), bench.size(3, 2)
    path = bench.fresh()
    bench.say(f"recording a stream of {events:,} events")
    recorded(path, {0: [number * 1_000_000 for number in range(events)]})
    with upstream() as origin, serve(path, "--instant") as ours:
        bench.say(f"one stream of {events:,} events, {count} rounds a side")
        found = best(rounds({"direct": lambda: burst(origin, events, 0), "recorder": lambda: burst(ours, events, 0)}, count))
    remove(path)
    rates = f"{per_second(events, found['recorder'])} against {per_second(events, found['direct'])}"
    return [
        Figure("one stream, at once", events / found["recorder"], "events/s", aim=at_least(50_000)),
        Figure("the same / a plain upstream, an event a write", found["direct"] / found["recorder"], RATIO, rates),
    ]


def at_their_pace(bench: Bench) -> list[Figure]:
    """The best round, by p99, of those that begin within a second; and one in which all begin at the same moment."""
    events = bench.size(6, 2) * PACE
    path = bench.fresh()
    recorded(path, {number: due(number, events) for number in range(1, SESSIONS + 1)})
    found = []
    with serve(path) as port:
        for _ in range(bench.size(3, 2)):
            bench.say(f"{SESSIONS} sessions of {PACE} events/s, {events} events each")
            found.append(client("replayed", SESSIONS, events, 1000, port)["errors"])
        together = client("replayed", SESSIONS, events, 0, port)["errors"]
        alone = client("replayed", 1, events, 0, port)["errors"]
    remove(path)
    late = min(found, key=lambda errors: quantile(errors, 0.99))
    return [
        Figure(f"{SESSIONS} sessions at their pace, p99 timing error", quantile(late, 0.99), "ms", shown(late), at_most(2)),
        Figure("the same, all begun at the same moment", quantile(together, 0.99), "ms", shown(together)),
        Figure("one session alone", quantile(alone, 0.99), "ms", shown(alone)),
    ]


def shown(errors: list[float]) -> str:
    return f"p50 {number(median(errors))} ms, max {number(max(errors))}, of {len(errors):,} events"


def due(seed: int, events: int) -> list[int]:
    """When each event of a session is due (ns since its request)."""
    gaps, at, found = random.Random(seed), 0.0, []
    for _ in range(events):
        at += gaps.uniform(0.2, 1.8) / PACE
        found.append(int(at * 1e6) * 1000)  # the log counts µs
    return found


def recorded(path: Path, sessions: dict[int, list[int]]) -> None:
    """A log with a stream for each of these threads, its events at these times (ns)."""
    engine = database.connect(f"sqlite:///{path}")
    for thread, times in sessions.items():
        _record(engine, thread, times)
    engine.dispose()


def _record(engine: sa.Engine, thread: int, times: list[int]) -> None:
    stream = generated.stream(thread * 4)  # four runs share a thread
    response = {"status": 200, "headers": [["content-type", "text/event-stream; charset=utf-8"]]}
    frames = [log.system_frame("$response", response, times[0] // 2000)]
    frames += [sse.Frame(*sse.parse(EVENT % at), None, at // 1000) for at in times]
    frames.append(log.system_frame("$end", {"outcome": "eof", "closed": "eof"}, times[-1] // 1000 + 1))
    rows = [log.row(stream.stream_id, position, frame) for position, frame in enumerate(frames)]
    with database.write(engine) as connection:
        log.insert_streams(connection, [stream])
        for at in range(0, len(rows), generated.BATCH):
            log.append(connection, {stream.stream_id: rows[at : at + generated.BATCH]})


@contextlib.contextmanager
def serve(path: Path, *options: str) -> Iterator[int]:
    """`recorder serve`, once it says that it does."""
    command = [sys.executable, "-c", "from recorder.cli import main; raise SystemExit(main())", "--db", f"sqlite:///{path}"]
    with process([*command, "serve", "--port", "0", *options], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        said = child.stderr.readline()
        found = _SERVING.search(said)
        if not found:
            raise RuntimeError(f"recorder serve did not start: {said}")
        yield int(found[1])
