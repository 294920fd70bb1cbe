"""Opening databases: the schema that the migrations make, the pragmas, and what is refused, in one line that says what to do."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from recorder import database, log
from recorder.collect.import_ import import_paths
from recorder.collect.lease import writers
from recorder.errors import DatabaseError, ReadOnlyError
from recorder.projections import PRICED, PROJECTED, WORKING, runner
from tests.conftest import OWN


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(database.migrations()))
    return config


def refusal(url: str, **options: Any) -> str:
    """The one line with which a database is refused."""
    with pytest.raises(DatabaseError) as failure:
        database.connect(url, **options).dispose()
    message = str(failure.value)
    assert message
    assert "\n" not in message
    return message


def sqlite_file(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


# The schema.


def test_foreign_keys_of_a_file_lead_where_they_say(tmp_path: Path) -> None:
    """For tools that follow them. Nothing enforces them, and all that recorder writes keeps them."""
    url = f"sqlite:///{tmp_path}/x.db"
    engine = database.connect(url)
    import_paths(engine, OWN)
    runner.catch_up(engine)
    with engine.connect() as connection:
        known = {name: connection.exec_driver_sql(f"PRAGMA foreign_key_list({name})").all() for name in database.metadata.tables}
        assert {row[2] for row in known["failures"]} == {"runs", "streams", "sessions"}
        assert [row[2] for row in known["events"]] == ["streams"]
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    engine.dispose()


def test_the_migrations_add_up_to_the_metadata(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": database.VERSION_TABLE, "compare_type": True, "compare_server_default": True},
        )
        found = compare_metadata(context, database.metadata)
    assert [difference for difference in found if difference[0] != "remove_fk"] == []  # SQLite's are for those who look at it


def test_the_migrations_make_the_keys_of_the_metadata(engine: sa.Engine) -> None:
    """Primary keys, which no comparison of Alembic's looks at, and nullability."""
    inspector = sa.inspect(engine)
    assert set(inspector.get_table_names()) == {*database.metadata.tables, database.VERSION_TABLE}
    for name, table in database.metadata.tables.items():
        assert inspector.get_pk_constraint(name)["constrained_columns"] == [column.name for column in table.primary_key]
        assert {column["name"]: column["nullable"] for column in inspector.get_columns(name)} == {
            column.name: column.nullable for column in table.columns
        }


def test_every_table_is_of_the_log_or_can_be_rebuilt_from_it() -> None:
    """But for the writers, who are there only while they write."""
    assert set(database.metadata.tables.values()) == {*log.LOG_TABLES, *PROJECTED, *PRICED, *WORKING, writers}


def test_every_key_of_a_log_table_begins_with_stream_id() -> None:
    for table in log.LOG_TABLES:
        assert next(iter(table.primary_key.columns)).name == "stream_id"


def test_a_sqlite_table_without_rowid_is_one(sqlite_url: str) -> None:
    engine = database.connect(sqlite_url)
    with engine.connect() as connection:
        made = dict(iter(connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))))
    engine.dispose()
    for name, table in database.metadata.tables.items():
        assert ("WITHOUT ROWID" in made[name]) == (table.dialect_options["sqlite"]["with_rowid"] is False), name


def test_the_schema_version_is_the_newest_revision() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_heads() == [database.SCHEMA_VERSION]
    assert scripts.get_bases() == ["0001"]
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True), "versions are compared as text"


def test_downgrading_to_the_base_leaves_nothing_but_the_version_table(engine: sa.Engine) -> None:
    config = alembic_config()
    with database.write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert sa.inspect(engine).get_table_names() == [database.VERSION_TABLE]
    assert database.current_version(engine) is None


def test_upgrading_again_after_a_downgrade_gives_the_schema_back(engine: sa.Engine) -> None:
    config = alembic_config()
    with database.write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    database.migrate(engine)
    assert database.current_version(engine) == database.SCHEMA_VERSION
    assert set(sa.inspect(engine).get_table_names()) == {*database.metadata.tables, database.VERSION_TABLE}


def test_checking_a_current_database_changes_nothing(engine: sa.Engine) -> None:
    database.check(engine, upgrade=True)
    database.check(engine, upgrade=False)
    assert database.current_version(engine) == database.SCHEMA_VERSION


# SQLite files.


def test_a_new_file_is_private_and_durable(sqlite_url: str, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        engine = database.connect(sqlite_url)
    finally:
        os.umask(before)
    with engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "page_size")
        }
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    engine.dispose()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "page_size": database.PAGE_SIZE}
    assert modes.pop("x.db") == 0o600
    assert set(modes.values()) <= {0o600}, modes


