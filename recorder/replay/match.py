"""Which recorded exchange answers a request: pure, and the same for the server and the transport.

A ladder of three rungs. exact: the same method, path, query and body (JSON by its value, secrets taken out on both sides).
volatile: the same but for what changes from run to run (volatile.py). path: the same method and path. On each rung exchanges
are given in recorded order, each once for one client; a request that matches on one rung is never answered from a lower one.
When all that match have been given, a safe method (RFC 9110, 9.2.1) gets the last one again, as a poll would, and any other
begins anew, as a program that is run again does.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote_to_bytes
from weakref import WeakKeyDictionary

from recorder import jsontext
from recorder.collect import encoding, secrets
from recorder.protocols.view import CHAIN
from recorder.replay.difference import normal
from recorder.replay.volatile import Volatile, without_boundary

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_NEAREST_AMONG = 2000
"""Paths that are compared with one that matches none: enough to find a typing error, few enough to answer at once."""

_IDLE = 1000
"""Clients that left off in the middle and may go on over another connection."""

_NAMED = 8
"""Fields that a header names."""

VOLATILE = Volatile()
"""What is volatile where nobody names more."""

_LITERAL = "!$&'()*+,;=:@"
"""What a path's segment holds as it is beside letters, digits and -._~ (RFC 3986, 3.3)."""


_DECODED = 64 * 1024 * 1024
"""Bytes of a body from which on it is not decoded: it matches none."""

Name = tuple[str | None, str | None]
"""(what a client calls itself, the session that it names)"""


class Asked(NamedTuple):
    """A request. path: as it was sent, percent-encoded; query without its `?`. sent: the body as it came, if it was encoded."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    content_type: str | None = None
    sent: bytes | None = None


class Exchange(NamedTuple):
    """A recorded request, reduced to what is compared. number: its place in recorded order. exact, volatile, path: its keys."""

    number: int
    stream_id: str
    session_id: str
    exact: bytes
    volatile: bytes
    path: tuple[str, str]

    @property
    def alone(self) -> bool:
        """Whether it is a session by itself."""
        return self.session_id == self.stream_id

    @property
    def unnamed(self) -> bool:
        """Whether nobody named its session: it is by itself, or a chain of responses, whose requests name the one before."""
        return self.alone or self.session_id.startswith(CHAIN)


class Match(NamedTuple):
    """rung: exact, volatile or path. differs: the fields in which the request is not the recorded one, once they are known."""

    exchange: Exchange
    rung: str
    differs: tuple[str, ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What a response says of where it comes from."""
        own = [("x-recorder-stream", self.exchange.stream_id), ("x-recorder-match", self.rung)]
        if self.differs:
            named = ", ".join(field or "body" for field in self.differs[:_NAMED])
            more = len(self.differs) - _NAMED
            own.append(("x-recorder-differs", _ascii(named) + (f" and {more} more" if more > 0 else "")))
        return own


def decoded(asked: Asked, content_encoding: str | None) -> Asked:
    """The request with its body decoded, as it is when recorded; as it is where that cannot be done."""
    if not asked.body or not encoding.is_encoded(content_encoding):
        return asked
    try:
        body = encoding.decoded(asked.body, content_encoding, _DECODED)
    except ValueError:
        return asked
    return asked if body is None else asked._replace(body=body, sent=asked.body)


def exchange(number: int, stream_id: str, session_id: str, asked: Asked, volatile: Volatile = VOLATILE) -> Exchange:
    return Exchange(number, stream_id, session_id, exact_key(asked), volatile_key(asked, volatile), path_key(asked))


def path_key(asked: Asked) -> tuple[str, str]:
    """Method and path, percent-encoded where it must be and nowhere else: a %2F is no slash, a %41 is an A."""
    segments = (quote(unquote_to_bytes(segment), _LITERAL) for segment in asked.path.split("/"))
    return asked.method.upper(), "/".join(segments)


def exact_key(asked: Asked) -> bytes:
    """A hash of all that an exact match compares."""
    digest = hashlib.sha256()
    for part in (*path_key(asked), repr(query_of(asked.query))):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    digest.update(canonical(asked.body, asked.content_type))
    return digest.digest()


def volatile_key(asked: Asked, volatile: Volatile = VOLATILE) -> bytes:
    """A hash of all that a match on the second rung compares."""
    digest = hashlib.sha256()
    query: dict[str, Any] = {}
    for name, value in query_of(asked.query):
        query.setdefault(name, []).append(value)
    for part in (*path_key(asked), repr(volatile.without(query))):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    bare = secrets.body(asked.body, asked.content_type)
    try:
        bare = jsontext.dumps(normal(volatile.without(jsontext.loads(bare)))).encode()
    except (jsontext.JSONError, RecursionError):
        bare = without_boundary(bare, asked.content_type)
    digest.update(bare)
    return digest.digest()


def query_of(query: str) -> list[tuple[str, str]]:
    """The parameters of a query, in the order of their names, with secret values taken out as they are when recorded."""
    return sorted(parse_qsl(secrets.query(query), keep_blank_values=True))


def canonical(body: bytes, content_type: str | None = None) -> bytes:
    """A body such that bodies of the same JSON value are equal, with secrets taken out as they are when recorded."""
    bare = secrets.body(body, content_type)
    try:
        return jsontext.dumps(normal(jsontext.loads(bare))).encode()
    except (jsontext.JSONError, RecursionError):
        return bare


