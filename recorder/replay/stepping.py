"""Replaying by hand: each event waits until somebody lets it go, from the start or from a position or a type on.

A stream runs at its pace until it is to wait; then a step lets one event go, and go_on() the rest. Where several streams wait,
it is the turn of the one that has waited longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from recorder.errors import UsageError
from recorder.replay.faults import Faulted, Pause, paused
from recorder.replay.playback import Playback
from recorder.replay.timing import schedule


class Move(NamedTuple):
    """A chunk of one event. chunk: as of Timed. begins: whether it is the event's first."""

    position: int
    type: str
    chunk: bytes | None
    begins: bool


class Waiting(NamedTuple):
    stream_id: str
    position: int
    type: str


class Mode:
    """Whether one stream waits. at: positions and types (`12`, `thread.run.completed`) at whose first event it begins to."""

    def __init__(self, step: bool, at: Iterable[str] = ()) -> None:
        self.stepping = step
        self._at = set(at)

    def waits(self, move: Move) -> bool:
        """Whether this chunk is to wait; asked of each chunk in order."""
        if not move.begins:
            return False
        met = {at for at in self._at if at == move.type or (at.isdigit() and int(at) <= move.position)}
        self._at -= met
        self.stepping = self.stepping or bool(met)
        return self.stepping


class Hand:
    """Holds back the streams of one event loop, and lets them go. Raises UsageError for what names no position and no type."""

    def __init__(self, step: bool = False, at: Iterable[str] = ()) -> None:
        self._step = step
        self._at = checked(at)
        self._waiting: dict[asyncio.Future[bool], tuple[Waiting, Mode]] = {}
        self._came: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> list[Waiting]:
        return [waiting for waiting, _ in self._waiting.values()]

    def mode(self) -> Mode:
        """Of a stream that begins."""
        self._loop = asyncio.get_running_loop()
        return Mode(self._step, self._at)

    async def hold(self, mode: Mode, waiting: Waiting) -> None:
        """Returns once this event may go."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = waiting, mode
        self._arrived().set()
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    async def let_go(self, seconds: float, *, stream_id: str = "", on: bool = False) -> Waiting | None:
        """Let one event go, of a stream whose id begins so; what it was. on: and all after it. None where none came to wait."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (found := self._release(stream_id, on)) is None:
            self._arrived().clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived().wait()
            except TimeoutError:
                return None
        return found

    def press(self, key: str) -> None:
        """A key, from any thread: c goes on, any other is a step."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release, "", key.lower() == "c")

    def _release(self, stream_id: str, on: bool) -> Waiting | None:
        for future, (waiting, mode) in self._waiting.items():
            if not future.done() and waiting.stream_id.startswith(stream_id):
                mode.stepping = not on
                future.set_result(True)
                return waiting
        return None

    def _arrived(self) -> asyncio.Event:
        if self._came is None:
            self._came = asyncio.Event()
        return self._came


def checked(at: Iterable[str]) -> tuple[str, ...]:
    """Positions and types to wait at. Raises UsageError for what is neither."""
    given = tuple(at)
    for one in given:
        if not one or one.isspace() or one.startswith("-"):
            raise UsageError(f"{one!r} is no position and no type of an event; write 12, or thread.run.completed")
    return given


def moves(playback: Playback | Faulted, speed: float | None, max_gap: float | None) -> Iterator[tuple[float, Move]]:
    """A response event by event: each chunk of each when it is due (µs), the head as event 0's, the end as that of `$end`."""
    return paused(schedule(_moves(playback), speed, max_gap))


def _moves(playback: Playback | Faulted) -> Iterator[tuple[float, Any]]:
    at = playback.head_us
    for pause in playback.before_head():
        yield at, pause
    if playback.status is not None:
        yield at, Move(0, "$response", b"", False)
        for part in playback.parts():
            if isinstance(part, Pause):
                yield at, part
                continue
            start = 0
            for end, at in (*(part.cuts or ()), (len(part.body), part.offset_us)):
                if start < end:
                    yield at, Move(part.position, part.type, part.body[start:end], start == 0)
                start = max(start, end)
    yield max(at, playback.end_us), Move(-1, "$end", None, False)
