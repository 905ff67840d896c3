"""`generate_many`: bounded concurrency, back-pressure, outcomes as values.

`ManyFilms` pulls a work when the one before runs, and yields films as they finish; a `FilmMaker`
makes one. One failure never stops the others; it is a value like any other outcome. Only an error
that every other film would meet as well ends the pulling.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import attrs

from apikley_async._attempts import Attempts
from apikley_async._clock import Clock
from apikley_async._disk import check_writable
from apikley_async._job import Job
from apikley_async._outcomes import Completed, Failed, Outcome
from apikley_async._result import Result
from apikley_async._retry import Maintenance
from apikley_async._spending import Expense
from apikley_async._storyboard import Work
from apikley_async._tasks import OtherLoopError
from apikley_async._text import loggable
from apikley_async._validation import check_kind
from apikley_async.errors import (
    ApikleyError,
    Blame,
    ClientClosedError,
    DownloadError,
    MaintenanceError,
    SubmissionUncertainError,
)

__all__ = ["ClientFilms", "ManyFilms", "Save", "Works", "check_folder", "check_works"]

logger = logging.getLogger("apikley_async")

T = TypeVar("T")

Item: TypeAlias = Work | tuple[Work, Any]
"""A work, or a work and its metadata."""

Works: TypeAlias = Iterable[Item] | AsyncIterable[Item]


class FilmMaker(Protocol):
    """Makes the films of one `generate_many`; `ClientFilms` is the one of a client."""

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the slots of running films."""
        ...

    async def make(self, index: int, work: Work, metadata: Any) -> Outcome:
        """Make one film. Every error is an outcome, a cancellation is not."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the client at the latest."""
        ...

    def stop(self) -> None:
        """Send nothing more: what was not sent yet ends with `ClientClosedError`."""
        ...

    def leave_behind(self, job: Job) -> None:
        """Keep a paid job that nobody waits for any more."""
        ...

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        """Keep an uncertain submission that nobody waits for any more."""
        ...


Save: TypeAlias = Callable[[Result], Awaitable[Iterable[Path]]]
"""Saves the files of a result, and gives their paths."""


async def check_folder(target: str | os.PathLike[str]) -> Path:
    """Make a folder if need be, and try to write there.

    Raises:
        DownloadError: it cannot be made, or written.
    """
    check_kind("save_to", target, (str, os.PathLike), "a folder")
    folder = Path(target)
    try:
        await asyncio.to_thread(check_writable, folder)
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror}"
        raise DownloadError.before_paying(message, blames=Blame.INPUT) from None
    return folder


def check_works(works: object) -> None:
    """Refuse what is no collection of works, such as one work alone."""
    single = isinstance(works, str | bytes | Mapping | Work)
    if single or not isinstance(works, Iterable | AsyncIterable):
        hint = "; put it into a list" if isinstance(works, Work) else ""
        raise TypeError(f"works: storyboards, tasks or pairs, not {type(works).__name__}{hint}")


class _FilmSlot:
    """The running slot of one film, which is given what the film ended with."""

    __slots__ = ("_slot", "ended_by")

    def __init__(self, slot: AbstractAsyncContextManager[None]) -> None:
        self._slot = slot
        self.ended_by: ApikleyError | None = None  # given to the slot, not raised

    async def __aenter__(self) -> Self:
        await self._slot.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if error is None and isinstance(self.ended_by, SubmissionUncertainError):
            kind, error = type(self.ended_by), self.ended_by
        return await self._slot.__aexit__(kind, error, traceback)


