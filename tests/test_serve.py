"""`recorder serve`, as its clients see it: real sockets to the real command, and the recorded chunks on the wire."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.replay.server import LINGER_SECONDS
from recorder.sse import Frame
from tests import writing
from tests.commands import Background, answer, output, recorder, sqlite
from tests.downstream import Answer, Downstream, asked
from tests.exchanges import JSON, MS, SECOND, SSE, asking, json_response, record, response
from tests.upstream import PATIENCE
from tests.writing import stream_id

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
MINUTE = 60 * SECOND
EVENT = b"event: a\ndata: 1\n\n"
EARLY = 0.001
"""Seconds that a chunk may come before it is due: timers count in milliseconds."""


class Serve(Background):
    """`recorder serve` on a free port, ready to be asked. base: what clients' base URLs end in."""

    def __init__(self, *args: str, db: str | Path, preexec: Callable[[], None] | None = None) -> None:
        super().__init__("serve", "--port", "0", *args, db=db, preexec=preexec)
        self.port = 0
        self.base = ""

    def __enter__(self) -> Serve:
        try:
            found = self.wait_for(r"serving .* at http://[^:]*:(\d+)([^ ;]*);")
            self.port, self.base = int(found[1]), found[2]
        except BaseException:
            self.kill()
            raise
        return self

    def ask(self, method: str, target: str, body: bytes = b"", *headers: tuple[str, str]) -> tuple[Answer, list[bytes]]:
        """A request on a connection of its own: its answer, ended, and the pieces of its body."""
        return asked(self.port, method, target, body, headers)

    def given(self, method: str, target: str, body: bytes = b"", *headers: tuple[str, str]) -> tuple[str | None, str | None]:
        """(stream, rung) of the answer to a request on a connection of its own."""
        found, _ = self.ask(method, target, body, *headers)
        return found.header("x-recorder-stream"), found.header("x-recorder-match")


def made(file: Path, *exchanges: tuple[Any, list[Frame]]) -> Path:
    """A database with these exchanges."""
    engine = database.connect(sqlite(file))
    record(engine, exchanges)
    engine.dispose()
    return file


CHUNKS = [
    (100 * MS, b"event: a\ndata: 0\n\nevent: a\ndata: 1\n\n"),
    (220 * MS, b"even"),
    (340 * MS, b"t: a\ndata: t"),
    (460 * MS, b"wo\n\n: kept\n\nid: 7\r\n"),
    (580 * MS, b"data: [DONE]\n\n"),
]
PIECES = [piece for _, piece in CHUNKS]
DUE_MS = [100, 220, 340, 460, 580]
LARGE = [bytes([number % 251]) * MEGABYTE for number in range(20)]
STATUSES = (400, 401, 404, 408, 409, 429, 500, 503, 529)

