"""What there is to replay: the exchanges of a database, or of what IDs name in it, and how one of them is played."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from recorder import database, jsontext, log, queries
from recorder.collect import secrets
from recorder.errors import RecorderError, UsageError
from recorder.log import Stream, streams
from recorder.projections.sessions import session_streams
from recorder.replay.match import Asked, Exchange, Library, exchange, first_difference, path_key, query_of
from recorder.replay.playback import Playback

_ROWS = 500  # requests, with their bodies, that are read at a time


def load(engine: sa.Engine, ids: Iterable[str] = (), *, strict: bool = False) -> Library:
    """The exchanges of what these IDs name, or of the whole database, in recorded order.

    The read models must be up to date: they say which streams make a session. Raises UnknownID, AmbiguousID; RecorderError
    where there is nothing to replay; UsageError where nobody named a session and two answer the same request.
    """
    given = list(ids)
    with database.read(engine) as connection:
        found = _streams_of(connection, given)
        known = connection.execute(sa.select(session_streams.c.stream_id, session_streams.c.session_id))
        sessions = {row.stream_id: row.session_id for row in known}
        exchanges: list[Exchange] = []
        for at in range(0, len(found), _ROWS):
            some = found[at : at + _ROWS]
            rows = log.get_streams(connection, some)
            exchanges += [
                exchange(at + number, stream_id, sessions.get(stream_id, stream_id), asked(rows[stream_id]))
                for number, stream_id in enumerate(some)
                if rows[stream_id].path
            ]
    if not exchanges:
        raise RecorderError(_nothing(database.shown(engine), len(found)))
    made = Library(exchanges, strict=strict)
    if not given and (rivals := next(made.rivals(), None)):
        one, other = (rival.session_id for rival in rivals)
        raise UsageError(
            f"two sessions, {one} and {other}, answer the same {' '.join(rivals[0].path)}: name the one to replay,"
            " or both, to have them answer in the order in which they were recorded"
        )
    return made


def asked(stream: Stream) -> Asked:
    """A recorded request, as one that is asked."""
    content_type = next((value for name, value in stream.request_headers if name == "content-type"), None)
    return Asked(stream.method, stream.path, stream.query, bytes(stream.request_body or b""), content_type)


def playback(engine: sa.Engine, stream_id: str) -> Playback:
    """A stream's response, to be played."""
    return Playback(log.read_stream(engine, stream_id))


def not_found(engine: sa.Engine, among: Library, request: Asked) -> dict[str, Any]:
    """The body of the 404 for a request that nothing answers, in the shape of the API's errors."""
    query = f"?{secrets.query(request.query)}" if request.query else ""
    message = f"recorder: no recording answers {request.method} {request.path}{query}"
    if nearest := among.nearest(request):
        message += f"; the nearest is {' '.join(nearest.path)} of stream {nearest.stream_id}"
        if nearest.path == path_key(request):
            message += f", which differs: {_difference(engine, nearest, request)}"
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "recording_not_found"}
    return {"error": error}


def _difference(engine: sa.Engine, nearest: Exchange, request: Asked) -> str:
    with database.read(engine) as connection:
        recorded = log.get_streams(connection, [nearest.stream_id])[nearest.stream_id]
    if query_of(recorded.query) != query_of(request.query):
        return f"its query is {secrets.query(request.query)!r}, recorded was {recorded.query!r}"
    try:
        seen = jsontext.loads(secrets.body(request.body, request.content_type))
        return first_difference(jsontext.loads(recorded.request_body or b""), seen) or "in a way that JSON does not show"
    except (jsontext.JSONError, RecursionError):
        return f"its body has {len(request.body)} bytes, recorded were {len(recorded.request_body or b'')}"


def _streams_of(connection: sa.Connection, ids: list[str]) -> list[str]:
    """Stream ids in recorded order."""
    ordered = sa.select(streams.c.stream_id).order_by(streams.c.started_at, streams.c.stream_id)
    every = list(connection.execute(ordered).scalars())
    if not ids:
        return every
    chosen = {stream_id for id in ids for stream_id in queries.streams_of(connection, queries.resolve(connection, id))}
    return [stream_id for stream_id in every if stream_id in chosen]


def _nothing(name: str, count: int) -> str:
    if not count:
        return f"{name} holds nothing to replay; record something first, as with `recorder proxy` or `recorder record -- CMD`"
    return (
        f"none of {count} streams in {name} has its request (files are imported with it where NAME.request.json is beside them)"
    )
