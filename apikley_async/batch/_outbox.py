"""What is out: attempts that are written down before they leave, and after they have ended.

A POST that is out is worth money: whoever leaves waits for it. Nothing else here waits.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from apikley_async import (
    Attempt,
    Client,
    Clock,
    Job,
    Limiter,
    Request,
    Verdict,
    Work,
)
from apikley_async.batch._states import Event
from apikley_async.batch._store import Item, Step, Store
from apikley_async.errors import ClientClosedError

__all__ = ["NotSentError", "Outbox", "Writer", "restore_window", "step_of"]

AGAIN = (Verdict.THROTTLED, Verdict.UNSENT)  # after these the client tries again by itself
LONGEST_REST = 60.0  # of a limiter's slot, after an uncertain attempt


class NotSentError(Exception):
    """The outbox was closed before the submission was out."""


class Outbox:
    """Submits for a run; *tell* learns of an item when its attempt has ended."""

    def __init__(
        self, store: Store, client: Client, clock: Clock, tell: Callable[[Item], None]
    ) -> None:
        self.store = store
        self.tell = tell
        self.closing = False
        self._client = client
        self._clock = clock
        self._sendings: dict[asyncio.Task[Job], Writer] = {}
        self._writings: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._kept: list[str] = []

    async def submit(self, work: Work, writer: Writer) -> Job:
        """Submit once. Cancelling stops what has not been sent; what is out stays out.

        Raises:
            NotSentError: it was closed before; what `client.submit` raises besides.
        """
        sending = asyncio.get_running_loop().create_task(self._client.submit(work, recorder=writer))
        self._sendings[sending] = writer
        sending.add_done_callback(self._ended)
        try:
            await asyncio.wait({sending})
        except asyncio.CancelledError:
            if not (writer.out or writer.over):
                sending.cancel()
            raise
        if sending.cancelled():
            raise NotSentError
        return sending.result()

    @property
    def pending(self) -> int:
        """How many submissions are out, and their answers awaited."""
        return sum(writer.out for writer in self._sendings.values())

    def close(self) -> None:
        """Let nothing more out: whoever waits for a place, or to try again, need not."""
        self.closing = True
        self._prune()

    async def aclose(self, grace: float) -> None:
        """Close it; give what is out *grace* seconds, and its outcome to the store."""
        self.close()
        ends = self._clock.now() + grace
        while self._sendings or self._writings:
            left = ends - self._clock.now()
            if left <= 0:
                break
            self._moved.clear()
            await self._clock.sleep(left, self._moved)
        for sending in self._sendings:  # the client sees them to their end
            sending.cancel()
        if self._sendings:
            await asyncio.wait(set(self._sendings))
        for token in self._kept:  # the store may be closed now
            self._client.release(token)

    async def write_down(self, key: str, attempt: Attempt) -> None:
        """Store what became of an attempt: to its end, even if whoever waits is cancelled."""
        writing = asyncio.get_running_loop().create_task(self._settle(key, attempt))
        self._writings.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    def expect(self, token: str, **known: Any) -> bool:
        """Have the store keep what callbacks say about an attempt, before they are answered.

        Tells whether one has named its task already.
        """
        if not self._client.hears_callbacks:
            return False
        self._kept.append(token)
        keep = functools.partial(self.store.receive, token)
        return self._client.expect(token, **known, keep=keep)

    def settled(self) -> None:
        """An attempt is settled; when we are closing, no other shall follow."""
        if self.closing:
            self._prune()

    def _prune(self) -> None:
        for sending, writer in self._sendings.items():
            if not (writer.out or writer.over):
                sending.cancel()

    async def _settle(self, key: str, attempt: Attempt) -> None:
        self.tell(await self.store.settle(key, attempt, step_of(attempt)))

    def _ended(self, sending: asyncio.Task[Job]) -> None:
        del self._sendings[sending]
        self._moved.set()
        if not sending.cancelled():
            sending.exception()  # seen: whoever waits for it gets it, and the store knows

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writings.discard(writing)
        self._moved.set()
        if not writing.cancelled():
            writing.exception()  # seen: whoever waits for it gets it


class Writer:
    """A `Recorder` for one item: the intent is on the disk before the first byte of the POST.

    Attributes:
        out: whether an attempt is written down and not settled.
        over: whether the last one was decided, so that no other follows.
        wrote: whether there ever was one.
    """

    def __init__(self, outbox: Outbox, key: str, price: float | None) -> None:
        self._outbox = outbox
        self._key = key
        self._price = price
        self.out = self.over = self.wrote = False

    async def intend(self, token: str, request: Request) -> None:
        if self._outbox.closing:
            raise ClientClosedError("The run was left; nothing was sent")
        self.out = True
        try:
            await self._outbox.store.intend(self._key, token, request.fingerprint, self._price)
        except BaseException:
            self.out = False
            raise
        self.wrote = True
        self._outbox.expect(token)

    async def settle(self, outcome: Attempt) -> None:
        try:
            await self._outbox.write_down(self._key, outcome)
        finally:
            self.over = outcome.verdict not in AGAIN
            self.out = False
            self._outbox.settled()


def step_of(attempt: Attempt) -> Step:
    """The step that an attempt's outcome means for its item."""
    if attempt.verdict is Verdict.ACCEPTED:
        return Step(Event.ACCEPT, task_id=attempt.task_id)
    event = {
        Verdict.THROTTLED: Event.THROTTLE,
        Verdict.UNSENT: Event.UNSENT,
        Verdict.UNCERTAIN: Event.DOUBT,
    }.get(attempt.verdict, Event.POSTPONE if attempt.resumable else Event.REFUSE)
    return Step(event, cause=attempt.cause)


async def restore_window(store: Store, limiter: Limiter) -> None:
    """Let a limiter remember the attempts of the last run: a restart is no new window."""
    limiter.remember(await store.ends(LONGEST_REST))
