"""A table or view as CSV (RFC 4180, lines ended by LF): null is an empty field, an empty text is `""`.

Times are ISO 8601 in UTC with microseconds, flags true and false. Bytes show as the UTF-8 that they are, what is none replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

_SPECIAL = re.compile('[",\r\n]')


class CSVFile:
    """Writes rows (relations.Row) with columns of these kinds to an open file. safe: a spreadsheet runs no text of them."""

    def __init__(self, file: BinaryIO, kinds: Mapping[str, str], *, safe: bool = False) -> None:
        self._file = file
        shown = {**_SHOWN, **_SAFE} if safe else _SHOWN
        self._shown = [shown[kind] for kind in kinds.values()]
        self._write([kinds], [_text] * len(kinds))

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        self._write(rows, self._shown)

    def close(self) -> None:
        self._file.flush()

    def _write(self, rows: Sequence[Any], shown: list[Callable[[Any], str]]) -> None:
        lines = [
            ",".join("" if value is None else show(value) for show, value in zip(shown, row, strict=True)) + "\n" for row in rows
        ]
        self._file.write("".join(lines).encode())


def _text(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if not value or _SPECIAL.search(value) else value


def inert(value: Any) -> Any:
    """A cell that no spreadsheet runs: a text that begins as a formula does gets an apostrophe. What is a number stays one."""
    if isinstance(value, str) and value.startswith(_RUN) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


_RUN = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

_SHOWN: dict[str, Callable[[Any], str]] = {
    "time": lambda value: value.replace(" ", "T") + "Z",
    "flag": lambda value: "true" if value else "false",
    "integer": str,
    "double": repr,
    "bytes": lambda value: _text(bytes(value).decode("utf-8", "replace")),
    "text": _text,
}

_SAFE: dict[str, Callable[[Any], str]] = {
    "bytes": lambda value: _text(inert(bytes(value).decode("utf-8", "replace"))),
    "text": lambda value: _text(inert(value)),
}
