"""Services that poll, and streams in other envelopes, over real sockets: through the proxy, by the hook, and from files.

However it came, the same rows say the same of it, and it comes back byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

import recorder
from recorder import database
from recorder.collect.import_ import import_paths
from recorder.projections import runner
from recorder.projections.messages import messages
from recorder.projections.run_steps import run_steps, tool_calls
from recorder.projections.runs import runs
from recorder.projections.verify import verify
from tests.commands import ProxyProcess, answer, output, sqlite, until
from tests.recorded import Recorded
from tests.responding import USAGE, message_item, replied, response
from tests.test_assistants import page, wrapped
from tests.upstream import SSE, Asked, Upstream, Wire
from tests.writing import Event, answered, asked, data, encoded, message, run, said, step, submitting, text

pytestmark = pytest.mark.slow

JSON = ("Content-Type", "application/json; charset=utf-8")
RUN = "/v1/threads/thread_1/runs/run_1"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
WAITING = run("requires_action", required_action={"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [CALL]}})
ENDED = run("completed", usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
FUNCTION = {**CALL["function"], "output": "rain"}  # type: ignore[dict-item]
CALLED = step("completed", "step_1", step_details={"type": "tool_calls", "tool_calls": [{**CALL, "function": FUNCTION}]})
WRITING = {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}
WROTE = step("completed", "step_2", "message_creation", step_details=WRITING, created_at=CALLED["created_at"] + 1)
MESSAGE = message("completed", content=[text("It rains")])
ASKED = message("completed", "msg_0", [text("Rain?")], role="user", run_id=None, assistant_id=None)


class Exchange(NamedTuple):
    """A request, and what answers it: JSON in the layout of a server, or the bytes of a stream with their type."""

    method: str
    target: str
    asks: Any
    said: Any
    type: tuple[str, str] = JSON

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def body(self) -> bytes:
        return self.said if isinstance(self.said, bytes) else json.dumps(self.said, indent=2).encode()


def streamed(target: str, asks: Any, events: Sequence[Event], at: int | None = None) -> Exchange:
    """A stream, or what came of it until it broke off."""
    return Exchange("POST", target, asks, encoded(events[:at]), SSE)


POLLED = [
    Exchange("POST", "/v1/threads/thread_1/runs", {"assistant_id": "asst_1"}, run("queued")),
    Exchange("GET", RUN, None, run("in_progress")),
    Exchange("GET", f"{RUN}?again=1", None, WAITING),
    Exchange(
        "POST", f"{RUN}/submit_tool_outputs", {"tool_outputs": [{"tool_call_id": "call_1", "output": "rain"}]}, run("queued")
    ),
    Exchange("GET", f"{RUN}/steps?limit=1&order=desc", None, page(WROTE)),
    Exchange("GET", f"{RUN}/steps/step_1", None, CALLED),
    Exchange("GET", "/v1/threads/thread_1/messages", None, page(MESSAGE, ASKED)),
    Exchange("GET", "/v1/threads/thread_1/runs", None, page(ENDED, run("expired", "run_0", created_at=ENDED["created_at"] - 9))),
]
"""A run that is never streamed: created, polled, given its outputs, and listed with its steps and messages, page by page."""

CANCELLED = [
    streamed("/v1/threads/thread_1/runs", {"assistant_id": "asst_1", "stream": True}, said(id="run_1"), 5),
    Exchange("POST", f"{RUN}/cancel", None, run("cancelling")),
    Exchange("GET", RUN, None, run("cancelled", cancelled_at=ENDED["created_at"] + 5)),
]

CUT = [
    streamed("/v1/threads/thread_1/runs", {"assistant_id": "asst_1", "stream": True}, asked(), 5),
    Exchange("GET", RUN, None, ENDED),
    Exchange("GET", f"{RUN}/steps", None, page(CALLED, WROTE)),
    Exchange("GET", "/v1/threads/thread_1/messages/msg_1", None, MESSAGE),
]
"""A run that was cut off, and what polls say of it later."""

BACKGROUND = [
    streamed("/v1/responses", {"model": "gpt-5", "input": "Hi", "background": True, "stream": True}, replied("It rains"), 5),
    Exchange("GET", "/v1/responses/resp_1", None, response("in_progress")),
    Exchange("GET", "/v1/responses/resp_1?again=1", None, response("completed", output=[message_item("It rains")])),
]

BACKGROUND_CANCELLED = [
    Exchange("POST", "/v1/responses", {"model": "gpt-5", "input": "Hi", "background": True}, response("queued")),
    Exchange("POST", "/v1/responses/resp_1/cancel", None, response("cancelled")),
]

Row = dict[str, Any]


class Case(NamedTuple):
    exchanges: list[Exchange]
    runs: dict[str, tuple[str, str, int | None]]
    steps: list[tuple[str, str, str]]
    calls: list[tuple[str, str | None, str | None]]
    texts: list[str]


CASES = {
    "polled": Case(
        POLLED,
        {"run_0": ("expired", "ended", None), "run_1": ("completed", "ended", 10)},
        [("step_1", "tool_calls", "completed"), ("step_2", "message_creation", "completed")],
        [("call_1", '{"city":"Oslo"}', "rain")],
        ["Rain?", "It rains"],
    ),
    "cancelled": Case(
        CANCELLED, {"run_1": ("cancelled", "ended", None)}, [("step_of_run_1", "message_creation", "cancelled")], [], ["Hel"]
    ),
    "cut": Case(
        CUT,
        {"run_1": ("completed", "ended", 10)},
        [("step_1", "tool_calls", "completed"), ("step_2", "message_creation", "completed")],
        [("call_1", '{"city":"Oslo"}', "rain")],
        ["It rains"],
    ),
    "background": Case(
        BACKGROUND,
        {"resp_1": ("completed", "ended", USAGE["total_tokens"])},
        [("msg_1", "message_creation", "completed")],
        [],
        ["It rains"],
    ),
    "background, cancelled": Case(BACKGROUND_CANCELLED, {"resp_1": ("cancelled", "ended", None)}, [], [], []),
}


def serving(upstream: Upstream, exchanges: Sequence[Exchange]) -> None:
    """Answer these requests in turn: a stream that has no end of its own breaks off."""
    for path in {exchange.path for exchange in exchanges}:
        own = iter([exchange for exchange in exchanges if exchange.path == path])

        def say(wire: Wire, asked: Asked, own: Iterator[Exchange] = own) -> None:
            exchange = next(own)
            if exchange.type == SSE and not exchange.body.endswith(b"[DONE]\n\n"):
                wire.begin([exchange.type])
                wire.chunk(exchange.body)
                wire.cut()
            elif exchange.type == JSON:
                wire.whole(exchange.body, [exchange.type])
            else:
                wire.stream([exchange.body[at : at + 50] for at in range(0, len(exchange.body), 50)], [exchange.type])

        upstream.on(path, say)


def ask(client: httpx.Client, origin: str, exchanges: Sequence[Exchange]) -> None:
    for exchange in exchanges:
        try:
            with client.stream(exchange.method, origin + exchange.target, json=exchange.asks) as answer:
                for _ in answer.iter_raw():
                    pass
        except httpx.RemoteProtocolError:
            assert exchange.type == SSE


def by_proxy(upstream: Upstream, exchanges: Sequence[Exchange], file: Path) -> None:
    with ProxyProcess(upstream.origin, db=file) as proxy, httpx.Client() as client:
        ask(client, f"http://{proxy.host}:{proxy.port}", exchanges)
        assert proxy.stop() == 0


def by_hook(upstream: Upstream, exchanges: Sequence[Exchange], file: Path) -> None:
    with httpx.Client() as client, recorder.record(client, sqlite(file)):
        ask(client, upstream.origin, exchanges)


def by_import(upstream: Upstream, exchanges: Sequence[Exchange], file: Path) -> None:
    folder = file.with_suffix(".files")
    folder.mkdir()
    for number, exchange in enumerate(exchanges):
        ending = {SSE: ".sse", JSON: ".json"}.get(exchange.type, ".events.jsonl")
        (folder / f"{number:02}{ending}").write_bytes(exchange.body)
        request = {"method": exchange.method, "host": "api.example.org", "path": exchange.target, "body": exchange.asks}
        (folder / f"{number:02}.request.json").write_text(json.dumps(request))
    engine = database.connect(sqlite(file))
    import_paths(engine, [str(folder)])
    engine.dispose()


WAYS: dict[str, Callable[[Upstream, Sequence[Exchange], Path], None]] = {"proxy": by_proxy, "hook": by_hook, "import": by_import}

each_way = pytest.mark.parametrize("way", WAYS)


def projected(file: Path) -> sa.Engine:
    engine = database.connect(sqlite(file))
    runner.catch_up(engine)
    assert verify(engine).problems == []
    return engine


@each_way
@pytest.mark.parametrize("name", CASES)
def test_what_is_polled_is_in_the_same_rows_as_what_is_streamed_and_comes_back_byte_for_byte(
    upstream: Upstream, tmp_path: Path, name: str, way: str
) -> None:
    case, file = CASES[name], tmp_path / "x.db"
    serving(upstream, case.exchanges)
    WAYS[way](upstream, case.exchanges, file)
    engine = projected(file)
    with database.read(engine) as connection:
        ran = connection.execute(sa.select(runs)).all()
        stepped = connection.execute(sa.select(run_steps).order_by(run_steps.c.ordinal)).all()
        calls = connection.execute(sa.select(tool_calls)).all()
        wrote = connection.execute(sa.select(messages).order_by(messages.c.created_at, messages.c.message_id)).all()
    assert {row.run_id: (row.status, row.state, row.total_tokens) for row in ran} == case.runs
    assert [(row.step_id, row.type, row.status) for row in stepped] == case.steps
    assert [(row.tool_call_id, row.arguments, row.output) for row in calls] == case.calls
    assert [row.text for row in wrote] == case.texts
    engine.dispose()
    recorded = Recorded(file)
    streams = recorded.streams() if way != "import" else sorted(recorded.streams(), key=lambda stream: stream.source)
    assert [recorded.body(stream.stream_id) for stream in streams] == [exchange.body for exchange in case.exchanges]
    assert [(stream.method, stream.path) for stream in streams] == [
        (exchange.method, exchange.path) for exchange in case.exchanges
    ]
    recorded.engine.dispose()


@pytest.mark.parametrize("name", ["cut", "background"])
def test_a_poll_ends_the_unknown_state_of_a_run_that_was_cut_off(upstream: Upstream, tmp_path: Path, name: str) -> None:
    """While a service goes on polling, through one proxy."""
    first, *polls = CASES[name].exchanges
    id = next(iter(CASES[name].runs))
    file = tmp_path / "x.db"
    serving(upstream, [first, *polls])
    with ProxyProcess(upstream.origin, db=file) as proxy, httpx.Client() as client:
        origin = f"http://{proxy.host}:{proxy.port}"
        ask(client, origin, [first])
        until(lambda: answer("show", id, db=file)["state"] == "unknown")
        assert [row["statuses"] for row in answer("ls", "--status", "unknown", db=file)] == [["unknown"]]
        for poll in polls:
            ask(client, origin, [poll])
        until(lambda: len(answer("show", id, db=file)["streams"]) == len(CASES[name].exchanges))
        shown = answer("show", id, db=file)
        assert (shown["state"], shown["status"]) == ("ended", "completed")
        assert answer("ls", "--status", "unknown", db=file) == []
        assert proxy.stop() == 0


# Other envelopes of the Assistants stream

LINES = ("Content-Type", "application/x-ndjson")


def lines(events: Sequence[Event], newline: str = "\n") -> bytes:
    return "".join(data(payload) + newline for _, payload in wrapped(events)).encode()


ENVELOPES: dict[str, tuple[bytes, bytes, tuple[str, str]]] = {
    "as it is": (encoded(asked()), encoded(answered()), SSE),
    "data only": (
        encoded(wrapped(asked()[:-1])) + b"data: [DONE]\n\n",
        encoded(wrapped(answered()[:-1])) + b"data: [DONE]\n\n",
        SSE,
    ),
    "CRLF": (encoded(asked(), "\r\n"), encoded(answered(), "\r\n"), SSE),
    **{
        f"lines as {type}": (lines(asked()), lines(answered()), ("Content-Type", type))
        for type in ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines; charset=utf-8")
    },
    "lines with CRLF": (lines(asked(), "\r\n"), lines(answered(), "\r\n"), LINES),
    "lines without the last end": (lines(asked())[:-1], lines(answered())[:-1], LINES),
}


THROUGH_A_PROCESS = ("data only", "lines as application/x-ndjson")
"""Of the rest it is enough that the hook and the import, which decode alike, are told."""


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name in ENVELOPES for way in WAYS if way != "proxy" or name in THROUGH_A_PROCESS]
)
def test_each_envelope_is_folded_the_same_and_comes_back_byte_for_byte(
    upstream: Upstream, tmp_path: Path, name: str, way: str
) -> None:
    first, second, type = ENVELOPES[name]
    request = submitting()
    exchanges = [
        Exchange("POST", "/v1/threads/thread_1/runs", {"assistant_id": "asst_1", "stream": True}, first, type),
        Exchange("POST", request.path, request.body, second, type),
    ]
    file = tmp_path / "x.db"
    serving(upstream, exchanges)
    WAYS[way](upstream, exchanges, file)
    engine = projected(file)
    with database.read(engine) as connection:
        (ran,) = connection.execute(sa.select(runs)).mappings().all()
        (called,) = connection.execute(sa.select(tool_calls)).mappings().all()
    assert (ran["status"], ran["state"], ran["protocol"], ran["total_tokens"]) == ("completed", "ended", "assistants", 10)
    assert json.loads(ran["object"]) == dict(answered())["thread.run.completed"]
    assert (called["name"], called["arguments"], called["output"]) == ("weather", '{"city":"Oslo"}', "rain")
    recorded = Recorded(file)
    for stream, body in zip(sorted(recorded.streams(), key=lambda found: found.path), (first, second), strict=True):
        assert recorded.body(stream.stream_id) == body
        assert output("export", stream.stream_id, "--format", "sse", db=file) == body
    recorded.engine.dispose()
    engine.dispose()
