"""What is to be written over a frame on its way to the log: filler, over parts of the texts within it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from recorder.redaction.filler import blank, blank_string
from recorder.redaction.leaves import Decoded
from recorder.sse import Frame

Write = Callable[[str], str]
"""The filler of a piece of text."""


class Slot:
    """A frame on its way, and what is to be written over it. holds: how many texts wait for what comes after it."""

    __slots__ = ("_remake", "frame", "gone", "holds", "size", "spans", "text")

    def __init__(self, frame: Frame, text: str, remake: Callable[[Frame, str], Frame]) -> None:
        self.frame, self.text, self._remake = frame, text, remake
        self.size = len(text)
        self.spans: list[tuple[int, int, Write]] = []
        self.holds = 0
        self.gone = False

    def done(self) -> Frame:
        """The frame as it is to be stored."""
        self.gone = True
        return self._remake(self.frame, written(self.text, self.spans)) if self.spans else self.frame


class View:
    """A text within a slot's: the lines of an event's data stand apart there. starts: of each line, here and in the slot."""

    __slots__ = ("_here", "_there", "slot", "text")

    def __init__(self, slot: Slot, text: str, starts: Sequence[tuple[int, int]] = ((0, 0),)) -> None:
        self.slot, self.text = slot, text
        self._here = [here for here, _ in starts]
        self._there = [there for _, there in starts]

    def write(self, start: int, end: int, how: Write) -> None:
        """Have this much of the text overwritten; the ends of its lines stay."""
        while start < end:
            line = bisect_right(self._here, start) - 1
            stop = min(end, self._here[line + 1] - 1 if line + 1 < len(self._here) else end)
            offset = self._there[line] - self._here[line]
            if start < stop:
                self.slot.spans.append((start + offset, stop + offset, how))
            start = max(stop, start) if stop == end else stop + 1


class String:
    """A string in a view, as matching sees it: the characters that it stands for."""

    __slots__ = ("_decoded", "_start", "_view", "_write")

    def __init__(self, view: View, start: int, end: int, *, plain: bool = False) -> None:
        self._view, self._start = view, start
        raw = view.text[start:end]
        self._decoded = None if plain or "\\" not in raw else Decoded(raw)
        self._write: Write = blank if plain else blank_string

    @property
    def slot(self) -> Slot:
        return self._view.slot

    @property
    def gone(self) -> bool:
        return self._view.slot.gone

    def redact(self, start: int, end: int) -> None:
        if self._decoded is not None:
            start, end = self._decoded.raw(start, end)
        self._view.write(self._start + start, self._start + end, self._write)

    def text_of(self, raw: str) -> str:
        return raw if self._decoded is None else self._decoded.text


def written(text: str, spans: list[tuple[int, int, Write]]) -> str:
    """A text with filler over these parts of it, which may overlap."""
    pieces: list[str] = []
    at = 0
    for start, end, write in sorted(spans, key=lambda span: span[:2]):
        start = max(start, at)
        if start < end:
            pieces += (text[at:start], write(text[start:end]))
            at = end
    return "".join((*pieces, text[at:]))
