"""Token counts in every provider's dialect, as OpenAI counts them: what was read with what the cache gave and took, what was
written with its reasoning.

How providers count is in the tables at the foot. Where a total is said, it decides: of the ways to count that there are, the one
whose sum it is, the provider's own first. prompt + completion that is no way the total is a problem, which becomes an anomaly.
A name that says nothing (null) is passed over, and of several that say the same count the first that is not 0 is taken: gateways
fill in zeros beside what their upstream said.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, NamedTuple

from recorder.protocols.payload import as_list, as_object, as_text

Object = dict[str, Any]

INSIDE, BESIDE, UNNAMED, UNCOUNTED = "inside", "beside", "unnamed", "uncounted"

LARGEST = 2**53
"""Billionths of a dollar, or tokens, beyond which they are nonsense."""


class Dialect(NamedTuple):
    """How a provider counts, and how it is known.

    reasoning: INSIDE the completion, or BESIDE it; UNNAMED: what the total has more than prompt and completion, though nothing
    says so; UNCOUNTED: beside it, and not in the total either. cache: INSIDE the prompt, or BESIDE it. models: globs of names.
    fields: of its usage alone.
    """

    reasoning: str = INSIDE
    cache: str = INSIDE
    models: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


class Counts(NamedTuple):
    """Tokens. cached and cache_write are parts of prompt, reasoning is one of completion. None: nobody said it."""

    prompt: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    completion: int | None = None
    reasoning: int | None = None
    total: int | None = None


class Reading(NamedTuple):
    """What a usage counts, and what is wrong with that."""

    counts: Counts
    problem: str | None


def follow(have: Object, given: Object) -> list[str]:
    """Go on with a usage that later events repeat, in place: null says nothing; what counts of tokens have fallen."""
    fell: list[str] = []
    for key, value in given.items():
        before = have.get(key)
        if value is None:
            have.setdefault(key, None)
        elif type(value) is dict:
            if type(before) is not dict:
                before = have[key] = {}
            fell += follow(before, value)
        else:
            if type(value) is int and type(before) is int and value < before and "token" in key:
                fell.append(f"{key} from {before} to {value}")
            have[key] = value
    return fell


def read(usage: Any, model: Any = None, dialect: str = "") -> Reading | None:
    """What a usage counts, None where it is none. dialect: of the protocol, where that alone says it."""
    if not isinstance(usage, dict):
        return None
    given: Object = usage
    own, problem = _read(given, DIALECTS[dialect] if dialect else _dialect(given, model))
    each = [counts for _, counts in iterations(given)]
    if not each:
        return Reading(_added_up(own), problem)
    billed = Counts(*map(_sum, zip(*each, strict=True)))
    if billed.reasoning is None:
        billed = billed._replace(reasoning=own.reasoning)
    if any((getattr(own, name) or 0) > (getattr(billed, name) or 0) for name in ("prompt", "completion")):
        return Reading(_added_up(own), "usage.iterations add up to less than the usage itself")
    return Reading(_added_up(billed), problem)


def _added_up(counts: Counts) -> Counts:
    """With the total that prompt and completion make, where nobody said one."""
    if counts.total is not None or counts.prompt is None or counts.completion is None:
        return counts
    return counts._replace(total=counts.prompt + counts.completion)


def iterations(usage: Any) -> list[tuple[str | None, Counts]]:
    """(model, where it is named; counts) of what was billed one by one: Anthropic's compactions and advisors besides."""
    entries = [entry for entry in as_list(as_object(usage).get("iterations")) if isinstance(entry, dict)]
    return [(as_text(entry.get("model")), _read(entry, DIALECTS["anthropic"])[0]) for entry in entries]


