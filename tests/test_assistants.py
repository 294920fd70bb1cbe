"""The fold of the Assistants stream: each event, each transition, each rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recorder import database, jsontext, log, queries
from recorder.collect.import_ import import_paths
from recorder.projections import runner
from recorder.protocols import Request, assistants, protocol_for
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import RunView
from recorder.sse import Frame
from recorder.vocabulary import RUN_TERMINAL
from tests.writing import (
    BORN,
    DONE,
    THREADS,
    Event,
    answered,
    asked,
    contribution,
    data,
    folded,
    frames,
    kinds,
    message,
    message_delta,
    run,
    said,
    step,
    step_delta,
    submitting,
    text,
    text_delta,
    viewed,
)

RUN_EVENTS = (
    "queued",
    "in_progress",
    "requires_action",
    "completed",
    "incomplete",
    "failed",
    "cancelling",
    "cancelled",
    "expired",
)
STEP_EVENTS = ("in_progress", "completed", "failed", "cancelled", "expired")
MESSAGE_EVENTS = ("in_progress", "completed", "incomplete")


def at(status: str) -> Event:
    return f"thread.run.{status}", run(status)


# Which streams are of this protocol


@pytest.mark.parametrize(
    "path",
    [
        "/v1/threads/runs",
        "/v1/threads/thread_1/runs",
        "/v1/threads/thread_1/runs/run_1/submit_tool_outputs",
        "/openai/threads/thread_1/runs",
        "/api/projects/p/threads/runs",
    ],
)
def test_a_request_to_threads_is_of_this_protocol_under_any_prefix(path: str) -> None:
    assert protocol_for(Request(path=path)) is assistants


@pytest.mark.parametrize("path", ["", "/", "/v1/chat/completions", "/v1/responses", "/v1/mythreads/x"])
def test_any_other_request_is_not(path: str) -> None:
    assert protocol_for(Request(path=path)) is not assistants


def test_a_stream_without_a_request_is_known_by_its_first_event_of_a_thread() -> None:
    fold = folded([("", "hello"), ("keepalive", {}), *said()], Request())
    assert fold.protocol == "assistants"
    assert fold.states()["run_1"]["object"]["status"] == "completed"


def test_a_stream_of_no_known_protocol_is_counted_and_folds_to_nothing() -> None:
    fold = folded([("ping", {"id": "run_1", "object": "thread.run"}), ("", {"choices": []})], Request())
    assert (fold.protocol, fold.events, list(fold.states())) == (None, 2, [STREAM])


# Section 5: events


def test_events_json_and_the_table_of_handlers_name_the_same_events(shared: Path) -> None:
    listed = json.loads((shared / "reference" / "events.json").read_text())
    names = {entry["event"] for entry in listed if entry["protocol"] == "openai.assistants"}
    assert set(assistants.HANDLERS) | {"done"} == names


@pytest.mark.parametrize("status", RUN_EVENTS)
def test_every_run_event_gives_the_run_its_status(status: str) -> None:
    view = viewed([at(status)])
    assert view.object == run(status)
    assert view.anomalies == []


@pytest.mark.parametrize("status", STEP_EVENTS)
def test_every_step_event_gives_the_step_its_status(status: str) -> None:
    view = viewed([at("in_progress"), (f"thread.run.step.{status}", step(status))])
    assert [found.object for found in view.steps] == [step(status)]
    assert view.steps[0].terminal == (status != "in_progress")
    assert view.anomalies == []


@pytest.mark.parametrize("status", MESSAGE_EVENTS)
def test_every_message_event_gives_the_message_its_status(status: str) -> None:
    view = viewed([at("in_progress"), (f"thread.message.{status}", message(status, content=[text("a")]))])
    assert [found.object for found in view.messages] == [message(status, content=[text("a")])]
    assert view.messages[0].terminal == (status != "in_progress")
    assert view.anomalies == []


def test_created_events_begin_a_thread_a_run_a_step_and_a_message() -> None:
    thread = {"id": "thread_1", "object": "thread", "created_at": BORN, "metadata": {}}
    begun = [("thread.created", thread), ("thread.run.created", run()), ("thread.run.step.created", step())]
    fold = folded([*begun, ("thread.message.created", message())], Request(path="/v1/threads/runs"))
    assert fold.thread_id == "thread_1"
    view = merge("run_1", [contribution(fold)])
    assert (view.object, view.steps[0].object, view.messages[0].object) == (run(), step(), message())


def test_deltas_build_the_step_and_the_message_while_they_are_open() -> None:
    view = viewed(
        [
            at("in_progress"),
            ("thread.run.step.created", step()),
            step_delta({"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}),
            step_delta({"index": 0, "function": {"arguments": "}"}}),
            ("thread.message.created", message()),
            text_delta("Hel"),
            text_delta("lo"),
        ],
        outcome=None,
    )
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert view.steps[0].object == step(step_details={"type": "tool_calls", "tool_calls": [call]})
    assert view.messages[0].object == message(content=[{"type": "text", "text": {"value": "Hello"}}])


@pytest.mark.parametrize("payload", ["[DONE]", '"[DONE]"', ""])
def test_done_says_nothing_about_the_run(payload: str) -> None:
    view = viewed([at("in_progress"), ("done", payload)])
    assert view.object == run("in_progress")
    assert view.state == "unknown"


def test_an_unknown_event_about_a_known_object_is_its_snapshot() -> None:
    view = viewed([at("in_progress"), ("thread.run.paused", run("paused")), ("thread.run.step.odd", step("odd"))])
    assert view.object["status"] == "paused"
    assert view.steps[0].object["status"] == "odd"


@pytest.mark.parametrize("event", [("thread.mood", {"mood": "fine"}), ("news", [1]), ("thread.run.x", {"id": 1}), ("", "[DONE]")])
def test_an_unknown_event_about_nothing_known_is_passed_over(event: Event) -> None:
    view = viewed([at("in_progress"), event, at("completed")])
    assert view.object == run("completed")
    assert view.anomalies == []


def test_the_payloads_status_counts_where_the_events_name_says_another() -> None:
    cut = run("incomplete", incomplete_details={"reason": "max_completion_tokens"})
    view = viewed([at("in_progress"), ("thread.run.completed", cut)])
    assert view.object == cut
    assert view.state == "ended"


@pytest.mark.parametrize(
    "name", ["thread.run.failed", "thread.run.completed", "thread.run.step.expired", "thread.message.completed"]
)
def test_an_event_without_a_status_has_the_one_of_its_name(name: str) -> None:
    family = {"thread.run.step": "steps", "thread.message": "messages"}.get(name.rpartition(".")[0])
    view = viewed([at("in_progress"), (name, {"id": "x_1" if family else "run_1"})])
    object = getattr(view, family)[0].object if family else view.object
    assert object["status"] == name.rpartition(".")[2]


def test_data_that_is_no_json_is_flagged_and_stops_nothing() -> None:
    view = viewed([at("in_progress"), ("thread.run.completed", '{"id": "run_1"}}'), ("thread.run.completed", run("completed"))])
    assert view.object == run("completed")
    assert kinds(view) == ["unparsable"]


@pytest.mark.parametrize(
    "payload", [[], 5, None, {"object": "thread.run"}, {"id": ""}, {"id": "a\0b"}, {"id": "\ud800"}, {"id": 7}]
)
def test_an_event_without_an_object_that_has_an_id_is_flagged(payload: Any) -> None:
    view = viewed([at("in_progress"), ("thread.run.completed", json.dumps(payload))])
    assert view.object == run("in_progress")
    assert len(kinds(view)) == 1


@pytest.mark.parametrize("nulls", [True, False])
def test_an_envelope_of_event_and_data_is_opened(nulls: bool) -> None:
    """LiteLLM sends no event names: data is {"event", "data"}, with nulls dropped."""
    dropped = [
        (name, payload if nulls or not isinstance(payload, dict) else {k: v for k, v in payload.items() if v is not None})
        for name, payload in said()
    ]
    enveloped: list[Event] = [("", {"event": name, "data": payload}) for name, payload in dropped if name != "done"]
    view = viewed([*enveloped, ("", "[DONE]")], request=Request())
    plain = viewed(dropped)
    assert (view.object, view.steps, view.messages) == (plain.object, plain.steps, plain.messages)
    assert view.anomalies == []


# Section 3: step details


def test_message_creation_keeps_its_message_id() -> None:
    view = viewed([at("in_progress"), ("thread.run.step.completed", step("completed", type="message_creation"))])
    assert view.steps[0].object["step_details"] == {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}


def test_the_code_interpreters_input_logs_and_image_accumulate() -> None:
    def code(**body: Any) -> Event:
        return step_delta({"index": 0, "type": "code_interpreter", "code_interpreter": body})

    view = viewed(
        [
            at("in_progress"),
            ("thread.run.step.created", step()),
            step_delta(
                {"index": 0, "id": "call_1", "type": "code_interpreter", "code_interpreter": {"input": "", "outputs": []}}
            ),
            code(input="print("),
            code(input="1)"),
            code(outputs=[{"index": 0, "type": "logs", "logs": "1"}]),
            code(outputs=[{"index": 0, "logs": "\n"}, {"index": 1, "type": "image", "image": {"file_id": "file_1"}}]),
        ],
        outcome=None,
    )
    outputs = [{"type": "logs", "logs": "1\n"}, {"type": "image", "image": {"file_id": "file_1"}}]
    body = {"input": "print(1)", "outputs": outputs}
    assert view.steps[0].object["step_details"]["tool_calls"] == [
        {"id": "call_1", "type": "code_interpreter", "code_interpreter": body}
    ]


@pytest.mark.parametrize("outputs", [{}, {"outputs": None}, {"outputs": []}])
def test_the_code_interpreters_outputs_may_start_empty_null_or_absent(outputs: dict[str, Any]) -> None:
    view = viewed(
        [
            at("in_progress"),
            step_delta({"index": 0, "type": "code_interpreter", "code_interpreter": {"input": "1", **outputs}}),
            step_delta({"index": 0, "code_interpreter": {"outputs": [{"index": 0, "type": "logs", "logs": "1"}]}}),
        ]
    )
    call = view.steps[0].object["step_details"]["tool_calls"][0]
    assert call["code_interpreter"] == {"input": "1", "outputs": [{"type": "logs", "logs": "1"}]}


def test_file_search_results_come_with_the_completed_step() -> None:
    results = [{"file_id": "file_1", "file_name": "a.md", "score": 0.5, "content": [{"type": "text", "text": "x"}]}]
    body = {"ranking_options": {"ranker": "auto", "score_threshold": 0.1}, "results": results}
    call = {"id": "call_1", "type": "file_search", "file_search": body}
    done = step("completed", step_details={"type": "tool_calls", "tool_calls": [call]})
    view = viewed(
        [
            at("in_progress"),
            ("thread.run.step.created", step()),
            step_delta({"index": 0, "id": "call_1", "type": "file_search", "file_search": {}}),
            ("thread.run.step.completed", done),
        ]
    )
    assert view.steps[0].object == done
    assert view.anomalies == []


def test_parallel_calls_share_a_step_by_their_index() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "type": "function", "function": function}

    view = viewed(
        [
            at("in_progress"),
            ("thread.run.step.created", step()),
            step_delta(call(0, name="a", arguments=""), call(1, name="b", arguments="")),
            step_delta(call(1, arguments="{2")),
            step_delta(call(0, arguments="{1}")),
            step_delta(call(1, arguments="}")),
        ]
    )
    calls = view.steps[0].object["step_details"]["tool_calls"]
    assert [each["function"] for each in calls] == [{"name": "a", "arguments": "{1}"}, {"name": "b", "arguments": "{2}"}]


@pytest.mark.parametrize("type", ["mcp", "openapi"])
def test_details_of_azure_with_a_list_of_tool_calls_are_tool_calls(type: str) -> None:
    first = {"index": 0, "id": "call_1", "type": type, "name": "search", "arguments": "{"}
    view = viewed([at("in_progress"), step_delta(first, type=type), step_delta({"index": 0, "arguments": "}"}, type=type)])
    call = {"id": "call_1", "type": type, "name": "search", "arguments": "{}"}
    assert view.steps[0].object["step_details"] == {"type": "tool_calls", "tool_calls": [call]}


def test_unknown_step_types_tool_types_and_fields_are_carried_along() -> None:
    odd = step("completed", type="daydream", step_details={"type": "daydream", "daydream": [{"of": "sheep"}]}, mood=[1])
    call = {"id": "call_1", "type": "telepathy", "telepathy": {"thought": "x"}}
    tool = step("completed", id="step_2", step_details={"type": "tool_calls", "tool_calls": [call]}, created_at=BORN + 5)
    paused = run("paused", priority={"level": 3})
    view = viewed(
        [("thread.run.step.completed", odd), ("thread.run.step.completed", tool), ("thread.run.paused", paused)], outcome=None
    )
    assert [found.object for found in view.steps] == [odd, tool]
    assert view.object == paused
    assert view.state == "active"


# Section 4: state machines. The drawn transitions, and some that contradict it.

DRAWN = [
    ("queued", "in_progress"),
    ("queued", "cancelling"),
    ("queued", "expired"),
    ("queued", "failed"),
    ("in_progress", "requires_action"),
    ("in_progress", "cancelling"),
    ("in_progress", "incomplete"),
    ("in_progress", "completed"),
    ("in_progress", "failed"),
    ("in_progress", "expired"),
    ("requires_action", "queued"),
    ("requires_action", "cancelling"),
    ("requires_action", "expired"),
    ("cancelling", "cancelled"),
    ("cancelling", "completed"),
    ("cancelling", "failed"),
    ("cancelling", "expired"),
]
TERMINAL = ("completed", "failed", "cancelled", "expired", "incomplete")
OPEN = ("queued", "in_progress", "requires_action", "cancelling")
CONTRADICTING = [
    ("in_progress", "queued"),
    ("requires_action", "completed"),
    ("requires_action", "incomplete"),
    ("cancelling", "queued"),
    ("cancelling", "in_progress"),
    ("cancelling", "requires_action"),
    *((one, other) for one in TERMINAL for other in TERMINAL if one != other),
]


@pytest.mark.parametrize(("before", "after"), DRAWN)
def test_a_transition_of_the_state_machine_is_applied_without_a_word(before: str, after: str) -> None:
    view = viewed([at(before), at(after)])
    assert view.object["status"] == after
    assert view.anomalies == []


@pytest.mark.parametrize("status", RUN_EVENTS)
def test_a_status_said_twice_is_no_transition(status: str) -> None:
    assert viewed([at(status), at(status)]).anomalies == []


@pytest.mark.parametrize(("before", "after"), CONTRADICTING)
def test_a_transition_against_the_state_machine_is_applied_and_flagged(before: str, after: str) -> None:
    view = viewed([at(before), at(after)])
    assert view.object["status"] == after
    assert kinds(view) == ["illegal_transition"]


@pytest.mark.parametrize(("before", "after"), [(one, other) for one in TERMINAL for other in OPEN])
def test_a_run_that_ended_and_goes_on_is_flagged_loudly(before: str, after: str) -> None:
    view = viewed([at(before), at(after)])
    assert view.object["status"] == after
    assert kinds(view) == ["resurrected"]


@pytest.mark.parametrize("unknown", ["paused", "queued ", "", "COMPLETED"])
def test_anything_may_follow_an_unknown_status(unknown: str) -> None:
    assert kinds(viewed([("thread.run.x", run(unknown)), at("queued")])) == ["unknown_status"]


@pytest.mark.parametrize("before", ["completed", "failed", "cancelled", "expired"])
def test_a_step_that_ended_and_goes_on_is_flagged_loudly(before: str) -> None:
    view = viewed([at("in_progress"), ("x", step(before)), ("x", step("in_progress"))])
    assert kinds(view) == ["resurrected"]


@pytest.mark.parametrize("before", ["completed", "incomplete"])
def test_a_message_that_ended_and_goes_on_is_flagged_loudly(before: str) -> None:
    view = viewed([at("in_progress"), ("x", message(before)), ("x", message("in_progress"))])
    assert kinds(view) == ["resurrected"]


def test_the_usual_orders_have_no_anomaly() -> None:
    assert viewed(said()).anomalies == []
    assert viewed(asked()).anomalies == []
    assert viewed(answered(), request=submitting()).anomalies == []


@pytest.mark.parametrize(
    ("status", "outcome", "state"),
    [
        *((status, outcome, "ended") for status in TERMINAL for outcome in ("done", "cut", None)),
        ("requires_action", "done", "waiting"),
        ("requires_action", "eof", "waiting"),
        ("in_progress", None, "active"),
        *(("in_progress", outcome, "unknown") for outcome in ("cut", "eof", "error", "client_closed", "lost", "done")),
    ],
)
def test_a_run_whose_end_was_not_seen_is_unknown_and_never_failed(status: str, outcome: str | None, state: str) -> None:
    view = viewed([at("in_progress"), at(status)], outcome=outcome)
    assert view.state == state
    assert view.object["status"] == status


# The rules of the fold


def test_rule_1_streamed_strings_grow_and_every_other_scalar_is_replaced() -> None:
    view = viewed(
        [
            at("in_progress"),
            ("thread.message.created", message()),
            message_delta({"index": 0, "type": "text", "text": {"value": "a", "mood": "calm"}}),
            message_delta({"index": 0, "type": "text", "text": {"value": "b", "mood": "glad"}}),
            message_delta({"index": 1, "type": "refusal", "refusal": "no"}),
            message_delta({"index": 1, "type": "refusal", "refusal": "pe"}),
        ]
    )
    assert view.messages[0].object["content"] == [
        {"type": "text", "text": {"value": "ab", "mood": "glad"}},
        {"type": "refusal", "refusal": "nope"},
    ]


def test_rule_2_lists_are_maps_by_index_sorted_without_it() -> None:
    view = viewed([at("in_progress"), ("x", message()), text_delta("c", 5), text_delta("a", 0), text_delta("b", 2)])
    assert view.messages[0].object["content"] == [{"type": "text", "text": {"value": value}} for value in "abc"]


def test_rule_3_present_keys_overwrite_and_absent_ones_keep_the_old_value() -> None:
    sparse = {"id": "run_1", "failed_at": BORN + 3, "last_error": {"code": "server_error", "message": "x"}}
    view = viewed([at("in_progress"), ("thread.run.failed", sparse)])
    assert view.object == {**run("failed"), **sparse}


@pytest.mark.parametrize(
    ("key", "value", "held", "cleared"),
    [
        (
            "required_action",
            {"type": "submit_tool_outputs"},
            ["requires_action"],
            ["queued", "in_progress", "completed", "failed"],
        ),
        ("last_error", {"code": "server_error"}, ["failed", "cancelled", "expired"], ["queued", "in_progress", "completed"]),
        ("incomplete_details", {"reason": "max_prompt_tokens"}, ["incomplete"], ["queued", "in_progress", "completed", "failed"]),
    ],
)
def test_rule_3_what_the_new_status_does_not_hold_is_cleared(key: str, value: Any, held: list[str], cleared: list[str]) -> None:
    for status in held + cleared:
        view = viewed([("x", run("paused", **{key: value})), (f"thread.run.{status}", {"id": "run_1", "status": status})])
        assert view.object[key] == (value if status in held else None), status


def test_rule_4_in_progress_does_not_empty_accumulated_details() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    begun = [at("in_progress"), ("thread.run.step.created", step()), step_delta(call)]
    view = viewed([*begun, ("thread.run.step.in_progress", step())])
    assert view.steps[0].object["step_details"]["tool_calls"][0]["function"]["arguments"] == "{}"
    begun = [at("in_progress"), ("thread.message.created", message()), text_delta("a")]
    view = viewed([*begun, ("thread.message.in_progress", message()), text_delta("b")])
    assert view.messages[0].object["content"][0]["text"]["value"] == "ab"


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_rule_4_the_final_message_wins_and_a_difference_is_flagged(status: str) -> None:
    final = message(status, content=[text("Hello you")])
    view = viewed(
        [at("in_progress"), ("x", message()), text_delta("Hello "), text_delta("me"), (f"thread.message.{status}", final)]
    )
    assert view.messages[0].object == final
    assert kinds(view) == ["delta_mismatch"]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
def test_rule_4_the_final_step_wins_and_a_difference_is_flagged(status: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}", "output": None}}
    final = step(status, step_details={"type": "tool_calls", "tool_calls": [call]})
    delta = step_delta({"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}})
    view = viewed([at("in_progress"), ("x", step()), delta, (f"thread.run.step.{status}", final)])
    assert view.steps[0].object == final
    assert kinds(view) == ["delta_mismatch"]


def test_rule_4_both_the_accumulation_and_the_final_object_are_kept() -> None:
    fold = folded([at("in_progress"), ("x", message()), text_delta("Hello"), ("x", message("completed", content=[text("Bye")]))])
    kept = fold.states()["run_1"]["families"]["messages"]["msg_1"]
    assert kept["object"]["content"] == [text("Bye")]
    assert kept["delta"]["content"][0]["text"]["value"] == "Hello"


def test_rule_4_deltas_that_add_up_are_no_anomaly() -> None:
    cited = {"type": "file_citation", "text": "[0]", "start_index": 0, "end_index": 3, "file_citation": {"file_id": "f"}}
    quoted = {**cited, "index": 0, "file_citation": {"file_id": "f", "quote": "only deltas have it"}}
    view = viewed(
        [
            at("in_progress"),
            ("x", message()),
            text_delta("Hel"),
            message_delta({"index": 0, "type": "text", "text": {"value": "lo", "annotations": [quoted]}}),
            ("thread.message.completed", message("completed", content=[text("Hello", cited)])),
        ]
    )
    assert view.messages[0].object["content"] == [text("Hello", cited)]
    assert view.anomalies == []


def test_rule_4_a_part_that_had_no_delta_makes_no_difference() -> None:
    image = {"type": "image_file", "image_file": {"file_id": "file_1", "detail": "auto"}}
    final = message("completed", content=[text("a"), image, text("c")])
    view = viewed([at("in_progress"), ("x", message()), text_delta("a", 0), text_delta("c", 2), ("x", final)])
    assert view.anomalies == []


def test_rule_5_a_final_event_for_an_unknown_id_creates_the_object() -> None:
    for name, payload in (
        ("thread.run.completed", run("completed")),
        ("thread.run.step.completed", step("completed")),
        ("thread.message.completed", message("completed")),
    ):
        view = viewed([(name, payload)])
        assert view.is_run
        assert view.anomalies == []
    assert viewed([("thread.run.step.completed", step("completed"))]).steps[0].object == step("completed")


def test_rule_5_a_delta_before_its_object_makes_a_stub_that_the_object_joins() -> None:
    early = [at("in_progress"), text_delta("Hel"), step_delta({"index": 0, "type": "function", "function": {"name": "f"}})]
    view = viewed(early)
    assert [found.id for found in (*view.messages, *view.steps)] == ["msg_1", "step_1"]
    assert kinds(view) == ["delta_without_object", "delta_without_object"]
    view = viewed([*early, ("thread.message.created", message()), text_delta("lo")])
    assert view.messages[0].object["content"][0]["text"]["value"] == "Hello"
    assert view.messages[0].object["role"] == "assistant"


def test_rule_5_a_stub_of_no_known_run_moves_to_its_run_and_leaves_nothing_behind() -> None:
    fold = folded([text_delta("Hel"), ("thread.message.created", message()), text_delta("lo")], Request(path="/v1/threads/runs"))
    assert set(fold.states()) == {"run_1", STREAM}
    view = merge("run_1", [contribution(fold)])
    assert view.messages[0].object["content"][0]["text"]["value"] == "Hello"
    assert view.first_delta_us == 0


def test_rule_5_a_moving_stub_takes_nothing_of_a_run_of_that_id_along() -> None:
    """Ids are the server's: nothing says that a step may not be named like a run."""
    view = viewed([at("in_progress"), ("x", step(id="run_1")), ("x", step(id="run_1", run_id="run_2"))])
    assert view.object == run("in_progress")


