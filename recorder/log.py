"""The event log: streams and their events, appended once and read in order.

Every key begins with stream_id and order is promised per stream only: a stream has one writer, so its positions are
gap-free without a lock or a sequence, and a reader finds what is new by `head > checkpoint`. A global order would lose
events under concurrent commits. Functions take a Connection first; the caller owns the transaction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from recorder import database, jsontext, sse
from recorder.database import StreamID, UTCTime, metadata
from recorder.errors import AppendConflict
from recorder.kind import is_lines

streams = sa.Table(
    "streams",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("request_headers", sa.Text, nullable=False),  # JSON [[name, value] …], the allowed ones
    sa.Column("request_body", sa.LargeBinary),
    sa.Column("session_label", sa.Text),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("started_at", UTCTime, nullable=False),
    sa.Column("recorded_at", UTCTime, nullable=False, index=True),
    sa.Column("writer_id", StreamID, index=True),  # who records it (collect/lease.py); null of an import
    sqlite_with_rowid=False,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("offset_us", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.Text),  # null where only bytes can hold it: type and data are then decoded from raw
    sa.Column("raw", sa.LargeBinary),  # null where encode(type, data) gives the bytes
    sa.Column("cuts", sa.Text),  # JSON [[byte, offset_us] …]
    sqlite_with_rowid=False,
)

heads = sa.Table(
    "heads",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("ended_at", UTCTime, index=True),  # a follower looks at what is open and at what ended lately
    sa.Column("crc", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

pending = sa.Table(
    "pending",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

writers = sa.Table(
    "writers",
    metadata,
    sa.Column("writer_id", StreamID, primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Text),  # tells a process from a later one with its pid; null where nobody says it
    sa.Column("started_at", UTCTime, nullable=False),
    sa.Column("renewed_at", UTCTime, nullable=False),
    sa.Column("expires_at", UTCTime, nullable=False),
)

LOG_TABLES = (streams, events, heads, pending, checkpoints)


class Stream(NamedTuple):
    """A row of `streams`. Times are aware UTC; request_headers are the allowed ones, request_body bytes."""

    stream_id: str
    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    request_headers: tuple[tuple[str, str], ...] = ()
    request_body: bytes | None = None
    session_label: str | None = None
    source: str = ""
    started_at: datetime = datetime.fromtimestamp(0, UTC)
    recorded_at: datetime = datetime.fromtimestamp(0, UTC)


class Event(NamedTuple):
    """An event as it is read: type and data always as text, raw only where it differs from the canonical bytes."""

    position: int
    offset_us: int
    type: str
    data: str
    raw: bytes | None
    cuts: sse.Cuts | None


class Head(NamedTuple):
    """How far a stream has come. outcome and ended_at are None while it is open."""

    position: int
    outcome: str | None
    ended_at: datetime | None
    crc: int


_LATEST = sa.select(sa.func.max(streams.c.recorded_at))
_LATEST_END = sa.select(sa.func.max(heads.c.ended_at))
_STREAMS = sa.select(*(streams.c[field] for field in Stream._fields))

Text = tuple[int, int, str, str]
"""Position, offset_us, type and data."""

OUTSIDE = "$outside"
"""The type of a text that is no event: lines within the event before it."""

Row = tuple[str, int, int, str, str | None, bytes | None, str | None]
"""A row of `events` as the driver takes it: stream_id, position, offset_us, type, data, raw, cuts."""

BLOCK = 50
"""Rows in one INSERT on SQLite: fewer and larger statements are a tenth faster than executemany alone."""

_COLUMNS = "events (stream_id, position, offset_us, type, data, raw, cuts)"
_INSERT = f"INSERT INTO {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_BLOCK = f"INSERT INTO {_COLUMNS} VALUES " + ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * BLOCK)
_COPY = f"COPY {_COLUMNS} FROM STDIN"
_UPSERT_HEADS = (
    "INSERT INTO heads (stream_id, position, outcome, ended_at, crc) VALUES (?, ?, ?, ?, ?) ON CONFLICT (stream_id) DO UPDATE SET"
    " position = excluded.position, outcome = excluded.outcome, ended_at = excluded.ended_at, crc = excluded.crc"
)
_HEADS = "SELECT stream_id, position, outcome, ended_at, crc FROM heads WHERE stream_id "
_CLAIM_HEADS = (
    "INSERT INTO heads (stream_id, position, crc) SELECT unnest(?::uuid[]), -1, 0"
    " ON CONFLICT (stream_id) DO UPDATE SET position = heads.position RETURNING stream_id, position, outcome, ended_at, crc"
)
_UPSERT_PENDING = (
    "INSERT INTO pending (stream_id, position) VALUES (?, ?) ON CONFLICT (stream_id) DO UPDATE SET position = excluded.position"
)
_READ = (
    "SELECT position, offset_us, type, data, raw, cuts FROM events WHERE stream_id = ? AND position > ? ORDER BY position LIMIT ?"
)

_READ_TEXTS = (
    "SELECT position, offset_us, type, data, raw FROM events WHERE stream_id = ? AND position > ? ORDER BY position LIMIT ?"
)

_position = itemgetter(1)

_pack = msgspec.msgpack.Encoder().encode


def row(stream_id: str, position: int, frame: sse.Frame) -> Row:
    """The row of a frame. Text that no database can hold whole (NUL, invalid UTF-8) stays in raw alone."""
    type, data, raw, offset_us, cuts, _, _ = frame
    if raw is None:
        return (stream_id, position, offset_us, type, data, None, jsontext.dumps(cuts) if cuts else None)
    _text, exact = sse.decode_text(raw)
    if not exact:
        name = type if "\0" not in type and "\ufffd" not in type else ""
        return (stream_id, position, offset_us, name, None, raw, jsontext.dumps(cuts) if cuts else None)
    return (stream_id, position, offset_us, type, data, raw, jsontext.dumps(cuts) if cuts else None)


def system_frame(type: str, data: dict[str, Any], offset_us: int) -> sse.Frame:
    """A `$response`, `$gap` or `$end`: its data is JSON and stands for no bytes."""
    return sse.Frame(type, jsontext.dumps(data), None, offset_us)


def insert_streams(connection: sa.Connection, new: Iterable[Stream], writer_id: str | None = None) -> None:
    """Insert streams; one that is there already stays as it is. writer_id: who goes on to append to them.

    What a writer records comes after what was recorded before, also where its clock says otherwise.
    """
    new = list(new)
    if new and writer_id is not None:
        latest = connection.execute(_LATEST).scalar()
        if latest is not None and any(stream.recorded_at <= latest for stream in new):
            later = latest + timedelta(microseconds=1)
            new = [stream._replace(recorded_at=max(stream.recorded_at, later)) for stream in new]
    rows = [
        {**stream._asdict(), "request_headers": jsontext.dumps(stream.request_headers), "writer_id": writer_id} for stream in new
    ]
    if rows:
        connection.execute(insert_missing(connection, streams), rows)


def insert_missing(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING; made from a SELECT, it wants a WHERE there (SQLite's grammar)."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import postgresql  # all its drivers' dialects: every command on a SQLite file would load them

    return postgresql.insert(table).on_conflict_do_nothing()


def append(connection: sa.Connection, batch: dict[str, list[Row]]) -> int:
    """Append rows to streams, each stream's in order and without a gap; how many were new.

    Idempotent: a position that is there with the same content is passed over. Raises AppendConflict where it has other
    content, or where positions would be missing before it.
    """
    batch = {stream_id: new for stream_id, new in batch.items() if new}
    known = _heads(connection, batch, claim=True)
    try:
        return _append(connection, batch, known)
    except AppendConflict:
        connection.execute(heads.delete().where(heads.c.stream_id.in_(list(batch)), heads.c.position == -1))  # claimed in vain
        raise


def _append(connection: sa.Connection, batch: dict[str, list[Row]], known: dict[str, Head]) -> int:
    rows: list[Row] = []
    updates: list[tuple[Any, ...]] = []
    now: Any = None
    for stream_id, new in batch.items():
        position, outcome, ended_at, crc = known.get(stream_id) or Head(-1, None, None, 0)
        if new and new[0][1] <= position:
            new = _unseen(connection, stream_id, new, position)
        if not new:
            continue
        if list(map(_position, new)) != list(range(position + 1, position + 1 + len(new))):
            raise AppendConflict(
                f"stream {stream_id} is at position {position}: cannot go on with {new[0][1]} to {new[-1][1]} ({len(new)} events)"
            )
        end = next((values for values in reversed(new) if values[3] == "$end"), None)
        if end is not None:
            outcome = outcome_of(end[4])
            now = ended_at = now or database.timestamp(connection, max(datetime.now(UTC), latest_end(connection)))
        updates.append((stream_id, new[-1][1], outcome, ended_at, checksum(new, crc)))
        rows += new
    if rows:
        if connection.dialect.name == "sqlite":
            whole = len(rows) - len(rows) % BLOCK
            _many(connection, _INSERT_BLOCK, [tuple(chain.from_iterable(rows[at : at + BLOCK])) for at in range(0, whole, BLOCK)])
            _many(connection, _INSERT, rows[whole:])
        else:
            with connection.connection.cursor().copy(_COPY) as copy:
                for values in rows:
                    copy.write_row(values)
        _many(connection, _UPSERT_HEADS, updates)
        _many(connection, _UPSERT_PENDING, sorted(update[:2] for update in updates))  # in the order in which projectors delete
    return len(rows)


def checksum(rows: Sequence[Row], crc: int = 0) -> int:
    """The running CRC-32 over rows, each as a MessagePack array: whoever changes one byte of one changes it."""
    packed = _pack(rows)
    header = 1 if len(rows) < 16 else 3 if len(rows) < 65536 else 5  # bytes of the outer array's, which depends on the batch
    return zlib.crc32(memoryview(packed)[header:], crc)


def head(connection: sa.Connection, stream_id: str) -> Head | None:
    found = _heads(connection, (stream_id,)).get(stream_id)
    if found is None or not isinstance(found.ended_at, str):
        return found
    return found._replace(ended_at=datetime.fromisoformat(found.ended_at).replace(tzinfo=UTC))


def read_rows(connection: sa.Connection, stream_id: str, after: int = -1, limit: int = 1 << 30) -> list[Row]:
    """Rows as they are stored, after a position, in order."""
    found = _execute(connection, _READ, (stream_id, after, limit))
    return [(stream_id, *values) for values in found]


def read(connection: sa.Connection, stream_id: str, after: int = -1, limit: int = 1 << 30) -> list[Event]:
    """Events after a position, in order."""
    return [event(values) for values in _execute(connection, _READ, (stream_id, after, limit))]


def read_texts(connection: sa.Connection, stream_id: str, after: int = -1, limit: int = 1 << 30) -> list[Text]:
    """The texts() of the events after a position, in order."""
    found: list[Text] = []
    for position, offset_us, type, data, raw in _execute(connection, _READ_TEXTS, (stream_id, after, limit)):
        if raw is None:
            found.append((position, offset_us, type, data))
        else:
            found += texts((event((position, offset_us, type, data, raw, None)),))
    return found


def texts(events: Iterable[Event]) -> Iterator[Text]:
    """All that a fold needs of events, and of the lines in one that are no fields of it, as OUTSIDE at its position.

    A server that breaks in the middle of an event writes its error there, without `data:`.
    """
    for position, offset_us, type, data, raw, _ in events:
        yield position, offset_us, type, data
        if raw is not None and (lines := sse.beside(type, bytes(raw))):
            yield position, offset_us, OUTSIDE, lines


def read_stream(engine: sa.Engine, stream_id: str, after: int = -1, batch: int = 5000) -> Iterator[Event]:
    """All events after a position, in batches of which each has a transaction of its own, so that no reader holds one long."""
    while True:
        with database.read(engine) as connection:
            found = read(connection, stream_id, after, batch)
        yield from found
        if len(found) < batch:
            return
        after = found[-1].position


def event(values: Sequence[Any]) -> Event:
    """The event of a stored row's (position, offset_us, type, data, raw, cuts)."""
    position, offset_us, type, data, raw, cuts = values
    if data is None:
        raw = bytes(raw)
        type, data = sse.decode_raw(type, raw)
    return Event(position, offset_us, type, data, raw, [(byte, at) for byte, at in jsontext.loads(cuts)] if cuts else None)


