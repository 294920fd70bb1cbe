"""`call_keys` and `tool_answers`: which stream's request gives the output of which tool call.

Where a protocol sends outputs with the next request, nothing but what that repeats of its conversation ties the two together
(protocols/conversation.py makes keys of it), and either may be recorded first. Of the calls with the key of an output, the
latest that was made before it is meant; unless the call before that one was still open, as it is where two users say the same
at once: then nobody can tell, and neither has an output. The outputs themselves stay in the request bodies: a long
conversation repeats them in every one.

All is looked up by a key and a time, a few rows around each: how many conversations there are does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import log, protocols
from recorder.database import StreamID, UTCTime, metadata, slices
from recorder.log import Stream
from recorder.projections.folds import request_of
from recorder.protocols.conversation import CERTAIN, Call, Keys, keys_of_calls, made_id, occurrence, scoped
from recorder.protocols.failure import calls_of
from recorder.protocols.fold import StreamFold
from recorder.protocols.view import RunView
from recorder.steps import ToolCall

call_keys = sa.Table(
    "call_keys",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("stream_id", StreamID, nullable=False),  # the first of the run
    sa.Column("began_at", UTCTime, nullable=False),  # when that began
    sa.Index("call_keys_key", "key", "began_at", "run_key", "stream_id"),
)

tool_answers = sa.Table(
    "tool_answers",
    metadata,
    sa.Column("stream_id", StreamID, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),  # of the output in its request
    sa.Column("level", sa.Integer, primary_key=True),  # of the key (protocols/conversation.py): the lowest that is known decides
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("started_at", UTCTime, nullable=False),
    sa.Column("last", sa.Boolean, nullable=False),  # the request ends with it: its run goes on where that call's run stopped
    sa.Index("tool_answers_key", "key", "started_at", "stream_id"),
)

TABLES = (call_keys, tool_answers)

_CALL, _ANSWER = call_keys.c, tool_answers.c


def stream_rows(stream: Stream, fold: StreamFold) -> list[dict[str, Any]]:
    """The rows of a stream: one for each key of each output in its request; of outputs with the same key the last."""
    rows: dict[str, dict[str, Any]] = {}
    for answer in fold.answers or ():
        for level, key in answer.keys:
            if (found := scoped(level, key, fold.protocol, stream.session_label)) is not None:
                rows[found] = {
                    "stream_id": stream.stream_id,
                    "number": answer.number,
                    "level": level,
                    "key": found,
                    "started_at": stream.started_at,
                    "last": answer.last,
                }
    return list(rows.values())


def replace_answers(connection: sa.Connection, streams: Sequence[tuple[Stream, StreamFold]]) -> set[str]:
    """Write what these streams answer, where that has changed; the keys of runs whose outputs may be others now."""
    new = {stream.stream_id: stream_rows(stream, fold) for stream, fold in streams if fold.answers is not None}
    have: dict[str, list[dict[str, Any]]] = {}
    for some in slices(new):
        for row in connection.execute(sa.select(tool_answers).where(_ANSWER.stream_id.in_(some))).mappings():
            have.setdefault(row["stream_id"], []).append(dict(row))
    changed = {id for id, rows in new.items() if _ordered(rows) != _ordered(have.get(id, []))}
    if not changed:
        return set()
    touched = answered_runs(connection, changed)
    connection.execute(tool_answers.delete().where(_ANSWER.stream_id.in_(changed)))
    rows = [row for id in changed for row in new[id]]
    if rows:
        connection.execute(tool_answers.insert(), rows)
    return touched | answered_runs(connection, changed)


def _ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["number"], row["level"]))


def replace_calls(connection: sa.Connection, views: Iterable[RunView], keys: set[str]) -> set[str]:
    """Write the keys of the calls of these runs, where they have changed; the keys of runs whose outputs may be others now.

    keys: of all runs at hand; one without a view is no more.
    """
    new = {view.key: row for view in views if view.is_run if (row := _call_rows(view))}
    have: dict[str, dict[str, dict[str, Any]]] = {}
    for some in slices(keys):
        for known in connection.execute(sa.select(call_keys).where(_CALL.run_key.in_(some))).mappings():
            have.setdefault(known["run_key"], {})[known["key"]] = dict(known)
    changed = {key for key in {*new, *have} if new.get(key) != have.get(key)}
    if not changed:
        return set()
    touched = _neighbours(connection, changed)
    for some in slices(changed):
        connection.execute(call_keys.delete().where(_CALL.run_key.in_(some)))
    rows = [row for key in sorted(changed) for row in new.get(key, {}).values()]
    if rows:
        connection.execute(call_keys.insert(), rows)
    return touched | _neighbours(connection, changed)


class _Known(NamedTuple):
    """A call of a run: its occurrence() there, and the keys under which it is kept."""

    occurrence: str
    keys: list[str]


def _calls(view: RunView) -> list[_Known]:
    """The calls of a run that a later request may answer."""
    if not view.calls:
        return []
    asked = next((source for source in view.sources if source.before is not None), view.sources[0])
    thread = next((source.thread_id for source in view.sources if source.thread_id), None)
    seen: dict[str, int] = {}
    found: list[_Known] = []

    def add(names: list[str], keys: list[Keys]) -> None:
        for name, own in zip(names, keys, strict=True):
            kept = (scoped(level, key, view.protocol, view.label) for level, key in own)
            found.append(_Known(name, [key for key in kept if key is not None]))

    for step in view.steps:
        calls = [call for each in calls_of(step) if (call := _call(each)).id in view.calls]
        add([occurrence(seen, call.id) for call in calls], keys_of_calls(asked.before, view.key, thread, calls))
    others = [Call(id) for id in view.calls if id not in seen]
    add([call.id for call in others], keys_of_calls(None, view.key, thread, others))
    return found


def _call(given: dict[str, Any]) -> Call:
    call = ToolCall.of(given)
    if not isinstance(call.id, str) or call.type not in _FUNCTIONS:
        return Call(str(call.id))
    return Call(call.id, call.name, call.arguments, call.id != made_id(call.name, call.arguments))


_FUNCTIONS = frozenset({"function", "custom", "mcp"})


def _call_rows(view: RunView) -> dict[str, dict[str, Any]]:
    first = view.sources[0]
    row = {"run_key": view.key, "stream_id": first.stream_id, "began_at": datetime.fromisoformat(first.started_at)}
    return {key: {"key": key, **row} for call in _calls(view) for key in call.keys}


# Whose output it is

_IDS: Any = sa.bindparam("ids", expanding=True)
_NUMBERS: Any = sa.bindparam("numbers", expanding=True)
_KEYS: Any = sa.bindparam("keys", expanding=True)
_GIVEN, _OTHER, _BESIDE = tool_answers.alias("given"), tool_answers.alias("other"), call_keys.alias("beside")


def _latest(column: str, offset: int = 0) -> sa.ScalarSelect[Any]:
    """A column of the latest call that the given answer may be to; or, by its offset, of one before that."""
    call = call_keys.alias().c
    before = (call.key == _GIVEN.c.key, call.began_at <= _GIVEN.c.started_at, call.stream_id != _GIVEN.c.stream_id)
    chosen = sa.select(call[column]).where(*before).order_by(call.began_at.desc(), call.run_key.desc())
    return chosen.offset(offset).limit(1).correlate(_GIVEN).scalar_subquery()


def _closed() -> sa.ColumnElement[bool]:
    """Whether the call before the latest was answered before that was made: with the same key, or by its run's name."""
    sooner = sa.or_(_OTHER.c.started_at < _latest("began_at"), _OTHER.c.stream_id == _latest("stream_id"))
    between = (_OTHER.c.started_at >= _latest("began_at", 1), sooner, _OTHER.c.stream_id != _latest("stream_id", 1))
    same = sa.exists().where(_OTHER.c.key == _GIVEN.c.key, *between).correlate(_GIVEN)
    own = (_BESIDE.c.run_key == _latest("run_key", 1), _OTHER.c.key == _BESIDE.c.key, _OTHER.c.level.in_(CERTAIN))
    return sa.or_(same, sa.exists().where(*own, *between).correlate(_GIVEN))


