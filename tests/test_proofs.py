"""The proofs of proofs/, each at a size for which there is time; `python -m tests.proofs` does them in full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.projections import runner
from recorder.projections.usage import usage_hourly
from recorder.views import VIEWS
from tests.population import making
from tests.population.making import Population
from tests.proofs import leaks, load, scale

pytestmark = pytest.mark.slow


def test_many_streams_through_one_proxy_are_the_same_at_the_client_and_in_the_log(tmp_path: Path) -> None:
    found = load.loaded(tmp_path / "log.db", streams=60, seconds=3)
    assert found.same == found.streams == 60
    assert found.events == 60 * 3 * 1000 // load.GAP_MS
    assert (found.gaps, found.dropped) == (0, 0)


def test_short_streams_in_the_hook_leave_nothing_behind(tmp_path: Path) -> None:
    for found in leaks.hooked(tmp_path / "log.db", streams=3600):
        assert leaks.flat(found), found


def test_short_streams_through_a_proxy_leave_nothing_behind(tmp_path: Path) -> None:
    found = leaks.proxied(tmp_path / "log.db", streams=3600)
    assert leaks.flat(found), found


def test_a_population_is_made_and_every_question_is_answered_on_it(url: str, tmp_path: Path) -> None:
    note = tmp_path / "planted.json"
    said = list(scale.proved(url, note, lambda: Population(200, 10_000), calls=2))
    again = list(scale.proved(url, note, lambda: Population(200, 10_000), calls=1))
    assert said[0].startswith("made 200 runs")
    assert re.fullmatch(r"200 runs and 10,\d+ events are there already", again[0])
    asked = [line.partition(" p50 ")[0].strip() for line in said if " ms, p90" in line]
    assert [line.partition(" p50 ")[0].strip() for line in again if " ms, p90" in line] == asked
    assert set(asked) > {"usage --by model", "failures --by kind", "ls --failed", "show of a run of 1,000 events"}
    assert {name.partition(",")[0] for name in asked} > set(VIEWS)


def test_a_sum_that_is_not_that_of_its_runs_is_found(engine: sa.Engine, tmp_path: Path) -> None:
    making.fill(engine, Population(200, 10_000))
    runner.catch_up(engine)
    with database.write(engine) as connection:
        connection.execute(usage_hourly.update().values(completion_tokens=usage_hourly.c.completion_tokens + 1))
    with pytest.raises(AssertionError, match="usage_hourly"):
        list(scale.right(engine))
