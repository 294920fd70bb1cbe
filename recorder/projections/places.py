"""A run's place among others: the session of the chain that it belongs to, and the logical run that it continues.

Both follow links from a run to the one before it, which may be recorded later, or not at all. So a place is looked up when
the run is projected, and runs that follow one whose place has changed are projected again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import slices
from recorder.projections.answers import answering_streams, tool_answers
from recorder.projections.run_steps import tool_calls
from recorder.projections.runs import name, runs
from recorder.projections.sessions import session_streams
from recorder.protocols.view import RunView, Source, chain_session


class Places:
    """The places of the runs that one step of the projection writes. Views are added, each then has its place.

    moved: keys of runs whose place is not what was stored of them, or what others took it for while they were unknown.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._views: dict[str, RunView] = {}
        self._gone: set[str] = set()
        self.moved: set[str] = set()
        self._stored: dict[str, tuple[str, str] | None] = {}  # run key → (session_id, logical_run_id) as the table has them

    def add(self, keys: set[str], views: Sequence[RunView]) -> set[str]:
        """Give these views their places; the keys of stored runs that have to be placed anew because of that.

        keys: of the runs that are projected; one without a view is no more.
        """
        new = {view.key: view for view in views if view.is_run}
        self._views.update(new)
        self._gone |= keys - set(new)
        self._look_up(keys | {source.root for view in new.values() for source in view.sources if source.root})
        moved = {key for key in self._gone & keys if self._stored[key]}
        calls = self._called(new)
        for key, view in new.items():
            view.continued_run_id = calls.get(key)
        for key, view in new.items():
            view.session_id, view.logical_run_id = self.session_of_run(key), self._logical(key)
            session_id, logical_run_id = self._stored[key] or (chain_session(key), key)
            if logical_run_id != view.logical_run_id or (view.sources[-1].root and session_id != view.session_id):
                moved.add(key)
        self.moved |= moved
        return (self._followers(moved) | self._continuing(new)) - set(self._views) - self._gone

    def session_of(self, source: Source) -> str:
        """The session of a stream."""
        if source.own_session or not source.root:
            return source.session_id
        return self.session_of_run(source.root)

    def session_of_run(self, key: str) -> str:
        """The session of a run: what its streams name, else that of the run before it."""
        seen: set[str] = set()
        while True:
            view = self._views.get(key)
            if view is None:
                return (self._standing(key) or (chain_session(key), ""))[0]
            seen.add(key)
            last = view.sources[-1]
            own = last.own_session or next((source.own_session for source in view.sources if source.own_session), None)
            if own or not last.root:
                return own or last.session_id
            previous = next((source.previous for source in view.sources if source.previous), None)
            if previous is None or previous in seen:
                return chain_session(key)
            key = previous

    def _logical(self, key: str) -> str:
        seen: set[str] = set()
        while True:
            view = self._views.get(key)
            if view is None:
                return (self._standing(key) or ("", key))[1]
            seen.add(key)
            if view.continued_run_id is None or view.continued_run_id in seen:
                return key
            key = view.continued_run_id

    def _standing(self, key: str) -> tuple[str, str] | None:
        """The place of a run that is stored, and stays."""
        if key in self._gone:
            return None
        self._look_up({key})
        return self._stored[key]

    def _look_up(self, keys: set[str]) -> None:
        missing = keys - set(self._stored)
        self._stored.update(dict.fromkeys(missing))
        columns = runs.c
        for some in slices(missing):
            chosen = sa.select(columns.run_key, columns.session_id, columns.logical_run_id).where(columns.run_key.in_(some))
            for key, session_id, logical_run_id in self._connection.execute(chosen):
                self._stored[key] = (session_id, logical_run_id or key)

    def _called(self, views: dict[str, RunView]) -> dict[str, str | None]:
        """{run key: the run whose call the request that began it answers at its end}."""
        first = {view.sources[0].stream_id: view for view in views.values()}
        last: dict[str, sa.Row[Any]] = {}
        for some in slices(first):
            chosen = sa.select(tool_answers).where(tool_answers.c.stream_id.in_(some), tool_answers.c.last)
            last.update({row.stream_id: row for row in self._connection.execute(chosen)})
        if not last:
            return {}
        owners: dict[tuple[str, str | None], list[tuple[str, str]]] = {}  # call id, protocol → [(when its run began, key) …]
        joined = tool_calls.join(runs, runs.c.run_key == tool_calls.c.run_key)
        called = sa.select(tool_calls.c.tool_call_id, runs.c.protocol, runs.c.run_key, runs.c.observed_at).select_from(joined)
        for some in slices({row.tool_call_id for row in last.values()}):
            stored = called.where(tool_calls.c.tool_call_id.in_(some), tool_calls.c.awaited)
            for id, protocol, key, observed_at in self._connection.execute(stored):
                if key not in self._views and key not in self._gone:
                    owners.setdefault((id, protocol), []).append((observed_at.isoformat(), key))
        for view in self._views.values():
            for id in view.calls:
                owners.setdefault((name(id) or "", view.protocol), []).append((view.sources[0].started_at, view.key))
        found: dict[str, str | None] = {}
        for stream_id, row in last.items():
            view, previous = first[stream_id], row.previous_run_id
            possible = [
                (began, key)
                for began, key in owners.get((row.tool_call_id, row.protocol), ())
                if key != view.key and (previous == key or (previous is None and began <= view.sources[0].started_at))
            ]
            found[view.key] = max(possible)[1] if possible else None
        return found

    def _followers(self, keys: set[str]) -> set[str]:
        """Stored runs that come after these, in their chains or by continuing them."""
        found: set[str] = set()
        for some in slices(keys):
            columns = session_streams.c
            for speaks_of in self._connection.execute(sa.select(columns.runs).where(columns.root_run_id.in_(some))).scalars():
                found.update(jsontext.loads(speaks_of))
            chosen = sa.select(runs.c.run_key).where(runs.c.continued_run_id.in_(some))
            found.update(self._connection.execute(chosen).scalars())
        return found

    def _continuing(self, views: dict[str, RunView]) -> set[str]:
        """Stored runs that do not know yet that they continue one of these: their request ends with the output of its call."""
        calls = {id for view in views.values() for id in view.calls}
        if not calls:
            return set()
        streams = [row.stream_id for rows in answering_streams(self._connection, calls).values() for row in rows if row.last]
        keys: set[str] = set()
        for some in slices(streams):
            speaks_of = sa.select(session_streams.c.runs).where(session_streams.c.stream_id.in_(some))
            keys.update(key for found in self._connection.execute(speaks_of).scalars() for key in jsontext.loads(found))
        unaware: set[str] = set()
        for some in slices(keys):
            chosen = sa.select(runs.c.run_key, runs.c.continued_run_id).where(runs.c.run_key.in_(some))
            unaware.update(key for key, before in self._connection.execute(chosen) if before not in self._views)
        return unaware
