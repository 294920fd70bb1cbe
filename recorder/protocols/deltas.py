"""Merging fragments: what a delta adds to what deltas before it have built.

There are two forms. Where a delta has the shape of the object that it extends (Assistants), an accumulation has it too:
merge(). Where each event adds to one string that it names (Responses, Chat), that string is kept as Fragments.

An accumulation is the API's object in its delta form. While it grows, a streamed string is a `Text` (a list of fragments,
joined once) and an indexed list is an `Indexed` (a dict by index, sorted once); `plain` turns it into JSON, its lists with
their `index` still in, so that merging can go on from there; `final` strips the index too, as the API's final objects do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

INDEX_LIMIT = 65536
"""Entries of one list; an index from here on is kept in the log only."""

Problem = Callable[[str, str], None]
"""Called with (kind, detail) for what a delta should not have had."""


class Fragments(list[Any]):
    """A streamed string, as runs of fragments whose sequence numbers follow each other: [[first number, [fragment …]] …].

    It is JSON as it stands. Fragments without a number are one run, whose first number is None.
    """

    def add(self, fragment: str, number: int | None = None) -> None:
        if self:
            first, held = self[-1]
            if first is None if number is None else first is not None and number == first + len(held):
                held.append(fragment)
                return
        self.append([number, [fragment]])

    def at(self, number: int) -> str | None:
        """The fragment with this sequence number."""
        for first, held in reversed(self):
            if first is not None and first <= number < first + len(held):
                return str(held[number - first])
        return None

    def text(self) -> str:
        """The string, by sequence numbers where all fragments have one, else as they came."""
        runs = self if any(first is None for first, _ in self) else sorted(self, key=lambda run: run[0])
        return whole("".join(fragment for _, held in runs for fragment in held))


def joined(parts: Iterable[list[Any]]) -> str:
    """One string from what several streams have of it: by sequence number where all have them, else the longest.

    parts: Fragments, or what they are as JSON.
    """
    given = [Fragments(part) for part in parts]
    if len(given) == 1 or any(first is None for part in given for first, _ in part):
        return max((part.text() for part in given), key=len, default="")
    numbered: dict[int, str] = {}
    for part in given:
        for first, held in part:
            numbered.update(enumerate(held, first))
    return whole("".join(numbered[number] for number in sorted(numbered)))


def whole(text: str) -> str:
    """A text whose surrogates are joined where two of them are the halves of one character: fragments may end between them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text


class Text(list[str]):
    """A streamed string in fragments."""


class Indexed(dict[int, Any]):
    """A list whose entries carry their index."""


def merge(
    into: dict[str, Any],
    delta: dict[str, Any],
    streamed: frozenset[tuple[str, str]],
    problem: Problem,
    parent: str = "",
) -> None:
    """Merge a delta object into an accumulation, in place.

    streamed: the (parent key, key) pairs whose strings are concatenated; every other scalar replaces what was there, and
    null never does. Lists of objects are merged by `index`.
    """
    for key, value in delta.items():
        have = into.get(key)
        if type(value) is str:
            if (parent, key) in streamed:
                if type(have) is Text:
                    have.append(value)
                else:
                    into[key] = Text([have, value] if isinstance(have, str) else [value])
            else:
                into[key] = value
        elif type(value) is dict:
            if type(have) is not dict:
                have = into[key] = {}
            merge(have, value, streamed, problem, key)
        elif type(value) is list:
            into[key] = _merge_list(have, value, streamed, problem, key)
        elif value is not None or have is None:
            into[key] = value


def _merge_list(have: Any, entries: list[Any], streamed: frozenset[tuple[str, str]], problem: Problem, key: str) -> Any:
    if not entries:
        return entries if have is None else have
    if not all(type(entry) is dict for entry in entries):
        return [*(plain(have) if type(have) in (list, Indexed) else ()), *entries]
    known = have if type(have) is Indexed else _indexed(have)
    for entry in entries:
        index = entry.get("index")
        if index is None:
            if known:
                problem("index_missing", f"an entry of {key} without index, appended")
            index = max(known, default=-1) + 1
        if type(index) is not int or not 0 <= index < INDEX_LIMIT:
            problem("index_invalid", f"index {index!r} in {key}, not merged")
            continue
        slot = known.get(index)
        if slot is None:
            slot = known[index] = {}
        merge(slot, entry, streamed, problem, key)
        slot["index"] = index
    return known


