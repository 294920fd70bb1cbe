"""The writer: what is put on its queue is in the log, in order, whatever the database does meanwhile."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from recorder import database, log
from recorder.collect.recording import Recording
from recorder.collect.streamid import new_stream_id
from recorder.collect.writer import Writer
from recorder.log import Stream
from recorder.projections import runner
from recorder.settings import Settings
from tests.commands import until

SSE = "text/event-stream"


def stream(label: str | None = None) -> Stream:
    now = datetime.now(UTC)
    return Stream(new_stream_id(), "POST", "host", "/v1", session_label=label, source="test", started_at=now, recorded_at=now)


def begun(writer: Writer, content_type: str = SSE) -> Recording:
    recording = writer.begin(stream())
    recording.response(200, (("content-type", content_type),), content_type)
    return recording


def event(number: int) -> bytes:
    return b"event: e\ndata: %d\n\n" % number


def events(engine: sa.Engine, recording: Recording) -> list[log.Event]:
    return list(log.read_stream(engine, recording.stream.stream_id))


def datas(engine: sa.Engine, recording: Recording) -> list[str]:
    return [entry.data for entry in events(engine, recording) if not entry.type.startswith("$")]


def types(engine: sa.Engine, recording: Recording) -> list[str]:
    return [entry.type for entry in events(engine, recording)]


def body(engine: sa.Engine, recording: Recording) -> bytes:
    return b"".join(piece for piece, _, _ in log.wire(events(engine, recording)))


@contextmanager
def refusing(engine: sa.Engine) -> Iterator[None]:
    """The database refuses every append meanwhile: the table of heads is gone by that name."""
    with database.write(engine) as connection:
        connection.execute(sa.text("ALTER TABLE heads RENAME TO heads_away"))
    try:
        yield
    finally:
        with database.write(engine) as connection:
            connection.execute(sa.text("ALTER TABLE heads_away RENAME TO heads"))


@contextmanager
def held(engine: sa.Engine) -> Iterator[None]:
    """Another connection holds what every append needs, and lets go."""
    with engine.connect() as connection, connection.begin() as transaction:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE streams, heads IN ACCESS EXCLUSIVE MODE")
        yield
        transaction.rollback()


def test_an_idle_writer_commits_at_once(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = begun(writer)
        for number in range(5):
            recording.chunk(event(number))
            until(lambda number=number: datas(engine, recording) == [str(each) for each in range(number + 1)])
        assert writer.commits >= 5


def test_a_busy_writer_commits_many_events_at_once(engine: sa.Engine) -> None:
    """A thousand chunks that wait for the database are a handful of commits."""
    with Writer(engine) as writer:
        recording = begun(writer)
        assert writer.flush(20)
        before = writer.commits
        with held(engine):
            for number in range(1000):
                recording.chunk(event(number))
        assert writer.flush(20)
        assert writer.commits - before < 20
        assert datas(engine, recording) == [str(number) for number in range(1000)]


def test_a_batch_is_bounded(engine: sa.Engine) -> None:
    """So that one commit holds the write lock for a moment only: 20 MB that wait are not one transaction."""
    with Writer(engine) as writer:
        recording = begun(writer, "application/x-binary")
        assert writer.flush(20)
        before = writer.commits
        with held(engine):
            for _ in range(200):
                recording.chunk(bytes(100_000))
        assert writer.flush(60)
        assert writer.commits - before >= 10
        assert len(body(engine, recording)) == 20_000_000


def test_close_flushes(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = begun(writer)
        for number in range(5000):
            recording.chunk(event(number))
        recording.end("eof")
    assert datas(engine, recording) == [str(number) for number in range(5000)]
    assert types(engine, recording)[-1] == "$end"


def test_closing_twice_does_no_harm(engine: sa.Engine) -> None:
    writer = Writer(engine)
    with writer:
        begun(writer)
    writer.close()


def test_only_the_first_end_counts(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = begun(writer)
        recording.end("cut", "why")
        recording.end("client_closed")
    assert types(engine, recording) == ["$response", "$end"]
    assert json.loads(events(engine, recording)[-1].data) == {"outcome": "cut", "closed": "cut", "detail": "why"}


def test_offsets_never_repeat(engine: sa.Engine) -> None:
    """Two chunks have two offsets, however fast they came: else they would be taken for one."""
    with Writer(engine) as writer:
        recording = begun(writer)
        for number in range(2000):
            recording.chunk(event(number))
    offsets = [entry.offset_us for entry in events(engine, recording)]
    assert len(set(offsets)) == len(offsets)
    assert offsets == sorted(offsets)


def test_a_database_that_fails_and_comes_back_loses_nothing(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        first, second = begun(writer), begun(writer)
        first.chunk(event(0))
        assert writer.flush(20)
        with refusing(engine):
            for number in range(1, 200):
                first.chunk(event(number))
                second.chunk(event(1000 + number))
            third = begun(writer)
            third.chunk(event(7))
            third.end("eof")
            until(lambda: writer.errors)
        assert writer.flush(20)
        first.end("eof")
        second.end("eof")
    assert datas(engine, first) == [str(number) for number in range(200)]
    assert datas(engine, second) == [str(1000 + number) for number in range(1, 200)]
    assert datas(engine, third) == ["7"]
    assert "$gap" not in types(engine, first) + types(engine, second) + types(engine, third)
    assert writer.dropped_bytes == 0


def test_nothing_waits_for_a_database_that_is_held(engine: sa.Engine) -> None:
    """The caller's thread goes on at once; all that it said is there when the database is free again."""
    with Writer(engine) as writer:
        recording = begun(writer)
        assert writer.flush(20)
        with held(engine):
            began = time.monotonic()
            for number in range(1000):
                recording.chunk(event(number))
            assert time.monotonic() - began < 5
            assert not writer.flush(0.05)
        assert writer.flush(20)
    assert datas(engine, recording) == [str(number) for number in range(1000)]


