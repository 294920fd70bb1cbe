"""The row of a stream, made from its request: what may be stored of it, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from recorder import jsontext
from recorder.collect import secrets
from recorder.collect.encoding import decoded, is_encoded
from recorder.collect.streamid import new_stream_id
from recorder.log import Stream
from recorder.settings import REQUEST_BODY

logger = logging.getLogger(__name__)

SESSION_HEADER = "x-recorder-session"
"""The request header whose value labels the session; it is recorder's own and is not sent on."""


def begun(
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Sequence[tuple[str, str]],
    body: bytes | None,
    *,
    source: str,
    label: str | None = None,
    limit: int = REQUEST_BODY,
    known: secrets.Known | None = None,
) -> tuple[Stream, str]:
    """The row of a stream whose request is sent now, and why its body is not there, if it should be.

    headers, query and body are given as they are; secrets are removed here. A body that is encoded is decoded: its secrets could
    not be seen, nor could it be read. limit: bytes of a body from which on it is not stored. known: gets the request's secrets,
    which its response may quote.
    Never raises: a request that cannot be described is recorded all the same, by its method and host alone.
    """
    now = datetime.now(UTC)
    bare = Stream(new_stream_id(), method, host, source=source, started_at=now, recorded_at=now)
    try:
        named = {name.lower(): value for name, value in headers}
        coding = ", ".join(value for name, value in headers if name.lower() == "content-encoding")
        plain, missing = _readable(body or b"", coding, limit)
        if known is not None:
            known.update(secrets.of_headers(headers))
        stream = bare._replace(
            path=path,
            query=secrets.query(query, known),
            request_headers=secrets.headers(headers, secrets.REQUEST_HEADERS),
            request_body=secrets.body(plain, named.get("content-type"), known) if plain else None,
            session_label=label or None,
        )
    except Exception:
        logger.exception("a request cannot be described, it is recorded without its path and body")
        return bare, ""
    return stream, missing


def too_large(limit: int) -> str:
    """Why a request's body is not there."""
    return f"not recorded: the request's body, of over {limit} bytes (max_request_body)"


def _is_json(body: bytes) -> bool:
    try:
        jsontext.loads(body)
    except jsontext.JSONError:
        return False
    return True


def _readable(body: bytes, coding: str, limit: int) -> tuple[bytes | None, str]:
    """A body as it can be read and stored, else why it cannot."""
    try:
        plain = decoded(body, coding, limit) if body and is_encoded(coding) else body
    except ValueError as error:
        if _is_json(body) and len(body) <= limit:  # whoever decoded it left the header as it was
            return body, ""
        return None, f"request not decoded: its body of {len(body)} bytes is not recorded, {error}"
    if plain is None or len(plain) > limit:
        return None, too_large(limit)
    return plain, ""
