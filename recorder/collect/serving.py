"""Running an ASGI application on a socket: in the main thread until a signal says stop, or in a thread of its own.

Beside what ASGI says of a request, its scope has `recorder.connection`: an object for each connection, with its `transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recorder.errors import RecorderError

GRACE_SECONDS = 10
"""How long open streams may go on after SIGTERM."""

SWITCH_SECONDS = 0.0005
"""How long the writer thread may keep the interpreter from the event loop: the default of 5 ms would be seen as delay."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises RecorderError where the port is taken."""
    try:
        return socket.create_server((host, port), backlog=2048, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RecorderError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; name another with --port"
        ) from None


def serve(app: Any, listener: socket.socket, ready: Callable[[], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; streams that are open then may go on for GRACE_SECONDS."""
    sys.setswitchinterval(SWITCH_SECONDS)
    config = _config(app)
    server = _Server(config)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener, ready))


@contextlib.contextmanager
def serving(app: Any, listener: socket.socket, grace_seconds: int = GRACE_SECONDS, **options: Any) -> Iterator[None]:
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


def _config(app: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        **{
            "http": _Protocol,
            "log_config": None,
            "log_level": "critical",
            "access_log": False,
            "server_header": False,
            "date_header": False,
            "lifespan": "on",
            "interface": "asgi3",
            "ws": "none",
            "timeout_graceful_shutdown": GRACE_SECONDS,
            "timeout_keep_alive": 75,
            **options,
        },
    )


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, but requests know their connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["recorder.connection"] = self  # type: ignore[typeddict-unknown-key]


async def _serve(server: _Server, listener: socket.socket, ready: Callable[[], None] | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
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

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