def test_deltas_of_two_open_messages_go_to_their_own() -> None:
    two = [at("in_progress"), ("x", message()), ("x", message(id="msg_2", created_at=BORN + 3))]
    view = viewed([*two, text_delta("a", id="msg_1"), text_delta("x", id="msg_2"), text_delta("b", id="msg_1")])
    assert [found.object["content"][0]["text"]["value"] for found in view.messages] == ["ab", "x"]


def test_a_delta_after_the_final_object_is_flagged_and_changes_nothing() -> None:
    view = viewed([at("in_progress"), ("x", message("completed", content=[text("a")])), text_delta("b")])
    assert view.messages[0].object == message("completed", content=[text("a")])
    assert kinds(view) == ["delta_after_end"]


@pytest.mark.parametrize("delta", [None, 5, "x", []])
def test_a_delta_event_without_a_delta_is_flagged(delta: Any) -> None:
    view = viewed([at("in_progress"), ("x", message()), ("thread.message.delta", {"id": "msg_1", "delta": delta})])
    assert kinds(view) == ["no_object"]


def test_a_run_id_that_comes_back_with_another_created_at_is_another_run() -> None:
    view = viewed([*said("first"), *said("second", created_at=BORN + 100)])
    assert view.object["created_at"] == BORN + 100
    assert view.messages[0].object["content"] == [text("second")]
    assert "id_reused" in kinds(view)


