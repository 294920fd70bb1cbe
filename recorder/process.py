"""Whether a process of this machine lives, by its pid and when it started."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path


def lives(pid: int, started: str | None) -> bool | None:
    """Whether a process of this machine lives and is the one that started then; None where that cannot be told."""
    if sys.platform == "win32":
        return None  # where os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    found = process_started(pid)
    return None if found is None or started is None else found == started


def process_started(pid: int) -> str | None:
    """When a process started, in clock ticks since the machine did (Linux); "" of one that is dead and not yet buried."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]  # field 22 of proc_pid_stat(5); the name in ( ) may hold anything


def machine() -> str:
    """Where pids are unique and can be looked up: this boot of this host, and its namespace of pids (a container has its own)."""
    return _machine(os.getpid())


@lru_cache(1)
def _machine(pid: int) -> str:
    """pid: of this process, since a child may be in another namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        import platform
        import uuid

        return f"{platform.node()} {uuid.getnode():012x}"
    return f"{os.uname().nodename} {boot} {namespace}"
