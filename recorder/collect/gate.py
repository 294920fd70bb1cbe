"""Who may ask a server of recorder: everyone on this machine but the pages of others in its browser; from elsewhere, those who
know its token.

A page of any site can send requests to a server on this machine. Two headers that it cannot choose tell them apart: Host, which
is the page's own name where that name leads here (DNS rebinding), and Origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from recorder import jsontext
from recorder.collect.asgi import Receive, Scope, Send, TooLarge
from recorder.collect.http1 import hosts_amiss, target_of

_AUTHORITY = re.compile(r"(?:.*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]*)?")

TOKEN_HEADER = b"x-recorder-token"

REALM = (b"WWW-Authenticate", b'Bearer realm="recorder"')


def admitted(token: str | None, headers: Iterable[tuple[bytes, bytes]], *bearing: bytes) -> bool:
    """Whether a request carries the token: in X-Recorder-Token, or as `Bearer …` in one of these headers (in lower case).

    Without a token everyone may ask. How long it takes does not say how much of a wrong token is right.
    """
    if token is None:
        return True
    secret = token.encode()
    found = False
    for name, value in headers:
        scheme, _, rest = value.partition(b" ")
        if name.lower() == TOKEN_HEADER:
            found |= hmac.compare_digest(value, secret)
        elif name.lower() in bearing and scheme.lower() == b"bearer":
            found |= hmac.compare_digest(rest.strip(), secret)
    return found


def error(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """A body in the shape of the API's errors."""
    return jsontext.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def refusal(*bearing: str) -> bytes:
    """The body for a request that does not carry the token. bearing: the headers that may, beside X-Recorder-Token."""
    others = "".join(f" or in {name}: Bearer …" for name in bearing)
    return error(f"this recorder asks for its token, in the header X-Recorder-Token{others}", "no_recorder_token")


class Refusal(NamedTuple):
    """status: with its reason. body: in the shape of the API's errors."""

    status: bytes
    body: bytes


class Names:
    """The names by which a server may be called. host: what it listens on. allowed: more of them; `*` is every name.

    Those of this machine are: loopback addresses, localhost, its own name, and names that no site on the internet can have:
    without a dot, or in .localhost, .local or .internal (RFC 6761, RFC 6762, and the ICANN Board's resolution of 29 July 2024).
    A server that listens beyond loopback is called by any IP address as well, which no site's name can stand for.
    """

    def __init__(self, host: str = "127.0.0.1", allowed: Iterable[str] = ()) -> None:
        self._own = {"localhost", socket.gethostname().lower(), _bare(host)}
        self._allowed = {_bare(name) for name in allowed}
        self._beyond = not _loopback(host)

    def refused(self, headers: Iterable[tuple[bytes, bytes]], authority: bytes | None = None) -> Refusal | None:
        """Why a request is not answered. authority: of its target, if that is in the absolute form (RFC 9112, 3.2.2)."""
        given = {name.lower(): value.decode("latin-1") for name, value in headers}
        host, origin = given.get(b"host", ""), given.get(b"origin", "")
        if authority is not None and not self.knows(name := _host(authority.decode("latin-1")), strictly=True):
            message = f"{name} is another host than this recorder, which is no proxy for it: make this a base URL instead"
            return Refusal(b"421 Misdirected Request", error(message, "misdirected_request"))
        if host and not self.knows(_host(host)):
            message = f"the Host {host} is no name of this machine: if it is meant, allow it with --allow-host"
            return Refusal(b"421 Misdirected Request", error(message, "misdirected_request"))
        cross_site = given.get(b"sec-fetch-site") == "cross-site" and given.get(b"sec-fetch-mode") != "navigate"
        if not self._serves(origin, _host(host)) if origin else cross_site:
            message = f"a page of another site ({origin or 'cross-site'}) asks: if it may, allow its host with --allow-host"
            return Refusal(b"403 Forbidden", error(message, "cross_site"))
        return None

    def knows(self, name: str, *, strictly: bool = False) -> bool:
        """Whether it may be called by this name, of a host alone. strictly: names that are merely local are not enough."""
        name = _bare(name)
        if name in self._own or name in self._allowed or "*" in self._allowed or name.endswith(".localhost"):
            return True
        if (loopback := _loopback(name)) is not None:
            return loopback or self._beyond
        return not strictly and bool(name) and ("." not in name or name.endswith((".local", ".internal")))

    def _serves(self, origin: str, host: str) -> bool:
        """Whether pages of this origin may ask: those of this machine, of the host that they ask, and of what is allowed."""
        if "*" in self._allowed:
            return True
        scheme, name = _site(origin)
        if scheme not in ("http", "https"):  # of an extension, a file, or nobody's (`null`)
            return _bare(name) in self._allowed
        return self.knows(name, strictly=True) or (bool(name) and _bare(name) == _bare(host))


class Gate:
    """An ASGI application that lets requests through to another: by one of these names, with the token if there is one, and with
    a body that is not too large.

    Authorization may carry the token, too. A request that carries it may call the server by any name.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], names: Names, token: str | None = None) -> None:
        self._app = app
        self._names = names
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        if refused is None:
            try:
                await self._app(scope, receive, send)
            except TooLarge as large:
                refused = Refusal(b"413 Content Too Large", error(str(large), "too_large"))
            else:
                return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(refused.body))]
        headers += [REALM] if refused.status.startswith(b"401") else []
        await send({"type": "http.response.start", "status": int(refused.status[:3]), "headers": headers})
        await send({"type": "http.response.body", "body": refused.body})

    def _refused(self, scope: Scope) -> Refusal | None:
        if not admitted(self._token, scope["headers"], b"proxy-authorization", b"authorization"):
            return Refusal(b"401 Unauthorized", refusal("Authorization"))
        if wrong := hosts_amiss(scope["headers"], scope["http_version"]):
            return Refusal(b"400 Bad Request", error(f"the request is no HTTP: {wrong}", "bad_request"))
        target = target_of(scope["recorder.target"])
        if self._token and (target is None or target.authority is None):
            return None
        return self._names.refused(scope["headers"], target and target.authority)


def _site(url: str) -> tuple[str, str]:
    """Scheme and host of an Origin; of `null`, neither."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _host(authority: str) -> str:
    """The host of `user@host:port`; "" if it is none."""
    found = _AUTHORITY.fullmatch(authority.strip())
    return found[1] if found else ""


def _bare(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _loopback(host: str) -> bool | None:
    """Whether an IP address is one of loopback; None for a name."""
    try:
        return ipaddress.ip_address(_bare(host)).is_loopback
    except ValueError:
        return None
