"""A deck: what its modes play, ask and write, for clients of either family, sync and async, and at a base URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recorder import jsontext, log
from recorder.deck import Deck
from recorder.errors import ImportFailed, RecorderError, UsageError
from recorder.recording import events_of, read_recording
from recorder.settings import Settings
from recorder.sse import chunks
from recorder.testing import MODES
from tests.clients import KINDS, Kind
from tests.commands import PATIENCE, environment
from tests.upstream import Asked, Upstream, Wire

pytestmark = pytest.mark.anyio

PATH = "/v1/chat"
SECRET = "sk-proj-0123456789abcdefghij"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Says how often it was asked, and what."""
    count = 0

    def answer(wire: Wire, asked: Asked) -> None:
        nonlocal count
        count += 1
        wire.stream([b"data: %d\n\n" % count, b"data: ", asked.body or b"nothing", b"\n\n"])

    with Upstream(answer) as running:
        yield running
        assert running.errors == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recordings" / "x.recording.jsonl"


class Asking:
    """Asks a deck in one way: by a kind of client."""

    def __init__(self, kind: Kind, upstream: Upstream, file: Path) -> None:
        self.kind = kind
        self.upstream = upstream
        self.file = file

    async def __call__(self, mode: str, *bodies: Any, path: str = PATH, **options: Any) -> tuple[list[Any], int, Deck]:
        """What a client gets for these bodies, each the number that the upstream said or the error; how often that was asked."""
        before = self.upstream.count(path)
        found: list[Any] = []
        with Deck(self.file, mode, **options) as deck:
            client = self.kind.client(timeout=PATIENCE)
            deck.attach(client)
            for body in bodies:
                content = body if isinstance(body, bytes) else jsontext.dumps(body).encode()
                headers = {"content-type": "application/json", "authorization": f"Bearer {SECRET}"}
                got = await self.kind.fetch(client, self.upstream.origin + path, content=content, headers=headers)
                assert got.failed is None
                found.append(int(got.body.split()[1]) if got.response.status_code == 200 else jsontext.loads(got.body)["error"])
            await self.kind.close(client)
        return found, self.upstream.count(path) - before, deck

    def kept(self) -> list[Any]:
        """The bodies of the requests in the file."""
        return [jsontext.loads(stream.request_body or b"") for stream, _ in read_recording(self.file)]


@pytest.fixture
def ask(kind: Kind, upstream: Upstream, file: Path) -> Asking:
    return Asking(kind, upstream, file)


@pytest.fixture
def ask_once(upstream: Upstream, file: Path) -> Asking:
    """With the simplest kind of client, where that makes no difference."""
    return Asking(KINDS[0], upstream, file)


# Modes


async def test_once_makes_the_file_and_then_only_plays_it(ask: Asking) -> None:
    assert (await ask("once", {"a": 1}, {"a": 2}))[:2] == ([1, 2], 2)
    before = ask.file.read_bytes()
    for mode in ("once", "none"):
        assert (await ask(mode, {"a": 2}, {"a": 1}))[:2] == ([2, 1], 0)
        ((error,), asked, deck) = await ask(mode, {"a": 3})
        assert (error["code"], asked, len(deck.unanswered)) == ("recording_not_found", 0, 1)
    assert ask.file.read_bytes() == before


async def test_none_without_a_file_says_what_to_run(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ask.file.parent.parent)
    with pytest.raises(UsageError) as failure:
        await ask("none", {"a": 1}, again="pytest --record-mode={mode} test_x.py")
    assert str(failure.value) == (
        "no recording: recordings/x.recording.jsonl is not there; make one: pytest --record-mode=once test_x.py"
    )
    assert ask.upstream.connections == 0


async def test_new_episodes_adds_what_is_missing(ask: Asking) -> None:
    assert (await ask("new_episodes", {"a": 1}))[:2] == ([1], 1)
    assert (await ask("new_episodes", {"a": 1}, {"a": 2}))[:2] == ([1, 2], 1)
    assert ask.kept() == [{"a": 1}, {"a": 2}]
    before = ask.file.read_bytes()
    found, asked, deck = await ask("new_episodes", {"a": 2})
    assert (found, asked, deck.saved, ask.file.read_bytes()) == ([2], 0, None, before)


async def test_all_asks_everything_and_keeps_what_was_not_asked_again(ask: Asking) -> None:
    await ask("all", {"a": 1}, {"a": 2})
    found, asked, deck = await ask("all", {"a": 2}, {"a": 3})
    assert (found, asked, deck.saved) == ([3, 4], 2, 2)
    assert ask.kept() == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert (await ask("none", {"a": 1}, {"a": 2}, {"a": 3}))[0] == [1, 3, 4]


async def test_rewrite_asks_everything_and_keeps_nothing_else(ask: Asking) -> None:
    await ask("rewrite", {"a": 1}, {"a": 2})
    assert (await ask("rewrite", {"a": 2}))[:2] == ([3], 1)
    assert ask.kept() == [{"a": 2}]
    assert (await ask("rewrite"))[1] == 0
    assert ask.kept() == [{"a": 2}], "who asks nothing changes nothing"


