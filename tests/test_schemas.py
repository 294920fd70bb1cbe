"""What recorder shows, against the published schemas and the openai SDK's own types.

What the API gave is shown as it came, so it is held against the lenient schemas: servers leave things out. Runs, steps and
messages that recorder makes of something else are its own, so they are held against the strict ones. DEPARTURES says where a
response has something that a run cannot have, or has not what a run must; anything else is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa
from jsonschema import Draft202012Validator
from openai.types.beta.threads import Message, Run
from openai.types.beta.threads.runs import RunStep
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from recorder import database, queries
from recorder.collect.import_ import import_paths
from recorder.projections import runner
from recorder.projections.runs import runs
from tests.conftest import SHARED
from tests.test_fixtures import CASES, sse

Object = dict[str, Any]
Holds = Callable[[Any], bool]

SCHEMAS = SHARED / "reference" / "schemas"
KINDS = ("RunObject", "RunStepObject", "MessageObject")
SDK = {"RunObject": Run, "RunStepObject": RunStep, "MessageObject": Message}

pytestmark = pytest.mark.usefixtures("shared")


def passed_on(value: Any) -> bool:
    return True


def is_null(value: Any) -> bool:
    return value is None


def is_not_of_functions(action: Any) -> bool:
    """A required action with an approval, or calls of other tools than functions: only those ever waited for the client."""
    calls = action.get("submit_tool_outputs", {}).get("tool_calls", [])
    return "submit_tool_approval" in action or any(call["type"] != "function" for call in calls)


def has_other_tools(details: Any) -> bool:
    """Details of another kind, or of tools that a run cannot have; a call of which only the output is known; a ranker's name."""
    calls = details.get("tool_calls", [])
    outputs = [output for call in calls for output in call.get("code_interpreter", {}).get("outputs", [])]
    return (
        details["type"] in ("reasoning", "activities", "other", "meditation")
        or any(call.get("type") not in ("function", "file_search", "code_interpreter") for call in calls)
        or any("url" in output.get("image", {}) for output in outputs)
        or any(call["type"] == "function" and call["function"]["name"] is None for call in calls)
        or any("default-2024-08-21" in str(call.get("file_search", {}).get("ranking_options")) for call in calls)
    )


def has_other_annotations(content: Any) -> bool:
    annotations = [note for part in content for note in part.get("text", {}).get("annotations", [])]
    flat = any("file_citation" not in note and "file_path" not in note for note in annotations)
    return flat or any(part["type"] == "hologram" for part in content)


DEPARTURES: dict[str, dict[str, Holds]] = {
    "RunObject": {
        "thread_id": is_null,  # but for a conversation, responses have none
        "assistant_id": is_null,
        "instructions": is_null,  # which real runs have too
        "parallel_tool_calls": is_null,  # chats say it only where it was asked for
        "incomplete_details": lambda value: value == {"reason": "content_filter"},
        "tools": passed_on,  # as the API gave them
        "tool_choice": passed_on,
        "truncation_strategy": lambda value: value == {"type": "disabled"},
        "max_completion_tokens": lambda value: value < 256,
        "last_error": lambda value: value["code"] not in ("server_error", "rate_limit_exceeded", "invalid_prompt"),
        "required_action": is_not_of_functions,
    },
    "RunStepObject": {
        "thread_id": is_null,
        "assistant_id": is_null,
        "created_at": is_null,  # nobody says it
        "type": lambda value: value in ("reasoning", "activities", "other"),
        "status": lambda value: value == "incomplete",
        "last_error": lambda value: value["code"] not in ("server_error", "rate_limit_exceeded"),
        "step_details": has_other_tools,
    },
    "MessageObject": {"thread_id": is_null, "created_at": is_null, "content": has_other_annotations},
}
"""Where what recorder makes of a response is no run of the Assistants API."""

OF_SERVERS: dict[str, dict[str, Holds]] = {
    "RunObject": {"tools": passed_on, "required_action": is_not_of_functions},  # Azure's agents
    "RunStepObject": {"step_details": has_other_tools},
    "MessageObject": {"content": has_other_annotations},
}
"""Where servers say what the lenient schemas do not know."""


def shown_objects(folder: Path) -> list[tuple[str, str, Object]]:
    """(protocol, kind, object) of all that is shown of the shared streams and our own."""
    engine = database.connect(f"sqlite:///{folder}/x.db")
    shared = SHARED / "streams"
    import_paths(engine, [*([str(shared)] if shared.is_dir() else []), *(str(sse(case)) for case in CASES)])
    runner.catch_up(engine)
    found: list[tuple[str, str, Object]] = []
    with database.read(engine) as connection:
        chosen = sa.select(runs.c.run_id, runs.c.protocol, runs.c.object)
        for run_id, protocol, object in connection.execute(chosen).all():
            shown = queries.show_run(connection, run_id)
            if object != "{}":
                found.append((protocol, "RunObject", json.loads(object)))
            found += [(protocol, "RunStepObject", step) for step in shown["steps"]]
            found += [(protocol, "MessageObject", message) for message in shown["messages"]]
            if shown["source_object"] is not None:
                found.append((protocol, "source", shown["source_object"]))
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, Object]]:
    return shown_objects(tmp_path_factory.mktemp("shown"))


