"""One stream on its way to the log: what a tee says of it, and how that is queued.

A tee calls Recording.chunk() and goes on: that is a put on a queue, never a wait on a database and never an exception.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from recorder.collect.allowance import limit_of
from recorder.collect.budget import Budget
from recorder.collect.decoding import Closed, Decoding, Lost, Response, Said, Whole
from recorder.collect.outcome import Ending
from recorder.collect.screen import Screen
from recorder.log import Stream
from recorder.settings import Settings
from recorder.sse import Frame

ENTRY_COST = 200
"""Bytes of memory of a queue entry beside its chunk."""

FULL = "queue full"
"""The reason of a gap."""

_STREAM_COST = 2000  # of the entry that begins a stream, beside the request's body

never_raising = contextlib.suppress(Exception)


class Entry(NamedTuple):
    """What was said of a stream; of its beginning None; of no stream a call that is to be made."""

    recording: Recording | None
    offset_us: int
    said: Said | Callable[[], None] | None
    cost: int


class Queue(Protocol):
    """What a recording needs of the writer. open: the recordings that have not ended."""

    settings: Settings
    budget: Budget
    open: set[Recording]

    def put(self, recording: Recording, offset_us: int, said: Said | None, size: int = ENTRY_COST) -> None:
        """Queue what was said of a stream; of its beginning None. size: bytes of memory."""

    def overflows(self, size: int) -> None:
        """Bytes of a body found no room."""

    def unheard(self, dropped: int, size: int) -> None:
        """A stream ended before there was room to say that it began."""


class Recording:
    """One stream on its way to the log. Any thread may call it, one at a time; nothing here blocks or raises."""

    __slots__ = (
        "_began",
        "_beyond",
        "_budget",
        "_dropped",
        "_heard",
        "_last_us",
        "_note",
        "_put",
        "_response",
        "_writer",
        "closed",
        "decoding",
        "epoch",
        "fresh",
        "given_up",
        "head",
        "kept",
        "known",
        "position",
        "prefix",
        "screen",
        "steps",
        "stored",
        "stream",
        "strict",
        "taken",
        "unwanted",
    )

    def __init__(
        self, writer: Queue, stream: Stream, began_ns: int | None = None, *, strict: bool = False, known: Iterable[str] = ()
    ) -> None:
        self._writer = writer
        self._budget = writer.budget
        self._began = time.perf_counter_ns() if began_ns is None else began_ns
        self._last_us = 0
        self._dropped = [0, 0]  # chunks, bytes
        self._heard = False  # whether the writer knows of it; not while the queue is full
        self._response: Response | None = None  # where that is to be said as soon as it does
        self._put = 0  # bytes of its chunks that were put on the queue
        self._note = ""  # what is to be said behind its head
        self._beyond = [0, 0]  # chunks, bytes that are beyond the limit of its body
        self.stream = stream
        self.strict = strict
        self.known = tuple(known)  # secrets of its request
        self.closed = False
        self.unwanted = False  # whether it turned out not to be recorded
        # Below: the writer thread's alone.
        self.screen: Screen | None = None
        self.decoding = Decoding()
        self.head: Frame | None = None  # its `$response` as it was stored
        self.position = 0
        self.stored = False  # its row in streams
        self.epoch = 0  # of the file that position and stored are about
        self.prefix: list[Frame] = []  # what is to be said before anything else
        self.fresh = 0  # chunks that are not stored yet
        self.kept = [0, 0]  # chunks and bytes that are
        self.given_up = False
        self.taken = 0  # bytes of its chunks that the writer took from the queue
        self.steps: Iterator[list[Frame]] | None = None  # of the chunk that the writer is at, where that takes several

    @property
    def ending(self) -> Ending:
        """The marks that stand in the stream so far."""
        return self.decoding.ending

    def response(
        self, status: int, headers: tuple[tuple[str, str], ...], content_type: str | None, content_encoding: str | None = None
    ) -> None:
        """The response began: its status, the headers that may be stored, and what its body is.

        content_encoding: how the chunks that follow are encoded; where it is known, they are decoded for the log.
        """
        with never_raising:
            said = Response(status, headers, content_type, content_encoding, limit_of(self._writer.settings, content_type))
            if self._heard or self.begin():
                self._writer.put(self, self.now(), said)
                self._tell_note()
            else:
                self._response = said

    def chunk(self, body: bytes, arrived_us: int | None = None) -> None:
        """A chunk of the body arrived: now, or when now() said so."""
        if self.closed or self.unwanted or not body:
            if self.decoding.over and not self.closed:
                self._beyond[0] += 1
                self._beyond[1] += len(body)
            return
        try:
            now = self.now() if arrived_us is None else arrived_us
            size = len(body)
            if self._budget.full(size + ENTRY_COST, self._put - self.taken) or not (self._heard or self.begin()):
                self._drop(size)
                return
            if self._dropped[0]:
                self._tell_dropped(now)
            self._put += size + ENTRY_COST
            self._writer.put(self, now, body, size)
        except Exception:  # noqa: BLE001 - no memory is left: the application's stream goes on
            self._drop(len(body))

    def note(self, reason: str) -> None:
        """Something to be said about the request: a gap, behind the head of the response where there is one."""
        self._note = reason or self._note

    def gap(self, reason: str) -> None:
        """Something to be said about this place in the stream though no byte is missing."""
        with never_raising:
            if self._heard and not self._writer.budget.full(ENTRY_COST):
                self._writer.put(self, self.now(), Lost(0, 0, reason))

    def whole(self) -> None:
        """The body is through, if not the stream: what is held back of it, since more might come, can be stored."""
        with never_raising:
            if self._heard:
                self._writer.put(self, self.now(), Whole())

    def end(self, closed: str, detail: str | None = None) -> None:
        """The stream is over, with what was said of it. Only the first call counts.

        closed: eof, cut, client_closed, no_response, or lost: its recorder was closed before it ended.
        """
        if self.closed:
            return
        self.closed = True
        with never_raising:
            self._writer.open.discard(self)
            if not (self._heard or self.begin()):
                self._writer.unheard(*self._dropped)
                return
            now = self.now()
            self._tell_dropped(now)
            self._tell_note()
            self._writer.put(self, now, Closed(closed, detail, *self._beyond))

    def at_ns(self, offset_us: int) -> int:
        """When that was, by time.perf_counter_ns."""
        return self._began + offset_us * 1000

    def now(self) -> int:
        """µs since the stream began, later than any before: two chunks need two offsets to stay two."""
        now = max(self._last_us + 1, (time.perf_counter_ns() - self._began) // 1000)
        self._last_us = now
        return now

    def begin(self) -> bool:
        """Tell the writer of the stream, where there is room for that; whether there was."""
        writer, body = self._writer, self.stream.request_body or b""
        if writer.budget.full(_STREAM_COST + len(body)):
            if not body or writer.budget.full(_STREAM_COST):
                return False
            self.stream = self.stream._replace(request_body=None)
            writer.overflows(len(body))
        self._heard = True
        writer.put(self, 0, None, _STREAM_COST + len(self.stream.request_body or b""))
        if len(body) and self.stream.request_body is None:
            self._note = f"{FULL}: the request's body of {len(body)} bytes is not recorded"
        if self._response is not None:
            writer.put(self, self.now(), self._response)
            self._tell_note()
        return True

    def _drop(self, size: int) -> None:
        self._dropped[0] += 1
        self._dropped[1] += size
        self._writer.overflows(size)

    def _tell_note(self) -> None:
        if self._note:
            self._writer.put(self, self.now(), Lost(0, 0, self._note))
            self._note = ""

    def _tell_dropped(self, now: int) -> None:
        """Say what could not be queued before, now that something can be."""
        dropped, size = self._dropped
        if dropped:
            self._writer.put(self, now, Lost(dropped, size, FULL))
            self._dropped = [0, 0]
