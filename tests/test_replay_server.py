"""The replay server from inside: any recorded chunks on the wire, and what becomes of it when its clients leave."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from recorder import database
from recorder.collect.serving import listen, serving
from recorder.replay import library
from recorder.replay.server import BATCH, Replayer
from recorder.sse import Frame
from tests.commands import sqlite, until
from tests.downstream import Downstream, asked
from tests.exchanges import JSON, MS, SECOND, SSE, asking, cut, json_response, record, response

EVENT = b"event: a\ndata: 1\n\n"
MINUTE = 60 * SECOND


class Server:
    """A server in a thread of this process, whose application is replaced from test to test.

    at_work: how many requests it is at work on; errors: those that left the application.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.app: Any = None
        self.at_work = 0
        self.errors: list[Exception] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        self.at_work += 1
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            self.at_work -= 1


Replaying = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def replaying() -> Iterator[Replaying]:
    """replaying(engine, *ids, speed=None): the server with what these IDs name. No error may leave it, no request stay in it."""
    interval = sys.getswitchinterval()
    with listen("127.0.0.1", 0) as listener:
        server = Server(listener.getsockname()[1])

        @contextlib.contextmanager
        def playing(engine: sa.Engine, *ids: str, speed: float | None = None) -> Iterator[Server]:
            server.app, server.errors = Replayer(engine, library.load(engine, ids), speed=speed), []
            yield server
            until(lambda: server.at_work == 0)
            assert server.errors == []

        with serving(server, listener, grace_seconds=0):
            yield playing
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    made = database.connect(sqlite(tmp_path_factory.mktemp("server") / "log.db"))
    yield made
    made.dispose()


_numbers = itertools.count()


def recorded(engine: sa.Engine, frames: list[Frame], method: str = "POST", target: str = "/v1/a", body: bytes = b"{}") -> str:
    """Record one exchange more; its stream id."""
    (stream_id,) = record(engine, [(asking(next(_numbers), method, target, body), frames)])
    return stream_id


BODIES = st.sampled_from(
    [EVENT, b"data: \xff\x00\r\n\r\n", b": c\n\n", b"id: 1\r", b"\n", b"data: x\ndata: y\n\n", b"e", b"[1,2]"]
)


@given(data=st.data())
def test_any_chunks_come_as_they_were_recorded(replaying: Replaying, engine: sa.Engine, data: st.DataObject) -> None:
    content_type = data.draw(st.sampled_from(["text/event-stream", "application/json", "application/x-ndjson", "audio/mpeg"]))
    body = data.draw(st.lists(BODIES, min_size=1, max_size=12).map(b"".join))
    pieces = cut(body, data.draw(st.sets(st.integers(1, 80))))
    gaps = data.draw(st.lists(st.integers(1, MINUTE), min_size=len(pieces), max_size=len(pieces)))
    status = data.draw(st.sampled_from([200, 201, 400, 429, 500]))
    headers = [("content-type", content_type), ("x-request-id", "r")]
    chunks = list(zip(accumulate(gaps), pieces, strict=True))
    stream_id = recorded(engine, response(chunks, status=status, headers=headers))
    with replaying(engine, stream_id) as server:
        answer, received = asked(server.port, "POST", "/v1/a", b"{}")
        assert received == pieces
        assert answer.complete
        assert answer.status == status
        own = [("x-recorder-stream", stream_id), ("x-recorder-match", "exact"), ("transfer-encoding", "chunked")]
        assert answer.headers == [*headers, *own]


