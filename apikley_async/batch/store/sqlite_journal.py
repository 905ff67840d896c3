"""A journal in one SQLite file, as the thread that works on it sees it: its tables and its locks.

A commit is on the disk when it returns (`synchronous=FULL`, write-ahead log). The owner holds a
lock, and an epoch in the journal: when there is a second owner, the first one's writes fail. After
an input or output error nothing more is written, so nothing more is sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from apikley_async._disk import is_same_file, make_folder
from apikley_async._sqlite import MORE_STEPS, Database
from apikley_async.batch.store.journal_errors import (
    journal_error,
    not_unicode_error,
    old_text_error,
)
from apikley_async.batch.store.journal_file import back_up
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.rescue import RescuePlaces
from apikley_async.batch.store.schema import Migrations, file_faults
from apikley_async.batch.store.witness import Witness
from apikley_async.errors import ApikleyError, JournalError

__all__ = ["SqliteJournal"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async.batch")

RETRY_DELAYS = (0.1, 0.4, 1.5)  # seconds before a paid task's id is stored again on a full disk


class SqliteJournal(OpenJournal):
    """A journal's file, its locks and its witness; `opening.open_journal` opens them.

    Args:
        path: of the journal.
        read_only: whether it is only read.
        migrations: the schema's versions.
        adopting: whether it is taken for the newest journal, whatever its witness says.
        private: whether a temporary copy is opened in its place.
        copier: makes that copy at a path, where the journal is no file.

    Attributes:
        path: of the file that is open.
        origin: the journal that this is a private copy of, or None.
        inode: a handle of its inode, where the system locks that; it is one of the locks.
        owned: whether this process has marked the journal as its own.
        back: where it was put, if it was removed while it was open; else None.
        epoch: how often it was opened for writing.
    """

    home: Path
    file: Database

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        migrations: Migrations,
        adopting: bool = False,
        private: bool = False,
        copier: Callable[[Path], object] | None = None,
    ) -> None:
        super().__init__(read_only=read_only)
        self.path: Path = path.resolve()  # one lock for a file, whatever name it is opened by
        self.home = self.path.parent
        self.origin: Path | None = self.path if private else None
        self.migrations = migrations
        self.adopting = adopting
        self.copier = copier
        self.in_database: bool = copier is not None
        self.locks: list[int] = []
        self.inode: int | None = None
        self.witness: Witness | None = None
        self.copies: tempfile.TemporaryDirectory[str] | None = None
        self.owned: bool = False
        self.back: Path | None = None
        self.epoch = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        return str(self.path)

    @property
    def db(self) -> Database:
        return self.file

    @property
    def is_open(self) -> bool:
        return hasattr(self, "file")

    def perform(self, work: Callable[[], T]) -> T:
        error: Exception
        if self.is_open:
            self.file.begin()
        try:
            return work()
        except ApikleyError:
            raise
        except UnicodeEncodeError as exc:
            error = not_unicode_error(self.name, exc)
        except (sqlite3.Error, ValueError) as exc:  # a damaged file may give text that is not UTF-8
            error = self._failed(exc)
        except OSError as exc:
            error = journal_error(f"{self.path} cannot be written or read: {exc.strerror}", exc)
        raise error

    def _failed(self, exc: Exception) -> JournalError:
        """Say what is wrong and what to do; from here on every call raises that."""
        reason = str(exc) if isinstance(exc, sqlite3.Error) else "its content is not readable"
        number = exc.sqlite_errorcode & 0xFF if hasattr(exc, "sqlite_errorcode") else 0
        disk_is_full = number == sqlite3.SQLITE_FULL
        if disk_is_full or number in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            advice = "free some space and run again: nothing was sent meanwhile"
        elif number == sqlite3.SQLITE_BUSY:
            advice = "another program has locked it; end that, and run again"
        elif number == sqlite3.SQLITE_INTERRUPT:
            reason, advice = MORE_STEPS, "it is left as it is"
        else:
            advice = "keep the file, and run `apikley batch verify` on it"
        error = journal_error(f"{self.path} cannot be written or read: {reason}; {advice}", number)
        self.retry_delays: tuple[float, ...] = RETRY_DELAYS if disk_is_full else ()
        # A violated constraint is about one call; anything else may be about the whole file, whose
        # handle must not be trusted again after a failed write.
        if not isinstance(exc, sqlite3.IntegrityError):
            self.failure: JournalError | None = error
        return error

    @contextlib.contextmanager
    def transaction(self, *, owner_only: bool = True, alone: bool = True) -> Iterator[None]:
        if self.read_only:
            raise JournalError(f"{self.path} is open for reading only")
        if self.is_removed:
            self._put_back()
            raise journal_error(
                f"{self.path} was removed while it was in use, so this run sends nothing more. "
                "What was paid is in the journal that is put back: run the same again"
            )
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

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed the file, or put another one in its place.

        SQLite does not notice: it would write what nobody ever finds again.
        """
        if not self.owned or self.origin is not None:
            return False
        try:
            if self.inode is None:
                return not self.path.exists()
            # Some file systems count no names at all.
            return not os.fstat(self.inode).st_nlink and not is_same_file(self.inode, self.path)
        except OSError:  # its folder is none any more, or cannot be looked into
            return True

    def wall_time(self) -> float:
        return self.now[0]

    def defer_references(self) -> None:
        self.db.execute("PRAGMA defer_foreign_keys = ON")

    @contextlib.contextmanager
    def erase_old_text(self) -> Iterator[None]:
        self.db.execute("PRAGMA secure_delete = ON")
        yield
        # The log and free pages still hold the old text until both are written anew.
        self.db.execute("VACUUM")
        [is_read, *_] = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_read:
            why = "another program is reading it. Purge again when that has ended"
            raise old_text_error(self.name, why)

    def faults(self) -> list[str]:
        return file_faults(self.db)

    @property
    def rescue_places(self) -> RescuePlaces:
        return RescuePlaces.beside(self.path, self.journal_id)

    def write_witness(self) -> None:
        if self.witness is not None:
            self.witness.write(self.epoch, self.intents)

    def checkpoint(self) -> None:
        self.db.execute("PRAGMA wal_checkpoint(PASSIVE)")

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
            if self.is_removed:
                self._put_back()
            self.db.close()
        self.owned, self.inode = False, None
        if self.witness is not None:
            self.witness.close()
        while self.locks:
            os.close(self.locks.pop())
        if self.copies is not None:
            self.copies.cleanup()

    def _put_back(self) -> None:
        """Write a removed journal anew, where it was or beside: it knows what was paid.

        Once, unless that is removed as well: nothing is written to it afterwards.
        """
        if not self.intents:
            return
        for path in (self.path, self.path.with_name(f"{self.path.name}.removed")):
            with contextlib.suppress(JournalError, OSError, sqlite3.Error):
                if self.back is not None and self.back.exists():
                    return
                make_folder(path.parent)
                back_up(self.db, path)
                logger.critical("%s was removed while in use, and is back as %s", self.path, path)
                self.back = path
                return
        logger.critical("%s was removed while in use, and cannot be put back", self.path)
