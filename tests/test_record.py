"""`recorder record -- CMD`: what the program notices of it, where its requests go, and what is in the log afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from recorder import database
from recorder.cli import record as record_command
from recorder.cli.record import VARIABLES, ask_directly, destination
from tests.commands import PATIENCE, Background, answer, bound, command, environment, output, recorder, sqlite, until
from tests.recorded import Recorded
from tests.upstream import Asked, Upstream, Wire
from tests.writing import DONE, encoded, said

pytestmark = pytest.mark.slow

PYTHON = sys.executable
RUNS = "/v1/threads/runs"
STREAM = encoded(said())

ASK = """
import os, sys, urllib.request
for path in sys.argv[1:]:
    url, headers = os.environ["OPENAI_BASE_URL"] + path, {"Content-Type": "application/json"}
    request = urllib.request.Request(url, b'{"stream":true}', headers)
    with urllib.request.urlopen(request) as response:
        sys.stdout.buffer.write(response.read())
"""
"""A program that asks for what it is given and prints the answers."""

TELL = "import json, os, sys; json.dump({name: os.environ.get(name) for name in sys.argv[1:]}, sys.stdout)"
"""A program that prints variables of its environment."""

WAIT = """
import os, signal, sys, time, urllib.request
def told(number, frame):
    print("got", signal.Signals(number).name, file=sys.stderr, flush=True)
    sys.exit(7)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), told)
with urllib.request.urlopen(os.environ["OPENAI_BASE_URL"] + "/threads/runs", b"{}") as response:
    print("has", response.readline(), file=sys.stderr, flush=True)
    time.sleep(60)
"""
"""A program that waits in the midst of a stream for one of the signals that it is given."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def bare() -> dict[str, str]:
    """This process's environment without what directs requests."""
    without = {*VARIABLES, *PROXIES, *(name.lower() for name in PROXIES)}
    return {name: value for name, value in environment().items() if name not in without}


def record(
    *cmd: str,
    db: Path | str,
    options: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    **of_run: Any,
) -> subprocess.CompletedProcess[bytes]:
    """`recorder record` run to its end."""
    line = command("--db", sqlite(db) if isinstance(db, Path) else db, "record", *options, "--", *cmd)
    streams = {"capture_output": True, **of_run}
    return subprocess.run(line, input=stdin, env={**bare(), **(env or {})}, timeout=PATIENCE, check=False, **streams)