def test_anomalies_of_one_kind_are_bounded() -> None:
    view = viewed([at("in_progress"), *[("thread.run.queued", "no json")] * 500, at("completed")])
    assert len(view.anomalies) == 100
    assert view.object["status"] == "completed"


# Section 7: one run, several connections


def test_a_run_is_stitched_by_its_id_from_the_streams_that_speak_of_it() -> None:
    parts = [contribution(folded(asked()), number=1), contribution(folded(answered(), submitting()), number=2, started=9)]
    view = merge("run_1", parts)
    assert view.object["status"] == "completed"
    assert view.object["required_action"] is None
    assert view.steps[0].object["step_details"]["tool_calls"][0]["function"]["output"] == "rain"
    assert [source.stream_id for source in view.sources] == [part.source.stream_id for part in parts]
    assert view.anomalies == []


def test_the_url_names_the_run_of_a_stream_that_broke_before_any_payload() -> None:
    fold = folded([], submitting("rain"), outcome="cut")
    assert fold.thread_id == "thread_1"
    view = merge("run_1", [contribution(folded(asked()), number=1), contribution(fold, number=2, started=9)])
    assert view.outputs == {"call_1": "rain"}
    assert len(view.sources) == 2
    assert view.object["status"] == "requires_action"


def test_an_error_event_alone_concerns_the_run_of_the_url() -> None:
    view = viewed([("error", {"code": "server_error", "message": "x"})], request=submitting(), outcome="error")
    assert view.error is not None
    assert view.error["code"] == "server_error"


