"""`recorder project`"""

from __future__ import annotations

import contextlib
import time

import click

from recorder.cli.opening import Following, opened
from recorder.cli.output import Progress, note
from recorder.projections import runner
from recorder.protocols.fold import StreamFold

_IDLE_SECONDS = 0.2
_SHARE = 10  # of the time of a pass, that the next one waits: an open stream's state is written again each time


@click.command("project")
@click.option("--follow", is_flag=True, help="Go on as events come, until interrupted.")
@click.pass_obj
def command(db: str, follow: bool) -> None:
    """Bring the read models up to date. Questions do so by themselves; a server with much traffic runs this with --follow."""
    with opened(db) as engine:
        cache: dict[str, StreamFold] = {}
        with Progress("projecting", "events", total=runner.behind(engine)) as progress:
            count = runner.catch_up(engine, progress.advance, cache)
        note(f"{count:,} events projected")
        with contextlib.suppress(KeyboardInterrupt):
            following = Following(engine)
            while follow:
                began = time.perf_counter()
                following.passed(lambda: runner.catch_up(engine, None, cache))
                time.sleep(max(_IDLE_SECONDS, _SHARE * (time.perf_counter() - began)))
