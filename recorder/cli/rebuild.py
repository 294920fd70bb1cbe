"""`recorder rebuild`"""

from __future__ import annotations

import time

import click

from recorder import log
from recorder.cli.opening import opened
from recorder.cli.output import Progress, note
from recorder.projections import runner


@click.command("rebuild")
@click.pass_obj
def command(db: str) -> None:
    """Project all read models again, from the first event on. Recording may go on meanwhile."""
    with opened(db) as engine:
        began = time.perf_counter()
        with Progress("rebuilding", "events", total=log.count(engine)) as progress:
            count = runner.rebuild(engine, progress.advance)
    note(f"{count:,} events projected in {time.perf_counter() - began:.1f} s")
