"""The errors of a journal: which of them may pass, and which mean damage."""

from __future__ import annotations

import sqlite3

from apikley_async.errors import Blame, JournalError

__all__ = [
    "JournalInUseError",
    "OtherKeyError",
    "damaged",
    "journal_error",
    "not_unicode_error",
    "old_text_error",
]

# Primary codes of SQLite for what may be over the next time: a lock, a full or read-only disk.
TEMPORARY = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
    )
)


class JournalInUseError(JournalError):
    """Another process owns the journal."""


class OtherKeyError(JournalError):
    """The journal was written with another key, at the same address."""


def journal_error(message: str, cause: OSError | int | None = None) -> JournalError:
    """An error of the journal, resumable where running again may help.

    Args:
        message: for the user.
        cause: the system's error, or SQLite's primary code. A wrong path, or a code that means
            damage, makes the error not resumable.
    """
    wrong_path = isinstance(cause, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if wrong_path or (isinstance(cause, int) and cause not in TEMPORARY):
        return JournalError(message)
    return JournalError(message, resumable=True, blames=Blame.NETWORK)


def not_unicode_error(name: str, cause: UnicodeEncodeError) -> JournalError:
    """An error for a text, such as a file's name, that no database can look for or store.

    Args:
        name: of the journal.
        cause: says which text.
    """
    text = repr(cause.object)[:80]
    return JournalError(
        f"{name} holds text in Unicode only, and {text} is none; nothing is changed"
    )


def old_text_error(name: str, why: str) -> JournalError:
    """An error for a purge that has changed the tables, and could not clean the files behind them.

    Args:
        name: of the journal.
        why: it could not, and what helps.
    """
    return JournalError(
        f"{name} has the old text in its files still, although its tables do not show it: {why}"
    )


def damaged(fault: str) -> JournalError:
    """An error for content that this program would not have written."""
    return JournalError(
        f"the journal is damaged, or was not written by this program: {fault}. It is left as it is"
    )
