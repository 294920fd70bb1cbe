"""What is made: sessions of one to twenty turns over some months, by day and by night, and how each turn comes out."""

from __future__ import annotations

from collections.abc import Container, Iterator
from random import Random
from typing import NamedTuple

from tests.population.turn import BROKEN, Turn, Usage, id_of

SHAPES: dict[str, dict[str, int]] = {
    "assistants": {
        "completed": 850,
        "failed": 35,
        "incomplete": 15,
        "cancelled": 12,
        "expired": 10,
        "requires_action": 12,
        "refused": 6,  # it asks for outputs, and what is submitted is refused
        "tool_failed": 10,
        "error": 8,
        "cut": 15,
        "client_closed": 15,
        "stalled": 8,
        "lost": 4,
    },
    "responses": {
        "completed": 850,
        "failed": 30,
        "incomplete": 20,
        "cancelled": 8,
        "requires_action": 17,
        "tool_failed": 20,
        "error": 10,
        "cut": 20,
        "client_closed": 12,
        "stalled": 8,
        "lost": 5,
    },
    "chat": {
        "completed": 850,
        "incomplete": 30,
        "requires_action": 22,
        "error": 30,
        "cut": 30,
        "client_closed": 20,
        "stalled": 12,
        "lost": 6,
    },
}
"""{protocol: {shape: of a thousand runs so many}}."""

SHAPES["anthropic"] = SHAPES["chat"]

KINDS = {"error": "failed", "refused": "http_error", "lost": "unknown"}
"""Shape → the kind of its failure, where that is another word. completed is none."""

PROTOCOLS = {"assistants": 35, "responses": 35, "chat": 20, "anthropic": 10}

UNPRICED = "harbour-7b"
"""A model that no price list knows."""

MODELS = {
    "assistants": ("gpt-4o", "gpt-4o", "gpt-4o", "gpt-4o-mini", "gpt-4o-mini", "gpt-4.1", UNPRICED),
    "responses": ("gpt-5", "gpt-5", "gpt-5-mini", "gpt-5-mini", "gpt-4.1", "o3"),
    "chat": ("gpt-4o-mini", "gpt-4o-mini", "gpt-4.1", "gpt-4o", "gpt-5-mini", UNPRICED),
    "anthropic": ("claude-sonnet-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"),
}
"""One that stands there twice is drawn twice as often."""

_THINKING = ("gpt-5", "gpt-5-mini", "o3")
ASSISTANTS = 20

CODES = {
    "failed": ("rate_limit_exceeded", "rate_limit_exceeded", "server_error", "insufficient_quota", "invalid_prompt"),
    "error": ("server_error", "rate_limit_exceeded"),
    "incomplete": ("max_completion_tokens", "max_completion_tokens", "content_filter"),
    "refused": ("invalid_request_error",),
}
_ANTHROPIC_ERRORS = ("overloaded_error", "overloaded_error", "api_error")

_TOOLS = {
    "assistants": ("code_interpreter", "file_search", "function", "function"),
    "responses": ("code_interpreter", "file_search", "function", "function", "mcp"),
    "chat": ("function",),
    "anthropic": ("function",),
}
_LABELLED = {"assistants": 0.15, "responses": 0.2, "chat": 0.6, "anthropic": 0.6}
_LABELS = ("checkout", "search", "night-batch", "eval-12", "support")
_BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 11, 10, 11, 12, 12, 11, 9, 8, 7, 6, 5, 4, 3)
"""How busy the hours of a day are."""


class Session(NamedTuple):
    """Turns that follow each other. began_us: since 1970."""

    began_us: int
    turns: list[Turn]


def sessions(runs: int, random: Random, epoch: int, days: int, plain: Container[int] = ()) -> Iterator[Session]:
    """Sessions with so many turns in all, in the order of their start, in so many days from a time in Unix seconds.

    plain: the numbers of turns that come out well, without a tool.
    """
    lengths: list[int] = []
    left = runs
    while left:
        lengths.append(min(left, _length(random)))
        left -= lengths[-1]
    starts = sorted(
        (epoch + random.randrange(days) * 86400 + hour * 3600) * 1_000_000 + random.randrange(3_600_000_000)
        for hour in random.choices(range(24), _BY_HOUR, k=len(lengths))
    )
    number = 0
    for at, (length, began_us) in enumerate(zip(lengths, starts, strict=True)):
        yield Session(began_us, _turns(random, at, range(number, number + length), plain))
        number += length


