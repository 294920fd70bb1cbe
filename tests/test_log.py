"""The log's contract, the same for every engine: what is appended comes back, once, in order, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recorder import database, log, queries, sse
from recorder.bodies import LinesDecoder
from recorder.collect.streamid import new_stream_id
from recorder.errors import AppendConflict
from recorder.log import Event, Row, Stream
from recorder.sse import Frame, SSEDecoder
from tests.test_bodies import cut_bodies as cut_line_bodies
from tests.test_sse import cut_bodies, decoded, wire

on_an_engine = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Examples share a database here; each has a stream of its own in it."""


def rows_of(stream_id: str, frames: Iterable[Frame], first: int = 0) -> list[Row]:
    return [log.row(stream_id, position, frame) for position, frame in enumerate(frames, first)]


def numbered(count: int, first: int = 0) -> list[Frame]:
    return [Frame("thread.message.delta", f'{{"n":{number}}}', None, number * 7) for number in range(first, first + count)]


def append(engine: sa.Engine, batch: dict[str, list[Row]]) -> int:
    with database.write(engine) as connection:
        return log.append(connection, batch)


def read(engine: sa.Engine, stream_id: str, after: int = -1) -> list[Event]:
    with database.read(engine) as connection:
        return log.read(connection, stream_id, after)


def everything(engine: sa.Engine) -> dict[str, list[Any]]:
    """All rows of all tables of the log."""
    with database.read(engine) as connection:
        return {table.name: sorted(map(repr, connection.execute(sa.select(table)).all())) for table in log.LOG_TABLES}


def bytes_of(engine: sa.Engine, stream_id: str) -> bytes:
    return b"".join(body for body, _, _ in log.wire(read(engine, stream_id)))


# What is appended comes back.

FRAMES = {
    "an event": Frame("thread.run.created", '{"id":"run_1"}', None, 5),
    "no type": Frame("", "[DONE]"),
    "no data": Frame("", ""),
    "no type and no data, but raw": Frame("", "", b"data\n\n", 3),
    "several lines": Frame("e", "a\n\nb"),
    "a dollar name": Frame("$$end", "x"),
    "system": Frame("$response", '{"status":200,"headers":[]}'),
    "comment": Frame("$comment", "ping"),
    "escaped NUL and lone surrogate": Frame("e", '{"a":"\\u0000\\ud800"}'),
    "unicode": Frame("é", "\u2028𝄞\ufffe"),
    "cuts": Frame("", "abcdef", None, 90, [(3, 10), (7, 11)]),
    "a late offset": Frame("", "x", None, 2**40),
    "control characters": Frame("", "\x01\x1b\x7f\t"),
    "backslashes and tabs, as COPY has them": Frame("\\N", "\\N\t\\t\\\\.\\."),
    "crlf": Frame("e", "x", b"event: e\r\ndata: x\r\n\r", 1),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_frame_comes_back_as_it_was(engine: sa.Engine, frame: Frame) -> None:
    stream_id = new_stream_id()
    assert append(engine, {stream_id: rows_of(stream_id, [frame])}) == 1
    assert read(engine, stream_id) == [Event(0, frame.offset_us, frame.type, frame.data, frame.raw, frame.cuts)]


@pytest.mark.parametrize(
    "body",
    [
        b"data: a\0b\n\n",
        b"data: \xff\xfe\n\n",
        b"event: \xff\ndata: x\n\n",
        b"event: a\0b\ndata: x\n\n",
        b"event: a\0b\r\ndata: x\r\n\r\n",
        b"event: $\0\ndata: \0\n\n",
        b"event: $end\ndata: \xff\n\n",
        b"data: \xef\xbf\xbd \xff\n\n",
        b"id: \0\n\n",
        b": \0\n\n",
        b": \xff\n: b\n\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbfdata: \xff\n\n",
        b"data: x\r\n\r\ndata: \0\r\n\r\n",
        b"da\xffta: x\ndata: y\n\n",
    ],
)
def test_what_no_text_can_hold_comes_back_with_the_same_type_data_and_bytes(engine: sa.Engine, body: bytes) -> None:
    """NUL and invalid UTF-8 live in raw alone; type and data are decoded from it on reading, as the decoder had them."""
    frames = decoded([body])
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, frames)})
    events = read(engine, stream_id)
    assert [(event.type, event.data) for event in events] == [(frame.type, frame.data) for frame in frames]
    assert bytes_of(engine, stream_id) == body


