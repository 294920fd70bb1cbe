"""One TCP (or TLS) connection: what arrives is held until it is read, and what is written waits until it can go.

Both ways are bounded: beyond HELD_BYTES nothing more is taken from the other side, and drained() waits for it to take. What
arrived before a connection broke can be read after that, unlike with asyncio's own streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import Any, cast

if sys.platform == "linux":
    import fcntl

HELD_BYTES = 256 * 1024
"""Bytes that are held for a reader before the other side has to wait."""

TURN_BYTES = 32 * 1024
"""Bytes that are read in one turn of the event loop if each may be a chunk, or nearly a request, of its own."""

LINGER_SECONDS = 5.0
"""How long a connection that is to be closed waits for what was sent to arrive, and for the other side to stop sending."""

_READ_SECONDS = 0.02
_TIOCOUTQ = 0x5411  # bytes that the kernel has not got rid of yet (Linux)
_KEEP_ALIVE_SECONDS = 60  # after so long without a byte the other side is asked whether it is still there


class Connection(asyncio.Protocol):
    """lost: done once the connection is no more. ended: nothing more will arrive. error: why, where it broke."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.ended = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0
        self._reading = True
        self._discarding = False
        self._arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._full = False
        self._spare: socket.socket | None = None

    # What arrives

    @property
    def holds(self) -> bool:
        """Whether something has arrived that was not read."""
        return bool(self._held)

    async def read(self, at_most: int | None = None) -> bytes:
        """What has arrived; waits for something. b"" if nothing more will.

        at_most: bytes of it; before the rest, which is read next, it is other connections' turn.
        """
        if not self._held and not self.ended:
            self._arrived = self._loop.create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        if at_most is not None and self._size > at_most:
            await asyncio.sleep(0)
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        if at_most is None or len(data) <= at_most:
            self._forget_held()
            return data
        self._held, self._size = [data[at_most:]], len(data) - at_most
        return data[:at_most]

    # What is sent

    def write(self, *data: bytes) -> None:
        if data and not self.transport.is_closing():
            self.transport.write(data[0] if len(data) == 1 else b"".join(data))

    async def drained(self) -> None:
        """Wait while more is on its way than the other side takes; no longer than the connection lasts."""
        if self._full and not self.lost.done():
            self._writable = self._loop.create_future()
            try:
                await self._writable
            finally:
                self._writable = None

    def hold_on(self) -> None:
        """From now until let_go(): what has arrived is read, even when the other side broke the connection and a write found out.

        The transport drops it then, and it may say why. Not through TLS, where what has arrived is of use to the transport alone.
        """
        raw = self.transport.get_extra_info("socket")
        if raw is not None and self._spare is None and self.transport.get_extra_info("ssl_object") is None:
            with contextlib.suppress(OSError):
                self._spare = raw.dup()

    def let_go(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

    # How it ends

    def close(self) -> None:
        """Close it once what was written has been sent."""
        self.transport.close()

    def abort(self) -> None:
        """Close it now."""
        self.transport.abort()

    async def finish(self) -> None:
        """Close it so that the other side gets all that was written, though it may still be sending (RFC 9112, 9.6)."""
        self._discard()
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            self.transport.write_eof()
            await self._within(self.lost)
        self.transport.close()
        await self._within(self.lost)
        self.transport.abort()

    async def reset(self) -> None:
        """Break it with a TCP reset, once the other side has got what was written, and had some time to read it.

        For there are systems that drop what was not read when a reset arrives, and clients that look for it first.
        """
        self._discard()
        ends = self._loop.time() + LINGER_SECONDS
        while self._unsent() and not self.lost.done() and self._loop.time() < ends:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.002)
        await asyncio.sleep(_READ_SECONDS)
        self.break_off()

    def break_off(self) -> None:
        """Break it with a TCP reset now; what is on its way may be lost."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and not self.lost.done():
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _within(self, future: asyncio.Future[None]) -> None:
        await asyncio.wait({future}, timeout=LINGER_SECONDS)

    def _unsent(self) -> int:
        """Bytes that the other side's kernel has not acknowledged, as far as this system says it."""
        waiting = self.transport.get_write_buffer_size()
        raw = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or raw is None or self.lost.done():
            return waiting
        try:
            (unacknowledged,) = struct.unpack("i", fcntl.ioctl(raw.fileno(), _TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            return waiting
        return waiting + int(unacknowledged)

    def _discard(self) -> None:
        """Take whatever comes, and drop it."""
        self._discarding = True
        self._forget_held()

    def _forget_held(self) -> None:
        self._held.clear()
        self._size = 0
        if not self._reading and not self.ended and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, though not by its class
        raw: Any = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError, AttributeError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._held.append(data)
        self._size += len(data)
        if self._size >= HELD_BYTES and self._reading and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()
        self._wake(self._arrived)

    def eof_received(self) -> bool:
        self.ended = True
        self._wake(self._arrived)
        return False  # the transport closes itself

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake(self._writable)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._spare is not None:
            with contextlib.suppress(OSError):
                while data := self._spare.recv(HELD_BYTES):
                    self.data_received(data)
        self.let_go()
        self.ended = True
        self.error = error
        if not self.lost.done():
            self.lost.set_result(None)
        self._wake(self._arrived)
        self._wake(self._writable)

    def _wake(self, waiting: asyncio.Future[None] | None) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class Client(Connection):
    """A connection that was accepted. idle: it is between two requests. leaving: the server stops after the one at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = True
        self.leaving = False

    def shutdown(self) -> None:
        """The server is to stop."""
        self.leaving = True
        if self.idle:
            self.close()
