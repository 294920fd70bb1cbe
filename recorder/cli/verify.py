"""`recorder verify [ID]`"""

from __future__ import annotations

import click

from recorder import database, log, queries
from recorder.cli.opening import opened
from recorder.cli.output import Progress, echo, emit, json_option, note, say
from recorder.projections.verify import verify


@click.command("verify")
@click.argument("id", required=False)
@json_option
@click.pass_obj
def command(db: str, id: str | None, as_json: bool) -> int:
    """Check the events against their crc and the read models against a projection made anew. Exit 1 where they differ.

    Anomalies of the recorded streams are counted; they are no fault of the recording.
    """
    with opened(db, fresh=True) as engine:
        ids = None
        if id:
            with database.read(engine) as connection:
                ids = queries.streams_of(connection, queries.resolve(connection, id))
        with Progress("verifying", "events", total=log.count(engine)) as progress:
            report = verify(engine, ids, progress.advance)
    if as_json:
        emit(report._asdict())
    else:
        for problem in report.problems:
            say(problem)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(report.anomalies.items())) or "none"
        verdict = f"{len(report.problems)} problems" if report.problems else "nothing amiss"
        echo(f"{report.streams:,} streams, {report.events:,} events, {report.runs:,} runs: {verdict}")
        note(f"anomalies in what was recorded: {found}")
    return 1 if report.problems else 0
