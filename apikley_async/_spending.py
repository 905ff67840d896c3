"""The bounds of one client: what its films may cost, reserved before each POST.

The sums are those of `_budget`; here is who waits for them, and which film they belong to. A
client without bounds counts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import attrs

from apikley_async._budget import Budget, Price, Prices, Reservation
from apikley_async._recorder import Attempt, Recorder, Verdict
from apikley_async._result import Snapshot
from apikley_async._storyboard import Work
from apikley_async._tasks import Binding
from apikley_async._wire.requests import Request
from apikley_async.errors import BudgetExceededError

__all__ = ["Expense", "Spending"]

logger = logging.getLogger("apikley_async")


@attrs.define(eq=False)
class Expense:
    """What is set aside for one film, and how far that has come.

    Attributes:
        work: the film.
        followed: whether a task waits for the film, so that its cost will be known.
        sending: whether its request is out, or being written down.
        kept: whether the film is paid, or may be.
        left: whether no task waits for the submission any more.
        price: credits that were set aside at first.
        spent: whether an attempt keeps what was set aside, so that the next needs more.
    """

    reservation: Reservation
    work: Work
    followed: bool
    price: float = 0.0
    loop: asyncio.AbstractEventLoop = attrs.Factory(asyncio.get_running_loop)
    sending: bool = False
    spent: bool = False
    kept: bool = False
    left: bool = False

    @property
    def kind(self) -> int | str:
        """What the film is priced by."""
        return self.work.price_key

    @property
    def may_be_less(self) -> bool:
        """Whether waiting may show that it costs less than is set aside."""
        return not self.kept or (self.followed and self.reservation.amount > 0)


class Spending:
    """The bounds of one client, and what its films have cost.

    Args:
        prices: what films cost, as for a batch.
        max_credits: of all films of this client, accepted or uncertain.
        max_tasks: films of this client, accepted or uncertain.

    Raises:
        TypeError, ValueError: not a bound, or a bound in credits without any price.
    """

    def __init__(
        self, prices: Price = None, *, max_credits: float | None, max_tasks: int | None
    ) -> None:
        _check_bound("max_credits", max_credits)
        _check_bound("max_tasks", max_tasks, whole=True)
        if max_credits is not None and prices is None:
            raise ValueError("max_credits: needs prices=, since nobody publishes what films cost")
        self.bounded: bool = max_credits is not None or max_tasks is not None
        self._prices = Prices(prices)
        self._budget = Budget(max_credits=max_credits, max_tasks=max_tasks)
        self._open: dict[Expense, None] = {}  # whose cost is not known yet
        self._tasks: dict[str, Expense] = {}
        self._tokens: dict[str, Expense] = {}  # of what is uncertain
        self._waiting: dict[asyncio.Event, None] = {}
        self._binding = Binding("a bound on what a client spends")

    @contextlib.asynccontextmanager
    async def expense(self, work: Work, *, follow: bool) -> AsyncIterator[Expense | None]:
        """Set the price of *work* aside, before anything is sent; None where nothing is bounded.

        What became of it is noted by a `recorder`. Of what was not bought all comes back at the
        end. While a film that is out may still turn out to cost less, it waits.

        Args:
            work: the film.
            follow: whether the block follows the film to its end.

        Raises:
            BudgetExceededError: it does not fit; nothing was sent.
        """
        if not self.bounded:
            yield None
            return
        expense = await self._reserve(work, follow=follow)
        try:
            yield expense
        finally:
            expense.followed, expense.left = False, True
            if not expense.kept and not expense.sending:
                self._release(expense)
            self._wake()

    def recorder(self, recorder: Recorder, expense: Expense | None) -> Recorder:
        """Wrap *recorder*, so that what becomes of each attempt is noted here too."""
        return recorder if expense is None else _Noted(recorder, self, expense)

    def note(self, expense: Expense, attempt: Attempt | None) -> None:
        """An attempt has ended; None: it was not even begun."""
        expense.sending = False
        verdict = attempt.verdict if attempt else Verdict.UNSENT
        expense.reservation.sent = verdict in (Verdict.ACCEPTED, Verdict.UNCERTAIN)
        if attempt and verdict in (Verdict.ACCEPTED, Verdict.UNCERTAIN):
            self._keep(expense)
            if attempt.task_id is not None:
                self._tasks[attempt.task_id] = expense
            else:
                self._tokens[attempt.token] = expense
        elif attempt and verdict is Verdict.NOT_CREATED:
            self._budget.keep()
            self._budget.settle(expense.reservation, None)
            self._open.pop(expense, None)
            expense.spent = True
        elif expense.left:
            self._release(expense)
        self._wake()

    def reserve_again(self, expense: Expense) -> None:
        """Just before an attempt is sent, set aside what the film costs as far as is known now.

        Raises:
            BudgetExceededError: it does not fit any more; nothing is reserved.
        """
        price = self._prices.of(expense.work)
        if not expense.spent:
            self._release(expense)
        expense.reservation = self._budget.reserve(price, expense.kind)
        expense.spent = False
        self._open[expense] = None

    def found(self, token: str, task_id: str) -> None:
        """A callback has said which task an uncertain attempt became."""
        if (expense := self._tokens.pop(token, None)) is not None:
            self._tasks[task_id] = expense

    def bought_besides(self, known: str | None, task_id: str) -> None:
        """A second task was paid for the attempt that became the task *known*: it counts too."""
        expense = self._tasks.get(known or "")
        if expense is None or task_id in self._tasks:
            return
        counted = self._budget.count(expense.price, expense.kind)
        second = Expense(counted, expense.work, followed=False, price=expense.price, kept=True)
        self._budget.follow(counted)
        self._open[second] = None
        self._tasks[task_id] = second

    def ended(self, snapshot: Snapshot) -> None:
        """A film has ended: its cost replaces its reservation, if known.

        A film that was dearer than its price makes its kind dearer, for what is in flight too.
        """
        expense = self._tasks.get(snapshot.task_id)
        if expense is None or expense not in self._open:
            return
        del self._open[expense]
        self._budget.settle(expense.reservation, snapshot.credits)
        if snapshot.credits:
            self._prices.learn(expense.kind, snapshot.credits)
            self._budget.reprice(expense.kind, snapshot.credits)
        self._wake()

    # --- reserving ------------------------------------------------------------------------------

    async def _reserve(self, work: Work, *, follow: bool) -> Expense:
        self._bind()
        said = False
        while True:
            try:
                price = self._prices.of(work)
                reserved = self._budget.reserve(price, work.price_key, sent=False)
            except BudgetExceededError as error:
                if not self._may_shrink(follow):
                    raise
                if not said:
                    said = True
                    logger.info("a film waits for others to end: %s", error.message)
            else:
                expense = Expense(reserved, work, follow, float(reserved.amount))
                self._open[expense] = None
                return expense
            moved = asyncio.Event()
            self._waiting[moved] = None
            try:
                await moved.wait()
            finally:
                self._waiting.pop(moved, None)

    def _may_shrink(self, follow: bool) -> bool:
        """Whether waiting may free a reservation; without following a film, only requests may."""
        if self._budget.undecided:
            return True
        if not follow or self._budget.tasks_exhausted:
            return False
        return any(expense.may_be_less for expense in self._open)

    def _keep(self, expense: Expense) -> None:
        if not expense.kept:
            expense.kept = True
            self._budget.keep()

    def _release(self, expense: Expense) -> None:
        if expense in self._open:  # else it came back when its loop was found closed
            del self._open[expense]
            self._budget.release(expense.reservation)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # those that waited in a loop that is closed
            for moved in self._waiting:
                moved.set()

    def _bind(self) -> None:
        """Settle what a closed loop has left: what may be out is kept, the rest comes back."""
        if not self._binding.bind(in_use=bool(self._waiting)):
            return
        self._waiting.clear()
        for expense in [each for each in self._open if each.loop.is_closed()]:
            expense.followed, expense.left = False, True
            if not expense.kept:
                (self._keep if expense.sending else self._release)(expense)


@attrs.frozen
class _Noted:
    """A recorder that also notes what becomes of an expense."""

    recorder: Recorder
    spending: Spending
    expense: Expense

    async def intend(self, token: str, request: Request) -> timedelta | None:
        self.spending.reserve_again(self.expense)
        self.expense.sending = True
        begun = False
        try:
            holds = await self.recorder.intend(token, request)
            begun = True
            return holds
        finally:
            if not begun:
                self.spending.note(self.expense, None)

    async def settle(self, outcome: Attempt) -> None:
        self.spending.note(self.expense, outcome)
        await self.recorder.settle(outcome)


def _check_bound(name: str, bound: object, *, whole: bool = False) -> None:
    if bound is None:
        return
    kinds = int if whole else int | float
    if isinstance(bound, bool) or not isinstance(bound, kinds):
        kind = "a whole number" if whole else "a number"
        raise TypeError(f"{name}: {kind}, not {bound!r:.40}")
    if not 0 <= bound < float("inf"):
        raise ValueError(f"{name}: 0 or more, and finite, not {bound!r:.40}")
