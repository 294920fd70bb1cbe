"""The recorder as its users run it: a command line, and a proxy in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from recorder.errors import RecorderError

_START_SECONDS = 20
_STOP_SECONDS = 20


class Shell:
    """Runs `recorder --db URL …` as main, click's own, does; what must run beside the demo gets a process of its own."""

    def __init__(self, url: str, main: click.Command) -> None:
        self.url = url
        self._main = main

    def on(self, url: str) -> Shell:
        """The same with another database."""
        return Shell(url, self._main)

    def line(self, *args: str) -> str:
        """The command as one types it."""
        words = ("recorder", "--db", self.url, *args)
        return " ".join(f'"{word}"' if re.search(r"\s", word) else word for word in words)

    def show(self, *args: str) -> None:
        """Have a command print its answer."""
        self._main.main(["--db", self.url, *args], prog_name="recorder", standalone_mode=False)

    def output(self, *args: str) -> bytes:
        """The bytes that a command prints."""
        with io.BytesIO() as held, io.TextIOWrapper(held, "utf-8", write_through=True) as stdout:
            with contextlib.redirect_stdout(stdout):
                self.show(*args)
            return held.getvalue()

    def ask(self, *args: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.output(*args, "--json"))

    def timed(self, *args: str, each: Callable[[bytes], None] | None = None) -> list[tuple[float, bytes]]:
        """What a command prints, as it comes: (seconds by time.perf_counter, bytes). each: is called with every piece."""
        chunks: list[tuple[float, bytes]] = []
        with subprocess.Popen(self.argv(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                while chunk := os.read(process.stdout.fileno(), 1 << 16):
                    chunks.append((time.perf_counter(), chunk))
                    if each:
                        each(chunk)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RecorderError(f"{self.line(*args)}: exit status {process.returncode}")
        return chunks

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-P", "-m", "recorder", "--db", self.url, *args]


class Server:
    """`recorder proxy` or `recorder serve` on a free port, from __enter__ until close(), which waits for its orderly end.

    origin: where it listens. Raises RecorderError if it does not start.
    """

    def __init__(self, shell: Shell, *args: str) -> None:
        self.origin = ""
        self.args = (*args, "--port", "0")
        self.shell = shell
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self._ready = threading.Event()
        self._listening: threading.Thread | None = None

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            self.shell.argv(*self.args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        self._listening = threading.Thread(target=self._listen, name=f"demo-{self.args[0]}-stderr", daemon=True)
        self._listening.start()
        try:
            self._ready.wait(_START_SECONDS)
        finally:
            if not self.origin:
                self.close()
        if not self.origin:
            said = self._said[-1] if self._said else "it said nothing"
            raise RecorderError(f"recorder {self.args[0]} did not start: {said}")
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it as SIGTERM does; kill it if that takes too long."""
        if self._process is None or self._listening is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._listening.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.strip())
            if found := re.match(r"(?:recording|serving .* at) (http://[^/\s]+)", line):
                self.origin = found[1]
                self._ready.set()
        self._ready.set()
