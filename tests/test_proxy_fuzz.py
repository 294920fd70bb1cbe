"""Whatever an upstream or a client sends: the proxy goes on, and what is HTTP gets to the other side, and into the log, whole.

RECORDER_FUZZ_EXAMPLES says how many examples each of these looks at, where the usual number is too few.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder.collect import http1
from tests.commands import ProxyProcess
from tests.test_proxy import Setting
from tests.test_proxy_failures import GET, Got, exchanged, without_hops
from tests.upstream import Asked, Upstream, Wire

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("RECORDER_FUZZ_EXAMPLES", "150"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=folder / "log.db") as proxy:
        here = Setting(upstream, proxy, folder)
        yield here
        here.recorded.engine.dispose()
        assert proxy.stop() == 0
        assert not [line for line in proxy.said if "Traceback" in line or "ERROR" in line], proxy.said


def alive(setting: Setting) -> None:
    """The proxy still passes what is asked of it, and has had nothing to say."""
    setting.upstream.on("/alive", lambda wire, asked: wire.whole(b"{}"))
    assert setting.ask("/alive")[1] == b"{}"
    said = setting.proxy.said[1:]
    del setting.proxy.said[1:]
    assert not said, "\n".join(said)


# What is HTTP

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20)
VISIBLE = [chr(code) for code in (*range(0x21, 0x7F), *range(0x80, 0x100))]
VALUE = st.lists(st.text(VISIBLE, min_size=1, max_size=30), max_size=3).map(" ".join)
HEADERS = st.lists(st.tuples(TOKEN.map("X-{}".format), VALUE), max_size=8)
BODY = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [b"data: 1\n\n", b"event: a\ndata: {}\r\n\r\n", b"\r\r", b"\n\n", b": c\n\n", b"data: [DONE]\n\n", b"0\r\n\r\n"]
        ),
        st.integers(1, 300_000).map(bytes),
    ),
    max_size=6,
)
STATUS = st.one_of(st.integers(200, 999), st.sampled_from([200, 204, 304, 404, 500]))
REASON = st.text([chr(code) for code in (0x20, *range(0x21, 0x7F), *range(0x80, 0x100))], max_size=20)
CONTENT_TYPE = st.sampled_from(["text/event-stream", "application/json", "application/x-ndjson", "text/plain", ""])
EXTENSION = st.sampled_from([b"", b";a", b";a=b", b';a="b c"'])
CUT = st.integers(1, 100_000)


class Answered(NamedTuple):
    """A response that is HTTP: its bytes, the body in them, and the sizes in which it is sent."""

    data: bytes
    body: bytes
    cuts: list[int]
    hints: int


@st.composite
def responses(draw: st.DrawFn) -> Answered:
    status, framing = draw(STATUS), draw(st.sampled_from(["length", "chunked", "close"]))
    pieces = draw(BODY)
    if status in (204, 304):
        framing, pieces = "none", []
    body = b"".join(pieces)
    headers = [("Content-Type", draw(CONTENT_TYPE)), *draw(HEADERS)]
    wire = body
    if framing == "length":
        headers.append(("Content-Length", str(len(body))))
    elif framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        wire = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), draw(EXTENSION), piece) for piece in pieces if piece)
        trailers = draw(HEADERS)
        wire += b"0\r\n" + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in trailers) + b"\r\n"
    hints = draw(st.integers(0, 2))
    data = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * hints
    data += f"HTTP/1.1 {status} {draw(REASON)}\r\n".encode("latin-1")
    data += b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers)
    return Answered(data + b"\r\n" + wire, body, draw(st.lists(CUT, max_size=5)), hints)


def sending(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for size in (*cuts, len(data)):
        if piece := data[at : at + size]:
            yield piece
        at += size


def answering(setting: Setting, data: bytes, cuts: list[int]) -> str:
    """Have the upstream answer so, and close; the path of that answer."""

    def answer(wire: Wire, asked: Asked) -> None:
        with contextlib.suppress(OSError):
            for piece in sending(data, cuts):
                wire.send(piece)
        wire.cut()

    path = f"/fuzz/{next(_numbers)}"
    setting.upstream.on(path, answer)
    return path


@given(answered=responses())
@FUZZ
def test_a_response_that_is_http_is_the_same_at_the_client_and_in_the_log(setting: Setting, answered: Answered) -> None:
    path = answering(setting, answered.data, answered.cuts)
    direct = exchanged(setting.upstream.port, GET % path.encode())
    through = exchanged(setting.proxy.port, GET % path.encode())
    assert direct == Got(answered.data, "closed")
    assert heads(through, answered.hints) == heads(direct, answered.hints)
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.body(stream.stream_id) == answered.body
    assert setting.recorded.outcome(stream.stream_id) in ("done", "eof", "error", "http_error")


def heads(got: Got, hints: int) -> Got:
    """What was got, as it is through a proxy: without what is of one connection, and with the headers' last spaces gone."""
    hinted = b""
    for _ in range(hints):
        head, _, rest = got.data.partition(b"\r\n\r\n")
        hinted, got = hinted + head, got._replace(data=rest)
    head, end, body = without_hops(got).data.partition(b"\r\n\r\n")
    lines = sorted(line.rstrip() for line in head.split(b"\r\n"))
    return got._replace(data=hinted + b"\n".join(lines).replace(b"transfer-encoding", b"Transfer-Encoding") + end + body)


