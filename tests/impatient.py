"""A client with a planted bug: it shows what it has when nothing comes for a second, also half a character.

So the arguments of a tool call come out wrong, but only where a delta of them is split inside a character of several bytes and
the stream then pauses. Beside it the stream that brought it out, as the service sent it: recorded once through the proxy.
"""

from __future__ import annotations

import codecs
import json
import queue
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import httpx

import recorder
from tests import writing
from tests.commands import ProxyProcess, sqlite
from tests.downstream import Downstream
from tests.recorded import Recorded
from tests.upstream import Answer, Asked, Upstream, Wire

IMPATIENCE_SECONDS = 1.0
STALL_SECONDS = 2.0
PATH = "/v1/threads/thread_1/runs"
REQUEST = b'{"assistant_id":"asst_1","stream":true}'
ARGUMENTS = json.dumps({"場所": "北海道札幌市中央区北一条西二丁目の時計台の前で待ち合わせ"}, ensure_ascii=False)


def arguments(chunks: Iterable[bytes]) -> str:
    """What this client takes for the arguments of the tool call, from the chunks of a stream as they come."""
    came: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(chunks, came), daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    while True:
        try:
            chunk = came.get(timeout=IMPATIENCE_SECONDS)
        except queue.Empty:
            text += decoder.decode(b"", True)  # the bug
            continue
        if chunk is None:
            return "".join(_deltas(text))
        text += decoder.decode(chunk)


def _read(chunks: Iterable[bytes], came: queue.Queue[bytes | None]) -> None:
    try:
        for chunk in chunks:
            came.put(chunk)
    finally:
        came.put(None)


def _deltas(text: str) -> Iterable[str]:
    for block in text.split("\n\n"):
        name, _, data = block.partition("\ndata: ")
        if name == "event: thread.run.step.delta":
            for call in json.loads(data)["delta"]["step_details"]["tool_calls"]:
                yield call["function"].get("arguments") or ""


def events() -> list[bytes]:
    """The stream of a run that calls a function, each event as its bytes: characters as themselves, arguments in two deltas."""
    half = ARGUMENTS.index("の前で")
    pieces = [
        writing.step_delta({"index": 0, "type": "function", "function": {"arguments": part}})
        for part in (ARGUMENTS[:half], ARGUMENTS[half:])
    ]
    start, end = writing.asked(arguments="")[:4], writing.asked(arguments=ARGUMENTS)[5:]
    return [
        f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()
        for name, data in (*start, *pieces, *end)
    ]


def unlucky(wire: Wire, asked: Asked) -> None:
    """The stream as it was on that day: split inside a character of the arguments, after which nothing came for a while."""
    body = b"".join(events())
    split = body.index("時計台".encode()) + 1
    wire.begin()
    for at in range(0, split, 700):
        wire.chunk(body[at : min(at + 700, split)])
        time.sleep(0.002)
    time.sleep(STALL_SECONDS)
    wire.chunk(body[split:])
    wire.end()


def asked_of(port: int, headers: Iterable[tuple[str, str]] = ()) -> str:
    """What the client makes of the answer that it gets at this port."""
    with Downstream(port) as client:
        return arguments(client.ask("POST", PATH, REQUEST, headers).each())


def lucky(wire: Wire, asked: Asked) -> None:
    """The same on any other day: an event a chunk, without a pause."""
    wire.stream(events(), pause=0.002)


def recorded_on_a_good_day(file: Path) -> str:
    return recorded(file, lucky)


def recorded(file: Path, answer: Answer = unlucky) -> str:
    """Record a day through the proxy, by default the one in question; what the client made of it."""
    with Upstream(answer) as upstream, ProxyProcess(upstream.origin, db=file) as proxy:
        found = asked_of(proxy.port)
        log = Recorded(file)
        log.ended(PATH)
        log.engine.dispose()
        assert proxy.stop() == 0
    return found


def replayed(file: Path, *faults: str) -> str:
    """The same within this process, at its pace, with faults."""
    transport = recorder.ReplayTransport(db=sqlite(file), speed=1.0, faults=faults)
    client = httpx.Client(transport=transport, timeout=None)
    with client, client.stream("POST", f"http://api.example.com{PATH}", content=REQUEST) as response:
        return arguments(response.iter_raw())
