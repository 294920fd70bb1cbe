"""Settings: from a file, the environment and in Python; what is wrong in them is said in one line; limits hold."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

import recorder
from recorder import database, log
from recorder.collect.recording import Recording
from recorder.collect.writer import Writer
from recorder.errors import UsageError
from recorder.settings import SKIPPED_TYPES, Redact, Settings, load
from tests.commands import ProxyProcess, answer, output
from tests.commands import recorder as command
from tests.test_writer import body, events, stream
from tests.upstream import Upstream

README = (Path(__file__).parents[1] / "README.md").read_text()

GIVEN = """
content = false
max_request_body = "1 MiB"
max_response_body = 1000
skip_paths = ["/v1/files/*"]
skip_types = []
sample = 0.25
queue_bytes = "8MiB"

[redact]
paths = ["$..arguments", "$['a b'][0].*"]
patterns = ['sk-\\w{20,}']
look_back = 64
"""


def test_all_settings_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(GIVEN)
    found = load(file)
    assert found == Settings(
        redact={"paths": ["$..arguments", "$['a b'][0].*"], "patterns": [r"sk-\w{20,}"], "look_back": 64},
        content=False,
        max_request_body=1024 * 1024,
        max_response_body=1000,
        skip_paths=["/v1/files/*"],
        skip_types=[],
        sample=0.25,
        queue_bytes=8 * 1024 * 1024,
    )
    assert hash(found) == hash(load(str(file)))


def test_an_empty_file_and_none_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECORDER_SETTINGS", raising=False)
    (tmp_path / "empty.toml").write_text("")
    assert load(tmp_path / "empty.toml") == load() == Settings()
    assert Settings().skip_types == SKIPPED_TYPES


def test_the_environment_names_a_file_that_what_is_given_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.toml").write_text("sample = 0.1")
    (tmp_path / "b.toml").write_text("sample = 0.2")
    monkeypatch.setenv("RECORDER_SETTINGS", str(tmp_path / "a.toml"))
    assert load().sample == 0.1
    assert load(tmp_path / "b.toml").sample == 0.2
    assert load(Settings()).sample == 1.0


WRONG = [
    ("smaple = 0.1", "there is no smaple; there are content, max_request_body"),
    ("[redact]\npath = []", "there is no redact.path; there are look_back, paths, patterns"),
    ("[redact]\npaths = ['metadata']", "redact.paths.0 cannot be 'metadata': it does not begin with $"),
    ("[redact]\npaths = ['$.a', '$.api-key']", "redact.paths.1 cannot be '$.api-key': from '-key' on it is none of"),
    ("[redact]\npaths = ['$[?@.a]']", "from '[?@.a]' on"),
    ("[redact]\npaths = ['$[-1]']", "from '[-1]' on"),
    ("[redact]\npatterns = ['sk-(']", "redact.patterns.0 cannot be 'sk-(': it is no regular expression: missing )"),
    ("[redact]\npatterns = ['x*']", "it matches where nothing is"),
    ("[redact]\nlook_back = 0", "redact.look_back cannot be 0: input should be greater than or equal to 1"),
    ("redact = 'x'", "redact cannot be 'x': give a table"),
    ("sample = 1.5", "sample cannot be 1.5: input should be less than or equal to 1"),
    ("sample = 'half'", "sample cannot be 'half'"),
    ("skip_paths = '/v1/*'", "skip_paths cannot be '/v1/*': give a list"),
    ("max_request_body = '1 thing'", "max_request_body cannot be '1 thing'"),
    ("max_response_body = -1", "max_response_body cannot be -1"),
    ("content = 'perhaps'", "content cannot be 'perhaps'"),
    ("sample 0.1", "are no TOML"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_is_wrong_is_said_in_one_line_that_names_the_file_and_the_key(tmp_path: Path, given: str, said: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(given)
    with pytest.raises(UsageError) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(f"the settings {file}")
    assert said in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read: No such file"):
        load("nowhere.toml")


def test_what_is_wrong_in_python_is_a_recorder_error() -> None:
    with pytest.raises(recorder.RecorderError, match="there is no smaple"):
        recorder.Settings(smaple=1)


@pytest.mark.parametrize(
    "name", [name for name in Settings.model_fields if name != "redact"] + [f"redact.{name}" for name in Redact.model_fields]
)
def test_setting_stands_in_the_readme_with_its_default(name: str) -> None:
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    model, _, key = name.rpartition(".")
    default: Any = (Settings().redact if model else Settings()).model_dump()[key]
    shown = {
        "max_request_body": "16 MiB",
        "max_response_body": "64 MiB",
        "queue_bytes": "64 MiB",
        "content": "`true`",
        "skip_types": ", ".join(f"`{kind}`" for kind in SKIPPED_TYPES),
    }.get(key, "`[]`" if default == () else str(default))
    assert f"| {shown} |" in row
    if "MiB" in shown:
        assert default == int(shown.split()[0]) * 1024 * 1024


# On the command line


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("proxy", "--upstream", "http://127.0.0.1:9"),
        ("record", "--", "true"),
        ("request", "GET", "http://127.0.0.1:9"),
        ("import", "."),
    ],
)
def test_a_command_with_wrong_settings_says_so_and_does_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("smaple = 1")
    done = command(arguments[0], "--settings", str(file), *arguments[1:], db=tmp_path / "log.db")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"error: the settings {file}: there is no smaple")
    assert not (tmp_path / "log.db").exists()


@pytest.mark.slow
def test_settings_of_the_environment_hold_for_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('skip_paths = ["/v1/files*"]\n[redact]\npaths = ["$.word"]\n')
    monkeypatch.setenv("RECORDER_SETTINGS", str(file))
    with Upstream() as upstream, ProxyProcess(upstream.origin, db=tmp_path / "log.db") as proxy:
        for path in ("/v1/files", "/v1/files/1/content", "/v1/kept"):
            upstream.on(path, lambda wire, asked: wire.whole(b'{"word": "secret"}'))
            received = httpx.post(f"http://{proxy.host}:{proxy.port}{path}", json={"word": "hidden"}, trust_env=False)
            assert received.json() == {"word": "secret"}, "the client gets all of it"
            assert json.loads(upstream.asked(path).body) == {"word": "hidden"}, "and so does the upstream"
        assert proxy.stop() == 0
    (shown,) = answer("ls", db=tmp_path / "log.db")
    assert shown["streams"] == 1
    recorded = answer("show", "last", db=tmp_path / "log.db")
    assert recorded["path"] == "/v1/kept"
    assert output("export", "last", "--format", "sse", db=tmp_path / "log.db") == b'{"word": "xxxxxx"}'


# Limits


def of_type(writer: Writer, content_type: str | None, encoding: str | None = None) -> Recording:
    recording = writer.begin(stream())
    recording.response(200, (("content-type", content_type or ""), ("content-encoding", encoding or "")), content_type, encoding)
    return recording


def gaps(engine: sa.Engine, recording: Recording) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in events(engine, recording) if event.type == "$gap"]


def test_a_body_is_recorded_up_to_a_size_and_the_rest_is_counted(engine: sa.Engine) -> None:
    with Writer(engine, Settings(max_response_body=1000)) as writer:
        recording = of_type(writer, "text/plain")
        for _ in range(5):
            recording.chunk(b"x" * 300)
        recording.end("eof")
    assert body(engine, recording) == b"x" * 1000
    assert gaps(engine, recording) == [{"chunks": 2, "bytes": 500, "reason": "not recorded: over 1000 bytes (max_response_body)"}]
    assert [event.type for event in events(engine, recording)][-2:] == ["$gap", "$end"]
    assert writer.dropped_bytes == 0, "it was not to be recorded"
    assert writer.gaps == {"not recorded": 1}


def test_a_body_of_just_that_size_is_whole(engine: sa.Engine) -> None:
    with Writer(engine, Settings(max_response_body=1000)) as writer:
        recording = of_type(writer, "application/json")
        recording.chunk(b"x" * 1000)
        recording.end("eof")
    assert len(body(engine, recording)) == 1000
    assert gaps(engine, recording) == []


def test_a_small_body_that_decodes_to_a_large_one_is_limited_too(engine: sa.Engine) -> None:
    packed = gzip.compress(bytes(1_000_000))
    with Writer(engine, Settings(max_response_body=100_000)) as writer:
        recording = of_type(writer, "text/plain", "gzip")
        recording.chunk(packed)
        recording.end("eof")
    assert body(engine, recording) == bytes(100_000)
    assert sum(gap["bytes"] for gap in gaps(engine, recording)) == 900_000


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/x-ndjson", None])
def test_a_stream_of_events_has_no_limit(engine: sa.Engine, content_type: str | None) -> None:
    with Writer(engine, Settings(max_response_body=10)) as writer:
        recording = of_type(writer, content_type)
        recording.chunk(b'data: {"a": 1}\n\n' * 100)
        recording.end("eof")
    assert len(body(engine, recording)) == 1600
    assert gaps(engine, recording) == []


@pytest.mark.parametrize(
    "content_type", ["image/png", "Image/PNG; x=1", "audio/mpeg", "application/octet-stream", "application/zip"]
)
def test_of_files_the_head_and_the_size_are_recorded(engine: sa.Engine, content_type: str) -> None:
    with Writer(engine) as writer:
        recording = of_type(writer, content_type)
        recording.chunk(bytes(700))
        recording.chunk(bytes(300))
        recording.end("eof")
    kind = content_type.partition(";")[0].lower()
    assert [event.type for event in events(engine, recording)] == ["$response", "$gap", "$end"]
    assert gaps(engine, recording) == [
        {"chunks": 2, "bytes": 1000, "reason": f"not recorded: bodies of type {kind} (skip_types)"}
    ]


def test_types_to_skip_are_a_setting(engine: sa.Engine) -> None:
    with Writer(engine, Settings(skip_types=["text/*"])) as writer:
        image, page, none = of_type(writer, "image/png"), of_type(writer, "text/html"), of_type(writer, None)
        for recording in (image, page, none):
            recording.chunk(b"<p>1</p>\n")
            recording.end("eof")
    assert [len(body(engine, recording)) for recording in (image, page, none)] == [9, 0, 9]


@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize("events", [b'data: {"n": %d}\n\n', b'{"n": %d}\n'], ids=["sse", "lines"])
def test_a_stream_of_events_is_never_skipped_whatever_its_type_says(engine: sa.Engine, events: bytes, coding: str) -> None:
    sent = b"".join(events % number for number in range(200))
    with Writer(engine, Settings(max_response_body=10)) as writer:
        recording = of_type(writer, "application/octet-stream", coding)
        for chunk in parted(gzip.compress(sent) if coding else sent):
            recording.chunk(chunk)
        recording.end("eof")
    assert body(engine, recording) == sent
    assert gaps(engine, recording) == []


def parted(sent: bytes) -> list[bytes]:
    return [sent[at : at + 50] for at in range(0, len(sent), 50)]


@pytest.mark.parametrize("way", ["hook", "transport"])
def test_limits_hold_in_a_program(tmp_path: Path, way: str) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    settings = recorder.Settings(skip_paths=["*/files/*"], max_request_body=10, skip_types=["text/*"])
    with Upstream() as upstream:
        for path in ("/v1/files/1", "/v1/kept"):
            upstream.on(path, lambda wire, asked: wire.whole(b"hello", [("Content-Type", "text/plain")]))
        if way == "hook":
            with httpx.Client(trust_env=False) as client, recorder.record(client, url, settings=settings):
                received = [client.post(upstream.origin + path, content=b"x" * 11).text for path in ("/v1/files/1", "/v1/kept")]
        else:
            with httpx.Client(transport=recorder.RecordingTransport(None, url, settings=settings), trust_env=False) as client:
                received = [client.post(upstream.origin + path, content=b"x" * 11).text for path in ("/v1/files/1", "/v1/kept")]
        assert received == ["hello", "hello"]
    engine = database.connect(url, create=False)
    with database.read(engine) as connection:
        (row,) = connection.execute(sa.select(log.streams)).all()
        assert (row.path, row.request_body) == ("/v1/kept", None)
        found = log.read(connection, str(row.stream_id))
        assert [event.type for event in found] == ["$response", "$gap", "$gap", "$end"]
        assert "the request's body, of over 10 bytes (max_request_body)" in found[1].data
        assert "bodies of type text/plain (skip_types)" in found[2].data
    engine.dispose()


def test_settings_of_a_file_hold_in_a_program(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("skip_paths = ['*']")
    with httpx.Client() as client, recorder.record(client, f"sqlite:///{tmp_path}/log.db", settings=file) as hook:
        assert hook._shared.settings == load(file)
    file.write_text("smaple = 1")
    with httpx.Client() as client, pytest.raises(UsageError, match="no smaple"):
        recorder.record(client, f"sqlite:///{tmp_path}/log.db", settings=str(file))


@pytest.mark.slow
def test_what_is_asked_for_by_name_is_recorded_whatever_is_sampled_or_skipped(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("sample = 0.0\nskip_paths = ['*']\n[redact]\npatterns = ['secret']")
    with Upstream() as upstream:
        upstream.on("/v1", lambda wire, asked: wire.whole(b'{"a": "secret"}'))
        said = output("request", "GET", f"{upstream.origin}/v1", "--settings", str(file), db=tmp_path / "log.db")
    assert said == b'{"a": "secret"}'
    assert re.findall(rb"xxxxxx|secret", output("export", "last", "--format", "sse", db=tmp_path / "log.db")) == [b"xxxxxx"]
