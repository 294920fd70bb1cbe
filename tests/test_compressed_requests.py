"""Compressed requests are read as others are, in whatever way they come; a client that compresses finds its recording."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import httpx
import pytest
import zstandard

import recorder
from recorder.collect import exchange
from recorder.replay.match import Asked, decoded
from tests.commands import ProxyProcess
from tests.recorded import Recorded
from tests.upstream import Upstream

ASKED = {"model": "m", "input": "hello", "tools": [{"type": "mcp", "authorization": "SECRET"}]}
PLAIN = json.dumps(ASKED).encode()
STORED = {**ASKED, "tools": [{"type": "mcp", "authorization": "REDACTED"}]}

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip, zstd": lambda plain: zstandard.ZstdCompressor().compress(gzip.compress(plain)),
    "ZSTD": zstandard.ZstdCompressor().compress,
}


def begun(body: bytes, coding: str, limit: int = 1_000_000) -> tuple[Any, str]:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)]
    row, missing = exchange.begun("POST", "host", "/v1", "", headers, body, source="test", limit=limit)
    return row.request_body, missing


@pytest.mark.parametrize("coding", CODINGS)
def test_a_request_is_stored_decoded_and_without_its_secrets(coding: str) -> None:
    body, missing = begun(CODINGS[coding](PLAIN), coding)
    assert json.loads(body) == STORED
    assert missing == ""


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        pytest.param(PLAIN, "compress", "compress is not known", id="unknown, though it is JSON"),
        pytest.param(b"\0" + PLAIN, "compress", "compress is not known", id="unknown"),
        pytest.param(b"no gzip", "gzip", "it is no gzip", id="not gzip"),
        pytest.param(brotli.compress(PLAIN)[:4], "br", "it breaks off", id="half of it"),
    ],
)
def test_what_cannot_be_decoded_is_not_stored_and_said(body: bytes, coding: str, why: str) -> None:
    stored, missing = begun(body, coding)
    if body == PLAIN:
        assert json.loads(stored) == STORED, "whoever decoded it left the header as it was"
        return
    assert stored is None
    assert missing.startswith(f"request not decoded: its body of {len(body)} bytes")
    assert why in missing


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_the_limit_is_that_of_what_is_decoded(coding: str) -> None:
    bomb = CODINGS[coding](b"[" + b" " * 50_000_000)
    assert begun(bomb, coding) == (None, "not recorded: the request's body, of over 1000000 bytes (max_request_body)")


@pytest.mark.parametrize("way", ["proxy", "hook"])
def test_it_is_recorded_and_a_client_that_compresses_finds_it_again(tmp_path: Path, way: str) -> None:
    url = f"sqlite:///{tmp_path}/log.db"

    def ask(client: httpx.Client, origin: str, coding: str, body: bytes) -> httpx.Response:
        headers = {"content-type": "application/json", "content-encoding": coding}
        return client.post(f"{origin}/v1/responses", content=body, headers=headers)

    with Upstream() as upstream:
        upstream.on("/v1/responses", lambda wire, asked: wire.whole(b'{"id": "resp_1"}'))
        sent = {coding: CODINGS[coding](PLAIN) for coding in ("gzip", "br", "zstd")}
        if way == "proxy":
            with ProxyProcess(upstream.origin, db=tmp_path / "log.db") as proxy, httpx.Client(trust_env=False) as client:
                for coding, body in (*sent.items(), ("gzip", b"none")):
                    ask(client, f"http://{proxy.host}:{proxy.port}", coding, body)
                assert proxy.stop() == 0
        else:
            with httpx.Client(trust_env=False) as client, recorder.record(client, url):
                for coding, body in (*sent.items(), ("gzip", b"none")):
                    ask(client, upstream.origin, coding, body)
        assert [upstream.asked("/v1/responses", number).body for number in range(4)] == [*sent.values(), b"none"]
    recorded = Recorded(url)
    streams = recorded.streams("/v1/responses")
    assert [stream.request_body and json.loads(stream.request_body) for stream in streams] == [STORED] * 3 + [None]
    (gap,) = recorded.said(streams[-1].stream_id, "$gap")
    assert "request not decoded" in gap["reason"]
    assert b"SECRET" not in (tmp_path / "log.db").read_bytes()
    with httpx.Client(transport=recorder.ReplayTransport(db=url, strict=True), trust_env=False) as client:
        for coding, body in sent.items():
            assert ask(client, "http://anywhere", coding, body).json() == {"id": "resp_1"}
        assert client.post("http://anywhere/v1/responses", json=ASKED).status_code == 200


def test_what_a_client_sends_is_passed_on_as_it_came() -> None:
    body = gzip.compress(PLAIN)
    asked = decoded(Asked("POST", "/", body=body), "gzip")
    assert (asked.body, asked.sent) == (PLAIN, body)
    assert decoded(Asked("POST", "/", body=b"none"), "gzip").sent is None
    assert decoded(Asked("POST", "/", body=PLAIN), None).sent is None
