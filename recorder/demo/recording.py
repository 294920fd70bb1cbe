"""Recording the programs: upstream, proxy and programs at once, while the log is watched as it grows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from recorder import database, log
from recorder.demo.program import Conversation, converse
from recorder.demo.sessions import ABOUT, recording
from recorder.demo.shell import Server, Shell
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
    """By name: what the programs saw, and the bodies that the upstream sent, in order."""

    conversations: dict[str, Conversation]
    sent: dict[str, list[bytes]]


def record(shell: Shell, speed: float, begun: Callable[[Server, Server], None], grown: Callable[[Growth], None]) -> Recorded:
    """Run all programs at once through a recording proxy, before an upstream that replays the sessions.

    begun: is called with upstream and proxy when both listen; grown: as the log grows.

    However this ends, no process or thread is left.
    """
    with (
        tempfile.TemporaryDirectory(prefix="recorder-demo-upstream-") as folder,
        ThreadPoolExecutor(len(ABOUT), "demo-program") as pool,
        Server(_holding(shell, Path(folder)), "serve", "--speed", str(speed)) as upstream,
        Server(shell, "proxy", "--upstream", upstream.origin) as proxy,
    ):
        try:
            begun(upstream, proxy)
            programs = {name: pool.submit(converse, proxy.origin, name, speed) for name in ABOUT}
            for growth in _watch(shell.url, list(programs.values()), max(_TELL_SECONDS / speed, _TELL_SECONDS_LEAST)):
                grown(growth)
            conversations = {name: program.result() for name, program in programs.items()}
            sent = {name: _sent(upstream.shell, name) for name in ABOUT}
        finally:
            upstream.close()  # first: a stream that is open would keep the proxy waiting for its end
    for name, conversation in conversations.items():
        if not conversation.run_id:
            raise RecorderError(f"the program {name} got no run: {conversation.error or 'its stream was empty'}")
    return Recorded(conversations, sent)


def _holding(shell: Shell, folder: Path) -> Shell:
    """A shell whose database holds the recorded sessions alone."""
    upstream = shell.on(f"sqlite:///{folder / 'upstream.db'}")
    upstream.output("import", *(str(recording(name)) for name in ABOUT), "--json")
    return upstream


def _sent(upstream: Shell, name: str) -> list[bytes]:
    """The bodies of a session's responses, in order."""
    return [upstream.output("export", stream["stream_id"], "--format", "sse") for stream in upstream.ask("show", name)["streams"]]


def _watch(url: str, programs: list[Future[Conversation]], every: float) -> Iterator[Growth]:
    """The log as another process sees it while the programs run: every so many seconds, and once they have ended."""
    began, since = time.perf_counter(), datetime.now(UTC)
    counts = dict.fromkeys(ABOUT, 0)
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
