"""The fold of Chat Completions: each rule, the servers that depart from it, and that its streams may come cut and doubled."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder import database, jsontext, queries
from recorder.errors import AmbiguousID, UnknownID
from recorder.projections.runs import runs
from recorder.protocols import Request, chat, protocol_for, protocol_of_body, protocol_of_event
from recorder.protocols.chat_run import call_id
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import RunView
from recorder.sse import Frame
from tests import writing
from tests.chatting import (
    CHAT,
    END,
    KEY,
    USAGE,
    asking,
    call,
    called,
    calling,
    choice,
    chunk,
    completion,
    history,
    said,
    saying,
    tool_call,
)
from tests.test_assistants import as_text, exchanged, fed, values
from tests.test_chains import columns, outputs, record, told
from tests.test_responses import body, texts
from tests.writing import BORN, Event, contribution, data, frames, kinds, stream_id

Object = dict[str, Any]


def folded(events: Sequence[Event], request: Request = CHAT, outcome: str | None = "eof") -> StreamFold:
    return writing.folded(events, request, outcome)


def viewed(events: Sequence[Event], request: Request = CHAT, outcome: str | None = "eof") -> RunView:
    return writing.viewed(events, KEY, request, outcome)


def source(view: RunView) -> Object:
    assert view.source_object is not None
    return view.source_object


def message_of(view: RunView, at: int = 0) -> Object:
    """The message of a choice, in the API's own shape."""
    found: Object = source(view)["choices"][at]["message"]
    return found


def calls_in(view: RunView) -> list[tuple[Any, Any, Any]]:
    """(id, name, arguments or input) of the calls that the steps of a view show."""
    entries = [call for step in view.steps for call in step.object["step_details"].get("tool_calls", [])]
    inner = [(entry["id"], entry[entry["type"]]) for entry in entries]
    return [(id, given.get("name"), given.get("arguments", given.get("input"))) for id, given in inner]


def types(view: RunView) -> list[tuple[str, str]]:
    return [(step.object["type"], step.object["status"]) for step in view.steps]


# Which streams are of this protocol


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/deployments/gpt-4.1/chat/completions",
        "/openai/deployments/gpt-4.1/extensions/chat/completions",
        "/api/v1/chat/completions",
        "/v1beta/openai/chat/completions",
        "/v1/acct/gateway/compat/chat/completions/",
        "/models/chat/completions",
    ],
)
def test_a_request_for_a_completion_is_of_this_protocol_under_any_prefix(path: str) -> None:
    assert protocol_for(Request(method="POST", path=path)) is chat
    assert protocol_for(Request(method="POST", path=path, body={"model": "m", "messages": []})) is chat


@pytest.mark.parametrize(
    "request_",
    [
        Request(method="POST", path="/v1/completions", body={"model": "m", "prompt": "Hi"}),
        Request(method="POST", path="/v1/chat", body={"model": "m", "messages": []}),
        Request(method="POST", path="/v1/chat/completions", body={"answers": []}),
        Request(method="POST", path="/v1/responses", body={"model": "m", "input": "Hi"}),
        Request(method="POST", path="/v1/threads/runs"),
        Request(path="/chat/completions/a/b/c"),
        Request(),
    ],
)
def test_any_other_request_is_not(request_: Request) -> None:
    assert protocol_for(request_) is not chat


@pytest.mark.parametrize(
    ("type", "payload", "is_one"),
    [
        ("", chunk(choice({"content": "x"}))[1], True),
        ("message", chunk(choice({"content": "x"}))[1], True),
        ("", {"choices": [{"delta": {}}]}, True),
        ("", {"object": "chat.completion.chunk", "choices": []}, True),
        ("", {"object": "", "choices": [], "prompt_filter_results": []}, True),
        ("", {"object": "text_completion", "choices": [{"text": "x", "index": 0}]}, False),
        ("", {"choices": []}, False),
        ("", {"choices": "delta"}, False),
        ("thread.run.created", chunk()[1], False),
        ("", '{"choices": [', False),
    ],
)
def test_an_event_alone_can_tell(type: str, payload: Any, is_one: bool) -> None:
    assert (protocol_of_event(type, data(payload)) is chat) == is_one


@pytest.mark.parametrize(
    ("found", "is_one"),
    [
        (completion(), True),
        ({"choices": [{"message": {"content": "x"}}]}, True),
        ({"object": "chat.completion", "choices": []}, True),
        ({"object": "chat.completion.deleted", "id": "x", "deleted": True}, False),
        ({"object": "list", "data": [completion()]}, False),
        ({"object": "text_completion", "choices": [{"text": "x"}]}, False),
        ([], False),
    ],
)
def test_a_body_alone_can_tell(found: Any, is_one: bool) -> None:
    assert (protocol_of_body(found) is chat) == is_one


def test_a_stream_whose_request_is_unknown_is_told_by_its_events() -> None:
    unknown = viewed(said(usage=USAGE), Request(stream_id=CHAT.stream_id))
    assert unknown == viewed(said(usage=USAGE))


def test_what_is_no_completion_gives_no_run_whatever_its_path() -> None:
    fold = folded([("", {"answers": [1]}), ("ping", {"type": "ping"}), END])
    assert {key for key in fold.states() if key} == set()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "/v1/chat/completions/chatcmpl-1"),
        ("DELETE", "/v1/chat/completions/chatcmpl-1"),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages"),
        ("GET", "/v1/chat/completions"),
    ],
)
def test_a_stored_completion_that_is_got_again_is_no_run_of_its_own(method: str, path: str) -> None:
    fold = body(completion(), Request(method=method, path=path, stream_id="0199"))
    assert fold.protocol == "chat"
    assert {key for key in fold.states() if key} == set()


# Rule 1


def test_a_run_is_its_stream_and_its_source_keeps_the_completions_id() -> None:
    view = viewed(said())
    assert (view.key, view.object["id"], source(view)["id"]) == (KEY, KEY, "chatcmpl-1")


@pytest.mark.parametrize("id", ["", None, 5])
def test_a_server_that_gives_no_id_has_a_run_all_the_same(id: Any) -> None:
    events = [(name, {**payload, "id": id} if isinstance(payload, dict) else payload) for name, payload in said()]
    view = viewed(events)
    assert (view.state, texts(view)) == ("ended", ["Hello there"])


def test_an_id_that_varies_is_flagged_once_and_the_first_counts() -> None:
    events = [
        (name, {**payload, "id": f"chatcmpl-{number}"} if isinstance(payload, dict) else payload)
        for number, (name, payload) in enumerate(said())
    ]
    view = viewed(events)
    assert (kinds(view), source(view)["id"], texts(view)) == (["id_changed"], "chatcmpl-0", ["Hello there"])


