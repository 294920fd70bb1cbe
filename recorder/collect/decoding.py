"""Entries → frames: what was said of a stream, as it is put on the writer's queue and as it is stored. Pure."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from recorder import log
from recorder.bodies import BodyDecoder, Decoder, LinesDecoder, decoder_for
from recorder.collect.allowance import Allowance, Limit
from recorder.collect.encoding import Decode, decode_for, is_encoded
from recorder.collect.outcome import Ending
from recorder.sse import Frame, encoded_size, is_system

logger = logging.getLogger(__name__)

NOTHING = {"chunks": 0, "bytes": 0}
"""What is lost where a `$gap` only says something."""

KEPT = frozenset({"$response", "$gap", "$end"})
"""System frames that recorder makes itself: small, and without them what is left of a stream says nothing."""


class Response(NamedTuple):
    """How a response began. headers: those that may be stored. limit: of its body, None where there is none."""

    status: int
    headers: tuple[tuple[str, str], ...]
    content_type: str | None
    content_encoding: str | None
    limit: Limit | None = None


class Lost(NamedTuple):
    """Why something is not in the log: a `$gap`."""

    chunks: int
    bytes: int
    reason: str


class Whole(NamedTuple):
    """The body is through: nothing of it is to be held back any more."""


class Closed(NamedTuple):
    """How the connection closed: eof, cut, client_closed, no_response or lost."""

    closed: str
    detail: str | None


Said = bytes | Response | Lost | Whole | Closed
"""What can be said of a stream: a chunk of its body, and these."""


class Decoding:
    """The frames of one stream. response: the frame of how it began. ending: the marks that stand in it so far."""

    __slots__ = ("_decode", "_decoder", "_failed", "_lines", "_said", "_within", "ending", "response")

    def __init__(self) -> None:
        self.ending = Ending()
        self.response: Frame | None = None
        self._said: Response | None = None
        self._decode: Decode = bytes
        self._decoder: Decoder | None = None
        self._lines = False
        self._failed = False
        self._within: Allowance | None = None  # of what is decoded, where that may be more than came

    def frames(self, said: Said, offset_us: int) -> list[Frame]:
        """The frames that are complete with what was said. Never raises: what cannot be decoded is kept as it came."""
        try:
            found = self._frames(said, offset_us)
        except Exception as error:
            if not self._failed:
                logger.exception("a chunk cannot be decoded and is kept as it came")
            self._failed = True
            found = self._undecoded(said, offset_us, f"not decoded: {one_line(error)}")
            found_body = self.ending.body
            self.ending.see(found)
            self.ending.body = found_body  # what is kept as it came is no body that was complete
            return found
        self.ending.see(found)
        return found

    def size(self, frame: Frame) -> int:
        """Bytes of the body that a frame stands for."""
        type, data, raw, *_ = frame
        if raw is not None:
            return len(raw)
        return len(data.encode()) + 1 if self._lines and not is_system(type) else encoded_size(type, data)

    def _frames(self, said: Said, offset_us: int) -> list[Frame]:
        decoder = self._decoder
        if isinstance(said, bytes):
            return self._chunk(decoder, said, offset_us) if decoder is not None else []
        if isinstance(said, Response):
            return [self._begin(said, offset_us)]
        if isinstance(said, Lost):
            # What comes after lost bytes does not go on with what was before.
            before = decoder.finish() if said.bytes and decoder is not None else []
            return [*before, gap(said, offset_us)]
        left = decoder.finish() if decoder is not None else []
        if isinstance(said, Whole):
            return left
        beyond = self._within
        over = [gap(Lost(beyond.chunks, beyond.bytes, beyond.reason), offset_us)] if beyond and beyond.bytes else []
        return [*left, *over, self._end(said, left, offset_us)]

    def _begin(self, said: Response, offset_us: int) -> Frame:
        self._said = said
        decode = decode_for(said.content_encoding)
        self._decode = decode or bytes
        self._within = Allowance(said.limit) if said.limit and decode is not None and is_encoded(said.content_encoding) else None
        self._decoder = decoder_for(said.content_type, said.status, encoded=decode is None)
        self._lines = isinstance(self._decoder, LinesDecoder)
        shown: dict[str, Any] = {"status": said.status, "headers": said.headers}
        if decode is not None and is_encoded(said.content_encoding):
            shown["decoded"] = said.content_encoding
        self.response = log.system_frame("$response", shown, offset_us)
        return self.response

    def _chunk(self, decoder: Decoder, chunk: bytes, offset_us: int) -> list[Frame]:
        """From where a body is not encoded as was said, it is kept as it came."""
        try:
            decoded = self._decode(chunk)
        except Exception as error:  # noqa: BLE001 - each coding's library has errors of its own
            self._decode, self._decoder = bytes, BodyDecoder(join=False)
            said = gap(Lost(0, 0, f"not decoded from here on: {one_line(error)}"), offset_us)
            return [*decoder.finish(), said, *self._decoder.feed(chunk, offset_us)]
        return decoder.feed(self._within.take(decoded) if self._within else decoded, offset_us)

    def _end(self, said: Closed, left: list[Frame], offset_us: int) -> Frame:
        self.ending.see(left)
        outcome = self.ending.of_connection(said.closed, self._said.status if self._said else None)
        shown = {"outcome": outcome, "closed": said.closed, **({"detail": said.detail} if said.detail else {})}
        return log.system_frame("$end", shown, offset_us)

    def _undecoded(self, said: Said, offset_us: int, reason: str) -> list[Frame]:
        """What an entry amounts to where the decoder failed at it; a new one goes on with what follows."""
        broken, self._decoder = self._decoder, None
        if self._said is not None and not isinstance(said, Response):
            self._begin(self._said, self.response.offset_us if self.response else offset_us)
        try:
            before = broken.finish() if broken is not None else []
        except Exception as error:  # noqa: BLE001 - it is broken
            before = [gap(Lost(0, 0, f"half an event is lost: {one_line(error)}"), offset_us)]
        if isinstance(said, bytes):
            return [*before, gap(Lost(0, 0, reason), offset_us), *BodyDecoder(join=False).feed(said, offset_us)]
        if isinstance(said, Response):
            self._decoder = BodyDecoder(join=False)
            shown = {"status": said.status, "headers": ()}
            self.response = log.system_frame("$response", shown, offset_us)
            return [self.response, gap(Lost(0, 0, reason), offset_us)]
        if isinstance(said, Lost):
            return [*before, gap(said, offset_us)]
        if isinstance(said, Whole):
            return [*before, gap(Lost(0, 0, reason), offset_us)]
        return [*before, gap(Lost(0, 0, reason), offset_us), self._end(said, before, offset_us)]


def gap(lost: Lost, offset_us: int) -> Frame:
    return log.system_frame("$gap", lost._asdict(), offset_us)


def one_line(error: BaseException) -> str:
    """An error's message; of one that SQLAlchemy wraps the driver's own, without the statement and what was to be stored."""
    return (" ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__)[:300]
