"""Importing: from the bytes of files to committed events, in this process, into a database that is there already."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from recorder.collect.import_ import BATCH, import_paths
from tests.benchmarks import generated
from tests.benchmarks.append import remove_of, sqlite_raw
from tests.benchmarks.bench import Bench, best, rounds
from tests.benchmarks.report import RATIO, Figure, at_least, per_second

TITLE = "Import, bytes to committed events"


def run(bench: Bench) -> list[Figure]:
    events = bench.size(200_000, 40_000)
    one, many = bench.folder / "import-one", bench.folder / "import-many"
    rows = generated.session(0, events + 2)
    written(one, [generated.body(rows)])
    sessions = [generated.session(number) for number in range(events // generated.SIZE)]
    written(many, [generated.body(session) for session in sessions])
    bench.say(f"{events:,} events of {generated.mean_size(rows):.0f} bytes of data, as one file and as {len(sessions):,}")
    sides = {
        "one": partial(imported, bench, one),
        "many": partial(imported, bench, many),
        "raw": partial(sqlite_raw, bench, rows, BATCH),
    }
    found = best(rounds(sides, bench.size(4, 2)))
    shutil.rmtree(one)
    shutil.rmtree(many)
    raw = per_second(events, found["raw"])
    rate = per_second(events, found["one"])
    return [
        Figure(f"import of a file of {events:,} events", events / found["one"], "events/s", aim=at_least(100_000)),
        Figure("the same / raw executemany of its rows", found["raw"] / found["one"], RATIO, f"{rate} against {raw}"),
        Figure(f"import of {len(sessions):,} files of 198 events", events / found["many"], "events/s"),
    ]


def written(folder: Path, bodies: list[bytes]) -> None:
    folder.mkdir()
    for number, body in enumerate(bodies):
        (folder / f"{number:05}.sse").write_bytes(body)


def imported(bench: Bench, folder: Path) -> float:
    engine = bench.database()
    began = time.perf_counter()
    import_paths(engine, [str(folder)])
    seconds = time.perf_counter() - began
    engine.dispose()
    remove_of(engine)
    return seconds