def test_every_connection_is_durable_not_only_the_first(sqlite_url: str) -> None:
    database.connect(sqlite_url).dispose()
    engine = database.connect(sqlite_url)
    with engine.connect() as one, engine.connect() as other:
        assert [connection.exec_driver_sql("PRAGMA synchronous").scalar() for connection in (one, other)] == [2, 2]
    engine.dispose()


def test_a_file_opened_again_keeps_what_is_in_it(sqlite_url: str) -> None:
    engine = database.connect(sqlite_url)
    with database.write(engine) as connection:
        log.append(connection, {"s": [("s", 0, 0, "", "x", None, None)]})
    engine.dispose()
    for options in ({}, {"create": False}, {"read_only": True}):
        engine = database.connect(sqlite_url, **options)
        with database.read(engine) as connection:
            assert [event.data for event in log.read(connection, "s")] == ["x"]
        engine.dispose()


def test_several_may_open_a_new_file_at_the_same_moment(sqlite_url: str) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    def open_it() -> None:
        start.wait()
        try:
            database.connect(sqlite_url).dispose()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_database_in_memory_works(tmp_path: Path) -> None:
    engine = database.connect("sqlite://")
    with database.write(engine) as connection:
        log.append(connection, {"s": [("s", 0, 0, "", "x", None, None)]})
    assert log.count(engine) == 1
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with space.db", "per%cent.db", "que?ry.db", "ha#sh.db", "ümlaut.db"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    url = sa.URL.create("sqlite", database=str(tmp_path / name)).render_as_string()
    database.connect(url).dispose()
    assert (tmp_path / name).exists()
    engine = database.connect(url, create=False, read_only=True)
    assert log.count(engine) == 0
    engine.dispose()
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in tmp_path.iterdir()} == {name}


# Transactions.


def test_a_read_sees_one_state_throughout(engine: sa.Engine) -> None:
    def add(position: int) -> None:
        with database.write(engine) as connection:
            stream_id = "019a0000-0000-7000-8000-000000000000"
            log.append(connection, {stream_id: [(stream_id, position, 0, "", "x", None, None)]})

    add(0)
    counting = sa.select(sa.func.count()).select_from(log.events)
    with database.read(engine) as connection:
        assert connection.execute(counting).scalar() == 1
        add(1)
        assert connection.execute(counting).scalar() == 1
    with database.read(engine) as connection:
        assert connection.execute(counting).scalar() == 2


def test_a_write_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    def fail() -> None:
        with database.write(engine) as connection:
            connection.execute(log.checkpoints.insert().values(stream_id="019a0000-0000-7000-8000-000000000000", position=1))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    with database.read(engine) as connection:
        assert connection.execute(sa.select(log.checkpoints)).all() == []


def test_writers_to_one_sqlite_file_wait_for_each_other(sqlite_url: str) -> None:
    """Reading and then writing in one transaction cannot fail half way: the write lock is taken at its beginning."""
    engine = database.connect(sqlite_url)
    failures: list[BaseException] = []

    def count_up() -> None:
        try:
            for _ in range(20):
                with database.write(engine) as connection:
                    at = connection.execute(sa.select(sa.func.max(log.checkpoints.c.position))).scalar() or 0
                    connection.execute(log.checkpoints.insert().values(stream_id=f"s{at + 1}", position=at + 1))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read(engine) as connection:
        positions = sorted(connection.execute(sa.select(log.checkpoints.c.position)).scalars())
    engine.dispose()
    assert failures == []
    assert positions == list(range(1, 81))


# What is refused.


def test_a_file_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    sqlite_file(path, "CREATE TABLE customers (id); CREATE TABLE invoices (id); INSERT INTO customers VALUES (1)")
    before = path.read_bytes()
    message = refusal(f"sqlite:///{path}")
    assert str(path) in message
    assert "customers" in message
    assert "--db" in message
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.db"]


