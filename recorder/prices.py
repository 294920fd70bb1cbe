"""What a run costs: its tokens, at the price of its model on its day.

Prices come from the library genai-prices (the extra `prices`; its list is a part of the package, nothing is fetched), and from a
file of the user's own, which goes before it. Whatever is not known, of a model or of its tokens, has no cost: that is never 0.

The library's own sum takes some 50 µs a run; here a price is looked up once for a model and day, and a cost is a few products of
whole numbers. tests/test_prices.py holds the two together.
"""

from __future__ import annotations

import math
import os
import tomllib
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from recorder import files
from recorder.errors import UsageError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

VARIABLE = "RECORDER_PRICES"
"""The environment variable that names the user's file."""

LIBRARY = "genai_prices"

LARGEST = 2**53
"""Billionths of a dollar beyond which a cost is nonsense (some nine million dollars a run), which sums could not hold."""

_REMEMBERED = 10_000


class Tokens(NamedTuple):
    """As OpenAI counts: the prompt with what the cache gave and took, the completion with its reasoning."""

    prompt: int | None
    cached: int | None
    cache_write: int | None
    completion: int | None
    reasoning: int | None


class Cost(NamedTuple):
    """nusd: billionths of a US dollar. model, date, source: of the price, as Price has them."""

    nusd: int
    model: str
    date: str | None
    source: str


class Rates(NamedTuple):
    """What a token costs, in one unit. None: there is no price for it. requests: what each run costs besides."""

    input: int | None
    cached: int | None
    cache_write: int | None
    output: int | None
    reasoning: int | None
    requests: int


class Price(NamedTuple):
    """What the tokens of a model cost from a day on.

    model: as the price list names it, `openai/gpt-4o`, or the file of the user. date: the day from which it holds, where the list
    says one (a price that has not changed since the list began has none). source: the list and its version, or the file's name.
    unit: how many of the rates' units make a billionth of a dollar. levels: (prompt tokens beyond which they hold, rates).
    """

    model: str
    date: str | None
    source: str
    unit: int
    levels: tuple[tuple[int, Rates], ...]

    def cost(self, tokens: Tokens) -> int | None:
        """Billionths of a US dollar, rounded half to even; None where the tokens are not known or make no sense.

        Where nobody said that any were cached, none were.
        """
        prompt, cached, written, completion, reasoning = tokens
        if prompt is None or completion is None:
            return None
        cached, written, reasoning = cached or 0, written or 0, reasoning or 0
        plain = prompt - cached - written
        if plain < 0 or cached < 0 or written < 0 or completion < 0:
            return None
        rates = next(rates for beyond, rates in reversed(self.levels) if prompt > beyond)
        if rates.reasoning == rates.output:
            reasoning = 0
        said = completion - reasoning
        if said < 0 or reasoning < 0:
            return None
        total = rates.requests
        for count, rate in zip((plain, cached, written, said, reasoning), rates, strict=False):
            if count:
                if rate is None:
                    return None
                total += count * rate
        whole, rest = divmod(total, self.unit)
        whole += 2 * rest > self.unit or (2 * rest == self.unit and whole % 2)
        return whole if whole < LARGEST else None


Dollars = Decimal | int


def priced(
    model: str,
    date: date | None,
    source: str,
    levels: list[tuple[int, dict[str, Dollars | None]]],
    requests: Dollars | None = None,
) -> Price:
    """A price from US dollars for a million tokens, by the names of Rates, and for a run. Exact, whatever their digits.

    What is cached has the price of other input, and reasoning that of other output, where they have none of their own.
    """
    per_run = Fraction(requests or 0) * 10**9
    found = []
    for beyond, dollars in levels:
        own = {name: None if value is None else Fraction(value) * 1000 for name, value in dollars.items()}
        own |= {name: own["input"] for name in ("cached", "cache_write") if own.get(name) is None}
        own |= {"reasoning": own["output"]} if own.get("reasoning") is None else {}
        found.append((beyond, own))
    known = [rate for _, own in found for rate in own.values() if rate is not None]
    unit = math.lcm(per_run.denominator, *(rate.denominator for rate in known))

    def whole(rate: Fraction | None) -> int | None:
        return None if rate is None else int(rate * unit)

    rates = [(beyond, {name: whole(rate) for name, rate in own.items()}) for beyond, own in found]
    levels_of = tuple((beyond, Rates(requests=int(per_run * unit), **own)) for beyond, own in rates)
    return Price(model, None if date is None else date.isoformat(), source, unit, levels_of)


