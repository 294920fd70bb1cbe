"""The questions, over both databases: what an ID names, objects as they are and as they stood, sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, queries
from recorder.errors import AmbiguousID, UnknownID, UsageError
from recorder.projections import runner
from recorder.sse import Frame
from tests import writing
from tests.writing import BORN, answered, asked, said, stream_id

BORN_AT = datetime.fromtimestamp(BORN, UTC)
HOUR, DAY = 3600, 86400


def asking(engine: sa.Engine) -> Any:
    runner.catch_up(engine)
    return database.read(engine)


# What an ID names


@pytest.fixture
def named(engine: sa.Engine) -> sa.Engine:
    """Labels that are called like other things, and ids that begin like others."""
    writing.write(engine, writing.on("thread_1", number=0), writing.frames(said(id="run_a")))
    writing.write(engine, writing.on("thread_1", number=1), writing.frames(said(id="run_ab")))
    writing.write(engine, writing.on("thread_2", "run_a", 2), writing.frames(said(id="run_c", thread_id="thread_2")))
    writing.write(engine, writing.on("thread_3", stream_id(0), 3), writing.frames(said(id="go", thread_id="thread_3")))
    writing.write(engine, writing.on("thread_4", "thread_2", 4), writing.frames(said(id="stop", thread_id="thread_4")))
    runner.catch_up(engine)
    return engine


NAMES: list[Any] = [
    (stream_id(0), "stream", stream_id(0)),  # also a label
    ("run_a", "run", "run_a"),  # also a label, and the start of another run's id
    ("thread_2", "session", "thread_2"),  # a label, also a thread
    ("thread_1", "session", "thread_1"),  # a session that has no label is called by its thread
    ("thread_3", "thread", "thread_3"),  # its session has a label, so the thread is a thread only
    ("run_ab", "run", "run_ab"),
    ("g", "run", "go"),
    ("sto", "run", "stop"),
    (stream_id(4), "stream", stream_id(4)),
    ("thread_4", "thread", "thread_4"),
]


def test_what_an_id_names(named: sa.Engine) -> None:
    """Stream, run, session, thread, in that order; the whole of an id before the start of one."""
    for id, kind, found in NAMES:
        with database.read(named) as connection:
            assert queries.resolve(connection, id) == (kind, found)


STARTS: list[Any] = ["run_", "r", "thread_", stream_id(0)[:10]]


def test_a_start_that_several_have_is_ambiguous_and_names_them(named: sa.Engine) -> None:
    for id in STARTS:
        with database.read(named) as connection, pytest.raises(AmbiguousID) as raised:
            queries.resolve(connection, id)
        assert repr(id) in str(raised.value)
        assert str(raised.value).count(id) >= 3


NOTHING: list[Any] = ["", "nothing", "run_x", "RUN_A", "run%", "run_a%", "_", "%", "*", "' OR 1=1 --", "é", "0" * 500]


def test_an_id_of_nothing_is_unknown(named: sa.Engine) -> None:
    """Also one that a pattern would have matched."""
    for id in NOTHING:
        with database.read(named) as connection, pytest.raises(UnknownID):
            queries.resolve(connection, id)


def test_last_is_the_stream_that_was_recorded_last(engine: sa.Engine) -> None:
    """By the time of recording: an import of something older comes later."""
    with database.read(engine) as connection, pytest.raises(UnknownID):
        queries.resolve(connection, "last")
    writing.write(engine, writing.on("thread_1", number=5), [])
    writing.write(engine, writing.on("thread_1", number=3)._replace(recorded_at=BORN_AT + timedelta(days=1)), [])
    with database.read(engine) as connection:
        assert queries.resolve(connection, "last") == ("stream", stream_id(3))


# Objects


@pytest.fixture
def weather(engine: sa.Engine) -> sa.Engine:
    """A run that asks for a tool's output in one stream and goes on in another."""
    writing.write(engine, writing.on("thread_1", number=0), writing.frames(asked()))
    writing.write(engine, writing.stream(1, writing.submitting()), writing.frames(answered()))
    runner.catch_up(engine)
    return engine


