"""What is planned of one run, the exchanges that tell of it, and what all protocols' words are made of: ids, texts, errors."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

Event = tuple[str, str]
"""(type, data), as the log has them."""

BROKEN = {"error": "error", "cut": "cut", "client_closed": "client_closed", "stalled": "client_closed", "lost": "lost"}
"""Shapes of runs whose stream broke off before their end → its outcome."""


class Usage(NamedTuple):
    """Tokens, as the read model counts them: prompt has what the cache gave and took. None is what is not said."""

    prompt_tokens: int
    cached_tokens: int | None
    cache_write_tokens: int | None
    completion_tokens: int
    reasoning_tokens: int | None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def halved(self) -> tuple[Usage, Usage]:
        """Two that add up to it."""
        first = Usage(*(None if count is None else count // 2 for count in self))  # type: ignore[arg-type]
        return first, Usage(*(None if count is None else count - count // 2 for count in self))  # type: ignore[arg-type]


class Turn(NamedTuple):
    """One run to be made.

    shape: how it comes out, a key of plan.SHAPES; code: of its error, or the reason. tool: function, code_interpreter,
    file_search, mcp or None. size: rows that its streams should come to. began_us: since 1970.
    place: the id of its thread or conversation, None where it has none. previous: the id of the response that it follows.
    answers: the number of the run before it whose call its request answers. oddity: unparsable or sequence_gap.
    draw: a number that decides what else is open.
    """

    number: int
    protocol: str
    azure: bool
    model: str
    assistant: int
    place: str | None
    label: str | None
    shape: str
    code: str
    tool: str | None
    usage: Usage | None
    oddity: str | None
    draw: int
    size: int = 0
    began_us: int = 0
    previous: str | None = None
    answers: int | None = None

    @property
    def created(self) -> int:
        """Unix seconds."""
        return self.began_us // 1_000_000

    @property
    def ended(self) -> int:
        return self.created + 2 + self.size // 40

    @property
    def usage_source(self) -> str | None:
        """Who says its usage: run, steps or response."""
        if self.usage is None:
            return None
        return ("steps" if self.says_steps and self.draw % 32 == 0 else "run") if self.protocol == "assistants" else "response"

    @property
    def says_steps(self) -> bool:
        """Whether the steps of a run say their usage."""
        return self.protocol == "assistants" and self.shape == "completed" and self.draw % 2 == 0

    @property
    def error_code(self) -> str:
        """Of an error of its own, where it has one."""
        return self.code if self.code in MESSAGES else "server_error"

    @property
    def error(self) -> str:
        """The code and message of its error, as they stand in an object."""
        return f'"code":"{self.error_code}","message":"{MESSAGES[self.error_code]}"'


class Exchange(NamedTuple):
    """One stream of a run. body: of the request, JSON. wait_us: since the stream before it ended. silence_us: before its end.

    status None: nothing answered.
    """

    host: str
    path: str
    query: str
    body: str
    events: list[Event]
    outcome: str
    method: str = "POST"
    status: int | None = 200
    wait_us: int = 0
    silence_us: int = 0


def id_of(kind: str, number: int) -> str:
    """An id that is nobody else's, in no order."""
    return f"{kind}_{number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF:016x}{number:08x}"


def pieces(draw: int, count: int) -> list[str]:
    """So many pieces of text, a few words each, as they stand within JSON's quotes."""
    at = draw % _POOL
    return _PIECES[at : at + count] if at + count <= len(_PIECES) else [*_PIECES[at:], *pieces(0, count - len(_PIECES) + at)]


def finished(turn: Turn, events: list[Event], named: int, final: int, error: Event) -> tuple[list[Event], str, int]:
    """(events, outcome, silence before the end in µs) of a run's last stream, broken off where its shape says so.

    named: how many events at least must be left; final: how many come before the first that says the run's end.
    error: the event of the shape `error`.
    """
    if turn.shape not in BROKEN:
        return events, "done" if events[-1][1] == "[DONE]" else "eof", 0
    left = named + turn.draw % (final - named)
    kept = events[:left]
    if turn.shape == "error":
        kept.append(error)
    elif turn.shape == "cut" and has_tail(turn):
        type, data = events[left]
        kept.append(("$tail", f"event: {type}\ndata: {data[: len(data) // 2]}" if type else f"data: {data[: len(data) // 2]}"))
    silence_us = 10_500_000 + turn.draw % 60_000_000 if turn.shape == "stalled" else turn.draw % 4_000_000
    return kept, BROKEN[turn.shape], 0 if turn.shape == "error" else silence_us


def has_tail(turn: Turn) -> bool:
    """Whether a stream that is cut ends within an event."""
    return turn.draw % 2 == 0


def odd(turn: Turn, events: list[Event], first: int, last: int) -> None:
    """What is amiss in a stream whose run comes out well: data that is no JSON, or an event that is missing.

    first, last: its deltas, of which there are at least three.
    """
    at = first + 1 + turn.draw % (last - first - 2)
    if turn.oddity == "unparsable":
        events.insert(at, (events[at][0], "upstream connect error or disconnect"))
    elif turn.oddity == "sequence_gap":
        del events[at]


MESSAGES = {
    "rate_limit_exceeded": "Rate limit reached: try again in 20 s.",
    "server_error": "The server had an error while processing your request.",
    "insufficient_quota": "You exceeded your current quota.",
    "invalid_prompt": "The prompt was refused.",
    "overloaded_error": "Overloaded",
    "api_error": "Internal server error",
    "invalid_request_error": "The request is not valid.",
}
"""code → message of errors."""

QUESTION = "What do the tide tables of Brest and Galway say for the week, and which of the two harbours is the calmer one?"

_WORDS = (  # noqa: SIM905 - a text
    "the tide is high at noon and turns before the evening when boats leave harbour with nets of herring for markets along the"
    " coast where prices were lower this week than last so that most crews wait until wind from north-west drops below twenty"
    " knots as forecasts by several models agree on within narrow bounds which tables in chapter three show by hour and place"
    " naïve Übersicht été 港 🌊 12.5 m (see appendix) **bold** `code` e.g. 2026-09-14 Galway Brest Réunion"
).split()

_POOL = 4096


def _make_pieces() -> list[str]:
    random = Random(7)
    found = []
    for number in range(_POOL):
        said = "".join(f" {word}" for word in random.choices(_WORDS, k=1 + number % 4))
        found.append(said + random.choice(("", "", "", "", "", "", ".", ",", ".\\n\\n", ' \\"so\\"', ":\\n- ")))
    return found


_PIECES = _make_pieces() * 3
