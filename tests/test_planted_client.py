"""A bug that needs bad luck, from the session in which it happened: met again by `serve` each time, and by other bad luck."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import impatient
from tests.impatient import ARGUMENTS, asked_of, replayed
from tests.proofs.reproduction import SEEDS, reproducing_seeds, served
from tests.test_serve import Serve

pytestmark = pytest.mark.slow

TIMES = 6


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session in which it happened."""
    file = tmp_path_factory.mktemp("planted") / "log.db"
    broken = impatient.recorded(file)
    assert broken != ARGUMENTS
    assert "\ufffd" in broken
    return file


def test_without_bad_luck_the_client_is_right() -> None:
    assert impatient.arguments(impatient.events()) == ARGUMENTS
    body = b"".join(impatient.events())
    assert impatient.arguments(body[at : at + 1] for at in range(len(body))) == ARGUMENTS, "split everywhere, but without a pause"


def test_the_recorded_session_brings_it_out_each_time(file: Path) -> None:
    assert set(served(file, TIMES)) == {False}


def test_at_a_thousand_times_the_pace_it_does_not_show(file: Path) -> None:
    assert set(served(file, TIMES, "--speed", "1000")) == {True}
    assert set(served(file, TIMES, "--instant")) == {True}


def test_other_boundaries_bring_it_out_again_with_a_seed_that_is_found(file: Path) -> None:
    found = reproducing_seeds(file, range(SEEDS))
    others = [seed for seed in range(SEEDS) if seed not in found]
    assert found
    assert others, "the others are other boundaries, too"
    assert set(served(file, TIMES, "--fault", f"rechunk:random:{found[0]}")) == {False}
    assert set(served(file, TIMES, "--fault", f"rechunk:random:{others[0]}")) == {True}


def test_a_lucky_session_brings_it_out_with_a_stall_and_a_seed(tmp_path: Path) -> None:
    """The recording of a day on which nothing happened."""
    file = tmp_path / "log.db"
    impatient.recorded_on_a_good_day(file)
    assert replayed(file) == ARGUMENTS
    second = 1 + 5  # the head, and what came before the second delta
    faults = [(f"stall@{second}:2s", f"rechunk:random:{seed}") for seed in range(SEEDS)]
    with ThreadPoolExecutor(SEEDS) as pool:
        right = list(pool.map(lambda both: replayed(file, *both) == ARGUMENTS, faults))
    assert set(right) == {False, True}
    chosen = faults[right.index(False)]
    with Serve("--fault", chosen[0], "--fault", chosen[1], db=file) as server:
        assert asked_of(server.port) != ARGUMENTS
