"""Opening the database for a command, and bringing the read models up to date before a question."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

from recorder import database, log
from recorder.cli.output import Progress, counted, note
from recorder.collect.lease import mark_lost
from recorder.collect.streamid import new_stream_id
from recorder.errors import Busy
from recorder.projections import runner
from recorder.projections.turn import PATIENCE_SECONDS

Result = TypeVar("Result")


@contextmanager
def opened(url: str, *, create: bool = False, fresh: bool = False, reads: bool = False) -> Iterator[sa.Engine]:
    """An engine for a command; a driver's error comes out as a DatabaseError.

    create: make or upgrade a SQLite file. fresh: catch up first, for a question that must see what was recorded last. reads: it
    only reads, as all that are fresh, so that it is content with a database that cannot be written.
    """
    database.refuse_in_memory(url)
    engine = database.connect(url) if create else database.connect_existing(url, read_only=fresh or reads)
    try:
        if fresh:
            freshen(engine)
        yield engine
    except sa.exc.DBAPIError as error:
        raise database.translated(error, database.shown(engine)) from None
    finally:
        engine.dispose()


def check_writable(engine: sa.Engine) -> None:
    """Write something and take it back: what cannot be recorded is to be said before anything is asked, not afterwards."""
    with engine.connect() as connection:
        connection = connection.execution_options(**database.WRITING)
        with connection.begin() as transaction:
            log.insert_streams(connection, [log.Stream(new_stream_id())])
            transaction.rollback()


def freshen(engine: sa.Engine) -> None:
    """End the streams whose recorder died, and project what is pending.

    Where that cannot be written, answers are as old as the read models: say how much.
    """
    _mark_lost(engine)
    try:
        with Progress("catching up", "events", total=runner.behind(engine)) as progress:
            runner.catch_up(engine, progress.advance, patience=PATIENCE_SECONDS)
            return
    except Busy as busy:
        why: Exception = busy
    except sa.exc.DBAPIError as error:
        if database.is_about_data(error):
            raise
        why = database.translated(error, database.shown(engine))
    if missing := runner.behind(engine):
        note(f"the answer lacks the last {missing:,} events: {why}")


class Following:
    """The passes of a command that goes on until it is interrupted: a database that fails meanwhile ends none."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._failing = False

    def passed(self, once: Callable[[], Result]) -> Result | None:
        """What a pass found; None where the database failed, which is said once."""
        try:
            found = once()
        except sa.exc.DBAPIError as error:
            if database.is_about_data(error):
                raise
            if not self._failing:
                note(f"{database.translated(error, database.shown(self._engine))}: trying again")
            self._failing = True
            time.sleep(_RETRY_SECONDS)
            return None
        if self._failing:
            note(f"{database.shown(self._engine)} answers again")
        self._failing = False
        return found


_RETRY_SECONDS = 0.5


def _mark_lost(engine: sa.Engine) -> None:
    """Where it cannot be written, the streams stay open in the answer: unknown, which is true."""
    try:
        lost = mark_lost(engine)
    except sa.exc.DBAPIError as error:
        if database.is_about_data(error):
            raise
        return
    if lost:
        note(f"{counted(lost, 'stream')} of a recorder that died {'are' if lost > 1 else 'is'} marked as lost")
