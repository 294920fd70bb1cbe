"""The fold of one stream: its events → its partial states, by whatever protocol it speaks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from recorder import jsontext, kind
from recorder.protocols import WireProtocol, named, protocol_for, protocol_of_body, protocol_of_event
from recorder.protocols.conversation import Answer, Before
from recorder.protocols.errors import error, error_in, event_of, is_words, told_outside
from recorder.protocols.partial import STREAM, Partial, Request
from recorder.protocols.payload import value
from recorder.sse import SSEDecoder, beside, is_system, parse

BODY_LIMIT = 64 * 1024 * 1024
"""Characters of a JSON body that is folded."""

SILENCE_US = 1_000_000
"""A pause in a stream from which on it is kept, and counted by."""

STALL_US = 10_000_000
"""A pause from which on the stream is taken to have stalled."""

SILENCES_LIMIT = 100
"""Pauses kept of one stream."""

_BLANK = " \t\r\n\ufeff"

_BEGINNINGS = (
    (kind.JSON, re.compile(r"[{\[]")),
    (kind.SSE, re.compile(r"(?:data|event|id|retry)?:")),
    (kind.OTHER, re.compile(r".{6}", re.DOTALL)),
)
"""What a body may be whose text begins so; one of fewer characters may still become anything."""

_MARK = "data: [DONE]"

_WORDS_LIMIT = 500  # characters of an error's words where it is no JSON
_REFUSAL_LIMIT = 256 * 1024  # characters of the body of an error response that are looked at

_BY_CHOICE = "not recorded:"
"""How the reason of a gap begins that the user's own settings asked for: nothing is amiss with the stream."""


