"""`recorder diff A B`"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.cli.opening import opened
from recorder.cli.output import counted, emit, json_option, note, say
from recorder.comparison import Difference, Exchange, Side, compare, located, unified
from recorder.log import Event
from recorder.recording import events_of, read_recording
from recorder.testing import SUFFIX


class Told(NamedTuple):
    """One side: what names it, what that is, and its exchanges in order."""

    id: str
    kind: str
    exchanges: list[Exchange]


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@json_option
@click.pass_obj
def command(db: str, a: str, b: str, as_json: bool) -> int:
    """Compare two sessions, runs or streams, or recording files, by steps and events: exit 1 where they differ.

    Requests, runs, steps, arguments, outputs, texts and the order of events count; ids, times, tokens and into how many pieces a
    text was cut do not. The first divergence is named with its events.
    """
    with _asked(db, a, b) as engine:
        sides = [_told(engine, id) for id in (a, b)]
    ours, theirs = (side.exchanges for side in sides)
    found = compare(ours, theirs)
    if found:
        found[0] = located(found[0], ours, theirs)
    if as_json:
        emit(
            {
                "equal": not found,
                **{
                    name: {"id": side.id, "kind": side.kind, "streams": [one.stream.stream_id for one in side.exchanges]}
                    for name, side in zip("ab", sides, strict=True)
                },
                "differences": [_document(difference, *sides) for difference in found],
            }
        )
        return int(bool(found))
    for number, difference in enumerate(found):
        say(f"{'first divergence: ' if number == 0 else ''}{difference}{_events(difference, *sides) if number == 0 else ''}")
        for line in unified(difference.a.value, difference.b.value) if difference.fact else ():
            say(f"  {line}")
    compared = f"{counted(len(ours), 'exchange')} of A, {len(theirs):,} of B"
    note(f"{counted(len(found), 'difference')} ({compared})" if found else f"no difference ({compared})")
    return int(bool(found))


@contextmanager
def _asked(db: str, *ids: str) -> Iterator[sa.Engine | None]:
    """The database, where one of these is in it."""
    if all(id.endswith(SUFFIX) for id in ids):
        yield None
        return
    with opened(db, fresh=True) as engine:
        yield engine


def _told(engine: sa.Engine | None, id: str) -> Told:
    if engine is None or id.endswith(SUFFIX):
        exchanges = [Exchange(stream, events_of(frames)) for stream, frames in read_recording(Path(id))]
        return Told(id, "recording", exchanges)
    with database.read(engine) as connection:
        named = queries.resolve(connection, id)
        ids = queries.streams_of(connection, named)
        streams = log.get_streams(connection, ids)
        events: dict[str, list[Event]] = {stream_id: log.read(connection, stream_id) for stream_id in ids}
    return Told(named.id, named.kind, [Exchange(streams[stream_id], events[stream_id]) for stream_id in ids])


def _place(side: Side, told: Told) -> dict[str, Any] | None:
    """The event of a side: its stream and position; None where it has no such exchange."""
    if side.exchange is None:
        return None
    return {"stream_id": told.exchanges[side.exchange - 1].stream.stream_id, "position": side.position}


def _document(difference: Difference, a: Told, b: Told) -> dict[str, Any]:
    return {
        "exchange": {"a": difference.a.exchange, "b": difference.b.exchange},
        "item": difference.item,
        "fact": difference.fact or None,
        "field": difference.field or None,
        "a": difference.a.value,
        "b": difference.b.value,
        "at": {"a": _place(difference.a, a), "b": _place(difference.b, b)},
    }


def _events(difference: Difference, a: Told, b: Told) -> str:
    places = {name: _place(*sides) for name, sides in {"A": (difference.a, a), "B": (difference.b, b)}.items()}
    shown = [
        f"{name} {place['stream_id']}" + ("" if place["position"] is None else f":{place['position']}")
        for name, place in places.items()
        if place
    ]
    return f" ({', '.join(shown)})"
