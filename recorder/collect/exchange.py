"""The row of a stream, made from its request: what may be stored of it, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from recorder.collect import secrets
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
) -> Stream:
    """The row of a stream whose request is sent now. headers, query and body are given as they are; secrets are removed here.

    limit: bytes of a body from which on it is not stored.
    Never raises: a request that cannot be described is recorded all the same, by its method and host alone.
    """
    now = datetime.now(UTC)
    bare = Stream(new_stream_id(), method, host, source=source, started_at=now, recorded_at=now)
    try:
        named = {name.lower(): value for name, value in headers}
        encoded = named.get("content-encoding", "identity") not in ("", "identity")  # its secrets could not be seen
        readable = body and not encoded and len(body) <= limit
        return bare._replace(
            path=path,
            query=secrets.query(query),
            request_headers=secrets.headers(headers, secrets.REQUEST_HEADERS),
            request_body=secrets.body(body, named.get("content-type")) if body and readable else None,
            session_label=label or None,
        )
    except Exception:
        logger.exception("a request cannot be described, it is recorded without its path and body")
        return bare
