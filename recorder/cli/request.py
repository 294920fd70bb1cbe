"""`recorder request METHOD URL`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import httpx
from httpx_sse import EventSource, SSEError

from recorder import jsontext
from recorder.bodies import media_type
from recorder.cli.output import counted, emit, event_line, note, say
from recorder.cli.parameters import configured
from recorder.collect.transport import RecordingTransport
from recorder.errors import RecorderError, UsageError
from recorder.settings import Settings

_TIMEOUT = httpx.Timeout(None, connect=30)  # a model may think for long


@click.command("request")
@click.argument("method")
@click.argument("url")
@click.option("-d", "--data", metavar="JSON|@FILE", help="The body: JSON, or a file's content; @- reads stdin.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME: VALUE", help="A header; may be given again.")
@click.option("--session", metavar="LABEL", help="The label of the session that it belongs to.")
@configured
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, one an event.")
@click.pass_obj
def command(
    db: str,
    method: str,
    url: str,
    data: str | None,
    headers: tuple[str, ...],
    session: str | None,
    settings: Settings,
    as_json: bool,
) -> int:
    """Send one request, show what comes as it comes, and record it. Exit 1 where the answer is an error, or breaks off.

    An event stream is shown event by event, anything else as it is. What is no secret of the headers is recorded with it. Of the
    settings, `sample` and `skip_paths` do not count here: what is asked for by name is recorded.
    """
    body = _body(data)
    given = [_header(header) for header in headers]
    names = {name.lower() for name, _ in given}
    if body is not None and "content-type" not in names:
        given.append(("Content-Type", "application/json"))
    if "accept" not in names:
        given.append(("Accept", "text/event-stream, application/json;q=0.9, */*;q=0.5"))
    transport = RecordingTransport(
        httpx.HTTPTransport(), db, session=session, settings=settings.model_copy(update={"sample": 1.0, "skip_paths": ()})
    )
    with httpx.Client(transport=transport, timeout=_TIMEOUT, trust_env=True) as client:
        try:
            request = client.build_request(method.upper(), url, content=body, headers=given)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise UsageError(f"{url!r} cannot be asked: {error}") from None
        began = time.perf_counter()
        try:
            response = client.send(request, stream=True)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise UsageError(f"{url!r} cannot be asked: {error}; write http://HOST/PATH or https://HOST/PATH") from None
        except httpx.HTTPError as error:
            raise RecorderError(f"{request.url.host} did not answer: {_said(error)}; the attempt is recorded") from None
        stream_id = response.extensions.get("recorder.stream_id")
        try:
            count = _show(response, began, as_json)
        except httpx.HTTPError as error:
            raise RecorderError(f"the response broke off: {_said(error)}; what came is recorded as {stream_id}") from None
        finally:
            response.close()
    took = f"{counted(count, 'event')} in {time.perf_counter() - began:.1f} s"
    note(f"HTTP {response.status_code}, {took}; recorder show {stream_id}")
    return 1 if response.status_code >= 400 else 0


def _show(response: httpx.Response, began: float, as_json: bool) -> int:
    """Print the response as it comes; how many events it had."""
    count = 0
    if media_type(response.headers.get("content-type")) == "text/event-stream":
        try:
            for event in EventSource(response).iter_sse():
                offset_us = int((time.perf_counter() - began) * 1e6)
                _event(offset_us, event.event, event.data, as_json)
                count += 1
        except SSEError as error:
            raise RecorderError(f"the stream cannot be shown ({error}); it is recorded") from None
        return count
    if as_json:
        _event(int((time.perf_counter() - began) * 1e6), "$body", response.read().decode("utf-8", "replace"), as_json)
        return count
    last = b""
    for last in response.iter_bytes():
        sys.stdout.buffer.write(last)
        sys.stdout.buffer.flush()
    if sys.stdout.isatty() and not last.endswith(b"\n"):
        click.echo()
    return count


def _event(offset_us: int, type: str, data: str, as_json: bool) -> None:
    if as_json:
        emit({"offset_us": offset_us, "type": type, "data": data})
    else:
        say(event_line(offset_us, type, data))


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "@-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise UsageError(f"-d {data}: {error.strerror}") from None
    try:
        jsontext.loads(data)
    except jsontext.JSONError:
        raise UsageError(f"-d {data[:60]!r} is no JSON; quote it for the shell, or name a file as @FILE") from None
    return data.encode()


def _header(given: str) -> tuple[str, str]:
    name, colon, value = given.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"-H {given!r} is no header; write 'Name: value'")
    return name.strip(), value.strip()


def _said(error: Exception) -> Any:
    return str(error) or type(error).__name__
