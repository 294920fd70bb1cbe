"""Many short streams, one after the other and some at once: memory, threads and file handles of the recorder stay as they are.

Through the hook, in a process of its own, with a sync client and then an async one; and through a proxy. Most clients read to the
end, some leave in the middle. What is compared is the first third with the last: until then all is warm.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

import recorder
from recorder.collect.hook import Hook
from tests.benchmarks import proxying
from tests.commands import PATIENCE, ProxyProcess, sqlite

TITLE = "100,000 short streams through the hook, and through a proxy"
STREAMS = 100_000
SAMPLES = 12
AT_ONCE = 4

MOST_GROWN = 12_000_000
"""Bytes by which the resident memory may differ; a leak of one object a stream is more."""

PATH = "/v1/threads/thread_1/runs?events="


class Sample(NamedTuple):
    """resident: bytes."""

    resident: int
    threads: int
    handles: int


def run(streams: int = STREAMS) -> list[str]:
    said = []
    with tempfile.TemporaryDirectory(prefix="recorder-proof-") as folder:
        sync, later = hooked(Path(folder) / "hook.db", streams)
        proxy = proxied(Path(folder) / "proxy.db", streams)
    for name, found in (("hook, half of them, sync", sync), ("hook, half of them, async", later), ("proxy", proxy)):
        first, last = _thirds(found)
        said.append(
            f"{name}: resident {first.resident / 1e6:.1f} MB in the first third, {last.resident / 1e6:.1f} in the last;"
            f" threads {first.threads} and {last.threads}, file handles {first.handles} and {last.handles}"
        )
        assert flat(found), (name, found)
    return said


def flat(found: list[Sample], most_grown: int = MOST_GROWN) -> bool:
    first, last = _thirds(found)
    same = last.threads <= first.threads and last.handles <= first.handles + 2 * AT_ONCE  # connections that are being closed
    return same and last.resident - first.resident < most_grown


def _thirds(found: list[Sample]) -> tuple[Sample, Sample]:
    """The most that there was in the first third, but for the very first sample, and in the last."""
    third = len(found) // 3
    first, last = (Sample(*(max(each) for each in zip(*some, strict=True))) for some in (found[1 : third + 1], found[-third:]))
    return first, last


def hooked(file: Path, streams: int) -> list[list[Sample]]:
    """In the hook: of the sync half, and of the async one."""
    with proxying.upstream() as origin:
        given = [sys.executable, "-m", "tests.proofs.leaks", str(file), f"http://127.0.0.1:{origin}", str(streams)]
        done = subprocess.run(given, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [[Sample(*each) for each in half] for half in json.loads(done.stdout)]


def proxied(file: Path, streams: int) -> list[Sample]:
    """Through a proxy."""
    found = []
    with proxying.upstream() as origin, ProxyProcess(f"http://127.0.0.1:{origin}", db=file) as proxy:
        for _ in range(SAMPLES):
            clients = [threading.Thread(target=_ask, args=(proxy, streams // SAMPLES // AT_ONCE)) for _ in range(AT_ONCE)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            found.append(_sample(psutil.Process(proxy.process.pid)))
        assert int(proxy.metric("recorder_dropped_bytes_total")) == 0
        assert int(proxy.metric("recorder_streams_open")) == 0
        assert proxy.stop() == 0, proxy.said
    return found


def _ask(proxy: ProxyProcess, streams: int) -> None:
    """Over connections that are kept for some requests; every tenth is left in the middle of its response."""
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)
    for number in range(streams):
        connection.request("POST", f"{PATH}3", body=b"{}")
        response = connection.getresponse()
        if number % 10:
            response.read()
        else:
            response.read1(100)
            connection.close()
    connection.close()


def _sample(process: psutil.Process) -> Sample:
    return Sample(process.memory_info().rss, process.num_threads(), process.num_fds())


# The program whose clients are recorded by the hook.


def main(file: str, origin: str, streams: str) -> None:
    share = int(streams) // 2 // SAMPLES
    url = sqlite(Path(file))
    print(json.dumps([_sync(url, origin, share), asyncio.run(_async(url, origin, share))]))


def _sync(url: str, origin: str, share: int) -> list[Sample]:
    found = []
    with httpx.Client(timeout=PATIENCE) as client, recorder.record(client, url) as hook:
        for _ in range(SAMPLES):
            for number in range(share):
                with client.stream("POST", f"{origin}{PATH}3", json={}) as response:
                    if number % 10:
                        for _ in response.iter_raw():
                            pass
            found.append(_settled(hook))
    return found


async def _async(url: str, origin: str, share: int) -> list[Sample]:
    async def ask(count: int) -> None:
        for number in range(count):
            async with client.stream("POST", f"{origin}{PATH}3", json={}) as response:
                if number % 10:
                    async for _ in response.aiter_raw():
                        pass

    found = []
    async with httpx.AsyncClient(timeout=PATIENCE) as client, recorder.record(client, url) as hook:
        for _ in range(SAMPLES):
            await asyncio.gather(*(ask(share // AT_ONCE) for _ in range(AT_ONCE)))
            found.append(_settled(hook))
    return found


def _settled(hook: Hook) -> Sample:
    assert hook.flush(PATIENCE)
    gc.collect()
    return _sample(psutil.Process())


if __name__ == "__main__":
    main(*sys.argv[1:])
