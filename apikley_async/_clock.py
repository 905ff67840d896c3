"""Time: the `Clock` protocol, and the clock of the running event loop.

A clock is handed in and never reached for. Everything in this package that waits does so here,
so a test that hands in another clock, or another event loop, controls the time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, runtime_checkable

__all__ = ["Clock", "SystemClock"]

MIN_SLEEP = 0.001  # a timer at "now" may fire before now, and a loop around it would spin


@runtime_checkable
class Clock(Protocol):
    """What time it is, and how to wait; all in seconds."""

    def now(self) -> float:
        """Return the time of a clock that never jumps; only differences have a meaning."""
        ...

    def wall(self) -> float:
        """Return the seconds since 1970 (UTC); this clock may be set and jump."""
        ...

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        """Wait *delay* seconds, or until *wake* is set."""
        ...


class SystemClock:
    """The clock of the running event loop; outside a loop, the machine's monotonic clock.

    On a loop with virtual time it is virtual too, except for `wall`.
    """

    def now(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        pause = max(delay, MIN_SLEEP) if delay > 0 else 0
        if wake is None:
            await asyncio.sleep(pause)
            return
        try:
            async with asyncio.timeout(pause):
                await wake.wait()
        except TimeoutError:
            pass

    def __repr__(self) -> str:
        return "SystemClock()"
