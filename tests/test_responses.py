"""The fold of the Responses stream: each rule, and that its streams may come cut, resumed, doubled and in any order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder import jsontext
from recorder.protocols import Request, protocol_for, protocol_of_event, responses
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import Contribution, RunView
from recorder.sse import Frame
from recorder.vocabulary import STEP_TERMINAL
from tests import writing
from tests.responding import (
    RESPONSES,
    USAGE,
    answering,
    call_events,
    call_item,
    called,
    getting,
    message_events,
    message_item,
    numbered,
    replied,
    response,
    text_part,
    typed,
    whole,
)
from tests.test_assistants import as_text, exchanged, fed, values
from tests.writing import BORN, Event, contribution, data, frames, kinds

Object = dict[str, Any]


def folded(events: Sequence[Event], request: Request = RESPONSES, outcome: str | None = "eof") -> StreamFold:
    return writing.folded(events, request, outcome)


def viewed(events: Sequence[Event], key: str = "resp_1", request: Request = RESPONSES, outcome: str | None = "eof") -> RunView:
    return writing.viewed(events, key, request, outcome)


def texts(view: RunView) -> list[str]:
    """The texts of a view's messages."""
    return [part["text"]["value"] for message in view.messages for part in message.object["content"]]


def begun(*items: Object, **fields: Any) -> list[Event]:
    """The start of a response, and these items added to it."""
    added = [{"type": "response.output_item.added", "output_index": index, "item": item} for index, item in enumerate(items)]
    return typed(whole("created", response(**fields)), *added)


def ended(*items: Object, status: str = "completed", **fields: Any) -> list[Event]:
    return typed(whole(status, response(status, output=items, **fields)))


def body(value: Any, request: Request, status: int = 200, content_type: str = "application/json") -> StreamFold:
    """The fold of a response that is no stream."""
    fold = StreamFold(request)
    fold.feed(0, 0, "$response", json.dumps({"status": status, "headers": [["Content-Type", content_type]]}))
    fold.feed(1, 10, "$body", value if isinstance(value, str) else json.dumps(value))
    fold.feed(2, 20, "$end", '{"outcome": "done"}')
    return fold


# Which streams are of this protocol


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"),
        ("POST", "/responses"),
        ("POST", "/openai/v1/responses"),
        ("POST", "/openai/responses"),
        ("POST", "/openai/deployments/gpt-5/responses"),
        ("POST", "/api/projects/p/openai/v1/responses"),
        ("POST", "/api/v1/responses"),
        ("POST", "/v1/acct/gateway/openai/responses/"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("DELETE", "/v1/responses/resp_1"),
    ],
)
def test_a_request_to_responses_is_of_this_protocol_under_any_prefix(method: str, path: str) -> None:
    assert protocol_for(Request(method=method, path=path)) is responses
    assert protocol_for(Request(method=method, path=path, body={"model": "m", "input": "Hi"})) is responses


@pytest.mark.parametrize(
    "request_",
    [
        Request(method="GET", path="/v1/responses"),
        Request(method="GET", host="forms.example.org", path="/v1/forms/f1/responses"),
        Request(method="GET", host="forms.example.org", path="/v1/forms/f1/responses/r1"),
        Request(method="POST", host="survey.example.org", path="/surveys/1/responses", body={"answers": [1, 2]}),
        Request(method="GET", path="/v1/responses/resp_1/input_items"),
        Request(method="POST", path="/v1/responses/input_tokens", body={"model": "m", "input": "Hi"}),
        Request(method="POST", path="/v1/responses/compact", body={"model": "m"}),
        Request(method="POST", path="/v1/chat/completions", body={"model": "m"}),
        Request(method="POST", path="/v1/threads/runs"),
        Request(),
    ],
)
def test_any_other_request_is_not(request_: Request) -> None:
    assert protocol_for(request_) is not responses


@pytest.mark.parametrize(
    ("type", "payload", "is_one"),
    [
        ("response.created", "{", True),
        ("", {"type": "response.created", "response": {}}, True),
        ("", {"response": {"id": "x"}, "sequence_number": 0, "type": "response.created"}, True),
        ("", {"type": "other", "text": "a response.created"}, False),
        ("", {"type": "other", "text": '"response.created'}, False),
        ("thread.run.created", {"type": "response.created"}, False),
        ("", '"response.created', False),
        ("message", {"type": "response.created"}, False),
    ],
)
def test_an_event_alone_can_tell(type: str, payload: Any, is_one: bool) -> None:
    assert (protocol_of_event(type, data(payload)) is responses) == is_one


def test_a_stream_whose_request_is_unknown_is_told_by_its_events() -> None:
    assert viewed(replied(), request=Request()) == viewed(replied())


def test_what_is_no_response_gives_no_run_whatever_its_path() -> None:
    fold = folded([("", {"answers": [1]}), ("update", {"id": "x"}), ("", "ping"), ("", "[DONE]")])
    assert {key for key in fold.states() if key} == set()


# Rule 1


def test_the_type_in_the_payload_counts_and_the_events_name_only_without_it() -> None:
    plain = viewed(replied())
    nameless = [("", payload) for _, payload in replied()]
    misnamed = [("message", payload) for _, payload in replied()]
    typeless = [(name, {key: value for key, value in payload.items() if key != "type"}) for name, payload in replied()]
    for events in (nameless, misnamed, typeless):
        assert viewed(events) == plain


# Rule 2


def test_items_are_located_by_output_index_whatever_their_ids() -> None:
    drifting = [
        (name, json.loads(data(payload).replace("msg_of_resp_1", f"msg_{number}")) if number < 8 else payload)
        for number, (name, payload) in enumerate(replied())
    ]
    for cut in range(3, len(drifting) + 1):
        found, wanted = viewed(drifting[:cut]), viewed(replied()[:cut])
        assert texts(found) == texts(wanted)
        assert kinds(found) == []


def test_two_items_may_grow_at_once() -> None:
    pairs = zip(call_events("abcd", 0), call_events("efgh", 1, "call_2", "fc_2"), strict=True)
    both = [event for pair in pairs for event in pair]
    view = viewed(numbered([*begun(), *both[:-2]]))
    calls = [step.object["step_details"]["tool_calls"][0] for step in view.steps]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [("call_1", "abcd"), ("call_2", "efgh")]


