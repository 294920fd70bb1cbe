"""`recorder delete ID`"""

from __future__ import annotations

import sys

import click

from recorder import database, queries
from recorder.cli.opening import opened
from recorder.cli.output import note
from recorder.projections import runner


@click.command("delete")
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(db: str, id: str, yes: bool) -> None:
    """Erase a session (or a stream, run or thread) from the log and from all that was made of it."""
    with opened(db, fresh=True) as engine:
        with database.read(engine) as connection:
            named = queries.resolve(connection, id)
            ids = queries.streams_of(connection, named)
        if not yes and sys.stdin.isatty():
            click.confirm(f"Erase {named.kind} {named.id} ({len(ids)} streams)?", abort=True, err=True)
        runner.erase(engine, ids)
    note(f"erased {named.kind} {named.id}: {len(ids)} streams")
