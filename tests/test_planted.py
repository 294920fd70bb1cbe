"""Secrets are planted in everything that passes, on every way of capture; then every byte of the database's files is searched.

What is searched for are parts of eight characters, so that half a secret counts as one, also where events keep its parts apart.
Without settings the same search finds what is planted in bodies and events: it would find it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

import recorder
from tests.commands import ProxyProcess, output, until
from tests.commands import recorder as command
from tests.upstream import SSE, Asked, Upstream, Wire
from tests.writing import BORN, DONE, encoded, message, run, step_delta, text, text_delta

pytestmark = pytest.mark.slow


def secret(name: str) -> str:
    """A key that the pattern matches, of its own for each place where it is planted."""
    return "sk-" + "".join(f"{letter}{number}" for number, letter in enumerate(name * 2)).replace(" ", "Z")


HEADER, BEARER, COOKIE = secret("Header"), secret("Bearer"), secret("Cookie")
QUERY, ESCAPED, PARAMETER, PATH = secret("Query"), secret("Escaped"), secret("Parameter"), secret("Pathname")
ASKED, TOOL = secret("Asked"), secret("Toolhead")
DELTA, SNAPSHOT, ARGUMENTS, RAW, COMMENT = (
    secret("Delta"),
    secret("Snapshot"),
    secret("Argument"),
    secret("Rawbytes"),
    secret("Comment"),
)
BODY, PACKED, PLAIN, ERROR, BROKEN, ANSWERED = (
    secret("Body"),
    secret("Packed"),
    secret("Plain"),
    secret("Errors"),
    secret("Broken"),
    secret("Answered"),
)
PRIVATE_ASKED, PRIVATE_SAID, PRIVATE_TAIL = "Anamnesis of Ms Holm", "Diagnosis and dosage", "Recovery of Mr Lund"
"""What a path leads to."""

ALWAYS = (HEADER, BEARER, COOKIE, PARAMETER, TOOL, ANSWERED)
"""What is never stored, set or not."""

IN_REQUESTS = (QUERY, ESCAPED, PATH, ASKED, PRIVATE_ASKED)
IN_RESPONSES = (DELTA, SNAPSHOT, ARGUMENTS, RAW, COMMENT, BODY, PACKED, PLAIN, ERROR, BROKEN, PRIVATE_SAID, PRIVATE_TAIL)

SETTINGS = r"""
[redact]
paths = ["$..private"]
patterns = ['sk-[A-Za-z0-9]{10,}']
"""


def stream_body() -> bytes:
    """A run whose text and whose tool's arguments come in deltas that cut the secrets."""
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"key":"' + ARGUMENTS[:9]},
    }
    more = {"index": 0, "type": "function", "function": {"arguments": ARGUMENTS[9:] + '"}'}}
    return encoded(
        [
            ("thread.run.created", run(metadata={"private": [PRIVATE_SAID, 41]})),
            text_delta("The key is "),
            text_delta(DELTA[:5]),
            text_delta(DELTA[5:14]),
            step_delta(call),
            text_delta(DELTA[14:] + "."),
            step_delta(more),
            ("thread.message.completed", message("completed", content=[text(f"The key is {SNAPSHOT}.")])),
            ("thread.run.completed", run("completed", completed_at=BORN + 9)),
            DONE,
        ]
    )


RAW_BODY = (
    f": {COMMENT}\r\nid: {RAW}\r\nevent: note\r\n" + f'data: {{"a":\r\ndata: "{RAW}"}}\r\n\r\n' + f": {COMMENT}\r\n\r\n"
).encode()
JSON_BODY = json.dumps({"list": [{"key": BODY, "private": {"deep": [PRIVATE_SAID]}}] * 3, "é": 1}).encode()
BROKEN_BODY = encoded([text_delta("calm")]) + encoded([text_delta(BROKEN)])[:-20]
TAIL_BODY = b'event: note\ndata: {"private": "' + PRIVATE_TAIL.encode()
JSON = ("Content-Type", "application/json")
LEAKY = [("X-Secret", ANSWERED), ("Set-Cookie", f"a={ANSWERED}")]


def _chunked(body: bytes, headers: list[tuple[str, str]], size: int = 37) -> Callable[[Wire, Asked], None]:
    return lambda wire, asked: wire.stream([body[at : at + size] for at in range(0, len(body), size)], headers)


def _cut(body: bytes) -> Callable[[Wire, Asked], None]:
    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(body)
        wire.cut()

    return answer


