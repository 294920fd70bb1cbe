"""What is known of the tables without SQLAlchemy: where they are, their version, and how a column holds a text."""

from __future__ import annotations

from typing import Any

DEFAULT_URL = "sqlite:///recorder.db"
SCHEMA_VERSION = "0008"
"""The newest revision in migrations/; a test holds the two together."""

VERSION_TABLE = "recorder_version"


def text(value: Any) -> str | None:
    """A string as every typed column can hold it: NUL and lone surrogates show as U+FFFD; `object` has them exact."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def name(value: Any) -> str | None:
    """The same for a column that is indexed: of a sane length."""
    found = text(value)
    return found[:200] if found else found
