"""Which recording answers a request: by the whole of it, else by its path; each once, in recorded order, to each client."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.collect import secrets
from recorder.errors import UsageError
from recorder.replay.difference import first_difference
from recorder.replay.match import (
    SAFE_METHODS,
    Asked,
    Library,
    Match,
    Place,
    Places,
    canonical,
    exact_key,
    exchange,
    path_key,
)
from recorder.replay.volatile import Volatile
from tests.writing import stream_id


def posted(body: bytes | str = b"", path: str = "/v1/runs", query: str = "", content_type: str | None = None) -> Asked:
    return Asked("POST", path, query, body.encode() if isinstance(body, str) else body, content_type)


def got(path: str, query: str = "") -> Asked:
    return Asked("GET", path, query)


def library(*recorded: Asked, strict: bool = False, sessions: Iterable[str] = ()) -> Library:
    """Exchanges with these requests, in this order; all of one session, or of these."""
    of = list(sessions) or ["session"] * len(recorded)
    return Library(
        [exchange(number, stream_id(number), of[number], asked) for number, asked in enumerate(recorded)], strict=strict
    )


def took(place: Place, asked: Asked) -> tuple[int, str] | None:
    """(number of the exchange, rung) that a client is given next."""
    match = place.take(asked)
    return match and (match.exchange.number, match.rung)


def numbers(matches: Iterable[Match | None]) -> list[int]:
    return [match.exchange.number for match in matches if match]


# What makes two requests equal


EQUAL = {
    "key order": (posted('{"a":1,"b":{"c":2,"d":3}}'), posted('{"b":{"d":3,"c":2},"a":1}')),
    "whitespace": (posted('{"a":[1,2]}'), posted(' {\n\t"a" : [ 1,\r\n 2 ] }\n')),
    "escapes in strings": (posted('{"a":"\\u00e9\\/"}'), posted('{"a":"é/"}')),
    "an astral character and its surrogates": (posted('"😀"'), posted('"\\ud83d\\ude00"')),
    "number forms": (posted("[100,1,0.5,0,25,12345678901234567890]"), posted("[1e2,1.0,5E-1,-0.0,2.5e+1,12345678901234567890]")),
    "an integer beyond a double": (posted("1e22"), posted("10000000000000000000000")),
    "a content type": (posted('{"a":1}', content_type="application/json"), posted('{"a": 1}')),
    "no JSON, byte by byte": (posted(b"\x00\xffa=1"), posted(b"\x00\xffa=1")),
    "no body": (got("/v1/runs"), got("/v1/runs")),
    "percent-encoded unreserved": (got("/v1/%61%2Dgent"), got("/v1/a-gent")),
    "case of the encoding": (got("/v1/caf%c3%a9"), got("/v1/caf%C3%A9")),
    "a colon in a path": (got("/v1/models/gpt%3Alatest"), got("/v1/models/gpt:latest")),
    "query order": (got("/v1/runs", "limit=5&after=x&order=asc"), got("/v1/runs", "order=asc&after=x&limit=5")),
    "query encoding": (got("/v1/runs", "include[]=a+b"), got("/v1/runs", "include%5B%5D=a%20b")),
    "case of the method": (Asked("get", "/v1/runs"), got("/v1/runs")),
}

UNEQUAL = {
    "another value": (posted('{"a":1}'), posted('{"a":2}')),
    "a further key": (posted('{"a":1}'), posted('{"a":1,"b":null}')),
    "order in a list": (posted("[1,2]"), posted("[2,1]")),
    "a number and its text": (posted("[1]"), posted('["1"]')),
    "a number and a boolean": (posted("[1,0]"), posted("[true,false]")),
    "nothing and null": (posted(""), posted("null")),
    "an empty list and an empty object": (posted("[]"), posted("{}")),
    "integers that a double cannot tell apart": (posted("9007199254740993"), posted("9007199254740992")),
    "whitespace where it is no JSON": (posted("a = 1"), posted("a=1")),
    "a byte": (posted(b"\xff\x00"), posted(b"\xff\x01")),
    "another path": (got("/v1/runs"), got("/v1/runs/")),
    "a slash and an encoded one": (got("/v1/files/a/b"), got("/v1/files/a%2Fb")),
    "bytes that are no text": (got("/v1/files/%ff"), got("/v1/files/%fe")),
    "the case of the path": (got("/v1/Runs"), got("/v1/runs")),
    "another query": (got("/v1/runs", "limit=5"), got("/v1/runs", "limit=6")),
    "a parameter without a value and none": (got("/v1/runs", "stream="), got("/v1/runs")),
    "another method": (got("/v1/runs"), Asked("HEAD", "/v1/runs")),
}


@pytest.mark.parametrize("case", EQUAL)
def test_requests_that_are_equal_match_exactly(case: str) -> None:
    one, other = EQUAL[case]
    assert exact_key(one) == exact_key(other)
    assert took(Place(library(one)), other) == (0, "exact")
    assert took(Place(library(other)), one) == (0, "exact")


@pytest.mark.parametrize("case", UNEQUAL)
def test_requests_that_are_not_equal_do_not(case: str) -> None:
    one, other = UNEQUAL[case]
    assert exact_key(one) != exact_key(other)
    assert took(Place(library(one, strict=True)), other) is None


SECRET = {
    "a key in the query": (
        got("/v1/runs", "api-version=1&api-key=sk-1&limit=2"),
        got("/v1/runs", "limit=2&api-key=sk-2&api-version=1"),
    ),
    "headers of a tool": (
        posted('{"model":"m","tools":[{"type":"mcp","headers":{"X-Key":"one"}}]}'),
        posted('{"tools":[{"headers":{"X-Other":"two","Y":"3"},"type":"mcp"}],"model":"m"}'),
    ),
    "the authorization of a tool": (
        posted('{"tools":[{"type":"mcp","authorization":"Bearer one"}]}'),
        posted('{"tools":[{"type":"mcp","authorization":"Bearer two"}]}'),
    ),
    "headers of an approval": (
        posted('{"tool_approvals":[{"tool_call_id":"c","approve":true,"headers":{"A":"1"}}]}'),
        posted('{"tool_approvals":[{"tool_call_id":"c","approve":true,"headers":{"A":"2"}}]}'),
    ),
    "headers of resources": (
        posted('{"tool_resources":{"mcp":[{"server_label":"s","headers":{"A":"1"}}]}}'),
        posted('{"tool_resources":{"mcp":[{"server_label":"s","headers":{"A":"2"}}]}}'),
    ),
}


def redacted(asked: Asked) -> Asked:
    """The request as its recording holds it."""
    return asked._replace(query=secrets.query(asked.query), body=secrets.body(asked.body, asked.content_type))


@pytest.mark.parametrize("case", SECRET)
def test_a_request_with_secrets_matches_its_redacted_recording(case: str) -> None:
    """Whatever the secrets are now: they were not recorded."""
    one, other = SECRET[case]
    assert redacted(one) != one
    for asked in (one, other, redacted(one)):
        assert took(Place(library(redacted(one))), asked) == (0, "exact")


def test_what_is_beside_the_secrets_is_compared() -> None:
    recorded = redacted(posted('{"tools":[{"type":"mcp","server_url":"a","headers":{"K":"1"}}]}'))
    assert took(Place(library(recorded)), posted('{"tools":[{"type":"mcp","server_url":"b","headers":{"K":"1"}}]}')) == (
        0,
        "path",
    )
    assert took(Place(library(got("/v1/runs", "key=REDACTED&a=1"))), got("/v1/runs", "key=k&a=2")) == (0, "path")


def test_a_form_with_the_word_headers_is_compared_by_its_bytes() -> None:
    form = posted(b"headers=a&x=1", content_type="application/x-www-form-urlencoded")
    assert canonical(form.body, form.content_type) == form.body
    assert took(Place(library(form)), form) == (0, "exact")


def test_a_body_nested_too_deep_is_compared_by_its_bytes() -> None:
    deep = posted("[" * 100_000 + "]" * 100_000)
    assert took(Place(library(deep)), deep) == (0, "exact")
    assert took(Place(library(deep)), posted("[" * 99_999 + "]" * 99_999)) == (0, "path")


# The rungs, and whose turn it is


def test_exact_goes_before_path_wherever_it_stands() -> None:
    place = Place(library(posted('{"n":1}'), posted('{"n":2}'), posted('{"n":3}')))
    assert took(place, posted('{"n":3}')) == (2, "exact")
    assert took(place, posted('{"n":9}')) == (0, "path")
    assert took(place, posted('{"n":8}')) == (1, "path")


def test_a_request_that_matches_one_exactly_is_never_answered_by_another() -> None:
    place = Place(library(posted('{"n":1}'), posted('{"n":2}'), posted('{"n":1}')))
    assert [took(place, posted('{"n":1}')) for _ in range(5)] == [
        (0, "exact"),
        (2, "exact"),
        (0, "exact"),
        (2, "exact"),
        (0, "exact"),
    ]


def test_the_path_rung_is_of_the_same_method_and_path() -> None:
    place = Place(library(posted("1", "/v1/a"), got("/v1/b"), posted("1", "/v1/b")))
    assert took(place, posted("2", "/v1/b")) == (2, "path")
    assert took(place, got("/v1/a")) is None
    assert took(place, got("/v1/b", "x=1")) == (1, "path")
    assert took(place, posted("1", "/v1/c")) is None


def test_strict_knows_no_path_rung() -> None:
    place = Place(library(posted('{"n":1}'), strict=True))
    assert took(place, posted('{"n":2}')) is None
    assert took(place, posted('{ "n": 1 }')) == (0, "exact")


def test_recorded_order_is_that_of_the_numbers() -> None:
    made = [exchange(number, stream_id(number), "session", posted("1")) for number in (2, 0, 1)]
    place = Place(Library(made))
    assert [took(place, posted("1")) for _ in range(3)] == [(0, "exact"), (1, "exact"), (2, "exact")]


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
def test_a_poll_gets_the_last_answer_again(method: str) -> None:
    polled = Asked(method, "/v1/runs/1")
    place = Place(library(polled, polled, posted("1")))
    assert [took(place, polled) for _ in range(5)] == [(0, "exact"), *[(1, "exact")] * 4]
    assert took(place, posted("1")) == (2, "exact")
    assert took(place, polled) == (1, "exact")


def test_a_poll_on_the_path_rung_gets_the_last_answer_again() -> None:
    place = Place(library(got("/v1/runs", "after=1"), got("/v1/runs", "after=2")))
    assert [took(place, got("/v1/runs", "after=9")) for _ in range(3)] == [(0, "path"), (1, "path"), (1, "path")]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_anything_else_begins_anew(method: str) -> None:
    """A program that is run again on the same connection meets the whole session again, its polls too."""
    create, poll = Asked(method, "/v1/runs", "", b"{}"), got("/v1/runs/1")
    place = Place(library(create, poll, poll))
    one_run = [(0, "exact"), (1, "exact"), (2, "exact")]
    for _ in range(3):
        assert [took(place, asked) for asked in (create, poll, poll)] == one_run


def test_an_empty_library_answers_nothing() -> None:
    assert took(Place(library()), got("/")) is None
    assert library().nearest(got("/")) is None


REQUESTS = st.sampled_from(
    [posted('{"n":1}'), posted('{"n":2}'), posted('{"n":3}', "/v1/other"), got("/v1/runs/1"), got("/v1/runs/2")]
)
SESSIONS = st.lists(REQUESTS, min_size=1, max_size=12)


@given(SESSIONS)
def test_a_client_that_does_the_same_again_meets_the_recorded_order(session: list[Asked]) -> None:
    place = Place(library(*session))
    assert [took(place, asked) for asked in session] == [(number, "exact") for number in range(len(session))]
    assert place.over


@given(SESSIONS, st.lists(REQUESTS, max_size=30))
def test_each_answer_is_given_once_before_any_is_given_again(session: list[Asked], asked: list[Asked]) -> None:
    """On the exact rung, whatever else is asked in between."""
    place = Place(library(*session))
    for one in dict.fromkeys(asked):
        mine = [number for number, recorded in enumerate(session) if recorded == one]
        assert [took(place, one) for _ in mine] == [(number, "exact") for number in mine]


# Rivals


def test_sessions_that_answer_the_same_are_rivals() -> None:
    made = library(posted("1"), posted("2"), posted("1"), sessions=["one", "one", "two"])
    assert [(a.number, b.number) for a, b in made.rivals()] == [(0, 2)]


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
def test_what_only_reads_makes_no_rivals(method: str) -> None:
    assert not list(library(Asked(method, "/v1/models"), Asked(method, "/v1/models"), sessions=["one", "two"]).rivals())


def test_streams_that_are_alone_are_no_rivals_and_are_answered_in_order() -> None:
    made = library(posted("1"), posted("1"), sessions=[stream_id(0), stream_id(1)])
    assert not list(made.rivals())
    place = Place(made)
    assert [took(place, posted("1")) for _ in range(3)] == [(0, "exact"), (1, "exact"), (0, "exact")]


@pytest.mark.parametrize(
    "sessions", [[stream_id(0), "labelled"], ["labelled", stream_id(1)], [stream_id(0), stream_id(1), "labelled"]]
)
def test_a_stream_that_is_alone_and_a_session_are_rivals(sessions: list[str]) -> None:
    assert list(library(*[posted("1")] * len(sessions), sessions=sessions).rivals())


def test_the_same_request_within_a_session_makes_no_rivals() -> None:
    assert not list(library(posted("1"), posted("1"), posted("2"), sessions=["one", "one", "two"]).rivals())


# The nearest, and what differs


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        (posted("x", "/v1/threads/t_1/runs"), 0),
        (posted("x", "/v1/threads/t_1/run"), 0),
        (got("/v1/threads/t_1/runs"), 0),
        (got("/v1/threads/t_1/messages", "limit=7"), 2),
        (Asked("DELETE", "/v1/models"), 3),
        (got("/v1/model"), 3),
        (got("/v1/%6Dodels"), 3),
        (got("/"), None),
    ],
    ids=["another body", "a path with a slip", "another method", "another query", "wrong method", "short path", "encoded", "far"],
)
def test_the_nearest(asked: Asked, nearest: int | None) -> None:
    """Of the same method and path the first; else of the same path; else of the path that looks most like it."""
    made = library(
        posted("1", "/v1/threads/t_1/runs"),
        posted("2", "/v1/threads/t_1/runs"),
        got("/v1/threads/t_1/messages"),
        got("/v1/models"),
    )
    found = made.nearest(asked)
    assert found is not None
    if nearest is not None:
        assert found.number == nearest


@pytest.mark.parametrize(
    ("recorded", "seen", "said"),
    [
        ({"a": 1}, {"a": 2}, ".a is 2, recorded was 1"),
        ({"a": 1}, {}, ".a is missing"),
        ({}, {"a": None}, ".a is new"),
        ({"m": [{"c": "x"}, {"c": "y"}]}, {"m": [{"c": "x"}, {"c": "z"}]}, '.m[1].c is "z", recorded was "y"'),
        ({"m": [1]}, {"m": [1, 2]}, ".m has 2 entries, recorded were 1"),
        ([], [1], "the body has 1 entries, recorded were 0"),
        ([[1], 5], [[2], 6], "[0][0] is 2, recorded was 1"),
        ({"b": 1, "a": {"z": 1, "y": 1}}, {"b": 2, "a": {"z": 2, "y": 2}}, ".a.y is 2, recorded was 1"),
        ("x", "y", 'the body is "y", recorded was "x"'),
        (1, True, "the body is true, recorded was 1"),
        ({"s": False}, {"s": 0}, ".s is 0, recorded was false"),
        ({"s": []}, {"s": {}}, ".s is {}, recorded was []"),
        ({"s": None}, {"s": 0}, ".s is 0, recorded was null"),
        ({"s": "x" * 100}, {"s": "y"}, '.s is "y", recorded was "' + "x" * 56 + "…"),
        ({"t": 1}, {"t": 1.0}, None),
        ([float("nan")], [float("nan")], None),
    ],
)
def test_the_first_difference(recorded: Any, seen: Any, said: str | None) -> None:
    assert first_difference(recorded, seen) == said


LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e22, 10**22, "", "a", "é", "1"])
VALUES = st.recursive(
    LEAVES | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
SMALL = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=4
)
"""Few enough that two are often equal, or nearly."""


def marked(value: Any) -> Any:
    """A value such that == is equality in JSON: there a boolean is no number."""
    if isinstance(value, dict):
        return {key: marked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner) for inner in value]
    return ("boolean", value) if isinstance(value, bool) else value


def written(value: Any, seed: int) -> str:
    """One of the many JSON texts of a value."""
    dice = random.Random(seed)

    def shuffled(inner: Any) -> Any:
        if isinstance(inner, dict):
            keys = list(inner)
            dice.shuffle(keys)
            return {key: shuffled(inner[key]) for key in keys}
        return [shuffled(entry) for entry in inner] if isinstance(inner, list) else inner

    return json.dumps(shuffled(value), indent=dice.choice([None, 0, 3]), ensure_ascii=dice.random() < 0.5)


@given(VALUES, st.integers(), st.integers())
def test_all_texts_of_a_value_are_one_request(value: Any, one: int, other: int) -> None:
    assert canonical(written(value, one).encode()) == canonical(written(value, other).encode())


@given(SMALL, SMALL, st.integers())
def test_bodies_match_exactly_where_no_difference_is_found_and_only_there(one: Any, other: Any, seed: int) -> None:
    equal = marked(one) == marked(other)
    assert (first_difference(one, other) is None) == equal
    assert (first_difference(other, one) is None) == equal
    assert (canonical(written(one, seed).encode()) == canonical(written(other, seed + 1).encode())) == equal


@given(VALUES)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert first_difference(value, json.loads(json.dumps(value))) is None


def leaves(value: Any, at: str = "") -> list[tuple[str, Callable[[Any], Any]]]:
    """(where, what makes a copy of the value with another leaf there) for each leaf."""
    if isinstance(value, dict):
        inner = [(f".{key}", key) for key in value]
    elif isinstance(value, list):
        inner = [(f"[{number}]", number) for number in range(len(value))]
    else:
        return [(at, lambda leaf: leaf)]

    def put(key: Any, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def copy(leaf: Any) -> Any:
            copied = dict(value) if isinstance(value, dict) else list(value)
            copied[key] = make(leaf)
            return copied

        return copy

    return [(where, put(key, make)) for name, key in inner for where, make in leaves(value[key], at + name)]


@given(VALUES, st.data())
def test_one_leaf_that_differs_is_named_by_where_it_is(value: Any, data: st.DataObject) -> None:
    found = leaves(value)
    if not found:
        return
    where, make = data.draw(st.sampled_from(found))
    said = first_difference(value, make("another leaf"))
    assert said is not None
    assert said.startswith(f'{where or "the body"} is "another leaf", recorded was ')


# The clients of a server


class Connection:
    """Stands for one: any object does."""


def answers(places: Places, asked: Asked, connection: object, name: str | None = None) -> int:
    """A request from its arrival to the end of its answer: the number of the exchange."""
    place = places.enter(asked, connection, name)
    match = place.take(asked)
    places.leave(place, name is not None)
    assert match is not None
    return match.exchange.number


INTERLEAVED = st.tuples(SESSIONS, st.integers(1, 4)).flatmap(
    lambda drawn: st.tuples(st.just(drawn[0]), st.permutations([client for client in range(drawn[1]) for _ in drawn[0]]))
)
"""A session, and in which order clients that each do all of it take their turns."""


@given(INTERLEAVED)
def test_clients_that_name_themselves_each_meet_the_whole_session_in_order(drawn: tuple[list[Asked], list[int]]) -> None:
    """Over a connection for each request, as bad as can be: what one is given changes nothing for another."""
    session, turns = drawn
    places = Places(library(*session))
    met: dict[int, list[int]] = {client: [] for client in turns}
    for client in turns:
        asked = session[len(met[client])]
        met[client].append(answers(places, asked, Connection(), f"client {client}"))
    assert all(order == list(range(len(session))) for order in met.values())


@given(INTERLEAVED)
def test_clients_with_a_connection_each_meet_the_whole_session_in_order(drawn: tuple[list[Asked], list[int]]) -> None:
    """Where the session's first request comes but once in it: then a new connection that sends it is a new client."""
    rest, turns = drawn
    session = [posted('{"begin":true}', "/v1/threads"), *rest]
    turns = [*sorted(set(turns)), *turns]
    places = Places(library(*session))
    connections = {client: Connection() for client in turns}
    met: dict[int, list[int]] = {client: [] for client in turns}
    for client in turns:
        met[client].append(answers(places, session[len(met[client])], connections[client]))
    assert all(order == list(range(len(session))) for order in met.values())


