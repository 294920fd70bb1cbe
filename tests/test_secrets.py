"""What is kept of a request: never a secret, and all else as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.collect import secrets

SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "api-key",
        "X-Api-Key",
        "Cookie",
        "Proxy-Authorization",
        "X-Goog-Api-Key",
        "Ocp-Apim-Subscription-Key",
        "OpenAI-Organization",
        "x-anything-else",
    ],
)
def test_a_request_header_is_kept_by_allow_list_only(name: str) -> None:
    assert secrets.headers([(name, SECRET), ("Content-Type", "a/b")], secrets.REQUEST_HEADERS) == (("content-type", "a/b"),)


@pytest.mark.parametrize("name", ["Set-Cookie", "Location", "WWW-Authenticate", "X-Anything"])
def test_a_response_header_is_kept_by_allow_list_only(name: str) -> None:
    assert secrets.headers([(name, SECRET), ("X-Request-ID", "1")], secrets.RESPONSE_HEADERS) == (("x-request-id", "1"),)


def test_headers_keep_their_order_and_come_twice() -> None:
    given = [("Accept", "a"), ("X", "x"), ("User-Agent", "u"), ("ACCEPT", "b")]
    assert secrets.headers(given, secrets.REQUEST_HEADERS) == (("accept", "a"), ("user-agent", "u"), ("accept", "b"))


@pytest.mark.parametrize(
    "name",
    ["key", "sig", "token", "api-key", "api_key", "KEY", "Token", "k%65y", "access_token", "%61pi-key", "code", "password"],
)
def test_a_secret_query_parameter_loses_its_value(name: str) -> None:
    assert secrets.query(f"a=1&{name}={SECRET}&b=2") == f"a=1&{name}=REDACTED&b=2"
    assert secrets.query(f"{name}={SECRET}={SECRET}") == f"{name}=REDACTED"
    assert SECRET not in secrets.query(f"{name}={SECRET}&{name}={SECRET}")


@pytest.mark.parametrize(
    "query", ["", "a=1", "a", "&&", "monkey=1", "keys=2", "include[]=a%5B%2A%5D&x=%20+", "a==b", "key", "%zz=%", "é=ü"]
)
def test_a_query_without_secrets_stays_as_it_is(query: str) -> None:
    assert secrets.query(query) == query


@given(st.text())
def test_any_query_is_taken(query: str) -> None:
    secrets.query(query)


TOOL = {"type": "mcp", "server_label": "l", "server_url": "https://x"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"tools": [{**TOOL, "headers": {"X": SECRET}}]}, {"tools": [{**TOOL, "headers": "REDACTED"}]}),
        ({"tools": [TOOL, {**TOOL, "authorization": SECRET}]}, {"tools": [TOOL, {**TOOL, "authorization": "REDACTED"}]}),
        (
            {"tool_approvals": [{"tool_call_id": "c", "headers": {"A": SECRET}}]},
            {"tool_approvals": [{"tool_call_id": "c", "headers": "REDACTED"}]},
        ),
        (
            {"tool_resources": {"mcp": [{"server_label": "l", "headers": {"A": SECRET}}]}},
            {"tool_resources": {"mcp": [{"server_label": "l", "headers": "REDACTED"}]}},
        ),
        (
            {"assistant": {"tools": [{**TOOL, "headers": [["A", SECRET]]}]}},
            {"assistant": {"tools": [{**TOOL, "headers": "REDACTED"}]}},
        ),
        ({"tools": [{**TOOL, "headers": SECRET}]}, {"tools": [{**TOOL, "headers": "REDACTED"}]}),
    ],
)
def test_a_secret_field_of_a_body_is_replaced(given: dict[str, Any], kept: dict[str, Any]) -> None:
    found = secrets.body(json.dumps(given).encode())
    assert json.loads(found) == kept
    assert SECRET.encode() not in found


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'\xef\xbb\xbf{"tools": [{"headers": {"A": "sk-very-secret"}}]}', id="byte order mark"),
        pytest.param(b'{"tools": [{"headers": {"A": "sk-very-secret"}}], "tools": []}', id="name twice"),
        pytest.param(b'{"tools": [{"headers": {"A": "sk-very-secret"}, "headers": "REDACTED"}]}', id="field twice"),
        pytest.param(b'{"tools": [{"headers": {"A": "sk-very-secret"}, "x": "\\ud800"}]}', id="lone surrogate"),
        pytest.param(b'{"tools": [{"headers": {"A": "sk-very-secret"}, "x": 1' + b"0" * 5000 + b"}]}", id="a huge number"),
        pytest.param(b'{"tools": [{"headers": {"A": "sk-very-secret"}, "x": NaN}]}', id="NaN"),
        pytest.param(b'{"tools": [{"h\\u0065aders": {"A": "sk-very-secret"}}]}', id="escaped name"),
        pytest.param(b'  {"tools": [{"headers": {"A": "sk-very-secret"}}]}\r\n', id="white space"),
        pytest.param(
            b'{"tools": [{"headers": {"A": "sk-very-secret"}}], "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", id="deep nesting"
        ),
    ],
)
def test_a_body_that_parsers_take_differently_keeps_no_secret(body: bytes) -> None:
    assert b"sk-very-secret" not in secrets.body(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json: headers",
        b'{ "tools" : [ {"type":"function", "function": {"parameters": {"properties": {"headers": {"type": "object"}}}}} ] }',
        b'{"metadata": {"headers": "mine"},  "n": 1.0}',
        b'[{"headers": 1}]',
        b'"headers"',
        b'{"tools": "headers"}',
        b'{"tools": ["headers", null, 1]}',
        b'{"tools": [{"headers": "REDACTED"}]}',
        b"headers" + bytes(range(256)),
    ],
)
def test_a_body_without_secrets_stays_byte_for_byte(body: bytes) -> None:
    """Also where an argument of a function, or a key of the user's own, has the name of a secret field."""
    assert secrets.body(body) == body


@given(st.binary())
def test_any_body_is_taken(body: bytes) -> None:
    assert b"headers" in body or secrets.body(body) == body


NAMES = st.sampled_from(["tools", "tool_approvals", "tool_resources", "mcp", "headers", "authorization", "assistant", "x"])
LEAVES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@given(VALUES)
def test_redacting_twice_is_redacting_once(value: Any) -> None:
    once = secrets.body(json.dumps(value).encode())
    assert secrets.body(once) == once
