"""What belongs to one event loop: who is inside, which tasks run, and how all of it ends.

Knows neither requests nor films. A client opens a house for each loop it is used in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from apikley_async.errors import ClientClosedError

__all__ = ["House"]


class House:
    """Open until `close`; then everyone inside gets `ClientClosedError` and every task ends."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closing = False
        self._closed = asyncio.Event()
        self._left = asyncio.Event()
        self._pid = os.getpid()
        self._visits: dict[asyncio.Timeout, None] = {}  # in order, as sets are not
        self._tasks: dict[asyncio.Task[Any], None] = {}

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left: it was shut, or its loop was closed around it."""
        return self._closed.is_set() or self.loop.is_closed()

    async def wait_closed(self) -> None:
        """Wait until somebody else has shut it."""
        self._belongs_here()
        await self._closed.wait()

    def check(self) -> None:
        """Raise `ClientClosedError` unless it is open, here and now."""
        self._belongs_here()
        if self.closing:
            raise ClientClosedError("The client is closed")

    def _belongs_here(self) -> None:
        if self._pid != os.getpid():
            raise ClientClosedError("The client was opened before a fork; make one in each process")
        if self.loop is not asyncio.get_running_loop():
            raise ClientClosedError("The client is open in another event loop; make one for each")

    @contextlib.asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """Surrounds what a closing interrupts."""
        self.check()
        visit = asyncio.timeout(None)
        try:
            async with visit:
                self._visits[visit] = None
                try:
                    yield
                finally:
                    self._visits.pop(visit, None)
                    if self.closing and not self._visits:
                        self._left.set()
        except TimeoutError:
            if not visit.expired():
                raise
        else:
            return
        raise ClientClosedError("The client was closed meanwhile")

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the house at the latest."""
        task = self.loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def send_home(self) -> None:
        """Let nobody in any more, and end every visit."""
        self.closing = True
        for visit in self._visits:
            visit.reschedule(self.loop.time())

    async def shut(self, *last: Callable[[], Awaitable[None]]) -> None:
        """End what still runs, then do *last*: all of it, even if we are cancelled meanwhile."""
        ending = self.loop.create_task(self._end(last))
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError as error:
                cancelled = error
        ending.result()
        if cancelled is not None:
            raise cancelled

    async def _end(self, last: tuple[Callable[[], Awaitable[None]], ...]) -> None:
        try:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            if self._visits:  # they are on their way out, or a file is being finished
                await self._left.wait()
            async with contextlib.AsyncExitStack() as acts:  # each, even if another one fails
                for act in reversed(last):
                    acts.push_async_callback(act)
        finally:
            self._closed.set()
