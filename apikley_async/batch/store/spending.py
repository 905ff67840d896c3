"""What the attempts of a journal cost together, and what its films have shown to cost.

The journal judges each attempt within the transaction that stores it, so that all runs together
keep a bound. The sums are kept up to date with every attempt: judging takes as long for the last
film as for the first. Every function here runs in the journal's thread.
"""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache

from apikley_async._budget import Budget
from apikley_async.batch.store.journal_errors import damaged
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.values import AttemptCost, Bounds, Spending

__all__ = ["add", "change", "costs", "kind_name", "record_cost", "reserve", "total"]

# What is not known yet counts at least as much as a film of its kind has cost by now.
SELECT_SUMS = (
    "SELECT CASE WHEN known = 0 AND price.credits > spent.credits THEN price.credits"
    " ELSE spent.credits END AS amount, films FROM spent LEFT JOIN price ON price.kind = spent.kind"
)
INSERT_SHARES = "INSERT INTO spent (kind, credits, known, films) VALUES"
ADD_SHARES = "ON CONFLICT (kind, credits, known) DO UPDATE SET films = spent.films + excluded.films"


def kind_name(key: int | str) -> str:
    """A kind of film as it is stored; a model's id that is a number is another kind."""
    return json.dumps(key)


@lru_cache(maxsize=256)
def price_key(kind: str) -> int | str:
    """The `price_key` that is stored as *kind*.

    Raises:
        JournalError: it is none.
    """
    with contextlib.suppress(ValueError, RecursionError):
        key = json.loads(kind)
        if isinstance(key, int | str):
            return key
    raise damaged(f"{kind!r:.40} is no kind of film")


def reserve(
    journal: OpenJournal, reserved: float | None, kind: str | None, bounds: Bounds | None
) -> float | None:
    """What is set aside for an attempt: as much as a film of its kind has cost by now.

    The caller has begun a transaction.

    Raises:
        BudgetExceededError: it does not fit into *bounds*.
    """
    row = journal.db.execute("SELECT credits FROM price WHERE kind = ?", (kind,)).fetchone()
    known = (reserved, None if row is None else row[0])
    amount = max((price for price in known if price is not None), default=None)
    if bounds is not None:
        _spent(journal, bounds).reserve(amount)
    return amount


def _spent(journal: OpenJournal, bounds: Bounds) -> Budget:
    budget = Budget(max_credits=bounds.max_credits, max_tasks=bounds.max_tasks)
    for amount, films in journal.db.execute(SELECT_SUMS).fetchall():
        budget.count(amount, films=films)
    return budget


def costs(journal: OpenJournal) -> list[AttemptCost]:
    """What every attempt costs that was accepted, or may have been."""
    rows = journal.db.execute(
        "SELECT token, key, task_id, reserved, credits, kind FROM attempt"
        " WHERE task_id IS NOT NULL OR state IN ('intent', 'unknown', 'abandoned')"
    )
    return [
        AttemptCost(token, key, task_id is None, reserved, consumed, kind and price_key(kind))
        for token, key, task_id, reserved, consumed, kind in rows
    ]


def total(journal: OpenJournal) -> Spending:
    """What all attempts cost together, and what films cost; see `Store.spending`."""
    spent = _spent(journal, Bounds())
    rows = journal.db.execute("SELECT kind, credits FROM price").fetchall()
    return Spending(spent.spent, spent.tasks, {price_key(row[0]): row[1] for row in rows})


def add(journal: OpenJournal, kind: str | None, reserved: float | None) -> None:
    """Count a new attempt. The caller has begun a transaction."""
    _count(journal, (kind or "", reserved or 0.0, 0, 1))


def change(journal: OpenJournal, token: str, films: int) -> None:
    """Count an attempt no more (-1), or again (1). The caller has begun a transaction."""
    kind, reserved, cost = journal.db.execute(
        "SELECT kind, reserved, credits FROM attempt WHERE token = ?", (token,)
    ).fetchone()
    _count(journal, (*_share(kind, reserved, cost), films))


def record_cost(journal: OpenJournal, key: str, credits: float) -> None:  # noqa: A002
    """Store what the film of an item has cost: for its attempt, and for others of its kind.

    The caller has begun a transaction.
    """
    found = journal.db.execute(
        "SELECT token, attempt.kind, reserved, attempt.credits, price.credits"
        " FROM attempt LEFT JOIN price ON price.kind = attempt.kind"
        " WHERE key = ? AND task_id = (SELECT task_id FROM item WHERE key = ?)",
        (key, key),
    ).fetchall()
    for token, kind, reserved, cost, price in found:
        journal.db.execute("UPDATE attempt SET credits = ? WHERE token = ?", (credits, token))
        before, after = _share(kind, reserved, cost), _share(kind, reserved, credits)
        if before != after:
            _count(journal, (*before, -1), (*after, 1))
        if kind is not None and credits > (price or 0.0):
            journal.db.execute(
                "INSERT INTO price (kind, credits) VALUES (?, ?)"
                " ON CONFLICT (kind) DO UPDATE SET credits = excluded.credits",
                (kind, credits),
            )


def _share(kind: str | None, reserved: float | None, cost: float | None) -> tuple[str, float, int]:
    """Where an attempt stands in the sums: its kind, credits, and whether they are its cost (1)."""
    return kind or "", (reserved or 0.0) if cost is None else cost, int(cost is not None)


def _count(journal: OpenJournal, *shares: tuple[str, float, int, int]) -> None:
    rows = ", ".join("(?, ?, ?, ?)" for _ in shares)
    journal.db.execute(
        f"{INSERT_SHARES} {rows} {ADD_SHARES}", [value for share in shares for value in share]
    )
