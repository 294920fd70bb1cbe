"""Sampling: of a session all streams are recorded or none, whoever records them and whatever tells the session first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from recorder import database, log
from recorder.collect.sampling import KNOWN, PATIENCE, Sampler
from recorder.collect.streamid import new_stream_id
from recorder.collect.writer import Writer
from recorder.log import Stream
from recorder.settings import Settings
from recorder.sse import Frame
from tests.writing import encoded, run, said

THREADS = "/v1/threads/runs"
RESPONSES = "/v1/responses"
SSE = "text/event-stream"


def stream(path: str, body: Any = None, label: str | None = None, method: str = "POST") -> Stream:
    now = datetime.now(UTC)
    content = None if body is None else json.dumps(body).encode()
    return Stream(
        new_stream_id(),
        method,
        "host",
        path,
        request_body=content,
        session_label=label,
        source="test",
        started_at=now,
        recorded_at=now,
    )


def on(thread: str, verb: str = "runs") -> Stream:
    return stream(f"/v1/threads/{thread}/{verb}")


def frame(payload: Any, type: str = "") -> Frame:
    return Frame(type, json.dumps(payload))


def created(thread: str) -> Frame:
    return frame(run(thread_id=thread), "thread.run.created")


def response(id: str, **fields: Any) -> Frame:
    return frame({"type": "response.created", "response": {"id": id, "object": "response", **fields}}, "response.created")


END = log.system_frame("$end", {"outcome": "done"}, 1)


def kept(sampler: Sampler, given: Stream, frames: Sequence[Frame] = (), *, end: bool = True) -> bool | None:
    """The decision of a stream with these events; what it let through is all of it, or nothing."""
    sampled = sampler.begin(given)
    every = [*frames, END] if end else list(frames)
    through = [out for one in every for out in sampled.feed([one], last=one is END)]
    assert through == (every if sampled.kept else []), "all of it or nothing"
    return sampled.kept


def half() -> Sampler:
    return Sampler(0.5)


# One stream


@pytest.mark.parametrize("path", [THREADS, RESPONSES, "/v1/threads/thread_1/runs", "/v1/chat/completions", "/v1/anything"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything(path: str, share: float) -> None:
    sampler = Sampler(share)
    assert all(kept(sampler, stream(path), [created(f"thread_{at}")]) is (share == 1) for at in range(20))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_that_of_the_sessions(share: float) -> None:
    """Of 2,000: 5 standard deviations around it."""
    sampler = Sampler(share)
    for decided in (
        [kept(sampler, on(f"thread_{at}")) for at in range(2000)],
        [kept(sampler, stream("/v1/x", label=f"label {at}")) for at in range(2000)],
        [kept(sampler, stream("/v1/chat/completions")) for _ in range(2000)],
        [kept(sampler, stream(THREADS), [created(f"other_{at}")]) for at in range(2000)],
    ):
        assert abs(sum(map(bool, decided)) / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5


# Sessions


@given(st.text(min_size=1, max_size=40))
def test_a_label_decides_alike_for_all_its_streams_and_in_every_process(label: str) -> None:
    decided = {
        kept(half(), stream(path, label=label), [created("thread_1")])
        for path in (THREADS, RESPONSES, "/v1/chat/completions", "/v1/x")
    }
    assert len(decided) == 1


@pytest.mark.parametrize("number", range(20))
def test_a_thread_decides_alike_whether_the_request_or_the_first_event_names_it(number: int) -> None:
    """So that processes which share nothing agree: one that makes the thread, one that goes on in it."""
    thread = f"thread_{number}"
    body = Frame("$body", json.dumps({"id": thread, "object": "thread"}))
    decided = {
        kept(half(), on(thread)),
        kept(half(), on(thread, "messages")),
        kept(half(), stream(f"/v1/threads/{thread}", method="GET")),
        kept(half(), stream(f"/openai/threads/{thread}/runs/run_1/submit_tool_outputs")),
        kept(half(), stream(THREADS), [created(thread)]),
        kept(half(), stream(THREADS), [frame({"id": thread, "object": "thread"}, "thread.created"), created(thread)]),
        kept(half(), stream("/v1/threads"), [body]),
        kept(half(), stream(THREADS), [frame({"event": "thread.run.created", "data": run(thread_id=thread)})]),
    }
    assert len(decided) == 1


@pytest.mark.parametrize("number", range(20))
def test_a_conversation_decides_alike_whoever_names_it(number: int) -> None:
    id = f"conv_{number}"
    decided = {
        kept(half(), stream(RESPONSES, {"conversation": id}), [response("resp_1")]),
        kept(half(), stream(RESPONSES, {"conversation": {"id": id}}), [response("resp_2")]),
        kept(half(), stream(f"/v1/conversations/{id}/items")),
        kept(half(), stream("/v1/conversations"), [Frame("$body", json.dumps({"id": id, "object": "conversation"}))]),
        kept(half(), stream(RESPONSES), [response("resp_3", conversation={"id": id})]),
    }
    assert len(decided) == 1


@pytest.mark.parametrize("number", range(20))
def test_a_chain_of_responses_is_decided_by_its_first(number: int) -> None:
    sampler, names = half(), [f"resp_{number}_{at}" for at in range(8)]
    first = kept(sampler, stream(RESPONSES), [response(names[0])])
    assert first is kept(half(), stream(RESPONSES, {"previous_response_id": names[0]}), [response("other")]), "in another process"
    for before, name in pairwise(names):
        assert kept(sampler, stream(RESPONSES, {"previous_response_id": before}), [response(name)]) is first
        assert kept(sampler, stream(f"{RESPONSES}/{name}", method="GET")) is first


@pytest.mark.parametrize("number", range(20))
def test_the_thread_of_a_labelled_session_goes_with_the_label(number: int) -> None:
    sampler, label, thread = half(), f"label {number}", f"labelled_{number}"
    decided = kept(sampler, stream(THREADS, label=label), [created(thread)])
    assert kept(sampler, on(thread)) is decided
    assert kept(sampler, on(thread, "messages")) is decided
    assert kept(half(), stream("/v1/x", label=label)) is decided


def test_whatever_tells_no_session_is_decided_by_itself() -> None:
    sampler = half()
    assert {kept(sampler, stream("/v1/chat/completions", {"model": "m"})) for _ in range(64)} == {True, False}
    assert {kept(sampler, stream(THREADS), [frame({"x": 1})]) for _ in range(64)} == {True, False}
    assert {kept(sampler, stream(THREADS)) for _ in range(64)} == {True, False}


# When it is decided


def test_what_the_request_names_is_decided_at_once() -> None:
    assert half().begin(on("thread_1")).kept is not None
    assert half().begin(stream("/v1/x", label="a")).kept is not None
    assert half().begin(stream("/v1/chat/completions")).kept is not None
    assert half().begin(stream(RESPONSES, {"previous_response_id": "resp_1"})).kept is not None


def test_what_only_events_tell_waits_for_them_and_then_comes_whole_and_in_order() -> None:
    sampled = Sampler(0.999999).begin(stream(THREADS))
    head = log.system_frame("$response", {"status": 200, "headers": []}, 0)
    assert sampled.kept is None
    assert sampled.feed([head], last=False) == []
    first = created("thread_1")
    assert sampled.feed([first], last=False) == [head, first]
    assert sampled.kept
    assert sampled.learned
    assert sampled.feed([END], last=True) == [END]


def test_it_does_not_wait_for_ever() -> None:
    sampled = half().begin(stream(THREADS))
    for at in range(PATIENCE):
        sampled.feed([frame({"at": at})], last=False)
        assert sampled.kept is None
    sampled.feed([frame({})], last=False)
    assert sampled.kept is not None


def test_what_is_remembered_is_bounded() -> None:
    sampler = half()
    sampler.inherit((f"id {at}" for at in range(KNOWN + 10)), True)
    assert len(sampler._known) == KNOWN
    assert sampler.decide([f"id {KNOWN + 9}"])


# In a log


def streams(engine: sa.Engine) -> set[str]:
    with database.read(engine) as connection:
        return {str(id) for id in connection.execute(sa.select(log.streams.c.stream_id)).scalars()}


def test_a_log_holds_whole_sessions_and_nothing_of_the_others(engine: sa.Engine) -> None:
    """40 threads of 4 streams each: one makes it by an event, the others name it; all at once, a chunk of each in turn."""
    threads = [f"thread_{at}" for at in range(40)]
    with Writer(engine, Settings(sample=0.5)) as writer:
        of = {
            thread: [
                writer.begin(stream(THREADS)),
                *(writer.begin(on(thread, verb)) for verb in ("runs", "messages", "runs/run_1/cancel")),
            ]
            for thread in threads
        }
        bodies = {thread: encoded(said(id=f"run_{thread}", thread_id=thread)) for thread in threads}
        for recordings in of.values():
            for recording in recordings:
                recording.response(200, (("content-type", SSE),), SSE)
        for at in range(0, max(map(len, bodies.values())), 700):
            for thread, recordings in of.items():
                for recording in recordings:
                    if chunk := bodies[thread][at : at + 700]:
                        recording.chunk(chunk)
        for recordings in of.values():
            for recording in recordings:
                recording.end("eof")
        assert writer.flush(30)
        assert not writer.open
    found = streams(engine)
    whole = {thread: [recording.stream.stream_id in found for recording in recordings] for thread, recordings in of.items()}
    assert all(len(set(each)) == 1 for each in whole.values())
    assert 0 < len(found) < 160
    for thread, recordings in of.items():
        for recording in recordings if whole[thread][0] else ():
            recorded = log.read_stream(engine, recording.stream.stream_id)
            assert b"".join(piece for piece, _, _ in log.wire(recorded)) == bodies[thread]
    assert sum(writer.outcomes.values()) == len(found)


def test_what_is_not_sampled_costs_no_memory_and_no_write(engine: sa.Engine) -> None:
    with Writer(engine, Settings(sample=0)) as writer:
        recording = writer.begin(on("thread_1"))
        recording.response(200, (("content-type", SSE),), SSE)
        assert writer.flush(20)
        for _ in range(1000):
            recording.chunk(bytes(1000))
        assert writer.waiting_bytes == 0
        recording.end("eof")
        assert writer.flush(20)
        assert (writer.commits, writer.events, writer.dropped_bytes) == (0, 0, 0)
        assert not writer.open
    assert streams(engine) == set()
