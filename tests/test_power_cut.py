"""The power cut at some moments: proofs/power_cuts.py says how, and does it at all of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recorder import database
from recorder.collect.writer import Writer
from recorder.projections import runner
from recorder.projections.verify import verify
from tests.disk import Platter, choices, put
from tests.proofs.power_cuts import CHECKPOINT, SEED, Found, cut, executed, recorded
from tests.test_writer import begun

pytestmark = pytest.mark.slow

SHARE = 0.1
"""Of the moments between two writes, at which the power is cut."""


@pytest.fixture(scope="module")
def statements(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return recorded(tmp_path_factory.mktemp("recorded") / "real.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "left"
    made.mkdir()
    return made


def test_what_is_executed_is_what_the_recorder_does(statements: list[str]) -> None:
    """The pragmas among it, from the very first connection on; and what comes of it is what stood in the real file."""
    assert any("synchronous = FULL" in each for each in statements)
    assert any("journal_mode = WAL" in each for each in statements)
    assert statements.count("COMMIT") > 60
    disk, committed = executed(statements, "FULL")
    assert disk.syncs > statements.count("COMMIT") / 2
    assert len({each.digest for each in committed}) > 50
    wrote = [told for told in disk.told if told.name == "/log.db" and told.data]
    assert len(wrote) > 5 * CHECKPOINT, "there were no checkpoints"


def test_a_power_cut_loses_no_commit_that_had_returned_and_leaves_none_in_parts(statements: list[str], folder: Path) -> None:
    disk, committed = executed(statements, "FULL")
    found = cut(disk, committed, folder, SHARE)
    assert found.cuts > 300
    assert found == Found(found.cuts, 0, 0)


def test_control_with_synchronous_normal_commits_are_lost(statements: list[str], folder: Path) -> None:
    """Else the disk of these tests would forget nothing. Nothing stands there in parts."""
    disk, committed = executed(statements, "NORMAL")
    found = cut(disk, committed, folder, SHARE)
    assert found.lost > 0
    assert found.torn == 0


def test_control_with_synchronous_off_the_file_is_damaged(statements: list[str], folder: Path) -> None:
    disk, committed = executed(statements, "OFF")
    found = cut(disk, committed, folder, max(SHARE, 0.3))
    assert found.lost > 0
    assert found.torn > 0


def test_after_a_power_cut_the_recorder_goes_on(statements: list[str], folder: Path) -> None:
    """It opens what is left, ends what was open, and verify finds nothing amiss."""
    disk, committed = executed(statements, "FULL")
    begun_at = next(each.told for each in committed if each.told) + 1  # the tables are there
    dice = random.Random(SEED)
    for _ in range(8):
        moment = dice.randrange(begun_at, len(disk.told))
        platter = Platter()
        for told in disk.told[:moment]:
            platter.take(told)
        put(platter.left(dice.choice(choices(dice))), folder)
        engine = database.connect(f"sqlite:///{folder / 'log.db'}")
        with Writer(engine) as writer:
            begun(writer).end("eof")
        runner.catch_up(engine)
        report = verify(engine)
        assert report.problems == []
        assert report.streams > 0
        engine.dispose()
