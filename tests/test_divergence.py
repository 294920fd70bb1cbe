"""The report of what clients asked: each divergence named rightly, with its field, what was recorded and what is seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.replay import divergence, library
from recorder.replay.divergence import Watch, lines
from recorder.replay.faults import parse
from recorder.replay.match import Asked, Place, Places
from tests.exchanges import asking, json_response, record
from tests.writing import stream_id

OK = json_response(b"[]")
RUN, SUBMIT, LIST = "/v1/threads/t/runs", "/v1/threads/t/runs/r/submit_tool_outputs", "/v1/threads/t/messages"
CREATE = b'{"assistant_id":"asst_1","metadata":{"run":"1"}}'


def outputs(one: str = "rain", other: str = "7") -> bytes:
    calls = [{"tool_call_id": "call_1", "output": one}, {"tool_call_id": "call_2", "output": other}]
    return json.dumps({"tool_outputs": calls, "stream": True}).encode()


SESSION = [("POST", RUN, CREATE), ("POST", SUBMIT, outputs()), ("GET", LIST, b""), ("POST", "/v1/threads/t/messages", b'{"m":1}')]


def session(label: str | None = "s", first: int = 0) -> list[Any]:
    return [(asking(first + n, method, target, body, label=label), OK) for n, (method, target, body) in enumerate(SESSION)]


def asked(method: str, target: str, body: bytes = b"") -> Asked:
    path, _, query = target.partition("?")
    return Asked(method, path, query, body, "application/json")


def report(
    engine: sa.Engine, *requests: tuple[str, str, bytes], ids: tuple[str, ...] = (), strict: bool = False
) -> dict[str, Any]:
    """What is said of one client that asks these."""
    exchanges = library.load(engine, ids, strict=strict)
    watch, place = Watch(engine, exchanges, named=bool(ids)), Place(exchanges)
    for each in requests:
        one = asked(*each)
        watch.saw(place, one, place.take(one))
    found = watch.document()
    json.dumps(found)
    return found


def named(found: dict[str, Any]) -> list[tuple[str, int | None, int | None]]:
    """(kind, number of the request, number of the recorded one) of each divergence."""
    return [(each["kind"], each["request"], each["recorded_request"]) for each in found["divergences"]]


@pytest.fixture
def recorded(engine: sa.Engine) -> sa.Engine:
    record(engine, session())
    return engine


def test_a_client_that_does_the_same_diverges_in_nothing(recorded: sa.Engine) -> None:
    found = report(recorded, *SESSION)
    assert (found["diverged"], found["divergences"], found["variations"], found["unused"]) == (False, [], [], [])
    assert found["requests"] == {
        "answered": 4,
        "unmatched": 0,
        "passed_on": 0,
        "exact": 4,
        "volatile": 0,
        "path": 0,
        "not_compared": 0,
    }
    assert lines(found) == []


@pytest.mark.parametrize("strict", [False, True])
def test_another_tool_output(recorded: sa.Engine, strict: bool) -> None:
    """Whether it is answered or not."""
    requests = [SESSION[0], ("POST", SUBMIT, outputs("snow")), *SESSION[2:]]
    found = report(recorded, *requests, strict=strict)
    assert named(found) == [("changed", 2, 2)]
    (one,) = found["divergences"]
    assert one["fields"] == [{"field": ".tool_outputs[0].output", "recorded": "rain", "seen": "snow", "tool_call_id": "call_1"}]
    assert (one["method"], one["path"], one["stream_id"]) == ("POST", SUBMIT, stream_id(1))
    assert lines(found)[0] == (
        f"request 2 of client 1, POST {SUBMIT}, differs from the recorded one (stream {stream_id(1)}):"
        ' .tool_outputs[0].output is "snow", recorded was "rain" (the output of call_1)'
    )


def test_an_extra_request(recorded: sa.Engine) -> None:
    found = report(recorded, *SESSION[:2], ("POST", "/v1/files", b"{}"), *SESSION[2:])
    assert named(found) == [("extra", 3, None)]
    assert lines(found) == ["request 3 of client 1, POST /v1/files, is not in the recording"]
    assert found["requests"]["unmatched"] == 1


def test_an_extra_request_of_a_recorded_path_that_was_answered_all_the_same(recorded: sa.Engine) -> None:
    found = report(recorded, *SESSION[:1], ("POST", SUBMIT, outputs("snow")), *SESSION[1:])
    assert named(found) == [("extra", 2, None)]
    assert f"it was answered as {SUBMIT} of stream {stream_id(1)}" in lines(found)[0]


def test_a_request_that_comes_twice(recorded: sa.Engine) -> None:
    assert named(report(recorded, *SESSION[:2], SESSION[1], *SESSION[2:])) == [("extra", 3, None)]


@pytest.mark.parametrize("without", range(4))
def test_one_request_fewer(recorded: sa.Engine, without: int) -> None:
    found = report(recorded, *SESSION[:without], *SESSION[without + 1 :])
    assert named(found) == [("missing", None, without + 1)]
    method, target, _ = SESSION[without]
    stream = f"(stream {stream_id(without)})"
    assert lines(found) == [f"client 1: {method} {target} was not made, but is request {without + 1} of the recording {stream}"]
    assert found["unused"] == [stream_id(without)]


def test_a_reordered_pair(recorded: sa.Engine) -> None:
    found = report(recorded, SESSION[0], SESSION[3], SESSION[2], SESSION[1])
    assert {(kind, request) for kind, request, _ in named(found)} == {("reordered", 2), ("reordered", 4)}
    found = report(recorded, SESSION[1], SESSION[0], *SESSION[2:])
    assert named(found) == [("reordered", 2, 1)]
    assert "came out of order: it is request 1 of the recording" in lines(found)[0]


def test_all_at_once_are_all_named(recorded: sa.Engine) -> None:
    found = report(
        recorded,
        ("POST", RUN, b'{"assistant_id":"asst_2"}'),
        ("POST", "/v1/x", b""),
        SESSION[2],
        ("POST", SUBMIT, outputs("a", "b")),
    )
    assert named(found) == [("changed", 1, 1), ("extra", 2, None), ("changed", 4, 2), ("missing", None, 4)]
    changed = next(each for each in found["divergences"] if each["kind"] == "changed" and each["path"] == RUN)
    assert [field["field"] for field in changed["fields"]] == [".assistant_id", ".metadata"]


def test_what_is_volatile_is_a_variation_and_no_divergence(recorded: sa.Engine) -> None:
    found = report(recorded, ("POST", RUN, CREATE.replace(b"1", b"2").replace(b"asst_2", b"asst_1")), *SESSION[1:])
    assert (found["diverged"], found["requests"]["volatile"]) == (False, 1)
    (one,) = found["variations"]
    assert one["fields"] == [{"field": ".metadata.run", "recorded": "1", "seen": "2"}]
    assert one["message"].endswith("differs in what is volatile: .metadata.run")


def test_polling_more_or_less_often_is_no_divergence(recorded: sa.Engine) -> None:
    assert named(report(recorded, *SESSION[:2], SESSION[2], SESSION[2], SESSION[2], SESSION[3])) == []


def test_a_program_that_is_run_again_diverges_only_where_it_does(recorded: sa.Engine) -> None:
    assert named(report(recorded, *SESSION, *SESSION)) == []
    assert named(report(recorded, *SESSION, *SESSION[:3])) == [("missing", None, 4)]


def test_another_query_is_named_by_its_parameter(engine: sa.Engine) -> None:
    record(engine, [(asking(0, "GET", "/v1/runs?limit=5&order=asc", b"", label="s"), OK)])
    found = report(engine, ("GET", "/v1/runs?limit=6&order=asc&api-key=hidden", b""))
    (one,) = found["divergences"]
    assert one["fields"] == [
        {"field": "?api-key", "seen": "REDACTED"},
        {"field": "?limit", "recorded": "5", "seen": "6"},
    ]
    assert "hidden" not in json.dumps(found)


def test_secrets_do_not_come_into_the_report(engine: sa.Engine) -> None:
    record(engine, [(asking(0, "POST", "/v1/a", b'{"tools":[{"authorization":"hidden-1"}],"a":1}', label="s"), OK)])
    found = report(engine, ("POST", "/v1/a?token=hidden-2", b'{"tools":[{"authorization":"hidden-3"}],"a":2}'))
    assert [field["field"] for field in found["divergences"][0]["fields"]] == ["?token", ".a"]
    assert "hidden" not in json.dumps(found)


def test_what_was_redacted_in_the_recording_is_no_divergence(engine: sa.Engine) -> None:
    record(engine, [(asking(0, "POST", "/v1/a", b'{"messages":[{"role":"user","content":"xxxxx xx xxx"}]}', label="s"), OK)])
    body = b'{"messages":[{"role":"user","content":"Hello to you"}]}'
    found = report(engine, ("POST", "/v1/a", body.replace(b"you", b"you all")))
    assert [each["fields"] for each in found["divergences"]] == [
        [{"field": ".messages[0].content", "recorded": "xxxxx xx xxx", "seen": "Hello to you all"}]
    ]
    record(engine, [(asking(1, "POST", "/v1/b", b'{"messages":[{"role":"user","content":"xxxxxxxxxxxx"}]}', label="s"), OK)])
    found = report(engine, ("POST", "/v1/b", body), ids=(stream_id(1),))
    assert (found["requests"]["path"], found["diverged"]) == (1, False)


def test_streams_of_no_session_are_compared_in_recorded_order(engine: sa.Engine) -> None:
    record(engine, session(label=None))
    assert named(report(engine, *SESSION)) == []
    assert named(report(engine, *SESSION[:1], *SESSION[2:])) == [("missing", None, 2)]
    assert named(report(engine, SESSION[1], SESSION[0], *SESSION[2:])) == [("reordered", 2, 1)]


def test_a_session_that_nobody_was_in_is_missing_only_where_it_was_named(engine: sa.Engine) -> None:
    record(engine, [*session("monday"), (asking(9, "POST", "/v1/other", b"{}", label="tuesday"), OK)])
    found = report(engine, *SESSION)
    assert (named(found), found["unused"]) == ([], [stream_id(9)])
    found = report(engine, *SESSION, ids=("monday", "tuesday"))
    assert named(found) == [("missing", None, None)]
    assert lines(found) == [f"POST /v1/other (stream {stream_id(9)}) was made by no client"]
    assert named(report(engine, ids=("tuesday",))) == [("missing", None, None)]


def test_an_unknown_request_does_not_bring_a_client_into_a_session(engine: sa.Engine) -> None:
    record(engine, [*session("monday"), (asking(9, "POST", "/v1/other", b"{}"), OK)])
    assert named(report(engine, *SESSION, ("PUT", "/v1/unknown", b""))) == [("extra", 5, None)]


def test_each_client_is_compared_for_itself(recorded: sa.Engine) -> None:
    exchanges = library.load(recorded)
    watch, places = Watch(recorded, exchanges), Places(exchanges)
    orders = {"a": SESSION, "b": SESSION[:3], "c": [SESSION[1], SESSION[0], *SESSION[2:]]}
    for number in range(4):
        for name, order in orders.items():
            if number < len(order):
                one = asked(*order[number])
                place = places.enter(one, object, name)
                watch.saw(place, one, place.take(one), name)
    found = watch.document()
    assert found["clients"] == [
        {"client": 1, "name": "a", "requests": 4},
        {"client": 2, "name": "b", "requests": 3},
        {"client": 3, "name": "c", "requests": 4},
    ]
    assert [(each["name"], each["kind"]) for each in found["divergences"]] == [("b", "missing"), ("c", "reordered")]
    assert lines(found)[0].startswith("client 2 (b): ")


@pytest.mark.parametrize("label", [None, "s"])
def test_a_client_that_asks_over_two_connections_at_once_is_one(engine: sa.Engine, label: str | None) -> None:
    record(engine, session(label))
    exchanges = library.load(engine)
    watch, places = Watch(engine, exchanges), (Place(exchanges), Place(exchanges))
    for number, each in enumerate([SESSION[1], SESSION[0], SESSION[3]]):
        place = places[number % 2]
        watch.saw(place, asked(*each), place.take(asked(*each)))
    assert named(watch.document()) == [("missing", None, 3)]


def test_what_comes_after_many_is_counted(recorded: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "REQUESTS", 3)
    found = report(recorded, *SESSION, *SESSION)
    assert found["requests"]["not_compared"] == 5
    assert found["requests"]["answered"] == 8
    assert any("5 requests came after the first 3" in line for line in lines(found))


def test_faults_and_how_often_they_happened_are_listed(recorded: sa.Engine) -> None:
    faults = [parse("cut@1"), parse("drop@2")]
    watch = Watch(recorded, library.load(recorded), faults)
    watch.happened(faults[0])
    watch.happened(faults[0])
    found = watch.document()
    assert found["faults"] == [{"fault": "cut@1", "happened": 2}, {"fault": "drop@2", "happened": 0}]
    assert lines(found) == ["fault cut@1: happened 2 times", "fault drop@2: happened 0 times"]


def test_how_well_the_pace_was_kept_is_said(recorded: sa.Engine) -> None:
    watch = Watch(recorded, library.load(recorded))
    assert watch.document()["pace"] is None
    for error_us in [*range(1, 100), -5_432_100]:
        watch.fidelity.add(error_us)
    assert watch.document()["pace"] == {"chunks": 100, "p50_ms": 0.05, "p99_ms": 0.099, "worst_ms": 5432.1}
    assert lines(watch.document()) == ["pace: 100 chunks, off by p50 0.05 ms, p99 0.099 ms, at the worst 5432.1 ms"]
