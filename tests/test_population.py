"""A small population: what was planted in it is what both databases tell of it, and what a recomputation does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, jsontext, log, queries, reports, session_list
from recorder.log import Row
from recorder.projections import READ_MODEL, runner
from recorder.projections.runs import COUNTERS, runs
from recorder.projections.sessions import session_streams
from recorder.projections.verify import Report, verify
from tests.population import making
from tests.population.making import Planted, Population
from tests.population.plan import KINDS, MODELS, PROTOCOLS, SHAPES, UNPRICED

RUNS, EVENTS = 300, 15_000


@pytest.fixture
def planted(engine: sa.Engine) -> Planted:
    """A population, in the log and projected."""
    found = making.fill(engine, Population(RUNS, EVENTS))
    runner.catch_up(engine)
    return found


def rows_of(runs: int, events: int, seed: int) -> Iterator[list[Row]]:
    return (made.rows for made in Population(runs, events, seed).streams())


def test_a_population_is_the_same_by_its_seed() -> None:
    again = [list(rows_of(60, 3000, seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_every_stream_is_as_a_collector_writes_it() -> None:
    for made in Population(RUNS, EVENTS).streams():
        types = [row[3] for row in made.rows]
        assert [row[1] for row in made.rows] == list(range(len(types)))
        assert [row[2] for row in made.rows] == sorted(row[2] for row in made.rows)
        outcome = log.outcome_of(made.rows[-1][4])
        assert (types[0] == "$response") is (outcome != "no_response")
        assert types[-1] == "$end"
        assert types.count("$response") + types.count("$end") == (1 if outcome == "no_response" else 2)


def test_every_payload_is_json_but_for_what_is_planted_as_none() -> None:
    population = Population(RUNS, EVENTS)
    wrong = 0
    for made in population.streams():
        for _, _, _, type, data, *_ in made.rows:
            if data != "[DONE]" and type != "$tail":
                try:
                    jsontext.loads(data or "")
                except jsontext.JSONError:
                    wrong += 1
    assert wrong == population.planted.anomalies["unparsable"] > 0


def test_a_population_has_every_protocol_model_and_way_to_come_out() -> None:
    population = Population(4000, 200_000)
    for _ in population.streams():
        pass
    planted = population.planted
    assert set(planted.shapes) == {f"{protocol} {shape}" for protocol in PROTOCOLS for shape in SHAPES[protocol]}
    assert set(planted.usage) == {model for models in MODELS.values() for model in models}
    assert UNPRICED in planted.usage
    assert set(planted.failures) == {KINDS.get(shape, shape) for shapes in SHAPES.values() for shape in shapes} - {"completed"}
    assert set(planted.stream_failures) == {"http_error", "no_response"}
    assert planted.runs == 4000
    assert planted.events == 200_000


@pytest.mark.usefixtures("planted")
def test_nothing_is_amiss_in_a_population(engine: sa.Engine, planted: Planted) -> None:
    found = verify(engine)
    assert found == Report(planted.streams, planted.events, planted.runs, [], dict(planted.anomalies))


def test_usage_is_what_was_planted(engine: sa.Engine, planted: Planted) -> None:
    names = ("runs", "runs_without_usage", *COUNTERS)
    with database.read(engine) as connection:
        by_model = {row["model"]: {name: row[name] for name in names} for row in reports.usage(connection, "model")}
        (total,) = reports.usage(connection)
    assert by_model == {model: {name: sums[name] for name in names} for model, sums in planted.usage.items()}
    assert {name: total[name] for name in names} == {name: planted.total(name) for name in names}


def test_usage_of_a_time_is_the_sum_of_its_runs(engine: sa.Engine, planted: Planted) -> None:
    day = datetime.fromtimestamp(making.EPOCH, UTC) + timedelta(days=20)
    hours = [(0, 24 * 30), (5, 24 * 30 + 14), (5, 18), (3, None), (None, 3), (7 / 60, 24 * 30 + 2 / 3)]
    hours += [(5.3, 5.8), (5.3, 6.4), (5.3, 6), (5, 6.2), (22.5, 24), (22.5, 25.5), (23.5, 48.25), (24.1, None), (None, 23.99)]
    with database.read(engine) as connection:
        every = connection.execute(sa.select(runs)).mappings().all()
        times = [tuple(None if hour is None else day + timedelta(hours=hour) for hour in pair) for pair in hours]
        moment, later = every[0]["began_at"], every[-1]["began_at"] + timedelta(seconds=1)
        for at in (moment, moment + timedelta(microseconds=1)):  # in the midst of an hour, with this run and without it
            times += [(at, None), (None, at), (at, later), (at, at + timedelta(minutes=1))]
        for since, until in times:
            chosen = [run for run in every if (not since or run["began_at"] >= since) and (not until or run["began_at"] < until)]
            for by in (None, *reports.USAGE_BY):
                found = reports.usage(connection, by, since, until)
                shown = {row[reports.KEY_OF[by]] if by else None: [row[name] for name in ("runs", *COUNTERS)] for row in found}
                assert len(shown) == len(found)
                some = [run for run in chosen if by != "label" or run["label"]]  # which a run need not have
                expected = sums_by(by, some) or ({None: [0, *[None] * len(COUNTERS)]} if by is None else {})
                assert shown == expected, (by, since, until)
                assert reports.usage(connection, by, since, until, limit=3) == found[:3]


def test_sessions_that_have_a_run_of_a_kind(engine: sa.Engine, planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sessions whether they are found among the latest, or by an index of runs."""
    with database.read(engine) as connection:
        every = connection.execute(sa.select(runs)).mappings().all()
        said = [{**run, "status": "unknown" if run["state"] == "unknown" else run["status"]} for run in every]
        ordered = [row["session_id"] for row in queries.list_sessions(connection, limit=len(every))]
        wanted = [{"status": status} for status in {run["status"] for run in said}]
        wanted += [{"model": model} for model in {run["model"] for run in said} if model]
        wanted += [{"model": wanted[-1]["model"], "status": "completed"}, {"model": "none"}, {"status": "none"}]
        for given, latest, limit in itertools.product(wanted, (1, 20, 1000), (1, 2, 50)):
            monkeypatch.setattr(session_list, "_LATEST", latest)
            having = [{run["session_id"] for run in said if run[name] == value} for name, value in given.items()]
            expected = [session_id for session_id in ordered if all(session_id in some for some in having)]
            found = queries.list_sessions(connection, **given, limit=limit)
            assert [row["session_id"] for row in found] == expected[:limit], (given, latest, limit)


