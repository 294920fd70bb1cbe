"""The vocabulary: Run, RunStep, ToolCall, Message, Usage, by the API's own names.

The folds work on plain JSON, which is exact and fast; these models are built at the edges, for people who ask from Python.
They keep every field they do not know, and a value of an unforeseen type does not stop them: statuses, types and codes are
open, since servers send what they like.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from recorder import jsontext

Object = dict[str, Any]

_GIVEN = ("arguments", "input", "code", "action", "actions", "operation", "queries")
"""Where tool calls have what the tool was given."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    @classmethod
    def of(cls, value: Object) -> Any:
        """The model of an API object; a field whose value has an unforeseen type is left out of it."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            wrong = {problem["loc"][0] for problem in error.errors()}
            return cls.model_validate({key: inner for key, inner in value.items() if key not in wrong})


class Usage(_Model):
    """Tokens. cached and reasoning tokens stand in the detail maps, whose names differ between servers."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None

    @property
    def cached_tokens(self) -> int | None:
        return self._detail("prompt", "cached_tokens")

    @property
    def cache_write_tokens(self) -> int | None:
        return self._detail("prompt", "cache_write_tokens")

    @property
    def reasoning_tokens(self) -> int | None:
        return self._detail("completion", "reasoning_tokens")

    def _detail(self, side: str, name: str) -> int | None:
        for key in (f"{side}_token_details", f"{side}_tokens_details"):
            details = (self.model_extra or {}).get(key)
            if isinstance(details, dict) and isinstance(details.get(name), int):
                return int(details[name])
        return None


class ToolCall(_Model):
    """One entry of tool_calls. What the tool got and gave stands under the key named like the type, or flat (Azure's mcp)."""

    id: str | None = None
    type: str | None = None

    @property
    def _body(self) -> Object:
        extra = self.model_extra or {}
        nested = extra.get(self.type) if isinstance(self.type, str) else None
        return nested if isinstance(nested, dict) else extra

    @property
    def name(self) -> str | None:
        name = self._body.get("name")
        return name if isinstance(name, str) else None

    @property
    def arguments(self) -> str | None:
        """What the tool was given: arguments, an input or code; of tools that are given no text, its JSON."""
        body = self._body
        return next((_text(body[key]) for key in _GIVEN if body.get(key) is not None), None)

    @property
    def output(self) -> str | None:
        """What the tool gave: its output, or the code interpreter's logs one after the other."""
        body = self._body
        outputs = body.get("outputs")
        if isinstance(outputs, list):
            logs = [entry.get("logs") for entry in outputs if isinstance(entry, dict) and isinstance(entry.get("logs"), str)]
            return "".join(map(str, logs)) if logs else None
        return _text(body.get("output"))

    @property
    def child_run_id(self) -> str | None:
        """The run that an agent made which was called (connected agents of Azure's)."""
        id = self._body.get("run_id")
        return id if isinstance(id, str) and self.type == "connected_agent" else None


class RunStep(_Model):
    id: str | None = None
    run_id: str | None = None
    type: str | None = None
    status: str | None = None
    step_details: Object | None = None
    last_error: Object | None = None
    usage: Usage | None = None
    created_at: int | None = None

    @property
    def tool_calls(self) -> list[ToolCall]:
        calls = (self.step_details or {}).get("tool_calls")
        return [ToolCall.of(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


class Message(_Model):
    id: str | None = None
    run_id: str | None = None
    role: str | None = None
    status: str | None = None
    content: list[Object] | None = None
    created_at: int | None = None

    @property
    def text(self) -> str:
        """The text parts and refusals, in order."""
        parts = []
        for part in self.content or ():
            body = part.get("text")
            value = body.get("value") if isinstance(body, dict) else part.get("refusal")
            parts.append(value if isinstance(value, str) else "")
        return "".join(parts)


class Run(_Model):
    """A run as the API gives it, with what the recorder adds: its state, steps and messages."""

    id: str | None = None
    status: str | None = None
    model: str | None = None
    thread_id: str | None = None
    assistant_id: str | None = None
    required_action: Object | None = None
    last_error: Object | None = None
    incomplete_details: Object | None = None
    usage: Usage | None = None
    created_at: int | None = None
    state: str | None = None
    effective_status: str | None = None
    logical_run_id: str | None = None
    source_object: Object | None = None
    steps: list[RunStep] = []
    messages: list[Message] = []


def _text(value: Any) -> str | None:
    """A text as it is, anything else as its JSON."""
    return value if value is None or isinstance(value, str) else jsontext.dumps(value)
