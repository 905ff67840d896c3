"""An attempt (one createTask POST), and the protocols around it: `Recorder` and `Callbacks`."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import Any, Protocol, Self, runtime_checkable

import attrs

from apikley_async._clock import Clock, Stopwatch
from apikley_async._wire.requests import Request
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
    UnreachableError,
)

__all__ = [
    "Attempt",
    "Callbacks",
    "Intent",
    "NoCallbacks",
    "NoRecorder",
    "Recorder",
    "Verdict",
    "cause_of",
    "verdict_of",
    "what_is_paid",
]


class Verdict(enum.StrEnum):
    """What became of one attempt to submit."""

    ACCEPTED = "accepted"
    THROTTLED = "throttled"
    REFUSED = "refused"
    NOT_CREATED = "not_created"
    UNSENT = "unsent"
    UNCERTAIN = "uncertain"


@attrs.frozen
class Attempt:
    """One finished attempt, as a `Recorder` gets it.

    Attributes:
        token: names the attempt (128 random bits, hexadecimal); also in its callback URL.
        verdict: what became of it.
        task_id: the paid task, when it was accepted.
        http, code: the HTTP status and the service's code, as far as there were any.
        raw: the answer as far as it was read, the key blotted out.
        cause: why it was not accepted, in a few words; with what to do, where the refusal is of the
            account or the service, and not of this film.
        resumable: whether the same submission may be accepted later.
        began_at, ended_at: seconds since 1970.
    """

    token: str
    verdict: Verdict
    task_id: str | None = None
    http: int | None = None
    code: int | None = None
    raw: str = attrs.field(default="", repr=False)
    cause: str = ""
    began_at: float = 0.0
    ended_at: float = 0.0
    resumable: bool = False

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """Give plain JSON values.

        Args:
            raw: whether `raw` is included.
        """
        names = [field.name for field in attrs.fields(Attempt) if raw or field.name != "raw"]
        return {name: getattr(self, name) for name in names} | {"verdict": self.verdict.value}


@runtime_checkable
class Recorder(Protocol):
    """Writes attempts down, before and after each POST.

    What it raises from `intend` prevents the POST, so nothing is paid. What it raises from `settle`
    reaches the caller, and the film is in `client.unclaimed` or `client.uncertain`; errors of this
    package, except `JournalError`, are the cause of an `ApikleyError` that says so.
    """

    async def intend(self, token: str, request: Request) -> timedelta | None:
        """Called before the first byte of each attempt; return once the intent is durable.

        Returns:
            For how long after the call the request may leave; anything that is no `timedelta`, for
            ever. A process that stood still may be believed dead, and others act on that: what is
            late is not sent, and settled as unsent.
        """
        ...

    async def settle(self, attempt: Attempt) -> None:
        """Called after each attempt, before the caller learns of it."""
        ...


@runtime_checkable
class Callbacks(Protocol):
    """Gives each attempt its own callback URL."""

    def url_for(self, token: str) -> str | None:
        """Return the URL that the service calls when the task ends; None for no callback."""
        ...


@attrs.frozen
class Intent:
    """An attempt that a recorder has written down, and for how long its request may leave."""

    since: Stopwatch
    holds: float | None

    @classmethod
    async def record(cls, recorder: Recorder, token: str, request: Request, clock: Clock) -> Self:
        """Let it be written down. Time counts from here on: the answer may be what is late."""
        since = Stopwatch(clock)
        try:
            holds: object = await recorder.intend(token, request)  # or what a database has returned
        except SubmissionUncertainError as error:  # of a submission of its own
            message = f"The recorder failed: {error.message.rstrip('.')}; nothing was sent"
            raise ApikleyError(message) from error
        return cls(since, holds.total_seconds() if isinstance(holds, timedelta) else None)

    def check(self) -> None:
        """Refuse what is late, just before the first byte.

        Raises:
            UnreachableError: it was not sent.
        """
        if self.holds is not None and (age := self.since.seconds) > self.holds:
            raise UnreachableError(
                f"Nothing was sent: that was announced {age:.0f} s before, and others may believe "
                "by now that this process is dead"
            )


class NoRecorder:
    """Records nothing: what was paid is with the caller, in `unclaimed` or in an error."""

    async def intend(self, token: str, request: Request) -> None:
        return

    async def settle(self, attempt: Attempt) -> None:
        return


class NoCallbacks:
    """Asks the service for no callback."""

    def url_for(self, token: str) -> str | None:
        return None


def verdict_of(outcome: object) -> Verdict:
    """What an attempt has ended with, in a word: a task's id, or an error."""
    if isinstance(outcome, str):
        return Verdict.ACCEPTED
    if isinstance(outcome, RateLimitError):
        return Verdict.THROTTLED
    if isinstance(outcome, ServerError):  # a code that the user has declared to create nothing
        return Verdict.NOT_CREATED
    if isinstance(outcome, ApiError):
        return Verdict.REFUSED
    if isinstance(outcome, SubmissionUncertainError):
        return Verdict.UNCERTAIN
    return Verdict.UNSENT


def cause_of(outcome: str | BaseException) -> str:
    """Why an attempt was not accepted, in a few words; see `Attempt.cause`."""
    if isinstance(outcome, str):
        return ""
    if isinstance(outcome, SubmissionUncertainError):
        return outcome.cause
    if not isinstance(outcome, ApikleyError):
        return type(outcome).__name__
    of_all = outcome.affects_all and verdict_of(outcome) is Verdict.REFUSED
    return str(outcome) if of_all else outcome.message


def what_is_paid(outcome: object) -> str:
    """What an attempt has cost that its caller does not learn of otherwise, and where that is."""
    if isinstance(outcome, str):
        return "the film is paid, and in unclaimed"
    if isinstance(outcome, SubmissionUncertainError):
        return "a film may be paid, see uncertain"
    return "nothing was paid"
