"""Prices: costs are exactly what the price list says, and whatever is not known has none."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices
from hypothesis import given
from hypothesis import strategies as st

from recorder import prices
from recorder.errors import UsageError
from recorder.prices import LARGEST, Prices, Tokens, priced

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OPENAI, ANTHROPIC, AZURE = "api.openai.com", "api.anthropic.com", "res.openai.azure.com"
LISTED = Prices()

SNAPSHOT = get_snapshot()


def of(model: str, provider: str = "openai", at: datetime = NOW) -> dict[str, Decimal]:
    """The list's own prices for a million tokens."""
    _, info = SNAPSHOT.find_provider_model(model, None, provider, None)
    return {name: value for name, value in vars(info.get_prices(at)).items() if isinstance(value, Decimal)}


def nusd(dollars: Decimal) -> int:
    """Billionths of a dollar, by the decimal module."""
    return int((dollars * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-5", "o3"])
@pytest.mark.parametrize(("protocol", "host"), [("assistants", OPENAI), ("responses", OPENAI), ("chat", OPENAI), ("chat", "")])
def test_a_run_costs_its_tokens_at_the_list_s_prices(protocol: str, host: str, model: str) -> None:
    per = of(model)
    found = LISTED.cost(protocol, host, model, NOW, Tokens(12_345, 2_048, None, 678, 600))
    want = (Decimal(12_345 - 2_048) * per["input_mtok"] + 2_048 * per["cache_read_mtok"] + 678 * per["output_mtok"]) / 10**6
    assert found is not None
    assert found.nusd == nusd(want)
    assert found.model.startswith("openai/")
    assert found.source.startswith("genai-prices ")


def test_gpt_4o_costs_what_it_is_known_to() -> None:
    """$2.50, $1.25 and $10.00 for a million tokens."""
    found = LISTED.cost("chat", OPENAI, "gpt-4o-2024-08-06", NOW, Tokens(1000, 400, 0, 100, 50))
    assert found is not None
    assert found.nusd == 600 * 2500 + 400 * 1250 + 100 * 10_000
    assert found.model == "openai/gpt-4o"


def test_what_the_cache_gave_and_took_is_billed_once_and_at_its_own_price() -> None:
    per = of("claude-3-5-sonnet-20241022", "anthropic")
    found = LISTED.cost("anthropic", ANTHROPIC, "claude-3-5-sonnet-20241022", NOW, Tokens(10_000, 6_000, 3_000, 100, None))
    want = 1_000 * per["input_mtok"] + 6_000 * per["cache_read_mtok"] + 3_000 * per["cache_write_mtok"] + 100 * per["output_mtok"]
    assert found is not None
    assert found.nusd == nusd(want / 10**6)
    without = LISTED.cost("anthropic", ANTHROPIC, "claude-3-5-sonnet-20241022", NOW, Tokens(10_000, None, None, 100, None))
    assert without is not None
    assert without.nusd == nusd((10_000 * per["input_mtok"] + 100 * per["output_mtok"]) / 10**6)
    assert found.nusd < without.nusd


def test_what_is_cached_of_a_model_without_a_price_for_it_is_plain_input() -> None:
    per = of("gpt-4-1106-preview")
    assert "cache_read_mtok" not in per
    found = LISTED.cost("assistants", OPENAI, "gpt-4-1106-preview", NOW, Tokens(100, 40, 10, 5, None))
    assert found is not None
    assert found.nusd == nusd((100 * per["input_mtok"] + 5 * per["output_mtok"]) / 10**6)


@pytest.mark.parametrize(
    ("protocol", "host", "model", "named"),
    [
        ("assistants", AZURE, "gpt-4o", "azure/gpt-4o"),
        ("assistants", AZURE, "gpt-35-turbo", "azure/gpt-3.5-turbo"),
        ("responses", "x.services.ai.azure.com", "gpt-4o-mini", "azure/gpt-4o-mini"),
        ("assistants", AZURE, "my-deployment", None),
        ("anthropic", "gateway.invalid", "claude-3-5-sonnet-20241022", "anthropic/claude-3-5-sonnet"),
        ("anthropic", "", "gpt-4o", None),
        ("chat", "eu.api.openai.com", "gpt-4o", "openai/gpt-4o"),
        ("chat", "127.0.0.1:4000", "openai/gpt-4o", "openai/gpt-4o"),
        ("chat", "gateway.invalid", "gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("chat", "api.anthropic.com", "claude-3-5-sonnet-20241022", "anthropic/claude-3-5-sonnet"),
        ("chat", "api.groq.com", "gpt-4o", None),
        ("chat", OPENAI, "a-model-that-nobody-sells", None),
        ("chat", OPENAI, "", None),
        ("chat", OPENAI, None, None),
        (None, "", "gpt-4o", "openai/gpt-4o"),
    ],
)
def test_the_seller_is_told_from_the_host_else_the_protocol_else_the_model(
    protocol: str | None, host: str, model: str | None, named: str | None
) -> None:
    found = LISTED.price(protocol, host, model, NOW)
    assert (found.model if found else None) == named


@pytest.mark.parametrize(
    "tokens",
    [
        Tokens(None, 1, None, 10, None),
        Tokens(10, 1, None, None, None),
        Tokens(None, None, None, None, None),
        Tokens(10, 11, None, 1, None),
        Tokens(10, 6, 5, 1, None),
        Tokens(-1, None, None, 1, None),
        Tokens(5, -1, None, 1, None),
        Tokens(5, None, None, -1, None),
        Tokens(2**40, None, None, 2**40, None),
    ],
)
def test_tokens_that_are_not_known_or_make_no_sense_cost_what_nobody_knows(tokens: Tokens) -> None:
    assert LISTED.cost("chat", OPENAI, "gpt-4o", NOW, tokens) is None


def test_no_tokens_cost_nothing() -> None:
    found = LISTED.cost("chat", OPENAI, "gpt-4o", NOW, Tokens(0, None, None, 0, None))
    assert found is not None
    assert found.nusd == 0


def test_a_model_that_is_not_sold_by_tokens_has_no_price() -> None:
    """A transcription is paid by the hour: its tokens would cost nothing."""
    by_time = next(
        info
        for provider in SNAPSHOT.providers
        if provider.id == "groq"
        for info in provider.models
        if "input_mtok" not in vars(info.get_prices(NOW)) and "output_mtok" not in vars(info.get_prices(NOW))
    )
    assert LISTED.price("chat", "api.groq.com", by_time.id, NOW) is None


def test_a_price_holds_from_its_day_on() -> None:
    """OpenAI lowered o3 from $10 to $2 on 2025-06-10."""
    before = LISTED.price("chat", OPENAI, "o3", datetime(2025, 6, 9, 23, 59, tzinfo=UTC))
    after = LISTED.price("chat", OPENAI, "o3", datetime(2025, 6, 10, tzinfo=UTC))
    assert before is not None
    assert after is not None
    million = Tokens(10**6, 0, 0, 0, 0)
    assert (before.cost(million), before.date) == (10 * 10**9, None)
    assert (after.cost(million), after.date) == (2 * 10**9, "2025-06-10")


def test_a_price_that_changes_with_the_hour_is_that_of_the_hour() -> None:
    """Each look-up as the list has it, though days are remembered."""
    sold, seen = Prices(), set()
    for hour in range(24):
        at = datetime(2025, 8, 1, hour, 45, tzinfo=UTC)
        found = sold.cost("chat", "api.deepseek.com", "deepseek-chat", at, Tokens(1000, 0, 0, 1000, 0))
        usage = Usage(input_tokens=1000, output_tokens=1000)
        want = calc_price(usage, "deepseek-chat", provider_id="deepseek", genai_request_timestamp=at)
        assert found is not None
        assert found.nusd == nusd(want.total_price)
        seen.add(found.nusd)
    assert len(seen) == 2


# Against the library's own sum


def everything() -> list[tuple[Provider, ModelInfo]]:
    """All that the list sells by tokens."""
    return [
        (provider, info)
        for provider in SNAPSHOT.providers
        for info in provider.models
        if info.get_prices(NOW).input_mtok is not None and info.get_prices(NOW).output_mtok is not None
    ]


def test_every_model_costs_what_the_library_says_of_it() -> None:
    usages = [Tokens(1234, 200, 30, 567, None), Tokens(300_001, 100_000, 50, 77, None), Tokens(50, None, None, 0, None)]
    tiered = plain = 0
    for provider, info in everything():
        price = info.get_prices(NOW)
        mine = priced("x", None, "x", prices._levels(price), _requests(price))
        tiered += any(isinstance(value, TieredPrices) for value in vars(price).values())
        plain += 1
        for tokens in usages:
            usage = Usage(
                input_tokens=tokens.prompt,
                cache_read_tokens=tokens.cached,
                cache_write_tokens=tokens.cache_write,
                output_tokens=tokens.completion,
            )
            want = info.calc_price(usage, provider, genai_request_timestamp=NOW).total_price
            assert mine.cost(tokens) == nusd(want), (provider.id, info.id, tokens)
    assert plain > 500
    assert tiered > 20


def _requests(price: ModelPrice) -> Decimal | None:
    found = price.requests_kcount
    return found / 1000 if isinstance(found, Decimal) else None


@given(
    dollars=st.lists(st.decimals(0, 1000, places=6, allow_nan=False), min_size=4, max_size=4),
    counts=st.lists(st.integers(0, 10**7), min_size=4, max_size=4),
)
def test_costs_are_exact_and_halves_go_to_the_even(dollars: list[Decimal], counts: list[int]) -> None:
    price = priced("x", None, "x", [(-1, dict(zip(("input", "cached", "cache_write", "output"), dollars, strict=True)))])
    plain, cached, written_, completion = counts
    exact = sum((Fraction(rate) * count * 1000 for rate, count in zip(dollars, counts, strict=True)), Fraction(0))
    found = price.cost(Tokens(plain + cached + written_, cached, written_, completion, None))
    assert found == (round(exact) if exact < LARGEST else None)  # round() takes the even


def test_reasoning_that_has_a_price_of_its_own_is_not_billed_twice() -> None:
    price = priced("x", None, "x", [(-1, {"input": 1, "output": 2, "reasoning": 5})])
    assert price.cost(Tokens(0, 0, 0, 100, 60)) == 40 * 2000 + 60 * 5000
    assert price.cost(Tokens(0, 0, 0, 100, None)) == 100 * 2000
    assert price.cost(Tokens(0, 0, 0, 100, 101)) is None


# The user's file

FILE = """
[prices."gpt-4o"]
input = 1
output = 2.5

[prices."my-deployment"]
input = 2.00
cached = 0.50
cache_write = 2.75
output = 8
requests = 0.01

[[prices."ft:gpt-4o*"]]
input = 3.75
output = 15

[[prices."ft:gpt-4o*"]]
from = 2026-01-01
input = 3
output = 12

[prices."later"]
from = 2026-01-01
input = 1
output = 1

[prices."*-mini"]
input = 0.000001
output = 0
"""


def test_the_user_s_file_goes_before_the_library_s_list(tmp_path: Path) -> None:
    mine = prices.load(written(tmp_path, FILE))
    tokens = Tokens(1_000, 100, 10, 7, None)
    found = mine.cost("chat", OPENAI, "gpt-4o", NOW, tokens)
    assert found == (1_000 * 1000 + 7 * 2500, "gpt-4o", None, "mine.toml")
    found = mine.cost("assistants", AZURE, "my-deployment", NOW, tokens)
    assert found == (890 * 2000 + 100 * 500 + 10 * 2750 + 7 * 8000 + 10_000_000, "my-deployment", None, "mine.toml")
    listed = mine.cost("chat", OPENAI, "gpt-5", NOW, tokens)
    assert listed == LISTED.cost("chat", OPENAI, "gpt-5", NOW, tokens) is not None


def test_the_user_s_prices_are_found_by_name_else_by_glob_and_by_their_day(tmp_path: Path) -> None:
    mine = prices.load(written(tmp_path, FILE))

    def at(model: str, *day: int) -> Any:
        found = mine.cost("chat", OPENAI, model, datetime(*day, 23, 59, tzinfo=UTC), Tokens(1000, 0, 0, 0, 0))  # type: ignore[misc, arg-type]
        return found and (found.nusd, found.model, found.date)

    assert at("ft:gpt-4o-2024-08-06:me::x", 2025, 12, 31) == (3_750_000, "ft:gpt-4o*", None)
    assert at("ft:gpt-4o-2024-08-06:me::x", 2026, 1, 1) == (3_000_000, "ft:gpt-4o*", "2026-01-01")
    assert at("later", 2026, 1, 1) == (1_000_000, "later", "2026-01-01")
    assert at("later", 2025, 12, 31) is None
    assert at("my-mini", 2026, 1, 1) == (1, "*-mini", None)
    assert at("gpt-4o", 2026, 1, 1) == (1_000_000, "gpt-4o", None)


def test_the_environment_names_a_file_that_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "[prices.x]\ninput = 1\noutput = 1\n")
    monkeypatch.setenv("RECORDER_PRICES", str(file))
    thousand = Tokens(1000, 0, 0, 0, 0)
    found = prices.load().cost("chat", "", "x", NOW, thousand)
    assert found is not None
    assert found.nusd == 1_000_000
    written(tmp_path, "[prices.x]\ninput = 25\noutput = 1\n")
    found = prices.load().cost("chat", "", "x", NOW, thousand)
    assert found is not None
    assert found.nusd == 25_000_000
    monkeypatch.delenv("RECORDER_PRICES")
    assert prices.load().cost("chat", "", "x", NOW, thousand) is None


WRONG = [
    ("[price.x]\ninput = 1\noutput = 1", "prices is missing"),
    ("", "prices is missing"),
    ("prices = 3", "prices cannot be '3'"),
    ("[prices]\nx = 3", "prices.x cannot be '3'"),
    ("[prices.x]\ninput = 1", "prices.x.output is missing"),
    ("[prices.x]\noutput = 1", "prices.x.input is missing"),
    ("[prices.x]\ninput = 'much'\noutput = 1", "prices.x.input cannot be 'much': give a number"),
    ("[prices.x]\ninput = true\noutput = 1", "prices.x.input cannot be 'True': give a number"),
    ("[prices.x]\ninput = -1\noutput = 1", "prices.x.input cannot be '-1': input should be greater than or equal to 0"),
    ("[prices.x]\ninput = nan\noutput = 1", "prices.x.input cannot be 'NaN'"),
    ("[prices.x]\ninput = inf\noutput = 1", "prices.x.input cannot be"),
    ("[prices.x]\ninput = 1e30\noutput = 1", "prices.x.input cannot be"),
    ("[prices.x]\ninput = 1\noutput = 1\ncahced = 1", "there is no prices.x.cahced; there is cache_write, cached, from, input"),
    ("[prices.x]\ninput = 1\noutput = 1\nfrom = 'soon'", "prices.x.from cannot be 'soon'"),
    ("[prices.x]\ninput = 1\noutput = 1\n[other]", "there is no other; there is prices"),
    ("[[prices.x]]\ninput = 1\noutput = 1\n[[prices.x]]\ninput = 2\noutput = 2", "several of x begin on one day"),
    ("prices 3", "are no TOML"),
]


@pytest.mark.parametrize(("given_", "said"), WRONG)
def test_what_is_wrong_in_a_file_is_said_in_one_line_that_names_the_file_and_the_key(
    tmp_path: Path, given_: str, said: str
) -> None:
    file = written(tmp_path, given_)
    with pytest.raises(UsageError) as caught:
        prices.load(file)
    message = str(caught.value)
    assert message.startswith(f"the prices {file}")
    assert said in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read: No such file"):
        prices.load("nowhere.toml")


# Without the library

WITHOUT = """
import sys
sys.modules["genai_prices"] = None
from datetime import UTC, datetime
from recorder.prices import Tokens, load, wanted
found = load().cost("chat", "api.openai.com", "gpt-4o", datetime(2026, 1, 1, tzinfo=UTC), Tokens(1000, 0, 0, 0, 0))
print(wanted(), bool(load()), found and found.nusd)
"""


@pytest.mark.parametrize(("file", "said"), [(None, "False False None"), (FILE, "True True 1000000")])
def test_without_the_library_there_are_the_prices_of_the_file_alone(tmp_path: Path, file: str | None, said: str) -> None:
    given_ = {} if file is None else {"RECORDER_PRICES": str(written(tmp_path, file))}
    environment = {name: value for name, value in os.environ.items() if name != "RECORDER_PRICES"} | given_
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (said, "")


def test_the_library_is_not_imported_before_a_price_is_asked_of_it() -> None:
    """It takes a third of a second, which no command is to pay that has nothing to price."""
    ask = "import sys; from recorder import prices; prices.load(); print('genai_prices' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", ask], text=True, timeout=60).strip() == "False"
