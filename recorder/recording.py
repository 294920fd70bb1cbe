"""Recording files: a session as JSON lines, a header first, that a person can read and a repository can keep.

    {"recorder":2,"source":"proxy","requests":["POST /v1/threads/thread_1/runs"]}
    {"stream_id":…,"method":"POST","host":…,"path":…,"headers":[["content-type","application/json"]],"body":{…},"started_at":…,"recorded_at":…}
    [0,"$response",{"status":200,…}]
    [1234,"thread.run.created",{"id":"run_1",…}]
    {"events":2}

After the header stands each stream: a line with its request, then a line for each of its events, [offset_us, type, data] or
[offset_us, type, data, more]. The last line says how many events there are, so that a file that broke off is known for one.

JSON stands as JSON where it is an object or a list in one line: the text within the line is the very text, so nothing is decoded
and encoded again on its way. Any other data is a string. `more` has what else an event needs to come back byte for byte:

    indent   its JSON was written with so many spaces      around  its bytes: this, the data, and this (not the canonical framing)
    raw      its bytes, as text; data is null              base64  its bytes, where they are no text; data is null
    cuts     [[byte, offset_us] …], ends of earlier chunks within it

Data is null where it follows from the bytes. Whoever changes the format raises VERSION, goes on reading what is older, and keeps
a file of it in fixtures/recordings/.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from recorder import files, jsontext, log, sse
from recorder.errors import ImportFailed
from recorder.log import Event, Stream
from recorder.sse import Frame

VERSION = 2

_AGAIN = "export it again (`recorder export ID -o FILE`)"

Recorded = list[tuple[Stream, list[Frame]]]

_Micros = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Time = Annotated[datetime, Meta(tz=True)]


class _Header(Struct, forbid_unknown_fields=True):
    recorder: int
    source: str
    requests: list[str]


class _Request(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """source: where it is another than the header's. body: JSON as it stood, or a text; base64 of one that is no text."""

    stream_id: str
    session_label: str | None = None
    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    headers: list[tuple[str, str]] = []
    body: Raw | UnsetType = UNSET
    body_base64: str | None = None
    started_at: _Time
    recorded_at: _Time
    source: str | None = None


class _More(Struct, forbid_unknown_fields=True, omit_defaults=True):
    indent: Annotated[int, Meta(ge=1, le=16)] | None = None
    around: tuple[str, str] | None = None
    raw: str | None = None
    base64: str | None = None
    cuts: list[tuple[_Micros, _Micros]] | None = None


class _Line(Struct, array_like=True, forbid_unknown_fields=True):
    offset_us: _Micros
    type: str
    data: Raw
    more: _More = msgspec.field(default_factory=_More)


class _End(Struct, forbid_unknown_fields=True):
    events: int


_encode = msgspec.json.Encoder().encode
_request_of = msgspec.json.Decoder(_Request).decode
_line_of = msgspec.json.Decoder(_Line).decode
_end_of = msgspec.json.Decoder(_End).decode
_json_of = msgspec.json.Decoder().decode

_NOTHING = _More()

_LONGEST_OUTCOME = 100  # characters; there are a dozen, and later versions may have more


def write_recording(recorded: Iterable[tuple[Stream, Iterable[Event]]]) -> Iterator[str]:
    """The lines of a recording of these streams, each with its LF."""
    held = list(recorded)
    source = held[0][0].source if held else ""
    yield _text_of(_Header(VERSION, source, [_shown(stream) for stream, _ in held]))
    count = 0
    for stream, events in held:
        yield _text_of(_described(stream, source))
        for event in events:
            yield _text_of(_written(event))
            count += 1
    yield _text_of(_End(count))


def read_recording(path: Path) -> Recorded:
    """The streams of a recording file and their frames. Raises ImportFailed, naming the line, where it is none or not whole."""
    try:
        lines = files.content(path).removeprefix(files.BOM).split(b"\n")
    except OSError as error:
        raise ImportFailed(f"{path}: {error.strerror}") from None
    whole = lines[-1].strip() == b""
    while lines and not lines[-1].strip():
        lines.pop()
    reading = _Reading(lines)
    try:
        return _READERS[_version(lines)](reading, whole)
    except _NotWhole as error:
        raise ImportFailed(f"{path}: {error}: {_AGAIN}, or fetch the whole file") from None
    except _Wrong as error:
        raise ImportFailed(f"{path}: {error}") from None
    except RecursionError:
        raise ImportFailed(f"{path}: line {reading.number} is nested too deep to be read") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:  # ValueError: of JSON, base64, UTF-8
        said = " ".join(str(error).split())
        raise ImportFailed(f"{path}: line {reading.number} is not of a recording ({said}); correct it, or {_AGAIN}") from None


