"""`pending_sums`: the sessions and hours whose sums are to be computed again.

A sum over all runs of a busy hour costs what that hour holds, not what is new; done at every step, catching up would be
quadratic. So a step only notes what it touched, in its own transaction, and each is summed up once when the steps are done.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from recorder import database, log
from recorder.database import metadata
from recorder.projections import sessions, usage

SLICE = 100
"""Sessions, or SLICE / 20 hours, that one transaction sums up."""

pending_sums = sa.Table(
    "pending_sums",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),  # session or hour
    sa.Column("key", sa.Text, primary_key=True),  # session_id; ISO 8601
)

TABLES = (pending_sums,)


def note(connection: sa.Connection, session_ids: set[str], hours: set[datetime]) -> None:
    """Note that these are to be summed up."""
    rows = [{"kind": "session", "key": session_id} for session_id in sorted(session_ids)]
    rows += [{"kind": "hour", "key": hour.isoformat()} for hour in sorted(hours)]
    if rows:
        connection.execute(log.insert_missing(connection, pending_sums), rows)


def sum_up(engine: sa.Engine) -> None:
    """Sum up all that was noted, some at a time."""
    for kind, size in (("session", SLICE), ("hour", SLICE // 20)):
        while True:
            with database.read(engine) as connection:
                if not _noted(connection, kind, 1):
                    break
            with database.write(engine) as connection:
                keys = _noted(connection, kind, size)
                if kind == "session":
                    sessions.apply(connection, set(keys))
                else:
                    usage.apply(connection, {datetime.fromisoformat(key) for key in keys})
                connection.execute(pending_sums.delete().where(pending_sums.c.kind == kind, pending_sums.c.key.in_(keys)))


def _noted(connection: sa.Connection, kind: str, limit: int) -> list[str]:
    chosen = sa.select(pending_sums.c.key).where(pending_sums.c.kind == kind).order_by(pending_sums.c.key).limit(limit)
    return list(connection.execute(chosen).scalars())
