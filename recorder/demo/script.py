"""What the upstream says: the runs of four assistants, each a generator of events with the pause before it.

A run is a generator of Beats, whose data must be used before the next is asked for. It may stop at requires_action and go on
in another stream: then it yields AWAIT_OUTPUTS and is sent the outputs, {tool_call_id: output}. CUT is where the connection
breaks, in the middle of the event after it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

from recorder.demo import objects
from recorder.demo.objects import Object, usage

FIRST_EVENT_SECONDS = 0.3
MODEL = "gpt-4.1-mini"


class Beat(NamedTuple):
    """An event, and the seconds since the one before it."""

    pause: float
    event: str
    data: Object


class Mark:
    """A place in a script that is no event."""


AWAIT_OUTPUTS = Mark()
CUT = Mark()

Outputs = dict[str, str]
Script = Generator[Beat | Mark, Outputs, None]


class Assistant(NamedTuple):
    """script(run, pace): the run as it is created, and what the jitter is drawn from."""

    id: str
    about: str
    question: str
    instructions: str
    tools: list[Object]
    script: Callable[[Object, random.Random], Script]


def tokens(value: str) -> list[str]:
    """A text in pieces such as a model gives out; joined they are the text."""
    return re.findall(r"\s*\w{1,6}|\s*[^\w\s]|\s+", value)


def _chart(run: Object, pace: random.Random) -> Script:
    """The code interpreter computes, then the assistant explains."""
    yield from _begin(run)
    step = objects.step(run, {"type": "tool_calls", "tool_calls": []})
    call = {"id": objects.new_id("call"), "type": "code_interpreter"}
    yield from _begin_step(step)
    first = {"index": 0, **call, "code_interpreter": {"input": "", "outputs": []}}
    yield Beat(0.05, "thread.run.step.delta", objects.step_delta(step, first))
    for piece in tokens(_CODE):
        part = {"index": 0, "type": "code_interpreter", "code_interpreter": {"input": piece}}
        yield Beat(_between(pace), "thread.run.step.delta", objects.step_delta(step, part))
    logs = {"type": "logs", "logs": _LOGS}
    part = {"index": 0, "type": "code_interpreter", "code_interpreter": {"outputs": [{"index": 0, **logs}]}}
    yield Beat(0.7, "thread.run.step.delta", objects.step_delta(step, part))
    step["step_details"]["tool_calls"] = [{**call, "code_interpreter": {"input": _CODE, "outputs": [logs]}}]
    step.update(status="completed", completed_at=objects.now(), usage=usage(263, 118))
    yield Beat(0.02, "thread.run.step.completed", step)
    yield from _say(run, _EXPLANATION, pace, usage(402, 107))
    yield from _complete(run, objects.summed(usage(263, 118), usage(402, 107)))


def _order(run: Object, pace: random.Random) -> Script:
    """Two functions at once, answered by the client; the run goes on in a second stream."""
    yield from _begin(run)
    step = objects.step(run, {"type": "tool_calls", "tool_calls": []})
    yield from _begin_step(step)
    calls = []
    for index, (name, arguments) in enumerate(_CALLS):
        call: Object = {"id": objects.new_id("call"), "type": "function", "function": {"name": name, "arguments": arguments}}
        calls.append(call)
        first = {"index": index, **call, "function": {"name": name, "arguments": "", "output": None}}
        yield Beat(0.05, "thread.run.step.delta", objects.step_delta(step, first))
        for piece in tokens(arguments):
            part = {"index": index, "type": "function", "function": {"arguments": piece}}
            yield Beat(_between(pace), "thread.run.step.delta", objects.step_delta(step, part))
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
    run.update(status="requires_action", required_action=action)
    yield Beat(0.04, "thread.run.requires_action", run)
    outputs = yield AWAIT_OUTPUTS
    answered = [{**call, "function": {**call["function"], "output": outputs[call["id"]]}} for call in calls]
    step["step_details"]["tool_calls"] = answered
    step.update(status="completed", completed_at=objects.now(), usage=usage(184, 46))
    yield Beat(FIRST_EVENT_SECONDS, "thread.run.step.completed", step)
    run.update(status="queued", required_action=None)
    yield Beat(0.01, "thread.run.queued", run)
    run.update(status="in_progress", started_at=objects.now())
    yield Beat(0.06, "thread.run.in_progress", run)
    yield from _say(run, _PROMISE, pace, usage(271, 83))
    yield from _complete(run, objects.summed(usage(184, 46), usage(271, 83)))


def _limited(run: Object, pace: random.Random) -> Script:
    """The rate limit ends the run in the middle of its answer."""
    yield from _begin(run)
    step, message = yield from _begin_message(run)
    said = tokens(_UNFINISHED)
    yield from _pieces(message, said, pace)
    message.update(status="incomplete", incomplete_at=objects.now(), incomplete_details={"reason": "run_failed"})
    message["content"] = objects.text("".join(said))
    yield Beat(0.4, "thread.message.incomplete", message)
    error = {
        "code": "rate_limit_exceeded",
        "message": f"Rate limit reached for {MODEL}: 200000 tokens a minute. Try again in 20 s.",
    }
    step.update(status="failed", failed_at=objects.now(), last_error=error, usage=usage(148, len(said)))
    yield Beat(0.01, "thread.run.step.failed", step)
    run.update(status="failed", failed_at=objects.now(), last_error=error, usage=usage(148, len(said)))
    yield Beat(0.01, "thread.run.failed", run)


def _dropped(run: Object, pace: random.Random) -> Script:
    """The connection breaks while the assistant speaks."""
    yield from _begin(run)
    _, message = yield from _begin_message(run)
    *said, last = tokens(_INTERRUPTED)
    yield from _pieces(message, said, pace)
    yield CUT
    yield Beat(_between(pace), "thread.message.delta", objects.message_delta(message, last))


def _begin(run: Object) -> Iterator[Beat]:
    yield Beat(FIRST_EVENT_SECONDS, "thread.run.created", run)
    yield Beat(0.002, "thread.run.queued", run)
    run.update(status="in_progress", started_at=objects.now())
    yield Beat(0.12, "thread.run.in_progress", run)


def _begin_step(step: Object) -> Iterator[Beat]:
    yield Beat(0.25, "thread.run.step.created", step)
    yield Beat(0.002, "thread.run.step.in_progress", step)


def _begin_message(run: Object) -> Generator[Beat, None, tuple[Object, Object]]:
    """Begin a message and its step; (step, message)."""
    message = objects.message(run)
    step = objects.step(run, {"type": "message_creation", "message_creation": {"message_id": message["id"]}})
    yield from _begin_step(step)
    yield Beat(0.08, "thread.message.created", message)
    yield Beat(0.002, "thread.message.in_progress", message)
    return step, message


def _pieces(message: Object, pieces: list[str], pace: random.Random) -> Iterator[Beat]:
    for piece in pieces:
        yield Beat(_between(pace), "thread.message.delta", objects.message_delta(message, piece))


def _say(run: Object, value: str, pace: random.Random, spent: Object) -> Generator[Beat, None, None]:
    """A whole message with its step."""
    step, message = yield from _begin_message(run)
    yield from _pieces(message, tokens(value), pace)
    message.update(status="completed", completed_at=objects.now(), content=objects.text(value))
    yield Beat(0.05, "thread.message.completed", message)
    step.update(status="completed", completed_at=objects.now(), usage=spent)
    yield Beat(0.01, "thread.run.step.completed", step)


def _complete(run: Object, spent: Object) -> Iterator[Beat]:
    run.update(status="completed", completed_at=objects.now(), expires_at=None, usage=spent)
    yield Beat(0.03, "thread.run.completed", run)


def _between(pace: random.Random) -> float:
    """Seconds from one delta to the next."""
    return pace.uniform(0.02, 0.04)


def _function(name: str, description: str, parameter: str) -> Object:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema, "strict": False},
    }


_CODE = """\
fares = {"Oslo": [189, 204, 176], "Porto": [92, 88, 97], "Zürich": [151, 149, 160]}
for city, paid in sorted(fares.items()):
    mean = sum(paid) / len(paid)
    spread = max(paid) - min(paid)
    print(f"{city:<7} {mean:6.2f} € ± {spread}")
