"""One film in the making, and the states it passes through. Values only: *now* is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Literal

import attrs

from apikley_async.simulator.service.request_rules import Order, makes_still
from apikley_async.simulator.video.renderers import FilmOrder

__all__ = ["Constant", "Durations", "Failure", "Lognormal", "State", "Task", "Uniform"]

State = Literal["waiting", "queuing", "generating", "success", "fail"]

WAITING, QUEUING = 0.05, 0.15
"""Shares of a task's life: up to the first it waits, up to the second it stands in the queue."""

Durations = Callable[[Random], float]
"""Draws how many seconds something takes: world seconds for a task, the caller's for an answer."""


@attrs.frozen
class Lognormal:
    """Most take about *median* seconds, a few take much longer: a long tail."""

    median: float = 180.0
    sigma: float = 0.4

    def __call__(self, rng: Random) -> float:
        return self.median * math.exp(rng.gauss(0.0, self.sigma))


@attrs.frozen
class Constant:
    """Each takes *seconds*."""

    seconds: float

    def __call__(self, rng: Random) -> float:
        return self.seconds


@attrs.frozen
class Uniform:
    """Anything from *low* to *high* seconds, all of it equally likely."""

    low: float
    high: float

    def __call__(self, rng: Random) -> float:
        return rng.uniform(self.low, self.high)


@attrs.frozen
class Failure:
    """Why a task fails, in the service's words."""

    code: str = "500"
    message: str = "Internal Error, Please try again later."


@attrs.frozen(eq=False)
class Task:
    """A task as it is fated: everything about it follows from this value and the time.

    All times are world seconds. *due_at* is when its time is up; *film_at* is when its film lay
    ready, None while it is being rendered. A task succeeds when both have come.
    """

    task_id: str
    serial: int
    order: Order = attrs.field(repr=False)
    created_at: float
    due_at: float
    credits: float
    failure: Failure | None = None
    film_at: float | None = None
    seed: int = 0
    image: bytes | None = attrs.field(default=None, repr=False)

    @property
    def ended_at(self) -> float | None:
        """When it ends or ended; None while that depends on a film not yet rendered."""
        if self.failure is not None:
            return self.due_at
        return None if self.film_at is None else max(self.due_at, self.film_at)

    def ended(self, now: float) -> bool:
        """Whether it has succeeded or failed by *now*."""
        end = self.ended_at
        return end is not None and end <= now

    def state(self, now: float) -> State:
        """The service's word for how far it is."""
        if self.ended(now):
            return "success" if self.failure is None else "fail"
        share = self._share(now)
        return "waiting" if share < WAITING else "queuing" if share < QUEUING else "generating"

    def progress(self, now: float) -> int:
        """Per cent done; 100 only for a finished film."""
        if self.state(now) == "success":
            return 100
        return max(0, min(99, int(100 * (self._share(now) - QUEUING) / (1 - QUEUING))))

    def changed_at(self, now: float) -> float:
        """When it last made progress that somebody could have seen."""
        end = self.ended_at
        return end if end is not None and end <= now else now

    def film_order(self) -> FilmOrder:
        """What a renderer has to know of it."""
        order = self.order
        return FilmOrder(
            task_id=self.task_id,
            model=order.model,
            shots=order.shots,
            duration=order.duration,
            aspect=order.aspect,
            image=self.image,
            seed=self.seed,
            prompt=order.prompt,
            still=makes_still(order.model),
        )

    def _share(self, now: float) -> float:
        lasts = self.due_at - self.created_at
        return min(1.0, (now - self.created_at) / lasts) if lasts > 0 else 1.0
