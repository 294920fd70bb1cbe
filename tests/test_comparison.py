"""Two recordings held against each other: what counts is named with its events, what does not is not seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recorder import log
from recorder.collect.import_ import read_file
from recorder.comparison import Difference, Exchange, compare, located, unified
from recorder.log import Event
from recorder.protocols import Request
from recorder.sse import Frame
from tests import writing
from tests.writing import answered, asked, said, submitting

FIXTURES = Path(__file__).parents[1] / "fixtures" / "assistants"


def events_of(frames: Sequence[Frame]) -> list[Event]:
    return [log.event(log.row("s", position, frame)[1:]) for position, frame in enumerate(frames)]


def exchange(
    events: Sequence[writing.Event] = (), request: Request = writing.THREADS, outcome: str | None = "done", number: int = 0
) -> Exchange:
    return Exchange(writing.stream(number, request), events_of(writing.frames(events, outcome)))


def session(arguments: str = '{"city":"Oslo"}', output: str = "rain", ids: str = "1") -> list[Exchange]:
    """Two exchanges: a run that asks for a tool's output, and the one that gets it."""
    run, step, thread = f"run_{ids}", f"step_{ids}", f"thread_{ids}"
    first = asked(run, step, arguments, thread_id=thread)
    request = writing.THREADS._replace(path=f"/v1/threads/{thread}/runs")
    return [
        exchange(first, request),
        exchange(answered(run, step, arguments, thread_id=thread), submitting(output, run, thread), number=1),
    ]


def told(a: Sequence[Exchange], b: Sequence[Exchange]) -> list[str]:
    return [str(difference) for difference in compare(a, b)]


def first(a: Sequence[Exchange], b: Sequence[Exchange]) -> Difference:
    return located(compare(a, b)[0], a, b)


# What does not count


def test_a_session_equals_itself_and_its_twin_of_other_ids() -> None:
    assert told(session(), session()) == []
    assert told(session(), session(ids="Xyz_99")) == []


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sse")), ids=lambda path: path.stem)
def test_every_stream_equals_itself(path: Path) -> None:
    stream, frames = read_file(path)
    events = events_of(list(frames))
    assert compare([Exchange(stream, events)], [Exchange(stream, events)]) == []


def test_into_how_many_deltas_a_text_was_cut_does_not_count() -> None:
    whole = said("Hello there")
    pieces = [*whole[:4], *(writing.text_delta(letter, id="msg_of_run_1") for letter in "Hello there"), *whole[6:]]
    assert told([exchange(whole)], [exchange(pieces)]) == []


def test_times_tokens_and_metadata_do_not_count() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    request = writing.THREADS._replace(body={"assistant_id": "asst_1", "metadata": {"trace": "x"}})
    later = exchange(said(usage=usage, created_at=writing.BORN + 999, metadata={"a": "b"}), request)
    assert told([exchange(said())], [later]) == []


# What does


def test_other_arguments_are_named_with_the_field_and_the_delta() -> None:
    a, b = session(), session('{"city":"Bergen"}', ids="other")
    found = first(a, b)
    assert str(found) == "exchange 1, step 1 (tool_calls: weather): arguments of weather at .city"
    assert (found.a.value, found.b.value) == ('{"city":"Oslo"}', '{"city":"Bergen"}')
    assert [a[0].events[found.a.position or 0].type, found.a.position, found.b.position] == ["thread.run.step.delta", 4, 4]
    assert told(a, b) == [str(found), "exchange 2, step 1 (tool_calls: weather): arguments of weather at .city"]


def test_arguments_of_the_same_json_are_equal_and_what_is_none_is_a_text() -> None:
    assert told(session('{"city":"Oslo","n":1}'), session('{ "n": 1.0, "city": "Oslo" }')) == []
    assert str(first(session("no json"), session("No json"))).endswith("arguments of weather")


def test_another_tool_output_is_a_difference_of_the_request() -> None:
    found = compare(session(output="rain"), session(output="sun"))
    assert [str(difference) for difference in found] == ["exchange 2, the request: body at .tool_outputs[0].output"]
    assert located(found[0], session(), session(output="sun")) == found[0]


def test_another_text_is_named_with_the_delta_that_says_it() -> None:
    letters = [writing.text_delta(letter, id="msg_of_run_1") for letter in "Hello there"]
    whole = said("Hello where")
    pieces = [*said("Hello there")[:4], *letters, *said("Hello there")[6:]]
    a, b = [exchange(pieces)], [exchange(whole)]
    found = first(a, b)
    assert str(found) == "exchange 1, message 1 (assistant): text"
    assert (found.a.position, found.b.position) == (4 + "Hello there".index("t"), 5)
    assert (found.a.value, found.b.value) == ("Hello there", "Hello where")


def test_a_run_that_came_out_otherwise_is_named_with_its_last_event() -> None:
    error = {"code": "server_error", "message": "sorry"}
    failed = [*said()[:-2], ("thread.run.failed", writing.run("failed", last_error=error)), writing.DONE]
    found = compare([exchange(said())], [exchange(failed)])
    assert [str(difference) for difference in found] == [
        "exchange 1, run 1: status",
        "exchange 1, run 1: last_error",
        "exchange 1, the events: type",
    ]
    by_fact = {difference.fact: located(difference, [exchange(said())], [exchange(failed)]) for difference in found}
    assert (by_fact["status"].a.value, by_fact["status"].b.value) == ("completed", "failed")
    assert (by_fact["status"].a.position, by_fact["status"].b.position) == (8, 8)
    assert (by_fact["type"].a.value, by_fact["type"].b.value) == ("thread.run.completed", "thread.run.failed")