class ManyFilms:
    """One run of `generate_many`: a driver task pulls and starts, and each film has its task.

    The next work is pulled when the film before has a running slot. While the input is waited for
    no slot is held: it may depend on other films, which need one.

    At most *window* works are pulled and not yet yielded, so a slow consumer slows the spending,
    and input of any length needs the same memory. What was bought, or may have been, is yielded
    once or, when the consumer has left, kept once by *maker*.

    After an error that affects all films, the maker is stopped. What was not sent yet is yielded
    with that error; films that run are yielded when they have ended; then the error is raised.

    With *save*, each film is saved before it is yielded, when its slot is free again.
    """

    def __init__(
        self, maker: FilmMaker, works: Works, *, window: int, save: Save | None = None
    ) -> None:
        self._maker = maker
        self._save = save
        self._works = works
        self._window_slots = asyncio.Semaphore(window)
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._started = 0
        self._abandoned = False
        self._driver: asyncio.Task[None] | None = None
        self._pulling = False
        self._newest: asyncio.Task[None] | None = None  # the film that was started last
        self._has_slot = asyncio.Event()  # ... has one, or has ended without
        self._refused: Exception | None = None  # instead of a slot
        self._ended_by: ApikleyError | None = None

    async def outcomes(self, *, ordered: bool) -> AsyncGenerator[Outcome, None]:
        """Yield each outcome once, as films finish or in the order of the input."""
        driver = self._driver = self._maker.spawn(self._drive())
        self._keep(driver)
        yielded, waiting = 0, dict[int, Outcome]()
        try:
            while self._tasks or not self._outcomes.empty():
                outcome = await self._outcomes.get()
                if outcome is None:  # a task has ended, maybe the last
                    continue
                waiting[outcome.index] = outcome
                while waiting and (not ordered or yielded in waiting):
                    following = waiting.pop(yielded if ordered else next(iter(waiting)))
                    yielded += 1
                    yield following
                    self._window_slots.release()
            self._raise_end(driver, complete=yielded == self._started)
        finally:
            await self._abandon(driver, waiting)

    def _raise_end(self, driver: asyncio.Task[None], *, complete: bool) -> None:
        """Raise what ended the run, if anything did, after everything bought was yielded."""
        if not complete or (driver.cancelled() and self._ended_by is None):
            raise ClientClosedError("The client was closed before all films were ready")
        if not driver.cancelled():
            driver.result()  # an error of the input
        if self._ended_by is not None:
            raise _as_raised(self._ended_by)

    async def _drive(self) -> None:
        """Pull and start, one film after the other."""
        async with contextlib.aclosing(_each(self._works)) as source:
            for index in itertools.count():
                self._pulling = True
                await self._window_slots.acquire()
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
                self._pulling = False
                if self._abandoned:  # the source has suppressed the cancellation
                    return
                self._started += 1
                self._has_slot.clear()
                self._newest = self._maker.spawn(self._film(index, item))
                self._keep(self._newest)
                await asyncio.sleep(0)  # where a slot is free, the film has it now
                await self._has_slot.wait()
                if self._refused is not None:
                    raise self._refused
                if self._ended_by is not None:
                    return

    async def _film(self, index: int, item: Item) -> None:
        work, metadata = _parts(item)
        film: Completed | None = None
        has_slot = False
        try:
            async with _FilmSlot(self._maker.running_slot()) as slot:
                has_slot = True
                self._has_slot.set()
                outcome = await self._maker.make(index, work, metadata)
                slot.ended_by = outcome.error  # of an uncertain one the film may be running
                if outcome.ok and self._save is not None:
                    film = outcome
                else:
                    self._deliver(outcome)
            if film is not None and self._save is not None:
                self._deliver(await self._saved(film, self._save))
        except asyncio.CancelledError:
            if film is not None:
                self._maker.leave_behind(film.job)
            if has_slot or self._abandoned or self._ended_by is None:
                raise
            self._deliver(Failed(index, work, self._ended_by, None, metadata))
        except Exception as error:
            if has_slot:
                raise
            self._refused = error
            self._has_slot.set()
            self._deliver(Failed(index, work, _as_ours(error), None, metadata))

    async def _saved(self, film: Completed, save: Save) -> Outcome:
        """Save a film. What could not be saved is paid all the same, and has failed."""
        try:
            paths = await save(film.result) if film.result.urls else []
        except Exception as error:  # noqa: BLE001 - a value for the consumer, whatever it is
            if isinstance(error, ClientClosedError):
                self._maker.leave_behind(film.job)
            return Failed(film.index, film.work, _as_ours(error), film.job, film.metadata)
        return attrs.evolve(film, paths=tuple(paths))

    def _deliver(self, outcome: Outcome) -> None:
        outcome = self._checked(outcome)
        if self._abandoned:
            self._leave(outcome)
        else:
            self._outcomes.put_nowait(outcome)

    def _checked(self, outcome: Outcome) -> Outcome:
        """End the pulling for an error that affects all films; unsent films get that error too."""
        error = outcome.error
        if error is None:
            return outcome
        if isinstance(error, ClientClosedError):
            unsent = outcome.job is None and error.task_id is None
            if unsent and self._ended_by is not None:
                outcome = Failed(
                    outcome.index, outcome.work, self._ended_by, None, outcome.metadata
                )
            return outcome
        if self._ended_by is None and (error.affects_all or _is_other_loop(error)):
            self._ended_by = error
            self._maker.stop()
            if self._pulling and self._driver is not None:
                self._driver.cancel()
            else:
                asyncio.get_running_loop().call_soon(self._cancel_waiting)
        return outcome

    def _cancel_waiting(self) -> None:
        """Cancel the film that waits for a slot. It has begun by now, and can say what it was."""
        if self._newest is not None and not self._has_slot.is_set():
            self._newest.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._outcomes.put_nowait(None)
        if task is self._newest:
            self._has_slot.set()

    async def _abandon(self, driver: asyncio.Task[None], waiting: dict[int, Outcome]) -> None:
        """Stop pulling and polling; what was bought and not yielded is left to the maker."""
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
            driver.exception()  # retrieved: nobody is left to whom it could be raised

    def _leave(self, outcome: Outcome) -> None:
        if outcome.job is not None:
            self._maker.leave_behind(outcome.job)
        elif isinstance(outcome.error, SubmissionUncertainError):
            self._maker.report_uncertain(outcome.error)