_RESOLVED = sa.select(
    *(_GIVEN.c[name] for name in ("stream_id", "number", "level")),
    _latest("run_key").label("run"),
    _latest("began_at", 1).label("previous"),
    _closed().label("closed"),
).order_by(_GIVEN.c.stream_id, _GIVEN.c.number, _GIVEN.c.level)
"""Answers, each with the latest call that it may be to."""

_RESOLVED_OF = _RESOLVED.where(_GIVEN.c.stream_id.in_(_IDS), _GIVEN.c.number.in_(_NUMBERS))
_RESOLVED_LAST = _RESOLVED.where(_GIVEN.c.stream_id.in_(_IDS), _GIVEN.c.last)

_LATER = sa.and_(_OTHER.c.key == _CALL.key, _OTHER.c.started_at >= _CALL.began_at, _OTHER.c.stream_id != _CALL.stream_id)
_FIRST = sa.select(_OTHER.c.stream_id).where(_LATER).order_by(_OTHER.c.started_at, _OTHER.c.stream_id).limit(1)
_FIRST_ANSWERS = (
    sa.select(_CALL.run_key, _CALL.key, _GIVEN.c.started_at, _GIVEN.c.stream_id, _GIVEN.c.number)
    .select_from(
        call_keys.join(
            _GIVEN,
            sa.and_(_GIVEN.c.key == _CALL.key, _GIVEN.c.stream_id == _FIRST.correlate(call_keys).scalar_subquery()),
        )
    )
    .where(_CALL.run_key.in_(_KEYS))
)
"""The calls of runs, each with the first answer that has its key and came after it."""


