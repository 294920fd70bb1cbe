"""`recorder serve [ID…]`"""

from __future__ import annotations

import logging

import click

from recorder.cli.opening import opened
from recorder.cli.output import counted, note
from recorder.cli.parameters import guarded, listening, pacing
from recorder.collect.gate import Gate
from recorder.collect.serving import address, listen, serve
from recorder.replay import library
from recorder.replay.match import Library
from recorder.replay.server import Replayer


@click.command("serve")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@listening(8788)
@pacing
@click.option("--strict", is_flag=True, help="Answer only requests that equal a recorded one, its body included.")
@click.pass_obj
def command(
    db: str,
    ids: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    speed: float,
    instant: bool,
    max_gap: float | None,
    strict: bool,
) -> None:
    """Answer requests with what was recorded: point a client's base URL at http://127.0.0.1:8788/v1.

    Of the sessions, runs or streams that are named, or of the whole database. A request that equals a recorded one (method,
    path, query, body) gets its response; else one of the same method and path, in recorded order; else a 404 that names the
    nearest. Each client has a place of its own in the session: it is known by its connection, or by a name that it gives in the
    header X-Recorder-Client. Nothing goes to the network. Off this machine (--host) every request must carry a token; the
    client's API key may be it.
    """
    token = guarded(host, token)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with opened(db, fresh=True) as engine:
        exchanges = library.load(engine, ids, strict=strict)
        app = Replayer(engine, exchanges, speed=None if instant else speed, max_gap=max_gap)
        listener = listen(host, port)
        sessions = len({one.session_id for one in exchanges.exchanges})
        what = f"{counted(len(exchanges), 'recorded exchange')} of {counted(sessions, 'session')}"
        gated = Gate(app, token) if token else app
        serve(gated, listener, lambda: note(f"serving {what} at {address(host, listener)}{_base(exchanges)}; Ctrl-C ends"))
    note(f"{counted(app.served, 'request')} answered" + (f", {app.unmatched:,} matched nothing" if app.unmatched else ""))


def _base(exchanges: Library) -> str:
    """What clients' base URLs end in: the path up to /v1 where all recorded paths have it, else nothing."""
    paths = {one.path[1].partition("/v1/")[0] if "/v1/" in one.path[1] else None for one in exchanges.exchanges}
    base = paths.pop() if len(paths) == 1 else None
    return "" if base is None else f"{base}/v1"
