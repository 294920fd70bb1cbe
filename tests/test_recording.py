"""Recording files: what was written is read back, frame for frame, and what is no recording is said to be none."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder import database, log, queries, sse
from recorder.bodies import BodyDecoder
from recorder.collect.import_ import import_paths
from recorder.collect.streamid import new_stream_id
from recorder.errors import ImportFailed
from recorder.log import Event, Stream
from recorder.projections import runner
from recorder.projections.sessions import sessions
from recorder.queries import Named
from recorder.recording import VERSION, read_recording, write_recording
from recorder.sse import Frame
from recorder.testing import SUFFIX
from tests import writing
from tests.test_sse import cut_bodies, decoded

in_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Examples overwrite the same file."""

KEPT = Path(__file__).parents[1] / "fixtures" / "recordings"
"""A file of each version, all of them of the same session."""

RESPONSE = log.system_frame("$response", {"status": 200, "headers": [["content-type", "text/event-stream"]]}, 1)
END = log.system_frame("$end", {"outcome": "done"}, 99)


def events_of(frames: list[Frame]) -> list[Event]:
    """The frames as they are read from the log."""
    return [log.event(log.row("s", position, frame)[1:]) for position, frame in enumerate(frames)]


def written(path: Path, recorded: list[tuple[Stream, list[Event]]]) -> list[str]:
    lines = list(write_recording(recorded))
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return lines


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
STREAMS = st.builds(
    Stream,
    st.builds(new_stream_id),
    *([TEXTS] * 4),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
    st.none() | st.binary(max_size=9),
    st.none() | TEXTS,
    TEXTS,
    TIMES,
    TIMES,
)


@in_one_file
@given(st.lists(st.tuples(STREAMS, cut_bodies()), max_size=3))
def test_a_recording_gives_the_same_streams_frames_chunks_and_bytes(
    tmp_path: Path, session: list[tuple[Stream, tuple[bytes, list[bytes]]]]
) -> None:
    path = tmp_path / "x.recording.jsonl"
    recorded = [(stream, events_of([RESPONSE, *decoded(chunks), END])) for stream, (_, chunks) in session]
    lines = written(path, recorded)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    found = read_recording(path)
    assert [stream for stream, _ in found] == [stream for stream, _ in recorded]
    for (_, frames), (_, events), (_, (body, chunks)) in zip(found, recorded, session, strict=True):
        assert [Event(position, frame.offset_us, *frame[:3], frame.cuts) for position, frame in enumerate(frames)] == [
            event._replace(offset_us=event.offset_us) for event in events
        ]
        assert b"".join(part for part, _, _ in log.wire(events_of(frames))) == body
        assert list(sse.chunks(log.wire(events_of(frames)))) == [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]
    assert list(write_recording([(stream, events_of(frames)) for stream, frames in found])) == lines


def framed(*blocks: bytes) -> list[Event]:
    """The events of a stream whose blocks came in a chunk each."""
    return events_of([RESPONSE, *decoded(list(blocks)), END])


def test_a_recording_is_a_header_then_each_request_with_a_line_for_each_event(tmp_path: Path) -> None:
    one = Stream(new_stream_id(), "POST", "h", "/v1/x", request_body=b'{"input":"hi"}', session_label="s", source="proxy")
    other = Stream(new_stream_id(), "GET", "h", "/v1/y", source="hook")
    lines = written(tmp_path / "x", [(one, framed(b'data: {"a":1}\n\n', b"data:y\n\n")), (other, events_of([END]))])
    header, first, *events, second, end, last = map(json.loads, lines)
    assert header == {"recorder": VERSION, "source": "proxy", "requests": ["POST /v1/x", "GET /v1/y"]}
    assert {name: first[name] for name in ("stream_id", "session_label", "method", "path", "body")} == {
        "stream_id": one.stream_id,
        "session_label": "s",
        "method": "POST",
        "path": "/v1/x",
        "body": {"input": "hi"},
    }
    assert "source" not in first
    assert (second["source"], second["stream_id"]) == ("hook", other.stream_id)
    assert events == [
        [1, "$response", {"status": 200, "headers": [["content-type", "text/event-stream"]]}],
        [10, "", {"a": 1}],
        [20, "", "y", {"around": ["data:", "\n\n"]}],
        [99, "$end", {"outcome": "done"}],
    ]
    assert end == [99, "$end", {"outcome": "done"}]
    assert last == {"events": 5}


