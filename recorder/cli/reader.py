"""A query of somebody's, run so that it can only read, by the database's own means, and for a limited time.

SQLite: the file is opened with mode=ro and query_only, and an authorizer, which SQLite asks about each thing that a statement is
to do, lets reading through and nothing else. The query runs in a process of its own, which is killed when its time is over: a
single step of SQLite's may take as long as it likes (a regular expression, LIKE on a long text, blobs of a hundred megabytes).

PostgreSQL: the query stands inside `SELECT … FROM (query)` in a cursor of a read-only transaction that is rolled back. There,
nothing but a query can stand: no COPY, SET, COMMIT or DO, no second statement. Once it has begun, the transaction cannot be
made to write. What is left are functions that act on the server instead of the database (lo_export, pg_reload_conf,
pg_terminate_backend …). A superuser may call them all, so for a superuser the query is the body of a temporary function that
belongs to the role pg_read_all_data and is SECURITY DEFINER: only there does the server refuse to change the role back, which
after a mere SET ROLE any query could do with set_config(). Any other role can do with such functions what it can do anyway.
"""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from itertools import chain, islice
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

import sqlalchemy as sa

from recorder.errors import RecorderError
from recorder.queries import json_value

LONGEST = 100_000_000
"""Bytes of the longest value that SQLite makes or reads for a query: a few of them must fit into memory."""

SILENCE_SECONDS = 5.0
"""How much longer than a query may take PostgreSQL has to say that it stopped it."""

ROWS_AT_ONCE = 200
"""How many rows PostgreSQL hands over at a time; they are all in memory."""

Row = list[Any]

_NO_QUERY = "only one query that reads is run: SELECT, VALUES or WITH"


@contextmanager
def reading(engine: sa.Engine, query: str, seconds: float) -> Iterator[tuple[list[str], Iterator[Row]]]:
    """(names of columns, rows): rows come as they are asked for, of str, int, float and None, the same from both databases.

    engine: of a database that was opened to be read. seconds: how long the database may work for it. Raises RecorderError, also
    while the rows are read.
    """
    clock = _Clock(seconds)
    with _RUN[engine.dialect.name](engine, query, clock) as (names, rows):
        first = list(islice(rows, 1))  # what fails at once fails before anything is printed
        yield names, chain(first, rows)


class _Clock:
    """The time that is left. The database takes of it, and what this process computes; waiting for a slow reader does not."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self.left = seconds
        self._since = 0.0
        self._computed = time.process_time()

    def __enter__(self) -> None:
        """The database is at work. Raises RecorderError where no time is left for it."""
        self.left -= time.process_time() - self._computed
        if self.left <= 0:
            raise self.stopped()
        self._since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.left -= time.monotonic() - self._since
        self._computed = time.process_time()

    def stopped(self) -> RecorderError:
        given = f"{self.seconds:g} s; give it longer with --timeout {self.seconds * 10:g}"
        return RecorderError(f"the query was stopped after {given}")


def _said(error: Any) -> RecorderError:
    """What a driver's error means to whoever asked."""
    code = getattr(error, "sqlite_errorcode", None) or getattr(error, "sqlstate", None)
    message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    if code == sqlite3.SQLITE_AUTH or "one statement at a time" in message or "multiple commands" in message:
        return RecorderError(f"{_NO_QUERY} ({message})")
    return RecorderError(message)


# SQLite


_READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)

_ACTING = {"load_extension", "fts3_tokenizer"}
"""Functions that do more than compute. Both are switched off as SQLite is usually built."""

_DESCRIBING = {
    *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
    *("database_list", "collation_list", "function_list", "module_list", "pragma_list", "compile_options"),
}
"""Pragmas that only tell, whatever they are given."""

_TELLING = {
    *("user_version", "application_id", "schema_version", "data_version", "encoding", "journal_mode", "query_only"),
    *("page_count", "page_size", "freelist_count", "integrity_check", "quick_check", "foreign_key_check"),
}
"""Pragmas that tell while they are given nothing."""


