"""The jobs of one client: those that somebody holds, and those that nobody waits for."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import attrs

from apikley_async._durations import Durations
from apikley_async._job import Job
from apikley_async._storyboard import Work
from apikley_async.errors import ClientClosedError, SubmissionUncertainError

__all__ = ["Bought", "Jobs"]

logger = logging.getLogger("apikley_async")

MOST_IDS = 10_000  # an id that is given twice is given soon after the first time


@attrs.frozen(eq=False)
class Bought:
    """A paid task that has no job yet, since its caller was cancelled or does not know of it.

    *at* is when it was submitted, on the client's clock; *learned* is that of `Attempts.submit`.
    """

    task_id: str
    work: Work | None = None
    metadata: Any = attrs.field(default=None, repr=False)
    at: float = -math.inf
    learned: bool = False


class Jobs:
    """Jobs by their ids, held weakly; unclaimed ones and uncertain submissions are held."""

    def __init__(self) -> None:
        self._jobs: WeakValueDictionary[str, Job] = WeakValueDictionary()
        self._bought: dict[str, Bought] = {}
        self._unclaimed: dict[Job, None] = {}
        self._uncertain: dict[SubmissionUncertainError, None] = {}
        self._task_ids: dict[str, None] = {}  # the latest that submissions were answered with

    def get(self, task_id: str | None) -> Job | None:
        return self._jobs.get(task_id or "")

    def add(self, job: Job) -> None:
        self._jobs[job.task_id] = job

    def is_new(self, task_id: str) -> bool:
        """Whether no submission of this client was answered with that id before.

        Somebody may know the task all the same: its callback may have come before the answer.
        """
        if task_id in self._task_ids:
            return False
        self._task_ids[task_id] = None
        if len(self._task_ids) > MOST_IDS:
            del self._task_ids[next(iter(self._task_ids))]
        return True

    def nudge(self, task_id: str | None) -> None:
        """Let the job poll soon, if anybody holds it."""
        if (job := self.get(task_id)) is not None:
            job.nudge()

    def hasten(self, durations: Durations) -> None:
        """Let the jobs that are polled by *durations* poll earlier, if these say so now."""
        for job in list(self._jobs.values()):
            job.hasten(durations)

    def detach(self) -> None:
        """End all polling with `ClientClosedError`; the films go on."""
        for job in list(self._jobs.values()):
            job.detach(ClientClosedError("The client was closed", task_id=job.task_id))

    # --- what nobody waits for ------------------------------------------------------------------

    @property
    def unclaimed(self) -> list[Job]:
        """Paid jobs that nobody waits for, in a new list."""
        return [*self._unclaimed]

    @property
    def uncertain(self) -> list[SubmissionUncertainError]:
        """Uncertain submissions that nobody waits for, in a new list."""
        return [*self._uncertain]

    def leave_behind(self, job: Job) -> None:
        """Keep a paid job that nobody waits for, and warn."""
        if job not in self._unclaimed:
            self._unclaimed[job] = None
            self._warn(job.task_id)

    def report_bought(self, bought: Bought) -> None:
        """Keep a paid task whose caller does not know of it, and warn."""
        if bought.task_id not in self._bought and self.get(bought.task_id) not in self._unclaimed:
            self._bought[bought.task_id] = bought
            self._warn(bought.task_id)

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        """Keep an uncertain submission whose caller does not know of it, and warn."""
        self._uncertain[error] = None
        message = "a film may be paid and nobody waits for it: attempt %s"
        logger.warning(message, error.token, extra={"event": "uncertain"})

    def take_bought(self) -> Iterator[Bought]:
        """Yield tasks that have no job yet, once each; the caller makes one and `keep`s it."""
        while self._bought:
            yield self._bought.pop(next(iter(self._bought)))

    def keep(self, job: Job) -> None:
        """Hold a job that was reported before."""
        self._unclaimed[job] = None

    def claim(self, job: Job) -> None:
        """Somebody waits for it, or has re-attached to it."""
        self._unclaimed.pop(job, None)

    def resolve(self, token: str, job: Job, error: SubmissionUncertainError | None) -> None:
        """An uncertain submission became *job*, which gets its work and metadata."""
        for each in [each for each in (error, *self._uncertain) if each and each.token == token]:
            self._uncertain.pop(each, None)
            if each.work is not None:
                job.work, job.metadata = each.work, each.metadata

    def _warn(self, task_id: str) -> None:
        logger.warning("film %s is paid and nobody waits for it; see unclaimed", task_id)
