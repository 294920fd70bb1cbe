"""Migrations that have landed are frozen: a database carries their number, and takes it for what they made."""

from __future__ import annotations

from hashlib import sha256

from recorder import database

FROZEN = {
    "0001_tables.py": "356b7cd13a4d1273",
    "0002_writers.py": "ab6629fde9e96db2",
    "0003_protocols.py": "e19e40df86758afd",
    "0004_questions.py": "fb972a801c0fb1cc",
    "0005_costs.py": "f98b6f28d96a2bb3",
    "0006_foreign_keys.py": "4b4a424e82064b4a",
}
"""Name → the beginning of its hash (SHA-256). A change of the schema is a new migration, and a line here."""


def test_a_migration_that_has_landed_is_frozen() -> None:
    found = {file.name: sha256(file.read_bytes()).hexdigest()[:16] for file in (database.migrations() / "versions").glob("*.py")}
    assert found == FROZEN
