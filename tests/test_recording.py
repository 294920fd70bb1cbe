"""Recording files: what was written is read back, frame for frame, and what is no recording is said to be none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder import log, sse
from recorder.collect.streamid import new_stream_id
from recorder.errors import ImportFailed
from recorder.log import Event, Stream
from recorder.recording import VERSION, read_recording, write_recording
from recorder.sse import Frame
from tests.test_sse import cut_bodies, decoded

in_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Examples overwrite the same file."""

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


def test_a_recording_is_a_header_and_a_line_for_each_event(tmp_path: Path) -> None:
    stream = Stream(new_stream_id(), "POST", "h", "/v1/x")
    lines = written(tmp_path / "x", [(stream, events_of([RESPONSE, *decoded([b"data: x\n\n", b"data:y\n\n"]), END]))])
    header, *rest = map(json.loads, lines)
    assert header["recorder"] == VERSION
    assert [entry["stream_id"] for entry in header["streams"]] == [stream.stream_id]
    assert [line[:3] for line in rest] == [[0, 1, "$response"], [0, 10, ""], [0, 20, ""], [0, 99, "$end"]]
    assert rest[0][3] == {"status": 200, "headers": [["content-type", "text/event-stream"]]}
    assert rest[1][3:] == ["x"]
    assert rest[2][3:] == ["y", {"raw": "ZGF0YTp5Cgo="}]


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


HEADER = {"recorder": VERSION, "streams": [{"stream_id": "s", "request_headers": [], "started_at": "2026-01-01T00:00:00+00:00"}]}
HEADER["streams"][0]["recorded_at"] = "2026-01-01T00:00:00+00:00"  # type: ignore[index]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "version None"),
        (["{}"], "version None"),
        (["data: x"], "line 1"),
        (["[]"], "line 1"),
        ([{"recorder": 99, "streams": []}], "99"),
        ([{"recorder": VERSION}], "line 1"),
        ([{"recorder": VERSION, "streams": [{}]}], "line 1"),
        ([{"recorder": VERSION, "streams": [{**HEADER["streams"][0], "unknown": 1}]}], "line 1"),  # type: ignore[index, dict-item]
        ([HEADER, [0, 1, "e", "x"], [1, 1, "e", "x"]], "line 3"),
        ([HEADER, [-1, 1, "e", "x"]], "line 2"),
        ([HEADER, [0, 1, "e"]], "line 2"),
        ([HEADER, [0, "soon", "e", "x"]], "line 2"),
        ([HEADER, [0, 1, "e", "x", {"raw": "%"}]], "line 2"),
        ([HEADER, [0, 1, "e", "x", {"cuts": [[1]]}]], "line 2"),
        ([HEADER, [0, 1, "e", "x", 5]], "line 2"),
        ([HEADER, [0, 1, "e", "x"], "[0,1,"], "line 3"),
        ([HEADER, "5"], "line 2"),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line_that_names_file_and_line(
    tmp_path: Path, lines: list[Any], said: str
) -> None:
    path = tmp_path / "x.recording.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    with pytest.raises(ImportFailed) as failure:
        read_recording(path)
    message = str(failure.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="No such file"):
        read_recording(tmp_path / "absent")
    with pytest.raises(ImportFailed, match="directory"):
        read_recording(tmp_path)
