"""What the openai SDK accumulates of a stream, and what recorder folds of it, are the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from recorder.protocols.merge import merge
from recorder.sse import SSEDecoder
from tests import chatting, writing
from tests.conftest import SHARED
from tests.responding import called, replied
from tests.test_responses import LONG, folded
from tests.upstream import Upstream
from tests.writing import Event, contribution, encoded

FOLDER = SHARED / "streams"
NAMES = sorted(path.name for path in FOLDER.glob("responses-*") if not path.name.endswith(".request.json"))

NOT_COMPLETED = {
    "responses-error-event-vercel-ai.events.jsonl": "The SDK has a final response only where it completed",
    "responses-error-quota-mid-stream-langwatch.sse": "The SDK has a final response only where it completed",
    "responses-incomplete-max-output-tokens-agent-framework.sse": "The SDK has a final response only where it completed",
    "responses-background-resume-openai-dotnet.sse": "The SDK demands response.created first, which a resumed stream has not",
    "responses-encrypted-reasoning-vercel-ai.events.jsonl": "Four responses one after the other: the SDK knows one a stream",
    "responses-image-generation-partial-openai-php.sse": "It ends without its last blank line: the SDK drops the final event",
}
"""Streams of which the SDK has no final response, and why."""

CHATS = sorted(path.name for path in FOLDER.glob("chat-*.sse"))

NO_COMPLETION = {
    "chat-audio-output-openai-dotnet.sse": "The SDK demands choices in every chunk, OpenAI leaves them out of some",
    "chat-crlf-perplexity-langchaingo.sse": "The SDK takes no chunk that calls itself a chat.completion",
    "chat-gemini-tool-whole-arguments-magentic.sse": "The SDK demands an index in every tool call, Google sends none",
    "chat-groq-error-event-mid-stream-pydantic-ai.sse": "The SDK raises the error, and what came before it is gone",
    "chat-no-done-writer-openllmetry.sse": "The SDK demands a type in every piece of a tool call, Writer sends null",
    "chat-openrouter-error-in-chunk-pydantic-ai.sse": "The SDK raises the error, and what came before it is gone",
}
"""Streams of which the SDK has no final completion, and why."""

_FIRST_CHUNK_ALONE = "The SDK takes what it does not know from the first chunk (of a choice) alone"
_SKIPPED = "The SDK leaves out chunks whose object is empty, as Azure's first"

DIFFERENCES = {
    "chat-azure-content-filter-emoji-openllmetry.sse": {
        "/choices/0/content_filter_results": _FIRST_CHUNK_ALONE,
        "/prompt_filter_results": _SKIPPED,
    },
    "chat-azure-tool-call-latency-checkpoint-fantasy.sse": {
        "/latency_checkpoint": _FIRST_CHUNK_ALONE,
        "/prompt_filter_results": _SKIPPED,
    },
    "chat-error-field-line-1997events-gpustack-ruby-llm.sse": {
        "/choices/0/message/role": "The server never says it; the API's message has it, so recorder's has"
    },
    "chat-llama-cpp-timings-tool-fantasy.sse": {"/timings": _FIRST_CHUNK_ALONE},
    "chat-mistral-padding-p-dd-trace-py.sse": {
        "/choices/0/message/content": "The SDK lets a text replace the parts before it: the thinking is gone"
    },
    "chat-moderation-pydantic-ai.sse": {"/usage": "The SDK lets a chunk without usage erase it"},
    "chat-openrouter-comments-tool-fantasy.sse": {
        "/choices/0/message/role": "The SDK joins a role that comes again: assistantassistant...",
        "/choices/0/native_finish_reason": _FIRST_CHUNK_ALONE,
    },
}
"""Where the SDK's final completion is another than recorder's, and whose doing that is. OpenAI's own streams: one, the SDK's."""

pytestmark = pytest.mark.usefixtures("upstream")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as found:
        yield found


def final_response(upstream: Upstream, body: bytes) -> dict[str, Any]:
    """What client.responses.stream() ends with, without what the SDK adds."""
    upstream.on("/v1/responses", lambda wire, asked: wire.stream([body]))
    client = openai.OpenAI(api_key="any", base_url=f"{upstream.origin}/v1", max_retries=0)
    with client, client.responses.stream(model="any", input="Hi") as stream:
        dumped: dict[str, Any] = without_parsed(stream.get_final_response().model_dump(mode="json", exclude_unset=True))
    return dumped


def without_parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_parsed(inner) for key, inner in value.items() if key not in ("parsed", "parsed_arguments")}
    return [without_parsed(inner) for inner in value] if isinstance(value, list) else value


def body_of(name: str) -> bytes:
    """The stream of a file; payloads whose framing was removed get one."""
    found = (FOLDER / name).read_bytes()
    if name.endswith(".jsonl"):
        return b"".join(b"data: " + line + b"\n\n" for line in found.splitlines())
    return found


def events_of(body: bytes) -> list[Event]:
    decoder = SSEDecoder()
    return [(frame.type, frame.data) for frame in decoder.feed(body) + decoder.finish() if not frame.type.startswith("$")]


def ours(events: list[Event]) -> list[dict[str, Any]]:
    """The responses that recorder shows of a stream."""
    fold = folded(events)
    views = [merge(key, [contribution(fold, key)]) for key in fold.states() if key]
    return [view.source_object for view in views if view.source_object]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_COMPLETED])
def test_the_final_response_of_each_shared_stream_is_the_sdks(upstream: Upstream, name: str) -> None:
    body = body_of(name)
    assert ours(events_of(body)) == [final_response(upstream, body)]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", list(NOT_COMPLETED))
def test_where_the_sdk_has_none_recorder_has_what_was_said(upstream: Upstream, name: str) -> None:
    body = body_of(name)
    with pytest.raises((RuntimeError, openai.APIError)):
        final_response(upstream, body)
    assert ours(events_of(body))


@pytest.mark.parametrize("events", [replied(), called(), called(call_ids=["a", "b"]), LONG], ids=["text", "one", "two", "all"])
def test_what_is_accumulated_without_output_in_the_end_is_the_same(upstream: Upstream, events: list[Event]) -> None:
    """Some gateways leave the final output out: the SDK then has the items that came, and so have the steps."""
    name, payload = events[-1]
    silent = [*events[:-1], (name, {**payload, "response": {**payload["response"], "output": None}})]
    theirs = final_response(upstream, encoded(silent))
    fold = folded(silent)
    view = merge("resp_1", [contribution(fold, "resp_1")])
    wanted = merge("resp_1", [contribution(folded([*events[:-1], (name, {**payload, "response": theirs})]), "resp_1")])
    assert (view.steps, view.messages) == (wanted.steps, wanted.messages)
    assert view.steps


def final_completion(upstream: Upstream, body: bytes) -> dict[str, Any]:
    """What client.chat.completions.stream() ends with, without what the SDK adds: the index of tool calls is of their chunks."""
    upstream.on("/v1/chat/completions", lambda wire, asked: wire.stream([body]))
    client = openai.OpenAI(api_key="any", base_url=f"{upstream.origin}/v1", max_retries=0)
    with client, client.chat.completions.stream(model="any", messages=[]) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # content that is a list is none of its types
        try:
            found = stream.get_final_completion()
        except openai.LengthFinishReasonError as error:  # that it raises, but has it
            found = error.completion  # type: ignore[assignment]
        dumped: dict[str, Any] = without_parsed(found.model_dump(mode="json", exclude_unset=True))
    for choice in dumped["choices"]:
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index", None)
    return dumped


def our_completion(events: list[Event]) -> dict[str, Any]:
    fold = writing.folded(events, chatting.CHAT, "eof")
    found = merge(chatting.KEY, [contribution(fold, chatting.KEY)]).source_object
    assert found is not None
    return found


def differing(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Where two completions differ; null, nothing and an empty object are the same."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs and ours:
        for key in {*theirs, *ours}:
            yield from differing(theirs.get(key), ours.get(key), f"{path}/{key}")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for at, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differing(one, other, f"{path}/{at}")
    elif theirs != ours and not (theirs in (None, {}) and ours in (None, {})):
        yield path


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", [name for name in CHATS if name not in NO_COMPLETION])
def test_the_final_completion_of_each_shared_stream_is_the_sdks(upstream: Upstream, name: str) -> None:
    body = body_of(name)
    theirs, ours = final_completion(upstream, body), our_completion(events_of(body))
    assert set(differing(theirs, ours)) == set(DIFFERENCES.get(name, {}))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", list(NO_COMPLETION))
def test_where_the_sdk_has_no_completion_recorder_has_what_was_said(upstream: Upstream, name: str) -> None:
    body = body_of(name)
    with pytest.raises((TypeError, AssertionError, openai.APIError)):
        final_completion(upstream, body)
    assert our_completion(events_of(body))["choices"]


@pytest.mark.parametrize(
    "events",
    [chatting.said(usage=chatting.USAGE), chatting.called(), chatting.called(ids=["a", "b"])],
    ids=["text", "one", "two"],
)
def test_what_chunks_add_up_to_is_what_the_sdk_makes_of_them(upstream: Upstream, events: list[Event]) -> None:
    assert list(differing(final_completion(upstream, encoded(events)), our_completion(events))) == []