class Prices:
    """All prices that are known: of the user's file, and of the library where it is installed. False where there are none."""

    def __init__(self, file: PriceFile | None = None, source: str = "", *, library: bool | None = None) -> None:
        self._file, self._source = file, source
        self._library = installed() if library is None else library
        self._found: dict[tuple[str | None, str, str, date], Price | None] = {}

    def __bool__(self) -> bool:
        return self._file is not None or self._library

    def price(self, protocol: str | None, host: str, model: str | None, at: datetime) -> Price | None:
        """The price of a model at a time; None where it is not known. host: that was asked for it, '' where nobody knows."""
        if not model:
            return None
        at = at.astimezone(UTC)
        key = (protocol, host, model, at.date())
        try:
            return self._found[key]
        except KeyError:
            pass
        price = self._of_file(model, at.date())
        lasting = True
        if price is None and self._library:
            price, lasting = _of_library(protocol, host, model, at)
        if lasting:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[key] = price
        return price

    def cost(self, protocol: str | None, host: str, model: str | None, at: datetime, tokens: Tokens) -> Cost | None:
        """What a run of that time costs; None where its price or its tokens are not known."""
        price = self.price(protocol, host, model, at)
        nusd = None if price is None else price.cost(tokens)
        return None if price is None or nusd is None else Cost(nusd, price.model, price.date, price.source)

    def _of_file(self, model: str, day: date) -> Price | None:
        if self._file is None:
            return None
        named = self._file.prices
        key = model if model in named else next((glob for glob in named if fnmatchcase(model, glob)), None)
        holding = [entry for entry in named.get(key or "", ()) if entry.since is None or entry.since <= day]
        if key is None or not holding:
            return None
        entry = max(holding, key=lambda entry: entry.since or date.min)
        dollars: dict[str, Dollars | None] = {name: getattr(entry, name) for name in ("input", "cached", "cache_write", "output")}
        return priced(key, entry.since, self._source, [(-1, dollars)], entry.requests)


def installed() -> bool:
    """Whether the library is there. It is not imported: its list takes a third of a second."""
    return find_spec(LIBRARY) is not None


def wanted() -> bool:
    """Whether runs are to be priced at all. Never raises, whatever is in the file."""
    return bool(os.environ.get(VARIABLE)) or installed()


# The library


def _of_library(protocol: str | None, host: str, model: str, at: datetime) -> tuple[Price | None, bool]:
    """(the price, whether it holds all day)"""
    sold = _sold(protocol, host, model)
    if sold is None:
        return None, True
    seller, info = sold
    prices = info.get_prices(at)
    levels = _levels(prices)
    if not any(value is not None for _, dollars in levels for value in dollars.values()):
        return None, True  # of seconds or pixels, none of tokens
    requests = getattr(prices, "requests_kcount", None)
    since, lasting = _since(info, at)
    source = _library_source()
    per_run = requests / 1000 if isinstance(requests, Decimal) else None
    return priced(f"{seller.id}/{info.id}", since, source, levels, per_run), lasting


@cache
def _library_source() -> str:
    return f"genai-prices {version('genai-prices')}"  # which reads the package's metadata from disk


def _sold(protocol: str | None, host: str, model: str) -> tuple[Provider, ModelInfo] | None:
    """Who sells a model, and as what: whose host it is, else whose protocol, else by the model's name (as gateways have them)."""
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    provider = None
    if host:
        with suppress(LookupError):
            provider = snapshot.find_provider(None, None, f"https://{host}")
    seller = None
    if provider is None:  # a host that is nobody's that it knows
        seller = "openai" if host.endswith(".openai.com") else "anthropic" if protocol == "anthropic" else "litellm"
    try:
        return snapshot.find_provider_model(model, provider, seller, None)
    except LookupError:
        return None


