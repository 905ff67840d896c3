"""`Job`: a submitted film, awaitable; polls with exponential backoff, or as durations have taught.

It is given one function, `poll`, and holds no client. It has no task of its own: one of those who
await the job polls, and the others wait for what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from typing import Any

import attrs

from apikley_async._clock import Clock, Wake
from apikley_async._durations import Durations
from apikley_async._polling import Backoff
from apikley_async._result import Result, Snapshot, State
from apikley_async._storyboard import Work
from apikley_async._tasks import Binding, Limit
from apikley_async._validation import check_seconds
from apikley_async.errors import (
    ApikleyError,
    EmptyResultError,
    JobTimeoutError,
    NotFoundError,
)

__all__ = ["Job"]

logger = logging.getLogger("apikley_async")

MISSING_OWN = 600.0  # a task we know to exist may be unknown to the service so long
MISSING_FOREIGN = 10.0  # an id that was only typed: a typo must not hang
EMPTY = 300.0  # a success without a link is read again so long
LAST = 30.0  # the poll before giving up may take so long
MAX_LOGGED_WORDS = 8  # unknown state words that are logged of one film
WORD_LASTS, WORD_POLLS = 60.0, 3  # so long, and in so many polls, an unknown word must last
AGAIN = 20.0  # at most, until a hint or a failure is confirmed
SPACING = 1.0  # a flood of hints, or of awaiters who come and go, is no flood of polls
LATE = 60.0  # polls that come so late are a new beginning, and nothing was seen to last


@attrs.define(eq=False)
class _PollingRun:
    """One stretch of polling, shared by all who await the job meanwhile."""

    loop: asyncio.AbstractEventLoop
    began: float
    deadline: float
    awaiters: int = 0
    polling: bool = False
    changed: Wake = attrs.Factory(Wake)
    error: ApikleyError | None = None

    def wake(self) -> None:
        """Wake all who wait; from another thread too, and when their loop is gone.

        It stays set for those who have it: a clock may begin to wait for it a moment later.
        """
        changed, self.changed = self.changed, Wake()
        if _is_running(self.loop):
            changed.set()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(changed.set)


@attrs.define(eq=False)
class _Awaiter:
    """One who awaits a job, and so takes part in a stretch of polling."""

    run: _PollingRun
    gives_up: float
    polled_last: bool = False


def _news_in(snapshot: Snapshot) -> tuple[object, ...]:
    """What of a snapshot is news."""
    return snapshot.state, snapshot.progress, snapshot.word


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether *loop* is the one that runs here."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


@attrs.define
class _FinishedWord:
    """A finished film under an unknown state word, as polls have agreed on it."""

    said: tuple[str, ...]  # the word, and the links without their query: signatures change
    since: float
    polls: int = 0


class Job:
    """A submitted film. Await it for its `Result`.

    Any number of tasks may await one job and cost one stream of polls. If the one that polls is
    cancelled, the next takes over; cancelling the last stops the polling. The film goes on in
    any case, and awaiting again resumes polling. A job is awaitable and no coroutine: a task of its
    own is `asyncio.create_task(job.wait())`.

    `await job` raises `JobFailedError` when the service reports a failure twice running,
    `JobTimeoutError` when the client's `job_timeout` has passed, `NotFoundError` when the service
    does not know the task, `EmptyResultError` for a success without a link; `AuthenticationError`
    and `ClientClosedError` can be cured, and the job awaited again. Outages end nothing.

    Attributes:
        task_id: the service's id; keep it: `client.job(task_id)` re-attaches to the task.
        token: the last part of its callback URL; None where no callback is expected. Keep it
            beside the id, as a secret: with `client.job(task_id, token=token)` callbacks reach the
            job again, after a restart too.
        work, metadata: what was submitted, and what the caller knows it by; None for a job that
            was re-attached by its id.
        snapshot: the newest answer. Success and failure are final here once they are confirmed.
    """

    # Thousands are held at once: without a `__dict__` one takes a kilobyte less.
    __slots__ = (
        *("__weakref__", "metadata", "snapshot", "task_id", "token", "work"),
        *("_binding", "_called", "_clock", "_delays", "_durations", "_empty_since", "_ended"),
        *("_failing", "_finished_word", "_followed_polling", "_followers", "_has_ended"),
        *("_is_known", "_missing_since", "_next_poll", "_notice_awaited", "_nudged"),
        *("_poll", "_poll_began_at", "_polled_at", "_polling"),
        *("_rng", "_run", "_submitted_at", "_timeout", "_trouble", "_words_logged"),
    )

    def __init__(
        self,
        task_id: str,
        *,
        poll: Callable[[str], Awaitable[Snapshot]],
        polling: Backoff,
        followed_polling: Backoff | None = None,
        durations: Durations | None = None,
        called: bool = False,
        timeout: float = 1800.0,
        clock: Clock,
        rng: random.Random,
        submitted_at: float | None = None,
        model: str = "",
        token: str | None = None,
        work: Work | None = None,
        metadata: Any = None,
        awaited: Callable[[Job], None] | None = None,
        ended: Callable[[Job, float], None] | None = None,
    ) -> None:
        self.task_id: str = task_id
        self.token: str | None = token
        self.work: Work | None = work
        self.metadata: Any = metadata
        known = submitted_at is not None
        state = State.WAITING if known else State.UNKNOWN
        self.snapshot: Snapshot = Snapshot(task_id, state, model)
        self._poll = poll
        self._notice_awaited = awaited
        self._ended = ended
        self._polling = polling
        self._timeout = timeout
        self._followed_polling = followed_polling or polling  # while `updates` is followed
        self._followers: list[Iterator[float]] = []  # the pauses of each
        # They say nothing where the age is not known.
        self._durations = durations if known and math.isfinite(submitted_at or 0) else None
        self._called = called
        self._clock = clock
        self._rng = rng
        self._is_known = known
        self._delays = polling.delays(rng)
        self._submitted_at = self._next_poll = -math.inf  # one that is re-attached may be ready
        if submitted_at is not None:  # a new film takes minutes
            self._submitted_at = submitted_at
            self._next_poll = self._first_poll()
        self._polled_at = -math.inf
        self._poll_began_at = -math.inf  # an answer is as old as its request
        self._words_logged: tuple[str, ...] = ()
        self._binding = Binding("this job")
        # What polls have shown. A final state needs evidence that lasts, so it has a beginning.
        self._run: _PollingRun | None = None
        self._nudged = False
        self._missing_since: float | None = None
        self._empty_since: float | None = None
        self._failing = False
        self._finished_word: _FinishedWord | None = None
        self._trouble = ""
        self._has_ended = False

    @property
    def state(self) -> State:
        """How far the film is, by the newest answer."""
        return self.snapshot.state

    @property
    def done(self) -> bool:
        """Whether the film has succeeded or failed for certain."""
        return self._has_ended

    def __await__(self) -> Generator[Any, None, Result]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> Result:
        """Wait for the result, *timeout* seconds at most.

        A time-out is not a failure: the film goes on, and the job can be awaited again. Nothing
        here costs credits.

        Args:
            timeout: seconds; by default the client's `job_timeout`, which it never exceeds. One
                that is 0 or less is over at once.

        Raises:
            What `await job` raises.
            TypeError, ValueError: *timeout* is no number of seconds.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        self._is_awaited()
        if not self._has_ended:
            awaiter = self._join(timeout)
            try:
                while not self._has_ended:
                    await self._step(awaiter)
            finally:
                self._leave(awaiter.run)
        return self.snapshot.result()

    async def updates(self, timeout: float | None = None) -> AsyncGenerator[Snapshot, None]:
        """Yield the snapshot at once, then each that differs, and the final one last.

        It shares the stream of polls with all who await the job, and raises
        what they would, apart from the failure itself: that is the last snapshot. Where a callback
        is expected and polling is slow, it is as frequent as usual meanwhile.

        Args:
            timeout: as for `wait`, over all snapshots together.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        self._is_awaited()
        shown = self.snapshot
        yield shown
        if not self._has_ended:
            awaiter = self._join(timeout)
            try:
                with self._polling_as_usual():
                    while not self._has_ended:
                        await self._step(awaiter)
                        if _news_in(self.snapshot) != _news_in(shown):
                            shown = self.snapshot
                            yield shown
            finally:
                self._leave(awaiter.run)
        if _news_in(self.snapshot) != _news_in(shown):  # it ended while nobody took a step
            yield self.snapshot

    @contextlib.contextmanager
    def _polling_as_usual(self) -> Iterator[None]:
        """Poll as often as where there are no callbacks."""
        if self._followed_polling == self._polling and self._durations is None:
            yield
            return
        pauses = self._followed_polling.delays(self._rng)
        self._followers.append(pauses)
        self._next_poll = min(self._next_poll, self._clock.now() + next(pauses))
        if self._run is not None:
            self._run.wake()
        try:
            yield
        finally:
            self._followers.remove(pauses)

    def nudge(self) -> None:
        """Poll soon: a callback or a caller says that there is news. It settles nothing itself.

        It may come from another thread than that of the loop where the job is awaited.
        """
        self._nudged = True
        soonest = max(self._clock.now(), self._polled_at + SPACING)
        self._next_poll = min(self._next_poll, soonest)
        if self._run is not None:
            self._run.wake()

    def hasten(self, durations: Durations) -> None:
        """Poll earlier where *durations* say so now: such films take less time than they did."""
        if durations is not self._durations:
            return
        now = self._clock.now()
        pause = self._learned_pause(now)
        if pause is not None and now + pause < self._next_poll:
            self._next_poll = now + pause
            if self._run is not None:
                self._run.wake()

    def detach(self, error: ApikleyError) -> None:
        """End the present stretch of polling: everyone who awaits the job gets *error*.

        A poll that is out is not cut short; whoever polls gets the error after it.
        """
        if self._run is not None:
            self._run.error = error
            self._run.wake()

    def _is_awaited(self) -> None:
        if self._notice_awaited is not None:
            self._notice_awaited(self)

    # --- the loop ---------------------------------------------------------------------------

    async def _step(self, awaiter: _Awaiter) -> None:
        """One step of the polling: wait for whoever polls, or be the one, in a pause or a poll."""
        run = awaiter.run
        if run.error is not None:
            raise copy.copy(run.error)
        now = self._clock.now()
        left = awaiter.gives_up - now
        if left <= 0:
            at_deadline = awaiter.gives_up >= run.deadline
            if awaiter.polled_last or not self._is_stale(-left, at_deadline=at_deadline):
                raise self._timed_out(run)
            awaiter.polled_last, left = True, LAST
        if run.polling:
            await self._clock.sleep(left, run.changed)
            return
        pause = self._next_poll - now
        run.polling = True
        try:
            if pause > 0 and not awaiter.polled_last:
                await self._clock.sleep(min(pause, left), run.changed)
            else:
                await self._poll_once(run, left)
        finally:
            run.polling = False
            if run.awaiters > 1:  # one of the others polls next
                run.wake()

    def _is_stale(self, late: float, *, at_deadline: bool) -> bool:
        """Whether to poll once more before giving up: at the deadline, or after a suspension."""
        unseen = self._clock.now() - self._poll_began_at
        return unseen > SPACING and (at_deadline or late > SPACING)

    async def _poll_once(self, run: _PollingRun, left: float) -> None:
        now = self._polled_at = self._poll_began_at = self._clock.now()
        if now - self._next_poll > LATE:
            self._delays = self._polling.delays(self._rng)
            self._missing_since = self._empty_since = None
        # Should we be cut off in the middle, the next polls again, but not at once.
        hinted, missed = self._nudged, False
        self._next_poll, self._nudged = now + min(SPACING, self._polling.initial), False
        limit, snapshot = Limit(left), None
        try:
            with limit:
                snapshot = await self._poll(self.task_id)
        except ApikleyError as error:
            self._missed(run, error)
            missed = True
        if limit.caught:
            return
        if snapshot is not None:
            self._take(run, snapshot)
            if self._has_ended:
                return
        self._polled_at = self._clock.now()
        in_doubt = hinted or self._failing or self._finished_word or self._empty_since is not None
        pause = self._pause(self._polled_at, learned=not (in_doubt or missed))
        if in_doubt:
            pause = min(pause, AGAIN)  # however slow polling is otherwise
        self._next_poll = self._polled_at + (min(SPACING, pause) if self._nudged else pause)

    def _first_poll(self) -> float:
        """When a film is polled first whose age is known."""
        if self._durations is not None:
            now = self._clock.now()
            if (pause := self._learned_pause(now, polled=False)) is not None:
                return now + pause
        return self._submitted_at + next(self._delays)

    def _pause(self, now: float, *, learned: bool = True) -> float:
        """Seconds until the next poll: as durations have taught, else longer each time."""
        pause = self._learned_pause(now) if learned else None
        if pause is None:
            pause = next(self._delays)
        return min([pause, *map(next, self._followers)])

    def _learned_pause(self, now: float, *, polled: bool = True) -> float | None:
        if self._durations is None:
            return None
        age = now - self._submitted_at
        return self._durations.delay(age, self._rng, called=self._called, polled=polled)

    def _take(self, run: _PollingRun, snapshot: Snapshot) -> None:
        """Take an answer as it is, except the three that must be seen to last."""
        now = self._clock.now()
        self._is_known, self._missing_since, self._trouble = True, None, ""
        snapshot = self._with_finished_word(snapshot)
        new = snapshot.word not in self._words_logged and len(self._words_logged) < MAX_LOGGED_WORDS
        if snapshot.state is State.UNKNOWN and new:
            self._words_logged += (snapshot.word,)
            message = "%s is in a state this version does not know: %.60r"
            logger.warning(message, self.task_id, snapshot.word)
        if snapshot.state is State.FAIL and not self._failing:
            self._failing = True  # counts when the next poll says it again
            return
        self._failing = snapshot.state is State.FAIL
        if snapshot.empty:
            self._empty_since = self._empty_since if self._empty_since is not None else now
            if now - self._empty_since >= EMPTY:
                self._empty_since = None
                run.error = EmptyResultError(
                    "The film is ready, but without a usable link",
                    task_id=self.task_id,
                    raw=dict(snapshot.raw),
                )
            return
        self._empty_since = None
        self.snapshot = snapshot if snapshot.done else snapshot.without_request()
        self._has_ended = snapshot.done
        if self._has_ended:
            logger.info("settled: %s %s", self.task_id, snapshot.state.value)
            if self._ended is not None:
                self._ended(self, now - self._submitted_at)

    def _with_finished_word(self, snapshot: Snapshot) -> Snapshot:
        """Take an unknown word for success when a link, the end and agreeing polls last."""
        ended = snapshot.completed_at is not None or snapshot.progress == 100
        if snapshot.state is not State.UNKNOWN or not (ended and snapshot.urls):
            self._finished_word = None
            return snapshot
        now = self._clock.now()
        said = (snapshot.word, *(url.partition("?")[0] for url in snapshot.urls))
        if self._finished_word is None or self._finished_word.said != said:
            self._finished_word = _FinishedWord(said, now)
        self._finished_word.polls += 1
        if self._finished_word.polls < WORD_POLLS or now - self._finished_word.since < WORD_LASTS:
            return snapshot
        self._finished_word = None
        message = "%s is taken for finished: it has a link, and the state %.60r has lasted"
        logger.warning(message, self.task_id, snapshot.word)
        return attrs.evolve(snapshot, state=State.SUCCESS)

    def _missed(self, run: _PollingRun, error: ApikleyError) -> None:
        """Go on through outages; end the polling for what will not pass by itself."""
        now = self._clock.now()
        self._trouble, self._empty_since = error.message, None
        if isinstance(error, NotFoundError):
            since = self._missing_since if self._missing_since is not None else now
            over = now - since >= (MISSING_OWN if self._is_known else MISSING_FOREIGN)
            self._missing_since, self._finished_word = None if over else since, None
        else:
            self._missing_since = None  # an outage says nothing of a missing task
            over = error.retry == "never"
        if over:
            run.error = error

    def _join(self, timeout: float | None) -> _Awaiter:
        if self._binding.bind(in_use=self._run is not None):
            self._run = None  # of a loop that was closed around its awaiters
        now, run = self._clock.now(), self._run
        if run is None or run.error is not None or now >= run.deadline:
            run = self._run = _PollingRun(self._binding.loop, now, now + self._timeout)
        run.awaiters += 1
        gives_up = run.deadline
        if timeout is not None:
            gives_up = min(gives_up, now + timeout)
        return _Awaiter(run, gives_up)

    def _leave(self, run: _PollingRun) -> None:
        run.awaiters -= 1
        if run.awaiters == 0 and self._run is run:
            self._run = None

    def _timed_out(self, run: _PollingRun) -> JobTimeoutError:
        waited = self._clock.now() - run.began
        last = f"; the last poll failed: {self._trouble}" if self._trouble else ""
        message = f"Not ready after {waited:.0f} s, {self.snapshot.state_text}{last}"
        return JobTimeoutError(message, task_id=self.task_id, job=self)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a job does not pickle: keep its task_id, and its token as a secret; "
            "client.job(task_id, token=token) re-attaches to the film"
        )

    def __repr__(self) -> str:
        work = "" if self.work is None else f": {self.work!r}"
        return f"<Job {self.task_id} {self.snapshot.state_text}{work}>"