@given(SESSIONS, st.integers(1, 4))
def test_clients_one_after_the_other_each_meet_the_whole_session_in_order(session: list[Asked], clients: int) -> None:
    """A new connection for each request: each goes on where the last left off, and once all is over the next begins anew."""
    places = Places(library(*session))
    for _ in range(clients):
        assert [answers(places, asked, Connection()) for asked in session] == list(range(len(session)))


def test_a_connection_is_known_again() -> None:
    places = Places(library(posted("1"), posted("2"), got("/v1/runs/1"), got("/v1/runs/1")))
    one, other = Connection(), Connection()
    assert [answers(places, posted("1"), one), answers(places, posted("1"), other)] == [0, 0]
    assert [answers(places, got("/v1/runs/1"), one) for _ in range(2)] == [2, 3]
    assert [answers(places, got("/v1/runs/1"), other) for _ in range(2)] == [2, 3]


def test_connections_that_have_a_place_are_known() -> None:
    places = Places(library(posted("1"), posted("2")))
    one, other, named = Connection(), Connection(), Connection()
    answers(places, posted("1"), one)
    answers(places, posted("1"), named, "worker-1")
    assert [places.knows(connection) for connection in (one, other, named)] == [True, False, False]


def test_a_place_with_an_answer_on_its_way_is_not_handed_over() -> None:
    places = Places(library(posted("1"), posted("1")))
    busy = places.enter(posted("1"), Connection())
    assert numbers([busy.take(posted("1"))]) == [0]
    assert answers(places, posted("1"), Connection()) == 0, "another client, at its own beginning"
    places.leave(busy)
    assert answers(places, posted("1"), Connection()) == 1, "now there is one that left off in the middle"


