"""How a journal is opened: locked, checked, compared with its witness, upgraded and owned.

Everything that can refuse a journal happens before anything in it is written.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from apikley_async.batch.store import adoption, attempts, claims, items, journal_file, rescue
from apikley_async.batch.store.journal_errors import journal_error
from apikley_async.batch.store.local_disk import check_local_disk
from apikley_async.batch.store.locks import (
    check_never_used,
    lock_inode,
    lock_witness,
    note_owner,
    take_lock,
)
from apikley_async.batch.store.rows import relativize_paths
from apikley_async.batch.store.schema import CLAIMS, migrate
from apikley_async.batch.store.sqlite_journal import SqliteJournal
from apikley_async.batch.store.witness import Witness, check_newest
from apikley_async.errors import JournalError

__all__ = ["open_journal"]

RELATIVE_PATHS = 4  # the version of the schema from which on paths are relative
LOG_PAGES = 200  # some dozens of commits, until they are copied into the main file


def open_journal(journal: SqliteJournal) -> None:
    """Open the file of *journal*, or make it. Runs in the journal's thread.

    Raises:
        JournalError: it is in use, damaged, of another program or of a newer version, an older
            copy, or without its log after a crash. The file is left as it is.
    """
    journal.close()  # what an opening that broke off has left, locks too
    if journal.origin is not None:
        _copy(journal, journal.origin)
    elif not journal.read_only:
        check_local_disk(journal.path)
        journal.locks.append(take_lock(journal.path))
    if not journal.path.exists():
        if journal.read_only:
            raise JournalError(f"{journal.path}: there is no such journal")
        journal_file.make_journal(journal.path, journal.migrations)
    journal_file.refuse_special(journal.path)
    shared = journal.read_only or journal.origin is not None
    if not shared and (inode := lock_inode(journal.path)) is not None:
        journal.locks.append(inode)
        journal.inode = inode
    had_log = journal_file.has_log(journal.path)  # before SQLite makes one
    version = _connect(journal)
    facts = journal_file.facts_in(journal.db)
    journal.journal_id, journal.epoch = facts.journal_id, facts.epoch
    journal.intents, journal.lost = facts.intents, facts.lost
    if not journal.read_only:
        _begin(journal, version, log_is_lost=facts.begun and not had_log)
    elif version < len(journal.migrations):
        reason = "was written by an older version; run the batch once to bring it up to date"
        raise JournalError(f"{journal.path} {reason}")
    items.load_folders(journal)


def _connect(journal: SqliteJournal) -> int:
    """Connect to the file, or to a copy where its disk cannot be written; give its version.

    Even to read a journal, SQLite writes beside it.
    """
    journal.file = journal_file.connect(journal.path, read_only=journal.read_only)
    try:
        return journal_file.check_journal(journal.db, journal.path, journal.migrations)
    except sqlite3.OperationalError as exc:
        if not (journal.read_only and journal_file.cannot_write_beside(exc)):
            raise
    journal.db.close()
    journal.copies = journal_file.copies_folder(journal.path)
    copy = Path(journal.copies.name).resolve() / "journal.db"
    journal_file.copy_privately(journal.path, copy, journal.migrations)
    journal.file = journal_file.connect(copy, read_only=True)
    return journal_file.check_journal(journal.db, copy, journal.migrations)


def _begin(journal: SqliteJournal, version: int, *, log_is_lost: bool) -> None:
    """Make the journal this process's own, once it is known to be the newest."""
    if journal.locks:
        note_owner(journal.locks[0], journal.journal_id)
    journal_file.make_lasting(journal.db)
    journal.db.execute("PRAGMA journal_mode = WAL")
    journal.db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    if journal.origin is None:  # a private copy was compared with the witness before
        _compare_with_witness(journal, log_is_lost=log_is_lost)
    _take_over(journal, version)
    [is_read, *_] = journal.db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    if is_read:  # else the mark is in the main file now
        raise journal_error(
            f"{journal.path} cannot be marked as open: another program has been reading it for "
            "seconds. End that, and run again",
            sqlite3.SQLITE_BUSY,
        )


