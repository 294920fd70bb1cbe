"""A power cut at any moment: every transaction whose commit had returned is there whole, and no other in parts.

The recorder records into a real SQLite file, with checkpoints and projections in between, and every statement that it executes
is taken down. These are executed again, with SQLite on a disk that may forget what was not synced (tests/disk.py). For each cut,
what may be left of the files is opened by the plain sqlite3, which recovers it, and compared with what stood there after each
commit. Two controls show that the disk forgets: with synchronous=NORMAL commits are lost, with OFF the file is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from recorder import database
from recorder.collect.writer import Writer
from recorder.projections import runner
from tests import writing
from tests.disk import SYNC, Disk, Platter, choices, put
from tests.test_writer import SSE, begun, event, stream

TITLE = "The power cut at every write and every sync, in every way"

SEED = 20_261_124
CHECKPOINT = 24  # pages of the journal after which SQLite copies them into the file: often, in so short a run


class Committed(NamedTuple):
    """What stood in the database once a commit had returned; told: what the disk had been told by then."""

    told: int
    digest: str


@contextlib.contextmanager
def taken_down() -> Iterator[list[str]]:
    """Every statement, parameters filled in, that connections of SQLite which are opened here execute."""
    statements: list[str] = []

    def listen(connection: sqlite3.Connection, record: object) -> None:
        connection.set_trace_callback(statements.append)
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")

    sa.event.listen(sa.Engine, "connect", listen)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "connect", listen)


def recorded(file: Path) -> list[str]:
    """The statements of a recorder at work: short and long streams, some open at the end, projected in between."""
    with taken_down() as statements:
        engine = database.connect(f"sqlite:///{file}")
        with Writer(engine) as writer:
            open_ones = [begun(writer) for _ in range(3)]
            for turn in range(12):
                body = writing.encoded(writing.said(f"text {turn}", id=f"run_{turn}", thread_id=f"thread_{turn % 3}"))
                recording = writer.begin(stream()._replace(path="/v1/threads/runs", request_body=b'{"stream":true}'))
                recording.response(200, (("content-type", SSE),), SSE)
                for at in range(0, len(body), 400):
                    recording.chunk(body[at : at + 400])
                    if at % 3 == 0:
                        writer.flush(20)
                for number, each in enumerate(open_ones):
                    each.chunk(event(turn) + b"data: " + b"%d" % number * 3000 + b"\n\n")
                recording.end("eof")
                assert writer.flush(20)
                if turn % 4 == 3:
                    runner.catch_up(engine)
            for number in range(300):
                open_ones[0].chunk(event(number))
            assert writer.flush(20)
        engine.dispose()
    return statements


def executed(statements: list[str], synchronous: str) -> tuple[Disk, list[Committed]]:
    """These statements executed on a disk that remembers what it was told."""
    disk = Disk()
    connection = disk.connect("log.db")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # a VFS in Python has no shared memory
    found = [Committed(0, digest_of([]))]
    inside = False
    for statement in statements:
        changed = statement.replace("PRAGMA synchronous = FULL", f"PRAGMA synchronous = {synchronous}")
        list(connection.execute(changed))
        if inside and not connection.in_transaction:
            found.append(Committed(len(disk.told), digest(connection)))
        inside = connection.in_transaction
    connection.close()
    return disk, found


def digest(connection: object) -> str:
    """Of all that stands in a database."""
    execute = connection.execute  # type: ignore[attr-defined]
    rows: list[object] = []
    for name, sql in list(execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")):
        rows += [(name, sql), *sorted(map(repr, execute(f'SELECT * FROM "{name}"')))]
    return digest_of(rows)


def digest_of(rows: list[object]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


class Found(NamedTuple):
    """What cuts left: how many there were, and at how many of them a commit was lost, or something stood there in parts."""

    cuts: int
    lost: int
    torn: int


def cut(disk: Disk, committed: list[Committed], folder: Path, share: float) -> Found:
    """Cut the power: at each sync, at each end of a commit, and at this share of all other moments (1: in every way).

    folder: an empty one, to lay what is left down in.
    """
    dice = random.Random(SEED)
    platter = Platter()
    cuts = lost = torn = 0
    returned = 0  # the last commit that had
    ends = {each.told for each in committed}
    for number, told in enumerate(disk.told):
        while returned + 1 < len(committed) and committed[returned + 1].told <= number:
            returned += 1
        if told.at == SYNC or number in ends or number - 1 in ends or dice.random() < share:
            ways = choices(dice)
            for way in ways if share >= 1 else dice.sample(ways, 2):
                put(platter.left(way), folder)
                cuts += 1
                standing = recovered(folder / "log.db")
                may = {each.digest for each in committed[returned : returned + 2]}
                if standing not in may:
                    earlier = standing in {each.digest for each in committed[:returned]}
                    lost += earlier
                    torn += not earlier
        platter.take(told)
    return Found(cuts, lost, torn)


def recovered(file: Path) -> str:
    """The digest of what SQLite makes of files that were left; "damaged" where it finds them so."""
    if not file.exists():
        return digest_of([])
    try:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "damaged"
            return digest(connection)
    except sqlite3.DatabaseError:
        return "damaged"


def run() -> list[str]:
    said = []
    with tempfile.TemporaryDirectory(prefix="recorder-proof-") as given:
        folder = Path(given) / "left"
        folder.mkdir()
        statements = recorded(Path(given) / "real.db")
        for synchronous, lost, torn in (("FULL", False, False), ("NORMAL", True, False), ("OFF", True, True)):
            disk, committed = executed(statements, synchronous)
            found = cut(disk, committed, folder, 1)
            assert (found.lost > 0, found.torn > 0) == (lost, torn), (synchronous, found)
            said.append(
                f"synchronous={synchronous}: {len(committed) - 1} commits, {len(disk.told):,} writes and {disk.syncs} syncs,"
                f" {found.cuts:,} cuts: {found.lost:,} lost a commit, {found.torn:,} left one in parts or the file damaged"
            )
    return said
