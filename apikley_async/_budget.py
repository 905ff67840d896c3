"""How much may be spent: reserved before each POST, exact however many run at once.

Pure: no clock, no file. What a film costs comes from the user, or from what earlier films
consumed; nothing is ever assumed (https://docs.apikley.ru publishes no prices).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TypeAlias

import attrs

from apikley_async._storyboard import Work
from apikley_async.errors import Blame, BudgetExceededError

__all__ = ["Budget", "Price", "Prices", "Reservation", "Stake"]

Price: TypeAlias = float | Mapping[int | str, float] | Callable[[Work], float | None] | None
Kind: TypeAlias = int | str


class Prices:
    """What films cost, as far as is known: what the user says, or more where one was dearer."""

    def __init__(self, price: Price = None) -> None:
        if isinstance(price, Mapping):
            self._given: Callable[[Work], float | None] = lambda work: price.get(work.price_key)
        elif callable(price):
            self._given = price
        else:
            self._given = lambda _: price
        for stated in price.values() if isinstance(price, Mapping) else [price]:
            if not callable(stated):
                checked(stated)
        self._learnt: dict[Kind, float] = {}

    def learn(self, kind: Kind, credits: float) -> None:  # noqa: A002 - as the service says
        """Remember what a finished film consumed; the dearest of its kind counts."""
        self._learnt[kind] = max(self._learnt.get(kind, 0.0), credits)

    def of(self, work: Work) -> float | None:
        """Credits for *work*; None when nobody knows."""
        known = checked(self._given(work)), self._learnt.get(work.price_key)
        return max((price for price in known if price is not None), default=None)


def checked(price: float | None) -> float | None:
    """A price that bounds can be kept with: one below 0 would let everything through."""
    if price is None:
        return None
    if isinstance(price, bool) or not isinstance(price, int | float):
        raise TypeError(f"price: credits, not {price!r:.40}")
    if not 0 <= price < math.inf:
        raise ValueError(f"price: credits, 0 or more, not {price!r}")
    return float(price)


@attrs.define(eq=False)
class Reservation:
    """Credits that are set aside for one film, or what it has cost once that is known.

    Attributes:
        amount: credits.
        kind: what it is priced by, so that a dearer price can be set aside for it.
        own: whether this run has reserved it, so that the balance pays for it from now on.
        sent: whether its request may be out; what only waits is priced anew before it is sent.
    """

    amount: Decimal
    kind: Kind | None = None
    own: bool = True
    sent: bool = True


class Budget:
    """What may be reserved, and what is: known costs, and prices where a cost is not known yet.

    A film that is dearer than its price can make the sum exceed a bound, by no more than what was
    in flight; then nothing more is reserved.

    Args:
        max_credits: of all films that count, accepted or uncertain; None: no bound.
        max_tasks: films that count, accepted or uncertain; None: no bound.
        spendable: credits that may be taken from the balance; None: no bound.
    """

    def __init__(
        self,
        *,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        spendable: float | None = None,
    ) -> None:
        self.max_credits = max_credits
        self.max_tasks = max_tasks
        self.spendable = spendable
        self.tasks = 0
        self.undecided = 0  # reserved for films of which nobody knows yet whether they are paid
        self._open: dict[Reservation, None] = {}  # their cost will be known
        self._spent = Decimal(0)  # decimal: ten times 0.1 fit into 1
        self._taken = Decimal(0)

    @property
    def spent(self) -> float:
        return float(self._spent)

    @property
    def needs_prices(self) -> bool:
        return self.max_credits is not None or self.spendable is not None

    def count(self, price: float | None, kind: Kind | None = None) -> Reservation:
        """Count a film of an earlier run; `follow` it if its cost is still to be known."""
        counted = Reservation(exact(price or 0.0), kind, own=False)
        self._spent += counted.amount
        self.tasks += 1
        return counted

    def follow(self, reservation: Reservation) -> None:
        """Expect that the cost will be known: until then a dearer price is set aside for it too."""
        self._open[reservation] = None

    def reserve(
        self, price: float | None, kind: Kind | None = None, *, sent: bool = True
    ) -> Reservation:
        """Set *price* aside, before the POST; `keep` or `release` decides what becomes of it.

        What is not *sent* at once is released and reserved again just before it is.

        Raises:
            BudgetExceededError: it does not fit; nothing is set aside, nothing was spent.
        """
        if self.needs_prices and price is None:
            raise BudgetExceededError(
                "max_credits and min_balance need a price: say what a film costs, or make one "
                "of each kind without them first",
                resumable=False,
                blames=Blame.INPUT,
            )
        amount = exact(price or 0.0)
        if self.max_credits is not None and self._spent + amount > exact(self.max_credits):
            raise BudgetExceededError(
                f"{amount:f} credits more would exceed max_credits: {self._spent:f} of "
                f"{self.max_credits:g} are spent or reserved"
            )
        if self.spendable is not None and self._taken + amount > exact(self.spendable):
            raise BudgetExceededError(f"{amount:f} credits more would go below min_balance")
        if self.tasks_are_used_up:
            raise BudgetExceededError(f"{self.tasks} of max_tasks {self.max_tasks} are used up")
        self.tasks += 1
        self.undecided += 1
        reserved = Reservation(Decimal(0), kind, sent=sent)
        self._set(reserved, amount)
        self.follow(reserved)
        return reserved

    @property
    def may_free(self) -> bool:
        """Whether what is reserved now may still turn out to be less."""
        if self.undecided:
            return True
        return not self.tasks_are_used_up and any(film.amount for film in self._open)

    @property
    def tasks_are_used_up(self) -> bool:
        return self.max_tasks is not None and self.tasks + 1 > self.max_tasks

    def keep(self) -> None:
        """The film is paid, or may be: what was reserved for it stays reserved."""
        self.undecided -= 1

    def release(self, reservation: Reservation) -> None:
        """Give back what was reserved for an attempt that created nothing."""
        self.settle(reservation, 0.0)
        self.tasks -= 1
        self.undecided -= 1

    def settle(self, reservation: Reservation, cost: float | None) -> None:
        """Put what a film has cost in the place of what was reserved; None: that stays unknown."""
        self._open.pop(reservation, None)
        if cost is not None:
            self._set(reservation, exact(cost))

    def reprice(self, kind: Kind, price: float) -> None:
        """Set at least *price* aside for each film of a kind that is out, cost unknown."""
        for film in self._open:
            if film.sent and film.kind == kind and film.amount < exact(price):
                self._set(film, exact(price))

    def _set(self, reservation: Reservation, amount: Decimal) -> None:
        change = amount - reservation.amount
        reservation.amount = amount
        self._spent += change
        if reservation.own:
            self._taken += change


class Stake:
    """What is set aside for the attempts of one film: each that may have cost something keeps it.

    *price* says what the film costs as far as is known then; it was reserved for once before.
    """

    def __init__(
        self, budget: Budget, reserved: Reservation, price: Callable[[], float | None]
    ) -> None:
        self._budget = budget
        self._kind = reserved.kind
        self._price = price
        self.reservation: Reservation | None = reserved

    def reserve(self) -> float | None:
        """Just before an attempt is sent, at the price of now, which it gives.

        It may have waited for long, and films have become dearer meanwhile.

        Raises:
            BudgetExceededError: there is no room for it any more; nothing is set aside.
        """
        price = self._price()
        if self.reservation is not None:
            self._budget.release(self.reservation)
            self.reservation = None
        self.reservation = self._budget.reserve(price, self._kind)
        return price

    def wait(self) -> None:
        """An attempt has created nothing, and the next has to wait: nothing of it is out."""
        if self.reservation is not None:
            self.reservation.sent = False

    def keep(self) -> None:
        """An attempt keeps it, though it is said that nothing was created."""
        if self.reservation is not None:
            self._budget.keep()
            self._budget.settle(self.reservation, None)
            self.reservation = None


def exact(credits: float) -> Decimal:  # noqa: A002 - it is what the service calls them
    """The number that was written, not the binary one beside it."""
    return Decimal(repr(float(credits)))
