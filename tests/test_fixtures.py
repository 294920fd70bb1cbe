"""Our own golden streams: each folds to the JSON beside it, however its bytes are cut, and comes back byte for byte.

They stand in a folder for each protocol. A case's .json has `runs` (as show_run gives them; streams by the name of their
file, anomalies without their detail), `unowned` (what belongs to no run) and `stream` (what is about the stream itself).
`follows` names the stream that began its run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, jsontext, log, queries
from recorder.collect.import_ import import_paths, read_file
from recorder.log import Stream
from recorder.projections import runner
from recorder.projections.folds import request_of, source_of
from recorder.projections.sessions import session_streams
from recorder.projections.verify import verify
from recorder.protocols import PROTOCOLS, assistants, responses
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import Contribution, RunView
from recorder.sse import Frame, SSEDecoder, is_system

FOLDER = Path(__file__).parents[1] / "fixtures"
CASES = sorted(str(path.relative_to(FOLDER)).removesuffix(".sse") for path in FOLDER.glob("*/*.sse"))

each_case = pytest.mark.parametrize("case", CASES)


def expected(case: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{case}.json").read_text())
    return loaded


def sse(case: str) -> Path:
    return FOLDER / f"{case}.sse"


def beside(case: str, name: str) -> str:
    """The case of another file in the same folder."""
    return f"{case.partition('/')[0]}/{name.removesuffix('.sse')}"


def frames_of(case: str) -> tuple[Stream, list[Frame]]:
    stream, frames = read_file(sse(case))
    return stream, list(frames)


def decoded(*chunks: bytes) -> list[Frame]:
    """The frames of a body that came in these chunks, all at once."""
    decoder = SSEDecoder()
    found: list[Frame] = []
    for chunk in chunks:
        found += decoder.feed(chunk)
    return found + decoder.finish()


def fed(fold: StreamFold, frames: list[Frame], first: int = 0) -> StreamFold:
    for position, frame in enumerate(frames, first):
        fold.feed(position, frame.offset_us, frame.type, frame.data)
    return fold


def views(*folded: tuple[Stream, StreamFold]) -> list[RunView]:
    """The views of all that these streams speak of."""
    found: dict[str, list[Contribution]] = {}
    for stream, fold in folded:
        for key, part in fold.states().items():
            if key != STREAM:
                found.setdefault(key, []).append(Contribution(source_of(stream, fold), part))
    return [merge(key, given) for key, given in sorted(found.items())]


def told(shown: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A run as the fixtures tell it: streams by the name of their file, anomalies without detail."""
    anomalies = [
        {"stream_id": each["stream_id"], "position": each["position"], "kind": each["kind"]} for each in shown["anomalies"]
    ]
    named = [[{**each, "stream_id": names[each["stream_id"]]} for each in entries] for entries in (shown["streams"], anomalies)]
    return {**shown, "streams": named[0], "anomalies": named[1]}


def check(case: str, fold: StreamFold, stream: Stream) -> None:
    """Compare the fold of a case, with the one that it follows, to its JSON."""
    want = expected(case)
    folded = [(stream, fold)]
    names = {stream.stream_id: sse(case).name}
    if "follows" in want:
        before, frames = frames_of(beside(case, want["follows"]))
        folded.insert(0, (before, fed(StreamFold(request_of(before)), frames)))
        names[before.stream_id] = want["follows"]
    found = views(*folded)
    shown = [told(queries.view_json(view), names) for view in found if view.is_run]
    assert shown == want["runs"]
    unowned = [
        {"id": view.key, "steps": [each.object for each in view.steps], "messages": [each.object for each in view.messages]}
        for view in found
        if not view.is_run
    ]
    assert unowned == want["unowned"]
    own = fold.states()[STREAM]["part"]
    assert {
        "protocol": fold.protocol,
        "outcome": fold.outcome,
        "events": fold.events,
        "thread_id": fold.thread_id,
        "error": fold.error,
        "anomalies": [{"position": position, "kind": kind} for position, kind, _ in (own or {"anomalies": []})["anomalies"]],
    } == want["stream"]


def test_every_stream_has_its_json_and_every_json_its_stream() -> None:
    told_of = {
        str(path.relative_to(FOLDER)).removesuffix(".json")
        for path in FOLDER.glob("*/*.json")
        if not path.name.endswith(".request.json")
    }
    assert told_of == set(CASES)
    assert len(CASES) >= 20


def test_every_protocol_has_cases() -> None:
    assert {case.partition("/")[0] for case in CASES} == {protocol.NAME for protocol in PROTOCOLS}
    for case in CASES:
        assert expected(case)["stream"]["protocol"] in (case.partition("/")[0], None)


def test_the_cases_have_every_event_of_the_assistants_stream() -> None:
    seen = {frame.type for case in CASES if case.startswith("assistants/") for frame in decoded(sse(case).read_bytes())}
    missing = set(assistants.HANDLERS) - seen
    assert missing == {"thread.run.incomplete", "thread.run.step.expired"}, "those two no server was ever seen to send"


def test_the_cases_have_every_event_of_the_responses_stream() -> None:
    seen = {frame.type for case in CASES if case.startswith("responses/") for frame in decoded(sse(case).read_bytes())}
    known = {*responses.HANDLERS, *(f"{name}.delta" for name in responses.STREAMED)}
    assert known <= seen
    whole = {f"response.{name}" for name in ("created", "queued", "in_progress", "completed", "failed", "incomplete", "done")}
    assert whole <= seen


