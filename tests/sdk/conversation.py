"""A customer's question to an assistant that calls functions, as a program that uses the SDK has it; it prints all that it sees.

python conversation.py           asks what OPENAI_BASE_URL names
python conversation.py record    the same, recorded into RECORDER_DB
python conversation.py play      has the recording answer instead
"""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from openai import AssistantEventHandler, OpenAI
from openai.types.beta.threads import Run

import recorder

ASSISTANT = "asst_AnswerShopCustomers00001"
QUESTION = "Do you have the brass lamp, and when could it be in Bergen?"

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "stock_level": lambda article: {"article": article, "available": 17},
    "delivery_days": lambda postcode: {"postcode": postcode, "working_days": 3},
}

CONTEXTS: dict[str, Callable[[OpenAI], Any]] = {"": nullcontext, "record": recorder.record, "play": recorder.play}


class Printing(AssistantEventHandler):
    def on_event(self, event: Any) -> None:
        print(event.event, event.data.id, getattr(event.data, "status", ""))

    def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        print("    calls", snapshot.function.name, snapshot.function.arguments)

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        print("    says", json.dumps(delta.value, ensure_ascii=False))


def converse(client: OpenAI) -> None:
    with client.beta.threads.create_and_run_stream(
        assistant_id=ASSISTANT,
        thread={"messages": [{"role": "user", "content": QUESTION}]},
        event_handler=Printing(),
    ) as stream:
        stream.until_done()
        run: Run = stream.get_final_run()
    while run.status == "requires_action" and run.required_action:
        outputs = []
        for call in run.required_action.submit_tool_outputs.tool_calls:
            result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
            print("  ", call.id, call.function.name, "->", result)
            outputs.append({"tool_call_id": call.id, "output": json.dumps(result)})
        with client.beta.threads.runs.submit_tool_outputs_stream(
            run_id=run.id,
            thread_id=run.thread_id,
            tool_outputs=outputs,
            event_handler=Printing(),
        ) as stream:
            stream.until_done()
            run = stream.get_final_run()
            for message in stream.get_final_messages():
                print(message.to_json(indent=None))
    print(run.to_json(indent=None))


with OpenAI() as client, CONTEXTS["".join(sys.argv[1:])](client):
    converse(client)
