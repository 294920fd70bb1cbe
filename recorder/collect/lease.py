"""Leases: who writes which streams, and whether it still lives.

A writer takes a lease, a row of `writers`, with the first stream that it begins; renews it every RENEW_SECONDS, idle or not;
and gives it back when it closes. A stream that is open while its writer is dead will never end by itself: the next writer that
starts, and the next question, ends it for it, by the marks that stand in it ([DONE], an error), else as `lost`.

A writer on this machine is dead once its process is gone, whatever any clock says; one that lives is never taken for dead, also
where it is stopped or cannot reach the database. Of a writer elsewhere only its lease is known: it is dead once that has been
expired for as long as it was given, by the database's clock. Should it live all the same, cut off for minutes, it finds its
lease gone, takes it anew, and goes on in its streams after the end that another put there (writer.py).

Streams without a writer (imports, and what was recorded before there were leases) are left alone.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from recorder import database, jsontext, log
from recorder.collect.outcome import Ending
from recorder.collect.streamid import new_stream_id
from recorder.errors import AppendConflict
from recorder.log import Row, events, heads, streams
from recorder.log import writers as writers
from recorder.process import lives, machine, process_started
from recorder.sse import Frame

logger = logging.getLogger(__name__)

TERM_SECONDS = 60.0
"""For how long a lease is given."""

RENEW_SECONDS = 15.0

_TERM = timedelta(seconds=TERM_SECONDS)
_OURS = sa.select(writers.c.writer_id).where(writers.c.writer_id == sa.bindparam("ours")).with_for_update(read=True)
_RENEW = (
    writers.update()
    .where(writers.c.writer_id == sa.bindparam("ours"))
    .values(renewed_at=sa.bindparam("now"), expires_at=sa.bindparam("until"))
)
_OPEN = (
    sa.select(streams.c.stream_id, heads.c.position)
    .select_from(streams.outerjoin(heads, heads.c.stream_id == streams.c.stream_id))
    .where(streams.c.writer_id == sa.bindparam("of"), heads.c.ended_at.is_(None))
    .order_by(streams.c.stream_id)
)
_TELLING = events.c.type.in_(["error", "$response", "$body", "$tail"])
_MARKS = (
    sa.select(events.c.type, sa.case((sa.or_(events.c.type == "$response", events.c.data == "[DONE]"), events.c.data)))
    .where(events.c.stream_id == sa.bindparam("of"), sa.or_(_TELLING, events.c.data == "[DONE]"))
    .order_by(events.c.position)
)
_LAST_OFFSET = sa.select(events.c.offset_us).where(
    events.c.stream_id == sa.bindparam("of"), events.c.position == sa.bindparam("at")
)


class Lease:
    """A writer's own. The caller owns the transaction. taken: whether a transaction that took it has been committed."""

    def __init__(self) -> None:
        self.writer_id = new_stream_id()
        self.taken = False

    def hold(self, connection: sa.Connection) -> bool:
        """See to it that the lease stands for as long as this transaction; whether it had to be taken."""
        if connection.execute(_OURS, {"ours": self.writer_id}).first() is not None:
            return False
        now = clock(connection)
        connection.execute(
            writers.insert().values(
                writer_id=self.writer_id,
                machine=machine(),
                pid=os.getpid(),
                process_started=process_started(os.getpid()),
                started_at=now,
                renewed_at=now,
                expires_at=now + _TERM,
            )
        )
        return True

    def renew(self, connection: sa.Connection) -> bool:
        """Renew the lease; whether it had to be taken anew."""
        now = clock(connection)
        done = connection.execute(_RENEW, {"ours": self.writer_id, "now": now, "until": now + _TERM})
        return done.rowcount == 0 and self.hold(connection)

    def give_back(self, connection: sa.Connection) -> None:
        """The writer is through: what it could not end itself is ended here."""
        _end_open(connection, self.writer_id, "its recorder was closed and had not stored its end")
        connection.execute(writers.delete().where(writers.c.writer_id == self.writer_id))


def mark_lost(engine: sa.Engine, wait: float | None = None) -> int:
    """End the open streams of all writers that are dead; how many. Any number of processes may do so at once.

    wait: for a SQLite file's lock, in seconds.
    """
    with database.read(engine) as connection:
        dead = [lease.writer_id for lease in _leases(connection) if is_dead(lease, clock(connection))]
    return sum(_bury(engine, writer_id, wait) for writer_id in dead)


def is_dead(lease: Any, now: datetime) -> bool:
    """Whether a writer is gone. lease: its row. now: by the database's clock."""
    alive = lives(lease.pid, lease.process_started) if lease.machine == machine() else None
    return now > lease.expires_at + _TERM if alive is None else not alive


def clock(connection: sa.Connection) -> datetime:
    """The time by the database's clock: SQLite's is this machine's."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


def _leases(connection: sa.Connection, writer_id: str | None = None) -> Any:
    """All leases; or this one, which nobody else can take or renew in this transaction."""
    chosen = sa.select(writers)
    return connection.execute(chosen if writer_id is None else chosen.where(writers.c.writer_id == writer_id).with_for_update())


def _bury(engine: sa.Engine, writer_id: str, wait: float | None) -> int:
    """End a dead writer's streams and delete its lease, unless another did or it lives after all; how many streams."""
    try:
        with database.write(engine, wait) as connection:
            lease = _leases(connection, writer_id).first()
            if lease is None or not is_dead(lease, clock(connection)):
                return 0
            seen = lease.renewed_at.isoformat(sep=" ", timespec="seconds")
            ended = _end_open(connection, writer_id, f"its recorder (pid {lease.pid}, last seen {seen} UTC) died")
            connection.execute(writers.delete().where(writers.c.writer_id == writer_id))
    except AppendConflict:  # it lives, and wrote at this moment
        return 0
    return ended


def _end_open(connection: sa.Connection, writer_id: str, detail: str) -> int:
    """Append the end of each open stream of a writer; how many those were."""
    found = connection.execute(_OPEN, {"of": writer_id}).all()
    log.append(
        connection, {stream_id: [_end(connection, stream_id, -1 if last is None else last, detail)] for stream_id, last in found}
    )
    return len(found)


def _end(connection: sa.Connection, stream_id: str, last: int, detail: str) -> Row:
    """The `$end` of a stream that nobody saw end, at the time of its last event: nobody knows more. last: its last position."""
    ending = Ending()
    status = None
    for type, data in connection.execute(_MARKS, {"of": stream_id}):
        ending.see([Frame(type, data or "", None)])
        if type == "$response":
            status = jsontext.object_of(data).get("status")
    offset_us = connection.execute(_LAST_OFFSET, {"of": stream_id, "at": last}).scalar() or 0
    said = {"outcome": ending.of_connection("lost", status), "closed": "lost", "detail": detail}
    return log.row(stream_id, last + 1, log.system_frame("$end", said, offset_us))
