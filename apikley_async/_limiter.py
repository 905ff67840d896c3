"""The rate limiter and its defaults: attempts in a span, films at once, the pause after a 429.

`Rate` and its `Gate` are pure and are given the time; `RateLimiter` is the thin shell that
sleeps. None makes a request. Why the rate is exact: the service counts an attempt no later than
its answer, and a slot is used again no earlier than *per* seconds after that answer. So no span of
*per* seconds at the service holds more than *limit* attempts, whatever the latencies and whichever
window. The same holds of what passes where the gate has learned a smaller width: no more slots
than that are in use or delayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import NoneType, TracebackType
from typing import Protocol, runtime_checkable

from apikley_async._clock import Clock, SystemClock
from apikley_async._gate import Gate
from apikley_async._rate import (
    LIMIT,
    OTHER,
    PER,
    UNCERTAIN_FILM_DELAY,
    Ending,
    Rate,
    SlotTimes,
    ending_of,
)
from apikley_async._tasks import Binding, FairLock
from apikley_async._validation import check_count, check_kind

__all__ = ["Gate", "Guarded", "Limiter", "RateLimiter", "Slots"]

logger = logging.getLogger("apikley_async")

MAX_SLEEP = 60.0  # no timer is ever set for longer


@runtime_checkable
class Limiter(Protocol):
    """What the client needs of a rate limiter; `RateLimiter` is the one for a single process.

    The exception that passes through a slot says what became of the attempt. A limiter must let
    it through. What it raises itself when a slot ends is logged only.
    """

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Surround one attempt: enter when it may be sent.

        `RateLimitError`: the service wants everyone to pause, `retry_after` seconds at least.
        `UnreachableError`: nothing was sent, so the slot is free again at once.
        `SubmissionUncertainError`: the attempt may still arrive.
        """
        ...

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Surround one running film, from before its POST to its end.

        `SubmissionUncertainError`: a film may be running.
        """
        ...

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """Count attempts of an earlier process: a restart does not reset the rate.

        Args:
            attempts: for each, how many seconds ago it ended, and whether it is uncertain.
        """
        ...


class Guarded:
    """A slot of any limiter: if it cannot be given back that is logged, and changes no outcome.

    A film may be paid by then, and the limiter may be a user's own. What has passed through the
    slot passes on. A class, not a generator: each attempt and each film is in one.
    """

    __slots__ = ("_slot",)

    def __init__(self, slot: AbstractAsyncContextManager[None]) -> None:
        self._slot = slot

    async def __aenter__(self) -> None:
        await self._slot.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._slot.__aexit__(kind, error, traceback)
        except Exception as raised:
            if raised is not error:
                logger.exception("a slot of the limiter could not be given back")


class Slots:
    """Slots, each free again a delay after its use; `slot` waits for one, in order.

    Delays go on from one event loop to the next, and a slot that was in use in a loop that was
    closed is delayed from then on. A cancelled waiter held nothing but its place in the queue.
    Two loops at once are a `RuntimeError`: a waiter in one is never woken from the other.

    Args:
        times: how many there are, and when each is free.
        clock: the time.
        owner: what the slots belong to, for the message of a `RuntimeError`.
    """

    def __init__(self, times: SlotTimes, *, clock: Clock, owner: str) -> None:
        self.times: SlotTimes = times
        self._clock = clock
        self._uses: dict[object, asyncio.AbstractEventLoop] = {}
        self._binding = Binding(owner)
        self._queue = FairLock()
        self._changed = asyncio.Event()
        self._created_at = clock.now()

    @property
    def count(self) -> int:
        """How many there are."""
        return self.times.count

    @property
    def in_use(self) -> int:
        """How many are in use."""
        return self.times.in_use

    @property
    def free_in(self) -> float:
        """Seconds until a slot is free, where all are delayed and none is in use; else 0."""
        free_at = self.times.free_at
        delay = free_at[0] - self._clock.now() if free_at else 0.0
        return 0.0 if self._uses else max(0.0, delay)

    def slot(
        self, gate: Callable[[float], float] | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Enter when a slot is free and *gate*, called with the time, returns no more seconds."""
        return _Use(self, gate)

    async def take(self, use: object, gate: Callable[[float], float] | None) -> float:
        """Wait for a slot, and let *use* have it; see `slot`. Returns the time when it has it."""
        self._bind()
        now = self._clock.now()
        if not self._queue.locked() and self._delay(now, gate) <= 0:
            self._let(use)
            return now
        async with self._queue:
            # Only the first in the queue checks the slots, so nobody is overtaken and one timer
            # is enough. No await between the last check and the taking.
            while (delay := self._delay(now := self._clock.now(), gate)) > 0:
                self._changed.clear()
                await self._clock.sleep(min(delay, MAX_SLEEP), self._changed)
            self._let(use)
            return now

    def _let(self, use: object) -> None:
        self.times.take()
        self._uses[use] = self._binding.loop

    def give_back(self, use: object, ending: Ending) -> None:
        """End *use*: its slot is free again after a delay."""
        if self._uses.pop(use, None):  # else its loop was closed, and `_bind` gave it back
            self.times.give_back(ending, self._clock.now())
            self._changed.set()  # the first in the queue checks again

    def check_again(self) -> None:
        """Let the first in the queue check again, after *times* have changed."""
        self._changed.set()

    def remember_uncertain(self, ages: Iterable[float]) -> None:
        """Delay slots for uncertain uses of an earlier process, each so many seconds ago."""
        now = self._clock.now()
        own = now - self._created_at  # later uses were this process's own
        self.times.occupy(((ago, True) for ago in ages if ago >= own), now)

    def _delay(self, now: float, gate: Callable[[float], float] | None) -> float:
        delay = self.times.free_in(now)
        return max(delay, gate(now) if gate else 0.0)

    def _bind(self) -> None:
        if self._binding.bind(in_use=self._queue.locked()):
            self._queue, self._changed = FairLock(), asyncio.Event()
            for use in [use for use, loop in self._uses.items() if loop.is_closed()]:
                del self._uses[use]  # nothing else gives it back any more
                self.times.give_back(OTHER, self._clock.now())


