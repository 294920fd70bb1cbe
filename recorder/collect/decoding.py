"""Entries → frames: what was said of a stream, as it is put on the writer's queue and as it is stored. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from recorder import kind, log
from recorder.bodies import BodyDecoder, Decoder, LinesDecoder, decoder_for
from recorder.collect.allowance import Allowance, Limit
from recorder.collect.encoding import Decode, decode_for, is_encoded, window_of
from recorder.collect.outcome import Ending
from recorder.kind import Telling
from recorder.sse import Frame, encode, encoded_size, is_system

logger = logging.getLogger(__name__)

STEP = 64 * 1024
"""Bytes of a body that are made into frames at a time."""

BOMB_BYTES = 64 * 1024 * 1024
BOMB_RATIO = 100
"""A body that decodes to more than so many bytes, and to more than so many times its own, is left out from there on."""

_SMALL = 1024 * 1024

NOTHING = {"chunks": 0, "bytes": 0}
"""What is lost where a `$gap` only says something."""

KEPT = frozenset({"$response", "$gap", "$end"})
"""System frames that recorder makes itself: small, and without them what is left of a stream says nothing."""


class Response(NamedTuple):
    """How a response began. headers: those that may be stored. limit: of its body, where that is no stream; None for none."""

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
    """How the connection closed: eof, cut, client_closed, no_response or lost.

    chunks, bytes: of the body, as they came, that were left out since it was beyond its limit.
    """

    closed: str
    detail: str | None
    chunks: int = 0
    bytes: int = 0


Said = bytes | Response | Lost | Whole | Closed
"""What can be said of a stream: a chunk of its body, and these."""


class Decoding:
    """The frames of one stream. response: the frame of how it began. ending: the marks that stand in it so far.

    over: whether what comes of the body is left out from now on. encoded: whether a chunk may be far more than it seems.
    """

    __slots__ = (
        "_at_us",
        "_bare",
        "_came",
        "_decode",
        "_decoded",
        "_decoder",
        "_failed",
        "_lines",
        "_said",
        "_telling",
        "_window",
        "_within",
        "ending",
        "over",
        "response",
    )

    def __init__(self) -> None:
        self.ending = Ending()
        self.response: Frame | None = None
        self.over = False
        self._said: Response | None = None
        self._decode: Decode | None = None
        self._decoder: Decoder | None = None
        self._telling: Telling | None = None  # as long as it is not known what the body is
        self._lines = False  # whether the content type says lines of JSON
        self._bare = False  # whether the body is such, or not, against what the content type says
        self._failed = False
        self._within: Allowance | None = None  # of the body, where that is no stream of events
        self._came = self._decoded = 0  # bytes of the body where it is encoded
        self._at_us = 0  # of the chunk that came last of it
        self._window = 0  # bytes that decoding needs at the most

    @property
    def encoded(self) -> bool:
        return self._decode is not None

    @property
    def held(self) -> int:
        """Bytes of memory that wait for what follows."""
        waits = self._telling if self._telling is not None else self._decoder
        window = min(self._window, self._decoded) if self._decode is not None else 0
        return window + (waits.held if waits is not None else 0)

    def frames(self, said: Said, offset_us: int) -> list[Frame]:
        """The frames that are complete with what was said. Never raises: what cannot be decoded is kept as it came."""
        if isinstance(said, bytes):
            if self._decode is None and len(said) <= STEP:
                return self._step(said, offset_us)
            return [frame for frames in self.steps(said, offset_us) for frame in frames]
        try:
            found = self._frames(said, offset_us)
        except Exception as error:  # noqa: BLE001 - logged there
            return self._undecoded(said, offset_us, error)
        self.ending.see(found)
        return found

    def steps(self, chunk: bytes, offset_us: int) -> Iterator[list[Frame]]:
        """The frames of a chunk, in steps between which other streams may have their turn. Never raises.

        One chunk may be a million events, or a few bytes that decode to gigabytes.
        """
        before = self._within.chunks if self._within is not None else 0
        if self._decode is not None:
            yield from self._decoded_steps(chunk, offset_us, self._decode)
        else:
            for at in range(0, len(chunk), STEP):
                yield self._step(chunk[at : at + STEP], offset_us)
        if self._within is not None and self._within.chunks > before:
            self._within.chunks = before + 1

    def spill(self, *, all: bool) -> list[Frame]:
        """What waits for what follows leaves as it came, in pieces: there is no room for more of it.

        all: the memory that decoding needs, too; what comes is kept as it comes from here on.
        """
        found = self._settled()
        if self._decoder is not None:
            found += self._decoder.spill()
        if all and self._decode is not None and self._window > _SMALL:
            self._keep_as_it_comes()
            found.append(gap(Lost(0, 0, "not decoded from here on: there is no memory left for it"), self._at_us))
        self.ending.see(found)
        return found

    def size(self, frame: Frame) -> int:
        """Bytes of the body that a frame stands for."""
        type, data, raw, *_ = frame
        if raw is not None:
            return len(raw)
        return len(data.encode()) + 1 if self._lines and not is_system(type) else encoded_size(type, data)

    def _frames(self, said: Response | Lost | Whole | Closed, offset_us: int) -> list[Frame]:
        if isinstance(said, Response):
            return self._begin(said, offset_us)
        if isinstance(said, Lost):
            # What comes after lost bytes does not go on with what was before.
            return [*(self._finished() if said.bytes else ()), gap(said, offset_us)]
        left = self._finished()
        if isinstance(said, Whole):
            return left
        beyond = self._within
        if beyond is not None and beyond.bytes + said.bytes:
            lost = Lost(beyond.chunks + said.chunks, beyond.bytes + said.bytes, beyond.reason)
            return [*left, gap(lost, offset_us), self._end(said, left, offset_us)]
        return [*left, self._end(said, left, offset_us)]

    def _begin(self, said: Response, offset_us: int) -> list[Frame]:
        self._said = said
        decode, encoded = decode_for(said.content_encoding), is_encoded(said.content_encoding)
        self._decode, self._window = (decode, window_of(said.content_encoding)) if encoded else (None, 0)
        self._decoder = self._telling = self._within = None
        self._lines, self._bare = kind.is_lines(said.content_type), False
        shown: dict[str, Any] = {"status": said.status, "headers": said.headers}
        if decode is not None and encoded:
            shown["decoded"] = said.content_encoding
        self.response = log.system_frame("$response", shown, offset_us)
        if decode is None:
            self._keep_as_it_comes()
            unknown = f"not decoded: its content coding {said.content_encoding} is not known"
            return [self.response, gap(Lost(0, 0, unknown), offset_us)]
        self._telling = Telling(said.content_type, said.status)
        return [self.response]

    def _body(self, piece: bytes, offset_us: int) -> list[Frame]:
        """The frames of what comes next of the body, decoded."""
        if self._telling is not None:
            told = self._telling.add(piece, offset_us)
            return self._settle(self._telling, told) if told else []
        if self._decoder is None:
            return []
        if self._within is not None:
            piece = self._within.take(piece)
            self.over = self._within.bytes > 0
        frames = self._decoder.feed(piece, offset_us)
        return self._with_bytes(frames) if self._bare else frames

    def _settle(self, telling: Telling, told: str) -> list[Frame]:
        """It is known what the body is: the frames of what there is of it."""
        self._telling, self._decoder = None, decoder_for(told)
        self._bare = self._lines is not (told == kind.LINES)
        if told not in kind.STREAMS:
            self._bound()
        return [frame for chunk, offset_us in telling.chunks() for frame in self._body(chunk, offset_us)]

    def _settled(self) -> list[Frame]:
        """The same where it must be said by what there is."""
        return self._settle(self._telling, self._telling.end()) if self._telling is not None and self._telling.held else []

    def _bound(self) -> None:
        if self._said is not None and self._said.limit is not None:
            self._within = Allowance(self._said.limit)

    def _with_bytes(self, frames: list[Frame]) -> list[Frame]:
        """Events with the bytes that they came in: by the content type alone, those would be taken for others."""
        encode = _line if isinstance(self._decoder, LinesDecoder) else _event
        return [frame if frame.raw is not None or is_system(frame.type) else encode(frame) for frame in frames]

    def _finished(self) -> list[Frame]:
        """What is left of the body; what comes then does not go on with it."""
        told = self._settled()
        left = self._decoder.finish() if self._decoder is not None else []
        return [*told, *(self._with_bytes(left) if self._bare else left)]

    def _keep_as_it_comes(self) -> None:
        self._decode, self._telling, self._decoder = None, None, BodyDecoder(join=False)
        if (
            self._within is None
            and self._said
            and kind.said_to_be(self._said.content_type, self._said.status) not in kind.STREAMS
        ):
            self._bound()

    def _step(self, piece: bytes, offset_us: int) -> list[Frame]:
        try:
            found = self._body(piece, offset_us)
        except Exception as error:  # noqa: BLE001 - logged there
            return self._undecoded(piece, offset_us, error)
        self.ending.see(found)
        return found

    def _decoded_steps(self, chunk: bytes, offset_us: int, decode: Decode) -> Iterator[list[Frame]]:
        """From where a body is not encoded as was said, it is kept as it came; from where it is a bomb, it is left out."""
        self._came += len(chunk)
        self._at_us = offset_us
        pieces, passed = decode(chunk), False
        while True:
            try:
                piece = _some(pieces)
            except Exception as error:  # noqa: BLE001 - each coding's library has errors of its own
                found = self._finished()
                self._keep_as_it_comes()
                lost = Lost(1, len(chunk), "") if passed else Lost(0, 0, "")
                found.append(gap(lost._replace(reason=f"not decoded from here on: {one_line(error)}"), offset_us))
                self.ending.see(found)
                yield found if passed else [*found, *self._step(chunk, offset_us)]
                return
            if not piece:
                break
            self._decoded += len(piece)
            yield self._step(piece, offset_us)
            passed = True
            if self._decoded > max(BOMB_BYTES, BOMB_RATIO * self._came):
                found = self._settled()
                if not self.over:
                    self._within = Allowance(Limit(0, f"{self._came} bytes decode to more than {self._decoded}: a bomb"))
                    self._within.take(chunk)
                    self.over = True
                yield found
                break
        if self.over:  # nobody asks what it decodes to
            self._decode = None

    def _end(self, said: Closed, left: list[Frame], offset_us: int) -> Frame:
        self._decode = None
        self.ending.see(left)
        outcome = self.ending.of_connection(said.closed, self._said.status if self._said else None)
        shown = {"outcome": outcome, "closed": said.closed, **({"detail": said.detail} if said.detail else {})}
        return log.system_frame("$end", shown, offset_us)

    def _undecoded(self, said: Said, offset_us: int, error: Exception) -> list[Frame]:
        """What an entry amounts to with which the decoder failed."""
        if not self._failed:
            logger.error("a chunk cannot be decoded and is kept as it came", exc_info=error)
        self._failed = True
        body = self.ending.body
        found = self._as_it_came(said, offset_us, f"not decoded: {one_line(error)}")
        self.ending.see(found)
        self.ending.body = body  # what is kept as it came is no body that was complete
        return found

    def _as_it_came(self, said: Said, offset_us: int, reason: str) -> list[Frame]:
        """What is kept of an entry without the decoder; a new one goes on with what follows."""
        broken, telling, self._decoder = self._decoder, self._telling, None
        if self._said is not None and not isinstance(said, Response):
            within, decode = self._within, self._decode
            self._begin(self._said, self.response.offset_us if self.response else offset_us)
            self._within, self._decode = within, decode
        held = [*telling.chunks()] if telling is not None else []
        if isinstance(said, bytes) and held and held[-1][0].endswith(said):
            held.pop()
        before = [frame for chunk, at in held for frame in BodyDecoder(join=False).feed(chunk, at)]
        try:
            before += broken.finish() if broken is not None else []
        except Exception as error:  # noqa: BLE001 - it is broken
            before.append(gap(Lost(0, 0, f"half an event is lost: {one_line(error)}"), offset_us))
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


def _some(pieces: Iterator[bytes]) -> bytes:
    """The next pieces, up to STEP bytes; nothing where there are no more."""
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= STEP:
            break
    return b"".join(found)


def _line(frame: Frame) -> Frame:
    return frame._replace(raw=frame.data.encode() + b"\n")


def _event(frame: Frame) -> Frame:
    return frame._replace(raw=encode(frame.type, frame.data))


def gap(lost: Lost, offset_us: int) -> Frame:
    return log.system_frame("$gap", lost._asdict(), offset_us)


def one_line(error: BaseException) -> str:
    """An error's message; of one that SQLAlchemy wraps the driver's own, without the statement and what was to be stored."""
    return (" ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__)[:300]
