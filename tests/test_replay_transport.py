"""Replaying within a program: what clients of httpx and httpx2, sync and async, receive without a socket."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest
import sqlalchemy as sa

import recorder
from recorder import ReplayTransport, database, play
from recorder.errors import DatabaseError, RecorderError, UnknownID, UsageError
from recorder.sse import Frame
from tests import writing
from tests.clients import Kind, finished, following
from tests.commands import sqlite, until
from tests.exchanges import JSON, MS, SECOND, SSE, asking, json_response, record, response
from tests.recorded import Recorded
from tests.upstream import Upstream
from tests.writing import stream_id

BASE = "http://api.example.com/v1"
EVENT = b"event: a\ndata: 1\n\n"
MINUTE = 60 * SECOND
CHUNKS = [
    (60 * MS, b"event: a\ndata: 0\n\nevent: a\ndata: 1\n\n"),
    (110 * MS, b"even"),
    (160 * MS, b"t: a\ndata: two\n\nid: 7\r\n"),
    (210 * MS, b"data: [DONE]\n\n"),
]
PIECES = [piece for _, piece in CHUNKS]
TOLD = gzip.compress(b"told once more", mtime=0)

EXCHANGES: dict[str, tuple[str, list[Frame]]] = {
    "paced": ("POST", response(CHUNKS, headers=[SSE, ("x-request-id", "req_1")], head_us=30 * MS, end_us=310 * MS)),
    "json": ("GET", json_response(b'{"id": "run_1"}')),
    "gone": ("DELETE", response(status=204, headers=[])),
    "head": ("HEAD", response(headers=[JSON, ("content-length", "23")])),
    "empty": ("POST", response(headers=[SSE])),
    "lines": ("GET", response([(1, b'{"a":1}\n{"b"'), (2, b":2}\n")], headers=[("content-type", "application/x-ndjson")])),
    "gunzipped": ("GET", response([(1, EVENT)], headers=[SSE, ("content-encoding", "gzip")], decoded="gzip")),
    "gzip": ("GET", response([(1, TOLD[:9]), (2, TOLD[9:])], headers=[("content-type", "x/y"), ("content-encoding", "gzip")])),
    "error/401": ("POST", json_response(b'{"error":{}}', 401)),
    "error/429": ("POST", json_response(b'{"error":{}}', 429, ("retry-after", "3"))),
    "error/529": ("POST", json_response(b'{"error":{}}', 529)),
    "minute": ("POST", response([(1, EVENT), (MINUTE, EVENT)])),
    "minute/head": ("POST", response([(MINUTE, EVENT)], head_us=MINUTE)),
    "minute/end": ("POST", response([(1, EVENT)], end_us=MINUTE)),
}
"""{path: (method, the frames of its response)}; each is asked without a body."""

IDS = {path: stream_id(number) for number, path in enumerate(EXCHANGES)}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = sqlite(tmp_path_factory.mktemp("replay") / "log.db")
    engine = database.connect(url)
    record(engine, [(asking(n, method, f"/v1/{path}"), frames) for n, (path, (method, frames)) in enumerate(EXCHANGES.items())])
    engine.dispose()
    return url


def made(folder: Path, *exchanges: tuple[Any, list[Frame]]) -> str:
    """The URL of a database with these exchanges."""
    url = sqlite(folder / "made.db")
    engine = database.connect(url)
    record(engine, exchanges)
    engine.dispose()
    return url


@contextlib.asynccontextmanager
async def replaying(kind: Kind, *ids: str, db: str, timeout: Any = None, **options: Any) -> Any:
    """A client of a kind that is given what was recorded."""
    client = kind.client(transport=ReplayTransport(*ids, db=db, **options), timeout=timeout)
    try:
        yield client
    finally:
        await kind.close(client)


# What is given


@pytest.mark.anyio
async def test_any_client_receives_the_recorded_head_and_chunks(kind: Kind, db: str) -> None:
    async with replaying(kind, db=db) as client:
        got = await kind.fetch(client, f"{BASE}/paced")
    assert got.failed is None
    assert isinstance(got.response, kind.family.Response)
    assert got.response.status_code == 200
    own = [("x-recorder-stream", IDS["paced"]), ("x-recorder-match", "exact")]
    assert got.response.headers.multi_items() == [SSE, ("x-request-id", "req_1"), *own]
    assert got.chunks == PIECES


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("json", 200, b'{"id": "run_1"}'),
        ("gone", 204, b""),
        ("head", 200, b""),
        ("empty", 200, b""),
        ("lines", 200, b'{"a":1}\n{"b":2}\n'),
        ("gunzipped", 200, EVENT),
        ("gzip", 200, b"told once more"),
        ("error/401", 401, b'{"error":{}}'),
        ("error/429", 429, b'{"error":{}}'),
        ("error/529", 529, b'{"error":{}}'),
    ],
)
async def test_any_answer_is_read_as_one_from_the_network(kind: Kind, db: str, path: str, status: int, body: bytes) -> None:
    async with replaying(kind, db=db) as client:
        got = await finished(client.request(EXCHANGES[path][0], f"{BASE}/{path}"))
    assert (got.status_code, got.content) == (status, body)
    assert got.headers.get("retry-after") == ("3" if status == 429 else None)
    assert got.elapsed.total_seconds() >= 0


@pytest.mark.anyio
async def test_what_nothing_answers_is_a_404_that_names_the_nearest(kind: Kind, db: str) -> None:
    async with replaying(kind, db=db) as client:
        got = await finished(client.post(f"{BASE}/pace", json={"a": 1}))
    assert got.status_code == 404
    assert got.headers["content-type"] == "application/json"
    error = got.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "recording_not_found")
    assert error["message"].startswith("recorder: no recording answers POST /v1/pace; the nearest is POST /v1/paced of stream")
    assert "x-recorder-stream" not in got.headers


@pytest.mark.anyio
async def test_that_404_can_be_read_as_it_comes(kind: Kind, db: str) -> None:
    async with replaying(kind, db=db) as client:
        response = await kind.begin(client, f"{BASE}/nothing")
        chunks, body = kind.raw(response), b""
        while (chunk := await following(chunks)) is not None:
            body += chunk
        await kind.close(response)
    assert json.loads(body)["error"]["code"] == "recording_not_found"
    assert response.headers["content-length"] == str(len(body))


@pytest.mark.anyio
async def test_how_it_was_found_is_said_and_strict_takes_equals_alone(kind: Kind, tmp_path: Path) -> None:
    url = made(tmp_path, (asking(0, "POST", "/v1/a?x=1&key=secret", b'{"a":1,"b":2}'), json_response(b"[]")))

    async def rung(target: str, strict: bool, **request: Any) -> Any:
        async with replaying(kind, db=url, strict=strict) as client:
            got = await finished(client.post(f"http://elsewhere.example.org{target}", **request))
            return got.headers.get("x-recorder-match", got.status_code)

    equal = {"content": b'{ "b": 2, "a": 1 }', "headers": {"content-type": "application/json"}}
    assert await rung("/v1/a?key=other&x=1", strict=True, **equal) == "exact"
    assert await rung("/v1/a?key=other&x=1", strict=False, json={"b": 2, "a": 1}) == "exact"
    assert await rung("/v1/a", strict=False, json={"b": 2, "a": 1}) == "path"
    assert await rung("/v1/a?key=k&x=1", strict=False, json={"b": 3}) == "path"
    assert await rung("/v1/a?key=k&x=1", strict=True, json={"b": 3}) == 404


@pytest.mark.anyio
async def test_an_upload_is_matched_by_all_its_pieces(kind: Kind, tmp_path: Path) -> None:
    url = made(tmp_path, (asking(0, "POST", "/v1/a", b'{"a":[1,2]}'), json_response(b"[]")))
    async with replaying(kind, db=url, strict=True) as client:
        assert (await finished(client.post(f"{BASE}/a", content=kind.upload([b'{"a":', b"[1,", b"2]}"])))).status_code == 200


@pytest.mark.anyio
async def test_a_transport_is_one_client_that_may_begin_again(kind: Kind, tmp_path: Path) -> None:
    exchanges = [
        (asking(0, "POST", "/v1/runs", b"{}"), json_response(b"0")),
        (asking(1, "GET", "/v1/runs/1"), json_response(b"1")),
        (asking(2, "GET", "/v1/runs/1"), json_response(b"2")),
    ]
    async with replaying(kind, db=made(tmp_path, *exchanges)) as client:
        for _ in range(2):
            assert (await finished(client.post(f"{BASE}/runs", json={}))).json() == 0
            assert [(await finished(client.get(f"{BASE}/runs/1"))).json() for _ in range(4)] == [1, 2, 2, 2]


@pytest.mark.anyio
async def test_an_answer_that_is_not_read_to_its_end_disturbs_nothing(kind: Kind, db: str) -> None:
    async with replaying(kind, db=db) as client:
        for _ in range(3):
            begun = await kind.begin(client, f"{BASE}/paced")
            assert await following(kind.raw(begun)) == PIECES[0]
            await kind.close(begun)
        assert (await kind.fetch(client, f"{BASE}/paced")).chunks == PIECES


@pytest.mark.anyio
async def test_what_is_replayed_can_be_recorded(kind: Kind, db: str, tmp_path: Path) -> None:
    again = sqlite(tmp_path / "again.db")
    client = kind.client(transport=recorder.RecordingTransport(ReplayTransport(db=db), again))
    assert (await kind.fetch(client, f"{BASE}/paced")).chunks == PIECES
    await kind.close(client)
    log = Recorded(again)
    (stream,) = log.ended("/v1/paced")
    assert log.chunks(stream.stream_id) == PIECES
    log.engine.dispose()


# How it ends


def broken(folder: Path, **said: Any) -> str:
    return made(folder, (asking(0, "POST", "/v1/a"), response([(1, EVENT), (2, b"data: ha")], **said)))


DETAILS = {
    "ReadError: gone": "ReadError",
    "ReadError": "ReadError",
    "RemoteProtocolError: peer closed connection": "RemoteProtocolError",
    "ReadTimeout: timed out": "ReadTimeout",
    "ConnectError: [Errno 111] Connection refused": "ConnectError",
    "ConnectTimeout": "ConnectTimeout",
    "ClientPayloadError: of another library": "RemoteProtocolError",
    "HTTPStatusError: no error of a transport": "RemoteProtocolError",
    "Client: no error at all": "RemoteProtocolError",
    "get": "RemoteProtocolError",
    "some words: and more": "RemoteProtocolError",
    "": "RemoteProtocolError",
}
"""{what was said of the end when it was recorded: the name of the error that it is replayed as}"""


@pytest.mark.anyio
@pytest.mark.parametrize("detail", DETAILS)
async def test_a_connection_that_broke_raises_the_familys_own_error_after_the_same_bytes(
    kind: Kind, tmp_path: Path, detail: str
) -> None:
    async with replaying(kind, db=broken(tmp_path, closed="cut", detail=detail)) as client:
        got = await kind.fetch(client, f"{BASE}/a")
    assert got.chunks == [EVENT, b"data: ha"]
    assert type(got.failed) is getattr(kind.family, DETAILS[detail])
    name, _, message = detail.partition(": ")
    if name == DETAILS[detail]:
        assert str(got.failed) == message
    assert got.failed.request.url.path == "/v1/a"


@pytest.mark.anyio
@pytest.mark.parametrize("detail", DETAILS)
async def test_a_request_that_got_no_response_raises_the_familys_own_error(kind: Kind, tmp_path: Path, detail: str) -> None:
    async with replaying(kind, db=broken(tmp_path, status=None, closed="no_response", detail=detail)) as client:
        got = await kind.fetch(client, f"{BASE}/a")
    assert got.response is None
    assert type(got.failed) is getattr(kind.family, DETAILS[detail])
    assert got.failed.request.url.path == "/v1/a"


@pytest.mark.anyio
async def test_a_client_that_gave_up_before_any_response_does_so_again(kind: Kind, tmp_path: Path) -> None:
    async with replaying(kind, db=broken(tmp_path, status=None, closed="client_closed", detail="ReadTimeout: slow")) as client:
        got = await kind.fetch(client, f"{BASE}/a")
    assert got.response is None
    assert type(got.failed) is kind.family.ReadTimeout
    assert str(got.failed) == "slow"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("closed", "detail", "error"),
    [
        ("client_closed", "ReadTimeout: slow", "ReadTimeout"),
        ("client_closed", None, "RemoteProtocolError"),
        ("lost", None, "RemoteProtocolError"),
        (None, None, "RemoteProtocolError"),
    ],
)
async def test_a_recording_that_breaks_off_is_no_whole_answer(
    kind: Kind, tmp_path: Path, closed: str | None, detail: str | None, error: str
) -> None:
    async with replaying(kind, db=broken(tmp_path, closed=closed, detail=detail)) as client:
        got = await kind.fetch(client, f"{BASE}/a")
    assert got.chunks == [EVENT, b"data: ha"]
    assert type(got.failed) is getattr(kind.family, error)


@pytest.mark.anyio
async def test_a_break_within_a_body_that_is_read_whole(kind: Kind, tmp_path: Path) -> None:
    url = made(
        tmp_path, (asking(0, "GET", "/v1/a"), response([(1, b'{"a')], headers=[JSON, ("content-length", "9")], closed="cut"))
    )
    async with replaying(kind, db=url) as client:
        with pytest.raises(kind.family.RemoteProtocolError):
            await finished(client.get(f"{BASE}/a"))


# Pace


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "head_ms", "due_ms", "end_ms"),
    [
        ({"speed": 1.0}, 30, [60, 110, 160, 210], 310),
        ({"speed": 2.0}, 15, [30, 55, 80, 105], 155),
        ({"speed": 0.5}, 60, [120, 220, 320, 420], 620),
        ({"speed": 1.0, "max_gap": 0.04}, 30, [60, 100, 140, 180], 220),
        ({"speed": 0.5, "max_gap": 0.02}, 40, [80, 120, 160, 200], 240),
    ],
)
async def test_no_chunk_comes_before_it_is_due(
    kind: Kind, db: str, options: dict[str, float], head_ms: float, due_ms: list[float], end_ms: float
) -> None:
    async with replaying(kind, db=db, **options) as client:
        began = time.perf_counter()
        begun = await kind.begin(client, f"{BASE}/paced")
        came = [time.perf_counter() - began]
        chunks = kind.raw(begun)
        pieces = []
        while (piece := await following(chunks)) is not None:
            came.append(time.perf_counter() - began)
            pieces.append(piece)
        came.append(time.perf_counter() - began)
    assert pieces == PIECES
    assert all(at >= due / 1000 for at, due in zip(came, [head_ms, *due_ms, end_ms], strict=True)), came


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"speed": None, "max_gap": 5.0}, {"speed": 1.0, "max_gap": 0.0}, {"speed": 1e6}])
@pytest.mark.parametrize("path", ["minute", "minute/head", "minute/end"])
async def test_a_pause_of_a_minute_is_left_out(kind: Kind, db: str, options: dict[str, Any], path: str) -> None:
    """The client would give up after less."""
    async with replaying(kind, db=db, timeout=20.0, **options) as client:
        got = await kind.fetch(client, f"{BASE}/{path}")
    assert got.failed is None
    assert set(got.chunks) == {EVENT}


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("path", ["minute", "minute/head", "minute/end"])
async def test_a_pause_longer_than_the_client_waits_ends_as_on_a_network(kind: Kind, db: str, path: str) -> None:
    began = time.perf_counter()
    async with replaying(kind, db=db, timeout=kind.family.Timeout(None, read=0.1), speed=1.0) as client:
        got = await kind.fetch(client, f"{BASE}/{path}")
    assert type(got.failed) is kind.family.ReadTimeout
    assert got.chunks == ([] if path == "minute/head" else [EVENT])
    assert (got.response is None) == (path == "minute/head")
    assert time.perf_counter() - began >= 0.1


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_stream_longer_than_the_client_waits_is_none_too_long(kind: Kind, db: str) -> None:
    """The timeout is of a pause, not of the whole."""
    async with replaying(kind, db=db, timeout=kind.family.Timeout(None, read=0.25), speed=0.5) as client:
        got = await kind.fetch(client, f"{BASE}/paced")
    assert (got.chunks, got.failed) == (PIECES, None)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("path", ["minute", "minute/head", "minute/end"])
async def test_a_pause_keeps_no_other_task_waiting_and_can_be_cancelled(db: str, path: str) -> None:
    async with httpx.AsyncClient(transport=ReplayTransport(db=db, speed=1.0), timeout=None) as client:
        with anyio.move_on_after(0.2) as scope:
            await client.post(f"{BASE}/{path}")
    assert scope.cancelled_caught


# Without a socket


class Networking(Exception):
    pass


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks up a name or opens a connection fails."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise Networking(args)

    for owner, name in (
        (socket.socket, "connect"),
        (socket.socket, "connect_ex"),
        (socket.socket, "sendto"),
        (socket, "create_connection"),
        (socket, "getaddrinfo"),
    ):
        monkeypatch.setattr(owner, name, refuse)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_network")
async def test_no_connection_is_opened(kind: Kind, db: str) -> None:
    url = f"{BASE.replace('http', 'https')}/paced"
    plain = kind.client(trust_env=False)
    assert isinstance((await kind.fetch(plain, url)).failed, Networking), "the network is watched"
    with play(plain, db=db):
        assert (await kind.fetch(plain, url)).chunks == PIECES
        assert (await kind.fetch(plain, f"{BASE}/nothing")).response.status_code == 404
    await kind.close(plain)
    async with replaying(kind, db=db, speed=10.0) as client:
        assert (await kind.fetch(client, url)).chunks == PIECES


# play()


def transports(client: Any) -> tuple[Any, dict[Any, Any]]:
    return client._transport, dict(client._mounts)


@pytest.mark.anyio
async def test_a_client_is_given_its_own_transports_back(kind: Kind, db: str) -> None:
    client = kind.client(mounts={"all://special": kind.transport()}, proxy="http://127.0.0.1:9")
    before = transports(client)
    assert len(before[1]) == 2, "a mount and a proxy"
    replay = play(client, db=db)
    for host in ("http://special", "https://other.example.com"):
        assert (await kind.fetch(client, f"{host}/v1/paced")).chunks == PIECES, "whatever the way there would have been"
    replay.close()
    assert transports(client) == before
    replay.close()
    assert transports(client) == before, "closing again is nothing"
    await kind.close(client)


@pytest.mark.anyio
async def test_an_error_within_gives_the_transports_back_too(kind: Kind, db: str, tmp_path: Path) -> None:
    client = kind.client()
    before = transports(client)
    with contextlib.suppress(ZeroDivisionError), play(client, db=db):
        assert transports(client) != before
        raise ZeroDivisionError
    assert transports(client) == before
    for arguments, error in ((("thread_9",), UnknownID), ((), DatabaseError)):
        with pytest.raises(error):
            play(client, *arguments, db=db if arguments else sqlite(tmp_path / "none.db"))
        assert transports(client) == before
    await kind.close(client)


@pytest.mark.anyio
async def test_an_asynchronous_context_gives_them_back_too(db: str) -> None:
    async with httpx.AsyncClient() as client:
        before = transports(client)
        async with play(client, db=db):
            assert (await client.get(f"{BASE}/json")).json() == {"id": "run_1"}
        assert transports(client) == before


@pytest.mark.anyio
@pytest.mark.parametrize("inner_first", [True, False])
async def test_two_replays_on_one_client_in_either_order(kind: Kind, db: str, tmp_path: Path, inner_first: bool) -> None:
    """The later one is played while it is there; once both are closed the client has its own transports again."""
    other = made(tmp_path, (asking(0, "GET", "/v1/json"), json_response(b'{"id": "other"}')))
    client = kind.client()
    before = transports(client)

    async def said() -> Any:
        return (await finished(client.get(f"{BASE}/json"))).json()["id"]

    outer = play(client, db=db)
    inner = play(client, db=other)
    assert await said() == "other"
    if inner_first:
        inner.close()
        assert await said() == "run_1"
        outer.close()
    else:
        outer.close()
        assert await said() == "other"
        inner.close()
    assert transports(client) == before
    await kind.close(client)


def test_an_sdk_object_plays_by_the_client_that_it_holds(db: str) -> None:
    with openai.OpenAI(api_key="none", base_url=BASE, max_retries=0) as client, play(client, db=db):
        assert client.get("/json", cast_to=object) == {"id": "run_1"}
        with pytest.raises(openai.AuthenticationError):
            client.post("/error/401", cast_to=object)
        with pytest.raises(openai.NotFoundError, match="the nearest is GET /v1/json of stream"):
            client.get("/jsn", cast_to=object)


@pytest.mark.anyio
async def test_an_asynchronous_sdk_object_does_too(db: str) -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url=BASE, max_retries=0) as client:
        with play(client, db=db):
            assert await client.get("/json", cast_to=object) == {"id": "run_1"}


@pytest.mark.parametrize("thing", [object(), httpx.Client, "a client"])
def test_what_is_no_client_is_refused(db: str, thing: Any) -> None:
    with pytest.raises(UsageError, match="client of httpx or httpx2"):
        play(thing, db=db)


# Which recordings


def test_only_what_is_named_is_played(db: str) -> None:
    with httpx.Client(transport=ReplayTransport(IDS["json"], IDS["gone"], db=db)) as client:
        assert client.get(f"{BASE}/json").status_code == 200
        assert client.delete(f"{BASE}/gone").status_code == 204
        assert client.post(f"{BASE}/empty").status_code == 404


def test_a_session_is_played_though_it_is_not_projected_yet(engine: sa.Engine, url: str) -> None:
    for number in range(2):
        writing.write(engine, asking(number, "GET", "/v1/a", label=f"s{number}"), json_response(b"%d" % number))
    engine.dispose()
    with httpx.Client(transport=ReplayTransport("s1", db=url)) as client:
        assert client.get(f"{BASE}/a").json() == 1


def test_sessions_that_answer_the_same_are_to_be_named(tmp_path: Path) -> None:
    url = made(tmp_path, *[(asking(n, "POST", "/v1/a", b"{}", label=f"s{n}"), json_response(b"%d" % n)) for n in range(2)])
    with pytest.raises(UsageError, match="s0 and s1"):
        ReplayTransport(db=url)
    with httpx.Client(transport=ReplayTransport("s1", "s0", db=url)) as client:
        assert [client.post(f"{BASE}/a", json={}).json() for _ in range(3)] == [0, 1, 0]


def test_the_database_is_the_one_of_the_environment(db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseError, match=r"recorder\.db"):
        ReplayTransport()
    monkeypatch.setenv("RECORDER_DB", db)
    with httpx.Client(transport=ReplayTransport()) as client:
        assert client.get(f"{BASE}/json").status_code == 200


def test_what_cannot_be_played_is_said_and_makes_no_database(tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    with pytest.raises(DatabaseError, match=r"missing\.db"):
        ReplayTransport(db=sqlite(missing))
    assert not missing.exists()
    with pytest.raises(RecorderError, match="holds nothing to replay"):
        ReplayTransport(db=made(tmp_path))


# Threads, and what is left when it is closed


@pytest.mark.slow
@pytest.mark.parametrize("family", [httpx, httpx2], ids=lambda family: family.__name__)
def test_threads_that_share_a_transport_are_never_given_an_answer_twice(tmp_path: Path, family: Any) -> None:
    count = 1000
    url = made(tmp_path, *[(asking(n, "POST", "/v1/a", b"{}"), json_response(b"%d" % n)) for n in range(count)])
    together = threading.Barrier(8)
    interval = sys.getswitchinterval()
    with family.Client(transport=ReplayTransport(db=url)) as client, ThreadPoolExecutor(8) as pool:

        def ask(_: int) -> list[int]:
            together.wait()
            return [client.post(f"{BASE}/a", json={}).json() for _ in range(count // 8)]

        sys.setswitchinterval(1e-6)  # threads take turns as often as can be
        try:
            numbers = [number for answers in pool.map(ask, range(8)) for number in answers]
        finally:
            sys.setswitchinterval(interval)
    assert sorted(numbers) == list(range(count))


@pytest.mark.anyio
async def test_tasks_that_share_a_transport_are_never_given_an_answer_twice(tmp_path: Path) -> None:
    count = 60
    url = made(tmp_path, *[(asking(n, "POST", "/v1/a", b"{}"), response([(n, EVENT)], end_us=20 * MS)) for n in range(count)])
    given: list[str] = []
    async with httpx.AsyncClient(transport=ReplayTransport(db=url, speed=1.0)) as client, anyio.create_task_group() as tasks:

        async def ask() -> None:
            given.append((await client.post(f"{BASE}/a", json={})).headers["x-recorder-stream"])

        for _ in range(count):
            tasks.start_soon(ask)
    assert sorted(given) == [stream_id(number) for number in range(count)]


def held(url: str) -> int:
    """How many files of a SQLite database this process has open."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith(url.removeprefix("sqlite:///"))
    return found


