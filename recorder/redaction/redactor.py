"""Redacts the events of one stream.

A frame keeps its bytes' number, its JSON its structure and each string and number its length, so that chunk cuts, timing and
whatever made a parser stumble survive. Redaction works on the text: it finds the places of strings in it and writes filler over
them (filler.py). What a path hits, or all content where that is off, goes at once. A pattern looks at each text; texts of one
place (places.py) in events of one name are pieces of one text, and what is open at the end of a piece (matching.py) holds its
frame back, and in order all frames after it: until the next pieces have shown what it is, the text went on for look_back
characters, HELD_FRAMES or HELD_BYTES came after it, its object ended, or the stream is over. Frames of a JSON body are held
until it is whole. What is open where the stream broke off, or where nothing may be held, is redacted unseen.

What this cannot catch: a match longer than look_back that is split over events, or whose pieces lie further apart than what is
held; a match over texts of different places; what is encoded, compressed or encrypted within a text (base64 …), or escaped once
more (JSON within a JSON string: only characters that this does not escape); names of members and events; true, false and null.
Of an event over the size that is parsed (`$piece`) patterns see the bytes as they stand; where paths are set, or content is off,
it is blanked whole.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from recorder import jsontext, sse
from recorder.redaction import content
from recorder.redaction.filler import blank, blank_number, blank_string
from recorder.redaction.leaves import Leaf, scan
from recorder.redaction.matching import Text, find_whole
from recorder.redaction.overlay import Slot, String, View, written
from recorder.redaction.places import outermost, place_of, which
from recorder.redaction.rules import Rules
from recorder.sse import Frame, text_frame

HELD_FRAMES = 256
HELD_BYTES = 1024 * 1024
"""What may come after an open piece: then its text does not go on, and is no match."""

BODY_BYTES = 16 * 1024 * 1024
"""Bytes of a JSON body that are held to be looked at as one."""

PLACES = 1024
"""Texts of one stream that may be under way at once."""

_WHOLE = frozenset(
    {
        *("created", "queued", "in_progress", "requires_action", "completed", "incomplete", "failed", "cancelling"),
        *("cancelled", "expired", "done", "added", "searching", "interpreting", "generating", "error"),
    }
)
"""Last parts of the names of events that tell a state: what they say is whole, and no piece of a longer text."""

_ENDS = frozenset({"completed", "done", "failed", "incomplete", "cancelled", "expired"})
"""Those that tell the end of the object whose ids or indexes they bear: no text of it goes on."""

FRAMING = frozenset({"content-type", "content-encoding", "content-length"})
"""Headers without which a body cannot be read: they are left as they are."""

_WORDS = frozenset({"reason", "detail"})
"""Of what recorder itself says, the texts that may quote something."""

_LINE = re.compile(r"[^\r\n]+")


class Redactor:
    """Redacts one stream. wait: whether frames may be held back for what comes after them."""

    def __init__(self, rules: Rules, *, wait: bool = True) -> None:
        self._rules = rules
        self._wait = wait
        self._slots: deque[Slot] = deque()
        self._size = 0  # of what is held
        self._texts: OrderedDict[tuple[str, int], Text] = OrderedDict()
        self._body: list[Slot] = []  # of a JSON body, until it is whole
        self._body_size = 0
        self._in_body = False  # whether a body has begun
        self._torn = False  # whether what comes now may be the rest of something that is lost
        self._sealed = False  # whether the body is encoded in a way that cannot be undone

    def feed(self, frames: Iterable[Frame]) -> list[Frame]:
        """The frames that may be stored now, these or some from before, in order."""
        for frame in frames:
            _HANDLERS.get(frame.type, Redactor._on_event)(self, frame)
        return list(self._released())

    def finish(self, *, whole: bool = True) -> list[Frame]:
        """All that is left: the stream is over. whole: it ended where it was to end, and what is open is no match."""
        self._settle(whole=whole)
        return list(self._released())

    @property
    def size(self) -> int:
        """Bytes of memory of what is held, more or less."""
        return self._size

    def held(self) -> list[Frame]:
        """What was given and is not out yet, as it was."""
        return [slot.frame for slot in self._slots]

    def look_at(self, slot: Slot, text: str, starts: Sequence[tuple[int, int]] = ((0, 0),), **how: Any) -> None:
        """Redact a text in a slot, as JSON where it begins as such. how: of _json and _plain."""
        view = View(slot, text, starts)
        if text == "[DONE]":
            return
        if _is_json(text):
            self._json(view, **how)
        elif self._torn and self._rules.structural and text.strip():
            view.write(0, len(text), blank)
        else:
            self._plain(view, **how)

    # Frames

    def _on_event(self, frame: Frame) -> None:
        if frame.raw is None:
            slot = self._slot(frame, frame.data, with_data)
            self.look_at(slot, frame.data, name=frame.type)
        else:
            self._on_lines(frame)
        self._torn = False

    def _on_lines(self, frame: Frame) -> None:
        """A frame with its own bytes: those of a line of JSON, or the lines of a block."""
        text = text_of(frame)
        slot = self._slot(frame, text, with_raw)
        cut = frame.type == "$tail"
        if _is_json(text):
            self.look_at(slot, text, name="" if cut else frame.type, cut=cut)
            return
        name, data = "" if cut else frame.type, []
        for line in _LINE.finditer(text):
            field, colon, value = line[0].partition(":")
            at = line.start() + len(field) + len(colon) + value.startswith(" ")
            value = text[at : line.end()]
            if field == "data":
                data.append((at, value))
            elif not colon and field in ("event", "id", "retry"):
                continue
            elif field == "event" and colon:
                name = value if cut else name
            elif field in ("id", "retry") and colon and content.is_name(value):
                self._plain(View(slot, value, ((0, at),)), kept=True)
            elif colon and not field.startswith(("{", "[", '"')):
                self.look_at(slot, value, ((0, at),), cut=cut)
            else:
                self.look_at(slot, line[0], ((0, line.start()),), odd=True, cut=cut)
        if data:
            starts, here = [], 0
            for at, value in data:
                starts.append((here, at))
                here += len(value) + 1
            self.look_at(slot, "\n".join(value for _, value in data), starts, name=name, cut=cut)

    def _on_comment(self, frame: Frame) -> None:
        if frame.raw is not None:
            self._on_lines(frame)
            return
        slot = self._slot(frame, frame.data, with_data)
        self._plain(View(slot, frame.data))

    def _on_piece(self, frame: Frame) -> None:
        text = text_of(frame)
        view = View(self._slot(frame, text, with_raw), text)
        if self._rules.structural:
            view.write(0, len(text), blank)
        else:
            self._plain(view, place=("$piece", 0))

    def _on_body(self, frame: Frame) -> None:
        text = text_of(frame)
        slot = self._slot(frame, text, with_raw)
        first = not self._in_body
        self._in_body = not first or bool(text.strip(" \t\r\n\ufeff"))
        if self._sealed:
            View(slot, text).write(0, len(text), blank)
        elif self._body or (first and not self._torn and _is_json(text)):
            slot.holds += 1
            self._body.append(slot)
            self._body_size += len(text)
            if self._body_size > BODY_BYTES:
                self._close_body(whole=False)
        elif self._torn and self._rules.structural:
            View(slot, text).write(0, len(text), blank)
        else:
            self._plain(View(slot, text), place=("$body", 0))

    def _on_said(self, frame: Frame) -> None:
        """A `$response`, a `$gap`: recorder's own words."""
        said = jsontext.object_of(frame.data)
        if frame.type == "$response":
            self._sealed = "decoded" not in said and _is_encoded(said.get("headers"))
        elif str(said.get("reason")).startswith("not decoded"):
            self._sealed = True
        if said.get("bytes"):
            self._settle(whole=False)
            self._torn = True
        self._said(frame)

    def _on_end(self, frame: Frame) -> None:
        said = jsontext.object_of(frame.data)
        self._settle(whole=said.get("outcome") in ("done", "eof") or said.get("closed") == "eof")
        self._said(frame)

    def _said(self, frame: Frame) -> None:
        slot = self._slot(frame, frame.data, with_data)
        view = View(slot, frame.data)
        before = ""
        for leaf in scan(frame.data).leaves if self._rules.patterns else ():
            is_value = leaf.key == 1 and before not in FRAMING  # of a header, after its name
            if leaf.name in _WORDS or is_value:
                self._match(view, leaf, None, cut=False)
            before = frame.data[leaf.start : leaf.end]

    # Texts

    def _json(self, view: View, name: str | None = None, *, cut: bool = False, whole: bool = False, odd: bool = False) -> None:
        """name: of the event, None where the text is of none. cut: its end may be missing. whole: it is no piece of anything."""
        rules = self._rules
        nothing = rules.matches_nothing(view.text)
        if nothing and not rules.structural and name and not cut and name.rpartition(".")[2] in _WHOLE - _ENDS:
            return
        found = scan(view.text, rules.paths)
        if self._torn and rules.structural and found.end < len(view.text):
            view.write(0, len(view.text), blank)
            return
        pieces = False
        owner: tuple[str, ...] = ()
        if name is not None and rules.content and rules.patterns and not whole:
            first = outermost(found)
            name = name or first.facts.get("event") or first.facts.get("type") or ""
            state = name.rpartition(".")[2]
            pieces, owner = state not in _WHOLE, which(first)
            if state in _ENDS:
                self._end_of(owner)
        for leaf in found.leaves:
            raw = view.text[leaf.start : leaf.end]
            if leaf.hit or not (rules.content or content.is_kept(leaf, raw)):
                view.write(leaf.start, leaf.end, blank_number if leaf.is_number else blank_string)
            elif rules.patterns:
                named = leaf.name in content.NAMES and content.is_name(raw)
                place = (name or "", place_of(leaf)) if pieces and not leaf.is_number and not named else None
                if nothing and place is None and leaf.whole:
                    continue
                self._match(view, leaf, place, cut=not leaf.whole, owner=owner)
        if found.end < len(view.text):  # it is no JSON from here on
            if rules.structural:
                view.write(found.end, len(view.text), blank)
            self._plain(view, cut=cut)  # and perhaps was none before

    def _match(self, view: View, leaf: Leaf, place: tuple[str, int] | None, *, cut: bool, owner: tuple[str, ...] = ()) -> None:
        raw = view.text[leaf.start : leaf.end]
        if leaf.is_number:
            for start, end in find_whole(self._rules.patterns, raw):
                view.write(leaf.start + start, leaf.start + end, blank_number)
            return
        string = String(view, leaf.start, leaf.end)
        self._find(string, string.text_of(raw), place, cut=cut, owner=owner)

    def _plain(
        self,
        view: View,
        name: str | None = None,
        *,
        place: tuple[str, int] | None = None,
        cut: bool = False,
        whole: bool = False,
        odd: bool = False,
        kept: bool = False,
    ) -> None:
        """A text that is no JSON. kept: it stays with content off. odd: it is no field of an event."""
        rules = self._rules
        text = view.text
        if not text or text == "\ufeff":
            return
        if not (rules.content or kept) or (odd and rules.structural):
            view.write(0, len(text), blank)
            return
        if name is not None and place is None and not whole:
            place = (name, 0)
        self._find(String(view, 0, len(text), plain=True), text, place, cut=cut)

    def _find(self, string: String, text: str, place: tuple[str, int] | None, *, cut: bool, owner: tuple[str, ...] = ()) -> None:
        rules = self._rules
        if not text or not rules.patterns:
            return
        if place is None:
            for start, end in find_whole(rules.patterns, text, cut=cut):
                string.redact(start, end)
            return
        known = self._texts.get(place)
        if known is None:
            known = self._texts[place] = Text(rules.patterns, rules.look_back, owner)
            if len(self._texts) > PLACES:
                self._let_go(self._texts.popitem(last=False)[1])
        self._texts.move_to_end(place)
        before = known.waits_for
        known.add(string, text, wait=self._wait and not cut)
        if isinstance(known.waits_for, String):
            known.waits_for.slot.holds += 1
        if isinstance(before, String):
            before.slot.holds -= 1

    # What is held

    def _slot(self, frame: Frame, text: str, remake: Callable[[Frame, str], Frame]) -> Slot:
        slot = Slot(frame, text, remake)
        self._slots.append(slot)
        self._size += slot.size
        return slot

    def _end_of(self, owner: tuple[str, ...]) -> None:
        for text in self._texts.values() if owner else ():
            if text.owner == owner:
                self._let_go(text)

    def _let_go(self, text: Text) -> None:
        """A text does not go on."""
        if isinstance(text.waits_for, String):
            text.waits_for.slot.holds -= 1
        text.end()

    def _settle(self, *, whole: bool) -> None:
        """Nothing goes on from here."""
        self._close_body(whole=whole)
        self._in_body = False
        for text in self._texts.values():
            if not whole:
                held = text.waits_for
                text.cut()
                if isinstance(held, String):
                    held.slot.holds -= 1
            else:
                self._let_go(text)
        self._texts.clear()

    def _close_body(self, *, whole: bool) -> None:
        """Look at a body as one text, and write over the frames that it came in. Not whole: the rest of it is lost to JSON."""
        slots, self._body, self._body_size = self._body, [], 0
        if not slots:
            return
        pieces = [_bytes(slot.text) for slot in slots]
        given = b"".join(pieces).decode("utf-8", "surrogateescape")
        joined = Slot(slots[0].frame, given, with_data)
        self.look_at(joined, given, whole=True, cut=not whole)
        body = _bytes(written(given, joined.spans))
        at = 0
        for slot, piece in zip(slots, pieces, strict=True):
            part = body[at : at + len(piece)]
            at += len(piece)
            slot.holds -= 1
            if part != piece:
                slot.frame = text_frame("$body", part, slot.frame.offset_us, slot.frame.cuts)
        self._torn = not whole

    def _released(self) -> Iterator[Frame]:
        """The frames that nothing holds, from the first on; too many behind one that is held let it go."""
        slots = self._slots
        while slots:
            if slots[0].holds:
                if self._body or (len(slots) <= HELD_FRAMES and self._size <= HELD_BYTES):
                    return
                for text in self._texts.values():
                    if isinstance(text.waits_for, String) and text.waits_for.slot is slots[0]:
                        self._let_go(text)
            slot = slots.popleft()
            self._size -= slot.size
            yield slot.done()


