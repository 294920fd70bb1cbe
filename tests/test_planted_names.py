"""A secret is planted under each documented name, in every kind of body and way of capture; then what is kept is searched."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import httpx2
import pytest
import sqlalchemy as sa

import recorder
from recorder import database, log
from recorder.collect import exchange, secrets
from recorder.collect.import_ import import_paths
from recorder.collect.writer import Writer
from recorder.redaction.echoes import Echoes
from recorder.sse import SSEDecoder, encode, text_frame
from tests.commands import ProxyProcess, output, until
from tests.upstream import SSE, Asked, Upstream, Wire

SECRET = "Pl4nted0Key"

FIELDS: dict[str, Callable[[str], Any]] = {
    "tools[].headers": lambda s: {"tools": [{"type": "mcp", "headers": {"X-Own": s}}]},
    "tools[].authorization": lambda s: {"tools": [{"type": "mcp", "authorization": s}]},
    "tools[].server_url, userinfo": lambda s: {"tools": [{"server_url": f"https://u:{s}@mcp.example/sse"}]},
    "tools[].server_url, query": lambda s: {"tools": [{"server_url": f"https://mcp.example/sse?a=1&API-Key={s}"}]},
    "tools[].server_url, escaped": lambda s: {
        "tools": [{"server_url": f"https://h/cb?to={quote(f'https://u:{s}@h/', safe='')}"}]
    },
    "tool_approvals[].headers": lambda s: {"tool_approvals": [{"tool_call_id": "c", "headers": {"a": s}}]},
    "tool_resources.mcp[].headers": lambda s: {"tool_resources": {"mcp": [{"headers": [["a", s]]}]}},
    "mcp_servers[].authorization_token": lambda s: {"mcp_servers": [{"type": "url", "name": "n", "authorization_token": s}]},
    "mcpServers[].streamableHttpTransport.headers": lambda s: {
        "tools": [{"mcpServers": [{"name": "n", "streamableHttpTransport": {"url": "https://m", "headers": {"a": s}}}]}]
    },
    "domain_secrets[].value": lambda s: {
        "tools": [{"environment": {"network_policy": {"domain_secrets": [{"domain": "a", "name": "T", "value": s}]}}}]
    },
    **{
        f"data_sources[].parameters.authentication.{kind}": lambda s, kind=kind: {
            "data_sources": [
                {"type": "azure_search", "parameters": {"index_name": "i", "authentication": {"type": kind, kind: s}}}
            ]
        }
        for kind in ("key", "key_id", "connection_string", "access_token", "encoded_api_key", "password")
    },
    "embedding_dependency.authentication": lambda s: {
        "data_sources": [{"parameters": {"embedding_dependency": {"type": "endpoint", "authentication": {"api_key": s}}}}]
    },
    "authConfig.apiKeyConfig": lambda s: {"tools": [{"googleMaps": {"authConfig": {"apiKeyConfig": {"apiKeyString": s}}}}]},
    "client_secret.value": lambda s: {"client_secret": {"value": s, "expires_at": 1}},
    "awsSecretAccessKey": lambda s: {"connection": {"awsSecretAccessKey": s}},
    "headers as pairs": lambda s: {"requests": [{"headers": [["Accept", "a"], ["Cookie", s]]}]},
    "image_url.url, a key": lambda s: {"input": [{"image_url": f"https://b/i.png?key={s}", "file_url": f"https://b/f?code={s}"}]},
    "image_url.url": lambda s: {"messages": [{"content": [{"image_url": {"url": f"https://b/i.png?x=1&X-Amz-Signature={s}"}}]}]},
}

CASES = [pytest.param(field, id=name) for name, field in FIELDS.items()]


def tool(secret: str) -> dict[str, Any]:
    return {"tools": [{"type": "mcp", "server_label": "l", "headers": {"Authorization": f"Bearer {secret}"}}]}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


BODIES: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "text": ("text/plain;charset=UTF-8", lambda s: _json(tool(s))),
    "no type": ("", lambda s: _json(tool(s))),
    "byte order mark": ("application/json", lambda s: b"\xef\xbb\xbf" + _json(tool(s))),
    **{
        name: ("application/json", lambda s, name=name: json.dumps(tool(s)).encode(name))
        for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
    },
    "half a character": ("application/json", lambda s: json.dumps(tool(s)).encode("utf-16") + b"x"),
    "list": ("application/json", lambda s: _json([[tool(s)]])),
    "lines": ("application/jsonl", lambda s: _json({"a": 1}) + b"\n" + _json({"custom_id": "a", "body": tool(s)}) + b"\n"),
    "lines, one broken": ("application/jsonl", lambda s: b'{"a": nix}\n' + _json(tool(s)) + b"\n"),
    "requests[].params": ("application/json", lambda s: _json({"requests": [{"custom_id": "a", "params": tool(s)}]})),
    "response.create": ("application/json", lambda s: _json({"type": "response.create", "response": tool(s)})),
    "a text in JSON": ("application/json", lambda s: _json({"body": json.dumps({"body": json.dumps(tool(s))})})),
    "a JSON text": ("application/json", lambda s: _json(json.dumps(tool(s)))),
    "form": ("application/x-www-form-urlencoded", lambda s: f"grant_type=x&client_secret={s}&code={s}".encode()),
    "form without a type": ("", lambda s: f"refresh_token={s}".encode()),
    "file in parts": (
        "multipart/form-data; boundary=b",
        lambda s: (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="b.jsonl"\r\n\r\n' + _json(tool(s)) + b"\r\n--b--\r\n"
        ),
    ),
    "field in parts": (
        "multipart/form-data; boundary=b",
        lambda s: f'--b\r\nContent-Disposition: form-data; name="api_key"\r\n\r\n{s}\r\n--b--\r\n'.encode(),
    ),
    "cut": ("application/json", lambda s: _json(tool(s))[:-6]),
    "broken": ("application/json", lambda s: b"{nix, " + _json(tool(s))[1:]),
}

NAMES = (
    *("X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential", "X-Goog-Signature", "x-goog-credential", "sig", "code"),
    *("refresh_token", "id_token", "access_token", "x-api-key", "API_KEY", "auth-token", "api_token", "session_token", "JWT"),
    *("pwd", "passwd", "password", "client-secret", "subscription-key", "x%2Dapi%2Dkey"),
)

QUIET = [
    {"tools": [{"function": {"name": "f", "parameters": {"properties": {"api_key": {"type": "string"}, "headers": {}}}}}]},
    {"tools": [{"name": "f", "input_schema": {"properties": {"password": {"type": "string", "default": "none"}}}}]},
    {"prompt_cache_key": "abc", "max_tokens": 1, "usage": {"input_tokens": 3}, "token": "word", "key": "k", "value": "v"},
    {"messages": [{"role": "user", "content": 'my password: "password": "x" and https://u:p@h/?token=1'}]},
    {"messages": [{"content": '{"api_key": "what a user pasted"}'}]},
    {"content": [{"type": "tool_use", "name": "f", "input": {"api_key": "a", "headers": {"b": "c"}}}]},
    {
        "choices": [
            {
                "logprobs": {"content": [{"token": "a"}]},
                "message": {"tool_calls": [{"function": {"arguments": '{"api_key":"a"}'}}]},
            }
        ]
    },
    {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"password": "a"}}}]}]},
    {"annotations": [{"type": "url_citation", "url": "https://a.example/exam?code=404&key=title&auth=none"}]},
    {"type": "code_interpreter_call", "code": "print(1)", "signature": "abc", "url": "https://a.example/b?c=d#e", "secret": ""},
]


@pytest.mark.parametrize("field", CASES)
def test_a_documented_field_never_reaches_the_log(field: Callable[[str], Any]) -> None:
    given = json.dumps(field(SECRET), indent=1)
    kept = secrets.body(given.encode()).decode()
    assert SECRET not in kept
    json.loads(kept)
    assert secrets.body(kept.encode()).decode() == kept


@pytest.mark.parametrize("field", CASES)
def test_an_echo_of_a_documented_field_is_blanked_in_place(field: Callable[[str], Any]) -> None:
    for end in ("\n\n", "\r\n\r\n"):
        text = f"event: response.created{end[: len(end) // 2]}data: {json.dumps({'response': field(SECRET)})}{end}"
        decoder = SSEDecoder()
        frames = decoder.feed(text.encode()) + decoder.finish()
        kept = b"".join(encode(frame.type, frame.data) if frame.raw is None else frame.raw for frame in Echoes().feed(frames))
        assert SECRET.encode() not in kept
        assert len(kept) == len(text)
        json.loads(kept.decode().partition("data: ")[2])


@pytest.mark.parametrize(("kind", "made"), BODIES.values(), ids=BODIES)
def test_in_whatever_body_it_comes(kind: str, made: Callable[[str], bytes]) -> None:
    kept = secrets.body(made(SECRET), kind)
    assert SECRET.encode() not in kept.replace(b"\0", b"")


@pytest.mark.parametrize("name", NAMES)
def test_in_a_query_under_any_spelling(name: str) -> None:
    assert secrets.query(f"a=1&{name}={SECRET}&b=%20") == f"a=1&{name}=REDACTED&b=%20"


@pytest.mark.parametrize("value", QUIET)
def test_what_only_has_the_name_of_a_secret_stays_byte_for_byte(value: Any) -> None:
    body = json.dumps(value, indent=2).encode()
    assert secrets.body(body) == body
    frames = SSEDecoder().feed(f"data: {json.dumps(value)}\n\n".encode())
    assert Echoes().feed(frames) is frames


def test_of_json_in_a_string_in_a_later_part_of_a_body_the_secret_alone_is_blanked() -> None:
    members = [{"name": f"value {number}", "b": "x"} for number in range(4000)]  # if each were read on to the end: 16 s
    given = json.dumps({"output": json.dumps([*members, {"api_key": SECRET, "after": "this"}])}).encode()
    echoes = Echoes()
    echoes.feed([text_frame("$body", b"[1,\n", 0)])
    (kept,) = echoes.feed([text_frame("$body", given, 1)])
    assert kept.data.encode() == given.replace(SECRET.encode(), b"x" * len(SECRET))


@pytest.mark.parametrize("size", [4, 5, len(SECRET) - 1])
def test_what_a_part_of_a_body_ends_with_is_blanked_where_the_next_would_make_it_a_secret(size: int) -> None:
    echoes = Echoes([SECRET])
    text = f"{SECRET[:4]} a {SECRET[:size]}"
    (begun,) = echoes.feed([text_frame("$body", text.encode(), 0)])
    (ended,) = echoes.feed([text_frame("$body", f"{SECRET[size:]} b".encode(), 1)])
    assert begun.data == f"{SECRET[:4]} a " + "x" * size
    assert ended.data == "x" * (len(SECRET) - size) + " b"


def test_all_but_the_secret_stays_byte_for_byte() -> None:
    given = '{ "a" : 1.0,\t"tools":[ {"headers" : {"A": "%s"} , "x":"\\u00e9\\/" } ]}\r\n'
    assert secrets.body((given % SECRET).encode()) == given.replace('{"A": "%s"}', '"REDACTED"').encode()


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_body_in_pieces_quotes_no_secret_of_its_request(size: int) -> None:
    decoder = recorder.bodies.BodyDecoder(join=False)
    text = f'Incorrect API key {SECRET}. {{"api_key": "{SECRET}", "n": 1}}'
    frames = [frame for at in range(0, len(text), size) for frame in decoder.feed(text[at : at + size].encode(), at)]
    echoes = Echoes([SECRET])
    kept = "".join(shown.data for frame in frames for shown in echoes.feed([frame]))
    assert SECRET[4:] not in kept
    assert len(kept) == len(text)


def _echo(wire: Wire, asked: Asked) -> None:
    """Says all that it was asked, in an error and in events."""
    quoted = [value for _, value in asked.headers] + [asked.target]
    told = {"error": {"message": f"cannot be asked so: {quoted}"}, "tools": json.loads(asked.body)["tools"]}
    whole = f"event: response.created\ndata: {json.dumps(told)}\n\nevent: error\ndata: {json.dumps(told)}\n\n".encode()
    wire.stream([whole[:50], whole[50:]], [SSE, ("Location", asked.target), ("Link", asked.target)])


KEY = "Pl4nted1Header"
HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "X-Goog-Api-Key": KEY,
    "Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}",
}
PATH = f"/v1/responses?a=1&x-amz-signature={SECRET}"


def _searched(folder: Path) -> None:
    def search() -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                held = path.read_bytes()
                assert SECRET.encode() not in held, path
                assert KEY.encode() not in held, path

    search()
    with contextlib.closing(sqlite3.connect(folder / "log.db")) as connection:
        stream_id, count = connection.execute("SELECT min(stream_id), count(*) FROM heads WHERE outcome IS NOT NULL").fetchone()
    assert count == 1
    output("export", stream_id, "-o", str(folder / "out.recording.jsonl"), db=folder / "log.db")
    search()


def test_through_the_proxy(tmp_path: Path) -> None:
    with Upstream() as upstream:
        upstream.on("/v1/responses", _echo)
        with ProxyProcess(upstream.origin, db=tmp_path / "log.db") as proxy, httpx.Client(trust_env=False) as client:
            got = client.post(f"http://{proxy.host}:{proxy.port}{PATH}", json=tool(SECRET), headers=HEADERS)
            assert SECRET in got.text, "the client gets all of it"
            until((tmp_path / "log.db").exists)
            proxy.stop()
    _searched(tmp_path)


@pytest.mark.parametrize("family", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_in_a_program(tmp_path: Path, family: Any) -> None:
    with Upstream() as upstream, family.Client(trust_env=False) as client:
        upstream.on("/v1/responses", _echo)
        with recorder.record(client, f"sqlite:///{tmp_path}/log.db"):
            assert SECRET in client.post(upstream.origin + PATH, json=tool(SECRET), headers=HEADERS).text
    _searched(tmp_path)


def _files(folder: Path) -> dict[str, Path]:
    """A file of each kind that can be imported, made without redaction."""
    told = {"error": {"message": f"no {SECRET}"}, "tools": tool(SECRET)["tools"]}
    (folder / "a.sse").write_text(f"data: {json.dumps(told)}\n\n")
    (folder / "a.request.json").write_text(
        json.dumps({"method": "POST", "host": f"u:{SECRET}@h", "path": PATH, "body": tool(SECRET)})
    )
    response = {"status": {"code": 401}, "headers": {"Content-Type": ["application/json"]}, "body": {"string": json.dumps(told)}}
    request = {"method": "POST", "uri": f"https://h{PATH}", "headers": HEADERS, "body": json.dumps(tool(SECRET))}
    (folder / "c.yaml").write_text(json.dumps({"version": 1, "interactions": [{"request": request, "response": response}]}))
    lines = [
        {"recorder": 2, "source": "x", "requests": ["POST /v1"]},
        {
            "stream_id": "0190a0a0-0000-7000-8000-000000000000",
            "method": "POST",
            "host": "h",
            "path": "/v1",
            "query": f"sig={SECRET}",
            "headers": [["authorization", KEY]],
            "body": tool(SECRET),
            "started_at": "2026-01-01T00:00:00Z",
            "recorded_at": "2026-01-01T00:00:00Z",
        },
        [0, "response.created", told],
        [1, "$end", {"outcome": "eof"}],
        {"events": 2},
    ]
    (folder / "r.recording.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return {"body": folder / "a.sse", "cassette": folder / "c.yaml", "recording": folder / "r.recording.jsonl"}


@pytest.mark.parametrize("kind", ["body", "cassette", "recording"])
def test_from_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "given").mkdir()
    path = _files(tmp_path / "given")[kind]
    (tmp_path / "kept").mkdir()
    output("import", str(path), db=tmp_path / "kept" / "log.db")
    _searched(tmp_path / "kept")


def test_the_rows_of_the_log_have_no_secret(engine: sa.Engine, tmp_path: Path) -> None:
    """On each database: whatever came by a recorder and by an import."""
    known: secrets.Known = set()
    stream, _ = exchange.begun(
        "POST", "h", "/v1", f"sig={SECRET}", list(HEADERS.items()), _json(tool(SECRET)), source="t", known=known
    )
    with Writer(engine) as writer:
        recording = writer.begin(stream, known=known)
        recording.response(401, (), "application/json")
        recording.chunk(_json({"error": {"message": f"no {SECRET}, no {KEY}"}, **tool(SECRET)}))
        recording.end("eof", f"asked with {KEY}")
    import_paths(engine, [str(path) for path in _files(tmp_path).values()])
    with database.read(engine) as connection:
        rows = repr([connection.execute(sa.select(table)).all() for table in (log.streams, log.events)])
    assert rows.count("REDACTED") >= 4
    assert SECRET not in rows
    assert KEY not in rows
