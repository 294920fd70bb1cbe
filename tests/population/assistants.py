"""A turn as the Assistants API of OpenAI and of Azure tells it: a run, its steps, and a second stream where it waited."""

from __future__ import annotations

from tests.population.turn import QUESTION, Event, Exchange, Turn, Usage, finished, id_of, odd, pieces

_HOSTS = {
    0: ("contoso.openai.azure.com", "/openai", "api-version=2024-05-01-preview"),
    1: ("contoso.services.ai.azure.com", "/api/projects/harbour", "api-version=v1"),
}
_DONE: Event = ("done", "[DONE]")
_ARGUMENTS = ('{\\"place\\":', ' \\"Brest\\",', ' \\"days\\":', " 7}")
_WHOLE_ARGUMENTS = "".join(_ARGUMENTS)
_LOGS = "12.5\\n13.25\\n"
_OUTPUT = "high at 12:04, low at 18:11"
_INSTRUCTIONS = "You answer questions about harbours from the tables that you are given, and run code where that helps."
_TOOLS = (
    '[{"type":"code_interpreter"}]',
    '[{"type":"file_search","file_search":{"ranking_options":{"ranker":"default_2024_08_21","score_threshold":0.0}}}]',
    '[{"type":"function","function":{"name":"tide","description":"The tides of a place.","parameters":{"type":"object",'
    '"properties":{"place":{"type":"string"},"days":{"type":"integer"}},"required":["place"]},"strict":false}}]',
)
_CLOSING = {"failed": "failed", "incomplete": "completed", "cancelled": "cancelled", "expired": "expired"}
"""The run's status → that of the step that it ends."""


def exchanges(turn: Turn) -> list[Exchange]:
    told = _Told(turn)
    if turn.shape == "expired" and turn.tool == "function":
        asked = told.exchange(told.asked(), "done")
        return [asked, told.exchange([("$body", told.run("expired"))], "done", "", method="GET", wait_us=601_000_000)]
    if turn.tool != "function":
        return [told.ending(told.begun(), turn.size)]
    asked = told.exchange(told.asked(), "done")
    if turn.shape == "requires_action":
        return [asked]
    if turn.shape == "refused":
        refused = told.exchange([("$body", told.error())], "http_error", "/submit_tool_outputs", told.outputs())
        return [asked, refused._replace(status=400, wait_us=1_500_000)]
    call = f'[{{"id":"{told.call}","type":"function",{_function(_OUTPUT)}}}]'
    answered = [
        ("thread.run.step.completed", told.step("a", "completed", "tool_calls", call)),
        ("thread.run.queued", told.run("queued")),
        ("thread.run.in_progress", told.run("in_progress")),
    ]
    last = told.ending(answered, turn.size - len(asked.events) - 2)
    return [asked, last._replace(path=f"{asked.path}/{told.run_id}/submit_tool_outputs", body=told.outputs(), wait_us=1_500_000)]


