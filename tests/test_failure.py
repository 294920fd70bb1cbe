"""How runs and streams failed: one kind each, with the event that showed it, told from the log alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, reports
from recorder.projections import runner
from recorder.projections.failures import failures
from recorder.projections.runs import runs
from recorder.projections.verify import verify
from recorder.protocols.failure import ERRORS, KINDS
from recorder.sse import Frame
from tests import chatting, writing
from tests.responding import RESPONSES, called
from tests.writing import BORN, DONE, Event, asked, frames, run, said, step, stream, stream_id, submitting, write

ERROR = {"code": "server_error", "message": "sorry"}
REFUSED = '{"error": {"code": "rate_limit_exceeded", "message": "slow down"}}'


def told(status: str, **more: Any) -> list[Event]:
    return [("thread.run.created", run("queued")), (f"thread.run.{status}", run(status, **more)), DONE]


def ended(events: list[Event], outcome: str, silence_us: int = 5000) -> list[Frame]:
    """A stream that breaks off so long after its last event."""
    body = frames(events, None)
    return [*body, log.system_frame("$end", {"outcome": outcome}, body[-1].offset_us + silence_us)]


def body_of(found: Any) -> list[Frame]:
    return [
        log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/json"]]}, 0),
        Frame("$body", json.dumps(found), None, 1000),
        log.system_frame("$end", {"outcome": "done"}, 2000),
    ]


def refused(status: int, body: str = REFUSED) -> list[Frame]:
    return [
        log.system_frame("$response", {"status": status, "headers": [["content-type", "application/json"]]}, 0),
        Frame("$body", body, None, 1000),
        log.system_frame("$end", {"outcome": "http_error"}, 2000),
    ]


MCP = {"id": "mcp_1", "type": "mcp_call", "name": "lookup", "server_label": "db", "arguments": "{}", "output": None}
MCP_FAILED: list[Event] = [
    (
        "response.created",
        {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}},
    ),
    (
        "response.output_item.done",
        {"type": "response.output_item.done", "output_index": 0, "item": {**MCP, "error": "no such table", "status": "failed"}},
    ),
    (
        "response.completed",
        {
            "type": "response.completed",
            "response": {
                "id": "resp_1",
                "object": "response",
                "status": "completed",
                "output": [{**MCP, "error": "no such table", "status": "failed"}],
            },
        },
    ),
]

CASES: list[Any] = [
    (
        "failed",
        "rate_limit_exceeded",
        "too fast",
        1,
        frames(told("failed", last_error={"code": "rate_limit_exceeded", "message": "too fast"})),
    ),
    ("incomplete", "max_tokens", None, 1, frames(told("incomplete", incomplete_details={"reason": "max_tokens"}))),
    ("cancelled", "cancelled", None, 1, frames(told("cancelled"))),
    ("expired", "expired", None, 1, frames(told("expired"))),
    ("requires_action", "submit_tool_outputs", None, None, frames(asked())),
    ("failed", "server_error", "sorry", 5, frames([*said()[:5], ("error", {"error": ERROR})], "error")),
    ("cut", "cut", None, 5, ended(said()[:5], "cut")),
    ("cut", "eof", None, 5, ended(said()[:5], "eof")),
    ("client_closed", "client_closed", None, 5, ended(said()[:5], "client_closed")),
    ("stalled", "client_closed", None, 5, ended(said()[:5], "client_closed", 10_000_000)),
    ("stalled", "cut", None, 5, ended(said()[:5], "cut", 60_000_000)),
    ("unknown", "lost", None, 5, ended(said()[:5], "lost")),
]


@pytest.mark.parametrize(
    ("kind", "code", "message", "position", "body"), CASES, ids=[f"{kind}-{code}" for kind, code, *_ in CASES]
)
def test_a_run_has_one_kind_of_failure_and_the_event_that_showed_it(
    engine: sa.Engine, kind: str, code: str, message: str | None, position: int | None, body: list[Frame]
) -> None:
    write(engine, stream(0), body)
    runner.catch_up(engine)
    (found,) = listed(engine)
    assert (found["run_id"], found["kind"], found["code"], found["message"]) == ("run_1", kind, code, message)
    shown = body[found["position"]]
    if position is not None:
        assert found["position"] == position
    else:
        assert shown.type == "thread.run.requires_action"
    with database.read(engine) as connection:
        row = connection.execute(sa.select(runs)).mappings().one()
    assert (row["failure_kind"], row["failure_code"], row["failure_message"]) == (kind, code, message)
    assert of_streams(engine) == {(code, message) if kind in ERRORS else (None, None)}
    assert verify(engine).problems == []


def of_streams(engine: sa.Engine) -> set[tuple[str | None, str | None]]:
    """The errors that the view of streams has: (code, message)."""
    with database.read(engine) as connection:
        return {
            (code, message) for code, message in connection.exec_driver_sql("SELECT error_code, error_message FROM v_streams")
        }


def listed(engine: sa.Engine) -> list[dict[str, Any]]:
    with database.read(engine) as connection:
        return reports.failures(connection)


def test_what_went_well_is_no_failure(engine: sa.Engine) -> None:
    write(engine, stream(0), frames(said()))
    write(engine, stream(1), frames(said("run_open")[:5], None))  # it goes on
    runner.catch_up(engine)
    assert listed(engine) == []


def test_a_call_that_is_answered_is_no_failure_any_more(engine: sa.Engine) -> None:
    write(engine, stream(0), frames(asked()))
    runner.catch_up(engine)
    assert [row["kind"] for row in listed(engine)] == ["requires_action"]
    write(engine, stream(1, submitting()), frames([("thread.run.completed", run("completed")), DONE]))
    runner.catch_up(engine)
    assert listed(engine) == []


def test_an_answer_that_was_refused_is_an_http_error_of_the_run(engine: sa.Engine) -> None:
    write(engine, stream(0), frames(asked()))
    write(engine, stream(1, submitting()), refused(400))
    runner.catch_up(engine)
    (found,) = listed(engine)
    assert (found["run_id"], found["kind"], found["code"]) == ("run_1", "http_error", "rate_limit_exceeded")
    assert (found["stream_id"], found["position"]) == (stream_id(1), 0)
    assert of_streams(engine) == {(None, None), ("rate_limit_exceeded", "slow down")}


def test_a_run_that_broke_off_and_ended_well_elsewhere_did_not_fail(engine: sa.Engine) -> None:
    write(engine, stream(0), ended(said()[:5], "cut"))
    write(engine, stream(1), frames([("thread.run.completed", run("completed")), DONE]))
    runner.catch_up(engine)
    assert listed(engine) == []


def test_a_tool_that_failed_in_a_run_that_went_on(engine: sa.Engine) -> None:
    write(engine, stream(0, RESPONSES), frames(MCP_FAILED, "eof"))
    runner.catch_up(engine)
    (found,) = listed(engine)
    assert (found["kind"], found["message"], found["position"]) == ("tool_failed", "no such table", 1)
    assert of_streams(engine) == {(found["code"], "no such table")}
    with database.read(engine) as connection:
        assert connection.exec_driver_sql("SELECT failed, type FROM v_tool_calls").all() == [(1, "mcp")]


def test_of_several_failures_that_a_stream_shows_it_has_the_last(engine: sa.Engine) -> None:
    """At one position, as in a list of runs, the one whose id sorts last by its bytes, on whatever database."""
    runs = [run("failed", f"run_{name}", last_error={"code": name, "message": f"{name} broke"}) for name in ("a", "B", "C")]
    write(engine, stream(0), frames([*(("thread.run.failed", each) for each in runs), DONE]))
    listing = writing.THREADS._replace(method="GET", path="/v1/threads/thread_1/runs", body=None)
    of_list = [run("failed", f"run_l{name}", last_error={"code": f"l{name}", "message": None}) for name in ("B", "a", "C")]
    write(engine, stream(1, listing), body_of({"object": "list", "data": of_list}))
    runner.catch_up(engine)
    assert len(listed(engine)) == 6
    assert of_streams(engine) == {("C", "C broke"), ("la", None)}


def test_a_step_that_failed_fails_its_calls(engine: sa.Engine) -> None:
    calls = [{"id": "call_1", "type": "code_interpreter", "code_interpreter": {"input": "1/0", "outputs": []}}]
    details = {"type": "tool_calls", "tool_calls": calls}
    failed = step("failed", step_details=details, type="tool_calls", last_error=ERROR)
    write(engine, stream(0), frames([("thread.run.step.failed", failed), ("thread.run.completed", run("completed")), DONE]))
    runner.catch_up(engine)
    (found,) = listed(engine)
    assert (found["kind"], found["code"], found["message"], found["tool"]) == (
        "tool_failed",
        "server_error",
        "sorry",
        "code_interpreter",
    )


def test_a_response_whose_calls_nobody_answered(engine: sa.Engine) -> None:
    write(engine, stream(0, RESPONSES), frames(called(), "eof"))
    write(engine, stream(1, chatting.CHAT), frames(chatting.called()))
    runner.catch_up(engine)
    assert {(row["kind"], row["protocol"]) for row in listed(engine)} == {
        ("requires_action", "chat"),
        ("requires_action", "responses"),
    }


ALONE: list[Any] = [
    ("http_error", "rate_limit_exceeded", "slow down", refused(429)),
    ("http_error", "502", "<html>bad gateway</html>", refused(502, "<html>bad gateway</html>")),
    ("no_response", "no_response", None, [log.system_frame("$end", {"outcome": "no_response"}, 9)]),
    (
        "cut",
        "cut",
        None,
        [Frame("$response", '{"status":200,"headers":[]}', None, 5), log.system_frame("$end", {"outcome": "cut"}, 9)],
    ),
]


@pytest.mark.parametrize(("kind", "code", "message", "body"), ALONE, ids=[f"{kind}-{code}" for kind, code, *_ in ALONE])
def test_a_stream_without_a_run_fails_by_itself(
    engine: sa.Engine, kind: str, code: str, message: str | None, body: list[Frame]
) -> None:
    write(engine, stream(0), body)
    runner.catch_up(engine)
    (found,) = listed(engine)
    assert (found["run_id"], found["kind"], found["code"], found["message"]) == (None, kind, code, message)
    assert found["stream_id"] == stream_id(0)
    assert of_streams(engine) == {(code, message) if kind in ERRORS else (None, None)}
    assert verify(engine).problems == []


def test_failures_move_with_their_session_and_go_with_what_is_erased(engine: sa.Engine) -> None:
    write(engine, stream(0), refused(429))
    write(engine, stream(1), frames(told("failed", last_error=ERROR)))
    runner.catch_up(engine)
    assert len(listed(engine)) == 2
    runner.erase(engine, [stream_id(0), stream_id(1)])
    assert listed(engine) == []
    with database.read(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(failures)).scalar_one() == 0


def test_every_kind_is_told_here() -> None:
    told_here = {kind for kind, *_ in (*CASES, *ALONE)} | {"tool_failed"}
    assert told_here == set(KINDS)


def test_when_steps_were_and_how_long_a_run_took(engine: sa.Engine) -> None:
    """In µs since the run's first stream began, over all its streams; the second begins a second later."""
    write(engine, stream(0), frames(asked()))
    write(engine, stream(1, submitting()), frames([("thread.run.completed", run("completed", completed_at=BORN + 9)), DONE]))
    runner.catch_up(engine)
    with database.read(engine) as connection:
        row = connection.execute(sa.select(runs)).mappings().one()
        spans = connection.exec_driver_sql("SELECT first_us, last_us FROM run_steps").all()
    first, second = stream(0).started_at, stream(1).started_at
    apart = round((second - first).total_seconds() * 1e6)
    assert row["duration_us"] == apart
    assert row["ended_at"] == second
    assert spans
    assert all(0 <= first_us <= last_us < apart for first_us, last_us in spans)


