"""`costs` and `costs_hourly`: what runs cost, in billionths of a US dollar.

They are no function of the log, since prices change: `recorder recost` computes them again. A run whose row is replaced loses its
cost in the same transaction, and has it again when what was noted is summed up; a run without a row here has no known cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder.database import UTCTime, metadata, slices
from recorder.prices import Prices, Tokens
from recorder.projections.runs import runs
from recorder.projections.sessions import session_streams
from recorder.projections.usage import KEYS

costs = sa.Table(
    "costs",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("cost_nusd", sa.BigInteger, nullable=False),
    sa.Column("price_date", sa.Text),  # the day from which that price holds; null where the list says none
    sa.Column("price_model", sa.Text, nullable=False),  # the model as the price list names it
    sa.Column("source", sa.Text, nullable=False),  # the price list and its version, or the user's file
    sqlite_with_rowid=False,
)

costs_hourly = sa.Table(
    "costs_hourly",
    metadata,
    sa.Column("hour", UTCTime, primary_key=True),
    *(sa.Column(name, sa.Text, primary_key=True) for name in KEYS),  # as in usage_hourly
    sa.Column("runs", sa.BigInteger, nullable=False),  # that have a cost
    sa.Column("cost_nusd", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

TABLES = (costs, costs_hourly)


class Priced(NamedTuple):
    """How the pricing of some runs came out.

    without_usage: runs whose tokens are not known, or make no sense. without_price: {model: runs}, all others without a cost.
    hours: whose sums have changed. before, after: billionths of a US dollar.
    """

    runs: int
    priced: int
    changed: int
    without_usage: int
    without_price: dict[str | None, int]
    hours: set[datetime]
    before: int
    after: int


_RUNS = sa.select(
    *(runs.c[name] for name in ("run_key", "protocol", "model", "hour", "began_at")),
    *(runs.c[name] for name in ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens")),
    session_streams.c.host,
    *costs.c[1:],
).select_from(
    runs.outerjoin(session_streams, session_streams.c.stream_id == runs.c.stream_id).outerjoin(
        costs, costs.c.run_key == runs.c.run_key
    )
)


def apply(connection: sa.Connection, keys: Iterable[str], prices: Prices) -> Priced:
    """Price these runs, each at the prices of its own day. Rows are written where they change."""
    count = without_usage = before = after = found = 0
    unknown: dict[str | None, int] = {}
    hours: set[datetime] = set()
    gone: list[str] = []
    new: list[dict[str, Any]] = []
    for some in slices(keys):
        for key, protocol, model, hour, began_at, *given in connection.execute(_RUNS.where(runs.c.run_key.in_(some))):
            tokens, (host, *had) = Tokens(*given[:5]), given[5:]
            count += 1
            cost = prices.cost(protocol, host or "", model, began_at or hour, tokens)
            if cost is not None:
                found += 1
                after += cost.nusd
            elif None in tokens[:1] + tokens[3:4] or prices.price(protocol, host or "", model, began_at or hour):
                without_usage += 1
            else:
                unknown[model] = unknown.get(model, 0) + 1
            before += had[0] or 0
            now = (None, None, None, None) if cost is None else (cost.nusd, cost.date, cost.model, cost.source)
            if now == tuple(had):
                continue
            hours.add(hour)
            if had[0] is not None:
                gone.append(key)
            if cost is not None:
                new.append(dict(zip(costs.c.keys(), (key, *now), strict=True)))
    forget(connection, gone)
    if new:
        connection.execute(costs.insert(), new)
    return Priced(count, found, len({*gone, *(row["run_key"] for row in new)}), without_usage, unknown, hours, before, after)


def forget(connection: sa.Connection, keys: Iterable[str]) -> None:
    """Delete the costs of these runs."""
    for some in slices(keys):
        connection.execute(costs.delete().where(costs.c.run_key.in_(some)))


def sum_hours(connection: sa.Connection, hours: set[datetime]) -> None:
    """Recompute the buckets of these hours from the costs of their runs."""
    at = sorted(hours)
    connection.execute(costs_hourly.delete().where(costs_hourly.c.hour.in_(at)))
    keys = [runs.c.hour, *(sa.func.coalesce(runs.c[name], "") for name in KEYS)]
    joined = runs.join(costs, costs.c.run_key == runs.c.run_key)
    found = sa.select(*keys, sa.func.count(), sa.cast(sa.func.sum(costs.c.cost_nusd), sa.BigInteger)).select_from(joined)
    found = found.where(runs.c.hour.in_(at)).group_by(*keys)
    connection.execute(costs_hourly.insert().from_select(costs_hourly.c.keys(), found))
