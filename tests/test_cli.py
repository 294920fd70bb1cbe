"""The command line: what each command prints, how it ends, and how it says that it could not."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recorder import database, log
from recorder.cli import COMMANDS, main
from recorder.sse import Frame
from tests import writing
from tests.commands import Background, Done, bound, command, environment, output, recorder, sqlite, strictly, until
from tests.conftest import OWN
from tests.writing import DONE, encoded, said, stream_id

pytestmark = pytest.mark.slow

READING = {
    "export": ("export", "last"),
    "ls": ("ls",),
    "show": ("show", "last"),
    "tail": ("tail",),
    "replay": ("replay", "last", "--instant"),
    "usage": ("usage",),
    "failures": ("failures",),
    "sql": ("sql", "SELECT count(*) AS n FROM streams"),
    "verify": ("verify",),
    "rebuild": ("rebuild",),
    "project": ("project",),
    "delete": ("delete", "last", "--yes"),
    "db current": ("db", "current"),
}
"""Commands that are about what has been recorded: none makes a database."""

JSON = {
    "ls": ("ls",),
    "show stream": ("show", stream_id(0)),
    "show stream at": ("show", stream_id(0), "--at", "2"),
    "show run": ("show", "run_1"),
    "show run at": ("show", "run_1", "--at", "2"),
    "show session": ("show", "thread_1"),
    "show last": ("show", "last"),
    "usage": ("usage",),
    **{f"usage by {by}": ("usage", "--by", by) for by in ("model", "assistant", "day", "hour", "protocol", "session")},
    "failures": ("failures",),
    **{f"failures by {by}": ("failures", "--by", by) for by in ("code", "tool", "model")},
    "sql": ("sql", "SELECT * FROM runs"),
    "sql nothing": ("sql", "SELECT * FROM runs WHERE 0"),
    "verify": ("verify",),
    "verify one": ("verify", "run_1"),
    "db current": ("db", "current"),
}


Run = Callable[..., Done]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def run(file: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a command line in this process, against `file` unless it is given another database."""

    def running(*args: str, db: str | Path = file) -> Done:
        capfdbinary.readouterr()
        status = main(["--db", sqlite(db) if isinstance(db, Path) else db, *args])
        out, err = capfdbinary.readouterr()
        return Done(status, out.decode(), err.decode())

    return running


