"""Redaction: what is secret never comes through, however it is cut; all else, and every length, stays as it was."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from recorder import jsontext, log
from recorder.bodies import BodyDecoder, LinesDecoder, decoder_for
from recorder.jsonpath import Paths
from recorder.kind import kind_of
from recorder.protocols import Request
from recorder.protocols.merge import merge
from recorder.redaction import request
from recorder.redaction.content import OPAQUE
from recorder.redaction.filler import blank, blank_string
from recorder.redaction.leaves import scan
from recorder.redaction.redactor import HELD_FRAMES, Redactor
from recorder.redaction.rules import Rules
from recorder.settings import Settings
from recorder.sse import Frame, SSEDecoder, chunks, encode
from tests.writing import DONE, contribution, encoded, folded, message, message_delta, said, step_delta, text, text_delta

KEY = r"sk-[A-Za-z0-9]{16,}"
SECRET = "sk-Zq7Rw2Xk9Lm4Vb8Nc3"
WHOLE = '{"outcome": "done", "closed": "eof"}'
CUT = '{"outcome": "cut", "closed": "cut"}'


def rules(*patterns: str, paths: Sequence[str] = (), content: bool = True, look_back: int = 256) -> Rules:
    found = Rules.of(Settings(redact={"patterns": patterns, "paths": paths, "look_back": look_back}, content=content))
    assert found is not None
    return found


def redacted(by: Rules, frames: Iterable[Frame], end: str | None = WHOLE, *, wait: bool = True) -> list[Frame]:
    """The frames of a whole stream, given one by one, without its `$end`."""
    redactor = Redactor(by, wait=wait)
    found = [frame for given in frames for frame in redactor.feed([given])]
    if end is None:
        return found
    return [*found, *redactor.feed([log.system_frame("$end", json.loads(end), 0)])][:-1]


def wire(frame: Frame) -> bytes:
    return frame.raw if frame.raw is not None else encode(frame.type, frame.data)


def body(frames: Iterable[Frame]) -> bytes:
    return b"".join(map(wire, frames))


def decoded(given: bytes, cuts: Iterable[int] = ()) -> list[Frame]:
    """The frames of a stream whose chunks end at these bytes."""
    decoder = SSEDecoder()
    ends = [0, *sorted(cut for cut in cuts if 0 < cut < len(given)), len(given)]
    found = [frame for at, (start, end) in enumerate(pairwise(ends)) for frame in decoder.feed(given[start:end], at)]
    return [*found, *decoder.finish()]


def shape(value: Any) -> Any:
    """What redaction must leave: names, kinds, lengths."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return type(value).__name__ if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def pieces(value: str, cuts: Iterable[int]) -> list[str]:
    ends = [0, *sorted(cut for cut in cuts if 0 < cut < len(value)), len(value)]
    return [value[start:end] for start, end in pairwise(ends)]


def deltas(frames: Iterable[Frame], index: int = 0) -> str:
    """The text that the deltas of an index add up to."""
    said = (json.loads(frame.data)["delta"]["content"] for frame in frames if frame.type == "thread.message.delta")
    return "".join(part["text"]["value"] for parts in said for part in parts if part["index"] == index)


CUTS = st.lists(st.integers(0, 400), max_size=12)
CALM = st.text(st.sampled_from('abcks-S é€😀\n"\\/ ,.01'), max_size=60).filter(lambda text: not re.search(KEY, text))
"""Texts with beginnings of secrets in them, and none."""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([SECRET, f"a {SECRET}\n", "sk-", "\ud800", "\x00", 'q"\\/']),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "id", "text", "é\n", "status"]), inner, max_size=4)
    ),
    max_leaves=20,
)


# Shape


@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_json_keeps_its_bytes_its_names_and_the_length_of_each_value(value: Any, ascii: bool, indent: int | None) -> None:
    try:
        given = json.dumps([value], ensure_ascii=ascii, indent=indent).encode()
    except UnicodeEncodeError:
        given = json.dumps([value], indent=indent).encode()
    for by in (rules(KEY), rules(paths=["$..a", "$.b[0]"]), rules(r"\d\d", "[a-z]", "é"), rules(content=False)):
        after = request.body(by, given)
        assert len(after) == len(given)
        assert shape(json.loads(after)) == shape(json.loads(given))


@given(JSON)
def test_what_nothing_matches_stays_byte_for_byte(value: Any) -> None:
    given = json.dumps([value]).encode()
    by = rules(r"nothing\d{30}", paths=["$.nobody", "$..nothing", "$.a.b.c.d.e[999]"])
    assert request.body(by, given) == given


@given(st.text(), st.booleans())
def test_filler_is_of_the_character_alone_however_it_was_escaped(value: str, ascii: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii)[1:-1]
    filler = json.loads(f'"{blank_string(raw)}"')
    assert len(blank_string(raw)) == len(raw)
    assert len(filler) == len(value)
    assert filler == json.loads('"' + blank_string(json.dumps(value)[1:-1]) + '"')
    assert set(filler) <= set("x/é€😀")


