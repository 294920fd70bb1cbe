"""`recorder import PATH…`"""

from __future__ import annotations

from pathlib import Path

import click

from recorder.cli.opening import opened
from recorder.cli.output import Progress, emit, json_option, note, table
from recorder.cli.parameters import Finite, configured
from recorder.collect.import_ import find, import_paths
from recorder.redaction.rules import Rules
from recorder.settings import Settings


@click.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option(
    "--pace",
    type=Finite(min=0.001),
    metavar="EVENTS_PER_SECOND",
    help="Give events of files without timing this pace; without it all have offset 0.",
)
@configured
@json_option
@click.pass_obj
def command(db: str, paths: tuple[str, ...], pace: float | None, settings: Settings, as_json: bool) -> None:
    """Import .sse, .json, .events.jsonl and .recording.jsonl files, cassettes of VCR.py, or all such files of a folder.

    A sibling NAME.request.json {method, host, path, body} is taken along. Importing again adds nothing. Of the settings, `redact`
    and `content` count here.
    """
    find(paths)  # a path that is wrong must not leave an empty database behind
    with opened(db, create=True) as engine, Progress("importing", "files") as progress:
        rows = import_paths(
            engine, paths, pace, lambda path, done, total: progress.update(done, total, Path(path).name), Rules.of(settings), note
        )
    if as_json:
        emit([row._asdict() for row in rows])
        return
    table([(Path(row.path).name, row.stream_id, row.events) for row in rows], ("file", "stream_id", "events"))
    note(f"{len(rows)} files, {sum(row.events for row in rows):,} events")