EXCHANGES: dict[str, tuple[str, list[Frame]]] = {
    "/v1/paced": ("POST", response(CHUNKS, headers=[SSE, ("x-request-id", "req_1")], head_us=50 * MS, end_us=880 * MS)),
    "/v1/json": ("GET", json_response(b'{"id": "run_1",\n "n": 1}', 200, ("openai-processing-ms", "12"))),
    "/v1/json-in-chunks": ("GET", response([(1, b'{"a":'), (2, b"1}")], headers=[JSON])),
    "/v1/lines": ("GET", response([(1, b'{"a":1}\n{"b"'), (2, b":2}\n")], headers=[("content-type", "application/x-ndjson")])),
    "/v1/bytes": ("GET", response([(1, bytes(range(256)))], headers=[("content-type", "audio/mpeg"), ("content-length", "256")])),
    "/v1/gone": ("DELETE", response(status=204, headers=[("x-request-id", "req_2")])),
    "/v1/head": ("HEAD", response(headers=[JSON, ("content-length", "23")])),
    "/v1/gunzipped": (
        "GET",
        response([(1, EVENT)], headers=[SSE, ("content-encoding", "gzip"), ("content-length", "9")], decoded="gzip"),
    ),
    "/v1/zstd": (
        "GET",
        response([(1, b"\x28\xb5\x2f\xfd")], headers=[SSE, ("content-encoding", "zstd"), ("content-length", "4")]),
    ),
    **{
        f"/v1/error/{status}": (
            "POST",
            json_response(b'{"error":{"code":"c%d"}}' % status, status, ("retry-after", "3"), ("x-should-retry", "true")),
        )
        for status in STATUSES
    },
    "/v1/cut": ("POST", response([(1, EVENT), (2, b"event: a\nda")], closed="cut", end_us=300 * MS)),
    "/v1/cut-json": ("POST", response([(1, b'{"a')], headers=[JSON, ("content-length", "90")], closed="cut")),
    "/v1/cut-head": ("POST", response(closed="cut")),
    "/v1/died": ("POST", response([(1, EVENT)], closed=None)),
    "/v1/unanswered": ("POST", response(status=None, closed="no_response", end_us=200 * MS, detail="ServerDisconnectedError")),
    "/v1/left": ("POST", response([(1, EVENT)], closed="client_closed", end_us=200 * MS)),
    "/v1/left-when-done": ("POST", response([(1, b"data: [DONE]\n\n")], closed="client_closed", end_us=2)),
    "/v1/minute": ("POST", response([(1, EVENT), (MINUTE, EVENT)])),
    "/v1/large": (
        "GET",
        response([(number, piece) for number, piece in enumerate(LARGE, 1)], headers=[("content-type", "audio/pcm")]),
    ),
    "/v1/large-whole": (
        "GET",
        response(list(enumerate(LARGE, 1)), headers=[("content-type", "audio/pcm"), ("content-length", str(20 * MEGABYTE))]),
    ),
}
"""{path: (method, the frames of its response)}; each is asked without a body."""

IDS = {path: stream_id(number) for number, path in enumerate(EXCHANGES)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exchanges = [(asking(number, method, path), frames) for number, (path, (method, frames)) in enumerate(EXCHANGES.items())]
    return made(tmp_path_factory.mktemp("serve") / "log.db", *exchanges)


@pytest.fixture(scope="module")
def paced(file: Path) -> Iterator[Serve]:
    """At the original pace."""
    with Serve(db=file) as server:
        yield server
        assert not [line for line in server.said if "Traceback" in line or "ERROR" in line], server.said


@pytest.fixture(scope="module")
def instant(file: Path) -> Iterator[Serve]:
    with Serve("--instant", db=file) as server:
        yield server
        assert server.stop() == 0
        assert not [line for line in server.said if "Traceback" in line or "ERROR" in line], server.said


# What is given


def test_the_recorded_chunks_come_one_by_one_when_they_are_due(paced: Serve) -> None:
    found, pieces = paced.ask("POST", "/v1/paced")
    assert pieces == PIECES
    assert found.complete
    assert found.head_came >= 0.05 - EARLY
    assert all(at >= due / 1000 - EARLY for at, due in zip(found.times, DUE_MS, strict=True)), found.times
    assert found.ended >= 0.88 - EARLY, "the end came 300 ms after the last chunk"


def test_a_chunk_does_not_wait_for_the_next(paced: Serve) -> None:
    with Downstream(paced.port) as client:
        assert next(client.ask("POST", "/v1/minute").each()) == EVENT, "the next is a minute away"


def test_the_head_is_the_recorded_one(paced: Serve) -> None:
    found, _ = paced.ask("POST", "/v1/paced")
    assert found.status == 200
    own = [("x-recorder-stream", IDS["/v1/paced"]), ("x-recorder-match", "exact"), ("transfer-encoding", "chunked")]
    assert found.headers == [SSE, ("x-request-id", "req_1"), *own]


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        ("/v1/paced", PIECES),
        ("/v1/json-in-chunks", [b'{"a":', b"1}"]),
        ("/v1/lines", [b'{"a":1}\n{"b"', b":2}\n"]),
        ("/v1/gunzipped", [EVENT]),
        ("/v1/left-when-done", [b"data: [DONE]\n\n"]),
    ],
)
def test_at_once_the_chunks_are_the_same(instant: Serve, path: str, pieces: list[bytes]) -> None:
    found, received = instant.ask(EXCHANGES[path][0], path)
    assert received == pieces
    assert found.complete
    assert found.header("content-encoding") is None
    assert found.header("content-length") is None


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/json", b'{"id": "run_1",\n "n": 1}'), ("/v1/bytes", bytes(range(256))), ("/v1/zstd", b"\x28\xb5\x2f\xfd")],
)
def test_a_body_with_a_length_has_it_again(instant: Serve, path: str, body: bytes) -> None:
    found, received = instant.ask("GET", path)
    assert b"".join(received) == body
    assert found.complete
    assert found.header("transfer-encoding") is None
    recorded = json.loads(EXCHANGES[path][1][0].data)["headers"]
    assert [list(pair) for pair in found.headers if not pair[0].startswith("x-recorder")] == recorded


