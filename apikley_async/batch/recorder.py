"""Attempts on their way into the journal: before they are sent, and when they have ended."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from apikley_async import Attempt, Client, Job, RateLimiter, Request, Verdict
from apikley_async._budget import FilmBudget
from apikley_async.batch.run_claims import RunClaims
from apikley_async.batch.states import ItemEvent
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.values import ExpectedCallback, Item, Transition

__all__ = [
    "CALLBACK_TIMEOUT",
    "JournalRecorder",
    "StoredCallbacks",
    "callback_timeout",
    "cause_of_wait",
    "leave_behind",
    "restore_limits",
    "transition_of",
]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

CALLBACK_TIMEOUT = 1800.0  # seconds in which a callback may resolve an uncertain submission
CONFIRMATION_TIMEOUT = 120.0  # at least so many, where a callback has named the task
UNCERTAIN_FILM = 1800.0  # seconds for which the film of an uncertain attempt may be running
LONGEST_DELAY = 60.0  # seconds until a limiter's slot is free again, after an uncertain attempt


class StoredCallbacks:
    """Callbacks about the attempts of a run: stored before they are answered."""

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        self._client = client
        self._attempts = client.attempts
        self._tokens: dict[str, None] = {}
        self._late: set[str] = set()  # tasks of attempts that were given up, and were shown
        self._too_late: set[str] = set()  # attempts that are left to a person, and were given once

    def expect(self, token: str, **known: Any) -> bool:
        """Expect callbacks about an attempt; whether one has named its task already.

        Args:
            token: of the attempt.
            known: what is known of its task, as for `client.attempts.expect`.
        """
        if not self._attempts.receives_callbacks:
            return False
        self._tokens[token] = None
        keep = functools.partial(self._store.keep_callback, token)
        return self._attempts.expect(token, **known, keep=keep)

    async def show_late(self, expected: Iterable[ExpectedCallback]) -> None:
        """Leave in `client.unclaimed` what was paid although it was given up."""
        for attempt in expected:
            if attempt.late is not None and attempt.late not in self._late:
                self._late.add(attempt.late)
                job = self._client.job(attempt.late)
                leave_behind(self._client, await self._store.item(attempt.key), job)

    async def uncertain(self) -> list[tuple[ExpectedCallback, float]]:
        """Expect callbacks about what earlier runs have left.

        Returns:
            The uncertain attempts that callbacks may still resolve, and for how many seconds each
            is waited for. One that is waited for no more is among them once.
        """
        if not self._attempts.receives_callbacks:
            return []
        found = []
        await self._attempts.catch_up()
        expected = await self._store.expected_callbacks()
        await self.show_late(expected)
        for attempt in expected:
            named = self.expect(attempt.token, task_id=attempt.task_id, named=attempt.named)
            timeout = callback_timeout(attempt, named=named)
            was_given = timeout == 0 and attempt.token in self._too_late
            if attempt.task_id is None and not was_given:
                found.append((attempt, timeout))
                if timeout == 0:
                    self._too_late.add(attempt.token)
        return found

    async def item_of(self, token: str, item: Item) -> Item:
        """The item of an attempt, which may have been renamed while its callback was waited for."""
        for key in (item.key, None):
            for attempt in await self._store.attempts(key):
                if attempt["token"] == token:
                    return await self._store.item(attempt["key"])
        return item

    def release(self) -> None:
        """Expect nothing more: the store may be closed now."""
        for token in self._tokens:
            self._attempts.release(token)


def callback_timeout(attempt: ExpectedCallback, *, named: bool) -> float:
    """How long a callback about an earlier run's attempt is waited for, in seconds.

    Args:
        attempt: the attempt.
        named: whether a callback has named its task, which only has to be confirmed.
    """
    left = CALLBACK_TIMEOUT - attempt.age
    return min(CALLBACK_TIMEOUT, max(left, CONFIRMATION_TIMEOUT if named else 0.0))


def cause_of_wait(timeout: float) -> str:
    """Say that a callback of an earlier run is waited for, how long, and what can be done."""
    return (
        f"of an earlier run; its callback is waited for, {timeout:.0f} s at most. To cut it "
        "short, stop, decide about it, and run again"
    )


class JournalRecorder:
    """A `Recorder` for one item: an attempt is on the disk before its first byte is sent.

    Args:
        store: where the attempts are stored.
        claims: those of the run, the item's among them.
        planned: the item, as it is to be sent.
        callbacks: expect callbacks about them.
        film_budget: what is set aside for them.
        on_settled: gets the item when an attempt has ended, but not when it was refused for the
            whole account: the caller knows whether that stops the run.

    Attributes:
        item: as the end of its last attempt was stored; None before.
    """

    def __init__(
        self,
        store: Store,
        claims: RunClaims,
        planned: Item,
        callbacks: StoredCallbacks,
        film_budget: FilmBudget,
        on_settled: Callable[[Item], None],
    ) -> None:
        self._store = store
        self._claims = claims
        self._planned = planned
        self._callbacks = callbacks
        self._film_budget = film_budget
        self._on_settled = on_settled
        self.item: Item | None = None

    async def intend(self, token: str, request: Request) -> timedelta | None:
        # In this order: without a reservation nothing is stored, and without the stored intent
        # nothing is sent. After a crash from here on, the attempt is uncertain and not forgotten.
        price = self._film_budget.reserve()
        kind = self._film_budget.price_key
        holds = await self._claims.intend(self._planned, token, request.fingerprint, price, kind)
        self._film_budget.recorded()
        self._callbacks.expect(token)
        return None if holds is None else timedelta(seconds=holds)

    async def settle(self, outcome: Attempt) -> None:
        # "Not created" is the provider's word: it may have cost something, so its price stays set
        # aside, and the next attempt needs a reservation of its own.
        if outcome.verdict is Verdict.NOT_CREATED:
            self._film_budget.keep()
        elif outcome.verdict not in (Verdict.ACCEPTED, Verdict.UNCERTAIN):
            self._film_budget.wait()
        transition = transition_of(outcome)
        self.item = await self._store.settle(self._planned.key, outcome, transition)
        if transition.event is not ItemEvent.POSTPONE:
            self._on_settled(self.item)


def transition_of(attempt: Attempt) -> Transition:
    """What the outcome of an attempt means for its item."""
    if attempt.verdict is Verdict.ACCEPTED:
        return Transition(ItemEvent.ACCEPT, task_id=attempt.task_id)
    event = {
        Verdict.THROTTLED: ItemEvent.THROTTLE,
        Verdict.UNSENT: ItemEvent.UNSENT,
        Verdict.NOT_CREATED: ItemEvent.NOT_CREATED,
        Verdict.UNCERTAIN: ItemEvent.UNCERTAIN,
    }.get(attempt.verdict, ItemEvent.POSTPONE if attempt.resumable else ItemEvent.REFUSE)
    by = "not_created" if event is ItemEvent.NOT_CREATED else ""
    return Transition(event, cause=attempt.cause, by=by)


def leave_behind(client: Client, item: Item, job: Job) -> None:
    """Put a paid job into `client.unclaimed` when its item does not have it in the journal."""
    if item.task_id != job.task_id and job not in client.unclaimed:
        logger.warning("%s: film %s is paid all the same; see unclaimed", item.key, job.task_id)
        client.attempts.leave_behind(job)


async def restore_limits(store: Store, client: Client) -> None:
    """Let a client's limiters know of the attempts of earlier runs.

    A restart begins no new window of the rate limit, and the films of uncertain attempts may be
    running.
    """
    limiter = client.limiter
    limiter.remember(await store.recent_attempts(LONGEST_DELAY))
    ages = [age for age, uncertain in await store.recent_attempts(UNCERTAIN_FILM) if uncertain]
    client.attempts.running.remember_uncertain(ages)
    if isinstance(limiter, RateLimiter):
        limiter.remember_running(ages)
