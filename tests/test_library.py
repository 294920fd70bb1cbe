"""What there is to replay: a whole database, or what IDs name in it, in recorded order; and what is said where nothing fits."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
import sqlalchemy as sa

from recorder.errors import AmbiguousID, RecorderError, UnknownID, UsageError
from recorder.log import Stream
from recorder.replay import library
from recorder.replay.match import Asked, Library, Place
from recorder.sse import Frame
from tests import writing
from tests.exchanges import asking, json_response, record, response
from tests.writing import said, stream_id

OK = json_response(b'{"ok":true}')
RUN = b'{"assistant_id":"asst_1","stream":true}'


def threads() -> list[tuple[Stream, list[Frame]]]:
    """Two threads' runs, which came in turns, and a stream that belongs to neither."""

    def run(number: int, thread: str, id: str) -> tuple[Stream, list[Frame]]:
        body = writing.encoded(said(id=id, thread_id=thread))
        return asking(number, "POST", f"/v1/threads/{thread}/runs", RUN), response([(1000, body)])

    return [
        run(0, "thread_1", "run_1"),
        run(1, "thread_2", "run_2"),
        run(2, "thread_1", "run_3"),
        (asking(3, "GET", "/v1/models"), OK),
    ]


def ids_of(made: Library) -> list[str]:
    return [one.stream_id for one in made.exchanges]


def loaded(engine: sa.Engine, *ids: str) -> list[int]:
    """The numbers of the streams that these IDs have replayed, in order."""
    known = {stream_id(number): number for number in range(10)}
    return [known[one] for one in ids_of(library.load(engine, ids))]


def message(engine: sa.Engine, made: Library, asked: Asked) -> str:
    """What the 404 says."""
    body = library.not_found(engine, made, asked)
    error = body["error"]
    assert list(body) == ["error"]
    assert {key: error[key] for key in error if key != "message"} == {
        "type": "invalid_request_error",
        "param": None,
        "code": "recording_not_found",
    }
    json.dumps(body)
    found: str = error["message"]
    return found


# What is loaded


def test_the_whole_database_in_recorded_order(engine: sa.Engine) -> None:
    recorded = threads()
    record(engine, [recorded[number] for number in (2, 3, 0, 1)])
    assert loaded(engine) == [0, 1, 2, 3]
    numbers = [one.number for one in library.load(engine).exchanges]
    assert numbers == sorted(numbers)


def test_recorded_order_is_that_of_when_requests_were_sent(engine: sa.Engine) -> None:
    """Not of their ids, which an importer derives from elsewhere."""
    early, late = asking(1, "POST", "/v1/a", b"1"), asking(0, "POST", "/v1/a", b"1")
    early, late = early._replace(started_at=late.started_at), late._replace(started_at=early.started_at)
    record(engine, [(early, OK), (late, OK)])
    assert loaded(engine) == [1, 0]


def test_only_what_is_named(engine: sa.Engine) -> None:
    record(engine, threads())
    assert loaded(engine, "thread_1") == [0, 2]
    assert loaded(engine, "run_3") == [2]
    assert loaded(engine, stream_id(3)) == [3]
    assert loaded(engine, stream_id(3), "thread_2") == [1, 3]
    assert loaded(engine, "thread_1", "thread_1", "run_1") == [0, 2]


def test_a_label_names_a_session(engine: sa.Engine) -> None:
    record(engine, [(asking(number, "POST", f"/v1/{number}", b"{}", label="ab"[number % 2]), OK) for number in range(4)])
    assert loaded(engine, "a") == [0, 2]
    assert loaded(engine, "b") == [1, 3]
    assert {one.session_id for one in library.load(engine).exchanges} == {"a", "b"}


def test_an_id_that_names_nothing_or_too_much_is_an_error(engine: sa.Engine) -> None:
    record(engine, threads())
    with pytest.raises(UnknownID, match="thread_9"):
        library.load(engine, ["thread_1", "thread_9"])
    with pytest.raises(AmbiguousID, match="thread_"):
        library.load(engine, ["thread_"])


def test_more_exchanges_than_are_read_at_a_time(engine: sa.Engine) -> None:
    count = 2 * library._ROWS + 7
    record(engine, [(asking(number, "POST", "/v1/a", b'{"n":%d}' % number), []) for number in range(count)])
    made = library.load(engine)
    assert ids_of(made) == [stream_id(number) for number in range(count)]
    assert [one.number for one in made.exchanges] == list(range(count))
    match = Place(made).take(Asked("POST", "/v1/a", "", b'{ "n": %d }' % (count - 1)))
    assert match is not None
    assert (match.exchange.stream_id, match.rung) == (stream_id(count - 1), "exact")


