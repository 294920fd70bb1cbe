"""Nothing that fails in the recorder ends its thread or reaches its caller, and what is lost is said, to the byte."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, sse
from recorder.collect import writer as writing_thread
from recorder.collect.recording import Recording
from recorder.collect.writer import Writer
from recorder.settings import Settings
from tests.commands import until
from tests.test_lease import leases, outcome, sound
from tests.test_writer import SSE, begun, body, datas, event, events, held, stream, types

FAULTS: list[type[BaseException]] = [RuntimeError, MemoryError, SystemExit]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again sooner than in earnest."""
    monkeypatch.setattr(writing_thread, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(writing_thread, "_OWED_SECONDS", 0.1)


def said(engine: sa.Engine, recording: Recording) -> list[dict[str, Any]]:
    """What the gaps of a stream say."""
    return [json.loads(entry.data) for entry in events(engine, recording) if entry.type == "$gap"]


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, fault: BaseException) -> Iterator[list[int]]:
    """Something of the recorder has a bug meanwhile; yields how often it was met."""
    met = [0]

    def fail(*args: object, **options: object) -> None:
        met[0] += 1
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield met


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", ["append", "insert_streams", "row"])
def test_a_bug_where_events_are_stored_costs_what_came_meanwhile_and_says_how_much(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: type[BaseException], where: str
) -> None:
    with Writer(engine) as writer:
        before, other = begun(writer), begun(writer)
        for recording in (before, other):
            recording.chunk(event(0))
        assert writer.flush(20)
        with broken(monkeypatch, log, where, fault("a bug")) as met:
            during = begun(writer)
            for number in range(1, 10):
                before.chunk(event(number))
                during.chunk(event(number))
                assert writer.flush(20), "the thread has ended"
            assert writer.failing_since
            during.end("eof")
            assert writer.flush(20)
            assert met[0]
        before.chunk(event(10))
        other.chunk(event(10))
        assert writer.flush(20)
        assert writer.failing_since is None
        until(lambda: outcome(engine, during.stream.stream_id))
        for recording in (before, other):
            recording.end("eof")
    lost = sum(len(event(number)) for number in range(1, 10))
    assert datas(engine, before) == ["0", "10"]
    assert types(engine, before) == ["$response", "e", "$gap", "e", "$end"]
    (gap,) = said(engine, before)
    assert (gap["chunks"], gap["bytes"]) == (9, lost)
    assert types(engine, during) == ["$response", "$gap", "$end"]
    (gap,) = said(engine, during)
    assert (gap["chunks"], gap["bytes"]) == (9, lost)
    assert datas(engine, other) == ["0", "10"]
    assert said(engine, other) == []
    assert writer.dropped_bytes == 2 * lost
    assert writer.faults > 0
    assert len([record for record in caplog.records if record.exc_info]) == 1, "once, with where it happened"
    sound(engine)


