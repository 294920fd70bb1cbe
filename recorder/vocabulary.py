"""The API's words that folds go by: which statuses are ends, and which strings deltas extend."""

from __future__ import annotations

RUN_TERMINAL = frozenset({"completed", "failed", "cancelled", "expired", "incomplete"})
STEP_TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})
MESSAGE_TERMINAL = frozenset({"completed", "incomplete"})

STREAMED = frozenset(
    {
        ("text", "value"),
        ("content", "refusal"),
        ("function", "arguments"),
        ("code_interpreter", "input"),
        ("outputs", "logs"),
        ("tool_calls", "arguments"),  # Azure's mcp calls are flat
    }
)
"""(parent key, key) of the strings that deltas extend."""