def test_a_stream_whose_request_is_not_known_is_left_out(engine: sa.Engine) -> None:
    known, unknown = asking(0, "POST", "/v1/a", b"{}"), asking(1, "POST", "/v1/a", b"{}")._replace(method="", path="")
    record(engine, [(known, OK), (unknown, OK)])
    assert loaded(engine) == [0]


def test_where_no_request_is_known_it_is_said_why(engine: sa.Engine) -> None:
    record(engine, [(asking(number, "", "", b""), OK) for number in range(2)])
    with pytest.raises(RecorderError, match=r"none of 2 streams .* NAME\.request\.json"):
        library.load(engine)


def test_an_empty_database_is_said_to_be_empty(engine: sa.Engine) -> None:
    with pytest.raises(RecorderError, match="holds nothing to replay; record something first"):
        library.load(engine)


def test_what_is_loaded_answers_as_it_was_recorded(engine: sa.Engine) -> None:
    made_of = [(5, b"data: 1\n\n"), (9, b"data: 2\n\n")]
    record(engine, [(asking(0, "POST", "/v1/a", b"{}"), response(made_of, status=201, end_us=20))])
    playback = library.playback(engine, stream_id(0))
    assert playback.status == 201
    assert list(playback.chunks()) == [(0, b""), *made_of, (20, None)]


def test_a_redacted_recording_is_found_by_the_request_with_its_secrets(engine: sa.Engine) -> None:
    target = "/openai/threads/t/runs?api-version=1&api-key=one"
    body = b'{"tools":[{"type":"mcp","headers":{"Authorization":"Bearer one"},"authorization":"one"}],"model":"m"}'
    record(engine, [(asking(0, "POST", target, body), OK)])
    made = library.load(engine, strict=True)
    other = Asked("POST", "/openai/threads/t/runs", "api-key=two&api-version=1", body.replace(b"one", b"two"), "application/json")
    match = Place(made).take(other)
    assert match is not None
    assert match.rung == "exact"


def test_a_form_is_compared_by_its_bytes(engine: sa.Engine) -> None:
    """The recorded content type says that it is one."""
    form = b"headers=a&authorization=b"
    record(engine, [(asking(0, "POST", "/v1/a", form, content_type="application/x-www-form-urlencoded"), OK)])
    asked = Asked("POST", "/v1/a", "", form, "application/x-www-form-urlencoded")
    match = Place(library.load(engine, strict=True)).take(asked)
    assert match is not None


def test_strict_is_passed_on(engine: sa.Engine) -> None:
    record(engine, [(asking(0, "POST", "/v1/a", b"1"), OK)])
    asked = Asked("POST", "/v1/a", "", b"2")
    assert library.load(engine).candidates(asked)[1]
    assert not library.load(engine, strict=True).candidates(asked)[1]


# Rivals


def rivals(engine: sa.Engine, labels: Iterable[str | None]) -> None:
    record(engine, [(asking(number, "POST", "/v1/a", b'{"a":1}', label=label), OK) for number, label in enumerate(labels)])


def test_two_labelled_sessions_that_answer_the_same_request_are_to_be_told_apart(engine: sa.Engine) -> None:
    rivals(engine, ["monday", "tuesday"])
    with pytest.raises(UsageError, match="monday and tuesday, answer the same POST /v1/a: name the one"):
        library.load(engine)
    assert loaded(engine, "tuesday") == [1]
    assert loaded(engine, "tuesday", "monday") == [0, 1], "both, in recorded order"


def test_a_session_and_a_stream_that_belongs_to_none_are_rivals(engine: sa.Engine) -> None:
    rivals(engine, [None, "tuesday"])
    with pytest.raises(UsageError, match=f"{stream_id(0)} and tuesday"):
        library.load(engine)


def test_two_threads_that_answer_the_same_request_are_rivals(engine: sa.Engine) -> None:
    bodies = [
        writing.encoded(
            [("thread.created", {"id": f"thread_{n}", "object": "thread"}), *said(id=f"run_{n}", thread_id=f"thread_{n}")]
        )
        for n in (1, 2)
    ]
    record(engine, [(asking(n, "POST", "/v1/threads/runs", RUN), response([(1, body)])) for n, body in enumerate(bodies)])
    with pytest.raises(UsageError, match="thread_1 and thread_2"):
        library.load(engine)
    assert loaded(engine, "thread_2") == [1]


def test_streams_that_belong_to_no_session_are_no_rivals(engine: sa.Engine) -> None:
    rivals(engine, [None, None, None])
    assert loaded(engine) == [0, 1, 2]
    place = Place(library.load(engine))
    given = [place.take(Asked("POST", "/v1/a", "", b'{"a":1}')) for _ in range(4)]
    assert [match and match.exchange.stream_id for match in given] == [stream_id(number) for number in (0, 1, 2, 0)]