def test_a_full_queue_drops_and_says_so(engine: sa.Engine) -> None:
    """What is lost is counted in the stream and by the writer, and what is kept is a gap-free start and a clean go-on."""
    with Writer(engine, Settings(queue_bytes=20_000)) as writer:
        recording = begun(writer)
        recording.chunk(event(0))
        assert writer.flush(20)
        with held(engine):
            for number in range(1, 101):
                recording.chunk(b"event: e\ndata: %d %s\n\n" % (number, b"x" * 1000))
        assert writer.flush(20)
        recording.chunk(event(5000))
        recording.end("eof")
    found = events(engine, recording)
    kept = [int(entry.data.split()[0]) for entry in found if entry.type == "e"]
    (gap,) = [json.loads(entry.data) for entry in found if entry.type == "$gap"]
    assert 5 < len(kept) < 50
    assert kept == [*range(len(kept) - 1), 5000]
    lost = range(len(kept) - 1, 101)
    assert gap["chunks"] == len(lost)
    assert gap["bytes"] == sum(len(f"event: e\ndata: {number} \n\n") + 1000 for number in lost) == writer.dropped_bytes
    assert [entry.type for entry in found[-3:]] == ["$gap", "e", "$end"]


@pytest.mark.parametrize("after", [b"event: e\ndata: after\n\n", b"id: 1\ndata: after\n\n", b"data: after\r\n\r\n"])
def test_what_comes_after_lost_bytes_is_decoded_afresh(engine: sa.Engine, after: bytes) -> None:
    """Half an event before the gap is a tail; it does not spoil the event after it."""
    with Writer(engine, Settings(queue_bytes=5_000)) as writer:
        recording, other = begun(writer), begun(writer)
        recording.chunk(b"data: half an event " + b"y" * 300)
        assert writer.flush(20)
        with held(engine):
            other.chunk(b"data: x\n\n" * 300)
            for _ in range(30):
                recording.chunk(b"z" * 1000)
        assert writer.flush(20)
        recording.chunk(after + b"id: 2\ndata: more\n\n")
        recording.end("eof")
    assert datas(engine, recording) == ["after", "more"]
    assert "$tail" in types(engine, recording)


def test_lines_after_lost_bytes_are_lines_again(engine: sa.Engine) -> None:
    with Writer(engine, Settings(queue_bytes=5_000)) as writer:
        recording = begun(writer, "application/x-ndjson")
        recording.chunk(b'{"half": "' + b"y" * 300)
        assert writer.flush(20)
        with held(engine):
            for _ in range(30):
                recording.chunk(b"z" * 1000)
        assert writer.flush(20)
        recording.chunk(b'{"a":1}\n{"b":2}\n')
        recording.end("eof")
    assert datas(engine, recording) == ['{"a":1}', '{"b":2}']


def test_a_stream_that_ends_while_its_chunks_are_dropped_says_so(engine: sa.Engine) -> None:
    with Writer(engine, Settings(queue_bytes=3_000)) as writer:
        recording = begun(writer)
        assert writer.flush(20)
        with held(engine):
            for number in range(20):
                recording.chunk(b"data: %d%s\n\n" % (number, b"x" * 1000))
            recording.end("eof")
    found = events(engine, recording)
    assert [entry.type for entry in found[-2:]] == ["$gap", "$end"]
    assert json.loads(found[-2].data)["chunks"] == 20 - len(datas(engine, recording))


