"""Merging indexed fragments."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recorder import jsontext
from recorder.protocols import deltas
from recorder.vocabulary import STREAMED


def merged(*given: dict[str, Any], into: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """What these deltas add up to in the API's final form, and the kinds of the problems that they made."""
    accumulation, problems = {} if into is None else into, []
    for delta in given:
        deltas.merge(accumulation, delta, STREAMED, lambda kind, detail: problems.append(kind))
    return deltas.final(deltas.plain(accumulation)), problems


def part(index: int, value: str) -> dict[str, Any]:
    return {"index": index, "type": "text", "text": {"value": value}}


def texts(accumulated: dict[str, Any]) -> list[str]:
    return [entry["text"]["value"] for entry in accumulated["content"]]


def test_two_entries_with_one_index_in_the_first_chunk_are_merged() -> None:
    found, problems = merged({"content": [part(0, "Hel"), part(0, "lo")]})
    assert texts(found) == ["Hello"]
    assert problems == []


def test_indices_that_come_in_the_order_0_2_1_are_mapped_by_index() -> None:
    found, problems = merged({"content": [part(0, "a")]}, {"content": [part(2, "c")]}, {"content": [part(1, "b")]})
    assert texts(found) == ["a", "b", "c"]
    assert problems == []


def test_index_1_before_0_makes_two_entries_in_order() -> None:
    found, _ = merged({"content": [part(1, "b")]}, {"content": [part(0, "a")]}, {"content": [part(1, "B")]})
    assert texts(found) == ["a", "bB"]


def test_null_after_a_value_keeps_the_value() -> None:
    found, _ = merged({"content": [part(0, "a")], "role": "assistant"}, {"content": None, "role": None})
    assert found == {"content": [{"type": "text", "text": {"value": "a"}}], "role": "assistant"}


def test_null_then_strings_is_replaced_then_concatenated() -> None:
    found, _ = merged({"text": {"value": None}}, {"text": {"value": "a"}}, {"text": {"value": "b"}})
    assert found == {"text": {"value": "ab"}}


@pytest.mark.parametrize("key", ["id", "name", "type", "message_id", "file_id"])
def test_an_identifier_that_is_repeated_is_replaced(key: str) -> None:
    found, problems = merged({"function": {key: "call_1"}}, {"function": {key: "call_1"}})
    assert found == {"function": {key: "call_1"}}
    assert problems == []


@pytest.mark.parametrize("key", ["start_index", "end_index"])
def test_an_offset_that_is_repeated_is_replaced_and_not_summed(key: str) -> None:
    delta = {"annotations": [{"index": 0, "type": "file_citation", key: 3}]}
    found, _ = merged(delta, delta)
    assert found["annotations"][0][key] == 3


def test_an_annotation_repeated_at_its_index_replaces_it() -> None:
    cited = {"index": 0, "type": "file_citation", "text": "[1]", "start_index": 1, "file_citation": {"file_id": "file_1"}}
    delta = {"content": [{"index": 0, "type": "text", "text": {"annotations": [cited]}}]}
    found, problems = merged(delta, delta)
    assert found["content"][0]["text"]["annotations"] == [{key: value for key, value in cited.items() if key != "index"}]
    assert problems == []


def test_an_entry_without_index_is_appended_and_flagged() -> None:
    found, problems = merged({"content": [part(0, "a")]}, {"content": [{"type": "text", "text": {"value": "b"}}]})
    assert texts(found) == ["a", "b"]
    assert problems == ["index_missing"]


@pytest.mark.parametrize("index", [-1, deltas.INDEX_LIMIT, 2**70, 1.0, "0", True, [0]])
def test_an_index_that_is_none_is_rejected_and_flagged(index: Any) -> None:
    found, problems = merged({"content": [part(0, "a")]}, {"content": [{"index": index, "type": "text", "text": {"value": "b"}}]})
    assert texts(found) == ["a"]
    assert problems == ["index_invalid"]


def test_the_highest_index_costs_one_entry() -> None:
    found, problems = merged({"content": [part(deltas.INDEX_LIMIT - 1, "z")]}, {"content": [part(0, "a")]})
    assert texts(found) == ["a", "z"]
    assert problems == []


def test_parts_with_index_0_then_2_are_both_kept() -> None:
    found, _ = merged({"content": [part(0, "a")]}, {"content": [part(2, "c")]})
    assert texts(found) == ["a", "c"]


def test_numbers_are_replaced_and_not_added() -> None:
    assert merged({"score": 1}, {"score": 2})[0] == {"score": 2}


@pytest.mark.parametrize(("parent", "key"), [("text", "value"), ("function", "arguments"), ("code_interpreter", "input")])
def test_streamed_strings_are_concatenated(parent: str, key: str) -> None:
    assert merged({parent: {key: "a"}}, {parent: {key: ""}}, {parent: {key: "b"}})[0] == {parent: {key: "ab"}}


