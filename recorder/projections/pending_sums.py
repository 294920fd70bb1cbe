"""`pending_sums`: the runs whose costs, and the sessions and hours whose sums are to be computed again.

A sum over all runs of a busy hour costs what that hour holds, not what is new; done at every step, catching up would be
quadratic. So a step only notes what it touched, in its own transaction, and each is summed up once when the steps are done.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from recorder import database, log
from recorder.database import metadata
from recorder.prices import Prices
from recorder.projections import costs, sessions, usage

SLICES = {"session": 100, "cost": 1000, "hour": 5}
"""How many of a kind one transaction sums up. Costs change hours, so they go before them."""

pending_sums = sa.Table(
    "pending_sums",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),  # session, cost or hour
    sa.Column("key", sa.Text, primary_key=True),  # session_id; run_key; ISO 8601
)

TABLES = (pending_sums,)


def note(connection: sa.Connection, session_ids: set[str], hours: set[datetime], run_keys: Iterable[str] = ()) -> None:
    """Note that these are to be summed up, and what these runs cost is to be found."""
    rows = [{"kind": "session", "key": session_id} for session_id in sorted(session_ids)]
    rows += [{"kind": "hour", "key": hour.isoformat()} for hour in sorted(hours)]
    rows += [{"kind": "cost", "key": key} for key in sorted(run_keys)]
    if rows:
        connection.execute(log.insert_missing(connection, pending_sums), rows)


def sum_up(engine: sa.Engine, prices: Prices | None = None) -> None:
    """Sum up all that was noted, some at a time. Costs are left for whoever has prices."""
    for kind, size in SLICES.items():
        while kind != "cost" or prices:
            with database.read(engine) as connection:
                if not _noted(connection, kind, 1):
                    break
            with database.write(engine) as connection:
                keys = _noted(connection, kind, size)
                _sum(connection, kind, keys, prices)
                connection.execute(pending_sums.delete().where(pending_sums.c.kind == kind, pending_sums.c.key.in_(keys)))


def _sum(connection: sa.Connection, kind: str, keys: list[str], prices: Prices | None) -> None:
    if kind == "session":
        sessions.apply(connection, set(keys))
    elif kind == "hour":
        hours = {datetime.fromisoformat(key) for key in keys}
        usage.apply(connection, hours)
        costs.sum_hours(connection, hours)
    elif prices:
        note(connection, set(), costs.apply(connection, keys, prices).hours)


def _noted(connection: sa.Connection, kind: str, limit: int) -> list[str]:
    chosen = sa.select(pending_sums.c.key).where(pending_sums.c.kind == kind).order_by(pending_sums.c.key).limit(limit)
    return list(connection.execute(chosen).scalars())
