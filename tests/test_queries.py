"""The questions, over both databases: what an ID names, objects as they are and as they stood, usage, failures, sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.errors import AmbiguousID, UnknownID, UsageError
from recorder.projections import runner
from recorder.protocols import Request
from recorder.sse import Frame
from tests import writing
from tests.writing import BORN, DONE, answered, asked, said, stream_id

BORN_AT = datetime.fromtimestamp(BORN, UTC)
HOUR, DAY = 3600, 86400


def on(thread: str, label: str | None = None, number: int = 0, started: float | None = None) -> log.Stream:
    request = Request(method="POST", host="api.openai.com", path=f"/v1/threads/{thread}/runs", body={"assistant_id": "asst_1"})
    return writing.stream(number, request, started, label)


def tokens(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}


def asking(engine: sa.Engine) -> Any:
    runner.catch_up(engine)
    return database.read(engine)


# What an ID names


@pytest.fixture
def named(engine: sa.Engine) -> sa.Engine:
    """Labels that are called like other things, and ids that begin like others."""
    writing.write(engine, on("thread_1", number=0), writing.frames(said(id="run_a")))
    writing.write(engine, on("thread_1", number=1), writing.frames(said(id="run_ab")))
    writing.write(engine, on("thread_2", "run_a", 2), writing.frames(said(id="run_c", thread_id="thread_2")))
    writing.write(engine, on("thread_3", stream_id(0), 3), writing.frames(said(id="go", thread_id="thread_3")))
    writing.write(engine, on("thread_4", "thread_2", 4), writing.frames(said(id="stop", thread_id="thread_4")))
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
    writing.write(engine, on("thread_1", number=5), [])
    writing.write(engine, on("thread_1", number=3)._replace(recorded_at=BORN_AT + timedelta(days=1)), [])
    with database.read(engine) as connection:
        assert queries.resolve(connection, "last") == ("stream", stream_id(3))


# Objects


@pytest.fixture
def weather(engine: sa.Engine) -> sa.Engine:
    """A run that asks for a tool's output in one stream and goes on in another."""
    writing.write(engine, on("thread_1", number=0), writing.frames(asked()))
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
    writing.write(engine, on("thread_1"), body)
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
        writing.write(engine, on("thread_1", "mine", number), writing.frames(said(id=f"run_{id}", created_at=born)))
    with asking(engine) as connection:
        for id in ("mine", "thread_1"):
            shown = queries.show_session(connection, queries.resolve(connection, id))
            assert [entry["stream_id"] for entry in shown["streams"]] == [stream_id(number) for number in range(3)]
            assert shown["runs"] == ["run_z", "run_a", "run_m"]


# Usage


@pytest.fixture
def used(engine: sa.Engine) -> sa.Engine:
    given = [
        ("run_a", "thread_1", "gpt-4o", "asst_1", BORN, tokens(10, 5, prompt_token_details={"cached_tokens": 4})),
        ("run_b", "thread_1", "gpt-4o", "asst_2", BORN + HOUR, tokens(1, 2)),
        ("run_c", "thread_2", "o3", "asst_1", BORN + DAY, None),
        ("run_d", "thread_2", "o3", "asst_1", BORN + DAY + 60, tokens(100, 50)),
        ("run_e", "thread_3", "none", "asst_3", BORN + 2 * DAY, None),
    ]
    for number, (id, thread, model, assistant, born, usage) in enumerate(given):
        body = said(id=id, thread_id=thread, model=model, assistant_id=assistant, created_at=born, usage=usage)
        writing.write(engine, on(thread, number=number, started=born - BORN), writing.frames(body))
    runner.catch_up(engine)
    return engine


def sums(rows: list[dict[str, Any]], key: str) -> list[tuple[Any, ...]]:
    names = (key, "runs", "runs_without_usage", "prompt_tokens", "completion_tokens", "total_tokens")
    return [tuple(row[name] for name in names) for row in rows]


def test_usage_in_all(used: sa.Engine) -> None:
    with database.read(used) as connection:
        (row,) = queries.usage(connection)
    assert row == {
        "runs": 5,
        "runs_without_usage": 2,
        "prompt_tokens": 111,
        "cached_tokens": 4,
        "cache_write_tokens": None,
        "completion_tokens": 57,
        "reasoning_tokens": row["reasoning_tokens"],
        "total_tokens": 168,
        "cost_usd": row["cost_usd"],
        "runs_without_cost": row["runs_without_cost"],
    }


