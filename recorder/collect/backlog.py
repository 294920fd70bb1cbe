"""What the writer has taken from the queue and not got to yet, of streams whose chunks are more than their share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from recorder.collect.recording import Entry, Recording


class Backlog:
    """Each stream's entries in their order; the streams have their turns one after the other."""

    def __init__(self) -> None:
        self._entries: dict[Recording, deque[Entry]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, recording: Recording) -> bool:
        return recording in self._entries

    def add(self, recording: Recording, entry: Entry) -> None:
        self._entries.setdefault(recording, deque()).append(entry)

    def after(self, call: Callable[[], None]) -> None:
        """Have `call` called once all that is here now is through."""
        left = len(self._entries)

        def passed() -> None:
            nonlocal left
            left -= 1
            if not left:
                call()

        for entries in self._entries.values():
            entries.append(Entry(None, 0, passed, 0))

    def turn(self) -> tuple[Recording, deque[Entry]]:
        """The stream whose turn it is, and what waits of it; it is the last then. end() it where nothing is left."""
        recording = next(iter(self._entries))
        entries = self._entries[recording] = self._entries.pop(recording)
        return recording, entries

    def end(self, recording: Recording) -> deque[Entry]:
        return self._entries.pop(recording)

    def oldest(self) -> Iterator[Entry]:
        """The first entry of each stream."""
        return (entries[0] for entries in self._entries.values() if entries)
