"""How a stream ended, its outcome, from what its events said and how its connection closed."""

from __future__ import annotations

from collections.abc import Iterable

from recorder import jsontext
from recorder.protocols.errors import error_in
from recorder.sse import Frame, is_system


class Ending:
    """Watches frames for the marks that decide an outcome."""

    __slots__ = ("body", "done", "error", "tail")

    def __init__(self) -> None:
        self.done = self.error = self.tail = self.body = False

    def see(self, frames: Iterable[Frame]) -> None:
        for type, data, *_ in frames:
            if type == "$tail":
                self.tail = True
            elif type == "$body":
                self.body = True
            elif type == "error":
                self.error = True
            elif data == "[DONE]" and not is_system(type):
                self.done = True
            elif not type and '"error"' in data and error_in(jsontext.object_of(data)) is not None:
                self.error = True

    def of_connection(self, closed: str, status: int | None) -> str:
        """Of a captured stream. closed: eof (by the server, cleanly), cut, client_closed or no_response."""
        if status is not None and status >= 400:
            return "http_error"
        if self.error:
            return "error"
        if self.done or (self.body and closed == "eof"):
            return "done"
        return closed

    def of_file(self) -> str:
        """Of an imported file."""
        if self.done or (self.body and not self.tail):
            return "done"
        return "cut" if self.tail else "eof"
