"""Cassettes of VCR.py (YAML, or JSON): their interactions as streams of one session, in their order.

A cassette has neither timing nor chunks. What came compressed is decoded, as it is where recorder itself records. PyYAML's safe
loader reads it: the tags of Python objects that some old cassettes have are refused but for plain texts and tuples.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recorder import files, jsontext
from recorder.collect import exchange, secrets
from recorder.collect.decoding import Closed, Decoding, Lost, Response
from recorder.collect.encoding import decode_for, is_encoded
from recorder.collect.streamid import derived_stream_id
from recorder.errors import ImportFailed
from recorder.log import Stream
from recorder.redaction.echoes import Echoes
from recorder.schema import text
from recorder.sse import Frame, is_system

logger = logging.getLogger(__name__)

KINDS = (".yaml", ".yml")

LARGEST = 256 * 1024**2
"""Bytes of a cassette, whose values take many times as much memory, and of what its aliases stand for."""

_GZIP = b"\x1f\x8b"  # RFC 1952, 2.3.1

_MARK = re.compile(rb"^(?:\xef\xbb\xbf)?(?:interactions|['\"]interactions['\"]):", re.MULTILINE)
_JSON_MARK = re.compile(rb'^(?:\xef\xbb\xbf)?\s*\{.*"interactions"\s*:\s*\[', re.DOTALL)

_USERINFO = re.compile(r"//[^/]*@")

_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What an interaction raises that is not as VCR.py writes it."""

Pair = tuple[str, str]
Loaded = dict[str, Any]


def is_cassette(path: Path) -> bool:
    """Whether a YAML file is one: others lie in many folders."""
    try:
        return _MARK.search(files.content(path, LARGEST)) is not None
    except OSError:
        return False


def of_json(content: bytes) -> Loaded | None:
    """The cassette that a JSON text is, as VCR.py's other serializer writes it; None if it is none."""
    if len(content) > LARGEST or not _JSON_MARK.match(content):
        return None
    loaded = jsontext.object_of(content.decode("utf-8", "replace"))
    interactions = loaded.get("interactions")
    if not isinstance(interactions, list) or "version" not in loaded:
        return None
    return loaded if all(isinstance(one, dict) and {"request", "response"} & {*one} for one in interactions) else None


def read_cassette(
    path: Path, pace: float | None = None, skipped: Callable[[str], None] = logger.warning, loaded: Loaded | None = None
) -> list[tuple[Stream, list[Frame]]]:
    """The streams of a cassette and their frames; an interaction that is none of VCR.py's is left out.

    pace: events a second. skipped: is told which interactions are left out, and why. loaded: what the file holds, if known.
    Raises ImportFailed where there is nothing that could be taken.
    """
    if loaded is None:
        try:
            content = files.content(path, LARGEST)
        except OSError as error:
            raise ImportFailed(f"{path}: {error.strerror}") from None
        loaded = _loaded(path, content)
    interactions = loaded.get("interactions") if isinstance(loaded, dict) else None
    if not isinstance(interactions, list):
        raise ImportFailed(f"{path}: no cassette of VCR.py: it has no list of interactions")
    if loaded.get("version", 1) != 1:
        raise ImportFailed(f"{path}: a cassette of version {loaded['version']!r}, and this recorder reads 1; record it again")
    found: list[tuple[Stream, list[Frame]]] = []
    wrong: list[str] = []
    before = datetime.fromtimestamp(0, UTC) - timedelta(microseconds=1)
    for number, interaction in enumerate(interactions):
        try:
            stream, frames = _stream(interaction, number, path, before)
        except _WRONG as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            wrong.append(f"{path}: interaction {number + 1}{_named(interaction)} is none of VCR.py ({said}); record it again")
            continue
        before = stream.started_at
        found.append((stream, list(_paced(frames, pace))))
    if wrong and not found:
        raise ImportFailed(wrong[0])
    for message in wrong:
        skipped(f"left out: {message}")
    return found


