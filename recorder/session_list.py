"""The list of sessions, in SQL that both databases read: it is asked so often that it must not wait for SQLAlchemy to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Ask = Callable[[str, Mapping[str, Any]], list[Mapping[str, Any]]]
"""Rows of a statement with :named parameters, by their columns' names. Times are given and come as the database has them."""

SESSION_FIELDS = (
    *("session_id", "label", "thread_id", "streams", "open_streams", "events", "runs", "failed", "unknown", "anomalies"),
    *("runs_without_usage", "prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens"),
    *("total_tokens", "runs_with_cost", "cost_nusd", "started_at", "last_started_at"),
)
"""The columns of `sessions`; a test holds the two together."""

_FIELDS = ", ".join(SESSION_FIELDS)
_LATEST_FIRST = "ORDER BY last_started_at DESC, session_id LIMIT"
_BY_START = "ORDER BY coalesce(created_at, observed_at), observed_at, run_id"

_LATEST = 1000
"""Sessions whose runs are looked at, one session after the other."""


def list_sessions(
    ask: Ask,
    *,
    failed: bool = False,
    since: Any = None,
    model: str | None = None,
    status: str | None = None,
    label: str | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Sessions, the latest first. since: as the database compares it; label: as it is indexed (schema.name).

    status: of one of their runs, or `unknown`; model likewise.
    """
    conditions = {"failed > 0": failed, "last_started_at >= :since": since is not None, "label = :label": label is not None}
    chosen = [condition for condition, applies in conditions.items() if applies]
    given = {"since": since, "label": label, "model": model, "status": status, "limit": limit}
    found: list[Mapping[str, Any]] = []
    if model is not None or status is not None:
        # Enough of the latest, if it is what many have. As an expression: by the index of a status SQLite would go through all
        # its runs, for every session.
        its = (
            f"EXISTS (SELECT 1 FROM runs WHERE runs.session_id = latest.session_id AND {condition})"
            for condition in _of_runs(model, status, "{} || ''")
        )
        latest = f"(SELECT {_FIELDS} FROM sessions{_where(chosen)} {_LATEST_FIRST} :latest) AS latest"
        given["latest"] = max(_LATEST, 10 * limit)
        found = ask(f"SELECT {_FIELDS} FROM {latest}{_where(its)} {_LATEST_FIRST} :limit", given)
        chosen += [f"session_id IN (SELECT session_id FROM runs WHERE {condition})" for condition in _of_runs(model, status)]
    if len(found) < limit:
        found = ask(f"SELECT {_FIELDS} FROM sessions{_where(chosen)} {_LATEST_FIRST} :limit", given)
    rows = [{name: _plain(name, value) for name, value in row.items()} for row in found]
    runs: dict[str, list[Mapping[str, Any]]] = {row["session_id"]: [] for row in rows}
    ids = list(runs)
    for at in range(0, len(ids), 5000):  # SQLite takes 32,766 parameters
        named = {f"s{number}": id for number, id in enumerate(ids[at : at + 5000])}
        within = ", ".join(f":{name}" for name in named)
        for run in ask(f"SELECT session_id, model, status, state FROM runs WHERE session_id IN ({within}) {_BY_START}", named):
            runs[run["session_id"]].append(run)
    for row in rows:
        ran = runs[row["session_id"]]
        row["models"] = sorted({run["model"] for run in ran if run["model"]})
        row["statuses"] = [run["status"] if run["state"] != "unknown" else "unknown" for run in ran]
    return rows


def _of_runs(model: str | None, status: str | None, column: str = "{}") -> list[str]:
    """What one of a session's runs is to be, and what one of them, maybe another. column: a name, or an expression of it."""
    wanted = [] if model is None else [f"{column.format('model')} = :model"]
    if status == "unknown":
        wanted.append(f"{column.format('state')} = 'unknown'")
    elif status is not None:
        wanted.append(f"{column.format('status')} = :status AND state <> 'unknown'")
    return wanted


def _where(conditions: Any) -> str:
    joined = " AND ".join(conditions)
    return f" WHERE {joined}" if joined else ""


def _plain(name: str, value: Any) -> Any:
    """A value for JSON; a time as ISO 8601 in UTC, which SQLite keeps as text."""
    if name not in ("started_at", "last_started_at"):
        return value
    at = datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
