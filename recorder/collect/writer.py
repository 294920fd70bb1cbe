"""The writer: a queue, and the one thread that appends what is on it.

What a tee says of a stream (recording.py) is put on the queue. The thread takes whatever is there, decodes it, appends it in one
transaction, and takes what has come meanwhile: an idle recorder commits each event at once, a busy one large batches.

Nothing ends the thread, and nothing is lost without being said. While the database fails, what is due is kept and tried again;
when the queue is then full, chunks are dropped and counted, and a `$gap` says how many as soon as writing works again. A stream
whose events cannot be stored, be it for what is in them or for a bug in recorder, loses them alone: a `$gap` says that, too, and
the others go on. A database file that was removed is said once; the streams go on in a new one, each with a `$gap` for what
stood in the other. Where another recorder took this one for dead (lease.py) and ended its streams, they go on after that end.

No stream waits for another: one whose chunks are more than its share of a transaction (a flood of tiny events, a few bytes that
decode to gigabytes) is decoded step by step (backlog.py) while the others go on. What open streams hold back is counted with the
queue (budget.py); where it grows too large it goes to the log in pieces.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from queue import Empty, SimpleQueue
from typing import TypeVar

import sqlalchemy as sa

from recorder import database, jsontext, log
from recorder.collect.backlog import Backlog
from recorder.collect.budget import Budget
from recorder.collect.decoding import KEPT, STEP, Closed, Lost, Said, gap, one_line
from recorder.collect.file import File
from recorder.collect.lease import RENEW_SECONDS, Lease, mark_lost
from recorder.collect.recording import ENTRY_COST, FULL, Entry, Recording, never_raising
from recorder.collect.screen import Screens
from recorder.collect.streamid import new_stream_id
from recorder.errors import AppendConflict, DatabaseError
from recorder.log import Row, Stream
from recorder.settings import Settings
from recorder.sse import Frame, chunks, is_system

logger = logging.getLogger(__name__)

BATCH_BYTES = 1024 * 1024
"""Bytes of bodies that one transaction takes at the most."""

BATCH_ENTRIES = 20_000
"""Entries that one transaction takes at the most, and about as many frames."""

SHARE = 4_000
"""Frames of one stream in a transaction after which it waits for the others, where those of all are too many for one."""

LATE = "not decoded in time"
"""The reason of a gap."""

HURRY = 0.6
"""The part of the time to close in after which what is behind is given up, so that the log can say so."""

LOCKED_SECONDS = 2.0
"""How long a transaction waits for another process's lock on a SQLite file; then that is said, and it is tried again."""

_LOCKED_AT_ONCE = 0.05  # of that, in one piece: between the pieces this process may fork

TRANSACTION_SECONDS = 20.0
"""How long a transaction may take on a server; then its connection is given up, and it is tried again on a new one."""

