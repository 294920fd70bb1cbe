"""The recording transport: the hook's work as a transport of httpx or httpx2, which sees requests without a response, too."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread

from recorder.collect import sharing
from recorder.collect.recording import Recording
from recorder.collect.tee import FAMILIES, Observer
from recorder.database import DEFAULT_URL
from recorder.settings import Settings, load

if TYPE_CHECKING:
    # At run time no family is imported, and none is needed: a client asks of its transport only what stands below.
    import httpx
    import httpx2

    class Family(httpx.BaseTransport, httpx.AsyncBaseTransport, httpx2.BaseTransport, httpx2.AsyncBaseTransport):
        def handle_request(self, request: Any) -> Any: ...

        async def handle_async_request(self, request: Any) -> Any: ...

else:
    Family = object


class Transport(Family):
    """What a client of either family, sync or async, asks of its transport: requests are handled, and it is closed."""

    def handle_request(self, request: Any) -> Any:
        raise NotImplementedError

    async def handle_async_request(self, request: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        await self.aclose()


class RecordingTransport(Transport):
    """A transport that records all that passes through the one it wraps, of either family, sync or async.

    transport: the one that does the work; by default the family's own HTTPTransport or AsyncHTTPTransport, as it is by itself
    (options of the client such as verify= or proxy= do not reach it: give a transport that was made with them).
    db, session, settings: as of record(). Closing it closes the wrapped one and waits until all is committed. Raises
    DatabaseError, and UsageError for settings that are none. complete: once it is closed, whether all is in the log.
    """

    def __init__(
        self,
        transport: Any = None,
        db: str | None = None,
        *,
        session: str | None = None,
        settings: Settings | str | os.PathLike[str] | None = None,
    ) -> None:
        self._transport = transport
        self._shared = sharing.acquire(db or os.environ.get("RECORDER_DB") or DEFAULT_URL, load(settings))
        self._observer = Observer(self._shared, "transport", session)
        self.name = self._shared.name
        self.closed = False
        self.complete = True

    def handle_request(self, request: Any) -> Any:
        recording = self._begin(request)
        try:
            response = self._of(request, "HTTPTransport").handle_request(request)
        except BaseException as error:
            self._observer.unanswered(recording, error)
            raise
        self._observer.respond(response, recording)
        return response

    async def handle_async_request(self, request: Any) -> Any:
        recording = self._begin(request)
        try:
            response = await self._of(request, "AsyncHTTPTransport").handle_async_request(request)
        except BaseException as error:
            self._observer.unanswered(recording, error)
            raise
        self._observer.respond(response, recording)
        return response

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was recorded so far is committed; whether it was in time (seconds)."""
        return self.closed or self._shared.flush(timeout)

    def close(self) -> None:
        try:
            if self._transport is not None:
                self._transport.close()
        finally:
            self._release()

    async def aclose(self) -> None:
        try:
            if self._transport is not None:
                await self._transport.aclose()
        finally:
            await anyio.to_thread.run_sync(self._release)  # it waits for the database, and the event loop must not

    def _begin(self, request: Any) -> Recording | None:
        """Begin to record; not after it was closed, when another client may still use it."""
        began_ns, label = time.perf_counter_ns(), self._observer.label(request)
        return None if self.closed else self._observer.begin(request, label, began_ns)

    def _of(self, request: Any, default: str) -> Any:
        """The wrapped transport; the family's default where none was given."""
        if self._transport is None:
            self._transport = getattr(family_of(request), default)()
        return self._transport

    def _release(self) -> None:
        if not self.closed:
            self.closed = True
            self.complete = sharing.release(self._shared)


def family_of(request: Any) -> Any:
    """The module, httpx or httpx2, that a request is of."""
    name = next(kind.__module__.partition(".")[0] for kind in type(request).__mro__ if kind.__module__.startswith(FAMILIES))
    return sys.modules[name]