"""
_LOGS = "Oslo    189.67 € ± 28\nPorto    92.33 € ± 9\nZürich  153.33 € ± 11\n"
_EXPLANATION = (
    "On average Porto is the cheapest of the three at 92.33 €, and also the steadiest: its fares lie within 9 €. "
    "Zürich costs 153.33 €, with a spread of 11 €. Oslo is both the dearest (189.67 €) and the least predictable: "
    "between its best and its worst fare lie 28 €, so there it pays to wait for a good day."
)
_CALLS = (
    ("stock_level", '{"article": "lamp-brass-40"}'),
    ("delivery_days", '{"postcode": "5003 Bergen"}'),
)
_PROMISE = (
    "Yes: the brass lamp is in stock (17 left), and a parcel to Bergen takes 3 working days. "
    "Order before 15:00 today and it arrives on Thursday. Shall I reserve one for you? 💡"
)
_UNFINISHED = "I have read all forty contracts. The first thing that they have in common is the notice period, which in"
_INTERRUPTED = "The night train leaves Wien at 19:42 and reaches Roma in the morning; a berth costs 79 €, and breakfast is"

ASSISTANTS = {
    "chart": Assistant(
        "asst_CompareFaresWithPython01",
        "runs code, then answers",
        "Which of these cities is the cheapest to fly to?",
        "You compute with Python before you answer.",
        [{"type": "code_interpreter"}],
        _chart,
    ),
    "order": Assistant(
        "asst_AnswerShopCustomers00001",
        "calls two functions at once; the program answers them in a second request",
        "Do you have the brass lamp, and when could it be in Bergen?",
        "You answer a lamp shop's customers.",
        [
            _function("stock_level", "How many of an article are in stock.", "article"),
            _function("delivery_days", "Working days that a parcel takes.", "postcode"),
        ],
        _order,
    ),
    "limited": Assistant(
        "asst_SummariseContracts000001",
        "meets a rate limit and fails",
        "What do these contracts have in common?",
        "You summarise contracts.",
        [{"type": "file_search"}],
        _limited,
    ),
    "dropped": Assistant(
        "asst_PlanJourneysByTrain00001",
        "loses its connection in the middle of an event",
        "How do I get to Rome by train?",
        "You plan journeys.",
        [],
        _dropped,
    ),
}
"""By name."""


def request(name: str) -> dict[str, Any]:
    """The body of POST /v1/threads/runs that asks one of ASSISTANTS its question."""
    assistant = ASSISTANTS[name]
    asked = {"role": "user", "content": assistant.question}
    return {"assistant_id": assistant.id, "thread": {"messages": [asked]}, "stream": True}