def wire(recorded: Iterable[Event]) -> Iterator[tuple[bytes, int, sse.Cuts | None]]:
    """The bytes of each event of one stream from its start, with their arrival: (bytes, offset_us, cuts)."""
    lines = False
    for position, offset_us, type, data, raw, cuts in recorded:
        if raw is not None:
            yield bytes(raw), offset_us, cuts
        elif lines and not sse.is_system(type):
            yield data.encode() + b"\n", offset_us, cuts
        elif body := sse.encode(type, data):
            yield body, offset_us, cuts
        elif position == 0 and type == "$response":
            lines = is_lines(response_header(data, "content-type"))


def outcome_of(end: str | None) -> str | None:
    """The outcome that the data of a `$end` says."""
    outcome = jsontext.object_of(end).get("outcome")
    return outcome if isinstance(outcome, str) else None


def response_header(response: str, name: str) -> str | None:
    """A header of a `$response`, by its lower-case name."""
    headers = jsontext.object_of(response).get("headers")
    pairs = [pair for pair in headers if isinstance(pair, list) and len(pair) == 2] if isinstance(headers, list) else []
    return next((str(value) for key, value in pairs if str(key).lower() == name), None)


def get_streams(connection: sa.Connection, stream_ids: Iterable[str]) -> dict[str, Stream]:
    found = connection.execute(_STREAMS.where(streams.c.stream_id.in_(list(stream_ids))))
    return {values.stream_id: _stream(values) for values in found}


