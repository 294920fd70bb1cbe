"""`recorder ls`"""

from __future__ import annotations

from datetime import datetime

import click

from recorder import database, queries
from recorder.cli.opening import json_option, opened
from recorder.cli.output import emit, table
from recorder.cli.parameters import When


@click.command("ls")
@click.option("--failed", is_flag=True, help="Only sessions in which something failed.")
@click.option("--since", type=When(), metavar="TIME", help="Only sessions since: 2026-11-22, or how long ago: 90m, 24h, 7d.")
@click.option("--model", help="Only sessions with a run of this model.")
@click.option("--status", help="Only sessions with a run in this status; `unknown`: whose end nobody saw.")
@click.option("--label", help="Only sessions with this label.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
@click.pass_obj
def command(
    db: str,
    failed: bool,
    since: datetime | None,
    model: str | None,
    status: str | None,
    label: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List sessions, the latest first."""
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        rows = queries.list_sessions(connection, failed=failed, since=since, model=model, status=status, label=label, limit=limit)
    if as_json:
        emit(rows)
        return
    columns = ("session_id", "started", "streams", "events", "status", "model", "tokens", "failed", "anomalies")
    shown = [
        (
            row["session_id"],
            row["last_started_at"][:19].replace("T", " "),
            row["streams"],
            row["events"],
            row["statuses"],
            row["models"],
            row["total_tokens"],
            row["failed"],
            row["anomalies"],
        )
        for row in rows
    ]
    table(shown, columns, empty="no sessions")
