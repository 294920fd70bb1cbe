"""`costs`: what runs cost, in billionths of a US dollar. The sums of usage and sessions hold the sums of it.

They are no function of the log, since prices change: `recorder recost` computes them again. A run whose row is replaced loses its
cost in the same transaction, and has it again when what was noted is summed up; a run without a row here has no known cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import metadata, slices
from recorder.log import streams
from recorder.prices import Cost, Prices, Tokens
from recorder.projections.runs import runs
from recorder.protocols.usage import iterations, reported_cost
from recorder.protocols.view import RunView

costs = sa.Table(
    "costs",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("cost_nusd", sa.BigInteger, nullable=False),
    sa.Column("price_date", sa.Text),  # the day from which that price holds; null where the list says none
    sa.Column("price_model", sa.Text, nullable=False),  # the model as the price list names it
    sa.Column("source", sa.Text, nullable=False),  # the price list and its version, the user's file, or PROVIDER
    sqlite_with_rowid=False,
)

TABLES = (costs,)

PROVIDER = "provider"
"""The source of a cost that the answer itself reports, which counts where no price is known."""

COSTS = ("runs_with_cost", "cost_nusd")
"""What sums say of costs: how many of their runs have one, and what these cost; null where none has."""


def sums() -> list[sa.ColumnElement[Any]]:
    """COSTS over runs that are joined with their costs."""
    return [sa.func.count(costs.c.run_key), sa.cast(sa.func.sum(costs.c.cost_nusd), sa.BigInteger)]


joined = runs.outerjoin(costs, costs.c.run_key == runs.c.run_key)
"""Runs with their costs."""


class Priced(NamedTuple):
    """How the pricing of some runs came out.

    without_usage: runs whose tokens are not known, or make no sense. without_price: {model: runs}, all others without a cost.
    hours, sessions: whose sums have changed. before, after: billionths of a US dollar.
    """

    runs: int
    priced: int
    changed: int
    without_usage: int
    without_price: dict[str | None, int]
    hours: set[datetime]
    sessions: set[str]
    before: int
    after: int


_RUNS = sa.select(
    *(runs.c[name] for name in ("run_key", "protocol", "model", "hour", "began_at", "session_id")),
    *(runs.c[name] for name in ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens")),
    *(streams.c.host, runs.c.usage),
    *costs.c[1:],
).select_from(
    runs.outerjoin(streams, streams.c.stream_id == runs.c.stream_id).outerjoin(costs, costs.c.run_key == runs.c.run_key)
)


def apply(connection: sa.Connection, keys: Iterable[str], prices: Prices) -> Priced:
    """Price these runs, each at the prices of its own day. Rows are written where they change."""
    count = without_usage = before = after = found = 0
    unknown: dict[str | None, int] = {}
    hours: set[datetime] = set()
    sessions: set[str] = set()
    gone: list[str] = []
    new: list[dict[str, Any]] = []
    for some in slices(keys):
        for key, protocol, model, hour, began_at, session_id, *given in connection.execute(_RUNS.where(runs.c.run_key.in_(some))):
            tokens, (host, usage, *had) = Tokens(*given[:5]), given[5:]
            count += 1
            cost = _priced(prices, protocol, host or "", model, began_at or hour, tokens, usage) or _reported(model, usage)
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
            sessions.add(session_id)
            if had[0] is not None:
                gone.append(key)
            if cost is not None:
                new.append(dict(zip(costs.c.keys(), (key, *now), strict=True)))
    forget(connection, gone)
    if new:
        connection.execute(costs.insert(), new)
    return Priced(
        count, found, len({*gone, *(row["run_key"] for row in new)}), without_usage, unknown, hours, sessions, before, after
    )


def _priced(
    prices: Prices, protocol: str | None, host: str, model: str | None, at: datetime, tokens: Tokens, usage: str | None
) -> Cost | None:
    """What a run costs; one that was billed one by one is the sum of that, each at the price of its model and by its size."""
    if usage is None or '"iterations"' not in usage:
        return prices.cost(protocol, host, model, at, tokens)
    found = [
        prices.cost(protocol, host, its_model or model, at, Tokens(*counts[:5]))
        for its_model, counts in iterations(jsontext.object_of(usage))
    ]
    known = [cost for cost in found if cost is not None]
    if not known or len(known) < len(found):
        return None if found else prices.cost(protocol, host, model, at, tokens)
    return known[-1]._replace(nusd=sum(cost.nusd for cost in known))


def _reported(model: str | None, usage: str | None) -> Cost | None:
    nusd = None if usage is None or "cost" not in usage else reported_cost(jsontext.object_of(usage))
    return None if nusd is None else Cost(nusd, model or "", None, PROVIDER)


def report(connection: sa.Connection, views: Sequence[RunView]) -> None:
    """Write what the answers report of these runs' costs, which have none yet; where prices are known those replace them."""
    found = [
        {"run_key": view.key, "cost_nusd": nusd, "price_model": str(view.object.get("model") or "")[:200], "source": PROVIDER}
        for view in views
        if view.is_run and (nusd := reported_cost(view.object.get("usage"))) is not None
    ]
    if found:
        connection.execute(costs.insert(), found)


def forget(connection: sa.Connection, keys: Iterable[str]) -> None:
    """Delete the costs of these runs."""
    for some in slices(keys):
        connection.execute(costs.delete().where(costs.c.run_key.in_(some)))
