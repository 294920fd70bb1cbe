"""From a session to a test in one command: what is written runs as it is, offline, and holds no secret."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.recording import read_recording
from tests import exchanges, writing
from tests.commands import PATIENCE, environment, recorder
from tests.exchanges import asking, json_response, response
from tests.writing import encoded

pytestmark = pytest.mark.slow

SECRET = "sk-proj-0123456789abcdefghij"


@pytest.fixture
def engine(db: str) -> sa.Engine:
    return database.connect(db)


def fill(engine: sa.Engine) -> None:
    """A session that waits for a tool, gets its output, breaks off, and is polled."""
    waiting = encoded(writing.asked())
    broken = encoded(writing.answered())[:900]
    submitted = "/v1/threads/thread_1/runs/run_1/submit_tool_outputs"
    recorded = [
        (
            asking(0, "POST", "/v1/threads/thread_1/runs", b'{"assistant_id":"asst_1","key":"%s"}' % SECRET.encode(), "bug"),
            [(1, waiting)],
        ),
        (asking(1, "POST", submitted, b'{"tool_outputs":[{"tool_call_id":"call_1","output":"rain"}]}', "bug"), [(1, broken)]),
    ]
    exchanges.record(
        engine, [(stream, response(chunks, closed="cut" if n else "eof")) for n, (stream, chunks) in enumerate(recorded)]
    )
    exchanges.record(
        engine,
        [
            (
                asking(2, "GET", "/v1/threads/thread_1/runs/run_1?key=x", label="bug", content_type=None),
                json_response(b'{"a": 1}', 429),
            ),
            (asking(3, "POST", "/v1/none", label="bug"), response(status=None, closed="no_response", detail="ConnectError: no")),
        ],
    )


def pytest_of(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--block-network", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False)


def test_a_session_becomes_a_test_that_passes_offline(engine: sa.Engine, db: str, tmp_path: Path) -> None:
    fill(engine)
    engine.dispose()
    file = tmp_path / "tests" / "test_bug.py"
    done = recorder("export", "bug", "--as-test", str(file), db=db)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    recording = tmp_path / "tests" / "recordings" / "test_bug" / "test_bug.recording.jsonl"
    assert done.stderr.decode() == f"wrote {file} and {recording}; run it: pytest {file}\n"
    assert SECRET not in recording.read_text() + file.read_text()
    assert len(read_recording(recording)) == 4
    (tmp_path / "x.db").unlink()
    ran = pytest_of(tmp_path, "tests")
    assert ran.stdout.splitlines()[-1].startswith("1 passed"), ran.stdout
    assert '("POST /v1/threads/thread_1/runs", 200, "thread.run.requires_action"),' in file.read_text()
    assert 'submit_tool_outputs", 200, "broken"),' in file.read_text()
    assert '("GET /v1/threads/thread_1/runs/run_1", 429, "whole"),' in file.read_text()
    assert '("POST /v1/none", None, "broken"),' in file.read_text()
    subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", str(file)], check=True, capture_output=True)

    # The code that failed, put in: it asks with the secret, and says another output.
    body = {"assistant_id": "asst_1", "key": SECRET}
    own = f'client.post("http://h/v1/threads/thread_1/runs", json={body})'
    text = re.sub(r"answers = .*", f"answers = {own}.status_code", file.read_text())
    file.write_text(re.sub(r"assert answers == \[.*?\n    \]", "assert answers == 200", text, flags=re.DOTALL))
    assert pytest_of(tmp_path, "tests").stdout.splitlines()[-1].startswith("1 passed")
    file.write_text(file.read_text().replace("asst_1", "asst_2"))
    assert '.assistant_id is "asst_2", recorded was "asst_1"' in pytest_of(tmp_path, "tests").stdout


def test_files_that_are_there_stay_without_force(engine: sa.Engine, db: str, tmp_path: Path) -> None:
    fill(engine)
    engine.dispose()
    file = tmp_path / "test_bug.py"
    file.write_text("mine")
    done = recorder("export", "bug", "--as-test", str(file), db=db)
    assert (done.returncode, done.stderr.decode()) == (2, f"error: {file} is there already; --force replaces\n")
    assert file.read_text() == "mine"
    assert not (tmp_path / "recordings").exists()
    for _ in range(2):
        assert recorder("export", "bug", "--as-test", str(file), "--force", db=db).returncode == 0
    assert b"are there already" in recorder("export", "bug", "--as-test", str(file), db=db).stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--as-test", "bug.py"), "pytest finds test_*.py"),
        (("--as-test", "test_bug.py", "-o", "x"), "leave out --output"),
        (("--as-test", "test_bug.py", "--format", "sse"), "leave out --output and --format"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    engine: sa.Engine, db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], said: str
) -> None:
    fill(engine)
    engine.dispose()
    monkeypatch.chdir(tmp_path)
    done = recorder("export", "bug", *args, db=db)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert said in line
    assert not (tmp_path / "test_bug.py").exists()


def test_what_has_no_request_is_said(db: str, tmp_path: Path) -> None:
    (tmp_path / "x.sse").write_bytes(b"data: x\n\n")
    assert recorder("import", str(tmp_path / "x.sse"), db=db).returncode == 0
    done = recorder("export", "last", "--as-test", str(tmp_path / "test_x.py"), db=db)
    assert done.returncode == 1
    assert b"has no request that could be asked again" in done.stderr
    assert not (tmp_path / "test_x.py").exists()
