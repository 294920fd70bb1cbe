"""What usage and failures are asked by: how runs failed, when they were, what else they used, sums by day, and the views."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from recorder.database import UTCTime

revision = "0004"
down_revision = "0003"

StreamID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")

COUNTERS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens", "total_tokens")

ADDED: dict[str, dict[str, Any]] = {
    "runs": {
        **dict.fromkeys(("label", "usage_source", "failure_kind", "failure_code", "failure_message"), sa.Text()),
        **dict.fromkeys(("began_at", "ended_at"), UTCTime()),
        **dict.fromkeys(("tool_calls", "anomalies"), sa.Integer()),
        **dict.fromkeys(("cache_write_tokens", "first_event_us", "first_text_us", "duration_us"), sa.BigInteger()),
    },
    "run_steps": {
        "tool_calls": sa.Integer(),
        **dict.fromkeys(("cache_write_tokens", "first_us", "last_us"), sa.BigInteger()),
    },
    "tool_calls": {"arguments_bytes": sa.BigInteger(), "output_bytes": sa.BigInteger(), "failed": sa.Boolean()},
    "session_streams": {"longest_gap_us": sa.BigInteger(), "stalls": sa.Integer()},
    "sessions": {
        "runs_without_usage": sa.Integer(),
        **{name: sa.BigInteger() for name in COUNTERS if name != "total_tokens"},
    },
    "usage_hourly": {"cache_write_tokens": sa.BigInteger()},
}

INDEXES = {
    "runs_began_at": ("runs", ["began_at"]),
    "runs_model": ("runs", ["model", "began_at", "session_id"]),
    "runs_status": ("runs", ["status", "state", "session_id"]),
    "runs_thread_id": ("runs", ["thread_id"]),
    "ix_session_streams_thread_id": ("session_streams", ["thread_id"]),
    "runs_usage": ("runs", ["hour", "protocol", "model", "assistant_id", *COUNTERS, "run_key"]),
    "runs_session": ("runs", ["session_id", "failed", "state", *COUNTERS, "run_key"]),
    "sessions_label": ("sessions", ["label", "last_started_at"]),
    "sessions_failed": ("sessions", ["failed", "last_started_at"]),
}

BEFORE = {
    "runs_usage": ("runs", ["hour", "protocol", "model", "assistant_id", *(name for name in COUNTERS if "write" not in name)]),
    "runs_session": ("runs", ["session_id", "failed", "state", "total_tokens"]),
}


def upgrade() -> None:
    for name, (table, _) in BEFORE.items():
        op.drop_index(name, table_name=table)
    for table, columns in ADDED.items():
        for name, type in columns.items():
            op.add_column(table, sa.Column(name, type, nullable=True))
    for name, (table, keys) in INDEXES.items():
        op.create_index(name, table, keys, unique=False)
    op.create_table(
        "failures",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("at", UTCTime(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("code", "message", "status", "run_id")),
        sa.Column("session_id", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("label", "protocol", "model", "tool")),
        sa.PrimaryKeyConstraint("run_key", "stream_id"),
    )
    op.create_index("failures_at", "failures", ["at"], unique=False)
    op.create_index("failures_stream_id", "failures", ["stream_id"], unique=False)
    op.create_index("failures_kind", "failures", ["kind", "code", "model", "tool", "at"], unique=False)
    op.create_table(
        "silences",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("offset_us", sa.BigInteger(), nullable=False),
        sa.Column("gap_us", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "position"),
    )
    op.create_index("silences_gap_us", "silences", ["gap_us"], unique=False)
    for name, keys in (("usage_daily", ["day", "protocol", "model", "assistant_id"]), ("usage_totals", ["hour"])):
        op.create_table(
            name,
            sa.Column(keys[0], UTCTime() if keys[0] == "hour" else sa.Text(), nullable=False),
            *(sa.Column(key, sa.Text(), nullable=False) for key in keys[1:]),
            *(sa.Column(each, sa.BigInteger(), nullable=False) for each in ("runs", "runs_without_usage")),
            *(sa.Column(each, sa.BigInteger(), nullable=True) for each in COUNTERS),
            sa.PrimaryKeyConstraint(*keys),
        )


def downgrade() -> None:
    for table in ("usage_totals", "usage_daily", "silences", "failures"):
        op.drop_table(table)
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
    for table, columns in ADDED.items():
        for name in columns:
            op.drop_column(table, name)
    for name, (table, keys) in BEFORE.items():
        op.create_index(name, table, keys, unique=False)
