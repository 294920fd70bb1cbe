"""What never reaches the queue: headers that are not allowed, secret query parameters, secret fields of request bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_plus

from recorder import jsontext
from recorder.kind import media_type

REDACTED = "REDACTED"

REQUEST_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "openai-beta",
        "user-agent",
        "x-request-id",
        "x-stainless-retry-count",
        "x-stainless-stream-helper",
    }
)

RESPONSE_HEADERS = frozenset(
    {
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "x-ms-region",
        "x-ms-request-id",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-request-id",
        "x-should-retry",
    }
)
"""Also what an SDK decides by whether and when it asks again: a replay must say it, too."""

QUERY_PARAMETERS = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "auth",
        "authorization",
        "client_secret",
        "code",
        "key",
        "password",
        "secret",
        "sig",
        "signature",
        "subscription-key",
        "token",
    }
)

_SECRET_FIELDS = frozenset({"headers", "authorization"})
"""Of entries of tools, tool_approvals and tool_resources.mcp: what a hosted tool is to be called with."""


def headers(given: Iterable[tuple[str, str]], allowed: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The headers that may be stored, names in lower case, in their order."""
    return tuple((name.lower(), value) for name, value in given if name.lower() in allowed)


def query(given: str) -> str:
    """A query string with the values of secret parameters replaced; all else as it was."""
    parts = []
    for part in given.split("&"):
        name, equals, _ = part.partition("=")
        secret = equals and unquote_plus(name).lower() in QUERY_PARAMETERS
        parts.append(f"{name}={REDACTED}" if secret else part)
    return "&".join(parts)


def body(given: bytes, content_type: str | None = None) -> bytes:
    """A request body with its secret fields replaced; the same bytes where it has none, or is something else than JSON.

    JSON that two readers could read differently (a name twice, not quite JSON) and that names such a field goes as a whole.
    """
    if media_type(content_type) not in ("", "application/json") and not media_type(content_type).endswith("+json"):
        return given
    if not any(word in given for word in (b"headers", b"authorization", b"\\u")):
        return given
    bare = given.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not bare.startswith(b"{"):
        return given
    try:
        value = json.loads(bare, object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError):
        return REDACTED.encode()
    return jsontext.dumps(value).encode() if _redact(value) else given


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _redact(value: Any) -> bool:
    """Replace secrets in place; whether there were any."""
    if not isinstance(value, dict):
        return False
    resources = value.get("tool_resources")
    lists = [
        value.get("tools"),
        value.get("tool_approvals"),
        resources.get("mcp") if isinstance(resources, dict) else None,
    ]
    found = False
    for entries in lists:
        for entry in entries if isinstance(entries, list) else ():
            for key in _SECRET_FIELDS.intersection(entry) if isinstance(entry, dict) else ():
                if entry[key] != REDACTED:
                    entry[key], found = REDACTED, True
    for inner in ("agent", "assistant", "session", "response"):
        found = _redact(value.get(inner)) or found
    return found