@given(st.binary(max_size=200))
def test_filler_of_any_bytes_is_as_long(given: bytes) -> None:
    after = blank(given.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    assert len(after) == len(given)
    assert [at for at, byte in enumerate(after) if byte in b"\r\n"] == [at for at, byte in enumerate(given) if byte in b"\r\n"]


def test_filler_as_it_looks() -> None:
    assert blank("a/é€😀 \r\n") == "x/é€😀x\r\n"
    assert blank_string(r"a\n\"\u0041\u000a\u00e9\u20ac\ud83d\ude80\ud800") == r"x\/\/\u0078\u002f\u00e9\u20ac\ud83d\ude00\ud83d"


# JSON without values: where its leaves stand


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_scanning_finds_every_leaf_of_any_json(value: Any, ascii: bool, indent: int | None) -> None:
    given = json.dumps(value, ensure_ascii=ascii, indent=indent)

    def leaves(inner: Any) -> list[Any]:
        if isinstance(inner, dict):
            return [leaf for each in inner.values() for leaf in leaves(each)]
        if isinstance(inner, list):
            return [leaf for each in inner for leaf in leaves(each)]
        return [inner] if isinstance(inner, (str, int, float)) and not isinstance(inner, bool) else []

    found = scan(given)
    assert found.end == len(given)
    texts = [given[leaf.start : leaf.end] if leaf.is_number else f'"{given[leaf.start : leaf.end]}"' for leaf in found.leaves]
    assert [json.loads(text) for text in texts] == leaves(value)


@given(JSON, st.integers(0, 400))
def test_scanning_json_that_is_cut_finds_what_there_is(value: Any, cut: int) -> None:
    given = json.dumps({"a": value})
    whole, part = scan(given), scan(given[:cut])
    assert [leaf[:3] for leaf in part.leaves[:-1]] == [leaf[:3] for leaf in whole.leaves[: max(0, len(part.leaves) - 1)]]
    assert all(leaf.whole for leaf in part.leaves[:-1])


@given(st.text(st.sampled_from('{}[]:,"\\ab1 \n'), max_size=40))
def test_scanning_anything_comes_to_an_end(given: str) -> None:
    found = scan(given, Paths(["$..a"]))
    assert 0 <= found.end <= len(given)
    assert all(0 <= leaf.start <= leaf.end <= len(given) for leaf in found.leaves)


def test_scanning_and_redacting_is_no_deeper_than_the_stack() -> None:
    deep = '{"a":[' * 20_000 + '"' + SECRET
    after = request.body(rules(KEY, paths=["$..b"]), deep.encode())
    assert len(after) == len(deep)
    assert SECRET.encode() not in after
    frames = redacted(rules(KEY, content=False), [Frame("", deep)])
    assert SECRET not in frames[0].data


# Paths


@pytest.mark.parametrize(
    ("path", "hit"),
    [
        ("$", ["1", "2", "3", "4", "5", "6"]),
        ("$.a", ["1"]),
        ("$['a']", ["1"]),
        ('$["a"]', ["1"]),
        ("$['\\u0061']", ["1"]),
        ("$.b", ["2", "3", "4"]),
        ("$.b[0]", ["2"]),
        ("$.b[1].a", ["3"]),
        ("$.b[*]", ["2", "3", "4"]),
        ("$.b[*].a", ["3"]),
        ("$.*", ["1", "2", "3", "4", "5", "6"]),
        ("$..a", ["1", "3", "6"]),
        ("$..[1]", ["3", "4"]),
        ("$.b..c", ["4"]),
        ("$..*", ["1", "2", "3", "4", "5", "6"]),
        ("$['x y'].a", ["6"]),
        ("$.d..a", []),
        ("$.b.a", []),
        ("$.a[0]", []),
        ("$..b[1]['c']", ["4"]),
    ],
)
def test_a_path_hits_what_it_names_and_all_that_is_in_it(path: str, hit: list[str]) -> None:
    given = {"a": "1", "b": ["2", {"a": "3", "c": "4"}], "d": "5", "x y": {"a": "6"}}
    after = request.body(rules(paths=[path]), json.dumps(given).encode()).decode()
    assert [digit for digit in "123456" if f'"{digit}"' not in after] == hit


def test_a_path_hits_numbers_and_leaves_what_has_no_length_to_keep() -> None:
    given = b'{"a": [-12.50e3, 0, true, false, null, "t"], "b": 7}'
    assert request.body(rules(paths=["$.a"]), given) == b'{"a": [-11.11e1, 1, true, false, null, "x"], "b": 7}'


@pytest.mark.parametrize(
    "twice", ['{"a": "SECRET", "a": "b"}', '{"a": 1, "a": "SECRET"}', '{"\\u0061": "SECRET"}', '\ufeff{"a": "SECRET"}']
)
def test_a_path_hits_a_name_each_time_it_comes_and_however_it_is_written(twice: str) -> None:
    assert b"SECRET" not in request.body(rules(paths=["$.a"]), twice.encode())


@pytest.mark.parametrize(
    "broken",
    [
        '{"b": 1, a: "SECRET"}',
        "{'a': 'SECRET'}",
        '{"b": "c" "a"; "SECRET"}',
        '{"a": "SECRET',
        '{"b": ["SECRET',
        '[1, {"a": [{"x": "SECRET\\',
        '{"b": {"c": 1}} and then "a": "SECRET"',
        '{"b": tru, "a": "SECRET"}',
        '{"b": 1] "a": "SECRET"}',
    ],
)
def test_what_is_no_json_any_more_is_blanked_where_paths_are_set(broken: str) -> None:
    after = request.body(rules(paths=["$..a", "$.b[0]", "$[1].a[0].x"]), broken.encode())
    assert b"SECRET" not in after
    assert len(after) == len(broken)


# Patterns in one text


@pytest.mark.parametrize(
    "given",
    [
        f'{{"a": "{SECRET}"}}',
        f'{{"a": "so {SECRET}, so"}}',
        '{"a": "sk-Zq7Rw2Xk9Lm4\\u0056b8Nc3"}',
        f'{{"a": ["\\n{SECRET}\\u00e9", 1]}}',
        f"key={SECRET}&b=1",
        f'no json {{"a": "{SECRET}"}}',
        f'{{"a": 1}} {SECRET}',
        f"[{SECRET}]",
        f"[1] {SECRET}",
        f'"{SECRET}"',
        f'{{"a": "{SECRET}',
    ],
)
def test_a_pattern_is_found_in_json_and_in_anything_else(given: str) -> None:
    after = request.body(rules(KEY), given.encode())
    assert len(after) == len(given)
    assert b"Zq7Rw2Xk9Lm4" not in after
    assert b"b8Nc3" not in after


def test_a_pattern_is_found_in_numbers() -> None:
    given = b'{"card": 4111111111111111, "n": 41}'
    assert request.body(rules(r"\b\d{16}\b"), given) == b'{"card": 1111111111111111, "n": 41}'


@pytest.mark.parametrize(
    ("pattern", "value"),
    [("^secret$", "secret"), ("(?<!x)secret", "secret"), (r"\Asecret\Z", "secret"), ("secret(?!x)", "secret")],
)
def test_a_pattern_sees_a_string_by_itself(pattern: str, value: str) -> None:
    assert request.body(rules(pattern), json.dumps({"a": value}).encode()) == b'{"a": "xxxxxx"}'
    (frame,) = redacted(rules(pattern), [Frame("thread.run.created", json.dumps({"a": value}))])
    assert frame.data == '{"a": "xxxxxx"}'


def test_a_pattern_that_never_comes_to_an_end_costs_its_text_and_no_more() -> None:
    given = json.dumps({"a": "a" * 40, "b": "b"}).encode()
    assert request.body(rules(r"(a|aa)+$x"), given) == json.dumps({"a": "x" * 40, "b": "b"}).encode()


def test_bytes_that_are_no_text_stay_but_for_the_match() -> None:
    given = b"\xff\xfe " + SECRET.encode() + b" \x00\xc3"
    assert request.body(rules(KEY), given) == b"\xff\xfe " + b"x" * len(SECRET) + b" \x00\xc3"


def test_a_url_is_searched_with_and_without_its_escapes() -> None:
    by = rules(KEY, r"a b")
    assert request.query(by, f"q={SECRET}&n=1") == f"q={'x' * len(SECRET)}&n=1"
    assert request.query(by, "q=sk%2DZq7Rw2Xk9Lm4Vb8Nc3") == "q=" + "x" * 23
    assert request.query(by, "q=a+b&r=a%20b&s=a%20c") == "q=xxx&r=xxxxx&s=a%20c"
    assert request.path(by, f"/v1/keys/{SECRET}/x") == f"/v1/keys/{'x' * len(SECRET)}/x"
    assert request.path(by, "/v1/threads/thread_1/runs") == "/v1/threads/thread_1/runs"


# Patterns in texts that come in pieces


@given(CALM, CALM, CALM, CUTS, CUTS, st.booleans())
def test_a_secret_is_never_left_however_it_is_cut_into_deltas_and_chunks(
    before: str, after: str, other: str, cuts: list[int], chunk_ends: list[int], ascii: bool
) -> None:
    value = f"{before} {SECRET}!{after}"
    texts = [pieces(value, cuts), pieces(other, cuts[::2])]
    events = [(index, piece) for index, of in enumerate(texts) for piece in of]
    random.Random(str(cuts)).shuffle(events)
    turns = [iter(of) for of in texts]
    payloads = [json.loads(json.dumps(text_delta(next(turns[index]), index)[1])) for index, _ in events]
    given = "".join(f"event: thread.message.delta\ndata: {json.dumps(one, ensure_ascii=ascii)}\n\n" for one in payloads).encode()
    frames = decoded(given, chunk_ends)
    found = redacted(rules(KEY), frames)
    assert [len(wire(frame)) for frame in found] == [len(wire(frame)) for frame in frames]
    assert [(frame.type, frame.offset_us, frame.cuts) for frame in found] == [
        (frame.type, frame.offset_us, frame.cuts) for frame in frames
    ]
    assert deltas(found) == f"{before} {'x' * len(SECRET)}!{after}"
    assert deltas(found, 1) == other
    assert [len(chunk) for _, chunk in chunks((wire(frame), frame.offset_us, frame.cuts) for frame in found)] == [
        len(chunk) for _, chunk in chunks((wire(frame), frame.offset_us, frame.cuts) for frame in frames)
    ]


@given(CALM, CALM, CUTS)
def test_where_nothing_may_be_held_back_no_more_than_the_first_characters_are_left(
    before: str, after: str, cuts: list[int]
) -> None:
    value = f"{before} {SECRET}!{after}"
    frames = [Frame(name, json.dumps(payload)) for name, payload in map(text_delta, pieces(value, cuts))]
    redactor = Redactor(rules(KEY), wait=False)
    found = []
    for frame in frames:
        came = redactor.feed([frame])
        assert len(came) == 1, "nothing is held"
        found += came
    left = deltas(found)
    assert len(left) == len(value)
    assert left[len(before) + 4 : len(before) + 1 + len(SECRET)] == "x" * (len(SECRET) - 3)


@given(CALM, CUTS, st.integers(4, len(SECRET)))
def test_half_a_secret_at_the_end_of_a_stream_that_broke_off_is_not_left(before: str, cuts: list[int], seen: int) -> None:
    value = f"{before} {SECRET[:seen]}"
    frames = [Frame(name, json.dumps(payload)) for name, payload in map(text_delta, pieces(value, cuts))]
    left = deltas(redacted(rules(KEY), frames, CUT))
    assert left == f"{before} {'x' * seen}"
    assert deltas(redacted(rules(KEY), frames, WHOLE)) == (value if seen < 19 else left)


@given(CALM, CUTS, st.integers(0, 400))
def test_a_tail_is_searched_as_a_part_of_what_was_before(before: str, cuts: list[int], cut: int) -> None:
    value = f"{before} {SECRET}!"
    given = encoded([text_delta(piece) for piece in pieces(value, cuts)])
    given = given[: max(0, len(given) - cut)]
    frames = decoded(given)
    found = redacted(rules(KEY), frames, CUT)
    assert len(body(found)) == len(given)
    assert [frame.type for frame in found] == [frame.type for frame in frames]
    text = "".join(re.findall(r'"value":"((?:[^"\\]|\\.)*)', body(found).decode()))
    assert SECRET[:8] not in text
    assert SECRET[8:] not in text


@given(CALM, CALM, CUTS, st.sampled_from(["\n", "\r\n", "\r"]), CUTS)
def test_events_with_bytes_of_their_own_are_redacted_in_their_bytes(
    before: str, after: str, cuts: list[int], newline: str, chunk_ends: list[int]
) -> None:
    value = f"{before} {SECRET}!{after}"
    given = "".join(
        f": {SECRET}{newline}id: 7{newline}event: thread.message.delta{newline}"
        + "".join(f"data:{line}{newline}" for line in json.dumps(text_delta(piece)[1], indent=1).split("\n"))
        + f"note: {SECRET}{newline}{newline}"
        for piece in pieces(value, cuts)
    ).encode()
    frames = decoded(given, chunk_ends)
    found = redacted(rules(KEY), frames)
    assert len(body(found)) == len(given)
    assert deltas(found) == f"{before} {'x' * len(SECRET)}!{after}"
    assert SECRET.encode() not in body(found)
    again = decoded(body(found))
    assert [(frame.type, frame.data) for frame in again] == [(frame.type, frame.data) for frame in found]


PATTERNS = [
    r"sk-[A-Za-z0-9]{4,}",
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"[\w.+-]+@[\w-]+\.\w+",
    r"BEGIN[\s\S]*?END",
    r"ab(?:.*z)?",
    r"(?<=key: )\w+",
    r"(?i)secret\w*",
    r"x{2,5}y?",
    r"q[^q]*q",
]
WORDS = [
    "sk-",
    "abc1",
    "123",
    "-",
    "45",
    "6789",
    "@",
    "x.",
    "co ",
    "BEGIN",
    "END",
    "ab",
    "z",
    "key: ",
    "SeCret",
    "x",
    "y",
    "q",
    "\n",
]


@given(
    st.lists(st.sampled_from(WORDS), max_size=14),
    CUTS,
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True),
)
def test_what_matches_in_the_whole_text_is_redacted_in_its_pieces_and_nothing_else(
    words: list[str], cuts: list[int], patterns: list[str]
) -> None:
    value = "".join(words)
    frames = [Frame(*_named(text_delta(piece))) for piece in pieces(value, cuts)]
    found = [range(*match.span()) for pattern in patterns for match in regex.finditer(pattern, value)]
    expected = "".join("/x"[letter != "\n"] if any(at in span for span in found) else letter for at, letter in enumerate(value))
    assert deltas(redacted(rules(*patterns), frames)) == expected


