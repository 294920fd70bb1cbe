"""What a user may set of what is recorded: secrets, limits, sampling. Each with a default that can be left as it is.

A TOML file with these keys, or the same by name in Python; wrong ones are refused before anything is recorded.
"""

from __future__ import annotations

import os
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import regex
from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, ValidationError

from recorder import files, jsonpath
from recorder.errors import UsageError

VARIABLE = "RECORDER_SETTINGS"
"""The environment variable that names the file."""

REQUEST_BODY = 16 * 1024 * 1024
RESPONSE_BODY = 64 * 1024 * 1024
QUEUE_BYTES = 64 * 1024 * 1024

SKIPPED_TYPES = (
    "audio/*",
    "font/*",
    "image/*",
    "video/*",
    "application/gzip",
    "application/octet-stream",
    "application/pdf",
    "application/zip",
)
"""Files rather than answers: what a model made of them is in other streams."""


def _path(given: str) -> str:
    jsonpath.parse(given)
    return given


def _pattern(given: str) -> str:
    try:
        compiled = regex.compile(given)
    except regex.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if compiled.search(""):
        raise ValueError("it matches where nothing is")
    return given


def _sizes(given: int) -> int:
    if given < 0:
        raise ValueError("it is less than nothing")
    return given


Size = Annotated[ByteSize, AfterValidator(_sizes)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Redact(_Model):
    """What is made unreadable before it is stored.

    paths: of RFC 9535 (jsonpath.py says which part), in JSON of bodies and events. patterns: regular expressions (of the library
    `regex`), in all texts. look_back: the longest match in characters that is found where it is split over several events.
    """

    paths: tuple[Annotated[str, AfterValidator(_path)], ...] = ()
    patterns: tuple[Annotated[str, AfterValidator(_pattern)], ...] = ()
    look_back: int = Field(default=256, ge=1, le=65536)


class Settings(_Model):
    """Sizes are bytes, or texts such as "16 MiB". README.md says what each is for. Raises UsageError for what is none of them."""

    redact: Redact = Field(default_factory=Redact)
    content: bool = True
    max_request_body: Size = ByteSize(REQUEST_BODY)
    max_response_body: Size = ByteSize(RESPONSE_BODY)
    skip_paths: tuple[str, ...] = ()
    skip_types: tuple[str, ...] = SKIPPED_TYPES
    sample: float = Field(default=1.0, ge=0, le=1)
    queue_bytes: Size = ByteSize(QUEUE_BYTES)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise UsageError(f"settings: {_said(error)}") from None

    def skips_path(self, path: str) -> bool:
        """Whether exchanges of this path are not recorded at all."""
        return bool(self.skip_paths) and any(fnmatchcase(path, glob) for glob in self.skip_paths)

    def skips_type(self, media_type: str) -> bool:
        """Whether bodies of this type (in lower case, without parameters) are not recorded."""
        return any(fnmatchcase(media_type, glob) for glob in self.skip_types)


def load(given: Settings | str | os.PathLike[str] | None = None) -> Settings:
    """Settings as they are given, or of this file; else of the file that RECORDER_SETTINGS names, else the defaults.

    Raises UsageError, in one line that names the file and the key.
    """
    if isinstance(given, Settings):
        return given
    name = given or os.environ.get(VARIABLE)
    if not name:
        return Settings()
    path = Path(name)
    try:
        read = tomllib.loads(files.text(path))
    except OSError as error:
        raise UsageError(f"the settings {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise UsageError(f"the settings {path} are no TOML: {error}") from None
    try:
        return Settings(**read)
    except UsageError as error:
        raise UsageError(f"the {str(error).replace('settings:', f'settings {path}:', 1)}") from None


def _said(error: ValidationError) -> str:
    """The first of what is wrong: the key, the value, and what to do."""
    wrong = error.errors()[0]
    key = ".".join(map(str, wrong["loc"]))
    if wrong["type"] == "extra_forbidden":
        known = Redact.model_fields if wrong["loc"][:-1] == ("redact",) else Settings.model_fields
        return f"there is no {key}; there are {', '.join(sorted(known))}"
    reason = _REASONS.get(wrong["type"]) or wrong["msg"].removeprefix("Value error, ")
    return f"{key} cannot be {wrong['input']!r}: {reason[:1].lower()}{reason[1:]}"


_REASONS = {"tuple_type": "give a list", "model_type": "give a table, or an object", "byte_size": 'give bytes, or as "16 MiB"'}
"""What pydantic says of Python's types, in the words of a file."""
