"""PostgreSQL that hangs, is cut off or stands behind a pooler: every wait ends, and what works again is used again."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from recorder import database, log, postgresql
from recorder.cli.opening import Following, freshen
from recorder.collect import writer as writers
from recorder.collect.import_ import import_paths
from recorder.collect.metrics import Metrics
from recorder.collect.writer import Writer
from recorder.errors import Busy, DatabaseError
from recorder.projections import runner, turn
from recorder.projections.turn import announced, only_projector
from recorder.projections.verify import verify
from tests.between import Way, way_to
from tests.commands import recorder as command
from tests.commands import until
from tests.conftest import OWN
from tests.pooler import pooled
from tests.test_writer import begun, event


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that take seconds take tenths here."""
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(postgresql, "_IN_FLIGHT_SECONDS", 0.1)


@pytest.fixture
def way(postgresql_url: str, impatient: None) -> Iterator[Way]:
    """To a new database with the current schema."""
    made = database.engine(postgresql_url, create=True)
    database.check(made, upgrade=True)
    made.dispose()
    with way_to(postgresql_url) as found:
        yield found


# Connections.


@pytest.mark.slow
def test_a_server_that_accepts_and_says_nothing_is_an_error(impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DatabaseError) as failure:
        database.connect(f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/x")
    assert "timeout" in str(failure.value)


@pytest.mark.slow
def test_a_statement_that_the_server_never_answers_is_given_up(way: Way) -> None:
    engine = database.connect(way.url)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        way.hang()
        with pytest.raises(sa.exc.OperationalError, match="does not answer"):
            connection.execute(sa.text("SELECT 2"))
    way.heal()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 3")).scalar() == 3
    engine.dispose()


def test_an_answer_that_was_lost_is_given_up_though_the_server_is_well(way: Way) -> None:
    engine = database.connect(way.url)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        way.hang()
        way.heal()
        with pytest.raises(sa.exc.OperationalError, match="does not answer"):
            connection.execute(sa.text("SELECT 2"))
    engine.dispose()


def test_a_statement_may_take_as_long_as_the_server_works_on_it(way: Way) -> None:
    engine = database.connect(way.url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1 FROM pg_sleep(1)")).scalar() == 1
    engine.dispose()


def test_also_if_the_server_has_no_connection_left_to_be_asked_over(postgresql_url: str, impatient: None) -> None:
    role = f"one_{secrets.token_hex(4)}"
    owner = database.engine(postgresql_url, create=False)
    with owner.begin() as connection:
        connection.execute(sa.text(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1"))
    engine = database.engine(sa.make_url(postgresql_url).set(username=role).render_as_string(False), create=False)
    try:
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT 1 FROM pg_sleep(1)")).scalar() == 1
    finally:
        engine.dispose()
        with owner.begin() as connection:
            connection.execute(sa.text(f"DROP ROLE {role}"))
        owner.dispose()


def test_but_no_longer_than_its_transaction_may(way: Way) -> None:
    engine = database.connect(way.url)

    def takes(seconds: float, limit: float | None) -> None:
        with engine.connect() as connection, connection.begin():
            database.limit(connection, limit)
            connection.execute(sa.text(f"SELECT 1 FROM pg_sleep({seconds})"))

    with pytest.raises(sa.exc.OperationalError, match="in time"):
        takes(5, 0.3)
    takes(0.5, None)
    engine.dispose()


def test_a_transaction_that_is_stopped_while_it_writes_gives_its_locks_back(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("of a server alone")
    with database.write(engine) as connection:
        said = connection.execute(sa.text("SHOW idle_in_transaction_session_timeout")).scalar()
    assert said == f"{database.IDLE_SECONDS}s"


@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_a_password_in_the_query_is_not_shown(name: str) -> None:
    with pytest.raises(DatabaseError) as failure:
        database.connect(f"postgresql://somebody@127.0.0.1:1/x?{name}=hunter2&sslmode=disable")
    message = str(failure.value)
    assert "hunter2" not in message
    assert "sslmode=disable" in message


def test_a_password_in_the_query_of_what_is_no_url_is_not_shown() -> None:
    with pytest.raises(DatabaseError) as failure:
        database.connect("postgresql//somebody/x?password=hunter2")
    assert "hunter2" not in str(failure.value)


def test_several_upgrades_at_once_all_succeed(postgresql_url: str) -> None:
    def upgrade(_: int) -> str | None:
        engine = database.engine(postgresql_url, create=True)
        try:
            database.check(engine, upgrade=True)
            return database.current_version(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(upgrade, range(4))) == [database.SCHEMA_VERSION] * 4


# The writer.


@pytest.mark.slow
def test_a_writer_says_that_its_server_hangs_and_comes_back_over_a_new_connection(way: Way) -> None:
    engine = database.connect(way.url)
    with Writer(engine) as writer:
        recording = begun(writer)
        assert writer.flush(10)
        way.hang()
        recording.chunk(event(1))
        until(lambda: not Metrics(writer).health()[0])
        way.heal()
        recording.end("completed")
        assert writer.flush(30)
        assert Metrics(writer).health()[0]
    assert writer.complete
    with database.read(engine) as connection:
        found = [event.type for event in log.read(connection, recording.stream.stream_id)]
    engine.dispose()
    assert "$gap" not in found
    assert found[-1] == "$end"


def test_a_transaction_that_takes_too_long_is_no_health(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no error says so: a disk that hangs in a commit."""
    monkeypatch.setattr(writers, "HANGING_SECONDS", 0.1)
    goes_on = threading.Event()
    insert = log.insert_streams

    def hanging(*args: object) -> None:
        goes_on.wait(30)
        insert(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "insert_streams", hanging)
    with Writer(engine) as writer:
        begun(writer).end("completed")
        until(lambda: not Metrics(writer).health()[0])
        goes_on.set()
        assert writer.flush(30)
        assert Metrics(writer).health()[0]


@pytest.mark.slow
def test_a_writer_whose_server_hangs_to_the_end_says_what_is_lost(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    engine = database.connect(way.url)
    writer = Writer(engine)
    writer.start()
    way.hang()
    begun(writer).end("completed")
    writer.close(1.0)
    assert not writer.complete
    assert "are lost" in caplog.text
    way.heal()
    until(lambda: not writer.waiting_bytes)
    engine.dispose()


# Who projects, and who asks.


def behind(url: str) -> sa.Engine:
    """A database in which something waits to be projected."""
    engine = database.connect(url) if url.startswith("sqlite") else database.engine(url, create=True)
    database.check(engine, upgrade=True)
    import_paths(engine, OWN[:1])
    return engine


def test_a_question_does_not_wait_for_a_projector_that_does_not_go_on(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turn, "_another", lambda engine: True)  # on SQLite: another process has said so
    monkeypatch.setattr("recorder.cli.opening.PATIENCE_SECONDS", 0.1)
    engine = behind(url)
    with only_projector(engine):
        freshen(engine)
    missing = runner.behind(engine)
    assert missing > 0
    assert f"lacks the last {missing:,} events" in capsys.readouterr().err
    monkeypatch.undo()
    freshen(engine)
    assert runner.behind(engine) == 0
    engine.dispose()


def test_a_projector_waits_for_its_turn_as_long_as_it_takes(url: str) -> None:
    engine = behind(url)
    with only_projector(engine):
        other = threading.Thread(target=runner.catch_up, args=(engine,))
        other.start()
        time.sleep(0.1)
    other.join(30)
    assert runner.behind(engine) == 0
    engine.dispose()


def test_a_process_that_died_while_it_projected_is_in_nobodys_way(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.connect(db)
    monkeypatch.setattr(turn, "process_started", lambda pid: "0")  # another one had this pid, then
    with announced(engine):
        own = turn.os.getpid()
        monkeypatch.setattr("os.getpid", lambda: own + 1)
        with only_projector(engine, 0.0):
            pass
        monkeypatch.undo()
    engine.dispose()


def test_who_lives_and_projects_is(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.connect(db)
    with announced(engine):
        own = turn.os.getpid()
        monkeypatch.setattr("os.getpid", lambda: own + 1)
        with pytest.raises(Busy), only_projector(engine, 0.0):
            pass
        monkeypatch.undo()
    with only_projector(engine, 0.0):
        pass
    engine.dispose()


# Who follows.


def test_a_cut_connection_ends_no_follower(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    engine = database.connect(way.url)
    following = Following(engine)

    def once() -> int:
        with database.read(engine) as connection:
            if cutting:
                cutting.clear()
                way.cut()
            return len(log.open_heads(connection, database.datetime.now(database.UTC)))

    cutting: list[int] = []
    assert following.passed(once) == 0
    cutting.append(1)
    assert following.passed(once) is None
    assert following.passed(once) == 0
    said = capsys.readouterr().err
    engine.dispose()
    assert "trying again" in said
    assert "answers again" in said


# A pooler.


@pytest.fixture(scope="module", params=["transaction", "session"])
def over_a_pooler(request: pytest.FixtureRequest, postgresql_server: Callable[[str], str]) -> Iterator[str]:
    """The URL of a new, empty database over pgbouncer."""
    name = f"recorder_pooled_{request.param}"
    with psycopg.connect(postgresql_server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with pooled(postgresql_server(name), request.param) as url:
        yield url


@pytest.mark.slow
def test_all_that_is_recorded_over_a_pooler_is_there_and_whole(over_a_pooler: str) -> None:
    made = database.engine(over_a_pooler, create=True)
    database.check(made, upgrade=True)
    engines = [database.connect(over_a_pooler) for _ in range(4)]

    def record(engine: sa.Engine) -> list[str]:
        with Writer(engine) as writer:
            recordings = [begun(writer) for _ in range(12)]
            for number in range(30):
                for recording in recordings:
                    recording.chunk(event(number))
                writer.flush()
            for recording in recordings:
                recording.end("completed")
        assert writer.errors == 0
        return [recording.stream.stream_id for recording in recordings]

    with ThreadPoolExecutor(len(engines)) as pool:
        recorded = [stream_id for some in pool.map(record, engines) for stream_id in some]
        for _ in pool.map(runner.catch_up, engines):
            pass
    for stream_id in recorded:
        assert len(list(log.read_stream(made, stream_id))) == 32
    assert runner.behind(made) == 0
    assert verify(made).problems == []
    for each in (made, *engines):
        each.dispose()


@pytest.mark.slow
def test_commands_work_over_a_pooler(over_a_pooler: str) -> None:
    asking = [["db", "upgrade"], ["import", *OWN], ["rebuild"], ["ls"], ["verify"], ["tail"], ["sql", "SELECT * FROM v_runs"]]
    for _ in range(2):
        for asked in asking:
            done = command(*asked, db=over_a_pooler)
            assert done.returncode == 0, done.stderr
    refused = command("sql", "DELETE FROM events", db=over_a_pooler)
    assert refused.returncode == 1
