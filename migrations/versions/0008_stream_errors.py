"""The view of streams says the code and words of a failure as the view of failures does."""

from __future__ import annotations

from alembic import op

from recorder import views

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    views.create(op.get_bind())


def downgrade() -> None:
    """The view reads no column that was not there before."""
