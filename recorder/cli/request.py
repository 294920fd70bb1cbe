"""`recorder request METHOD URL`"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

import click
import httpx
from httpx_sse import EventSource, SSEError

from recorder import jsontext
from recorder.cli.opening import check_writable, opened
from recorder.cli.output import INCOMPLETE, counted, echo, emit, event_line, note, say
from recorder.cli.parameters import configured
from recorder.collect.transport import RecordingTransport
from recorder.errors import RecorderError, UsageError
from recorder.kind import media_type
from recorder.settings import Settings

_TIMEOUT = httpx.Timeout(None, connect=30)  # a model may think for long

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: of methods and names of headers
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")  # what no header's value may hold


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
    """Send one request, show what comes as it comes, and record it. Exit 1 if the answer is an error, or breaks off, or
    could not be recorded.

    An event stream is shown event by event, anything else as it is. What is no secret of the headers is recorded with it. Of the
    settings, `sample`, `skip_paths` and `skip_types` do not count here: what is asked for by name is recorded.
    """
    if not _TOKEN.fullmatch(method):
        raise UsageError(f"{method!r} is no method; write GET, POST …")
    target = _url(url)
    body = _body(data)
    given = [_header(header) for header in headers]
    names = {name.lower() for name, _ in given}
    if body is not None and b"content-type" not in names:
        given.append((b"Content-Type", b"application/json"))
    if b"accept" not in names:
        given.append((b"Accept", b"text/event-stream, application/json;q=0.9, */*;q=0.5"))
    way = _way_to(target)
    with opened(db, create=True) as engine:
        check_writable(engine)
    chosen = settings.model_copy(update={"sample": 1.0, "skip_paths": (), "skip_types": ()})
    transport = RecordingTransport(way, db, session=session, settings=chosen)
    with httpx.Client(transport=transport, timeout=_TIMEOUT) as client:
        request = client.build_request(method.upper(), target, content=body, headers=given)
        began = time.perf_counter()
        try:
            response = client.send(request, stream=True)
        except httpx.LocalProtocolError as error:
            raise UsageError(f"{url!r} cannot be asked so: {error}; the attempt is recorded") from None
        except httpx.HTTPError as error:
            raise RecorderError(f"{target.host} did not answer: {_said(error)}; the attempt is recorded") from None
        stream_id = response.extensions.get("recorder.stream_id")
        try:
            count = _show(response, began, as_json)
        except httpx.HTTPError as error:
            raise RecorderError(f"the response broke off: {_said(error)}; what came is recorded as {stream_id}") from None
        finally:
            response.close()
    took = f"{counted(count, 'event')} in {time.perf_counter() - began:.1f} s"
    note(f"HTTP {response.status_code}, {took}; recorder show {stream_id}")
    if not transport.complete:
        note(INCOMPLETE)
    return int(response.status_code >= 400 or not transport.complete)


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
        echo()
    return count


def _event(offset_us: int, type: str, data: str, as_json: bool) -> None:
    if as_json:
        emit({"offset_us": offset_us, "type": type, "data": data})
    else:
        say(event_line(offset_us, type, data))


def _url(text: str) -> httpx.URL:
    """A URL that can be asked."""
    try:
        url = httpx.URL(text)
        url.host.encode("idna")  # as the resolver will
        complete = url.scheme in ("http", "https") and url.host and 0 < (1 if url.port is None else url.port) < 65536
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"{text!r} cannot be asked: {error}") from None
    if not complete:
        raise UsageError(f"{text!r} cannot be asked; write http://HOST/PATH or https://HOST/PATH")
    return url


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "@-":
        if sys.stdin is None:
            raise UsageError("-d @- reads stdin, which is closed")
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise UsageError(f"-d {data}: {error.strerror}") from None
    body = os.fsencode(data)  # the bytes that were typed
    try:
        jsontext.loads(body)
    except jsontext.JSONError:
        raise UsageError(f"-d {data[:60]!r} is no JSON; quote it for the shell, or name a file as @FILE") from None
    return body


def _header(given: str) -> tuple[bytes, bytes]:
    name, colon, value = given.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
        shown = name.split()[0] if name else ""  # what follows may be a secret
        raise UsageError(f"-H {shown!r} is no header; write 'Name: value'")
    return name.encode(), os.fsencode(value)


def _way_to(url: httpx.URL) -> httpx.HTTPTransport:
    """A transport that goes through the proxy of the environment where there is one for this URL."""
    named = getproxies()
    proxy = None if proxy_bypass(url.host) else named.get(url.scheme) or named.get("all")
    if not proxy:
        return httpx.HTTPTransport()
    try:
        return httpx.HTTPTransport(proxy=proxy if "://" in proxy else f"http://{proxy}")
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise UsageError(f"the proxy that the environment names cannot be used: {error}") from None


def _said(error: Exception) -> Any:
    return str(error) or type(error).__name__
