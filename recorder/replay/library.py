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
from recorder.replay.difference import Difference, differences, of_bytes
from recorder.replay.faults import MOVING, Fault, Faulted, Happened
from recorder.replay.match import VOLATILE, Asked, Exchange, Library, Match, exchange, path_key, query_of
from recorder.replay.playback import Playback
from recorder.replay.volatile import Volatile
from recorder.sse import encode

_ROWS = 500  # requests, with their bodies, that are read at a time

_ALIKE = 50
"""Recordings of the same path that are compared with a request that none of them answers."""


def load(
    engine: sa.Engine,
    ids: Iterable[str] = (),
    *,
    strict: bool = False,
    volatile: Volatile = VOLATILE,
    empty: bool = False,
) -> Library:
    """The exchanges of what these IDs name, or of the whole database, in recorded order.

    strict: only equal requests are answered. volatile: what need not be the same where it is not strict. empty: it may be that
    there is nothing.
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
                exchange(at + number, stream_id, sessions.get(stream_id, stream_id), asked(rows[stream_id]), volatile)
                for number, stream_id in enumerate(some)
                if rows[stream_id].path
            ]
    if not exchanges and not empty:
        raise RecorderError(_nothing(database.shown(engine), len(found)))
    made = Library(exchanges, strict=strict, volatile=volatile)
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


def faulted(
    made: Playback, faults: Iterable[Fault], stream_id: str, request: int, path: str, happened: Happened
) -> Playback | Faulted:
    """The response with those of these faults that are of it: as the answer to a client's request of this number."""
    own = [fault for fault in faults if fault.is_of(stream_id, request)]
    return Faulted(made, own, path, happened) if own else made


def check(engine: sa.Engine, among: Iterable[str], faults: Iterable[Fault]) -> None:
    """Raises UsageError for a fault at an event that none of these streams has, or to which it cannot happen."""
    given = [fault for fault in faults if fault.position >= 0 or fault.stream]
    if not given:
        return
    ids = list(among)
    ends: dict[str, int] = {}
    with database.read(engine) as connection:
        for at in range(0, len(ids), _ROWS):
            some = ids[at : at + _ROWS]
            rows = connection.execute(
                sa.select(log.heads.c.stream_id, log.heads.c.position).where(log.heads.c.stream_id.in_(some))
            )
            ends.update((str(row.stream_id), row.position) for row in rows)
        for fault in given:
            _check(connection, {id: end for id, end in ends.items() if id.startswith(fault.stream)}, fault)


def _check(connection: sa.Connection, ends: dict[str, int], fault: Fault) -> None:
    if not ends:
        raise UsageError(f"{fault.text}: no stream that is replayed begins with {fault.stream}; recorder ls has their ids")
    having = [stream_id for stream_id, end in ends.items() if end >= fault.position]
    if not having:
        longest = max(ends, key=lambda stream_id: ends[stream_id])
        raise UsageError(
            f"{fault.text}: there is no event {fault.position}; the last one of {longest} is {ends[longest]}"
            " (recorder show lists them)"
        )
    if fault.kind not in MOVING or any(_can_move(connection, stream_id, fault) for stream_id in having[:_ROWS]):
        return
    kind = log.read(connection, having[0], fault.position - 1, 1)[0].type
    raise UsageError(
        f"{fault.text}: event {fault.position} of {having[0]} is {kind or 'the last'} and cannot be moved;"
        + " name one that the client gets"
        + (", and that another follows" if fault.kind == "swap" else "")
    )


def _can_move(connection: sa.Connection, stream_id: str, fault: Fault) -> bool:
    count = 2 if fault.kind == "swap" else 1
    found = log.read(connection, stream_id, fault.position - 1, count)
    return len(found) == count and all(event.raw is not None or encode(event.type, event.data) for event in found)


def compared(engine: sa.Engine, match: Match, request: Asked) -> Match:
    """The match with the fields in which the request differs from the recorded one: none where it equals it."""
    if match.rung == "exact" or (recorded := request_of(engine, match.exchange.stream_id)) is None:
        return match
    return match._replace(differs=tuple(one.at for one in between(recorded, request)))


def request_of(engine: sa.Engine, stream_id: str) -> Asked | None:
    """The request of a stream; None where it has been deleted meanwhile."""
    with database.read(engine) as connection:
        found = log.get_streams(connection, [stream_id])
    return asked(found[stream_id]) if found else None


def between(recorded: Asked, request: Asked) -> list[Difference]:
    """In which fields two requests of the same path differ, secrets aside: of their query (`?limit`) and of their body."""
    was, now = _parameters(recorded.query), _parameters(request.query)
    of_query = [Difference(f"?{one.at[1:]}", *one[1:]) for one in differences(was, now)]
    try:
        seen = jsontext.loads(secrets.body(request.body, request.content_type))
        return of_query + differences(jsontext.loads(secrets.body(recorded.body, recorded.content_type)), seen)
    except (jsontext.JSONError, RecursionError):
        return of_query + ([] if recorded.body == request.body else [of_bytes(recorded.body, request.body)])


def nearest(engine: sa.Engine, among: Library, request: Asked) -> tuple[Exchange | None, list[Difference]]:
    """The exchange that is most like a request that none answers, and in what they differ where their paths are the same."""
    alike = among.of_path(request)[:_ALIKE]
    if not alike:
        return among.nearest(request), []
    with database.read(engine) as connection:
        rows = log.get_streams(connection, [one.stream_id for one in alike])
    found = [(one, between(asked(rows[one.stream_id]), request)) for one in alike if one.stream_id in rows]
    return min(found, key=lambda pair: len(pair[1]), default=(alike[0], []))


def not_found(engine: sa.Engine, among: Library, request: Asked) -> dict[str, Any]:
    """The body of the 404 for a request that nothing answers, in the shape of the API's errors."""
    query = f"?{secrets.query(request.query)}" if request.query else ""
    message = f"recorder: no recording answers {request.method} {request.path}{query}"
    closest, differs = nearest(engine, among, request)
    if closest:
        message += f"; the nearest is {' '.join(closest.path)} of stream {closest.stream_id}"
        if closest.path == path_key(request):
            message += f", which differs: {differs[0] if differs else 'in a way that JSON does not show'}"
            message += f", and in {len(differs) - 1} more" if len(differs) > 1 else ""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "recording_not_found"}
    return {"error": error}


def _parameters(query: str) -> dict[str, Any]:
    """{name: its value, or its values where it comes more than once}"""
    found: dict[str, list[str]] = {}
    for name, value in query_of(query):
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


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
