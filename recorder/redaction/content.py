"""What of an event or a body is no content: types, ids, roles, statuses, names of functions and models, numbers that count.

An allow-list: with content off, every other string and number is blanked. What is kept looks like a name, too: a text with
spaces under `status` is none. Below the members that carry whatever a user or a model put there, nothing is kept.
"""

from __future__ import annotations

import re

from recorder.redaction.leaves import Leaf, Node

NAMES = frozenset(
    {
        *("id", "object", "type", "status", "role", "model", "event", "provider"),
        *("finish_reason", "native_finish_reason", "stop_reason", "severity", "phase", "execution"),
        *("service_tier", "system_fingerprint", "server_label", "effort", "verbosity", "truncation"),
        *("tool_choice", "parallel_tool_calls", "response_format", "require_approval", "modalities", "include"),
        *("created", "timestamp"),
    }
)
"""Members whose strings stay, wherever they stand."""

_NAME_ENDS = ("_id", "_ids", "_at")

_NAMES_WITHIN = {
    "code": frozenset({"error", "last_error"}),
    "type": frozenset({"error", "last_error"}),
    "reason": frozenset({"incomplete_details"}),
    "name": frozenset({"function", "functions", "function_call", "custom", "tools", "tool_calls", "tool_choice"})
    | {"openapi", "azure_function", "connected_agent"},
}
"""Members whose strings stay within an object of such a name."""

_NAMES_OF = {
    "name": re.compile(r"function|tool|mcp"),
    "code": re.compile(r"error"),
}
"""Members whose strings stay in an object of such a type, or with such a role."""

NUMBERS = frozenset(
    {
        *("created", "index", "n", "status", "status_code", "code", "temperature", "top_p", "retry"),
        *("presence_penalty", "frequency_penalty", "max_tokens", "num_requests", "sequence_number"),
    }
)
"""Members whose numbers stay."""

_NUMBER_ENDS = ("_at", "_index", "_tokens", "_ms", "_number", "_count", "_time", "_seconds", "_offset")

_COUNTING = frozenset({"usage", "timings", "latency_checkpoint"})
"""Objects all of whose numbers stay."""

OPAQUE = frozenset(
    {
        *("arguments", "input", "output", "result", "results", "structured_content", "env", "action"),
        *("metadata", "client_metadata", "attributes", "variables", "filters", "logit_bias", "user_location"),
        *("parameters", "properties", "schema", "input_schema", "json_schema", "definitions", "$defs"),
    }
)
"""Members below which nothing stays."""

_ITEMS = frozenset({"input", "output", "result", "results"})
"""Of these, lists have items of the API in them, and only an object is a user's own."""

_NAME = re.compile(r"[A-Za-z0-9_.:/@+\-=|~]{0,256}")


def is_name(text: str) -> bool:
    """Whether this looks like a name or an id, as a text does not."""
    return _NAME.fullmatch(text) is not None


def is_kept(leaf: Leaf, raw: str) -> bool:
    """Whether a leaf stays as it is with content off. raw: its text."""
    if _is_opaque(leaf.node):
        return False
    name = leaf.name
    if leaf.is_number:
        return name in NUMBERS or name.endswith(_NUMBER_ENDS) or _counts(leaf.node)
    if not leaf.whole or not is_name(raw):
        return False
    if name in NAMES or name.endswith(_NAME_ENDS):
        return True
    node = leaf.node
    if node.name in _NAMES_WITHIN.get(name, ()):
        return True
    kinds = _NAMES_OF.get(name)
    return kinds is not None and any(kinds.search(node.facts.get(fact, "")) for fact in ("type", "role"))


def _counts(node: Node) -> bool:
    return node.name in _COUNTING or (node.parent is not None and node.parent.name in _COUNTING)


def _is_opaque(node: Node) -> bool:
    """Whether it is below an opaque object. Not recursive: JSON may be nested as deep as its text is long."""
    unknown: list[Node] = []
    at: Node | None = node
    while at is not None and at.opaque is None:
        unknown.append(at)
        at = at.parent
    opaque = at is not None and bool(at.opaque)
    for inner in reversed(unknown):
        opaque = opaque or (inner.key in OPAQUE and not (inner.is_list and inner.key in _ITEMS))
        inner.opaque = opaque
    return opaque
