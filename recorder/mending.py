"""Whether a database has what its number says, and giving it that: migrations were edited before the first release.

What the log holds is kept, whatever else was edited: every other table can be made anew from it. In one transaction of the
caller's, so that a database that cannot be mended stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from recorder.schema import VERSION_TABLE

Lacking = dict[str, set[str]]
"""Table or index → its columns that are not there; an index that is not there at all has all of its own."""


def lacking(connection: sa.Connection, metadata: sa.MetaData) -> Lacking:
    """What the database has not of the tables and indexes known here: one question to its catalogue."""
    expected = {table.name: set(table.columns.keys()) for table in metadata.tables.values()}
    expected |= {str(index.name): set(index.columns.keys()) for index in _indexes(metadata)}
    found: Lacking = {}
    for name, column in connection.execute(sa.text(_CATALOGUE[connection.dialect.name])):
        found.setdefault(name, set()).add(column)
    return {name: columns - found.get(name, set()) for name, columns in expected.items() if columns - found.get(name, set())}


def only_indexes(lacks: Lacking, metadata: sa.MetaData) -> bool:
    """Whether all answers are right, and some of them slow."""
    return not lacks.keys() & metadata.tables.keys()


def make_indexes(connection: sa.Connection, metadata: sa.MetaData, lacks: Lacking) -> None:
    """Make the indexes that are not there, and those anew that have too few columns."""
    for index in _indexes(metadata):
        if index.name in lacks:
            index.drop(connection, checkfirst=True)
            index.create(connection)


def make_anew(connection: sa.Connection, migrate: Callable[[sa.Connection], None]) -> None:
    """All tables anew, with what the log held, and every stream queued for projecting.

    migrate: makes the tables where there are none. The log is copied, so this needs its room once more.
    """
    if connection.dialect.name == "sqlite":  # else it refuses to rename what a view of the user's own reads
        connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    there = set(sa.inspect(connection).get_table_names())
    for view in VIEWS:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {view}")
    for table in (*DERIVED, VERSION_TABLE):
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    kept = [table for table in LOG if table in there]
    for table in kept:
        _put_aside(connection, table)
    migrate(connection)
    for table in kept:
        before, now = (
            [column["name"] for column in sa.inspect(connection).get_columns(name)] for name in (f"{_ASIDE}{table}", table)
        )
        columns = ", ".join(name for name in now if name in before)
        connection.exec_driver_sql(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {_ASIDE}{table}")
        connection.exec_driver_sql(f"DROP TABLE {_ASIDE}{table}")
    connection.exec_driver_sql("INSERT INTO pending (stream_id, position) SELECT stream_id, position FROM heads")


def _put_aside(connection: sa.Connection, table: str) -> None:
    """Rename a table; the names of its indexes are to be free, too."""
    connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {_ASIDE}{table}")
    for index in connection.execute(sa.text(_INDEXES_OF[connection.dialect.name]), {"table": _ASIDE + table}).scalars().all():
        connection.exec_driver_sql(_FREE[connection.dialect.name].format(index=index, aside=_ASIDE))


def _indexes(metadata: sa.MetaData) -> list[sa.Index]:
    return [index for table in metadata.tables.values() for index in table.indexes]


_ASIDE = "before_"

LOG = ("streams", "events", "heads", "writers")

DERIVED = (
    *(
        "anomalies",
        "call_keys",
        "checkpoints",
        "costs",
        "costs_hourly",
        "failures",
        "folds",
        "messages",
        "pending",
        "pending_sums",
    ),
    *("pending_sums", "run_steps", "runs", "session_streams", "sessions", "silences", "tool_answers", "tool_calls"),
    *("usage_daily", "usage_hourly", "usage_totals"),
)
"""All others, and those that there were."""

VIEWS = ("v_failures", "v_gaps", "v_runs", "v_steps", "v_streams", "v_tool_calls", "v_usage_daily", "v_usage_hourly")

_CATALOGUE = {
    "sqlite": "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    " UNION ALL SELECT m.name, c.name FROM sqlite_master m JOIN pragma_index_info(m.name) c WHERE m.type = 'index'",
    "postgresql": "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
    " WHERE c.relkind IN ('r', 'p', 'i', 'I') AND a.attnum > 0 AND NOT a.attisdropped AND pg_table_is_visible(c.oid)"
    " AND c.relnamespace <> 'pg_catalog'::regnamespace",
}

_INDEXES_OF = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql IS NOT NULL",
    "postgresql": "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = to_regclass(:table)",
}

_FREE = {"sqlite": "DROP INDEX {index}", "postgresql": "ALTER INDEX {index} RENAME TO {aside}{index}"}