@pytest.mark.parametrize(("path", "status"), [("/v1/gone", 204), ("/v1/head", 200)])
def test_an_answer_without_a_body(instant: Serve, path: str, status: int) -> None:
    with Downstream(instant.port) as client:
        found = client.ask(EXCHANGES[path][0], path)
        assert (found.status, found.pieces()) == (status, [])
        assert found.header("content-length") == ("23" if path == "/v1/head" else None)
        assert client.ask("GET", "/v1/json").body() == b'{"id": "run_1",\n "n": 1}', "the connection goes on"


@pytest.mark.parametrize("status", STATUSES)
def test_an_error_is_the_same_error_with_its_body_and_when_to_ask_again(instant: Serve, status: int) -> None:
    found, received = instant.ask("POST", f"/v1/error/{status}")
    assert (found.status, b"".join(received)) == (status, b'{"error":{"code":"c%d"}}' % status)
    assert (found.header("retry-after"), found.header("x-should-retry")) == ("3", "true")
    assert found.complete


@pytest.mark.parametrize("path", ["/v1/large", "/v1/large-whole"])
def test_a_large_body_is_intact(instant: Serve, path: str) -> None:
    found, received = instant.ask("GET", path)
    assert found.complete
    assert b"".join(received) == b"".join(LARGE)
    if path == "/v1/large":
        assert received == LARGE, "in its chunks of 1 MiB"


# How it ends


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        ("/v1/cut", [EVENT, b"event: a\nda"]),
        ("/v1/cut-json", [b'{"a']),
        ("/v1/cut-head", []),
        ("/v1/died", [EVENT]),
        ("/v1/left", [EVENT]),
    ],
)
def test_a_connection_that_broke_breaks_at_the_same_byte(instant: Serve, path: str, pieces: list[bytes]) -> None:
    """Without the last chunk, or before the whole length: no client takes it for the end."""
    found, received = instant.ask("POST", path)
    assert found.status == 200
    assert received == pieces
    assert found.complete is False


def test_a_connection_breaks_when_it_did(paced: Serve) -> None:
    found, received = paced.ask("POST", "/v1/cut")
    assert received == [EVENT, b"event: a\nda"]
    assert found.complete is False
    assert found.ended >= 0.3 - EARLY


def test_a_request_that_got_no_response_gets_none(paced: Serve) -> None:
    with Downstream(paced.port) as client:
        client.send("POST", "/v1/unanswered")
        assert client.closed()


