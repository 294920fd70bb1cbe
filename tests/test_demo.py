"""The demo as a stranger runs it, and the sessions that it brings along."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recorder.demo import proof
from recorder.demo.program import converse
from recorder.demo.sessions import ABOUT, recording
from tests.commands import PATIENCE, command, environment, output, recorder, until
from tests.sdk.matrix import serving

pytestmark = pytest.mark.slow

FAST = ("demo", "--speed", "50")
ENDS = ("sent", "received", "exported", "replayed")


class Told(NamedTuple):
    """A demo that ran to its end with --json, and the folder where its database was kept."""

    done: subprocess.CompletedProcess[bytes]
    facts: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("demo") / "a kept one"
    done = recorder(*FAST, "--json", "--keep", str(folder), db=folder / "not-touched.db")
    assert done.returncode == 0, done.stderr.decode()
    return Told(done, json.loads(done.stdout), folder)


def running(text: str) -> list[str]:
    """Command lines of processes that contain a text."""
    listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, check=True, encoding="utf-8").stdout
    return [line for line in listed.splitlines() if text in line and not line.startswith("ps ")]


def test_all_of_it_held(told: Told) -> None:
    assert told.facts["problems"] == []
    assert told.facts["verify"]["problems"] == []
    assert told.facts["key_recorded"] is False
    assert "All of it held" in told.done.stderr.decode()


def test_four_runs(told: Told) -> None:
    assert {run["session_id"]: (run["status"], run["state"], run["streams"], run["steps"]) for run in told.facts["runs"]} == {
        "chart": ("completed", "ended", 1, 2),
        "order": ("completed", "ended", 2, 2),
        "limited": ("failed", "ended", 1, 1),
        "dropped": ("in_progress", "unknown", 1, 1),
    }


def test_one_run_over_two_streams_with_what_both_functions_returned(told: Told) -> None:
    run = told.facts["one_run"]
    assert [stream["outcome"] for stream in run["streams"]] == ["done", "done"]
    outputs = [json.loads(text) for text in run["outputs"].values()]
    assert outputs == [
        {"article": "lamp-brass-40", "available": 17},
        {"postcode": "5003 Bergen", "working_days": 3},
    ]


def test_one_failed_and_one_is_unknown(told: Told) -> None:
    failures = {(row["session_id"], row["kind"], row["code"]) for row in told.facts["failures"]}
    assert failures == {("limited", "failed", "rate_limit_exceeded"), ("dropped", "cut", "cut")}
    assert told.facts["unknown"] == ["dropped"]
    assert [row["runs_without_usage"] for row in told.facts["usage"]] == [1]


def test_bytes_are_the_same_from_end_to_end(told: Told) -> None:
    streams = told.facts["streams"]
    assert [stream["name"] for stream in streams] == ["chart", "order", "order", "limited", "dropped"]
    for stream in streams:
        assert stream["identical"]
        assert len({(stream[end]["bytes"], stream[end]["sha256"]) for end in ENDS}) == 1
        assert stream["received"]["bytes"] > 5000
    assert told.facts["identical"] is True


def test_replays_took_their_time(told: Told) -> None:
    own, fast = told.facts["replays"]
    assert (own["speed"], fast["speed"]) == (1, 10)
    assert own["identical"]
    assert fast["identical"]
    assert own["original_seconds"] > 0.1


def test_the_kept_database_answers(told: Told) -> None:
    database = told.folder / "demo.db"
    assert told.facts["database"] == f"sqlite:///{database}"
    for stream in told.facts["streams"]:
        body = output("export", stream["stream_id"], "--format", "sse", db=database)
        assert hashlib.sha256(body).hexdigest() == stream["received"]["sha256"]
    assert not (told.folder / "not-touched.db").exists()


def test_nothing_is_left_running(told: Told) -> None:
    assert not running(str(told.folder))


def test_a_database_that_is_there_is_not_overwritten(told: Told) -> None:
    before = (told.folder / "demo.db").read_bytes()
    done = recorder(*FAST, "--keep", str(told.folder), db="sqlite:///x.db")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ")
    assert (told.folder / "demo.db").read_bytes() == before


def test_in_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        command(*FAST), capture_output=True, timeout=PATIENCE, env={**environment(), "TMPDIR": str(tmp_path)}, check=False
    )
    story = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    assert "\x1b" not in story
    for said in ("proxy --upstream", "FROM runs", "usage --by model", "failures", "replay chart --speed 10", "All of it held"):
        assert said in story
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", ["In front of it", "seconds  ", "$ recorder --db"])
def test_a_signal_ends_it_with_all_that_it_started(tmp_path: Path, after: str) -> None:
    process = subprocess.Popen(
        command("demo"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment(), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        assert any(after.encode() in line for line in process.stdout)
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.strip() == b"error: interrupted"
    assert list(tmp_path.iterdir()) == []
    until(lambda: not running(str(tmp_path)))


def test_what_does_not_hold_is_an_error(tmp_path: Path) -> None:
    broken = (
        "import sys; from recorder.demo import proof; proof.holds_key = lambda folder: True\n"
        "from recorder.cli import main; sys.exit(main(['demo', '--speed', '50', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken],
        capture_output=True,
        timeout=PATIENCE,
        env={**environment(), "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"] == ["the programs' API key is nowhere in the database"]
    assert done.stderr.decode().splitlines()[-1].startswith("error: this did not hold: the programs' API key")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a replay of the bundled sessions."""
    db = tmp_path_factory.mktemp("upstream") / "upstream.db"
    output("import", *(str(recording(name)) for name in ABOUT), db=db)
    with serving(db) as origin:
        yield origin


@pytest.mark.parametrize(
    ("name", "status", "streams"),
    [("chart", "completed", 1), ("order", "completed", 2), ("limited", "failed", 1), ("dropped", "in_progress", 1)],
)
def test_a_program_has_the_whole_session(upstream: str, name: str, status: str, streams: int) -> None:
    conversation = converse(upstream, name, speed=math.inf)
    assert (conversation.status, len(conversation.exchanges)) == (status, streams)
    ends = [exchange.body.endswith(b"event: done\ndata: [DONE]\n\n") for exchange in conversation.exchanges]
    assert ends == [name != "dropped"] * streams
    assert (conversation.error is not None) == (name == "dropped")


def test_the_bundled_sessions_are_all_told_of() -> None:
    assert {path.name for path in recording("chart").parent.iterdir()} == {recording(name).name for name in ABOUT}


def test_pace_compares_chunks_at_the_same_byte() -> None:
    original = [(10.0, b"ab"), (11.0, b"cd"), (12.0, b"ef")]
    pace = proof.pace(original, [(50.0, b"abc"), (50.6, b"d"), (51.0, b"ef")], speed=2)
    assert (pace.original, pace.replayed) == (2.0, 1.0)
    assert pace.deviation == pytest.approx(0.1)
    assert pace.held
    assert not proof.pace(original, [], speed=2).held
