r"""Bytes ⇄ frames: a push decoder for Server-Sent Events that loses nothing, and its inverse.

The rules are WHATWG HTML 9.2.5 and 9.2.6. A client may throw away what dispatches no event; a recorder may not. So the
bytes of a stream are partitioned, without gap or overlap, into frames, and each frame is a block (up to and with its
blank line): an event, or a system frame whose type starts with `$`:

    $comment  a block of comments only     $block  any other block that dispatches nothing (blank lines, a BOM, odd fields)
    $piece    part of a block over the limit      $tail  what came after the last complete block

Bytes that equal `encode(type, data)` are not kept a second time: `raw` is None. All others keep their bytes in `raw`.

The partition must not depend on how the bytes were cut into chunks, yet an event is due as soon as its blank line is
there, and after a CR one cannot know whether an LF follows. So a block ends at that CR, and an LF that follows is the first
byte of the next frame (in a CRLF stream every frame but the first starts with one; the last one is a `$block` of its own).

Chunks come back too. `offset_us` is the arrival of the chunk that completed a frame, `cuts` the ends of earlier chunks
inside it; neighbours with equal offsets shared a chunk. So two chunks need two offsets: feed() with the offset of the
chunk before says that it is the same chunk.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LIMIT = 64 * 1024 * 1024
"""Bytes of one block from which on it is kept in pieces instead of being parsed."""

PIECE = 1024 * 1024
"""Bytes of one `$piece`."""

MANY_LINES = 500_000
"""Lines of one block from which on it is kept in pieces, too."""

RUN = 64
"""Blank lines in a row from which on they are kept many in a frame: megabytes of them are no events, and no megabytes of rows."""

RUN_BYTES = 64 * 1024
"""Bytes of such a frame, but for the last one of a run."""

LINE_ENDS = re.compile(rb"[\r\n]+")

_CUT_COST = 16  # bytes of memory that one chunk end inside a block costs: a million tiny chunks count against the limit

_CANONICAL = re.compile(rb"(?:event: ([^\r\n\0]+)\n)?data: ([^\r\n\0]*)\n\n")
_BLANK_LINES = (b"\n\n", b"\r\r", b"\n\r")
_KNOWN = re.compile(rb"(?:data|event|id|retry)(?::|$)|:")
_BLOCK_END = re.compile(rb"\r\n[\r\n]|\n[\r\n]|\r\r")
BOM = b"\xef\xbb\xbf"
_LF, _CR = 10, 13

Cuts = list[tuple[int, int]]


class Frame(NamedTuple):
    """One block of a stream, as the log keeps it.

    type: the event field, '' when absent; a wire name that starts with `$` has a second `$`.
    data: the data field's lines joined by LF; of a system frame its text. Invalid UTF-8 shows as U+FFFD.
    raw: the frame's bytes where they differ from encode(type, data), or where text cannot hold them; else None.
    offset_us: when the chunk arrived that completed the frame, µs since the stream began.
    cuts: [(byte, offset_us)], ends of earlier chunks inside the frame; else None.
    id, retry: last event ID when the frame was complete; reconnection time in ms that the frame set, if any.
    """

    type: str
    data: str
    raw: bytes | None = None
    offset_us: int = 0
    cuts: Cuts | None = None
    id: str = ""
    retry: int | None = None


WIRE_TEXT = frozenset({"$block", "$tail", "$piece", "$body"})
"""System frames whose data is the very text of the wire."""

_SILENT = frozenset({"$response", "$gap", "$end"})  # system frames that stand for no bytes


def is_system(type: str) -> bool:
    """Whether this type is recorder's own: one `$`, not two."""
    return type.startswith("$") and not type.startswith("$$")


def wire_name(type: str) -> str:
    """The event field as it was on the wire."""
    return type[1:] if type.startswith("$$") else type


