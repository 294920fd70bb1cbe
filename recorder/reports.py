"""Usage and failures, from Python: what they sum to by this or that, from the rollups where those answer.

Functions take a Connection first and return plain JSON values: dicts with the API's names, times as ISO 8601 UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import sqlalchemy as sa

from recorder import database
from recorder.projections import costs
from recorder.projections.failures import failures as failure_rows
from recorder.projections.runs import runs
from recorder.projections.sessions import sessions
from recorder.projections.usage import SUMS, sums_of_runs, usage_daily, usage_hourly, usage_totals
from recorder.queries import json_value

USAGE_BY = ("model", "assistant", "day", "hour", "protocol", "session", "label")
FAILURES_BY = ("kind", "code", "tool", "model")

KEY_OF = {by: {"assistant": "assistant_id", "session": "session_id"}.get(by, by) for by in USAGE_BY}
"""What a row's group is called."""


def usage(
    connection: sa.Connection,
    by: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    zone: tzinfo = UTC,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Token sums, over all runs or by one of USAGE_BY. A sum of unknown values is null, and runs without usage are counted.

    cost_usd is what those runs cost whose cost is known, the others are counted as runs_without_cost.
    since and until are of the runs' creation. zone: whose days and hours those are. limit: the latest sessions or labels, or
    of anything else the first. The rollups answer where they can.
    """
    since, until = (None if at is None else at.astimezone(UTC) for at in (since, until))
    if by in ("session", "label"):
        chosen = _of_sessions(by) if since is None and until is None else _of_runs_between(connection, by, since, until, limit)
        return [_row(by, key, values) for key, *values in connection.execute(chosen.limit(limit))]
    sources = _usage_sources(by, since, until, zone)
    parts = [_sums_of(table, by, where, zone) for table, where in sources]
    found: dict[Any, list[int | None]] = {}
    for key, *values in connection.execute(sa.union_all(*parts) if len(parts) > 1 else parts[0]):
        key = _group(by, key, zone)
        found[key] = list(map(_added, found[key], values)) if key in found else values
    if by is None:
        return [_row(None, None, found.get(None, [None] * len(SUMS)))]
    return [_row(by, key, found[key]) for key in sorted(found, key=lambda key: (key is None, str(key))) if found[key][0]][:limit]


def _added(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


def _row(by: str | None, key: Any, values: Sequence[Any]) -> dict[str, Any]:
    """A row of SUMS as it is shown, its cost in dollars."""
    row = {} if by is None else {KEY_OF[by]: key}
    row |= {name: None if value is None else int(value) for name, value in zip(SUMS, values, strict=True)}
    nusd, known = row.pop("cost_nusd"), row.pop("runs_with_cost") or 0
    row |= {name: row[name] or 0 for name in ("runs", "runs_without_usage")}
    return {**row, "cost_usd": None if nusd is None else nusd / 1e9, "runs_without_cost": row["runs"] - known}


def _usage_sources(
    by: str | None, since: datetime | None, until: datetime | None, zone: tzinfo
) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    """The tables that answer, and what of each: whole days from days, the hours before and after from hours, and of an hour of
    which a part is asked for its runs.

    From runs alone where hours that are not UTC's are asked for.
    """
    if since is not None and since > _LAST_DAY:
        return [(runs, database.between(runs.c.began_at, since, until))]
    hours = (_next(since, _HOUR), _floor(until, _HOUR))
    if _is_empty(*hours) or (by in ("day", "hour") and not _has_whole_hours(zone)):
        return [(runs, database.between(runs.c.began_at, since, until))]
    sources = []
    if hours[0] != since:
        sources.append((runs, sa.and_(runs.c.hour == _floor(since, _HOUR), runs.c.began_at >= since)))
    if hours[1] != until:
        sources.append((runs, sa.and_(runs.c.hour == hours[1], runs.c.began_at < until)))
    days = (_next(hours[0], _DAY), _floor(hours[1], _DAY))
    if by == "hour" or (by == "day" and not (zone is UTC and days == (since, until))):
        return [*sources, (usage_totals, database.between(usage_totals.c.hour, *hours))]
    if _is_empty(*days):
        return [*sources, (usage_hourly, database.between(usage_hourly.c.hour, *hours))]
    first, last = (None if at is None else at.date().isoformat() for at in days)
    day = usage_daily.c.day
    sources.append(
        (usage_daily, sa.and_(sa.true() if first is None else day >= first, sa.true() if last is None else day < last))
    )
    if days[0] != hours[0]:
        sources.append((usage_hourly, database.between(usage_hourly.c.hour, hours[0], days[0])))
    if days[1] != hours[1]:
        sources.append((usage_hourly, database.between(usage_hourly.c.hour, days[1], hours[1])))
    return sources


def _is_empty(since: datetime | None, until: datetime | None) -> bool:
    return since is not None and until is not None and since > until


_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)
_LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC)  # after which no other begins


def _floor(at: datetime | None, unit: timedelta) -> datetime | None:
    """When the hour or day, in UTC, began that a time is in."""
    return None if at is None else at - (at - _YEAR_1) % unit


def _next(at: datetime | None, unit: timedelta) -> datetime | None:
    """When the next hour or day begins, which may be at this time."""
    return None if at is None else at + (_YEAR_1 - at) % unit


def _has_whole_hours(zone: tzinfo) -> bool:
    """Whether a zone's hours begin where UTC's do (India's do not, and neither do most before there were zones)."""
    offsets = (datetime(year, month, 1, tzinfo=UTC).astimezone(zone).utcoffset() for year in (2020, 2026) for month in (1, 7))
    return all(offset is not None and offset % timedelta(hours=1) == timedelta(0) for offset in offsets)


def _sums_of(table: sa.Table, by: str | None, where: sa.ColumnElement[bool], zone: tzinfo) -> sa.Select[Any]:
    """A row for each group: its key, then SUMS."""
    key: sa.ColumnElement[Any] = sa.null()
    if by in ("day", "hour") and table is not usage_daily:
        key = table.c.hour if _has_whole_hours(zone) else _quarter(runs.c.began_at)
    elif by:
        key = table.c[KEY_OF[by]]
    counted = sums_of_runs() if table is runs else [sa.func.sum(table.c[name]) for name in SUMS]
    chosen = sa.select(key.label("key"), *counted).where(where)
    chosen = chosen.select_from(costs.joined) if table is runs else chosen
    return chosen.group_by(key) if by else chosen


def _quarter(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The quarter of an hour that a time is in, since 1970: every zone of today begins its hours with one."""
    return sa.cast(sa.func.floor(sa.extract("epoch", column) / 900), sa.BigInteger)


def _group(by: str | None, key: Any, zone: tzinfo) -> Any:
    """A group as its row says it: '' is null, a time is a day or hour of the zone."""
    if by in ("day", "hour") and key is not None and not isinstance(key, str):
        at = (datetime.fromtimestamp(key * 900, UTC) if isinstance(key, int) else key).astimezone(zone)
        if by == "day":
            return at.date().isoformat()
        start = at.replace(minute=0, second=0, microsecond=0)
        return json_value(start) if zone is UTC else start.isoformat()
    return key or None


def _of_sessions(by: str) -> sa.Select[Any]:
    """Sessions or labels with SUMS of all time, the latest first."""
    table = sessions.c
    if by == "session":
        chosen = sa.select(table.session_id, *(table[name] for name in SUMS)).where(table.runs > 0)
        return chosen.order_by(table.last_started_at.desc(), table.session_id)
    chosen = sa.select(table.label, *(sa.func.sum(table[name]) for name in SUMS))
    chosen = chosen.where(table.label.is_not(None), table.runs > 0).group_by(table.label)
    return chosen.order_by(sa.func.max(table.last_started_at).desc(), table.label)


def _of_runs_between(
    connection: sa.Connection, by: str, since: datetime | None, until: datetime | None, limit: int | None
) -> sa.Select[Any]:
    """Sessions or labels with SUMS over runs of some time, those of the latest runs first."""
    where = database.between(runs.c.began_at, since, until)
    # As an expression: by its index SQLite would go through the sessions of all time.
    key = runs.c.session_id + "" if by == "session" else runs.c.label
    latest_first = (sa.func.max(runs.c.began_at).desc(), key)
    if by == "label":
        where &= key.is_not(None)
    elif limit is not None:
        latest = sa.select(key).where(where).group_by(key).order_by(*latest_first).limit(limit)
        where &= runs.c.session_id.in_(connection.execute(latest).scalars().all())
    return sa.select(key, *sums_of_runs()).select_from(costs.joined).where(where).group_by(key).order_by(*latest_first)


def failures(
    connection: sa.Connection,
    by: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    kind: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Runs that failed and streams without a run that did, the latest first; or how many, by one of FAILURES_BY.

    kind: of protocols.failure.KINDS. code: the error's code, the reason that a run is incomplete, else what tells most.
    """
    columns = failure_rows.c
    where = database.between(columns.at, since, until)
    if kind is not None:
        where &= columns.kind == kind
    if by is not None:
        count = sa.func.count()
        grouped = (
            sa.select(columns[by], count).where(where).group_by(columns[by]).order_by(count.desc(), columns[by]).limit(limit)
        )
        return [{by: key, "runs": found} for key, found in connection.execute(grouped)]
    chosen = sa.select(failure_rows).where(where).order_by(columns.at.desc(), columns.run_key, columns.stream_id).limit(limit)
    return [
        {
            "run_id": row["run_id"],
            "status": row["status"],
            "kind": row["kind"],
            "code": row["code"],
            **{
                name: row[name]
                for name in ("message", "model", "protocol", "tool", "stream_id", "position", "session_id", "label")
            },
            "at": json_value(row["at"]),
        }
        for row in connection.execute(chosen).mappings()
    ]


def count_failures(
    connection: sa.Connection, since: datetime | None = None, until: datetime | None = None, kind: str | None = None
) -> int:
    """How many failures there are."""
    where = database.between(failure_rows.c.at, since, until)
    if kind is not None:
        where &= failure_rows.c.kind == kind
    return int(connection.execute(sa.select(sa.func.count()).select_from(failure_rows).where(where)).scalar_one())
