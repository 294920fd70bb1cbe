"""The hook: records what an existing client of httpx or httpx2 receives, or an SDK object that holds such a client."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import anyio.to_thread

from recorder.collect import sharing
from recorder.collect.client import http_client_of
from recorder.collect.tee import Observer
from recorder.collect.transport import RecordingTransport
from recorder.database import DEFAULT_URL
from recorder.errors import UsageError
from recorder.settings import Settings, load


def record(
    client: object,
    db: str | None = None,
    *,
    session: str | None = None,
    settings: Settings | str | os.PathLike[str] | None = None,
) -> Hook:
    """Record all that a client receives from now on, until the hook that this returns is closed.

    client: a Client or AsyncClient of httpx or httpx2, or an SDK object that holds one (OpenAI, AsyncOpenAI, Anthropic …).
    Nothing else about it changes.
    db: the database's URL; else RECORDER_DB, else sqlite:///recorder.db. A SQLite file is made where there is none.
    session: a label that makes one session of all that is recorded here. A request's own header X-Recorder-Session goes
    before; it is not sent on.
    settings: what is redacted, left out or limited: Settings, or a file of them; else the file that RECORDER_SETTINGS names.

    The hook is a context, too (in a coroutine: `async with`, so that the event loop does not wait); leaving it, closing it and
    the end of the process wait until all is committed. A request that gets no response at all passes it unseen; a
    RecordingTransport records those as well.

    Raises UsageError for an object without such a client, or one that is recorded already, and DatabaseError.
    """
    return Hook(client, db, session=session, settings=settings)


class Hook:
    """A client that is recorded; record() makes it. `name`: the database, as messages name it."""

    def __init__(
        self,
        client: object,
        db: str | None = None,
        *,
        session: str | None = None,
        settings: Settings | str | os.PathLike[str] | None = None,
    ) -> None:
        self._client = http_client_of(client)
        if recorded := _recorded_by(self._client):
            raise UsageError(f"this client is recorded already, into {recorded}; close that first")
        self._shared = sharing.acquire(db or os.environ.get("RECORDER_DB") or DEFAULT_URL, load(settings))
        self._observer = Observer(self._shared, "hook", session)
        self._began: WeakKeyDictionary[Any, tuple[int, str | None]] = WeakKeyDictionary()
        self.name = self._shared.name
        self.closed = False
        is_async = hasattr(self._client, "aclose")
        self._hooks = {
            "request": self._on_request_async if is_async else self._on_request,
            "response": self._on_response_async if is_async else self._on_response,
        }
        # After the hooks of the user's own that change a request, and before those that read a response, or raise for it.
        # The lists are made anew, here and in close(): a request that is under way may be going through them.
        hooks = self._client.event_hooks
        hooks["request"] = [*hooks["request"], self._hooks["request"]]
        hooks["response"] = [self._hooks["response"], *hooks["response"]]

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was recorded so far is committed; whether it was in time (seconds)."""
        return self.closed or self._shared.flush(timeout)

    def close(self) -> None:
        """Take the hook off the client, and wait until all that it recorded is committed."""
        if self.closed:
            return
        self.closed = True
        for kind, hook in self._hooks.items():
            hooks = self._client.event_hooks
            hooks[kind] = [other for other in hooks.get(kind, []) if other != hook]
        sharing.release(self._shared)

    async def aclose(self) -> None:
        """close(), without keeping the event loop waiting for the database."""
        await anyio.to_thread.run_sync(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def _on_request(self, request: Any) -> None:
        self._began[request] = time.perf_counter_ns(), self._observer.label(request)

    def _on_response(self, response: Any) -> None:
        if self.closed:
            return
        began_ns, label = self._began.pop(response.request, (time.perf_counter_ns(), None))
        self._observer.respond(response, self._observer.begin(response.request, label, began_ns))

    async def _on_request_async(self, request: Any) -> None:
        self._on_request(request)

    async def _on_response_async(self, response: Any) -> None:
        self._on_response(response)


def _recorded_by(client: Any) -> str | None:
    """The database into which a client is recorded already."""
    hooks = [getattr(hook, "__self__", None) for hook in client.event_hooks.get("response", [])]
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    return next((by.name for by in (*hooks, *transports) if isinstance(by, (Hook, RecordingTransport))), None)
