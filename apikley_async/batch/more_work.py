"""What a run waits for that has no end: more items to claim."""

from __future__ import annotations

import asyncio

from apikley_async import Clock

__all__ = ["MoreWork"]

INTERVAL = 5.0  # seconds between two looks into the store, where nobody tells of news


class MoreWork:
    """Keeps a run going when nothing is left to claim: `Batch.run(more=)`.

    The run looks into the store again every few seconds, and whenever `wake` is called.

    Args:
        interval: seconds between two looks.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._news = asyncio.Event()
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """There may be more: the run looks now, if it waits."""
        self._news.set()

    async def wanted(self) -> None:
        """Wait until the run has nothing to do but to wait."""
        await self._wanted.wait()

    async def wait(self, clock: Clock) -> None:
        """Wait for the next look; called by the run."""
        self._wanted.set()
        try:
            await clock.sleep(self._interval, self._news)
        finally:
            self._wanted.clear()
            self._news.clear()
