"""Recording the programs: upstream, proxy and programs at once, while the log is watched as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from recorder import database, log
from recorder.demo.program import Conversation, converse
from recorder.demo.script import ASSISTANTS
from recorder.demo.shell import ProxyProcess, Shell
from recorder.demo.upstream import Upstream
from recorder.errors import RecorderError
from recorder.sse import is_system

_POLL_SECONDS = 0.05
_TELL_SECONDS = 1.0  # at the upstream's own pace
_TELL_SECONDS_LEAST = 0.2


class Growth(NamedTuple):
    """The log at a moment. counts: events of each session so far. newest: the latest event, and whose it is."""

    seconds: float
    counts: dict[str, int]
    newest: tuple[str, log.Event] | None


class Recorded(NamedTuple):
    """conversations: by name. sent: the bodies that the upstream sent, by run id, in order. seconds: what it all took."""

    conversations: dict[str, Conversation]
    sent: dict[str, list[bytes]]
    seconds: float


def record(
    shell: Shell, speed: float, begun: Callable[[Upstream, ProxyProcess], None], grown: Callable[[Growth], None]
) -> Recorded:
    """Run all programs at once through a recording proxy. begun: is called when it all stands; grown: as the log grows.

    However this ends, no process or thread is left.
    """
    with (
        ThreadPoolExecutor(len(ASSISTANTS), "demo-program") as pool,
        Upstream(speed, keep=True) as upstream,
        ProxyProcess(shell, upstream.origin) as proxy,
    ):
        try:
            begun(upstream, proxy)
            began = time.perf_counter()
            programs = {name: pool.submit(converse, proxy.origin, name, speed) for name in ASSISTANTS}
            for growth in _watch(shell.url, list(programs.values()), max(_TELL_SECONDS / speed, _TELL_SECONDS_LEAST)):
                grown(growth)
            conversations = {name: program.result() for name, program in programs.items()}
            seconds = time.perf_counter() - began
        finally:
            upstream.close()  # first: a stream that is open would keep the proxy waiting for its end
    for name, conversation in conversations.items():
        if not conversation.run_id:
            raise RecorderError(f"the program {name} got no run: {conversation.error or 'its stream was empty'}")
    return Recorded(conversations, upstream.sent, seconds)


def _watch(url: str, programs: list[Future[Conversation]], every: float) -> Iterator[Growth]:
    """The log as another process sees it while the programs run: every so many seconds, and once they have ended."""
    began, since = time.perf_counter(), datetime.now(UTC)
    counts = dict.fromkeys(ASSISTANTS, 0)
    labels: dict[str, str] = {}
    seen: dict[str, int] = {}
    newest: tuple[str, log.Event] | None = None
    due = every
    engine = database.connect(url, create=False)
    try:
        running = True
        while running:
            running = not all(program.done() for program in programs)
            if running:
                time.sleep(_POLL_SECONDS)
            with database.read(engine) as connection:
                found = log.tail(connection, seen, since)
                unknown = {stream_id for stream_id, _ in found} - labels.keys()
                for stream_id, stream in log.get_streams(connection, unknown).items():
                    labels[stream_id] = stream.session_label or ""
            for stream_id, event in found:
                if not is_system(event.type):
                    counts[labels[stream_id]] += 1
                    newest = labels[stream_id], event
            now = time.perf_counter() - began
            if now >= due or not running:
                due = now + every
                yield Growth(now, dict(counts), newest)
    finally:
        engine.dispose()
