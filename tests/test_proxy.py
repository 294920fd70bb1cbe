"""The proxy, as its clients and its upstream see it: real sockets on both sides of a real `recorder proxy`."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import random
import resource
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.collect.proxy import Proxy
from recorder.collect.writer import Writer
from recorder.errors import UsageError
from tests.commands import ProxyProcess, output, recorder, until
from tests.recorded import Recorded
from tests.upstream import PATIENCE, SSE, Asked, Headers, Upstream, Wire

pytestmark = pytest.mark.slow

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MEGABYTE = 1024 * 1024
JSON = ("Content-Type", "application/json")


class Setting:
    """An upstream, a proxy before it, and the log that the proxy writes."""

    def __init__(self, upstream: Upstream, proxy: ProxyProcess, folder: Path) -> None:
        self.upstream, self.proxy, self.folder = upstream, proxy, folder
        self.file = folder / "log.db"
        self.recorded = Recorded(self.file)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.proxy.host, self.proxy.port, timeout=PATIENCE)

    def ask(
        self, target: str, method: str = "POST", body: bytes = b"", headers: Headers = ()
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """A request on a connection of its own; the response and its whole body."""
        connection = self.connect()
        try:
            response = begin(connection, target, method, body, headers)
            return response, response.read()
        finally:
            connection.close()


def begin(
    connection: http.client.HTTPConnection, target: str, method: str = "POST", body: bytes = b"", headers: Headers = ()
) -> http.client.HTTPResponse:
    """Send a request with these headers and no others but Host and Content-Length; the response, its body unread."""
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    if body or method in ("POST", "PUT", "PATCH"):
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body or None)
    return connection.getresponse()


def leave(connection: http.client.HTTPConnection) -> None:
    """Close a connection in the midst of its response, for good."""
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def event(number: int) -> bytes:
    return b'event: thread.message.delta\ndata: {"n":%d}\n\n' % number


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("proxy")
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=folder / "log.db") as proxy:
        here = Setting(upstream, proxy, folder)
        yield here
        here.recorded.engine.dispose()
        assert proxy.stop() == 0
        assert upstream.errors == []
        assert not [line for line in proxy.said if "Traceback" in line or "ERROR" in line], proxy.said


# What passes through


def test_a_stream_is_the_same_at_the_client_and_in_the_log(setting: Setting) -> None:
    body = b"".join(event(number) for number in range(500)) + b": still here\n\nid: 7\nretry: 10\ndata: x\r\n\r\ndata: [DONE]\n\n"
    setting.upstream.on("/same", lambda wire, asked: wire.stream([body[at : at + 77] for at in range(0, len(body), 77)]))
    response, received = setting.ask("/same", body=b'{"stream":true}')
    assert (response.status, received) == (200, body)
    (stream,) = setting.recorded.ended("/same")
    assert output("export", stream.stream_id, "--format", "sse", db=setting.file) == body
    assert setting.recorded.outcome(stream.stream_id) == "done"
    assert bytes(stream.request_body or b"") == b'{"stream":true}'


def test_events_pass_unbuffered_and_their_chunks_are_kept(setting: Setting) -> None:
    """The upstream sends each piece only when the client has the one before, also in the middle of an event."""
    pieces = [event(0), event(1) + event(2), b"event: thread.mess", b'age.delta\ndata: {"n', b'":3}\n', b"\n", event(4) * 10]
    has = threading.Semaphore(0)

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for piece in pieces:
            wire.chunk(piece)
            assert has.acquire(timeout=PATIENCE), f"the client never got {piece!r}"
        wire.end()

    setting.upstream.on("/unbuffered", answer)
    connection = setting.connect()
    response = begin(connection, "/unbuffered")
    received = []
    for piece in pieces:
        got = b""
        while len(got) < len(piece):
            got += response.read1(65536)
        received.append(got)
        has.release()
    assert response.read() == b""
    connection.close()
    assert received == pieces
    (stream,) = setting.recorded.ended("/unbuffered")
    assert setting.recorded.chunks(stream.stream_id) == pieces
    offsets = [entry.offset_us for entry in setting.recorded.events(stream.stream_id)]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes(setting: Setting, method: str) -> None:
    path, sent = f"/method/{method}", b'{"a":1}' if method in ("POST", "PUT", "PATCH", "DELETE") else b""
    said = b"" if method == "HEAD" else b'{"ok":true}'
    setting.upstream.on(path, lambda wire, asked: wire.whole(said) if said else wire.head(200, [JSON, ("Content-Length", "11")]))
    response, received = setting.ask(path, method, sent)
    asked = setting.upstream.asked(path)
    assert (asked.method, asked.body) == (method, sent)
    assert (response.status, received) == (200, said)
    assert response.getheader("content-length") == "11"
    (stream,) = setting.recorded.ended(path)
    assert stream.method == method


@pytest.mark.parametrize(
    "target",
    [
        "/v1/threads/a%2Fb%20c/runs",
        "//double//slashes//",
        "/dots/../and/./more",
        "/lower%2fcase%e2%82%ac/;params=1,2",
        "/query?b=2&a=1&a=&c&%5B%5D=%20+x&u=http://h/p?q",
        "/include?include[]=step_details.tool_calls%5B%2A%5D",
        "/unicode-escaped/%F0%9F%8D%90",
    ],
)
def test_path_and_query_are_forwarded_exactly(setting: Setting, target: str) -> None:
    path = target.partition("?")[0]
    setting.upstream.on(path, lambda wire, asked: wire.whole(b"{}"))
    response, _ = setting.ask(target, "GET")
    assert response.status == 200
    assert setting.upstream.asked(path).target == target
    (stream,) = setting.recorded.ended(path)
    assert (stream.path, stream.query) == (path, target.partition("?")[2])


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_large_request_body_arrives_whole(setting: Setting, chunked: bool) -> None:
    """20 MB: more than is recorded of a request, so it is streamed on."""
    path, body = f"/large/{chunked}", random.Random(1).randbytes(20 * MEGABYTE)
    setting.upstream.on(path, lambda wire, asked: wire.whole(hashlib.sha256(asked.body).hexdigest().encode()))
    connection = setting.connect()
    if chunked:
        parts = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
        connection.request("POST", path, body=parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    else:
        connection.request("POST", path, body=body)
    assert connection.getresponse().read() == hashlib.sha256(body).hexdigest().encode()
    connection.close()
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.outcome(stream.stream_id) == "done"


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_large_binary_response_arrives_and_is_recorded_whole(setting: Setting, chunked: bool) -> None:
    path, body, kind = f"/binary/{chunked}", random.Random(2).randbytes(20 * MEGABYTE), ("Content-Type", "application/x-binary")
    setting.upstream.on(path, lambda wire, asked: wire.stream([body], [kind]) if chunked else wire.whole(body, [kind]))
    response, received = setting.ask(path, "GET")
    assert received == body
    assert response.getheader("content-length") == (None if chunked else str(len(body)))
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.body(stream.stream_id) == body


def test_a_small_chunked_request_arrives_whole(setting: Setting) -> None:
    setting.upstream.on("/chunked-request", lambda wire, asked: wire.whole(b"{}"))
    connection = setting.connect()
    connection.request("POST", "/chunked-request", body=iter([b'{"a":', b"1}"]), encode_chunked=True)
    assert connection.getresponse().read() == b"{}"
    connection.close()
    assert setting.upstream.asked("/chunked-request").body == b'{"a":1}'
    (stream,) = setting.recorded.ended("/chunked-request")
    assert bytes(stream.request_body or b"") == b'{"a":1}'


def test_a_body_that_ends_with_its_connection_is_complete(setting: Setting) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.head(200, [SSE, ("Connection", "close")])
        wire.send(event(0) + event(1))
        wire.cut()

    setting.upstream.on("/until-close", answer)
    response, received = setting.ask("/until-close")
    assert (response.status, received) == (200, event(0) + event(1))
    (stream,) = setting.recorded.ended("/until-close")
    assert setting.recorded.outcome(stream.stream_id) == "eof"


def test_an_encoded_body_passes_untouched(setting: Setting) -> None:
    """The upstream is asked not to, but what one compresses all the same reaches the client as it is. The log can be read."""
    body = gzip.compress(event(0) * 100)
    headers = [SSE, ("Content-Encoding", "gzip")]
    setting.upstream.on("/gzip", lambda wire, asked: wire.stream([body[:20], body[20:]], headers))
    response, received = setting.ask("/gzip", headers=[("Accept-Encoding", "gzip, br")])
    assert (response.getheader("content-encoding"), received) == ("gzip", body)
    assert setting.upstream.asked("/gzip").header("accept-encoding") == ["identity"]
    (stream,) = setting.recorded.ended("/gzip")
    assert setting.recorded.body(stream.stream_id) == event(0) * 100


@pytest.mark.parametrize(
    ("status", "headers"), [(204, []), (304, []), (304, [("ETag", '"x"')]), (304, [("ETag", '"x"'), ("Content-Length", "10")])]
)
def test_answers_without_a_body_pass(setting: Setting, status: int, headers: list[tuple[str, str]]) -> None:
    """A 304 may say how long the body would have been (RFC 9110, 8.6)."""
    path = f"/bodyless/{status}/{len(headers)}"
    setting.upstream.on(path, lambda wire, asked: wire.head(status, headers))
    connection = setting.connect()
    response = begin(connection, path, "GET")
    assert (response.status, response.read()) == (status, b"")
    setting.upstream.on(path + "/next", lambda wire, asked: wire.whole(b"{}"))
    assert begin(connection, path + "/next", "GET").read() == b"{}", "the connection goes on"
    connection.close()
    setting.recorded.ended(path)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_errors_of_the_upstream_pass_with_their_bodies(setting: Setting, status: int) -> None:
    path, body = f"/error/{status}", b'{"error": {"message": "no", "code": "code_%d"}}' % status
    setting.upstream.on(path, lambda wire, asked: wire.whole(body, [JSON, ("Retry-After", "3")], status))
    response, received = setting.ask(path)
    assert (response.status, received, response.getheader("retry-after")) == (status, body, "3")
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.outcome(stream.stream_id) == "http_error"
    assert setting.recorded.body(stream.stream_id) == body


PROBES = (
    # method, target, content type and body of the answer
    ("HEAD", "/", "text/html", b""),
    ("GET", "/v1/models", "application/json", b'{"object":"list","data":[{"id":"m","object":"model"}]}'),
    ("POST", "/v1/messages/count_tokens", "application/json", b'{"input_tokens":12}'),
    ("POST", "/v1/responses/input_tokens", "application/json", b'{"object":"response.input_tokens","input_tokens":11}'),
    ("POST", "/agents/run", "text/event-stream", b'event: begun\ndata: {"n":1}\n\nevent: over\ndata: {"n":2}\n\n'),
)


def test_probes_counts_of_tokens_and_orderly_streams_of_unknown_dialects_are_no_failures(engine: sa.Engine, url: str) -> None:
    """Also where HEAD and a GET of no API find nothing; what is refused otherwise is one."""
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=url) as proxy:
        for _, target, type, body in PROBES:
            upstream.on(target, lambda wire, _, type=type, body=body: wire.whole(body, (("Content-Type", type),)))  # type: ignore[misc]
        for method, target in (
            *((method, target) for method, target, *_ in PROBES),
            ("HEAD", "/not-there"),
            ("POST", "/refused"),
        ):
            connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)
            begin(connection, target, method, b"{}" if method == "POST" else b"", (JSON,)).read()
            connection.close()
        assert proxy.stop() == 0
    assert recorder("project", db=url).returncode == 0
    with database.read(engine) as reading:
        failed = reading.exec_driver_sql("SELECT path FROM v_failures JOIN v_streams USING (stream_id)").all()
        recorded = reading.exec_driver_sql("SELECT count(*) FROM v_streams").scalar_one()
    assert (failed, recorded) == ([("/refused",)], len(PROBES) + 2)


def test_a_redirect_is_passed_on_and_not_followed(setting: Setting) -> None:
    location = f"{setting.upstream.origin}/redirected"
    setting.upstream.on("/redirect", lambda wire, asked: wire.whole(b"", [("Location", location)], 307))
    response, _ = setting.ask("/redirect", "GET")
    assert (response.status, response.getheader("location")) == (307, location)
    setting.recorded.ended("/redirect")
    assert setting.recorded.streams("/redirected") == []


def test_headers_pass_but_those_of_the_connection(setting: Setting) -> None:
    said = [SSE, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Twice", "1"), ("X-Twice", "2"), ("Keep-Alive", "timeout=9")]
    said += [("Connection", "X-Only-Here, keep-alive"), ("X-Only-Here", "1"), ("Proxy-Authenticate", "Basic")]
    setting.upstream.on("/headers", lambda wire, asked: wire.stream([event(0)], said))
    sent = [("X-Twice", "1"), ("X-Twice", "2"), ("User-Agent", "me/1"), ("TE", "trailers"), ("Proxy-Authorization", "Basic x")]
    sent += [("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("OpenAI-Beta", "assistants=v2"), ("Cookie", "c=3")]
    response, _ = setting.ask("/headers", headers=sent)
    asked = setting.upstream.asked("/headers")
    assert asked.header("x-twice") == ["1", "2"]
    assert (asked.header("user-agent"), asked.header("openai-beta"), asked.header("cookie")) == (
        ["me/1"],
        ["assistants=v2"],
        ["c=3"],
    )
    assert asked.header("host") == [f"127.0.0.1:{setting.upstream.port}"]
    assert [name for name in ("te", "proxy-authorization", "x-hop") if asked.header(name)] == []
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response.headers.get_all("x-twice") == ["1", "2"]
    assert [name for name in ("keep-alive", "x-only-here", "proxy-authenticate") if name in response.headers] == []


def test_nothing_is_added_to_a_request(setting: Setting) -> None:
    """A client that names no agent, no accepted type and no content type is not given any."""
    setting.upstream.on("/bare", lambda wire, asked: wire.whole(b"{}"))
    setting.ask("/bare", "GET")
    names = {name.lower() for name, _ in setting.upstream.asked("/bare").headers}
    assert names <= {"host", "accept-encoding", "connection"}


def test_header_values_beyond_ascii_arrive_as_the_bytes_they_are(setting: Setting) -> None:
    setting.upstream.on("/utf-8-header", lambda wire, asked: wire.whole(b"{}", [JSON, ("X-Said", "caf\xc3\xa9")]))
    with socket.create_connection((setting.proxy.host, setting.proxy.port), PATIENCE) as raw:
        raw.sendall(b"GET /utf-8-header HTTP/1.1\r\nHost: x\r\nX-Title: caf\xc3\xa9\r\nConnection: close\r\n\r\n")
        answered = b""
        while piece := raw.recv(65536):
            answered += piece
    assert b": caf\xc3\xa9\r\n" in answered
    assert b"caf\xc3\xa9\r\n" in setting.upstream.asked("/utf-8-header").head


# What is not stored


def test_secrets_reach_the_upstream_and_no_file(setting: Setting) -> None:
    names = iter(f"secret-{number:02}-{random.Random(number).randbytes(8).hex()}" for number in range(40))
    secrets: list[str] = []

    def secret() -> str:
        secrets.append(next(names))
        return secrets[-1]

    query = f"api-version=1&key={secret()}&sig={secret()}&token={secret()}&api-key={secret()}&%6Bey={secret()}&KEY={secret()}"
    headers = [("Authorization", f"Bearer {secret()}"), ("api-key", secret()), ("Cookie", f"session={secret()}")]
    headers += [("X-Api-Key", secret()), ("Proxy-Authorization", secret()), ("Content-Type", "application/json")]
    body: dict[str, Any] = {
        "stream": True,
        "tools": [{"type": "mcp", "headers": {"X": secret()}, "authorization": secret()}, {"type": "function", "name": "f"}],
        "tool_approvals": [{"tool_call_id": "c", "headers": {"Authorization": secret()}}],
        "tool_resources": {"mcp": [{"server_label": "l", "headers": {"Authorization": secret()}}]},
        "assistant": {
            "tools": [{"type": "mcp", "headers": {"X": secret()}}],
            "tool_resources": {"mcp": [{"headers": {"Y": secret()}}]},
        },
    }
    sent = json.dumps(body).encode()
    escaped = sent.replace(b'"headers"', b'"h\\u0065aders"')
    said = [SSE, ("Set-Cookie", f"s={secret()}"), ("Location", f"/x?token={secret()}"), ("X-Key", secret())]
    for path, given in (("/secrets", sent), ("/secrets-escaped", escaped)):
        setting.upstream.on(path, lambda wire, asked: wire.stream([event(0)], said))
        response, _ = setting.ask(f"{path}?{query}", "POST", given, headers)
        asked = setting.upstream.asked(path)
        assert (asked.target, asked.body) == (f"{path}?{query}", given)
        assert asked.header("authorization") == [headers[0][1]]
        assert response.getheader("set-cookie") == said[1][1]
        (stream,) = setting.recorded.ended(path)
        assert stream.query.startswith("api-version=1&key=REDACTED&")
        stored = json.loads(bytes(stream.request_body or b""))
        assert stored["tools"][1] == {"type": "function", "name": "f"}
        assert stored["tools"][0]["headers"] == "REDACTED"
    held = b"".join(file.read_bytes() for file in setting.folder.iterdir())
    assert b"assistants" in held or b"thread.message.delta" in held, "the files were read"
    assert [each for each in secrets if each.encode() in held] == []
    assert [each for each in secrets if any(each in line for line in setting.proxy.said)] == []


def test_a_secret_under_a_name_that_comes_twice_reaches_no_file(setting: Setting) -> None:
    """JSON with the same key twice: parsers differ in which they take, so neither may be kept."""
    secret = "secret-" + random.Random(99).randbytes(8).hex()
    body = b'{"tools": [{"type": "mcp", "headers": {"X": "%s"}}], "tools": [{"type": "function"}]}' % secret.encode()
    setting.upstream.on("/secret-twice", lambda wire, asked: wire.whole(b"{}"))
    setting.ask("/secret-twice", "POST", body)
    assert setting.upstream.asked("/secret-twice").body == body
    setting.recorded.ended("/secret-twice")
    assert secret.encode() not in b"".join(file.read_bytes() for file in setting.folder.iterdir())


def test_the_database_is_its_owners_alone(setting: Setting) -> None:
    assert setting.file.stat().st_mode & 0o777 == 0o600


def test_a_password_in_the_upstream_is_not_stored(tmp_path: Path) -> None:
    with Upstream() as upstream:
        upstream.on("/v1", lambda wire, asked: wire.whole(b"{}"))
        origin = upstream.origin.replace("http://", "http://me:secret-password@")
        with ProxyProcess(origin, db=tmp_path / "log.db") as proxy:
            here = Setting(upstream, proxy, tmp_path)
            here.ask("/v1", "GET")
            here.recorded.ended("/v1")
            here.recorded.engine.dispose()
            held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
            assert b"secret-password" not in held
            assert "secret-password" not in "\n".join(proxy.said)


# Who belongs together


def test_the_session_header_labels_and_is_not_forwarded(setting: Setting) -> None:
    setting.upstream.on("/session", lambda wire, asked: wire.whole(b"{}"))
    setting.ask("/session", headers=[("X-Recorder-Session", "a label")])
    assert setting.upstream.asked("/session").header("x-recorder-session") == []
    (stream,) = setting.recorded.ended("/session")
    assert stream.session_label == "a label"


def test_the_session_header_has_the_name_that_it_is_given(tmp_path: Path) -> None:
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--session-header", "X-Mine", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/v1", lambda wire, asked: wire.whole(b"{}"))
        here.ask("/v1", headers=[("x-mine", "label"), ("X-Recorder-Session", "other")])
        (stream,) = here.recorded.ended("/v1")
        here.recorded.engine.dispose()
        assert stream.session_label == "label"
        assert upstream.asked("/v1").header("x-mine") == []
        assert upstream.asked("/v1").header("x-recorder-session") == ["other"]


# How it ends


def test_an_upstream_that_is_not_there_closes_the_connection_and_is_said_once(tmp_path: Path) -> None:
    """As it is without a proxy: no answer. It is said again only once it has worked in between."""
    with Upstream() as upstream:
        upstream.on("/v1/runs", lambda wire, asked: wire.whole(b"{}"))
        port = upstream.port
    with ProxyProcess(f"http://127.0.0.1:{port}", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)

        def refused() -> None:
            with pytest.raises(http.client.RemoteDisconnected):
                here.ask("/v1/runs?key=k", "POST", b'{"a":1}')

        refused()
        refused()
        with Upstream(port=port) as again:
            again.on("/v1/runs", lambda wire, asked: wire.whole(b"{}"))
            assert here.ask("/v1/runs", "POST", b"{}")[0].status == 200
        refused()
        streams = here.recorded.ended("/v1/runs", 4)
        outcomes = [here.recorded.outcome(stream.stream_id) for stream in streams]
        assert outcomes == ["no_response", "no_response", "done", "no_response"]
        assert bytes(streams[0].request_body or b"") == b'{"a":1}'
        assert "refused" in here.recorded.events(streams[0].stream_id)[-1].data.lower()
        assert proxy.stop() == 0
        said = [line for line in proxy.said if str(port) in line and "WARNING" in line]
        assert [("cannot reach" in line, "reached again" in line) for line in said] == [
            (True, False),
            (False, True),
            (True, False),
        ]
        assert "refused" in said[0].lower()
        here.recorded.engine.dispose()


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_an_upstream_that_hangs_up_before_its_answer_does_so_at_the_client(setting: Setting, how: str) -> None:
    path = f"/hangs-up/{how}"
    setting.upstream.on(path, lambda wire, asked: getattr(wire, how)())
    with pytest.raises(ConnectionResetError) as raised:
        setting.ask(path)
    assert isinstance(raised.value, http.client.RemoteDisconnected) == (how == "cut")
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.outcome(stream.stream_id) == "no_response"


@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "content-length"])
def test_a_stream_that_is_cut_is_broken_at_the_client_too(setting: Setting, how: str, framing: str) -> None:
    path, sent = f"/cut/{how}/{framing}", event(0) + event(1) + b'event: thread.message.delta\ndata: {"n'
    has = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        if framing == "chunked":
            wire.begin()
            wire.chunk(sent)
        else:
            wire.head(200, [SSE, ("Content-Length", "10000")])
            wire.send(sent)
        assert has.wait(PATIENCE)
        getattr(wire, how)()

    setting.upstream.on(path, answer)
    connection = setting.connect()
    response = begin(connection, path)
    received = b""
    while len(received) < len(sent):
        received += response.read1(65536)
    has.set()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()
    assert received == sent
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.outcome(stream.stream_id) == "cut"
    events = setting.recorded.events(stream.stream_id)
    assert [entry.type for entry in events] == ["$response", *["thread.message.delta"] * 2, "$tail", "$end"]
    assert events[-2].data == 'event: thread.message.delta\ndata: {"n'
    assert setting.recorded.body(stream.stream_id) == sent


def test_an_error_event_is_the_outcome(setting: Setting) -> None:
    said = b'event: error\ndata: {"error": {"message": "m"}}\n\n'
    setting.upstream.on("/error-event", lambda wire, asked: wire.stream([event(0), said]))
    _, received = setting.ask("/error-event")
    assert received == event(0) + said
    (stream,) = setting.recorded.ended("/error-event")
    assert setting.recorded.outcome(stream.stream_id) == "error"


def test_a_client_that_leaves_takes_the_upstream_with_it(setting: Setting) -> None:
    closed = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0))
        if wire.left():
            closed.set()

    setting.upstream.on("/leaves", answer)
    connection = setting.connect()
    response = begin(connection, "/leaves")
    assert response.read1(65536) == event(0)
    leave(connection)
    assert closed.wait(PATIENCE), "the upstream was left to stream into the void"
    (stream,) = setting.recorded.ended("/leaves")
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"
    assert setting.recorded.body(stream.stream_id) == event(0)


def test_a_client_that_leaves_before_the_answer_takes_the_upstream_with_it(setting: Setting) -> None:
    closed = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        if wire.left():
            closed.set()

    setting.upstream.on("/leaves-early", answer)
    connection = setting.connect()
    connection.request("POST", "/leaves-early", body=b"{}")
    setting.upstream.asked("/leaves-early")
    leave(connection)
    assert closed.wait(PATIENCE)
    (stream,) = setting.recorded.ended("/leaves-early")
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"


def test_a_client_that_leaves_in_the_midst_of_a_large_request_has_closed(setting: Setting) -> None:
    setting.upstream.on("/leaves-uploading", lambda wire, asked: wire.whole(b"{}"))
    with socket.create_connection((setting.proxy.host, setting.proxy.port), PATIENCE) as raw:
        raw.sendall(b"POST /leaves-uploading HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (20 * MEGABYTE))
        raw.sendall(bytes(MEGABYTE))
        until(lambda: setting.recorded.streams("/leaves-uploading"))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    (stream,) = setting.recorded.ended("/leaves-uploading")
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"


def test_a_client_that_leaves_after_done_has_had_it_all(setting: Setting) -> None:
    """SDKs close the connection at [DONE], before the body's end."""

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0) + b"data: [DONE]\n\n")
        wire.left()

    setting.upstream.on("/leaves-done", answer)
    connection = setting.connect()
    response = begin(connection, "/leaves-done")
    assert response.read1(65536).endswith(b"data: [DONE]\n\n")
    until(
        lambda: [
            stream for stream in setting.recorded.streams("/leaves-done") if len(setting.recorded.events(stream.stream_id)) == 3
        ]
    )
    leave(connection)
    (stream,) = setting.recorded.ended("/leaves-done")
    assert setting.recorded.outcome(stream.stream_id) == "done"