@cache
def content() -> bytes:
    """A database with a run that is well, one that failed, and a stream that is still open; made once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.db"
        engine = database.connect(sqlite(file))
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        writing.write(engine, writing.stream(0), writing.frames(said(usage=usage)))
        error = {"code": "server_error", "message": "sorry"}
        failed = [("thread.run.failed", writing.run("failed", "run_2", thread_id="thread_2", last_error=error)), DONE]
        writing.write(engine, writing.stream(1, label="mine"), writing.frames(failed))
        writing.write(engine, writing.stream(2, label="open"), writing.frames(said(id="run_3")[:3], None))
        engine.dispose()
        return file.read_bytes()


def fill(file: Path) -> Path:
    file.write_bytes(content())
    return file


@pytest.fixture
def filled(file: Path) -> Path:
    return fill(file)


def rows(file: Path) -> dict[str, list[Any]]:
    """All that a database holds."""
    connection = sqlite3.connect(file)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    connection.close()
    return found


# Help and usage


@pytest.mark.parametrize("name", [*COMMANDS, "db upgrade", "db current"])
def test_every_command_has_help(run: Run, file: Path, name: str) -> None:
    done = run(*name.split(), "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: recorder {name}")
    assert done.err == ""
    assert not file.exists()


def test_help_names_every_command() -> None:
    done = recorder("--help", db="sqlite:///x.db")
    assert done.returncode == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout.decode()] == []


def test_without_a_command_it_shows_help_and_is_wrong_usage(run: Run) -> None:
    assert run().status == 2


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("show",),
        ("show", "a", "b"),
        ("show", "last", "--at", "x"),
        ("show", "last", "--at", "-1"),
        ("show", "thread_1", "--at", "1"),
        ("ls", "--nonsense"),
        ("ls", "--limit", "0"),
        ("ls", "--since", "yesterday"),
        ("usage", "--by", "colour"),
        ("usage", "--since", "2026-13-01"),
        ("failures", "--by", ""),
        ("replay", "last", "--speed", "0"),
        ("replay", "last", "--speed", "-1"),
        ("replay", "last", "--speed", "nan"),
        ("replay", "last", "--speed", "fast"),
        ("replay", "last", "--max-gap", "-1"),
        ("replay", "last", "--max-gap", "nan"),
        ("replay", "last", "--from", "-1"),
        ("export", "last", "--format", "mp3"),
        ("export", "thread_1", "--format", "sse"),
        ("import",),
        ("import", "--pace", "0", "x.sse"),
        ("import", "--pace", "nan", "x.sse"),
        ("sql",),
        ("sql", "SELECT 1", "--format", "xml"),
        ("tail", "-n", "-1"),
        ("proxy",),
        ("proxy", "--upstream", "http://x", "--port", "99999"),
        ("proxy", "--upstream", "http://x", "--durability", "total"),
        ("proxy", "--upstream", "http://x", "--host", "0.0.0.0"),
        ("db",),
        ("db", "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(run: Run, filled: Path, args: tuple[str, ...]) -> None:
    engine = database.connect(sqlite(filled))
    writing.write(engine, writing.stream(3), writing.frames(said(id="run_4")))  # so that thread_1 has several streams
    engine.dispose()
    done = run(*args)
    assert done.status == 2
    if args != ("db",):
        assert done.error


# JSON


@pytest.mark.parametrize("name", JSON)
def test_json_is_one_document_on_stdout(run: Run, filled: Path, name: str) -> None:
    done = run(*JSON[name], "--json")
    assert (done.status, done.err) == (0, "")
    assert done.out.count("\n") == 1
    assert isinstance(strictly(done.out), list | dict)


@pytest.mark.parametrize("name", [name for name in JSON if not name.startswith(("show", "verify one"))])
def test_json_of_an_empty_database_is_a_document_too(run: Run, file: Path, name: str) -> None:
    database.connect(sqlite(file)).dispose()
    done = run(*JSON[name], "--json")
    assert (done.status, done.err) == (0, "")
    strictly(done.out)


def test_import_says_a_row_for_each_path(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.sse", "a.sse"):
        (folder / name).write_bytes(b"data: %s\n\n" % name.encode())
    done = run("import", "--json", str(folder), str(folder / "a.sse"))
    found = strictly(done.out)
    assert [(row["path"], row["events"]) for row in found] == [(str(folder / name), 1) for name in ("a.sse", "b.sse", "a.sse")]
    assert found[0]["stream_id"] == found[2]["stream_id"] != found[1]["stream_id"]


def test_tail_prints_json_lines(run: Run, filled: Path) -> None:
    done = run("tail", stream_id(0), "-n", "3", "--json")
    found = [strictly(line) for line in done.out.splitlines()]
    assert [set(row) for row in found] == [{"stream_id", "position", "offset_us", "type", "data"}] * 3
    assert [row["position"] for row in found] == [8, 9, 10]
    assert run("tail", stream_id(0), "-n", "0", "--json").out == ""
    assert len(run("tail", stream_id(0), "-n", "99", "--json").out.splitlines()) == 11


def test_tail_of_several_streams_has_the_last_events_of_all_in_the_order_in_which_they_came(run: Run, file: Path) -> None:
    engine = database.connect(sqlite(file))
    for number, started in ((1, 0.0), (2, 2.0), (3, 1.0)):
        shown = [writing.Frame("e", f"{number}/{at}", None, at * 1_000_000) for at in range(4)]
        writing.write(engine, writing.stream(number, label="several", started=started), shown)
    engine.dispose()
    found = [strictly(line)["data"] for line in run("tail", "several", "-n", "5", "--json").out.splitlines()]
    assert found == ["3/2", "2/1", "3/3", "2/2", "2/3"]


def test_show_has_what_is_promised(run: Run, filled: Path) -> None:
    shown = strictly(run("show", "run_1", "--json").out)
    assert {"id", "status", "model", "usage", "steps", "messages", "streams", "protocol", "anomalies"} <= set(shown)
    assert shown["streams"] == [{"stream_id": stream_id(0), "outcome": "done", "events": 10}]
    shown = strictly(run("show", stream_id(0), "--json").out)
    assert {"stream_id", "method", "host", "path", "outcome", "protocol", "events", "runs"} <= set(shown)
    assert set(shown["events"][0]) == {"position", "offset_us", "type", "data", "cuts"}
    assert shown["runs"] == ["run_1"]
    shown = strictly(run("show", "mine", "--json").out)
    assert shown == {
        "session_id": "mine",
        "streams": [{"stream_id": stream_id(1), "outcome": "done", "events": 2}],
        "runs": ["run_2"],
        "anomalies": [],
    }


def test_usage_and_failures_have_what_is_promised(run: Run, filled: Path) -> None:
    (row,) = strictly(run("usage", "--json").out)
    tokens = ["prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens", "total_tokens"]
    assert list(row) == ["runs", "runs_without_usage", *tokens, "cost_usd", "runs_without_cost"]
    assert (row["runs"], row["runs_without_usage"], row["total_tokens"]) == (3, 2, 7)
    (failure,) = strictly(run("failures", "--json").out)
    assert (failure["run_id"], failure["status"], failure["code"]) == ("run_2", "failed", "server_error")
    assert strictly(run("failures", "--by", "code", "--json").out) == [{"code": "server_error", "runs": 1}]


# Files that are odd


def importing(run: Run, tmp_path: Path, name: str, body: bytes) -> list[dict[str, Any]]:
    (tmp_path / name).write_bytes(body)
    done = run("import", "--json", str(tmp_path / name))
    assert (done.status, done.err) == (0, "")
    return strictly(done.out)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("body", "events", "outcome"),
    [
        pytest.param(b"", 0, "eof", id="empty"),
        pytest.param(b"data: {\"a\":1}\n\nevent: x\ndata: {\"b", 1, "cut", id="half an event"),
        pytest.param(b"data: {\"a\":1}\n\ndata: {\"b\":2}\n", 1, "cut", id="all but the blank line"),
        pytest.param(b"event: thread.run.created\ndata: {\"id\": \"\xff\xfe\"}\n\n", 1, "eof", id="invalid UTF-8"),
        pytest.param(b"event: thread.run.created\ndata: {not json\n\n", 1, "eof", id="invalid JSON"),
        pytest.param(b"event: thread.run.created\ndata: {\"id\": \"run_\x00\"}\n\n", 1, "eof", id="NUL"),
        pytest.param(b"event: thread.run.created\ndata: {\"id\": \"run_\\u0000\\ud800\"}\n\n", 1, "eof", id="escaped NUL"),
        pytest.param(b"event: thread.run.created\ndata: [1, 2]\n\n", 1, "eof", id="a list"),
        pytest.param(b"event: thread.run.created\ndata: {\"id\": 5, \"usage\": 7}\n\n", 1, "eof", id="wrong types"),
        pytest.param(b"event: thread.run.created\ndata: " + b"[" * 20_000 + b"\n\n", 1, "eof", id="deep nesting"),
        pytest.param(b"no: stream\nat all\n", 0, "cut", id="no stream"),
        pytest.param(bytes(range(256)) * 50, 0, "cut", id="binary"),
        pytest.param(b"\n" * 1000, 0, "eof", id="blank lines"),
        pytest.param("event: \u202eevil\ndata: \x1b[31m\n\n".encode(), 1, "eof", id="control characters"),
    ],
)  # fmt: skip
def test_an_odd_file_is_imported_shown_and_given_back(run: Run, tmp_path: Path, body: bytes, events: int, outcome: str) -> None:
    """Raw first, meaning later: nothing is rejected because it does not parse."""
    (row,) = importing(run, tmp_path, "odd.sse", body)
    assert row["events"] == events
    shown = strictly(run("show", row["stream_id"], "--json").out)
    assert shown["outcome"] == outcome
    for args in (("show", row["stream_id"]), ("ls",), ("usage",), ("failures",), ("tail",)):
        assert run(*args).status == 0
    for name in ("ls", "usage by session", "failures", "sql"):
        strictly(run(*JSON[name], "--json").out)
    for id in shown["runs"]:
        assert run("show", id, "--json").status == 0
    assert run("verify").status == 0
    assert output("export", row["stream_id"], "--format", "sse", db=tmp_path / "log.db") == body


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("x.recording.jsonl", b""),
        ("x.recording.jsonl", b"data: {}\n\n"),
        ("x.recording.jsonl", b'{"recorder": 999, "streams": []}\n'),
        ("x.recording.jsonl", b'{"recorder": 1}\n'),
        ("x.recording.jsonl", b'{"recorder": 1, "streams": [{}]}\n'),
        ("x.recording.jsonl", b'{"recorder": 1, "streams": [5]}\n'),
        ("x.recording.jsonl", b'{"recorder": 1, "streams": []}\n[0, 0, "a", "b"]\n'),
        ("x.recording.jsonl", b'{"recorder": 1, "streams": []}\n{"a": 1}\n'),
        ("x.recording.jsonl", b"\xff\xfe\n"),
        ("x.recording.jsonl", b"[]\n"),
        ("x.recording.jsonl", b'"text"\n'),
        ("x.txt", b"data: x\n\n"),
        ("x.request.json", b"{}"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(run: Run, tmp_path: Path, file: Path, name: str, body: bytes) -> None:
    (tmp_path / name).write_bytes(body)
    done = run("import", str(tmp_path / name))
    assert done.status == 1
    assert name in done.error


def test_paths_that_lead_nowhere_are_one_line_and_leave_no_database(run: Run, tmp_path: Path, file: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (tmp_path / "missing.sse", empty):
        done = run("import", str(path))
        assert done.status == 1
        assert str(path) in done.error
    assert not file.exists()


def test_an_import_of_nothing_readable_says_which(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loop.sse").symlink_to(tmp_path / "loop.sse")
    done = run("import", str(tmp_path / "loop.sse"))
    assert done.status == 1
    assert "loop.sse" in done.error


@pytest.mark.slow
def test_a_stream_of_200_000_events(run: Run, tmp_path: Path, file: Path) -> None:
    body = encoded(said()[:4]) + encoded([writing.text_delta("word ", id="msg_of_run_1")]) * 200_000 + encoded([DONE])
    (row,) = importing(run, tmp_path, "large.sse", body)
    assert row["events"] == 200_005
    (session,) = strictly(run("ls", "--json").out)
    assert (session["events"], session["statuses"]) == (200_005, ["unknown"])
    shown = strictly(run("show", "run_1", "--json").out)
    assert shown["messages"][0]["content"][0]["text"]["value"] == "word " * 200_000
    assert len(strictly(run("show", row["stream_id"], "--json").out)["events"]) == 200_006
    assert len(run("tail", row["stream_id"], "--json").out.splitlines()) == 10
    assert run("verify").status == 0
    assert output("export", row["stream_id"], "--format", "sse", db=file) == body


# Recordings


def test_a_session_goes_through_a_file_into_another_database_and_comes_out_the_same(
    run: Run, filled: Path, tmp_path: Path
) -> None:
    for id in ("thread_1", "mine", "open"):
        file = tmp_path / f"{id}.recording.jsonl"
        assert run("export", id, "-o", str(file)) == Done(0, "", "")
        assert run("import", str(file), db=tmp_path / "other.db").status == 0
        assert run("export", id, db=tmp_path / "other.db").out == file.read_text()
    for name in ("ls", "usage", "failures"):
        assert run(name, "--json", db=tmp_path / "other.db").out == run(name, "--json").out


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda text: text.replace('"recorder":2', '"recorder":3', 1), "line 1: a recording of version 3"),
        (lambda text: text[: len(text) // 2], "breaks off in line"),
        (lambda text: text.replace("[2000,", "[soon,", 1), "line 5 is not of a recording"),
    ],
    ids=["newer", "truncated", "a wrong line"],
)
def test_a_recording_that_is_spoilt_is_one_line_that_says_where_and_what_to_do(
    run: Run, filled: Path, tmp_path: Path, spoilt: Callable[[str], str], said: str
) -> None:
    file = tmp_path / "x.recording.jsonl"
    file.write_text(spoilt(run("export", "thread_1").out))
    done = run("import", str(file), db=tmp_path / "other.db")
    assert done.status == 1
    assert said in done.error
    assert "pip install" in done.error or "recorder export" in done.error


def test_an_export_is_redacted_by_the_settings_and_by_what_is_known(run: Run, file: Path, tmp_path: Path) -> None:
    engine = database.connect(sqlite(file))
    secrets = ("sk-proj-0123456789abcdef", "secret-7")
    request = writing.THREADS._replace(body={"input": " and ".join(secrets)})
    writing.write(engine, writing.stream(0, request), writing.frames(said(f"{secrets[0]} then {secrets[1]}")))
    engine.dispose()
    (tmp_path / "settings.toml").write_text("[redact]\npatterns = ['secret-\\d']\n")
    by_settings = ("--settings", str(tmp_path / "settings.toml"))
    for form in ("recording", "sse"):
        plain = run("export", "last", "--format", form).out
        found = {
            options: [secret in run("export", "last", "--format", form, *options).out for secret in secrets]
            for options in ((), ("--redact",), by_settings, ("--redact", *by_settings))
        }
        assert list(found.values()) == [[True, True], [False, True], [True, False], [False, False]]
        redacted = run("export", "last", "--format", form, "--redact", *by_settings).out
        assert [len(line) for line in redacted.splitlines()] == [len(line) for line in plain.splitlines()]
    assert "sk-" not in run("export", "last", "--redact").out, "nor the part of it that came in a delta of its own"


# Two sessions


@pytest.fixture
def two(filled: Path) -> Path:
    """A database in which thread_1 was asked again, under other ids; and again, with another answer."""
    engine = database.connect(sqlite(filled))
    for number, text in ((10, "Hello there"), (11, "Hello where")):
        own = writing.THREADS._replace(path=f"/v1/threads/thread_{number}/runs")
        writing.write(
            engine, writing.stream(number, own), writing.frames(said(text, f"run_{number}", thread_id=f"thread_{number}"))
        )
    engine.dispose()
    return filled


def test_diff_of_what_is_equal_is_exit_0(run: Run, two: Path) -> None:
    for pair in (("thread_1", "thread_10"), ("run_1", "run_10"), (stream_id(0), stream_id(10)), ("run_1", "thread_1")):
        assert run("diff", *pair) == Done(0, "", "no difference (1 exchange of A, 1 of B)\n")
        assert strictly(run("diff", *pair, "--json").out)["differences"] == []


def test_diff_names_the_first_divergence_and_is_exit_1(run: Run, two: Path) -> None:
    done = run("diff", "thread_1", "thread_11")
    assert (done.status, done.err) == (1, "1 difference (1 exchange of A, 1 of B)\n")
    assert done.out.splitlines() == [
        f"first divergence: exchange 1, message 1 (assistant): text (A {stream_id(0)}:5, B {stream_id(11)}:5)",
        "  - Hello there",
        "  + Hello where",
    ]
    found = strictly(run("diff", "thread_1", "thread_11", "--json").out)
    assert (found["equal"], found["a"]["kind"], found["b"]["streams"]) == (False, "session", [stream_id(11)])
    assert found["differences"] == [
        {
            "exchange": {"a": 1, "b": 1},
            "item": "message 1 (assistant)",
            "fact": "text",
            "field": None,
            "a": "Hello there",
            "b": "Hello where",
            "at": {"a": {"stream_id": stream_id(0), "position": 5}, "b": {"stream_id": stream_id(11), "position": 5}},
        }
    ]


def test_diff_takes_recording_files_with_and_without_a_database(run: Run, two: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{id}.recording.jsonl") for id in ("run_1", "run_11")]
    for file in files:
        assert run("export", Path(file).name.partition(".")[0], "-o", file).status == 0
    assert run("diff", *files, db=tmp_path / "none.db").status == 1
    assert run("diff", files[0], "thread_10").status == 0
    assert not (tmp_path / "none.db").exists()
    Path(files[1]).write_text("{}\n")
    assert files[1] in run("diff", *files).error


# IDs


@pytest.mark.parametrize("name", ["show", "export", "replay", "delete", "tail", "verify"])
def test_an_unknown_id_is_one_line(run: Run, filled: Path, name: str) -> None:
    args = [name, "nothing-like-it", *(["--yes"] if name == "delete" else [])]
    done = run(*args)
    assert done.status == 1
    assert "nothing-like-it" in done.error


@pytest.mark.parametrize("name", ["show", "export", "replay", "delete", "tail", "verify"])
def test_a_prefix_of_several_is_one_line_that_names_them(run: Run, filled: Path, name: str) -> None:
    before = rows(filled)["events"]
    run("project")
    done = run(name, "run_", *(["--yes"] if name == "delete" else []))
    assert done.status == 1
    assert "run_1" in done.error
    assert "run_2" in done.error
    assert rows(filled)["events"] == before


# Databases


@pytest.mark.parametrize("name", READING)
def test_a_database_that_is_not_there_is_not_made(run: Run, file: Path, name: str) -> None:
    done = run(*READING[name])
    assert done.status == 1
    assert str(file) in done.error
    assert not file.exists()


def newer(file: Path) -> None:
    fill(file)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE recorder_version SET version_num = '9999'")
    connection.close()


def foreign(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE invoices (id)")
    connection.close()


def half(file: Path) -> None:
    fill(file)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


UNUSABLE: dict[str, Callable[[Path], Any]] = {
    "of a newer version": newer,
    "of another program": foreign,
    "no database": lambda file: file.write_text("Dear diary,\n" * 1000),
    "an empty file": lambda file: file.touch(),
    "a folder": lambda file: file.mkdir(),
    "torn in half": half,
}


@pytest.mark.parametrize("what", UNUSABLE)
@pytest.mark.parametrize("name", READING)
def test_a_database_that_cannot_be_read_is_one_line(run: Run, file: Path, name: str, what: str) -> None:
    UNUSABLE[what](file)
    before = file.read_bytes() if file.is_file() else b""
    done = run(*READING[name])
    if (name, what) == ("db current", "of a newer version"):
        assert (done.status, done.err) == (1, "")
        return
    if (name, what) == ("db current", "torn in half"):
        return
    assert done.status == 1
    assert "log.db" in done.error
    assert what == "torn in half" or not file.is_file() or file.read_bytes() == before


WRITING = {
    "import": ("import", "x.sse"),
    "db upgrade": ("db", "upgrade"),
    "proxy": ("proxy", "--upstream", "http://127.0.0.1:9", "--port", "0"),
}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name in WRITING
        for what in UNUSABLE
        if what != "an empty file" and (name, what) != ("proxy", "torn in half")
    ],
)
def test_a_database_that_cannot_be_written_is_one_line(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.sse").write_bytes(b"data: x\n\n")
    UNUSABLE[what](file)
    done = run(*WRITING[name])
    if what == "torn in half" and done.status == 0:
        return  # the half that was left was enough for it
    assert done.status == 1
    assert "log.db" in done.error


@pytest.mark.parametrize(
    "url", ["nonsense", "", "mysql://host/x", "sqlite:////no/such/folder/x.db", "postgresql://127.0.0.1:1/x", "postgresql:///%00"]
)
def test_a_database_that_is_nowhere_is_one_line(run: Run, tmp_path: Path, url: str) -> None:
    (tmp_path / "x.sse").write_bytes(b"data: x\n\n")
    for args in (("ls",), ("import", str(tmp_path / "x.sse")), ("db", "upgrade"), ("db", "current")):
        done = run(*args, db=url)
        assert done.status == 1
        assert done.error


def test_the_password_of_a_database_is_not_printed(run: Run) -> None:
    done = run("ls", db="postgresql://me:sesame@127.0.0.1:1/x")
    assert done.status == 1
    assert "sesame" not in done.error


def test_the_database_comes_from_the_environment(filled: Path) -> None:
    line = command("ls", "--json")
    done = subprocess.run(line, capture_output=True, env={**environment(), "RECORDER_DB": sqlite(filled)}, timeout=60, check=True)
    assert len(json.loads(done.stdout)) == 3


QUESTIONS = (("ls",), ("show", stream_id(0)), ("usage",), ("failures",), ("export", stream_id(0)), ("sql", "SELECT 1"))


def test_questions_beside_a_writer_are_answered_and_say_how_far_behind(
    run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the read models cannot be brought up to date, answers are as old as they are."""
    run("project")
    engine = database.connect(sqlite(filled))
    writing.write(engine, writing.stream(7), writing.frames(said(id="run_7")))
    engine.dispose()
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    holding = sqlite3.connect(filled, isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")
    for args in QUESTIONS:
        done = run(*args)
        assert (done.status, bool(done.out)) == (0, True), args
        (line,) = done.err.splitlines()
        assert "11 events" in line
        assert "locked" in line
    done = run("ls", "--json")
    assert len(strictly(done.out)) == 3
    holding.execute("ROLLBACK")
    holding.close()
    done = run("usage", "--json")
    assert (strictly(done.out)[0]["runs"], done.err) == (4, "")


@pytest.fixture
def unwritable(filled: Path) -> Iterator[Path]:
    """A database with something not yet projected, all of it read-only."""
    output("project", db=filled)
    engine = database.connect(sqlite(filled))
    writing.write(engine, writing.stream(7), writing.frames(said(id="run_7")))
    engine.dispose()
    folder = filled.parent / "read-only"
    folder.mkdir()
    connection = sqlite3.connect(filled)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(filled, folder / "log.db")
    (folder / "log.db").chmod(0o444)
    yield folder / "log.db"
    folder.chmod(0o755)


@pytest.mark.parametrize("folder_mode", [0o755, 0o555], ids=["file", "file and folder"])
def test_questions_to_a_read_only_database_are_answered_and_say_how_far_behind(unwritable: Path, folder_mode: int) -> None:
    unwritable.parent.chmod(folder_mode)
    for args in QUESTIONS:
        done = recorder(*args, db=unwritable, preexec=bound)
        assert (done.returncode, bool(done.stdout)) == (0, True), f"{args}: {done.stderr.decode()}"
        (line,) = done.stderr.decode().splitlines()
        assert "11 events" in line
    assert unwritable.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
    "args", [("tail",), ("replay", "last", "--instant"), ("db", "current"), ("sql", "SELECT 1"), ("verify",)], ids=str
)
def test_what_only_reads_is_content_with_a_read_only_database(args: tuple[str, ...], unwritable: Path) -> None:
    unwritable.parent.chmod(0o555)
    done = recorder(*args, db=unwritable, preexec=bound)
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr.decode()


