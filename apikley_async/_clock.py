"""Time, as the rooms above see it: a clock that is handed in and never reached for.

Holds the `Clock` protocol and the one that tells real time. Everything that waits in this
package waits here, so whoever hands in another clock (or another event loop) owns the time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, runtime_checkable

__all__ = ["Clock", "SystemClock"]

SHORTEST_SLEEP = 0.001  # a timer at "now" may fire before now: whoever looks again would spin


@runtime_checkable
class Clock(Protocol):
    """What time it is, and how to wait. Seconds everywhere."""

    def now(self) -> float:
        """Seconds on a clock that never jumps; only differences mean something."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 (UTC), as a calendar sees them; may jump."""
        ...

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        """Wait *delay* seconds, or less when *wake* is set before."""
        ...


class SystemClock:
    """The clock of the running event loop; outside of one, the machine's monotonic clock.

    Because it asks the loop, a loop with virtual time needs no other clock for its intervals.
    """

    def now(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        pause = max(delay, SHORTEST_SLEEP) if delay > 0 else 0
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