def test_an_azure_filter_chunk_has_no_id_no_model_and_no_time() -> None:
    first = (
        "",
        {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [{"prompt_index": 0}]},
    )
    view = viewed([first, *said()])
    assert kinds(view) == []
    assert (source(view)["id"], view.object["model"], view.object["created_at"]) == ("chatcmpl-1", "gpt-4.1", BORN)
    assert source(view)["prompt_filter_results"] == [{"prompt_index": 0}]


def test_what_a_request_asks_is_shown_of_its_run_and_null_where_it_asks_nothing() -> None:
    asked = {"temperature": 0.5, "max_tokens": 9, "metadata": {"a": "b"}, "seed": 7, "reasoning_effort": "low", "tools": []}
    run = viewed(said(), asking(**asked, stop=None)).object
    assert {key: run[key] for key in ("temperature", "max_completion_tokens", "metadata", "tools")} == {
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "metadata": {"a": "b"},
        "tools": [],
    }
    assert run["extras"] == {"seed": 7, "reasoning_effort": "low"}
    silent = viewed(said(), Request(stream_id=CHAT.stream_id)).object
    unknown = (
        "temperature",
        "max_completion_tokens",
        "tools",
        "thread_id",
        "assistant_id",
        "started_at",
        "completed_at",
        "usage",
    )
    assert [silent[key] for key in unknown] == [None] * len(unknown)
    assert viewed([chunk(choice({"content": "x"}), model="")]).object["model"] == "gpt-4.1"


def test_what_a_request_asks_is_kept_once() -> None:
    states = folded(said(), asking(metadata={"mark": "zqxzqx"})).states()
    assert jsontext.dumps(states).count("zqxzqx") == 1


# Rule 2


def test_choices_are_found_by_their_index_whatever_their_place() -> None:
    events = [
        chunk(choice({"content": "b1"}, index=1)),
        chunk(choice({"content": "a1"}), choice({"content": "b2"}, index=1)),
        chunk(),
        chunk(choice({"content": "a2"}, "stop")),
        chunk(choice({}, "stop", 1)),
        END,
    ]
    view = viewed(events, asking(n=2))
    assert texts(view) == ["a1a2", "b1b2"]
    assert [step.id for step in view.steps] == [f"{KEY}:0:message_creation", f"{KEY}:1:message_creation"]
    assert [message.id for message in view.messages] == [f"{KEY}:0:message", f"{KEY}:1:message"]
    assert [entry["index"] for entry in source(view)["choices"]] == [0, 1]


def test_a_choice_without_an_index_has_that_of_its_place() -> None:
    bare = [{"delta": {"content": text}, "finish_reason": "stop"} for text in ("a", "b")]
    assert texts(viewed([chunk(*bare), END])) == ["a", "b"]


@pytest.mark.parametrize("choices", [None, [], "x", 5, [None], [5], [[]]])
def test_a_chunk_may_have_no_choices(choices: Any) -> None:
    extra = ("", {**chunk()[1], "choices": choices})
    assert source(viewed([*said()[:2], extra, *said()[2:]])) == source(viewed(said()))


def test_what_a_chunk_has_of_its_own_stays_but_for_padding() -> None:
    events = [
        chunk(choice({"content": "x"}), obfuscation="zqx", p="zqx", citations=["a"]),
        chunk(choice({}, "stop"), citations=["b"]),
    ]
    view = viewed(events)
    assert source(view)["citations"] == ["b"]
    assert "zqx" not in jsontext.dumps(folded(events).states())


# Rule 3


def test_a_call_is_put_together_by_its_index() -> None:
    view = viewed(called(ids=["call_1", "call_2"]))
    wanted = [("call_1", "weather", '{"city":"Oslo"}'), ("call_2", "weather", '{"city":"Oslo"}')]
    assert calls_in(view) == wanted
    assert message_of(view)["tool_calls"] == [tool_call("call_1"), tool_call("call_2")]
    assert (view.calls, kinds(view)) == (["call_1", "call_2"], [])


def test_two_calls_may_grow_at_once_and_come_in_any_order() -> None:
    view = viewed(
        calling(
            [call(1, "b", "g", "{"), call(0, "a", "f", "[")],
            call(0, arguments="1"),
            call(1, arguments="2"),
            [call(1, arguments="}"), call(0, arguments="]")],
        )
    )
    assert calls_in(view) == [("a", "f", "[1]"), ("b", "g", "{2}")]


def test_the_same_index_twice_in_one_chunk_is_one_call() -> None:
    assert calls_in(viewed(calling([call(0, "a", "f", "{"), call(0, arguments="}")]))) == [("a", "f", "{}")]


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ([call(None, "a", "f", "{"), call(None, arguments="}")], [("a", "f", "{}")]),
        ([call(None, "a", "f", "{}"), call(None, "b", "g", "[]")], [("a", "f", "{}"), ("b", "g", "[]")]),
        (
            [call(None, "a", "f", "{"), call(None, "b", "g", "["), call(None, "a", arguments="}")],
            [("a", "f", "{}"), ("b", "g", "[")],
        ),
        ([call(None, "a", "f", "{"), call(None, "a", "f", "}")], [("a", "f", "{}")]),
        ([call(0, "a", "f", "{"), call(None, arguments="}")], [("a", "f", "{}")]),
    ],
)
def test_without_an_index_a_new_id_begins_a_call_and_none_extends_the_last(entries: Any, wanted: Any) -> None:
    view = viewed(calling(*entries))
    assert calls_in(view) == wanted
    assert kinds(view) == []


@pytest.mark.parametrize("id", ["", None])
def test_calls_that_have_neither_index_nor_id_are_told_apart_where_they_can_be(id: Any) -> None:
    one, other = (call(None, id, "f", given) for given in ('{"a":1}', '{"a":2}'))
    third = call(None, id, "g", "{}")
    for events in (calling([one, other], third), calling([one, other, third])):
        view = viewed(events)
        wanted = [("f", '{"a":1}'), ("f", '{"a":2}'), ("g", "{}")]
        assert [found[1:] for found in calls_in(view)] == wanted
        assert [found[0] for found in calls_in(view)] == [call_id(None, *given) for given in wanted] == view.calls
        assert [entry["id"] for entry in message_of(view)["tool_calls"]] == [id] * 3


def test_an_id_or_a_name_that_is_repeated_counts_once() -> None:
    view = viewed(calling(call(0, "a", "f", "{"), call(0, "a", "f", "1"), call(0, "a", "f", "}")))
    assert calls_in(view) == [("a", "f", "{1}")]


def test_a_name_that_comes_in_pieces_is_joined() -> None:
    assert calls_in(viewed(calling(call(0, "a", "get_"), call(0, None, "weather"), call(0, arguments="{}")))) == [
        ("a", "get_weather", "{}")
    ]


