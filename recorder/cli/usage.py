"""`recorder usage`"""

from __future__ import annotations

from datetime import datetime

import click

from recorder import database, queries
from recorder.cli.opening import json_option, opened
from recorder.cli.output import emit, table
from recorder.cli.parameters import When


@click.command("usage")
@click.option("--by", type=click.Choice(queries.USAGE_BY), help="A row for each of these instead of one total.")
@click.option("--since", type=When(), metavar="TIME", help="Only runs created since: 2026-11-22, or how long ago: 24h, 7d.")
@click.option("--until", type=When(), metavar="TIME", help="Only runs created before.")
@json_option
@click.pass_obj
def command(db: str, by: str | None, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Token usage of runs. A run that did not say its usage is counted apart and adds nothing."""
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        rows = queries.usage(connection, by, since, until)
    if as_json:
        emit(rows)
    else:
        columns = list(rows[0]) if rows else []
        table([list(row.values()) for row in rows], columns, empty="no runs")
