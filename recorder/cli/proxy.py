"""`recorder proxy`"""

from __future__ import annotations

import logging

import click

from recorder import database
from recorder.cli.opening import opened
from recorder.cli.output import INCOMPLETE, note
from recorder.cli.parameters import Finite, configured, guarded, listening
from recorder.collect.gate import Names
from recorder.collect.proxy import Proxy
from recorder.collect.serving import GRACE_SECONDS, address, listen, serve
from recorder.collect.writer import Writer
from recorder.errors import UsageError
from recorder.settings import Settings


@click.command("proxy")
@click.option(
    "--upstream",
    required=True,
    metavar="ORIGIN",
    help="Where requests go: scheme, host and port, as https://api.openai.com.",
)
@listening(8787)
@click.option(
    "--durability",
    type=click.Choice(["relaxed", "strict"]),
    default="relaxed",
    show_default=True,
    help="strict: an event is on disk before the client gets it.",
)
@click.option(
    "--session-header",
    default="X-Recorder-Session",
    show_default=True,
    metavar="NAME",
    help="Request header whose value labels the session.",
)
@click.option(
    "--grace",
    type=Finite(min=0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="S",
    help="How many seconds open streams may go on once the proxy is asked to stop; a second signal stops it at once.",
)
@configured
@click.pass_obj
def command(
    db: str,
    upstream: str,
    host: str,
    port: int,
    token: str | None,
    allow_host: tuple[str, ...],
    durability: str,
    session_header: str,
    grace: float,
    settings: Settings,
) -> int:
    """Pass everything on to ORIGIN and record it: point a client's base URL at http://127.0.0.1:8787/v1.

    The proxy's own pages are /-/health and /-/metrics. Off this machine (--host) it asks every request for a token.
    """
    token = guarded(host, token)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with opened(db, create=True) as engine, Writer(engine, settings) as writer:
        app = Proxy(
            upstream,
            writer,
            strict=durability == "strict",
            session_header=session_header,
            token=token,
            names=Names(host, allow_host),
        )
        listener = listen(host, port)
        if app.leads_to(listener):
            raise UsageError(f"--upstream {upstream} is this proxy itself; name the server that it is to stand before")
        serve(
            app,
            listener,
            lambda: note(f"recording {address(host, listener)} → {app.host} into {database.shown(engine)}; Ctrl-C ends"),
            grace,
        )
    note(f"{writer.commits:,} commits" + (f", {writer.dropped_bytes:,} bytes lost" if writer.dropped_bytes else ""))
    if not writer.complete:
        note(INCOMPLETE)
    return int(not writer.complete)
