"""`python -m tests.benchmarks [NAME…]`: measure, on stderr how it goes, on stdout what came out."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Protocol

from tests.benchmarks import (
    aimock,
    append,
    catching_up,
    folding,
    import_,
    log_size,
    peers,
    protocols,
    proxying,
    rebuild,
    redaction,
    replay,
    report,
    serving,
    starting,
    tee,
)
from tests.benchmarks.bench import Bench
from tests.benchmarks.report import Figure, Section


class Benchmark(Protocol):
    TITLE: str

    def run(self, bench: Bench) -> list[Figure]: ...


BENCHMARKS: tuple[tuple[str, Benchmark], ...] = (
    ("starting", starting),
    ("append", append),
    ("import", import_),
    ("tee", tee),
    ("redaction", redaction),
    ("folding", folding),
    ("protocols", protocols),
    ("replay", replay),
    ("serve", serving),
    ("aimock", aimock),
    ("proxy", proxying),
    ("size", log_size),
    ("catching-up", catching_up),
    ("rebuild", rebuild),
)
"""In the order in which they run: what is quick and quiet first."""


def main() -> int:
    names = [name for name, _ in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(names)}; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="one markdown table instead of lines")
    form.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"no such benchmark: {', '.join(unknown)} (there are {', '.join(names)})")
    signal.signal(signal.SIGTERM, _stop)  # so that everything is cleaned up
    found = report.machine()
    plain = not given.markdown and not given.json
    if plain:
        print(report.heading(found, given.quick), flush=True)
    sections = []
    folder = Path(tempfile.mkdtemp(prefix="recorder-benchmarks-"))
    try:
        with ExitStack() as stack:
            bench = Bench(folder, stack, given.quick)
            for name, benchmark in BENCHMARKS:
                if not given.names or name in given.names:
                    section = _measured(name, benchmark, bench)
                    sections.append(section)
                    if plain:
                        print("\n" + report.lines(section), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.markdown:
        print(report.markdown(sections, found, given.quick))
    elif given.json:
        print(report.document(sections, found, given.quick))
    aims = [figure for section in sections for figure in section.figures if figure.aim]
    met = sum(figure.verdict == "met" for figure in aims)
    print(f"\n{met} of {len(aims)} aims met", file=sys.stderr)
    return 1 if any(section.error for section in sections) else 0


def _measured(name: str, benchmark: Benchmark, bench: Bench) -> Section:
    print(f"{name}: {benchmark.TITLE}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    try:
        figures, error = benchmark.run(bench), ""
    except peers.Missing as missing:
        figures, error = [], str(missing)
    except Exception as broken:  # noqa: BLE001 - the others are measured all the same
        traceback.print_exc()
        figures, error = [], f"{type(broken).__name__}: {broken}"
    return Section(name, benchmark.TITLE, figures, time.perf_counter() - began, error)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
