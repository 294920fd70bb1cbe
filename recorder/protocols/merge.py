"""A run from its parts: what several streams say about it, merged into one view.

Whatever order the streams were recorded, imported or folded in, the view is the same: it is a function of the set of parts.
A snapshot of higher rank overlays those below: terminal over open, then by sequence number, then by the start of the
stream, then by its recording. Fragments with sequence numbers are put together by them; of others, and of accumulated
deltas, the longest is taken and nothing is concatenated across streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recorder import protocols
from recorder.protocols import deltas
from recorder.protocols.failure import calls_of, failure_of_run, is_whole
from recorder.protocols.partial import STREAM
from recorder.protocols.payload import stamp
from recorder.protocols.view import Contribution, EntityView, Merged, MergedRun, RunView, Shown, Source
from recorder.vocabulary import STREAMED

Ranked = tuple[Source, dict[str, Any]]
"""A stream, and what it says about a run or a part of one."""


def filter_runs(parts: dict[str, dict[str, Any]]) -> list[str]:
    """The keys of a stream's parts that are runs: not its own, nor that of an entity that belongs to none."""
    return [key for key, part in parts.items() if key != STREAM and _is_run(key, [part])]


def merge(key: str, contributions: Iterable[Contribution], answered: Mapping[str, Any] | None = None) -> RunView:
    """The view of the run (or unowned object) of this key. There must be at least one contribution.

    answered: {occurrence() of a call: output}, what later requests said of its calls.
    """
    ordered = sorted(contributions, key=lambda given: _when(given.source))
    anomalies = [
        (given.source.stream_id, position, kind, detail)
        for given in ordered
        for position, kind, detail in given.part["anomalies"]
    ]
    ordered = _same_run(ordered, anomalies)
    anomalies += _gaps(ordered)
    protocol = protocols.named(ordered[-1].source.protocol)
    outputs: dict[str, Any] = {}
    for given in ordered:
        if given.source.outcome != "http_error":  # what was refused is no output
            outputs.update(given.part["outputs"])
    run = _merged_run(key, ordered, {**outputs, **(answered or {})})
    shown = protocol.present(run) if protocol and key != STREAM else Shown()
    if protocol and _has_left(run, shown, ordered):
        run.left = run.terminal = True
        shown = protocol.present(run)
    first = ordered[0].part
    last = ordered[-1].source
    view = RunView(
        key,
        shown.object,
        _state(run.terminal, shown.status, ordered),
        [given.source for given in ordered],
        protocol=last.protocol,
        session_id=last.session_id,
        logical_run_id=key,
        steps=shown.steps,
        messages=shown.messages,
        source_object=shown.source_object,
        status=shown.status,
        first_us=first["first_us"],
        first_delta_us=first["first_delta_us"],
        first_text_us=next((_since(ordered, given, "first_text_us") for given in ordered if _has(given, "first_text_us")), None),
        ended_us=max(
            _since(ordered, given, "last_us")
            if run.terminal
            else max(_since(ordered, given, "last_us"), _offset(ordered, given) + given.source.last_us)
            for given in ordered
        ),
        anomalies=anomalies,
        is_run=key != STREAM and _is_run(key, [given.part for given in ordered]),
    )
    view.outputs = outputs
    for entity in (*view.steps, *view.messages):
        _place(entity, ordered)
    if shown.reading is not None:
        view.counts = shown.reading.counts
    if isinstance(view.object.get("usage"), dict):
        view.usage_source = "run" if view.source_object is None else "response"
    elif run.terminal and _is_whole(ordered) and _all_say_usage(shown):
        view.usage_source = "steps"
    if shown.reading is not None and shown.reading.problem:
        view.anomalies.append((last.stream_id, ordered[-1].part["last"], "usage_mismatch", shown.reading.problem))
    if run.terminal and _is_whole(ordered):
        view.anomalies += _usage_differs(shown, ordered)
    for given in ordered:
        view.calls += [id for id in given.part["calls"] if id not in view.calls]
        if given.part["error"]:
            view.error, view.error_stream = given.part["error"], given.source.stream_id
    ended = next((given for given in reversed(ordered) if given.part["ended"] is not None), None)
    shown_by = ended or ordered[-1]
    ended_at = (shown_by.source.stream_id, shown_by.part["ended" if ended else "last"])
    view.failure = failure_of_run(view, shown.decided or ended_at)
    return view