def test_a_newer_database_is_refused(url: str) -> None:
    if url.startswith("sqlite"):
        database.connect(url).dispose()
    engine = database.engine(url, create=True)
    database.check(engine, upgrade=True)
    with database.write(engine) as connection:
        connection.execute(sa.text(f"UPDATE {database.VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    message = refusal(url)
    assert "9999" in message
    assert database.SCHEMA_VERSION in message
    assert "upgrade recorder" in message


def test_an_older_database_is_upgraded_only_on_request(url: str) -> None:
    engine = database.engine(url, create=True)
    database.check(engine, upgrade=True)
    with database.write(engine) as connection:
        connection.execute(sa.text(f"UPDATE {database.VERSION_TABLE} SET version_num = '0000'"))
    engine.dispose()
    message = refusal(url, create=False)
    assert "0000" in message
    assert "recorder db upgrade" in message


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 1000)
    before = path.read_bytes()
    for options in ({}, {"create": False}, {"read_only": True}):
        message = refusal(f"sqlite:///{path}", **options)
        assert str(path) in message
        assert "no SQLite database" in message
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    database.connect(sqlite_url).dispose()
    path = tmp_path / "x.db"
    body = path.read_bytes()
    path.write_bytes(body[:100] + b"\xff" * (len(body) - 100))
    assert str(path) in refusal(sqlite_url)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(f"sqlite:///{tmp_path}")


def test_a_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "x.db"
    for options in ({}, {"create": False}, {"create": False, "read_only": True}):
        assert str(path) in refusal(f"sqlite:///{path}", **options)
    assert not path.parent.exists()


def test_reading_never_creates_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert "does not exist" in refusal(f"sqlite:///{path}", create=False)
    assert "does not exist" in refusal(f"sqlite:///{path}", create=False, read_only=True)
    assert not path.exists()


def test_an_empty_file_has_nothing_to_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch()
    assert "nothing has been recorded" in refusal(f"sqlite:///{path}", create=False)
    database.connect(f"sqlite:///{path}").dispose()
    engine = database.connect(f"sqlite:///{path}", create=False)
    assert log.count(engine) == 0
    engine.dispose()


def test_postgresql_without_tables_asks_for_the_upgrade(postgresql_url: str) -> None:
    for options in ({}, {"create": False}, {"read_only": True}):
        assert "recorder db upgrade" in refusal(postgresql_url, **options)
    engine = database.engine(postgresql_url, create=True)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_refused_database_leaves_no_connection_open(postgresql_url: str) -> None:
    refusal(postgresql_url)
    watching = database.engine(postgresql_url, create=True)
    with watching.connect() as connection:
        others = connection.execute(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        ).scalar()
    watching.dispose()
    assert others == 0


def test_postgresql_tables_may_share_a_database_with_others(postgresql_url: str) -> None:
    """A PostgreSQL database is not one program's alone, and its owner asked for the upgrade."""
    engine = database.engine(postgresql_url, create=True)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE customers (id int)"))
    database.check(engine, upgrade=True)
    assert database.current_version(engine) == database.SCHEMA_VERSION
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root@localhost/x", "mysql"),
        ("oracle://root@localhost/x", "oracle"),
        ("postgresql+asyncpg://u@h/x", "postgresql+asyncpg"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite"),
        ("recorder.db", "recorder.db"),
        ("", "URL"),
        ("://", "URL"),
        ("postgresql://u@h:port/x", "URL"),
        ("postgresql://u:p@[::1/x", "URL"),
        ("http://localhost", "http"),
        ("nonsense://", "nonsense"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    assert said in refusal(url)


def test_a_server_that_is_not_there_is_refused_without_the_password() -> None:
    message = refusal("postgresql://someone:secret@127.0.0.1:1/x")
    assert "127.0.0.1" in message
    assert "secret" not in message


def test_a_database_that_is_not_there_is_refused(postgresql_url: str) -> None:
    message = refusal(postgresql_url.replace("/recorder_", "/absent_"))
    assert "absent_" in message


def test_a_url_that_cannot_be_parsed_does_not_show_its_password() -> None:
    assert "secret" not in refusal("postgresql://someone:secret@host:port/x")


# Read-only.


@pytest.mark.parametrize(
    "statement",
    [
        log.checkpoints.insert().values(stream_id="019a0000-0000-7000-8000-000000000000", position=1),
        log.events.delete(),
        sa.text("DROP TABLE heads"),
        sa.text("CREATE TABLE x (y int)"),
    ],
    ids=["insert", "delete", "drop", "create"],
)
@pytest.mark.parametrize("reads", [0, 1], ids=["at once", "after a read"])
def test_a_read_only_engine_refuses_to_write(url: str, statement: sa.Executable, reads: int) -> None:
    opened = database.engine(url, create=True)
    database.check(opened, upgrade=True)
    opened.dispose()
    engine = database.connect(url, create=False, read_only=True)
    try:
        for _ in range(reads):
            assert log.count(engine) == 0
        with pytest.raises(sa.exc.DBAPIError) as failure, engine.begin() as connection:
            connection.execute(statement)
        said = database.translated(failure.value, "this")
        assert isinstance(said, ReadOnlyError)
        assert "\n" not in str(said)
        with pytest.raises(sa.exc.DBAPIError), database.write(engine) as connection:
            connection.execute(statement)
    finally:
        engine.dispose()


def test_a_read_only_engine_sees_what_is_written_meanwhile(engine: sa.Engine, url: str) -> None:
    reading = database.connect(url, create=False, read_only=True)
    stream_id = "019a0000-0000-7000-8000-000000000000"
    try:
        assert log.count(reading) == 0
        with database.write(engine) as connection:
            log.append(connection, {stream_id: [(stream_id, 0, 0, "", "x", None, None)]})
        assert log.count(reading) == 1
    finally:
        reading.dispose()