# Many at once


def test_twenty_requests_over_one_connection(setting: Setting) -> None:
    setting.upstream.on("/keep-alive", lambda wire, asked: wire.stream([event(number) for number in range(5)]))
    connection = setting.connect()
    ports = set()
    for _ in range(20):
        assert begin(connection, "/keep-alive", body=b"{}").read() == b"".join(event(number) for number in range(5))
        assert connection.sock is not None
        ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(ports) == 1
    setting.recorded.ended("/keep-alive", 20)


def test_fifty_streams_at_once_keep_apart(setting: Setting) -> None:
    """The upstream goes on with none before all have begun."""
    everyone = threading.Barrier(50)

    def answer(wire: Wire, asked: Asked) -> None:
        number = int(asked.body)
        wire.begin()
        wire.chunk(event(number))
        everyone.wait(PATIENCE)
        for step in range(20):
            wire.chunk(event(1000 * number + step))
        wire.end()

    setting.upstream.on("/fifty", answer)
    with ThreadPoolExecutor(50) as pool:
        bodies = list(pool.map(lambda number: setting.ask("/fifty", body=b"%d" % number)[1], range(50)))
    expected = [event(number) + b"".join(event(1000 * number + step) for step in range(20)) for number in range(50)]
    assert bodies == expected
    for stream in setting.recorded.ended("/fifty", 50):
        assert setting.recorded.body(stream.stream_id) == expected[int(bytes(stream.request_body or b""))]


