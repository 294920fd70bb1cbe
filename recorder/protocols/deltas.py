"""Merging indexed fragments: what a delta adds to what deltas before it have built.

An accumulation is the API's object in its delta form. While it grows, a streamed string is a `Text` (a list of fragments,
joined once) and an indexed list is an `Indexed` (a dict by index, sorted once); `plain` turns it into JSON, its lists with
their `index` still in, so that merging can go on from there; `final` strips the index too, as the API's final objects do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

INDEX_LIMIT = 65536
"""Entries of one list; an index from here on is kept in the log only."""

Problem = Callable[[str, str], None]
"""Called with (kind, detail) for what a delta should not have had."""


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
        return "".join(value)
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
