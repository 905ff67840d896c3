"""The only room that pays: createTask, sent once per attempt, by a task of its own.

A caller who is cancelled while the POST is out does not stop the charge, so the attempt belongs
to the client: it is finished, written down and, when nobody waits for it any more, reported.
What was never sent or was throttled is tried again; what is uncertain never is.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import attrs

from apikley_async._clock import Clock
from apikley_async._limiter import Limiter
from apikley_async._policy import RETRIES, Timeouts, retry_delay
from apikley_async._storyboard import Work
from apikley_async._transport import Transport
from apikley_async._wire import Reply, Request, create_task, open_submission
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    ClientClosedError,
    RateLimitError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
)

__all__ = ["Attempt", "Callbacks", "Recorder", "Verdict"]

logger = logging.getLogger("apikley_async")


class Verdict(enum.Enum):
    """What became of one attempt to submit."""

    ACCEPTED = "accepted"
    THROTTLED = "throttled"
    REFUSED = "refused"
    UNSENT = "unsent"
    UNCERTAIN = "uncertain"


@attrs.frozen
class Attempt:
    """One finished attempt, as it is told to a `Recorder`.

    Attributes:
        token: names the attempt (128 random bits, hexadecimal); also in its callback URL.
        verdict: what became of it.
        task_id: the paid task, when it was accepted.
        http, code: the HTTP status and the service's code, as far as there were any.
        raw: the answer as far as it was read, the key blotted out.
        cause: why it was not accepted, in a few words.
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


@runtime_checkable
class Recorder(Protocol):
    """Writes attempts down around the POST. What it raises from `intend` prevents the POST."""

    async def intend(self, token: str, request: Request) -> None:
        """Before the first byte of each attempt: it returns when the intent is safe."""
        ...

    async def settle(self, outcome: Attempt) -> None:
        """After each attempt, before the caller learns of it."""
        ...


@runtime_checkable
class Callbacks(Protocol):
    """Gives each attempt its own callback URL."""

    def url_for(self, token: str) -> str | None:
        """The URL the service shall call when the task of this attempt ends; None: no call."""
        ...


class NoRecorder:
    """Keeps nothing: what was paid is in the caller's hands, in `unclaimed` or in an error."""

    async def intend(self, token: str, request: Request) -> None:
        return

    async def settle(self, outcome: Attempt) -> None:
        return


class NoCallbacks:
    """The service is asked to call nobody."""

    def url_for(self, token: str) -> str | None:
        return None


@attrs.frozen
class Order:
    """What is to be submitted: the work, its uploaded image, and who is told."""

    work: Work
    image_url: str | None = None
    callback_url: str | None = None
    recorder: Recorder = attrs.Factory(NoRecorder)


@attrs.define(eq=False)
class _Submission:
    order: Order
    sending: bool = False  # an attempt is being written down, sent or settled
    wanted: bool = True  # somebody still waits for it