@pytest.mark.parametrize("entry", [{"approve": True}, {"approve": False, "headers": {"a": "b"}}])
def test_approvals_are_kept_without_their_headers(entry: dict[str, Any]) -> None:
    body = {"tool_approvals": [{"tool_call_id": "call_1", **entry}]}
    fold = folded([], submitting()._replace(body=body))
    assert fold.states()["run_1"]["outputs"] == {"call_1": {"approve": entry["approve"]}}


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        {"tool_outputs": None},
        {"tool_outputs": 5},
        {"tool_outputs": True},
        {"tool_outputs": "abc"},
        {"tool_outputs": {"a": 1}},
        {"tool_outputs": [None, 1, {"output": "x"}, {"tool_call_id": [], "output": "x"}]},
        {"tool_approvals": 1.5},
    ],
)
def test_any_body_of_a_request_can_be_folded(body: Any) -> None:
    view = viewed([at("completed")], request=submitting()._replace(body=body))
    assert view.object["status"] == "completed"


@pytest.mark.parametrize(
    ("payload", "code", "said"),
    [
        ({"error": {"code": "server_error", "message": "broken", "type": "t", "param": None}}, "server_error", "broken"),
        ({"code": "server_error", "message": "broken", "param": None, "type": "t"}, "server_error", "broken"),
        ({"error": "broken"}, None, "broken"),
        ("upstream timed out", None, "upstream timed out"),
        ("", None, None),
    ],
)
def test_an_error_event_is_understood_in_each_of_its_shapes(payload: Any, code: str | None, said: str | None) -> None:
    fold = folded([at("in_progress"), ("error", payload)], outcome="error")
    assert fold.error is not None
    assert (fold.error["code"], fold.error["message"]) == (code, said)
    view = merge("run_1", [contribution(fold)])
    assert view.error is not None
    assert (view.error["code"], view.error["message"], view.error["position"]) == (code, said, 1)
    assert (view.object["status"], view.state) == ("in_progress", "unknown")


