"""Errors as servers tell them where HTTP says that all is well: events, parts of events, whole bodies and plain text.

The shapes are those of OpenAI, Azure, Anthropic, Groq, OpenRouter, LiteLLM, vLLM, TGI, FastAPI, Cloudflare, MiniMax, Baidu,
DashScope and JSON-RPC. What each calls a code or a message stands in the tables at the foot.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.protocols.payload import as_list, as_object, as_output, as_text, value
from recorder.sse import outside

Object = dict[str, Any]


def error(payload: Any) -> Object:
    """code, type, message and param of an error: nested under `error`, flat, or a text; null where it has none."""
    payload = payload[0] if isinstance(payload, list) and payload else payload
    flat = as_object(payload)
    nested = flat.get("error") if "error" in flat else None if flat else payload
    found = as_object(nested) or flat
    message = _words(found)
    told = nested if isinstance(nested, str) and nested else None
    code = _first(found, _CODES)
    if told is not None:
        code, message = (told, message) if message is not None and code is None else (code, message or told)
    type = found.get("type")
    return {
        "code": code,
        "type": None if type in _NOTHING or (found is flat and type == "error") else type,
        "message": message,
        "param": None if found.get("param") in _NOTHING else found.get("param"),
    }


def error_code(error: Object) -> str | None:
    """The code of an error, else its type."""
    found = error.get("code") if error.get("code") is not None else error.get("type")
    return str(found) if isinstance(found, (str, int)) and not isinstance(found, bool) else None


def event_of(type: str, data: str) -> Object | None:
    """The object of an event's data, None where it is none.

    Whatever an event that is named error has as data, and JSON of an error that broke off, are the words of an error.
    """
    found = value(data)
    if isinstance(found, dict):
        return found
    if isinstance(found, list) and error_in(found, type == "error") is not None:
        return as_object(found[0])
    if type == "error":
        return {"error": found if isinstance(found, str) else data}
    return {"error": data} if found is None and _BROKEN.match(data) else None


def error_in(found: Any, named: bool = False) -> Object | None:
    """The error that an event or a body tells, None where it tells none. named: the event is called error, so it does."""
    if isinstance(found, list):
        return error_in(found[0], named) if found else None
    if not isinstance(found, dict):
        return None
    for holder in (found, found.get("x_groq"), *as_list(found.get("choices"))):
        if isinstance(holder, dict) and isinstance(holder.get("error"), (dict, str)) and holder["error"]:
            return error(holder)
    if found.get("event") == "error":
        return error(found.get("data"))
    told = next((told for tells in _SHAPES if (told := tells(found)) is not None), None)
    is_error = named or "error" in (found.get("object"), found.get("type"))
    return error(found) if told is None and is_error else told


class ToolError(NamedTuple):
    """The output of a tool whose caller says that it failed."""

    output: Any


def tool_error(output: Any) -> Object | None:
    """The error that a tool's output tells, None where it tells none: a ToolError, or MCP's result with `isError`."""
    if isinstance(output, ToolError):
        return {"code": None, "message": _said(output.output)}
    if isinstance(output, str) and '"isError"' in output[:_RESULT_LIMIT]:
        output = value(output)
    if isinstance(output, dict) and output.get("isError") is True:
        return {"code": None, "message": _said(output.get("content"))}
    return None


def _said(content: Any) -> str | None:
    """The text of a tool's result: of its blocks, or itself."""
    texts = [block["text"] for block in as_list(content) if isinstance(block, dict) and isinstance(block.get("text"), str)]
    return "\n".join(texts) or as_output(content)


def told_outside(text: str) -> str | None:
    """The data of an error that a block tells without `data:`: `{"error": …}` as a line of its own, or as a field `error: …`."""
    text = outside(text.strip().removeprefix("\ufeff").encode("utf-8", "surrogatepass"))
    begins = _OBJECT.search(text)
    if begins:
        rest = text[begins.start() :]
        found = next((said for said in dict.fromkeys((rest, *rest.split("\n"))) if error_in(value(said)) is not None), None)
        if found is not None:
            return found
    field = _FIELD.search(text)
    return field[1] if field else None


def is_words(data: str) -> bool:
    """Whether an event's data is words to a person, not JSON, nor what keeps a connection alive."""
    return data[:1] not in _OF_JSON and data.strip().lower() not in _ALIVE


def _words(found: Object) -> str | None:
    for key in _MESSAGES:
        words = found.get(key)
        if isinstance(words, str) and words and words not in _NOTHING:
            return words
        if isinstance(words, (dict, list)) and words:
            return as_text(as_object(words).get("message")) or jsontext.dumps(words)
    return None


def _first(found: Object, keys: tuple[str, ...]) -> Any:
    given = (found.get(key) for key in keys)
    return next(
        (each for each in given if isinstance(each, (str, int)) and type(each) is not bool and each not in _NOTHING), None
    )


def _base_response(found: Object) -> Object | None:
    """MiniMax's: base_resp with a status_code that is not 0."""
    told = as_object(found.get("base_resp"))
    return {**error(told), "message": as_text(told.get("status_msg"))} if _fails(told.get("status_code")) else None


def _list_of_errors(found: Object) -> Object | None:
    """Cloudflare's {"success": false, "errors": [{code, message}]}, and GraphQL's errors without data."""
    errors = as_list(found.get("errors"))
    return error(errors[0]) if errors and (found.get("success") is False or _ANSWERS.isdisjoint(found)) else None


def _flat(found: Object) -> Object | None:
    """A code and words for it, and nothing else of what answers have."""
    told = error(found)
    return told if _fails(told["code"]) and told["message"] and _ANSWERS.isdisjoint(found) else None


def _verdict(found: Object) -> Object | None:
    """A field that says that it failed, with words for it; of FastAPI `detail` alone."""
    says = any(type(given := found.get(key)) in (bool, str) and given in verdicts for key, verdicts in _VERDICTS.items())
    told = error(found)
    return told if told["message"] and (found.keys() == {"detail"} or (says and _ANSWERS.isdisjoint(found))) else None


def _fails(code: Any) -> bool:
    return isinstance(code, (str, int)) and str(code).lower() not in _SUCCESS


_MESSAGES = (
    *("message", "msg", "error_description", "error_message", "error_msg", "errorMessage", "errmsg", "detail", "details"),
    *("reason", "description"),
)
_CODES = ("code", "error_code", "errorCode", "errcode", "__type", "status_code", "statusCode")
_NOTHING = (None, "", "None", "null")
_SUCCESS = frozenset({"", "0", "200", "ok", "success", "none", "false", "true"})
_ANSWERS = frozenset({"choices", "object", "id", "type", "usage", "output", "result", "data", "content", "candidates", "event"})
_VERDICTS: dict[str, tuple[Any, ...]] = {"error": (True,), "success": (False,), "ok": (False,), "status": ("error", "failed")}
_SHAPES = (_base_response, _list_of_errors, _flat, _verdict)
_OF_JSON = ("", "{", "[", '"')
_ALIVE = frozenset({"[done]", "done", "ping", "pong", "keepalive", "keep-alive", "keep_alive", "heartbeat", "null", "undefined"})
_RESULT_LIMIT = 1024 * 1024  # characters of a tool's output that are looked at
_BROKEN = re.compile(r"\{\s*['\"]error['\"]\s*:")
_OBJECT = re.compile(r"^\{", re.MULTILINE)
_FIELD = re.compile(r"^error:\s*(\S.*)", re.MULTILINE)
