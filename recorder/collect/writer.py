"""The writer: a queue, and the one thread that appends what is on it.

A tee calls Recording.chunk() and goes on: that is a put on a queue, never a wait on a database and never an exception. The
thread takes whatever is queued, decodes it, appends it in one transaction, and takes what has come meanwhile: an idle
recorder commits each event at once, a busy one large batches. While the database fails, the batch is kept and tried again;
when the queue is then full, chunks are dropped and counted, and a `$gap` says how many as soon as writing works again.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import database, log
from recorder.bodies import BodyDecoder, Decoder, decoder_for
from recorder.collect.encoding import Decode, decode_for, is_encoded
from recorder.collect.outcome import Ending
from recorder.log import Row, Stream
from recorder.sse import Frame, is_system

logger = logging.getLogger(__name__)

QUEUE_BYTES = 64 * 1024 * 1024
"""Bytes of chunks that may wait for the database before chunks are dropped."""

BATCH_BYTES = 1024 * 1024
"""Bytes of chunks that one transaction takes at the most."""

LOCKED_SECONDS = 2
"""How long a transaction waits for another process's lock on a SQLite file; then that is said, and it is tried again."""

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the classes in which commits are counted by how long they took; there is one more class above them."""

_RETRY_SECONDS = 0.2
_CHUNK_COST = 200  # bytes of memory of a queue entry beside its chunk

_NOTHING = {"chunks": 0, "bytes": 0}  # lost, of a `$gap` that only says something

_OPEN, _RESPONSE, _CHUNK, _GAP, _END, _SYNC = range(6)


class _Entry(NamedTuple):
    kind: int
    recording: Recording | None
    offset_us: int
    value: Any


class Recording:
    """One stream on its way to the log. Any thread may call it, one at a time; nothing here blocks or raises."""

    __slots__ = (
        "_began",
        "_dropped",
        "_last_us",
        "_writer",
        "closed",
        "decode",
        "decoder",
        "ending",
        "position",
        "status",
        "stream",
    )

    def __init__(self, writer: Writer, stream: Stream, began_ns: int | None = None) -> None:
        self._writer = writer
        self._began = time.perf_counter_ns() if began_ns is None else began_ns
        self._last_us = 0
        self._dropped = [0, 0]  # chunks, bytes
        self.stream = stream
        self.closed = False
        # Below: the writer thread's alone.
        self.position = 0
        self.decode: Decode = bytes
        self.decoder: Decoder | None = None
        self.ending = Ending()
        self.status: int | None = None

    def response(
        self, status: int, headers: tuple[tuple[str, str], ...], content_type: str | None, content_encoding: str | None = None
    ) -> None:
        """The response began: its status, the headers that may be stored, and what its body is.

        content_encoding: how the chunks that follow are encoded; where it is known, they are decoded for the log.
        """
        self._writer._put(_Entry(_RESPONSE, self, self.now(), (status, headers, content_type, content_encoding)), 0)

    def chunk(self, body: bytes, arrived_us: int | None = None) -> None:
        """A chunk of the body arrived: now, or when now() said so."""
        if self.closed:
            return
        now = self.now() if arrived_us is None else arrived_us
        if self._writer.full(len(body)):
            self._dropped[0] += 1
            self._dropped[1] += len(body)
            self._writer.dropped_bytes += len(body)
            return
        self._tell_dropped(now)
        self._writer._put(_Entry(_CHUNK, self, now, body), len(body))

    def gap(self, reason: str) -> None:
        """Something to be said about this place in the stream though no byte is missing."""
        self._writer._put(_Entry(_GAP, self, self.now(), {**_NOTHING, "reason": reason}), 0)

    def end(self, closed: str, detail: str | None = None) -> None:
        """The stream is over, with what was said of it. Only the first call counts.

        closed: eof, cut, client_closed, no_response, or lost: its recorder was closed before it ended.
        """
        if self.closed:
            return
        self.closed = True
        self._writer.open.discard(self)
        now = self.now()
        self._tell_dropped(now)
        self._writer._put(_Entry(_END, self, now, (closed, detail)), 0)

    def at_ns(self, offset_us: int) -> int:
        """When that was, by time.perf_counter_ns."""
        return self._began + offset_us * 1000

    def now(self) -> int:
        """µs since the stream began, later than any before: two chunks need two offsets to stay two."""
        now = max(self._last_us + 1, (time.perf_counter_ns() - self._began) // 1000)
        self._last_us = now
        return now

    def _tell_dropped(self, now: int) -> None:
        """Say what could not be queued before, now that something can be."""
        chunks, size = self._dropped
        if chunks:
            self._writer._put(_Entry(_GAP, self, now, {"chunks": chunks, "bytes": size, "reason": "queue full"}), 0)
            self._dropped = [0, 0]


class Writer:
    """Owns the thread that appends. Use it as a context: leaving it waits until all that was queued is committed.

    open: the streams that have not ended yet. failing_since: when the database began to fail, None while it does not.
    Counted so far: commits, errors (failed transactions), events and bytes (of bodies) that were committed, dropped_bytes,
    gaps by reason, streams that ended by outcome, commits by how long they took (commit_times, by COMMIT_SECONDS).
    """

    def __init__(self, engine: sa.Engine, queue_bytes: int = QUEUE_BYTES) -> None:
        self.open: set[Recording] = set()
        self.failing_since: datetime | None = None
        self.errors = 0
        self.dropped_bytes = 0
        self.commits = 0
        self.events = 0
        self.bytes = 0
        self.gaps: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.slowest_commit_us = 0
        self.commit_seconds = 0.0
        self.commit_times = [0] * (len(COMMIT_SECONDS) + 1)
        self._engine = engine
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._queue_bytes = queue_bytes
        self._queued = 0
        self._taken = 0
        self._lost: set[str] = set()  # streams that were given up
        self._connection: sa.Connection | None = None
        self._turn = threading.Lock()  # held while the connection is in use
        self._closing = False
        self._oldest_ns: int | None = None  # when what is being committed first was queued
        self._thread = threading.Thread(target=self._run, name="recorder-writer", daemon=True)

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread: as a context does."""
        self._thread.start()

    def begin(self, stream: Stream, began_ns: int | None = None) -> Recording:
        """Begin to record a stream. began_ns: when its request was sent, by time.perf_counter_ns, where that is not now."""
        recording = Recording(self, stream, began_ns)
        self.open.add(recording)
        self._put(_Entry(_OPEN, recording, 0, None), len(stream.request_body or b""))
        return recording

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` called (in the writer's thread) once all that is queued now is committed."""
        self._put(_Entry(_SYNC, None, 0, call), 0)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now is committed; whether it was in time (seconds)."""
        done = threading.Event()
        self.after_commit(done.set)
        return done.wait(timeout)

    def close(self, timeout: float = 30.0) -> None:
        """Commit what is queued and end the thread; give up after `timeout` seconds if the database does not come back.

        Streams that are open still end here: what comes of them later is not recorded.
        """
        if self._closing:
            return
        for recording in list(self.open):
            recording.end("lost", "the recorder was closed while this stream was open")
        self._closing = True
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the database did not take %d bytes that were recorded last: they are lost", self._queued - self._taken)

    def hold(self) -> None:
        """Let go of the connection and use none until resume(): after the transaction that is under way now."""
        self._turn.acquire()
        self._disconnect()

    def resume(self) -> None:
        self._turn.release()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of memory that wait to be committed."""
        return self._queued - self._taken

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest of what waits has waited."""
        oldest = self._oldest_ns
        return 0.0 if oldest is None else max(0.0, (time.perf_counter_ns() - oldest) / 1e9)

    def full(self, size: int) -> bool:
        """Whether this many bytes more would be over what may wait."""
        waiting = self.waiting_bytes
        return waiting > 0 and waiting + size + _CHUNK_COST > self._queue_bytes

    def _put(self, entry: _Entry, size: int) -> None:
        self._queued += size + _CHUNK_COST  # a lost update between threads would only bend the bound a little
        self._queue.put(entry)

    def _run(self) -> None:
        ending = False
        while not ending:
            taken = [self._queue.get()]
            size = 0
            while size < BATCH_BYTES:
                try:
                    entry = self._queue.get_nowait()
                except Empty:
                    break
                taken.append(entry)
                size += _size(entry)
            ending = taken[-1] is None
            entries = [entry for entry in taken if entry is not None]
            self._oldest_ns = next((entry.recording.at_ns(entry.offset_us) for entry in entries if entry.recording), None)
            streams, batch = _decode(entries)
            self._commit(streams, {stream_id: rows for stream_id, rows in batch.items() if stream_id not in self._lost})
            self._oldest_ns = None
            size = sum(map(_size, entries))
            self.bytes += size
            self._taken += size + _CHUNK_COST * len(entries)
            for entry in entries:
                if entry.kind == _SYNC:
                    try:
                        entry.value()
                    except Exception:
                        logger.exception("what was to be called after a commit failed")
        with self._turn:
            self._disconnect()

    def _commit(self, streams: list[Stream], batch: dict[str, list[Row]]) -> None:
        """Append until it works. Only an end that cannot wait any longer (close) leaves it undone."""
        if not streams and not batch:
            return
        while True:
            try:
                began = time.perf_counter_ns()
                with self._turn, self._transaction() as connection:
                    log.insert_streams(connection, streams)
                    log.append(connection, batch)
                self._committed((time.perf_counter_ns() - began) / 1e9, batch)
            except Exception as error:  # noqa: BLE001 - whatever fails here, the application's stream must not notice
                self.errors += 1
                if not isinstance(error, sa.exc.DBAPIError) or database.is_about_data(error):
                    self._commit_apart(streams, batch, error)
                    return
                if self.failing_since is None:
                    self.failing_since = datetime.now(UTC)
                    logger.error("the database fails, what is recorded waits in memory: %s", _one_line(error))  # noqa: TRY400
                time.sleep(_RETRY_SECONDS)
            else:
                if self.failing_since is not None:
                    logger.warning("the database takes events again")
                    self.failing_since = None
                return

    def _committed(self, seconds: float, batch: dict[str, list[Row]]) -> None:
        """Count a commit, and what was in it."""
        self.commits += 1
        self.commit_seconds += seconds
        self.commit_times[bisect_left(COMMIT_SECONDS, seconds)] += 1
        self.slowest_commit_us = max(self.slowest_commit_us, int(seconds * 1e6))
        self.events += sum(not is_system(type) for rows in batch.values() for _, _, _, type, *_ in rows)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction on the thread's own connection, which is kept until something fails on it."""
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(**database.WRITING)
            database.wait_for_lock(self._connection, LOCKED_SECONDS)
        try:
            with self._connection.begin():
                yield self._connection
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _commit_apart(self, streams: list[Stream], batch: dict[str, list[Row]], error: Exception) -> None:
        """Append each stream by itself, since one of them cannot be: that one is given up, and the others go on."""
        ids = list(dict.fromkeys([*(stream.stream_id for stream in streams), *batch]))
        if len(ids) > 1:
            for stream_id in ids:
                own = {stream_id: batch[stream_id]} if stream_id in batch else {}
                self._commit([stream for stream in streams if stream.stream_id == stream_id], own)
            return
        self._lost.update(ids)
        logger.error("stream %s cannot be stored, what comes of it is lost: %s", ids[0], _one_line(error))


def _size(entry: _Entry | None) -> int:
    if entry is None or entry.recording is None:
        return 0
    if entry.kind == _CHUNK:
        return len(entry.value)
    return len(entry.recording.stream.request_body or b"") if entry.kind == _OPEN else 0


def _decode(entries: list[_Entry]) -> tuple[list[Stream], dict[str, list[Row]]]:
    """The streams that begin with these entries, and the rows that they amount to."""
    streams: list[Stream] = []
    batch: dict[str, list[Row]] = {}
    for kind, recording, offset_us, value in entries:
        if recording is None:
            continue
        if kind == _OPEN:
            streams.append(recording.stream)
            continue
        try:
            frames = _frames(kind, recording, offset_us, value)
        except Exception as error:
            logger.exception("stream %s cannot be decoded any further", recording.stream.stream_id)
            recording.decoder = None
            frames = [_gap(recording, {**_NOTHING, "reason": f"not decoded: {error!r}"}, offset_us)]
        if frames:
            recording.ending.see(frames)
            rows = batch.setdefault(recording.stream.stream_id, [])
            stream_id, row, position = recording.stream.stream_id, log.row, recording.position
            for frame in frames:
                rows.append(row(stream_id, position, frame))
                position += 1
            recording.position = position
    return streams, batch


def _frames(kind: int, recording: Recording, offset_us: int, value: Any) -> list[Frame]:
    """The frames that an entry completes."""
    decoder = recording.decoder
    if kind == _CHUNK:
        return _chunk_frames(decoder, recording, offset_us, value) if decoder is not None else []
    if kind == _RESPONSE:
        recording.status, headers, content_type, content_encoding = value
        decode = decode_for(content_encoding)
        recording.decode = decode or bytes
        recording.decoder = decoder_for(content_type, recording.status, encoded=decode is None)
        said = {"status": recording.status, "headers": headers}
        if decode is not None and is_encoded(content_encoding):
            said["decoded"] = content_encoding
        return [log.system_frame("$response", said, offset_us)]
    if kind == _GAP:
        # What comes after lost bytes does not go on with what was before.
        before = decoder.finish() if value["bytes"] and decoder is not None else []
        return [*before, _gap(recording, value, offset_us)]
    left = decoder.finish() if decoder is not None else []
    recording.ending.see(left)
    outcome = recording.ending.of_connection(value[0], recording.status)
    recording._writer.outcomes[outcome] += 1
    said = {"outcome": outcome, "closed": value[0], **({"detail": value[1]} if value[1] else {})}
    return [*left, log.system_frame("$end", said, offset_us)]


def _chunk_frames(decoder: Decoder, recording: Recording, offset_us: int, chunk: bytes) -> list[Frame]:
    """The frames that a chunk completes. From where it is not encoded as was said, the body is kept as it came."""
    try:
        decoded = recording.decode(chunk)
    except Exception as error:  # noqa: BLE001 - each coding's library has errors of its own
        recording.decode, recording.decoder = bytes, BodyDecoder(join=False)
        said = {**_NOTHING, "reason": f"not decoded from here on: {_one_line(error)}"}
        return [*decoder.finish(), _gap(recording, said, offset_us), *recording.decoder.feed(chunk, offset_us)]
    return decoder.feed(decoded, offset_us)


def _gap(recording: Recording, said: dict[str, Any], offset_us: int) -> Frame:
    recording._writer.gaps[said["reason"].partition(":")[0]] += 1
    return log.system_frame("$gap", said, offset_us)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
