"""Cassettes of VCR.py, made by VCR.py itself from a live upstream: what it kept is what is imported."""

from __future__ import annotations

import base64
import gzip
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import sqlalchemy as sa
import vcr  # type: ignore[import-untyped]
import yaml

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
from tests.commands import recorder
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
            "interaction 1 (GET http://h/) is none of VCR.py ('response' is missing)",
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


SEVERAL = """
version: 1
interactions:
- request: {method: GET, uri: 'https://user:secret@h/a?key=1', headers: {}, body: null}
  response: {status: {code: 200}, headers: {Content-Type: [application/json]}, body: {string: '{"a": 1}'}}
- %s
- request: {method: GET, uri: 'https://h/c', headers: {}, body: null}
  response: {status: {code: 200}, headers: {}, body: {string: c}}
"""

NONE_OF_VCR = {
    "no object": "5",
    "no response": "{request: {method: GET, uri: 'https://user:secret@h/b?key=1'}}",
    "response is null": "{request: {method: GET, uri: 'https://user:secret@h/b?key=1'}, response: null}",
    "no status": "{request: {method: GET, uri: 'https://h/b'}, response: {body: {string: b}}}",
    "a status that is a flag": "{request: {method: GET, uri: 'https://h/b'}, response: {status: {code: true}, body: null}}",
    "a body of an unknown form": "{request: {method: GET, uri: 'https://h/b'}, response: {status: {code: 200}, body: {file: b}}}",
    "a body that is a number": "{request: {method: GET, uri: 'https://h/b', body: 7}, response: {status: {code: 200}}}",
    "an address that is none": "{request: {method: GET, uri: 'https://[h/b'}, response: {status: {code: 200}}}",
    "broken base64": "{request: {method: GET, uri: 'https://h/b'}, response: {status: {code: 200}, body: {base64_string: '%'}}}",
}


@pytest.mark.parametrize("name", NONE_OF_VCR)
def test_an_exchange_that_cannot_be_taken_is_named_and_the_others_are_in(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SEVERAL.replace("%s", NONE_OF_VCR[name]))
    said: list[str] = []
    rows = import_paths(engine, [str(path)], skipped=said.append)
    assert len(rows) == 2
    (line,) = said
    assert line.startswith(f"left out: {path}: interaction 2")
    assert "secret" not in line
    assert "key" not in line
    assert "\n" not in line


def test_the_command_names_it_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SEVERAL.replace("%s", NONE_OF_VCR["no response"]))
    done = recorder("import", str(path), db=tmp_path / "log.db")
    assert done.returncode == 0
    assert b"left out: " in done.stderr
    assert b"interaction 2 (GET https://h/b)" in done.stderr


PARSED = """
version: 1
interactions:
- request:
    headers: {content-type: [application/json]}
    method: POST
    parsed_body: {model: gpt-4o, messages: [{role: user, content: hi}]}
    uri: https://api.openai.com/v1/chat/completions
  response:
    headers: {content-type: [application/json], content-encoding: [gzip]}
    parsed_body:
      id: chatcmpl-1
      object: chat.completion
      created: 1790000000
      model: gpt-4o
      choices: [{index: 0, finish_reason: stop, message: {role: assistant, content: "2026-11-22"}}]
      usage: {prompt_tokens: 8, completion_tokens: 4, total_tokens: 12}
    status: {code: 200, message: OK}
"""


def test_bodies_that_a_serializer_has_parsed_are_taken(engine: sa.Engine, tmp_path: Path) -> None:
    path = tmp_path / "parsed.yaml"
    path.write_text(PARSED)
    import_paths(engine, [str(path)])
    runner.catch_up(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT model, total_tokens FROM runs")).one() == ("gpt-4o", 12)
        (body,) = connection.execute(sa.text("SELECT request_body FROM streams")).scalars()
        assert json.loads(bytes(body))["messages"] == [{"role": "user", "content": "hi"}]


def test_a_cassette_in_json_is_one(engine: sa.Engine, tmp_path: Path) -> None:
    loaded = yaml.safe_load(PARSED)
    (tmp_path / "one.json").write_text(json.dumps(loaded, indent=2))
    (tmp_path / "two.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(yaml.safe_load(SEVERAL % NONE_OF_VCR["no status"])).encode())
    (tmp_path / "body.json").write_text('{"id": "run_1", "interactions": [1], "version": 1}')
    said: list[str] = []
    rows = import_paths(engine, [str(tmp_path)], skipped=said.append)
    assert [Path(row.path).name for row in rows] == ["body.json", "one.json", "two.json", "two.json"]
    assert len(said) == 1


@pytest.mark.parametrize("which", ["request", "response"])
def test_two_exchanges_that_differ_in_a_header_alone_are_two(engine: sa.Engine, tmp_path: Path, which: str) -> None:
    name = "accept" if which == "request" else "x-request-id"
    for number in (1, 2):
        headers = {"request": "{}", "response": "{}"} | {which: f"{{{name}: [a/{number}]}}"}
        (tmp_path / f"test_{number}.yaml").write_text(
            f"interactions:\n- request: {{method: DELETE, uri: 'https://h/x', headers: {headers['request']}}}\n"
            f"  response: {{status: {{code: 200}}, headers: {headers['response']}, body: {{string: '{{}}'}}}}\n"
        )
    first = import_paths(engine, [str(tmp_path)])
    assert import_paths(engine, [str(tmp_path)]) == first
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM streams")).scalar() == 2


HOSTILE = {
    "aliases of aliases": "x0: &x0 [a,a,a,a,a,a,a,a,a,a]\n"
    + "".join(f"x{at}: &x{at} [{','.join([f'*x{at - 1}'] * 10)}]\n" for at in range(1, 9))
    + "interactions:\n- request: {method: GET, uri: 'http://x/', body: *x8}\n",
    "an alias of itself": "interactions:\n- request: {method: GET, uri: 'http://x/', body: &a [*a]}\n",
    "an object of itself": "interactions: &a\n- {request: *a}\n",
    "merges of merges": "x0: &x0 {a: 1}\n"
    + "".join(f"x{at}: &x{at}\n  <<: [{','.join([f'*x{at - 1}'] * 10)}]\n" for at in range(1, 10))
    + "interactions: []\n",
    "depth": f"interactions: {'[' * 20_000}{']' * 20_000}\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_stands_for_more_than_it_is_long_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(HOSTILE[name])
    with pytest.raises(ImportFailed) as failure:
        read_cassette(path)
    assert "\n" not in str(failure.value)


def test_an_alias_that_stands_for_little_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("x: &x [text/plain]\n" + OLD.replace("[h]", "*x").replace("%%", "%").replace("%s", RESPONSES["text"][0]))
    assert bodies(read_cassette(path)) == [RESPONSES["text"][1]]


@pytest.mark.parametrize(
    "said", ["Fri, 31 Dec 9999 23:59:59 -0100", "Mon, 01 Jan 0001 00:00:00 +0100", "9" * 30, "2026-13-45", "1:" * 9999 + "1"]
)
def test_a_date_that_is_none_is_no_time(tmp_path: Path, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(OLD % f"{{status: {{code: 200}}, headers: {{Date: [{said}]}}, body: {{string: x}}}}")
    ((stream, _),) = read_cassette(path)
    assert stream.started_at <= datetime.fromtimestamp(0, UTC)


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
