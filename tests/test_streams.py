"""The shared streams of real services: each comes back byte for byte, and folds to what it said itself.

What is expected is read from the payloads here, without the fold.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from recorder import database, jsontext, log, queries, reports
from recorder.collect.import_ import import_paths, read_file
from recorder.projections import runner
from recorder.projections.folds import request_of
from recorder.projections.messages import messages
from recorder.projections.run_steps import run_steps, tool_calls
from recorder.projections.runs import runs
from recorder.projections.verify import verify
from recorder.protocols import Request
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.sse import Frame, SSEDecoder
from tests.conftest import SHARED
from tests.writing import contribution

FOLDER = SHARED / "streams"
NAMES = sorted(
    path.name
    for path in (FOLDER.iterdir() if FOLDER.is_dir() else ())
    if path.name.endswith((".sse", ".json", ".events.jsonl")) and not path.name.endswith(".request.json")
)
OF_THREADS = [name for name in NAMES if name.startswith(("assistants-", "azure-"))]
THREADS = [name for name in OF_THREADS if name.endswith(".sse")]
RESPONSES = [name for name in NAMES if name.startswith("responses-")]
CHATS = [name for name in NAMES if name.startswith("chat-")]

ENDS_RUN = re.compile(r"thread\.run\.(completed|failed|cancelled|expired|incomplete|requires_action)")
ENDS_RESPONSE = re.compile(r"response\.(completed|failed|incomplete)")
ENDS_STEP = re.compile(r"thread\.run\.step\.(completed|failed|cancelled|expired)")
ENDS_MESSAGE = re.compile(r"thread\.message\.(completed|incomplete)")

needs_shared = pytest.mark.usefixtures("shared")


def events(name: str) -> Iterator[tuple[str, Any]]:
    """(event name, payload) of a stream's blocks, lines or body whose data is JSON."""
    if name.endswith(".json"):
        yield "", json.loads((FOLDER / name).read_bytes())
        return
    if name.endswith(".jsonl"):
        yield from (("", json.loads(line)) for line in (FOLDER / name).read_text().splitlines())
        return
    for block in (FOLDER / name).read_bytes().decode().replace("\r\n", "\n").split("\n\n"):
        fields = [line.partition(": ")[::2] for line in block.split("\n")]
        try:
            payload = json.loads("\n".join(value for key, value in fields if key == "data"))
        except ValueError:
            continue
        yield dict(fields).get("event", ""), payload


def final_objects(name: str, ends: re.Pattern[str]) -> dict[str, dict[str, Any]]:
    return {payload["id"]: payload for event, payload in events(name) if ends.fullmatch(event)}


def bodies(name: str, kind: str) -> dict[str, dict[str, Any]]:
    """{id: object} of the objects of this kind in a body that is no stream."""
    ((_, found),) = events(name)
    entries = found["data"] if found["object"] == "list" else [found]
    return {entry["id"]: entry for entry in entries if entry["object"] == kind}


