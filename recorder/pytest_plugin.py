"""The pytest plugin: tests that play a recording, or make one.

    def test_weather(recording):                       # the fixture
        client = recording.attach(OpenAI())            # or: OpenAI(base_url=recording.url("https://api.openai.com/v1"))

    @pytest.mark.recording                             # the marker: unchanged code, whose base URLs come from the environment
    def test_weather(): ...

A test has its recording in `recordings/<module>/<test>.recording.jsonl` beside its module. Nothing of recorder is imported before
a test needs it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recorder.testing import FOLDER, MODES, SUFFIX, recording_of

if TYPE_CHECKING:
    from recorder.deck import Deck

_DECK = pytest.StashKey["Deck"]()
_FAILED = pytest.StashKey[bool]()


# Options


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if _has_pytest_recording(pluginmanager):
        return  # it has both, with the same modes
    group = parser.getgroup("recorder")
    group.addoption(
        "--record-mode",
        choices=MODES,
        default=None,
        help="What tests with a recording do: play it (none, the default), make it where there is none (once), "
        "add what it lacks (new_episodes), ask everything again (all), make it anew (rewrite).",
    )
    group.addoption(
        "--block-network",
        action="store_true",
        default=False,
        help="Let no test connect to another machine, but those that are to record.",
    )


def _has_pytest_recording(pluginmanager: pytest.PytestPluginManager) -> bool:
    """Whether the plugin pytest-recording is loaded, or will be: entry points come in no certain order."""
    if pluginmanager.has_plugin("recording") or pluginmanager.has_plugin("pytest_recording.plugin"):
        return True
    without_entry_points = bool(os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"))
    return not without_entry_points and not pluginmanager.is_blocked("recording") and find_spec("pytest_recording") is not None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "recording(path=None, *, speed=None): have OPENAI_BASE_URL and its like point at the test's recording. path: of the "
        "file, as seen from the test's module; speed: times its original pace, at once by default.",
    )
    config.pluginmanager.register(_Recordings(config), "recorder-recordings")


def _mode(config: pytest.Config) -> str:
    return config.getoption("--record-mode", default=None) or "none"


# Tests


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test with the marker takes the fixture that its environment comes from."""
    names: list[str] | None = getattr(item, "fixturenames", None)
    if names is not None and item.get_closest_marker("recording") and "_recording_environment" not in names:
        names.insert(0, "_recording_environment")


@pytest.fixture
def recording(request: pytest.FixtureRequest) -> Iterator[Deck]:
    """The test's recording: .attach(client), .transport(), .url(upstream), .path."""
    from recorder.deck import Deck

    item = request.node
    config = item.config
    marker = item.get_closest_marker("recording")
    deck = Deck(
        _path(item),
        _mode(config),
        again=f"pytest --record-mode={{mode}} {shlex.quote(item.nodeid).replace('{', '{{').replace('}', '}}')}",
        label=item.name,
        speed=marker.kwargs.get("speed") if marker else None,
    )
    item.stash[_DECK] = deck
    try:
        yield deck
    finally:
        deck.keeps = not item.stash.get(_FAILED, False)
        deck.close()


