"""`recorder sql`: what it prints, the same from both databases, and that no query writes, runs for ever or takes all memory."""

from __future__ import annotations

import os
import pty
import resource
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from recorder import database
from recorder.cli import main
from recorder.cli.sql import TABLE_ROWS, TABLES
from recorder.projections import runner
from recorder.views import VIEWS
from tests import writing
from tests.commands import PATIENCE, Background, Done, command, environment, output, recorder, sqlite, strictly, until
from tests.writing import DONE, asked, said

pytestmark = pytest.mark.slow

Run = Callable[..., Done]

ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) "
"""A table that has no end, in both databases."""


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs `recorder sql` in this process."""

    def running(*args: str, db: str) -> Done:
        capfdbinary.readouterr()
        status = main(["--db", db, "sql", *args])
        out, err = capfdbinary.readouterr()
        return Done(status, out.decode(), err.decode())

    return running


def filled(engine: sa.Engine) -> str:
    """The database's URL, with a run that is well, one that failed, one that called a tool, and a stream that is open."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    writing.write(engine, writing.stream(0), writing.frames(said("naïve 漢字", usage=usage)))
    error = {"code": "server_error", "message": "sorry"}
    failed = [("thread.run.failed", writing.run("failed", "run_2", thread_id="thread_2", last_error=error)), DONE]
    writing.write(engine, writing.stream(1, label="mine"), writing.frames(failed))
    writing.write(engine, writing.stream(2, label="open"), writing.frames(said(id="run_3")[:3], None))
    writing.write(engine, writing.stream(3, started=3.25), writing.frames(asked("run_4", "step_4")))
    runner.catch_up(engine)
    url = engine.url.render_as_string(hide_password=False)
    engine.dispose()
    return url.replace("postgresql+psycopg", "postgresql")


@pytest.fixture(scope="module")
def server(postgresql_server: Callable[[str], str]) -> Callable[[str], str]:
    return postgresql_server


@pytest.fixture(scope="module")
def sqlite_db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(database.connect(sqlite(tmp_path_factory.mktemp("sql") / "log.db")))