@given(at=st.lists(st.integers(1, 60), max_size=5, unique=True), broken=st.integers(0, 60))
def test_a_cut_is_at_the_same_byte_wherever_it_was(replaying: Replaying, engine: sa.Engine, at: list[int], broken: int) -> None:
    body = (EVENT * 4)[:broken]
    pieces = cut(body, at) if body else []
    stream_id = recorded(engine, response(list(enumerate(pieces, 1)), closed="cut", detail="ClientPayloadError: gone"))
    with replaying(engine, stream_id) as server:
        answer, received = asked(server.port, "POST", "/v1/a", b"{}")
        assert received == pieces
        assert answer.complete is False


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 5 * BATCH])
def test_more_chunks_than_are_read_ahead(replaying: Replaying, engine: sa.Engine, count: int) -> None:
    """The head and the end count among them."""
    pieces = [b"data: %d\n\n" % number for number in range(count)]
    stream_id = recorded(engine, response(list(enumerate(pieces, 1))))
    with replaying(engine, stream_id) as server:
        answer, received = asked(server.port, "POST", "/v1/a", b"{}")
        assert received == pieces
        assert answer.complete


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("GET", 204, []),
        ("DELETE", 204, [("x-request-id", "r")]),
        ("GET", 304, []),
        ("GET", 304, [("content-length", "10")]),
        ("HEAD", 200, [JSON, ("content-length", "11")]),
        ("HEAD", 200, [JSON]),
        ("HEAD", 404, [JSON, ("content-length", "11")]),
        ("GET", 200, [JSON, ("content-length", "0")]),
        ("POST", 200, [SSE]),
    ],
)
def test_answers_without_a_body(
    replaying: Replaying, engine: sa.Engine, method: str, status: int, headers: list[tuple[str, str]]
) -> None:
    """And the connection goes on. A 304 may say how long the body would have been (RFC 9110, 8.6)."""
    stream_id = recorded(engine, response(status=status, headers=headers), method, "/v1/none", b"")
    after = recorded(engine, json_response(b"[]"), "GET", "/v1/next", b"")
    with replaying(engine, stream_id, after) as server, Downstream(server.port) as client:
        answer = client.ask(method, "/v1/none")
        assert (answer.status, answer.pieces(), answer.complete) == (status, [], True)
        if method == "HEAD":
            assert [pair for pair in answer.headers if not pair[0].startswith("x-recorder")] == headers
        following = client.ask("GET", "/v1/next")
        assert (following.status, following.body()) == (200, b"[]")


def test_a_404_to_a_head_request_has_no_body(replaying: Replaying, engine: sa.Engine) -> None:
    stream_id = recorded(engine, json_response(b"[]"), "GET", "/v1/next", b"")
    with replaying(engine, stream_id) as server, Downstream(server.port) as client:
        answer = client.ask("HEAD", "/v1/next")
        assert (answer.status, answer.pieces()) == (404, [])
        assert client.ask("GET", "/v1/next").body() == b"[]", "the connection goes on"


def test_a_body_that_was_lost_in_part_is_not_given_as_whole(replaying: Replaying, engine: sa.Engine) -> None:
    """Its recorded length says more than the log has: the connection breaks, as the client can tell."""
    frames = response([(1, b"[1, 2")], headers=[JSON, ("content-length", "100")])
    stream_id = recorded(engine, frames)
    with replaying(engine, stream_id) as server:
        answer, received = asked(server.port, "POST", "/v1/a", b"{}")
        assert (b"".join(received), answer.complete) == (b"[1, 2", False)
        server.errors.clear()  # so it may be that the connection breaks


def test_what_it_answered_and_what_not_is_counted(replaying: Replaying, engine: sa.Engine) -> None:
    stream_id = recorded(engine, json_response(b"[]"))
    with replaying(engine, stream_id) as server:
        for target in ("/v1/a", "/v1/a", "/v1/b"):
            asked(server.port, "POST", target, b"{}")
        assert (server.app.served, server.app.unmatched) == (2, 1)


def slow(engine: sa.Engine, target: str = "/v1/a") -> str:
    """An answer whose second half comes a minute later."""
    return recorded(engine, response([(1, EVENT), (MINUTE, EVENT)]), "POST", target)


def test_a_chunk_does_not_wait_for_the_next(replaying: Replaying, engine: sa.Engine) -> None:
    with replaying(engine, slow(engine), speed=1.0) as server, Downstream(server.port) as client:
        assert next(client.ask("POST", "/v1/a", b"{}").each()) == EVENT


def test_the_head_does_not_wait_for_the_first_chunk(replaying: Replaying, engine: sa.Engine) -> None:
    stream_id = recorded(engine, response([(MINUTE, EVENT)], status=201))
    with replaying(engine, stream_id, speed=1.0) as server, Downstream(server.port) as client:
        assert client.ask("POST", "/v1/a", b"{}").status == 201


def files_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_client_that_leaves_early_ends_what_was_done_for_it(replaying: Replaying, engine: sa.Engine) -> None:
    """In the midst of a pause of a minute: neither its task nor its connection stays."""
    with replaying(engine, slow(engine), speed=1.0) as server:
        asked_once = Downstream(server.port)
        next(asked_once.ask("POST", "/v1/a", b"{}").each())
        asked_once.leave()
        until(lambda: server.at_work == 0)
        before = files_open()
        clients = [Downstream(server.port) for _ in range(20)]
        for client in clients:
            next(client.ask("POST", "/v1/a", b"{}").each())
        assert server.at_work == 20
        for client in clients:
            client.leave()
        until(lambda: server.at_work == 0)
        until(lambda: files_open() <= before)


