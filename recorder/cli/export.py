"""`recorder export ID`"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.cli.opening import opened
from recorder.cli.output import note
from recorder.cli.parameters import configured
from recorder.collect.screen import redacted, redacted_frames
from recorder.errors import RecorderError, UsageError
from recorder.log import Event, Stream
from recorder.recording import write_recording
from recorder.redaction.known import with_known
from recorder.redaction.rules import Rules
from recorder.settings import Settings
from recorder.sse import Frame


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
@click.option(
    "--as-test",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.py",
    help="Write a test of pytest that asks the same again, and a redacted recording beside it that answers.",
)
@click.option("--force", is_flag=True, help="Let --as-test replace files that are there.")
@click.option("--redact", is_flag=True, help="Redact what looks like a key or token of a known kind, too.")
@configured
@click.pass_obj
def command(
    db: str, id: str, form: str, output: Path | None, as_test: Path | None, force: bool, redact: bool, settings: Settings
) -> None:
    """Write a stream, run or session as a recording, as a test, or one stream's body as it came.

    Of the settings, `redact` and `content` count here.
    """
    if as_test is not None and (output is not None or form != "recording"):
        raise UsageError("--as-test writes a test and its recording; leave out --output and --format")
    rules = Rules.of(with_known(settings) if redact or as_test else settings)
    with opened(db, fresh=True) as engine:
        with database.read(engine) as connection:
            ids = queries.streams_of(connection, queries.resolve(connection, id))
            found = log.get_streams(connection, ids)
        if as_test is not None:
            from recorder.regression import write_test

            streams = [redacted(rules, found[key]) if rules else found[key] for key in ids]
            made = write_test(as_test, id, _with_events(engine, streams, rules), settings, force=force)
            note(f"wrote {as_test} and {made}; run it: pytest {as_test}")
            return
        parts: Iterable[bytes]
        if form == "sse":
            if len(ids) != 1:
                raise UsageError(f"{id} has {len(ids)} streams; --format sse is of one: {', '.join(ids)}")
            parts = (body for body, _, _ in log.wire(_events(engine, ids[0], rules)))
        else:
            streams = [redacted(rules, found[key]) if rules else found[key] for key in ids]
            parts = (line.encode() for line in write_recording(_with_events(engine, streams, rules)))
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


def _with_events(engine: sa.Engine, streams: Iterable[Stream], rules: Rules | None) -> Iterator[tuple[Stream, Iterable[Event]]]:
    return ((stream, _events(engine, stream.stream_id, rules)) for stream in streams)


def _events(engine: sa.Engine, stream_id: str, rules: Rules | None) -> Iterator[Event]:
    """The events of a stream, redacted by the rules."""
    stored = log.read_stream(engine, stream_id)
    if rules is None:
        yield from stored
        return
    frames = (Frame(event.type, event.data, event.raw, event.offset_us, event.cuts) for event in stored)
    for position, frame in enumerate(redacted_frames(rules, frames)):
        yield Event(position, frame.offset_us, *frame[:3], frame.cuts)
