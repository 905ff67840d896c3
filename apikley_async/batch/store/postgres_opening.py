"""How a journal in PostgreSQL is opened: checked, and told what this machine has rescued."""

from __future__ import annotations

from apikley_async.batch.store import attempts, items, rescue
from apikley_async.batch.store.postgres_journal import KEPT, PostgresJournal

__all__ = ["open_database"]


def open_database(journal: PostgresJournal) -> None:
    """Connect to the database of *journal*. Runs in the journal's thread.

    Raises:
        JournalError: it cannot be reached, is not set up, or is of another version.
    """
    journal.connect()
    items.load_folders(journal)
    if journal.read_only:
        return
    notes = rescue.read_notes(journal.rescue_places)
    cause = "the journal could not be written when the answer came"
    with journal.transaction():
        journal.db.execute("DELETE FROM session WHERE at < ?", (journal.wall_time() - KEPT,))
        bound = {
            path: [attempts.bind_late(journal, note.token, note.task_id, cause) for note in found]
            for path, found in notes.items()
        }
    rescue.remove_notes(path for path, all_bound in bound.items() if all(all_bound))
