"""`show ID --at POSITION`: a run and its steps as they stood after an event, for every protocol.

What is shown is what a fold of the events up to there makes, and of nothing that came later.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, jsontext, log, queries
from recorder.collect.import_ import import_paths
from recorder.errors import UsageError
from recorder.projections import runner
from recorder.projections.folds import request_of, source_of
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.view import Contribution
from tests.commands import answer, sqlite
from tests.test_fixtures import CASES, sse
from tests.test_streams import FOLDER, NAMES
from tests.writing import answered, asked, frames, stream, stream_id, submitting, write

pytestmark = pytest.mark.slow

FILES = [*(FOLDER / name for name in NAMES), *map(sse, CASES)]

SAMPLES = 25
"""Positions of a stream that are looked at, of one that has more."""


@pytest.fixture
def alone(tmp_path: Path, empty_log: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, sa.Engine, str]]:
    """A database with one stream in it, caught up; (its file, engine, stream_id)."""
    file = tmp_path / "x.db"
    shutil.copy(empty_log, file)
    engine = database.connect(sqlite(file))
    (row,) = import_paths(engine, [str(request.param)])
    runner.catch_up(engine)
    yield file, engine, row.stream_id
    engine.dispose()


each_file = pytest.mark.parametrize("alone", FILES, ids=lambda path: path.name, indirect=True)


def positions(last: int) -> list[int]:
    """Some positions of a stream that ends at this one, its first and last among them."""
    return sorted({*range(0, last + 1, max(1, last // SAMPLES)), last})


def folded_to(engine: sa.Engine, stream_id: str, at: int) -> dict[str, dict[str, Any]]:
    """{run id: as show has it}, of all runs that the events up to and with this position speak of."""
    with database.read(engine) as connection:
        found = log.get_streams(connection, [stream_id])[stream_id]
        events = [event for event in log.read(connection, stream_id) if event.position <= at]
    fold = StreamFold(request_of(found))
    fold.feed_all((event.position, event.offset_us, event.type, event.data) for event in events)
    source = source_of(found, fold)
    parts = jsontext.loads(jsontext.dumps(fold.states()))
    return {key: queries.view_json(merge(key, [Contribution(source, part)])) for key, part in parts.items() if key}


@each_file
def test_a_run_is_shown_as_a_fold_of_the_events_up_to_there(alone: tuple[Path, sa.Engine, str]) -> None:
    _, engine, stream_id = alone
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
        ran = queries.show_stream(connection, stream_id)["runs"]
    assert head is not None
    for at in positions(head.position):
        wanted = folded_to(engine, stream_id, at)
        for run_id in ran:
            with database.read(engine) as connection:
                if run_id not in wanted:
                    with pytest.raises(UsageError, match=f"did not exist yet at position {at}"):
                        queries.show_run_at(connection, run_id, None, at)
                    continue
                shown = queries.show_run_at(connection, run_id, None, at)
            assert {**shown, "logical_run_id": None} == {**wanted[run_id], "logical_run_id": None}, f"at {at}"


@each_file
def test_after_its_last_event_a_run_is_as_it_is(alone: tuple[Path, sa.Engine, str]) -> None:
    _, engine, stream_id = alone
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
        assert head is not None
        for run_id in queries.show_stream(connection, stream_id)["runs"]:
            now, then = queries.show_run(connection, run_id), queries.show_run_at(connection, run_id, None, head.position)
            for found in (now, then):
                found["anomalies"].sort(key=lambda entry: (entry["position"], entry["kind"], entry["detail"]))
            assert then == now


PROTOCOLS = {
    "assistants": "assistants/functions-parallel",
    "responses": "responses/every-item",
    "chat": next(case for case in CASES if case.startswith("chat/")),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_command_shows_it(tmp_path: Path, empty_log: Path, protocol: str) -> None:
    file = tmp_path / "x.db"
    shutil.copy(empty_log, file)
    engine = database.connect(sqlite(file))
    (row,) = import_paths(engine, [str(sse(PROTOCOLS[protocol]))])
    runner.catch_up(engine)
    with database.read(engine) as connection:
        events = queries.show_stream(connection, row.stream_id)
    last = events["events"][-1]["position"]
    for at in (last // 3, last * 2 // 3, last):
        for run_id, wanted in folded_to(engine, row.stream_id, at).items():
            assert wanted["protocol"] == protocol
            shown = answer("show", run_id, "--at", str(at), db=file)
            assert shown == json.loads(jsontext.dumps({**wanted, "logical_run_id": shown["logical_run_id"]}))
            assert answer("show", run_id, "--at", f"{row.stream_id}:{at}", db=file) == shown
        cut = answer("show", row.stream_id, "--at", str(at), db=file)
        assert cut["events"] == events["events"][: at + 1]
    engine.dispose()


def test_a_run_of_several_streams_stands_as_those_before_left_it(engine: sa.Engine) -> None:
    write(engine, stream(1), frames(asked()))
    write(engine, stream(2, submitting()), frames(answered()))
    runner.catch_up(engine)

    def at(number: int, position: int) -> tuple[str, list[str]]:
        with database.read(engine) as connection:
            shown = queries.show_run_at(connection, "run_1", stream_id(number), position)
        return shown["status"], [step["status"] for step in shown["steps"]]

    assert at(1, 1) == ("in_progress", [])
    assert at(1, 3) == ("in_progress", ["in_progress"])
    assert at(1, 99) == ("requires_action", ["in_progress"])
    assert at(2, 0) == ("requires_action", ["completed"])
    assert at(2, 1) == ("queued", ["completed"])
    assert at(2, 99) == ("completed", ["completed"])
