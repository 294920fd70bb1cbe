"""Which columns of a table are shown on a screen, and how wide: a text gives way before a column does, a number never."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

GAP = 2
"""Cells between columns."""

Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column on a screen. In a pipe it has the row's own name, and its values whole.

    least: to how many cells a text may be shortened, at its end; 0 where it may not. rank: where there is no room, the column
    of the highest is left out first, one of 0 never. of: what it shows of a row, where that is not the value of its name.
    style: how rich is to show a value, '' as any other.
    """

    name: str
    head: str = ""
    least: int = 0
    rank: int = 0
    of: Callable[[Row], Any] | None = None
    style: Callable[[Any], str] | None = None

    @property
    def title(self) -> str:
        return self.head or self.name

    def value(self, row: Row) -> Any:
        return self.of(row) if self.of else row.get(self.name)


def fitted(columns: Sequence[Column], needed: Sequence[int], width: int) -> dict[int, int]:
    """{number of a column that is shown: its width}, so that they fit. needed: the cells of each column's longest entry."""
    least = [
        min(need, max(column.least, len(column.title))) if column.least else need
        for column, need in zip(columns, needed, strict=True)
    ]
    shown = list(range(len(columns)))
    while (spare := width - sum(least[number] for number in shown) - GAP * (len(shown) - 1)) < 0:
        last = max(shown, key=lambda number: columns[number].rank)
        if columns[last].rank == 0:
            break
        shown.remove(last)
    widths = {number: least[number] for number in shown}
    for number in sorted(shown, key=lambda number: needed[number] - least[number]):  # what lacks little is whole first
        more = min(max(spare, 0), needed[number] - least[number])
        widths[number], spare = least[number] + more, spare - more
    return widths
