"""Importing: files in, streams out; again adds nothing, and a broken-off import is completed by the next."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log
from recorder.collect import import_
from recorder.collect.import_ import find, import_paths, read_file
from recorder.errors import ImportFailed, RecorderError
from recorder.projections import runner
from recorder.projections.verify import verify
from tests import writing

BODY = writing.encoded(writing.said("hello"))


def put(folder: Path, name: str, content: bytes | str | dict[str, Any] = BODY) -> Path:
    file = folder / name
    text = json.dumps(content) if isinstance(content, dict) else content
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def events(engine: sa.Engine, stream_id: str) -> list[log.Event]:
    return list(log.read_stream(engine, stream_id))


def stream(engine: sa.Engine, stream_id: str) -> log.Stream:
    with database.read(engine) as connection:
        return log.get_streams(connection, [stream_id])[stream_id]


def outcome(engine: sa.Engine, stream_id: str) -> str | None:
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
    return head.outcome if head else None


def body(engine: sa.Engine, stream_id: str) -> bytes:
    return b"".join(piece for piece, _, _ in log.wire(events(engine, stream_id)))


def contents(engine: sa.Engine) -> dict[str, list[Any]]:
    """All rows of the log; what a second import must leave as they are."""
    with database.read(engine) as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))]
            for table in (log.streams, log.events, log.heads)
        }


# What is imported


def test_the_files_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.sse", "a.json", "c.events.jsonl", "A.sse", "d.recording.jsonl"]
    for name in [*names, "b.request.json", "notes.txt", "e.jsonl", "f.sse.bak"]:
        put(tmp_path, name, b"")
    (tmp_path / "g.sse").mkdir()
    assert [file.name for file in find([str(tmp_path)])] == sorted(names)


def test_paths_stay_in_the_order_in_which_they_are_given(tmp_path: Path) -> None:
    one, other = put(tmp_path, "z.sse"), put(tmp_path, "a.sse")
    assert find([str(one), str(other)]) == [one, other]


@pytest.mark.parametrize("name", ["missing.sse", "notes.txt", "x.request.json", "folder"])
def test_a_path_that_cannot_be_taken_is_named_and_nothing_is_imported(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    good = put(tmp_path, "good.sse")
    (tmp_path / "folder").mkdir()
    for other in ("notes.txt", "x.request.json"):
        put(tmp_path, other, b"{}")
    with pytest.raises(ImportFailed, match=name):
        import_paths(engine, [str(good), str(tmp_path / name)])
    assert contents(engine)["streams"] == []


def test_an_sse_file_keeps_its_bytes(engine: sa.Engine, tmp_path: Path) -> None:
    given = BODY + b": comment\r\n\r\nid: 1\rdata: \xff\x00\r\rdata: half"
    (row,) = import_paths(engine, [str(put(tmp_path, "x.sse", given))])
    assert body(engine, row.stream_id) == given
    assert row.events == 11
    assert outcome(engine, row.stream_id) == "done"


def test_lines_are_events_without_a_type_and_keep_their_bytes(engine: sa.Engine, tmp_path: Path) -> None:
    given = b'{"a": 1}\r\n{"b":2}\n\n{"c":3}'
    (row,) = import_paths(engine, [str(put(tmp_path, "x.events.jsonl", given))])
    found = events(engine, row.stream_id)
    assert [(entry.type, entry.data) for entry in found if not entry.type.startswith("$")] == [
        ("", '{"a": 1}'),
        ("", '{"b":2}'),
        ("", '{"c":3}'),
    ]
    assert row.events == 3
    assert body(engine, row.stream_id) == given


@pytest.mark.parametrize(
    "given", [b'{"id":"run_1"}', b"no json", b"\xff\x00", b"[1,\n2]\n", b'{"big":"' + b"x" * 3_000_000 + b'"}']
)
def test_a_json_file_is_a_body(engine: sa.Engine, tmp_path: Path, given: bytes) -> None:
    (row,) = import_paths(engine, [str(put(tmp_path, "x.json", given))])
    assert body(engine, row.stream_id) == given
    assert row.events == 0
    assert {entry.type for entry in events(engine, row.stream_id)} == {"$response", "$body", "$end"}
    assert outcome(engine, row.stream_id) == "done"


@pytest.mark.parametrize("name", ["x.sse", "x.json", "x.events.jsonl"])
def test_an_empty_file_is_an_empty_stream(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    (row,) = import_paths(engine, [str(put(tmp_path, name, b""))])
    assert row.events == 0
    assert body(engine, row.stream_id) == b""
    assert outcome(engine, row.stream_id) == "eof"


@pytest.mark.parametrize(
    ("given", "expected"),
    [(BODY, "done"), (BODY[: BODY.index(b"event: done")], "eof"), (BODY[:-30], "cut"), (BODY[:200], "cut"), (b"", "eof")],
)
def test_the_outcome_of_a_file(engine: sa.Engine, tmp_path: Path, given: bytes, expected: str) -> None:
    (row,) = import_paths(engine, [str(put(tmp_path, "x.sse", given))])
    assert outcome(engine, row.stream_id) == expected


# Its request, its time, its id


def test_a_sibling_request_is_taken_along(engine: sa.Engine, tmp_path: Path) -> None:
    request = {"method": "POST", "host": "api.openai.com", "path": "/v1/threads/t/runs?a=1&key=sk-x", "extra": 1}
    put(tmp_path, "x.request.json", {**request, "body": {"tools": [{"type": "mcp", "headers": {"A": "sk-x"}}], "é": 1}})
    (row,) = import_paths(engine, [str(put(tmp_path, "x.sse"))])
    found = stream(engine, row.stream_id)
    assert (found.method, found.host, found.path, found.query) == (
        "POST",
        "api.openai.com",
        "/v1/threads/t/runs",
        "a=1&key=REDACTED",
    )
    assert json.loads(bytes(found.request_body or b"")) == {"tools": [{"type": "mcp", "headers": "REDACTED"}], "é": 1}


@pytest.mark.parametrize("given", [b"no json", b"[]", b'{"method": 5}', b"", b"\xff"])
def test_a_request_file_that_is_none_is_named(engine: sa.Engine, tmp_path: Path, given: bytes) -> None:
    put(tmp_path, "x.request.json", given)
    with pytest.raises(ImportFailed, match=r"x\.request\.json"):
        import_paths(engine, [str(put(tmp_path, "x.sse"))])
    assert contents(engine)["streams"] == []


def test_a_bad_file_among_a_few_good_ones_is_named_and_nothing_is_imported(engine: sa.Engine, tmp_path: Path) -> None:
    put(tmp_path, "a.sse")
    put(tmp_path, "b.recording.jsonl", b"not a recording\n")
    with pytest.raises(ImportFailed, match=r"b\.recording\.jsonl"):
        import_paths(engine, [str(tmp_path)])
    assert contents(engine)["streams"] == []


def test_a_stream_has_the_time_of_its_first_created_at(engine: sa.Engine, tmp_path: Path) -> None:
    paths = [str(put(tmp_path, "a.sse")), str(put(tmp_path, "b.sse", b"data: x\n\n"))]
    paths.append(str(put(tmp_path, "c.sse", b'data: {"created":1700000000}\n\ndata: {"created":1800000000}\n\n')))
    rows = import_paths(engine, paths)
    times = [stream(engine, row.stream_id).started_at.timestamp() for row in rows]
    assert times == [writing.BORN, 0, 1_700_000_000]
    assert [int(row.stream_id.replace("-", "")[:12], 16) for row in rows] == [at * 1000 for at in times]


def test_importing_again_adds_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    for name in ("a.sse", "b.events.jsonl", "c.json"):
        put(tmp_path, name)
    first = import_paths(engine, [str(tmp_path)])
    before = contents(engine)
    assert import_paths(engine, [str(tmp_path)]) == first
    assert import_paths(engine, [str(tmp_path), str(tmp_path / "a.sse")]) == [*first, first[0]]
    assert contents(engine) == before


def test_importing_again_under_another_name_adds_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    (first,) = import_paths(engine, [str(put(tmp_path, "a.sse"))])
    (again,) = import_paths(engine, [str(put(tmp_path, "b.sse"))])
    assert (again.stream_id, again.events) == (first.stream_id, first.events)


def test_the_same_file_twice_in_one_import_is_one_stream(engine: sa.Engine, tmp_path: Path) -> None:
    file = str(put(tmp_path, "a.sse"))
    first, again = import_paths(engine, [file, file])
    assert first == again
    assert body(engine, first.stream_id) == BODY


def test_other_requests_or_bytes_are_other_streams(engine: sa.Engine, tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path, f"{name}.sse", BODY)
    put(tmp_path, "b.request.json", {"path": "/b"})
    put(tmp_path, "c.request.json", {"path": "/b", "body": {}})
    put(tmp_path, "d.sse", BODY + b"\n")
    put(tmp_path, "e.events.jsonl", BODY)
    put(tmp_path, "f.json", BODY)
    assert len({row.stream_id for row in import_paths(engine, [str(tmp_path)])}) == 6


# Its timing


def test_without_a_pace_all_offsets_are_zero(engine: sa.Engine, tmp_path: Path) -> None:
    (row,) = import_paths(engine, [str(put(tmp_path, "x.sse"))])
    assert {entry.offset_us for entry in events(engine, row.stream_id)} == {0}


def test_a_pace_spaces_events_and_system_events_take_no_time(engine: sa.Engine, tmp_path: Path) -> None:
    given = b"data: 0\n\n: comment\n\ndata: 1\n\ndata: 2\n\n"
    (row,) = import_paths(engine, [str(put(tmp_path, "x.sse", given))], pace=4)
    offsets = {entry.data: entry.offset_us for entry in events(engine, row.stream_id)}
    assert [offsets[str(number)] for number in range(3)] == [0, 250_000, 500_000]
    assert [entry.offset_us for entry in events(engine, row.stream_id)] == sorted(offsets.values())
    assert body(engine, row.stream_id) == given


def test_a_pace_of_its_own_on_a_second_import_is_refused_or_changes_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    """The log is append-only: what was imported stays as it is."""
    file = str(put(tmp_path, "x.sse"))
    import_paths(engine, [file])
    before = contents(engine)
    with contextlib.suppress(RecorderError):
        import_paths(engine, [file], pace=10)
    assert contents(engine) == before


# In batches


def test_an_import_that_was_broken_off_is_completed(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = b"".join(b"data: %d\n\n" % number for number in range(1000))
    file = put(tmp_path, "x.sse", given)
    new, frames = read_file(file)
    writing.write(engine, new, [next(frames) for _ in range(417)])
    monkeypatch.setattr(import_, "BATCH", 100)
    (row,) = import_paths(engine, [str(file)])
    assert row.events == 1000
    assert body(engine, row.stream_id) == given
    runner.catch_up(engine)
    assert verify(engine).problems == []


def test_a_large_file_is_many_transactions(engine: sa.Engine, tmp_path: Path) -> None:
    """So that a recorder beside it never waits for long: each holds BATCH events at the most."""
    commits = 0

    def count(connection: Any) -> None:
        nonlocal commits
        commits += 1

    sa.event.listen(engine, "commit", count)
    import_paths(engine, [str(put(tmp_path, "x.sse", b"data: x\n\n" * 20_000))])
    assert commits >= 20_000 // import_.BATCH


def test_small_files_share_transactions(engine: sa.Engine, tmp_path: Path) -> None:
    commits = 0

    def count(connection: Any) -> None:
        nonlocal commits
        commits += 1

    for number in range(100):
        put(tmp_path, f"{number:03}.sse", b"data: %d\n\n" % number)
    sa.event.listen(engine, "commit", count)
    assert len(import_paths(engine, [str(tmp_path)])) == 100
    assert commits < 20


def test_the_shared_streams_come_back_byte_for_byte(engine: sa.Engine, shared: Path) -> None:
    rows = import_paths(engine, [str(shared / "streams")])
    assert len(rows) > 80
    wrong = [row.path for row in rows if body(engine, row.stream_id) != Path(row.path).read_bytes()]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "body", "kinds"),
    [
        ("a.json", b'data: {"a":1}\n\n', ["$response", "", "$end"]),
        ("a.json", b'{"a":1}\n{"b":2}\n', ["$response", "", "", "$end"]),
        ("a.sse", b'\n{"a":1}', ["$response", "$body", "$end"]),
        ("a.events.jsonl", b'data: {"a":1}\n\n', ["$response", "", "$end"]),
    ],
)
def test_a_file_is_what_its_content_says(engine: sa.Engine, tmp_path: Path, name: str, body: bytes, kinds: list[str]) -> None:
    (tmp_path / name).write_bytes(body)
    (row,) = import_paths(engine, [str(tmp_path / name)])
    found = list(log.read_stream(engine, row.stream_id))
    assert [event.type for event in found] == kinds
    assert b"".join(piece for piece, _, _ in log.wire(found)) == body
