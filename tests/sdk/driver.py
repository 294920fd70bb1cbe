"""A program that uses the SDK of the Python that runs it: it makes the calls of a job and prints what came of each.

The job is JSON on stdin: `origin`, `is_async`, `way` (plain, record or play) with `db`, `calls` as calls.Call has them, and
`header`, the one that names the stream of a call. For each call it prints a line of JSON.

It is one coroutine for both kinds of client: what may have to be awaited goes through finished(), and with a sync client nothing
ever has to be, so that no event loop is there then.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from operator import attrgetter
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk

import recorder

BELOW = ("httpcore", "h11")
"""Modules below the HTTP client, which a transport of ours stands in for."""

FINALS = ("get_final_run", "get_final_messages", "get_final_run_steps")


def main() -> None:
    job = json.load(sys.stdin)
    if job["is_async"]:
        asyncio.run(work(job))
    else:
        without_a_loop(work(job))


def without_a_loop(work: Coroutine[Any, Any, None]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("a sync client had something to wait for")


async def work(job: dict[str, Any]) -> None:
    is_async = job["is_async"]
    kind = openai.AsyncOpenAI if is_async else openai.OpenAI
    client = kind(api_key="sk-matrix", base_url=job["origin"], timeout=60)
    async with Entered(client, is_async):
        if job["way"] == "plain":
            await make(client, job)
            return
        recording = recorder.record(client, job["db"]) if job["way"] == "record" else recorder.play(client, db=job["db"])
        async with Entered(recording, is_async):
            await make(client, job)


async def make(client: Any, job: dict[str, Any]) -> None:
    for call in job["calls"]:
        base_url, headers = job["origin"] + call["base"], {job["header"]: call["name"]}
        own = client.copy(base_url=base_url, default_headers=headers, max_retries=call["retries"])
        told = Told(call, own, job["is_async"])
        await told.make()
        print(json.dumps(told.said, ensure_ascii=True), flush=True)


class Told:
    """One call, and all that the SDK makes of it.

    said: `events` [[name, payload as JSON text]], the names of the `callbacks` of a helper's event handler and its `finals`, the
    `result` where there is no stream, `response` (status, headers, retries), `errors` by where they came from. And `match`: what
    a replay says of how it found its answer.
    """

    def __init__(self, call: dict[str, Any], client: Any, is_async: bool) -> None:
        self.said: dict[str, Any] = {
            "events": [],
            "callbacks": [],
            "finals": {},
            "result": None,
            "response": None,
            "errors": {},
            "match": None,
        }
        self._call = call
        self._client = client
        self._is_async = is_async

    async def make(self) -> None:
        try:
            await (self._helper() if self._call["sdk"].endswith("stream") else self._plain())
        except Exception as error:  # noqa: BLE001 - which one it is, is to be compared
            self.said["errors"]["call"] = described(error)

    async def _helper(self) -> None:
        method = attrgetter(self._call["sdk"])(self._client)
        handler = self._handler()
        async with Entered(method(**self._arguments(method), event_handler=handler), self._is_async) as stream:
            await self._hear(stream)
            for name in FINALS:
                try:
                    final = await finished(getattr(stream, name)())
                except Exception as error:  # noqa: BLE001 - as above
                    self.said["errors"][name] = described(error)
                else:
                    self.said["finals"][name] = [text(one) for one in (final if isinstance(final, list) else [final])]

    async def _plain(self) -> None:
        method = attrgetter(self._call["sdk"])(self._client)
        arguments = self._any_path() if self._call["sdk"] == "post" else self._arguments(method)
        result = await finished(method(**arguments))
        if not isinstance(result, openai.Stream | openai.AsyncStream):
            self.said["result"] = [text(result), result._request_id]
            return
        headers = result.response.headers
        self.said["response"] = {
            "status": result.response.status_code,
            "headers": {name: headers.get(name) for name in ("content-type", "x-request-id")},
            "retries": result.response.request.headers.get("x-stainless-retry-count"),
        }
        self.said["match"] = headers.get("x-recorder-match")
        await self._hear(result)

    async def _hear(self, stream: Any) -> None:
        async for event in each(stream):
            name = getattr(event, "event", None) or getattr(event, "type", None) or getattr(event, "object", None)
            self.said["events"].append([name, text(event)])

    def _arguments(self, method: Any) -> dict[str, Any]:
        """Path, query and body as the method's parameters; what it has none for as extra ones."""
        call = self._call
        known = inspect.signature(method).parameters
        arguments: dict[str, Any] = dict(call["ids"])
        for given, extra in ((call["query"], "extra_query"), (call["body"] or {}, "extra_body")):
            arguments |= {key: value for key, value in given.items() if key in known}
            arguments[extra] = {key: value for key, value in given.items() if key not in known} or None
        if call["sdk"].endswith("stream"):  # it says so itself
            arguments["extra_body"] = {key: value for key, value in (arguments["extra_body"] or {}).items() if key != "stream"}
        return arguments

    def _any_path(self) -> dict[str, Any]:
        call = self._call
        stream = openai.AsyncStream if self._is_async else openai.Stream
        path = call["path"].removeprefix(call["base"])
        cast: Any = ChatCompletionChunk
        return {"path": path, "body": call["body"], "cast_to": cast, "stream": True, "stream_cls": stream[cast]}

    def _handler(self) -> Any:
        """An event handler that notes each of its callbacks."""
        kind = openai.AsyncAssistantEventHandler if self._is_async else openai.AssistantEventHandler
        callbacks = self.said["callbacks"]

        def noting(name: str) -> Any:
            def note(self: Any, *given: Any) -> None:
                callbacks.append(name)

            async def note_async(self: Any, *given: Any) -> None:
                callbacks.append(name)

            return note_async if issubclass(kind, openai.AsyncAssistantEventHandler) else note

        return type("Noting", (kind,), {name: noting(name) for name in dir(kind) if name.startswith("on_")})()


class Entered:
    """A context of either kind."""

    def __init__(self, context: Any, is_async: bool) -> None:
        self._context = context
        self._is_async = is_async

    async def __aenter__(self) -> Any:
        return await self._context.__aenter__() if self._is_async else self._context.__enter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._context.__aexit__(*error) if self._is_async else self._context.__exit__(*error)


async def each(stream: Any) -> AsyncIterator[Any]:
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            yield event
    else:
        for event in stream:
            yield event


async def finished(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def text(model: Any) -> str:
    return model.to_json(indent=None) if hasattr(model, "to_json") else repr(model)


def described(error: BaseException) -> list[str]:
    """The type and the message of an error, and of those of the HTTP client that it came from."""
    said = []
    at: BaseException | None = error
    while at is not None and not type(at).__module__.startswith(BELOW):
        said.append(f"{type(at).__module__}.{type(at).__qualname__}: {at}")
        at = at.__cause__
    return said


main()