def test_an_id_that_comes_late_is_the_calls() -> None:
    view = viewed(calling(call(0, None, "f", "{"), call(0, "a", None, "}")))
    assert (calls_in(view), view.calls) == ([("a", "f", "{}")], ["a"])


def test_an_index_that_comes_back_with_another_call_is_another_and_flagged() -> None:
    view = viewed(
        calling(
            call(0, "a", "f", "{"), call(0, arguments="}"), call(0, "b", "g", "["), call(0, arguments="]"), call(1, "c", "h", "1")
        )
    )
    assert calls_in(view) == [("a", "f", "{}"), ("b", "g", "[]"), ("c", "h", "1")]
    assert kinds(view) == ["index_reused"]


def test_an_id_that_varies_within_a_call_is_flagged_and_the_first_counts() -> None:
    """As vLLM has made one for every piece."""
    view = viewed(calling(call(0, "a", "f", "{"), call(0, "b", None, "1"), call(0, "c", None, "}")))
    assert calls_in(view) == [("a", "f", "{1}")]
    assert kinds(view) == ["id_changed", "id_changed"]


@pytest.mark.parametrize(("indices", "gaps"), [((0, 1, 2), 0), ((0, 2), 1), ((1,), 1), ((-1,), 1), ((0, 10**12), 1)])
def test_a_gap_in_the_indices_of_calls_is_flagged(indices: Sequence[int], gaps: int) -> None:
    view = viewed(calling(*(call(index, f"call_{index}", "f", "{}") for index in indices)))
    assert kinds(view) == ["index_gap"] * gaps
    assert view.calls == [f"call_{index}" for index in indices]


@pytest.mark.parametrize("arguments", ["no JSON", '{"a":', "", "\ud83d"])
def test_arguments_are_never_parsed(arguments: str) -> None:
    assert calls_in(viewed(calling(call(0, "a", "f", arguments)))) == [("a", "f", arguments)]


def test_arguments_that_come_as_an_object_are_its_text() -> None:
    entry = {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"city": "Oslo"}}}
    assert calls_in(viewed(calling(entry))) == [("a", "f", '{"city":"Oslo"}')]


def test_a_custom_call_has_an_input() -> None:
    entry = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": ""}}
    view = viewed(calling(entry, {"index": 0, "custom": {"input": "SELECT 1"}}))
    assert calls_in(view) == [("a", "sql", "SELECT 1")]
    assert message_of(view)["tool_calls"] == [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]


def test_what_else_a_call_has_stays_with_it() -> None:
    signed = {"google": {"thought_signature": "c2ln"}}
    view = viewed(calling(call(0, "a", "f", "{}", extra_content=signed)))
    assert message_of(view)["tool_calls"] == [{**tool_call("a", "{}", "f"), "extra_content": signed}]


def test_the_old_function_call_is_a_call_too() -> None:
    deltas = [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}}]
    view = viewed(saying(*deltas, finish="function_call"))
    assert calls_in(view) == [(call_id(None, "f", "{}"), "f", "{}")]
    assert message_of(view)["function_call"] == {"name": "f", "arguments": "{}"}
    assert (view.status, view.state) == ("requires_action", "waiting")


# Rule 4


def test_each_chunk_of_a_text_leaves_what_stood_there_until_then() -> None:
    events = said("Hello there", USAGE)
    seen = [(texts(view), view.object["status"]) for view in (viewed(events[:count]) for count in range(1, len(events) + 1))]
    running = "in_progress"
    assert seen == [([], running), (["Hell"], running), *[(["Hello there"], running)], *[(["Hello there"], "completed")] * 3]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text"])
def test_the_reasoning_of_other_servers_is_a_step(field: str) -> None:
    view = viewed(saying({field: ""}, {field: "Let me"}, {field: " think", "content": None}, {"content": "Hi"}))
    assert types(view) == [("reasoning", "completed"), ("message_creation", "completed")]
    thought = view.steps[0].object["step_details"]["reasoning"]["content"]
    assert thought == [{"type": "reasoning_text", "text": "Let me think"}]
    assert message_of(view) == {"role": "assistant", "content": "Hi", field: "Let me think"}


def test_reasoning_in_details_is_put_together_by_index() -> None:
    def detail(text: str, index: int = 0) -> Object:
        return {"reasoning_details": [{"type": "reasoning.text", "text": text, "index": index, "format": "x"}]}

    view = viewed(saying(detail("Let me"), detail(" think"), detail("Again", 1), {"content": "Hi"}))
    wanted = [{"type": "reasoning.text", "text": text, "format": "x"} for text in ("Let me think", "Again")]
    assert message_of(view)["reasoning_details"] == wanted
    assert view.steps[0].object["step_details"]["reasoning"]["content"][0]["text"] == "Let me thinkAgain"


def test_content_in_parts_is_thinking_and_text() -> None:
    def thinking(text: str) -> Object:
        return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}

    view = viewed(
        saying(
            {"content": ""},
            thinking("Let me"),
            thinking(" think"),
            {"content": [{"type": "text", "text": "H"}]},
            {"content": "i"},
        )
    )
    assert texts(view) == ["Hi"]
    assert message_of(view)["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Let me think"}]},
        {"type": "text", "text": "Hi"},
    ]


def test_a_refusal_is_a_part_of_the_message() -> None:
    view = viewed(saying({"role": "assistant", "refusal": ""}, {"refusal": "I ca"}, {"refusal": "n't."}))
    assert view.messages[0].object["content"] == [{"type": "refusal", "refusal": "I can't."}]
    assert (view.status, message_of(view)["refusal"], message_of(view)["content"]) == ("completed", "I can't.", None)


def test_spoken_words_are_the_text_and_the_sound_stays_where_it_is() -> None:
    pieces = [
        {"id": "audio_1", "transcript": "He"},
        {"data": "AAAA"},
        {"transcript": "llo"},
        {"data": "BBBB"},
        {"expires_at": BORN},
    ]
    view = viewed(saying(*({"audio": piece} for piece in pieces)))
    assert message_of(view)["audio"] == {"id": "audio_1", "transcript": "Hello", "data": "AAAABBBB", "expires_at": BORN}
    where = {"base64_bytes": 8, "pointer": "/source_object/choices/0/message/audio/data"}
    assert texts(view) == ["Hello"]
    assert view.messages[0].object["extras"] == {"audio": {"id": "audio_1", "expires_at": BORN, "data": where}}


def test_annotations_are_those_of_the_text() -> None:
    notes = [{"type": "url_citation", "url_citation": {"url": f"https://{n}.example"}} for n in range(3)]
    view = viewed(saying({"content": "Hi"}, {"annotations": notes[:2]}, {"annotations": notes[2:]}))
    assert view.messages[0].object["content"][0]["text"]["annotations"] == notes
    assert kinds(view) == []


