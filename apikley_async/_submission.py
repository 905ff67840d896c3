"""The only room that pays: createTask, sent once per attempt, by a task of its own.

A caller who is cancelled while the POST is out does not stop the charge, so the attempt belongs
to the client: it is finished, written down and, when nobody waits for it any more, reported.
What was never sent or was throttled is tried again, and so is, a few times, what somebody vouches
for (`not_created`); what is uncertain never is.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import attrs

from apikley_async._clock import Clock
from apikley_async._http import Transport, send_logged
from apikley_async._limiter import Limiter
from apikley_async._retry import RETRIES, asked_pause, retry_delay
from apikley_async._storyboard import Urls, Work, work_faults
from apikley_async._text import loggable
from apikley_async._urls import url_faults
from apikley_async._validation import json_faults
from apikley_async._wire.envelope import Reply, read_envelope
from apikley_async._wire.requests import Request, create_task, echo_faults
from apikley_async._wire.task_ids import decode_submission
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    ClientClosedError,
    RateLimitError,
    ServerError,
    StoryboardError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
)

__all__ = ["Attempt", "Callbacks", "Recorder", "Verdict"]

logger = logging.getLogger("apikley_async")

TOKEN = 32  # hexadecimal digits
MOST_NOT_CREATED = 3  # tries more, where somebody vouches that nothing was created
WRITING = 5.0  # seconds for a recorder, when everything ends


class Verdict(enum.Enum):
    """What became of one attempt to submit."""

    ACCEPTED = "accepted"
    THROTTLED = "throttled"
    REFUSED = "refused"
    NOT_CREATED = "not_created"
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


def token_in(text: str) -> str:
    """The token of an attempt; what follows it in the last part of a URL is the receiver's."""
    return text[:TOKEN] if re.match(f"[0-9a-f]{{{TOKEN}}}", text) else text


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


class Observer(Protocol):
    """Whom a `Submitter` asks for callback URLs, and tells what became of its attempts."""

    def url_for(self, token: str) -> str | None:
        """The callback URL of an attempt that is about to begin."""
        ...

    def settle(self, attempt: Attempt) -> None:
        """After each attempt, and after its recorder."""
        ...

    def report_bought(self, order: Order, task_id: str) -> None:
        """A task was bought, and the caller does not know of it: cancelled, or nothing recorded."""
        ...

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        """The same of what may have been bought."""
        ...


class Group:
    """Submissions that are stopped, and waited for, together.

    Args:
        clock: bounds the waiting.
        recorded: what its recorder has written down need not be reported besides.
    """

    def __init__(self, clock: Clock, *, recorded: bool = False) -> None:
        self.recorded = recorded
        self.stopped: bool = False
        self._clock = clock
        self._tasks: dict[asyncio.Task[str], _Submission] = {}
        self._quiet = asyncio.Event()

    @property
    def pending(self) -> int:
        """How many have not ended yet."""
        return len(self._tasks)

    @property
    def out(self) -> int:
        """How many requests are out, or being written down."""
        return sum(submission.held for submission in self._tasks.values())

    def stop(self) -> None:
        """Send nothing more. A request that is out is out: `drain` waits for its answer."""
        self.stopped = True
        for task, submission in self._tasks.items():
            if not submission.held:
                task.cancel()

    async def drain(self, grace: float) -> None:
        """Stop, and give what is out *grace* seconds to be answered and written down."""
        self.stop()
        await self._wait(grace)

    async def end(self, grace: float) -> None:
        """Give up waiting for answers; what is being written down has *grace* seconds for that."""
        self.stop()
        for task, submission in self._tasks.items():
            if not submission.writing:
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

    def add(self, task: asyncio.Task[str], submission: _Submission) -> None:
        self._tasks[task] = submission
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[str]) -> None:
        del self._tasks[task]
        if not self._tasks:
            self._quiet.set()


async def no_images() -> Urls:
    """Nothing to upload."""
    return {}


@attrs.frozen
class Order:
    """What is to be submitted, who writes it down, and what it is stopped with.

    *upload* gives the URLs of its images, and comes before the limiter: it costs nothing.
    *metadata* is what the caller knows it by, and goes nowhere.
    """

    work: Work
    upload: Callable[[], Awaitable[Urls]] = no_images
    callback_url: str | None = None
    recorder: Recorder = attrs.Factory(NoRecorder)
    group: Group | None = None
    metadata: Any = attrs.field(default=None, repr=False)


def check_order(work: object, callback_url: str | None) -> None:
    """Refuse what cannot be submitted, before anything is sent.

    Raises:
        StoryboardError: it says what is wrong.
    """
    faults = [*work_faults(work)]
    if callback_url is not None:
        faults += [f"callback_url: {fault}" for fault in url_faults(callback_url)]
    if not faults and isinstance(work, Work):
        uploaded = dict.fromkeys(work.images, "https://" + "x" * 200)
        faults += echo_faults(fields_of(work, uploaded))
    if faults:
        raise StoryboardError(faults)


