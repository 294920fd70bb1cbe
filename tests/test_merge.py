"""Merging what several streams say about a run: a function of the set of parts, whatever their order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.protocols.merge import merge
from recorder.protocols.view import Contribution
from tests.writing import (
    BORN,
    DONE,
    Event,
    answered,
    asked,
    contribution,
    folded,
    kinds,
    message,
    run,
    said,
    step,
    step_delta,
    submitting,
    text,
    text_delta,
)

USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def part(events: list[Event], number: int, started: float = 0, recorded: float = 0, outcome: str | None = "done") -> Contribution:
    return contribution(folded(events, outcome=outcome), number=number, started=started, recorded=recorded)


# What can be told about one run, in all kinds of states; from these the permutations are drawn.
TELLINGS: list[list[Event]] = [
    said("Hello there", usage=USAGE),
    said("Hello there", usage=USAGE)[:6],
    said("Hello there")[:4],
    asked(),
    answered(),
    answered()[:2],
    said("Another run", created_at=BORN + 50),
    said("Another run", created_at=BORN + 50)[:5],
    [text_delta("Hel", id="msg_of_run_1"), ("thread.run.in_progress", run("in_progress"))],
    [("thread.run.failed", {"id": "run_1", "failed_at": 1, "last_error": {"code": "c"}})],
    [("thread.run.in_progress", run("in_progress")), ("error", {"code": "server_error", "message": "x"})],
    [("thread.run.cancelled", run("cancelled")), ("thread.run.in_progress", run("in_progress"))],
    [("thread.message.completed", message("completed", created_at=None)), ("thread.run.x", run(None, created_at=None))],  # type: ignore[arg-type]
]


@st.composite
def parts(draw: st.DrawFn) -> list[Contribution]:
    chosen = draw(st.lists(st.integers(0, len(TELLINGS) - 1), min_size=1, max_size=5))
    when = st.integers(0, 2)
    outcomes = st.sampled_from([None, "done", "cut", "eof"])
    return [part(TELLINGS[telling], number, draw(when), draw(when), draw(outcomes)) for number, telling in enumerate(chosen)]


@given(parts(), st.data())
@settings(max_examples=200)
def test_any_order_of_the_parts_gives_the_same_view(given: list[Contribution], data: st.DataObject) -> None:
    assert merge("run_1", data.draw(st.permutations(given))) == merge("run_1", given)


@given(parts())
def test_merging_changes_no_part(given: list[Contribution]) -> None:
    """A part is also what is kept: what a merge does to it would be stored with the next projection."""
    before = [repr(each) for each in given]
    merge("run_1", given)
    assert [repr(each) for each in given] == before


@given(parts())
def test_the_same_parts_twice_over_say_nothing_else(given: list[Contribution]) -> None:
    """A stream that was recorded twice, under another id."""
    again = [each._replace(source=each.source._replace(stream_id=each.source.stream_id[:-2] + "ff")) for each in given[:1]]
    once, twice = merge("run_1", given), merge("run_1", given + again)
    assert (twice.object, twice.steps, twice.messages) == (once.object, once.steps, once.messages)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_terminal_beats_open_however_late_the_open_one_began(order: tuple[int, ...]) -> None:
    given = [
        part([("x", run("in_progress")), ("x", step()), ("x", message())], 2, started=9),
        part([("x", run("completed")), ("x", step("completed")), ("x", message("completed", content=[text("a")]))], 1),
        part([("x", run("queued"))], 3, started=99, outcome=None),
    ]
    view = merge("run_1", [given[number] for number in order])
    assert (view.object["status"], view.state) == ("completed", "ended")
    assert [each.terminal for each in (*view.steps, *view.messages)] == [True, True]
    assert view.messages[0].object["content"] == [text("a")]


@pytest.mark.parametrize("statuses", [("completed", "failed"), ("failed", "completed")])
def test_among_terminal_ones_the_later_start_wins(statuses: tuple[str, str]) -> None:
    given = [part([("x", run(status))], 5 - number, started=number) for number, status in enumerate(statuses)]
    for order in itertools.permutations(given):
        assert merge("run_1", order).object["status"] == statuses[1]


def test_among_equal_starts_the_later_recording_wins() -> None:
    given = [part([("x", run("completed"))], 2, recorded=1), part([("x", run("failed"))], 1, recorded=2)]
    for order in itertools.permutations(given):
        assert merge("run_1", order).object["status"] == "failed"


def test_a_sparse_later_snapshot_keeps_what_the_earlier_one_said() -> None:
    sparse = {"id": "run_1", "failed_at": 7, "last_error": {"code": "server_error"}}
    view = merge("run_1", [part([("x", run("in_progress"))], 1), part([("thread.run.failed", sparse)], 2, started=1)])
    assert view.object == {**run("failed"), **sparse}


def test_what_the_last_status_does_not_hold_is_cleared_across_streams() -> None:
    sparse = {"id": "run_1", "status": "completed"}
    view = merge("run_1", [part(asked(), 1), part([("thread.run.completed", sparse)], 2, started=1)])
    assert view.object["required_action"] is None


def test_of_accumulated_deltas_the_longest_is_taken_and_none_is_joined() -> None:
    open_message = [("thread.run.in_progress", run("in_progress")), ("thread.message.created", message())]
    longer = part([*open_message, text_delta("Hello "), text_delta("the")], 1)
    shorter = part([*open_message, text_delta("Hel")], 2, started=5)
    for order in itertools.permutations([longer, shorter]):
        assert merge("run_1", order).messages[0].object["content"] == [{"type": "text", "text": {"value": "Hello the"}}]


def test_an_accumulation_gives_way_to_a_final_object_of_another_stream() -> None:
    longer = part([("x", run("in_progress")), ("x", message()), text_delta("Hello there, all of you")], 2, started=5)
    final = part([("x", run("completed")), ("x", message("completed", content=[text("Hello")]))], 1)
    for order in itertools.permutations([longer, final]):
        assert merge("run_1", order).messages[0].object["content"] == [text("Hello")]


def test_an_id_that_comes_back_with_another_created_at_is_another_run() -> None:
    first, second = part(said("first"), 1), part(said("second", created_at=BORN + 50), 2, started=50)
    for order in itertools.permutations([first, second]):
        view = merge("run_1", order)
        assert view.object["created_at"] == BORN + 50
        assert [source.stream_id for source in view.sources] == [second.source.stream_id]
        assert view.messages[0].object["content"] == [text("second")]
        assert kinds(view) == ["id_reused"]
        assert view.anomalies[0][0] == second.source.stream_id


def test_a_stream_without_the_runs_created_at_belongs_to_the_later_run() -> None:
    given = [part(said("first"), 1), part(said("second", created_at=BORN + 50), 2, started=50)]
    given.append(contribution(folded([DONE], submitting()), number=3, started=51))
    view = merge("run_1", given)
    assert [source.stream_id for source in view.sources] == [each.source.stream_id for each in given[1:]]


@pytest.mark.parametrize("created_at", [float("nan"), float("inf"), "soon", [], {}, True, -1, 0])
@pytest.mark.parametrize("other", [0, 3])
def test_any_created_at_can_be_merged(created_at: Any, other: int) -> None:
    odd: list[Event] = [("x", run("in_progress", created_at=created_at)), ("x", step(created_at=created_at))]
    assert merge("run_1", [part(odd, 1), part(odd, 2), part(said(), other)]).sources


def test_steps_and_messages_are_in_order_of_creation() -> None:
    def at(name: str, seconds: int | None) -> Event:
        return "x", step(id=name, created_at=None if seconds is None else BORN + seconds)

    one = part([("x", run("in_progress")), at("c", 3), at("last", None), at("a", 1)], 1)
    two = part([at("d", 4), at("b", 2), at("c2", 3)], 2, started=1)
    assert [each.id for each in merge("run_1", [two, one]).steps] == ["a", "b", "c", "c2", "d", "last"]


def test_outputs_of_the_requests_and_the_last_error_are_gathered() -> None:
    broken: list[Event] = [("error", {"code": "server_error", "message": "x"})]
    parts = [
        part(asked(), 1),
        contribution(folded(broken, submitting("sun")), number=2, started=1),
        contribution(folded([], submitting("rain")), number=3, started=2),
    ]
    for order in itertools.permutations(parts):
        view = merge("run_1", order)
        assert view.outputs == {"call_1": "rain"}
        assert view.error is not None
        assert view.error["code"] == "server_error"
        assert view.error_stream == parts[1].source.stream_id


@pytest.mark.parametrize(
    ("outcomes", "state"), [(("done", "done"), "waiting"), (("done", None), "active"), ((None, "cut"), "active")]
)
def test_a_run_is_active_while_a_stream_of_it_is_open(outcomes: tuple[str | None, str | None], state: str) -> None:
    given = [part(asked(), number, started=number, outcome=outcome) for number, outcome in enumerate(outcomes)]
    assert merge("run_1", given).state == state


def test_deltas_of_calls_that_only_one_stream_saw_are_kept() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    given = [part([("x", run("in_progress")), ("x", step()), step_delta(call)], 1), part([("x", step())], 2, started=1)]
    for order in itertools.permutations(given):
        assert merge("run_1", order).steps[0].object["step_details"]["tool_calls"][0]["function"]["arguments"] == "{}"