def test_no_database_is_given_text_with_nul_or_a_replaced_byte(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    frames = decoded([b"data: \0\n\nevent: \xff\ndata: x\n\nevent: a\0b\ndata: x\r\n\n: \xff\n\n\0"])
    rows = rows_of(stream_id, frames)
    assert all("\0" not in (row[3] + (row[4] or "")) and "\ufffd" not in (row[3] + (row[4] or "")) for row in rows)
    append(engine, {stream_id: rows})
    with database.read(engine) as connection:
        assert log.read_rows(connection, stream_id) == rows


@on_an_engine
@given(cut=cut_bodies())
@example(cut=(b": \0\n\n", [b": \0\n\n"]))
def test_a_decoded_stream_comes_back_byte_for_byte_and_chunk_for_chunk(engine: sa.Engine, cut: tuple[bytes, list[bytes]]) -> None:
    body, chunks = cut
    frames = decoded(chunks)
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, frames)})
    events = read(engine, stream_id)
    assert [(event.type, event.data) for event in events] == [(frame.type, frame.data) for frame in frames]
    assert b"".join(found for found, _, _ in log.wire(events)) == body
    assert list(sse.chunks(log.wire(events))) == [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]


@on_an_engine
@given(cut=cut_line_bodies())
@example(cut=(b"data: \0\n", [b"data: \0\n"]))
def test_decoded_lines_come_back_byte_for_byte_and_chunk_for_chunk(engine: sa.Engine, cut: tuple[bytes, list[bytes]]) -> None:
    body, chunks = cut
    response = log.system_frame("$response", {"status": 200, "headers": [["Content-Type", "application/x-ndjson"]]}, 0)
    decoder = LinesDecoder()
    frames = [response, *(frame for number, chunk in enumerate(chunks, 1) for frame in decoder.feed(chunk, number * 10))]
    frames += decoder.finish()
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, frames)})
    events = read(engine, stream_id)
    assert list(sse.chunks(log.wire(events))) == [(number * 10, chunk) for number, chunk in enumerate(chunks, 1)]
    assert b"".join(found for found, _, _ in log.wire(events)) == body
    assert [(event.type, event.data) for event in events] == [(frame.type, frame.data) for frame in frames]


def test_system_frames_that_recorder_made_stand_for_no_bytes(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    frames = [
        log.system_frame("$response", {"status": 200, "headers": []}, 0),
        *decoded([b"data: x\r\n\r\n"]),
        log.system_frame("$gap", {"events": 2}, 4),
        log.system_frame("$end", {"outcome": "eof"}, 5),
    ]
    append(engine, {stream_id: rows_of(stream_id, frames)})
    assert bytes_of(engine, stream_id) == b"data: x\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True], ids=["text", "bytes"])
def test_an_event_of_100_mb_comes_back(engine: sa.Engine, raw: bool) -> None:
    data = "0123456789abcdé\\" * (100_000_000 // 17)
    frame = Frame("big", data, f"data:{data}\nevent: big\n\n".encode() if raw else None)
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, [frame])})
    (event,) = read(engine, stream_id)
    assert len(event.data.encode()) > 99_000_000
    assert event.data == data
    assert event.raw == frame.raw


def test_reading_goes_on_after_a_position_and_stops_at_a_limit(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, numbered(25))})
    with database.read(engine) as connection:
        assert [event.position for event in log.read(connection, stream_id, 3, 4)] == [4, 5, 6, 7]
        assert log.read(connection, stream_id, 24) == []
        assert log.read(connection, new_stream_id()) == []
    for batch in (1, 5, 24, 25, 26):
        assert [event.position for event in log.read_stream(engine, stream_id, batch=batch)] == list(range(25))
    assert [event.position for event in log.read_stream(engine, stream_id, after=20, batch=2)] == [21, 22, 23, 24]


