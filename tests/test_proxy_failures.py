"""What goes wrong at the upstream reaches a client of the proxy as it is: compared, byte for byte, with what comes direct."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.commands import ProxyProcess, until
from tests.faults import FAULTS, PIECES, STALL_SECONDS
from tests.test_proxy import Setting, begin, event, leave, setting
from tests.upstream import PATIENCE, SSE, Asked, Upstream, Wire

__all__ = ["setting"]  # the fixture

pytestmark = pytest.mark.slow

GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"

_OF_ONE_CONNECTION = re.compile(rb"(connection|keep-alive): [^\r]*\r\n", re.IGNORECASE)


class Got(NamedTuple):
    """What a client gets until its connection ends, and how that ended: closed, reset, or still open when it was left."""

    data: bytes
    ended: str


def exchanged(port: int, *requests: bytes, patience: float = PATIENCE) -> Got:
    """Send requests on a connection of their own, and take what comes."""
    with socket.create_connection(("127.0.0.1", port), patience) as raw:
        for request in requests:
            raw.sendall(request)
        data = b""
        while True:
            try:
                came = raw.recv(65536)
            except TimeoutError:
                return Got(data, "open")
            except ConnectionResetError:
                return Got(data, "reset")
            if not came:
                return Got(data, "closed")
            data += came


def without_hops(got: Got) -> Got:
    """Without what is said of one connection: a proxy has two."""
    head, end, body = got.data.partition(b"\r\n\r\n")
    return got._replace(data=_OF_ONE_CONNECTION.sub(b"", head + b"\r\n") + end[2:] + body)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_same_through_the_proxy(setting: Setting, name: str) -> None:
    path = "/fault/" + name.replace(" ", "-").replace("[", "").replace("]", "")
    setting.upstream.on(path, FAULTS[name])
    patience = STALL_SECONDS / 3 if "stalls" in name else 1.5
    request = POST % path.encode()
    direct = exchanged(setting.upstream.port, request, patience=patience)
    through = exchanged(setting.proxy.port, request, patience=patience)
    assert without_hops(through) == without_hops(direct)
    assert setting.upstream.count(path) == 2, "nothing is asked twice"
    (stream,) = setting.recorded.ended(path)
    body = direct.data.partition(b"\r\n\r\n")[2]
    if body.count(b"data: ") >= len(PIECES):
        assert setting.recorded.body(stream.stream_id).startswith(b"".join(PIECES)), "what came before it is in the log"


def test_the_log_tells_the_endings_apart(setting: Setting) -> None:
    outcomes = {
        "closes before a byte": "no_response",
        "is another protocol": "no_response",
        "closes in the head": "no_response",
        "resets in a chunked stream": "cut",
        "resets a stream without a length": "cut",
        "closes before its length": "cut",
        "sends a bad chunk size": "cut",
        "ends without [DONE]": "eof",
        "ends without a length": "done",
        "says an error in the stream": "error",
        "fails with 599": "http_error",
        "refuses with a body that breaks off": "http_error",
    }
    for number, (name, outcome) in enumerate(outcomes.items()):
        setting.upstream.on(f"/ending/{number}", FAULTS[name])
        exchanged(setting.proxy.port, POST % b"/ending/%d" % number, patience=1)
        (stream,) = setting.recorded.ended(f"/ending/{number}")
        assert setting.recorded.outcome(stream.stream_id) == outcome, name


def test_a_reset_comes_after_all_that_came_before_it(setting: Setting) -> None:
    """However slowly the client reads: 2 MB lie between the two when the upstream breaks off."""
    body = b"".join(event(number) for number in range(60_000))

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(body)
        wire.reset()

    setting.upstream.on("/late-reset", answer)
    with socket.create_connection((setting.proxy.host, setting.proxy.port), PATIENCE) as raw:
        raw.sendall(GET % b"/late-reset")
        received = b""
        ended = "closed"
        while True:
            try:
                came = raw.recv(20_000)
            except ConnectionResetError:
                ended = "reset"
                break
            if not came:
                break
            received += came
            time.sleep(0.002)
    assert ended == "reset"
    assert received.endswith(body[-1000:] + b"\r\n")


# The connection to the upstream


def closed_without_an_answer(proxy: ProxyProcess) -> None:
    assert exchanged(proxy.port, POST % b"/v1") == Got(b"", "closed")


def test_a_name_that_is_nowhere_closes_the_connection(tmp_path: Path) -> None:
    with ProxyProcess("http://nowhere.invalid", db=tmp_path / "log.db") as proxy:
        closed_without_an_answer(proxy)
        said = proxy.wait_for("cannot reach")[0]
        assert proxy.wait_for("nowhere.invalid: .*(known|resolution|nodename|associated)"), said
        closed_without_an_answer(proxy)
        assert proxy.stop() == 0
        assert len([line for line in proxy.said if "nowhere.invalid:" in line]) == 1


def test_an_upstream_that_speaks_no_tls_closes_the_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65536)

        threading.Thread(target=answer, daemon=True).start()
        with ProxyProcess(f"https://127.0.0.1:{plain.getsockname()[1]}", db=tmp_path / "log.db") as proxy:
            closed_without_an_answer(proxy)
            assert proxy.wait_for("cannot reach 127.0.0.1.*SSL")


@contextlib.contextmanager
def tls_upstream(folder: Path) -> Iterator[tuple[int, Path]]:
    """An upstream behind TLS, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    authority.issue_cert("localhost").configure_cert(context)
    with Upstream(tls=context) as upstream:
        upstream.on("/v1", lambda wire, asked: wire.stream([event(number) for number in range(100)]))
        upstream.on("/sha", lambda wire, asked: wire.whole(b"%d" % len(asked.body)))
        upstream.on("/cut", FAULTS["closes in a chunked stream"])
        yield upstream.port, folder / "ca.pem"