def sums_by(by: str | None, chosen: list[Any]) -> dict[Any, list[int | None]]:
    """{group: how many runs it has, and the sums of their counters}."""
    grouped: dict[Any, list[Any]] = {}
    for run in chosen:
        hour = run["hour"].isoformat().replace("+00:00", "Z")
        key = {None: None, "day": hour[:10], "hour": hour}[by] if by in (None, "day", "hour") else run[reports.KEY_OF[by]]
        grouped.setdefault(key, []).append(run)
    return {
        key: [
            len(some),
            *(sum(known) if (known := [run[name] for run in some if run[name] is not None]) else None for name in COUNTERS),
        ]
        for key, some in grouped.items()
    }


def test_each_run_has_its_usage_from_who_says_it(engine: sa.Engine, planted: Planted) -> None:
    by_source = sa.select(sa.func.coalesce(runs.c.usage_source, ""), sa.func.count()).group_by(runs.c.usage_source)
    with database.read(engine) as connection:
        found = {row[0]: row[1] for row in connection.execute(by_source)}
    assert found == dict(planted.sources)
    assert set(found) == {"run", "steps", "response", ""}


def test_each_run_failed_as_was_planted(engine: sa.Engine, planted: Planted) -> None:
    by_kind = sa.select(runs.c.failure_kind, sa.func.count()).group_by(runs.c.failure_kind)
    with database.read(engine) as connection:
        found = {row[0]: row[1] for row in connection.execute(by_kind)}
        counted = {row["kind"]: row["runs"] for row in reports.failures(connection, "kind")}
    assert found == {**planted.failures, None: planted.runs - planted.failures.total()}
    assert counted == planted.failures + planted.stream_failures


def test_streams_without_a_run_are_those_that_were_refused(engine: sa.Engine, planted: Planted) -> None:
    alone = sa.select(session_streams.c.outcome, sa.func.count()).where(session_streams.c.runs == "[]")
    with database.read(engine) as connection:
        found = {row[0]: row[1] for row in connection.execute(alone.group_by(session_streams.c.outcome))}
    assert found == dict(planted.stream_failures)


def test_both_databases_have_the_same_tables(sqlite_url: str, postgresql_url: str) -> None:
    tables = []
    for url in (sqlite_url, postgresql_url):
        engine = database.engine(url, create=True)
        database.check(engine, upgrade=True)
        making.fill(engine, Population(RUNS, EVENTS))
        runner.catch_up(engine)
        with database.read(engine) as connection:
            tables.append({table.name: sorted(map(repr, connection.execute(sa.select(table)))) for table in READ_MODEL})
        engine.dispose()
    assert all(tables[0].values())
    for name in tables[0]:
        assert tables[0][name] == tables[1][name], name