def encode(type: str, data: str) -> bytes:
    """The canonical bytes of a frame."""
    if is_system(type):
        if type in WIRE_TEXT:
            return data.encode()
        if type in _SILENT:
            return b""
        return "".join(f": {line}\n" for line in data.split("\n")).encode() + b"\n"
    name = f"event: {wire_name(type)}\n" if type else ""
    return (name + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n").encode()


def encoded_size(type: str, data: str) -> int:
    """How many bytes encode() makes; told at once of plain text in one line, as nearly all of it is."""
    if type.startswith("$") or not data.isascii() or not type.isascii() or "\n" in data:
        return len(encode(type, data))
    return len(data) + len("data: \n\n") + (len(type) + len("event: \n") if type else 0)


def chunks(frames: Iterable[tuple[bytes, int, Cuts | None]]) -> Iterator[tuple[int, bytes]]:
    """The chunks that frames came in, from each frame's (bytes, offset_us, cuts): (offset_us, bytes)."""
    held: list[bytes] = []
    at = 0
    for body, offset_us, cuts in frames:
        start = 0
        for end, offset in (*(cuts or ()), (len(body), offset_us)):
            if held and offset != at:
                yield at, b"".join(held)
                held.clear()
            at = offset
            if start < end:
                held.append(body[start:end])
            start = end
    if held:
        yield at, b"".join(held)


def text_frame(type: str, body: bytes, offset_us: int = 0, cuts: Cuts | None = None) -> Frame:
    """A system frame of WIRE_TEXT whose data is these bytes."""
    text, exact = decode_text(body)
    return Frame(type, text, None if exact else body, offset_us, cuts)


def parse(raw: bytes) -> tuple[str, str]:
    """(type, data) of the bytes of one event's frame, as SSEDecoder dispatched it."""
    block = _Block(raw[1:] if raw[:1] == b"\n" else raw)
    return _escaped(block.type), b"\n".join(block.data).decode("utf-8", "replace")


def outside(block: bytes) -> str:
    """The lines of a block that are no field of the standard's and no comments, where JSON or an `error:` begins among them."""
    if block[:1] != b"{" and not (b"\n{" in block or b"\r{" in block or b"error:" in block):
        return ""
    lines = (line for line in block.splitlines() if line and not _KNOWN.match(line))
    return b"\n".join(lines).decode("utf-8", "replace").strip()


def beside(type: str, raw: bytes | None) -> str:
    """What outside() finds in an event's frame; a line of JSON is no block."""
    return "" if raw is None or is_system(type) or raw[-2:] not in _BLANK_LINES else outside(raw)


def decode_raw(type: str, raw: bytes) -> tuple[str, str]:
    """(type, data) of any frame that is kept in its bytes alone, from those and the type that was stored."""
    if type == "$comment":
        return type, b"\n".join(_Block(raw).comments).decode("utf-8", "replace")
    if is_system(type):
        return type, raw.decode("utf-8", "replace")
    if raw[-2:] in _BLANK_LINES:  # a block ends with its blank line; a line of JSON has but one line end
        return parse(raw)
    return type, raw.decode("utf-8", "replace").rstrip("\r\n")


def decode_text(body: bytes) -> tuple[str, bool]:
    """Text of bytes, and whether every database can hold it (PostgreSQL's text refuses NUL)."""
    try:
        return body.decode(), b"\0" not in body
    except UnicodeDecodeError:
        return body.decode("utf-8", "replace"), False


def _escaped(name: bytes) -> str:
    text = name.decode("utf-8", "replace")
    return "$" + text if text.startswith("$") else text


def _is_endless(data: bytes | bytearray, at: int, end: int) -> bool:
    """Whether a block has more lines than anyone writes: each costs many times its bytes."""
    return end - at > MANY_LINES and data.count(b"\n", at, end) + data.count(b"\r", at, end) > MANY_LINES


class _Block:
    """The fields of one block, by WHATWG HTML 9.2.6."""

    __slots__ = ("comments", "data", "id", "other", "retry", "type")

    def __init__(self, body: bytes) -> None:
        self.type = b""
        self.data: list[bytes] = []
        self.comments: list[bytes] = []
        self.id: str | None = None
        self.retry: int | None = None
        self.other = False
        for line in body.splitlines():
            if not line:
                continue
            name, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
            if name == b"data":
                self.data.append(value)
            elif not name:
                self.comments.append(value)
            else:
                self.other = True
                if name == b"event":
                    self.type = value
                elif name == b"id" and b"\0" not in value:
                    self.id = value.decode("utf-8", "replace")
                elif name == b"retry" and value.isdigit() and len(value) <= 4000:
                    self.retry = int(value)


class SSEDecoder:
    """Decodes one stream. Time and memory are linear in what is fed; memory is bounded by `limit` bytes and one chunk.

    last_event_id and reconnection_time (ms, None until set) are as a client would hold them.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.last_event_id = ""
        self.reconnection_time: int | None = None
        self._limit = limit
        self._piece = min(PIECE, limit)
        self._buffer = bytearray()  # the block that is not complete yet
        self._scan = 0  # where in it the search for its end goes on
        self._cuts = array("q")  # chunk ends in it: byte, offset_us, byte, offset_us …
        self._sent = 0  # bytes at its start that have left as a $piece already, kept for the search
        self._oversized = False
        self._offset_us = 0
        self._after_cr = False  # the last block ended in CR: an LF now belongs to that line end
        self._bom_possible = True
        self._blanks = 0  # blank lines in a row
        self._names: dict[bytes | None, str] = {None: ""}

    @property
    def held(self) -> int:
        """Bytes of memory that wait for their block to be complete."""
        return len(self._buffer) + 8 * len(self._cuts)

    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]:
        """The frames that this chunk completes; offset_us is its arrival."""
        frames: list[Frame] = []
        if not chunk:
            return frames
        if self._buffer:
            if offset_us != self._offset_us:
                self._cuts.extend((len(self._buffer), self._offset_us))
            self._buffer += chunk
            data: bytes | bytearray = self._buffer
            fresh = False
        else:
            data, fresh = chunk, True
        self._offset_us = offset_us
        at, held = 0, len(data) - len(chunk)  # where the chunk begins in data: what is canonical lies in the chunk alone
        if self._bom_possible:
            if BOM.startswith(bytes(data[:3])) and len(data) < 3:
                return self._keep(data, 0, fresh, frames)
            self._bom_possible = False
            if data[:3] == BOM:
                frames.append(text_frame("$block", BOM, offset_us, self._take_cuts()))
                at, fresh = 3, True
        while at < len(data):
            if fresh and not self._after_cr:
                start, at = at, self._canonical(chunk, at - held, offset_us, frames) + held
                if at > start:
                    self._blanks = 0
                if at == len(data):
                    break
            end = self._block_end(data, at) if self._blanks < RUN else self._run_end(data, at)
            if end < 0:
                return self._keep(data, at, fresh, frames)
            self._blanks = self._blanks + 1 if data[at] in (_LF, _CR) and (end - at <= 2 or self._blanks >= RUN) else 0
            if self._oversized or end - at > self._limit or _is_endless(data, at, end):
                self._pieces(data, at + self._sent, end, frames, whole=True)
                self._oversized, self._sent = False, 0
                self._take_cuts()
            elif self._blanks > RUN:
                frames.append(self._silent(bytes(data[at:end]), offset_us, self._take_cuts(), None))
            else:
                frames.append(self._frame(bytes(data[at:end]), offset_us, self._take_cuts()))
            self._after_cr = data[end - 1] == _CR
            self._scan = 0
            at, fresh = end, True
        self._buffer = bytearray()
        return frames

    def finish(self) -> list[Frame]:
        """The end of the stream: what is left, as a `$tail` (or `$block`, where it is the LF of a last CRLF)."""
        left, sent = bytes(self._buffer[self._sent :]), self._sent
        self._buffer, self._sent, self._scan, self._oversized = bytearray(), 0, 0, False
        if not left:
            return []
        if not sent and not left.strip(b"\r\n"):
            return [text_frame("$block", left, self._offset_us, self._take_cuts())]
        for line in () if _is_endless(left, 0, len(left)) else left.splitlines(keepends=True):
            if line[-1] in (_LF, _CR):
                retry = _Block(line).retry
                self.reconnection_time = self.reconnection_time if retry is None else retry
        cuts = [(byte - sent, offset) for byte, offset in self._take_cuts() or () if byte > sent]
        return [text_frame("$tail", left, self._offset_us, cuts or None)]

    def _canonical(self, data: bytes, at: int, offset_us: int, frames: list[Frame]) -> int:
        """Take canonical events from `at` on, which nearly all are, at the speed of one regular expression."""
        match, names, event_id = _CANONICAL.match, self._names, self.last_event_id
        limit = self._limit
        while found := match(data, at):
            name, text = found.groups()
            end = found.end()
            if end - at > limit:
                break
            try:
                data_text = text.decode()
                type = names.get(name)
                if type is None:
                    name.decode()
                    type = _escaped(bytes(name))
                    if len(names) < 1000:
                        names[bytes(name)] = type
            except UnicodeDecodeError:
                break
            frames.append(Frame(type, data_text, None, offset_us, None, event_id, None))
            at = end
        return at

    def _block_end(self, data: bytes | bytearray, at: int) -> int:
        """Where the block that starts at `at` ends, or -1. Never looks twice at a byte that cannot be part of an end."""
        start = at + 1 if self._after_cr and data[at] == _LF and not self._sent else at
        if start >= len(data):
            return -1
        if not self._sent and data[start] in (_LF, _CR):
            return start + 1
        found = _BLOCK_END.search(data, max(start, at + self._scan))
        return found.end() if found else -1

    def _run_end(self, data: bytes | bytearray, at: int) -> int:
        """The same where many blank lines came before: of those that follow at once."""
        if self._sent or data[at] not in (_LF, _CR):
            return self._block_end(data, at)
        start = at + self._scan
        run = LINE_ENDS.match(data, start)
        most = min(RUN_BYTES, self._limit)
        end = min(run.end() if run else start, at + most)
        return -1 if end == len(data) and end - at < most else end  # it may go on

    def spill(self) -> list[Frame]:
        """What is held of a block leaves in pieces, as that of one over the limit: there is no room for the whole of it."""
        frames: list[Frame] = []
        if len(self._buffer) - self._sent > 2:
            self._oversized = True
            self._drop(self._pieces(self._buffer, self._sent, len(self._buffer), frames, whole=True))
        return frames

    def _keep(self, data: bytes | bytearray, at: int, fresh: bool, frames: list[Frame]) -> list[Frame]:
        """Hold what is incomplete until more comes; what grows over the limit leaves in pieces."""
        self._buffer = bytearray(data[at:]) if fresh else self._buffer
        size = len(self._buffer)
        self._scan = max(0, size - 2)
        self._oversized = self._oversized or size + _CUT_COST * len(self._cuts) // 2 > self._limit
        if self._oversized and size - self._sent >= self._piece:
            self._drop(self._pieces(self._buffer, self._sent, size, frames, whole=False))
        return frames

    def _drop(self, gone: int) -> None:
        """What lies before `gone` has left: keep as much of it as the search for the block's end needs."""
        if gone > 2:
            drop = gone - 2
            del self._buffer[:drop]
            self._sent, self._scan = 2, max(0, self._scan - drop)
            kept = [(byte - drop, offset) for byte, offset in self._cut_list() if byte > gone]
            self._cuts = array("q", (value for cut in kept for value in cut))

    def _pieces(self, data: bytes | bytearray, at: int, end: int, frames: list[Frame], *, whole: bool) -> int:
        """Emit `$piece`s of [at, end), the last one short only where it is `whole`; where they end."""
        known = self._cut_list()
        while end - at >= self._piece or (whole and at < end):
            stop = min(at + self._piece, end)
            offset = next((o for byte, o in known if byte >= stop), self._offset_us)
            cuts = [(byte - at, o) for byte, o in known if at < byte < stop]
            frames.append(text_frame("$piece", bytes(data[at:stop]), offset, cuts or None))
            at = stop
        return at

    def _take_cuts(self) -> Cuts | None:
        if not self._cuts:
            return None
        cuts, self._cuts = self._cut_list(), array("q")
        return cuts

    def _cut_list(self) -> Cuts:
        return list(zip(self._cuts[::2], self._cuts[1::2], strict=True))

    def _frame(self, body: bytes, offset_us: int, cuts: Cuts | None) -> Frame:
        """The frame of a complete block, an LF that belongs to the block before included."""
        block = _Block(body[1:] if self._after_cr and body[:1] == b"\n" else body)
        if block.id is not None:
            self.last_event_id = block.id
        if block.retry is not None:
            self.reconnection_time = block.retry
        if block.data:
            type, lines = _escaped(block.type), block.data
        elif block.comments and not block.other:
            type, lines = "$comment", block.comments
        else:
            return self._silent(body, offset_us, cuts, block.retry)
        text, exact = decode_text(b"\n".join(lines))
        raw = None if exact and b"\0" not in body and _CR not in body and encode(type, text) == body else body
        return Frame(type, text, raw, offset_us, cuts, self.last_event_id, block.retry)

    def _silent(self, body: bytes, offset_us: int, cuts: Cuts | None, retry: int | None) -> Frame:
        """The frame of a block that dispatches nothing."""
        return text_frame("$block", body, offset_us, cuts)._replace(id=self.last_event_id, retry=retry)
