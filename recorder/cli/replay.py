"""`recorder replay ID`"""

from __future__ import annotations

import sys

import click

from recorder import database, log, queries
from recorder.cli.opening import opened
from recorder.cli.parameters import pacing
from recorder.errors import UsageError
from recorder.replay.timing import paced, schedule
from recorder.sse import chunks


@click.command("replay")
@click.argument("id")
@pacing
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=0),
    default=0,
    metavar="P",
    help="Begin with the event at this position, without the pause before it.",
)
@click.option("--to", "last", type=click.IntRange(min=0), metavar="P", help="End with the event at this position.")
@click.pass_obj
def command(db: str, id: str, speed: float, instant: bool, max_gap: float | None, first: int, last: int | None) -> None:
    """Write a stream's bytes to stdout, in the chunks and at the pace in which they came.

    A session's streams come one after the other.
    """
    with opened(db, fresh=id != "last") as engine:
        with database.read(engine) as connection:
            ids = queries.streams_of(connection, queries.resolve(connection, id))
        if len(ids) > 1 and (first or last is not None):
            raise UsageError(f"{id} has {len(ids)} streams; --from and --to are of one: {', '.join(ids)}")
        for stream_id in ids:
            recorded = [event for event in log.read_stream(engine, stream_id) if last is None or event.position <= last]
            kept = list(log.wire(recorded))
            start = 0
            if first:
                skipped = sum(1 for _ in log.wire(event for event in recorded if event.position < first))
                kept = kept[skipped:]
                start = (kept[0][2] or [(0, kept[0][1])])[0][1] if kept else 0  # the first chunk of what is left
            timed = schedule(chunks(kept), None if instant else speed, max_gap, start)
            for body in paced(timed):
                sys.stdout.buffer.write(body)
                sys.stdout.buffer.flush()
