"""What runs cost, over both databases: never stale against the runs, and summed up exactly."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, prices, reports
from recorder.cli import main
from recorder.projections import PRICED, runner
from recorder.projections.costs import COSTS, costs
from recorder.projections.pending_sums import pending_sums
from recorder.projections.recost import recost
from recorder.projections.runs import runs
from recorder.projections.usage import usage_hourly
from recorder.projections.verify import verify
from tests import commands, writing
from tests.writing import BORN, answered, asked, said, stream_id, tokens

pytestmark = pytest.mark.slow

HOUR = 3600
PLAIN = tokens(1000, 100)
GPT_4O = 1000 * 2500 + 100 * 10_000
MINI = 1000 * 150 + 100 * 600


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECORDER_PRICES", raising=False)


def add(engine: sa.Engine, number: int, events: Sequence[writing.Event], label: str | None = None) -> None:
    writing.write(engine, writing.on(f"thread_{number % 3}", label, number), writing.frames(events))


def rows(engine: sa.Engine, table: sa.Table) -> list[dict[str, Any]]:
    with database.read(engine) as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()]


def known(engine: sa.Engine) -> dict[str, int]:
    return {row["run_key"]: row["cost_nusd"] for row in rows(engine, costs)}


def exact(engine: sa.Engine) -> None:
    """Assert that the sums hold those of the costs, by hour, protocol, model and assistant, and that nothing is left to do."""
    want: dict[tuple[Any, ...], list[int]] = {}
    cost = known(engine)
    for run in rows(engine, runs):
        if run["run_key"] in cost:
            key = run["hour"], *(run[name] or "" for name in ("protocol", "model", "assistant_id"))
            want.setdefault(key, []).append(cost.pop(run["run_key"]))
    assert cost == {}, "costs of no run"
    have = {tuple(row.values())[:4]: tuple(row[name] for name in COSTS) for row in rows(engine, usage_hourly)}
    have = {key: sums for key, sums in have.items() if sums != (0, None)}
    assert have == {key: (len(found), sum(found)) for key, found in want.items()}
    assert rows(engine, pending_sums) == []


@pytest.fixture
def filled(engine: sa.Engine) -> sa.Engine:
    """Runs of two hours: two of gpt-4o, one of gpt-4o-mini, one of a model that nobody knows, one without usage."""
    add(engine, 0, said(id="run_a", usage=PLAIN), "mine")
    add(engine, 1, said(id="run_b", usage=tokens(1000, 100, prompt_token_details={"cached_tokens": 600})))
    add(engine, 2, said(id="run_c", usage=PLAIN, model="gpt-4o-mini", created_at=BORN + HOUR))
    add(engine, 3, said(id="run_d", usage=PLAIN, model="my-own", created_at=BORN + HOUR))
    add(engine, 4, said(id="run_e"))
    runner.catch_up(engine)
    return engine


def test_runs_are_priced_as_they_are_projected_and_what_is_not_known_has_no_cost(filled: sa.Engine) -> None:
    assert known(filled) == {"run_a": GPT_4O, "run_b": GPT_4O - 600 * 1250, "run_c": MINI}
    row = rows(filled, costs)[0]
    assert row["price_model"] == "openai/gpt-4o"
    assert row["source"].startswith("genai-prices ")
    exact(filled)


def test_what_a_second_catching_up_finds_is_priced_too(filled: sa.Engine) -> None:
    add(filled, 5, said(id="run_f", usage=PLAIN))
    runner.catch_up(filled)
    assert known(filled)["run_f"] == GPT_4O
    exact(filled)


def test_many_runs_are_priced_in_slices(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recorder.projections.pending_sums.SLICES", {"cost": 4, "session": 3, "hour": 2})
    for number in range(30):
        add(engine, number, said(id=f"run_{number}", usage=PLAIN, created_at=BORN + number * 1000))
    runner.catch_up(engine)
    assert len(known(engine)) == 30
    exact(engine)


def test_a_run_that_is_replaced_is_priced_anew(engine: sa.Engine) -> None:
    add(engine, 0, asked("run_a", created_at=BORN - HOUR))
    runner.catch_up(engine)
    assert known(engine) == {}
    request = writing.submitting(run_id="run_a", thread_id="thread_0")
    going_on = writing.stream(1, request._replace(host="api.openai.com"))
    writing.write(engine, going_on, writing.frames(answered("run_a", created_at=BORN - HOUR)))
    runner.catch_up(engine)
    assert known(engine) == {"run_a": 7 * 2500 + 3 * 10_000}
    exact(engine)


def test_a_run_id_that_comes_back_in_another_hour_with_another_model_has_the_cost_of_that(filled: sa.Engine) -> None:
    add(filled, 9, said(id="run_a", usage=PLAIN, model="gpt-4o-mini", created_at=BORN + 5 * HOUR))
    runner.catch_up(filled)
    assert known(filled)["run_a"] == MINI
    exact(filled)


def test_a_run_whose_model_becomes_unknown_loses_its_cost(filled: sa.Engine) -> None:
    add(filled, 9, said(id="run_a", usage=PLAIN, model="my-own", created_at=BORN + 5 * HOUR))
    runner.catch_up(filled)
    assert "run_a" not in known(filled)
    exact(filled)


def test_between_the_replacing_and_the_pricing_a_run_has_no_cost_rather_than_a_stale_one(
    filled: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process leaves it that is killed there; the next one goes on."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    add(filled, 9, said(id="run_a", usage=PLAIN, model="gpt-4o-mini", created_at=BORN + 5 * HOUR))
    with monkeypatch.context() as patched:
        patched.setattr(runner, "sum_up", killed)
        with pytest.raises(KeyboardInterrupt):
            runner.catch_up(filled)
    assert "run_a" not in known(filled)
    assert ("cost", "run_a") in {(row["kind"], row["key"]) for row in rows(filled, pending_sums)}
    runner.catch_up(filled)
    assert known(filled)["run_a"] == MINI
    exact(filled)


def test_deleting_removes_what_runs_cost(filled: sa.Engine) -> None:
    runner.erase(filled, [stream_id(0), stream_id(2)])
    assert set(known(filled)) == {"run_b"}
    exact(filled)
    runner.erase(filled, [stream_id(number) for number in range(5)])
    assert [rows(filled, table) for table in PRICED] == [[]]


def test_a_rebuild_prices_all_again_and_removes_what_belongs_to_no_run(filled: sa.Engine) -> None:
    stray = {"run_key": "run_x", "cost_nusd": 1, "price_date": None, "price_model": "x", "source": "x"}
    want = rows(filled, costs)
    with database.write(filled) as connection:
        connection.execute(costs.update().values(cost_nusd=1))
        connection.execute(costs.insert().values(stray))
        connection.execute(usage_hourly.update().values(cost_nusd=1))
    runner.rebuild(filled)
    assert rows(filled, costs) == want
    exact(filled)


def test_costs_are_no_part_of_what_verify_compares(filled: sa.Engine) -> None:
    with database.write(filled) as connection:
        connection.execute(costs.update().values(cost_nusd=1))
    assert verify(filled).problems == []


# The user's file


MINE = '[prices."my-own"]\ninput = 3\noutput = 5\n'
OWN = 1000 * 3000 + 100 * 5000


def test_whoever_catches_up_takes_the_file_that_the_environment_names(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    monkeypatch.setenv("RECORDER_PRICES", str(tmp_path / "mine.toml"))
    add(engine, 0, said(id="run_a", usage=PLAIN, model="my-own"))
    runner.catch_up(engine)
    assert rows(engine, costs) == [
        {"run_key": "run_a", "cost_nusd": OWN, "price_date": None, "price_model": "my-own", "source": "mine.toml"}
    ]
    exact(engine)


def test_a_bad_file_is_said_before_anything_is_projected(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.toml").write_text("[prices.x]\ninput = 1")
    add(engine, 0, said(id="run_a", usage=PLAIN))
    monkeypatch.setenv("RECORDER_PRICES", str(tmp_path / "bad.toml"))
    for act in (runner.catch_up, runner.rebuild, lambda engine: runner.erase(engine, [stream_id(0)])):
        with pytest.raises(prices.UsageError, match=r"prices\.x\.output is missing"):
            act(engine)
    monkeypatch.delenv("RECORDER_PRICES")
    runner.catch_up(engine)
    assert known(engine) == {"run_a": GPT_4O}


# recost


def recosted(url: str, *args: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["--db", url, "recost", "--json", *args]) == 0
    return json.loads(capsys.readouterr().out)


def test_recost_changes_history_after_the_file_has_changed_and_then_nothing_more(
    filled: sa.Engine, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    before = known(filled)
    first = recosted(url, "--prices", str(file), capsys=capsys)
    assert first == {
        "runs": 5,
        "priced": 4,
        "changed": 1,
        "without_usage": 1,
        "without_price": [],
        "before_usd": sum(before.values()) / 1e9,
        "after_usd": (sum(before.values()) + OWN) / 1e9,
    }
    assert known(filled) == {**before, "run_d": OWN}
    exact(filled)
    again = recosted(url, "--prices", str(file), capsys=capsys)
    assert (again["changed"], again["before_usd"], again["after_usd"]) == (0, first["after_usd"], first["after_usd"])
    file.write_text(MINE.replace("3", "4") + '[prices."gpt-4o"]\ninput = 0\noutput = 0\n')
    recosted(url, "--prices", str(file), capsys=capsys)
    assert known(filled) == {"run_a": 0, "run_b": 0, "run_c": MINI, "run_d": OWN + 1000 * 1000}
    exact(filled)
    last = recosted(url, capsys=capsys)
    assert last["without_price"] == [{"model": "my-own", "runs": 1}]
    assert known(filled) == before
    exact(filled)


def test_recost_of_a_time_leaves_the_rest_as_it_is(
    filled: sa.Engine, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[prices."*"]\ninput = 1\noutput = 0\n')
    hour = datetime.fromtimestamp(BORN + HOUR, UTC).isoformat()
    later = recosted(url, "--prices", str(file), "--since", hour, capsys=capsys)
    assert (later["runs"], later["priced"]) == (2, 2)
    assert known(filled) == {"run_a": GPT_4O, "run_b": GPT_4O - 600 * 1250, "run_c": 1_000_000, "run_d": 1_000_000}
    exact(filled)
    earlier = recosted(url, "--prices", str(file), "--until", hour, capsys=capsys)
    assert (earlier["runs"], earlier["priced"], earlier["without_usage"]) == (3, 2, 1)
    assert set(known(filled).values()) == {1_000_000}
    exact(filled)


def test_a_run_has_the_price_of_its_own_day(engine: sa.Engine) -> None:
    """o3 cost $10 and $40 before 2025-06-10, $2 and $8 since."""
    for number, day in enumerate((datetime(2025, 5, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC))):
        add(engine, number, said(id=f"run_{number}", usage=PLAIN, model="o3", created_at=int(day.timestamp())))
    runner.catch_up(engine)
    assert [(row["cost_nusd"], row["price_date"]) for row in rows(engine, costs)] == [
        (1000 * 10_000 + 100 * 40_000, None),
        (1000 * 2000 + 100 * 8000, "2025-06-10"),
    ]
    recost(engine, prices.load())
    assert len({row["cost_nusd"] for row in rows(engine, costs)}) == 2


def test_recost_goes_through_all_runs_slice_by_slice(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through many that began at one moment."""
    monkeypatch.setattr("recorder.projections.recost.SLICE", 4)
    for number in range(21):
        add(engine, number, said(id=f"run_{number}", usage=PLAIN, created_at=BORN + number // 10))
    runner.catch_up(engine)
    with database.write(engine) as connection:
        connection.execute(costs.delete())
    seen: list[int] = []
    found = recost(engine, prices.load(), progress=seen.append)
    assert (found.runs, found.priced, found.changed, found.before, found.after) == (21, 21, 21, 0, 21 * GPT_4O)
    assert sum(seen) == 21
    exact(engine)


def test_recost_goes_on_beside_a_recorder_at_work(engine: sa.Engine, url: str, tmp_path: Path) -> None:
    """Another process prices again and again while streams are written and projected here; at the end all is exact."""
    for number in range(60):
        add(engine, number, said(id=f"run_{number}", usage=PLAIN))
    runner.catch_up(engine)
    (tmp_path / "mine.toml").write_text('[prices."gpt-4o"]\ninput = 1\noutput = 1\n')
    with commands.Background("recost", "--json", "--prices", str(tmp_path / "mine.toml"), db=url) as process:
        for number in range(60, 90):
            add(engine, number, said(id=f"run_{number % 70}", usage=PLAIN, created_at=BORN + number * 600))
            runner.catch_up(engine)
        assert process.wait() == 0
    runner.catch_up(engine)
    assert set(known(engine)) == {f"run_{number}" for number in range(70)}
    assert set(known(engine).values()) <= {GPT_4O, 1_100_000}
    exact(engine)


def test_recost_says_in_words_what_it_did(filled: sa.Engine, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    total = f"${(2 * GPT_4O - 600 * 1250 + MINI) / 1e9:,.6f}"
    capsys.readouterr()
    assert main(["--db", url, "recost"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"3 runs priced, 0 changed: {total} in all, {total} before\n"
    assert captured.err == "1 run without known usage\n1 run of my-own: no price is known\n"


def test_a_bad_file_and_none_are_said_in_one_line(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.toml").write_text("[prices.x]\ninput = 'x'\noutput = 1")
    assert main(["--db", db, "recost", "--prices", str(tmp_path / "bad.toml")]) == 2
    assert capsys.readouterr().err == f"error: the prices {tmp_path}/bad.toml: prices.x.input cannot be 'x': give a number\n"
    assert main(["--db", db, "recost", "--prices", "nowhere.toml"]) == 2
    assert capsys.readouterr().err == "error: the prices nowhere.toml cannot be read: No such file or directory\n"


# Without the library

RUN = """
import sys
sys.modules["genai_prices"] = None
from recorder.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without(*args: str, db: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a Python that has no such library."""
    environment = commands.environment() | ({} if file is None else {"RECORDER_PRICES": str(file)})
    words = [sys.executable, "-c", RUN, "--db", db, *args]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=commands.PATIENCE)


def test_without_library_and_file_all_works_and_nothing_is_noted(engine: sa.Engine, url: str) -> None:
    add(engine, 0, said(id="run_a", usage=PLAIN))
    done = without("usage", "--json", db=url)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["prompt_tokens"] == 1000
    assert [rows(engine, table) for table in (costs, pending_sums)] == [[], []]
    done = without("recost", db=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there are no prices: install runstep-recorder[prices], or give your own with --prices FILE\n"
    assert without("verify", db=url).returncode == 0
    recost(engine, prices.load())
    assert known(engine) == {"run_a": GPT_4O}
    exact(engine)


def test_without_the_library_the_file_prices_what_it_knows(engine: sa.Engine, url: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    add(engine, 0, said(id="run_a", usage=PLAIN, model="my-own"))
    add(engine, 1, said(id="run_b", usage=PLAIN))
    done = without("project", db=url, file=tmp_path / "mine.toml")
    assert (done.returncode, done.stderr.strip()) == (0, "22 events projected")
    assert known(engine) == {"run_a": OWN}
    exact(engine)


def test_a_process_without_prices_leaves_no_stale_cost_and_takes_no_note_of_another_away(engine: sa.Engine, url: str) -> None:
    add(engine, 0, said(id="run_a", usage=PLAIN))
    add(engine, 1, said(id="run_b", usage=PLAIN))
    runner.catch_up(engine)
    with database.write(engine) as connection:
        connection.execute(pending_sums.insert().values(kind="cost", key="run_b"))
        connection.execute(costs.delete().where(costs.c.run_key == "run_b"))
    add(engine, 9, said(id="run_a", usage=PLAIN, model="gpt-4o-mini", created_at=BORN + 5 * HOUR))
    assert without("project", db=url).returncode == 0
    assert known(engine) == {}
    assert [(row["kind"], row["key"]) for row in rows(engine, pending_sums)] == [("cost", "run_b")]
    runner.catch_up(engine)
    assert known(engine) == {"run_b": GPT_4O}
    exact(engine)


# Costs by the groups of usage


ZONES = UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=5, minutes=30))
TIMES = (None, None), (-HOUR, HOUR), (0, HOUR), (-86_400, 86_400), (HOUR, None), (86_400, None)


@pytest.mark.parametrize("by", [None, *reports.USAGE_BY])
def test_costs_by_group_are_those_of_the_runs_that_usage_counts(filled: sa.Engine, by: str | None) -> None:
    """Of every time, within hours and of whole ones, and of days of every zone."""
    cost = known(filled)
    began = {run["run_key"]: run["began_at"] for run in rows(filled, runs)}
    for zone, (since, until), minute in itertools.product(ZONES, TIMES, (0, 26)):
        at = datetime.fromtimestamp(BORN, UTC).replace(minute=minute, second=0)
        first, last = (None if seconds is None else at + timedelta(seconds=seconds) for seconds in (since, until))
        with database.read(filled) as connection:
            usage = reports.usage(connection, by, first, last, zone)
        within = [key for key in cost if (first is None or began[key] >= first) and (last is None or began[key] < last)]
        if by != "label":  # which a run need not have
            assert round(sum(row["cost_usd"] or 0 for row in usage) * 10**9) == sum(cost[key] for key in within)
            assert sum(row["runs"] - row["runs_without_cost"] for row in usage) == len(within)


def test_costs_by_model_and_of_a_label(filled: sa.Engine) -> None:
    with database.read(filled) as connection:
        by_model = {row["model"]: (row["cost_usd"], row["runs_without_cost"]) for row in reports.usage(connection, "model")}
        assert by_model == {
            "gpt-4o": ((2 * GPT_4O - 600 * 1250) / 10**9, 1),
            "gpt-4o-mini": (MINI / 10**9, 0),
            "my-own": (None, 1),
        }
        (labelled,) = (row for row in reports.usage(connection, "label") if row["label"] == "mine")
        assert (labelled["cost_usd"], labelled["runs_without_cost"]) == (GPT_4O / 10**9, 0)
        (session,) = (row for row in reports.usage(connection, "session") if row["session_id"] == "mine")
        assert session["cost_usd"] == GPT_4O / 10**9
