"""Faults at an event: what each does to the bytes, their times and the end; the same each time, together, and past the end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import ReplayTransport, database, play
from recorder.errors import UsageError
from recorder.replay.faults import EXAMPLES, Faulted, parse, plan, rechunked, sizes
from recorder.replay.playback import Playback
from recorder.sse import Frame, SSEDecoder
from tests.clients import Kind
from tests.commands import sqlite
from tests.exchanges import MS, asking, json_response, record, response
from tests.test_playback import events
from tests.writing import stream_id

CHAT = "/v1/chat/completions"
COUNT = 8
BODIES = [b"data: %d\n\n" % number for number in range(1, COUNT + 1)]
"""That of number n is event n: event 0 is the head, event 9 the end."""
CHUNKS = [(number * MS, body) for number, body in enumerate(BODIES, 1)]


class Played:
    """A response that was played with faults. pieces: what came, (ms, bytes). happened: the faults that did, in order."""

    def __init__(self, *faults: str, frames: list[Frame] | None = None, speed: float | None = 1.0, path: str = CHAT) -> None:
        self.happened: list[str] = []
        recorded = response(CHUNKS, end_us=9 * MS) if frames is None else frames
        playback = Faulted(Playback(events(recorded)), plan(faults), path, lambda fault: self.happened.append(fault.text))
        self.timed = list(playback.timed(speed, None))
        self.status, self.closed, self.headers = playback.status, playback.closed, playback.headers
        self.pieces = [(at / MS, chunk) for at, chunk in self.timed if chunk]
        self.body = b"".join(chunk for _, chunk in self.pieces)
        self.ended = self.timed[-1][0] / MS
        assert self.timed[-1][1] is None


def bodies(*numbers: int) -> bytes:
    return b"".join(BODIES[number - 1] for number in numbers)


ALL = tuple(range(1, COUNT + 1))


# Each by itself


@pytest.mark.parametrize(
    ("fault", "body", "closed"),
    [
        ("cut@3", bodies(1, 2), "cut"),
        ("cut@3:4", bodies(1, 2) + b"data", "cut"),
        ("cut@3:0", bodies(1, 2), "cut"),
        ("cut@3:99", bodies(1, 2, 3), "cut"),
        ("cut@1", b"", "cut"),
        ("cut@9", bodies(*ALL), "cut"),
        ("drop@3", bodies(1, 2, 4, 5, 6, 7, 8), "eof"),
        ("drop@8", bodies(*range(1, 8)), "eof"),
        ("dup@3", bodies(1, 2, 3, 3, 4, 5, 6, 7, 8), "eof"),
        ("swap@3", bodies(1, 2, 4, 3, 5, 6, 7, 8), "eof"),
        ("swap@7", bodies(1, 2, 3, 4, 5, 6, 8, 7), "eof"),
        ("stall@3:5s", bodies(*ALL), "eof"),
        ("rechunk:1", bodies(*ALL), "eof"),
        ("rechunk:random:7", bodies(*ALL), "eof"),
    ],
)
def test_what_comes_and_how_it_ends(fault: str, body: bytes, closed: str) -> None:
    played = Played(fault)
    assert (played.body, played.closed, played.status) == (body, closed, 200)
    assert played.happened == [fault]


@pytest.mark.parametrize("speed", [1.0, 0.5, 1000.0, None])
def test_a_stall_is_as_long_at_any_speed(speed: float | None) -> None:
    unfaulted, played = Played(speed=speed).pieces, Played("stall@3:250ms", speed=speed).pieces
    assert [after[0] - before[0] for before, after in zip(unfaulted, played, strict=True)] == pytest.approx([0, 0, *[250] * 6])


def test_events_that_came_in_one_chunk_are_parted_by_a_stall() -> None:
    frames = response([(MS, b"".join(BODIES))])
    assert Played("stall@3:1s", frames=frames).pieces == [(1, bodies(1, 2)), (1001, bodies(*range(3, 9)))]
    assert Played("stall@1:1s", frames=frames).pieces == [(1001, bodies(*ALL))]


def test_a_stall_before_the_head_and_before_the_end() -> None:
    assert Played("stall@0:1s").timed[0] == (1_000_000, b"")
    late = Played("stall@9:1s")
    assert (late.pieces[-1][0], late.ended) == (8, 1009)


def test_two_that_change_places_come_each_when_the_other_did() -> None:
    assert Played("swap@3").pieces[2:4] == [(3, BODIES[3]), (4, BODIES[2])]


def test_a_cut_of_the_head_is_no_response() -> None:
    played = Played("cut@0")
    assert (played.status, played.closed, played.pieces, len(played.timed)) == (None, "cut", [], 1)


def test_a_status_is_an_error_in_the_shape_of_the_api() -> None:
    played = Played("status@0:429")
    assert (played.status, played.closed, played.headers) == (429, "eof", [("content-type", "application/json")])
    assert json.loads(played.body) == {
        "error": {"message": "recorder: status@0:429", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    }
    assert json.loads(Played("status@0:503").body)["error"]["type"] == "server_error"
    unanswered = response(status=None, closed="no_response", detail="ConnectError: refused")
    assert Played("status@0:500", frames=unanswered).status == 500


ERRORS = {
    CHAT: (b"", {"error": {"message": "recorder: error@4", "type": "server_error", "param": None, "code": "server_error"}}),
    "/v1/threads/t/runs": (
        b"event: error\n",
        {"error": {"message": "recorder: error@4", "type": "server_error", "param": None, "code": "server_error"}},
    ),
    "/v1/responses": (
        b"event: error\n",
        {"type": "error", "code": "server_error", "message": "recorder: error@4", "param": None, "sequence_number": 17},
    ),
    "/v1/messages": (b"event: error\n", {"type": "error", "error": {"type": "api_error", "message": "recorder: error@4"}}),
}


@pytest.mark.parametrize("path", ERRORS)
def test_an_error_event_is_one_of_the_protocol(path: str) -> None:
    chunks = [(number, b'event: x\ndata: {"sequence_number":%d}\n\n' % (13 + number)) for number in range(1, 9)]
    played = Played("error@4", frames=response(chunks), path=path)
    before = b"".join(body for _, body in chunks[:3])
    assert played.body.startswith(before)
    name, _, said = played.body.removeprefix(before).partition(b"data: ")
    assert (name, json.loads(said)) == ERRORS[path]
    assert played.body.endswith(b"\n\n")
    assert played.closed == "eof"


@pytest.mark.parametrize(
    ("content_type", "end"), [("application/x-ndjson", b"}}\n"), ("application/json", b"}}"), ("text/event-stream", b"}}\n\n")]
)
def test_an_error_is_one_of_the_kind_of_body(content_type: str, end: bytes) -> None:
    body = b'{"a":1}\n' if "json" in content_type else BODIES[0]
    played = Played("error@1", frames=response([(1, body)], headers=[("content-type", content_type), ("content-length", "9")]))
    assert played.body.endswith(end)
    assert b"recorder: error@1" in played.body
    assert "content-length" not in dict(played.headers)


def test_of_a_file_without_a_head_event_0_is_the_first_event() -> None:
    frames = [*SSEDecoder().feed(bodies(1, 2, 3)), Frame("$end", '{"outcome":"eof"}')]
    assert Played("drop@0", frames=frames).body == bodies(2, 3)
    assert Played("cut@1", frames=frames).body == bodies(1)
    assert Played("error@0", frames=frames).body.startswith(b'data: {"error"')
    assert Played("status@0:500", frames=frames).status == 500


def test_an_event_in_several_chunks_goes_as_a_whole() -> None:
    frames = response([(1 * MS, b"data: 1\n\nda"), (2 * MS, b"ta: 2\n"), (3 * MS, b"\ndata: 3\n\n")])
    assert Played("drop@2", frames=frames).pieces == [(1, b"data: 1\n\n"), (3, b"data: 3\n\n")]
    assert Played("dup@2", frames=frames).body == b"data: 1\n\ndata: 2\n\ndata: 2\n\ndata: 3\n\n"
    assert Played("stall@2:1s", frames=frames).pieces == [
        (1, b"data: 1\n\n"),
        (1001, b"da"),
        (1002, b"ta: 2\n"),
        (1003, b"\ndata: 3\n\n"),
    ]


# Together


@pytest.mark.parametrize(
    ("faults", "body", "happened"),
    [
        (["drop@2", "dup@4"], bodies(1, 3, 4, 4, 5, 6, 7, 8), 2),
        (["dup@4", "drop@2"], bodies(1, 3, 4, 4, 5, 6, 7, 8), 2),
        (["drop@2", "cut@4"], bodies(1, 3), 2),
        (["cut@4", "drop@6"], bodies(1, 2, 3), 1),
        (["swap@2", "drop@3"], bodies(1, 2, 4, 5, 6, 7, 8), 2),
        (["swap@2", "dup@2"], bodies(1, 3, 2, 2, 4, 5, 6, 7, 8), 2),
        (["swap@3", "cut@4"], bodies(1, 2, 3), 1),
        (["drop@2", "drop@2"], bodies(1, 3, 4, 5, 6, 7, 8), 2),
        (["rechunk:3", "drop@2"], bodies(1, 3, 4, 5, 6, 7, 8), 2),
    ],
)
def test_faults_go_together_each_at_its_recorded_position(faults: list[str], body: bytes, happened: int) -> None:
    played = Played(*faults)
    assert played.body == body
    assert len(played.happened) == happened


def test_a_stall_and_other_boundaries() -> None:
    """What came before the stall comes before it, up to the last boundary; the chunk that reaches over it comes after it."""
    played = Played("rechunk:5", "stall@3:1s")
    assert played.body == bodies(*ALL)
    assert [len(chunk) for _, chunk in played.pieces] == [5] * 14 + [2]
    assert [chunk for at, chunk in played.pieces if at < 1000] == [b"data:", b" 1\n\nd", b"ata: "]


@given(
    st.lists(
        st.sampled_from([*EXAMPLES[:7], "cut@3", "stall@2:1s", "error@4", "drop@2", "swap@5", "rechunk:random:3"]),
        max_size=4,
        unique=True,
    )
)
def test_the_same_faults_do_the_same_each_time_and_times_never_go_back(faults: list[str]) -> None:
    chunking = [fault for fault in faults if fault.startswith("rechunk")][1:]
    chosen = [fault for fault in faults if fault not in chunking]
    one, other = Played(*chosen), Played(*chosen)
    assert one.timed == other.timed
    assert [at for at, _ in one.timed] == sorted(at for at, _ in one.timed)


# Boundaries


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.integers(0, 10**18 - 1), st.integers(1, 70))
def test_other_boundaries_are_of_the_same_bytes_and_no_byte_comes_before_its_time(
    chunks: list[bytes], seed: int, size: int
) -> None:
    timed: list[tuple[float, bytes | None]] = [(0, b""), *((number, chunk) for number, chunk in enumerate(chunks, 1)), (99, None)]
    due = [at for at, chunk in timed for _ in chunk or b""]
    for fault in (f"rechunk:{size}", f"rechunk:random:{seed}"):
        made = list(rechunked(timed, sizes(parse(fault))))
        assert (made[0], made[-1]) == ((0, b""), (99, None))
        pieces = [(at, chunk) for at, chunk in made if chunk]
        assert b"".join(chunk for _, chunk in pieces) == b"".join(chunks)
        ends = 0
        for at, chunk in pieces:
            ends += len(chunk)
            assert at == due[ends - 1], "when its last byte came"
        if fault.startswith("rechunk:random"):
            assert all(len(chunk) < 256 for _, chunk in pieces)
        else:
            assert all(len(chunk) == size for _, chunk in pieces[:-1])


def test_a_seed_is_the_same_for_ever_and_seeds_differ() -> None:
    def first(seed: int) -> list[int]:
        found = sizes(parse(f"rechunk:random:{seed}"))
        return [next(found) for _ in range(8)]

    assert first(7) == [6, 2, 36, 1, 19, 7, 1, 16]
    assert len({tuple(first(seed)) for seed in range(50)}) == 50


# What is written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cut", "'cut' needs a position; write cut@137"),
        ("rechunk@3:1", "needs no position; write rechunk:1"),
        ("break@3", "'break@3' is no fault; write one of cut@137, "),
        ("", "is no fault; write one of"),
        ("cut@-1", "is no fault"),
        ("cut@x", "is no fault"),
        ("cut@3:x", "how many bytes of the event are to come is a number"),
        ("stall@3", "how long is given as in stall@12:5s"),
        ("stall@3:5", "how long is given as in stall@12:5s"),
        ("drop@3:1", "nothing stands behind the position of drop"),
        ("status@0", "a status is a number from 200 to 599"),
        ("status@0:99", "a status is a number from 200 to 599"),
        ("status@4:429", "a status is of event 0, the head; write status@0:429"),
        ("rechunk:0", "write rechunk:random:SEED, with a number for SEED, or rechunk:BYTES"),
        ("rechunk:random", "write rechunk:random:SEED"),
        ("rechunk:random:x", "write rechunk:random:SEED"),
    ],
)
def test_what_is_no_fault_is_said_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [*EXAMPLES, "cut@1#2", "cut@1#019c3f7a", "stall@0:1.5s", "rechunk:random:0"])
def test_examples_are_faults(text: str) -> None:
    assert parse(text).text == text


def test_two_of_what_there_can_be_but_one() -> None:
    for both in (["rechunk:1", "rechunk:random:7"], ["status@0:429", "status@0:500"]):
        with pytest.raises(UsageError, match="there can be one"):
            plan(both)
    assert len(plan(["status@0:429#1", "status@0:500#2"])) == 2


def test_what_a_fault_is_restricted_to() -> None:
    assert parse("cut@1").is_of(stream_id(0), 5)
    assert [parse("cut@1#2").is_of(stream_id(0), request) for request in (1, 2, 3)] == [False, True, False]
    own = parse(f"cut@1#{stream_id(3)}")
    assert (own.is_of(stream_id(3), 1), own.is_of(stream_id(4), 1)) == (True, False)


# Through the transport


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stream of 8 events, a JSON answer, and a stream of 2."""
    url = sqlite(tmp_path_factory.mktemp("faults") / "log.db")
    engine = database.connect(url)
    exchanges = [
        (asking(0, "POST", "/v1/a"), response(CHUNKS, end_us=9 * MS)),
        (asking(1, "GET", "/v1/json"), json_response(b'{"a":1}')),
        (asking(2, "POST", "/v1/b"), response(CHUNKS[:2])),
    ]
    record(engine, exchanges)
    engine.dispose()
    return url