class _Use:
    """One use of a slot. A class, not a generator: each attempt, poll and film is in some."""

    __slots__ = ("_gate", "_slots")

    def __init__(self, slots: Slots, gate: Callable[[float], float] | None) -> None:
        self._slots = slots
        self._gate = gate

    async def __aenter__(self) -> None:
        await self._slots.take(self, self._gate)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._slots.give_back(self, ending_of(error))


class RateLimiter:
    """*limit* slots; each is free again *per* seconds after the attempt that used it ended.

    Share one between the clients of an event loop that use the same key; it may be used in several
    loops one after another, and refuses two at once (`RuntimeError`). The defaults are the
    upstream's published limits (20 creations per 10 seconds). Apikley's may be lower, and others
    may use the same key: after a 429 the limiter pauses, and learns how many attempts in a span
    the service takes (`takes`). It tries more after 40 submissions at least, and never exceeds
    *limit*.

    Args:
        limit: attempts in any span of *per* seconds, at most.
        per: the span, in seconds; 0 bounds only how many attempts are in flight.
        max_running: films at once over all clients that share this limiter; None: not bounded
            here (each client has a `max_running` of its own).
        clock, rng: time and randomness, handed in by tests.

    Raises:
        ValueError: *limit* or *max_running* is not a whole number from 1 on, or *per* is negative.
    """

    def __init__(
        self,
        limit: int = LIMIT,
        per: float = PER,
        *,
        max_running: int | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_count("limit", limit)
        check_kind("per", per, (int, float), "seconds, 0 or more")
        if max_running is not None:
            check_count("max_running", max_running)
        check_kind("clock", clock, (Clock, NoneType), "a Clock")
        check_kind("rng", rng, (random.Random, NoneType), "a random.Random")
        if not 0 <= per < math.inf:
            raise ValueError(f"per: seconds, 0 or more, not {per!r}")
        self.limit = limit
        self.per = per
        self.max_running = max_running
        self._clock = clock or SystemClock()
        self._rate = Rate(limit, per, rng or random.Random())
        self._slots = Slots(self._rate.slots, clock=self._clock, owner="this RateLimiter")
        self._running = None if max_running is None else running_slots(max_running, self._clock)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Enter when an attempt may be sent: a slot is free and the gate is open."""
        return _Attempt(self)

    async def take(self, attempt: _Attempt) -> None:
        """Wait until *attempt* may be sent; see `slot`."""
        rate = self._rate
        attempt.sent_at = await self._slots.take(
            attempt, lambda now: rate.gate.delay(now, rate.slots.in_use)
        )
        attempt.filled = rate.fills(attempt.sent_at)

    def give_back(self, attempt: _Attempt, error: BaseException | None) -> None:
        """Learn from the end of *attempt*, and give its slot back."""
        ending, now = ending_of(error), self._clock.now()
        try:
            if self._rate.learn(ending, attempt.sent_at, attempt.filled, now):
                self._slots.check_again()
        finally:
            self._slots.give_back(attempt, ending)

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Enter when one more film may run."""
        return self._running.slot() if self._running else contextlib.nullcontext()

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """Count attempts of an earlier process: a restart does not reset the rate.

        Args:
            attempts: for each, how many seconds ago it ended, and whether it is uncertain.
        """
        self._rate.remember(attempts, self._clock.now())

    def remember_running(self, ages: Iterable[float]) -> None:
        """Count films that an earlier process may have running.

        Args:
            ages: for each uncertain attempt, how many seconds ago it ended.
        """
        if self._running:
            self._running.remember_uncertain(ages)

    def assume(self, takes: int) -> None:
        """Begin with *takes* attempts in a span, as an earlier process has learned.

        It is a hint: never more than *limit*, and corrected by what the service does.
        """
        if self._rate.set_gate(self._rate.gate.assuming(takes), self._clock.now()):
            self._slots.check_again()

    @property
    def takes(self) -> int | None:
        """How many attempts in a span the service takes, learned from 429s; None for *limit*."""
        width = self._rate.gate.width
        return width if width < self.limit else None

    @property
    def gate(self) -> Gate:
        """Until when the limiter pauses after a 429, and how much it sends then."""
        return self._rate.gate

    @property
    def in_flight(self) -> int:
        """Attempts that hold a slot now."""
        return self._rate.slots.in_use

    @property
    def idle_in(self) -> float:
        """Seconds until all slots that no attempt holds are free."""
        return self._rate.slots.idle_in(self._clock.now())

    @property
    def running_free_in(self) -> float:
        """Seconds until one more film may run, where that only takes time; else 0."""
        return self._running.free_in if self._running else 0.0

    def __repr__(self) -> str:
        pause = self.gate.opens_at - self._clock.now()
        closed = f", opens in {pause:.0f} s" if pause > 0 else ""
        learned = (
            "" if self.takes is None else f", the service takes {self.takes} per {self.per:g} s"
        )
        return f"<RateLimiter {self.in_flight}/{self.limit} in flight{closed}{learned}>"


class _Attempt:
    """One attempt in a slot of a `RateLimiter`: when it was sent, and whether it filled the width.

    A class, not a generator: each poll is one.
    """

    __slots__ = ("_limiter", "filled", "sent_at")

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self.sent_at: float = -math.inf
        self.filled: bool = False

    async def __aenter__(self) -> None:
        await self._limiter.take(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limiter.give_back(self, error)


def running_slots(count: int, clock: Clock) -> Slots:
    """Slots for films: free at once after a film's end, 30 minutes after an uncertain start."""
    times = SlotTimes(count, delay=0.0, uncertain_delay=UNCERTAIN_FILM_DELAY)
    return Slots(times, clock=clock, owner="a bound on running films")
