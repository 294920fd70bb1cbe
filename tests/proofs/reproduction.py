"""A bug that needs bad luck is met again from its recording: each of fifty times, never a thousand times faster, and by a seed.

The client, and what it met, stand in tests/impatient.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import impatient
from tests.commands import Background
from tests.impatient import ARGUMENTS, asked_of, replayed

TITLE = "50 replays of a session that brings a client's bug out"
TIMES = 50
AT_ONCE = 10
SEEDS = 12


def run(times: int = TIMES) -> list[str]:
    said = []
    with tempfile.TemporaryDirectory(prefix="recorder-proof-") as folder:
        file = Path(folder) / "log.db"
        assert impatient.recorded(file) != ARGUMENTS, "the session did not bring it out"
        said.append("recorded through the proxy: the client's arguments came out wrong")
        wrong = served(file, times).count(False)
        assert wrong == times, f"{wrong} of {times}"
        said.append(f"serve: wrong in {wrong} of {times}")
        right = served(file, times, "--speed", "1000").count(True)
        assert right == times, f"{right} of {times}"
        said.append(f"serve --speed 1000: right in {right} of {times}")
        found = reproducing_seeds(file, range(SEEDS))
        assert found, "no seed"
        wrong = served(file, times, "--fault", f"rechunk:random:{found[0]}").count(False)
        assert wrong == times, f"{wrong} of {times}"
        said.append(f"rechunk:random: wrong with the seeds {found} of 0 to {SEEDS - 1}; with {found[0]} in {wrong} of {times}")
    return said


def served(file: Path, times: int, *options: str) -> list[bool]:
    """Whether the client was right, each time that it asked a server."""
    with Background("serve", "--port", "0", *options, db=file) as server, ThreadPoolExecutor(AT_ONCE) as pool:
        port = int(server.wait_for(r"serving .* at http://[^:]*:(\d+)")[1])

        def right(number: int) -> bool:
            return asked_of(port, [("X-Recorder-Client", f"client-{number}")]) == ARGUMENTS

        found = list(pool.map(right, range(times)))
        assert server.stop() == 0
    return found


def reproducing_seeds(file: Path, seeds: Iterable[int]) -> list[int]:
    """The seeds whose boundaries bring it out, tried within this process, all at once."""
    tried = list(seeds)
    with ThreadPoolExecutor(len(tried)) as pool:
        came_out = list(pool.map(lambda seed: replayed(file, f"rechunk:random:{seed}"), tried))
    return [seed for seed, found in zip(tried, came_out, strict=True) if found != ARGUMENTS]
