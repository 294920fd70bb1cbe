"""No network but this machine's own, for as long as it is asked: Python tells an audit hook of every connection that is begun.

What goes to the network past Python's socket module, as uvloop and libraries of other languages do, is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

ADVICE = "the network is blocked (--block-network)"

_LOCAL = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost"})


class Blocked(OSError):
    """What a connection fails with that leads away from this machine."""


class _State:
    depth = 0
    installed = False


@contextmanager
def blocked() -> Iterator[None]:
    """Connections to other machines, and look-ups of their names, raise Blocked in here."""
    if not _State.installed:
        sys.addaudithook(_on_event)  # there is no way to take one off
        _State.installed = True
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if not _State.depth or not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        if isinstance(address, tuple) and address and not _is_local(address[0]):
            raise Blocked(f"{ADVICE}: {address[0]}:{address[1] if len(address) > 1 else ''} was asked for")
    elif event == "socket.getaddrinfo" and not _is_local(args[0]):
        raise Blocked(f"{ADVICE}: {_text(args[0])}:{args[1]} was asked for")


def _is_local(host: Any) -> bool:
    if host is None:
        return True
    name = _text(host).partition("%")[0].rstrip(".").lower()
    try:
        return ip_address(name).is_loopback or ip_address(name).is_unspecified
    except ValueError:
        return name in _LOCAL


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
