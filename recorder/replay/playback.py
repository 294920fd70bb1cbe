"""A recorded response as it is given again: its head, its chunks with their times, and how it ends. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.log import Event, wire
from recorder.replay.timing import schedule
from recorder.sse import Cuts, chunks

_SSE = [("content-type", "text/event-stream")]
"""The headers of a body that was imported without any."""

_WHOLE = frozenset({"done", "error"})
"""Outcomes that say that nothing more was to come, whoever closed the connection then."""


Timed = tuple[float, bytes | None]
"""(µs since the request was sent, bytes): b'' stands for the head, which comes first, None for the end."""


class Part(NamedTuple):
    """What one event has of the body. cuts: as of the event."""

    position: int
    type: str
    offset_us: int
    body: bytes
    cuts: Cuts | None


class Playback:
    """One response. status is None where none ever came.

    headers: those that were recorded, but for what is no longer true of a body that was decoded for the log.
    detail: what was said of its end.
    closed: how it ends, known once chunks() are through: eof (complete), cut (the connection breaks), no_response. Where the
    recording breaks off before the end (its client left, its recorder died), the replay does too. left: its client left, for
    all that is known by itself. headed: its event 0 is its head, as of all
    that was not imported from a file without one. position: of the last event that was read.
    """

    def __init__(self, recorded: Iterable[Event]) -> None:
        self.closed = "cut"
        self.position = -1
        self.left = False
        self.detail = ""
        self.status: int | None = 200
        self.headers: list[tuple[str, str]] = list(_SSE)
        self._events = iter(recorded)
        self._head_us = self._end_us = 0
        self._read: list[Event] = []
        for event in self._events:  # a gap comes first where there is no head
            self._read.append(event)
            if event.type != "$gap":
                break
        first = self._read[-1] if self._read else None
        if first is None:
            self.status, self.closed = None, "no_response"
        elif first.type == "$end" and self._ended(first):
            self.status = None
        elif first.type == "$response":
            self._begun(jsontext.object_of(first.data))
            self._head_us = first.offset_us
        self.headed = first is not None and first.type == "$response"

    @property
    def head_us(self) -> float:
        return self._head_us

    @property
    def end_us(self) -> float:
        """Known once all has been read."""
        return self._end_us

    def chunks(self) -> Iterator[Timed]:
        """The head, the chunks as they came, and the end."""
        if self.status is not None:
            yield self._head_us, b""
            yield from chunks(wire(self._watched()))
        yield self._end_us, None

    def timed(self, speed: float | None, max_gap: float | None) -> Iterator[Timed]:
        """The same when it is due at another pace."""
        return schedule(self.chunks(), speed, max_gap)

    def before_head(self) -> Iterator[Any]:
        """Pauses before the head: there are none but what faults make."""
        return iter(())

    def parts(self) -> Iterator[Part]:
        """The body event by event, of those that have some of it."""
        at: list[Event] = []

        def following() -> Iterator[Event]:
            for event in self._watched():
                at[:] = [event]
                yield event

        for body, offset_us, cuts in wire(following()):
            yield Part(at[0].position, at[0].type, offset_us, body, cuts)

    def _watched(self) -> Iterator[Event]:
        for event in chain(self._read, self._events):
            self._end_us, self.position = event.offset_us, event.position
            if event.type == "$end":
                self._ended(event)
            yield event

    def _begun(self, response: dict[str, Any]) -> None:
        status = response.get("status")
        self.status = status if isinstance(status, int) else 200
        gone = ("content-encoding", "content-length") if "decoded" in response else ()
        pairs = response.get("headers")
        self.headers = [(str(name), str(value)) for name, value in pairs if name not in gone] if isinstance(pairs, list) else []

    def _ended(self, end: Event) -> bool:
        """Take in how it ended; whether that was a connection's end, and not a file's."""
        said = jsontext.object_of(end.data)
        closed = said.get("closed", "eof")  # a file ends where it ends
        if closed not in ("eof", "cut", "no_response"):
            whole = said.get("outcome") in _WHOLE
            self.left = closed == "client_closed" and not whole
            closed = "eof" if whole else "cut"
        self._end_us = end.offset_us
        self.closed, self.detail = closed, str(said.get("detail", ""))
        return "closed" in said
