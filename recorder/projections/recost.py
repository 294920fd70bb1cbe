"""Computing again what runs cost, when prices are known better than they were, or others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recorder import database
from recorder.prices import Prices
from recorder.projections import costs
from recorder.projections.costs import Priced
from recorder.projections.pending_sums import note, sum_up
from recorder.projections.runs import runs
from recorder.projections.turn import only_projector

SLICE = 1000
"""Runs that one transaction prices."""


def within(since: datetime | None, until: datetime | None) -> sa.ColumnElement[bool]:
    """The runs that began in this time."""
    return database.between(runs.c.began_at, since, until)


def count(connection: sa.Connection, since: datetime | None, until: datetime | None) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(runs).where(within(since, until))).scalar_one()


def recost(
    engine: sa.Engine,
    prices: Prices,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Callable[[int], None] | None = None,
) -> Priced:
    """Price all runs that began in this time, some at a time, oldest first; what came of it.

    Where it is broken off, the runs before have their new costs, and their sums when the next projection is done.
    """
    total = Priced(0, 0, 0, 0, {}, set(), set(), 0, 0)
    at: tuple[Any, str] | None = None
    columns = runs.c.began_at, runs.c.run_key
    while True:
        chosen = sa.select(*columns).where(within(since, until)).order_by(*columns).limit(SLICE)
        if at is not None:
            chosen = chosen.where(columns[0] >= at[0], sa.or_(columns[0] > at[0], columns[1] > at[1]))
        with database.read(engine) as connection:
            found = connection.execute(chosen).all()
        if not found:
            break
        with only_projector(engine), database.write(engine) as connection:
            priced = costs.apply(connection, [key for _, key in found], prices)
            note(connection, priced.sessions, priced.hours)
        total = _added(total, priced)
        at = found[-1][0], found[-1][1]
        if progress:
            progress(len(found))
    with only_projector(engine):
        sum_up(engine, prices)
    return total


def _added(total: Priced, one: Priced) -> Priced:
    models = {*total.without_price, *one.without_price}
    without_price = {model: total.without_price.get(model, 0) + one.without_price.get(model, 0) for model in models}
    return Priced(
        total.runs + one.runs,
        total.priced + one.priced,
        total.changed + one.changed,
        total.without_usage + one.without_usage,
        without_price,
        total.hours | one.hours,
        total.sessions | one.sessions,
        total.before + one.before,
        total.after + one.after,
    )
