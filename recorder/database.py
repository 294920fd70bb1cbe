"""Opening a database: the engine with its pragmas, transactions to read and to write in, the schema and its version.

SQLite files are made (mode 0600) and brought to the current version when they are opened for writing. Any other
database is left as it is until `recorder db upgrade`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event

from recorder import mending
from recorder.errors import DatabaseError, OldSchema, ReadOnlyError
from recorder.schema import DEFAULT_URL as DEFAULT_URL
from recorder.schema import SCHEMA_VERSION as SCHEMA_VERSION
from recorder.schema import VERSION_TABLE as VERSION_TABLE

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 10_000
PAGE_SIZE = 8192  # bytes; measured: rows of some 300 bytes take less room than in 4096, and no more time

metadata = sa.MetaData()

StreamID = sa.Text().with_variant(sa.Uuid(as_uuid=False), "postgresql")
"""A UUIDv7 in its 36 characters; PostgreSQL keeps it in 16 bytes."""


class UTCTime(sa.types.TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite keeps it as text that sorts and that its date functions read."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def timestamp(connection: sa.Connection, value: datetime | None) -> Any:
    """A UTC time as the driver takes it, for statements that bypass the column type; the text is the one UTCTime writes."""
    if value is None or connection.dialect.name != "sqlite":
        return value
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def between(column: sa.ColumnElement[Any], since: datetime | None, until: datetime | None) -> sa.ColumnElement[bool]:
    """Since a time and before another, each where it is given."""
    return sa.and_(sa.true() if since is None else column >= since, sa.true() if until is None else column < until)


def connect(url: str = DEFAULT_URL, *, create: bool = True, read_only: bool = False, immutable: bool = False) -> sa.Engine:
    """An engine on a database whose schema is current.

    create: make a SQLite file that is not there, and upgrade an older one; else a missing file is an error.
    read_only: the database itself refuses to write (SQLite mode=ro, PostgreSQL's read-only transactions).
    immutable: nor does SQLite make the files beside it that it shares with others; only for a file that nobody writes.
    Raises DatabaseError.
    """
    opened = engine(url, create=create, read_only=read_only, immutable=immutable)
    try:
        check(opened, upgrade=create and not read_only and opened.dialect.name == "sqlite")
    except sa.exc.DBAPIError as error:
        opened.dispose()
        raise translated(error, shown(opened)) from None
    except BaseException:
        opened.dispose()
        raise
    return opened


def connect_existing(url: str, *, read_only: bool) -> sa.Engine:
    """An existing database; an older SQLite schema is upgraded on use.

    read_only: where nothing can be written, not even SQLite's files beside the database, open it as it is.
    """
    try:
        return connect(url, create=False)
    except ReadOnlyError:
        if not read_only:
            raise
        return connect_read_only(url)
    except OldSchema:
        if not url.startswith("sqlite"):
            raise
        return connect(url, create=True)


def connect_read_only(url: str) -> sa.Engine:
    """A database that refuses writes; where SQLite could not even make its files beside it, the file as it stands."""
    try:
        return connect(url, create=False, read_only=True)
    except ReadOnlyError as error:
        try:
            return connect(url, create=False, read_only=True, immutable=True)
        except ReadOnlyError as why:  # it says what is beside the file
            raise why from None
        except OldSchema as why:
            raise OldSchema(f"{why} where it can be written") from None
        except DatabaseError:
            raise error from None


def check(engine: sa.Engine, *, upgrade: bool) -> None:
    """See to it that the schema is the one this version of recorder knows. Raises DatabaseError where it is not."""
    version = current_version(engine)
    name = shown(engine)
    if version == SCHEMA_VERSION:
        _give_what_lacks(engine, version, upgrade=upgrade)
        return
    if version is None:
        with engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
        if tables and engine.dialect.name == "sqlite":
            raise DatabaseError(
                f"{name} belongs to another program (its tables: {', '.join(tables[:3])}); name another file with --db"
            )
        if not upgrade:
            hint = "run `recorder db upgrade` first" if engine.dialect.name != "sqlite" else "nothing has been recorded in it yet"
            raise DatabaseError(f"{name} has no tables of recorder; {hint}")
    elif version > SCHEMA_VERSION:
        raise DatabaseError(
            f"{name} was written by a newer recorder (its schema is {version}, this one knows {SCHEMA_VERSION}); upgrade recorder"
        )
    elif not upgrade:
        raise OldSchema(f"{name} has the older schema {version}; run `recorder db upgrade`")
    try:
        migrate(engine)
    except sa.exc.DBAPIError as error:
        if version is None or not _is_about_schema(error):
            raise
        _mend(engine, version)


def _give_what_lacks(engine: sa.Engine, version: str, *, upgrade: bool) -> None:
    """See to it that the tables are those of the version: some migrations were edited after databases had been made by them."""
    with engine.connect() as connection:
        lacks = mending.lacking(connection, metadata)
    if lacks and upgrade:
        _mend(engine, version)
    elif lacks and not mending.only_indexes(lacks, metadata):
        raise OldSchema(f"{shown(engine)} has another schema {version} than this recorder's; run `recorder db upgrade`")


def _mend(engine: sa.Engine, version: str) -> None:
    """Keep the log of a database whose other tables are not as they should be. Raises DatabaseError, and nothing is changed."""
    if engine.dialect.name == "sqlite":
        _make_wal(engine)
    try:
        with write(engine) as connection:
            _queue_up(connection)
            done = _mended(connection)
    except sa.exc.DBAPIError as error:
        if not _is_about_schema(error):
            raise
        cause = " ".join(str(error.orig).split("\n")[0].split())
        raise DatabaseError(_UNKNOWN.format(name=shown(engine), version=version, cause=cause)) from None
    if done:
        logger.warning("%s: %s", shown(engine), done)


def _mended(connection: sa.Connection, before: str | None = None) -> str | None:
    """Give the database what it lacks of the newest schema; what that was, as a message says it.

    before: the version before the migrations, where they have run.
    """
    version = _version(connection)
    lacks = mending.lacking(connection, metadata)
    if version == SCHEMA_VERSION and not lacks:
        return None
    if version == SCHEMA_VERSION and mending.only_indexes(lacks, metadata):
        mending.make_indexes(connection, metadata, lacks)
        return f"indexes were lacking, and are made: {', '.join(sorted(lacks))}"
    mending.make_anew(connection, _upgrade)
    count = connection.execute(sa.text("SELECT count(*) FROM streams")).scalar_one()
    return f"its schema {before or version} was not this recorder's; the log ({count:,} streams) is kept, the rest made anew"


_UNKNOWN = (
    "{name} has another schema {version} than this recorder's, and could not be mended ({cause}); export its sessions with the"
    " recorder that made it and import them into a new database"
)


def _is_about_schema(error: sa.exc.DBAPIError) -> bool:
    """Whether a table, an index or a column that a statement names is not there, or is there already."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_ERROR or str(getattr(error.orig, "sqlstate", None) or "")[:2] == "42"


def current_version(engine: sa.Engine) -> str | None:
    """The schema's version, or None in a database without one."""
    with engine.connect() as connection:
        return _version(connection)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to SCHEMA_VERSION with the migrations."""
    if engine.dialect.name == "sqlite":
        _make_wal(engine)
    with write(engine) as connection:
        _queue_up(connection)
        before = _version(connection)
        _upgrade(connection)
        done = _mended(connection, before)
    if done:
        logger.warning("%s: %s", shown(engine), done)


def _queue_up(connection: sa.Connection) -> None:
    """One after the other: several replicas may start at once."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE)))


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


_UPGRADE = 0x7265636F72647570  # PostgreSQL advisory lock


def _make_wal(engine: sa.Engine) -> None:
    """Set what a SQLite file keeps for good: the size of its pages, while it is empty, and its journal.

    Others may be at it, too, and for the journal SQLite does not wait. Raises DBAPIError.
    """
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        while not _is_wal(cursor, wait=time.monotonic() < give_up_at):
            time.sleep(0.01)
    except sqlite3.Error as error:
        raise sa.exc.OperationalError("PRAGMA", None, error) from None
    finally:
        connection.close()


def _is_wal(cursor: Any, *, wait: bool) -> bool:
    """Set the journal; False if another is in the way, and there is time to wait for it."""
    try:
        cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not wait:
            raise
        return False
    return True


def migrations() -> Path:
    """The folder of migrations: in the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "migrations"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "migrations"


WRITING = {"recorder_write": True}
"""Execution options of a connection whose transactions may write; see write()."""


@contextmanager
def write(engine: sa.Engine, wait: float | None = None) -> Iterator[sa.Connection]:
    """A transaction that may write. On SQLite it takes the write lock at once, so that it cannot fail half way for it.

    wait: for that lock, in seconds, if not as long as the engine's transactions do.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(engine.connect()).execution_options(**WRITING)
        if wait is not None:
            stack.callback(wait_for_lock, connection, BUSY_TIMEOUT_MS / 1000)  # as the pool's next user expects
            wait_for_lock(connection, wait)
        with connection.begin():
            if engine.dialect.name == "postgresql":  # one that is stopped in the midst of it must not hold its locks for ever
                connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000}")
            yield connection


