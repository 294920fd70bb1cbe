"""The recording proxy beside the upstream itself and beside mitmproxy, which only passes on.

Four processes: an upstream that sends each event by itself, the proxy at hand, and the client, on bare sockets with uvloop;
and this one, which waits. Everything that passes through recorder is committed to SQLite, and counted there afterwards.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import peers
from tests.benchmarks.bench import Bench, best, median, quantile, remove, rounds
from tests.benchmarks.report import RATIO, Aim, Figure, at_least, at_most, number, per_second

TITLE = "Proxy, recording everything"
STREAMS, GAP_MS = 200, 20

_LISTENING = re.compile(r"http://127\.0\.0\.1:(\d+) ")


def run(bench: Bench) -> list[Figure]:
    path = bench.fresh()
    with upstream() as origin, recorder_proxy(path, origin) as ours:
        ports = {"direct": origin, "recorder": ours}
        with contextlib.ExitStack() as stack:
            try:
                mitmproxy = f"mitmproxy {peers.mitmproxy_version()}"
                ports[mitmproxy] = stack.enter_context(mitm_proxy(bench, origin))
            except peers.Missing as error:
                mitmproxy = ""
                bench.say(f"MITMPROXY IS NOT COMPARED: {error}")
            figures, sent = bursts(bench, ports, path)
            figures += first_bytes(bench, ports)
            more, of_many = many_streams(bench, ports)
            figures += more
    kept, gaps = counted(path)
    sent += bench.size(200, 50) + 5 + of_many
    figures.append(Figure("events sent through recorder and not in its log", sent - kept, "events", f"of {sent:,}", at_most(0)))
    figures.append(Figure("gaps recorded meanwhile", gaps, "events", aim=at_most(0)))
    remove(path)
    return figures


def bursts(bench: Bench, ports: dict[str, int], path: Path) -> tuple[list[Figure], int]:
    """One unpaced stream, with an event a write and with many; how many events went through recorder."""
    events = bench.size(200_000, 40_000)
    count = bench.size(3, 2)
    figures = []
    committed: list[float] = []
    sent = 0

    def passed(name: str, together: int) -> float:
        """Seconds an event. mitmproxy gets fewer: it is slow, and no faster at the end than at the start."""
        nonlocal sent
        size = events if name in ("direct", "recorder") else events // 4
        began = time.perf_counter()
        seconds = burst(ports[name], size, together)
        if name == "recorder":
            sent += size
            drained(path)  # the next round finds an idle writer
            if not together:
                committed.append((time.perf_counter() - began) / size)
        return seconds / size

    def figure(found: dict[str, float], name: str, way: str, aim: Aim | None) -> Figure:
        rates = f"{per_second(1, found['recorder'])} against {per_second(1, found[name])}"
        return Figure(f"one stream, {way}: recorder / {name}", found[name] / found["recorder"], RATIO, rates, aim)

    for together, way in ((0, "an event a write"), (1, "64 KiB a write")):
        bench.say(f"one stream of {events:,} events, {way}, {count} rounds a side")
        sides = {name: partial(passed, name, together) for name in ports if not together or name in ("direct", "recorder")}
        found = best(rounds(sides, count))
        figures.append(figure(found, "direct", way, None if together else at_least(0.5)))
        figures += [figure(found, name, way, at_least(2)) for name in found if name not in ("direct", "recorder")]
    figures.append(Figure("one stream, an event a write, until the last is committed", 1 / min(committed), "events/s"))
    return figures, sent


def first_bytes(bench: Bench, ports: dict[str, int]) -> list[Figure]:
    count = bench.size(200, 50)
    bench.say(f"the first event of {count} streams, one after the other, from each in turn")
    seen = client("first", count, *ports.values())
    found = {name: seen[str(port)] for name, port in ports.items()}
    said = ", ".join(
        f"{name} p50 {number(median(values))} p99 {number(quantile(values, 0.99))} ms" for name, values in found.items()
    )
    later = median(found["recorder"]) - median(found["direct"])
    return [Figure("first event, later than direct", later, "ms", said, at_most(2))]


def many_streams(bench: Bench, ports: dict[str, int]) -> tuple[list[Figure], int]:
    """Each side's best of its rounds, by p99; how many events went through recorder."""
    seconds, count = bench.size(5, 3), bench.size(3, 2)
    bench.say(f"{STREAMS} streams of {1000 // GAP_MS} events/s each, {seconds} s, {count} rounds a side")
    found: dict[str, list[float]] = {}
    for turn in range(count):
        for name, port in ports.items():
            if turn and name not in ("direct", "recorder"):
                continue
            delays = client("paced", STREAMS, GAP_MS, seconds, port)["delays"]
            if name not in found or quantile(delays, 0.99) < quantile(found[name], 0.99):
                found[name] = delays
    said = ", ".join(
        f"{name} p50 {number(median(delays))} p99 {number(quantile(delays, 0.99))} max {number(delays[-1])} ms"
        for name, delays in found.items()
    )

    def added(share: float) -> float:
        return quantile(found["recorder"], share) - quantile(found["direct"], share)

    return [
        Figure(f"{STREAMS} streams: added delay, p99", added(0.99), "ms", said, at_most(3)),
        Figure(f"{STREAMS} streams: added delay, p50", added(0.5), "ms"),
    ], count * STREAMS * seconds * 1000 // GAP_MS


