"""Who may ask: names of this machine, and pages that are of it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from recorder.collect.asgi import BODY_LIMIT, body_of
from recorder.collect.gate import Gate, Names
from recorder.collect.http1 import HEAD_LIMIT
from recorder.collect.serving import listen, serving


def refused(names: Names, authority: bytes | None = None, **headers: str) -> int:
    """The status of the refusal; 0 if there is none."""
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    refusal = names.refused(given, authority)
    return int(refusal.status[:3]) if refusal else 0


OWN = (
    "localhost LOCALHOST:8787 app.localhost localhost. 127.0.0.1:1 127.9.9.9 [::1]:8787 x recorder:8787 mac.local"
    f" host.docker.internal:8787 {socket.gethostname()}"
).split()


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert refused(Names(), host=host) == 0
    assert refused(Names(), host=host, origin=f"http://{host}") == 0


OTHERS = [
    "evil.example",
    "evil.example:8787",
    "localhost.evil.example",
    "192.0.2.1",
    "127.0.0.1.evil.example",
    "localhost, evil.example",
]


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_not(host: str) -> None:
    assert refused(Names(), host=host) == 421
    assert refused(Names(), host="localhost", origin=f"https://{host}") == 403


def test_beyond_loopback_any_address_is_a_name_and_no_site() -> None:
    for host in ("192.0.2.1:8787", "[2001:db8::1]", "localhost"):
        assert refused(Names("0.0.0.0"), host=host) == 0
    assert refused(Names("0.0.0.0"), host="evil.example") == 421


def test_what_is_allowed_is_a_name() -> None:
    assert refused(Names(allowed=["Recorder.Example"]), host="recorder.example:80", origin="https://recorder.example") == 0
    assert refused(Names(allowed=["*"]), host="any.example", origin="https://other.example") == 0
    assert refused(Names("recorder.example"), host="recorder.example") == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "null"}, 403),
        ({"origin": "http://"}, 403),
        ({"origin": "http://wiki"}, 403),
        ({"origin": "chrome-extension://localhost"}, 403),
        ({"origin": "http://[bad"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 0),
        ({"sec_fetch_site": "same-origin", "origin": "http://localhost:3000"}, 0),
    ],
)
def test_a_page_is_known_by_its_origin(headers: dict[str, str], status: int) -> None:
    assert refused(Names(), host="localhost", **headers) == status


@pytest.mark.parametrize(("authority", "status"), [(b"internal", 421), (b"a.example", 421), (b"localhost:1", 0), (b"u@[::1]", 0)])
def test_a_target_that_names_a_host_is_for_that_host_alone(authority: bytes, status: int) -> None:
    assert refused(Names(), authority, host=authority.decode()) == status


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with how long path, query and body are."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    body = await body_of(receive) or b""
    said = b"%d %d %d" % (len(scope["raw_path"]), len(scope["query_string"]), len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


def answers(token: str | None, *requests: bytes, close: bool = False) -> bytes:
    """What a gated server says to requests on one connection."""
    said = b""
    with (
        listen("127.0.0.1", 0) as listener,
        serving(Gate(echo, Names(), token), listener, grace_seconds=0),
        socket.create_connection(listener.getsockname(), 5) as raw,
    ):
        for request in requests:
            raw.sendall(request)
        if close:
            raw.shutdown(socket.SHUT_WR)
        while data := raw.recv(65_536):
            said += data
    return said


LAST = b"Host: localhost\r\nConnection: close\r\n\r\n"


def test_urls_of_any_length_are_served() -> None:
    assert answers(None, b"GET /%b?q=%b HTTP/1.1\r\n%b" % (b"p" * 70_000, b"q" * 80_000, LAST)).endswith(b"\r\n\r\n70001 80002 0")


@pytest.mark.parametrize(
    "begins", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "]
)
def test_a_head_that_does_not_end_is_refused(begins: bytes) -> None:
    assert answers(None, begins, b"a" * (HEAD_LIMIT + 300_000), close=True).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_is_too_large_is_refused_and_not_held() -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n%b" % (BODY_LIMIT + 1, LAST)
    assert answers(None, head, *[b"a" * 2**20] * (BODY_LIMIT >> 20), b"a").startswith(b"HTTP/1.1 413 ")


def test_what_comes_in_tiny_chunks_is_read_a_part_in_each_turn_and_whole() -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + LAST
    assert answers(None, head + b"1\r\na\r\n" * 50_000, b"0\r\n\r\n").endswith(b" 50000")


def test_many_requests_at_once_are_answered_in_turn() -> None:
    said = answers(None, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3_000, b"GET / HTTP/1.1\r\n" + LAST)
    assert said.count(b"HTTP/1.1 200 ") == 3_001


@pytest.mark.parametrize(
    ("token", "target", "headers", "status"),
    [
        (None, b"/", b"", 200),
        (None, b"/", b"Host: evil.example\r\n", 400),
        (None, b"/", b"Origin: https://evil.example\r\n", 403),
        (None, b"http://a.example/", b"", 421),
        ("t", b"/", b"", 401),
        ("t", b"/", b"Authorization: Bearer t\r\nOrigin: https://page.example\r\n", 200),
        ("t", b"http://a.example/", b"Authorization: Bearer t\r\n", 421),
    ],
)
def test_a_gate_asks_for_name_origin_and_token(token: str | None, target: bytes, headers: bytes, status: int) -> None:
    assert answers(token, b"GET %b HTTP/1.1\r\n%b%b" % (target, headers, LAST)).startswith(b"HTTP/1.1 %d " % status)
