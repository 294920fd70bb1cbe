"""A turn as the Responses API tells it: a response whose items are reasoning, tool calls and a message."""

from __future__ import annotations

from tests.population.turn import QUESTION, Event, Exchange, Turn, finished, id_of, odd, pieces

_ARGUMENTS = ('{\\"place\\":', ' \\"Brest\\",', ' \\"days\\":', " 7}")
_WHOLE_ARGUMENTS = "".join(_ARGUMENTS)
_OUTPUT = "high at 12:04, low at 18:11"
_THINKING = ("gpt-5", "gpt-5-mini", "o3")
_REASONS = {"max_completion_tokens": "max_output_tokens"}
"""The reason that a run gives → the one that a response does."""


def exchanges(turn: Turn) -> list[Exchange]:
    told = _Told(turn)
    told.begin()
    named = len(told.events)
    if turn.model in _THINKING:
        told.reasoning()
    told.tool()
    calls = turn.tool == "function"
    first = final = len(told.events)
    if not calls:
        first, final = told.message()
    status = turn.shape if turn.shape in ("failed", "incomplete", "cancelled") else "completed"
    told.add(f"response.{status}", told.response(status))
    if not calls:
        odd(turn, told.events, first, final)
    error = f'{{"type":"error",{turn.error},"param":null,"sequence_number":'
    events, outcome, silence_us = finished(turn, told.events, named, final, ("error", error))
    if outcome == "error":
        events[-1] = ("error", f"{error}{len(events) - 1}}}")
    host, path = ("contoso.openai.azure.com", "/openai/v1/responses") if turn.azure else ("api.openai.com", "/v1/responses")
    return [Exchange(host, path, "", _request(turn), events, outcome, silence_us=silence_us)]


def _request(turn: Turn) -> str:
    if turn.answers is None:
        given = f'[{{"role":"user","content":"{QUESTION}"}}]'
    else:
        given = f'[{{"type":"function_call_output","call_id":"{id_of("call", turn.answers)}","output":"{_OUTPUT}"}}]'
    return f'{{"model":"{turn.model}","stream":true,{_links(turn)},"input":{given}}}'


def _links(turn: Turn) -> str:
    if turn.place:
        return f'"conversation":{{"id":"{turn.place}"}}'
    return f'"previous_response_id":"{turn.previous}"' if turn.previous else '"previous_response_id":null'


