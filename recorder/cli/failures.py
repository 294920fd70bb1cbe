"""`recorder failures`"""

from __future__ import annotations

import click

from recorder import database, queries
from recorder.cli.opening import json_option, opened
from recorder.cli.output import emit, table


@click.command("failures")
@click.option("--by", type=click.Choice(queries.FAILURES_BY), help="How many by each of these instead of a list.")
@json_option
@click.pass_obj
def command(db: str, by: str | None, as_json: bool) -> None:
    """Runs that failed, expired or came out incomplete, and streams that ended in an error."""
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        rows = queries.failures(connection, by)
    if as_json:
        emit(rows)
    else:
        columns = list(rows[0]) if rows else []
        table([list(row.values()) for row in rows], columns, empty="no failures")
