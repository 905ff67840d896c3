"""The arithmetic of a bound: credits reserved, settled and released, however many run at once.

Pure: no clock, no file. The price of a film comes from the user, or from what earlier films
consumed; nothing is assumed (https://docs.apikley.ru publishes no prices).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TypeAlias

import attrs

from apikley_async._storyboard import Work
from apikley_async._text import in_credits
from apikley_async.errors import Blame, BudgetExceededError

__all__ = ["Budget", "FilmBudget", "Price", "Prices", "Reservation"]

Price: TypeAlias = float | Mapping[int | str, float] | Callable[[Work], float | None] | None
PriceKey: TypeAlias = int | str
"""`Work.price_key`: works with one key cost the same."""


class Prices:
    """What films cost, as far as it is known: the user's price, or more where a film cost more.

    Args:
        price: credits for each film, a mapping from `Work.price_key` to credits, or a function
            from a work to credits (None where it does not know); None: nothing is known.

    Raises:
        TypeError: a price is not a number.
        ValueError: a price is negative, infinite or NaN.
    """

    def __init__(self, price: Price = None) -> None:
        if isinstance(price, Mapping):
            self._given: Callable[[Work], float | None] = lambda work: price.get(work.price_key)
        elif callable(price):
            self._given = price
        else:
            self._given = lambda _: price
        for stated in price.values() if isinstance(price, Mapping) else [price]:
            if not callable(stated):
                validate_price(stated)
        self._learned: dict[PriceKey, float] = {}

    @property
    def learned(self) -> bool:
        """Whether the price of any film is known from what it cost."""
        return bool(self._learned)

    def learn(self, key: PriceKey, credits: float) -> None:  # noqa: A002 - as the service says
        """Remember what a finished film consumed; the highest of its key counts."""
        self._learned[key] = max(self._learned.get(key, 0.0), credits)

    def of(self, work: Work) -> float | None:
        """Credits for *work*; None when its price is unknown."""
        known = validate_price(self._given(work)), self._learned.get(work.price_key)
        return max((price for price in known if price is not None), default=None)


def validate_price(price: float | None) -> float | None:
    """Return *price* as a float, or raise: a negative one would defeat every bound."""
    if price is None:
        return None
    if isinstance(price, bool) or not isinstance(price, int | float):
        raise TypeError(f"price: credits, not {price!r:.40}")
    if not 0 <= price < math.inf:
        raise ValueError(f"price: credits, 0 or more, not {price!r}")
    return float(price)


def unpriced_error(key: PriceKey | None) -> BudgetExceededError:
    """The error for a film that no price is known for, where a bound in credits needs one."""
    kind = "it" if key is None else f"films of {key} s" if isinstance(key, int) else repr(key)
    error = BudgetExceededError(
        f"max_credits and min_balance need a price, and there is none for {kind}",
        resumable=False,
        blames=Blame.INPUT,
    )
    example = "" if key is None else f", as in prices={{{key!r}: 100}}"
    error.advice = f"Say what it costs{example}, or make one without these bounds first"
    return error


@attrs.define(eq=False)
class Reservation:
    """Credits that are set aside for one film, or what it has cost once that is known.

    Attributes:
        amount: credits.
        price_key: what it is priced by, so that a higher price can be set aside for it later.
        own: whether this run has reserved it, so that it reduces the balance from now on.
        sent: whether its request may have been sent; one that still waits is priced again
            before it is sent.
        recorded: whether a journal that others use too counts it already.
    """

    amount: Decimal
    price_key: PriceKey | None = None
    own: bool = True
    sent: bool = True
    recorded: bool = False


class Budget:
    """The sum of all reservations, and the bounds on it.

    A reservation counts with its price until its cost is known. A film that costs more than its
    price can make the sum exceed a bound, by no more than what was in flight; then nothing more
    is reserved.

    Args:
        max_credits: for all films that were accepted or are uncertain; None: no bound.
        max_tasks: films that were accepted or are uncertain; None: no bound.
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
        self.tasks: int = 0
        self.undecided: int = 0  # reservations that neither `keep` nor `release` has decided yet
        self._open: dict[Reservation, None] = {}  # those whose cost will be known
        self._spent = Decimal(0)  # decimal: ten times 0.1 fits into 1
        self._taken = Decimal(0)  # from the balance, by this run, or by all since `share`
        self._before: Decimal | None = None  # what all had spent when `spendable` began to hold

    @property
    def spent(self) -> float:
        """Credits that are spent or reserved."""
        return float(self._spent)

    @property
    def needs_prices(self) -> bool:
        """Whether a bound in credits is set."""
        return self.max_credits is not None or self.spendable is not None

    def count(
        self, price: float | None, key: PriceKey | None = None, *, films: int = 1
    ) -> Reservation:
        """Count a film of an earlier run, or several; `follow` it if its cost is not known yet."""
        counted = Reservation(exact_decimal(price or 0.0), key, own=False)
        self._spent += counted.amount * films
        self.tasks += films
        return counted

    def share(self, spent: float, spendable: float) -> float:
        """Take *spendable* credits from the balance at most, together with others.

        Said again later, it can only make this less: the balance does not show yet what some films
        in flight will cost.

        Args:
            spent: credits that all together have spent or reserved until now.
            spendable: credits that may be taken from now on.

        Returns:
            What all together may have spent in the end.
        """
        now = exact_decimal(spent)
        if self._before is None:
            self._before = now
        limit = now - self._before + exact_decimal(spendable)
        if self.spendable is None or limit < exact_decimal(self.spendable):
            self.spendable = float(limit)
        return float(self._before + exact_decimal(self.spendable))

    def count_others(self, spent: float, tasks: int) -> None:
        """Count what others have reserved meanwhile, if they have.

        Args:
            spent: credits that all together have spent or reserved, by the journal's count.
            tasks: the same in films.
        """
        unknown = [film for film in self._open if film.own and not film.recorded]
        own = sum((film.amount for film in unknown), Decimal(0))
        self._spent += max(Decimal(0), exact_decimal(spent) - (self._spent - own))
        self.tasks += max(0, tasks - (self.tasks - len(unknown)))
        if self._before is not None:
            taken = exact_decimal(spent) - self._before
            self._taken += max(Decimal(0), taken - (self._taken - own))

    def follow(self, reservation: Reservation) -> None:
        """Expect its cost to become known; until then `reprice` changes it too."""
        self._open[reservation] = None

    def reserve(
        self, price: float | None, key: PriceKey | None = None, *, sent: bool = True
    ) -> Reservation:
        """Set *price* aside before the POST; `keep` or `release` decides what becomes of it.

        Args:
            price: credits, or None when the price is unknown.
            key: the work's `price_key`.
            sent: False if the request is sent later; it is then released and reserved again
                just before that.

        Raises:
            BudgetExceededError: it does not fit; nothing is set aside, nothing was spent.
        """
        if self.needs_prices and price is None:
            raise unpriced_error(key)
        amount = exact_decimal(price or 0.0)
        if self.max_credits is not None and self._spent + amount > exact_decimal(self.max_credits):
            raise BudgetExceededError(
                f"{in_credits(amount)} credits more would exceed max_credits: "
                f"{in_credits(self._spent)} of {in_credits(self.max_credits)} are spent or reserved"
            )
        if self.spendable is not None and self._taken + amount > exact_decimal(self.spendable):
            raise BudgetExceededError(
                f"{in_credits(amount)} credits more would go below min_balance"
            )
        if self.tasks_exhausted:
            raise BudgetExceededError(f"{self.tasks} of max_tasks {self.max_tasks} are used up")
        self.tasks += 1
        self.undecided += 1
        reserved = Reservation(Decimal(0), key, sent=sent)
        self._set(reserved, amount)
        self.follow(reserved)
        return reserved

    @property
    def may_shrink(self) -> bool:
        """Whether what is reserved now may still become less, so that waiting can help."""
        if self.undecided:
            return True
        return not self.tasks_exhausted and any(film.amount for film in self._open)

    @property
    def tasks_exhausted(self) -> bool:
        """Whether `max_tasks` allows no more films."""
        return self.max_tasks is not None and self.tasks + 1 > self.max_tasks

    def keep(self) -> None:
        """Decide that a film is paid, or may be: its reservation stays."""
        self.undecided -= 1

    def release(self, reservation: Reservation) -> None:
        """Give back the reservation of an attempt that created nothing."""
        self.settle(reservation, 0.0)
        self.tasks -= 1
        self.undecided -= 1

    def settle(self, reservation: Reservation, cost: float | None) -> None:
        """Replace the reservation by the cost; None: the cost will never be known."""
        self._open.pop(reservation, None)
        if cost is not None:
            self._set(reservation, exact_decimal(cost))

    def reprice(self, key: PriceKey, price: float) -> None:
        """Set at least *price* aside for each film of *key* in flight whose cost is unknown."""
        amount = exact_decimal(price)
        for film in self._open:
            if film.sent and film.price_key == key and film.amount < amount:
                self._set(film, amount)

    def _set(self, reservation: Reservation, amount: Decimal) -> None:
        change = amount - reservation.amount
        reservation.amount = amount
        self._spent += change
        if reservation.own:
            self._taken += change


