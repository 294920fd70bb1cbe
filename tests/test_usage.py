"""Tokens and costs as they were billed, in the dialects of those who count them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from recorder import database
from recorder.prices import Prices
from recorder.projections import costs, runner
from recorder.projections.usage import usage_hourly
from recorder.protocols.merge import merge
from recorder.protocols.usage import Counts, follow, read, reported_cost
from recorder.protocols.view import RunView
from tests import test_anthropic as anthropic
from tests import writing
from tests.chatting import CHAT, END, KEY, choice, chunk, completion, said
from tests.responding import replied
from tests.test_responses import body
from tests.writing import contribution, kinds

Object = dict[str, Any]


def counted(prompt: Any, completion: Any, total: Any = None, **more: Any) -> Object:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def thought(count: int) -> Object:
    return {"completion_tokens_details": {"reasoning_tokens": count}}


def cache(**counts: Any) -> Object:
    return {"prompt_tokens_details": counts}


DIALECTS: list[tuple[str, Object, str, Counts]] = [
    ("openai", counted(7, 5, 12, **cache(cached_tokens=2), **thought(1)), "gpt-5", Counts(7, 2, None, 5, 1, 12)),
    ("xai", counted(12, 1, 399, **cache(cached_tokens=2), **thought(386)), "grok-3-mini", Counts(12, 2, None, 387, 386, 399)),
    ("xai without a total", counted(12, 9, **thought(3)), "grok-4", Counts(12, None, None, 12, 3, 24)),
    ("without a total", counted(12, 9), "mine", Counts(12, None, None, 9, None, 21)),
    ("without a total, by other names", {"input_tokens": 12, "output_tokens": 9}, "mine", Counts(12, None, None, 9, None, 21)),
    ("xai with reasoning inside", counted(12, 9, 21, **thought(3)), "grok-5", Counts(12, None, None, 9, 3, 21)),
    ("beside, under any name", counted(12, 1, 399, **thought(386)), "mine", Counts(12, None, None, 387, 386, 399)),
    ("gemini", counted(10, 9, 119), "google/gemini-2.5-pro", Counts(10, None, None, 109, 100, 119)),
    ("gemini on vertex", counted(10, 9, 119, **thought(100)), "google/gemini-3", Counts(10, None, None, 109, 100, 119)),
    ("perplexity", counted(33, 71, 104, reasoning_tokens=739), "sonar-deep-research", Counts(33, None, None, 810, 739, 843)),
    ("sglang", counted(33, 71, 104, reasoning_tokens=40), "qwen3", Counts(33, None, None, 71, 40, 104)),
    ("more reasoning than completion", counted(43, 10, 53, **thought(11)), "z-ai/glm", Counts(43, None, None, 10, 11, 53)),
    (
        "deepseek",
        counted(17, 4, 21, prompt_cache_hit_tokens=5, prompt_cache_miss_tokens=12),
        "",
        Counts(17, 5, None, 4, None, 21),
    ),
    ("deepseek, hit and missed", {"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 12}, "", Counts(17, 5)),
    ("moonshot", counted(17, 4, 21, cached_tokens=5), "kimi-k2", Counts(17, 5, None, 4, None, 21)),
    ("mistral", counted(17, 4, 21, num_cached_tokens=5), "mistral-large", Counts(17, 5, None, 4, None, 21)),
    ("openrouter", counted(50, 4, 54, **cache(cached_tokens=0, cache_write_tokens=48)), "", Counts(50, 0, 48, 4, None, 54)),
    ("litellm", counted(50, 4, 54, **cache(cached_tokens=0, cache_creation_tokens=48)), "", Counts(50, 0, 48, 4, None, 54)),
    ("dashscope", counted(50, 4, 54, **cache(cache_creation_input_tokens=48)), "", Counts(50, None, 48, 4, None, 54)),
    (
        "by how long",
        counted(50, 4, 54, **cache(cache_creation={"ephemeral_1h_input_tokens": 48})),
        "",
        Counts(50, None, 48, 4, None, 54),
    ),
    (
        "litellm, null",
        counted(50, 4, 54, prompt_tokens_details=None, cache_read_input_tokens=48),
        "",
        Counts(50, 48, None, 4, None, 54),
    ),
    (
        "litellm, 0",
        counted(50, 4, 54, **cache(cached_tokens=0), cache_read_input_tokens=48),
        "",
        Counts(50, 48, None, 4, None, 54),
    ),
    (
        "cache beside",
        counted(2, 4, 54, cache_read_input_tokens=40, cache_creation_input_tokens=8),
        "",
        Counts(50, 40, 8, 4, None, 54),
    ),
    (
        "written beside",
        counted(42, 4, 54, cache_read_input_tokens=40, cache_creation_input_tokens=8),
        "",
        Counts(50, 40, 8, 4, None, 54),
    ),
    ("not in the total", counted(2, 4, 6, cache_read_input_tokens=48), "", Counts(50, 48, None, 4, None, 54)),
    ("all beside", counted(2, 4, 64, cached_tokens=48, reasoning_tokens=10), "", Counts(50, 48, None, 14, 10, 64)),
    ("bedrock", {"inputTokens": 2, "outputTokens": 4, "totalTokens": 6}, "", Counts(2, None, None, 4, None, 6)),
    ("floats and texts", counted(2.0, "4", 6), "", Counts(2, None, None, 4, None, 6)),
    ("nothing", {}, "", Counts()),
    ("no numbers", counted(True, [], "x", prompt_tokens_details=[]), "", Counts()),
    ("nonsense", counted(10**300, 4, 1e300), "", Counts(None, None, None, 4)),
]


@pytest.mark.parametrize(("usage", "model", "counts"), [case[1:] for case in DIALECTS], ids=[case[0] for case in DIALECTS])
def test_each_dialect_is_read_as_openai_counts(usage: Object, model: str, counts: Counts) -> None:
    reading = read(usage, model)
    assert reading is not None
    assert (reading.counts, reading.problem) == (counts, None)
    if counts.prompt is not None and counts.completion is not None and counts.total is not None:
        assert counts.prompt + counts.completion == counts.total


def viewed(usage: Object) -> RunView:
    return writing.viewed(said(usage=usage), KEY, CHAT, "eof")


@pytest.mark.parametrize("usage", [counted(10, 5, 99), counted(10, 5, 9), counted(10, 5, 99, **thought(3))])
def test_a_total_that_nobody_known_counts_is_an_anomaly(usage: Object) -> None:
    view = viewed(usage)
    assert kinds(view) == ["usage_mismatch"]
    assert view.counts == Counts(
        10, None, None, 5, usage.get("completion_tokens_details", {}).get("reasoning_tokens"), usage["total_tokens"]
    )
    assert view.anomalies[0][3] == f"prompt_tokens 10 + completion_tokens 5 are not total_tokens {usage['total_tokens']}"


def test_a_total_that_the_dialect_explains_is_none() -> None:
    view = viewed(counted(12, 1, 399, **thought(386)))
    assert (kinds(view), view.object["usage"]["completion_tokens"]) == ([], 387)
    assert view.source_object is not None
    assert view.source_object["usage"]["completion_tokens"] == 1


# Counts that are told again


def test_null_says_nothing_and_the_last_that_says_something_counts() -> None:
    have: Object = {}
    assert follow(have, {"a_tokens": 5, "details": {"b_tokens": 3, "c": None}, "cost": 0.5}) == []
    assert follow(have, {"a_tokens": None, "details": {"b_tokens": None}, "cost": 0.25}) == []
    assert follow(have, {"a_tokens": 6, "details": None}) == []
    assert have == {"a_tokens": 6, "details": {"b_tokens": 3, "c": None}, "cost": 0.25}
    assert follow(have, {"a_tokens": 4, "details": {"b_tokens": 0}}) == ["a_tokens from 6 to 4", "b_tokens from 3 to 0"]
    assert (have["a_tokens"], have["details"]["b_tokens"]) == (4, 0)


def test_what_is_followed_leaves_the_events_as_they_came() -> None:
    have: Object = {}
    first: Object = {"details": {"a": 1}}
    follow(have, first)
    follow(have, {"details": {"a": 2}})
    assert first == {"details": {"a": 1}}


REPEATED = [
    ("rises", [counted(9, 1, 10), counted(9, 5, 14)], (9, 5), []),
    ("null", [counted(9, 5, 14), counted(None, None, None)], (9, 5), []),
    ("falls", [counted(9, 5, 14), counted(9, 3, 12)], (9, 3), ["usage_fell"]),
]


@pytest.mark.parametrize(("usages", "counts", "anomalies"), [case[1:] for case in REPEATED], ids=[case[0] for case in REPEATED])
def test_a_completion_repeats_its_usage(usages: list[Object], counts: tuple[int, int], anomalies: list[str]) -> None:
    view = writing.viewed([*said()[:-1], *(chunk(usage=usage) for usage in usages), END], KEY, CHAT, "eof")
    assert view.counts is not None
    assert ((view.counts.prompt, view.counts.completion), kinds(view)) == (counts, anomalies)


@pytest.mark.parametrize(("usages", "counts", "anomalies"), [case[1:] for case in REPEATED], ids=[case[0] for case in REPEATED])
def test_a_message_repeats_its_usage(usages: list[Object], counts: tuple[int, int], anomalies: list[str]) -> None:
    of_anthropic = [{"input_tokens": each["prompt_tokens"], "output_tokens": each["completion_tokens"]} for each in usages]
    deltas = [anthropic.event("message_delta", delta={}, usage=usage) for usage in of_anthropic[1:]]
    view = anthropic.view(anthropic.begun(**of_anthropic[0]), *deltas)
    assert view.counts is not None
    assert ((view.counts.prompt, view.counts.completion), kinds(view)) == (counts, anomalies)


@pytest.mark.parametrize(("usages", "counts", "anomalies"), [case[1:] for case in REPEATED], ids=[case[0] for case in REPEATED])
def test_a_run_repeats_its_usage(usages: list[Object], counts: tuple[int, int], anomalies: list[str]) -> None:
    snapshots = [("thread.run.in_progress", writing.run("in_progress", usage=usage)) for usage in usages]
    view = writing.viewed([*snapshots, ("thread.run.completed", writing.run("completed", usage=None))])
    assert view.counts is not None
    assert ((view.counts.prompt, view.counts.completion), kinds(view)) == (counts, anomalies)


def test_a_poll_without_usage_takes_none_away() -> None:
    first = body(writing.run("completed", usage=counted(9, 5, 14)), writing.THREADS)
    again = body(writing.run("completed", usage=None), writing.THREADS)
    view = merge("run_1", [contribution(first, "run_1", 0), contribution(again, "run_1", 1)])
    assert view.object["usage"] == counted(9, 5, 14)


def test_counts_of_several_choices_are_not_those_of_one() -> None:
    choices = [
        {"index": index, "delta": {}, "finish_reason": "stop", "usage": counted(9, 5 - index, 14 - index)} for index in (0, 1)
    ]
    assert kinds(writing.viewed([chunk(*choices), END], KEY, CHAT, "eof")) == []


@pytest.mark.parametrize("where", ["choices", "x_groq"])
def test_a_completion_that_came_whole_says_it_where_its_stream_would(where: str) -> None:
    found = completion({"role": "assistant", "content": "Hi"})
    found.pop("usage", None)
    holder = found["choices"][0] if where == "choices" else found.setdefault("x_groq", {})
    holder["usage"] = counted(9, 5, 14)
    fold = body(found, CHAT)
    assert merge(KEY, [contribution(fold, KEY)]).object["usage"] == counted(9, 5, 14)


# What Anthropic bills one by one


def iteration(type: str, read: int, written: int, **more: Any) -> Object:
    return {"type": type, "input_tokens": read, "output_tokens": written, **more}


def test_what_was_billed_is_the_sum_of_the_iterations() -> None:
    each = [iteration("compaction", 180, 35, cache_read_input_tokens=7), iteration("message", 23, 10)]
    usage = {"input_tokens": 23, "output_tokens": 10, "iterations": each, "output_tokens_details": {"thinking_tokens": 4}}
    view = anthropic.view(anthropic.begun(input_tokens=23), anthropic.event("message_delta", delta={}, usage=usage))
    assert view.counts == Counts(210, 7, None, 45, 4, 255)
    assert view.object["usage"]["iterations"] == each
    assert kinds(view) == []


def test_iterations_that_are_less_than_their_sum_are_an_anomaly_and_no_loss() -> None:
    usage = {"input_tokens": 23, "output_tokens": 10, "iterations": [iteration("message", 3, 10)]}
    view = anthropic.view(anthropic.begun(), anthropic.event("message_delta", delta={}, usage=usage))
    assert view.counts == Counts(23, None, None, 10, None, 33)
    assert kinds(view) == ["usage_mismatch"]


# What the provider says that it billed


@pytest.mark.parametrize(
    ("usage", "nusd"),
    [
        ({"cost": 0.25}, 250_000_000),
        ({"cost": 1.13e-05}, 11_300),
        ({"cost": "0.5"}, 500_000_000),
        ({"cost": 0}, 0),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 210_000_000),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
        ({"cost": 0.2, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, 200_000_000),
        ({"cost": {"total_cost": 0.006, "request_cost": 0.005}}, 6_000_000),
        ({"cost": {"total_cost": 0.006, "currency": "EUR"}}, None),
        ({"cost_in_usd_ticks": 37_756_000}, 3_775_600),
        ({"estimated_cost": 0.00002}, 20_000),
        ({"cost": None}, None),
        ({"cost": -1}, None),
        ({"cost": True}, None),
        ({"cost": "NaN"}, None),
        ({"cost": 1e300}, None),
        ({"cost": []}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_reported_cost_is_read_in_its_unit(usage: Any, nusd: int | None) -> None:
    assert reported_cost(usage) == nusd


def cost_of(engine: sa.Engine) -> list[tuple[int, str, str]]:
    with database.read(engine) as connection:
        columns = costs.costs.c
        return [tuple(row) for row in connection.execute(sa.select(columns.cost_nusd, columns.source, columns.price_model))]


def write(engine: sa.Engine, events: list[writing.Event], path: str, host: str = "api.openai.com") -> None:
    stream = writing.on("thread_1")._replace(host=host, path=path, method="POST", request_body=b"{}")
    writing.write(engine, stream, writing.frames(events))


def messages(model: str, usage: Object) -> list[writing.Event]:
    """The events of a message with no content."""
    begun = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "usage": {"input_tokens": 9}}
    return [
        ("message_start", {"type": "message_start", "message": begun}),
        ("message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}),
        ("message_stop", {"type": "message_stop"}),
    ]


MODEL = "new/one"

REPORTING: dict[str, list[writing.Event]] = {
    "/v1/chat/completions": [chunk(choice({"content": "Hi"}, "stop"), model=MODEL, usage=counted(9, 5, 14, cost=0.25)), END],
    "/v1/responses": replied(model=MODEL, usage={"input_tokens": 9, "output_tokens": 5, "total_tokens": 14, "cost": 0.25}),
    "/v1/messages": messages(MODEL, {"output_tokens": 5, "cost": 0.25}),
}


@pytest.mark.parametrize("path", REPORTING)
def test_what_the_provider_says_is_the_cost_where_no_price_is_known(path: str, engine: sa.Engine) -> None:
    write(engine, REPORTING[path], path)
    runner.catch_up(engine)
    assert cost_of(engine) == [(250_000_000, "provider", MODEL)]


def test_what_the_provider_says_needs_no_prices(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recorder.prices.load", lambda given=None: Prices(library=False))
    monkeypatch.setattr("recorder.prices.wanted", lambda: False)
    write(engine, REPORTING["/v1/responses"], "/v1/responses")
    runner.catch_up(engine)
    assert cost_of(engine) == [(250_000_000, "provider", MODEL)]
    with database.read(engine) as connection:
        assert connection.execute(sa.select(usage_hourly.c.cost_nusd)).scalar_one() == 250_000_000


def test_a_known_price_goes_before_what_the_provider_says(engine: sa.Engine) -> None:
    write(engine, [chunk(choice({}, "stop"), usage=counted(1000, 100, 1100, cost=0.25)), END], "/v1/chat/completions")
    runner.catch_up(engine)
    [(nusd, source, model)] = cost_of(engine)
    assert source.startswith("genai-prices ")
    assert (nusd, model) == (1000 * 2000 + 100 * 8000, "openai/gpt-4.1")


def test_an_advisor_has_the_price_of_its_own_model(engine: sa.Engine) -> None:
    each = [iteration("message", 1000, 100), iteration("advisor_message", 2000, 50, model="claude-opus-4-5")]
    usage = {"input_tokens": 1000, "output_tokens": 100, "iterations": each}
    write(engine, messages("claude-sonnet-4-5", usage), "/v1/messages", "api.anthropic.com")
    runner.catch_up(engine)
    [(nusd, _, _)] = cost_of(engine)
    assert nusd == 1000 * 3000 + 100 * 15_000 + 2000 * 5000 + 50 * 25_000
