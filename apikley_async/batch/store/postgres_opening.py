"""How a journal in PostgreSQL is opened: checked, given what was rescued here, or copied."""

from __future__ import annotations

import contextlib
from pathlib import Path

from apikley_async._postgres import Connection, Dsn
from apikley_async.batch.store import attempts, items, journal_file, rescue
from apikley_async.batch.store.database import Database
from apikley_async.batch.store.postgres_journal import KEPT, PostgresJournal
from apikley_async.batch.store.schema import MIGRATIONS

__all__ = ["copy_database", "open_database"]

COPIED = (*("item", "attempt", "event", "inbox", "folder", "balance", "learned", "price", "spent"),)
EVERYTHING = "SELECT * FROM"


def open_database(journal: PostgresJournal) -> None:
    """Connect to the database of *journal*. Runs in the journal's thread.

    Raises:
        JournalError: it cannot be reached, is not set up, or is of another version.
    """
    journal.connect()
    items.load_folders(journal)
    if journal.read_only:
        return
    with journal.transaction():
        journal.db.execute("DELETE FROM session WHERE at < ?", (journal.wall_time() - KEPT,))
        done = attempts.bind_rescued(journal, journal.rescue_places)
    rescue.remove_notes(done)


def copy_database(dsn: Dsn, path: Path) -> None:
    """Copy a journal as it is at this moment into a new file. Runs in the journal's thread.

    What runs have claimed is nobody's in the copy.

    Raises:
        JournalError: it cannot be reached or used, or not until all was copied.
    """
    with PostgresJournal(dsn, read_only=True).snapshot() as original:
        journal_file.make_journal(path, MIGRATIONS)
        with contextlib.closing(journal_file.connect(path)) as copy:
            copy.execute("BEGIN IMMEDIATE")
            copy.execute("PRAGMA defer_foreign_keys = ON")
            facts = original.execute("SELECT name, value FROM meta").fetchall()
            copy.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", map(tuple, facts))
            for table in COPIED:
                _copy_table(original, copy, table)
            copy.execute("UPDATE item SET owner = NULL")
            copy.execute("COMMIT")


def _copy_table(original: Connection, copy: Database, table: str) -> None:
    rows = original.execute(f"{EVERYTHING} {table}").fetchall()
    if rows:
        names = [*rows[0].keys()]
        columns = ", ".join(f'"{name}"' for name in names)
        copy.insert(f"{table} ({columns})", [tuple(row) for row in rows])