class FilmBudget:
    """The reservations for the attempts of one film: each attempt that may have cost keeps one.

    Args:
        budget: what is reserved from.
        reserved: the first reservation.
        price: returns the film's price as far as it is known when it is called.

    Attributes:
        price_key: what the film is priced by.
        reservation: that of the current attempt.
    """

    def __init__(
        self, budget: Budget, reserved: Reservation, price: Callable[[], float | None]
    ) -> None:
        self._budget = budget
        self.price_key: PriceKey | None = reserved.price_key
        self._price = price
        self.reservation: Reservation | None = reserved

    def reserve(self) -> float | None:
        """Reserve for an attempt just before it is sent, at today's price, and return that price.

        The attempt may have waited for long, and prices may have been learned meanwhile.

        Raises:
            BudgetExceededError: it does not fit any more; nothing is set aside.
        """
        price = self._price()
        if self.reservation is not None:
            self._budget.release(self.reservation)
            self.reservation = None
        self.reservation = self._budget.reserve(price, self.price_key)
        return price

    def wait(self) -> None:
        """Note that an attempt created nothing and the next one waits: nothing is in flight."""
        if self.reservation is not None:
            self.reservation.sent = self.reservation.recorded = False

    def recorded(self) -> None:
        """Note that the journal counts the attempt from here on."""
        if self.reservation is not None:
            self.reservation.recorded = True

    def keep(self) -> None:
        """Leave an attempt its reservation although it is said to have created nothing."""
        if self.reservation is not None:
            self._budget.keep()
            self._budget.settle(self.reservation, None)
            self.reservation = None


def exact_decimal(credits: float) -> Decimal:  # noqa: A002 - it is what the service calls them
    """Return the number that was written, not its binary value."""
    return Decimal(repr(float(credits)))