def told(*names: str, db: Path, options: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables as a program has them that is recorded."""
    done = record(PYTHON, "-c", TELL, *names, db=db, options=options, env=env)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, str] = json.loads(done.stdout)
    return found


def one_line(said: bytes) -> str:
    (line,) = said.decode().splitlines()
    assert line.startswith("error: ")
    return line


class Stored(NamedTuple):
    path: str
    query: str
    label: str | None
    outcome: str | None
    body: bytes


def stored(db: Path | str) -> list[Stored]:
    """All streams of a log, in the order in which they began."""
    log = Recorded(db)
    try:
        return [
            Stored(one.path, one.query, one.session_label, log.outcome(one.stream_id), log.body(one.stream_id))
            for one in log.streams()
        ]
    finally:
        log.engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A command that must not be run: it would leave a file."""
    trace = tmp_path / "started"
    yield "touch", str(trace)
    assert not trace.exists(), "the program was started all the same"


# Where requests go


def test_the_apis_own_hosts_have_a_proxy_each_and_nothing_else_is_set(file: Path) -> None:
    found = told(*VARIABLES, db=file)
    assert {name for name, value in found.items() if value is not None} == {"OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"}
    openai, anthropic = urlsplit(found["OPENAI_BASE_URL"]), urlsplit(found["ANTHROPIC_BASE_URL"])
    assert (openai.scheme, openai.hostname, openai.path) == ("http", "127.0.0.1", "/v1")
    assert (anthropic.scheme, anthropic.hostname, anthropic.path) == ("http", "127.0.0.1", "")
    assert openai.port != anthropic.port


def test_variables_of_one_host_share_a_proxy_and_keep_all_but_their_host(file: Path) -> None:
    """Also the credentials in a URL, of which the client makes a header."""
    ends = ("", "/", "/v1", "/openai/v1/", "/api/projects/p%20q", "?api-version=v1&x=%2F")
    env = {name: "https://me:se%40cret@gateway.invalid:8443" + end for name, end in zip(VARIABLES, ends, strict=True)}
    found = told(*VARIABLES, db=file, env=env)
    (port,) = {urlsplit(value).port for value in found.values()}
    assert found == {name: f"http://me:se%40cret@127.0.0.1:{port}{end}" for name, end in zip(VARIABLES, ends, strict=True)}


def test_what_a_variable_directs_arrives_where_it_pointed(file: Path, upstream: Upstream) -> None:
    bodies = {name: b'{"of":"%s"}' % name.encode() for name in VARIABLES}
    for name, body in bodies.items():
        upstream.on(f"/deep/{name}/models", lambda wire, asked, body=body: wire.whole(body))  # type: ignore[misc]
    ask = (
        "import os, sys, urllib.request as u\n"
        "for name in sys.argv[1:]: print(u.urlopen(os.environ[name] + '/models?a=b%20c').read().decode())"
    )
    env = {name: f"{upstream.origin}/deep/{name}" for name in VARIABLES}
    done = record(PYTHON, "-c", ask, *VARIABLES, db=file, env=env)
    assert done.stdout.splitlines() == list(bodies.values()), done.stderr.decode()
    for name in VARIABLES:
        asked = upstream.asked(f"/deep/{name}/models")
        assert (asked.target, asked.header("host")) == (f"/deep/{name}/models?a=b%20c", [f"127.0.0.1:{upstream.port}"])
    kept = [Stored(f"/deep/{name}/models", "a=b%20c", None, "done", body) for name, body in bodies.items()]
    assert stored(file) == kept


def test_two_hosts_have_two_proxies(file: Path, upstream: Upstream) -> None:
    with Upstream() as other:
        for one, name in ((upstream, b"one"), (other, b"other")):
            one.on("/who", lambda wire, asked, name=name: wire.whole(name))  # type: ignore[misc]
        ask = (
            "import os, urllib.request as u; print(*(u.urlopen(os.environ[n] + '/who').read() for n in os.environ['N'].split()))"
        )
        env = {"OPENAI_BASE_URL": upstream.origin, "ANTHROPIC_BASE_URL": other.origin, "N": "OPENAI_BASE_URL ANTHROPIC_BASE_URL"}
        done = record(PYTHON, "-c", ask, db=file, env=env)
        assert done.stdout == b"b'one' b'other'\n", done.stderr.decode()
        hosts = {row["host"] for row in answer("sql", "SELECT host FROM streams", db=file)}
        assert hosts == {f"127.0.0.1:{upstream.port}", f"127.0.0.1:{other.port}"}


AT = "http://upstream.invalid:81"
OPENAI, ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"


@pytest.mark.parametrize(
    ("upstream_url", "name", "before", "after"),
    [
        (AT, "OPENAI_BASE_URL", OPENAI, f"{AT}/v1"),
        (AT, "ANTHROPIC_BASE_URL", ANTHROPIC, AT),
        (f"{AT}/", "OPENAI_BASE_URL", OPENAI, f"{AT}/v1"),
        ("upstream.invalid:81", "OPENAI_BASE_URL", OPENAI, "https://upstream.invalid:81/v1"),
        (f"{AT}/v1", "OPENAI_BASE_URL", OPENAI, f"{AT}/v1"),
        (f"{AT}/v1", "ANTHROPIC_BASE_URL", ANTHROPIC, AT),
        (f"{AT}/llm/v1", "OPENAI_BASE_URL", OPENAI, f"{AT}/llm/v1"),
        (f"{AT}/llm/v1", "ANTHROPIC_BASE_URL", ANTHROPIC, f"{AT}/llm"),
        (f"{AT}/llm?tenant=1", "OPENAI_BASE_URL", OPENAI, f"{AT}/llm?tenant=1"),
        # Another host has its API where APIs have it; the same host has it where it was said to be.
        (AT, "OPENAI_BASE_URL", "https://elsewhere.invalid/api/v1", f"{AT}/v1"),
        (AT, "OPENAI_BASE_URL", f"{AT}/api/v1?q=1", f"{AT}/api/v1?q=1"),
        (AT, "OPENAI_API_BASE", "https://elsewhere.invalid/v1/", f"{AT}/v1"),
        # An Azure project is a path.
        (AT, "PROJECT_ENDPOINT", "https://r.invalid/api/projects/p?x=1", f"{AT}/api/projects/p?x=1"),
        (AT, "AZURE_OPENAI_ENDPOINT", "https://r.invalid/", f"{AT}/"),
        (f"{AT}/api/projects/q", "PROJECT_ENDPOINT", "https://r.invalid/", f"{AT}/api/projects/q"),
        (AT, "PROJECT_ENDPOINT", "no URL at all", AT),
    ],
)
def test_upstream_is_instead_of_what_a_variable_says(upstream_url: str, name: str, before: str, after: str) -> None:
    directed = destination(name, before, record_command.upstream_url(upstream_url))
    assert directed is not None
    assert directed.geturl() == after


def test_upstream_takes_all_of_it_and_sets_nothing_more(file: Path) -> None:
    found = told(*VARIABLES, db=file, options=("--upstream", f"{AT}/v1"), env={"AZURE_OPENAI_ENDPOINT": "https://r.invalid"})
    (port,) = {urlsplit(value).port for value in found.values() if value is not None}
    assert {name: value for name, value in found.items() if value is not None} == {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "AZURE_OPENAI_ENDPOINT": f"http://127.0.0.1:{port}",
    }


def test_upstream_is_asked_instead(file: Path, upstream: Upstream) -> None:
    upstream.on("/other/v1/threads/runs", lambda wire, asked: wire.stream([STREAM]))
    options = ("--upstream", f"{upstream.origin}/other/v1")
    done = record(PYTHON, "-c", ASK, "/threads/runs", db=file, options=options, env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert (done.returncode, done.stdout) == (0, STREAM), done.stderr.decode()


@pytest.mark.parametrize("value", ["a name", "127.0.0.1:80", "ftp://host/", "https://", "http://host:port", "http://[::1"])
def test_what_is_no_base_url_directs_nothing(value: str) -> None:
    assert destination("PROJECT_ENDPOINT", value, None) is None


def test_a_variable_that_is_no_url_is_left_as_it_is_and_that_is_said(file: Path) -> None:
    """It may be another program's, and a secret."""
    done = record(PYTHON, "-c", TELL, "PROJECT_ENDPOINT", db=file, env={"PROJECT_ENDPOINT": "some secret"})
    assert json.loads(done.stdout) == {"PROJECT_ENDPOINT": "some secret"}
    (line,) = (line for line in done.stderr.decode().splitlines() if "PROJECT_ENDPOINT" in line)
    assert "some secret" not in line


@pytest.mark.parametrize("upstream_url", ["", "ftp://host", "http://", "http://host:port", "https://host:99999", "http://[::1"])
def test_an_upstream_that_is_no_url_is_wrong_usage(file: Path, started: tuple[str, ...], upstream_url: str) -> None:
    done = record(*started, db=file, options=("--upstream", upstream_url))
    assert done.returncode == 2
    assert "--upstream" in one_line(done.stderr)
    assert not file.exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ("127.0.0.1", "127.0.0.1")),
        ({"NO_PROXY": "corp.invalid"}, ("corp.invalid,127.0.0.1", "corp.invalid,127.0.0.1")),
        ({"no_proxy": "corp.invalid"}, ("corp.invalid,127.0.0.1", "corp.invalid,127.0.0.1")),
        ({"NO_PROXY": "one", "no_proxy": "two"}, ("one,127.0.0.1", "two,127.0.0.1")),
        ({"NO_PROXY": "one", "no_proxy": ""}, ("one,127.0.0.1", "127.0.0.1")),
        ({"NO_PROXY": "*"}, ("*", "*")),
    ],
)
def test_a_proxy_of_the_network_is_not_asked_for_ours(before: dict[str, str], after: tuple[str, str]) -> None:
    environment = dict(before)
    ask_directly(environment)
    assert (environment["NO_PROXY"], environment["no_proxy"]) == after


