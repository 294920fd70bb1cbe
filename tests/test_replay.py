"""Replaying on the command line: the same bytes in the same chunks, each when it is due."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from recorder import database, log
from recorder.cli import main
from recorder.replay.timing import schedule
from recorder.sse import Frame, chunks
from tests import writing
from tests.commands import command, environment, output, sqlite
from tests.writing import stream_id

pytestmark = pytest.mark.slow

MS = 1000
FRAMES = [
    log.system_frame("$response", {"status": 200, "headers": [["content-type", "text/event-stream"]]}, 0),
    Frame("a", "0", None, 300 * MS),  # position 1: with the next in one chunk
    Frame("a", "1", None, 300 * MS),
    Frame("a", "two", None, 900 * MS, [(4, 500 * MS), (9, 700 * MS)]),  # position 3: in three chunks
    Frame("$comment", "kept", None, 900 * MS),  # position 4: with the last of them
    Frame("b", "1", b"id: 7\r\nevent: b\r\ndata: 1\r\n\r\n", 1200 * MS),  # position 5
    Frame("$tail", "data: ha", None, 1300 * MS),
    log.system_frame("$end", {"outcome": "cut"}, 1300 * MS),
]
CHUNKS = [
    (300 * MS, b"event: a\ndata: 0\n\nevent: a\ndata: 1\n\n"),
    (500 * MS, b"even"),
    (700 * MS, b"t: a\n"),
    (900 * MS, b"data: two\n\n: kept\n\n"),
    (1200 * MS, b"id: 7\r\nevent: b\r\ndata: 1\r\n\r\n"),
    (1300 * MS, b"data: ha"),
]
BODY = b"".join(body for _, body in CHUNKS)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("replay") / "log.db"
    engine = database.connect(sqlite(file))
    writing.write(engine, writing.stream(0, label="two"), FRAMES)
    writing.write(engine, writing.stream(1, label="two"), writing.frames([("a", "next"), writing.DONE]))
    engine.dispose()
    output("project", db=file)
    return file


def replayed(recorded: Path, *args: str, id: str = stream_id(0), capfdbinary: pytest.CaptureFixture[bytes]) -> bytes:
    assert main(["--db", sqlite(recorded), "replay", id, *args]) == 0
    return capfdbinary.readouterr().out


def arrivals(recorded: Path, *args: str) -> tuple[list[tuple[float, bytes]], float]:
    """(seconds since the first, bytes) of each read from a replay in a process of its own, and the seconds it took in all."""
    began = time.perf_counter()
    found: list[tuple[float, bytes]] = []
    line = command("--db", sqlite(recorded), "replay", stream_id(0), *args)
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=environment(), bufsize=0) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(65536):
            found.append((time.perf_counter(), piece))
    assert process.returncode == 0
    return [(at - found[0][0], piece) for at, piece in found], time.perf_counter() - began


def test_the_chunks_are_those_that_came(recorded: Path) -> None:
    engine = database.connect(sqlite(recorded), create=False)
    assert list(chunks(log.wire(log.read_stream(engine, stream_id(0))))) == CHUNKS
    engine.dispose()


@pytest.mark.parametrize(
    ("speed", "max_gap", "due_ms"),
    [
        (1, None, [300, 500, 700, 900, 1200, 1300]),
        (10, None, [30, 50, 70, 90, 120, 130]),
        (0.5, None, [600, 1000, 1400, 1800, 2400, 2600]),
        (1, 0.25, [250, 450, 650, 850, 1100, 1200]),
        (10, 0.1, [10, 20, 30, 40, 50, 60]),
        (1, 0.0, [0] * 6),
        (None, None, [0] * 6),
    ],
)
def test_when_chunks_are_due(speed: float | None, max_gap: float | None, due_ms: list[float]) -> None:
    due = list(schedule(CHUNKS, speed, max_gap))
    assert [at for at, _ in due] == pytest.approx([each * MS for each in due_ms])
    assert [body for _, body in due] == [body for _, body in CHUNKS]


def test_a_replay_comes_in_its_chunks_at_its_pace(recorded: Path) -> None:
    """Never a chunk before it is due; how late it may be is the machine's to say, so two chunks may be read as one."""
    pieces, seconds = arrivals(recorded)
    assert b"".join(piece for _, piece in pieces) == BODY
    assert 1.3 <= seconds < 30
    ends = [0]
    for _, body in CHUNKS:
        ends.append(ends[-1] + len(body))
    at = 0
    for _, piece in pieces:
        at += len(piece)
        assert at in ends, "a read ended within a chunk"


