"""What the conformance tests of a store share: how it is opened, films, attempts, and owners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from apikley_async import Attempt, Shot, Storyboard, Verdict
from apikley_async.batch import Bounds, Item, ItemEvent, Store, Transition
from apikley_async.batch.manifest.payload import make_entry
from apikley_async.batch.store.protocol import LEASE
from apikley_async.batch.store.values import ManifestEntry

RUN = "a-run"


def film(key: str, scene: str | None = None, **options: object) -> ManifestEntry:
    board = Storyboard([Shot(scene or f"The scene of {key}.", 5)], duration=10)
    return make_entry(board, key, where=f"entry {key}", **options)  # type: ignore[arg-type]


def attempt(token: str, verdict: Verdict, task_id: str | None = None) -> Attempt:
    return Attempt(token, verdict, task_id, raw="{}", began_at=1.0, ended_at=2.0)


class OpenStores:
    """How the tests open a store, and let its time pass."""

    def opened(self) -> AbstractAsyncContextManager[Store]:
        """Open the store; opening it again finds what was acknowledged."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened_by(
        self, machines: int, *, clocks_off: float = 0.0
    ) -> AsyncIterator[Sequence[Store]]:
        """Open one store on several machines; by default they share one that is open.

        Args:
            machines: how many stores are given.
            clocks_off: seconds by which the clocks of these machines differ from each other.
        """
        async with self.opened() as store:
            yield [store] * machines

    async def pass_time(self, store: Store, seconds: float) -> None:
        """Let the clock by which a store measures leases go on."""
        raise NotImplementedError

    @asynccontextmanager
    async def taken_over(self) -> AsyncIterator[Store]:
        """Open the store when the leases of all who had claimed items are over."""
        async with self.opened() as store:
            await self.pass_time(store, LEASE + 1)
            await store.claim("sweep", 0)
            yield store

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with self.opened() as store:
            yield store

    async def intend(
        self,
        store: Store,
        key: str,
        token: str,
        reserved: float | None = None,
        *,
        owner: str = RUN,
        kind: int | str | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Store an attempt of a run that has claimed the item."""
        await store.claim(owner, 1, keys=[key])
        options = {"owner": owner, "kind": kind, "bounds": bounds}
        await store.intend(key, token, "print", reserved, **options)  # type: ignore[arg-type]

    async def accept(
        self, store: Store, key: str, task_id: str, reserved: float = 150.0, **options: object
    ) -> Item:
        """Submit a film; it is paid as *task_id*."""
        await self.intend(store, key, f"token-{key}", reserved, **options)  # type: ignore[arg-type]
        return await self.answer(store, f"token-{key}", key, task_id)

    async def answer(self, store: Store, token: str, key: str, task_id: str) -> Item:
        """Store the answer that an attempt has become a task."""
        ended = attempt(token, Verdict.ACCEPTED, task_id)
        return await store.settle(key, ended, Transition(ItemEvent.ACCEPT, task_id=task_id))
