"""The file of a SQLite database on disk: whether it still is the one that is open, and a new one where it is gone.

Whoever has opened a file can go on writing to it after it was removed: all of it would vanish with the last process that has
it open. So the writer looks after each commit whether what stands at the path is the file that it wrote to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from recorder import database

_BESIDE = ("-wal", "-shm")

_Identity = tuple[int, int]
"""Device and inode."""


class File:
    """Of an engine; of one that is no SQLite file it never changes."""

    def __init__(self, engine: sa.Engine) -> None:
        name = engine.url.database
        self._engine = engine
        self._path = name if engine.dialect.name == "sqlite" and name and name != ":memory:" else None
        self._known = self._standing()
        self._beside: list[_Identity | None] | None = None
        self._empty = False

    @property
    def changed(self) -> bool:
        """Whether the file that was there is gone, or another stands in its place. Raises OSError where that cannot be seen."""
        if self._path is None:
            return False
        if self._empty or self._known is None or self._standing() != self._known:
            return True
        if self._beside is None:
            self._beside = [self._standing(suffix) for suffix in _BESIDE]
        return False

    def opened(self) -> None:
        """A connection is new: what stands beside the file may be, too."""
        self._beside = None

    def forget(self) -> None:
        """What stands at the path is not the database that it was: it has no tables."""
        self._empty = True

    def renew(self) -> None:
        """Go on with what stands at the path: another file, or a new one. Raises DatabaseError, OSError, DBAPIError."""
        if self._path is None:
            return
        self._engine.dispose()  # the caller has none of its connections in use
        with _alone(Path(self._path).parent):
            found = self._standing()
            for suffix, known in zip(_BESIDE, self._beside or (None, None), strict=True):
                # What belongs to the file that was removed would be taken for the new one's.
                if found is None or (found != self._known and known is not None and self._standing(suffix) == known):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._path + suffix)
            if found is None:
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            database.check(self._engine, upgrade=True)
        self._known, self._beside, self._empty = self._standing(), None, False

    def _standing(self, suffix: str = "") -> _Identity | None:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path + suffix)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: two that both make the file would take away each other's journal."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
