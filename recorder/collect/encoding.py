"""Content codings (RFC 9110, 8.4): what a tee inside a client sees is encoded still, and is decoded for the log.

gzip and deflate are the standard library's. br and zstd are decoded where the client's own packages are there: a client that
lacks them does not ask for them. An unknown coding is kept as it came.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

Decode = Callable[[bytes], bytes]
"""Bytes of the body as they come → those that they complete, perhaps none. Raises where they are not of this coding."""


def decode_for(content_encoding: str | None) -> Decode | None:
    """How to decode a body, None where its coding is unknown (or several stand one on the other)."""
    make = _DECODERS.get((content_encoding or "identity").strip().lower())
    try:
        return make() if make else None
    except ImportError:
        return None


def is_encoded(content_encoding: str | None) -> bool:
    return (content_encoding or "").strip().lower() not in ("", "identity")


def _identity() -> Decode:
    return bytes


def _gzip() -> Decode:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress


def _deflate() -> Decode:
    """Meant to be in zlib's format; some servers leave its header out (RFC 9110, 8.4.1.2)."""
    held: list[Any] = []

    def decode(chunk: bytes) -> bytes:
        if not held:
            held.append(zlib.decompressobj(wbits=zlib.MAX_WBITS))
            try:
                return bytes(held[0].decompress(chunk))
            except zlib.error:
                held[0] = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        return bytes(held[0].decompress(chunk))

    return decode


def _brotli() -> Decode:
    try:
        decompressor = import_module("brotli").Decompressor()
    except ImportError:
        decompressor = import_module("brotlicffi").Decompressor()
    return getattr(decompressor, "decompress", None) or decompressor.process  # type: ignore[no-any-return]


def _zstd() -> Decode:
    return import_module("zstandard").ZstdDecompressor().decompressobj().decompress  # type: ignore[no-any-return]


_DECODERS: dict[str, Callable[[], Decode]] = {
    "": _identity,
    "identity": _identity,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
