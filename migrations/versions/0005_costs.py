"""What runs cost, and that in the sums of usage and sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from recorder import views

revision = "0005"
down_revision = "0004"

SUMS = ("usage_hourly", "usage_daily", "usage_totals", "sessions")


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
    for table in SUMS:
        for name in ("runs_with_cost", "cost_nusd"):
            op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=True))
    views.create(op.get_bind())


def downgrade() -> None:
    views.drop(op.get_bind())
    for table in SUMS:
        for name in ("runs_with_cost", "cost_nusd"):
            op.drop_column(table, name)
    op.drop_table("costs")
