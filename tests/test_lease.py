"""Leases: the streams of a recorder that died are ended by the next, those of one that lives never are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from recorder import database, log
from recorder.collect import lease, writer
from recorder.collect.lease import Lease, mark_lost, writers
from recorder.collect.recording import Recording
from recorder.collect.writer import Writer
from recorder.log import Stream
from recorder.projections import runner
from recorder.projections.verify import verify
from recorder.recording import write_recording
from tests import writing
from tests.commands import PATIENCE, until
from tests.test_database import alembic_config
from tests.test_writer import begun, datas, event, events, held, types

DONE = b"data: [DONE]\n\n"

RECORDING = """
import sys, time
from recorder import database
from recorder.collect.writer import Writer
from tests.test_writer import begun, event, stream

writer = Writer(database.connect(sys.argv[1], create=False))
writer.start()
for marks in sys.argv[2:]:
    if marks == "unanswered":
        recording = writer.begin(stream())
    else:
        recording = begun(writer)
        recording.chunk(event(0) + {"open": b"", "done": b"data: [DONE]\\n\\n", "error": b"event: error\\ndata: {}\\n\\n"}[marks])
    print(recording.stream.stream_id, flush=True)
assert writer.flush(20)
print("recorded", flush=True)
sys.stdin.readline()
recording.chunk(event(1))
recording.end("eof")
writer.close()
"""


class Process:
    """Another process, with a writer that has recorded a stream for each of the marks. Use it as a context: it is killed."""

    def __init__(self, engine: sa.Engine, *marks: str) -> None:
        url = engine.url.render_as_string(hide_password=False)
        given = [sys.executable, "-c", RECORDING, url, *marks]
        self._process = subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.streams = [self._process.stdout.readline().strip() for _ in marks]
        assert self._process.stdout.readline() == "recorded\n"

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self, *, buried: bool = True) -> None:
        """kill -9. buried: and its parent has taken note, so that its pid is nobody's."""
        self._process.send_signal(signal.SIGKILL)
        if buried:
            self._process.communicate(timeout=PATIENCE)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def finish(self) -> None:
        """Go on, say one event more and end."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate("go on\n", timeout=PATIENCE)
        assert self._process.returncode == 0


def leases(engine: sa.Engine) -> list[Any]:
    with database.read(engine) as connection:
        return list(connection.execute(sa.select(writers).order_by(writers.c.started_at)))


def change(engine: sa.Engine, **values: Any) -> None:
    """Of all leases."""
    with database.write(engine) as connection:
        connection.execute(writers.update().values(**values))


def outcome(engine: sa.Engine, stream_id: str) -> str | None:
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
    return head.outcome if head else None


def ends(engine: sa.Engine, stream_id: str) -> list[dict[str, Any]]:
    return [json.loads(entry.data) for entry in log.read_stream(engine, stream_id) if entry.type == "$end"]


def sound(engine: sa.Engine) -> None:
    """What verify says: nothing."""
    runner.catch_up(engine)
    assert verify(engine).problems == []


AGO = timedelta(days=1)
ELSEWHERE = "another-host 0f0f0f0f pid:[4026531836]"


# A lease's life.


def test_a_lease_is_taken_with_the_first_stream_and_given_back_on_close(engine: sa.Engine) -> None:
    with Writer(engine) as recorder:
        assert recorder.flush(20)
        assert leases(engine) == []
        recording = begun(recorder)
        assert recorder.flush(20)
        (taken,) = leases(engine)
        assert (taken.pid, taken.machine) == (os.getpid(), lease.machine())
        assert taken.process_started == lease.process_started(os.getpid())
        assert taken.expires_at - taken.renewed_at == timedelta(seconds=lease.TERM_SECONDS)
        with database.read(engine) as connection:
            chosen = sa.select(log.streams.c.writer_id).where(log.streams.c.stream_id == recording.stream.stream_id)
            assert connection.execute(chosen).scalar() == taken.writer_id
        recording.end("eof")
        begun(recorder).end("eof")
        assert recorder.flush(20)
        assert [each.writer_id for each in leases(engine)] == [taken.writer_id]
    assert leases(engine) == []


def test_a_lease_is_renewed_also_while_nothing_comes(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RENEW_SECONDS", 0.05)
    with Writer(engine) as recorder:
        begun(recorder)
        assert recorder.flush(20)
        (taken,) = leases(engine)
        for _ in range(2):
            before = leases(engine)[0].renewed_at
            until(lambda before=before: leases(engine)[0].renewed_at > before)
        (now,) = leases(engine)
    assert now.started_at == taken.started_at
    assert now.expires_at - now.renewed_at == timedelta(seconds=lease.TERM_SECONDS)


def test_each_writer_has_a_lease_of_its_own(engine: sa.Engine) -> None:
    with Writer(engine) as one, Writer(engine) as other:
        for recorder in (one, other):
            begun(recorder)
            assert recorder.flush(20)
        assert len({each.writer_id for each in leases(engine)}) == 2
    assert leases(engine) == []


def test_a_lease_that_was_rolled_back_is_taken_again(engine: sa.Engine) -> None:
    with Writer(engine) as recorder:
        with held(engine):
            begun(recorder)
            until(lambda: recorder.errors or engine.dialect.name == "postgresql")
        assert recorder.flush(20)
        assert len(leases(engine)) == 1
        assert recorder.leases_lost == 0


def test_what_a_writer_could_not_end_is_ended_when_it_gives_its_lease_back(engine: sa.Engine) -> None:
    own = Lease()
    new = writing.stream(1)
    with database.write(engine) as connection:
        assert own.hold(connection)
        log.insert_streams(connection, [new], own.writer_id)
    with database.write(engine) as connection:
        own.give_back(connection)
    assert outcome(engine, new.stream_id) == "lost"
    assert leases(engine) == []


# A recorder that died.


@pytest.mark.slow
def test_the_streams_of_a_killed_recorder_are_ended_by_the_next_start(engine: sa.Engine) -> None:
    """By the marks that stand in them; what came of them is what they hold."""
    with Process(engine, "open", "unanswered", "done", "error", "open") as process:
        process.kill()
    assert [outcome(engine, each) for each in process.streams] == [None] * 5
    assert len(leases(engine)) == 1
    with Writer(engine):
        until(lambda: not leases(engine))
    assert [outcome(engine, each) for each in process.streams] == ["lost", "lost", "done", "error", "lost"]
    for stream_id in process.streams:
        (end,) = ends(engine, stream_id)
        assert end["closed"] == "lost"
        assert "died" in end["detail"]
    entries = list(log.read_stream(engine, process.streams[0]))
    assert [entry.type for entry in entries] == ["$response", "e", "$end"]
    assert entries[2].offset_us == entries[1].offset_us
    sound(engine)


@pytest.mark.slow
def test_a_process_that_nobody_has_buried_yet_is_dead(engine: sa.Engine) -> None:
    with Process(engine, "open") as process:
        process.kill(buried=False)
        until(lambda: mark_lost(engine))
        assert outcome(engine, process.streams[0]) == "lost"


@pytest.mark.slow
def test_several_starts_at_once_end_each_stream_once(engine: sa.Engine) -> None:
    with Process(engine, *["open"] * 30) as process:
        process.kill()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: mark_lost(engine), range(12)))
    assert sum(found) == 30
    for stream_id in process.streams:
        assert len(ends(engine, stream_id)) == 1
    assert leases(engine) == []
    sound(engine)


@pytest.mark.slow
@pytest.mark.parametrize("step", [AGO, -AGO])
def test_a_recorder_that_lives_is_never_taken_for_dead(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    """Not where it is stopped, its lease has long expired, and the clock steps: it goes on, and ends its stream."""
    with Process(engine, "open") as process:
        process.stop()
        change(engine, renewed_at=datetime.now(UTC) - AGO, expires_at=datetime.now(UTC) - AGO)
        monkeypatch.setattr(lease, "clock", lambda connection: datetime.now(UTC) + step)
        with Writer(engine) as recorder:
            assert recorder.flush(20)
            assert mark_lost(engine) == 0
        assert outcome(engine, process.streams[0]) is None
        process.finish()
    entries = list(log.read_stream(engine, process.streams[0]))
    assert [entry.type for entry in entries] == ["$response", "e", "e", "$end"]
    assert outcome(engine, process.streams[0]) == "eof"
    assert leases(engine) == []


def test_another_process_with_its_pid_is_not_the_one_that_died(engine: sa.Engine) -> None:
    with Writer(engine) as recorder:
        recording = begun(recorder)
        assert recorder.flush(20)
        change(engine, process_started="1")
        assert mark_lost(engine) == 1
        assert outcome(engine, recording.stream.stream_id) == "lost"


@pytest.mark.parametrize(
    ("expired", "dead"),
    [(-timedelta(seconds=10), False), (timedelta(seconds=lease.TERM_SECONDS - 10), False), (timedelta(seconds=130), True)],
)
def test_of_a_recorder_elsewhere_only_its_lease_is_known(engine: sa.Engine, expired: timedelta, dead: bool) -> None:
    """It is dead once that has been expired for as long as it was given."""
    own = Lease()
    new = writing.stream(1)
    with database.write(engine) as connection:
        own.hold(connection)
        log.insert_streams(connection, [new], own.writer_id)
    change(engine, machine=ELSEWHERE, process_started="1", expires_at=datetime.now(UTC) - expired)
    assert mark_lost(engine) == int(dead)
    assert outcome(engine, new.stream_id) == ("lost" if dead else None)
    assert len(leases(engine)) == int(not dead)


def test_streams_without_a_writer_are_left_alone(engine: sa.Engine) -> None:
    """Imports, and what was recorded by an older version."""
    writing.write(engine, writing.stream(1), writing.frames(writing.said(), outcome=None))
    with Writer(engine) as recorder:
        begun(recorder).end("eof")
    assert mark_lost(engine) == 0
    assert outcome(engine, writing.stream_id(1)) is None


# A recorder that was taken for dead, and lives.


@contextmanager
def taken_for_dead(engine: sa.Engine, recorder: Writer) -> Iterator[None]:
    """It is cut off from the database so long that another ends its streams; meanwhile it records on."""
    assert recorder.flush(20)
    change(engine, machine=ELSEWHERE, expires_at=datetime.now(UTC) - AGO)
    assert mark_lost(engine) > 0
    with held(engine):
        yield
    assert recorder.flush(20)


def test_its_streams_go_on_after_the_end_that_they_were_given(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    with Writer(engine) as recorder:
        first, second = begun(recorder), begun(recorder)
        for recording in (first, second):
            recording.chunk(event(0))
        with taken_for_dead(engine, recorder):
            for number in range(1, 5):
                first.chunk(event(number))
            third = begun(recorder)
            third.chunk(event(7))
        assert types(engine, first) == ["$response", "e", "$end", "$gap", "e", "e", "e", "e"]
        assert types(engine, second) == ["$response", "e", "$end"]
        assert recorder.leases_lost == 1
        assert len(leases(engine)) == 1
        for recording in (first, second, third):
            recording.chunk(event(9))
            recording.end("eof")
    assert datas(engine, first) == ["0", "1", "2", "3", "4", "9"]
    assert datas(engine, second) == ["0", "9"]
    assert types(engine, third) == ["$response", "e", "e", "$end"]
    for recording in (first, second, third):
        assert outcome(engine, recording.stream.stream_id) == "eof"
    (gap,) = [json.loads(entry.data) for entry in events(engine, first) if entry.type == "$gap"]
    assert (gap["chunks"], gap["bytes"]) == (0, 0)
    assert "taken for lost" in gap["reason"]
    assert caplog.text.count("took this one for dead") == 1
    assert recorder.dropped_bytes == recorder.given_up == recorder.faults == 0
    assert leases(engine) == []
    sound(engine)


def test_a_lease_that_is_gone_is_taken_anew_when_it_is_renewed(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RENEW_SECONDS", 0.05)
    with Writer(engine) as recorder:
        begun(recorder)
        assert recorder.flush(20)
        with database.write(engine) as connection:
            connection.execute(writers.delete())
        until(lambda: leases(engine))
        assert recorder.leases_lost == 1


# Forks.

FORKING = """
import os, sys, time
import httpx
import recorder

