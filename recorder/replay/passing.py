"""Passing on what no recording answers: to the one upstream that was named for it, recorded as it goes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from recorder.collect.origin import CONNECT_SECONDS, Origin
from recorder.collect.transport import RecordingTransport
from recorder.errors import UsageError
from recorder.replay.match import Asked
from recorder.settings import Settings

_KEPT_BACK = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-recorder-client",
        "x-recorder-token",
    }
)
"""Headers that are meant for one connection, for recorder, or that are set anew."""

_NOT_GIVEN = frozenset({"connection", "keep-alive", "transfer-encoding", "trailer", "upgrade"})


class Passing:
    """An upstream (scheme, host and port) that is asked where nothing was recorded. Raises UsageError for what is none.

    db, session, settings: as of RecordingTransport. token: a secret of this server's own, which is not passed on.
    """

    def __init__(
        self, url: str, db: str, *, session: str | None = None, settings: Settings | None = None, token: str | None = None
    ) -> None:
        try:
            origin = Origin(url)
        except UsageError as error:
            raise UsageError(str(error).replace("--upstream", "--fallback", 1)) from None
        parts = urlsplit(url if "//" in url else f"https://{url}")
        self.host, self.leads_to = origin.host, origin.is_at
        self._origin = f"{parts.scheme}://{origin.host}"
        self._token = token
        self._transport = RecordingTransport(httpx.AsyncHTTPTransport(), db, session=session, settings=settings)

    @property
    def complete(self) -> bool:
        """Once it is closed: whether all that was passed on is in the log."""
        return self._transport.complete

    @asynccontextmanager
    async def response(self, asked: Asked, headers: Iterable[tuple[str, str]]) -> AsyncIterator[httpx.Response]:
        """The upstream's response, whose body is read with aiter_raw(). Raises httpx.TransportError."""
        base = httpx.URL(self._origin)
        target = asked.path + (f"?{asked.query}" if asked.query else "")
        secret = () if self._token is None else (f"bearer {self._token}".lower(),)
        sent = [pair for pair in headers if pair[0] not in _KEPT_BACK and pair[1].lower() not in secret]
        request = httpx.Request(
            asked.method,
            base.copy_with(raw_path=os.fsencode(target)),
            headers=[*sent, ("accept-encoding", "identity")],
            content=(asked.body if asked.sent is None else asked.sent) or None,
            extensions={"timeout": {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": None}},
        )
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Waits until all is committed."""
        await self._transport.aclose()


def given(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    """The headers of a response that a client is given, with what says where it comes from."""
    stream_id = str(response.extensions.get("recorder.stream_id", ""))
    own = [(b"x-recorder-match", b"fallback"), *([(b"x-recorder-stream", stream_id.encode())] if stream_id else [])]
    return [
        (name.lower(), value) for name, value in response.headers.raw if name.lower().decode("latin-1") not in _NOT_GIVEN
    ] + own
