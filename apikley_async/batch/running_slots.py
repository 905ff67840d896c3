"""The slots that the films of a run are made in, and what is reported when all are taken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import attrs

from apikley_async import Client
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.values import Item

__all__ = ["SHORT_WAIT", "RunningSlots"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

SHORT_WAIT = 10.0  # seconds: only longer waits are reported


class RunningSlots:
    """As many slots as the run may have films in the making; each holds one of the client's too.

    Args:
        client: its running slots are shared with all who use it.
        count: films that the run may have in the making.
        report: gets an item that waits, with the reason as its cause.
    """

    def __init__(self, client: Client, count: int, report: Callable[[Item], None]) -> None:
        self._client = client
        self._report = report
        self._own = asyncio.Semaphore(count)
        self._waiting: dict[str, Item] = {}  # for one of the client's
        self._is_reported = False

    @contextlib.asynccontextmanager
    async def slot(self, item: Item) -> AsyncIterator[None]:
        """Surround the making of a film; a `SubmissionUncertainError` through it keeps the slot."""
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(self._own)
            # A film that runs already needs no slot while slots are kept for uncertain films:
            # waiting for one would only delay its polls.
            if item.state is ItemState.PLANNED or not self.free_in:
                await self._take(item, held)
            yield

    async def _take(self, item: Item, held: contextlib.AsyncExitStack) -> None:
        self._waiting[item.key] = item
        self._report_wait(item)
        try:
            await held.enter_async_context(self._client.attempts.running_slot())
        finally:
            del self._waiting[item.key]

    @property
    def free_in(self) -> float:
        """Seconds until a slot is free, where all are kept for uncertain films; else 0."""
        limiter = self._client.limiter
        shared: float = getattr(limiter, "running_free_in", 0.0)  # not every `Limiter` knows
        return max(self._client.attempts.running.free_in, shared)

    def report_waits(self) -> None:
        """One more slot is kept for an uncertain film: whoever waits may wait long now."""
        for item in self._waiting.values():
            self._report_wait(item)

    def _report_wait(self, item: Item) -> None:
        """Say once that slots are kept for uncertain films, how long, and what can be done."""
        wait = self.free_in
        if wait < SHORT_WAIT or self._is_reported:
            return
        self._is_reported = True
        cause = (
            f"all running slots are taken for up to {wait:.0f} s, since uncertain films may be "
            "running; to cut it short, stop, decide about them, and run again, or raise max_running"
        )
        logger.warning("%s waits: %s", item.key, cause)
        self._report(attrs.evolve(item, cause=cause))