def test_log_probabilities_are_appended() -> None:
    def event(token: str, kind: str = "content") -> Event:
        other = "refusal" if kind == "content" else "content"
        return chunk(choice({kind: token}, logprobs={kind: [{"token": token, "logprob": -0.1}], other: None}))

    view = viewed([event("a"), event("b"), event("c", "refusal"), chunk(choice({}, "stop", logprobs=None)), END])
    found = source(view)["choices"][0]["logprobs"]
    assert [[entry["token"] for entry in found[kind]] for kind in ("content", "refusal")] == [["a", "b"], ["c"]]


def test_filter_results_of_each_chunk_are_put_together() -> None:
    results = [{}, {"hate": {"filtered": False}}, {"violence": {"filtered": True}}]
    events = [chunk(choice({"content": "x"}, content_filter_results=result)) for result in results]
    found = source(viewed([*events, *saying(finish="content_filter")]))["choices"][0]["content_filter_results"]
    assert found == {"hate": {"filtered": False}, "violence": {"filtered": True}}


def test_a_role_or_label_that_comes_again_is_not_joined() -> None:
    view = viewed(saying(*[{"role": "assistant", "channel": "analysis", "content": "x"}] * 3))
    assert (message_of(view)["role"], message_of(view)["channel"]) == ("assistant", "analysis")


def test_a_whole_message_beside_the_last_delta_has_the_last_word() -> None:
    def event(text: str, delta: str, finish: str | None = None) -> Event:
        return chunk({**choice({"content": delta}, finish), "message": {"role": "assistant", "content": text}})

    same = viewed([event("He", "He"), event("Hello", "llo", "stop")])
    assert (texts(same), kinds(same)) == (["Hello"], [])
    other = viewed([event("He", "He"), event("Hello!", "llo", "stop")])
    assert (texts(other), kinds(other)) == (["Hello!"], ["delta_mismatch"])
    copied = viewed([event("He", "He"), event("llo", "llo", "stop")])
    assert (texts(copied), kinds(copied)) == (["Hello"], [])


def test_a_whole_message_in_place_of_a_delta_replaces_what_was_streamed() -> None:
    whole = {"role": "assistant", "content": "Hello", "tool_calls": [tool_call()]}
    last = chunk({"index": 0, "message": whole, "finish_reason": "tool_calls"})
    view = viewed([chunk(choice({"content": "Hel"})), last])
    assert (texts(view), kinds(view), message_of(view)) == (["Hello"], ["delta_mismatch"], whole)
    assert (view.calls, view.status) == (["call_1"], "requires_action")
    late = viewed([last, chunk(choice({"content": "!"}))])
    assert (texts(late), kinds(late)) == (["Hello"], ["delta_after_end"])


# Rule 5


@pytest.mark.parametrize("usage", [None, {}, "x", [], 0])
def test_usage_that_is_not_said_is_null_and_not_nought(usage: Any) -> None:
    view = viewed([*said()[:-1], chunk(usage=usage), END])
    assert view.object["usage"] is None
    assert "usage" not in source(view)


WITH_USAGE: list[tuple[str, list[Event]]] = [
    ("a chunk without choices", said(usage=USAGE)),
    ("the last chunk of the choice", [*said()[:-2], chunk(choice({}, "stop"), usage=USAGE), END]),
    ("the choice", [*said()[:-2], chunk({**choice({}, "stop"), "usage": USAGE}), END]),
    ("x_groq", [*said()[:-2], chunk(choice({}, "stop"), x_groq={"id": "req_1", "usage": USAGE}), END]),
    ("running totals", [chunk(choice({"content": "x"}), usage={**USAGE, "total_tokens": 1}), *said(usage=USAGE)]),
    ("followed by none", [*said(usage=USAGE)[:-1], chunk(usage=None), chunk(moderation={}), END]),
    ("before the text", [chunk(usage=USAGE), *said()]),
]


@pytest.mark.parametrize("events", [events for _, events in WITH_USAGE], ids=[where for where, _ in WITH_USAGE])
def test_usage_is_found_wherever_a_server_puts_it(events: list[Event]) -> None:
    view = viewed(events)
    assert view.object["usage"] == USAGE
    assert source(view)["usage"] == USAGE