def _indexed(have: Any) -> Indexed:
    """A list, as a snapshot or an earlier state had it, by index; without one its entries count from 0."""
    known = Indexed()
    if type(have) is list:
        for at, entry in enumerate(have):
            if type(entry) is dict:
                if type(entry.get("index")) is not int:
                    entry["index"] = at
                known[entry["index"]] = entry
    return known


def plain(value: Any) -> Any:
    """An accumulation as JSON, entries of its indexed lists sorted and with their index."""
    if type(value) is Text:
        return whole("".join(value))
    if type(value) is Indexed:
        return [plain(value[index]) for index in sorted(value)]
    if type(value) is dict:
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) is list:
        return [plain(inner) for inner in value]
    return value


def final(value: Any) -> Any:
    """JSON in delta form as the API's final objects are: without the index of list entries."""
    if type(value) is dict:
        return {key: final(inner) for key, inner in value.items()}
    if type(value) is list:
        return [
            {key: final(inner) for key, inner in entry.items() if key != "index"} if type(entry) is dict else final(entry)
            for entry in value
        ]
    return value


def differences(
    accumulated: Any, snapshot: Any, streamed: frozenset[tuple[str, str]], parent: str = "", path: str = ""
) -> Iterator[str]:
    """Where streamed strings of an accumulation (plain) are not what the final snapshot says: paths like content[0].text.value.

    Only what both have is compared, and a fragment that the snapshot lacks altogether counts as a difference.
    """
    if type(accumulated) is dict:
        if type(snapshot) is not dict:
            return
        for key, inner in accumulated.items():
            here = f"{path}.{key}" if path else key
            if (parent, key) in streamed and type(inner) is str:
                if inner != (snapshot.get(key) or ""):
                    yield here
            else:
                yield from differences(inner, snapshot.get(key), streamed, key, here)
    elif type(accumulated) is list and type(snapshot) is list:
        for at, entry in enumerate(accumulated):
            if len(accumulated) != len(snapshot) and type(entry) is dict and type(entry.get("index")) is int:
                at = entry["index"]
            here = f"{path}[{at}]"
            if at < len(snapshot):
                yield from differences(entry, snapshot[at], streamed, parent, here)
            elif any(text for text in strings(entry, streamed, parent)):
                yield here


def gaps(
    accumulated: Any, snapshot: Any, streamed: frozenset[tuple[str, str]], parent: str = "", path: str = ""
) -> Iterator[str]:
    """Where an indexed list of an accumulation (plain) lacks an index below its highest: paths like content[1].

    An entry without streamed strings, as the final snapshot has it, may come without any delta: an image is none.
    """
    if type(accumulated) is dict:
        final = snapshot if type(snapshot) is dict else {}
        for key, inner in accumulated.items():
            yield from gaps(inner, final.get(key), streamed, key, f"{path}.{key}" if path else key)
    elif type(accumulated) is list:
        entries = snapshot if type(snapshot) is list else []
        known = {entry["index"]: entry for entry in accumulated if type(entry) is dict and type(entry.get("index")) is int}
        for index in range(min(max(known, default=0), len(entries) + 1)):
            entry = entries[index] if index < len(entries) else None
            if index not in known and (entry is None or any(strings(entry, streamed, parent))):
                yield f"{path}[{index}]"
        for index, entry in known.items():
            yield from gaps(entry, entries[index] if index < len(entries) else None, streamed, parent, f"{path}[{index}]")


def strings(value: Any, streamed: frozenset[tuple[str, str]], parent: str = "") -> Iterator[str]:
    """The streamed strings of an accumulation (plain), in order."""
    if type(value) is dict:
        for key, inner in value.items():
            if (parent, key) in streamed and type(inner) is str:
                yield inner
            else:
                yield from strings(inner, streamed, key)
    elif type(value) is list:
        for inner in value:
            yield from strings(inner, streamed, parent)
