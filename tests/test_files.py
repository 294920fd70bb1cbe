"""Files that others wrote, as every reader takes them: a byte order mark, what is no text, and what is no file or has no end."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import files, prices, settings
from recorder.collect.import_ import import_paths
from recorder.errors import ImportFailed, UsageError
from recorder.recording import read_recording
from tests.commands import recorder

BOM = b"\xef\xbb\xbf"

STREAM = {"stream_id": "019e7044-0000-7000-8000-000000000001", "method": "POST", "path": "/v1/x", "session_label": "mine"}
TIMES = {"started_at": "2026-05-28T20:26:40Z", "recorded_at": "2026-05-28T20:26:40Z"}
END = [2, "$end", {"outcome": "done", "closed": "eof"}]
CASSETTE = "interactions:\n- request: {method: GET, uri: 'http://h/'}\n  response: {status: {code: 200}, body: {string: '{}'}}\n"


def recording(*lines: object, **request: object) -> bytes:
    """A recording of one stream with these events."""
    head = {"recorder": 2, "source": "s", "requests": ["POST /v1/x"]}
    written = [head, {**STREAM, **TIMES, **request}, *lines, {"events": len(lines)}]
    return "".join(json.dumps(line) + "\n" for line in written).encode()


WHOLE: dict[str, bytes] = {
    ".sse": b'data: {"a":1}\n\n',
    ".json": b'{"id":"run_1","object":"thread.run","status":"completed"}',
    ".events.jsonl": b'{"event":"thread.run.created","data":{"id":"run_1","object":"thread.run"}}\n',
    ".recording.jsonl": recording([1, "thread.run.created", {"id": "run_1"}], END),
    ".yaml": CASSETTE.encode(),
}
"""A file of each kind that is imported."""


@pytest.fixture(params=sorted(WHOLE))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_byte_order_mark_changes_nothing(engine: sa.Engine, tmp_path: Path, kind: str) -> None:
    plain, marked = tmp_path / f"plain{kind}", tmp_path / f"marked{kind}"
    plain.write_bytes(WHOLE[kind])
    marked.write_bytes(BOM + WHOLE[kind])
    (one,) = import_paths(engine, [str(plain)])
    (other,) = import_paths(engine, [str(marked)])
    assert other.events == one.events


def test_a_byte_order_mark_before_a_request_file_and_what_is_no_text_in_one(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "a.sse").write_bytes(WHOLE[".sse"])
    beside = tmp_path / "a.request.json"
    beside.write_bytes(BOM + b'{"method":"POST","path":"/v1/runs"}')
    import_paths(engine, [str(tmp_path)])
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT path FROM streams")).scalar() == "/v1/runs"
    beside.write_bytes(b'{"method":"\xff"}')
    with pytest.raises(ImportFailed, match="not a request file"):
        import_paths(engine, [str(tmp_path)])


@pytest.mark.parametrize(("read", "good"), [(settings.load, b"sample = 0.5\n"), (prices.load, b"[prices]\n")])
def test_settings_and_prices_take_a_byte_order_mark_and_name_what_is_no_text(
    tmp_path: Path, read: Callable[[Path], object], good: bytes
) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(BOM + good)
    assert read(path)
    for bad in (b"# \xe9\n", b"\xff\xfe#\0"):
        path.write_bytes(bad)
        with pytest.raises(UsageError) as failure:
            read(path)
        assert str(path) in str(failure.value)
        assert "\n" not in str(failure.value)


@pytest.mark.parametrize("read", [settings.load, prices.load])
def test_settings_without_an_end_are_refused(read: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match="larger than"):
        read("/dev/zero")


# What is no file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(files.LARGEST + 1)


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def circle(path: Path) -> None:
    path.symlink_to(path)


NO_FILES = (pipe, sparse, zero, listening, circle, Path.mkdir)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than another GiB of addresses: to read what has no end fails soon."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
def test_what_is_no_file_is_refused_in_one_line(
    engine: sa.Engine, tmp_path: Path, kind: str, make: Callable[[Path], None]
) -> None:
    path = tmp_path / f"a{kind}"
    make(path)
    with pytest.raises(ImportFailed) as failure:
        import_paths(engine, [str(path)])
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
def test_nor_is_it_waited_for_as_a_request_or_by_others_that_read_recordings(
    engine: sa.Engine, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "a.sse").write_bytes(WHOLE[".sse"])
    make(tmp_path / "a.request.json")
    if make is not circle:  # which leads nowhere: there is no request
        with pytest.raises(ImportFailed, match=r"a\.request\.json"):
            import_paths(engine, [str(tmp_path / "a.sse")])
    make(tmp_path / "x.recording.jsonl")
    with pytest.raises(ImportFailed, match=r"x\.recording\.jsonl"):
        read_recording(tmp_path / "x.recording.jsonl")


def test_in_a_folder_it_is_passed_over(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "b.sse").write_bytes(WHOLE[".sse"])
    for number, make in enumerate((pipe, zero, listening, circle, Path.mkdir)):
        make(tmp_path / f"a{number}.sse")
    assert [Path(row.path).name for row in import_paths(engine, [str(tmp_path)])] == ["b.sse"]


# What is in them


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 50_000], ids=["whole", "broken"])
def test_json_of_any_depth_is_taken_or_refused_in_one_line(engine: sa.Engine, tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"a{kind}"
    path.write_text(f"data: {text}\n\n" if kind == ".sse" else text)
    if kind not in (".recording.jsonl", ".yaml"):
        assert import_paths(engine, [str(path)])
        return
    with pytest.raises(ImportFailed) as failure:
        import_paths(engine, [str(path)])
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("field", ["method", "host", "path"])
@pytest.mark.parametrize("said", ["\\ud800", "\\u0000"], ids=["half a character", "NUL"])
def test_what_no_database_holds_in_a_request_file_is_replaced(engine: sa.Engine, tmp_path: Path, field: str, said: str) -> None:
    (tmp_path / "a.sse").write_bytes(WHOLE[".sse"])
    (tmp_path / "a.request.json").write_text(f'{{"{field}":"/{said}"}}')
    import_paths(engine, [str(tmp_path)])
    with engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT {field} FROM streams")).scalar() == "/\ufffd"


def test_names_that_are_no_text_are_taken(engine: sa.Engine, tmp_path: Path) -> None:
    for kind, content in WHOLE.items():
        (tmp_path / f"\udcff{kind}").write_bytes(content)
    assert len(import_paths(engine, [str(tmp_path)])) == len(WHOLE)


WRONG_RECORDINGS = {
    "a day before the calendar": recording(END, started_at="0001-01-01T00:00:00+14:00"),
    "a day after the calendar": recording(END, recorded_at="9999-12-31T23:59:59.999999-12:00"),
    "a year of five digits": recording(END, started_at="10000-01-01T00:00:00Z"),
    "an outcome that is a number": recording([1, "$end", {"outcome": 5}]),
    "an outcome that is a list": recording([1, "$end", {"outcome": ["x"]}]),
    "no outcome": recording([1, "$end", {}]),
    "a long outcome": recording([1, "$end", {"outcome": "x" * 1000}]),
    "an outcome with NUL": recording([1, "$end", {"outcome": "\0"}]),
    "half a character": recording(END).replace(b"mine", rb"\ud800"),
    "no UTF-8": recording(END).replace(b"mine", b"\xff"),
    "a deep event": recording(END).replace(b'{"outcome": "done", "closed": "eof"}', DEEP.encode()),
    "a deep request": recording(END).replace(b'"mine"', DEEP.encode()),
}


@pytest.mark.parametrize("name", WRONG_RECORDINGS)
def test_a_recording_that_makes_no_sense_is_refused_in_one_line(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.recording.jsonl"
    path.write_bytes(WRONG_RECORDINGS[name])
    with pytest.raises(ImportFailed) as failure:
        import_paths(engine, [str(path)])
    assert str(failure.value).startswith(f"{path}: ")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("year", ["0001", "0900", "9999"])
def test_the_first_and_the_last_year_are_taken(engine: sa.Engine, tmp_path: Path, year: str) -> None:
    path = tmp_path / "a.recording.jsonl"
    path.write_bytes(recording(END, started_at=f"{year}-12-31T10:00:00Z", recorded_at=f"{year}-12-31T10:00:00Z"))
    assert len(import_paths(engine, [str(path)])) == 1


def test_a_command_says_it_in_one_line(tmp_path: Path) -> None:
    pipe(tmp_path / "a.sse")
    done = recorder("import", str(tmp_path / "a.sse"), db=tmp_path / "log.db")
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1


def test_a_recorded_request_that_no_client_would_send_makes_no_test(tmp_path: Path) -> None:
    path = tmp_path / "a.recording.jsonl"
    path.write_bytes(recording([1, "$response", {"status": 200, "headers": []}], END, host="h", path="/v1/x\ny"))
    recorder("import", str(path), db=tmp_path / "log.db")
    done = recorder("export", "last", "--as-test", str(tmp_path / "test_x.py"), db=tmp_path / "log.db")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: last has a request that cannot be asked again: ")
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "test_x.py").exists()
