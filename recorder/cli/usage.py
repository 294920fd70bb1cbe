"""`recorder usage`"""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any

import click

from recorder import database, reports
from recorder.cli import charts
from recorder.cli.columns import Column
from recorder.cli.opening import opened
from recorder.cli.output import csv_option, dollars, draw, emitted, json_option, listing, note, width
from recorder.cli.parameters import MOST, When, Zone
from recorder.projections.runs import COUNTERS

COLUMNS = (
    *(Column(key, by, least=20) for by, key in reports.KEY_OF.items()),
    Column("runs"),
    Column("runs_without_usage", "unknown", rank=3),
    Column("prompt_tokens", "prompt", rank=1),
    Column("cached_tokens", "cached", rank=4),
    Column("cache_write_tokens", "written", rank=6),
    Column("completion_tokens", "compl.", rank=2),
    Column("reasoning_tokens", "reason.", rank=5),
    Column("total_tokens", "total"),
    Column("cost_usd", "cost", of=lambda row: dollars(row["cost_usd"])),
    Column("runs_without_cost", "no cost", rank=7),
)

_BY_TIME = ("hour", "day")

_LIMIT = 100
"""Sessions or labels of a table: a log has tens of thousands."""


@click.command("usage")
@click.option("--by", type=click.Choice(reports.USAGE_BY), help="A row for each of these instead of one total.")
@click.option("--since", type=When(), metavar="TIME", help="Only runs created since: 2026-11-22, or how long ago: 24h, 7d.")
@click.option("--until", type=When(), metavar="TIME", help="Only runs created before.")
@click.option(
    "--tz",
    "zone",
    type=Zone(),
    default="UTC",
    is_eager=True,  # --since and --until are read by it
    metavar="ZONE",
    help="Whose days, hours and times those are: Europe/Oslo. Else UTC's.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    metavar="N",
    help=f"Of sessions and labels the latest N (in a table {_LIMIT}, else all), of others the first.",
)
@click.option("--chart", is_flag=True, help="Bars of tokens, by model unless --by says otherwise; of time a line of blocks.")
@json_option
@csv_option
@click.pass_obj
def command(
    db: str,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    zone: tzinfo,
    limit: int | None,
    chart: bool,
    as_json: bool,
    as_csv: str | None,
) -> None:
    """Token usage of runs. A run that did not say its usage is counted as unknown and adds nothing."""
    on_screen = not (as_json or as_csv)
    if chart and by is None and on_screen:
        by = "model"
    cut = limit is None and by in ("session", "label") and on_screen
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        rows = reports.usage(connection, by, since, until, zone, _LIMIT + 1 if cut else limit)
    more = cut and len(rows) > _LIMIT
    rows = rows[:_LIMIT] if cut else rows
    names = [*([reports.KEY_OF[by]] if by else []), "runs", "runs_without_usage", *COUNTERS, "cost_usd", "runs_without_cost"]
    if emitted(rows, rows, names, as_json, as_csv):
        return
    if not chart or by is None:
        listing(rows, COLUMNS, empty="no runs")
    elif not rows:
        note("no runs")
    else:
        draw(_chart(rows, by, reports.KEY_OF[by]))
    if more:
        note(f"the latest {_LIMIT} of more; --limit N shows N of them, --json and --csv all")


def _chart(rows: list[dict[str, Any]], by: str, key: str) -> list[charts.Line]:
    if by not in _BY_TIME:
        return charts.bars([(row[key], row["total_tokens"]) for row in rows], width())
    lines = []
    for what in ("runs", "total_tokens"):
        lines += charts.sparkline(what.removeprefix("total_"), [(row[key], row[what]) for row in rows if row[key]], width())
    return lines
