"""The questions that people ask, from Python: what an ID names, one object whole, and lists of them.

Functions take a Connection first and return plain JSON values: dicts with the API's names, times as ISO 8601 UTC.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import database, jsontext, log, session_list
from recorder.errors import AmbiguousID, UnknownID, UsageError
from recorder.log import Stream, streams
from recorder.projections.anomalies import anomalies
from recorder.projections.folds import folds, request_of, source_of
from recorder.projections.messages import messages
from recorder.projections.run_steps import run_steps, tool_calls
from recorder.projections.runs import later, runs
from recorder.projections.runs import name as indexed
from recorder.projections.sessions import session_streams, sessions
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.view import Contribution, RunView
from recorder.schema import text
from recorder.vocabulary import STEP_TERMINAL

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_BY_START = (sa.func.coalesce(runs.c.created_at, runs.c.observed_at), runs.c.observed_at, runs.c.run_id)
"""Orders runs by their start: what the API says of it is in whole seconds, and of some it says nothing."""


class Named(NamedTuple):
    """What an ID names. kind: stream, run, session or thread."""

    kind: str
    id: str


def resolve(connection: sa.Connection, id: str) -> Named:
    """What an ID names: a stream, run, session or thread id, an unambiguous prefix of one, or `last`.

    A run is also named by the id of its source object, where no other is: a chat completion by its own.
    Raises UnknownID or AmbiguousID.
    """
    id = text(id) or ""
    if id == "last":
        latest = connection.execute(
            sa.select(streams.c.stream_id).order_by(streams.c.recorded_at.desc(), streams.c.stream_id.desc()).limit(1)
        ).scalar()
        if latest is None:
            raise UnknownID("nothing has been recorded yet; record or import something first")
        return Named("stream", latest)
    columns = {
        "stream": streams.c.stream_id,
        "run": runs.c.run_id,
        "session": sessions.c.session_id,
        "thread": session_streams.c.thread_id,
    }
    for kind, column in columns.items():
        if (kind != "stream" or _UUID.fullmatch(id)) and connection.execute(
            sa.select(column).where(column == id).limit(1)
        ).first():
            return Named(kind, id)
    if (run_id := _named_by_its_source(connection, id, runs.c.source_id == id)) is not None:
        return Named("run", run_id)
    for kind, column in columns.items():
        named = sa.cast(column, sa.Text)
        prefixed = sa.select(named).where(sa.func.substr(named, 1, len(id)) == id).distinct().order_by(named).limit(4)
        found = list(connection.execute(prefixed).scalars()) if id else []
        if len(found) > 1:
            raise AmbiguousID(
                f"{id!r} is the start of several {kind} ids ({', '.join(found[:3])}{' …' * (len(found) > 3)}); give more of it"
            )
        if found:
            return Named(kind, found[0])
    begins = sa.func.substr(runs.c.source_id, 1, len(id)) == id
    if id and (run_id := _named_by_its_source(connection, id, begins)) is not None:
        return Named("run", run_id)
    raise UnknownID(f"{id!r} is no stream, run, session or thread here; `recorder ls` lists what is")


def _named_by_its_source(connection: sa.Connection, id: str, where: sa.ColumnElement[bool]) -> str | None:
    """The run whose source object is named so. Such an id need not be unique: raises AmbiguousID."""
    found = list(connection.execute(sa.select(runs.c.run_id).where(where).order_by(runs.c.run_id).limit(4)).scalars())
    if len(found) > 1:
        raise AmbiguousID(
            f"{id!r} is what several runs have been called ({', '.join(found[:3])}{' …' * (len(found) > 3)}); name one of these"
        )
    return found[0] if found else None


def streams_of(connection: sa.Connection, named: Named) -> list[str]:
    """The streams of what an ID names, in the order in which they began."""
    if named.kind == "stream":
        return [named.id]
    if named.kind == "run":
        speaking = sa.select(folds.c.stream_id).where(folds.c.run_key == named.id)
        chosen: sa.ColumnElement[bool] = session_streams.c.stream_id.in_(speaking)
    elif named.kind == "session":
        chosen = session_streams.c.session_id == named.id
    else:
        chosen = session_streams.c.thread_id == named.id
    ordered = (
        sa.select(session_streams.c.stream_id).where(chosen).order_by(session_streams.c.started_at, session_streams.c.stream_id)
    )
    return list(connection.execute(ordered).scalars())


def show_stream(connection: sa.Connection, stream_id: str, at: int | None = None) -> dict[str, Any]:
    """A stream's row, its events (up to and with position `at`), and the ids of its runs."""
    stream = log.get_streams(connection, [stream_id])[stream_id]
    folded = connection.execute(sa.select(session_streams).where(session_streams.c.stream_id == stream_id)).mappings().first()
    head = log.head(connection, stream_id)
    shown = [
        {"position": position, "offset_us": offset_us, "type": type, "data": data, "cuts": cuts}
        for position, offset_us, type, data, _, cuts in log.read(connection, stream_id)
        if at is None or position <= at
    ]
    ended = head is not None and (at is None or at >= head.position)
    return {
        **_stream_json(stream),
        "outcome": head.outcome if head and ended else None,
        "protocol": folded["protocol"] if folded else None,
        "session_id": folded["session_id"] if folded else None,
        "events": shown,
        "runs": jsontext.loads(folded["runs"]) if folded else [],
        "anomalies": _anomalies(connection, anomalies.c.stream_id == stream_id),
    }