def fields_of(work: Work, urls: Urls) -> Mapping[str, Any]:
    """The input of a work whose images have these URLs.

    Raises:
        StoryboardError: what the work would send is no JSON.
    """
    fields = work.wire_input(urls)
    if faults := [*json_faults(fields, "input")]:
        raise StoryboardError(faults)
    return fields


@attrs.define(eq=False)
class _Submission:
    """One order on its way. Its task may be cancelled unless it is *held*."""

    order: Order
    groups: tuple[Group, ...]
    fields: Mapping[str, Any] = attrs.Factory(dict)
    wanted: bool = True  # somebody still waits for it
    held: bool = False  # being written down, or its request is out
    writing: bool = False  # being written down
    out: bool = False  # the first byte of its newest request may have left
    began_at: float = 0.0  # when its newest attempt got its slot
    outcome: str | Exception | None = None  # of its newest attempt
    reported: bool = False  # somebody else knows the outcome

    @property
    def stopped(self) -> bool:
        return not self.wanted or any(group.stopped for group in self.groups)


class Submitter:
    """Submits orders in tasks it owns; `drain` waits for those whose POST is out.

    *observer* learns of every attempt, after the recorder, and of what was bought, or may have
    been, when the caller did not get to know it: cancelled meanwhile, or the recorder failed
    after the fact.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        observer: Observer,
        *,
        retry_for: float,
        not_created: frozenset[int],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._transport = transport
        self._limiter = limiter
        self._observer = observer
        self._retry_for = retry_for
        self._not_created = not_created
        self._clock = clock
        self._rng = rng
        self._all = Group(clock)

    async def submit(self, order: Order) -> str:
        """Submit once, and give the task id. Cancelling stops what has not been sent yet.

        Raises:
            ClientClosedError: it was stopped, with its group or with all of them.
        """
        groups = (self._all,) if order.group is None else (self._all, order.group)
        submission = _Submission(order, groups)
        if submission.stopped:
            raise self._cut_short(submission)
        task = asyncio.get_running_loop().create_task(self._pursue(submission))
        task.add_done_callback(lambda task: self._finished(task, submission))
        for group in submission.groups:
            group.add(task, submission)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            submission.wanted = False
            if task.done():
                self._report(submission)
            elif not submission.held:
                task.cancel()
            raise
        if task.cancelled():
            raise self._cut_short(submission)
        return task.result()

    @property
    def pending(self) -> int:
        """How many submissions have not ended yet."""
        return self._all.pending

    async def drain(self, grace: float) -> None:
        """Send nothing more, and give the requests that are out *grace* seconds."""
        await self._all.drain(grace)

    async def end(self) -> None:
        """End what is left; what was sent is uncertain then, and told and written down as that."""
        await self._all.end(WRITING)

    # --- one submission -----------------------------------------------------------------------

    async def _pursue(self, submission: _Submission) -> str:
        """Try until there is an answer, a refusal, a doubt, or patience ends."""
        delays = RETRIES.delays(self._rng)
        spent, not_created = 0.0, 0
        submission.fields = fields_of(submission.order.work, await submission.order.upload())
        while True:
            try:
                return await self._in_slot(submission)
            except (RateLimitError, ServerError, UnreachableError) as error:
                not_created += isinstance(error, ServerError)
                if not_created > MOST_NOT_CREATED:
                    raise
                repeatable = isinstance(error, ServerError)
                delay = retry_delay(error, repeatable=repeatable, delay=next(delays))
                if delay is None:
                    raise
                spent += self._clock.now() - submission.began_at + delay
                if spent > self._retry_for:
                    raise
                throttled, reason = isinstance(error, RateLimitError), error.message
            submission.held = False
            if submission.stopped:
                raise asyncio.CancelledError
            if not throttled:  # after a 429 it is the limiter's gate that makes us wait
                logger.info("nothing was created: %s; again in %.1f s", loggable(reason), delay)
                await self._clock.sleep(delay)

    async def _in_slot(self, submission: _Submission) -> str:
        """Make one attempt in a slot of the limiter, which learns what became of it.

        Of an attempt that never began, whatever ended it, the limiter sees an `UnreachableError`.
        """
        unsent = UnreachableError("Nothing was sent")
        ended: BaseException = unsent
        try:
            async with self._limiter.slot():
                submission.began_at, submission.out = self._clock.now(), False
                try:
                    return await self._attempt(submission)
                except (Exception, asyncio.CancelledError) as error:
                    ended = error
                    if submission.out or isinstance(error, UnreachableError):
                        raise
                    raise unsent from None
        except UnreachableError as error:
            if error is not unsent:
                raise
        raise ended

    async def _attempt(self, submission: _Submission) -> str:
        """Write down the intent, send, write down the outcome: never cut in two by a caller."""
        if submission.stopped:
            raise asyncio.CancelledError
        token = f"{self._rng.getrandbits(4 * TOKEN):0{TOKEN}x}"
        began = self._clock.wall()
        order = submission.order
        request = create_task(
            order.work.model,
            submission.fields,
            callback_url=order.callback_url or self._observer.url_for(token),
        )
        submission.held = submission.writing = True
        await order.recorder.intend(token, request)
        submission.writing = False
        outcome, reply = await self._send(submission, token, request)
        if isinstance(outcome, SubmissionUncertainError):
            outcome.work, outcome.metadata = order.work, order.metadata
        submission.writing = True
        if not isinstance(outcome, asyncio.CancelledError):
            submission.outcome, submission.reported = outcome, False
        attempt = self._describe(token, began, outcome, reply)
        await order.recorder.settle(attempt)
        submission.writing = False
        submission.reported = any(group.recorded for group in submission.groups)
        self._observer.settle(attempt)
        if isinstance(outcome, str):
            logger.info("submitted: %s", outcome)
            return outcome
        if isinstance(outcome, RateLimitError):
            logger.info("throttled: the service asks for %s", asked_pause(outcome))
        if isinstance(outcome, SubmissionUncertainError):
            logger.warning(
                "uncertain: a film may be paid, attempt %s: %s", token, loggable(outcome.cause)
            )
        raise outcome

    async def _send(
        self, submission: _Submission, token: str, request: Request
    ) -> tuple[str | Exception | asyncio.CancelledError, Reply | None]:
        """Send once, and say what came of it: a task id, or the error that is to be raised."""

        def leave() -> None:
            if submission.stopped:
                raise asyncio.CancelledError
            submission.held = submission.out = True

        submission.held = submission.out = False
        try:
            if submission.stopped:
                raise asyncio.CancelledError
            reply = await send_logged(
                self._transport, request, attempt=token[:8], clock=self._clock, on_sent=leave
            )
            submission.out = True
            return self._judge(token, request, reply), reply
        except UnansweredError as error:
            submission.out = True
            return self._doubt(token, error.message, code=error.code), None
        except asyncio.CancelledError as cancelled:
            if not submission.out:
                return asyncio.CancelledError(*cancelled.args), None
            return self._doubt(token, "the client was closed while it waited for the answer"), None
        except Exception as error:  # noqa: BLE001 - what was sent is uncertain, whatever it is
            if not submission.out or isinstance(error, UnreachableError):
                return error, None
            return self._doubt(token, type(error).__name__), None
        finally:
            submission.held = True

    def _judge(self, token: str, request: Request, reply: Reply) -> str | ApikleyError:
        try:
            return decode_submission(
                reply,
                wall=self._clock.wall(),
                not_created=self._not_created,
                subject=f"The submission to {request.model}",
            )
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
            verdict=_verdict(outcome),
            task_id=outcome if isinstance(outcome, str) else None,
            http=reply.status if reply else None,
            code=read_envelope(reply).code if reply and code is None else code,
            raw=reply.excerpt if reply else "",
            cause=_cause(outcome),
            began_at=began,
            ended_at=self._clock.wall(),
            resumable=isinstance(outcome, ApikleyError) and outcome.resumable,
        )

    # --- what nobody was told -------------------------------------------------------------------

    def _finished(self, task: asyncio.Task[str], submission: _Submission) -> None:
        error = None if task.cancelled() else task.exception()
        if not submission.wanted and error is not None and not isinstance(error, ApikleyError):
            logger.error("an abandoned submission ended in %s", type(error).__name__)
        # A recorder or limiter may have failed, or been cut off, after the film was bought.
        told = not task.cancelled() and (error or task.result()) is submission.outcome
        if not (told and submission.wanted):
            self._report(submission)

    def _report(self, submission: _Submission) -> None:
        """Say what was, or may have been, bought for a caller who did not get to know it."""
        outcome, reported = submission.outcome, submission.reported
        submission.reported = True
        if reported:
            return
        if isinstance(outcome, str):
            self._observer.report_bought(submission.order, outcome)
        elif isinstance(outcome, SubmissionUncertainError):
            self._observer.report_uncertain(outcome)

    def _cut_short(self, submission: _Submission) -> ClientClosedError:
        """What a caller is told whose submission was stopped."""
        if isinstance(submission.outcome, str):
            told, task_id = "the film is paid, and in unclaimed", submission.outcome
        elif isinstance(submission.outcome, SubmissionUncertainError):
            told, task_id = "a film may be paid, see uncertain", None
        else:
            told, task_id = "nothing was sent", None
        who = "The client was closed" if self._all.stopped else "Submitting was stopped"
        return ClientClosedError(f"{who}: {told}", task_id=task_id)


def _verdict(outcome: object) -> Verdict:
    if isinstance(outcome, str):
        return Verdict.ACCEPTED
    if isinstance(outcome, RateLimitError):
        return Verdict.THROTTLED
    if isinstance(outcome, ServerError):  # a code that somebody vouches for
        return Verdict.NOT_CREATED
    if isinstance(outcome, ApiError):
        return Verdict.REFUSED
    if isinstance(outcome, SubmissionUncertainError):
        return Verdict.UNCERTAIN
    return Verdict.UNSENT


def _cause(outcome: str | BaseException) -> str:
    if isinstance(outcome, str):
        return ""
    if isinstance(outcome, SubmissionUncertainError):
        return outcome.cause
    return outcome.message if isinstance(outcome, ApikleyError) else type(outcome).__name__