class StreamFold:
    """Folds the events of one stream, in order, from the start or from where a saved state left off.

    position: of the last event folded, -1 before any. outcome, error and the counters are of the stream itself.
    silences: [position of the event that ended it, its offset, how long it was, its type], of SILENCE_US and more.
    longest_gap_us: the longest pause of any length. stalls: how many were of STALL_US and more. stalled: the last one, before
    the stream's end, was.
    """

    def __init__(self, request: Request, states: dict[str, Any] | None = None) -> None:
        self._request = request
        own = dict((states or {}).get(STREAM) or {})
        self.position: int = own.get("at", -1)
        self.events: int = own.get("events", 0)
        self.bytes: int = own.get("bytes", 0)
        self.first_event_us: int | None = own.get("first_event_us")
        self.last_us: int = own.get("last_us", 0)
        self.longest_gap_us: int | None = own.get("longest_gap_us")
        self.stalls: int = own.get("stalls", 0)
        self.stalled: bool = own.get("stalled", False)
        self.silences: list[list[Any]] = own.get("silences") or []
        self.status: int | None = own.get("status")
        self.outcome: str | None = own.get("outcome")
        self._tail: str | None = own.get("tail")
        self._kind: str | None = own.get("kind")  # of a body, once that is known
        self._body: list[str] = own.get("body") or []
        self._words: list[Any] | None = own.get("words")  # position and data of the last event, where that is no JSON
        self._protocol = named(own.get("protocol"))
        self._resumed = bool(own.get("protocol"))
        if states is None:
            self._partial = Partial(request.stream_id)
            self._speak(protocol_for(request))
        else:
            parts = {key: state for key, state in states.items() if key != STREAM}
            if own.get("part"):
                parts[STREAM] = own["part"]
            self._partial = Partial.from_json(own["partial"], parts, request.stream_id)

    @property
    def protocol(self) -> str | None:
        return self._protocol.NAME if self._protocol else None

    def feed(self, position: int, offset_us: int, type: str, data: str) -> None:
        """Fold one event. Never raises: what cannot be folded becomes an anomaly."""
        gap_us = offset_us - self.last_us
        if gap_us > 0:
            self.last_us = offset_us
        if self.position >= 0 and gap_us > (self.longest_gap_us or 0):
            self.longest_gap_us = gap_us
        if gap_us >= SILENCE_US and self.position >= 0:
            self._silent(position, offset_us, gap_us, type)
        self.position = position
        if type[:1] == "$" and is_system(type):
            handler = _SYSTEM.get(type)
            if handler is not None:
                handler(self, position, offset_us, data)
            return
        self.events += 1
        self.bytes += _size(data)
        if self.first_event_us is None:
            self.first_event_us = offset_us
        self._event(position, offset_us, type, data)

    def feed_all(self, events: Iterable[tuple[int, int, str, str]]) -> None:
        """Fold events given as (position, offset_us, type, data)."""
        feed = self.feed
        for position, offset_us, type, data in events:
            feed(position, offset_us, type, data)

    def states(self) -> dict[str, Any]:
        """{key: JSON state}: one for each run or unowned object that the stream names, and STREAM for the rest."""
        states = {key: part.to_json() for key, part in self._partial.parts.items()}
        states[STREAM] = {
            "at": self.position,
            "protocol": self.protocol,
            "events": self.events,
            "bytes": self.bytes,
            "first_event_us": self.first_event_us,
            "last_us": self.last_us,
            "longest_gap_us": self.longest_gap_us,
            "stalls": self.stalls,
            "stalled": self.stalled,
            "silences": self.silences,
            "status": self.status,
            "outcome": self.outcome,
            "tail": self._tail,
            "kind": self._kind,
            "body": self._body,
            "words": self._words,
            "partial": self._partial.to_json(),
            "part": states.get(STREAM),
        }
        return states

    @property
    def thread_id(self) -> str | None:
        return self._partial.thread_id

    @property
    def previous(self) -> str | None:
        """The key of the run that this stream's run follows."""
        return self._partial.previous

    @property
    def root(self) -> str | None:
        """The key of the run that this stream's chain begins with, as far as the stream can tell."""
        return self._partial.root

    @property
    def answers(self) -> list[Answer] | None:
        """The outputs that stand in the request, the latest last; None where this fold goes on from a saved state."""
        return None if self._resumed else self._partial.answers

    @property
    def before(self) -> Before | None:
        """What the request said before the run that answers it."""
        return self._partial.before

    @property
    def error(self) -> dict[str, Any] | None:
        """Of an error event or an error response: code, type, message, param."""
        return self._partial.error

    @property
    def error_at(self) -> int | None:
        """The position of that event, None where HTTP's status told the error."""
        return self._partial.error_at

    def _speak(self, protocol: WireProtocol | None) -> None:
        """Settle on a protocol, once."""
        self._protocol = protocol
        if protocol is not None:
            try:
                protocol.begin(self._partial, self._request)
            except Exception as problem:  # noqa: BLE001 - as in _evolve
                self._anomaly(0, 0, "not_folded", f"request: {problem!r}")

    def _evolve(self, position: int, offset_us: int, type: str, data: str) -> None:
        assert self._protocol is not None
        try:
            self._protocol.evolve(self._partial, position, offset_us, type, data)
            self._note_end(position)
        except Exception as problem:  # noqa: BLE001 - a payload that nobody foresaw must not stop the projection of all others
            self._anomaly(position, offset_us, "not_folded", f"{type or 'message'}: {problem!r}")

    def _note_end(self, position: int) -> None:
        """Keep which event ended the run that the connection is about."""
        part = self._partial.parts.get(self._partial.run_key or STREAM)
        if part is not None and part.terminal is (part.ended is None):
            part.ended = position if part.terminal else None

    def _event(self, position: int, offset_us: int, type: str, data: str) -> None:
        if self._protocol is None:
            self._speak(protocol_of_event(type, data))
        if data[:1] != "{" and is_words(data):
            self._words = [position, data[:_WORDS_LIMIT]]
        elif self._words is not None and data != "[DONE]":
            self._words = None  # the stream went on
        if self._protocol is not None:
            self._evolve(position, offset_us, type, data)
        elif type == "error" or (not type and '"error"' in data):
            told = error_in(event_of(type, data), type == "error")
            if told is not None:
                self._partial.fail(told, position)

    def _silent(self, position: int, offset_us: int, gap_us: int, type: str) -> None:
        self.stalls += gap_us >= STALL_US
        self.stalled = gap_us >= STALL_US and type == "$end"
        if len(self.silences) < SILENCES_LIMIT:
            self.silences.append([position, offset_us, gap_us, type])

    def _anomaly(self, position: int, offset_us: int, kind: str, detail: str) -> None:
        key = self._partial.run_key or STREAM
        self._partial.part(key, position, offset_us).anomaly(position, kind, detail)

    def _on_response(self, position: int, offset_us: int, data: str) -> None:
        response = jsontext.object_of(data)
        status = response.get("status")
        self.status = status if isinstance(status, int) else None

    def _on_body(self, position: int, offset_us: int, data: str) -> None:
        """A body, or a piece of one: it is folded when its JSON is whole."""
        self.bytes += _size(data)
        if self.status is not None and self.status >= 400:
            self._on_refusal(data)
            return
        self._body.append(data)
        if self._kind is None:
            begins = "".join(self._body).lstrip(_BLANK)
            self._kind = next((name for name, pattern in _BEGINNINGS if pattern.match(begins)), None)
        if self._kind == kind.OTHER:
            self._body = []
        elif sum(map(len, self._body)) > BODY_LIMIT:
            self._body, self._kind = [], kind.OTHER
            self._anomaly(position, offset_us, "oversized", "a body over the limit, kept and not folded")
        elif self._kind == kind.JSON and data.rstrip()[-1:] in ("}", "]") and self._whole(position, offset_us, self._body):
            self._body = []

    def _whole(self, position: int, offset_us: int, pieces: list[str]) -> bool:
        """Fold a body of JSON; whether it is whole."""
        text = "".join(pieces).lstrip(_BLANK)
        found = value(text)
        if found is None and text.rstrip().endswith(_MARK):  # some that say that they are a stream end as one
            found = value(text.rstrip().removesuffix(_MARK))
        if found is None:
            return False
        if self._protocol is None:
            self._speak(protocol_of_body(found))
        if self._protocol is not None:
            try:
                self._protocol.body(self._partial, position, offset_us, found)
                self._note_end(position)
            except Exception as problem:  # noqa: BLE001 - as in _evolve
                self._anomaly(position, offset_us, "not_folded", f"body: {problem!r}")
        is_answer = self._protocol is not None and self._protocol.matches_body(found)
        if not is_answer and (told := error_in(found)) is not None:
            self._partial.fail(told, position)
        return True

    def _stream(self, position: int, offset_us: int, text: str) -> None:
        """Fold a body that is a stream of events: it was taken for what its content type said when it was recorded."""
        decoder = SSEDecoder()
        for frame in (*decoder.feed(text.encode("utf-8", "surrogatepass")), *decoder.finish()):
            if not is_system(frame.type):
                self._event(position, offset_us, frame.type, frame.data)
            self._on_outside(position, offset_us, frame.data if frame.type == "$block" else beside(frame.type, frame.raw))

    def _on_refusal(self, data: str) -> None:
        """The body of an error response, or a piece of it: its error, or else its words."""
        if sum(map(len, self._body)) > _REFUSAL_LIMIT:
            return
        self._body.append(data)
        text = "".join(self._body)
        told = error(found) if isinstance(found := value(text), (dict, list)) else None
        self._partial.error = told if told is not None and told["message"] is not None else error(text[:_WORDS_LIMIT])

    def _on_block(self, position: int, offset_us: int, data: str) -> None:
        self._on_outside(position, offset_us, data)
        if data.strip("\r\n\ufeff"):
            self._anomaly(position, offset_us, "undispatched", f"a block without data: {data[:200]}")

    def _on_piece(self, position: int, offset_us: int, data: str) -> None:
        self.bytes += _size(data)
        self._anomaly(position, offset_us, "oversized", "part of an event over the limit, kept in pieces and not folded")

    def _on_tail(self, position: int, offset_us: int, data: str) -> None:
        self._tail = data
        self._anomaly(position, offset_us, "unfinished_tail", f"{len(data.encode())} bytes after the last complete event")

    def _on_gap(self, position: int, offset_us: int, data: str) -> None:
        self._tail = None  # what broke off there is no end of the stream
        if not str(jsontext.object_of(data).get("reason")).startswith(_BY_CHOICE):
            self._anomaly(position, offset_us, "gap", data)

    def _on_end(self, position: int, offset_us: int, data: str) -> None:
        """The stream is over: its outcome, and what the last that came of it says."""
        outcome = jsontext.object_of(data).get("outcome")
        self.outcome = outcome if isinstance(outcome, str) else None
        tail, self._tail = self._tail, None
        body, self._body = "".join(self._body), []
        if self._kind == kind.SSE and kind.kind_of(body.encode("utf-8", "replace"), "text/plain") == kind.SSE:
            self._stream(position - 1, offset_us, body)
        if tail and not self.events and tail.lstrip(_BLANK)[:1] in ("{", "[") and self._whole(position, offset_us, [tail]):
            tail = None
        self._on_tail_end(position, offset_us, tail or "")
        self._on_last_words(offset_us)

    def _on_last_words(self, offset_us: int) -> None:
        """Words as the last event of a stream whose run did not end are what its server had to say of that."""
        words, self._words = self._words, None
        if words is None or self._protocol is None or self._partial.error is not None:
            return
        part = self._partial.parts.get(self._partial.run_key or STREAM)
        if part is None or not part.terminal:
            self._evolve(words[0], offset_us, "error", jsontext.dumps({"error": {"message": words[1]}}))

    def _on_outside(self, position: int, offset_us: int, text: str) -> None:
        """An error that stands in the stream without `data:`, as servers write it that break in the middle of one."""
        told = told_outside(text)
        if told is None:
            return
        if self._protocol is not None:
            self._evolve(position, offset_us, "error", told)
        elif (found := error_in(event_of("error", told), named=True)) is not None:
            self._partial.fail(found, position)

    def _on_tail_end(self, position: int, offset_us: int, tail: str) -> None:
        """A tail that is complete but for its blank line is folded after all."""
        self._on_outside(position, offset_us, tail)
        if not tail or self._protocol is None:
            return
        if tail[-1] not in "\r\n" and not tail.splitlines()[-1].startswith("data:"):
            return  # a line was cut that might have said what this event is
        type, text = parse(tail.encode())
        try:
            found = jsontext.loads(text)
        except jsontext.JSONError:
            return
        if isinstance(found, (dict, list)):  # JSON that closes its brackets is whole, with or without its line end
            self._evolve(position, offset_us, type, text)
            self._anomaly(position, offset_us, "tail_folded", f"{type or 'message'}: lacked its blank line")


def _size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


_SYSTEM = {
    "$response": StreamFold._on_response,
    "$body": StreamFold._on_body,
    "$block": StreamFold._on_block,
    "$outside": StreamFold._on_outside,
    "$piece": StreamFold._on_piece,
    "$tail": StreamFold._on_tail,
    "$gap": StreamFold._on_gap,
    "$end": StreamFold._on_end,
}
