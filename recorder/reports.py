"""Usage and failures, from Python: what they sum to by this or that, from the rollups where those answer.

Functions take a Connection first and return plain JSON values: dicts with the API's names, times as ISO 8601 UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import sqlalchemy as sa

from recorder import database
from recorder.projections import costs
from recorder.projections.failures import failures as failure_rows
from recorder.projections.runs import COUNTERS, runs, without_usage
from recorder.projections.sessions import sessions
from recorder.projections.usage import SUMS, usage_daily, usage_hourly, usage_totals
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
    of anything else the first. The rollups answer where they can; a time within an hour is summed from the runs themselves.
    """
    if by in ("session", "label") and since is None and until is None:
        return _usage_of_sessions(connection, by, limit)
    sources = _usage_sources(by, since, until, zone)
    parts = [_sums_of(table, by, where, zone) for table, where in sources]
    found: dict[Any, dict[str, Any]] = {}
    for key, *values in connection.execute(sa.union_all(*parts) if len(parts) > 1 else parts[0]):
        key = _group(by, key, zone)
        row = found.setdefault(key, {**({KEY_OF[by]: key} if by else {}), **dict.fromkeys(SUMS)})
        for name, value in zip(SUMS, values, strict=True):
            if value is not None:
                row[name] = (row[name] or 0) + int(value)
    if by is None and not found:
        found[None] = dict.fromkeys(SUMS)
    for key, row in found.items():
        row["runs"], row["runs_without_usage"] = row["runs"] or 0, row["runs_without_usage"] or 0
        found[key] = _with_cost(row)
    ordered = list(found) if by in ("session", "label") else sorted(found, key=lambda key: (key is None, str(key)))
    return [found[key] for key in ordered if by is None or found[key]["runs"]][:limit]


def _with_cost(row: dict[str, Any]) -> dict[str, Any]:
    """A row of SUMS as it is shown: its cost in dollars."""
    nusd, known = row.pop("cost_nusd"), row.pop("runs_with_cost") or 0
    return {**row, "cost_usd": None if nusd is None else nusd / 1e9, "runs_without_cost": row["runs"] - known}


def _usage_sources(
    by: str | None, since: datetime | None, until: datetime | None, zone: tzinfo
) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    """The tables that answer, and what of each: whole days from days, the hours before and after from hours.

    From the runs themselves where sessions, labels, a time within an hour, or hours that are not UTC's are asked for.
    """
    whole = all(at is None or (at.minute, at.second, at.microsecond) == (0, 0, 0) for at in (since, until))
    if by in ("session", "label") or not whole or (by in ("day", "hour") and not _has_whole_hours(zone)):
        return [(runs, database.between(runs.c.began_at, since, until))]
    midnights = all(at is None or at.astimezone(UTC).hour == 0 for at in (since, until))
    if by == "hour" or (by == "day" and not (midnights and zone is UTC)):
        return [(usage_totals, database.between(usage_totals.c.hour, since, until))]
    first = None if since is None else since.astimezone(UTC).replace(hour=0)
    if first is not None and since is not None and first < since:
        first += timedelta(days=1)
    last = None if until is None else until.astimezone(UTC).replace(hour=0)
    if first is not None and last is not None and first > last:
        return [(usage_hourly, database.between(usage_hourly.c.hour, since, until))]
    days = usage_daily.c.day
    within = sa.and_(
        sa.true() if first is None else days >= first.date().isoformat(),
        sa.true() if last is None else days < last.date().isoformat(),
    )
    sources: list[tuple[sa.Table, sa.ColumnElement[bool]]] = [(usage_daily, within)]
    if first is not None and first != since:
        sources.append((usage_hourly, database.between(usage_hourly.c.hour, since, first)))
    if last is not None and last != until:
        sources.append((usage_hourly, database.between(usage_hourly.c.hour, last, until)))
    return sources


def _has_whole_hours(zone: tzinfo) -> bool:
    """Whether a zone's hours begin where UTC's do (India's do not, and neither do most before there were zones)."""
    offsets = (datetime(year, month, 1, tzinfo=UTC).astimezone(zone).utcoffset() for year in (2020, 2026) for month in (1, 7))
    return all(offset is not None and offset % timedelta(hours=1) == timedelta(0) for offset in offsets)


def _sums_of(table: sa.Table, by: str | None, where: sa.ColumnElement[bool], zone: tzinfo) -> sa.Select[Any]:
    """A row for each group: its key, then SUMS."""
    key: sa.ColumnElement[Any] = sa.null()
    if by in ("day", "hour") and table is not usage_daily:
        key = _quarter(table.c.began_at) if table is runs else table.c.hour
    elif by:
        key = table.c[KEY_OF[by]]
    counted: list[sa.ColumnElement[Any]] = (
        [sa.func.count(), sa.func.sum(without_usage()), *(sa.func.sum(runs.c[name]) for name in COUNTERS), *costs.sums()]
        if table is runs
        else [sa.func.sum(table.c[name]) for name in SUMS]
    )
    if by == "label":
        where &= runs.c.label.is_not(None)
    chosen = sa.select(key.label("key"), *counted).where(where)
    chosen = chosen.select_from(costs.joined) if table is runs else chosen
    if by in ("session", "label"):
        return chosen.group_by(key).order_by(sa.func.max(table.c.began_at).desc(), key)
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


def _usage_of_sessions(connection: sa.Connection, by: str, limit: int | None) -> list[dict[str, Any]]:
    table = sessions.c
    names = SUMS
    if by == "session":
        chosen = sa.select(table.session_id, *(table[name] for name in names)).where(table.runs > 0)
        chosen = chosen.order_by(table.last_started_at.desc(), table.session_id)
    else:
        chosen = sa.select(table.label, *(sa.func.sum(table[name]) for name in names)).where(
            table.label.is_not(None), table.runs > 0
        )
        chosen = chosen.group_by(table.label).order_by(sa.func.max(table.last_started_at).desc(), table.label)
    return [
        _with_cost(
            {KEY_OF[by]: key, **{name: None if value is None else int(value) for name, value in zip(names, values, strict=True)}}
        )
        for key, *values in connection.execute(chosen.limit(limit))
    ]


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