def test_a_program_behind_a_proxy_of_the_network_is_recorded(file: Path, upstream: Upstream) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    nowhere = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = record(PYTHON, "-c", ASK, "/threads/runs", db=file, options=("--upstream", upstream.origin), env=nowhere)
    assert (done.returncode, done.stdout) == (0, STREAM), done.stderr.decode()


# What programs there are


def test_a_shell_with_curl(file: Path, upstream: Upstream) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not here")
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM[at : at + 100] for at in range(0, len(STREAM), 100)]))
    script = (
        'for n in 1 2; do curl -sN "$OPENAI_BASE_URL/threads/runs" -H "Content-Type: application/json" -d "{\\"n\\":$n}"; done'
    )
    done = record("sh", "-c", script, db=file, options=("--upstream", upstream.origin))
    assert (done.returncode, done.stdout) == (0, STREAM * 2), done.stderr.decode()
    assert [upstream.asked(RUNS, number).body for number in (0, 1)] == [b'{"n":1}', b'{"n":2}']
    assert [(one.outcome, one.body) for one in stored(file)] == [("done", STREAM)] * 2


def test_a_program_with_the_openai_sdk(file: Path, upstream: Upstream, tmp_path: Path) -> None:
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM[at : at + 100] for at in range(0, len(STREAM), 100)]))
    program = tmp_path / "agent.py"
    program.write_text(
        "import warnings\n"
        "from openai import OpenAI\n"
        "warnings.simplefilter('ignore')\n"
        "for event in OpenAI().beta.threads.create_and_run(assistant_id='asst_1', stream=True):\n"
        "    print(event.event)\n"
    )
    env = {"OPENAI_BASE_URL": f"{upstream.origin}/v1", "OPENAI_API_KEY": "sk-never-to-be-stored"}
    done = record(PYTHON, str(program), db=file, env=env)
    assert done.stdout.decode().split() == [name for name, _ in said()[:-1]], done.stderr.decode()
    assert upstream.asked(RUNS).header("authorization") == ["Bearer sk-never-to-be-stored"]
    assert [(one.outcome, one.body) for one in stored(file)] == [("done", STREAM)]
    assert not [path for path in tmp_path.glob("log.db*") if b"never-to-be-stored" in path.read_bytes()]


