"""What commands print: JSON for programs, tables for people, progress and notes on stderr."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from recorder import jsontext


def emit(value: Any) -> None:
    """A JSON document on stdout, on one line."""
    click.echo(jsontext.dumps(value))


def note(message: str) -> None:
    """A diagnostic on stderr."""
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def say(line: str) -> None:
    """A line on stdout that may hold recorded text."""
    click.echo(printable(line))


def event_line(offset_us: int, type: str, data: str) -> str:
    """An event on one line: when it came, what it is, and how its data begins."""
    return f"{offset_us / 1e6:>10.3f}s  {printable(type):<28} {printable(data[:160])}"


def counted(number: int, what: str) -> str:
    """A number of things: `1 stream`, `1,234 streams`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def table(rows: Iterable[Sequence[Any]], columns: Sequence[str], *, empty: str = "nothing") -> None:
    """Rows under their column names: fitted to a terminal, at full length in a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    held = [[_cell(value) for value in row] for row in rows]
    if not held:
        note(empty)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    grid = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        numeric = all(row[number] == "" or row[number].replace(",", "").lstrip("-").isdigit() for row in held)
        # The first column names the row: it is the last to be shortened.
        least = min(36, max(len(row[0]) for row in held)) if number == 0 else None
        grid.add_column(column, justify="right" if numeric else "left", overflow="ellipsis", no_wrap=True, min_width=least)
    for row in held:
        grid.add_row(*row)
    Console(width=width, highlight=False, markup=False, emoji=False).print(grid)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return printable(str(value))


def printable(text: str) -> str:
    """Text that cannot move the cursor or colour the screen: recorded data is not to be trusted with a terminal."""
    return "".join(char if char.isprintable() else "\N{SYMBOL FOR ESCAPE}" if char == "\x1b" else " " for char in text)


class Progress:
    """A progress bar on stderr; silent where that is no terminal. Use it as a context."""

    def __init__(self, what: str, unit: str, total: int | None = None) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and (self._total is None or self._total > 20_000):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self._unit),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def update(self, done: int, total: int, what: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=what)