@pytest.mark.parametrize(("parent", "key"), [("content", "refusal"), ("outputs", "logs"), ("tool_calls", "arguments")])
def test_streamed_strings_of_list_entries_are_concatenated(parent: str, key: str) -> None:
    assert merged({parent: [{"index": 0, key: "a"}]}, {parent: [{"index": 0, key: "b"}]})[0] == {parent: [{key: "ab"}]}


@pytest.mark.parametrize(("parent", "key"), [("text", "mood"), ("function", "output"), ("bing_grounding", "requesturl")])
def test_an_unknown_string_is_replaced(parent: str, key: str) -> None:
    assert merged({parent: {key: "a"}}, {parent: {key: "b"}})[0] == {parent: {key: "b"}}


def test_the_grounding_maps_are_replaced_per_key() -> None:
    found, _ = merged({"bing_grounding": {"a": "1", "b": "2"}}, {"bing_grounding": {"b": "3", "c": "4"}})
    assert found == {"bing_grounding": {"a": "1", "b": "3", "c": "4"}}


def test_scalars_in_a_list_are_extended_as_the_sdk_does() -> None:
    assert merged({"file_ids": ["a"]}, {"file_ids": ["b"]})[0] == {"file_ids": ["a", "b"]}


def test_an_empty_list_takes_nothing_away() -> None:
    assert merged({"file_ids": ["a"]}, {"file_ids": []})[0] == {"file_ids": ["a"]}
    assert texts(merged({"content": [part(0, "a")]}, {"content": []})[0]) == ["a"]


def test_scalars_after_entries_take_no_entry_away() -> None:
    found, _ = merged({"content": [part(0, "a")]}, {"content": ["stray"]})
    assert {"type": "text", "text": {"value": "a"}} in found["content"]


def test_deltas_extend_what_a_snapshot_without_index_said() -> None:
    found, _ = merged({"content": [part(1, "!")]}, into={"content": [{"text": {"value": "a"}}, {"text": {"value": "b"}}]})
    assert texts(found) == ["a", "b!"]


def test_merging_leaves_the_delta_as_it_was() -> None:
    delta = {"content": [part(0, "a")], "step_details": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}
    before = copy.deepcopy(delta)
    merged(delta, delta, delta)
    assert delta == before


class TestDifferences:
    def differences(self, accumulated: Any, snapshot: Any) -> list[str]:
        return list(deltas.differences(accumulated, snapshot, STREAMED, "content", "content"))

    def test_none_where_the_deltas_add_up(self) -> None:
        assert self.differences([part(0, "a"), part(1, "b")], [part(0, "a"), part(1, "b")]) == []

    def test_each_streamed_string_that_differs_has_its_path(self) -> None:
        found = self.differences([part(0, "a"), part(1, "b")], [part(0, "a"), part(1, "x")])
        assert found == ["content[1].text.value"]

    def test_a_fragment_that_the_snapshot_lacks_is_one(self) -> None:
        assert self.differences([part(0, "a"), part(1, "b")], [part(0, "a")]) == ["content[1]"]
        assert self.differences([part(0, "a")], [{"type": "text", "text": {}}]) == ["content[0].text.value"]

    def test_what_only_the_snapshot_has_is_none(self) -> None:
        accumulated = [{"index": 0, "type": "function", "function": {"arguments": "{}"}}]
        snapshot = [{"type": "function", "id": "call_1", "function": {"arguments": "{}", "output": "1"}}, {"type": "code"}]
        assert list(deltas.differences(accumulated, snapshot, STREAMED, "tool_calls")) == []

    def test_entries_are_compared_by_their_index(self) -> None:
        """A part that had no delta (an image, say) leaves a gap among the accumulated ones."""
        assert self.differences([part(0, "a"), part(2, "c")], [part(0, "a"), part(1, ""), part(2, "c")]) == []


# An object of the API in final form, and deltas that tell it piece by piece.

short = st.text(max_size=12)
annotation = st.fixed_dictionaries({"type": st.just("file_citation"), "text": short, "start_index": st.integers(0, 99)})
text_part = st.fixed_dictionaries(
    {"type": st.just("text"), "text": st.fixed_dictionaries({"value": short, "annotations": st.lists(annotation, max_size=2)})}
)
refusal_part = st.fixed_dictionaries({"type": st.just("refusal"), "refusal": short})
function_call = st.fixed_dictionaries(
    {"id": short, "type": st.just("function"), "function": st.fixed_dictionaries({"name": short, "arguments": short})}
)
log_output = st.fixed_dictionaries({"type": st.just("logs"), "logs": short})
interpreter = st.fixed_dictionaries({"input": short, "outputs": st.lists(log_output, max_size=2)})
code_call = st.fixed_dictionaries({"id": short, "type": st.just("code_interpreter"), "code_interpreter": interpreter})
mcp_call = st.fixed_dictionaries({"id": short, "type": st.just("mcp"), "name": short, "arguments": short})
final_objects = st.fixed_dictionaries(
    {
        "content": st.lists(text_part | refusal_part, max_size=3),
        "tool_calls": st.lists(function_call | code_call | mcp_call, max_size=3),
    }
)


