"""Many films at once: pulls no more works than it can run, and yields as films finish.

Knows neither a client nor a socket: it is handed a way to take a place and a way to make one
film. One failure never stops the others; it is a value like any other outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import attrs

from apikley_async._job import Job
from apikley_async._result import Result
from apikley_async._storyboard import Work
from apikley_async.errors import JobFailedError

__all__ = ["Outcome", "Works"]

Works: TypeAlias = Iterable[Work] | AsyncIterable[Work]


@attrs.frozen
class Outcome:
    """What became of one work.

    Attributes:
        index: its place in the input, from 0.
        work: what was asked for.
        job: the paid task, unless nothing was submitted.
        result: the film, or None.
        error: why there is none, or None.
    """

    index: int
    work: Work
    job: Job | None = None
    result: Result | None = None
    error: Exception | None = None

    def unwrap(self) -> Result:
        """Give the result, or raise the error."""
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise JobFailedError("There is neither a result nor an error")
        return self.result


class Making:
    """One run of `generate_many`: a driver that pulls and starts, and the films it started.

    At most *window* works are pulled and not yet handed on, so that a slow consumer slows the
    buying, and input of any length costs the same memory.
    """

    def __init__(
        self,
        works: Works,
        *,
        window: int,
        place: Callable[[], AbstractAsyncContextManager[None]],
        make: Callable[[int, Work], Awaitable[Outcome]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        left_behind: Callable[[Job], None],
    ) -> None:
        self._works = works
        self._place = place
        self._make = make
        self._spawn = spawn
        self._left_behind = left_behind
        self._seats = asyncio.Semaphore(window)
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._films: set[asyncio.Task[None]] = set()
        self._started = 0

    async def outcomes(self, *, ordered: bool) -> AsyncGenerator[Outcome, None]:
        """Yield each outcome once, as films finish or in the order of the input."""
        driver = self._spawn(self._drive())
        handed_on, waiting = 0, dict[int, Outcome]()
        try:
            while not driver.done() or handed_on < self._started:
                outcome = await self._outcomes.get()
                if outcome is None:  # the driver has ended
                    continue
                waiting[outcome.index] = outcome
                while waiting and (not ordered or handed_on in waiting):
                    following = waiting.pop(handed_on if ordered else next(iter(waiting)))
                    handed_on += 1
                    yield following
                    self._seats.release()
            await driver  # an error of the input, after everything bought was handed on
        finally:
            await self._abandon(driver, waiting)

    async def _drive(self) -> None:
        """Take a place, then pull, then start: never the other way round."""
        source = _each(self._works)
        try:
            for index in itertools.count():
                await self._seats.acquire()
                async with contextlib.AsyncExitStack() as held:
                    await held.enter_async_context(self._place())
                    try:
                        work = await anext(source)
                    except StopAsyncIteration:
                        return
                    self._started += 1
                    film = self._spawn(self._film(index, work, held.pop_all()))
                    self._films.add(film)
                    film.add_done_callback(self._films.discard)
        finally:
            self._outcomes.put_nowait(None)
            await source.aclose()

    async def _film(self, index: int, work: Work, held: contextlib.AsyncExitStack) -> None:
        outcome: Outcome
        async with held:
            outcome = await self._make(index, work)
        self._outcomes.put_nowait(outcome)

    async def _abandon(self, driver: asyncio.Task[None], waiting: dict[int, Outcome]) -> None:
        """Stop pulling and looking; what was bought and not handed on is left behind by name."""
        tasks = {driver, *self._films}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if not driver.cancelled():
            driver.exception()
        while not self._outcomes.empty():
            if (outcome := self._outcomes.get_nowait()) is not None:
                waiting[outcome.index] = outcome
        for outcome in waiting.values():
            if outcome.job is not None:
                self._left_behind(outcome.job)


async def _each(works: Works) -> AsyncGenerator[Work, None]:
    """One shape for both kinds of input."""
    if isinstance(works, AsyncIterable):
        async for work in works:
            yield work
    else:
        for work in works:
            yield work