@pytest.mark.anyio
async def test_closing_the_client_lets_go_of_the_database(kind: Kind, db: str) -> None:
    assert held(db) == 0
    client = kind.client(transport=ReplayTransport(db=db))
    assert (await kind.fetch(client, f"{BASE}/paced")).chunks == PIECES
    assert held(db) > 0
    await kind.close(client)
    assert held(db) == 0


def leaving(db: str) -> Iterator[tuple[str, Callable[[], None]]]:
    def context() -> None:
        with ReplayTransport(db=db) as transport:
            httpx.Client(transport=transport).get(f"{BASE}/json")

    def played() -> None:
        with httpx.Client() as client, play(client, db=db):
            client.get(f"{BASE}/json")

    def failed() -> None:
        with contextlib.suppress(UnknownID):
            ReplayTransport("thread_9", db=db)

    def half_read() -> None:
        with httpx.Client(transport=ReplayTransport(db=db)) as client, client.stream("POST", f"{BASE}/paced") as begun:
            next(begun.iter_raw())

    yield from (("context", context), ("play", played), ("error", failed), ("half read", half_read))


@pytest.mark.parametrize("how", ["context", "play", "error", "half read"])
def test_however_it_is_left_nothing_stays_open(db: str, how: str) -> None:
    dict(leaving(db))[how]()
    until(lambda: held(db) == 0)


