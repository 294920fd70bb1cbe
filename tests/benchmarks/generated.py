"""Generated sessions: Assistants streams in the shape and size of real ones, as rows of the log and as bytes of the wire.

A session is a run with a code interpreter step and a message, streamed in deltas whose fragments are recorder's own source;
they add up to the final snapshots. Four runs share a thread, and one begins each second, or so many as are asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import recorder.sse
from recorder import database, jsontext, log
from recorder.log import Row, Stream

SIZE = 200
"""Rows of a session: events, and the `$response` and `$end` around them."""

BATCH = 2000
"""Rows that fill() appends in one transaction."""

_FRAGMENT = 56  # characters of text in a delta
_EPOCH = 1_760_000_000  # Unix seconds: when the first session began
_RUN, _THREAD, _CREATED, _ENDED = "Bq7ZkT0vXw1c000000000000", "Hy3Tq0WmEo5u000000000000", "1111111111", "1999999999"
_ASSISTANT = "asst_4UdR0pXcZq8LfYs1NnBvKe2A"
_GAP_US = 20_000

Object = dict[str, Any]


def session(number: int, size: int = SIZE, a_second: int = 1) -> list[Row]:
    """The rows of a session; another number is another run in another stream. a_second: runs that begin in a second."""
    stream_id = stream_id_of(number)
    run, thread = f"Bq7ZkT0vXw1c{number:012d}", _thread(number)
    created, ended = str(_EPOCH + number // a_second), str(_EPOCH + number // a_second + 9)
    return [
        (
            stream_id,
            position,
            position * _GAP_US + 137 * position % 1000,
            type,
            data.replace(_RUN, run)
            if short
            else data.replace(_RUN, run).replace(_THREAD, thread).replace(_CREATED, created).replace(_ENDED, ended),
            None,
            None,
        )
        for position, (type, data, short) in enumerate(_template(size))
    ]


def stream(number: int) -> Stream:
    """The stream of a session."""
    began = datetime.fromtimestamp(_EPOCH + number, UTC)
    body = {"assistant_id": _ASSISTANT, "stream": True, "additional_messages": [{"role": "user", "content": _text()[:200]}]}
    return Stream(
        stream_id=stream_id_of(number),
        method="POST",
        host="api.openai.com",
        path=f"/v1/threads/thread_{_thread(number)}/runs",
        request_headers=(("content-type", "application/json"), ("user-agent", "OpenAI/Python 3.54.0")),
        request_body=jsontext.dumps(body).encode(),
        source="proxy",
        started_at=began,
        recorded_at=began,
    )


def stream_id_of(number: int) -> str:
    """A UUIDv7 of the session's time."""
    return str(uuid.UUID(int=(_EPOCH + number) * 1000 << 80 | 7 << 76 | 0b10 << 62 | number * 0x9E3779B97F4A7C15 % 2**62))


def body(rows: Iterable[Row]) -> bytes:
    """The bytes on the wire."""
    return b"".join(recorder.sse.encode(row[3], row[4] or "") for row in rows)


def batches(rows: list[Row], size: int) -> list[dict[str, list[Row]]]:
    """Rows as append takes them, `size` at a time."""
    found = []
    for at in range(0, len(rows), size):
        batch: dict[str, list[Row]] = {}
        for row in rows[at : at + size]:
            batch.setdefault(row[0], []).append(row)
        found.append(batch)
    return found


def sessions(count: int, first: int = 0) -> list[Row]:
    """The rows of so many sessions, one session after the other."""
    return [row for number in range(first, first + count) for row in session(number)]


