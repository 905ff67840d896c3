"""The account that a journal belongs to: its tasks are found with one key and one address only."""

from __future__ import annotations

from collections.abc import Mapping

from apikley_async.batch.store.adoption import STAND_INS, lost_attempts_remain
from apikley_async.batch.store.journal_errors import OtherKeyError
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.errors import JournalError

__all__ = ["bind_account"]

NOT_FOUND = ": its tasks would not be found. Use the one it was begun with"
NEW_KEY = ", or a new key of its account: one with which the service finds a task of the journal"
STORED = "FROM meta WHERE name IN ('base_url', 'account')"


def bind_account(
    journal: OpenJournal, base_url: str, account: str, *, taken_over: bool = False
) -> None:
    """Store the account, or compare it with the one that is stored; see `Store.bind`.

    A file with which nothing was bought yet takes another one: the first key was a wrong one, say.

    Raises:
        OtherKeyError: the journal belongs to another account at this address.
        JournalError: it belongs to another address, or was altered.
    """
    given = {"base_url": base_url, "account": account}
    if not _known_account(journal, given, taken_over):
        with journal.transaction():  # looked at once more: another run may have come first
            if not _known_account(journal, given, taken_over):
                if taken_over or not journal.shared:
                    _forget_former(journal, balances=not taken_over)
                journal.db.executemany("INSERT INTO meta VALUES (?, ?)", given.items())


def _forget_former(journal: OpenJournal, *, balances: bool) -> None:
    """Remove the account that is stored; of another one the *balances* are evidence of nothing."""
    if journal.db.execute(f"DELETE {STORED}").rowcount and balances:
        journal.db.execute("DELETE FROM balance")


def _known_account(journal: OpenJournal, given: Mapping[str, str], taken_over: bool) -> bool:
    """Whether the account is stored, and is the one that is *given*; False when that may be it."""
    known = dict(journal.db.execute(f"SELECT name, value {STORED}"))
    differing = [name for name in known if known[name] != given[name]]
    if differing and not (journal.shared or _may_have_bought(journal)):
        return False
    if "base_url" in differing:
        raise JournalError(f"{journal.name} was written with another address{NOT_FOUND}")
    if differing:
        if taken_over:
            return False
        raise OtherKeyError(f"{journal.name} was written with another key{NOT_FOUND}{NEW_KEY}")
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
    return bool(has) or lost_attempts_remain(journal)
