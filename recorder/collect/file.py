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


class File:
    """Of an engine; of one that is no SQLite file it never changes."""

    def __init__(self, engine: sa.Engine) -> None:
        name = engine.url.database
        self._engine = engine
        self._path = name if engine.dialect.name == "sqlite" and name and name != ":memory:" else None
        self._known = self._standing()

    @property
    def changed(self) -> bool:
        """Whether the file that was there is gone, or another stands in its place."""
        return self._path is not None and (self._known is None or self._standing() != self._known)

    def forget(self) -> None:
        """What stands at the path is not the database that it was: it has no tables."""
        self._known = None

    def renew(self) -> None:
        """Go on with what stands at the path: another file, or a new one. Raises DatabaseError, OSError, DBAPIError."""
        if self._path is None:
            return
        self._known = None
        self._engine.dispose()  # the caller has none of its connections in use
        with _alone(Path(self._path).parent):
            if not os.path.exists(self._path):
                for rest in ("-wal", "-shm"):  # they belong to the file that was removed
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._path + rest)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            database.check(self._engine, upgrade=True)
        self._known = self._standing()

    def _standing(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
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