def as_recorded() -> set[str]:
    """The streams that PROVENANCE.md calls captured, and neither edited nor documentation."""
    rows = (line.split("|") for line in (FOLDER / "PROVENANCE.md").read_text().splitlines() if line.startswith("| "))
    return {row[1].strip() for row in rows if len(row) > 6 and row[6].strip() == "captured"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the current schema, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "x.db"
    database.connect(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def alone(tmp_path: Path, empty: Path, request: pytest.FixtureRequest) -> Iterator[tuple[sa.Engine, str, str]]:
    """A database with one stream in it, caught up; (engine, the file's name, stream_id)."""
    name: str = request.param
    shutil.copy(empty, tmp_path)
    engine = database.connect(f"sqlite:///{tmp_path}/x.db")
    row = import_paths(engine, [str(FOLDER / name)])[0]
    runner.catch_up(engine)
    yield engine, name, row.stream_id
    engine.dispose()


each_stream = pytest.mark.parametrize("alone", NAMES, indirect=True)
each_thread = pytest.mark.parametrize("alone", THREADS, indirect=True)
each_of_threads = pytest.mark.parametrize("alone", OF_THREADS, indirect=True)
each_response = pytest.mark.parametrize("alone", RESPONSES, indirect=True)
each_chat = pytest.mark.parametrize("alone", CHATS, indirect=True)


def test_there_are_streams(shared: Path) -> None:
    assert len(NAMES) > 80
    assert len(THREADS) > 15
    assert len(RESPONSES) > 30
    assert len(CHATS) > 20


@needs_shared
@each_stream
def test_a_stream_comes_back_byte_for_byte_and_verify_finds_nothing(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, stream_id = alone
    body = b"".join(part for part, _, _ in log.wire(log.read_stream(engine, stream_id)))
    assert body == (FOLDER / name).read_bytes()
    report = verify(engine)
    assert report.problems == []
    assert report.streams == 1


def same(said: Any, shown: Any) -> bool:
    """Whether what is shown has all that was said; a key said to be null may be absent."""
    if isinstance(said, dict):
        return isinstance(shown, dict) and all(same(value, shown.get(key)) for key, value in said.items())
    if isinstance(said, list):
        return isinstance(shown, list) and len(said) == len(shown) and all(map(same, said, shown))
    return bool(said == shown and type(said) is type(shown))


@needs_shared
@each_thread
def test_each_final_object_is_shown_as_the_stream_said_it(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    steps, messages = final_objects(name, ENDS_STEP), final_objects(name, ENDS_MESSAGE)
    ended = final_objects(name, ENDS_RUN)
    run_ids = {*ended, *(each["run_id"] for each in (*steps.values(), *messages.values()) if each.get("run_id"))}
    shown_steps: dict[str, Any] = {}
    shown_messages: dict[str, Any] = {}
    with database.read(engine) as connection:
        for run_id in run_ids:
            shown = queries.show_run(connection, run_id)
            shown_steps |= {each["id"]: each for each in shown["steps"]}
            shown_messages |= {each["id"]: each for each in shown["messages"]}
            for key, value in ended.get(run_id, {}).items():
                assert same(value, shown.get(key)), f"run {run_id}: {key}"
    for said, found in ((steps, shown_steps), (messages, shown_messages)):
        for id, object in said.items():
            for key, value in object.items():
                assert same(value, found[id].get(key)), f"{id}: {key}"


def streamed(object: dict[str, Any]) -> dict[str, Any]:
    """What of a final step or message is streamed in deltas: texts and refusals, arguments, inputs, logs."""
    calls = [
        {
            "arguments": call.get("function", call).get("arguments"),
            "input": call.get("code_interpreter", {}).get("input"),
            "logs": [output.get("logs") for output in call.get("code_interpreter", {}).get("outputs") or []],
        }
        for call in (object.get("step_details") or {}).get("tool_calls") or []
    ]
    content = [
        (part.get("text", {}).get("value"), part.get("refusal"), part.get("image_file", {}).get("file_id"))
        for part in object.get("content") or []
    ]
    return {"calls": calls, "content": content}


def with_deltas(name: str) -> set[str]:
    return {payload["id"] for event, payload in events(name) if event.endswith(".delta")}


@needs_shared
@pytest.mark.parametrize("name", THREADS)
def test_the_deltas_alone_add_up_to_the_final_objects(name: str) -> None:
    if name not in as_recorded():
        assert name in {line.split("|")[1].strip() for line in (FOLDER / "PROVENANCE.md").read_text().splitlines() if "|" in line}
        return  # its deltas were edited, or never came from a service
    final = {**final_objects(name, ENDS_STEP), **final_objects(name, ENDS_MESSAGE)}
    fold = StreamFold(Request(path="/v1/threads/runs"))
    for position, (event, payload) in enumerate(events(name)):
        if event.endswith((".created", ".delta")):
            fold.feed(position, 0, event, json.dumps(payload))
    wanted = {id: streamed(object) for id, object in final.items() if id in with_deltas(name)}
    found = {}
    for key in fold.states():
        if key:
            view = merge(key, [contribution(fold, key)])
            found |= {each.id: streamed(each.object) for each in (*view.steps, *view.messages) if each.id in wanted}
    assert found == wanted


@needs_shared
def test_streams_as_they_were_recorded_have_deltas_and_final_objects_to_compare() -> None:
    """Else the test above would hold of nothing."""
    compared = [
        name
        for name in THREADS
        if name in as_recorded() and with_deltas(name) & {*final_objects(name, ENDS_STEP), *final_objects(name, ENDS_MESSAGE)}
    ]
    assert len(compared) >= 8


@needs_shared
@each_thread
def test_streams_as_they_were_recorded_have_no_delta_mismatch(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    if name in as_recorded():
        assert "delta_mismatch" not in verify(engine).anomalies


@needs_shared
@each_thread
def test_the_usage_of_a_run_is_the_one_its_last_event_said(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    said = {id: run.get("usage") for id, run in final_objects(name, ENDS_RUN).items()}
    with database.read(engine) as connection:
        rows = connection.execute(sa.select(runs.c.run_id, runs.c.prompt_tokens, runs.c.completion_tokens, runs.c.total_tokens))
        found = {row.run_id: row[1:] for row in rows}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    for run_id, usage in said.items():
        assert found[run_id] == tuple((usage or {}).get(key) for key in names)


# What each file says, by a few lines of its own: {run id: Told}

STEP_TYPES = {"message": "message_creation", "reasoning": "reasoning"} | dict.fromkeys(
    ("mcp_list_tools", "compaction", "additional_tools"), "activities"
)
CALL_TYPES = {
    "function_call": "function",
    "custom_tool_call": "custom",
    "computer_call": "computer_use_preview",
    "mcp_approval_request": "mcp",
}


class Told(NamedTuple):
    """What a file tells of a run. usage: prompt, completion, total and cached tokens; None where it does not say."""

    status: str | None
    steps: Counter[str]
    calls: Counter[str]
    usage: tuple[int | None, ...]
    text: str


def told_of_threads(name: str) -> dict[str, Told]:
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, dict[str, Any]] = {}
    messages: dict[str, dict[str, Any]] = {}
    for object in (payload for _, payload in events(name) if isinstance(payload, dict)):
        for entry in object["data"] if object.get("object") == "list" else [object]:
            kept = {"thread.run": found, "thread.run.step": steps, "thread.message": messages}.get(entry.get("object"))
            if kept is not None:
                kept[entry["id"]] = {**kept.get(entry["id"], {}), **entry}
    run_ids = {*found, *(each["run_id"] for each in (*steps.values(), *messages.values()) if each.get("run_id"))}
    told = {}
    for run_id in run_ids:
        mine = [step for step in steps.values() if step["run_id"] == run_id]
        calls = [call for step in mine for call in step["step_details"].get("tool_calls") or ()]
        asked = (found.get(run_id, {}).get("required_action") or {}).values()
        waiting = [call for action in asked if isinstance(action, dict) for call in action["tool_calls"]]
        usage = found.get(run_id, {}).get("usage") or {}
        details = usage.get("prompt_token_details") or {}
        said = [part["text"]["value"] for each in messages.values() for part in each["content"] if part["type"] == "text"]
        told[run_id] = Told(
            found.get(run_id, {}).get("status"),
            Counter(step["type"] for step in mine),
            Counter(call["type"] for call in (calls or (waiting if mine else ()))),
            (*(usage.get(f"{key}_tokens") for key in ("prompt", "completion", "total")), details.get("cached_tokens")),
            "".join(said),
        )
    return told


def told_of_responses(name: str) -> dict[str, Told]:
    ended = [payload["response"] for _, payload in events(name) if ENDS_RESPONSE.fullmatch(payload["type"])]
    told = {}
    for response in ended:
        items = [item for item in response["output"] if not item["type"].endswith("_output")]
        types = [(STEP_TYPES.get(item["type"], "tool_calls"), item["type"]) for item in items]
        usage = response["usage"] or {}
        parts = [part for item in items if item["type"] == "message" for part in item["content"]]
        told[response["id"]] = Told(
            response["status"],
            Counter(step for step, _ in types),
            Counter(CALL_TYPES.get(item, item.removesuffix("_call")) for step, item in types if step == "tool_calls"),
            (
                *(usage.get(key) for key in ("input_tokens", "output_tokens", "total_tokens")),
                (usage.get("input_tokens_details") or {}).get("cached_tokens"),
            ),
            "".join(part.get("text") or part.get("refusal") or "" for part in parts),
        )
    return told


CHAT_STATUS = {"stop": "completed", "tool_calls": "requires_action", "length": "incomplete", None: "in_progress"}


def told_of_chats(name: str) -> dict[str, Told]:
    """What a stream of chunks tells; its run has the name of none, so it is ""."""
    chunks = [payload for _, payload in events(name)]
    choices = [choice for payload in chunks for choice in payload.get("choices") or ()]
    steps: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    text, finished = "", []
    for index in sorted({choice["index"] for choice in choices}):
        mine = [choice for choice in choices if choice["index"] == index]
        deltas = [choice["delta"] for choice in mine]
        parts = [delta.get("content") for delta in deltas]
        thought = [delta.get("reasoning_content") or delta.get("reasoning") for delta in deltas]
        thought += [part["type"] == "thinking" for content in parts if isinstance(content, list) for part in content]
        said = "".join(
            content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
            for content in parts
            if content
        )
        said += "".join((delta.get("audio") or {}).get("transcript", "") for delta in deltas)
        named = [call for delta in deltas for call in delta.get("tool_calls") or () if call["function"].get("name")]
        steps.update({"reasoning": any(thought), "message_creation": bool(said), "tool_calls": bool(named)})
        calls.update(call["type"] for call in named)
        finished.append(next((choice["finish_reason"] for choice in mine if choice.get("finish_reason")), None))
        text += said
    statuses = {"requires_action" if calls and reason == "stop" else CHAT_STATUS[reason] for reason in finished}
    broken = any("error" in payload for payload in chunks) or name in CHAT_ANOMALIES  # whose error is a field of its own
    (status,) = {"failed"} if broken else statuses
    usage = next((payload["usage"] for payload in reversed(chunks) if payload.get("usage")), {})
    details = usage.get("prompt_tokens_details") or {}
    tokens = (*(usage.get(f"{key}_tokens") for key in ("prompt", "completion", "total")), details.get("cached_tokens"))
    return {"": Told(status, +steps, calls, tokens, text)}


def shown(engine: sa.Engine) -> dict[str, Told]:
    """The same, as the tables have it."""
    with database.read(engine) as connection:
        rows = connection.execute(sa.select(runs)).mappings().all()
        types = {
            table: [
                (row.run_key, row.type)
                for row in connection.execute(sa.select(table.c.run_key, table.c.type).where(table.c.run_id.is_not(None)))
            ]
            for table in (run_steps, tool_calls)
        }
        said = connection.execute(sa.select(messages.c.run_key, messages.c.text).order_by(messages.c.ordinal)).all()
    return {
        "" if run["protocol"] == "chat" else run["run_id"]: Told(
            run["status"],
            *(Counter(type for key, type in types[table] if key == run["run_key"]) for table in (run_steps, tool_calls)),
            tuple(run[f"{key}_tokens"] for key in ("prompt", "completion", "total", "cached")),
            "".join(text for key, text in said if key == run["run_key"]),
        )
        for run in rows
    }


TOLD = {
    **dict.fromkeys(OF_THREADS, told_of_threads),
    **dict.fromkeys(RESPONSES, told_of_responses),
    **dict.fromkeys(CHATS, told_of_chats),
}

ENDS_EARLY = {
    "assistants-error-event-mid-stream-simple-openai.sse": "its message never ends: the text is in its deltas",
    "assistants-no-blank-lines-openai-php.sse": "one event that is no JSON",
    "assistants-docs-create-thread-and-run-openai-openapi.sse": "payloads that are no JSON, as published",
    "assistants-docs-function-requires-action-openai-openapi.sse": "payloads that are no JSON, as published",
}
"""Files whose payloads alone do not say what comes of them, and why."""


@needs_shared
@pytest.mark.parametrize("alone", [name for name in TOLD if name not in ENDS_EARLY], indirect=True)
def test_each_file_gives_the_runs_steps_calls_usage_and_text_that_it_tells(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    assert shown(engine) == TOLD[name](name)


@needs_shared
@each_response
def test_each_final_response_is_shown_as_the_stream_said_it(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, stream_id = alone
    last = [payload["response"] for _, payload in events(name) if ENDS_RESPONSE.fullmatch(payload["type"])]
    ended = {response["id"]: response for response in last}
    assert ended
    with database.read(engine) as connection:
        assert queries.show_stream(connection, stream_id)["runs"] == sorted(ended)
        for id, response in ended.items():
            assert queries.show_run(connection, id)["source_object"] == response


@needs_shared
@each_chat
def test_a_chat_is_the_run_of_its_stream_and_is_found_by_its_completion(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, stream_id = alone
    chunks = [payload for _, payload in events(name)]
    with database.read(engine) as connection:
        run_id = f"chat_{stream_id}"
        assert queries.show_stream(connection, stream_id)["runs"] == [run_id]
        found = queries.show_run(connection, run_id)
        for id in {payload.get("id") for payload in chunks} - {"", None}:
            assert queries.resolve(connection, id) == ("run", run_id)
        assert queries.resolve(connection, run_id) == ("run", run_id)
    source = found["source_object"]
    assert source["object"] == "chat.completion"
    assert source["model"] == next(payload["model"] for payload in chunks if payload["model"])
    assert source["created"] == next(payload["created"] for payload in chunks if payload["created"])


CHAT_ANOMALIES = {"chat-error-field-line-1997events-gpustack-ruby-llm.sse": {"undispatched"}}
"""Its last block is a field that no event stream has."""


@needs_shared
@each_chat
def test_chats_have_no_anomaly_but_a_tail(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    assert set(verify(engine).anomalies) <= {"unfinished_tail", "tail_folded"} | CHAT_ANOMALIES.get(name, set())


@needs_shared
@each_response
def test_responses_have_no_anomaly_but_a_tail(alone: tuple[sa.Engine, str, str]) -> None:
    assert set(verify(alone[0]).anomalies) <= {"unfinished_tail", "tail_folded"}


@needs_shared
@pytest.mark.parametrize("alone", [name for name in OF_THREADS if name.endswith(".json")], indirect=True)
def test_each_object_of_a_body_is_shown_as_it_came(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    ended, steps = bodies(name, "thread.run"), bodies(name, "thread.run.step")
    with database.read(engine) as connection:
        for id, said in ended.items():
            assert same(said, queries.show_run(connection, id))
        for said in steps.values():
            found = {step["id"]: step for step in queries.show_run(connection, said["run_id"])["steps"]}
            assert same(said, found[said["id"]])


def plain_sums(name: str) -> tuple[int, int, dict[str, int | None]]:
    """(runs, runs without usage, token sums) over the usage blocks of a file's last payloads."""
    last = {id: told.usage for id, told in TOLD[name](name).items()}
    silent = [id for id, usage in last.items() if usage[:3] == (None, None, None)]
    sums = {}
    for at, key in enumerate(("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")):
        known = [usage[at] for usage in last.values() if usage[at] is not None]
        sums[key] = sum(filter(None, known)) if known else None
    return len(last), len(silent), sums


@needs_shared
@pytest.mark.parametrize("alone", list(TOLD), indirect=True)
def test_usage_is_a_plain_sum_and_what_is_not_said_is_null(alone: tuple[sa.Engine, str, str]) -> None:
    engine, name, _ = alone
    count, silent, sums = plain_sums(name)
    with database.read(engine) as connection:
        (row,) = reports.usage(connection)
    assert (row["runs"], row["runs_without_usage"]) == (count, silent)
    assert {key: row[key] for key in sums} == sums


# Cut anywhere


def frames_of(name: str) -> tuple[Request, list[Frame]]:
    stream, frames = read_file(FOLDER / name)
    return request_of(stream), list(frames)


def fed(fold: StreamFold, frames: list[Frame], first: int) -> StreamFold:
    for position, frame in enumerate(frames, first):
        fold.feed(position, frame.offset_us, frame.type, frame.data)
    return fold


def saved(fold: StreamFold) -> dict[str, str]:
    return {key: jsontext.dumps(state) for key, state in fold.states().items()}


def restored(request: Request, states: dict[str, str]) -> StreamFold:
    return StreamFold(request, {key: jsontext.loads(state) for key, state in states.items()})


def cut_there(request: Request, states: dict[str, str], position: int, tail: str = "") -> None:
    """End a stream with half an event and see that all it speaks of can be shown."""
    ended = restored(request, states)
    if tail:
        ended.feed(position, 0, "$tail", tail)
    ended.feed(position + 1, 0, "$end", '{"outcome": "cut"}')
    for key in ended.states():
        if key:
            view = merge(key, [contribution(ended, key)])
            assert "not_folded" not in {kind for _, _, kind, _ in view.anomalies}


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_cut_at_any_event_folds_and_goes_on_to_the_same(name: str) -> None:
    """From each event to the next a restored fold does as one that was never interrupted: so it does to the end."""
    request, frames = frames_of(name)
    running = StreamFold(request)
    states = saved(running)
    for at in range(len(frames)):
        cut_there(request, states, at)
        resumed = fed(restored(request, states), frames[at : at + 1], at)
        states = saved(fed(running, frames[at : at + 1], at))
        assert saved(resumed) == states, f"cut before event {at}"


SMALL = [name for name in NAMES if name.endswith(".sse") and (FOLDER / name).stat().st_size < 20_000]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_stream_cut_at_any_byte_folds_and_goes_on_to_the_same(name: str) -> None:
    body = (FOLDER / name).read_bytes()
    request, frames = frames_of(name)
    decoder, fold = SSEDecoder(), StreamFold(request)
    position = began = 0  # of the next frame, and where it begins
    states = saved(fold)
    for at in range(len(body)):
        found = decoder.feed(body[at : at + 1])
        if found:
            fed(fold, [frame._replace(offset_us=0) for frame in found], position)
            position, began = position + len(found), at + 1
            states = saved(fold)
        cut_there(request, states, position, body[began : at + 1].decode("utf-8", "replace"))
    fed(fold, decoder.finish(), position)
    last = Frame("$end", frames[-1].data, None, 0)
    whole = fed(StreamFold(request), [frame._replace(offset_us=0) for frame in frames], 0)
    assert saved(fed(fold, [last], len(frames) - 1)) == saved(whole)


@needs_shared
def test_the_whole_folder_imported_twice_is_there_once(engine: sa.Engine) -> None:
    first = import_paths(engine, [str(FOLDER)])
    assert {Path(row.path).name for row in first} == set(NAMES)
    count = log.count(engine)
    runner.catch_up(engine)
    assert import_paths(engine, [str(FOLDER)]) == first
    assert log.count(engine) == count
    assert runner.behind(engine) == 0
    assert verify(engine).problems == []
