"""`recorder record -- CMD…`"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from urllib.parse import SplitResult, urlsplit

import click
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.cli.opening import check_writable, freshen, opened
from recorder.cli.output import counted, note
from recorder.cli.parameters import allowing, configured
from recorder.collect.gate import Names
from recorder.collect.proxy import Proxy
from recorder.collect.recording import Recording
from recorder.collect.serving import listen, serving
from recorder.collect.writer import Writer
from recorder.errors import UsageError
from recorder.log import Stream
from recorder.settings import Settings

VARIABLES: dict[str, tuple[str | None, str | None]] = {
    "OPENAI_BASE_URL": ("https://api.openai.com/v1", "/v1"),
    "OPENAI_API_BASE": (None, "/v1"),
    "AZURE_OPENAI_ENDPOINT": (None, None),
    "AZURE_AI_PROJECT_ENDPOINT": (None, None),
    "PROJECT_ENDPOINT": (None, None),
    "ANTHROPIC_BASE_URL": ("https://api.anthropic.com", ""),
}
"""What SDKs read their base URL from → (the API's own where the variable is not set, the path that an API has there).

Without an API of its own a variable is left unset: programs decide by it whom they ask. Without a path it keeps what it has.
"""

SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What is the program's business, whoever gets it."""

_OF_A_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

_SHOWN = 10  # sessions that the summary lists


class NotRun(click.ClickException):
    """The program cannot be started. Exit statuses are those of a shell."""

    exit_code = 126


class NotFound(NotRun):
    exit_code = 127


@click.command("record", context_settings={"allow_interspersed_args": False})
@click.option("--upstream", metavar="URL", help="Where all its requests go, instead of to the APIs' own hosts.")
@click.option("--session", metavar="LABEL", help="Make one session of all that it does, under this label.")
@allowing
@configured
@click.argument("cmd", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD...")
@click.pass_obj
def command(
    db: str, upstream: str | None, session: str | None, allow_host: tuple[str, ...], settings: Settings, cmd: tuple[str, ...]
) -> int:
    """Run a program and record what it asks of an API: any language, any SDK that takes its base URL from the environment.

    The program gets OPENAI_BASE_URL, ANTHROPIC_BASE_URL and, where they are set, the Azure ones, each pointing at a recording
    proxy on a free port that passes everything on to where the variable pointed before (or to --upstream). Its input and output
    are its own; the exit status is the program's. What was recorded is said on stderr. The proxies end with the program: what
    it leaves running in the background may finish its open streams, for some seconds.
    """
    if not cmd or not cmd[0]:
        raise UsageError("name the program to run: recorder record -- python agent.py")
    instead = None if upstream is None else upstream_url(upstream)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with opened(db, create=True) as engine:
        check_writable(engine)
        begun: list[str] = []
        with _Listing(engine, begun, settings) as writer, ExitStack() as stack:
            environment = _environment(stack, writer, instead, session, Names(allowed=allow_host))
            status = _run(cmd, environment)
        with contextlib.suppress(OSError):  # stderr may be closed: the exit status is the program's all the same
            _summary(engine, begun, writer)
    return status or int(not writer.complete)


class _Listing(Writer):
    """A writer that keeps the ids of the streams that it began."""

    def __init__(self, engine: sa.Engine, begun: list[str], settings: Settings) -> None:
        super().__init__(engine, settings)
        self._begun = begun

    def begin(self, stream: Stream, began_ns: int | None = None, *, strict: bool = False, known: Iterable[str] = ()) -> Recording:
        self._begun.append(stream.stream_id)
        return super().begin(stream, began_ns, strict=strict, known=known)


def _environment(
    stack: ExitStack, writer: Writer, upstream: SplitResult | None, session: str | None, names: Names
) -> dict[str, str]:
    """The program's environment, with a proxy running for each host that its variables named."""
    environment = dict(os.environ)
    proxies: dict[str, str] = {}  # origin → the host and port of its proxy
    for name, (own, _) in VARIABLES.items():
        before = os.environ.get(name) or own
        if before is None:
            continue
        target = destination(name, before, upstream)
        if target is None:
            note(f"{name} is no URL of http or https: it is left as it is, and what goes there is not recorded")
            continue
        credentials, at, host = target.netloc.rpartition("@")  # the client's business: it makes a header of them
        origin = f"{target.scheme}://{host}"
        if origin not in proxies:
            app = Proxy(origin, writer, session=session, names=names)
            listener = stack.enter_context(listen("127.0.0.1", 0))
            stack.enter_context(serving(app, listener))
            proxies[origin] = f"127.0.0.1:{listener.getsockname()[1]}"
        environment[name] = target._replace(scheme="http", netloc=credentials + at + proxies[origin]).geturl()
    ask_directly(environment)
    return environment


def destination(name: str, before: str, upstream: SplitResult | None) -> SplitResult | None:
    """Where requests that a variable directs shall go: a whole base URL. None where that is nowhere.

    before: what the variable says. An upstream without a path gets the variable's: the API's on another host, else as it was.
    """
    known, path = base_url(before), VARIABLES[name][1]
    if upstream is None:
        return known
    if base := upstream.path.rstrip("/"):
        return upstream._replace(path=base if path == "/v1" else base.removesuffix("/v1"))
    if known is not None and (path is None or known.netloc == upstream.netloc):
        return upstream._replace(path=known.path, query=upstream.query or known.query)
    return upstream._replace(path=path or "")


def upstream_url(given: str) -> SplitResult:
    url = base_url(given if "//" in given else f"https://{given}")
    if url is None:
        raise UsageError(f"--upstream {given!r} is no URL of http or https; write it as https://api.openai.com/v1")
    return url


def base_url(text: str) -> SplitResult | None:
    """A base URL, taken apart; None where it is none."""
    try:
        parts = urlsplit(text)
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port, or of brackets
        return None
    return parts if complete else None


def ask_directly(environment: MutableMapping[str, str]) -> None:
    """Else a proxy that the network asks for would be asked for ours. Programs differ in which of the names goes first."""
    upper, lower = environment.get("NO_PROXY"), environment.get("no_proxy")
    for name, value in (("NO_PROXY", lower if upper is None else upper), ("no_proxy", upper if lower is None else lower)):
        environment[name] = "*" if value == "*" else f"{value},127.0.0.1" if value else "127.0.0.1"


def _run(cmd: tuple[str, ...], environment: dict[str, str]) -> int:
    """Run the program in the foreground; its exit status, 128 + N where signal N ended it, as a shell says it."""
    with _signals_passed_on() as pass_on_to:
        try:
            process = subprocess.Popen(cmd, env=environment, close_fds=False)  # what it inherits is its own; ours are marked
        except FileNotFoundError:
            if shutil.which(cmd[0], path=environment.get("PATH")):
                raise NotRun(f"{cmd[0]} cannot be run: what its first line names is not there") from None
            raise NotFound(f"{cmd[0]}: no such program; write it as in a shell, after --") from None
        except OSError as error:
            raise NotRun(f"{cmd[0]} cannot be run: {error.strerror}") from None
        pass_on_to(process)
        status = process.wait()
    return 128 - status if status < 0 else status


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Signals do nothing here: they go to the program, once there is one. What is ignored stays so, for the program too."""
    programs: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number in _OF_A_TERMINAL and _in_the_foreground():
            return  # a terminal sends it to the program by itself
        early.extend(() if programs else (number,))
        for program in programs:
            program.send_signal(number)

    def pass_on_to(program: subprocess.Popen[bytes]) -> None:
        programs.append(program)
        for number in early:
            program.send_signal(number)

    mine = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in mine}
    try:
        yield pass_on_to
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_the_foreground() -> bool:
    """Whether this process is in the foreground of a terminal, and the program with it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _summary(engine: sa.Engine, begun: list[str], writer: Writer) -> None:
    """Say what was recorded: how much, and how its runs came out; and what was lost."""
    name = database.shown(engine)
    if not begun:
        note(f"nothing was recorded into {name}: the program asked nothing of a base URL from its environment")
        return
    streams = counted(len(begun) - writer.left_out, "stream")
    try:
        outcomes = _outcomes(engine, begun)
        if missing := len(begun) - writer.left_out - outcomes.total():
            note(f"{missing:,} of {streams} did not get into {name} whole: the database took no more of what was recorded")
            return
        freshen(engine)
        with database.read(engine) as connection:
            found = queries.sessions_of(connection, begun)
    except sa.exc.DBAPIError as error:
        note(f"{streams} began; what there is of them cannot be said: {database.translated(error, name)}")
        return
    said = f"recorded {streams}"
    if sum(session["streams"] for session in found) == outcomes.total():  # else freshen() has said why they are not all counted
        said += f" with {counted(sum(session['events'] for session in found), 'event')}"
    said += f" into {name}"
    if left := outcomes["lost"]:
        said += f"; {left:,} went on when the program had ended, and broke off"
    if writer.left_out:
        said += f"; {counted(writer.left_out, 'stream')} left out, as the settings say"
    if writer.dropped_bytes:
        said += f"; {writer.dropped_bytes:,} bytes were lost, for the database did not take them in time"
    note(said)
    for session in found[:_SHOWN]:
        runs = ", ".join(f"{run['run_id']} {run['status'] or run['state']}" for run in session["runs"])
        note(f"  {session['session_id']}  {counted(session['streams'], 'stream')}" + (f"  {runs}" if runs else ""))
    if len(found) > _SHOWN:
        note(f"  … and {len(found) - _SHOWN:,} sessions more: recorder ls")


def _outcomes(engine: sa.Engine, stream_ids: list[str]) -> Counter[str]:
    """How many of these streams ended how; those that did not get so far are not counted."""
    heads = log.heads.c
    found: Counter[str] = Counter()
    with database.read(engine) as connection:
        for some in database.slices(stream_ids):
            ended = sa.select(heads.outcome).where(heads.stream_id.in_(some), heads.outcome.is_not(None))
            found.update(connection.execute(ended).scalars())
    return found
