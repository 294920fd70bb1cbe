"""The one upstream of a proxy: where it is, and connections to it."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from base64 import b64encode
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from recorder.collect.connection import Connection
from recorder.errors import UsageError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
"""How long a connection to the upstream may take, its TLS included."""

_NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305, 5: when a host's next address is tried beside one that does not answer
_PORTS = {"http": 80, "https": 443}


class Origin:
    """url: scheme, host and port, no path. Raises UsageError.

    host: what the log calls it. header: the Host header's value. credentials: of the URL, as an Authorization header's value.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"https://{url}")
        if parts.scheme not in _PORTS or not parts.hostname:
            raise UsageError(f"--upstream {url!r} is no origin; write scheme, host and port: https://api.openai.com")
        try:
            port = parts.port
        except ValueError:
            raise UsageError(f"--upstream {url!r} has no port that exists; write a number up to 65535") from None
        if parts.path not in ("", "/") or parts.query:
            raise UsageError(f"--upstream {url!r} has a path; give the origin only, the client's own path is forwarded")
        self.host = parts.netloc.rpartition("@")[2]
        self._name = parts.hostname
        self._port = port or _PORTS[parts.scheme]
        name = f"[{self._name}]" if ":" in self._name else self._name
        shown = name if self._port == _PORTS[parts.scheme] else f"{name}:{self._port}"
        self.header = shown.encode("idna" if not shown.isascii() else "ascii")
        self.credentials = _basic(parts.username, parts.password)
        self._tls = _context() if parts.scheme == "https" else None
        self._failing = False

    def is_at(self, listener: socket.socket) -> bool:
        """Whether this is where a listener of this machine listens, as far as their names show (RFC 9110, 7.6: no loops)."""
        host, port = listener.getsockname()[:2]
        here = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")
        return self._port == port and (self._name == host or (self._name in here and host in here))

    def is_called(self, authority: bytes) -> bool:
        """Whether a request's target names this origin: its host and port."""
        named = authority.rpartition(b"@")[2].lower()
        return named in (self.header, b"%b:%d" % (self.header.removesuffix(b":%d" % self._port), self._port))

    async def connect(self) -> Connection:
        """A new connection. Raises OSError (also for names, TLS and time-outs), which is logged until it works again: once."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self._connected()
        except OSError as error:
            if not self._failing:
                self._failing = True
                logger.warning("cannot reach %s: %s; its clients' connections are closed", self.host, said(error))
            raise
        if self._failing:
            self._failing = False
            logger.warning("%s is reached again", self.host)
        return connection

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
        raw = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server_hostname = self._name if self._tls else None
            _, connection = await loop.create_connection(Connection, sock=raw, ssl=self._tls, server_hostname=server_hostname)
        except BaseException:
            raw.close()
            raise
        return connection


def said(error: BaseException) -> str:
    """An error in one line; a time-out has no words of its own."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"no connection within {CONNECT_SECONDS:g} s"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300] if str(error) else type(error).__name__


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _basic(user: str | None, password: str | None) -> bytes | None:
    if user is None and password is None:
        return None
    return b"Basic " + b64encode(f"{unquote(user or '')}:{unquote(password or '')}".encode())
