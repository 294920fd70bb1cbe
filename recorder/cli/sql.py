"""`recorder sql QUERY`"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import BinaryIO

import click

from recorder import database, jsontext
from recorder.cli.opening import opened
from recorder.cli.output import CSV_SAFE, csv_option, document, note, print_csv, table
from recorder.cli.parameters import MOST, Finite
from recorder.cli.reader import Row, reading
from recorder.errors import UsageError
from recorder.files import LARGEST_TEXT
from recorder.views import VIEWS

TABLE_ROWS = 1000
"""How many rows a table shows, for all its rows are in memory, unless --limit says otherwise."""

TABLES = (
    "runs",
    "run_steps",
    "tool_calls",
    "messages",
    "sessions",
    "usage_hourly",
    "usage_daily",
    "anomalies",
    "streams",
    "events",
)

HELP = f"""Run one SQL query: QUERY, or what --file holds, or stdin.

It can only read, by the database's own means, and is stopped after --timeout. Rows print as they come, the same from SQLite and
PostgreSQL: times in UTC as 2026-11-22T10:30:00Z (SQLite keeps them as text, and compares them as 2026-11-22 10:30:00.000000),
flags as 0 and 1, bytes as text or else in hexadecimal.

Views: {", ".join(VIEWS)}.

Tables: {", ".join(TABLES)}.
"""


@click.command("sql", help=HELP, short_help="Run one SQL query that can only read.")
@click.argument("query", required=False)
@click.option("-f", "--file", type=click.File("rb"), metavar="FILE", help="A file that holds the query; - is stdin.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), help="How rows print.  [default: table]")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@csv_option
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    metavar="N",
    help=f"At most N rows; a table shows {TABLE_ROWS:,} where it is not given.",
)
@click.option(
    "--timeout",
    type=Finite(min=0, min_open=True, max=1_000_000),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds that the database may work for it.",
)
@click.pass_obj
def command(
    db: str,
    query: str | None,
    file: BinaryIO | None,
    form: str | None,
    as_json: bool,
    as_csv: str | None,
    limit: int | None,
    timeout: float,
) -> None:
    forms = {form, "json" if as_json else None, "csv" if as_csv else None} - {None}
    if len(forms) > 1:
        raise UsageError("a result has one format: give one of --format, --json and --csv")
    form = forms.pop() if forms else "table"
    text = _query(query, file)
    with opened(db, fresh=True):
        pass
    engine = database.connect_read_only(db)
    try:
        with reading(engine, text, timeout) as (columns, rows):
            if form == "json":
                _print_json(columns, islice(rows, limit))
            elif form == "csv":
                print_csv(columns, islice(rows, limit), safe=as_csv == CSV_SAFE)
            else:
                table(islice(rows, limit or TABLE_ROWS), columns, empty="no rows")
                if limit is None and next(rows, None) is not None:
                    note(f"these are the first {TABLE_ROWS:,} rows; --limit shows more, --csv and --json all")
    finally:
        engine.dispose()


def _query(query: str | None, file: BinaryIO | None) -> str:
    """What was asked, from wherever it was given. Raises UsageError."""
    if query is not None and file is not None:
        raise UsageError("one query at a time: give it as an argument or in --file")
    if query is None or query == "-":
        if file is None and query is None and os.isatty(0):
            raise UsageError("no query; give one as an argument, in a file with --file, or on stdin")
        with nullcontext(file) if file else os.fdopen(0, "rb", closefd=False) as given:
            data = given.read(LARGEST_TEXT + 1)
        if len(data) > LARGEST_TEXT:
            raise UsageError(f"the query is larger than {LARGEST_TEXT:,} bytes")
    else:
        data = query.encode("utf-8", "surrogateescape")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("the query is no UTF-8 text") from None
    if not text.strip() or "\0" in text:
        raise UsageError("the query is empty or holds a NUL; give one as an argument, in a file with --file, or on stdin")
    return text


def _print_json(columns: list[str], rows: Iterator[Row]) -> None:
    """One document, an object for each row. A name that comes again gets its column's number: an object has it once."""
    names = [name if name not in columns[:at] else f"{name}_{at + 1}" for at, name in enumerate(columns)]
    separator = "["
    for row in rows:
        sys.stdout.write(separator + document(jsontext.dumps(dict(zip(names, row, strict=True)))))
        separator = ","
    sys.stdout.write("]\n" if separator == "," else "[]\n")
