"""createTask: one POST per attempt, sent by a task that the client owns. Only this module pays.

A caller who is cancelled while the POST is out does not stop the charge, so the attempt is
finished, recorded and, when nobody waits for it any more, reported. What was never sent or was
throttled is retried; so is, a few times, what is in `not_created`. What is uncertain never is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any

import attrs

from apikley_async._callbacks import CallbackMatching
from apikley_async._clock import Clock
from apikley_async._http import Transport, send_logged
from apikley_async._jobs import Bought, Jobs
from apikley_async._limiter import Guarded, Limiter
from apikley_async._recorder import (
    Attempt,
    Intent,
    NoRecorder,
    Recorder,
    cause_of,
    verdict_of,
    what_is_paid,
)
from apikley_async._retry import RETRIES, asked_pause, retry_delay
from apikley_async._storyboard import Work, has_few_words, work_faults
from apikley_async._text import loggable
from apikley_async._tokens import TOKEN
from apikley_async._uploads import Uploads, fields_of
from apikley_async._urls import url_faults
from apikley_async._wire.envelope import Reply, read_envelope
from apikley_async._wire.requests import Request, create_task, echo_faults
from apikley_async._wire.task_ids import decode_submission
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    ClientClosedError,
    JournalError,
    RateLimitError,
    ServerError,
    StoryboardError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
)
from apikley_async.events import Emitter

__all__ = ["Group", "Submission", "Submitter", "check_submission"]

logger = logging.getLogger("apikley_async")

MOST_NOT_CREATED = 3  # more attempts, where the user has declared that nothing was created
WRITING = 5.0  # seconds for a recorder, when everything ends


class Group:
    """Submissions that are stopped, and waited for, together.

    Args:
        clock: bounds the waiting.
        recorded: what its recorder has written down need not be reported again.
    """

    def __init__(self, clock: Clock, *, recorded: bool) -> None:
        self.recorded = recorded
        self.stopped: bool = False
        self._clock = clock
        self._tasks: dict[asyncio.Task[str | Exception], _Pending] = {}
        self._quiet = asyncio.Event()

    @property
    def pending(self) -> int:
        """How many have not ended yet."""
        return len(self._tasks)

    @property
    def in_flight(self) -> int:
        """How many requests are on their way, or being written down."""
        return sum(pending.shielded for pending in self._tasks.values())

    def stop(self) -> None:
        """Send nothing more. What has been sent goes on: `drain` waits for its answer."""
        self.stopped = True
        for task, pending in self._tasks.items():
            if not pending.shielded:
                task.cancel()

    async def drain(self, grace: float) -> None:
        """Stop, and give what is out *grace* seconds to be answered and written down."""
        self.stop()
        await self._wait(grace)

    async def end(self, grace: float) -> None:
        """Give up waiting for answers; what is being written down has *grace* seconds for that."""
        self.stop()
        for task, pending in self._tasks.items():
            if not pending.writing:
                task.cancel()
        await self._wait(grace)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _wait(self, grace: float) -> None:
        self._quiet.clear()
        if self._tasks:
            await self._clock.sleep(grace, self._quiet)

    def add(self, task: asyncio.Task[str | Exception], pending: _Pending) -> None:
        self._tasks[task] = pending

    def discard(self, task: asyncio.Task[str | Exception]) -> None:
        """Note that *task* has ended."""
        del self._tasks[task]
        if not self._tasks:
            self._quiet.set()


@attrs.frozen
class Submission:
    """What is to be submitted, who records it, and what it is stopped with.

    *metadata* is what the caller knows it by; it is sent nowhere.
    """

    work: Work
    callback_url: str | None = None
    recorder: Recorder = attrs.Factory(NoRecorder)
    group: Group | None = None
    metadata: Any = attrs.field(default=None, repr=False)


def check_submission(work: Work, callback_url: str | None = None) -> None:
    """Refuse what cannot be submitted, before anything is sent.

    Raises:
        StoryboardError: it says what is wrong.
    """
    faults = [*work_faults(work)]
    if callback_url is not None:
        faults += [f"callback_url: {fault}" for fault in url_faults(callback_url)]
    if not faults and not has_few_words(work):
        uploaded = dict.fromkeys(work.images, "https://" + "x" * 200)
        faults += echo_faults(fields_of(work, uploaded))
    if faults:
        raise StoryboardError(faults)


@attrs.define(eq=False)
class _Pending:
    """One submission on its way. Its task may be cancelled unless it is *shielded*."""

    submission: Submission
    groups: tuple[Group, ...]
    fields: Mapping[str, Any] = attrs.Factory(dict)
    wanted: bool = True  # a caller still waits for it
    shielded: bool = False  # being written down, or its request is out
    writing: bool = False  # being written down
    sent: bool = False  # the first byte of its newest request may have left
    began_at: float = 0.0  # when its newest attempt got its slot
    outcome: str | Exception | None = None  # of its newest attempt
    reported: bool = False  # the caller or a recorder knows the outcome
    ended: asyncio.Future[None] = attrs.Factory(lambda: asyncio.get_running_loop().create_future())

    @property
    def stopped(self) -> bool:
        if not self.wanted:
            return True
        for group in self.groups:  # noqa: SIM110 - a generator costs more than the loop
            if group.stopped:
                return True
        return False


class Submitter:
    """Submits in tasks it owns; `drain` waits for those whose POST is out.

    *matching* gives each attempt its callback URL, and gets each attempt after the recorder.
    *jobs* keeps what was bought, or may have been, when the caller does not know of it: it was
    cancelled meanwhile, or the recorder failed after the fact.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        uploads: Uploads,
        matching: CallbackMatching,
        jobs: Jobs,
        *,
        retry_for: float,
        not_created: frozenset[int],
        clock: Clock,
        rng: random.Random,
        emit: Emitter | None = None,
    ) -> None:
        self._transport = transport
        self._limiter = limiter
        self._uploads = uploads
        self._matching = matching
        self._jobs = jobs
        self._retry_for = retry_for
        self._not_created = not_created
        self._clock = clock
        self._rng = rng
        self._emit = emit
        self._all = Group(clock, recorded=False)

    async def submit(self, submission: Submission) -> str:
        """Submit once, and give the task id. Cancelling stops what has not been sent yet.

        Raises:
            ClientClosedError: it was stopped, with its group or with all of them.
        """
        groups = (self._all,) if submission.group is None else (self._all, submission.group)
        pending = _Pending(submission, groups)
        if pending.stopped:
            raise self._stopped_error(pending)
        task = asyncio.get_running_loop().create_task(self._outcome_of(pending))
        task.add_done_callback(lambda task: self._finished(task, pending))
        for group in pending.groups:
            group.add(task, pending)
        try:
            await pending.ended  # not the task: cancelling us must not cancel it
        except asyncio.CancelledError:
            pending.wanted = False
            if task.done():
                self._report(pending)
            elif not pending.shielded:
                task.cancel()
            raise
        if task.cancelled():
            raise self._stopped_error(pending)
        outcome = task.result()
        if isinstance(outcome, str):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # else it and this frame would hold each other

    @property
    def pending(self) -> int:
        """How many submissions have not ended yet."""
        return self._all.pending

    async def drain(self, grace: float) -> None:
        """Send nothing more, and give the requests that are out *grace* seconds."""
        await self._all.drain(grace)

    async def end(self) -> None:
        """End what is left; what was sent is uncertain then, and recorded and reported as that."""
        await self._all.end(WRITING)

    # --- one submission -----------------------------------------------------------------------

    async def _outcome_of(self, pending: _Pending) -> str | Exception:
        """Submit, and give the end as a value: asyncio.run prints what cancelled tasks raise."""
        try:
            return await self._run(pending)
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            return error

    async def _run(self, pending: _Pending) -> str:
        """Retry until there is a task id, a refusal, an uncertain attempt, or no time left."""
        delays = RETRIES.delays(self._rng)
        spent, not_created = 0.0, 0
        work = pending.submission.work
        pending.fields = fields_of(work, await self._uploads.urls_of(work))
        while True:
            try:
                return await self._in_slot(pending)
            except (RateLimitError, ServerError, UnreachableError) as error:
                # Nothing was created: `Guarded` and `_attempt` wrap what fails after a purchase.
                repeatable = isinstance(error, ServerError)
                not_created += repeatable
                if not_created > MOST_NOT_CREATED:
                    raise
                delay = retry_delay(error, repeatable=repeatable, delay=next(delays))
                if delay is None:
                    raise
                spent += self._clock.now() - pending.began_at + delay
                if spent > self._retry_for:
                    raise
                throttled, reason = isinstance(error, RateLimitError), loggable(error.message)
            pending.shielded = False
            if pending.stopped:
                raise asyncio.CancelledError
            if not throttled:  # after a 429 it is the limiter's gate that makes us wait
                logger.info("nothing was created: %s; again in %.1f s", reason, delay)
                if self._emit is not None:
                    self._emit.submission_retried(pending.submission, delay, reason)
                await self._clock.sleep(delay)

    async def _in_slot(self, pending: _Pending) -> str:
        """Make one attempt in a slot of the limiter, which learns what became of it.

        An attempt that never left costs no slot: whatever ended it, a cancel or a recorder, the
        limiter sees an `UnreachableError`, and the caller what it was.
        """
        unsent = UnreachableError("Nothing was sent")
        ended: BaseException = unsent
        try:
            async with Guarded(self._limiter.slot()):
                pending.began_at, pending.sent = self._clock.now(), False
                try:
                    return await self._attempt(pending)
                except (Exception, asyncio.CancelledError) as error:
                    if pending.sent or isinstance(error, UnreachableError):
                        raise
                    ended = error
                    raise unsent from None
        except UnreachableError:
            if ended is unsent:
                raise
        raise ended

    async def _attempt(self, pending: _Pending) -> str:
        """Record the intent, send, record the outcome; a cancelled caller does not interrupt it."""
        if pending.stopped:
            raise asyncio.CancelledError
        token = f"{self._rng.getrandbits(4 * TOKEN):0{TOKEN}x}"
        began = self._clock.wall()
        submission = pending.submission
        request = create_task(
            submission.work.model,
            pending.fields,
            callback_url=submission.callback_url or self._matching.url_for(token),
        )
        pending.shielded = pending.writing = True
        intent = await Intent.record(submission.recorder, token, request, self._clock)
        pending.writing = False
        outcome, reply = await self._send(pending, token, request, intent)
        if isinstance(outcome, SubmissionUncertainError):
            outcome.work, outcome.metadata = submission.work, submission.metadata
        pending.writing = True
        if not isinstance(outcome, asyncio.CancelledError):
            pending.outcome, pending.reported = outcome, False
        attempt = self._describe(token, began, outcome, reply)
        try:
            await submission.recorder.settle(attempt)
        except JournalError:  # a batch knows what that means for its films
            raise
        except ApikleyError as error:  # of a call of its own: it says nothing of this attempt
            message = f"The recorder failed: {error.message.rstrip('.')}; {what_is_paid(outcome)}"
            raise ApikleyError(message, task_id=attempt.task_id) from error
        finally:  # also when it could not be recorded: its callback still finds the task
            self._matching.settle(attempt)
        pending.writing = False
        pending.reported = any(group.recorded for group in pending.groups)
        if self._emit is not None:
            self._emit.attempt_ended(outcome, submission, pending.began_at)
        if isinstance(outcome, str):
            logger.info("submitted: %s", outcome)
            return outcome
        if isinstance(outcome, RateLimitError):
            logger.info("throttled: the service asks for %s", asked_pause(outcome))
        if isinstance(outcome, SubmissionUncertainError):
            message = "uncertain: a film may be paid, attempt %s: %s"
            logger.warning(message, token, loggable(outcome.cause), extra={"event": "uncertain"})
        raise outcome

    async def _send(
        self, pending: _Pending, token: str, request: Request, intent: Intent
    ) -> tuple[str | Exception | asyncio.CancelledError, Reply | None]:
        """Send once, and say what came of it: a task id, or the error that is to be raised."""

        def leave() -> None:
            if pending.stopped:
                raise asyncio.CancelledError
            intent.check()
            pending.shielded = pending.sent = True

        pending.shielded = pending.sent = False
        try:
            if pending.stopped:
                raise asyncio.CancelledError
            reply = await send_logged(
                self._transport, request, attempt=token[:8], clock=self._clock, on_sent=leave
            )
            pending.sent = True
            return self._read_reply(token, request, reply), reply
        except UnansweredError as error:
            pending.sent = True
            return self._uncertain(token, error.message, code=error.code), None
        except asyncio.CancelledError as cancelled:
            if not pending.sent:
                return asyncio.CancelledError(*cancelled.args), None
            cause = "the client was closed while it waited for the answer"
            return self._uncertain(token, cause), None
        except Exception as error:  # noqa: BLE001 - what was sent is uncertain, whatever it is
            if not pending.sent or isinstance(error, UnreachableError):
                return error, None
            return self._uncertain(token, type(error).__name__), None
        finally:
            pending.shielded = True

    def _read_reply(self, token: str, request: Request, reply: Reply) -> str | ApikleyError:
        try:
            task_id = decode_submission(
                reply,
                wall=self._clock.wall(),
                not_created=self._not_created,
                subject=f"The submission to {request.model}",
            )
        except SubmissionUncertainError as error:
            return self._uncertain(
                token, error.cause, code=error.code, http=error.http, raw=error.raw
            )
        except ApiError as error:
            return error
        if self._jobs.is_new(task_id):
            return task_id
        cause = f"the answer names {task_id}, which is the task of another submission"
        return self._uncertain(token, cause, http=reply.status, raw=reply.excerpt)

    def _uncertain(
        self,
        token: str,
        cause: str,
        *,
        code: int | None = None,
        http: int | None = None,
        raw: str = "",
    ) -> SubmissionUncertainError:
        return SubmissionUncertainError(
            f"The submission may have been processed, and paid: {cause}",
            code=code,
            token=token,
            cause=cause,
            http=http,
            raw=raw,
            at=self._clock.wall(),
        )

    def _describe(
        self,
        token: str,
        began: float,
        outcome: str | Exception | asyncio.CancelledError,
        reply: Reply | None,
    ) -> Attempt:
        code = outcome.code if isinstance(outcome, ApikleyError) else None
        return Attempt(
            token=token,
            verdict=verdict_of(outcome),
            task_id=outcome if isinstance(outcome, str) else None,
            http=reply.status if reply else None,
            code=read_envelope(reply).code if reply and code is None else code,
            raw=reply.excerpt if reply else "",
            cause=cause_of(outcome),
            began_at=began,
            ended_at=self._clock.wall(),
            resumable=isinstance(outcome, ApikleyError) and outcome.resumable,
        )

    # --- what no caller knows -------------------------------------------------------------------

    def _finished(self, task: asyncio.Task[str | Exception], pending: _Pending) -> None:
        for group in pending.groups:
            group.discard(task)
        if not pending.ended.done():
            pending.ended.set_result(None)
        ended = None if task.cancelled() else task.exception() or task.result()
        if not pending.wanted and not isinstance(ended, str | ApikleyError | None):
            logger.error("an abandoned submission ended in %s", type(ended).__name__)
        # A recorder or limiter may have failed, or been cut off, after the film was bought.
        known = ended is not None and ended is pending.outcome
        if not (known and pending.wanted):
            self._report(pending)

    def _report(self, pending: _Pending) -> None:
        """Report what was, or may have been, bought for a caller who does not know of it."""
        outcome, reported = pending.outcome, pending.reported
        pending.reported = True
        if reported:
            return
        if isinstance(outcome, str):
            submission, at = pending.submission, self._clock.now()
            bought = Bought(outcome, submission.work, submission.metadata, at)
            self._jobs.report_bought(bought)
        elif isinstance(outcome, SubmissionUncertainError):
            self._jobs.report_uncertain(outcome)

    def _stopped_error(self, pending: _Pending) -> ClientClosedError:
        """The error for a caller whose submission was stopped."""
        outcome = pending.outcome
        task_id = outcome if isinstance(outcome, str) else None
        bought = isinstance(outcome, str | SubmissionUncertainError)
        state = what_is_paid(outcome) if bought else "nothing was sent"
        who = "The client was closed" if self._all.stopped else "Submitting was stopped"
        return ClientClosedError(f"{who}: {state}", task_id=task_id)
