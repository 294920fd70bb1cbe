"""How long a command takes as a whole process, on a small file, in terms of `python -c pass`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from recorder import database
from recorder.collect.import_ import import_paths
from tests.benchmarks.bench import Bench
from tests.benchmarks.report import RATIO, Figure, at_most
from tests.commands import command, environment, sqlite

TITLE = "Starting a command"
FIXTURES = Path(__file__).parents[2] / "fixtures" / "chat"
AIM_SECONDS = at_most(0.25)
COMMANDS = (("--help",), ("ls",), ("show", "last"), ("usage",))


def run(bench: Bench) -> list[Figure]:
    file = bench.folder / "starting.db"
    engine = database.connect(sqlite(file))
    import_paths(engine, [str(FIXTURES)])
    engine.dispose()
    subprocess.run(command("--db", sqlite(file), "ls"), env=environment(), capture_output=True, check=True)  # projects
    nothing = [sys.executable, "-c", "pass"]
    taken: dict[tuple[str, ...], list[float]] = {}
    for _ in range(bench.size(21, 7)):
        for args in ((), *COMMANDS):
            given = command("--db", sqlite(file), *args) if args else nothing
            began = time.perf_counter()
            subprocess.run(given, env=environment(), capture_output=True, check=True)
            taken.setdefault(args, []).append(time.perf_counter() - began)
    of = {args: statistics.median(times) for args, times in taken.items()}
    figures = []
    for args in COMMANDS:
        rates = f"{of[args]:.3f} against {of[()]:.3f} s"
        figures.append(Figure(f"`recorder {' '.join(args)}` / `python -c pass`", of[args] / of[()], RATIO, rates))
    return [*figures, Figure("`recorder ls`, a whole process", of["ls",], "s", aim=AIM_SECONDS)]
