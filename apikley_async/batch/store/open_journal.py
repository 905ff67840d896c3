"""An open journal, as the thread that works on it sees it: its tables and who owns them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from apikley_async._sqlite import Database
from apikley_async.batch.store.journal_errors import journal_error
from apikley_async.batch.store.schema import Migrations
from apikley_async.batch.store.witness import Witness
from apikley_async.errors import JournalError

__all__ = ["OpenJournal"]


class OpenJournal:
    """A journal's database, its locks and its witness; `opening.open_journal` fills it.

    One thread uses it. Every change happens within `transaction`.

    Args:
        path: of the journal.
        read_only: whether it is only read.
        migrations: the schema's versions.
        adopting: whether it is taken for the newest journal, whatever its witness says.
        private: whether a temporary copy is opened in its place.

    Attributes:
        path: of the file that is open.
        home: the folder that stored paths are relative to.
        origin: the journal that this is a private copy of, or None.
        owned: whether this process has marked the journal as its own.
        intents: how many attempts were made with it, lost ones included.
        lost: how many of them it has lost, since it was adopted; None when that is unknown.
        folders: where saved files may lie, in the order in which runs used them.
        now: wall and monotonic time of the current piece of work.
    """

    db: Database

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        migrations: Migrations,
        adopting: bool = False,
        private: bool = False,
    ) -> None:
        self.path: Path = path.resolve()  # one lock for a file, whatever name it is opened by
        self.home: Path = self.path.parent
        self.origin: Path | None = self.path if private else None
        self.read_only = read_only
        self.migrations = migrations
        self.adopting = adopting
        self.locks: list[int] = []
        self.witness: Witness | None = None
        self.copies: tempfile.TemporaryDirectory[str] | None = None
        self.owned = False
        self.journal_id = ""
        self.epoch = 0
        self.intents = 0
        self.lost: int | None = 0
        self.folders: dict[Path, None] = {}
        self.now: tuple[float, float] = (0.0, 0.0)

    @property
    def is_open(self) -> bool:
        return hasattr(self, "db")

    @contextlib.contextmanager
    def transaction(self, *, owner_only: bool = True) -> Iterator[None]:
        """One durable change, undone completely when anything in it fails.

        Args:
            owner_only: whether it is refused when another process owns the journal by now.
        """
        if self.read_only:
            raise JournalError(f"{self.path} is open for reading only")
        self.db.execute("BEGIN IMMEDIATE")
        try:
            [epoch] = self.db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            if owner_only and int(epoch) != self.epoch:
                raise journal_error(f"{self.path} has another owner now; nothing was written")
            yield
            self.db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
            raise

    def write_witness(self) -> None:
        """Store the epoch and the number of intents outside of the journal."""
        if self.witness is not None:
            self.witness.write(self.epoch, self.intents)

    def close(self) -> None:
        """Close everything that was opened, in any case; the locks go last."""
        if self.is_open:
            with contextlib.suppress(sqlite3.Error, ValueError):
                if self.owned:
                    self.db.execute(
                        "DELETE FROM meta WHERE name = 'begun' AND EXISTS"
                        " (SELECT 1 FROM meta WHERE name = 'epoch' AND CAST(value AS INTEGER) = ?)",
                        (self.epoch,),
                    )
                    self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.db.close()
        if self.witness is not None:
            self.witness.close()
        while self.locks:
            os.close(self.locks.pop())
        if self.copies is not None:
            self.copies.cleanup()
