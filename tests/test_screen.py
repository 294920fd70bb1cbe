"""Redaction on the way through the writer: what the log holds meanwhile and at the end, and what becomes of a failure."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import log
from recorder.collect.screen import Screen
from recorder.collect.writer import Writer
from recorder.redaction.rules import Rules
from recorder.settings import Settings
from recorder.sse import Frame
from tests.test_writer import SSE, begun, body, events, stream, types
from tests.writing import encoded, text_delta

SECRET = "sk-Zq7Rw2Xk9Lm4Vb8Nc3"
SETTINGS = Settings(redact={"patterns": [r"sk-[A-Za-z0-9]{16,}"], "paths": ["$..hidden"]})


def delta(value: str) -> bytes:
    return encoded([text_delta(value)])


def test_what_is_held_back_is_in_the_log_once_it_is_known_and_in_order(engine: sa.Engine) -> None:
    with Writer(engine, SETTINGS) as writer:
        recording = begun(writer)
        recording.chunk(delta("calm"))
        recording.chunk(delta(SECRET[:9]))
        recording.chunk(b"event: other\ndata: {}\n\n")
        assert writer.flush(20)
        assert types(engine, recording) == ["$response", "thread.message.delta"]
        recording.chunk(delta(SECRET[9:] + "."))
        assert writer.flush(20)
        assert types(engine, recording)[2:] == ["thread.message.delta", "other", "thread.message.delta"]
        recording.end("eof")
    assert body(engine, recording) == delta("calm") + delta("x" * 9) + b"event: other\ndata: {}\n\n" + delta("x" * 12 + ".")
    assert [event.position for event in events(engine, recording)] == list(range(6))


def test_nothing_is_held_back_where_that_is_said(engine: sa.Engine) -> None:
    with Writer(engine, SETTINGS) as writer:
        recording = writer.begin(stream(), strict=True)
        recording.response(200, (("content-type", SSE),), SSE)
        for at in range(0, len(SECRET), 7):
            recording.chunk(delta(SECRET[at : at + 7]))
            assert writer.flush(20)
            assert len(events(engine, recording)) == 2 + at // 7
    assert SECRET[4:7] not in str(events(engine, recording))


@pytest.mark.parametrize("closed", ["eof", "cut", "client_closed", "lost"])
def test_what_is_held_back_comes_with_the_end_whatever_that_is(engine: sa.Engine, closed: str) -> None:
    with Writer(engine, SETTINGS) as writer:
        recording = begun(writer)
        recording.chunk(delta(SECRET[:9]))
        if closed != "lost":
            recording.end(closed)
    left = json.loads(events(engine, recording)[1].data)["delta"]["content"][0]["text"]["value"]
    assert left == (SECRET[:9] if closed == "eof" else "x" * 9)
    assert types(engine, recording)[-1] == "$end"
    assert log.outcome_of(events(engine, recording)[-1].data) == closed


def test_done_and_errors_are_seen_as_they_were(engine: sa.Engine) -> None:
    with Writer(engine, Settings(content=False, redact={"paths": ["$"], "patterns": ["DONE", "error"]})) as writer:
        done, error = begun(writer), begun(writer)
        done.chunk(b"data: [DONE]\n\n")
        done.end("client_closed")
        error.chunk(b'event: error\ndata: {"message": "an error"}\n\n')
        error.end("eof")
    assert [log.outcome_of(events(engine, each)[-1].data) for each in (done, error)] == ["done", "error"]
    assert body(engine, done) == b"data: [DONE]\n\n"


def test_a_request_is_redacted_before_it_is_stored(engine: sa.Engine) -> None:
    request = b'{"hidden": ["words", 41], "key": "%s"}' % SECRET.encode()
    with Writer(engine, SETTINGS) as writer:
        given = stream()._replace(
            path=f"/v1/{SECRET}",
            query=f"a={SECRET}",
            request_body=request,
            request_headers=(("user-agent", SECRET), ("content-type", SECRET)),
        )
        recording = writer.begin(given)
        assert writer.flush(20)
        with engine.connect() as connection:
            found = log.get_streams(connection, [given.stream_id])[given.stream_id]
        assert found.request_body == b'{"hidden": ["xxxxx", 11], "key": "%s"}' % (b"x" * len(SECRET))
        assert (found.path, found.query) == ("/v1/" + "x" * len(SECRET), "a=" + "x" * len(SECRET))
        assert found.request_headers == (("user-agent", "x" * len(SECRET)), ("content-type", SECRET))
        recording.end("eof")


def test_what_cannot_be_redacted_is_not_stored_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rules = Rules.of(SETTINGS)
    assert rules is not None
    screen = Screen(stream(), None, rules)

    def fail(frames: Any) -> Any:
        raise RuntimeError(f"cannot do {SECRET}")

    through = screen.feed([Frame("a", '{"x": "calm"}')], last=False)
    held = Frame("a", json.dumps({"x": SECRET[:9]}))
    assert screen.feed([held], last=False) == []
    screen._redactor.feed = fail  # type: ignore[method-assign, union-attr]
    with caplog.at_level(logging.ERROR):
        assert screen.feed([Frame("a", f'{{"x": "{SECRET}"}}')], last=False) == []
    assert screen.feed([Frame("a", '{"x": "calm"}')], last=False) == []
    gap, end = screen.feed([log.system_frame("$end", {"outcome": "done", "detail": SECRET}, 7)], last=True)
    assert len(through) == 1
    said = json.loads(gap.data)
    assert (gap.type, said["chunks"], said["reason"]) == ("$gap", 3, "not redacted: RuntimeError")
    assert said["bytes"] == len(held.data) + len(SECRET) + len('{"x": ""}') + len('{"x": "calm"}') + 3 * len(
        "event: a\ndata: \n\n"
    )
    assert json.loads(end.data) == {"outcome": "done"}
    assert "cannot be redacted" in caplog.text
    assert SECRET not in caplog.text
