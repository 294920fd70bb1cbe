"""The `recorder` command as a process of its own: run to its end, or a proxy that goes on until it is stopped."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 60.0
"""Seconds after which a process has hung."""

_CAP_DAC_OVERRIDE, _PR_CAPBSET_DROP = 1, 24


def command(*args: str) -> list[str]:
    """The command line: of the console script beside this Python where it is installed."""
    script = Path(sys.executable).with_name("recorder")
    if script.exists():
        return [str(script), *args]
    return [sys.executable, "-c", "import sys; from recorder.cli import main; sys.exit(main())", *args]


def environment() -> dict[str, str]:
    """This process's, without what would change the command."""
    return {name: value for name, value in os.environ.items() if name not in ("RECORDER_DB", "COLUMNS", "FORCE_COLOR")}


def sqlite(file: Path) -> str:
    return f"sqlite:///{file}"


def recorder(
    *args: str, db: str | Path, stdin: bytes = b"", preexec: Callable[[], None] | None = None, patience: float = PATIENCE
) -> subprocess.CompletedProcess[bytes]:
    """A command run to its end. db: a URL, or the path of a SQLite file."""
    given = sqlite(db) if isinstance(db, Path) else db
    return subprocess.run(
        command("--db", given, *args),
        input=stdin,
        capture_output=True,
        timeout=patience,
        env=environment(),
        preexec_fn=preexec,
        check=False,
    )


def bound() -> None:
    """For preexec: permission bits count for root too, whom a command without CAP_DAC_OVERRIDE in its bounding set is not."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def output(*args: str, db: str | Path) -> bytes:
    """What a command that must succeed prints."""
    done = recorder(*args, db=db)
    assert done.returncode == 0, f"recorder {' '.join(args)}: exit {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def terminal(*args: str, db: str | Path, columns: int = 80, variables: Mapping[str, str] | None = None) -> str:
    """What a command that must succeed prints on a terminal so many columns wide. variables: of the environment."""
    given = sqlite(db) if isinstance(db, Path) else db
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    own = {name: value for name, value in environment().items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    running = subprocess.Popen(
        command("--db", given, *args), stdin=its, stdout=its, stderr=its, env=own | dict(variables or {}), start_new_session=True
    )
    os.close(its)
    printed = b""
    try:
        while True:
            ready, _, _ = select.select([ours], [], [], PATIENCE)
            assert ready, f"recorder {' '.join(args)} has hung"
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not piece:
                break
            printed += piece
        assert running.wait(PATIENCE) == 0, printed.decode(errors="replace")
    finally:
        running.kill()
        running.wait(PATIENCE)
        os.close(ours)
    return printed.decode().replace("\r\n", "\n")


def answer(*args: str, db: str | Path) -> Any:
    """The JSON document that a command prints."""
    return json.loads(output(*args, "--json", db=db))


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a failed command says; it prints nothing else."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        assert len(line) > len("error: ") + 10
        return line


def strictly(text: str) -> Any:
    """A JSON document by the letter of RFC 8259: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


class Background:
    """A command that goes on. `said`: its lines on stderr so far. Use it as a context: it is killed at the end.

    program: what is run instead of the command, with its arguments. variables: of the environment, beside this process's.
    """

    def __init__(
        self,
        *args: str,
        db: str | Path,
        preexec: Callable[[], None] | None = None,
        program: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        given = "--db", sqlite(db) if isinstance(db, Path) else db, *args
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [*program, *given] if program else command(*given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() | dict(variables or {}),
            preexec_fn=preexec,  # noqa: PLW1509 - a limit is to be set in the child alone
        )
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line on stderr that matches; waits for it."""
        found: list[re.Match[str]] = []

        def came() -> bool:
            found[:] = [match for line in self.said if (match := re.search(pattern, line))]
            return bool(found) or not self._reader.is_alive()

        with self._came:
            self._came.wait_for(came, PATIENCE)
        assert found, f"nothing like {pattern!r} in {self.said}"
        return found[0]

    def stop(self) -> int:
        """Ask it to end (SIGTERM); its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def kill(self) -> None:
        """kill -9, and its pipes closed."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._came:
                self.said.append(line.decode(errors="replace").rstrip("\n"))
                self._came.notify_all()
        with self._came:
            self._came.notify_all()


class ProxyProcess(Background):
    """`recorder proxy` on a free port, ready to be asked at host and port."""

    host = "127.0.0.1"

    def __init__(self, upstream: str, *options: str, db: str | Path, **others: Any) -> None:
        """others: of Background."""
        super().__init__("proxy", "--upstream", upstream, "--port", "0", *options, db=db, **others)
        self.port = 0

    def __enter__(self) -> ProxyProcess:
        try:
            self.port = int(self.wait_for(r"recording http://[^ ]*:(\d+) ")[1])
        except BaseException:
            self.kill()
            raise
        return self

    def page(self, path: str) -> str:
        """One of the proxy's own pages."""
        with urllib.request.urlopen(f"http://{self.host}:{self.port}{path}", timeout=PATIENCE) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> float:
        """A value of /-/metrics, by its name and labels as they stand there; 0 where it does not."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.page("/-/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of what(), asked again until then; fails where it has hung."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not so after {seconds:g} s: {what}"
        time.sleep(0.01)
    return value