@contextmanager
def _run_sqlite(engine: sa.Engine, query: str, clock: _Clock) -> Iterator[tuple[list[str], Iterator[Row]]]:
    ours, theirs = Pipe()
    process = os.fork()  # what connections lie idle are closed before (database.py): it opens its own
    if process == 0:
        _serve(engine, query, theirs, math.ceil(clock.seconds) + 1)
    theirs.close()
    try:
        names = _next(ours, clock)
        yield names, _rows_sqlite(ours, clock)
    finally:
        ours.close()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _next(pipe: Connection, clock: _Clock) -> Any:
    """What the query's process says next: names, then rows, of which the last are followed by none. Raises RecorderError."""
    try:
        with clock:
            pipe.send_bytes(b"")
            if not pipe.poll(clock.left):
                raise clock.stopped()
            said = pipe.recv()
    except (EOFError, ConnectionError):
        raise RecorderError("the query ended its process: there was no memory left for it") from None
    if isinstance(said, RecorderError):
        raise said
    return said


def _rows_sqlite(pipe: Connection, clock: _Clock) -> Iterator[Row]:
    while rows := _next(pipe, clock):
        yield from rows


def _serve(engine: sa.Engine, query: str, pipe: Connection, seconds: int) -> NoReturn:
    """Be the query's process: say what is asked for, until nobody asks any more. seconds: of computing, if nobody ends it."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asks
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        for said in _answers(engine, query):
            pipe.recv_bytes()
            pipe.send(said)
    except BaseException:  # noqa: BLE001 - whoever asks sees that this process is gone
        os._exit(1)
    os._exit(0)


def _answers(engine: sa.Engine, query: str) -> Iterator[Any]:
    """The names of the columns, then rows, then none; or an error."""
    try:
        driver: Any = engine.raw_connection().driver_connection
        driver.text_factory = lambda data: data.decode("utf-8", "replace")
        driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
        driver.set_authorizer(_only_reads)
        cursor = driver.execute(query)
        yield [column[0] for column in cursor.description] if cursor.description else RecorderError(_NO_QUERY)
        while rows := list(_some(cursor)):
            yield rows
        yield []
    except sqlite3.Error as error:
        yield _said(error)


def _some(cursor: sqlite3.Cursor) -> Iterator[Row]:
    """The next rows: as many as come in a moment, for whoever reads may want to see them, and fit into a message."""
    until, size = time.monotonic() + _MOMENT_SECONDS, 0
    for row in cursor:
        yield [_TYPES_SQLITE.get(type(value), _same)(value) for value in row]
        size += sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)
        if size > _MESSAGE or time.monotonic() > until:
            return


_MOMENT_SECONDS = 0.05
_MESSAGE = 256 * 1024


def _only_reads(action: int, first: str | None, second: str | None, *place: object) -> int:
    allowed = (
        action in _READS
        or (action == sqlite3.SQLITE_FUNCTION and str(second).lower() not in _ACTING)
        or (action == sqlite3.SQLITE_PRAGMA and str(first).lower() in (_DESCRIBING | _TELLING if second is None else _DESCRIBING))
        # So SQLite asks when it declares a table that is a function (json_each, pragma_table_info) to itself, in memory. The
        # schema itself it lets nobody update.
        or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master")
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


def _time_or_text(text: str) -> str:
    """Times are text in SQLite. They are told by their form, which has microseconds always."""
    if len(text) != 26 or not _TIME.fullmatch(text):
        return text
    try:
        return str(json_value(datetime.fromisoformat(f"{text}+00:00")))
    except ValueError:
        return text


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.hex()


def _same(value: Any) -> Any:
    return value


_TYPES_SQLITE: dict[type, Callable[[Any], Any]] = {str: _time_or_text, bytes: _text}


# PostgreSQL


_SETTINGS = """
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1;
SET LOCAL cursor_tuple_fraction = 1;
"""
"""How values come as text, and that a cursor is planned to be read to its end."""

# A search path that names the user's own schema would name the other role's in the function.
_KEEP_SEARCH_PATH = """
SELECT set_config('search_path', array_to_string(ARRAY(SELECT quote_ident(s) FROM unnest(current_schemas(false)) s), ', '), true)
"""

_GUARD = "CREATE FUNCTION pg_temp.recorder_query() RETURNS SETOF text[] LANGUAGE sql SECURITY DEFINER AS {}"
_GUARD_OWNER = "ALTER FUNCTION pg_temp.recorder_query() OWNER TO pg_read_all_data"


@contextmanager
def _run_postgresql(engine: sa.Engine, query: str, clock: _Clock) -> Iterator[tuple[list[str], Iterator[Row]]]:
    from psycopg import Error

    pooled = engine.raw_connection()
    try:
        yield _cursor_postgresql(pooled.driver_connection, query, clock)
    except Error as error:
        raise clock.stopped() if error.sqlstate == "57014" and clock.left <= 0.01 else _said(error) from None
    finally:
        pooled.close()


def _cursor_postgresql(driver: Any, query: str, clock: _Clock) -> tuple[list[str], Iterator[Row]]:
    from psycopg import errors, sql

    superuser = driver.info.parameter_status("is_superuser") == "on"
    driver.autocommit = True  # the transaction is begun below
    driver.execute(f"BEGIN {'READ WRITE' if superuser else 'READ ONLY'}")
    driver.execute(_SETTINGS)
    with clock:
        _limit(driver, clock)
        names, types = _described(driver, query)
    if not names:
        raise RecorderError(_NO_QUERY)
    columns = [f"c{number}" for number in range(len(names))]
    texts = ", ".join(f"{column}::text" for column in columns)
    # The query alone was a whole statement, so it cannot end what stands around it.
    statement = f"SELECT ARRAY[{texts}] FROM ({query.rstrip().rstrip(';')}\n) AS q({', '.join(columns)})"
    try:
        if superuser:
            driver.execute(_KEEP_SEARCH_PATH)
            driver.execute(sql.SQL(_GUARD).format(sql.Literal(statement)))
            driver.execute(_GUARD_OWNER)
            driver.execute("SET TRANSACTION READ ONLY")
            statement = "SELECT pg_temp.recorder_query()"
        driver.execute(f"DECLARE recorder_rows NO SCROLL CURSOR FOR {statement}".encode(), binary=True)  # one statement
    except errors.SyntaxError:
        raise RecorderError(_NO_QUERY) from None
    except (errors.UndefinedObject, errors.ReadOnlySqlTransaction) as error:
        if not superuser:
            raise
        reason = error.diag.message_primary
        raise RecorderError(f"no superuser's query can be held to reading here ({reason}); connect as another role") from None
    return names, _rows_postgresql(driver, [_TYPES_POSTGRESQL.get(type, str) for type in types], clock)


def _described(driver: Any, query: str) -> tuple[list[str], list[int]]:
    """(names, types) of what a statement returns, without running it; an error where it is several."""
    from psycopg import errors, generators, pq

    pgconn = driver.pgconn
    for send, given in ((pgconn.send_prepare, (b"", query.encode())), (pgconn.send_describe_prepared, (b"",))):
        send(*given)
        (described,) = driver.wait(generators.execute(driver.pgconn))
        if described.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(described)
    columns = range(described.nfields)
    return [described.fname(column).decode() for column in columns], [described.ftype(column) for column in columns]


def _limit(driver: Any, clock: _Clock) -> None:
    """The time of the next statement. It is set before each, for a query can set it, too, if only for what comes after it."""
    driver.until = time.monotonic() + clock.left + SILENCE_SECONDS  # by then it hangs
    driver.execute(f"SET LOCAL statement_timeout = {max(1, math.ceil(clock.left * 1000))}")


def _rows_postgresql(driver: Any, types: list[Callable[[str], Any]], clock: _Clock) -> Iterator[Row]:
    while True:
        with clock:
            _limit(driver, clock)
            rows = driver.execute(f"FETCH {ROWS_AT_ONCE} FROM recorder_rows").fetchall()
        for (texts,) in rows:
            yield [None if text is None else _read(text, type) for text, type in zip(texts, types, strict=True)]
        if len(rows) < ROWS_AT_ONCE:
            return


def _read(text: str, type: Callable[[str], Any]) -> Any:
    try:
        return type(text)
    except ValueError:  # infinity, a year before Christ, more digits than Python reads
        return text


def _number(text: str) -> int | float:
    """A numeric: sums of integers have no decimal point, averages have one."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


_TYPES_POSTGRESQL: dict[int, Callable[[str], Any]] = {
    16: lambda text: int(text == "true"),  # boolean: 0 or 1, as SQLite has it
    17: lambda text: _text(bytes.fromhex(text.removeprefix("\\x"))),  # bytea
    20: int,  # bigint
    21: int,  # smallint
    23: int,  # integer
    26: int,  # oid
    700: float,  # real
    701: float,  # double precision
    1184: lambda text: json_value(datetime.fromisoformat(text)),  # timestamptz
    1700: _number,  # numeric
}
"""By the type's OID; all others are the text that PostgreSQL makes of them."""

_RUN: dict[str, Callable[[sa.Engine, str, _Clock], AbstractContextManager[tuple[list[str], Iterator[Row]]]]] = {
    "sqlite": _run_sqlite,
    "postgresql": _run_postgresql,
}
