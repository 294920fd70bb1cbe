"""Serving on a socket: in the main thread until a signal says stop, or in a thread of its own.

What serves is an ASGI application, or an Attendant, which gets each connection as it is. Beside what ASGI says of a request, its
scope has `recorder.connection`: an object for each connection, with its `transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from recorder.collect import http1
from recorder.collect.connection import LINGER_SECONDS, TURN_BYTES, Client
from recorder.errors import RecorderError

GRACE_SECONDS = 10.0
"""How long open streams may go on after SIGTERM."""

SWITCH_SECONDS = 0.0005
"""How long the writer thread may keep the interpreter from the event loop: the default of 5 ms would be seen as delay."""


_PARSED_URL = 65_535
"""Bytes of a URL that httptools takes apart."""


@runtime_checkable
class Attendant(Protocol):
    async def attend(self, client: Client) -> None:
        """Serve a connection until it ends; cancelled where the server can wait no longer."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises RecorderError where the port is taken."""
    try:
        return socket.create_server((host, port), backlog=2048, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RecorderError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; name another with --port"
        ) from None


def address(host: str, listener: socket.socket) -> str:
    """The URL at which a listener on this host is reached."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def serve(
    app: Any, listener: socket.socket, ready: Callable[[], None] | None = None, grace_seconds: float = GRACE_SECONDS
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; streams that are open then may go on for grace_seconds, or until a second signal."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _allow_many_connections()
    config = _config(app, timeout_graceful_shutdown=grace_seconds)
    server = _Server(config)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener, ready))


@contextlib.contextmanager
def serving(app: Any, listener: socket.socket, grace_seconds: float = GRACE_SECONDS, **options: Any) -> Iterator[None]:
    """Serve from a thread of its own until the context is left; streams that are open then may go on for grace_seconds.

    A request that comes before the server is up waits in the listener's backlog. options: of uvicorn.Config.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    server = _Server(_config(app, timeout_graceful_shutdown=grace_seconds, **options))
    thread = threading.Thread(target=server.run, args=([listener],), name="recorder-server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _allow_many_connections() -> None:
    """A stream takes two connections; the usual limit of 1,024 files, kept for programs that use select(), is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _config(app: Any, **options: Any) -> uvicorn.Config:
    attended = isinstance(app, Attendant)
    return uvicorn.Config(
        app,
        **{
            "http": partial(_Attended, app.attend) if attended else _Protocol,
            "log_config": None,
            "log_level": "critical",
            "access_log": False,
            "server_header": False,
            "date_header": False,
            "lifespan": "off" if attended else "on",
            "interface": "asgi3",
            "ws": "none",
            "timeout_graceful_shutdown": GRACE_SECONDS,
            "timeout_keep_alive": 75,
            **options,
        },
    )


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, but requests know their connection and their target as it came, which may be long; heads are bounded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience = http1.Patience()
        self._idle = True
        self._refused = False
        self._rest = bytearray()  # what has arrived and was not read
        self._size = 0

    def data_received(self, data: bytes) -> None:
        """A part in each turn of the event loop: tiny chunks and requests are many steps, and others wait meanwhile."""
        self._rest += data
        if len(self._rest) == len(data):
            self._take()
        if self._rest and not self.transport.is_closing():
            self.transport.pause_reading()

    def _take(self) -> None:
        data = bytes(self._rest[:TURN_BYTES])
        if self.parser is not None and not self._refused:
            self._read(data)
        del self._rest[: len(data)]
        if self._rest:
            self.loop.call_soon(self._take)
        elif not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _read(self, data: bytes) -> None:
        super().data_received(data)
        if not self._idle and (self._patience.ends(len(data)) or self._size > http1.HEAD_LIMIT):
            self._refused = True  # what still comes is dropped, so that the client gets to read why
            body = f"the head is longer than {http1.HEAD_LIMIT:,} bytes".encode()
            self.transport.write(http1.answer(http1.TooLong.status, body, b"text/plain", close=True))
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def eof_received(self) -> None:
        if self._refused:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["recorder.connection"] = self  # type: ignore[typeddict-unknown-key]
        self._idle, self._size = False, 0

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        target = self.url
        self.scope["recorder.target"] = target  # type: ignore[typeddict-unknown-key]
        long = len(target) > _PARSED_URL and target.startswith(b"/")
        if long:
            self.url = b"/"  # httptools takes no longer ones apart
        super().on_headers_complete()
        if long:  # the application's task has not begun yet
            path, _, query = target.partition(b"#")[0].partition(b"?")
            self.scope["path"], self.scope["raw_path"] = unquote(path.decode("latin-1")), path
            self.scope["query_string"] = query

    def on_body(self, body: bytes) -> None:
        self._patience.given += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._patience.given += 1
        self._idle = True
        super().on_message_complete()

    def _grow(self, size: int) -> None:
        self._patience.given += 1
        self._size += size


class _Attended(Client):
    """A connection that an Attendant serves, as uvicorn makes and counts them."""

    def __init__(self, attend: Callable[[Client], Awaitable[None]], server_state: ServerState, **_: Any) -> None:
        super().__init__()
        self._attend = attend
        self._state = server_state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.connections.add(self)  # type: ignore[arg-type]
        task = asyncio.get_running_loop().create_task(self._run())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def connection_lost(self, error: Exception | None) -> None:
        self._state.connections.discard(self)
        super().connection_lost(error)

    async def _run(self) -> None:
        await self._attend(self)


async def _serve(server: _Server, listener: socket.socket, ready: Callable[[], None] | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # it is, under nohup
            loop.add_signal_handler(number, server.handle_exit, number, None)
    server.ready = ready
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, but a signal that asked it to stop is not raised again once it has: the process goes on and exits 0."""

    ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready and self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks to stop, the second to stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
