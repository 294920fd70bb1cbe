"""Coverage-guided fuzzing of what is pure: `python -m tests.fuzzing [NAME…] [--seconds S]`.

It needs atheris (`pip install atheris`), which is asked for here and nowhere else. Each target runs in a process of its own for
so many seconds (60), beginning with the project's own streams. It ends at the first input for which a promise does not hold, and
leaves that input in a file, whose name it says. Prints how many inputs each target saw.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from recorder import log, sse
from recorder.bodies import BodyDecoder, Decoder, LinesDecoder, decoder_for
from recorder.collect import secrets
from recorder.collect.http1 import Body, Head, RequestReader, ResponseReader
from recorder.collect.outcome import Ending
from recorder.kind import kind_of
from recorder.log import Event, Row
from recorder.replay.playback import Playback
from recorder.sse import Frame, SSEDecoder

SEEDS = Path(__file__).parents[1] / "fixtures"


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """A body, and the pieces in which it comes: the first bytes of the input say how long those are."""
    sizes, body = data[:4], data[4:]
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return body, [*pieces, body[at:]]


def decoded(decoder: Decoder, pieces: list[bytes], step_us: int = 1) -> list[Frame]:
    frames = [frame for number, piece in enumerate(pieces, 1) for frame in decoder.feed(piece, number * step_us)]
    return [*frames, *decoder.finish()]


def stored(frames: list[Frame]) -> list[Event]:
    """Frames as the log gives them back."""
    rows: list[Row] = [log.row("00000000-0000-7000-8000-000000000000", position, frame) for position, frame in enumerate(frames)]
    return [log.event(row[1:]) for row in rows]


def sse_decoder(data: bytes) -> None:
    """Every byte comes back from the log, in its chunks; and the frames do not depend on how the bytes were cut."""
    body, pieces = cut(data)
    for limit in (sse.LIMIT, 16):
        frames = decoded(SSEDecoder(limit), pieces)
        assert b"".join(part for part, _, _ in log.wire(stored(frames))) == body
        assert [part for _, part in sse.chunks(log.wire(stored(frames)))] == [piece for piece in pieces if piece]
        at_once, whole = decoded(SSEDecoder(limit), pieces, 0), decoded(SSEDecoder(limit), [body], 0)  # times take room, too
        assert [(frame.type, frame.data) for frame in at_once] == [(frame.type, frame.data) for frame in whole]


def bodies(data: bytes) -> None:
    """So it is with lines of JSON, and with bodies that are neither."""
    body, pieces = cut(data)
    head = log.system_frame("$response", {"status": 200, "headers": [["content-type", "application/x-ndjson"]]}, 0)
    lines = [head, *decoded(LinesDecoder(), pieces)]
    assert b"".join(part for part, _, _ in log.wire(stored(lines))) == body
    assert [frame.type for frame in decoded(LinesDecoder(), [body])] == [frame.type for frame in lines[1:]]
    for join in (True, False):
        frames = decoded(BodyDecoder(join), pieces)
        assert [part for _, part in sse.chunks(log.wire(stored(frames)))] == [piece for piece in pieces if piece]


def playback(data: bytes) -> None:
    """What is played is what was recorded; and no `$response` or `$end` is too strange for it, nor an event in its place."""
    kinds = ("text/event-stream", "application/json", "application/x-ndjson", "", "text/plain")
    kind, closed, rest = kinds[data[0] % 5] if data else "", ("eof", "cut", "client_closed")[len(data) % 3], data[1:]
    body, pieces = cut(rest)
    ending = Ending()
    frames = [log.system_frame("$response", {"status": 200, "headers": [["content-type", kind]] if kind else []}, 0)]
    frames += decoded(decoder_for(kind_of(body, kind)), pieces)
    ending.see(frames)
    end = {"outcome": ending.of_connection(closed, 200), "closed": closed}
    frames.append(log.system_frame("$end", end, 9))
    played = [part for _, part in Playback(stored(frames)).chunks()]
    assert b"".join(part for part in played if part) == body
    assert (played[0], played[-1]) == (b"", None)
    text, _ = sse.decode_text(rest)
    for name in ("$response", "$end", "$gap", ""):
        list(Playback([Event(0, 0, name, text, None, None)]).chunks())


SECRET = "sk-never-to-be-stored"


def redaction(data: bytes) -> None:
    """A secret in one of its places never comes out, whatever is around it; and what has none comes out as it is."""
    text = data.decode("latin-1")
    for name in ("key", "sig", "api%2Dkey", "TOKEN"):
        assert SECRET not in secrets.query(f"{text}&{name}={SECRET}&{text}")
    for body in (data, data[: len(data) // 2]):
        secrets.body(body, "application/json")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = text
    for tools in ([{"headers": {"A": SECRET}, "x": value}], [{"authorization": SECRET}, value]):
        given = json.dumps({"a": value, "tools": tools, "b": value}).encode()
        kept = secrets.body(given, "application/json")
        assert SECRET.encode() not in kept, kept
        if kept != secrets.REDACTED.encode():
            assert json.loads(kept)["a"] == json.loads(given)["a"]


def responses(data: bytes) -> None:
    """A response is read alike however it is cut, and none of its bytes is kept back."""
    body, pieces = cut(data)
    for method in (b"GET", b"HEAD"):
        found = []
        for parts in ([body], pieces):
            reader = ResponseReader(method)
            items = [item for part in parts if part for item in reader.feed(part)] + reader.finish(orderly=True)
            heads = [item for item in items if isinstance(item, Head)]
            came = [item for item in items if isinstance(item, Body)]
            content = b"".join(item.decoded for item in came)
            assert len([head for head in heads if not head.interim]) <= 1
            assert body.endswith(b"".join(item.raw for item in came))
            found.append((heads, content, reader.complete, reader.excess, bool(reader.broken)))
        assert found[0] == found[1]


def requests(data: bytes) -> None:
    """So are requests."""
    body, pieces = cut(data)
    found = []
    for parts in ([body], pieces):
        reader = RequestReader()
        for part in parts:
            reader.feed(part)
        asked = [
            (one.method, one.target, one.headers, one.complete, b"".join(one.pieces) if one.complete else b"")
            for one in reader.requests
        ]
        found.append((asked, bool(reader.malformed), reader.beyond))
    assert found[0] == found[1]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sse": sse_decoder,
    "bodies": bodies,
    "playback": playback,
    "redaction": redaction,
    "responses": responses,
    "requests": requests,
}


def seeds() -> Iterator[bytes]:
    for path in sorted(SEEDS.rglob("*.sse")):
        yield b"\x10\x20\x30\x40" + path.read_bytes()[:4000]
    yield b"\1\2\3\4HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n"
    yield b"\1\2\3\4POST /a?b HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: w\r\n\r\n"
    yield b'{"tools":[{"type":"mcp","headers":{"A":"b"},"authorization":"c"}],"assistant":{"tool_resources":{"mcp":[{}]}}}'


def fuzz(name: str, seconds: int) -> None:
    """In a process of its own, which libFuzzer ends."""
    import atheris

    with tempfile.TemporaryDirectory(prefix="recorder-fuzzing-") as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        found = f"-artifact_prefix={tempfile.gettempdir()}/recorder-{name}-"
        options = [found, f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20"]
        atheris.Setup([sys.argv[0], corpus, *options], TARGETS[name])
        atheris.Fuzz()


IN_A_PROCESS = """
import sys, atheris
with atheris.instrument_imports(include=["recorder"]):
    from tests import fuzzing
fuzzing.fuzz(sys.argv[1], int(sys.argv[2]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=(__doc__ or "").partition(": ")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs")
    given = parser.parse_args()
    names = given.names or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)} (there are {', '.join(TARGETS)})")
    failed = False
    for name in names:
        command = [sys.executable, "-c", IN_A_PROCESS, name, str(given.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
        if done.returncode or not runs:
            failed = True
            print(f"{name}: FAILED\n{done.stdout[-3000:]}\n{done.stderr[-600:]}", flush=True)
        else:
            print(f"{name}: {int(runs[1]):,} inputs in {runs[2]} s, nothing found", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