def test_a_stream_comes_back_as_it_was_and_stays_as_it_was_first_inserted(engine: sa.Engine) -> None:
    stream = Stream(
        new_stream_id(),
        "POST",
        "api.openai.com",
        "/v1/threads/runs",
        "a=b",
        (("content-type", "application/json"), ("accept", "é")),
        b'{"stream":true}\0\xff',
        "label",
        "proxy",
        datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        datetime(2026, 1, 2, 3, 4, 5, 0, UTC),
    )
    bare = Stream(new_stream_id())
    for again in (stream, stream._replace(method="GET")):
        with database.write(engine) as connection:
            log.insert_streams(connection, [again, bare])
    with database.read(engine) as connection:
        found = log.get_streams(connection, [stream.stream_id, bare.stream_id, new_stream_id()])
    assert found == {stream.stream_id: stream, bare.stream_id: bare}


# Again, other, and too early.


def test_appending_the_same_again_changes_nothing(engine: sa.Engine) -> None:
    one, other = new_stream_id(), new_stream_id()
    batch = {one: rows_of(one, FRAMES.values()), other: rows_of(other, numbered(3))}
    assert append(engine, batch) == len(FRAMES) + 3
    before = everything(engine)
    assert append(engine, batch) == 0
    assert append(engine, {one: batch[one][4:7]}) == 0
    assert everything(engine) == before


def test_what_could_only_be_kept_raw_is_recognised_as_the_same(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    rows = rows_of(stream_id, decoded([b"da", b"ta: \0\n\ndata: \xff\r\n\r\n: \0\n\n"]))
    assert append(engine, {stream_id: rows}) == len(rows)
    assert append(engine, {stream_id: rows}) == 0


def test_an_overlapping_append_adds_only_the_rest(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    rows = rows_of(stream_id, numbered(10))
    assert append(engine, {stream_id: rows[:6]}) == 6
    assert append(engine, {stream_id: rows[3:]}) == 4
    assert [event.data for event in read(engine, stream_id)] == [frame.data for frame in numbered(10)]
    with database.read(engine) as connection:
        assert log.head(connection, stream_id) == log.Head(9, None, None, log.checksum(rows))


OTHERS = {
    "offset_us": lambda frame: frame._replace(offset_us=frame.offset_us + 1),
    "type": lambda frame: frame._replace(type=frame.type + "x"),
    "data": lambda frame: frame._replace(data=frame.data + " "),
    "raw": lambda frame: frame._replace(raw=b"data:" + frame.data.encode() + b"\n\n"),
    "cuts": lambda frame: frame._replace(cuts=[(1, 1)]),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_content_at_a_position_is_a_conflict_and_nothing_changes(
    engine: sa.Engine, change: Callable[[Frame], Frame]
) -> None:
    stream_id, innocent = new_stream_id(), new_stream_id()
    frames = numbered(5)
    append(engine, {stream_id: rows_of(stream_id, frames)})
    before = everything(engine)
    frames[3] = change(frames[3])
    with pytest.raises(AppendConflict, match=f"{stream_id}.*position 3"):
        append(engine, {innocent: rows_of(innocent, numbered(2)), stream_id: rows_of(stream_id, [*frames, *numbered(2, 5)])})
    assert everything(engine) == before


MISPLACED = {
    "a gap before them": [6, 7],
    "a gap among them": [5, 7],
    "not from the start": [9],
    "one of them twice": [5, 5, 7],
    "out of order": [5, 7, 6, 8],
    "a later one among them": [5, 9, 7],
}


@pytest.mark.parametrize("positions", MISPLACED.values(), ids=MISPLACED)
def test_positions_that_do_not_go_on_without_a_gap_are_a_conflict_and_nothing_changes(
    engine: sa.Engine, positions: list[int]
) -> None:
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, numbered(5))})
    before = everything(engine)
    with pytest.raises(AppendConflict):
        append(engine, {stream_id: [log.row(stream_id, position, Frame("", "x")) for position in positions]})
    assert everything(engine) == before