def test_a_step_more_is_named_and_the_others_stay_aligned() -> None:
    more = asked(arguments="{}")
    details = {"type": "tool_calls", "tool_calls": [{"id": "call_9", "type": "code_interpreter", "code_interpreter": {}}]}
    more.insert(2, ("thread.run.step.created", writing.step(id="step_0", step_details=details)))
    assert told([exchange(asked(arguments="{}"))], [exchange(more)])[0] == (
        "exchange 1, step 1 (tool_calls: code_interpreter) is only in B"
    )
    assert not any("weather" in line for line in told([exchange(asked())], [exchange(more)]) if "only" in line)


def test_another_tool_is_the_same_step_with_other_calls() -> None:
    other = json.loads(json.dumps(asked()).replace("weather", "forecast"))
    lines = told([exchange(asked())], [exchange([tuple(event) for event in other])])
    assert lines[:2] == [
        "exchange 1, step 1 (tool_calls: weather): arguments of weather",
        "exchange 1, step 1 (tool_calls: weather): arguments of forecast",
    ]


@pytest.mark.parametrize("swapped", [False, True], ids=["in A", "in B"])
def test_an_exchange_more_or_fewer_is_named(swapped: bool) -> None:
    extra = exchange([], writing.THREADS._replace(method="GET", path="/v1/models"), number=7)
    two = session()
    sides = (two, [two[0], extra, two[1]]) if not swapped else ([two[0], extra, two[1]], two)
    assert told(*sides) == [f"exchange 2 (GET /v1/models) is only in {'A' if swapped else 'B'}"]


def test_exchanges_in_another_order_are_a_difference() -> None:
    one, other = session()
    assert len(told([one, other], [other, one])) == 2


def test_events_in_another_order_duplicates_and_losses_are_differences() -> None:
    events = said()
    swapped = [events[1], events[0], *events[2:]]
    for changed in (swapped, [*events[:2], events[1], *events[2:]], [*events[:2], *events[3:]]):
        assert "exchange 1, the events: type" in told([exchange(events)], [exchange(changed)])


def test_how_a_stream_ended_is_a_difference() -> None:
    found = compare([exchange(said())], [exchange(said()[:-3], outcome="cut")])
    assert "exchange 1, the response: outcome" in [str(difference) for difference in found]


def test_what_no_protocol_reads_is_compared_by_its_body_and_its_events() -> None:
    request = Request("GET", "example.com", "/things")

    def plain(body: str) -> Exchange:
        response = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/json"]]}, 0)
        end = log.system_frame("$end", {"outcome": "done"}, 2)
        return Exchange(writing.stream(0, request), events_of([response, Frame("$body", body), end]))

    assert told([plain('{"a": 1, "created_at": 5}')], [plain('{"created_at": 6, "a": 1.0}')]) == []
    assert told([plain('{"a": [1, 2]}')], [plain('{"a": [1, 3]}')]) == ["exchange 1, the body: body at .a[1]"]

    def streamed(*data: Any) -> Exchange:
        return exchange([("tick", one) for one in data], request)

    assert told([streamed({"a": 1}, {"a": 2})], [streamed({"a": 1}, {"a": 2})]) == []
    found = first([streamed({"a": 1}, {"a": 2})], [streamed({"a": 1}, {"a": 3})])
    assert (str(found), found.a.position) == ("exchange 1, event 1 (tick): data at .a", 1)


def test_a_request_that_is_no_json_is_compared_as_a_text() -> None:
    def sent(body: bytes) -> Exchange:
        return Exchange(writing.stream(0)._replace(request_body=body), [])

    assert told([sent(b"a=1")], [sent(b"a=1")]) == []
    assert told([sent(b"a=1")], [sent(b"a=2")]) == ["exchange 1, the request: body"]


def test_long_sequences_that_differ_are_compared_in_bounded_time() -> None:
    request = Request("GET", "example.com", "/things")
    a = exchange([("x" if number % 3 else "y", number) for number in range(3000)], request)
    b = exchange([("x" if number % 5 else "z", -number) for number in range(3000)], request)
    assert len(told([a], [b])) > 1000


# How values are shown


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        ("rain", "sun", ["- rain", "+ sun"]),
        (None, "sun", ["+ sun"]),
        (None, "sun\nmoon", ["+ sun", "+ moon"]),
        (1, {"a": 1}, ["- 1", '+ {"a":1}']),
        ("one\ntwo\nthree", "one\n2\nthree", ["  one", "- two", "+ 2", "  three"]),
        ('{"city":"Oslo","unit":"celsius","days":[1,2,3,4,5,6,7],"x":1}', '{"city":"Bergen"}', None),
        ("a" * 200 + "b" + "c" * 200, "a" * 200 + "d" + "c" * 200, None),
    ],
)
def test_two_values_are_shown_one_above_the_other(a: Any, b: Any, lines: list[str] | None) -> None:
    shown = unified(a, b)
    if lines is not None:
        assert shown == lines
    assert shown
    assert all(line[:2] in ("- ", "+ ", "  ", "…") and len(line) <= 105 for line in shown)
    if isinstance(a, str) and len(a) > 400:
        assert [line[2:].strip("…").strip("ac") for line in shown] == ["b", "d"]


def test_a_long_difference_is_cut_short() -> None:
    assert unified("\n".join(map(str, range(100))), "\n".join(map(str, range(100, 200))))[-1] == "…"
