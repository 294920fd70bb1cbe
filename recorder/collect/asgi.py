"""ASGI, as far as recorder's own servers read it: its types, a request's body, and that its client has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a request's body from which on it is refused."""


class TooLarge(Exception):
    """A request's body is larger than BODY_LIMIT."""


async def body_of(receive: Receive) -> bytes | None:
    """A request's body, whole; None if its client left before it was. Raises TooLarge."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT:
            raise TooLarge(f"the request's body is larger than {BODY_LIMIT:,} bytes")
        more = message.get("more_body", False)
    return bytes(body)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