def test_a_new_stream_begins_at_position_0(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    with pytest.raises(AppendConflict, match=stream_id):
        append(engine, {stream_id: rows_of(stream_id, numbered(2), first=1)})
    assert not any(everything(engine).values())


def test_a_refused_append_changes_nothing_even_where_the_caller_commits(engine: sa.Engine) -> None:
    good, stream_id = new_stream_id(), new_stream_id()
    with database.write(engine) as connection, pytest.raises(AppendConflict):
        log.append(connection, {good: rows_of(good, numbered(2)), stream_id: rows_of(stream_id, numbered(2), first=1)})
    assert not any(everything(engine).values())


def test_appending_nothing_leaves_nothing(engine: sa.Engine) -> None:
    assert append(engine, {}) == 0
    assert append(engine, {new_stream_id(): []}) == 0
    assert not any(everything(engine).values())


def test_a_rollback_leaves_nothing(engine: sa.Engine) -> None:
    stream = Stream(new_stream_id())

    def fail() -> None:
        with database.write(engine) as connection:
            log.insert_streams(connection, [stream])
            log.append(connection, {stream.stream_id: rows_of(stream.stream_id, numbered(3))})
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert not any(everything(engine).values())
    append(engine, {stream.stream_id: rows_of(stream.stream_id, numbered(2))})
    with pytest.raises(InterruptedError):
        fail()
    assert [event.position for event in read(engine, stream.stream_id)] == [0, 1]


# Heads, pending, checksums.


def test_a_head_knows_the_position_the_outcome_and_when_the_stream_ended(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    frames = [*numbered(2), log.system_frame("$end", {"outcome": "done"}, 9)]
    rows = rows_of(stream_id, frames)
    append(engine, {stream_id: rows[:2]})
    with database.read(engine) as connection:
        assert log.head(connection, stream_id) == log.Head(1, None, None, log.checksum(rows[:2]))
        assert log.head(connection, new_stream_id()) is None
    earliest = datetime.now(UTC)
    append(engine, {stream_id: rows[2:]})
    latest = datetime.now(UTC)
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
        (ended_at,) = connection.execute(sa.select(log.heads.c.ended_at)).scalars()
    assert head is not None
    assert (head.position, head.outcome, head.crc) == (2, "done", log.checksum(rows))
    assert earliest <= ended_at <= latest
    assert head.ended_at == ended_at
    assert head.ended_at.tzinfo is not None


def test_an_end_without_an_outcome_still_ends_the_stream(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, [log.system_frame("$end", {}, 1)])})
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
    assert head is not None
    assert head.outcome is None
    assert head.ended_at is not None


def test_what_follows_an_end_keeps_the_outcome(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    rows = rows_of(stream_id, [log.system_frame("$end", {"outcome": "cut"}, 1), *numbered(2)])
    append(engine, {stream_id: rows[:1]})
    append(engine, {stream_id: rows[1:]})
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
    assert head is not None
    assert (head.position, head.outcome) == (2, "cut")
    assert head.ended_at is not None


def test_the_end_counts_wherever_in_a_batch_it_stands(engine: sa.Engine) -> None:
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, [log.system_frame("$end", {"outcome": "cut"}, 1), *numbered(2)])})
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
    assert head is not None
    assert head.outcome == "cut"


def test_pending_says_how_far_each_stream_has_come(engine: sa.Engine) -> None:
    one, other = new_stream_id(), new_stream_id()

    def pending() -> dict[str, int]:
        with database.read(engine) as connection:
            return {entry.stream_id: entry.position for entry in connection.execute(sa.select(log.pending))}

    append(engine, {one: rows_of(one, numbered(2)), other: rows_of(other, numbered(1))})
    assert pending() == {one: 1, other: 0}
    append(engine, {one: rows_of(one, numbered(3, 2), first=2)})
    assert pending() == {one: 4, other: 0}
    with database.write(engine) as connection:
        connection.execute(log.pending.delete())
    append(engine, {one: rows_of(one, numbered(5))})
    assert pending() == {}, "what was there already is no news"
    append(engine, {one: rows_of(one, numbered(6))})
    assert pending() == {one: 5}


def test_count_adds_up_all_events_of_all_streams(engine: sa.Engine) -> None:
    assert log.count(engine) == 0
    for size in (1, 4, 20):
        stream_id = new_stream_id()
        append(engine, {stream_id: rows_of(stream_id, numbered(size))})
    assert log.count(engine) == 25