def test_a_rival_with_an_odd_path_is_named_in_one_line(engine: sa.Engine) -> None:
    record(engine, [(asking(number, "POST", "/v1/a%0Ab", b"{}", label=f"s{number}"), OK) for number in range(2)])
    with pytest.raises(UsageError) as error:
        library.load(engine)
    assert len(str(error.value).splitlines()) == 1


# What a 404 says


@pytest.fixture
def recorded(engine: sa.Engine) -> Library:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"user","content":"there"}]}'
    record(
        engine,
        [
            (asking(0, "POST", "/v1/chat/completions?api-version=1&sig=s", body), OK),
            (asking(1, "GET", "/v1/threads/thread_1/messages?limit=5"), OK),
            (asking(2, "POST", "/v1/files", b"\x00\xff"), OK),
            (asking(3, "POST", "/v1/caf%C3%A9", b'{"a":1}'), OK),
            (asking(4, "POST", "/v1/responses", b'{"tools":[{"type":"mcp","authorization":"one"}],"z":1}'), OK),
        ],
    )
    return library.load(engine, strict=True)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        (Asked("POST", "/v1/chat/completion"), "POST /v1/chat/completions of stream " + stream_id(0)),
        (Asked("DELETE", "/v1/files"), "POST /v1/files of stream " + stream_id(2)),
        (Asked("GET", "/v1/threads/thread_2/messages"), "GET /v1/threads/thread_1/messages of stream " + stream_id(1)),
    ],
)
def test_a_404_names_the_nearest_recording(engine: sa.Engine, recorded: Library, asked: Asked, nearest: str) -> None:
    expected = f"recorder: no recording answers {asked.method} {asked.path}; the nearest is {nearest}"
    assert message(engine, recorded, asked) == expected


def body_with(messages: str, model: str = "m") -> bytes:
    return f'{{"model":"{model}","messages":[{messages}]}}'.encode()


HI, THERE = '{"role":"user","content":"hi"}', '{"role":"user","content":"there"}'


@pytest.mark.parametrize(
    ("asked", "difference"),
    [
        (
            Asked("POST", "/v1/chat/completions", "api-version=1&sig=t", body_with(f"{HI},{HI}")),
            '.messages[1].content is "hi", recorded was "there"',
        ),
        (Asked("POST", "/v1/chat/completions", "sig=t&api-version=1", body_with(HI)), ".messages has 1 entries, recorded were 2"),
        (Asked("POST", "/v1/chat/completions", "api-version=1&sig=t", b'{"model":"m"}'), ".messages is missing"),
        (
            Asked("POST", "/v1/chat/completions", "api-version=1&sig=t", b'{"stream":true,' + body_with(f"{HI},{THERE}")[1:]),
            ".stream is new",
        ),
        (
            Asked("POST", "/v1/chat/completions", "api-version=2&sig=t", body_with(f"{HI},{THERE}")),
            '?api-version is "2", recorded was "1"',
        ),
        (Asked("GET", "/v1/threads/thread_1/messages"), "?limit is missing"),
        (Asked("POST", "/v1/files", "", b"\x00\xff\x00"), "the body has 3 bytes, recorded were 2"),
        (Asked("POST", "/v1/caf%c3%a9", "", b'{"a":2}'), ".a is 2, recorded was 1"),
        (
            Asked("POST", "/v1/responses", "", b'{"tools":[{"type":"mcp","authorization":"two"}],"z":2}', "application/json"),
            ".z is 2, recorded was 1",
        ),
        (Asked("POST", "/v1/caf%C3%A9"), "the body has 0 bytes, recorded were 7"),
        (Asked("POST", "/v1/caf%C3%A9", "", b"[" * 5000 + b"]" * 5000), "the body has 10000 bytes, recorded were 7"),
    ],
)
def test_a_404_names_the_first_difference(engine: sa.Engine, recorded: Library, asked: Asked, difference: str) -> None:
    said = message(engine, recorded, asked)
    assert said.endswith(f"of stream {said.split('of stream ')[1].split(',')[0]}, which differs: {difference}")


def test_a_404_does_not_repeat_secrets(engine: sa.Engine, recorded: Library) -> None:
    """It is an error message: it ends up in logs."""
    tools = b'{"tools":[{"type":"mcp","headers":{"A":"hidden"},"authorization":"hidden"}],"a":1}'
    for path in ("/v1/chat/completions", "/v1/other", "/v1/files", "/v1/responses"):
        said = message(
            engine, recorded, Asked("POST", path, "api-version=9&sig=hidden&api-key=hidden", tools, "application/json")
        )
        assert "hidden" not in said
        assert "api-version=9" in said


def test_a_404_for_bytes_that_are_no_utf_8(engine: sa.Engine, recorded: Library) -> None:
    """Such as a server reads them: as Latin-1."""
    assert "/v1/\xff?\xfe" in message(engine, recorded, Asked("POST", "/v1/\xff", "\xfe", b"\xff"))