@pytest.fixture(scope="module")
def postgresql_db(server: Callable[[str], str]) -> Iterator[str]:
    """As its server's superuser sees it."""
    name = f"recorder_{os.getpid()}_sql"
    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    engine = database.engine(server(name), create=True)
    database.check(engine, upgrade=True)
    yield filled(engine)
    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def ordinary_db(postgresql_db: str) -> Iterator[str]:
    """The same as a role sees it that is no superuser, but that may write all tables."""
    role = f"recorder_{os.getpid()}_ordinary"
    with psycopg.connect(postgresql_db, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        connection.execute(f"GRANT ALL ON SCHEMA public TO {role}")
    yield sa.make_url(postgresql_db).set(username=role).render_as_string(hide_password=False)
    with psycopg.connect(postgresql_db, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


@pytest.fixture(params=["sqlite", "postgresql", "ordinary"])
def db(request: pytest.FixtureRequest) -> str:
    """Each of the databases, filled; no test changes it."""
    found: str = request.getfixturevalue(f"{request.param}_db")
    return found


# What it prints


def test_a_table_json_and_csv(run: Run, db: str) -> None:
    query = "SELECT run_id, total_tokens, failed_at, 'a,\"b' AS odd FROM runs ORDER BY run_id LIMIT 2"
    assert run(query, db=db).out.split() == ["run_id", "total_tokens", "failed_at", "odd", "run_1", "7", 'a,"b', "run_2", 'a,"b']
    expected = [
        {"run_id": "run_1", "total_tokens": 7, "failed_at": None, "odd": 'a,"b'},
        {"run_id": "run_2", "total_tokens": None, "failed_at": None, "odd": 'a,"b'},
    ]
    assert strictly(run(query, "--json", db=db).out) == strictly(run(query, "--format", "json", db=db).out) == expected
    as_csv = 'run_id,total_tokens,failed_at,odd\nrun_1,7,,"a,""b"\nrun_2,,,"a,""b"\n'
    assert run(query, "--csv", db=db).out == run(query, "--format", "csv", db=db).out == as_csv


def test_no_rows(run: Run, db: str) -> None:
    query = "SELECT run_id, status FROM runs WHERE 1 = 0"
    assert run(query, db=db) == Done(0, "", "no rows\n")
    assert run(query, "--json", db=db) == Done(0, "[]\n", "")
    assert run(query, "--csv", db=db) == Done(0, "run_id,status\n", "")


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT '100%' AS x", "100%"),
        ("SELECT '100%%' AS x", "100%%"),
        ("SELECT 'a:b ? %s $1' AS x", "a:b ? %s $1"),
        ("SELECT ';' AS x", ";"),
        ("SELECT 'it''s \\ \"q\"' AS x", 'it\'s \\ "q"'),
        ("SELECT 9223372036854775807 AS x", 2**63 - 1),
        ("SELECT NULL AS x", None),
        ("SELECT '' AS x", ""),
        ("SELECT 'x' AS x -- a comment", "x"),
        (" -- a comment\nSELECT 'x' /* another; */ AS x;\n", "x"),
        ("SELECT 'x' AS x ; ", "x"),
        ("WITH t AS (SELECT 5 AS x) SELECT x FROM t", 5),
        ("SELECT sum(n) AS x FROM (SELECT 1 AS n UNION ALL SELECT 2) t", 3),
        ("SELECT avg(n) AS x FROM (SELECT 1 AS n UNION ALL SELECT 2) t", 1.5),
        ("SELECT CAST(1.5 AS double precision) AS x", 1.5),
        ("SELECT '2026-11-22 10:30:00' AS x", "2026-11-22 10:30:00"),
    ],
)
def test_a_query_runs_as_it_is_written(run: Run, db: str, query: str, value: Any) -> None:
    assert strictly(run(query, "--json", db=db).out) == [{"x": value}]


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT x'ff00' AS x", "ff00"),
        ("SELECT x'c3a9' AS x", "é"),
        ("SELECT CAST(x'ff' AS TEXT) AS x", "\ufffd"),
        ("SELECT '2026-11-22 10:30:00.000000' AS x", "2026-11-22T10:30:00Z"),
        ("SELECT '2026-13-22 10:30:00.000000' AS x", "2026-13-22 10:30:00.000000"),
        ("SELECT 9e999 AS x", None),
        ("SELECT count(*) > 3 AS x FROM pragma_table_info('runs')", 1),
        ("SELECT value AS x FROM json_each('[7]')", 7),
        ("VALUES (7)", 7),
    ],
)
def test_values_of_sqlite(run: Run, sqlite_db: str, query: str, value: Any) -> None:
    ((found,),) = (row.values() for row in strictly(run(query, "--json", db=sqlite_db).out))
    assert found == value


@pytest.mark.parametrize("query", ["PRAGMA table_info(runs)", "PRAGMA user_version", "EXPLAIN QUERY PLAN SELECT * FROM runs"])
def test_what_only_tells_is_let_through_on_sqlite(run: Run, sqlite_db: str, query: str) -> None:
    assert strictly(run(query, "--json", db=sqlite_db).out)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (r"SELECT '\xff00'::bytea", "ff00"),
        (r"SELECT '\xc3a9'::bytea", "é"),
        ("SELECT timestamptz '2026-11-22 10:30:00+02'", "2026-11-22T08:30:00Z"),
        ("SELECT timestamptz '2026-11-22 10:30:00.25Z'", "2026-11-22T10:30:00.250000Z"),
        ("SELECT timestamptz 'infinity'", "infinity"),
        ("SELECT timestamp '2026-11-22 10:30:00'", "2026-11-22 10:30:00"),
        ("SELECT date '2026-11-22'", "2026-11-22"),
        ("SELECT interval '90 s'", "00:01:30"),
        ("SELECT true", 1),
        ("SELECT 1 = 2", 0),
        ("SELECT 123456789012345678901234567890::numeric", 123456789012345678901234567890),
        ("SELECT 'NaN'::numeric", None),
        ("SELECT 'infinity'::float8", None),
        ("""SELECT '{"b": 1, "a": [2]}'::json""", '{"b": 1, "a": [2]}'),
        ("SELECT ARRAY[1, NULL]", "{1,NULL}"),
        ("SELECT row(1, 'x')", "(1,x)"),
        ("SELECT 0.1::float8 + 0.2", 0.30000000000000004),
        ("SELECT gen_random_uuid() IS NULL", 0),
        ("VALUES (7)", 7),
    ],
)
def test_values_of_postgresql(run: Run, postgresql_db: str, ordinary_db: str, query: str, value: Any) -> None:
    for db in (postgresql_db, ordinary_db):
        ((found,),) = (row.values() for row in strictly(run(query, "--json", db=db).out))
        assert (found, type(found)) == (value, type(value))


