"""A turn as Anthropic's Messages tell it: a message of content blocks, whose usage comes at its start and at its end."""

from __future__ import annotations

from tests.population.turn import MESSAGES, QUESTION, Event, Exchange, Turn, finished, id_of, odd, pieces

_ARGUMENTS = ('{\\"place\\":', ' \\"Brest\\",', ' \\"days\\":', " 7}")
_OUTPUT = "high at 12:04, low at 18:11"
_STOPPED = {"max_completion_tokens": "max_tokens", "content_filter": "refusal"}
"""The reason that a run gives for being incomplete → the stop_reason."""


def exchanges(turn: Turn) -> list[Exchange]:
    usage = "" if turn.usage is None else f',"usage":{_usage(turn)}'
    message = f'"id":"{id_of("msg", turn.number)}","type":"message","role":"assistant","model":"{turn.model}","content":[]'
    events: list[Event] = [
        (
            "message_start",
            f'{{"type":"message_start","message":{{{message},"stop_reason":null,"stop_sequence":null{usage}}}}}',
        ),
        ("ping", '{"type":"ping"}'),
    ]
    index = 0
    if turn.draw % 3 == 0:
        thought = [f'"thinking_delta","thinking":"{piece}"' for piece in pieces(turn.draw + 2, 2)]
        _block(events, 0, '"thinking","thinking":"","signature":""', [*thought, '"signature_delta","signature":"c2ln"'])
        index = 1
    first = final = len(events) + 1
    if turn.tool == "function":
        call = f'"tool_use","id":"{id_of("toolu", turn.number)}","name":"tide","input":{{}}'
        _block(events, index, call, [f'"input_json_delta","partial_json":"{piece}"' for piece in _ARGUMENTS])
    else:
        said = pieces(turn.draw, max(3, turn.size - len(events) - 6))
        _block(events, index, '"text","text":""', [f'"text_delta","text":"{piece}"' for piece in said])
        final = len(events) - 1
    reason = "tool_use" if turn.tool == "function" else _STOPPED[turn.code] if turn.shape == "incomplete" else "end_turn"
    counted = "" if turn.usage is None else f',"usage":{{"output_tokens":{turn.usage.completion_tokens}}}'
    stopped = f'{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}}{counted}}}'
    events += [("message_delta", stopped), ("message_stop", '{"type":"message_stop"}')]
    if turn.tool != "function":
        odd(turn, events, first, final)
    error = f'{{"type":"error","error":{{"type":"{turn.code}","message":"{MESSAGES[turn.error_code]}"}}}}'
    kept, outcome, silence_us = finished(turn, events, 2, final, ("error", error))
    return [Exchange("api.anthropic.com", "/v1/messages", "", _request(turn), kept, outcome, silence_us=silence_us)]


def _block(events: list[Event], index: int, block: str, deltas: list[str]) -> None:
    start = f'{{"type":"content_block_start","index":{index},"content_block":{{"type":{block}}}}}'
    events.append(("content_block_start", start))
    head = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":'
    events += [("content_block_delta", f"{head}{delta}}}}}") for delta in deltas]
    events.append(("content_block_stop", f'{{"type":"content_block_stop","index":{index}}}'))


def _request(turn: Turn) -> str:
    messages = f'{{"role":"user","content":"{QUESTION}"}}'
    if turn.answers is not None:
        id = id_of("toolu", turn.answers)
        used = f'{{"type":"tool_use","id":"{id}","name":"tide","input":{{"place":"Brest","days":7}}}}'
        result = f'{{"type":"tool_result","tool_use_id":"{id}","content":"{_OUTPUT}"}}'
        messages += f',{{"role":"assistant","content":[{used}]}},{{"role":"user","content":[{result}]}}'
    return f'{{"model":"{turn.model}","max_tokens":4096,"stream":true,"messages":[{messages}]}}'


def _usage(turn: Turn) -> str:
    """As the message begins: its input leaves out what the cache gave and took, of its output one token is counted."""
    usage = turn.usage
    assert usage is not None
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    given = "" if cached is None else f',"cache_read_input_tokens":{cached}'
    given += "" if written is None else f',"cache_creation_input_tokens":{written}'
    return f'{{"input_tokens":{usage.prompt_tokens - (cached or 0) - (written or 0)},"output_tokens":1{given}}}'
