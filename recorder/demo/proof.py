"""Holding the recording against what the programs really received: bytes, and time."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from recorder.demo.program import KEY
from recorder.demo.recording import Recorded
from recorder.demo.shell import Shell
from recorder.errors import RecorderError


class Copies(NamedTuple):
    """One stream's body from each end: as the upstream sent it, as its program received it, and as the recorder gives it back."""

    name: str
    path: str
    stream_id: str
    sent: bytes
    received: bytes
    exported: bytes
    replayed: bytes

    @property
    def identical(self) -> bool:
        return self.sent == self.received == self.exported == self.replayed

    def facts(self) -> dict[str, Any]:
        """Length and digest of each copy."""
        bodies = {"sent": self.sent, "received": self.received, "exported": self.exported, "replayed": self.replayed}
        measured = {end: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for end, body in bodies.items()}
        return {
            "name": self.name,
            "path": self.path,
            "stream_id": self.stream_id,
            "identical": self.identical,
            **measured,
        }


def copies(shell: Shell, recorded: Recorded, runs: dict[str, dict[str, Any]]) -> list[Copies]:
    """The copies of every stream. runs: as `show` has them, by name."""
    found = []
    for name, conversation in recorded.conversations.items():
        streams = [entry["stream_id"] for entry in runs[name]["streams"]]
        bodies = recorded.sent[name]
        if not len(streams) == len(bodies) == len(conversation.exchanges):
            ends = f"{len(bodies)} sent, {len(conversation.exchanges)} received, {len(streams)} recorded"
            raise RecorderError(f"the run {name} did not come in as many streams everywhere: {ends}")
        for stream_id, sent, exchange in zip(streams, bodies, conversation.exchanges, strict=True):
            exported = shell.output("export", stream_id, "--format", "sse")
            replayed = shell.output("replay", stream_id, "--instant")
            found.append(Copies(name, exchange.path, stream_id, sent, exchange.body, exported, replayed))
    return found


class Pace(NamedTuple):
    """How long a stream took from its first byte to its last, when it was received and when it was replayed.

    deviation: the largest difference of any chunk's time from when it was due, in seconds.
    """

    speed: float
    original: float
    replayed: float
    deviation: float

    @property
    def held(self) -> bool:
        """Whether the replay took as long as it should: within a tenth, or what a busy machine may add."""
        due = self.original / self.speed
        return abs(self.replayed - due) <= max(0.5, due / 10)


def pace(original: Sequence[tuple[float, bytes]], replayed: Sequence[tuple[float, bytes]], speed: float) -> Pace:
    """Compare chunks, each with its time in seconds."""
    if not replayed:
        return Pace(speed, original[-1][0] - original[0][0], float("-inf"), float("inf"))
    ends = list(accumulate(len(chunk) for _, chunk in replayed))
    end = 0
    late = 0.0
    for at, chunk in original:
        end += len(chunk)
        arrived = replayed[min(bisect_left(ends, end), len(ends) - 1)][0] - replayed[0][0]
        late = max(late, abs(arrived - (at - original[0][0]) / speed))
    return Pace(speed, original[-1][0] - original[0][0], replayed[-1][0] - replayed[0][0], late)


def holds_key(folder: Path) -> bool:
    """Whether the API key that the programs sent is anywhere in the database's files."""
    return any(KEY.encode() in file.read_bytes() for file in folder.iterdir() if file.is_file())
