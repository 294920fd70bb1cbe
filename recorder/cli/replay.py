"""`recorder replay ID`"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import dropwhile

import click
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.cli import keys
from recorder.cli.opening import opened
from recorder.cli.output import note
from recorder.cli.parameters import MOST, by_hand, faulty, pacing
from recorder.errors import UsageError
from recorder.replay import library
from recorder.replay.faults import Fault, Faulted, plan
from recorder.replay.fidelity import Fidelity, shown
from recorder.replay.playback import Playback
from recorder.replay.stepping import Mode, Move, checked, moves
from recorder.replay.timing import paced, schedule
from recorder.sse import chunks


@click.command("replay")
@click.argument("id")
@pacing
@click.option(
    "--from",
    "first",
    type=click.IntRange(0, MOST),
    default=0,
    metavar="P",
    help="Begin with the event at this position, without the pause before it.",
)
@click.option("--to", "last", type=click.IntRange(0, MOST), metavar="P", help="End with the event at this position.")
@by_hand
@faulty
@click.option("--report", is_flag=True, help="Say on stderr how well the pace was kept.")
@click.pass_obj
def command(
    db: str,
    id: str,
    speed: float,
    instant: bool,
    max_gap: float | None,
    first: int,
    last: int | None,
    step: bool,
    pause_at: tuple[str, ...],
    faults: tuple[str, ...],
    report: bool,
) -> None:
    """Write a stream's bytes to stdout, in the chunks and at the pace in which they came.

    A session's streams come one after the other. Keys for --step and --pause-at come from stdin; in a pipe, each line is one.
    """
    planned, waits_at = plan(faults), checked(pause_at)
    pace, fidelity = None if instant else speed, Fidelity()
    late = None if instant else fidelity.add
    held = step or bool(waits_at)
    if planned and (first or last is not None):
        raise UsageError("--fault says where by itself: leave out --from and --to")
    if held and any(fault.kind.startswith("rechunk") for fault in planned):
        raise UsageError("events that are let go one by one keep their chunks: leave out rechunk, or --step and --pause-at")
    with opened(db, fresh=id != "last", reads=True) as engine:
        with database.read(engine) as connection:
            ids = queries.streams_of(connection, queries.resolve(connection, id))
            paths = {stream_id: stream.path for stream_id, stream in log.get_streams(connection, ids).items()}
        if len(ids) > 1 and (first or last is not None):
            raise UsageError(f"{id} has {len(ids)} streams; --from and --to are of one: {', '.join(ids)}")
        library.check(engine, ids, planned)
        with keys.reading() if held else nullcontext(keys.none) as following:
            for number, stream_id in enumerate(ids, 1):
                if held:
                    made = _playback(engine, stream_id, planned, number, paths, last)
                    _write(_by_hand(moves(made, pace, max_gap), Mode(step, waits_at), following, first))
                elif planned:
                    made = _playback(engine, stream_id, planned, number, paths, last)
                    _write(chunk or b"" for chunk in paced(made.timed(pace, max_gap), late))
                else:
                    kept, start = _part(engine, stream_id, first, last)
                    _write(paced(schedule(kept, pace, max_gap, start), late))
    if report:
        note(shown(fidelity.document()) or "nothing was paced")


def _part(engine: sa.Engine, stream_id: str, first: int, last: int | None) -> tuple[Iterator[tuple[int, bytes]], int]:
    """The chunks of these events, and when the first of them came."""
    recorded = [event for event in log.read_stream(engine, stream_id) if last is None or event.position <= last]
    kept = list(log.wire(recorded))
    start = 0
    if first:
        skipped = sum(1 for _ in log.wire(event for event in recorded if event.position < first))
        kept = kept[skipped:]
        start = (kept[0][2] or [(0, kept[0][1])])[0][1] if kept else 0  # the first chunk of what is left
    return chunks(kept), start


def _playback(
    engine: sa.Engine, stream_id: str, faults: Iterable[Fault], number: int, paths: dict[str, str], last: int | None
) -> Playback | Faulted:
    recorded = (event for event in log.read_stream(engine, stream_id) if last is None or event.position <= last)
    return library.faulted(Playback(recorded), faults, stream_id, number, paths.get(stream_id, ""), lambda fault: None)


def _by_hand(timed: Iterable[tuple[float, Move]], mode: Mode, following: Callable[[], str], first: int) -> Iterator[bytes]:
    """Chunks from the event at `first` on, each when it is due or let go."""
    began: float | None = None
    for at_us, move in dropwhile(lambda pair: 0 <= pair[1].position < first, timed):
        if began is None:
            began = time.perf_counter() - (at_us / 1e6 if first else 0)
        if mode.waits(move):
            key = following()
            mode.stepping = key.lower() not in ("c", "")  # nobody is left to press one
            began = time.perf_counter() - at_us / 1e6
        elif not mode.stepping or move.chunk is not None:
            time.sleep(max(0.0, began + at_us / 1e6 - time.perf_counter()))
        if move.chunk:
            yield move.chunk


def _write(bodies: Iterable[bytes]) -> None:
    for body in bodies:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
