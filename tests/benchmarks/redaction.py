"""Redaction: what it costs the writer's thread an event, beside decoding the stream and making rows of it without."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from recorder import log
from recorder.redaction.redactor import Redactor
from recorder.redaction.rules import Rules
from recorder.settings import Settings
from recorder.sse import SSEDecoder
from tests.benchmarks import generated
from tests.benchmarks.bench import Bench, best, rounds
from tests.benchmarks.report import Figure, number

TITLE = "Redaction, on the writer's thread"
CHUNK = 4096

KEY = r"sk-[A-Za-z0-9]{20,}"
WAYS: dict[str, dict[str, Any]] = {
    "a path": {"redact": {"paths": ["$..arguments"]}},
    "a pattern": {"redact": {"patterns": [KEY]}},
    "three patterns and a path": {
        "redact": {"patterns": [KEY, r"\b\d{3}-\d{2}-\d{4}\b", r"\bAKIA[A-Z0-9]{16}\b"], "paths": ["$..arguments"]}
    },
    "no content": {"content": False},
}


def run(bench: Bench) -> list[Figure]:
    rows = generated.session(0, bench.size(2000, 600))
    body = generated.body(rows)
    sides = {"nothing": partial(stored, body, None)} | {
        name: partial(stored, body, Rules.of(Settings(**given))) for name, given in WAYS.items()
    }
    bench.say(f"a stream of {len(rows) - 2:,} events")
    found = best(rounds(sides, bench.size(5, 2)))
    each = {name: seconds / (len(rows) - 2) * 1e6 for name, seconds in found.items()}
    return [
        Figure(f"an event, redacting {name}", each[name] - each["nothing"], "µs", f"beside {number(each['nothing'])} µs without")
        for name in WAYS
    ]


def stored(body: bytes, rules: Rules | None) -> float:
    """Seconds from the bytes of a stream to its rows."""
    began = time.perf_counter()
    decoder, position = SSEDecoder(), 0
    redactor = Redactor(rules) if rules else None
    for at in range(0, len(body), CHUNK):
        frames = decoder.feed(body[at : at + CHUNK], at)
        for frame in redactor.feed(frames) if redactor else frames:
            log.row("", position, frame)
            position += 1
    return time.perf_counter() - began
