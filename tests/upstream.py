"""A bare-socket HTTP/1.1 upstream: it answers as a test scripts it, byte for byte, and keeps what it was asked.

with Upstream() as upstream:
    upstream.on("/v1/runs", lambda wire, asked: wire.stream([b"data: 1\\n\\n"]))
    … a request to upstream.origin …
    assert upstream.asked("/v1/runs").body == b"{}"
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Container, Iterable
from typing import BinaryIO, NamedTuple

Headers = Iterable[tuple[str, str]]

SSE = ("Content-Type", "text/event-stream")
PATIENCE = 20.0
"""Seconds after which a test that waits for something has hung."""


class Asked(NamedTuple):
    """A request as it came: head is its bytes up to the blank line, body without its transfer coding."""

    head: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        """The values of a header, whatever the case of its name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Wire:
    """The connection to answer on: whole answers, or their parts with pauses, cuts and resets in between."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.reader = connection.makefile("rb")
        self.open = True

    def send(self, body: bytes) -> None:
        self._connection.sendall(body)

    def receive(self, size: int) -> bytes:
        """So many bytes of what comes next, as they are on the wire; fewer where it ends. For answers that are early."""
        return self.reader.read(size)

    def head(self, status: int = 200, headers: Headers = (SSE,), reason: str = "Said") -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.send(f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1"))

    def begin(self, headers: Headers = (SSE,), status: int = 200) -> None:
        """The head of a chunked answer."""
        self.head(status, (*headers, ("Transfer-Encoding", "chunked")))

    def chunk(self, body: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(body), body))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def stream(self, pieces: Iterable[bytes], headers: Headers = (SSE,), status: int = 200, pause: float = 0) -> None:
        """A whole chunked answer, `pause` seconds between its pieces."""
        self.begin(headers, status)
        for piece in pieces:
            self.chunk(piece)
            if pause:
                time.sleep(pause)
        self.end()

    def whole(self, body: bytes, headers: Headers = (("Content-Type", "application/json"),), status: int = 200) -> None:
        """A whole answer with its length."""
        self.head(status, (*headers, ("Content-Length", str(len(body)))))
        self.send(body)

    def cut(self) -> None:
        """Close the connection, orderly for TCP."""
        self.open = False
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def reset(self) -> None:
        """Close it with a TCP reset, once what was sent has arrived: a reset discards what has not."""
        self.open = False
        deadline = time.monotonic() + PATIENCE
        while self._unacknowledged() and time.monotonic() < deadline:
            time.sleep(0.001)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def _unacknowledged(self) -> int:
        """Bytes that the other side's kernel has not taken yet (Linux)."""
        return int.from_bytes(fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def left(self, seconds: float = PATIENCE) -> bool:
        """Whether the other side closes the connection within so many seconds."""
        self._connection.settimeout(seconds)
        try:
            return self._connection.recv(65536) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


Answer = Callable[[Wire, Asked], None]


class Upstream:
    """Listens on a port of this machine, a free one by default; a thread for each connection. Use it as a context.

    tls: what it speaks HTTP through, where it does not speak it in the clear.

    otherwise: how to answer what on() says nothing about.
    Errors of answers are kept in `errors`; one that fails because the other side has left is none.
    """

    def __init__(self, otherwise: Answer | None = None, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._otherwise = otherwise or _unknown
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._answers: dict[str, Answer] = {}
        self._early: set[str] = set()
        self._asked: list[Asked] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Condition()
        self.connections = 0
        self.errors: list[Exception] = []
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def on(self, path: str, answer: Answer, *, early: bool = False) -> None:
        """How to answer requests for this path (the target up to its `?`). early: at their head, before their body is read."""
        self._answers[path] = answer
        (self._early.add if early else self._early.discard)(path)

    def count(self, path: str) -> int:
        """How many requests for a path there have been."""
        with self._lock:
            return sum(asked.target.partition("?")[0] == path for asked in self._asked)

    def asked(self, path: str, number: int = 0) -> Asked:
        """The request of this number for a path; waits for it."""
        with self._lock:
            found: list[Asked] = []

            def came() -> bool:
                found[:] = [asked for asked in self._asked if asked.target.partition("?")[0] == path]
                return len(found) > number

            assert self._lock.wait_for(came, PATIENCE), f"no request {number} for {path}; there were {self._asked}"
            return found[number]

    def never_asked(self, path: str) -> bool:
        """Whether no request has come for a path so far."""
        with self._lock:
            return all(asked.target.partition("?")[0] != path for asked in self._asked)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            wire = Wire(connection)
            with wire.reader as reader:
                while wire.open and (asked := _read(reader, self._early)) is not None:
                    with self._lock:
                        self._asked.append(asked)
                        self._lock.notify_all()
                    answer = self._answers.get(asked.target.partition("?")[0], self._otherwise)
                    answer(wire, asked)
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 - of a test's own answer: the test looks at it
            self.errors.append(error)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def _unknown(wire: Wire, asked: Asked) -> None:
    wire.whole(b'{"error": {"message": "the test has no answer for this"}}', status=404)


def _read(reader: BinaryIO, early: Container[str]) -> Asked | None:
    """The next request of a connection, or None where it ended. early: the paths whose bodies are not read."""
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line)
    if not line or not lines:
        return None
    method, target, _ = lines[0].decode("latin-1").split(" ")
    pairs = (line.decode("latin-1").rstrip("\r\n").split(":", 1) for line in lines[1:])
    headers = [(name, value.strip(" \t")) for name, value in pairs]
    asked = Asked(b"".join(lines), method, target, headers, b"")
    if target.partition("?")[0] in early:
        return asked
    if asked.header("transfer-encoding") == ["chunked"]:
        body = b""
        while size := int(reader.readline().split(b";")[0] or b"0", 16):  # b"": the other side has left
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int((asked.header("content-length") or ["0"])[0]))
    return asked._replace(body=body)
