"""How much of a body is recorded; what is beyond that is counted, for a `$gap`."""

from __future__ import annotations

from typing import NamedTuple

from recorder.kind import media_type
from recorder.settings import Settings


class Limit(NamedTuple):
    """Bytes of a body that are recorded, and why no more."""

    bytes: int
    reason: str


def limit_of(settings: Settings, content_type: str | None) -> Limit:
    """The limit for the body of a response that is no stream of events: those have none."""
    named = media_type(content_type)
    if named and settings.skips_type(named):
        return Limit(0, f"not recorded: bodies of type {named} (skip_types)")
    return Limit(settings.max_response_body, f"not recorded: over {settings.max_response_body} bytes (max_response_body)")


class Allowance:
    """Of one body. chunks, bytes: how many are beyond its limit so far."""

    __slots__ = ("_left", "bytes", "chunks", "reason")

    def __init__(self, limit: Limit) -> None:
        self._left, self.reason = limit
        self.chunks = self.bytes = 0

    def take(self, chunk: bytes) -> bytes:
        """What of the next chunk is within the limit."""
        size = len(chunk)
        if size <= self._left:
            self._left -= size
            return chunk
        within, self._left = chunk[: self._left], 0
        self.chunks += 1
        self.bytes += size - len(within)
        return within
