"""Whether and when to try again, and for how long: decides, never waits."""

from __future__ import annotations

import math

import attrs

from apikley_async._polling import Backoff, positive
from apikley_async.errors import ApikleyError

__all__ = ["RETRIES", "Maintenance", "Timeouts", "asked_pause", "retry_delay"]


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
    """Seconds to wait before trying again; None to raise *error*.

    A throttled request started nothing, and neither did one that never left, so both may always
    be repeated. An unanswered one may have been processed: repeating createTask could pay twice.
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
    """When to submit again while the service is under maintenance; shared by many submissions.

    Attributes:
        opens_at: nothing is submitted before.
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
