"""Content codings (RFC 9110, 8.4): what is encoded on its way is decoded for the log, in steps that are bounded.

A few bytes may decode to gigabytes. So nothing here decodes a chunk at once: it yields pieces, and whoever takes them may take a
pause, or leave off. An unknown coding is kept as it came.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

Decode = Callable[[bytes], Iterator[bytes]]
"""Bytes of the body as they come → those that they complete, in pieces of some MB at the most, perhaps none.

Raises where they are not of this coding. All of one chunk is to be taken before the next is given.
"""

PIECE = 256 * 1024
"""Bytes of a piece where the library can be told so."""

_WINDOW = 64 * 1024  # gzip's and what belongs to it
_STACKED = 4  # codings, one on the other: more make no sense, and cost memory

_BROTLI_WINDOW = 16 * 1024 * 1024  # RFC 7932, 9.1
_ZSTD_WINDOW = 8 * 1024 * 1024  # RFC 9659, 3
_ZSTD_STEP = 64  # bytes of zstd, which decode to 2 MiB at the most: a block of 128 KiB takes four


def decode_for(content_encoding: str | None) -> Decode | None:
    """How to decode a body, None where a coding of it is unknown."""
    names = [name.strip().lower() for name in (content_encoding or "identity").split(",")]
    makers = [_DECODERS.get(name) for name in names]
    if len(names) > _STACKED or None in makers:
        return None
    try:
        layers = [make() for make in reversed(makers) if make is not None and make is not _identity]  # the last was put on last
    except ImportError:
        return None
    decode = layers[0] if layers else _identity()
    for inner in layers[1:]:
        decode = _through(decode, inner)
    return decode


def is_encoded(content_encoding: str | None) -> bool:
    return any(name.strip().lower() not in ("", "identity") for name in (content_encoding or "").split(","))


def window_of(content_encoding: str | None) -> int:
    """Bytes of what came before that its decoders keep at the most."""
    names = (content_encoding or "").split(",")
    return sum(_WINDOWS.get(name.strip().lower(), _WINDOW) for name in names)


def decoded(body: bytes, content_encoding: str | None, limit: int) -> bytes | None:
    """A whole body, decoded; None where it is more than `limit` bytes. Raises ValueError where it cannot be decoded."""
    decode = decode_for(content_encoding)
    if decode is None:
        raise ValueError(f"its content coding {content_encoding} is not known")
    pieces, size = [], 0
    try:
        for piece in decode(body):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return None
    except Exception as error:  # noqa: BLE001 - each coding's library has errors of its own
        raise ValueError(f"it is no {content_encoding}: {error}") from None
    if body and not pieces:
        raise ValueError(f"it is no {content_encoding}: it breaks off")
    return b"".join(pieces)


def _through(outer: Decode, inner: Decode) -> Decode:
    return lambda chunk: (piece for middle in outer(chunk) for piece in inner(middle))


def _identity() -> Decode:
    return lambda chunk: iter((chunk,) if chunk else ())


def _gzip() -> Decode:
    return _members(lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16))


def _deflate() -> Decode:
    """Meant to be in zlib's format; some servers leave its header out (RFC 9110, 8.4.1.2), which its first two bytes show."""
    start = bytearray()
    found: list[Decode] = []

    def decode(chunk: bytes) -> Iterator[bytes]:
        if not found:
            start.extend(chunk)
            if len(start) < 2:
                return
            chunk = bytes(start)
            headed = chunk[0] & 0x0F == zlib.DEFLATED and int.from_bytes(chunk[:2]) % 31 == 0  # RFC 1950, 2.2
            found.append(_members(lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS if headed else -zlib.MAX_WBITS)))
        yield from found[0](chunk)

    return decode


def _members(make: Callable[[], Any]) -> Decode:
    """A coding of zlib's, whose body may be several wholes, one after the other (RFC 1952, 2.2). make: its decompressor.

    What follows the last of them and is none is an error, as anything is that is not of this coding.
    """
    held = [make()]

    def decode(chunk: bytes) -> Iterator[bytes]:
        for at in range(0, len(chunk), PIECE):  # zlib hands back what it has not read, as a copy
            left = chunk[at : at + PIECE]
            while left:
                if held[0].eof:
                    held[0] = make()
                piece = held[0].decompress(left, PIECE)
                while piece:
                    yield piece
                    piece = held[0].decompress(held[0].unconsumed_tail, PIECE)
                left = held[0].unused_data

    return decode


def _brotli() -> Decode:
    decompressor = import_module("brotli").Decompressor()

    def decode(chunk: bytes) -> Iterator[bytes]:
        piece = decompressor.process(chunk, output_buffer_limit=PIECE)
        while piece or not decompressor.can_accept_more_data():
            yield piece
            piece = decompressor.process(b"", output_buffer_limit=PIECE)

    return decode


def _zstd() -> Decode:
    """Frames may follow one another (RFC 8878, 3.1). The library cannot be told how much to decode, only be given little."""
    make = import_module("zstandard").ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj
    held = [make()]

    def decode(chunk: bytes) -> Iterator[bytes]:
        for at in range(0, len(chunk), _ZSTD_STEP):
            left = chunk[at : at + _ZSTD_STEP]
            while left:
                if held[0].eof:
                    held[0] = make()
                if piece := held[0].decompress(left):
                    yield piece
                left = held[0].unused_data

    return decode


_DECODERS: dict[str, Callable[[], Decode]] = {
    "": _identity,
    "identity": _identity,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}

_WINDOWS = {"br": _BROTLI_WINDOW, "zstd": _ZSTD_WINDOW}
