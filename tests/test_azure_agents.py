"""Azure's classic agents: every tool type, approvals, the runs of connected agents. Else they are as any Assistants stream."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from recorder import database, queries
from recorder.collect import secrets
from recorder.projections import run_steps, runner
from recorder.projections.run_steps import tool_calls
from recorder.projections.runs import runs
from recorder.projections.verify import verify
from recorder.protocols import Request, protocol_for
from recorder.protocols.merge import merge
from recorder.protocols.view import RunView
from tests.conftest import SHARED
from tests.writing import (
    BORN,
    DONE,
    Event,
    contribution,
    folded,
    frames,
    kinds,
    run,
    said,
    step,
    step_delta,
    stream,
    stream_id,
    viewed,
    write,
)

Object = dict[str, Any]

PROJECT = "/api/projects/p"
AGENTS = Request(
    method="POST",
    host="res.services.ai.azure.com",
    path=f"{PROJECT}/threads/thread_1/runs",
    query="api-version=v1",
    body={"assistant_id": "asst_1"},
)
FIELDS = SHARED / "reference" / "schemas" / "azure_agents.fields.json"


class Tool(NamedTuple):
    """A call as its step ends with it, without id and type; the deltas before; and its columns: name, arguments, output."""

    call: Object
    deltas: list[Object]
    columns: tuple[str | None, str | None, str | None]


def searching(type: str) -> Tool:
    """A tool that has a map of texts, which is replaced key by key."""
    given = {"input": "rain in Oslo", "output": '{"hits":[]}'}
    return Tool({type: given}, [{type: {"input": "rain"}}, {type: given}], (None, "rain in Oslo", '{"hits":[]}'))


def called(type: str, **more: str) -> Tool:
    """A tool that is called as a function is; its deltas repeat the final object."""
    given = {"name": "clerk", "arguments": '{"x":1}', "output": "done", **more}
    begun = {key: value for key, value in given.items() if key in ("name", "arguments")}
    return Tool({type: given}, [{type: begun}, {type: given}], ("clerk", '{"x":1}', "done"))


ACTION = {"type": "click", "x": 1, "y": 2}
SCREEN = {"type": "computer_screenshot", "file_id": "file_1"}
BROWSED = {"last_step_result": "ok", "current_state": "there", "next_step": "stay"}
CHILD = {"run_id": "run_child", "thread_id": "thread_child", "assistant_id": "asst_child"}

TOOLS: dict[str, Tool] = {
    **{
        type: searching(type)
        for type in (
            "azure_ai_search",
            "bing_custom_search",
            "bing_grounding",
            "fabric_dataagent",
            "openapi",
            "sharepoint_grounding",
        )
    },
    "function": Tool(
        {"function": {"name": "weather", "arguments": '{"city":"Oslo"}', "output": "rain"}},
        [{"function": {"name": "weather", "arguments": '{"city":'}}, {"function": {"arguments": '"Oslo"}'}}],
        ("weather", '{"city":"Oslo"}', "rain"),
    ),
    "code_interpreter": Tool(
        {"code_interpreter": {"input": "print(1)", "outputs": [{"type": "logs", "logs": "1\n"}]}},
        [
            {"code_interpreter": {"input": "print("}},
            {"code_interpreter": {"input": "1)", "outputs": [{"index": 0, "type": "logs", "logs": "1\n"}]}},
        ],
        (None, "print(1)", "1\n"),
    ),
    "file_search": Tool(
        {"file_search": {"results": [{"file_id": "file_1", "file_name": "a.txt", "score": 0.5, "content": []}]}},
        [{"file_search": {}}],
        (None, None, None),
    ),
    "azure_function": called("azure_function"),
    "connected_agent": called("connected_agent", **CHILD),
    "mcp": Tool(
        {"name": "fetch", "arguments": '{"q":1}', "output": "[]", "server_label": "docs"},
        [{"name": "fetch", "arguments": '{"q"', "server_label": "docs"}, {"arguments": ":1}"}],
        ("fetch", '{"q":1}', "[]"),
    ),
    "browser_automation": Tool(
        {"browser_automation": {"input": "go there", "output": "there", "steps": [BROWSED]}}, [], (None, "go there", "there")
    ),
    "deep_research": Tool(
        {"deep_research": {"input": "why", "output": "because"}}, [{"deep_research": {"input": "why"}}], (None, "why", "because")
    ),
    "computer_use_preview": Tool(
        {"computer_use_preview": {"action": ACTION, "pending_safety_checks": [], "output": SCREEN}},
        [{"computer_use_preview": {"action": ACTION, "pending_safety_checks": []}}],
        (None, json.dumps(ACTION, separators=(",", ":")), json.dumps(SCREEN, separators=(",", ":"))),
    ),
    "telepathy": Tool({"telepathy": {"name": "x", "thought": [1]}}, [{"telepathy": {"name": "x"}}], ("x", None, None)),
}
"""The last is none of Azure's: what is unknown is kept as well."""

