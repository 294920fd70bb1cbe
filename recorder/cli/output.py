"""What commands print: JSON for programs, tables for people, progress and notes on stderr."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import click

from recorder import jsontext
from recorder.cli.columns import GAP, Column, Row, fitted
from recorder.csvfile import inert
from recorder.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def emit(value: Any) -> None:
    """A JSON document on stdout, on one line."""
    echo(document(jsontext.dumps(value)))


def document(text: str) -> str:
    """JSON as stdout takes it: characters that its encoding lacks are escaped, on a terminal also what is not printable."""
    if is_screen():
        text = "".join(char if char.isprintable() else _escape(char) for char in text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return _NOT_ASCII.sub(lambda found: _escape(found[0]), text)
    return text


_NOT_ASCII = re.compile(r"[^\0-\x7f]")


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if char <= "\uffff" else json.dumps(char)[1:-1]


def echo(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """A text on stdout, or on stderr, where it is nothing to fail for if nobody can read it. Raises OSError for stdout."""
    if not err:
        print(text, end=end, flush=True)
        return
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def note(message: str) -> None:
    """A diagnostic on stderr."""
    echo("\n".join(map(printable, message.split("\n"))), err=True)


INCOMPLETE = "what was recorded last is not all in the log: there was no time left for it, or the database did not take it"


def say(line: str) -> None:
    """A line on stdout that may hold recorded text."""
    echo(printable(line))


def event_line(offset_us: int, type: str, data: str) -> str:
    """An event on one line: when it came, what it is, and how its data begins."""
    return f"{offset_us / 1e6:>10.3f}s  {printable(type):<28} {printable(data[:160])}"


def counted(number: int, what: str) -> str:
    """A number of things: `1 stream`, `1,234 streams`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def table(rows: Iterable[Sequence[Any]], columns: Sequence[str], *, empty: str = "nothing") -> None:
    """Rows under their column names: fitted to a terminal, at full length in a pipe."""
    _table([list(row) for row in rows], [Column(name, least=8) for name in columns], empty)


def listing(rows: Sequence[Row], columns: Sequence[Column], *, empty: str = "nothing") -> None:
    """Rows as a table: of the columns those that a terminal has room for, in a pipe all that the rows have, by their own names.

    A column that the rows lack, and a text that none of them has, is left out.
    """
    names = list(rows[0]) if rows else []
    chosen = [column for column in columns if column.name in names] if is_screen() else [Column(name) for name in names]
    chosen = [
        column
        for column in chosen
        if not (column.least and column.rank) or any(column.value(row) not in (None, []) for row in rows)
    ]
    _table([[column.value(row) for column in chosen] for row in rows], chosen, empty)


def _table(values: list[list[Any]], columns: Sequence[Column], empty: str) -> None:
    if not values:
        note(empty)
        return
    on_screen = is_screen()
    unknown = UNKNOWN if on_screen else ""
    held = [[unknown if value is None or value == [] else cell(value) for value in row] for row in values]
    needed = [max(map(cells, (column.title, *(row[at] for row in held)))) for at, column in enumerate(columns)]
    numeric = [all(row[at] == unknown or _NUMBER.fullmatch(row[at]) for row in held) for at in range(len(columns))]
    if not on_screen:
        for row in [[column.title for column in columns], *held]:
            padded = (filled(text, needed[at], numeric[at]) for at, text in enumerate(row))
            echo((" " * GAP).join(padded))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    widths = fitted(columns, needed, width())
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold")
    for at, wide in widths.items():  # the box's divider is a blank
        justify: Literal["right", "left"] = "right" if numeric[at] else "left"
        grid.add_column(Text(columns[at].title), justify=justify, overflow="ellipsis", no_wrap=True, width=wide)
    for row, shown in zip(values, held, strict=True):
        styles = {at: columns[at].style for at in widths}
        grid.add_row(*(Text(shown[at], style(row[at]) if style else "") for at, style in styles.items()))
    screen().print(grid)


UNKNOWN = "\N{EN DASH}"
"""What a terminal shows of a value that nobody knows: it is not 0."""

_NUMBER = re.compile(r"[-<]*\$?[\d,]+(\.\d+)?")


