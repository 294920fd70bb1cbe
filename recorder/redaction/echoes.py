"""Takes secrets out of a response: of members of JSON and URLs by their names, and those of its own request that it quotes.

As in all that is redacted of a response, a frame keeps its bytes' number, and its JSON its structure. Nothing is held back: of
a body that comes in several frames each is looked at by itself, with the end of what came before it, and by names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from recorder.redaction import fields, urls
from recorder.redaction.filler import blank, blank_string
from recorder.redaction.names import is_secret
from recorder.redaction.overlay import Slot, View
from recorder.redaction.redactor import text_of, with_data, with_raw
from recorder.sse import Frame

_MEMBER = re.compile(r'"([A-Za-z][A-Za-z0-9_-]{1,39})\\*"[ \t\r\n]*:[ \t\r\n]*(\\*)"')
_REST = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
_QUOTE = re.compile(r'(?<!\\)(\\*+)"')
_DATA = re.compile(r"^data:[ ]?(.*?)\r?$", re.MULTILINE)

_TAIL = 256
"""Characters of a frame that are looked at once more with the next."""

_UNSEEN = 4
"""Characters of a secret from which on what a frame ends with is taken for the beginning of it."""

_DELTA, _CHUNK = "delta", '"chat.completion.chunk"'
"""What is nothing but a piece of a model's output: most events are, and have no room for a secret's name."""

_PARTS = frozenset({"$body", "$piece"})


class Echoes:
    """Of one stream. known: the secrets of its request."""

    __slots__ = ("_known", "_open", "_tail")

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple(known)
        self._tail = ""
        self._open = False  # whether the frame before ended within a secret

    def feed(self, frames: list[Frame]) -> list[Frame]:
        """The frames as they may be stored; the same list where nothing in them is secret."""
        changed = None
        for at, frame in enumerate(frames):
            is_part = frame.type in _PARTS
            text = frame.data if frame.raw is None else text_of(frame)
            if not is_part and not self._quotes(text):
                delta = frame.type.endswith(_DELTA) or _CHUNK in text
                if delta or not fields.may_hold(text):
                    continue
            shown = self._part(frame, text) if is_part else self._whole(frame, text)
            if shown is not frame:
                changed = changed or list(frames)
                changed[at] = shown
        return changed or frames

    def _quotes(self, text: str) -> bool:
        return any(word in text for word in self._known)

    def _whole(self, frame: Frame, text: str) -> Frame:
        """An event, a line, or what recorder itself says."""
        slot = Slot(frame, text, with_data if frame.raw is None else with_raw)
        self._literals(slot, text, 0)
        if frame.raw is None or text.lstrip()[:1] in ("{", "["):
            _members(View(slot, text))
        else:
            starts, pieces, here = [], [], 0
            for line in _DATA.finditer(text):
                starts.append((here, line.start(1)))
                pieces.append(line[1])
                here += len(line[1]) + 1
            if pieces:
                _members(View(slot, "\n".join(pieces), starts))
        return slot.done()

    def _part(self, frame: Frame, text: str) -> Frame:
        """A part of a body: the first one, or only one, may be JSON that is whole."""
        slot = Slot(frame, text, with_data if frame.raw is None else with_raw)
        tail, first = self._tail, not self._tail
        joined = tail + text
        if self._open and (rest := _REST.match(text)):
            slot.spans.append((0, rest.end(), blank_string))
            self._open = rest.end() == len(text)
        if self._known:
            self._literals(slot, joined, len(tail))
            self._begun(slot, text)
        if fields.may_hold(joined):
            end = _members(View(slot, text)) if first else 0
            if end < len(text):
                self._by_name(slot, joined, len(tail))
        self._tail = joined[-max(_TAIL, *map(len, self._known), 0) :]
        return slot.done()

    def _literals(self, slot: Slot, text: str, begin: int) -> None:
        """The secrets of the request that stand in text[begin:], also those that begin before it."""
        for word in self._known:
            at = text.find(word)
            while at >= 0:
                end = at + len(word)
                if end > begin:
                    slot.spans.append((max(at - begin, 0), end - begin, blank))
                at = text.find(word, end)

    def _begun(self, slot: Slot, text: str) -> None:
        for word in self._known:
            at = text.find(word[:_UNSEEN], max(0, len(text) - len(word) + 1))
            while at >= 0 and not word.startswith(text[at:]):
                at = text.find(word[:_UNSEEN], at + 1)
            if at >= 0:
                slot.spans.append((at, len(text), blank))

    def _by_name(self, slot: Slot, text: str, begin: int) -> None:
        at = 0
        while member := _MEMBER.search(text, at):
            at = member.end()
            if is_secret(member[1]):
                start, at = at, _string_end(text, at, len(member[2]))
                if at > begin and text[start:at] != urls.REDACTED:
                    slot.spans.append((max(start - begin, 0), at - begin, blank_string))
                    self._open = at == len(text)


def _string_end(text: str, at: int, escapes: int) -> int:
    """Where a string ends that goes on here, and whose quotes have so many backslashes before them."""
    if not escapes:
        rest = _REST.match(text, at)
        return rest.end() if rest else at
    ends = (quote.start() for quote in _QUOTE.finditer(text, at) if len(quote[1]) <= escapes)
    return next(ends, len(text))


def _members(view: View) -> int:
    """Blank the secrets of a JSON text; where it stopped to be JSON."""
    if not fields.may_hold(view.text):
        return len(view.text)
    found = fields.find(view.text)
    for start, end in fields.strings(view.text, found.hits):
        if view.text[start:end] != urls.REDACTED:
            view.write(start, end, blank_string)
    return found.end