def validator(file: str, kind: str) -> Draft202012Validator:
    defs = json.loads((SCHEMAS / file).read_text())["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": defs})


def wrong(check: Draft202012Validator, object: Object, departures: dict[str, Holds]) -> Iterator[str]:
    """What a schema finds amiss, but for departures that hold of the object."""
    for error in check.iter_errors(object):
        field = error.absolute_path[0] if error.absolute_path else None
        if not (field in departures and departures[str(field)](object[str(field)])):
            yield f"{object.get('id')} {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made_of", ["responses", "chat"])
def test_what_recorder_makes_of_others_is_by_the_strict_schema(
    shown: list[tuple[str, str, Object]], made_of: str, kind: str
) -> None:
    check = validator("assistants.schema.json", kind)
    objects = [object for protocol, of, object in shown if protocol == made_of and of == kind]
    assert len(objects) > 30
    assert [line for object in objects for line in wrong(check, object, DEPARTURES[kind])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_threads_gave_is_by_the_lenient_schema(shown: list[tuple[str, str, Object]], kind: str) -> None:
    check = validator("assistants.lenient.schema.json", kind)
    objects = [object for protocol, of, object in shown if protocol == "assistants" and of == kind]
    assert len(objects) > 30
    assert [line for object in objects for line in wrong(check, object, OF_SERVERS[kind])] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", ["assistants", "responses", "chat"])
def test_what_is_shown_is_of_the_sdks_types(shown: list[tuple[str, str, Object]], kind: str, protocol: str) -> None:
    """But for what servers leave out, and the same departures."""
    departures = DEPARTURES[kind] | OF_SERVERS[kind]
    amiss = []
    for object in (object for of, name, object in shown if (of, name) == (protocol, kind)):
        for error in _errors(SDK[kind], object):
            field = str(error["loc"][0])
            if error["type"] == "missing" and len(error["loc"]) == 1 and protocol == "assistants":
                continue
            value = object[field]
            unknown = error["type"] == "literal_error" and len(error["loc"]) == 1 and protocol == "assistants"
            unfinished = field in ("content", "step_details") and object["status"] != "completed" and protocol == "assistants"
            if not (unknown or unfinished or (field in departures and departures[field](value))):
                amiss.append((object["id"], error["loc"], error["msg"]))
    assert amiss == []


def test_the_source_of_a_response_is_of_the_sdks_type(shown: list[tuple[str, str, Object]]) -> None:
    sources = [object for protocol, kind, object in shown if (protocol, kind) == ("responses", "source")]
    assert len(sources) > 30
    amiss = [
        (object["id"], error["loc"][:3])
        for object in sources
        for error in _errors(Response, object)
        if error["loc"] not in (("error", "code"), ("usage", "input_tokens_details", "cache_write_tokens"))
        and "telepathy_call" not in {item["type"] for item in object["output"]}
    ]
    assert amiss == []


def test_the_source_of_a_chat_is_by_the_lenient_schema_and_of_the_sdks_type(shown: list[tuple[str, str, Object]]) -> None:
    """But for ids that Google does not give, content in parts (Mistral), and choices that did not finish, or in an error."""
    check = validator("chat.lenient.schema.json", "CreateChatCompletionResponse")
    sources = [object for protocol, kind, object in shown if (protocol, kind) == ("chat", "source")]
    assert len(sources) > 40
    amiss: list[Any] = []
    for object in sources:
        in_parts = any(isinstance(choice["message"]["content"], list) for choice in object["choices"])
        amiss += wrong(check, object, {"id": is_null, "choices": lambda _, in_parts=in_parts: in_parts})  # type: ignore[misc]
        for error in _errors(ChatCompletion, object):
            at = error["loc"][-1]
            value = object if at == "id" else object["choices"][error["loc"][1]] if len(error["loc"]) > 1 else {}
            excused = {"id": object["id"] is None, "finish_reason": value.get("finish_reason") in (None, "error")}
            if not excused.get(str(at), at == "content" and in_parts):
                amiss.append((object["id"], error["loc"], error["msg"]))
    assert amiss == []


def _errors(model: type[pydantic.BaseModel], object: Object) -> list[Any]:
    try:
        model.model_validate(object)
    except pydantic.ValidationError as error:
        return list(error.errors())
    return []
