"""The views: a contract that the README documents, column by column, and the same on both databases."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.collect.import_ import import_paths
from recorder.projections import runner
from recorder.protocols.failure import ERRORS, KINDS
from recorder.views import VIEWS
from tests.commands import recorder
from tests.conftest import OWN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CHAPTER = README.partition("\n## Asking SQL\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"^### (\w+)\n.*?^```sql\n(.*?)^```\n\n```\n(.*?)^```$", CHAPTER, re.MULTILINE | re.DOTALL)

Ask = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def ask(module_url: str) -> Ask:
    """recorder on a database with what the README's examples are asked of, imported by the commands that it shows."""
    commands = re.findall(r"^recorder (import .*)$", CHAPTER, re.MULTILINE)
    assert commands
    for line in commands:
        words = [str(ROOT / word) if word.startswith("fixtures/") else word for word in shlex.split(line, comments=True)]
        assert recorder(*words, db=module_url).returncode == 0
    return lambda *args: recorder(*args, db=module_url)


@pytest.fixture
def both(sqlite_url: str, postgresql_url: str) -> Iterator[list[sa.Engine]]:
    """A database of each kind, with the same in it."""
    found = []
    for url in (sqlite_url, postgresql_url):
        engine = database.engine(url, create=True)
        database.check(engine, upgrade=True)
        import_paths(engine, OWN)
        runner.catch_up(engine)
        found.append(engine)
    yield found
    for engine in found:
        engine.dispose()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_and_its_columns_stand_in_the_readme(name: str) -> None:
    part = CHAPTER.partition(f"### {name}\n")[2].partition("\n### ")[0]
    for column, meaning in VIEWS[name].columns.items():
        assert f"| `{column}` | {meaning} |" in part
    assert [columns.name for columns in VIEWS[name].select.selected_columns] == list(VIEWS[name].columns)


def test_the_kinds_of_failure_stand_in_the_readme() -> None:
    table = CHAPTER.partition("\n### ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == KINDS


def test_each_view_has_an_example() -> None:
    assert [name for name, _, _ in EXAMPLES] == list(VIEWS)


@pytest.mark.parametrize(("name", "query", "output"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_an_example_prints_what_the_readme_shows(ask: Ask, name: str, query: str, output: str) -> None:
    result = ask("sql", query)
    assert (result.returncode, result.stderr) == (0, b"")
    assert name in query
    assert [line.rstrip() for line in result.stdout.decode().splitlines()] == output.splitlines()


def test_views_have_the_same_columns_and_rows_on_both_databases(both: list[sa.Engine]) -> None:
    for name in VIEWS:
        rows: list[list[tuple[Any, ...]]] = []
        for engine in both:
            with database.read(engine) as connection:
                result = connection.execute(sa.select(sa.text("*")).select_from(sa.text(name)))
                assert list(result.keys()) == list(VIEWS[name].columns)
                rows.append(sorted((tuple(map(plain, row)) for row in result), key=repr))
        assert rows[0]
        assert rows[0] == rows[1], name


def test_a_failure_and_the_stream_that_shows_it_have_one_code_and_words(both: list[sa.Engine]) -> None:
    for engine in both:
        with database.read(engine) as connection:
            found = connection.exec_driver_sql(
                "SELECT kind, code, message, error_code, error_message, protocol FROM v_failures"
                " JOIN (SELECT stream_id, error_code, error_message FROM v_streams) AS shown USING (stream_id)"
            ).all()
            orderly = connection.exec_driver_sql(
                "SELECT error_code FROM v_streams WHERE stream_id NOT IN (SELECT stream_id FROM v_failures)"
            ).all()
        told = [row for row in found if row.kind in ERRORS]
        assert {row.protocol for row in told} >= {"assistants", "responses", "chat", "anthropic"}
        assert [row for row in told if (row.code, row.message) != (row.error_code, row.error_message)] == []
        assert {row.error_code for row in found if row.kind not in ERRORS} | {*orderly} == {None, (None,)}


def plain(value: Any) -> Any:
    """Times as SQLite has them; a number as one."""
    if hasattr(value, "astimezone"):
        return database.UTCTime().process_result_value(value, None).strftime("%Y-%m-%d %H:%M:%S.%f")  # type: ignore
    return str(value) if type(value).__name__ == "UUID" else value
