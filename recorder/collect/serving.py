"""Running an ASGI application on a socket, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

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
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        interface="asgi3",
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=75,
    )
    server = _Server(config)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener, ready))


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
