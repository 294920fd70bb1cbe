"""Projections: whatever happens in whatever order, the tables are those that a rebuild from the log makes."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder import database, jsontext, log, reports
from recorder.log import LOG_TABLES, Stream, checkpoints, events, heads, pending, streams
from recorder.projections import PROJECTED, batch, folds, runner
from recorder.projections import verify as verifying
from recorder.projections.anomalies import anomalies
from recorder.projections.messages import messages
from recorder.projections.run_steps import run_steps, tool_calls
from recorder.projections.runs import COUNTERS, runs
from recorder.projections.sessions import session_streams, sessions
from recorder.projections.usage import usage_hourly
from recorder.protocols import FOLD_VERSION, Request
from recorder.protocols.fold import StreamFold
from recorder.sse import Frame, SSEDecoder, encode, is_system
from tests import chatting
from tests.responding import RESPONSES, answering, called, getting, message_item, replied, response
from tests.test_assistants import garbage, requests
from tests.writing import (
    BORN,
    DONE,
    THREADS,
    Event,
    answered,
    asked,
    frames,
    message,
    run,
    said,
    step,
    step_delta,
    stream,
    stream_id,
    submitting,
    text_delta,
    write,
)

pytestmark = pytest.mark.slow

USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}

Rows = dict[str, list[tuple[Any, ...]]]

few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows(engine: sa.Engine) -> Rows:
    """All rows of all projected tables."""
    with database.read(engine) as connection:
        return {table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr) for table in PROJECTED}


def empty(engine: sa.Engine) -> None:
    with database.write(engine) as connection:
        for table in (*LOG_TABLES, *PROJECTED):
            connection.execute(table.delete())


@contextmanager
def another(engine: sa.Engine, without: tuple[str, ...] = ()) -> Iterator[sa.Engine]:
    """Another database with the same log, but for some streams, projected from nothing."""
    fresh = database.engine("sqlite://", create=True)
    database.metadata.create_all(fresh)
    try:
        for table in (streams, events, heads):
            with database.read(engine) as connection:
                found = connection.execute(sa.select(table).where(table.c.stream_id.not_in(without))).mappings().all()
            with database.write(fresh) as connection:
                if found:
                    connection.execute(table.insert(), [dict(row) for row in found])
        runner.rebuild(fresh)
        yield fresh
    finally:
        fresh.dispose()


def same_as_rebuilt(engine: sa.Engine, without: tuple[str, ...] = ()) -> None:
    """Assert that every projected row is as another database has it that has the same log and nothing else."""
    with another(engine, without) as fresh:
        have, want = rows(engine), rows(fresh)
    wrong = {
        name: {
            "has": [row for row in have[name] if row not in want[name]],
            "wants": [row for row in want[name] if row not in have[name]],
        }
        for name in want
        if have[name] != want[name]
    }
    assert not wrong
    with database.read(engine) as connection:
        assert connection.execute(sa.select(pending)).all() == []


def all_rows(engine: sa.Engine, table: sa.Table) -> list[dict[str, Any]]:
    with database.read(engine) as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def kinds(engine: sa.Engine) -> list[str]:
    return sorted(row["kind"] for row in all_rows(engine, anomalies))


# What can be in the log: several streams of a run, duplicates, ids that come back, streams that make no sense.

TAIL = Frame("$tail", 'event: thread.run.completed\ndata: {"id": "run_2", "status": "completed"}\n', None, 99)


def pool() -> list[tuple[Stream, list[Frame]]]:
    told: list[tuple[list[Event], Request, str | None, str | None]] = [
        (said("Hello there", usage=USAGE), THREADS, None, "done"),
        (said("Hello there", usage=USAGE), THREADS, None, "done"),
        (asked("run_2"), THREADS, None, "done"),
        (answered("run_2"), submitting(run_id="run_2"), "mine", "done"),
        (said("Another", created_at=BORN + 7200, model="gpt-4o-mini"), THREADS, "other", "done"),
        ([("", "nonsense"), ("thread.run.created", "{"), ("", {"a": 1})], THREADS, None, "eof"),
        (asked("run_2")[:4], THREADS, "mine", None),
        ([text_delta("Hel", id="msg_of_run_1"), text_delta("Hel", id="msg_x")], Request(), None, "cut"),
        ([("error", {"code": "server_error", "message": "x"})], submitting(run_id="run_2"), None, "error"),
        (
            [("thread.run.in_progress", run("in_progress", "msg_x")), *said("Third", "run_3", thread_id="thread_3")],
            Request(),
            None,
            "done",
        ),
        ([("hello", "world")], Request(path="/elsewhere"), None, "http_error"),
        (
            [("x", message("completed", "msg_0", run_id=None)), ("thread.run.failed", {"id": "run_3", "failed_at": 1})],
            THREADS,
            None,
            "eof",
        ),
        # Responses: a chain whose calls are answered, in a session that a later one names; one in pieces; one that is polled.
        (called(), RESPONSES, None, "eof"),
        (called(id="resp_2", call_ids=["call_2"], previous_response_id="resp_1"), answering(), None, "eof"),
        (replied(id="resp_3", previous_response_id="resp_2"), answering("sun", "resp_2", "call_2"), "other", "eof"),
        (replied("A fourth", id="resp_4", previous_response_id="resp_3"), answering([], "resp_3"), None, "cut"),
        (replied(id="resp_5"), answering("snow", None), None, "eof"),
        (replied("In pieces", id="resp_6", conversation={"id": "conv_1"})[:6], RESPONSES, None, "cut"),
        (replied("In pieces", id="resp_6", conversation={"id": "conv_1"})[4:7], getting("resp_6", 3), None, "cut"),
        ([("", {"error": {"message": "too old"}})], getting("resp_2", 3), None, "eof"),
        # Chats: two whose calls the next request answers, one of them twice; one that is cut in an error.
        (chatting.called(), chatting.CHAT, None, "done"),
        (chatting.called(ids=["call_2"]), chatting.history(("call_1", "rain")), "mine", "done"),
        (chatting.said(usage=chatting.USAGE), chatting.history(("call_1", "rain"), ("call_2", "sun")), None, "eof"),
        (chatting.said(), chatting.history(("call_1", "snow")), None, "cut"),
        ([*chatting.said()[:2], ("", {"error": {"message": "It broke."}})], chatting.CHAT, None, "error"),
    ]
    made = [
        (stream(number, request, label=label), frames(events, outcome))
        for number, (events, request, label, outcome) in enumerate(told)
    ]
    polled = response("completed", "resp_6", [message_item("In pieces")], conversation={"id": "conv_1"})
    json_type = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/json"]]}, 0)
    body = [json_type, Frame("$body", jsontext.dumps(polled)), log.system_frame("$end", {"outcome": "done"}, 0)]
    made.append((stream(len(made), getting("resp_6")), body))
    made[6][1].extend([TAIL, Frame("$end", '{"outcome": "cut"}', None, 99)])
    return made


POOL = pool()


class Log:
    """A database in use: streams that grow, and projectors that come and go."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.at = [0] * len(POOL)
        self.cache: dict[str, StreamFold] = {}
        self.held: list[batch.Folded] = []

    def append(self, number: int, count: int) -> None:
        new, body = POOL[number]
        at = self.at[number]
        write(self.engine, new, body[at : at + count], at)
        self.at[number] = min(at + count, len(body))

    def catch_up(self) -> None:
        runner.catch_up(self.engine)

    def follow(self) -> None:
        runner.catch_up(self.engine, cache=self.cache)

    def rebuild(self) -> None:
        runner.rebuild(self.engine)

    def read(self) -> list[batch.Folded]:
        """What a projector does before it writes."""
        with database.read(self.engine) as connection:
            waiting = runner._waiting(connection, 16)
        return runner._fold(self.engine, waiting, None)[0]

    def race(self) -> None:
        """Two projectors read before either writes."""
        first, second = self.read(), self.read()
        for found in (first, second):
            runner._write(self.engine, found, None)

    def hold(self) -> None:
        """A slow projector: it has read and will write some time later."""
        self.held = self.read()

    def release(self) -> None:
        runner._write(self.engine, self.held, None)
        self.held = []

    def bump(self) -> None:
        for module in (folds, runner, batch, verifying):
            module.FOLD_VERSION += 1  # type: ignore[attr-defined]


