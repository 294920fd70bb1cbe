"""`recorder serve [ID…]`"""

from __future__ import annotations

import contextlib
import logging

import click

from recorder.cli import keys
from recorder.cli.opening import check_writable, opened
from recorder.cli.output import INCOMPLETE, counted, note
from recorder.cli.parameters import by_hand, configured, faulty, guarded, listening, pacing
from recorder.collect.gate import Gate, Names
from recorder.collect.serving import address, listen, serve
from recorder.errors import UsageError
from recorder.replay import library
from recorder.replay.divergence import lines
from recorder.replay.faults import plan
from recorder.replay.match import Library
from recorder.replay.passing import Passing
from recorder.replay.server import Replayer
from recorder.replay.stepping import Hand
from recorder.replay.volatile import Volatile
from recorder.settings import Settings


@click.command("serve")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@listening(8788)
@pacing
@by_hand
@faulty
@click.option("--strict", is_flag=True, help="Answer only requests that equal a recorded one, its body included.")
@click.option(
    "--volatile",
    multiple=True,
    metavar="PATH",
    help="A field that may differ in an equal request, as $..trace_id, beside metadata, user and the like. May be given again.",
)
@click.option("--fallback", metavar="URL", help="Pass what no recording answers on to this origin, and record it.")
@click.option("--fail-on-divergence", is_flag=True, help="Exit 1 where a client asked anything else than what was recorded.")
@configured
@click.pass_obj
def command(
    db: str,
    ids: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    allow_host: tuple[str, ...],
    speed: float,
    instant: bool,
    max_gap: float | None,
    step: bool,
    pause_at: tuple[str, ...],
    faults: tuple[str, ...],
    strict: bool,
    volatile: tuple[str, ...],
    fallback: str | None,
    fail_on_divergence: bool,
    settings: Settings,
) -> int:
    """Answer requests with what was recorded: point a client's base URL at http://127.0.0.1:8788/v1.

    Of the sessions, runs or streams that are named, or of the whole database. A request that equals a recorded one (method,
    path, query, body) gets its response; else one that does but for what is volatile (ids and times that the client made,
    metadata); else one of the same method and path, in recorded order; else a 404 that names the nearest. Each client has a
    place of its own in the session: it is known by its connection, or by a name that it gives, in the header X-Recorder-Client
    or in its base URL, /s/NAME/v1. Nothing goes to the network without --fallback. Off this machine (--host) every request must
    carry a token; the client's API key may be it.

    It ends with a report of what clients asked and how that differs from what was recorded; /-/report has it as JSON at any
    time. With --step or --pause-at a POST to /-/step lets the next event go, too, and one to /-/continue all that follow.
    """
    token = guarded(host, token)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    planned = plan(faults)
    hand = Hand(step, pause_at) if step or pause_at else None
    if hand and any(fault.kind.startswith("rechunk") for fault in planned):
        raise UsageError("events that are let go one by one keep their chunks: leave out rechunk, or --step and --pause-at")
    with opened(db, create=fallback is not None, fresh=True) as engine:
        exchanges = library.load(engine, ids, strict=strict, volatile=Volatile(volatile), empty=fallback is not None)
        library.check(engine, exchanges.ids, planned)
        passing = None
        if fallback is not None:
            check_writable(engine)
            passing = Passing(fallback, db, session=_session(exchanges), settings=settings, token=token)
        app = Replayer(
            engine,
            exchanges,
            speed=None if instant else speed,
            max_gap=max_gap,
            faults=planned,
            hand=hand,
            passing=passing,
            named=bool(ids),
        )
        listener = listen(host, port)
        if passing and passing.leads_to(listener):
            raise UsageError(f"--fallback {fallback} is this server itself; name the API")
        sessions = len({one.session_id for one in exchanges.exchanges})
        what = f"{counted(len(exchanges), 'recorded exchange')} of {counted(sessions, 'session')}"
        gated = Gate(app, Names(host, allow_host), token)
        with keys.pressed(hand.press) if hand else contextlib.nullcontext():
            serve(gated, listener, lambda: note(f"serving {what} at {address(host, listener)}{_base(exchanges)}; Ctrl-C ends"))
        report = app.watch.document()
    for line in lines(report):
        note(line)
    requests = report["requests"]
    unmatched = f", {requests['unmatched']:,} matched nothing" if requests["unmatched"] else ""
    passed_on = f", {requests['passed_on']:,} passed on to {passing.host}" if passing else ""
    note(f"{counted(requests['answered'], 'request')} answered{unmatched}{passed_on}")
    complete = passing is None or passing.complete
    if not complete:
        note(INCOMPLETE)
    return int((fail_on_divergence and report["diverged"]) or not complete)


def _session(exchanges: Library) -> str | None:
    """The session that what is recorded now goes to: the one that is replayed, where it is one."""
    sessions = {one.session_id for one in exchanges.exchanges if not one.alone}
    return sessions.pop() if len(sessions) == 1 else None


def _base(exchanges: Library) -> str:
    """What clients' base URLs end in: the path up to /v1 where all recorded paths have it, else nothing."""
    paths = {one.path[1].partition("/v1/")[0] if "/v1/" in one.path[1] else None for one in exchanges.exchanges}
    base = paths.pop() if len(paths) == 1 else None
    return "" if base is None else f"{base}/v1"