def burst(port: int, events: int, together: int) -> float:
    seconds: float = client("burst", events, together, port)["seconds"]
    return seconds


def client(*arguments: object) -> Any:
    command = [sys.executable, "-m", "tests.benchmarks.client", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def drained(path: Path) -> None:
    """Wait until every stream of the log has ended."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        while True:
            ended, begun = connection.execute(
                "SELECT (SELECT count(*) FROM heads WHERE outcome IS NOT NULL), (SELECT count(*) FROM streams)"
            ).fetchone()
            if ended == begun:
                return
            time.sleep(0.02)


def counted(path: Path) -> tuple[int, int]:
    """(events, gaps) of a log whose proxy has ended."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        kept: int
        gaps: int
        kept, gaps = connection.execute(
            "SELECT coalesce(sum(type NOT LIKE '$%'), 0), coalesce(sum(type = '$gap'), 0) FROM events"
        ).fetchone()
        return kept, gaps


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.benchmarks.upstream"]
    with process(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


@contextlib.contextmanager
def recorder_proxy(path: Path, origin: int) -> Iterator[int]:
    """`recorder proxy`; leaving it waits until it has committed everything."""
    command = [sys.executable, "-c", "from recorder.cli import main; raise SystemExit(main())", "--db", f"sqlite:///{path}"]
    command += ["proxy", "--upstream", f"http://127.0.0.1:{origin}", "--port", "0"]
    with process(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        said = child.stderr.readline()
        found = _LISTENING.search(said)
        if not found:
            raise RuntimeError(f"recorder proxy did not start: {said}")
        yield int(found[1])


@contextlib.contextmanager
def mitm_proxy(bench: Bench, origin: int) -> Iterator[int]:
    """mitmdump as a reverse proxy that streams bodies on instead of holding them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(peers.mitmdump()), "--mode", f"reverse:http://127.0.0.1:{origin}", "-p", str(port), "-q"]
    command += ["--set", "stream_large_bodies=1", "--set", f"confdir={bench.folder / 'mitmproxy'}", "--listen-host", "127.0.0.1"]
    with process(command, patience=2, stderr=subprocess.DEVNULL) as child:
        reached(port, child)
        yield port


def reached(port: int, child: subprocess.Popen[str]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if child.poll() is not None:
            break
        time.sleep(0.05)
    raise peers.Missing("mitmdump does not listen")


@contextlib.contextmanager
def process(command: list[str], patience: float = 60, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended when it is left: by SIGTERM, and by force where that takes too long (seconds)."""
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe:
                pipe.close()
