"""`recorder tail`"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta

import click
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.cli.opening import Following, opened
from recorder.cli.output import emit, event_line, json_option, say
from recorder.cli.parameters import MOST

_POLL_SECONDS = 0.1
_MARGIN = timedelta(minutes=1)  # a commit may become visible this much after the time that it carries


@click.command("tail")
@click.argument("id", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with events as they come, of all streams or of ID's.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, MOST),
    default=10,
    show_default=True,
    help="How many of the last events to begin with.",
)
@json_option
@click.pass_obj
def command(db: str, id: str | None, follow: bool, lines: int, as_json: bool) -> None:
    """Print the last events, of the stream recorded last or of ID; with -f also those that come. --json: JSON lines."""
    with opened(db, fresh=bool(id), reads=True) as engine:
        seen: dict[str, int] = {}
        with database.read(engine) as connection:
            only = queries.streams_of(connection, queries.resolve(connection, id)) if id else None
            since = min(datetime.now(UTC), log.latest_end(connection)) - _MARGIN
            found = queries.recent_events(connection, lines, only) if lines else []
            seen.update(log.open_heads(connection, since))
        for key, event in found:
            _print(key, event, as_json)
        with contextlib.suppress(KeyboardInterrupt):
            mine = None if only is None else frozenset(only)
            following = Following(engine)
            while follow:
                time.sleep(_POLL_SECONDS)
                for key, event in following.passed(lambda: _new(engine, seen, since)) or ():
                    if mine is None or key in mine:
                        _print(key, event, as_json)


def _new(engine: sa.Engine, seen: dict[str, int], since: datetime) -> list[tuple[str, log.Event]]:
    with database.read(engine) as connection:
        return log.tail(connection, seen, since)


def _print(stream_id: str, event: log.Event, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "stream_id": stream_id,
                "position": event.position,
                "offset_us": event.offset_us,
                "type": event.type,
                "data": event.data,
            }
        )
    else:
        say(f"{stream_id[-12:]} {event.position:>5} {event_line(event.offset_us, event.type, event.data)}")
