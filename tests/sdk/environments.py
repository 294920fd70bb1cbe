"""The SDKs of the matrix, each with this project in an environment of its own: made once on a machine, and kept.

They are made anew when a pin, the project's dependencies, its folder or the Python change. Two runs that want the same one at
once: the second waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.peers import Missing, cache, installing, pip

PYTHON_SDKS = ("3.54.0", "2.54.0")
"""openai on PyPI: the newest, on httpx2, and the last that stands on httpx."""

NODE_SDK = "7.57.0"
"""openai on npm. It asks for Node 22 or newer, of which npm only warns; it works with 20, too."""

ROOT = Path(__file__).parents[2]


def python(version: str) -> Path:
    """The Python that has this version of the SDK, and this project. Raises Missing."""

    def make(place: Path) -> None:
        venv.EnvBuilder(with_pip=True, clear=True).create(place)
        pip(place / "bin" / "python", "install", "--editable", str(ROOT), f"openai=={version}")

    return _made(f"python-openai-{version}", _key(), make) / "bin" / "python"


def node() -> tuple[Path, Path]:
    """Node, and the folder whose node_modules hold its SDK. Raises Missing."""
    found = {name: shutil.which(name) for name in ("node", "npm")}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise Missing(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed here")

    def make(place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "package.json").write_text('{"private": true}\n')
        installing(f"openai@{NODE_SDK}", "npm", "install", "--no-audit", "--no-fund", f"openai@{NODE_SDK}", folder=place)

    version = subprocess.run(
        [found["node"] or "node", "--version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return Path(found["node"] or "node"), _made(f"node-openai-{NODE_SDK}", version, make)


def _key() -> str:
    """What an environment with this project in it depends on, beside the SDK."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return repr((sys.version, str(ROOT), sorted(dependencies)))


def _made(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of an environment; make() fills it where that has not been done."""
    place = cache("sdk") / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of by the system, too, should this process be killed
        if not (place / "complete").exists():
            print(f"installing {name} into {place} (once)", file=sys.stderr, flush=True)
            make(place)
            (place / "complete").touch()
    return place
