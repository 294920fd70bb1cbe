"""What one stream says about runs, steps and messages: the partial state that a protocol's fold builds.

Every partial run is JSON of its own (a row of `folds`), so that a run's parts from several streams can be found and merged
without reading the streams again. The key of a part is the run's id; what belongs to no known run stands under its own id.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from recorder.protocols import deltas

STREAM = ""
"""The key of the part that is about the stream itself."""

ANOMALY_LIMIT = 100
"""Anomalies of one kind kept for a stream and run; a stream that makes no sense must not fill the database with its nonsense."""


class Request(NamedTuple):
    """What a fold may know of the request. body: the decoded JSON body, else None."""

    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    body: Any = None


class Entity:
    """A step or a message, as one stream shows it.

    object: its latest snapshot. delta: what its deltas add up to. terminal: whether a final snapshot was seen.
    position: of the event that first spoke of it.
    """

    __slots__ = ("delta", "object", "position", "terminal")

    def __init__(self, position: int, object: dict[str, Any], delta: dict[str, Any], terminal: bool) -> None:
        self.position, self.object, self.delta, self.terminal = position, object, delta, terminal

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "object": self.object,
            "delta": deltas.plain(self.delta),
            "terminal": self.terminal,
        }


class Part:
    """A run, as one stream shows it. Offsets are µs since the stream began.

    outputs: {tool_call_id: output or approval} that the stream's request submitted. error: of an error event.
    """

    __slots__ = (
        "anomalies",
        "error",
        "first_delta_us",
        "first_us",
        "last_us",
        "messages",
        "object",
        "outputs",
        "position",
        "steps",
        "terminal",
    )

    def __init__(self, position: int, offset_us: int) -> None:
        self.position = position
        self.first_us = self.last_us = offset_us
        self.first_delta_us: int | None = None
        self.object: dict[str, Any] = {}
        self.terminal = False
        self.steps: dict[str, Entity] = {}
        self.messages: dict[str, Entity] = {}
        self.outputs: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None
        self.anomalies: list[list[Any]] = []

    def anomaly(self, position: int, kind: str, detail: str) -> None:
        if sum(1 for found in self.anomalies if found[1] == kind) < ANOMALY_LIMIT:
            self.anomalies.append([position, kind, detail[:500]])

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "first_us": self.first_us,
            "last_us": self.last_us,
            "first_delta_us": self.first_delta_us,
            "object": self.object,
            "terminal": self.terminal,
            "steps": {key: entity.to_json() for key, entity in self.steps.items()},
            "messages": {key: entity.to_json() for key, entity in self.messages.items()},
            "outputs": self.outputs,
            "error": self.error,
            "anomalies": self.anomalies,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Part:
        part = cls(state["position"], state["first_us"])
        for name in ("last_us", "first_delta_us", "object", "terminal", "outputs", "error", "anomalies"):
            setattr(part, name, state[name])
        part.steps = {key: Entity(**entity) for key, entity in state["steps"].items()}
        part.messages = {key: Entity(**entity) for key, entity in state["messages"].items()}
        return part


class Partial:
    """All parts that one stream names, and what is known of the connection itself.

    run_key: the run that the connection is about, by its latest event or its URL; None before any.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        self.owners: dict[tuple[str, str], str] = {}  # (family, id of a step or message) → key of its part
        self.run_key: str | None = None
        self.thread_id: str | None = None
        self.thread: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.problems: list[tuple[str, str]] = []

    def part(self, key: str, position: int, offset_us: int) -> Part:
        part = self.parts.get(key)
        if part is None:
            part = self.parts[key] = Part(position, offset_us)
        part.last_us = max(part.last_us, offset_us)
        return part

    def entity(self, family: str, id: str, key: str, position: int, offset_us: int) -> tuple[Part, Entity, bool]:
        """(its part, the step or message, whether it is new), under the run of this key; one that was elsewhere moves there."""
        part = self.part(key, position, offset_us)
        found: Entity | None = None
        owner = self.owners.get((family, id))
        if owner is not None:
            found = getattr(self.parts[owner], family)[id]
            if owner != key:
                self._leave(owner, family, id, part)
        new = found is None
        if found is None:
            found = Entity(position, {}, {}, False)
        self.owners[family, id] = key
        getattr(part, family)[id] = found
        return part, found, new

    def restart(self, key: str, position: int, offset_us: int) -> Part:
        """A new part in place of one that turned out to be of another run."""
        old = self.parts.pop(key)
        for family, ids in (("steps", old.steps), ("messages", old.messages)):
            for id in ids:
                del self.owners[family, id]
        return self.part(key, position, offset_us)

    def _leave(self, owner: str, family: str, id: str, to: Part) -> None:
        """Take a step or message out of its part; a part that stood for it alone goes, and what it noted moves along."""
        part = self.parts[owner]
        del getattr(part, family)[id]
        if owner == id and not (part.object or part.steps or part.messages or part.outputs):
            del self.parts[owner]
            to.anomalies.extend(part.anomalies)
            to.first_us = min(to.first_us, part.first_us)
            if part.first_delta_us is not None:
                to.first_delta_us = min(part.first_delta_us, to.first_delta_us or part.first_delta_us)

    def problem(self, kind: str, detail: str) -> None:
        """Noted while merging a delta; the handler that merges knows to which part it belongs."""
        self.problems.append((kind, detail))

    def to_json(self) -> dict[str, Any]:
        return {"run_key": self.run_key, "thread_id": self.thread_id, "thread": self.thread, "error": self.error}

    @classmethod
    def from_json(cls, state: dict[str, Any], parts: dict[str, dict[str, Any]]) -> Partial:
        partial = cls()
        for name, value in state.items():
            setattr(partial, name, value)
        for key, part in parts.items():
            partial.parts[key] = loaded = Part.from_json(part)
            partial.owners.update({("steps", id): key for id in loaded.steps})
            partial.owners.update({("messages", id): key for id in loaded.messages})
        return partial
