"""`SharedLimiter`: one rate, one pause and one number of running films for many processes."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
import weakref
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from apikley_async._postgres import Dsn
from apikley_async._rate import LIMIT, PER, ending_of
from apikley_async.distributed.exchange_thread import ExchangeThread
from apikley_async.distributed.shared_state import Holder
from apikley_async.distributed.shared_store import SharedStore

__all__ = ["SharedLimiter"]

LEASE = 60.0  # as long as an attempt without an answer may still arrive
SHORTEST_LEASE = 0.2


class SharedLimiter:
    """A `Limiter` for all processes that use one API key: `Client(limiter=SharedLimiter(dsn))`.

    The processes share permits in a database of PostgreSQL. A permit is granted by the database's
    clock, held while the attempt is out, and free again *per* seconds after its end, so that no
    span of *per* seconds at the service holds more than *limit* attempts, whoever sends them. A 429
    to one is a pause for all, and what it teaches is known to all, as in a `RateLimiter`.

    - Of processes whose *limit* or *per* differ, the lower limit and the longer span hold for all,
      for as long as such a process is at work.
    - A process that gives no sign of life for *lease* seconds is believed to be dead: its permits
      are free *per* seconds later, its running slots at once.
    - While the database is away nothing new is sent; attempts that are out end as usual. The log
      has a warning when it goes and when it is back. A database that cannot be used, or that does
      not answer at all within five seconds at the beginning, is a `JournalError`.

    A thread and one connection of its own serve a process; they begin with the first use. It may be
    used in several event loops, also at once, and after a fork. `aclose`, or `async with`, ends the
    thread; a later use begins it anew. Make the tables with `apikley db init DSN` first.

    Args:
        dsn: `postgresql://user@host/database`.
        limit: attempts in any span of *per* seconds, at most, over all processes.
        per: the span, in seconds; 0 bounds only how many attempts are in flight.
        max_running: films at once over all processes; None: not bounded here. A film whose
            process has died is not counted any more, although the service may still make it.
        name: which limiter of the database; one for each API key. The key itself is never known
            here. Processes with different keys and one name share a limit, and are only slower.
        lease: seconds.
        rng: randomness for the length of pauses, handed in by tests.

    Raises:
        ValueError: an argument is out of range.
        JournalError: *dsn* is no DSN.
        MissingExtraError: the extra `postgres` is not installed.
    """

    def __init__(
        self,
        dsn: str | Dsn,
        limit: int = LIMIT,
        per: float = PER,
        *,
        max_running: int | None = None,
        name: str = "default",
        lease: float = LEASE,
        rng: random.Random | None = None,
    ) -> None:
        bounds = {"limit": limit, "max_running": 1 if max_running is None else max_running}
        for what, count in bounds.items():
            if isinstance(count, bool) or count != int(count) or count < 1:
                raise ValueError(f"{what}: a whole number, 1 or more, not {count!r}")
        if not 0 <= per < math.inf:
            raise ValueError(f"per: seconds, 0 or more, not {per!r}")
        if not SHORTEST_LEASE <= lease < math.inf:
            raise ValueError(f"lease: seconds, {SHORTEST_LEASE} or more, not {lease!r}")
        if not name:
            raise ValueError("name: it is empty")
        self.limit = limit
        self.per = per
        self.max_running = max_running
        self.name = name
        self._dsn = Dsn.parse(dsn)
        self._lease = lease
        self._rng = rng or random.Random()
        self._process = -1
        self._exchanges = self._of_this_process()

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Enter when an attempt may be sent: a permit is free and nobody has to pause."""
        return _Use(self._of_this_process(), film=False)

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Enter when one more film may run."""
        if self.max_running is None:
            return contextlib.nullcontext()
        return _Use(self._of_this_process(), film=True)

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """Do nothing: the database remembers the attempts of all processes."""

    @property
    def takes(self) -> int | None:
        """How many attempts in a span the service takes, as last known here; None for *limit*."""
        outcome = self._exchanges.outcome
        return outcome.takes if outcome is not None and outcome.takes < self.limit else None

    @property
    def running_free_in(self) -> float:
        """Seconds until one more film may run, where that only takes time; else, or unknown, 0."""
        known = self._exchanges.outcome
        passed = time.monotonic() - self._exchanges.answered_at
        return 0.0 if known is None else max(0.0, known.running_free_in - passed)

    async def aclose(self) -> None:
        """Give back what has ended, and close the connection."""
        await self._of_this_process().aclose()

    async def __aenter__(self) -> Self:
        await self._of_this_process().arrive()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _of_this_process(self) -> ExchangeThread:
        """What serves this process: a fork has no threads, and the connection is its parent's."""
        if self._process != os.getpid():
            settings = Holder(self.limit, self.per, self.max_running)
            store = SharedStore(self._dsn, self.name, self._rng)
            self._process, self._exchanges = (
                os.getpid(),
                ExchangeThread(store, settings, self._lease),
            )
            weakref.finalize(self, self._exchanges.stop).atexit = False
        return self._exchanges

    def __repr__(self) -> str:
        takes = self.takes
        learned = "" if takes is None else f", the service takes {takes} per {self.per:g} s"
        used = f"{self._exchanges.in_use} in use here{learned}"
        return f"<SharedLimiter {self.name!r} of {self._dsn}, {used}>"


class _Use(AbstractAsyncContextManager[None]):
    """One use of a permit or a running slot."""

    __slots__ = ("_exchanges", "_film", "_use")

    def __init__(self, exchanges: ExchangeThread, *, film: bool) -> None:
        self._exchanges = exchanges
        self._film = film

    async def __aenter__(self) -> None:
        self._use = await self._exchanges.take(film=self._film)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exchanges.give_back(self._use, ending_of(error))
