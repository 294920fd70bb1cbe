"""Charts: bars that are as long as their numbers, times in a line of blocks, the steps of a run on its axis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.cli.charts import BLOCKS, Line, Step, bars, seconds, sparkline, waterfall
from recorder.cli.output import UNKNOWN, cells

S = 1_000_000


def texts(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


def blocks(line: Line) -> str:
    return line[0][0]


@pytest.mark.parametrize("width", [80, 160])
def test_bars_are_in_proportion_and_fill_the_line(width: int) -> None:
    full, half, none = texts(bars([("a", 1_000), ("b", 500), ("c", 0)], width))
    assert cells(full) == width
    assert (full.count("█") // 2 - half.count("█")) in (0, 1)
    assert none == "c      0  "
    assert full.startswith("a  1,000  █")


def test_what_is_not_known_has_a_dash_and_no_bar() -> None:
    assert texts(bars([("a", 5), (None, None)], 20))[1] == f"{UNKNOWN}  {UNKNOWN}  "


def test_the_least_of_numbers_has_a_trace() -> None:
    assert texts(bars([("a", 10**9), ("b", 1)], 80))[1].endswith("▏")


def test_bars_begin_in_one_column_whatever_the_names_are() -> None:
    found = texts(bars([("gpt-4o", 9), ("模型-四", 9), ("🚀 fast", 9)], 80))
    assert len({cells(line[: line.index("█")]) for line in found}) == 1


NAMES = st.none() | st.text(st.characters(exclude_categories=("C", "M")), max_size=100)


@given(st.lists(st.tuples(NAMES, st.none() | st.integers(0, 10**15))), st.sampled_from([40, 80, 160]))
def test_bars_are_never_wider_than_the_line(rows: list[tuple[str | None, int | None]], width: int) -> None:
    assert all(cells(text) <= width for text in texts(bars(rows, width)))


def test_times_that_are_missing_had_none() -> None:
    head, line, axis = sparkline("runs", [("2026-11-20", 4), ("2026-11-21", 8), ("2026-11-24", 1)], 80)
    assert blocks(line) == "▄█  ▁"
    assert blocks(head) == "runs, at most 8 in a day"
    assert blocks(axis) == "2026-11-20   2026-11-24"


def test_what_is_not_known_is_no_gap() -> None:
    assert blocks(sparkline("tokens", [("2026-11-20", None), ("2026-11-22", 8)], 80)[1]) == "· █"


def test_hours_across_a_change_of_the_clock_follow_each_other() -> None:
    rows = [("2026-10-25T02:00:00+02:00", 1), ("2026-10-25T02:00:00+01:00", 2), ("2026-10-25T04:00:00+01:00", 8)]
    assert blocks(sparkline("runs", rows, 80)[1]) == "▁▂ █"  # type: ignore[arg-type]


def test_more_times_than_cells_share_them_and_the_head_says_how_many() -> None:
    rows = [(f"2026-11-{day:02}", 1) for day in range(1, 31)]
    head, line, _ = sparkline("runs", rows, 10)
    assert blocks(line) == "█" * 10
    assert len(blocks(head)) <= 10
    assert blocks(sparkline("runs", rows, 29)[0]) == "runs, at most 2 in 2 days"


@given(
    st.lists(st.tuples(st.dates(), st.none() | st.integers(0, 10**12)), min_size=1, unique_by=lambda row: row[0]),
    st.integers(40, 160),
)
def test_a_line_of_blocks_fits_however_far_apart_the_times_are(rows: list[tuple[object, int | None]], width: int) -> None:
    found = sparkline("tokens", sorted((str(at), number) for at, number in rows), width)
    assert all(cells(text) <= width for text in texts(found))
    assert set(blocks(found[1])) <= {*BLOCKS, "·"}


def test_steps_stand_where_they_were_and_waiting_is_a_gap() -> None:
    steps = [("call weather", "completed", 0, 2 * S, False), ("message", "completed", 8 * S, 10 * S, False)]
    call, message, axis = texts(waterfall(steps, 10 * S, 80))
    assert [call.split("  ")[0], message.split("  ")[0].strip()] == ["call weather", "message"]
    assert (call.endswith("2.000 s"), message.endswith("2.000 s")) == (True, True)
    begins, ends = message.index("█"), call.rindex("█")
    assert begins - ends > call.count("█") * 2
    assert axis.split() == ["0", "10.0", "s"]
    assert len({cells(line) for line in (call, message)}) == 1


def test_a_step_that_nobody_timed_has_a_dash_and_a_moment_a_mark() -> None:
    whole, none, moment, _ = texts(
        waterfall([("a", None, 0, S, False), ("b", None, None, None, False), ("c", None, S, S, False)], S, 80)
    )
    assert "█" in whole
    assert none.split() == ["b", UNKNOWN, UNKNOWN]
    assert moment.split() == ["c", "▏", "0.000", "s"]


def test_a_step_that_nothing_ended_is_drawn_open() -> None:
    opened, ended, _ = texts(waterfall([("a", "in_progress", S, 4 * S, True), ("b", "completed", S, 4 * S, False)], 4 * S, 80))
    assert opened.split()[1:] == [f"{opened.count('█') * '█'}▶", "3.000", "s"]
    assert opened.index("▶") == ended.rindex("█")


def test_a_run_that_nobody_timed_has_no_axis() -> None:
    assert waterfall([("a", None, None, None, True)], 5 * S, 80) == []
    assert waterfall([("a", None, 0, 0, True)], None, 80) == []
    assert waterfall([], S, 80) == []


def test_a_step_that_ends_after_its_run_is_on_the_axis_too() -> None:
    assert "█" in texts(waterfall([("a", None, 5 * S, 9 * S, False)], 2 * S, 80))[0]


TIMES = st.none() | st.integers(0, 10**10)


@given(
    st.lists(st.tuples(NAMES.map(str), st.sampled_from(["completed", "failed", None]), TIMES, TIMES, st.booleans())),
    TIMES,
    st.sampled_from([60, 80, 160]),
)
def test_a_timeline_is_never_wider_than_the_line(steps: list[Step], duration_us: int | None, width: int) -> None:
    assert all(cells(text) <= width for text in texts(waterfall(steps, duration_us, width)))


@pytest.mark.parametrize(
    ("us", "said"),
    [(0, "0.000 s"), (412_000, "0.412 s"), (12_400_000, "12.4 s"), (200 * S, "3 min 20 s"), (59_999_999, "60.0 s")],
)
def test_durations(us: int, said: str) -> None:
    assert seconds(us) == said
