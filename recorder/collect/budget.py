"""What recorder holds in memory of all that passes through it, counted in one place against one bound."""

from __future__ import annotations


class Budget:
    """In bytes. limit: what is beyond it passes to the client and is left out of the log, which says so.

    queued, taken: of what was put on the queue, and of that what is through. blocks: of open streams, what waits for what
    follows (half events, bodies, what redaction holds, what decompression needs): kept below a half, for it can go to the log in
    pieces. requests: bodies of requests on their way. Each is counted by one thread; queued may lose some between threads, which
    bends the bound a little.
    """

    __slots__ = ("blocks", "limit", "queued", "requests", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queued = self.taken = self.blocks = self.requests = 0

    @property
    def queue(self) -> int:
        return self.queued - self.taken

    @property
    def used(self) -> int:
        return self.queued - self.taken + self.blocks + self.requests

    @property
    def crowded(self) -> bool:
        """Whether open streams hold more than their half."""
        return self.blocks > self.limit // 2

    def full(self, size: int, own: int = 0) -> bool:
        """Whether this many bytes more are too many to wait. own: those of the same stream that wait already.

        No stream takes more than three quarters: the others have room beside one that floods.
        """
        waiting = self.queued - self.taken
        return waiting > 0 and (
            waiting + self.blocks + self.requests + size > self.limit or (own > 0 and own + size > self.limit - self.limit // 4)
        )
