"""Responses streams that the tests write themselves: their events, and the requests that they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recorder.protocols import Request
from tests.writing import BORN, Event

RESPONSES = Request(method="POST", host="api.openai.com", path="/v1/responses", body={"model": "gpt-5", "input": "Hi"})

USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 12,
}

Object = dict[str, Any]


def response(status: str = "in_progress", id: str = "resp_1", output: Sequence[Object] = (), **fields: Any) -> Object:
    return {
        "id": id,
        "object": "response",
        "created_at": BORN,
        "status": status,
        "background": False,
        "completed_at": BORN + 9 if status == "completed" else None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-5",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE if status in ("completed", "incomplete") else None,
        "metadata": {},
        **fields,
    }


def text_part(text: str = "", *annotations: Object) -> Object:
    return {"type": "output_text", "annotations": list(annotations), "logprobs": [], "text": text}


def message_item(text: str | None = None, id: str = "msg_1", status: str | None = None) -> Object:
    """A message item: as it is added, or with its text."""
    content = [] if text is None else [text_part(text)]
    return {
        "id": id,
        "type": "message",
        "status": status or ("in_progress" if text is None else "completed"),
        "content": content,
        "role": "assistant",
    }


def call_item(arguments: str = "", call_id: str = "call_1", id: str = "fc_1", status: str = "completed") -> Object:
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "arguments": arguments,
        "call_id": call_id,
        "name": "weather",
    }


def numbered(events: Sequence[Event], first: int = 0) -> list[Event]:
    """These events with their sequence numbers."""
    return [(name, {**payload, "sequence_number": number}) for number, (name, payload) in enumerate(events, first)]


def typed(*payloads: Object) -> list[Event]:
    """Events of payloads that name their type."""
    return [(payload["type"], payload) for payload in payloads]


def whole(name: str, object: Object) -> Object:
    return {"type": f"response.{name}", "response": object}


def message_events(text: str, index: int = 0, id: str = "msg_1", pieces: int = 3) -> list[Event]:
    """The events of a message item, its text in so many pieces."""
    at = {"item_id": id, "output_index": index, "content_index": 0}
    size = max(1, -(-len(text) // pieces))
    fragments = [text[start : start + size] for start in range(0, len(text), size)]
    return typed(
        {"type": "response.output_item.added", "output_index": index, "item": message_item(id=id)},
        {"type": "response.content_part.added", **at, "part": text_part()},
        *({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []} for piece in fragments),
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": text_part(text)},
        {"type": "response.output_item.done", "output_index": index, "item": message_item(text, id)},
    )


def call_events(arguments: str, index: int = 0, call_id: str = "call_1", id: str = "fc_1") -> list[Event]:
    """The events of a function call, its arguments in two pieces."""
    at = {"item_id": id, "output_index": index}
    middle = len(arguments) // 2
    return typed(
        {"type": "response.output_item.added", "output_index": index, "item": call_item("", call_id, id, "in_progress")},
        *(
            {"type": "response.function_call_arguments.delta", **at, "delta": piece}
            for piece in (arguments[:middle], arguments[middle:])
        ),
        {"type": "response.function_call_arguments.done", **at, "arguments": arguments},
        {"type": "response.output_item.done", "output_index": index, "item": call_item(arguments, call_id, id)},
    )


def replied(text: str = "Hello there", id: str = "resp_1", **fields: Any) -> list[Event]:
    """The events of a response that says one text."""
    return numbered(
        [
            *typed(whole("created", response(id=id, **fields)), whole("in_progress", response(id=id, **fields))),
            *message_events(text, id=f"msg_of_{id}"),
            *typed(whole("completed", response("completed", id, [message_item(text, f"msg_of_{id}")], **fields))),
        ]
    )


def called(
    arguments: str = '{"city":"Oslo"}', id: str = "resp_1", call_ids: Sequence[str] = ("call_1",), **fields: Any
) -> list[Event]:
    """The events of a response that calls a function, once for each call id."""
    items = [call_item(arguments, call_id, f"fc_{call_id}") for call_id in call_ids]
    return numbered(
        [
            *typed(whole("created", response(id=id, **fields)), whole("in_progress", response(id=id, **fields))),
            *(
                event
                for index, call_id in enumerate(call_ids)
                for event in call_events(arguments, index, call_id, f"fc_{call_id}")
            ),
            *typed(whole("completed", response("completed", id, items, **fields))),
        ]
    )


def answering(output: Any = "rain", previous: str | None = "resp_1", call_id: str = "call_1", **fields: Any) -> Request:
    """The request that gives a call's output, and follows the response that made it."""
    given = [{"type": "function_call_output", "call_id": call_id, "output": output}]
    body = {"model": "gpt-5", "input": given, "stream": True, **fields}
    return RESPONSES._replace(body=body if previous is None else {**body, "previous_response_id": previous})


def getting(id: str = "resp_1", after: int | None = None) -> Request:
    """The request that gets a response, or its stream from after a sequence number on."""
    query = "" if after is None else f"stream=true&starting_after={after}"
    return Request(method="GET", host="api.openai.com", path=f"/v1/responses/{id}", query=query)
