"""`recorder sql QUERY`"""

from __future__ import annotations

import csv
import sys
from typing import Any

import click
import sqlalchemy as sa

from recorder.cli.opening import connect_read_only, opened
from recorder.cli.output import emit, table
from recorder.errors import RecorderError
from recorder.queries import json_value


@click.command("sql")
@click.argument("query")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_obj
def command(db: str, query: str, form: str, as_json: bool) -> None:
    """Run one SQL query, read-only by the database's own means. Tables: runs, run_steps, tool_calls, messages, sessions,
    usage_hourly, anomalies, streams, events."""
    with opened(db, fresh=True):
        pass
    engine = connect_read_only(db)
    try:
        with engine.connect() as connection:
            columns, rows = _run(connection, query)
    except (sa.exc.DBAPIError, engine.dialect.loaded_dbapi.Error) as error:
        raise RecorderError(" ".join(str(getattr(error, "orig", error)).split())) from None
    finally:
        engine.dispose()
    if as_json or form == "json":
        emit([dict(zip(columns, row, strict=True)) for row in rows])
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        table(rows, columns, empty="no rows")


def _run(connection: sa.Connection, query: str) -> tuple[list[str], list[list[Any]]]:
    """(column names, rows). On PostgreSQL by the extended protocol, which takes one statement and no more."""
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor(binary=False)
        cursor.execute(query.encode(), prepare=True)
        names = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall() if cursor.description else []
    else:
        result = connection.exec_driver_sql(query)
        names = list(result.keys()) if result.returns_rows else []
        rows = list(result.all()) if result.returns_rows else []
    return names, [[_plain(value) for value in row] for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).decode("utf-8", "replace")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    converted = json_value(value)
    return converted if isinstance(converted, str) else str(converted)
