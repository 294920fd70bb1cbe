"""The tee: a byte stream of httpx or httpx2 that records what passes through it.

Both families are served by the same code and neither is imported: the stream that is wrapped says which one it is of, for a
client asserts that the stream of a response is of its own family's SyncByteStream or AsyncByteStream. The tee swallows
nothing and waits for nothing. SDKs break off at [DONE] and call close() first, which is where a recording ends at the latest.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from recorder.collect import exchange, secrets
from recorder.collect.recording import Recording
from recorder.collect.sharing import Shared
from recorder.errors import DatabaseError

logger = logging.getLogger(__name__)

FAMILIES = ("httpx", "httpx2")

_SESSION = "recorder.session"
"""The extension of a request in which its label is kept."""


class Observer:
    """What a hook and a transport have in common: it takes requests and responses of either family, and never raises."""

    def __init__(self, shared: Shared, source: str, session: str | None) -> None:
        self._shared = shared
        self._source = source
        self._session = session

    def label(self, request: Any) -> str | None:
        """The session's label, from recorder's own header (which is taken off the request), else as it was given.

        What a client makes of a request (a redirect's next one, the same one with a login) takes its extensions along.
        """
        try:
            if own := request.headers.pop(exchange.SESSION_HEADER, None):
                request.extensions[_SESSION] = own
            return request.extensions.get(_SESSION) or self._session
        except Exception:
            logger.exception("a request's headers cannot be read")
            return self._session

    def begin(self, request: Any, label: str | None, began_ns: int) -> Recording | None:
        """Begin to record the stream of a request; None where it is not to be recorded, or that fails, which is logged."""
        try:
            url = request.url
            path, _, query = url.raw_path.decode("latin-1").partition("?")
            if self._shared.settings.skips_path(path):
                return None
            known: secrets.Known = set()
            stream, missing = exchange.begun(
                request.method,
                url.netloc.decode("latin-1"),
                path,
                query,
                request.headers.multi_items(),
                _content(request),
                source=self._source,
                label=label,
                limit=self._shared.settings.max_request_body,
                known=known,
            )
            recording = self._shared.writer.begin(stream, began_ns, known=known)
            recording.note(missing)
        except DatabaseError as error:  # it was closed meanwhile, or is its parent's alone
            logger.warning("a request is not recorded: %s", error)
            return None
        except Exception:
            logger.exception("a request is not recorded")
            return None
        return recording

    def respond(self, response: Any, recording: Recording | None) -> None:
        """Note how a response begins, and put the tee in its stream."""
        if recording is None:
            return
        try:
            headers = response.headers
            response.extensions["recorder.stream_id"] = recording.stream.stream_id
            kept = secrets.headers(headers.multi_items(), secrets.RESPONSE_HEADERS)
            encoding = headers.get("content-encoding")
            if response.is_stream_consumed:  # it has its content already, decoded, and nobody will read its stream
                kept = tuple((name, value) for name, value in kept if name not in ("content-encoding", "content-length"))
                recording.response(response.status_code, kept, headers.get("content-type"))
                recording.chunk(response.content)
                recording.end("eof")
                return
            recording.response(response.status_code, kept, headers.get("content-type"), encoding)
            response.stream = tee_class(type(response.stream))(response.stream, recording)
        except Exception:
            logger.exception("a response is not recorded")
            give_up(recording, "its response could not be observed")

    def unanswered(self, recording: Recording | None, error: BaseException) -> None:
        """Note that a request failed before it had a response."""
        if recording is not None:
            closed = how_it_closed(error)
            end(recording, "no_response" if closed == "cut" else closed, error)


def end(recording: Recording, closed: str, error: BaseException | None = None) -> None:
    """End a recording, as of Recording.end, with what an error says. Never raises."""
    try:
        recording.end(closed, None if error is None or isinstance(error, GeneratorExit) else said(error))
    except Exception:
        logger.exception("the end of a stream is not recorded")


def give_up(recording: Recording, reason: str) -> None:
    """Record no more of a stream, whose recorder failed; the log says so if that works at least. Never raises."""
    with suppress(Exception):
        recording.gap(reason)
    end(recording, "lost")


def how_it_closed(error: BaseException) -> str:
    """Whose doing an error in a stream is: the client's, which gave up or was cancelled, or the connection's."""
    gave_up = isinstance(error, TimeoutError) or any(kind.__name__ == "ReadTimeout" for kind in type(error).__mro__)
    return "client_closed" if gave_up or not isinstance(error, Exception) else "cut"


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__


_classes: dict[tuple[type, ...], type] = {}


def tee_class(kind: type) -> type:
    """The class of the tee for a stream of this class: sync, async or both. Raises TypeError where it is of neither family."""
    bases = {base.__name__: base for base in kind.__mro__ if base.__module__.partition(".")[0] in FAMILIES}
    tees = [(tee, bases[name]) for name, tee in _TEES.items() if name in bases]
    if not tees:
        raise TypeError(f"{kind.__name__} is no byte stream of {' or '.join(FAMILIES)}")
    parents = (*(tee for tee, _ in tees), *(base for _, base in tees))
    if parents not in _classes:
        _classes[parents] = type("Tee", parents, {})
    return _classes[parents]


class _Tee:
    def __init__(self, stream: Any, recording: Recording) -> None:
        self._stream = stream
        self._recording = recording

    def _give_up(self) -> Callable[[bytes], None]:
        """What is to be called for the chunks that follow one with which the recorder failed."""
        logger.exception("a stream is not recorded from here on")
        give_up(self._recording, "what follows could not be recorded")
        return _nothing

    def __del__(self) -> None:
        end(self._recording, "client_closed")  # nobody closed it, and nobody can any more


class _SyncTee(_Tee):
    def __iter__(self) -> Iterator[bytes]:
        chunk_arrived: Callable[[bytes], None] = self._recording.chunk
        try:
            for chunk in self._stream:
                try:
                    chunk_arrived(chunk)
                except Exception:  # noqa: BLE001 - logged there
                    chunk_arrived = self._give_up()
                yield chunk
        except BaseException as error:
            end(self._recording, how_it_closed(error), error)
            raise
        end(self._recording, "eof")

    def close(self) -> None:
        end(self._recording, "client_closed")
        self._stream.close()


class _AsyncTee(_Tee):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunk_arrived: Callable[[bytes], None] = self._recording.chunk
        try:
            async for chunk in self._stream:
                try:
                    chunk_arrived(chunk)
                except Exception:  # noqa: BLE001 - logged there
                    chunk_arrived = self._give_up()
                yield chunk
        except BaseException as error:
            end(self._recording, how_it_closed(error), error)
            raise
        end(self._recording, "eof")

    async def aclose(self) -> None:
        end(self._recording, "client_closed")
        await self._stream.aclose()


def _nothing(chunk: bytes) -> None:
    pass


def _content(request: Any) -> bytes | None:
    """The body of a request that was made whole; an upload that streams has none to be had."""
    try:
        return bytes(request.content)
    except Exception:  # noqa: BLE001 - RequestNotRead, of either family
        kind = type(request.stream)
        whole = kind.__name__ == "ByteStream" and kind.__module__.partition(".")[0] in FAMILIES
        return b"".join(request.stream) if whole else None  # a redirect's is whole, too, though nobody has read it


_TEES = {"SyncByteStream": _SyncTee, "AsyncByteStream": _AsyncTee}
"""By the class of a family that each stands in for."""
