"""The upstream of the proxy benchmark, a process of its own: `python -m tests.benchmarks.upstream` prints its port.

It answers any request with an SSE body in chunked encoding, by its query: events=N at once or, with gap_ms=G, one every G
ms. Each event says when it was sent (ns of the monotonic clock, which all processes of a machine share). It sends each event
by itself, as a server does whose model produces one after the other; with together=1 as many in one write as 64 KiB hold.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import cast

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
EVENT = (
    b'event: thread.message.delta\ndata: {"id":"msg_Bq7ZkT0vXw1c000000000000","object":"thread.message.delta","delta":{"content":'
    b'[{"index":0,"type":"text","text":{"value":" and so it says a few words more than a token would, for it is what is'
    b' left of a longer answer","annotations":[]}}]},"sent_ns":%020d}\n\n'
)
SIZE = len(EVENT % 0)
CHUNK = b"%x\r\n%b\r\n"
END = b"0\r\n\r\n"
TOGETHER = 64 * 1024 // SIZE

_QUERY = re.compile(rb"[?&](\w+)=(\d+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Upstream(asyncio.Protocol):
    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._held = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, though not by its class

    def connection_lost(self, error: Exception | None) -> None:
        if self._task:
            self._task.cancel()
        self._ticker.drop(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(rest) < int(length[1])):
            return
        self._held = b""
        asked = {name: int(value) for name, value in _QUERY.findall(head.partition(b"\r\n")[0])}
        self.transport.write(HEAD)
        if gap_ms := asked.get(b"gap_ms"):
            self._ticker.add(self, asked[b"events"], gap_ms * 1_000_000)
        else:
            self._task = asyncio.get_running_loop().create_task(self._burst(asked[b"events"], bool(asked.get(b"together"))))

    async def _burst(self, events: int, together: bool) -> None:
        size = TOGETHER if together else 1
        for at in range(0, events, size):
            await self._writable.wait()
            self.transport.write(b"".join(chunk() for _ in range(min(size, events - at))))
            await asyncio.sleep(0)  # the loop sends it now
        self.transport.write(END)


class Ticker:
    """Sends the events of all paced streams, looking every ms for what is due; the streams begin spread over a gap."""

    def __init__(self) -> None:
        self._streams: dict[Upstream, Iterator[int]] = {}
        self._due: dict[Upstream, int] = {}
        self._begun = 0

    def add(self, stream: Upstream, events: int, gap_ns: int) -> None:
        first = time.monotonic_ns() + gap_ns * (self._begun * 7 % 100) // 100
        self._begun += 1
        self._streams[stream] = iter(range(first, first + events * gap_ns, gap_ns))
        self._due[stream] = next(self._streams[stream])

    def drop(self, stream: Upstream) -> None:
        self._streams.pop(stream, None)
        self._due.pop(stream, None)

    async def run(self) -> None:
        while True:
            now = time.monotonic_ns()
            for stream, due in list(self._due.items()):
                if due <= now:
                    stream.transport.write(chunk())
                    after = next(self._streams[stream], None)
                    if after is None:
                        stream.transport.write(END)
                        self.drop(stream)
                    else:
                        self._due[stream] = after
            await asyncio.sleep(0.001)


def chunk() -> bytes:
    """An event that is sent now, as a chunk of the body."""
    return CHUNK % (SIZE, EVENT % time.monotonic_ns())


async def main() -> None:
    ticker = Ticker()
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(ticker), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ticker.run()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
