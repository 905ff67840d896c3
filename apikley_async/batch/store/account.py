"""The account that a journal belongs to: its tasks are found with one key and one address only."""

from __future__ import annotations

from collections.abc import Mapping

from apikley_async.batch.store.adoption import STAND_INS
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.errors import JournalError

__all__ = ["bind_account"]

STORED = "FROM meta WHERE name IN ('base_url', 'account')"


def bind_account(journal: OpenJournal, base_url: str, account: str) -> None:
    """Store the account, or compare it with the one that is stored.

    A file with which nothing was bought yet takes another one: the first key was a wrong one, say.

    Raises:
        JournalError: the journal belongs to another account, or was altered.
    """
    given = {"base_url": base_url, "account": account}
    if not _known_account(journal, given):
        with journal.transaction():  # looked at once more: another run may have come first
            if not _known_account(journal, given):
                if not journal.shared:
                    _forget_former(journal)
                journal.db.executemany("INSERT INTO meta VALUES (?, ?)", given.items())


def _forget_former(journal: OpenJournal) -> None:
    """Remove an account with which nothing was bought, and its balances: evidence of nothing."""
    if journal.db.execute(f"DELETE {STORED}").rowcount:
        journal.db.execute("DELETE FROM balance")


def _known_account(journal: OpenJournal, given: Mapping[str, str]) -> bool:
    """Whether the account is stored, and is the one that is *given*; False when that may be it."""
    known = dict(journal.db.execute(f"SELECT name, value {STORED}"))
    for name, other in (("base_url", "another address"), ("account", "another key")):
        if name in known and known[name] != given[name]:
            if not (journal.shared or _may_have_bought(journal)):
                return False
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


def _may_have_bought(journal: OpenJournal) -> bool:
    """Whether there is a task, or may be one, that only the account that is stored can find.

    In a journal that others share, one of them may be about to buy the first.
    """
    [has] = journal.db.execute(
        "SELECT EXISTS (SELECT 1 FROM attempt WHERE task_id IS NOT NULL"
        " OR state NOT IN ('refused', 'unsent'))"
        " OR EXISTS (SELECT 1 FROM item WHERE task_id IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM inbox)"
    ).fetchone()
    return bool(has)
