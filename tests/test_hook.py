"""The hook on a client of httpx or httpx2, sync or async: the log has all that the client had, and the client notices nothing."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import openai
import pytest

import recorder
from recorder.errors import DatabaseError, UsageError
from recorder.settings import REQUEST_BODY
from tests import leftovers, writing
from tests.clients import ASYNC_KINDS, Kind, finished, following
from tests.commands import output, until
from tests.recorded import Recorded
from tests.upstream import PATIENCE, SSE, Asked, Upstream, Wire

JSON = ("Content-Type", "application/json")
MS = 1000
SECRET = "sk-THE-SECRET"


def event(number: int) -> bytes:
    return b'event: thread.message.delta\ndata: {"n":%d}\n\n' % number


EVENTS = b"".join(event(number) for number in range(50))
BODY = EVENTS + b": still here\n\nid: 7\nretry: 10\ndata: x\r\n\r\ndata: [DONE]\n\n"


def pieces(body: bytes, size: int = 77) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


# What is recorded


@pytest.mark.anyio
async def test_a_stream_is_the_same_at_the_client_and_in_the_log(kind: Kind, upstream: Upstream, db: str, tmp_path: Path) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces(BODY)))
    client = kind.client()
    expected = await kind.fetch(client, f"{upstream.origin}/v1", json={"stream": True})
    async with kind.recorded(client, db) as hook:
        had = await kind.fetch(client, f"{upstream.origin}/v1", json={"stream": True})
        assert hook.flush(PATIENCE)
        (stream,) = Recorded(db).streams()
    await kind.close(client)
    assert had.said == expected.said
    assert had.response.extensions["recorder.stream_id"] == stream.stream_id
    log = Recorded(db)
    assert log.body(stream.stream_id) == BODY == output("export", "last", "--format", "sse", db=db)
    assert log.outcome(stream.stream_id) == "done"
    assert log.said(stream.stream_id, "$end") == [{"outcome": "done", "closed": "eof"}]
    assert log.said(stream.stream_id, "$gap") == []


@pytest.mark.anyio
async def test_events_reach_the_client_unbuffered_and_their_chunks_and_times_are_kept(
    kind: Kind, upstream: Upstream, db: str
) -> None:
    """The upstream sends each piece only when the client has the one before, 50 ms later, also in the middle of an event."""
    sent = [event(0), event(1) + event(2), b"event: thread.mess", b'age.delta\ndata: {"n', b'":3}\n', b"\n", event(4) * 10]
    has = threading.Semaphore(0)

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        for piece in sent:
            wire.chunk(piece)
            assert has.acquire(timeout=PATIENCE), f"the client never got {piece!r}"
            time.sleep(0.05)
        wire.end()

    upstream.on("/v1", answer)
    client = kind.client()
    async with kind.recorded(client, db):
        began = time.perf_counter()
        response = await kind.begin(client, f"{upstream.origin}/v1")
        chunks, at = kind.raw(response), []
        for piece in sent:
            assert await following(chunks) == piece
            at.append((time.perf_counter() - began) * 1e6)
            has.release()
        assert await following(chunks) is None
        await kind.close(response)
    await kind.close(client)
    log = Recorded(db)
    (stream,) = log.streams()
    arrivals = log.arrivals(stream.stream_id)
    assert [body for _, body in arrivals] == sent
    for (offset_us, _), before_us, had_us in zip(arrivals, [0.0, *at], at, strict=False):
        assert before_us - MS < offset_us <= had_us + MS
    offsets = [offset_us for offset_us, _ in arrivals]
    assert all(later - earlier >= 50 * MS - 5 * MS for earlier, later in itertools.pairwise(offsets))


@pytest.mark.anyio
async def test_the_request_is_recorded_without_any_secret(kind: Kind, upstream: Upstream, db: str, tmp_path: Path) -> None:
    upstream.on("/v1/threads/a%2Fb/runs", lambda wire, asked: wire.stream([event(0)], [SSE, ("Set-Cookie", f"s={SECRET}")]))
    asked_of = {"tools": [{"type": "mcp", "headers": {"x": SECRET}, "server_url": "https://mcp"}], "stream": True}
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "api-key": SECRET,
        "Cookie": f"c={SECRET}",
        "X-Anything": SECRET,
        "OpenAI-Beta": "assistants=v2",
    }
    client = kind.client()
    before = datetime.now(UTC)
    async with kind.recorded(client, db):
        url = f"{upstream.origin}/v1/threads/a%2Fb/runs?api-version=2024&sig={SECRET}&empty="
        await kind.fetch(client, url, json=asked_of, headers=headers)
    await kind.close(client)
    asked = upstream.asked("/v1/threads/a%2Fb/runs")
    assert json.loads(asked.body) == asked_of
    assert asked.header("authorization") == [f"Bearer {SECRET}"]
    assert asked.header("x-anything") == [SECRET]
    assert asked.target.endswith(f"?api-version=2024&sig={SECRET}&empty=")
    (stream,) = Recorded(db).streams()
    assert stream.method == "POST"
    assert stream.host == f"127.0.0.1:{upstream.port}"
    assert stream.path == "/v1/threads/a%2Fb/runs"
    assert stream.query == "api-version=2024&sig=REDACTED&empty="
    assert json.loads(stream.request_body or b"") == {
        "tools": [{"type": "mcp", "headers": "REDACTED", "server_url": "https://mcp"}],
        "stream": True,
    }
    stored = dict(stream.request_headers)
    assert stored["openai-beta"] == "assistants=v2"
    assert stored["content-type"] == "application/json"
    assert not {"authorization", "api-key", "cookie", "x-anything"} & stored.keys()
    assert stream.source == "hook"
    assert stream.session_label is None
    assert before - timedelta(seconds=1) < stream.started_at <= stream.recorded_at < datetime.now(UTC) + timedelta(seconds=1)
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file.name


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_every_method_is_recorded(kind: Kind, upstream: Upstream, db: str, method: str) -> None:
    said = b"" if method == "HEAD" else b'{"ok":true}'
    upstream.on("/v1", lambda wire, asked: wire.whole(said) if said else wire.head(200, [JSON, ("Content-Length", "11")]))
    client = kind.client()
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1", method)
    await kind.close(client)
    assert (had.response.status_code, had.body, had.failed) == (200, said, None)
    assert upstream.asked("/v1").method == method
    log = Recorded(db)
    (stream,) = log.streams()
    assert stream.method == method
    assert log.body(stream.stream_id) == said
    assert log.outcome(stream.stream_id) == ("done" if said else "eof")


@pytest.mark.anyio
async def test_json_is_one_body_and_answers_without_one_have_none(kind: Kind, upstream: Upstream, db: str) -> None:
    said = json.dumps({"id": "resp_1", "text": "é" * 5000}, ensure_ascii=False).encode()
    upstream.on("/json", lambda wire, asked: wire.whole(said))
    upstream.on("/204", lambda wire, asked: wire.head(204, []))
    client = kind.client()
    async with kind.recorded(client, db):
        response = await finished(client.post(f"{upstream.origin}/json"))
        assert response.json() == json.loads(said)
        assert (await finished(client.delete(f"{upstream.origin}/204"))).content == b""
    await kind.close(client)
    log = Recorded(db)
    (answer,) = log.streams("/json")
    assert [entry.type for entry in log.events(answer.stream_id)] == ["$response", "$body", "$end"]
    assert log.events(answer.stream_id)[1].data == said.decode()
    assert log.outcome(answer.stream_id) == "done"
    (empty,) = log.streams("/204")
    assert [entry.type for entry in log.events(empty.stream_id)] == ["$response", "$end"]


@pytest.mark.anyio
async def test_an_error_is_recorded_with_its_body(kind: Kind, upstream: Upstream, db: str) -> None:
    said = b'{"error":{"message":"no"}}'
    headers = [JSON, ("Retry-After", "1"), ("X-Request-Id", "req_1"), ("X-Other", SECRET)]
    upstream.on("/v1", lambda wire, asked: wire.whole(said, headers, 429))
    client = kind.client()
    async with kind.recorded(client, db):
        response = await finished(client.post(f"{upstream.origin}/v1"))
        assert (response.status_code, response.content) == (429, said)
    await kind.close(client)
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.outcome(stream.stream_id) == "http_error"
    (begun,) = log.said(stream.stream_id, "$response")
    assert begun["status"] == 429
    kept = {name for name, _ in begun["headers"]}
    assert kept == {"content-type", "retry-after", "x-request-id", "content-length"}
    assert log.body(stream.stream_id) == said


@pytest.mark.anyio
async def test_labels_go_by_the_request_then_by_the_hook(kind: Kind, upstream: Upstream, db: str) -> None:
    for path in ("/own", "/hook", "/empty"):
        upstream.on(path, lambda wire, asked: wire.stream([event(0)]))
    client = kind.client()
    async with kind.recorded(client, db, session="of the hook"):
        await kind.fetch(client, f"{upstream.origin}/own", headers={"X-Recorder-Session": "of the request"})
        await kind.fetch(client, f"{upstream.origin}/hook")
        await kind.fetch(client, f"{upstream.origin}/empty", headers={"x-recorder-session": ""})
    await kind.close(client)
    for path, label in (("/own", "of the request"), ("/hook", "of the hook"), ("/empty", "of the hook")):
        asked = upstream.asked(path)
        assert not [name for name, _ in asked.headers if "recorder" in name.lower()]
        (stream,) = Recorded(db).streams(path)
        assert stream.session_label == label


@pytest.mark.anyio
async def test_a_label_stays_with_a_request_that_is_redirected(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/from", lambda wire, asked: wire.whole(b"", [("Location", "/to")], 307))
    upstream.on("/to", lambda wire, asked: wire.stream([event(0)]))
    client = kind.client(follow_redirects=True)
    async with kind.recorded(client, db, session="of the hook"):
        await kind.fetch(client, f"{upstream.origin}/from", headers={"X-Recorder-Session": "of the request"})
    await kind.close(client)
    assert upstream.asked("/to").header("x-recorder-session") == []
    assert [stream.session_label for stream in Recorded(db).streams()] == ["of the request"] * 2


@pytest.mark.anyio
async def test_each_step_of_a_redirect_is_recorded(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/from", lambda wire, asked: wire.whole(b"moved", [("Location", "/to?x=1"), ("Content-Type", "text/plain")], 308))
    upstream.on("/to", lambda wire, asked: wire.stream(pieces(BODY)))
    client = kind.client(follow_redirects=True)
    expected = await kind.fetch(client, f"{upstream.origin}/from", content=b"{}")
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/from", content=b"{}")
    await kind.close(client)
    assert had.said == expected.said
    assert [each.status_code for each in had.response.history] == [308]
    log = Recorded(db)
    first, second = log.streams()
    assert [first.path, second.path, second.query] == ["/from", "/to", "x=1"]
    assert (first.request_body, second.request_body) == (b"{}", b"{}")
    assert log.body(first.stream_id) == b"moved"
    assert log.body(second.stream_id) == BODY


@pytest.mark.anyio
async def test_a_redirect_that_is_not_followed_is_a_response_as_any(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/from", lambda wire, asked: wire.whole(b"moved", [("Location", "/to"), ("Content-Type", "text/plain")], 302))
    client = kind.client()
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/from")
    await kind.close(client)
    assert (had.response.status_code, had.body) == (302, b"moved")
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == b"moved"


@pytest.mark.anyio
async def test_a_request_that_its_transport_tries_again_is_one_stream(kind: Kind, upstream: Upstream, db: str) -> None:
    """The port is taken but nobody listens at first: the transport's own retries find the server later."""
    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        client = kind.client(transport=kind.transport(retries=6))
        threading.Timer(0.3, late.listen).start()

        def relay() -> None:
            late.settimeout(PATIENCE)
            until(lambda: late.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            connection, _ = late.accept()
            with connection, socket.create_connection(("127.0.0.1", upstream.port)) as onward:
                onward.sendall(connection.recv(65536))
                while piece := onward.recv(65536):
                    connection.sendall(piece)
                    if piece.endswith(b"0\r\n\r\n"):
                        break

        relaying = threading.Thread(target=relay)
        relaying.start()
        async with kind.recorded(client, db):
            had = await kind.fetch(client, f"http://127.0.0.1:{late.getsockname()[1]}/v1")
        relaying.join(PATIENCE)
        await kind.close(client)
    assert (had.body, had.failed) == (event(0), None)
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == event(0)
    (begun,) = [entry.offset_us for entry in log.events(stream.stream_id) if entry.type == "$response"]
    assert begun >= 250 * MS, "the time in which it was tried in vain belongs to the stream"


@pytest.mark.anyio
async def test_an_upload_in_pieces_arrives_whole_and_is_recorded_without_it(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    sent = [b"a" * 100_000, b"", b"b" * 7]
    client = kind.client()
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1", content=kind.upload(sent))
        files = await kind.fetch(client, f"{upstream.origin}/v1", files={"file": ("x.txt", b"of a file")})
    await kind.close(client)
    assert (had.body, files.body) == (event(0), event(0))
    assert upstream.asked("/v1").body == b"".join(sent)
    assert b"of a file" in upstream.asked("/v1", 1).body
    log = Recorded(db)
    for stream in log.streams():
        assert stream.request_body is None or b"of a file" in stream.request_body
        assert log.body(stream.stream_id) == event(0)


@pytest.mark.anyio
async def test_an_upload_that_is_too_large_to_keep_arrives_whole(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    client = kind.client()
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1", content=bytes(REQUEST_BODY + 1))
    await kind.close(client)
    assert had.body == event(0)
    assert len(upstream.asked("/v1").body) == REQUEST_BODY + 1
    (stream,) = Recorded(db).streams()
    assert stream.request_body is None


@pytest.mark.anyio
async def test_a_large_body_is_recorded_whole(kind: Kind, upstream: Upstream, db: str) -> None:
    body = b"".join(event(number) for number in range(60_000))
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces(body, 30_011)))
    client = kind.client()
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1")
    await kind.close(client)
    assert had.body == body
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == body


@pytest.mark.anyio
async def test_paths_that_are_odd_are_recorded_as_they_were_sent(kind: Kind, upstream: Upstream, db: str) -> None:
    targets = ["/lower%2fcase%e2%82%ac/;a=1", "//double//slashes//", "/query?a=1&a=2&&b", "/é/ü?ö=ß"]
    client = kind.client()
    async with kind.recorded(client, db):
        for target in targets:
            await kind.fetch(client, f"{upstream.origin}{target}", "GET")
    await kind.close(client)
    sent = [asked.target for asked in upstream._asked]
    assert len(sent) == len(targets)
    streams = Recorded(db).streams()
    assert [f"{stream.path}?{stream.query}" if stream.query else stream.path for stream in streams] == sent


# The hooks and transports that a client has besides


@pytest.mark.anyio
async def test_hooks_of_the_users_own_work_as_before_and_in_their_order(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream(pieces(BODY)))
    called: list[str] = []

    def noting(name: str) -> Callable[[Any], Any]:
        async def note(_: Any) -> None:
            called.append(name)

        return note if kind.is_async else lambda _: called.append(name)

    own = {when: [noting(f"{when} {number}") for number in (1, 2)] for when in ("request", "response")}
    client = kind.client(event_hooks=own)
    hook = recorder.record(client, db)
    third = noting("response 3")
    client.event_hooks["response"].append(third)
    await kind.fetch(client, f"{upstream.origin}/v1")
    assert called == ["request 1", "request 2", "response 1", "response 2", "response 3"]
    await kind.close(hook)
    assert client.event_hooks == {"request": own["request"], "response": [*own["response"], third]}
    await kind.fetch(client, f"{upstream.origin}/v1")
    assert called == ["request 1", "request 2", "response 1", "response 2", "response 3"] * 2
    await kind.close(client)
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == BODY


@pytest.mark.anyio
async def test_a_hook_of_the_users_own_that_reads_the_body_first_leaves_it_recorded(
    kind: Kind, upstream: Upstream, db: str
) -> None:
    import gzip

    upstream.on("/v1", lambda wire, asked: wire.whole(gzip.compress(BODY), [SSE, ("Content-Encoding", "gzip")]))

    async def read_async(response: Any) -> None:
        await response.aread()

    client = kind.client(event_hooks={"response": [read_async if kind.is_async else lambda response: response.read()]})
    async with kind.recorded(client, db):
        response = await finished(client.post(f"{upstream.origin}/v1"))
    await kind.close(client)
    assert response.content == BODY
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == BODY
    assert log.outcome(stream.stream_id) == "done"
    assert log.said(stream.stream_id, "$gap") == []


@pytest.mark.anyio
async def test_a_hook_of_the_users_own_that_raises_for_an_error_leaves_it_recorded(
    kind: Kind, upstream: Upstream, db: str
) -> None:
    """As the documentation of httpx has it: event_hooks={"response": [raise_for_status]}."""
    upstream.on("/v1", lambda wire, asked: wire.whole(b'{"error":{}}', status=503))

    async def raise_async(response: Any) -> None:
        response.raise_for_status()

    client = kind.client(
        event_hooks={"response": [raise_async if kind.is_async else lambda response: response.raise_for_status()]}
    )
    expected = await kind.fetch(client, f"{upstream.origin}/v1")
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1")
    await kind.close(client)
    assert type(had.failed) is kind.family.HTTPStatusError
    assert had.said == expected.said
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.outcome(stream.stream_id) == "http_error"
    assert log.said(stream.stream_id, "$response")[0]["status"] == 503


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.name)
async def test_a_hook_that_is_closed_while_others_are_called_keeps_none_of_them_from_it(
    kind: Kind, upstream: Upstream, db: str
) -> None:
    """One of the user's hooks waits, the hook is closed meanwhile: the user's next hook is called all the same."""
    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    waits, called = asyncio.Event(), []

    async def first(_: Any) -> None:
        await waits.wait()
        called.append("first")

    async def second(_: Any) -> None:
        called.append("second")

    client = kind.client()
    hook = recorder.record(client, db)
    client.event_hooks["response"] += [first, second]
    fetching = asyncio.create_task(kind.fetch(client, f"{upstream.origin}/v1"))
    await asyncio.to_thread(upstream.asked, "/v1")
    await asyncio.sleep(0.2)
    await kind.close(hook)
    waits.set()
    had = await fetching
    await kind.close(client)
    assert (had.body, had.failed) == (event(0), None)
    assert called == ["first", "second"]


