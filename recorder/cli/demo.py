"""`recorder demo`"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from recorder.cli import cli
from recorder.cli.output import echo, emit, printable, table
from recorder.cli.parameters import Finite
from recorder.demo import proof, recording, stage
from recorder.demo.recording import Growth, Recorded
from recorder.demo.sessions import ABOUT
from recorder.demo.shell import Server, Shell
from recorder.errors import RecorderError
from recorder.sse import SSEDecoder

_RUNS = """\
SELECT session_id, status, state, streams, steps, total_tokens, first_delta_us / 1000 AS first_delta_ms
FROM runs ORDER BY session_id"""

_CALLS = """\
SELECT session_id, name, arguments, output
FROM tool_calls JOIN runs USING (run_id) WHERE type = 'function' ORDER BY ordinal"""

_USAGE = """\
SELECT model, count(*) AS runs, count(*) - count(usage) AS runs_without_usage, sum(prompt_tokens) AS prompt_tokens,
       sum(completion_tokens) AS completion_tokens, sum(total_tokens) AS total_tokens
FROM runs GROUP BY model"""

_FAILURES = """\
SELECT run_id, kind, code, message
FROM v_failures ORDER BY at DESC"""

_UNKNOWN = ("ls", "--status", "unknown")
_COUNTERS = ("prompt_tokens", "completion_tokens", "total_tokens")


@click.command("demo")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the database in this folder, to try the commands on it.",
)
@click.option(
    "--speed",
    type=Finite(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="N",
    help="N times the pace at which the sessions were recorded.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; the story goes to stderr.")
def command(keep: Path | None, speed: float, as_json: bool) -> None:
    """See the whole job in half a minute: record, ask, replay, verify.

    No key and no network: four recorded sessions of the Assistants API are served on this machine, four programs have them
    through the recording proxy, and what they received is held against what comes back. It has a database of its own. Exit 1
    if anything differs.
    """
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout), stage.terminable(), stage.folder(keep) as folder:
        story = _Story(folder, speed)
        story.tell()
        if keep:
            story.say(f"\nThe database is kept. Try, among others:\n{story.kept()}")
    if as_json:
        emit({"database": story.url if keep else None, **story.facts, "problems": story.problems})
    if story.problems:
        raise RecorderError(f"this did not hold: {'; '.join(story.problems)}")


class _Story:
    """The demo as it is told. facts: what --json prints. problems: what should have held and did not."""

    def __init__(self, folder: Path, speed: float) -> None:
        self.facts: dict[str, Any] = {}
        self.problems: list[str] = []
        self._folder = folder
        self._speed = speed
        self.url = f"sqlite:///{(folder / stage.DATABASE).absolute()}"
        self._shell = Shell(self.url, cli)

    def tell(self) -> None:
        began = time.perf_counter()
        self.say("Four programs use an LLM; recorder records what it streams to them, answers questions, and replays it.")
        recorded = self._record()
        self._heading("Ask: runs, in SQL")
        self.say("Events are folded into runs, steps, tool calls and messages: tables like any others.")
        self._ask("sql", _RUNS)
        runs = {name: self._shell.ask("show", one.run_id) for name, one in recorded.conversations.items()}
        self._runs(recorded, runs)
        self._two_streams(recorded, runs["order"])
        self._questions(recorded, runs)
        self._cut(recorded, runs["dropped"])
        self._bytes(recorded, runs)
        self._replay(recorded)
        self._verify()
        self.facts["seconds"] = round(time.perf_counter() - began, 1)
        if not self.problems:
            self.say(f"\nAll of it held. The demo took {self.facts['seconds']:.0f} s.")

    def say(self, text: str = "", **style: Any) -> None:
        """A line of the story; its style shows on a terminal."""
        echo(click.style(text, **style) if style and sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text)

    def kept(self) -> str:
        """Commands to try on the database."""
        lines = (("ls",), ("show", "order"), ("tail", "dropped"), ("replay", "chart"), ("export", "chart", "--format", "sse"))
        return "\n".join(f"  {self._shell.line(*args)}" for args in lines)

    def _record(self) -> Recorded:
        self._heading("Record")

        def begun(upstream: Server, proxy: Server) -> None:
            self.say(f"`recorder serve` replays four sessions of the Assistants API on {upstream.origin}. In front of it:")
            self._line(*proxy.args)
            self.say(f"The programs have {proxy.origin}/v1 as their base URL. Nothing else in them knows of the recorder.")
            for name, about in ABOUT.items():
                self.say(f"  {name:<8} {about}")
            self.say("\nThe event log, as another process sees it grow: events so far, and the newest.")
            self.say("  seconds  " + "".join(f"{name:>8}" for name in ABOUT))

        recorded = recording.record(self._shell, self._speed, begun, self._grown)
        for name, conversation in recorded.conversations.items():
            ending = f"the connection broke: {conversation.error}" if conversation.error else conversation.status
            self.say(f"  the program {name} saw: {ending}")
        return recorded

    def _grown(self, growth: Growth) -> None:
        counts = "".join(f"{count:>8}" for count in growth.counts.values())
        newest = ""
        if growth.newest:
            name, event = growth.newest
            newest = printable(f"{name}: {event.type}  {event.data if len(event.data) < 32 else '…' + event.data[-30:]}")
        self.say(f"  {growth.seconds:7.1f}  {counts}   {newest}")

    def _runs(self, recorded: Recorded, runs: dict[str, dict[str, Any]]) -> None:
        counted = self._shell.ask("sql", _RUNS)
        self.facts["runs"] = [{"run_id": runs[row["session_id"]]["id"], **row} for row in counted]
        self._hold("four runs were recorded", [row["session_id"] for row in counted] == sorted(ABOUT))
        for name, conversation in recorded.conversations.items():
            said = "".join(_text(message) for message in runs[name]["messages"])
            self._hold(f"{name}: the recorded status is what the program saw", runs[name]["status"] == conversation.status)
            self._hold(f"{name}: the recorded answer is what the program read", said == conversation.answer != "")

    def _two_streams(self, recorded: Recorded, run: dict[str, Any]) -> None:
        self._heading("One run, two streams")
        self.say("The run order stopped for its program to call two functions, and went on in the answer to another request.")
        self.say("The recorder has put both streams together: one run, with what the functions returned.")
        self._ask("show", run["id"])
        self._ask("sql", _CALLS)
        calls = [call for step in run["steps"] for call in step["step_details"].get("tool_calls", ())]
        outputs = {call["id"]: call["function"]["output"] for call in calls}
        self.facts["one_run"] = {"run_id": run["id"], "streams": run["streams"], "outputs": outputs}
        self._hold("one run over two streams", len(run["streams"]) == 2 and run["status"] == "completed")
        self._hold("both tool outputs are in it", outputs == recorded.conversations["order"].outputs and len(outputs) == 2)

    def _questions(self, recorded: Recorded, runs: dict[str, dict[str, Any]]) -> None:
        self._heading("Ask: tokens and failures")
        usage = self._twice("usage", "--by", "model", sql=_USAGE)
        used = [one.usage for one in recorded.conversations.values() if one.usage]
        self._hold("the tokens are those that the programs were told", _sum(usage) == _sum(used) and _sum(used)[2] > 0)
        self._hold("the run without usage is counted apart", sum(row["runs_without_usage"] for row in usage) == 1)
        failures = self._twice("failures", sql=_FAILURES)
        failed = {(row["run_id"], row["status"], row["kind"], row["code"]) for row in failures}
        limited = (runs["limited"]["id"], "failed", "failed", "rate_limit_exceeded")
        dropped = (runs["dropped"]["id"], "unknown", "cut", "cut")
        self._hold("one failed, and one was cut off", failed == {limited, dropped})
        self.facts.update(usage=usage, failures=failures)

    def _cut(self, recorded: Recorded, run: dict[str, Any]) -> None:
        self._heading("Cut off: unknown, not failed")
        self.say("The connection of dropped broke in the middle of an event. Whether its run ever ended nobody knows, so it is")
        self.say("unknown. Every byte that came is kept: after the last whole event the tail of the one that was broken.")
        self._ask("tail", "-n", "3", "dropped")
        self._ask(*_UNKNOWN)
        unknown = self._shell.ask(*_UNKNOWN)
        self.facts["unknown"] = [row["session_id"] for row in unknown]
        self._hold("the run that was cut is unknown", run["state"] == "unknown" and self.facts["unknown"] == ["dropped"])
        self._hold("its stream is cut", [stream["outcome"] for stream in run["streams"]] == ["cut"])
        self._hold("its program saw the break", recorded.conversations["dropped"].error is not None)

    def _bytes(self, recorded: Recorded, runs: dict[str, dict[str, Any]]) -> None:
        self._heading("The same bytes")
        self.say("What the upstream sent, what each program received, what `export` and what `replay` give back:")
        self._line("export", "STREAM", "--format", "sse")
        self._line("replay", "STREAM", "--instant")
        found = proof.copies(self._shell, recorded, runs)
        self.facts["streams"] = [each.facts() for each in found]
        rows = []
        for each, facts in zip(found, self.facts["streams"], strict=True):
            lengths = [facts[end]["bytes"] for end in ("sent", "received", "exported", "replayed")]
            digests = {facts[end]["sha256"][:12] for end in ("sent", "received", "exported", "replayed")}
            rows.append((each.name, *lengths, ", ".join(sorted(digests)), "identical" if each.identical else "DIFFERENT"))
            self._hold(f"{each.name} {each.path}: the same bytes everywhere", each.identical and bool(each.received))
        table(rows, ("stream", "sent", "received", "exported", "replayed", "sha256", ""))
        self.facts["identical"] = all(each.identical for each in found)
        self.facts["key_recorded"] = proof.holds_key(self._folder)
        self._hold("the programs' API key is nowhere in the database", not self.facts["key_recorded"])
        if not self.facts["key_recorded"]:
            self.say("The API key that the programs sent is nowhere in the database's files.")

    def _replay(self, recorded: Recorded) -> None:
        self._heading("Replay")
        self.say("The session chart again, in its own time, out of the log. (Its events; here, what they say.)")
        original = recorded.conversations["chart"].exchanges[0].chunks
        self.facts["replays"] = []
        for speed in (1, 10):
            args = ("replay", "chart", *(("--speed", str(speed)) if speed != 1 else ()))
            self._line(*args)
            chunks = self._shell.timed(*args, each=_Speaker() if speed == 1 else None)
            pace = proof.pace(original, chunks, speed)
            same = b"".join(chunk for _, chunk in chunks) == b"".join(chunk for _, chunk in original)
            self.say(
                f"{pace.replayed:.2f} s from the first byte to the last, {pace.original:.2f} s when it was recorded; no chunk was"
                f" more than {pace.deviation * 1000:.0f} ms off; the bytes are {'the same' if same else 'DIFFERENT'}."
            )
            self._hold(f"a replay at {speed}x takes {pace.original / speed:.2f} s and gives the same bytes", same and pace.held)
            seconds = {"original_seconds": pace.original, "seconds": pace.replayed, "largest_deviation_seconds": pace.deviation}
            self.facts["replays"].append({"speed": speed, "identical": same, **seconds})

    def _verify(self) -> None:
        self._heading("Verify")
        self.say("Every event against its checksum, and every table against one made anew from the log:")
        self._line("verify")
        self.facts["verify"] = report = self._shell.ask("verify")
        self.say(
            f"{report['streams']} streams, {report['events']} events, {report['runs']} runs: {len(report['problems'])} problems"
        )
        self.problems += [f"verify: {problem}" for problem in report["problems"]]

    def _heading(self, text: str) -> None:
        self.say(f"\n{text}\n", bold=True)

    def _line(self, *args: str) -> None:
        self.say("$ " + self._shell.line(*args), fg="cyan")

    def _ask(self, *args: str) -> None:
        """Show a command and its answer."""
        self._line(*args)
        self._shell.show(*args)
        self.say()

    def _twice(self, *args: str, sql: str) -> list[dict[str, Any]]:
        """Ask by a command, and the same in SQL, which must say the same; the command's answer."""
        self._ask(*args)
        self.say("The same in SQL:")
        self._ask("sql", sql)
        rows: list[dict[str, Any]] = self._shell.ask(*args)
        in_sql = self._shell.ask("sql", sql)
        same = [{key: row[key] for key in row if key in plain} for row, plain in zip(rows, in_sql, strict=False)] == in_sql
        self._hold(f"`{args[0]}` and SQL agree", same and len(rows) == len(in_sql))
        return rows

    def _hold(self, claim: str, held: bool) -> None:
        if not held:
            self.problems.append(claim)


class _Speaker:
    """Prints what the events of a stream say as they come: code, its output, text."""

    def __init__(self) -> None:
        self._decoder = SSEDecoder()

    def __call__(self, chunk: bytes) -> None:
        for frame in self._decoder.feed(chunk, 0):
            if frame.type.endswith(".delta"):
                echo(_said(json.loads(frame.data)["delta"]), end="")
            elif frame.type.endswith(".step.completed"):
                echo()


def _said(delta: dict[str, Any]) -> str:
    """What a delta of a step or message adds."""
    said = [part["text"]["value"] for part in delta.get("content", ())]
    for call in delta.get("step_details", {}).get("tool_calls", ()):
        ran = call["code_interpreter"]
        said += [ran.get("input", ""), *("\n" + output["logs"] for output in ran.get("outputs", ()))]
    return "".join(said)


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"]["value"] for part in message["content"])


def _sum(usages: Iterable[dict[str, Any]]) -> tuple[int, int, int]:
    held = list(usages)
    prompt, completion, total = (sum(one[key] or 0 for one in held) for key in _COUNTERS)
    return prompt, completion, total
