"""`recorder serve` that watches and steers: its report, clients by name, events by hand, faults, and what it passes on."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recorder import database
from tests.commands import PATIENCE, answer, command, environment, recorder, sqlite, until
from tests.downstream import Downstream, asked
from tests.exchanges import MS, SECOND, asking, json_response, record, response
from tests.recorded import Recorded
from tests.test_divergence import CREATE, RUN, SESSION, SUBMIT, outputs, session
from tests.test_serve import EVENT, Serve, error, made
from tests.upstream import Upstream
from tests.writing import stream_id

pytestmark = pytest.mark.slow

MINUTE = 60 * SECOND
NAMES = ("a", "b", "c", "b", "done")
NAMED = [b"event: %s\ndata: %d\n\n" % (name.encode(), number) for number, name in enumerate(NAMES, 1)]
"""That of number n is event n."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("watching") / "log.db", *session("monday"))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One stream of five events, 200 ms apart."""
    chunks = [(200 * MS * number, body) for number, body in enumerate(NAMED, 1)]
    return made(tmp_path_factory.mktemp("stream") / "log.db", (asking(0, "POST", "/v1/a", b"{}"), response(chunks)))


def ask(port: int, *requests: tuple[str, str, bytes]) -> list[int]:
    """What a client that asks these on one connection gets: the statuses."""
    with Downstream(port) as client:
        return [status for each in requests for status in [answered(client, *each)]]


def answered(client: Downstream, *request: Any) -> int:
    found = client.ask(*request)
    found.body()
    return found.status


def page(port: int, method: str, target: str) -> tuple[int, Any]:
    found, body = asked(port, method, target)
    return found.status, json.loads(b"".join(body))


# The report


ORDERS: dict[str, tuple[list[tuple[str, str, bytes]], list[tuple[str, int | None]]]] = {
    "the same": (SESSION, []),
    "another tool output": ([SESSION[0], ("POST", SUBMIT, outputs("snow")), *SESSION[2:]], [("changed", 2)]),
    "an extra request": ([*SESSION[:1], ("POST", "/v1/files", b"{}"), *SESSION[1:]], [("extra", 2)]),
    "one request fewer": (SESSION[:3], [("missing", None)]),
    "a reordered pair": ([*SESSION[:2], SESSION[3], SESSION[2]], [("reordered", 4)]),
    "what is volatile": ([("POST", RUN, CREATE.replace(b'"1"', b'"2"')), *SESSION[1:]], []),
}


@pytest.mark.parametrize("case", ORDERS)
def test_how_a_client_diverges_is_reported_and_fails_where_it_is_to(file: Path, case: str) -> None:
    requests, expected = ORDERS[case]
    with Serve("--instant", "--fail-on-divergence", "monday", db=file) as server:
        ask(server.port, *requests)
        status, report = page(server.port, "GET", "/-/report")
        assert status == 200
        assert [(each["kind"], each["request"]) for each in report["divergences"]] == expected
        assert report["diverged"] == bool(expected)
        assert server.stop() == (1 if expected else 0)
        assert server.said[1 : 1 + len(expected)] == [each["message"] for each in report["divergences"]]


def test_without_being_told_to_it_does_not_fail(file: Path) -> None:
    with Serve("--instant", "monday", db=file) as server:
        ask(server.port, *SESSION[:1])
        assert server.stop() == 0
        assert sum("was not made" in line for line in server.said) == 3


def test_a_session_that_is_named_and_that_nobody_asked_for_fails(file: Path) -> None:
    with Serve("--instant", "--fail-on-divergence", "monday", db=file) as server:
        assert server.stop() == 1
        assert sum("was made by no client" in line for line in server.said) == 4
    with Serve("--instant", "--fail-on-divergence", db=file) as server:
        assert server.stop() == 0