def test_a_client_of_the_standard_library_takes_each_break_for_one(instant: Serve) -> None:
    def asking_for(path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", instant.port, timeout=PATIENCE)
        try:
            connection.request("POST", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    for path in ("/v1/cut", "/v1/cut-json", "/v1/cut-head", "/v1/died"):
        with pytest.raises(http.client.IncompleteRead):
            asking_for(path)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        asking_for("/v1/unanswered")


def test_where_the_recorded_client_left_this_one_may_leave_first(paced: Serve) -> None:
    """It is held open past that time; a client that does not leave then sees it break."""
    found, received = paced.ask("POST", "/v1/left")
    assert received == [EVENT]
    assert found.complete is False
    assert found.ended >= 0.2 + LINGER_SECONDS - EARLY


# Which recording answers


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("session") / "log.db", *session_of("nightly"))


CREATE, SUBMIT = b'{"assistant_id":"asst_1","n":[1,2]}', b'{"tool_outputs":[{"tool_call_id":"c","output":"x"}]}'
SESSION: list[tuple[str, str, bytes]] = [
    ("POST", "/v1/threads/t/runs", CREATE),
    ("GET", "/v1/threads/t/runs/r", b""),
    ("GET", "/v1/threads/t/runs/r", b""),
    ("POST", "/v1/threads/t/runs/r/submit", SUBMIT),
    ("GET", "/v1/threads/t/runs/r", b""),
    ("GET", "/v1/threads/t/messages?limit=2&order=asc", b""),
]


def session_of(label: str, first: int = 0) -> list[tuple[Any, list[Frame]]]:
    return [
        (asking(first + number, method, target, body, label=label), json_response(b'{"answer":%d}' % number))
        for number, (method, target, body) in enumerate(SESSION)
    ]


def whole(client: Downstream, name: str | None = None) -> list[int]:
    """What a client meets that goes through the session on one connection: the numbers of the answers."""
    headers = [("X-Recorder-Client", name)] if name else []
    return [json.loads(client.ask(*each, headers).body())["answer"] for each in SESSION]


IN_ORDER = list(range(len(SESSION)))


def test_how_it_was_found_is_said(session: Path) -> None:
    with Serve("--instant", db=session) as server:
        assert server.given("POST", "/v1/threads/t/runs", b'{ "n": [1, 2], "assistant_id": "asst_1" }') == (stream_id(0), "exact")
        assert server.given("GET", "/v1/threads/t/messages?order=asc&limit=2") == (stream_id(5), "exact")
        assert server.given("GET", "/v1/threads/%74/messages?limit=3") == (stream_id(5), "path")
        assert server.given("POST", "/v1/threads/t/runs/r/submit", b"else") == (stream_id(3), "path")
        assert server.given("POST", "/v1/threads/u/runs", CREATE) == (None, None)


def test_what_nothing_answers_gets_a_404_in_the_shape_of_the_api(session: Path) -> None:
    with Serve("--instant", "--strict", db=session) as server:
        found, received = server.ask("POST", "/v1/threads/t/runs", CREATE.replace(b"2", b"3"))
        assert found.status == 404
        assert found.header("content-type") == "application/json"
        error = json.loads(b"".join(received))["error"]
        assert {key: error[key] for key in ("type", "param", "code")} == {
            "type": "invalid_request_error",
            "param": None,
            "code": "recording_not_found",
        }
        nearest = f"the nearest is POST /v1/threads/t/runs of stream {stream_id(0)}, which differs: .n[1] is 3, recorded was 2"
        assert error["message"] == f"recorder: no recording answers POST /v1/threads/t/runs; {nearest}"
        _, received = server.ask("POST", "/v1/thread/t/runs", CREATE)
        assert "the nearest is POST /v1/threads/t/runs of" in json.loads(b"".join(received))["error"]["message"]
        assert server.given("POST", "/v1/threads/t/runs", CREATE) == (stream_id(0), "exact")
        assert server.stop() == 0
        assert server.said[-1] == "1 request answered, 2 matched nothing"


def test_a_program_that_is_run_again_meets_the_same_session_again(session: Path) -> None:
    with Serve("--instant", db=session) as server:
        for _ in range(3):
            with Downstream(server.port) as client:
                assert whole(client) == IN_ORDER
        with Downstream(server.port) as client:
            assert [whole(client) for _ in range(3)] == [IN_ORDER] * 3, "on one connection, too"


@pytest.mark.parametrize("keeping", [False, True], ids=["closed", "kept"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_over_a_connection_for_each_request_goes_on_where_it_left_off(
    tmp_path: Path, chunked: bool, keeping: bool
) -> None:
    """However soon it comes again, and whether or not it closes those that it is done with: at the last byte it is idle."""
    exchanges = session_of("nightly")
    if chunked:
        exchanges = [(stream, response([(1, b'{"answer":%d}' % n)], headers=[JSON])) for n, (stream, _) in enumerate(exchanges)]
    with Serve("--instant", db=made(tmp_path / "log.db", *exchanges)) as server:
        for _ in range(20):
            met = []
            with contextlib.ExitStack() as kept:
                for each in SESSION:
                    client = kept.enter_context(Downstream(server.port))
                    met.append(json.loads(client.ask(*each).body())["answer"])
                    if not keeping:
                        client.leave()
            assert met == IN_ORDER


def test_a_client_that_breaks_off_at_done_goes_on_over_another_connection(tmp_path: Path) -> None:
    """As SDKs do; the recorded stream ended only later. The same request again is the next one of the session."""
    done = response([(1, EVENT), (2, b"data: [DONE]\n\n")], end_us=MINUTE)
    exchanges = [(asking(number, "POST", "/v1/a", b"{}", label="s"), done) for number in range(3)]
    with Serve(db=made(tmp_path / "log.db", *exchanges)) as server:
        given = []
        for _ in range(30):
            with Downstream(server.port) as client:
                found = client.ask("POST", "/v1/a", b"{}")
                assert b"data: [DONE]\n\n" in found.each()
                given.append(found.header("x-recorder-stream"))
    assert given == [stream_id(number) for number in range(3)] * 10


def test_a_poll_beyond_the_last_gets_the_last_again(session: Path) -> None:
    with Serve("--instant", db=session) as server, Downstream(server.port) as client:
        polled = [json.loads(client.ask("GET", "/v1/threads/t/runs/r").body())["answer"] for _ in range(6)]
        assert polled == [1, 2, 4, 4, 4, 4]


def test_fifty_clients_at_once_each_with_its_place(session: Path) -> None:
    with Serve("--instant", db=session) as server, ThreadPoolExecutor(50) as pool:

        def client(number: int) -> list[list[int]]:
            with Downstream(server.port) as connection:
                return [whole(connection) for _ in range(3)]

        assert list(pool.map(client, range(50))) == [[IN_ORDER] * 3] * 50


def test_fifty_clients_with_names_over_connections_that_they_share_with_nobody_for_long(session: Path) -> None:
    """All that tells them apart is their names: every request comes on a new connection."""
    with Serve("--instant", db=session) as server, ThreadPoolExecutor(50) as pool:

        def client(number: int) -> list[int]:
            name = ("X-Recorder-Client", f"worker-{number}")
            return [json.loads(b"".join(server.ask(*each, name)[1]))["answer"] for each in SESSION]

        assert list(pool.map(client, range(50))) == [IN_ORDER] * 50


def test_fifty_streams_at_once_at_their_pace(paced: Serve) -> None:
    with ThreadPoolExecutor(50) as pool:
        for found, pieces in pool.map(lambda _: paced.ask("POST", "/v1/paced"), range(50)):
            assert pieces == PIECES
            assert found.complete
            assert all(at >= due / 1000 - EARLY for at, due in zip(found.times, DUE_MS, strict=True)), found.times


def test_requests_follow_each_other_on_one_connection(instant: Serve) -> None:
    """Streams, bodies with a length, errors, answers of recorder's own."""
    with Downstream(instant.port) as client:
        for _ in range(3):
            assert client.ask("POST", "/v1/paced").pieces() == PIECES
            assert client.ask("POST", "/v1/error/500").body() == b'{"error":{"code":"c500"}}'
            assert b"recording_not_found" in client.ask("POST", "/v1/nothing", b"{}").body()
            assert client.ask("GET", "/v1/json").body() == b'{"id": "run_1",\n "n": 1}'


def test_only_what_is_named_is_served(session: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(session, tmp_path / "log.db"))
    made(copied, (asking(20, "POST", "/v1/other", b"{}"), json_response(b"[]")))
    with Serve("--instant", "nightly", db=copied) as server:
        assert server.given("POST", "/v1/other", b"{}") == (None, None)
        assert server.given("POST", "/v1/threads/t/runs", CREATE) == (stream_id(0), "exact")
    with Serve("--instant", stream_id(20), stream_id(3), db=copied) as server:
        assert server.given("POST", "/v1/other", b"{}") == (stream_id(20), "exact")
        assert server.given("POST", "/v1/threads/t/runs", CREATE) == (None, None)
        assert "serving 2 recorded exchanges of 2 sessions" in server.said[0]


# Pace


@pytest.mark.parametrize(
    ("options", "due_ms", "end_ms"),
    [
        (["--speed", "2"], [50, 110, 170, 230, 290], 440),
        (["--speed", "0.5"], [200, 440, 680, 920, 1160], 1760),
        (["--max-gap", "0.1"], [100, 200, 300, 400, 500], 600),
        (["--max-gap", "0.1", "--speed", "0.5"], [200, 400, 600, 800, 1000], 1200),
    ],
)
def test_no_chunk_comes_before_its_time(file: Path, options: list[str], due_ms: list[float], end_ms: float) -> None:
    """The head was 50 ms before the first chunk; --max-gap is of the recording's time."""
    with Serve(*options, db=file) as server:
        found, pieces = server.ask("POST", "/v1/paced")
    assert pieces == PIECES
    assert all(at >= due / 1000 - EARLY for at, due in zip(found.times, due_ms, strict=True)), found.times
    assert found.ended >= end_ms / 1000 - EARLY


@pytest.mark.parametrize("options", [["--instant"], ["--max-gap", "0"], ["--speed", "100000"]])
def test_a_pause_of_a_minute_is_left_out(file: Path, options: list[str]) -> None:
    with Serve(*options, db=file) as server:
        assert server.ask("POST", "/v1/minute")[1] == [EVENT, EVENT]


# The process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(file: Path, number: signal.Signals) -> None:
    with Serve("--instant", db=file) as server, Downstream(server.port) as idle:
        assert idle.ask("GET", "/v1/json").status == 200
        server.process.send_signal(number)
        assert server.wait() == 0
        assert server.said[-1] == "1 request answered"
        assert not [line for line in server.said if "Traceback" in line]


def test_a_signal_ends_it_well_while_a_stream_is_under_way(file: Path) -> None:
    with Serve(db=file) as server, Downstream(server.port) as client:
        found = client.ask("POST", "/v1/minute")
        pieces = found.each()
        assert next(pieces) == EVENT
        assert server.stop() == 0
        assert list(pieces) == []
        assert found.complete is False
        assert not [line for line in server.said if "Traceback" in line]


@pytest.mark.parametrize(
    ("paths", "base"),
    [
        (["/v1/a", "/v1/threads/t"], "/v1"),
        (["/openai/v1/a", "/openai/v1/b"], "/openai/v1"),
        (["/v1/a", "/openai/v1/b"], ""),
        (["/api/projects/p/threads"], ""),
    ],
)
def test_it_says_where_to_point_a_client(tmp_path: Path, paths: Sequence[str], base: str) -> None:
    exchanges = [(asking(number, "POST", path), json_response(b"[]")) for number, path in enumerate(paths)]
    with Serve("--instant", db=made(tmp_path / "log.db", *exchanges)) as server:
        assert server.base == base
        assert server.given("POST", paths[0]) == (stream_id(0), "exact")


def test_it_serves_from_either_database(engine: sa.Engine, url: str) -> None:
    record(engine, [(asking(0, "POST", "/v1/paced", b"{}", label="s"), response(CHUNKS))])
    engine.dispose()
    with Serve("--instant", "s", db=url) as server:
        assert server.ask("POST", "/v1/paced", b"{}")[1] == PIECES


def test_it_serves_a_session_that_is_not_projected_yet(tmp_path: Path) -> None:
    """As after a recorder that was killed: which streams make a session is found out first."""
    file = tmp_path / "log.db"
    engine = database.connect(sqlite(file))
    for stream, frames in session_of("nightly"):
        writing.write(engine, stream, frames)
    engine.dispose()
    with Serve("--instant", "nightly", db=file) as server, Downstream(server.port) as client:
        assert whole(client) == IN_ORDER


def error(*args: str, db: str | Path, status: int) -> str:
    """The one line that `serve` says when it cannot."""
    done = recorder("serve", "--port", "0", *args, db=db)
    assert (done.returncode, done.stdout) == (status, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line


def test_an_empty_database(tmp_path: Path) -> None:
    assert "holds nothing to replay" in error(db=made(tmp_path / "log.db"), status=1)


def test_a_missing_database_is_not_made(tmp_path: Path) -> None:
    assert "log.db" in error(db=tmp_path / "log.db", status=1)
    assert not (tmp_path / "log.db").exists()


def test_an_unknown_id(session: Path) -> None:
    assert "'thread_9'" in error("thread_9", db=session, status=1)


def test_nothing_with_a_request(tmp_path: Path) -> None:
    body = tmp_path / "a.sse"
    body.write_bytes(EVENT)
    output("import", str(body), db=tmp_path / "log.db")
    assert "NAME.request.json" in error(db=tmp_path / "log.db", status=1)


def test_two_sessions_that_answer_the_same_request(tmp_path: Path) -> None:
    file = made(tmp_path / "log.db", *session_of("monday"), *session_of("tuesday", 10))
    line = error(db=file, status=2)
    assert "two sessions, monday and tuesday, answer the same POST /v1/threads/t/runs: name the one to replay" in line
    with Serve("--instant", "tuesday", db=file) as server:
        assert server.given("POST", "/v1/threads/t/runs", CREATE) == (stream_id(10), "exact")
    with Serve("--instant", "monday", "tuesday", db=file) as server, Downstream(server.port) as client:
        for number in (0, 10, 0):
            found = client.ask("POST", "/v1/threads/t/runs", CREATE)
            assert found.body()
            assert found.header("x-recorder-stream") == stream_id(number)


def test_streams_of_no_session_that_answer_the_same_request(tmp_path: Path) -> None:
    exchanges = [(asking(number, "POST", "/v1/chat/completions", b"{}"), json_response(b"%d" % number)) for number in range(3)]
    with Serve("--instant", db=made(tmp_path / "log.db", *exchanges)) as server, Downstream(server.port) as client:
        assert [client.ask("POST", "/v1/chat/completions", b"{}").body() for _ in range(4)] == [b"0", b"1", b"2", b"0"]


def test_a_port_that_is_taken(session: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in error("--port", port, db=session, status=1)


@pytest.mark.parametrize(
    "options",
    [
        ["--host", "0.0.0.0"],
        ["--host", "192.0.2.1"],
        ["--speed", "0"],
        ["--speed", "-1"],
        ["--speed", "nan"],
        ["--max-gap", "-1"],
        ["--max-gap", "inf"],
        ["--port", "70000"],
    ],
)
def test_options_that_make_no_sense(session: Path, options: list[str]) -> None:
    line = error(*options, db=session, status=2)
    assert options[0] in line


# Recordings of real services


class File:
    """A recorded stream and the request that it answered; where that is not known, one of its own."""

    def __init__(self, sse: Path, request: Path, folder: Path) -> None:
        self.bytes = sse.read_bytes()
        asked = json.loads(request.read_text()) if request.exists() else {}
        self.method = asked.get("method", "POST")
        path = asked.get("path", "")
        self.target = path if path.startswith("/") else f"/v1/{sse.stem}"  # one has a placeholder there
        self.body = json.dumps(asked["body"], indent=1).encode() if asked.get("body") is not None else b""
        (folder / sse.name).write_bytes(self.bytes)
        own = {"method": self.method, "path": self.target, "body": asked.get("body")}
        (folder / f"{sse.stem}.request.json").write_text(json.dumps(own))


def test_every_shared_stream_comes_back_for_its_request_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "streams"
    folder.mkdir()
    found = sorted((shared / "streams").glob("*.sse"))
    files = [File(sse, sse.with_name(f"{sse.stem}.request.json"), folder) for sse in found]
    assert len(files) > 40
    db = tmp_path / "log.db"
    rows = {Path(row["path"]).name: row["stream_id"] for row in answer("import", str(folder), db=db)}
    expected = {rows[sse.name]: file for sse, file in zip(found, files, strict=True)}
    came: set[str] = set()
    with Serve("--instant", "--strict", *expected, db=db) as server, Downstream(server.port) as client:
        for file in files:
            reply = client.ask(file.method, file.target, file.body, [("Content-Type", "application/json")])
            body = reply.body()
            assert reply.status == 200, body
            assert reply.complete
            given = reply.header("x-recorder-stream") or ""
            one = expected[given]
            assert body == one.bytes
            assert (one.method, one.target, one.body) == (file.method, file.target, file.body)
            came.add(given)
    assert came == set(expected), "each once"