def test_a_run_has_its_steps_streams_and_state(weather: sa.Engine) -> None:
    with database.read(weather) as connection:
        shown = queries.show_run(connection, "run_1")
    assert (shown["id"], shown["object"], shown["status"], shown["state"]) == ("run_1", "thread.run", "completed", "ended")
    assert shown["protocol"] == "assistants"
    assert [entry["stream_id"] for entry in shown["streams"]] == [stream_id(0), stream_id(1)]
    assert [(entry["outcome"], entry["events"]) for entry in shown["streams"]] == [("done", 7), ("done", 5)]
    (step,) = shown["steps"]
    assert step["step_details"]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city":"Oslo"}',
        "output": "rain",
    }
    assert shown["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


MOMENTS: list[Any] = [
    (None, 0, "queued", None),
    (None, 1, "in_progress", None),
    (None, 3, "in_progress", ""),
    (None, 4, "in_progress", '{"city":"Oslo"}'),
    (None, 5, "requires_action", '{"city":"Oslo"}'),
    (None, 999, "requires_action", '{"city":"Oslo"}'),
    (stream_id(1), 1, "queued", '{"city":"Oslo"}'),
    (stream_id(1), 3, "completed", '{"city":"Oslo"}'),
    (stream_id(0), 1, "in_progress", None),
]


def test_a_step_that_no_event_ended_lasts_to_the_last_event_of_its_run(engine: sa.Engine) -> None:
    told = said()[:5]  # the run, its step and the step's message begin, and the stream breaks off
    timed = [Frame(type, writing.data(data), None, at * 1_000_000) for at, (type, data) in enumerate(told)]
    writing.write(engine, writing.stream(1), [*timed, Frame("$end", '{"outcome":"cut"}', None, 9_000_000)])
    runner.catch_up(engine)
    with database.read(engine) as connection:
        (step,), duration_us = queries.timeline(connection, "run_1")
    assert (step.is_open, step.last_us, duration_us) == (True, 9_000_000, 9_000_000)
    assert step.first_us == next(at for at, (type, _) in enumerate(told) if ".step." in type) * 1_000_000


def test_a_step_that_an_event_ended_lasts_to_that(engine: sa.Engine) -> None:
    timed = [Frame(type, writing.data(data), None, at * 1_000_000) for at, (type, data) in enumerate(said())]
    writing.write(engine, writing.stream(1), timed)
    runner.catch_up(engine)
    with database.read(engine) as connection:
        (step,), duration_us = queries.timeline(connection, "run_1")
    assert not step.is_open
    assert (step.last_us, duration_us) == (7_000_000, 8_000_000)


def test_a_run_as_it_stood_at_an_event(weather: sa.Engine) -> None:
    for stream, at, status, arguments in MOMENTS:
        with database.read(weather) as connection:
            shown = queries.show_run_at(connection, "run_1", stream, at)
        assert shown["status"] == status
        calls = [call for step in shown["steps"] for call in step["step_details"]["tool_calls"]]
        assert [call["function"]["arguments"] for call in calls] == ([] if arguments is None else [arguments])


def test_a_run_as_it_stood_in_a_stream_that_is_not_its_own(weather: sa.Engine) -> None:
    with database.read(weather) as connection, pytest.raises(UnknownID, match="run_1"):
        queries.show_run_at(connection, "run_1", "ffff", 0)


def test_a_run_that_did_not_exist_yet(engine: sa.Engine) -> None:
    body = [Frame("$comment", "early", None, 0), *writing.frames(said())]
    writing.write(engine, writing.on("thread_1"), body)
    with asking(engine) as connection, pytest.raises(UsageError, match="position 0"):
        queries.show_run_at(connection, "run_1", None, 0)


def test_a_stream_has_its_events_system_events_in_their_places(weather: sa.Engine) -> None:
    with database.read(weather) as connection:
        shown = queries.show_stream(connection, stream_id(0))
        cut = queries.show_stream(connection, stream_id(0), 2)
    assert [event["position"] for event in shown["events"]] == list(range(8))
    assert shown["events"][-1]["type"] == "$end"
    assert (shown["outcome"], shown["protocol"], shown["runs"]) == ("done", "assistants", ["run_1"])
    assert [event["position"] for event in cut["events"]] == [0, 1, 2]
    assert cut["outcome"] is None, "at position 2 it had not ended"


def test_a_session_has_its_streams_and_runs_in_order(engine: sa.Engine) -> None:
    for number, (id, born) in enumerate([("z", BORN), ("a", BORN + 5), ("m", BORN + 9)]):
        writing.write(engine, writing.on("thread_1", "mine", number), writing.frames(said(id=f"run_{id}", created_at=born)))
    with asking(engine) as connection:
        for id in ("mine", "thread_1"):
            shown = queries.show_session(connection, queries.resolve(connection, id))
            assert [entry["stream_id"] for entry in shown["streams"]] == [stream_id(number) for number in range(3)]
            assert shown["runs"] == ["run_z", "run_a", "run_m"]


# Sessions


@pytest.fixture
def failed(engine: sa.Engine) -> sa.Engine:
    writing.write_failures(engine)
    runner.catch_up(engine)
    return engine


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["session_id"] for row in rows]


