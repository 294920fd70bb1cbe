"""Responses that are no SSE: lines of JSON, and plain bodies. Decoders with the shape of SSEDecoder."""

from __future__ import annotations

from typing import Protocol

from recorder import jsontext
from recorder.sse import Cuts, Frame, SSEDecoder, decode_text, text_frame

PIECE = 1024 * 1024
"""Bytes from which on a body that is joined is handed on."""


class Decoder(Protocol):
    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]: ...

    def finish(self) -> list[Frame]: ...


def media_type(content_type: str | None) -> str:
    """`Type/Subtype` of a Content-Type header in lower case, without its parameters (RFC 9110, 8.3.1)."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_lines(content_type: str | None) -> bool:
    return media_type(content_type) in (
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
    )


def is_stream(content_type: str | None, status: int | None = 200) -> bool:
    """Whether a body is a stream of events. One without a content type is taken for one where it succeeded: SDKs do so too."""
    kind = media_type(content_type)
    if not kind:
        return status is not None and 200 <= status < 300
    return kind == "text/event-stream" or is_lines(content_type)


def decoder_for(content_type: str | None, status: int | None = 200, encoded: bool = False) -> Decoder:
    """The decoder for a response. encoded: the body has a Content-Encoding, so its bytes are kept as they are."""
    if encoded:
        return BodyDecoder(join=False)
    if not is_stream(content_type, status):
        return BodyDecoder(join=media_type(content_type).endswith("json"))
    return LinesDecoder() if is_lines(content_type) else SSEDecoder()


class BodyDecoder:
    """A body as `$body` frames: one a chunk, or (join) as few as PIECE allows, so that a JSON body is one text."""

    def __init__(self, join: bool = True) -> None:
        self._join = join
        self._held = bytearray()
        self._cuts: Cuts = []
        self._offset_us = 0

    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]:
        if not chunk:
            return []
        if self._held and offset_us != self._offset_us:
            self._cuts.append((len(self._held), self._offset_us))
        self._held += chunk
        self._offset_us = offset_us
        if self._join and len(self._held) < PIECE:
            return []
        return self.finish()

    def finish(self) -> list[Frame]:
        if not self._held:
            return []
        frame = text_frame("$body", bytes(self._held), self._offset_us, self._cuts or None)
        self._held, self._cuts = bytearray(), []
        return [frame]


class LinesDecoder:
    """Newline-delimited JSON: each line an event without a type. A line's bytes are its data and an LF, or `raw`."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._scan = 0
        self._cuts: Cuts = []
        self._offset_us = 0

    def feed(self, chunk: bytes, offset_us: int = 0) -> list[Frame]:
        if not chunk:
            return []
        if self._held and offset_us != self._offset_us:
            self._cuts.append((len(self._held), self._offset_us))
        self._held += chunk
        self._offset_us = offset_us
        frames = []
        at = 0
        while (end := self._held.find(b"\n", max(at, self._scan)) + 1) > 0:
            frames.append(self._line(bytes(self._held[at:end])))
            at, self._scan = end, 0
        del self._held[:at]
        self._scan = len(self._held)
        return frames

    def finish(self) -> list[Frame]:
        """A last line without its LF is an event where it is JSON, else a `$tail`."""
        left = bytes(self._held)
        self._held, self._scan = bytearray(), 0
        if not left:
            return []
        try:
            jsontext.loads(left)
        except jsontext.JSONError:
            cuts, self._cuts = self._cuts, []
            return [text_frame("$tail", left, self._offset_us, cuts or None)]
        return [self._line(left)]

    def _line(self, line: bytes) -> Frame:
        cuts, self._cuts = self._cuts or None, []
        if not line.strip():
            return text_frame("$block", line, self._offset_us, cuts)
        text, exact = decode_text(line.rstrip(b"\r\n"))
        canonical = exact and line == text.encode() + b"\n"
        return Frame("", text, None if canonical else line, self._offset_us, cuts)