def test_the_cases_have_every_way_in_which_a_chat_ends_and_speaks() -> None:
    chunks = [
        jsontext.object_of(frame.data)
        for case in CASES
        if case.startswith("chat/")
        for frame in decoded(sse(case).read_bytes())
        if not is_system(frame.type)
    ]
    choices = [choice for chunk in chunks for choice in chunk.get("choices") or ()]
    finished = {choice.get("finish_reason") for choice in choices}
    assert finished >= {None, "stop", "length", "tool_calls", "function_call", "content_filter", "error"}
    spoken = {key for choice in choices for key, value in (choice.get("delta") or {}).items() if value}
    assert spoken >= {
        *("role", "content", "refusal", "tool_calls", "function_call", "audio", "annotations"),
        *("reasoning_content", "reasoning", "reasoning_details"),
    }


@each_case
def test_a_stream_folds_to_its_json(case: str) -> None:
    stream, frames = frames_of(case)
    check(case, fed(StreamFold(request_of(stream)), frames), stream)


@each_case
def test_a_stream_that_came_byte_by_byte_folds_to_its_json(case: str) -> None:
    stream, whole = frames_of(case)
    body = sse(case).read_bytes()
    frames = decoded(*(body[at : at + 1] for at in range(len(body))))
    check(case, fed(StreamFold(request_of(stream)), [*frames, whole[-1]]), stream)


@each_case
def test_a_stream_cut_at_any_byte_has_the_same_frames(case: str) -> None:
    body = sse(case).read_bytes()
    whole = decoded(body)
    for at in range(len(body)):
        assert decoded(body[:at], body[at:]) == whole, f"cut at byte {at}"


@each_case
def test_a_fold_saved_after_any_event_goes_on_to_the_same_states(case: str) -> None:
    stream, frames = frames_of(case)
    request = request_of(stream)
    straight = {key: jsontext.dumps(state) for key, state in fed(StreamFold(request), frames).states().items()}
    for at in range(len(frames)):
        saved = jsontext.dumps(fed(StreamFold(request), frames[:at]).states())
        resumed = fed(StreamFold(request, jsontext.loads(saved)), frames[at:], at)
        assert {key: jsontext.dumps(state) for key, state in resumed.states().items()} == straight, f"saved before {at}"


@each_case
def test_a_prefix_of_a_stream_folds_without_a_refusal(case: str) -> None:
    """Whatever a connection loses, what came before is told, and no run is said to have failed that did not."""
    stream, _ = frames_of(case)
    body = sse(case).read_bytes()
    ended = {run["id"]: run["status"] for run in expected(case)["runs"] if run["state"] == "ended"}
    for at in range(0, len(body), 97):
        fold = fed(StreamFold(request_of(stream)), [*decoded(body[:at]), log.system_frame("$end", {"outcome": "cut"}, 0)])
        for view in views((stream, fold)):
            assert "not_folded" not in {kind for _, _, kind, _ in view.anomalies}
            if view.state == "ended":
                assert view.object["status"] == ended[view.key]


@pytest.fixture
def imported(engine: sa.Engine) -> tuple[sa.Engine, dict[str, str]]:
    """A database with all cases, and the names of their files by stream_id."""
    rows = import_paths(engine, [str(sse(case)) for case in CASES])
    runner.catch_up(engine)
    return engine, {row.stream_id: str(Path(row.path).relative_to(FOLDER)) for row in rows}


def test_imported_cases_are_shown_as_their_json_says(imported: tuple[sa.Engine, dict[str, str]]) -> None:
    engine, names = imported
    followed = {beside(case, expected(case)["follows"]) for case in CASES if "follows" in expected(case)}
    plain = {stream_id: Path(name).name for stream_id, name in names.items()}
    with database.read(engine) as connection:
        for case in CASES:
            if case not in followed:
                want = expected(case)["runs"]
                assert [told(queries.show_run(connection, run["id"]), plain) for run in want] == want


def test_each_streams_row_says_what_its_json_says(imported: tuple[sa.Engine, dict[str, str]]) -> None:
    engine, names = imported
    with database.read(engine) as connection:
        rows = connection.execute(sa.select(session_streams)).mappings().all()
    assert len(rows) == len(CASES)
    for row in rows:
        want = expected(names[row["stream_id"]].removesuffix(".sse"))["stream"]
        assert {key: row[key] for key in ("protocol", "outcome", "events", "thread_id")} == {
            key: want[key] for key in ("protocol", "outcome", "events", "thread_id")
        }


def test_imported_cases_come_back_byte_for_byte(imported: tuple[sa.Engine, dict[str, str]]) -> None:
    engine, names = imported
    for stream_id, name in names.items():
        body = b"".join(part for part, _, _ in log.wire(log.read_stream(engine, stream_id)))
        assert body == (FOLDER / name).read_bytes(), name


def test_verify_finds_nothing_amiss_in_them(imported: tuple[sa.Engine, dict[str, str]]) -> None:
    assert verify(imported[0]).problems == []


def test_importing_them_again_adds_nothing(imported: tuple[sa.Engine, dict[str, str]]) -> None:
    engine, names = imported
    before = log.count(engine)
    again = import_paths(engine, [str(sse(case)) for case in reversed(CASES)])
    assert {row.stream_id for row in again} == set(names)
    assert log.count(engine) == before
    assert runner.catch_up(engine) == 0