def _is_json(text: str) -> bool:
    """Whether a text begins as JSON does: an object or a list, or is a JSON string."""
    begin = text.lstrip(" \t\r\n\ufeff")[:1]
    return begin in ("{", "[") or (begin == '"' and scan(text).end == len(text))


def _is_encoded(headers: Any) -> bool:
    """Whether these headers, [[name, value] …], say that the body is encoded (RFC 9110, 8.4)."""
    pairs = [pair for pair in headers if isinstance(pair, list) and len(pair) == 2] if isinstance(headers, list) else []
    return any(name == "content-encoding" and value not in ("", "identity") for name, value in pairs)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def text_of(frame: Frame) -> str:
    """The bytes of a frame as text; one that is no UTF-8 is a lone surrogate."""
    return frame.data if frame.raw is None else bytes(frame.raw).decode("utf-8", "surrogateescape")


def with_data(frame: Frame, text: str) -> Frame:
    return frame._replace(data=text)


def with_raw(frame: Frame, text: str) -> Frame:
    """The frame with these bytes instead of its own."""
    if frame.type in sse.WIRE_TEXT:
        return text_frame(frame.type, _bytes(text), frame.offset_us, frame.cuts)
    if frame.raw is None:
        return frame._replace(data=text)
    raw = _bytes(text)
    return frame._replace(data=sse.decode_raw(frame.type, raw)[1], raw=raw)


_HANDLERS: dict[str, Callable[[Redactor, Frame], None]] = {
    "$response": Redactor._on_said,
    "$body": Redactor._on_body,
    "$comment": Redactor._on_comment,
    "$block": Redactor._on_lines,
    "$piece": Redactor._on_piece,
    "$tail": Redactor._on_lines,
    "$gap": Redactor._on_said,
    "$end": Redactor._on_end,
}
