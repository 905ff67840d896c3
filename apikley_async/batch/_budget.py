"""How much may be spent: reserved before each POST, exact however many run at once.

Pure: no clock, no file. What a film costs comes from the user, or from what earlier films of
the same journal consumed; nothing is ever assumed (https://docs.apikley.ru publishes no prices).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from apikley_async import Storyboard, Task
from apikley_async.batch._store import Item
from apikley_async.errors import BudgetExceededError

__all__ = ["Budget", "Price", "Prices"]

Work: TypeAlias = Storyboard | Task
Price: TypeAlias = float | Mapping[int | str, float] | Callable[[Work], float | None] | None
Kind: TypeAlias = int | str


def kind_of(work: Work) -> Kind:
    """What films are priced by: a storyboard's duration, or another model's name."""
    return work.model if isinstance(work, Task) else work.duration


def kind_of_item(item: Item) -> Kind:
    payload: dict[str, Any] = json.loads(item.payload)
    kind: Kind = payload["task"]["model"] if "task" in payload else payload["duration"]
    return kind


class Prices:
    """What films cost, as far as is known: the user's word first, then what was learnt."""

    def __init__(self, price: Price = None) -> None:
        if isinstance(price, int | float) and not 0 <= price < float("inf"):
            raise ValueError(f"price: credits, 0 or more, not {price!r}")
        self._given = price
        self._learnt: dict[Kind, float] = {}

    def learn(self, item: Item) -> None:
        """Remember what a finished film consumed; the dearest of its kind counts."""
        if item.credits:
            kind = kind_of_item(item)
            self._learnt[kind] = max(self._learnt.get(kind, 0.0), item.credits)

    def of(self, work: Work) -> float | None:
        """Credits for *work*; None when nobody knows."""
        given = self._given
        if callable(given):
            return given(work)
        if isinstance(given, int | float):
            return float(given)
        kind = kind_of(work)
        if given is not None and kind in given:
            return float(given[kind])
        return self._learnt.get(kind)


@attrs.define
class Budget:
    """What may be reserved, and what is.

    Attributes:
        max_credits: of all films of the journal, accepted or uncertain; None: no bound.
        max_tasks: films of the journal, accepted or uncertain; None: no bound.
        spendable: credits that this run may take from the balance; None: no bound.
        spent, tasks: what earlier runs have used up.
    """

    max_credits: float | None = None
    max_tasks: int | None = None
    spendable: float | None = None
    spent: float = 0.0
    tasks: int = 0
    taken: float = 0.0

    @property
    def needs_prices(self) -> bool:
        return self.max_credits is not None or self.spendable is not None

    def reserve(self, price: float | None) -> None:
        """Set *price* aside, before the POST.

        Raises:
            BudgetExceededError: it does not fit; nothing is set aside, nothing was spent.
        """
        if self.needs_prices and price is None:
            raise BudgetExceededError(
                "max_credits and min_balance need a price: say what a film costs, or make one "
                "of each kind without them first"
            )
        amount = price or 0.0
        if self.max_credits is not None and self.spent + amount > self.max_credits:
            raise BudgetExceededError(
                f"{amount:g} credits more would exceed max_credits: {self.spent:g} of "
                f"{self.max_credits:g} are spent or reserved"
            )
        if self.spendable is not None and self.taken + amount > self.spendable:
            raise BudgetExceededError(f"{amount:g} credits more would go below min_balance")
        if self.max_tasks is not None and self.tasks + 1 > self.max_tasks:
            raise BudgetExceededError(f"{self.tasks} of max_tasks {self.max_tasks} are used up")
        self.spent += amount
        self.taken += amount
        self.tasks += 1

    def release(self, price: float | None) -> None:
        """Give back what was reserved for an attempt that created nothing."""
        self.spent -= price or 0.0
        self.taken -= price or 0.0
        self.tasks -= 1