def _resolved(connection: sa.Connection, answers: sa.Select[Any], **given: Any) -> dict[tuple[str, int], str | None]:
    """{(stream_id, number): the run whose call it answers} of answers; None where that is in doubt."""
    found: dict[tuple[str, int], str | None] = {}
    for row in connection.execute(answers, given):
        if row.run is not None and (row.stream_id, row.number) not in found:
            sure = row.level in CERTAIN or row.previous is None or row.closed
            found[row.stream_id, row.number] = row.run if sure else None
    return found


def continued_runs(connection: sa.Connection, stream_ids: Iterable[str]) -> dict[str, str]:
    """{stream_id: the run whose call its request ends with answering}"""
    found: dict[str, str] = {}
    for some in slices(stream_ids):
        answering = _resolved(connection, _RESOLVED_LAST, ids=some)
        found.update((stream_id, key) for (stream_id, _), key in answering.items() if key is not None)
    return found


def outputs(connection: sa.Connection, views: Iterable[RunView]) -> dict[str, dict[str, Any]]:
    """{run key: {occurrence() of a call: output}} that later requests give to calls of these runs, the first that has it.

    What replace_calls() and replace_answers() wrote must be all there.
    """
    calls = {view.key: known for view in views if view.is_run if (known := _calls(view))}
    first: dict[tuple[str, str], tuple[Any, str, int]] = {}  # (run, key) → when, stream and number of the first answer
    for some in slices(calls):
        for row in connection.execute(_FIRST_ANSWERS, {"keys": some}):
            first[row.run_key, row.key] = (row.started_at, row.stream_id, row.number)
    meant: dict[tuple[str, int], str | None] = {}
    numbers = sorted({number for _, _, number in first.values()})
    for some in slices({stream_id for _, stream_id, _ in first.values()}):
        meant.update(_resolved(connection, _RESOLVED_OF, ids=some, numbers=numbers))
    chosen: list[tuple[str, str, str, int]] = []
    for run_key, known in calls.items():
        for call in known:
            answers = (first[run_key, key] for key in call.keys if (run_key, key) in first)
            own = [answer for answer in answers if meant.get(answer[1:]) == run_key]
            if own:
                chosen.append((run_key, call.occurrence, *min(own)[1:]))
    said: dict[str, dict[int, Any]] = {}
    for some in slices({stream_id for _, _, stream_id, _ in chosen}, 100):
        for stream_id, stream in log.get_streams(connection, some).items():
            said[stream_id] = _said(stream)
    found: dict[str, dict[str, Any]] = {}
    for run_key, name, stream_id, number in chosen:
        if number in said.get(stream_id, {}):
            found.setdefault(run_key, {})[name] = said[stream_id][number]
    return found


def _said(stream: Stream) -> dict[int, Any]:
    request = request_of(stream)
    protocol = protocols.protocol_for(request)
    return {answer.number: answer.output for answer in protocol.repeats(request).answers} if protocol else {}


# What depends on what


def _depending() -> sa.Select[Any]:
    """Answers of streams: the latest call before each, the one that follows, and whether that latest has one already."""
    since = (_OTHER.c.started_at >= _latest("began_at"), _OTHER.c.started_at <= _GIVEN.c.started_at)
    sooner = sa.or_(_OTHER.c.started_at < _GIVEN.c.started_at, _OTHER.c.stream_id < _GIVEN.c.stream_id)
    others = (_OTHER.c.stream_id != _GIVEN.c.stream_id, _OTHER.c.stream_id != _latest("stream_id"))
    again = sa.exists().where(_OTHER.c.key == _GIVEN.c.key, *since, sooner, *others).correlate(_GIVEN)
    after = sa.select(_BESIDE.c.run_key).where(_BESIDE.c.key == _GIVEN.c.key, _BESIDE.c.began_at > _GIVEN.c.started_at)
    following = after.order_by(_BESIDE.c.began_at, _BESIDE.c.run_key).limit(1).correlate(_GIVEN).scalar_subquery()
    chosen = (_GIVEN.c.level, _latest("run_key").label("run"), again.label("again"), following.label("next"))
    return sa.select(*chosen).where(_GIVEN.c.stream_id.in_(_IDS))


