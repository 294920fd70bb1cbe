"""Cassettes of VCR.py (YAML): their interactions as streams of one session, in their order.

A cassette has neither timing nor chunks. What came compressed is decoded, as it is where recorder itself records. PyYAML's safe
loader reads it: the tags of Python objects that some old cassettes have are refused but for plain texts and tuples.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recorder.collect import exchange, secrets
from recorder.collect.decoding import Closed, Decoding, Lost, Response
from recorder.collect.encoding import decode_for, is_encoded
from recorder.collect.streamid import derived_stream_id
from recorder.errors import ImportFailed
from recorder.log import Stream
from recorder.redaction.echoes import Echoes
from recorder.sse import Frame, is_system

KINDS = (".yaml", ".yml")

_GZIP = b"\x1f\x8b"  # RFC 1952, 2.3.1

_MARK = re.compile(rb"^(?:interactions|['\"]interactions['\"]):", re.MULTILINE)

Pair = tuple[str, str]


def is_cassette(path: Path) -> bool:
    """Whether a YAML file is one: others lie in many folders."""
    try:
        return _MARK.search(path.read_bytes()) is not None
    except OSError:
        return False


def read_cassette(path: Path, pace: float | None = None) -> list[tuple[Stream, list[Frame]]]:
    """The streams of a cassette and their frames. pace: events a second. Raises ImportFailed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImportFailed(f"{path}: {error.strerror}") from None
    loaded = _loaded(path, content)
    interactions = loaded.get("interactions") if isinstance(loaded, dict) else None
    if not isinstance(interactions, list):
        raise ImportFailed(f"{path}: no cassette of VCR.py: it has no list of interactions")
    if loaded.get("version", 1) != 1:
        raise ImportFailed(f"{path}: a cassette of version {loaded['version']!r}, and this recorder reads 1; record it again")
    found: list[tuple[Stream, list[Frame]]] = []
    before = datetime.fromtimestamp(0, UTC) - timedelta(microseconds=1)
    for number, interaction in enumerate(interactions):
        try:
            stream, frames = _stream(interaction, number, path, before)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ImportFailed(f"{path}: interaction {number + 1} is none of VCR.py ({said}); record it again") from None
        before = stream.started_at
        found.append((stream, list(_paced(frames, pace))))
    return found


def _loaded(path: Path, content: bytes) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ImportFailed(f"{path}: YAML needs its library; install runstep-recorder[vcr]") from None
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("Loader", (base,), {})
    for name in ("str", "unicode"):
        loader.add_constructor(f"tag:yaml.org,2002:python/{name}", base.construct_scalar)
    loader.add_constructor("tag:yaml.org,2002:python/tuple", base.construct_sequence)
    try:
        return yaml.load(content, Loader=loader)
    except yaml.constructor.ConstructorError as error:
        raise ImportFailed(f"{path}: {_at(error)}{error.problem}, which a safe loader refuses; record it again") from None
    except yaml.YAMLError as error:
        raise ImportFailed(f"{path}: {_at(error)}no YAML ({' '.join(str(getattr(error, 'problem', error)).split())})") from None
    except RecursionError:
        raise ImportFailed(f"{path}: nested too deep to be a cassette") from None


def _at(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: " if mark else ""


def _stream(interaction: dict[str, Any], number: int, path: Path, before: datetime) -> tuple[Stream, list[Frame]]:
    request, response = interaction["request"], interaction["response"]
    target = urlsplit(str(request["uri"]))
    asked, given = list(_headers(request.get("headers"))), list(_headers(response.get("headers")))
    sent = _bytes(request.get("body"))
    body = _bytes(response["content"] if "content" in response else response.get("body"))
    status = response["status_code"] if "status_code" in response else response["status"]["code"]
    if not isinstance(status, int):
        raise TypeError(f"its status is {status!r}")
    known: secrets.Known = set()
    row, missing = exchange.begun(
        str(request["method"]),
        target.netloc.rpartition("@")[2],
        target.path or "/",
        target.query,
        asked,
        sent or None,
        source=f"import {path.name}",
        label=path.name.rpartition(".")[0],
        known=known,
    )
    began = max(_date(given), before + timedelta(microseconds=1))
    shown = f"{row.method} {row.host} {row.path}?{row.query}".encode()
    stream_id = derived_stream_id(int(began.timestamp()), b"vcr %d" % number, shown, row.request_body or b"", body)
    return row._replace(stream_id=stream_id, started_at=began), Echoes(known).feed(_frames(status, given, body, missing))


def _frames(status: int, headers: list[Pair], body: bytes, missing: str) -> list[Frame]:
    """What a response was. One that says it is encoded, and is not, was decoded by VCR.py already."""
    named = {name.lower(): value for name, value in headers}
    coding = named.get("content-encoding")
    if is_encoded(coding) and not _is_of(coding, body):
        headers = [(name, value) for name, value in headers if name.lower() not in ("content-encoding", "content-length")]
        coding = None
    decoding = Decoding()
    kept = secrets.headers(headers, secrets.RESPONSE_HEADERS)
    frames = decoding.frames(Response(status, kept, named.get("content-type"), coding), 0)
    if missing:
        frames += decoding.frames(Lost(0, 0, missing), 0)
    if body:
        frames += decoding.frames(body, 0)
    return frames + decoding.frames(Closed("eof", None), 0)


def _is_of(coding: str | None, body: bytes) -> bool:
    decode = decode_for(coding)
    if decode is None:
        return True  # nobody here can tell
    try:
        return any(decode(body)) or body[:2] == _GZIP  # a gzip of nothing is something; the beginning of a text is none
    except Exception:  # noqa: BLE001 - each coding's library has errors of its own
        return False


def _paced(frames: Iterable[Frame], pace: float | None) -> Iterator[Frame]:
    count = offset_us = 0
    for frame in frames:
        if pace and not is_system(frame.type):
            offset_us = int(count * 1e6 / pace)
            count += 1
        yield frame._replace(offset_us=offset_us)


def _headers(given: Any) -> Iterator[Pair]:
    """Headers of a cassette: each name has a list of values, or one."""
    if isinstance(given, list):
        given = {str(name): value for name, value in given}
    for name, values in (given or {}).items():
        for value in values if isinstance(values, (list, tuple)) else [values]:
            yield str(name), _bytes(value).decode("latin-1") if isinstance(value, bytes) else str(value)


def _bytes(body: Any) -> bytes:
    """A body: a text, bytes, pieces of those, nothing, or any of it under a name that says which."""
    if isinstance(body, dict):
        if "base64_string" in body:
            return base64.b64decode("".join(str(body["base64_string"]).split()), validate=True)
        return _bytes(body.get("string"))
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    if isinstance(body, bytes):
        return body
    if isinstance(body, (list, tuple)):
        return b"".join(map(_bytes, body))
    raise ValueError(f"a body of {type(body).__name__}")


def _date(headers: Iterable[Pair]) -> datetime:
    """When a response was given, by its Date; else zero."""
    given = next((value for name, value in headers if name.lower() == "date"), "")
    try:
        return parsedate_to_datetime(given).astimezone(UTC)
    except (ValueError, TypeError, IndexError):
        return datetime.fromtimestamp(0, UTC)
