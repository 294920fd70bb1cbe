"""Records every event of an LLM run in a SQL log, folds it into runs, steps and usage, and replays it.

record(client)              record what an existing client of httpx or httpx2, or an SDK object, receives
RecordingTransport(inner)   the same as a transport, which also sees requests that get no response
Settings(redact=…)          what of it is redacted, left out or limited
play(client, *ids)          have an existing client receive what was recorded
ReplayTransport(*ids)       the same as a transport
RecorderError               what all of these raise
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recorder.collect.hook import record
    from recorder.collect.transport import RecordingTransport
    from recorder.errors import RecorderError
    from recorder.replay.transport import ReplayTransport, play
    from recorder.settings import Settings

__all__ = ["RecorderError", "RecordingTransport", "ReplayTransport", "Settings", "play", "record"]

_HOME = {
    "RecorderError": "recorder.errors",
    "RecordingTransport": "recorder.collect.transport",
    "ReplayTransport": "recorder.replay.transport",
    "Settings": "recorder.settings",
    "play": "recorder.replay.transport",
    "record": "recorder.collect.hook",
}
"""Where each public name is: it is loaded when it is first used, so that the command line starts without it."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'recorder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