def test_the_header_and_the_report_say_what_differed(file: Path) -> None:
    with Serve("--instant", db=file) as server, Downstream(server.port) as client:
        found = client.ask("POST", RUN, CREATE.replace(b'"1"', b'"2"'))
        assert (found.header("x-recorder-match"), found.header("x-recorder-differs")) == ("volatile", ".metadata.run")
        found.body()
        found = client.ask("POST", SUBMIT, outputs("snow", "8"))
        differs = ".tool_outputs[0].output, .tool_outputs[1].output"
        assert (found.header("x-recorder-match"), found.header("x-recorder-differs")) == ("path", differs)
        found.body()
        found = client.ask(*SESSION[2])
        assert (found.header("x-recorder-match"), found.header("x-recorder-differs")) == ("exact", None)
        found.body()
        _, report = page(server.port, "GET", "/-/report")
        assert [report["requests"][rung] for rung in ("exact", "volatile", "path")] == [1, 1, 1]
        assert report["variations"][0]["fields"] == [{"field": ".metadata.run", "recorded": "1", "seen": "2"}]


def test_the_list_of_what_is_volatile_can_be_longer(file: Path) -> None:
    asking_for = ("POST", SUBMIT, outputs("snow"))
    with Serve("--instant", "--volatile", "$.tool_outputs[0].output", "--volatile", "$..seed", db=file) as server:
        found, _ = server.ask(*asking_for)
        assert found.header("x-recorder-match") == "volatile"
    assert "'seed' names no volatile field" in error("--volatile", "seed", db=file, status=2)


def test_its_own_pages_answer_for_nothing_else(file: Path) -> None:
    with Serve("--instant", db=file) as server:
        for method, target in (("GET", "/-/other"), ("POST", "/-/report"), ("POST", "/-/step")):
            status, said = page(server.port, method, target)
            assert (status, said["error"]["code"]) == (404, "not_found")
        assert page(server.port, "GET", "/-/report")[1]["requests"]["unmatched"] == 0


def test_the_report_is_for_those_who_know_the_token(file: Path) -> None:
    with Serve("--instant", "--token", "t0ken", db=file) as server:
        assert page(server.port, "GET", "/-/report")[0] == 401


def test_the_pace_is_in_the_report(stream: Path) -> None:
    with Serve(db=stream) as server:
        assert server.ask("POST", "/v1/a", b"{}")[1] == NAMED
        _, report = page(server.port, "GET", "/-/report")
        assert report["pace"]["chunks"] == 5
        assert 0 <= report["pace"]["p50_ms"] <= report["pace"]["p99_ms"] <= report["pace"]["worst_ms"] + 1
        assert server.stop() == 0
        assert any(line.startswith("pace: 5 chunks, off by p50 ") for line in server.said)


# Clients


def test_clients_are_told_apart_by_their_base_path(file: Path) -> None:
    """Each request on a connection of its own, and all interleaved."""
    with Serve("--instant", "--fail-on-divergence", db=file) as server:
        for method, target, body in SESSION:
            for name in ("one", "two%20words", "three"):
                found, _ = server.ask(method, f"/s/{name}{target}", body)
                assert found.header("x-recorder-match") == "exact"
        _, report = page(server.port, "GET", "/-/report")
        assert [(each["name"], each["requests"]) for each in report["clients"]] == [("one", 4), ("two words", 4), ("three", 4)]
        assert server.stop() == 0


def test_a_base_path_that_names_a_recorded_session_is_answered_from_that_alone(tmp_path: Path) -> None:
    file = made(tmp_path / "log.db", *session("monday"), *session("tuesday", 10))
    with Serve("--instant", "monday", "tuesday", db=file) as server:
        assert server.given("POST", f"/s/tuesday{RUN}", CREATE) == (stream_id(10), "exact")
        assert server.given("POST", f"/s/monday{RUN}", CREATE) == (stream_id(0), "exact")
        assert server.given("POST", f"/s/tuesday{RUN}", CREATE) == (stream_id(10), "exact")


def test_a_recorded_path_that_looks_like_one_is_a_path(tmp_path: Path) -> None:
    file = made(tmp_path / "log.db", (asking(0, "GET", "/s/one/v1/a"), json_response(b"[]")))
    with Serve("--instant", db=file) as server:
        assert server.given("GET", "/s/one/v1/a") == (stream_id(0), "exact")
        assert server.given("GET", "/s/two/v1/a") == (None, None)


