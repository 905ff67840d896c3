"""The rate limiter and its defaults: attempts in a span, films at once, the pause after a 429.

`Gate` is pure and is given the time; `RateLimiter` is the thin shell that sleeps. Neither makes
a request. Why the rate is exact: the service counts an attempt no later than its answer, and a
slot is used again no earlier than *per* seconds after that answer. So no span of *per* seconds
at the service holds more than *limit* attempts, whatever the latencies and whichever window. The
same holds of what passes where the gate has learned a smaller width: no more slots than that are
in use or delayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from heapq import heappop, heappush, heappushpop, nsmallest
from types import NoneType, TracebackType
from typing import Protocol, runtime_checkable

from apikley_async._clock import Clock, SystemClock
from apikley_async._gate import Gate
from apikley_async._polling import Backoff, exactly
from apikley_async._tasks import Binding, FairLock
from apikley_async._validation import check_kind
from apikley_async.errors import (
    ApiError,
    RateLimitError,
    SubmissionUncertainError,
    UnreachableError,
)

__all__ = ["Gate", "Limiter", "RateLimiter", "Slots"]

SLACK = 0.01  # two clocks run at slightly different rates; 10 ms in 10 s is ten times the usual
UNCERTAIN_DELAY = 60.0  # an unanswered attempt may still arrive
UNCERTAIN_FILM_DELAY = 1800.0  # ... and its film may be running
MAX_SLEEP = 60.0  # no timer is ever set for longer
PAUSE_BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=exactly)


@runtime_checkable
class Limiter(Protocol):
    """What the client needs of a rate limiter; `RateLimiter` is the one for a single process.

    The exception that passes through a slot says what became of the attempt. A limiter must let
    it through.
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