class Submitter:
    """Submits orders in tasks it owns; `drain` waits for those whose POST is out.

    *unclaimed* is told what was bought, and *uncertain* what may have been, when the caller was
    cancelled meanwhile.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        callbacks: Callbacks,
        *,
        timeouts: Timeouts,
        treat_as_refused: frozenset[int],
        clock: Clock,
        rng: random.Random,
        unclaimed: Callable[[Order, str], None],
        uncertain: Callable[[SubmissionUncertainError], None],
    ) -> None:
        self._transport = transport
        self._limiter = limiter
        self._callbacks = callbacks
        self._timeouts = timeouts
        self._treat_as_refused = treat_as_refused
        self._clock = clock
        self._rng = rng
        self._unclaimed = unclaimed
        self._uncertain = uncertain
        self._tasks: dict[asyncio.Task[str], _Submission] = {}
        self._closing = False
        self._quiet = asyncio.Event()

    async def submit(self, order: Order) -> str:
        """Submit once, and give the task id. Cancelling stops what has not been sent yet."""
        if self._closing:
            raise ClientClosedError("The client is closing; nothing was sent")
        submission = _Submission(order)
        task = asyncio.get_running_loop().create_task(self._pursue(submission))
        self._tasks[task] = submission
        task.add_done_callback(self._finished)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            submission.wanted = False
            if task not in self._tasks:
                self._report(task, submission)
            elif not submission.sending:
                task.cancel()
            raise
        if task.cancelled():
            raise ClientClosedError("The client was closed before anything was sent")
        return task.result()

    async def drain(self, grace: float) -> None:
        """Send nothing more; give the attempts that are out *grace* seconds, then end them."""
        self._closing = True
        self._quiet.clear()
        for task, submission in self._tasks.items():
            if not submission.sending:
                task.cancel()
        try:
            if any(submission.sending for submission in self._tasks.values()):
                await self._clock.sleep(grace, self._quiet)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))

    # --- one submission -----------------------------------------------------------------------

    async def _pursue(self, submission: _Submission) -> str:
        """Try until there is an answer, a refusal, a doubt, or patience ends."""
        delays = RETRIES.delays(self._rng)
        spent, began = 0.0, 0.0
        while True:
            try:
                async with self._limiter.slot():
                    began = self._clock.now()
                    return await self._attempt(submission)
            except (RateLimitError, UnreachableError) as error:
                delay = retry_delay(error, repeatable=False, delay=next(delays))
                if delay is None:
                    raise
                spent += self._clock.now() - began + delay
                if spent > self._timeouts.patience:
                    raise
                throttled = isinstance(error, RateLimitError)
            if self._closing or not submission.wanted:
                raise asyncio.CancelledError
            if not throttled:  # after a 429 it is the limiter's gate that makes us wait
                await self._clock.sleep(delay)

    async def _attempt(self, submission: _Submission) -> str:
        """Write down the intent, send, write down the outcome: never cut in two by a caller."""
        if self._closing or not submission.wanted:
            raise asyncio.CancelledError
        submission.sending = True
        try:
            token = f"{self._rng.getrandbits(128):032x}"
            began = self._clock.wall()
            order = submission.order
            request = create_task(
                order.work,
                image_url=order.image_url,
                callback_url=order.callback_url or self._callbacks.url_for(token),
            )
            await order.recorder.intend(token, request)
            outcome = await self._send(submission, token, request)
            attempt = self._describe(token, began, outcome)
            try:
                await order.recorder.settle(attempt)
            except BaseException:
                self._rescue(order, outcome)
                raise
        finally:
            submission.sending = False
        if isinstance(outcome, str):
            logger.info("submitted: %s", outcome)
            return outcome
        if isinstance(outcome, RateLimitError):
            logger.info("throttled: the service asks for %s s", outcome.retry_after)
            self._limiter.throttle(outcome.retry_after)
        raise outcome

    async def _send(
        self, submission: _Submission, token: str, request: Request
    ) -> str | ApikleyError | asyncio.CancelledError:
        """Send once, and say what came of it: a task id, or the error that is to be raised."""
        if not submission.wanted:
            return asyncio.CancelledError("the caller left before anything was sent")
        sent = asyncio.Event()
        try:
            reply = await self._transport.send(request, on_sent=sent.set)
        except UnreachableError as error:
            return error
        except UnansweredError as error:
            return self._doubt(token, error.message, code=error.code)
        except asyncio.CancelledError as cancelled:
            if not sent.is_set():
                return asyncio.CancelledError(*cancelled.args)
            return self._doubt(token, "the client was closed while it waited for the answer")
        return self._judge(token, reply)

    def _judge(self, token: str, reply: Reply) -> str | ApikleyError:
        wall = self._clock.wall()
        try:
            return open_submission(reply, wall=wall, treat_as_refused=self._treat_as_refused)
        except SubmissionUncertainError as error:
            return self._doubt(token, error.cause, code=error.code, http=error.http, raw=error.raw)
        except ApiError as error:
            return error

    def _doubt(
        self,
        token: str,
        cause: str,
        *,
        code: int | None = None,
        http: int | None = None,
        raw: str = "",
    ) -> SubmissionUncertainError:
        return SubmissionUncertainError(
            f"The submission may have been heard, and paid: {cause}",
            code=code,
            token=token,
            cause=cause,
            http=http,
            raw=raw,
            at=self._clock.wall(),
        )

    def _describe(
        self, token: str, began: float, outcome: str | ApikleyError | asyncio.CancelledError
    ) -> Attempt:
        verdict, task_id, code = Verdict.ACCEPTED, None, None
        if isinstance(outcome, str):
            task_id = outcome
        elif isinstance(outcome, RateLimitError):
            verdict = Verdict.THROTTLED
        elif isinstance(outcome, ApiError):
            verdict = Verdict.REFUSED
        elif isinstance(outcome, SubmissionUncertainError):
            verdict = Verdict.UNCERTAIN
        else:
            verdict = Verdict.UNSENT
        doubt = outcome if isinstance(outcome, SubmissionUncertainError) else None
        if isinstance(outcome, ApikleyError):
            code = outcome.code
        return Attempt(
            token=token,
            verdict=verdict,
            task_id=task_id,
            http=doubt.http if doubt else None,
            code=code,
            raw=doubt.raw if doubt else "",
            cause="" if isinstance(outcome, str) else getattr(outcome, "message", str(outcome)),
            began_at=began,
            ended_at=self._clock.wall(),
        )

    # --- what nobody waits for ------------------------------------------------------------------

    def _finished(self, task: asyncio.Task[str]) -> None:
        submission = self._tasks.pop(task)
        if not any(other.sending for other in self._tasks.values()):
            self._quiet.set()
        if not submission.wanted:
            self._report(task, submission)

    def _report(self, task: asyncio.Task[str], submission: _Submission) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._unclaimed(submission.order, task.result())
        elif isinstance(error, SubmissionUncertainError):
            self._uncertain(error)
        elif not isinstance(error, ApikleyError):
            logger.error("an abandoned submission ended in %s", type(error).__name__)

    def _rescue(self, order: Order, outcome: object) -> None:
        """The recorder failed after the fact: at least say what was, or may have been, bought."""
        if isinstance(outcome, str):
            self._unclaimed(order, outcome)
        elif isinstance(outcome, SubmissionUncertainError):
            self._uncertain(outcome)
