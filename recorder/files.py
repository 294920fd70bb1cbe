"""Files that others wrote: read whole, but never without end, and never waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

BOM = b"\xef\xbb\xbf"
"""The byte order mark that some programs put before UTF-8."""

LARGEST = 2 * 1024**3
"""Bytes of a file that is read into memory."""

LARGEST_TEXT = 64 * 1024**2
"""Bytes of a file that people write: settings, prices, a request."""

_WAITING = getattr(os, "O_NONBLOCK", 0)  # to open a pipe waits for its writer


def content(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a regular file. Raises OSError, also for a pipe, a socket, a device, and a file of more than `most` bytes."""
    with os.fdopen(os.open(path, os.O_RDONLY | _WAITING), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
        return file.read()


def text(path: Path, most: int = LARGEST_TEXT) -> str:
    """The text of a file in UTF-8, without a byte order mark; of a pipe too. Raises OSError, UnicodeDecodeError."""
    with path.open("rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return found.decode("utf-8-sig")