@pytest.mark.anyio
async def test_authentication_in_several_steps_is_recorded_step_by_step(kind: Kind, upstream: Upstream, db: str) -> None:
    challenge = ("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5')

    def answer(wire: Wire, asked: Asked) -> None:
        if asked.header("authorization"):
            wire.stream(pieces(BODY))
        else:
            wire.whole(b"", [challenge], 401)

    upstream.on("/v1", answer)
    client = kind.client(auth=kind.family.DigestAuth("user", SECRET))
    async with kind.recorded(client, db, session="of the hook"):
        had = await kind.fetch(client, f"{upstream.origin}/v1", headers={"X-Recorder-Session": "own"})
    await kind.close(client)
    assert had.body == BODY
    log = Recorded(db)
    first, second = log.streams()
    assert [log.outcome(stream.stream_id) for stream in (first, second)] == ["http_error", "done"]
    assert log.body(second.stream_id) == BODY
    assert [stream.session_label for stream in (first, second)] == ["own", "own"]
    assert not [name for name, _ in second.request_headers if name == "authorization"]


# Whose client it is


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: None, "NoneType"),
        (lambda: httpx.Client, "the class Client"),
        (lambda: openai.OpenAI, "the class OpenAI"),
        (lambda: "https://api.openai.com", "str"),
        (lambda: SimpleNamespace(hooks={"response": []}, send=print), "SimpleNamespace"),
        (lambda: SimpleNamespace(_client=SimpleNamespace(_client=None)), "SimpleNamespace"),
        (lambda: functools.partial(httpx.get), "partial"),
        (lambda: httpx, "module"),
    ],
)
def test_an_object_without_a_client_is_an_error_that_names_it(made: Callable[[], Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=named) as raised:
        recorder.record(made(), f"sqlite:///{tmp_path}/x.db")
    assert "\n" not in str(raised.value)
    assert "OpenAI()" in str(raised.value)
    assert list(tmp_path.iterdir()) == [], "no database is made for it"


@pytest.mark.anyio
async def test_a_client_is_recorded_once(kind: Kind, upstream: Upstream, db: str, tmp_path: Path) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    client = kind.client()
    async with kind.recorded(client, db):
        with pytest.raises(UsageError, match=r"recorded already, into .*x\.db"):
            recorder.record(client, db)
        with pytest.raises(UsageError, match=r"recorded already, into .*x\.db"):
            recorder.record(SimpleNamespace(client=client), f"sqlite:///{tmp_path}/other.db")
        await kind.fetch(client, f"{upstream.origin}/v1")
    async with kind.recorded(client, db):
        await kind.fetch(client, f"{upstream.origin}/v1")
    await kind.close(client)
    assert len(Recorded(db).streams()) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("mounted", [False, True])
async def test_a_client_with_a_recording_transport_is_recorded_already(kind: Kind, db: str, mounted: bool) -> None:
    transport = recorder.RecordingTransport(kind.transport(), db)
    client = kind.client(mounts={"all://": transport}) if mounted else kind.client(transport=transport)
    with pytest.raises(UsageError, match=r"recorded already, into .*x\.db"):
        recorder.record(client, db)
    assert client.event_hooks == {"request": [], "response": []}
    await kind.close(client)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////no/such/folder/x.db", "cannot be made"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:///{folder}/text.db", "is no SQLite database"),
        ("sqlite:///{folder}/other.db", "belongs to another program"),
        ("mysql://somewhere/x", "not supported"),
        ("nonsense", "is no database URL"),
        ("postgresql://nobody:SECRET@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line_and_leaves_the_client_as_it_was(
    url: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at" * 100)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with httpx.Client() as client:
        with pytest.raises(DatabaseError, match=says) as raised:
            recorder.record(client, url.format(folder=tmp_path))
        assert "\n" not in str(raised.value)
        assert "SECRET" not in str(raised.value)
        assert client.event_hooks == {"request": [], "response": []}


def test_the_database_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with httpx.Client() as client:
        monkeypatch.delenv("RECORDER_DB", raising=False)
        with recorder.record(client) as hook:
            assert (tmp_path / "recorder.db").stat().st_mode & 0o777 == 0o600
            assert hook.name.endswith("recorder.db")
        monkeypatch.setenv("RECORDER_DB", f"sqlite:///{tmp_path}/of-environment.db")
        with recorder.record(client):
            assert (tmp_path / "of-environment.db").exists()
        with recorder.record(client, f"sqlite:///{tmp_path}/given.db"):
            assert (tmp_path / "given.db").exists()


def sdk_clients() -> list[Any]:
    key = {"api_key": SECRET, "max_retries": 0}
    azure: dict[str, Any] = {**key, "api_version": "2024-05-01-preview"}
    return [
        pytest.param(lambda origin: openai.OpenAI(base_url=f"{origin}/v1", **key), id="OpenAI"),
        pytest.param(lambda origin: openai.AsyncOpenAI(base_url=f"{origin}/v1", **key), id="AsyncOpenAI"),
        pytest.param(lambda origin: openai.AzureOpenAI(azure_endpoint=origin, **azure), id="AzureOpenAI"),
        pytest.param(lambda origin: openai.AsyncAzureOpenAI(azure_endpoint=origin, **azure), id="AsyncAzureOpenAI"),
        pytest.param(
            lambda origin: openai.OpenAI(base_url=f"{origin}/v1", http_client=httpx.Client(), **key), id="OpenAI-over-httpx"
        ),
        pytest.param(
            lambda origin: openai.OpenAI(base_url=f"{origin}/v1", http_client=httpx2.Client(), **key), id="OpenAI-over-httpx2"
        ),
    ]


@pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning")
@pytest.mark.parametrize("make", sdk_clients())
def test_an_sdk_is_recorded_through_the_client_that_it_holds(make: Callable[[str], Any], upstream: Upstream, db: str) -> None:
    """The same events reach the program, and the stream ends with [DONE] for the SDK as for the log."""
    body = writing.encoded(writing.said("Hello there"))
    answering = "/v1/threads/runs", "/openai/threads/runs"
    for path in answering:
        upstream.on(path, lambda wire, asked: wire.stream(pieces(body, 200)))
    sdk = make(upstream.origin)

    def ask() -> list[str]:
        request = {"assistant_id": "asst_1", "stream": True, "extra_headers": {"X-Recorder-Session": "one"}}
        if not isinstance(sdk, openai.AsyncOpenAI):
            return [event.event for event in sdk.beta.threads.create_and_run(**request)]
        raise AssertionError

    async def ask_async() -> list[str]:
        request = {"assistant_id": "asst_1", "stream": True, "extra_headers": {"X-Recorder-Session": "one"}}
        events = [event.event async for event in await sdk.beta.threads.create_and_run(**request)]
        async with recorder.record(sdk, db):
            assert events == [event.event async for event in await sdk.beta.threads.create_and_run(**request)]
        await sdk.close()
        return events

    if isinstance(sdk, openai.AsyncOpenAI):
        events = asyncio.run(ask_async())
    else:
        events = ask()
        with recorder.record(sdk, db):
            assert ask() == events
        sdk.close()
    assert events == [name for name, _ in writing.said("Hello there")[:-1]]
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == body
    assert log.outcome(stream.stream_id) == "done"
    assert stream.session_label == "one"
    assert stream.path in answering
    assert SECRET not in repr(stream)
    (run,) = json.loads(output("show", "run_1", "--json", db=db))["steps"]
    assert run["status"] == "completed"


# What is left when it is closed


@pytest.mark.anyio
async def test_closing_leaves_nothing_behind(kind: Kind, upstream: Upstream, db: str) -> None:
    from recorder.collect import sharing

    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    client = kind.client()
    shared = dict(sharing._shared)
    hooks = client.event_hooks
    hook = recorder.record(client, db)
    await kind.fetch(client, f"{upstream.origin}/v1")
    assert hook.flush(PATIENCE)
    assert len(leftovers.writers()) == 1
    assert leftovers.open_files(db) != []
    await kind.close(hook)
    await kind.close(hook)
    hook.close()
    assert hook.closed
    assert hook.flush(0.1), "there is nothing left to wait for"
    assert client.event_hooks == hooks == {"request": [], "response": []}
    assert dict(sharing._shared) == shared
    assert leftovers.writers() == []
    assert leftovers.open_files(db) == []
    await kind.close(client)


@pytest.mark.anyio
async def test_hooks_that_share_a_database_end_its_thread_with_the_last(kind: Kind, upstream: Upstream, db: str) -> None:
    upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    clients = [kind.client() for _ in range(3)]
    hooks = [recorder.record(client, db) for client in clients]
    for number, (client, hook) in enumerate(zip(clients, hooks, strict=True)):
        for each in clients[number:]:
            await kind.fetch(each, f"{upstream.origin}/v1")
        assert len(leftovers.writers()) == 1
        await kind.close(hook)
        await kind.close(client)
    assert leftovers.writers() == []
    assert len(Recorded(db).streams()) == 6


@pytest.mark.anyio
async def test_a_stream_that_is_open_when_the_hook_is_closed_goes_on_unharmed(kind: Kind, upstream: Upstream, db: str) -> None:
    """The log has what came before, and says how its part of it ended."""
    closed = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0))
        assert closed.wait(PATIENCE)
        for number in range(1, 50):
            wire.chunk(event(number))
        wire.end()

    upstream.on("/v1", answer)
    client = kind.client()
    hook = recorder.record(client, db)
    response = await kind.begin(client, f"{upstream.origin}/v1")
    chunks = kind.raw(response)
    had = [await following(chunks)]
    await kind.close(hook)
    closed.set()
    while (chunk := await following(chunks)) is not None:
        had.append(chunk)
    await kind.close(response)
    assert b"".join(had) == EVENTS
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == event(0)
    assert log.outcome(stream.stream_id) == "lost"
    assert (await kind.fetch(client, f"{upstream.origin}/v1")).body == EVENTS
    await kind.close(client)
    assert len(Recorded(db).streams()) == 1


@pytest.mark.anyio
async def test_a_stream_goes_on_being_recorded_while_another_hook_needs_the_database(
    kind: Kind, upstream: Upstream, db: str
) -> None:
    closed = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0))
        assert closed.wait(PATIENCE)
        wire.chunk(event(1))
        wire.end()

    upstream.on("/v1", answer)
    client, other = kind.client(), kind.client()
    hook, another = recorder.record(client, db), recorder.record(other, db)
    response = await kind.begin(client, f"{upstream.origin}/v1")
    await kind.close(hook)
    closed.set()
    assert await kind.read(response) == event(0) + event(1)
    await kind.close(another)
    await kind.close(client)
    await kind.close(other)
    log = Recorded(db)
    (stream,) = log.streams()
    assert log.body(stream.stream_id) == event(0) + event(1)
    assert log.outcome(stream.stream_id) == "eof"
