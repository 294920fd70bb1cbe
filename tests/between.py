"""A way to a PostgreSQL server that can be cut, or swallow all that is sent without closing anything, as a server that hangs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


class Way:
    """Connections on loopback that lead to the server's socket. url: of the database over this way."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        self._path = f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._swallowing: set[socket.socket] = set()
        self._hangs = False
        way = parsed.set(host="127.0.0.1", port=self._listener.getsockname()[1], query={})
        self.url = way.render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self) -> None:
        """From now on nothing goes over the connections that there are, nor over new ones."""
        self._hangs = True
        self._swallowing.update(self._sockets)

    def heal(self) -> None:
        """New connections work again; those that hang go on to."""
        self._hangs = False

    def cut(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if self._hangs:
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._path)
                self._sockets.append(server)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if one not in self._swallowing:
                    other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def way_to(url: str) -> Iterator[Way]:
    way = Way(url)
    try:
        yield way
    finally:
        way.close()
