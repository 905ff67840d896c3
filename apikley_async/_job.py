"""`Job`: a film in the making, to be awaited.

It is handed a way to look and holds no client. No task of its own runs: whoever awaits the job
does the asking, one at a time, and the rest listen.
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

from apikley_async._binding import Binding
from apikley_async._clock import Clock
from apikley_async._result import Result, Snapshot, State
from apikley_async._retry import Backoff
from apikley_async._storyboard import Work
from apikley_async._text import loggable
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
OUTAGE, STILL = 60.0, 600.0  # polling that fails for so long is worth a warning, and another one
MOST_WORDS = 8  # for states that nobody knows are told of one film
CLAIMED, CLAIMS = 60.0, 3  # an unknown word with a link: so long, and so often, it must be seen
AGAIN = 20.0  # at most, until a hint or a failure is confirmed
SPACING = 1.0  # a flood of hints, or of awaiters who come and go, is no flood of looks
UNWATCHED = 60.0  # looks that come so late are a new beginning, and nothing was seen to last


@attrs.define(eq=False)
class _Watch:
    """One stretch of looking, shared by all who await the job meanwhile."""

    began: float
    deadline: float
    awaiters: int = 0
    asking: bool = False
    moved: asyncio.Event = attrs.Factory(asyncio.Event)
    error: ApikleyError | None = None
    loop: asyncio.AbstractEventLoop = attrs.Factory(asyncio.get_running_loop)

    def wake(self) -> None:
        """Let everybody look again; from another thread too, and when their loop is gone."""
        moved, self.moved = self.moved, asyncio.Event()
        if _is_running(self.loop):
            moved.set()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(moved.set)


def _seen(snapshot: Snapshot) -> tuple[object, ...]:
    """What of a snapshot is news."""
    return snapshot.state, snapshot.progress, snapshot.word


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether *loop* is the one that runs here."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


@attrs.define
class _Claim:
    """A finished film under a word that nobody knows, as polls have agreed on it."""

    said: tuple[str, ...]  # the word, and the links without their query: signatures change
    since: float
    polls: int = 0


class Job:
    """A film in the making. Await it for its `Result`.

    Any number of tasks may await one job and cost one stream of looks. If the asker is
    cancelled, the next takes over; cancelling the last stops the looking. The film goes on in
    any case, and awaiting again goes on looking.

    `await job` raises `JobFailedError` when the service reports a failure twice running,
    `JobTimeoutError` when the pace's deadline has passed, `NotFoundError` when the service does
    not know the task, `EmptyResultError` for a success without a link; `AuthenticationError`
    and `ClientClosedError` can be cured, and the job awaited again. Outages end nothing.

    Attributes:
        task_id: the service's id; keep it, and `client.job(task_id)` takes the job up again.
        token: the last part of its callback URL; None where no callback is expected. Keep it
            beside the id, as a secret: with `client.job(task_id, token=token)` callbacks reach the
            job again, after a restart too.
        work, metadata: what was submitted, and what the caller knows it by; None for a job that
            was taken up by its id.
        snapshot: the newest answer. Success and failure are final here once they are confirmed.
    """

    def __init__(
        self,
        task_id: str,
        *,
        poll: Callable[[str], Awaitable[Snapshot]],
        polling: Backoff,
        followed_polling: Backoff | None = None,
        timeout: float = 1800.0,
        clock: Clock,
        rng: random.Random,
        submitted_at: float | None = None,
        model: str = "",
        token: str | None = None,
        work: Work | None = None,
        metadata: Any = None,
        awaited: Callable[[Job], None] | None = None,
        ended: Callable[[Snapshot], None] | None = None,
    ) -> None:
        self.task_id = task_id
        self.token = token
        self.work = work
        self.metadata = metadata
        known = submitted_at is not None
        state = State.WAITING if known else State.UNKNOWN
        self.snapshot: Snapshot = Snapshot(task_id, state, model)
        self._poll = poll
        self._notice_awaited = awaited
        self._ended = ended
        self._polling = polling
        self._timeout = timeout
        self._followed_polling = (
            followed_polling or polling
        )  # as long as somebody follows `updates`
        self._followers: list[Iterator[float]] = []  # the pauses of each
        self._clock = clock
        self._rng = rng
        self._seen = known
        self._delays = polling.delays(rng)
        # A new film takes its time; one that is taken up again may be ready.
        self._next_look = -math.inf if submitted_at is None else submitted_at + next(self._delays)
        self._looked_at = -math.inf
        self._asked_at = -math.inf  # an answer may be as old as its question
        self._nudged = False
        self._missing_since: float | None = None
        self._empty_since: float | None = None
        self._failing = False
        self._claim: _Claim | None = None
        self._words_told: list[str] = []
        self._outage_since: float | None = None
        self._outage_told: float | None = None
        self._settled = False
        self._trouble = ""
        self._watch: _Watch | None = None
        self._binding = Binding(f"the job of {task_id}")

    @property
    def state(self) -> State:
        return self.snapshot.state

    @property
    def done(self) -> bool:
        """Whether the film has succeeded or failed for certain."""
        return self._settled

    def __await__(self) -> Generator[Any, None, Result]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> Result:
        """Wait for the result, *timeout* seconds at most.

        A time-out is not a failure: the film goes on, and the job can be awaited again. Nothing
        here costs credits.
        """
        async for _ in self._follow(timeout):
            pass
        return self.snapshot.result()

    async def updates(self, timeout: float | None = None) -> AsyncGenerator[Snapshot, None]:
        """Yield the snapshot at once, then each that differs, and the final one last.

        It takes part in the same stream of looks as everybody who awaits the job, and raises
        what they would, apart from the failure itself: that is the last snapshot. Where a callback
        is expected and polling is slow, it is as quick as usual meanwhile.
        """
        self._is_awaited()
        shown = self.snapshot
        yield shown
        async with contextlib.aclosing(self._follow(timeout)) as following:
            with self._hurried():
                async for snapshot in following:
                    if _seen(snapshot) != _seen(shown):
                        shown = snapshot
                        yield shown

    @contextlib.contextmanager
    def _hurried(self) -> Iterator[None]:
        """Poll as often as where there are no callbacks."""
        if self._followed_polling == self._polling:
            yield
            return
        pauses = self._followed_polling.delays(self._rng)
        self._followers.append(pauses)
        self._next_look = min(self._next_look, self._clock.now() + next(pauses))
        if self._watch is not None:
            self._watch.wake()
        try:
            yield
        finally:
            self._followers.remove(pauses)

    def nudge(self) -> None:
        """Look soon: someone says that there is news. A hint, never the truth.

        It may come from another thread than that of the loop where the job is awaited.
        """
        self._nudged = True
        soonest = max(self._clock.now(), self._looked_at + SPACING)
        self._next_look = min(self._next_look, soonest)
        if self._watch is not None:
            self._watch.wake()

    def detach(self, error: ApikleyError) -> None:
        """End the present stretch of looking: everyone who awaits the job gets *error*.

        A look that is out is not cut short; whoever asked gets the error after it.
        """
        if self._watch is not None:
            self._watch.error = error
            self._watch.wake()

    def _is_awaited(self) -> None:
        if self._notice_awaited is not None:
            self._notice_awaited(self)

    # --- the loop ---------------------------------------------------------------------------

    async def _follow(self, timeout: float | None) -> AsyncGenerator[Snapshot, None]:
        """Take part in the looking; yield after every step, and last when the job has settled."""
        self._is_awaited()
        if not self._settled:
            watch = self._join()
            gives_up = watch.deadline
            if timeout is not None:
                gives_up = min(gives_up, self._clock.now() + timeout)
            polled_last = False
            try:
                while not self._settled:
                    if watch.error is not None:
                        raise copy.copy(watch.error)
                    left = gives_up - self._clock.now()
                    if left <= 0:
                        at_deadline = gives_up >= watch.deadline
                        if polled_last or not self._is_stale(-left, at_deadline=at_deadline):
                            raise self._timed_out(watch)
                        polled_last, left = True, LAST
                    if watch.asking:
                        await self._clock.sleep(left, watch.moved)
                    else:
                        await self._ask(watch, left, at_once=polled_last)
                    yield self.snapshot
            finally:
                self._leave(watch)
        yield self.snapshot  # it may have settled while whoever follows was busy

    def _is_stale(self, late: float, *, at_deadline: bool) -> bool:
        """Whether to poll once more before giving up: at the deadline, or after a suspension."""
        unseen = self._clock.now() - self._asked_at
        return unseen > SPACING and (at_deadline or late > SPACING)

    async def _ask(self, watch: _Watch, left: float, *, at_once: bool = False) -> None:
        """Be the one who asks, for one step: a part of the pause, or a look."""
        watch.asking = True
        try:
            pause = self._next_look - self._clock.now()
            if pause > 0 and not at_once:
                await self._clock.sleep(min(pause, left), watch.moved)
            else:
                await self._look_once(watch, left)
        finally:
            watch.asking = False
            watch.wake()

    async def _look_once(self, watch: _Watch, left: float) -> None:
        now = self._looked_at = self._asked_at = self._clock.now()
        if now - self._next_look > UNWATCHED:
            self._delays = self._polling.delays(self._rng)
            self._missing_since = self._empty_since = None
            self._outage_since = self._outage_told = None
        # Should we be cut off in the middle, the next asks again, but not at once.
        hinted = self._nudged
        self._next_look, self._nudged = now + min(SPACING, self._polling.initial), False
        patience = asyncio.timeout(left)
        try:
            async with patience:
                snapshot = await self._poll(self.task_id)
        except TimeoutError:
            if not patience.expired():
                raise
            return
        except ApikleyError as error:
            self._missed(watch, error)
        else:
            self._take(watch, snapshot)
        self._looked_at = self._clock.now()
        pause = min(next(pauses) for pauses in (self._delays, *self._followers))
        if hinted or self._failing or self._claim or self._empty_since is not None:
            pause = min(pause, AGAIN)  # however slowly we look otherwise
        self._next_look = self._looked_at + (min(SPACING, pause) if self._nudged else pause)

    def _take(self, watch: _Watch, snapshot: Snapshot) -> None:
        """Believe an answer, except the three that must be seen to last."""
        now = self._clock.now()
        self._seen, self._missing_since, self._trouble = True, None, ""
        if self._outage_told is not None:
            logger.info("polling %s works again", self.task_id)
        self._outage_since = self._outage_told = None
        snapshot = self._claimed(snapshot)
        new = snapshot.word not in self._words_told and len(self._words_told) < MOST_WORDS
        if snapshot.state is State.UNKNOWN and new:
            self._words_told.append(snapshot.word)
            told = "%s is in a state this version does not know: %.60r"
            logger.warning(told, self.task_id, snapshot.word)
        if snapshot.state is State.FAIL and not self._failing:
            self._failing = True  # counts when the next look says it again
            return
        self._failing = snapshot.state is State.FAIL
        if snapshot.empty:
            self._empty_since = self._empty_since if self._empty_since is not None else now
            if now - self._empty_since >= EMPTY:
                self._empty_since = None
                watch.error = EmptyResultError(
                    "The film is ready, but without a usable link",
                    task_id=self.task_id,
                    raw=dict(snapshot.raw),
                )
            return
        self._empty_since = None
        self.snapshot = snapshot
        self._settled = snapshot.done
        if self._settled:
            logger.info("settled: %s %s", self.task_id, snapshot.state.value)
            if self._ended is not None:
                self._ended(snapshot)

    def _claimed(self, snapshot: Snapshot) -> Snapshot:
        """Take an unknown word for success when it lasts: a link, the end, and polls that agree."""
        ended = snapshot.completed_at is not None or snapshot.progress == 100
        if snapshot.state is not State.UNKNOWN or not (ended and snapshot.urls):
            self._claim = None
            return snapshot
        now = self._clock.now()
        said = (snapshot.word, *(url.partition("?")[0] for url in snapshot.urls))
        if self._claim is None or self._claim.said != said:
            self._claim = _Claim(said, now)
        self._claim.polls += 1
        if self._claim.polls < CLAIMS or now - self._claim.since < CLAIMED:
            return snapshot
        self._claim = None
        told = "%s is taken for finished: it has a link, and the state %.60r has lasted"
        logger.warning(told, self.task_id, snapshot.word)
        return attrs.evolve(snapshot, state=State.SUCCESS)

    def _missed(self, watch: _Watch, error: ApikleyError) -> None:
        """Go on through outages; end the looking for what will not pass by itself."""
        now = self._clock.now()
        self._tell_of_outage(now, error)
        self._trouble, self._empty_since = error.message, None
        if isinstance(error, NotFoundError):
            since = self._missing_since if self._missing_since is not None else now
            over = now - since >= (MISSING_OWN if self._seen else MISSING_FOREIGN)
            self._missing_since, self._claim = None if over else since, None
        else:
            self._missing_since = None  # an outage is no sight of a missing task
            over = error.retry == "never"
        if over:
            watch.error = error

    def _tell_of_outage(self, now: float, error: ApikleyError) -> None:
        """Log each failure at DEBUG, and one that lasts as a warning, seldom."""
        reason = loggable(error.message)
        logger.debug("polling %s failed: %s", self.task_id, reason)
        if self._outage_since is None:
            self._outage_since = now
        lasted = now - self._outage_since
        if lasted >= (OUTAGE if self._outage_told is None else self._outage_told + STILL):
            self._outage_told = lasted
            told = "polling %s has failed for %.0f s: %s"
            logger.warning(told, self.task_id, lasted, reason)

    def _join(self) -> _Watch:
        if self._binding.bind(in_use=self._watch is not None):
            self._watch = None  # of a loop that was closed around whoever awaited
        now, watch = self._clock.now(), self._watch
        if watch is None or watch.error is not None or now >= watch.deadline:
            watch = self._watch = _Watch(now, now + self._timeout)
        watch.awaiters += 1
        return watch

    def _leave(self, watch: _Watch) -> None:
        watch.awaiters -= 1
        if watch.awaiters == 0 and self._watch is watch:
            self._watch = None

    def _timed_out(self, watch: _Watch) -> JobTimeoutError:
        waited = self._clock.now() - watch.began
        last = f"; the last look failed: {self._trouble}" if self._trouble else ""
        told = f"Not ready after {waited:.0f} s, {self.snapshot.state_text}{last}"
        return JobTimeoutError(told, task_id=self.task_id, job=self)

    def __repr__(self) -> str:
        return f"<Job {self.task_id} {self.snapshot.state_text}>"
