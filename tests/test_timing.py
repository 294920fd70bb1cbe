"""When each chunk of a replay is due."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.replay.timing import absolute, capped, gaps, paced, scaled, schedule

OFFSETS = st.lists(st.integers(0, 10**10), max_size=50).map(sorted)
SPEEDS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 10.0, 1000.0])
CAPS = st.sampled_from([0.0, 0.001, 0.5, 2.0, 3600.0])


def timed(offsets: list[int]) -> list[tuple[float, int]]:
    """Each offset with its number as the item."""
    return [(offset, number) for number, offset in enumerate(offsets)]


def test_known_gaps() -> None:
    recorded = [(1_000_000, "a"), (1_500_000, "b"), (1_500_000, "c"), (9_500_000, "d"), (9_600_000, "e")]
    assert list(schedule(recorded)) == recorded
    assert list(schedule(recorded, 10)) == [(100_000, "a"), (150_000, "b"), (150_000, "c"), (950_000, "d"), (960_000, "e")]
    assert list(schedule(recorded, max_gap=2.0)) == [
        (1_000_000, "a"),
        (1_500_000, "b"),
        (1_500_000, "c"),
        (3_500_000, "d"),
        (3_600_000, "e"),
    ]
    assert list(schedule(recorded, 2, 0.2)) == [(100_000, "a"), (200_000, "b"), (200_000, "c"), (300_000, "d"), (350_000, "e")]
    assert list(schedule(recorded, None)) == [(0, "a"), (0, "b"), (0, "c"), (0, "d"), (0, "e")]
    assert list(schedule(recorded[1:], start_us=1_500_000)) == [(0, "b"), (0, "c"), (8_000_000, "d"), (8_100_000, "e")]


@given(OFFSETS, SPEEDS, st.none() | CAPS)
def test_items_keep_their_order_and_none_is_lost(offsets: list[int], speed: float, max_gap: float | None) -> None:
    due = list(schedule(timed(offsets), speed, max_gap))
    assert [item for _, item in due] == list(range(len(offsets)))
    assert [at for at, _ in due] == sorted(at for at, _ in due)


@given(OFFSETS)
def test_gaps_add_up_to_the_offsets(offsets: list[int]) -> None:
    between = [gap for gap, _ in gaps(timed(offsets))]
    assert all(gap >= 0 for gap in between)
    assert sum(between) == (offsets[-1] if offsets else 0)
    assert list(absolute(gaps(timed(offsets)))) == timed(offsets)


@given(OFFSETS, CAPS)
def test_no_gap_is_longer_than_the_cap_and_shorter_ones_stay(offsets: list[int], cap: float) -> None:
    before = [gap for gap, _ in gaps(timed(offsets))]
    after = [gap for gap, _ in capped(gaps(timed(offsets)), cap * 1e6)]
    assert after == [min(gap, cap * 1e6) for gap in before]


@given(OFFSETS, SPEEDS)
def test_speed_divides_the_whole(offsets: list[int], speed: float) -> None:
    due = [at for at, _ in schedule(timed(offsets), speed)]
    assert due == pytest.approx([offset / speed for offset in offsets], rel=1e-9, abs=1e-6)


@given(OFFSETS, SPEEDS)
def test_scaling_back_gives_the_same(offsets: list[int], speed: float) -> None:
    there = scaled(gaps(timed(offsets)), speed)
    back = list(absolute(scaled(there, 1 / speed)))
    assert [at for at, _ in back] == pytest.approx(offsets, rel=1e-9, abs=1e-6)


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_offsets_that_go_back_never_make_a_negative_gap(offsets: list[int]) -> None:
    """A file that somebody wrote may hold them in any order; then an item is due with the latest before it."""
    due = [at for at, _ in schedule(timed(offsets))]
    assert due == [max(offsets[: number + 1]) for number in range(len(offsets))]


@given(OFFSETS)
def test_instant_is_all_at_once(offsets: list[int]) -> None:
    assert list(schedule(timed(offsets), None, 2.0)) == [(0.0, number) for number in range(len(offsets))]


def test_a_replay_is_lazy() -> None:
    """A stream without end can be replayed: nothing is read before it is due."""

    def endless():  # type: ignore[no-untyped-def]
        number = 0
        while True:
            yield number * 1000, number
            number += 1

    due = schedule(endless(), 2.0, 1.0)
    assert [next(due) for _ in range(3)] == [(0, 0), (500, 1), (1000, 2)]


def test_pacing_makes_up_for_what_its_consumer_spends() -> None:
    """Deadlines are of the clock, not of the item before: ten gaps of 50 ms with 45 ms of work in each are 500 ms."""
    began = time.perf_counter()
    late = []
    for number in paced((50_000 * number, number) for number in range(11)):
        late.append(time.perf_counter() - began - 0.05 * number)
        time.sleep(0.045)
    assert min(late) >= 0
    assert late[-1] < 0.4, "it has drifted by the work of each item"


def test_pacing_at_once_does_not_wait() -> None:
    began = time.perf_counter()
    assert list(paced((0.0, number) for number in range(10_000))) == list(range(10_000))
    assert time.perf_counter() - began < 5
