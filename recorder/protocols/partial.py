"""What one stream says about runs: the partial state that a protocol's fold builds.

Every partial run is JSON of its own (a row of `folds`), so that a run's parts from several streams can be found and merged
without reading the streams again. The key of a part is the run's id; what belongs to no known run stands under its own id.

What a run consists of are entities in families, by id: the steps and messages of an Assistants run, the output items of a
response. The names of the families are their protocol's; merging treats them all alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from recorder.protocols import deltas
from recorder.protocols.conversation import Answer, Before
from recorder.protocols.deltas import Fragments

STREAM = ""
"""The key of the part that is about the stream itself."""

ANOMALY_LIMIT = 100
"""Anomalies of one kind kept for a stream and run; a stream that makes no sense must not fill the database with its nonsense."""

UNNUMBERED = -1
"""Entity.since where the stream has no sequence numbers."""


class Request(NamedTuple):
    """What a fold may know of the request. body: the decoded JSON body, else None. stream_id: a name for what has none."""

    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    body: Any = None
    stream_id: str = ""


class Entity:
    """A part of a run, as one stream shows it.

    object: its latest snapshot. terminal: whether that is final. number: the sequence number of the event that gave it.
    delta: what deltas in the shape of the object add up to. texts: {field: fragments}, its streamed strings.
    position: of the event that first spoke of it. since: the sequence number of the event that opened it, UNNUMBERED where
    the stream has none; None where it was open before this stream began.
    """

    __slots__ = ("delta", "number", "object", "position", "since", "terminal", "texts")

    def __init__(self, position: int, since: int | None = None) -> None:
        self.position, self.since = position, since
        self.object: dict[str, Any] = {}
        self.delta: dict[str, Any] = {}
        self.texts: dict[str, Fragments] = {}
        self.terminal = False
        self.number: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "since": self.since,
            "object": self.object,
            "delta": deltas.plain(self.delta),
            "texts": self.texts,
            "terminal": self.terminal,
            "number": self.number,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Entity:
        entity = cls(state["position"], state["since"])
        entity.object, entity.delta = state["object"], state["delta"]
        entity.terminal, entity.number = state["terminal"], state["number"]
        entity.texts = {field: Fragments(runs) for field, runs in state["texts"].items()}
        return entity


class Part:
    """A run, as one stream shows it. Offsets are µs since the stream began.

    first_delta_us, first_text_us: of the first fragment of anything, and of what is said to the user.
    last: position of the last event that spoke of it. ended: of the one that ended it, None where none did.
    spans: {key: [offset of the first event, of the last, its position]} of its steps, by what their protocol calls them.

    object: the run's latest snapshot, in the words of its protocol; terminal, number: as of an Entity.
    created: when it was created, in seconds: another run that has the same id has another.
    calls: ids of tool calls whose output the client may give in a later request.
    outputs: {tool_call_id: output or approval} that the stream's request submitted to this run. error: of an error event.
    numbers: the sequence numbers seen, as [[first, last, position of the first] …]; expects: the first that was asked for.
    begun: whether the stream showed how the run began, so that all its steps are known where its other streams are.
    """

    __slots__ = (
        "anomalies",
        "begun",
        "calls",
        "created",
        "ended",
        "error",
        "expects",
        "families",
        "first_delta_us",
        "first_text_us",
        "first_us",
        "last",
        "last_us",
        "number",
        "numbers",
        "object",
        "outputs",
        "position",
        "spans",
        "terminal",
    )

    def __init__(self, position: int, offset_us: int) -> None:
        self.position = self.last = position
        self.first_us = self.last_us = offset_us
        self.first_delta_us: int | None = None
        self.first_text_us: int | None = None
        self.ended: int | None = None
        self.spans: dict[str, list[int]] = {}
        self.created: float | None = None
        self.object: dict[str, Any] = {}
        self.terminal = False
        self.number: int | None = None
        self.families: dict[str, dict[str, Entity]] = {}
        self.calls: list[str] = []
        self.outputs: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None
        self.numbers: list[list[int]] = []
        self.expects = 0
        self.begun = False
        self.anomalies: list[list[Any]] = []

    def family(self, name: str) -> dict[str, Entity]:
        """The entities of a family, by id."""
        found = self.families.get(name)
        if found is None:
            found = self.families[name] = {}
        return found

    def touch(self, key: str) -> None:
        """Note that the event at hand speaks of this step."""
        span = self.spans.get(key)
        if span is None:
            self.spans[key] = [self.last_us, self.last_us, self.last]
        else:
            span[1] = self.last_us
            span[2] = self.last

    def anomaly(self, position: int, kind: str, detail: str) -> None:
        if sum(1 for found in self.anomalies if found[1] == kind) < ANOMALY_LIMIT:
            self.anomalies.append([position, kind, detail[:500]])

    def count(self, number: int, position: int) -> bool:
        """Note a sequence number; whether it is new."""
        seen = self.numbers
        if seen and number == seen[-1][1] + 1:
            seen[-1][1] = number
            return True
        at = len(seen)
        while at and number < seen[at - 1][0]:
            at -= 1
        if at and number <= seen[at - 1][1]:
            return False
        if at and number == seen[at - 1][1] + 1:
            seen[at - 1][1] = number
        else:
            seen.insert(at, [number, number, position])
            at += 1
        if at < len(seen) and seen[at][0] == number + 1:
            seen[at - 1][1] = seen.pop(at)[1]
        return True

    def is_whole(self, entity: Entity, number: int | None) -> bool:
        """Whether this stream has all that was streamed of an entity up to this sequence number."""
        if entity.since is None:
            return False
        if entity.since == UNNUMBERED or number is None:
            return True
        return any(first <= entity.since and number <= last for first, last, _ in reversed(self.numbers))

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "first_us": self.first_us,
            "last_us": self.last_us,
            "first_delta_us": self.first_delta_us,
            "first_text_us": self.first_text_us,
            "last": self.last,
            "ended": self.ended,
            "spans": self.spans,
            "created": self.created,
            "object": self.object,
            "terminal": self.terminal,
            "number": self.number,
            "families": {
                name: {id: entity.to_json() for id, entity in entities.items()} for name, entities in self.families.items()
            },
            "calls": self.calls,
            "outputs": self.outputs,
            "error": self.error,
            "numbers": self.numbers,
            "expects": self.expects,
            "begun": self.begun,
            "anomalies": self.anomalies,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Part:
        part = cls(state["position"], state["first_us"])
        for name in cls.__slots__:
            if name != "families":
                setattr(part, name, state[name])
        part.families = {
            name: {id: Entity.from_json(entity) for id, entity in entities.items()}
            for name, entities in state["families"].items()
        }
        return part


class Partial:
    """All parts that one stream names, and what is known of the connection itself.

    run_key: the run that the connection is about, by its latest event or its URL; None before any.
    thread_id: the thread or conversation. previous: the key of the run that this stream's run follows, root: of the run
    that its chain begins with, as far as this stream can tell; both None where the protocol knows no chains.
    answers: the outputs of tool calls that stand in the stream's request, the latest last; not kept in its JSON, since they
    are read once. before: what the request said before this run, None where it said nothing.
    after: the sequence number after which the stream was asked to go on. stream_id: names a run that has no id of its own.
    asked: what the request asks of the run, until there is one, for protocols whose answers do not repeat it; None where it
    asks for none. error: of an error event or an error response; error_at: the position of that event, None where HTTP told it.
    """

    def __init__(self, stream_id: str = "") -> None:
        self.stream_id = stream_id
        self.parts: dict[str, Part] = {}
        self.owners: dict[tuple[str, str], str] = {}  # (family, id of an entity) → key of its part
        self.run_key: str | None = None
        self.thread_id: str | None = None
        self.thread: dict[str, Any] | None = None
        self.previous: str | None = None
        self.root: str | None = None
        self.answers: list[Answer] = []
        self.before: Before | None = None
        self.after: int | None = None
        self.asked: dict[str, Any] | None = {}
        self.error: dict[str, Any] | None = None
        self.error_at: int | None = None
        self.problems: list[tuple[str, str]] = []

    def part(self, key: str, position: int, offset_us: int) -> Part:
        part = self.parts.get(key)
        if part is None:
            part = self.parts[key] = Part(position, offset_us)
        if offset_us > part.last_us:
            part.last_us = offset_us
        part.last = position
        return part

    def entity(self, family: str, id: str, key: str, position: int, offset_us: int) -> tuple[Part, Entity, bool]:
        """(its part, the entity, whether it is new), under the run of this key; one that was elsewhere moves there.

        For protocols whose entities have ids of their own, and may be spoken of before their run is.
        """
        part = self.part(key, position, offset_us)
        found: Entity | None = None
        owner = self.owners.get((family, id))
        if owner is not None:
            found = self.parts[owner].family(family)[id]
            if owner != key:
                self._leave(owner, family, id, part)
        new = found is None
        if found is None:
            found = Entity(position)
        self.owners[family, id] = key
        part.family(family)[id] = found
        part.touch(id)
        return part, found, new

    def unparsable(self, position: int, offset_us: int, type: str, data: str) -> None:
        """Say of the run that the connection is about, or of the stream, that an event's data is no JSON object."""
        part = self.part(self.run_key or STREAM, position, offset_us)
        part.anomaly(position, "unparsable", f"{type or 'message'}: {data[:200]}")

    def fail(self, error: dict[str, Any], position: int, part: Part | None = None) -> None:
        """Note an error event, of the run that the connection is about where there is one."""
        self.error, self.error_at = error, position
        if part is not None:
            part.error = {**error, "position": position}

    def restart(self, key: str, position: int, offset_us: int) -> Part:
        """A new part in place of one that turned out to be of another run."""
        old = self.parts.pop(key)
        for family, ids in old.families.items():
            for id in ids:
                self.owners.pop((family, id), None)
        return self.part(key, position, offset_us)

    def rename(self, key: str, to: str) -> Part:
        """The part of a run whose key turned out to be another."""
        part = self.parts[to] = self.parts.pop(key)
        self.owners = {entity: to if owner == key else owner for entity, owner in self.owners.items()}
        return part

    def _leave(self, owner: str, family: str, id: str, to: Part) -> None:
        """Take an entity out of its part; a part that stood for it alone goes, and what it noted moves along."""
        part = self.parts[owner]
        del part.family(family)[id]
        if owner == id and not (part.object or any(part.families.values()) or part.outputs):
            del self.parts[owner]
            to.anomalies.extend(part.anomalies)
            to.first_us = min(to.first_us, part.first_us)
            if part.first_delta_us is not None:
                to.first_delta_us = min(part.first_delta_us, to.first_delta_us or part.first_delta_us)
            if part.first_text_us is not None:
                to.first_text_us = min(part.first_text_us, to.first_text_us or part.first_text_us)
            to.spans.update(part.spans)

    def problem(self, kind: str, detail: str) -> None:
        """Noted while merging a delta; the handler that merges knows to which part it belongs."""
        self.problems.append((kind, detail))

    def to_json(self) -> dict[str, Any]:
        return {
            "run_key": self.run_key,
            "thread_id": self.thread_id,
            "thread": self.thread,
            "previous": self.previous,
            "root": self.root,
            "before": self.before,
            "after": self.after,
            "asked": self.asked,
            "error": self.error,
            "error_at": self.error_at,
        }

    @classmethod
    def from_json(cls, state: dict[str, Any], parts: dict[str, dict[str, Any]], stream_id: str = "") -> Partial:
        partial = cls(stream_id)
        for name, value in state.items():
            setattr(partial, name, value)
        partial.before = None if partial.before is None else Before(*partial.before)
        for key, part in parts.items():
            partial.parts[key] = loaded = Part.from_json(part)
            for family, entities in loaded.families.items():
                partial.owners.update({(family, id): key for id in entities})
        return partial
