"""Where two requests differ, field by field: which, in what order, and what redaction made of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.redaction.filler import blank
from recorder.replay.difference import SHOWN, differences, of_bytes


def fields(recorded: Any, seen: Any) -> list[str]:
    return [one.at for one in differences(recorded, seen)]


def said(recorded: Any, seen: Any) -> list[str]:
    return [str(one) for one in differences(recorded, seen)]


def test_every_field_is_named_not_the_first_alone() -> None:
    recorded = {"model": "a", "n": [1, {"x": 1}], "t": 0.5, "gone": 1}
    seen = {"model": "b", "n": [2, {"x": 3}, 4], "t": 0.5, "new": None}
    assert said(recorded, seen) == [
        ".gone is missing",
        '.model is "b", recorded was "a"',
        ".n[0] is 2, recorded was 1",
        ".n[1].x is 3, recorded was 1",
        ".n has 3 entries, recorded were 2",
        ".new is new",
    ]


ASSISTANTS = {"tool_outputs": [{"tool_call_id": "call_1", "output": "rain"}, {"tool_call_id": "call_2", "output": "7"}]}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "call_9", "content": "rain"}]}
RESPONSES = {"input": [{"type": "function_call_output", "call_id": "call_4", "output": "rain"}]}
MESSAGES = {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]}]}


@pytest.mark.parametrize(
    ("body", "field", "call"),
    [
        (ASSISTANTS, ".tool_outputs[0].output", "call_1"),
        (CHAT, ".messages[1].content", "call_9"),
        (RESPONSES, ".input[0].output", "call_4"),
        (MESSAGES, ".messages[0].content[0].content", "toolu_1"),
    ],
    ids=["assistants", "chat", "responses", "messages"],
)
def test_a_tool_output_is_named_with_its_call_and_before_all_else(body: dict[str, Any], field: str, call: str) -> None:
    seen = json.loads(json.dumps({**body, "a": 1}).replace("rain", "snow"))
    first, other = differences(body, seen)
    assert (first.at, first.call, other.at, other.call) == (field, call, ".a", None)
    assert first.document() == {"field": field, "recorded": "rain", "seen": "snow", "tool_call_id": call}


def test_a_tool_output_more_or_less_is_named_with_its_call() -> None:
    (one,) = differences(ASSISTANTS, {"tool_outputs": ASSISTANTS["tool_outputs"][:1]})
    assert (str(one), one.call) == (".tool_outputs has 1 entries, recorded were 2", "call_2")
    assert one.document()["recorded"] == [{"tool_call_id": "call_2", "output": "7"}]
    assert one.document()["seen"] == []


def test_a_side_without_the_member_has_no_value() -> None:
    assert [one.document() for one in differences({"a": 1}, {"b": None})] == [
        {"field": ".a", "recorded": 1},
        {"field": ".b", "seen": None},
    ]


def test_what_was_redacted_is_taken_for_equal() -> None:
    seen = {"messages": [{"role": "user", "content": "Grüße, 4711!"}, {"role": "user", "content": "ok"}], "n": 73912}
    recorded = json.loads(json.dumps(seen))
    recorded["n"] = 11111
    for message in recorded["messages"]:
        message["content"] = blank(message["content"])
    assert fields(recorded, seen) == []
    recorded["messages"][0]["role"] = "system"
    assert fields(recorded, seen) == [".messages[0].role"]


def test_a_pattern_that_was_redacted_leaves_the_rest_to_be_compared() -> None:
    assert fields({"a": "my key is xxxxxxxx."}, {"a": "my key is sk-12345."}) == []
    assert fields({"a": "my key is xxxxxxxx."}, {"a": "my kex is sk-12345."}) == [".a"]


@pytest.mark.parametrize(("recorded", "seen"), [("x", "y"), ("xxx", "abc"), ("rain", "snow"), (1, 7), ("xxxx", "toolong")])
def test_a_short_text_of_its_own_is_no_redaction(recorded: Any, seen: Any) -> None:
    assert fields({"output": recorded}, {"output": seen}) == [".output"]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert differences(value, json.loads(json.dumps(value))) == []


@given(VALUES, VALUES)
def test_documents_are_json_and_texts_are_one_line_each(recorded: Any, seen: Any) -> None:
    for one in differences(recorded, seen):
        json.dumps(one.document())
        assert str(one)


def test_a_long_value_is_cut_short() -> None:
    (one,) = differences({"a": "a" * 100_000}, {"a": "b" * 100_000})
    assert len(str(one)) < 200
    assert len(one.document()["seen"]) == SHOWN + 1


def test_bodies_that_are_no_json_differ_in_their_bytes() -> None:
    one = of_bytes(b"\xff\x00", b"abc")
    assert str(one) == "the body has 3 bytes, recorded were 2"
    assert one.document() == {"field": "", "recorded": "\\xff\x00", "seen": "abc"}
