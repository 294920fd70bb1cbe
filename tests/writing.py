"""Streams that the tests write themselves: Assistants events, folded at once, as bytes, or appended to a log."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from recorder import database, jsontext, log
from recorder.log import Stream
from recorder.protocols import Request
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.view import Contribution, RunView, Source
from recorder.sse import Frame

BORN = 1_780_000_000  # Unix seconds: 2026-05-28 20:26:40 UTC

Event = tuple[str, Any]
"""(event name, payload): a payload that is no str goes out as its JSON."""

DONE: Event = ("done", "[DONE]")

THREADS = Request(method="POST", host="api.openai.com", path="/v1/threads/thread_1/runs", body={"assistant_id": "asst_1"})


def run(status: str = "queued", id: str = "run_1", **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "object": "thread.run",
        "created_at": BORN,
        "assistant_id": "asst_1",
        "thread_id": "thread_1",
        "status": status,
        "started_at": None,
        "expires_at": BORN + 600,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": "gpt-4o",
        "instructions": None,
        "tools": [],
        "metadata": {},
        "usage": None,
        **fields,
    }


def step(status: str = "in_progress", id: str = "step_1", type: str = "tool_calls", **fields: Any) -> dict[str, Any]:
    details = {"type": type, type: {"message_id": "msg_1"} if type == "message_creation" else []}
    return {
        "id": id,
        "object": "thread.run.step",
        "created_at": BORN + 1,
        "run_id": "run_1",
        "assistant_id": "asst_1",
        "thread_id": "thread_1",
        "type": type,
        "status": status,
        "cancelled_at": None,
        "completed_at": None,
        "expires_at": BORN + 600,
        "failed_at": None,
        "last_error": None,
        "step_details": details,
        "usage": None,
        **fields,
    }


def message(status: str = "in_progress", id: str = "msg_1", content: Sequence[Any] = (), **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "object": "thread.message",
        "created_at": BORN + 2,
        "assistant_id": "asst_1",
        "thread_id": "thread_1",
        "run_id": "run_1",
        "status": status,
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": None,
        "role": "assistant",
        "content": list(content),
        "metadata": {},
        **fields,
    }


def tokens(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    """A usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}