@given(st.lists(st.sampled_from([SECRET[:5], SECRET[5:], SECRET, "calm ", "sk", "-"]), max_size=12), st.integers(1, 5))
def test_frames_given_at_once_and_one_by_one_come_out_the_same(texts: list[str], size: int) -> None:
    frames = [Frame(name, json.dumps(payload)) for name, payload in map(text_delta, texts)]
    redactor = Redactor(rules(KEY))
    found = [frame for at in range(0, len(frames), size) for frame in redactor.feed(frames[at : at + size])]
    assert [*found, *redactor.finish()] == redacted(rules(KEY), frames)


OTHERS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"id": f"chatcmpl-{at}", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": piece}}]}
        for at, piece in enumerate(["my ", SECRET[:3], SECRET[3:9], SECRET[9:], " ok"])
    ],
    "chat arguments, the first with an id": [
        {
            "choices": [
                {"index": 0, "delta": {"tool_calls": [{"index": 1, "id": "call_1", "function": {"arguments": SECRET[:9]}}]}}
            ]
        },
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "call_0", "function": {"arguments": "x"}}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": SECRET[9:]}}]}}]},
    ],
    "responses without names of events": [
        {"type": "response.output_text.delta", "item_id": f"m{at}", "output_index": 0, "content_index": 0, "delta": piece}
        for at, piece in enumerate([SECRET[:2], SECRET[2:]])
    ],
    "messages": [
        {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": piece}}
        for piece in (SECRET[:4], SECRET[4:])
    ],
    "an envelope": [
        {"event": "thread.message.delta", "data": {"id": "msg_1", "delta": {"content": [{"index": 0, "text": {"value": piece}}]}}}
        for piece in (SECRET[:4], SECRET[4:])
    ],
    "unknown": [{"token": piece, "n": at} for at, piece in enumerate([SECRET[:7], SECRET[7:12], SECRET[12:]])],
}