@pytest.mark.parametrize(
    "payload",
    [
        '{"a":1}',
        '{"a": 1.0, "b": 1e0, "c":12345678901234567890123}',
        '{"a":1,"a":2}',
        "[1, 2]",
        '{"\\u00e9": "é\\/"}',
        '{"a":\t1}',
    ],
)
def test_json_stands_as_json_to_the_letter(tmp_path: Path, payload: str) -> None:
    lines, found, body = through_a_file(tmp_path, payload)
    assert lines[3] == f'[10,"",{payload}]\n'
    assert (found, body) == (payload.encode(), f"data: {payload}\n\n".encode())


@pytest.mark.parametrize(
    "payload",
    ['{"a":1} ', " {}", '{"a":NaN}', '{"\\ud800":1}', '{"a":1', "[" * 5000 + "]" * 5000, '"a string"', "null", "17", "1e999", ""],
)
def test_what_not_all_take_for_json_and_what_is_no_object_or_list_is_a_string(tmp_path: Path, payload: str) -> None:
    lines, found, body = through_a_file(tmp_path, payload)
    assert json.loads(lines[3])[2] == payload
    assert (found, body) == (payload.encode(), f"data: {payload}\n\n".encode())


def through_a_file(folder: Path, payload: str) -> tuple[list[str], bytes | None, bytes]:
    """The lines of a recording with one event of this data, asked for with it; the request's and the response's body again."""
    path = folder / f"x{SUFFIX}"
    asked = Stream(new_stream_id(), request_body=payload.encode())
    lines = written(path, [(asked, framed(f"data: {payload}\n\n".encode()))])
    ((found, frames),) = read_recording(path)
    return lines, found.request_body, b"".join(part for part, _, _ in log.wire(events_of(frames)))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{\n  "a": "é",\n  "b": []\n}', '{"a":"é","b":[]},{"indent":2}'),
        ('{\n  "a": 1.0\n}\n', None),
        ('{\n    "a": 1\n}', None),
        ('{\n  "a": 1,\n  "a": 2\n}', None),
        ("{\n", None),
    ],
)
def test_a_body_of_json_over_several_lines_is_one_line(tmp_path: Path, body: str, shown: str | None) -> None:
    response = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/json"]]}, 1)
    decoder = BodyDecoder()
    frames = [response, *decoder.feed(body.encode(), 5), *decoder.finish(), END]
    lines = written(tmp_path / "x.recording.jsonl", [(Stream(new_stream_id()), events_of(frames))])
    assert lines[3] == f'[5,"$body",{shown or json.dumps(body, ensure_ascii=False)}]\n'
    ((_, found),) = read_recording(tmp_path / "x.recording.jsonl")
    assert found == frames


def test_what_no_text_can_hold_is_kept_in_its_bytes(tmp_path: Path) -> None:
    blocks = [b"event: e\xff\ndata: \xfe\n\n", b"data: a\0b\n\n", b"data: 1\rdata: 2\r\r", b"data: half"]
    written(tmp_path / "x.recording.jsonl", [(Stream(new_stream_id(), request_body=b"\xff\0"), framed(*blocks))])
    ((stream, frames),) = read_recording(tmp_path / "x.recording.jsonl")
    assert stream.request_body == b"\xff\0"
    assert list(sse.chunks(log.wire(events_of(frames)))) == [(number * 10, block) for number, block in enumerate(blocks, 1)]


# Through other databases


