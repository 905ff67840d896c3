"""Tasks and event loops: who owns a task, how all of them end, which loop a thing is used in."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from apikley_async.errors import ClientClosedError

__all__ = [
    "Binding",
    "CancelScope",
    "FairLock",
    "Limit",
    "Nested",
    "OtherLoopError",
    "TaskScope",
    "within",
]

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs here; a sentence where none of asyncio does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise RuntimeError(
        "apikley_async runs on asyncio, and no event loop of asyncio runs here: call it from a "
        "coroutine that asyncio.run() runs. Under trio, use trio-asyncio, or asyncio.run() in a "
        "thread (trio.to_thread.run_sync)"
    )


class TaskScope:
    """The tasks and waits of one client in one event loop.

    `interrupt` ends every wait with `ClientClosedError`; `shut` ends every task.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = running_loop()
        self.closing: bool = False
        self._closed = asyncio.Event()
        self._no_waits = asyncio.Event()
        self._pid = os.getpid()
        self._waits: dict[CancelScope, None] = {}  # in order, as sets are not
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._forget = self._tasks.pop  # made once: a bound method takes 64 bytes

    @property
    def gone(self) -> bool:
        """Whether it was shut, or its loop was closed around it."""
        return self._closed.is_set() or self.loop.is_closed()

    async def wait_closed(self) -> None:
        """Wait until another caller has shut it."""
        self._check_loop()
        await self._closed.wait()

    def check(self) -> None:
        """Raise `ClientClosedError` unless it is open, here and now."""
        self._check_loop()
        if self.closing:
            raise ClientClosedError("The client is closed")

    def _check_loop(self) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # the loop of the process that was forked runs in that one only
            here = None
        if self.loop is here:
            return
        if self._pid != os.getpid():
            raise ClientClosedError("The client was opened before a fork; make one in each process")
        raise ClientClosedError("The client is open in another event loop; make one for each")

    def inside(self) -> AbstractAsyncContextManager[None]:
        """Surround a wait that closing interrupts.

        Raises:
            ClientClosedError: the client was closed before or meanwhile.
        """
        return _Wait(self)

    def begin(self, wait: CancelScope) -> None:
        """Let closing interrupt *wait* from now on."""
        self._waits[wait] = None

    def end(self, wait: CancelScope) -> None:
        self._waits.pop(wait, None)
        if self.closing and not self._waits:
            self._no_waits.set()

    def entering(self, manager: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]:
        """Enter *manager* in a wait that closing interrupts; what it surrounds is no such wait."""
        return _Entering(self, manager)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the client at the latest."""
        task = self.loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def interrupt(self) -> None:
        """Begin no wait any more, and end those that go on."""
        self.closing = True
        self.loop.call_soon(self._end_waits)

    def _end_waits(self) -> None:
        for wait in self._waits:
            wait.cancel()

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
            if self._waits:  # they are ending, or a file is being finished
                await self._no_waits.wait()
            async with contextlib.AsyncExitStack() as acts:  # each, even if another one fails
                for act in reversed(last):
                    acts.push_async_callback(act)
        finally:
            self._closed.set()


class FairLock:
    """A lock that is given on in the order in which it was asked for.

    Unlike `asyncio.Lock`, leaving its queue takes the same time however many wait: ten thousand
    that are cancelled at once leave in linear time.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def locked(self) -> bool:
        """Whether somebody holds it, or is about to."""
        return self._held

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given on to this very waiter
                self._give_on()
            raise
        finally:
            self._waiting.pop(turn, None)

    async def __aexit__(self, *_: object) -> None:
        self._give_on()

    def _give_on(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False


class CancelScope:
    """A block of one task that `cancel` ends: the task goes on behind it, as with trio and anyio.

    What `asyncio.timeout` does, for what each request is in: entering that costs as much as a tenth
    of a poll. A cancellation of somebody else passes through, also one that comes at the same time.

    Attributes:
        caught: whether `cancel` has ended the block, and nobody else.
    """

    __slots__ = ("_called", "_others", "_task", "caught")

    def __init__(self) -> None:
        self.caught: bool = False
        self._called = False

    def __enter__(self) -> Self:
        self.enter(asyncio.get_running_loop())
        return self

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin in the task that runs now in *loop*."""
        self._task = cast(asyncio.Task[Any], asyncio.current_task(loop))
        self._others = self._task.cancelling()

    def cancel(self) -> None:
        """End the block, from a callback of the loop; nothing happens when it has ended."""
        if not self._called:
            self._called = True
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        called, self._called = self._called, True  # from now on `cancel` comes too late
        if called:
            alone = self._task.uncancel() <= self._others
            self.caught = alone and kind is asyncio.CancelledError
        return self.caught


class Limit(CancelScope):
    """A block that has so many *seconds* at most; `caught` says that it took longer."""

    __slots__ = ("_loop", "_timer", "seconds")

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        super().enter(loop)
        self._loop = loop
        self._timer = loop.call_later(self.seconds, self.cancel)

    def restart(self, seconds: float) -> None:
        """Give the block so many seconds from now, unless it has ended."""
        self.seconds = seconds
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.cancel)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._timer.cancel()
        return super().__exit__(kind, error, traceback)


class _Wait(CancelScope):
    """A block that closing ends. A class, not a generator: each poll is inside one."""

    __slots__ = ("_scope",)

    def __init__(self, scope: TaskScope) -> None:
        super().__init__()
        self._scope = scope

    async def __aenter__(self) -> None:
        self._scope.check()
        self.enter(self._scope.loop)
        self._scope.begin(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._scope.end(self)
        if self.__exit__(kind, error, traceback):
            raise ClientClosedError("The client was closed meanwhile")


class Nested:
    """Two context managers as one. A class, not a generator: each film that runs is in one."""

    __slots__ = ("_inner", "_outer")

    def __init__(
        self, outer: AbstractAsyncContextManager[Any], inner: AbstractAsyncContextManager[Any]
    ) -> None:
        self._outer = outer
        self._inner = inner

    async def __aenter__(self) -> None:
        await self._outer.__aenter__()
        try:
            await self._inner.__aenter__()
        except BaseException as error:
            await self._outer.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._inner.__aexit__(kind, error, traceback)
        except BaseException as raised:
            await self._outer.__aexit__(type(raised), raised, raised.__traceback__)
            raise
        await self._outer.__aexit__(kind, error, traceback)


class _Entering(Generic[T]):
    """A class, not a generator: many films are inside one at the same time."""

    __slots__ = ("_manager", "_scope")

    def __init__(self, scope: TaskScope, manager: AbstractAsyncContextManager[T]) -> None:
        self._scope = scope
        self._manager = manager

    async def __aenter__(self) -> T:
        entered = False
        try:
            async with self._scope.inside():
                value = await self._manager.__aenter__()
                entered = True
        except BaseException as error:
            if entered:  # closing came just then
                await self._manager.__aexit__(type(error), error, error.__traceback__)
            raise
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)


class OtherLoopError(RuntimeError):
    """It is in use in another event loop."""


class Binding:
    """The event loop that *what* is used in, if any: one at a time, and one after another.

    What waits in one loop is not woken from another, so a thing that two threads' loops share
    would wait for ever. It raises instead, as asyncio's own locks do.
    """

    __slots__ = ("_bound", "_what")

    def __init__(self, what: str) -> None:
        self._bound: dict[str, asyncio.AbstractEventLoop] = {}
        self._what = what

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; there is one after `bind`."""
        return self._bound["loop"]

    def bind(self, *, in_use: bool) -> bool:
        """Bind to the running loop; return whether another one is left behind.

        Args:
            in_use: whether a task waits for it in the loop it is bound to.

        Raises:
            OtherLoopError: the loop before still runs, or a task waits in it.
        """
        loop = asyncio.get_running_loop()
        before = self._bound.setdefault("loop", loop)  # one step: of two threads one is the first
        if before is loop:
            return False
        if not before.is_closed() and (in_use or before.is_running()):
            raise OtherLoopError(
                f"{self._what} is in use in another event loop, which would never wake a "
                "task that waits here: make one for each loop"
            )
        self._bound["loop"] = loop
        return True


async def within(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Await *work* in the loop that it belongs to, whichever loop this is.

    Raises:
        RuntimeError: that loop is closed.
    """
    if asyncio.get_running_loop() is loop:
        return await work
    try:
        elsewhere = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        work.close()
        raise
    return await asyncio.wrap_future(elsewhere)
