"""SQLite files, opened with care: a journal or an inbox may come from elsewhere.

Nothing in such a file is run: its tables, and what else its schema holds, must be exactly ours,
and a statement that takes more steps than the file's size explains is interrupted.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import stat
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from apikley_async.errors import JournalError

__all__ = [
    "MORE_STEPS",
    "Database",
    "connect",
    "make_lasting",
    "read_ids",
    "refuse_special",
    "schema_fault",
    "size_of",
]

LONGEST = 64 * 1024**2  # bytes of one value; the longest request, and its record, are far below
EVERY = 100_000  # steps of SQLite's machine between two looks
STEPS = 5_000_000  # that any statement may take: a quarter of a second
STEPS_PER_KB = 20_000  # besides: 100 for each of a page's rows, many times over
MORE_STEPS = "it asks for more work than a file of its size explains; it is damaged, or not ours"
LOGS = ("-wal", "-shm", "-journal")  # what SQLite opens beside a database
INSERT = "INSERT INTO"
BLANKS = re.compile(r"\s+")
STATISTICS = re.compile(r"sqlite_stat[0-9]")  # left by ANALYZE


class Database(sqlite3.Connection):
    """A connection whose work between two calls of `begin` has a bound."""

    path: Path
    steps: int = 0

    def begin(self) -> None:
        """Count from here."""
        self.steps = 0

    def count(self) -> bool:
        """Count some steps more; True where that is too many."""
        self.steps += EVERY
        return self.steps > STEPS and self.steps > STEPS + size_of(self.path) * STEPS_PER_KB / 1024

    def insert(self, into: str, rows: Sequence[Sequence[Any]], /) -> None:
        """Insert one or more rows into *into*, "table (columns)"."""
        marks = ", ".join("?" * len(rows[0]))
        self.executemany(f"{INSERT} {into} VALUES ({marks})", rows)


def size_of(path: Path) -> int:
    """Bytes of a database and its log."""
    total = 0
    for name in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(OSError):
            total += name.stat().st_size
    return total


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a folder where a database or one of its logs should be.

    SQLite would wait at a pipe for good, in a call that nothing ends.

    Raises:
        JournalError: it is there, and no regular file.
    """
    for name in (path, *(path.with_name(f"{path.name}{end}") for end in LOGS)):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(name.stat().st_mode):
                fault = (
                    "is not a regular file; it is left as it is. Name another file, or remove it"
                )
                raise JournalError(f"{name} {fault}")


def connect(path: Path, *, read_only: bool = False) -> Database:
    """Open an existing file, and look at nothing in it yet."""
    refuse_special(path)
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5, factory=Database)
    db.path = path
    db.row_factory = sqlite3.Row
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    db.set_progress_handler(db.count, EVERY)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA temp_store = MEMORY")  # some folder for temporary files may be full
    return db


def make_lasting(db: sqlite3.Connection) -> None:
    """From here on a commit is on the disk when it returns."""
    db.execute("PRAGMA synchronous = FULL")
    if sys.platform == "darwin":
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")


def read_ids(db: sqlite3.Connection) -> tuple[int, int] | None:
    """Read the application id and the version of the schema; None where it is no database.

    Raises:
        sqlite3.DatabaseError: it is a database, and cannot be read.
    """
    try:
        [application] = db.execute("PRAGMA application_id").fetchone()
        [version] = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        return None
    return application, version


def schema_fault(db: sqlite3.Connection, statements: tuple[str, ...]) -> str | None:
    """Say what of a file's schema is not what *statements* make; None where all is ours.

    A view in a table's place, a trigger, or a condition of somebody else's would run with ours.
    """
    found, ours = schema_in(db), schema_of(statements)
    for name in sorted(found.keys() ^ ours.keys()):
        return f"{name!r:.80} is {'not there' if name in ours else 'no part of it'}"
    for name, said in ours.items():
        if found[name] != said:
            return f"{name!r} is defined otherwise"
    return None


@lru_cache(maxsize=8)
def schema_of(statements: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for statement in statements:
            db.execute(statement)
        return schema_in(db)


def schema_in(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    rows: Iterable[tuple[object, ...]] = db.execute(
        "SELECT name, type, tbl_name, sql FROM sqlite_schema"
    )
    return {
        str(name): tuple(BLANKS.sub(" ", str(word)) for word in columns)
        for name, *columns in rows
        if not (columns[0] == "table" and STATISTICS.fullmatch(str(name)))
    }