FLAT = ("mcp",)


def begun(*events: Event) -> list[Event]:
    return [("thread.run.created", run("queued")), ("thread.run.in_progress", run("in_progress")), *events]


def of(type: str, number: int = 0, done: bool = True) -> list[Event]:
    """The events of a step with one call of this type, its deltas under the details that Azure gives them."""
    step_id, call_id = f"step_{number}", f"call_{number}"
    details = type if type in ("mcp", "openapi") else "tool_calls"
    deltas = [
        step_delta({"index": 0, "id": call_id, "type": type, **delta}, id=step_id, type=details) for delta in TOOLS[type].deltas
    ]
    call = {"id": call_id, "type": type, **TOOLS[type].call}
    final = step("completed", step_id, step_details={"type": "tool_calls", "tool_calls": [call]}, created_at=BORN + number)
    created: Event = ("thread.run.step.created", step(id=step_id, created_at=BORN + number))
    end: list[Event] = [("thread.run.step.completed", final)] if done else []
    return [created, created, *deltas, *end]


def columns(view: RunView) -> list[tuple[str | None, ...]]:
    """(type, name, arguments, output) of each row of tool_calls."""
    return [tuple(row[key] for key in ("type", "name", "arguments", "output")) for row in run_steps.rows(view)[tool_calls]]


def test_these_are_all_types_that_there_are(shared: Any) -> None:
    assert FIELDS.is_file()
    assert set(json.loads(FIELDS.read_text())["run_step_tool_call"]) == set(TOOLS) - {"telepathy"}


@pytest.mark.parametrize("type", TOOLS)
def test_a_call_of_any_type_is_shown_as_it_came_and_has_its_columns(type: str) -> None:
    view = viewed(begun(*of(type)), request=AGENTS)
    (shown,) = view.steps
    assert shown.object["step_details"]["tool_calls"] == [{"id": "call_0", "type": type, **TOOLS[type].call}]
    assert columns(view) == [(type, *TOOLS[type].columns)]
    assert view.anomalies == []


@pytest.mark.parametrize("type", [type for type in TOOLS if TOOLS[type].deltas])
def test_its_deltas_show_it_while_it_is_open(type: str) -> None:
    view = viewed(begun(*of(type, done=False)), request=AGENTS, outcome=None)
    (shown,) = view.steps
    assert shown.object["type"] == shown.object["step_details"]["type"] == "tool_calls"
    (call,) = shown.object["step_details"]["tool_calls"]
    final = {"id": "call_0", "type": type, **TOOLS[type].call}

    def is_part(have: Any, whole: Any) -> bool:
        if isinstance(have, dict):
            return all(key in whole and is_part(inner, whole[key]) for key, inner in have.items())
        return bool(have == whole)

    assert is_part(call, final)
    assert columns(view)[0][:3] == (type, *TOOLS[type].columns[:2])
    assert view.anomalies == []