def text(value: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": {"value": value, "annotations": list(annotations)}}


def step_delta(*calls: dict[str, Any], id: str = "step_1", type: str = "tool_calls") -> Event:
    details = {"type": type, "tool_calls": list(calls)}
    return "thread.run.step.delta", {"id": id, "object": "thread.run.step.delta", "delta": {"step_details": details}}


def message_delta(*parts: dict[str, Any], id: str = "msg_1") -> Event:
    return "thread.message.delta", {"id": id, "object": "thread.message.delta", "delta": {"content": list(parts)}}


def text_delta(value: str, index: int = 0, id: str = "msg_1") -> Event:
    return message_delta({"index": index, "type": "text", "text": {"value": value}}, id=id)


def said(text_value: str = "Hello there", id: str = "run_1", usage: dict[str, Any] | None = None, **fields: Any) -> list[Event]:
    """The events of a whole run that says one text; its step and message are named after it, fields are of the run."""
    own = {"run_id": id}
    step_id, message_id = f"step_of_{id}", f"msg_of_{id}"
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    return [
        ("thread.run.created", run("queued", id, **fields)),
        ("thread.run.in_progress", run("in_progress", id, **fields)),
        ("thread.run.step.created", step(id=step_id, type="message_creation", step_details=details, **own)),
        ("thread.message.created", message(id=message_id, **own)),
        *(text_delta(piece, id=message_id) for piece in (text_value[:3], text_value[3:])),
        ("thread.message.completed", message("completed", message_id, [text(text_value)], **own)),
        ("thread.run.step.completed", step("completed", step_id, "message_creation", step_details=details, usage=usage, **own)),
        ("thread.run.completed", run("completed", id, usage=usage, completed_at=BORN + 9, **fields)),
        DONE,
    ]


def asked(id: str = "run_1", step_id: str = "step_1", arguments: str = '{"city":"Oslo"}', **fields: Any) -> list[Event]:
    """The events of a run up to where it waits for the output of one function call, call_1."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [call]}}
    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "", "output": None}}
    return [
        ("thread.run.created", run("queued", id, **fields)),
        ("thread.run.in_progress", run("in_progress", id, **fields)),
        ("thread.run.step.created", step(id=step_id, run_id=id)),
        step_delta(start, id=step_id),
        step_delta({"index": 0, "type": "function", "function": {"arguments": arguments}}, id=step_id),
        ("thread.run.requires_action", run("requires_action", id, required_action=action, **fields)),
        DONE,
    ]


def answered(id: str = "run_1", step_id: str = "step_1", arguments: str = '{"city":"Oslo"}', **fields: Any) -> list[Event]:
    """How the run of asked() goes on in the stream that answers submit_tool_outputs."""
    function = {"name": "weather", "arguments": arguments, "output": "rain"}
    call = {"id": "call_1", "type": "function", "function": function}
    details = {"type": "tool_calls", "tool_calls": [call]}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return [
        ("thread.run.step.completed", step("completed", step_id, run_id=id, step_details=details)),
        ("thread.run.queued", run("queued", id, **fields)),
        ("thread.run.in_progress", run("in_progress", id, **fields)),
        ("thread.run.completed", run("completed", id, usage=usage, completed_at=BORN + 20, **fields)),
        DONE,
    ]


def submitting(output: Any = "rain", run_id: str = "run_1", thread_id: str = "thread_1") -> Request:
    """The request that submits call_1's output."""
    body = {"tool_outputs": [{"tool_call_id": "call_1", "output": output}], "stream": True}
    return Request(method="POST", path=f"/v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs", body=body)


def data(payload: Any) -> str:
    return payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"))


def encoded(events: Iterable[Event], newline: str = "\n") -> bytes:
    """The bytes of a stream with these events."""
    return "".join(
        (f"event: {name}{newline}" if name else "") + f"data: {data(payload)}{newline}{newline}" for name, payload in events
    ).encode()


def folded(events: Iterable[Event], request: Request = THREADS, outcome: str | None = "done") -> StreamFold:
    """The fold of a stream with these events, 1 ms apart; outcome None leaves the stream open."""
    fold = StreamFold(request)
    position = -1
    for position, (name, payload) in enumerate(events):
        fold.feed(position, position * 1000, name, data(payload))
    if outcome is not None:
        fold.feed(position + 1, position * 1000, "$end", json.dumps({"outcome": outcome}))
    return fold


def contribution(fold: StreamFold, key: str = "run_1", number: int = 0, started: float = 0, recorded: float = 0) -> Contribution:
    """What a fold says about a run, as the stream of this number, which began and was recorded so many seconds after BORN."""
    at = datetime.fromtimestamp(BORN, UTC)
    source = Source(
        stream_id(number),
        (at + timedelta(seconds=started)).isoformat(),
        (at + timedelta(seconds=recorded)).isoformat(),
        None,
        fold.protocol,
        fold.thread_id,
        fold.outcome,
        fold.events,
        fold.previous,
        fold.root,
    )
    return Contribution(source, jsontext.loads(jsontext.dumps(fold.states()[key])))


def viewed(events: Iterable[Event], key: str = "run_1", request: Request = THREADS, outcome: str | None = "done") -> RunView:
    """The view of a run that only one stream speaks of."""
    return merge(key, [contribution(folded(events, request, outcome), key)])


def kinds(view: RunView) -> list[str]:
    """The kinds of a view's anomalies, in order."""
    return [kind for _, _, kind, _ in view.anomalies]


def stream_id(number: int) -> str:
    """A UUIDv7 of its own for each number; they sort as the numbers do."""
    return str(uuid.UUID(int=(BORN * 1000 + number) << 80 | 7 << 76 | 0b10 << 62 | number))


def stream(number: int = 0, request: Request = THREADS, started: float | None = None, label: str | None = None) -> Stream:
    """A row of `streams`; it began `started` seconds after BORN, by default as many as its number."""
    at = datetime.fromtimestamp(BORN, UTC) + timedelta(seconds=number if started is None else started)
    return Stream(
        stream_id(number),
        method=request.method,
        host=request.host,
        path=request.path,
        query=request.query,
        request_body=None if request.body is None else jsontext.dumps(request.body).encode(),
        session_label=label,
        source="test",
        started_at=at,
        recorded_at=at,
    )


def frames(events: Iterable[Event], outcome: str | None = "done") -> list[Frame]:
    """The frames of a stream with these events, 1 ms apart, with its `$end` unless the outcome is None."""
    found = [Frame(name, data(payload), None, number * 1000) for number, (name, payload) in enumerate(events)]
    return found if outcome is None else [*found, log.system_frame("$end", {"outcome": outcome}, len(found) * 1000)]


def write(engine: sa.Engine, new: Stream, body: Iterable[Frame], first: int = 0) -> None:
    """Append frames to a stream, the first of them at this position."""
    rows = [log.row(new.stream_id, position, frame) for position, frame in enumerate(body, first)]
    with database.write(engine) as connection:
        log.insert_streams(connection, [new])
        if rows:
            log.append(connection, {new.stream_id: rows})


def on(thread: str, label: str | None = None, number: int = 0, started: float | None = None) -> Stream:
    """A stream that begins a run in this thread."""
    request = Request(method="POST", host="api.openai.com", path=f"/v1/threads/{thread}/runs", body={"assistant_id": "asst_1"})
    return stream(number, request, started, label)


def write_failures(engine: sa.Engine) -> None:
    """Nine streams in three threads: runs that failed, one that did not, one cut off, and two streams that speak of no run."""
    error = {"code": "rate_limit_exceeded", "message": "too fast"}
    begun = asked(id="run_failed", step_id="step_f", thread_id="thread_1")[:5]
    given = [
        [*begun, ("thread.run.failed", run("failed", "run_failed", last_error=error, failed_at=BORN + 3)), DONE],
        [("thread.run.expired", run("expired", "run_expired", created_at=BORN + 1, model="o3")), DONE],
        [
            (
                "thread.run.incomplete",
                run("incomplete", "run_incomplete", created_at=BORN + 2, incomplete_details={"reason": "max_tokens"}),
            ),
            DONE,
        ],
        said(id="run_fine", created_at=BORN + 3),
        [("thread.run.cancelled", run("cancelled", "run_cancelled", created_at=BORN + 4)), DONE],
    ]
    for number, body in enumerate(given):
        write(engine, on("thread_1", number=number), frames(body))
    broken = [
        ("thread.run.created", run("in_progress", "run_broken", created_at=BORN + 5)),
        ("error", {"error": {"code": "server_error", "message": "sorry"}}),
    ]
    write(engine, on("thread_2", number=5), frames(broken, "error"))
    cut = [("thread.run.created", run("in_progress", "run_cut", created_at=BORN + 6))]
    write(engine, on("thread_2", number=6), frames(cut, "cut"))
    refused = [
        log.system_frame("$response", {"status": 429, "headers": [["content-type", "application/json"]]}, 0),
        Frame("$body", '{"error": {"code": "insufficient_quota", "message": "pay"}}', None, 1),
        log.system_frame("$end", {"outcome": "http_error"}, 2),
    ]
    write(engine, on("thread_3", number=7), refused)
    write(engine, on("thread_3", number=8), [log.system_frame("$end", {"outcome": "no_response"}, 0)])
