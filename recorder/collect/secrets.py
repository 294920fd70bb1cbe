"""What never reaches the queue: headers that are not allowed, secret query parameters, secret fields of request bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_plus

from recorder import jsontext

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
        "retry-after",
        "x-ms-region",
        "x-ms-request-id",
        "x-request-id",
    }
)

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


def body(given: bytes, content_type: str | None = "application/json") -> bytes:
    """A request body with its secret fields replaced; the same bytes where it has none or is no JSON."""
    if not any(word in given for word in (b"headers", b"authorization", b"\\u")):
        return given
    try:
        value = jsontext.loads(given)
    except jsontext.JSONError:
        return given
    return jsontext.dumps(value).encode() if _redact(value) else given


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
