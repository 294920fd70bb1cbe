"""kill -9 of a proxy under load, at random moments, over and over, into one database: what the clients had been given is there.

Each round kills a proxy while several streams pass it, and answers that are no streams; its clients know what they were given.
The next proxy opens what is left, and ends the streams of the one that was killed. With strict durability every event, head and
whole body that a client was given must be in the log. With relaxed, a stream in the log is a clean beginning of what was sent;
what clients had been given and the log lacks is counted.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from recorder import database, log
from recorder.projections import runner
from recorder.projections.verify import verify
from tests.commands import ProxyProcess, recorder, sqlite, until
from tests.upstream import PATIENCE, SSE, Answer, Asked, Upstream, Wire

TITLE = "kill -9 under load, at random moments"
ROUNDS = 300
SEED = 20_261_124

STREAMS = 6
BODIES = 3
PACE = 0.002
"""Seconds from event to event of a stream."""

MOMENTS = 0.6
"""Seconds in which the kill comes, from the first request on."""


class Given(NamedTuple):
    """What a client was given: the head, so many bytes of the body, and whether it was told that this was all."""

    head: bool
    body: bytes
    whole: bool


class Round(NamedTuple):
    """events: that clients were given. missing: of these, not in the log, and the most of one stream. heads: without a stream."""

    events: int
    missing: int
    most: int
    heads: int
    streams: int
    gaps: int


def run(rounds: int = ROUNDS) -> list[str]:
    said = []
    for durability in ("relaxed", "strict"):
        with tempfile.TemporaryDirectory(prefix="recorder-proof-") as folder:
            found = killed(Path(folder) / "log.db", durability, rounds)
        total = Round(*(sum(each) for each in zip(*found, strict=True)))._replace(most=max(each.most for each in found))
        said.append(
            f"{durability}: {len(found)} kills, {total.streams:,} streams, {total.events:,} events given to clients;"
            f" {total.missing:,} of them and {total.heads:,} heads are not in the log (of a stream {total.most} at the most,"
            f" sent in {total.most * PACE:.3f} s), {total.gaps} gaps; none torn, all ended by the next start, verify exits 0"
        )
    return said


def killed(file: Path, durability: str, rounds: int, seed: int = SEED) -> list[Round]:
    """So many rounds. Raises AssertionError where something is not as it must be."""
    dice = random.Random(seed)
    found = []
    with Upstream() as upstream:
        for number in range(rounds):
            given = _given(upstream, file, durability, number, dice.uniform(0, MOMENTS))
            found.append(_looked_at(file, number, given, strict=durability == "strict"))
        with ProxyProcess(upstream.origin, db=file) as proxy:
            _ended(file)
            assert proxy.stop() == 0
        assert upstream.errors == []
    done = recorder("verify", db=file)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return found


def event(number: int) -> bytes:
    return b'event: tick\ndata: {"n":%d}\n\n' % number


def whole_body(number: int) -> bytes:
    return b'{"id":"run_%d","text":"%s"}' % (number, b"x" * 3000)


SENT = b"".join(event(number) for number in range(5000))
"""More than a stream is given time for."""


def _stream(wire: Wire, asked: Asked) -> None:
    wire.begin([SSE])
    began = time.perf_counter()
    for number in range(5000):
        wire.chunk(event(number))
        time.sleep(max(0.0, began + (number + 1) * PACE - time.perf_counter()))


def _body(chunked: bool, number: int) -> Answer:
    """A JSON body in three pieces, again and again: each is an exchange of its own."""
    body = whole_body(number)

    def answer(wire: Wire, asked: Asked) -> None:
        headers = [("Content-Type", "application/json")]
        if chunked:
            wire.begin(headers)
        else:
            wire.head(200, [*headers, ("Content-Length", str(len(body)))])
        for at in range(0, len(body), 1100):
            (wire.chunk if chunked else wire.send)(body[at : at + 1100])
            time.sleep(PACE)
        if chunked:
            wire.end()

    return answer


def _given(upstream: Upstream, file: Path, durability: str, number: int, moment: float) -> dict[str, Given]:
    """What each client was given until the proxy was killed, by path."""
    given: dict[str, Given] = {}
    with ProxyProcess(upstream.origin, "--durability", durability, db=file) as proxy:
        clients = []
        for each in range(STREAMS):
            path = f"/{number}/stream/{each}"
            upstream.on(path, _stream)
            clients.append(threading.Thread(target=_read, args=(proxy, path, given)))
        for each in range(BODIES):
            upstream_path = f"/{number}/body/{each}"
            clients.append(threading.Thread(target=_ask_on, args=(upstream, proxy, upstream_path, each, given)))
        for client in clients:
            client.start()
        time.sleep(moment)
        proxy.process.kill()
        for client in clients:
            client.join(PATIENCE)
            assert not client.is_alive()
    return given


def _read(proxy: ProxyProcess, path: str, given: dict[str, Given]) -> bool:
    """Ask, and keep what comes; whether it was whole."""
    head, body, whole = False, bytearray(), False
    with contextlib.suppress(http.client.HTTPException, OSError):
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", path, body=b'{"stream":true}')
            response = connection.getresponse()
            head = True
            while piece := response.read1(65536):
                body += piece
            whole = response.length in (0, None)
    given[path] = Given(head, bytes(body), whole)
    return whole


def _ask_on(upstream: Upstream, proxy: ProxyProcess, prefix: str, kind: int, given: dict[str, Given]) -> None:
    number = 0
    while True:
        path = f"{prefix}/{number}"
        upstream.on(path, _body(kind % 2 == 0, number))
        if not _read(proxy, path, given):
            return
        number += 1


def _looked_at(file: Path, round: int, given: dict[str, Given], *, strict: bool) -> Round:
    """Compare the log with what the clients were given."""
    kept = _kept(file, f"/{round}/")
    events = missing = most = heads = gaps = 0
    for path, (head, body, whole) in given.items():
        types, there = kept.get(path, ([], b""))
        gaps += types.count("$gap")
        heads += head and "$response" not in types
        if "/stream/" in path:
            assert SENT.startswith(body)
            assert SENT.startswith(there), "it is torn"
            assert types in ([], ["$response", *["tick"] * there.count(b"\n\n")])
            had, lacks = body.count(b"\n\n"), max(0, body.count(b"\n\n") - there.count(b"\n\n"))
        else:
            sent = whole_body(int(path.rpartition("/")[2]))
            assert sent.startswith(body)
            assert there in (b"", sent), "it is torn"
            had, lacks = int(whole), int(whole and not there)
        events, missing, most = events + had, missing + lacks, max(most, lacks)
    if strict:
        assert (missing, heads, gaps) == (0, 0, 0), (round, missing, heads, gaps)
    return Round(events, missing, most, heads, len(given), gaps)


def _kept(file: Path, prefix: str) -> dict[str, tuple[list[str], bytes]]:
    """(types, bytes) of the streams whose path begins so. Nothing of them has been ended yet: the next start does that."""
    if not file.exists():
        return {}
    engine = database.connect(sqlite(file))
    found = {}
    with database.read(engine) as connection:
        chosen = sa.select(log.streams.c.stream_id, log.streams.c.path).where(log.streams.c.path.startswith(prefix))
        for stream_id, path in connection.execute(chosen).all():
            entries = log.read(connection, stream_id)
            assert [entry.position for entry in entries] == list(range(len(entries)))
            found[path] = (
                [entry.type for entry in entries if entry.type not in ("$end", "$body")],
                b"".join(body for body, _, _ in log.wire(entries)),
            )
    runner.catch_up(engine)
    with database.read(engine) as connection:
        ids = list(connection.execute(sa.select(log.heads.c.stream_id).where(log.heads.c.ended_at.is_(None))).scalars())
    assert verify(engine, ids).problems == []
    engine.dispose()
    return found


def _ended(file: Path) -> None:
    """Wait until no stream is open any more."""
    engine = database.connect(sqlite(file), create=False)

    def still_open() -> list[str]:
        with database.read(engine) as connection:
            chosen = (
                sa.select(log.streams.c.stream_id)
                .select_from(log.streams.outerjoin(log.heads, log.heads.c.stream_id == log.streams.c.stream_id))
                .where(log.heads.c.ended_at.is_(None))
            )
            return list(connection.execute(chosen).scalars())

    until(lambda: not still_open())
    engine.dispose()
