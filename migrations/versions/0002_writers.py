"""Who writes a stream, and until when that one counts as alive."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from recorder.database import UTCTime

revision = "0002"
down_revision = "0001"

StreamID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    op.create_table(
        "writers",
        sa.Column("writer_id", StreamID, nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_started", sa.Text(), nullable=True),
        sa.Column("started_at", UTCTime(), nullable=False),
        sa.Column("renewed_at", UTCTime(), nullable=False),
        sa.Column("expires_at", UTCTime(), nullable=False),
        sa.PrimaryKeyConstraint("writer_id"),
    )
    op.add_column("streams", sa.Column("writer_id", StreamID, nullable=True))
    op.create_index(op.f("ix_streams_writer_id"), "streams", ["writer_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_streams_writer_id"), table_name="streams")
    op.drop_column("streams", "writer_id")
    op.drop_table("writers")
