"""pgbouncer before a PostgreSQL server: it gives each transaction another of a few server connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.between import way_to
from tests.commands import until

_SETTINGS = """
[databases]
* = user={user} host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
server_reset_query = DISCARD ALL
logfile = {folder}/log
"""
_SIZES = {"transaction": 4, "session": 40}
"""Server connections. In session mode each of a client's takes one for as long as it is open."""


@contextmanager
def pooled(url: str, mode: str) -> Iterator[str]:
    """The URL of a database over a pooler in this mode. Skips the test where there is no pgbouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    parsed = sa.make_url(url)
    folder = Path(tempfile.mkdtemp(prefix="recorder-pooler-"))
    folder.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    over = parsed.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    with way_to(url) as way:  # the server's socket is root's and its own
        server = sa.make_url(way.url).port
        ini = _SETTINGS.format(user=parsed.username, server=server, port=port, mode=mode, size=_SIZES[mode], folder=folder)
        (folder / "ini").write_text(ini)
        nobody = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
        running = subprocess.Popen([program, "-q", str(folder / "ini")], user=nobody)
        try:
            until(lambda: running.poll() is not None or _answers(over))
            assert running.poll() is None, (folder / "log").read_text()
            yield over
        finally:
            running.terminate()
            running.wait()
            shutil.rmtree(folder)


def _answers(url: str) -> bool:
    with contextlib.suppress(psycopg.Error), psycopg.connect(url, connect_timeout=2):
        return True
    return False
