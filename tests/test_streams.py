"""The shared streams of real services: each comes back byte for byte, and folds to what it said itself.

What is expected is read from the payloads here, without the fold.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.collect.import_ import import_paths
from recorder.projections import runner
from recorder.projections.runs import runs
from recorder.projections.verify import verify
from recorder.protocols import Request
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from tests.conftest import SHARED
from tests.writing import contribution

FOLDER = SHARED / "streams"
NAMES = sorted(
    path.name
    for path in (FOLDER.iterdir() if FOLDER.is_dir() else ())
    if path.name.endswith((".sse", ".json", ".events.jsonl")) and not path.name.endswith(".request.json")
)
THREADS = [name for name in NAMES if name.startswith(("assistants-", "azure-")) and name.endswith(".sse")]

ENDS_RUN = re.compile(r"thread\.run\.(completed|failed|cancelled|expired|incomplete|requires_action)")
ENDS_STEP = re.compile(r"thread\.run\.step\.(completed|failed|cancelled|expired)")
ENDS_MESSAGE = re.compile(r"thread\.message\.(completed|incomplete)")

needs_shared = pytest.mark.usefixtures("shared")


def events(name: str) -> Iterator[tuple[str, Any]]:
    """(event name, payload) of a stream's blocks whose data is JSON."""
    for block in (FOLDER / name).read_bytes().decode().replace("\r\n", "\n").split("\n\n"):
        fields = [line.partition(": ")[::2] for line in block.split("\n")]
        try:
            payload = json.loads("\n".join(value for key, value in fields if key == "data"))
        except ValueError:
            continue
        yield dict(fields).get("event", ""), payload


def final_objects(name: str, ends: re.Pattern[str]) -> dict[str, dict[str, Any]]:
    return {payload["id"]: payload for event, payload in events(name) if ends.fullmatch(event)}