def test_an_upstream_behind_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_upstream(tmp_path) as (port, authority):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        with ProxyProcess(f"https://localhost:{port}", db=tmp_path / "log.db") as proxy:
            connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)
            for _ in range(2):
                assert begin(connection, "/v1").read() == b"".join(event(number) for number in range(100))
            assert begin(connection, "/sha", body=bytes(3_000_000)).read() == b"3000000"
            with pytest.raises(http.client.IncompleteRead):
                begin(connection, "/cut").read()
            connection.close()
            assert proxy.stop() == 0
            assert not [line for line in proxy.said if "WARNING" in line or "ERROR" in line]


def test_an_upstream_whose_certificate_nobody_vouches_for_closes_the_connection(tmp_path: Path) -> None:
    with tls_upstream(tmp_path) as (port, _), ProxyProcess(f"https://localhost:{port}", db=tmp_path / "log.db") as proxy:
        closed_without_an_answer(proxy)
        assert proxy.wait_for("cannot reach localhost.*CERTIFICATE_VERIFY_FAILED")


def test_an_upstream_that_closes_an_idle_connection_closes_the_clients(setting: Setting) -> None:
    """Else a client that asks again, just then, would be told so only by a request that fails."""
    close = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.whole(b"{}")
        assert close.wait(PATIENCE)
        wire.cut()

    setting.upstream.on("/idle", answer)
    with socket.create_connection((setting.proxy.host, setting.proxy.port), PATIENCE) as raw:
        raw.sendall(GET % b"/idle")
        got = b""
        while not got.endswith(b"{}"):
            got += raw.recv(65536)
        close.set()
        assert raw.recv(65536) == b""


def test_a_connection_to_the_upstream_is_kept_as_long_as_the_clients(setting: Setting) -> None:
    setting.upstream.on("/kept", lambda wire, asked: wire.whole(b"{}"))
    before = setting.upstream.connections
    for _ in range(2):
        connection = setting.connect()
        for _ in range(5):
            begin(connection, "/kept").read()
        connection.close()
    assert setting.upstream.connections - before == 2


@pytest.mark.parametrize(("method", "asked_again"), [("GET", True), ("DELETE", True), ("PUT", True), ("POST", False)])
def test_what_was_asked_as_the_connection_was_left_is_asked_again_where_it_may(
    setting: Setting, method: str, asked_again: bool
) -> None:
    """RFC 9110, 9.2.2: only what is idempotent; and only on a connection that had been used."""
    path = f"/again/{method}"
    setting.upstream.on(path + "/first", lambda wire, asked: wire.whole(b"{}"))

    def answer(wire: Wire, asked: Asked) -> None:
        if setting.upstream.count(path) == 1:
            wire.cut()
        else:
            wire.whole(b"again: " + asked.body)

    setting.upstream.on(path, answer)
    connection = setting.connect()
    begin(connection, path + "/first").read()
    body = b"x" * 100_000 if method == "PUT" else b""
    if asked_again:
        assert begin(connection, path, method, body).read() == b"again: " + body
    else:
        with pytest.raises(http.client.RemoteDisconnected):
            begin(connection, path, method, body)
    connection.close()
    assert setting.upstream.count(path) == (2 if asked_again else 1)
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.outcome(stream.stream_id) == ("done" if asked_again else "no_response")
    assert bytes(stream.request_body or b"") == body