@pytest.mark.parametrize("payload", [{"error": {"code": "c", "message": "broken"}}, {"code": "c", "message": "broken"}, "broken"])
def test_an_error_event_is_understood_in_the_envelope_too(payload: Any) -> None:
    fold = folded(
        [("", {"event": "thread.run.in_progress", "data": run("in_progress")}), ("", {"event": "error", "data": payload})]
    )
    assert fold.error is not None
    assert fold.error["message"] == "broken"


def test_steps_are_attributed_to_the_run_of_their_connection_where_they_do_not_say() -> None:
    nameless = {key: value for key, value in step("completed").items() if key != "run_id"}
    assert viewed([at("in_progress"), ("thread.run.step.completed", nameless)]).steps[0].object == nameless


def test_a_message_of_the_users_belongs_to_no_run() -> None:
    asked_by = message("completed", id="msg_0", role="user", run_id=None, assistant_id=None, content=[text("Why?")])
    fold = folded([at("in_progress"), ("thread.message.completed", asked_by), at("completed")])
    assert set(fold.states()) == {"run_1", "msg_0", STREAM}
    assert not merge("msg_0", [contribution(fold, "msg_0")]).is_run


# Other envelopes, and responses that are no stream


def wrapped(events: Sequence[Event], order: Sequence[str] = ("event", "data")) -> list[Event]:
    """Events in LiteLLM's envelope, which is also that of openai-node's toReadableStream()."""
    made = [(name, {"event": name, "data": payload}) for name, payload in events]
    return [("", {key: envelope[key] for key in order}) for _, envelope in made]