SAME = [
    *(f"SELECT * FROM {name}" for name in VIEWS),
    *(f"SELECT * FROM {name}" for name in TABLES if name not in ("streams", "events")),
    "SELECT stream_id, method, path, request_body, session_label, started_at, recorded_at FROM streams",
    "SELECT * FROM events ORDER BY stream_id, position",
    "SELECT min(started_at) AS first, max(started_at) AS last, count(*) AS n FROM v_runs",
    "SELECT sum(total_tokens) AS total, avg(total_tokens) AS mean, sum(duration_s) AS s FROM v_runs",
    "SELECT kind, count(*) AS n FROM v_failures GROUP BY kind ORDER BY kind",
    "SELECT status AS a, status AS a, 1.5 AS b, 2 * 1.0 AS c FROM runs ORDER BY run_id",
]


@pytest.mark.parametrize("query", SAME)
def test_both_databases_give_the_same_bytes(run: Run, sqlite_db: str, postgresql_db: str, ordinary_db: str, query: str) -> None:
    """Rows that come in no order are compared sorted."""
    printed: dict[str, list[list[str]]] = {}
    for db in (sqlite_db, postgresql_db, ordinary_db):
        for form in ("--csv", "--json", "--format=table"):
            done = run(query, form, db=db)
            assert done.status == 0, done.err
            if form == "--json":
                assert isinstance(strictly(done.out), list)
            pieces = done.out.replace("},{", "}\n{").strip("[]\n").split("\n")
            ordered = [line.rstrip() for line in (pieces if "ORDER BY" in query else sorted(pieces))]
            printed.setdefault(form, []).append(ordered)
    for form, (first, *others) in printed.items():
        assert others == [first, first], form


def test_a_name_that_comes_twice_keeps_both_values_in_json(run: Run, db: str) -> None:
    assert run("SELECT 1 AS a, 2 AS a, 3 AS b", "--json", db=db).out == '[{"a":1,"a_2":2,"b":3}]\n'
    assert run("SELECT 1 AS a, 2 AS a", "--csv", db=db).out == "a,a\n1,2\n"


def test_a_table_shows_its_first_rows_and_says_so(run: Run, db: str) -> None:
    query = f"{ENDLESS} SELECT n FROM t LIMIT {TABLE_ROWS + 5}"
    done = run(query, db=db)
    assert (done.status, done.out.count("\n")) == (0, 1 + TABLE_ROWS)
    assert "--limit" in done.err
    done = run(query, "--limit", str(TABLE_ROWS + 5), db=db)
    assert (done.out.count("\n"), done.err) == (1 + TABLE_ROWS + 5, "")
    assert run(query, "--csv", db=db).out.count("\n") == 1 + TABLE_ROWS + 5
    assert len(strictly(run(query, "--json", db=db).out)) == TABLE_ROWS + 5
    assert run(query, "--csv", "--limit", "2", db=db) == Done(0, "n\n1\n2\n", "")
    assert run(query, "--json", "--limit", "1", db=db) == Done(0, '[{"n":1}]\n', "")


