"""`usage_hourly`: tokens by hour, protocol, model and assistant. A bucket is recomputed from `runs`, never adjusted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recorder.database import UTCTime, metadata
from recorder.projections.runs import COUNTERS, runs

usage_hourly = sa.Table(
    "usage_hourly",
    metadata,
    sa.Column("hour", UTCTime, primary_key=True),
    sa.Column("protocol", sa.Text, primary_key=True),  # here and below '' where it is not known: a key cannot be null
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("assistant_id", sa.Text, primary_key=True),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("runs_without_usage", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger),  # null where no run of the bucket said it
    sa.Column("cached_tokens", sa.BigInteger),
    sa.Column("completion_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("total_tokens", sa.BigInteger),
)

TABLES = (usage_hourly,)

KEYS = ("hour", "protocol", "model", "assistant_id")


def without_usage() -> sa.ColumnElement[int]:
    """1 for a run that did not say its usage, else 0."""
    unknown = sa.and_(*(runs.c[name].is_(None) for name in ("prompt_tokens", "completion_tokens", "total_tokens")))
    return sa.case((unknown, 1), else_=0)


def sums() -> list[sa.ColumnElement[Any]]:
    """The counters over runs: a sum of no known value is null, not 0."""
    return [
        sa.func.count().label("runs"),
        sa.func.sum(without_usage()).label("runs_without_usage"),
        *(sa.cast(sa.func.sum(runs.c[name]), sa.BigInteger).label(name) for name in COUNTERS),
    ]


def apply(connection: sa.Connection, hours: set[datetime]) -> None:
    """Recompute the buckets of these hours."""
    at = sorted(hours)
    connection.execute(usage_hourly.delete().where(usage_hourly.c.hour.in_(at)))
    keys = [runs.c.hour, *(sa.func.coalesce(runs.c[name], "") for name in KEYS[1:])]
    found = sa.select(*keys, *sums()).where(runs.c.hour.in_(at)).group_by(*keys)
    connection.execute(usage_hourly.insert().from_select([*KEYS, "runs", "runs_without_usage", *COUNTERS], found))
