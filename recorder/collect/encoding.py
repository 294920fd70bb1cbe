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
    return _members(lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16))


def _deflate() -> Decode:
    """Meant to be in zlib's format; some servers leave its header out (RFC 9110, 8.4.1.2), which its first two bytes show."""
    start = bytearray()
    found: list[Decode] = []

    def decode(chunk: bytes) -> bytes:
        if not found:
            start.extend(chunk)
            if len(start) < 2:
                return b""
            chunk = bytes(start)
            headed = chunk[0] & 0x0F == zlib.DEFLATED and int.from_bytes(chunk[:2]) % 31 == 0  # RFC 1950, 2.2
            found.append(_members(lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS if headed else -zlib.MAX_WBITS)))
        return found[0](chunk)

    return decode


def _brotli() -> Decode:
    decompressor = _installed("brotli", "brotlicffi").Decompressor()
    step = getattr(decompressor, "decompress", None) or decompressor.process

    def decode(chunk: bytes) -> bytes:
        pieces = [step(chunk)]
        while pieces[-1] and not decompressor.is_finished():  # it hands out some 32 KiB at a time
            pieces.append(step(b""))
        return b"".join(pieces)

    return decode


def _zstd() -> Decode:
    module = _installed("zstandard", "compression.zstd", "backports.zstd")  # httpx uses the first, httpx2 the others
    if module.__name__ == "zstandard":
        return _members(lambda: module.ZstdDecompressor().decompressobj())
    return _members(module.ZstdDecompressor)


def _members(make: Callable[[], Any]) -> Decode:
    """A coding whose body may be several wholes, one after the other (RFC 1952, 2.2; RFC 8878, 3.1). make: its decompressor.

    What follows the last of them and is none is an error, as anything is that is not of this coding.
    """
    held = [make()]

    def decode(chunk: bytes) -> bytes:
        pieces = []
        while chunk:
            if held[0].eof:
                held[0] = make()
            pieces.append(held[0].decompress(chunk))
            chunk = held[0].unused_data
        return b"".join(pieces)

    return decode


def _installed(*names: str) -> Any:
    """The first of these modules that is there. Raises ImportError where none is."""
    for name in names[:-1]:
        try:
            return import_module(name)
        except ImportError:
            continue
    return import_module(names[-1])


_DECODERS: dict[str, Callable[[], Decode]] = {
    "": _identity,
    "identity": _identity,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
