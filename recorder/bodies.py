"""Responses that are no SSE: lines of JSON, and plain bodies. Decoders with the shape of SSEDecoder."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Protocol

from recorder import jsontext, kind
from recorder.sse import BOM, LIMIT, LINE_ENDS, RUN, RUN_BYTES, Cuts, Frame, SSEDecoder, decode_text, text_frame

PIECE = 1024 * 1024
"""Bytes from which on a body that is joined is handed on."""


class Decoder(Protocol):
    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]: ...

    def finish(self) -> list[Frame]: ...

    def spill(self) -> list[Frame]: ...

    @property
    def held(self) -> int: ...


def decoder_for(body: str) -> Decoder:
    """The decoder for a body of a kind (kind.py)."""
    return _DECODERS[body]()


class _Held:
    """Bytes that are held until they are complete, and the ends of earlier chunks within them."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._cuts = array("q")  # byte, offset_us, byte, offset_us …
        self._offset_us = 0

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return len(self._held) + 8 * len(self._cuts)

    def _add(self, chunk: bytes, offset_us: int) -> None:
        if self._held and offset_us != self._offset_us:
            self._cuts.extend((len(self._held), self._offset_us))
        self._held += chunk
        self._offset_us = offset_us

    def _take_cuts(self) -> Cuts | None:
        if not self._cuts:
            return None
        cuts, self._cuts = list(zip(self._cuts[::2], self._cuts[1::2], strict=True)), array("q")
        return cuts

    def _take(self, type: str) -> list[Frame]:
        """All that is held, as a frame of its own."""
        if not self._held:
            return []
        left, self._held = bytes(self._held), bytearray()
        return [text_frame(type, left, self._offset_us, self._take_cuts())]


class BodyDecoder(_Held):
    """A body as `$body` frames: one a chunk, or (join) as few as PIECE allows, so that a JSON body is one text."""

    def __init__(self, join: bool = True) -> None:
        super().__init__()
        self._join = join

    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]:
        if not chunk:
            return []
        self._add(chunk, offset_us)
        return [] if self._join and self.held < PIECE else self.finish()

    def finish(self) -> list[Frame]:
        return self._take("$body")

    def spill(self) -> list[Frame]:
        """What is held, though more of it will come: there is no room for it."""
        return self.finish()


class LinesDecoder(_Held):
    """Newline-delimited JSON: each line an event without a type. A line's bytes are its data and an LF, or `raw`.

    A line over `limit` bytes leaves in pieces, as a block of SSEDecoder does; so does a long run of line ends.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self._limit = limit
        self._scan = 0
        self._oversized = False
        self._blanks = 0  # lines in a row that were empty
        self._begun = False

    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]:
        if not chunk:
            return []
        self._add(chunk, offset_us)
        frames: list[Frame] = []
        held, at = self._held, 0
        if not self._begun and len(held) >= len(BOM):
            self._begun = True
            if held.startswith(BOM):
                at = self._scan = len(BOM)
                frames.append(text_frame("$block", BOM, offset_us, self._take_cuts()))
        while True:
            if self._blanks >= RUN and at < len(held) and held[at] in b"\r\n":
                start = max(at, self._scan)
                run = LINE_ENDS.match(held, start)
                end = min(run.end() if run else start, at + RUN_BYTES)
                if end == len(held) and end - at < RUN_BYTES:  # it may go on
                    break
                frames.append(text_frame("$block", bytes(held[at:end]), offset_us, self._take_cuts()))
            elif (end := held.find(b"\n", max(at, self._scan)) + 1) > 0:
                frames.append(self._line(bytes(held[at:end])))
                self._blanks = self._blanks + 1 if end - at <= 2 and held[at] in b"\r\n" else 0
            else:
                break
            at, self._scan, self._oversized, self._begun = end, 0, False, True
        del held[:at]
        self._scan = len(held)
        if self._oversized or self.held > self._limit:
            self._oversized = True
            if self.held >= PIECE:
                frames += self.spill()
        return frames

    def finish(self) -> list[Frame]:
        """A last line without its LF is an event where it is JSON, else a `$tail`."""
        left, blanks = bytes(self._held), self._blanks
        self._scan = self._blanks = 0
        if not left or self._oversized:
            self._oversized = False
            return self._take("$piece")
        if blanks >= RUN and not left.strip(b"\r\n"):
            return self._take("$block")
        try:
            jsontext.loads(left)
        except jsontext.JSONError:
            return self._take("$tail")
        self._held = bytearray()
        return [self._line(left)]

    def spill(self) -> list[Frame]:
        """What is held of a line leaves as a `$piece`: there is no room for the whole of it."""
        self._oversized, self._scan = True, 0
        return self._take("$piece")

    def _line(self, line: bytes) -> Frame:
        cuts = self._take_cuts()
        if self._oversized:
            return text_frame("$piece", line, self._offset_us, cuts)
        if not line.strip():
            return text_frame("$block", line, self._offset_us, cuts)
        text, exact = decode_text(line.rstrip(b"\r\n"))
        canonical = exact and line == text.encode() + b"\n"
        return Frame("", text, None if canonical else line, self._offset_us, cuts)


_DECODERS: dict[str, Callable[[], Decoder]] = {
    kind.SSE: SSEDecoder,
    kind.LINES: LinesDecoder,
    kind.JSON: BodyDecoder,
    kind.OTHER: lambda: BodyDecoder(join=False),
}
