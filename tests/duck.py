"""What DuckDB answers from the folder that `export --all --format parquet` makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from recorder import reports
from recorder.projections.runs import COUNTERS


def asked(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """The answer to a query about NAME, or several, read from the folder as README says."""
    named = re.sub(
        r"\b(FROM|JOIN) (\w+)",
        lambda found: f"{found[1]} read_parquet('{folder}/{found[2]}/*/*.parquet', hive_partitioning = true)",
        query,
    )
    with duckdb.connect() as connection:
        return connection.execute(named).fetchall()


def same_numbers(connection: sa.Connection, folder: Path) -> None:
    """Assert that DuckDB gives the same as recorder's own questions, and as SQL."""
    counted = ("runs", "runs_without_usage", *COUNTERS)
    counters = ", ".join(f"sum({name})" for name in counted)
    for by in ("model", "day", "protocol", "assistant"):
        column = {"assistant": "assistant_id"}.get(by, by)
        said = [tuple(row[name] for name in (column, *counted)) for row in reports.usage(connection, by)]
        text = f"SELECT {column}::text, {counters} FROM v_usage_daily GROUP BY 1"
        assert sorted(asked(folder, text), key=repr) == sorted(said, key=repr), by
    (total,) = reports.usage(connection)
    assert asked(folder, f"SELECT {counters} FROM v_usage_hourly") == [tuple(total[name] for name in counted)]
    assert asked(folder, "SELECT count(*), sum(total_tokens) FROM v_runs") == [(total["runs"], total["total_tokens"])]
    by_kind = {row["kind"]: row["runs"] for row in reports.failures(connection, "kind")}
    assert dict(asked(folder, "SELECT kind, count(*) FROM v_failures GROUP BY 1")) == by_kind
    for query in (
        "SELECT model, day, sum(total_tokens) FROM v_usage_daily GROUP BY 1, 2",
        "SELECT stream_id, count(*), sum(offset_us) FROM events GROUP BY 1",
        "SELECT status, count(*) FROM runs GROUP BY 1",
        "SELECT count(*), count(message_id), max(ordinal) FROM messages",
        "SELECT r.model, s.type, count(*), sum(s.total_tokens)"
        " FROM v_steps AS s JOIN v_runs AS r ON r.run_id = s.run_id GROUP BY 1, 2",
        "SELECT name, sum(output_bytes), sum(failed) FROM v_tool_calls GROUP BY 1",
    ):
        expected = [tuple(number(value) for value in row) for row in connection.exec_driver_sql(query)]
        assert sorted(([number(value) for value in row] for row in asked(folder, query)), key=repr) == sorted(
            map(list, expected), key=repr
        ), query


def number(value: Any) -> Any:
    """A value as every driver can give it: PostgreSQL sums to decimals, has UUIDs, and DuckDB a day as a date."""
    return value if value is None or isinstance(value, (int, float)) else int(value) if hasattr(value, "as_tuple") else str(value)