@pytest.mark.parametrize("order", [("event", "data"), ("data", "event")])
@pytest.mark.parametrize("events", [said(), asked(), answered(), said()[:5]], ids=["said", "asked", "answered", "begun"])
def test_the_envelope_folds_the_same_whatever_comes_first_in_it(events: list[Event], order: tuple[str, str]) -> None:
    assert viewed(wrapped(events, order), request=Request()) == viewed(events, request=Request())


def test_lines_of_json_fold_the_same_and_come_back_byte_for_byte(tmp_path: Path, engine: sa.Engine) -> None:
    lines = b"".join(data(payload).encode() + b"\n" for _, payload in wrapped(said()))
    path = tmp_path / "x.events.jsonl"
    path.write_bytes(lines)
    (row,) = import_paths(engine, [str(path)])
    runner.catch_up(engine)
    assert b"".join(part for part, _, _ in log.wire(log.read_stream(engine, row.stream_id))) == lines
    with database.read(engine) as connection:
        shown = queries.show_run(connection, "run_1")
    wanted = queries.view_json(viewed(said()))
    assert {key: shown[key] for key in ("steps", "messages", "status", "usage", "state")} == {
        key: wanted[key] for key in ("steps", "messages", "status", "usage", "state")
    }


def body(found: Any, path: str = "/v1/threads/thread_1/runs/run_1", number: int = 1, method: str = "GET") -> StreamFold:
    """The fold of a response that is no stream."""
    fold = StreamFold(Request(method=method, path=path))
    fold.feed(0, 0, "$response", '{"status": 200, "headers": [["content-type", "application/json"]]}')
    fold.feed(1, 10, "$body", json.dumps(found))
    fold.feed(2, 20, "$end", '{"outcome": "done"}')
    return fold


def page(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(objects), "first_id": None, "last_id": None, "has_more": False}


def merged(*folds: StreamFold, key: str = "run_1") -> RunView:
    told = [(number, fold) for number, fold in enumerate(folds) if key in fold.states()]
    return merge(key, [contribution(fold, key, number, started=number) for number, fold in told])


@pytest.mark.parametrize("status", RUN_EVENTS)
def test_a_run_that_came_whole_is_a_snapshot(status: str) -> None:
    """Created, polled, cancelled, or after its outputs were submitted: the body is the run."""
    for path, method in (("", "GET"), ("/cancel", "POST"), ("/submit_tool_outputs", "POST")):
        view = merged(body(run(status), f"/v1/threads/thread_1/runs/run_1{path}", method=method))
        assert view.object == run(status)
        assert view.state == ("ended" if status in RUN_TERMINAL else "waiting" if status == "requires_action" else "unknown")


def test_a_body_alone_can_tell_its_protocol() -> None:
    for found in (run(), step(), message(), page(run()), {"id": "thread_1", "object": "thread"}):
        assert body(found, path="").protocol == "assistants"
    for found in (page(), {"object": "list", "data": [{"object": "model"}]}, {"object": "assistant", "id": "asst_1"}, [run()], 5):
        assert body(found, path="").protocol is None


def test_lists_over_several_pages_are_snapshots_of_all_that_they_list() -> None:
    steps = [step("completed", f"step_{number}", created_at=BORN + number) for number in range(4)]
    given = message("completed", "msg_1", [text("Hello")])
    view = merged(
        body(page(*steps[2:]), "/v1/threads/thread_1/runs/run_1/steps"),
        body(page(*steps[:2]), "/v1/threads/thread_1/runs/run_1/steps"),
        body(page(given, message("completed", "msg_0", [text("Hi")], run_id=None, role="user")), "/v1/threads/thread_1/messages"),
        body(page(run("completed"), run("failed", "run_2")), "/v1/threads/thread_1/runs"),
    )
    assert [each.object for each in view.steps] == steps
    assert [each.object for each in view.messages] == [given]
    assert (view.object["status"], view.state) == ("completed", "ended")


