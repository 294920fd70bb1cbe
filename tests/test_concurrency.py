"""Several processes write while one follows: by each stream's own positions nothing is missed; by a global one, it is.

The second test is the control of the first: it shows that the harness does produce the overlapping commits in which a
follower of a global position loses events.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log
from recorder.collect.streamid import new_stream_id
from recorder.sse import Frame

WRITERS = 4
SECONDS = 4.0
ROUNDS = 4

GLOBAL_ORDER = sa.text("CREATE TABLE global_order (id bigserial PRIMARY KEY, stream_id uuid NOT NULL, position int NOT NULL)")
ADD_IN_GLOBAL_ORDER = sa.text("INSERT INTO global_order (stream_id, position) VALUES (:stream_id, :position)")
NEXT_IN_GLOBAL_ORDER = sa.text("SELECT id, stream_id::text, position FROM global_order WHERE id > :after ORDER BY id")

Seen = dict[str, list[int]]
"""The positions of each stream, in the order they were seen in."""


def write_streams(url: str, seed: int, in_global_order: bool, outcome: Connection) -> None:
    """One writing process: random batches of many small streams, one transaction in five rolled back and tried again.

    Sends {stream_id: how many of its events are committed} and how many transactions were rolled back.
    """
    chance = random.Random(seed)
    engine = database.engine(url, create=False)
    committed: dict[str, int] = {}
    rollbacks = 0
    open_streams: list[str] = []
    outcome.send("ready")
    outcome.recv()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        while len(open_streams) < 6:
            stream_id = new_stream_id()
            open_streams.append(stream_id)
            committed[stream_id] = 0
        batch = {
            stream_id: [
                log.row(stream_id, position, Frame("e", f"{stream_id} {position}", None, position))
                for position in range(committed[stream_id], committed[stream_id] + chance.randint(1, 12))
            ]
            for stream_id in chance.sample(open_streams, chance.randint(1, 3))
        }
        while True:
            give_up = chance.random() < 0.2
            with engine.connect() as plain:
                connection = plain.execution_options(recorder_write=True)
                with connection.begin() as transaction:
                    log.append(connection, batch)
                    if in_global_order:
                        rows = [{"stream_id": row[0], "position": row[1]} for rows in batch.values() for row in rows]
                        connection.execute(ADD_IN_GLOBAL_ORDER, rows)
                    time.sleep(chance.random() * 0.002)
                    if give_up:
                        transaction.rollback()
            if not give_up:
                break
            rollbacks += 1
            time.sleep(chance.random() * 0.002)
        for stream_id, rows in batch.items():
            committed[stream_id] += len(rows)
            if chance.random() < 0.15:
                open_streams.remove(stream_id)
        time.sleep(chance.random() * 0.002)
    engine.dispose()
    outcome.send((committed, rollbacks))
    outcome.close()


def follow_pending(engine: sa.Engine, seen: Seen) -> int:
    """Take what is pending, as a projector does: read, end the transaction, then move the checkpoints in another."""
    found: dict[str, list[int]] = {}
    with database.read(engine) as connection:
        joined = log.pending.outerjoin(log.checkpoints, log.checkpoints.c.stream_id == log.pending.c.stream_id)
        chosen = sa.select(log.pending.c.stream_id, log.checkpoints.c.position).select_from(joined)
        for stream_id, checkpoint in connection.execute(chosen.order_by(log.pending.c.stream_id)).all():
            events = log.read(connection, stream_id, -1 if checkpoint is None else checkpoint)
            assert all(event.data == f"{stream_id} {event.position}" for event in events)
            found[stream_id] = [event.position for event in events]
    with database.write(engine) as connection:
        for stream_id, positions in found.items():
            if positions:
                connection.execute(log.checkpoints.delete().where(log.checkpoints.c.stream_id == stream_id))
                connection.execute(log.checkpoints.insert().values(stream_id=stream_id, position=positions[-1]))
            at = positions[-1] if positions else seen[stream_id][-1]
            connection.execute(log.pending.delete().where(log.pending.c.stream_id == stream_id, log.pending.c.position <= at))
    for stream_id, positions in found.items():
        seen[stream_id] += positions
    return sum(map(len, found.values()))


class FollowGlobalOrder:
    """The naive follower: whatever has a higher id than the last one that was seen."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, engine: sa.Engine, seen: Seen) -> int:
        with database.read(engine) as connection:
            found = connection.execute(NEXT_IN_GLOBAL_ORDER, {"after": self.last}).all()
        for self.last, stream_id, position in found:
            seen[stream_id].append(position)
        return len(found)