@pytest.mark.parametrize("family", [httpx, httpx2], ids=lambda family: family.__name__)
def test_it_plays_under_trio(db: str, family: Any) -> None:
    pytest.importorskip("trio", reason="trio is not installed: replay under trio is not tested here")

    async def asking_twice() -> tuple[list[bytes], bytes]:
        async with family.AsyncClient(transport=ReplayTransport(db=db, speed=5.0)) as client:
            async with client.stream("POST", f"{BASE}/paced") as begun:
                pieces = [piece async for piece in begun.aiter_raw()]
            return pieces, (await client.get(f"{BASE}/json")).content

    assert anyio.run(asking_twice, backend="trio") == (PIECES, b'{"id": "run_1"}')


# What it says, and whom it asks otherwise


@pytest.mark.anyio
async def test_what_was_asked_otherwise_is_reported(kind: Kind, tmp_path: Path) -> None:
    exchanges = [
        (asking(0, "POST", "/v1/a", b'{"m":"hi","trace":{"n":1}}', label="s"), json_response(b"0")),
        (asking(1, "POST", "/v1/b", b"{}", label="s"), json_response(b"1")),
    ]
    client = kind.client()
    with play(client, db=made(tmp_path, *exchanges), volatile=["$.trace.n"]) as replay:
        got = await finished(client.post(f"{BASE}/a", json={"m": "hi", "trace": {"n": 2}}))
        assert (got.headers["x-recorder-match"], got.headers["x-recorder-differs"]) == ("volatile", ".trace.n")
        got = await finished(client.post(f"{BASE}/b", json={"m": "ho"}))
        assert (got.headers["x-recorder-match"], got.headers["x-recorder-differs"]) == ("path", ".m")
        report = replay.report()
    await kind.close(client)
    assert [(each["kind"], each["fields"]) for each in report["divergences"]] == [("changed", [{"field": ".m", "seen": "ho"}])]
    assert [each["fields"][0]["field"] for each in report["variations"]] == [".trace.n"]


@pytest.mark.anyio
async def test_a_fallback_is_asked_for_what_nothing_answers_and_recorded_where_it_records(kind: Kind, tmp_path: Path) -> None:
    url, again = made(tmp_path, (asking(0, "POST", "/v1/a", b"{}"), json_response(b'"recorded"'))), sqlite(tmp_path / "again.db")
    with Upstream(lambda wire, asked: wire.whole(b'"live"')) as upstream:
        fallback = recorder.RecordingTransport(db=again)
        async with replaying(kind, db=url, fallback=fallback) as client:
            assert (await finished(client.post(f"{upstream.origin}/v1/a", json={}))).json() == "recorded"
            assert upstream.connections == 0
            assert (await finished(client.post(f"{upstream.origin}/v1/new", json={}))).json() == "live"
    log = Recorded(again)
    assert [stream.path for stream in log.streams()] == ["/v1/new"]
    assert log.body(log.ended("/v1/new")[0].stream_id) == b'"live"'
    log.engine.dispose()
