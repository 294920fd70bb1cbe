"""The tee: what Recording.chunk() costs on the thread that calls it, and what a hook adds to a client, while SQLite is written.

At a pace (10,000 chunks a second, as of 200 streams) each call is timed by itself: nearly all wait for nobody. Unpaced, the
caller competes with the writer for the interpreter; there it is the caller's own processor time that counts. The client reads
chunks that are in memory already, so that nothing but the client and the tee is measured.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from recorder import record
from recorder.collect.recording import Recording
from recorder.collect.tee import FAMILIES
from recorder.collect.writer import Writer
from tests.benchmarks import generated
from tests.benchmarks.append import remove_of
from tests.benchmarks.bench import Bench, median, quantile, remove, rounds
from tests.benchmarks.report import RATIO, Figure, at_most, number

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
        *hooked(bench, chunks),
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


class Took(NamedTuple):
    """µs a chunk: processor time of the client's thread, and by the clock."""

    cpu: float
    clock: float


def hooked(bench: Bench, chunks: list[bytes]) -> list[Figure]:
    """What the hook adds to a chunk, for each kind of client that is installed, sync and async."""
    figures = []
    for name in FAMILIES:
        try:
            family = importlib.import_module(name)
        except ModuleNotFoundError:
            bench.say(f"{name} IS NOT MEASURED: it is not installed")
            continue
        for kind, read in (("Client", sync_read), ("AsyncClient", async_read)):
            figures.append(added(bench, f"{name}.{kind}", family, read, chunks))
    return figures


def added(bench: Bench, name: str, family: ModuleType, read: Read, chunks: list[bytes]) -> Figure:
    """The best round of each side. Every round with the hook has a log of its own, which is complete before the next begins."""
    count = bench.size(20_000, 5_000)
    streamed = (chunks * (count // len(chunks) + 1))[:count]
    bench.say(f"{name}, {count:,} chunks a stream")
    found: dict[str, list[Took]] = {"without": [], "with": []}

    def side(hooked: bool) -> float:
        path = bench.fresh()
        took = read(family, streamed, f"sqlite:///{path}" if hooked else None)
        found["with" if hooked else "without"].append(took)
        remove(path)
        return took.cpu

    rounds({"without": partial(side, False), "with": partial(side, True)}, bench.size(7, 3))
    bare, teed = (min(found[which]) for which in ("without", "with"))
    said = f"{number(teed.cpu)} against {number(bare.cpu)} µs ({number(teed.cpu / bare.cpu)} {RATIO})"
    said += f"; by the clock {number(teed.clock)} against {number(bare.clock)}"
    return Figure(f"{name}: the hook adds to a chunk, processor time", teed.cpu - bare.cpu, "µs", said, at_most(5))


Read = Callable[[ModuleType, list[bytes], str | None], Took]
"""Has a client of a family read chunks, recorded into this database or not."""


def sync_read(family: ModuleType, chunks: list[bytes], db: str | None) -> Took:
    class Chunks(family.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield from chunks

    class Transport(family.BaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            return family.Response(200, headers=_SSE, stream=Chunks())

    with family.Client(transport=Transport()) as client:
        hook = record(client, db) if db else None
        with client.stream("POST", _URL, content=b"{}") as response:
            cpu, clock = time.thread_time(), time.perf_counter()
            seen = sum(1 for _ in response.iter_raw())
            took = Took((time.thread_time() - cpu) / seen * 1e6, (time.perf_counter() - clock) / seen * 1e6)
        if hook:
            hook.close()
    return took


def async_read(family: ModuleType, chunks: list[bytes], db: str | None) -> Took:
    class Chunks(family.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

    class Transport(family.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            return family.Response(200, headers=_SSE, stream=Chunks())

    async def reading() -> Took:
        async with family.AsyncClient(transport=Transport()) as client:
            hook = record(client, db) if db else None
            async with client.stream("POST", _URL, content=b"{}") as response:
                cpu, clock, seen = time.thread_time(), time.perf_counter(), 0
                async for _ in response.aiter_raw():
                    seen += 1
                took = Took((time.thread_time() - cpu) / seen * 1e6, (time.perf_counter() - clock) / seen * 1e6)
            if hook:
                await hook.aclose()
        return took

    return asyncio.run(reading())


_SSE = {"content-type": "text/event-stream"}
_URL = "http://upstream.invalid/v1/threads/runs"