def test_indices_may_have_gaps_and_come_in_any_order() -> None:
    events = [*begun(), *message_events("second", 7, "msg_b"), *message_events("first", 3, "msg_a")]
    view = viewed(numbered(events))
    assert texts(view) == ["first", "second"]
    assert [step.object["position"] for step in view.steps] == [3, 7]


def test_an_event_without_output_index_is_of_the_item_with_its_id_else_of_the_latest() -> None:
    events = [*begun(message_item(id="msg_a"), message_item(id="msg_b"))]
    for item_id, delta in (("msg_a", "a"), ("msg_b", "b"), (None, "c")):
        events += typed({"type": "response.output_text.delta", "item_id": item_id, "content_index": 0, "delta": delta})
    assert texts(viewed(events)) == ["a", "bc"]


@pytest.mark.parametrize("item", [None, {}, {"type": None}])
def test_an_item_may_be_added_as_nothing(item: Any) -> None:
    events = [*begun(), *typed({"type": "response.output_item.added", "output_index": 0, "item": item})]
    events += message_events("Hello")[1:]
    view = viewed(numbered(events))
    assert texts(view) == ["Hello"]
    assert kinds(view) == []


def test_an_item_that_is_added_again_or_becomes_another_is_flagged() -> None:
    events = begun(message_item())
    again = typed({"type": "response.output_item.added", "output_index": 0, "item": call_item()})
    assert kinds(viewed([*events, *again])) == ["item_again", "item_changed"]
    done = typed({"type": "response.output_item.done", "output_index": 0, "item": call_item()})
    assert kinds(viewed([*events, *done])) == ["item_changed"]


# Rule 3


def test_each_event_of_a_text_leaves_what_stood_there_until_then() -> None:
    events = replied("Hello there")
    seen = [texts(viewed(events[:count])) for count in range(1, len(events) + 1)]
    assert seen == [[], [], [], [""], ["Hell"], ["Hello th"], *[["Hello there"]] * 5]


@pytest.mark.parametrize("output", [[], None])
def test_items_stay_where_the_final_response_has_none(output: Any) -> None:
    events = [*begun(), *message_events("Kept"), *typed(whole("completed", {**response("completed"), "output": output}))]
    view = viewed(numbered(events))
    assert texts(view) == ["Kept"]
    assert (view.state, view.messages[0].object["status"]) == ("ended", "completed")
    assert view.source_object is not None
    assert view.source_object["output"] == output


def test_a_final_response_without_output_at_all_keeps_them_too() -> None:
    final = {key: value for key, value in response("completed").items() if key != "output"}
    assert texts(viewed([*begun(), *message_events("Kept"), *typed(whole("completed", final))])) == ["Kept"]


def test_the_final_response_replaces_what_was_streamed() -> None:
    final = message_item("What it says in the end", "msg_9")
    view = viewed(numbered([*begun(), *message_events("What was streamed"), *ended(final)]))
    assert texts(view) == ["What it says in the end"]
    assert [step.id for step in view.steps] == ["msg_9"]
    assert kinds(view) == ["delta_mismatch"]


def test_an_item_of_which_the_final_response_knows_nothing_is_flagged() -> None:
    events = [
        *begun(),
        *message_events("one", 0, "msg_a"),
        *message_events("two", 1, "msg_b"),
        *ended(message_item("one", "msg_a")),
    ]
    assert kinds(viewed(numbered(events))) == ["index_gap"]


@pytest.mark.parametrize("name", ["completed", "failed", "incomplete", "cancelled", "done"])
def test_each_final_event_ends_the_response(name: str) -> None:
    status = "completed" if name == "done" else name
    view = viewed([*begun(), *typed(whole(name, response(status)))])
    assert (view.state, view.object["status"]) == ("ended", status)
    silent = {key: value for key, value in response().items() if key != "status"}
    assert viewed([*begun(), *typed(whole(name, silent))]).object["status"] == status


def test_a_final_event_ends_the_response_though_its_payload_says_otherwise() -> None:
    assert viewed([*begun(), *typed(whole("completed", response("in_progress")))]).object["status"] == "completed"
    assert viewed([*begun(), *typed(whole("completed", response("incomplete")))]).object["status"] == "incomplete"


@pytest.mark.parametrize(
    ("said", "status", "anomalies"),
    [
        ({"status": "canceled"}, "cancelled", []),
        ({"status": "error"}, "failed", []),
        ({"error": {"code": "server_error", "message": "sorry"}}, "failed", []),
        ({"status": "completed", "error": None}, "completed", []),
        ({"status": "paused"}, "paused", ["unknown_status"]),
    ],
)
def test_the_status_of_a_response_that_came_whole_in_whatever_words(said: Any, status: str, anomalies: list[str]) -> None:
    whole = {"id": "resp_1", "object": "response", "output": [], **said}
    fold = body(whole, RESPONSES)
    fold.feed(fold.position + 1, 0, "$end", '{"outcome":"done"}')
    view = merge("resp_1", [contribution(fold, "resp_1")])
    assert (view.object["status"], kinds(view)) == (status, anomalies)
    assert (view.failure is not None) == (status != "completed")


def test_what_comes_after_the_end_is_flagged_and_changes_nothing() -> None:
    late = typed({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "!"})
    view = viewed(
        [*replied(), *late, *typed({"type": "response.output_item.done", "output_index": 0, "item": message_item("x")})]
    )
    assert texts(view) == ["Hello there"]
    assert kinds(view) == ["delta_after_end", "delta_after_end"]


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(["queued", "in_progress", "completed", "failed"], 2)))
def test_a_transition_that_the_api_does_not_know_is_applied_and_flagged(before: str, after: str) -> None:
    view = viewed(typed(whole("created", response(before)), whole("x", response(after))))
    assert view.object["status"] == after
    known = after in responses.TRANSITIONS[before]
    assert kinds(view) == (
        []
        if known
        else ["resurrected" if before in responses.TERMINAL and after not in responses.TERMINAL else "illegal_transition"]
    )


# Rule 4


def run_of(view: RunView) -> Any:
    """What a view says of the run itself, not of its streams."""
    return view.key, view.object, view.state, view.status, view.steps, view.messages, view.source_object, view.calls


def stream_part(events: Sequence[Event], number: int, request: Request = RESPONSES, outcome: str | None = "cut") -> Contribution:
    return contribution(folded(events, request, outcome), "resp_1", number, started=number)


