"""What the commands print on a terminal of 80 and of 160 columns, in a pipe, and as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import database
from recorder.cli.columns import GAP, Column, fitted
from recorder.cli.output import UNKNOWN, cells, dollars
from recorder.sse import Frame
from tests import writing
from tests.commands import answer, output, recorder, terminal
from tests.writing import DONE, said, stream_id

pytestmark = pytest.mark.slow

LABEL = "天気予報 🌦 北京の夜"
TEXT = "今日の東京は晴れ、最高気温は 21 度です。🌞 The weather in Oslo is grey, as it mostly is in November. " * 3
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "ls": ("ls",),
    "usage": ("usage",),
    **{f"usage by {by}": ("usage", "--by", by) for by in ("model", "session", "label", "hour")},
    **{f"usage by {by} as a chart": ("usage", "--by", by, "--chart") for by in ("model", "label", "day", "hour")},
    "usage as a chart": ("usage", "--chart"),
    "failures": ("failures",),
    "failures by code": ("failures", "--by", "code"),
    "failures as a chart": ("failures", "--by", "code", "--chart"),
    "a stream": ("show", stream_id(0)),
    "a stream event by event": ("show", stream_id(0), "--events"),
    "a stream at an event": ("show", stream_id(0), "--at", "5"),
    "a run": ("show", "run_1"),
    "a failed run": ("show", "run_of_a_rather_long_name"),
    "a session": ("show", LABEL),
}
"""Each way to look at what was recorded."""


def paced(frames: list[Frame]) -> list[Frame]:
    """700 ms apart, and 3 s more before the event at position 6."""
    return [frame._replace(offset_us=at * 700_000 + 3_000_000 * (at >= 6)) for at, frame in enumerate(frames)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that are well, that failed, that wait, and that said nothing of their usage; names and texts of wide characters."""
    file = tmp_path_factory.mktemp("output") / "log.db"
    engine = database.connect(f"sqlite:///{file}")
    usage = {"prompt_tokens": 1_234_567, "completion_tokens": 4_321, "total_tokens": 1_238_888}
    writing.write(engine, writing.stream(0, label=LABEL), paced(writing.frames(said(TEXT, usage=usage, model="模型-大"))))
    error = {"code": "rate_limit_exceeded", "message": "请求太多了,请稍后再试。" * 8}
    name = "run_of_a_rather_long_name_such_as_no_api_gives_but_some_proxies_do"
    failed = [("thread.run.failed", writing.run("failed", name, last_error=error, model="gpt-4o-mini-2024-07-18")), DONE]
    writing.write(engine, writing.stream(1, label="nightly"), writing.frames(failed))
    writing.write(engine, writing.stream(2), writing.frames(writing.asked("run_3", thread_id="thread_3", model="モデル🚀")))
    engine.dispose()
    return file


def plain(text: str) -> list[str]:
    return COLOURS.sub("", text).splitlines()


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("name", QUESTIONS)
def test_no_line_is_wider_than_the_terminal(filled: Path, name: str, columns: int) -> None:
    found = plain(terminal(*QUESTIONS[name], db=filled, columns=columns))
    assert found
    assert [line for line in found if cells(line) > columns] == []
    assert not any("\x1b" in line for line in found)


