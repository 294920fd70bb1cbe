"""What is exported: each table of the log and of the read model, and each view, read day by day and the same from both databases.

A row is of the day, in UTC, of its hour or time; what belongs to a run is of its run's day, and what is keyed by a stream is of
the day on which that began. So a day is read by an index, and events in the order of their key: nothing is sorted that is larger
than a day, and no more is held than some hundred rows. The caller's transaction says what state is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder.database import UTCTime
from recorder.errors import UnknownID
from recorder.log import LOG_TABLES, events, heads, streams
from recorder.projections import READ_MODEL
from recorder.projections.runs import runs
from recorder.views import VIEWS

BATCH = 250
"""Rows that are read at a time."""

Row = Sequence[Any]
"""The values of a row as they are for both databases, by the kind of their columns; see KINDS."""

KINDS = ("time", "flag", "integer", "double", "bytes", "text")
"""Of a column. A row has a time as text, `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, and a flag as 0 or 1."""


class Relation(NamedTuple):
    """A table or a view. day: the column by which its rows have a day: a time, a day as text, or a stream's id.

    key: what orders the rows of a day. Without such a column day is None.
    """

    name: str
    select: sa.Select[Any]
    day: sa.Column[Any] | None
    key: tuple[sa.Column[Any], ...]

    @property
    def kinds(self) -> dict[str, str]:
        """{column: its kind}"""
        return {column.name: _kind(column.type) for column in self.select.selected_columns}

    def without(self, name: str) -> Relation:
        """The same without a column, where it has it."""
        kept = [column for column in self.select.selected_columns if column.name != name]
        return self._replace(select=self.select.with_only_columns(*kept))


class Part(NamedTuple):
    """The rows of one day, which is None where they have none."""

    day: str | None
    batches: Iterator[Sequence[Row]]


class Reader:
    """Reads relations through a connection, all in the state that its transaction sees."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def parts(self, relation: Relation) -> Iterator[Part]:
        """The rows by their days, in order. A part may turn out to be empty; each is to be read before the next."""
        order = [_ordered(self._connection, column) for column in relation.key]
        chosen = relation.select.with_only_columns(
            *(_selected(self._connection, column) for column in relation.select.selected_columns)
        ).order_by(*order)
        for day, conditions in self._days(relation):
            yield Part(day, self._batches([chosen.where(condition) for condition in conditions]))

    def rows(self, relation: Relation) -> Iterator[Sequence[Row]]:
        """All rows, the days in order."""
        for part in self.parts(relation):
            yield from part.batches

    def count(self, relation: Relation) -> int:
        """How many rows there are; of events by their heads, so as not to read them."""
        if relation.name == events.name:
            counted = sa.select(sa.func.coalesce(sa.func.sum(heads.c.position + 1), 0))
        else:
            counted = sa.select(sa.func.count()).select_from(relation.select.subquery())
        return int(self._connection.execute(counted).scalar_one())

    def _batches(self, chosen: list[sa.Select[Any]]) -> Iterator[Sequence[Row]]:
        for one in chosen:
            yield from self._connection.execute(one.execution_options(yield_per=BATCH)).partitions()

    def _days(self, relation: Relation) -> Iterator[tuple[str | None, list[sa.ColumnElement[bool]]]]:
        """Each day with the conditions that find its rows, one after the other."""
        column = relation.day
        if column is None:
            yield None, [sa.true()]
        elif column.name == streams.c.stream_id.name:
            for day, ranges in self._ranges.items():
                yield day, [_within(column, first, below) for first, below in ranges]
        else:
            said = _day(self._connection, column)
            for day in sorted(self._connection.execute(sa.select(said).where(column.is_not(None)).distinct()).scalars()):
                yield day, [_on(column, day)]
            if column.nullable or any(key.table is not column.table for key in relation.key):
                yield None, [column.is_(None)]

    @cached_property
    def _ranges(self) -> dict[str | None, list[tuple[str | None, str | None]]]:
        """{day: ranges of the ids of the streams that began on it}, each from its first id up to and without the next range's.

        Ids sort by time, so a day is one range or a few. They leave nothing out: no id is in none of them.
        """
        said = _day(self._connection, streams.c.started_at)
        chosen = sa.select(streams.c.stream_id, said).order_by(streams.c.stream_id)
        begun: list[tuple[str | None, str | None]] = []
        for stream_id, day in self._connection.execute(chosen.execution_options(yield_per=BATCH)):
            if not begun or begun[-1][1] != day:
                begun.append((stream_id if begun else None, day))
        begun = begun or [(None, None)]
        found: dict[str | None, list[tuple[str | None, str | None]]] = {}
        for (first, day), (below, _) in zip(begun, [*begun[1:], (None, None)], strict=True):
            found.setdefault(day, []).append((first, below))
        return dict(sorted(found.items(), key=lambda item: item[0] or ""))


def named(name: str) -> Relation:
    """The table or view of this name. Raises UnknownID."""
    if name not in RELATIONS:
        raise UnknownID(f"{name!r} is no table or view; there are {', '.join(RELATIONS)}")
    return RELATIONS[name]


def _kind(type: sa.types.TypeEngine[Any]) -> str:
    if isinstance(type, UTCTime):
        return "time"
    return next(
        kind
        for kind, of in (
            ("flag", sa.Boolean),
            ("integer", sa.Integer),
            ("double", sa.Float),
            ("bytes", sa.LargeBinary),
            ("text", sa.String),
        )
        if isinstance(type, of)
    )


def _selected(connection: sa.Connection, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A column as both databases are to give it."""
    kind, name = _kind(column.type), column.name
    chosen: sa.ColumnElement[Any]
    if kind == "time":
        chosen = _time(connection, column, "YYYY-MM-DD HH24:MI:SS.US")
    elif kind == "flag":
        chosen = sa.cast(column, sa.Integer)
    elif kind == "text":
        chosen = sa.cast(column, sa.Text)  # a stream's id is no text to PostgreSQL
    else:
        chosen = column
    return chosen.label(name)


def _time(connection: sa.Connection, column: sa.ColumnElement[Any], form: str) -> sa.ColumnElement[str]:
    """A time as text. form: PostgreSQL's; SQLite has it as text already, in the longest of them."""
    if connection.dialect.name == "sqlite":
        return sa.type_coerce(column, sa.Text)
    return sa.func.to_char(sa.func.timezone("UTC", column), form, type_=sa.Text)


def _day(connection: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[str]:
    if _kind(column.type) != "time":
        return column
    return sa.func.substr(_time(connection, column, "YYYY-MM-DD"), 1, 10)


def _on(column: sa.Column[Any], day: str) -> sa.ColumnElement[bool]:
    if _kind(column.type) != "time":
        return column == day
    begins = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return column.between(begins, begins + (timedelta(days=1) - timedelta(microseconds=1)))


def _within(column: sa.Column[Any], first: str | None, below: str | None) -> sa.ColumnElement[bool]:
    lower = sa.true() if first is None else column >= first
    return lower if below is None else sa.and_(lower, column < below)


def _ordered(connection: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The same order of text on both databases."""
    is_text = _kind(column.type) == "text" and column.name != streams.c.stream_id.name
    return column.collate("C") if is_text and connection.dialect.name == "postgresql" else column


def _day_of(table: sa.Table) -> sa.Column[Any] | None:
    """The column by which the rows of a table have a day."""
    keys = {column.name for column in table.primary_key}
    for name, has in (
        ("hour", "hour" in table.c),
        ("day", "day" in table.c),
        ("at", "at" in table.c),
        ("stream_id", "stream_id" in keys),
        ("started_at", "started_at" in table.c),
    ):
        if has:
            return table.c[name]
    return runs.c.hour if "run_key" in keys else None


def _relation(name: str, table: sa.Table, select: sa.Select[Any]) -> Relation:
    """table: the one that has a row for each of the relation's."""
    day = _day_of(table)
    keys = [column for column in table.primary_key if column is not day]
    return Relation(name, select, day, tuple(keys if day is None else [day, *keys]))


def _of_table(table: sa.Table) -> Relation:
    select = sa.select(table)
    if _day_of(table) is runs.c.hour and table is not runs:
        select = select.outerjoin(runs, runs.c.run_key == table.c.run_key)
    return _relation(table.name, table, select)


def _of_view(name: str, select: sa.Select[Any]) -> Relation:
    table = select.get_final_froms()[0]
    while isinstance(table, sa.Join):
        table = table.left
    assert isinstance(table, sa.Table), name
    return _relation(name, table, select)


RELATIONS = {
    **{table.name: _of_table(table) for table in (*LOG_TABLES, *READ_MODEL)},
    **{name: _of_view(name, view.select) for name, view in VIEWS.items()},
}
