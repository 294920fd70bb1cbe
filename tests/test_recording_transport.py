"""The recording transport: what the hook records, as a transport, and besides what never had a response."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

import recorder
from recorder.collect import sharing
from recorder.errors import DatabaseError
from tests import leftovers
from tests.clients import ASYNC_KINDS, Kind
from tests.recorded import Recorded
from tests.upstream import PATIENCE, Asked, Upstream, Wire
from tests.writing import encoded, said

JSON = ("Content-Type", "application/json")
BODY = b"".join(b'event: thread.message.delta\ndata: {"n":%d}\n\n' % number for number in range(50)) + b"data: [DONE]\n\n"


def pieces(body: bytes = BODY, size: int = 77) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.fixture
def refused() -> Iterator[str]:
    """An origin at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def unanswered(wire: Wire, asked: Asked) -> None:
    assert wire.left()


class Watched:
    """A transport of the user's own, around the family's: it says what was asked of it."""

    def __init__(self, kind: Kind) -> None:
        self.inner = kind.transport()
        self.headers: list[list[str]] = []
        self.closed = 0

    def handle_request(self, request: Any) -> Any:
        self.headers.append(list(request.headers))
        return self.inner.handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        self.headers.append(list(request.headers))
        return await self.inner.handle_async_request(request)

    def close(self) -> None:
        self.closed += 1
        self.inner.close()

    async def aclose(self) -> None:
        self.closed += 1
        await self.inner.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("own", [True, False], ids=["own", "default"])
async def test_a_stream_is_the_same_at_the_client_and_in_the_log(kind: Kind, upstream: Upstream, db: str, own: bool) -> None:
    """Around a transport of the user's own, and around the family's where none is given."""
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    plain = kind.client()
    expected = await kind.fetch(plain, f"{upstream.origin}/v1", json={"stream": True})
    await kind.close(plain)
    watched = Watched(kind)
    client = kind.client(transport=recorder.RecordingTransport(watched if own else None, db))
    had = await kind.fetch(client, f"{upstream.origin}/v1", json={"stream": True})
    await kind.close(client)
    assert had.said == expected.said
    assert (len(watched.headers), watched.closed) == ((1, 1) if own else (0, 0))
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == BODY
    assert log.outcome(stream.stream_id) == "done"
    assert (stream.method, stream.path, stream.source) == ("POST", "/v1", "transport")
    assert json.loads(stream.request_body or b"") == {"stream": True}
    assert had.response.extensions["recorder.stream_id"] == stream.stream_id


@pytest.mark.anyio
async def test_the_label_of_a_request_is_not_sent_on_and_no_secret_is_kept(
    kind: Kind, upstream: Upstream, db: str, tmp_path: Path
) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    secret = "sk-THE-SECRET"
    watched = Watched(kind)
    client = kind.client(transport=recorder.RecordingTransport(watched, db, session="of the transport"))
    headers = {"Authorization": f"Bearer {secret}", "X-Recorder-Session": "own"}
    await kind.fetch(client, f"{upstream.origin}/v1?key={secret}", headers=headers)
    await kind.fetch(client, f"{upstream.origin}/v1", headers={"Cookie": secret})
    await kind.close(client)
    assert "x-recorder-session" not in watched.headers[0]
    assert upstream.asked("/v1").header("x-recorder-session") == []
    assert upstream.asked("/v1").header("authorization") == [f"Bearer {secret}"]
    assert [stream.session_label for stream in Recorded(db).streams()] == ["own", "of the transport"]
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


