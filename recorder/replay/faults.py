"""Faults at an event: a recorded response that goes wrong where one wants it to, the same way each time. Pure.

    cut@137           the connection breaks before the event at this position; cut@137:20 sends 20 bytes of that event first
    stall@12:5s       nothing comes for so long before it (s or ms; of real time, whatever the speed)
    error@40          an error event of the stream's protocol comes instead of it, and the stream ends
    drop@7  dup@7     it is left out; it comes twice
    swap@7            it and the next one change places
    status@0:429      the response has this status, and an error for its body
    rechunk:1         the same bytes, in chunks of so many
    rechunk:random:7  the same bytes in chunks of 1 to 255, at random from this seed

Positions are those of the log, whatever other faults do. Bytes keep their times: of a chunk that of its last byte.
`#2` behind a fault restricts it to a client's second request, `#019c3f7a` to streams whose id begins so.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, repeat
from typing import NamedTuple, TypeVar

from recorder import jsontext
from recorder.errors import UsageError
from recorder.kind import is_lines, media_type
from recorder.replay.playback import Part, Playback, Timed
from recorder.replay.timing import schedule
from recorder.sse import chunks

LARGEST = 256
"""Bytes that a chunk of rechunk:random stays below."""

_WRITTEN = re.compile(
    r"(?P<kind>[a-z]+)(?:@(?P<position>\d{1,9}))?(?::(?P<value>[^#]*))?(?:#(?P<only>[0-9a-fA-F-]+))?",
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_REQUEST_DIGITS = 6  # what is longer begins a stream's id


class Fault(NamedTuple):
    """text: as it was given. value: seconds of a stall, bytes of a cut, a status, a chunk's size or a seed.

    position is -1 of what is no event's. request, stream: what it is restricted to.
    """

    text: str
    kind: str
    position: int = -1
    value: float = 0
    request: int | None = None
    stream: str = ""

    def is_of(self, stream_id: str, request: int) -> bool:
        """Whether it is of this stream, given as the answer to a client's request of this number, from 1."""
        return stream_id.startswith(self.stream) and self.request in (None, request)


class Pause(NamedTuple):
    """Stands between chunks."""

    us: float


Item = bytes | None | Pause
Given = TypeVar("Given")
Happened = Callable[[Fault], None]
"""Is told each time that a fault has happened."""


def parse(text: str) -> Fault:
    """The fault that a text names. Raises UsageError, which says what to write."""
    found = _WRITTEN.fullmatch(text.strip())
    read = _VALUES.get(found["kind"]) if found else None
    if found is None or read is None:
        raise UsageError(f"{text!r} is no fault; write one of {', '.join(EXAMPLES)}")
    kind, position, value, only = found["kind"], found["position"], found["value"], found["only"] or ""
    if (position is None) == (kind != "rechunk"):
        example = next(example for example in EXAMPLES if example.startswith(kind))
        raise UsageError(f"{text!r} needs {'a position' if position is None else 'no position'}; write {example}")
    try:
        kind, number = read(kind, value)
    except ValueError as error:
        raise UsageError(f"{text!r} is no fault: {error}") from None
    if kind == "status" and int(position or 0):
        raise UsageError(f"{text!r} is no fault: a status is of event 0, the head; write status@0:{int(number)}")
    is_request = only.isdigit() and len(only) <= _REQUEST_DIGITS
    request, stream = (int(only), "") if is_request else (None, only.lower())
    return Fault(text.strip(), kind, -1 if position is None else int(position), number, request, stream)


def plan(texts: Iterable[str]) -> tuple[Fault, ...]:
    """Faults that go together. Raises UsageError where two do not."""
    faults = tuple(map(parse, texts))
    for one, others in Counter((_SORTS.get(fault.kind), fault.request, fault.stream) for fault in faults).items():
        if one[0] and others > 1:
            raise UsageError(f"there can be one {one[0]} only, of the same requests")
    return faults


