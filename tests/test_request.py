"""`recorder request`: one request, what it shows of the answer and when, how it ends, and what is in the log afterwards."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorder.cli import main
from recorder.collect import sharing
from tests.commands import PATIENCE, Background, answer, bound, command, environment, output, recorder, sqlite
from tests.recorded import Recorded
from tests.upstream import SSE, Asked, Upstream, Wire
from tests.writing import DONE, encoded, said

pytestmark = pytest.mark.slow

RUNS = "/v1/threads/runs"
STREAM = encoded(said())
JSON = ("Content-Type", "application/json")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


Ask = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def ask(file: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs `recorder request` in this process, whose environment names no proxy then."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def asking(*args: str) -> subprocess.CompletedProcess[bytes]:
        capfdbinary.readouterr()
        status = main(["--db", sqlite(file), "request", *args])
        return subprocess.CompletedProcess(args, status, *capfdbinary.readouterr())

    return asking


def stored(file: Path) -> list[tuple[str, str, str | None, bytes]]:
    """(method, path, outcome, body) of all streams of a log."""
    log = Recorded(file)
    try:
        return [(one.method, one.path, log.outcome(one.stream_id), log.body(one.stream_id)) for one in log.streams()]
    finally:
        log.engine.dispose()


def shell(script: str, line: list[str]) -> subprocess.CompletedProcess[bytes]:
    """A command line as a shell script has it, in "$@"."""
    words = ["sh", "-c", script, "sh", *line]
    return subprocess.run(words, capture_output=True, env=environment(), timeout=PATIENCE, check=False)


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line


# What is asked


def test_a_get_without_a_body(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on("/v1/models", lambda wire, asked: wire.whole(b'{"data":[]}'))
    done = ask("GET", f"{upstream.origin}/v1/models?limit=2&x=%2F")
    assert (done.returncode, done.stdout) == (0, b'{"data":[]}'), done.stderr.decode()
    asked = upstream.asked("/v1/models")
    assert (asked.method, asked.target, asked.body) == ("GET", "/v1/models?limit=2&x=%2F", b"")
    assert asked.header("content-type") == []
    assert stored(file) == [("GET", "/v1/models", "done", b'{"data":[]}')]


@pytest.mark.parametrize("data", ['{"stream": true, "name": "Ünï"}', "[]", "1", '"\\ud800"'])
def test_a_post_of_json_goes_out_as_it_was_written(ask: Ask, file: Path, upstream: Upstream, data: str) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.whole(b"{}"))
    assert ask("post", f"{upstream.origin}{RUNS}", "-d", data).returncode == 0
    asked = upstream.asked(RUNS)
    assert (asked.method, asked.body) == ("POST", data.encode())
    assert asked.header("content-type") == ["application/json"]
    (row,) = answer("sql", "SELECT method, request_body, source FROM streams", db=file)
    assert row["method"] == "POST"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods(ask: Ask, file: Path, upstream: Upstream, method: str) -> None:
    upstream.on("/v1/x", lambda wire, asked: wire.whole(b"{}"))
    assert ask(method, f"{upstream.origin}/v1/x", "-d", "{}").returncode == 0
    assert (upstream.asked("/v1/x").method, upstream.asked("/v1/x").body) == (method, b"{}")


def test_the_body_of_a_file_and_of_stdin_goes_out_as_it_is(file: Path, upstream: Upstream, tmp_path: Path) -> None:
    """Whatever it is, and large."""
    upstream.on(RUNS, lambda wire, asked: wire.whole(b"{}"))
    content = random.Random(2).randbytes(3_000_000)
    (tmp_path / "body").write_bytes(content)
    url = f"{upstream.origin}{RUNS}"
    done = recorder("request", "POST", url, "--data", f"@{tmp_path / 'body'}", "-H", "Content-Type: audio/wav", db=file)
    assert done.returncode == 0
    assert recorder("request", "POST", url, "-d", "@-", db=file, stdin=content).returncode == 0
    for number, content_type in enumerate(("audio/wav", "application/json")):
        asked = upstream.asked(RUNS, number)
        assert asked.body == content
        assert asked.header("content-type") == [content_type]


def test_headers_go_out_and_replace_those_of_recorder(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.whole(b"{}"))
    given = ["OpenAI-Beta: assistants=v2", "x-two:1", "X-Two:  2 ", "Accept: */*", "X-Empty:", "X-Colon: a: b", "X-Text: zażółć"]
    options = [word for header in given for word in ("-H", header)]
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}", *options)
    assert done.returncode == 0, done.stderr.decode()
    asked = upstream.asked(RUNS)
    assert asked.header("openai-beta") == ["assistants=v2"]
    assert asked.header("x-two") == ["1", "2"]
    assert asked.header("accept") == ["*/*"]
    assert asked.header("x-empty") == [""]
    assert asked.header("x-colon") == ["a: b"]
    assert asked.header("x-text") == ["zażółć".encode().decode("latin-1")]


def test_it_asks_for_a_stream_first(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.whole(b"{}"))
    ask("GET", f"{upstream.origin}{RUNS}")
    (accepted,) = upstream.asked(RUNS).header("accept")
    assert accepted.startswith("text/event-stream")


def test_secrets_are_sent_and_in_no_file(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM], headers=[SSE, ("Set-Cookie", "id=sk-cookie")]))
    secret = {"Authorization": "Bearer sk-bearer", "api-key": "sk-api-key", "Cookie": "a=sk-sent", "X-Mine": "sk-mine"}
    options = [word for name, value in secret.items() for word in ("-H", f"{name}: {value}")]
    body = '{"tools":[{"type":"mcp","headers":{"X":"sk-tool"}}]}'
    done = ask("POST", f"{upstream.origin}{RUNS}?api-key=sk-query&v=1", "-d", body, *options)
    assert done.returncode == 0
    asked = upstream.asked(RUNS)
    assert {name: asked.header(name) for name in secret} == {name: [value] for name, value in secret.items()}
    assert (asked.target, asked.body) == (f"{RUNS}?api-key=sk-query&v=1", body.encode())
    kept = b"".join(path.read_bytes() for path in file.parent.glob("log.db*"))
    assert b"sk-" not in kept
    assert b"api-key=REDACTED&v=1" in kept
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_session_is_labelled(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    for options in (("--session", "mine"), ("-H", "X-Recorder-Session: theirs", "--session", "mine"), ()):
        assert ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}", *options).returncode == 0
    labels = [row["session_label"] for row in answer("sql", "SELECT session_label FROM streams ORDER BY stream_id", db=file)]
    assert labels == ["mine", "theirs", None]
    assert [upstream.asked(RUNS, number).header("x-recorder-session") for number in range(3)] == [[]] * 3


def test_a_proxy_of_the_environment_is_asked(file: Path, upstream: Upstream) -> None:
    """And is not for what it is not responsible for."""
    upstream.on("http://api.invalid/v1/models", lambda wire, asked: wire.whole(b'"by proxy"'))
    upstream.on("/v1/models", lambda wire, asked: wire.whole(b'"directly"'))
    proxy = f"127.0.0.1:{upstream.port}"
    for url, env, body in (
        ("http://api.invalid/v1/models", {"http_proxy": proxy}, b'"by proxy"'),
        ("http://api.invalid/v1/models", {"ALL_PROXY": f"http://{proxy}"}, b'"by proxy"'),
        (f"{upstream.origin}/v1/models", {"http_proxy": "127.0.0.1:9", "NO_PROXY": "127.0.0.1"}, b'"directly"'),
    ):
        line = command("--db", sqlite(file), "request", "GET", url)
        done = subprocess.run(line, env={**environment(), **env}, capture_output=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stdout) == (0, body), done.stderr.decode()


# What is shown


def test_events_are_shown_a_line_each_and_recorded_byte_for_byte(ask: Ask, file: Path, upstream: Upstream) -> None:
    body = STREAM[: -len(encoded([DONE]))] + b": still here\n\ndata: two\ndata: lines\x1b[2J\n\n" + encoded([DONE])
    upstream.on(RUNS, lambda wire, asked: wire.stream([body[at : at + 77] for at in range(0, len(body), 77)]))
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert [line.split()[1] for line in lines] == [name for name, _ in said()[:-1]] + ["message", "done"]
    assert "\x1b" not in done.stdout.decode()
    (note,) = done.stderr.decode().splitlines()
    assert "HTTP 200, 11 events in " in note
    stream_id = note.split()[-1]
    assert output("export", stream_id, "--format", "sse", db=file) == body
    assert answer("show", stream_id, db=file)["runs"] == ["run_1"]


def test_json_is_a_line_an_event(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}", "--json")
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    names = [(name, data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))) for name, data in said()]
    assert [(line["type"], line["data"]) for line in lines] == names
    offsets = [line["offset_us"] for line in lines]
    assert offsets == sorted(offsets)
    assert offsets[0] > 0


class Arrivals:
    """The lines of a process on stdout, and when each came."""

    def __init__(self, running: Background) -> None:
        assert running.process.stdout is not None
        self.lines: list[tuple[float, bytes]] = []
        self.came = threading.Semaphore(0)
        threading.Thread(target=self._read, args=(running.process.stdout,), daemon=True).start()

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            self.lines.append((time.monotonic(), line))
            self.came.release()


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
def test_an_event_is_shown_when_it_comes(file: Path, upstream: Upstream, options: tuple[str, ...]) -> None:
    """Each is sent when the one before was seen, and after a pause; so a line that waits for the next would never come."""
    pause, events = 0.15, [encoded([event]) for event in said()]
    has = threading.Semaphore(0)

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for number, event in enumerate(events):
            wire.chunk(event)
            assert has.acquire(timeout=PATIENCE), f"event {number} was not shown"
            time.sleep(pause)
        wire.end()

    upstream.on(RUNS, answer)
    with Background("request", "POST", f"{upstream.origin}{RUNS}", "-d", "{}", *options, db=file) as running:
        seen = Arrivals(running)
        for _ in events:
            assert seen.came.acquire(timeout=PATIENCE)
            has.release()
        assert running.wait() == 0
    times = [at for at, _ in seen.lines]
    assert len(times) == len(events)
    assert all(later - earlier >= pause for earlier, later in itertools.pairwise(times))
    if options:
        offsets = [json.loads(line)["offset_us"] for _, line in seen.lines]
        assert all(later - earlier >= pause * 1e6 - 1 for earlier, later in itertools.pairwise(offsets))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"id": "run_1",\n "status":  "queued"}', "application/json"),
        (bytes(range(256)) * 4000, "application/octet-stream"),
        (b"text without an end of line", "text/plain"),
        (b"", "application/json"),
    ],
    ids=["json", "binary", "text", "nothing"],
)
def test_any_other_answer_is_printed_as_it_is(ask: Ask, file: Path, upstream: Upstream, body: bytes, content_type: str) -> None:
    upstream.on("/v1/x", lambda wire, asked: wire.whole(body, headers=[("Content-Type", content_type)]))
    done = ask("GET", f"{upstream.origin}/v1/x")
    assert (done.returncode, done.stdout) == (0, body)
    assert output("export", "last", "--format", "sse", db=file) == body


def test_an_encoded_answer_is_printed_decoded(ask: Ask, file: Path, upstream: Upstream) -> None:
    body = b'{"id":"run_1"}' * 1000
    headers = [JSON, ("Content-Encoding", "gzip")]
    upstream.on("/v1/x", lambda wire, asked: wire.whole(gzip.compress(body), headers=headers))
    assert ask("GET", f"{upstream.origin}/v1/x").stdout == body
    assert output("export", "last", "--format", "sse", db=file) == body


def test_any_other_answer_is_one_line_of_json(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on("/v1/x", lambda wire, asked: wire.whole(b'{"id":"run_1"}'))
    done = ask("GET", f"{upstream.origin}/v1/x", "--json")
    line = json.loads(done.stdout)
    assert (line["type"], line["data"]) == ("$body", '{"id":"run_1"}')


# How it ends


@pytest.mark.parametrize("status", [302, 400, 401, 429, 500])
def test_an_error_is_shown_and_exit_1(ask: Ask, file: Path, upstream: Upstream, status: int) -> None:
    body = b'{"error":{"message":"no","type":"invalid_request_error"}}'
    upstream.on(RUNS, lambda wire, asked: wire.whole(body, headers=[JSON, ("Location", "/elsewhere")], status=status))
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}")
    assert (done.returncode, done.stdout) == (int(status >= 400), body)
    (note,) = done.stderr.decode().splitlines()
    assert f"HTTP {status}" in note
    assert stored(file) == [("POST", RUNS, "http_error" if status >= 400 else "done", body)]


def test_an_error_status_with_events_is_exit_1_too(ask: Ask, file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([b'event: error\ndata: {"message":"no"}\n\n'], status=500))
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}")
    assert done.returncode == 1
    assert b"error" in done.stdout


@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("content", [SSE, JSON], ids=["events", "json"])
def test_an_answer_that_breaks_off_is_exit_1_and_what_came_is_recorded(
    ask: Ask, file: Path, upstream: Upstream, how: str, content: tuple[str, str]
) -> None:
    came = STREAM[:1000]

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin([content])
        wire.chunk(came)
        time.sleep(0.3)  # a reset may overtake what was sent before it
        wire.cut() if how == "cut" else wire.reset()

    upstream.on(RUNS, answer)
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}")
    assert done.returncode == 1
    line = one_line(done)
    assert "broke off" in line
    assert done.stdout == came if content == JSON else done.stdout.count(b"\n") == came.count(b"\n\n")
    assert stored(file) == [("POST", RUNS, "cut", came)]
    assert line.split()[-1] == latest(file)


def latest(file: Path) -> str:
    found: str = answer("show", "last", db=file)["stream_id"]
    return found


@pytest.mark.parametrize("how", ["nobody listens", "hangs up", "resets", "talks nonsense"])
def test_no_answer_is_exit_1_and_the_attempt_is_recorded(ask: Ask, file: Path, upstream: Upstream, how: str) -> None:
    def nonsense(wire: Wire) -> None:
        wire.send(b"NONSENSE\r\n\r\n")
        wire.cut()

    ends: dict[str, Callable[[Wire], None]] = {"hangs up": Wire.cut, "resets": Wire.reset, "talks nonsense": nonsense}
    if how in ends:
        upstream.on(RUNS, lambda wire, asked: ends[how](wire))
    origin = "http://127.0.0.1:9" if how == "nobody listens" else upstream.origin
    done = ask("POST", f"{origin}{RUNS}", "-d", "{}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert "did not answer" in one_line(done)
    assert stored(file) == [("POST", RUNS, "no_response", b"")]


def test_a_pipe_that_is_closed_early_ends_it_quietly(file: Path, upstream: Upstream) -> None:
    """And takes the upstream's stream with it."""
    left = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        try:
            for number in range(2000):
                wire.chunk(b"data: %d\n\n" % number)
                time.sleep(0.01)
        except OSError:
            left.set()

    upstream.on(RUNS, answer)
    line = command("--db", sqlite(file), "request", "POST", f"{upstream.origin}{RUNS}", "-d", "{}")
    script = '{ "$@"; echo "exit $?" >&2; } | head -n 3'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *line], capture_output=True, env=environment(), timeout=PATIENCE, check=False
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.decode().splitlines() == ["exit 0"]
    assert left.wait(PATIENCE)
    ((method, path, outcome, body),) = stored(file)
    assert (method, path, outcome) == ("POST", RUNS, "client_closed")
    assert body.startswith(b"data: 0\n\ndata: 1\n\ndata: 2\n\n")


