"""What a request repeats of its conversation: which of its outputs answers which call, and how to find that call's run.

Ids of calls are not unique: some servers count them anew in every conversation (functions.weather:0) or in every turn
(call_0), some send none. So a call is known by what both sides have of it: the run that made it has the messages of its own
request and what it called; the request that answers it repeats both before the output. A digest of that is its key. Clients
change what they repeat, so each call has several keys, from the one that says most to the one that says least.

A protocol tells its conversation as items in order: Said, Call and Output. Everything here is linear in their size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from recorder import jsontext
from recorder.protocols.payload import DEPTH_LIMIT

ANSWERS_LIMIT = 128
"""Outputs of a request that are looked at, the last ones: more than one answer makes calls at once."""

RUN, THREAD, WHOLE, TALK, ASKED, NEXT, BARE, OWN_ID, NAMED = range(9)
"""What a key is made of beside the call itself. The first of these under which any call is known decides whose output it is.

RUN: the run that the request says it follows. THREAD: the thread or conversation. WHOLE: all that was said before, with
instructions. TALK: the same without those, which may have a time in them. ASKED: the user's last message, and how many calls
came since (of calls that were made at once each may be repeated with its output). NEXT: the item just before (earlier ones
may have been summed up). BARE: as TALK, of a call whose id the client made up. OWN_ID: the id alone, where it is one that
does not repeat. NAMED: id, name and arguments, among the streams of one label.
"""

CERTAIN = (RUN, THREAD)
"""Levels on which the latest call is meant, whatever became of the one before it."""

_OF_LABEL = frozenset({WHOLE, TALK, ASKED, NEXT, BARE, NAMED})
"""Levels on which a call and its output are of streams with the same label, or both without one."""

_RECENT = 8
"""Answers before the end that have keys of all levels, as those at the very end have; the rest were given before, most likely."""

Keys = list[tuple[int, str]]
"""(level, key) of one call; scoped() makes of them what is kept."""


class Said(NamedTuple):
    """A message, or another item that is neither call nor output. role: assistant, system, or anything else for the rest."""

    role: str
    content: Any


class Call(NamedTuple):
    """A call as the request repeats it. own: whether its id is its own, not made up here. also: another id that outputs name."""

    id: str
    name: str | None = None
    arguments: Any = None
    own: bool = True
    also: str | None = None


class Output(NamedTuple):
    """An output. id: of its call; None where it names none: then it is of the first call without an id (of that name)."""

    id: str | None
    value: Any
    name: str | None = None


Item = Said | Call | Output


class Answer(NamedTuple):
    """An output, and the call that it is of. number: its place among the request's. last: whether the request ends with it."""

    number: int
    id: str
    output: Any
    keys: Keys
    last: bool


class Before(NamedTuple):
    """What a run was asked, in digests. since: how many calls came after the user's last message."""

    whole: str
    talk: str
    asked: str
    since: int
    next: str


class Conversation(NamedTuple):
    """What a request repeats: the outputs, the latest last, and what its own run was asked (None where nothing was said)."""

    answers: list[Answer]
    before: Before | None


def conversation(
    items: Iterable[Item], scope: Any = None, previous: str | None = None, thread: str | None = None
) -> Conversation:
    """scope: fields of the request that tell users apart. previous: the run that the request says it follows."""
    walk = _Walk(scope, previous, thread)
    for item in items:
        _STEPS[type(item)](walk, item)
    return walk.result()


def keys_of_calls(before: Before | None, run_key: str, thread: str | None, calls: Iterable[Call]) -> list[Keys]:
    """The keys of the calls of a run, in order."""
    same: dict[str, int] = {}
    ids: dict[str, int] = {}
    found = []
    for number, call in enumerate(calls):
        called = _called(call)
        nth, of_id = _count(same, called), _count(ids, call.id)
        keys = [(RUN, _digest(run_key, call.id, str(of_id)))]
        if thread is not None:
            keys.append((THREAD, _digest(thread, call.id, str(of_id))))
        if before is not None:
            keys += _keys_after(before, called, nth, number)
            if not call.own:
                keys.append((BARE, _digest(before.talk, called, str(nth))))
        found.append(keys + _keys_alone(call, called, nth))
    return found


def scoped(level: int, key: str, protocol: str | None, label: str | None) -> str | None:
    """A key as it is kept: of one protocol and, but for the surest, of one label. None for one that proves nothing."""
    if level == NAMED and not label:
        return None
    return _digest(str(level), key, protocol or "", (label or "") if level in _OF_LABEL else "")


