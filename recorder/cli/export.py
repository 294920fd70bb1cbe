"""`recorder export ID|NAME|--all`"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import sqlalchemy as sa

from recorder import database, dataset, log, private, queries
from recorder.cli.opening import opened
from recorder.cli.output import Progress, counted, note
from recorder.cli.parameters import configured
from recorder.collect.screen import redacted, redacted_frames
from recorder.dataset import FORMATS
from recorder.errors import RecorderError, UsageError
from recorder.log import Event, Stream
from recorder.recording import write_recording
from recorder.redaction.known import with_known
from recorder.redaction.rules import Rules
from recorder.relations import RELATIONS, Reader, Relation, named
from recorder.settings import Settings
from recorder.sse import Frame


@click.command("export")
@click.argument("id", required=False, metavar="[ID|NAME]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["recording", "sse", *FORMATS]),
    default="recording",
    show_default=True,
    help="recording: JSON lines with requests and timing, which `import` takes back; sse: the body, byte for byte;"
    " parquet, csv: of a table or view.",
)
@click.option("--all", "everything", is_flag=True, help="All tables and views, as a folder with a file for each day of each.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to a file instead of stdout; with --all, into this folder.",
)
@click.option(
    "--as-test",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.py",
    help="Write a test of pytest that asks the same again, and a redacted recording beside it that answers.",
)
@click.option("--force", is_flag=True, help="Let --as-test replace files that are there.")
@click.option("--csv-safe", is_flag=True, help="With --format csv: no spreadsheet runs a cell; see `usage --csv-safe`.")
@click.option("--redact", is_flag=True, help="Redact what looks like a key or token of a known kind, too.")
@configured
@click.pass_context
def command(
    context: click.Context,
    id: str | None,
    form: str,
    everything: bool,
    output: Path | None,
    as_test: Path | None,
    force: bool,
    csv_safe: bool,
    redact: bool,
    settings: Settings,
) -> None:
    """Write a stream, run or session as a recording, as a test, or one stream's body as it came; or a table or view.

    Of the settings, `redact` and `content` count here, but not for tables and views: these are written as they are stored.
    """
    db: str = context.obj
    if csv_safe and form != "csv":
        raise UsageError("--csv-safe is for --format csv")
    if everything or form in FORMATS:
        if as_test is not None or redact or context.get_parameter_source("settings") is click.core.ParameterSource.COMMANDLINE:
            raise UsageError("tables and views are exported as they are stored; leave out --as-test, --redact and --settings")
        chosen = dataset.CSV_SAFE if csv_safe else form
        _export_all(db, id, chosen, output) if everything else _export_table(db, id, chosen, output)
        return
    if id is None:
        raise UsageError("name a stream, run or session; or a table or view with --format parquet or csv")
    if output is not None and output.is_dir():
        raise UsageError(f"{output} is a folder; name a file with -o")
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
        with _writing(output), private.writing(output) as file:
            file.writelines(parts)


def _export_table(db: str, name: str | None, form: str, output: Path | None) -> None:
    """A table or view into a file, or to stdout."""
    relation = named(name or "")
    dataset.format_named(form)
    if output is None and form == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is nothing for a terminal; name a file with -o")
    if output is not None and output.is_dir():
        raise UsageError(f"{output} is a folder; name a file with -o")
    with opened(db, fresh=True) as engine, database.read(engine) as connection, _exporting(connection, [relation]) as advance:
        if output is None:
            dataset.write_table(connection, relation, form, sys.stdout.buffer, advance)
            sys.stdout.buffer.flush()
            return
        with _writing(output):
            dataset.write_file(connection, relation, form, output, advance)


def _export_all(db: str, name: str | None, form: str, output: Path | None) -> None:
    """All tables and views into a folder."""
    if name is not None or output is None or form not in (*FORMATS, dataset.CSV_SAFE):
        raise UsageError("--all writes all tables and views into a folder: recorder export --all --format parquet -o FOLDER")
    dataset.format_named(form)
    relations = RELATIONS.values()
    with (
        opened(db, fresh=True) as engine,
        database.read(engine) as connection,
        _exporting(connection, relations) as advance,
        _writing(output),
    ):
        rows = dataset.write_folder(connection, form, output, advance)
    note(f"wrote {len(RELATIONS)} tables and views, {counted(rows, 'row')}, into {output}")


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecorderError(f"{output}: {error.strerror or error}; name another with -o") from None


@contextmanager
def _exporting(connection: sa.Connection, relations: Iterable[Relation]) -> Iterator[dataset.Advance]:
    """A progress bar over the rows of these."""
    reader, done = Reader(connection), 0
    total = sum(reader.count(relation) for relation in relations)

    def advance(name: str, rows: int) -> None:
        nonlocal done
        done += rows
        progress.update(done, total, f"exporting {name}")

    with Progress("exporting", "rows", total) as progress:
        yield advance


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