def test_a_projector_and_an_append_never_lock_each_other_out(postgresql_url: str) -> None:
    """The projector deletes from pending in the order of stream_id; an append must take those rows in the same order."""
    engine = database.engine(postgresql_url, create=True)
    database.check(engine, upgrade=True)
    first, second = sorted((new_stream_id(), new_stream_id()))
    append(engine, {stream_id: rows_of(stream_id, numbered(1)) for stream_id in (first, second)})
    failures: list[BaseException] = []

    def go_on() -> None:
        try:
            append(engine, {stream_id: rows_of(stream_id, numbered(1, 1), first=1) for stream_id in (second, first)})
        except sa.exc.DBAPIError as error:
            failures.append(error)

    appending = threading.Thread(target=go_on)
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    try:
        with database.write(engine) as projecting:
            projecting.execute(log.pending.delete().where(log.pending.c.stream_id == first, log.pending.c.position <= 0))
            appending.start()
            with engine.connect() as watching:
                give_up = time.monotonic() + 20
                while not watching.execute(waiting).scalar() and time.monotonic() < give_up:
                    time.sleep(0.005)
            projecting.execute(log.pending.delete().where(log.pending.c.stream_id == second, log.pending.c.position <= 0))
    except sa.exc.DBAPIError as error:
        failures.append(error)
    finally:
        appending.join()
        engine.dispose()
    assert failures == []


@st.composite
def batchings(draw: st.DrawFn) -> tuple[list[Frame], list[int]]:
    """(frames, the sizes of the batches they are appended in)."""
    texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5)
    frames = draw(
        st.lists(
            st.builds(
                Frame,
                texts,
                texts,
                st.none() | st.binary(max_size=4),
                st.integers(0, 2**50),
                st.none() | st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=2),
            ),
            min_size=1,
            max_size=40,
        )
    )
    sizes = draw(st.lists(st.integers(1, 20), min_size=len(frames), max_size=len(frames)))
    return frames, sizes


def in_batches(rows: list[Row], sizes: list[int]) -> Iterator[list[Row]]:
    at = 0
    for size in sizes:
        if at < len(rows):
            yield rows[at : at + size]
        at += size


@on_an_engine
@given(batching=batchings())
def test_the_crc_of_a_head_is_that_of_all_stored_rows_whatever_the_batches(
    engine: sa.Engine, batching: tuple[list[Frame], list[int]]
) -> None:
    frames, sizes = batching
    stream_id = new_stream_id()
    rows = rows_of(stream_id, frames)
    for batch in in_batches(rows, sizes):
        append(engine, {stream_id: batch})
    with database.read(engine) as connection:
        stored = log.read_rows(connection, stream_id)
        head = log.head(connection, stream_id)
    assert stored == rows
    assert head is not None
    assert head.crc == log.checksum(stored) == log.checksum(rows)


@given(batchings())
def test_the_checksum_runs_on_over_batches(batching: tuple[list[Frame], list[int]]) -> None:
    frames, sizes = batching
    rows = rows_of("s", frames)
    crc = 0
    for batch in in_batches(rows, sizes):
        crc = log.checksum(batch, crc)
    assert crc == log.checksum(rows)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 65_535, 65_536])
def test_the_checksum_of_a_batch_is_that_of_its_rows_one_by_one(size: int) -> None:
    rows = rows_of("s", numbered(size))
    crc = 0
    for row in rows:
        crc = log.checksum([row], crc)
    assert log.checksum(rows) == crc
    assert log.checksum([], crc) == crc


@pytest.mark.parametrize("field", range(7))
@pytest.mark.parametrize("place", [0, 2])
def test_whoever_changes_one_field_changes_the_checksum(field: int, place: int) -> None:
    rows = rows_of("s", [Frame("e", "d", b"r", 1, [(1, 1)])] * 3)
    row: list[Any] = list(rows[place])
    before = log.checksum(rows)
    for value in (None, "x", b"x", 77, ""):
        if value == row[field]:
            continue
        rows[place] = (*row[:field], value, *row[field + 1 :])  # type: ignore[assignment]
        assert log.checksum(rows) != before


