"""Recording files: a session as JSON lines, a header first, that a person can read and a repository can keep.

    {"recorder": 1, "streams": [{"stream_id": …, "method": …, "path": …, "body": …}, …]}
    [0, 0, "$response", {"status": 200, …}]
    [0, 1234, "thread.run.created", "{…}"]
    [1, …]

A line is [stream, offset_us, type, data] or [stream, offset_us, type, data, {"raw": base64, "cuts": [[byte, offset_us] …]}]:
`stream` counts in the header's list, data is a string (of a `$response`, `$gap` or `$end` its JSON), `raw` stands where the
bytes are not the canonical ones. Version 1 is what this file writes; whoever changes it raises VERSION and goes on reading 1.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from recorder import jsontext
from recorder.errors import ImportFailed
from recorder.log import Event, Stream
from recorder.sse import Frame

VERSION = 1

_JSON_TYPES = frozenset({"$response", "$gap", "$end"})


def write_recording(recorded: Iterable[tuple[Stream, Iterable[Event]]]) -> Iterator[str]:
    """The lines of a recording of these streams, each with its LF."""
    held = list(recorded)
    yield jsontext.dumps({"recorder": VERSION, "streams": [_header(stream) for stream, _ in held]}) + "\n"
    for number, (_, events) in enumerate(held):
        for _, offset_us, type, data, raw, cuts in events:
            line: list[Any] = [number, offset_us, type, jsontext.loads(data) if type in _JSON_TYPES else data]
            extra: dict[str, Any] = {}
            if raw is not None:
                extra["raw"] = base64.b64encode(raw).decode()
            if cuts:
                extra["cuts"] = cuts
            yield jsontext.dumps([*line, extra] if extra else line) + "\n"


def read_recording(path: Path) -> list[tuple[Stream, list[Frame]]]:
    """The streams of a recording file and their frames. Raises ImportFailed, naming the line, where it is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ImportFailed(f"{path}: {error.strerror}") from None
    number = 0
    try:
        header = jsontext.loads(lines[0]) if lines else {}
        version = header.get("recorder")
        if version != VERSION:
            raise ImportFailed(f"{path}: recording version {version!r}; this recorder reads {VERSION}")
        streams = [_stream(entry) for entry in header["streams"]]
        frames: list[list[Frame]] = [[] for _ in streams]
        for number, line in enumerate(lines[1:], 1):  # noqa: B007 - the error names it
            index, offset_us, type, data, *rest = jsontext.loads(line)
            extra = rest[0] if rest else {}
            raw = base64.b64decode(extra["raw"], validate=True) if "raw" in extra else None
            cuts = [(int(byte), int(at)) for byte, at in extra.get("cuts", ())] or None
            text = jsontext.dumps(data) if type in _JSON_TYPES else data
            frames[index if index >= 0 else len(frames)].append(Frame(str(type), str(text), raw, int(offset_us), cuts))
    except (jsontext.JSONError, binascii.Error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ImportFailed(f"{path}: line {number + 1} is not of a recording ({error})") from None
    return list(zip(streams, frames, strict=True))


def _header(stream: Stream) -> dict[str, Any]:
    body = stream.request_body
    entry = {
        **stream._asdict(),
        "started_at": stream.started_at.isoformat(),
        "recorded_at": stream.recorded_at.isoformat(),
    }
    entry["request_body"] = None if body is None else base64.b64encode(bytes(body)).decode()
    return entry


def _stream(entry: dict[str, Any]) -> Stream:
    body = entry.get("request_body")
    return Stream(
        **{
            **entry,
            "request_headers": tuple((name, value) for name, value in entry["request_headers"]),
            "request_body": None if body is None else base64.b64decode(body, validate=True),
            "started_at": datetime.fromisoformat(entry["started_at"]),
            "recorded_at": datetime.fromisoformat(entry["recorded_at"]),
        }
    )