def ask(url):
    client.get(url)
    assert hook.flush(20)

client = httpx.Client()
hook = recorder.record(client, sys.argv[1])
client.get(sys.argv[2])
assert hook.flush(20)
child = os.fork()
if child == 0:
    client = httpx.Client()
    hook = recorder.record(client, sys.argv[1])
    client.get(sys.argv[2])
    assert hook.flush(20)
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.readline()
os.kill(child, 9)
os.waitpid(child, 0)
hook.close()
"""


@pytest.mark.slow
def test_a_fork_has_a_lease_of_its_own(engine: sa.Engine) -> None:
    from tests.upstream import Upstream

    url = engine.url.render_as_string(hide_password=False)
    with Upstream() as upstream:
        upstream.on("/", lambda wire, asked: wire.whole(b"{}"))
        given = [sys.executable, "-c", FORKING, url, f"{upstream.origin}/"]
        with subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            pids = {int(process.stdout.readline()) for _ in range(2)}
            assert {each.pid for each in leases(engine)} == pids
            assert mark_lost(engine) == 0
            process.communicate("end\n", timeout=PATIENCE)
        assert process.returncode == 0
    (left,) = leases(engine)
    assert left.pid in pids - {process.pid}
    mark_lost(engine)
    assert leases(engine) == []


# The schema.


def test_a_database_of_the_first_schema_is_upgraded_and_keeps_what_it_holds(url: str) -> None:
    engine = database.engine(url, create=True)
    config = alembic_config()
    with database.write(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    old = [column["name"] for column in sa.inspect(engine).get_columns("streams")]
    assert "writer_id" not in old
    new = [writing.stream(number) for number in range(3)]
    insert = sa.text(f"INSERT INTO streams ({', '.join(old)}) VALUES ({', '.join(f':{name}' for name in old)})")
    times = [
        sa.bindparam(name, type_=log.streams.c[name].type) for name in ("started_at", "recorded_at")
    ]  # so that SQLite gets them as the recorder writes them
    with database.write(engine) as connection:
        for stream in new:
            connection.execute(insert.bindparams(*times), {**stream._asdict(), "request_headers": "[]"})
            ended = stream is not new[2]
            frames = writing.frames(writing.said(id=f"run_{stream.stream_id}"), outcome="done" if ended else None)
            rows = [log.row(stream.stream_id, position, frame) for position, frame in enumerate(frames)]
            log.append(connection, {stream.stream_id: rows})
    before = {stream.stream_id: list(log.read_stream(engine, stream.stream_id)) for stream in new}
    database.check(engine, upgrade=True)
    assert database.current_version(engine) == database.SCHEMA_VERSION
    with database.read(engine) as connection:
        assert log.get_streams(connection, before) == {stream.stream_id: stream for stream in new}
    with Writer(engine) as recorder:
        begun(recorder).end("eof")
    assert {stream_id: list(log.read_stream(engine, stream_id)) for stream_id in before} == before
    sound(engine)
    engine.dispose()


def test_a_recording_says_nothing_of_its_writer(engine: sa.Engine) -> None:
    with Writer(engine) as recorder:
        recording: Recording = begun(recorder)
        recording.end("eof")
    with database.read(engine) as connection:
        found: Stream = log.get_streams(connection, [recording.stream.stream_id])[recording.stream.stream_id]
    lines = list(write_recording([(found, events(engine, recording))]))
    assert json.loads(lines[1])["stream_id"] == found.stream_id
    assert not any("writer" in line for line in lines)


def test_erasing_a_stream_leaves_the_lease_and_the_others(engine: sa.Engine) -> None:
    with Writer(engine) as recorder:
        erased, other = begun(recorder), begun(recorder)
        assert recorder.flush(20)
        runner.erase(engine, [erased.stream.stream_id])
        erased.chunk(event(0))
        other.chunk(event(0))
        assert recorder.flush(20)
        assert recorder.given_up == 1
        assert len(leases(engine)) == 1
        other.end("eof")
    assert events(engine, erased) == []
    assert types(engine, other) == ["$response", "e", "$end"]
    sound(engine)