def test_usage_of_nothing_is_unknown_and_not_zero(engine: sa.Engine) -> None:
    with database.read(engine) as connection:
        (row,) = queries.usage(connection)
    assert (row["runs"], row["runs_without_usage"], row["total_tokens"]) == (0, 0, None)


USAGE: list[Any] = [
    ("model", "model", [("gpt-4o", 2, 0, 11, 7, 18), ("none", 1, 1, None, None, None), ("o3", 2, 1, 100, 50, 150)]),
    (
        "assistant",
        "assistant_id",
        [("asst_1", 3, 1, 110, 55, 165), ("asst_2", 1, 0, 1, 2, 3), ("asst_3", 1, 1, None, None, None)],
    ),
    ("day", "day", [("2026-05-28", 2, 0, 11, 7, 18), ("2026-05-29", 2, 1, 100, 50, 150), ("2026-05-30", 1, 1, None, None, None)]),
    (
        "hour",
        "hour",
        [
            ("2026-05-28T20:00:00Z", 1, 0, 10, 5, 15),
            ("2026-05-28T21:00:00Z", 1, 0, 1, 2, 3),
            ("2026-05-29T20:00:00Z", 2, 1, 100, 50, 150),
            ("2026-05-30T20:00:00Z", 1, 1, None, None, None),
        ],
    ),
    ("protocol", "protocol", [("assistants", 5, 2, 111, 57, 168)]),
    (
        "session",
        "session_id",
        [("thread_3", 1, 1, None, None, None), ("thread_2", 2, 1, 100, 50, 150), ("thread_1", 2, 0, 11, 7, 18)],
    ),
]


def test_usage_by(used: sa.Engine) -> None:
    for by, key, expected in USAGE:
        with database.read(used) as connection:
            assert sums(queries.usage(connection, by), key) == expected


PERIODS: list[Any] = [
    (-1, None, 5),
    (0, None, 5),
    (1, None, 4),
    (None, 0, 0),
    (None, 1, 1),
    (HOUR, DAY, 1),
    (HOUR, DAY + 30, 2),
    (DAY, DAY + 61, 2),
    (3 * DAY, None, 0),
    (0 - 1600, 0 - 1600 + HOUR, 1),  # 20:00 to 21:00, whole hours
    (0 - 1600 + HOUR, 0 - 1600 + 2 * HOUR, 1),
]


def test_usage_since_and_until(used: sa.Engine) -> None:
    """Of the runs' creation, with `since` and without `until`, to the second."""
    for since, until, runs in PERIODS:
        for by in (None, *(by for by in queries.USAGE_BY if by != "label")):  # which a run need not have
            start = None if since is None else BORN_AT + timedelta(seconds=since)
            end = None if until is None else BORN_AT + timedelta(seconds=until)
            with database.read(used) as connection:
                assert sum(row["runs"] for row in queries.usage(connection, by, start, end)) == runs


def test_usage_does_not_depend_on_the_zone_in_which_a_time_is_given(used: sa.Engine) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    with database.read(used) as connection:
        for by in ("model", "session"):
            local = queries.usage(connection, by, (BORN_AT + timedelta(seconds=HOUR)).astimezone(zone))
            assert local == queries.usage(connection, by, BORN_AT + timedelta(seconds=HOUR))
            whole = BORN_AT.replace(hour=21, minute=0, second=0)
            assert queries.usage(connection, by, whole.astimezone(zone)) == queries.usage(connection, by, whole)


# Failures


@pytest.fixture
def failed(engine: sa.Engine) -> sa.Engine:
    error = {"code": "rate_limit_exceeded", "message": "too fast"}
    begun = asked(id="run_failed", step_id="step_f", thread_id="thread_1")[:5]
    given = [
        [*begun, ("thread.run.failed", writing.run("failed", "run_failed", last_error=error, failed_at=BORN + 3)), DONE],
        [("thread.run.expired", writing.run("expired", "run_expired", created_at=BORN + 1, model="o3")), DONE],
        [
            (
                "thread.run.incomplete",
                writing.run("incomplete", "run_incomplete", created_at=BORN + 2, incomplete_details={"reason": "max_tokens"}),
            ),
            DONE,
        ],
        said(id="run_fine", created_at=BORN + 3),
        [("thread.run.cancelled", writing.run("cancelled", "run_cancelled", created_at=BORN + 4)), DONE],
    ]
    for number, body in enumerate(given):
        writing.write(engine, on("thread_1", number=number), writing.frames(body))
    broken = [
        ("thread.run.created", writing.run("in_progress", "run_broken", created_at=BORN + 5)),
        ("error", {"error": {"code": "server_error", "message": "sorry"}}),
    ]
    writing.write(engine, on("thread_2", number=5), writing.frames(broken, "error"))
    cut = [("thread.run.created", writing.run("in_progress", "run_cut", created_at=BORN + 6))]
    writing.write(engine, on("thread_2", number=6), writing.frames(cut, "cut"))
    refused = [
        log.system_frame("$response", {"status": 429, "headers": [["content-type", "application/json"]]}, 0),
        Frame("$body", '{"error": {"code": "insufficient_quota", "message": "pay"}}', None, 1),
        log.system_frame("$end", {"outcome": "http_error"}, 2),
    ]
    writing.write(engine, on("thread_3", number=7), refused)
    writing.write(engine, on("thread_3", number=8), [log.system_frame("$end", {"outcome": "no_response"}, 0)])
    runner.catch_up(engine)
    return engine