@pytest.mark.parametrize("name", OTHERS)
def test_pieces_are_put_together_in_any_protocol(name: str) -> None:
    frames = [Frame("", json.dumps(payload)) for payload in OTHERS[name]]
    found = redacted(rules(KEY), frames)
    assert not any(SECRET[at : at + 4] in frame.data for frame in found for at in range(len(SECRET) - 4))
    assert [shape(json.loads(frame.data)) for frame in found] == [shape(json.loads(frame.data)) for frame in frames]


def test_texts_of_different_places_are_not_put_together() -> None:
    frames = [
        Frame(*map(str, (name, json.dumps(payload)))) for name, payload in (text_delta(SECRET[:9], 0), text_delta(SECRET[9:], 1))
    ]
    assert redacted(rules(KEY), frames) == frames
    frames = [
        Frame(name, json.dumps(payload)) for name, payload in (text_delta(SECRET[:9], id="a"), text_delta(SECRET[9:], id="b"))
    ]
    assert redacted(rules(KEY), frames) == frames


def test_plain_text_comes_in_pieces_too() -> None:
    frames = [Frame("token", SECRET[:6]), Frame("token", SECRET[6:]), Frame("token", " calm")]
    assert [frame.data for frame in redacted(rules(KEY), frames)] == ["x" * 6, "x" * (len(SECRET) - 6), " calm"]


