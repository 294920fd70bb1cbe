"""What usage and failures sum to, over both databases: by each of their groups, between any times, in any zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, reports
from recorder.projections import runner
from tests import writing
from tests.writing import BORN, said, stream_id, tokens

BORN_AT = datetime.fromtimestamp(BORN, UTC)
HOUR, DAY = 3600, 86400


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
        writing.write(engine, writing.on(thread, number=number, started=born - BORN), writing.frames(body))
    runner.catch_up(engine)
    return engine


def sums(rows: list[dict[str, Any]], key: str) -> list[tuple[Any, ...]]:
    names = (key, "runs", "runs_without_usage", "prompt_tokens", "completion_tokens", "total_tokens")
    return [tuple(row[name] for name in names) for row in rows]


def test_usage_in_all(used: sa.Engine) -> None:
    with database.read(used) as connection:
        (row,) = reports.usage(connection)
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
        (row,) = reports.usage(connection)
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
            assert sums(reports.usage(connection, by), key) == expected


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
        for by in (None, *(by for by in reports.USAGE_BY if by != "label")):  # which a run need not have
            start = None if since is None else BORN_AT + timedelta(seconds=since)
            end = None if until is None else BORN_AT + timedelta(seconds=until)
            with database.read(used) as connection:
                assert sum(row["runs"] for row in reports.usage(connection, by, start, end)) == runs


def test_usage_does_not_depend_on_the_zone_in_which_a_time_is_given(used: sa.Engine) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    with database.read(used) as connection:
        for by in ("model", "session"):
            local = reports.usage(connection, by, (BORN_AT + timedelta(seconds=HOUR)).astimezone(zone))
            assert local == reports.usage(connection, by, BORN_AT + timedelta(seconds=HOUR))
            whole = BORN_AT.replace(hour=21, minute=0, second=0)
            assert reports.usage(connection, by, whole.astimezone(zone)) == reports.usage(connection, by, whole)


# Failures


@pytest.fixture
def failed(engine: sa.Engine) -> sa.Engine:
    writing.write_failures(engine)
    runner.catch_up(engine)
    return engine


def test_failures_are_runs_and_streams_that_failed(failed: sa.Engine) -> None:
    """The latest first, each with its kind and the stream that showed it. What the end of a run is that was cut, nobody knows."""
    with database.read(failed) as connection:
        rows = sorted(reports.failures(connection), key=lambda row: row["stream_id"])
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
        assert [row["at"] for row in reports.failures(connection)] == sorted((row["at"] for row in rows), reverse=True)
        assert reports.failures(connection, limit=2) == reports.failures(connection)[:2]
        assert [row["run_id"] for row in reports.failures(connection, kind="cut")] == ["run_cut"]


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
            rows = reports.failures(connection, by)
        assert {row[by]: row["runs"] for row in rows} == expected
        assert [row["runs"] for row in rows] == sorted((row["runs"] for row in rows), reverse=True)


def test_failures_of_nothing(engine: sa.Engine) -> None:
    with database.read(engine) as connection:
        assert reports.failures(connection) == []
        assert [reports.failures(connection, by) for by in reports.FAILURES_BY] == [[], [], [], []]