def test_a_run_that_is_listed_with_others_is_each_its_own() -> None:
    fold = body(page(run("completed"), run("failed", "run_2"), run("expired", "run_3")), "/v1/threads/thread_1/runs")
    statuses = {key: merged(fold, key=key).object["status"] for key in fold.states() if key}
    assert statuses == {"run_1": "completed", "run_2": "failed", "run_3": "expired"}


@pytest.mark.parametrize("cut", range(1, len(said()) - 2))
def test_a_poll_ends_what_a_cut_stream_left_unknown(cut: int) -> None:
    stream = folded(said()[:cut], outcome="cut")
    assert merged(stream).state == "unknown"
    last = dict(said())
    view = merged(
        stream,
        body(last["thread.run.completed"]),
        body(page(last["thread.run.step.completed"]), "/v1/threads/thread_1/runs/run_1/steps"),
        body(last["thread.message.completed"], "/v1/threads/thread_1/messages/msg_of_run_1"),
    )
    whole = merged(folded(said()))
    assert (view.object, view.state, view.steps, view.messages) == (whole.object, "ended", whole.steps, whole.messages)


def test_a_poll_that_shows_less_takes_nothing_back() -> None:
    begun = folded(said()[:6], outcome="cut")
    before = merged(begun).messages[0].object["content"]
    assert before[0]["text"]["value"]
    poll = body(page(step(id="step_of_run_1", type="message_creation")), "/v1/threads/thread_1/runs/run_1/steps")
    view = merged(begun, poll, body(message(id="msg_of_run_1"), "/v1/threads/thread_1/messages/msg_of_run_1"))
    assert view.messages[0].object["content"] == before


@pytest.mark.parametrize("found", [page(), [], 5, "x", None, {"object": "thread.run"}, {"object": "thread.deleted", "id": "x"}])
def test_a_body_that_says_nothing_of_a_run_makes_none(found: Any) -> None:
    assert {key for key in body(found).states() if key} == set()


def test_outputs_that_were_submitted_without_a_stream_are_kept() -> None:
    request = submitting()
    fold = StreamFold(request._replace(body={**request.body, "stream": False}))
    fold.feed(0, 0, "$response", '{"status": 200, "headers": [["content-type", "application/json"]]}')
    fold.feed(1, 10, "$body", json.dumps(run("queued")))
    view = merged(folded(asked()), fold)
    assert view.outputs == {"call_1": "rain"}
    assert view.object["status"] == "queued"


# The stream itself


def test_a_tail_that_is_whole_but_for_its_blank_line_is_folded_and_flagged() -> None:
    fold = folded([at("in_progress")], outcome=None)
    fold.feed(1, 0, "$tail", f"event: thread.run.completed\ndata: {data(run('completed'))}\n")
    assert fold.states()["run_1"]["object"]["status"] == "in_progress", "the stream may still go on"
    fold.feed(2, 0, "$end", '{"outcome": "cut"}')
    view = merge("run_1", [contribution(fold)])
    assert view.object["status"] == "completed"
    assert kinds(view) == ["unfinished_tail", "tail_folded"]


@pytest.mark.parametrize(
    "tail", ['event: thread.run.completed\ndata: {"id": "run_1", "status": "comp', "event: thread.run.comp", "x"]
)
def test_a_tail_that_was_cut_is_flagged_and_not_folded(tail: str) -> None:
    fold = folded([at("in_progress")], outcome=None)
    fold.feed(1, 0, "$tail", tail)
    fold.feed(2, 0, "$end", '{"outcome": "cut"}')
    view = merge("run_1", [contribution(fold)])
    assert view.object["status"] == "in_progress"
    assert kinds(view) == ["unfinished_tail"]


def test_a_tail_whose_last_line_is_cut_is_not_folded() -> None:
    """The line after the data would have named the event."""
    fold = folded([at("in_progress")], outcome=None)
    fold.feed(1, 0, "$tail", 'data: {"id": "run_1", "object": "thread.run", "status": "completed"}\neve')
    fold.feed(2, 0, "$end", '{"outcome": "cut"}')
    assert fold.states()["run_1"]["object"]["status"] == "in_progress"


def test_counters_count_events_and_bytes_of_data() -> None:
    events = [at("in_progress"), ("thread.message.delta", '{"id":"msg_1","delta":{"content":"Größe 💡"}}'), DONE]
    fold = folded(events)
    assert fold.events == 3
    assert fold.bytes == sum(len(data(payload).encode()) for _, payload in events)
    assert (fold.first_event_us, fold.last_us, fold.outcome) == (0, 2000, "done")


def test_a_delta_gives_the_time_of_the_first_delta() -> None:
    assert viewed([at("in_progress"), ("x", message()), text_delta("a"), text_delta("b")]).first_delta_us == 2000


def test_an_error_response_is_kept_as_the_streams_error() -> None:
    fold = StreamFold(THREADS)
    fold.feed(0, 0, "$response", '{"status": 400, "headers": []}')
    fold.feed(1, 0, "$body", '{"error": {"message": "no such thread", "code": "not_found"}}')
    assert fold.status == 400
    assert fold.error == {"code": "not_found", "message": "no such thread", "type": None, "param": None}


@pytest.mark.parametrize("type", ["$response", "$body", "$block", "$piece", "$tail", "$gap", "$end", "$comment", "$odd"])
@pytest.mark.parametrize("body", ["", "x", "[]", "null", "5", '"x"', '{"status": "x", "outcome": 5, "events": "x"}', "{"])
def test_no_system_event_stops_the_fold_whatever_it_holds(type: str, body: str) -> None:
    """A recording file may have been edited by hand."""
    fold = folded([at("in_progress")], outcome=None)
    fold.feed(1, 0, type, body)
    fold.feed(2, 0, "thread.run.completed", data(run("completed")))
    assert fold.states()["run_1"]["object"]["status"] == "completed"


# Whatever comes