@pytest.mark.parametrize(
    "query",
    ["SELEC 1", "SELECT * FROM nothing", "SELECT nothing FROM runs", "SELECT (", ";", " -- nothing", "SELECT 1 FROM (SELECT"],
)
def test_a_wrong_query_is_one_line(run: Run, db: str, query: str) -> None:
    done = run(query, db=db)
    assert done.status == 1
    assert done.error


# Where a query comes from


def test_from_an_argument_a_file_or_stdin(sqlite_db: str, tmp_path: Path) -> None:
    query = "SELECT 'é\n' AS x;\n".encode()
    file = tmp_path / "query.sql"
    file.write_bytes(b"\xef\xbb\xbf" + query)
    given: list[tuple[tuple[str, ...], bytes]] = [
        ((query.decode(),), b"SELECT 'not asked'"),
        (("--file", str(file)), b"SELECT 'not asked'"),
        (("-f", str(file)), b""),
        (("-f", "-"), query),
        (("-",), query),
        ((), query),
    ]
    for args, stdin in given:
        done = recorder("sql", *args, "--json", db=sqlite_db, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr) == (0, '[{"x":"é\\n"}]\n'.encode(), b""), args


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        ((), b""),
        ((), b" \n"),
        (("-",), b""),
        (("",), b""),
        (("SELECT 1", "-f", "query.sql"), b""),
        (("-f", "no such file"), b""),
        ((), b"SELECT '\xff'"),
        ((), b"SELECT 1\0; DELETE FROM events"),
        (("SELECT 1", "--json", "--csv"), b""),
        (("SELECT 1", "--json", "--format", "table"), b""),
        (("SELECT 1", "--format", "xml"), b""),
        (("SELECT 1", "--timeout", "0"), b""),
        (("SELECT 1", "--timeout", "nan"), b""),
        (("SELECT 1", "--limit", "0"), b""),
    ],
)
def test_wrong_usage_is_exit_2_and_one_line(
    sqlite_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], stdin: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("query.sql").write_text("SELECT 2")
    done = recorder("sql", *args, db=sqlite_db, stdin=stdin)
    assert done.returncode == 2
    assert Done(2, done.stdout.decode(), done.stderr.decode()).error