ANSWERS: dict[str, Callable[[Wire, Asked], None]] = {
    "/v1/threads/thread_1/runs": _chunked(stream_body(), [SSE, *LEAKY]),
    "/v1/raw": _chunked(RAW_BODY, [SSE]),
    "/v1/json": _chunked(JSON_BODY, [JSON, *LEAKY]),
    f"/v1/keys/{PATH}": lambda wire, asked: wire.whole(JSON_BODY),
    "/v1/packed": lambda wire, asked: wire.whole(
        gzip.compress(json.dumps({"key": PACKED, "private": PRIVATE_SAID}).encode()), [JSON, ("Content-Encoding", "gzip")]
    ),
    "/v1/packed-events": _chunked(
        gzip.compress(encoded([text_delta(PACKED[:8]), text_delta(PACKED[8:])])), [SSE, ("Content-Encoding", "gzip")]
    ),
    "/v1/plain": _chunked(f"the key {PLAIN} of\n".encode() * 3, [("Content-Type", "text/plain")]),
    "/v1/error": lambda wire, asked: wire.whole(
        json.dumps({"error": {"message": f"Incorrect API key provided: {ERROR}."}}).encode(), status=401
    ),
    "/v1/broken": _cut(BROKEN_BODY),
    "/v1/tail": _cut(TAIL_BODY),
}

QUERIED = f"?note={QUERY}&other=sk%2D{ESCAPED[3:]}&api-key={PARAMETER}"
HEADERS = {"Authorization": f"Bearer {BEARER}", "X-Key": HEADER, "Cookie": f"a={COOKIE}", "Content-Type": "application/json"}
REQUEST = {
    "instructions": f"use {ASKED}",
    "private": {"note": PRIVATE_ASKED},
    "tools": [{"type": "mcp", "headers": {"x": TOOL}, "authorization": TOOL}],
}


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    with Upstream() as found:
        for path, answer in ANSWERS.items():
            found.on(path, answer)
        yield found
        assert not found.errors


def files(folder: Path) -> dict[str, bytes]:
    """Read by another process: SQLite's locks of this one would go with the file that it closes."""
    found = {
        path.name: subprocess.run(["cat", str(path)], capture_output=True, check=True).stdout
        for path in sorted(folder.glob("log.db*"))
    }
    assert "log.db" in found
    return found


def found_in(folder: Path, secrets: tuple[str, ...]) -> set[tuple[str, str]]:
    """(secret, file) for each secret of which eight characters stand in a file of the database, escaped or not."""
    found = set()
    for name, held in files(folder).items():
        for planted in secrets:
            parts = {planted[at : at + 8] for at in range(3, len(planted) - 7)}
            if any(part.encode() in held for part in parts):
                found.add((planted, name))
    return found


