"""One writer a database (and settings) in each process: shared by hooks and transports, safe across forks, flushed at exit.

A forked child inherits objects but no threads, and must not touch its parent's connections. So whatever was opened belongs to
the process that opened it: a child that records opens its own, and the parent's are set aside, neither used nor closed. With
SQLite that is not enough (database.py says why), and a connection to a server would be shared: so each writer lets go of its
connection before its process forks, also one that nobody uses any more and that is still closing.

A fork does not wait for a database, though. A writer that is in the midst of a transaction by then keeps its connection: to a
server it is the parent's alone, for the driver looks whose it is. In a SQLite file the child records nothing, and says so.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa

from recorder import database
from recorder.collect.writer import Writer
from recorder.errors import DatabaseError
from recorder.settings import Settings

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""How long whoever closes waits for a database that does not take what is queued."""

EXIT_SECONDS = 5.0
"""How long the end of a process waits for it."""

FORK_SECONDS = 0.1
"""How long a fork waits for the transactions that are under way on servers."""

FORK_FILE_SECONDS = 5.0
"""And in files: none waits there for another process's lock for longer than a moment, so this is a disk that hangs."""


class Shared:
    """The writer of one database, as long as someone uses it: acquire() gets it, release() gives it back."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.users = 0
        self._engine = database.connect(url)
        self.name = database.shown(self._engine)
        self._engine.dispose()  # the schema is current; no connection is open that a fork could inherit
        self._writer: Writer | None = None
        self._process = os.getpid()

    @property
    def writer(self) -> Writer:
        """This process's writer; its thread starts when it is first asked for. Raises DatabaseError."""
        if self._writer is not None and self._process == os.getpid():
            return self._writer
        with _lock:
            if self._process != os.getpid():
                _refuse_inherited(self.url)
                self._leave_to_parent()
            if self._writer is None:
                if not self.users:  # nobody would close a new one, or wait at the end for what it has not stored yet
                    raise DatabaseError(f"recording into {self.name} was closed")
                self._writer = Writer(self._engine, self.settings)
                _writers.add(self._writer)
                self._writer.start()
                _at_exit()
            return self._writer

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was recorded so far is committed; whether it was in time (seconds)."""
        writer = self._writer if self._process == os.getpid() else None
        return writer is None or writer.flush(timeout)

    def close(self, timeout: float) -> bool:
        """Commit what is queued, end the thread, close the connections; whether all of it is in the log.

        Nothing is done to what a parent opened.
        """
        if self._process != os.getpid():
            return True
        writer, self._writer = self._writer, None
        complete = writer is None or writer.close(timeout)
        with _lock, _at_work_on(self.url):  # no fork in the midst of it, which would leave a child SQLite's locks as they are
            self._engine.dispose()
        return complete

    def _leave_to_parent(self) -> None:
        _parents.append((self._engine, self._writer))
        self._engine = _engine_like(self._engine)
        self._writer = None
        self._process = os.getpid()


_shared: dict[tuple[str, Settings], Shared] = {}
_writers: WeakSet[Writer] = WeakSet()  # of this process, those that are still closing among them
_parents: list[tuple[sa.Engine, Writer | None]] = []  # kept from the garbage collector, which would close them
_lock = threading.RLock()
_exits: set[int] = set()  # processes that flush when they end


def acquire(url: str, settings: Settings) -> Shared:
    """The writer of a database by these settings, made where this is its first user. Raises DatabaseError."""
    url = _absolute(url)
    made: Shared | None = None
    while True:
        with _lock:
            shared = _shared.get((url, settings)) or made
            if shared is None and _file(url):  # no fork meanwhile, which would leave a child SQLite's locks as they are then
                _refuse_inherited(url)
                with _at_work_on(url):
                    shared = Shared(url, settings)
            if shared is not None:
                _shared[url, settings] = shared
                shared.users += 1
                return shared
        made = Shared(url, settings)  # a server may keep us waiting: a fork does not wait for that


def release(shared: Shared) -> bool:
    """One user less, once what is queued is committed; the last one closes it. Whether all that was queued is in the log."""
    committed = shared.users == 1 or shared.flush(CLOSE_SECONDS)
    with _lock:
        shared.users -= 1
        if shared.users > 0:
            return committed
        if _shared.get((shared.url, shared.settings)) is shared:
            del _shared[shared.url, shared.settings]
    return shared.close(CLOSE_SECONDS)


def _absolute(url: str) -> str:
    """A URL that names the same SQLite file wherever the process goes later: servers change their folder."""
    database.refuse_in_memory(url)
    prefix, _, path = url.partition(":///")
    return f"sqlite:///{os.path.abspath(path)}" if prefix == "sqlite" else url


def _file(url: str) -> str | None:
    """The path of a SQLite file."""
    return sa.make_url(url).database if url.startswith("sqlite") else None


@contextmanager
def _at_work_on(url: str) -> Iterator[None]:
    path = _file(url) or ""
    _opening.add(path)
    try:
        yield
    finally:
        _opening.discard(path)


def _refuse_inherited(url: str) -> None:
    if (path := _file(url)) in _in_use:
        raise DatabaseError(f"{path} was being written when this process was forked: what it does is not recorded there")


def _engine_like(inherited: sa.Engine) -> sa.Engine:
    """An engine of this process on the same database; where its file was removed, the writer makes a new one."""
    return database.engine(inherited.url.render_as_string(hide_password=False), create=True)


def _at_exit() -> None:
    """Have this process flush when it ends. A child of multiprocessing ends without atexit, by finalizers of its own."""
    if os.getpid() in _exits:
        return
    _exits.add(os.getpid())
    atexit.register(_close_all)
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _close_all, exitpriority=100)


def _close_all() -> None:
    for shared in list(_shared.values()):
        try:
            shared.close(EXIT_SECONDS)
        except Exception:
            logger.exception("%s could not be closed", shared.name)


_held: list[Any] = []  # what is to be called after a fork that is under way
_in_use: set[str] = set()  # files that this process must not write: its parent was writing them when it forked
_opening: set[str] = set()  # files that are opened or closed, which _lock is held for


def _before_fork() -> None:
    now = time.monotonic()
    if _lock.acquire(timeout=FORK_FILE_SECONDS):
        _held.append(_lock.release)
    else:
        _refuse_to_child(_opening)
    for writer in list(_writers):
        patience = FORK_SECONDS if writer.path is None else FORK_FILE_SECONDS
        if writer.hold(max(0.0, now + patience - time.monotonic())):
            _held.append(writer.resume)
        elif writer.path is not None:
            _refuse_to_child({writer.path})


def _refuse_to_child(paths: set[str]) -> None:
    """A child inherits that these are in use; its parent, which goes on writing them, forgets it once it has forked."""
    new = paths - _in_use
    _in_use.update(new)
    _held.append(lambda: _in_use.difference_update(new))


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - the parent's is held
    _lock = threading.RLock()
    _held.clear()
    _writers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
