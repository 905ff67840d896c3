"""A second thread with an event loop of its own, for what must not be shared by two loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

__all__ = ["another_loop"]


@contextlib.contextmanager
def another_loop(
    main: Callable[[], Coroutine[Any, Any, Any]],
) -> Iterator[asyncio.AbstractEventLoop]:
    """Another thread's loop, in which *main* has begun and does not end meanwhile."""
    loop, begun = asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        loop.call_soon(begun.set)
        with contextlib.suppress(asyncio.CancelledError):
            await main()

    ending: list[asyncio.Task[None]] = []

    def serve() -> None:
        ending.append(loop.create_task(run()))
        loop.run_until_complete(ending[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert begun.wait(20)
        yield loop
    finally:
        loop.call_soon_threadsafe(lambda: ending[0].cancel())
        thread.join(20)
        loop.close()
