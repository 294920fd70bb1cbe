"""Errors that HTTP calls well: in whatever shape a server tells one, the stream failed, with its code, words and event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log
from recorder.collect.import_ import import_paths
from recorder.collect.outcome import Ending
from recorder.projections import runner
from recorder.projections.failures import failures
from recorder.projections.folds import source_of
from recorder.projections.sessions import sessions
from recorder.projections.verify import verify
from recorder.protocols import Request
from recorder.protocols.errors import error, error_in, is_words, told_outside
from recorder.protocols.failure import failure_of_run, failure_of_stream
from recorder.protocols.fold import StreamFold
from recorder.protocols.merge import merge
from recorder.protocols.partial import STREAM
from recorder.protocols.view import Failure
from recorder.sse import Frame, SSEDecoder
from tests import chatting, responding, writing
from tests.writing import stream

MESSAGES = Request(
    "POST", "api.anthropic.com", "/v1/messages", "", {"model": "m", "messages": [], "stream": True}, chatting.CHAT.stream_id
)
RESPONSES = Request("POST", "api.openai.com", "/v1/responses", "", {"model": "m", "input": "x"}, chatting.CHAT.stream_id)
UNKNOWN = Request("POST", "example.com", "/agent", "", {"x": 1}, chatting.CHAT.stream_id)

CHUNK = 'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"He"}}]}\n\n'
DONE = "data: [DONE]\n\n"
STARTED = {"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "model": "m", "content": []}}
MESSAGE = f"event: message_start\ndata: {json.dumps(STARTED)}\n\n"
OPENED = {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}}
RESPONSE = f"event: response.created\ndata: {json.dumps(OPENED)}\n\n"


def data(payload: Any) -> str:
    return f"data: {json.dumps(payload)}\n\n"


SHAPES: dict[str, tuple[Request, str, str, str, int]] = {
    # name: request, body, code, words, position of the event that tells them
    "nested, first": (
        chatting.CHAT,
        data({"error": {"message": "too long", "type": "BadRequestError", "code": 400}}) + DONE,
        "400",
        "too long",
        0,
    ),
    "LiteLLM": (
        chatting.CHAT,
        CHUNK + data({"error": {"message": "no", "type": "None", "param": "None", "code": "400"}}) + DONE,
        "400",
        "no",
        1,
    ),
    "a type alone": (
        chatting.CHAT,
        CHUNK + data({"error": {"message": "no", "type": "server_error", "code": "None"}}),
        "server_error",
        "no",
        1,
    ),
    "a text": (chatting.CHAT, CHUNK + data({"error": "overloaded"}) + DONE, "error", "overloaded", 1),
    "flat of vLLM": (
        chatting.CHAT,
        CHUNK + data({"object": "error", "message": "died", "type": "InternalServerError", "code": 500}) + DONE,
        "500",
        "died",
        1,
    ),
    "details": (
        chatting.CHAT,
        'event: error\ndata: {"code":400,"details":"logprobs of 21"}\n\n' + DONE,
        "400",
        "logprobs of 21",
        0,
    ),
    "text under event: error": (
        chatting.CHAT,
        CHUNK + "event: error\ndata: upstream connect error: overflow\n\n",
        "error",
        "upstream connect error: overflow",
        1,
    ),
    "plain text": (
        chatting.CHAT,
        "data: Number of choices must be greater than 0.\n\n",
        "error",
        "Number of choices must be greater than 0.",
        0,
    ),
    "plain text, then the end": (
        chatting.CHAT,
        CHUNK + "data: Internal Server Error\n\n" + DONE,
        "error",
        "Internal Server Error",
        1,
    ),
    "a line without data": (chatting.CHAT, CHUNK + '{"error":{"message":"broke","code":"internal"}}\n\n', "internal", "broke", 1),
    "a last line without data": (
        chatting.CHAT,
        CHUNK + '{"error":{"message":"broke","code":"internal"}}',
        "internal",
        "broke",
        2,
    ),
    "a field of its own": (chatting.CHAT, CHUNK + 'error: {"error":{"message":"broke"}}\n\n', "error", "broke", 1),
    "JSON that broke off": (
        chatting.CHAT,
        CHUNK + "data: {'error': 'worker died'}\n\n" + DONE,
        "error",
        "{'error': 'worker died'}",
        1,
    ),
    "in a choice": (
        chatting.CHAT,
        data({"choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "gone"}}]}) + DONE,
        "502",
        "gone",
        0,
    ),
    "in x_groq": (
        chatting.CHAT,
        CHUNK + data({"choices": [], "x_groq": {"id": "r", "error": "over capacity"}}) + DONE,
        "error",
        "over capacity",
        1,
    ),
    "in base_resp": (
        chatting.CHAT,
        data({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}),
        "1004",
        "login fail",
        0,
    ),
    "error_code and error_msg": (
        chatting.CHAT,
        data({"error_code": 336003, "error_msg": "bad messages"}),
        "336003",
        "bad messages",
        0,
    ),
    "code and message": (
        chatting.CHAT,
        data({"code": "InvalidParameter", "message": "bad", "request_id": "r"}),
        "InvalidParameter",
        "bad",
        0,
    ),
    "Anthropic, first": (
        MESSAGES,
        'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n' + DONE,
        "overloaded_error",
        "Overloaded",
        0,
    ),
    "Anthropic, in the middle": (
        MESSAGES,
        MESSAGE + 'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n',
        "api_error",
        "no",
        1,
    ),
    "Anthropic, text": (MESSAGES, MESSAGE + "event: error\ndata: bad gateway\n\n", "error", "bad gateway", 1),
    "Anthropic, nested alone": (MESSAGES, MESSAGE + data({"error": {"message": "no", "code": 500}}), "500", "no", 1),
    "Responses, first": (
        RESPONSES,
        'event: error\ndata: {"type":"error","code":"rate_limit_exceeded","message":"slow down"}\n\n' + DONE,
        "rate_limit_exceeded",
        "slow down",
        0,
    ),
    "Responses, text": (RESPONSES, RESPONSE + "event: error\ndata: bad gateway\n\n", "error", "bad gateway", 1),
    "Responses, flat of vLLM": (
        RESPONSES,
        RESPONSE + data({"object": "error", "message": "died", "type": "E", "code": 500}),
        "500",
        "died",
        1,
    ),
    "Assistants, unnamed": (
        writing.THREADS,
        data({"error": {"type": "server_error", "message": "boom"}}),
        "server_error",
        "boom",
        0,
    ),
    "Assistants, text": (
        writing.THREADS,
        "event: error\ndata: bad gateway\n\nevent: done\ndata: [DONE]\n\n",
        "error",
        "bad gateway",
        0,
    ),
    "a line within an event": (chatting.CHAT, CHUNK[:-1] + '{"error":{"message":"no","code":"x"}}\n\n', "x", "no", 0),
    "a line before [DONE]": (chatting.CHAT, CHUNK + '{"error":{"message":"no","code":"x"}}\n' + DONE, "x", "no", 1),
    "a line within one by CRLF": (
        chatting.CHAT,
        (CHUNK + ': ping\n{"error":{"message":"no","code":"x"}}\n' + DONE).replace("\n", "\r\n"),
        "x",
        "no",
        1,
    ),
    "a line over several within one": (
        chatting.CHAT,
        CHUNK[:-1] + 'odd: 1\n{\n  "error": {\n    "message": "no",\n    "code": "x"\n  }\n}\n\n',
        "x",
        "no",
        0,
    ),
    "a field within an event": (chatting.CHAT, CHUNK[:-1] + "error: no\n\n", "error", "no", 0),
    "a line within the last event, without its end": (
        chatting.CHAT,
        CHUNK + CHUNK[:-1] + '{"error":{"message":"no","code":"x"}}',
        "x",
        "no",
        2,  # only the end of the stream tells that nothing more of it comes
    ),
    "Anthropic, a line within an event": (
        MESSAGES,
        MESSAGE[:-1] + '{"error":{"type":"api_error","message":"no"}}\n\n',
        "api_error",
        "no",
        0,
    ),
    "Responses, a line within an event": (RESPONSES, RESPONSE[:-1] + '{"error":{"code":"x","message":"no"}}\n\n', "x", "no", 0),
    "Assistants, a line within [DONE]": (
        writing.THREADS,
        'event: done\n{"error":{"code":"x","message":"no"}}\ndata: [DONE]\n\n',
        "x",
        "no",
        0,
    ),
    "an unknown dialect, a line within an event": (
        UNKNOWN,
        'event: a\ndata: {}\n{"error":{"code":7,"message":"no"}}\n\n',
        "7",
        "no",
        0,
    ),
    "an unknown dialect": (UNKNOWN, 'event: a\ndata: {}\n\ndata: {"error":{"code":7,"message":"no"}}\n\n', "7", "no", 1),
    "an unknown dialect, named": (UNKNOWN, "event: a\ndata: {}\n\nevent: error\ndata: no\n\n", "error", "no", 1),
    "JSON-RPC": (UNKNOWN, data({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "bad"}}), "-32602", "bad", 0),
}


def captured(body: str) -> list[Frame]:
    """The frames of a body that came with HTTP 200 and was closed in order."""
    decoder, ending = SSEDecoder(), Ending()
    found = [*decoder.feed(body.encode(), 10), *decoder.finish()]
    ending.see(found)
    head = log.system_frame("$response", {"status": 200, "headers": [["content-type", "text/event-stream"]]}, 0)
    return [head, *found, log.system_frame("$end", {"outcome": ending.of_connection("eof", 200)}, 20)]


@pytest.mark.parametrize("name", SHAPES)
def test_a_stream_that_tells_an_error_failed_by_whatever_way_it_came(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    request, body, code, words, position = SHAPES[name]
    own = stream(1, request)
    writing.write(engine, own, captured(body))
    (tmp_path / "x.sse").write_bytes(body.replace("msg_1", "msg_2").replace("resp_1", "resp_2").encode())  # another run
    asked = {"method": request.method, "host": request.host, "path": request.path, "body": request.body}
    (tmp_path / "x.request.json").write_text(json.dumps(asked))
    import_paths(engine, [str(tmp_path / "x.sse")])
    runner.catch_up(engine)
    with database.read(engine) as connection:
        told = {row["stream_id"]: row for row in connection.execute(sa.select(failures)).mappings()}
        streams = connection.exec_driver_sql("SELECT error_code, error_message FROM v_streams").mappings().all()
        failed = connection.execute(sa.select(sa.func.sum(sessions.c.failed))).scalar_one()
    assert {(row["kind"], row["code"], row["message"]) for row in told.values()} == {("failed", code, words)}
    assert {row["position"] - (row["stream_id"] == own.stream_id) for row in told.values()} == {position}
    assert {(row["error_code"], row["error_message"]) for row in streams} == {(code, words)}
    assert (len(told), failed) == (2, 2)
    assert verify(engine).problems == []


def failure(request: Request, *events: writing.Event, outcome: str = "eof") -> Failure | None:
    fold = writing.folded(events, request, outcome)
    keys = [key for key in fold.states() if key != STREAM]
    if not keys:
        return failure_of_stream(source_of(stream(0, request), fold))
    view = merge(keys[0], [writing.contribution(fold, keys[0])])
    return failure_of_run(view, None)


@pytest.mark.parametrize("words", ["ping", "keep-alive", "heartbeat", "hello there"])
def test_words_in_the_middle_of_a_stream_that_goes_on_are_no_error(words: str) -> None:
    assert failure(chatting.CHAT, chatting.said()[0], ("", words), *chatting.said()[1:]) is None
    assert failure(chatting.CHAT, *chatting.said(), ("", words)) is None


SPOKEN = {
    "in a list": ([{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}], "429"),
    "detail": ({"detail": "no"}, "error"),
    "code": ({"code": "InvalidParameter", "message": "no"}, "InvalidParameter"),
    "errors": ({"errors": [{"code": 7, "message": "no"}]}, "7"),
    "base_resp": ({"base_resp": {"status_code": 1004, "status_msg": "no"}}, "1004"),
    "status": ({"status": "error", "message": "no"}, "error"),
    "true": ({"error": True, "message": "no"}, "error"),
    "AWS": ({"__type": "ThrottlingException", "message": "no"}, "ThrottlingException"),
}


@pytest.mark.parametrize(
    "within",
    ['{"error":null}', '{"a":1}', '{"error":', "errors: many", ': {"error":{"message":"no"}}', 'id: {"error":"no"}', '"error":{'],
)
def test_what_stands_within_an_event_and_tells_no_error_is_none(within: str) -> None:
    """Nor does JSON that goes on in lines without `data:`, and a line of JSON that is an event itself is one event."""
    said = [json.dumps(payload) if not isinstance(payload, str) else payload for _, payload in chatting.said()]
    body = "".join(f"data: {payload}\n{within}\n\n" for payload in said)
    fold = StreamFold(chatting.CHAT)
    fold.feed_all(log.texts(log.event(log.row("", position, frame)[1:]) for position, frame in enumerate(captured(body))))
    assert (fold.error, fold.events) == (None, len(said))
    assert list(log.texts([log.Event(0, 0, "", '{"error":"no"}', b'{"error":"no"}\r\n', None)])) == [(0, 0, "", '{"error":"no"}')]


@pytest.mark.parametrize("named", ["", "error"])
@pytest.mark.parametrize("shape", SPOKEN)
@pytest.mark.parametrize("request_", [chatting.CHAT, MESSAGES, RESPONSES, writing.THREADS], ids=lambda request: request.path)
def test_every_protocol_reads_an_error_in_every_shape_named_or_not(request_: Request, shape: str, named: str) -> None:
    payload, code = SPOKEN[shape]
    found = failure(request_, (named, payload))
    assert found is not None
    assert (found.kind, found.code, found.message, found.position) == ("failed", code, "no", 0)


BODIES: list[tuple[Request, str, str, str]] = [
    (chatting.CHAT, '{"error":{"message":"Provider returned error","code":502},"user_id":"u"}', "502", "Provider returned error"),
    (chatting.CHAT, '\n      \n{"error":{"message":"Provider returned error","code":502}}', "502", "Provider returned error"),
    (chatting.CHAT, '{"object":"error","message":"died","code":500}', "500", "died"),
    (chatting.CHAT, '{"success":false,"errors":[{"code":7003,"message":"no route"}],"result":null}', "7003", "no route"),
    (chatting.CHAT, '[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]', "400", "bad"),
    (MESSAGES, '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "overloaded_error", "Overloaded"),
    (RESPONSES, '{"error":{"code":"x","message":"no"}}', "x", "no"),
    (writing.THREADS, '{"error":{"code":"x","message":"no"}}', "x", "no"),
    (UNKNOWN, '{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}', "-32000", "no"),
    (chatting.CHAT, '{"detail":"Not enough credit"}', "error", "Not enough credit"),
    (MESSAGES, '{"success":false,"message":"no"}', "error", "no"),
    (RESPONSES, '{"__type":"ThrottlingException","message":"slow down"}', "ThrottlingException", "slow down"),
    (writing.THREADS, '{"errcode":40001,"errmsg":"invalid"}', "40001", "invalid"),
]


@pytest.mark.parametrize(("request_", "body", "code", "words"), BODIES)
@pytest.mark.parametrize("size", [None, 9])
def test_a_body_that_is_an_error_failed_though_http_says_200(
    request_: Request, body: str, code: str, words: str, size: int | None
) -> None:
    head = json.dumps({"status": 200, "headers": [["content-type", "application/json"]]})
    pieces = [body] if size is None else [body[at : at + size] for at in range(0, len(body), size)]
    found = failure(request_, ("$response", head), *(("$body", piece) for piece in pieces), outcome="done")
    assert found is not None
    assert found[:3] == ("failed", code, words)
    assert found.position == len(pieces)


@pytest.mark.parametrize("size", [None, 9])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error":{"message":"slow down","code":429}}', "slow down"),
        ('[{"error":{"message":"slow down","code":429}}]', "slow down"),
        ('{"detail":"slow down"}', "slow down"),
        ("slow down", "slow down"),
    ],
)
def test_a_refusal_is_read_whole_however_it_was_cut(body: str, words: str, size: int | None) -> None:
    head = json.dumps({"status": 429, "headers": [["content-type", "application/json"]]})
    pieces = [body] if size is None else [body[at : at + size] for at in range(0, len(body), size)]
    found = failure(chatting.CHAT, ("$response", head), *(("$body", piece) for piece in pieces), outcome="http_error")
    assert found is not None
    assert (found.kind, found.code, found.message, found.position) == ("http_error", "429", words, 0)


@pytest.mark.parametrize(
    "payload",
    [
        *({"error": nothing} for nothing in (None, "", {}, False, 0, [])),
        {"object": "list", "data": [], "errors": []},
        {"code": 0, "message": "ok"},
        {"code": "200", "message": "ok", "data": {}},
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"message": "hello"},
        {"choices": [{"delta": {"content": "error"}, "error": None}], "x_groq": {"id": "r"}},
        {"detail": ""},
        {"detail": "something", "step": 2},
        {"success": True, "message": "done"},
        {"status": "processing", "message": "third in the queue"},
        {"status": "failed", "id": "resp_1", "message": "of its own protocol"},
        [],
        "error",
        None,
    ],
)
def test_what_tells_no_error_is_none(payload: Any) -> None:
    assert error_in(payload) is None


def test_an_error_has_its_code_type_words_and_param() -> None:
    whole = {"code": "c", "type": "t", "message": "m", "param": "p"}
    assert error({"error": whole}) == error(whole) == whole
    assert error({"error": "invalid_request", "error_description": "no such key"})["code"] == "invalid_request"
    assert error({"error": {"message": {"message": "inner"}}})["message"] == "inner"
    assert error({"detail": [{"msg": "field required"}]})["message"] == '[{"msg":"field required"}]'
    assert error(None) == dict.fromkeys(whole)


@pytest.mark.parametrize("text", ["{}", '{"a":1}', "id: 3", "errors: many", "error:", '{"error":null}', "\ufeff"])
def test_a_block_that_tells_no_error_is_none(text: str) -> None:
    assert told_outside(text) is None


@pytest.mark.parametrize("text", ["", "[DONE]", "{", '{"a":1}', "[1]", '"x"', "ping", "Ping "])
def test_what_are_no_words(text: str) -> None:
    assert not is_words(text)


@pytest.mark.parametrize("outcome", ["done", "eof"])
def test_a_stream_of_an_unknown_dialect_that_ends_in_order_did_not_fail(outcome: str) -> None:
    assert failure(UNKNOWN, ("a", {"x": 1}), outcome=outcome) is None
    assert failure(UNKNOWN, ("a", {"x": 1}), outcome="cut") is not None


@pytest.mark.parametrize(
    ("method", "path", "status", "fails"),
    [("HEAD", "/", 404, False), ("GET", "/nothing", 404, False), ("GET", "/v1/models", 401, True), ("POST", "/x", 404, True)],
)
def test_a_probe_that_finds_nothing_is_no_failure(engine: sa.Engine, method: str, path: str, status: int, fails: bool) -> None:
    head = log.system_frame("$response", {"status": status, "headers": []}, 0)
    own = stream(1, Request(method, "example.com", path))
    writing.write(engine, own, [head, log.system_frame("$end", {"outcome": "http_error"}, 1)])
    runner.catch_up(engine)
    with database.read(engine) as connection:
        assert bool(connection.execute(sa.select(failures)).all()) == fails
        assert connection.execute(sa.select(sessions.c.failed)).scalar_one() == fails


@pytest.mark.parametrize(("reason", "kind"), [("error", "failed"), ("length", "incomplete"), ("content_filter", "incomplete")])
def test_of_several_choices_the_one_that_failed_shows_it_though_others_end_later(reason: str, kind: str) -> None:
    chunks = [
        chatting.chunk(chatting.choice({"content": "a"}, index=0), chatting.choice({"content": "b"}, index=1)),
        chatting.chunk(chatting.choice({}, reason, index=1)),
        chatting.chunk(chatting.choice({"content": "c"}, index=0)),
        chatting.chunk(chatting.choice({}, "stop", index=0)),
        chatting.END,
    ]
    found = writing.viewed(chunks, chatting.KEY, chatting.asking(n=2), "eof").failure
    assert found is not None
    assert (found.kind, found.position) == (kind, 1)


def test_a_call_of_nothing_with_nothing_is_waited_for_by_nobody() -> None:
    phantom = {"tool_calls": [{"index": 0, "id": "call_0", "type": "function", "function": {"name": "", "arguments": ""}}]}
    assert failure(chatting.CHAT, *chatting.saying({"content": "Hi"}, phantom)) is None


NOTHING: list[tuple[Request, list[writing.Event]]] = [
    (
        chatting.CHAT,
        chatting.saying(
            {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "", "arguments": "{}"}}]}
        ),
    ),
    (
        MESSAGES,
        [
            ("message_start", STARTED),
            (
                "content_block_start",
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "tool_use", "id": "c", "name": "", "input": {}},
                },
            ),
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
            ("message_stop", {"type": "message_stop"}),
        ],
    ),
    (
        RESPONSES,
        [
            ("response.created", OPENED),
            (
                "response.completed",
                {
                    "type": "response.completed",
                    "response": {
                        "id": "resp_1",
                        "object": "response",
                        "status": "completed",
                        "output": [
                            {"type": "function_call", "call_id": "c", "name": "", "arguments": ""},
                            {"type": "custom_tool_call", "call_id": "d", "name": None, "input": ""},
                        ],
                    },
                },
            ),
        ],
    ),
]


@pytest.mark.parametrize(("request_", "events"), NOTHING, ids=[request.path for request, _ in NOTHING])
def test_a_call_of_nothing_is_waited_for_in_no_protocol(request_: Request, events: list[writing.Event]) -> None:
    fold = writing.folded(events, request_, "done")
    (key,) = (key for key in fold.states() if key != STREAM)
    view = merge(key, [writing.contribution(fold, key)])
    assert (view.state, view.status, view.failure, view.steps) == ("ended", "completed", None, [])
    assert view.source_object is not None  # which has it


@pytest.mark.parametrize("error", ["no", {"code": None, "message": "no"}])
def test_a_response_that_failed_says_why_in_an_object_or_in_words(error: Any) -> None:
    failed = {"id": "resp_1", "object": "response", "status": "failed", "error": error}
    found = failure(RESPONSES, ("response.created", OPENED), ("response.failed", {"type": "response.failed", "response": failed}))
    assert found is not None
    assert (found.kind, found.message) == ("failed", "no")


def test_a_server_of_tools_that_does_not_list_them_is_a_failure() -> None:
    item = {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "crm", "tools": [], "error": "401 from the server"}
    done = responding.whole("completed", responding.response("completed", output=[item]))
    found = failure(RESPONSES, *responding.typed(responding.whole("created", responding.response()), done))
    assert found is not None
    assert found[:3] == ("tool_failed", "mcp_list_tools", "401 from the server")