def test_ten_times_the_pace_is_a_tenth_of_the_time_at_least(recorded: Path) -> None:
    pieces, seconds = arrivals(recorded, "--speed", "10")
    assert b"".join(piece for _, piece in pieces) == BODY
    assert 0.13 <= seconds < 30


@pytest.mark.parametrize(
    "options", [["--instant"], ["--speed", "100"], ["--max-gap", "0"], ["--max-gap", "0.01", "--speed", "5"]]
)
def test_the_bytes_are_the_same_at_any_pace(
    recorded: Path, options: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert replayed(recorded, *options, capfdbinary=capfdbinary) == BODY


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "0"], BODY),
        (["--from", "1"], BODY),
        (["--from", "2"], BODY[len(b"event: a\ndata: 0\n\n") :]),
        (["--from", "3", "--to", "3"], b"event: a\ndata: two\n\n"),
        (["--from", "4", "--to", "5"], b": kept\n\nid: 7\r\nevent: b\r\ndata: 1\r\n\r\n"),
        (["--to", "1"], b"event: a\ndata: 0\n\n"),
        (["--to", "0"], b""),
        (["--from", "6"], b"data: ha"),
        (["--from", "7"], b""),
        (["--from", "99"], b""),
        (["--from", "3", "--to", "2"], b""),
    ],
)
def test_from_and_to_take_events_by_position(
    recorded: Path, options: list[str], expected: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert replayed(recorded, "--instant", *options, capfdbinary=capfdbinary) == expected


def test_from_leaves_out_the_pause_before_it(recorded: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    began = time.perf_counter()
    assert replayed(recorded, "--from", "6", "--speed", "0.01", capfdbinary=capfdbinary) == b"data: ha"
    assert time.perf_counter() - began < 30, "the pause before it is 10 s here, all before it 130 s"


def test_from_keeps_the_pauses_within_its_first_event(recorded: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The event at 3 came in three chunks, 200 ms apart: from its first chunk to its last are 400 ms."""
    began = time.perf_counter()
    assert replayed(recorded, "--from", "3", "--to", "3", capfdbinary=capfdbinary) == b"event: a\ndata: two\n\n"
    assert time.perf_counter() - began >= 0.4


def test_a_session_is_its_streams_one_after_the_other(recorded: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    following = b"event: a\ndata: next\n\nevent: done\ndata: [DONE]\n\n"
    assert replayed(recorded, "--instant", id="two", capfdbinary=capfdbinary) == BODY + following


def test_from_is_of_one_stream(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--db", sqlite(recorded), "replay", "two", "--instant", "--from", "2"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert stream_id(1) in line


def test_a_body_that_is_no_stream_comes_back_too(recorded: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    engine = database.connect(sqlite(recorded))
    response = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/x-ndjson"]]}, 0)
    lines = [response, Frame("", '{"a":1}', None, 10), Frame("", '{"b":2}', None, 20)]
    writing.write(engine, writing.stream(2), lines)
    engine.dispose()
    assert replayed(recorded, "--instant", id=stream_id(2), capfdbinary=capfdbinary) == b'{"a":1}\n{"b":2}\n'
    assert replayed(recorded, "--instant", "--from", "2", id=stream_id(2), capfdbinary=capfdbinary) == b'{"b":2}\n'


def test_a_reader_that_has_had_enough_is_no_error(recorded: Path) -> None:
    """`recorder replay … | head -1`"""
    line = command("--db", sqlite(recorded), "replay", stream_id(0), "--speed", "4")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), bufsize=0) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5)
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
