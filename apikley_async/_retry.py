"""How long to wait, and whether to try again: decides, never waits.

The only room that imports `backoff`, and only its pure half, the generators: its decorators
time with the wall clock, sleep out of our reach and freeze the policy at import.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs
import backoff

from apikley_async.errors import ApikleyError

__all__ = ["Backoff", "Jitter", "Maintenance", "Timeouts", "exactly", "positive", "spread"]

Jitter: TypeAlias = Callable[[float, random.Random], float]


def exactly(delay: float, rng: random.Random) -> float:
    """No jitter: the delay as it is."""
    return delay


def spread(delay: float, rng: random.Random) -> float:
    """Three quarters of *delay* to all of it, so that many jobs do not look in step."""
    return delay * rng.uniform(0.75, 1.0)


def positive(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    """Refuse what is no finite number above 0; for fields of attrs."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
        raise ValueError(f"{attribute.name}: a number above 0, finite, not {value!r}")


@attrs.frozen
class Backoff:
    """Delays between polls, or between retries: exponential, jittered, capped.

    Args:
        initial: seconds before the first poll or retry.
        factor: each delay is this many times the one before (1 or more).
        maximum: no delay is longer, in seconds.
        jitter: makes a delay less regular; `exactly` leaves it alone.
    """

    initial: float = attrs.field(default=2.0, validator=positive)
    factor: float = attrs.field(default=1.5, validator=positive)
    maximum: float = attrs.field(default=20.0, validator=positive)
    jitter: Jitter = spread

    @factor.validator
    def _grows(self, attribute: attrs.Attribute[float], value: float) -> None:
        if value < 1:
            raise ValueError(f"factor: 1 or more, not {value!r}")

    def delays(self, rng: random.Random) -> Iterator[float]:
        """Yield the delays one after the other, without end; the caller watches its deadline."""
        grown = backoff.expo(base=self.factor, factor=self.initial, max_value=self.maximum)
        next(grown)  # backoff's generators start when they are first sent to
        while True:
            yield self.jitter(min(next(grown), self.maximum), rng)


@attrs.frozen
class Timeouts:
    """Bounds on silence, in seconds; none of them bounds work whose length depends on its size.

    Args:
        connect: for a connection, TLS included.
        read: for the response to createTask once it is sent (a slow response costs less than an
            unknown one); and over all attempts together for a request that may be repeated. One
            attempt of such a request is cut off after 30 s; after two in a row the next may take
            twice as long.
        idle: for the next piece of an upload or a download. One that makes progress goes on,
            however long it takes.
    """

    connect: float = attrs.field(default=10.0, validator=positive)
    read: float = attrs.field(default=120.0, validator=positive)
    idle: float = attrs.field(default=60.0, validator=positive)

    @property
    def repeatable(self) -> float:
        """For one attempt of a request that may be repeated."""
        return min(self.read, 30.0)


RETRIES = Backoff(initial=1.0, factor=2.0, maximum=30.0)
"""Delays between retries of one request; polling has its own."""


def retry_delay(error: ApikleyError, *, repeatable: bool, delay: float) -> float | None:
    """Say how long to wait before trying again; None lets *error* through.

    A throttled request started nothing, and one that never left even less, so both may always
    be repeated. An unanswered one may have been heard: repeating createTask could pay twice.
    """
    if error.retry == "always" or (repeatable and error.retry == "soon"):
        return max(delay, error.retry_after or 0.0)
    return None


def asked_pause(error: ApikleyError) -> str:
    """The pause that a refusal asks for, in words for a log."""
    return "no pause" if error.retry_after is None else f"{error.retry_after:g} s"


PAUSES = (120.0, 300.0, 600.0)


@attrs.define
class Maintenance:
    """When to submit again while the service is under maintenance; whoever submits many shares it.

    Attributes:
        opens_at: nobody submits before.
        pauses: how many there were since a submission was accepted.
    """

    opens_at: float = -math.inf
    pauses: int = 0

    def refused(self, now: float) -> float | None:
        """Count a 455: seconds until it is worth another try; None when it lasts too long."""
        if now >= self.opens_at:
            if self.pauses == len(PAUSES):
                return None
            self.opens_at = now + PAUSES[self.pauses]
            self.pauses += 1
        return self.opens_at - now

    def ended(self) -> None:
        """A submission was accepted: the next maintenance is another one."""
        self.pauses = 0
