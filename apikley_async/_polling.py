"""When to poll or retry next: exponential backoff with jitter. Decides, never waits.

The only module that imports `backoff`, and only its pure half, the generators: its decorators
read the wall clock, sleep where no test reaches, and freeze the policy at import.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs
import backoff

__all__ = ["Backoff", "Jitter", "exactly", "positive", "spread"]

Jitter: TypeAlias = Callable[[float, random.Random], float]


def exactly(delay: float, rng: random.Random) -> float:
    """No jitter: the delay as it is."""
    return delay


def spread(delay: float, rng: random.Random) -> float:
    """Three quarters of *delay* to all of it, so that many jobs do not poll in step."""
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
        maximum: no delay is longer, in seconds; at least *initial*.
        jitter: makes a delay less regular; `exactly` leaves it alone.
    """

    initial: float = attrs.field(default=2.0, validator=positive)
    factor: float = attrs.field(default=1.5, validator=positive)
    maximum: float = attrs.field(default=20.0, validator=positive)
    jitter: Jitter = attrs.field(default=spread)

    @factor.validator
    def _grows(self, attribute: attrs.Attribute[float], value: float) -> None:
        if value < 1:
            raise ValueError(f"factor: 1 or more, not {value!r}")

    @maximum.validator
    def _is_reached(self, attribute: attrs.Attribute[float], value: float) -> None:
        if value < self.initial:
            raise ValueError(f"maximum: {self.initial!r} or more, as initial, not {value!r}")

    @jitter.validator
    def _is_called(self, attribute: attrs.Attribute[Jitter], value: object) -> None:
        if not callable(value):
            raise TypeError(f"jitter: a function of a delay, not {type(value).__name__}")

    def delays(self, rng: random.Random) -> Iterator[float]:
        """Yield the delays one after the other, without end; the caller watches its deadline."""
        grown = backoff.expo(base=self.factor, factor=self.initial, max_value=self.maximum)
        next(grown)  # backoff's generators start when they are first sent to
        while (delay := next(grown)) < self.maximum:
            yield self.jitter(delay, rng)
        del grown  # thousands of jobs are at their longest delay
        while True:
            yield self.jitter(self.maximum, rng)
