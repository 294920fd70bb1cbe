"""A turn as Chat Completions tells it: chunks of one choice."""

from __future__ import annotations

from tests.population.turn import QUESTION, Event, Exchange, Turn, finished, id_of, odd, pieces

_ARGUMENTS = ('{\\"place\\":', ' \\"Brest\\",', ' \\"days\\":', " 7}")
_OUTPUT = "high at 12:04, low at 18:11"
_FINISHED = {"max_completion_tokens": "length", "content_filter": "content_filter"}
"""The reason that a run gives for being incomplete → the finish_reason."""


def exchanges(turn: Turn) -> list[Exchange]:
    head = (
        f'{{"id":"{id_of("chatcmpl", turn.number)}","object":"chat.completion.chunk","created":{turn.created},'
        f'"model":"{turn.model}","service_tier":"default","system_fingerprint":"fp_44709d6fcb","choices":['
    )
    delta, going_on = f'{head}{{"index":0,"delta":', ',"finish_reason":null,"logprobs":null}],"usage":null}'
    events: list[Event] = [("", f'{delta}{{"role":"assistant","content":"","refusal":null}}{going_on}')]
    if turn.tool == "function":
        call = f'"index":0,"id":"{id_of("call", turn.number)}","type":"function","function":{{"name":"tide","arguments":""}}'
        events.append(("", f'{delta}{{"tool_calls":[{{{call}}}]}}{going_on}'))
        given = [f'{{"index":0,"function":{{"arguments":"{piece}"}}}}' for piece in _ARGUMENTS]
        events += [("", f'{delta}{{"tool_calls":[{call}]}}{going_on}') for call in given]
    else:
        said = pieces(turn.draw, max(3, turn.size - 6))
        start, stop = f'{delta}{{"content":"', f'"}}{going_on}'
        events += [("", f"{start}{piece}{stop}") for piece in said]
    final = len(events)
    reason = "tool_calls" if turn.tool == "function" else _FINISHED[turn.code] if turn.shape == "incomplete" else "stop"
    events.append(("", f'{delta}{{}},"finish_reason":"{reason}","logprobs":null}}],"usage":null}}'))
    if turn.usage is not None:
        events.append(("", f'{head}],"usage":{_usage(turn)}}}'))
    events.append(("", "[DONE]"))
    odd(turn, events, 1, final)
    error = f'{{"error":{{"type":"server_error","param":null,{turn.error}}}}}'
    kept, outcome, silence_us = finished(turn, events, 1, final, ("", error))
    host, path, query = "api.openai.com", "/v1/chat/completions", ""
    if turn.azure:
        path, query = f"/openai/deployments/{turn.model}/chat/completions", "api-version=2024-10-21"
        host = "contoso.openai.azure.com"
    return [Exchange(host, path, query, _request(turn), kept, outcome, silence_us=silence_us)]


def _request(turn: Turn) -> str:
    messages = f'{{"role":"user","content":"{QUESTION}"}}'
    if turn.answers is not None:
        id = id_of("call", turn.answers)
        function = f'{{"name":"tide","arguments":"{"".join(_ARGUMENTS)}"}}'
        messages += (
            f',{{"role":"assistant","content":null,"tool_calls":[{{"id":"{id}","type":"function","function":{function}}}]}}'
        )
        messages += f',{{"role":"tool","tool_call_id":"{id}","content":"{_OUTPUT}"}}'
    include = "" if turn.usage is None else ',"stream_options":{"include_usage":true}'
    return f'{{"model":"{turn.model}","stream":true{include},"messages":[{messages}]}}'


def _usage(turn: Turn) -> str:
    usage = turn.usage
    assert usage is not None
    details = "" if usage.cached_tokens is None else f',"prompt_tokens_details":{{"cached_tokens":{usage.cached_tokens}}}'
    thought = usage.reasoning_tokens
    details += "" if thought is None else f',"completion_tokens_details":{{"reasoning_tokens":{thought}}}'
    return (
        f'{{"prompt_tokens":{usage.prompt_tokens},"completion_tokens":{usage.completion_tokens},'
        f'"total_tokens":{usage.total_tokens}{details}}}'
    )