LONG: list[Event] = numbered(
    [
        *typed(whole("created", response("queued")), whole("queued", response("queued")), whole("in_progress", response())),
        *message_events("It was a dark and stormy night.", pieces=8),
        *call_events('{"city": "Oslo"}', 1),
        *ended(message_item("It was a dark and stormy night."), call_item('{"city": "Oslo"}')),
    ]
)


@pytest.mark.parametrize("end", range(1, len(LONG) + 1))
def test_a_response_over_two_connections_is_what_one_connection_would_have_shown(end: int) -> None:
    wanted = run_of(merge("resp_1", [stream_part(LONG[:end], 0)]))
    for cut in range(1, end):
        for start in range(max(1, cut - 2), cut + 1):
            parts = [stream_part(LONG[:cut], 0), stream_part(LONG[start:end], 1, getting(after=start - 1))]
            view = merge("resp_1", parts)
            assert run_of(view) == wanted, f"cut before {cut}, resumed at {start}"
            assert kinds(view) == []


@given(st.data())
@settings(max_examples=300)
def test_streams_of_one_response_may_overlap_double_and_come_in_any_order(data: st.DataObject) -> None:
    end = data.draw(st.integers(1, len(LONG)))
    cuts = sorted(data.draw(st.lists(st.integers(1, end), max_size=4)))
    parts = []
    first = 0
    for number, cut in enumerate(sorted({*cuts, end})):
        start = data.draw(st.integers(max(0, first - 3), first))
        request = getting(after=start - 1) if start else RESPONSES
        parts.append(stream_part(LONG[start:cut], number, request))
        first = cut
    parts += [part._replace(source=part.source._replace(stream_id=writing.stream_id(50))) for part in parts[:1]]
    view = merge("resp_1", data.draw(st.permutations(parts)))
    assert run_of(view) == run_of(merge("resp_1", [stream_part(LONG[:end], 0)]))
    assert kinds(view) == []


def test_numbers_that_no_stream_has_are_flagged_and_the_final_response_repairs() -> None:
    parts = [stream_part(LONG[:6], 0), stream_part(LONG[9:], 1, getting(after=5))]
    view = merge("resp_1", parts)
    assert [(kind, detail) for _, _, kind, detail in view.anomalies] == [("sequence_gap", "sequence numbers 6 to 8 are missing")]
    assert view.anomalies[0][:2] == (parts[1].source.stream_id, 0)
    assert texts(view) == ["It was a dark and stormy night."]


def test_a_gap_that_another_stream_fills_is_none() -> None:
    gappy = LONG[:6] + LONG[9:]
    assert kinds(merge("resp_1", [stream_part(gappy, 0)])) == ["sequence_gap"]
    assert kinds(merge("resp_1", [stream_part(gappy, 0), stream_part(LONG[4:11], 1, getting(after=3))])) == []


@pytest.mark.parametrize(("first", "is_gap"), [(0, False), (1, False), (2, True), (5, True)])
def test_a_stream_that_does_not_begin_at_its_beginning_has_a_gap(first: int, is_gap: bool) -> None:
    later = numbered([(name, payload) for name, payload in replied()], first)
    assert (kinds(viewed(later)) == ["sequence_gap"]) == is_gap


def test_a_stream_resumed_alone_has_no_gap_and_no_delta_without_object() -> None:
    view = viewed(LONG[7:12], request=getting(after=6))
    assert kinds(view) == []
    assert texts(view) == ["stormy night."[-len(texts(view)[0]) :]] or texts(view)[0] in "It was a dark and stormy night."


def test_events_that_come_twice_in_one_stream_count_once() -> None:
    for start in range(len(LONG)):
        for end in range(start + 1, min(start + 6, len(LONG))):
            doubled = LONG[:end] + LONG[start:]
            view = viewed(doubled)
            assert run_of(view) == run_of(viewed(LONG)), f"{start} to {end} twice"
            assert kinds(view) == []
            assert run_of(viewed(doubled[:-1])) == run_of(viewed(LONG[:-1])), f"{start} to {end} twice, unfinished"


@pytest.mark.parametrize("number", [0, 7])
def test_a_server_that_gives_every_event_the_same_number_loses_nothing(number: int) -> None:
    events = [(name, {**payload, "sequence_number": number}) for name, payload in LONG]
    for end in range(1, len(LONG) + 1):
        assert texts(viewed(events[:end])) == texts(viewed(LONG[:end]))
    assert "sequence_invalid" in kinds(viewed(events[:12]))


@pytest.mark.parametrize("number", [None, "3", -1, 1.5, True, [], 10**30])
def test_a_sequence_number_that_is_none_is_none(number: Any) -> None:
    events = [(name, {**payload, "sequence_number": number}) for name, payload in LONG]
    assert run_of(viewed(events)) == run_of(viewed(LONG))


def test_without_numbers_the_longest_text_wins_and_none_is_joined() -> None:
    plain = [(name, {key: value for key, value in payload.items() if key != "sequence_number"}) for name, payload in LONG]
    parts = [stream_part(plain[:9], 0), stream_part(plain[:7], 1)]
    for order in itertools.permutations(parts):
        assert texts(merge("resp_1", order)) == texts(viewed(plain[:9]))


def test_a_keepalive_takes_a_number_and_says_nothing() -> None:
    events = [*LONG[:4], ("keepalive", {"type": "keepalive"}), *LONG[4:]]
    assert kinds(viewed(numbered(events))) == []
    assert run_of(viewed(numbered(events))) == run_of(viewed(LONG))


def test_obfuscation_is_never_kept() -> None:
    events = [(name, {**payload, "obfuscation": "zqxzqx"} if "delta" in payload else payload) for name, payload in LONG[:-1]]
    assert "zqxzqx" not in jsontext.dumps(folded(events).states())


def test_pictures_in_the_making_are_not_kept() -> None:
    item = {"id": "ig_1", "type": "image_generation_call", "status": "in_progress", "result": None}
    partial = {"type": "response.image_generation_call.partial_image", "output_index": 0, "partial_image_index": 1}
    events = [*begun(item), *typed({**partial, "partial_image_b64": "iVBORw" * 99})]
    assert "iVBORw" not in jsontext.dumps(folded(events).states())
    (call,) = viewed(events).steps[0].object["step_details"]["tool_calls"]
    assert call["image_generation"] == {"result": None, "partial_images": 2}


