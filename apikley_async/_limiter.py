"""Pacing: how many attempts in a span, how many films at once, and the pause after a 429.

`Gate` is pure and is given the time; `RateLimiter` is the thin shell that sleeps. Neither makes
a request. Why it is exact: the service counts an attempt no later than its answer, and a slot
is used again no earlier than *per* seconds after that answer, so no span of *per* seconds at
the service ever holds more than *limit* attempts, whatever the latencies and whichever window.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from heapq import heappop, heappush, heappushpop
from typing import Protocol, runtime_checkable

import attrs

from apikley_async._binding import Binding
from apikley_async._clock import Clock, SystemClock
from apikley_async._retry import Backoff, exactly
from apikley_async.errors import (
    ApiError,
    RateLimitError,
    SubmissionUncertainError,
    UnreachableError,
)

__all__ = ["Gate", "Limiter", "RateLimiter", "Slots"]

SLACK = 0.01  # two clocks run at slightly different rates; 10 ms in 10 s is ten times the usual
UNCERTAIN_REST = 60.0  # an unanswered attempt may still arrive
UNCERTAIN_FILM = 1800.0  # ... and its film may be running
LONGEST_SLEEP = 60.0  # never a timer for ever
PAUSES = Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=exactly)


@runtime_checkable
class Limiter(Protocol):
    """What the client asks of a limiter; `RateLimiter` is the one for a single process.

    The exception that passes through a slot says what became of the attempt. It must be let
    through.
    """

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Surrounds each attempt: enters when it may leave.

        `RateLimitError`: the service wants a pause of everyone, `retry_after` seconds at least.
        `UnreachableError`: the attempt never began, so the slot is free again at once.
        `SubmissionUncertainError`: the attempt may still arrive.
        """
        ...

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Surrounds each running film, from before its POST to its end.

        `SubmissionUncertainError`: a film may be running.
        """
        ...

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """Count attempts of an earlier process: a restart is no new window.

        Args:
            attempts: for each, how many seconds ago it ended, and whether it is uncertain.
        """
        ...


@attrs.frozen
class Gate:
    """When the next attempt may leave, and how many at once. Knows no clock and never sleeps.

    After a pause one attempt goes first; every success lets one more go at the same time, until
    the gate is as wide as before. It is a time and a number, never a lock that somebody holds.
    """

    opens_at: float = -math.inf
    strikes: int = 0
    width: float = math.inf

    def wait(self, now: float, out: int = 0) -> float:
        """Seconds until an attempt may leave while *out* are on their way; inf: until one ends."""
        if now < self.opens_at:
            return self.opens_at - now
        return 0.0 if out < self.width else math.inf

    def refused(self, sent_at: float) -> Gate:
        """Count a 429, given when the latest attempt left.

        As long as none has left since the gate opened, it belongs to the pause before: many
        refusals of one burst count once.
        """
        return Gate(self.opens_at, self.strikes + (sent_at >= self.opens_at), width=1)

    def closed_for(self, pause: float, now: float) -> Gate:
        """Close for *pause* seconds from *now*; never open earlier than before."""
        return attrs.evolve(self, opens_at=max(self.opens_at, now + pause))

    def passed(self, sent_at: float, full: int) -> Gate:
        """An attempt got an answer: let one more go beside it, in the end all of them.

        One that had left before the gate closed says nothing of the time after.
        """
        if self.strikes == 0 or sent_at < self.opens_at:
            return self
        wider = self.width + 1
        return Gate() if wider >= full else attrs.evolve(self, width=wider)


class Slots:
    """*count* slots, each resting a while after its use; `take` waits for one, in line.

    What rests goes on resting from one event loop to the next, and what was in use in a loop that
    was closed rests from then on. A cancelled waiter held nothing but its turn in the line. Two
    loops at once are a `RuntimeError`: nobody in the one is woken from the other.
    """

    def __init__(
        self,
        count: int,
        *,
        rest: float,
        uncertain_rest: float,
        clock: Clock,
        what: str = "this limiter",
    ) -> None:
        if count != int(count) or count < 1:
            raise ValueError(f"a number of slots: a whole one, 1 or more, not {count!r}")
        self.count = count
        self._rest = rest
        self._uncertain_rest = uncertain_rest
        self._clock = clock
        self._rested = [-math.inf] * count  # a heap: when each free slot may be used again
        self._uses: dict[object, asyncio.AbstractEventLoop] = {}
        self._binding = Binding(what)
        self._line = asyncio.Lock()
        self._moved = asyncio.Event()
        self._made_at = clock.now()

    @property
    def resting(self) -> float:
        """Seconds until any slot may be used, where all of them rest and none is in use; else 0."""
        wait = self._rested[0] - self._clock.now() if self._rested else 0.0
        return 0.0 if self._uses else max(0.0, wait)

    @property
    def in_use(self) -> int:
        return self.count - len(self._rested)

    @contextlib.asynccontextmanager
    async def take(self, gate: Callable[[float], float] | None = None) -> AsyncIterator[None]:
        """Enter when a slot has rested and *gate*, asked with the time, says no more seconds."""
        self._bind()
        async with self._line:
            # Only the first in the line looks at the slots, so nobody is overtaken and one
            # timer is enough. No await between the last look and the taking.
            while (wait := self._wait(gate)) > 0:
                self._moved.clear()
                await self._clock.sleep(min(wait, LONGEST_SLEEP), self._moved)
            heappop(self._rested)
            use = object()
            self._uses[use] = asyncio.get_running_loop()
        rest = self._rest
        try:
            yield
        except SubmissionUncertainError as error:
            rest = max(0.0, self._uncertain_rest - error.waited)
            raise
        except UnreachableError:  # nothing has left, so the service counts nothing
            rest = 0.0
            raise
        finally:
            if self._uses.pop(use, None):  # else its loop was closed, and it is back already
                heappush(self._rested, self._clock.now() + rest)
                self._moved.set()  # let the first in the line look again

    def occupy(self, uses: Iterable[tuple[float, bool]]) -> None:
        """Let free slots rest as if they had been used; the youngest uses count."""
        now = self._clock.now()
        ends = sorted(
            (now - ago + (self._uncertain_rest if uncertain else self._rest))
            for ago, uncertain in uses
        )
        free = len(self._rested)
        for end in ends[-free:] if free else []:
            heappushpop(self._rested, end)

    def remember(self, ages: Iterable[float]) -> None:
        """Let slots rest for uncertain uses of an earlier process, each so many seconds ago."""
        own = self._clock.now() - self._made_at  # of what was used since, a slot rests already
        self.occupy((ago, True) for ago in ages if ago >= own)

    def _wait(self, gate: Callable[[float], float] | None) -> float:
        now = self._clock.now()
        rested = self._rested[0] - now if self._rested else math.inf
        return max(rested, gate(now) if gate else 0.0)

    def _bind(self) -> None:
        if self._binding.bind(in_use=self._line.locked()):
            self._line, self._moved = asyncio.Lock(), asyncio.Event()
            for use in [use for use, loop in self._uses.items() if loop.is_closed()]:
                del self._uses[use]  # nobody gives it back any more
                heappush(self._rested, self._clock.now() + self._rest)


class RateLimiter:
    """*limit* slots; each rests *per* seconds after the attempt that used it ended.

    Share one between the clients of an event loop that use the same key; it may be used in several
    loops one after another, and refuses two at once (`RuntimeError`). The defaults are the
    upstream's published limits (20 creations per 10 seconds); Apikley's may differ, and a 429
    teaches what is missing.

    Args:
        limit: attempts in any span of *per* seconds.
        per: the span, in seconds; 0 bounds only how many attempts are out at once.
        max_running: films at once over all clients that share this limiter; None: not bounded
            here (each client has a `max_running` of its own).
        clock, rng: time and chance, handed in by tests.
    """

    def __init__(
        self,
        limit: int = 20,
        per: float = 10.0,
        *,
        max_running: int | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not 0 <= per < math.inf:
            raise ValueError(f"per: seconds, 0 or more, not {per!r}")
        self.limit = limit
        self.per = per
        self.max_running = max_running
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._gate = Gate()
        self._sent_at = -math.inf  # when the latest attempt left
        self._slots = Slots(
            limit,
            rest=per + SLACK if per else 0.0,
            uncertain_rest=max(per, UNCERTAIN_REST),
            clock=self._clock,
            what="this RateLimiter",
        )
        self._running = None if max_running is None else running_slots(max_running, self._clock)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Enter when an attempt may leave: a slot has rested and the gate is open."""
        async with self._slots.take(lambda now: self._gate.wait(now, self._slots.in_use)):
            sent_at = self._sent_at = self._clock.now()
            try:
                yield
            except RateLimitError as error:
                self._close(error.retry_after)
                raise
            except ApiError:
                self._pass(sent_at)  # refused, but not for its pace
                raise
            self._pass(sent_at)

    @contextlib.asynccontextmanager
    async def running_slot(self) -> AsyncIterator[None]:
        """Enter when one more film may run."""
        async with self._running.take() if self._running else contextlib.nullcontext():
            yield

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """Let the slots of an earlier process's attempts rest too: a restart is no new window.

        Args:
            attempts: for each, how many seconds ago it ended, and whether it is uncertain.
        """
        self._slots.occupy(attempts)

    def remember_running(self, ages: Iterable[float]) -> None:
        """Let slots of films rest, which an earlier process may have running, by their ages."""
        if self._running:
            self._running.remember(ages)

    @property
    def resting(self) -> float:
        """Seconds until one more film may run, where all slots rest; 0 where that is not known."""
        return self._running.resting if self._running else 0.0

    def _close(self, retry_after: float | None) -> None:
        """Close the gate for everyone: *retry_after* seconds, and longer at each new refusal."""
        gate = self._gate.refused(self._sent_at)
        pauses = itertools.islice(PAUSES.delays(self._rng), min(gate.strikes, 10))
        # Jitter only upwards: a pause the service asked for is never undercut.
        pause = max(retry_after or 0.0, *pauses) * self._rng.uniform(1.0, 1.1)
        self._gate = gate.closed_for(pause, self._clock.now())

    def _pass(self, sent_at: float) -> None:
        self._gate = self._gate.passed(sent_at, self.limit)

    def __repr__(self) -> str:
        shut = self._gate.opens_at - self._clock.now()
        closed = f", opens in {shut:.0f} s" if shut > 0 else ""
        return f"<RateLimiter {self._slots.in_use}/{self.limit} out{closed}>"


def running_slots(count: int, clock: Clock) -> Slots:
    """Slots for films: free at once after a film's end, 30 minutes after an uncertain start."""
    what = "a bound on running films"
    return Slots(count, rest=0.0, uncertain_rest=UNCERTAIN_FILM, clock=clock, what=what)
