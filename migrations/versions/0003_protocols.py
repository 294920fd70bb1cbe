"""Runs of other protocols: the object that they came as, their effective status, and their places among other runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from recorder.database import UTCTime

revision = "0003"
down_revision = "0002"

StreamID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    for name in ("effective_status", "previous_run_id", "continued_run_id", "logical_run_id", "source_id", "source_object"):
        op.add_column("runs", sa.Column(name, sa.Text(), nullable=True))
    op.create_index(op.f("ix_runs_source_id"), "runs", ["source_id"], unique=False)
    op.add_column("runs", sa.Column("observed_at", UTCTime(), nullable=True))
    op.create_index(op.f("ix_runs_continued_run_id"), "runs", ["continued_run_id"], unique=False)
    op.add_column("session_streams", sa.Column("root_run_id", sa.Text(), nullable=True))
    op.create_index(op.f("ix_session_streams_root_run_id"), "session_streams", ["root_run_id"], unique=False)
    op.add_column("tool_calls", sa.Column("awaited", sa.Boolean(), nullable=True))
    op.create_table(
        "tool_answers",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("tool_call_id", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("previous_run_id", sa.Text(), nullable=True),
        sa.Column("started_at", UTCTime(), nullable=False),
        sa.Column("last", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "tool_call_id"),
    )
    op.create_index("tool_answers_tool_call_id", "tool_answers", ["tool_call_id"], unique=False)


def downgrade() -> None:
    op.drop_table("tool_answers")
    op.drop_column("tool_calls", "awaited")
    op.drop_index(op.f("ix_session_streams_root_run_id"), table_name="session_streams")
    op.drop_column("session_streams", "root_run_id")
    op.drop_index(op.f("ix_runs_continued_run_id"), table_name="runs")
    op.drop_index(op.f("ix_runs_source_id"), table_name="runs")
    names = ("source_object", "source_id", "logical_run_id", "continued_run_id", "previous_run_id", "effective_status")
    for name in ("observed_at", *names):
        op.drop_column("runs", name)