def occurrence(seen: dict[str, int], id: str) -> str:
    """A name for a call that no other of its run has: its id; of one that comes again, with how often it came before."""
    nth = _count(seen, id)
    return f"{id}\0{nth}" if nth else id


def made_id(name: Any, arguments: Any) -> str:
    """An id for a call that has none, made of what is called, so that the next request's copy of it has the same."""
    given = arguments if isinstance(arguments, str) else "" if arguments is None else jsontext.dumps(arguments)
    digest = hashlib.sha256(f"{name}\n{given}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"call_{digest}"


class _Open(NamedTuple):
    """A call of the request. called: in a digest. nth: of how many of the same in its turn. number: its place in that.

    rivals: all calls of its turn that have its id. given: numbers of its outputs.
    """

    call: Call
    called: str
    before: Before
    nth: int
    number: int
    rivals: list[_Open]
    given: list[int]

    def keys(self, recent: bool) -> Keys:
        if not recent:
            return [(TALK, _digest(self.before.talk, self.called, str(self.nth)))]
        bare = _called(self.call._replace(id=""))
        return [
            *_keys_after(self.before, self.called, self.nth, self.number),
            (BARE, _digest(self.before.talk, bare, str(self.nth))),
            *_keys_alone(self.call, self.called, self.nth),
        ]


class _Walk:
    """Goes through a conversation item by item, with digests of what it has seen."""

    def __init__(self, scope: Any, previous: str | None, thread: str | None) -> None:
        self._scope = _digest(_text(scope), thread or "")
        self._previous, self._thread = previous, thread
        self._whole, self._talk = _hash(), _hash()
        self._asked, self._since, self._next = "", 0, ""
        self._before: Before | None = None  # what the assistant's turn at hand was asked; None outside of one
        self._turn: dict[str, list[_Open]] = {}  # the calls of that turn, by id
        self._same: dict[str, int] = {}  # how many of them are alike
        self._of_turn = 0
        self._open: dict[str, list[_Open]] = {}  # calls by id, of the latest turn that has such a one
        self._unnamed: list[_Open] = []  # those without an id of their own that wait
        self._orphans: dict[str, int] = {}
        self._answers: list[tuple[str, Any, _Open | Keys]] = []  # id, output, its call or the keys of one that is not repeated
        self._at_turn = 0  # how many outputs came before the latest turn
        self._ends = False  # whether the latest item is an output

    def said(self, item: Said) -> None:
        content = _text(item.content)
        if item.role == "system":
            self._whole.update(_digest(content).encode())
            return
        if item.role == "assistant":
            self._begin()
        else:
            self._before = None
        self._ends = False
        if content:
            self._take(_digest(item.role, content))
            if item.role != "assistant":
                self._asked, self._since = self._next, 0

    def called(self, item: Call) -> None:
        before = self._begin()
        self._ends = False
        called = _called(item)
        rivals = self._turn.setdefault(item.id, [])
        rivals.append(_Open(item, called, before, _count(self._same, called), self._of_turn, rivals, []))
        self._open[item.id] = rivals
        if item.also:
            self._open[item.also] = rivals
        if not item.own:
            self._unnamed.append(rivals[-1])
        self._of_turn += 1
        self._since += 1
        self._take(_digest("call", item.id, called))

    def output(self, item: Output) -> None:
        found = self._call_of(item)
        if found is None and item.id is None:
            return
        self._before = None
        self._ends = True
        if found is not None:
            found.given.append(len(self._answers))
            self._answers.append((found.call.id, item.value, found))
        else:
            self._answers.append((str(item.id), item.value, self._keys_of_orphan(str(item.id))))
        self._take(_digest("output", item.id or "", _text(item.value)))

    def result(self) -> Conversation:
        """Of calls of one id that were made at once all must be answered, else nobody knows which of them is."""
        kept = [
            (number, id, value, of)
            for number, (id, value, of) in enumerate(self._answers)
            if not isinstance(of, _Open)
            or (of.given[-1] == number and (not of.call.own or all(rival.given for rival in of.rivals)))
        ][-ANSWERS_LIMIT:]
        recent, last = min(self._at_turn, len(self._answers) - _RECENT), len(self._answers) - 1 if self._ends else -1
        answers = [
            Answer(number, id, value, of.keys(number >= recent) if isinstance(of, _Open) else of, number == last)
            for number, id, value, of in kept
        ]
        return Conversation(answers, self._begin() if self._next else None)

    def _call_of(self, item: Output) -> _Open | None:
        if item.id is None:
            same = (call for call in self._unnamed if call.call.name == item.name)
            found = next(same, self._unnamed[0] if self._unnamed else None)
            if found is not None:
                self._unnamed.remove(found)
            return found
        rivals = self._open.get(item.id, ())
        return next((call for call in rivals if not call.given), rivals[-1] if rivals else None)

    def _keys_of_orphan(self, id: str) -> Keys:
        """Of an output whose call the request does not repeat: the server has it, or it was left out."""
        nth = _count(self._orphans, id)
        if self._previous is not None:
            return [(RUN, _digest(self._previous, id, str(nth)))]
        alone = [(level, key) for level, key in _keys_alone(Call(id), _called(Call(id)), nth) if level == OWN_ID]
        return alone if self._thread is None else [(THREAD, _digest(self._thread, id, str(nth))), *alone]

    def _begin(self) -> Before:
        """The assistant's turn begins, where it has not."""
        if self._before is None:
            whole, talk = self._whole.hexdigest(), self._talk.hexdigest()
            whole, talk, asked, next = (_digest(self._scope, digest) for digest in (whole, talk, self._asked, self._next))
            self._before = Before(whole, talk, asked, self._since, next)
            self._turn, self._same, self._of_turn, self._at_turn = {}, {}, 0, len(self._answers)
            self._unnamed = []
        return self._before

    def _take(self, digest: str) -> None:
        self._next = digest
        self._whole.update(digest.encode())
        self._talk.update(digest.encode())


_STEPS: dict[type, Callable[[_Walk, Any], None]] = {Said: _Walk.said, Call: _Walk.called, Output: _Walk.output}


# Keys


def _keys_after(before: Before, called: str, nth: int, number: int) -> Keys:
    return [
        (WHOLE, _digest(before.whole, called, str(nth))),
        (TALK, _digest(before.talk, called, str(nth))),
        (ASKED, _digest(before.asked, str(before.since + number), called)),
        (NEXT, _digest(before.next, called, str(nth))),
    ]


def _keys_alone(call: Call, called: str, nth: int) -> Keys:
    if call.own and is_unique(call.id, call.name):
        return [(OWN_ID, _digest(call.id, str(nth)))]
    return [(NAMED, _digest(call.id, called, str(nth)))]


def _called(call: Call) -> str:
    """What is called, in a digest; an id that was made up here is not part of it."""
    return _digest(call.id if call.own else "", call.name or "", _arguments(call.arguments))


def is_unique(id: str, name: str | None = None) -> bool:
    """Whether an id looks like one that no other call has: its rest without the usual words is long, and no count.

    It is not where it is made of a word, the function's name and a number: functions.weather:0, call_1, get_time.
    """
    rest = _WORDS.sub("", id.replace(name, "") if name else id)
    return len(rest) >= _UNIQUE_LENGTH and len(set(rest)) >= _UNIQUE_LETTERS and any(letter.isdigit() for letter in rest)


_WORDS = re.compile(r"functions?|tooluse|toolu|tool|calls?|chatcmpl|[^0-9A-Za-z]", re.IGNORECASE)
_UNIQUE_LENGTH = 8
_UNIQUE_LETTERS = 5


def _arguments(given: Any) -> str:
    """Arguments such that the same value has the same text, however it was written; none are an empty object."""
    if isinstance(given, str):
        try:
            given = jsontext.loads(given) if given.strip() else {}
        except jsontext.JSONError:
            return str(given)
    if given is None:
        given = {}
    if jsontext.is_deeper(given, DEPTH_LIMIT):
        return jsontext.dumps(given)
    return jsontext.dumps(_normal(given))


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _normal(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(content: Any) -> str:
    """What a message says, whether as a text or as parts; marks for the cache, which move about, are left out."""
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        return "\n".join(part if isinstance(part, str) else jsontext.dumps(part) for part in parts)
    return content if isinstance(content, str) else "" if content is None else jsontext.dumps(_part(content))


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if isinstance(part.get("text"), str) and part.get("type") in _TEXTS:
        return part["text"]
    return {key: found for key, found in part.items() if key != "cache_control"} if "cache_control" in part else part


_TEXTS = frozenset({"text", "input_text", "output_text"})


def _count(counted: dict[str, int], key: str) -> int:
    """How many of a kind came before."""
    before = counted.get(key, 0)
    counted[key] = before + 1
    return before


def _hash() -> Any:
    return hashlib.blake2b(digest_size=16)


def _digest(*parts: str) -> str:
    found = _hash()
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        found.update(b"%d:" % len(text))
        found.update(text)
    return str(found.hexdigest())