@pytest.mark.parametrize(
    ("usage", "cached"),
    [
        ({"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 2}, 5),
        ({"cached_tokens": 6}, 6),
        ({"cached_tokens": 6, "prompt_tokens_details": {"cached_tokens": 7}}, 7),
        ({"cached_tokens": 6, "prompt_tokens_details": {"audio_tokens": 1}}, 6),
        ({"prompt_token_details": None, "completion_tokens_details": None}, None),
    ],
)
def test_cached_tokens_are_found_under_their_names(usage: Object, cached: int | None) -> None:
    found = viewed(said(usage={"prompt_tokens": 7, **usage})).object["usage"]
    assert (found["prompt_tokens"], found["total_tokens"]) == (7, None)
    assert (found.get("prompt_tokens_details") or {}).get("cached_tokens") == cached


@pytest.mark.parametrize(
    ("timings", "tokens"),
    [
        ({"cache_n": 30, "prompt_n": 4, "predicted_n": 3}, (34, 3, 37)),
        ({"prompt_n": 4, "predicted_n": 3}, (None, 3, None)),
    ],
)
def test_timings_tell_the_tokens_where_nothing_else_does(timings: Object, tokens: Any) -> None:
    found = viewed([*said()[:-1], chunk(timings=timings), END]).object["usage"]
    assert tuple(found[f"{key}_tokens"] for key in ("prompt", "completion", "total")) == tokens
    assert viewed([*said(usage=USAGE)[:-1], chunk(timings=timings), END]).object["usage"] == USAGE
    assert viewed([*said()[:-1], chunk(timings={"predicted_n": "x"}), END]).object["usage"] is None


# Rule 6


@pytest.mark.parametrize(
    ("finish", "status", "reason", "of_message"),
    [
        ("stop", "completed", None, None),
        ("STOP", "completed", None, None),
        ("end_turn", "completed", None, None),
        ("length", "incomplete", "max_completion_tokens", "max_tokens"),
        ("MAX_TOKENS", "incomplete", "max_completion_tokens", "max_tokens"),
        ("model_length", "incomplete", "max_completion_tokens", "max_tokens"),
        ("content_filter", "incomplete", "content_filter", "content_filter"),
        ("SAFETY", "incomplete", "content_filter", "content_filter"),
        ("error", "failed", None, None),
        ("insufficient_system_resource", "failed", None, None),
        ("engine_overloaded", "failed", None, None),
        ("network_error", "failed", None, None),
        ("abort", "failed", None, None),
        ("MALFORMED_FUNCTION_CALL", "failed", None, None),
        ("function_call_filter: MALFORMED_FUNCTION_CALL", "failed", None, None),
        ("function_call_filter: SOMETHING_ELSE", "failed", None, None),
        ("sensitive", "incomplete", "content_filter", "content_filter"),
        ("content-filter", "incomplete", "content_filter", "content_filter"),
        ("RECITATION", "incomplete", "content_filter", "content_filter"),
        ("content_filter: RECITATION", "incomplete", "content_filter", "content_filter"),
        ("content_filter: a reason of its own", "incomplete", "content_filter", "content_filter"),
        ("FinishReason.PROHIBITED_CONTENT", "incomplete", "content_filter", "content_filter"),
        ("FinishReason.STOP", "completed", None, None),
        ("refusal", "incomplete", "content_filter", "content_filter"),
        ("model_context_window_exceeded", "incomplete", "max_prompt_tokens", "max_tokens"),
        ("time_limit", "incomplete", "time_limit", None),
        ("pause_turn", "incomplete", "pause_turn", None),
        ("user_cancel", "cancelled", None, None),
        ("eos", "completed", None, None),
        ("eos_token", "completed", None, None),
        ("COMPLETE", "completed", None, None),
    ],
)
def test_the_status_of_a_run_is_what_its_choice_finished_with(finish: str, status: str, reason: Any, of_message: Any) -> None:
    view = viewed(saying({"content": "Hi"}, finish=finish))
    assert (view.object["status"], view.status, view.state) == (status, status, "ended")
    assert view.object["incomplete_details"] == (reason and {"reason": reason})
    assert view.messages[0].object["incomplete_details"] == (of_message and {"reason": of_message})
    assert view.messages[0].object["status"] == ("completed" if status == "completed" else "incomplete")
    assert types(view) == [("message_creation", status)]
    assert (view.object["last_error"] is not None) == (status == "failed")
    assert source(view)["choices"][0]["finish_reason"] == finish


def test_a_finish_reason_that_no_table_has_is_an_anomaly_and_no_success() -> None:
    view = viewed(saying({"content": "Hi"}, finish="a new one"))
    assert (view.object["status"], view.object["incomplete_details"], view.state) == (
        "incomplete",
        {"reason": "a new one"},
        "ended",
    )
    assert kinds(view) == ["unknown_finish_reason"]
    assert view.failure is not None
    assert view.failure[:2] == ("incomplete", "a new one")
    whole = merge(KEY, [contribution(body(completion(finish="a new one"), CHAT), KEY)])
    assert (whole.object["status"], kinds(whole)) == ("incomplete", ["unknown_finish_reason"])


@pytest.mark.parametrize("nothing", ["", "null", "none", None, "not_finished"])
def test_a_finish_reason_that_says_nothing_yet_finishes_nothing(nothing: str | None) -> None:
    early = [chunk(choice({"content": piece}, nothing)) for piece in ("Hel", "lo")]
    view = viewed([*early, chunk(choice({}, "length")), END])
    assert (texts(view), view.status, kinds(view)) == (["Hello"], "incomplete", [])
    assert viewed([*early, END]).state == "unknown"


def test_a_finish_reason_that_is_an_object_says_its_type() -> None:
    reason: Any = {"type": "abort", "message": "input too long", "status_code": 400}
    assert viewed([*said()[:-2], chunk(choice({}, reason)), END]).status == "failed"


@pytest.mark.parametrize("finish", ["tool_calls", "function_call", "stop", "tool_use", "a new one"])
def test_pending_calls_decide_and_not_the_finish_reason(finish: str) -> None:
    view = viewed([*called()[:-2], chunk(choice({}, finish)), END])
    assert (view.object["status"], view.status, view.state) == ("requires_action", "requires_action", "waiting")
    assert view.object["required_action"] == {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {"tool_calls": [tool_call()]},
    }
    assert types(view) == [("tool_calls", "in_progress")]


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_calls_that_were_cut_short_wait_for_nobody(finish: str) -> None:
    view = viewed([*called()[:-2], chunk(choice({}, finish)), END])
    assert (view.status, view.state, view.object["required_action"]) == ("incomplete", "ended", None)
    assert types(view) == [("tool_calls", "incomplete")]


def test_a_finish_reason_in_the_chunk_of_the_last_token_ends_the_choice_after_it() -> None:
    view = viewed([chunk(choice({"content": "Hel"})), chunk(choice({"content": "lo"}, "stop")), END])
    assert (texts(view), view.state, kinds(view)) == (["Hello"], "ended", [])


def test_the_first_finish_reason_counts_and_another_is_flagged() -> None:
    again = viewed([*said()[:-1], chunk(choice({"content": ""}, "stop")), END])
    assert (again.status, kinds(again)) == ("completed", [])
    other = viewed([*said()[:-1], chunk(choice({}, "length")), END])
    assert (other.status, kinds(other)) == ("completed", ["illegal_transition"])


def test_what_comes_after_the_end_is_flagged() -> None:
    late = chunk(choice({"content": "!"}))
    assert (texts(viewed([*said()[:-1], late])), kinds(viewed([*said()[:-1], late]))) == (["Hello there!"], ["delta_after_end"])
    assert (texts(viewed([*said(), late])), kinds(viewed([*said(), late]))) == (["Hello there"], ["delta_after_end"])


@pytest.mark.parametrize("end", [[], [END]])
@pytest.mark.parametrize("outcome", ["done", "eof", "cut", "client_closed"])
def test_without_a_finish_reason_the_end_is_unknown(end: list[Event], outcome: str) -> None:
    view = viewed([*said()[:3], *end], outcome=outcome)
    assert (view.object["status"], view.state, texts(view)) == ("in_progress", "unknown", ["Hello there"])
    assert types(view) == [("message_creation", "in_progress")]
    assert viewed([*said()[:3], *end], outcome=None).state == "active"


@pytest.mark.parametrize("outcome", ["eof", "cut"])
def test_a_missing_done_takes_nothing_away(outcome: str) -> None:
    assert viewed(said(usage=USAGE)[:-1], outcome=outcome).state == "ended"


def test_a_run_is_over_when_all_the_choices_that_were_asked_for_are() -> None:
    first, second = (chunk(choice({"content": "x"}, "stop", index)) for index in (0, 1))
    assert viewed([first], asking(n=2)).state == "unknown"
    assert viewed([first, second], asking(n=2)).state == "ended"
    assert viewed([first, END], asking(n=2)).state == "ended", "the server made but one"
    assert viewed([first, chunk(choice({"content": "x"}, None, 1))]).state == "unknown", "one more has begun"


@pytest.mark.parametrize(
    ("finished", "status"),
    [
        (("stop", "stop"), "completed"),
        (("stop", "length"), "incomplete"),
        (("content_filter", "length"), "incomplete"),
        (("stop", "error"), "failed"),
        (("stop", None), "in_progress"),
    ],
)
def test_of_several_choices_the_worst_counts(finished: tuple[str | None, ...], status: str) -> None:
    for order in itertools.permutations(enumerate(finished)):
        events = [chunk(choice({"content": "x"}, finish, index)) for index, finish in order]
        assert viewed([*events, END], asking(n=2)).object["status"] == status


# Errors

ERROR = {"code": "server_error", "type": None, "message": "It broke.", "param": None}


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("", {"error": {"code": "server_error", "message": "It broke."}}),
        ("error", {"error": {"code": "server_error", "message": "It broke."}}),
        ("error", {"type": "error", "error": {"code": "server_error", "message": "It broke."}}),
        ("error", {"code": "server_error", "message": "It broke."}),
        ("", {**chunk(choice({"content": ""}))[1], "error": {"code": "server_error", "message": "It broke."}}),
        ("", chunk({**choice({}, "error"), "error": {"code": "server_error", "message": "It broke."}})[1]),
    ],
)
def test_an_error_in_each_of_its_shapes_fails_the_run(name: str, payload: Object) -> None:
    fold = folded([*said()[:2], (name, payload)], outcome="error")
    assert fold.error == ERROR
    view = merge(KEY, [contribution(fold, KEY)])
    assert view.error == {**ERROR, "position": 2}
    assert (view.state, view.object["status"]) == ("ended", "failed")
    assert view.object["last_error"] == {"code": "server_error", "message": "It broke."}
    assert texts(view) == ["Hell"]
    assert [step.derived_status or step.object["status"] for step in view.steps] == ["failed"]