@pytest.mark.parametrize("columns", [80, 160])
def test_none_of_the_shared_streams_is_wider_than_the_terminal(shared: Path, db: str, columns: int) -> None:
    output("import", "--pace", "50", str(shared / "streams"), db=db)
    rows = answer("ls", "--limit", "1000", db=db)
    ids = [row["session_id"] for row in rows[:: len(rows) // 6]]
    shown = answer("show", "run_5bNLQNDxCCdZGUpcLlY2et4i", db=db)
    for args in (("ls",), ("failures",), ("usage", "--by", "model"), *(("show", id) for id in (*ids, shown["id"], "last"))):
        found = plain(terminal(*args, db=db, columns=columns))
        assert [line for line in found if cells(line) > columns] == [], args


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_pipe_has_no_colours_no_boxes_and_nothing_cut(filled: Path, name: str) -> None:
    printed = output(*QUESTIONS[name], db=filled).decode()
    assert printed
    assert "\x1b" not in printed
    assert not re.search("[─│┃━]", printed)
    if "chart" not in name:
        assert "…" not in printed


def test_a_terminal_has_colours(filled: Path) -> None:
    assert "\x1b[31m" in terminal("failures", db=filled), "red"
    assert "\x1b[32m" in terminal("ls", db=filled), "green"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
@pytest.mark.parametrize("name", ["ls", "usage by model as a chart", "failures", "a stream", "a run"])
def test_where_colours_are_not_wanted_there_are_none(filled: Path, name: str, variables: dict[str, str]) -> None:
    assert "\x1b" not in terminal(*QUESTIONS[name], db=filled, variables=variables)


def test_columns_are_aligned_beside_wide_characters(filled: Path) -> None:
    head, _, *rows = plain(terminal("ls", db=filled, columns=160))
    assert len(rows) == 3
    at = cells(head[: head.index("started")])
    assert {cells(row[: re.search(r"\d{4}-\d\d-\d\d ", row).start()]) for row in rows} == {at}  # type: ignore[union-attr]
    piped = output("ls", db=filled).decode().splitlines()
    at = cells(piped[0][: piped[0].index("started")])
    assert {cells(row[: re.search(r"\d{4}-\d\d-\d\d ", row).start()]) for row in piped[1:]} == {at}  # type: ignore[union-attr]


def test_what_is_not_known_is_a_dash_on_a_terminal_and_never_zero(filled: Path) -> None:
    rows = plain(terminal("usage", "--by", "model", db=filled, columns=160))
    (row,) = [row.split() for row in rows if row.startswith("gpt-4o-mini")]
    assert row[1:] == ["1", "1", *[UNKNOWN] * 7, "1"]
    (known,) = [row.split() for row in rows if row.startswith("模型")]
    assert known[1:4] == ["1", "0", "1,234,567"]


def test_a_wide_terminal_shows_more_and_a_narrow_one_what_matters(filled: Path) -> None:
    narrow, wide = (plain(terminal("ls", db=filled, columns=columns))[0].split() for columns in (80, 160))
    assert set(narrow) < set(wide)
    assert {"session", "started", "status"} <= set(narrow)
    narrow, wide = (plain(terminal("failures", db=filled, columns=columns))[0].split() for columns in (80, 160))
    assert "message" in wide
    assert {"at", "kind", "code"} <= set(narrow)


def test_an_id_is_shortened_at_its_end_and_what_is_left_of_it_names_it(filled: Path) -> None:
    (row,) = [row for row in plain(terminal("failures", db=filled)) if "rate_limit" in row]
    (short,) = re.findall(r"(run_of_\w+)…", row)
    assert answer("show", short, db=filled)["status"] == "failed"


def test_a_transcript_joins_deltas_and_tells_silences(filled: Path) -> None:
    piped = output("show", stream_id(0), db=filled).decode()
    assert re.search(
        "^ *4 +2\\.800s  thread\\.message\\.delta \N{MULTIPLICATION SIGN}2 +" + re.escape(TEXT.strip()), piped, re.MULTILINE
    )
    assert piped.count("· 3.7 s of silence ·\n") == piped.count("silence") == 1
    found = " ".join(line.strip() for line in plain(terminal("show", stream_id(0), db=filled)))
    assert "今日の東京は晴れ" in found
    assert len(re.findall(r"thread\.message\.delta +\{", output("show", stream_id(0), "--events", db=filled).decode())) == 2


def test_a_run_shows_its_steps_on_an_axis(filled: Path) -> None:
    for printed in (output("show", "run_1", db=filled).decode(), terminal("show", "run_1", db=filled)):
        (row,) = [line for line in plain(printed) if "█" in line]
        assert row.startswith("message_creation")
        assert row.endswith(" s")


# CSV


def parsed(printed: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(printed.decode(), newline="")))


def as_csv(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return "" if value is None else str(value)


@pytest.mark.parametrize(
    "args", [("usage",), ("usage", "--by", "model"), ("failures",), ("failures", "--by", "kind"), ("ls",)], ids=" ".join
)
def test_csv_has_what_json_has(filled: Path, args: tuple[str, ...]) -> None:
    expected = [{key: as_csv(value) for key, value in row.items()} for row in answer(*args, db=filled)]
    assert parsed(output(*args, "--csv", db=filled)) == expected != []


def test_csv_of_a_stream_are_its_events_and_of_a_session_its_streams(filled: Path) -> None:
    events = answer("show", stream_id(0), db=filled)["events"]
    assert [row["data"] for row in parsed(output("show", stream_id(0), "--csv", db=filled))] == [row["data"] for row in events]
    (row,) = parsed(output("show", LABEL, "--csv", db=filled))
    assert row == {"stream_id": stream_id(0), "outcome": "done", "events": "10"}


def test_csv_of_nothing_has_the_names_of_its_columns(filled: Path, db: str) -> None:
    for args in (("failures",), ("failures", "--by", "code"), ("ls",), ("usage", "--by", "model")):
        names = output(*args, "--csv", db=filled).splitlines()[0]
        assert output(*args, "--csv", db=db) == names + b"\n"


@pytest.mark.parametrize(
    "args",
    [
        ("ls", "--csv", "--json"),
        ("show", "run_1", "--csv"),
        ("show", "run_1", "--events"),
        ("usage", "--tz", "Nowhere/Land"),
        ("usage", "--tz", "Asia/Tokyo", "--since", "0001-01-01"),
        ("usage", "--tz", "../etc"),
        ("usage", "--tz", ""),
        ("usage", "--limit", "0"),
        ("failures", "--kind", "bad luck"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_had_is_one_line(filled: Path, args: tuple[str, ...]) -> None:
    done = recorder(*args, db=filled)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")


# Options


def test_days_and_hours_are_of_the_zone_that_is_asked_for(filled: Path) -> None:
    def times(*args: str) -> set[str]:
        return {next(iter(row.values())) for row in answer("usage", *args, db=filled)}

    assert times("--by", "day") == {"2026-05-28"}
    assert times("--by", "day", "--tz", "Asia/Tokyo") == {"2026-05-29"}
    assert times("--by", "hour", "--tz", "Asia/Kolkata") == {"2026-05-29T01:00:00+05:30"}


def test_times_without_a_zone_are_of_the_zone_that_is_asked_for(filled: Path) -> None:
    def runs(*args: str) -> int:
        (row,) = answer("usage", *args, db=filled)
        return int(row["runs"])

    everything = runs()
    assert everything
    assert (
        runs("--since", "2026-05-29", "--tz", "Asia/Tokyo") == runs("--tz", "Asia/Tokyo", "--since", "2026-05-29") == everything
    )
    assert runs("--until", "2026-05-29", "--tz", "Asia/Tokyo") == runs("--since", "2026-05-29") == 0
    assert runs("--since", "2026-05-29T00:00Z", "--tz", "Asia/Tokyo") == 0


def test_the_ends_of_the_calendar_are_times(filled: Path) -> None:
    (everything,) = answer("usage", db=filled)
    for by in ((), ("--by", "day"), ("--by", "model")):
        assert answer("usage", *by, "--since", "0001-01-01", "--until", "9999-12-31T23:59:59", db=filled) == answer(
            "usage", *by, db=filled
        )
    assert everything["runs"]
    for late in ("9999-12-31", "9999-12-31T00:30", "9999-12-31T23:30"):
        assert [row["runs"] for row in answer("usage", "--since", late, db=filled)] == [0]


def test_a_table_of_sessions_has_the_latest_hundred_and_says_so(db: str) -> None:
    engine = database.connect(db)
    for number in range(101):
        writing.write(engine, writing.on(f"thread_{number}", f"label {number}", number), writing.frames(said(id=f"run_{number}")))
    engine.dispose()
    for by in ("session", "label"):
        done = recorder("usage", "--by", by, db=db)
        assert len(done.stdout.splitlines()) == 1 + 100
        assert done.stderr.decode() == "the latest 100 of more; --limit N shows N of them, --json and --csv all\n"
        assert len(answer("usage", "--by", by, db=db)) == 101
        assert recorder("usage", "--by", by, "--limit", "101", db=db).stderr == b""


def test_a_table_of_failures_says_how_many_more_there_are(filled: Path) -> None:
    done = recorder("failures", "--limit", "1", db=filled)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.decode() == "1 more; --limit 2 shows them too\n"
    assert recorder("failures", db=filled).stderr == b""
    assert len(answer("failures", "--limit", "1", db=filled)) == 1
    assert len(answer("failures", "--kind", "failed", db=filled)) == 1
    assert answer("failures", "--since", "2030-01-01", db=filled) == []


def test_a_table_of_failures_has_100_and_json_all(db: str) -> None:
    engine = database.connect(db)
    for number in range(103):
        failed = [("thread.run.failed", writing.run("failed", f"run_{number}", last_error={"code": "x", "message": "y"})), DONE]
        writing.write(engine, writing.stream(number), writing.frames(failed))
    engine.dispose()
    done = recorder("failures", db=db)
    assert len(done.stdout.splitlines()) == 1 + 100
    assert done.stderr.decode() == "3 more; --limit 103 shows them too\n"
    assert len(answer("failures", db=db)) == len(parsed(output("failures", "--csv", db=db))) == 103


@pytest.mark.parametrize(("value", "shown"), [(None, None), (0, "$0.0000"), (0.00001, "<$0.0001"), (1234.5, "$1,234.5000")])
def test_dollars(value: float | None, shown: str | None) -> None:
    assert dollars(value) == shown


# The room that columns have

COLUMN = st.tuples(st.sampled_from([0, 5, 20]), st.integers(0, 5)).map(lambda given: Column("n", least=given[0], rank=given[1]))


@given(st.lists(st.tuples(COLUMN, st.integers(1, 60)), min_size=1), st.integers(20, 200))
def test_columns_fit_and_only_texts_are_shortened(given_columns: list[tuple[Column, int]], width: int) -> None:
    columns, needed = zip(*given_columns, strict=True)
    widths = fitted(columns, needed, width)
    if sum(widths.values()) + GAP * (len(widths) - 1) > width:
        assert all(columns[number].rank == 0 for number in widths), "what may be left out is"
    for number, (column, need) in enumerate(given_columns):
        assert column.rank or number in widths
        if number in widths:
            assert widths[number] == need if not column.least else min(need, column.least) <= widths[number] <= need


def test_a_text_gives_way_before_a_column_does() -> None:
    columns = [Column("id", least=10), Column("a", rank=1), Column("b", rank=2)]
    assert fitted(columns, [36, 6, 6], 52) == {0: 36, 1: 6, 2: 6}
    assert fitted(columns, [36, 6, 6], 26) == {0: 10, 1: 6, 2: 6}
    assert fitted(columns, [36, 6, 6], 25) == {0: 17, 1: 6}