# By hand


def test_one_event_at_a_post(stream: Path) -> None:
    with Serve("--step", db=stream) as server, Downstream(server.port) as client:
        found = client.ask("POST", "/v1/a", b"{}")
        pieces = found.each()
        for number, body in enumerate(NAMED, 1):
            status, went = page(server.port, "POST", "/-/step")
            assert (status, went) == (200, {"stream_id": stream_id(0), "position": number, "type": NAMES[number - 1]})
            assert next(pieces) == body
        assert list(pieces) == []
        assert found.complete


def test_what_waits_is_listed_and_may_be_named(stream: Path) -> None:
    with Serve("--step", db=stream) as server, Downstream(server.port) as client, Downstream(server.port) as other:
        client.ask("POST", "/v1/a", b"{}")
        until(lambda: len(page(server.port, "GET", "/-/step")[1]["waiting"]) == 1)
        other.ask("POST", "/v1/a", b"{}")
        until(lambda: len(page(server.port, "GET", "/-/step")[1]["waiting"]) == 2)
        first = {"stream_id": stream_id(0), "position": 1, "type": "a"}
        assert page(server.port, "GET", "/-/step")[1] == {"waiting": [first, first]}
        assert page(server.port, "POST", f"/-/step?stream={stream_id(0)[:20]}") == (200, first)


def test_where_nothing_waits_a_step_says_so(stream: Path) -> None:
    with Serve("--step", db=stream) as server:
        status, said = page(server.port, "POST", "/-/step")
        assert (status, said["error"]["code"]) == (409, "nothing_waits")


@pytest.mark.parametrize(("at", "position", "before"), [("3", 3, 2), ("b", 2, 1), ("done", 5, 4), ("4", 4, 3)])
def test_a_pause_is_before_the_event_at_a_position_or_of_a_type(stream: Path, at: str, position: int, before: int) -> None:
    with Serve("--instant", "--pause-at", at, db=stream) as server, Downstream(server.port) as client:
        pieces = client.ask("POST", "/v1/a", b"{}").each()
        assert [next(pieces) for _ in range(before)] == NAMED[:before]
        until(lambda: page(server.port, "GET", "/-/step")[1]["waiting"])
        (waiting,) = page(server.port, "GET", "/-/step")[1]["waiting"]
        assert waiting["position"] == position
        assert page(server.port, "POST", "/-/continue")[1]["position"] == position
        assert list(pieces) == NAMED[before:]


def test_after_a_step_it_waits_and_after_a_continue_until_the_next_pause(stream: Path) -> None:
    with Serve("--speed", "4", "--pause-at", "2", "--pause-at", "done", db=stream) as server, Downstream(server.port) as client:
        pieces = client.ask("POST", "/v1/a", b"{}").each()
        assert next(pieces) == NAMED[0]
        assert [page(server.port, "POST", "/-/step")[1]["position"] for _ in range(2)] == [2, 3]
        assert page(server.port, "POST", "/-/continue")[1]["position"] == 4
        assert [next(pieces) for _ in range(3)] == NAMED[1:4]
        assert page(server.port, "POST", "/-/step")[1]["type"] == "done"
        assert list(pieces) == NAMED[4:]


def test_a_client_that_leaves_while_its_event_waits_leaves_nothing(stream: Path) -> None:
    with Serve("--step", db=stream) as server:
        with Downstream(server.port) as client:
            client.ask("POST", "/v1/a", b"{}")
            until(lambda: page(server.port, "GET", "/-/step")[1]["waiting"])
        until(lambda: not page(server.port, "GET", "/-/step")[1]["waiting"])
        assert server.stop() == 0


def test_faults_happen_by_hand_too(stream: Path) -> None:
    with Serve("--step", "--fault", "drop@2", "--fault", "cut@4", db=stream) as server, Downstream(server.port) as client:
        found = client.ask("POST", "/v1/a", b"{}")
        pieces = found.each()
        assert [page(server.port, "POST", "/-/step")[1]["position"] for _ in range(2)] == [1, 3]
        assert list(pieces) == [NAMED[0], NAMED[2]]
        assert found.complete is False
    assert "keep their chunks" in error("--step", "--fault", "rechunk:1", db=stream, status=2)