def test_an_error_as_a_text_is_its_message_and_a_number_its_code() -> None:
    assert folded([*said()[:2], ("", {"error": "It broke."})]).error == {**ERROR, "code": None}
    view = viewed([*said()[:2], ("", {"error": {"code": 502, "message": "Gone"}})])
    assert view.object["last_error"] == {"code": "502", "message": "Gone"}


@pytest.mark.parametrize("nothing", [None, {}, "", []])
def test_an_error_that_is_none_is_none(nothing: Any) -> None:
    events = [(name, {**payload, "error": nothing} if isinstance(payload, dict) else payload) for name, payload in said()]
    assert (folded(events).error, viewed(events).status) == (None, "completed")


def test_an_error_before_any_chunk_makes_no_run() -> None:
    fold = folded([("", {"error": {"code": "server_error", "message": "It broke."}})], outcome="error")
    assert (fold.error, {key for key in fold.states() if key}) == (ERROR, set())
    fold = body({"error": {"code": "server_error", "message": "It broke."}}, CHAT)
    assert (fold.error, {key for key in fold.states() if key}) == (ERROR, set())
    fold = body({"error": {"code": "server_error", "message": "It broke."}}, CHAT, status=500)
    assert (fold.error, {key for key in fold.states() if key}) == (ERROR, set())


def test_what_is_no_json_is_flagged() -> None:
    assert kinds(viewed([*said()[:2], ("", '{"choices": ['), *said()[2:]])) == ["unparsable"]
    own = folded([("", "{")]).states()[STREAM]["part"]
    assert [kind for _, kind, _ in own["anomalies"]] == ["unparsable"]


def test_the_first_delta_is_the_first_that_says_anything() -> None:
    silent = chunk(choice({"role": "assistant", "content": ""}))
    for delta in (
        {"content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"tool_calls": [call(0, "a", "f")]},
        {"audio": {"id": "x"}},
    ):
        assert viewed([silent, chunk(), chunk(choice(delta))]).first_delta_us == 2000
    assert viewed([silent, chunk()]).first_delta_us is None


# Completions that came whole


@pytest.mark.parametrize("request_", [CHAT, Request(stream_id=CHAT.stream_id)])
@pytest.mark.parametrize(
    ("message", "finish", "events"),
    [
        (None, "stop", said("Hello there", USAGE)),
        ({"role": "assistant", "content": None, "tool_calls": [tool_call()]}, "tool_calls", called()),
        (
            {"role": "assistant", "content": "Hello there"},
            "length",
            [*said()[:-2], chunk(choice({}, "length")), END],
        ),
        ({"role": "assistant", "content": "b", "reasoning": "a"}, "stop", saying({"reasoning": "a"}, {"content": "b"})),
        ({"role": "assistant", "content": None, "refusal": "no"}, "stop", saying({"refusal": "no"})),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            "function_call",
            saying({"function_call": {"name": "f", "arguments": "{}"}}, finish="function_call"),
        ),
    ],
)
def test_a_completion_that_came_whole_is_shown_as_a_stream_of_it(
    request_: Request, message: Object | None, finish: str, events: list[Event]
) -> None:
    whole = completion(message, finish)
    fold = body(whole, request_)
    assert fold.protocol == "chat"
    view, streamed = merge(KEY, [contribution(fold, KEY)]), viewed(events)
    assert view.source_object == whole
    assert (view.steps, view.messages, view.calls) == (streamed.steps, streamed.messages, streamed.calls)
    assert (view.status, view.state, view.object["required_action"]) == (
        streamed.status,
        streamed.state,
        streamed.object["required_action"],
    )
    assert view.object["usage"] == USAGE


def test_a_completion_with_several_choices_or_none() -> None:
    choices = [{"index": n, "message": {"role": "assistant", "content": str(n)}, "finish_reason": "stop"} for n in range(3)]
    fold = body(completion(choices=choices), asking(n=3))
    assert texts(merge(KEY, [contribution(fold, KEY)])) == ["0", "1", "2"]
    view = merge(KEY, [contribution(body(completion(choices=[]), CHAT), KEY)])
    assert (view.state, view.steps) == ("unknown", [])


def test_a_completion_may_have_an_error_in_it() -> None:
    broken = completion(
        choices=[{"index": 0, "finish_reason": "error", "error": {"code": 502, "message": "Gone"}, "message": {}}]
    )
    view = merge(KEY, [contribution(body(broken, CHAT), KEY)])
    assert (view.status, view.object["last_error"]) == ("failed", {"code": "502", "message": "Gone"})


def test_a_body_in_pieces_is_folded_when_it_is_whole() -> None:
    said = completion({"role": "assistant", "content": "{}}" * 50})
    text = json.dumps(said)
    fold = StreamFold(CHAT)
    fold.feed(0, 0, "$response", '{"status": 200, "headers": [["content-type", "application/json"]]}')
    for number, at in enumerate(range(0, len(text), 100), 1):
        fold = StreamFold(CHAT, jsontext.loads(jsontext.dumps(fold.states())))
        assert not {key for key in fold.states() if key}
        fold.feed(number, number, "$body", text[at : at + 100])
    assert merge(KEY, [contribution(fold, KEY)]).source_object == said


# Calls that the client answers