def screen() -> Console:
    """What draws on stdout: as wide as the terminal, coloured only where it is one, and NO_COLOR and TERM allow it."""
    from rich.console import Console

    return Console(
        width=width() if is_screen() else 1_000_000,
        force_terminal=is_screen(),
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def is_screen() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def width(in_a_pipe: int = 80) -> int:
    """The cells of a line of the terminal."""
    return shutil.get_terminal_size((in_a_pipe, 24)).columns if is_screen() else in_a_pipe


def draw(lines: Iterable[Sequence[tuple[str, str]]]) -> None:
    """Lines on stdout, each of (text, style) pairs."""
    from rich.text import Text

    on = screen() if is_screen() else None
    for line in lines:
        if on is None:
            say("".join(text for text, _ in line))
        else:
            shown = Text.assemble(*((printable(text), style) for text, style in line))
            on.print(shown, no_wrap=True, overflow="ignore", crop=False)


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: a Chinese character or an emoji has two."""
    if text.isascii() and text.isprintable():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def filled(text: str, cells_wide: int, right: bool = False) -> str:
    """A text with blanks after it, or before it, so that it takes so many cells at least."""
    blanks = " " * (cells_wide - cells(text))
    return blanks + text if right else text + blanks


def shortened(text: str, cells_wide: int) -> str:
    """A text of just so many cells: filled with blanks, or shortened at its end."""
    from rich.cells import set_cell_size

    return set_cell_size(text, cells_wide) if cells(text) <= cells_wide else set_cell_size(text, max(cells_wide - 1, 0)) + "…"


def wrapped(text: str, cells_wide: int) -> list[str]:
    """A line of text as the lines of so many cells that it takes."""
    from rich.text import Text

    return [str(line).rstrip() for line in Text(text).wrap(screen(), max(cells_wide, 1))] if text else [""]


STATUS_STYLES = {
    **dict.fromkeys(("completed", "done", "ended"), "green"),
    **dict.fromkeys(("failed", "expired", "error", "http_error", "no_response", "tool_failed", "lost"), "red"),
    **dict.fromkeys(
        ("incomplete", "cancelled", "requires_action", "cut", "client_closed", "stalled", "eof", "unknown"), "yellow"
    ),
}
"""How a status, an outcome or a kind of failure is coloured. Nothing is told by colour alone."""


def status_style(status: Any) -> str:
    """Of several, which may be counted, the style of the worst."""
    each = status if isinstance(status, list) else [status]
    styles = [STATUS_STYLES.get(str(one).partition(" ")[0], "") for one in each]
    return next((style for style in ("red", "yellow", "green") if style in styles), "")


def tallied(values: Iterable[str | None]) -> list[str]:
    """Values, those that come again counted."""
    return [f"{value} \N{MULTIPLICATION SIGN}{count}" if count > 1 else str(value) for value, count in Counter(values).items()]


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    return printable(str(value))


def dollars(value: Any) -> str | None:
    """A cost in US dollars; None where it is not known."""
    if value is None:
        return None
    return "<$0.0001" if 0 < value < 0.0001 else f"${value:,.4f}"


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of a table.")

CSV_SAFE = "safe"


def csv_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--csv and --csv-safe, as `as_csv`: None, or which."""
    safe = click.option(
        "--csv-safe",
        "as_csv",
        flag_value=CSV_SAFE,
        help="CSV for a spreadsheet: cells that it would run begin with an apostrophe.",
    )
    return click.option("--csv", "as_csv", flag_value="plain", help="CSV on stdout instead of a table.")(safe(command))


def emitted(value: Any, rows: Sequence[Row], columns: Sequence[str], as_json: bool, as_csv: str | None) -> bool:
    """Whether a document was asked for, which is then on stdout: the value as JSON, or the rows as CSV.

    columns: the names of rows, for where there are none. Lists and objects are JSON within CSV. Raises UsageError for both.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv are two forms of the same answer; ask for one")
    if as_json:
        emit(value)
    elif as_csv:
        plain = ([jsontext.dumps(each) if isinstance(each, (list, dict)) else each for each in row.values()] for row in rows)
        print_csv(list(rows[0] if rows else columns), plain, safe=as_csv == CSV_SAFE)
    return as_json or as_csv is not None


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, safe: bool) -> None:
    """CSV on stdout, on a terminal without what could move its cursor. safe: a spreadsheet runs no cell."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    shown: Callable[[str], str] = printable if is_screen() else str
    for row in chain([columns], rows):
        held = [inert(each) for each in row] if safe else row
        writer.writerow([shown(each) if isinstance(each, str) else each for each in held])


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