def test_a_gap_without_loss_leaves_the_event_around_it_whole(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = begun(writer)
        recording.chunk(b"data: one")
        recording.gap("said")
        recording.chunk(b" event\n\n")
        recording.end("eof")
    assert types(engine, recording) == ["$response", "$gap", "", "$end"]
    assert datas(engine, recording) == ["one event"]


def test_streams_of_many_threads_keep_apart_and_in_order(engine: sa.Engine) -> None:
    recordings: list[Recording] = []

    def say(number: int) -> None:
        recording = begun(writer)
        recordings.append(recording)
        for step in range(300):
            recording.chunk(event(1000 * number + step))
        recording.end("eof")

    with Writer(engine) as writer:
        threads = [threading.Thread(target=say, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = sorted(datas(engine, recording) for recording in recordings)
    assert found == sorted([str(1000 * number + step) for step in range(300)] for number in range(8))


def test_two_writers_share_a_database(engine: sa.Engine) -> None:
    with Writer(engine) as one, Writer(engine) as other:
        recordings = [begun(one), begun(other)]
        for number in range(200):
            for recording in recordings:
                recording.chunk(event(number))
    for recording in recordings:
        assert datas(engine, recording) == [str(number) for number in range(200)]
    assert (one.errors, other.errors) == (0, 0)


def test_what_is_called_after_a_commit_finds_it_there(engine: sa.Engine) -> None:
    found: list[list[str]] = []
    with Writer(engine) as writer:
        recording = begun(writer)
        for number in range(20):
            recording.chunk(event(number))
            writer.after_commit(lambda: found.append(datas(engine, recording)))
        assert writer.flush(20)
    assert [len(each) >= number + 1 for number, each in enumerate(found)] == [True] * 20


def test_a_stream_erased_while_it_is_recorded_takes_no_other_with_it(engine: sa.Engine) -> None:
    """`recorder delete` of an open stream: what comes of it later is lost, what others say is not."""
    with Writer(engine) as writer:
        erased, other = begun(writer), begun(writer)
        for recording in (erased, other):
            recording.chunk(event(0))
        assert writer.flush(20)
        runner.erase(engine, [erased.stream.stream_id])
        with held(engine):
            for number in range(1, 10):
                erased.chunk(event(number))
                other.chunk(event(number))
        assert writer.flush(20)
        for recording in (erased, other):
            recording.chunk(event(10))
            recording.end("eof")
    assert datas(engine, other) == [str(number) for number in range(11)]
    assert types(engine, other)[-1] == "$end"


def test_a_stream_that_the_database_cannot_hold_stops_no_other(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        bad = writer.begin(stream(label="lone surrogate \ud800"))
        bad.chunk(event(0))
        good = begun(writer)
        good.chunk(event(1))
        good.end("eof")
        until(lambda: writer.errors or datas(engine, good))
        try:
            until(lambda: datas(engine, good) == ["1"], 5)
        finally:
            writer.close(timeout=1)


def test_a_call_after_a_commit_that_raises_does_not_end_the_writer(engine: sa.Engine) -> None:
    def raising() -> None:
        raise ValueError("of the caller")

    with Writer(engine) as writer:
        recording = begun(writer)
        writer.after_commit(raising)
        recording.chunk(event(0))
        try:
            until(lambda: datas(engine, recording) == ["0"], 5)
        finally:
            writer.close(timeout=1)


def test_close_gives_up_on_a_database_that_does_not_come_back(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = database.connect(sqlite_url)
    locking = sqlite3.connect(engine.url.database or "", isolation_level=None)
    before = set(threading.enumerate())
    with Writer(engine) as writer:
        recording = begun(writer)
        assert writer.flush(20)
        locking.execute("BEGIN EXCLUSIVE")
        recording.chunk(event(0))
        began = time.monotonic()
        writer.close(timeout=0.3)
        assert time.monotonic() - began < 10
    assert "lost" in caplog.text
    locking.execute("ROLLBACK")
    locking.close()
    until(lambda: datas(engine, recording) == ["0"])
    until(lambda: not set(threading.enumerate()) - before)
    engine.dispose()


def test_a_recording_after_the_writers_end_does_not_raise(engine: sa.Engine) -> None:
    """An application may close its recorder before its last stream."""
    with Writer(engine) as writer:
        recording = begun(writer)
    recording.chunk(event(0))
    recording.gap("late")
    recording.end("eof")
    begun(writer).chunk(event(1))
    assert types(engine, recording) == ["$response", "$end"], "it was open: its end says that nobody saw how it went on"
    with database.read(engine) as connection:
        ended = log.head(connection, recording.stream.stream_id)
    assert ended is not None
    assert ended.outcome == "lost"
