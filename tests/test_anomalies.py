"""Anomalies: an example of each kind, where it is queried, and where it is counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from recorder import database, log
from recorder.projections import runner
from recorder.projections.anomalies import anomalies
from recorder.protocols import Request
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.sse import Frame
from tests.commands import answer, output, sqlite
from tests.responding import RESPONSES, called, message_events, message_item, numbered, replied, response, typed, whole
from tests.writing import (
    BORN,
    DONE,
    THREADS,
    Event,
    answered,
    asked,
    contribution,
    frames,
    kinds,
    message,
    run,
    said,
    step,
    step_delta,
    stream,
    stream_id,
    submitting,
    text,
    text_delta,
    viewed,
    write,
)

USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


class Example(NamedTuple):
    kind: str
    what: str
    frames: list[Frame]
    request: Request = THREADS

    @property
    def name(self) -> str:
        return f"{self.kind} of {self.what}"


def at(status: str, **fields: Any) -> Event:
    return f"thread.run.{status}", run(status, **fields)


def begun(*events: Event) -> list[Frame]:
    return frames([at("in_progress"), *events])


def followed(*more: tuple[str, str]) -> list[Frame]:
    """A run that is in progress, and what came after it of no event's."""
    return [*frames([at("in_progress")], None), *(Frame(type, data, None, 9) for type, data in more)]


def cut(tail: str) -> list[Frame]:
    return followed(("$tail", tail), ("$end", '{"outcome":"cut"}'))


def lost(reason: str) -> list[Frame]:
    return followed(("$gap", json.dumps({"chunks": 1, "bytes": 5, "reason": reason})), ("$end", '{"outcome":"done"}'))


def responding(*middle: Event, **final: Any) -> list[Frame]:
    """A response with these events in its middle."""
    first = typed(whole("created", response()), whole("in_progress", response()))
    return frames(numbered([*first, *middle, *typed(whole("completed", response("completed", **final)))]), "eof")


def ended(kind: str, *calls: dict[str, Any]) -> Event:
    return f"thread.run.step.{kind}", step(kind, step_details={"type": "tool_calls", "tool_calls": list(calls)})


CALL = {"type": "function", "function": {"name": "x", "arguments": "{}"}}
HALF = {"index": 0, "id": "call_0", "type": "function", "function": {"name": "x", "arguments": "{"}}
STARTED: Event = ("thread.run.step.created", step())
WRITING: Event = ("thread.message.created", message())
MADE = replied("Hello there")
TEXT = MADE[4]


def wrote(*texts: str) -> Event:
    return "thread.message.completed", message("completed", content=[text(each) for each in texts])


def ending(**usage: Any) -> list[Event]:
    """A run whose own usage is this."""
    told = said(usage=USAGE)
    return [(name, {**object, "usage": usage} if name == "thread.run.completed" else object) for name, object in told]


def deltas(at_index: int) -> list[Event]:
    return [
        (name, {**payload, "content_index": at_index} if "content_index" in payload else payload)
        for name, payload in message_events("one")
    ]


def renamed(events: list[Event], id: str) -> list[Event]:
    return [(name, {**payload, "response": {**payload["response"], "id": id}}) for name, payload in events]


