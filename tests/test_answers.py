"""Whose output it is, where ids of calls come again: that of the call whose conversation the request repeats, or nobody's."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.projections import runner
from recorder.projections.failures import failures
from recorder.projections.run_steps import tool_calls
from recorder.projections.verify import verify
from recorder.protocols import Request
from tests import chatting, responding
from tests.chatting import asking, call, calling, said, tool_call
from tests.responding import RESPONSES, called, replied
from tests.test_chains import Told, columns, outputs, record, told
from tests.writing import stream_id, write

ID = "functions.weather:0"


def key(number: int) -> str:
    return f"chat_{stream_id(number)}"


def given(*numbers: int, id: str = ID, all: dict[str, Any]) -> list[Any]:
    return [all[f"{key(number)}/{id}"] for number in numbers]


def conversation(question: str, *turns: tuple[str, str], id: str = ID, **fields: Any) -> Request:
    """A question, and of each turn the city that was asked for, and its weather."""
    messages: list[Any] = [{"role": "user", "content": question}]
    for city, weather in turns:
        arguments = json.dumps({"city": city})
        messages.append({"role": "assistant", "content": None, "tool_calls": [tool_call(id, arguments)]})
        messages.append({"role": "tool", "tool_call_id": id, "content": weather})
    return asking(messages=messages, **fields)


def asks(city: str, id: str = ID) -> list[Any]:
    return chatting.called(f'{{"city":"{city}"}}', [id])


TWO = [
    told(1, asks("Oslo"), conversation("How is it?")),
    told(2, asks("Rome"), conversation("How is it?")),
    told(3, said(), conversation("How is it?", ("Rome", "sun"))),
    told(4, said(), conversation("How is it?", ("Oslo", "snow"))),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5], ids=str)
def test_each_call_of_an_id_that_comes_again_has_the_output_of_its_own_conversation(
    engine: sa.Engine, order: tuple[int, ...]
) -> None:
    record(engine, *(TWO[number] for number in order))
    assert given(1, 2, all=outputs(engine)) == ["snow", "sun"]
    assert columns(engine, "logical_run_id") == {key(1): key(1), key(2): key(2), key(3): key(2), key(4): key(1)}


def test_a_call_that_nobody_answered_waits_whatever_others_were_told(engine: sa.Engine) -> None:
    record(engine, told(1, asks("Oslo"), conversation("How is Oslo?")), TWO[1], TWO[2])
    assert given(1, 2, all=outputs(engine)) == [None, "sun"]
    assert columns(engine, "state")[key(1)] == "waiting"


SAME = [
    told(1, asks("Oslo"), conversation("How is it?")),
    told(2, asks("Oslo"), conversation("How is it?")),
    told(3, said(), conversation("How is it?", ("Oslo", "snow"))),
    told(4, said(), conversation("How is it?", ("Oslo", "rain"))),
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)], ids=str)
def test_of_two_that_say_the_same_at_once_nobody_knows_whose_output_it_is(engine: sa.Engine, order: tuple[int, ...]) -> None:
    record(engine, *(SAME[number] for number in order))
    assert given(1, 2, all=outputs(engine)) == [None, None]
    assert columns(engine, "logical_run_id") == {key(number): key(number) for number in (1, 2, 3, 4)}


def labelled(number: int, events: Any, request: Request, label: str) -> Told:
    return told(number, events, request, label=label)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)], ids=str)
def test_labels_tell_them_apart(engine: sa.Engine, order: tuple[int, ...]) -> None:
    streams = [(one._replace(session_label=label), frames) for (one, frames), label in zip(SAME, "abba", strict=True)]
    record(engine, *(streams[number] for number in order))
    assert given(1, 2, all=outputs(engine)) == ["rain", "snow"]


def test_so_does_what_the_requests_say_of_the_user(engine: sa.Engine) -> None:
    ann, bob = ({"user": name} for name in ("ann", "bob"))
    record(
        engine,
        told(1, asks("Oslo"), conversation("How is it?", **ann)),
        told(2, asks("Oslo"), conversation("How is it?", **bob)),
        told(3, said(), conversation("How is it?", ("Oslo", "snow"), **bob)),
    )
    assert given(1, 2, all=outputs(engine)) == [None, "snow"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5], ids=str)
def test_the_same_said_one_after_the_other_is_answered_one_after_the_other(engine: sa.Engine, order: tuple[int, ...]) -> None:
    streams = [
        told(1, asks("Oslo"), conversation("How is it?")),
        told(2, said(), conversation("How is it?", ("Oslo", "snow"))),
        told(3, asks("Oslo"), conversation("How is it?")),
        told(4, said(), conversation("How is it?", ("Oslo", "rain"))),
    ]
    record(engine, *(streams[number] for number in order))
    assert given(1, 3, all=outputs(engine)) == ["snow", "rain"]
    assert columns(engine, "logical_run_id") == {key(1): key(1), key(2): key(1), key(3): key(3), key(4): key(3)}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_an_id_that_comes_again_in_every_turn_is_another_call_each_time(engine: sa.Engine, order: tuple[int, ...]) -> None:
    streams = [
        told(1, asks("Oslo"), conversation("Which?")),
        told(2, asks("Oslo"), conversation("Which?", ("Oslo", "busy"))),
        told(3, said(), conversation("Which?", ("Oslo", "busy"), ("Oslo", "snow"))),
    ]
    record(engine, *(streams[number] for number in order))
    assert given(1, 2, all=outputs(engine)) == ["busy", "snow"]
    assert set(columns(engine, "logical_run_id").values()) == {key(1)}


@pytest.mark.parametrize("second", ["snow", "rain"], ids=["a retry", "a fork"])
def test_a_request_that_is_made_again_answers_the_same_call_and_the_first_counts(engine: sa.Engine, second: str) -> None:
    record(
        engine,
        told(1, asks("Oslo"), conversation("How?")),
        told(2, said(), conversation("How?", ("Oslo", "snow"))),
        told(3, said("Again"), conversation("How?", ("Oslo", second))),
    )
    assert given(1, all=outputs(engine)) == ["snow"]
    assert columns(engine, "logical_run_id") == dict.fromkeys((key(1), key(2), key(3)), key(1))


def test_calls_of_one_id_that_were_made_at_once_are_answered_in_their_order(engine: sa.Engine) -> None:
    entries = [call(at, "call_0", "weather", f'{{"city":"{city}"}}') for at, city in enumerate(("Oslo", "Rome"))]
    whole = [tool_call("call_0", f'{{"city":"{city}"}}') for city in ("Oslo", "Rome")]
    repeated = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": whole}]
    results = [{"role": "tool", "tool_call_id": "call_0", "content": text} for text in ("snow", "sun")]
    record(engine, told(1, calling(*entries), chatting.CHAT), told(2, said(), asking(messages=[*repeated, *results])))
    with engine.connect() as connection:
        shown = list(connection.execute(sa.text("SELECT output FROM tool_calls ORDER BY ordinal")).scalars())
    assert shown == ["snow", "sun"]


def test_one_output_for_two_calls_of_one_id_is_nobodys(engine: sa.Engine) -> None:
    entries = [call(at, "call_0", "weather", f'{{"city":"{city}"}}') for at, city in enumerate(("Oslo", "Rome"))]
    whole = [tool_call("call_0", f'{{"city":"{city}"}}') for city in ("Oslo", "Rome")]
    repeated = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": whole}]
    half = [*repeated, {"role": "tool", "tool_call_id": "call_0", "content": "snow"}]
    record(engine, told(1, calling(*entries), chatting.CHAT), told(2, said(), asking(messages=half)))
    assert set(outputs(engine).values()) == {None}


SUMMED_UP = [{"role": "user", "content": "(earlier: they asked for the weather)"}]


@pytest.mark.parametrize(
    ("id", "label", "output"),
    [("call_W9aZk2Qp7LmN4xTe", None, "snow"), (ID, "mine", "snow"), (ID, None, None)],
    ids=["an id of its own", "a label", "neither"],
)
def test_what_was_summed_up_is_answered_only_where_nothing_is_in_doubt(
    engine: sa.Engine, id: str, label: str | None, output: str | None
) -> None:
    request = conversation("How is it?", ("Oslo", "snow"), id=id)
    summed = request._replace(body={**request.body, "messages": [*SUMMED_UP, *request.body["messages"][1:]]})
    record(engine, told(1, asks("Oslo", id), conversation("How is it?"), label), told(2, said(), summed, label))
    assert outputs(engine) == {f"{key(1)}/{id}": output}


def test_instructions_that_change_and_marks_for_the_cache_are_no_other_conversation(engine: sa.Engine) -> None:
    def at(time: str, request: Request, marked: bool) -> Request:
        first, *rest = request.body["messages"]
        if marked:
            text = {"type": "text", "text": first["content"], "cache_control": {"type": "ephemeral"}}
            first = {**first, "content": [text]}
        return asking(messages=[{"role": "system", "content": f"It is {time}."}, first, *rest])

    record(
        engine,
        told(1, asks("Oslo"), at("noon", conversation("How?"), True)),
        told(2, said(), at("one", conversation("How?", ("Oslo", "snow")), False)),
    )
    assert given(1, all=outputs(engine)) == ["snow"]


def test_an_output_for_another_id_is_no_answer_though_the_same_was_called(engine: sa.Engine) -> None:
    request = conversation("How?", ("Oslo", "snow"), id="functions.weather:1")
    record(engine, told(1, asks("Oslo"), conversation("How?")), told(2, said(), request))
    assert given(1, all=outputs(engine)) == [None]


def test_a_client_that_makes_up_the_id_that_a_server_left_out_answers_the_call(engine: sa.Engine) -> None:
    events = calling(call(0, "", "weather", '{"city":"Oslo"}'))
    request = conversation("How?", ("Oslo", "snow"), id="call_5f2b9c1d8e7a4f60")
    record(engine, told(1, events, conversation("How?")), told(2, said(), request))
    assert list(outputs(engine).values()) == ["snow"]


def test_conversations_that_the_server_keeps_are_told_apart_by_their_names(engine: sa.Engine) -> None:
    def of(name: str, output: str | None = None) -> Request:
        item = {"type": "function_call_output", "call_id": "call_0", "output": output}
        given = "Hi" if output is None else [item]
        return RESPONSES._replace(body={"model": "m", "conversation": name, "input": given})

    def called_in(number: int, name: str) -> Any:
        return called(id=f"resp_{number}", call_ids=["call_0"], conversation={"id": name})

    record(
        engine,
        told(1, called_in(1, "conv_a"), of("conv_a")),
        told(2, called_in(2, "conv_b"), of("conv_b")),
        told(3, called_in(3, "conv_a"), of("conv_a", "first")),
        told(4, replied(id="resp_4", conversation={"id": "conv_a"}), of("conv_a", "second")),
    )
    assert outputs(engine) == {"resp_1/call_0": "first", "resp_2/call_0": None, "resp_3/call_0": "second"}


def message_asked(city: str, *more: Any) -> Request:
    messages = [{"role": "user", "content": f"How is {city}?"}, *more]
    return Request("POST", "api.anthropic.com", "/v1/messages", "", {"model": "m", "messages": messages})


def message_calling(number: int, city: str) -> list[Any]:
    use = {"type": "tool_use", "id": "call_0", "name": "weather", "input": {}}
    given = {"type": "input_json_delta", "partial_json": json.dumps({"city": city})}
    payloads = [
        {"type": "message_start", "message": {"id": f"msg_{number}", "role": "assistant", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": use},
        {"type": "content_block_delta", "index": 0, "delta": given},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    return responding.typed(*payloads)


def message_answering(city: str) -> Request:
    use = {"type": "tool_use", "id": "call_0", "name": "weather", "input": {"city": city}}
    result = {"type": "tool_result", "tool_use_id": "call_0", "content": "sun"}
    return message_asked(city, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]})


def test_anthropic_calls_are_told_apart_too(engine: sa.Engine) -> None:
    rome, oslo = (told(number, message_calling(number, city), message_asked(city)) for number, city in ((1, "Rome"), (2, "Oslo")))
    record(engine, rome, oslo, told(3, [], message_answering("Rome")))
    assert outputs(engine) == {"msg_1/call_0": "sun", "msg_2/call_0": None}


@pytest.mark.parametrize("erased", [1, 2, 3])
def test_what_was_erased_leaves_what_the_rest_says(engine: sa.Engine, erased: int) -> None:
    for each in SAME[:3]:
        write(engine, *each)
    runner.catch_up(engine)
    runner.erase(engine, [stream_id(erased)])
    wanted = {1: {2: "snow"}, 2: {1: "snow"}, 3: {1: None, 2: None}}[erased]
    assert outputs(engine) == {f"{key(number)}/{ID}": output for number, output in wanted.items()}
    assert verify(engine).problems == []


@pytest.mark.parametrize("word", ["compact", "input_tokens", "count_tokens", "cancel", "input_items"])
def test_words_of_paths_are_no_responses(engine: sa.Engine, word: str) -> None:
    request = RESPONSES._replace(path=f"/v1/responses/{word}")
    record(engine, told(1, [], request), told(2, [], request))
    with engine.connect() as connection:
        found = list(connection.execute(sa.text("SELECT DISTINCT root_run_id FROM session_streams")).scalars())
    assert found == [None]


LEFT: dict[str, tuple[Any, list[Any], Any]] = {
    # name: request, what its client had of the answer before it left, the request with the output
    "chat": (conversation("How is it?"), asks("Oslo")[:-2], conversation("How is it?", ("Oslo", "snow"))),
    "chat with its reason": (conversation("How is it?"), asks("Oslo")[:-1], conversation("How is it?", ("Oslo", "snow"))),
    "responses, the item": (RESPONSES, called()[:-1], responding.answering("rain")),
    "responses, its arguments": (RESPONSES, called()[:-2], responding.answering("rain")),
    "anthropic": (message_asked("Rome"), message_calling(1, "Rome")[:-2], message_answering("Rome")),
    "anthropic with its reason": (message_asked("Rome"), message_calling(1, "Rome")[:-1], message_answering("Rome")),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_client_that_leaves_once_it_has_the_call_and_answers_it_is_no_failure(engine: sa.Engine, name: str) -> None:
    asked, had, answers = LEFT[name]
    record(engine, told(1, had, asked, outcome="client_closed"))
    (before,) = columns(engine, "failure_kind").values()
    assert before in ("client_closed", "requires_action")
    record(engine, told(2, [], answers, outcome="client_closed"))
    (after,) = columns(engine, "state", "effective_status", "failure_kind").values()
    assert after == ("ended", "completed", None)


def test_a_client_that_leaves_in_the_middle_of_a_call_was_cut_off_whatever_it_says_then(engine: sa.Engine) -> None:
    had = calling(call(0, "call_x7Gh29Kq", "weather", '{"city":"Os'))[:-2]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("call_x7Gh29Kq", '{"city":"Os')]},
        {"role": "tool", "tool_call_id": "call_x7Gh29Kq", "content": "interrupted"},
    ]
    record(
        engine, told(1, had, asking(), outcome="client_closed"), told(2, [], asking(messages=messages), outcome="client_closed")
    )
    assert columns(engine, "failure_kind")[key(1)] == "client_closed"


def _failing(**fields: Any) -> Request:
    request = conversation("How is it?", ("Oslo", "no such city"))
    request.body["messages"][-1].update(fields)
    return request


def _response_failing(type: str, status: str) -> Request:
    item = {"type": type, "call_id": "call_1", "output": "no such city", "status": status}
    request = responding.answering()
    return request._replace(body={**request.body, "input": [item]})


FAILED: dict[str, tuple[Any, list[Any], Any]] = {
    # name: request, the answer with the call, the request that says that the tool failed
    "chat": (conversation("How is it?"), asks("Oslo"), _failing(is_error=True)),
    "chat, MCP": (
        conversation("How is it?"),
        asks("Oslo"),
        _failing(content='{"isError":true,"content":[{"type":"text","text":"no such city"}]}'),
    ),
    "responses": (RESPONSES, called(), _response_failing("function_call_output", "incomplete")),
    "a patch": (RESPONSES, called(), _response_failing("apply_patch_call_output", "failed")),
}


@pytest.mark.parametrize("name", FAILED)
def test_a_tool_that_its_client_says_failed_is_a_failed_call(engine: sa.Engine, name: str) -> None:
    asked, had, answers = FAILED[name]
    record(engine, told(1, had, asked), told(2, [], answers, outcome="done"))
    with database.read(engine) as connection:
        found = connection.execute(sa.select(failures.c.kind, failures.c.message)).all()
        output = connection.execute(sa.select(tool_calls.c.output)).scalars().all()
    assert ("tool_failed", "no such city") in [tuple(row) for row in found]
    assert "no such city" in str(output)
