"""A conversation over two requests, in a program as a user has it: recorded in two ways, and run again with nothing to ask."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recorder.demo.sessions import recording
from tests.benchmarks.peers import Missing
from tests.commands import PATIENCE, answer, command, output, sqlite
from tests.sdk import environments
from tests.sdk.matrix import NOWHERE, bare_environment, serving

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("conversation.py")
KEY = "sk-c0nv3rs4t10n"


@pytest.fixture(params=environments.PYTHON_SDKS)
def python(request: pytest.FixtureRequest) -> Path:
    """A Python with the SDK."""
    try:
        return environments.python(request.param)
    except Missing as error:
        pytest.skip(str(error))


def run(origin: str, db: Path, *line: str) -> str:
    """What a command prints that has its base URL, key and database from its environment."""
    own = {"OPENAI_BASE_URL": f"{origin}/v1", "OPENAI_API_KEY": KEY, "RECORDER_DB": sqlite(db)}
    done = subprocess.run(line, capture_output=True, timeout=PATIENCE, env={**bare_environment(), **own}, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def by_the_hook(python: Path, origin: str, db: Path) -> str:
    return run(origin, db, str(python), "-W", "ignore", str(PROGRAM), "record")


def by_record(python: Path, origin: str, db: Path) -> str:
    return run(origin, db, *command("record", "--", str(python), "-W", "ignore", str(PROGRAM)))


@pytest.mark.parametrize("record", [by_the_hook, by_record])
def test_one_run_over_two_streams_and_again_with_nothing_to_ask(
    record: Callable[[Path, str, Path], str], python: Path, tmp_path: Path
) -> None:
    db = tmp_path / "conversation.db"
    upstream = tmp_path / "upstream.db"
    output("import", str(recording("order")), db=upstream)
    with serving(upstream) as origin:
        printed = record(python, origin, db)
    *lines, last = printed.splitlines()
    final = json.loads(last)
    assert final["status"] == "completed"
    assert sum(line.startswith("thread.run.requires_action ") for line in lines) == 1
    said = "".join(json.loads(line.split("says ", 1)[1]) for line in lines if line.startswith("    says "))
    assert said.endswith("Shall I reserve one for you? 💡")

    assert answer("sql", "SELECT count(*) AS n FROM sessions", db=db) == [{"n": 1}]
    assert answer("sql", "SELECT run_id, status FROM runs", db=db) == [{"run_id": final["id"], "status": "completed"}]
    shown = answer("show", final["id"], db=db)
    assert [stream["outcome"] for stream in shown["streams"]] == ["done", "done"]
    assert shown["usage"] == final["usage"]
    session = answer("show", final["thread_id"], db=db)
    assert session["runs"] == [final["id"]]
    assert len(session["streams"]) == 2

    with serving(db) as origin:
        assert run(origin, db, str(python), "-W", "ignore", str(PROGRAM)) == printed
        assert run(origin, db, str(python), "-W", "ignore", str(PROGRAM)) == printed  # a second time
    assert run(NOWHERE, db, str(python), "-W", "ignore", str(PROGRAM), "play") == printed
