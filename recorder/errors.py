"""The errors that recorder raises on purpose. Each message says what happened, to which thing, and what to do.

RecorderError
├── DatabaseError      cannot be opened, is another program's, or needs another version of recorder
│   ├── ReadOnlyError  the database can be read but not written
│   └── OldSchema      the database is to be upgraded first
├── AppendConflict     an append that contradicts what the log already holds
├── Busy               another process does what must not be done twice at once
├── UnknownID          an ID that names nothing
├── AmbiguousID        a prefix that names more than one thing
├── ImportFailed       a file that cannot be taken in
└── UsageError         a request that makes no sense as asked (exit status 2)
"""

from __future__ import annotations


class RecorderError(Exception):
    """Base of all errors that the command line prints as one line."""


class DatabaseError(RecorderError):
    pass


class ReadOnlyError(DatabaseError):
    pass


class OldSchema(DatabaseError):
    pass


class AppendConflict(RecorderError):
    pass


class Busy(RecorderError):
    pass


class UnknownID(RecorderError):
    pass


class AmbiguousID(RecorderError):
    pass


class ImportFailed(RecorderError):
    pass


class UsageError(RecorderError):
    pass
