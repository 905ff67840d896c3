"""How long films take, kept in the journal: the next run of the batch begins with it."""

from __future__ import annotations

from apikley_async import Client
from apikley_async.batch.store.protocol import Store

__all__ = ["StoredDurations"]

NAME = "durations"  # of the value in the store
SELDOM = 16  # films between two writes
OLD = 30 * 86_400.0  # seconds: models and queues change


class StoredDurations:
    """What a client has learned of how long films take; a hint that may be lost.

    Args:
        store: of the batch.
        client: learns, and polls accordingly.
    """

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        self._durations = client.attempts.durations
        self._unsaved = 0

    async def recall(self) -> None:
        """Let the client begin with what earlier runs have learned in the last month."""
        learned = await self._store.read_learned(NAME)
        if learned is not None and learned.age < OLD:
            self._durations.recall(learned.value)

    async def film_is_ready(self) -> None:
        """Store what is known, once in a while."""
        self._unsaved += 1
        if self._unsaved >= SELDOM:
            await self.save()

    async def save(self) -> None:
        """Store what is known, if there is anything new."""
        if self._unsaved:
            self._unsaved = 0
            await self._store.write_learned(NAME, self._durations.to_json())
