"""The rules of redaction: what the settings say of secrets, ready to be applied."""

from __future__ import annotations

import re
from collections.abc import Sequence

import regex

from recorder.jsonpath import Paths
from recorder.redaction.matching import Pattern, find_all
from recorder.settings import Settings

_AROUND = re.compile(r"[\^$]|\\[AZzG]|\(\?<?[=!]")
"""What makes a pattern look at what stands around a match: then a string is another text by itself than within its JSON."""


class Rules:
    """patterns, paths (None where there are none), content (False: all of it is blanked), look_back: as Settings has them."""

    def __init__(self, settings: Settings) -> None:
        redact = settings.redact
        self.patterns: Sequence[Pattern] = [regex.compile(pattern) for pattern in redact.patterns]
        self.paths = Paths(redact.paths) if redact.paths else None
        self.content = settings.content
        self.look_back = redact.look_back
        self._looks_around = any(_AROUND.search(pattern.replace("[^", "[")) for pattern in redact.patterns)

    @classmethod
    def of(cls, settings: Settings) -> Rules | None:
        """None where nothing is to be redacted."""
        redact = settings.redact
        return cls(settings) if redact.paths or redact.patterns or not settings.content else None

    @property
    def structural(self) -> bool:
        """Whether more is redacted than patterns find: then what cannot be read as JSON is blanked."""
        return self.paths is not None or not self.content

    def matches_nothing(self, text: str) -> bool:
        """Whether no pattern matches in any string of this JSON: sure where one that did would match in the JSON itself, too."""
        if self._looks_around or "\\" in text:
            return False
        return not any(find_all(pattern, text) for pattern in self.patterns)