class Slots:
    """*count* slots, each free again a delay after its use; `slot` waits for one, in order.

    Delays go on from one event loop to the next, and a slot that was in use in a loop that was
    closed is delayed from then on. A cancelled waiter held nothing but its place in the queue.
    Two loops at once are a `RuntimeError`: a waiter in one is never woken from the other.

    Args:
        count: how many.
        delay: seconds from the end of a use until the slot is free.
        uncertain_delay: the same after a use that ended with a `SubmissionUncertainError`.
        clock: the time.
        owner: what the slots belong to, for the message of a `RuntimeError`.
    """

    def __init__(
        self,
        count: int,
        *,
        delay: float,
        uncertain_delay: float,
        clock: Clock,
        owner: str = "this limiter",
    ) -> None:
        if count != int(count) or count < 1:
            raise ValueError(f"a number of slots: a whole one, 1 or more, not {count!r}")
        self.count = count
        self.width: int = count  # how many of them may be in use or delayed
        self._delay = delay
        self._uncertain_delay = uncertain_delay
        self._clock = clock
        self._free_at = [-math.inf] * count  # a heap: when each slot that is not in use is free
        self._refused: list[float] = []  # another: of the slots whose attempts were refused
        self._uses: dict[object, asyncio.AbstractEventLoop] = {}
        self._binding = Binding(owner)
        self._queue = FairLock()
        self._changed = asyncio.Event()
        self._created_at = clock.now()

    @property
    def in_use(self) -> int:
        """How many are in use."""
        return self.count - len(self._free_at) - len(self._refused)

    @property
    def free_in(self) -> float:
        """Seconds until a slot is free, where all are delayed and none is in use; else 0."""
        delay = self._free_at[0] - self._clock.now() if self._free_at else 0.0
        return 0.0 if self._uses else max(0.0, delay)

    @property
    def idle_in(self) -> float:
        """Seconds until all slots that are not in use are free."""
        return max(0.0, max((*self._free_at, *self._refused), default=0.0) - self._clock.now())

    def slot(
        self, gate: Callable[[float], float] | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Enter when a slot is free and *gate*, called with the time, returns no more seconds."""
        return _Use(self, gate)

    async def take(self, use: object, gate: Callable[[float], float] | None) -> None:
        """Wait for a slot, and let *use* have it; see `slot`."""
        self._bind()
        async with self._queue:
            # Only the first in the queue checks the slots, so nobody is overtaken and one timer
            # is enough. No await between the last check and the taking.
            while (delay := self._delay_now(gate)) > 0:
                self._changed.clear()
                await self._clock.sleep(min(delay, MAX_SLEEP), self._changed)
            heappop(self._free_at)
            self._uses[use] = asyncio.get_running_loop()

    def give_back(self, use: object, error: BaseException | None) -> None:
        """End *use*, which *error* tells about: its slot is free again after a delay."""
        delay, heap = self._delay, self._free_at
        if isinstance(error, SubmissionUncertainError):
            delay = max(0.0, self._uncertain_delay - error.waited)
        elif isinstance(error, UnreachableError):  # nothing was sent: the service counts nothing
            delay = 0.0
        elif isinstance(error, RateLimitError):  # against the slots there are, not the width
            heap = self._refused
        if self._uses.pop(use, None):  # else its loop was closed, and `_bind` gave it back
            heappush(heap, self._clock.now() + delay)
            self._changed.set()  # the first in the queue checks again

    def occupy(self, uses: Iterable[tuple[float, bool]]) -> None:
        """Delay free slots as if they had been used; the latest uses count.

        Args:
            uses: for each, how many seconds ago it ended, and whether it is uncertain.
        """
        now = self._clock.now()
        ends = sorted(
            (now - ago + (self._uncertain_delay if uncertain else self._delay))
            for ago, uncertain in uses
        )
        free = len(self._free_at)
        for end in ends[-free:] if free else []:
            heappushpop(self._free_at, end)

    def remember_uncertain(self, ages: Iterable[float]) -> None:
        """Delay slots for uncertain uses of an earlier process, each so many seconds ago."""
        own = self._clock.now() - self._created_at  # later uses were this process's own
        self.occupy((ago, True) for ago in ages if ago >= own)

    def resize(self, width: int, delays: Iterable[float] = ()) -> None:
        """Let at most *width* slots be in use or delayed; one that was refused does not count.

        Args:
            width: how many.
            delays: seconds until slots that are new are free, where that is not at once.
        """
        if width != self.width:
            self.width = width
            for delay in itertools.islice(delays, len(self._free_at)):
                heappushpop(self._free_at, self._clock.now() + delay)
            self._changed.set()

    @property
    def next_free_in(self) -> float:
        """Seconds until the first of the delayed slots is free; 0 where none is delayed."""
        now = self._clock.now()
        return min((at - now for at in self._free_at if at > now), default=0.0)

    @property
    def is_full(self) -> bool:
        """Whether as many slots are in use or delayed as may be."""
        now = self._clock.now()
        free = sum(at <= now for at in self._free_at)
        return self.count - len(self._refused) - free >= self.width

    def _delay_now(self, gate: Callable[[float], float] | None) -> float:
        now = self._clock.now()
        while self._refused and self._refused[0] <= now:
            heappush(self._free_at, heappop(self._refused))
        delay = self._next_free() - now
        return max(delay, gate(now) if gate else 0.0)

    def _next_free(self) -> float:
        """When a slot is free, and fewer than the width are in use or delayed."""
        free_at, refused = self._free_at, self._refused
        needed = self.count - len(refused) - self.width + 1  # so many must be free
        if needed > len(free_at):
            return math.inf
        if needed > 1:
            return nsmallest(needed, free_at)[-1]
        first = free_at[0] if free_at else math.inf
        return first if needed == 1 or not refused else min(first, refused[0])

    def _bind(self) -> None:
        if self._binding.bind(in_use=self._queue.locked()):
            self._queue, self._changed = FairLock(), asyncio.Event()
            for use in [use for use, loop in self._uses.items() if loop.is_closed()]:
                del self._uses[use]  # nothing else gives it back any more
                heappush(self._free_at, self._clock.now() + self._delay)


class _Use(AbstractAsyncContextManager[None]):
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
        self._slots.give_back(self, error)


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
        limit: int = 20,
        per: float = 10.0,
        *,
        max_running: int | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_kind("limit", limit, (int, float), "a whole number, 1 or more")
        check_kind("per", per, (int, float), "seconds, 0 or more")
        check_kind("max_running", max_running, (int, float, NoneType), "a whole number, 1 or more")
        check_kind("clock", clock, (Clock, NoneType), "a Clock")
        check_kind("rng", rng, (random.Random, NoneType), "a random.Random")
        if not 0 <= per < math.inf:
            raise ValueError(f"per: seconds, 0 or more, not {per!r}")
        self.limit = limit
        self.per = per
        self.max_running = max_running
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._gate = Gate(limit=limit, per=per)
        self._passed = 0  # attempts that were not refused for the rate
        self._slots = Slots(
            limit,
            delay=per + SLACK if per else 0.0,
            uncertain_delay=max(per, UNCERTAIN_DELAY),
            clock=self._clock,
            owner="this RateLimiter",
        )
        self._recent = deque[float](maxlen=limit)  # when those ended that passed, or may have
        self._running = None if max_running is None else running_slots(max_running, self._clock)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Enter when an attempt may be sent: a slot is free and the gate is open."""
        return _Attempt(self)

    async def take(self, attempt: _Attempt) -> None:
        """Wait until *attempt* may be sent; see `slot`."""
        slots = self._slots
        await slots.take(attempt, lambda now: self._gate.delay(now, slots.in_use))
        attempt.sent_at = self._clock.now()
        attempt.filled = slots.width < self.limit and slots.is_full

    def give_back(self, attempt: _Attempt, error: BaseException | None) -> None:
        """Learn from the end of *attempt*, and give its slot back."""
        try:
            if isinstance(error, RateLimitError):
                self._close_gate(attempt.sent_at, error.retry_after)
            elif error is None or isinstance(error, ApiError):  # refused, but not for the rate
                self._count_pass(attempt.sent_at, attempt.filled)
            elif isinstance(error, SubmissionUncertainError):
                self._recent.append(self._clock.now())  # it may have passed: no slot less for it
        finally:
            self._slots.give_back(attempt, error)

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Enter when one more film may run."""
        return self._running.slot() if self._running else contextlib.nullcontext()

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        """Count attempts of an earlier process: a restart does not reset the rate.

        Args:
            attempts: for each, how many seconds ago it ended, and whether it is uncertain.
        """
        now, attempts = self._clock.now(), [*attempts]
        self._recent.extend(now - ago for ago, _ in attempts)
        self._slots.occupy(attempts)

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
        self._set_gate(self._gate.assuming(takes))

    @property
    def takes(self) -> int | None:
        """How many attempts in a span the service takes, learned from 429s; None for *limit*."""
        return self._gate.width if self._gate.width < self.limit else None

    @property
    def gate(self) -> Gate:
        """Until when the limiter pauses after a 429, and how much it sends then."""
        return self._gate

    @property
    def in_flight(self) -> int:
        """Attempts that hold a slot now."""
        return self._slots.in_use

    @property
    def idle_in(self) -> float:
        """Seconds until all slots that no attempt holds are free."""
        return self._slots.idle_in

    @property
    def running_free_in(self) -> float:
        """Seconds until one more film may run, where that only takes time; else 0."""
        return self._running.free_in if self._running else 0.0

    def _close_gate(self, sent_at: float, retry_after: float | None) -> None:
        """Close the gate for everyone: *retry_after* seconds, and longer at each new refusal."""
        gate = self._gate.refused(
            sent_at,
            passed=self._passed,
            in_span=sum(at > sent_at - self.per for at in self._recent),
            full=self._slots.is_full,
        )
        pauses = itertools.islice(PAUSE_BACKOFF.delays(self._rng), min(gate.refusals, 10))
        # Jitter only upwards: a pause the service asked for is never undercut.
        pause = max(retry_after or 0.0, *pauses) * self._rng.uniform(1.0, 1.1)
        own_in = self._slots.next_free_in if self._slots.is_full else 0.0
        self._set_gate(gate.closed_for(pause, self._clock.now(), own_in=own_in))

    def _count_pass(self, sent_at: float, filled: bool) -> None:
        self._passed += 1
        self._recent.append(self._clock.now())
        self._set_gate(self._gate.answered(sent_at, passed=self._passed, full=filled))

    def _set_gate(self, gate: Gate) -> None:
        # A probe's slots at random moments, so that it takes nobody's place (`Gate`).
        probe = gate.width - self._gate.width if gate.step else 0
        self._gate = gate
        self._slots.resize(gate.width, [self._rng.uniform(0, self.per) for _ in range(probe)])

    def __repr__(self) -> str:
        pause = self._gate.opens_at - self._clock.now()
        closed = f", opens in {pause:.0f} s" if pause > 0 else ""
        learned = (
            "" if self.takes is None else f", the service takes {self.takes} per {self.per:g} s"
        )
        return f"<RateLimiter {self.in_flight}/{self.limit} in flight{closed}{learned}>"


class _Attempt(AbstractAsyncContextManager[None]):
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
    return Slots(
        count,
        delay=0.0,
        uncertain_delay=UNCERTAIN_FILM_DELAY,
        clock=clock,
        owner="a bound on running films",
    )
