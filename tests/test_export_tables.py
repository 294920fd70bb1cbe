"""Tables and views as Parquet and CSV: the same from both databases, what SQL says, and what DuckDB reads as it is."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from recorder import database, dataset, log
from recorder.cli import main
from recorder.collect.import_ import import_paths
from recorder.database import metadata
from recorder.projections import runner
from recorder.relations import BATCH, RELATIONS, Reader
from recorder.sse import Frame
from tests import duck, writing
from tests.benchmarks import generated
from tests.commands import Background, command, environment, output, recorder, until
from tests.writing import BORN, DONE, said, stream_id

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = [str(ROOT / "fixtures" / name) for name in ("assistants", "chat", "responses", "anthropic", "recordings")]
README = (ROOT / "README.md").read_text()

DAY = 86400


@pytest.fixture(scope="module")
def urls(
    postgresql_server: Callable[[str], str], postgresql_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A database of each kind with the project's own streams and some that are hard to hold; what is in them is the same."""
    found = {"sqlite": f"sqlite:///{tmp_path_factory.mktemp('tables')}/x.db", "postgresql": postgresql_server("exported")}
    name = sa.make_url(found["postgresql"]).database
    made = database.engine(postgresql_server("postgres"), create=True).execution_options(isolation_level="AUTOCOMMIT")
    with made.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {postgresql_template}")
    first = database.connect(found["sqlite"])
    import_paths(first, FOLDERS)
    odd = [
        Frame("odd", "", b"event: odd\ndata: \xff\0\n\n", 5),
        Frame("message", 'a "quoted", 日本語 🎈\nline', None, 1_500_000, [(3, 7)]),
        Frame("", "", None, 2**40),
        *writing.frames([DONE]),
    ]
    writing.write(first, writing.stream(7_000, started=-30 * DAY)._replace(request_body=b"\xff\0\xfe"), odd)
    for number, days in ((7_001, 0), (7_002, 1), (7_003, 5), (7_004, 1)):  # the ids of these are not in the order of their days
        fields: dict[str, Any] = {"id": f"run_day_{number}", "created_at": BORN + days * DAY}
        body = writing.frames(said(**fields))
        writing.write(first, writing.stream(number, started=days * DAY, label='a "label",\r\n'), body)
    runner.catch_up(first)
    second = database.connect(found["postgresql"])
    with database.read(first) as source, database.write(second) as target:
        for table in metadata.sorted_tables:
            rows = [dict(row) for row in source.execute(sa.select(table)).mappings()]
            if rows:
                target.execute(table.insert(), rows)
    first.dispose()
    second.dispose()
    yield found
    with made.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    made.dispose()


