"""kill -9 at any moment: the log opens, holds what was committed, no stream is torn, and the read models catch up."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import database, log
from tests import writing
from tests.commands import Background, ProxyProcess, answer, output, recorder, sqlite
from tests.proofs import kills
from tests.upstream import PATIENCE, SSE, Asked, Upstream, Wire

pytestmark = pytest.mark.slow

SEED = 20_261_122

WORDS = 100_000  # enough to be killed amidst
PACE = 0.004  # seconds from event to event
LOST = 25  # events: 100 ms at this pace


def event(number: int) -> bytes:
    return b'event: thread.message.delta\ndata: {"id":"msg_1","n":%d}\n\n' % number


def verified(file: Path) -> None:
    done = recorder("verify", db=file)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def bodies(file: Path) -> list[tuple[list[str], bytes]]:
    """(types, bytes) of each stream of a log."""
    engine = database.connect(sqlite(file), create=False)
    with database.read(engine) as connection:
        ids = sorted(connection.execute(sa.select(log.heads.c.stream_id)).scalars())
    found = []
    for stream_id in ids:
        events = list(log.read_stream(engine, stream_id))
        assert [entry.position for entry in events] == list(range(len(events)))
        found.append(([entry.type for entry in events], b"".join(body for body, _, _ in log.wire(events))))
    engine.dispose()
    return found


@pytest.mark.parametrize("round", range(10))
def test_a_proxy_killed_in_mid_stream_keeps_what_the_client_had(tmp_path: Path, round: int) -> None:
    """All but the last 100 ms of it; and what is kept is a clean prefix of what was sent."""
    moment = random.Random(SEED + round).uniform(0.05, 1.2)
    file = tmp_path / "log.db"

    def say(wire: Wire, asked: Asked) -> None:
        wire.begin([SSE])
        began = time.perf_counter()
        for number in range(1000):
            wire.chunk(event(number))
            time.sleep(max(0.0, began + (number + 1) * PACE - time.perf_counter()))

    with Upstream() as upstream, ProxyProcess(upstream.origin, db=file) as proxy:
        upstream.on("/v1", say)
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)
        connection.request("POST", "/v1", body=b'{"stream":true}')
        response = connection.getresponse()
        received = bytearray(response.read1(65536))
        threading.Timer(moment, proxy.process.kill).start()
        try:
            while piece := response.read1(65536):
                received += piece
        except (http.client.HTTPException, OSError):
            pass
        connection.close()
        proxy.process.wait(PATIENCE)
    verified(file)
    ((types, kept),) = bodies(file)
    sent = b"".join(event(number) for number in range(1000))
    had = received.count(b"\n\n")
    assert types == ["$response", *["thread.message.delta"] * kept.count(b"\n\n"), "$end"], "verify has ended what was open"
    assert sent.startswith(kept)
    assert kept.count(b"\n\n") >= had - LOST, f"{had} events at the client, {len(types) - 2} kept"
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=file) as proxy:
        upstream.on("/v2", lambda wire, asked: wire.stream([event(0)]))
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)
        connection.request("POST", "/v2", body=b"{}")
        assert connection.getresponse().read() == event(0)
        connection.close()
        assert proxy.stop() == 0
    verified(file)
    assert [body for _, body in bodies(file)] == [kept, event(0)]


@pytest.mark.parametrize("durability", ["relaxed", "strict"])
def test_a_proxy_killed_under_load_over_and_over(tmp_path: Path, durability: str) -> None:
    """Strict: all that clients were given is in the log. `python -m tests.proofs kills` does it some hundreds of times."""
    found = kills.killed(tmp_path / "log.db", durability, 6)
    assert sum(each.events for each in found) > 500
    assert sum(each.missing for each in found) < sum(each.events for each in found) / 10


def killed(*args: str, db: Path, after: float) -> bool:
    """Start a command and kill it so many seconds later; whether it was still at work."""
    with Background(*args, db=db) as running:
        try:
            running.process.wait(after)
        except subprocess.TimeoutExpired:
            return True
        return False


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream of that many events and a few: a run that says many words."""
    file = tmp_path_factory.mktemp("large") / "large.sse"
    said = writing.encoded(writing.said("hello there", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})[:4])
    delta = writing.encoded([writing.text_delta("x", id="msg_of_run_1")])
    file.write_bytes(said + delta * WORDS + writing.encoded([writing.DONE]))
    return file


def test_an_import_killed_half_way_is_completed_by_the_next(tmp_path: Path, large: Path) -> None:
    file = tmp_path / "log.db"
    times = random.Random(SEED)
    moments = sorted(times.uniform(0.6, 1.6) for _ in range(6))  # the first that gets to the end leaves nothing to the others
    caught = [killed("import", str(large), db=file, after=moment) for moment in moments]
    assert any(caught), "every import was over before it was killed: it is not this test's subject any more"
    if file.exists():
        recorder("verify", db=file)
    rows = answer("import", str(large), db=file)
    assert rows[0]["events"] == WORDS + 5
    verified(file)
    stream_id = rows[0]["stream_id"]
    assert output("export", stream_id, "--format", "sse", db=file) == large.read_bytes()
    engine = database.connect(sqlite(file), create=False)
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
    engine.dispose()
    assert head is not None
    assert head.outcome == "done"


@pytest.mark.parametrize("command", ["rebuild", "project", "ls"])
def test_a_projection_killed_half_way_is_completed_by_the_next(tmp_path: Path, large: Path, command: str) -> None:
    file, folder = tmp_path / "log.db", tmp_path / "small"
    folder.mkdir()
    for number in range(300):
        body = writing.encoded(writing.said(f"text {number}", id=f"run_{number}", thread_id=f"thread_{number % 20}"))
        (folder / f"{number:03}.sse").write_bytes(body)
    output("import", str(folder), str(large), db=file)
    if command == "rebuild":
        output("project", db=file)
        before = json.loads(output("usage", "--by", "session", "--json", db=file))
    times = random.Random(SEED)
    moments = sorted(times.uniform(0.4, 1.4) for _ in range(6))
    caught = [killed(command, db=file, after=moment) for moment in moments]
    assert any(caught), "every one was over before it was killed"
    verified(file)
    assert len(json.loads(output("ls", "--limit", "100", "--json", db=file))) == 20
    if command == "rebuild":
        assert json.loads(output("usage", "--by", "session", "--json", db=file)) == before
    output("rebuild", db=file)
    verified(file)


def test_a_delete_killed_at_any_moment_is_whole_or_did_nothing(tmp_path: Path, large: Path) -> None:
    file = tmp_path / "log.db"
    rows = answer("import", str(large), db=file)
    output("project", db=file)
    times = random.Random(SEED)
    for _ in range(5):
        killed("delete", "--yes", rows[0]["stream_id"], db=file, after=times.uniform(0.4, 0.9))
        verified(file)
        engine = database.connect(sqlite(file), create=False)
        with database.read(engine) as connection:
            head = log.head(connection, rows[0]["stream_id"])
            left = log.read(connection, rows[0]["stream_id"])
        engine.dispose()
        assert len(left) in (0, WORDS + 6)
        assert (head is None) == (left == [])
