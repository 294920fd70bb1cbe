"""Figures and how they are shown: as lines, as a markdown table, as JSON."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RATIO = "\N{MULTIPLICATION SIGN}"
"""The unit of one thing in another's terms."""


@dataclass(frozen=True)
class Aim:
    """A bound, inclusive. at_least: else it is an upper bound."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Figure:
    """One thing that was measured. unit: RATIO, events/s, ms, µs, events. rates: both sides, in words."""

    what: str
    value: float
    unit: str
    rates: str = ""
    aim: Aim | None = None

    @property
    def shown(self) -> str:
        return f"{number(self.value)} {self.unit}"

    @property
    def shown_aim(self) -> str:
        return f"{'≥' if self.aim.at_least else '≤'} {number(self.aim.bound)}" if self.aim else ""

    @property
    def verdict(self) -> str:
        """met or MISSED, against the value itself and not against what rounding shows; '' without an aim."""
        if self.aim is None:
            return ""
        return "met" if self.aim.met(self.value) else "MISSED"


@dataclass(frozen=True)
class Section:
    """What one benchmark found. error: why it could not be measured, else ''."""

    name: str
    title: str
    figures: list[Figure]
    seconds: float
    error: str = ""


def at_least(bound: float) -> Aim:
    return Aim(bound)


def at_most(bound: float) -> Aim:
    return Aim(bound, at_least=False)


def number(value: float) -> str:
    """Three digits that matter: 0.931, 12.3, 227,000."""
    if value == 0 or (value == int(value) and abs(value) < 1000):
        return f"{value:.0f}"
    digits = next((digits for limit, digits in ((1, 3), (10, 2), (100, 1)) if abs(value) < limit), 0)
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def per_second(count: int, seconds: float) -> str:
    return f"{number(count / seconds)}/s"


def machine() -> dict[str, Any]:
    """When and on what this is measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def heading(found: dict[str, Any], quick: bool) -> str:
    size = "; smaller sizes (--quick)" if quick else ""
    return (
        f"{found['date']}, {found['cpu']}, {found['cores']} cores (load {found['load']} before), Python {found['python']},"
        f" SQLite {found['sqlite']}{size}"
    )


def lines(section: Section) -> str:
    """A section for people at a terminal."""
    shown = [f"{section.title}  ({section.name}, {section.seconds:.0f} s)"]
    if section.error:
        shown.append(f"  NOT MEASURED: {section.error}")
    for figure in section.figures:
        aim = f"  (aim {figure.shown_aim}: {figure.verdict})" if figure.aim else ""
        shown.append(f"  {figure.shown:>16}  {figure.what}{aim}")
        if figure.rates:
            shown.append(f"{'':20}{figure.rates}")
    return "\n".join(shown)


def markdown(sections: Iterable[Section], found: dict[str, Any], quick: bool) -> str:
    """One table, to be pasted into a README."""
    rows = ["| what | measured | aim | | both sides |", "|---|---|---|---|---|"]
    for section in sections:
        rows.append(f"| **{_cell(section.title)}** | {'not measured: ' + _cell(section.error) if section.error else ''} | | | |")
        rows += [
            "| " + " | ".join(map(_cell, (figure.what, figure.shown, figure.shown_aim, figure.verdict, figure.rates))) + " |"
            for figure in section.figures
        ]
    return "\n".join([f"Measured {heading(found, quick)}.", "", *rows])


def document(sections: Iterable[Section], found: dict[str, Any], quick: bool) -> str:
    """One JSON document."""
    return json.dumps(
        {
            **found,
            "quick": quick,
            "benchmarks": [
                {
                    "name": section.name,
                    "title": section.title,
                    "seconds": round(section.seconds, 1),
                    "error": section.error or None,
                    "figures": [
                        {
                            "what": figure.what,
                            "value": figure.value,
                            "unit": figure.unit,
                            "rates": figure.rates,
                            "aim": figure.shown_aim or None,
                            "met": figure.aim.met(figure.value) if figure.aim else None,
                        }
                        for figure in section.figures
                    ],
                }
                for section in sections
            ],
        },
        ensure_ascii=False,
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
