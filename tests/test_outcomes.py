"""How a stream ended, for real causes: through the proxy and in the hook, into both databases."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
import sqlalchemy as sa

import recorder
from recorder import database, log
from tests.commands import ProxyProcess, answer, until
from tests.commands import recorder as command
from tests.test_proxy import event
from tests.upstream import PATIENCE, SSE, Answer, Asked, Upstream, Wire

pytestmark = pytest.mark.slow

DONE = b"data: [DONE]\n\n"
ERROR = b'event: error\ndata: {"error":{"code":"server_error","message":"no"}}\n\n'
SHORT = 0.3
"""Seconds after which an impatient client has waited enough."""

Client = Callable[[str], None]
"""Sends a request to this URL and reads the answer, in its own way."""


class Cause(NamedTuple):
    """What the upstream does, and the client; and what became of the stream: by the proxy, and by the hook.

    proxy, hook: (outcome, how the connection closed). None: the stream is not to be seen there.
    """

    answer: Answer
    client: Client
    proxy: tuple[str, str]
    hook: tuple[str, str] | None


def streaming(*pieces: bytes, ending: Callable[[Wire], None] = Wire.end) -> Answer:
    def say(wire: Wire, asked: Asked) -> None:
        wire.begin([SSE])
        for piece in pieces:
            wire.chunk(piece)
        time.sleep(0.1)  # what was sent is read before the end comes
        ending(wire)

    return say


def stalling(*pieces: bytes) -> Answer:
    """Send these, and then nothing more until the client has left."""

    def hold(wire: Wire) -> None:
        wire.left()

    return streaming(*pieces, ending=hold)


def silent(wire: Wire, asked: Asked) -> None:
    """Not even a head."""
    wire.left()


def refusing(wire: Wire, asked: Asked) -> None:
    """And keeping the reason back."""
    wire.head(500, [("Content-Length", "9")])
    wire.left()


def resetting(wire: Wire, asked: Asked) -> None:
    wire.reset()


def whole(status: int, body: bytes) -> Answer:
    return lambda wire, asked: wire.whole(body, status=status)


# Clients. Each makes its own httpx client, which the hook records where there is one: recorded.client.

recorded = threading.local()


@contextlib.contextmanager
def asking(url: str, read: float | None = PATIENCE) -> Iterator[httpx.Response]:
    client: httpx.Client = recorded.client
    timeout = httpx.Timeout(PATIENCE, read=read)
    with client.stream("POST", url, json={"stream": True}, timeout=timeout) as response:
        yield response


def reading(url: str) -> None:
    """To the end, whatever that is."""
    with contextlib.suppress(httpx.HTTPError), asking(url) as response:
        response.read()


def impatient(url: str) -> None:
    with pytest.raises(httpx.ReadTimeout), asking(url, read=SHORT) as response:
        response.read()


def leaving_after(mark: bytes) -> Client:
    """As SDKs do at [DONE], and people in the middle."""

    def leave(url: str) -> None:
        with asking(url) as response:
            seen = b""
            for piece in response.iter_raw():
                seen += piece
                if mark in seen:
                    return

    return leave


CAUSES = {
    "the server ends without [DONE]": Cause(streaming(event(1)), reading, ("eof", "eof"), ("eof", "eof")),
    "the server ends with [DONE]": Cause(streaming(event(1), DONE), reading, ("done", "eof"), ("done", "eof")),
    "the server closes in mid-stream": Cause(streaming(event(1), ending=Wire.cut), reading, ("cut", "cut"), ("cut", "cut")),
    "the server resets": Cause(streaming(event(1), ending=Wire.reset), reading, ("cut", "cut"), ("cut", "cut")),
    "the server resets after [DONE]": Cause(
        streaming(event(1), DONE, ending=Wire.reset), reading, ("done", "cut"), ("done", "cut")
    ),
    "the server stalls": Cause(
        stalling(event(1)), impatient, ("client_closed", "client_closed"), ("client_closed", "client_closed")
    ),
    "the server stalls before it answers": Cause(silent, impatient, ("client_closed", "client_closed"), None),
    "the client leaves after [DONE]": Cause(
        stalling(event(1), DONE), leaving_after(DONE), ("done", "client_closed"), ("done", "client_closed")
    ),
    "the client leaves in the middle": Cause(
        stalling(event(1), event(2)), leaving_after(event(1)), ("client_closed",) * 2, ("client_closed",) * 2
    ),
    "the server says an error": Cause(streaming(event(1), ERROR), reading, ("error", "eof"), ("error", "eof")),
    "the server says an error and [DONE]": Cause(streaming(ERROR, DONE), reading, ("error", "eof"), ("error", "eof")),
    "the server refuses": Cause(whole(429, b'{"error":{"code":"slow"}}'), reading, ("http_error", "eof"), ("http_error", "eof")),
    "the server fails": Cause(whole(500, b"{}"), reading, ("http_error", "eof"), ("http_error", "eof")),
    "the server answers no stream": Cause(whole(200, b'{"id":"run_1"}'), reading, ("done", "eof"), ("done", "eof")),
    "the server closes before it answers": Cause(lambda wire, asked: wire.cut(), reading, ("no_response",) * 2, None),
    "the server resets before it answers": Cause(resetting, reading, ("no_response",) * 2, None),
}


def ends(engine: sa.Engine, path: str) -> list[dict[str, Any]]:
    """What the `$end` of each stream of a path says, with its head's outcome."""
    found = []
    with database.read(engine) as connection:
        chosen = sa.select(log.streams.c.stream_id).where(log.streams.c.path == path).order_by(log.streams.c.stream_id)
        for stream_id in list(connection.execute(chosen).scalars()):
            head = log.head(connection, stream_id)
            said = [json.loads(entry.data) for entry in log.read(connection, stream_id) if entry.type == "$end"]
            if said:
                assert head is not None
                assert len(said) == 1
                assert head.outcome == said[0]["outcome"]
                found.append(said[0])
    return found