def _named(interaction: Any) -> str:
    """What an interaction asked, as far as it says so."""
    request = interaction.get("request") if isinstance(interaction, dict) else None
    asked = [request.get(name) for name in ("method", "uri")] if isinstance(request, dict) else []
    said = " ".join(_USERINFO.sub("//", value.partition("?")[0])[:200] for value in asked if isinstance(value, str))
    return f" ({said})" if said else ""


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
    loader.add_constructor("tag:yaml.org,2002:timestamp", base.construct_scalar)  # a text: a day that is none raises
    loader.add_constructor("tag:yaml.org,2002:int", _number)
    loader.flatten_mapping = _unmerged
    try:
        found = yaml.load(content, Loader=loader)
    except yaml.constructor.ConstructorError as error:
        raise ImportFailed(f"{path}: {_at(error)}{error.problem}, which a safe loader refuses; record it again") from None
    except yaml.YAMLError as error:
        raise ImportFailed(f"{path}: {_at(error)}no YAML ({' '.join(str(getattr(error, 'problem', error)).split())})") from None
    except RecursionError:
        raise ImportFailed(f"{path}: nested too deep to be a cassette") from None
    except ValueError as error:  # a number of thousands of digits
        raise ImportFailed(f"{path}: no YAML ({error})") from None
    if _weight(found) > LARGEST:
        raise ImportFailed(f"{path}: its aliases stand for more than a cassette holds")
    return found


def _number(loader: Any, node: Any) -> Any:
    """An int; what takes more than its length to read stays a text: thousands of digits, or of parts to the base of 60."""
    said = loader.construct_scalar(node)
    return said if ":" in said or len(said) > 100 else loader.construct_yaml_int(node)


def _unmerged(loader: Any, node: Any) -> None:
    """Instead of merging (`<<: *x`), which copies whatever it names: a few lines of merges of merges would fill the memory."""


def _weight(value: Any) -> float:
    """How much a value takes if each alias is a copy: characters, and one for each entry; endless if it holds itself."""
    known: dict[int, float] = {}
    waiting: list[tuple[Any, bool]] = [(value, False)]
    while waiting:
        one, is_seen = waiting.pop()
        if isinstance(one, (str, bytes)):
            known[id(one)] = len(one)
        elif not isinstance(one, (dict, list, tuple)):
            known[id(one)] = 1
        else:
            inner = [*one, *one.values()] if isinstance(one, dict) else one
            if is_seen:
                known[id(one)] = 1 + sum(known[id(part)] for part in inner)
            elif id(one) not in known:
                known[id(one)] = math.inf  # until all that it holds is known: what holds itself asks before
                waiting.append((one, True))
                waiting += [(part, False) for part in inner]
    return known[id(value)]


def _at(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: " if mark else ""


def _stream(interaction: dict[str, Any], number: int, path: Path, before: datetime) -> tuple[Stream, list[Frame]]:
    request, response = interaction["request"], interaction["response"]
    target = urlsplit(str(request["uri"]))
    asked, given = list(_headers(request.get("headers"))), list(_headers(response.get("headers")))
    sent, body = _body(request), _body(response)
    status = response["status_code"] if "status_code" in response else response["status"]["code"]
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"its status is {status!r}")
    known: secrets.Known = set()
    row, missing = exchange.begun(
        text(str(request["method"])) or "",
        text(target.netloc.rpartition("@")[2]) or "",
        text(target.path) or "/",
        text(target.query) or "",
        asked,
        sent or None,
        source=f"import {text(path.name)}",
        label=text(path.name.rpartition(".")[0]),
        known=known,
    )
    began = max(_date(given), before + timedelta(microseconds=1))
    frames = Echoes(known).feed(_frames(status, given, body, missing))
    shown = f"{row.method} {row.host} {row.path}?{row.query}".encode()
    headers = f"{jsontext.dumps(row.request_headers)} {frames[0].data}".encode()  # two answers may differ in these alone
    stream_id = derived_stream_id(int(began.timestamp()), b"vcr %d" % number, shown, headers, row.request_body or b"", body)
    return row._replace(stream_id=stream_id, started_at=began), frames


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


def _body(said: dict[str, Any]) -> bytes:
    """The body of a request or a response: `parsed_body` is JSON that a serializer (pydantic-ai's) has parsed, to be read."""
    if said.get("body") is None and said.get("parsed_body") is not None:
        return json.dumps(said["parsed_body"], default=str).encode()
    return _bytes(said["content"] if "content" in said else said.get("body"))


def _bytes(body: Any) -> bytes:
    """A body: a text, bytes, pieces of those, nothing, or any of it under a name that says which."""
    if isinstance(body, dict):
        if "base64_string" in body:
            return base64.b64decode("".join(str(body["base64_string"]).split()), validate=True)
        if body and "string" not in body:
            raise ValueError(f"a body of {', '.join(map(str, body))}")
        return _bytes(body.get("string"))
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
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
    except (ValueError, TypeError, IndexError, OverflowError):
        return datetime.fromtimestamp(0, UTC)
