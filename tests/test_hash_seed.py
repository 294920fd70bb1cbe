"""Nothing that recorder writes depends on Python's hash seed: folds, rows and answers are the same in every process.

One process a seed folds, projects and asks all golden streams, and a stream of its own for each place in which several things
happen in one event; each then has the same digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from recorder import database, jsontext
from recorder.cli import cli
from recorder.collect.import_ import read_file
from recorder.log import streams
from recorder.projections import PROJECTED, runner
from tests import chatting, writing

SEEDS = ("0", "1", "2", "4")

DELTA = {
    "role": "assistant",
    "content": "Let me look.",
    "reasoning_content": "They want the weather.",
    "refusal": "",
    "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "rain", "arguments": "{}"}}],
}
"""A delta in which three kinds of steps grow at once."""


def digest(folder: Path) -> dict[str, str]:
    """{what: hash} of all that a new database holds of our streams, and of what the commands say about them."""
    url = f"sqlite:///{folder}/x.db"
    engine = database.connect(url)
    for path in sorted(Path(__file__).parents[1].glob("fixtures/*/*.sse")):
        stream, frames = read_file(path)
        writing.write(engine, stream._replace(recorded_at=writing.stream().recorded_at), list(frames))
    at_once = chatting.saying(DELTA, finish="tool_calls")
    writing.write(engine, writing.stream(1, chatting.CHAT, label="several"), writing.frames(at_once))
    for number in range(2, 8):
        writing.write(engine, writing.stream(number, label="several"), writing.frames([("e", f"{number}")]))
    runner.catch_up(engine)
    found = {}
    with database.read(engine) as connection:
        for table in PROJECTED:
            rows = [[str(value) for value in row] for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
            found[table.name] = jsontext.dumps(rows)
        assert connection.execute(sa.select(sa.func.count()).select_from(streams)).scalar_one() > 50
    engine.dispose()
    for args in (
        ("tail", "several", "-n", "5"),
        ("show", "several"),
        ("failures",),
        ("ls", "--json"),
        ("show", "several", "--json"),
    ):
        found[" ".join(args)] = CliRunner().invoke(cli, ["--db", url, *args], catch_exceptions=False).output
    return {what: hashlib.sha256(said.encode()).hexdigest()[:16] for what, said in found.items()}


@pytest.mark.slow
def test_what_is_written_and_said_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    running = []
    for seed in SEEDS:
        folder = tmp_path / seed
        folder.mkdir()
        arguments = [
            sys.executable,
            "-c",
            f"import sys; from tests.{Path(__file__).stem} import main; main(sys.argv[1])",
            str(folder),
        ]
        here = {"cwd": Path(__file__).parents[1], "env": {**os.environ, "PYTHONHASHSEED": seed}}
        running.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, **here))  # type: ignore[call-overload]
    said = dict(zip(SEEDS, (json.loads(process.communicate(timeout=120)[0]) for process in running), strict=True))
    assert {seed: each for seed, each in said.items() if each != said[SEEDS[0]]} == {}


def main(folder: str) -> None:
    print(json.dumps(digest(Path(folder))))