def looked_through(folder: Path, *given: str) -> None:
    """Every file, as they stand while they are written, after the read models were made, and after all is in one file."""
    secrets = (*ALWAYS, *IN_REQUESTS, *IN_RESPONSES, *given)
    assert found_in(folder, secrets) == set()
    output("ls", db=folder / "log.db")
    assert found_in(folder, secrets) == set()
    with contextlib.closing(sqlite3.connect(folder / "log.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert found_in(folder, secrets) == set()


def ended(folder: Path) -> int:
    """How many streams of the log are over."""
    with contextlib.closing(sqlite3.connect(folder / "log.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM heads WHERE outcome IS NOT NULL").fetchone()[0])


@pytest.fixture
def settings(tmp_path: Path) -> str:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS)
    return str(file)


def ask_all(client: Any, origin: str) -> None:
    """Ask for everything that is planted, and read it all as far as it comes."""
    for path in ANSWERS:
        with (
            contextlib.suppress(httpx.HTTPError, httpx2.HTTPError),
            client.stream("POST", origin + path + QUERIED, headers=HEADERS, json=REQUEST) as response,
        ):
            for _ in response.iter_bytes():
                pass


async def ask_all_async(client: Any, origin: str) -> None:
    for path in ANSWERS:
        with contextlib.suppress(httpx.HTTPError, httpx2.HTTPError):
            async with client.stream("POST", origin + path + QUERIED, headers=HEADERS, json=REQUEST) as response:
                async for _ in response.aiter_bytes():
                    pass


@pytest.mark.parametrize("durability", ["relaxed", "strict"])
def test_through_the_proxy(tmp_path: Path, settings: str, durability: str) -> None:
    with (
        upstream() as origin,
        ProxyProcess(origin.origin, "--settings", settings, "--durability", durability, db=tmp_path / "log.db") as proxy,
    ):
        with httpx.Client(trust_env=False) as client:
            ask_all(client, f"http://{proxy.host}:{proxy.port}")
        until(lambda: ended(tmp_path) == len(ANSWERS))
        assert origin.asked("/v1/json").header("authorization") == [f"Bearer {BEARER}"], "the upstream gets all of it"
        assert json.loads(origin.asked("/v1/json").body) == REQUEST
        looked_through(tmp_path)
        proxy.stop()
    looked_through(tmp_path)


def test_without_settings_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    with upstream() as origin, ProxyProcess(origin.origin, db=tmp_path / "log.db") as proxy:
        with httpx.Client(trust_env=False) as client:
            ask_all(client, f"http://{proxy.host}:{proxy.port}")
        until(lambda: ended(tmp_path) == len(ANSWERS))
        assert found_in(tmp_path, ALWAYS) == set()
        assert {planted for planted, _ in found_in(tmp_path, IN_REQUESTS)} == set(IN_REQUESTS)
        assert {planted for planted, _ in found_in(tmp_path, IN_RESPONSES)} == set(IN_RESPONSES)


def test_with_content_off_nothing_that_was_said_is_left(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("content = false")
    with (
        upstream() as origin,
        ProxyProcess(origin.origin, "--settings", str(tmp_path / "settings.toml"), db=tmp_path / "log.db") as proxy,
    ):
        with httpx.Client(trust_env=False) as client:
            ask_all(client, f"http://{proxy.host}:{proxy.port}")
        until(lambda: ended(tmp_path) == len(ANSWERS))
        said = (*tuple(set(IN_RESPONSES) - {RAW}), ASKED, PRIVATE_ASKED, "key is", "weather in")
        assert found_in(tmp_path, (*ALWAYS, *said)) == set()
        output("ls", db=tmp_path / "log.db")
        assert found_in(tmp_path, (*ALWAYS, *said)) == set()
    (shown,) = json.loads(output("sql", "SELECT run_id, status, total_tokens FROM runs", "--json", db=tmp_path / "log.db"))
    assert (shown["run_id"], shown["status"]) == ("run_1", "completed")


@pytest.mark.parametrize("family", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("way", ["hook", "transport"])
def test_in_a_program(tmp_path: Path, settings: str, family: Any, way: str) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    with upstream() as origin:
        if way == "hook":
            with family.Client(trust_env=False) as client, recorder.record(client, url, settings=settings) as hook:
                ask_all(client, origin.origin)
                assert hook.flush(20)
                looked_through(tmp_path)
        else:
            with family.Client(transport=recorder.RecordingTransport(None, url, settings=settings), trust_env=False) as client:
                ask_all(client, origin.origin)
    assert ended(tmp_path) == len(ANSWERS)
    looked_through(tmp_path)


@pytest.mark.parametrize("family", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("way", ["hook", "transport"])
def test_in_a_program_of_coroutines(tmp_path: Path, settings: str, family: Any, way: str) -> None:
    url = f"sqlite:///{tmp_path}/log.db"

    async def ask(origin: str) -> None:
        if way == "hook":
            async with family.AsyncClient(trust_env=False) as client, recorder.record(client, url, settings=settings):
                await ask_all_async(client, origin)
        else:
            async with family.AsyncClient(
                transport=recorder.RecordingTransport(None, url, settings=settings), trust_env=False
            ) as client:
                await ask_all_async(client, origin)

    with upstream() as origin:
        asyncio.run(ask(origin.origin))
    assert ended(tmp_path) == len(ANSWERS)
    looked_through(tmp_path)


def test_what_an_error_says_of_a_request_without_an_answer(tmp_path: Path, settings: str) -> None:
    class Failing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError(f"no route for {ERROR}")

    transport = recorder.RecordingTransport(Failing(), f"sqlite:///{tmp_path}/log.db", settings=settings)
    with httpx.Client(transport=transport) as client, pytest.raises(httpx.ConnectError):
        client.get("http://127.0.0.1/")
    recorded = json.loads(output("show", "last", "--json", db=tmp_path / "log.db"))
    assert recorded["events"][-1]["type"] == "$end"
    assert "no route for xxxx" in str(recorded["events"][-1]["data"])
    looked_through(tmp_path)


PROGRAM = """
import os, sys, urllib.request, urllib.error
base = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
for path in sys.argv[2:]:
    request = urllib.request.Request(base + path, open(sys.argv[1], "rb").read(), {HEADERS!r})
    try:
        urllib.request.urlopen(request).read()
    except Exception as error:
        print(type(error).__name__)
"""


def test_from_a_program_in_any_language(tmp_path: Path, settings: str) -> None:
    (tmp_path / "body.json").write_text(json.dumps(REQUEST))
    with upstream() as origin:
        paths = [path + QUERIED for path in ANSWERS]
        done = command(
            *("record", "--upstream", origin.origin, "--settings", settings, "--"),
            *(sys.executable, "-c", PROGRAM.replace("{HEADERS!r}", repr(HEADERS)), str(tmp_path / "body.json"), *paths),
            db=tmp_path / "log.db",
        )
    assert done.returncode == 0, done.stderr.decode()
    assert ended(tmp_path) == len(ANSWERS)
    looked_through(tmp_path)


def test_from_the_command_line(tmp_path: Path, settings: str) -> None:
    headers = [argument for name, value in HEADERS.items() for argument in ("-H", f"{name}: {value}")]
    with upstream() as origin:
        for path in ANSWERS:
            url = origin.origin + path + QUERIED
            command("request", "POST", url, "-d", json.dumps(REQUEST), *headers, "--settings", settings, db=tmp_path / "log.db")
    assert ended(tmp_path) == len(ANSWERS)
    looked_through(tmp_path)


def planted_files(folder: Path) -> list[Path]:
    """Files of every kind, each with a request beside it where it takes one."""
    folder.mkdir()
    lines = b"".join(line[6:] + b"\n" for line in stream_body().splitlines() if line.startswith(b"data: {"))
    given = {
        "run.sse": stream_body(),
        "raw.sse": RAW_BODY,
        "broken.sse": BROKEN_BODY,
        "tail.sse": TAIL_BODY,
        "body.json": JSON_BODY,
        "lines.events.jsonl": lines,
        "plain.json": f"no json {PLAIN}".encode(),
    }
    for name, content in given.items():
        (folder / name).write_bytes(content)
        beside = {"method": "POST", "host": "api", "path": f"/v1/keys/{PATH}{QUERIED}", "body": {**REQUEST, "n": name}}
        (folder / f"{name.partition('.')[0]}.request.json").write_text(json.dumps(beside))
    return [folder / name for name in given]


def test_from_files(tmp_path: Path, settings: str) -> None:
    given = [str(path) for path in planted_files(tmp_path / "given")]
    output("import", *given, "--settings", settings, db=tmp_path / "log.db")
    assert ended(tmp_path) == len(given)
    looked_through(tmp_path)
    output("import", *given, "--settings", settings, db=tmp_path / "log.db")
    assert ended(tmp_path) == len(given), "importing again adds nothing"


def test_from_recordings(tmp_path: Path, settings: str) -> None:
    """Made without settings, taken in with them."""
    (tmp_path / "plain").mkdir()
    with (
        upstream() as origin,
        httpx.Client(trust_env=False) as client,
        recorder.record(client, f"sqlite:///{tmp_path}/plain/log.db", session="all"),
    ):
        ask_all(client, origin.origin)
    file = tmp_path / "all.recording.jsonl"
    output("export", "all", "-o", str(file), db=tmp_path / "plain" / "log.db")
    assert found_in(tmp_path / "plain", (DELTA, BODY))
    output("import", str(file), "--settings", settings, db=tmp_path / "log.db")
    assert ended(tmp_path) == len(ANSWERS)
    looked_through(tmp_path)


def test_a_secret_of_few_letters_cannot_be_found_by_trying_the_ids_of_imports(tmp_path: Path, settings: str) -> None:
    """The id of an import is a hash of its content: of what is stored, so it is the same for every PIN."""
    ids = set()
    for pin in ("1234", "9876"):
        file = tmp_path / f"{pin}.json"
        file.write_text(json.dumps({"private": pin, "created_at": BORN}))
        (row,) = json.loads(output("import", str(file), "--settings", settings, "--json", db=tmp_path / f"{pin}.db"))
        ids.add(row["stream_id"])
    assert len(ids) == 1


def test_the_files_are_for_their_owner_alone(tmp_path: Path, settings: str) -> None:
    with httpx.Client() as client, recorder.record(client, f"sqlite:///{tmp_path}/log.db", settings=settings):
        pass
    assert {os.stat(tmp_path / name).st_mode & 0o077 for name in files(tmp_path)} == {0}
