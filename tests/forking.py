"""A program that records and forks, in a process of its own: `python -m tests.forking HOW DB ORIGIN ROUNDS`.

Each process asks for paths of its own, /NAME/NUMBER, and what it has asked for it has read to the end. What it prints are the
names, one a line, each with how many it asked for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import httpx

import recorder

EACH = 10  # requests of a child


def main(how: str, db: str, origin: str, rounds: int) -> None:
    WAYS[how](db, origin, rounds)


def ask(client: httpx.Client, origin: str, name: str, count: int = EACH, pause: float = 0.0) -> None:
    for number in range(count):
        client.post(f"{origin}/{name}/{number}").read()
        time.sleep(pause)


def child(work: Callable[[], None]) -> int:
    """Do this in a forked child, which ends as a program does: by sys.exit, with its exit handlers."""
    number = os.fork()
    if number:
        return number
    work()
    sys.exit(0)


def prefork(db: str, origin: str, rounds: int) -> None:
    """A server that hooks its client, records, and forks workers that end each in another way."""
    client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))  # else they would share an open socket
    hook = recorder.record(client, db)
    ask(client, origin, "parent")

    def closes() -> None:
        ask(client, origin, "closes")
        hook.close()
        os._exit(0)

    def terminated() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        ask(client, origin, "terminated")
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    def fails() -> None:
        ask(client, origin, "fails")
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - its traceback is expected
        raise RuntimeError

    def exits() -> None:
        ask(client, origin, "exits")

    workers = (exits, closes, terminated, fails)
    numbers = [child(work) for work in workers]
    ask(client, origin, "parent-after")
    for number in numbers:
        os.waitpid(number, 0)
    for name in ("parent", "parent-after", *(work.__name__ for work in workers)):
        print(name, EACH)


def parent_first(db: str, origin: str, rounds: int) -> None:
    """The parent is busy recording while it forks, and closes what it has before its children have recorded all of theirs."""
    _rounds(db, origin, rounds, parent_pause=0.0, child_pause=0.004)


def children_first(db: str, origin: str, rounds: int) -> None:
    _rounds(db, origin, rounds, parent_pause=0.01, child_pause=0.0)


def _rounds(db: str, origin: str, rounds: int, parent_pause: float, child_pause: float) -> None:
    for turn in range(rounds):
        client = httpx.Client()
        hook = recorder.record(client, db)
        recording = threading.Thread(target=ask, args=(client, origin, f"parent-{turn}", EACH, parent_pause))
        recording.start()
        time.sleep(0.005)

        def work(name: str = f"child-{turn}") -> None:
            with httpx.Client() as own, recorder.record(own, db):
                ask(own, origin, name, EACH, child_pause)

        number = child(work)
        recording.join()
        hook.close()
        client.close()
        os.waitpid(number, 0)
        print(f"parent-{turn}", EACH)
        print(f"child-{turn}", EACH)


def pool(db: str, origin: str, rounds: int) -> None:
    """multiprocessing, in each of its ways to start a process; none of the children flushes by itself."""
    client = httpx.Client()
    with recorder.record(client, db):
        for method in ("fork", "spawn", "forkserver"):
            processes = multiprocessing.get_context(method)
            worker = processes.Process(target=record_some, args=(db, origin, method))
            worker.start()
            ask(client, origin, f"beside-{method}")
            worker.join()
            print(method, EACH)
            print(f"beside-{method}", EACH)


def record_some(db: str, origin: str, name: str) -> None:
    client = httpx.Client()
    recorder.record(client, db)  # closed by nobody: the end of the process flushes
    ask(client, origin, name)


def ends(db: str, origin: str, rounds: int) -> None:
    """The end of the interpreter, with a hook that nobody closed."""
    record_some(db, origin, "ends")
    print("ends", EACH)


def fails_at_the_end(db: str, origin: str, rounds: int) -> None:
    record_some(db, origin, "fails")
    print("fails", EACH)
    raise RuntimeError("the program ends by this")


def still_streaming(db: str, origin: str, rounds: int) -> None:
    """The program ends while a daemon thread of it is in the midst of a stream."""
    client = httpx.Client()
    recorder.record(client, db)
    ask(client, origin, "whole")
    response = client.send(client.build_request("POST", f"{origin}/endless/0"), stream=True)
    chunks = response.iter_raw()
    next(chunks)
    threading.Thread(target=list, args=(chunks,), daemon=True).start()
    print("whole", EACH)
    print("endless", 1)


WAYS: dict[str, Callable[[str, str, int], None]] = {
    way.__name__: way for way in (prefork, parent_first, children_first, pool, ends, fails_at_the_end, still_streaming)
}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
