"""`anomalies`: what a stream or run should not have had. They are counted and shown, and never stop anything."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from recorder.database import StreamID, metadata
from recorder.projections.runs import text
from recorder.protocols.view import RunView

anomalies = sa.Table(
    "anomalies",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),  # '' where it concerns no run
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("anomalies_stream_id", "stream_id"),
)

TABLES = (anomalies,)


def rows(view: RunView) -> dict[sa.Table, list[dict[str, Any]]]:
    return {
        anomalies: [
            {
                "run_key": view.key,
                "stream_id": stream_id,
                "ordinal": ordinal,
                "position": position,
                "kind": kind,
                "run_id": view.key if view.is_run else None,
                "detail": text(detail) or "",
            }
            for ordinal, (stream_id, position, kind, detail) in enumerate(view.anomalies)
        ]
    }