def test_a_new_connection_goes_on_with_the_client_that_has_been_idle_longest() -> None:
    places = Places(library(posted("1"), posted("2"), posted("3"), posted("3")))
    first, second = Connection(), Connection()
    assert [answers(places, posted("1"), connection) for connection in (first, second)] == [0, 0]
    assert answers(places, posted("2"), first) == 1
    assert answers(places, posted("3"), Connection()) == 2
    assert answers(places, posted("3"), second) == 3, "its place it was"
    assert answers(places, posted("3"), first) == 2


def test_a_new_connection_with_what_was_answered_already_is_a_new_client() -> None:
    places = Places(library(posted("1"), posted("2")))
    assert answers(places, posted("1"), Connection()) == 0
    assert answers(places, posted("1"), Connection()) == 0
    assert answers(places, posted("2"), Connection()) == 1
    assert answers(places, posted("2"), Connection()) == 1


def test_a_client_with_a_name_is_no_successor_and_has_none() -> None:
    places = Places(library(posted("1"), posted("1")))
    assert answers(places, posted("1"), Connection(), "one") == 0
    assert answers(places, posted("1"), Connection()) == 0
    assert answers(places, posted("1"), Connection(), "two") == 0
    assert answers(places, posted("1"), Connection(), "one") == 1
    assert answers(places, posted("1"), Connection()) == 1