@pytest.mark.anyio
async def test_every_step_of_a_redirect_has_the_label_of_its_request(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/from", lambda wire, asked: wire.whole(b"", [("Location", "/to")], 307))
    upstream.on("/to", lambda wire, asked: wire.stream(pieces()))
    client = kind.client(transport=recorder.RecordingTransport(None, db), follow_redirects=True)
    had = await kind.fetch(client, f"{upstream.origin}/from", headers={"X-Recorder-Session": "own"}, content=b"{}")
    await kind.close(client)
    assert had.body == BODY
    log = Recorded(db)
    assert [(each.path, each.session_label, each.request_body) for each in log.streams()] == [
        ("/from", "own", b"{}"),
        ("/to", "own", b"{}"),
    ]


@pytest.mark.anyio
async def test_an_upload_in_pieces_arrives_whole(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    client = kind.client(transport=recorder.RecordingTransport(None, db))
    had = await kind.fetch(client, f"{upstream.origin}/v1", content=kind.upload([b"a" * 100_000, b"b"]))
    await kind.close(client)
    assert (had.body, had.failed) == (BODY, None)
    assert upstream.asked("/v1").body == b"a" * 100_000 + b"b"
    (stream,) = Recorded(db).streams()
    assert stream.request_body is None


# Requests that get no response


async def both(kind: Kind, transport: Any, url: str, db: str, **options: Any) -> tuple[Any, Any, Any]:
    """The same request without and with the recorder: what the client had of each, and what the log says of the second."""
    plain = kind.client(transport=transport(), **options)
    expected = await kind.fetch(plain, url)
    await kind.close(plain)
    client = kind.client(transport=recorder.RecordingTransport(transport(), db), **options)
    had = await kind.fetch(client, url)
    await kind.close(client)
    log = Recorded(db)
    (stream,) = log.streams()
    (event,) = log.events(stream.stream_id)
    return expected, had, json.loads(event.data)


@pytest.mark.anyio
async def test_a_connection_that_is_refused_is_no_response(kind: Kind, refused: str, db: str) -> None:
    expected, had, end = await both(kind, kind.transport, f"{refused}/v1", db)
    assert had.said == expected.said
    assert type(had.failed) is kind.family.ConnectError
    assert end == {"outcome": "no_response", "closed": "no_response", "detail": f"ConnectError: {had.failed}"}


@pytest.mark.anyio
async def test_a_server_that_hangs_up_before_it_answers_is_no_response(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.cut())
    expected, had, end = await both(kind, kind.transport, f"{upstream.origin}/v1", db)
    assert had.said == expected.said
    assert type(had.failed) is kind.family.RemoteProtocolError
    assert end == {"outcome": "no_response", "closed": "no_response", "detail": f"RemoteProtocolError: {had.failed}"}


@pytest.mark.anyio
async def test_a_client_that_does_not_wait_for_the_answer_closed_it(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", unanswered)
    options = {"timeout": kind.family.Timeout(PATIENCE, read=0.2)}
    expected, had, end = await both(kind, kind.transport, f"{upstream.origin}/v1", db, **options)
    assert had.said == expected.said
    assert type(had.failed) is kind.family.ReadTimeout
    assert end["outcome"] == end["closed"] == "client_closed"
    assert end["detail"].startswith("ReadTimeout")


@pytest.mark.anyio
async def test_an_error_of_a_transport_of_the_users_own_comes_through_as_it_is(kind: Kind, db: str) -> None:
    error = RuntimeError("of the user's own")

    class Raising:
        def handle_request(self, request: Any) -> Any:
            raise error

        async def handle_async_request(self, request: Any) -> Any:
            raise error

        def close(self) -> None: ...

        async def aclose(self) -> None: ...

    client = kind.client(transport=recorder.RecordingTransport(Raising(), db))
    with pytest.raises(RuntimeError) as raised:
        await kind.begin(client, "http://x/v1")
    assert raised.value is error
    await kind.close(client)
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.said(stream.stream_id, "$end") == [
        {"outcome": "no_response", "closed": "no_response", "detail": "RuntimeError: of the user's own"}
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.name)
async def test_a_task_that_is_cancelled_before_the_answer_closed_it(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", unanswered)
    client = kind.client(transport=recorder.RecordingTransport(None, db))
    task = asyncio.create_task(kind.begin(client, f"{upstream.origin}/v1"))
    await asyncio.to_thread(upstream.asked, "/v1")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.aclose()
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.said(stream.stream_id, "$end") == [
        {"outcome": "client_closed", "closed": "client_closed", "detail": "CancelledError"}
    ]


@pytest.mark.anyio
async def test_retries_of_the_wrapped_transport_are_one_stream(kind: Kind, refused: str, db: str) -> None:
    """And those of the wrapping one are many: it is asked each time."""
    client = kind.client(transport=recorder.RecordingTransport(kind.transport(retries=1), db))
    had = await kind.fetch(client, f"{refused}/v1")
    again = await kind.fetch(client, f"{refused}/v1")
    await kind.close(client)
    assert type(had.failed) is type(again.failed) is kind.family.ConnectError
    assert len(Recorded(db).streams()) == 2


# Its life


@pytest.mark.anyio
async def test_closing_the_client_closes_what_it_wraps_and_commits_all(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    shared = dict(sharing._shared)
    watched = Watched(kind)
    transport = recorder.RecordingTransport(watched, db)
    assert transport.name.endswith("x.db")
    client = kind.client(transport=transport)
    await kind.fetch(client, f"{upstream.origin}/v1")
    assert not transport.closed
    await kind.close(client)
    assert transport.closed
    assert watched.closed == 1
    assert transport.flush(0.1)
    assert dict(sharing._shared) == shared
    assert leftovers.writers() == []
    assert leftovers.open_files(db) == []
    await kind.close(transport)
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.outcome(stream.stream_id) == "done"


@pytest.mark.anyio
async def test_it_is_a_context_as_any_transport(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    transport = recorder.RecordingTransport(None, db)
    if kind.is_async:
        async with kind.client(transport=transport) as client:
            await kind.fetch(client, f"{upstream.origin}/v1")
    else:
        with kind.client(transport=transport) as client:
            await kind.fetch(client, f"{upstream.origin}/v1")
    assert transport.closed
    log = Recorded(db)
    assert log.body(log.streams()[0].stream_id) == BODY


@pytest.mark.anyio
async def test_a_transport_for_some_hosts_records_those_alone(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    client = kind.client(mounts={"all://localhost": recorder.RecordingTransport(None, db)})
    assert (await kind.fetch(client, f"{upstream.origin}/v1")).body == BODY
    assert (await kind.fetch(client, f"http://localhost:{upstream.port}/v1")).body == BODY
    await kind.close(client)
    (stream,) = Recorded(db).streams()
    assert stream.host == f"localhost:{upstream.port}"


@pytest.mark.anyio
async def test_a_client_goes_on_after_its_transport_was_closed(kind: Kind, upstream: Upstream, db: str) -> None:
    """A transport may be shared, and be closed with the first client: what others do later is as it was, and not recorded."""
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces()))
    transport = recorder.RecordingTransport(kind.transport(), db)
    client = kind.client(transport=transport)
    await kind.fetch(client, f"{upstream.origin}/v1")
    await kind.close(transport)
    had = await kind.fetch(client, f"{upstream.origin}/v1", headers={"X-Recorder-Session": "own"})
    assert (had.body, had.failed) == (BODY, None)
    assert upstream.asked("/v1", 1).header("x-recorder-session") == []
    assert leftovers.writers() == []
    await kind.close(client)
    assert len(Recorded(db).streams()) == 1


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="is a folder") as raised:
        recorder.RecordingTransport(None, f"sqlite:///{tmp_path}")
    assert "\n" not in str(raised.value)


def test_the_database_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECORDER_DB", f"sqlite:///{tmp_path}/of-environment.db")
    with closing(recorder.RecordingTransport()):
        assert (tmp_path / "of-environment.db").exists()


@pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning")
def test_an_sdk_works_over_it(upstream: Upstream, db: str) -> None:
    body = encoded(said("Hello there"))
    upstream.on("/v1/threads/runs", lambda wire, asked: wire.stream(pieces(body)))
    family = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
    http_client = family.Client(transport=recorder.RecordingTransport(None, db))
    with openai.OpenAI(base_url=f"{upstream.origin}/v1", api_key="k", http_client=http_client) as sdk:
        events = [event.event for event in sdk.beta.threads.create_and_run(assistant_id="asst_1", stream=True)]
    assert events == [name for name, _ in said("Hello there")[:-1]]
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == body
    assert log.outcome(stream.stream_id) == "done"


def test_an_sdk_that_finds_nobody_leaves_each_of_its_attempts(refused: str, db: str) -> None:
    """The SDK tries again by itself, and each attempt is a request without a response."""
    with openai.OpenAI(base_url=f"{refused}/v1", api_key="k", max_retries=1) as sdk:
        sdk._client._transport = recorder.RecordingTransport(sdk._client._transport, db)
        with pytest.raises(openai.APIConnectionError):
            sdk.responses.create(model="m", input="hello")
    log = Recorded(db)
    first, second = log.streams()
    for stream in (first, second):
        assert log.outcome(stream.stream_id) == "no_response"
    assert [dict(stream.request_headers)["x-stainless-retry-count"] for stream in (first, second)] == ["0", "1"]