def test_calls_of_all_types_stand_in_one_run() -> None:
    events = [event for number, type in enumerate(TOOLS) for event in of(type, number)]
    view = viewed(begun(*events, ("thread.run.completed", run("completed"))), request=AGENTS)
    assert columns(view) == [(type, *tool.columns) for type, tool in TOOLS.items()]
    assert view.anomalies == []


def test_the_discovery_of_tools_is_a_step_of_its_own() -> None:
    found = {"id": "a_1", "type": "mcp_list_tools", "server_label": "docs", "tools": {"search": {"description": "Finds."}}}
    details = {"type": "activities", "activities": [found]}
    created: Event = ("thread.run.step.created", step(type="activities"))
    final = step("completed", type="activities", step_details=details)
    view = viewed(begun(created, created, ("thread.run.step.completed", final)), request=AGENTS)
    assert [(each.object["type"], each.object["step_details"]) for each in view.steps] == [("activities", details)]
    assert (columns(view), view.anomalies) == ([], [])


# Approvals

CALL = {"id": "call_0", "type": "mcp", "name": "fetch", "arguments": "{}", "server_label": "docs"}
TO_APPROVE = {"type": "submit_tool_approval", "submit_tool_approval": {"tool_calls": [CALL]}}


def asking() -> list[Event]:
    """A run up to where it waits for a call to be approved."""
    return begun(
        ("thread.run.step.created", step(id="step_0")),
        step_delta({"index": 0, **CALL, "output": None}, id="step_0", type="mcp"),
        ("thread.run.requires_action", run("requires_action", required_action=TO_APPROVE, expires_at=BORN + 36000)),
        DONE,
    )


def approving(approve: bool = True, **fields: Any) -> Request:
    path = f"{AGENTS.path}/run_1/submit_tool_outputs"
    return AGENTS._replace(path=path, body={"tool_approvals": [{"tool_call_id": "call_0", "approve": approve, **fields}]})


def approved() -> list[Event]:
    details = {"type": "tool_calls", "tool_calls": [{**CALL, "output": "[]"}]}
    return [
        ("thread.run.step.completed", step("completed", "step_0", step_details=details)),
        ("thread.run.queued", run("queued")),
        ("thread.run.in_progress", run("in_progress")),
        ("thread.run.completed", run("completed")),
        DONE,
    ]


def followed(*told: tuple[list[Event], Request, str | None]) -> RunView:
    """The view of the run over these streams."""
    parts = [folded(events, request, outcome) for events, request, outcome in told]
    return merge("run_1", [contribution(part, number=number, started=number) for number, part in enumerate(parts)])


def test_a_run_waits_for_an_approval() -> None:
    view = viewed(asking(), request=AGENTS)
    assert (view.object["status"], view.status, view.state) == ("requires_action", "requires_action", "waiting")
    assert view.object["required_action"] == TO_APPROVE
    assert view.anomalies == []


@pytest.mark.parametrize("approve", [True, False])
def test_the_next_request_answers_it(approve: bool) -> None:
    begins, answer = (asking(), AGENTS, "done"), approving(approve)
    said = json.dumps({"approve": approve}, separators=(",", ":"))
    broken = followed(begins, ([], answer, "cut"))
    assert (broken.object["status"], broken.status, broken.state) == ("requires_action", "queued", "unknown")
    assert columns(broken) == [("mcp", "fetch", "{}", said)]
    running = followed(begins, ([], answer, None))
    assert (running.status, running.state) == ("queued", "active")
    refused = followed(begins, ([], answer, "http_error"))
    assert (refused.status, refused.state, columns(refused)[0][3]) == ("requires_action", "waiting", None)
    whole = followed(begins, (approved(), answer, "done"))
    assert (whole.object["status"], whole.state, whole.object["required_action"]) == ("completed", "ended", None)
    assert columns(whole) == [("mcp", "fetch", "{}", "[]")]
    assert whole.anomalies == []


