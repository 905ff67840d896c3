"""What a journal holds besides its items: attempts, history, balances, and what runs have learned.

Every function here runs in the journal's thread. Ages are by the journal's clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from apikley_async.batch.states import ItemState
from apikley_async.batch.store.database import Row
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.values import ExpectedCallback, LearnedValue

__all__ = [
    "at_rest",
    "attempts_of",
    "balances",
    "counts",
    "events_of",
    "expected_callbacks",
    "read_learned",
    "recent_attempts",
    "record_balance",
    "write_learned",
]


def counts(journal: OpenJournal) -> Mapping[ItemState, int]:
    """How many items are in each state; see `Store.counts`."""
    rows = journal.db.execute("SELECT state, count(*) AS n FROM item GROUP BY state")
    return {ItemState(row["state"]): row["n"] for row in rows}


def attempts_of(journal: OpenJournal, key: str | None) -> list[Mapping[str, Any]]:
    """The attempts of an item, or of all, oldest first."""
    rows = journal.db.execute(
        "SELECT * FROM attempt WHERE CAST(? AS TEXT) IS NULL OR key = ? ORDER BY began_at, n",
        (key, key),
    )
    return [dict(row) for row in rows]


def events_of(journal: OpenJournal, key: str | None) -> list[Mapping[str, Any]]:
    """The history of an item, or of all, oldest first."""
    rows = journal.db.execute(
        "SELECT * FROM event WHERE CAST(? AS TEXT) IS NULL OR key = ? ORDER BY seq", (key, key)
    )
    return [dict(row) for row in rows]


def expected_callbacks(journal: OpenJournal) -> list[ExpectedCallback]:
    """The attempts about which a callback may still come; see `Store.expected_callbacks`."""
    named = defaultdict[str, list[str]](list)
    for token, task_id in journal.db.execute("SELECT token, task_id FROM inbox ORDER BY at"):
        named[token].append(task_id)
    rows = journal.db.execute(
        "SELECT token, attempt.key, attempt.state, attempt.task_id, began_at AS at"
        " FROM attempt JOIN item USING (key)"
        " WHERE attempt.state IN ('unknown', 'abandoned')"
        " OR (attempt.state IN ('accepted', 'resolved')"
        " AND item.state IN ('submitted', 'stalled')) ORDER BY began_at"
    ).fetchall()
    given_up, now = {"abandoned": ""}, journal.wall_time()
    return [
        ExpectedCallback(
            row["token"],
            row["key"],
            given_up.get(row["state"], row["task_id"]),
            tuple(named[row["token"]]),
            _age(row, now),
            row["task_id"] if row["state"] in given_up else None,
        )
        for row in rows
    ]


def recent_attempts(journal: OpenJournal, within: float) -> list[tuple[float, bool]]:
    """The attempts that ended within so many seconds: their age, and whether uncertain."""
    now = journal.wall_time()
    rows = journal.db.execute(
        "SELECT coalesce(ended_at, began_at) AS at, state FROM attempt"
        " WHERE coalesce(ended_at, began_at) >= ? AND state != 'unsent'",
        (now - within,),
    )
    return [(_age(row, now), row["state"] in ("unknown", "intent")) for row in rows]


def _age(row: Row, now: float) -> float:
    return max(0.0, now - float(row["at"]))


def at_rest(journal: OpenJournal) -> int | None:
    """How many attempts there are while none is out and no film is made; see `Store.at_rest`."""
    [moving] = journal.db.execute(
        "SELECT count(*) FROM item WHERE state IN ('sending', 'submitted', 'stalled')"
    ).fetchone()
    [attempts] = journal.db.execute("SELECT count(*) FROM attempt").fetchone()
    return None if moving else int(attempts)


def record_balance(journal: OpenJournal, balance: float, attempts: int | None) -> bool:
    """Store the credits that the account has now; see `Store.record_balance`."""
    with journal.transaction():
        if attempts is not None and at_rest(journal) != attempts:
            return False
        journal.db.execute(
            "INSERT INTO balance (at, credits) VALUES (?, ?)"
            " ON CONFLICT (at) DO UPDATE SET credits = excluded.credits",
            (journal.now[0], balance),
        )
    return True


def balances(journal: OpenJournal) -> list[tuple[float, float]]:
    """The balances that were stored: the time, in seconds since 1970, and the credits."""
    rows = journal.db.execute("SELECT at, credits FROM balance ORDER BY at")
    return [(row["at"], row["credits"]) for row in rows]


def write_learned(journal: OpenJournal, name: str, value: str) -> None:
    """Store what was learned of the service, in the place of what *name* was before."""
    with journal.transaction():
        journal.db.execute(
            "INSERT INTO learned (name, value, at) VALUES (?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET value = excluded.value, at = excluded.at",
            (name, value, journal.now[0]),
        )


def read_learned(journal: OpenJournal, name: str) -> LearnedValue | None:
    """What was learned last under that name; None for nothing."""
    row = journal.db.execute("SELECT value, at FROM learned WHERE name = ?", (name,)).fetchone()
    return row and LearnedValue(row["value"], _age(row, journal.wall_time()))
