"""What makes streams a session: a label, else their thread or conversation, else the chain of their responses; else none does."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

import recorder
from recorder import database, queries, reports
from recorder.projections import runner
from recorder.projections.runs import runs
from recorder.projections.sessions import session_streams
from recorder.projections.verify import verify
from recorder.protocols import Request
from tests import chatting
from tests.commands import ProxyProcess, answer, sqlite, until
from tests.responding import RESPONSES, replied, response
from tests.upstream import Asked, Upstream, Wire
from tests.writing import BORN, THREADS, Event, encoded, frames, said, stream, stream_id, write

CONVERSATION = {"conversation": {"id": "conv_1"}}


class Told(NamedTuple):
    """A stream, its label, and the session that it is to be of: `alone` is its own."""

    label: str | None
    request: Request
    events: list[Event]
    session: str


CASES = {
    "a label before a thread": Told("mine", THREADS, said(), "mine"),
    "an empty label is none": Told("", THREADS, said(), "thread_1"),
    "a thread in the URL": Told(None, THREADS, [], "thread_1"),
    "a thread in the payload": Told(None, Request(path="/v1/threads/runs"), said(thread_id="thread_9"), "thread_9"),
    "a label before a conversation": Told("mine", RESPONSES, replied(**CONVERSATION), "mine"),
    "a conversation of the request": Told(
        None, RESPONSES._replace(body={"model": "m", "input": "", **CONVERSATION}), [], "conv_1"
    ),
    "a conversation before a chain": Told(None, RESPONSES, replied(previous_response_id="resp_0", **CONVERSATION), "conv_1"),
    "a label before a chain": Told("mine", RESPONSES, replied(previous_response_id="resp_0"), "mine"),
    "a chain": Told(None, RESPONSES, replied(previous_response_id="resp_0"), "chain_resp_0"),
    "a response that may begin a chain": Told(None, RESPONSES, replied(), "chain_resp_1"),
    "a label of a chat": Told("mine", chatting.CHAT, chatting.said(), "mine"),
    "a chat alone": Told(None, chatting.CHAT, chatting.said(), "alone"),
    "what is not known": Told(None, Request(path="/news"), [("news", {"a": 1})], "alone"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_of_these_that_a_stream_has_is_its_session(engine: sa.Engine, name: str) -> None:
    told = CASES[name]
    write(engine, stream(1, told.request, label=told.label), frames(told.events))
    runner.catch_up(engine)
    wanted = stream_id(1) if told.session == "alone" else told.session
    with database.read(engine) as connection:
        found = connection.execute(sa.select(session_streams.c.session_id)).scalars().all()
        ran = connection.execute(sa.select(runs.c.session_id)).scalars().all()
        (listed,) = queries.list_sessions(connection)
        shown = queries.show_session(connection, queries.Named("session", wanted))
    assert found == [wanted]
    assert set(ran) <= {wanted}
    assert (listed["session_id"], listed["streams"]) == (wanted, 1)
    assert [entry["stream_id"] for entry in shown["streams"]] == [stream_id(1)]
    assert verify(engine).problems == []


def test_one_session_may_have_runs_of_every_protocol_in_the_order_of_their_start(engine: sa.Engine) -> None:
    """Whatever they are called, and whatever was recorded first."""
    second = {"created_at": BORN + 3}
    told: list[tuple[int, Request, list[Event]]] = [
        (4, chatting.CHAT, [chatting.chunk(chatting.choice({"content": "a"}, "stop"), created=BORN + 4), chatting.END]),
        (3, RESPONSES, replied(id="resp_a", **second)),
        (2, RESPONSES, replied(id="resp_b", **second)),
        (1, THREADS, said(id="run_z", created_at=BORN + 1)),
        (5, THREADS, said(id="run_a", created_at=BORN + 5)),
    ]
    for number, request, events in told:
        write(engine, stream(number, request, label="mine"), frames(events))
        runner.catch_up(engine)
    with database.read(engine) as connection:
        shown = queries.show_session(connection, queries.Named("session", "mine"))
        (listed,) = queries.list_sessions(connection)
    chat = next(run_id for run_id in shown["runs"] if run_id.startswith("chat"))
    assert shown["runs"] == ["run_z", "resp_b", "resp_a", chat, "run_a"]
    assert [entry["stream_id"] for entry in shown["streams"]] == [stream_id(number) for number in range(1, 6)]
    assert (listed["runs"], listed["streams"]) == (5, 5)


def test_runs_of_which_nobody_says_when_they_began_stand_where_their_streams_did(engine: sa.Engine) -> None:
    told: list[tuple[int, dict[str, Any]]] = [
        (1, {"created_at": BORN + 1}),
        (2, {"created_at": None}),
        (3, {"created_at": BORN + 3}),
    ]
    for number, fields in reversed(told):
        write(engine, stream(number, RESPONSES, label="mine"), frames(replied(id=f"resp_{number}", **fields)))
    runner.catch_up(engine)
    with database.read(engine) as connection:
        assert queries.show_session(connection, queries.Named("session", "mine"))["runs"] == ["resp_1", "resp_2", "resp_3"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["proxy", "hook"])
def test_a_label_of_the_proxys_header_or_of_the_hook_makes_a_session(upstream: Upstream, tmp_path: Path, way: str) -> None:
    file = tmp_path / "x.db"

    def as_a_stream(wire: Wire, asked: Asked) -> None:
        wire.stream([encoded(replied("Hi", id="resp_1"))])

    def as_a_body(wire: Wire, asked: Asked) -> None:
        wire.whole(json.dumps(chatting.completion()).encode())

    upstream.on("/v1/responses", as_a_stream)
    upstream.on("/v1/responses/resp_9", lambda wire, asked: wire.whole(json.dumps(response("completed", "resp_9")).encode()))
    upstream.on("/v1/chat/completions", as_a_body)

    def ask(client: httpx.Client, origin: str, headers: dict[str, str]) -> None:
        client.post(f"{origin}/v1/responses", json=RESPONSES.body, headers=headers)
        client.post(f"{origin}/v1/chat/completions", json=chatting.CHAT.body, headers=headers)
        client.get(f"{origin}/v1/responses/resp_9", headers={"X-Recorder-Session": "another"})

    if way == "proxy":
        with ProxyProcess(upstream.origin, db=file) as proxy, httpx.Client() as client:
            ask(client, f"http://{proxy.host}:{proxy.port}", {"X-Recorder-Session": "mine"})
            until(lambda: len(answer("ls", db=file)) == 2)
            assert proxy.stop() == 0
    else:
        with httpx.Client() as client, recorder.record(client, sqlite(file), session="mine"):
            ask(client, upstream.origin, {})
    listed = {row["session_id"]: (row["label"], row["streams"], row["runs"]) for row in answer("ls", db=file)}
    assert listed == {"mine": ("mine", 2, 2), "another": ("another", 1, 1)}
    assert "resp_1" in answer("show", "mine", db=file)["runs"]


def test_a_label_of_any_length_is_one_to_list_by(engine: sa.Engine) -> None:
    label = "".join(random.Random(3).choices(string.ascii_letters, k=9000))  # beyond what an index entry of PostgreSQL holds
    write(engine, stream(0, label=label), frames(said()))
    write(engine, stream(1), frames(said(id="run_2")))
    runner.catch_up(engine)
    with database.read(engine) as connection:
        (listed,) = queries.list_sessions(connection, label=label)
        (by_label,) = reports.usage(connection, "label")
    assert listed["session_id"] == label[:256]
    assert (listed["label"], by_label["label"]) == (label[:200], label[:200])
    assert verify(engine).problems == []