def events_of(frames: Iterable[Frame]) -> list[Event]:
    """The frames of a stream as they would be read from a log."""
    return [log.event(log.row("", position, frame)[1:]) for position, frame in enumerate(frames)]


class _Wrong(Exception):
    """What is wrong with the file as a whole, in words."""


class _NotWhole(_Wrong):
    pass


class _Reading:
    """The lines, and the number of the one that is being read, from 1 on."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.number = 1

    def each(self, start: int, end: int) -> Iterator[bytes]:
        for number in range(start, end):
            self.number = number + 1
            yield self.lines[number]


def _version(lines: list[bytes]) -> int:
    try:
        version = _json_of(lines[0])["recorder"]
    except (ValueError, KeyError, IndexError, TypeError):
        version = None
    if isinstance(version, int) and version in _READERS:
        return version
    if isinstance(version, int) and version > VERSION:
        raise _Wrong(
            f"line 1: a recording of version {version}, and this recorder reads up to {VERSION};"
            " upgrade it (`pip install -U runstep-recorder`)"
        )
    raise _Wrong(f'line 1 is no header of a recording, {{"recorder":{VERSION},…}}; {_AGAIN}')


def _read_2(reading: _Reading, whole: bool) -> Recorded:
    lines = reading.lines
    try:
        end = _end_of(lines[-1])
    except ValueError:
        raise _NotWhole(f'the recording breaks off in line {len(lines)}: its last line, {{"events":…}}, is missing') from None
    header = msgspec.json.decode(lines[0], type=_Header)
    found: Recorded = []
    for line in reading.each(1, len(lines) - 1):
        if line.lstrip()[:1] == b"{":
            found.append((_stream(_request_of(line), header.source, found), []))
        else:
            if not found:
                raise ValueError("an event before the first request")
            found[-1][1].append(_frame(_line_of(line)))
    count = sum(len(frames) for _, frames in found)
    if count != end.events:
        raise _NotWhole(f"line {len(lines)} says that it has {end.events} events, and it has {count}")
    if len(found) != len(header.requests):
        raise _NotWhole(f"line 1 names {len(header.requests)} requests, and it has {len(found)}")
    return found


def _shown(stream: Stream) -> str:
    return f"{stream.method} {stream.path}".strip()


def _text_of(value: Any) -> str:
    return _encode(value).decode() + "\n"


# Requests


def _described(stream: Stream, source: str) -> _Request:
    request = _Request(
        stream_id=stream.stream_id,
        session_label=stream.session_label,
        method=stream.method,
        host=stream.host,
        path=stream.path,
        query=stream.query,
        headers=list(stream.request_headers),
        started_at=stream.started_at,
        recorded_at=stream.recorded_at,
        source=None if stream.source == source else stream.source,
    )
    if stream.request_body is not None:
        body = bytes(stream.request_body)
        try:
            request.body = _data(body.decode())
        except UnicodeDecodeError:
            request.body_base64 = base64.b64encode(body).decode()
    return request


def _stream(request: _Request, source: str, before: Recorded) -> Stream:
    if str(uuid.UUID(request.stream_id)) != request.stream_id:
        raise ValueError(f"stream_id {request.stream_id!r} is no UUID in lower case")
    if any(request.stream_id == stream.stream_id for stream, _ in before):
        raise ValueError(f"stream {request.stream_id} stands here twice")
    body: bytes | None = None
    if request.body is not UNSET:
        body = _text(request.body).encode()
    elif request.body_base64 is not None:
        body = base64.b64decode(request.body_base64, validate=True)
    return Stream(
        request.stream_id,
        request.method,
        request.host,
        request.path,
        request.query,
        tuple(request.headers),
        body,
        request.session_label,
        source if request.source is None else request.source,
        _utc(request.started_at),
        _utc(request.recorded_at),
    )


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{at.isoformat()} lies beyond the calendar in UTC") from None


# Events


def _written(event: Event) -> list[Any]:
    _, offset_us, type, data, raw, cuts = event
    more = _More(cuts=cuts or None)
    embedded: Raw | None = None
    if raw is None:
        embedded = _indented(data)
        if embedded is not None:
            more.indent = 2
    else:
        text, exact = sse.decode_text(bytes(raw))
        before, found, after = text.partition(data) if data else ("", "", "")
        if exact and found:
            more.around = before, after
        else:
            if exact:
                more.raw = text
            else:
                more.base64 = base64.b64encode(raw).decode()
            if (type, data) == sse.decode_raw(type, bytes(raw)):
                embedded = Raw(b"null")
    line = [offset_us, type, embedded or _data(data)]
    return line if more == _NOTHING else [*line, more]


def _frame(line: _Line) -> Frame:
    type, more = line.type, line.more
    raw: bytes | None = None
    if more.raw is not None:
        raw = more.raw.encode()
    elif more.base64 is not None:
        raw = base64.b64decode(more.base64, validate=True)
    if bytes(line.data) == b"null":
        if raw is None:
            raise ValueError("its data is null, and there is neither raw nor base64")
        type, data = sse.decode_raw(type, raw)
    else:
        data = _text(line.data, more.indent)
    if type == "$end":
        outcome = jsontext.object_of(data).get("outcome")
        if not isinstance(outcome, str) or "\0" in outcome or len(outcome) > _LONGEST_OUTCOME:
            raise ValueError(f"its outcome is {str(outcome)[:20]!r}, and none that a stream has")
    if more.around is not None:
        raw = (more.around[0] + data + more.around[1]).encode()
    elif raw is None and "\0" in type + data:  # no database's text holds that
        raw = sse.encode(type, data)
    return Frame(type, data, raw, line.offset_us, more.cuts)


def _data(text: str) -> Raw:
    """A text as it stands in a line: JSON's objects and lists as they are, others as a string."""
    if text[:1] in ("{", "[") and "\n" not in text and "\r" not in text:
        embedded = text.encode()
        try:
            _json_of(embedded)
        except (ValueError, RecursionError):
            pass
        else:
            if text[-1] in "}]":  # white space after it would be no part of the value
                return Raw(embedded)
    return Raw(_encode(text))