class Library:
    """The exchanges that can be replayed, found by their keys.

    strict: the exact rung alone. volatile: what the second rung leaves out, as it was when the exchanges were made.
    """

    def __init__(self, exchanges: Iterable[Exchange], *, strict: bool = False, volatile: Volatile = VOLATILE) -> None:
        self.exchanges = sorted(exchanges)
        self.strict = strict
        self._volatile_fields = volatile
        self._exact: dict[bytes, list[Exchange]] = {}
        self._volatile: dict[bytes, list[Exchange]] = {}
        self._path: dict[tuple[str, str], list[Exchange]] = {}
        for one in self.exchanges:
            self._exact.setdefault(one.exact, []).append(one)
            self._volatile.setdefault(one.volatile, []).append(one)
            self._path.setdefault(one.path, []).append(one)
        self._sessions: dict[str, Library] = {}

    def __len__(self) -> int:
        return len(self.exchanges)

    @property
    def ids(self) -> list[str]:
        """Of its streams, in recorded order."""
        return [one.stream_id for one in self.exchanges]

    def candidates(self, asked: Asked) -> tuple[str, list[Exchange]]:
        """The highest rung that has a match, and all its matches, in recorded order."""
        if exact := self._exact.get(exact_key(asked)):
            return "exact", exact
        if self.strict:
            return "exact", []
        if volatile := self._volatile.get(volatile_key(asked, self._volatile_fields)):
            return "volatile", volatile
        return "path", self.of_path(asked)

    def of_path(self, asked: Asked) -> list[Exchange]:
        """All of the same method and path, in recorded order."""
        return self._path.get(path_key(asked), [])

    def of_session(self, session_id: str) -> Library | None:
        """The exchanges of one session alone; None where it has none here."""
        if session_id not in self._sessions:
            own = [one for one in self.exchanges if one.session_id == session_id]
            if not own:
                return None
            self._sessions[session_id] = Library(own, strict=self.strict, volatile=self._volatile_fields)
        return self._sessions[session_id]

    def rivals(self) -> Iterator[tuple[Exchange, Exchange]]:
        """Pairs of exchanges of different sessions that answer the same request: which of them is meant nobody can tell.

        Safe methods don't count: what only reads is alike in many sessions. Nor do streams whose session nobody named: they
        are told apart by nothing but their order.
        """
        for first, *same in self._exact.values():
            if first.path[0] not in SAFE_METHODS:
                apart = (other for other in same if other.session_id != first.session_id)
                yield from ((first, other) for other in apart if not (first.unnamed and other.unnamed))

    def nearest(self, asked: Asked) -> Exchange | None:
        """The exchange that is most like a request that none answers."""
        method, path = path_key(asked)
        there = {one.path: one for one in reversed(self.exchanges)}
        if (method, path) in there:
            return there[method, path]
        by_path = {key[1]: one for key, one in there.items()}
        if path in by_path:
            return by_path[path]
        likely = difflib.get_close_matches(path, list(islice(by_path, _NEAREST_AMONG)), n=1, cutoff=0)
        return by_path[likely[0]] if likely else None


class Place:
    """How far one client is: what it has been given. library: what it may be given. asked: how many requests it made."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.asked = 0
        self._given: set[int] = set()

    @property
    def over(self) -> bool:
        """Whether all has been given."""
        return len(self._given) >= len(self.library)

    def has(self, found: list[Exchange]) -> bool:
        """Whether one of these has not been given yet."""
        return any(one.number not in self._given for one in found)

    def take(self, asked: Asked) -> Match | None:
        """The match for this client's next request, or None."""
        self.asked += 1
        rung, found = self.library.candidates(asked)
        if not found:
            return None
        left = next((one for one in found if one.number not in self._given), None)
        if left is None and asked.method.upper() in SAFE_METHODS:
            return Match(found[-1], rung)
        if left is None:
            self._given.clear()
            left = found[0]
        self._given.add(left.number)
        return Match(left, rung)


class Places:
    """The clients of one server, each with its place, told apart as well as can be.

    A client that names itself, or the session that it wants, is known by those names. Else a connection is known again; and a
    new one goes on where another left off, provided that no answer is on its way there and the request is still to be answered
    there, or else begins anew.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._named: dict[Name, Place] = {}
        self._by_connection: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()
        self._idle: dict[Place, None] = {}  # by how long they have been so

    def knows(self, connection: Any) -> bool:
        return connection in self._by_connection

    def enter(self, asked: Asked, connection: Any, name: str | None = None, session: str | None = None) -> Place:
        """The place of the client that asks this; leave() it once the answer is given.

        connection: any object of its own. name: what the client calls itself. session: the one that it wants to be in; where
        that is a recorded one, nothing else answers it.
        """
        if name is not None or session is not None:
            place = self._named.get((name, session))
            if place is None:
                own = None if session is None else self._library.of_session(session)
                place = self._named[name, session] = Place(self._library if own is None else own)
            return place
        place = self._by_connection.get(connection)
        if place is None:
            _, found = self._library.candidates(asked)
            place = next((idle for idle in self._idle if idle.has(found)), None) or Place(self._library)
            self._by_connection[connection] = place
        self._idle.pop(place, None)
        return place

    def leave(self, place: Place, named: bool = False) -> None:
        """named: it gave a name, or a session."""
        if not named and not place.over:
            self._idle[place] = None
            if len(self._idle) > _IDLE:
                del self._idle[next(iter(self._idle))]


def _ascii(text: str) -> str:
    """Text that a header can carry."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", "\\r").replace("\n", "\\n")