def shown(usage: Object, counts: Counts) -> Object:
    """A usage as a Run has it: by OpenAI's names, with the rest of what was said."""
    found: Object = {
        **usage,
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.total,
    }
    for side, parts in (
        ("prompt", {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write}),
        ("completion", {"reasoning_tokens": counts.reasoning}),
    ):
        names = [f"{side}{end}" for end in _DETAILS_OF]
        name = next((name for name in names if isinstance(usage.get(name), dict)), names[0])
        if known := {key: count for key, count in parts.items() if count is not None}:
            found[name] = {**as_object(usage.get(name)), **known}
    return found


def reported_cost(usage: Any) -> int | None:
    """What the provider says that it billed, in billionths of a US dollar; None where it says nothing, or not all."""
    given = as_object(usage)
    for name, unit in _COSTS.items():
        said = given.get(name)
        if isinstance(said, dict):
            if said.get("currency") not in (None, "USD", "usd"):
                return None
            said = said.get("total_cost")
        if (cost := _amount(said)) is None:
            continue
        upstream = as_object(given.get("cost_details")).get("upstream_inference_cost")
        if given.get("is_byok") is True:  # the gateway's fee: what the customer's own account was billed comes on top
            more = _amount(upstream)
            if more is None:
                return None
            cost += more
        nusd = int((cost * unit).to_integral_value())
        return nusd if nusd < LARGEST else None
    return None


def _amount(said: Any) -> Decimal | None:
    if isinstance(said, bool) or not isinstance(said, (int, float, str)) or (isinstance(said, str) and len(said) > _LONGEST):
        return None
    try:
        amount = Decimal(said if isinstance(said, int) else str(said))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount < LARGEST else None


def count(value: Any) -> int | None:
    """A number of tokens, None where a value is none. Some servers send it as a float or a text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _LONGEST:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < LARGEST else None


_LONGEST = 32


def _dialect(usage: Object, model: Any) -> Dialect:
    name = model.lower() if isinstance(model, str) else ""
    for dialect in DIALECTS.values():
        named = any(fnmatchcase(name, glob) for glob in dialect.models)
        if named or any(usage.get(field) is not None for field in dialect.fields):
            return dialect
    return DIALECTS["openai"]


def _read(usage: Object, dialect: Dialect) -> tuple[Counts, str | None]:
    prompt, completion, total = (_first(usage, paths) for paths in (_PROMPT, _COMPLETION, _TOTAL))
    cached, written, reasoning = (_first(usage, paths) for paths in (_CACHED, _WRITTEN, _REASONING))
    if not written:
        written = next((sum(parts) for path in _WRITTEN_IN if (parts := _counts_in(_at(usage, path)))), written)
    missed = count(usage.get("prompt_cache_miss_tokens"))
    if prompt is None and missed is not None and cached is not None:
        prompt = missed + cached
    said = Counts(prompt, cached, written, completion, reasoning, total)
    if prompt is None or completion is None:
        return said, None
    cache, thought = (cached or 0) + (written or 0), reasoning or 0
    own = cache if dialect.cache == BESIDE else 0, 0 if dialect.reasoning == INSIDE else thought
    if total is None:
        read = max(own[0], cache if cache > prompt else 0)
        wrote = max(own[1], thought if thought > completion else 0)
        return said._replace(prompt=prompt + read, completion=completion + wrote), None
    rest = total - prompt - completion
    if dialect.reasoning == UNCOUNTED and rest == 0:
        return said._replace(completion=completion + thought, total=total + thought), None
    for read, wrote in (own, *product((0, cache, written or 0, cached or 0), (0, thought))):
        if rest == read + wrote and (read or cache <= prompt):
            return said._replace(prompt=prompt + read, completion=completion + wrote), None
    if rest == 0:  # what the cache gave is more than the prompt: it is beside that, and not in the total either
        return said._replace(prompt=prompt + cache, total=total + cache), None
    if dialect.reasoning == UNNAMED and rest > 0 and not thought:
        return said._replace(completion=completion + rest, reasoning=rest), None
    return said, f"prompt_tokens {prompt} + completion_tokens {completion} are not total_tokens {total}"


def _first(usage: Object, paths: tuple[tuple[str, ...], ...]) -> int | None:
    """The first of these counts that is not 0; 0 where one is, None where none is said."""
    found = None
    for path in paths:
        known = count(_at(usage, path))
        if known:
            return known
        found = known if found is None else found
    return found


def _at(usage: Object, path: tuple[str, ...]) -> Any:
    found: Any = usage
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _counts_in(found: Any) -> list[int]:
    return [known for each in as_object(found).values() if (known := count(each)) is not None]


def _sum(column: tuple[int | None, ...]) -> int | None:
    known = [each for each in column if each is not None]
    return sum(known) if known else None


DIALECTS = {
    "openai": Dialect(),
    "anthropic": Dialect(cache=BESIDE),
    "xai": Dialect(reasoning=BESIDE, models=("grok*", "xai/*", "x-ai/*")),
    "gemini": Dialect(reasoning=UNNAMED, models=("gemini*", "google/*", "models/gemini*", "vertex_ai/*", "publishers/google/*")),
    "perplexity": Dialect(
        reasoning=UNCOUNTED,
        models=("sonar*", "perplexity/*"),
        fields=("citation_tokens", "num_search_queries", "search_context_size"),
    ),
}
"""Providers that are not here count as OpenAI does: Azure, Groq, Mistral, DeepSeek, Moonshot, DashScope, OpenRouter, LiteLLM,
Bedrock's Mantle, vLLM, SGLang, llama.cpp."""