@pytest.fixture
def _recording_environment(recording: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base URLs of SDKs, as `recorder record` sets them, each at the test's recording."""
    from recorder.cli.record import VARIABLES, ask_directly, base_url

    for name, (own, _) in VARIABLES.items():
        before = os.environ.get(name) or own
        if before and base_url(before):
            monkeypatch.setenv(name, recording.url(before))
    if not recording.records:
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            if not os.environ.get(name):
                monkeypatch.setenv(name, "none-is-needed")
    directly: dict[str, str] = dict(os.environ)
    ask_directly(directly)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, directly[name])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not item.config.getoption("--block-network", default=False) or (_uses(item) and _mode(item.config) != "none"):
        return (yield)
    from recorder.offline import blocked

    with blocked():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    deck = item.stash.get(_DECK, None)
    if deck is not None and deck.unanswered:  # a client may have swallowed the 404
        pytest.fail(deck.unanswered[0].said, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "setup":
        item.stash[_FAILED] = False  # a rerun begins anew
    deck = item.stash.get(_DECK, None)
    if deck is None:
        return report
    if report.failed:
        item.stash[_FAILED] = True
        for unanswered in deck.unanswered if report.when == "call" else ():
            report.sections.append((f"recording: {unanswered.request}", unanswered.said))
    if report.when == "teardown":
        failed = item.stash.get(_FAILED, False)
        # An attribute of a report comes along from the workers of xdist.
        report.recorder = {  # type: ignore[attr-defined]
            "test": item.nodeid,
            "path": _shown(item.config, deck.path),
            "saved": deck.saved,
            "dropped": failed and deck.records,
            "unused": [] if failed or deck.records else deck.unused,
        }
    return report


def _uses(item: pytest.Item) -> bool:
    return "recording" in getattr(item, "fixturenames", ()) or item.get_closest_marker("recording") is not None


def _path(item: pytest.Item) -> Path:
    """The test's recording: as its marker says, else by its module and name."""
    marker = item.get_closest_marker("recording")
    given = (marker.args[0] if marker.args else marker.kwargs.get("path")) if marker else None
    if given:
        return item.path.parent / str(given)
    names = [part.name for part in item.listchain() if isinstance(part, pytest.Class)] + [item.name]
    return recording_of(item.path, ".".join(names))


def _shown(config: pytest.Config, path: Path) -> str:
    try:
        return str(path.relative_to(config.invocation_params.dir))
    except ValueError:
        return str(path)


# What is said at the end


class _Recordings:
    """What became of the recordings of a whole run: of this process's tests, or of its workers'."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collected: set[Path] = set()  # modules
        self._used: set[Path] = set()  # recordings
        self._reports: dict[str, dict[str, Any]] = {}  # by test: of those of its reruns the last
        self._stale: set[str] = set()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._collected.add(item.path)
        if _uses(item):
            self._used.add(_path(item))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._used.update(_path(item) for item in items)  # what they would ask for while they run, nobody knows

    def pytest_collection_finish(self) -> None:
        """Find the recordings that no test uses: of modules that were collected whole, and of those that are gone."""
        if self._config.getoption("lf", default=False):
            return
        here = self._config.invocation_params.dir
        parts = {Path(os.path.abspath(here / arg.partition("::")[0])) for arg in self._config.args if "::" in arg}
        for folder in {module.parent / FOLDER for module in self._collected}:
            for own in folder.iterdir() if folder.is_dir() else ():
                module = folder.parent / f"{own.name}.py"
                if own.is_dir() and (module in self._collected - parts or not module.exists()):
                    found = {path for path in own.iterdir() if path.name.endswith(SUFFIX)}
                    self._stale |= {_shown(self._config, path) for path in found - self._used}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = getattr(report, "recorder", None)
        if said is not None:
            self._reports[said["test"]] = said

    def pytest_sessionfinish(self) -> None:
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["recorder_stale"] = sorted(self._stale)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist is done."""
        self._stale |= set(getattr(node, "workeroutput", {}).get("recorder_stale", ()))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = [line for said in self._reports.values() for line in _lines(said)]
        used = {said["path"] for said in self._reports.values()}  # also by request.getfixturevalue
        lines += [f"stale: {path}: no test uses it; delete it" for path in sorted(self._stale - used)]
        if lines:
            terminalreporter.section("recordings")
            for line in lines:
                terminalreporter.write_line(line)


def _lines(said: dict[str, Any]) -> Iterator[str]:
    path = said["path"]
    if said["saved"] is not None:
        yield f"recorded: {path}: {said['saved']} exchange{'s' * (said['saved'] != 1)}"
    if said["dropped"]:
        yield f"not recorded: {path}: its test failed"
    if said["unused"]:
        counted: dict[str, int] = {}
        for request in said["unused"]:
            counted[request] = counted.get(request, 0) + 1
        shown = ", ".join(request + (f" ({number} times)" if number > 1 else "") for request, number in counted.items())
        again = f"pytest --record-mode=rewrite {shlex.quote(said['test'])}"
        yield f"unused: {path}: nobody asked for {shown}; to record it anew: {again}"
