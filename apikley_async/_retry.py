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

__all__ = ["Backoff", "Jitter", "Maintenance", "Timeouts", "exactly", "spread"]

Jitter: TypeAlias = Callable[[float, random.Random], float]


def exactly(delay: float, rng: random.Random) -> float:
    """No jitter: the delay as it is."""
    return delay


def spread(delay: float, rng: random.Random) -> float:
    """Three quarters of *delay* to all of it, so that many jobs do not look in step."""
    return delay * rng.uniform(0.75, 1.0)


def _positive(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:  # type: ignore[operator]
        raise ValueError(f"{attribute.name}: a number above 0, finite, not {value!r}")


@attrs.frozen
class Backoff:
    """How often to look and to retry: exponential, jittered, capped, with a deadline.

    Args:
        first: seconds before the first time.
        factor: each delay is so many times the one before (1 or more).
        cap: no delay is longer, in seconds.
        deadline: patience ends so many seconds after the start.
        jitter: makes a delay less regular; `exactly` leaves it alone.
    """

    first: float = attrs.field(default=2.0, validator=_positive)
    factor: float = attrs.field(default=1.5, validator=_positive)
    cap: float = attrs.field(default=20.0, validator=_positive)
    deadline: float = attrs.field(default=1800.0, validator=_positive)
    jitter: Jitter = spread

    @factor.validator
    def _grows(self, attribute: attrs.Attribute[float], value: float) -> None:
        if value < 1:
            raise ValueError(f"factor: 1 or more, not {value!r}")

    def delays(self, rng: random.Random) -> Iterator[float]:
        """The delays one after the other, for ever; the deadline is the caller's to watch."""
        grown = backoff.expo(base=self.factor, factor=self.first, max_value=self.cap)
        next(grown)  # backoff's generators start when they are first sent to
        while True:
            yield self.jitter(min(next(grown), self.cap), rng)


@attrs.frozen
class Timeouts:
    """How long to wait for the service, in seconds.

    Args:
        connect: for a connection, TLS included.
        answer: for the answer to createTask once it is sent (a slow answer is cheaper than an
            unknown one); also, over all tries, for the answer to a question that can be repeated.
            One try of that is cut off after 30 s; after two in a row it may take longer.
        patience: for trying again a submission that was never sent or was throttled; counted in
            attempts and pauses, not in waiting for a place in the line.
        idle: for the next piece of an upload or a download. One that makes progress goes on,
            however long it takes.
    """

    connect: float = attrs.field(default=10.0, validator=_positive)
    answer: float = attrs.field(default=120.0, validator=_positive)
    patience: float = attrs.field(default=600.0, validator=_positive)
    idle: float = attrs.field(default=60.0, validator=_positive)

    @property
    def question(self) -> float:
        """For one try of a question that can be repeated."""
        return min(self.answer, 30.0)


RETRIES = Backoff(first=1.0, factor=2.0, cap=30.0, deadline=600.0)
"""How requests are tried again; looking has a pace of its own."""


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
