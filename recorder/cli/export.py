"""`recorder export ID`"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from recorder import database, log, queries
from recorder.cli.opening import opened
from recorder.errors import RecorderError, UsageError
from recorder.recording import write_recording


@click.command("export")
@click.argument("id")
@click.option(
    "--format",
    "form",
    type=click.Choice(["recording", "sse"]),
    default="recording",
    show_default=True,
    help="recording: JSON lines with requests and timing, which `import` takes back; sse: the body, byte for byte.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to a file instead of stdout.",
)
@click.pass_obj
def command(db: str, id: str, form: str, output: Path | None) -> None:
    """Write a stream, run or session as a recording, or one stream's body as it came."""
    with opened(db, fresh=True) as engine:
        with database.read(engine) as connection:
            ids = queries.streams_of(connection, queries.resolve(connection, id))
            streams = log.get_streams(connection, ids)
        parts: Iterable[bytes]
        if form == "sse":
            if len(ids) != 1:
                raise UsageError(f"{id} has {len(ids)} streams; --format sse is of one: {', '.join(ids)}")
            parts = (body for body, _, _ in log.wire(log.read_stream(engine, ids[0])))
        else:
            parts = (line.encode() for line in write_recording((streams[key], log.read_stream(engine, key)) for key in ids))
        if output is None:
            for part in parts:
                sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            return
        try:
            with output.open("wb") as file:
                file.writelines(parts)
        except OSError as error:
            raise RecorderError(f"{output}: {error.strerror}; name another file with -o") from None
