"""The base URL of a deck: an ASGI application that hands each request to the deck's transport, and its answer on as it comes."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import httpx

from recorder.collect.asgi import Receive, Scope, Send, body_of, disconnected
from recorder.collect.transport import Transport

_OF_A_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""RFC 9110, 7.6.1"""


class Source(Protocol):
    def transport(self, inner: Any = None) -> Transport: ...


class App:
    """origin: scheme and host of the API that is asked for what is not in the recording, where that is asked for."""

    def __init__(self, origin: str, deck: Source) -> None:
        self._origin = httpx.URL(origin)
        self._deck = deck
        self._transport: Transport | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._transport = self._deck.transport()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._transport.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            body = await body_of(receive)
            if body is None:
                return
            answering = asyncio.create_task(self._answer(scope, body, send))
            gone = asyncio.create_task(disconnected(receive))
            try:
                await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                answering.cancel()
                gone.cancel()
                await asyncio.wait({answering, gone})
            if not answering.cancelled():
                answering.result()

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        assert self._transport is not None
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        skipped = _OF_A_CONNECTION | {b"host", b"content-length"}
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in skipped]
        request = httpx.Request(scope["method"], self._origin.copy_with(raw_path=target), headers=headers, content=body)
        try:
            response = await self._transport.handle_async_request(request)
            try:
                kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_A_CONNECTION]
                await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
                async for chunk in response.stream:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                await response.aclose()
            await send({"type": "http.response.body", "body": b""})
        except httpx.TransportError:  # what broke for the recorder breaks for its client
            scope["recorder.connection"].transport.close()
