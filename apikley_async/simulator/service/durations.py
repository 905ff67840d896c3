"""Distributions of durations, for tasks and for latencies. Randomness is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import attrs

__all__ = ["Constant", "Distribution", "Lognormal", "Uniform"]

Distribution = Callable[[Random], float]
"""Draws how many seconds something takes: service seconds for a task, real ones for latency."""


@attrs.frozen
class Lognormal:
    """A long tail: most draws are near *median* seconds, a few are much larger."""

    median: float = 180.0
    sigma: float = 0.4

    def __call__(self, rng: Random) -> float:
        return self.median * math.exp(rng.gauss(0.0, self.sigma))


@attrs.frozen
class Constant:
    """Always *seconds*."""

    seconds: float

    def __call__(self, rng: Random) -> float:
        return self.seconds


@attrs.frozen
class Uniform:
    """From *low* to *high* seconds, all equally likely."""

    low: float
    high: float

    def __call__(self, rng: Random) -> float:
        return rng.uniform(self.low, self.high)
