"""Many streams at once through one proxy: nothing is lost, each is the same at its client and in the log, and none waits long.

An upstream, the proxy, and the client are processes of their own. The added delay of an event is what it took through the proxy,
less what it takes direct: both in one run, direct before and after.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import sqlalchemy as sa

from recorder import database, log
from tests.benchmarks import proxying
from tests.benchmarks.bench import quantile
from tests.commands import ProxyProcess, recorder, sqlite
from tests.proofs.transfers import memory

TITLE = "500 streams of 20 events/s each through one proxy, for a minute"
STREAMS, GAP_MS, SECONDS = 500, 50, 60


class Found(NamedTuple):
    """same: streams whose bytes are the same at the client and in the log. delays: ms of each event, sorted. memory: in bytes."""

    streams: int
    same: int
    events: int
    gaps: int
    dropped: int
    direct: list[float]
    proxied: list[float]
    memory: list[int]


def run(streams: int = STREAMS, seconds: int = SECONDS) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="recorder-proof-") as folder:
        found = loaded(Path(folder) / "log.db", streams, seconds)
    assert found.same == found.streams, f"{found.streams - found.same} streams differ"
    assert (found.gaps, found.dropped) == (0, 0)
    shares = {"p50": 0.5, "p99": 0.99}
    direct, proxied = ({name: quantile(side, share) for name, share in shares.items()} for side in (found.direct, found.proxied))
    resident = [round(size / 1e6, 1) for size in found.memory]
    return [
        f"{found.streams} streams, {found.events:,} events: each the same at the client and in the log; 0 gaps, 0 bytes dropped",
        *(
            f"added delay, {name}: {proxied[name] - direct[name]:.3f} ms (direct {direct[name]:.3f}, proxy {proxied[name]:.3f})"
            for name in shares
        ),
        f"slowest event: direct {found.direct[-1]:.1f} ms, proxy {found.proxied[-1]:.1f} ms",
        f"resident: {resident[0]} MB before, {resident[len(resident) // 2]} half way, {resident[-1]} at the end",
    ]


def loaded(file: Path, streams: int, seconds: int) -> Found:
    with proxying.upstream() as origin:
        few = max(2, seconds // 4)
        direct = proxying.client("paced", streams, GAP_MS, few, origin)["delays"]
        with ProxyProcess(f"http://127.0.0.1:{origin}", db=file) as proxy:
            resident = [memory(proxy.process.pid, "VmRSS")]
            over = threading.Event()

            def watch() -> None:
                while not over.wait(seconds / 20):
                    resident.append(memory(proxy.process.pid, "VmRSS"))

            watching = threading.Thread(target=watch)
            watching.start()
            try:
                seen = proxying.client("kept", streams, GAP_MS, seconds, proxy.port)
            finally:
                over.set()
                watching.join()
            dropped = int(proxy.metric("recorder_dropped_bytes_total"))
            assert proxy.stop() == 0, proxy.said
        direct = sorted([*direct, *proxying.client("paced", streams, GAP_MS, few, origin)["delays"]])
    same, events, gaps = _compared(file, seen["bodies"])
    assert recorder("verify", db=file, patience=600).returncode == 0
    return Found(streams, same, events, gaps, dropped, direct, seen["delays"], resident)


def _compared(file: Path, bodies: list[tuple[int, str]]) -> tuple[int, int, int]:
    """(streams of the log that are what their client had, events, gaps)."""
    engine = database.connect(sqlite(file), create=False)
    with database.read(engine) as connection:
        rows = connection.execute(sa.select(log.streams.c.stream_id, log.streams.c.query))
        queries = {row.stream_id: row.query for row in rows}
    same = events = gaps = 0
    for stream_id, query in queries.items():
        entries = list(log.read_stream(engine, stream_id))
        events += sum(not entry.type.startswith("$") for entry in entries)
        gaps += sum(entry.type == "$gap" for entry in entries)
        size, digest = 0, hashlib.blake2b(digest_size=16)
        for body, _, _ in log.wire(entries):
            size += len(body)
            digest.update(body)
        same += [size, digest.hexdigest()] == list(bodies[int(parse_qs(query)["stream"][0])])
    engine.dispose()
    assert len(queries) == len(bodies)
    return same, events, gaps