@pytest.fixture
def fold_versions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Puts the fold version back to what it is."""

    def reset() -> None:
        for module in (folds, runner, batch, verifying):
            monkeypatch.setattr(module, "FOLD_VERSION", FOLD_VERSION)

    return reset


appends = st.tuples(st.just("append"), st.integers(0, len(POOL) - 1), st.sampled_from([1, 2, 3, 99, 99]))
moves = st.tuples(st.sampled_from(["catch_up", "follow", "rebuild", "race", "hold", "release", "bump"]))


@given(st.lists(appends | appends | moves, min_size=1, max_size=25))
@few
def test_after_any_interleaving_the_tables_are_those_of_a_rebuild(
    engine: sa.Engine, fold_versions: Callable[[], None], actions: list[tuple[Any, ...]]
) -> None:
    fold_versions()
    empty(engine)
    log = Log(engine)
    for name, *arguments in actions:
        getattr(log, name)(*arguments)
    runner.catch_up(engine)
    same_as_rebuilt(engine)
    assert verifying.verify(engine).problems == []


@given(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=12))
@few
def test_usage_hourly_is_the_sum_over_runs(engine: sa.Engine, chosen: list[int]) -> None:
    empty(engine)
    log = Log(engine)
    for number in chosen:
        log.append(number, 99)
        log.catch_up()
    buckets: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in all_rows(engine, runs):
        buckets.setdefault((row["hour"], row["protocol"] or "", row["model"] or "", row["assistant_id"] or ""), []).append(row)
    found = {tuple(row.values())[:4]: row for row in all_rows(engine, usage_hourly)}
    assert set(found) == set(buckets)
    for key, members in buckets.items():
        assert found[key]["runs"] == len(members)
        for counter in COUNTERS:
            known = [row[counter] for row in members if row[counter] is not None]
            assert found[key][counter] == (sum(known) if known else None)


@given(st.sets(st.integers(0, len(POOL) - 1)), st.integers(1, 99))
@few
def test_what_is_erased_leaves_nothing_behind(engine: sa.Engine, gone: set[int], first: int) -> None:
    empty(engine)
    log = Log(engine)
    for number in range(len(POOL)):
        log.append(number, first)
    log.catch_up()
    for number in range(len(POOL)):
        log.append(number, 99)
    log.catch_up()
    ids = tuple(stream_id(number) for number in gone)
    with another(engine, without=ids) as never:
        runner.erase(engine, list(ids))
        assert rows(engine) == rows(never)
    for table in LOG_TABLES:
        assert not {row["stream_id"] for row in all_rows(engine, table)} & set(ids)


@given(requests, st.lists(garbage, max_size=8), st.integers(0, 8))
@settings(few, max_examples=20)
def test_a_stream_of_nonsense_is_projected_as_a_rebuild_would(
    engine: sa.Engine, request: Request, told: list[Event], at: int
) -> None:
    empty(engine)
    found: list[Frame] = []
    for frame in frames(told):
        if is_system(frame.type):
            found.append(frame)
        else:
            found += SSEDecoder().feed(encode(frame.type, frame.data.encode("utf-8", "replace").decode()))
    write(engine, stream(1, THREADS), frames(said()))
    write(engine, stream(2, request), found[:at])
    runner.catch_up(engine)
    write(engine, stream(2, request), found[at:], at)
    runner.catch_up(engine)
    same_as_rebuilt(engine)
    assert "not_projected" not in kinds(engine)


# Replacement, never addition


def test_projecting_twice_replaces_and_adds_nothing(engine: sa.Engine) -> None:
    for new, body in POOL:
        write(engine, new, body)
    runner.catch_up(engine)
    once = rows(engine)
    with database.read(engine) as connection:
        ids = list(connection.execute(sa.select(heads.c.stream_id)).scalars())
    for _ in range(2):
        with database.write(engine) as connection:
            connection.execute(checkpoints.delete())
            connection.execute(pending.insert(), [{"stream_id": id, "position": 0} for id in ids])
        runner.catch_up(engine)
        assert rows(engine) == once
    runner.rebuild(engine)
    assert rows(engine) == once


def test_an_event_at_a_time_gives_the_same_tables_as_all_at_once(engine: sa.Engine) -> None:
    log = Log(engine)
    for number in (2, 3, 0):
        for _ in POOL[number][1]:
            log.append(number, 1)
            log.catch_up()
    same_as_rebuilt(engine)


@pytest.mark.parametrize("projected", [0, 2])
def test_a_projector_that_was_overtaken_writes_nothing_over_what_is_newer(engine: sa.Engine, projected: int) -> None:
    told = frames(said())
    write(engine, stream(1), told[:2])
    if projected:
        runner.catch_up(engine)
    write(engine, stream(1), told[2:4], 2)
    with database.read(engine) as connection:
        waiting = runner._waiting(connection, 10)
    slow, _ = runner._fold(engine, waiting, None)  # one projector has read and folded these, and then waits for the lock …
    write(engine, stream(1), told[4:], 4)
    runner.catch_up(engine)  # … while another reads further, and is done before it
    before = rows(engine), all_rows(engine, checkpoints)
    runner._write(engine, slow, None)
    assert (rows(engine), all_rows(engine, checkpoints)) == before
    assert verifying.verify(engine).problems == []
    with database.read(engine) as connection:
        assert connection.execute(sa.select(runs.c.state)).scalar_one() == "ended"


def test_a_rebuild_takes_away_what_no_stream_says(engine: sa.Engine) -> None:
    write(engine, *POOL[0])
    write(engine, *POOL[5])
    runner.catch_up(engine)
    clean = rows(engine)
    with database.write(engine) as connection:
        for table in (runs, run_steps, messages, anomalies, usage_hourly, sessions, session_streams, folds.folds):
            ghost = dict(connection.execute(sa.select(table).limit(1)).mappings().one())
            for column in table.primary_key.columns:
                if isinstance(column.type, sa.Text):
                    ghost[column.name] = "ghost"
            if "stream_id" in ghost:
                ghost["stream_id"] = stream_id(77)
            connection.execute(table.insert().values(**ghost))
    runner.rebuild(engine)
    assert rows(engine) == clean


def test_a_new_fold_version_takes_away_what_only_the_old_one_said(engine: sa.Engine) -> None:
    """An older fold knew the run by another key; refolded, nothing of it stays."""
    write(engine, *POOL[0])
    runner.catch_up(engine)
    clean = rows(engine)
    with database.write(engine) as connection:
        connection.execute(folds.folds.update().values(fold_version=FOLD_VERSION - 1))
        for table in (folds.folds, runs, run_steps, messages):
            for row in connection.execute(sa.select(table).where(table.c.run_key == "run_1")).mappings().all():
                connection.execute(table.insert().values(**{**row, "run_key": "old_run"}))
    runner.catch_up(engine)
    assert rows(engine) == clean


# Unknown is not zero


def test_a_run_without_usage_has_none_and_is_counted_as_such(engine: sa.Engine) -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for number, usage in enumerate([None, None, USAGE, zero]):
        write(engine, stream(number), frames(said(id=f"run_{number}", usage=usage, model="known" if number > 1 else "unknown")))
    runner.catch_up(engine)
    assert {row["run_id"]: row["total_tokens"] for row in all_rows(engine, runs)} == {
        "run_0": None,
        "run_1": None,
        "run_2": 6,
        "run_3": 0,
    }
    with database.read(engine) as connection:
        by_model = {row["model"]: row for row in reports.usage(connection, "model")}
    assert by_model["unknown"]["runs"] == by_model["unknown"]["runs_without_usage"] == 2
    assert by_model["unknown"]["total_tokens"] is None
    assert (by_model["known"]["runs_without_usage"], by_model["known"]["total_tokens"]) == (0, 6)
    assert by_model["known"]["cached_tokens"] is None


def test_a_stream_that_was_cut_leaves_its_run_unknown_and_not_failed(engine: sa.Engine) -> None:
    write(engine, stream(0), frames(said()[:6], "cut"))
    runner.catch_up(engine)
    (row,) = all_rows(engine, runs)
    assert (row["state"], row["status"], row["failed_at"]) == ("unknown", "in_progress", None)
    with database.read(engine) as connection:
        (failure,) = reports.failures(connection)
    assert (failure["status"], failure["kind"], row["failed"]) == ("unknown", "cut", False)


def test_steps_that_no_event_ended_inherit_the_end_of_their_run(engine: sa.Engine) -> None:
    for number, status in enumerate(("expired", "cancelled", "failed", "incomplete", "in_progress")):
        own = f"run_{number}"
        told: list[Event] = [("x", step(id=f"step_{number}", run_id=own)), (f"thread.run.{status}", run(status, own))]
        write(engine, stream(number), frames(told))
    runner.catch_up(engine)
    found = {row["run_id"]: (row["status"], row["status_derived"]) for row in all_rows(engine, run_steps)}
    assert found == {
        "run_0": ("expired", True),
        "run_1": ("cancelled", True),
        "run_2": ("failed", True),
        "run_3": ("in_progress", False),
        "run_4": ("in_progress", False),
    }


def test_the_output_that_the_client_submitted_stands_in_where_no_event_repeats_it(engine: sa.Engine) -> None:
    write(engine, stream(0), frames(asked()))
    write(engine, stream(1, submitting("rain")), frames([], "cut"))
    runner.catch_up(engine)
    (call,) = all_rows(engine, tool_calls)
    assert (call["name"], call["arguments"], call["output"]) == ("weather", '{"city":"Oslo"}', "rain")


def test_columns_carry_the_apis_names_and_values(engine: sa.Engine) -> None:
    error = {"code": "server_error", "message": "broken"}
    usage = {**USAGE, "prompt_token_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 1}}
    write(
        engine, stream(0), frames([("x", run("failed", last_error=error, usage=usage, failed_at=BORN + 5, started_at=BORN + 1))])
    )
    runner.catch_up(engine)
    (row,) = all_rows(engine, runs)
    assert {name: row[name] for name in COUNTERS} == {
        **USAGE,
        "cached_tokens": 3,
        "cache_write_tokens": None,
        "reasoning_tokens": 1,
    }
    assert (row["last_error_code"], row["last_error_message"], row["model"]) == ("server_error", "broken", "gpt-4o")
    assert (row["created_at"], row["failed_at"]) == (datetime.fromtimestamp(BORN, UTC), datetime.fromtimestamp(BORN + 5, UTC))
    assert row["hour"] == datetime(2026, 5, 28, 20, tzinfo=UTC)
    assert (row["thread_id"], row["session_id"], row["streams"]) == ("thread_1", "thread_1", 1)


# Nothing blocks the others

LETTERS = random.Random(1)
LONG = "".join(LETTERS.choices(string.ascii_letters + string.digits, k=9000))  # beyond what an index entry of PostgreSQL holds


def call(**fields: Any) -> Event:
    details = {"type": "tool_calls", "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f"}, **fields}]}
    return "thread.run.step.created", step(id="step_bad", run_id="run_bad", step_details=details)


def bad(**fields: Any) -> Event:
    return "thread.run.in_progress", {**run("in_progress", "run_bad"), **fields}


ODD: dict[str, tuple[Request, list[Event]]] = {
    "tool outputs that are no list": (submitting()._replace(body={"tool_outputs": 5}), []),
    "a tool type that is no text": (THREADS, [bad(), call(type=["function"])]),
    "a tool type that is an object": (THREADS, [bad(), call(type={})]),
    "a tool call with private names": (THREADS, [bad(), call(id=5, _fields_set=1, model_extra=2, cls=3)]),
    "usage with private names": (THREADS, [bad(usage={"prompt_tokens": "many", "_fields_set": 1, "cls": 2})]),
    "usage that is huge": (THREADS, [bad(usage={"prompt_tokens": 2**63, "completion_tokens": 2**63 - 1, "total_tokens": 1})]),
    "usage whose sum is huge": (
        THREADS,
        [bad(usage={"total_tokens": 2**63 - 1}), ("x", run(id="run_bad2", usage={"total_tokens": 9}))],
    ),
    "a long model": (THREADS, [bad(model=LONG)]),
    "a long status": (THREADS, [bad(status=LONG)]),
    "a long assistant_id": (THREADS, [bad(assistant_id=LONG)]),
    "a long tool call id": (THREADS, [bad(), call(id=LONG)]),
    "ids of 512 characters that take 2048 bytes": (
        THREADS,
        [("x", run("in_progress", "".join(LETTERS.choices([chr(0x20000 + n) for n in range(9000)], k=512))))],
    ),
    "times beyond all years": (THREADS, [bad(created_at=1e18), ("x", step(id="step_bad", run_id="run_bad", created_at=-1e18))]),
    "the last second of year 9999": (THREADS, [bad(created_at=253402300799, failed_at=253402300799)]),
    "the first second of year 1": (THREADS, [bad(created_at=-62135596800)]),
    "a created_at that is not a number": (THREADS, [bad(created_at=float("nan"))]),
    "NUL and lone surrogates everywhere": (
        THREADS,
        [bad(model="a\0b", assistant_id="\ud800", last_error={"code": "\0", "message": "\udfff"}), call(id="\0", type="\ud800")],
    ),
    "content that is no list": (
        THREADS,
        [bad(), ("x", message(content="text", run_id="run_bad")), ("x", message("completed", content={}))],
    ),  # type: ignore[arg-type]
    "nesting as deep as can be read": (THREADS, [bad(metadata="@")]),
}


def odd_frames(name: str) -> list[Frame]:
    told = frames([*ODD[name][1], DONE])
    if name == "nesting as deep as can be read":
        deep = "[" * 985 + "]" * 985
        told = [frame._replace(data=frame.data.replace('"@"', deep)) for frame in told]
    return told


@pytest.mark.parametrize("name", ODD)
def test_a_stream_whatever_it_holds_blocks_no_other(engine: sa.Engine, name: str) -> None:
    for odd in (0, 5):
        write(engine, stream(odd, ODD[name][0]), odd_frames(name))
    for other in (1, 2, 3, 7):
        write(engine, stream(other), frames(said(id=f"run_{other}", usage=USAGE)))
    runner.catch_up(engine)
    known = {row["run_id"]: row["total_tokens"] for row in all_rows(engine, runs)}
    assert {f"run_{other}": known.get(f"run_{other}") for other in (1, 2, 3, 7)} == dict.fromkeys(
        ("run_1", "run_2", "run_3", "run_7"), 6
    )
    assert all_rows(engine, pending) == []
    assert runner.behind(engine) == 0


@pytest.mark.parametrize("name", ODD)
def test_a_stream_whatever_it_holds_is_projected_as_a_rebuild_would(engine: sa.Engine, name: str) -> None:
    body = odd_frames(name)
    write(engine, stream(0), frames(said(usage=USAGE)))
    for at, frame in enumerate(body):
        write(engine, stream(5, ODD[name][0]), [frame], at)
        runner.catch_up(engine)
    same_as_rebuilt(engine)


@pytest.mark.parametrize("type", ["$response", "$gap", "$body", "$piece"])
def test_a_system_event_that_somebody_wrote_by_hand_blocks_no_other(engine: sa.Engine, type: str) -> None:
    for number, odd in enumerate(("[]", '"x"', "5", "null", "{", "")):
        write(engine, stream(number), [Frame(type, odd), *frames(said(id=f"run_{number}"))])
    write(engine, stream(9), frames(said(id="run_9", usage=USAGE)))
    runner.catch_up(engine)
    assert {row["run_id"] for row in all_rows(engine, runs)} >= {"run_9"}
    assert all_rows(engine, pending) == []


def test_a_stream_that_could_not_be_projected_is_whole_once_it_can(engine: sa.Engine) -> None:
    """What is new is not folded onto nothing: the events before it count too."""
    told: list[Event] = [
        ("thread.run.created", run("queued")),
        call(type=["function"]),
        ("thread.run.in_progress", run("in_progress")),
    ]
    write(engine, stream(1), frames(told, None))
    runner.catch_up(engine)
    sound = step("completed", "step_bad", run_id="run_bad")
    write(engine, stream(1), frames([("thread.run.step.completed", sound), ("thread.run.completed", {"id": "run_1"})]), len(told))
    runner.catch_up(engine)
    same_as_rebuilt(engine)
    assert {row["run_id"]: row["status"] for row in all_rows(engine, runs)}["run_1"] == "completed"


def test_a_stream_that_says_later_that_an_unowned_object_is_a_run_is_named_by_all_its_streams(engine: sa.Engine) -> None:
    write(engine, stream(1, Request()), frames([text_delta("a", id="x_1")]))
    runner.catch_up(engine)
    write(engine, stream(2), frames([("thread.run.completed", run("completed", "x_1"))]))
    runner.catch_up(engine)
    same_as_rebuilt(engine)


def test_deltas_that_are_too_deep_to_follow_leave_the_rest_as_a_rebuild_would(engine: sa.Engine) -> None:
    nested = '{"content":[{"index":-1}],"x":' + '{"x":' * 300 + "1" + "}" * 300 + "}"
    told: list[Event] = [
        ("thread.run.in_progress", run("in_progress")),
        ("thread.message.delta", '{"id":"msg_1","delta":' + nested + "}"),
        step_delta({"index": 0, "type": "function", "function": {"name": "f"}}),
        ("thread.run.completed", run("completed")),
    ]
    for at, frame in enumerate(frames(told)):
        write(engine, stream(1), [frame], at)
        runner.catch_up(engine)
    same_as_rebuilt(engine)
    assert all_rows(engine, runs)[0]["status"] == "completed"


def test_anomalies_say_where_they_are_and_stop_nothing(engine: sa.Engine) -> None:
    write(engine, stream(1), frames([("thread.run.in_progress", run("in_progress")), ("thread.run.queued", "{"), *said()[1:]]))
    runner.catch_up(engine)
    (row,) = [row for row in all_rows(engine, anomalies) if row["kind"] == "unparsable"]
    assert (row["stream_id"], row["position"], row["run_id"]) == (stream_id(1), 1, "run_1")
    assert all_rows(engine, runs)[0]["status"] == "completed"
