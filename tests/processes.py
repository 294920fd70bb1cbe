"""A program that records, forks, and ends in many ways: `python -m tests.processes SCENE DATABASE URL …`.

On stdout it says, a line each, what is committed as far as each of its processes knows: the `who` of each request that was
flushed. URL is asked with `?who`, and answers with a stream.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
import os
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import httpx

if os.environ.get("WITHOUT_LETTING_GO"):  # the control: a recorder that does nothing before its process forks
    real = os.register_at_fork
    os.register_at_fork = lambda after_in_child=None, **_: after_in_child and real(after_in_child=after_in_child)

import recorder
from recorder.collect.hook import Hook

_TLS = ssl.create_default_context()
"""Made once: OpenSSL has locks that a child inherits as they are, so another thread must not be in it while its process forks."""


class Speaker:
    """A client that is recorded, and what one process does with it."""

    def __init__(self, db: str, url: str, name: str = "") -> None:
        self.url = url
        self.name = name
        self.client = httpx.Client(timeout=60, verify=_TLS)
        self.hook: Hook = recorder.record(self.client, db)

    def ask(self, count: int, pause: float = 0.0) -> list[str]:
        """So many requests; their `who`."""
        asked = []
        for number in range(count):
            who = f"{self.name}.{os.getpid()}.{threading.get_native_id()}.{time.monotonic_ns()}.{number}"
            response = self.client.get(f"{self.url}?{who}")
            assert response.content, response
            asked.append(who)
            if pause:
                time.sleep(pause * random.random())
        return asked

    def flushed(self, asked: list[str]) -> None:
        assert self.hook.flush(20)
        committed(asked)

    def renewed(self) -> None:
        """In a child: a connection of its own to the server, as a client that is used in both processes needs it anyway."""
        inherited = self.client
        self.client = httpx.Client(timeout=60, transport=httpx.HTTPTransport(verify=_TLS), verify=_TLS)
        self.client.event_hooks = inherited.event_hooks
        _inherited.append(inherited)


_inherited: list[Any] = []  # neither used nor closed


def committed(asked: list[str]) -> None:
    os.write(1, "".join(f"{who}\n" for who in asked).encode())


def forked(child: Callable[[], None]) -> int:
    """The id of a child that does this and ends without any ceremony."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return pid


def waited(*pids: int) -> None:
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, f"{pid} ended with {status}"


class Busy:
    """A thread that records all the time, as long as this context lasts. `asked`: the `who` of its requests."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._over = threading.Event()
        self.asked: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self.asked += self._speaker.ask(1, 0.004)


# Scenes


def parents_and_children(db: str, url: str, rounds: str, seed: str) -> None:
    """Parents, one after the other, that fork while they record; parent and child end in either order."""
    random.seed(int(seed))
    for number in range(int(rounds)):
        waited(forked(lambda number=number: _parent(db, url, number)))  # type: ignore[misc]


def _parent(db: str, url: str, number: int) -> None:
    random.seed(random.random() + number)
    parent = Speaker(db, url, "parent")
    asked = parent.ask(random.randint(1, 3))  # at least one, see closing_while_forking
    with Busy(parent) if random.random() < 0.7 else contextlib.nullcontext() as busy:
        if random.random() < 0.5:
            parent.flushed([])
        children = [forked(lambda: _child(parent)) for _ in range(random.randint(1, 2))]
        time.sleep(random.random() * 0.02)
        asked += parent.ask(random.randint(0, 3), 0.002)
    asked += busy.asked if busy is not None else []
    if random.random() < 0.5:
        waited(*children)
        children = []
    parent.hook.close()
    committed(asked)
    waited(*children)


def _child(speaker: Speaker) -> None:
    speaker.renewed()
    speaker.name = "child"
    asked = speaker.ask(random.randint(1, 4), 0.003)
    speaker.flushed(asked)
    time.sleep(random.random() * 0.02)
    asked = speaker.ask(random.randint(1, 4), 0.003)
    if random.random() < 0.5:
        speaker.hook.close()
        committed(asked)
    else:
        speaker.flushed(asked)


def silent_children(db: str, url: str, count: str) -> None:
    """Children that record nothing and end in many ways, while their parent is at it."""
    parent = Speaker(db, url, "parent")

    def ends(how: int) -> None:
        if how == 0:
            parent.hook.close()
        elif how == 1:
            _inherited.append(parent.client)
            parent.hook.flush(60)
        elif how == 2:
            del parent.hook
        elif how == 3:
            parent.hook.close()
            parent.hook = None  # type: ignore[assignment]
            import gc

            gc.collect()

    with Busy(parent) as busy:
        for number in range(int(count)):
            pid = os.fork()
            if pid == 0:
                ends(number % 4)
                if number % 3:
                    sys.stdout.flush()
                    sys.exit(0)  # with atexit, and all objects thrown away
                os._exit(0)
            waited(pid)
    parent.hook.close()
    committed(busy.asked)


def closing_while_forking(db: str, url: str, count: str) -> None:
    """One thread forks children that record while another opens and closes hooks on the same database."""
    over = threading.Event()
    asked: list[str] = []

    def open_and_close() -> None:
        while not over.is_set():
            speaker = Speaker(db, url, "closing")
            asked.extend(speaker.ask(3))
            speaker.hook.close()
            speaker.client.close()

    def child() -> None:
        speaker = Speaker(db, url, "child")
        speaker.flushed(speaker.ask(3, 0.003))
        said = speaker.ask(2)
        speaker.hook.close()
        committed(said)

    first = Speaker(db, url, "first")  # what Python imports for a request must not be half imported at a fork
    first.flushed(first.ask(1))
    first.hook.close()
    thread = threading.Thread(target=open_and_close)
    thread.start()
    try:
        for _ in range(int(count)):
            time.sleep(random.random() * 0.01)
            waited(forked(child))
    finally:
        over.set()
        thread.join()
    committed(asked)


def grandchildren(db: str, url: str) -> None:
    """Each process records, then forks the next, and records on while that one does the same."""

    def generation(number: int) -> None:
        speaker.renewed()
        speaker.name = f"generation {number}".replace(" ", "")
        asked = speaker.ask(3)
        if number:
            pids = [forked(lambda: generation(number - 1)) for _ in range(2)]
            asked += speaker.ask(3)
            waited(*pids)
        speaker.flushed(asked)

    speaker = Speaker(db, url)
    generation(3)
    speaker.hook.close()


def open_stream_and_fork(db: str, url: str) -> None:
    """A stream of the parent's is open while a child is forked that inherits it, drops it and ends."""
    parent = Speaker(db, url, "parent")
    with parent.client.stream("GET", f"{url}?open") as response:
        chunks = response.iter_raw()
        size = len(next(chunks))
        pid = os.fork()
        if pid == 0:
            parent.renewed()
            parent.name = "child"
            parent.flushed(parent.ask(1))
            _inherited.append((response, chunks))
            os._exit(0)
        waited(pid)
        size += sum(map(len, chunks))
    assert size, "the parent's stream is unharmed"
    parent.flushed(["open"])
    pid = os.fork()
    if pid == 0:
        del response, chunks
        sys.exit(0)
    waited(pid)
    parent.hook.close()