# The database


def test_strict_an_event_is_on_disk_before_the_client_has_it(tmp_path: Path) -> None:
    go = threading.Semaphore(0)

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for number in range(50):
            wire.chunk(event(number))
            assert go.acquire(timeout=PATIENCE)
        wire.end()

    file = tmp_path / "log.db"
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--durability", "strict", db=file) as proxy:
        upstream.on("/strict", answer)
        here = Setting(upstream, proxy, tmp_path)
        here.recorded.engine.dispose()
        reader = sqlite3.connect(file)
        connection = here.connect()
        response = begin(connection, "/strict")
        for number in range(50):
            assert response.read1(65536) == event(number)
            count = reader.execute("SELECT count(*) FROM events WHERE type = 'thread.message.delta'").fetchone()[0]
            go.release()
            assert count == number + 1
        assert response.read() == b""
        connection.close()
        reader.close()
        assert proxy.stop() == 0


@pytest.mark.parametrize("durability", ["relaxed", "strict"])
def test_a_locked_database_does_not_stop_a_stream(tmp_path: Path, durability: str) -> None:
    """Strict: an event waits a second for its commit and then goes on, and a `$gap` says so. Nothing is lost."""
    count = 2 if durability == "strict" else 200
    file = tmp_path / "log.db"
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--durability", durability, db=file) as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/locked", lambda wire, asked: wire.stream([event(number) for number in range(count)], pause=0.002))
        locking = sqlite3.connect(file, isolation_level=None)
        locking.execute("BEGIN IMMEDIATE")
        _, received = here.ask("/locked")
        assert here.recorded.streams("/locked") == []
        locking.execute("ROLLBACK")
        locking.close()
        assert received == b"".join(event(number) for number in range(count))
        (stream,) = here.recorded.ended("/locked")
        assert here.recorded.body(stream.stream_id) == received
        gaps = [json.loads(entry.data) for entry in here.recorded.events(stream.stream_id) if entry.type == "$gap"]
        assert [gap["bytes"] for gap in gaps] == ([0] * len(gaps))
        assert bool(gaps) == (durability == "strict")
        here.recorded.engine.dispose()


