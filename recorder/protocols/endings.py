"""How a model's output ended: what servers say of it (finish reasons, stop reasons, statuses), and what that makes of a run.

A table for each protocol, at the foot. What is said is looked up as it is, in whatever case and with whatever hyphens; then by
its parts, since gateways hang the reason of the model behind them on their own: `content_filter: RECITATION`,
`FinishReason.SAFETY`. What is in no table is no success: nobody knows what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from recorder.protocols.payload import as_object, as_text


class Ending(NamedTuple):
    """What a reason makes of a run. reason: why it is incomplete, in the words that runs have. known: whether a table has it."""

    status: str
    reason: str | None = None
    known: bool = True


def said(found: Any) -> str | None:
    """The reason that a field gives: a text, or an object with its type (SGLang's); None where it gives none yet."""
    reason = as_text(found) or as_text(as_object(found).get("type"))
    return None if reason is None or _plain(reason) in _NOT_YET else reason


def ending(table: Mapping[str, Ending], reason: str) -> Ending:
    """What a reason stands for; one that no table has makes a run incomplete, for that very reason."""
    whole = _plain(reason)
    if whole in table:
        return table[whole]
    parts = [_plain(part) for part in _BETWEEN.split(reason)]
    known = [table[part] for part in reversed(parts) if part in table]
    worst = next((each for each in known if each.status != "completed"), None)
    return worst or next(iter(known), Ending("incomplete", reason[:_REASON_LIMIT], known=False))


def is_known(table: Mapping[str, Ending], reason: str) -> bool:
    return ending(table, reason).known


_REASON_LIMIT = 200  # characters of a reason that nobody foresaw
_BETWEEN = re.compile(r"[:./|()]+")
_APART = re.compile(r"[\s-]+")


def _plain(reason: str) -> str:
    return _APART.sub("_", reason.strip().lower())


_NOT_YET = frozenset({"", "null", "none", "not_finished", "in_progress"})

_SORTS: dict[Ending, tuple[str, ...]] = {
    Ending("completed"): (
        *("stop", "stopped", "stop_sequence", "stop_token", "eos", "eos_token", "eosfound", "end_turn", "end_of_turn"),
        *("end_of_text", "endoftext", "complete", "completed", "done", "finish", "finished", "success", "normal", "load"),
        *("tool_calls", "tool_call", "tool_use", "toolcalls", "function_call", "function_calls"),
    ),
    Ending("incomplete", "max_completion_tokens"): (
        *("length", "max_tokens", "max_token", "max_length", "max_new_tokens", "max_output_tokens", "max_completion_tokens"),
        *("model_length", "token_limit", "maximum_tokens", "limit", "maxpredictedtokensreached"),
    ),
    Ending("incomplete", "max_prompt_tokens"): (
        *("model_context_window_exceeded", "context_window_exceeded", "context_length_exceeded", "context_length"),
        *("contextlengthreached", "max_context", "max_context_length", "input_too_long"),
    ),
    Ending("incomplete", "content_filter"): (
        *("content_filter", "content_filtered", "contentfilter", "content_policy_violation", "content_policy", "moderation"),
        *("safety", "sensitive", "refusal", "recitation", "blocklist", "blocked", "prohibited_content", "spii", "violation"),
        *("image_safety", "image_prohibited_content", "image_recitation", "model_armor", "error_toxic", "jailbreak"),
        *("guardrail", "guardrails", "guardrail_intervened"),
    ),
    Ending("incomplete", "language"): ("language",),
    Ending("incomplete", "other"): ("other", "image_other", "no_image"),
    Ending("incomplete", "repetition"): ("repetition",),
    Ending("incomplete", "time_limit"): ("time_limit", "timeout", "timed_out", "time_out", "max_time"),
    Ending("incomplete", "pause_turn"): ("pause_turn", "compaction"),
    Ending("cancelled"): ("cancel", "cancelled", "canceled", "user_cancel", "user_cancelled", "userstopped"),
    Ending("failed"): (
        *("error", "errored", "failed", "failure", "exception", "abort", "aborted", "preempted", "preempt", "unload", "expired"),
        *("network_error", "server_error", "internal_error", "internal_server_error", "model_error", "error_limit"),
        *("upstream_error", "connection_error", "overloaded", "engine_overloaded", "server_overloaded", "tool_use_failed"),
        *("insufficient_system_resource", "unavailable", "modelunloaded", "no_kv_space", "rate_limit"),
        *("malformed_function_call", "malformed_tool_call", "malformed_tool_use", "malformed_model_output"),
        *("malformed_response", "unexpected_tool_call", "too_many_tool_calls", "missing_thought_signature"),
        *("invalid_tool_call", "invalid_function_call", "function_call_filter"),
    ),
}

CHAT = {name: each for each, names in _SORTS.items() for name in names}
"""finish_reason of a choice, of all whose servers speak Chat Completions: OpenAI, Azure, Gemini, Mistral, DeepSeek, GLM, Kimi,
Qwen, Cohere, Bedrock, watsonx, OpenRouter, LiteLLM, Vercel, vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp, LM Studio.

Calls that it leaves unanswered make a run of a completed one wait: `stop` is said of them too."""

ANTHROPIC = CHAT | {name: Ending("requires_action") for name in ("pause_turn", "compaction")}
"""stop_reason of a message, Anthropic's and of those who put other models behind its API. One that paused is to be sent again."""

RESPONSES = {name: Ending(name) for name in ("queued", "in_progress", "completed", "failed", "incomplete", "cancelled")} | {
    "canceled": Ending("cancelled"),
    "aborted": Ending("failed"),
    "error": Ending("failed"),
    "expired": Ending("failed"),
}
"""status of a response, OpenAI's and the words that others use for them."""

ASSISTANTS = frozenset(
    {"queued", "in_progress", "requires_action", "cancelling", "cancelled", "failed", "completed", "incomplete", "expired"}
)
"""status of a run."""