def show_run(connection: sa.Connection, run_id: str) -> dict[str, Any]:
    """The Run object of the API with its steps, messages, streams, protocol, state and anomalies."""
    row = connection.execute(sa.select(runs).where(runs.c.run_key == run_id)).mappings().one()
    steps = connection.execute(
        sa.select(run_steps.c.object, run_steps.c.status, run_steps.c.status_derived)
        .where(run_steps.c.run_key == run_id)
        .order_by(run_steps.c.ordinal)
    ).all()
    said = connection.execute(
        sa.select(messages.c.object).where(messages.c.run_key == run_id).order_by(messages.c.ordinal)
    ).scalars()
    return {
        **jsontext.loads(row["object"]),
        "id": run_id,
        "state": row["state"],
        "effective_status": row["effective_status"],
        "logical_run_id": row["logical_run_id"],
        "source_object": None if row["source_object"] is None else jsontext.loads(row["source_object"]),
        "steps": [{**jsontext.loads(step), **({"derived_status": status} if derived else {})} for step, status, derived in steps],
        "messages": [jsontext.loads(object) for object in said],
        "streams": _streams_json(connection, streams_of(connection, Named("run", run_id))),
        "protocol": row["protocol"],
        "anomalies": _anomalies(connection, anomalies.c.run_key == run_id),
    }


class Span(NamedTuple):
    """When a step was: µs since its run began, None where nobody knows. label: its type, and its tools.

    is_open: no event ended it, so it lasts at least until last_us, that of the last event of its run.
    """

    label: str
    status: str | None
    first_us: int | None
    last_us: int | None
    is_open: bool


def timeline(connection: sa.Connection, run_id: str) -> tuple[list[Span], int | None]:
    """When each step of a run was, in order of creation, and how long the run took, in µs.

    As they were recorded; where a stream has no timing, or a step was only seen whole, by the API's times in whole seconds.
    """
    run = connection.execute(
        sa.select(runs.c.duration_us, runs.c.created_at, runs.c.ended_at).where(runs.c.run_key == run_id)
    ).one()
    columns = run_steps.c
    chosen = sa.select(run_steps).where(columns.run_key == run_id).order_by(columns.ordinal)
    steps = connection.execute(chosen).mappings().all()
    tools: dict[str, list[str]] = {}
    called = sa.select(tool_calls.c.step_id, tool_calls.c.type, tool_calls.c.name).where(tool_calls.c.run_key == run_id)
    for step_id, type, name in connection.execute(called.order_by(tool_calls.c.step_id, tool_calls.c.ordinal)):
        tools.setdefault(step_id, []).append(name or type or "")
    is_timed = any(step["last_us"] for step in steps)
    spans = []
    for step in steps:
        first, last, end = step["first_us"], step["last_us"], run.duration_us
        ended = next((step[name] for name in _STEP_ENDS if step[name] is not None), None)
        if not is_timed or first is None or last is None:
            first, last = _since(run.created_at, step["created_at"]), _since(run.created_at, ended)
            end = _since(run.created_at, run.ended_at)
        is_open = ended is None and (step["status_derived"] or step["status"] not in _STEP_OVER)
        if is_open and first is not None and end is not None:
            last = max(last or 0, end)
        label = " ".join([step["type"] or "step", ", ".join(dict.fromkeys(tools.get(step["step_id"], [])))]).strip()
        spans.append(Span(label, step["status"], first, last, is_open))
    return spans, run.duration_us