def fill(engine: sa.Engine, events: int, size: int = SIZE, a_second: int = 1) -> None:
    """Append sessions of `size` rows until the log holds so many events."""
    for numbers in _slices(range(events // size), max(1, BATCH // size)):
        held = [(stream(number), session(number, size, a_second)) for number in numbers]
        with database.write(engine) as connection:
            log.insert_streams(connection, [stream for stream, _ in held])
            log.append(connection, {stream.stream_id: rows for stream, rows in held})


def mean_size(rows: Iterable[Row]) -> float:
    """Bytes of data in an event."""
    sizes = [len(row[4] or "") for row in rows]
    return sum(sizes) / len(sizes)


def _slices(numbers: range, size: int) -> Iterator[range]:
    for at in range(0, len(numbers), size):
        yield numbers[at : at + size]


def _thread(number: int) -> str:
    return f"Hy3Tq0WmEo5u{number // 4:012d}"


@cache
def _text() -> str:
    folder = Path(recorder.sse.__file__).parent
    return " ".join(word for name in ("log.py", "sse.py", "errors.py") for word in (folder / name).read_text().split())


@cache
def _template(size: int) -> list[tuple[str, str, bool]]:
    """(type, data, whether the run's id is all that differs between sessions) of each row."""
    events: list[tuple[str, Any]] = [
        ("$response", {"status": 200, "headers": [["content-type", "text/event-stream; charset=utf-8"]]})
    ]
    events += [(f"thread.run.{status}", _run(status)) for status in ("created", "queued", "in_progress")]
    deltas = size - 16
    code, said = _fragments(deltas // 4), _fragments(deltas - deltas // 4, 1000)
    call = {"index": 0, "id": f"call_{_RUN}", "type": "code_interpreter"}
    events += [(f"thread.run.step.{status}", _step("a", "in_progress", _calls([]))) for status in ("created", "in_progress")]
    for fragment in code:
        delta = {"step_details": _calls([{**call, "code_interpreter": {"input": fragment}}])}
        events.append(("thread.run.step.delta", {"id": f"step_a{_RUN}", "object": "thread.run.step.delta", "delta": delta}))
    done = {**call, "code_interpreter": {"input": "".join(code), "outputs": []}}
    events.append(("thread.run.step.completed", _step("a", "completed", _calls([done]))))
    making = {"type": "message_creation", "message_creation": {"message_id": f"msg_{_RUN}"}}
    events += [(f"thread.run.step.{status}", _step("b", "in_progress", making)) for status in ("created", "in_progress")]
    events += [(f"thread.message.{status}", _message("in_progress", [])) for status in ("created", "in_progress")]
    for fragment in said:
        content = [{"index": 0, "type": "text", "text": {"value": fragment, "annotations": []}}]
        events.append(
            ("thread.message.delta", {"id": f"msg_{_RUN}", "object": "thread.message.delta", "delta": {"content": content}})
        )
    whole = [{"type": "text", "text": {"value": "".join(said), "annotations": []}}]
    events.append(("thread.message.completed", _message("completed", whole)))
    events.append(("thread.run.step.completed", _step("b", "completed", making)))
    events.append(("thread.run.completed", _run("completed")))
    events.append(("done", "[DONE]"))
    events.append(("$end", {"outcome": "done", "closed": "eof"}))
    made = [(type, data if isinstance(data, str) else jsontext.dumps(data)) for type, data in events]
    return [(type, data, _THREAD not in data and _CREATED not in data) for type, data in made]


def _fragments(count: int, start: int = 0) -> list[str]:
    text = _text()
    room = len(text) - _FRAGMENT
    return [text[at : at + _FRAGMENT] for at in ((start + number * _FRAGMENT) % room for number in range(count))]


def _run(status: str) -> Object:
    usage = {
        "prompt_tokens": 1234,
        "completion_tokens": 567,
        "total_tokens": 1801,
        "prompt_token_details": {"cached_tokens": 1024},
    }
    return {
        "id": f"run_{_RUN}",
        "object": "thread.run",
        "created_at": int(_CREATED),
        "assistant_id": _ASSISTANT,
        "thread_id": f"thread_{_THREAD}",
        "status": "queued" if status == "created" else status,
        "started_at": None if status in ("created", "queued") else int(_CREATED),
        "expires_at": int(_ENDED),
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": int(_ENDED) if status == "completed" else None,
        "required_action": None,
        "last_error": None,
        "model": "gpt-4o",
        "instructions": "You answer questions about this project and run code where that helps.",
        "tools": [{"type": "code_interpreter"}],
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_tokens": None,
        "max_prompt_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "incomplete_details": None,
        "usage": usage if status == "completed" else None,
        "response_format": "auto",
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def _step(letter: str, status: str, details: Object) -> Object:
    return {
        "id": f"step_{letter}{_RUN}",
        "object": "thread.run.step",
        "created_at": int(_CREATED),
        "run_id": f"run_{_RUN}",
        "assistant_id": _ASSISTANT,
        "thread_id": f"thread_{_THREAD}",
        "type": details["type"],
        "status": status,
        "cancelled_at": None,
        "completed_at": int(_ENDED) if status == "completed" else None,
        "expires_at": int(_ENDED),
        "failed_at": None,
        "last_error": None,
        "step_details": details,
        "usage": None,
    }


def _calls(calls: list[Object]) -> Object:
    return {"type": "tool_calls", "tool_calls": calls}


def _message(status: str, content: list[Object]) -> Object:
    return {
        "id": f"msg_{_RUN}",
        "object": "thread.message",
        "created_at": int(_CREATED),
        "assistant_id": _ASSISTANT,
        "thread_id": f"thread_{_THREAD}",
        "run_id": f"run_{_RUN}",
        "status": status,
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": int(_ENDED) if status == "completed" else None,
        "role": "assistant",
        "content": content,
        "attachments": [],
        "metadata": {},
    }
