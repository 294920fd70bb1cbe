"""The openai SDKs meet the same events and errors whichever way they go, and the log holds what was sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks.peers import Missing
from tests.recorded import Recorded
from tests.sdk.calls import FOLDER, OWN, RUNGS, answering, bodies, calls, left_out, names, pieces, sent
from tests.sdk.matrix import NODE, PYTHONS, WAYS, Client, Matrix, Said, differences, ways
from tests.upstream import Upstream

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared")]

CLIENTS = [*PYTHONS, NODE]

RAISING = {
    "assistants-docs-create-thread-and-run-openai-openapi.sse",  # data that is no JSON, as published
    "assistants-docs-function-requires-action-openai-openapi.sse",
    "chat-groq-error-event-mid-stream-pydantic-ai.sse",
    "chat-openrouter-error-in-chunk-pydantic-ai.sse",
    "responses-error-quota-mid-stream-langwatch.sse",
    "own-chat-broken-off",
    "own-run-broken-off",
    "own-run-refused",
}
"""Where an SDK raises by itself, so that it must raise whichever way it goes."""

RAISING_IN_NODE = {
    "assistants-error-event-mid-stream-simple-openai.sse",  # Python takes the error for an event of the union
    "assistants-no-blank-lines-openai-php.sse",  # one long event, whose end Python waits for in vain
    "azure-agents-mcp-submit-tool-approval-azure-sdk-python.sse",  # a step that is created twice
}

SHOWN = 10  # differences in the message of a test that fails


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, shared: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    chosen = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    clients = {item.callspec.params["client"]: None for item in chosen if "client" in item.callspec.params}
    with (
        Upstream() as upstream,
        Matrix(answering(upstream).origin, calls(), tmp_path_factory.mktemp("matrix"), clients) as matrix,
    ):
        yield matrix
        assert upstream.errors == []


def told(matrix: Matrix, client: Client, way: str) -> list[Said]:
    try:
        return matrix.told(client, way)
    except Missing as error:
        pytest.skip(str(error))


def every(*chosen: str) -> pytest.MarkDecorator:
    """Each client with each of these ways that is open to it."""
    pairs = [(client, way) for client in CLIENTS for way in chosen if way in ways(client)]
    return pytest.mark.parametrize(("client", "way"), pairs, ids=[f"{client}-{way}" for client, way in pairs])


@every("direct")
def test_the_sdk_gets_what_was_sent(client: Client, way: str, matrix: Matrix) -> None:
    """What the ways are compared with is all there: else they could all be equally empty."""
    raising = RAISING | RAISING_IN_NODE if client == NODE else RAISING
    direct = told(matrix, client, way)
    assert {call.name for call, said in zip(matrix.calls, direct, strict=True) if "call" in said["errors"]} == raising
    for call, said in zip(matrix.calls, direct, strict=True):
        if call.name.endswith(".json"):
            assert said["result"], call.id
        elif call.name not in raising:
            blocks = sent(call.name).replace(b"\r\n", b"\n").split(b"\n\n")
            if client != NODE:
                del blocks[-1]  # what has no blank line after it is no event
            data = [block for block in blocks if b"data: " in block and b"data: [DONE]" not in block]
            assert len(said["events"]) == len(data), call.id


@every(*(way for way in WAYS if way != "direct"))
def test_the_sdk_meets_the_same(client: Client, way: str, matrix: Matrix) -> None:
    found = differences(matrix.calls, told(matrix, client, "direct"), told(matrix, client, way))
    shown = "\n".join(found[:SHOWN])
    assert not found, f"{len(found)} of {len(matrix.calls)} calls of {client} differ, {way} from direct:\n{shown}"


@every(*(way for way in WAYS if way.startswith(("served", "replayed"))))
def test_the_recording_is_found_by_the_whole_request_or_by_its_turn(client: Client, way: str, matrix: Matrix) -> None:
    """That answers come in their turn is what the comparison shows; here: that it had to be by their turn."""
    for call, said in zip(matrix.calls, told(matrix, client, way), strict=True):
        rung = RUNGS[call.changing] if call.changing else "exact"
        assert said["match"] in (rung, None if rung == "exact" else rung), call.id  # None: helpers do not show it


@every("proxy", "hook")
def test_the_log_holds_what_was_sent(client: Client, way: str, matrix: Matrix) -> None:
    said = told(matrix, client, way)
    recorded = Recorded(matrix.database(client, way))
    streams = recorded.streams()
    answers = [(call, one, body) for call, one in zip(matrix.calls, said, strict=True) for body in bodies(call)]
    assert [stream.path for stream in streams] == [call.path for call, _, _ in answers]
    for (call, one, expected), stream in zip(answers, streams, strict=True):
        body = recorded.body(stream.stream_id)
        # An SDK that raises, or asks again, reads no further; the proxy breaks off with its client.
        raised = "call" in one["errors"]
        unread = raised and (way == "hook" or recorded.outcome(stream.stream_id) == "client_closed")
        if unread or expected != bodies(call)[-1]:
            assert expected.startswith(body), call.id
        else:
            assert body == expected, call.id
    recorded.engine.dispose()


@every("proxy", "hook")
def test_what_the_sdk_asked_again_is_recorded_both_times(client: Client, way: str, matrix: Matrix) -> None:
    told(matrix, client, way)
    recorded = Recorded(matrix.database(client, way))
    retried = [stream.stream_id for stream in recorded.streams() if b'"retried"' in (stream.request_body or b"")]
    ends = [(recorded.said(stream_id, "$response")[0]["status"], recorded.outcome(stream_id)) for stream_id in retried]
    assert ends == [(429, "http_error"), (200, "done")] * sum(call.name.endswith("-retried") for call in matrix.calls)
    recorded.engine.dispose()


def test_the_upstream_cuts_within_events_and_characters() -> None:
    for name in names():
        assert b"".join(pieces(name)) == sent(name)
    starts = [piece for name in names() for piece in pieces(name)]
    assert sum(piece[0] & 0xC0 == 0x80 for piece in starts) > 100
    assert sum(not piece.endswith(b"\n") for piece in starts) > 1000


def test_every_shared_stream_is_asked_for_or_left_out_with_a_reason() -> None:
    asked = {call.name for call in calls()}
    there = {path.name for path in FOLDER.iterdir()} - {"PROVENANCE.md"}
    assert asked - set(OWN) | set(left_out()) == {name for name in there if not name.endswith(".request.json")}
