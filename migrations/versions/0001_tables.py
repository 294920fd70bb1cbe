"""The tables of the log and of the read model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from recorder.database import UTCTime

revision = "0001"
down_revision = None

StreamID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "anomalies",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_key", "stream_id", "ordinal"),
    )
    op.create_index("anomalies_stream_id", "anomalies", ["stream_id"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("offset_us", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.Column("cuts", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("stream_id", "position"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "folds",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("fold_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "run_key"),
    )
    op.create_index("folds_run_key", "folds", ["run_key"], unique=False)
    op.create_index(op.f("ix_folds_fold_version"), "folds", ["fold_version"], unique=False)
    op.create_table(
        "heads",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("ended_at", UTCTime(), nullable=True),
        sa.Column("crc", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_heads_ended_at"), "heads", ["ended_at"], unique=False)
    op.create_table(
        "messages",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("thread_id", sa.Text(), nullable=True),
        sa.Column("assistant_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("created_at", UTCTime(), nullable=True),
        sa.Column("completed_at", UTCTime(), nullable=True),
        sa.Column("incomplete_at", UTCTime(), nullable=True),
        sa.Column("incomplete_reason", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_key", "message_id"),
    )
    op.create_index("messages_message_id", "messages", ["message_id"], unique=False)
    op.create_table(
        "pending",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pending_sums",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key"),
    )
    op.create_table(
        "run_steps",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("step_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("thread_id", sa.Text(), nullable=True),
        sa.Column("assistant_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("status_derived", sa.Boolean(), nullable=False),
        sa.Column("created_at", UTCTime(), nullable=True),
        sa.Column("expires_at", UTCTime(), nullable=True),
        sa.Column("expired_at", UTCTime(), nullable=True),
        sa.Column("completed_at", UTCTime(), nullable=True),
        sa.Column("failed_at", UTCTime(), nullable=True),
        sa.Column("cancelled_at", UTCTime(), nullable=True),
        sa.Column("last_error_code", sa.Text(), nullable=True),
        sa.Column("last_error_message", sa.Text(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_key", "step_id"),
    )
    op.create_index("run_steps_step_id", "run_steps", ["step_id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("protocol", sa.Text(), nullable=True),
        sa.Column("thread_id", sa.Text(), nullable=True),
        sa.Column("assistant_id", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("created_at", UTCTime(), nullable=True),
        sa.Column("started_at", UTCTime(), nullable=True),
        sa.Column("expires_at", UTCTime(), nullable=True),
        sa.Column("completed_at", UTCTime(), nullable=True),
        sa.Column("failed_at", UTCTime(), nullable=True),
        sa.Column("cancelled_at", UTCTime(), nullable=True),
        sa.Column("last_error_code", sa.Text(), nullable=True),
        sa.Column("last_error_message", sa.Text(), nullable=True),
        sa.Column("incomplete_reason", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("required_action_type", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("streams", sa.Integer(), nullable=False),
        sa.Column("first_delta_us", sa.BigInteger(), nullable=True),
        sa.Column("hour", UTCTime(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_key"),
    )
    op.create_index("runs_run_id", "runs", ["run_id"], unique=False)
    op.create_index("runs_session", "runs", ["session_id", "failed", "state", "total_tokens"], unique=False)
    op.create_index(
        "runs_usage",
        "runs",
        [
            "hour",
            "protocol",
            "model",
            "assistant_id",
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "total_tokens",
        ],
        unique=False,
    )
    op.create_table(
        "session_streams",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("thread_id", sa.Text(), nullable=True),
        sa.Column("protocol", sa.Text(), nullable=True),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("started_at", UTCTime(), nullable=False),
        sa.Column("first_event_us", sa.BigInteger(), nullable=True),
        sa.Column("last_us", sa.BigInteger(), nullable=False),
        sa.Column("runs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
    )
    op.create_index(op.f("ix_session_streams_session_id"), "session_streams", ["session_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("thread_id", sa.Text(), nullable=True),
        sa.Column("streams", sa.Integer(), nullable=False),
        sa.Column("open_streams", sa.Integer(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("unknown", sa.Integer(), nullable=False),
        sa.Column("anomalies", sa.Integer(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("started_at", UTCTime(), nullable=False),
        sa.Column("last_started_at", UTCTime(), nullable=False),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_index("sessions_last_started_at", "sessions", ["last_started_at"], unique=False)
    op.create_table(
        "streams",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("request_headers", sa.Text(), nullable=False),
        sa.Column("request_body", sa.LargeBinary(), nullable=True),
        sa.Column("session_label", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("started_at", UTCTime(), nullable=False),
        sa.Column("recorded_at", UTCTime(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_streams_recorded_at"), "streams", ["recorded_at"], unique=False)
    op.create_table(
        "tool_calls",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("step_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("tool_call_id", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("arguments", sa.Text(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("child_run_id", sa.Text(), nullable=True),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_key", "step_id", "ordinal"),
    )
    op.create_index("tool_calls_tool_call_id", "tool_calls", ["tool_call_id"], unique=False)
    op.create_table(
        "usage_hourly",
        sa.Column("hour", UTCTime(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("assistant_id", sa.Text(), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("runs_without_usage", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hour", "protocol", "model", "assistant_id"),
    )


def downgrade() -> None:
    op.drop_table("usage_hourly")
    op.drop_index("tool_calls_tool_call_id", table_name="tool_calls")
    op.drop_table("tool_calls")
    op.drop_index(op.f("ix_streams_recorded_at"), table_name="streams")
    op.drop_table("streams")
    op.drop_index("sessions_last_started_at", table_name="sessions")
    op.drop_table("sessions")
    op.drop_index(op.f("ix_session_streams_session_id"), table_name="session_streams")
    op.drop_table("session_streams")
    op.drop_index("runs_usage", table_name="runs")
    op.drop_index("runs_session", table_name="runs")
    op.drop_index("runs_run_id", table_name="runs")
    op.drop_table("runs")
    op.drop_index("run_steps_step_id", table_name="run_steps")
    op.drop_table("run_steps")
    op.drop_table("pending_sums")
    op.drop_table("pending")
    op.drop_index("messages_message_id", table_name="messages")
    op.drop_table("messages")
    op.drop_index(op.f("ix_heads_ended_at"), table_name="heads")
    op.drop_table("heads")
    op.drop_index(op.f("ix_folds_fold_version"), table_name="folds")
    op.drop_index("folds_run_key", table_name="folds")
    op.drop_table("folds")
    op.drop_table("events")
    op.drop_table("checkpoints")
    op.drop_index("anomalies_stream_id", table_name="anomalies")
    op.drop_table("anomalies")