def _offset(ordered: Sequence[Contribution], given: Contribution) -> int:
    """When a stream began, in µs since the first one of its run did; 0 where that is not known, as of files without a time."""
    first, own = ordered[0].source.started_us, given.source.started_us
    return own - first if first > 0 and own > 0 else 0


def _since(ordered: Sequence[Contribution], given: Contribution, name: str) -> int:
    """An offset of a part, in µs since the first stream of its run began."""
    return _offset(ordered, given) + int(given.part[name])


def _has(given: Contribution, name: str) -> bool:
    return given.part[name] is not None


def _place(entity: EntityView, ordered: Sequence[Contribution]) -> None:
    """Note when a step or message was, and the event that spoke of it last."""
    for given in ordered:
        for key in entity.spans or (entity.id,):
            span = given.part["spans"].get(key)
            if span is None:
                continue
            first_us, last_us = (_offset(ordered, given) + at for at in span[:2])
            entity.first_us = first_us if entity.first_us is None else min(entity.first_us, first_us)
            if entity.last_us is None or last_us >= entity.last_us:
                entity.last_us, entity.shown = last_us, (given.source.stream_id, span[2])


def _all_say_usage(shown: Shown) -> bool:
    return bool(shown.steps) and all(isinstance(step.object.get("usage"), dict) for step in shown.steps)


def _when(source: Source) -> tuple[str, str, str]:
    return source.started_at, source.recorded_at, source.stream_id


def _is_run(key: str, parts: Sequence[dict[str, Any]]) -> bool:
    """Whether parts under a key are of a run, and not of a step or message that belongs to none."""
    return any(part["object"] for part in parts) or not any(
        key in entities for part in parts for entities in part["families"].values()
    )


def _same_run(ordered: list[Contribution], anomalies: list[tuple[str, int, str, str]]) -> list[Contribution]:
    """Without the parts of an earlier run that had the same id: another created_at is another run (mocks do that)."""
    spoken = [protocols.named(given.source.protocol) and given.source.protocol for given in ordered]
    latest_protocol = next((name for name in reversed(spoken) if name), None)
    ordered = [given for given, name in zip(ordered, spoken, strict=True) if name == latest_protocol] or ordered
    stamps = [stamp(given.part["created"]) for given in ordered]
    latest = next((at for at in reversed(stamps) if at is not None), None)
    kept = [given for given, at in zip(ordered, stamps, strict=True) if at is None or at == latest]
    if len(kept) < len(ordered):
        last = kept[-1]
        old = sorted({str(at) for at in stamps if at is not None and at != latest})
        anomalies.append(
            (
                last.source.stream_id,
                last.part["position"],
                "id_reused",
                f"created_at {latest}; an earlier run had {', '.join(old)}",
            )
        )
    return kept


def _gaps(ordered: Sequence[Contribution]) -> list[tuple[str, int, str, str]]:
    """Anomalies for sequence numbers that none of the streams has."""
    ranges = sorted(
        ((first, last, position, given.source.stream_id) for given in ordered for first, last, position in given.part["numbers"])
    )
    found = []
    expected = min((given.part["expects"] for given in ordered if given.part["numbers"]), default=0)
    reached = max(0, expected - 1)  # some count from 1
    for first, last, position, stream_id in ranges:
        if first > reached + 1:
            found.append((stream_id, position, "sequence_gap", f"sequence numbers {reached + 1} to {first - 1} are missing"))
        reached = max(reached, last)
    return found[:100]


def _is_whole(ordered: Sequence[Contribution]) -> bool:
    """Whether a run that ended was streamed from its beginning to its end, so that all its steps are known.

    A poll tells nothing of the steps before it, and a stream that broke off not what came then.
    """
    ended = any(given.part["terminal"] and any(given.part["families"].values()) for given in ordered)
    broken = any(not given.part["terminal"] and given.source.outcome not in ("done", "eof") for given in ordered)
    return ended and not broken and any(given.part["begun"] for given in ordered)


