"""What the clients of a replay asked, held against what was recorded: the report.

Each client is watched in each session that it is in. What differs there is one of

    changed     a request of the same method and path, in which fields differ
    extra       a request that the recording does not have (answered all the same where its path was recorded)
    missing     a recorded request that was not made
    reordered   a request that was made, but in another place

Fields that are volatile are none of these; they are listed as variations. How often something is polled is not looked at.
Streams that belong to no session are taken for one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder.collect import secrets
from recorder.replay import alignment, library
from recorder.replay.difference import Difference
from recorder.replay.faults import Fault
from recorder.replay.fidelity import Fidelity, shown
from recorder.replay.match import SAFE_METHODS, Asked, Exchange, Library, Match, Place, path_key

REQUESTS = 100_000
"""Requests that are kept to be compared; those that come after them are counted."""

BODIES = 64 * 1024 * 1024
"""Bytes of their bodies: of those that equal no recorded one."""

_LISTED = 50
"""Divergences that people are shown."""

_READ = 1000  # recorded requests that are held, to be compared with many

_ALONE = ""
"""The session of streams that belong to none."""


class Client:
    """number: from 1, in the order in which they came. name: what it calls itself, if anything."""

    def __init__(self, number: int, name: str | None) -> None:
        self.number = number
        self.name = name
        self.requests: list[Kept] = []

    def __str__(self) -> str:
        return f"client {self.number}" + (f" ({self.name})" if self.name else "")


class Kept(NamedTuple):
    """A request that was made. number: which of its client's. at: which of all. request: where it equals no recorded one, what
    was asked, without its secrets."""

    client: Client
    number: int
    at: int
    method: str
    target: str
    given: Exchange | None
    rung: str
    request: Asked | None


class Watch:
    """Sees what is asked, and reports. named: whether somebody said what is replayed, so that all of it is to be asked for."""

    def __init__(self, engine: sa.Engine, exchanges: Library, faults: Iterable[Fault] = (), *, named: bool = False) -> None:
        self.fidelity = Fidelity()
        self.served = self.unmatched = self.passed_on = 0
        self._request_of = lru_cache(_READ)(partial(library.request_of, engine))
        self._exchanges = exchanges
        self._named = named
        self._faults = tuple(faults)
        self._happened: Counter[Fault] = Counter()
        self._rungs: Counter[str] = Counter()
        self._by_session: dict[str | None, list[Exchange]] = {}
        for one in exchanges.exchanges:
            self._by_session.setdefault(_session(one), []).append(one)
        self._clients: dict[Place, Client] = {}
        self._kept = self._bytes = self._uncompared = 0
        self._lock = threading.Lock()

    def saw(self, place: Place, asked: Asked, match: Match | None, name: str | None = None) -> None:
        """A request, and what answers it."""
        with self._lock:
            if match is None:
                self.unmatched += 1
            else:
                self.served += 1
                self._rungs[match.rung] += 1
            client = self._clients.get(place)
            if self._kept >= REQUESTS:
                self._uncompared += 1
                return
            if client is None:
                client = self._clients[place] = Client(len(self._clients) + 1, name)
            self._kept += 1
            client.requests.append(self._of(client, asked, match))

    def happened(self, fault: Fault) -> None:
        with self._lock:
            self._happened[fault] += 1

    def document(self) -> dict[str, Any]:
        """All that there is to say so far, as JSON. It reads on the database."""
        with self._lock:
            clients = [(client, list(client.requests)) for client in self._clients.values()]
        found = [each for session, asked in self._together(clients) for each in self._of_session(session, asked)]
        found.sort(key=lambda each: (each["client"], each["request"] or 1 << 30))
        given = {kept.given.number for _, requests in clients for kept in requests if kept.given}
        found += self._unasked(given)
        divergences = [each for each in found if each["kind"] != "variation"]
        return {
            "diverged": bool(divergences),
            "requests": {
                "answered": self.served,
                "unmatched": self.unmatched,
                "passed_on": self.passed_on,
                "exact": self._rungs["exact"],
                "volatile": self._rungs["volatile"],
                "path": self._rungs["path"],
                "not_compared": self._uncompared,
            },
            "clients": [
                {"client": client.number, "name": client.name, "requests": len(requests)} for client, requests in clients
            ],
            "divergences": divergences,
            "variations": [each for each in found if each["kind"] == "variation"],
            "unused": [one.stream_id for one in self._exchanges.exchanges if one.number not in given],
            "pace": self.fidelity.document(),
            "faults": [{"fault": fault.text, "happened": self._happened[fault]} for fault in self._faults],
        }

    def _of(self, client: Client, asked: Asked, match: Match | None) -> Kept:
        query = f"?{secrets.query(asked.query)}" if asked.query else ""
        request = None
        if match is None or match.rung != "exact":
            self._bytes += len(asked.body)
            if self._bytes <= BODIES:
                request = asked._replace(
                    body=secrets.body(asked.body, asked.content_type), sent=None, query=secrets.query(asked.query)
                )
        given, rung = (None, "") if match is None else (match.exchange, match.rung)
        number = len(client.requests) + 1
        return Kept(client, number, self._kept, asked.method, asked.path + query, given, rung, request)

    def _together(self, clients: list[tuple[Client, list[Kept]]]) -> Iterator[tuple[str | None, list[Kept]]]:
        """What is compared together: what a client asked in one session, by its order.

        One that asks over several connections at once seems to be several. So those that were given nothing twice among them are
        taken for one, unless they gave their names; in streams of no session all are.
        """
        groups: dict[str | None, list[tuple[bool, set[int], list[Kept]]]] = {}
        for client, requests in clients:
            sessions: dict[str | None, list[Kept]] = {}
            for kept in requests:
                sessions.setdefault(self._session_of(kept), []).append(kept)
            for session, asked in sessions.items():
                own = {kept.given.number for kept in asked if kept.given}
                open_to_others = client.name is None or session == _ALONE
                known = groups.setdefault(session, [])
                for is_open, given, others in known if open_to_others else ():
                    if is_open and own and given and own.isdisjoint(given):
                        given |= own
                        others += asked
                        break
                else:
                    known.append((open_to_others, own, asked))
        for session, some in groups.items():
            for _, _, asked in some:
                yield session, sorted(asked, key=lambda kept: kept.at)

    def _of_session(self, session: str | None, asked: list[Kept]) -> list[dict[str, Any]]:
        recorded = self._by_session.get(session, [])
        at_once = len({kept.client for kept in asked}) > 1
        places = {one.number: place for place, one in enumerate(recorded)}
        was = [alignment.Recorded(one.volatile, one.path, one.path[0] in SAFE_METHODS) for one in recorded]
        now = [
            alignment.Seen(
                kept.given.volatile if kept.given and kept.rung != "path" else None,
                path_key(Asked(kept.method, kept.target.partition("?")[0])),
                places.get(kept.given.number) if kept.given else None,
            )
            for kept in asked
        ]
        found = []
        for start, end in alignment.passes(was, now):
            for step in alignment.align(was, now[start:end]):
                kept = None if step.seen is None else asked[start + step.seen]
                one = None if step.recorded is None else recorded[step.recorded]
                after = recorded[step.recorded - 1] if step.recorded else None
                each = self._said(kept.client if kept else asked[0].client, step, kept, one, after)
                if each is not None and not (at_once and each["kind"] == "reordered"):  # which of them is first, chance decides
                    found.append(each)
        return found

    def _said(
        self, client: Client, step: alignment.Step, kept: Kept | None, one: Exchange | None, after: Exchange | None
    ) -> dict[str, Any] | None:
        kind, fields = step.kind, self._differences(kept, one)
        if kind == "changed" and kept is not None and not fields and one is not None and kept.request is not None:
            return None  # what was redacted in the recording is taken for equal
        if kind == "same":
            if kept is None or kept.rung != "volatile":
                return None
            kind = "variation"
        asked = f"{kept.method} {kept.target}" if kept else ""
        stream = f" (stream {one.stream_id})" if one else ""
        place = None if step.recorded is None else step.recorded + 1
        messages = {
            "variation": f"differs in what is volatile: {_named(fields)}",
            "changed": f"differs from the recorded one{stream}: {_shown(fields)}",
            "extra": "is not in the recording"
            + (f"; it was answered as {kept.given.path[1]} of stream {kept.given.stream_id}" if kept and kept.given else ""),
            "missing": f"was not made, but is request {place} of the recording{stream}",
            "reordered": f"came out of order: it is request {place} of the recording{stream}"
            + (f", after {' '.join(after.path)}" if after else ""),
        }
        what = f"request {kept.number} of {client}, {asked}," if kept else f"{client}: {' '.join(one.path) if one else ''}"
        return {
            "kind": kind,
            "client": client.number,
            "name": client.name,
            "request": kept.number if kept else None,
            "method": kept.method if kept else one.path[0] if one else None,
            "path": kept.target if kept else one.path[1] if one else None,
            "recorded_request": place,
            "stream_id": one.stream_id if one else kept.given.stream_id if kept and kept.given else None,
            "rung": kept.rung or None if kept else None,
            "fields": [field.document() for field in fields],
            "message": f"{what} {messages[kind]}",
        }

    def _unasked(self, given: set[int]) -> list[dict[str, Any]]:
        """What is missing of sessions that no client was in, where somebody named them."""
        if not self._named:
            return []
        begun = {_session(one) for one in self._exchanges.exchanges if one.number in given}
        unasked = [one for one in self._exchanges.exchanges if _session(one) not in begun]
        return [
            {
                "kind": "missing",
                "client": None,
                "name": None,
                "request": None,
                "method": one.path[0],
                "path": one.path[1],
                "recorded_request": None,
                "stream_id": one.stream_id,
                "rung": None,
                "fields": [],
                "message": f"{' '.join(one.path)} (stream {one.stream_id}) was made by no client",
            }
            for one in unasked
        ]

    def _session_of(self, kept: Kept) -> str | None:
        """The session in which a request is compared: where nothing answered it, that of the same path, if there is one."""
        like = kept.given
        if like is None and kept.request is not None:
            like = next(iter(self._exchanges.of_path(kept.request)), None)
        return None if like is None else _session(like)

    def _differences(self, kept: Kept | None, one: Exchange | None) -> list[Difference]:
        if kept is None or one is None or kept.request is None:
            return []
        recorded = self._request_of(one.stream_id)
        return [] if recorded is None else library.between(recorded, kept.request)


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people: a line for each divergence, and what else there is to say."""
    found = [each["message"] for each in report["divergences"][:_LISTED]]
    if (more := len(report["divergences"]) - _LISTED) > 0:
        found.append(f"and {more:,} divergences more")
    requests = report["requests"]
    if requests["volatile"]:
        found.append(f"{requests['volatile']:,} matched but for what is volatile")
    found += [
        f"fault {each['fault']}: happened {each['happened']:,} time{'s' * (each['happened'] != 1)}" for each in report["faults"]
    ]
    if pace := shown(report["pace"]):
        found.append(pace)
    if requests["not_compared"]:
        found.append(f"{requests['not_compared']:,} requests came after the first {REQUESTS:,} and were not compared")
    return found


def _session(one: Exchange) -> str:
    return _ALONE if one.alone else one.session_id


def _shown(fields: list[Difference]) -> str:
    """The first three, with their values."""
    if not fields:
        return "in a way that JSON does not show"
    said = "; ".join(f"{field} (the output of {field.call})" if field.call else str(field) for field in fields[:3])
    return said + (f"; and {len(fields) - 3} more" if len(fields) > 3 else "")


def _named(fields: list[Difference]) -> str:
    return ", ".join(field.at or "the body" for field in fields) or "nothing that shows"