def recordings(engine: sa.Engine) -> dict[str, str]:
    """A recording of each session of a database, by the session's id."""
    runner.catch_up(engine)
    with database.read(engine) as connection:
        ids = list(connection.execute(sa.select(sessions.c.session_id)).scalars())
        found = {id: queries.streams_of(connection, Named("session", id)) for id in ids}
        streams = {id: log.get_streams(connection, of) for id, of in found.items()}
    return {id: "".join(write_recording((streams[id][key], log.read_stream(engine, key)) for key in found[id])) for id in found}


def through(engine: sa.Engine, folder: Path, given: dict[str, str]) -> dict[str, str]:
    """The recordings of a database that these were imported into."""
    folder.mkdir()
    for number, text in enumerate(given.values()):
        (folder / f"{number}{SUFFIX}").write_text(text, encoding="utf-8", newline="")
    import_paths(engine, [str(folder)])
    return recordings(engine)


def test_the_shared_streams_come_out_of_another_database_as_the_same_recordings(
    engine: sa.Engine, db: str, tmp_path: Path, shared: Path
) -> None:
    first = database.connect(db)
    import_paths(first, [str(shared / "streams")], pace=100)
    before = recordings(first)
    first.dispose()
    assert sum(text.count('"stream_id":"') for text in before.values()) > 80
    assert through(engine, tmp_path / "files", before) == before


def test_labels_threads_outcomes_and_streams_without_an_end_come_out_as_they_were(
    engine: sa.Engine, db: str, tmp_path: Path
) -> None:
    first = database.connect(db)
    submitting = writing.submitting()
    writing.write(first, writing.stream(0), writing.frames(writing.asked()))
    writing.write(first, writing.stream(1, submitting), writing.frames(writing.answered()))
    writing.write(first, writing.stream(2, label="é 1"), writing.frames(writing.said(id="run_2", thread_id="thread_2")))
    writing.write(first, writing.stream(3, label="é 1"), writing.frames(writing.said(id="run_3")[:4], None))
    writing.write(first, writing.stream(4, label="cut"), writing.frames(writing.said(id="run_4")[:4], "cut"))
    writing.write(first, writing.stream(5, label="nothing"), [])
    before = recordings(first)
    first.dispose()
    assert set(before) >= {"thread_1", "é 1", "cut"}
    assert through(engine, tmp_path / "files", before) == before
    with database.read(engine) as connection:
        heads = {number: log.head(connection, writing.stream_id(number)) for number in range(6)}
    assert {number: head and head.outcome for number, head in heads.items()} == {
        **dict.fromkeys((0, 1, 2), "done"),
        3: None,
        4: "cut",
        5: None,
    }


def test_files_of_every_version_are_imported_and_the_same_streams_again_add_nothing(engine: sa.Engine) -> None:
    for number, path in enumerate(sorted(KEPT.iterdir())):
        import_paths(engine, [str(path)])
        if number == 0:
            before = recordings(engine)
    assert recordings(engine) == before
    assert before["oslo weather"] == (KEPT / f"version-{VERSION}{SUFFIX}").read_text(encoding="utf-8")


def test_a_stream_that_is_there_with_other_events_is_named_and_stays(engine: sa.Engine, tmp_path: Path) -> None:
    import_paths(engine, [str(KEPT / f"version-{VERSION}{SUFFIX}")])
    before = recordings(engine)
    changed = tmp_path / f"x{SUFFIX}"
    changed.write_text(before["oslo weather"].replace('"queued"', '"qeuued"'), encoding="utf-8")
    with pytest.raises(ImportFailed, match=r"stream 019e7044-8800-\S+ holds another event at position 1; .*another database"):
        import_paths(engine, [str(changed)])
    assert recordings(engine) == before


# Older versions


def test_there_is_a_file_of_each_version() -> None:
    assert sorted(path.name for path in KEPT.iterdir()) == [f"version-{number}{SUFFIX}" for number in range(1, VERSION + 1)]


