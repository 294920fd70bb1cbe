"""Sampling: whether a stream is recorded, decided for its whole session.

The session's label or thread decides, by its hash, so that processes that know nothing of each other decide alike. A stream that
makes its thread (create-thread-and-run), its conversation or its response is decided by the id that its first events tell; until
then it waits. Ids that a stream tells inherit its decision: the thread of a labelled session, the next links of a chain of
previous_response_id. Whatever belongs to no session is decided by itself.

What was inherited is known to one process, and there for the latest KNOWN ids: a chain that goes on in another process, or after
a restart, may be cut there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from recorder import jsontext
from recorder.log import Stream
from recorder.sse import Frame, is_system

KNOWN = 100_000
"""Ids whose decision is remembered."""

PATIENCE = 32
"""Frames after which a stream that has told no id is decided by itself."""


class Sampler:
    """Of one process. share: of all sessions, from 0 to 1."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._known: OrderedDict[str, bool] = OrderedDict()

    def begin(self, stream: Stream) -> Sampled:
        return Sampled(self, stream)

    def decide(self, ids: Iterable[str]) -> bool:
        """The decision of a session by its ids, one or more: that of the first that is known, else its first id's hash."""
        ids = list(ids)
        for id in ids:
            if id in self._known:
                self._known.move_to_end(id)
                return self._known[id]
        hashed = int.from_bytes(blake2b(ids[0].encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        return hashed < self._share * 2**64

    def inherit(self, ids: Iterable[str], kept: bool) -> None:
        for id in ids:
            self._known.setdefault(id, kept)
            self._known.move_to_end(id)
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)


class Sampled:
    """One stream. kept: whether it is recorded, None while that is not known. learned: whether it has told all that it will."""

    __slots__ = ("_held", "_sampler", "_stream", "held", "kept", "learned")

    def __init__(self, sampler: Sampler, stream: Stream) -> None:
        self._sampler = sampler
        self._stream = stream
        self._held: list[Frame] = []
        self.held = 0  # characters of them
        named = [*([f"label {stream.session_label}"] if stream.session_label else ()), *_asked(stream)]
        self.kept = sampler.decide(named) if named else None
        self.learned = not _tells(stream)
        if self.kept is not None:
            sampler.inherit(named, self.kept)
        elif self.learned:
            self.kept = sampler.decide([stream.stream_id])

    def feed(self, frames: list[Frame], *, last: bool) -> list[Frame]:
        """What is to be recorded now; nothing as long as it is not known whether, and of a stream that is not kept."""
        if not self.learned:
            self._learn(frames, last)
        if self.kept is None:
            self._held += frames
            self.held += sum(len(frame.data) for frame in frames)
            return []
        held, self._held, self.held = self._held, [], 0
        return [*held, *frames] if self.kept else []

    def _learn(self, frames: list[Frame], last: bool) -> None:
        told = list(dict.fromkeys(id for frame in frames for id in _told(frame)))
        self.learned = bool(told) or last or len(self._held) + len(frames) > PATIENCE
        if self.kept is None and self.learned:
            self.kept = self._sampler.decide(told or [self._stream.stream_id])
        if told and self.kept is not None:
            self._sampler.inherit(told, self.kept)


def _asked(stream: Stream) -> Iterator[str]:
    """The ids of the session that a request names: its thread or conversation, the response before it."""
    segments = stream.path.split("/")
    for kind, others in _KINDS.items():
        if kind in segments:
            after = segments[segments.index(kind) + 1 :]
            if after and after[0] and after[0] not in others:
                yield after[0]
    if _makes(stream) == "responses" and stream.request_body:
        yield from _links(jsontext.object_of(bytes(stream.request_body).decode("utf-8", "replace")))


_KINDS = {"threads": ("runs",), "conversations": (), "responses": ("compact", "input_tokens")}
"""Segments of paths behind which an id of a session stands → what may stand there instead."""


def _makes(stream: Stream) -> str | None:
    """What a request makes, if that is one of a session: the last segment of its path that says so."""
    segments = stream.path.rstrip("/").split("/")
    if stream.method != "POST":
        return None
    if segments[-2:] == ["threads", "runs"]:
        return "threads"
    return segments[-1] if segments[-1] in _KINDS else None


def _tells(stream: Stream) -> bool:
    """Whether the response may tell ids that the request does not."""
    return _makes(stream) is not None or bool(stream.session_label)


def _told(frame: Frame) -> Iterator[str]:
    """The ids of a session that a frame tells, the one that decides first."""
    if is_system(frame.type) and frame.type != "$body":
        return
    said = jsontext.object_of(frame.data)
    if isinstance(said.get("data"), dict) and isinstance(said.get("event"), str):
        said = said["data"]  # the envelope of a gateway
    inner = said.get("response")
    if isinstance(inner, dict):
        said = inner
    kind = said.get("object")
    if _is_id(said.get("thread_id")):
        yield said["thread_id"]
    if kind == "response":
        yield from _links(said)
    if kind in ("thread", "conversation", "response") and _is_id(said.get("id")):
        yield said["id"]


def _links(said: dict[str, Any]) -> Iterator[str]:
    """What a response, or a request for one, hangs on."""
    conversation = said.get("conversation")
    for id in (conversation.get("id") if isinstance(conversation, dict) else conversation, said.get("previous_response_id")):
        if _is_id(id):
            yield str(id)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256
