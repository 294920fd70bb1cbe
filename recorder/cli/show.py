"""`recorder show ID`"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from recorder import database, jsontext, queries
from recorder.cli import charts
from recorder.cli.columns import Column
from recorder.cli.opening import opened
from recorder.cli.output import (
    cells,
    csv_option,
    draw,
    echo,
    emitted,
    is_screen,
    json_option,
    listing,
    printable,
    shortened,
    status_style,
    table,
    width,
    wrapped,
)
from recorder.errors import UsageError
from recorder.steps import Message, Run, RunStep
from recorder.transcript import Line, transcript

_RUN_FACTS = (
    *("model", "assistant_id", "thread_id", "protocol"),
    *("last_error", "incomplete_details", "required_action", "usage"),
)
_EVENT_FIELDS = ("position", "offset_us", "type", "data", "cuts")
_STREAM_COLUMNS = (
    Column("stream_id", "stream", least=20),
    Column("outcome", style=status_style),
    Column("events"),
)


@click.command("show")
@click.argument("id")
@click.option(
    "--at",
    metavar="POSITION",
    help="As it stood after the event at this position. Of a run with several streams: STREAM:POSITION.",
)
@click.option("--events", is_flag=True, help="Of a stream: each event by itself, with the beginning of its data.")
@json_option
@csv_option
@click.pass_obj
def command(db: str, id: str, at: str | None, events: bool, as_json: bool, as_csv: str | None) -> None:
    """Show a stream, run, session or thread: an id, an unambiguous prefix of one, or `last`."""
    stream_prefix, _, position = at.rpartition(":") if at else ("", "", "")
    if at and not position.isdigit():
        raise UsageError(f"--at {at!r} is no position; write a number, or STREAM:NUMBER")
    spans: charts.Timeline = ([], None)
    with opened(db, fresh=True) as engine, database.read(engine) as connection:
        named = queries.resolve(connection, id)
        if events and named.kind != "stream":
            raise UsageError(f"--events is for a stream; {named.id} is a {named.kind}")
        if named.kind == "stream":
            shown = queries.show_stream(connection, named.id, int(position) if at else None)
        elif named.kind == "run" and as_csv:
            raise UsageError(f"--csv is for a stream or a session; {named.id} is a run, which --json has whole")
        elif named.kind == "run":
            shown = (
                queries.show_run_at(connection, named.id, stream_prefix or None, int(position))
                if at
                else queries.show_run(connection, named.id)
            )
            if not at and not as_json:
                spans = queries.timeline(connection, named.id)
        elif at:
            raise UsageError(f"--at is for a stream or a run; {named.id} is a {named.kind}")
        else:
            shown = queries.show_session(connection, named)
    rows, fields = (
        (shown.get("events", []), _EVENT_FIELDS)
        if named.kind == "stream"
        else (shown["streams"], [column.name for column in _STREAM_COLUMNS])
    )
    if emitted(shown, rows, fields, as_json, as_csv):
        return
    if named.kind == "stream":
        _stream(shown, events)
    elif named.kind == "run":
        _run(shown, spans)
    else:
        _session(shown)


def _facts(pairs: list[tuple[str, Any]]) -> None:
    """Names and values. One that is (value, style) is coloured."""
    wide = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        value, style = value if isinstance(value, tuple) else (value, "")
        if value not in (None, "", [], {}):
            _block(f"{name:<{wide}}  ", value if isinstance(value, str) else jsontext.dumps(value), style)


def _stream(shown: dict[str, Any], as_events: bool) -> None:
    target = shown["host"] + shown["path"] + (f"?{shown['query']}" if shown["query"] else "")
    names = ("stream_id", "session_id", "source", "started_at", "outcome", "protocol", "runs")
    facts = [("request", f"{shown['method']} {target}".strip()), *((name, shown[name]) for name in names)]
    _facts([*facts, ("anomalies", _counted(shown["anomalies"]))])
    echo()
    if as_events:
        rows = [
            (event["position"], f"{event['offset_us'] / 1e6:.6f}", event["type"], event["data"][:500])
            for event in shown["events"]
        ]
        table(rows, ("position", "seconds", "type", "data"), empty="no events")
    else:
        draw(_transcript(shown))
    _anomalies(shown["anomalies"])


def _transcript(shown: dict[str, Any]) -> Iterator[charts.Line]:
    """The lines of a transcript: position, time, what came, and what it says; below where what came is too long for that."""
    events = [(event["position"], event["offset_us"], event["type"], event["data"]) for event in shown["events"]]
    of_position = len(str(events[-1][0])) if events else 1
    of_what = 30 if is_screen() and width() < 120 else 46
    for line in transcript(shown["protocol"], events):
        when = f"{line.position:>{of_position}} {line.offset_us / 1e6:>9.3f}s  "
        if line.silence_us:
            yield [(f"{'':{len(when)}}· {line.silence_us / 1e6:,.1f} s of silence ·", "dim")]
            continue
        what = printable(line.type) + (f" \N{MULTIPLICATION SIGN}{line.events:,}" if line.kind and line.events > 1 else "")
        if is_screen() and cells(what) > (room := width() - len(when)):
            what = shortened(what, room)
        text = _text(line, len(when) + of_what)
        style = status_style(line.text.partition(" ")[0]) if line.type == "$end" else ""
        if text and cells(what) <= of_what - 2:
            yield [(when, "dim"), (what + " " * (of_what - cells(what)), ""), (text.pop(0), style)]
        else:
            yield [(when, "dim"), (what, "")]
        yield from ([(" " * (len(when) + of_what) if more else "", ""), (more, style)] for more in text)


def _text(line: Line, used: int) -> list[str]:
    """What a line says, as the lines that it takes beside what is used: an event that is no text and no error takes one."""
    if is_screen() and not line.kind and not line.is_wrong:
        room = max(width() - used, 1)
        return [shortened(printable(line.text), room).rstrip()] if line.text else []
    between = "\n" if "\n" in line.text else " "
    said = f"{line.name}{between}{line.text}" if line.name else line.text
    return [part for given in said.splitlines() for part in _fold(printable(given), used)]


def _fold(text: str, used: int) -> list[str]:
    """A line of text as those that the terminal has room for beside what is used; in a pipe as it is."""
    return wrapped(text, max(width() - used, 20)) if is_screen() else [text]


def _run(shown: dict[str, Any], spans: charts.Timeline) -> None:
    run = Run.of(shown)
    streams = [f"{entry['stream_id']} ({entry['outcome'] or 'open'}, {entry['events']} events)" for entry in shown["streams"]]
    status = (f"{run.status} ({run.state})", status_style("unknown" if run.state == "unknown" else run.status))
    facts = [("run", run.id), ("status", status), *((name, shown.get(name)) for name in _RUN_FACTS)]
    _facts([*facts, ("streams", ", ".join(streams)), ("anomalies", _counted(shown["anomalies"]))])
    steps, duration_us = spans
    if lines := charts.waterfall(steps, duration_us, width()):
        echo()
        draw(lines)
    for object in shown["steps"]:
        step = RunStep.of(object)
        derived = f" (by its run: {object['derived_status']})" if "derived_status" in object else ""
        echo()
        _block(
            "", f"step {step.id}  {step.type}  {step.status}{derived}", status_style(object.get("derived_status", step.status))
        )
        for call in step.tool_calls:
            _block("  ", f"{call.type} {call.name or ''}".rstrip())
            _block("    ", call.arguments)
            _block("    → ", call.output)
            _block("    run ", call.child_run_id)
    for object in shown["messages"]:
        message = Message.of(object)
        echo()
        _block("", f"message {message.id}  {message.role}  {message.status}", status_style(message.status))
        _block("  ", message.text)
    _anomalies(shown["anomalies"])


def _block(lead: str, text: str | None, style: str = "") -> None:
    """Text after what leads it, of as many lines as it needs, each as far in."""
    lines = [part for given in (text or "").splitlines() for part in _fold(printable(given), len(lead))]
    draw([[(lead if number == 0 else " " * len(lead) if line else "", ""), (line, style)] for number, line in enumerate(lines)])


def _session(shown: dict[str, Any]) -> None:
    _facts([("session_id", shown["session_id"]), ("runs", shown["runs"]), ("anomalies", _counted(shown["anomalies"]))])
    echo()
    listing([{**entry, "outcome": entry["outcome"] or "open"} for entry in shown["streams"]], _STREAM_COLUMNS)
    _anomalies(shown["anomalies"])


def _counted(found: list[dict[str, Any]]) -> str:
    """`3 (delta_mismatch 2, gap 1)`"""
    kinds = Counter(entry["kind"] for entry in found)
    return f"{len(found)} ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if found else ""


def _anomalies(found: list[dict[str, Any]]) -> None:
    if found:
        echo()
    for entry in found:
        _block("", f"anomaly {entry['kind']}  {entry['stream_id']} at {entry['position']}: {entry['detail']}")