class Terminal:
    """A command with a terminal for its stdin."""

    def __init__(self, *args: str, db: Path) -> None:
        self.keys, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command("--db", sqlite(db), *args),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            bufsize=0,
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        os.close(self.keys)

    def press(self, keys: bytes) -> None:
        os.write(self.keys, keys)

    def said(self, size: int) -> bytes:
        """So many bytes of its stdout; waits for them."""
        assert self.process.stdout is not None
        found = b""
        while len(found) < size and select.select([self.process.stdout], [], [], PATIENCE)[0]:
            found += self.process.stdout.read(size - len(found)) or b" (the end)"
        return found


def test_a_key_lets_an_event_of_a_server_go(stream: Path) -> None:
    with Terminal("serve", "--port", "0", "--step", db=stream) as terminal:
        assert terminal.process.stderr is not None
        port = int(terminal.process.stderr.readline().split(b":")[-1].split(b"/")[0])
        with Downstream(port) as client:
            pieces = client.ask("POST", "/v1/a", b"{}").each()
            for number in (1, 2):
                until(lambda number=number: [each["position"] for each in page(port, "GET", "/-/step")[1]["waiting"]] == [number])
                terminal.press(b" ")
                assert next(pieces) == NAMED[number - 1]
            until(lambda: page(port, "GET", "/-/step")[1]["waiting"])
            terminal.press(b"c")
            assert list(pieces) == NAMED[2:]


def test_a_key_lets_an_event_of_a_replay_go(stream: Path) -> None:
    with Terminal("replay", stream_id(0), "--step", db=stream) as terminal:
        for body in NAMED:
            terminal.press(b"\n")
            assert terminal.said(len(body)) == body
        assert terminal.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("options", "keys", "expected"),
    [
        (["--step"], b"\n" * 9, NAMED),
        (["--step"], b"c\n", NAMED),
        (["--step"], b"", NAMED),
        (["--pause-at", "b"], b"\nc\n", NAMED),
        (["--step", "--from", "3", "--to", "4"], b"\n\n", NAMED[2:4]),
        (["--step", "--fault", "drop@2"], b"\n" * 9, [NAMED[0], *NAMED[2:]]),
        (["--fault", "dup@2", "--fault", "cut@4", "--instant"], b"", [NAMED[0], NAMED[1], NAMED[1], NAMED[2]]),
        (["--fault", "rechunk:3", "--instant"], b"", NAMED),
    ],
)
def test_a_replay_takes_lines_of_a_pipe_for_keys(stream: Path, options: list[str], keys: bytes, expected: list[bytes]) -> None:
    done = recorder("replay", stream_id(0), *options, db=stream, stdin=keys)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"".join(expected), b"")


def test_a_replay_says_how_well_the_pace_was_kept(stream: Path) -> None:
    done = recorder("replay", stream_id(0), "--report", "--speed", "4", db=stream)
    assert done.stdout == b"".join(NAMED)
    assert done.stderr.startswith(b"pace: 5 chunks, off by p50 ")
    assert recorder("replay", stream_id(0), "--report", "--instant", db=stream).stderr == b"nothing was paced\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fault", "cut@9"], "cut@9: there is no event 9; the last one of"),
        (["--fault", "cut@2", "--from", "2"], "leave out --from and --to"),
        (["--fault", "rechunk:1", "--step"], "leave out rechunk"),
        (["--fault", "cut"], "'cut' needs a position"),
        (["--pause-at", ""], "is no position and no type"),
    ],
)
def test_a_replay_that_makes_no_sense(stream: Path, options: list[str], said: str) -> None:
    done = recorder("replay", stream_id(0), *options, db=stream)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert said in line


# Faults


