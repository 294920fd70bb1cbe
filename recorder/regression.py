"""A regression test of what was recorded: a redacted recording, and a file for pytest that asks the same again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import httpx

from recorder import private
from recorder.deck import Answer, Deck
from recorder.errors import RecorderError, UsageError
from recorder.log import Event, Stream
from recorder.recording import write_recording
from recorder.settings import Settings
from recorder.testing import FOLDER, recording_of

_TEST = '''"""What {id} asked, and what it was answered: recorded, and replayed without a network.

Made by `recorder export {id} --as-test {file}`. Needs runstep-recorder, whose pytest plugin plays
{recording}.
"""

import httpx


def test_{name}(recording):
    with httpx.Client(timeout=None) as client:
        recording.attach(client)  # any client of httpx or httpx2, or an SDK object such as OpenAI()
        # In place of this line, have the code that failed ask: it gets the answers that were recorded.
        answers = [request.ask(client) for request in recording.requests]
    assert answers == [
{answers}
    ]
'''


def write_test(
    path: Path, id: str, recorded: Iterable[tuple[Stream, Iterable[Event]]], settings: Settings, *, force: bool = False
) -> Path:
    """Write a test file, and the recording of what ID names beside it; where that is.

    settings: by which it was redacted. force: replace files that are there. Raises UsageError for a name that pytest does not
    find, and where one of the files is there; RecorderError where nothing in it could be asked.
    """
    if not re.fullmatch(r"test_.*\.py|.*_test\.py", path.name):
        raise UsageError(f"{path}: pytest finds test_*.py and *_test.py; name it so")
    name = re.sub(r"\W", "_", path.stem.removeprefix("test_").removesuffix("_test")) or "recording"
    recording = recording_of(path, f"test_{name}")
    there = [file for file in (path, recording) if file.exists()]
    if there and not force:
        raise UsageError(f"{' and '.join(map(str, there))} {'is' if len(there) == 1 else 'are'} there already; --force replaces")
    held = [(stream, events) for stream, events in recorded if stream.path]
    if not held:
        raise RecorderError(f"{id} has no request that could be asked again: it was imported without (see NAME.request.json)")
    try:
        recording.parent.mkdir(parents=True, exist_ok=True)
        with private.writing(recording) as file:
            file.writelines(line.encode() for line in write_recording(held))
        shown = "\n".join(f"        {_literal(answer)}," for answer in _answers(recording, settings))
        said = {"id": _quoted(id), "file": _quoted(path.as_posix()), "name": name, "answers": shown}
        with private.writing(path) as file:
            file.write(_TEST.format(**said, recording=_quoted(f"{FOLDER}/{path.stem}/{recording.name}")).encode())
    except OSError as error:
        raise RecorderError(f"{error.filename}: {error.strerror}; name another file with --as-test") from None
    except (httpx.InvalidURL, httpx.HTTPError, ValueError) as error:  # what no client sends, but somebody recorded
        recording.unlink()
        raise RecorderError(f"{id} has a request that cannot be asked again: {' '.join(str(error).split())}") from None
    return recording


def _answers(recording: Path, settings: Settings) -> list[Answer]:
    """What the recording answers, as the test will get it."""
    with Deck(recording, settings=settings) as deck, httpx.Client(timeout=None) as client:
        deck.attach(client)
        return [request.ask(client) for request in deck.requests]


def _literal(answer: Answer) -> str:
    return f"({json.dumps(answer.request)}, {answer.status}, {json.dumps(answer.ended)})"


def _quoted(text: str) -> str:
    """Text as it may stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'")