@pytest.mark.parametrize(
    ("messages", "answers", "continues"),
    [
        (None, [], False),
        ("Hi", [], False),
        ([], [], False),
        ([{"role": "user", "content": "Hi"}, None, 5], [], False),
        (history(("a", "1")).body["messages"], [("a", "1")], True),
        (history(("a", "1"), ("b", "2")).body["messages"], [("a", "1"), ("b", "2")], True),
        (history(("a", "1"), ("a", "2")).body["messages"], [("a", "1"), ("a", "2")], True),
        (history(("a", "1"), then="And now?").body["messages"], [("a", "1")], False),
        (
            [{"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "x"}]}],
            [("a", [{"type": "text", "text": "x"}])],
            True,
        ),
        ([{"role": "tool", "content": "of nothing"}], [], False),
        (
            [
                {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "1"},
            ],
            [(call_id(None, "f", "{}"), "1")],
            True,
        ),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [tool_call("", "{}", "f"), tool_call("", "{}", "g"), tool_call("", "[]", "f")],
                },
                {"role": "tool", "name": "g", "tool_call_id": "", "content": "of g"},
                {"role": "tool", "tool_call_id": "", "content": "of f"},
                {"role": "tool", "tool_call_id": "", "content": "of f too"},
                {"role": "tool", "tool_call_id": "", "content": "of none"},
            ],
            [(call_id(None, "g", "{}"), "of g"), (call_id(None, "f", "{}"), "of f"), (call_id(None, "f", "[]"), "of f too")],
            True,
        ),
    ],
)
def test_the_calls_that_a_request_answers(messages: Any, answers: list[tuple[str, Any]], continues: bool) -> None:
    request = asking(messages=messages)
    found = StreamFold(request).answers or []
    assert [(answer.id, answer.output) for answer in found] == answers
    assert [answer.last for answer in found] == [False] * (len(answers) - continues) + [True] * continues


def test_of_very_many_outputs_the_last_are_looked_at() -> None:
    fold = StreamFold(history(*((f"call_{n}", "x") for n in range(300))))
    assert [answer.id for answer in fold.answers or ()] == [f"call_{n}" for n in range(172, 300)]


def test_a_call_shows_the_output_that_a_later_request_gave() -> None:
    part = contribution(folded(called(ids=["call_1", "call_2"])), KEY)
    half, both = (merge(KEY, [part], given) for given in ({"call_1": "rain"}, {"call_1": "rain", "call_2": [{"type": "text"}]}))
    assert (half.state, half.status, types(half)) == ("waiting", "requires_action", [("tool_calls", "in_progress")])
    assert [entry["id"] for entry in half.object["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_2"]
    assert (both.state, both.status, types(both)) == ("ended", "completed", [("tool_calls", "completed")])
    entries = both.steps[0].object["step_details"]["tool_calls"]
    assert [entry["function"]["output"] for entry in entries] == ["rain", '[{"type":"text"}]']


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_conversation_is_one_logical_run_until_the_user_speaks(
    engine: sa.Engine, order: tuple[int, ...], at_once: bool
) -> None:
    streams = [
        told(1, called(ids=["call_a"]), history()),
        told(2, called(ids=["call_b"]), history(("call_a", "rain"))),
        told(3, said("Wet"), history(("call_a", "rain"), ("call_b", "sun"))),
    ]
    record(engine, *(streams[number] for number in order), at_once=at_once)
    keys = [f"chat_{stream_id(number)}" for number in (1, 2, 3)]
    assert outputs(engine) == {f"{keys[0]}/call_a": "rain", f"{keys[1]}/call_b": "sun"}
    assert columns(engine, "status", "state", "logical_run_id") == dict.fromkeys(keys, ("completed", "ended", keys[0]))
    assert columns(engine, "session_id") == {key: stream_id(number) for number, key in enumerate(keys, 1)}
    record(engine, told(4, said("Dry"), history(("call_a", "rain"), ("call_b", "sun"), then="Tomorrow?")))
    assert columns(engine, "logical_run_id")[f"chat_{stream_id(4)}"] == f"chat_{stream_id(4)}"


def test_a_label_makes_a_session_of_chats(engine: sa.Engine) -> None:
    record(engine, *(told(number, said(), CHAT, label="mine") for number in (1, 2)))
    assert set(columns(engine, "session_id").values()) == {"mine"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_call_without_an_id_is_answered_all_the_same(engine: sa.Engine, order: tuple[int, int]) -> None:
    """As Google's are, and the old function_call."""
    answered = [
        *CHAT.body["messages"],
        {"role": "assistant", "tool_calls": [tool_call("", "{}", "f")]},
        {"role": "tool", "tool_call_id": "", "content": "1"},
    ]
    streams = [told(1, calling(call(None, "", "f", "{}"), finish="stop"), CHAT), told(2, said(), asking(messages=answered))]
    record(engine, *(streams[number] for number in order))
    first, second = (f"chat_{stream_id(number)}" for number in (1, 2))
    assert outputs(engine) == {f"{first}/{call_id(None, 'f', '{}')}": "1"}
    assert columns(engine, "status", "logical_run_id") == {first: ("completed", first), second: ("completed", first)}


# The completion's own id


def test_a_run_is_found_by_its_completions_id_where_no_other_has_it(engine: sa.Engine) -> None:
    record(engine, told(1, said(), CHAT))
    key = f"chat_{stream_id(1)}"
    with database.read(engine) as connection:
        for id in ("chatcmpl-1", "chatcmpl", key, key[:-1]):
            assert queries.resolve(connection, id) == ("run", key)
        with pytest.raises(UnknownID):
            queries.resolve(connection, "chatcmpl-2")
        assert connection.execute(sa.select(runs.c.run_id, runs.c.source_id)).all() == [(key, "chatcmpl-1")]
    record(engine, told(2, said(), CHAT))
    with database.read(engine) as connection, pytest.raises(AmbiguousID, match=key):
        queries.resolve(connection, "chatcmpl-1")


def test_a_chat_is_shown_as_it_stood_after_each_chunk(engine: sa.Engine) -> None:
    events = called()
    record(engine, told(1, events, history()), told(2, said(), history(("call_1", "rain"))))
    key = f"chat_{stream_id(1)}"
    seen = []
    with database.read(engine) as connection:
        for at in range(len(events)):
            shown = queries.show_run_at(connection, key, None, at)
            steps = [step["step_details"]["tool_calls"][0]["function"]["arguments"] for step in shown["steps"]]
            seen.append((shown["status"], shown["state"], steps))
        assert queries.show_run(connection, key)["status"] == "completed"
    running = ("in_progress", "active")
    whole = ['{"city":"Oslo"}']
    assert seen == [
        (*running, []),
        (*running, [""]),
        (*running, [whole[0][:7]]),
        (*running, whole),
        *[("requires_action", "waiting", whole)] * 2,
    ]


# Whatever comes

LONG: list[Event] = [
    chunk(choice({"role": "assistant", "content": "", "reasoning": "a"}), choice({"role": "assistant"}, index=1)),
    chunk(choice({"content": "It was a dark"}), usage=USAGE),
    chunk(
        choice({"content": " night", "audio": {"transcript": "x", "data": "AA"}}, index=1, logprobs={"content": [{"token": "x"}]})
    ),
    chunk(choice({"tool_calls": [call(0, "call_1", "f", "{"), call(None, "call_2", "g", "[")]})),
    chunk(choice({"tool_calls": [call(0, arguments="}"), call(0, "call_3", "h", "1"), call(5, "call_4", "h")]})),
    chunk(choice({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "b"}]}]}, index=1)),
    chunk(choice({"reasoning_details": [{"index": 0, "text": "c"}], "annotations": [{"type": "url_citation"}]})),
    chunk(
        {"index": 1, "message": {"role": "assistant", "content": "whole", "tool_calls": [tool_call()]}, "finish_reason": "length"}
    ),
    chunk(choice({"function_call": {"name": "f", "arguments": "{}"}}, "tool_calls"), timings={"predicted_n": 2}),
    chunk(x_groq={"usage": USAGE}, error={"message": "It broke."}),
    END,
]

