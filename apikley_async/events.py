"""Events: what happens to films, as frozen values, for `Client(on_event=)`.

A callable gets each event at the moment it happens, on the event loop. It is for counting, tracing
and showing; nothing depends on it. No event holds a key, a token, a callback URL or a link.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import attrs

from apikley_async._clock import Clock
from apikley_async._result import State
from apikley_async._storyboard import Work
from apikley_async._text import loggable
from apikley_async.errors import RateLimitError, SubmissionUncertainError

__all__ = [
    "Event",
    "Finished",
    "PollFailed",
    "Polled",
    "Retrying",
    "Saved",
    "Submitted",
    "Throttled",
    "Uncertain",
    "Uploaded",
]

logger: logging.Logger = logging.getLogger("apikley_async")

SLOW = 0.1  # seconds


class _Event:
    """What all events share."""

    __slots__ = ()

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values, the name as "event"; `work` and `metadata` are not among them."""
        fields = [field for field in attrs.fields(type(self)) if field.repr]  # type: ignore[arg-type]
        values = ((field.name, getattr(self, field.name)) for field in fields)
        return {"event": self.name} | {
            name: str(value) if isinstance(value, Path | State) else value for name, value in values
        }


@attrs.frozen
class Submitted(_Event):
    """The service has created a task: the film is paid, and its recorder knows of it.

    Attributes:
        task_id: of the task.
        model: that makes it.
        seconds: from the free slot of the limiter to the task's id.
        work, metadata: what was submitted, and what the caller knows it by.
    """

    name: ClassVar[str] = "submitted"
    task_id: str
    model: str
    seconds: float
    work: Work = attrs.field(repr=False)
    metadata: Any = attrs.field(default=None, repr=False)


@attrs.frozen
class Throttled(_Event):
    """The service has refused a submission for its rate (429); it waits, and is tried again.

    Attributes:
        model: that would make the film.
        retry_after: seconds that the service asks for; None where it names none.
        work, metadata: as for `Submitted`.
    """

    name: ClassVar[str] = "throttled"
    model: str
    retry_after: float | None
    work: Work = attrs.field(repr=False)
    metadata: Any = attrs.field(default=None, repr=False)


@attrs.frozen
class Uncertain(_Event):
    """A submission may have been processed, and paid; it is not repeated.

    Attributes:
        model: that may make the film.
        cause: what happened to the request.
        work, metadata: as for `Submitted`.
    """

    name: ClassVar[str] = "uncertain"
    model: str
    cause: str
    work: Work = attrs.field(repr=False)
    metadata: Any = attrs.field(default=None, repr=False)


@attrs.frozen
class Retrying(_Event):
    """Something free is tried again, or a submission of which nothing was created.

    Attributes:
        call: "submission", "download", or the path of the request, such as
            "/api/v1/jobs/recordInfo".
        delay: seconds until then.
        cause: why.
        task_id: of the film that is downloaded; else None.
        work, metadata: of a submission; else None.
    """

    name: ClassVar[str] = "retrying"
    call: str
    delay: float
    cause: str
    task_id: str | None = None
    work: Work | None = attrs.field(default=None, repr=False)
    metadata: Any = attrs.field(default=None, repr=False)


@attrs.frozen
class Polled(_Event):
    """A poll was answered. A failure that it shows counts when the next poll confirms it.

    Attributes:
        task_id: of the task.
        model: that makes it, if the service says.
        state: how far it is.
        progress: percent done, if the service says.
        word: the service's own word for a state that we do not know, else empty.
    """

    name: ClassVar[str] = "polled"
    task_id: str
    model: str
    state: State
    progress: float | None
    word: str


@attrs.frozen
class PollFailed(_Event):
    """A poll was not answered, or was refused. Outages end no job before its deadline.

    Attributes:
        task_id: of the task.
        error: the class of the error, such as "UnreachableError".
        code: the service's code, if there is one.
        message: of the error.
    """

    name: ClassVar[str] = "poll_failed"
    task_id: str
    error: str
    code: int | None
    message: str


