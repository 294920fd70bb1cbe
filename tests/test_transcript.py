"""A stream as people read it: deltas joined to the text that the read model has, silences, and what matters of each event."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import database, queries
from recorder.collect import import_
from recorder.projections import runner
from recorder.steps import Message
from recorder.transcript import SILENCE_US, Line, transcript
from tests import writing

MS = 1_000


def lines(protocol: str | None, events: list[tuple[str, Any]], every_us: int = MS) -> list[Line]:
    """The transcript of events that come one after the other."""
    encoded = [(type, data if isinstance(data, str) else json.dumps(data)) for type, data in events]
    return list(transcript(protocol, [(at, at * every_us, type, data) for at, (type, data) in enumerate(encoded)]))


def chunk(**delta: Any) -> tuple[str, Any]:
    return "", {"object": "chat.completion.chunk", "id": "c_1", "choices": [{"index": 0, "delta": delta}]}


def test_deltas_of_a_message_are_one_line_with_the_time_of_the_first() -> None:
    found = [line for line in lines("assistants", writing.said("Hello there")) if line.kind]
    assert [(line.type, line.text, line.events, line.offset_us) for line in found] == [
        ("thread.message.delta", "Hello there", 2, 4 * MS)
    ]


def test_arguments_of_a_tool_are_joined_and_have_its_name() -> None:
    (line,) = [line for line in lines("assistants", writing.asked()) if line.kind]
    assert (line.kind, line.name, line.text, line.events) == ("arguments", "weather", '{"city":"Oslo"}', 2)


@pytest.mark.parametrize(
    ("protocol", "events", "kind"),
    [
        ("chat", [chunk(content="a"), chunk(content="b")], "text"),
        ("chat", [chunk(reasoning_content="a"), chunk(reasoning_content="b")], "reasoning"),
        ("chat", [chunk(refusal="a"), chunk(refusal="b")], "refusal"),
        ("chat", [chunk(tool_calls=[{"index": 0, "function": {"arguments": each}}]) for each in "ab"], "arguments"),
        ("chat", [chunk(function_call={"arguments": each}) for each in "ab"], "arguments"),
        ("chat", [chunk(content=[{"type": "text", "text": each}]) for each in "ab"], "text"),
        ("responses", [("response.output_text.delta", {"output_index": 0, "delta": each}) for each in "ab"], "text"),
        ("responses", [("response.function_call_arguments.delta", {"delta": each}) for each in "ab"], "arguments"),
        ("responses", [("", {"type": "response.refusal.delta", "delta": each}) for each in "ab"], "refusal"),
        (
            "anthropic",
            [
                (
                    "content_block_delta",
                    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": each}},
                )
                for each in "ab"
            ],
            "text",
        ),
        (
            "anthropic",
            [
                (
                    "content_block_delta",
                    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": each}},
                )
                for each in "ab"
            ],
            "arguments",
        ),
    ],
)
def test_each_protocol_has_its_deltas_joined(protocol: str, events: list[tuple[str, Any]], kind: str) -> None:
    (line,) = lines(protocol, events)
    assert (line.kind, line.text, line.events) == (kind, "ab", 2)


def test_choices_that_come_by_turns_are_a_line_each() -> None:
    def of(index: int, text: str) -> tuple[str, Any]:
        return "", {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": {"content": text}}]}

    assert [line.text for line in lines("chat", [of(0, "a"), of(1, "x"), of(0, "b"), of(1, "y")])] == ["ab", "xy"]


def test_what_comes_between_parts_a_text() -> None:
    found = lines("chat", [chunk(content="a"), ("$comment", "keep-alive"), chunk(content="b")])
    assert [line.text for line in found] == ["a", "keep-alive", "b"]


def test_a_text_is_parted_from_one_of_another_kind_that_goes_on_with_the_same_message() -> None:
    found = lines("chat", [chunk(reasoning="a"), chunk(content="b"), chunk(reasoning="c")])
    assert [(line.kind, line.text) for line in found] == [("reasoning", "a"), ("text", "b"), ("reasoning", "c")]


def test_a_last_chunk_with_text_says_how_it_ended_too() -> None:
    last = (
        "",
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]},
    )
    assert [line.text for line in lines("chat", [chunk(content="a"), last])] == ["ab", "finish_reason stop"]


def test_a_silence_is_a_line_and_parts_a_text() -> None:
    events = [(0, 0, "", json.dumps(chunk(content="a")[1])), (1, SILENCE_US, "", json.dumps(chunk(content="b")[1]))]
    first, silence, second = transcript("chat", events)
    assert (first.text, second.text) == ("a", "b")
    assert (silence.silence_us, silence.events) == (SILENCE_US, 0)
    assert len(list(transcript("chat", [events[0], (1, SILENCE_US - 1, *events[1][2:])]))) == 1


def test_silence_before_the_first_event_counts() -> None:
    assert [line.silence_us for line in transcript(None, [(0, 3_000_000, "x", "")])] == [3_000_000, 0]


def test_other_events_say_what_matters() -> None:
    error = {"code": "server_error", "message": "sorry"}
    events: list[tuple[str, Any]] = [
        ("thread.run.failed", writing.run("failed", "run_2", last_error=error)),
        ("$response", {"status": 200, "headers": []}),
        ("error", {"error": error}),
        ("done", "[DONE]"),
        ("x", {"nothing": "known"}),
        ("$end", {"outcome": "cut", "closed": "cut", "detail": "reset"}),
    ]
    assert [(line.text, line.is_wrong) for line in lines("assistants", events)] == [
        ("failed  code server_error  sorry  run_2", True),
        ("200", False),
        ("code server_error  sorry", True),
        ("[DONE]", False),
        ('{"nothing": "known"}', False),
        ("cut  reset", True),
    ]


def test_a_stream_of_no_known_protocol_is_a_line_an_event() -> None:
    assert [line.type for line in lines(None, [("a", "1"), ("b", "{"), ("", "[1]"), ("", "")])] == [
        "a",
        "b",
        "message",
        "message",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["delta", "choices", "error", "content", "index", "id"]), inner)
    ),
    max_leaves=8,
)
DELTAS = st.fixed_dictionaries(
    {}, optional={"delta": JSON, "choices": JSON, "content": JSON, "type": JSON, "object": JSON, "id": JSON}
)


@given(
    st.sampled_from(["assistants", "responses", "chat", "anthropic", None]),
    st.lists(st.tuples(st.sampled_from(["", "thread.message.delta", "thread.run.step.delta", "error", "$end"]), DELTAS | JSON)),
)
def test_whatever_comes_each_event_is_in_a_line(protocol: str | None, events: list[tuple[str, Any]]) -> None:
    found = lines(protocol, events)
    assert sum(line.events for line in found) >= len(events)
    assert [line.position for line in found] == sorted(line.position for line in found)


@pytest.mark.slow
def test_the_texts_of_the_shared_streams_are_those_of_the_read_model(shared: Path, db: str) -> None:
    """For every stream whose deltas make a message: joined, they are what the message says."""
    engine = database.connect(db)
    import_.import_paths(engine, [str(shared / "streams")])
    runner.catch_up(engine)
    compared: dict[str, int] = defaultdict(int)
    mismatched: list[str] = []  # streams whose deltas do not add up to what was said at their end: somebody shortened them
    with database.read(engine) as connection:
        for session in queries.list_sessions(connection, limit=10_000):
            for stream_id in queries.streams_of(connection, queries.Named("session", session["session_id"])):
                shown = queries.show_stream(connection, stream_id)
                events = [(event["position"], event["offset_us"], event["type"], event["data"]) for event in shown["events"]]
                texts: dict[str, str] = defaultdict(str)
                for line in transcript(shown["protocol"], events):
                    if line.kind in ("text", "refusal"):
                        texts[line.of] += line.text
                said = {
                    Message.of(message).text
                    for run_id in shown["runs"]
                    for message in queries.show_run(connection, run_id)["messages"]
                }
                if any(amiss["kind"] == "delta_mismatch" for amiss in shown["anomalies"]):
                    mismatched.append(stream_id)
                    continue
                for text in filter(None, texts.values()):
                    if shown["outcome"] == "cut":  # another stream may have had the rest
                        assert any(whole.startswith(text) for whole in said), stream_id
                    else:
                        assert text in said, (stream_id, text[:80])
                    compared[shown["protocol"]] += 1
    engine.dispose()
    assert {"assistants", "chat", "responses"} <= set(compared)
    assert sum(compared.values()) >= 40, dict(compared)
    assert len(mismatched) <= 5, mismatched
