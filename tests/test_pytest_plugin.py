"""The pytest plugin in a project of its own, as a user has it: recorded once, replayed offline, explained where it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recorder.recording import read_recording
from recorder.testing import MODES
from tests.commands import PATIENCE, environment
from tests.upstream import Asked, Upstream, Wire

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[1] / "README.md").read_text()
README_EXAMPLE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[2]

SECRET = "sk-proj-0123456789abcdefghij"

CONFTEST = """
import pytest
from openai import OpenAI

@pytest.fixture
def client(recording):
    with OpenAI() as client:
        yield recording.attach(client)
"""

TEST = """
import pytest

def ask(client, prompt):
    stream = client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": prompt}], stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

def test_weather(client):
    assert ask(client, "How is the weather in Oslo?") == "You said: How is the weather in Oslo?"
"""


PLAIN = """
import os
import httpx
import pytest

@pytest.fixture
def client(recording):
    with httpx.Client(base_url=os.environ["OPENAI_BASE_URL"], timeout=20) as client:
        yield recording.attach(client)
"""
"""The same without an SDK, which takes its time to be imported."""

ASK = """
import json
import pytest

def ask(client, prompt):
    answer = client.post("/chat/completions", json={"messages": [{"role": "user", "content": prompt}]})
    said = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(json.loads(data)["choices"][0]["delta"].get("content", "") for data in said)
"""

FOUR = """
def test_missing(client):
    assert ask(client, "missing") == "You said: missing"

def test_spoilt(client):
    assert ask(client, "spoilt") == "You said: spoilt"

def test_swallowed(client):
    ask(client, "swallowed")

def test_in_vain(client):
    assert ask(client, "in vain") == "You said nothing"
"""

MANY = """
@pytest.mark.parametrize("number", range(8))
def test_each(client, number):
    for again in range(3):
        assert ask(client, f"{number} {again}") == f"You said: {number} {again}"
"""


def chat(wire: Wire, asked: Asked) -> None:
    """A chat completion that says what it was asked, two letters a chunk."""
    said = "You said: " + json.loads(asked.body)["messages"][-1]["content"]

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5", "choices": [choice]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    pieces = [chunk({"content": said[at : at + 2]}) for at in range(0, len(said), 2)]
    wire.stream([chunk({"role": "assistant"}), *pieces, chunk({}, "stop"), b"data: [DONE]\n\n"])


class Ran(NamedTuple):
    status: int
    out: str
    asked: int

    @property
    def outcomes(self) -> dict[str, int]:
        """{passed: 2, …} of pytest's last line."""
        return {
            kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|errors?|skipped)", self.out.splitlines()[-1])
        }