def as_recorded() -> set[str]:
    """The streams that PROVENANCE.md calls captured, and neither edited nor documentation."""
    rows = (line.split("|") for line in (FOLDER / "PROVENANCE.md").read_text().splitlines() if line.startswith("| "))
    return {row[1].strip() for row in rows if len(row) > 6 and row[6].strip() == "captured"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the current schema, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "x.db"
    database.connect(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def alone(tmp_path: Path, empty: Path, request: pytest.FixtureRequest) -> Iterator[tuple[sa.Engine, str, str]]:
    """A database with one stream in it, caught up; (engine, the file's name, stream_id)."""
    name: str = request.param
    shutil.copy(empty, tmp_path)
    engine = database.connect(f"sqlite:///{tmp_path}/x.db")
    row = import_paths(engine, [str(FOLDER / name)])[0]
    runner.catch_up(engine)
    yield engine, name, row.stream_id
    engine.dispose()


each_stream = pytest.mark.parametrize("alone", NAMES, indirect=True)
each_thread = pytest.mark.parametrize("alone", THREADS, indirect=True)


def test_there_are_streams(shared: Path) -> None:
    assert len(NAMES) > 80
    assert len(THREADS) > 15


@needs_shared
@each_stream
def test_a_stream_comes_back_byte_for_byte_and_verify_finds_nothing(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, stream_id = alone
    body = b"".join(part for part, _, _ in log.wire(log.read_stream(engine, stream_id)))
    assert body == (FOLDER / name).read_bytes()
    report = verify(engine)
    assert report.problems == []
    assert report.streams == 1


def same(said: Any, shown: Any) -> bool:
    """Whether what is shown has all that was said; a key said to be null may be absent."""
    if isinstance(said, dict):
        return isinstance(shown, dict) and all(same(value, shown.get(key)) for key, value in said.items())
    if isinstance(said, list):
        return isinstance(shown, list) and len(said) == len(shown) and all(map(same, said, shown))
    return bool(said == shown and type(said) is type(shown))


@needs_shared
@each_thread
def test_each_final_object_is_shown_as_the_stream_said_it(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    steps, messages = final_objects(name, ENDS_STEP), final_objects(name, ENDS_MESSAGE)
    ended = final_objects(name, ENDS_RUN)
    run_ids = {*ended, *(each["run_id"] for each in (*steps.values(), *messages.values()) if each.get("run_id"))}
    shown_steps: dict[str, Any] = {}
    shown_messages: dict[str, Any] = {}
    with database.read(engine) as connection:
        for run_id in run_ids:
            shown = queries.show_run(connection, run_id)
            shown_steps |= {each["id"]: each for each in shown["steps"]}
            shown_messages |= {each["id"]: each for each in shown["messages"]}
            for key, value in ended.get(run_id, {}).items():
                assert same(value, shown.get(key)), f"run {run_id}: {key}"
    for said, found in ((steps, shown_steps), (messages, shown_messages)):
        for id, object in said.items():
            for key, value in object.items():
                assert same(value, found[id].get(key)), f"{id}: {key}"


def streamed(object: dict[str, Any]) -> dict[str, Any]:
    """What of a final step or message is streamed in deltas: texts and refusals, arguments, inputs, logs."""
    calls = [
        {
            "arguments": call.get("function", call).get("arguments"),
            "input": call.get("code_interpreter", {}).get("input"),
            "logs": [output.get("logs") for output in call.get("code_interpreter", {}).get("outputs") or []],
        }
        for call in (object.get("step_details") or {}).get("tool_calls") or []
    ]
    content = [
        (part.get("text", {}).get("value"), part.get("refusal"), part.get("image_file", {}).get("file_id"))
        for part in object.get("content") or []
    ]
    return {"calls": calls, "content": content}


def with_deltas(name: str) -> set[str]:
    return {payload["id"] for event, payload in events(name) if event.endswith(".delta")}


@needs_shared
@pytest.mark.parametrize("name", THREADS)
def test_the_deltas_alone_add_up_to_the_final_objects(name: str) -> None:
    if name not in as_recorded():
        assert name in {line.split("|")[1].strip() for line in (FOLDER / "PROVENANCE.md").read_text().splitlines() if "|" in line}
        return  # its deltas were edited, or never came from a service
    final = {**final_objects(name, ENDS_STEP), **final_objects(name, ENDS_MESSAGE)}
    fold = StreamFold(Request(path="/v1/threads/runs"))
    for position, (event, payload) in enumerate(events(name)):
        if event.endswith((".created", ".delta")):
            fold.feed(position, 0, event, json.dumps(payload))
    wanted = {id: streamed(object) for id, object in final.items() if id in with_deltas(name)}
    found = {}
    for key in fold.states():
        if key:
            view = merge(key, [contribution(fold, key)])
            found |= {each.id: streamed(each.object) for each in (*view.steps, *view.messages) if each.id in wanted}
    assert found == wanted


@needs_shared
def test_streams_as_they_were_recorded_have_deltas_and_final_objects_to_compare() -> None:
    """Else the test above would hold of nothing."""
    compared = [
        name
        for name in THREADS
        if name in as_recorded() and with_deltas(name) & {*final_objects(name, ENDS_STEP), *final_objects(name, ENDS_MESSAGE)}
    ]
    assert len(compared) >= 8


@needs_shared
@each_thread
def test_streams_as_they_were_recorded_have_no_delta_mismatch(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    if name in as_recorded():
        assert "delta_mismatch" not in verify(engine).anomalies


@needs_shared
@each_thread
def test_the_usage_of_a_run_is_the_one_its_last_event_said(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    said = {id: run.get("usage") for id, run in final_objects(name, ENDS_RUN).items()}
    with database.read(engine) as connection:
        rows = connection.execute(sa.select(runs.c.run_id, runs.c.prompt_tokens, runs.c.completion_tokens, runs.c.total_tokens))
        found = {row.run_id: row[1:] for row in rows}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    for run_id, usage in said.items():
        assert found[run_id] == tuple((usage or {}).get(key) for key in names)


@needs_shared
def test_the_whole_folder_imported_twice_is_there_once(engine: sa.Engine) -> None:
    first = import_paths(engine, [str(FOLDER)])
    assert {Path(row.path).name for row in first} == set(NAMES)
    count = log.count(engine)
    runner.catch_up(engine)
    assert import_paths(engine, [str(FOLDER)]) == first
    assert log.count(engine) == count
    assert runner.behind(engine) == 0
    assert verify(engine).problems == []
