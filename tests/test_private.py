"""What is written is for its owner alone, moves no cursor, is no formula where that is asked for, and names no password."""

from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import database, private
from recorder.cli import output as printed
from recorder.csvfile import CSVFile, inert
from recorder.errors import DatabaseError
from tests.commands import output


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    (tmp_path / "a.sse").write_text('event: thread.created\ndata: {"id": "thread_1", "object": "thread"}\n\n')
    db = tmp_path / "log.db"
    output("import", str(tmp_path / "a.sse"), db=db)
    return db


def test_an_export_is_for_its_owner_alone_and_what_is_there_keeps_its_mode(recorded: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.touch()
    there.chmod(0o644)
    stream_id = json.loads(output("sql", "SELECT stream_id FROM streams", "--json", db=recorded))[0]["stream_id"]
    output("export", stream_id, "-o", str(tmp_path / "a.jsonl"), db=recorded)
    output("export", "events", "--format", "csv", "-o", str(tmp_path / "new.csv"), db=recorded)
    output("export", "events", "--format", "csv", "-o", str(there), db=recorded)
    output("export", "--all", "--format", "csv", "-o", str(tmp_path / "all"), db=recorded)
    assert [mode(tmp_path / name) for name in ("a.jsonl", "new.csv", "there.csv", "all")] == [0o600, 0o600, 0o644, 0o700]
    inside = list((tmp_path / "all").rglob("*"))
    assert {(path.is_dir(), mode(path)) for path in inside} == {(True, 0o700), (False, 0o600)}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private.folder(tmp_path / "a" / "b")
    assert [mode(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [0o755, 0o700, 0o700]


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "-1-1", "=", "-"])
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(text: str) -> None:
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("value", ["", "a=1", "-1", "+1.5e-3", "'=1", -1, 1.5, None, True])
def test_any_other_cell_stays(value: object) -> None:
    assert inert(value) is value


def test_each_command_with_csv_has_it_safe_on_request(recorded: Path) -> None:
    asked = "SELECT '=1+1' AS \"=a\", -5 AS n, '-5' AS t"
    assert output("sql", asked, "--csv", db=recorded) == b"=a,n,t\n=1+1,-5,-5\n"
    assert output("sql", asked, "--csv-safe", db=recorded) == b"'=a,n,t\n'=1+1,-5,-5\n"
    for command in (["ls"], ["usage"], ["failures"]):
        assert output(*command, "--csv-safe", db=recorded) == output(*command, "--csv", db=recorded)
    exported = output("export", "streams", "--format", "csv", "--csv-safe", db=recorded)
    assert exported == output("export", "streams", "--format", "csv", db=recorded)


def test_an_exported_table_is_safe_on_request() -> None:
    file = io.BytesIO()
    CSVFile(file, {"a": "text", "b": "bytes", "n": "integer"}, safe=True).write([("=1", b"@x,y", -2)])
    assert list(csv.reader(io.StringIO(file.getvalue().decode()))) == [["a", "b", "n"], ["'=1", "'@x,y", "-2"]]


def test_json_on_a_terminal_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": "\x9b31m\x7f\x85 \u202e é\u2028"}
    monkeypatch.setattr(printed, "is_screen", lambda: True)
    shown = printed.document(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert [char for char in shown if not char.isprintable()] == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3same@h/d",
        "postgresql://h/d?user=u&password=s3same",
        "postgresql://h/d?sslpassword=s3same&sslkey=k",
        "postgresql://h/d?PASSWORD=s3same",
    ],
)
def test_a_message_has_no_password_of_a_database(url: str) -> None:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    assert "s3same" not in database.shown(engine)
    with pytest.raises(DatabaseError) as raised:
        database.engine(url.replace("postgresql:", "postgresql"), create=False)
    assert "s3same" not in str(raised.value)
