"""Every test that is thinned is there, and has the cases to be thinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.thinning import EVERY

TESTS = Path(__file__).parent


@pytest.mark.parametrize("test", EVERY)
def test_a_test_that_is_thinned_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert EVERY[test] == 0 or EVERY[test] > 1
