"""Migrations that have landed are frozen: a database carries their number, and takes it for what they made."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.errors import DatabaseError

FROZEN = {
    "0001_tables.py": "356b7cd13a4d1273",
    "0002_writers.py": "ab6629fde9e96db2",
    "0003_protocols.py": "e19e40df86758afd",
    "0004_questions.py": "fb972a801c0fb1cc",
    "0005_costs.py": "f98b6f28d96a2bb3",
    "0006_foreign_keys.py": "4b4a424e82064b4a",
    "0007_call_keys.py": "fd18582507861b91",
}
"""Name → the beginning of its hash (SHA-256). A change of the schema is a new migration, and a line here."""


def test_a_migration_that_has_landed_is_frozen() -> None:
    found = {file.name: sha256(file.read_bytes()).hexdigest()[:16] for file in (database.migrations() / "versions").glob("*.py")}
    assert found == FROZEN


def test_a_schema_that_is_not_what_its_number_says_is_named(url: str) -> None:
    """Of a migration that was edited after it had made this database."""
    engine = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    database.check(engine, upgrade=True)
    with database.write(engine) as connection:
        connection.execute(sa.text("DROP VIEW IF EXISTS v_usage_hourly"))
        connection.execute(sa.text("DROP TABLE pending_sums"))
        connection.execute(sa.text("CREATE TABLE pending_sums (key text)"))
    for upgrade in (True, False):
        with pytest.raises(DatabaseError, match="was made by a recorder of before the first release"):
            database.check(engine, upgrade=upgrade)
    engine.dispose()


def test_a_migration_that_finds_other_tables_than_its_number_says_names_that(url: str) -> None:
    engine = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    database.check(engine, upgrade=True)
    with database.write(engine) as connection:
        connection.execute(sa.text(f"UPDATE {database.VERSION_TABLE} SET version_num = '0002'"))
    with pytest.raises(DatabaseError, match="whose schema 0002 was another"):
        database.check(engine, upgrade=True)
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite:///x.db?mode=ro", "sqlite:///what?.db", "sqlite:///:memory:?cache=shared"])
def test_what_stands_after_a_question_mark_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be left out silently, and another file opened."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseError, match="no options"):
        database.connect(url)
    assert list(tmp_path.iterdir()) == []