def test_what_goes_on_after_a_match_is_redacted_with_it() -> None:
    frames = [Frame(name, json.dumps(payload)) for name, payload in map(text_delta, [SECRET, "AAAA", "BBB! calm"])]
    redactor = Redactor(rules(KEY))
    assert [len(redactor.feed([frame])) for frame in frames] == [1, 1, 1], "what is a match already is not held"
    assert deltas(redacted(rules(KEY), frames)) == "x" * (len(SECRET) + 7) + "! calm"


def test_a_match_with_an_optional_end_is_held_where_it_may_go_on() -> None:
    by = rules(r"eyJ\w+\.\w+(?:\.\w+)?")
    frames = [Frame(name, json.dumps(payload)) for name, payload in map(text_delta, ["eyJa.b", ".", "cc", " ok."])]
    assert deltas(redacted(by, frames)) == "xxxxxxxxx ok."


# What is held, and for how long


def feeding(by: Rules, *texts: str) -> tuple[Redactor, list[int]]:
    redactor = Redactor(by)
    return redactor, [len(redactor.feed([Frame(name, json.dumps(payload))])) for name, payload in map(text_delta, texts)]


def test_only_what_may_be_the_beginning_of_a_match_is_held_and_what_comes_after_it_in_order() -> None:
    redactor, out = feeding(rules(KEY), "hello", "it is", "nothing", "a sk-", "no", "more")
    assert out == [1, 0, 2, 0, 0, 0]
    assert [len(redactor.feed([Frame(*_named(text_delta("!")))])), redactor.finish()] == [4, []]
    redactor = Redactor(rules(KEY))
    assert redactor.feed([Frame(*_named(text_delta("a s")))]) == []
    later = [
        Frame("other", '{"a": 1}'),
        Frame("$comment", "ping"),
        log.system_frame("$gap", {"chunks": 0, "bytes": 0, "reason": "r"}, 1),
    ]
    assert redactor.feed(later) == []
    assert [frame.type for frame in redactor.feed([Frame(*_named(text_delta("!")))])] == [
        "thread.message.delta",
        "other",
        "$comment",
        "$gap",
        "thread.message.delta",
    ]


def _named(event: tuple[str, Any]) -> tuple[str, str]:
    return event[0], json.dumps(event[1])


def test_the_end_of_its_object_lets_a_text_go() -> None:
    redactor = Redactor(rules(KEY))
    assert redactor.feed([Frame(*_named(text_delta("it is")))]) == []
    final = Frame(*_named(("thread.message.completed", message("completed", content=[text("it is")]))))
    assert len(redactor.feed([final])) == 2


def test_a_text_that_does_not_go_on_is_let_go_after_so_many_frames() -> None:
    redactor = Redactor(rules(KEY))
    first = Frame(*_named(text_delta(f"it is {SECRET[:9]}")))
    assert redactor.feed([first]) == []
    came = [redactor.feed([Frame("thread.run.step.created", json.dumps({"a": at}))]) for at in range(HELD_FRAMES)]
    assert came[:-1] == [[]] * (HELD_FRAMES - 1)
    assert came[-1][0] == first


def test_a_match_up_to_look_back_is_found_and_a_longer_one_is_not_left_whole() -> None:
    key = r"BEGIN [a-z ]+ END"
    secret = "BEGIN " + "abcdefg " * 10 + "END"
    texts = [secret[at : at + 5] for at in range(0, len(secret), 5)]
    frames = [Frame(*_named(text_delta(piece))) for piece in [*texts, "."]]
    assert deltas(redacted(rules(key, look_back=len(secret)), frames)) == "x" * len(secret) + "."
    left = deltas(redacted(rules(key, look_back=40), frames))
    assert left[:40] == "x" * 40
    assert len(left) == len(secret) + 1
    _, out = feeding(rules(key, look_back=40), *texts)
    assert out[:8] == [0] * 8
    assert sum(out) >= len(texts) - 8, "no more than look_back is held"


