"""Connections to PostgreSQL that do not wait for ever, whatever becomes of the server or of the way to it.

A server that hangs (a stalled disk, a stopped machine, a pooler without connections) still acknowledges TCP. So neither TCP's
timeouts nor a statement_timeout, which the server itself would have to keep, end a wait for it: the client has to. Where an
answer is long in coming, the server is asked over another connection whether it works on it; one that does may take its time,
unless the transaction has a deadline.

A pooler (pgbouncer, also in its transaction mode) gives each transaction another server connection. So nothing here outlives
a transaction: no setting, no lock, no prepared statement. It is known by its process id, which is not that of the server's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from time import monotonic
from typing import Any

import psycopg

CONNECT_SECONDS = 5
"""How long a connection may take to be made, to each of a host's addresses, unless the URL says otherwise (connect_timeout)."""

SILENCE_SECONDS = 5.0
"""After so long without an answer the server is asked whether it works on it."""

_IN_FLIGHT_SECONDS = 1.0  # an answer may be on its way while the server says that it has nothing to do
_DOUBTS = 2

_TCP = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}

_AT_WORK = "SELECT state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead' FROM pg_stat_activity WHERE pid = %s"


class Connection(psycopg.Connection[Any]):
    """until: when the transaction that is under way must be over, by time.monotonic; None if it may take as long as it needs.

    pooled: whether a pooler stands before the server.
    """

    until: float | None = None
    pooled = False
    _given: dict[str, Any]

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """What the driver waits for, given up in time. It is resumed several times a second, also if nothing has come."""
        try:
            wanted = next(gen)
            ask_at, doubts = monotonic() + SILENCE_SECONDS, 0
            while True:
                ready = yield wanted
                now = monotonic()
                if self.until is not None and now > self.until:
                    raise self._given_up("the server did not answer in time")
                if ready:
                    ask_at, doubts = now + SILENCE_SECONDS, 0
                elif now > ask_at:
                    worked_on = self._is_worked_on()
                    doubts = 0 if worked_on else doubts + 1
                    if worked_on is None or doubts >= _DOUBTS:
                        raise self._given_up("the server does not answer")
                    ask_at = monotonic() + (_IN_FLIGHT_SECONDS if doubts else SILENCE_SECONDS)
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value

    def _given_up(self, why: str) -> psycopg.OperationalError:
        self.pgconn.finish()
        return psycopg.OperationalError(f"{why}: the connection was closed")

    def _is_worked_on(self) -> bool | None:
        """Whether the server, asked over another connection, says that it is at work for this one; None if it says nothing."""
        try:
            with contextlib.closing(Connection.connect(**self._given)) as other:
                other.until = monotonic() + CONNECT_SECONDS
                if self.pooled:  # whose process it is in this transaction nobody says
                    return other.execute("SELECT 1").fetchone() is not None
                found = other.execute(_AT_WORK, (self.info.backend_pid,)).fetchone()
        except psycopg.Error as error:
            # One that has no connection left for the question, or is only starting, is there, and would have cut ours off.
            return True if "FATAL" in str(error) and not self.pooled else None
        return bool(found and found[0])


def connect(given: dict[str, Any], *, read_only: bool) -> Connection:
    """A connection by the driver's own parameters. read_only: its transactions cannot write."""
    given = {"connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", CONNECT_SECONDS), **_TCP, **given}
    connection = Connection.connect(**given)
    try:
        connection._given = given
        connection.until = monotonic() + CONNECT_SECONDS
        connection.autocommit = True
        found = connection.execute("SELECT pg_backend_pid()").fetchone()
        connection.autocommit = False
        connection.until = monotonic() + CONNECT_SECONDS  # for what SQLAlchemy asks of it first
        if found is not None and found[0] != connection.info.backend_pid:
            connection.pooled = True
            connection.prepare_threshold = None
        connection.read_only = read_only or None
    except BaseException:
        connection.close()
        raise
    return connection