class Project:
    """A scratch project with tests of its own. upstream: the API that its clients know."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder = folder
        self._upstream = upstream
        self.write("conftest.py", CONFTEST)
        self.write("test_chat.py", TEST)

    def plain(self) -> None:
        """Without the SDK."""
        self.write("conftest.py", PLAIN)
        self.write("test_chat.py", ASK + 'def test_weather(client):\n    assert ask(client, "x") == "You said: x"\n')

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def change(self, name: str, before: str, after: str) -> None:
        text = (self.folder / name).read_text()
        assert before in text
        self.write(name, text.replace(before, after))

    def pytest(self, *args: str, **variables: str) -> Ran:
        before = self._upstream.count("/v1/chat/completions")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**environment(), "OPENAI_BASE_URL": f"{self._upstream.origin}/v1", "OPENAI_API_KEY": SECRET, **variables},
        )
        return Ran(done.returncode, done.stdout + done.stderr, self._upstream.count("/v1/chat/completions") - before)

    def recording(self, test: str = "test_weather", module: str = "test_chat") -> Path:
        return self.folder / "recordings" / module / f"{test}.recording.jsonl"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Upstream() as upstream:
        upstream.on("/v1/chat/completions", chat)
        yield Project(tmp_path / "project", upstream)
        assert upstream.errors == []


def test_record_once_replay_offline_change_the_prompt_see_it_explained_and_record_again(project: Project) -> None:
    recorded = project.pytest("--record-mode=once")
    assert (recorded.outcomes, recorded.asked) == ({"passed": 1}, 1)
    assert "recorded: recordings/test_chat/test_weather.recording.jsonl: 1 exchange\n" in recorded.out
    ((stream, frames),) = read_recording(project.recording())
    assert (stream.method, stream.path, stream.session_label) == ("POST", "/v1/chat/completions", "test_weather")
    assert len([frame for frame in frames if not frame.type.startswith("$")]) > 10
    first = project.recording().read_bytes()

    for args in (("--record-mode=none", "--block-network"), ("--record-mode=once",)):
        replayed = project.pytest(*args, OPENAI_BASE_URL="http://192.0.2.1:9/v1")
        assert (replayed.outcomes, replayed.asked) == ({"passed": 1}, 0)
        assert "recordings" not in replayed.out
    assert project.recording().read_bytes() == first

    project.change("test_chat.py", "in Oslo?", "in Bergen?")
    changed = project.pytest()
    assert (changed.outcomes, changed.asked) == ({"failed": 1}, 0)
    for said in (
        "no recording answers POST /v1/chat/completions",
        f"the nearest is POST /v1/chat/completions of stream {stream.stream_id}",
        '.messages[0].content is "How is the weather in Bergen?", recorded was "How is the weather in Oslo?"',
        "record it again: pytest --record-mode=rewrite test_chat.py::test_weather",
    ):
        assert said in changed.out

    again = project.pytest("--record-mode=rewrite", "test_chat.py::test_weather")
    assert (again.outcomes, again.asked) == ({"passed": 1}, 1)
    replayed = project.pytest()
    assert (replayed.outcomes, replayed.asked) == ({"passed": 1}, 0)
    assert project.recording().read_bytes() != first


def test_tests_whose_recording_is_missing_spoilt_swallowed_or_made_in_vain_say_so(project: Project) -> None:
    project.plain()
    project.write("test_chat.py", ASK + FOUR)
    ran = project.pytest("--record-mode=once")
    assert (ran.outcomes, ran.asked) == ({"passed": 3, "failed": 1}, 4)
    assert "not recorded: recordings/test_chat/test_in_vain.recording.jsonl: its test failed" in ran.out
    assert not project.recording("test_in_vain").exists()
    project.recording("test_missing").unlink()
    lines = project.recording("test_spoilt").read_text().splitlines(keepends=True)
    project.recording("test_spoilt").write_text("".join(lines[:-2]))
    project.change("test_chat.py", '"swallowed"', '"another text"')
    ran = project.pytest()
    assert (ran.outcomes, ran.asked) == ({"failed": 1, "errors": 3}, 0)
    for said in (
        "no recording: recordings/test_chat/test_missing.recording.jsonl is not there; "
        "make one: pytest --record-mode=once test_chat.py::test_missing",
        f"test_spoilt.recording.jsonl: the recording breaks off in line {len(lines) - 2}",
        '.messages[0].content is "another text", recorded was "swallowed"',
    ):
        assert said in ran.out


def test_what_nobody_asks_for_and_what_no_test_uses_is_reported_also_by_tests_beside_each_other(project: Project) -> None:
    project.plain()
    project.write("test_chat.py", ASK + MANY)
    recorded = project.pytest("-n", "2", "--record-mode=once")
    assert (recorded.outcomes, recorded.asked) == ({"passed": 8}, 24)
    assert recorded.out.count("recorded: ") == len(list(project.recording().parent.iterdir())) == 8
    project.recording("test_each[7]").rename(project.recording("test_gone"))
    project.change("test_chat.py", "range(8)", "range(7)")
    project.change("test_chat.py", "range(3)", "range(2)")
    project.write("recordings/test_module_gone/test_x.recording.jsonl", "")
    for args in ((), ("-n", "2")):
        ran = project.pytest(*args)
        assert (ran.outcomes, ran.asked) == ({"passed": 7}, 0)
        unused = (
            "recordings/test_chat/test_each[3].recording.jsonl: nobody asked for POST /v1/chat/completions; to record it anew: "
        )
        assert f"unused: {unused}pytest --record-mode=rewrite 'test_chat.py::test_each[3]'\n" in ran.out
        for stale in ("test_chat/test_gone", "test_module_gone/test_x"):
            assert ran.out.count(f"stale: recordings/{stale}.recording.jsonl: no test uses it; delete it\n") == 1
    assert "stale: recordings/test_chat" not in project.pytest("test_chat.py::test_each[3]").out


MARKED = (
    """
import subprocess, sys
import pytest
from openai import AsyncOpenAI, OpenAI

CODE = """
    + "'''"
    + """
from openai import OpenAI
asked = [{"role": "user", "content": "child"}]
stream = OpenAI().chat.completions.create(model="m", messages=asked, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream))
"""
    + "'''"
    + """

@pytest.mark.recording
def test_unchanged_code():
    with OpenAI() as client:
        assert ask(client, "hello") == "You said: hello"

@pytest.mark.recording
@pytest.mark.anyio
async def test_async_code():
    async with AsyncOpenAI() as client:
        stream = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "You said: hi"

@pytest.mark.recording("shared/by_path.recording.jsonl", speed=1000)
def test_a_process_of_its_own():
    assert subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True).stdout == "You said: child\\n"

class TestInAClass:
    @pytest.mark.parametrize("text", ["a/b", "é", "x" * 300, "{mode}"])
    def test_odd_names(self, client, text):
        assert ask(client, text) == f"You said: {text}"
