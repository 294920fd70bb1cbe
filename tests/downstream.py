"""A bare-socket HTTP/1.1 client: it sees each chunk of an answer when it comes, and how the connection ends.

with Downstream(port) as client:
    answer = client.ask("POST", "/v1/runs", b"{}")
    assert answer.pieces() == [b"data: 1\\n\\n", b"data: 2\\n\\n"]
    assert answer.complete
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator
from io import BufferedReader

from tests.upstream import PATIENCE

NO_BODY = (204, 304)


class Answer:
    """An answer whose head has come. pieces() reads on: the chunks of a chunked body, or what each read brings of another.

    times: when each piece came, seconds since the request was sent; ended: when the body did. complete: whether the answer came
    to its own end (its last chunk, its content length) rather than to that of the connection; None until it has ended.
    """

    def __init__(self, reader: BufferedReader, began: float, method: str) -> None:
        self._reader = reader
        self._began = began
        status_line = reader.readline()
        assert status_line.startswith(b"HTTP/1.1 "), f"the connection ended without a response: {status_line!r}"
        self.status = int(status_line.split(b" ")[1])
        self.headers: list[tuple[str, str]] = []
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            self.headers.append((name.lower(), value.strip()))
        self.head_came = time.perf_counter() - began
        self.times: list[float] = []
        self.ended = 0.0
        self.complete: bool | None = None
        self._bodyless = method == "HEAD" or self.status in NO_BODY

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def pieces(self) -> list[bytes]:
        return list(self.each())

    def body(self) -> bytes:
        return b"".join(self.each())

    def each(self) -> Iterator[bytes]:
        with contextlib.suppress(ConnectionError):
            for piece in self._read():
                self.times.append(time.perf_counter() - self._began)
                yield piece
        self.ended = time.perf_counter() - self._began
        self.complete = bool(self.complete)

    def _read(self) -> Iterator[bytes]:
        if self._bodyless:
            self.complete = True
        elif self.header("transfer-encoding") == "chunked":
            yield from self._chunks()
        elif (length := self.header("content-length")) is not None:
            yield from self._counted(int(length))
        else:
            raise AssertionError(f"how long is the body? {self.headers}")

    def _chunks(self) -> Iterator[bytes]:
        while line := self._reader.readline():
            size = int(line, 16)
            if not size:
                self.complete = self._reader.readline() == b"\r\n"
                return
            piece = self._reader.read(size)
            if self._reader.read(2) != b"\r\n":
                return
            yield piece

    def _counted(self, left: int) -> Iterator[bytes]:
        while left and (piece := self._reader.read1(min(left, 65536))):
            left -= len(piece)
            yield piece
        self.complete = not left


class Downstream:
    """One connection to a port of this machine. Use it as a context."""

    def __init__(self, port: int, patience: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), patience)
        self.reader: BufferedReader = self.socket.makefile("rb")

    def __enter__(self) -> Downstream:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def send(self, method: str, target: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> float:
        """Send a request; when that was."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        length = f"Content-Length: {len(body)}\r\n" if body or method in ("POST", "PUT", "PATCH") else ""
        began = time.perf_counter()
        self.socket.sendall(f"{method} {target} HTTP/1.1\r\nHost: here\r\n{length}{lines}\r\n".encode("latin-1") + body)
        return began

    def ask(self, method: str, target: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> Answer:
        """Send a request; its answer, of which the head has come."""
        began = self.send(method, target, body, headers)
        return Answer(self.reader, began, method)

    def answer(self, method: str) -> Answer:
        """The next answer, to a request of this method that was sent before; its times are from now on."""
        return Answer(self.reader, time.perf_counter(), method)

    def closed(self) -> bool:
        """Whether the other side closes the connection without another byte; waits for it."""
        try:
            return self.reader.read(1) == b""
        except ConnectionError:
            return True

    def leave(self) -> None:
        """Close the connection, whatever is under way on it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.reader.close()
        self.socket.close()


def asked(
    port: int, method: str, target: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
) -> tuple[Answer, list[bytes]]:
    """A request on a connection of its own: its answer, ended, and the pieces of its body."""
    with Downstream(port) as client:
        answer = client.ask(method, target, body, headers)
        return answer, answer.pieces()
