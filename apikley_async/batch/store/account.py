"""The account that a journal belongs to: its tasks are found with one key and one address only."""

from __future__ import annotations

from collections.abc import Mapping

from apikley_async.batch.store.adoption import STAND_INS
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.errors import JournalError

__all__ = ["bind_account"]


def bind_account(journal: OpenJournal, base_url: str, account: str) -> None:
    """Store the account, or compare it with the one that is stored.

    Raises:
        JournalError: the journal belongs to another account, or was altered.
    """
    given = {"base_url": base_url, "account": account}
    if not _known_account(journal, given):
        with journal.transaction():  # looked at once more: another run may have come first
            if not _known_account(journal, given):
                journal.db.executemany("INSERT INTO meta VALUES (?, ?)", given.items())


def _known_account(journal: OpenJournal, given: Mapping[str, str]) -> bool:
    """Whether the account is stored, and is the one that is *given*; False when none is."""
    known = dict(
        journal.db.execute("SELECT name, value FROM meta WHERE name IN ('base_url', 'account')")
    )
    for name, other in (("base_url", "another address"), ("account", "another key")):
        if name in known and known[name] != given[name]:
            raise JournalError(
                f"{journal.name} was written with {other}: its tasks would not be found. Use the "
                "one it was begun with, or another journal"
            )
    if known.keys() != given.keys() and _has_attempts(journal):
        raise JournalError(
            f"{journal.name} holds attempts, and does not say with which key and address they "
            "were made: base_url or account is missing in its meta table. It was altered, and "
            "is left as it is; bring back a copy"
        )
    return bool(known)


def _has_attempts(journal: OpenJournal) -> bool:
    """Whether something was sent with the journal; stand-ins of an adoption were not."""
    [has] = journal.db.execute(
        "SELECT EXISTS (SELECT 1 FROM attempt WHERE token NOT LIKE ?) OR EXISTS"
        " (SELECT 1 FROM item WHERE task_id IS NOT NULL AND key NOT IN"
        " (SELECT key FROM attempt))",
        (STAND_INS,),
    ).fetchone()
    return bool(has)
