"""Turns → streams with their rows, in a log, with what was planted counted beside them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

import sqlalchemy as sa

from recorder import database, log
from recorder.log import Row, Stream
from recorder.projections.runs import COUNTERS
from tests.population import anthropic, assistants, chat, responses
from tests.population.plan import KINDS, sessions
from tests.population.turn import MESSAGES, Event, Exchange, Turn, has_tail, id_of

RUNS, EVENTS, DAYS = 200_000, 10_000_000, 90
EPOCH = 1_785_542_400  # Unix seconds: 2026-08-01

BATCH = 20_000
"""Rows that fill() appends in one transaction."""


_EXCHANGES: dict[str, Callable[[Turn], list[Exchange]]] = {
    "assistants": assistants.exchanges,
    "responses": responses.exchanges,
    "chat": chat.exchanges,
    "anthropic": anthropic.exchanges,
}

_REFUSALS = ((429, "rate_limit_exceeded"), (429, "rate_limit_exceeded"), (500, "server_error"), (400, "invalid_request_error"))
_ENDS = {
    "http_error": '{"outcome":"http_error","closed":"eof"}',
    "no_response": '{"outcome":"no_response","closed":"no_response","detail":"connection refused"}',
    "done": '{"outcome":"done","closed":"eof"}',
    "eof": '{"outcome":"eof","closed":"eof"}',
    "error": '{"outcome":"error","closed":"eof"}',
    "cut": '{"outcome":"cut","closed":"cut","detail":"connection reset by peer"}',
    "client_closed": '{"outcome":"client_closed","closed":"client_closed"}',
    "lost": '{"outcome":"lost","closed":"lost","detail":"its recorder was not there any more"}',
}
_HEADERS = (("content-type", "application/json"), ("user-agent", "OpenAI/Python 3.54.0"))
_EPOCH = datetime.fromtimestamp(0, UTC)
_GAPS = 4096
_SMALLEST = 10
"""Rows that a run is planned with at least; some cannot do with so few."""


class Made(NamedTuple):
    stream: Stream
    rows: list[Row]


@dataclass
class Planted:
    """What a population holds.

    usage: {model: {counter: sum, null where no run said it}}, with runs and runs_without_usage. sources: {who says a run's
    usage, '' for nobody: runs}. failures: {kind: runs}. stream_failures: {kind: streams without a run}. anomalies: {kind: how
    many}. shapes: {protocol and shape: runs}.
    """

    runs: int = 0
    streams: int = 0
    events: int = 0
    bytes: int = 0
    usage: dict[str, dict[str, int | None]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stream_failures: Counter[str] = field(default_factory=Counter)
    anomalies: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)

    def stream(self, events: list[Event]) -> None:
        self.streams += 1
        self.events += len(events)
        self.bytes += len("".join([text for event in events for text in event]).encode())

    def run(self, turn: Turn) -> None:
        self.runs += 1
        self.shapes[f"{turn.protocol} {turn.shape}"] += 1
        self.sources[turn.usage_source or ""] += 1
        if turn.shape != "completed":
            self.failures[KINDS.get(turn.shape, turn.shape)] += 1
        if turn.shape == "cut" and has_tail(turn):
            self.anomalies["unfinished_tail"] += 1
        if turn.oddity:
            self.anomalies[turn.oddity] += 1
        sums = self.usage.setdefault(turn.model, {"runs": 0, "runs_without_usage": 0, **dict.fromkeys(COUNTERS)})
        sums["runs"] = (sums["runs"] or 0) + 1
        if turn.usage is None:
            sums["runs_without_usage"] = (sums["runs_without_usage"] or 0) + 1
        else:
            for name in COUNTERS:
                if (count := getattr(turn.usage, name)) is not None:
                    sums[name] = (sums[name] or 0) + count

    def total(self, name: str) -> int | None:
        """The sum of a counter over all models."""
        known = [count for sums in self.usage.values() if (count := sums[name]) is not None]
        return sum(known) if known else None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Planted:
        counted = ("sources", "failures", "stream_failures", "anomalies", "shapes")
        return cls(**{key: Counter(found) if key in counted else found for key, found in value.items()})


class Population:
    """So many runs with so many rows of the log in all, the same by the same seed. planted grows as streams are made.

    Most runs have ten to thirty rows, one in five hundred a thousand, one in ten thousand twenty thousand.
    """

    def __init__(self, runs: int = RUNS, events: int = EVENTS, seed: int = 1, days: int = DAYS) -> None:
        self.planted = Planted()
        self._runs, self._events, self._days = runs, events, days
        self._random = Random(seed)
        self._gaps = _gaps(Random(seed))
        twenty_thousands, thousands = runs // 10_000, max(1, runs // 500)
        chosen = self._random.sample(range(runs), twenty_thousands + thousands)
        self._large = {number: 20_000 if at < twenty_thousands else 1000 for at, number in enumerate(chosen)}
        self._mean = (events - sum(self._large.values())) / (runs - len(self._large))
        self._due = 0.0  # rows that there should be by now

    def streams(self) -> Iterator[Made]:
        """Every stream, in about the order in which they began."""
        random = self._random
        for session in sessions(self._runs, random, EPOCH, self._days, {*self._large, self._runs - 1}):
            clock = session.began_us
            previous: str | None = None
            for turn in session.turns:
                turn = turn._replace(previous=previous)
                if random.random() < 0.025:
                    made, clock = self._made(turn, self._refused(turn._replace(size=20, began_us=clock)), clock)
                    yield made
                    clock += random.randrange(1_000_000, 20_000_000)
                turn = turn._replace(size=self._size(turn.number), began_us=clock)
                self.planted.run(turn)
                for exchange in _EXCHANGES[turn.protocol](turn):
                    made, clock = self._made(turn, exchange, clock + exchange.wait_us)
                    yield made
                clock += random.randrange(3_000_000, 120_000_000)
                if turn.protocol == "responses" and turn.shape in ("completed", "incomplete", "tool_failed"):
                    previous = id_of("resp", turn.number)

    def _size(self, number: int) -> int:
        """Of the next run: what is drawn, and a part of what those before it were short of. The last makes up for all."""
        if number in self._large:
            self._due += self._large[number]
            return self._large[number]
        if number == self._runs - 1:
            return max(_SMALLEST, self._events - self.planted.events)
        short = self._due - self.planted.events
        self._due += self._mean
        draw, share = self._random.random(), self._random.random()
        times = 0.2 + 0.4 * share if draw < 0.7 else 0.6 + 1.8 * share if draw < 0.94 else 2.4 + 7.6 * share
        drawn = self._mean * times
        return max(_SMALLEST, round(drawn + max(-drawn / 2, min(drawn, short / 20))))

    def _refused(self, turn: Turn) -> Exchange:
        """A turn's request, of which no run came: it was refused, or nobody answered."""
        asked = _EXCHANGES[turn.protocol](turn)[0]
        if self._random.random() < 0.1:
            self.planted.stream_failures["no_response"] += 1
            return asked._replace(events=[], outcome="no_response", status=None, silence_us=0)
        self.planted.stream_failures["http_error"] += 1
        status, code = self._random.choice(_REFUSALS)
        body = f'{{"error":{{"message":"{MESSAGES[code]}","type":"{code}","param":null,"code":"{code}"}}}}'
        return asked._replace(events=[("$body", body)], outcome="http_error", status=status, silence_us=0)

    def _made(self, turn: Turn, exchange: Exchange, began_us: int) -> tuple[Made, int]:
        """A stream with its rows, and when it ended, in µs since 1970."""
        number = self.planted.streams
        random_bits = (number + 1) * 0x9E3779B97F4A7C15 & 0x3FFFFFFFFFFFFFFF
        stream_id = str(uuid.UUID(int=began_us // 1000 << 80 | 7 << 76 | 0b10 << 62 | random_bits))
        events = [*_response(exchange), *exchange.events, ("$end", _ENDS[exchange.outcome])]
        offsets = self._offsets(len(events), turn.draw + number)
        offsets[-1] += exchange.silence_us
        rows: list[Row] = [
            (stream_id, position, at, type, data, None, None)
            for position, (at, (type, data)) in enumerate(zip(offsets, events, strict=True))
        ]
        for position in range(40 + number % 80, len(rows) - 1, 80):  # a chunk ended within these
            at = offsets[position]
            if at - offsets[position - 1] > 500:
                rows[position] = (*rows[position][:6], f"[[17,{at - 400}]]")
        self.planted.stream(events)
        began = _EPOCH + timedelta(microseconds=began_us)
        stream = Stream(
            stream_id,
            exchange.method,
            exchange.host,
            exchange.path,
            exchange.query,
            _HEADERS,
            exchange.body.encode() if exchange.body else None,
            turn.label,
            "proxy",
            began,
            began,
        )
        return Made(stream, rows), began_us + offsets[-1]

    def _offsets(self, count: int, draw: int) -> list[int]:
        """When so many events came, in µs since the stream began: the first after a while, some after seconds."""
        at = draw % _GAPS
        gaps = self._gaps[at : at + count]
        gaps[0] = 150_000 + draw % 900_000
        if draw % 16 == 0 and count > 8:
            gaps[2 + draw % (count - 4)] += 1_000_000 + draw % 8_000_000
        return list(accumulate(gaps))


def fill(engine: sa.Engine, population: Population, progress: Callable[[int], None] | None = None) -> Planted:
    """Append a population to a log; what was planted. progress: called with the rows of each transaction."""
    held: list[Made] = []
    count = 0
    for made in population.streams():
        held.append(made)
        count += len(made.rows)
        if count >= BATCH:
            _append(engine, held)
            if progress:
                progress(count)
            held, count = [], 0
    _append(engine, held)
    return population.planted


def _append(engine: sa.Engine, held: list[Made]) -> None:
    with database.write(engine) as connection:
        log.insert_streams(connection, [stream for stream, _ in held])
        log.append(connection, {stream.stream_id: rows for stream, rows in held})


def _response(exchange: Exchange) -> list[Event]:
    if exchange.status is None:
        return []
    body = exchange.events[0][0] == "$body"
    kind = "application/json" if body else "text/event-stream; charset=utf-8"
    return [("$response", f'{{"status":{exchange.status},"headers":[["content-type","{kind}"]]}}')]


def _gaps(random: Random) -> list[int]:
    """µs between events; none where they came in the same chunk."""
    drawn = [0 if random.random() < 0.15 else int(random.expovariate(1 / 25_000)) + 50 for _ in range(_GAPS)]
    return drawn * (2 + 25_000 // _GAPS)
