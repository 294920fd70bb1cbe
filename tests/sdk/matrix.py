"""Each client goes each way: the same calls, direct and through all that stands in between, and what came of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.commands import Background, ProxyProcess, environment, sqlite
from tests.sdk import environments
from tests.sdk.calls import NAME_HEADER, Call

Said = dict[str, Any]
"""What a driver prints of one call."""

FOLDER = Path(__file__).parent
CLIENT_SECONDS = 300.0
"""After which a client has hung."""


class Client(NamedTuple):
    """An SDK, sync or async."""

    language: str
    version: str
    is_async: bool = True

    def __str__(self) -> str:
        kind = "" if self.language == "node" else "-async" if self.is_async else "-sync"
        return f"{self.language}-{self.version}{kind}"

    def program(self) -> tuple[list[str], dict[str, str]]:
        """The command line of its driver, and what more its jobs say. Raises Missing."""
        if self.language == "node":
            node, folder = environments.node()
            return [str(node), "--no-warnings", str(FOLDER / "driver.mjs")], {"folder": str(folder)}
        return [str(environments.python(self.version)), "-W", "ignore", str(FOLDER / "driver.py")], {}

    def make(self, calls: Iterable[Call], origin: str, way: str, db: Path | None) -> list[Said]:
        """Make calls in a process of its own, one after the other; what it says of each. Raises Missing."""
        line, more = self.program()
        job = {"origin": origin, "is_async": self.is_async, "way": way, "db": db and sqlite(db), "header": NAME_HEADER, **more}
        given = json.dumps({**job, "calls": [call._asdict() for call in calls]}).encode()
        done = subprocess.run(line, input=given, capture_output=True, timeout=CLIENT_SECONDS, env=bare_environment(), check=False)
        assert (done.returncode, done.stderr) == (0, b""), f"{self}: exit {done.returncode}: {done.stderr.decode()[-2000:]}"
        return [json.loads(line) for line in done.stdout.splitlines()]


def bare_environment() -> dict[str, str]:
    """This process's, without what SDKs and their HTTP clients read from it."""
    return {
        name: value
        for name, value in environment().items()
        if not name.upper().startswith(("OPENAI_", "AZURE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"))
    }


PYTHONS = [Client("python", version, is_async) for version in environments.PYTHON_SDKS for is_async in (False, True)]
NODE = Client("node", environments.NODE_SDK)
"""It is async always."""


class Way(NamedTuple):
    """driver: how the client goes. server: what it asks. log: who records, or recorded."""

    driver: str
    server: str
    log: str | None = None


WAYS = {
    "direct": Way("plain", "upstream"),
    "proxy": Way("plain", "proxy", "proxy"),
    "hook": Way("record", "upstream", "hook"),
    "served-from-proxy": Way("plain", "serve", "proxy"),
    "served-from-hook": Way("plain", "serve", "hook"),
    "replayed-from-proxy": Way("play", "nothing", "proxy"),
    "replayed-from-hook": Way("play", "nothing", "hook"),
}
"""In the order in which they are gone: what is replayed must have been recorded."""

NOWHERE = "http://127.0.0.1:9"
"""An origin where nothing listens."""


def ways(client: Client) -> list[str]:
    """Those that are open to a client: hook and transport are there for Python alone."""
    return [name for name, way in WAYS.items() if client.language == "python" or (way.driver == "plain" and way.log != "hook")]


@contextmanager
def proxying(upstream: str, db: Path) -> Iterator[str]:
    """`recorder proxy`; its origin. All is recorded when the context is left."""
    with ProxyProcess(upstream, db=db) as process:
        yield f"http://{process.host}:{process.port}"
        assert process.stop() == 0, process.said


@contextmanager
def serving(db: Path) -> Iterator[str]:
    """`recorder serve` at no pace; its origin. All that it is asked must be found."""
    with Background("serve", "--instant", "--port", "0", db=db) as process:
        yield process.wait_for(r"serving .* at (http://[^/;]+)")[1]
        assert process.stop() == 0, process.said
        assert "matched nothing" not in process.said[-1], process.said


class Matrix:
    """Runs clients the ways, two clients at a time, and keeps what they say. Use it as a context."""

    def __init__(self, upstream: str, calls: list[Call], folder: Path, clients: Iterable[Client]) -> None:
        self.calls = calls
        self._upstream = upstream
        self._folder = folder
        self._told: dict[tuple[Client, str], Future[list[Said]]] = {
            (client, way): Future() for client in clients for way in ways(client)
        }
        self._closing = False
        self._pool = ThreadPoolExecutor(2)

    def __enter__(self) -> Matrix:
        for client in dict.fromkeys(client for client, _ in self._told):
            self._pool.submit(self._go, client)
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        self._pool.shutdown(cancel_futures=True)

    def told(self, client: Client, way: str) -> list[Said]:
        """What a client said of each call, this way; waits for it. Raises what hindered it."""
        return self._told[client, way].result()

    def database(self, client: Client, log: str) -> Path:
        """The database in which the proxy, or the hook, recorded a client."""
        return self._folder / f"{client}-{log}.db"

    def _go(self, client: Client) -> None:
        try:
            client.program()
        except BaseException as error:  # noqa: BLE001 - the tests that ask are told
            for way in ways(client):
                self._told[client, way].set_exception(error)
            return
        for way in ways(client):
            if self._closing:
                return
            try:
                self._told[client, way].set_result(self._ask(client, way))
            except BaseException as error:  # noqa: BLE001 - as above
                self._told[client, way].set_exception(error)

    def _ask(self, client: Client, name: str) -> list[Said]:
        way = WAYS[name]
        calls = [call.on(name) for call in self.calls]
        db = self.database(client, way.log) if way.log else None
        origin = {"upstream": self._upstream, "nothing": NOWHERE}.get(way.server, "")
        with ExitStack() as stack:
            if way.server == "proxy" and db:
                origin = stack.enter_context(proxying(self._upstream, db))
            elif way.server == "serve" and db:
                origin = stack.enter_context(serving(db))
            return client.make(calls, origin, way.driver, db)


def differences(calls: list[Call], direct: list[Said], told: list[Said]) -> list[str]:
    """Where what was told differs from what came direct: a line for each call."""
    assert len(direct) == len(told) == len(calls)
    found = []
    for call, expected, said in zip(calls, direct, told, strict=True):
        where = next((where for where in expected if where != "match" and expected[where] != said[where]), None)
        if where is not None:
            found.append(f"{call.id}: {where} {_first(expected[where], said[where])}")
    return found


def _first(expected: Any, said: Any) -> str:
    if isinstance(expected, list) and isinstance(said, list):
        for number, (one, other) in enumerate(zip(expected, said, strict=False)):
            if one != other:
                return f"[{number}] {str(one)[:300]} ≠ {str(other)[:300]}"
        return f"are {len(said)}, not {len(expected)}"
    return f"{str(expected)[:300]} ≠ {str(said)[:300]}"