def test_sessions_come_latest_first_with_what_is_in_them(failed: sa.Engine) -> None:
    with database.read(failed) as connection:
        rows = queries.list_sessions(connection)
    assert ids(rows) == ["thread_3", "thread_2", "thread_1"]
    assert [(row["streams"], row["runs"], row["failed"], row["unknown"]) for row in rows] == [
        (2, 0, 2, 0),
        (2, 2, 1, 2),
        (5, 5, 3, 0),
    ]
    assert rows[2]["models"] == ["gpt-4o", "o3"]
    assert rows[2]["statuses"] == ["failed", "expired", "incomplete", "completed", "cancelled"]
    assert rows[1]["statuses"] == ["unknown", "unknown"]


def test_sessions_failed(failed: sa.Engine) -> None:
    writing.write(failed, writing.on("thread_4", number=9), writing.frames(said(id="run_good", thread_id="thread_4")))
    with asking(failed) as connection:
        assert "thread_4" in ids(queries.list_sessions(connection))
        assert ids(queries.list_sessions(connection, failed=True)) == ["thread_3", "thread_2", "thread_1"]


FILTERS: list[Any] = [
    ({"model": "o3"}, ["thread_1"]),
    ({"model": "gpt-4o"}, ["thread_2", "thread_1"]),
    ({"model": "gpt"}, []),
    ({"status": "completed"}, ["thread_1"]),
    ({"status": "unknown"}, ["thread_2"]),
    ({"status": "in_progress"}, []),
    ({"status": "nonsense"}, []),
    ({"label": "mine"}, []),
    ({"limit": 1}, ["thread_3"]),
    ({"limit": 2, "model": "gpt-4o"}, ["thread_2", "thread_1"]),
    ({"since": BORN_AT + timedelta(seconds=6)}, ["thread_3", "thread_2"]),
    ({"since": BORN_AT + timedelta(seconds=8)}, ["thread_3"]),
    ({"since": BORN_AT + timedelta(seconds=9)}, []),
    ({"since": BORN_AT + timedelta(seconds=6), "failed": True, "status": "unknown"}, ["thread_2"]),
]


def test_sessions_by_filter(failed: sa.Engine) -> None:
    for filters, expected in FILTERS:
        with database.read(failed) as connection:
            assert ids(queries.list_sessions(connection, **filters)) == expected


def test_sessions_by_label(engine: sa.Engine) -> None:
    writing.write(engine, writing.on("thread_1", "mine", 0), writing.frames(said(id="run_a")))
    writing.write(engine, writing.on("thread_1", "mine too", 1), writing.frames(said(id="run_b")))
    with asking(engine) as connection:
        assert ids(queries.list_sessions(connection, label="mine")) == ["mine"]


def test_recent_events_are_the_last_of_the_last_stream(weather: sa.Engine) -> None:
    with database.read(weather) as connection:
        for limit in (0, 1, 3, 6, 100):
            found = queries.recent_events(connection, limit)
            assert [event.position for _, event in found] == list(range(6))[6 - min(limit, 6) :]
            assert {key for key, _ in found} <= {stream_id(1)}