def test_a_name_outlives_its_connection_and_goes_before_it() -> None:
    places = Places(library(posted("1"), posted("1"), posted("1")))
    connection = Connection()
    assert [answers(places, posted("1"), connection, name) for name in ("a", "b", "a", None, "b")] == [0, 0, 1, 0, 1]


def test_places_of_connections_that_are_gone_are_not_kept_for_ever() -> None:
    places = Places(library(posted("1"), posted("2")))
    for _ in range(5000):
        answers(places, posted("1"), Connection())
    assert len(places._idle) <= 1000
    assert len(places._by_connection) == 0


@pytest.mark.parametrize("path", ["/v1/a%2Fb", "/v1/%25", "/", "", "//", "/v1/é", "/v1/%C3%A9", "/v1/%00%0a", "/v1/%zz"])
def test_a_path_is_one_line_of_ascii_and_its_own_normal_form(path: str) -> None:
    method, normal = path_key(Asked("post", path))
    assert method == "POST"
    assert normal.isascii()
    assert normal.isprintable()
    assert path_key(Asked("POST", normal)) == (method, normal)


# What is volatile

UUIDS = "0b9c7d0e-6f8a-4a51-9d2c-0123456789ab", "ffffffff-0000-4000-8000-000000000001"
VARIED = {
    "metadata": (posted('{"a":1,"metadata":{"run":"1"}}'), posted('{"a":1,"metadata":{"run":"2","more":"x"}}')),
    "metadata that is not there": (posted('{"a":1,"metadata":{"run":"1"}}'), posted('{"a":1}')),
    "metadata within": (posted('{"thread":{"metadata":{"a":"1"}}}'), posted('{"thread":{"metadata":{"a":"2"}}}')),
    "the user": (posted('{"a":1,"user":"anna"}'), posted('{"a":1,"user":"ben"}')),
    "a timestamp by its name": (posted('{"sent_at":1780000000}'), posted('{"sent_at":1790000000}')),
    "a UUID": (posted(f'{{"input":[{{"id":"{UUIDS[0]}"}}]}}'), posted(f'{{"input":[{{"id":"{UUIDS[1]}"}}]}}')),
    "a UUID within a text": (posted(f'{{"m":"order {UUIDS[0]}, please"}}'), posted(f'{{"m":"order {UUIDS[1]}, please"}}')),
    "a UUID without dashes": (posted(f'{{"id":"{UUIDS[0].replace("-", "")}"}}'), posted(f'{{"id":"{"0" * 32}"}}')),
    "a time in a text": (posted('{"m":"It is 2026-05-01T10:00:00Z."}'), posted('{"m":"It is 2026-11-24 18:03:11.123+01:00."}')),
    "a time as in a header": (posted('"Tue, 24 Nov 2026 10:00:00 GMT"'), posted('"Wed, 25 Nov 2026 11:30:01 GMT"')),
    "a parameter of the query": (got("/v1/runs", "limit=5&trace_id=a"), got("/v1/runs", "limit=5&trace_id=b")),
    "the boundary of a form": (
        posted(b"--a1b2\r\n\r\nx\r\n--a1b2--", content_type="multipart/form-data; boundary=a1b2"),
        posted(b"--c3d4\r\n\r\nx\r\n--c3d4--", content_type='multipart/form-data; boundary="c3d4"'),
    ),
}