def test_a_picture_that_is_done_is_referred_to_where_it_stands() -> None:
    item = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="}
    done = typed({"type": "response.output_item.done", "output_index": 0, "item": item})
    at_first, at_last = viewed([*begun(), *done]), viewed([*begun(), *done, *ended(item)])
    for view, where in ((at_first, {"position": 1}), (at_last, {"pointer": "/source_object/output/0"})):
        (call,) = view.steps[0].object["step_details"]["tool_calls"]
        assert call["image_generation"]["result"] == {"base64_bytes": 12, **where}
    assert at_last.source_object is not None
    assert at_last.source_object["output"][0]["result"] == "iVBORw0KGgo="


# Rule 5


def test_a_response_without_an_id_is_named_after_its_stream() -> None:
    events = [
        (name, {**payload, "response": {**payload["response"], "id": None}} if "response" in payload else payload)
        for name, payload in replied()
    ]
    request = RESPONSES._replace(stream_id="0198")
    for end in range(1, len(events) + 1):
        (key,) = (key for key in folded(events[:end], request).states() if key)
        assert key == "response_0198"


def test_a_response_whose_head_was_lost_is_found_when_its_id_comes() -> None:
    request = RESPONSES._replace(stream_id="0198")
    fold = folded(replied()[2:-1], request)
    assert {key for key in fold.states() if key} == {"response_0198"}
    fold = folded(replied()[2:], request)
    assert {key for key in fold.states() if key} == {"resp_1"}
    assert run_of(merge("resp_1", [contribution(fold, "resp_1")])) == run_of(viewed(replied()))


def test_a_stream_may_have_several_responses() -> None:
    events = [event for id in ("resp_1", "resp_2", "resp_3") for event in replied(f"I am {id}", id)]
    for id in ("resp_1", "resp_2", "resp_3"):
        view = viewed(events, id)
        assert texts(view) == [f"I am {id}"]
        assert kinds(view) == []


def test_an_id_that_changes_in_the_middle_is_one_response_under_the_later() -> None:
    events = [*replied("Drift")[:-1], *numbered(ended(message_item("Drift"), id="resp_2"), len(replied("Drift")) - 1)]
    fold = folded(events)
    assert {key for key in fold.states() if key} == {"resp_2"}
    view = merge("resp_2", [contribution(fold, "resp_2")])
    assert (texts(view), view.state, kinds(view)) == (["Drift"], "ended", ["id_changed"])


def test_an_id_that_comes_back_with_another_created_at_is_another_response() -> None:
    events = [*replied("first"), *numbered([(name, payload) for name, payload in replied("second", created_at=BORN + 50)])]
    view = viewed(events)
    assert (texts(view), view.object["created_at"], kinds(view)) == (["second"], BORN + 50, ["id_reused"])


@pytest.mark.parametrize("created_at", [BORN + 0.25, float(BORN)])
def test_created_at_may_be_a_float_and_is_shown_in_whole_seconds(created_at: float) -> None:
    view = viewed(replied(created_at=created_at))
    assert view.object["created_at"] == BORN
    assert type(view.object["created_at"]) is int
    assert view.source_object is not None
    assert view.source_object["created_at"] == created_at


# Rule 6


@pytest.mark.parametrize("number", range(4, 7))
@pytest.mark.parametrize("with_numbers", [True, False])
def test_deltas_that_differ_from_the_final_text_are_flagged(number: int, with_numbers: bool) -> None:
    events = replied("Hello there")
    name, payload = events[number]
    changed = [*events[:number], (name, {**payload, "delta": "other"}), *events[number + 1 :]]
    if not with_numbers:
        changed = [
            (name, {key: value for key, value in payload.items() if key != "sequence_number"}) for name, payload in changed
        ]
    view = viewed(changed)
    assert kinds(view) == ["delta_mismatch"]
    assert texts(view) == ["Hello there"]


@pytest.mark.parametrize("without", ["response.output_text.done", "response.content_part.done", "response.output_item.done"])
def test_a_difference_is_found_by_whatever_event_ends_the_text(without: str) -> None:
    events = replied("Hello there")
    events[4] = (events[4][0], {**events[4][1], "delta": "other"})
    left = [event for event in events if event[0] not in (without, "response.output_text.done")]
    assert kinds(viewed(numbered(left))) == ["delta_mismatch"]


def test_deltas_of_which_some_were_lost_are_not_compared() -> None:
    events = replied("Hello there")
    assert kinds(viewed(events[:4] + events[5:])) == ["sequence_gap"]
    assert kinds(viewed(events[5:], request=getting(after=4))) == []


def test_arguments_and_code_are_compared_too() -> None:
    events = [*begun(), *call_events("{}"), *ended(call_item('{"other": 1}'))]
    assert kinds(viewed(numbered(events))) == ["delta_mismatch"]
    item = {"id": "ci_1", "type": "code_interpreter_call", "status": "in_progress", "code": ""}
    code = typed(
        {"type": "response.code_interpreter_call_code.delta", "output_index": 0, "delta": "1"},
        {"type": "response.code_interpreter_call_code.done", "output_index": 0, "code": "2"},
    )
    assert kinds(viewed([*begun(item), *code])) == ["delta_mismatch"]


def test_a_text_that_its_part_began_with_is_extended() -> None:
    part = {"type": "response.content_part.added", "output_index": 0, "content_index": 0, "part": text_part("Once ")}
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "upon"}
    for events in ([*begun(message_item()), *typed(part, delta)], numbered([*begun(message_item()), *typed(part, delta)])):
        assert texts(viewed(events)) == ["Once upon"]


def test_a_delta_before_its_item_makes_one_and_is_flagged() -> None:
    view = viewed([*begun(), *message_events("Hello")[2:4]])
    assert texts(view) == ["Hell"]
    assert kinds(view) == ["delta_without_object"]


# Errors

