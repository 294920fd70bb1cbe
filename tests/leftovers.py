"""What recorder may have left behind in a process: threads of writers, and open files."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def writers() -> list[threading.Thread]:
    """The threads of writers that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "recorder-writer"]


def open_files(db: str | Path) -> list[str]:
    """The files of a SQLite database (its URL or path) that this process holds open."""
    path = str(db).removeprefix("sqlite:///")
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the one that listed the folder
            continue
    return sorted(file for file in found if file.startswith(path))