@pytest.mark.parametrize(
    "args", [("ls",), ("show", "last"), ("tail",), ("verify",), ("sql", "SELECT 1"), ("db", "current")], ids=str
)
def test_a_journal_that_cannot_be_read_is_explained(args: tuple[str, ...], unwritable: Path) -> None:
    """A copy with its WAL and without the file of shared memory, which nobody can make: without the WAL it lacks events."""
    journal = unwritable.with_name("log.db-wal")
    journal.write_bytes(bytes(4096))
    journal.chmod(0o444)
    unwritable.parent.chmod(0o555)
    done = recorder(*args, db=unwritable, preexec=bound)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "cannot be read without what log.db-wal holds; make its folder writable" in line


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
@pytest.mark.parametrize("args", [("import", f"{OWN[0]}/crlf.sse"), ("ls",), ("db", "upgrade")], ids=str)
def test_a_database_in_memory_is_refused(args: tuple[str, ...], url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All that a command records in it would be lost when it ends."""
    assert main(["--db", url, *args]) == 1
    assert (
        capsys.readouterr().err
        == "error: a database in memory is gone with the process; name a file, as in sqlite:///recorder.db\n"
    )


def test_an_older_schema_that_cannot_be_upgraded_is_explained(unwritable: Path) -> None:
    unwritable.chmod(0o644)
    with contextlib.closing(sqlite3.connect(unwritable)) as connection:
        connection.execute(f"UPDATE {database.VERSION_TABLE} SET version_num = '0001'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    unwritable.chmod(0o444)
    unwritable.parent.chmod(0o555)
    done = recorder("ls", db=unwritable, preexec=bound)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"error: {unwritable} has the older schema 0001; run `recorder db upgrade` where it can be written\n"
    )


def test_a_replay_in_a_program_is_content_with_a_read_only_database(unwritable: Path) -> None:
    unwritable.parent.chmod(0o555)
    program = f"import recorder; recorder.ReplayTransport('last', db={sqlite(unwritable)!r}); print('opened')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, preexec_fn=bound, timeout=60, check=False)
    assert done.stdout == b"opened\n", done.stderr


def test_what_must_write_to_a_read_only_database_is_one_line(unwritable: Path, tmp_path: Path) -> None:
    (tmp_path / "x.sse").write_bytes(b"data: x\n\n")
    for args in (("import", str(tmp_path / "x.sse")), ("rebuild",), ("delete", "last", "--yes"), ("project",)):
        done = recorder(*args, db=unwritable, preexec=bound)
        assert done.returncode == 1, args
        *notes, line = done.stderr.decode().splitlines()
        assert line.startswith("error: ")
        assert not [note for note in notes if "error" in note]
        assert "read-only" in line


def enough(tmp_path: Path) -> Path:
    """A file to import that needs some megabytes."""
    large = tmp_path / "large.sse"
    large.write_bytes(b"".join(b"data: %d %s\n\n" % (number, b"x" * 1000) for number in range(6000)))
    return large


def whole_again(file: Path, large: Path) -> None:
    """A database that had no room holds what it said it held, and takes the rest when there is room."""
    assert recorder("verify", db=file).returncode == 0
    (row,) = json.loads(output("import", "--json", str(large), db=file))
    assert row["events"] == 6000
    assert recorder("verify", db=file).returncode == 0
    assert output("export", row["stream_id"], "--format", "sse", db=file) == large.read_bytes()


def test_a_file_that_may_not_grow_is_one_line(filled: Path, tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    large = enough(tmp_path)
    done = recorder("import", str(large), db=filled, preexec=small)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert "log.db" in line
    whole_again(filled, large)


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A folder on a disk of 2 MB, which only root can make."""
    folder = Path(tempfile.mkdtemp(prefix="recorder-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_is_one_line_and_questions_are_still_answered(tiny_disk: Path, tmp_path: Path) -> None:
    file, large = tiny_disk / "log.db", enough(tmp_path)
    fill(file)
    assert recorder("project", db=file).returncode == 0
    done = recorder("import", str(large), db=file)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert "space" in line
    (tiny_disk / "filler").write_bytes(b"")
    with (tiny_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(bytes(4096))
            except OSError:
                break
    for args in QUESTIONS:
        done = recorder(*args, db=file)
        assert (done.returncode, bool(done.stdout)) == (0, True), f"{args}: {done.stderr.decode()}"
        assert len(done.stderr.decode().splitlines()) <= 1
    (tiny_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=100m", str(tiny_disk)], check=True)
    whole_again(file, large)


def test_an_output_that_cannot_be_written_is_one_line(run: Run, filled: Path, tmp_path: Path) -> None:
    done = run("export", stream_id(0), "-o", str(tmp_path / "no" / "such" / "file"))
    assert done.status == 1
    assert "such" in done.error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("ls", "--json"), ("export", stream_id(0)), ("replay", stream_id(0), "--instant")])
def test_a_full_stdout_is_one_line(filled: Path, args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        line = command("--db", sqlite(filled), *args)
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=60, check=False)
    assert done.returncode == 1
    (said_line,) = done.stderr.decode().splitlines()
    assert said_line.startswith("error: ")


# Terminals


EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31mred\r\x08"


@pytest.fixture
def evil(file: Path) -> Path:
    """Escape sequences wherever somebody else's text is kept."""
    engine = database.connect(sqlite(file))
    error = {"code": f"code{EVIL}", "message": f"message{EVIL}"}
    calls = [{"id": "c", "type": f"function{EVIL}", "function": {"name": f"f{EVIL}", "arguments": EVIL, "output": EVIL}}]
    body = [
        ("thread.run.created", writing.run("in_progress", f"run_1{EVIL}", thread_id=f"thread{EVIL}", model=f"m{EVIL}")),
        (
            "thread.run.step.created",
            writing.step(
                f"failed{EVIL}",
                f"step{EVIL}",
                f"tool_calls{EVIL}",
                run_id=f"run_1{EVIL}",
                step_details={"type": "tool_calls", "tool_calls": calls},
            ),
        ),
        (
            "thread.message.completed",
            writing.message(f"completed{EVIL}", f"msg{EVIL}", [writing.text(EVIL)], run_id=f"run_1{EVIL}", role=f"r{EVIL}"),
        ),
        (
            "thread.run.failed",
            writing.run("failed", f"run_1{EVIL}", thread_id=f"thread{EVIL}", model=f"m{EVIL}", last_error=error),
        ),
        (f"event{EVIL}".replace("\r", ""), EVIL.replace("\r", "")),
    ]
    label = writing.stream(0, label=f"label{EVIL}")._replace(path=f"/path{EVIL}", host=EVIL, query=EVIL, source=EVIL)
    writing.write(engine, label, writing.frames(body))
    second = [("thread.run.failed", writing.run(f"failed{EVIL}", f"run_2{EVIL}", last_error=error)), ("error", {"error": error})]
    writing.write(engine, writing.stream(1, label=f"other{EVIL}"), [*writing.frames(second), Frame("$tail", EVIL, None, 9)])
    engine.dispose()
    return file


@pytest.mark.parametrize(
    "args",
    [
        ("ls",),
        ("show", stream_id(0)),
        ("show", stream_id(1)),
        ("show", "run_1"),
        ("show", "run_1", "--at", "2"),
        ("show", "run_2"),
        ("show", "label"),
        ("show", "run_"),
        ("tail", stream_id(0), "-n", "99"),
        ("tail", "-n", "99"),
        ("usage", "--by", "model"),
        ("usage", "--by", "session"),
        ("failures",),
        ("failures", "--by", "code"),
        ("failures", "--by", "tool"),
        ("sql", "SELECT * FROM runs"),
        ("verify",),
        ("export", "label", "--format", "sse", "-o", "/dev/null"),
        ("delete", "label", "--yes"),
    ],
    ids=lambda args: " ".join(args).encode("unicode_escape").decode(),
)  # fmt: skip
def test_recorded_escape_sequences_do_not_reach_a_terminal(run: Run, evil: Path, args: tuple[str, ...]) -> None:
    done = run(*args)
    printed = done.out + done.err
    assert printed or args[0] == "export"
    assert [char for char in printed if not char.isprintable() and char != "\n"] == []


def test_what_verify_finds_is_printable_too(run: Run, evil: Path) -> None:
    run("project")
    with sqlite3.connect(evil) as connection:
        connection.execute("UPDATE runs SET model = 'other'")
    connection.close()
    done = run("verify")
    assert done.status == 1
    assert [char for char in done.out + done.err if not char.isprintable() and char != "\n"] == []


def test_json_escapes_them(run: Run, evil: Path) -> None:
    for args in (("ls",), ("show", "run_1"), ("failures",), ("sql", "SELECT * FROM runs")):
        out = run(*args, "--json").out
        assert "\x1b" not in out
        assert "\\u001b" in out


@pytest.mark.parametrize("args", [("ls",), ("show", "run_1"), ("tail",), ("usage", "--by", "model"), ("failures",)])
def test_output_in_a_pipe_has_no_colours_and_is_not_cut(filled: Path, args: tuple[str, ...]) -> None:
    done = subprocess.run(
        command("--db", sqlite(filled), *args),
        capture_output=True,
        env={**environment(), "TERM": "xterm-256color", "COLUMNS": "20"},
        timeout=60,
        check=True,
    )
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stdout
    assert "…".encode() not in done.stdout


# Log and projections


def test_export_and_import_give_the_same_bytes_offsets_and_cuts(run: Run, file: Path, tmp_path: Path) -> None:
    engine = database.connect(sqlite(file))
    odd = [
        log.system_frame("$response", {"status": 200, "headers": [["content-type", "text/event-stream"]]}, 5),
        Frame("a", "one\ntwo", None, 10, [(3, 7), (5, 9)]),
        Frame("$$system", "\ufeff\u2028", None, 11),
        Frame("", "x\ufffd", b"data: x\xff\x00\r\n\r\n", 12),
        Frame("$comment", "c", None, 12),
        log.system_frame("$gap", {"events": None, "chunks": 2, "bytes": 9, "reason": "queue full"}, 13),
        Frame("$tail", "data: half", None, 14),
        log.system_frame("$end", {"outcome": "cut", "closed": "cut", "detail": "d"}, 15),
    ]
    first = writing.stream(0, label="mine")._replace(
        query="a=1&é=\u2028", request_headers=(("accept", "a"),), request_body=b"\xff\x00"
    )
    writing.write(engine, first, odd)
    writing.write(engine, writing.stream(1, label="mine"), writing.frames(said()))
    writing.write(engine, writing.stream(2, label="mine"), writing.frames(said(id="run_open")[:2], None))
    engine.dispose()
    recording = tmp_path / "mine.recording.jsonl"
    assert run("export", "mine", "-o", str(recording)).status == 0
    assert run("export", "mine").out.encode() == recording.read_bytes()
    lines = [strictly(line) for line in recording.read_text().split("\n")[:-1]]
    requests = [line["stream_id"] for line in lines[1:-1] if isinstance(line, dict)]
    assert requests == [stream_id(number) for number in range(3)]
    assert len(lines) == 1 + 3 + (8 + 11 + 2) + 1
    other = tmp_path / "other.db"
    for _ in range(2):
        imported = strictly(run("import", "--json", str(recording), db=other).out)
        assert [row["stream_id"] for row in imported] == [stream_id(number) for number in range(3)]
    here, there = rows(file), rows(other)
    assert there["events"] == here["events"]
    assert [row[0] for row in there["heads"]] == [row[0] for row in here["heads"]]
    assert [row[:10] for row in there["streams"]] == [row[:10] for row in here["streams"]]
    assert [row[4] for row in there["heads"]] == [row[4] for row in here["heads"]], "the crc"
    assert run("verify", db=other).status == 0
    assert run("export", "mine", db=other).out.encode() == recording.read_bytes()


def test_delete_erases_and_leaves_the_rest(run: Run, filled: Path) -> None:
    marker = "a-text-that-is-nowhere-else"
    engine = database.connect(sqlite(filled))
    body = said(marker, id="run_secret", model=marker, thread_id="thread_secret")
    writing.write(engine, writing.stream(5, label="erase me"), writing.frames(body))
    engine.dispose()
    kept = strictly(run("show", "run_1", "--json").out)
    before = strictly(run("usage", "--json").out)[0]["runs"]
    done = run("delete", "erase me", "--yes")
    assert (done.status, done.out) == (0, "")
    assert "erase me" in done.err
    assert marker not in repr(rows(filled))
    assert run("verify").status == 0
    assert strictly(run("show", "run_1", "--json").out) == kept
    assert strictly(run("usage", "--json").out)[0]["runs"] == before - 1
    for id in ("run_secret", stream_id(5), "erase me", "thread_secret"):
        assert run("show", id).status == 1
    before_rebuild = rows(filled)
    assert run("rebuild").status == 0
    assert rows(filled) == before_rebuild


def test_what_was_deleted_is_in_no_byte_of_the_files(run: Run, filled: Path) -> None:
    marker = b"a-text-that-is-nowhere-else"
    engine = database.connect(sqlite(filled))
    writing.write(engine, writing.stream(5, label="erase me"), writing.frames(said(marker.decode(), id="run_secret")))
    engine.dispose()
    run("project")
    run("delete", "erase me", "--yes")
    assert [path.name for path in filled.parent.iterdir() if path.is_file() and marker in path.read_bytes()] == []


def test_deleting_a_run_leaves_what_other_streams_say(run: Run, file: Path) -> None:
    engine = database.connect(sqlite(file))
    writing.write(engine, writing.stream(0), writing.frames(writing.asked()))
    writing.write(engine, writing.stream(1, writing.submitting()), writing.frames(writing.answered()))
    engine.dispose()
    assert run("delete", stream_id(1), "--yes").status == 0
    shown = strictly(run("show", "run_1", "--json").out)
    assert (shown["status"], len(shown["streams"])) == ("requires_action", 1)
    assert run("verify").status == 0


def test_rebuild_gives_the_same_tables(run: Run, filled: Path) -> None:
    run("project")
    before = rows(filled)
    assert run("rebuild").status == 0
    assert rows(filled) == before


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        ("UPDATE events SET data = 'x' WHERE position = 3", "crc"),
        ("UPDATE events SET offset_us = 1 WHERE position = 3", "crc"),
        ("UPDATE events SET cuts = '[[1,1]]' WHERE position = 3", "crc"),
        ("DELETE FROM events WHERE position = 3", "position 3"),
        ("DELETE FROM streams", "streams"),
        ("UPDATE runs SET status = 'lost'", "runs"),
        ("DELETE FROM runs", "runs"),
        ("UPDATE usage_hourly SET total_tokens = 1", "usage_hourly"),
        ("DELETE FROM run_steps", "run_steps"),
        ("UPDATE heads SET outcome = 'eof'", "head"),
        ("UPDATE sessions SET events = 1", "sessions"),
    ],
)
def test_verify_finds_what_was_changed(run: Run, filled: Path, change: str, said_of_it: str) -> None:
    run("project")
    assert run("verify").status == 0
    with sqlite3.connect(filled) as connection:
        connection.execute(change)
    connection.close()
    done = run("verify")
    assert done.status == 1
    assert said_of_it in done.out
    report = run("verify", "--json")
    assert report.status == 1
    assert strictly(report.out)["problems"]


def test_anomalies_do_not_change_the_exit_status_of_verify(run: Run, tmp_path: Path) -> None:
    importing(run, tmp_path, "x.sse", encoded(said()) + b"event: thread.run.created\ndata: {half")
    done = run("verify", "--json")
    assert done.status == 0
    assert sum(strictly(done.out)["anomalies"].values()) > 0


def test_tail_follows_what_is_recorded(filled: Path, tmp_path: Path) -> None:
    """Events of all streams as they come, in a process of its own, each once."""
    with Background("tail", "-f", "-n", "1", "--json", db=filled) as following:
        assert following.process.stdout is not None
        first = json.loads(following.process.stdout.readline())
        assert first["stream_id"] == stream_id(2)
        engine = database.connect(sqlite(filled))
        new = writing.stream(9)
        frames = writing.frames([("e", str(number)) for number in range(30)])
        for at in range(0, 30, 3):
            writing.write(engine, new, frames[at : at + 3], at)
            for number in range(at, at + 3):
                assert json.loads(following.process.stdout.readline()) == {
                    "stream_id": stream_id(9),
                    "position": number,
                    "offset_us": number * 1000,
                    "type": "e",
                    "data": str(number),
                }
        writing.write(engine, new, frames[30:], 30)
        assert json.loads(following.process.stdout.readline())["type"] == "$end"
        engine.dispose()
        following.process.terminate()
        until(lambda: following.process.poll() is not None)
        assert "Traceback" not in "\n".join(following.said)


def test_tail_of_one_follows_that_one_only(filled: Path) -> None:
    with Background("tail", "open", "-f", "-n", "1", "--json", db=filled) as following:
        assert following.process.stdout is not None
        assert json.loads(following.process.stdout.readline())["position"] == 2  # from here on it follows
        engine = database.connect(sqlite(filled))
        writing.write(engine, writing.stream(9), writing.frames([("e", "other")]))
        writing.write(engine, writing.stream(2, label="open"), writing.frames([("e", "mine")]), 3)
        engine.dispose()
        assert json.loads(following.process.stdout.readline())["data"] == "mine"


def test_interrupting_is_one_line_at_most(filled: Path) -> None:
    with Background("tail", "-f", "-n", "1", db=filled) as following:
        assert following.process.stdout is not None
        assert following.process.stdout.readline()
        following.process.send_signal(signal.SIGINT)
        assert following.wait() in (0, 130)
        assert len([line for line in following.said if line]) <= 1
