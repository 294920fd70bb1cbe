"""`usage_hourly`, `usage_daily`, `usage_totals`: tokens by hour, day, protocol, model and assistant, and of whole hours.

A bucket is recomputed from `runs`, a day's from its hours, never adjusted. usage_totals has all runs of an hour in one row, so
that a question by time does not read as many rows as there are models and assistants.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recorder.database import UTCTime, metadata
from recorder.projections import costs
from recorder.projections.costs import COSTS
from recorder.projections.runs import COUNTERS, runs, without_usage

KEYS = ("protocol", "model", "assistant_id")

SUMS = ("runs", "runs_without_usage", *COUNTERS, *COSTS)


def _sums() -> list[sa.Column[Any]]:
    return [
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("runs_without_usage", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in (*COUNTERS, *COSTS)),  # null where no run of the bucket said it
    ]


def _keys() -> list[sa.Column[Any]]:
    """'' where it is not known: a key cannot be null."""
    return [sa.Column(name, sa.Text, primary_key=True) for name in KEYS]


usage_hourly = sa.Table("usage_hourly", metadata, sa.Column("hour", UTCTime, primary_key=True), *_keys(), *_sums())

usage_daily = sa.Table("usage_daily", metadata, sa.Column("day", sa.Text, primary_key=True), *_keys(), *_sums())

usage_totals = sa.Table("usage_totals", metadata, sa.Column("hour", UTCTime, primary_key=True), *_sums())

TABLES = (usage_hourly, usage_daily, usage_totals)


def apply(connection: sa.Connection, hours: set[datetime]) -> None:
    """Recompute the buckets of these hours, and their days'."""
    at = sorted(hours)
    own = [sa.func.coalesce(runs.c[name], "") for name in KEYS]
    _replace(
        connection,
        usage_hourly,
        usage_hourly.c.hour.in_(at),
        [runs.c.hour, *own],
        runs.c.hour.in_(at),
        sums_of_runs(),
        of=costs.joined,
    )
    of_hours = [usage_hourly.c[name] for name in SUMS]
    _replace(
        connection,
        usage_totals,
        usage_totals.c.hour.in_(at),
        [usage_hourly.c.hour],
        usage_hourly.c.hour.in_(at),
        list(map(_sum, of_hours)),
    )
    for day in sorted({hour.replace(hour=0) for hour in at}):
        its = sa.and_(usage_hourly.c.hour >= day, usage_hourly.c.hour <= day.replace(hour=23))
        by = [usage_hourly.c[name] for name in KEYS]
        text = day.date().isoformat()
        _replace(connection, usage_daily, usage_daily.c.day == text, [sa.literal(text), *by], its, list(map(_sum, of_hours)), by)


def sums_of_runs() -> list[sa.ColumnElement[Any]]:
    """SUMS over runs that are joined with their costs: a sum of no known value is null, not 0."""
    counted = [sa.func.count(), sa.func.sum(without_usage()), *(_sum(runs.c[name]) for name in COUNTERS)]
    return [*counted, *costs.sums()]


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(sa.func.sum(column), sa.BigInteger)  # PostgreSQL sums bigints as numeric


def _replace(
    connection: sa.Connection,
    table: sa.Table,
    old: sa.ColumnElement[bool],
    keys: Sequence[sa.ColumnElement[Any]],
    where: sa.ColumnElement[bool],
    sums: Sequence[sa.ColumnElement[Any]],
    by: Sequence[sa.ColumnElement[Any]] | None = None,
    of: sa.FromClause | None = None,
) -> None:
    connection.execute(table.delete().where(old))
    found = sa.select(*keys, *sums).where(where).group_by(*(by or keys))
    found = found if of is None else found.select_from(of)
    connection.execute(table.insert().from_select([column.name for column in table.columns], found))
