"""Cassettes of VCR.py, made by VCR.py itself from a live upstream: what it kept is what is imported."""

from __future__ import annotations

import base64
import gzip
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import sqlalchemy as sa
import vcr  # type: ignore[import-untyped]

from recorder import database, log
from recorder.collect.cassette import is_cassette, read_cassette
from recorder.collect.import_ import import_paths
from recorder.errors import ImportFailed
from recorder.log import Stream
from recorder.projections import runner
from recorder.queries import Named, streams_of
from recorder.recording import events_of
from recorder.redaction.rules import Rules
from recorder.replay.transport import ReplayTransport
from recorder.settings import Settings
from tests import writing
from tests.upstream import Asked, Upstream, Wire

STREAM = writing.encoded(writing.said("Grüße 😀"))
SLOW = b'{"error":{"message":"slow"}}'
BINARY = bytes(range(256))
GZIP = ("Content-Encoding", "gzip")
EVENTS = ("Content-Type", "text/event-stream")
DATE = ("Date", "Wed, 03 Jun 2026 10:00:00 GMT")


def by_urllib(url: str, body: bytes | None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", "Authorization": "Bearer sk-secret"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.read()  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


def by(family: Any) -> Callable[[str, bytes | None], bytes]:
    def ask(url: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-secret"}
        with family.Client() as client:
            content: bytes = client.request("GET" if body is None else "POST", url, content=body, headers=headers).content
            return content

    return ask


CLIENTS = {"urllib": by_urllib, "httpx": by(httpx), "httpx2": by(httpx2)}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    def polled(wire: Wire, asked: Asked) -> None:
        wire.whole(json.dumps({"status": "queued" if running.count("/poll") == 1 else "done"}).encode())

    with Upstream() as running:
        running.on(
            "/v1/threads/thread_1/runs", lambda wire, asked: wire.stream([STREAM[:100], STREAM[100:]], headers=[EVENTS, DATE])
        )
        running.on("/gzip", lambda wire, asked: wire.whole(gzip.compress(STREAM), [EVENTS, GZIP]))
        running.on(
            "/binary", lambda wire, asked: wire.whole(BINARY, [("Content-Type", "application/x-own"), ("Set-Cookie", "a=b")])
        )
        running.on(
            "/limited", lambda wire, asked: wire.whole(b'{"error":{"message":"slow"}}', [("Retry-After", "1")], status=429)
        )
        running.on("/poll", polled)
        yield running
        assert running.errors == []


def recorded(path: Path, client: str, upstream: Upstream, **options: Any) -> list[bytes]:
    """Make a cassette of several interactions; what the client had of each."""
    ask = CLIENTS[client]
    with vcr.VCR(record_mode="all").use_cassette(str(path), allow_playback_repeats=False, **options):
        return [
            ask(f"{upstream.origin}/v1/threads/thread_1/runs?api-version=1&key=sk-secret", '{"assistant_id":"asst_é"}'.encode()),
            ask(f"{upstream.origin}/gzip", None),
            ask(f"{upstream.origin}/binary", b"\xff\x00binary"),
            ask(f"{upstream.origin}/limited", b"{}"),
            ask(f"{upstream.origin}/poll", None),
            ask(f"{upstream.origin}/poll", None),
        ]


def bodies(found: list[tuple[Stream, list[Any]]]) -> list[bytes]:
    return [b"".join(part for part, _, _ in log.wire(events_of(frames))) for _, frames in found]


def said(frames: list[Any], type: str) -> Any:
    return next(json.loads(frame.data) for frame in frames if frame.type == type)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("decoded", [False, True], ids=["as it came", "decoded by VCR.py"])
def test_all_interactions_are_there_with_their_requests_and_bodies(
    tmp_path: Path, upstream: Upstream, client: str, decoded: bool
) -> None:
    path = tmp_path / "chat.yaml"
    recorded(path, client, upstream, decode_compressed_response=decoded)
    found = read_cassette(path)
    assert bodies(found) == [
        STREAM,
        STREAM,
        BINARY,
        b'{"error":{"message":"slow"}}',
        b'{"status": "queued"}',
        b'{"status": "done"}',
    ]
    streams = [stream for stream, _ in found]
    assert [stream.method for stream in streams] == ["POST", "GET", "POST", "POST", "GET", "GET"]
    assert [stream.path for stream in streams][1:] == ["/gzip", "/binary", "/limited", "/poll", "/poll"]
    assert streams[0].host == upstream.origin.removeprefix("http://")
    assert (streams[0].path, streams[0].query) == ("/v1/threads/thread_1/runs", "api-version=1&key=REDACTED")
    assert [stream.request_body for stream in streams[:3]] == ['{"assistant_id":"asst_é"}'.encode(), None, b"\xff\x00binary"]
    assert {stream.session_label for stream in streams} == {"chat"}
    assert streams == sorted(streams, key=lambda stream: stream.started_at)
    assert streams[0].started_at.isoformat() == "2026-06-03T10:00:00+00:00"
    assert "sk-secret" not in repr(found)
    assert "a=b" not in repr(found)
    assert [said(frames, "$response")["status"] for _, frames in found] == [200, 200, 200, 429, 200, 200]
    assert [said(frames, "$end")["outcome"] for _, frames in found] == ["done", "done", "done", "http_error", "done", "done"]
    assert len([frame for frame in found[0][1] if not frame.type.startswith("$")]) == 10


def test_importing_makes_a_session_that_is_folded_replayed_and_imported_but_once(
    engine: sa.Engine, tmp_path: Path, upstream: Upstream
) -> None:
    path = tmp_path / "chat.yaml"
    recorded(path, "urllib", upstream)
    rows = import_paths(engine, [str(path)])
    assert [row.events for row in rows] == [10, 10, 0, 0, 0, 0]
    assert import_paths(engine, [str(tmp_path)]) == rows
    runner.catch_up(engine)
    with database.read(engine) as connection:
        assert streams_of(connection, Named("session", "chat")) == [row.stream_id for row in rows]
    url = engine.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    with httpx.Client(transport=ReplayTransport("chat", db=url)) as client:
        asked = client.post(f"{upstream.origin}/v1/threads/thread_1/runs?api-version=1&key=x", json={"assistant_id": "asst_é"})
        assert (asked.headers["x-recorder-match"], asked.content) == ("exact", STREAM)
        assert client.get(f"{upstream.origin}/gzip").content == STREAM
        assert [client.get(f"{upstream.origin}/poll").json()["status"] for _ in range(3)] == ["queued", "done", "done"]


def test_a_pace_and_redaction_hold_for_cassettes_too(engine: sa.Engine, tmp_path: Path, upstream: Upstream) -> None:
    recorded(tmp_path / "chat.yml", "urllib", upstream)
    rules = Rules.of(Settings(redact={"patterns": ["Gr.{2}e", "asst_."]}))
    rows = import_paths(engine, [str(tmp_path / "chat.yml")], pace=10, rules=rules)
    events = list(log.read_stream(engine, rows[0].stream_id))
    assert [event.offset_us for event in events if not event.type.startswith("$")] == [n * 100_000 for n in range(10)]
    assert not any("Gr" in event.data for event in events)
    with database.read(engine) as connection:
        assert "asst" not in repr(log.get_streams(connection, [rows[0].stream_id]))


OLD = """
interactions:
- request:
    body: null
    headers: {Accept: '*/*', Host: [h]}
    method: GET
    uri: https://user:pass@h:8443/a%%20b?x=1
  response: %s
"""

RESPONSES = {
    "text": ("{status: {code: 200, message: OK}, headers: {}, body: {string: 'data: é\n\n\n    '}}", "data: é\n\n".encode()),
    "binary": ("{status: {code: 200}, headers: {}, body: {string: !!binary /wA=}}", b"\xff\x00"),
    "base64": ("{status: {code: 200}, headers: {}, body: {base64_string: /wA=}}", b"\xff\x00"),
    "httpx of old": ("{status_code: 200, headers: {a: b}, http_version: HTTP/1.1, content: 'x'}", b"x"),
    "nothing": ("{status: {code: 204}, headers: null, body: {string: null}}", b""),
    "said to be gzip": (
        "{status: {code: 200}, headers: {Content-Encoding: [gzip], Content-Length: [9]}, body: {string: x}}",
        b"x",
    ),
    "Python's text": ("{status: {code: 200}, headers: {}, body: {string: !!python/unicode 'x'}}", b"x"),
    "pieces": ("{status: {code: 200}, headers: {}, body: {string: !!python/tuple [a, !!binary /wA=]}}", b"a\xff\x00"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_shapes_of_other_versions(tmp_path: Path, name: str) -> None:
    response, body = RESPONSES[name]
    path = tmp_path / "old.yaml"
    path.write_text(OLD % response)
    found = read_cassette(path)
    assert bodies(found) == [body]
    ((stream, frames),) = found
    assert (stream.host, stream.path, stream.query, stream.request_headers) == ("h:8443", "/a%20b", "x=1", (("accept", "*/*"),))
    assert "pass" not in repr(stream)
    headers = dict(said(frames, "$response")["headers"])
    assert not {"content-encoding", "content-length"} & set(headers)


def test_what_came_compressed_and_the_same_by_base64(tmp_path: Path) -> None:
    packed = base64.b64encode(gzip.compress(b"data: x\n\n")).decode()
    for name, body in (("a", f"string: !!binary {packed}"), ("b", f"base64_string: {packed}")):
        headers = "{Content-Type: [text/event-stream], Content-Encoding: [gzip]}"
        (tmp_path / f"{name}.yaml").write_text(OLD % f"{{status: {{code: 200}}, headers: {headers}, body: {{{body}}}}}")
        found = read_cassette(tmp_path / f"{name}.yaml")
        assert bodies(found) == [b"data: x\n\n"]
        assert said(found[0][1], "$response")["decoded"] == "gzip"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a: [", "line 2: no YAML"),
        ("\x00", "no YAML"),
        ("interactions:\n- 5\n", "interaction 1"),
        ("interactions: {}\n", "no list of interactions"),
        ("- request: 1\n", "no list of interactions"),
        ("interactions: []\nversion: 2\n", "version 2"),
        (
            "interactions:\n- request: {method: GET, uri: 'http://h/'}\n",
            "interaction 1 is none of VCR.py ('response' is missing)",
        ),
        (OLD % "{status: {code: 'x'}, body: {string: ''}}", "interaction 1"),
        (OLD % "{status: {code: 200}, body: {string: 5}}", "a body of int"),
        (OLD % "{status: {code: 200}, body: !!python/object/apply:os.system [true]}", "line 8: "),
        (OLD % "{status: {code: 200}, body: {base64_string: '%'}}", "interaction 1"),
    ],
)
def test_what_is_no_cassette_is_refused_in_one_line(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ImportFailed) as failure:
        read_cassette(path)
    message = str(failure.value)
    assert message.startswith(f"{path}: ")
    assert wrong in message
    assert "\n" not in message


def test_of_a_folder_only_yaml_that_is_a_cassette_is_taken(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services:\n  interactions: []\n")
    (tmp_path / "a.yml").write_text(OLD % RESPONSES["text"][0])
    assert [is_cassette(tmp_path / name) for name in ("a.yml", "compose.yaml", "absent.yaml")] == [True, False, False]
    assert [Path(row.path).name for row in import_paths(engine, [str(tmp_path)])] == ["a.yml"]


def test_without_pyyaml_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yml").write_text(OLD % RESPONSES["text"][0])
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportFailed, match=r"install runstep-recorder\[vcr\]"):
        read_cassette(tmp_path / "a.yml")


def test_a_cassette_of_many_interactions_keeps_their_order(engine: sa.Engine, tmp_path: Path) -> None:
    one = (OLD % "{status: {code: 200}, headers: {}, body: {string: same}}").partition("interactions:\n")[2]
    (tmp_path / "many.yaml").write_text("interactions:\n" + one * 300)
    rows = import_paths(engine, [str(tmp_path / "many.yaml")])
    assert len({row.stream_id for row in rows}) == 300
    runner.catch_up(engine)
    with database.read(engine) as connection:
        assert streams_of(connection, Named("session", "many")) == [row.stream_id for row in rows]
