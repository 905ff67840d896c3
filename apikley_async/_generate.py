"""Many films at once: pulls no more works than it can run, and yields as films finish.

Knows neither a client nor a socket: it is handed a way to take a running slot and a way to make one
film. One failure never stops the others; it is a value like any other outcome. Only an error that
every other film would meet as well ends the pulling.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import attrs

from apikley_async._binding import OtherLoopError
from apikley_async._clock import Clock
from apikley_async._job import Job
from apikley_async._result import Result
from apikley_async._retry import Maintenance
from apikley_async._spending import Expense
from apikley_async._storyboard import Work
from apikley_async._text import loggable
from apikley_async.errors import (
    ApikleyError,
    ClientClosedError,
    JobFailedError,
    MaintenanceError,
    SubmissionUncertainError,
)

__all__ = ["Outcome", "Works"]

logger = logging.getLogger("apikley_async")

Submitted: TypeAlias = tuple[Job, float | None]
"""A job, and for how many seconds it is waited for."""

Wanted: TypeAlias = Work | tuple[Work, Any]
"""A work, or a work and what the caller knows it by."""

Works: TypeAlias = Iterable[Wanted] | AsyncIterable[Wanted]


@attrs.frozen
class Outcome:
    """What became of one work.

    Attributes:
        index: its place in the input, from 0.
        work: what was asked for.
        job: the paid task, unless nothing was submitted.
        result: the film, or None.
        error: why there is none, or None.
        metadata: what the caller knows the work by.
    """

    index: int
    work: Work
    job: Job | None = None
    result: Result | None = None
    error: Exception | None = None
    metadata: Any = attrs.field(default=None, repr=False)

    def unwrap(self) -> Result:
        """Give the result, or raise the error."""
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise JobFailedError("There is neither a result nor an error")
        return self.result


def _say_in_doubt(error: SubmissionUncertainError) -> None:
    logger.warning("a film may be paid and nobody waits for it: attempt %s", error.token)


class SubmitOne(Protocol):
    """Submits one work, for which *expense* was set aside."""

    def __call__(
        self, work: Work, *, expense: Expense | None, metadata: Any
    ) -> Awaitable[Submitted]: ...


class Submitting:
    """How one run of `generate_many` submits: through maintenance, and until it is stopped.

    *stop* ends what was not sent yet, and refuses what comes later, with `ClientClosedError`.
    """

    def __init__(
        self,
        submit: SubmitOne,
        *,
        stop: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._submit = submit
        self._stop = stop
        self._clock = clock
        self._maintenance = Maintenance()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Send nothing more."""
        self._stop()
        self._stopping.set()

    async def submit(
        self, work: Work, *, expense: Expense | None, metadata: Any = None
    ) -> Submitted:
        """Submit, and again after each pause of a maintenance that does not last."""
        while True:
            if (wait := self._maintenance.opens_at - self._clock.now()) > 0:
                await self._clock.sleep(wait, self._stopping)
            try:
                submitted = await self._submit(work, expense=expense, metadata=metadata)
            except MaintenanceError as error:
                before = self._maintenance.pauses
                pause = self._maintenance.refused(self._clock.now())
                if pause is None:
                    raise
                if self._maintenance.pauses != before:
                    told = "nothing is submitted for %.0f s: %s"
                    logger.warning(told, pause, loggable(error.message))
            else:
                self._maintenance.ended()
                return submitted


