"""A worker: makes the films of a shared journal until it is stopped, whatever goes away meanwhile.

What it may make, its claims decide; hints only wake it. It outlives the absence of the database and
of the service: a run that has ended is begun again after a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeAlias

from apikley_async import Client, Clock, Expected, SystemClock
from apikley_async._budget import Price
from apikley_async._postgres import Dsn
from apikley_async._tasks import CancelScope
from apikley_async.batch import GRACE, Batch, Destination, Item, MoreWork
from apikley_async.distributed.hints import Hints
from apikley_async.errors import ApikleyError, ClientClosedError, DownloadError

__all__ = ["Worker"]

RunOf: TypeAlias = Callable[[Batch, bool], AsyncGenerator[Item, None]]
"""Begins a run of a batch; the flag is `every_change`."""

logger: logging.Logger = logging.getLogger("apikley_async.distributed")

PAUSES = (5.0, 15.0, 60.0, 300.0)  # seconds before each new run after one that could not go on
LAST_HINT = 2.0  # seconds at most: whoever stops us may not wait for long
NO_HINT = 0.2  # the same, while the database is away
HINT_ENDINGS = 5  # times that procrastinate is asked to end, so many seconds apart
LASTING = 600.0  # seconds: a run that lasted so long begins the pauses anew


class Worker:
    """Makes films of a journal in PostgreSQL, beside any number of other workers.

    Each film is made by one worker at a time. When a worker dies, the others take over what it had
    60 seconds after it was heard of last, and send nothing twice: what it was just sending is
    uncertain. Give its client a `SharedLimiter`, so that all workers keep one rate.

    Args:
        journal: the DSN of the database; `apikley db init` has made its tables.
        client: makes the films.
        folder: where they are saved, as `<key>.mp4`; on several machines a folder that all of them
            see, or none of importance to the others.
        destination: where the films go instead of *folder*, such as an object store.
        max_running: films in the making at once, here.
        max_credits, max_tasks: bounds on what all workers spend together, earlier runs of the
            journal included.
        min_balance: leave at least so many credits in the account; needs a price.
        prices, retry, overwrite, expected: as for `Batch.run`.
        clock: time, handed in by tests.

    Attributes:
        stopped: why nothing is submitted now, in one sentence; None while all is well.

    Raises:
        JournalError: *journal* is no DSN.
        MissingExtraError: the extra `postgres` is not installed.
    """

    def __init__(
        self,
        journal: str | Dsn,
        client: Client,
        *,
        folder: str | os.PathLike[str] = "films",
        destination: Destination | None = None,
        max_running: int = 100,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        min_balance: float | None = None,
        prices: Price = None,
        retry: int = 0,
        overwrite: bool = False,
        expected: Expected = None,
        clock: Clock | None = None,
    ) -> None:
        self._dsn = Dsn.parse(journal)
        self._clock = clock or SystemClock()
        self._begin: Callable[[Batch, bool], AsyncGenerator[Item, None]] = (
            lambda batch, every_change: batch.run(
                client,
                folder=folder,
                destination=destination,
                max_running=max_running,
                max_credits=max_credits,
                max_tasks=max_tasks,
                min_balance=min_balance,
                prices=prices,
                retry=retry,
                overwrite=overwrite,
                expected=expected,
                every_change=every_change,
                more=self._more,
            )
        )
        self._opening: CancelScope | None = None
        self._batch: Batch | None = None
        self._more = MoreWork()
        self._stopping = asyncio.Event()
        self._grace: float | None = None
        self.stopped: str | None = None

    async def run(self) -> None:
        """Make films until `stop` is called; see `items`."""
        async for _ in self.items():
            pass

    async def items(self, *, every_change: bool = False) -> AsyncGenerator[Item, None]:
        """Make films until `stop` is called, and yield each when this worker is done with it.

        Args:
            every_change: yield every change of an item.

        Raises:
            JournalError: the database is not set up, refuses this user, or belongs to another
                account; not when it is only away.
            DownloadError: nothing can be written into the folder, or put into the destination.
            BudgetExceededError: a bound in credits without a price.
        """
        async with self._following_hints():
            failures = 0
            while not self._stopping.is_set():
                began = self._clock.now()
                async with contextlib.aclosing(self._one_run(every_change)) as items:
                    async for item in items:
                        yield item
                if self._clock.now() - began > LASTING:
                    failures = 0
                if not self._stopping.is_set():
                    pause = PAUSES[min(failures, len(PAUSES) - 1)]
                    failures += 1
                    logger.warning("the worker goes on in %.0f s: %s", pause, self.stopped)
                    await self._clock.sleep(pause, self._stopping)

    async def _one_run(self, every_change: bool) -> AsyncGenerator[Item, None]:
        """One run of the journal, which has an end only where it cannot go on for now."""
        self.stopped = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                with CancelScope() as self._opening:
                    opening = Batch.open(self._dsn, clock=self._clock)
                    batch = await stack.enter_async_context(opening)
                if self._stopping.is_set():  # while it was opened
                    return
                self._batch = batch
                if self._grace is not None:
                    batch.grace = self._grace
                async with contextlib.aclosing(self._begin(batch, every_change)) as items:
                    async for item in items:
                        yield item
                self.stopped = batch.stopped
        except (ClientClosedError, DownloadError):
            raise  # resumable too, but not by this worker
        except ApikleyError as error:
            if not error.resumable:
                raise
            self.stopped = str(error)
        finally:
            self._batch = None

    def stop(self) -> None:
        """Claim nothing more, wait for the answers of what is being sent, and give the rest back.

        Films in the making go on at the service; other workers poll and save them.
        """
        self._stopping.set()
        if self._opening is not None:
            self._opening.cancel()
        if self._batch is not None:
            self._batch.stop()

    @property
    def pending(self) -> int:
        """How many submissions are out, their answers awaited."""
        return 0 if self._batch is None else self._batch.pending

    @property
    def grace(self) -> float:
        """Seconds for the answers of submissions that are out when the worker is stopped."""
        return GRACE if self._grace is None else self._grace

    @grace.setter
    def grace(self, seconds: float) -> None:
        self._grace = seconds
        if self._batch is not None:
            self._batch.grace = seconds

    # --- hints -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _following_hints(self) -> AsyncIterator[None]:
        """Be woken by hints meanwhile, and hand out one at the end: something may be left."""
        hints = Hints(self._dsn, self._clock, heed=self._heed, waiting=self._waiting)
        following = asyncio.create_task(hints.follow(), name="apikley hints")
        try:
            yield
        finally:
            # While the database is away, procrastinate waits for it for half a minute at each step.
            there = await hints.reachable()
            for _ in range(HINT_ENDINGS):
                following.cancel()
                await asyncio.wait({following}, timeout=LAST_HINT if there else NO_HINT)
                if following.done():
                    break
            if there:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST_HINT):
                        await hints.wake(1)

    async def _heed(self) -> None:
        """Look for work, once there is nothing else to do: until then the hint is kept."""
        await self._more.wanted()
        self._more.wake()

    async def _waiting(self) -> int:
        """How many films want a worker."""
        return 0 if self._batch is None else await self._batch.store.claimable()