@pytest.mark.parametrize("change", [{"data": None}, {"raw": b"x"}, {"offset_us": 99}, {"type": "y"}, {"cuts": "[[1,2]]"}])
def test_a_row_that_was_changed_in_the_database_no_longer_fits_the_crc(engine: sa.Engine, change: dict[str, Any]) -> None:
    stream_id = new_stream_id()
    append(engine, {stream_id: rows_of(stream_id, numbered(20))})
    with database.write(engine) as connection:
        connection.execute(log.events.update().where(log.events.c.position == 11).values(**change))
    with database.read(engine) as connection:
        head = log.head(connection, stream_id)
        assert head is not None
        assert log.checksum(log.read_rows(connection, stream_id)) != head.crc


# Following.


def test_a_tail_sees_everything_exactly_once(engine: sa.Engine) -> None:
    """However appends of several streams and looks at them alternate."""
    streams = [new_stream_id() for _ in range(4)]
    begun = datetime.now(UTC)
    seen: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    length = dict.fromkeys(streams, 0)

    def look(limit: int) -> int:
        with database.read(engine) as connection:
            new = log.tail(connection, seen, begun, limit)
        found.extend((stream_id, event.position) for stream_id, event in new)
        return len(new)

    assert look(10) == 0
    for step in range(12):
        batch = {}
        for stream_id in streams[step % 3 :: 2]:
            batch[stream_id] = rows_of(stream_id, numbered(step + 1), first=length[stream_id])
            length[stream_id] += step + 1
        append(engine, batch)
        if step % 2:
            look(7)
    ending = streams[0]
    append(engine, {ending: rows_of(ending, [log.system_frame("$end", {"outcome": "done"}, 1)], first=length[ending])})
    length[ending] += 1
    while look(7):
        pass
    assert sorted(found) == sorted((stream_id, position) for stream_id in streams for position in range(length[stream_id]))
    for stream_id in streams:
        assert [position for found_id, position in found if found_id == stream_id] == list(range(length[stream_id]))
    assert look(7) == 0


def test_a_tail_leaves_out_streams_that_ended_before(engine: sa.Engine) -> None:
    ended, open_stream = new_stream_id(), new_stream_id()
    append(engine, {ended: rows_of(ended, [log.system_frame("$end", {"outcome": "done"}, 1)])})
    append(engine, {open_stream: rows_of(open_stream, numbered(1))})
    with database.read(engine) as connection:
        later = log.tail(connection, {}, datetime.now(UTC) + timedelta(seconds=5))
        earlier = log.tail(connection, {}, datetime.now(UTC) - timedelta(seconds=60))
    assert [stream_id for stream_id, _ in later] == [open_stream]
    assert sorted(stream_id for stream_id, _ in earlier) == sorted((ended, open_stream))


# The bytes of a stored row, without a database.


@given(cut_bodies())
def test_a_stored_row_alone_gives_the_bytes_back(cut: tuple[bytes, list[bytes]]) -> None:
    body, chunks = cut
    frames = SSEDecoder().feed(body) if len(chunks) == 1 else decoded(chunks)
    events = [log.event(row[1:]) for row in rows_of("s", frames)]
    assert b"".join(found for found, _, _ in log.wire(events)) == b"".join(map(wire, frames))


@pytest.mark.parametrize("clock", [timedelta(hours=-1), timedelta(0), timedelta(days=400)], ids=["behind", "right", "ahead"])
def test_whatever_a_recorders_clock_says_a_follower_sees_it_and_it_is_last(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, clock: timedelta
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + clock

    def record(stream_id: str, by: type[datetime]) -> None:
        monkeypatch.setattr(log, "datetime", by)
        at = by.now(UTC)
        with database.write(engine) as connection:
            log.insert_streams(connection, [log.Stream(stream_id, started_at=at, recorded_at=at)], first)
            log.append(connection, {stream_id: [(stream_id, 0, 0, "$end", '{"outcome":"completed"}', None, None)]})

    first, second = (
        "019a0000-0000-7000-8000-00000000000b",
        "019a0000-0000-7000-8000-00000000000a",
    )
    record(first, datetime)
    with database.read(engine) as connection:
        since = log.latest_end(connection)
        seen = dict(log.open_heads(connection, since))
    record(second, Clock)
    with database.read(engine) as connection:
        assert [stream_id for stream_id, _ in log.tail(connection, seen, since)] == [second]
        assert [stream_id for stream_id, _ in queries.recent_events(connection, 1)] == [second]
        assert queries.resolve(connection, "last").id == second