class Making:
    """One run of `generate_many`: a driver that pulls and starts, and the films it started.

    At most *window* works are pulled and not yet handed on, so that a slow consumer slows the
    buying, and input of any length costs the same memory. What was bought, or may have been, is
    handed on once or, when the consumer has left, told once to *left_behind* or *in_doubt*.

    After an error that affects all, *halt* is called, which ends what was not sent yet in a
    `ClientClosedError`: it is handed on with that error instead, and so is what runs, when it has
    ended; then the error is raised.
    """

    def __init__(
        self,
        works: Works,
        *,
        window: int,
        running_slot: Callable[[], AbstractAsyncContextManager[None]],
        make: Callable[[int, Work, Any], Awaitable[Outcome]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        left_behind: Callable[[Job], None],
        in_doubt: Callable[[SubmissionUncertainError], None] = _say_in_doubt,
        halt: Callable[[], None] = lambda: None,
    ) -> None:
        self._works = works
        self._running_slot = running_slot
        self._make = make
        self._spawn = spawn
        self._left_behind = left_behind
        self._in_doubt = in_doubt
        self._halt = halt
        self._seats = asyncio.Semaphore(window)
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._started = 0
        self._abandoned = False
        self._driver: asyncio.Task[None] | None = None
        self._pulling = False
        self._ended_by: Exception | None = None

    async def outcomes(self, *, ordered: bool) -> AsyncGenerator[Outcome, None]:
        """Yield each outcome once, as films finish or in the order of the input."""
        driver = self._driver = self._spawn(self._drive())
        self._keep(driver)
        handed_on, waiting = 0, dict[int, Outcome]()
        try:
            while self._tasks or not self._outcomes.empty():
                outcome = await self._outcomes.get()
                if outcome is None:  # a task has ended, maybe the last
                    continue
                waiting[outcome.index] = outcome
                while waiting and (not ordered or handed_on in waiting):
                    following = waiting.pop(handed_on if ordered else next(iter(waiting)))
                    handed_on += 1
                    yield following
                    self._seats.release()
            ended = self._ended_by is not None
            if handed_on < self._started or (driver.cancelled() and not ended):
                raise ClientClosedError("The client was closed before all films were ready")
            if not driver.cancelled():
                driver.result()  # an error of the input, after everything bought was handed on
            if self._ended_by is not None:
                raise self._ended_by
        finally:
            await self._abandon(driver, waiting)

    async def _drive(self) -> None:
        """Take a running slot, then pull, then start: never the other way round."""
        async with contextlib.aclosing(_each(self._works)) as source:
            for index in itertools.count():
                self._pulling = True
                await self._seats.acquire()
                async with contextlib.AsyncExitStack() as held:
                    await held.enter_async_context(self._running_slot())
                    try:
                        wanted = await anext(source)
                    except StopAsyncIteration:
                        return
                    self._pulling = False
                    if self._abandoned:  # the source has swallowed the cancellation
                        return
                    self._started += 1
                    self._keep(self._spawn(self._film(index, wanted, held)))
                    # In this moment the film takes over what is held. If it is ended before it
                    # begins, nobody has taken it over and it is given back here.
                    await asyncio.sleep(0)
                if self._ended_by is not None:
                    return

    async def _film(self, index: int, wanted: Wanted, held: contextlib.AsyncExitStack) -> None:
        work, metadata = _parts(wanted)
        with contextlib.suppress(SubmissionUncertainError):
            async with held.pop_all():
                outcome = self._judged(await self._make(index, work, metadata))
                if self._abandoned:
                    self._leave(outcome)
                else:
                    self._outcomes.put_nowait(outcome)
                if isinstance(outcome.error, SubmissionUncertainError):
                    raise outcome.error  # its film may be running: the slot has to know

    def _judged(self, outcome: Outcome) -> Outcome:
        """End the pulling for an error that every other work would meet; it is theirs then, too."""
        error = outcome.error
        if isinstance(error, ClientClosedError):
            unsent = self._ended_by is not None and outcome.job is None and error.task_id is None
            return attrs.evolve(outcome, error=self._ended_by) if unsent else outcome
        shared = isinstance(error, OtherLoopError)
        if isinstance(error, ApikleyError):
            shared = error.affects_all
        if shared and self._ended_by is None:
            self._ended_by = error
            self._halt()
            if self._pulling and self._driver is not None:
                self._driver.cancel()
        return outcome

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._outcomes.put_nowait(None)

    async def _abandon(self, driver: asyncio.Task[None], waiting: dict[int, Outcome]) -> None:
        """Stop pulling and looking; what was bought and not handed on is left behind by name."""
        self._abandoned = True
        for task in self._tasks:
            task.cancel()
        while not self._outcomes.empty():
            if (outcome := self._outcomes.get_nowait()) is not None:
                waiting[outcome.index] = outcome
        for outcome in waiting.values():
            self._leave(outcome)
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if not driver.cancelled():
            driver.exception()  # seen: nobody is left to whom it could be raised

    def _leave(self, outcome: Outcome) -> None:
        if outcome.job is not None:
            self._left_behind(outcome.job)
        elif isinstance(outcome.error, SubmissionUncertainError):
            self._in_doubt(outcome.error)


async def _each(works: Works) -> AsyncGenerator[Wanted, None]:
    """One shape for both kinds of input."""
    if isinstance(works, AsyncIterable):
        async for work in works:
            yield work
    else:
        for work in works:
            yield work


def _parts(wanted: Wanted) -> tuple[Work, Any]:
    """The work and its metadata; what is neither a work nor such a pair is refused later."""
    if isinstance(wanted, tuple) and len(wanted) == 2:
        return wanted
    work: Any = wanted
    return work, None
