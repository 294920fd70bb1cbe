"""Anthropic's Messages: what a message comes to, streamed, whole, and answered by the next request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recorder.protocols.anthropic import repeats
from recorder.protocols.errors import ToolError, tool_error
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM, Request
from recorder.protocols.view import RunView
from tests.test_fixtures import expected, frames_of, request_of

ASKED = Request("POST", "api.anthropic.com", "/v1/messages", body={"model": "m", "max_tokens": 9, "messages": []}, stream_id="s")


def event(type: str, **more: Any) -> tuple[str, str]:
    return type, json.dumps({"type": type, **more})


def begun(**usage: int) -> tuple[str, str]:
    return event("message_start", message={"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "usage": usage})


def text(said: str) -> list[tuple[str, str]]:
    return [
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": said}),
        event("content_block_stop", index=0),
    ]


def view(*events: tuple[str, str], request: Request = ASKED) -> RunView:
    from tests.test_assistants import contribution

    fold = StreamFold(request)
    fold.feed_all((position, position * 10, type, data) for position, (type, data) in enumerate(events))
    (key,) = [key for key in fold.states() if key != STREAM]
    return merge(key, [contribution(fold, key)])


@pytest.mark.parametrize(
    ("reason", "status", "why", "anomalies"),
    [
        ("end_turn", "completed", None, []),
        ("stop_sequence", "completed", None, []),
        ("tool_use", "completed", None, []),  # without a call there is nothing to be done
        ("pause_turn", "requires_action", None, []),
        ("compaction", "requires_action", None, []),
        ("max_tokens", "incomplete", "max_completion_tokens", []),
        ("model_context_window_exceeded", "incomplete", "max_prompt_tokens", []),
        ("refusal", "incomplete", "content_filter", []),
        ("guardrail_intervened", "incomplete", "content_filter", []),
        ("sensitive", "incomplete", "content_filter", []),
        ("network_error", "failed", None, []),
        ("malformed_tool_use", "failed", None, []),
        ("one that is new", "incomplete", "one that is new", ["unknown_finish_reason"]),
    ],
)
def test_why_it_stopped_says_how_the_run_came_out(reason: str, status: str, why: str | None, anomalies: list[str]) -> None:
    delta = event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3})
    found = view(begun(input_tokens=1), *text("Hi"), delta, event("message_stop"))
    assert (found.object["status"], found.object["incomplete_details"]) == (status, why and {"reason": why})
    assert [kind for _, _, kind, _ in found.anomalies] == anomalies
    assert (found.object["last_error"] or {}).get("code") == (reason if status == "failed" else None)
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": reason}
    head = json.dumps({"status": 200, "headers": [["content-type", "application/json"]]})
    assert view(("$response", head), ("$body", json.dumps(whole))).object["status"] == status


def test_a_refusal_is_told_with_its_details() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "This would harm others."}
    delta = event("message_delta", delta={"stop_reason": "refusal", "stop_details": details})
    found = view(begun(input_tokens=1), *text("I"), delta, event("message_stop"))
    assert found.object["incomplete_details"] == {
        "reason": "content_filter",
        "category": "cyber",
        "message": "This would harm others.",
    }
    assert found.failure is not None
    assert found.failure[:3] == ("incomplete", "content_filter", "This would harm others.")
    assert found.failure.position == 4  # of the message_delta


def test_usage_is_overwritten_and_counts_what_the_cache_gave_and_took() -> None:
    first = begun(input_tokens=2, cache_creation_input_tokens=3, cache_read_input_tokens=5, output_tokens=1)
    deltas = [event("message_delta", delta={}, usage={"output_tokens": count}) for count in (7, 11)]
    usage = view(first, *deltas).object["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 11, 21)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 3}


def test_usage_that_nobody_said_is_unknown() -> None:
    assert view(begun(), *text("Hi")).object["usage"] is None


def test_a_message_that_came_whole_is_shown_as_one_that_was_streamed() -> None:
    stream, frames = frames_of("anthropic/tool-use-pending")
    want = expected("anthropic/tool-use-pending")["runs"][0]
    head = json.dumps({"status": 200, "headers": [["content-type", "application/json"]]})
    whole = ("$response", head), ("$body", json.dumps(want["source_object"]))
    found = view(*whole, request=request_of(stream))
    assert (found.object, [step.object for step in found.steps]) == (
        {key: want[key] for key in found.object},
        want["steps"],
    )
    assert len(frames) > 10


def test_calls_are_answered_by_the_next_request() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "high"}]}
    request = ASKED._replace(body={"messages": [{"role": "user", "content": [result]}]})
    (answer,) = repeats(request).answers
    assert (answer.id, answer.output) == ("toolu_1", '[{"type":"text","text":"high"}]')


def test_a_block_that_did_not_begin_is_kept_and_said() -> None:
    found = view(begun(), event("content_block_delta", index=2, delta={"type": "text_delta", "text": "Hi"}))
    assert {kind for _, _, kind, _ in found.anomalies} == {"delta_without_object", "index_gap"}


def test_what_is_no_object_is_an_anomaly() -> None:
    found = view(begun(), ("content_block_delta", "{"))
    assert [kind for _, _, kind, _ in found.anomalies] == ["unparsable"]


def test_a_compaction_is_a_step_with_its_summary() -> None:
    found = view(
        begun(input_tokens=1),
        event("content_block_start", index=0, content_block={"type": "compaction", "content": None}),
        event("content_block_delta", index=0, delta={"type": "compaction_delta", "content": "A trip "}),
        event("content_block_delta", index=0, delta={"type": "compaction_delta", "content": "to Oslo."}),
        event("content_block_stop", index=0),
    )
    assert found.source_object is not None
    summary = {"type": "compaction", "content": "A trip to Oslo."}
    assert found.source_object["content"] == [summary]
    assert [step.object["step_details"] for step in found.steps] == [{"type": "activities", "activities": [summary]}]


def test_a_tool_of_an_mcp_server_is_of_type_mcp_and_keeps_its_servers_name() -> None:
    block = {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "lookup", "server_name": "crm", "input": {}}
    result = {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": "Ann"}
    found = view(
        begun(),
        event("content_block_start", index=0, content_block=block),
        event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"id":7}'}),
        event("content_block_start", index=1, content_block=result),
    )
    (call,) = found.steps[0].object["step_details"]["tool_calls"]
    assert {key: call[key] for key in ("type", "server_label", "name", "arguments", "output")} == {
        "type": "mcp",
        "server_label": "crm",
        "name": "lookup",
        "arguments": '{"id":7}',
        "output": "Ann",
    }


def test_blocks_without_an_index_come_one_after_the_other() -> None:
    events = [json.loads(data) for _, data in (*text("Hi"), *text(" there"))]
    bare = [event(each.pop("type"), **{key: value for key, value in each.items() if key != "index"}) for each in events]
    found = view(begun(), *bare)
    assert [part["text"]["value"] for part in found.messages[0].object["content"]] == ["Hi", " there"]
    assert found.anomalies == []


def test_halves_of_a_character_in_two_deltas_are_one() -> None:
    halves = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": half}) for half in ("\ud83d", "\ude00")]
    found = view(begun(), text("")[0], *halves)
    assert found.messages[0].object["content"][0]["text"]["value"] == "\U0001f600"


def test_a_tool_that_its_client_says_failed_is_a_failed_call() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": "no such file"}
    (found,) = repeats(Request(body={"messages": [{"role": "user", "content": [result]}]})).answers
    assert (found.id, found.output) == ("toolu_1", ToolError("no such file"))
    assert tool_error(found.output) == {"code": None, "message": "no such file"}


@pytest.mark.parametrize(
    ("content", "more", "code", "message"),
    [
        ({"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}, {}, "max_uses_exceeded", None),
        ({"type": "web_fetch_tool_result_error", "error_code": "url_not_accessible"}, {}, "url_not_accessible", None),
        ([{"type": "text", "text": "refused"}], {"is_error": True}, "web_search", "refused"),
    ],
)
def test_a_tool_of_the_server_that_says_it_failed_is_a_failed_call(
    content: Any, more: dict[str, Any], code: str, message: str | None
) -> None:
    call = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": content, **more}
    blocks = [
        each
        for index, block in enumerate((call, result))
        for each in (
            event("content_block_start", index=index, content_block=block),
            event("content_block_stop", index=index),
        )
    ]
    found = view(begun(input_tokens=1), *blocks, event("message_delta", delta={"stop_reason": "end_turn"}), event("message_stop"))
    assert found.object["status"] == "completed"
    assert found.failure is not None
    assert found.failure[:3] == ("tool_failed", code, message)
    assert found.failure.position == 3  # of the result, not of the call


def test_of_several_calls_that_are_answered_at_once_the_failed_one_is_shown_by_its_own_result() -> None:
    calls = [{"type": "server_tool_use", "id": f"srv_{number}", "name": "web_fetch", "input": {}} for number in (1, 2, 3)]
    broke = {"type": "web_fetch_tool_result_error", "error_code": "unavailable"}
    contents = {"srv_1": {"type": "web_fetch_result"}, "srv_2": broke, "srv_3": {"type": "web_fetch_result"}}
    results = [{"type": "web_fetch_tool_result", "tool_use_id": id, "content": content} for id, content in contents.items()]
    starts = [event("content_block_start", index=index, content_block=block) for index, block in enumerate((*calls, *results))]
    found = view(begun(), *starts, event("message_delta", delta={"stop_reason": "end_turn"}), event("message_stop"))
    assert found.failure is not None
    assert found.failure[:2] == ("tool_failed", "unavailable")
    assert found.failure.position == 1 + len(calls) + 1
