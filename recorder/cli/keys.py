"""Keys that are pressed while a replay waits for them: one by one in a terminal, or as lines of a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator


def none() -> str:
    return ""


@contextlib.contextmanager
def reading() -> Iterator[Callable[[], str]]:
    """A function that waits for the next key; '' where there are no more. A terminal is as it was when this ends."""
    if sys.stdin is None:  # it is closed
        yield none
        return
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        yield lambda: (line := os.fsdecode(_line(fd))) and (line.strip()[:1] or "\n")
        return
    import termios
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSADRAIN)  # what was pressed before counts; Ctrl-C still ends us
        yield lambda: os.read(fd, 1).decode("latin-1")
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def pressed(take: Callable[[str], None]) -> Iterator[None]:
    """Have keys told to take(), from a thread of its own, until this ends."""
    with reading() as following:

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                while key := following():
                    take(key)

        threading.Thread(target=read, name="recorder-keys", daemon=True).start()
        yield


def _line(fd: int) -> bytes:
    found = bytearray()
    while (byte := os.read(fd, 1)) and byte != b"\n":
        found += byte
    return bytes(found + byte)
