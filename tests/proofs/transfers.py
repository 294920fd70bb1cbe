"""A body of any size passes the proxy, each way, and its memory stays what it was.

A gigabyte by default: of the database, too, where what was downloaded is stored. The rest of a small machine's memory is of no
use to the proxy, so what is looked at is how much its peak grew over what it needed for a first, small transfer.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.commands import ProxyProcess
from tests.upstream import PATIENCE, Answer, Asked, Upstream, Wire

TITLE = "A gigabyte each way, and the memory of the proxy"
GIGABYTE = 1024**3
BINARY = ("Content-Type", "application/octet-stream")
PIECE = bytes(range(256)) * 4096
"""A megabyte."""

WAYS = ("upload", "chunked upload", "download", "chunked download")

MOST_GROWN = 100_000_000
"""Bytes by which the peak may grow, whatever is passed: the queue for the database has 64 MiB, and there are some buffers."""


class Found(NamedTuple):
    """arrived: whether what was sent did, to the byte. In bytes of resident memory: before, after, at the peak.

    dropped: bytes that the database did not take in time, so that they are not in the log.
    """

    arrived: bool
    before: int
    after: int
    peak: int
    dropped: int

    @property
    def grown(self) -> int:
        return self.peak - self.before


def run(size: int = GIGABYTE) -> list[str]:
    said = []
    for way in WAYS:
        with tempfile.TemporaryDirectory(prefix="recorder-proof-") as folder:
            found = moved(Path(folder), way, size)
        before, after, peak = (f"{value / 1e6:.1f}" for value in (found.before, found.after, found.peak))
        assert found.arrived, way
        assert found.grown < MOST_GROWN, (way, found)
        said.append(
            f"{way} of {size / 1e6:,.0f} MB: resident {before} MB before, {after} after, {peak} at the peak"
            + (f"; {found.dropped / 1e6:,.0f} MB came faster than the database takes them" if found.dropped else "")
        )
    return said


def moved(folder: Path, way: str, size: int) -> Found:
    """Pass a body of this size (a multiple of PIECE's) through a proxy of its own, and look at its memory."""
    with Upstream() as upstream, ProxyProcess(upstream.origin, *without_limits(folder), db=folder / "log.db") as proxy:
        send, answer = (_upload, _taking) if "upload" in way else (_download, _giving)
        for path, many in (("/small", len(PIECE)), ("/large", size)):
            upstream.on(path, answer(many, "chunked" in way), early="upload" in way)
        for _ in range(5):
            send(proxy, "/small", len(PIECE), "chunked" in way)
        before = memory(proxy.process.pid, "VmRSS")
        Path(f"/proc/{proxy.process.pid}/clear_refs").write_text("5")  # the peak counts from here
        arrived = send(proxy, "/large", size, "chunked" in way)
        dropped = int(proxy.metric("recorder_dropped_bytes_total"))
        return Found(arrived, before, memory(proxy.process.pid, "VmRSS"), memory(proxy.process.pid, "VmHWM"), dropped)


def without_limits(folder: Path) -> tuple[str, str]:
    """The options of a proxy that records bodies of any type and size."""
    file = folder / "settings.toml"
    file.write_text('skip_types = []\nmax_response_body = "1 TiB"\n')
    return "--settings", str(file)


def memory(pid: int, name: str) -> int:
    """VmRSS or VmHWM of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def digest(pieces: Iterable[bytes]) -> bytes:
    whole = hashlib.blake2b()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest().encode()


def pieces(size: int) -> Iterator[bytes]:
    return itertools.repeat(PIECE, size // len(PIECE))


def _upload(proxy: ProxyProcess, path: str, size: int, chunked: bool) -> bool:
    with contextlib.closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)) as connection:
        lengths = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
        connection.request("POST", path, pieces(size), lengths, encode_chunked=chunked)
        return connection.getresponse().read() == digest(pieces(size))


def _download(proxy: ProxyProcess, path: str, size: int, chunked: bool) -> bool:
    with contextlib.closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return digest(iter(partial(response.read, len(PIECE)), b"")) == digest(pieces(size))


def _taking(size: int, chunked: bool) -> Answer:
    """Answer an upload with the digest of what has come."""

    def arriving(wire: Wire) -> Iterator[bytes]:
        left = size
        while left:
            piece = wire.receive(min(left, len(PIECE)) if not chunked else int(wire.reader.readline(), 16))
            if chunked:
                wire.reader.readline()
            left -= len(piece)
            yield piece
        if chunked:
            wire.receive(len(b"0\r\n\r\n"))

    return lambda wire, asked: wire.whole(digest(arriving(wire)))


def _giving(size: int, chunked: bool) -> Answer:
    def answer(wire: Wire, asked: Asked) -> None:
        if chunked:
            wire.stream(pieces(size), [BINARY])
            return
        wire.head(200, [BINARY, ("Content-Length", str(size))])
        for piece in pieces(size):
            wire.send(piece)

    return answer