def test_memory_does_not_grow_with_the_stream() -> None:
    redactor = Redactor(rules(r"[\w.]+@\w+"))
    for at in range(5_000):
        redactor.feed([Frame("token", json.dumps({"id": str(at), "text": "word"}))])
    assert len(redactor._slots) <= HELD_FRAMES + 1
    assert len(redactor._texts) <= 1024


# Bodies


@given(CALM, CUTS, st.booleans(), st.sampled_from(["$..value", "$.nothing"]))
@example("", [11], True, "$..value")
def test_a_json_body_is_redacted_wherever_its_chunks_end(before: str, cuts: list[int], join: bool, path: str) -> None:
    given = json.dumps({"list": [{"key": f"{before}{SECRET}", "value": "hidden words"}] * 3}, ensure_ascii=False).encode()
    frames = cut_up(given, cuts, join=join)
    found = redacted(rules(KEY, paths=[path]), frames)
    assert [len(wire(frame)) for frame in found] == [len(wire(frame)) for frame in frames]
    assert shape(json.loads(body(found))) == shape(json.loads(given))
    assert SECRET.encode() not in body(found)
    assert (b"hidden words" in body(found)) == (path == "$.nothing")


def cut_up(given: bytes, cuts: Iterable[int], *, join: bool = False) -> list[Frame]:
    decoder = BodyDecoder(join)
    ends = [0, *sorted(cut for cut in cuts if 0 < cut < len(given)), len(given)]
    found = [frame for at, (start, end) in enumerate(pairwise(ends)) for frame in decoder.feed(given[start:end], at)]
    return [*found, *decoder.finish()]


@given(st.binary(max_size=40), CUTS)
def test_a_body_that_is_no_json_is_redacted_wherever_its_chunks_end(noise: bytes, cuts: list[int]) -> None:
    given = b"<p>" + noise + b" " + SECRET.encode() + b"</p>"
    frames = cut_up(given, cuts)
    found = redacted(rules(KEY), frames)
    assert [len(wire(frame)) for frame in found] == [len(wire(frame)) for frame in frames]
    assert body(found) == given.replace(SECRET.encode(), b"x" * len(SECRET))


@given(CUTS, st.integers(0, 120))
def test_a_json_body_that_broke_off_is_redacted_up_to_where_it_came(cuts: list[int], cut: int) -> None:
    given = json.dumps({"a": {"key": SECRET}, "b": {"value": "hidden words"}}).encode()[:cut]
    found = redacted(rules(KEY, paths=["$.b.value"]), cut_up(given, cuts), CUT)
    assert len(body(found)) == len(given)
    assert b"hid" not in body(found)
    assert SECRET[:8].encode() not in body(found)


def test_what_is_encoded_so_that_it_cannot_be_read_is_blanked() -> None:
    head = log.system_frame("$response", {"status": 200, "headers": [["content-encoding", "odd"]]}, 0)
    found = redacted(rules(KEY), [head, Frame("$body", "", b"\x1f\x8b\n\xff", 1)])
    assert found[0] == head
    assert found[1].raw in (None, b"xx\nx")
    assert wire(found[1]) == b"xx\nx"
    plain = log.system_frame("$response", {"status": 200, "headers": [["content-encoding", "gzip"]], "decoded": "gzip"}, 0)
    assert redacted(rules(KEY), [plain, Frame("$body", "calm")])[1].data == "calm"


def test_after_a_gap_what_may_be_the_rest_of_something_is_blanked_where_paths_are_set() -> None:
    gap = log.system_frame("$gap", {"chunks": 1, "bytes": 9, "reason": "queue full"}, 1)
    rest = Frame("$block", 'hidden"}}', b'hidden"}}\n\n', 2)
    event = Frame("thread.message.delta", '{"a": "calm"}')
    assert redacted(rules(paths=["$.secret"]), [gap, rest, event]) == [gap, rest._replace(data="x" * 9 + "\n\n", raw=None), event]
    assert redacted(rules(KEY), [gap, rest, event]) == [gap, rest, event]
    middle = [Frame("$body", '{"a": {"b": "'), gap, Frame("$body", 'hidden"}}')]
    assert "hidden" not in "".join(frame.data for frame in redacted(rules(paths=["$.a.b"]), middle))


def test_half_a_secret_before_a_gap_is_not_left() -> None:
    gap = log.system_frame("$gap", {"chunks": 1, "bytes": 9, "reason": "queue full"}, 1)
    frames = [Frame(*_named(text_delta(f"a {SECRET[:12]}"))), gap, Frame(*_named(text_delta("calm")))]
    assert deltas(redacted(rules(KEY), frames)) == "a " + "x" * 12 + "calm"


def test_lines_of_json_are_redacted_one_by_one() -> None:
    given = b'{"text":"' + SECRET[:9].encode() + b'"}\n\n{"text":"' + SECRET[9:].encode() + b'"}\r\n{"text":" ca'
    decoder = LinesDecoder()
    frames = [*decoder.feed(given), *decoder.finish()]
    found = redacted(rules(KEY), frames, CUT)
    assert [frame.type for frame in found] == ["", "$block", "", "$tail"]
    expected = given.replace(SECRET[:9].encode(), b"x" * 9).replace(SECRET[9:].encode(), b"x" * (len(SECRET) - 9))
    assert b"".join(frame.raw or frame.data.encode() + b"\n" * (not frame.type) for frame in found) == expected