IDLE_SECONDS = 30
"""How long PostgreSQL waits for the next statement of a transaction that may write."""


@contextmanager
def read(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that sees one state of the database throughout."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def wait_for_lock(connection: sa.Connection, seconds: float) -> None:
    """How long this connection's statements wait for another's lock on a SQLite file, instead of BUSY_TIMEOUT_MS."""
    if connection.dialect.name == "sqlite":
        connection.connection.cursor().execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")


def limit(connection: sa.Connection, seconds: float | None) -> None:
    """How long the transaction that was begun may take, if PostgreSQL is to answer; None: as long as the server works on it."""
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        driver.until = None if seconds is None else time.monotonic() + seconds


def slices(values: Iterable[str], size: int = 5000) -> Iterator[list[str]]:
    """Values in order, few enough at a time for one IN list: SQLite takes 32,766 parameters."""
    ordered = sorted(values)
    for at in range(0, len(ordered), size):
        yield ordered[at : at + size]


def shown(engine: sa.Engine) -> str:
    """The database as messages name it: without its password."""
    url = engine.url
    if engine.dialect.name == "sqlite":
        named = url.database or "the database"
        return unquote(named.removeprefix("file:")) if "uri" in url.query else named
    secret = [name for name in url.query if "password" in name.lower()]
    return url.difference_update_query(secret).render_as_string()


_UNWRITABLE = ("readonly database", "unable to open database file", "disk is full", "disk I/O error")


def translated(error: sa.exc.DBAPIError, name: str) -> DatabaseError:
    """A driver's error as one line that says what to do. name: the database, as shown() has it."""
    cause = " ".join(str(error.orig).split())
    known = {
        "file is not a database": f"{name} is no SQLite database; name another file with --db",
        "readonly database": f"{name} is read-only; make it and its folder writable, or name another with --db",
        "unable to open database file": f"{name} cannot be opened; is its folder there, and may you read it?",
        "disk is full": f"no space left for {name}; free some and try again",
        "database is locked": f"{name} is locked by another process; try again, or stop what holds it",
        "disk I/O error": f"{name} cannot be read or written ({cause}); is there space left beside it?",
        "malformed": f"{name} is damaged ({cause}); restore a copy",
    }
    for part, message in known.items():
        if part in cause:
            return ReadOnlyError(message) if part in _UNWRITABLE else DatabaseError(message)
    if "read-only transaction" in cause:
        return ReadOnlyError(f"{name}: {cause}")
    return DatabaseError(f"{name}: {cause}")


def is_locked(error: sa.exc.DBAPIError) -> bool:
    """Whether another process holds a SQLite file."""
    return (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_BUSY


_ABOUT_DATA = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)


def is_about_data(error: sa.exc.DBAPIError) -> bool:
    """Whether the database refused what was written, and not that it was written: a lock, a full disk, a lost connection."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _ABOUT_DATA and "no such table" not in str(error.orig)
    sqlstate = str(getattr(error.orig, "sqlstate", None) or "")
    return sqlstate[:2] in ("22", "23", "54") or (not sqlstate and isinstance(error, sa.exc.DataError))  # NUL: the driver itself


def engine(url: str, *, create: bool, read_only: bool = False, immutable: bool = False) -> sa.Engine:
    """An engine, whatever the schema is. Raises DatabaseError."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        shown_url = "what was given" if "@" in url or "?" in url else url  # it may hold a password
        raise DatabaseError(f"{shown_url} is no database URL; write sqlite:///file.db or postgresql://user@host/name") from None
    if parsed.drivername == "sqlite":
        if "?" in url:  # the driver would leave out what follows, and open another file
            raise DatabaseError(f"{url}: a SQLite URL takes no options; name the file alone, with %3F for a ? in its name")
        return _sqlite(parsed, create=create, read_only=read_only, immutable=immutable)
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return _postgresql(parsed, read_only=read_only)
    raise DatabaseError(f"{parsed.drivername} is not supported; use sqlite or postgresql")


def _postgresql(url: sa.URL, *, read_only: bool) -> sa.Engine:
    try:
        from recorder import postgresql
    except ModuleNotFoundError:
        raise DatabaseError("PostgreSQL needs its driver; install runstep-recorder[postgres]") from None

    def connected(dialect: object, record: object, args: object, given: dict[str, Any]) -> Any:
        return postgresql.connect(given, read_only=read_only)

    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), use_native_hstore=False, pool_pre_ping=True)
    event.listen(engine, "do_connect", connected)
    _servers.add(engine)
    event.listen(engine, "begin", lambda connection: limit(connection, None))
    return engine


