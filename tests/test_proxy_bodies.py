"""Bodies through the proxy: as they come, of any size, encoded or not, no faster than the other side takes them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import socket
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard

from recorder.settings import QUEUE_BYTES, REQUEST_BODY
from tests.commands import ProxyProcess, until
from tests.proofs import transfers
from tests.test_proxy import MEGABYTE, Setting, event, setting
from tests.test_proxy_failures import exchanged
from tests.upstream import PATIENCE, SSE, Asked, Upstream, Wire

__all__ = ["setting"]  # the fixture

pytestmark = pytest.mark.slow

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def dialled(setting: Setting) -> socket.socket:
    return socket.create_connection((setting.proxy.host, setting.proxy.port), PATIENCE)


def answered(raw: socket.socket) -> bytes:
    """The head of a response, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        came = raw.recv(65536)
        assert came, f"the connection ended after {data!r}"
        data += came
    return data


# Requests


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_request_goes_on_as_it_comes(setting: Setting, framing: str) -> None:
    """The client sends each piece only when the upstream has the one before."""
    path = f"/as-it-comes/{framing}"
    pieces = [b"%d" % number * 1000 for number in range(5)]
    wires = [b"3e8\r\n" + piece + b"\r\n" for piece in pieces] if framing == "chunked" else pieces
    has = threading.Semaphore(0)

    def answer(wire: Wire, asked: Asked) -> None:
        for expected in wires:
            assert wire.receive(len(expected)) == expected
            has.release()
        if framing == "chunked":
            assert wire.receive(5) == b"0\r\n\r\n"
        wire.whole(b"{}")

    setting.upstream.on(path, answer, early=True)
    with dialled(setting) as raw:
        lengths = CHUNKED if framing == "chunked" else b"Content-Length: 5000\r\n"
        raw.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), lengths))
        for sent in wires:
            raw.sendall(sent)
            assert has.acquire(timeout=PATIENCE), "the upstream did not get it"
            assert setting.recorded.streams(path) == [], "a request is stored once it is whole"
        if framing == "chunked":
            raw.sendall(b"0\r\n\r\n")
        assert answered(raw).startswith(b"HTTP/1.1 200 ")
    asked = setting.upstream.asked(path)
    assert (asked.header("content-length"), asked.header("transfer-encoding")) == (
        ([], ["chunked"]) if framing == "chunked" else (["5000"], [])
    )
    (stream,) = setting.recorded.ended(path)
    assert bytes(stream.request_body or b"") == b"".join(pieces)


