"""What the proxy says of itself: /-/health, /-/metrics, and who may ask."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recorder import database
from recorder.collect.metrics import Metrics
from recorder.collect.writer import COMMIT_SECONDS, Writer
from tests.commands import Background, ProxyProcess, recorder, until
from tests.test_proxy import Setting, begin, event
from tests.test_proxy_failures import GET, exchanged
from tests.upstream import PATIENCE, SSE, Asked, Upstream, Wire
from tests.writing import stream

pytestmark = pytest.mark.slow

NAMES = {
    "recorder_streams_open",
    "recorder_streams",
    "recorder_events",
    "recorder_bytes",
    "recorder_memory_bytes",
    "recorder_memory_limit_bytes",
    "recorder_queue_bytes",
    "recorder_queue_age_seconds",
    "recorder_commits",
    "recorder_commit_seconds",
    "recorder_gaps",
    "recorder_dropped_bytes",
    "recorder_database_errors",
    "recorder_faults",
    "recorder_streams_given_up",
    "recorder_streams_missing",
    "recorder_leases_lost",
    "recorder_files_lost",
}
"""Of the metrics, as Prometheus' parser names them: without the _total of counters."""


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """An upstream, a proxy that has passed nothing yet, and its log."""
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        yield here
        here.recorded.engine.dispose()
        assert proxy.stop() == 0
        assert not [line for line in proxy.said if "Traceback" in line], proxy.said


def test_the_pages_and_what_they_say_stand_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert all(f"`{name}" in readme for name in (*NAMES, "/-/health", "/-/metrics"))