class Place(NamedTuple):
    upstream: Upstream
    proxy: ProxyProcess
    engine: sa.Engine


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running
        assert running.errors == []


@pytest.mark.parametrize("name", CAUSES)
def test_in_the_hook(engine: sa.Engine, upstream: Upstream, name: str) -> None:
    cause = CAUSES[name]
    url = engine.url.render_as_string(hide_password=False)
    upstream.on("/hook", cause.answer)
    with httpx.Client() as client, recorder.record(client, url):
        recorded.client = client
        cause.client(f"{upstream.origin}/hook")
    found = ends(engine, "/hook")
    if cause.hook is None:  # the client's own error: a hook is told of responses only, the transport sees it, below
        assert found == []
        return
    (end,) = found
    assert (end["outcome"], end["closed"]) == cause.hook
    if name in ("the server closes in mid-stream", "the server resets", "the server stalls"):
        assert end["detail"], "what happened is said"
    if name == "the server stalls":
        assert end["detail"].startswith("ReadTimeout")


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("the server stalls before it answers", "client_closed"),
        ("the server closes before it answers", "no_response"),
        ("the server resets before it answers", "no_response"),
    ],
)
def test_the_transport_sees_requests_without_a_response(engine: sa.Engine, upstream: Upstream, name: str, outcome: str) -> None:
    url = engine.url.render_as_string(hide_password=False)
    upstream.on("/transport", CAUSES[name].answer)
    with httpx.Client(transport=recorder.RecordingTransport(db=url)) as client:
        recorded.client = client
        CAUSES[name].client(f"{upstream.origin}/transport")
    (end,) = ends(engine, "/transport")
    assert end["outcome"] == end["closed"] == outcome
    assert end["detail"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Place]:
    """A proxy for all causes, into a database of this kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('outcomes')}/log.db"
    else:
        server = request.getfixturevalue("postgresql_server")
        with psycopg.connect(server("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE outcomes")
        url = server("outcomes")
    command("db", "upgrade", db=url)
    engine = database.connect(url, create=False)
    with ProxyProcess(upstream.origin, db=url) as proxy:
        yield Place(upstream, proxy, engine)
        assert proxy.stop() == 0
    assert command("verify", db=url).returncode == 0
    engine.dispose()


@pytest.mark.parametrize("name", CAUSES)
def test_through_the_proxy(place: Place, name: str) -> None:
    cause = CAUSES[name]
    path = f"/proxy/{list(CAUSES).index(name)}"
    place.upstream.on(path, cause.answer)
    with httpx.Client() as client:
        recorded.client = client
        cause.client(f"http://{place.proxy.host}:{place.proxy.port}{path}")
    (end,) = until(lambda: ends(place.engine, path))
    assert (end["outcome"], end["closed"]) == cause.proxy


@pytest.mark.parametrize("abrupt", [False, True])
def test_a_client_of_the_proxy_that_leaves_before_the_first_byte(place: Place, abrupt: bool) -> None:
    path = f"/before/{abrupt}"
    place.upstream.on(path, silent)
    with socket.create_connection((place.proxy.host, place.proxy.port)) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        place.upstream.asked(path)
        if abrupt:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    (end,) = until(lambda: ends(place.engine, path))
    assert (end["outcome"], end["closed"]) == ("client_closed", "client_closed")


def test_a_proxy_before_an_upstream_that_is_not_there(place: Place) -> None:
    with Upstream() as away:
        origin = away.origin
    url = place.engine.url.render_as_string(hide_password=False)
    with ProxyProcess(origin, db=url) as proxy, httpx.Client() as client:
        with pytest.raises(httpx.HTTPError):
            client.post(f"http://{proxy.host}:{proxy.port}/nobody", json={})
        (end,) = until(lambda: ends(place.engine, "/nobody"))
        assert proxy.stop() == 0
    assert (end["outcome"], end["closed"]) == ("no_response", "no_response")
    assert "refused" in end["detail"].lower()


@pytest.mark.parametrize("finder", ["the next proxy", "the next question"])
def test_a_proxy_that_is_killed(url: str, upstream: Upstream, finder: str) -> None:
    """Its open streams are lost, but for what stands in them; those that had ended are as they were."""
    command("db", "upgrade", db=url)
    engine = database.connect(url, create=False)
    answers = {
        "/open": stalling(event(1)),
        "/done": stalling(event(1), DONE),
        "/error": stalling(ERROR),
        "/refused": refusing,
        "/silent": silent,
        "/ended": streaming(event(1)),
    }
    for path, said in answers.items():
        upstream.on(path, said)
    with ProxyProcess(upstream.origin, db=url) as proxy:
        clients = []
        for path in answers:
            client = socket.create_connection((proxy.host, proxy.port))
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            if path != "/silent":
                assert client.recv(65536)
            clients.append(client)
        until(lambda: ends(engine, "/ended"))
        until(lambda: _committed(engine) == len(answers))
        proxy.kill()
        for client in clients:
            client.close()
    assert sum(len(ends(engine, path)) for path in answers) == 1
    if finder == "the next proxy":
        with ProxyProcess(upstream.origin, db=url) as proxy:
            until(lambda: all(ends(engine, path) for path in answers))
            assert proxy.stop() == 0
    else:
        assert len(answer("ls", db=url)) == len(answers)
    found = {path: ends(engine, path)[0] for path in answers}
    assert {path: end["outcome"] for path, end in found.items()} == {
        "/open": "lost",
        "/done": "done",
        "/error": "error",
        "/refused": "http_error",
        "/silent": "lost",
        "/ended": "eof",
    }
    assert [end["closed"] for end in found.values()] == ["lost"] * 5 + ["eof"]
    assert command("verify", db=url).returncode == 0
    engine.dispose()


def _committed(engine: sa.Engine) -> int:
    """Streams that are in the log, with all that was said of them up to now."""
    with database.read(engine) as connection:
        silent_ones = sa.select(log.streams.c.stream_id).where(log.streams.c.path == "/silent")
        said = sa.select(log.heads.c.stream_id).where(log.heads.c.position >= 0)
        return len(set(connection.execute(silent_ones.union(said)).scalars()))