def refuse_in_memory(url: str) -> None:
    """For whom records to keep it. Raises DatabaseError."""
    if url in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        raise DatabaseError("a database in memory is gone with the process; name a file, as in sqlite:///recorder.db")


def _sqlite(url: sa.URL, *, create: bool, read_only: bool, immutable: bool) -> sa.Engine:
    path = Path(url.database) if url.database and url.database != ":memory:" else None
    if path is not None:
        if path.is_dir():
            raise DatabaseError(f"{path} is a folder; name a file with --db")
        if not path.exists():
            if not create:
                raise DatabaseError(f"{path} does not exist; record or import something first, or name another with --db")
            try:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise DatabaseError(f"{path} cannot be made: {error.strerror}; name another file with --db") from None
        journal = Path(f"{path}-wal")
        if immutable and journal.exists() and journal.stat().st_size:
            raise ReadOnlyError(f"{path} cannot be read without what {journal.name} holds; make its folder writable")
        if read_only:
            url = sa.make_url("sqlite://").set(database=f"file:{quote(path.absolute().as_posix())}")
            url = url.update_query_dict({"mode": "ro", "uri": "true", **({"immutable": "1"} if immutable else {})})
    engine = sa.create_engine(
        url,
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_MS / 1000},
        poolclass=None if path else sa.pool.StaticPool,
    )
    event.listen(engine, "connect", _on_connect if not read_only else _on_connect_read_only)
    event.listen(engine, "begin", _on_begin)
    if path is not None:
        _files.add(engine)
    return engine


_files: WeakSet[sa.Engine] = WeakSet()
_servers: WeakSet[sa.Engine] = WeakSet()


def _before_fork() -> None:
    """Close what connections of SQLite files lie idle.

    SQLite knows a process by its locks on a file, and keeps count of them in memory. A child that inherits the count holds
    none of the locks: it would write without them, and the last other process to close the file would take its journal away.
    """
    for engine in list(_files):
        engine.dispose()


def _after_fork_in_child() -> None:
    """What connections to servers lie idle are the parent's: they are neither used here nor closed."""
    for engine in list(_servers):
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def _on_connect(connection: sqlite3.Connection, record: object) -> None:
    connection.execute("PRAGMA synchronous = FULL")


def _on_connect_read_only(connection: sqlite3.Connection, record: object) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(_no_other_files)


def _no_other_files(action: int, *names: object) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _on_begin(connection: sa.Connection) -> None:
    """The driver would begin late and deferred; see write()."""
    options = connection.get_execution_options()
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("recorder_write") else "BEGIN")
