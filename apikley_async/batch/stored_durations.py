"""How long films take, kept in the journal: the next run of the batch begins with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from apikley_async import Client, Clock, Job
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.values import ExpectedCallback, Item
from apikley_async.errors import JournalError

__all__ = ["StoredDurations"]

NAME = "durations"  # of the value in the store
SELDOM = 16  # films between two writes
OLD = 30 * 86_400.0  # seconds: models and queues change


class StoredDurations:
    """What a client has learned of how long films take; a hint that may be lost.

    Args:
        store: of the batch.
        client: learns, and polls accordingly.
        clock: time.
    """

    def __init__(self, store: Store, client: Client, clock: Clock) -> None:
        self._store = store
        self._attempts = client.attempts
        self._durations = client.attempts.durations
        self._clock = clock
        self._submitted_at: dict[str, float] = {}  # by task: films that earlier runs have sent
        self._unsaved = 0

    async def recall(self, expected: Iterable[ExpectedCallback]) -> None:
        """Let the client begin with what earlier runs have learned in the last month.

        Args:
            expected: of the store; they say when films were submitted.
        """
        for attempt in expected:
            if attempt.task_id:
                self._submitted_at[attempt.task_id] = self._clock.now() - attempt.age
        learned = await self._store.read_learned(NAME)
        if learned is not None and learned.age < OLD:
            self._durations.recall(learned.value)

    def resumed_job(self, item: Item) -> Job:
        """The job of a film that was submitted; it is polled by its age, if that is known."""
        task_id, work = item.task_id or "", None
        with contextlib.suppress(JournalError):  # whatever became of its images: it is paid
            work = work_of(item)
        submitted_at = self._submitted_at.get(task_id)
        age = None if submitted_at is None else self._clock.now() - submitted_at
        return self._attempts.job(task_id, known=True, work=work, age=age)

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
