"""What the task that is found, or the end of a film, means for its item."""

from __future__ import annotations

from apikley_async import Job, Result
from apikley_async.batch.saving import result_to_json
from apikley_async.batch.states import ItemEvent, ItemState
from apikley_async.batch.store.values import Transition
from apikley_async.errors import JobFailedError

__all__ = ["LAST_STATES", "failed", "found", "succeeded"]

LAST_STATES = (
    *(ItemState.DONE, ItemState.FAILED, ItemState.REJECTED, ItemState.UNCERTAIN),
    *(ItemState.STALLED, ItemState.EXPIRED),
)
"""States in which a run has done what it can for an item."""


def found(job: Job, token: str) -> Transition:
    """A callback has named the task of an uncertain attempt."""
    return Transition(
        ItemEvent.RESOLVE,
        cause="found by its callback",
        task_id=job.task_id,
        token=token,
        by="callback",
    )


def succeeded(job: Job, result: Result) -> Transition:
    """The film is ready."""
    return Transition(
        ItemEvent.SUCCEED,
        credits=result.credits,
        success_at=job.snapshot.completed_at,
        result=result_to_json(result),
    )


def failed(job: Job, error: JobFailedError) -> Transition:
    """The service has failed to make the film."""
    return Transition(
        ItemEvent.FAIL,
        cause=error.message,
        fail_code=error.fail_code,
        fail_message=error.fail_message,
        credits=job.snapshot.credits,
    )