class MaintenanceGate:
    """Submits again after each maintenance pause; all films share the pauses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._maintenance = Maintenance()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the present pause."""
        self._stopping.set()

    async def through(self, submit: Callable[[], Awaitable[T]]) -> T:
        """Submit, and again after each pause of a maintenance that does not last.

        Raises:
            MaintenanceError: it has lasted for more than a quarter of an hour.
        """
        while True:
            if (wait := self._maintenance.opens_at - self._clock.now()) > 0:
                await self._clock.sleep(wait, self._stopping)
            try:
                submitted = await submit()
            except MaintenanceError as error:
                before = self._maintenance.pauses
                pause = self._maintenance.refused(self._clock.now())
                if pause is None:
                    raise
                if self._maintenance.pauses != before:
                    message = "nothing is submitted for %.0f s: %s"
                    logger.warning(message, pause, loggable(error.message))
            else:
                self._maintenance.ended()
                return submitted


class ClientFilms:
    """Makes films with a client's attempts.

    Args:
        attempts: of the client.
        clock: for the pauses of a maintenance.
        timeout: seconds for each film from its submission; None for the client's `job_timeout`.
    """

    def __init__(self, attempts: Attempts, *, clock: Clock, timeout: float | None) -> None:
        self._attempts = attempts
        self._timeout = timeout
        self._group = attempts.group(recorded=False)
        self._gate = MaintenanceGate(clock)
        self.running_slot = attempts.running_slot
        self.spawn = attempts.sessions.current().tasks.spawn
        self.leave_behind = attempts.leave_behind
        self.report_uncertain = attempts.report_uncertain

    async def make(self, index: int, work: Work, metadata: Any) -> Outcome:
        job: Job | None = None
        try:
            async with self._attempts.expense(work, follow=True) as expense:
                paid, left = await self._submit(work, metadata, expense)
                job = paid
                result = await self._attempts.finish(paid, left)
        except Exception as error:  # noqa: BLE001 - a value for the consumer, whatever it is
            return Failed(index, work, _as_ours(error), job, metadata)
        return Completed(index, work, paid, result, metadata=metadata)

    async def _submit(
        self, work: Work, metadata: Any, expense: Expense | None
    ) -> tuple[Job, float | None]:
        """Submit through the gate; a method of its own, as the job's wait holds its locals."""

        async def submit() -> tuple[Job, float | None]:
            return await self._attempts.submit_or_recover(
                work,
                timeout=self._timeout,
                group=self._group,
                expense=expense,
                metadata=metadata,
                learned=True,
            )

        return await self._gate.through(submit)

    def stop(self) -> None:
        self._group.stop()
        self._gate.stop()


def _as_ours(error: Exception) -> ApikleyError:
    """An error of the caller's own code, or of a loop, inside one of ours."""
    if isinstance(error, ApikleyError):
        return error
    wrapped = ApikleyError(f"{type(error).__name__} was raised while the film was made: {error}")
    wrapped.__cause__ = error
    return wrapped


def _as_raised(error: ApikleyError) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, OtherLoopError) else error


def _is_other_loop(error: ApikleyError) -> bool:
    return isinstance(error.__cause__, OtherLoopError)


async def _each(works: Works) -> AsyncGenerator[Item, None]:
    """One shape for both kinds of input."""
    if isinstance(works, AsyncIterable):
        async for work in works:
            yield work
    else:
        for work in works:
            yield work


def _parts(item: Item) -> tuple[Work, Any]:
    """The work and its metadata; what is neither a work nor such a pair is refused later."""
    if isinstance(item, tuple) and len(item) == 2:
        return item
    work: Any = item
    return work, None