METHOD = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH"])
TARGET = st.text([chr(code) for code in range(0x21, 0x7F) if chr(code) not in '#"<>\\^`{|}'], max_size=60).map("/{}".format)


@given(method=METHOD, target=TARGET, headers=HEADERS, pieces=BODY, chunked=st.booleans(), cuts=st.lists(CUT, max_size=5))
@FUZZ
def test_a_request_that_is_http_is_the_same_at_the_upstream_and_in_the_log(
    setting: Setting,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    pieces: list[bytes],
    chunked: bool,
    cuts: list[int],
) -> None:
    path = f"/asked/{next(_numbers)}"
    body = b"".join(pieces)
    head = f"{method} {path}{target} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    head += "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
    data = head.encode("latin-1") + b"Connection: close\r\n\r\n"
    data += b"".join([http1.chunk(piece) for piece in pieces if piece] + [http1.LAST_CHUNK]) if chunked else body
    whole = (path + target).partition("?")[0]
    setting.upstream.on(whole, lambda wire, asked: wire.whole(b"%d" % len(asked.body)))
    got = exchanged(setting.proxy.port, *sending(data, cuts))
    assert got.ended == "closed"
    assert got.data.startswith(b"HTTP/1.1 200 "), (data, got)
    assert got.data.endswith(b"\r\n\r\n%d" % len(body))
    asked = setting.upstream.asked(whole)
    assert (asked.method, asked.target, asked.body) == (method, path + target, body)
    passed = [(name, value) for name, value in asked.headers if name.startswith("X-")]
    own = ("x-recorder-token", "x-recorder-session")
    assert passed == [(name, value) for name, value in headers if name.lower() not in own]
    (stream,) = setting.recorded.ended(whole)
    assert (stream.method, bytes(stream.request_body or b"")) == (method, body)


# What is not


@st.composite
def damaged(draw: st.DrawFn, what: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of this kind, some of which are other ones, are missing, or are there twice; or any bytes at all."""
    data = draw(what)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(data), 400)))
        size = draw(st.integers(0, 20))
        kind = draw(st.sampled_from(["other", "missing", "twice", "end"]))
        if kind == "other":
            data = data[:at] + draw(st.binary(max_size=8)) + data[at + size :]
        elif kind == "missing":
            data = data[:at] + data[at + size :]
        elif kind == "twice":
            data = data[: at + size] + data[at:]
        else:
            data = data[:at]
    return data


BROKEN = st.one_of(damaged(responses().map(lambda answered: answered.data)), st.binary(max_size=300))


@given(data=BROKEN, cuts=st.lists(CUT, max_size=5))
@FUZZ
def test_a_response_that_may_be_no_http_is_for_the_client_to_judge(setting: Setting, data: bytes, cuts: list[int]) -> None:
    """It comes out as the same response, or as no response, as it is direct; and the exchange ends."""
    path = answering(setting, data, cuts)
    through = exchanged(setting.proxy.port, GET % path.encode())
    assert through.ended in ("closed", "reset")
    direct, read = judged(data), judged(through.data)
    if direct is not None:
        status, body = direct
        assert read is not None
        assert read == (status, body)
    setting.recorded.ended(path)
    alive(setting)


def judged(data: bytes) -> tuple[int, bytes] | None:
    """The status and body that the standard library finds in a response; None where it finds none."""

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(data)

    response = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    try:
        response.begin()
        return response.status, response.read()
    except (http.client.HTTPException, ValueError):
        return None


ASKED = st.builds(
    lambda method, target, headers, body: (
        (f"{method} {target} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)).encode(
            "latin-1"
        )
        + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    ),
    METHOD,
    TARGET,
    HEADERS,
    st.binary(max_size=100),
)


@given(data=st.one_of(damaged(ASKED), damaged(st.tuples(ASKED, ASKED).map(b"".join)), st.binary(max_size=300)))
@FUZZ
def test_whatever_a_client_sends_the_proxy_goes_on(setting: Setting, data: bytes) -> None:
    with socket.create_connection((setting.proxy.host, setting.proxy.port), 20) as raw:
        raw.sendall(data)
        with contextlib.suppress(TimeoutError, ConnectionError):
            raw.settimeout(0.02)
            while raw.recv(65536):
                pass
    alive(setting)


def test_the_examples_are_of_all_kinds(tmp_path: Path) -> None:
    """What the standard library takes for a response, and what it does not."""
    found = {"taken": 0, "refused": 0}

    @given(data=BROKEN)
    @settings(max_examples=200, database=None)
    def look(data: bytes) -> None:
        found["refused" if judged(data) is None else "taken"] += 1

    look()
    assert min(found.values()) > 10
