"""Finding the HTTP client in what a user has: a client of httpx or httpx2, or an SDK object that holds one."""

from __future__ import annotations

from typing import Any

from recorder.errors import UsageError

_HELD_AS = ("_client", "client", "http_client", "_http_client")
"""Where SDKs keep their HTTP client: openai, anthropic and others that are generated as they are, then other habits."""


def http_client_of(client: object) -> Any:
    """The client of httpx or httpx2 that an object is or holds. Raises UsageError where there is none."""
    found: Any = client
    for _ in range(3):
        if isinstance(getattr(found, "event_hooks", None), dict) and hasattr(found, "send"):
            return found
        found = next((held for name in _HELD_AS if (held := getattr(found, name, None)) is not None), None)
    kind = type(client)
    what = f"the class {client.__name__}" if isinstance(client, type) else f"an object of {kind.__module__}.{kind.__qualname__}"
    raise UsageError(
        f"{what} is no client of httpx or httpx2 and holds none; give a Client or AsyncClient, or an SDK object such as OpenAI()"
    )
