"""`recorder db upgrade|current`"""

from __future__ import annotations

import click
import sqlalchemy as sa

from recorder import database, views
from recorder.cli.output import echo, emit, note
from recorder.errors import DatabaseError, ReadOnlyError


@click.group("db")
def command() -> None:
    """The schema: bring it up to date, or say what it is."""


@command.command()
@click.pass_obj
def upgrade(db: str) -> None:
    """Create the tables, or bring them to this recorder's version."""
    assert views.VIEWS  # with them all tables are known, and what a database lacks of them
    database.refuse_in_memory(db)
    engine = database.engine(db, create=True)
    try:
        database.check(engine, upgrade=True)
    except sa.exc.DBAPIError as error:
        raise database.translated(error, database.shown(engine)) from None
    finally:
        engine.dispose()
    note(f"{database.shown(engine)} is at schema {database.SCHEMA_VERSION}")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def current(db: str, as_json: bool) -> int:
    """Say which schema the database has. Exit 1 where it is not this recorder's."""
    try:
        name, version = _version(db, read_only=False)
    except ReadOnlyError:
        name, version = _version(db, read_only=True)
    if version is None:
        raise DatabaseError(f"{name} has no tables of recorder; run `recorder db upgrade`")
    if as_json:
        emit({"version": version, "newest": database.SCHEMA_VERSION})
    else:
        echo(version + ("" if version == database.SCHEMA_VERSION else f" (this recorder has {database.SCHEMA_VERSION})"))
    return 0 if version == database.SCHEMA_VERSION else 1


def _version(db: str, *, read_only: bool) -> tuple[str, str | None]:
    """The database as messages name it, and its schema. read_only: as it stands, where nothing can be written beside it."""
    engine = database.engine(db, create=False, read_only=read_only, immutable=read_only)
    try:
        return database.shown(engine), database.current_version(engine)
    except sa.exc.DBAPIError as error:
        raise database.translated(error, database.shown(engine)) from None
    finally:
        engine.dispose()
