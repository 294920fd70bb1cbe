"""Which output is of which call is told by what the conversation repeats, not by the call's id. Both are folded anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from recorder.database import StreamID, UTCTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.drop_table("tool_answers")
    op.create_table(
        "tool_answers",
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("started_at", UTCTime(), nullable=False),
        sa.Column("last", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "number", "level"),
    )
    op.create_index("tool_answers_key", "tool_answers", ["key", "started_at", "stream_id"], unique=False)
    op.create_table(
        "call_keys",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("stream_id", StreamID, nullable=False),
        sa.Column("began_at", UTCTime(), nullable=False),
        sa.PrimaryKeyConstraint("run_key", "key"),
    )
    op.create_index("call_keys_key", "call_keys", ["key", "began_at", "run_key", "stream_id"], unique=False)


def downgrade() -> None:
    op.drop_table("call_keys")
    op.drop_table("tool_answers")
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