def test_interrupting_it_commits_what_came(file: Path, upstream: Upstream) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(STREAM[:1000])
        wire.left()

    upstream.on(RUNS, answer)
    with Background("request", "POST", f"{upstream.origin}{RUNS}", "-d", "{}", db=file) as running:
        assert Arrivals(running).came.acquire(timeout=PATIENCE)
        running.process.send_signal(2)
        assert running.wait() == 130
        assert running.said == ["error: interrupted"]
    assert stored(file) == [("POST", RUNS, "client_closed", STREAM[:1000])]


# Wrong usage


URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("GET", "no-url"), "no-url"),
        (("GET", "127.0.0.1:9/v1"), "127.0.0.1:9/v1"),
        (("GET", "ftp://host/x"), "ftp://host/x"),
        (("GET", "http://"), "http://"),
        (("GET", "http:///path"), "http:///path"),
        (("GET", "http://host:port/"), "http://host:port/"),
        (("GET", "http://host:99999/"), "http://host:99999/"),
        (("GET", "http://a..b/"), "http://a..b/"),
        (("GET", "http://[::1"), "http://[::1"),
        (("GET", ""), "''"),
        (("GE T", URL), "GE T"),
        (("", URL), "''"),
        (("POST", URL, "-d", "{not json"), "{not json"),
        (("POST", URL, "-d", ""), "''"),
        (("POST", URL, "-d", "@/no/such/file"), "/no/such/file"),
        (("POST", URL, "-d", "@"), "@"),
        (("GET", URL, "-H", "no colon"), "no"),
        (("GET", URL, "-H", ": no name"), "''"),
        (("GET", URL, "-H", "a name: x"), "'a'"),
        (("GET", URL, "-H", "Näme: x"), "Näme"),
        (("GET", URL, "-H", "Name: a\nX: b"), "Name"),
        (("GET", URL, "-H", "Name: a\x00"), "Name"),
        (("GET",), "URL"),
    ],
)
def test_wrong_usage_is_exit_2_and_nothing_is_made_or_asked(
    file: Path, capfd: pytest.CaptureFixture[str], args: tuple[str, ...], named: str
) -> None:
    assert main(["--db", sqlite(file), "request", *args]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert (out, line.startswith("error: ")) == ("", True)
    assert named in line
    assert not file.exists()


def test_what_looks_like_a_secret_is_not_said_again(file: Path) -> None:
    done = recorder("request", "GET", URL, "-H", "Authorization Bearer sk-secret", db=file)
    assert done.returncode == 2
    assert "Authorization" in one_line(done)
    assert "sk-secret" not in one_line(done)


def test_bytes_that_are_no_text_are_no_json(file: Path) -> None:
    line = [*map(os.fsencode, command("--db", sqlite(file), "request", "POST", URL, "-d")), b'"\xff"{']
    done = subprocess.run(line, env=environment(), capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "no JSON" in one_line(done)


def test_a_closed_stdin_is_wrong_usage(file: Path) -> None:
    line = command("--db", sqlite(file), "request", "POST", URL, "-d", "@-")
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *line], env=environment(), capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert "stdin" in one_line(done)


# Where the database fails


def test_a_database_that_cannot_be_written_is_said_before_anything_is_asked(file: Path, upstream: Upstream) -> None:
    recorder("request", "GET", f"{upstream.origin}/v1/x", db=file)
    file.chmod(0o444)
    done = recorder("request", "GET", f"{upstream.origin}/v1/y", db=file, preexec=bound)
    assert done.returncode == 1
    assert "read-only" in one_line(done)
    done = recorder("request", "GET", f"{upstream.origin}/v1/y", db=file.parent / "none" / "log.db")
    assert done.returncode == 1
    assert "none" in one_line(done)
    assert upstream.connections == 1


def test_into_postgresql(postgresql_url: str, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    output("db", "upgrade", db=postgresql_url)
    assert recorder("request", "POST", f"{upstream.origin}{RUNS}", "-d", "{}", db=postgresql_url).returncode == 0
    assert output("export", "last", "--format", "sse", db=postgresql_url) == STREAM


def test_what_could_not_be_recorded_is_said_by_the_exit_status(
    ask: Ask, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = sharing.release
    monkeypatch.setattr(sharing, "release", lambda shared: release(shared) and False)
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    done = ask("POST", f"{upstream.origin}{RUNS}", "-d", "{}")
    assert done.returncode == 1
    assert b"is not all in the log" in done.stderr