def tail(connection: sa.Connection, seen: dict[str, int], since: datetime, limit: int = 10_000) -> list[tuple[str, Event]]:
    """Events after what `seen` ({stream_id: position}, updated here) knows, of streams that are open or ended after `since`.

    None is missed and none comes twice, however commits overlap: each stream is followed by its own positions.
    """
    found: list[tuple[str, Event]] = []
    reached: dict[str, int] = {}
    for stream_id, position in sorted(open_heads(connection, since)):
        if position > seen.get(stream_id, -1) and len(found) < limit:
            new = read(connection, stream_id, seen.get(stream_id, -1), limit)
            found += [(stream_id, entry) for entry in new]
            if new:
                reached[stream_id] = new[-1].position
    seen.update(reached)  # at last: what fails on the way comes whole the next time
    return found


def latest_end(connection: sa.Connection) -> datetime:
    """When the stream ended that ended last: none ends before it, whatever the clock of who appends its end."""
    found: datetime | None = connection.execute(_LATEST_END).scalar()
    return found or datetime.fromtimestamp(0, UTC)


def open_heads(connection: sa.Connection, since: datetime) -> list[tuple[str, int]]:
    """(stream_id, position) of the streams that are open or ended after `since`."""
    recent = sa.or_(heads.c.ended_at.is_(None), heads.c.ended_at >= since)
    found = connection.execute(sa.select(heads.c.stream_id, heads.c.position).where(recent))
    return [(stream_id, position) for stream_id, position in found]


