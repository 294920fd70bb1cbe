"""Runs that follow each other: chains as sessions, outputs from the next request, and the runs that they continue.

Whatever is recorded first, the tables are the same, and verify finds them right.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.errors import UsageError
from recorder.log import Stream
from recorder.projections import runner
from recorder.projections.run_steps import tool_calls
from recorder.projections.runs import runs
from recorder.projections.sessions import session_streams
from recorder.projections.verify import verify
from recorder.sse import Frame
from tests.responding import RESPONSES, answering, call_item, called, getting, message_item, replied, response
from tests.writing import frames, stream, stream_id, write

Told = tuple[Stream, list[Frame]]


def told(number: int, events: Sequence[Any], request: Any = RESPONSES, label: str | None = None, outcome: str = "eof") -> Told:
    return stream(number, request, label=label), frames(events, outcome)


def polled(number: int, found: Any, request: Any = None) -> Told:
    kind = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/json"]]}, 0)
    body = [kind, Frame("$body", json.dumps(found), None, 10), log.system_frame("$end", {"outcome": "done"}, 20)]
    return stream(number, request or getting(found["id"])), body


def record(engine: sa.Engine, *given: Told, at_once: bool = False) -> None:
    """Record streams and project them, one after the other or all at once."""
    for each in given:
        write(engine, *each)
        if not at_once:
            runner.catch_up(engine)
    runner.catch_up(engine)
    assert verify(engine).problems == []


def columns(engine: sa.Engine, *names: str) -> dict[str, Any]:
    """{run id: these columns}"""
    with database.read(engine) as connection:
        found = connection.execute(sa.select(runs.c.run_id, *(runs.c[name] for name in names)).order_by(runs.c.run_id)).all()
    return {row[0]: row[1] if len(names) == 1 else tuple(row[1:]) for row in found}


def stream_sessions(engine: sa.Engine) -> list[str]:
    with database.read(engine) as connection:
        chosen = sa.select(session_streams.c.session_id).order_by(session_streams.c.stream_id)
        return list(connection.execute(chosen).scalars())


def outputs(engine: sa.Engine) -> dict[str, str | None]:
    """{run id/call id: output}"""
    with database.read(engine) as connection:
        found = connection.execute(sa.select(tool_calls.c.run_id, tool_calls.c.tool_call_id, tool_calls.c.output)).all()
    return {f"{row.run_id}/{row.tool_call_id}": row.output for row in found}


def chain(count: int = 4, label: tuple[int, str] | None = None) -> list[Told]:
    """A chain of responses, each but the last of which calls a function that the next request answers."""
    made = []
    for number in range(1, count + 1):
        previous = f"resp_{number - 1}" if number > 1 else None
        request = answering(f"output {number - 1}", previous, f"call_{number - 1}") if previous else RESPONSES
        fields: dict[str, Any] = {"id": f"resp_{number}", "previous_response_id": previous}
        last = replied(f"Answer {number}", **fields)
        events = last if number == count else called(call_ids=[f"call_{number}"], **fields)
        made.append(told(number, events, request, label[1] if label and label[0] == number else None))
    return made


# Sessions


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3], ids=str)
def test_a_chain_of_responses_is_one_session_whatever_is_recorded_first(engine: sa.Engine, order: tuple[int, ...]) -> None:
    record(engine, *(chain()[number] for number in order))
    assert set(stream_sessions(engine)) == {"chain_resp_1"}
    assert set(columns(engine, "session_id").values()) == {"chain_resp_1"}
    with database.read(engine) as connection:
        (session,) = queries.list_sessions(connection)
        assert (session["streams"], session["runs"], session["unknown"]) == (4, 4, 0)
        shown = queries.show_session(connection, queries.resolve(connection, "chain_resp_1"))
    assert shown["runs"] == ["resp_1", "resp_2", "resp_3", "resp_4"]
    assert [each["stream_id"] for each in shown["streams"]] == [stream_id(number) for number in (1, 2, 3, 4)]


def test_a_chain_that_is_projected_at_once_is_too(engine: sa.Engine) -> None:
    record(engine, *chain(30), at_once=True)
    assert set(stream_sessions(engine)) == {"chain_resp_1"}


def test_a_chain_is_found_though_one_of_it_was_never_recorded(engine: sa.Engine) -> None:
    one, two, _, four = chain()
    record(engine, one, two, four)
    assert stream_sessions(engine) == ["chain_resp_1", "chain_resp_1", "chain_resp_3"]


def test_two_that_follow_the_same_response_are_of_one_session(engine: sa.Engine) -> None:
    record(
        engine,
        told(2, replied(id="resp_2", previous_response_id="resp_1")),
        told(3, replied(id="resp_3", previous_response_id="resp_1")),
    )
    assert stream_sessions(engine) == ["chain_resp_1"] * 2


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_a_label_counts_from_the_stream_that_has_it_on(engine: sa.Engine, order: tuple[int, ...]) -> None:
    given = chain(label=(2, "mine"))
    record(engine, *(given[number] for number in order))
    assert columns(engine, "session_id") == {
        "resp_1": "chain_resp_1",
        "resp_2": "mine",
        "resp_3": "mine",
        "resp_4": "mine",
    }
    assert stream_sessions(engine) == ["chain_resp_1", "mine", "mine", "mine"]


def test_a_conversation_is_a_session_and_a_thread(engine: sa.Engine) -> None:
    conversation = {"id": "conv_1"}
    record(
        engine,
        told(1, replied(conversation=conversation)),
        told(2, replied(id="resp_2", conversation=conversation)),
        told(3, replied(id="resp_3")),
    )
    assert stream_sessions(engine) == ["conv_1", "conv_1", "chain_resp_3"]
    with database.read(engine) as connection:
        assert queries.resolve(connection, "conv_1").kind == "session"


def test_polls_of_a_response_are_of_its_session(engine: sa.Engine) -> None:
    one, two, *_ = chain()
    record(engine, one, two, polled(7, response(id="resp_2", previous_response_id="resp_1")), told(8, [], getting("resp_1", 3)))
    assert stream_sessions(engine) == ["chain_resp_1"] * 4


def test_what_was_erased_of_a_chain_is_forgotten_by_the_rest(engine: sa.Engine) -> None:
    record(engine, *chain(label=(1, "mine")))
    assert set(stream_sessions(engine)) == {"mine"}
    runner.erase(engine, [stream_id(1)])
    assert set(stream_sessions(engine)) == {"chain_resp_1"}
    assert set(columns(engine, "session_id").values()) == {"chain_resp_1"}
    assert verify(engine).problems == []


def test_a_response_that_names_itself_as_the_one_before_is_a_chain_of_its_own(engine: sa.Engine) -> None:
    record(engine, told(1, replied(previous_response_id="resp_1")))
    assert stream_sessions(engine) == ["chain_resp_1"]


# Outputs


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_call_gets_its_output_from_the_next_request(engine: sa.Engine, order: tuple[int, ...], at_once: bool) -> None:
    given = chain(3)
    record(engine, *(given[number] for number in order), at_once=at_once)
    assert outputs(engine) == {"resp_1/call_1": "output 1", "resp_2/call_2": "output 2"}
    assert columns(engine, "status", "effective_status", "state") == {
        f"resp_{number}": ("completed", "completed", "ended") for number in (1, 2, 3)
    }
    assert columns(engine, "logical_run_id") == {"resp_1": "resp_1", "resp_2": "resp_1", "resp_3": "resp_1"}


def test_a_run_waits_until_its_calls_are_answered(engine: sa.Engine) -> None:
    one, two, *_ = chain()
    record(engine, one)
    assert columns(engine, "status", "effective_status", "state", "required_action_type") == {
        "resp_1": ("completed", "requires_action", "waiting", "submit_tool_outputs")
    }
    with database.read(engine) as connection:
        shown = queries.show_run(connection, "resp_1")
        assert (shown["status"], shown["effective_status"]) == ("completed", "requires_action")
        assert [row["session_id"] for row in queries.list_sessions(connection, status="completed")] == ["chain_resp_1"]
    record(engine, two)
    assert columns(engine, "effective_status", "required_action_type")["resp_1"] == ("completed", None)


def test_a_run_waits_while_one_of_its_calls_is_not_answered(engine: sa.Engine) -> None:
    record(engine, told(1, called(call_ids=["call_1", "call_2"])), told(2, replied(id="resp_2"), answering()))
    assert outputs(engine) == {"resp_1/call_1": "rain", "resp_1/call_2": None}
    assert columns(engine, "state")["resp_1"] == "waiting"
    with database.read(engine) as connection:
        action = queries.show_run(connection, "resp_1")["required_action"]
    assert [call["id"] for call in action["submit_tool_outputs"]["tool_calls"]] == ["call_2"]


def history(*turns: tuple[str, str], then: Any = None) -> Any:
    """A request that has the whole conversation in it: (call id, output) of each turn."""
    given: list[Any] = [{"role": "user", "content": "Hi"}]
    for call_id, output in turns:
        given += [call_item('{"city": "Oslo"}', call_id), {"type": "function_call_output", "call_id": call_id, "output": output}]
    return RESPONSES._replace(body={"model": "gpt-5", "store": False, "input": [*given, *([then] if then else [])]})


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_requests_that_repeat_the_conversation_need_name_no_response(engine: sa.Engine, order: tuple[int, ...]) -> None:
    given = [
        told(1, called(call_ids=["call_1"]), history()),
        told(2, called(id="resp_2", call_ids=["call_2"]), history(("call_1", "rain"))),
        told(3, replied(id="resp_3"), history(("call_1", "rain"), ("call_2", "sun"))),
    ]
    record(engine, *(given[number] for number in order))
    assert outputs(engine) == {"resp_1/call_1": "rain", "resp_2/call_2": "sun"}
    assert columns(engine, "logical_run_id") == {"resp_1": "resp_1", "resp_2": "resp_1", "resp_3": "resp_1"}
    assert len(set(stream_sessions(engine))) == 3, "only a chain, a conversation or a label makes a session"


def test_a_request_that_goes_on_with_another_question_begins_another_logical_run(engine: sa.Engine) -> None:
    question = {"role": "user", "content": "And tomorrow?"}
    record(
        engine,
        told(1, called(), history()),
        told(2, replied(id="resp_2"), history(("call_1", "rain"))),
        told(3, replied(id="resp_3"), history(("call_1", "rain"), then=question)),
    )
    assert columns(engine, "logical_run_id") == {"resp_1": "resp_1", "resp_2": "resp_1", "resp_3": "resp_3"}


def test_call_ids_that_come_again_are_answered_by_the_request_that_follows(engine: sa.Engine) -> None:
    """As mocks do it."""
    record(
        engine,
        told(1, called(id="resp_1"), history()),
        told(2, replied(id="resp_2"), answering("first", "resp_1")),
        told(3, called(id="resp_3"), history()),
        told(4, replied(id="resp_4"), answering("second", "resp_3")),
        told(5, called(id="resp_5"), history()),
        told(6, replied(id="resp_6"), history(("call_1", "third"))),
    )
    assert outputs(engine) == {"resp_1/call_1": "first", "resp_3/call_1": "second", "resp_5/call_1": "third"}
    assert columns(engine, "logical_run_id") == {
        "resp_1": "resp_1",
        "resp_2": "resp_1",
        "resp_3": "resp_3",
        "resp_4": "resp_3",
        "resp_5": "resp_5",
        "resp_6": "resp_5",
    }


def test_an_output_before_its_call_answers_nothing(engine: sa.Engine) -> None:
    record(engine, told(1, replied(id="resp_0"), history(("call_1", "old"))), told(2, called(), history()))
    assert outputs(engine) == {"resp_1/call_1": None}


def test_outputs_that_were_erased_are_no_more(engine: sa.Engine) -> None:
    record(engine, *chain(2))
    runner.erase(engine, [stream_id(2)])
    assert outputs(engine) == {"resp_1/call_1": None}
    assert columns(engine, "state", "logical_run_id") == {"resp_1": ("waiting", "resp_1")}
    assert verify(engine).problems == []


def test_calls_that_were_erased_are_continued_by_nothing(engine: sa.Engine) -> None:
    record(engine, *chain(3))
    runner.erase(engine, [stream_id(1)])
    assert columns(engine, "logical_run_id") == {"resp_2": "resp_2", "resp_3": "resp_2"}
    assert verify(engine).problems == []


def test_an_approval_of_the_next_request_ends_the_wait(engine: sa.Engine) -> None:
    item = {"id": "mcpr_1", "type": "mcp_approval_request", "server_label": "s", "name": "n", "arguments": "{}"}
    asked = replied()[:2]
    asked.append(("response.completed", {"type": "response.completed", "response": response("completed", output=[item])}))
    said = [{"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}]
    request = RESPONSES._replace(body={"model": "m", "previous_response_id": "resp_1", "input": said})
    record(engine, told(1, asked))
    assert columns(engine, "effective_status", "required_action_type") == {"resp_1": ("requires_action", "submit_tool_approval")}
    record(engine, told(2, replied(id="resp_2"), request))
    assert columns(engine, "effective_status", "required_action_type")["resp_1"] == ("completed", None)
    with database.read(engine) as connection:
        (step,) = queries.show_run(connection, "resp_1")["steps"]
    assert step["step_details"]["tool_calls"][0]["approve"] is True


def test_each_stream_of_a_chain_can_be_verified_alone(engine: sa.Engine) -> None:
    record(engine, *chain(label=(1, "mine")), told(9, replied(id="resp_9")))
    for number in (1, 2, 3, 4, 9):
        report = verify(engine, [stream_id(number)])
        assert report.problems == [], f"stream {number}"
    with database.write(engine) as connection:
        connection.execute(tool_calls.update().where(tool_calls.c.run_key == "resp_2").values(output="other"))
    assert verify(engine, [stream_id(2)]).problems
    assert verify(engine, [stream_id(4)]).problems == []


# Time travel


def test_a_response_is_shown_as_it_stood_after_each_event(engine: sa.Engine) -> None:
    events = called(arguments='{"city": "Oslo"}')
    record(engine, told(1, events), told(2, replied(id="resp_2"), answering()))
    seen = []
    with database.read(engine) as connection:
        for at in range(len(events)):
            shown = queries.show_run_at(connection, "resp_1", None, at)
            steps = [step["step_details"]["tool_calls"][0]["function"]["arguments"] for step in shown["steps"]]
            seen.append((shown["status"], shown["effective_status"], shown["state"], steps))
        now = queries.show_run(connection, "resp_1")
    half, whole = ['{"city":'], ['{"city": "Oslo"}']
    running = ("in_progress", "in_progress", "active")
    assert seen == [
        (*running, []),
        (*running, []),
        (*running, [""]),
        (*running, half),
        *[(*running, whole)] * 3,
        ("completed", "requires_action", "waiting", whole),
    ]
    assert now["effective_status"] == "completed"


def test_a_resumed_response_is_shown_as_it_stood_after_an_event_of_either_stream(engine: sa.Engine) -> None:
    events = replied("Hello there")
    record(engine, told(1, events[:6], outcome="cut"), told(2, events[5:], getting(after=4)))
    with database.read(engine) as connection:
        first = queries.show_run_at(connection, "resp_1", stream_id(1), 4)
        second = queries.show_run_at(connection, "resp_1", stream_id(2), 1)
        with pytest.raises(UsageError):
            queries.show_run_at(connection, "resp_1", stream_id(1), -1)
    text = [shown["messages"][0]["content"][0]["text"]["value"] for shown in (first, second)]
    assert text == ["Hell", "Hello there"]
    assert (first["state"], second["state"]) == ("active", "active")
    assert [each["stream_id"] for each in second["streams"]] == [stream_id(1), stream_id(2)]


def test_a_poll_is_shown_as_it_stood_too(engine: sa.Engine) -> None:
    final = response("completed", output=[message_item("Hello")])
    record(engine, told(1, replied()[:3], outcome="cut"), polled(2, final))
    with database.read(engine) as connection:
        before = queries.show_run_at(connection, "resp_1", stream_id(2), 0)
        after = queries.show_run_at(connection, "resp_1", stream_id(2), 1)
    assert (before["status"], after["status"]) == ("in_progress", "completed")
    assert after["source_object"] == final
