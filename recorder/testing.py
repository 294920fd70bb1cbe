"""What a test and its recording have in common: the modes, and where the file is. Imports nothing that takes time."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

MODES = ("none", "once", "new_episodes", "all", "rewrite")
"""What is done with a recording; deck.py says what each means."""

FOLDER = "recordings"
SUFFIX = ".recording.jsonl"

_NOT_IN_NAMES = re.compile(r"[^\w.\[\]=,+-]+")
_NAME = 150  # characters, of the 255 bytes that file systems take


def recording_of(module: Path, test: str) -> Path:
    """`recordings/<module>/<test>.recording.jsonl` beside a module."""
    return module.parent / FOLDER / module.stem / (_file_name(test) + SUFFIX)


def _file_name(test: str) -> str:
    """A test's name as that of a file; what no file system takes is replaced, and told apart by a hash."""
    name = _NOT_IN_NAMES.sub("-", test)[:_NAME]
    return name if name == test and name.isascii() else f"{name}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