def _copy(journal: SqliteJournal, origin: Path) -> None:
    """Make a private copy, which is refused where the journal itself would be."""
    journal.copies = journal_file.copies_folder(origin)
    folder = Path(journal.copies.name).resolve()
    journal.path = folder / "journal.db"
    if journal.copier is not None:
        journal.copier(journal.path)
        return
    if not origin.exists():
        journal_file.check_no_log_left(origin)
        check_never_used(origin)
        return
    facts = journal_file.copy_privately(origin, journal.path, journal.migrations)
    seen, had_log = Witness(facts.journal_id).read(), journal_file.has_log(origin)
    with contextlib.suppress(JournalError):
        log_is_lost = facts.begun and not had_log
        check_newest(origin, (facts.epoch, facts.intents), seen, log_is_lost=log_is_lost)
        return
    # The owner may have written between the copy and the reading of the witness. A second copy is
    # certainly newer than the witness that was read.
    journal.path = folder / "second.db"
    facts = journal_file.copy_privately(origin, journal.path, journal.migrations)
    log_is_lost = facts.begun and not (had_log or journal_file.has_log(origin))
    check_newest(origin, (facts.epoch, facts.intents), seen, log_is_lost=log_is_lost)


def _compare_with_witness(journal: SqliteJournal, *, log_is_lost: bool) -> None:
    """Refuse an older copy, and what a crash has left without its log, unless it is adopted.

    A copy that is in use at the same time is refused in any case.
    """
    journal.witness = Witness(journal.journal_id)
    lock_witness(journal.witness, journal.path)
    seen = journal.witness.read()
    if journal.adopting:
        journal.epoch = max(journal.epoch, seen[0] if seen else 0)
        if seen is None:
            journal.lost = None
        elif journal.lost is not None:
            journal.lost += max(0, seen[1] - journal.intents)
        return
    here = (journal.epoch, journal.intents)
    check_newest(journal.path, here, seen, log_is_lost=log_is_lost)
    journal.write_witness()  # before the mark in the journal, which it has to confirm


def _take_over(journal: SqliteJournal, version: int) -> None:
    """Upgrade the tables, take the next epoch, and settle what was left `sending`."""
    db = journal.db
    if version < len(journal.migrations):
        journal_file.keep_copy(db, journal.path, version)
    # One transaction: an upgrade that is interrupted leaves the journal as it was, and an epoch is
    # never taken without settling what the last owner was sending.
    db.execute("BEGIN IMMEDIATE")
    migrate(db, journal.migrations)
    if version < RELATIVE_PATHS <= len(journal.migrations):
        relativize_paths(db, journal.home)
    journal.epoch += 1
    facts = (("epoch", str(journal.epoch)), ("begun", "1"))
    db.executemany(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        facts,
    )
    _settle_interrupted(journal)
    # Before adoption: a film whose id was rescued is paid, and needs no decision.
    places = rescue.RescuePlaces.beside(journal.origin or journal.path, journal.journal_id)
    done = attempts.bind_rescued(journal, places)
    if journal.adopting:
        adoption.adopt(journal)
    db.execute("COMMIT")
    journal.owned = True
    if journal.adopting:
        adoption.recount_intents(journal)
    # A note stays until the journal has all that it says; a private copy proves nothing.
    if journal.origin is None:
        rescue.remove_notes(done)


def _settle_interrupted(journal: SqliteJournal) -> None:
    """What the last owner was sending when it ended is uncertain."""
    left = journal.db.execute(
        "SELECT item.key, coalesce(token, '') AS token FROM item LEFT JOIN attempt"
        " ON attempt.key = item.key AND attempt.state = 'intent' WHERE item.state = 'sending'"
    ).fetchall()
    claims.make_uncertain(journal, [(row["key"], row["token"]) for row in left])
    journal.db.execute(
        "UPDATE attempt SET state = 'unknown', cause = 'interrupted', ended_at = ?"
        " WHERE state = 'intent'",
        (journal.now[0],),
    )
    if len(journal.migrations) >= CLAIMS:
        claims.forget_owners(journal)
