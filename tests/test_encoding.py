"""Content codings: whatever a client can decode stands decoded in the log, however it was cut."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorder.collect.encoding import decode_for, is_encoded
from tests.clients import Kind
from tests.recorded import Recorded
from tests.upstream import SSE, Asked, Upstream, Wire

BODY = b"".join(b'event: thread.message.delta\ndata: {"n":%d}\n\n' % number for number in range(20))

Encode = Callable[[bytes], bytes]


def headless(body: bytes) -> bytes:
    """Deflate without the header of zlib, as some servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def in_blocks(body: bytes) -> bytes:
    """Gzip as a server writes it that flushes each event."""
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    parts = body.split(b"\n\n")
    joined = [part + b"\n\n" for part in parts[:-1]] + parts[-1:]
    return b"".join(compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH) for part in joined) + compressor.flush()


def brotli(body: bytes) -> bytes:
    return pytest.importorskip("brotli").compress(body)  # type: ignore[no-any-return]


def zstandard(body: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(body)  # type: ignore[no-any-return]


CODINGS: list[Any] = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("gzip", in_blocks, id="gzip-in-blocks"),
    pytest.param("x-gzip", gzip.compress, id="x-gzip"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("deflate", headless, id="deflate-without-header"),
    pytest.param("br", brotli, id="br"),
    pytest.param("zstd", zstandard, id="zstd"),
    pytest.param("identity", bytes, id="identity"),
    pytest.param("", bytes, id="none"),
]
SEVERAL: list[Any] = [pytest.param("gzip", gzip.compress, id="gzip"), pytest.param("zstd", zstandard, id="zstd")]


def decoded(coding: str, chunks: list[bytes]) -> bytes:
    decode = decode_for(coding)
    assert decode is not None
    return b"".join(piece for chunk in chunks for piece in decode(chunk))


@pytest.mark.parametrize(("coding", "encode"), CODINGS)
def test_a_body_is_decoded_however_it_is_cut(coding: str, encode: Encode) -> None:
    encoded = encode(BODY)
    assert decoded(coding, [encoded]) == BODY
    assert decoded(coding, [encoded[at : at + 1] for at in range(len(encoded))]) == BODY
    for at in range(len(encoded) + 1):
        assert decoded(coding, [encoded[:at], b"", encoded[at:]]) == BODY


@pytest.mark.parametrize(("coding", "encode"), SEVERAL)
def test_several_bodies_one_after_the_other_are_decoded_all(coding: str, encode: Encode) -> None:
    """A server may compress each event by itself (RFC 1952, 2.2; RFC 8878, 3.1)."""
    encoded = b"".join(encode(part) for part in re.findall(rb".*?\n\n", BODY, re.DOTALL))
    assert decoded(coding, [encoded]) == BODY
    for at in range(0, len(encoded), 7):
        assert decoded(coding, [encoded[:at], encoded[at:]]) == BODY


@pytest.mark.parametrize(("coding", "encode"), CODINGS)
def test_what_there_is_of_a_cut_body_is_decoded(coding: str, encode: Encode) -> None:
    encoded = encode(random.Random(1).randbytes(300_000))
    decode = decode_for(coding)
    assert decode is not None
    found = b"".join(decode(encoded[:250_000]))
    assert 100_000 < len(found) <= 250_100


@pytest.mark.parametrize(("coding", "encode"), [param for param in CODINGS if param.values[0] not in ("", "identity")])
@pytest.mark.parametrize("what", ["something else", "more after its end"])
def test_what_is_not_encoded_so_is_an_error(coding: str, encode: Encode, what: str) -> None:
    encoded = encode(BODY)
    chunks = [b"event: plain\ndata: text\n\n"] if what == "something else" else [encoded, b"and more"]
    with pytest.raises(Exception, match=r"."):
        decoded(coding, chunks)


@pytest.mark.parametrize("coding", ["compress", "gzip, dcb", "gzip, br, zstd, gzip, gzip", "dcb", "\ud800", "gzip;q=1", "*"])
def test_an_unknown_coding_is_not_decoded(coding: str) -> None:
    assert decode_for(coding) is None
    assert is_encoded(coding)


@pytest.mark.parametrize("coding", ["GZIP", " gzip ", "gZip\t"])
def test_the_name_of_a_coding_is_read_as_http_reads_it(coding: str) -> None:
    assert decoded(coding, [gzip.compress(BODY)]) == BODY
    assert is_encoded(coding)


@pytest.mark.parametrize("coding", [None, "", "identity", " Identity "])
def test_a_body_without_a_coding_is_none_that_is_encoded(coding: str | None) -> None:
    assert not is_encoded(coding)
    decode = decode_for(coding)
    assert decode is not None
    assert list(decode(b"as it is")) == [b"as it is"]


def test_a_package_that_is_not_there_leaves_its_coding_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = __import__("sys").modules
    for name in ("brotli", "zstandard"):
        monkeypatch.setitem(modules, name, None)
    assert decode_for("br") is None
    assert decode_for("zstd") is None


# Through a client: it has what it would have without the hook, and the log has what it means


def answer(encoded: bytes, coding: str, cut: int = 40, status: int = 200) -> Callable[[Wire, Asked], None]:
    pieces = [encoded[at : at + cut] for at in range(0, len(encoded), cut)]
    return lambda wire, asked: wire.stream(pieces, [SSE, ("Content-Encoding", coding)], status)


@pytest.mark.anyio
@pytest.mark.parametrize(("coding", "encode"), CODINGS)
async def test_an_encoded_stream_is_the_same_at_the_client_and_decoded_in_the_log(
    kind: Kind, upstream: Upstream, tmp_path: Path, db: str, coding: str, encode: Encode
) -> None:
    encoded = encode(BODY)
    upstream.on("/v1", answer(encoded, coding))
    plain = kind.client()
    expected = await kind.fetch(plain, f"{upstream.origin}/v1")
    async with kind.recorded(plain, db):
        had = await kind.fetch(plain, f"{upstream.origin}/v1")
        whole = await kind.begin(plain, f"{upstream.origin}/v1")
        text = await kind.read(whole)
    await kind.close(plain)
    assert had.said == expected.said
    assert had.body == encoded
    log = Recorded(db)
    for stream in log.ended("/v1", 2):
        assert log.body(stream.stream_id) == BODY
        (response,) = log.said(stream.stream_id, "$response")
        assert response.get("decoded", "") == (coding if coding not in ("", "identity") else "")
        assert ["content-encoding", coding] in response["headers"]
        assert log.outcome(stream.stream_id) == "eof"
        assert log.said(stream.stream_id, "$gap") == []
    assert text in (BODY, encoded)  # a client does not know x-gzip


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "coding"),
    [
        pytest.param(BODY, "gzip", id="not gzip at all"),
        pytest.param(gzip.compress(BODY)[:60] + BODY, "gzip", id="not gzip from the middle on"),
        pytest.param(gzip.compress(BODY) + b"after its end", "gzip", id="more after its end"),
        pytest.param(b"\xff" + BODY, "deflate", id="not deflate"),
        pytest.param(gzip.compress(BODY)[:-20], "gzip", id="gzip that breaks off"),
        pytest.param(BODY, "compress", id="a coding that nobody knows"),
        pytest.param(gzip.compress(gzip.compress(BODY)), "gzip, gzip", id="two codings"),
        pytest.param(b"", "gzip", id="nothing at all"),
    ],
)
async def test_a_body_that_is_not_encoded_as_it_says_harms_nobody_and_is_kept(
    kind: Kind, upstream: Upstream, db: str, body: bytes, coding: str
) -> None:
    """The client fails or not, just as without the hook. The log says from where on it could not decode, and keeps the bytes."""
    upstream.on("/v1", answer(body, coding, cut=50))

    async def read() -> tuple[bytes, str]:
        response = await kind.begin(client, f"{upstream.origin}/v1")
        try:
            return await kind.read(response), ""
        except Exception as error:  # noqa: BLE001 - what it is, is compared
            return b"", repr(error)

    client = kind.client()
    raw = await kind.fetch(client, f"{upstream.origin}/v1")
    expected = await read()
    async with kind.recorded(client, db):
        had = await kind.fetch(client, f"{upstream.origin}/v1")
        assert had.said == raw.said
        assert await read() == expected
    await kind.close(client)
    log = Recorded(db)
    first, second = log.streams("/v1")
    kept, failed = as_far_as_it_goes(coding, had.chunks)
    assert log.body(first.stream_id) == kept
    for stream in (first, second):
        gaps = log.said(stream.stream_id, "$gap")
        assert all(gap["bytes"] == 0 and "not decoded" in gap["reason"] for gap in gaps)
        assert len(gaps) == failed


def as_far_as_it_goes(coding: str, chunks: list[bytes]) -> tuple[bytes, bool]:
    """A body decoded up to the first chunk with which that fails, and as it came from there on; whether it failed."""
    decode = decode_for(coding)
    found = b""
    if decode is None:
        return b"".join(chunks), True
    for number, chunk in enumerate(chunks):
        try:
            found += b"".join(decode(chunk))
        except zlib.error:
            return found + b"".join(chunks[number:]), True
    return found, False
