"""Whatever goes wrong at the upstream, the openai SDKs meet the same through the proxy: events, errors, time-outs, retries."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import ProxyProcess
from tests.faults import FAULTS, PIECES, STALL_SECONDS
from tests.sdk.calls import Call
from tests.sdk.environments import Missing
from tests.sdk.matrix import NODE, PYTHONS, Client, Said, differences
from tests.upstream import Upstream

pytestmark = pytest.mark.slow

CLIENTS = [*PYTHONS, NODE]

RETRIED = ("closes before a byte", "refuses with 429")
"""Those which the SDKs may ask again about: twice, in calls of their own."""

RETRIES = 2

UNSETTLED = ("sends what is not gzip",)
"""Those of which Node's fetch, direct as well, may never say how they ended: its program then ends in their midst."""

TIMEOUT = STALL_SECONDS / 3
"""Of the Python SDKs' calls, in seconds; the one for Node waits until the upstream breaks off."""


def call(fault: str, retries: int = 0) -> Call:
    base = f"/{'again-' * bool(retries)}{fault.replace(' ', '-').strip('[]')}/v1"
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "timeout": TIMEOUT}
    return Call(fault, "chat.completions.create", base, f"{base}/chat/completions", {}, {}, body, retries)


def calls_of(client: Client) -> list[Call]:
    left_out = UNSETTLED if client == NODE else ()
    return [*(call(fault) for fault in FAULTS if fault not in left_out), *(call(fault, RETRIES) for fault in RETRIED)]


class Ways(NamedTuple):
    """What a client said of each call, and how often each was asked for: direct, and through the proxy."""

    calls: list[Call]
    direct: list[Said]
    asked: list[int]
    through: list[Said]
    asked_through: list[int]


def made(client: Client, calls: list[Call], origin: str) -> list[Said]:
    try:
        return client.make(calls, origin, "plain", None)
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=CLIENTS, ids=str)
def ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    client: Client = request.param
    calls = calls_of(client)
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=tmp_path_factory.mktemp("faults") / "log.db") as proxy:
        for one in calls:
            upstream.on(one.path, FAULTS[one.name])
        direct = made(client, calls, upstream.origin)
        asked = [upstream.count(one.path) for one in calls]
        through = made(client, calls, f"http://{proxy.host}:{proxy.port}")
        again = [upstream.count(one.path) - before for one, before in zip(calls, asked, strict=True)]
        yield Ways(calls, direct, asked, through, again)
        assert proxy.stop() == 0
        assert not [line for line in proxy.said if "ERROR" in line or "Traceback" in line], proxy.said


def test_the_sdk_meets_the_same_through_the_proxy(ways: Ways) -> None:
    found = differences(ways.calls, ways.direct, ways.through)
    assert not found, "\n".join(found)


def test_the_sdk_asks_as_often_through_the_proxy(ways: Ways) -> None:
    assert ways.asked == [1 + one.retries for one in ways.calls]
    assert ways.asked_through == ways.asked


def test_the_sdk_meets_faults(ways: Ways) -> None:
    """What is compared is not all alike: there are errors of several kinds, and events before some."""
    errors = {tuple(said["errors"].get("call", ()))[:1] for said in ways.direct}
    assert len(errors) >= 6, errors
    events = [len(said["events"]) for said in ways.direct]
    assert len(ways.calls) >= 20
    assert events.count(0) >= 10
    assert events.count(len(PIECES)) >= 8


@contextlib.contextmanager
def plain() -> Iterator[int]:
    """The port of a server that speaks no TLS, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                        connection.recv(65536)

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_an_upstream_that_cannot_be_reached_is_the_same_error_to_the_sdk(client: Client, tmp_path: Path) -> None:
    """The SDK's own; what caused it is another to its HTTP client, which has reached something."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    calls = [call("unreachable")]
    with plain() as port:
        for number, origin in enumerate((f"http://127.0.0.1:{closed}", "http://nowhere.invalid", f"https://127.0.0.1:{port}")):
            direct = made(client, calls, origin)[0]["errors"]["call"][0]
            with ProxyProcess(origin, db=tmp_path / f"{number}.db") as proxy:
                through = made(client, calls, f"http://{proxy.host}:{proxy.port}")[0]["errors"]["call"][0]
                assert "APIConnectionError" in direct
                assert through == direct
                assert proxy.wait_for("WARNING: cannot reach ")
                assert proxy.stop() == 0
