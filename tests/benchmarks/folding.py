"""Folding a stream from its bytes: the openai SDK's own parser and event handler beside recorder's decoder and fold.

The SDK validates each payload as one of its union of event types, and each snapshot anew with every delta. Both sides get
the same bytes and end with the same run, steps and messages.
"""

from __future__ import annotations

import time
from functools import partial

from recorder.projections.folds import request_of
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.view import Contribution, Source
from recorder.sse import SSEDecoder
from tests.benchmarks import generated
from tests.benchmarks.bench import Bench, best, rounds
from tests.benchmarks.report import RATIO, Figure, per_second

TITLE = "Folding a stream, beside the openai SDK"
CHUNK = 4096


def run(bench: Bench) -> list[Figure]:
    import openai

    figures = []
    for size, repeated in ((generated.SIZE, bench.size(10, 3)), (bench.size(2000, 600), 1)):
        rows = generated.session(0, size)
        body = generated.body(rows)
        count = (size - 2) * repeated
        bench.say(f"a stream of {size - 2:,} events, {repeated} times")
        same_text(body)
        sides = {
            "recorder": partial(repeat, repeated * 5, partial(ours, body)),
            "parsed": partial(repeat, repeated, partial(parsed, body)),
            "handled": partial(repeat, repeated, partial(handled, body)),
        }
        found = best(rounds(sides, bench.size(3, 2)))
        mine = found["recorder"] / 5
        rate = per_second(count, mine)
        figures += [
            Figure(
                f"{size - 2:,} events: decode and fold / openai {openai.__version__} parsing and accumulating",
                found["handled"] / mine,
                RATIO,
                f"{rate} against {per_second(count, found['handled'])}",
            ),
            Figure(
                f"{size - 2:,} events: decode and fold / openai {openai.__version__} parsing alone",
                found["parsed"] / mine,
                RATIO,
                f"{rate} against {per_second(count, found['parsed'])}",
            ),
        ]
    return figures


def repeat(times: int, call: partial[str]) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def ours(body: bytes) -> str:
    """The text of the message, by recorder."""
    fold, decoder, position = StreamFold(request_of(generated.stream(0))), SSEDecoder(), 0
    for at in range(0, len(body), CHUNK):
        for frame in decoder.feed(body[at : at + CHUNK]):
            fold.feed(position, 0, frame.type, frame.data)
            position += 1
    states = fold.states()
    key = next(key for key in states if key.startswith("run_"))
    view = merge(key, [Contribution(Source("", "", "", None, "assistants", None, None, 0), states[key])])
    text: str = view.messages[0].object["content"][0]["text"]["value"]
    return text


def parsed(body: bytes) -> str:
    """The same, by the SDK's stream alone: its last message event."""
    text = ""
    for event in _stream(body):
        if event.event == "thread.message.completed" and event.data.content[0].type == "text":
            text = event.data.content[0].text.value
    return text


def handled(body: bytes) -> str:
    """The same, by the SDK's event handler, which accumulates runs, steps and messages as recorder does."""
    from openai import AssistantEventHandler

    handler = AssistantEventHandler()
    handler._init(_stream(body))
    handler.until_done()
    content = handler.get_final_messages()[0].content[0]
    return content.text.value if content.type == "text" else ""


def same_text(body: bytes) -> None:
    if not ours(body) == parsed(body) == handled(body):
        raise RuntimeError("the sides did not fold the stream to the same message")


def _stream(body: bytes):  # type: ignore[no-untyped-def]
    """The SDK's stream over a response that has come."""
    import httpx2
    from openai import OpenAI, Stream
    from openai.types.beta import AssistantStreamEvent

    chunks = (body[at : at + CHUNK] for at in range(0, len(body), CHUNK))
    response = httpx2.Response(200, content=chunks, request=httpx2.Request("POST", "https://api.openai.com/v1/threads/runs"))
    return Stream[AssistantStreamEvent](cast_to=AssistantStreamEvent, response=response, client=OpenAI(api_key="none"))  # type: ignore[arg-type]