FIXED = {
    "what is said": (posted('{"m":"hi","metadata":{"a":"1"}}'), posted('{"m":"ho","metadata":{"a":"2"}}')),
    "a tool output": (
        posted('{"tool_outputs":[{"tool_call_id":"c","output":"1"}]}'),
        posted('{"tool_outputs":[{"tool_call_id":"c","output":"2"}]}'),
    ),
    "an id that the service made": (posted('{"thread_id":"thread_1"}'), posted('{"thread_id":"thread_2"}')),
    "a day": (posted('{"m":"on 2026-05-01"}'), posted('{"m":"on 2026-05-02"}')),
    "a number in a list": (posted('{"n":[1780000000]}'), posted('{"n":[1780000001]}')),
    "another parameter": (got("/v1/runs", "limit=5&user=a"), got("/v1/runs", "limit=6&user=a")),
}


@pytest.mark.parametrize("case", VARIED)
def test_what_changes_from_run_to_run_is_found_on_the_second_rung(case: str) -> None:
    one, other = VARIED[case]
    assert took(Place(library(one)), other) == (0, "volatile")
    assert took(Place(library(other)), one) == (0, "volatile")
    assert took(Place(library(one, other)), other) == (1, "exact")
    assert took(Place(library(one, strict=True)), other) is None