_STEP_OVER = STEP_TERMINAL | {"incomplete"}
_STEP_ENDS = ("completed_at", "failed_at", "cancelled_at", "expired_at")


def _since(start: datetime | None, at: datetime | None) -> int | None:
    return None if start is None or at is None else max((at - start) // timedelta(microseconds=1), 0)


def show_run_at(connection: sa.Connection, run_id: str, stream_prefix: str | None, at: int) -> dict[str, Any]:
    """A run as it stood after the event at position `at` of its first stream, or of the one that the prefix names.

    Streams that began before are taken whole, later ones not at all. Raises UnknownID, UsageError.
    """
    ids = streams_of(connection, Named("run", run_id))
    chosen = [stream_id for stream_id in ids if stream_id.startswith(stream_prefix or "")]
    if not chosen or (stream_prefix and len(chosen) > 1):
        raise UnknownID(f"{stream_prefix!r} names {len(chosen)} of the streams of {run_id}: {', '.join(ids)}")
    contributions = []
    for stream in (log.get_streams(connection, ids)[stream_id] for stream_id in ids[: ids.index(chosen[0]) + 1]):
        fold = StreamFold(request_of(stream))
        until = at if stream.stream_id == chosen[0] else None
        events = log.read(connection, stream.stream_id)
        fold.feed_all(log.texts(event for event in events if until is None or event.position <= until))
        part = fold.states().get(run_id)
        if part is not None:
            contributions.append(Contribution(source_of(stream, fold), part))
    if not contributions:
        raise UsageError(f"{run_id} did not exist yet at position {at} of {chosen[0]}")
    place = sa.select(runs.c.logical_run_id).where(runs.c.run_key == run_id)
    view = merge(run_id, contributions)
    view.logical_run_id = connection.execute(place).scalar() or run_id
    return view_json(view)


def view_json(view: RunView) -> dict[str, Any]:
    """A run's view in the shape of show_run."""
    return {
        **view.object,
        "id": view.key,
        "state": view.state,
        "effective_status": view.status,
        "logical_run_id": view.logical_run_id,
        "source_object": view.source_object,
        "steps": [
            {**step.object, **({"derived_status": step.derived_status} if step.derived_status else {})} for step in view.steps
        ],
        "messages": [message.object for message in view.messages],
        "streams": [
            {"stream_id": source.stream_id, "outcome": source.outcome, "events": source.events} for source in view.sources
        ],
        "protocol": view.protocol,
        "anomalies": [
            {"stream_id": stream_id, "position": position, "kind": kind, "detail": detail}
            for stream_id, position, kind, detail in view.anomalies
        ],
    }


def show_session(connection: sa.Connection, named: Named) -> dict[str, Any]:
    """A session (or all that a thread has): its streams and runs in the order of their start, and what was amiss in them."""
    ids = streams_of(connection, named)
    column = runs.c.session_id if named.kind == "session" else runs.c.thread_id
    found = connection.execute(sa.select(runs.c.run_id).where(column == named.id).order_by(*_BY_START)).scalars()
    amiss = [entry for some in database.slices(ids) for entry in _anomalies(connection, anomalies.c.stream_id.in_(some))]
    return {"session_id": named.id, "streams": _streams_json(connection, ids), "runs": list(found), "anomalies": amiss}


def list_sessions(
    connection: sa.Connection,
    *,
    failed: bool = False,
    since: datetime | None = None,
    model: str | None = None,
    status: str | None = None,
    label: str | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Sessions, the latest first. status: of one of their runs, or `unknown`; model likewise."""

    def ask(statement: str, given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [{**row} for row in connection.execute(sa.text(statement), {**given}).mappings()]

    at = database.timestamp(connection, since)
    return session_list.list_sessions(
        ask, failed=failed, since=at, model=text(model), status=text(status), label=indexed(label), limit=limit
    )


def sessions_of(connection: sa.Connection, stream_ids: list[str]) -> list[dict[str, Any]]:
    """The sessions that these streams are of, in order: how many of the streams, their events, and the runs they speak of."""
    found: dict[str, dict[str, Any]] = {}
    run_ids: dict[str, set[str]] = {}
    columns = session_streams.c
    chosen = sa.select(columns.stream_id, columns.session_id, columns.events, columns.runs)
    for some in database.slices(stream_ids):
        for stream_id, session_id, events, speaks_of in connection.execute(chosen.where(columns.stream_id.in_(some))):
            session = found.setdefault(session_id, {"first": stream_id, "session_id": session_id, "streams": 0, "events": 0})
            session["first"] = min(session["first"], stream_id)
            session["streams"] += 1
            session["events"] += events
            run_ids.setdefault(session_id, set()).update(jsontext.loads(speaks_of))
    known: dict[str, dict[str, Any]] = {}
    for some in database.slices({run_id for ids in run_ids.values() for run_id in ids}):
        states = sa.select(runs.c.run_key, runs.c.run_id, runs.c.status, runs.c.state).where(runs.c.run_key.in_(some))
        known.update({row["run_key"]: {**row} for row in connection.execute(states).mappings()})
    for session_id, session in found.items():
        session["runs"] = [known[key] for key in sorted(run_ids[session_id]) if key in known]
    return sorted(found.values(), key=lambda session: str(session["first"]))


def recent_events(connection: sa.Connection, limit: int, stream_ids: list[str] | None = None) -> list[tuple[str, log.Event]]:
    """The last events of these streams, or of the stream that was recorded last, in the order in which they came."""
    if stream_ids is None:
        latest = sa.select(streams.c.stream_id).order_by(streams.c.recorded_at.desc(), streams.c.stream_id.desc()).limit(1)
        stream_ids = list(connection.execute(latest).scalars())
    columns = session_streams.c
    spoke: list[tuple[datetime, str]] = []  # when each stream spoke last
    for some in database.slices(stream_ids) if len(stream_ids) > 1 else ():
        chosen = sa.select(columns.stream_id, columns.started_at, columns.last_us).where(columns.stream_id.in_(some))
        spoke += [(later(at, last_us), stream_id) for stream_id, at, last_us in connection.execute(chosen)]
    nearest = [stream_id for _, stream_id in sorted(spoke)[-limit:]] or stream_ids  # the last events are of the last that spoke
    began = {stream_id: stream.started_at for stream_id, stream in log.get_streams(connection, nearest).items()}
    last = []
    for stream_id in sorted(began, key=lambda id: (began[id], id)):
        head = log.head(connection, stream_id)
        events = [] if head is None else log.read(connection, stream_id, head.position - limit)
        last.append([(later(began[stream_id], event.offset_us), stream_id, event) for event in events])
    came = heapq.merge(*last, key=lambda each: each[0])  # each stream's events stay in their order, whatever its clock did
    return [(stream_id, event) for _, stream_id, event in came][-limit:]


def json_row(row: sa.RowMapping) -> dict[str, Any]:
    return {str(key): json_value(value) for key, value in row.items()}


def json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def _stream_json(stream: Stream) -> dict[str, Any]:
    body = stream.request_body
    shown = None if body is None else bytes(body).decode("utf-8", "replace")
    return {
        **stream._asdict(),
        "request_headers": [list(pair) for pair in stream.request_headers],
        "request_body": shown,
        "started_at": json_value(stream.started_at),
        "recorded_at": json_value(stream.recorded_at),
    }


def _streams_json(connection: sa.Connection, ids: list[str]) -> list[dict[str, Any]]:
    columns = session_streams.c
    found = {
        row.stream_id: {"stream_id": row.stream_id, "outcome": row.outcome, "events": row.events}
        for row in connection.execute(
            sa.select(columns.stream_id, columns.outcome, columns.events).where(columns.stream_id.in_(ids))
        )
    }
    return [found[stream_id] for stream_id in ids if stream_id in found]


def _anomalies(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
    columns = anomalies.c
    chosen = (
        sa.select(columns.stream_id, columns.position, columns.kind, columns.detail)
        .where(where)
        .order_by(columns.stream_id, columns.position, columns.ordinal)
    )
    return [json_row(row) for row in connection.execute(chosen).mappings()]
