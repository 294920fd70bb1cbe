"""Runs the migrations on the connection that recorder hands over (recorder.database.migrate)."""

from __future__ import annotations

from alembic import context

from recorder.database import VERSION_TABLE, metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
