"""Ids of streams: UUIDv7 (RFC 9562, 5.7)."""

from __future__ import annotations

import hashlib
import uuid

import uuid_utils


def new_stream_id() -> str:
    """The id of a stream that begins now."""
    return str(uuid_utils.uuid7())


def derived_stream_id(created_at: int, *content: bytes) -> str:
    """The id of imported content: its time from created_at (Unix seconds), its other 74 bits from a hash of the content.

    The same content has the same id, whoever imports it and however often.
    """
    digest = hashlib.sha256()
    for part in content:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    milliseconds = min(max(created_at, 0) * 1000, 2**48 - 1)
    random = int.from_bytes(digest.digest()[:10], "big")
    value = milliseconds << 80 | 7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & (2**62 - 1)
    return str(uuid.UUID(int=value))