ERROR = {"code": "server_error", "type": None, "message": "It broke.", "param": None}


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("error", {"type": "error", "code": "server_error", "message": "It broke.", "param": None, "sequence_number": 3}),
        ("error", {"type": "error", "sequence_number": 3, "error": {"code": "server_error", "message": "It broke."}}),
        ("error", {"code": "server_error", "message": "It broke."}),
        ("", {"error": {"code": "server_error", "message": "It broke."}}),
        ("", {"type": "error", "error": {"code": "server_error", "message": "It broke."}}),
        ("response.error", {"type": "response.error", "error": {"code": "server_error", "message": "It broke."}}),
    ],
)
def test_an_error_is_kept_in_each_of_its_shapes(name: str, payload: Object) -> None:
    fold = folded([*replied()[:3], (name, payload)])
    assert fold.error == ERROR
    view = merge("resp_1", [contribution(fold, "resp_1")])
    assert view.error == {**ERROR, "position": 3}
    assert (view.state, view.object["status"]) == ("unknown", "in_progress")


def test_an_error_as_a_text_is_its_message() -> None:
    assert folded([("", {"error": "It broke."})]).error == {**ERROR, "code": None}


def test_an_error_before_any_response_makes_no_run() -> None:
    fold = folded([("error", {"type": "error", "code": "server_error", "message": "It broke."})])
    assert fold.error == ERROR
    assert {key for key in fold.states() if key} == set()


def test_a_failed_response_has_its_error_as_last_error() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Slow down."}
    view = viewed([*begun(), *ended(status="failed", error=error)])
    assert (view.object["status"], view.object["last_error"], view.state) == ("failed", error, "ended")


# The response as a run