async def test_what_a_failed_test_recorded_is_not_written(ask_once: Asking, upstream: Upstream) -> None:
    with Deck(ask_once.file, "once") as deck:
        client = deck.attach(httpx.Client())
        client.post(upstream.origin + PATH)
        deck.keeps = False
        client.close()
    assert not ask_once.file.exists()
    assert deck.saved is None


async def test_what_nobody_asked_for_is_known(ask_once: Asking) -> None:
    await ask_once("once", {"a": 1}, {"a": 2})
    deck = (await ask_once("none", {"a": 2}))[2]
    assert deck.unused == [f"POST {PATH}"]
    assert (await ask_once("none", {"a": 2}, {"a": 1}))[2].unused == []


def test_another_mode_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match="'twice' is no record mode; there are none, once, new_episodes, all, rewrite"):
        Deck(file, "twice")


# What answers a request


async def test_a_changed_request_is_refused_with_the_nearest_recording_and_the_difference(ask: Asking) -> None:
    await ask("once", {"messages": [{"content": "Oslo"}], "n": 1})
    ((error,), _, deck) = await ask("none", {"messages": [{"content": "Bergen"}], "n": 1}, again="pytest --record-mode={mode} x")
    ((stream, _),) = read_recording(ask.file)
    assert error["message"] == (
        f"recorder: no recording answers POST {PATH}; the nearest is POST {PATH} of stream {stream.stream_id}, which differs:"
        ' .messages[0].content is "Bergen", recorded was "Oslo"; if that is meant, record it again:'
        " pytest --record-mode=rewrite x"
    )
    assert [tuple(one) for one in deck.unanswered] == [(f"POST {PATH}", error["message"])]


async def test_what_is_volatile_may_differ(ask: Asking) -> None:
    def body() -> dict[str, Any]:
        return {"input": "hi", "metadata": {"at": os.urandom(4).hex()}, "context": f"request {uuid.uuid4()}"}

    assert (await ask("once", body(), body()))[0] == [1, 2]
    assert (await ask("none", body(), body()))[:2] == ([1, 2], 0)


async def test_what_was_redacted_is_found_again_and_is_nowhere(ask: Asking) -> None:
    settings = Settings(redact={"paths": ["$.patient"]})
    given = {"patient": "Ada", "key": SECRET}, {"patient": "Bob", "key": SECRET[:-1] + "K"}
    assert (await ask("once", *given, settings=settings))[0] == [1, 2]
    assert not any(secret in ask.file.read_text() for secret in ("Ada", "Bob", "sk-"))
    assert (await ask("none", *given, settings=settings))[:2] == ([1, 2], 0)
    assert (await ask("none", {**given[0], "more": 1}, settings=settings))[0][0]["code"] == "recording_not_found"


async def test_what_was_redacted_by_other_settings_is_taken_for_equal(ask_once: Asking) -> None:
    """As in a recording that somebody else exported."""
    await ask_once("once", {"patient": "Adalbert", "city": "Oslo"}, settings=Settings(redact={"paths": ["$.patient"]}))
    assert (await ask_once("none", {"patient": "Adalbert", "city": "Oslo"}))[0] == [1]
    assert (await ask_once("none", {"patient": "Adalbert", "city": "Bergen"}))[0][0]["code"] == "recording_not_found"