def test_a_stream_began_when_its_request_did(setting: Setting) -> None:
    """However long the request took: its offsets count from there."""
    setting.upstream.on("/slow-request", lambda wire, asked: wire.stream([event(0)]))
    began = time.time()
    with dialled(setting) as raw:
        raw.sendall(b"POST /slow-request HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
        time.sleep(0.5)
        raw.sendall(b"}")
        answered(raw)
    (stream,) = setting.recorded.ended("/slow-request")
    assert setting.recorded.events(stream.stream_id)[0].offset_us >= 500_000
    assert stream.started_at.timestamp() <= began + 0.4


def test_a_response_may_begin_before_the_request_is_through(setting: Setting) -> None:
    """Both go on. Half a request is not stored: it would be taken for a whole one."""

    def answer(wire: Wire, asked: Asked) -> None:
        assert wire.receive(3) == b"abc"
        wire.begin()
        for _ in range(3):
            wire.chunk(event(len(wire.receive(3))))
        wire.end()

    setting.upstream.on("/duplex", answer, early=True)
    with dialled(setting) as raw:
        raw.sendall(b"POST /duplex HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nabc")
        data = answered(raw)
        for number in range(3):
            raw.sendall(b"def")
            while data.count(b"data: ") <= number:
                data += raw.recv(65536)
        assert data.count(event(3)) == 3
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += raw.recv(65536)
        until(lambda: setting.recorded.ended("/duplex"))
        setting.upstream.on("/duplex/next", lambda wire, asked: wire.whole(b"{}"))
        raw.sendall(b"GET /duplex/next HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answered(raw).startswith(b"HTTP/1.1 200 "), "the connection goes on"
    (stream,) = setting.recorded.ended("/duplex")
    assert stream.request_body is None
    assert setting.recorded.body(stream.stream_id) == event(3) * 3


def test_a_client_that_waits_for_100_continue_gets_the_upstreams(setting: Setting) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        assert asked.header("expect") == ["100-continue"]
        wire.send(b"HTTP/1.1 100 Go on\r\n\r\n")
        assert wire.receive(2) == b"{}"
        wire.whole(b"{}")

    setting.upstream.on("/continue", answer, early=True)
    with dialled(setting) as raw:
        raw.sendall(b"POST /continue HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert answered(raw) == b"HTTP/1.1 100 Go on\r\n\r\n"
        raw.sendall(b"{}")
        assert answered(raw).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_waits_for_100_continue_may_be_refused_at_once(setting: Setting) -> None:
    refused = b"HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def answer(wire: Wire, asked: Asked) -> None:
        wire.send(refused)
        wire.cut()

    setting.upstream.on("/refused", answer, early=True)
    head = b"POST /refused HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert exchanged(setting.proxy.port, head) == (refused, "closed")
    (stream,) = setting.recorded.ended("/refused")
    assert setting.recorded.outcome(stream.stream_id) == "http_error"


@pytest.mark.parametrize("reads", [0, 1_000_000])
@pytest.mark.parametrize("close", ["cut", "reset"])
def test_an_early_refusal_reaches_a_client_that_is_still_sending(setting: Setting, reads: int, close: str) -> None:
    """An upstream that takes no more says so and closes, which breaks the connection for what is still on its way."""
    body = b'{"error":{"message":"too large"}}'
    path = f"/too-large/{reads}/{close}"

    def answer(wire: Wire, asked: Asked) -> None:
        wire.receive(reads)
        wire.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        getattr(wire, close)()

    setting.upstream.on(path, answer, early=True)
    for _ in range(10):
        with dialled(setting) as raw:
            sender = threading.Thread(target=send_until_closed, args=(raw, path, 64 * MEGABYTE))
            sender.start()
            got = b""
            while not got.endswith(body):
                came = raw.recv(65536)
                assert came, got
                got += came
            raw.shutdown(socket.SHUT_RDWR)
            sender.join(PATIENCE)
        assert got.startswith(b"HTTP/1.1 413 Too Large\r\n")
    for stream in setting.recorded.ended(path, 10):
        assert setting.recorded.outcome(stream.stream_id) == "http_error"
        assert setting.recorded.body(stream.stream_id) == body


def send_until_closed(raw: socket.socket, path: str, size: int) -> None:
    try:
        raw.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), size))
        for _ in range(size // MEGABYTE):
            raw.sendall(bytes(MEGABYTE))
    except OSError:
        pass


def test_a_reset_by_the_upstream_reaches_a_client_that_is_still_sending(setting: Setting) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.receive(100_000)
        wire.reset()

    setting.upstream.on("/reset-upload", answer, early=True)
    with dialled(setting) as raw:
        raw.sendall(b"POST /reset-upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        raw.sendall(bytes(200_000))
        with pytest.raises(ConnectionError):
            assert raw.recv(65536), "closed"
    (stream,) = setting.recorded.ended("/reset-upload")
    assert setting.recorded.outcome(stream.stream_id) == "no_response"


@pytest.mark.parametrize("size", [REQUEST_BODY, REQUEST_BODY + 1])
def test_a_request_is_stored_up_to_a_size(setting: Setting, size: int) -> None:
    path, body = f"/limit/{size}", b"x" * size
    setting.upstream.on(path, lambda wire, asked: wire.whole(hashlib.sha256(asked.body).hexdigest().encode()))
    _, received = setting.ask(path, body=body, headers=[("Content-Type", "text/plain")])
    assert received == hashlib.sha256(body).hexdigest().encode()
    (stream,) = setting.recorded.ended(path)
    assert stream.request_body == (body if size <= REQUEST_BODY else None)


# Responses that are encoded

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("coding", CODINGS)
def test_what_is_encoded_all_the_same_passes_untouched_and_is_decoded_for_the_log(setting: Setting, coding: str) -> None:
    path, events = f"/coding/{coding}", [event(number) for number in range(200)]
    body = CODINGS[coding](b"".join(events))
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    headers = [SSE, ("Content-Encoding", coding)]
    setting.upstream.on(path, lambda wire, asked: wire.stream(pieces, headers))
    response, received = setting.ask(path, headers=[("Accept-Encoding", coding)])
    assert (response.getheader("content-encoding"), received) == (coding, body)
    assert setting.upstream.asked(path).header("accept-encoding") == ["identity"]
    (stream,) = setting.recorded.ended(path)
    assert setting.recorded.body(stream.stream_id) == b"".join(events)
    kept = setting.recorded.events(stream.stream_id)
    assert json.loads(kept[0].data)["decoded"] == coding
    assert len([entry for entry in kept if entry.type == "thread.message.delta"]) == len(events)


# Memory


def test_a_slow_client_makes_the_upstream_wait(setting: Setting) -> None:
    """What lies between the two is bounded by what the sockets hold, and a little."""
    size, piece = 256 * MEGABYTE, bytes(MEGABYTE)
    sent = [0]

    def answer(wire: Wire, asked: Asked) -> None:
        wire.head(200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
        for _ in range(size // len(piece)):
            wire.send(piece)
            sent[0] += len(piece)

    setting.upstream.on("/slow-client", answer)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.settimeout(PATIENCE)
        raw.connect((setting.proxy.host, setting.proxy.port))
        raw.sendall(b"GET /slow-client HTTP/1.1\r\nHost: x\r\n\r\n")
        taken = len(answered(raw))
        for _ in range(3):
            before = -1
            while before != sent[0]:
                before = sent[0]
                time.sleep(0.5)
            assert sent[0] - taken < 32 * MEGABYTE
            for _ in range(1000):
                taken += len(raw.recv(65536))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    (stream,) = setting.recorded.ended("/slow-client")
    assert setting.recorded.outcome(stream.stream_id) == "client_closed"


def test_a_slow_upstream_makes_the_client_wait(setting: Setting) -> None:
    go, taken = threading.Event(), [0]

    def answer(wire: Wire, asked: Asked) -> None:
        assert go.wait(PATIENCE)
        while data := wire.reader.read1(65536):
            taken[0] += len(data)
            if taken[0] == 256 * MEGABYTE:
                wire.whole(b"{}")

    setting.upstream.on("/slow-upstream", answer, early=True)
    with dialled(setting) as raw:
        raw.sendall(b"POST /slow-upstream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (256 * MEGABYTE))
        raw.settimeout(2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MEGABYTE:
                sent += raw.send(bytes(MEGABYTE))
        assert sent < 32 * MEGABYTE
        go.set()
        raw.settimeout(PATIENCE)
        while sent < 256 * MEGABYTE:
            sent += raw.send(bytes(min(MEGABYTE, 256 * MEGABYTE - sent)))
        assert answered(raw).startswith(b"HTTP/1.1 200 ")
    setting.recorded.ended("/slow-upstream")


@pytest.mark.parametrize("way", transfers.WAYS)
def test_memory_does_not_grow_with_what_passes(tmp_path: Path, way: str) -> None:
    """At a small size here; `python -m tests.proofs transfers` moves a gigabyte each way."""
    found = transfers.moved(tmp_path, way, 128 * MEGABYTE)
    assert found.arrived
    assert found.grown < transfers.MOST_GROWN


def test_what_the_database_does_not_take_is_dropped_at_a_size_and_said(tmp_path: Path) -> None:
    """The client gets all of it, the memory is bounded, and a `$gap` says how much is missing."""
    size, piece = QUEUE_BYTES + 32 * MEGABYTE, bytes(range(256)) * 4096
    all_of_it = transfers.without_limits(tmp_path)
    with Upstream() as upstream, ProxyProcess(upstream.origin, *all_of_it, db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)

        def answer(wire: Wire, asked: Asked) -> None:
            wire.head(200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
            for _ in range(size // len(piece)):
                wire.send(piece)

        upstream.on("/v1", answer)
        here.recorded.engine.dispose()
        locking = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        locking.execute("BEGIN IMMEDIATE")
        connection = here.connect()
        connection.request("GET", "/v1")
        response = connection.getresponse()
        digest, received = hashlib.sha256(), 0
        while data := response.read(MEGABYTE):
            digest.update(data)
            received += len(data)
        connection.close()
        assert (received, digest.digest()) == (size, hashlib.sha256(piece * (size // len(piece))).digest())
        assert 0 < proxy.metric("recorder_queue_bytes") <= QUEUE_BYTES + MEGABYTE
        assert proxy.metric("recorder_queue_age_seconds") > 0
        dropped = proxy.metric("recorder_dropped_bytes_total")
        assert dropped >= 32 * MEGABYTE - len(piece)
        locking.execute("ROLLBACK")
        locking.close()
        (stream,) = here.recorded.ended("/v1")
        kept = here.recorded.events(stream.stream_id)
        gaps = [json.loads(entry.data) for entry in kept if entry.type == "$gap"]
        assert sum(gap["bytes"] for gap in gaps) == dropped
        assert len(here.recorded.body(stream.stream_id)) + dropped == size
        assert proxy.metric('recorder_gaps_total{reason="queue full"}') == len(gaps)
        here.recorded.engine.dispose()