def _neighbour(before: bool) -> sa.ScalarSelect[Any]:
    """The run key of the call just before, or after, one that has the same key."""
    place, own = sa.tuple_(_BESIDE.c.began_at, _BESIDE.c.run_key), sa.tuple_(_CALL.began_at, _CALL.run_key)
    order = [column.desc() if before else column.asc() for column in (_BESIDE.c.began_at, _BESIDE.c.run_key)]
    chosen = sa.select(_BESIDE.c.run_key).where(_BESIDE.c.key == _CALL.key, place < own if before else place > own)
    return chosen.order_by(*order).limit(1).correlate(call_keys).scalar_subquery()


def _continuing() -> sa.Select[Any]:
    """Streams that end with an answer whose call may be one of these runs, or stood before one of them."""
    after = sa.select(_BESIDE.c.began_at).where(_BESIDE.c.key == _CALL.key, _BESIDE.c.began_at > _CALL.began_at)
    end = after.order_by(_BESIDE.c.began_at).offset(1).limit(1).correlate(call_keys).scalar_subquery()
    until = (_ANSWER.started_at >= _CALL.began_at, sa.or_(end.is_(None), _ANSWER.started_at < end))
    joined = call_keys.join(tool_answers, _ANSWER.key == _CALL.key)
    return sa.select(_ANSWER.stream_id).select_from(joined).where(_ANSWER.last, *until, _CALL.run_key.in_(_KEYS)).distinct()


_DEPENDING = _depending()
_NEIGHBOURS = sa.select(_neighbour(True), _neighbour(False)).select_from(call_keys).where(_CALL.run_key.in_(_KEYS))
_RIVALS = sa.select(_latest("run_key").label("run"), _GIVEN.c.stream_id, _GIVEN.c.number).where(_GIVEN.c.stream_id.in_(_IDS))
_CONTINUING = _continuing()


def answered_runs(connection: sa.Connection, stream_ids: Iterable[str]) -> set[str]:
    """The keys of runs whose outputs depend on what these streams answer: the latest call before, and the one that follows."""
    found: set[str] = set()
    named: set[str] = set()
    for some in slices(stream_ids):
        for row in connection.execute(_DEPENDING, {"ids": some}):
            if not row.again:
                found.update(key for key in (row.run, row.next) if key is not None)
                if row.level in CERTAIN and row.run is not None:
                    named.add(row.run)
    return found | _neighbours(connection, named)


def _neighbours(connection: sa.Connection, run_keys: set[str]) -> set[str]:
    """The keys of runs whose outputs depend on the calls of these: those just before and after that have the same key.

    And those that would have the outputs that these get, were it not for them.
    """
    found: set[str] = set()
    answering: dict[str, set[int]] = {}
    for some in slices(run_keys):
        for beside in connection.execute(_NEIGHBOURS, {"keys": some}):
            found.update(key for key in beside if key is not None)
        for row in connection.execute(_FIRST_ANSWERS, {"keys": some}):
            answering.setdefault(row.stream_id, set()).add(row.number)
    for some in slices(answering):
        for rival in connection.execute(_RIVALS, {"ids": some}):
            if rival.run is not None and rival.number in answering[rival.stream_id]:
                found.add(rival.run)
    return found - run_keys


def continuing_streams(connection: sa.Connection, run_keys: Iterable[str]) -> set[str]:
    """The streams whose requests may end with the output of a call of these runs, or of one whose place they take."""
    found: set[str] = set()
    for some in slices(run_keys):
        found.update(connection.execute(_CONTINUING, {"keys": some}).scalars())
    return found


def related_streams(connection: sa.Connection, stream_ids: Iterable[str], run_keys: Iterable[str]) -> set[str]:
    """All streams that have a key in common with these streams or runs: what decides whose output theirs is."""
    keys: set[str] = set()
    for some in slices(stream_ids):
        keys.update(connection.execute(sa.select(_ANSWER.key).where(_ANSWER.stream_id.in_(some))).scalars())
    for some in slices(run_keys):
        keys.update(connection.execute(sa.select(_CALL.key).where(_CALL.run_key.in_(some))).scalars())
    found: set[str] = set()
    for some in slices(keys):
        for column, key in ((_ANSWER.stream_id, _ANSWER.key), (_CALL.stream_id, _CALL.key)):
            found.update(connection.execute(sa.select(column).where(key.in_(some)).distinct()).scalars())
    return found
