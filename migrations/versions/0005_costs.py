"""What runs cost, and the sums of that by hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from recorder.database import UTCTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "costs",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("price_date", sa.Text(), nullable=True),
        sa.Column("price_model", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "costs_hourly",
        sa.Column("hour", UTCTime(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("protocol", "model", "assistant_id")),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("cost_nusd", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "protocol", "model", "assistant_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("costs_hourly")
    op.drop_table("costs")
