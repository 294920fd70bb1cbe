"""All that is held in memory is counted against one bound; what is beyond it is said, and no stream waits for another's."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import brotli
import pytest
import sqlalchemy as sa
import zstandard

from recorder import log
from recorder.collect import writer as writing
from recorder.collect.budget import Budget
from recorder.collect.decoding import BOMB_BYTES, STEP
from recorder.collect.recording import Recording
from recorder.collect.relay import _Copy
from recorder.collect.streamid import new_stream_id
from recorder.collect.writer import Writer
from recorder.log import Stream
from recorder.settings import Redact, Settings
from tests.commands import until

MEGABYTE = 1024 * 1024
TINY = b":\n\n"


def begun(
    writer: Writer, content_type: str = "text/event-stream", coding: str | None = None, request: bytes | None = None
) -> Recording:
    now = datetime.now(UTC)
    stream = Stream(new_stream_id(), "POST", "host", "/v1", request_body=request, source="test", started_at=now, recorded_at=now)
    recording = writer.begin(stream)
    recording.response(200, (("content-type", content_type),), content_type, coding)
    return recording


def found(engine: sa.Engine, recording: Recording) -> list[log.Event]:
    return list(log.read_stream(engine, recording.stream.stream_id))


def types(engine: sa.Engine, recording: Recording) -> list[str]:
    return [event.type for event in found(engine, recording)]


def body(engine: sa.Engine, recording: Recording) -> bytes:
    return b"".join(piece for piece, _, _ in log.wire(found(engine, recording)))


def gaps(engine: sa.Engine, recording: Recording) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in found(engine, recording) if event.type == "$gap"]


def test_a_stream_alone_leaves_room_for_the_others() -> None:
    budget = Budget(1000)
    assert not budget.full(5000), "something is always taken where nothing waits"
    budget.queued = 700
    assert budget.full(100, own=700)
    assert not budget.full(100)
    budget.blocks = 250
    assert budget.full(100)


@pytest.mark.parametrize(
    ("content_type", "begins"),
    [("text/event-stream", b"data: "), ("application/x-ndjson", b'{"a": "'), ("application/json", b'{"a": "')],
)
def test_what_does_not_end_goes_to_the_log_in_pieces(engine: sa.Engine, content_type: str, begins: bytes) -> None:
    with Writer(engine, Settings(queue_bytes=2 * MEGABYTE)) as writer:
        many = [begun(writer, content_type) for _ in range(8)]
        for recording in many:
            recording.chunk(begins)
        for _ in range(5):
            for recording in many:
                recording.chunk(b"x" * 100_000)
            assert writer.flush(20)
            assert writer.budget.blocks <= MEGABYTE
        for recording in many:
            recording.end("eof")
    for recording in many:
        assert body(engine, recording) == begins + b"x" * 500_000
        assert gaps(engine, recording) == []
    assert writer.budget.used == 0


def test_what_redaction_holds_counts_too(engine: sa.Engine) -> None:
    settings = Settings(queue_bytes=MEGABYTE, redact=Redact(patterns=("secret-[0-9]{3}",)))
    sent = b'{"text": "secret-123 ' + b"y" * 3 * MEGABYTE + b' secret-456"}'
    with Writer(engine, settings) as writer:
        recording = begun(writer, "application/json")
        for at in range(0, len(sent), 100_000):
            recording.chunk(sent[at : at + 100_000])
            assert writer.flush(20)
            assert writer.budget.blocks <= MEGABYTE // 2
        recording.end("eof")
    kept = body(engine, recording)
    assert len(kept) == len(sent)
    assert b"secret-" not in kept


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": lambda plain: brotli.compress(plain, quality=3),
    "zstd": lambda plain: zstandard.ZstdCompressor().compress(plain),
    "gzip, br": lambda plain: brotli.compress(gzip.compress(plain), quality=3),
}


@pytest.mark.parametrize("coding", BOMBS)
def test_a_body_is_decoded_in_steps_and_another_stream_has_its_turn(engine: sa.Engine, coding: str) -> None:
    with Writer(engine) as writer:
        bomb, other = begun(writer, "application/json", coding), begun(writer)
        bomb.chunk(BOMBS[coding](b"[" + b" " * (10 * MEGABYTE)))
        other.chunk(b"data: 1\n\n")
        other.end("eof")
        assert writer.flush(30)
        bomb.end("eof")
    assert types(engine, other) == ["$response", "", "$end"]
    assert len(body(engine, bomb)) == 10 * MEGABYTE + 1
    assert max(len(event.data) for event in found(engine, bomb)) <= 2 * MEGABYTE + STEP


def test_a_stream_that_decodes_to_far_more_than_came_is_left_off(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recorder.collect.decoding.BOMB_BYTES", MEGABYTE)
    with Writer(engine) as writer:
        recording = begun(writer, "text/event-stream", "gzip")
        recording.chunk(gzip.compress(b"data: x\n\n" + b":" * 20 * MEGABYTE))
        assert writer.flush(30)
        recording.chunk(b"more")
        recording.end("eof")
    (gap,) = gaps(engine, recording)
    assert gap["reason"].endswith("a bomb")
    assert gap["chunks"] == 2
    assert len(body(engine, recording)) < 4 * MEGABYTE
    assert BOMB_BYTES == 64 * MEGABYTE


def test_a_flood_does_not_hold_up_another_stream(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH_ENTRIES", 2000)
    monkeypatch.setattr(writing, "SHARE", 500)
    with Writer(engine) as writer:
        flood = begun(writer)
        for _ in range(40):
            flood.chunk(TINY * 2000)
        other = begun(writer)
        other.chunk(b"data: 1\n\n")
        other.end("eof")
        until(lambda: types(engine, other)[-1:] == ["$end"])
        assert body(engine, flood).count(TINY) < 40 * 2000
        assert writer.flush(60)
        assert body(engine, flood) == TINY * 2000 * 40
        flood.end("eof")
    assert writer.complete


def test_what_is_behind_when_time_is_up_is_said_and_all_else_is_whole(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH_ENTRIES", 500)
    monkeypatch.setattr(writing, "HURRY", 0.0)
    writer = Writer(engine)
    flood = begun(writer)
    for _ in range(200):
        flood.chunk(TINY * 2000)
    other = begun(writer)
    other.chunk(b"data: 1\n\n")
    flood.end("eof")
    other.end("eof")
    writer._hurry_at = 0.0
    writer.start()
    assert not writer.close(30)
    assert types(engine, other) == ["$response", "", "$end"]
    said = gaps(engine, flood)
    assert said[-1]["reason"] == "not decoded in time"
    assert sum(gap["bytes"] for gap in said) == writer.late_bytes == writer.dropped_bytes > 0
    assert types(engine, flood)[-1] == "$end"


def test_requests_under_way_count_and_too_many_are_not_kept() -> None:
    budget = Budget(1000)
    first, second = _Copy(10_000, budget), _Copy(10_000, budget)
    first.add(b"x" * 300)
    assert budget.requests == 400
    second.add(b"y" * 300)
    assert first.whole_or_why() == (b"x" * 300, "")
    whole, missing = second.whole_or_why()
    assert whole is None
    assert missing.startswith("queue full")
    first.forget()
    assert budget.requests == 0


def test_a_request_that_found_no_room_is_said(engine: sa.Engine) -> None:
    with Writer(engine, Settings(queue_bytes=MEGABYTE)) as writer:
        writer.budget.requests = MEGABYTE - 10_000
        first = begun(writer)
        recording = begun(writer, request=b"x" * 20_000)
        recording.note("")  # as a tee does that has nothing to add
        writer.budget.requests = 0
        first.end("eof")
        recording.end("eof")
    assert [gap["reason"] for gap in gaps(engine, recording)] == ["queue full: the request's body of 20000 bytes is not recorded"]


def test_the_share_of_a_stream_is_of_its_chunks_alone(engine: sa.Engine) -> None:
    with Writer(engine) as writer:
        recording = begun(writer, request=b"x" * MEGABYTE)
        recording.chunk(b"data: 1\n\n")
        assert writer.flush(20)
        assert recording.taken == recording._put > 0
        recording.end("eof")


def test_a_stream_that_is_collected_while_another_is_counted_does_not_wait_for_itself(engine: sa.Engine) -> None:
    writer = Writer(engine)

    class Collecting(int):
        def __radd__(self, other: int) -> int:
            writer.unheard(0, 0)
            return other + int(self)

    counted = threading.Thread(target=writer.unheard, args=(0, Collecting(7)), daemon=True)
    counted.start()
    counted.join(10)
    assert not counted.is_alive()
    assert (writer.missing, writer._unsaid) == (2, [2, 0, 7])


def test_requests_over_their_limit_are_not_kept() -> None:
    copy = _Copy(10, Budget(1000))
    copy.add(b"x" * 11)
    assert copy.whole_or_why() == (None, "not recorded: the request's body, of over 10 bytes (max_request_body)")
