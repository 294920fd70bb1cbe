"""Finding patterns in texts, also in a text that comes in pieces: several events, each with some characters of it.

What a text ends with may be the beginning of a match, which only its next piece shows. Until then it is *open*, and whoever gave
the piece must wait, or have it redacted unseen. The library `regex` says of a text whether it may begin a match: a partial match.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import regex

logger = logging.getLogger(__name__)

Pattern = regex.Pattern[str]

SECONDS = 0.25
"""How long one search may take: an expression that backtracks without end must not stop the recorder. Then all has matched."""

UNSEEN = 4
"""Characters from which on what may be the beginning of a match is redacted where nobody can wait for the rest."""

_LONG = 4096  # characters from which on the interpreter's lock is given back during a search

Span = tuple[int, int]


class Piece(Protocol):
    """A string on its way to the log."""

    @property
    def gone(self) -> bool:
        """Whether it is in the log already."""

    def redact(self, start: int, end: int) -> None:
        """Redact these of its characters."""


def find_all(pattern: Pattern, text: str, at: int = 0) -> list[Span]:
    """Where a pattern matches."""
    try:
        found = pattern.search(text, at, timeout=SECONDS, concurrent=len(text) > _LONG)
        if found is None:
            return []
        spans = pattern.finditer(text, found.start(), timeout=SECONDS, concurrent=len(text) > _LONG)
        return [match.span() for match in spans if match.end() > match.start()]
    except TimeoutError:
        _too_slow(pattern)
        return [(at, len(text))]


def find_open(pattern: Pattern, text: str, at: int = 0) -> int | None:
    """Where the text ends in what may be the beginning of a match that it does not have yet. at: behind its last match."""
    try:
        found = pattern.search(text, at, partial=True, timeout=SECONDS, concurrent=len(text) > _LONG)
    except TimeoutError:
        _too_slow(pattern)
        return None
    return found.start() if found is not None and found.partial and found.start() < len(text) else None


def _goes_on(pattern: Pattern, text: str, at: int) -> bool:
    """Whether all from here on is a match, or may become one."""
    try:
        return pattern.fullmatch(text, at, partial=True, timeout=SECONDS, concurrent=len(text) > _LONG) is not None
    except TimeoutError:
        _too_slow(pattern)
        return False


_slow: set[str] = set()


def _too_slow(pattern: Pattern) -> None:
    if pattern.pattern not in _slow:
        _slow.add(pattern.pattern)
        logger.error("the pattern %r takes too long: texts that it takes so long for are redacted whole", pattern.pattern)


def find_whole(patterns: Sequence[Pattern], text: str, *, cut: bool = False) -> list[Span]:
    """Where patterns match in a text that is whole. cut: its end is missing, so what may begin a match there counts, too."""
    spans: list[Span] = []
    for pattern in patterns:
        found = find_all(pattern, text)
        spans += found
        if cut and (begins := find_open(pattern, text, found[-1][1] if found else 0)) is not None:
            spans += _unseen(begins, len(text))
    return spans


def _unseen(start: int, end: int) -> list[Span]:
    return [(start, end)] if end - start >= UNSEEN else []


class _Held(NamedTuple):
    start: int  # in the text
    end: int
    piece: Piece


class Text:
    """One text that comes in pieces: of what came before, the last look_back characters.

    waits_for: the first open piece. owner: the ids or indexes of the object that it is of.
    """

    def __init__(self, patterns: Sequence[Pattern], look_back: int, owner: tuple[str, ...] = ()) -> None:
        self.waits_for: Piece | None = None
        self.owner = owner
        self._patterns = patterns
        self._look_back = look_back
        self._text = ""
        self._begins: list[int | None] = [None] * len(patterns)  # where each pattern's match may begin, or goes on
        self._open: int | None = None  # where what is not decided begins
        self._held: list[_Held] = []

    def add(self, piece: Piece, text: str, *, wait: bool) -> None:
        """The next piece. wait: whether it may wait for the one after it, else what it leaves open is redacted unseen."""
        came = len(self._text)
        text = self._text + text
        self._held = [held for held in self._held if not held.piece.gone]
        self._held.append(_Held(came, len(text), piece))
        spans: list[Span] = []
        self._open = None
        for number, pattern in enumerate(self._patterns):
            begins, found, decided = self._search(pattern, text, self._begins[number], came)
            spans += found
            if begins is not None and not decided:
                if wait and len(text) - begins <= self._look_back:
                    self._open = begins if self._open is None else min(begins, self._open)
                else:
                    spans += _unseen(begins, len(text))
            self._begins[number] = begins
        self._redact(spans)
        self.waits_for = None
        if self._open is not None:
            self.waits_for = next((held.piece for held in self._held if held.end > (self._open or 0)), None)
        self._text = text
        self._forget(len(text) - self._look_back)

    def cut(self) -> None:
        """The text broke off, so what is open is redacted unseen; what comes next begins anew."""
        if self._open is not None:
            self._redact(_unseen(self._open, len(self._text)))
        self.end()

    def end(self) -> None:
        """What is open becomes no match any more."""
        self.waits_for, self._open, self._text, self._held = None, None, "", []
        self._begins = [None] * len(self._patterns)

    def _search(self, pattern: Pattern, text: str, begun: int | None, came: int) -> tuple[int | None, list[Span], bool]:
        """(where a match may begin or goes on at the end, matches, whether all of that is in a match already)."""
        found = find_all(pattern, text, came if begun is None else begun)
        last = found[-1] if found else None
        if begun is not None and _goes_on(pattern, text, begun):
            begins: int | None = begun
        elif last is not None and _goes_on(pattern, text, last[0]):
            begins = last[0]
        else:
            begins = find_open(pattern, text, last[1] if last else came if begun is None else begun)
        decided = last is not None and begins is not None and last[0] <= begins and last[1] == len(text)
        return begins, found, decided

    def _redact(self, spans: list[Span]) -> None:
        for start, end in spans:
            for held in self._held:
                if held.start < end and start < held.end:
                    held.piece.redact(max(start, held.start) - held.start, min(end, held.end) - held.start)

    def _forget(self, count: int) -> None:
        """Keep no more of the text than matches may look back."""
        if count <= 0:
            return
        self._text = self._text[count:]
        self._begins = [None if begins is None else max(0, begins - count) for begins in self._begins]
        self._open = None if self._open is None else max(0, self._open - count)
        self._held = [_Held(held.start - count, held.end - count, held.piece) for held in self._held if held.end > count]