def test_pieces_of_an_oversized_event_are_searched_and_blanked_where_paths_are_set() -> None:
    decoder = SSEDecoder(limit=64)
    given = b'data: {"a": "' + b"calm " * 20 + SECRET.encode() + b'"}\n\n'
    frames = [*decoder.feed(given), *decoder.finish()]
    assert {frame.type for frame in frames} == {"$piece"}
    assert body(redacted(rules(KEY), frames)) == given.replace(SECRET.encode(), b"x" * len(SECRET))
    assert set(body(redacted(rules(paths=["$.b"]), frames))) == set(b"x\n")


def test_details_of_errors_and_values_of_headers_are_searched() -> None:
    head = log.system_frame("$response", {"status": 200, "headers": [["x-request-id", SECRET]]}, 0)
    end = log.system_frame("$end", {"outcome": "cut", "closed": "cut", "detail": f"ReadError: {SECRET}"}, 1)
    redactor = Redactor(rules(KEY))
    after = redactor.feed([head, end])
    assert [jsontext.loads(frame.data) for frame in after] == [
        {"status": 200, "headers": [["x-request-id", "x" * len(SECRET)]]},
        {"outcome": "cut", "closed": "cut", "detail": "ReadError: " + "x" * len(SECRET)},
    ]


def test_done_is_left_whatever_is_redacted() -> None:
    for by in (rules("DONE"), rules(paths=["$"]), rules(content=False)):
        assert redacted(by, [Frame("done", "[DONE]"), Frame("", "[DONE]")]) == [Frame("done", "[DONE]"), Frame("", "[DONE]")]


# Content off


def off(frames: Iterable[Frame], end: str | None = WHOLE) -> list[Frame]:
    return redacted(rules(content=False), frames, end)


def test_content_off_keeps_what_counts_and_blanks_what_was_said() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    details = Frame(*_named(step_delta(call)))
    (found,) = off([details])
    (after,) = json.loads(found.data)["delta"]["step_details"]["tool_calls"]
    assert after == {**call, "function": {"name": "weather", "arguments": "x/x"[:1] + "/xxxx/x/xxxx/x"}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('{"role":"user","name":"Jane","content":"hello"}', '{"role":"user","name":"xxxx","content":"xxxxx"}'),
        ('{"role":"tool","name":"f","content":"hello"}', '{"role":"tool","name":"f","content":"xxxxx"}'),
        (
            '{"type":"function_call","name":"f","arguments":"{}","call_id":"call_1"}',
            '{"type":"function_call","name":"f","arguments":"xx","call_id":"call_1"}',
        ),
        (
            '{"type":"tool_use","name":"f","input":{"id":"a","status":"ill","n":7}}',
            '{"type":"tool_use","name":"f","input":{"id":"x","status":"xxx","n":1}}',
        ),
        ('{"status":"he is ill"}', '{"status":"xxxxxxxxx"}'),
        ('{"type":"code_interpreter_call","code":"abc"}', '{"type":"code_interpreter_call","code":"xxx"}'),
        ('{"error":{"code":"limit","type":"t","message":"no"}}', '{"error":{"code":"limit","type":"t","message":"xx"}}'),
        ('{"type":"error","code":"server_error","message":"no"}', '{"type":"error","code":"server_error","message":"xx"}'),
        ('{"logprob":-0.25,"bytes":[72,101],"token":"He"}', '{"logprob":-1.11,"bytes":[11,111],"token":"xx"}'),
        ('{"embedding":[0.5,2],"index":3}', '{"embedding":[1.1,1],"index":3}'),
        ('{"usage":{"total_tokens":7,"cost":0.25,"of":{"x":3}}}', '{"usage":{"total_tokens":7,"cost":0.25,"of":{"x":3}}}'),
        ('{"created_at":178000,"metadata":{"id":"7","model":"m"}}', '{"created_at":178000,"metadata":{"id":"x","model":"x"}}'),
        ('{"vector_store_ids":["vs_1"],"stop":["I am"]}', '{"vector_store_ids":["vs_1"],"stop":["xxxx"]}'),
        ('{"thread_id":"thread_1","temperature":0.5,"age":41}', '{"thread_id":"thread_1","temperature":0.5,"age":11}'),
        ("hello", "xxxxx"),
        ('{"id":"a', '{"id":"x'),
    ],
)
def test_content_off_by_example(given: str, kept: str) -> None:
    assert request.body(rules(content=False), given.encode()).decode() == kept


def test_content_off_blanks_what_is_no_json_and_keeps_the_fields_of_events() -> None:
    given = b": hello\nid: evt_1\nretry: 100\nevent: note\nother: hello\nodd\ndata: hello\n\n: hello\n\n"
    found = off(decoded(given))
    assert body(found) == b": xxxxx\nid: evt_1\nretry: 100\nevent: note\nother: xxxxx\nxxx\ndata: xxxxx\n\n: xxxxx\n\n"
    assert off(cut_up(b"<p>hello</p>", [4]))[0].data == "xxxx"


def test_deltas_still_add_up_with_content_off_however_they_are_escaped() -> None:
    value = 'é "quoted"/\n\u2028 😀 Zoë'
    events = [*said(value), DONE]
    plain = [
        Frame(name, payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=name.endswith("delta")))
        for name, payload in events
    ]
    after = off(plain)
    fold = folded([(frame.type, frame.data) for frame in after])
    view = merge("run_1", [contribution(fold)])
    assert view.anomalies == []
    assert view.messages[0].object["content"][0]["text"]["value"] != value


