"""The house order: each module imports only from those above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recorder"

ORDER = (
    "errors",
    "jsontext",
    "jsonpath",
    "files",
    "settings",
    "testing",
    "sse",
    "kind",
    "bodies",
    "redaction",
    "vocabulary",
    "steps",
    "protocols",
    "transcript",
    "prices",
    "schema",
    "session_list",
    "process",
    "postgresql",
    "mending",
    "database",
    "log",
    "projections",
    "views",
    "queries",
    "reports",
    "relations",
    "private",
    "csvfile",
    "parquet",
    "dataset",
    "recording",
    "collect",
    "replay",
    "comparison",
    "deck_server",
    "deck",
    "offline",
    "regression",
    "demo",
    "cli",
    "pytest_plugin",
    "__main__",
    "__init__",
)
"""As the data flows, downwards; a folder counts as one."""

PURE = ("errors", "jsontext", "jsonpath", "sse", "kind", "bodies", "redaction", "vocabulary", "steps", "protocols", "transcript")
IMPURE = {"socket", "time", "datetime", "sqlalchemy", "asyncio", "threading", "os", "pathlib", "httpx", "uvicorn"}

FOLDER_ORDER = {
    "protocols": (
        "payload",
        "errors",
        "deltas",
        "conversation",
        "partial",
        "usage",
        "view",
        "failure",
        "endings",
        "objects",
        "assistants",
        "response_run",
        "responses",
        "chat_run",
        "chat",
        "anthropic",
        "__init__",
        "fold",
        "merge",
    ),
    "redaction": (
        "names",
        "urls",
        "filler",
        "leaves",
        "fields",
        "places",
        "content",
        "matching",
        "overlay",
        "rules",
        "known",
        "redactor",
        "echoes",
        "request",
        "__init__",
    ),
    "collect": (
        "asgi",
        "streamid",
        "secrets",
        "encoding",
        "exchange",
        "allowance",
        "budget",
        "sampling",
        "screen",
        "outcome",
        "decoding",
        "file",
        "recording",
        "backlog",
        "lease",
        "writer",
        "connection",
        "http1",
        "origin",
        "gate",
        "metrics",
        "relay",
        "proxy",
        "serving",
        "sharing",
        "tee",
        "transport",
        "client",
        "hook",
        "cassette",
        "import_",
        "__init__",
    ),
    "replay": (
        "timing",
        "fidelity",
        "playback",
        "faults",
        "difference",
        "volatile",
        "match",
        "alignment",
        "library",
        "divergence",
        "stepping",
        "passing",
        "transport",
        "server",
        "__init__",
    ),
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_upwards(path: Path) -> None:
    own = ORDER.index(layer(path))
    for name in imported(path):
        first, _, rest = name.partition(".")
        if first != "recorder":
            continue
        target = rest.partition(".")[0]
        if target not in ORDER:
            target = "__init__"
        assert ORDER.index(target) <= own, f"{path.name} imports {name}, which stands below it"
        assert target != "__init__", f"{path.name} imports the package itself"


@pytest.mark.parametrize("folder", sorted(FOLDER_ORDER))
def test_within_a_folder_too(folder: str) -> None:
    order = FOLDER_ORDER[folder]
    found = {path.stem for path in (PACKAGE / folder).glob("*.py")}
    assert found <= set(order)
    for path in (PACKAGE / folder).glob("*.py"):
        for name in imported(path):
            parts = name.split(".")
            if parts[:2] == ["recorder", folder] and len(parts) > 2:
                target = parts[2] if parts[2] in order else "__init__"
                assert order.index(target) < order.index(path.stem), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [path for path in modules() if layer(path) in PURE], ids=lambda path: path.name)
def test_the_pure_part_has_no_socket_no_clock_no_database(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imported(path)} & IMPURE


def test_every_module_has_its_place() -> None:
    assert {layer(path) for path in modules()} <= set(ORDER)