def test_a_program_in_node(file: Path, upstream: Upstream, tmp_path: Path) -> None:
    if not shutil.which("node"):
        pytest.skip("node is not here")
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM[at : at + 100] for at in range(0, len(STREAM), 100)]))
    program = tmp_path / "agent.mjs"
    program.write_text(
        "const asking = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{\"stream\":true}' }\n"
        "const response = await fetch(process.env.OPENAI_BASE_URL + '/threads/runs', asking)\n"
        "for await (const chunk of response.body) process.stdout.write(chunk)\n"
    )
    done = record("node", str(program), db=file, options=("--upstream", upstream.origin))
    assert (done.returncode, done.stdout) == (0, STREAM), done.stderr.decode()
    assert [(one.outcome, one.body) for one in stored(file)] == [("done", STREAM)]


@pytest.mark.parametrize("dashes", [("--",), ()], ids=["with --", "without"])
def test_options_behind_the_program_are_the_programs(file: Path, dashes: tuple[str, ...]) -> None:
    show = "import sys; print(sys.argv[1:])"
    options = ["--help", "--session", "x", "--upstream", "-h", "--", "--db", "y", ""]
    done = recorder("record", *dashes, PYTHON, "-c", show, *options, db=file)
    assert (done.returncode, done.stdout.decode().strip()) == (0, str(options)), done.stderr.decode()


def test_an_option_that_there_is_not_is_wrong_usage_and_no_program(file: Path, started: tuple[str, ...]) -> None:
    done = recorder("record", "--sesion", "x", "--", *started, db=file)
    assert done.returncode == 2
    assert "--sesion" in one_line(done.stderr)


# What the program notices of it: nothing


def test_input_and_output_pass_as_they_are(file: Path) -> None:
    content = random.Random(1).randbytes(5_000_000)
    copy = "import sys; all = sys.stdin.buffer.read(); sys.stdout.buffer.write(all); sys.stderr.buffer.write(all[::-1])"
    done = record(PYTHON, "-c", copy, db=file, stdin=content)
    assert done.returncode == 0
    assert done.stdout == content
    assert done.stderr.startswith(content[::-1])
    (line,) = done.stderr[len(content) :].decode().splitlines()
    assert "nothing was recorded" in line


def test_what_else_is_open_is_open_for_the_program(file: Path, tmp_path: Path) -> None:
    """As of `<(…)` or `3>file` in a shell; and nothing of recorder's own is."""
    (tmp_path / "three").write_bytes(b"from elsewhere")
    given = os.open(tmp_path / "three", os.O_RDONLY)
    look = (
        "import os, sys\n"
        "given = int(sys.argv[1])\n"
        "others = [number for number in range(3, 200) if number != given and os.path.exists(f'/proc/self/fd/{number}')]\n"
        "print(os.read(given, 99), others)"
    )
    try:
        done = record(PYTHON, "-c", look, str(given), db=file, pass_fds=(given,))
    finally:
        os.close(given)
    assert done.stdout == b"b'from elsewhere' []\n", done.stderr.decode()


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_is_the_programs(file: Path, status: int) -> None:
    assert record("sh", "-c", f"exit {status}", db=file).returncode == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_a_program_that_a_signal_ended_is_128_more(file: Path, number: signal.Signals) -> None:
    done = record("sh", "-c", f"kill -{int(number)} $$", db=file)
    assert done.returncode == 128 + number
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["closed", "nobody reads"])
def test_the_exit_status_is_the_programs_also_where_stderr_is_gone(file: Path, how: str) -> None:
    line = command("--db", sqlite(file), "record", "--", "sh", "-c", "exit 5")
    script = '"$@" 2>&-' if how == "closed" else '{ "$@" 2>&3; echo $? >&4; } 3>&1 4>&2 | true'
    done = subprocess.run(["sh", "-c", script, "sh", *line], capture_output=True, env=bare(), timeout=PATIENCE, check=False)
    assert (done.returncode if how == "closed" else int(done.stderr)) == 5


