"""Polls that keep failing: one warning for one cause, however many films it is about."""

from __future__ import annotations

import logging
import math
from typing import TypeAlias

import attrs

from apikley_async._text import count, in_words, loggable
from apikley_async.errors import ApikleyError

__all__ = ["Outages"]

logger: logging.Logger = logging.getLogger("apikley_async")

OUTAGE, STILL = 60.0, 600.0  # seconds of failing that are worth a warning, and another one
FORGOTTEN = 900.0  # seconds without a poll: nobody waits for that film any more

Cause: TypeAlias = tuple[str, int | None]
"""The class of an error and the service's code."""


@attrs.frozen
class _Failing:
    """A task whose polls fail: since when, when last, and why."""

    since: float
    at: float
    cause: Cause


class Outages:
    """What fails when one client polls. It is given the time, and reads no clock."""

    def __init__(self) -> None:
        self._failing: dict[str, _Failing] = {}
        self._warned_at: dict[Cause, float] = {}
        self._going_on: set[Cause] = set()

    def failed(self, task_id: str, error: ApikleyError, now: float) -> None:
        """A poll has failed: a line at DEBUG, and a warning when it lasts."""
        reason = loggable(error.message)
        logger.debug("polling %s failed: %s", task_id, reason)
        cause: Cause = type(error).__name__, error.code
        before = self._failing.get(task_id)
        known = before is not None and now - before.at < FORGOTTEN
        since = before.since if before is not None and known else now
        self._failing[task_id] = _Failing(since, now, cause)
        if now - since < OUTAGE or now - self._warned_at.get(cause, -math.inf) < STILL:
            return
        self._warned_at[cause] = now
        self._going_on.add(cause)
        self._forget(now)
        films = sum(each.cause == cause for each in self._failing.values())
        what = task_id if films == 1 else count(films)
        logger.warning("polling %s has failed for %.0f s: %s", what, now - since, reason)

    def answered(self, task_id: str, now: float) -> None:
        """A poll was answered; where that ends what was warned of, it is said, once."""
        failing = self._failing.get(task_id)
        if failing is not None and failing.cause in self._going_on:
            self._going_on.discard(failing.cause)
            self._failing[task_id] = attrs.evolve(failing, at=now)
            self._forget(now)
            same = [each for each in self._failing.values() if each.cause == failing.cause]
            lasted = now - min((each.since for each in same), default=failing.since)
            logger.warning(
                "the service answers again after %s; nothing was lost: %s in flight went on",
                *(in_words(lasted), count(len(same))),
            )
        self._failing.pop(task_id, None)

    def _forget(self, now: float) -> None:
        for task_id, each in [*self._failing.items()]:
            if now - each.at >= FORGOTTEN:
                del self._failing[task_id]
