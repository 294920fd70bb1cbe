"""Chat streams that the tests write themselves: their chunks, completions that come whole, and the requests that they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recorder.protocols import Request
from tests.writing import BORN, Event

Object = dict[str, Any]

STREAM_ID = "0198"
KEY = f"chat_{STREAM_ID}"

CHAT = Request(
    method="POST",
    host="api.openai.com",
    path="/v1/chat/completions",
    body={"model": "gpt-4.1", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
    stream_id=STREAM_ID,
)

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}

END: Event = ("", "[DONE]")


def asking(**fields: Any) -> Request:
    """The request with these fields in its body."""
    return CHAT._replace(body={**CHAT.body, **fields})


def chunk(*choices: Object, **fields: Any) -> Event:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": BORN, "model": "gpt-4.1"}
    return "", {**head, "choices": list(choices), **fields}


def choice(delta: Object | None = None, finish: str | None = None, index: int = 0, **fields: Any) -> Object:
    return {"index": index, "delta": delta or {}, "finish_reason": finish, **fields}


def saying(*deltas: Object, finish: str | None = "stop", usage: Object | None = None) -> list[Event]:
    """A chunk for each delta of choice 0, the one that ends it, and one with usage where there is any."""
    ended = [chunk(choice({}, finish))] if finish else []
    return [*(chunk(choice(delta)) for delta in deltas), *ended, *([chunk(usage=usage)] if usage else []), END]


def said(text: str = "Hello there", usage: Object | None = None) -> list[Event]:
    """The chunks of a completion that says one text."""
    pieces = ({"content": piece} for piece in (text[:4], text[4:]))
    return saying({"role": "assistant", "content": ""}, *pieces, usage=usage)


def call(
    index: int | None = 0, id: str | None = None, name: str | None = None, arguments: str | None = None, **fields: Any
) -> Object:
    """An entry of tool_calls in a delta: what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry: Object = {} if index is None else {"index": index}
    if id is not None:
        entry |= {"id": id, "type": "function"}
    return {**entry, "function": function, **fields}


def calling(*entries: Sequence[Object] | Object, finish: str | None = "tool_calls") -> list[Event]:
    """The chunks of a completion that calls tools, one chunk for each entry (or list of entries)."""
    given = [[entry] if isinstance(entry, dict) else list(entry) for entry in entries]
    return saying({"role": "assistant", "content": None}, *({"tool_calls": entry} for entry in given), finish=finish)


def called(arguments: str = '{"city":"Oslo"}', ids: Sequence[str] = ("call_1",)) -> list[Event]:
    """The chunks of a completion that calls a function, once for each id, its arguments in two pieces."""
    middle = len(arguments) // 2
    return calling(
        *(
            entry
            for index, id in enumerate(ids)
            for entry in (
                call(index, id, "weather", ""),
                call(index, arguments=arguments[:middle]),
                call(index, arguments=arguments[middle:]),
            )
        )
    )


def tool_call(id: str = "call_1", arguments: str = '{"city":"Oslo"}', name: str = "weather") -> Object:
    """A tool call as a whole message has it."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def history(*turns: tuple[str, Any], then: str | None = None, **fields: Any) -> Request:
    """The request that repeats a conversation: of each turn (call id, output), then perhaps another question."""
    messages: list[Object] = [{"role": "user", "content": "Hi"}]
    for id, output in turns:
        messages.append({"role": "assistant", "content": None, "tool_calls": [tool_call(id)]})
        messages.append({"role": "tool", "tool_call_id": id, "content": output})
    if then is not None:
        messages.append({"role": "user", "content": then})
    return asking(messages=messages, **fields)


def completion(message: Object | None = None, finish: str | None = "stop", **fields: Any) -> Object:
    """A completion that came whole."""
    whole = {"role": "assistant", "content": "Hello there", "refusal": None} if message is None else message
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": BORN,
        "model": "gpt-4.1",
        "choices": [{"index": 0, "message": whole, "logprobs": None, "finish_reason": finish}],
        "usage": USAGE,
        "service_tier": "default",
        **fields,
    }