def test_the_run_has_what_the_response_says_and_null_for_what_it_does_not() -> None:
    said = {
        "conversation": {"id": "conv_1"},
        "prompt": {"id": "pmpt_1", "version": "2"},
        "instructions": [{"role": "developer", "content": "Be brief."}],
        "max_output_tokens": 99,
        "background": True,
        "service_tier": "default",
        "prompt_cache_key": "k",
    }
    view = viewed(replied(**said))
    run = view.object
    wanted = {
        "id": "resp_1",
        "object": "thread.run",
        "created_at": BORN,
        "thread_id": "conv_1",
        "assistant_id": "pmpt_1",
        "status": "completed",
        "required_action": None,
        "last_error": None,
        "completed_at": BORN + 9,
        "model": "gpt-5",
        "instructions": '[{"role":"developer","content":"Be brief."}]',
        "max_completion_tokens": 99,
        "truncation_strategy": {"type": "disabled"},
        "response_format": {"type": "text"},
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    assert {key: run[key] for key in wanted} == wanted
    for unknown in ("started_at", "expires_at", "failed_at", "cancelled_at", "max_prompt_tokens", "incomplete_details"):
        assert run[unknown] is None
    assert run["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": USAGE["input_tokens_details"],
        "completion_tokens_details": USAGE["output_tokens_details"],
    }
    assert {key: run["extras"][key] for key in ("background", "service_tier", "prompt_cache_key", "store")} == {
        "background": True,
        "service_tier": "default",
        "prompt_cache_key": "k",
        "store": True,
    }
    assert view.source_object == response("completed", output=[message_item("Hello there", "msg_of_resp_1")], **said)


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (None, None),
        ("x", None),
        ({}, {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}),
        ({"input_tokens": 3}, {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": None}),
    ],
)
def test_usage_that_is_not_said_is_null_and_not_nought(usage: Any, found: Any) -> None:
    assert viewed(replied(usage=usage)).object["usage"] == found


@pytest.mark.parametrize(
    ("said", "reason", "of_message"),
    [
        ("max_output_tokens", "max_completion_tokens", {"reason": "max_tokens"}),
        ("content_filter", "content_filter", {"reason": "content_filter"}),
        ("something_new", "something_new", None),
    ],
)
def test_the_reason_of_an_incomplete_response(said: str, reason: str, of_message: Any) -> None:
    half = message_item("Half", status="incomplete")
    view = viewed([*begun(), *ended(half, status="incomplete", incomplete_details={"reason": said})])
    assert view.object["incomplete_details"] == {"reason": reason}
    assert view.messages[0].object["incomplete_details"] == of_message
    assert (view.steps[0].object["status"], view.state) == ("incomplete", "ended")


STATUSES = [
    ("in_progress", "in_progress"),
    ("searching", "in_progress"),
    ("interpreting", "in_progress"),
    ("generating", "in_progress"),
    ("calling", "in_progress"),
    ("completed", "completed"),
    ("failed", "failed"),
    ("incomplete", "incomplete"),
    (None, "completed"),
]


@pytest.mark.parametrize(("said", "status"), STATUSES)
@pytest.mark.parametrize("final", ["completed", "failed", "incomplete", "cancelled"])
def test_the_status_of_a_step_is_its_items_or_derived_where_its_response_ended(said: str | None, status: str, final: str) -> None:
    item = {"id": "ws_1", "type": "web_search_call", "status": said}
    (step,) = viewed([*begun(), *ended(item, status=final)]).steps
    assert step.object["status"] == status
    assert step.derived_status == (final if status == "in_progress" else None)
    (step,) = viewed([*begun(), *typed({"type": "response.output_item.done", "output_index": 0, "item": item})]).steps
    assert (step.object["status"], step.derived_status) == (status, None)


def test_a_step_has_its_items_id_or_its_place_where_that_is_none_or_taken() -> None:
    items = [message_item("a", "msg_a"), message_item("b", "msg_a"), {**message_item("c"), "id": None}]
    view = viewed([*begun(), *ended(*items)])
    assert [step.id for step in view.steps] == ["msg_a", "resp_1:1", "resp_1:2"]
    assert [message.id for message in view.messages] == ["msg_a", "resp_1:1", "resp_1:2"]


def test_an_unknown_item_is_a_step_of_type_other_with_all_that_it_says() -> None:
    item = {"id": "x_1", "type": "telepathy", "status": "completed", "thought": {"deep": True}}
    (step,) = viewed([*begun(), *ended(item)]).steps
    assert (step.object["type"], step.object["step_details"]) == ("other", {"type": "other", "other": item})


# Calls that the client answers

SHELL = {"type": "shell_call", "call_id": "call_1", "action": {"commands": ["ls"]}}
PENDING: list[tuple[Object, Object | None]] = [
    (call_item("{}"), {"type": "function_call_output", "call_id": "call_1", "output": "rain"}),
    (
        {"type": "custom_tool_call", "call_id": "call_1", "name": "sql", "input": "SELECT 1"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "rain"},
    ),
    (
        {"type": "computer_call", "call_id": "call_1", "action": {"type": "screenshot"}},
        {"type": "computer_call_output", "call_id": "call_1", "output": {"type": "computer_screenshot"}},
    ),
    (
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "action": {}},
        {"type": "local_shell_call_output", "id": "call_1", "output": "a b"},
    ),
    (
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "action": {}},
        {"type": "local_shell_call_output", "id": "lsh_1", "output": "a b"},
    ),
    ({**SHELL, "environment": {"type": "local"}}, {"type": "shell_call_output", "call_id": "call_1", "output": []}),
    ({**SHELL, "environment": None}, {"type": "shell_call_output", "call_id": "call_1", "output": []}),
    (
        {"type": "apply_patch_call", "call_id": "call_1", "operation": {"type": "delete_file", "path": "a"}},
        {"type": "apply_patch_call_output", "call_id": "call_1", "status": "completed", "output": "done"},
    ),
    (
        {"type": "mcp_approval_request", "id": "call_1", "server_label": "s", "name": "n", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "call_1", "approve": False},
    ),
    (
        {"type": "tool_search_call", "call_id": "call_1", "execution": "client", "arguments": {}},
        {"type": "tool_search_output", "call_id": "call_1", "execution": "client", "tools": []},
    ),
    ({**SHELL, "environment": {"type": "container_reference", "container_id": "c"}}, None),
    ({"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}}, None),
    ({"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "n", "arguments": "{}", "output": None}, None),
    ({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}}, None),
    ({"type": "program", "call_id": "call_1", "code": "1"}, None),
]


@pytest.mark.parametrize(("item", "output"), PENDING, ids=lambda item: str(item and item["type"]))
def test_a_completed_response_waits_for_the_calls_that_are_the_clients(item: Object, output: Object | None) -> None:
    events = [*begun(), *ended(item)]
    view = viewed(events)
    assert view.object["status"] == "completed"
    if output is None:
        assert (view.state, view.status, view.object["required_action"]) == ("ended", "completed", None)
        return
    kind = "submit_tool_approval" if item["type"] == "mcp_approval_request" else "submit_tool_outputs"
    action = view.object["required_action"]
    assert (view.state, view.status, action["type"]) == ("waiting", "requires_action", kind)
    (call,) = action[kind]["tool_calls"]
    assert call["id"] in ("call_1", "lsh_1")
    assert "output" not in call.get(call["type"], {})
    repeated = responses.repeats(Request(body={"input": [{"role": "user", "content": "Hi"}, output]}))
    given = {answer.id: answer.output for answer in repeated.answers}
    answered = merge("resp_1", [contribution(folded(events), "resp_1")], given)
    assert (answered.state, answered.status, answered.object["required_action"]) == ("ended", "completed", None)
    assert set(given) <= {*view.calls}


def test_a_call_shows_the_output_that_a_later_request_gave() -> None:
    view = merge("resp_1", [contribution(folded(called()), "resp_1")], {"call_1": "rain"})
    (call,) = view.steps[0].object["step_details"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}', "output": "rain"}


def test_an_output_of_several_parts_is_shown_as_its_json() -> None:
    view = merge("resp_1", [contribution(folded(called()), "resp_1")], {"call_1": [{"type": "input_text", "text": "rain"}]})
    (call,) = view.steps[0].object["step_details"]["tool_calls"]
    assert call["function"]["output"] == '[{"type":"input_text","text":"rain"}]'


def test_an_approval_is_shown_on_the_call_that_asked_for_it() -> None:
    item = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "n", "arguments": "{}"}
    fold = folded([*begun(), *ended(item)])
    (step,) = merge("resp_1", [contribution(fold, "resp_1")]).steps
    assert (step.object["status"], step.derived_status) == ("in_progress", None)
    (step,) = merge("resp_1", [contribution(fold, "resp_1")], {"mcpr_1": {"approve": True, "reason": None}}).steps
    assert step.object["step_details"]["tool_calls"][0]["approve"] is True
    assert step.object["status"] == "completed"


def test_only_what_is_completed_waits() -> None:
    half = call_item('{"ci', status="incomplete")
    view = viewed([*begun(), *ended(half, status="incomplete")])
    assert (view.state, view.status, view.object["required_action"]) == ("ended", "incomplete", None)
    assert viewed(called()[:-1]).status == "in_progress"


@pytest.mark.parametrize(
    ("input", "answers", "continues"),
    [
        ("Hi", [], False),
        ([], [], False),
        (None, [], False),
        ([{"role": "user", "content": "Hi"}], [], False),
        ([{"type": "function_call_output", "call_id": "a", "output": "1"}], ["a"], True),
        (
            [
                call_item("{}", "a"),
                {"type": "function_call_output", "call_id": "a", "output": "1"},
                call_item("{}", "b"),
                {"type": "function_call_output", "call_id": "b", "output": "2"},
            ],
            ["a", "b"],
            True,
        ),
        (
            [{"type": "function_call_output", "call_id": "a", "output": "1"}, {"role": "user", "content": "And now?"}],
            ["a"],
            False,
        ),
        ([{"type": "function_call_output", "call_id": None}, {"type": "function_call_output"}, 5, None], [], False),
        (
            [{"type": "function_call_output", "call_id": str(n), "output": ""} for n in range(300)],
            [str(n) for n in range(172, 300)],
            True,
        ),
    ],
)
def test_the_calls_that_a_request_answers(input: Any, answers: list[str], continues: bool) -> None:
    fold = StreamFold(RESPONSES._replace(body={"model": "m", "input": input}))
    found = fold.answers or []
    assert [answer.id for answer in found] == answers
    assert [answer.last for answer in found] == [False] * (len(answers) - continues) + [True] * continues


# Chains and conversations


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_a_conversation_is_the_thread_as_the_request_names_it_or_the_response(conversation: Any) -> None:
    asked = RESPONSES._replace(body={"model": "m", "input": "Hi", "conversation": conversation})
    assert StreamFold(asked).thread_id == "conv_1"
    fold = folded(replied(conversation=conversation))
    assert fold.thread_id == "conv_1"
    assert merge("resp_1", [contribution(fold, "resp_1")]).object["thread_id"] == "conv_1"


def test_a_response_names_the_one_before_it() -> None:
    assert (StreamFold(answering()).previous, StreamFold(answering()).root) == ("resp_1", "resp_1")
    fold = folded(replied(id="resp_2", previous_response_id="resp_1"))
    assert (fold.previous, fold.root) == ("resp_1", "resp_1")
    alone = folded(replied())
    assert (alone.previous, alone.root) == (None, "resp_1")
    assert (StreamFold(getting("resp_9")).previous, StreamFold(getting("resp_9")).root) == (None, "resp_9")
    itself = folded(replied(previous_response_id="resp_1"))
    assert (itself.previous, itself.root) == (None, "resp_1")


# Responses that are no stream


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"])
def test_a_response_that_came_whole_is_a_snapshot(status: str) -> None:
    said = response(status, output=[message_item("Hi")] if status == "completed" else [])
    for request in (RESPONSES, getting(), Request()):
        fold = body(said, request)
        assert fold.protocol == "responses"
        view = merge("resp_1", [contribution(fold, "resp_1")])
        assert (view.object["status"], view.source_object) == (status, said)
        assert view.state == ("ended" if status in responses.TERMINAL else "unknown")
        assert texts(view) == (["Hi"] if status == "completed" else [])


@pytest.mark.parametrize("cut", range(1, len(LONG)))
def test_a_poll_ends_what_a_cut_stream_left_unknown(cut: int) -> None:
    stream = stream_part(LONG[:cut], 0)
    assert merge("resp_1", [stream]).state == "unknown"
    final = LONG[-1][1]["response"]
    poll = contribution(body(final, getting()), "resp_1", 1, started=1)
    for order in itertools.permutations([stream, poll]):
        assert run_of(merge("resp_1", order)) == run_of(viewed(LONG))


def test_a_cancel_ends_a_background_response() -> None:
    cancelled = body(response("cancelled", background=True), Request(method="POST", path="/v1/responses/resp_1/cancel"))
    view = merge("resp_1", [stream_part(LONG[:7], 0), contribution(cancelled, "resp_1", 1, started=1)])
    assert (view.object["status"], view.state) == ("cancelled", "ended")
    assert [(step.object["status"], step.derived_status) for step in view.steps] == [("in_progress", "cancelled")]
    assert texts(view) == texts(viewed(LONG[:7]))


def test_a_poll_in_the_middle_shows_the_items_so_far_and_never_takes_any_back() -> None:
    so_far = response("in_progress", output=[message_item("It was", status="in_progress")])
    poll = contribution(body(so_far, getting()), "resp_1", 1, started=1)
    assert texts(merge("resp_1", [poll])) == ["It was"]
    view = merge("resp_1", [stream_part(LONG[:9], 0), poll])
    assert texts(view) == texts(viewed(LONG[:9]))


@pytest.mark.parametrize(
    "found",
    [
        {"id": "resp_1", "object": "response", "deleted": True},
        {"id": "resp_1", "object": "response.deleted", "deleted": True},
        {"object": "list", "data": [message_item("Hi")]},
        {"object": "response.input_tokens", "input_tokens": 5},
        [],
        [response()],
        5,
        None,
        "x",
    ],
)
def test_a_body_that_is_no_response_makes_no_run(found: Any) -> None:
    fold = body(found, getting())
    assert {key for key in fold.states() if key} == set()


def test_a_body_in_pieces_is_folded_when_it_is_whole() -> None:
    said = response("completed", output=[message_item("{}}" * 50)])
    text = json.dumps(said)
    fold = StreamFold(getting())
    fold.feed(0, 0, "$response", '{"status": 200, "headers": [["content-type", "application/json; charset=utf-8"]]}')
    pieces = [text[at : at + 100] for at in range(0, len(text), 100)]
    for number, piece in enumerate(pieces, 1):
        fold = StreamFold(getting(), jsontext.loads(jsontext.dumps(fold.states())))
        assert not {key for key in fold.states() if key}
        fold.feed(number, number, "$body", piece)
    assert merge("resp_1", [contribution(fold, "resp_1")]).source_object == said


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream", ""])
def test_a_body_that_does_not_say_that_it_is_json_is_folded_too(content_type: str) -> None:
    assert {key for key in body(response("completed"), getting(), content_type=content_type).states() if key} == {"resp_1"}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            {"error": {"message": "too old", "type": "invalid_request_error", "code": None, "param": None}},
            ("invalid_request_error", "too old"),
        ),
        ({"message": "no such route", "code": 404}, (None, "no such route")),
        ("<html>Bad gateway</html>", (None, "<html>Bad gateway</html>")),
        ({"error": "gone"}, (None, "gone")),
        ({"detail": "Not Found"}, (None, "Not Found")),
    ],
)
def test_a_refusal_is_the_streams_error_and_no_run(said: Any, error: tuple[str | None, str]) -> None:
    fold = body(said, getting(after=3), status=400)
    assert {key for key in fold.states() if key} == set()
    assert fold.error is not None
    assert (fold.error["type"], fold.error["message"]) == error