def test_a_terminal_is_not_waited_for(sqlite_db: str) -> None:
    """Nothing is given and nobody would know that a query is to be typed."""
    ours, theirs = pty.openpty()
    try:
        line = command("--db", sqlite_db, "sql")
        done = subprocess.run(line, stdin=theirs, capture_output=True, env=environment(), timeout=PATIENCE, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert "no query" in Done(2, done.stdout.decode(), done.stderr.decode()).error


def test_help_names_what_can_be_asked(run: Run, sqlite_db: str) -> None:
    done = run("--help", db=sqlite_db)
    assert [name for name in (*VIEWS, *TABLES) if f"{name}," not in done.out and f"{name}." not in done.out] == []


def test_the_tables_it_names_are_there(run: Run, db: str) -> None:
    for name in TABLES:
        assert run(f"SELECT count(*) AS n FROM {name}", "--json", db=db).status == 0


# Nothing is written


def state_of_sqlite(url: str) -> dict[str, Any]:
    """All that a file holds, and the files beside it and here."""
    file = Path(sa.make_url(url).database or "")
    connection = sqlite3.connect(file)
    found: dict[str, Any] = {"schema": connection.execute("SELECT * FROM sqlite_master ORDER BY name").fetchall()}
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        found[name] = connection.execute(f"SELECT * FROM {name}").fetchall()
    for pragma in ("user_version", "application_id", "journal_mode", "page_size", "auto_vacuum", "schema_version"):
        found[f"pragma {pragma}"] = connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.close()
    for folder in (file.parent, Path.cwd()):
        found[str(folder)] = sorted(path.name for path in folder.iterdir() if not path.name.startswith("log.db-"))
    return found


_COUNTED = (
    *("pg_class", "pg_proc", "pg_namespace", "pg_roles", "pg_largeobject_metadata", "pg_database", "pg_replication_slots"),
    *("pg_extension", "pg_collation", "pg_replication_origin", "pg_prepared_xacts", "pg_event_trigger", "pg_trigger"),
)


def state_of_postgresql(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """All that the tables hold, how many there are of other things, and what is set and locked."""
    tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")]
    found: dict[str, Any] = {name: sorted(connection.execute(f"SELECT t::text FROM {name} t").fetchall()) for name in tables}
    found |= {name: connection.execute(f"SELECT count(*) FROM {name}").fetchall() for name in _COUNTED}
    settings = (
        "SELECT name, setting FROM pg_settings WHERE source IN ('configuration file', 'global', 'database', 'user') ORDER BY 1"
    )
    found["settings"] = connection.execute(settings).fetchall()
    found["settings of roles"] = connection.execute("SELECT * FROM pg_db_role_setting").fetchall()
    found["sequence"] = connection.execute("SELECT last_value, is_called FROM counting").fetchall()
    found["configuration"] = connection.execute("SELECT pg_conf_load_time()").fetchall()
    return found


WRITING_SQLITE = [
    "DELETE FROM events",
    "INSERT INTO streams SELECT * FROM streams",
    "INSERT INTO runs (run_key) VALUES ('x') RETURNING run_key",
    "UPDATE runs SET status = 'x'",
    "UPDATE runs SET status = 'x' RETURNING *",
    "REPLACE INTO recorder_version VALUES ('9999')",
    "DROP TABLE runs",
    "DROP VIEW v_runs",
    "CREATE TABLE x (a)",
    "CREATE TABLE x AS SELECT * FROM runs",
    "CREATE TEMP TABLE x (a)",
    "CREATE TEMP VIEW runs AS SELECT 1",
    "CREATE VIRTUAL TABLE x USING fts5(a)",
    "CREATE VIRTUAL TABLE temp.x USING rtree(a, b, c)",
    "CREATE TRIGGER x AFTER INSERT ON runs BEGIN DELETE FROM events; END",
    "CREATE INDEX x ON runs (status)",
    "ALTER TABLE runs RENAME TO x",
    "PRAGMA user_version = 5",
    "PRAGMA application_id = 5",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA query_only = OFF",
    "PRAGMA QUERY_ONLY(0)",
    "PRAGMA writable_schema = ON",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA optimize",
    "PRAGMA incremental_vacuum",
    "PRAGMA temp_store_directory = '/'",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA main.auto_vacuum = 1",
    "SELECT * FROM pragma_journal_mode('DELETE')",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "ATTACH 'other.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "WITH x AS (SELECT 1) DELETE FROM events",
    "WITH x AS (DELETE FROM events RETURNING *) SELECT * FROM x",
    "SELECT 1; DELETE FROM events",
    "PRAGMA query_only = OFF; DELETE FROM events",
    "BEGIN IMMEDIATE",
    "BEGIN EXCLUSIVE",
    "SAVEPOINT x",
    "COMMIT",
    "ROLLBACK; DELETE FROM events",
    "REINDEX",
    "ANALYZE",
    "EXPLAIN DELETE FROM events",
    "SELECT load_extension('x')",
    "SELECT writefile('copy.db', 'x')",
    "SELECT edit('x', 'touch copy.db')",
    "SELECT fts3_tokenizer('simple', x'00')",
    "UPDATE sqlite_master SET sql = ''",
    "DELETE FROM sqlite_dbpage",
]


@pytest.mark.parametrize("query", WRITING_SQLITE)
def test_sqlite_is_never_written(run: Run, sqlite_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """Whatever is asked, the file stays as it is, no other is made, and the next query is answered."""
    monkeypatch.chdir(tmp_path)
    before = state_of_sqlite(sqlite_db)
    done = run(query, db=sqlite_db)
    assert done.status == 1
    assert done.error
    assert state_of_sqlite(sqlite_db) == before
    assert strictly(run("SELECT count(*) AS n FROM runs", "--json", db=sqlite_db).out) == [{"n": 4}]


WRITING_POSTGRESQL = [
    "DELETE FROM events",
    "DELETE FROM events RETURNING *",
    "INSERT INTO streams SELECT * FROM streams",
    "INSERT INTO recorder_version VALUES ('x') RETURNING version_num",
    "UPDATE runs SET status = 'x'",
    "MERGE INTO runs USING streams ON false WHEN MATCHED THEN DELETE",
    "TRUNCATE events",
    "DROP TABLE runs CASCADE",
    "DROP VIEW v_runs",
    "CREATE TABLE x (a int)",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x (a int)",
    "CREATE MATERIALIZED VIEW x AS SELECT 1",
    "CREATE EXTENSION vector",
    "CREATE ROLE x SUPERUSER",
    "CREATE DATABASE x",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "ALTER ROLE current_user SET statement_timeout = 0",
    "ALTER TABLE runs RENAME TO x",
    "SELECT 1 AS a INTO x",
    "WITH x AS (DELETE FROM events RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO recorder_version VALUES ('x') RETURNING *) SELECT * FROM x",
    "WITH x AS (SELECT 1) DELETE FROM events",
    "SELECT 1; DELETE FROM events",
    "COMMIT; DELETE FROM events",
    "ROLLBACK; DELETE FROM events",
    "SET TRANSACTION READ WRITE",
    "SET TRANSACTION READ WRITE; DELETE FROM events",
    "SET default_transaction_read_only = off; DELETE FROM events",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "COMMIT AND CHAIN",
    "SELECT 1) AS q(c0); DELETE FROM events; SELECT (1",
    "SELECT 1) AS q(c0); COMMIT; DELETE FROM events; --",
    "SELECT 1 $$; DELETE FROM events; --",
    "DO $$ BEGIN DELETE FROM events; END $$",
    "DO $$ BEGIN COMMIT; DELETE FROM events; END $$",
    "CALL x()",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT set_config('transaction_read_only', 'off', true), nextval('counting')",
    "SELECT query_to_xml('DELETE FROM events', true, true, '')",
    "SELECT query_to_xml('SET transaction_read_only = off', true, true, '')",
    "SELECT nextval('counting')",
    "SELECT setval('counting', 99)",
    "SELECT erasing()",
    "SELECT * FROM runs FOR UPDATE",
    "LOCK TABLE runs IN ACCESS EXCLUSIVE MODE",
    "LISTEN x",
    "NOTIFY x",
    "PREPARE x AS DELETE FROM events",
    "EXECUTE x",
    "DECLARE x CURSOR FOR SELECT 1",
    "FETCH 1 FROM recorder_rows",
    "EXPLAIN ANALYZE DELETE FROM events",
    "COPY runs FROM '/dev/null'",
    "COPY (SELECT 1) TO STDOUT",
    "COPY (SELECT 1) TO '{folder}/copied'",
    "COPY (SELECT 1) TO PROGRAM 'touch {folder}/copied'",
    "VACUUM",
    "ANALYZE runs",
    "REINDEX TABLE runs",
    "CHECKPOINT",
    "CLUSTER",
    "LOAD 'plpgsql'",
    "SET ROLE NONE",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT lo_export(1, '{folder}/exported')",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('x')",
    "SELECT pg_backup_start('x')",
    "SELECT pg_create_physical_replication_slot('x')",
    "SELECT pg_replication_origin_create('x')",
    "SELECT pg_stat_reset()",
    "SELECT pg_import_system_collations('pg_catalog')",
    "SELECT pg_promote()",
    "SELECT dblink('dbname=postgres', 'DELETE FROM events')",
    "SELECT pg_file_write('{folder}/written', 'x', false)",
]
"""What is refused. {folder}: one that the server may write."""

ESCAPING = [
    "SELECT set_config('role', 'none', false), pg_terminate_backend({victim})",
    "SELECT set_config('session_authorization', 'postgres', true), pg_terminate_backend({victim})",
    "SELECT set_config('role', 'none', true), query_to_xml('SELECT pg_reload_conf()', true, true, '')",
    "SELECT query_to_xml('SELECT set_config(''role'', ''none'', true), pg_cancel_backend({victim})', true, true, '')",
    "SELECT pg_terminate_backend({victim})",
    "SELECT pg_cancel_backend({victim})",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {victim}",
    "WITH x AS MATERIALIZED (SELECT set_config('role', 'postgres', true) AS r) SELECT r, pg_terminate_backend({victim}) FROM x",
    "SELECT becoming()",
]
"""What only a superuser could do, and is refused. {victim}: another superuser's process."""

EFFECTLESS = [
    "SELECT pg_notify('x', 'y')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(2)",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT set_config('search_path', 'pg_temp', false)",
    "SELECT set_config('timezone', 'Asia/Tokyo', false)",
    "SELECT pg_export_snapshot()",
    "SELECT pg_current_xact_id() IS NULL",
]
"""What is allowed, for it ends with the transaction or the connection."""


ADVISORY = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(scope="module")
def witness(postgresql_db: str) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection that looks on, to a database with a sequence and functions that somebody else has made."""
    with psycopg.connect(postgresql_db, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE counting")
        connection.execute("CREATE FUNCTION erasing() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM events; RETURN 1; END'")
        body = "BEGIN RESET ROLE; SET transaction_read_only = off; DELETE FROM events; PERFORM pg_reload_conf(); RETURN 1; END"
        connection.execute(f"CREATE FUNCTION becoming() RETURNS int LANGUAGE plpgsql AS '{body}'")
        connection.execute("GRANT ALL ON SEQUENCE counting TO PUBLIC")
        connection.execute("LISTEN x")
        yield connection
        connection.execute("DROP FUNCTION erasing(), becoming(); DROP SEQUENCE counting")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the server, which may be another user's process, can write."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


TRIES = [
    *(("postgresql", query) for query in (*WRITING_POSTGRESQL, *ESCAPING, *EFFECTLESS)),
    *(("ordinary", query) for query in (*WRITING_POSTGRESQL[::4], *ESCAPING, *EFFECTLESS)),  # who may less anyway
]


@pytest.mark.parametrize(("role", "query"), TRIES)
def test_postgresql_is_never_written(
    run: Run, request: pytest.FixtureRequest, witness: psycopg.Connection[Any], folder: Path, role: str, query: str
) -> None:
    """Whatever is asked, by a superuser or another, the database and its server stay as they are."""
    db = request.getfixturevalue(f"{role}_db")
    before = state_of_postgresql(witness)
    with psycopg.connect(request.getfixturevalue("postgresql_db"), autocommit=True) as victim:
        done = run(query.replace("{folder}", str(folder)).replace("{victim}", str(victim.info.backend_pid)), db=db)
        if query in EFFECTLESS:
            assert (done.status, done.err) == (0, "")
        else:
            assert done.status == 1
            assert done.error
        assert victim.execute("SELECT 1").fetchall() == [(1,)]
    assert state_of_postgresql(witness) == before
    assert list(folder.iterdir()) == []
    assert list(witness.notifies(timeout=0)) == []
    until(lambda: witness.execute(ADVISORY).fetchall() == [(0,)])  # the server lets go once it has seen the connection closed
    assert strictly(run("SELECT count(*) AS n FROM runs", "--json", db=db).out) == [{"n": 4}]


# Nothing goes on for ever, or takes all memory


RUNAWAY = {
    "recursion": (ENDLESS + "SELECT count(*) FROM t", "sqlite postgresql ordinary"),
    "rows without end": (ENDLESS + "SELECT n FROM t", "sqlite postgresql ordinary"),
    "a join": (
        ENDLESS + ", s AS (SELECT n FROM t LIMIT 9999) SELECT count(*) FROM s a, s b, s c, s d WHERE a.n + b.n + c.n + d.n < 0",
        "sqlite postgresql ordinary",
    ),
    "a regular expression": ("SELECT printf('%.*c', 40, 'a') REGEXP '(a+)+b'", "sqlite"),
    "large values": (
        "WITH RECURSIVE c(x) AS (SELECT zeroblob(90000000) UNION ALL SELECT x FROM c LIMIT 400)"
        " SELECT count(DISTINCT x || random()) FROM c",
        "sqlite",
    ),
    "a pattern": ("SELECT printf('%.*c', 3000000, 'a') LIKE '%a%a%a%a%a%a%ab'", "sqlite"),
    "series": (
        "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b, generate_series(1, 100000) c",
        "postgresql ordinary",
    ),
    "sleep": ("SELECT pg_sleep(1000)", "postgresql ordinary"),
    "its own limit": (
        "SELECT set_config('statement_timeout', '0', false), pg_sleep(CASE WHEN n > 200 THEN 1000 ELSE 0 END)"
        " FROM generate_series(1, 400) n",
        "postgresql ordinary",
    ),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, kinds) in RUNAWAY.items() for kind in kinds.split()])
def test_a_query_that_runs_away_is_stopped(request: pytest.FixtureRequest, name: str, kind: str) -> None:
    db = request.getfixturevalue(f"{kind}_db")
    done = recorder("sql", RUNAWAY[name][0], "--csv", "--timeout", "0.5", db=db)
    assert done.returncode == 1
    assert done.stderr == b"error: the query was stopped after 0.5 s; give it longer with --timeout 5\n"
    assert output("sql", "SELECT 1 AS x", "--csv", db=db) == b"x\n1\n"


def process_of_query(command: int) -> int | None:
    """The process in which a command's query runs on SQLite."""
    return next(map(int, Path(f"/proc/{command}/task/{command}/children").read_text().split()), None)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_stops_a_query_of_sqlite(sqlite_db: str) -> None:
    with Background("sql", RUNAWAY["recursion"][0], db=sqlite_db, preexec=interruptible) as running:
        process = until(lambda: process_of_query(running.process.pid), PATIENCE)
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.said == ["error: interrupted"]
        assert not Path(f"/proc/{process}").exists()


@pytest.mark.parametrize("kind", ["postgresql", "ordinary"])
def test_ctrl_c_stops_a_query_of_postgresql(request: pytest.FixtureRequest, witness: psycopg.Connection[Any], kind: str) -> None:
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with Background("sql", "SELECT pg_sleep(1000)", db=request.getfixturevalue(f"{kind}_db"), preexec=interruptible) as running:
        until(lambda: witness.execute(asleep).fetchall() == [(1,)], PATIENCE)
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.said == ["error: interrupted"]
    until(lambda: witness.execute(asleep).fetchall() == [(0,)], PATIENCE)


def interruptible() -> None:
    """For preexec: whoever runs the tests may have us ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_a_pipe_that_is_closed_early_ends_it(db: str, form: str) -> None:
    """As with `| head -1`."""
    line = command("--db", db, "sql", ENDLESS + "SELECT n FROM t", form)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10).startswith(b"n\n1\n" if form == "--csv" else b'[{"n":1}')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("form", ["--csv", "--json", "--format=table"])
def test_a_large_result_does_not_take_its_size_in_memory(db: str, form: str) -> None:
    """300 MB, in rows of 1 kB, by a process that gets 200."""
    query = f"{ENDLESS} SELECT n, '{'x' * 1000}' AS x FROM t LIMIT 300000"
    line = command("--db", db, "sql", query, form, "--timeout", "600")
    done = subprocess.run(
        line,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (200_000_000, 200_000_000)),
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_value_that_would_not_fit_is_refused_by_sqlite(run: Run, sqlite_db: str) -> None:
    assert "too big" in run("SELECT hex(zeroblob(900000000)) AS x", "--csv", db=sqlite_db).error
    assert (
        "too big"
        in run(
            f"{ENDLESS} SELECT group_concat('{'x' * 1000}') FROM (SELECT n FROM t LIMIT 200000) t", "--csv", db=sqlite_db
        ).error
    )
