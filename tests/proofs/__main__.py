"""`python -m tests.proofs NAME…`: what the suite proves small, at its full size. Prints what was found, raises what is wrong."""

from __future__ import annotations

import argparse
from importlib import import_module

NAMES = ("transfers", "power_cuts", "kills", "load", "leaks", "reproduction", "scale")
"""Modules of this folder; each has a TITLE and a run() → lines, which raises where the proof fails."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"which ones: {', '.join(NAMES)}; all by default")
    for name in parser.parse_args().names:
        proof = import_module(f"tests.proofs.{name}")
        print(proof.TITLE, flush=True)
        for line in proof.run():
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