def test_files_of_all_versions_say_the_same() -> None:
    first, *others = (read_recording(path) for path in sorted(KEPT.iterdir()))
    assert [len(frames) for _, frames in first] == [9, 16, 3, 1]
    assert [frames[-1].data.partition(",")[0] for _, frames in first] == [
        '{"outcome":"done"',
        '{"outcome":"cut"',
        '{"outcome":"done"',
        '{"outcome":"no_response"',
    ]
    for other in others:
        assert other == first


def test_the_file_of_this_version_is_what_is_written() -> None:
    path = KEPT / f"version-{VERSION}{SUFFIX}"
    lines = write_recording((stream, events_of(frames)) for stream, frames in read_recording(path))
    assert "".join(lines) == path.read_text(encoding="utf-8")


def test_a_recording_of_version_1_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "old.recording.jsonl"
    path.write_text(
        '{"recorder":1,"streams":[{"stream_id":"019a0000-0000-7000-8000-000000000000","method":"POST","host":"h","path":"/p",'
        '"query":"","request_headers":[["a","b"]],"request_body":"e30=","session_label":null,"source":"proxy",'
        '"started_at":"2026-01-02T03:04:05+00:00","recorded_at":"2026-01-02T03:04:06.000007+00:00"}]}\n'
        '[0,0,"$response",{"status":200,"headers":[]}]\n'
        '[0,12,"e","x"]\n'
        '[0,30,"","y",{"raw":"ZGF0YTp5Cgo=","cuts":[[3,20]]}]\n'
    )
    ((stream, frames),) = read_recording(path)
    assert stream == Stream(
        "019a0000-0000-7000-8000-000000000000",
        "POST",
        "h",
        "/p",
        "",
        (("a", "b"),),
        b"{}",
        None,
        "proxy",
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 6, 7, UTC),
    )
    assert frames == [
        Frame("$response", '{"status":200,"headers":[]}', None, 0),
        Frame("e", "x", None, 12),
        Frame("", "y", b"data:y\n\n", 30, [(3, 20)]),
    ]


# What is no recording


TIME = "2026-01-01T00:00:00Z"
ID = "019a0000-0000-7000-8000-000000000000"
OLD = {"recorder": 1, "streams": [{"stream_id": "s", "request_headers": [], "started_at": TIME, "recorded_at": TIME}]}
HEADER = {"recorder": 2, "source": "", "requests": [""]}
REQUEST = {"stream_id": ID, "started_at": TIME, "recorded_at": TIME}
EVENT = [1, "e", "x"]


