"""`silences`: the pauses of a stream of SILENCE_US and more, the first of each stream; found without reading its events."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from recorder.database import StreamID, metadata
from recorder.log import Stream
from recorder.projections.runs import name
from recorder.protocols.fold import StreamFold

silences = sa.Table(
    "silences",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),  # of the event that ended it
    sa.Column("offset_us", sa.BigInteger, nullable=False),  # of that event
    sa.Column("gap_us", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),  # of that event
    sa.Index("silences_gap_us", "gap_us"),
)

TABLES = (silences,)


def stream_rows(stream: Stream, fold: StreamFold) -> list[dict[str, Any]]:
    return [
        {"stream_id": stream.stream_id, "position": position, "offset_us": offset_us, "gap_us": gap_us, "type": name(type)}
        for position, offset_us, gap_us, type in fold.silences
    ]
