"""A thousand short streams leave nothing behind: no thread, no open file, no memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import PATIENCE, environment, sqlite

pytestmark = pytest.mark.slow

PROGRAM = """
import gc, json, os, sys, threading, tracemalloc
import FAMILY as family
import recorder

BODY = [b"data: %d\\n\\n" % number for number in range(20)] + [b"data: [DONE]\\n\\n"]
how, db = sys.argv[1:]

class Stream(family.SyncByteStream):
    def __iter__(self):
        yield from BODY

def client():
    headers = {"content-type": "text/event-stream"}
    return family.Client(transport=family.MockTransport(lambda request: family.Response(200, headers=headers, stream=Stream())))

def ask(client):
    client.post("http://upstream.test/v1/responses", json={"stream": True})

def streams(count):
    for _ in range(count):
        if how == "new":
            with client() as own, recorder.record(own, db):
                ask(own)
        else:
            ask(shared)
    for _ in range(2 if how == "one" else 0):  # the writer holds its last batch until the next one: let that be small
        hook.flush()
        ask(shared)
    if how == "one":
        hook.flush()

def left():
    gc.collect()
    files, (size, _) = os.listdir("/proc/self/fd"), tracemalloc.get_traced_memory()
    return {"threads": threading.active_count(), "files": len(files), "bytes": size}

shared = client()
if how == "one":
    hook = recorder.record(shared, db)
tracemalloc.start()
streams(WARM)
found = [left()]
for _ in range(3):
    streams(250)
    found.append(left())
print(json.dumps(found))
"""


@pytest.mark.parametrize("how", ["without", "one", "new"])
@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_thousand_streams_leave_nothing_behind(how: str, family: str, tmp_path: Path) -> None:
    """On one recorded client, on a new one for each stream, and (that the measure is right) without recorder."""
    program = PROGRAM.replace("FAMILY", family).replace("WARM", "100")
    done = subprocess.run(
        [sys.executable, "-c", program, how, sqlite(tmp_path / "log.db")],
        capture_output=True,
        cwd=Path(__file__).parents[1],
        env=environment(),
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert len({(each["threads"], each["files"]) for each in found}) == 1
    grown = [later["bytes"] - earlier["bytes"] for earlier, later in itertools.pairwise(found)]
    assert min(grown) < 50_000, "200 bytes a stream would be a leak; what grows once, as a table of Python's does, is none"