@attrs.frozen
class Finished(_Event):
    """A film has ended for certain, as `Job.done` says.

    Attributes:
        task_id: of the task.
        model: that made it.
        state: `State.SUCCESS` or `State.FAIL`.
        credits: what it consumed, if the service says.
        seconds: since it was submitted; None for a task that was re-attached.
        fail_code, fail_message: the service's words for a failure, else empty.
        work, metadata: as for `Submitted`; None for a task that was re-attached.
    """

    name: ClassVar[str] = "finished"
    task_id: str
    model: str
    state: State
    credits: float | None
    seconds: float | None
    fail_code: str = ""
    fail_message: str = ""
    work: Work | None = attrs.field(default=None, repr=False)
    metadata: Any = attrs.field(default=None, repr=False)


@attrs.frozen
class Uploaded(_Event):
    """An image was uploaded. One whose content was uploaded already is no event.

    Attributes:
        size: of the image in bytes.
        content_type: such as "image/png".
        seconds: for which the upload took.
    """

    name: ClassVar[str] = "uploaded"
    size: int
    content_type: str
    seconds: float


@attrs.frozen
class Saved(_Event):
    """A file of a film is on the disk, whole and under its name; or in a batch's destination.

    Attributes:
        task_id: of the film.
        path: of the file; None where it is in a destination.
        size: in bytes.
        sha256: of its content.
        seconds: for which saving took, waiting for a turn included.
        stored_as: its name in the destination; None where it is on the disk.
        location: where it is, if the destination says so; without a query.
    """

    name: ClassVar[str] = "saved"
    task_id: str
    path: Path | None
    size: int
    sha256: str
    seconds: float
    stored_as: str | None = None
    location: str | None = None


Event: TypeAlias = (
    Submitted | Throttled | Uncertain | Retrying | Polled | PollFailed | Finished | Uploaded | Saved
)
"""Any of the events: narrow it by `match`, or by `event.name`."""


Emit: TypeAlias = Callable[[Event], None]


def event_fault(on_event: object) -> str | None:
    """What is wrong with a callable for events; None when it is fine."""
    if on_event is None:
        return None
    called = getattr(on_event, "func", on_event)  # of a partial
    asynchronous = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    for candidate in (called, getattr(called, "__call__", None)):  # noqa: B004 - its kind counts
        if any(is_kind(candidate) for is_kind in asynchronous):
            return (
                "on_event: a plain callable, not a coroutine function, which nobody would await; "
                "let it put events into a queue of your own"
            )
    return None if callable(on_event) else f"on_event: a callable, not {type(on_event).__name__}"


class Sent(Protocol):
    """What was submitted."""

    @property
    def work(self) -> Work: ...

    @property
    def metadata(self) -> Any: ...


class Emitter:
    """Hands events to a user's callable, and lets none of its troubles through."""

    def __init__(self, on_event: Callable[[Event], object], clock: Clock) -> None:
        self._on_event = on_event
        self._clock = clock
        self._slow = False

    def __call__(self, event: Event) -> None:
        began = self._clock.now()
        try:
            self._on_event(event)
        except (Exception, asyncio.CancelledError):  # of something it looked at: it awaits nothing
            logger.warning("on_event has raised at %r", event.name, exc_info=True)
        took = self._clock.now() - began
        if took > SLOW and not self._slow:
            self._slow = True
            message = (
                "on_event took %.1f s at %r, for which nothing else ran: let it put events into a "
                "queue of your own. This is said once"
            )
            logger.warning(message, took, event.name)

    def attempt_ended(self, outcome: object, sent: Sent, began_at: float) -> None:
        """Emit the event for what an attempt has ended with, where it has one.

        Args:
            outcome: a task's id, or an error.
            sent: what was submitted.
            began_at: when a slot of the limiter was free.
        """
        work, metadata = sent.work, sent.metadata
        if isinstance(outcome, str):
            self(Submitted(outcome, work.model, self._clock.now() - began_at, work, metadata))
        elif isinstance(outcome, RateLimitError):
            self(Throttled(work.model, outcome.retry_after, work, metadata))
        elif isinstance(outcome, SubmissionUncertainError):
            self(Uncertain(work.model, loggable(outcome.cause), work, metadata))

    def submission_retried(self, sent: Sent, delay: float, cause: str) -> None:
        """Emit that something is submitted again, of which nothing was created."""
        self(Retrying("submission", delay, cause, None, sent.work, sent.metadata))