class _Told:
    """The events so far, numbered by their sequence, and the final items."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.id = id_of("resp", turn.number)
        self.events: list[Event] = []
        self.output: list[str] = []

    def add(self, type: str, rest: str) -> None:
        self.events.append((type, f'{{"type":"{type}",{rest},"sequence_number":{len(self.events)}}}'))

    def begin(self) -> None:
        self.add("response.created", self.response("in_progress"))
        self.add("response.in_progress", self.response("in_progress"))

    def opened(self, prefix: str, item: str) -> str:
        """Add an item by its skeleton; what its events say of where it is."""
        id = f"{prefix}_{self.id[5:]}"
        self.add("response.output_item.added", f'"output_index":{len(self.output)},"item":{{"id":"{id}",{item}}}')
        return f'"output_index":{len(self.output)},"item_id":"{id}"'

    def closed(self, prefix: str, item: str) -> None:
        item = f'{{"id":"{prefix}_{self.id[5:]}",{item}}}'
        self.add("response.output_item.done", f'"output_index":{len(self.output)},"item":{item}')
        self.output.append(item)

    def reasoning(self) -> None:
        at = self.opened("rs", '"type":"reasoning","summary":[]')
        text = pieces(self.turn.draw + 2, 2)
        self.add("response.reasoning_summary_part.added", f'{at},"summary_index":0,"part":{{"type":"summary_text","text":""}}')
        for piece in text:
            self.add("response.reasoning_summary_text.delta", f'{at},"summary_index":0,"delta":"{piece}"')
        part = f'{{"type":"summary_text","text":"{"".join(text)}"}}'
        self.add("response.reasoning_summary_text.done", f'{at},"summary_index":0,"text":"{"".join(text)}"')
        self.add("response.reasoning_summary_part.done", f'{at},"summary_index":0,"part":{part}')
        self.closed("rs", f'"type":"reasoning","summary":[{part}],"encrypted_content":null,"status":"completed"')

    def tool(self) -> None:
        turn = self.turn
        if turn.tool == "function":
            call = f'"type":"function_call","call_id":"{id_of("call", turn.number)}","name":"tide"'
            at = self.opened("fc", f'{call},"arguments":"","status":"in_progress"')
            for piece in _ARGUMENTS:
                self.add("response.function_call_arguments.delta", f'{at},"delta":"{piece}"')
            self.add("response.function_call_arguments.done", f'{at},"arguments":"{_WHOLE_ARGUMENTS}"')
            self.closed("fc", f'{call},"arguments":"{_WHOLE_ARGUMENTS}","status":"completed"')
        elif turn.tool == "code_interpreter":
            call = '"type":"code_interpreter_call","container_id":"cntr_1"'
            at = self.opened("ci", f'{call},"code":"","outputs":null,"status":"in_progress"')
            code = pieces(turn.draw + 1, max(2, (turn.size - 24) // 4))
            self.add("response.code_interpreter_call.in_progress", at)
            for piece in code:
                self.add("response.code_interpreter_call_code.delta", f'{at},"delta":"{piece}"')
            self.add("response.code_interpreter_call_code.done", f'{at},"code":"{"".join(code)}"')
            self.add("response.code_interpreter_call.interpreting", at)
            self.add("response.code_interpreter_call.completed", at)
            logs = '[{"type":"logs","logs":"12.5\\n"}]'
            self.closed("ci", f'{call},"code":"{"".join(code)}","outputs":{logs},"status":"completed"')
        elif turn.tool == "file_search":
            at = self.opened("fs", '"type":"file_search_call","status":"in_progress","queries":[],"results":null')
            for status in ("in_progress", "searching", "completed"):
                self.add(f"response.file_search_call.{status}", at)
            self.closed("fs", '"type":"file_search_call","status":"completed","queries":["tides of Brest"],"results":null')
        elif turn.tool == "mcp":
            self._mcp(turn.shape == "tool_failed")

    def _mcp(self, failed: bool) -> None:
        call = '"type":"mcp_call","server_label":"harbours","name":"tide","approval_request_id":null'
        at = self.opened("mcp", f'{call},"arguments":"","output":null,"error":null')
        self.add("response.mcp_call.in_progress", at)
        for piece in _ARGUMENTS:
            self.add("response.mcp_call_arguments.delta", f'{at},"delta":"{piece}"')
        self.add("response.mcp_call_arguments.done", f'{at},"arguments":"{_WHOLE_ARGUMENTS}"')
        self.add(f"response.mcp_call.{'failed' if failed else 'completed'}", at)
        output = "null" if failed else f'"{_OUTPUT}"'
        error = '{"type":"http_error","code":503,"message":"harbours is away"}' if failed else "null"
        self.closed("mcp", f'{call},"arguments":"{_WHOLE_ARGUMENTS}","output":{output},"error":{error}')

    def message(self) -> tuple[int, int]:
        """The message, and its end where the run comes to one; the positions of its deltas."""
        turn = self.turn
        at = self.opened("msg", '"type":"message","status":"in_progress","content":[],"role":"assistant"')
        at += ',"content_index":0'
        part = '{"type":"output_text","annotations":[],"logprobs":[],"text":"'
        self.add("response.content_part.added", f'{at},"part":{part}"}}')
        first = len(self.events)
        said = pieces(turn.draw, max(3, turn.size - first - 6))
        head = f'{{"type":"response.output_text.delta",{at},"delta":"'
        self.events += [
            ("response.output_text.delta", f'{head}{piece}","logprobs":[],"obfuscation":"aZ3","sequence_number":{number}}}')
            for number, piece in enumerate(said, first)
        ]
        final = len(self.events)
        if turn.shape != "failed":
            text = "".join(said)
            ends = "incomplete" if turn.shape in ("incomplete", "cancelled") else "completed"
            self.add("response.output_text.done", f'{at},"text":"{text}","logprobs":[]')
            self.add("response.content_part.done", f'{at},"part":{part}{text}"}}')
            self.closed("msg", f'"type":"message","status":"{ends}","content":[{part}{text}"}}],"role":"assistant"')
        return first, final

    def response(self, status: str) -> str:
        turn = self.turn
        error = f"{{{turn.error}}}" if status == "failed" else "null"
        output = "" if status in ("in_progress", "failed") else ",".join(self.output)
        details = f'{{"reason":"{_REASONS.get(turn.code, turn.code)}"}}' if status == "incomplete" else "null"
        return (
            f'"response":{{"id":"{self.id}","object":"response","created_at":{turn.created},"status":"{status}",'
            f'"background":false,"completed_at":{turn.ended if status == "completed" else "null"},"error":{error},'
            f'"incomplete_details":{details},"instructions":null,"max_output_tokens":null,"model":"{turn.model}",'
            f'"output":[{output}],"parallel_tool_calls":true,{_links(turn)},'
            f'"prompt":{{"id":"{id_of("pmpt", turn.assistant)}","version":"2"}},"reasoning":{{"effort":null,"summary":null}},'
            f'"store":true,"temperature":1.0,"text":{{"format":{{"type":"text"}},"verbosity":"medium"}},"tool_choice":"auto",'
            f'"tools":[],"top_p":1.0,"truncation":"disabled","usage":{self._usage() if status != "in_progress" else "null"},'
            f'"metadata":{{}}}}'
        )

    def _usage(self) -> str:
        usage = self.turn.usage
        if usage is None:
            return "null"
        cached = "" if usage.cached_tokens is None else f'"input_tokens_details":{{"cached_tokens":{usage.cached_tokens}}},'
        thought = usage.reasoning_tokens
        reasoning = "" if thought is None else f'"output_tokens_details":{{"reasoning_tokens":{thought}}},'
        return (
            f'{{"input_tokens":{usage.prompt_tokens},{cached}"output_tokens":{usage.completion_tokens},'
            f'{reasoning}"total_tokens":{usage.total_tokens}}}'
        )
