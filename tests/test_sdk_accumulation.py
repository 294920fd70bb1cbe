"""What the openai SDK accumulates of a stream, and what recorder folds of it, are the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from recorder.protocols.merge import merge
from recorder.sse import SSEDecoder
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