def test_a_run_that_asks_again_waits_again() -> None:
    again = {"type": "submit_tool_approval", "submit_tool_approval": {"tool_calls": [{**CALL, "id": "call_9"}]}}
    second = [*approved()[:3], ("thread.run.requires_action", run("requires_action", required_action=again))]
    view = followed((asking(), AGENTS, "done"), (second, approving(), "done"))
    assert (view.status, view.state) == ("requires_action", "waiting")


def test_the_headers_of_an_approval_are_never_kept() -> None:
    given = approving(headers={"Authorization": "Bearer sesame"}).body
    assert b"sesame" not in secrets.body(json.dumps(given).encode(), "application/json")


def test_a_screenshot_is_an_output() -> None:
    call = {"id": "call_0", "type": "computer_use_preview", "computer_use_preview": {"action": ACTION}}
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [call]}}
    events = begun(
        *of("computer_use_preview", done=False), ("thread.run.requires_action", run("requires_action", required_action=action))
    )
    item = {"type": "computer_call_output", "tool_call_id": "call_0", "output": SCREEN}
    answer = approving()._replace(body={"tool_outputs": [item], "stream": True})
    view = followed((events, AGENTS, "done"), ([], answer, None))
    assert json.loads(str(columns(view)[0][3])) == SCREEN
    assert (view.status, view.state) == ("queued", "active")


# The runs of connected agents


def test_a_connected_agents_run_is_linked_to_the_call_that_made_it(engine: sa.Engine) -> None:
    """It is on another thread, and may be recorded first, or not at all."""
    child = said("The answer", "run_child", thread_id="thread_child", assistant_id="asst_child")
    there = AGENTS._replace(path=f"{PROJECT}/threads/thread_child/runs")
    write(engine, stream(1, there), frames(child))
    write(engine, stream(2, AGENTS), frames(begun(*of("connected_agent"), ("thread.run.completed", run("completed")), DONE)))
    runner.catch_up(engine)
    with database.read(engine) as connection:
        parent = sa.select(tool_calls.c.run_id, tool_calls.c.name, tool_calls.c.child_run_id, runs.c.thread_id, runs.c.status)
        joined = parent.join_from(tool_calls, runs, runs.c.run_id == tool_calls.c.child_run_id)
        assert connection.execute(joined).all() == [("run_1", "clerk", "run_child", "thread_child", "completed")]
        sessions = connection.execute(sa.select(runs.c.run_id, runs.c.session_id).order_by(runs.c.run_id)).all()
        assert sessions == [("run_1", "thread_1"), ("run_child", "thread_child")]
        found = queries.resolve(connection, "run_child")
        assert queries.streams_of(connection, found) == [stream_id(1)]
    assert verify(engine).problems == []


def test_the_link_is_there_while_the_call_is_open() -> None:
    view = viewed(begun(*of("connected_agent", done=False)), request=AGENTS, outcome=None)
    assert [row["child_run_id"] for row in run_steps.rows(view)[tool_calls]] == ["run_child"]


def test_a_run_id_in_another_tool_is_no_link() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "x", "run_id": "run_9"}}
    view = viewed(begun(("x", step("completed", step_details={"type": "tool_calls", "tool_calls": [call]}))), request=AGENTS)
    assert [row["child_run_id"] for row in run_steps.rows(view)[tool_calls]] == [None]


def test_a_growing_deadline_and_an_open_code_are_kept() -> None:
    failed = run("failed", last_error={"code": "content_filter", "message": "No."}, failed_at=BORN + 9, expires_at=BORN + 36000)
    view = viewed(begun(("thread.run.failed", failed)), request=AGENTS)
    assert (view.object["last_error"]["code"], view.object["expires_at"]) == ("content_filter", BORN + 36000)
    assert kinds(view) == []


def test_a_request_to_a_project_is_of_the_assistants_stream() -> None:
    for request in (AGENTS, approving()):
        protocol = protocol_for(request)
        assert protocol is not None
        assert protocol.NAME == "assistants"