class Faulted:
    """A playback with faults; the rest of it as of Playback. path: of its request, which says the protocol.

    happened: is told of each fault as it is met.
    """

    def __init__(self, playback: Playback, faults: Iterable[Fault], path: str, happened: Happened) -> None:
        self._playback = playback
        self._path = path
        self._happened = happened
        self._at: dict[int, list[Fault]] = {}
        self._rechunk: Fault | None = None
        for fault in faults:
            if fault.position < 0:
                self._rechunk = fault
            else:
                self._at.setdefault(fault.position, []).append(fault)
        self._broken = False  # by a fault
        self._over = False
        self.status, self.headers = playback.status, playback.headers
        self._status = next((fault for fault in self._at.get(0, ()) if fault.kind == "status"), None)
        if self._status is not None:
            self.status, self.headers = int(self._status.value), [("content-type", "application/json")]
        elif {"drop", "dup", "error"} & {fault.kind for some in self._at.values() for fault in some}:
            self.headers = [pair for pair in self.headers if pair[0].lower() != "content-length"]
        if playback.headed and self.status is not None and any(fault.kind == "cut" for fault in self._at.get(0, ())):
            self.status = None

    @property
    def head_us(self) -> float:
        return self._playback.head_us

    @property
    def end_us(self) -> float:
        return 0 if self._broken or self._over else self._playback.end_us

    @property
    def closed(self) -> str:
        if self._broken:
            return "cut"
        return "eof" if self._over else self._playback.closed

    @property
    def left(self) -> bool:
        return self._playback.left and not self._broken and not self._over

    @property
    def detail(self) -> str:
        return "" if self._broken or self._over else self._playback.detail

    def timed(self, speed: float | None, max_gap: float | None) -> Iterator[Timed]:
        """As of Playback.timed()."""
        due = paused(schedule(self._items(), speed, max_gap))
        if self._rechunk is None:
            return due
        self._happened(self._rechunk)
        return rechunked(due, sizes(self._rechunk))

    def parts(self) -> Iterator[Part | Pause]:
        """As of Playback.parts(), with the pauses of stalls."""
        if instead := self._instead():
            yield instead
            return
        faults = sorted((fault for some in self._at.values() for fault in some), key=lambda fault: fault.position)
        if self._playback.headed:
            faults = [fault for fault in faults if fault.position > 0]
        swapped: list[Part] | None = None  # what changes places with the next event, and where that is
        place: Part | None = None
        first: Fault | None = None
        for part in self._playback.parts():
            count = 0
            while count < len(faults) and faults[count].position <= part.position:
                count += 1
            due, faults = faults[:count], faults[count:]
            for fault in due:
                if fault.kind in _INTERRUPTING:
                    if fault.kind != "stall":
                        yield from swapped or ()
                    yield from self._interrupted(fault, part)
                    if self._broken or self._over:
                        return
            own = [part]
            for fault in due:
                if fault.position == part.position and fault.kind in _COPIES:
                    self._happened(fault)
                    own = own * _COPIES[fault.kind]
            if swapped is not None and place is not None and first is not None:  # each goes where the other was, whole
                yield from (one._replace(offset_us=place.offset_us, cuts=None) for one in own)
                yield from (one._replace(offset_us=part.offset_us, cuts=None) for one in swapped)
                self._happened(first)
                swapped = place = first = None
            elif swap := next((fault for fault in due if fault.kind == "swap" and fault.position == part.position), None):
                swapped, place, first = own, part, swap
            else:
                yield from own
        yield from swapped or ()
        for fault in faults:
            if fault.kind in _INTERRUPTING and fault.position <= self._playback.position:
                yield from self._interrupted(fault, None)
                if self._broken or self._over:
                    return

    def _instead(self) -> Part | None:
        """What comes instead of the whole body, if anything."""
        head = self._at.get(0, ()) if self._playback.headed else ()
        error = next((fault for fault in head if fault.kind == "error"), None)
        fault = self._status or error
        if fault is None:
            return None
        self._happened(fault)
        self._over = True
        body = error_body(fault) if fault is self._status else self._error(fault, None)
        return Part(0, "$body", int(self.head_us), body, None)

    def before_head(self) -> Iterator[Pause]:
        """What happens before the head, where event 0 is it."""
        for fault in self._at.get(0, ()) if self._playback.headed else ():
            if fault.kind in ("stall", "cut"):
                yield from (item for item in self._interrupted(fault, None) if isinstance(item, Pause))

    def _items(self) -> Iterator[tuple[float, Item]]:
        at = head_us = self._playback.head_us
        for pause in self.before_head():
            yield head_us, pause
        if self.status is not None:
            yield head_us, b""
            for is_pause, group in groupby(self.parts(), lambda part: isinstance(part, Pause)):
                if is_pause:
                    yield from ((at, part) for part in group if isinstance(part, Pause))
                else:
                    kept = ((part.body, part.offset_us, part.cuts) for part in group if isinstance(part, Part))
                    for at, chunk in chunks(kept):
                        yield at, chunk
        yield max(at, self.end_us), None

    def _interrupted(self, fault: Fault, part: Part | None) -> Iterator[Part | Pause]:
        """What a stall, a cut or an error gives instead of this part, or before it."""
        self._happened(fault)
        if fault.kind == "stall":
            yield Pause(fault.value * 1e6)
        elif fault.kind == "cut":
            self._broken = True
            if part is not None and fault.value and part.position == fault.position:
                yield Part(part.position, part.type, part.offset_us, part.body[: int(fault.value)], None)
        else:
            self._over = True
            offset_us = int(self._playback.end_us) if part is None else part.offset_us
            yield Part(fault.position, "error", offset_us, self._error(fault, part), None)

    def _error(self, fault: Fault, part: Part | None) -> bytes:
        content_type = next((value for name, value in self.headers if name.lower() == "content-type"), None)
        return error_event(fault, self._path, content_type, None if part is None else part.body)


