"""One simulated task and the states it passes through. Values only: *now* is handed in."""

from __future__ import annotations

from typing import Literal

import attrs

from apikley_async.simulator.service.render_request import RenderRequest
from apikley_async.simulator.service.request_rules import TaskRequest, is_image_model

__all__ = ["Failure", "SimulatedTask", "TaskState"]

TaskState = Literal["waiting", "queuing", "generating", "success", "fail"]

WAITING, QUEUING = 0.05, 0.15
"""Shares of a task's duration: "waiting" lasts up to the first, "queuing" up to the second."""


@attrs.frozen
class Failure:
    """Why a task fails: the service's code and message."""

    code: str = "500"
    message: str = "Internal Error, Please try again later."


@attrs.frozen(eq=False)
class SimulatedTask:
    """A task and its planned end: its state follows from this value and the time.

    A task succeeds when its planned duration is over and its film is rendered.

    Args:
        task_id: the id that the caller knows.
        serial: its number, counted from 0 in the order of creation.
        request: the createTask that it was made from.
        created_at: when it was created, in service seconds like all times here.
        due_at: when its planned duration is over.
        credits: what it cost.
        failure: why it will fail; None when it will succeed.
        film_at: when its film was ready; None while the film is being rendered.
        seed: of its film.
        image: the uploaded picture it starts from, if there is one.
    """

    task_id: str
    serial: int
    request: TaskRequest = attrs.field(repr=False)
    created_at: float
    due_at: float
    credits: float
    failure: Failure | None = None
    film_at: float | None = None
    seed: int = 0
    image: bytes | None = attrs.field(default=None, repr=False)

    @property
    def ended_at(self) -> float | None:
        """When it ends or ended; None while that depends on a film that is not rendered yet."""
        if self.failure is not None:
            return self.due_at
        return None if self.film_at is None else max(self.due_at, self.film_at)

    def ended(self, now: float) -> bool:
        """Whether it has succeeded or failed by *now*."""
        end = self.ended_at
        return end is not None and end <= now

    def state(self, now: float) -> TaskState:
        """The service's word for how far it is."""
        if self.ended(now):
            return "success" if self.failure is None else "fail"
        share = self._share(now)
        return "waiting" if share < WAITING else "queuing" if share < QUEUING else "generating"

    def progress(self, now: float) -> int:
        """Progress in per cent; 100 only for a finished film."""
        if self.state(now) == "success":
            return 100
        return max(0, min(99, int(100 * (self._share(now) - QUEUING) / (1 - QUEUING))))

    def changed_at(self, now: float) -> float:
        """When it last made visible progress: now, or when it ended."""
        end = self.ended_at
        return end if end is not None and end <= now else now

    def render_request(self) -> RenderRequest:
        """What a renderer needs to know of it."""
        request = self.request
        return RenderRequest(
            task_id=self.task_id,
            model=request.model,
            shots=request.shots,
            duration=request.duration,
            aspect=request.aspect,
            image=self.image,
            seed=self.seed,
            prompt=request.prompt,
            still=is_image_model(request.model),
        )

    def _share(self, now: float) -> float:
        duration = self.due_at - self.created_at
        return min(1.0, (now - self.created_at) / duration) if duration > 0 else 1.0