def test_a_program_that_is_not_there_is_127_and_one_line(file: Path) -> None:
    done = record("no-such-program", "--help", db=file)
    assert done.returncode == 127
    assert "no-such-program" in one_line(done.stderr)


@pytest.mark.parametrize("what", ["a text", "a folder", "a script of a missing interpreter"])
def test_a_program_that_cannot_be_run_is_126_and_one_line(file: Path, tmp_path: Path, what: str) -> None:
    program = tmp_path / "program"
    if what == "a folder":
        program.mkdir()
    else:
        program.write_text("#!/no/such/interpreter\n")
        program.chmod(0o755 if "script" in what else 0o644)
    done = record(str(program), db=file)
    assert done.returncode == 126
    assert str(program) in one_line(done.stderr)


@pytest.mark.parametrize("args", [(), ("--",), ("--session", "x"), ("--", "")])
def test_no_program_is_wrong_usage_that_says_what_to_write(file: Path, args: tuple[str, ...]) -> None:
    done = recorder("record", *args, db=file)
    assert done.returncode == 2
    assert "recorder record -- " in one_line(done.stderr)
    assert not file.exists()


# In a terminal


class Terminal:
    """A command in a terminal of its own. `shown`: what it has on its screen so far. Use it as a context."""

    def __init__(self, *args: str, db: Path) -> None:
        self.shown = b""
        self._master, slave = pty.openpty()
        tty.setraw(slave, termios.TCSANOW)
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.ISIG  # Ctrl-C is a signal; but what is printed stays as it is
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        self.process = subprocess.Popen(
            command("--db", sqlite(db), *args),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=bare(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - of the child alone
        )
        os.close(slave)
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        os.close(self._master)

    def wait_for(self, text: bytes) -> None:
        with self._came:
            self._came.wait_for(lambda: text in self.shown or not self._reader.is_alive(), PATIENCE)
        assert text in self.shown, self.shown

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while read := os.read(self._master, 65536):
                with self._came:
                    self.shown += read
                    self._came.notify_all()
        with self._came:
            self._came.notify_all()


def test_a_terminal_is_the_programs(file: Path) -> None:
    look = "import os, sys; print([os.isatty(f) for f in (0, 1, 2)], os.getpgrp() == os.tcgetpgrp(0)); print(ascii(input()))"
    with Terminal("record", "--", PYTHON, "-c", look, db=file) as terminal:
        terminal.wait_for(b"[True, True, True] True\n")
        terminal.type(b"typed\n")
        assert terminal.wait() == 0
        assert b"'typed'" in terminal.shown


def test_ctrl_c_reaches_the_program_once_and_what_was_recorded_is_committed(file: Path, upstream: Upstream) -> None:
    """The terminal sends it to both, and nobody sends it again: that would hurt a program that is cleaning up."""
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    count = (
        ASK + "\nimport signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "print('ready', flush=True)\n"
        "senders = []\n"
        "while came := signal.sigtimedwait({signal.SIGINT}, 60 if len(senders) < 5 else 0.5):\n"
        "    senders.append(came.si_pid)\n"
        "    print('interrupted', len(senders), flush=True)\n"
        "print('by', senders, flush=True)\n"
        "sys.exit(130)\n"
    )
    with Terminal("record", "--upstream", upstream.origin, "--", PYTHON, "-c", count, "/threads/runs", db=file) as terminal:
        terminal.wait_for(b"ready")
        for number in range(1, 6):
            terminal.type(b"\x03")
            terminal.wait_for(b"interrupted %d\n" % number)
        assert terminal.wait() == 130
        assert b"by [0, 0, 0, 0, 0]\n" in terminal.shown  # no process: the terminal
        assert b"recorded 1 stream with 10 events" in terminal.shown
    assert [(one.outcome, one.body) for one in stored(file)] == [("done", STREAM)]


# Signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"])
def test_a_signal_reaches_the_program_and_what_was_recorded_is_committed(file: Path, upstream: Upstream, name: str) -> None:
    first = STREAM[: STREAM.index(b"\n\n") + 2]

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(first)
        wire.left()

    upstream.on(RUNS, answer)
    line = ("record", "--upstream", upstream.origin, "--", PYTHON, "-c", WAIT, name)
    with Background(*line, db=file, preexec=os.setsid) as running:  # without a terminal, which would send it by itself
        running.wait_for("has b'event")
        running.process.send_signal(getattr(signal, name))
        assert running.wait() == 7
        assert running.said[1] == f"got {name}"
        assert running.wait_for("recorded 1 stream with 1 event ")
        assert not [line for line in running.said if "Traceback" in line]
    assert [(one.outcome, one.body) for one in stored(file)] == [("client_closed", first)]


def test_a_program_that_a_signal_ends_has_its_status_and_is_recorded(file: Path, upstream: Upstream) -> None:
    """It does not catch it: 128 more, and its stream broke off there."""

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(STREAM[:300])
        wire.left()

    upstream.on(RUNS, answer)
    with Background("record", "--upstream", upstream.origin, "--", PYTHON, "-c", WAIT, db=file) as running:
        running.wait_for("has b'event")
        assert running.stop() == 128 + signal.SIGTERM
    assert [(one.outcome, one.body) for one in stored(file)] == [("client_closed", STREAM[:300])]


def test_a_signal_that_is_ignored_is_ignored_by_the_program(file: Path) -> None:
    """As with nohup."""

    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    look = "import signal; print(signal.getsignal(signal.SIGHUP).name, signal.getsignal(signal.SIGTERM).name)"
    done = recorder("record", "--", PYTHON, "-c", look, db=file, preexec=ignoring)
    assert done.stdout == b"SIG_IGN SIG_DFL\n"


# Programs that end in other ways


def test_a_program_that_asks_nothing_is_told_so(file: Path) -> None:
    done = record("true", db=file)
    assert (done.returncode, done.stdout) == (0, b"")
    (line,) = done.stderr.decode().splitlines()
    assert "nothing was recorded" in line
    assert str(file) in line
    assert stored(file) == []


LEAVE = "curl -sN $OPENAI_BASE_URL/threads/runs -d x >$OUT 2>&1 & until [ -s $OUT ]; do sleep 0.02; done; exit 4"


def left_behind(upstream: Upstream, file: Path, out: Path) -> Background:
    if not shutil.which("curl"):
        pytest.skip("curl is not here")
    return Background("record", "--upstream", upstream.origin, "--", "sh", "-c", LEAVE.replace("$OUT", str(out)), db=file)


def test_what_the_program_leaves_behind_may_finish_its_stream(file: Path, upstream: Upstream, tmp_path: Path) -> None:
    out, go = tmp_path / "out", threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(STREAM[:300])
        assert go.wait(PATIENCE)
        wire.chunk(STREAM[300:])
        wire.end()

    upstream.on(RUNS, answer)
    with left_behind(upstream, file, out) as running:
        until(lambda: out.exists() and out.read_bytes() == STREAM[:300])
        until(lambda: not children(running.process.pid))
        go.set()
        assert running.wait() == 4
    assert out.read_bytes() == STREAM
    assert [(one.outcome, one.body) for one in stored(file)] == [("done", STREAM)]


def test_a_stream_that_goes_on_behind_the_program_is_ended_and_that_is_said(
    file: Path, upstream: Upstream, tmp_path: Path
) -> None:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(STREAM[:300])
        wire.left(PATIENCE)

    upstream.on(RUNS, answer)
    with left_behind(upstream, file, tmp_path / "out") as running:
        assert running.wait() == 4
        assert running.wait_for("1 stream with .*; 1 went on when the program had ended")
        assert not [line for line in running.said if "Traceback" in line or "ERROR" in line]
    assert [(one.outcome, one.body) for one in stored(file)] == [("lost", STREAM[:300])]


def children(pid: int) -> list[str]:
    """The processes that this one has started and that are not over yet."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# What was recorded


def test_what_was_recorded_is_said_on_stderr(file: Path, upstream: Upstream) -> None:
    waiting = encoded([*said(id="run_2", thread_id="thread_2")[:3], DONE])
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    upstream.on("/v1/threads/thread_2/runs", lambda wire, asked: wire.stream([waiting]))
    upstream.on("/v1/models", lambda wire, asked: wire.whole(b"{}"))
    asked = ("/threads/runs", "/threads/thread_2/runs", "/models")
    done = record(PYTHON, "-c", ASK, *asked, db=file, options=("--upstream", upstream.origin))
    assert done.stdout == STREAM + waiting + b"{}"
    first, *sessions = done.stderr.decode().splitlines()
    assert f"recorded 3 streams with 14 events into {file}" in first
    assert len(sessions) == 3
    assert "thread_1" in sessions[0]
    assert "run_1 completed" in sessions[0]
    assert "run_2 in_progress" in sessions[1]


def test_only_what_this_program_did_is_said(file: Path, upstream: Upstream) -> None:
    """Also where it adds to a session that there was before."""
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    options = ("--upstream", upstream.origin, "--session", "mine")
    for _ in range(2):
        done = record(PYTHON, "-c", ASK, "/threads/runs", db=file, options=options)
        assert b"recorded 1 stream with 10 events" in done.stderr
        assert b"mine  1 stream " in done.stderr
    assert [one.label for one in stored(file)] == ["mine"] * 2
    assert len(answer("show", "mine", db=file)["streams"]) == 2


def test_a_label_in_a_header_goes_before_and_is_not_sent_on(file: Path, upstream: Upstream) -> None:
    upstream.on("/v1/models", lambda wire, asked: wire.whole(b"{}"))
    ask = (
        "import os, urllib.request as u\n"
        "u.urlopen(u.Request(os.environ['OPENAI_BASE_URL'] + '/models', headers={'X-Recorder-Session': 'theirs'})).read()"
    )
    record(PYTHON, "-c", ask, db=file, options=("--upstream", upstream.origin, "--session", "mine"))
    assert [one.label for one in stored(file)] == ["theirs"]
    assert upstream.asked("/v1/models").header("x-recorder-session") == []


def test_it_is_committed_when_the_program_is_over(file: Path, upstream: Upstream) -> None:
    """A thousand requests, the last of them just before its end."""
    upstream.on("/v1/n", lambda wire, asked: wire.stream([b"data: 1\n\n", b"data: [DONE]\n\n"]))
    ask = (
        "import http.client, os, urllib.parse\n"
        "at = urllib.parse.urlsplit(os.environ['OPENAI_BASE_URL'])\n"
        "connection = http.client.HTTPConnection(at.netloc)\n"
        "for n in range(1000):\n"
        "    connection.request('POST', at.path + '/n', b'{}')\n"
        "    assert connection.getresponse().read() == b'data: 1\\n\\ndata: [DONE]\\n\\n'\n"
    )
    done = record(PYTHON, "-c", ask, db=file, options=("--upstream", upstream.origin))
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stderr.decode().splitlines()
    assert "recorded 1,000 streams with 2,000 events" in lines[0]
    assert len(lines) == 12
    assert "990 sessions more" in lines[-1]
    assert json.loads(output("sql", "--json", "SELECT count(*) AS n FROM heads WHERE outcome = 'done'", db=file)) == [{"n": 1000}]


def test_into_postgresql(postgresql_url: str, started: tuple[str, ...], upstream: Upstream) -> None:
    done = record(*started, db=postgresql_url)
    assert done.returncode == 1
    assert "recorder db upgrade" in one_line(done.stderr)
    output("db", "upgrade", db=postgresql_url)
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    done = record(PYTHON, "-c", ASK, "/threads/runs", db=postgresql_url, options=("--upstream", upstream.origin))
    assert done.stdout == STREAM, done.stderr.decode()
    assert b"run_1 completed" in done.stderr
    assert [(one.outcome, one.body) for one in stored(postgresql_url)] == [("done", STREAM)]


# Where the database fails


@pytest.mark.parametrize("what", ["another's", "no folder", "a folder", "no database"])
def test_a_database_that_cannot_be_had_is_said_before_the_program_starts(
    tmp_path: Path, started: tuple[str, ...], what: str
) -> None:
    file = tmp_path / "log.db"
    if what == "another's":
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    elif what == "no folder":
        file = tmp_path / "none" / "log.db"
    elif what == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"x" * 10_000)
    done = record(*started, db=file)
    assert done.returncode == 1
    assert str(file) in one_line(done.stderr)


def test_a_database_that_may_only_be_read_is_said_before_the_program_starts(file: Path, started: tuple[str, ...]) -> None:
    record("true", db=file)
    file.chmod(0o444)
    done = record(*started, db=file, preexec_fn=bound)
    assert done.returncode == 1
    assert "read-only" in one_line(done.stderr)


def test_a_postgresql_that_may_only_be_read_is_said_before_the_program_starts(
    postgresql_url: str, started: tuple[str, ...]
) -> None:
    output("db", "upgrade", db=postgresql_url)
    done = record(*started, db=postgresql_url, env={"PGOPTIONS": "-c default_transaction_read_only=on"})
    assert done.returncode == 1
    assert "read-only" in one_line(done.stderr)


class Locked:
    """A recorded program whose database is locked, by another, from its first request on.

    It asks, prints how many bytes it had of the second answer, and ends with status 6.
    """

    def __init__(self, upstream: Upstream, file: Path, pieces: list[bytes]) -> None:
        database.connect(sqlite(file)).dispose()
        self._locks: list[sqlite3.Connection] = []

        def first(wire: Wire, asked: Asked) -> None:
            self._locks.append(sqlite3.connect(file, isolation_level=None, check_same_thread=False))
            self._locks[0].execute("BEGIN IMMEDIATE")
            wire.whole(b"")

        upstream.on("/v1/first", first)
        upstream.on(RUNS, lambda wire, asked: wire.stream(pieces))
        ask = ASK.replace("sys.stdout.buffer.write(response.read())", "print(len(response.read()), file=sys.stderr, flush=True)")
        line = ("record", "--upstream", upstream.origin, "--", PYTHON, "-c", ask + "sys.exit(6)", "/first", "/threads/runs")
        self.running = Background(*line, db=file)

    def __enter__(self) -> Locked:
        return self

    def __exit__(self, *error: object) -> None:
        self.running.kill()
        self.release()

    def release(self) -> None:
        for lock in self._locks:
            lock.close()


def test_a_database_that_is_away_for_a_while_loses_nothing(file: Path, upstream: Upstream) -> None:
    with Locked(upstream, file, [STREAM]) as locked:
        locked.running.wait_for(f"^{len(STREAM)}$")
        until(lambda: not children(locked.running.process.pid))
        locked.release()
        assert locked.running.wait() == 6
        assert locked.running.wait_for("recorded 2 streams with 10 events")
    assert [(one.outcome, one.body) for one in stored(file)] == [("eof", b""), ("done", STREAM)]


def test_what_found_no_room_while_the_database_was_away_is_said(file: Path, upstream: Upstream) -> None:
    pieces = [b"data: %s\n\n" % (b"x" * 1_000_000) for _ in range(90)]
    with Locked(upstream, file, pieces) as locked:
        locked.running.wait_for(f"^{sum(map(len, pieces))}$")
        until(lambda: not children(locked.running.process.pid))
        locked.release()
        assert locked.running.wait() == 6
        lost = int(locked.running.wait_for(r"recorded 2 streams .*; ([\d,]+) bytes were lost")[1].replace(",", ""))
    assert lost > 10_000_000
    found = json.loads(output("sql", "--json", "SELECT data FROM events WHERE type = '$gap'", db=file))
    assert sum(json.loads(row["data"])["bytes"] for row in found) == lost


def test_a_database_that_does_not_come_back_leaves_the_program_its_status_and_says_so(file: Path, upstream: Upstream) -> None:
    with Locked(upstream, file, [STREAM]) as locked:
        locked.running.wait_for(f"^{len(STREAM)}$")
        assert locked.running.wait() == 6
        assert locked.running.wait_for("2 of 2 streams did not get into .*log.db whole")
        assert not [line for line in locked.running.said if "Traceback" in line]


@pytest.mark.parametrize(("table", "what"), [("folds", "recorded 1 stream into "), ("session_streams", "1 stream began")])
def test_a_database_that_cannot_be_asked_any_more_leaves_the_program_its_status(
    file: Path, upstream: Upstream, table: str, what: str
) -> None:
    """The program itself takes a table of the read model away. What cannot be counted is not said to be nothing."""
    upstream.on(RUNS, lambda wire, asked: wire.stream([STREAM]))
    harm = f"import sqlite3\nsqlite3.connect(sys.argv[1]).execute('DROP TABLE {table}')\nsys.exit(6)"
    program = ASK.replace("sys.argv[1:]", "sys.argv[2:]") + harm
    done = record(PYTHON, "-c", program, str(file), "/threads/runs", db=file, options=("--upstream", upstream.origin))
    assert (done.returncode, done.stdout) == (6, STREAM), done.stderr.decode()
    assert done.stderr.decode().splitlines()[-1].startswith(what)
    assert b"Traceback" not in done.stderr
    assert recorder("ls", db=file).returncode == 0, "the next question makes the table anew"
    assert [(one.outcome, one.body) for one in stored(file)] == [("done", STREAM)]