def test_faults_on_the_wire(stream: Path) -> None:
    with Serve("--instant", "--fault", "swap@1", "--fault", "cut@4:5", "--fault", "rechunk:4", db=stream) as server:
        for _ in range(3):
            found, pieces = server.ask("POST", "/v1/a", b"{}")
            body = NAMED[1] + NAMED[0] + NAMED[2] + NAMED[3][:5]
            assert pieces == [body[at : at + 4] for at in range(0, len(body), 4)]
            assert found.complete is False
        _, report = page(server.port, "GET", "/-/report")
        assert report["faults"] == [
            {"fault": "swap@1", "happened": 3},
            {"fault": "cut@4:5", "happened": 3},
            {"fault": "rechunk:4", "happened": 3},
        ]
        assert server.stop() == 0
        assert "fault cut@4:5: happened 3 times" in server.said


def test_a_stall_holds_at_once_too_and_nothing_before_it(stream: Path) -> None:
    with Serve("--instant", "--fault", "stall@3:600ms", db=stream) as server:
        found, pieces = server.ask("POST", "/v1/a", b"{}")
        assert (b"".join(pieces), found.complete) == (b"".join(NAMED), True)
        assert found.times[-1] >= 0.6 - 0.001


def test_a_status_and_a_break_of_the_head(stream: Path) -> None:
    with (
        Serve("--instant", "--fault", "status@0:529#1", "--fault", "cut@0#2", db=stream) as server,
        Downstream(server.port) as client,
    ):
        assert answered(client, "POST", "/v1/a", b"{}") == 529
        client.send("POST", "/v1/a", b"{}")
        assert client.closed()


def test_a_fault_past_the_end_is_an_error(stream: Path) -> None:
    assert "stall@137:1s: there is no event 137; the last one of" in error("--fault", "stall@137:1s", db=stream, status=2)
    assert "'cut@x' is no fault; write one of cut@137" in error("--fault", "cut@x", db=stream, status=2)


# Passing on


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        running.on("/v1/new", lambda wire, asked: wire.stream([EVENT, EVENT]))
        running.on("/v1/cut", lambda wire, asked: (wire.begin(), wire.chunk(EVENT), wire.cut()))  # type: ignore[func-returns-value]
        yield running


def test_what_no_recording_answers_is_passed_on_where_that_is_asked_for_and_recorded(tmp_path: Path, upstream: Upstream) -> None:
    file = made(tmp_path / "log.db", *session("monday"))
    with Serve("--instant", "--fallback", upstream.origin, "monday", db=file) as server:
        headers = [("Authorization", "Bearer sk-1"), ("X-Recorder-Client", "me"), ("X-Other", "kept")]
        found, pieces = server.ask("POST", "/v1/new?a=%20b", b'{"new":1}', *headers)
        assert (found.status, pieces, found.header("x-recorder-match")) == (200, [EVENT, EVENT], "fallback")
        new = found.header("x-recorder-stream")
        assert server.given(*SESSION[0]) == (stream_id(0), "exact")
        assert server.stop() == 0
        assert server.said[-1] == f"1 request answered, 1 passed on to {upstream.origin.removeprefix('http://')}"
    got = upstream.asked("/v1/new")
    assert (got.target, got.body, got.header("authorization"), got.header("x-other")) == (
        "/v1/new?a=%20b",
        b'{"new":1}',
        ["Bearer sk-1"],
        ["kept"],
    )
    assert not got.header("x-recorder-client")
    assert len(got.header("host")) == len(got.header("content-length")) == 1
    assert upstream.connections == 1, "what was recorded asked nobody"
    assert [stream["stream_id"] for stream in answer("show", "monday", db=file)["streams"]][-1] == new
    with Serve("--instant", "monday", db=file) as server:
        assert server.ask("POST", "/v1/new?a=%20b", b'{"new":1}')[1] == [EVENT, EVENT]
        assert server.given("POST", "/v1/new?a=%20b", b'{"new":1}') == (new, "exact")


def test_without_being_asked_to_it_passes_nothing_on(file: Path, upstream: Upstream) -> None:
    with Serve("--instant", db=file) as server:
        assert server.ask("POST", "/v1/new", b"{}")[0].status == 404
    assert upstream.connections == 0


