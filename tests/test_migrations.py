"""Migrations that have landed are frozen: a database carries their number, and takes it for what they made."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from recorder import database, mending, views
from recorder.collect.import_ import import_paths
from recorder.errors import DatabaseError, OldSchema
from recorder.projections import runner
from recorder.projections.verify import verify

FIXTURES = Path(__file__).parents[1] / "fixtures"

FROZEN = {
    "0001_tables.py": "356b7cd13a4d1273",
    "0002_writers.py": "ab6629fde9e96db2",
    "0003_protocols.py": "e19e40df86758afd",
    "0004_questions.py": "fb972a801c0fb1cc",
    "0005_costs.py": "f98b6f28d96a2bb3",
    "0006_foreign_keys.py": "4b4a424e82064b4a",
    "0007_call_keys.py": "fd18582507861b91",
    "0008_stream_errors.py": "95870a958f96ea62",
}
"""Name → the beginning of its hash (SHA-256). A change of the schema is a new migration, and a line here."""


def test_a_migration_that_has_landed_is_frozen() -> None:
    found = {file.name: sha256(file.read_bytes()).hexdigest()[:16] for file in (database.migrations() / "versions").glob("*.py")}
    assert found == FROZEN


def _edited_sums(connection: sa.Connection) -> None:
    """As before the sums had a migration's column and a table of their own; another table has more than it should."""
    connection.execute(sa.text("DROP VIEW IF EXISTS v_usage_hourly"))
    connection.execute(sa.text("DROP TABLE pending_sums"))
    connection.execute(sa.text("CREATE TABLE pending_sums (key text)"))
    connection.execute(sa.text("CREATE TABLE costs_hourly (hour text, cost_nusd integer)"))


def _edited_answers(connection: sa.Connection) -> None:
    connection.execute(sa.text("DROP TABLE tool_answers"))
    connection.execute(sa.text("CREATE TABLE tool_answers (stream_id text, tool_call_id text)"))
    connection.execute(sa.text("ALTER TABLE tool_calls DROP COLUMN awaited"))
    connection.execute(sa.text(f"UPDATE {database.VERSION_TABLE} SET version_num = '0002'"))


def _edited_log(connection: sa.Connection) -> None:
    """As before writers were known, with a number that came to be that of writers."""
    connection.execute(sa.text("DROP INDEX ix_streams_writer_id"))
    connection.execute(sa.text("ALTER TABLE streams DROP COLUMN writer_id"))
    connection.execute(sa.text("DROP TABLE writers"))
    connection.execute(sa.text(f"UPDATE {database.VERSION_TABLE} SET version_num = '0002'"))


EDITS = {"sums": _edited_sums, "answers": _edited_answers, "log": _edited_log}


@pytest.fixture
def recorded(url: str) -> Iterator[sa.Engine]:
    """A database with streams that are projected."""
    engine = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    database.check(engine, upgrade=True)
    import_paths(engine, [FIXTURES / "anthropic" / "tool-use-pending.sse", FIXTURES / "assistants" / "crlf.sse"])
    runner.catch_up(engine)
    yield engine
    engine.dispose()


def _contents(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    """All that the log and the read models hold."""
    with engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
            for name, table in database.metadata.tables.items()
        }


@pytest.mark.parametrize("edit", EDITS)
def test_a_schema_that_is_not_what_its_number_says_is_made_anew_from_the_log(
    edit: str, recorded: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a migration that was edited after it had made this database."""
    before = _contents(recorded)
    with database.write(recorded) as connection:
        EDITS[edit](connection)
    with pytest.raises(OldSchema, match="run `recorder db upgrade`"):
        database.check(recorded, upgrade=False)
    database.check(recorded, upgrade=True)
    assert ["the log (2 streams) is kept" in record.message for record in caplog.records] == [True]
    database.check(recorded, upgrade=False)
    runner.catch_up(recorded)
    assert _contents(recorded) == before
    assert verify(recorded).problems == []
    with recorded.connect() as connection:
        compared = MigrationContext.configure(connection, opts={"version_table": database.VERSION_TABLE})
        assert [found for found in compare_metadata(compared, database.metadata) if found[0] != "remove_fk"] == []
        assert len(connection.execute(sa.text("SELECT * FROM v_runs")).all()) == len(before["runs"])


def test_indexes_that_are_lacking_are_made(recorded: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that has fewer columns than it came to have."""
    with database.write(recorded) as connection:
        connection.execute(sa.text("DROP INDEX runs_model"))
        connection.execute(sa.text("CREATE INDEX runs_model ON runs (model)"))
        connection.execute(sa.text("DROP INDEX ix_streams_recorded_at"))
    database.check(recorded, upgrade=False)  # every answer is right
    database.check(recorded, upgrade=True)
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["ix_streams_recorded_at, runs_model"]
    with recorded.connect() as connection:
        assert mending.lacking(connection, database.metadata) == {}


def test_a_database_that_cannot_be_mended_stays_as_it_was(recorded: sa.Engine) -> None:
    with database.write(recorded) as connection:
        _edited_sums(connection)
        connection.execute(sa.text("CREATE TABLE before_events (key text)"))  # in the way
    before = sa.inspect(recorded).get_table_names()
    with pytest.raises(DatabaseError, match=r"could not be mended .*before_events.* export its sessions"):
        database.check(recorded, upgrade=True)
    assert sa.inspect(recorded).get_table_names() == before
    with recorded.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM streams")).scalar() == 2


def test_what_is_made_anew_is_all_but_the_log(recorded: sa.Engine) -> None:
    there = {*sa.inspect(recorded).get_table_names(), "costs_hourly"}  # that was there once
    assert {*mending.LOG, *mending.DERIVED, database.VERSION_TABLE} == there
    assert set(mending.VIEWS) == set(views.VIEWS)


@pytest.mark.parametrize("url", ["sqlite:///x.db?mode=ro", "sqlite:///what?.db", "sqlite:///:memory:?cache=shared"])
def test_what_stands_after_a_question_mark_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be left out silently, and another file opened."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseError, match="no options"):
        database.connect(url)
    assert list(tmp_path.iterdir()) == []
