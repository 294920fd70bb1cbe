"""Who may ask a server of recorder: everyone on this machine; from elsewhere, those who know its token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable

from recorder import jsontext
from recorder.collect.asgi import Receive, Scope, Send

TOKEN_HEADER = b"x-recorder-token"

REALM = (b"WWW-Authenticate", b'Bearer realm="recorder"')


def admitted(token: str | None, headers: Iterable[tuple[bytes, bytes]], *bearing: bytes) -> bool:
    """Whether a request carries the token: in X-Recorder-Token, or as `Bearer …` in one of these headers (in lower case).

    Without a token everyone may ask. How long it takes does not say how much of a wrong token is right.
    """
    if token is None:
        return True
    secret = token.encode()
    found = False
    for name, value in headers:
        scheme, _, rest = value.partition(b" ")
        if name.lower() == TOKEN_HEADER:
            found |= hmac.compare_digest(value, secret)
        elif name.lower() in bearing and scheme.lower() == b"bearer":
            found |= hmac.compare_digest(rest.strip(), secret)
    return found


def error(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """A body in the shape of the API's errors."""
    return jsontext.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def refusal(*bearing: str) -> bytes:
    """The body for a request that does not carry the token. bearing: the headers that may, beside X-Recorder-Token."""
    others = "".join(f" or in {name}: Bearer …" for name in bearing)
    return error(f"this recorder asks for its token, in the header X-Recorder-Token{others}", "no_recorder_token")


class Gate:
    """An ASGI application that lets those requests through to another which carry the token; Authorization may, too."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or admitted(self._token, scope["headers"], b"proxy-authorization", b"authorization"):
            await self._app(scope, receive, send)
            return
        body = refusal("Authorization")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), REALM]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})