def _indented(text: str) -> Raw | None:
    """The JSON of a text that is JSON over several lines, indented by two, as APIs write what is no stream."""
    if text[:2] not in ("{\n", "[\n") or text[-1] not in "}]":
        return None
    try:
        value = json.loads(text)
        return Raw(_compact(value).encode()) if _spread(value, 2) == text else None
    except (ValueError, RecursionError):
        return None


def _text(given: Raw, indent: int | None = None) -> str:
    """What _data and _indented were made of."""
    text = bytes(given).decode()
    if text[:1] == '"':
        return str(_json_of(text))
    if text[:1] not in ("{", "["):
        raise ValueError(f"its data is {text[:20]}, and no object, list or string")
    return text if indent is None else _spread(json.loads(text), indent)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _spread(value: Any, indent: int) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


# Version 1: the header had all requests, with bodies in base64, and a line the number of its stream before all else


_OWN_WORDS = frozenset({"$response", "$gap", "$end"})


def _read_1(reading: _Reading, whole: bool) -> Recorded:
    header = jsontext.loads(reading.lines[0])
    streams = [_stream_1(entry) for entry in header["streams"]]
    frames: list[list[Frame]] = [[] for _ in streams]
    if not whole:
        try:
            _json_of(reading.lines[-1])
        except ValueError:
            raise _NotWhole(f"the recording breaks off in line {len(reading.lines)}") from None
    for line in reading.each(1, len(reading.lines)):
        index, offset_us, type, data, *rest = jsontext.loads(line)
        more = rest[0] if rest else {}
        raw = base64.b64decode(more["raw"], validate=True) if "raw" in more else None
        cuts = [(int(byte), int(at)) for byte, at in more.get("cuts", ())] or None
        text = jsontext.dumps(data) if type in _OWN_WORDS else data
        frames[index if index >= 0 else len(frames)].append(Frame(str(type), str(text), raw, int(offset_us), cuts))
    return list(zip(streams, frames, strict=True))


def _stream_1(entry: dict[str, Any]) -> Stream:
    body = entry.get("request_body")
    return Stream(
        **{
            **entry,
            "request_headers": tuple((name, value) for name, value in entry["request_headers"]),
            "request_body": None if body is None else base64.b64decode(body, validate=True),
            "started_at": _utc(datetime.fromisoformat(entry["started_at"])),
            "recorded_at": _utc(datetime.fromisoformat(entry["recorded_at"])),
        }
    )


_READERS: dict[int, Callable[[_Reading, bool], Recorded]] = {1: _read_1, 2: _read_2}
