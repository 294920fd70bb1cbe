"""A run from its parts: what several streams say about it, merged into one view.

Whatever order the streams were recorded, imported or folded in, the view is the same: it is a function of the set of parts.
A snapshot of higher rank overlays those below: terminal over open, then by the start of the stream, then by its recording.
Accumulated deltas are never concatenated across streams: the longest is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recorder.protocols import deltas
from recorder.protocols.assistants import clear
from recorder.protocols.partial import STREAM
from recorder.steps import RUN_TERMINAL, STREAMED


class Source(NamedTuple):
    """The stream that a part comes from. Times are ISO 8601 UTC, so that they sort as text."""

    stream_id: str
    started_at: str
    recorded_at: str
    label: str | None
    protocol: str | None
    thread_id: str | None
    outcome: str | None
    events: int

    @property
    def session_id(self) -> str:
        """The session that the stream belongs to: its label, else its thread, else itself."""
        return (self.label or self.thread_id or self.stream_id)[:256]


class Contribution(NamedTuple):
    """One stream's part of a run, as JSON (see partial.Part.to_json)."""

    source: Source
    part: dict[str, Any]


@dataclass
class EntityView:
    """A step or message as the read model shows it: `object` in the API's shape, final or as accumulated so far."""

    id: str
    object: dict[str, Any]
    terminal: bool


@dataclass
class RunView:
    """A run with its steps and messages, in order of creation. `object` is empty where no snapshot of the run was seen.

    state: ended | waiting (for tool outputs) | active (a stream of it is open) | unknown (it was cut off).
    anomalies: (stream_id, position, kind, detail).
    """

    key: str
    object: dict[str, Any]
    state: str
    sources: list[Source]
    steps: list[EntityView] = field(default_factory=list)
    messages: list[EntityView] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    error_stream: str | None = None
    first_us: int = 0
    first_delta_us: int | None = None
    anomalies: list[tuple[str, int, str, str]] = field(default_factory=list)

    @property
    def is_run(self) -> bool:
        """Whether this is a run, and not the stream itself, or a step or message that belongs to no run."""
        unowned = not self.object and self.key in {entity.id for entity in (*self.steps, *self.messages)}
        return self.key != STREAM and not unowned


def filter_runs(parts: dict[str, dict[str, Any]]) -> list[str]:
    """The keys of a stream's parts that are runs: not its own, nor that of a step or message that belongs to none."""
    return [
        key
        for key, part in parts.items()
        if key != STREAM and (part["object"] or (key not in part["steps"] and key not in part["messages"]))
    ]


def merge(key: str, contributions: Iterable[Contribution]) -> RunView:
    """The view of the run (or unowned object) of this key. There must be at least one contribution."""
    ordered = sorted(contributions, key=lambda given: _when(given.source))
    anomalies = [
        (given.source.stream_id, position, kind, detail)
        for given in ordered
        for position, kind, detail in given.part["anomalies"]
    ]
    ordered = _same_run(ordered, anomalies)
    ranked = sorted(ordered, key=lambda given: (given.part["terminal"], _when(given.source)))
    object: dict[str, Any] = {}
    for given in ranked:
        object.update(given.part["object"])
    if object:
        clear(object, ranked[-1].part["object"])
    first = ordered[0].part
    view = RunView(key, object, _state(object, ordered), [given.source for given in ordered], anomalies=anomalies)
    view.first_us, view.first_delta_us = first["first_us"], first["first_delta_us"]
    for given in ordered:
        view.outputs.update(given.part["outputs"])
        if given.part["error"]:
            view.error, view.error_stream = given.part["error"], given.source.stream_id
    view.steps = _entities(ordered, "steps", "step_details")
    view.messages = _entities(ordered, "messages", "content")
    return view


def _when(source: Source) -> tuple[str, str, str]:
    return source.started_at, source.recorded_at, source.stream_id


def _same_run(ordered: list[Contribution], anomalies: list[tuple[str, int, str, str]]) -> list[Contribution]:
    """Without the parts of an earlier run that had the same id: a created_at that differs is another run (mocks do that)."""
    stamps = [_stamp(given.part["object"].get("created_at")) for given in ordered]
    latest = next((stamp for stamp in reversed(stamps) if stamp is not None), None)
    kept = [given for given, stamp in zip(ordered, stamps, strict=True) if stamp is None or stamp == latest]
    if len(kept) < len(ordered):
        last = kept[-1]
        old = sorted({str(stamp) for stamp in stamps if stamp is not None and stamp != latest})
        anomalies.append(
            (
                last.source.stream_id,
                last.part["position"],
                "id_reused",
                f"created_at {latest}; an earlier run had {', '.join(old)}",
            )
        )
    return kept


def _state(object: dict[str, Any], ordered: Sequence[Contribution]) -> str:
    status = object.get("status")
    if status in RUN_TERMINAL:
        return "ended"
    if any(given.source.outcome is None for given in ordered):
        return "active"
    return "waiting" if status == "requires_action" else "unknown"


def _entities(ordered: Sequence[Contribution], family: str, field: str) -> list[EntityView]:
    found: dict[str, list[tuple[Contribution, dict[str, Any]]]] = {}
    for given in ordered:
        for id, entity in given.part[family].items():
            found.setdefault(id, []).append((given, entity))
    views = []
    for id, parts in found.items():
        ranked = sorted(parts, key=lambda pair: (pair[1]["terminal"], _when(pair[0].source)))
        object: dict[str, Any] = {}
        for _, entity in ranked:
            object.update(entity["object"])
        terminal = ranked[-1][1]["terminal"]
        object.setdefault("id", id)
        longest = max(ranked, key=lambda pair: sum(map(len, deltas.strings(pair[1]["delta"], STREAMED))))[1]["delta"]
        if longest and not terminal:
            object.update(deltas.final(longest))
        if field == "step_details" and "type" not in object and isinstance(object.get(field), dict):
            object["type"] = object[field].get("type")
        first_source, first_entity = parts[0]
        order = (_number(object.get("created_at")), _when(first_source.source), first_entity["position"])
        views.append((order, EntityView(id, object, terminal)))
    views.sort(key=lambda pair: pair[0])
    return [view for _, view in views]


def _stamp(value: Any) -> float | None:
    """A time in seconds, None where a value is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None


def _number(value: Any) -> float:
    stamp = _stamp(value)
    return float("inf") if stamp is None else stamp