def _has_left(run: MergedRun, shown: Shown, ordered: Sequence[Contribution]) -> bool:
    """Whether a client left because it had all that it wanted: the calls, whole, which its next request answers."""
    noted = [id for given in ordered for id in given.part["calls"]]
    calls = [call for step in shown.steps for call in calls_of(step) if call.get("id") in noted]
    return (
        not run.terminal
        and ordered[-1].source.outcome in ("client_closed", "eof")
        and bool(calls)
        and all(call["id"] in run.answered and is_whole(call) for call in calls)
        and not any(given.part["error"] for given in ordered)
    )


def _usage_differs(shown: Shown, ordered: Sequence[Contribution]) -> list[tuple[str, int, str, str]]:
    """An anomaly where a run's usage is not the sum of its steps', if all of them say theirs."""
    usages = [step.object.get("usage") for step in shown.steps]
    total = shown.object.get("usage")
    if not usages or not isinstance(total, dict) or not all(isinstance(usage, dict) for usage in usages):
        return []
    found = []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        counts = [usage.get(name) for usage in usages if usage]
        if all(type(count) is int for count in (total.get(name), *counts)) and sum(counts) != total[name]:
            found.append(f"{name} {total[name]}, of the steps {sum(counts)}")
    last = next(given for given in reversed(ordered) if given.part["terminal"])
    detail = "; ".join(found)
    return [(last.source.stream_id, last.part["position"], "usage_mismatch", detail)] if found else []


def _state(terminal: bool, status: str | None, ordered: Sequence[Contribution]) -> str:
    if terminal:
        return "waiting" if status == "requires_action" else "ended"
    if any(given.source.outcome is None for given in ordered):
        return "active"
    return "waiting" if status == "requires_action" else "unknown"


def _merged_run(key: str, ordered: Sequence[Contribution], answered: Mapping[str, Any]) -> MergedRun:
    ranked = _by_rank((given.source, given.part) for given in ordered)
    found: dict[str, dict[str, list[Ranked]]] = {}
    for given in ordered:
        for family, entities in given.part["families"].items():
            for id, entity in entities.items():
                found.setdefault(family, {}).setdefault(id, []).append((given.source, entity))
    families = {family: {id: _merged(id, parts) for id, parts in entities.items()} for family, entities in found.items()}
    order = (_when(ordered[0].source), ordered[0].part["position"])
    said = ranked[-1][1]
    return MergedRun(key, _overlaid(ranked), said["object"], said["terminal"], order, families, answered)


def _merged(id: str, parts: list[Ranked]) -> Merged:
    """A part of a run, from what each stream says of it, in the order of the streams."""
    ranked = _by_rank(parts)
    object = _overlaid(ranked)
    terminal = ranked[-1][1]["terminal"]
    if not terminal:
        longest = max((entity["delta"] for _, entity in ranked), key=lambda delta: sum(map(len, deltas.strings(delta, STREAMED))))
        object.update(deltas.final(longest))
        texts: dict[str, list[Any]] = {}
        for _, entity in ranked:
            for field, fragments in entity["texts"].items():
                texts.setdefault(field, []).append(fragments)
        object.update({field: deltas.joined(fragments) for field, fragments in texts.items()})
    first_source, first = parts[0]
    return Merged(id, object, ranked[-1][1]["object"], terminal, (_when(first_source), first["position"]))


def _by_rank(parts: Iterable[Ranked]) -> list[Ranked]:
    def rank(given: Ranked) -> tuple[bool, int, tuple[str, str, str]]:
        source, said = given
        return said["terminal"], -1 if said["number"] is None else said["number"], _when(source)

    return sorted(parts, key=rank)


def _overlaid(ranked: Iterable[Ranked]) -> dict[str, Any]:
    object: dict[str, Any] = {}
    for _, said in ranked:
        usage = object.get("usage")
        object.update(said["object"])
        if usage is not None and object.get("usage") is None:
            object["usage"] = usage  # null says nothing
    return object
