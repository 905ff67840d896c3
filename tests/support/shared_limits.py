"""Processes that share one state in memory, in virtual time: `SharedState` without a database."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable

from apikley_async._rate import UNSENT, ending_of
from apikley_async._tasks import FairLock
from apikley_async.distributed.shared_state import (
    Ended,
    Granted,
    Holder,
    Outcome,
    SharedState,
    Work,
)
from apikley_async.errors import UnreachableError

__all__ = ["MemoryLimiter", "MemoryStore"]

SMALLEST = 0.001  # seconds between two questions


class MemoryStore:
    """What a database would keep, as the JSON it would keep.

    Attributes:
        ahead: by how many seconds its clock is ahead of the loop's.
        exchanges: how often it was asked.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._stored = "{}"
        self._rng = rng or random.Random(1)
        self.ahead = 1_700_000_000.0
        self.exchanges = 0
        self.news = asyncio.Event()

    @property
    def state(self) -> SharedState:
        """The state as it is stored."""
        now = asyncio.get_running_loop().time() + self.ahead
        return SharedState(json.loads(self._stored), Holder(1, 0.0), rng=self._rng, now=now)

    def exchange(self, work: Work) -> Outcome:
        """Do *work*, as `SharedStore.exchange` does."""
        self.exchanges += 1
        now = asyncio.get_running_loop().time() + self.ahead
        state = SharedState(json.loads(self._stored), work.settings, rng=self._rng, now=now)
        outcome = state.do(work)
        if outcome.changed:
            self._stored = json.dumps(state.to_dict(), allow_nan=False)
            if outcome.news:
                self.news.set()
                self.news = asyncio.Event()
        return outcome


class MemoryLimiter:
    """One process's limiter: the first of its waiters asks for all of them.

    A process that was killed says nothing any more; what it has sent goes on.
    """

    numbers = itertools.count(1)

    def __init__(
        self,
        store: MemoryStore,
        limit: int = 20,
        per: float = 10.0,
        max_running: int | None = None,
        lease: float = 60.0,
        distance: float = 0.0,
    ) -> None:
        self.limit = limit
        self._distance = distance  # seconds that its questions take to get there
        self.settings = Holder(limit, per, max_running)
        self.lease = lease
        self.killed = False
        self.name = f"p{next(self.numbers)}"
        self.takes: int | None = None
        self._store = store
        self._uses: dict[str, Granted] = {}
        self._batches = itertools.count(1)
        self._queues = (FairLock(), FairLock())
        self._waiting: tuple[dict[str, None], dict[str, None]] = ({}, {})

    def slot(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._use(film=False)

    def running_slot(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._use(film=True)

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """The store remembers."""

    def exchange(
        self,
        ends: tuple[Ended, ...] = (),
        permits: tuple[str, ...] = (),
        films: tuple[str, ...] = (),
        batch: int | None = None,
        *,
        leaves: bool = False,
    ) -> Outcome:
        """One step; a number of its own unless it is the repetition of another one."""
        outcome = self._store.exchange(
            Work(
                holder=self.name,
                settings=self.settings,
                lease=self.lease,
                batch=batch or next(self._batches),
                ends=ends,
                permits=permits,
                films=films,
                active=bool(self._uses),
                leaves=leaves,
            )
        )
        self.takes = outcome.takes if outcome.takes < self.limit else None
        return outcome

    def leave(self) -> None:
        """Come to an end that others know of."""
        self.exchange(leaves=True)

    @contextlib.asynccontextmanager
    async def _use(self, *, film: bool) -> AsyncIterator[None]:
        use = f"{self.name}-{next(self._batches)}"
        granted = await self._take(use, film=film)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._uses.pop(use, None)
            if not self.killed:
                self.exchange(ends=(Ended(use, ending_of(error), 0.0, granted),))

    async def _take(self, use: str, *, film: bool) -> Granted:
        self._waiting[film][use] = None
        try:
            async with self._queues[film]:
                return await self._ask(use, film=film)
        except BaseException:
            self._waiting[film].pop(use, None)
            granted = self._uses.pop(use, None)
            if granted is not None and not self.killed:
                self.exchange(ends=(Ended(use, UNSENT, 0.0, granted),))
            raise

    async def _ask(self, use: str, *, film: bool) -> Granted:
        while use not in self._uses:
            if self.killed:
                raise UnreachableError("its process has died")
            if self._distance:
                await asyncio.sleep(self._distance)
            news = self._store.news
            waiting = tuple(itertools.islice(self._waiting[film], self.limit))
            outcome = self.exchange(**{"films" if film else "permits": waiting})
            for each, granted in outcome.granted.items():
                if self._waiting[film].pop(each, self) is None:
                    self._uses[each] = granted
                else:  # it was cancelled meanwhile
                    self.exchange(ends=(Ended(each, UNSENT, 0.0, granted),))
            if use in self._uses:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(outcome.delay, 5.0), SMALLEST)):
                    await news.wait()
        return self._uses[use]

    async def beat(self, alive: Callable[[], bool]) -> None:
        """Say that the process is alive, for as long as it is."""
        while alive():
            await asyncio.sleep(self.lease / 4)
            if not self.killed and self._uses:
                self.exchange()
