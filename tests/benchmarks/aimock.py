"""`recorder serve` beside aimock (npm: @copilotkit/aimock): each records the same exchange from the same upstream and replays it.

The exchange is a chat completion of deltas with pauses between them, some of them cut inside a character, as a client on a
bare socket sees it. What each gives back is held against what the upstream sent: its text, its bytes, its chunks, and when they
come. Then a long one without pauses, as fast as each can.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import peers
from tests.benchmarks.bench import Bench, median, quantile, remove
from tests.benchmarks.proxying import drained, process, recorder_proxy
from tests.benchmarks.report import RATIO, Figure, at_least, number
from tests.benchmarks.serving import serve
from tests.downstream import Downstream
from tests.upstream import Asked, Upstream, Wire

TITLE = "Replaying an exchange, beside aimock"
PATH = "/v1/chat/completions"
JSON = [("Content-Type", "application/json"), ("Authorization", "Bearer none")]
WORDS = (
    "Die",
    "Grüße",
    "aus",
    "Tromsø",
    "kamen",
    "spät",
    "an",
    "es",
    "ist",
    "kalt",
    "札幌",
    "auch",
    "und",
    "der",
    "Zug",
    "Røros",
)

_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_AT_ONCE = "1000000"


class Received(NamedTuple):
    """What a client got. times: of each chunk, in seconds since the request."""

    chunks: list[bytes]
    times: list[float]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def events(self) -> list[bytes]:
        return self.body.split(b"\n\n")

    @property
    def text(self) -> str:
        said = (json.loads(event[6:]) for event in self.events if event.startswith(b"data: {"))
        return "".join(each["choices"][0]["delta"].get("content") or "" for each in said)

    def arrivals(self) -> list[float]:
        """When each event was complete, since the first was."""
        found: list[float] = []
        held = b""
        for chunk, at in zip(self.chunks, self.times, strict=True):
            *whole, held = (held + chunk).split(b"\n\n")
            found += [at] * len(whole)
        return [at - found[0] for at in found]


def run(bench: Bench) -> list[Figure]:
    node, folder = peers.aimock()
    deltas, long = bench.size(240, 80), bench.size(20_000, 4_000)
    sent = exchange(deltas, pauses=True)
    fast = exchange(long, pauses=False)

    def answer(wire: Wire, asked: Asked) -> None:
        pieces = fast if b"the long one" in asked.body else sent
        wire.begin()
        for pause, chunk in pieces:
            time.sleep(pause)
            wire.chunk(chunk)
        wire.end()

    path, fixtures = bench.fresh(), bench.fresh("")
    fixtures.mkdir()
    with Upstream(answer) as upstream:
        bench.say(f"recording an exchange of {deltas} deltas, and one of {long:,}")
        with recorder_proxy(path, upstream.port) as port:
            original = received(port, "the paced one")
            received(port, "the long one")
        drained(path)
        with aimock(node, folder, fixtures, "--record", "--provider-openai", upstream.origin) as port:
            received(port, "the paced one")
            received(port, "the long one")
    bench.say("replaying both")
    with serve(path) as port:
        ours = received(port, "the paced one")
    with serve(path, "--instant") as port:
        ours_seconds = received(port, "the long one").times[-1]
    with aimock(node, folder, fixtures, "--strict") as port:
        theirs = received(port, "the paced one")
    with aimock(node, folder, fixtures, "--strict", "--replay-speed", _AT_ONCE) as port:
        theirs_long = received(port, "the long one")
    remove(path)
    late, their_late = gap_errors(original, ours), gap_errors(original, theirs)
    version = json.loads((folder / "node_modules/@copilotkit/aimock/package.json").read_text())["version"]
    peer = f"aimock {version}"
    same_text = [original.text == each.text for each in (ours, theirs)]
    share = "an event by its share of the whole"
    theirs_said = (
        f"p50 {number(median(their_late))}, p99 {number(quantile(their_late, 0.99))}, worst {number(max(their_late))} ms"
    )
    chunks_said = f"{number(same(original.chunks, theirs.chunks) * 100)} %, {len(theirs.chunks)} chunks"
    return [
        Figure("the text is the API's", same_text[0] * 100, "%", f"{peer}: {same_text[1] * 100} %", at_least(100)),
        Figure(
            "events that are the API's, byte for byte",
            same(original.events, ours.events) * 100,
            "%",
            f"{peer}: {number(same(original.events, theirs.events) * 100)} %",
            at_least(100),
        ),
        Figure("bytes of the body", len(ours.body), f"of {number(len(original.body))}", f"{peer}: {number(len(theirs.body))}"),
        Figure(
            "chunks that are the API's",
            same(original.chunks, ours.chunks) * 100,
            "%",
            f"{len(ours.chunks)} of {len(original.chunks)}; {peer}: {chunks_said}",
            at_least(100),
        ),
        Figure(
            "when an event comes, off by p50",
            median(late),
            "ms",
            f"p99 {number(quantile(late, 0.99))}, worst {number(max(late))} ms; {peer}, {share}: {theirs_said}",
        ),
        Figure(
            "from the first event to the last",
            ours.arrivals()[-1],
            f"s of {number(original.arrivals()[-1])}",
            f"{peer}: {number(theirs.arrivals()[-1])} s",
        ),
        Figure(
            f"{long:,} deltas at once: aimock's time / recorder's",
            theirs_long.times[-1] / ours_seconds,
            RATIO,
            f"{number(ours_seconds)} s for {long + 3:,} events; {peer}: {number(theirs_long.times[-1])} s for the same text"
            f" in {len(theirs_long.events) - 1:,} events",
        ),
    ]


def exchange(deltas: int, *, pauses: bool) -> list[tuple[float, bytes]]:
    """(pause before it, chunk): of the chunks some end inside a character, some hold several events."""
    chance = random.Random(deltas)
    said = [{"role": "assistant", "content": ""}, *({"content": f"{chance.choice(WORDS)} "} for _ in range(deltas)), {}]
    events = [event(delta, "stop" if not delta else None) for delta in said] + [b"data: [DONE]\n\n"]
    found: list[tuple[float, bytes]] = []
    for one in events:
        pause = chance.uniform(0.002, 0.04) if pauses else 0.0
        split = next((at for at, byte in enumerate(one) if byte >= 0xC0), 0) + 1
        if pauses and split > 1 and chance.random() < 0.3:
            found += [(pause, one[:split]), (0.01, one[split:])]
        else:
            found.append((pause, one))
    return found


def event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    said = {
        "id": "chatcmpl-BqT1",
        "object": "chat.completion.chunk",
        "created": 1_780_000_000,
        "model": "gpt-5",
        "system_fingerprint": "fp_1",
        "choices": [choice],
    }
    return b"data: %s\n\n" % json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def received(port: int, what: str) -> Received:
    body = json.dumps({"model": "gpt-5", "stream": True, "messages": [{"role": "user", "content": what}]}).encode()
    with Downstream(port) as client:
        answer = client.ask("POST", PATH, body, JSON)
        chunks = answer.pieces()
    if answer.status != 200 or not answer.complete:
        raise RuntimeError(f"{what} came with status {answer.status}: {b''.join(chunks)[:200]!r}")
    return Received(chunks, answer.times)


def same(sent: list[bytes], got: list[bytes]) -> float:
    """The share of these that came, in their places."""
    return sum(one == other for one, other in zip(sent, got, strict=False)) / len(sent)


def gap_errors(original: Received, replay: Received) -> list[float]:
    """How far from its time each event came (ms), since the first; of another number of events, that of the same share."""
    due, came = original.arrivals(), replay.arrivals()
    scale = (len(came) - 1) / (len(due) - 1)
    return [abs(came[round(place * scale)] - at) * 1e3 for place, at in enumerate(due)]


@contextlib.contextmanager
def aimock(node: Path, folder: Path, fixtures: Path, *options: str) -> Iterator[int]:
    """Its server, once it says that it listens."""
    cli = folder / "node_modules/@copilotkit/aimock/dist/cli.js"
    command = [str(node), str(cli), "-p", "0", "-f", str(fixtures), *options]
    with process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        for said in child.stdout:
            if found := _LISTENING.search(said):
                yield int(found[1])
                return
        raise RuntimeError("aimock did not start")
