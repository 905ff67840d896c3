"""The items that a run has claimed: a few ahead of what it sends, kept while it lives, given back.

In a store that other processes use too, the run beats, so that its claims hold, and learns so when
they have not held. In a file, whose runs are all of this process, it need not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping

from apikley_async import Clock
from apikley_async.batch.run_options import BatchRunOptions
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.protocol import LEASE, Store
from apikley_async.batch.store.values import Bounds, Item, Owner
from apikley_async.errors import JournalError

__all__ = ["RunClaims"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

AHEAD = 200  # planned items that are claimed and not sent yet
AHEAD_OF_OTHERS = 8  # the same where others could make them meanwhile
BEAT = LEASE / 4  # seconds
MAY_LEAVE = LEASE / 2  # seconds after which an attempt that did not leave yet is not sent any more
SILENCE = BEAT * 1.2  # seconds after which a run that lives should have been heard of
INTERVAL, SHORTEST = 5.0, 0.1  # seconds between two looks at the runs that were not
AGAIN = 60.0  # seconds after which a run without an end tries an item once more
OVER = (ItemState.DONE, ItemState.REJECTED, ItemState.EXPIRED, ItemState.DROPPED)  # nobody's
UNFINISHED = (ItemState.PLANNED, ItemState.SUBMITTED, ItemState.STALLED, ItemState.SUCCESS)


class RunClaims:
    """The claims of one run, which is an owner of its own.

    Args:
        store: of the batch.
        options: which items the run is about.
        bounds: gives what all runs of the store may spend together, as it is known now.
        clock: time.
        on_lost: gets the key of an item that another run has taken over.
        on_error: gets the error with which the store has failed.
    """

    def __init__(
        self,
        store: Store,
        options: BatchRunOptions,
        bounds: Callable[[], Bounds | None],
        clock: Clock,
        *,
        on_lost: Callable[[str], None],
        on_error: Callable[[JournalError], None],
    ) -> None:
        self._store = store
        self._bounds = bounds
        self._clock = clock
        self._on_lost = on_lost
        self._on_error = on_error
        self._owner = options.owner or secrets.token_hex(16)
        self._claimed = options.claimed
        self._more = options.more
        self._ahead = AHEAD_OF_OTHERS if store.shared else AHEAD
        self._left = None if options.keys is None else set(options.keys)
        self._held: set[str] = set()  # claimed, and not ended
        self._renamed: dict[str, str] = {}  # by the key that an item of the run had before
        self._unsent: set[str] = set()  # those of them that are planned, and were not sent yet
        self._tried: dict[str, float] = {}  # the run has done what it can for them, and when
        self._to_release: set[str] = set()
        self._alive: set[str] = set()  # other runs that were heard of while this one waited
        self._has_warned = False
        self._closed = False
        self._changed = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Beat from now on, where that is needed."""
        if self._store.shared:
            self._beating = asyncio.get_running_loop().create_task(self._beat())

    def holds(self, key: str) -> bool:
        """Whether the run has the item of *key*, or that was so called, and has not ended it."""
        return key in self._held or self._renamed.get(key) in self._held

    def close(self) -> None:
        """Claim nothing more that is still to be paid."""
        self._closed = True
        self._changed.set()
        if self._more is not None:
            self._more.wake()

    async def end(self) -> None:
        """Give back what the run has not ended; what is being sent stays its own."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.wait([beating])
        try:
            await self._store.release(self._owner)
        except JournalError as error:  # whoever opens the store again takes over
            logger.info("the claims of a run were not given back: %s", error.message)

    # --- getting items ------------------------------------------------------------------------

    async def items(self) -> AsyncIterator[Item]:
        """Yield items that nobody else makes, as many as there are; what is paid comes first."""
        self._held.update(self._claimed)
        if self._left is not None:
            self._left.difference_update(self._claimed)
        for key in self._claimed:
            if key in self._held:  # it may have been lost meanwhile
                yield await self._store.item(key)
        while (claimed := await self._claim_some()) or await self._wait_for_more():
            for item in claimed:
                # It may have been lost, or the run stopped, while the items before it waited.
                if item.key not in self._held:
                    continue
                if self._closed and item.key in self._unsent:
                    self._give_back(item.key)
                elif item.key in self._tried:  # here it would fail again, for now
                    self._set_aside(item.key)
                else:
                    yield item

    async def _claim_some(self) -> list[Item]:
        """The next items, once there is room for them; none where nobody has any left."""
        while not self._closed and len(self._unsent) > self._ahead // 2:
            self._changed.clear()
            await self._changed.wait()
        room = self._ahead if self._closed else self._ahead - len(self._unsent)
        return await self._claim(room, self._left)

    async def _wait_for_more(self) -> bool:
        """Wait until there may be more; False where the run ends without."""
        if self._closed:
            return False
        if self._more is None:
            return self._store.shared and await self._wait_for_the_silent()
        await self._more.wait(self._clock)
        if not self._store.shared:  # nobody beats there
            await self._release_ended()
        return True

    async def _wait_for_the_silent(self) -> bool:
        """Wait for runs that may have died, until they are heard of or their leases are over.

        Returns:
            Whether one of them has ended, so that what it had may be claimed now.
        """
        before = await self._silent()
        while before and not self._closed:
            self._warn_of(before)
            self._changed.clear()
            nearest = min(run.lapses_in for run in before.values())
            await self._clock.sleep(min(max(nearest, SHORTEST), INTERVAL), self._changed)
            now = await self._silent()
            if not before.keys() <= now.keys():
                return True
            heard_of = {run for run in before if now[run].seen_at > before[run].seen_at}
            self._alive |= heard_of
            before = {run: now[run] for run in now.keys() - heard_of}
        return False

    async def _silent(self) -> dict[str, Owner]:
        """The other runs that have what this one is about, and are not known to live."""
        owners = await self._store.owners(self._left)
        known = {self._owner, *self._alive}
        return {run.id: run for run in owners if run.id not in known}

    def _warn_of(self, runs: Mapping[str, Owner]) -> None:
        """Say once what is waited for, where it is not only the next beat."""
        dead = [run for run in runs.values() if LEASE - run.lapses_in > SILENCE]
        if dead and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d films are those of %s, not heard of for %.0f s: waiting for %.0f s, then this "
                "run makes them",
                sum(run.items for run in dead),
                " and ".join(sorted({run.name for run in dead})),
                max(LEASE - run.lapses_in for run in dead),
                max(run.lapses_in for run in dead),
            )

    async def claim(self, key: str) -> bool:
        """Claim one item that the run knows already; whether it got it."""
        return bool(await self._claim(1, {key}))

    async def _claim(self, count: int, keys: set[str] | None) -> list[Item]:
        planned = not self._closed
        items = [*await self._store.claim(self._owner, count, keys=keys, planned=planned)]
        self._held.update(item.key for item in items)
        self._unsent.update(item.key for item in items if item.state is ItemState.PLANNED)
        if self._left is not None:
            self._left.difference_update(item.key for item in items)
        return items

    # --- using and ending them ----------------------------------------------------------------

    async def intend(
        self,
        item: Item,
        token: str,
        fingerprint: str,
        reserved: float | None,
        kind: int | str | None,
    ) -> float | None:
        """Store an attempt of an item of this run; see `Store.intend`, and `Recorder.intend`.

        Returns:
            For how many seconds after the call it may be sent. The intent extends the lease, so
            nobody else acts on it for `LEASE` seconds, whatever this process does.
        """
        await self._store.intend(
            item.key,
            token,
            fingerprint,
            reserved,
            owner=self._owner,
            digest=item.digest,
            kind=kind,
            bounds=self._bounds(),
        )
        self._unsent.discard(item.key)
        self._changed.set()
        return MAY_LEAVE if self._store.shared else None

    def rename(self, known: str, key: str) -> None:
        """An item of this run has another key by now."""
        if known in self._held:
            self._held.remove(known)
            self._held.add(key)
            self._renamed[known] = key

    def ended(self, item: Item, *, elsewhere: bool = False) -> None:
        """The run does nothing more with an item.

        Args:
            item: as it is now.
            elsewhere: whether that was decided elsewhere: the run may make it if it gets it again.
        """
        if item.key not in self._held:
            return
        if item.state in OVER and not elsewhere:
            self._forget(item.key)
            return
        if item.state in UNFINISHED and not elsewhere:
            self._tried[item.key] = self._clock.now()
        self._give_back(item.key)

    def _set_aside(self, key: str) -> None:
        """Keep an item until the end; a run without an end lets others have it."""
        if self._more is None:
            self._forget(key)
        else:
            self._give_back(key)

    def _give_back(self, key: str) -> None:
        self._forget(key)
        self._to_release.add(key)
        if self._left is not None:
            self._left.add(key)

    def _forget(self, key: str) -> None:
        self._held.discard(key)
        self._unsent.discard(key)
        self._changed.set()

    # --- staying alive ------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Keep the lease, and give back what has ended."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await self._clock.sleep(BEAT)
                held = (
                    self._held.copy()
                )  # what is claimed while the store beats may not be in its answer
                try:
                    owned = await self._store.beat(self._owner)
                    if owned is not None:
                        for key in (held & self._held).difference(owned):
                            self._lose(key)
                    await self._release_ended()
                except JournalError as error:
                    self._on_error(error)
                    return

    async def _release_ended(self) -> None:
        """Give back what has ended; a run without an end tries it again after a while."""
        if keys := self._to_release.copy():
            await self._store.release(self._owner, keys)
            self._to_release -= keys
        if self._more is not None:
            since = self._clock.now() - AGAIN
            self._tried = {key: at for key, at in self._tried.items() if at > since}

    def _lose(self, key: str) -> None:
        logger.warning("%s: another run has taken it over, since this one was not heard of", key)
        self._forget(key)
        if self._left is not None:
            self._left.add(key)
        self._on_lost(key)
