"""`recorder failures`"""

from __future__ import annotations

from datetime import datetime

import click

from recorder import database, reports
from recorder.cli import charts
from recorder.cli.columns import Column
from recorder.cli.opening import opened
from recorder.cli.output import csv_option, draw, emitted, json_option, listing, note, status_style, width
from recorder.cli.parameters import MOST, When
from recorder.protocols.failure import KINDS

FIELDS = (
    *("run_id", "status", "kind", "code", "message", "model", "protocol", "tool"),
    *("stream_id", "position", "session_id", "label", "at"),
)

COLUMNS = (
    Column("at", of=lambda row: row["at"][:16].replace("T", " ")),
    Column("kind", style=status_style),
    Column("run_id", "run or stream", least=20, of=lambda row: row["run_id"] or row["stream_id"]),
    Column("code", least=10, rank=1),
    Column("tool", least=8, rank=5),
    Column("model", least=12, rank=4),
    Column("label", least=8, rank=6),
    Column("message", least=40, rank=3),
)

_LIMIT = 100


@click.command("failures")
@click.option("--by", type=click.Choice(reports.FAILURES_BY), help="How many by each of these instead of a list.")
@click.option("--since", type=When(), metavar="TIME", help="Only failures since: 2026-11-22, or how long ago: 24h, 7d.")
@click.option("--until", type=When(), metavar="TIME", help="Only failures before.")
@click.option("--kind", type=click.Choice(KINDS), metavar="KIND", help=f"Only failures of a kind: {', '.join(KINDS)}.")
@click.option(
    "--limit", type=click.IntRange(1, MOST), metavar="N", help=f"The latest N; of a table {_LIMIT}, with --json and --csv all."
)
@click.option("--chart", is_flag=True, help="Bars of how many, by kind unless --by says otherwise.")
@json_option
@csv_option
@click.pass_obj
def command(
    db: str,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    kind: str | None,
    limit: int | None,
    chart: bool,
    as_json: bool,
    as_csv: str | None,
) -> None:
    """Runs that did not end well, and streams without a run that did not, each of one kind; the latest first."""
    on_screen = not (as_json or as_csv)
    if chart and by is None and on_screen:
        by = "kind"
    if limit is None and by is None and on_screen:
        limit = _LIMIT
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        rows = reports.failures(connection, by, since, until, kind, limit)
        more = by is None and on_screen and len(rows) == limit
        left = reports.count_failures(connection, since, until, kind) - len(rows) if more else 0
    if emitted(rows, rows, (by, "runs") if by else FIELDS, as_json, as_csv):
        return
    if not rows:
        note("no failures")
    elif chart and by:
        draw(charts.bars([(row[by], row["runs"]) for row in rows], width()))
    else:
        listing(rows, (Column(by, least=24, style=status_style), Column("runs")) if by else COLUMNS)
    if left:
        note(f"{left:,} more; --limit {limit + left if limit else left} shows them too")
