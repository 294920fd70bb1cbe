"""A disk that may forget what was not synced: a VFS for SQLite that keeps what it was told, and what is left of it after a cut.

    disk = Disk()
    connection = disk.connect("log.db")
    … connection.execute(…) …
    for cut in range(len(disk.told)):
        disk.after_a_cut(cut, random, folder)  # the files as they may stand then

What was written since a file's last sync may be on the disk, or not, in any combination of its sectors of 512 bytes, the later
version of a sector or an earlier one. A sync of a file brings it to the disk, with the names in its folder, as SQLite's own VFS
does when it syncs a new journal.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

SECTOR = 512  # bytes that are written whole or not at all
_numbers = itertools.count()


class Told(NamedTuple):
    """What the disk was told: to write, to truncate (data None), to sync (at -1), or to forget a file (at -2, or -3 for good)."""

    name: str
    at: int
    data: bytes | None = None


SYNC, DELETE, DELETE_FOR_GOOD = -1, -2, -3


class Disk:
    """told: everything in its order."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.files: dict[str, bytearray] = {}
        self.syncs = 0
        self._vfs = _VFS(self, f"disk-{next(_numbers)}")

    def connect(self, name: str) -> apsw.Connection:
        return apsw.Connection(f"/{name}", vfs=self._vfs.name)

    def tell(self, told: Told) -> None:
        self.told.append(told)
        self.syncs += told.at == SYNC


class _VFS(apsw.VFS):
    def __init__(self, disk: Disk, name: str) -> None:
        self.name = name
        self._disk = disk
        super().__init__(name, base="")

    def xFullPathname(self, name: str) -> str:
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:
        return pathname in self._disk.files

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if filename not in self._disk.files:
            raise apsw.IOError(f"{filename} is not there")
        del self._disk.files[filename]
        self._disk.tell(Told(filename, DELETE_FOR_GOOD if syncdir else DELETE))

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or f"/temporary-{next(_numbers)}"
        flags[1] = flags[0]
        return _File(self._disk, path)


class _File:
    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._name = name
        if name not in disk.files:
            disk.files[name] = bytearray()
            disk.tell(Told(name, 0, b""))
        self._body = disk.files[name]

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._body[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        if len(self._body) < offset:
            self._body += bytes(offset - len(self._body))
        self._body[offset : offset + len(data)] = data
        self._disk.tell(Told(self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        del self._body[newsize:]
        self._disk.tell(Told(self._name, newsize))

    def xSync(self, flags: int) -> None:
        self._disk.tell(Told(self._name, SYNC))

    def xFileSize(self) -> int:
        return len(self._body)

    def xSectorSize(self) -> int:
        return 4096  # as SQLite's own VFS says

    def xDeviceCharacteristics(self) -> int:
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)  # as SQLite's own VFS says: what is beside a write stays as it was

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xClose(self) -> None:
        pass


Choice = Callable[[], bool]
"""Whether the next piece of what was not synced is on the disk."""


class Platter:
    """What is on the disk for good, and what may be: told() goes on in time."""

    def __init__(self) -> None:
        self._synced: dict[str, bytes] = {}  # the files as they stood when they were last synced, where their names are for good
        self._since: dict[str, list[Told]] = {}  # what they were told after that
        self._gone: dict[str, tuple[bytes, list[Told]]] = {}  # deleted, but perhaps there again

    def take(self, told: Told) -> None:
        name = told.name
        if told.at == SYNC:
            self._synced[name] = _image(self._synced.get(name, b""), self._since.pop(name, []), lambda: True)
            for other in self._since:
                self._synced.setdefault(other, b"")  # its name stands in the same folder
            self._gone.clear()
        elif told.at == DELETE:
            self._gone[name] = self._synced.pop(name, b""), self._since.pop(name, [])
        elif told.at == DELETE_FOR_GOOD:
            self._synced.pop(name, None)
            self._since.pop(name, None)
        else:
            self._since.setdefault(name, []).append(told)

    def left(self, choose: Choice) -> dict[str, bytes]:
        """The files after a cut now."""
        found = {}
        for name in {*self._synced, *self._since}:
            if name in self._synced or choose():
                found[name] = _image(self._synced.get(name, b""), self._since.get(name, []), choose)
        for name, (synced, since) in self._gone.items():
            if name not in found and choose():
                found[name] = _image(synced, since, choose)
        return found


def _image(synced: bytes, since: list[Told], choose: Choice) -> bytes:
    body = bytearray(synced)
    for _, at, data in since:
        if data is None:
            if choose():
                del body[at:]
            continue
        position = 0
        while position < len(data):
            size = min(len(data) - position, SECTOR - (at + position) % SECTOR)
            if choose():
                start = at + position
                if len(body) < start:
                    body += bytes(start - len(body))
                body[start : start + size] = data[position : position + size]
            position += size
    return bytes(body)


def choices(dice: random.Random) -> list[Choice]:
    """How a cut may come out: of what was not synced nothing is there, or all, what came first, half, little, nearly all."""
    first = dice.randrange(1, 40)
    counted = itertools.count()
    return [
        lambda: False,
        lambda: True,
        lambda: next(counted) < first,
        lambda: dice.random() < 0.5,
        lambda: dice.random() < 0.1,
        lambda: dice.random() < 0.9,
    ]


def put(files: dict[str, bytes], folder: Path) -> None:
    """Lay files down in a folder that is otherwise empty."""
    for old in folder.iterdir():
        old.unlink()
    for name, body in files.items():
        (folder / name.lstrip("/")).write_bytes(body)
