"""`tool_answers`: which stream's request gives the output of which tool call.

Where a protocol sends outputs with the next request, only the call's id ties the two together, and either may be recorded
first. The outputs themselves stay in the request bodies: a long conversation repeats them in every one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recorder import log, protocols
from recorder.database import StreamID, UTCTime, metadata, slices
from recorder.log import Stream
from recorder.projections.folds import request_of
from recorder.projections.run_steps import tool_calls
from recorder.projections.runs import name
from recorder.protocols.fold import StreamFold
from recorder.protocols.view import Contribution

tool_answers = sa.Table(
    "tool_answers",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("tool_call_id", sa.Text, primary_key=True),
    sa.Column("protocol", sa.Text, nullable=False),
    sa.Column("previous_run_id", sa.Text),  # the run that the request follows, where it says so: the call is one of its
    sa.Column("started_at", UTCTime, nullable=False),
    sa.Column("last", sa.Boolean, nullable=False),  # the request ends with it: its run goes on where that call's run stopped
    sa.Index("tool_answers_tool_call_id", "tool_call_id"),
)

TABLES = (tool_answers,)


def stream_rows(stream: Stream, fold: StreamFold) -> list[dict[str, Any]]:
    """The rows of a stream, one for each call that its request answers."""
    return [
        {
            "stream_id": stream.stream_id,
            "tool_call_id": id,
            "protocol": fold.protocol,
            "previous_run_id": fold.previous,
            "started_at": stream.started_at,
            "last": id == name(fold.continues),
        }
        for id in dict.fromkeys(name(id) or "" for id in fold.answers)
    ]


def answered_runs(connection: sa.Connection, stream_ids: Iterable[str]) -> set[str]:
    """The keys of runs that have a call which these streams answer."""
    found: set[str] = set()
    joined = tool_answers.join(tool_calls, tool_calls.c.tool_call_id == tool_answers.c.tool_call_id)
    for some in slices(stream_ids):
        chosen = sa.select(tool_calls.c.run_key).select_from(joined).where(tool_answers.c.stream_id.in_(some))
        found.update(connection.execute(chosen.distinct()).scalars())
    return found


def answering_streams(connection: sa.Connection, call_ids: Iterable[str]) -> dict[str, list[sa.Row[Any]]]:
    """{tool_call_id: rows of the streams that answer it}, in the order in which those began."""
    found: dict[str, list[sa.Row[Any]]] = {}
    for some in slices({name(id) or "" for id in call_ids}):
        chosen = sa.select(tool_answers).where(tool_answers.c.tool_call_id.in_(some))
        for row in connection.execute(chosen.order_by(tool_answers.c.started_at, tool_answers.c.stream_id)):
            found.setdefault(row.tool_call_id, []).append(row)
    return found


def outputs(connection: sa.Connection, runs: dict[str, list[Contribution]]) -> dict[str, dict[str, Any]]:
    """{run key: {tool_call_id: output}} that later requests give to calls of these runs.

    The first request after the run that has it counts, and one that names the run before any other.
    """
    calls = {key: [id for given in parts for id in given.part["calls"]] for key, parts in runs.items()}
    answering = answering_streams(connection, (id for ids in calls.values() for id in ids))
    chosen: list[tuple[str, str, str]] = []
    for key, ids in calls.items():
        for id in dict.fromkeys(ids):
            stream_id = _choose(key, runs[key], answering.get(name(id) or "", ()))
            if stream_id is not None:
                chosen.append((key, id, stream_id))
    said: dict[str, dict[str, Any]] = {}
    for some in slices({stream_id for _, _, stream_id in chosen}, 100):
        for stream_id, stream in log.get_streams(connection, some).items():
            said[stream_id] = _said(stream)
    found: dict[str, dict[str, Any]] = {}
    for key, id, stream_id in chosen:
        if id in said.get(stream_id, {}):
            found.setdefault(key, {})[id] = said[stream_id][id]
    return found


def _choose(key: str, parts: list[Contribution], answering: Sequence[sa.Row[Any]]) -> str | None:
    protocol = parts[-1].source.protocol
    began = min(datetime.fromisoformat(given.source.started_at) for given in parts)
    own = {given.source.stream_id for given in parts}
    possible = [
        (row.previous_run_id != key, row.started_at, row.stream_id)
        for row in answering
        if row.protocol == protocol and row.stream_id not in own
        if row.previous_run_id == key or (row.previous_run_id is None and row.started_at >= began)
    ]
    return min(possible)[2] if possible else None


def _said(stream: Stream) -> dict[str, Any]:
    request = request_of(stream)
    protocol = protocols.protocol_for(request)
    return protocol.answers(request) if protocol else {}