@pytest.mark.parametrize("case", FIXED)
def test_all_else_is_not(case: str) -> None:
    one, other = FIXED[case]
    assert took(Place(library(one)), other) == (0, "path")


def test_the_second_rung_goes_before_the_path_wherever_it_stands() -> None:
    place = Place(library(posted('{"n":1}'), posted('{"n":2,"user":"a"}'), posted('{"n":2,"user":"b"}')))
    assert took(place, posted('{"n":2,"user":"c"}')) == (1, "volatile")
    assert took(place, posted('{"n":2,"user":"c"}')) == (2, "volatile")
    assert took(place, posted('{"n":2,"user":"c"}')) == (1, "volatile"), "it is never answered by another"
    assert took(place, posted('{"n":3}')) == (0, "path")


def test_the_list_of_what_is_volatile_can_be_longer() -> None:
    more = Volatile(["$.options.seed", "$['temperature']"])
    one, other = posted('{"a":1,"options":{"seed":1}}'), posted('{"a":1,"options":{"seed":2},"temperature":0}')
    made = Library([exchange(0, stream_id(0), "s", one, more)], volatile=more)
    assert took(Place(made), other) == (0, "volatile")
    assert took(Place(made), posted('{"a":1,"options":{"seed":1,"top":2}}')) == (0, "path")
    assert took(Place(library(one)), other) == (0, "path")


