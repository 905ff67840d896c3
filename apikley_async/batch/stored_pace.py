"""How much the service takes, kept in the journal: the next run of the batch begins with it."""

from __future__ import annotations

import json

import attrs

from apikley_async import Client, RateLimiter
from apikley_async.batch.store.protocol import Store

__all__ = ["ServicePace", "StoredPace", "read_pace"]

NAME = "pace"  # of the value in the store
OLD = 86_400.0  # seconds: limits change, and others who use the key come and go
LONGEST = 100  # characters of a value that this module has written


@attrs.frozen
class ServicePace:
    """How many submissions the service takes, as its refusals (429) have taught.

    Attributes:
        takes: submissions in a span.
        per: the span in seconds.
    """

    takes: int
    per: float

    def __str__(self) -> str:
        return f"the service takes {self.takes} per {self.per:g} s"


async def read_pace(store: Store) -> ServicePace | None:
    """What runs of the last day have learned; None where the limiter's own limit was right."""
    learned = await store.read_learned(NAME)
    if learned is None or not learned.age < OLD:
        return None
    try:
        value = learned.parsed(LONGEST)
        takes, per = value["takes"], float(value["per"])
    except (ValueError, TypeError, KeyError):
        return None
    return ServicePace(takes, per) if type(takes) is int and takes >= 1 and per > 0 else None


class StoredPace:
    """What a client's limiter has learned; a hint that may be lost.

    Only a `RateLimiter` is asked; another limiter keeps its own counsel.

    Args:
        store: of the batch.
        client: its limiter learns.
    """

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        limiter = client.limiter
        self._limiter = limiter if isinstance(limiter, RateLimiter) else None
        self._stored: int | None = None

    async def recall(self) -> None:
        """Let the limiter begin with what earlier runs have learned, if it knows nothing yet."""
        pace = await read_pace(self._store)
        if self._limiter is None or pace is None or pace.per != self._limiter.per:
            return
        self._stored = pace.takes
        if self._limiter.takes is None and self._limiter.gate.changed_at is None:
            self._limiter.assume(pace.takes)

    async def save(self, *, again: bool = False) -> None:
        """Store what is known, if it is anything new, or *again*: it is as old as its writing."""
        takes = self._limiter.takes if self._limiter is not None else None
        if self._limiter is None or (takes == self._stored and not (again and takes)):
            return
        self._stored = takes
        value = {"takes": takes, "per": self._limiter.per}
        await self._store.write_learned(NAME, json.dumps(value))
