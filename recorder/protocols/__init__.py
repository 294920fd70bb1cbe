"""Which wire protocol a stream speaks.

A protocol is a module with the names of WireProtocol. To add one: its file, its entry in PROTOCOLS, and a folder of its name
in fixtures/. How it says things is its own: what the rest reads are the neutral states of partial.py and view.py.
"""

from __future__ import annotations

from typing import Any, Protocol

from recorder.protocols import anthropic, assistants, chat, responses
from recorder.protocols.conversation import Conversation
from recorder.protocols.partial import Partial, Request
from recorder.protocols.view import MergedRun, Shown

__all__ = [
    "FOLD_VERSION",
    "PROTOCOLS",
    "Request",
    "WireProtocol",
    "named",
    "protocol_for",
    "protocol_of_body",
    "protocol_of_event",
]


class WireProtocol(Protocol):
    NAME: str
    FOLD_VERSION: int
    """Raise it when the fold's result changes: streams folded by an older version are folded again by themselves."""

    def matches(self, request: Request) -> bool:
        """Whether a request is one of this protocol, by its method, path, host and body."""

    def matches_event(self, type: str, data: str) -> bool:
        """Whether an event can only be this protocol's."""

    def matches_body(self, found: Any) -> bool:
        """Whether the JSON of a response that is no stream can only be this protocol's."""

    def begin(self, partial: Partial, request: Request) -> None:
        """Take what the request alone tells: the run in its URL, its conversation, the calls that it answers."""

    def evolve(self, partial: Partial, position: int, offset_us: int, type: str, data: str) -> None:
        """Fold one event into the partial state, in place. What it raises becomes an anomaly."""

    def body(self, partial: Partial, position: int, offset_us: int, found: Any) -> None:
        """Fold the JSON of a response that is no stream."""

    def repeats(self, request: Request) -> Conversation:
        """What a request repeats of its conversation: the outputs that it gives to calls of earlier runs."""

    def present(self, run: MergedRun) -> Shown:
        """The Run object, its steps and messages, from what the streams of a run add up to."""


PROTOCOLS: tuple[WireProtocol, ...] = (assistants, responses, chat, anthropic)
"""In the order in which they are asked."""

FOLD_VERSION = 10000 + sum(protocol.FOLD_VERSION for protocol in PROTOCOLS)
"""Of all folds together, the thousands counting changes of what they share: streams folded by another are folded again."""

_BY_NAME = {protocol.NAME: protocol for protocol in PROTOCOLS}


def named(name: str | None) -> WireProtocol | None:
    """The protocol of this name."""
    return _BY_NAME.get(name or "")


def protocol_for(request: Request) -> WireProtocol | None:
    """The protocol of a request, or None where only what answers it can tell."""
    return next((protocol for protocol in PROTOCOLS if protocol.matches(request)), None)


def protocol_of_event(type: str, data: str) -> WireProtocol | None:
    """The protocol that alone has such an event."""
    return next((protocol for protocol in PROTOCOLS if protocol.matches_event(type, data)), None)


def protocol_of_body(found: Any) -> WireProtocol | None:
    """The protocol that alone has such a body."""
    return next((protocol for protocol in PROTOCOLS if protocol.matches_body(found)), None)