def sizes(fault: Fault) -> Iterator[int]:
    """The sizes of chunks, without end: small ones as often as large ones where they are random."""
    if fault.kind == "rechunk":
        return repeat(int(fault.value))
    chance = random.Random(int(fault.value)).random  # which gives the same from a seed in all versions of Python
    return (int(LARGEST ** chance()) for _ in repeat(None))


def rechunked(timed: Iterable[Timed], sizes: Iterator[int]) -> Iterator[Timed]:
    """The same bytes in chunks of these sizes, each due when its last byte is."""
    held: list[bytes] = []
    count, size = 0, next(sizes)
    last: float = 0
    for at, chunk in timed:
        if not chunk:
            if held:
                yield last, b"".join(held)
                held, count = [], 0
            yield at, chunk
            continue
        held.append(chunk)
        count, last = count + len(chunk), at
        if count < size:
            continue
        data, start = b"".join(held), 0
        while len(data) - start >= size:
            yield at, data[start : start + size]
            start += size
            size = next(sizes)
        held = [data[start:]] if start < len(data) else []
        count = len(data) - start


def error_body(fault: Fault) -> bytes:
    """The body of an error response, in the shape of the API's errors."""
    status = int(fault.value)
    kind, code = _STATUSES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return _error_object(f"recorder: {fault.text}", kind, code)


def error_event(fault: Fault, path: str, content_type: str | None, instead: bytes | None) -> bytes:
    """An error as a stream of this protocol says it. instead: the event that it comes for, whose sequence number it takes."""
    message = f"recorder: {fault.text}"
    plain = _error_object(message, "server_error", "server_error")
    if is_lines(content_type):
        return plain + b"\n"
    if media_type(content_type) not in ("text/event-stream", ""):
        return plain
    dialect = next(written for pattern, written in _DIALECTS if re.search(pattern, path))
    number = re.search(rb'"sequence_number": ?(\d+)', instead or b"")
    return dialect(message, plain, int(number[1]) if number else 0)