def test_a_path_that_is_none_is_refused_with_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"'trace_id' names no volatile field: .*; write it as \$\.\.trace_id"):
        Volatile(["trace_id"])


def test_a_body_nested_too_deep_has_nothing_volatile() -> None:
    deep = posted('{"metadata":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert took(Place(library(deep)), deep) == (0, "exact")
    assert took(Place(library(deep)), posted('{"metadata":1}')) == (0, "path")


def test_a_header_names_what_differs() -> None:
    found = library(posted("1")).exchanges[0]
    assert Match(found, "exact").headers == [("x-recorder-stream", stream_id(0)), ("x-recorder-match", "exact")]
    assert Match(found, "path", (".a", ".é\n[0]", "")).headers[-1] == ("x-recorder-differs", ".a, .\\xe9\\n[0], body")
    many = Match(found, "path", tuple(f".f{number}" for number in range(30))).headers[-1][1]
    assert many == ".f0, .f1, .f2, .f3, .f4, .f5, .f6, .f7 and 22 more"


# Sessions by name


def test_a_session_that_is_named_answers_alone() -> None:
    made = library(posted("1"), posted("1"), posted("2"), sessions=["monday", "tuesday", "tuesday"])
    places = Places(made)
    monday, tuesday, new = (places.enter(posted("1"), Connection(), None, name) for name in ("monday", "tuesday", "friday"))
    assert took(tuesday, posted("1")) == (1, "exact")
    assert took(monday, posted("1")) == (0, "exact")
    assert took(monday, posted("2")) == (0, "path"), "it has no other"
    assert [took(new, posted("1")) for _ in range(2)] == [(0, "exact"), (1, "exact")], "one that is none is a name"
    assert places.enter(posted("1"), Connection(), None, "tuesday") is tuesday
    assert places.enter(posted("1"), Connection(), "worker", "tuesday") is not tuesday