SEEN = (
    "id",
    "status",
    "type",
    "object",
    "usage",
    "role",
    "created_at",
    "completed_at",
    "run_id",
    "thread_id",
    "assistant_id",
    "model",
    "name",
)


def skeleton(value: Any) -> Any:
    """What of an object content off must leave."""
    if isinstance(value, dict):
        return {
            key: skeleton(inner) if isinstance(inner, (dict, list)) else inner
            for key, inner in value.items()
            if key in SEEN or (isinstance(inner, (dict, list)) and key not in OPAQUE)
        }
    return [skeleton(inner) for inner in value] if isinstance(value, list) else None


def streams_of(shared: Path) -> list[Path]:
    return sorted(
        path
        for path in (shared / "streams").iterdir()
        if path.suffix in (".sse", ".json", ".jsonl") and ".request." not in path.name
    )


def frames_of(path: Path) -> list[Frame]:
    given = path.read_bytes()
    kind = {".sse": "text/event-stream", ".json": "application/json"}.get(path.suffix, "application/x-ndjson")
    decoder = decoder_for(kind_of(given, kind))
    return [
        log.system_frame("$response", {"status": 200, "headers": [["content-type", kind]]}, 0),
        *decoder.feed(given, 1),
        *decoder.finish(),
    ]


def test_the_folds_of_all_shared_streams_say_the_same_with_content_off(shared: Path) -> None:
    protocols = []
    for path in streams_of(shared):
        frames = frames_of(path)
        after = off(frames)
        assert [frame.type for frame in after] == [frame.type for frame in frames]
        assert [len(wire(frame)) for frame in after] == [len(wire(frame)) for frame in frames], path.name
        for before, now in zip(frames, after, strict=True):
            assert skeleton(jsontext.object_of(before.data)) == skeleton(jsontext.object_of(now.data)), path.name
        views = []
        for some in (frames, after):
            fold = folded([(frame.type, frame.data) for frame in some], Request())
            protocols.append(fold.protocol)
            found = {}
            for key in fold.states():
                if key:
                    view = merge(key, [contribution(fold, key)])
                    found[key] = (
                        view.state,
                        skeleton(view.object),
                        [(step.id, step.terminal, skeleton(step.object)) for step in view.steps],
                        [(one.id, one.terminal, skeleton(one.object)) for one in view.messages],
                        [(position, kind) for _, position, kind, _ in view.anomalies],
                        (view.first_us, view.first_delta_us),
                    )
            views.append(
                (fold.protocol, fold.outcome, fold.events, fold.bytes, fold.thread_id, (fold.error or {}).get("code"), found)
            )
        # A call that came without an id has one that is made of its arguments.
        before_and_after = [re.sub(r"call_[0-9a-f]{16}\b", "call_", repr(view)) for view in views]
        assert before_and_after[0] == before_and_after[1], path.name
    assert protocols.count("assistants") >= 2 * 18


def test_no_text_of_a_shared_stream_is_left_with_content_off(shared: Path) -> None:
    for path in streams_of(shared):
        after = body(off(frames_of(path))).decode("utf-8", "replace")
        for words in texts_of(path):
            assert words not in after, f"{path.name}: {words!r}"


def texts_of(path: Path) -> set[str]:
    """Of what was said, asked and answered in a stream: runs of words of it."""
    found: set[str] = set()

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                walk(inner, key)
        elif isinstance(value, str) and key in (
            "text",
            "value",
            "content",
            "arguments",
            "output",
            "input",
            "instructions",
            "code",
            "delta",
            "logs",
            "message",
            "transcript",
            "result",
        ):
            found.update(re.findall(r"\w{3,} \w{3,}", value))

    for frame in frames_of(path):
        if not frame.type.startswith("$") or frame.type == "$body":
            try:
                walk(jsontext.loads(frame.data), "")
            except jsontext.JSONError:
                continue
    return found


def test_message_deltas_of_several_parts_are_each_a_text() -> None:
    parts = [{"index": 0, "type": "text", "text": {"value": SECRET[:6]}}, {"index": 1, "type": "text", "text": {"value": "s"}}]
    more = [{"index": 1, "type": "text", "text": {"value": "ure"}}, {"index": 0, "type": "text", "text": {"value": SECRET[6:]}}]
    found = redacted(rules(KEY), [Frame(*_named(message_delta(*parts))), Frame(*_named(message_delta(*more)))])
    assert deltas(found, 0) == "x" * len(SECRET)
    assert deltas(found, 1) == "sure"


def test_a_body_may_begin_with_white_space_chunk_by_chunk() -> None:
    given = b' \n\n{"hidden": "words"}'
    assert body(redacted(rules(paths=["$.hidden"]), cut_up(given, [1, 2, 3, 9]))) == b' \n\n{"hidden": "xxxxx"}'


def test_fields_of_an_event_without_a_value_are_left() -> None:
    given = b'data\ndata: {"a":\ndata: "hidden"}\nevent\nid\nretry\n\n'
    assert body(off(decoded(given))) == b'data\ndata: {"a":\ndata: "xxxxxx"}\nevent\nid\nretry\n\n'
    assert body(redacted(rules(paths=["$.a"]), decoded(given))) == b'data\ndata: {"a":\ndata: "xxxxxx"}\nevent\nid\nretry\n\n'