class _Told:
    """What a turn's objects say again and again."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.run_id, self.call = id_of("run", turn.number), id_of("call", turn.number)
        self.message_id = id_of("msg", turn.number)
        self.of = f'"assistant_id":"{id_of("asst", turn.assistant)}","thread_id":"{turn.place}"'
        self.host, lead, self.query = _HOSTS[turn.assistant % 2] if turn.azure else ("api.openai.com", "/v1", "")
        self.path = f"{lead}/threads/{turn.place}/runs"

    def exchange(
        self,
        events: list[Event],
        outcome: str,
        below: str | None = None,
        body: str = "",
        method: str = "POST",
        wait_us: int = 0,
        silence_us: int = 0,
    ) -> Exchange:
        """below: what follows the run's id in the path; None where the run is made."""
        path = self.path if below is None else f"{self.path}/{self.run_id}{below}"
        if below is None:
            said = f'{{"role":"user","content":"{QUESTION}"}}'
            body = f'{{"assistant_id":"{id_of("asst", self.turn.assistant)}","additional_messages":[{said}],"stream":true}}'
        return Exchange(self.host, path, self.query, body, events, outcome, method=method, wait_us=wait_us, silence_us=silence_us)

    def outputs(self) -> str:
        return f'{{"tool_outputs":[{{"tool_call_id":"{self.call}","output":"{_OUTPUT}"}}],"stream":true}}'

    def begun(self) -> list[Event]:
        return [
            ("thread.run.created", self.run("queued")),
            ("thread.run.queued", self.run("queued")),
            ("thread.run.in_progress", self.run("in_progress")),
        ]

    def asked(self) -> list[Event]:
        """Up to where the run waits for the output of its call."""
        calls = f'[{{"id":"{self.call}","type":"function",{_function(None, final=True)}}}]'
        action = f'{{"type":"submit_tool_outputs","submit_tool_outputs":{{"tool_calls":{calls}}}}}'
        return [
            *self.begun(),
            *self.opened("a", "tool_calls"),
            *self.calls(f'"id":"{self.call}","type":"function",{_function(None, "")}'),
            *self.calls(*(f'"type":"function","function":{{"arguments":"{piece}"}}' for piece in _ARGUMENTS)),
            ("thread.run.requires_action", self.run("requires_action", action=action)),
            _DONE,
        ]

    def ending(self, before: list[Event], size: int) -> Exchange:
        """A stream of so many rows to the run's end: its tool, then its message."""
        turn, shape = self.turn, self.turn.shape
        events = [*before, *self.used(size)]
        named = len(before)
        events += self.opened("b", "message_creation")
        events += [(f"thread.message.{status}", self.message("in_progress", "[]")) for status in ("created", "in_progress")]
        first = len(events)
        said = pieces(turn.draw, max(3, size - first - 6))
        head = f'{{"id":"{self.message_id}","object":"thread.message.delta","delta":{{"content":[{{"index":0,"type":"text",'
        head += '"text":{"value":"'
        events += [("thread.message.delta", f'{head}{piece}"}}}}]}}}}') for piece in said]
        final = len(events)
        whole = f'[{{"type":"text","text":{{"value":"{"".join(said)}","annotations":[]}}}}]'
        if shape not in _CLOSING:
            status = "completed"
            events.append(("thread.message.completed", self.message("completed", whole)))
            events.append(("thread.run.step.completed", self.step("b", "completed", "message_creation")))
        else:
            status = shape
            if shape == "cancelled":
                events.append(("thread.run.cancelling", self.run("cancelling")))
            events.append(("thread.message.incomplete", self.message("incomplete", whole)))
            ended = _CLOSING[shape]
            events.append((f"thread.run.step.{ended}", self.step("b", ended, "message_creation")))
        events += [(f"thread.run.{status}", self.run(status)), _DONE]
        odd(turn, events, first, final)
        kept, outcome, silence_us = finished(turn, events, named, final, ("error", self.error()))
        return self.exchange(kept, outcome, silence_us=silence_us)

    def used(self, size: int) -> list[Event]:
        """The step of a tool that the server runs itself."""
        kind, call = self.turn.tool, f'"id":"{self.call}"'
        if kind == "code_interpreter":
            code = pieces(self.turn.draw + 1, max(2, (size - 20) // 4))
            input = f'"code_interpreter":{{"input":"{"".join(code)}","outputs":'
            failed = self.turn.shape == "tool_failed"
            outputs = "[]" if failed else f'[{{"type":"logs","logs":"{_LOGS}"}}]'
            ended = "failed" if failed else "completed"
            return [
                *self.opened("a", "tool_calls"),
                *self.calls(f'{call},"type":"{kind}","code_interpreter":{{"input":"","outputs":[]}}'),
                *self.calls(*(f'"type":"{kind}","code_interpreter":{{"input":"{piece}"}}' for piece in code)),
                (
                    f"thread.run.step.{ended}",
                    self.step("a", ended, "tool_calls", f'[{{{call},"type":"{kind}",{input}{outputs}}}}}]'),
                ),
            ]
        if kind == "file_search":
            found = '{"file_id":"file-A","file_name":"tides.md","score":0.8125,"content":[{"type":"text","text":"Springs."}]}'
            whole = f'[{{{call},"type":"{kind}","file_search":{{"results":[{found}]}}}}]'
            return [
                *self.opened("a", "tool_calls"),
                *self.calls(f'{call},"type":"{kind}","file_search":{{}}'),
                ("thread.run.step.completed", self.step("a", "completed", "tool_calls", whole)),
            ]
        if kind == "mcp":
            flat = f'{call},"type":"mcp","name":"search","server_label":"docs","arguments":'
            whole = f'[{{{flat}"{_WHOLE_ARGUMENTS}","output":"[]"}}]'
            return [
                *self.opened("a", "tool_calls"),
                *self.calls(f'{flat}""', *(f'{call},"type":"mcp","arguments":"{piece}"' for piece in _ARGUMENTS), type="mcp"),
                ("thread.run.step.completed", self.step("a", "completed", "tool_calls", whole)),
            ]
        return []

    def opened(self, letter: str, type: str) -> list[Event]:
        shown = self.step(letter, "in_progress", type)
        return [("thread.run.step.created", shown), ("thread.run.step.in_progress", shown)]

    def calls(self, *calls: str, type: str = "tool_calls") -> list[Event]:
        """A delta for each of these states of call 0."""
        head = f'{{"id":"step_a{self.run_id}","object":"thread.run.step.delta","delta":{{"step_details":{{"type":"{type}",'
        head += '"tool_calls":[{"index":0,'
        return [("thread.run.step.delta", f"{head}{call}}}]}}}}}}") for call in calls]

    def error(self) -> str:
        return f'{{"error":{{"type":"server_error","param":null,{self.turn.error}}}}}'

    def run(self, status: str, action: str = "null") -> str:
        turn = self.turn
        ends = status in ("completed", "failed", "incomplete", "cancelled", "expired") and turn.usage_source == "run"
        at = {"completed": "null", "failed": "null", "cancelled": "null"} | {status: str(turn.ended)}
        error = f"{{{turn.error}}}" if status == "failed" else "null"
        details = f'{{"reason":"{turn.code}"}}' if status == "incomplete" else "null"
        return (
            f'{{"id":"{self.run_id}","object":"thread.run","created_at":{turn.created},{self.of},"status":"{status}",'
            f'"started_at":{"null" if status == "queued" else turn.created + 1},"expires_at":{turn.created + 600},'
            f'"cancelled_at":{at["cancelled"]},"failed_at":{at["failed"]},"completed_at":{at["completed"]},'
            f'"required_action":{action},"last_error":{error},"model":"{turn.model}","instructions":"{_INSTRUCTIONS}",'
            f'"tools":{_TOOLS[turn.assistant % len(_TOOLS)]},"metadata":{{}},"temperature":1.0,"top_p":1.0,'
            f'"max_completion_tokens":null,"max_prompt_tokens":null,"truncation_strategy":{{"type":"auto","last_messages":null}},'
            f'"incomplete_details":{details},"usage":{_usage(turn.usage) if ends else "null"},"response_format":"auto",'
            f'"tool_choice":"auto","parallel_tool_calls":true}}'
        )

    def step(self, letter: str, status: str, type: str, calls: str = "[]") -> str:
        turn = self.turn
        own = calls if type == "tool_calls" else f'{{"message_id":"{self.message_id}"}}'
        at = {"completed": "null", "failed": "null", "cancelled": "null"} | {status: str(turn.created + 2)}
        error = f"{{{turn.error}}}" if status == "failed" else "null"
        own_usage = "null"
        if status == "completed" and turn.says_steps and turn.usage:
            first, rest = turn.usage.halved() if turn.tool else (None, turn.usage)
            own_usage = _usage(first if letter == "a" else rest)
        created = turn.created + (1 if letter == "a" else 2)
        return (
            f'{{"id":"step_{letter}{self.run_id}","object":"thread.run.step","created_at":{created},'
            f'"run_id":"{self.run_id}",{self.of},"type":"{type}","status":"{status}","cancelled_at":{at["cancelled"]},'
            f'"completed_at":{at["completed"]},"expires_at":{turn.created + 600},"failed_at":{at["failed"]},"last_error":{error},'
            f'"step_details":{{"type":"{type}","{type}":{own}}},"usage":{own_usage}}}'
        )

    def message(self, status: str, content: str) -> str:
        turn = self.turn
        reason = "max_tokens" if turn.shape == "incomplete" else f"run_{turn.shape}"
        details, at = (f'{{"reason":"{reason}"}}', turn.ended) if status == "incomplete" else ("null", "null")
        return (
            f'{{"id":"{self.message_id}","object":"thread.message","created_at":{turn.created + 2},{self.of},'
            f'"run_id":"{self.run_id}","status":"{status}","incomplete_details":{details},"incomplete_at":{at},'
            f'"completed_at":{turn.ended if status == "completed" else "null"},"role":"assistant","content":{content},'
            f'"attachments":[],"metadata":{{}}}}'
        )


def _function(output: str | None, arguments: str = _WHOLE_ARGUMENTS, final: bool = False) -> str:
    shown = "" if final else ',"output":null' if output is None else f',"output":"{output}"'
    return f'"function":{{"name":"tide","arguments":"{arguments}"{shown}}}'


def _usage(usage: Usage | None) -> str:
    if usage is None:
        return "null"
    cached = "" if usage.cached_tokens is None else f',"prompt_token_details":{{"cached_tokens":{usage.cached_tokens}}}'
    return (
        f'{{"prompt_tokens":{usage.prompt_tokens},"completion_tokens":{usage.completion_tokens},'
        f'"total_tokens":{usage.total_tokens}{cached}}}'
    )