"""
)


def test_the_marker_points_unchanged_code_at_the_recording_in_this_process_and_in_others(project: Project) -> None:
    project.write("test_chat.py", TEST.partition("def test_weather")[0] + MARKED)
    project.write("test_readme.py", README_EXAMPLE)
    recorded = project.pytest("--record-mode=once", "-W", "error")
    assert (recorded.outcomes, recorded.asked) == ({"passed": 9}, 9), recorded.out
    assert (project.folder / "shared" / "by_path.recording.jsonl").exists()
    assert len(list(project.recording().parent.glob("TestInAClass.test_odd_names*"))) == 4
    elsewhere = project.pytest("-W", "error", OPENAI_BASE_URL="http://192.0.2.1:9/v1", OPENAI_API_KEY="")
    assert elsewhere.asked == 0
    assert elsewhere.outcomes == {"passed": 4, "failed": 1, "errors": 4}, "OpenAI() in a fixture of the project's own wants a key"
    replayed = project.pytest("-W", "error", "--block-network")
    assert (replayed.outcomes, replayed.asked) == ({"passed": 9}, 0)


NETWORK = """
import socket
import pytest

@pytest.mark.parametrize("host", ["192.0.2.1", "example.invalid", "2001:db8::1"])
def test_elsewhere(host):
    with pytest.raises(OSError, match="--block-network.*" + host):
        socket.create_connection((host, 9), timeout=0.1)

def test_that_records(recording):
    with pytest.raises(OSError, match="(?<!block-network).*") as failed:
        socket.create_connection(("192.0.2.1", 9), timeout=0.1)
    assert "block-network" not in str(failed.value)

def test_here():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1])).close()
"""


def test_block_network_lets_tests_reach_this_machine_alone_but_for_those_that_record(project: Project) -> None:
    project.plain()
    project.write("test_network.py", NETWORK)
    assert project.pytest("--block-network", "--record-mode=once").outcomes == {"passed": 6}
    assert project.pytest("--block-network", "test_network.py").outcomes == {"passed": 4, "failed": 1}


NOTHING = """
import sys

def test_it():
    held = {"recorder.deck", "recorder.log", "recorder.cli", "sqlalchemy", "httpx", "httpx2", "msgspec", "pydantic", "click"}
    assert "recorder.pytest_plugin" in sys.modules
    assert not held & set(sys.modules)
"""


def test_it_costs_nothing_where_it_is_not_used(project: Project) -> None:
    project.write("conftest.py", "")
    (project.folder / "test_chat.py").unlink()
    project.write("test_nothing.py", NOTHING)
    assert project.pytest().outcomes == {"passed": 1}


def test_the_options_and_the_marker_explain_themselves(project: Project) -> None:
    project.plain()
    section = README.partition("## In tests")[2].partition("\n## ")[0]
    assert all(f"`{mode}`" in section for mode in MODES)
    helped = project.pytest("--help").out
    assert "--record-mode={none,once,new_episodes,all,rewrite}" in helped
    assert "--block-network" in helped
    assert "@pytest.mark.recording(path=None, *, speed=None)" in project.pytest("--markers").out
    assert project.pytest("--record-mode=twice").status == 4


def test_beside_pytest_recording_which_has_the_same_options_both_work(project: Project, tmp_path: Path) -> None:
    """A plugin of its name and options, found on the path as that one would be."""
    project.plain()
    project.write(
        "other/pytest_recording/plugin.py",
        "def pytest_addoption(parser):\n"
        "    group = parser.getgroup('recording')\n"
        "    group.addoption('--record-mode', default=None, choices=('once', 'new_episodes', 'none', 'all', 'rewrite'))\n"
        "    group.addoption('--block-network', action='store_true', default=False)\n",
    )
    project.write("other/pytest_recording/__init__.py", "")
    project.write(
        "other/pytest_recording-0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pytest-recording\nVersion: 0.0\n"
    )
    project.write("other/pytest_recording-0.0.dist-info/entry_points.txt", "[pytest11]\nrecording = pytest_recording.plugin\n")
    beside = {"PYTHONPATH": str(project.folder / "other")}
    assert project.pytest("--record-mode=once", **beside).outcomes == {"passed": 1}
    assert project.pytest("--record-mode=once", "-p", "no:recording", **beside).outcomes == {"passed": 1}
    assert os.path.exists(project.recording())


FLAKY = """
TRIES = []

def test_weather(client):
    TRIES.append(1)
    assert ask(client, "x") == "You said: x"
    assert len(TRIES) > 1
"""


def test_a_test_that_passes_when_it_is_rerun_leaves_its_recording(project: Project) -> None:
    project.plain()
    project.write("test_chat.py", ASK + FLAKY)
    ran = project.pytest("--record-mode=once", "--reruns", "1", "-p", "no:asyncio")
    assert ran.outcomes["passed"] == 1
    assert ran.out.count("recorded: ") == 1
    assert "not recorded" not in ran.out
    assert len(read_recording(project.recording())) == 1


DYNAMIC = """
def test_weather(request):
    client = request.getfixturevalue("client")
    assert ask(client, "x") == "You said: x"

def test_other():
    pass
"""


def test_a_recording_that_a_test_asks_for_while_it_runs_is_used(project: Project) -> None:
    project.plain()
    project.write("test_chat.py", ASK + DYNAMIC)
    assert project.pytest("--record-mode=once").outcomes == {"passed": 2}
    for options in ((), ("-k", "other"), ("-n", "2")):
        assert "stale" not in project.pytest(*options).out
