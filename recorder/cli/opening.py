"""Opening the database for a command, and bringing the read models up to date before a question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
import sqlalchemy as sa

from recorder import database
from recorder.cli.output import Progress, note
from recorder.errors import DatabaseError
from recorder.projections import runner


@contextmanager
def opened(url: str, *, create: bool = False, fresh: bool = False) -> Iterator[sa.Engine]:
    """An engine for a command; a driver's error comes out as a DatabaseError.

    create: make or upgrade a SQLite file. fresh: catch up first, for a question that must see what was recorded last.
    """
    engine = database.connect(url) if create else _existing(url)
    try:
        if fresh:
            freshen(engine)
        yield engine
    except sa.exc.DBAPIError as error:
        raise database.translated(error, database.shown(engine)) from None
    finally:
        engine.dispose()


def freshen(engine: sa.Engine) -> None:
    """Project what is pending. Where that cannot be written, answers are as old as the read models: say how much."""
    try:
        with Progress("catching up", "events", total=runner.behind(engine)) as progress:
            runner.catch_up(engine, progress.advance)
    except sa.exc.OperationalError as error:
        reason = database.translated(error, database.shown(engine))
        note(f"the answer lacks the last {runner.behind(engine):,} events: {reason}")
    except sa.exc.InternalError as error:
        note(f"the answer lacks the last {runner.behind(engine):,} events: {database.translated(error, database.shown(engine))}")


def _existing(url: str) -> sa.Engine:
    """An existing database; an older SQLite schema is upgraded on use."""
    try:
        return database.connect(url, create=False)
    except DatabaseError as error:
        if "older schema" not in str(error) or not url.startswith("sqlite"):
            raise
        return database.connect(url, create=True)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of a table.")
