"""Where a demo runs: its folder, and its end by a signal."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recorder.errors import RecorderError

DATABASE = "demo.db"


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    """The folder to work in: a temporary one, or the one to keep, which must not hold a demo's database yet."""
    if keep is None:
        made = Path(tempfile.mkdtemp(prefix="recorder-demo-"))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecorderError(f"{keep} cannot be made: {error.strerror}; name another folder with --keep") from None
    if (keep / DATABASE).exists():
        raise RecorderError(f"{keep / DATABASE} is there already; name another folder with --keep, or delete it")
    yield keep


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: with all that it started."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
