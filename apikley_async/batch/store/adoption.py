"""An adopted journal: a copy that was taken for the newest one, although attempts are missing.

Every planned film of it may have been sent, by an attempt that is lost. So each gets an uncertain
attempt that stands in for the lost one, and a person decides about it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from apikley_async.batch.states import ItemEvent
from apikley_async.batch.store import items, spending
from apikley_async.batch.store.journal_file import facts_in
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.rows import LOST_UNKNOWN
from apikley_async.batch.store.values import Transition

__all__ = [
    "STAND_INS",
    "add_stand_in",
    "adopt",
    "is_stand_in",
    "lost_attempts_remain",
    "recount_intents",
]

STAND_IN = "adopted"  # begins the token of an attempt that stands in for a lost one
STAND_INS = f"{STAND_IN}%"  # their pattern, for LIKE


def adopt(journal: OpenJournal) -> None:
    """Make every planned item of a journal uncertain. The caller has begun a transaction."""
    lost = LOST_UNKNOWN if journal.lost is None else str(journal.lost)
    journal.db.execute(
        "INSERT INTO meta VALUES ('lost', ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (lost,),
    )
    cause = "may have been sent: the journal was adopted without its newest part"
    planned = journal.db.execute("SELECT key FROM item WHERE state = 'planned'").fetchall()
    for [key] in planned:
        add_stand_in(journal, key, cause)


def add_stand_in(journal: OpenJournal, key: str, cause: str) -> None:
    """Make a planned item uncertain, with an attempt that stands in for a lost one.

    The caller has begun a transaction, and calls `recount_intents` after it.
    """
    token = f"{STAND_IN}{secrets.token_hex(12)}"
    spending.add(journal, None, None)
    journal.db.execute(
        "INSERT INTO attempt (token, key, n, state, fingerprint, began_at, ended_at, cause)"
        " VALUES (?, ?, (SELECT count(*) + 1 FROM attempt WHERE key = ?), 'unknown', '',"
        " ?, ?, 'adopted')",
        (token, key, key, journal.now[0], journal.now[0]),
    )
    items.move(journal, key, Transition(ItemEvent.ADOPT, cause=cause, token=token))


def is_stand_in(attempt: Mapping[str, Any]) -> bool:
    """Whether an attempt, a row of the journal, stands in for a lost one."""
    return str(attempt.get("token") or "").startswith(STAND_IN)


def lost_attempts_remain(journal: OpenJournal) -> bool:
    """Whether attempts were lost that no item of the journal accounts for yet."""
    if not journal.lost:
        return journal.lost is None
    query = "SELECT count(*) FROM attempt WHERE token LIKE ? AND state = 'resolved'"
    [found] = journal.db.execute(query, (STAND_INS,)).fetchone()
    return bool(journal.lost > found)


def recount_intents(journal: OpenJournal) -> None:
    """Count the attempts again, stand-ins included, and store the number in the witness."""
    journal.intents = facts_in(journal.db).intents
    journal.write_witness()
