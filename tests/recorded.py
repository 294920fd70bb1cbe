"""What a log holds, as a process beside the one that records sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from recorder import database, log
from recorder.sse import chunks
from tests.commands import sqlite, until


class Recorded:
    """The log in a database: its URL, or the path of a SQLite file. path: of the request, everywhere below."""

    def __init__(self, db: str | Path) -> None:
        self.engine = database.connect(sqlite(db) if isinstance(db, Path) else db, create=False)

    def streams(self, path: str | None = None) -> list[log.Stream]:
        """The streams of a path, or all, in the order in which they began."""
        chosen = sa.select(log.streams.c.stream_id).order_by(log.streams.c.stream_id)
        with database.read(self.engine) as connection:
            ids = list(connection.execute(chosen if path is None else chosen.where(log.streams.c.path == path)).scalars())
            found = log.get_streams(connection, ids)
        return [found[stream_id] for stream_id in ids]

    def ended(self, path: str, count: int = 1) -> list[log.Stream]:
        """The streams of a path once they are over."""

        def over() -> list[log.Stream]:
            found = self.streams(path)
            return found if len(found) == count and all(self.outcome(stream.stream_id) for stream in found) else []

        return until(over)  # type: ignore[no-any-return]

    def outcome(self, stream_id: str) -> str | None:
        with database.read(self.engine) as connection:
            head = log.head(connection, stream_id)
        return head.outcome if head else None

    def events(self, stream_id: str) -> list[log.Event]:
        return list(log.read_stream(self.engine, stream_id))

    def body(self, stream_id: str) -> bytes:
        return b"".join(body for body, _, _ in log.wire(self.events(stream_id)))

    def chunks(self, stream_id: str) -> list[bytes]:
        return [body for _, body in self.arrivals(stream_id)]

    def arrivals(self, stream_id: str) -> list[tuple[int, bytes]]:
        """The chunks of a body and when each came: (offset_us, bytes)."""
        return list(chunks(log.wire(self.events(stream_id))))

    def said(self, stream_id: str, type: str) -> list[Any]:
        """What the system events of a type say."""
        return [json.loads(event.data) for event in self.events(stream_id) if event.type == type]
