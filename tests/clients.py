"""Clients of httpx and httpx2, sync and async, spoken to in one way, so that one test body serves them all.

What may have to be awaited goes through finished(); a sync client's answer is there already.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import httpx
import httpx2

from recorder.collect.hook import Hook, record


class Kind(NamedTuple):
    family: ModuleType
    is_async: bool

    @property
    def name(self) -> str:
        return self.family.__name__ + ("-async" if self.is_async else "")

    def client(self, **options: Any) -> Any:
        return (self.family.AsyncClient if self.is_async else self.family.Client)(**options)

    def transport(self, **options: Any) -> Any:
        return (self.family.AsyncHTTPTransport if self.is_async else self.family.HTTPTransport)(**options)

    def upload(self, pieces: Sequence[bytes]) -> Any:
        """Content that a client of this kind sends piece by piece."""
        return _async_pieces(pieces) if self.is_async else iter(pieces)

    async def begin(self, client: Any, url: str, method: str = "POST", **request: Any) -> Any:
        """Send a request; the response, its body unread."""
        return await finished(client.send(client.build_request(method, url, **request), stream=True))

    def raw(self, response: Any) -> Any:
        """The chunks of a body as they come, for following()."""
        return response.aiter_raw() if self.is_async else response.iter_raw()

    async def read(self, response: Any) -> bytes:
        """The whole body, decoded."""
        return await finished(response.aread() if self.is_async else response.read())  # type: ignore[no-any-return]

    async def close(self, what: Any) -> None:
        """Close a response, its chunks, a client, a transport or a hook."""
        await finished(what.aclose() if self.is_async else what.close())

    async def fetch(
        self, client: Any, url: str, method: str = "POST", had: Callable[[bytes], object] = len, **request: Any
    ) -> Fetched:
        """Ask and read to the end, as an application does, chunk by chunk. had: is called with each of them."""
        response = None
        chunks: list[bytes] = []
        failed: BaseException | None = None
        try:
            response = await self.begin(client, url, method, **request)
            chunks_of = self.raw(response)
            while (chunk := await following(chunks_of)) is not None:
                chunks.append(chunk)
                had(chunk)
        except Exception as error:  # noqa: BLE001 - what it is, is what is looked at
            failed = error
        if response is not None:
            await self.close(response)
        return Fetched(response, chunks, failed)

    def recorded(self, client: Any, db: str, **options: Any) -> Hooked:
        """A context in which a client is recorded."""
        return Hooked(self, record(client, db, **options))


class Hooked:
    def __init__(self, kind: Kind, hook: Hook) -> None:
        self._kind = kind
        self.hook = hook

    async def __aenter__(self) -> Hook:
        return self.hook

    async def __aexit__(self, *error: object) -> None:
        await self._kind.close(self.hook)


class Fetched(NamedTuple):
    """What an application had of a request."""

    response: Any
    chunks: list[bytes]
    failed: BaseException | None

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def said(self) -> tuple[Any, ...]:
        """All of it that can be compared with another one's."""
        status = self.response and (self.response.status_code, self.response.headers.multi_items())
        return status, self.body, type(self.failed), str(self.failed)


async def finished(value: Any) -> Any:
    """The value itself, or what comes of it where it is to be awaited."""
    return await value if inspect.isawaitable(value) else value


async def following(chunks: Any) -> bytes | None:
    """The next chunk of Kind.raw(), None at the end."""
    if hasattr(chunks, "__anext__"):
        return await anext(chunks, None)  # type: ignore[no-any-return]
    return next(chunks, None)  # type: ignore[no-any-return]


async def _async_pieces(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


KINDS = [Kind(family, is_async) for family in (httpx, httpx2) for is_async in (False, True)]
SYNC_KINDS = [kind for kind in KINDS if not kind.is_async]
ASYNC_KINDS = [kind for kind in KINDS if kind.is_async]
