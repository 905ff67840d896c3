"""The state of a rate limiter: when its slots are free again, what has passed, and its gate.

Pure: it is given the time, and never waits. `RateLimiter` is the shell for one process. What one
database keeps for many processes is the same state, so it paces in the same way.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Iterable
from enum import Enum
from heapq import heappop, heappush, heappushpop, nsmallest

import attrs

from apikley_async._gate import Gate
from apikley_async._polling import Backoff, exactly
from apikley_async.errors import (
    ApiError,
    RateLimitError,
    SubmissionUncertainError,
    UnreachableError,
)

__all__ = [
    "LIMIT",
    "OTHER",
    "PER",
    "UNCERTAIN_FILM_DELAY",
    "End",
    "Ending",
    "Rate",
    "SlotTimes",
    "ending_of",
]

LIMIT, PER = 20, 10.0
"""Submissions in so many seconds: the default of every limiter, and what reports compare with.

The upstream's published limit; see `RateLimiter`.
"""

SLACK = 0.01  # two clocks run at slightly different rates; 10 ms in 10 s is ten times the usual
UNCERTAIN_DELAY = 60.0  # an unanswered attempt may still arrive
UNCERTAIN_FILM_DELAY = 1800.0  # ... and its film may be running
PAUSE_BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=exactly)


class End(Enum):
    """What became of an attempt, as far as a limiter cares."""

    PASSED = "passed"  # accepted, or refused but not for the rate
    REFUSED = "refused"  # a 429
    UNSENT = "unsent"  # the service counts nothing
    UNCERTAIN = "uncertain"  # it may still arrive
    OTHER = "other"


@attrs.frozen
class Ending:
    """How the use of a slot has ended.

    Attributes:
        end: what became of it.
        seconds: of a refusal, the pause that the service asks for; of an uncertain attempt, how
            long it has been waited for already.
    """

    end: End
    seconds: float | None = None


PASSED, UNSENT, OTHER = Ending(End.PASSED), Ending(End.UNSENT), Ending(End.OTHER)


def ending_of(error: BaseException | None) -> Ending:
    """What the exception that leaves a slot says of the attempt."""
    if error is None:
        return PASSED
    if isinstance(error, RateLimitError):
        return Ending(End.REFUSED, error.retry_after)
    if isinstance(error, SubmissionUncertainError):
        return Ending(End.UNCERTAIN, error.waited)
    if isinstance(error, UnreachableError):
        return UNSENT
    return PASSED if isinstance(error, ApiError) else OTHER


class SlotTimes:
    """*count* slots: when each is free again, and how many may be in use or delayed.

    Args:
        count: how many.
        delay: seconds from the end of a use until the slot is free.
        uncertain_delay: the same after an uncertain use.

    Attributes:
        width: how many of them may be in use or delayed.
        free_at: a heap: when each slot that is not in use is free.
        refused: another: of the slots whose attempts were refused.
    """

    __slots__ = ("count", "delay", "free_at", "refused", "uncertain_delay", "width")

    def __init__(self, count: int, *, delay: float, uncertain_delay: float) -> None:
        if count != int(count) or count < 1:
            raise ValueError(f"a number of slots: a whole one, 1 or more, not {count!r}")
        self.count: int = count
        self.width: int = count
        self.delay: float = delay
        self.uncertain_delay: float = uncertain_delay
        self.free_at: list[float] = [-math.inf] * count
        self.refused: list[float] = []

    @property
    def in_use(self) -> int:
        """How many are in use."""
        return self.count - len(self.free_at) - len(self.refused)

    def take(self) -> None:
        """Use a slot; `free_in` has said that one is free."""
        heappop(self.free_at)

    def give_back(self, ending: Ending, ended_at: float) -> None:
        """End a use: its slot is free again after a delay."""
        delay, heap, end = self.delay, self.free_at, ending.end
        if end is End.UNCERTAIN:
            delay = max(0.0, self.uncertain_delay - (ending.seconds or 0.0))
        elif end is End.UNSENT:  # the service counts nothing
            delay = 0.0
        elif end is End.REFUSED:  # against the slots there are, not the width
            heap = self.refused
        heappush(heap, ended_at + delay)

    def occupy(self, uses: Iterable[tuple[float, bool]], now: float) -> None:
        """Delay free slots as if they had been used; the latest uses count.

        Args:
            uses: for each, how many seconds ago it ended, and whether it is uncertain.
            now: the time.
        """
        ends = sorted(
            (now - ago + (self.uncertain_delay if uncertain else self.delay))
            for ago, uncertain in uses
        )
        free = len(self.free_at)
        for end in ends[-free:] if free else []:
            heappushpop(self.free_at, end)

    def resize(self, width: int, delays: Iterable[float], now: float) -> bool:
        """Let at most *width* slots be in use or delayed; one that was refused does not count.

        Args:
            width: how many.
            delays: seconds until slots that are new are free, where that is not at once.
            now: the time.

        Returns:
            Whether it is another width than before.
        """
        if width == self.width:
            return False
        self.width = width
        for delay in itertools.islice(delays, len(self.free_at)):
            heappushpop(self.free_at, now + delay)
        return True

    def next_free_in(self, now: float) -> float:
        """Seconds until the first of the delayed slots is free; 0 where none is delayed."""
        return min((at - now for at in self.free_at if at > now), default=0.0)

    def idle_in(self, now: float) -> float:
        """Seconds until all slots that are not in use are free."""
        return max(0.0, max((*self.free_at, *self.refused), default=0.0) - now)

    def is_full(self, now: float) -> bool:
        """Whether as many slots are in use or delayed as may be."""
        free = sum(at <= now for at in self.free_at)
        return self.count - len(self.refused) - free >= self.width

    def free_in(self, now: float) -> float:
        """Seconds until a slot may be used; 0 or less: now; inf: it depends on those in use."""
        free_at, refused = self.free_at, self.refused
        while refused and refused[0] <= now:
            heappush(free_at, heappop(refused))
        needed = self.count - len(refused) - self.width + 1  # so many must be free
        if needed > len(free_at):
            return math.inf
        if needed > 1:
            return nsmallest(needed, free_at)[-1] - now
        first = free_at[0] if free_at else math.inf
        return (first if needed == 1 or not refused else min(first, refused[0])) - now


class Rate:
    """*limit* attempts in *per* seconds, what the service has said of it, and the pauses.

    Args:
        limit: attempts in any span of *per* seconds, at most.
        per: the span, in seconds; 0 bounds only how many attempts are in flight.
        rng: for the length of pauses, and the moments of probes.

    Attributes:
        gate: until when nothing is sent, and how much the service takes.
        slots: the slots for attempts.
        passed: how many attempts were not refused for the rate.
        recent: when those ended that passed, or may have.
    """

    def __init__(self, limit: int, per: float, rng: random.Random) -> None:
        self.limit: int = limit
        self.per: float = per
        self._rng = rng
        self.gate: Gate = Gate(limit=limit, per=per)
        self.slots: SlotTimes = SlotTimes(
            limit,
            delay=per + SLACK if per else 0.0,
            uncertain_delay=max(per, UNCERTAIN_DELAY),
        )
        self.passed: int = 0
        self.recent: deque[float] = deque(maxlen=limit)

    def delay(self, now: float) -> float:
        """Seconds until an attempt may be sent; inf while it depends on one in flight."""
        return max(self.slots.free_in(now), self.gate.delay(now, self.slots.in_use))

    def fills(self, now: float) -> bool:
        """Whether the attempt that was just let through uses the last slot of a learned width."""
        return self.slots.width < self.limit and self.slots.is_full(now)

    def learn(self, ending: Ending, sent_at: float, filled: bool, now: float) -> bool:
        """Learn from the end of an attempt whose slot is still in use.

        Args:
            ending: what became of it.
            sent_at: when it was let through.
            filled: what `fills` said then.
            now: the time.

        Returns:
            Whether another number of slots may be used from now on.
        """
        if ending.end is End.REFUSED:
            return self._close_gate(sent_at, ending.seconds, now)
        if ending.end is End.PASSED:
            self.passed += 1
            self.recent.append(now)
            gate = self.gate.answered(sent_at, passed=self.passed, full=filled)
            return gate is not self.gate and self.set_gate(gate, now)
        if ending.end is End.UNCERTAIN:
            self.recent.append(now)  # it may have passed: no slot less for it
        return False

    def remember(self, attempts: Iterable[tuple[float, bool]], now: float) -> None:
        """Count attempts of an earlier process, as `SlotTimes.occupy` does."""
        attempts = [*attempts]
        self.recent.extend(now - ago for ago, _ in attempts)
        self.slots.occupy(attempts, now)

    def set_gate(self, gate: Gate, now: float) -> bool:
        """Have another gate, and as many slots as it says; return whether these changed."""
        # A probe's slots at random moments, so that it takes nobody's place (`Gate`).
        probe = gate.width - self.gate.width if gate.step else 0
        self.gate = gate
        delays = [self._rng.uniform(0, self.per) for _ in range(probe)]
        return self.slots.resize(gate.width, delays, now)

    def _close_gate(self, sent_at: float, retry_after: float | None, now: float) -> bool:
        """Close the gate for everyone: *retry_after* seconds, and longer at each new refusal."""
        full = self.slots.is_full(now)
        gate = self.gate.refused(
            sent_at,
            passed=self.passed,
            in_span=sum(at > sent_at - self.per for at in self.recent),
            full=full,
        )
        pauses = itertools.islice(PAUSE_BACKOFF.delays(self._rng), min(gate.refusals, 10))
        # Jitter only upwards: a pause the service asked for is never undercut.
        pause = max(retry_after or 0.0, *pauses) * self._rng.uniform(1.0, 1.1)
        own_in = self.slots.next_free_in(now) if full else 0.0
        return self.set_gate(gate.closed_for(pause, now, own_in=own_in), now)
