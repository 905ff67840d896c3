"""What the attempts of a journal cost together, and what its films have shown to cost.

The journal judges each attempt within the transaction that stores it, so that all runs together
keep a bound. Every function here runs in the journal's thread.
"""

from __future__ import annotations

import json

from apikley_async._budget import Budget
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.protocol import AttemptCost, Bounds, Spending

__all__ = ["costs", "kind_name", "learn_price", "reserve", "total"]

# The attempts that were accepted, or may have been.
SELECT_COSTS = (
    "SELECT token, key, task_id, reserved, credits, kind FROM attempt"
    " WHERE task_id IS NOT NULL OR state IN ('intent', 'unknown', 'abandoned')"
)
# Each costs at least as much as a film of its kind has cost by now, until its own cost is known.
SELECT_AMOUNTS = (
    "SELECT CASE WHEN cost.credits IS NOT NULL THEN cost.credits"
    " WHEN price.credits > coalesce(cost.reserved, 0) THEN price.credits"
    " ELSE coalesce(cost.reserved, 0) END AS amount, count(*) AS films"
    " FROM cost LEFT JOIN price ON price.kind = cost.kind GROUP BY 1"
)


def kind_name(price_key: int | str) -> str:
    """A kind of film as it is stored; a model's id that is a number is another kind."""
    return json.dumps(price_key)


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
    for amount, films in journal.db.execute(f"WITH cost AS ({SELECT_COSTS}) {SELECT_AMOUNTS}"):
        budget.count(amount, films=films)
    return budget


def costs(journal: OpenJournal) -> list[AttemptCost]:
    """What every attempt costs that was accepted, or may have been."""
    return [
        AttemptCost(token, key, task_id is None, reserved, consumed)
        for token, key, task_id, reserved, consumed, _ in journal.db.execute(SELECT_COSTS)
    ]


def total(journal: OpenJournal) -> Spending:
    """What all attempts cost together, and what films cost; see `Store.spending`."""
    spent = _spent(journal, Bounds())
    rows = journal.db.execute("SELECT kind, credits FROM price").fetchall()
    return Spending(spent.spent, spent.tasks, {json.loads(row[0]): row[1] for row in rows})


def learn_price(journal: OpenJournal, key: str, credits: float) -> None:  # noqa: A002
    """Remember what the film of an item has cost, if no film of its kind has cost more.

    The caller has begun a transaction.
    """
    if credits > 0:
        journal.db.execute(
            "INSERT INTO price (kind, credits) SELECT kind, ? FROM attempt WHERE kind IS NOT NULL"
            " AND key = ? AND task_id = (SELECT task_id FROM item WHERE key = ?)"
            " ON CONFLICT (kind) DO UPDATE SET credits = excluded.credits"
            " WHERE excluded.credits > price.credits",
            (credits, key, key),
        )
