"""Which wire protocol a stream speaks, and the fold of one stream: its events → its partial states.

A protocol is a module with NAME, FOLD_VERSION, matches(request), matches_event(type, data), begin(partial, request),
evolve(partial, position, offset_us, type, data) and body(partial, data). To add one: its file, and its entry in PROTOCOLS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from recorder import jsontext
from recorder.protocols import assistants
from recorder.protocols.partial import STREAM, Partial, Request
from recorder.sse import is_system, parse

__all__ = ["FOLD_VERSION", "PROTOCOLS", "Request", "StreamFold", "protocol_for"]


class WireProtocol(Protocol):
    NAME: str
    FOLD_VERSION: int

    def matches(self, request: Request) -> bool: ...

    def matches_event(self, type: str, data: str) -> bool: ...

    def begin(self, partial: Partial, request: Request) -> None: ...

    def evolve(self, partial: Partial, position: int, offset_us: int, type: str, data: str) -> None: ...

    def body(self, partial: Partial, data: str) -> None: ...


PROTOCOLS: tuple[WireProtocol, ...] = (assistants,)

FOLD_VERSION = 1000 + sum(protocol.FOLD_VERSION for protocol in PROTOCOLS)
"""Of all folds together, the thousands counting changes of this file: streams folded by another version are folded again."""

_BY_NAME = {protocol.NAME: protocol for protocol in PROTOCOLS}


def protocol_for(request: Request) -> WireProtocol | None:
    """The protocol of a request, or None where only the events can tell."""
    return next((protocol for protocol in PROTOCOLS if protocol.matches(request)), None)


class StreamFold:
    """Folds the events of one stream, in order, from the start or from where a saved state left off.

    position: of the last event folded, -1 before any. outcome, error and the counters are of the stream itself.
    """

    def __init__(self, request: Request, states: dict[str, Any] | None = None) -> None:
        own = dict((states or {}).get(STREAM) or {})
        self.position: int = own.get("at", -1)
        self.events: int = own.get("events", 0)
        self.bytes: int = own.get("bytes", 0)
        self.first_event_us: int | None = own.get("first_event_us")
        self.last_us: int = own.get("last_us", 0)
        self.status: int | None = own.get("status")
        self.outcome: str | None = own.get("outcome")
        self._tail: str | None = own.get("tail")
        self._protocol = _BY_NAME.get(own.get("protocol") or "")
        if states is None:
            self._partial = Partial()
            self._protocol = protocol_for(request)
            if self._protocol:
                self._protocol.begin(self._partial, request)
        else:
            parts = {key: state for key, state in states.items() if key != STREAM}
            if own.get("part"):
                parts[STREAM] = own["part"]
            self._partial = Partial.from_json(own["partial"], parts)

    @property
    def protocol(self) -> str | None:
        return self._protocol.NAME if self._protocol else None

    def feed(self, position: int, offset_us: int, type: str, data: str) -> None:
        """Fold one event. Never raises: what cannot be folded becomes an anomaly."""
        self.position = position
        if offset_us > self.last_us:
            self.last_us = offset_us
        if type[:1] == "$" and is_system(type):
            handler = _SYSTEM.get(type)
            if handler is not None:
                handler(self, position, offset_us, data)
            return
        self.events += 1
        self.bytes += _size(data)
        if self.first_event_us is None:
            self.first_event_us = offset_us
        if self._protocol is None:
            self._protocol = next((protocol for protocol in PROTOCOLS if protocol.matches_event(type, data)), None)
        if self._protocol is not None:
            self._evolve(position, offset_us, type, data)

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
            "status": self.status,
            "outcome": self.outcome,
            "tail": self._tail,
            "partial": self._partial.to_json(),
            "part": states.get(STREAM),
        }
        return states

    @property
    def thread_id(self) -> str | None:
        return self._partial.thread_id

    @property
    def error(self) -> dict[str, Any] | None:
        """Of an error event or an error response: code, type, message, param."""
        return self._partial.error

    def _evolve(self, position: int, offset_us: int, type: str, data: str) -> None:
        assert self._protocol is not None
        try:
            self._protocol.evolve(self._partial, position, offset_us, type, data)
        except Exception as error:  # noqa: BLE001 - a payload that nobody foresaw must not stop the projection of all others
            self._anomaly(position, offset_us, "not_folded", f"{type or 'message'}: {error!r}")

    def _anomaly(self, position: int, offset_us: int, kind: str, detail: str) -> None:
        key = self._partial.run_key or STREAM
        self._partial.part(key, position, offset_us).anomaly(position, kind, detail)

    def _on_response(self, position: int, offset_us: int, data: str) -> None:
        status = jsontext.object_of(data).get("status")
        self.status = status if isinstance(status, int) else None

    def _on_body(self, position: int, offset_us: int, data: str) -> None:
        self.bytes += _size(data)
        if self.status is not None and self.status >= 400 and self._partial.error is None:
            error = jsontext.object_of(data).get("error")
            if not isinstance(error, dict):
                error = {"message": error if isinstance(error, str) else data[:500]}
            self._partial.error = {key: error.get(key) for key in ("code", "type", "message", "param")}
        elif self._protocol is not None:
            self._protocol.body(self._partial, data)

    def _on_block(self, position: int, offset_us: int, data: str) -> None:
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
        self._anomaly(position, offset_us, "gap", data)

    def _on_end(self, position: int, offset_us: int, data: str) -> None:
        """The stream is over: its outcome; and a tail that is complete but for its blank line is folded after all."""
        outcome = jsontext.object_of(data).get("outcome")
        self.outcome = outcome if isinstance(outcome, str) else None
        tail, self._tail = self._tail, None
        if not tail or self._protocol is None:
            return
        if tail[-1] not in "\r\n" and not tail.splitlines()[-1].startswith("data:"):
            return  # a line was cut that might have said what this event is
        type, text = parse(tail.encode())
        try:
            value = jsontext.loads(text)
        except jsontext.JSONError:
            return
        if isinstance(value, (dict, list)):  # JSON that closes its brackets is whole, with or without its line end
            self._evolve(position, offset_us, type, text)
            self._anomaly(position, offset_us, "tail_folded", f"{type or 'message'}: lacked its blank line")


def _size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


_SYSTEM = {
    "$response": StreamFold._on_response,
    "$body": StreamFold._on_body,
    "$block": StreamFold._on_block,
    "$piece": StreamFold._on_piece,
    "$tail": StreamFold._on_tail,
    "$gap": StreamFold._on_gap,
    "$end": StreamFold._on_end,
}
