"""The money of one run: what films cost, what may be spent, and what is set aside for whom."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Self

from apikley_async import Client, Clock, Work
from apikley_async._budget import Budget, FilmBudget, Price, Prices, Reservation
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.run_options import BatchRunOptions
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.protocol import Store, all_items
from apikley_async.batch.store.values import Bounds, Item
from apikley_async.errors import ApikleyError, Blame, BudgetExceededError

__all__ = ["RunBudget", "known_prices"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

LOOK_INTERVAL, LOOK_FILMS = 300.0, 50  # seconds, or films, until the balance is looked at again


async def known_prices(store: Store, price: Price = None) -> Prices:
    """What films cost: the user's *price*, and what earlier films of the journal consumed."""
    prices = Prices(price)
    for kind, credits in (await store.spending()).prices.items():  # noqa: A001
        prices.learn(kind, credits)
    for cost in await store.attempt_costs():
        if cost.consumed and cost.kind is None:  # the store does not know whose price that is
            item = await store.item(cost.key)
            if item.credits:
                prices.learn(work_of(item).price_key, item.credits)
    return prices


class RunBudget:
    """What one run may spend, earlier runs of the journal included.

    Attributes:
        prices: what films cost.
        min_balance: credits that are left in the account; None for no such bound.
        waiting: films that wait until others turn out to cost less than was set aside for them.
    """

    def __init__(
        self, store: Store, options: BatchRunOptions, prices: Prices, budget: Budget
    ) -> None:
        self.prices = prices
        self.min_balance: float | None = None
        self.waiting: int = 0
        self._store = store
        self._options = options
        self._budget = budget
        self._in_flight: dict[str, Reservation] = {}  # by key: their cost is not known yet
        self._earlier: dict[str, Reservation] = {}  # the same of films that this run may resume
        self._changed = asyncio.Event()  # a reservation was kept or given back
        self._closed = False
        self._ceiling: float | None = None  # credits of all runs, since they share a balance
        self._unseen = 0  # films that were submitted since the balance was looked at
        self._many_unseen = asyncio.Event()

    @classmethod
    async def load(
        cls,
        store: Store,
        options: BatchRunOptions,
        *,
        price: Price,
        max_credits: float | None,
        max_tasks: int | None,
        min_balance: float | None = None,
    ) -> Self:
        """The budget of a run, after what earlier runs have used up."""
        prices = await known_prices(store, price)
        budget = Budget(max_credits=max_credits, max_tasks=max_tasks)
        self = cls(store, options, prices, budget)
        self.min_balance = min_balance
        for cost in await store.attempt_costs():
            known = cost.consumed if cost.consumed is not None else cost.reserved
            if cost.consumed is not None or max_credits is None:
                budget.count(known)
                continue
            work = work_of(await store.item(cost.key))
            # What was set aside in an earlier run may be less than such a film costs by now.
            amounts = (known or 0.0, prices.of(work) or 0.0)
            counted = budget.count(max(amounts), work.price_key)
            if not cost.uncertain:
                self._earlier.setdefault(cost.key, counted)
        return self

    @property
    def bounds(self) -> Bounds | None:
        """The bounds that all runs of the journal keep together."""
        given = (self._budget.max_credits, self._ceiling)
        credits = min((bound for bound in given if bound is not None), default=None)  # noqa: A001
        tasks = self._budget.max_tasks
        return None if credits is None and tasks is None else Bounds(credits, tasks)

    def follow(self, item: Item) -> None:
        """The run follows a film to its end, so that its actual cost will be known.

        Of a film that nobody follows here, it is not waited for.
        """
        if item.state in (ItemState.SUBMITTED, ItemState.STALLED):
            earlier = self._earlier.pop(item.key, None)
            if earlier is not None:
                self._budget.follow(earlier)
                self._in_flight[item.key] = earlier

    async def count_others(self) -> None:
        """Count what other runs have reserved, and learn what their films have cost."""
        spending = await self._store.spending()
        for kind, credits in spending.prices.items():  # noqa: A001
            self.prices.learn(kind, credits)
            self._budget.reprice(kind, credits)
        self._budget.count_others(spending.credits, spending.tasks)

    def limit_to(self, spendable: float | None) -> None:
        """Spend at most so many credits from now on; None for no such bound."""
        self._budget.spendable = spendable

    async def check_prices(self) -> None:
        """Refuse a bound in credits that cannot be kept, before anything is spent.

        Raises:
            BudgetExceededError: there is a bound, and films without a price.
        """
        if not self._budget.needs_prices:
            return
        store = self._store
        unpriced = [
            item
            async for item in all_items(store, ItemState.PLANNED)
            if not item.gone and self._options.includes(item.key)
        ]
        # A bound on all credits of the journal counts what was paid before, too.
        costs = await store.attempt_costs() if self._budget.max_credits is not None else ()
        unpriced += [
            await store.item(cost.key)
            for cost in costs
            if cost.consumed is None and cost.reserved is None
        ]
        works = map(work_of, unpriced)
        unknown = {str(work.price_key) for work in works if self.prices.of(work) is None}
        if unknown:
            raise BudgetExceededError(
                "A bound in credits needs a price for every film, and nobody knows it for: "
                f"{', '.join(sorted(unknown))}; say prices=, nothing was spent",
                resumable=False,
                blames=Blame.INPUT,
            )

    async def look_at_balance(self, client: Client) -> None:
        """Ask how much is in the account: so much may be spent that *min_balance* is left.

        Whoever else takes from it is seen that way. A later look only makes it less.
        """
        if self.min_balance is None:
            return
        self._unseen = 0
        self._many_unseen.clear()
        before = await self._store.spending()  # first: what is paid meanwhile counts twice
        left = await client.credits() - self.min_balance
        self._ceiling = self._budget.share(before.credits, left)
        self._changed.set()

    async def watch_balance(self, client: Client, clock: Clock) -> None:
        """Look at the balance again and again, after some time or some films, until cancelled."""
        while self.min_balance is not None:
            await clock.sleep(LOOK_INTERVAL, self._many_unseen)
            try:
                await self.look_at_balance(client)
            except ApikleyError as error:
                logger.info("the balance is not known now: %s", error.message)

    def close(self) -> None:
        """Reserve nothing more, and let those that wait for it go."""
        self._closed = True
        self._changed.set()

    async def reserve(self, work: Work) -> FilmBudget | None:
        """Set a film's price aside, or wait while another film may turn out to cost less.

        Returns:
            What is set aside for the film's attempts; None when the budget was closed.

        Raises:
            BudgetExceededError: the bound is used up, and nothing can be given back.
        """
        while not self._closed:
            try:
                price = functools.partial(self.prices.of, work)
                reservation = self._budget.reserve(price(), work.price_key, sent=False)
                return FilmBudget(self._budget, reservation, price)
            except BudgetExceededError:
                if not self._budget.may_shrink:
                    raise
            # A film in flight may turn out to cost less than was set aside for it.
            self._changed.clear()
            self.waiting += 1
            try:
                await self._changed.wait()
            finally:
                self.waiting -= 1
        return None

    def fits(self, work: Work) -> bool:
        """Whether a film still fits into the bounds; if so, its price is set aside."""
        try:
            self._budget.reserve(self.prices.of(work), work.price_key)
        except BudgetExceededError:
            return False
        return True

    def keep(self, key: str, film_budget: FilmBudget, *, cost_will_be_known: bool = True) -> None:
        """The film of *key* is paid, or may be: keep what is set aside for it."""
        if film_budget.reservation is not None:
            self._budget.keep()
            if not cost_will_be_known:
                self._budget.settle(film_budget.reservation, None)
            self._in_flight[key] = film_budget.reservation
        self._unseen += 1
        if self._unseen >= LOOK_FILMS:
            self._many_unseen.set()
        self._changed.set()

    def rename(self, known: str, key: str) -> None:
        """A film has another key by now; what is set aside for it is kept."""
        if (reserved := self._in_flight.pop(known, None)) is not None:
            self._in_flight[key] = reserved

    def release(self, film_budget: FilmBudget) -> None:
        """Nothing was created: give back what was set aside."""
        if film_budget.reservation is not None:
            self._budget.release(film_budget.reservation)
        self._changed.set()

    def settle(self, item: Item, *, ended: bool) -> None:
        """Replace what was set aside for an item by what it has cost, once that is known.

        A film that was dearer than its price makes its kind dearer, for films in flight too. When
        the run has *ended* for the item, and its cost is not known, the reservation stays.
        """
        known = item.state in (ItemState.SUCCESS, ItemState.FAILED)
        if not known and not ended:
            return
        reserved = self._in_flight.pop(item.key, None)
        if reserved is None:
            return
        self._budget.settle(reserved, item.credits if known else None)
        if known and item.credits and (kind := reserved.price_key) is not None:
            self.prices.learn(kind, item.credits)
            self._budget.reprice(kind, item.credits)
        self._changed.set()