@st.composite
def pieces(draw: st.DrawFn, value: Any, parent: str = "") -> list[Any]:
    """Deltas whose merge is this value: first its structure with the first piece of each string, then the rest of each."""
    if isinstance(value, dict):
        first, later = {}, []
        for key, inner in value.items():
            if (parent, key) in STREAMED:
                cut = draw(st.integers(0, len(inner)))
                first[key] = inner[:cut]
                later += [{key: inner[cut:]}] if inner[cut:] or draw(st.booleans()) else []
            else:
                head, *rest = draw(pieces(inner, key))
                first[key] = head
                later += [{key: more} for more in rest]
        return [first, *later]
    if isinstance(value, list):
        heads, later = [], []
        for index, entry in enumerate(value):
            head, *rest = draw(pieces(entry, parent))
            heads.append({"index": index, **head})
            later.append([[{"index": index, **more}] for more in rest])
        if len(heads) > 1 and draw(st.booleans()):
            heads.reverse()
        return [heads, *[more for entry in later for more in entry]]
    return [value]


@st.composite
def told(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    value = draw(final_objects)
    return value, draw(pieces(value))


@given(told())
def test_merging_an_object_told_in_pieces_gives_the_object(given: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    value, parts = given
    found, problems = merged(*parts)
    assert found == value
    assert problems == []


scalars = st.none() | st.integers(0, 3) | st.floats() | st.text(max_size=3)
indexes = st.sampled_from([0, 0, 0, 1, 1, 2, 3, -1, 10**9, None, "0", 1.5])
keys = st.sampled_from(["content", "text", "value", "x"])


def entries(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(keys, inner, max_size=2)
    indexed_first = st.builds(lambda index, fields: {"index": index, **fields}, indexes, fields)
    indexed_last = st.builds(lambda index, fields: {**fields, "index": index}, indexes, fields)
    return indexed_first | indexed_last | fields | scalars


anything = st.recursive(scalars, lambda inner: st.lists(entries(inner), max_size=3) | entries(inner), max_leaves=6)
any_delta = st.dictionaries(keys, st.lists(entries(anything), max_size=3) | anything, min_size=1, max_size=2)


@given(st.lists(any_delta, max_size=6), st.integers(0, 6))
@example([{"content": [{"index": 0}]}, {"content": ["stray"]}], 1)
@example([{"content": [{"type": "text"}]}, {"content": [{"text": {}, "index": 0}]}], 1)
@example([{"content": [{"index": None}]}, {"content": [{"index": 1}]}], 1)
def test_merging_that_goes_on_from_a_saved_state_equals_merging_straight_through(given: list[dict[str, Any]], at: int) -> None:
    given = [jsontext.loads(json.dumps(delta)) for delta in given]
    straight: dict[str, Any] = {}
    first: dict[str, Any] = {}
    problems: list[str] = []
    problems_of_two: list[str] = []
    for delta in given:
        deltas.merge(straight, copy.deepcopy(delta), STREAMED, lambda kind, detail: problems.append(kind))
    for delta in given[:at]:
        deltas.merge(first, copy.deepcopy(delta), STREAMED, lambda kind, detail: problems_of_two.append(kind))
    resumed = jsontext.loads(jsontext.dumps(deltas.plain(first)))
    for delta in given[at:]:
        deltas.merge(resumed, copy.deepcopy(delta), STREAMED, lambda kind, detail: problems_of_two.append(kind))
    assert json.dumps(deltas.plain(resumed)) == json.dumps(deltas.plain(straight))
    assert problems_of_two == problems


def test_a_streamed_string_is_joined_once_and_not_with_each_fragment() -> None:
    accumulation: dict[str, Any] = {}
    for _ in range(1000):
        deltas.merge(accumulation, {"text": {"value": "piece "}}, STREAMED, print)
    assert type(accumulation["text"]["value"]) is deltas.Text
    assert len(accumulation["text"]["value"]) == 1000
    assert deltas.plain(accumulation) == {"text": {"value": "piece " * 1000}}


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\ud83d", "\ude00b"], "a\U0001f600b"),
        (["\ud83d", "", "\ude00"], "\U0001f600"),
        (["\ud83d", " \ude00"], "\ud83d \ude00"),
        (["\ude00", "\ud83d"], "\ude00\ud83d"),
    ],
)
def test_halves_of_a_character_are_joined_where_they_meet(pieces: list[str], text: str) -> None:
    assert deltas.Fragments([[None, pieces]]).text() == text
    assert deltas.joined([[[0, pieces]], [[0, pieces[:1]]]]) == text
    assert deltas.plain(deltas.Text(pieces)) == text
