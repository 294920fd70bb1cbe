r"""What a body is, told from its content: a stream of events, lines of JSON, one JSON text, or something else.

A content type is a claim. Servers send events as application/json, JSON as text/event-stream, and either without a type or as
octet-stream, with white space before it that keeps a connection alive, or a byte order mark. So the first bytes decide, and the
content type where they cannot:

- A `{` or `[` begins JSON; lines of JSON where its first line is a whole object or list and another one follows.
- What begins with lines of events (`data:`, `event:`, `id:`, `retry:`, comments) is a stream of events once its first event is
  complete, or at its end where what it has of one is JSON. What is said to be one, is one unless it begins as JSON.
- Anything else is what it is said to be.

No event waits for that: none is complete before it is known.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator

from recorder import jsontext

SSE, LINES, JSON, OTHER = "sse", "lines", "json", "other"

STREAMS = frozenset({SSE, LINES})
"""Kinds of bodies that are streams of events, whose parts matter as they come."""

UNKNOWN = 1024 * 1024
"""Bytes after which a body is taken for what it seems to be so far."""

CUT_COST = 16
"""Bytes of memory for the end of a chunk within what is held."""

_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"})

_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(rb"[ \t\r\n]*")
_LINE_END = re.compile(rb"\r\n|\r(?!\Z)|\n")  # after a CR at the end an LF may follow
_LAST_LINE_END = re.compile(rb"\r\n|\r|\n")
_FIELD = re.compile(rb"(?:data|event|id|retry)?:|(?:data|event|id|retry)\Z")
_ANY_FIELD = re.compile(rb"[\w.-]*(?::|\Z)")  # where nothing says that it is something else
_DATA = re.compile(rb"data: ?(?:\[DONE\]|[{\[])")
_DONE = (b"data: [DONE]", b"data:[DONE]")
_JSON_BEGINS = {ord("{"): (b'"', b"}"), ord("["): tuple(bytes((each,)) for each in b'[{"]tfn-0123456789')}
"""What may follow a bracket, if that begins JSON."""


def media_type(content_type: str | None) -> str:
    """`Type/Subtype` of a Content-Type header in lower case, without its parameters (RFC 9110, 8.3.1)."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_lines(content_type: str | None) -> bool:
    return media_type(content_type) in _LINES


def said_to_be(content_type: str | None, status: int | None = 200) -> str:
    """What a body is by its content type; without one a stream of events where it succeeded, as SDKs take it."""
    named = media_type(content_type)
    if not named:
        return SSE if status is not None and 200 <= status < 300 else OTHER
    if named == "text/event-stream":
        return SSE
    return LINES if named in _LINES else JSON if named.endswith("json") else OTHER


def kind_of(body: bytes, content_type: str | None, status: int | None = 200) -> str:
    """What a whole body is."""
    telling = Telling(content_type, status)
    return telling.add(body, 0) or telling.end()


class Telling:
    """Holds the beginning of one body until it tells what that is. Time and memory are linear in what is added."""

    def __init__(self, content_type: str | None, status: int | None = 200) -> None:
        self._said = said_to_be(content_type, status)
        self._typed = bool(media_type(content_type))
        self._held = bytearray()
        self._cuts = array("q")  # end of each chunk, offset_us …
        self._start = 0  # where the body begins behind white space
        self._inner = 0  # and what stands in its first object or list
        self._scan = 0  # where the search for the end of the line goes on
        self._line = -1  # where the line of events begins that is looked at
        self._data = False  # whether one of them was data

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return len(self._held) + 8 * len(self._cuts)

    def add(self, chunk: bytes, offset_us: int) -> str | None:
        """The kind, if it is known with this chunk."""
        self._held += chunk
        if self._cuts and self._cuts[-1] == offset_us:
            self._cuts[-2] = len(self._held)
        else:
            self._cuts.extend((len(self._held), offset_us))
        return self._tell(whole=False) if self.held <= UNKNOWN else self.end()

    def end(self) -> str:
        """The kind, where nothing more comes."""
        return self._tell(whole=True) or self._otherwise()

    def chunks(self) -> Iterator[tuple[bytes, int]]:
        """What is held, as it came: (bytes, offset_us)."""
        at = 0
        for end, offset_us in zip(self._cuts[::2], self._cuts[1::2], strict=True):
            yield bytes(self._held[at:end]), offset_us
            at = end

    def _tell(self, *, whole: bool) -> str | None:
        data = self._held
        if data and not self._start and _BOM.startswith(bytes(data[:3])):
            if len(data) < 3 and not whole:
                return None
            self._start = len(_BOM) if len(data) >= 3 else 0
        blank = _BLANK.match(data, self._start)
        self._start = at = blank.end() if blank else self._start
        if at >= len(data):
            return None
        if data[at] in b"{[":
            return self._json(data, at, whole)
        if self._said == SSE and self._typed:
            return SSE
        return self._events(data, at, whole)

    def _json(self, data: bytearray, at: int, whole: bool) -> str | None:
        if self._said == LINES:
            return LINES
        if not self._scan:
            blank = _BLANK.match(data, max(at + 1, self._inner))
            self._inner = blank.end() if blank else at + 1
            if self._inner >= len(data) and not whole:
                return None
            if data[self._inner : self._inner + 1] not in _JSON_BEGINS[data[at]]:
                return self._otherwise()
        end = data.find(b"\n", max(at, self._scan))
        self._scan = len(data) if end < 0 else end
        if end < 0:
            return JSON if whole else None
        if self._line < 0:
            try:
                jsontext.loads(bytes(data[at:end]))
            except jsontext.JSONError:
                return JSON  # over several lines
            self._line = end
        blank = _BLANK.match(data, self._line)
        after = blank.end() if blank else self._line
        if after >= len(data):
            self._line = after
            return JSON if whole else None
        if data[after] in b"{[":
            return LINES
        following = bytes(data[after : after + len(_DONE[0])])
        if self._said != SSE or not self._typed or following.startswith(_DONE):
            return JSON
        return None if not whole and any(done.startswith(following) for done in _DONE) else SSE

    def _events(self, data: bytearray, at: int, whole: bool) -> str | None:
        field = _FIELD if self._typed else _ANY_FIELD
        if self._line < 0:
            self._line = self._scan = at
        line_end = _LAST_LINE_END if whole else _LINE_END
        while end := line_end.search(data, max(self._line, self._scan)):
            line = bytes(data[self._line : end.start()])
            if not line and self._data:
                return SSE
            if line and not field.match(line):
                return self._otherwise()
            self._data = self._data or line.startswith(b"data")
            self._line = self._scan = end.end()
        line = bytes(data[self._line : self._line + 64]).removesuffix(b"\r")
        if line and not (field.match(line) or any(name.startswith(line) for name in (b"data:", b"event:", b"id:", b"retry:"))):
            return self._otherwise()
        self._scan = max(self._line, len(data) - 1)
        if not whole:
            return None
        if self._data or line.startswith(b"data"):
            looks = not self._typed or self.held > UNKNOWN or _DATA.search(data, at)
            return SSE if looks else self._otherwise()
        return SSE if not self._typed and self._said == SSE and _FIELD.match(data, at) else self._otherwise()

    def _otherwise(self) -> str:
        """What it is said to be, where its content tells nothing else."""
        return OTHER if self._said == SSE and not self._typed and self._start < len(self._held) else self._said