EXAMPLES = [
    Example("delta_mismatch", "a message", begun(WRITING, text_delta("Hel"), wrote("Bye"))),
    Example("delta_mismatch", "arguments", begun(STARTED, step_delta(HALF), ended("completed", {"id": "call_0", **CALL}))),
    Example("illegal_transition", "a run", frames([at("cancelling"), at("in_progress")])),
    Example("resurrected", "a run", frames([at("completed"), at("in_progress")])),
    Example("resurrected", "a step", begun(ended("failed"), ("thread.run.step.in_progress", step()))),
    Example(
        "index_gap",
        "tool calls",
        begun(
            STARTED,
            step_delta(*({"index": index, "id": f"call_{index}", **CALL} for index in (0, 2))),
            ended("completed", *({"id": f"call_{index}", **CALL} for index in (0, 2))),
        ),
    ),
    Example("index_gap", "texts", begun(WRITING, text_delta("a", 0), text_delta("c", 2), wrote("a", "b", "c"))),
    Example("index_missing", "a call", begun(STARTED, step_delta(HALF), step_delta({"id": "call_1", **CALL}))),
    Example("index_invalid", "a call", begun(STARTED, step_delta({**HALF, "index": -1}))),
    Example("unparsable", "half a run", begun(("thread.run.completed", '{"id": "run_1"'))),
    Example("no_object", "a step without an id", begun(("thread.run.step.created", {"object": "thread.run.step"}))),
    Example("unfinished_tail", "half an event", cut('event: thread.run.completed\ndata: {"id": "ru')),
    Example("tail_folded", "an event but its end", cut(f"event: thread.run.completed\ndata: {json.dumps(run('completed'))}\n")),
    Example("delta_without_object", "a message", begun(text_delta("Hel"))),
    Example("delta_without_object", "a step", begun(step_delta(HALF))),
    Example("delta_after_end", "a message", begun(wrote(""), text_delta("more"))),
    Example("usage_mismatch", "a run", frames(ending(**{**USAGE, "total_tokens": 7}))),
    Example("id_reused", "a run", frames([*said("first"), *said("second", created_at=BORN + 100)])),
    Example("undispatched", "a block", followed(("$block", "nonsense: 1\n\n"), ("$end", '{"outcome":"done"}'))),
    Example("oversized", "an event in pieces", followed(("$piece", "x"), ("$end", '{"outcome":"done"}'))),
    Example("gap", "what was not written", lost("the database did not take it")),
    Example("delta_mismatch", "a response", frames([*MADE[:4], (TEXT[0], {**TEXT[1], "delta": "X"}), *MADE[5:]]), RESPONSES),
    Example(
        "illegal_transition",
        "a response",
        frames(numbered(typed(whole("in_progress", response()), whole("queued", response("queued"))))),
        RESPONSES,
    ),
    Example(
        "resurrected", "a response", frames([*MADE, *numbered(typed(whole("in_progress", response())), len(MADE))]), RESPONSES
    ),
    Example("sequence_gap", "a lost delta", frames([*MADE[:5], *MADE[6:]]), RESPONSES),
    Example("sequence_gap", "a lost beginning", frames(MADE[2:]), RESPONSES),
    Example("index_gap", "items", responding(*message_events("one"), *message_events("two", 2, "msg_2"), output=[]), RESPONSES),
    Example("index_gap", "parts", responding(*deltas(1), output=[message_item("one")]), RESPONSES),
    Example(
        "index_gap",
        "an item too many",
        responding(*message_events("one"), *message_events("two", 1, "msg_2"), output=[message_item("one")]),
        RESPONSES,
    ),
    Example("unparsable", "half an event", frames([*MADE[:4], (TEXT[0], '{"type": ')]), RESPONSES),
    Example("delta_without_object", "an item", frames([*MADE[:2], TEXT]), RESPONSES),
    Example("delta_after_end", "a response", frames([*MADE, *numbered([TEXT], len(MADE))]), RESPONSES),
    Example("id_changed", "a response", frames([*MADE[:8], *renamed(MADE[-1:], "resp_9")]), RESPONSES),
    Example("id_reused", "a response", frames([*MADE, *replied("Again", created_at=BORN + 100)]), RESPONSES),
]

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def found(told: list[Frame], request: Request = THREADS) -> set[str]:
    """The kinds that a stream has, of all that it speaks of and of itself."""
    fold = StreamFold(request)
    fold.feed_all((position, frame.offset_us, frame.type, frame.data) for position, frame in enumerate(told))
    return {kind for key in fold.states() if key for kind in kinds(merge(key, [contribution(fold, key)]))}


@each_example
def test_each_kind_is_found(example: Example) -> None:
    assert example.kind in found(example.frames, example.request)


USUAL = [
    (said(usage=USAGE), THREADS),
    (asked(), THREADS),
    (answered(), submitting()),
    (MADE, RESPONSES),
    (called(), RESPONSES),
]


@pytest.mark.parametrize(("events", "request_"), USUAL)
def test_nothing_usual_is_one(events: list[Event], request_: Request) -> None:
    assert found(frames(events), request_) == set()


@pytest.mark.parametrize(
    "reason", ["not recorded: over 5 bytes (max_response_body)", "not recorded: bodies of type image/png (skip_types)"]
)
def test_what_the_settings_leave_out_is_none(reason: str) -> None:
    assert found(lost(reason)) == set()


@pytest.mark.parametrize(
    ("events", "amiss"),
    [
        (ending(**USAGE), False),
        (ending(**{**USAGE, "prompt_tokens": 5}), True),
        (ending(), False),  # nothing is said of the run's
        (said(usage=None), False),
        (ending(**USAGE)[1:], False),  # what came before is not known
        (ending(**{**USAGE, "total_tokens": 7})[1:], True),  # but prompt and completion are not the total
        (ending(**{**USAGE, "total_tokens": None}), False),
    ],
)
def test_usage_is_compared_where_all_steps_are_known(events: list[Event], amiss: bool) -> None:
    assert ("usage_mismatch" in kinds(viewed(events))) == amiss