# Whatever comes

event_names = st.sampled_from(
    [
        *responses.HANDLERS,
        *(f"{name}.delta" for name in responses.STREAMED),
        *(f"response.{name}" for name in ("created", "in_progress", "completed", "failed", "done", "odd", "odd.delta")),
        *("error", "", "keepalive", "odd"),
    ]
)
field_names = st.sampled_from(
    [
        "output_index", "item_id", "content_index", "summary_index", "command_index", "annotation_index", "sequence_number",
        "partial_image_index", "delta", "text", "refusal", "arguments", "input", "code", "command", "diff", "part", "item",
        "annotation", "output", "response", "error", "type", "id", "status", "content", "call_id", "summary",
    ]
)  # fmt: skip
indices = st.sampled_from([0, 1, 2, 7, -1, 10**12, True, None, "0", 0.5])
item_types = st.sampled_from(
    ["message", "reasoning", "function_call", "function_call_output", "mcp_call", "shell_call", "odd", None]
)
sound = st.sampled_from([*LONG, *called(), *replied(id="resp_2"), *replied(created_at=BORN + 50)])


@st.composite
def mangled(draw: st.DrawFn) -> Event:
    """A sound event with some of its values exchanged, at any depth."""
    name, payload = draw(sound)
    return draw(st.just(name) | event_names), exchanged(draw, payload, values | indices | item_types, 3)


