"""The sessions of a demo: recordings of four runs of the Assistants API, which its upstream replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ABOUT = {
    "chart": "runs code, then answers",
    "order": "calls two functions at once; the program answers them in a second request",
    "limited": "meets a rate limit and fails",
    "dropped": "loses its connection in the middle of an event",
}
"""By name, which is the session's label as well."""


def recording(name: str) -> Path:
    """The file of a session."""
    return Path(__file__).with_name("recordings") / f"{name}.recording.jsonl"


def question(name: str) -> dict[str, Any]:
    """The body of the request that begins a session: a POST to /v1/threads/runs."""
    with recording(name).open(encoding="utf-8") as lines:
        next(lines)  # the file's header; the second line is the first exchange's
        body: dict[str, Any] = json.loads(next(lines))["body"]
        return body
