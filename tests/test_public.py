"""The public names, and the README's examples in Python, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recorder
from tests.commands import PATIENCE, answer, environment, sqlite
from tests.upstream import Asked, Upstream, Wire

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
STREAM = (ROOT / "fixtures" / "assistants" / "code-interpreter-logs-image.sse").read_bytes()
EVENTS = re.findall(rb"^event: (?!done)(.*)$", STREAM, re.MULTILINE)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    def answer(wire: Wire, asked: Asked) -> None:
        if asked.target.startswith("/v1/threads"):
            wire.stream([STREAM])
        else:
            wire.whole(b'{"id": "resp_1", "object": "response", "status": "completed"}')

    with Upstream(answer) as upstream:
        yield upstream


def ran(example: str, folder: Path, upstream: Upstream) -> str:
    """What an example prints, run in a folder of its own; the API's own host is the upstream."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", example.replace("https://api.openai.com", upstream.origin)],
        capture_output=True,
        cwd=folder,
        env={**environment(), "OPENAI_BASE_URL": f"{upstream.origin}/v1", "OPENAI_API_KEY": "sk-none"},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr
    return done.stdout.decode()


def test_the_names_are_those_of_the_readme() -> None:
    assert recorder.__all__ == sorted(recorder.__all__)
    section = README.partition("## In Python")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)", section, re.MULTILINE)) == set(recorder.__all__)
    assert set(dir(recorder)) >= set(recorder.__all__)


@pytest.mark.parametrize("name", recorder.__all__)
def test_a_name_explains_itself(name: str) -> None:
    assert getattr(recorder, name).__doc__


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recrod'"):
        recorder.recrod  # noqa: B018 - that is the test


def test_importing_it_imports_no_client_and_no_database() -> None:
    code = "import recorder, sys; print({'httpx', 'httpx2', 'openai', 'sqlalchemy', 'aiohttp', 'anyio'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_there_are_no_more_examples_than_are_tested() -> None:
    assert len(EXAMPLES) == 3, "the third is a test: see test_pytest_plugin.py"


@pytest.mark.slow
def test_the_client_that_you_have_is_recorded_and_given_the_recording_back(tmp_path: Path, upstream: Upstream) -> None:
    printed = ran(EXAMPLES[0], tmp_path, upstream).splitlines()
    assert printed == [event.decode() for event in EVENTS] * 2
    assert upstream.connections == 1, "the second time it asked nobody"
    (session,) = answer("ls", db=tmp_path / "recorder.db")
    assert session["streams"] == 1


@pytest.mark.slow
def test_so_is_a_transport_under_a_label(tmp_path: Path, upstream: Upstream) -> None:
    assert ran(EXAMPLES[1], tmp_path, upstream) == ""
    assert upstream.connections == 1
    shown = answer("show", "nightly", db=sqlite(tmp_path / "calls.db"))
    assert len(shown["streams"]) == 1