async def fetched(
    kind: Kind, db: str, *faults: str, path: str = "a", method: str = "POST", times: int = 1
) -> tuple[list[Any], dict[str, Any]]:
    transport = ReplayTransport(db=db, faults=faults)
    client = kind.client(transport=transport)
    got = [await kind.fetch(client, f"http://api.example.com/v1/{path}", method) for _ in range(times)]
    report = transport.report()
    await kind.close(client)
    return got, report


@pytest.mark.anyio
async def test_any_client_meets_them(kind: Kind, db: str) -> None:
    (got,), report = await fetched(kind, db, "drop@2", "cut@5:3")
    assert b"".join(got.chunks) == bodies(1, 3, 4) + b"dat"
    assert type(got.failed) is kind.family.RemoteProtocolError
    assert report["faults"] == [{"fault": "drop@2", "happened": 1}, {"fault": "cut@5:3", "happened": 1}]
    (got,), _ = await fetched(kind, db, "rechunk:7")
    assert {len(chunk) for chunk in got.chunks[:-1]} == {7}
    assert (got.body, got.failed) == (bodies(*ALL), None)
    (got,), _ = await fetched(kind, db, "cut@0")
    assert (got.response, type(got.failed)) == (None, kind.family.RemoteProtocolError)
    (got,), _ = await fetched(kind, db, "error@1", path="json", method="GET")
    assert "recorder: error@1" in json.loads(got.body)["error"]["message"]


