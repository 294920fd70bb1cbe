"""A run's place among others: the session of the chain that it belongs to, and the logical run that it continues.

Both follow links from a run to the one before it, which may be recorded later, or not at all. So a place is looked up when
the run is projected, and runs that follow one whose place has changed are projected again.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import slices
from recorder.projections.answers import continued_runs, continuing_streams
from recorder.projections.runs import runs
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

    def _called(self, views: dict[str, RunView]) -> dict[str, str]:
        """{run key: the run whose call the request that began it answers at its end}."""
        first = {view.sources[0].stream_id: view.key for view in views.values()}
        continued = continued_runs(self._connection, first)
        return {first[stream_id]: key for stream_id, key in continued.items() if key != first[stream_id]}

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
        """Stored runs that do not know yet which run they continue, because of these: their requests end with an output."""
        runs_of: dict[str, list[str]] = {}
        for some in slices(continuing_streams(self._connection, [view.key for view in views.values() if view.calls])):
            speaks_of = sa.select(session_streams.c.stream_id, session_streams.c.runs).where(
                session_streams.c.stream_id.in_(some)
            )
            runs_of.update((stream_id, jsontext.loads(found)) for stream_id, found in self._connection.execute(speaks_of))
        right = continued_runs(self._connection, runs_of)
        wanted = {key: right.get(stream_id) for stream_id, keys in runs_of.items() for key in keys}
        unaware: set[str] = set()
        for some in slices(wanted):
            chosen = sa.select(runs.c.run_key, runs.c.continued_run_id).where(runs.c.run_key.in_(some))
            unaware.update(key for key, before in self._connection.execute(chosen) if before != wanted[key])
        return unaware
