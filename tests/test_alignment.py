"""What was asked, held against what was recorded: same, changed, extra, missing, reordered, and nothing for polls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.replay.alignment import _CELLS, Recorded, Seen, align, passes


def recorded(letters: str) -> list[Recorded]:
    """A request for each letter: small ones post to one path, capitals are read from another."""
    return [Recorded(letter.encode(), path(letter), letter.isupper()) for letter in letters]


def seen(letters: str, among: str) -> list[Seen]:
    """A digit is a request of the small letters' path that equals none."""
    return [Seen(letter.encode() if letter in among else None, path(letter)) for letter in letters]


def path(letter: str) -> tuple[str, str]:
    return ("GET", "/polled") if letter.isupper() else ("DELETE", "/elsewhere") if letter == "-" else ("POST", "/asked")


def steps(was: str, now: str) -> list[tuple[str, int | None, int | None]]:
    """What is not the same: (kind, place in the recording, place in what was asked), from 1."""
    found = align(recorded(was), seen(now, was))
    return [(kind, None if r is None else r + 1, None if s is None else s + 1) for kind, r, s in found if kind != "same"]


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("abc", "abc", []),
        ("", "", []),
        ("abc", "a1c", [("changed", 2, 2)]),
        ("abc", "123", [("changed", 1, 1), ("changed", 2, 2), ("changed", 3, 3)]),
        ("abc", "abc1", [("extra", None, 4)]),
        ("abc", "a1bc", [("extra", None, 2)]),
        ("abc", "1abc", [("extra", None, 1)]),
        ("abc", "abbc", [("extra", None, 3)]),
        ("abc", "ab-c", [("extra", None, 3)]),
        ("abc", "a-c", [("missing", 2, None), ("extra", None, 2)]),
        ("abc", "ac", [("missing", 2, None)]),
        ("abc", "ab", [("missing", 3, None)]),
        ("abc", "bc", [("missing", 1, None)]),
        ("aab", "ab", [("missing", 2, None)]),
        ("abc", "", [("missing", 1, None), ("missing", 2, None), ("missing", 3, None)]),
        ("abc", "acb", [("reordered", 2, 3)]),
        ("abc", "bac", [("reordered", 1, 2)]),
        ("abcd", "adcb", [("reordered", 4, 2), ("reordered", 2, 4)]),
        ("abcd", "bcda", [("reordered", 1, 4)]),
        ("abcd", "a1db", [("changed", 3, 2), ("reordered", 2, 4)]),
        ("aGb", "aGGGb", []),
        ("aGGGb", "aGb", []),
        ("aGGbG", "aGbGGG", []),
        ("aGGG", "aG", []),
        ("aGGGb", "aG", [("missing", 5, None)]),
        ("aGb", "abG", [("reordered", 2, 3)]),
        ("aGb", "ab", [("missing", 2, None)]),
        ("GH", "HG", [("reordered", 1, 2)]),
    ],
)
def test_each_is_named_rightly(was: str, now: str, expected: list[tuple[str, int | None, int | None]]) -> None:
    assert sorted(steps(was, now), key=str) == sorted(expected, key=str)


@given(st.text("abcG", max_size=8), st.text("abcG1-", max_size=8))
def test_every_request_has_its_step_and_no_more(was: str, now: str) -> None:
    """But for polls, which may be more or fewer."""
    found = align(recorded(was), seen(now, was))
    polled = {letter for letter in was if letter.isupper() and letter in now}
    for letters, places in ((was, [step.recorded for step in found]), (now, [step.seen for step in found])):
        known = [place for place in places if place is not None]
        assert len(known) == len(set(known))
        left = set(range(len(letters))) - set(known)
        assert all(letters[place] in polled for place in left)
    for kind, r, s in found:
        assert (r is None, s is None) == {"extra": (True, False), "missing": (False, True)}.get(kind, (False, False))
        if r is not None and s is not None:
            assert (was[r] == now[s]) == (kind in ("same", "reordered"))


@given(st.text("abcdefgh", min_size=1, max_size=8), st.integers(0, 7))
def test_what_is_the_same_differs_in_nothing_and_one_less_is_one_missing(was: str, without: int) -> None:
    assert steps(was, was) == []
    at = without % len(was)
    (one,) = steps(was, was[:at] + was[at + 1 :])
    assert one[0] == "missing"
    assert was[(one[1] or 0) - 1] == was[at]


def test_the_recording_that_answered_is_the_one_that_it_is_held_against() -> None:
    was = recorded("abc")
    now = [Seen(b"a", path("a")), Seen(None, path("1"), given=2)]
    assert [(step.kind, step.recorded) for step in align(was, now) if step.kind != "same"] == [("missing", 1), ("changed", 2)]


def test_more_than_can_be_compared_is_held_against_what_answered_it() -> None:
    count = int(_CELLS**0.5) + 2
    was = [Recorded(b"%d" % number, ("POST", "/")) for number in range(count)]
    now = [Seen(None, ("POST", "/"), given=number) for number in range(count - 1)] + [Seen(None, ("POST", "/"))]
    found = align(was, now)
    assert [step.kind for step in found] == ["changed"] * (count - 1) + ["extra", "missing"]


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("ab", "ab", ["ab"]),
        ("ab", "abab", ["ab", "ab"]),
        ("aGb", "aGGbaGb", ["aGGb", "aGb"]),
        ("ab", "aab", ["aab"]),
        ("ab", "abb", ["abb"]),
        ("a", "aaa", ["a", "a", "a"]),
        ("G", "GGG", ["GGG"]),
        ("abc", "abcab", ["abc", "ab"]),
        ("ab", "", [""]),
    ],
)
def test_a_client_that_begins_anew_is_compared_anew(was: str, now: str, expected: list[str]) -> None:
    assert [now[start:end] for start, end in passes(recorded(was), seen(now, was))] == expected
