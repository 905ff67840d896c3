"""A clock that a test moves by hand."""

from __future__ import annotations

import asyncio

__all__ = ["ManualClock"]


class ManualClock:
    """Stands still until a test adds to `time`, or until somebody sleeps."""

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_790_000_000.0 + self.time

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        self.time += delay
        await asyncio.sleep(0)
