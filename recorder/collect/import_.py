"""Importing files: bodies that somebody else recorded, recordings, and cassettes.

A stream's id is derived from its content, so importing again adds nothing. Events are appended in batches that hold the
write lock for some milliseconds each, so that a recorder on the same database hardly notices; an import that was broken off
is completed by the next.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from recorder import database, files, jsontext, log
from recorder.bodies import decoder_for
from recorder.collect import cassette, secrets
from recorder.collect.outcome import Ending
from recorder.collect.screen import redacted, redacted_frames
from recorder.collect.streamid import derived_stream_id
from recorder.errors import AppendConflict, ImportFailed
from recorder.kind import JSON, LINES, SSE, kind_of
from recorder.log import Row, Stream
from recorder.recording import Recorded, read_recording
from recorder.redaction import fields
from recorder.redaction.echoes import Echoes
from recorder.redaction.names import is_secret
from recorder.redaction.rules import Rules
from recorder.schema import text
from recorder.sse import Frame, encode, is_system
from recorder.testing import SUFFIX

logger = logging.getLogger(__name__)

KINDS = (".sse", ".events.jsonl", SUFFIX, ".json", *cassette.KINDS)
REQUEST = ".request.json"
BATCH = 2000  # events in one transaction

_READ = 1024 * 1024  # bytes decoded at a time
_CREATED = re.compile(rb'"created(?:_at)?"\s*:\s*(\d{9,11})\b')


class RequestFile(BaseModel):
    """`<name>.request.json` beside a file: the request that it answered."""

    model_config = ConfigDict(extra="ignore")

    method: str | None = None
    host: str | None = None
    path: str | None = None
    body: Any = None


class Imported(NamedTuple):
    """What became of a file: the stream and how many events it has (system events not counted)."""

    path: str
    stream_id: str
    events: int


def import_paths(
    engine: sa.Engine,
    paths: Iterable[str],
    pace: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    rules: Rules | None = None,
    skipped: Callable[[str], None] = logger.warning,
) -> list[Imported]:
    """Import files, and the files in folders, in order; a row for each.

    pace: events a second that a file without timing is given. progress: called with (path, files done, files in all).
    rules: what is redacted before it is stored. skipped: is told what is left out of a cassette, and why.
    Raises ImportFailed: for a path that is none, before anything is imported; for a file that cannot be taken, after at most
    those that stand before it. To import again then adds what is missing.
    """
    found = find(paths)
    taker = _Appender(engine)
    rows: list[Imported] = []
    try:
        for number, path in enumerate(found):
            if progress:
                progress(str(path), number, len(found))
            read = _several(path, pace, skipped)
            if read is not None:
                clean = [_without_secrets(stream, frames) for stream, frames in read]
                shown = [_redacted(rules, stream, frames) for stream, frames in clean] if rules else clean
                rows += [Imported(str(path), *taker.take(stream, frames)) for stream, frames in shown]
            else:
                rows.append(Imported(str(path), *taker.take(*read_file(path, pace, rules))))
        taker.flush()
    except AppendConflict as error:
        raise ImportFailed(f"{error}; where both are wanted, import the file into another database (--db)") from None
    return rows


def _several(path: Path, pace: float | None, skipped: Callable[[str], None]) -> Recorded | None:
    """The streams of a file that holds several, None of one that is a single body."""
    if path.name.endswith(SUFFIX):
        return read_recording(path)
    if path.name.endswith(cassette.KINDS):
        return cassette.read_cassette(path, pace, skipped)
    if path.name.endswith(".json") and (loaded := cassette.of_json(_read(path))) is not None:
        return cassette.read_cassette(path, pace, skipped, loaded)
    return None


def find(paths: Iterable[str]) -> list[Path]:
    """The files that paths name; a folder stands for the importable files in it, in the order of their names."""
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and _importable(file.name) and _meant(file))
            if not inside:
                raise ImportFailed(f"{path}: no file to import in it; those are {', '.join(KINDS)}")
            found += inside
        elif not path.exists():
            raise ImportFailed(f"{path}: no such file or folder")
        elif not _importable(path.name):
            raise ImportFailed(f"{path}: not a file that can be imported; those are {', '.join(KINDS)}")
        else:
            found.append(path)
    return found


def read_file(path: Path, pace: float | None = None, rules: Rules | None = None) -> tuple[Stream, Iterable[Frame]]:
    """The stream of a `.sse`, `.events.jsonl` or `.json` file, and its frames.

    Its id is a hash of what is stored: a hash of what was redacted would tell a short secret to whoever tries all.
    """
    body = _read(path)
    kind = next(kind for kind in KINDS if path.name.endswith(kind))
    beside = path.with_name(path.name.removesuffix(kind) + REQUEST)
    known: secrets.Known = set()
    request, request_body = _request(beside, known) if beside.exists() else (RequestFile(), b"")
    method, host, path_and_query = (text(said) or "" for said in (request.method, request.host, request.path))
    host = host.rpartition("@")[2]
    target, mark, query = path_and_query.partition("?")
    frames_as = b"" if kind == ".sse" else kind.encode()  # the same bytes under another ending are other events
    stream = Stream(
        stream_id="",
        method=method,
        host=host,
        path=target,
        query=secrets.query(query, known),
        request_headers=(),
        request_body=request_body or None,
        source=f"import {text(path.name)}",
        recorded_at=datetime.now(UTC),
    )
    head = f"{method} {host} {stream.path}{mark}{stream.query}".encode()
    frames: Iterable[Frame] = _frames(kind, body, pace)
    looked = body.decode("latin-1")
    if fields.may_hold(looked) or any(word in looked for word in known):
        was = list(frames)
        frames = Echoes(known).feed(was)
        body = body if frames is was else _body(frames)
    if rules is not None:
        stream, frames = _redacted(rules, stream, frames)
        head = f"{method} {host} {stream.path}?{stream.query}".encode()
        request_body, body = stream.request_body or b"", _body(frames)
    created = _CREATED.search(body)
    created_at = int(created[1]) if created else 0
    stream_id = derived_stream_id(created_at, head, request_body, body, frames_as)
    return stream._replace(stream_id=stream_id, started_at=datetime.fromtimestamp(created_at, UTC)), frames


def _redacted(rules: Rules, stream: Stream, frames: Iterable[Frame]) -> tuple[Stream, list[Frame]]:
    return redacted(rules, stream), list(redacted_frames(rules, frames))


def _frames(kind: str, body: bytes, pace: float | None) -> Iterator[Frame]:
    told = kind_of(body, _TYPES[_SAYS[kind]])
    if told != SSE or kind != ".sse":
        yield log.system_frame("$response", {"status": 200, "headers": [["content-type", _TYPES[told]]]}, 0)
    decoder = decoder_for(told)
    ending = Ending()
    gap_us = 1e6 / pace if pace else 0.0
    count = offset_us = 0
    for at in range(0, len(body) + _READ, _READ):
        frames = decoder.feed(body[at : at + _READ]) if at < len(body) else decoder.finish()
        ending.see(frames)
        if not gap_us:
            yield from frames
            continue
        for frame in frames:
            offset_us = int(count * gap_us)
            count += not is_system(frame.type)
            yield frame._replace(offset_us=offset_us)
    yield log.system_frame("$end", {"outcome": ending.of_file()}, offset_us)


class _Appender:
    """Gathers streams until a batch is full, so that many small files share a transaction and a large one has several."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._streams: list[Stream] = []
        self._batch: dict[str, list[Row]] = {}
        self._size = 0

    def take(self, stream: Stream, frames: Iterable[Frame]) -> tuple[str, int]:
        stream_id, row = stream.stream_id, log.row
        if self._batch.get(stream_id):
            self.flush()  # the same content twice: the second finds itself stored
        self._streams.append(stream)
        rows = self._batch.setdefault(stream_id, [])
        count = 0
        for position, frame in enumerate(frames):
            rows.append(row(stream_id, position, frame))
            count += not is_system(frame.type)
            self._size += 1
            if self._size >= BATCH:
                self.flush()
                rows = self._batch.setdefault(stream_id, [])
        return stream_id, count

    def flush(self) -> None:
        with database.write(self._engine) as connection:
            log.insert_streams(connection, self._streams)
            log.append(connection, {key: rows for key, rows in self._batch.items() if rows})
        self._streams, self._batch, self._size = [], {}, 0


