"""`recorder ls`"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from recorder.cli import quick
from recorder.cli.columns import Column
from recorder.cli.output import csv_option, emitted, json_option, listing, status_style, tallied
from recorder.cli.parameters import MOST, When
from recorder.schema import name
from recorder.session_list import SESSION_FIELDS, Ask, list_sessions

COLUMNS = (
    Column("session_id", "session", least=20),
    Column("started", of=lambda row: row["started"][:16]),
    Column("streams", rank=4),
    Column("events", rank=3),
    Column("status", least=10, of=lambda row: tallied(row["status"]), style=status_style),
    Column("model", least=14, rank=2),
    Column("tokens", rank=1),
    Column("failed", rank=5),
    Column("anomalies", "amiss", rank=6),
)


@click.command("ls")
@click.option("--failed", is_flag=True, help="Only sessions in which something failed.")
@click.option("--since", type=When(), metavar="TIME", help="Only sessions since: 2026-11-22, or how long ago: 90m, 24h, 7d.")
@click.option("--model", help="Only sessions with a run of this model.")
@click.option("--status", help="Only sessions with a run in this status; `unknown`: whose end nobody saw.")
@click.option("--label", help="Only sessions with this label.")
@click.option("--limit", type=click.IntRange(1, MOST), default=50, show_default=True)
@json_option
@csv_option
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
    as_csv: str | None,
) -> None:
    """List sessions, the latest first."""
    filters: dict[str, Any] = {"failed": failed, "model": model, "status": status, "limit": limit}

    def question(ask: Ask) -> list[dict[str, Any]]:
        return list_sessions(ask, since=quick.time(since), label=name(label), **filters)

    rows = quick.asked(db, question)
    if rows is None:
        from recorder import database, queries
        from recorder.cli.opening import opened

        with opened(db, fresh=True) as engine, database.read(engine) as connection:
            rows = queries.list_sessions(connection, since=since, label=label, **filters)
    if emitted(rows, rows, (*SESSION_FIELDS, "models", "statuses"), as_json, as_csv):
        return
    shown = [
        {
            "session_id": row["session_id"],
            "started": row["last_started_at"][:19].replace("T", " "),
            "streams": row["streams"],
            "events": row["events"],
            "status": row["statuses"],
            "model": row["models"],
            "tokens": row["total_tokens"],
            "failed": row["failed"],
            "anomalies": row["anomalies"],
        }
        for row in rows
    ]
    listing(shown, COLUMNS, empty="no sessions")
