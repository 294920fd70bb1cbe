"""`recorder show ID`"""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from recorder import database, jsontext, queries
from recorder.cli.opening import json_option, opened
from recorder.cli.output import emit, say, table
from recorder.errors import UsageError
from recorder.steps import Message, Run, RunStep

_RUN_FACTS = (
    *("model", "assistant_id", "thread_id", "protocol"),
    *("last_error", "incomplete_details", "required_action", "usage"),
)


@click.command("show")
@click.argument("id")
@click.option(
    "--at",
    metavar="POSITION",
    help="As it stood after the event at this position. Of a run with several streams: STREAM:POSITION.",
)
@json_option
@click.pass_obj
def command(db: str, id: str, at: str | None, as_json: bool) -> None:
    """Show a stream, run, session or thread: an id, an unambiguous prefix of one, or `last`."""
    stream_prefix, _, position = at.rpartition(":") if at else ("", "", "")
    if at and not position.isdigit():
        raise UsageError(f"--at {at!r} is no position; write a number, or STREAM:NUMBER")
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        named = queries.resolve(connection, id)
        if named.kind == "stream":
            shown = queries.show_stream(connection, named.id, int(position) if at else None)
        elif named.kind == "run":
            shown = (
                queries.show_run_at(connection, named.id, stream_prefix or None, int(position))
                if at
                else queries.show_run(connection, named.id)
            )
        elif at:
            raise UsageError(f"--at is for a stream or a run; {named.id} is a {named.kind}")
        else:
            shown = queries.show_session(connection, named)
    if as_json:
        emit(shown)
    else:
        {"stream": _stream, "run": _run}.get(named.kind, _session)(shown)


def _facts(pairs: list[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        if value not in (None, "", [], {}):
            say(f"{name:<{width}}  {value if isinstance(value, str) else jsontext.dumps(value)}")


def _stream(shown: dict[str, Any]) -> None:
    target = shown["host"] + shown["path"] + (f"?{shown['query']}" if shown["query"] else "")
    names = ("stream_id", "session_id", "source", "started_at", "outcome", "protocol", "runs")
    facts = [("request", f"{shown['method']} {target}".strip()), *((name, shown[name]) for name in names)]
    _facts([*facts, ("anomalies", _counted(shown["anomalies"]))])
    click.echo()
    rows = [
        (event["position"], f"{event['offset_us'] / 1e6:.6f}", event["type"], event["data"][:500]) for event in shown["events"]
    ]
    table(rows, ("position", "seconds", "type", "data"), empty="no events")
    _anomalies(shown["anomalies"])


def _run(shown: dict[str, Any]) -> None:
    run = Run.of(shown)
    streams = [f"{entry['stream_id']} ({entry['outcome'] or 'open'}, {entry['events']} events)" for entry in shown["streams"]]
    facts = [("run", run.id), ("status", f"{run.status} ({run.state})"), *((name, shown.get(name)) for name in _RUN_FACTS)]
    _facts([*facts, ("streams", ", ".join(streams)), ("anomalies", _counted(shown["anomalies"]))])
    for object in shown["steps"]:
        step = RunStep.of(object)
        derived = f" (by its run: {object['derived_status']})" if "derived_status" in object else ""
        click.echo()
        say(f"step {step.id}  {step.type}  {step.status}{derived}")
        for call in step.tool_calls:
            say(f"  {call.type} {call.name or ''}".rstrip())
            _block("    ", call.arguments)
            _block("    → ", call.output)
            _block("    run ", call.child_run_id)
    for object in shown["messages"]:
        message = Message.of(object)
        click.echo()
        say(f"message {message.id}  {message.role}  {message.status}")
        _block("  ", message.text)
    _anomalies(shown["anomalies"])


def _block(lead: str, text: str | None) -> None:
    """Text of several lines, indented."""
    for number, line in enumerate((text or "").splitlines()):
        say((lead if number == 0 else " " * len(lead)) + line)


def _session(shown: dict[str, Any]) -> None:
    _facts([("session_id", shown["session_id"]), ("runs", shown["runs"]), ("anomalies", _counted(shown["anomalies"]))])
    click.echo()
    table(
        [(entry["stream_id"], entry["outcome"] or "open", entry["events"]) for entry in shown["streams"]],
        ("stream_id", "outcome", "events"),
    )
    _anomalies(shown["anomalies"])


def _counted(found: list[dict[str, Any]]) -> str:
    """`3 (delta_mismatch 2, gap 1)`"""
    kinds = Counter(entry["kind"] for entry in found)
    return f"{len(found)} ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if found else ""


def _anomalies(found: list[dict[str, Any]]) -> None:
    if found:
        click.echo()
    for entry in found:
        say(f"anomaly {entry['kind']}  {entry['stream_id']} at {entry['position']}: {entry['detail']}")
