"""Files for their owner alone, as the database's are: what is recorded is nobody else's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FILE, FOLDER = 0o600, 0o700


def writing(path: Path, *, like: Path | None = None) -> Any:
    """A file to write bytes to: one that is there keeps its mode. like: the file that it is to replace, whose mode it gets."""
    opened = open(path, "wb", opener=lambda name, flags: os.open(name, flags, FILE))  # noqa: SIM115 - it is the caller's
    if like is not None and like.exists():
        os.fchmod(opened.fileno(), like.stat().st_mode & 0o7777)
    return opened


def folder(path: Path) -> None:
    """Make a folder, and those that it is to be in; one that is there keeps its mode."""
    if not path.exists():
        folder(path.parent)
        path.mkdir(FOLDER, exist_ok=True)
