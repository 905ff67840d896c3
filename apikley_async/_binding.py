"""Which event loop a thing is used in: one at a time, and one after another.

What waits in one loop is not woken from another, so a thing that two threads' loops share would
wait for ever. It says so instead, as asyncio's own locks do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Binding", "OtherLoopError", "within"]

T = TypeVar("T")


class OtherLoopError(RuntimeError):
    """It is in use in another event loop."""


class Binding:
    """The event loop that *what* is used in, if any."""

    def __init__(self, what: str) -> None:
        self._bound: dict[str, asyncio.AbstractEventLoop] = {}
        self._what = what

    def bind(self, *, in_use: bool) -> bool:
        """Bind to the running loop; say whether another one is left behind.

        Args:
            in_use: whether anybody waits for it in the loop it is bound to.

        Raises:
            OtherLoopError: the loop before still runs, or somebody waits in it.
        """
        loop = asyncio.get_running_loop()
        before = self._bound.setdefault("loop", loop)  # one step: of two threads one is the first
        if before is loop:
            return False
        if not before.is_closed() and (in_use or before.is_running()):
            raise OtherLoopError(
                f"{self._what} is in use in another event loop, which would never wake who "
                "waits here: make one for each loop"
            )
        self._bound["loop"] = loop
        return True


async def within(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Do *work* in the loop that it belongs to, whichever loop this is.

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
