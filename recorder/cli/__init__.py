"""The command line: `recorder [--db URL] COMMAND`. One command a file, each loaded when it is called."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

import click

from recorder.cli.output import echo, printable
from recorder.errors import RecorderError, UsageError
from recorder.schema import DEFAULT_URL

COMMANDS = {
    "proxy": ("proxy", "Pass everything on to an API and record it: point a base URL at it."),
    "record": ("record", "Run a program and record what it asks of an API."),
    "request": ("request", "Send one request, show what comes as it comes, and record it."),
    "import": ("import_", "Import streams, recordings and cassettes from files, or from folders of them."),
    "export": ("export", "Write a recording, a test, or tables."),
    "ls": ("ls", "List sessions, the latest first."),
    "show": ("show", "Show a stream, run, session or thread."),
    "tail": ("tail", "Print the last events, and with -f those that come."),
    "replay": ("replay", "Write a stream's bytes to stdout, in the chunks and at the pace of its recording."),
    "serve": ("serve", "Answer requests with what was recorded: point a base URL at it."),
    "diff": ("diff", "Compare two sessions, runs or streams, or recording files."),
    "usage": ("usage", "Token usage of runs."),
    "failures": ("failures", "Runs that did not end well, and streams without a run that failed."),
    "sql": ("sql", "Run one SQL query that can only read."),
    "rebuild": ("rebuild", "Project all read models again, from the first event on."),
    "recost": ("recost", "Compute again what runs cost, each at the price of its own day."),
    "verify": ("verify", "Check the events against their crc and the read models against the events."),
    "project": ("project", "Bring the read models up to date."),
    "db": ("db", "The schema: bring it up to date, or say what it is."),
    "delete": ("delete", "Erase a session (or a stream, run or thread) from the log and all tables."),
    "demo": ("demo", "See the whole job in half a minute: record, ask, replay, verify."),
}
"""Command → (module in this folder, what --help says of it without loading it): capture, look, replay, ask, keep."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"recorder.cli.{COMMANDS[name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--db",
    envvar="RECORDER_DB",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="The database: sqlite:///FILE or postgresql://USER@HOST/NAME.",
)
@click.version_option(package_name="runstep-recorder", prog_name="recorder")
@click.pass_context
def cli(context: click.Context, db: str) -> None:
    """Record every event of an LLM run in a SQL log, fold it into runs, steps and usage, and replay it."""
    context.obj = db


def main(args: list[str] | None = None) -> int:
    """Run a command line; its exit status: 0 done, 1 failed or found something, 2 wrong usage. Errors are one line on stderr."""
    _prepare()
    try:
        return _run(sys.argv[1:] if args is None else list(args))
    except BrokenPipeError:
        _give_up()  # whoever read us has had enough
        return 0
    except OSError as error:
        _give_up()
        return _fail(f"{error.filename or 'the output'}: {error.strerror or error}", 1)


def _run(args: list[str]) -> int:
    """Raises OSError, of the output as a rule."""
    try:
        with cli.make_context("recorder", args) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except UsageError as error:
        return _fail(str(error), 2)
    except RecorderError as error:
        return _fail(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except MemoryError:
        return _fail("out of memory", 1)


def _prepare() -> None:
    """See to it that there is something to write to, and that no character is one too many for it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: else the next file to be opened would be taken for it. To write to stdout is an error still.
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None and name != "stdin":  # a command that would read says that it is closed
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up() -> None:
    """Nothing can be printed any more, also of what is still buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(message: str, status: int) -> int:
    echo("error: " + printable(" ".join(message.split())), err=True)
    return status