def count(engine: sa.Engine) -> int:
    """How many events the log holds, system events among them."""
    with database.read(engine) as connection:
        return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(heads.c.position + 1), 0))).scalar_one())


def _stream(values: Any) -> Stream:
    headers = tuple((name, value) for name, value in jsontext.loads(values.request_headers))
    return Stream(**{**values._mapping, "request_headers": headers})


def _heads(connection: sa.Connection, stream_ids: Iterable[str], claim: bool = False) -> dict[str, Head]:
    """The heads of streams. claim: on PostgreSQL lock them (and make those that are missing), so that appends to one queue up."""
    ids = sorted(stream_ids)
    found: dict[str, Head] = {}
    for at in range(0, len(ids), 500):
        some = ids[at : at + 500]
        if connection.dialect.name == "sqlite":
            rows = _execute(connection, f"{_HEADS} IN ({', '.join('?' * len(some))})", tuple(some))
        else:
            rows = _execute(connection, _CLAIM_HEADS if claim else f"{_HEADS} = ANY(?::uuid[])", (some,))
        found.update((str(stream_id), Head(*head)) for stream_id, *head in rows if head[0] >= 0)
    return found


def _unseen(connection: sa.Connection, stream_id: str, new: list[Row], position: int) -> list[Row]:
    """What of these rows is not stored yet; the rest must be the same."""
    again = [values for values in new if values[1] <= position]
    stored = read_rows(connection, stream_id, again[0][1] - 1, len(again))
    for wanted, have in zip(again, stored, strict=True):
        if wanted != have:
            raise AppendConflict(f"stream {stream_id} holds another event at position {wanted[1]}; nothing was changed")
    return new[len(again) :]


def _execute(connection: sa.Connection, statement: str, parameters: tuple[Any, ...]) -> Any:
    return connection.exec_driver_sql(_placeholders(connection, statement), parameters)


def _many(connection: sa.Connection, statement: str, parameters: list[tuple[Any, ...]]) -> None:
    if parameters:
        connection.exec_driver_sql(_placeholders(connection, statement), parameters)


def _placeholders(connection: sa.Connection, statement: str) -> str:
    return statement if connection.dialect.name == "sqlite" else statement.replace("?", "%s")
