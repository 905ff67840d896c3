"""`client.attempts`: submissions and the jobs they become, as `Client` and batches use them."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from apikley_async._callbacks import CallbackMatching, Keep
from apikley_async._durations import LearnedDurations, duration_between
from apikley_async._job import Job
from apikley_async._jobs import Bought, Jobs
from apikley_async._limiter import Guarded, Slots, running_slots
from apikley_async._outages import Outages
from apikley_async._recorder import Callbacks, Recorder
from apikley_async._result import Result, Snapshot, State
from apikley_async._session import Session, Sessions, Settings
from apikley_async._spending import Expense
from apikley_async._storyboard import Work
from apikley_async._submission import Group, Submission, check_submission
from apikley_async._tasks import Nested
from apikley_async._text import loggable
from apikley_async._tokens import TokenMac, token_in, token_secret
from apikley_async._validation import check_seconds
from apikley_async._wire.task_ids import is_task_id
from apikley_async._wire.tasks import (
    belongs_to_attempt,
    callback_url_of,
    differences,
    fingerprint_of_work,
    fingerprints_in,
)
from apikley_async.errors import (
    ApikleyError,
    ClientClosedError,
    StoryboardError,
    SubmissionUncertainError,
)
from apikley_async.events import Finished, Polled, PollFailed

__all__ = ["Attempts"]


class Attempts:
    """The attempts of one client, and the jobs they became: `client.attempts`.

    Provisional until 1.0: what only batches need. Groups of submissions that are stopped and
    waited for together, callbacks that are kept in a journal, and uncertain submissions that are
    found by a callback.

    Attributes:
        receives_callbacks: whether callbacks come back to this client.
        settings: the checked arguments of the client.
        durations: how long films take, as successes have shown.
        running: the slots of its films.
        polls: how many polls it has sent.
        sessions: one session for each event loop, one after another.
        unclaimed, uncertain: those of the client.
    """

    def __init__(self, settings: Settings, callbacks: Callbacks | None) -> None:
        self.settings: Settings = settings
        self.durations: LearnedDurations = LearnedDurations()
        self._clock = settings.environment.clock
        self._jobs = Jobs()
        self._outages = Outages()
        self._matching = CallbackMatching(
            callbacks,
            TokenMac([token_secret(settings.key.reveal())]),
            self._jobs,
            settings.spending,
            settings.environment,
        )
        self.receives_callbacks: bool = self._matching.receives_callbacks
        self._of_all_jobs: dict[str, Any] = {  # made once: a bound method takes 64 bytes
            "poll": self.poll,
            "clock": self._clock,
            "rng": settings.environment.rng,
            "awaited": self._jobs.claim,
            "ended": self._note_end,
        }
        self.polls: int = 0
        self.running: Slots = running_slots(settings.max_running, self._clock)
        self.sessions: Sessions = Sessions(settings, self._matching, self._jobs)

    @property
    def _session(self) -> Session:
        """The session of the running loop; opened now if need be."""
        return self.sessions.current()

    # --- submitting ---------------------------------------------------------------------------

    async def submit(
        self,
        work: Work,
        *,
        callback_url: str | None = None,
        recorder: Recorder | None = None,
        metadata: Any = None,
        group: Group | None = None,
        expense: Expense | None = None,
        learned: bool = False,
    ) -> Job:
        """Submit one film, as `Client.submit` does, and as one of a *group*.

        Args:
            work, callback_url, recorder, metadata: as for `Client.submit`.
            group: what it is stopped with.
            expense: what was reserved for it; by default it is reserved here.
            learned: it is one of many films: polled as `durations` say, not with backoff alone,
                unless the client has a `polling` of its own.

        Raises:
            ClientClosedError: the group was stopped, or the client closed, before it was sent.
            What `Client.submit` raises.
        """
        check_submission(work, callback_url)
        session, spending = self._session, self.settings.spending
        reserved = self._reserved(work) if expense is None else contextlib.nullcontext(expense)
        async with reserved as reservation:
            chosen = self.settings.recorder if recorder is None else recorder
            noting = spending.recorder(chosen, reservation)
            submission = Submission(work, callback_url, noting, group, metadata)
            task_id = await session.submitter.submit(submission)
        return self._new_job(Bought(task_id, work, metadata, self._clock.now(), learned))

    async def submit_or_recover(
        self, work: Work, *, timeout: float | None, **options: Any
    ) -> tuple[Job, float | None]:
        """Submit; where it is uncertain, wait for a callback that names its task.

        Args:
            work: the film.
            timeout: seconds for which the film is waited for.
            options: further arguments of `submit`.

        Returns:
            The job, and what is left of *timeout*.
        """
        check_seconds("timeout", timeout, least=0.0)  # what is over already is not bought
        try:
            return await self.submit(work, **options), timeout
        except SubmissionUncertainError as error:
            uncertain = error
        try:
            job = await self.recover(uncertain, timeout=timeout)
        except (asyncio.CancelledError, ApikleyError) as error:
            if error is not uncertain:
                self.report_uncertain(uncertain)
            raise
        return job, None if timeout is None else max(0.0, timeout - uncertain.waited)

    async def generate(self, work: Work, *, timeout: float | None, **options: Any) -> Result:
        """Submit one film and wait for it, as `Client.generate` does."""
        job: Job | None = None
        try:
            async with self.running_slot(), self.expense(work, follow=True) as expense:
                job, left = await self.submit_or_recover(
                    work, timeout=timeout, expense=expense, **options
                )
                return await self.finish(job, left)
        except asyncio.CancelledError:
            if job is not None:  # also when it was ready, and a limiter took its time
                self.leave_behind(job)
            raise

    async def finish(self, job: Job, timeout: float | None) -> Result:
        """Wait for the result; a job that is given up for a cancel or a close is unclaimed."""
        try:
            if self.sessions.closed:  # while the submission was drained
                raise ClientClosedError("The client was closed", task_id=job.task_id)
            return await job.wait(timeout)
        except (asyncio.CancelledError, ClientClosedError):
            self.leave_behind(job)
            raise

    def expense(
        self, work: Work, *, follow: bool = False
    ) -> AbstractAsyncContextManager[Expense | None]:
        """Surround one film: what it costs is reserved, where the client has a bound.

        Args:
            work: the film.
            follow: whether the block follows the film to its end.
        """
        check_submission(work)
        return self._reserved(work, follow=follow)

    def _reserved(
        self, work: Work, *, follow: bool = False
    ) -> AbstractAsyncContextManager[Expense | None]:
        """Surround one film whose work was checked, as `expense` does."""
        spending = self.settings.spending
        if not spending.bounded:
            return contextlib.nullcontext()
        return self._session.tasks.entering(spending.expense(work, follow=follow))

    def group(self, *, recorded: bool = True) -> Group:
        """Submissions that stop together (`stop`), and are waited for together (`drain`).

        Cancelling one who waits for a submission of the group stops what has not been sent. What
        is out goes on, and its recorder writes it down.

        Args:
            recorded: what its recorder has written down is not in `unclaimed` or `uncertain`.
        """
        return Group(self._clock, recorded=recorded)

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Surround one film, as `generate` does: one of the client's `max_running`.

        It also holds one of the limiter's running slots, which other clients may share.
        """
        tasks = self._session.tasks
        shared = Guarded(self.settings.limiter.running_slot())
        return Nested(tasks.entering(self.running.slot()), tasks.entering(shared))

    def account(self, salt: bytes) -> str:
        """A digest that tells accounts apart and says nothing of the key."""
        key = self.settings.key.reveal().encode()
        return hmac.new(salt, key, "sha256").hexdigest()[:16]

    # --- tasks ----------------------------------------------------------------------------------

    async def poll(self, task_id: str) -> Snapshot:
        """Poll once; opens a session in the running loop if need be."""
        check_task_id(task_id)
        self.polls += 1
        emit = self.settings.emit
        try:
            snapshot = await self._session.api.poll(task_id)
        except ApikleyError as error:
            self._outages.failed(task_id, error, self._clock.now())
            if emit is not None:
                name = type(error).__name__
                emit(PollFailed(task_id, name, error.code, loggable(error.message)))
            raise
        self._outages.answered(task_id, self._clock.now())
        if emit is not None:
            state, progress = snapshot.state, snapshot.progress
            emit(Polled(task_id, snapshot.model, state, progress, loggable(snapshot.word)))
        return snapshot

    async def confirm(
        self, task_id: str, *, tokens: Iterable[str] = (), fingerprints: Iterable[str] = ()
    ) -> Snapshot | None:
        """Poll once whether a task is one of ours: by a token in its callback URL, or its content.

        Args:
            tokens: of attempts (`Attempt.token`).
            fingerprints: of what was asked for (`Request.fingerprint`).

        Returns:
            The task, or None when it was made of something else.
        """
        snapshot = await self.poll(task_id)
        ours = belongs_to_attempt(snapshot, tokens=tokens, fingerprints=fingerprints)
        return snapshot if ours else None

    def names_token(self, snapshot: Snapshot, tokens: Iterable[str]) -> bool:
        """Say whether one of *tokens* is in a task's callback URL: then it is that attempt's."""
        return belongs_to_attempt(snapshot, tokens=tokens, fingerprints=())

    def calls_back(self, snapshot: Snapshot) -> bool:
        """Say whether a task was submitted with a callback URL, as far as its record shows it."""
        return callback_url_of(snapshot) is not None

    def fingerprints(self, snapshot: Snapshot) -> frozenset[str]:
        """Those that a task's request may have had (`Request.fingerprint`); none if not shown."""
        return fingerprints_in(snapshot)

    def fingerprint(self, work: Work) -> str | None:
        """That of the request for a work; None where its images have to be uploaded before."""
        return fingerprint_of_work(work)

    def compare(
        self, snapshot: Snapshot, work: Work, *, uploads: bool = True, **known: Iterable[str]
    ) -> tuple[str, ...]:
        """Return where a task differs from *work*; () for our own, *known* as for `confirm`.

        Args:
            uploads: whether images count that were uploaded: of an attempt that is not *known*,
                nobody knows their URLs.
        """
        return differences(snapshot, work, uploads=uploads, **known)

    # --- jobs -----------------------------------------------------------------------------------

    def job(
        self,
        task_id: str,
        *,
        token: str | None = None,
        known: bool = False,
        work: Work | None = None,
        age: float | None = None,
    ) -> Job:
        """Re-attach to a task, as `Client.job` does.

        Args:
            task_id, token, known: as for `Client.job`.
            work: what it was made of, where it is one of many films.
            age: seconds since it was submitted; with *work*, it is polled as `durations` say.
        """
        check_task_id(task_id)
        said: object = token
        if token is not None and not (isinstance(said, str) and is_task_id(said)):  # never repeated
            raise StoryboardError("token: what job.token was, a word without spaces")
        if token is not None:
            self.expect(token, task_id=task_id)
        self._make_bought_jobs()
        submitted_at = -math.inf if known else None
        if age is not None:
            submitted_at = self._clock.now() - age
        job = self._jobs.get(task_id) or self._add_job(
            task_id, submitted_at=submitted_at, work=work, learned=age is not None
        )
        if token is not None:
            job.token = token
        self._jobs.claim(job)
        return job

    def _new_job(self, bought: Bought) -> Job:
        return self._add_job(
            bought.task_id,
            submitted_at=bought.at,
            model=bought.work.model if bought.work is not None else "",
            work=bought.work,
            metadata=bought.metadata,
            learned=bought.learned,
        )

    def _add_job(
        self, task_id: str, *, work: Work | None = None, learned: bool = False, **facts: Any
    ) -> Job:
        text = self._matching.text_of(task_id)
        settings = self.settings
        called = text is not None and self.receives_callbacks
        durations = None
        if learned and settings.learns and work is not None:
            durations = self.durations.of(work.model, work.price_key)
        job = Job(
            task_id,
            polling=settings.callback_polling if called else settings.polling,
            followed_polling=settings.polling,
            durations=durations,
            called=called,
            timeout=settings.job_timeout,
            token=text,
            work=work,
            **self._of_all_jobs,
            **facts,
        )
        self._jobs.add(job)
        if self._matching.was_announced(task_id):
            job.nudge()
        return job

    def _note_end(self, job: Job, age: float) -> None:
        """A film has ended: its cost replaces its reservation, and a success teaches."""
        snapshot, work = job.snapshot, job.work
        self.settings.spending.ended(snapshot)
        self._matching.note_end(snapshot)
        if self.settings.emit is not None:
            self.settings.emit(
                Finished(
                    job.task_id,
                    snapshot.model or (work.model if work is not None else ""),
                    snapshot.state,
                    snapshot.credits,
                    age if math.isfinite(age) else None,
                    snapshot.fail_code,
                    loggable(snapshot.fail_message),
                    work,
                    job.metadata,
                )
            )
        if snapshot.state is not State.SUCCESS or work is None:
            return  # a failure says nothing of how long a film takes
        durations = self.durations.of(work.model, work.price_key)
        seconds = duration_between(snapshot.created_at, snapshot.completed_at, age=age)
        if seconds is not None and durations.learn(seconds):
            self._jobs.hasten(durations)

    def leave_behind(self, job: Job) -> None:
        """Keep a paid job that nobody waits for, in `unclaimed`."""
        self._jobs.leave_behind(job)

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        """Keep an uncertain submission that nobody waits for, in `uncertain`."""
        self._jobs.report_uncertain(error)

    @property
    def unclaimed(self) -> list[Job]:
        self._make_bought_jobs()
        return self._jobs.unclaimed

    def _make_bought_jobs(self) -> None:
        for bought in self._jobs.take_bought():
            self._jobs.keep(self._jobs.get(bought.task_id) or self._new_job(bought))

    @property
    def uncertain(self) -> list[SubmissionUncertainError]:
        return self._jobs.uncertain

    # --- callbacks, for batches -----------------------------------------------------------------

    def expect(
        self,
        token: str,
        *,
        task_id: str | None = None,
        named: Iterable[str] = (),
        keep: Keep | None = None,
    ) -> bool:
        """Accept callbacks about an attempt that this client did not submit, or must keep.

        Args:
            token: of the attempt, or the last part of its callback URL (`Job.token`).
            task_id: the task it became; "" if it was given up.
            named: tasks that callbacks have named before.
            keep: awaited with each new one before the callback is answered, until `release`.

        Returns:
            Whether any callback has named its task, one from an inbox for example.
        """
        return self._matching.expect(token, task_id=task_id, named=named, keep=keep)

    def release(self, token: str) -> None:
        """End `expect(keep=)`: what callbacks say of an attempt is kept here only."""
        self._matching.release(token)

    async def catch_up(self) -> None:
        """Wait until the callbacks that lay in an inbox are received; seconds at most."""
        _ = self._session
        await self._matching.catch_up()

    # --- uncertain submissions ------------------------------------------------------------------

    async def recover(
        self, attempt: str | SubmissionUncertainError, *, timeout: float | None = None
    ) -> Job:
        """Wait until a callback says which task an uncertain submission became.

        The task is read before it is believed: its callback URL must hold the token.

        Args:
            attempt: the error that `submit` raised, or the token of an attempt, of this run or
                another (`SubmissionUncertainError.token`).
            timeout: seconds; by default as long as a job is waited for.

        Raises:
            SubmissionUncertainError: no such callback came. An error that was given is raised
                again, and its `waited` says for how long; at once where no callback can come.
            AuthenticationError: the key is refused.
            ValueError: this client receives no callbacks.
        """
        check_seconds("timeout", timeout)
        if isinstance(attempt, str):
            if not self.receives_callbacks:
                raise ValueError(
                    "recover: a client that receives callbacks: Client(callback=Callback())"
                )
            self.expect(attempt)
            token, error = token_in(attempt), None
        else:
            token, error = attempt.token, attempt
        wait = self.settings.job_timeout if timeout is None else timeout
        since = self._clock.now()
        try:
            if self._matching.is_expected(token):
                async with self._session.tasks.inside():
                    if task_id := await self._matching.find_task(token, since + wait):
                        job = self.job(task_id, known=True)
                        self._jobs.resolve(token, job, error)
                        return job
        finally:
            if error is not None:
                error.waited += self._clock.now() - since
        raise error or SubmissionUncertainError(
            f"No callback said within {wait:g} s which task it became",
            token=token,
            cause="no callback came",
            at=self._clock.wall(),
        )


def check_task_id(task_id: object) -> None:
    """Refuse what cannot be the id of a task, before anything is sent.

    Raises:
        StoryboardError: it is none.
    """
    if not isinstance(task_id, str) or not is_task_id(task_id):
        raise StoryboardError(f"task_id: a word without spaces, not {task_id!r:.60}")