def _importable(name: str) -> bool:
    return name.endswith(KINDS) and not name.endswith(REQUEST)


def _meant(file: Path) -> bool:
    """Whether a file in a folder is to be taken along: YAML where it is a cassette."""
    return not file.name.endswith(cassette.KINDS) or cassette.is_cassette(file)


def _read(path: Path, most: int = files.LARGEST) -> bytes:
    try:
        return files.content(path, most)
    except OSError as error:
        raise ImportFailed(f"{path}: {error.strerror}") from None


def _body(frames: Iterable[Frame]) -> bytes:
    return b"".join(encode(*frame[:2]) if frame.raw is None else frame.raw for frame in frames)


def _without_secrets(stream: Stream, frames: list[Frame]) -> tuple[Stream, list[Frame]]:
    """A stream that somebody else may have recorded, with another notion of what is secret."""
    known: secrets.Known = set(secrets.of_headers(stream.request_headers))
    named = dict(stream.request_headers)
    body = stream.request_body
    stream = stream._replace(
        host=stream.host.rpartition("@")[2],
        query=secrets.query(stream.query, known),
        request_headers=tuple((name, value) for name, value in stream.request_headers if not is_secret(name)),
        request_body=None if body is None else secrets.body(bytes(body), named.get("content-type"), known),
    )
    return stream, Echoes(known).feed(frames)


def _request(path: Path, known: secrets.Known) -> tuple[RequestFile, bytes]:
    try:
        request = RequestFile.model_validate(jsontext.loads(_read(path, files.LARGEST_TEXT).decode()))
    except (jsontext.JSONError, ValidationError) as error:  # UnicodeDecodeError is one of the first
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "no JSON"
        raise ImportFailed(f'{path}: not a request file ({reason}); it should be {{"method", "host", "path", "body"}}') from None
    body = b"" if request.body is None else secrets.body(jsontext.dumps(request.body).encode(), known=known)
    return request, body


_SAYS = {".sse": SSE, ".json": JSON, ".events.jsonl": LINES}
"""What a file is by its name."""

_TYPES = {SSE: "text/event-stream", JSON: "application/json", LINES: "application/x-ndjson"}
