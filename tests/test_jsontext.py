"""JSON text: whatever a JSON text says is read, and what was read is written as it was."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import jsontext

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=4), inner, max_size=4),
    max_leaves=12,
)


def texts(value: object) -> list[str]:
    """Three texts of one value, as writers differ."""
    return [json.dumps(value), json.dumps(value, indent=1), json.dumps(value, separators=(",", ":"))]


@given(VALUES)
def test_what_is_read_is_what_the_standard_library_reads(value: object) -> None:
    for text in texts(value):
        assert repr(jsontext.loads(text)) == repr(json.loads(text))
        assert repr(jsontext.loads(text.encode())) == repr(json.loads(text))


@given(VALUES)
def test_what_was_read_is_written_and_read_again_unchanged(value: object) -> None:
    for text in texts(value):
        read = jsontext.loads(text)
        again = jsontext.loads(jsontext.dumps(read))
        assert repr(again) == repr(read)


@given(VALUES)
def test_what_is_written_can_be_stored_in_any_database(value: object) -> None:
    """No NUL and no lone surrogate outside an escape."""
    text = jsontext.dumps(jsontext.loads(json.dumps(value)))
    assert "\0" not in text
    assert text.encode().decode() == text
    assert "\n" not in text


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '{"\\ud800":"\\u0000"}',
        "18446744073709551616",
        "-170141183460469231731687303715884105728",
        "123456789012345678901234567890",
        "-0.0",
        "1e22",
        '[1,1.0,"1"]',
        '""',
    ],
)
def test_a_fast_decoders_stumbling_blocks_come_out_as_they_went_in(text: str) -> None:
    assert json.loads(jsontext.dumps(jsontext.loads(text))) == json.loads(text)
    assert repr(jsontext.loads(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("text", "value"), [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf), ("1e400", math.inf)]
)
def test_a_number_that_is_none_is_never_written_as_null(text: str, value: float) -> None:
    read = jsontext.loads(f'{{"a":[{text},1]}}')
    assert repr(read["a"][0]) == repr(value)
    again = jsontext.loads(jsontext.dumps(read))
    assert repr(again["a"]) == repr([value, 1])


def test_a_surrogate_pair_in_escapes_is_one_character() -> None:
    assert jsontext.loads('"\\ud834\\udd1e"') == "𝄞"
    assert jsontext.dumps("𝄞") == '"𝄞"'


def test_bytes_that_are_no_utf_8_are_read_with_replacement_characters() -> None:
    assert jsontext.loads(b'{"a":"\xff"}') == {"a": "\ufffd"}


@pytest.mark.parametrize("text", ["", " ", "{", '{"a":1,}', "[DONE]", "nul", "1 2", '"\n"', "'a'", b"", b"\xff", "01", '{"a" 1}'])
def test_what_is_no_json_is_a_json_error(text: str | bytes) -> None:
    with pytest.raises(jsontext.JSONError):
        jsontext.loads(text)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_without_end_is_a_json_error_and_no_crash(opening: str) -> None:
    with pytest.raises(jsontext.JSONError):
        jsontext.loads(opening * 100_000)


@pytest.mark.parametrize("depth", [100, 400])
def test_deep_nesting_is_read_and_written(depth: int) -> None:
    text = "[" * depth + "]" * depth
    assert jsontext.dumps(jsontext.loads(text)) == text


@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_written_is_compact(indent: int | None) -> None:
    value = {"a": [1, {"b": None}], "c": "\ud800"}
    assert jsontext.dumps(jsontext.loads(json.dumps(value, indent=indent))) == '{"a":[1,{"b":null}],"c":"\\ud800"}'
