"""What merging makes of a run's parts, and what its protocol shows of that: the run, steps and messages of the read model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recorder.protocols.conversation import Before
from recorder.protocols.usage import Counts, Reading

Order = tuple[tuple[str, str, str], int]
"""Sorts entities as they came: when their stream began and was recorded, then the position in it."""


class Source(NamedTuple):
    """The stream that a part comes from. Times are ISO 8601 UTC, so that they sort as text.

    position, last_us: of its last event. stalled: it was silent for long when it ended. status: of HTTP. error_code,
    error_message: of an error event in it, at position error_at, or of the response that was an error (error_at is None then).
    started_us: when it began, since 1970. is_probe: its request only looked whether something is there.
    before: what its request said before the run.
    """

    stream_id: str
    started_at: str
    recorded_at: str
    label: str | None
    protocol: str | None
    thread_id: str | None
    outcome: str | None
    events: int
    previous: str | None = None
    root: str | None = None
    position: int = -1
    last_us: int = 0
    stalled: bool = False
    status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    started_us: int = 0
    error_at: int | None = None
    is_probe: bool = False
    before: Before | None = None

    @property
    def own_session(self) -> str | None:
        """The session that the stream names itself: its label, else its thread or conversation."""
        found = self.label or self.thread_id  # an empty label is none
        return found[:256] if found else None

    @property
    def session_id(self) -> str:
        """The session that the stream belongs to, as far as it alone can tell: the one it names, its chain's, else its own."""
        return self.own_session or (chain_session(self.root) if self.root else self.stream_id)


CHAIN = "chain_"
"""How the sessions begin that are chains of responses."""


def chain_session(run_key: str) -> str:
    """The session of a chain of runs that begins with this one."""
    return f"{CHAIN}{run_key}"[:256]


class Contribution(NamedTuple):
    """One stream's part of a run, as JSON (see partial.Part.to_json)."""

    source: Source
    part: dict[str, Any]


@dataclass
class Merged:
    """A run, or a part of one, merged from all streams: `object` in the words of its protocol, {} where no snapshot was seen.

    said: the snapshot of highest rank alone. position: of the event that first spoke of it, in the stream that order names.
    """

    id: str
    object: dict[str, Any]
    said: dict[str, Any]
    terminal: bool
    order: Order

    @property
    def first(self) -> tuple[str, int]:
        """The stream and position of that event."""
        (_, _, stream_id), position = self.order
        return stream_id, position


@dataclass
class MergedRun(Merged):
    """families: {family: {id: Merged}}. answered: {occurrence() of a call: output}, what later requests said of its calls.

    left: no event ended it, because the client left once it had the calls; it has answered them all. terminal is true then.
    """

    families: dict[str, dict[str, Merged]] = field(default_factory=dict)
    answered: Mapping[str, Any] = field(default_factory=dict)
    left: bool = False

    def family(self, name: str) -> dict[str, Merged]:
        return self.families.get(name) or {}


@dataclass
class EntityView:
    """A step or message as the read model shows it: `object` in the API's shape, final or as accumulated so far.

    derived_status: of one that no event ended, what the end of its run makes of it. spans: the keys under which its
    parts' spans say when it was; its id by default. first_us, last_us: when it was first and last spoken of, in µs since
    the run's first stream began, None where only a whole object was seen. shown: the stream and position of the latter.
    results: of each call that a part of its own answers, by the call's place: the stream and position that told its result.
    """

    id: str
    object: dict[str, Any]
    terminal: bool
    derived_status: str | None = None
    spans: tuple[str, ...] = ()
    first_us: int | None = field(default=None, compare=False)
    last_us: int | None = field(default=None, compare=False)
    shown: tuple[str, int] | None = field(default=None, compare=False)
    results: dict[int, tuple[str, int]] = field(default_factory=dict, compare=False)


@dataclass
class Shown:
    """What a protocol shows of a merged run: a Run object with its steps and messages, in order.

    source_object: the object that the API gave, where that is no Run. status: the effective one: the run's, but
    requires_action where the client has yet to answer calls of a run that the API calls completed. reading: of its usage.
    decided: the stream and position of the event that made it fail, where that is not the one that ended it.
    """

    object: dict[str, Any] = field(default_factory=dict)
    steps: list[EntityView] = field(default_factory=list)
    messages: list[EntityView] = field(default_factory=list)
    source_object: dict[str, Any] | None = None
    status: str | None = None
    reading: Reading | None = None
    decided: tuple[str, int] | None = None


class Failure(NamedTuple):
    """How a run failed, one of KINDS, and the event that showed it. code: as the API or the stream gave it."""

    kind: str
    code: str | None
    message: str | None
    stream_id: str
    position: int


@dataclass
class RunView:
    """A run as the read model has it.

    state: ended | waiting (for tool outputs) | active (a stream of it is open) | unknown (it was cut off).
    calls: ids of the calls that a later request may answer. anomalies: (stream_id, position, kind, detail).
    first_us, first_delta_us, first_text_us: since its first stream began; ended_us: of the last event that spoke of it,
    since then too. failure: how it failed, None where it did not, or not yet. usage_source: who said its usage: the run,
    its steps, the response; None where nobody did. counts: the tokens of its usage, None where there is none.
    session_id, logical_run_id, continued_run_id: its place among other runs, once that is known.
    """

    key: str
    object: dict[str, Any]
    state: str
    sources: list[Source]
    protocol: str | None = None
    session_id: str = ""
    logical_run_id: str = ""
    continued_run_id: str | None = None
    steps: list[EntityView] = field(default_factory=list)
    messages: list[EntityView] = field(default_factory=list)
    source_object: dict[str, Any] | None = None
    status: str | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    error_stream: str | None = None
    first_us: int = 0
    first_delta_us: int | None = None
    first_text_us: int | None = None
    ended_us: int | None = None
    failure: Failure | None = None
    usage_source: str | None = None
    counts: Counts | None = None
    anomalies: list[tuple[str, int, str, str]] = field(default_factory=list)
    is_run: bool = True

    @property
    def label(self) -> str | None:
        """Of the last of its streams that has one."""
        return next((source.label for source in reversed(self.sources) if source.label), None)