@st.composite
def made_up(draw: st.DrawFn) -> Event:
    name = draw(event_names)
    fields = draw(st.dictionaries(field_names, values | indices | item_types, max_size=6))
    return name, {"type": name, "output_index": draw(indices), **fields}


garbage = (
    mangled()
    | made_up()
    | sound
    | st.tuples(event_names, values)
    | st.tuples(event_names, st.text(max_size=20))
    | st.tuples(st.just("$body"), st.builds(json.dumps, st.sampled_from([response("completed"), response(), [1], {"x": 1}])))
)
requests = st.sampled_from([Request(), RESPONSES, getting(), getting(after=3), answering(), answering(None, None)])


@given(requests, st.lists(garbage, max_size=12))
@settings(max_examples=300)
def test_no_events_whatever_they_hold_stop_the_fold(request: Request, events: list[Event]) -> None:
    fold = fed(StreamFold(request), frames(events))
    for key in fold.states():
        if key != STREAM:
            view = merge(key, [contribution(fold, key)])
            assert "not_folded" not in kinds(view)
    for state in as_text(fold).values():
        state.encode()
        assert "\0" not in state


@given(requests, st.lists(garbage, max_size=12), st.integers(0, 12))
@settings(max_examples=300)
def test_a_fold_that_goes_on_from_its_saved_states_has_the_same_states(request: Request, events: list[Event], at: int) -> None:
    given: list[Frame] = [
        Frame("$response", '{"status": 200, "headers": [["content-type", "application/json"]]}'),
        *frames(events),
    ]
    straight = fed(StreamFold(request), given)
    saved = as_text(fed(StreamFold(request), given[:at]))
    resumed = StreamFold(request, {key: jsontext.loads(state) for key, state in saved.items()})
    assert as_text(fed(resumed, given[at:], at)) == as_text(straight)


@given(st.lists(garbage, max_size=8), st.lists(garbage, max_size=8), st.randoms())
@settings(max_examples=100)
def test_any_order_of_streams_of_nonsense_gives_the_same_view(one: list[Event], two: list[Event], random: Any) -> None:
    parts = []
    for number, events in enumerate((one, two, one)):
        fold = folded(events)
        parts += [contribution(fold, key, number, started=number) for key in fold.states() if key == "resp_1"]
    if parts:
        shuffled = random.sample(parts, len(parts))
        assert merge("resp_1", shuffled) == merge("resp_1", parts)


def test_step_statuses_that_end_are_those_of_the_api_and_incomplete() -> None:
    assert {status for _, status in STATUSES} - {"in_progress"} <= {*STEP_TERMINAL, "incomplete"}


# Items without an index


def without_index(*items: Object) -> list[Event]:
    """Items that are told apart by their ids alone, and whose deltas come in turn."""
    added = typed(*({"type": "response.output_item.added", "item": item} for item in items))
    deltas = [
        {"type": "response.function_call_arguments.delta", "item_id": item["id"], "delta": piece}
        for piece in ('{"n":', "1}")
        for item in items
    ]
    return [*typed(whole("created", response())), *added, *typed(*deltas)]


@pytest.mark.parametrize("named", [True, False])
def test_items_without_an_index_are_told_apart_by_their_ids(named: bool) -> None:
    calls = [{"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "name": "f", "arguments": ""} for n in range(3)]
    events = without_index(*calls)
    if not named:  # the event's name alone says its type
        events = [(name, {key: value for key, value in payload.items() if key != "type"}) for name, payload in events]
    view = viewed(events)
    found = [call for step in view.steps for call in step.object["step_details"]["tool_calls"]]
    assert [(call["id"], call["function"]["arguments"]) for call in found] == [(f"call_{n}", '{"n":1}') for n in range(3)]
    assert kinds(view) == []


def test_an_item_that_came_with_an_index_is_found_by_its_id_where_its_deltas_have_none() -> None:
    calls = [{"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "name": "f", "arguments": ""} for n in range(2)]
    deltas = [{"type": "response.function_call_arguments.delta", "item_id": f"fc_{n}", "delta": f"{n}"} for n in (0, 1, 0)]
    view = viewed([*begun(*calls), *typed(*deltas)])
    found = [call["function"]["arguments"] for step in view.steps for call in step.object["step_details"]["tool_calls"]]
    assert (found, kinds(view)) == (["00", "1"], [])


def test_halves_of_a_character_in_two_deltas_are_one() -> None:
    deltas = [{"type": "response.output_text.delta", "output_index": 0, "delta": half} for half in ("\ud83d", "\ude00")]
    done = {"type": "response.output_text.done", "output_index": 0, "text": "\U0001f600"}
    view = viewed([*begun(message_item()), *typed(*deltas, done)])
    assert (texts(view), kinds(view)) == (["\U0001f600"], [])


# Compaction


@pytest.mark.parametrize("host", ["api.openai.com", "127.0.0.1"])
def test_a_compaction_is_a_run_with_its_usage_and_no_response_called_so(host: str) -> None:
    asked = Request(
        method="POST", host=host, path="/v1/responses/compact", body={"model": "gpt-5", "input": "x"}, stream_id="0198"
    )
    summary = {"type": "compaction", "id": "cmp_1", "encrypted_content": "g"}
    kept = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    usage = {"input_tokens": 19, "output_tokens": 2, "total_tokens": 21}
    found = {"id": "resp_c", "object": "response.compaction", "created_at": BORN, "output": [kept, summary], "usage": usage}
    fold = body(found, asked)
    assert (fold.root, [key for key in fold.states() if key != STREAM]) == ("resp_c", ["resp_c"])
    view = merge("resp_c", [contribution(fold, "resp_c")])
    assert (view.object["status"], view.object["model"], view.object["usage"]["total_tokens"]) == ("completed", "gpt-5", 21)
    assert [step.object["type"] for step in view.steps] == ["activities"]
    assert view.messages == []


@pytest.mark.parametrize("word", ["input_tokens", "count_tokens"])
def test_a_count_of_tokens_is_no_run(word: str) -> None:
    fold = body({"object": "response.input_tokens", "input_tokens": 11}, Request(method="POST", path=f"/v1/responses/{word}"))
    assert (fold.root, [key for key in fold.states() if key != STREAM]) == (None, [])