def end(events: int) -> dict[str, int]:
    return {"events": events}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1 is no header"),
        (["{}"], "line 1 is no header"),
        (["data: x"], "line 1 is no header"),
        (["[]"], "line 1 is no header"),
        (['{"recorder": []}'], "line 1 is no header"),
        ([{"recorder": 99, "streams": []}], "line 1: a recording of version 99, and this recorder reads up to 2; upgrade it"),
        ([{"recorder": 1}], "line 1"),
        ([{"recorder": 1, "streams": [{}]}], "line 1"),
        ([{"recorder": 1, "streams": [{**OLD["streams"][0], "unknown": 1}]}], "line 1"),  # type: ignore[index, dict-item]
        ([OLD, [0, 1, "e", "x"], [1, 1, "e", "x"]], "line 3"),
        ([OLD, [-1, 1, "e", "x"]], "line 2"),
        ([OLD, [0, 1, "e"]], "line 2"),
        ([OLD, [0, "soon", "e", "x"]], "line 2"),
        ([OLD, [0, 1, "e", "x", {"raw": "%"}]], "line 2"),
        ([OLD, [0, 1, "e", "x", {"cuts": [[1]]}]], "line 2"),
        ([OLD, [0, 1, "e", "x", 5]], "line 2"),
        ([OLD, [0, 1, "e", "x"], "[0,1,"], "line 3"),
        ([OLD, "5"], "line 2"),
        ([{"recorder": 2}, end(0)], "line 1"),
        ([{**HEADER, "more": 1}, REQUEST, end(0)], "line 1"),
        ([HEADER], "breaks off in line 1"),
        ([HEADER, REQUEST], "breaks off in line 2"),
        ([HEADER, REQUEST, EVENT, '[2,"e","'], "breaks off in line 4"),
        ([HEADER, REQUEST, EVENT, end(2)], "line 4 says that it has 2 events, and it has 1"),
        ([HEADER, end(0)], "line 1 names 1 requests, and it has 0"),
        ([HEADER, EVENT, end(1)], "line 2"),
        ([HEADER, {}, end(0)], "line 2"),
        ([HEADER, {**REQUEST, "unknown": 1}, end(0)], "line 2"),
        ([HEADER, {**REQUEST, "stream_id": "s"}, end(0)], "line 2"),
        ([HEADER, {**REQUEST, "stream_id": ID.upper()}, end(0)], "line 2"),
        ([HEADER, {**REQUEST, "started_at": "2026-01-01T00:00:00"}, end(0)], "line 2"),
        ([HEADER, {**REQUEST, "body": 5}, end(0)], "line 2"),
        ([HEADER, {**REQUEST, "body_base64": "%"}, end(0)], "line 2"),
        ([HEADER, REQUEST, REQUEST, end(0)], "line 3"),
        ([HEADER, REQUEST, EVENT, "<<<<<<< ours", EVENT, end(2)], "line 4"),
        ([HEADER, REQUEST, "", end(0)], "line 3"),
        ([HEADER, REQUEST, [1, "e"], end(1)], "line 3"),
        ([HEADER, REQUEST, ["soon", "e", "x"], end(1)], "line 3"),
        ([HEADER, REQUEST, [-1, "e", "x"], end(1)], "line 3"),
        ([HEADER, REQUEST, [2**63, "e", "x"], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, 5, "x"], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", 5], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", None], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", "x", 5], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", "x", {}, 5], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", "x", {"unknown": 5}], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", None, {"base64": "%"}], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", "x", {"cuts": [[1]]}], end(1)], "line 3"),
        ([HEADER, REQUEST, [1, "e", "x", {"indent": 2}], end(1)], None),
        ([HEADER, REQUEST, '[1,"e",{"a":tru}]', end(1)], "line 3"),
        ([HEADER, REQUEST, EVENT, end(1), EVENT], "breaks off in line 5"),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line_that_names_file_line_and_what_to_do(
    tmp_path: Path, lines: list[Any], said: str | None
) -> None:
    path = tmp_path / "x.recording.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    if said is None:
        assert read_recording(path)
        return
    with pytest.raises(ImportFailed) as failure:
        read_recording(path)
    message = str(failure.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert re.search(r"`(recorder export ID -o FILE|pip install -U runstep-recorder)`", message)
    assert "\n" not in message


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_file_that_was_cut_at_any_byte_of_its_end_is_known_for_one(tmp_path: Path, version: int) -> None:
    whole = (KEPT / f"version-{version}{SUFFIX}").read_bytes()
    path = tmp_path / f"x{SUFFIX}"
    for left in (*range(len(whole) - 400, len(whole) - 1), *range(2, len(whole), 997)):
        path.write_bytes(whole[:left])
        if version == 1 and whole[left : left + 1] == b"\n" and left > whole.index(b"\n"):
            continue  # what ends with a whole line, version 1 could not tell
        if version == 1 and whole[left - 1 : left] == b"\n":
            continue
        with pytest.raises(ImportFailed, match=rf"^{path}: .*line \d+"):
            read_recording(path)
    path.write_bytes(whole[:-1])
    assert read_recording(path)


def test_line_ends_of_another_system_do_no_harm(tmp_path: Path) -> None:
    """git may check it out so."""
    given = KEPT / f"version-{VERSION}{SUFFIX}"
    (tmp_path / "x").write_bytes(given.read_bytes().replace(b"\n", b"\r\n"))
    assert read_recording(tmp_path / "x") == read_recording(given)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="No such file"):
        read_recording(tmp_path / "absent")
    with pytest.raises(ImportFailed, match="directory"):
        read_recording(tmp_path)
