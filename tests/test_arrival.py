"""In whatever order, and however often, the streams of a run arrive: the same runs, steps, tool calls, messages and usage.

The events inside a stream keep their order; streams are interleaved, shuffled, delivered again, and recorded by two at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder import database, log
from recorder.log import LOG_TABLES, Stream
from recorder.projections import PROJECTED, WORKING, runner
from recorder.projections.messages import messages
from recorder.projections.run_steps import run_steps, tool_calls
from recorder.projections.runs import runs
from recorder.projections.usage import usage_hourly
from recorder.projections.verify import verify
from recorder.protocols import Request
from recorder.sse import Frame
from tests import chatting, responding
from tests.responding import RESPONSES, answering, getting, message_item, replied, response
from tests.test_assistants import page
from tests.test_azure_agents import AGENTS, approved, approving, asking
from tests.writing import (
    THREADS,
    Event,
    answered,
    asked,
    frames,
    message,
    run,
    said,
    step,
    stream,
    stream_id,
    submitting,
    text,
    write,
)

pytestmark = pytest.mark.slow

TABLES = (runs, run_steps, tool_calls, messages, usage_hourly)
OF_RECORDING = {"stream_id", "streams"}
"""Columns that say how a run was recorded, and not what became of it."""


class Told(NamedTuple):
    request: Request
    frames: list[Frame]


def told(events: list[Event], request: Request, outcome: str = "done") -> Told:
    return Told(request, frames(events, outcome))


def polled(found: Any, request: Request) -> Told:
    kind = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/json"]]}, 0)
    return Told(request, [kind, Frame("$body", json.dumps(found), None, 10), log.system_frame("$end", {"outcome": "done"}, 20)])


RUN = "/v1/threads/thread_1/runs/run_1"
LONG = replied("A longer answer", id="resp_1")
FINAL = response("completed", "resp_1", [message_item("A longer answer", "msg_of_resp_1")])
WROTE = {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}
CUT = dict(said())

CASES: dict[str, list[Told]] = {
    "a run that waits twice": [
        told(asked(), THREADS),
        told([*answered()[:3], *asked(step_id="step_2")[2:]], submitting()),
        told(answered(step_id="step_2"), submitting("snow")),
    ],
    "a run that was cut off, and polls": [
        told(said()[:5], THREADS, "cut"),
        polled(run("in_progress"), Request("GET", "api.openai.com", RUN)),
        polled(CUT["thread.run.completed"], Request("GET", "api.openai.com", RUN)),
        polled(page(CUT["thread.run.step.completed"]), Request("GET", "api.openai.com", f"{RUN}/steps")),
        polled(page(CUT["thread.message.completed"]), Request("GET", "api.openai.com", "/v1/threads/thread_1/messages")),
    ],
    "pages of polls": [
        polled(page(step("completed", "step_2", "message_creation", step_details=WROTE)), Request("GET", "", f"{RUN}/steps")),
        polled(page(step("completed", "step_1")), Request("GET", "", f"{RUN}/steps")),
        polled(page(run("completed"), run("expired", "run_0")), Request("GET", "", "/v1/threads/thread_1/runs")),
        polled(page(message("completed", content=[text("Hi")])), Request("GET", "", "/v1/threads/thread_1/messages")),
    ],
    "an approval": [told(asking(), AGENTS), told(approved(), approving())],
    "a response in three pieces, and a poll": [
        told(LONG[:5], RESPONSES, "cut"),
        told(LONG[4:7], getting("resp_1", 3), "cut"),
        told(LONG[6:], getting("resp_1", 5), "eof"),
        polled(FINAL, getting("resp_1")),
    ],
    "a chain of responses": [
        told(responding.called(), RESPONSES, "eof"),
        told(responding.called(id="resp_2", call_ids=["call_2"], previous_response_id="resp_1"), answering(), "eof"),
        told(replied(id="resp_3", previous_response_id="resp_2"), answering("sun", "resp_2", "call_2"), "eof"),
    ],
    "a chat that repeats itself": [
        told(chatting.called(), chatting.CHAT),
        told(chatting.called(ids=["call_2"]), chatting.history(("call_1", "rain"))),
        told(chatting.said("It rains", chatting.USAGE), chatting.history(("call_1", "rain"), ("call_2", "sun"))),
    ],
}

ALONE = ("a chat that repeats itself",)
"""Where a run is its stream, so that one that is recorded twice is two runs."""


@pytest.fixture(scope="module")
def memory() -> Iterator[sa.Engine]:
    engine = database.engine("sqlite://", create=True)
    database.metadata.create_all(engine)
    yield engine
    engine.dispose()


def row_of(number: int, of: Told, twin: bool = False) -> Stream:
    """The stream's row: each began a second after the one before; its twin with it, recorded by another."""
    made = stream(number, of.request)
    return (
        made._replace(stream_id=stream_id(1000 + number), recorded_at=made.recorded_at + timedelta(seconds=500)) if twin else made
    )


def rows(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    with database.read(engine) as connection:
        return {
            table.name: sorted(
                (
                    {key: value for key, value in row.items() if key not in OF_RECORDING}
                    for row in connection.execute(sa.select(table)).mappings()
                ),
                key=repr,
            )
            for table in TABLES
        }


def empty(engine: sa.Engine) -> None:
    with database.write(engine) as connection:
        for table in (*LOG_TABLES, *PROJECTED, *WORKING):
            connection.execute(table.delete())


def in_order(engine: sa.Engine, case: list[Told]) -> dict[str, list[dict[str, Any]]]:
    """The rows where each stream comes whole, one after the other."""
    empty(engine)
    for number, of in enumerate(case):
        write(engine, row_of(number, of), of.frames)
    runner.catch_up(engine)
    return rows(engine)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_arrival_of_the_streams_of_a_run_gives_the_same_rows(memory: sa.Engine, name: str, data: st.DataObject) -> None:
    case = CASES[name]
    wanted = in_order(memory, case)
    assert wanted["runs"]
    empty(memory)
    twins = [] if name in ALONE else data.draw(st.lists(st.integers(0, len(case) - 1), unique=True), "twins")
    arriving = [(number, False) for number in range(len(case))] + [(number, True) for number in twins]
    at = dict.fromkeys(arriving, 0)
    while left := [key for key in arriving if at[key] < len(case[key[0]].frames)]:
        key = data.draw(st.sampled_from(left), "stream")
        number, twin = key
        of = case[number]
        count = data.draw(st.sampled_from([1, 3, 99]), "events")
        again = data.draw(st.integers(0, min(at[key], 2)), "delivered again")
        first = at[key] - again
        write(memory, row_of(number, of, twin), of.frames[first : at[key] + count], first)
        at[key] = min(at[key] + count, len(of.frames))
        if data.draw(st.booleans(), "projected"):
            runner.catch_up(memory)
    runner.catch_up(memory)
    assert rows(memory) == wanted
    assert verify(memory).problems == []