_RATES = {
    "input": "input_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
}
"""Names of Rates → of the library's prices."""


def _levels(prices: ModelPrice) -> list[tuple[int, dict[str, Dollars | None]]]:
    """The library's prices by the size of the prompt: beyond a tier's start all tokens have the tier's price."""
    from genai_prices.types import TieredPrices

    given = {name: getattr(prices, theirs, None) for name, theirs in _RATES.items()}
    starts = {tier.start for value in given.values() if isinstance(value, TieredPrices) for tier in value.tiers}

    def at(value: Any, beyond: int) -> Dollars | None:
        if not isinstance(value, TieredPrices):
            return value if isinstance(value, Decimal) else None
        return next((tier.price for tier in reversed(value.tiers) if tier.start <= beyond), value.base)

    return [(beyond, {name: at(value, beyond) for name, value in given.items()}) for beyond in (-1, *sorted(starts))]


def _since(info: ModelInfo, at: datetime) -> tuple[date | None, bool]:
    """(the day from which the price of that time holds, whether the price is the same all day)"""
    if not isinstance(info.prices, list):
        return None, True
    constraints = [each.constraint for each in info.prices]
    lasting = all(each is None or hasattr(each, "start_date") for each in constraints)
    active = (each for each in reversed(info.prices) if each.constraint is None or each.constraint.active(at))
    holding = next(active, info.prices[0])
    found = getattr(holding.constraint, "start_date", None)
    return found if isinstance(found, date) else None, lasting


# The user's file


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, dict) else given


def _amount(given: Any) -> Any:
    if isinstance(given, bool) or not isinstance(given, (int, Decimal)):
        raise ValueError("give a number")  # noqa: TRY004 - pydantic reports what is a ValueError
    return Decimal(given)


Amount = Annotated[Decimal, BeforeValidator(_amount), Field(ge=0, le=10**9)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Model):
    """US dollars for a million tokens; requests: for each run. since: the day from which it holds (`from` in the file)."""

    input: Amount
    output: Amount
    cached: Amount | None = None
    cache_write: Amount | None = None
    requests: Amount | None = None
    since: date | None = Field(default=None, alias="from")


class PriceFile(_Model):
    """A user's prices, by the model's name or a glob."""

    prices: dict[str, Annotated[tuple[Entry, ...], BeforeValidator(_listed)]]


def load(given: str | os.PathLike[str] | None = None) -> Prices:
    """The prices of this file, or of the one that RECORDER_PRICES names, on top of the library's.

    Raises UsageError, in one line that names the file and the key.
    """
    name = given or os.environ.get(VARIABLE)
    if not name:
        return _without_file()
    path = Path(name)
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise UsageError(f"the prices {path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=1)
def _without_file() -> Prices:
    return Prices()


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int, size: int) -> Prices:
    """What a file says, read again when it has changed; it keeps what was looked up."""
    try:
        read = tomllib.loads(files.text(path), parse_float=Decimal)
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise UsageError(f"the prices {path} are no TOML: {error}") from None
    try:
        file = PriceFile.model_validate(read)
        for model, entries in file.prices.items():
            if len({entry.since for entry in entries}) < len(entries):
                raise UsageError(f"the prices {path}: several of {model} begin on one day; give each its own `from`")
    except ValidationError as error:
        raise UsageError(f"the prices {path}: {_said(error)}") from None
    return Prices(file, path.name)


def _said(error: ValidationError) -> str:
    """The first of what is wrong: the key, and what to do."""
    wrong = error.errors()[0]
    key = ".".join(str(each) for each in wrong["loc"] if not isinstance(each, int))
    if wrong["type"] == "extra_forbidden":
        fields = (PriceFile if len(wrong["loc"]) == 1 else Entry).model_fields
        known = ", ".join(sorted(field.alias or name for name, field in fields.items()))
        return f"there is no {key}; there is {known}"
    if wrong["type"] == "missing":
        return f"{key} is missing"
    reason = wrong["msg"].removeprefix("Value error, ")
    return f"{key} cannot be {str(wrong['input'])!r}: {reason[:1].lower()}{reason[1:]}"