def test_usage_is_compared_over_all_streams_of_a_run() -> None:
    details = {"type": "tool_calls", "tool_calls": [{"id": "call_1", **CALL}]}
    for total, amiss in ((10, False), (11, True)):
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        rest: list[Event] = [
            ("thread.run.step.completed", step("completed", step_details=details, usage=usage)),
            at("completed", usage={**usage, "total_tokens": total}),
            DONE,
        ]
        first, second = frames(asked()), frames(rest)
        parts = []
        for number, (told, request) in enumerate(((first, THREADS), (second, submitting()))):
            fold = StreamFold(request)
            fold.feed_all((position, frame.offset_us, frame.type, frame.data) for position, frame in enumerate(told))
            parts.append(contribution(fold, number=number, started=number))
        assert set(kinds(merge("run_1", parts))) == ({"usage_mismatch"} if amiss else set())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All examples in one database, each a session of its own."""
    file = tmp_path_factory.mktemp("anomalies") / "x.db"
    engine = database.connect(sqlite(file))
    for number, example in enumerate(EXAMPLES):
        own = re.compile(r"\b(run|step|msg|resp|call|fc)_(\d)\b")
        told = [frame._replace(data=own.sub(rf"\1_\2_{number}", frame.data)) for frame in example.frames]
        write(engine, stream(number, example.request, label=example.name), told)
    write(engine, stream(len(EXAMPLES), label="well"), frames(said(id="run_well", usage=USAGE)))
    runner.catch_up(engine)
    yield file
    engine.dispose()


@pytest.mark.slow
def test_a_query_finds_each_kind_where_it_is(file: Path) -> None:
    engine = database.connect(sqlite(file))
    chosen = sa.select(anomalies.c.stream_id, anomalies.c.kind, anomalies.c.position, anomalies.c.detail)
    with database.read(engine) as connection:
        rows = connection.execute(chosen).all()
        heads = {row.stream_id: row.position for row in connection.execute(sa.select(log.heads))}
    by_stream: dict[str, set[str]] = {}
    for row in rows:
        by_stream.setdefault(row.stream_id, set()).add(row.kind)
        assert 0 <= row.position <= heads[row.stream_id]
        assert row.detail
    for number, example in enumerate(EXAMPLES):
        assert example.kind in by_stream[stream_id(number)], example.name
    assert stream_id(len(EXAMPLES)) not in by_stream
    counted = answer("sql", "SELECT kind, count(*) AS n FROM anomalies GROUP BY kind", db=file)
    assert {row["kind"]: row["n"] for row in counted} == Counter(row.kind for row in rows)
    assert answer("verify", db=file)["anomalies"] == Counter(row.kind for row in rows)
    engine.dispose()


@pytest.mark.slow
def test_ls_counts_them(file: Path) -> None:
    rows = {row["session_id"]: row["anomalies"] for row in answer("ls", db=file)}
    query = "SELECT s.session_id AS id, count(a.kind) AS n FROM session_streams s LEFT JOIN anomalies a USING (stream_id)"
    counted = answer("sql", f"{query} GROUP BY 1", db=file)
    assert rows == {row["id"]: row["n"] for row in counted}
    assert rows["well"] == 0
    assert all(rows[example.name] > 0 for example in EXAMPLES)
    lines = {line.partition("  ")[0]: line for line in output("ls", db=file).decode().splitlines()}
    assert "anomalies" in lines["session_id"]
    for name, count in rows.items():
        assert lines[name].split()[-1] == str(count)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["session", "stream", "run"])
def test_show_counts_and_lists_them(file: Path, kind: str) -> None:
    for number in (0, 6, 16, 24, 26):
        example = EXAMPLES[number]
        of_run = f"{'resp' if example.request is RESPONSES else 'run'}_1_{number}"
        id = {"session": example.name, "stream": stream_id(number), "run": of_run}[kind]
        listed = answer("show", id, db=file)["anomalies"]
        assert example.kind in {entry["kind"] for entry in listed}
        assert {entry["stream_id"] for entry in listed} == {stream_id(number)}
        lines = output("show", id, db=file).decode().splitlines()
        (line,) = [line for line in lines if line.startswith("anomalies ")]
        assert line.split()[1] == str(len(listed))
        assert example.kind in line
        assert sum(line.startswith(f"anomaly {example.kind} ") for line in lines) == sum(
            entry["kind"] == example.kind for entry in listed
        )


@pytest.mark.slow
def test_show_says_nothing_of_none(file: Path) -> None:
    for id in ("well", "run_well", stream_id(len(EXAMPLES))):
        assert answer("show", id, db=file)["anomalies"] == []
        assert "anomal" not in output("show", id, db=file).decode()
