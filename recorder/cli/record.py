"""`recorder record -- CMD…`"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from urllib.parse import urlsplit

import click
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.cli.opening import freshen, opened
from recorder.cli.output import counted, note
from recorder.cli.parameters import configured
from recorder.collect.proxy import Proxy
from recorder.collect.serving import listen, serving
from recorder.collect.writer import Recording, Writer
from recorder.errors import UsageError
from recorder.log import Stream
from recorder.settings import Settings

_OPENAI = "https://api.openai.com/v1"
_ANTHROPIC = "https://api.anthropic.com"

VARIABLES: dict[str, tuple[str | None, str]] = {
    "OPENAI_BASE_URL": (_OPENAI, "/v1"),
    "OPENAI_API_BASE": (None, "/v1"),
    "AZURE_OPENAI_ENDPOINT": (None, ""),
    "AZURE_AI_PROJECT_ENDPOINT": (None, ""),
    "PROJECT_ENDPOINT": (None, ""),
    "ANTHROPIC_BASE_URL": (_ANTHROPIC, ""),
}
"""What SDKs read their base URL from → the API's own where the variable is not set, and the path with which it is meant."""


_SHOWN = 10  # sessions that the summary lists


@click.command("record", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--upstream", metavar="URL", help="Where all its requests go, instead of to the APIs' own hosts.")
@click.option("--session", metavar="LABEL", help="Make one session of all that it does, under this label.")
@configured
@click.argument("cmd", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD...")
@click.pass_obj
def command(db: str, upstream: str | None, session: str | None, settings: Settings, cmd: tuple[str, ...]) -> int:
    """Run a program and record what it asks of an API: any language, any SDK that takes its base URL from the environment.

    The program gets OPENAI_BASE_URL, ANTHROPIC_BASE_URL and, where they are set, the Azure ones, each pointing at a recording
    proxy on a free port that passes everything on to where the variable pointed before (or to --upstream). Its input and output
    are its own; the exit status is the program's. What was recorded is said on stderr.
    """
    if not cmd:
        raise UsageError("name the program to run: recorder record -- python agent.py")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with opened(db, create=True) as engine:
        begun: list[str] = []
        with _Listing(engine, begun, settings) as writer, ExitStack() as stack:
            environment = _environment(stack, writer, upstream, session)
            status = _run(cmd, environment)
        _summary(engine, begun, writer.dropped_bytes)
    return status


class _Listing(Writer):
    """A writer that keeps the ids of the streams that it began."""

    def __init__(self, engine: sa.Engine, begun: list[str], settings: Settings) -> None:
        super().__init__(engine, settings)
        self._begun = begun

    def begin(self, stream: Stream, began_ns: int | None = None, *, strict: bool = False) -> Recording:
        self._begun.append(stream.stream_id)
        return super().begin(stream, began_ns, strict=strict)


def _environment(stack: ExitStack, writer: Writer, upstream: str | None, session: str | None) -> dict[str, str]:
    """The program's environment, with a proxy running for each host that its variables named."""
    environment = dict(os.environ)
    origins: dict[str, str] = {}  # upstream → proxy
    for name, (own, path) in VARIABLES.items():
        target = _target(os.environ.get(name) or own, path, upstream)
        if target is None:
            continue
        parts = urlsplit(target)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in origins:
            app = Proxy(origin, writer, session=session)
            listener = stack.enter_context(listen("127.0.0.1", 0))
            stack.enter_context(serving(app, listener))
            origins[origin] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment[name] = origins[origin] + parts.path + ("?" + parts.query if parts.query else "")
    for name in ("NO_PROXY", "no_proxy"):  # else a proxy that the network asks for would be asked for this one
        environment[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    return environment


def _target(before: str | None, path: str, upstream: str | None) -> str | None:
    """Where requests that a variable directs shall go: a whole base URL. None where the variable shall not be set."""
    if upstream is None:
        return before
    given = urlsplit(upstream if "//" in upstream else f"https://{upstream}")
    origin = f"{given.scheme}://{given.netloc}"
    if given.path.strip("/"):
        return origin + (given.path if path else "")
    known = urlsplit(before or "")
    return origin + (known.path if known.netloc == given.netloc else path)


def _run(cmd: tuple[str, ...], environment: dict[str, str]) -> int:
    """Run the program in the foreground; its exit status, 128 + N where signal N ended it, as a shell says it."""
    with _left_to_the_program() as forward:
        try:
            process = subprocess.Popen(cmd, env=environment)
        except FileNotFoundError:
            note(f"error: {cmd[0]}: no such program; write it as in a shell, after --")
            return 127
        except OSError as error:
            note(f"error: {cmd[0]} cannot be run: {error.strerror}")
            return 126
        forward.append(process)
        status = process.wait()
    return 128 - status if status < 0 else status


@contextmanager
def _left_to_the_program() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Signals are the program's business: it gets Ctrl-C from the terminal by itself, SIGTERM is passed on."""
    forward: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in forward if number == signal.SIGTERM else ():
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield forward
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(engine: sa.Engine, begun: list[str], dropped_bytes: int) -> None:
    """Say what was recorded: how much, and how its runs came out."""
    name = database.shown(engine)
    if not begun:
        note(f"nothing was recorded into {name}: the program asked nothing of a base URL from its environment")
        return
    freshen(engine)
    with database.read(engine) as connection:
        begun = [stream_id for some in database.slices(begun) for stream_id in log.get_streams(connection, some)]
        found = queries.sessions_of(connection, begun)
    events = sum(session["events"] for session in found)
    lost = f"; {dropped_bytes:,} bytes were lost" if dropped_bytes else ""
    note(f"recorded {counted(len(begun), 'stream')} with {counted(events, 'event')} into {name}{lost}")
    for session in found[:_SHOWN]:
        runs = ", ".join(f"{run['run_id']} {run['status'] or run['state']}" for run in session["runs"])
        note(f"  {session['session_id']}  {counted(session['streams'], 'stream')}" + (f"  {runs}" if runs else ""))
    if len(found) > _SHOWN:
        note(f"  … and {len(found) - _SHOWN:,} sessions more: recorder ls")
