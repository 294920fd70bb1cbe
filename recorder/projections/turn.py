"""Whose turn it is to project: one process at a time, and no question waits long for another's.

PostgreSQL has a lock for that, held by a transaction: a pooler gives the next one another connection. On SQLite two may project
side by side, for the write lock and the checkpoints hold them apart; but one that may take long says so in a row of `writers`,
and questions leave the work to it. So they do for one that is stopped.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from recorder import database
from recorder.errors import Busy
from recorder.log import writers
from recorder.process import lives, machine, process_started

_LOCK = 0x7265636F72646572  # PostgreSQL advisory lock

_PROJECTOR = "00000000-0000-7000-8000-000000000000"
"""The writer's id under which a process says that it projects: it has no streams."""

_SAID_FOR = timedelta(hours=1)  # by a machine whose processes cannot be looked up
_POLL_SECONDS = 0.05

PATIENCE_SECONDS = 1.0
"""How long a question waits for another process that projects."""


@contextmanager
def only_projector(engine: sa.Engine, patience: float | None = None) -> Iterator[None]:
    """Holds the projector's turn. patience: seconds to wait for another's; None: as long as it takes. Raises Busy."""
    taken = _locked if engine.dialect.name == "postgresql" else _free
    give_up_at = None if patience is None else time.monotonic() + patience
    while True:
        with taken(engine, give_up_at) as ours:
            if ours:
                yield
                return
        if give_up_at is not None and time.monotonic() > give_up_at:
            raise Busy("another process is projecting, or was stopped while it did")
        time.sleep(_POLL_SECONDS)


@contextmanager
def _locked(engine: sa.Engine, give_up_at: float | None) -> Iterator[bool]:
    """Whether the lock is ours. Who waits for it holds no connection: over a pooler the others could need that to go on."""
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.select(sa.func.set_config("idle_in_transaction_session_timeout", "0", True)))
        yield bool(connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))).scalar())


@contextmanager
def _free(engine: sa.Engine, give_up_at: float | None) -> Iterator[bool]:
    yield give_up_at is None or not _another(engine)


@contextmanager
def announced(engine: sa.Engine) -> Iterator[None]:
    """Projecting that may take long, so that questions do not do the same beside it. Best effort: nothing depends on it."""
    key = engine.url.render_as_string()
    if engine.dialect.name != "sqlite" or key in _announced or _another(engine):
        yield
        return
    now = datetime.now(UTC)
    ours = {"machine": machine(), "pid": os.getpid(), "process_started": process_started(os.getpid())}
    times = {"started_at": now, "renewed_at": now, "expires_at": now + _SAID_FOR}
    _announced.add(key)
    try:
        with database.write(engine) as connection:
            connection.execute(_GONE)
            connection.execute(writers.insert().values(writer_id=_PROJECTOR, **ours, **times))
        yield
    finally:
        _announced.discard(key)
        with contextlib.suppress(sa.exc.DBAPIError), database.write(engine) as connection:
            connection.execute(_GONE.where(writers.c.pid == ours["pid"]))


_announced: set[str] = set()  # by this process: what it does on the way need not be said again
_GONE = writers.delete().where(writers.c.writer_id == _PROJECTOR)


def _another(engine: sa.Engine) -> bool:
    """Whether another process that lives has said that it projects."""
    with database.read(engine) as connection:
        said = connection.execute(sa.select(writers).where(writers.c.writer_id == _PROJECTOR)).first()
    if said is None or (said.machine, said.pid) == (machine(), os.getpid()):
        return False
    alive = lives(said.pid, said.process_started) if said.machine == machine() else None
    return datetime.now(UTC) < said.expires_at if alive is None else alive
