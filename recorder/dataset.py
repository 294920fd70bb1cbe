"""Tables and views as files: one of them as one file, or all as a folder with a file for each day, in the layout of Hive.

What stands under its final name is whole: a file is written under another name first, and a folder of files is made beside the
ones it replaces.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

import sqlalchemy as sa

from recorder import private
from recorder.csvfile import CSVFile
from recorder.errors import RecorderError
from recorder.relations import RELATIONS, Reader, Relation, Row

FORMATS = ("parquet", "csv")

CSV_SAFE = "csv-safe"
"""CSV for a spreadsheet, which runs no cell of it; its files are named as those of CSV."""

UNDATED = "__HIVE_DEFAULT_PARTITION__"
"""What Hive calls the partition of null: the day of what has none."""

_WORKING = ".export"  # in the folder: what is not whole yet, and what it has replaced
_OURS = re.compile(r"part-\d+\.(parquet|csv)")

Advance = Callable[[str, int], None]
"""Told the name of what is written and how many rows of it have been, since it was told last."""


class Format(Protocol):
    """A file that takes rows (relations.Row); what it is not given before it is closed is not in it."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def format_named(form: str) -> Callable[[BinaryIO, Mapping[str, str]], Format]:
    """What writes a format of FORMATS. Raises RecorderError where its library is missing."""
    if form == "csv":
        return CSVFile
    if form == CSV_SAFE:
        return partial(CSVFile, safe=True)
    try:
        from recorder.parquet import ParquetFile
    except ModuleNotFoundError:
        raise RecorderError("Parquet needs a library of its own: pip install 'runstep-recorder[parquet]'") from None
    return ParquetFile


def write_table(connection: sa.Connection, relation: Relation, form: str, file: BinaryIO, advance: Advance) -> None:
    """All rows of a table or view, the days in order."""
    _write(relation, form, file, Reader(connection).rows(relation), advance)


def write_file(connection: sa.Connection, relation: Relation, form: str, path: Path, advance: Advance) -> None:
    """The same into a file, which is replaced once all is written; a pipe or device is written to as it is."""
    direct = path.exists() and not path.is_file()
    unfinished = path if direct else path.with_name(f".{path.name}.partial")
    try:
        with private.writing(unfinished, like=None if direct else path) as file:
            write_table(connection, relation, form, file, advance)
        if not direct:
            unfinished.replace(path)
    finally:
        if not direct:
            unfinished.unlink(missing_ok=True)


def write_folder(connection: sa.Connection, form: str, folder: Path, advance: Advance) -> int:
    """All tables and views as `NAME/day=YYYY-MM-DD/part-0.FORM` in a folder; how many rows.

    The day is in the folder's name alone, also where the rows have such a column. A table without rows has a file without rows.
    What an export left there before is replaced when all is written, table by table. Raises RecorderError where something else
    is in the way, or another export at work.
    """
    private.folder(folder)
    with _alone(folder):
        for name in RELATIONS:
            _check_ours(folder / name)
        working = folder / _WORKING
        shutil.rmtree(working, ignore_errors=True)  # of an export that was killed
        try:
            reader = Reader(connection)
            rows = 0
            for name, relation in RELATIONS.items():
                rows += _write_parts(reader, relation, form, working / "new" / name, advance)
            private.folder(working / "old")
            for name in RELATIONS:
                if (folder / name).exists():
                    (folder / name).rename(working / "old" / name)
                (working / "new" / name).rename(folder / name)
        finally:
            shutil.rmtree(working, ignore_errors=True)
    return rows


def _write_parts(reader: Reader, relation: Relation, form: str, folder: Path, advance: Advance) -> int:
    """The files of a table or view by day; how many rows."""
    relation = relation.without("day")
    rows = 0
    for day, batches in reader.parts(relation):
        if (first := next(batches, None)) is not None:
            with _part(folder, day, form) as file:
                rows += _write(relation, form, file, chain([first], batches), advance)
    if not rows:
        with _part(folder, None, form) as file:
            _write(relation, form, file, (), advance)
    return rows


@contextmanager
def _part(folder: Path, day: str | None, form: str) -> Iterator[BinaryIO]:
    """A new file of a day, which gets its name when it is whole."""
    path = folder / f"day={day or UNDATED}" / f"part-0.{form.partition('-')[0]}"
    private.folder(path.parent)
    unfinished = path.with_name(f"{path.name}.partial")
    with private.writing(unfinished) as file:
        yield file
    unfinished.rename(path)


def _write(relation: Relation, form: str, file: BinaryIO, batches: Iterable[Sequence[Row]], advance: Advance) -> int:
    """Write rows to an open file; how many."""
    rows = 0
    written = format_named(form)(file, relation.kinds)
    for batch in batches:
        written.write(batch)
        rows += len(batch)
        advance(relation.name, len(batch))
    written.close()
    return rows


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other exports; the lock ends with the process."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RecorderError(f"another export is writing into {folder}; wait for it, or name another folder with -o") from None
    finally:
        os.close(held)


def _check_ours(folder: Path) -> None:
    """Raise RecorderError where a folder that would be replaced is none, or holds what no export made."""
    found = (path for path in folder.rglob("*") if not path.is_dir() and not _OURS.fullmatch(path.name))
    other = folder if folder.exists() and not folder.is_dir() else next(found, None)
    if other is not None:
        raise RecorderError(f"{other} is no part of an export and would be replaced; name another folder with -o")