@pytest.fixture(scope="module")
def folders(urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `export --all --format parquet` makes of each database."""
    found = {kind: tmp_path_factory.mktemp(kind) / "out" for kind in urls}
    for kind, folder in found.items():
        output("export", "--all", "--format", "parquet", "-o", str(folder), db=urls[kind])
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def kind_of(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def stored(connection: sa.Connection, name: str) -> list[dict[str, Any]]:
    """The rows of a table or view, by its name in the database, with the types of its columns."""
    columns = [sa.column(column.name, column.type) for column in RELATIONS[name].select.selected_columns]
    rows = connection.execute(sa.select(*columns).select_from(sa.table(name))).mappings()
    return [{key: bytes(value) if isinstance(value, memoryview) else value for key, value in row.items()} for row in rows]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=repr)


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with times whose zone is the same object."""
    return [{key: value.astimezone(UTC) if isinstance(value, datetime) else value for key, value in row.items()} for row in rows]


def by_day(folder: Path, name: str) -> dict[str, pa.Table]:
    """{day: its table} of a table or view in a folder of an export."""
    return {path.parent.name.removeprefix("day="): pq.ParquetFile(path).read() for path in sorted(folder.glob(f"{name}/*/*"))}


# One table or view


@pytest.mark.parametrize("name", RELATIONS)
def test_a_table_or_view_is_the_same_parquet_from_both_databases_and_what_sql_says(
    urls: dict[str, str], tmp_path: Path, name: str
) -> None:
    tables = {}
    for kind, url in urls.items():
        file = tmp_path / f"{kind}.parquet"
        assert main(["--db", url, "export", name, "--format", "parquet", "-o", str(file)]) == 0
        tables[kind] = pq.ParquetFile(file).read()
        engine = database.connect(url, create=False)
        with database.read(engine) as connection:
            rows = stored(connection, name)
        engine.dispose()
        assert in_order(plain(tables[kind].to_pylist())) == in_order(plain(rows))
    assert tables["sqlite"].schema.equals(tables["postgresql"].schema, check_metadata=True)
    assert tables["sqlite"].equals(tables["postgresql"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".db") == ["postgresql.parquet", "sqlite.parquet"]


def test_the_fixtures_have_rows_in_all_of_them(folders: dict[str, Path]) -> None:
    """But in `pending`, where there is nothing to do: else the tests above would prove little."""
    for folder in folders.values():
        assert {name for name in RELATIONS if not sum(len(part) for part in by_day(folder, name).values())} == {"pending"}


def test_columns_have_types_of_parquet(folders: dict[str, Path]) -> None:
    names = ("events", "runs", "v_runs")
    events, runs, views = (next(iter(by_day(folders["sqlite"], name).values())) for name in names)
    time = pa.timestamp("us", tz="UTC")
    assert {field.name: field.type for field in events.schema} == {
        "stream_id": pa.string(),
        "position": pa.int64(),
        "offset_us": pa.int64(),
        "type": pa.string(),
        "data": pa.string(),
        "raw": pa.binary(),
        "cuts": pa.string(),
    }
    assert [runs.schema.field(name).type for name in ("failed", "hour", "total_tokens")] == [pa.bool_(), time, pa.int64()]
    assert [views.schema.field(name).type for name in ("started_at", "duration_s")] == [time, pa.float64()]


def test_text_that_is_none_stays_in_raw(folders: dict[str, Path], kind_of: str) -> None:
    rows = [row for part in by_day(folders[kind_of], "events").values() for row in part.to_pylist()]
    found = {row["position"]: row for row in rows if row["stream_id"] == stream_id(7_000)}
    assert (found[0]["type"], found[0]["data"], found[0]["raw"]) == ("odd", None, b"event: odd\ndata: \xff\0\n\n")
    assert (found[1]["data"], found[1]["cuts"]) == ('a "quoted", 日本語 🎈\nline', "[[3,7]]")
    assert (found[2]["offset_us"], found[2]["data"]) == (2**40, "")


@pytest.mark.parametrize("name", ["v_runs", "v_usage_daily", "sessions", "streams", "events", "pending"])
def test_csv_is_the_same_from_both_databases_and_what_sql_says(urls: dict[str, str], name: str) -> None:
    printed = {kind: output("export", name, "--format", "csv", db=url) for kind, url in urls.items()}
    assert printed["sqlite"] == printed["postgresql"]
    header, *rows = csv.reader(io.StringIO(printed["sqlite"].decode(), newline=""))
    engine = database.connect(urls["sqlite"], create=False)
    with database.read(engine) as connection:
        expected = stored(connection, name)
    engine.dispose()
    assert header == [column.name for column in RELATIONS[name].select.selected_columns]
    assert sorted(rows) == sorted([in_csv(value) for value in row.values()] for row in expected)


def in_csv(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def test_csv_tells_an_empty_text_from_null(urls: dict[str, str]) -> None:
    lines = output("export", "usage_hourly", "--format", "csv", db=urls["sqlite"]).decode().splitlines()
    assert any(',"",' in line for line in lines[1:])
    assert any(",,," in line for line in output("export", "v_runs", "--format", "csv", db=urls["sqlite"]).decode().splitlines())


def test_parquet_goes_into_a_pipe_and_not_to_a_terminal(urls: dict[str, str]) -> None:
    table = pq.ParquetFile(io.BytesIO(output("export", "v_runs", "--format", "parquet", db=urls["sqlite"]))).read()
    assert table.num_rows > 50
    terminal, inside = os.openpty()
    try:
        line = command("--db", urls["sqlite"], "export", "v_runs", "--format", "parquet")
        done = subprocess.run(line, stdout=inside, stderr=subprocess.PIPE, env=environment(), timeout=60, check=False)
    finally:
        os.close(inside)
        os.close(terminal)
    assert (done.returncode, done.stderr) == (2, b"error: Parquet is nothing for a terminal; name a file with -o\n")


@pytest.mark.parametrize("form", dataset.FORMATS)
def test_a_reader_that_has_had_enough_is_no_error(urls: dict[str, str], form: str) -> None:
    line = command("--db", urls["sqlite"], "export", "events", "--format", form)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", dataset.FORMATS)
def test_a_full_disk_is_one_line(urls: dict[str, str], form: str) -> None:
    done = recorder("export", "events", "--format", form, "-o", "/dev/full", db=urls["sqlite"])
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert "No space left" in line


WRONG: dict[tuple[str, ...], str] = {
    ("export", "v_nothing", "--format", "csv"): "'v_nothing' is no table or view; there are streams, events, heads",
    ("export", "--format", "parquet"): "'' is no table or view; there are streams",
    ("export", "recorder_version", "--format", "csv"): "'recorder_version' is no table or view",
    ("export",): "name a stream, run or session; or a table or view",
    ("export", "--all"): "--all writes all tables and views into a folder",
    ("export", "--all", "--format", "parquet"): "--all writes all tables and views into a folder",
    ("export", "v_runs", "--all", "--format", "csv", "-o", "out"): "--all writes all tables and views into a folder",
    ("export", "v_runs", "--format", "csv", "--redact"): "exported as they are stored",
    ("export", "v_runs", "--format", "csv", "--as-test", "test_x.py"): "exported as they are stored",
    ("export", "v_runs", "--format", "csv", "-o", "/"): "/ is a folder",
    ("export", "last", "-o", "/"): "/ is a folder",
    ("export", "v_runs", "--format", "csv", "-o", "/no/such/file"): "/no/such/file: No such file or directory; name another",
    ("export", "--all", "--format", "csv", "-o", "/dev/null/x"): "/dev/null/x: Not a directory; name another",
}


@pytest.mark.parametrize("args", WRONG, ids=" ".join)
def test_what_makes_no_sense_is_said_in_one_line(urls: dict[str, str], args: tuple[str, ...]) -> None:
    done = recorder(*args, db=urls["sqlite"])
    assert done.returncode in (1, 2)
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert WRONG[args] in line


def test_without_the_library_parquet_says_what_to_install_and_csv_works(urls: dict[str, str], tmp_path: Path) -> None:
    without = "import sys; sys.modules['pyarrow'] = None; from recorder.cli import main; sys.exit(main())"

    def run(*args: str) -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "-c", without, "--db", urls["sqlite"], "export", *args]
        return subprocess.run(line, capture_output=True, env=environment(), timeout=60, check=False)

    for args in (["v_runs"], ["--all"]):
        done = run(*args, "--format", "parquet", "-o", str(tmp_path / "out"))
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().splitlines() == [
            "error: Parquet needs a library of its own: pip install 'runstep-recorder[parquet]'"
        ]
    assert list(tmp_path.iterdir()) == []
    assert run("v_runs", "--format", "csv").stdout.startswith(b"run_id,")


# All of them


@pytest.mark.parametrize("name", RELATIONS)
def test_a_folder_has_each_row_once_and_the_same_from_both_databases(
    urls: dict[str, str], folders: dict[str, Path], name: str
) -> None:
    found = {kind: by_day(folder, name) for kind, folder in folders.items()}
    assert found["sqlite"].keys() == found["postgresql"].keys()
    assert all(part.equals(found["postgresql"][day]) for day, part in found["sqlite"].items())
    engine = database.connect(urls["sqlite"], create=False)
    with database.read(engine) as connection:
        expected = [{key: value for key, value in row.items() if key != "day"} for row in stored(connection, name)]
    engine.dispose()
    rows = [row for part in found["sqlite"].values() for row in part.to_pylist()]
    assert in_order(plain(rows)) == in_order(plain(expected))


def test_a_day_holds_what_is_of_it(folders: dict[str, Path], kind_of: str) -> None:
    folder = folders[kind_of]
    began = {row["stream_id"]: row["started_at"] for part in by_day(folder, "streams").values() for row in part.to_pylist()}
    created = {row["run_key"]: row["hour"] for part in by_day(folder, "runs").values() for row in part.to_pylist()}
    of: dict[str, Callable[[dict[str, Any]], datetime | None]] = {
        **dict.fromkeys(
            ("streams", "events", "heads", "anomalies", "session_streams", "silences", "v_streams", "v_gaps"),
            lambda row: began[row["stream_id"]],
        ),
        **dict.fromkeys(("runs", "run_steps", "tool_calls", "messages"), lambda row: created.get(row["run_key"])),
        **dict.fromkeys(("v_runs", "v_steps", "v_tool_calls"), lambda row: created[row["run_id"]]),
        **dict.fromkeys(("usage_hourly", "v_usage_hourly", "usage_totals"), lambda row: row["hour"]),
        **dict.fromkeys(("failures", "v_failures"), lambda row: row["at"]),
        "sessions": lambda row: row["started_at"],
    }
    for name, when in of.items():
        parts = by_day(folder, name)
        assert len(parts) > 1 or name in ("silences", "v_gaps")  # of one stream
        for day, part in parts.items():
            for row in part.to_pylist():
                at = when(row)
                assert day == (dataset.UNDATED if at is None else at.astimezone(UTC).strftime("%Y-%m-%d")), name
    assert dataset.UNDATED in by_day(folder, "messages"), "a message that no run speaks of"
    assert [path.parent.name for path in folder.glob("pending/*/*")] == [f"day={dataset.UNDATED}"]


def test_duckdb_reads_the_folder_as_it_is_and_gives_the_same_numbers(
    urls: dict[str, str], folders: dict[str, Path], kind_of: str
) -> None:
    folder = folders[kind_of]
    engine = database.connect(urls[kind_of], create=False)
    with database.read(engine) as connection:
        duck.same_numbers(connection, folder)
    engine.dispose()


def test_the_shared_streams_say_the_same_in_duckdb(url: str, shared: Path, tmp_path: Path) -> None:
    if url.startswith("postgresql"):
        output("db", "upgrade", db=url)
    output("import", str(shared / "streams"), db=url)
    output("export", "--all", "--format", "parquet", "-o", str(tmp_path / "out"), db=url)
    engine = database.connect(url, create=False)
    with database.read(engine) as connection:
        duck.same_numbers(connection, tmp_path / "out")
    engine.dispose()


def test_the_readme_s_example_gives_what_it_shows(tmp_path: Path) -> None:
    ((query, shown),) = re.findall(r"```sql\n([^`]*?read_parquet\('lake/[^`]*?)```\n\n```\n(.*?)```", README, re.DOTALL)
    for line in re.findall(r"^recorder (import .*)$", README.partition("## Asking SQL")[2], re.MULTILINE):
        words = [str(ROOT / word) if word.startswith("fixtures/") else word for word in line.split()]
        output(*words, db=tmp_path / "x.db")
    output("export", "--all", "--format", "parquet", "-o", str(tmp_path / "lake"), db=tmp_path / "x.db")
    with duckdb.connect() as connection:
        result = connection.execute(query.replace("'lake/", f"'{tmp_path}/lake/"))
        found = [
            [column[0] for column in result.description or ()],
            *([str(value) for value in row] for row in result.fetchall()),
        ]
    assert found == [re.split(" {2,}", line) for line in shown.splitlines()]


def test_all_as_csv_is_a_folder_of_the_same_rows(urls: dict[str, str], folders: dict[str, Path], tmp_path: Path) -> None:
    output("export", "--all", "--format", "csv", "-o", str(tmp_path / "out"), db=urls["sqlite"])
    for name in RELATIONS:
        parquet = by_day(folders["sqlite"], name)
        files = {path.parent.name.removeprefix("day="): path for path in sorted((tmp_path / "out").glob(f"{name}/*/part-0.csv"))}
        assert files.keys() == parquet.keys()
        for day, path in files.items():
            with path.open(newline="") as file:
                header, *rows = csv.reader(file)
            assert header == parquet[day].column_names
            assert len(rows) == parquet[day].num_rows


def test_an_export_replaces_an_older_one_whole(sqlite_url: str, tmp_path: Path) -> None:
    """Also one in another format, and days that are no more."""
    folder = tmp_path / "out"
    engine = database.connect(sqlite_url)
    for number, days in ((1, 0), (2, 1)):
        writing.write(engine, writing.stream(number, started=days * DAY), writing.frames(said(id=f"run_{number}")))
    output("export", "--all", "--format", "csv", "-o", str(folder), db=sqlite_url)
    assert len(list(folder.glob("events/*/part-0.csv"))) == 2
    output("delete", stream_id(1), "--yes", db=sqlite_url)
    (folder / "notes.txt").write_text("mine")
    for _ in range(2):
        output("export", "--all", "--format", "parquet", "-o", str(folder), db=sqlite_url)
        assert {path.name for path in folder.iterdir()} == {*RELATIONS, "notes.txt"}
        assert [path.parent.name for path in folder.glob("events/*/*")] == ["day=2026-05-29"]
        assert {path.name for path in folder.rglob("part-*")} == {"part-0.parquet"}
    engine.dispose()


def test_what_is_no_export_is_never_replaced(sqlite_url: str, tmp_path: Path) -> None:
    database.connect(sqlite_url).dispose()
    (tmp_path / "out" / "events").mkdir(parents=True)
    (tmp_path / "out" / "events" / "photo.jpg").write_text("mine")
    done = recorder("export", "--all", "--format", "csv", "-o", str(tmp_path / "out"), db=sqlite_url)
    assert done.returncode == 1
    assert "photo.jpg is no part of an export" in done.stderr.decode()
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["events", "photo.jpg"]


def test_an_export_is_of_one_state_in_small_batches(engine: sa.Engine) -> None:
    """What is recorded meanwhile is not in it, nor in what belongs to it."""
    size = BATCH + 10
    body = [Frame("message", f'{{"n":{number}}}', None, number) for number in range(size)]
    writing.write(engine, writing.stream(1), body)
    with database.read(engine) as connection:
        reader = Reader(connection)
        events = reader.rows(RELATIONS["events"])
        seen = len(next(events))
        writing.write(engine, writing.stream(1), [Frame("late", "", None, size)], size)
        writing.write(engine, writing.stream(2), body)
        batches = [seen, *map(len, events)]
        assert batches == [BATCH, 10]
        assert [len(rows) for rows in reader.rows(RELATIONS["streams"])] == [1]
        assert reader.count(RELATIONS["events"]) == size


def test_events_whose_stream_is_missing_are_exported_too(engine: sa.Engine) -> None:
    """Whatever the log holds: ranges of ids leave none out."""
    for number in (1, 4, 9):
        if number == 4:
            writing.write(engine, writing.stream(number, started=3 * DAY), [])
        with database.write(engine) as connection:
            log.append(connection, {stream_id(number): [log.row(stream_id(number), 0, Frame("a", "b", None, 0))]})
    with database.read(engine) as connection:
        found = [
            (part.day, [row[0] for rows in part.batches for row in rows])
            for part in Reader(connection).parts(RELATIONS["events"])
        ]
    day = (datetime.fromtimestamp(BORN, UTC) + timedelta(days=3)).strftime("%Y-%m-%d")
    assert found == [(day, [stream_id(1), stream_id(4), stream_id(9)])]


# kill -9


MOMENTS = (1, 2, 5, 11, 17, 22)
"""So many files there are when the export is killed."""


def generate(file: Path, events: int) -> Path:
    engine = database.connect(f"sqlite:///{file}")
    generated.fill(engine, events)
    runner.catch_up(engine)
    engine.dispose()
    return file


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose export takes a while."""
    return generate(tmp_path_factory.mktemp("large") / "x.db", 30_000)


@pytest.mark.parametrize("again", [False, True], ids=["into a new folder", "over an export"])
def test_an_export_that_is_killed_leaves_nothing_torn(large: Path, tmp_path: Path, again: bool) -> None:
    """Nor anything that keeps the next one from its work. What an older one left is there until all is written."""
    folder = tmp_path / "out"
    args = ("export", "--all", "--format", "parquet", "-o")
    output(*args, str(tmp_path / "whole"), db=large)
    whole = contents(tmp_path / "whole")
    if again:
        output(*args, str(folder), db=generate(tmp_path / "small.db", 2000))
    before = contents(folder)
    killed = 0
    for count in MOMENTS:
        with Background(*args, str(folder), db=large) as exporting:
            until(lambda: exporting.process.poll() is not None or files_in(folder / ".export" / "new") >= count)  # noqa: B023
            exporting.kill()
            killed += exporting.process.returncode == -9
        for path in folder.rglob("*.parquet"):
            pq.ParquetFile(path).read()
        found = contents(folder)
        if count < 3:
            assert found == before
        assert [name for name, files in found.items() if files not in (before.get(name), whole[name])] == []
    assert killed >= 3
    output(*args, str(folder), db=large)
    assert {path.name for path in folder.iterdir()} == set(RELATIONS)
    assert contents(folder) == whole
    assert duck.asked(folder, "SELECT count(*), count(DISTINCT stream_id) FROM events") == [(30_000, 150)]


def files_in(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """{name: its files} of what stands in a folder under its final name."""
    return {
        found.name: {str(path.relative_to(found)): path.read_bytes() for path in found.glob("*/*")}
        for found in folder.glob("[!.]*")
    }


def test_a_file_that_was_being_replaced_is_the_old_one_after_kill_9(large: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    file.write_bytes(b"older")
    with Background("export", "events", "--format", "parquet", "-o", str(file), db=large) as exporting:
        until(lambda: (tmp_path / ".events.parquet.partial").exists() or exporting.process.poll() is not None)
        exporting.kill()
    assert exporting.process.returncode == -9
    assert file.read_bytes() == b"older"
    output("export", "events", "--format", "parquet", "-o", str(file), db=large)
    assert pq.ParquetFile(file).metadata.num_rows == 30_000
    assert [path.name for path in tmp_path.iterdir()] == ["events.parquet"]


def test_two_exports_into_one_folder_do_not_mix(large: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    args = ("export", "--all", "--format", "parquet", "-o", str(folder))
    with Background(*args, db=large) as first:
        until(lambda: (folder / ".export").exists() or first.process.poll() is not None)
        second = recorder(*args, db=large)
        assert first.wait() == 0
    if second.returncode:  # else it came when the first was done
        assert second.stderr.decode().startswith(f"error: another export is writing into {folder}; ")
    assert duck.asked(folder, "SELECT count(*) FROM events") == [(30_000,)]
