"""How many polls a batch has taken, kept in the journal for its report."""

from __future__ import annotations

import contextlib

from apikley_async import Client
from apikley_async.batch.store.protocol import Store
from apikley_async.errors import JournalError

__all__ = ["StoredPolls", "read_polls"]

NAME = "polls"  # of the value in the store
LONGEST = 15  # digits of a number that this module has written


async def read_polls(store: Store) -> int | None:
    """The polls of all runs that have ended in good order; None where no run has counted them."""
    learned = await store.read_learned(NAME)
    if learned is None or not (learned.value.isascii() and learned.value.isdigit()):
        return None
    return int(learned.value) if len(learned.value) <= LONGEST else None


class StoredPolls:
    """The polls of one run, added to those of earlier ones.

    They are those of its client: where several batches share one, each counts what all have polled
    meanwhile.

    Args:
        store: of the batch.
        client: polls.
    """

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        self._attempts = client.attempts
        self._counted = client.attempts.polls

    async def save(self) -> None:
        """Store the number; it is only a figure of a report, and may be lost."""
        polls = self._attempts.polls - self._counted
        if not polls:
            return
        self._counted += polls
        with contextlib.suppress(JournalError):
            earlier = await read_polls(self._store) or 0
            await self._store.write_learned(NAME, str(earlier + polls))