names = st.sampled_from(["", "message", "error", "odd", "done"])
indices = st.sampled_from([0, 1, 5, -1, 10**12, True, None, "0", 0.5])
field_names = st.sampled_from(
    [
        "id", "object", "created", "model", "choices", "usage", "error", "index", "delta", "message", "finish_reason", "logprobs",
        "content", "refusal", "reasoning", "tool_calls", "function_call", "function", "custom", "arguments", "name", "type",
        "audio", "annotations", "x_groq", "timings", "thinking", "role",
    ]
)  # fmt: skip
sound = st.sampled_from([*LONG, *called(), *said(usage=USAGE)])


@st.composite
def mangled(draw: st.DrawFn) -> Event:
    """A sound chunk with some of its values exchanged, at any depth."""
    name, payload = draw(sound)
    if not isinstance(payload, dict):
        return name, payload
    return draw(st.just(name) | names), exchanged(draw, payload, values | indices, 3)


@st.composite
def made_up(draw: st.DrawFn) -> Event:
    fields = st.dictionaries(field_names, values | indices, max_size=5)
    inner = draw(fields)
    return draw(names), {**draw(fields), "choices": [{"index": draw(indices), "delta": inner, "finish_reason": draw(values)}]}


garbage = (
    mangled()
    | made_up()
    | sound
    | st.tuples(names, values)
    | st.tuples(names, st.text(max_size=20))
    | st.tuples(
        st.just("$body"),
        st.builds(json.dumps, st.sampled_from([completion(), completion({}), [1], {"choices": [{"message": {}}]}])),
    )
)
requests = st.sampled_from([Request(), CHAT, asking(n=2), asking(n="x"), history(("call_1", "x")), CHAT._replace(method="GET")])


@given(requests, st.lists(garbage, max_size=12))
@settings(max_examples=300)
def test_no_events_whatever_they_hold_stop_the_fold(request: Request, events: list[Event]) -> None:
    response = Frame("$response", '{"status": 200, "headers": [["content-type", "application/json"]]}')
    fold = fed(StreamFold(request), [response, *frames(events)])
    for key in fold.states():
        if key != STREAM:
            view = merge(key, [contribution(fold, key)], {"call_1": "rain"})
            assert "not_folded" not in kinds(view)
            assert len({step.id for step in view.steps}) == len(view.steps)
            assert len({message.id for message in view.messages}) == len(view.messages)
    for state in as_text(fold).values():
        state.encode()
        assert "\0" not in state


@given(requests, st.lists(garbage, max_size=12), st.integers(0, 12))
@settings(max_examples=300)
def test_a_fold_that_goes_on_from_its_saved_states_has_the_same_states(request: Request, events: list[Event], at: int) -> None:
    response = Frame("$response", '{"status": 200, "headers": [["content-type", "application/json"]]}')
    given: list[Frame] = [response, *frames(events)]
    straight = fed(StreamFold(request), given)
    saved = as_text(fed(StreamFold(request), given[:at]))
    resumed = StreamFold(request, {key: jsontext.loads(state) for key, state in saved.items()})
    assert as_text(fed(resumed, given[at:], at)) == as_text(straight)


@given(st.data())
@settings(max_examples=100)
def test_choices_may_interleave_in_any_way(draw: st.DataObject) -> None:
    """What each choice says does not depend on when the others speak."""
    wanted = {0: "It was a dark night", 1: "{}", 2: ""}
    left = {
        0: [choice({"content": "It was"}), choice({"content": " a dark"}), choice({"content": " night"}), choice({}, "stop")],
        1: [choice({"tool_calls": [call(0, "a", "f", given)]}, index=1) for given in ("", "{", "}")]
        + [choice({}, "tool_calls", 1)],
        2: [choice({"reasoning": given}, index=2) for given in "abc"] + [choice({}, "stop", 2)],
    }
    events = []
    while any(left.values()):
        at = draw.draw(st.sampled_from([index for index, rest in left.items() if rest]))
        events.append(chunk(left[at].pop(0)))
    view = viewed([*events, END], asking(n=3))
    assert texts(view) == [wanted[0]]
    assert calls_in(view) == [("a", "f", "{}")]
    assert types(view) == [("message_creation", "completed"), ("tool_calls", "in_progress"), ("reasoning", "completed")]
    assert (view.status, kinds(view)) == ("requires_action", [])


@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=100)
def test_a_text_is_the_same_however_it_is_cut_into_deltas(text: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(bounds)] or [text]
    view = viewed(saying(*({"content": piece, "reasoning_content": piece} for piece in pieces)))
    assert message_of(view) == {"role": "assistant", "content": text, "reasoning_content": text}
    call_view = viewed(calling(call(0, "a", "f", ""), *(call(0, arguments=piece) for piece in pieces)))
    assert calls_in(call_view) == [("a", "f", text)]


def test_a_piece_of_a_call_without_index_and_name_under_an_id_of_its_own_goes_on_with_the_last() -> None:
    view = viewed(calling(call(None, "call_1", "weather", '{"city":'), call(None, "call_2", arguments='"Oslo"}')))
    assert [each["function"]["arguments"] for each in message_of(view)["tool_calls"]] == ['{"city":"Oslo"}']
    assert kinds(view) == ["id_changed"]


def test_halves_of_a_character_in_two_deltas_are_one() -> None:
    thought, said = ([{field: half} for half in ("\ud83d", "\ude00")] for field in ("reasoning_content", "content"))
    view = viewed(saying(*thought, *said))
    assert (message_of(view)["content"], message_of(view)["reasoning_content"]) == ("\U0001f600", "\U0001f600")
