"""An event loop in a thread of its own, for programs and tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """A running event loop in another thread; `close` ends both. May be used from any thread."""

    def __init__(self, name: str) -> None:
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        self._running.wait()

    def _serve(self) -> None:
        asyncio.run(self._until_closed())

    async def _until_closed(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        self._running.set()
        await self._closed.wait()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the loop, and wait for what it returns or raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* in the loop's thread, and wait for what it returns or raises."""
        if threading.current_thread() is self._thread:
            return function()

        async def called() -> T:
            return function()

        return self.run(called())

    async def finished(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await what *call* gives in the loop, and its result in the loop of the caller."""

        async def awaited() -> T:
            return await call()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(awaited(), self._loop))

    def close(self) -> None:
        """End what still runs in the loop, and wait for the thread."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()