def test_silences_of_a_second_are_kept_and_of_ten_are_stalls(engine: sa.Engine) -> None:
    offsets = [0, 900_000, 2_000_000, 14_000_000, 14_000_001]
    body = [frame._replace(offset_us=at) for frame, at in zip(frames(said()[:5], None), offsets, strict=True)]
    write(engine, stream(0), body)
    runner.catch_up(engine)
    with database.read(engine) as connection:
        gaps = connection.exec_driver_sql("SELECT position, offset_s, gap_s FROM v_gaps ORDER BY position").all()
        longest = connection.exec_driver_sql("SELECT longest_gap_s, stalls FROM v_streams").all()
    assert gaps == [(2, 2.0, 1.1), (3, 14.0, 12.0)]
    assert longest == [(12.0, 1)]


def test_a_client_that_leaves_with_the_whole_call_and_answers_it_did_not_fail(engine: sa.Engine) -> None:
    write(engine, stream(0, chatting.CHAT), ended(chatting.called()[:-2], "client_closed"))
    runner.catch_up(engine)
    assert [row["kind"] for row in listed(engine)] == ["client_closed"]
    write(engine, stream(1, chatting.history(("call_1", "rain"))), frames(chatting.said()))
    runner.catch_up(engine)
    assert listed(engine) == []
    assert verify(engine).problems == []


def test_a_client_that_leaves_with_a_call_that_it_does_not_answer_closed_the_stream(engine: sa.Engine) -> None:
    write(engine, stream(0, chatting.CHAT), ended(chatting.called(ids=("call_1", "call_2"))[:-2], "client_closed"))
    write(engine, stream(1, chatting.history(("call_1", "rain"))), frames(chatting.said()))
    runner.catch_up(engine)
    assert [row["kind"] for row in listed(engine)] == ["client_closed"]