# Clients and servers of other kinds


def test_a_client_of_http_1_0_gets_a_body_without_chunks(setting: Setting) -> None:
    setting.upstream.on("/old", lambda wire, asked: wire.stream([event(0), event(1)], [SSE, ("Trailer", "X")]))
    got = exchanged(setting.proxy.port, b"GET /old HTTP/1.0\r\n\r\n")
    head, _, body = got.data.partition(b"\r\n\r\n")
    assert (body, got.ended) == (event(0) + event(1), "closed")
    assert b"chunked" not in head
    setting.upstream.on("/old-cut", FAULTS["closes in a chunked stream"])
    got = exchanged(setting.proxy.port, b"GET /old-cut HTTP/1.0\r\n\r\n")
    assert got.data.endswith(b"\r\n\r\n" + b"".join(PIECES))
    assert got.ended == "reset", "or it would take it for the whole"


def test_a_client_that_closes_afterwards_has_the_upstream_close_too(setting: Setting) -> None:
    closed = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.whole(b"{}")
        if wire.left():
            closed.set()

    setting.upstream.on("/close", answer)
    got = exchanged(setting.proxy.port, b"GET /close HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (got.data[-2:], got.ended) == (b"{}", "closed")
    assert setting.upstream.asked("/close").header("connection") == ["close"]
    assert closed.wait(PATIENCE)


def test_pipelined_requests_are_answered_in_their_order(setting: Setting) -> None:
    setting.upstream.on("/pipe/1", lambda wire, asked: wire.stream([event(1)], pause=0.1))
    setting.upstream.on("/pipe/2", lambda wire, asked: wire.whole(b"two: " + asked.body))
    setting.upstream.on("/pipe/3", lambda wire, asked: wire.whole(b"three"))
    last = b"GET /pipe/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = exchanged(setting.proxy.port, GET % b"/pipe/1" + POST % b"/pipe/2" + last)
    assert got.ended == "closed"
    assert [match.start() for match in re.finditer(b"HTTP/1.1 200", got.data)] == sorted(
        match.start() for match in re.finditer(b"HTTP/1.1 200", got.data)
    )
    assert re.search(re.escape(event(1)) + b".*two: {}.*three$", got.data, re.DOTALL)


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"GET /x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
def test_what_is_no_request_gets_a_400_after_what_was_asked_before(setting: Setting, garbage: bytes) -> None:
    setting.upstream.on("/valid", lambda wire, asked: wire.whole(b"{}"))
    got = exchanged(setting.proxy.port, GET % b"/valid" + garbage)
    assert got.data.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in got.data
    assert b'"code":"bad_request"' in got.data
    assert got.ended == "closed"


def test_a_request_body_that_is_not_chunked_as_it_says_gets_a_400(setting: Setting) -> None:
    setting.upstream.on("/bad-chunk", lambda wire, asked: wire.whole(b"{}"))
    head = b"POST /bad-chunk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = exchanged(setting.proxy.port, head, b"3\r\nabc\r\n", b"zz\r\n")
    assert got.data.startswith(b"HTTP/1.1 400 ")
    (stream,) = setting.recorded.ended("/bad-chunk")
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"


def test_a_request_for_another_host_is_no_business_of_the_proxys(setting: Setting) -> None:
    got = exchanged(setting.proxy.port, b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n")
    assert got.data.startswith(b"HTTP/1.1 501 ")
    setting.upstream.on("/absolute", lambda wire, asked: wire.whole(b"{}"))
    got = exchanged(setting.proxy.port, b"GET http://api.example/absolute?a HTTP/1.1\r\nHost: api.example\r\n\r\n", patience=0.5)
    assert got.data.startswith(b"HTTP/1.1 421 ")
    for name in (b"127.0.0.1:%d" % setting.proxy.port, b"127.0.0.1:%d" % setting.upstream.port, b"localhost"):
        got = exchanged(setting.proxy.port, GET % (b"http://%b/absolute?a" % name), patience=0.5)
        assert got.data.startswith(b"HTTP/1.1 200 ")
        asked = setting.upstream.asked("/absolute")
        assert (asked.target, asked.header("host")) == ("/absolute?a", [f"127.0.0.1:{setting.upstream.port}"])


@pytest.mark.parametrize("named", [b"content-length", b"Content-Length, close", b"transfer-encoding"])
def test_a_body_is_never_a_request_of_its_own(setting: Setting, named: bytes) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    setting.upstream.on("/outer", lambda wire, asked: wire.whole(b"{}"))
    setting.upstream.on("/smuggled", lambda wire, asked: wire.whole(b"smuggled"))
    head = b"POST /outer HTTP/1.1\r\nHost: x\r\nConnection: %b\r\nContent-Length: %d\r\n\r\n" % (named, len(inner))
    got = exchanged(setting.proxy.port, head + inner, patience=0.5)
    assert got.data.count(b"HTTP/1.1 ") == 1
    assert setting.upstream.asked("/outer").body == inner


def test_a_response_whose_connection_names_its_length_ends_where_it_ends(setting: Setting) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello")

    setting.upstream.on("/named-length", answer)
    setting.upstream.on("/after", lambda wire, asked: wire.whole(b"{}"))
    got = exchanged(setting.proxy.port, GET % b"/named-length" + GET % b"/after", patience=0.5)
    assert b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 " in got.data
    assert got.ended == "open"


def test_a_page_of_another_site_in_a_browser_gets_nothing(setting: Setting) -> None:
    for headers, status in (
        (b"Host: evil.example\r\n", 421),
        (b"Host: localhost\r\nOrigin: https://evil.example\r\n", 403),
        (b"Host: localhost\r\nOrigin: null\r\n", 403),
        (b"Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", 403),
    ):
        for target in (b"/next-door", b"/-/health", b"/-/metrics"):
            got = exchanged(setting.proxy.port, b"GET %b HTTP/1.1\r\n%b\r\n" % (target, headers), patience=0.5)
            assert got.data.startswith(b"HTTP/1.1 %d " % status), (headers, target)
    assert setting.upstream.never_asked("/next-door")


def test_a_client_of_tiny_chunks_and_one_of_many_requests_leave_the_others_their_turn(setting: Setting) -> None:
    """One read of theirs is tens of thousands of steps: they are taken a part at a time, and others are served between."""
    received: list[int] = []

    def take(wire: Wire, asked: Asked) -> None:
        received.append(len(asked.body))
        wire.whole(b"{}")

    setting.upstream.on("/tiny", take)
    head = b"POST /tiny HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = exchanged(setting.proxy.port, head + b"1\r\na\r\n" * 60_000 + b"0\r\n\r\n", patience=5)
    assert got.data.startswith(b"HTTP/1.1 200 ")
    assert received == [60_000]


# What else there is in HTTP/1.1


def test_interim_responses_pass_and_are_not_the_answer(setting: Setting) -> None:
    setting.upstream.on("/hints", FAULTS["hints before it answers"])
    got = exchanged(setting.proxy.port, GET % b"/hints", patience=0.5)
    assert got.data.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\nHTTP/1.1 200 ")
    assert b"103" not in exchanged(setting.proxy.port, b"GET /hints HTTP/1.0\r\n\r\n").data
    for stream in setting.recorded.ended("/hints", 2):
        assert setting.recorded.outcome(stream.stream_id) == "done"


@pytest.mark.parametrize("status", [200, 226, 299, 418, 599, 999])
def test_statuses_pass_with_their_reasons(setting: Setting, status: int) -> None:
    path = f"/status/{status}"
    setting.upstream.on(path, lambda wire, asked: wire.head(status, [("Content-Length", "0")], "So \xe9 so"))
    got = exchanged(setting.proxy.port, GET % path.encode(), patience=0.3)
    assert got.data.startswith(b"HTTP/1.1 %d So \xe9 so\r\n" % status)


def test_trailers_pass(setting: Setting) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin([SSE, ("Trailer", "X-Sum")])
        wire.chunk(event(0))
        wire.send(b"0\r\nX-Sum: 1\r\n\r\n")

    setting.upstream.on("/trailers", answer)
    got = exchanged(setting.proxy.port, GET % b"/trailers", patience=0.3)
    assert got.data.endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")
    (stream,) = setting.recorded.ended("/trailers")
    assert setting.recorded.body(stream.stream_id) == event(0)


def test_headers_of_any_length_number_and_bytes_pass_in_their_order(setting: Setting) -> None:
    long, raw = "x" * 65536, "\xe9\xff\x80"  # not UTF-8
    many = [(f"X-{number % 50}", str(number)) for number in range(500)]
    sent = [("X-Long", long), ("X-Raw", raw), *many]
    setting.upstream.on("/many-headers", lambda wire, asked: wire.whole(b"{}", sent))
    head = "".join(f"{name}: {value}\r\n" for name, value in sent).encode("latin-1")
    got = exchanged(setting.proxy.port, b"GET /many-headers HTTP/1.1\r\nHost: x\r\n%b\r\n" % head, patience=0.5)
    assert head in got.data
    asked = setting.upstream.asked("/many-headers")
    assert [(name, value) for name, value in asked.headers if name.startswith("X-")] == sent


def test_another_protocol_passes_both_ways(setting: Setting) -> None:
    """A WebSocket, say. What it carries is not recorded; that there was one is."""

    def answer(wire: Wire, asked: Asked) -> None:
        assert asked.header("upgrade") == ["websocket"]
        wire.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
        while data := wire.receive(4):
            wire.send(data.upper())

    setting.upstream.on("/socket", answer)
    head = b"GET /socket HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with socket.create_connection((setting.proxy.host, setting.proxy.port), PATIENCE) as raw:
        raw.sendall(head)
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            got += raw.recv(65536)
        assert got.startswith(b"HTTP/1.1 101 Switching\r\n")
        assert b"Upgrade: websocket\r\n" in got
        for said in (b"\x00abc", b"defg"):
            raw.sendall(said)
            assert raw.recv(4) == said.upper()
    (stream,) = setting.recorded.ended("/socket")
    assert [entry.type for entry in setting.recorded.events(stream.stream_id)] == ["$response", "$gap", "$end"]
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"


def test_an_upgrade_that_is_not_taken_up_changes_nothing(setting: Setting) -> None:
    """Java's client asks for h2c with every first request."""
    setting.upstream.on("/h2c", lambda wire, asked: wire.whole(b"got " + asked.body))
    head = b"POST /h2c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n"
    got = exchanged(setting.proxy.port, head + b"Content-Length: 2\r\n\r\n{}", POST % b"/h2c", patience=1)
    assert got.data.count(b"got {}") == 2


# Clients that leave


@pytest.mark.parametrize("when", ["before the first byte", "in the middle", "in the upload"])
def test_a_client_that_leaves_is_seen_to_by_the_upstream_at_once(
    setting: Setting, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/leaves/" + when.replace(" ", "-")
    begun, gone = threading.Event(), threading.Event()
    seen: list[float] = []

    def answer(wire: Wire, asked: Asked) -> None:
        if when == "in the middle":
            wire.begin()
            wire.chunk(event(0))
        elif when == "in the upload":
            wire.receive(100_000)
        begun.set()
        with contextlib.suppress(OSError):
            while wire.reader.read1(65536):
                pass
        seen.append(time.perf_counter())
        gone.set()

    setting.upstream.on(path, answer, early=when == "in the upload")
    connection = setting.connect()
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", "1000000" if when == "in the upload" else "2")
    connection.endheaders(bytes(100_000) if when == "in the upload" else b"{}")
    assert begun.wait(PATIENCE)
    if when == "in the middle":
        assert connection.getresponse().read1(65536) == event(0)
    left = time.perf_counter()
    leave(connection)
    assert gone.wait(PATIENCE)
    with capsys.disabled():
        print(f"\n  left {when}: the upstream saw it {(seen[0] - left) * 1000:.1f} ms later", end="")
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"


def test_what_comes_after_done_is_read_though_the_client_has_left(setting: Setting) -> None:
    left = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0) + b"data: [DONE]\n\n")
        assert left.wait(PATIENCE)
        wire.chunk(b": after\n\n")
        wire.end()

    setting.upstream.on("/after-done", answer)
    connection = setting.connect()
    assert begin(connection, "/after-done").read1(65536).endswith(b"[DONE]\n\n")
    leave(connection)
    left.set()
    (stream,) = setting.recorded.ended("/after-done")
    assert setting.recorded.outcome(stream.stream_id) == "done"
    assert setting.recorded.body(stream.stream_id) == event(0) + b"data: [DONE]\n\n: after\n\n"


def test_curl_shows_events_as_they_come(setting: Setting) -> None:
    """The upstream goes on only once curl has shown what it has sent."""
    shown = threading.Semaphore(0)

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for number in range(5):
            wire.chunk(event(number))
            assert shown.acquire(timeout=PATIENCE)
        wire.end()

    setting.upstream.on("/curl", answer)
    url = f"http://{setting.proxy.host}:{setting.proxy.port}/curl"
    with subprocess.Popen(["curl", "-sN", url], stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        for number in range(5):
            assert curl.stdout.read(len(event(number))) == event(number)
            shown.release()
        assert curl.stdout.read() == b""
    assert curl.returncode == 0
    until(lambda: setting.recorded.ended("/curl"))