async def test_chunks_statuses_and_breaks_come_as_they_were(ask_once: Asking, upstream: Upstream) -> None:
    def broken(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for part in (b"data: 1\n", b"\ndata: 2", b"\n\n"):
            wire.chunk(part)
        wire.cut()

    upstream.on("/broken", broken)
    upstream.on("/limited", lambda wire, asked: wire.whole(b'{"error": {}}', (("Retry-After", "7"), ("Set-Cookie", "a")), 429))
    for mode in ("once", "none"):
        with Deck(ask_once.file, mode) as deck, httpx.Client(timeout=PATIENCE) as client:
            deck.attach(client)
            limited = client.get(upstream.origin + "/limited")
            assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
            got: list[bytes] = []
            with client.stream("GET", upstream.origin + "/broken") as response, pytest.raises(httpx.RemoteProtocolError):
                got += response.iter_raw()
            assert b"".join(got) == b"data: 1\n\ndata: 2\n\n"
    assert upstream.count("/broken") == upstream.count("/limited") == 1
    assert "set-cookie" not in ask_once.file.read_text().lower()


# Clients


async def test_a_client_is_given_back_as_it_was(kind: Kind, upstream: Upstream, file: Path) -> None:
    client = kind.client()
    before = client._transport, client._mounts
    with Deck(file, "once") as deck:
        assert deck.attach(client) is client
        await kind.fetch(client, upstream.origin + PATH)
    assert (client._transport, client._mounts) == before
    assert (await kind.fetch(client, upstream.origin + PATH)).body.startswith(b"data: 2"), "and its connections are open"
    await kind.close(client)
    with pytest.raises(RecorderError, match="its test is over"):
        deck.attach(client)


async def test_a_transport_serves_a_client_that_is_made_with_it(kind: Kind, upstream: Upstream, file: Path) -> None:
    for mode, inner in (("once", None), ("none", None), ("rewrite", kind.transport())):
        with Deck(file, mode) as deck:
            client = kind.client(transport=deck.transport(inner))
            assert (await kind.fetch(client, upstream.origin + PATH)).body.split()[1] == (b"2" if inner else b"1")
            await kind.close(client)


async def test_several_clients_share_the_place_in_the_recording(ask_once: Asking, upstream: Upstream) -> None:
    await ask_once("once", {"a": 1}, {"a": 1}, {"a": 1})
    with Deck(ask_once.file) as deck:
        found = []
        for _ in range(3):
            with httpx.Client() as client:
                found.append(deck.attach(client).post(upstream.origin + PATH, json={"a": 1}).text.split()[1])
    assert found == ["1", "2", "3"]


# A base URL


ELSEWHERE = """
import sys, urllib.request
for body in sys.argv[2:]:
    request = urllib.request.Request(sys.argv[1] + "/chat?a=%20b", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        print(response.status, response.headers["content-type"], response.read().split()[1].decode())
"""


@pytest.mark.slow
def test_another_process_has_it_at_a_base_url(file: Path, upstream: Upstream) -> None:
    asked = []
    for mode in ("once", "none"):
        with Deck(file, mode) as deck:
            url = deck.url(f"{upstream.origin}/v1")
            assert deck.url(upstream.origin + "/") == url.removesuffix("v1"), "one server an API"
            done = subprocess.run(
                [sys.executable, "-c", ELSEWHERE, url, '{"a":1}', '{"a": 2}'],
                capture_output=True,
                env=environment(),
                timeout=PATIENCE,
                check=True,
            )
        assert done.stdout.decode().splitlines() == ["200 text/event-stream 1", "200 text/event-stream 2"]
        asked.append(upstream.count(PATH))
    assert asked == [2, 2]
    assert upstream.asked(PATH).target == PATH + "?a=%20b"
    assert upstream.asked(PATH).header("host") == [upstream.origin.removeprefix("http://")]
    assert [stream.query for stream, _ in read_recording(file)] == ["a=%20b"] * 2


def test_a_base_url_gives_chunks_breaks_and_refusals_as_they_are(file: Path, upstream: Upstream) -> None:
    parts = [b"data: \xe2\x82", b"\xac\n", b"\ndata: 2\n\n"]

    def broken(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for part in parts:
            wire.chunk(part)
        wire.cut()

    upstream.on("/broken", broken)
    for mode in ("once", "none"):
        with Deck(file, mode, speed=1.0) as deck, httpx.Client(base_url=deck.url(upstream.origin), timeout=PATIENCE) as client:
            got: list[bytes] = []
            with client.stream("POST", "/broken") as response, pytest.raises(httpx.RemoteProtocolError):
                got += response.iter_raw()
            assert b"".join(got) == b"".join(parts)
            if mode == "none":
                refused = client.post("/other")
                assert (refused.status_code, refused.json()["error"]["code"]) == (404, "recording_not_found")
                assert deck.unanswered[0].request == "POST /other"
    ((_, frames),) = read_recording(file)
    assert b"".join(part for _, part in chunks(log.wire(events_of(frames)))) == b"".join(parts)


def test_a_client_that_leaves_takes_the_upstream_with_it(file: Path, upstream: Upstream) -> None:
    left: list[bool] = []

    def endless(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(b"data: 1\n\n")
        left.append(wire.left())

    upstream.on("/endless", endless)
    with (
        Deck(file, "once") as deck,
        httpx.Client(base_url=deck.url(upstream.origin), timeout=PATIENCE) as client,
        client.stream("GET", "/endless") as response,
    ):
        assert next(response.iter_raw()) == b"data: 1\n\n"
    assert left == [True]
    ((_, frames),) = read_recording(file)
    assert json.loads(frames[-1].data)["outcome"] == "client_closed"


@pytest.mark.parametrize("given", ["api.openai.com", "", "http://"])
def test_what_is_no_base_url_is_refused(file: Path, given: str) -> None:
    with Deck(file, "once") as deck, pytest.raises(UsageError, match="is no base URL"):
        deck.url(given)


# Files


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("rewrite", "all")])
def test_a_spoilt_file_is_named_with_its_line(file: Path, mode: str) -> None:
    file.parent.mkdir()
    file.write_text('{"recorder":2,"source":"","requests":[]}\n')
    with Deck(file, mode) as deck, pytest.raises(ImportFailed, match="breaks off in line 1"):
        deck.transport()


def test_nothing_is_left_behind(file: Path, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Deck(file, "once"):
        pass  # makes the database that others are copied from, which stays for the process
    made: list[str] = []
    from recorder import deck as module

    def remembering(make: Callable[[], str] = module._new_database) -> str:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(module, "_new_database", remembering)
    for mode in ("once", "new_episodes"):
        with Deck(file, mode) as deck, httpx.Client() as client:
            deck.attach(client).post(upstream.origin + PATH, json={"mode": mode})
    assert len(made) == 3
    assert not any(Path(url.removeprefix("sqlite:///")).parent.exists() for url in made)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
