"""Attempts as the journal keeps them: written down before they leave, and when they have ended."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from apikley_async import Attempt, Client, RateLimiter, Request, Verdict
from apikley_async._budget import Stake
from apikley_async.batch.states import Event
from apikley_async.batch.store.protocol import Item, Step, Store

__all__ = ["JournalRecorder", "KeptCallbacks", "restore_window", "step_of"]

UNCERTAIN_FILM = 1800.0  # seconds for which the film of an uncertain attempt may be running
LONGEST_REST = 60.0  # of a limiter's slot, after an uncertain attempt


class KeptCallbacks:
    """What callbacks say about the attempts of a run is in the store before they are answered."""

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        self._attempts = client.attempts
        self._tokens: list[str] = []

    def expect(self, token: str, **known: Any) -> bool:
        """Begin with an attempt. Tells whether a callback has named its task already."""
        if not self._attempts.receives_callbacks:
            return False
        self._tokens.append(token)
        keep = functools.partial(self._store.receive, token)
        return self._attempts.expect(token, **known, keep=keep)

    def release(self) -> None:
        """End it: the store may be closed now."""
        for token in self._tokens:
            self._attempts.release(token)


class JournalRecorder:
    """A `Recorder` for one item: the intent is on the disk before the first byte of the POST.

    *stake* is what is set aside for its attempts; *tell* learns of the item when one has ended.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        callbacks: KeptCallbacks,
        stake: Stake,
        tell: Callable[[Item], None],
    ) -> None:
        self._store = store
        self._key = key
        self._callbacks = callbacks
        self._stake = stake
        self._tell = tell

    async def intend(self, token: str, request: Request) -> None:
        price = self._stake.reserve()
        await self._store.intend(self._key, token, request.fingerprint, price)
        self._callbacks.expect(token)

    async def settle(self, outcome: Attempt) -> None:
        if outcome.verdict is Verdict.NOT_CREATED:
            self._stake.keep()
        elif outcome.verdict not in (Verdict.ACCEPTED, Verdict.UNCERTAIN):
            self._stake.wait()
        self._tell(await self._store.settle(self._key, outcome, step_of(outcome)))


def step_of(attempt: Attempt) -> Step:
    """The step that an attempt's outcome means for its item."""
    if attempt.verdict is Verdict.ACCEPTED:
        return Step(Event.ACCEPT, task_id=attempt.task_id)
    event = {
        Verdict.THROTTLED: Event.THROTTLE,
        Verdict.UNSENT: Event.UNSENT,
        Verdict.NOT_CREATED: Event.NOT_CREATED,
        Verdict.UNCERTAIN: Event.DOUBT,
    }.get(attempt.verdict, Event.POSTPONE if attempt.resumable else Event.REFUSE)
    by = "not_created" if event is Event.NOT_CREATED else ""
    return Step(event, cause=attempt.cause, by=by)


async def restore_window(store: Store, client: Client) -> None:
    """Let a client's limits remember the attempts of the last run: a restart is no new window.

    Films of uncertain attempts may be running, too.
    """
    limiter = client.limiter
    limiter.remember(await store.ends(LONGEST_REST))
    ages = [age for age, uncertain in await store.ends(UNCERTAIN_FILM) if uncertain]
    client.attempts.running.remember_uncertain(ages)
    if isinstance(limiter, RateLimiter):
        limiter.remember_running(ages)
