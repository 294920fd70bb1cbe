"""What stands between the events of a stream and the log: whether they are recorded at all, and what of them is redacted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from recorder import log
from recorder.collect.sampling import Sampled, Sampler
from recorder.log import Stream
from recorder.redaction import request
from recorder.redaction.echoes import Echoes
from recorder.redaction.redactor import FRAMING, Redactor
from recorder.redaction.rules import Rules
from recorder.settings import Settings
from recorder.sse import Frame, encode

logger = logging.getLogger(__name__)


class Screens:
    """Of one writer, by its settings."""

    def __init__(self, settings: Settings) -> None:
        self._rules = Rules.of(settings)
        self._sampler = Sampler(settings.sample) if settings.sample < 1 else None

    def of(self, stream: Stream, *, wait: bool = True, known: Iterable[str] = ()) -> Screen:
        """The screen of a stream that begins. wait: of Redactor. known: of Echoes."""
        return Screen(stream, self._sampler.begin(stream) if self._sampler else None, self._rules, wait, known)


class Screen:
    """Of one stream. stream: its row, as it may be stored."""

    def __init__(
        self, stream: Stream, sampled: Sampled | None, rules: Rules | None, wait: bool = True, known: Iterable[str] = ()
    ) -> None:
        self.stream = stream
        self._echoes = Echoes(known)
        self._sampled = sampled
        self._redactor = Redactor(rules, wait=wait) if rules else None
        self._failed = ""
        self._lost = [0, 0]  # frames, bytes
        if rules is not None and self.kept is not False:
            try:
                self.stream = redacted(rules, stream)
            except Exception as error:  # noqa: BLE001 - then nothing of it may be stored
                self._fail(error)
                self.stream = Stream(
                    stream.stream_id,
                    stream.method,
                    source=stream.source,
                    started_at=stream.started_at,
                    recorded_at=stream.recorded_at,
                )

    @property
    def kept(self) -> bool | None:
        """Whether the stream is recorded; None while that is not known."""
        return self._sampled.kept if self._sampled else True

    @property
    def closed(self) -> bool:
        """Whether nothing that comes can matter: the stream is not recorded, and tells nothing about others."""
        return self._sampled is not None and self._sampled.kept is False and self._sampled.learned

    @property
    def held(self) -> int:
        """Bytes of memory that wait for what follows, more or less."""
        return (self._sampled.held if self._sampled else 0) + (self._redactor.size if self._redactor else 0)

    def spill(self) -> list[Frame]:
        """What waits for what follows: there is no room for more of it, so it is decided, and redacted, by itself."""
        found = self.feed([], last=True) if self._sampled is not None else []
        if self._redactor is None or not self.kept or self._failed:
            return found
        try:
            return found + self._redactor.finish(whole=False)
        except Exception as error:  # noqa: BLE001 - what cannot be redacted is not stored
            frames = self._redactor.held()
            self._fail(error)
            return found + self._without(frames)

    def feed(self, frames: list[Frame], *, last: bool) -> list[Frame]:
        """What may be stored now of these frames and of those before. last: the stream is over. Never raises."""
        if self._sampled is not None:
            frames = self._sampled.feed(frames, last=last)
        if not self.kept:
            return frames
        if not self._failed:
            try:
                frames = self._echoes.feed(frames)
                return self._redactor.feed(frames) if self._redactor else frames
            except Exception as error:  # noqa: BLE001 - what cannot be redacted is not stored
                frames = [*(self._redactor.held() if self._redactor else ()), *frames]
                self._fail(error)
        return self._without(frames)

    def _fail(self, error: Exception) -> None:
        self._failed = type(error).__name__  # its message may hold what is not to be told
        logger.error("stream %s cannot be redacted and is not recorded any further: %s", self.stream.stream_id, self._failed)

    def _without(self, frames: list[Frame]) -> list[Frame]:
        """Nothing of these but how the stream ended, and how much is missing."""
        left = []
        for frame in frames:
            if frame.type == "$end":
                outcome = {"outcome": log.outcome_of(frame.data)}
                said = {"chunks": self._lost[0], "bytes": self._lost[1], "reason": f"not redacted: {self._failed}"}
                left += [log.system_frame("$gap", said, frame.offset_us), log.system_frame("$end", outcome, frame.offset_us)]
            else:
                self._lost[0] += 1
                self._lost[1] += len(encode(frame.type, frame.data) if frame.raw is None else frame.raw)
        return left


def redacted(rules: Rules, stream: Stream) -> Stream:
    """The row of a stream: its body, and what of its path, query and headers' values matches."""
    return stream._replace(
        path=request.path(rules, stream.path),
        query=request.query(rules, stream.query),
        request_headers=tuple(
            (name, value if name in FRAMING else request.text(rules, value)) for name, value in stream.request_headers
        ),
        request_body=None if stream.request_body is None else request.body(rules, bytes(stream.request_body)),
    )


def redacted_frames(rules: Rules, frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames of one stream, as many as there were."""
    redactor = Redactor(rules)
    for frame in frames:
        yield from redactor.feed((frame,))
    yield from redactor.finish()