def test_a_bug_that_one_stream_meets_leaves_the_others_alone(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(engine) as writer:
        bad, good = begun(writer), begun(writer)
        assert writer.flush(20)
        append = log.append

        def picky(connection: sa.Connection, batch: dict[str, list[log.Row]]) -> int:
            if any(values[4] == "poison" for rows in batch.values() for values in rows):
                raise ZeroDivisionError
            return append(connection, batch)

        monkeypatch.setattr(log, "append", picky)
        with held(engine):
            bad.chunk(b"data: poison\n\n")
            for number in range(20):
                good.chunk(event(number))
        assert writer.flush(20)
        assert datas(engine, good) == [str(number) for number in range(20)]
        bad.chunk(event(1))
        assert writer.flush(20)
        assert datas(engine, bad) == ["1"]
        assert [(gap["chunks"], gap["bytes"]) for gap in said(engine, bad)] == [(1, len(b"data: poison\n\n"))]
        assert said(engine, good) == []


def test_no_memory_for_a_moment_loses_nothing(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction of many streams for which there is no memory is done stream by stream."""
    with Writer(engine) as writer:
        recordings = [begun(writer) for _ in range(5)]
        assert writer.flush(20)
        append = log.append

        def small(connection: sa.Connection, batch: dict[str, list[log.Row]]) -> int:
            if len(batch) > 1:
                raise MemoryError
            return append(connection, batch)

        monkeypatch.setattr(log, "append", small)
        with held(engine):
            for recording in recordings:
                for number in range(3):
                    recording.chunk(event(number))
        assert writer.flush(20)
        assert [datas(engine, recording) for recording in recordings] == [["0", "1", "2"]] * 5
        assert writer.dropped_bytes == 0


@pytest.mark.parametrize("fault", FAULTS[:-1])
@pytest.mark.parametrize("method", ["feed", "finish"])
def test_a_bug_in_the_decoder_leaves_every_byte_in_the_log(
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: type[BaseException],
    method: str,
) -> None:
    """What cannot be decoded is kept as it came, and decoding goes on as soon as it can."""
    with Writer(engine) as writer:
        recording = begun(writer)
        recording.chunk(event(0))
        assert writer.flush(20)
        with broken(monkeypatch, sse.SSEDecoder, method, fault("a bug")):
            recording.chunk(event(1))
            recording.chunk(event(2))
            assert writer.flush(20)
        recording.chunk(event(3))
        recording.end("eof")
    assert body(engine, recording) == b"".join(event(number) for number in range(4))
    assert datas(engine, recording)[0] == "0"
    assert datas(engine, recording)[-1] == "3"
    if method == "feed":
        assert len(said(engine, recording)) == 2
        assert "not decoded" in said(engine, recording)[0]["reason"]
        assert caplog.text.count("cannot be decoded") == 1
    assert outcome(engine, recording.stream.stream_id) == "eof"
    sound(engine)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Writer, "_store"),
        (Writer, "_decode"),
        (Writer, "_transact"),
        (Writer, "_upkeep"),
        (writing_thread, "mark_lost"),
        (writing_thread, "_rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_thread_survives_a_bug_anywhere(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    with Writer(engine) as writer:
        recording = begun(writer)
        recording.chunk(event(0))
        assert writer.flush(20)
        with broken(monkeypatch, owner, name, RuntimeError("a bug")) as met:
            writer._upkeep_at = 0
            recording.chunk(event(1))
            until(lambda: met[0])
        recording.chunk(event(2))
        recording.end("eof")
        assert writer.flush(20)
    assert datas(engine, recording)[0] == "0"
    assert datas(engine, recording)[-1] == "2"
    assert leases(engine) == []
    assert not writer._thread.is_alive()


def test_a_bug_that_stays_does_not_keep_a_program_from_ending(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(engine)
    writer.start()
    begun(writer)
    assert writer.flush(20)
    with broken(monkeypatch, Writer, "_store", RuntimeError("a bug")):
        begun(writer).chunk(event(0))
        writer.close(timeout=20)
        assert not writer._thread.is_alive()


def test_whatever_a_caller_does_nothing_is_raised(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where there is no memory for an entry of the queue; what was not queued is said later."""
    with Writer(engine) as writer:
        recording = begun(writer)
        recording.chunk(event(0))
        assert writer.flush(20)
        with broken(monkeypatch, Writer, "put", MemoryError()):
            for number in range(1, 4):
                recording.chunk(event(number))
            recording.gap("said in vain")
            recording.response(200, (), SSE)
            other = writer.begin(stream())
            other.response(200, (), SSE)
            other.chunk(event(0))
            other.end("eof")
        recording.chunk(event(4))
        recording.end("eof")
    assert datas(engine, recording) == ["0", "4"]
    lost = sum(len(event(number)) for number in range(1, 4))
    assert [(gap["chunks"], gap["bytes"]) for gap in said(engine, recording)] == [(3, lost)]


# The data is what is refused.


def test_a_request_that_the_database_cannot_hold_costs_the_request_alone(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = writer.begin(stream(label="lone surrogate \ud800"))
        recording.response(200, (("content-type", SSE),), SSE)
        recording.chunk(event(0))
        recording.end("eof")
    assert datas(engine, recording) == ["0"]
    (gap,) = said(engine, recording)
    assert "request cannot be stored" in gap["reason"]
    sound(engine)


def test_a_label_that_postgresql_cannot_hold_costs_the_request_alone(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = writer.begin(stream(label="a\0b"))
        recording.response(200, (("content-type", SSE),), SSE)
        recording.chunk(event(0))
        recording.end("eof")
        good = begun(writer)
        good.end("eof")
    assert datas(engine, recording) == ["0"]
    assert bool(said(engine, recording)) == (engine.dialect.name == "postgresql")
    assert outcome(engine, good.stream.stream_id) == "eof"


def test_a_response_that_the_database_cannot_hold_stops_no_other(engine: sa.Engine) -> None:
    """Nothing can be said of the stream then; it is given up, and counted."""
    with Writer(engine) as writer:
        bad = writer.begin(stream())
        bad.response(200, (("x-odd", "\ud800"),), SSE)
        bad.chunk(event(0))
        good = begun(writer)
        for number in range(5):
            good.chunk(event(number))
            assert writer.flush(20)
        bad.chunk(event(1))
        bad.end("eof")
        good.end("eof")
    assert datas(engine, good) == [str(number) for number in range(5)]
    assert datas(engine, bad) in ([], ["0", "1"])


# The queue.


def test_the_queue_is_bounded_whatever_it_holds(engine: sa.Engine) -> None:
    """Bodies of requests, and streams without any: not chunks alone."""
    limit = 1_000_000
    with Writer(engine, Settings(queue_bytes=limit)) as writer:
        assert writer.flush(20)
        with held(engine):
            writer.begin(stream())._writer.flush(0.01)
            for _ in range(40):
                recording = writer.begin(stream()._replace(request_body=bytes(100_000)))
                recording.end("no_response")
            for _ in range(3000):
                recording = writer.begin(stream())
                recording.response(200, (), SSE)
                recording.chunk(event(0))
                recording.end("eof")
            assert writer.waiting_bytes < 2 * limit
            assert writer.missing > 0
        assert writer.flush(60)
        begun(writer).end("eof")
        assert writer.flush(60)
    with database.read(engine) as connection:
        stored = connection.execute(sa.select(sa.func.count()).select_from(log.streams)).scalar_one()
        bodies = connection.execute(sa.select(log.streams.c.request_body).where(log.streams.c.request_body.is_not(None))).all()
        chosen = sa.select(log.streams.c.stream_id).where(log.streams.c.source == "recorder")
        summaries = list(connection.execute(chosen).scalars())
    assert 3 <= len(bodies) <= 10
    whole: list[int] = [0, 0, 0]
    for stream_id in summaries:
        types_there = [entry.type for entry in log.read_stream(engine, stream_id)]
        assert types_there == ["$gap", "$end"]
        gap = json.loads(next(iter(log.read_stream(engine, stream_id))).data)
        found = re.search(r"(\d+) streams are not recorded at all", gap["reason"])
        assert found
        whole = [before + more for before, more in zip(whole, (int(found[1]), gap["chunks"], gap["bytes"]), strict=True)]
    assert whole[0] == writer.missing
    assert stored == 1 + 40 + 3000 + 1 + len(summaries) - writer.missing
    assert whole[1] <= 3000
    assert whole[2] == whole[1] * len(event(0))
    sound(engine)


def test_a_stream_that_began_while_the_queue_was_full_is_there_from_then_on(engine: sa.Engine) -> None:
    with Writer(engine, Settings(queue_bytes=20_000)) as writer:
        filling, other = begun(writer), begun(writer)
        assert writer.flush(20)
        with held(engine):
            for number in range(100):
                filling.chunk(b"data: %d %s\n\n" % (number, b"x" * 1000))
                other.chunk(b"data: %d %s\n\n" % (number, b"x" * 1000))
            late = begun(writer)
            late.chunk(event(0))
            late.chunk(event(1))
        assert writer.flush(20)
        late.chunk(event(2))
        late.end("eof")
        filling.end("eof")
        other.end("eof")
    assert types(engine, late) == ["$response", "$gap", "e", "$end"]
    assert [(gap["chunks"], gap["bytes"]) for gap in said(engine, late)] == [(2, 2 * len(event(0)))]
    assert writer.missing == 0
    sound(engine)


def test_that_things_are_dropped_is_logged_once(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = database.connect(sqlite_url)
    caplog.set_level(logging.WARNING)
    locking = sqlite3.connect(engine.url.database or "", isolation_level=None)
    with Writer(engine, Settings(queue_bytes=20_000)) as writer:
        recording = begun(writer)
        assert writer.flush(20)
        locking.execute("BEGIN EXCLUSIVE")
        for number in range(100):
            recording.chunk(b"data: %d %s\n\n" % (number, b"x" * 1000))
        until(lambda: "what comes is not recorded" in caplog.text)
        until(lambda: writer.errors > 2)
        locking.execute("ROLLBACK")
        assert writer.flush(20)
        recording.end("eof")
    locking.close()
    engine.dispose()
    assert caplog.text.count("the database fails") == 1
    assert caplog.text.count("what comes is not recorded") == 1
    assert caplog.text.count("takes events again") == 1


# The file.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def remove_alone(file: Path) -> None:
    file.unlink()


def remove_all(file: Path) -> None:
    for each in file.parent.glob(file.name + "*"):
        each.unlink()


def replace(file: Path) -> None:
    """By an empty database, which somebody has made beside it."""
    database.connect(f"sqlite:///{file}.new").dispose()
    Path(f"{file}.new").replace(file)


@pytest.mark.parametrize("remove", [remove_alone, remove_all, replace])
def test_a_file_that_was_removed_is_said_and_recording_goes_on_in_a_new_one(
    sqlite_url: str, file: Path, caplog: pytest.LogCaptureFixture, remove: Callable[[Path], None]
) -> None:
    engine = database.connect(sqlite_url)
    with Writer(engine) as writer:
        first, over = begun(writer), begun(writer)
        for number in range(5):
            first.chunk(event(number))
        over.end("eof")
        assert writer.flush(20)
        remove(file)
        second = begun(writer)
        for recording in (first, second):
            recording.chunk(event(5))
        assert writer.flush(20)
        assert file.stat().st_mode & 0o777 == 0o600 or remove is replace
        assert (writer.files_lost, writer.errors) == (1, 0)
        assert datas(engine, first) == ["5"]
        assert len(leases(engine)) == 1
        for recording in (first, second):
            recording.chunk(event(6))
            recording.end("eof")
    assert types(engine, first) == ["$response", "$gap", "e", "e", "$end"]
    (gap,) = said(engine, first)
    assert (gap["chunks"], gap["bytes"]) == (5, sum(len(event(number)) for number in range(5)))
    assert types(engine, second) == ["$response", "e", "e", "$end"]
    assert events(engine, over) == []
    assert caplog.text.count("was removed or replaced") == 1
    assert leases(engine) == []
    sound(engine)
    engine.dispose()
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_an_older_copy_in_the_files_place_is_gone_on_with(sqlite_url: str, file: Path) -> None:
    engine = database.connect(sqlite_url)
    with Writer(engine) as writer:
        recording, late = begun(writer), None
        for number in range(3):
            recording.chunk(event(number))
        assert writer.flush(20)
        with sqlite3.connect(file) as here, sqlite3.connect(f"{file}.copy") as there:
            here.backup(there)
        here.close()
        there.close()
        recording.chunk(event(3))
        late = begun(writer)
        assert writer.flush(20)
        Path(f"{file}.copy").replace(file)
        recording.chunk(event(4))
        late.chunk(event(4))
        for each in (recording, late):
            each.end("eof")
    assert datas(engine, recording) == ["0", "1", "2", "4"]
    assert [(gap["chunks"], gap["bytes"]) for gap in said(engine, recording)] == [(1, len(event(3)))]
    assert types(engine, late) == ["$response", "$gap", "e", "$end"]
    sound(engine)
    engine.dispose()


def test_a_folder_that_is_away_for_a_while_costs_nothing(sqlite_url: str, file: Path) -> None:
    """As a disk that is mounted again: what comes meanwhile waits, and the same file takes it."""
    engine = database.connect(sqlite_url)
    away = file.parent.with_name(file.parent.name + "-away")
    with Writer(engine) as writer:
        recording = begun(writer)
        recording.chunk(event(0))
        assert writer.flush(20)
        file.parent.rename(away)
        recording.chunk(event(1))
        until(lambda: writer.failing_since)
        recording.chunk(event(2))
        away.rename(file.parent)
        assert writer.flush(20)
        recording.end("eof")
    assert datas(engine, recording) == ["0", "1", "2"]
    assert said(engine, recording) == []
    engine.dispose()