def test_failures_are_runs_and_streams_that_failed(failed: sa.Engine) -> None:
    """The latest first, each with its kind and the stream that showed it. What the end of a run is that was cut, nobody knows."""
    with database.read(failed) as connection:
        rows = sorted(queries.failures(connection), key=lambda row: row["stream_id"])
    assert [(row["run_id"], row["status"], row["kind"], row["code"], row["message"]) for row in rows] == [
        ("run_failed", "failed", "failed", "rate_limit_exceeded", "too fast"),
        ("run_expired", "expired", "expired", "expired", None),
        ("run_incomplete", "incomplete", "incomplete", "max_tokens", None),
        ("run_cancelled", "cancelled", "cancelled", "cancelled", None),
        ("run_broken", "unknown", "failed", "server_error", "sorry"),
        ("run_cut", "unknown", "cut", "cut", None),
        (None, "http_error", "http_error", "insufficient_quota", "pay"),
        (None, "no_response", "no_response", "no_response", None),
    ]
    assert rows[0]["at"] == "2026-05-28T20:26:43Z"
    assert [row["stream_id"] for row in rows] == [stream_id(number) for number in (0, 1, 2, 4, 5, 6, 7, 8)]
    assert [row["model"] for row in rows] == ["gpt-4o", "o3", "gpt-4o", "gpt-4o", "gpt-4o", "gpt-4o", None, None]
    with database.read(failed) as connection:
        assert [row["at"] for row in queries.failures(connection)] == sorted((row["at"] for row in rows), reverse=True)
        assert queries.failures(connection, limit=2) == queries.failures(connection)[:2]
        assert [row["run_id"] for row in queries.failures(connection, kind="cut")] == ["run_cut"]


FAILURES: list[Any] = [
    (
        "code",
        {
            "rate_limit_exceeded": 1,
            "expired": 1,
            "cancelled": 1,
            "cut": 1,
            "max_tokens": 1,
            "server_error": 1,
            "insufficient_quota": 1,
            "no_response": 1,
        },
    ),
    ("model", {"gpt-4o": 5, None: 2, "o3": 1}),
    ("tool", {None: 7, "weather": 1}),
    ("kind", {"failed": 2, **dict.fromkeys(("expired", "incomplete", "cancelled", "cut", "http_error", "no_response"), 1)}),
]


def test_failures_by(failed: sa.Engine) -> None:
    for by, expected in FAILURES:
        with database.read(failed) as connection:
            rows = queries.failures(connection, by)
        assert {row[by]: row["runs"] for row in rows} == expected
        assert [row["runs"] for row in rows] == sorted((row["runs"] for row in rows), reverse=True)


def test_failures_of_nothing(engine: sa.Engine) -> None:
    with database.read(engine) as connection:
        assert queries.failures(connection) == []
        assert [queries.failures(connection, by) for by in queries.FAILURES_BY] == [[], [], [], []]


# Sessions


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
    writing.write(failed, on("thread_4", number=9), writing.frames(said(id="run_good", thread_id="thread_4")))
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
    writing.write(engine, on("thread_1", "mine", 0), writing.frames(said(id="run_a")))
    writing.write(engine, on("thread_1", "mine too", 1), writing.frames(said(id="run_b")))
    with asking(engine) as connection:
        assert ids(queries.list_sessions(connection, label="mine")) == ["mine"]


def test_recent_events_are_the_last_of_the_last_stream(weather: sa.Engine) -> None:
    with database.read(weather) as connection:
        for limit in (0, 1, 3, 6, 100):
            found = queries.recent_events(connection, limit)
            assert [event.position for _, event in found] == list(range(6))[6 - min(limit, 6) :]
            assert {key for key, _ in found} <= {stream_id(1)}
