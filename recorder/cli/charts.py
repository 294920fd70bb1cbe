"""Numbers as bars, times as a line of blocks, and the steps of a run on its time axis: lines of (text, style) pairs, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from recorder.cli.output import STATUS_STYLES, UNKNOWN, cell, cells, shortened

Line = list[tuple[str, str]]

Step = tuple[str, str | None, int | None, int | None, bool]

Timeline = tuple[Sequence[Step], int | None]
"""What waterfall() draws: the steps, and how long the run took."""

BLOCKS = " ▁▂▃▄▅▆▇█"
_NOT_SAID = "·"
_TRACE = "▏"
_ON = "▶"
_LEAST_BAR = 10


def bars(rows: Sequence[tuple[Any, int | None]], width: int) -> list[Line]:
    """A horizontal bar for each (name, number); None is a number that is not known."""
    numbers = [UNKNOWN if number is None else cell(number) for _, number in rows]
    names = [UNKNOWN if name is None else cell(name) for name, _ in rows]
    of_number = max(map(len, numbers), default=0)
    of_name = min(max(map(cells, names), default=0), max(width - of_number - 2 * 2 - _LEAST_BAR, 1))
    of_bar = max(width - of_name - of_number - 2 * 2, 1)
    most = max((number or 0 for _, number in rows), default=0)
    return [
        [
            (f"{shortened(name, of_name)}  {shown:>{of_number}}  ", ""),
            (_bar(most, 0, number, of_bar).rstrip() or _TRACE if number else "", "cyan"),
        ]
        for name, shown, (_, number) in zip(names, numbers, rows, strict=True)
    ]


def sparkline(what: str, rows: Sequence[tuple[str, int | None]], width: int) -> list[Line]:
    """Numbers of hours or days as one line of blocks, the first and the last time under it.

    rows: (hour or day in ISO 8601, number), in order. A time that is missing had none, so its number is 0; None is not known.
    Where there are more times than cells, each cell has several.
    """
    if not rows:
        return []
    step = timedelta(days=1) if len(rows[0][0]) == 10 else timedelta(hours=1)
    times = [_time(at) for at, _ in rows]
    count = (times[-1] - times[0]) // step + 1
    each = -(-count // max(width, 1))
    held: dict[int, int | None] = {}
    for time, (_, number) in zip(times, rows, strict=True):
        at = (time - times[0]) // step // each
        held[at] = number if held.get(at) is None else (held[at] or 0) + (number or 0)
    most = max((number or 0 for number in held.values()), default=0)
    line = "".join(_block(held.get(at, 0), most) for at in range(-(-count // each)))
    unit = ("day" if step.days else "hour", "days" if step.days else "hours")
    head = f"{what}, at most {cell(most)} in {f'{each:,} {unit[1]}' if each > 1 else f'a {unit[0]}' if step.days else 'an hour'}"
    first, last = (_short(at) for at, _ in (rows[0], rows[-1]))
    axis = first if count == 1 else f"{first}{last:>{max(len(line) - len(first), len(last) + 3)}}"
    return [[(shortened(head, width).rstrip(), "bold")], [(line, "cyan")], [(axis, "dim")]]


def waterfall(steps: Sequence[Step], duration_us: int | None, width: int) -> list[Line]:
    """The steps of a run on one axis from its start to its end, a line each: name, bar, duration.

    steps: (label, status, first_us, last_us, is_open), µs since the start, None where that is not known. Where nothing happens in
    any step, as while the client is waited for, no bar has a block. Where no step's time is known, there are no lines. One that
    nothing ended has an arrow at its end.
    """
    ends = [last for _, _, _, last, _ in steps if last is not None]
    size = max([duration_us or 0, *ends])
    if not size or not any(_is_known(first, last) for _, _, first, last, _ in steps):
        return []
    spans = ["" if first is None or last is None else seconds(last - first) for _, _, first, last, _ in steps]
    of_span = max([len(seconds(size)), *map(len, spans)])
    of_name = min(max((cells(label) for label, *_ in steps), default=0), max(width * 2 // 5, 1))
    of_bar = max(width - of_name - of_span - 2 * 2, 1)
    lines: list[Line] = []
    for (label, status, first, last, is_open), span in zip(steps, spans, strict=True):
        body = _bar(size, first or 0, last or 0, of_bar) if _is_known(first, last) else UNKNOWN.ljust(of_bar)
        if not body.strip():
            body = _mark(size, first or 0, of_bar)
        if is_open and span:
            body = f"{body.rstrip()[: of_bar - 1]}{_ON}".ljust(of_bar)
        lines.append(
            [
                (f"{shortened(label, of_name)}  ", ""),
                (body, STATUS_STYLES.get(status or "", "cyan")),
                (f"  {span or UNKNOWN:>{of_span}}", ""),
            ]
        )
    end = seconds(size)
    return [*lines, [(f"{'':{of_name}}  0{end:>{max(of_bar - 1, len(end) + 1)}}", "dim")]]


def _is_known(first: int | None, last: int | None) -> bool:
    return first is not None and last is not None


def seconds(us: int) -> str:
    """A duration as people say it: `0.412 s`, `12.4 s`, `3 min 20 s`."""
    found = us / 1e6
    if found < 10:
        return f"{found:.3f} s"
    return f"{found:.1f} s" if found < 100 else f"{found // 60:,.0f} min {found % 60:02.0f} s"


def _bar(size: float, begin: float, end: float, width: int) -> str:
    """rich's bar as text: in eighths of a cell where it ends, in halves where it begins."""
    from rich.bar import Bar
    from rich.console import Console

    on = Console(width=width, color_system=None)
    return "".join(segment.text for segment in on.render(Bar(size or 1, begin, end))).rstrip("\n")


def _mark(size: int, at: int, width: int) -> str:
    """A moment, too short for a bar."""
    place = min(width * at // size, width - 1)
    return (" " * place + _TRACE).ljust(width)


def _block(number: int | None, most: int) -> str:
    """The lowest block is of the least number that is not 0."""
    if number is None:
        return _NOT_SAID
    return BLOCKS[0 if number <= 0 else max(1, round(number * 8 / most))]


def _time(at: str) -> Any:
    return date.fromisoformat(at) if len(at) == 10 else datetime.fromisoformat(at)


def _short(at: str) -> str:
    return at[:16].replace("T", " ")
