"""Stream ids are UUIDv7: in the order of time, and for imported content always the same."""

from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from recorder.collect.streamid import derived_stream_id, new_stream_id

CONTENT = st.lists(st.binary(max_size=20), max_size=4)


def milliseconds(stream_id: str) -> int:
    return uuid.UUID(stream_id).int >> 80


def is_uuid7(stream_id: str) -> bool:
    parsed = uuid.UUID(stream_id)
    return parsed.version == 7 and parsed.variant == uuid.RFC_4122 and str(parsed) == stream_id


def test_a_new_id_has_the_time_of_now() -> None:
    before = time.time_ns() // 1_000_000
    stream_id = new_stream_id()
    assert is_uuid7(stream_id)
    assert before <= milliseconds(stream_id) <= time.time_ns() // 1_000_000 + 1


def test_new_ids_are_all_different_and_sort_by_time() -> None:
    ids = [new_stream_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert [milliseconds(each) for each in ids] == sorted(milliseconds(each) for each in ids)


@given(st.integers(0, 2**48 // 1000 - 1), CONTENT)
def test_a_derived_id_is_a_uuid7_of_its_time(created_at: int, content: list[bytes]) -> None:
    stream_id = derived_stream_id(created_at, *content)
    assert is_uuid7(stream_id)
    assert milliseconds(stream_id) == created_at * 1000
    assert derived_stream_id(created_at, *content) == stream_id


@given(st.integers(), CONTENT)
def test_any_time_makes_an_id(created_at: int, content: list[bytes]) -> None:
    """A payload may claim a time before 1970 or in a million years."""
    assert is_uuid7(derived_stream_id(created_at, *content))


@given(CONTENT, CONTENT)
def test_other_content_has_another_id(one: list[bytes], other: list[bytes]) -> None:
    """Also where only the border between the parts is another: (a, bc) is not (ab, c)."""
    assert (derived_stream_id(0, *one) == derived_stream_id(0, *other)) == (one == other)


def test_the_id_of_known_content_never_changes() -> None:
    """Or importing again with a later version would add everything a second time."""
    stream_id = derived_stream_id(1_780_000_000, b"POST host /path", b"{}", b"data: x\n\n", b"")
    assert stream_id == "019e7044-8800-7679-ad1e-c0184adf43a5"