def _length(random: Random) -> int:
    draw = random.random()
    if draw < 0.8:
        return 1 if draw < 0.45 else random.randint(2, 4)
    return random.randint(5, 10) if draw < 0.95 else random.randint(11, 20)


def _turns(random: Random, session: int, numbers: range, plain: Container[int]) -> list[Turn]:
    protocol = _drawn(random, PROTOCOLS)
    azure = protocol != "anthropic" and random.random() < 0.33
    label = f"{random.choice(_LABELS)}-{session}" if random.random() < _LABELLED[protocol] else None
    place = None
    if protocol == "assistants":
        place = id_of("thread", session)
    elif protocol == "responses" and random.random() < 0.3:
        place = id_of("conv", session)
    assistant = int(ASSISTANTS * random.random() ** 2)  # some are busier
    model = random.choice(MODELS[protocol])
    found: list[Turn] = []
    for number in numbers:
        shape = "completed" if number in plain else _drawn(random, SHAPES[protocol])
        tool = None if number in plain else _tool(random, protocol, azure, shape, number + 1 in numbers)
        answers = found[-1].number if found and protocol != "assistants" and _is_answered(found[-1]) else None
        usage = _usage(random, protocol, model, shape)
        oddity = None if number in plain else _oddity(random, protocol, shape, tool)
        code, draw = _code(random, protocol, shape), random.getrandbits(32)
        turn = Turn(number, protocol, azure, model, assistant, place, label, shape, code, tool, usage, oddity, draw)
        found.append(turn._replace(answers=answers))
    return found


def _drawn(random: Random, weights: dict[str, int]) -> str:
    return random.choices(tuple(weights), tuple(weights.values()))[0]


def _is_answered(turn: Turn) -> bool:
    return turn.tool == "function" and turn.shape == "completed"


def _tool(random: Random, protocol: str, azure: bool, shape: str, followed: bool) -> str | None:
    """A function that is called is answered by a stream of the same run, or else by the next turn, if there is one."""
    if shape in ("requires_action", "refused"):
        return "function"
    if shape == "tool_failed":
        return "mcp" if protocol == "responses" else "code_interpreter"
    tools = (*_TOOLS[protocol], "mcp") if azure and protocol == "assistants" else _TOOLS[protocol]
    tool = random.choice(tools) if random.random() < 0.4 else None
    alone = protocol != "assistants" and (shape != "completed" or not followed)
    return None if tool == "function" and alone else tool


def _code(random: Random, protocol: str, shape: str) -> str:
    if shape == "error" and protocol == "anthropic":
        return random.choice(_ANTHROPIC_ERRORS)
    return random.choice(CODES[shape]) if shape in CODES else ""


def _oddity(random: Random, protocol: str, shape: str, tool: str | None) -> str | None:
    if shape != "completed" or tool == "function" or random.random() > 0.01:
        return None
    return random.choice(("unparsable", "sequence_gap")) if protocol == "responses" else "unparsable"


def _usage(random: Random, protocol: str, model: str, shape: str) -> Usage | None:
    """What the run's streams say of it: nothing where they broke off, or were not asked to, and at times nothing at all."""
    silent = {"assistants": 0.02, "responses": 0.01, "chat": 0.25, "anthropic": 0.01}[protocol]
    if protocol == "assistants" and shape in ("failed", "cancelled", "expired", "requires_action", "refused"):
        silent = 1.0 if shape in ("requires_action", "refused") else 0.5
    prompt = 150 + int(6000 * random.random() ** 3)
    completion = 5 + int(900 * random.random() ** 2)
    cached = prompt * random.randrange(8) // 10 if random.random() < 0.6 else None
    written = (prompt - (cached or 0)) // 2 if protocol == "anthropic" and random.random() < 0.4 else None
    reasoning = completion // 2 if protocol in ("responses", "chat") and model in _THINKING else None
    if random.random() < silent or (shape in BROKEN and protocol != "anthropic"):
        return None
    return Usage(prompt, cached, written, 1 if shape in BROKEN else completion, reasoning)