def test_an_empty_database_is_filled(tmp_path: Path, upstream: Upstream) -> None:
    with Serve("--instant", "--fallback", upstream.origin, db=tmp_path / "new.db") as server:
        assert server.ask("POST", "/v1/new", b"{}")[1] == [EVENT, EVENT]
        assert server.stop() == 0
    log = Recorded(tmp_path / "new.db")
    (one,) = log.ended("/v1/new")
    assert log.body(one.stream_id) == EVENT * 2
    log.engine.dispose()


def test_an_upstream_that_breaks_or_is_not_there_breaks_the_connection(tmp_path: Path, upstream: Upstream) -> None:
    with Serve("--instant", "--fallback", upstream.origin, db=tmp_path / "new.db") as server:
        found, pieces = server.ask("POST", "/v1/cut", b"{}")
        assert (pieces, found.complete) == ([EVENT], False)
        upstream.__exit__()
        with Downstream(server.port) as client:
            client.send("POST", "/v1/new", b"{}")
            assert client.closed()
        assert server.stop() == 0
    log = Recorded(tmp_path / "new.db")
    assert [log.outcome(one.stream_id) for one in log.streams()] == ["cut", "no_response"]
    log.engine.dispose()


def test_what_is_passed_on_is_redacted_by_the_settings(tmp_path: Path, upstream: Upstream) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('[redact]\npaths = ["$.private"]\n')
    options = ("--fallback", upstream.origin, "--settings", str(settings))
    with Serve("--instant", *options, db=tmp_path / "new.db") as server:
        server.ask("POST", "/v1/new", b'{"private":"abcd"}', ("Content-Type", "application/json"))
        assert server.stop() == 0
    assert upstream.asked("/v1/new").body == b'{"private":"abcd"}'
    log = Recorded(tmp_path / "new.db")
    (one,) = log.ended("/v1/new")
    assert bytes(one.request_body or b"") == b'{"private":"xxxx"}'
    log.engine.dispose()


def test_a_token_of_its_own_is_not_passed_on(tmp_path: Path, upstream: Upstream) -> None:
    options = ("--fallback", upstream.origin, "--token", "t0ken")
    with Serve("--instant", *options, db=tmp_path / "new.db") as server:
        server.ask("POST", "/v1/new", b"{}", ("Authorization", "Bearer t0ken"))
        server.ask("POST", "/v1/new", b"{}", ("X-Recorder-Token", "t0ken"), ("Authorization", "Bearer sk-1"))
    assert [upstream.asked("/v1/new", number).header("authorization") for number in range(2)] == [[], ["Bearer sk-1"]]
    assert not upstream.asked("/v1/new", 1).header("x-recorder-token")


@pytest.mark.parametrize("url", ["ftp://x", "http://x/v1", "http://x:99999"])
def test_a_fallback_that_is_no_origin(file: Path, url: str) -> None:
    assert "--fallback" in error("--fallback", url, db=file, status=2)


def test_a_client_that_leaves_what_is_passed_on_is_recorded_as_one(tmp_path: Path, upstream: Upstream) -> None:
    upstream.on("/v1/slow", lambda wire, asked: (wire.begin(), wire.chunk(EVENT), wire.left(PATIENCE)))  # type: ignore[func-returns-value]
    with Serve("--instant", "--fallback", upstream.origin, db=tmp_path / "new.db") as server:
        with Downstream(server.port) as client:
            assert next(client.ask("POST", "/v1/slow", b"{}").each()) == EVENT
        log = Recorded(tmp_path / "new.db")
        (one,) = log.ended("/v1/slow")
        assert log.outcome(one.stream_id) == "client_closed"
        log.engine.dispose()


def test_an_engine_of_either_kind_of_database_reports(url: str) -> None:
    engine = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    database.check(engine, upgrade=True)
    record(engine, session("monday"))
    engine.dispose()
    with Serve("--instant", "--fail-on-divergence", db=url) as server:
        ask(server.port, SESSION[0], ("POST", SUBMIT, outputs("snow")), *SESSION[2:])
        assert server.stop() == 1