def write_and_follow(
    engine: sa.Engine, follow: Callable[[sa.Engine, Seen], int], seed: int, in_global_order: bool = False
) -> tuple[dict[str, int], Seen, int]:
    """Run the writers and follow them until they have ended and nothing new comes: (committed, seen, rollbacks)."""
    spawn = multiprocessing.get_context("spawn")
    url = engine.url.render_as_string(hide_password=False)
    seen: Seen = defaultdict(list)
    committed: dict[str, int] = {}
    rollbacks = 0
    pipes: list[Connection] = []
    processes: list[Any] = []
    for number in range(WRITERS):
        ours, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=write_streams, args=(url, seed + number, in_global_order, theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        for pipe in pipes:
            assert pipe.recv() == "ready"
        for pipe in pipes:
            pipe.send("go")
        waiting = list(pipes)
        while waiting:
            if not follow(engine, seen):
                time.sleep(0.001)
            for pipe in [pipe for pipe in waiting if pipe.poll()]:
                counts, rolled_back = pipe.recv()
                committed |= counts
                rollbacks += rolled_back
                waiting.remove(pipe)
        while follow(engine, seen):
            pass
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0] * WRITERS
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()
        for pipe in pipes:
            pipe.close()
    return committed, seen, rollbacks


def missed(committed: dict[str, int], seen: Seen) -> int:
    return sum(len(set(range(count)) - set(seen.get(stream_id, ()))) for stream_id, count in committed.items())


@pytest.mark.slow
def test_a_follower_by_each_streams_positions_misses_nothing_sees_nothing_twice_and_keeps_the_order(engine: sa.Engine) -> None:
    committed, seen, rollbacks = write_and_follow(engine, follow_pending, seed=1)
    assert sum(committed.values()) > 500
    assert len(committed) > 20
    assert rollbacks > 10
    assert missed(committed, seen) == 0
    assert dict(seen) == {stream_id: list(range(count)) for stream_id, count in committed.items() if count}
    assert log.count(engine) == sum(committed.values())
    with database.read(engine) as connection:
        assert connection.execute(sa.select(log.pending)).all() == []
        for stream_id, count in committed.items():
            head = log.head(connection, stream_id)
            assert (head.position if head else -1) == count - 1


@pytest.mark.slow
def test_control_a_follower_by_a_global_position_loses_events(postgresql_url: str) -> None:
    """What commits late has a lower id than what was already seen, and is never looked at again."""
    engine = database.engine(postgresql_url, create=True)
    database.check(engine, upgrade=True)
    with engine.begin() as connection:
        connection.execute(GLOBAL_ORDER)
    lost = 0
    try:
        follower = FollowGlobalOrder()
        for attempt in range(ROUNDS):
            committed, seen, _ = write_and_follow(engine, follower, seed=100 * (attempt + 1), in_global_order=True)
            assert sum(committed.values()) > 500
            lost += missed(committed, seen)
            if lost:
                break
        with database.read(engine) as connection:
            stored = connection.execute(sa.text("SELECT count(*) FROM global_order")).scalar()
        assert stored == log.count(engine), "every event is there to be seen"
    finally:
        engine.dispose()
    assert lost > 0
