"""Which protocol a stream speaks: common services and gateways are known by their requests, everything else by what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database, log, queries
from recorder.projections import runner
from recorder.projections.anomalies import anomalies
from recorder.projections.runs import runs
from recorder.protocols import PROTOCOLS, Request, protocol_for, protocol_of_body, protocol_of_event
from recorder.sse import Frame
from tests.writing import folded, stream, stream_id, write

THREADS = {"assistant_id": "asst_1", "stream": True}
INPUT = {"model": "m", "input": "Hi", "stream": True}
MESSAGES = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}

BODIES = {"assistants": THREADS, "responses": INPUT, "chat": MESSAGES, "anthropic": {"max_tokens": 9, **MESSAGES}}

PROJECT = "/api/projects/p"
WORKSPACE = "/v1/workspaces/w/dataagents/d/aiassistant/openai"

KNOWN: list[tuple[str, str, str, str]] = [
    # OpenAI, and Azure: the old paths with their deployments, and v1
    ("assistants", "POST", "api.openai.com", "/v1/threads/runs"),
    ("assistants", "POST", "api.openai.com", "/v1/threads/thread_1/runs"),
    ("assistants", "POST", "api.openai.com", "/v1/threads/thread_1/runs/run_1/submit_tool_outputs"),
    ("assistants", "POST", "api.openai.com", "/v1/threads/thread_1/runs/run_1/cancel"),
    ("assistants", "GET", "api.openai.com", "/v1/threads/thread_1/runs/run_1"),
    ("assistants", "GET", "api.openai.com", "/v1/threads/thread_1/runs/run_1/steps"),
    ("assistants", "GET", "api.openai.com", "/v1/threads/thread_1/runs/run_1/steps/step_1"),
    ("assistants", "GET", "api.openai.com", "/v1/threads/thread_1/messages"),
    ("assistants", "GET", "api.openai.com", "/v1/threads/thread_1/messages/msg_1"),
    ("assistants", "POST", "api.openai.com", "/v1/threads"),
    ("assistants", "GET", "api.openai.com", "/v1/threads/thread_1"),
    ("responses", "POST", "api.openai.com", "/v1/responses"),
    ("responses", "GET", "api.openai.com", "/v1/responses/resp_1"),
    ("responses", "POST", "api.openai.com", "/v1/responses/resp_1/cancel"),
    ("chat", "POST", "api.openai.com", "/v1/chat/completions"),
    ("assistants", "POST", "res.openai.azure.com", "/openai/threads/thread_1/runs"),
    ("responses", "POST", "res.openai.azure.com", "/openai/responses"),
    ("responses", "POST", "res.openai.azure.com", "/openai/v1/responses"),
    ("responses", "GET", "res.openai.azure.com", "/openai/v1/responses/resp_1"),
    ("chat", "POST", "res.openai.azure.com", "/openai/deployments/gpt-4o/chat/completions"),
    ("chat", "POST", "res.openai.azure.com", "/openai/v1/chat/completions"),
    ("chat", "POST", "res.cognitiveservices.azure.com", "/openai/deployments/gpt-4o/chat/completions"),
    ("assistants", "POST", "res.services.ai.azure.com", f"{PROJECT}/threads/runs"),
    ("assistants", "POST", "res.services.ai.azure.com", f"{PROJECT}/threads/thread_1/runs/run_1/submit_tool_outputs"),
    ("responses", "POST", "res.services.ai.azure.com", f"{PROJECT}/openai/responses"),
    ("responses", "POST", "res.services.ai.azure.com", f"{PROJECT}/openai/v1/responses"),
    ("chat", "POST", "res.services.ai.azure.com", "/models/chat/completions"),
    ("assistants", "POST", "api.fabric.microsoft.com", f"{WORKSPACE}/threads/thread_1/runs"),
    ("assistants", "POST", "api.fabric.microsoft.com", f"{WORKSPACE}/threads"),
    # Gateways
    ("responses", "POST", "openrouter.ai", "/api/v1/responses"),
    ("chat", "POST", "openrouter.ai", "/api/v1/chat/completions"),
    ("assistants", "POST", "litellm.example.org", "/v1/threads/thread_1/runs"),
    ("assistants", "POST", "litellm.example.org:4000", "/threads/thread_1/runs"),
    ("responses", "POST", "litellm.example.org:4000", "/responses"),
    ("chat", "POST", "litellm.example.org:4000", "/chat/completions"),
    ("chat", "POST", "litellm.example.org:4000", "/openai/deployments/gpt-4o/chat/completions"),
    ("responses", "POST", "gateway.ai.cloudflare.com", "/v1/acct/gateway/openai/responses"),
    ("chat", "POST", "gateway.ai.cloudflare.com", "/v1/acct/gateway/compat/chat/completions"),
    ("chat", "POST", "api.portkey.ai", "/v1/chat/completions"),
    ("chat", "POST", "ai-gateway.vercel.sh", "/v1/chat/completions"),
    # Providers
    ("responses", "POST", "api.groq.com", "/openai/v1/responses"),
    ("chat", "POST", "api.groq.com", "/openai/v1/chat/completions"),
    ("chat", "POST", "api.together.xyz", "/v1/chat/completions"),
    ("chat", "POST", "api.fireworks.ai", "/inference/v1/chat/completions"),
    ("responses", "POST", "api.fireworks.ai", "/inference/v1/responses"),
    ("chat", "POST", "api.mistral.ai", "/v1/chat/completions"),
    ("chat", "POST", "api.deepseek.com", "/chat/completions"),
    ("chat", "POST", "api.deepseek.com", "/v1/chat/completions"),
    ("chat", "POST", "api.x.ai", "/v1/chat/completions"),
    ("responses", "POST", "api.x.ai", "/v1/responses"),
    ("chat", "POST", "api.perplexity.ai", "/chat/completions"),
    ("chat", "POST", "generativelanguage.googleapis.com", "/v1beta/openai/chat/completions"),
    ("chat", "POST", "dashscope.aliyuncs.com", "/compatible-mode/v1/chat/completions"),
    ("chat", "POST", "dbc.cloud.databricks.com", "/serving-endpoints/chat/completions"),
    # Servers of one's own, under whatever prefix
    ("responses", "POST", "127.0.0.1:8000", "/v1/responses"),
    ("chat", "POST", "127.0.0.1:8000", "/v1/chat/completions"),
    ("chat", "POST", "localhost:11434", "/v1/chat/completions"),
    ("responses", "POST", "localhost:11434", "/v1/responses"),
    ("chat", "POST", "localhost:1234", "/v1/chat/completions"),
    ("assistants", "POST", "10.0.0.7", "/a/b/threads/6f1c/runs"),
    ("responses", "POST", "10.0.0.7", "/a/b/responses/"),
    ("chat", "POST", "10.0.0.7", "/a/b/chat/completions/"),
    ("anthropic", "POST", "api.anthropic.com", "/v1/messages"),
    ("anthropic", "POST", "gateway.ai.cloudflare.com", "/v1/acct/gateway/anthropic/v1/messages"),
]

UNKNOWN: list[Request] = [
    Request(),
    Request("GET", "api.openai.com", "/v1/models"),
    Request("POST", "api.openai.com", "/v1/embeddings", "", {"model": "m", "input": "Hi"}),
    Request("GET", "api.openai.com", "/v1/responses/resp_1/input_items"),
    Request("POST", "api.openai.com", "/v1/assistants", "", {"model": "m"}),
    Request("POST", "localhost:11434", "/api/generate", "", {"model": "m", "prompt": "Hi"}),
    Request("GET", "example.org", "/threads"),
    Request("GET", "forum.example.org", "/api/threads/5"),
    Request("GET", "forum.example.org", "/api/threads/5/replies"),
    Request("POST", "mail.example.org", "/v1/users/me/threads/5/modify", "", {"addLabelIds": []}),
    Request("POST", "langgraph.example.org", "/threads/6f1c/runs/stream", "", {"assistant_id": "agent", "input": {}}),
    Request("POST", "langgraph.example.org", "/threads/6f1c/runs/wait", "", {"assistant_id": "agent", "input": {}}),
    Request("GET", "langgraph.example.org", "/threads/6f1c/runs/7a2d/stream"),
    Request("GET", "langgraph.example.org", "/threads/6f1c/runs/7a2d/join"),
    Request("POST", "survey.example.org", "/surveys/1/responses", "", {"answers": [1, 2]}),
    Request("GET", "survey.example.org", "/surveys/1/responses/2"),
    Request("POST", "example.org", "/mythreads/x/runsx"),
]


def named(request: Request) -> str | None:
    protocol = protocol_for(request)
    return protocol and protocol.NAME


@pytest.mark.parametrize(("name", "method", "host", "path"), KNOWN, ids=str)
def test_the_common_hosts_and_gateways_need_no_configuration(name: str, method: str, host: str, path: str) -> None:
    assert name in {protocol.NAME for protocol in PROTOCOLS}
    assert named(Request(method, host, path, "", BODIES[name] if method == "POST" else None)) == name
    assert named(Request(method, host, path, "api-version=v1", None)) == name, "the body may not have been kept"


@pytest.mark.parametrize("request_", UNKNOWN, ids=lambda request: f"{request.method} {request.host}{request.path}")
def test_any_other_request_tells_nothing(request_: Request) -> None:
    assert named(request_) is None


STRANGE: list[tuple[Request, list[tuple[str, Any]]]] = [
    (Request(), [("", {"token": "a"}), ("", {"token": "b"}), ("", "[DONE]")]),
    (
        UNKNOWN[10],
        [("metadata", {"run_id": "1", "thread_id": "2"}), ("values", {"messages": []}), ("error", {"error": "x"}), ("end", "")],
    ),
    (Request("GET", "example.org", "/events"), [("update", "no json"), ("", ""), ("response", {"id": "x"})]),
    # watsonx Orchestrate has the names of the Assistants stream in data of another shape
    (Request("POST", "wx.example.org", "/v1/chat"), [("", {"object": "thread.message.delta", "id": "x", "choices": []})]),
]


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_what_is_not_known_is_a_recorded_stream_with_no_runs(engine: sa.Engine, number: int) -> None:
    request, events = STRANGE[number]
    assert folded(events, request).protocol is None
    body = [Frame(name, data if isinstance(data, str) else json.dumps(data)) for name, data in events]
    write(engine, stream(1, request), [*body, log.system_frame("$end", {"outcome": "eof"}, 9)])
    runner.catch_up(engine)
    with database.read(engine) as connection:
        assert connection.execute(sa.select(runs)).all() == []
        assert connection.execute(sa.select(anomalies)).all() == []
        shown = queries.show_stream(connection, stream_id(1))
        (session,) = queries.list_sessions(connection)
    assert (shown["protocol"], shown["runs"], len(shown["events"])) == (None, [], len(events) + 1)
    assert (session["session_id"], session["runs"], session["events"]) == (stream_id(1), 0, len(events))


@pytest.mark.parametrize(
    ("name", "type", "payload"),
    [
        ("assistants", "thread.run.created", {}),
        ("assistants", "", {"event": "thread.run.created", "data": {}}),
        ("assistants", "", {"data": {}, "event": "thread.message.delta"}),
        ("responses", "response.created", {}),
        ("responses", "", {"type": "response.created", "response": {}}),
        ("chat", "", {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "a"}}]}),
        (None, "", {"event": "news", "data": {}}),
        (None, "message", {"type": "response.created"}),
        (None, "done", "[DONE]"),
        (None, "", [1]),
    ],
)
def test_without_a_request_the_first_event_tells(name: str | None, type: str, payload: Any) -> None:
    protocol = protocol_of_event(type, payload if isinstance(payload, str) else json.dumps(payload))
    assert (protocol and protocol.NAME) == name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("assistants", {"id": "run_1", "object": "thread.run"}),
        ("assistants", {"id": "step_1", "object": "thread.run.step"}),
        ("assistants", {"id": "msg_1", "object": "thread.message"}),
        ("assistants", {"id": "thread_1", "object": "thread"}),
        ("assistants", {"object": "list", "data": [{"id": "run_1", "object": "thread.run"}]}),
        ("responses", {"id": "resp_1", "object": "response", "output": []}),
        ("chat", {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant"}}]}),
        (None, {"object": "list", "data": []}),
        (None, {"object": "list", "data": [{"id": "m", "object": "model"}]}),
        (None, {"id": "resp_1", "object": "response", "deleted": True}),
        (None, {"id": "asst_1", "object": "assistant"}),
        (None, [1]),
        (None, "x"),
    ],
)
def test_without_a_request_the_body_tells(name: str | None, found: Any) -> None:
    protocol = protocol_of_body(found)
    assert (protocol and protocol.NAME) == name
