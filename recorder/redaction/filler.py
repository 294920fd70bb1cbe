r"""The filler that stands where something was redacted: as many bytes, as many characters, escaped where it was escaped.

A character's filler depends on the character alone, not on how it was written: so deltas that added up to a text still do,
whichever of them escaped what. x, é, € and 😀 stand for characters of one to four bytes in UTF-8, / for one that JSON has a
short escape for (\" \\ \/ \n …), which is itself written as / or \/ or \u002f. The ends of lines in plain text stay.
"""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)|[^\\]+", re.DOTALL)
_DIGIT = re.compile(r"[0-9]")


class _Fillers(dict[int, int]):
    """A character's filler, for str.translate. A byte that is no UTF-8 is a lone low surrogate here (surrogateescape)."""

    def __missing__(self, code: int) -> int:
        if code < 0x800:
            return ord("é")
        if code > 0xFFFF:
            return ord("😀")
        return ord("x") if 0xDC80 <= code <= 0xDCFF else ord("€")


_FILLERS = _Fillers({code: ord("x") for code in range(0x80)} | {ord(kept): ord(kept) for kept in "/\r\n"})

_HIGH, _LOW = "\\ud83d", "\\ude00"  # the surrogates of 😀


def blank(text: str) -> str:
    """The filler of plain text, or of a JSON string's characters where none is escaped."""
    return text.translate(_FILLERS)


def blank_string(raw: str) -> str:
    """The filler of what stands between the quotes of a JSON string, or of a part that cuts no escape."""
    return _ESCAPES.sub(_blank_run, raw) if "\\" in raw else blank(raw)


def blank_number(raw: str) -> str:
    return _DIGIT.sub("1", raw)


def _blank_run(found: re.Match[str]) -> str:
    run = found[0]
    if run[0] != "\\":
        return blank(run)
    if len(run) == 2:
        return "\\/"
    code = int(run[2:], 16)
    if 0xD800 <= code <= 0xDBFF:
        return _HIGH
    if 0xDC00 <= code <= 0xDFFF:
        return _LOW
    filler = "/" if code < 0x80 and chr(code) in '"\\/\b\f\n\r\t' else chr(_FILLERS[code])
    return f"\\u{ord(filler):04x}"
