"""A question to a SQLite file without SQLAlchemy, which takes longer to load than a small file takes to answer.

Only if the file is as the question needs it: of this version, with nothing to project and nobody's streams to end. Else the
ordinary way (opening.py) does what there is to do, or says what is wrong.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from recorder.process import lives, machine
from recorder.schema import SCHEMA_VERSION, VERSION_TABLE
from recorder.session_list import Ask

Answer = TypeVar("Answer")

_SCHEME = "sqlite:///"
_PRICES = "RECORDER_PRICES"

_CURRENT = f"""
SELECT (SELECT max(version_num) FROM {VERSION_TABLE}) = :schema
   AND NOT EXISTS (SELECT 1 FROM pending)
   AND NOT EXISTS (SELECT 1 FROM pending_sums WHERE kind <> 'cost' OR :prices)
   AND coalesce((SELECT min(fold_version) FROM folds) = :folds AND (SELECT max(fold_version) FROM folds) = :folds, 1)
"""
_WRITERS = "SELECT machine, pid, process_started FROM writers"


def asked(url: str, question: Callable[[Ask], Answer]) -> Answer | None:
    """What a question is answered with; None if it must be asked the ordinary way."""
    file = Path(url.removeprefix(_SCHEME))
    if not url.startswith(_SCHEME) or "?" in url or not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            return question(_asking(connection)) if _is_current(connection) else None
    except (sqlite3.Error, UnicodeError):
        return None


def _asking(connection: sqlite3.Connection) -> Ask:
    def ask(statement: str, given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found = connection.execute(statement, given)
        names = [column[0] for column in found.description]
        return [dict(zip(names, values, strict=True)) for values in found]

    return ask


def time(at: datetime | None) -> str | None:
    """A time as SQLite has it."""
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _is_current(connection: sqlite3.Connection) -> bool:
    from importlib.util import find_spec

    from recorder.protocols import FOLD_VERSION

    has_prices = bool(os.environ.get(_PRICES)) or find_spec("genai_prices") is not None
    given = {"schema": SCHEMA_VERSION, "folds": FOLD_VERSION, "prices": has_prices}
    if connection.execute(_CURRENT, given).fetchone()[0] != 1:
        return False
    return all(place == machine() and lives(pid, started) for place, pid, started in connection.execute(_WRITERS))