HANGING_SECONDS = 10.0
"""A transaction that takes longer is a failure of the database, as far as one can tell so far."""

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the classes in which commits are counted by how long they took; there is one more class above them."""

_STEP_WORK = 500  # of a step beside the frames that it makes

_RETRY_SECONDS = 0.2
_OWED_SECONDS = 1.0  # until what could not be stored for a bug is tried again where nothing else comes

_MANY = 5  # failures of the thread in a row after which it gives up what it has at hand

Result = TypeVar("Result")


class Writer:
    """Owns the thread that appends. Use it as a context: leaving it waits until all that was queued is committed.

    open: the streams that have not ended yet. failing_since: when writing began to fail, None while it does not.
    Counted so far: commits, errors (failed transactions), events and bytes (of bodies) that were committed, dropped_bytes,
    gaps by reason, streams that ended by outcome, commits by how long they took (commit_times, by COMMIT_SECONDS); faults
    (of recorder itself), streams that were left out (not sampled), given up (what came of them later is not in the log) and
    those that are missing (not in it at all), files_lost (removed while they were written) and leases_lost (taken by another);
    late_bytes (of what was queued, those that were not decoded in time when it was closed).
    """

    def __init__(self, engine: sa.Engine, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.open: set[Recording] = set()
        self.failing_since: datetime | None = None
        self.errors = 0
        self.faults = 0
        self.dropped_bytes = 0
        self.given_up = 0
        self.left_out = 0
        self.missing = 0
        self.files_lost = 0
        self.leases_lost = 0
        self.commits = 0
        self.events = 0
        self.bytes = 0
        self.gaps: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.slowest_commit_us = 0
        self.commit_seconds = 0.0
        self.commit_times = [0] * (len(COMMIT_SECONDS) + 1)
        self.path = engine.url.database if engine.dialect.name == "sqlite" else None
        self._engine = engine
        self._file = File(engine)
        self._epoch = 0  # how often another file took its place
        self._lease = Lease()
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        self.budget = Budget(self.settings.queue_bytes)
        self.late_bytes = 0
        self._screens = Screens(self.settings)
        self._backlog = Backlog()
        self._work = 0  # about how many frames were made for the transaction under way
        self._freed = self._came = 0  # bytes of memory, and of bodies, that are through with it
        self._calls: list[object] = []  # to be made once it is through
        self._holding: dict[Recording, int] = {}  # streams that hold something back → bytes
        self._touched: set[Recording] = set()  # streams that may hold something else than before
        self._hurry_at: float | None = None  # time.monotonic at which what is behind is given up
        self._entries: deque[Entry] = deque()  # taken from the queue and not looked at yet
        self._due: dict[Recording, list[Frame]] = {}  # decoded and not stored yet
        self._upkeep_at = 0.0  # time.monotonic
        self._retry_at: float | None = None
        self._unsaid = [0, 0, 0]  # streams, chunks and bytes that are not in the log at all, and nothing there says so yet
        self._unsaid_lock = threading.RLock()  # within it the garbage collector may end another stream, which says so
        self._connection: sa.Connection | None = None
        self._transaction_since: float | None = None  # time.monotonic
        self._turn = threading.Lock()  # held while the connection is in use
        self._closing = False
        self._last = self._ended = False  # whether the thread has all that there is, and is through
        self._broken = 0  # steps of it in a row that failed
        self._oldest_ns: int | None = None  # when what is being committed first was queued
        self._said_dropping = self._said_shedding = False  # whether that was logged, since it began
        self._overflow = 0  # bytes that came while the queue was full, since something was stored last
        self._storing = ""  # what a transaction is about to store
        self._thread = threading.Thread(target=self._run, name="recorder-writer", daemon=True)

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread: as a context does."""
        self._thread.start()

    def begin(self, stream: Stream, began_ns: int | None = None, *, strict: bool = False, known: Iterable[str] = ()) -> Recording:
        """Begin to record a stream. began_ns: when its request was sent, by time.perf_counter_ns, where that is not now.

        strict: nothing that could be committed is held back. known: secrets of its request, which its response may quote.
        """
        recording = Recording(self, stream, began_ns, strict=strict, known=known)
        if self._closing:
            recording.closed = True
            return recording
        self.open.add(recording)
        with never_raising:
            recording.begin()
        return recording

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` called (in the writer's thread) once all that is queued now is committed."""
        self.put(None, 0, call)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now is committed; whether it was in time (seconds)."""
        done = threading.Event()
        self.after_commit(done.set)
        return done.wait(timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """Commit what is queued and end the thread; give up after `timeout` seconds if the database does not come back.

        Streams that are open still end here: what comes of them later is not recorded. Whether all that was queued is in the log.
        """
        if self._closing:
            return self.complete
        self._hurry_at = time.monotonic() + timeout * HURRY
        for recording in list(self.open):
            recording.end("lost", "the recorder was closed while this stream was open")
        self._closing = True
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the database did not take %d bytes that were recorded last: they are lost", self.waiting_bytes)
        return self.complete

    @property
    def complete(self) -> bool:
        """Once it is closed: whether all that was queued by then is in the log."""
        return not (self._thread.is_alive() or self._due or self.late_bytes)

    def hold(self, patience: float) -> bool:
        """Let go of the connection and use none until resume(); False if the transaction under way takes longer (seconds)."""
        if not self._turn.acquire(timeout=patience):
            return False
        try:
            self._disconnect()
        except Exception:
            logger.exception("a connection could not be closed")
        return True

    def resume(self) -> None:
        self._turn.release()

    @property
    def hanging_since(self) -> datetime | None:
        """When a transaction began that the database should have finished long ago."""
        since = self._transaction_since
        seconds = 0.0 if since is None else time.monotonic() - since
        return datetime.now(UTC) - timedelta(seconds=seconds) if seconds > HANGING_SECONDS else None

    @property
    def waiting_bytes(self) -> int:
        """Bytes of memory that wait to be committed."""
        return self.budget.queue

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest of what waits has waited."""
        oldest = self._oldest_ns
        return 0.0 if oldest is None else max(0.0, (time.perf_counter_ns() - oldest) / 1e9)

    # The caller's side.

    def put(
        self, recording: Recording | None, offset_us: int, said: Said | Callable[[], None] | None, size: int = ENTRY_COST
    ) -> None:
        cost = size + ENTRY_COST
        self.budget.queued += cost  # a lost update between threads would only bend the bound a little
        self._queue.put(Entry(recording, offset_us, said, cost))

    def overflows(self, size: int) -> None:
        self.dropped_bytes += size
        self._overflow += size

    def unheard(self, dropped: int, size: int) -> None:
        """A stream ended before there was room to say that it began."""
        with self._unsaid_lock:
            self.missing += 1
            for at, more in enumerate((1, dropped, size)):
                self._unsaid[at] += more

    # The thread.

    def _run(self) -> None:
        while not self._ended:
            try:
                self._step()
                self._broken = 0
            except BaseException as error:  # noqa: BLE001 - the thread has nobody else: whatever it is, it goes on
                self._go_on_after(error)
        with self._turn:
            self._disconnect()

    def _step(self) -> None:
        """Take what is queued, store it, and see to what is due by the clock."""
        self._take()
        oldest = next((entry for entry in chain(self._backlog.oldest(), self._entries) if entry.recording), None)
        self._oldest_ns = oldest.recording.at_ns(oldest.offset_us) if oldest and oldest.recording else None
        self._work = self._freed = self._came = 0
        try:
            while self._entries:
                self._look_at(self._entries.popleft())
            self._catch_up()
            self._say_unheard()
            self._weigh()
            self._store()
            self.bytes += self._came
        finally:
            self.budget.taken += self._freed
            self._oldest_ns = None
            calls, self._calls = self._calls, []
            for call in calls:
                _call(call)
        if self._last and not self._backlog:
            self._leave()
        elif time.monotonic() >= self._upkeep_at:
            self._upkeep()

    def _take(self) -> None:
        """Take from the queue as much as one transaction takes, or wait until something is due."""
        until = self._upkeep_at if self._retry_at is None else min(self._upkeep_at, self._retry_at)
        size = 0
        try:
            at_once = self._last or bool(self._entries or self._backlog)  # some are left where a fault ended the step before
            entry = self._queue.get(timeout=0 if at_once else max(0.0, until - time.monotonic()))
            while entry is not None:
                self._entries.append(entry)
                size += entry.cost - ENTRY_COST
                if size >= BATCH_BYTES or len(self._entries) >= BATCH_ENTRIES:
                    return
                entry = self._queue.get_nowait()
        except Empty:
            return
        self._last = True

    def _look_at(self, entry: Entry) -> None:
        """Put what an entry amounts to with what is due, or what it is behind what its stream has not got to yet."""
        recording, _, said, cost = entry
        backlog = self._backlog
        if recording is None:
            self._freed += cost
            if backlog and callable(said):
                backlog.after(said)
            else:
                self._calls.append(said)
        elif (
            (backlog and recording in backlog)
            or (isinstance(said, bytes) and (len(said) > STEP or recording.decoding.encoded) and not recording.given_up)
            or (self._work > BATCH_ENTRIES and len(self._due.get(recording, ())) > SHARE)
        ):
            backlog.add(recording, entry)
        else:
            self._decode(recording, entry)

    def _catch_up(self) -> None:
        """Let the streams that are behind go on, one step each in turn, as far as one transaction goes."""
        backlog = self._backlog
        hurry = self._hurry_at is not None and time.monotonic() >= self._hurry_at
        while backlog and (hurry or self._work <= BATCH_ENTRIES):
            recording, entries = backlog.turn()
            if hurry:
                self._skip(recording, backlog.end(recording))
                continue
            self._go_on(recording, entries)
            if not entries:
                backlog.end(recording)

    def _go_on(self, recording: Recording, entries: deque[Entry]) -> None:
        """One step of the first of these."""
        entry = entries[0]
        if recording.given_up:
            recording.steps = None
        if not _is_long(recording, entry) and recording.steps is None:
            entries.popleft()
            if entry.recording is None:
                self._calls.append(entry.said)
            else:
                self._decode(recording, entry)
            return
        assert isinstance(entry.said, bytes)
        if recording.steps is None:
            recording.steps = recording.decoding.steps(entry.said, entry.offset_us)
        frames = next(recording.steps, None)
        if frames is not None:
            self._work += _STEP_WORK
            self._add(recording, frames)
            return
        entries.popleft()
        recording.steps = None
        recording.fresh += recording in self._due
        self._free(recording, entry)
        self._came += len(entry.said)

    def _skip(self, recording: Recording, entries: deque[Entry]) -> None:
        """Leave out the chunks of these, for which there is no time any more, and say so."""
        recording.steps = None
        lost = size = 0
        for entry in (*entries, None):
            if entry is not None and isinstance(entry.said, bytes):
                self._free(recording, entry)
                lost, size, last_us = lost + 1, size + len(entry.said), entry.offset_us
                continue
            if lost:
                self._add(recording, recording.decoding.frames(Lost(lost, size, LATE), last_us))
                self.late_bytes += size
                self.dropped_bytes += size
                lost = size = 0
            if entry is not None and entry.recording is None:
                self._calls.append(entry.said)
            elif entry is not None:
                self._decode(recording, entry)

    def _free(self, recording: Recording, entry: Entry) -> None:
        """An entry is through: with the transaction under way, its memory is free."""
        recording.taken += entry.cost
        self._freed += entry.cost

    def _decode(self, recording: Recording, entry: Entry) -> None:
        """Put what an entry amounts to with what is due."""
        _, offset_us, said, cost = entry
        self._freed += cost
        if isinstance(said, bytes):
            recording.taken += cost
            if recording.given_up:
                self.dropped_bytes += len(said)
            elif self._add(recording, recording.decoding.frames(said, offset_us)):
                recording.fresh += 1
                self._came += len(said)
        elif said is None:
            size = len(recording.stream.request_body or b"")
            if recording.given_up:
                self.dropped_bytes += size
                return
            recording.screen = self._screens.of(recording.stream, wait=not recording.strict, known=recording.known)
            recording.stream = recording.screen.stream
            self._came += size if self._add(recording, []) else 0
        elif not recording.given_up and not callable(said):
            self._add(recording, recording.decoding.frames(said, offset_us), last=isinstance(said, Closed))

    def _add(self, recording: Recording, frames: list[Frame], *, last: bool = False) -> bool:
        """Put frames of a stream with what is due; whether it is recorded, as far as is known."""
        if recording.decoding.over:
            recording.unwanted = True
        if (screen := recording.screen) is not None:
            self._touched.add(recording)
            frames = screen.feed(frames, last=last)
            recording.unwanted = recording.unwanted or screen.closed
            if not screen.kept:
                self.left_out += last
                return False
        due = self._due.get(recording)
        if due is None:
            self._due[recording] = frames
        else:
            due += frames
        self._work += len(frames)
        return True

    def _weigh(self) -> None:
        """Count what open streams hold back; where that is too much, those that hold most let it go to the log in pieces."""
        for recording in self._touched.union(self._due):
            self._weigh_one(recording)
        self._touched.clear()
        for all in (False, True):
            if not self.budget.crowded:
                return
            for recording in sorted(self._holding, key=self._holding.__getitem__, reverse=True):
                self._add(recording, recording.decoding.spill(all=all))
                if recording.screen is not None and recording.screen.held:
                    self._due.setdefault(recording, []).extend(recording.screen.spill())
                self._weigh_one(recording)
                if not self.budget.crowded:
                    return

    def _weigh_one(self, recording: Recording) -> None:
        held = recording.decoding.held + (recording.screen.held if recording.screen is not None else 0)
        held = 0 if recording.given_up else held
        before = self._holding.pop(recording, 0)
        if held:
            self._holding[recording] = held
        self.budget.blocks += held - before

    def _say_unheard(self) -> None:
        """What became of streams that are not in the log at all stands in one of its own."""
        if not self._unsaid[0]:
            return
        with self._unsaid_lock:
            (streams, lost, size), self._unsaid = self._unsaid, [0, 0, 0]
        now = datetime.now(UTC)
        recording = Recording(self, Stream(new_stream_id(), source="recorder", started_at=now, recorded_at=now))
        said = Lost(lost, size, f"{FULL}: {streams} streams are not recorded at all")
        frames = recording.decoding.frames
        self._due[recording] = [*frames(said, 0), *frames(Closed("lost", "the queue was full"), 0)]

    def _store(self) -> None:
        """Store what is due in one transaction; where something in it is refused, each stream by itself."""
        due = self._due = {each: frames for each, frames in self._due.items() if frames or each.prefix or not each.stored}
        self._retry_at = None
        if not due:
            return
        several = len(due) > 1
        refused = self._append(due)
        if refused is None:
            self._works()
            return
        stored = 0
        for recording in list(due):
            error = self._append({recording: due[recording]}) if several else refused
            if error is not None and self._mended(recording, error):
                error = self._append({recording: due[recording]})
            if error is None:
                stored += 1
            elif recording in due:
                self._shed(recording, error)
        if stored:
            self._works()
        elif due:  # nothing at all can be stored: that is no fault of a stream's
            self._fails(refused)
            time.sleep(_RETRY_SECONDS)
        self._retry_at = time.monotonic() + _OWED_SECONDS if due else None

    def _append(self, due: dict[Recording, list[Frame]]) -> BaseException | None:
        """Append this in one transaction; what refuses it, if something does."""
        try:
            self._outlast(lambda: self._transact(due))
        except BaseException as error:  # noqa: BLE001 - a bug, too, costs what is at hand and no more
            return error
        return None

    def _outlast(self, what: Callable[[], Result]) -> Result:
        """Do it, again and again while the database fails. Raises what is no failure of the database."""
        while True:
            try:
                return _patiently(what)
            except BaseException as error:
                self.errors += 1
                if not _is_outage(error):
                    raise
                if "no such table" in str(error):
                    self._file.forget()
                self._fails(error)
                time.sleep(_RETRY_SECONDS)

    def _transact(self, due: dict[Recording, list[Frame]]) -> None:
        began = time.perf_counter_ns()
        with self._turn:
            while True:
                if self._file.changed:
                    self._go_on_elsewhere()
                with self._transaction() as connection:
                    for recording in due:
                        if recording.epoch != self._epoch:
                            self._seat(connection, recording)
                    self._storing = "requests"
                    new = [recording.stream for recording in due if not recording.stored]
                    taken = bool(new) and self._lease.hold(connection)
                    log.insert_streams(connection, new, self._lease.writer_id)
                    self._storing = "events"
                    log.append(connection, {each.stream.stream_id: _rows(each, frames) for each, frames in due.items()})
                if not self._file.changed:  # else this went to a file that is gone
                    break
        self._took_lease(taken)
        self._committed((time.perf_counter_ns() - began) / 1e9, due)
        for recording in list(due):
            frames = self._due.pop(recording)
            recording.position += len(recording.prefix) + len(frames)
            recording.prefix = []
            recording.stored = True
            recording.kept[0] += recording.fresh
            recording.fresh = 0

    def _committed(self, seconds: float, due: dict[Recording, list[Frame]]) -> None:
        """Count a commit, and what was in it."""
        self.commits += 1
        self.commit_seconds += seconds
        self.commit_times[bisect_left(COMMIT_SECONDS, seconds)] += 1
        self.slowest_commit_us = max(self.slowest_commit_us, int(seconds * 1e6))
        for recording, frames in due.items():
            size = recording.decoding.size
            for frame in chain(recording.prefix, frames):
                recording.kept[1] += size(frame)
                if not is_system(frame.type):
                    self.events += 1
                elif frame.type == "$response":
                    recording.head = frame
                elif frame.type == "$gap":
                    self.gaps[str(jsontext.object_of(frame.data).get("reason")).partition(":")[0]] += 1
                elif frame.type == "$end":
                    self.outcomes[str(log.outcome_of(frame.data))] += 1

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction on the thread's own connection, which is kept until something fails on it."""
        self._transaction_since = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(**database.WRITING)
                database.wait_for_lock(self._connection, _LOCKED_AT_ONCE)
                self._file.opened()
            with self._connection.begin():
                database.limit(self._connection, TRANSACTION_SECONDS)
                yield self._connection
        except BaseException:
            self._disconnect()
            raise
        finally:
            self._transaction_since = None

    def _disconnect(self) -> None:
        """Close the connection for good: the pool may be disposed of already, by a close that did not wait any longer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is broken, and gone
                if not connection.invalidated:
                    connection.detach()
                connection.close()

    # What is refused.

    def _mended(self, recording: Recording, error: BaseException) -> bool:
        """Whether something was done about what refused a stream, so that it may be tried again."""
        if isinstance(error, AppendConflict):
            try:
                beyond = self._outlast(lambda: self._is_ended_by_another(recording))
            except Exception as broken:  # noqa: BLE001
                error, beyond = broken, False
            if not beyond:
                self._give_up(recording, error)
                return False
            recording.position += 1
            reason = "taken for lost by another recorder: it goes on after the end that it was given"
            recording.prefix = [gap(Lost(0, 0, reason), 0)]
            return True
        bare = recording.stream._replace(path="", query="", request_headers=(), request_body=None, session_label=None)
        if self._storing == "requests" and _is_about_data(error) and recording.stream != bare:
            recording.stream = bare
            recording.prefix = [gap(Lost(0, 0, f"its request cannot be stored: {one_line(error)}"), 0)]
            return True
        return False

    def _is_ended_by_another(self, recording: Recording) -> bool:
        """Whether what stands in the way of a stream is the end that was put there by whoever took this writer for dead."""
        with self._turn, self._transaction() as connection:
            found = log.read(connection, recording.stream.stream_id, recording.position - 1, 2)
        said = jsontext.object_of(found[0].data) if [event.type for event in found] == ["$end"] else {}
        return said.get("closed") == "lost"

    def _shed(self, recording: Recording, error: BaseException) -> None:
        """Drop what is due of a stream but for what recorder itself says of it, and say how much that was."""
        frames = self._due[recording]
        kept = {frame.type: frame for frame in frames if frame.type in KEPT}
        said = [jsontext.object_of(frame.data) for frame in frames if frame.type == "$gap"]
        size = sum(recording.decoding.size(frame) for frame in frames if frame.type not in KEPT)
        lost = recording.fresh
        if not self._said_shedding:
            self._said_shedding = True
            what = f"stream {recording.stream.stream_id}: what came of it last cannot be stored and is lost"
            if _is_about_data(error):
                logger.error("%s: %s", what, one_line(error))
            else:
                logger.error("%s: the recorder fails", what, exc_info=error)
        self.faults += not _is_about_data(error)
        if not size and _is_about_data(error):  # nor can what is said of it
            self._give_up(recording, error)
            return
        recording.fresh = 0
        self.dropped_bytes += size
        if size or said:
            whole = Lost(lost + sum(each["chunks"] for each in said), size + sum(each["bytes"] for each in said), "")
            kept["$gap"] = gap(whole._replace(reason=f"not stored: {one_line(error)}"), frames[-1].offset_us)
        self._due[recording] = [kept[type] for type in ("$response", "$gap", "$end") if type in kept]

    def _give_up(self, recording: Recording, error: BaseException) -> None:
        """Nothing more of a stream can be stored."""
        frames = self._due.pop(recording)
        self.dropped_bytes += sum(recording.decoding.size(frame) for frame in frames)
        recording.given_up = True
        self._touched.add(recording)
        self.given_up += 1
        logger.error("stream %s cannot be stored, what comes of it is lost: %s", recording.stream.stream_id, one_line(error))

    def _go_on_after(self, error: BaseException) -> None:
        """The thread itself failed: what is due stays due, but not for ever."""
        self.faults += 1
        self._broken += 1
        with contextlib.suppress(Exception):
            if self._broken == 1:
                logger.error("the recorder fails", exc_info=error)
            if self._broken > _MANY:
                for recording in list(self._due):
                    self._give_up(recording, error)
                self._ended = self._last
        time.sleep(_RETRY_SECONDS)

    def _fails(self, error: BaseException) -> None:
        """Nothing can be stored: say so once, and once that what comes is dropped."""
        if self.failing_since is None:
            self.failing_since = datetime.now(UTC)
            self._said_dropping = False
            logger.error("the database fails, what is recorded waits in memory: %s", one_line(error))
        if not self._said_dropping and self._overflow:
            self._said_dropping = True
            logger.error("%d bytes wait for the database: what comes is not recorded until it takes them", self.waiting_bytes)

    def _works(self) -> None:
        lost, self._overflow = self._overflow, 0
        if self.failing_since is not None:
            self.failing_since = None
            logger.warning("the database takes events again%s", f"; {lost:,} bytes that came meanwhile are lost" if lost else "")
        elif lost and not self._said_dropping:
            logger.error("%d bytes came faster than the database takes them: they are lost", lost)
        self._said_dropping = bool(lost)
        self._said_shedding = bool(self._due)

    # Other files, other recorders.

    def _go_on_elsewhere(self) -> None:
        """The database's file is not there any more: go on in the one that is, or in a new one."""
        if self._connection is not None:  # it may have been moved: then what its journal holds belongs into it
            with contextlib.suppress(Exception):
                self._connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._disconnect()
        self._file.renew()
        self._epoch += 1
        self._lease.taken = False
        self.files_lost += 1
        logger.error(
            "the file %s was removed or replaced while it was written: what it held is not there any more, a new one is begun",
            database.shown(self._engine),
        )

    def _seat(self, connection: sa.Connection, recording: Recording) -> None:
        """Find out how far a stream is in another file than it was in before, and say what of it is not there."""
        found = log.read(connection, recording.stream.stream_id) if recording.stored else []
        if recording.stored and len(found) < recording.position:
            there = list(chunks(log.wire(found)))
            lost, size = recording.kept[0] - len(there), recording.kept[1] - sum(len(body) for _, body in there)
            said = Lost(max(0, lost), max(0, size), "the database's file was removed or replaced: it had held this")
            head = [recording.head] if recording.head is not None and not found else []
            recording.prefix = [*head, gap(said, found[-1].offset_us if found else head[0].offset_us if head else 0)]
            recording.position = len(found)
            recording.stored = bool(found)
        recording.epoch = self._epoch

    def _took_lease(self, taken: bool) -> None:
        """A transaction that took the lease, or found it standing, is through."""
        if not taken:
            return
        if self._lease.taken:
            self.leases_lost += 1
            logger.error("another recorder took this one for dead, since its lease had not been renewed: it is taken anew")
        self._lease.taken = True
        self._upkeep_at = time.monotonic() + RENEW_SECONDS

    def _upkeep(self) -> None:
        """Renew the lease, and end the streams of writers that are dead: at the start, and every RENEW_SECONDS."""
        try:
            _patiently(self._renew)
            lost = _patiently(self._mark_lost)
        except Exception as error:  # noqa: BLE001 - it is tried again
            self._upkeep_at = time.monotonic() + _OWED_SECONDS
            self.errors += 1
            self._fails(error)
            return
        self._upkeep_at = time.monotonic() + RENEW_SECONDS
        self._works()
        if lost:
            logger.warning("%d streams of a recorder that died are marked as lost", lost)

    def _renew(self) -> None:
        with self._turn:
            if self._file.changed:
                self._go_on_elsewhere()
            if self._lease.taken:
                with self._transaction() as connection:
                    taken = self._lease.renew(connection)
                self._took_lease(taken)

    def _mark_lost(self) -> int:
        with self._turn:
            return mark_lost(self._engine, _LOCKED_AT_ONCE)

    def _give_back(self) -> None:
        with self._turn, self._transaction() as connection:
            self._lease.give_back(connection)

    def _leave(self) -> None:
        """All is stored that can be: give the lease back."""
        self._ended = True
        if self._due:
            logger.error("%d streams lack their last events: they could not be stored", len(self._due))
        if self._lease.taken:
            try:
                _patiently(self._give_back)
            except Exception as error:  # noqa: BLE001 - once this process is gone, the next writer does it
                logger.warning("the lease could not be given back: %s", one_line(error))


def _is_long(recording: Recording, entry: Entry) -> bool:
    """Whether an entry may be more than one step."""
    long = isinstance(entry.said, bytes) and (len(entry.said) > STEP or recording.decoding.encoded)
    return long and not recording.given_up


def _patiently(what: Callable[[], Result]) -> Result:
    """Do it, and again for LOCKED_SECONDS while another process holds the SQLite file."""
    give_up_at = time.monotonic() + LOCKED_SECONDS
    while True:
        try:
            return what()
        except sa.exc.OperationalError as error:
            if not database.is_locked(error) or time.monotonic() > give_up_at:
                raise
        time.sleep(0.001)  # another thread's turn


def _rows(recording: Recording, frames: list[Frame]) -> list[Row]:
    row, stream_id, first = log.row, recording.stream.stream_id, recording.position
    return [row(stream_id, position, frame) for position, frame in enumerate(chain(recording.prefix, frames), first)]


def _call(call: object) -> None:
    try:
        if callable(call):
            call()
    except Exception:
        logger.exception("what was to be called after a commit failed")


def _is_outage(error: BaseException) -> bool:
    """Whether the database cannot be written at all now, whatever is written."""
    if isinstance(error, sa.exc.DBAPIError):
        return not database.is_about_data(error)
    return isinstance(error, (OSError, DatabaseError, sa.exc.TimeoutError))


def _is_about_data(error: BaseException) -> bool:
    """Whether what is written is what is refused: no bug, and no outage."""
    return isinstance(error, (sa.exc.DBAPIError, UnicodeError))
