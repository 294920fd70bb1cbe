"""Foreign keys in SQLite files, so that tools that show the file can follow them. Recorder neither needs nor enforces them.

They are added to the schema's text, as SQLite's documentation says (lang_altertable.html, section 7): nothing is copied, whatever
is stored. PostgreSQL would check each insert, so it has none.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

KEYS = {
    "events": {"stream_id": "streams(stream_id)"},
    "heads": {"stream_id": "streams(stream_id)"},
    "session_streams": {"stream_id": "streams(stream_id)", "session_id": "sessions(session_id)"},
    "runs": {"session_id": "sessions(session_id)", "stream_id": "streams(stream_id)"},
    "run_steps": {"run_id": "runs(run_key)"},
    "tool_calls": {"run_id": "runs(run_key)"},
    "messages": {"run_id": "runs(run_key)"},
    "failures": {"run_id": "runs(run_key)", "stream_id": "streams(stream_id)", "session_id": "sessions(session_id)"},
    "silences": {"stream_id": "streams(stream_id)"},
    "anomalies": {"run_id": "runs(run_key)", "stream_id": "streams(stream_id)"},
    "costs": {"run_key": "runs(run_key)"},
}


def upgrade() -> None:
    _rewrite(lambda text, keys: f"{text[: text.rindex(')')]}{_clauses(keys)}{text[text.rindex(')') :]}")


def downgrade() -> None:
    _rewrite(lambda text, keys: text.replace(_clauses(keys), ""))


def _clauses(keys: dict[str, str]) -> str:
    return "".join(f", FOREIGN KEY({column}) REFERENCES {parent}" for column, parent in keys.items())


def _rewrite(change: Callable[[str, dict[str, str]], str]) -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    for table, keys in KEYS.items():
        own = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
        text = connection.execute(own, {"name": table}).scalar_one()
        set_to = sa.text("UPDATE sqlite_master SET sql = :text WHERE type = 'table' AND name = :name")
        connection.execute(set_to, {"text": change(text, keys), "name": table})
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