ids = st.sampled_from(["run_1", "run_2", "step_1", "msg_1", "x", "", "a\0b", "\ud800", "é" * 600])
numbers = st.sampled_from([0, 1, 2, 7, -1, 65535, 65536, 10**12, BORN, BORN + 1, True, 0.5])
words = st.sampled_from(["", "a", "text", "queued", "in_progress", "completed", "failed", "odd", "tool_calls", "\ud800", "a\0b"])
leaves = st.none() | numbers | words | ids | st.floats() | st.integers()
field_names = st.sampled_from(
    [
        "id", "object", "run_id", "thread_id", "status", "created_at", "delta", "content", "step_details", "tool_calls", "index",
        "type", "text", "value", "function", "arguments", "code_interpreter", "input", "outputs", "logs", "annotations", "error",
        "data", "event", "required_action", "last_error", "incomplete_details", "usage", "refusal",
    ]
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field_names, inner, max_size=4), max_leaves=6
)
event_names = st.sampled_from([*assistants.HANDLERS, "done", "", "odd", "thread.run.odd"])
objects = st.sampled_from([*assistants.OBJECT_HANDLERS, "odd", 5, []])


def exchanged(draw: st.DrawFn, payload: Any, values: st.SearchStrategy[Any], most: int) -> Any:
    """A copy of a payload with up to so many of its values exchanged, at any depth."""
    payload = json.loads(json.dumps(payload))
    for _ in range(draw(st.integers(1, most))):
        place: Any = payload
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.booleans()):
                break
            place = place[key]
        place[key] = draw(values)
    return payload


@st.composite
def mangled(draw: st.DrawFn) -> Event:
    """A sound event with some of its values exchanged, at any depth."""
    name, payload = draw(st.sampled_from([*said(), *asked(), *answered()]))
    if not isinstance(payload, dict):
        return name, payload
    return draw(st.just(name) | event_names), exchanged(draw, payload, values, 2)


@st.composite
def made_up(draw: st.DrawFn) -> Event:
    fields = draw(st.dictionaries(field_names, values, max_size=5))
    return draw(event_names), {"id": draw(ids), "object": draw(objects), **fields}


def deep(depth: int) -> Event:
    """A delta as deep as this, twice over; its text is made by hand, since Python's own encoder would give up."""
    nested = '{"content":[{"index":0,"x":' * depth + '"x"' + "}]}" * depth
    return "thread.message.delta", '{"id":"msg_1","delta":' + nested + "}"


garbage = (
    mangled()
    | made_up()
    | st.sampled_from([*said(), *asked(), *answered(), *said(id="run_2"), *said(created_at=BORN + 50)])
    | st.sampled_from(
        [deep(20), ("thread.message.delta", '{"id": "msg_1", "delta": {"content": [' + "[" * 900 + "]" * 900 + "]}}")]
    )
    | st.tuples(event_names, values)
    | st.tuples(event_names, st.text(max_size=20))
    | st.tuples(
        st.sampled_from(["$tail", "$block", "$piece", "$comment", "$gap"]), st.sampled_from(["", "{}", "data: {}\n", "x"])
    )
)
requests = st.sampled_from([Request(), THREADS, submitting(), submitting(None), submitting(run_id="run_2")])


def fed(fold: StreamFold, given: list[Frame], first: int = 0) -> StreamFold:
    for position, frame in enumerate(given, first):
        fold.feed(position, position * 10, frame.type, frame.data)
    return fold


def as_text(fold: StreamFold) -> dict[str, str]:
    return {key: jsontext.dumps(state) for key, state in fold.states().items()}


@given(requests, st.lists(garbage, max_size=12))
@settings(max_examples=200)
def test_no_events_whatever_they_hold_stop_the_fold(request: Request, events: list[Event]) -> None:
    fold = fed(StreamFold(request), frames(events))
    states = fold.states()
    for key in states:
        if key != STREAM:
            merge(key, [contribution(fold, key)])
    for state in as_text(fold).values():
        state.encode()
        assert "\0" not in state


ID_REUSED_THEN_DELTA: list[Event] = [
    *said()[:3],
    ("thread.run.created", run(created_at=BORN + 50)),
    ("thread.run.created", run(id="run_2")),
    step_delta({"index": 0}, id="step_of_run_1"),
]
ONE_ID_FOR_STEP_AND_MESSAGE: list[Event] = [
    ("thread.message.created", message(id="x", run_id="run_2")),
    ("thread.run.step.created", step(id="x", run_id="run_1")),
    ("thread.message.delta", {"id": "x", "delta": {"content": [{"index": 0}]}}),
    ("thread.message.created", message(id="x", run_id="run_2")),
    ("thread.run.step.delta", {"id": "x", "delta": {}}),
]


@given(requests, st.lists(garbage, max_size=10), st.integers(0, 10))
@example(THREADS, ID_REUSED_THEN_DELTA, 5)
@example(THREADS, ONE_ID_FOR_STEP_AND_MESSAGE, 2)
@example(THREADS, ONE_ID_FOR_STEP_AND_MESSAGE, 4)
@settings(max_examples=200)
def test_a_fold_that_goes_on_from_its_saved_states_has_the_same_states(request: Request, events: list[Event], at: int) -> None:
    given = frames(events)
    straight = fed(StreamFold(request), given)
    saved = as_text(fed(StreamFold(request), given[:at]))
    resumed = StreamFold(request, {key: jsontext.loads(state) for key, state in saved.items()})
    assert as_text(fed(resumed, given[at:], at)) == as_text(straight)


@pytest.mark.parametrize("depth", [50, 100, 200, 300, 450, 480])
def test_deep_nesting_never_stops_the_fold_nor_what_comes_after_it(depth: int) -> None:
    fold = folded([at("in_progress"), ("x", message()), deep(depth), at("completed")])
    assert fold.states()["run_1"]["object"]["status"] == "completed"
    as_text(fold)