def paused(timed: Iterable[tuple[float, Given | Pause]]) -> Iterator[tuple[float, Given]]:
    """Chunks with their pauses taken in: what comes after one is later by it."""
    later = 0.0
    for at, item in timed:
        if isinstance(item, Pause):
            later += item.us
        else:
            yield at + later, item


def _error_object(message: str, kind: str, code: str | None) -> bytes:
    return jsontext.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def _of_responses(message: str, plain: bytes, number: int) -> bytes:
    said = {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": number}
    return b"event: error\ndata: %s\n\n" % jsontext.dumps(said).encode()


def _of_messages(message: str, plain: bytes, number: int) -> bytes:
    said = {"type": "error", "error": {"type": "api_error", "message": message}}
    return b"event: error\ndata: %s\n\n" % jsontext.dumps(said).encode()


def _named(message: str, plain: bytes, number: int) -> bytes:
    return b"event: error\ndata: %s\n\n" % plain


def _unnamed(message: str, plain: bytes, number: int) -> bytes:
    return b"data: %s\n\n" % plain


def _none(kind: str, value: str | None) -> tuple[str, float]:
    if value is not None:
        raise ValueError(f"nothing stands behind the position of {kind}")
    return kind, 0


def _bytes(kind: str, value: str | None) -> tuple[str, float]:
    if value is None or re.fullmatch(r"\d{1,9}", value):
        return kind, int(value or 0)
    raise ValueError("how many bytes of the event are to come is a number, as in cut@137:20")


def _duration(kind: str, value: str | None) -> tuple[str, float]:
    found = _DURATION.fullmatch(value or "")
    if found is None:
        raise ValueError("how long is given as in stall@12:5s or stall@12:250ms")
    return kind, float(found[1]) / (1000 if found[2] == "ms" else 1)


def _status(kind: str, value: str | None) -> tuple[str, float]:
    if value is None or not re.fullmatch(r"[2-5]\d\d", value):
        raise ValueError("a status is a number from 200 to 599, as in status@0:429")
    return kind, int(value)


def _chunking(kind: str, value: str | None) -> tuple[str, float]:
    if found := re.fullmatch(r"random:(\d{1,18})", value or ""):
        return "rechunk:random", int(found[1])
    if not re.fullmatch(r"[1-9]\d{0,8}", value or ""):
        raise ValueError("write rechunk:random:SEED, with a number for SEED, or rechunk:BYTES")
    return kind, int(value or 0)


EXAMPLES = (
    "cut@137",
    "stall@12:5s",
    "error@40",
    "drop@7",
    "dup@7",
    "swap@7",
    "status@0:429",
    "rechunk:1",
    "rechunk:random:7",
)

_VALUES: dict[str, Callable[[str, str | None], tuple[str, float]]] = {
    "cut": _bytes,
    "stall": _duration,
    "error": _none,
    "drop": _none,
    "dup": _none,
    "swap": _none,
    "status": _status,
    "rechunk": _chunking,
}
"""Kind → what reads its value: (the kind, the value)."""

_STATUSES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "overloaded"),
}
"""Status → type and code of the error."""

_DIALECTS: tuple[tuple[str, Callable[[str, bytes, int], bytes]], ...] = (
    (r"/completions$", _unnamed),
    (r"/responses\b", _of_responses),
    (r"/v1/messages$", _of_messages),
    (r"", _named),
)
"""What the path looks like → how an error is said there; the first that fits."""

_SORTS = {"rechunk": "rechunk", "rechunk:random": "rechunk", "status": "status"}
"""Kinds of which there can be one."""

MOVING = ("drop", "dup", "swap")
"""Kinds that need an event that the client gets."""

_INTERRUPTING = ("stall", "cut", "error")

_COPIES = {"drop": 0, "dup": 2}
"""Kind → how often the event comes."""