def prefork_server(db: str, url: str) -> None:
    """A server that records, forks its workers, and records on. They end in all the ways in which workers end."""
    master = Speaker(db, url, "master")
    asked = master.ask(5)
    ready_read, ready_write = os.pipe()

    def worker(number: int) -> None:
        master.renewed()
        master.name = f"worker{number}"
        master.flushed(master.ask(20))
        os.write(ready_write, b"x")
        if number == 0:
            said = master.ask(5)
            master.hook.close()
            committed(said)
            os._exit(0)
        if number == 1:
            master.flushed(master.ask(5))
            os._exit(0)
        if number == 2:
            committed(master.ask(5))
            sys.exit(0)  # which flushes
        committed(master.ask(5))
        time.sleep(60)  # until it is terminated, which flushes, too

    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            worker(number)
            os._exit(1)
        pids.append(pid)
        asked += master.ask(2)
    while os.read(ready_read, 1) and (left := left_of(ready_read, 3)):
        break
    assert not left
    asked += master.ask(5)
    time.sleep(0.5)
    os.kill(pids[3], signal.SIGTERM)
    waited(*pids)
    asked += master.ask(5)
    master.hook.close()
    committed(asked)


def left_of(pipe: int, count: int) -> int:
    """Read so many bytes of a pipe; how many did not come."""
    while count and os.read(pipe, 1):
        count -= 1
    return count


def ask_in_child(db: str, url: str, number: int) -> list[str]:
    """What a child of multiprocessing does: its requests, and no flush, for its end is to see to that."""
    speaker = _speakers[0] if _speakers else Speaker(db, url)
    if _speakers:
        speaker.renewed()
    speaker.name = f"child{number}"
    asked = speaker.ask(10)
    committed(asked)
    return asked


_speakers: list[Speaker] = []
"""The parent's, in a forked child of multiprocessing."""


def multiprocessed(db: str, url: str, method: str, inherit: str) -> None:
    """Children of multiprocessing, and of a pool of processes, that end without closing anything."""
    context = multiprocessing.get_context(method)
    parent = Speaker(db, url, "parent")
    asked = parent.ask(5)
    if inherit == "inherit":
        _speakers.append(parent)
    processes = [context.Process(target=ask_in_child, args=(db, url, number)) for number in range(3)]
    for process in processes:
        process.start()
    asked += parent.ask(5)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for future in [pool.submit(ask_in_child, db, url, 10 + number) for number in range(4)]:
            future.result()
    with context.Pool(2) as workers:
        workers.starmap(ask_in_child, [(db, url, 20 + number) for number in range(4)])
        workers.close()
        workers.join()
    asked += parent.ask(5)
    parent.hook.close()
    committed(asked)


def fork_while_held(db: str, url: str) -> None:
    """Another process holds the database all the while."""
    parent = Speaker(db, url)
    parent.ask(3)
    for _ in range(3):
        waited(forked(lambda: None))
    parent.ask(3)
    os._exit(0)


def ends(db: str, url: str, how: str) -> None:
    """The interpreter ends, and nothing was closed."""
    speaker = Speaker(db, url)
    asked = speaker.ask(20)
    committed(asked)
    if how == "exit":
        sys.exit(3)
    if how == "exception":
        raise ValueError("of the program")
    if how == "keyboard":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have us ignore
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    if how == "transport":
        transport = recorder.RecordingTransport(None, db)
        client = httpx.Client(transport=transport)
        client.get(f"{url}?transport")
        committed(["transport"])
    if how in ("thread", "daemon"):
        begun = threading.Event()

        def stream() -> None:
            with speaker.client.stream("GET", f"{url}?open") as response:
                for _ in response.iter_raw():
                    begun.set()

        threading.Thread(target=stream, daemon=how == "daemon").start()
        assert begun.wait(60)
        committed(["open"])


SCENES: dict[str, Callable[..., None]] = {
    scene.__name__: scene
    for scene in (
        parents_and_children,
        silent_children,
        closing_while_forking,
        grandchildren,
        open_stream_and_fork,
        prefork_server,
        fork_while_held,
        multiprocessed,
        ends,
    )
}

if __name__ == "__main__":
    SCENES[sys.argv[1]](*sys.argv[2:])
