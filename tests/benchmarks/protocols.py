"""Folding by protocol: events a second, and whether an event of a long stream costs what one of a short stream does.

Every protocol gets one response that streams one text. Time is that of the fold alone, beside that of the Assistants stream
in the same run; memory is what the fold holds when all has come and nothing has ended.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

from recorder import jsontext
from recorder.protocols import PROTOCOLS, Request
from recorder.protocols.fold import StreamFold
from tests.benchmarks.bench import Bench, best, rounds
from tests.benchmarks.report import RATIO, Figure, at_most, number
from tests.chatting import CHAT, choice, chunk
from tests.responding import RESPONSES, message_events, response, typed, whole
from tests.writing import THREADS, message, text_delta
from tests.writing import run as a_run

TITLE = "Folding, by protocol"
SHORT, LONG = 20_000, 200_000

Rows = list[tuple[int, int, str, str]]


def assistants(count: int) -> tuple[Request, list[tuple[str, Any]]]:
    """The request and events of a stream with so many deltas, which does not end."""
    begin = [("thread.run.created", a_run()), ("thread.message.created", message())]
    return THREADS, [*begin, *(text_delta(f"word {at} ") for at in range(count))]


def responses(count: int) -> tuple[Request, list[tuple[str, Any]]]:
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    begin = [*typed(whole("created", response())), *message_events("")[:2]]
    deltas = ({**delta, "delta": f"word {at} ", "sequence_number": at + 3, "obfuscation": "aZ3kQ9"} for at in range(count))
    return RESPONSES, [*begin, *((delta["type"], payload) for payload in deltas)]


def chat(count: int) -> tuple[Request, list[tuple[str, Any]]]:
    return CHAT, [chunk(choice({"content": f"word {at} "}), usage=None, obfuscation="aZ3kQ9") for at in range(count)]


STREAMS: dict[str, Callable[[int], tuple[Request, list[tuple[str, Any]]]]] = {
    "assistants": assistants,
    "responses": responses,
    "chat": chat,
}


def run(bench: Bench) -> list[Figure]:
    missing = {protocol.NAME for protocol in PROTOCOLS} - set(STREAMS)
    if missing:
        raise RuntimeError(f"no stream is generated for {', '.join(sorted(missing))}")
    short, long = bench.size(SHORT, SHORT // 10), bench.size(LONG, LONG // 10)
    bench.say(f"{len(STREAMS)} protocols, streams of {short:,} and {long:,} events")
    held = {(name, size): rows(name, size) for name in STREAMS for size in (short, long)}
    sides = {f"{name} {size}": partial(folding, *found) for (name, size), found in held.items()}
    took = best(rounds(sides, bench.size(5, 3)))
    rate = {name: long / took[f"{name} {long}"] for name in STREAMS}
    figures = []
    for name in STREAMS:
        each = [took[f"{name} {size}"] / size * 1e6 for size in (short, long)]
        bytes_held = [holding(*held[name, size]) / size for size in (short, long)]
        figures += [
            Figure(
                f"{name}: events folded / of the assistants stream",
                rate[name] / rate["assistants"],
                RATIO,
                f"{number(rate[name])}/s against {number(rate['assistants'])}/s",
            ),
            Figure(
                f"{name}: an event of {long:,} / an event of {short:,}",
                each[1] / each[0],
                RATIO,
                f"{number(each[1])} µs against {number(each[0])} µs",
                at_most(1.2),
            ),
            Figure(
                f"{name}: memory for an event of {long:,} / of {short:,}",
                bytes_held[1] / bytes_held[0],
                RATIO,
                f"{number(bytes_held[1])} bytes against {number(bytes_held[0])}",
                at_most(1.2),
            ),
        ]
    return figures


def rows(name: str, count: int) -> tuple[Request, Rows]:
    request, events = STREAMS[name](count)
    made = [(at, at, type, jsontext.dumps(payload)) for at, (type, payload) in enumerate(events)]
    return request, made


def folding(request: Request, given: Rows) -> float:
    """Seconds to fold a stream and to give its states."""
    fold = StreamFold(request)
    began = time.perf_counter()
    fold.feed_all(given)
    fold.states()
    return time.perf_counter() - began


def holding(request: Request, given: Rows) -> int:
    """Bytes that a fold holds after a stream."""
    fold = StreamFold(request)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fold.feed_all(given)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
