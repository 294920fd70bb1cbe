"""Where the output goes: encodings that lack characters, and pipes, devices and descriptors that take nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorder import database
from recorder.cli import main
from recorder.projections import runner
from tests import writing
from tests.commands import PATIENCE, command, environment, sqlite, terminal
from tests.writing import said, stream_id

TEXT = "Grüße 😀 天気"

COMMANDS = {
    "ls": ("ls",),
    "ls --csv": ("ls", "--csv"),
    "show": ("show", "run_1"),
    "show STREAM": ("show", stream_id(0)),
    "usage": ("usage", "--by", "model"),
    "chart": ("usage", "--chart", "--by", "model"),
    "sql": ("sql", "SELECT object FROM messages"),
    "sql --csv": ("sql", "--csv", "SELECT object FROM messages"),
    "tail": ("tail",),
    "failures": ("failures",),
    "verify": ("verify",),
}

DOCUMENTS = {
    "show": ("show", "run_1", "--json"),
    "ls": ("ls", "--json"),
    "sql": ("sql", "--json", "SELECT object FROM messages"),
    "tail": ("tail", "-n", "1", "--json"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("stdout") / "log.db"
    engine = database.connect(sqlite(file))
    writing.write(engine, writing.stream(0, label=TEXT), writing.frames(said(TEXT, model="模型")))
    runner.catch_up(engine)
    engine.dispose()
    return file


def printed(monkeypatch: pytest.MonkeyPatch, file: Path, *args: str, encoding: str = "utf-8") -> tuple[int, bytes, bytes]:
    """What a command in this process returns and prints, in this encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors) for errors in ("strict", "backslashreplace")]
    with monkeypatch.context() as patched:
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patched.setattr(sys, name, stream)
        status = main(["--db", sqlite(file), *args])
    out, err = (stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
    return status, out, err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("name", COMMANDS)
def test_characters_that_an_encoding_lacks_are_escaped(
    monkeypatch: pytest.MonkeyPatch, file: Path, name: str, encoding: str
) -> None:
    status, out, err = printed(monkeypatch, file, *COMMANDS[name], encoding=encoding)
    assert (status, err.count(b"\n") > 1) == (0, False)
    shown = out.decode(encoding)
    if name == "show":
        assert "\\U0001f600" in shown
        assert ("Grüße" if encoding == "cp1252" else "Gr\\xfc\\xdfe") in shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_is_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch, file: Path, name: str, encoding: str) -> None:
    _, plain, _ = printed(monkeypatch, file, *DOCUMENTS[name])
    _, other, _ = printed(monkeypatch, file, *DOCUMENTS[name], encoding=encoding)
    assert json.loads(other.decode(encoding)) == json.loads(plain)


def test_an_error_is_escaped_too(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    status, _, err = printed(monkeypatch, file, "show", TEXT + "?", encoding="ascii")
    assert status == 1
    assert b"\\U0001f600" in err


def test_a_whole_process_escapes_them(file: Path) -> None:
    done = ran(file, "sql", "SELECT object FROM messages", encoding="ascii")
    assert done.returncode == 0
    assert b"\\U0001f600" in done.stdout


def test_controls_in_json_are_escaped_on_a_terminal_and_kept_in_a_pipe(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    query = "SELECT 'a' || char(155) || '2J' || char(127) || '😀' AS x"
    shown = terminal("sql", "--json", query, db=file)
    assert shown == '[{"x":"a\\u009b2J\\u007f😀"}]\n'
    _, plain, _ = printed(monkeypatch, file, "sql", "--json", query)
    assert json.loads(plain) == [{"x": "a\x9b2J\x7f😀"}]


# Nothing takes it


def ran(file: Path, *args: str, encoding: str = "utf-8", **how: Any) -> subprocess.CompletedProcess[bytes]:
    own = environment() | {"PYTHONIOENCODING": encoding}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.run(command("--db", sqlite(file), *args), env=own, timeout=PATIENCE, check=False, **given)


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


ASKED = [("ls",), ("export", stream_id(0)), ("--help",)]


@pytest.mark.parametrize("args", ASKED, ids=" ".join)
def test_a_closed_stdout_is_an_error_in_one_line(file: Path, args: tuple[str, ...]) -> None:
    done = ran(file, *args, preexec_fn=closed(1))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: the output: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("args", ASKED, ids=" ".join)
def test_a_full_device_is_an_error_in_one_line(file: Path, args: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = ran(file, *args, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"error: the output: No space left on device\n"


@pytest.mark.parametrize("args", ASKED, ids=" ".join)
def test_a_pipe_that_nobody_reads_ends_it_quietly(file: Path, args: tuple[str, ...]) -> None:
    ours, its = os.pipe()
    os.close(ours)
    done = ran(file, *args, stdout=its)
    os.close(its)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("args", [("ls",), ("nonsense",)], ids=" ".join)
def test_what_cannot_be_said_on_stderr_changes_nothing(file: Path, args: tuple[str, ...]) -> None:
    expected = ran(file, *args)
    with open("/dev/full", "wb") as full:
        assert ran(file, *args, stderr=full).returncode == expected.returncode
    done = ran(file, *args, preexec_fn=closed(2))
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, b"")


def test_a_file_is_not_taken_for_a_closed_stdout(tmp_path: Path, file: Path) -> None:
    """The next file to be opened would get its number."""
    copy = tmp_path / "copy.db"
    copy.write_bytes(file.read_bytes())
    ran(copy, "rebuild", preexec_fn=closed(1))
    ran(copy, "show", "run_1", preexec_fn=closed(1))
    assert ran(copy, "verify").returncode == 0