def test_a_database_without_room_does_not_stop_a_stream(tmp_path: Path) -> None:
    """The file may not grow any more: the client notices nothing, and what was committed before is there."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    body = b"".join(b"data: %d %s\n\n" % (number, b"x" * 1000) for number in range(3000))
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=tmp_path / "log.db", preexec=small) as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/no-room", lambda wire, asked: wire.stream([body[at : at + 50_000] for at in range(0, len(body), 50_000)]))
        assert here.ask("/no-room")[1] == body
        assert here.ask("/no-room")[1] == body
        assert proxy.wait_for("database fails")
        proxy.kill()
        for stream in here.recorded.streams("/no-room"):
            assert body.startswith(here.recorded.body(stream.stream_id))
        here.recorded.engine.dispose()
    assert recorder("verify", db=tmp_path / "log.db").returncode == 0


# Starting and stopping


def test_sigterm_lets_an_open_stream_finish(tmp_path: Path) -> None:
    go = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0))
        assert go.wait(PATIENCE)
        wire.chunk(event(1))
        wire.end()

    with Upstream() as upstream, ProxyProcess(upstream.origin, db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/open", answer)
        connection = here.connect()
        response = begin(connection, "/open")
        assert response.read1(65536) == event(0)
        proxy.process.terminate()
        until(lambda: not reachable(proxy))
        go.set()
        assert response.read() == event(1)
        connection.close()
        assert proxy.wait() == 0
        (stream,) = here.recorded.streams("/open")
        assert here.recorded.outcome(stream.stream_id) == "eof"
        assert here.recorded.body(stream.stream_id) == event(0) + event(1)
        assert not [line for line in proxy.said if "Traceback" in line]
        here.recorded.engine.dispose()


@pytest.mark.parametrize("framing", ["chunked", "until close"])
@pytest.mark.parametrize("how", ["after its grace", "at a second signal"])
def test_sigterm_does_not_wait_for_ever(tmp_path: Path, framing: str, how: str) -> None:
    """A stream that goes on and on is broken off, and is no whole one to its client; what came of it is in the log."""
    left = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        if framing == "chunked":
            wire.begin()
            wire.chunk(event(0))
        else:
            wire.head(200, [SSE, ("Connection", "close")])
            wire.send(event(0))
        if wire.left(60):
            left.set()

    grace = "0.3" if how == "after its grace" else "3600"
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--grace", grace, db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/endless", answer)
        connection = here.connect()
        response = begin(connection, "/endless")
        assert response.read1(65536) == event(0)
        proxy.process.terminate()
        if how == "at a second signal":
            until(lambda: not reachable(proxy))
            proxy.process.terminate()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        assert proxy.wait() == 0
        connection.close()
        assert left.wait(PATIENCE)
        (stream,) = here.recorded.streams("/endless")
        assert here.recorded.body(stream.stream_id) == event(0)
        assert here.recorded.outcome(stream.stream_id) == "lost"
        assert not [line for line in proxy.said if "Traceback" in line or "ERROR" in line]
        here.recorded.engine.dispose()


def test_a_request_that_is_not_through_when_the_proxy_stops_is_lost(tmp_path: Path) -> None:
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--grace", "0", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/uploading", lambda wire, asked: wire.left() and None, early=True)
        connection = here.connect()
        connection.putrequest("POST", "/uploading")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"half")
        upstream.asked("/uploading")
        assert proxy.stop() == 0
        connection.close()
        (stream,) = here.recorded.streams("/uploading")
        assert stream.request_body is None
        assert here.recorded.outcome(stream.stream_id) == "lost"
        here.recorded.engine.dispose()


def test_sigterm_does_not_wait_for_connections_that_are_idle(tmp_path: Path) -> None:
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--grace", "3600", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        here.recorded.engine.dispose()
        upstream.on("/v1", lambda wire, asked: wire.whole(b"{}"))
        connection = here.connect()
        begin(connection, "/v1").read()
        with socket.create_connection((proxy.host, proxy.port), PATIENCE) as silent:
            assert proxy.stop() == 0
            assert silent.recv(1) == b""
        connection.close()


def test_a_request_that_is_at_hand_when_the_proxy_stops_is_answered_and_the_last(tmp_path: Path) -> None:
    go = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        assert go.wait(PATIENCE)
        wire.whole(b"{}")

    with Upstream() as upstream, ProxyProcess(upstream.origin, "--grace", "3600", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/at-hand", answer)
        connection = here.connect()
        connection.request("POST", "/at-hand", body=b"{}")
        upstream.asked("/at-hand")
        proxy.process.terminate()
        until(lambda: not reachable(proxy))
        go.set()
        response = connection.getresponse()
        assert (response.read(), response.getheader("connection")) == (b"{}", "close")
        connection.close()
        assert proxy.wait() == 0
        (stream,) = here.recorded.streams("/at-hand")
        assert here.recorded.outcome(stream.stream_id) == "done"
        here.recorded.engine.dispose()


def reachable(proxy: ProxyProcess) -> bool:
    try:
        socket.create_connection((proxy.host, proxy.port), 1).close()
    except OSError:
        return False
    return True


def one_line(said: bytes) -> str:
    """The single error line of a command."""
    (line,) = said.decode().splitlines()
    assert line.startswith("error: ")
    return line


def test_a_taken_port_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = recorder("proxy", "--upstream", "http://127.0.0.1:9", "--port", port, db=tmp_path / "x.db")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in one_line(done.stderr)


@pytest.mark.parametrize(
    "upstream", ["", "ftp://host", "http://", "http://host/v1", "https://host?a=1", "http://host:port", "http://host:99999"]
)
def test_an_upstream_that_is_no_origin_is_refused(sqlite_url: str, upstream: str) -> None:
    engine = database.connect(sqlite_url)
    with pytest.raises(UsageError, match="--upstream"):
        Proxy(upstream, Writer(engine))
    engine.dispose()


def test_a_bad_upstream_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = recorder("proxy", "--upstream", "http://host/v1", "--port", "0", db=tmp_path / "x.db")
    assert done.returncode == 2
    assert "--upstream" in one_line(done.stderr)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_proxy_before_itself_is_one_line_and_exit_2(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = recorder("proxy", "--upstream", f"http://{name}:{port}", "--port", str(port), db=tmp_path / "x.db")
    assert done.returncode == 2
    assert "itself" in one_line(done.stderr)


def test_a_proxy_that_is_told_nothing_stays_on_this_machine(setting: Setting) -> None:
    assert setting.proxy.wait_for("recording")[0]
    assert any("http://127.0.0.1:" in line for line in setting.proxy.said)


def test_the_delay_of_a_request_is_no_hang(setting: Setting) -> None:
    setting.upstream.on("/quick", lambda wire, asked: wire.whole(b"{}"))
    began = time.monotonic()
    for _ in range(20):
        setting.ask("/quick")
    assert time.monotonic() - began < 10
