"""The client of the proxy and serving benchmarks, a process of its own, on bare sockets: prints what it saw as JSON.

python -m tests.benchmarks.client burst EVENTS TOGETHER PORT          → {"seconds"}
python -m tests.benchmarks.client first COUNT PORT…                   → {PORT: [ms to the first event, …]}
python -m tests.benchmarks.client paced STREAMS GAP_MS SECONDS PORT   → {"delays": [ms of each event, sorted]}
python -m tests.benchmarks.client replayed STREAMS EVENTS SPREAD_MS PORT → {"errors": [ms of each event, sorted]}
python -m tests.benchmarks.client kept STREAMS GAP_MS SECONDS PORT    → the same, with "bodies": [[bytes, BLAKE2 of them], …]

A paced stream says its number, from 0 on, in its query: `stream=N`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import zip_longest
from typing import cast

_SENT = re.compile(rb'"sent_ns":(\d{20})')
_BODY = b'{"assistant_id":"asst_4UdR0pXcZq8LfYs1NnBvKe2A","stream":true}'
_WARM_UP_NS = 1_000_000_000  # of a paced run: connections are made in it

Take = Callable[[bytes], bool]
"""What came; whether that was all."""


class Client(asyncio.Protocol):
    """One connection; a request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._take: Take | None = None
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, though not by its class

    def data_received(self, data: bytes) -> None:
        if self._take and self._take(data) and self._done and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(ConnectionResetError("the connection was closed before the end"))

    async def request(self, query: str, take: Take, thread: int = 0) -> None:
        self._take = take
        self._done = asyncio.get_running_loop().create_future()
        head = f"POST /v1/threads/thread_Hy3Tq0WmEo5u{thread:012d}/runs?{query} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        self.transport.write(
            head.encode() + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
        )
        await self._done


async def connected(port: int) -> Client:
    return (await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port))[1]


def counter(events: int) -> Take:
    """All events are there when their line ends are, three each; those of the transfer encoding follow a CR."""
    left, last = events * 3, b""

    def take(data: bytes) -> bool:
        nonlocal left, last
        left -= data.count(b"\n") - data.count(b"\r\n") - (last == b"\r" and data[:1] == b"\n")
        last = data[-1:]
        return left <= 0

    return take


def stamped(events: int, came: Callable[[int], None], body: Body | None = None) -> Take:
    """All events are there when each of their stamps has been, or `body` has ended; `came` is told each stamp."""
    held, left = b"", events

    def take(data: bytes) -> bool:
        nonlocal held, left
        held += data
        end = 0
        for found in _SENT.finditer(held):
            end = found.end()
            left -= 1
            came(int(found[1]))
        held = held[end:][-64:]
        if body is None:
            return left == 0
        body.feed(data)
        return body.ended

    return take


async def burst(events: int, together: int, port: int) -> object:
    client = await connected(port)
    began = time.perf_counter()
    await client.request(f"events={events}&together={together}", counter(events))
    return {"seconds": time.perf_counter() - began}


async def first(count: int, *ports: int) -> object:
    """Requests to each port in turn, on connections that are kept; the first ones, which make connections, don't count."""
    clients = {port: await connected(port) for port in ports}
    found: dict[int, list[float]] = {port: [] for port in ports}
    for number in range(-5, count):
        for port, client in clients.items():
            came: list[float] = []
            held = bytearray()

            def take(data: bytes, came: list[float] = came, held: bytearray = held) -> bool:
                held.extend(data)
                if not came and _SENT.search(held):
                    came.append(time.perf_counter())
                return held.endswith(b"0\r\n\r\n")

            began = time.perf_counter()
            await client.request("events=1", take)
            if number >= 0:
                found[port].append((came[0] - began) * 1e3)
            await asyncio.sleep(0.004)
    return found


class Body:
    """The body of a response in chunked encoding, as it comes: how many bytes it is, and their digest."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.blake2b(digest_size=16)
        self.ended = False
        self._held = b""
        self._left = 0  # bytes of a chunk that has begun
        self._head = True

    def feed(self, data: bytes) -> None:
        data = self._held + data
        if self._head:
            _, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._held = data
                return
            data, self._head = rest, False
        while data:
            if self._left:
                some = data[: self._left]
                self.size += len(some)
                self.digest.update(some)
                self._left -= len(some)
                data = data[len(some) :]
                continue
            line, end, rest = data.removeprefix(b"\r\n").partition(b"\r\n")
            if not end:
                break
            self._left = int(line, 16)
            self.ended = self._left == 0
            data = b"" if self.ended else rest
        self._held = data


async def kept(streams: int, gap_ms: int, seconds: int, port: int) -> object:
    bodies = [Body() for _ in range(streams)]
    found = await paced(streams, gap_ms, seconds, port, bodies)
    if not all(body.ended for body in bodies):
        raise RuntimeError("a body has no end")
    return {**found, "bodies": [(body.size, body.digest.hexdigest()) for body in bodies]}


async def paced(streams: int, gap_ms: int, seconds: int, port: int, bodies: Sequence[Body] = ()) -> dict[str, list[float]]:
    events = seconds * 1000 // gap_ms
    delays: list[int] = []
    clock = time.monotonic_ns
    warm = clock() + _WARM_UP_NS
    seen = 0

    def came(sent: int) -> None:
        nonlocal seen
        seen += 1
        if sent > warm:
            delays.append(clock() - sent)

    clients = [await connected(port) for _ in range(streams)]
    await asyncio.gather(
        *(
            client.request(f"events={events}&gap_ms={gap_ms}&stream={number}", stamped(events, came, body))
            for number, (client, body) in enumerate(zip_longest(clients, bodies))
        )
    )
    if seen != streams * events:
        raise RuntimeError(f"{seen} events came, not {streams * events}")
    return {"delays": sorted(delay / 1e6 for delay in delays)}


async def replayed(streams: int, events: int, spread_ms: int, port: int) -> object:
    """Streams of threads 1, 2 …, whose events are stamped with when they are due: ns since the request was sent."""
    errors: list[float] = []
    clock = time.monotonic_ns

    async def one(number: int, client: Client) -> None:
        await asyncio.sleep(number * spread_ms / streams / 1000)
        began = clock()
        await client.request("", stamped(events, lambda due: errors.append(abs(clock() - began - due) / 1e6)), number + 1)

    clients = [await connected(port) for _ in range(streams)]
    await asyncio.gather(*(one(number, client) for number, client in enumerate(clients)))
    return {"errors": sorted(errors)}


COMMANDS: dict[str, Callable[..., Coroutine[None, None, object]]] = {
    "burst": burst,
    "first": first,
    "paced": paced,
    "replayed": replayed,
    "kept": kept,
}


if __name__ == "__main__":
    import uvloop

    seen = uvloop.run(COMMANDS[sys.argv[1]](*map(int, sys.argv[2:])))
    with open(sys.stdout.fileno(), "w", closefd=False) as out:  # buffered: with PYTHONUNBUFFERED a long line can be cut short
        json.dump(seen, out)