_DETAILS_OF = ("_tokens_details", "_token_details")


def _in_details(*names: str) -> tuple[tuple[str, ...], ...]:
    """Paths of a count in the details of a side, however these are spelled."""
    side, *keys = names
    sides = {"prompt": ("prompt", "input"), "completion": ("completion", "output")}[side]
    return tuple((f"{each}{end}", key) for key in keys for each in sides for end in _DETAILS_OF)


_PROMPT = (("prompt_tokens",), ("input_tokens",), ("inputTokens",))
_COMPLETION = (("completion_tokens",), ("output_tokens",), ("outputTokens",))
_TOTAL = (("total_tokens",), ("totalTokens",))

_CACHED = (
    *_in_details("prompt", "cached_tokens", "cache_read_input_tokens", "cache_read_tokens"),  # OpenAI, and most
    ("cached_tokens",),  # Moonshot, Together
    ("cache_read_input_tokens",),  # Anthropic, LiteLLM, Databricks
    ("prompt_cache_hit_tokens",),  # DeepSeek
    ("num_cached_tokens",),  # Mistral
    ("cacheReadInputTokens",),  # Bedrock
)
_WRITTEN = (
    *_in_details("prompt", "cache_write_tokens"),  # OpenAI, OpenRouter
    *_in_details("prompt", "cache_creation_tokens"),  # LiteLLM
    *_in_details("prompt", "cache_creation_input_tokens"),  # DashScope
    ("cache_creation_input_tokens",),  # Anthropic, LiteLLM, Databricks
    ("cache_write_tokens",),
    ("cache_write_input_tokens",),
    ("cacheWriteInputTokens",),  # Bedrock
)
_WRITTEN_IN = (
    ("cache_creation",),  # Anthropic: by how long it is kept
    *_in_details("prompt", "cache_creation", "cache_creation_token_details"),
)
_REASONING = (
    *_in_details("completion", "reasoning_tokens", "thinking_tokens"),
    ("reasoning_tokens",),  # Perplexity, SGLang
    ("thinking_tokens",),
)

_COSTS = {
    "cost": Decimal(10) ** 9,  # OpenRouter, LiteLLM; Perplexity: {total_cost}
    "estimated_cost": Decimal(10) ** 9,  # DeepInfra
    "cost_in_usd_ticks": Decimal(10) ** -1,  # xAI: 10^10 are a dollar
    "total_cost": Decimal(10) ** 9,
}
"""Where a usage says what was billed → billionths of a US dollar that its unit is."""

COST_FIELDS = (*_COSTS, "cost_details", "is_byok")