@pytest.mark.anyio
async def test_a_fault_of_one_request_leaves_the_next_alone(kind: Kind, db: str) -> None:
    got, report = await fetched(kind, db, "status@0:503#1", times=2)
    assert [each.response.status_code for each in got] == [503, 200]
    assert got[1].body == bodies(*ALL)
    assert report["faults"] == [{"fault": "status@0:503#1", "happened": 1}]


def test_an_sdk_asks_again_where_the_first_answer_is_an_error(db: str) -> None:
    """And gets the recorded one then."""
    with (
        openai.OpenAI(api_key="k", base_url="http://api.example.com/v1", max_retries=1) as client,
        play(client, db=db, faults=["status@0:429#1"]) as replay,
    ):
        assert client.post("/a", cast_to=str, body=None) == bodies(*ALL).decode()
        assert replay.report()["faults"] == [{"fault": "status@0:429#1", "happened": 1}]


PAST = {
    ("cut@10",): "cut@10: there is no event 10; the last one of {0} is 9 (recorder show lists them)",
    ("cut@4", "stall@99:1s"): "stall@99:1s: there is no event 99; the last one of {0} is 9",
    ("drop@0",): "drop@0: event 0 of {0} is $response and cannot be moved; name one that the client gets",
    ("dup@9",): "dup@9: event 9 of {0} is $end and cannot be moved",
    (
        "swap@8",
    ): "swap@8: event 8 of {0} is the last and cannot be moved; name one that the client gets, and that another follows",
    ("cut@1#ffffffff",): "cut@1#ffffffff: no stream that is replayed begins with ffffffff",
    ("cut@4#{2}",): "cut@4#{2}: there is no event 4; the last one of {2} is 3",
}


def with_ids(text: str) -> str:
    return text.format(*(stream_id(number) for number in range(3)))


@pytest.mark.parametrize("faults", PAST, ids=str)
def test_a_fault_that_can_happen_nowhere_is_an_error_that_names_the_position(db: str, faults: Iterable[str]) -> None:
    with pytest.raises(UsageError) as error:
        ReplayTransport(db=db, faults=[with_ids(fault) for fault in faults])
    assert str(error.value).startswith(with_ids(PAST[tuple(faults)]))


def test_one_that_can_happen_in_one_of_several_streams_is_none(db: str, tmp_path: Path) -> None:
    ReplayTransport(db=db, faults=["cut@9", "swap@1"]).close()
    with pytest.raises(UsageError, match="the last one of"):
        ReplayTransport(stream_id(1), db=db, faults=["cut@9"])