def samples(proxy: ProxyProcess) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every value of /-/metrics by its name and the values of its labels."""
    families = list(text_string_to_metric_families(proxy.page("/-/metrics")))
    assert {family.name for family in families} == NAMES
    assert all(family.documentation for family in families)
    return {(sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples}


def test_what_passes_is_counted(setting: Setting) -> None:
    go = threading.Event()

    def answer(wire: Wire, asked: Asked) -> None:
        wire.begin()
        wire.chunk(event(0) + event(1) + b": a comment\n\n")
        assert go.wait(PATIENCE)
        wire.chunk(b"data: [DONE]\n\n")
        wire.end()

    before = samples(setting.proxy)
    assert before["recorder_streams_open", ()] == before["recorder_events_total", ()] == before["recorder_commits_total", ()] == 0
    setting.upstream.on("/v1", answer)
    setting.upstream.on("/error", lambda wire, asked: wire.whole(b"{}", status=500))
    connection = setting.connect()
    response = begin(connection, "/v1", body=b"{}")
    until(lambda: samples(setting.proxy)["recorder_events_total", ()] == 2)
    during = samples(setting.proxy)
    assert during["recorder_streams_open", ()] == 1
    go.set()
    body = response.read()
    connection.close()
    setting.ask("/error")
    until(lambda: samples(setting.proxy)["recorder_queue_bytes", ()] == 0)
    after = samples(setting.proxy)
    assert after["recorder_streams_open", ()] == 0
    assert after["recorder_events_total", ()] == 3
    assert after["recorder_bytes_total", ()] == len(b"{}") + len(body) + len(b"{}"), "of the request, and of both responses"
    assert after["recorder_streams_total", ("done",)] == 1
    assert after["recorder_streams_total", ("http_error",)] == 1
    assert after["recorder_queue_age_seconds", ()] == 0
    assert after["recorder_commits_total", ()] == after["recorder_commit_seconds_count", ()] > 1
    assert after["recorder_commit_seconds_bucket", ("+Inf",)] == after["recorder_commits_total", ()]
    assert after["recorder_commit_seconds_sum", ()] > 0
    assert after["recorder_database_errors_total", ()] == after["recorder_dropped_bytes_total", ()] == 0


def test_health_says_when_the_database_fails_and_that_it_works_again(setting: Setting) -> None:
    health = json.loads(setting.proxy.page("/-/health"))
    assert (health["status"], health["database"], health["failing_since"]) == ("ok", "ok", None)
    setting.upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
    locking = sqlite3.connect(setting.file, isolation_level=None)
    locking.execute("BEGIN IMMEDIATE")
    assert setting.ask("/v1")[1] == event(0)

    def failing() -> bytes:
        got = exchanged(setting.proxy.port, GET % b"/-/health", patience=0.5).data
        return got if got.startswith(b"HTTP/1.1 503 ") else b""

    said = json.loads(until(failing).partition(b"\r\n\r\n")[2])
    assert (said["status"], said["database"], said["streams_open"]) == ("failing", "failing", 0)
    assert said["failing_since"].endswith("+00:00")
    assert said["queue_bytes"] > 0
    assert said["queue_age_seconds"] > 0
    assert setting.proxy.metric("recorder_database_errors_total") >= 1
    locking.execute("ROLLBACK")
    locking.close()
    until(lambda: exchanged(setting.proxy.port, GET % b"/-/health", patience=0.5).data.startswith(b"HTTP/1.1 200 "))
    assert setting.proxy.metric('recorder_streams_total{outcome="eof"}') == 1


def test_the_pages_are_the_proxys_own_and_all_else_is_the_upstreams(setting: Setting) -> None:
    """A path that begins with /-/ is never forwarded, nor recorded; any other is."""
    for path in ("/-/", "/-/other", "/-/health/more", "/-/metrics.txt"):
        got = exchanged(setting.proxy.port, GET % path.encode(), patience=0.3)
        assert got.data.startswith(b"HTTP/1.1 404 "), path
        assert b'"code":"not_found"' in got.data
        assert setting.upstream.count(path) == 0
    forwarded = ("/-", "/health", "/metrics", "/%2D/health", "//-/health", "/v1/-/health")
    for path in forwarded:
        setting.upstream.on(path, lambda wire, asked: wire.whole(b"{}"))
        assert setting.ask(path, "GET")[1] == b"{}"
        setting.recorded.ended(path)
    streams = [stream.path for path in ("/-/health", "/-/metrics", *forwarded) for stream in setting.recorded.streams(path)]
    assert streams == list(forwarded)


def test_the_pages_keep_the_connection_and_know_head(setting: Setting) -> None:
    connection = setting.connect()
    for _ in range(3):
        assert begin(connection, "/-/health?verbose=1", "GET").read()
        assert begin(connection, "/-/health", "HEAD").read() == b""
        response = begin(connection, "/-/metrics", "GET")
        assert response.getheader("content-type", "").startswith("text/plain; version=0.0.4")
        response.read()
    assert connection.sock is not None, "the same connection all along"
    connection.close()


def test_gaps_are_counted_by_their_reason(tmp_path: Path) -> None:
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--durability", "strict", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        here.recorded.engine.dispose()
        upstream.on("/v1", lambda wire, asked: wire.stream([b"no gzip"], [SSE, ("Content-Encoding", "gzip")]))
        here.ask("/v1")
        until(lambda: proxy.metric('recorder_gaps_total{reason="not decoded from here on"}') == 1)
        upstream.on("/v1", lambda wire, asked: wire.stream([event(0)]))
        locking = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        locking.execute("BEGIN IMMEDIATE")
        here.ask("/v1")
        locking.execute("ROLLBACK")
        locking.close()
        until(lambda: proxy.metric('recorder_gaps_total{reason="forwarded before it was committed"}') >= 1)


def test_the_writers_counters_are_read_when_they_are_asked_for(engine: database.sa.Engine) -> None:
    with Writer(engine) as writer:
        metrics = Metrics(writer)
        recording = writer.begin(stream())
        recording.response(200, (), "text/event-stream")
        recording.chunk(b"data: 1\n\ndata: 2\n\n")
        recording.end("eof")
        assert writer.flush(PATIENCE)
        text = metrics.text().decode()
        assert "recorder_events_total 2.0\n" in text
        assert 'recorder_streams_total{outcome="eof"} 1.0\n' in text
        assert f"recorder_commits_total {float(writer.commits)}\n" in text
        assert len(writer.commit_times) == len(COMMIT_SECONDS) + 1
        assert sum(writer.commit_times) == writer.commits
        assert metrics.health()[0]


# Who may ask


def test_a_token_is_asked_for_and_goes_no_further(tmp_path: Path) -> None:
    token = "token-1f2e3d4c5b6a7988"
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--token", token, db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        upstream.on("/v1", lambda wire, asked: wire.whole(b"{}"))
        good = (
            [("X-Recorder-Token", token)],
            [("Proxy-Authorization", f"Bearer {token}")],
            [("proxy-authorization", f"bearer {token}")],
        )
        for headers in good:
            assert here.ask("/v1", headers=headers)[0].status == 200
            assert here.ask("/-/metrics", "GET", headers=headers)[0].status == 200
        wrong = [[], [("X-Recorder-Token", token[:-1])], [("X-Recorder-Token", "")], [("Authorization", f"Bearer {token}")]]
        wrong += [[("Proxy-Authorization", f"Basic {token}")], [("X-Recorder-Token", token + "\xe9")]]
        for headers in wrong:
            for path in ("/v1", "/-/metrics", "/-/other"):
                response, body = here.ask(path, headers=headers)
                assert (response.status, response.getheader("www-authenticate")) == (401, 'Bearer realm="recorder"'), headers
                assert json.loads(body)["error"]["code"] == "no_recorder_token"
        assert here.ask("/-/health", "GET")[0].status == 200
        assert upstream.count("/v1") == 3
        for number in range(3):
            assert token.encode() not in upstream.asked("/v1", number).head
        here.recorded.ended("/v1", 3)
        here.recorded.engine.dispose()
        assert proxy.stop() == 0
        assert token not in "\n".join(proxy.said)
    assert token.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_a_token_of_the_environment_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECORDER_TOKEN", "of-the-environment")
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--host", "0.0.0.0", db=tmp_path / "log.db") as proxy:
        here = Setting(upstream, proxy, tmp_path)
        here.recorded.engine.dispose()
        upstream.on("/v1", lambda wire, asked: wire.whole(b"{}"))
        assert here.ask("/v1")[0].status == 401
        assert here.ask("/v1", headers=[("X-Recorder-Token", "of-the-environment")])[0].status == 200


def test_recorders_own_header_goes_no_further_though_nobody_asks_for_it(setting: Setting) -> None:
    setting.upstream.on("/v1", lambda wire, asked: wire.whole(b"{}"))
    setting.ask("/v1", headers=[("X-Recorder-Token", "a-token")])
    assert b"a-token" not in setting.upstream.asked("/v1").head


def test_who_sends_much_and_no_token_is_told_so(tmp_path: Path) -> None:
    """The refusal arrives though the request is still on its way."""
    with Upstream() as upstream, ProxyProcess(upstream.origin, "--token", "t", db=tmp_path / "log.db") as proxy:
        with socket.create_connection((proxy.host, proxy.port), PATIENCE) as raw:
            raw.sendall(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + bytes(3_000_000))
            got = b""
            while came := raw.recv(65536):
                got += came
        assert got.startswith(b"HTTP/1.1 401 ")
        assert b"no_recorder_token" in got


def test_serve_asks_for_a_token_too_and_the_api_key_may_be_it(setting: Setting) -> None:
    setting.upstream.on("/v1", lambda wire, asked: wire.whole(b'{"recorded":true}'))
    setting.ask("/v1", "GET")
    setting.recorded.ended("/v1")
    serving = "serve", "--port", "0", "--instant", "--host", "0.0.0.0", "--token", "sk-token"
    with Background(*serving, db=setting.file) as server:
        port = int(server.wait_for(r"serving .* at http://0.0.0.0:(\d+)")[1])
        request = b"GET /v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n"
        for header in (b"", b"Authorization: Bearer sk-other\r\n", b"X-Recorder-Token: sk\r\n", b"Authorization: sk-token\r\n"):
            refused = exchanged(port, request % header).data
            assert refused.startswith(b"HTTP/1.1 401 ")
            assert b'"code":"no_recorder_token"' in refused
        for name in (b"Authorization", b"Proxy-Authorization"):
            assert exchanged(port, request % (name + b": Bearer sk-token\r\n")).data.endswith(b'{"recorded":true}')
        assert exchanged(port, request % b"X-Recorder-Token: sk-token\r\n").data.endswith(b'{"recorded":true}')
        assert server.stop() == 0


@pytest.mark.parametrize("command", [("proxy", "--upstream", "http://127.0.0.1:9"), ("serve",)])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost.example"])
def test_beyond_this_machine_there_must_be_a_token(tmp_path: Path, command: tuple[str, ...], host: str) -> None:
    for given in ((), ("--token", "")):
        done = recorder(*command, "--host", host, "--port", "0", *given, db=tmp_path / "x.db")
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"error: --host {host} ")
        assert "--token" in line
        assert "RECORDER_TOKEN" in line


def test_a_token_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    for token in ("two words", "tök", "line\n"):
        done = recorder("proxy", "--upstream", "http://127.0.0.1:9", "--token", token, db=tmp_path / "x.db")
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: the token ")
        assert token.encode() not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_on_this_machine_there_need_be_none(tmp_path: Path, host: str) -> None:
    with (
        Upstream() as upstream,
        Background("proxy", "--upstream", upstream.origin, "--host", host, "--port", "0", db=tmp_path / "x.db") as proxy,
    ):
        name = f"[{host}]" if ":" in host else host
        assert proxy.wait_for(rf"recording http://{re.escape(name)}:\d+ ")
        assert proxy.stop() == 0
