"""The proofs of proofs/, each at a size for which there is time; `python -m tests.proofs` does them in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proofs import leaks, load

pytestmark = pytest.mark.slow


def test_many_streams_through_one_proxy_are_the_same_at_the_client_and_in_the_log(tmp_path: Path) -> None:
    found = load.loaded(tmp_path / "log.db", streams=60, seconds=3)
    assert found.same == found.streams == 60
    assert found.events == 60 * 3 * 1000 // load.GAP_MS
    assert (found.gaps, found.dropped) == (0, 0)


def test_short_streams_in_the_hook_leave_nothing_behind(tmp_path: Path) -> None:
    for found in leaks.hooked(tmp_path / "log.db", streams=3600):
        assert leaks.flat(found), found


def test_short_streams_through_a_proxy_leave_nothing_behind(tmp_path: Path) -> None:
    found = leaks.proxied(tmp_path / "log.db", streams=3600)
    assert leaks.flat(found), found
