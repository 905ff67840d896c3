"""What was bought, or may have been, and nobody waits for: kept by name, and logged once."""

from __future__ import annotations

import logging

from apikley_async._job import Job
from apikley_async.errors import SubmissionUncertainError

__all__ = ["Unclaimed"]

logger = logging.getLogger("apikley_async")


class Unclaimed:
    """The unclaimed jobs and uncertain submissions of one client."""

    def __init__(self) -> None:
        self._jobs: dict[Job, None] = {}
        self._uncertain: dict[SubmissionUncertainError, None] = {}

    @property
    def jobs(self) -> list[Job]:
        """The jobs, in a new list: awaiting one takes it out."""
        return [*self._jobs]

    @property
    def uncertain(self) -> list[SubmissionUncertainError]:
        """The uncertain submissions, in a new list."""
        return [*self._uncertain]

    def add(self, job: Job) -> None:
        """Nobody waits for a paid film."""
        if job not in self._jobs:
            self._jobs[job] = None
            logger.warning("film %s is paid and nobody waits for it; see unclaimed", job.task_id)

    def add_uncertain(self, error: SubmissionUncertainError) -> None:
        """Nobody waits for a film that may be paid."""
        self._uncertain[error] = None
        logger.warning("a film may be paid and nobody waits for it: attempt %s", error.token)

    def claim(self, job: Job) -> None:
        """Somebody waits for it after all, or has taken it up."""
        self._jobs.pop(job, None)

    def found(self, token: str, job: Job, error: SubmissionUncertainError | None) -> None:
        """An uncertain submission became this job, which is given its work and metadata."""
        for each in [each for each in (error, *self._uncertain) if each and each.token == token]:
            self._uncertain.pop(each, None)
            job.work, job.metadata = each.work or job.work, each.metadata or job.metadata
