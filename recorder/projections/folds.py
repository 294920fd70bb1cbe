"""The kept folds: what each stream says, as JSON, so that a run finds its other streams and a fold goes on where it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import StreamID, metadata
from recorder.log import Stream
from recorder.protocols import FOLD_VERSION, Request
from recorder.protocols.conversation import Before
from recorder.protocols.failure import code_of_stream, is_probe
from recorder.protocols.fold import StreamFold
from recorder.protocols.payload import as_text
from recorder.protocols.view import Contribution, Source

folds = sa.Table(
    "folds",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("run_key", sa.Text, primary_key=True),  # '' for what is about the stream itself
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("fold_version", sa.Integer, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Index("folds_run_key", "run_key"),
)

TABLES = (folds,)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def request_of(stream: Stream) -> Request:
    """What a fold may know of a stream's request."""
    body = None
    if stream.request_body:
        try:
            body = jsontext.loads(bytes(stream.request_body))
        except jsontext.JSONError:
            body = None
    return Request(stream.method, stream.host, stream.path, stream.query, body, stream.stream_id)


def source_of(stream: Stream, fold: StreamFold) -> Source:
    return Source(
        stream.stream_id,
        stream.started_at.isoformat(),
        stream.recorded_at.isoformat(),
        stream.session_label,
        fold.protocol,
        fold.thread_id,
        fold.outcome,
        fold.events,
        fold.previous,
        fold.root,
        fold.position,
        fold.last_us,
        fold.stalled,
        fold.status,
        code_of_stream(fold.outcome, fold.status, fold.error),
        as_text((fold.error or {}).get("message")),
        (stream.started_at - _EPOCH) // timedelta(microseconds=1),
        fold.error_at,
        is_probe(stream.method, fold.protocol, fold.status),
        fold.before,
    )


def to_rows(stream: Stream, fold: StreamFold, states: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `folds` for a stream, from its fold's states. Each holds its source: merging needs no other table."""
    source = source_of(stream, fold)
    return [
        {
            "stream_id": stream.stream_id,
            "run_key": key,
            "position": fold.position,
            "fold_version": FOLD_VERSION,
            "state": jsontext.dumps({"source": source, "part": part}),
        }
        for key, part in states.items()
    ]


def contribution(state: str) -> Contribution:
    value = jsontext.loads(state)
    source = Source(*value["source"])
    return Contribution(source._replace(before=source.before and Before(*source.before)), value["part"])


def resume(stream: Stream, states: dict[str, str]) -> StreamFold:
    """The fold of a stream as its kept states ({run key: state}) left it; a new one where there are none."""
    loaded = {key: jsontext.loads(state)["part"] for key, state in states.items()}
    return StreamFold(request_of(stream), loaded or None)