def test_a_client_that_leaves_before_any_answer_ends_it_too(replaying: Replaying, engine: sa.Engine) -> None:
    stream_id = recorded(engine, response(status=None, closed="no_response", end_us=MINUTE))
    with replaying(engine, stream_id, speed=1.0) as server, Downstream(server.port) as client:
        client.send("POST", "/v1/a", b"{}")
        until(lambda: server.at_work == 1)
        client.leave()
        until(lambda: server.at_work == 0)


def test_a_client_that_leaves_within_its_request_was_no_client(replaying: Replaying, engine: sa.Engine) -> None:
    with replaying(engine, recorded(engine, json_response(b"[]"))) as server:
        with Downstream(server.port) as client:
            client.socket.sendall(b"POST /v1/a HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
            until(lambda: server.at_work == 1)
        until(lambda: server.at_work == 0)
        assert (server.app.served, server.app.unmatched) == (0, 0)
        answer, _ = asked(server.port, "POST", "/v1/a", b"{}")
        assert answer.status == 200


def test_a_client_that_leaves_does_not_disturb_the_others(replaying: Replaying, engine: sa.Engine) -> None:
    pieces = [b"data: %d\n\n" % number for number in range(20)]
    other = recorded(engine, response([(20 * MS * number, piece) for number, piece in enumerate(pieces, 1)]), "POST", "/v1/b")
    with replaying(engine, slow(engine), other, speed=1.0) as server, ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(asked, server.port, "POST", "/v1/b", b"{}") for _ in range(8)]
        for _ in range(20):
            with Downstream(server.port) as leaving:
                next(leaving.ask("POST", "/v1/a", b"{}").each())
        for answer, received in (each.result() for each in under_way):
            assert received == pieces
            assert answer.complete


def test_a_reader_slower_than_the_recording_gets_all_of_it(replaying: Replaying, engine: sa.Engine) -> None:
    """8 MiB at once to a client that reads nothing at first: the server waits for it instead of dropping or failing."""
    piece = bytes(range(256)) * 4096
    stream_id = recorded(engine, response([(number, piece) for number in range(1, 9)], headers=[("content-type", "audio/pcm")]))
    with replaying(engine, stream_id) as server, Downstream(server.port) as client:
        answer = client.ask("POST", "/v1/a", b"{}")
        with Downstream(server.port) as other:
            assert other.ask("POST", "/v1/b", b"").status == 404, "others are served meanwhile"
        assert answer.body() == piece * 8
        assert answer.complete


def test_a_request_in_pieces_is_matched_as_a_whole(replaying: Replaying, engine: sa.Engine) -> None:
    stream_id = recorded(engine, json_response(b"[]"), body=b'{"a": [1, 2, 3]}')
    with replaying(engine, stream_id) as server, Downstream(server.port) as client:
        client.socket.sendall(b"POST /v1/a HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"a":[', b"1,2", b",3]}"):
            client.socket.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.socket.sendall(b"0\r\n\r\n")
        answer = client.answer("POST")
        assert answer.header("x-recorder-match") == "exact"
        assert answer.body() == b"[]"


def test_requests_that_are_sent_ahead_are_answered_in_order(replaying: Replaying, engine: sa.Engine) -> None:
    ids = [recorded(engine, response([(1, EVENT), (2, b"data: %d\n\n" % n)]), "GET", f"/v1/{n}", b"") for n in range(3)]
    with replaying(engine, *ids) as server, Downstream(server.port) as client:
        client.socket.sendall(b"".join(b"GET /v1/%d HTTP/1.1\r\nHost: here\r\n\r\n" % number for number in range(3)))
        for number in range(3):
            answer = client.answer("GET")
            assert answer.pieces() == [EVENT, b"data: %d\n\n" % number]
            assert answer.complete


def test_a_recording_that_is_deleted_meanwhile_is_no_response(replaying: Replaying, engine: sa.Engine, tmp_path: Path) -> None:
    own = database.connect(sqlite(tmp_path / "own.db"))
    stream_id = recorded(own, json_response(b"[]"))
    with replaying(own, stream_id) as server:
        with database.write(own) as connection:
            for table in ("events", "heads", "streams"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
        with Downstream(server.port) as client:
            client.send("POST", "/v1/a", b"{}")
            assert client.closed()
        answer, _ = asked(server.port, "POST", "/v1/b", b"{}")
        assert answer.status == 404
    own.dispose()
