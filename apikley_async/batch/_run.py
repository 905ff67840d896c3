"""One run of a batch: take up what is under way, submit what is planned, save what is ready.

Everything durable happens in the store, before anybody hears of it. A run can be ended at any
step, by a person, a crash or an error; the next one goes on where the store says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from apikley_async import Attempt, Client, Clock, Job, RateLimiter, Request, Result, Verdict
from apikley_async.batch._budget import Budget, Prices
from apikley_async.batch._entries import work_of
from apikley_async.batch._states import Event, State
from apikley_async.batch._store import File, Item, Step, Store
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    BudgetExceededError,
    DownloadError,
    EmptyResultError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    JobTimeoutError,
    JournalError,
    KeyLimitError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ResultExpiredError,
    StoryboardError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
    UploadError,
)

__all__ = ["Options", "Run"]

logger = logging.getLogger("apikley_async.batch")

GRACE = 30.0  # for a POST that is out when the run is left
MAINTENANCE = (120.0, 300.0, 600.0)
NOT_THIS_FILM = frozenset({401, 402, 403, 429, 430, 433, 455})
SAVING = 16  # films that may be saved besides those that are made
LATEST = datetime.max.replace(tzinfo=UTC)
OVER = (State.DONE, State.FAILED, State.REJECTED, State.UNCERTAIN, State.STALLED, State.EXPIRED)


@attrs.frozen
class Options:
    """What a run may do.

    Attributes:
        folder: where the films go.
        max_running: films in the making at once, besides the client's own bound.
        retry: how often a failed film is made again, each a new charge.
        overwrite: whether a stranger's file may be replaced.
    """

    folder: Path
    max_running: int = 100
    retry: int = 0
    overwrite: bool = False


class Run:
    """One run. `items()` does it all and yields every change."""

    def __init__(
        self,
        store: Store,
        client: Client,
        options: Options,
        *,
        budget: Budget,
        prices: Prices,
        clock: Clock,
    ) -> None:
        self._store = store
        self._client = client
        self._options = options
        self._budget = budget
        self._prices = prices
        self._clock = clock
        self._seats = asyncio.Semaphore(options.max_running + SAVING)
        self._making = asyncio.Semaphore(options.max_running)
        self._changes: asyncio.Queue[Item | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: set[str] = set()  # tokens of attempts that are written down and not settled
        self._settled = asyncio.Event()
        self._pauses = 0
        self._paused_until = 0.0
        self._error: Exception | None = None
        self.stopped: str | None = None
        """Why nothing more is submitted, in one sentence; None while all is well."""

    async def items(self) -> AsyncIterator[Item]:
        """Run, and yield each item whenever it has changed."""
        driver = self._spawn(self._drive())
        try:
            while True:
                item = await self._changes.get()
                if item is None:
                    break
                yield item
            await driver
            if self._error is not None:
                raise self._error
        finally:
            await self.aclose()

    def stop(self, reason: str) -> None:
        """Submit nothing more; what is in the making is followed to its end."""
        if self.stopped is None:
            self.stopped = reason
            logger.info("nothing more is submitted: %s", reason)

    def leave(self, reason: str = "asked to stop") -> None:
        """Submit nothing more, and follow nothing: the next run goes on."""
        self.stop(reason)
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """End every task; wait for the POSTs that are out, since their answers are worth money."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))
        if self._out:
            self._settled.clear()
            await self._clock.sleep(GRACE, self._settled)

    # --- the driver --------------------------------------------------------------------------

    async def _drive(self) -> None:
        try:
            async with asyncio.TaskGroup() as films:
                async for item in self._worklist():
                    await self._seats.acquire()
                    film = films.create_task(self._film(item))
                    film.add_done_callback(lambda _: self._seats.release())
        finally:
            self._changes.put_nowait(None)

    async def _worklist(self) -> AsyncIterator[Item]:
        """What is paid first, the nearest expiry before the others; then what is planned."""
        ready = await self._all((State.SUCCESS,))
        for item in sorted(ready, key=lambda item: item.success_at or LATEST):
            yield item
        for item in await self._all((State.SUBMITTED, State.STALLED)):
            yield item
        behind = 0
        while self.stopped is None:
            page = await self._store.items((State.PLANNED,), after=behind, count=200)
            if not page:
                return
            for item in page:
                behind = item.order
                yield item

    async def _all(self, states: tuple[State, ...]) -> list[Item]:
        found: list[Item] = []
        while page := await self._store.items(states, after=found[-1].order if found else 0):
            found += page
        return found

    # --- one film ----------------------------------------------------------------------------

    async def _film(self, item: Item) -> None:
        """Bring one item as far as it can go today."""
        try:
            for _ in range(1 + self._options.retry):
                if item.state is State.FAILED and self.stopped is None:
                    item = await self._step(item, Step(Event.RETRY, by="retry"))
                item = await self._make(item)
                if item.state is not State.FAILED:
                    break
            if item.state is State.SUCCESS:
                await self._save(item)
        except JournalError as error:
            self._error = self._error or error
            self.stop(f"the journal cannot be written: {error.message}")
        except Exception as error:  # noqa: BLE001 - one film must not end the others, nor pass unseen
            self._error = self._error or error
            self.stop(f"{item.key} met an error that was not foreseen")

    async def _make(self, item: Item) -> Item:
        """From wherever it is until the service has finished it."""
        if item.state not in (State.PLANNED, State.SUBMITTED, State.STALLED):
            return item
        job: Job | None = None
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(self._making)
            await held.enter_async_context(self._client.place())
            if item.state is State.PLANNED:
                item, job = await self._submit(item)
            if item.state is State.STALLED:
                item = await self._step(item, Step(Event.RESUME))
            if item.state is State.SUBMITTED:
                item = await self._follow(item, job)
        return item

    async def _submit(self, item: Item) -> tuple[Item, Job | None]:
        work = work_of(item)
        while True:
            await self._open_gate()
            if self.stopped is not None or self._in_the_way(item):
                return item, None
            price = self._prices.of(work)
            try:
                self._budget.reserve(price)
            except BudgetExceededError as error:
                self.stop(error.message)
                return item, None
            writer = _Writer(self, item.key, price)
            try:
                job = await self._client.submit(work, recorder=writer)
            except asyncio.CancelledError:
                raise  # an attempt that is out keeps its reservation
            except SubmissionUncertainError:
                pass
            except ApikleyError as error:
                self._budget.release(price)
                if isinstance(error, MaintenanceError):
                    self._pause()
                    continue
                await self._refused(item, error, writer)
            else:
                return await self._store.item(item.key), job
            return await self._store.item(item.key), None

    async def _refused(self, item: Item, error: ApikleyError, writer: _Writer) -> None:
        """Nothing was created: say whether that is this film's fault or everybody's."""
        if isinstance(error, JournalError):
            raise error
        everybody = isinstance(
            error,
            AuthenticationError
            | InsufficientCreditsError
            | KeyLimitError
            | RateLimitError
            | UnreachableError
            | UnansweredError,
        )
        if everybody or (isinstance(error, ApiError) and not writer.wrote):
            self.stop(str(error))
        elif isinstance(error, StoryboardError | UploadError):
            await self._step(item, Step(Event.REFUSE, cause=error.message))

    async def _follow(self, item: Item, job: Job | None) -> Item:
        """Wait for a paid film; only the service's own word ends it."""
        job = job or self._client.job(item.task_id or "", known=True)
        try:
            result = await job
        except JobFailedError as error:
            return await self._step(
                item,
                Step(
                    Event.FAIL,
                    cause=error.message,
                    fail_code=error.fail_code,
                    fail_message=error.fail_message,
                    credits=job.snapshot.credits,
                ),
            )
        except (JobTimeoutError, NotFoundError, EmptyResultError, InvalidRequestError) as error:
            return await self._step(item, Step(Event.STALL, cause=error.message))
        except AuthenticationError as error:
            self.stop(str(error))
            return item
        return await self._step(
            item,
            Step(
                Event.SUCCEED,
                credits=result.credits,
                success_at=job.snapshot.completed_at,
                result=json.dumps({"urls": result.urls, "content": dict(result.raw)}),
            ),
        )

    async def _save(self, item: Item) -> None:
        """Save the film; it is done when its bytes are on the disk and its sum is written down."""
        urls = tuple(json.loads(item.result).get("urls", ()))
        result = Result(item.task_id or "", urls)
        if not urls:  # another model's answer without a file: its words are in the journal
            await self._step(item, Step(Event.SAVE))
            return
        target = self._options.folder / f"{item.key}.mp4"
        try:
            paths = await self._client.save(result, target, overwrite=self._options.overwrite)
            files = await asyncio.to_thread(lambda: tuple(map(summed, paths)))
        except ResultExpiredError as error:
            await self._step(item, Step(Event.EXPIRE, cause=error.message))
        except (DownloadError, ApiError, UnreachableError, UnansweredError) as error:
            self._changes.put_nowait(attrs.evolve(item, cause=error.message))
        else:
            await self._step(item, Step(Event.SAVE, files=files))

    # --- helpers -----------------------------------------------------------------------------

    def _in_the_way(self, item: Item) -> bool:
        """Refuse to pay for a film whose name is taken: it may be there already."""
        folder, stem = self._options.folder, item.key
        taken = [folder / f"{stem}.mp4", folder / f"{stem}-1.mp4"]
        there = next((name for name in taken if name.exists()), None)
        if there is None or self._options.overwrite:
            return False
        cause = f"{there} exists already; nothing was paid. Move it, or say overwrite"
        self._changes.put_nowait(attrs.evolve(item, cause=cause))
        return True

    async def _step(self, item: Item, step: Step) -> Item:
        changed = await self._store.step(item.key, step)
        self._changes.put_nowait(changed)
        return changed

    def _pause(self) -> None:
        """The service is under maintenance: nobody submits for some minutes."""
        if self._paused_until <= self._clock.now():
            delay = MAINTENANCE[min(self._pauses, len(MAINTENANCE) - 1)]
            self._pauses += 1
            self._paused_until = self._clock.now() + delay

    async def _open_gate(self) -> None:
        while self.stopped is None and (wait := self._paused_until - self._clock.now()) > 0:
            await self._clock.sleep(wait)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- what a writer tells -----------------------------------------------------------------

    async def intend(self, key: str, token: str, fingerprint: str, price: float | None) -> None:
        await self._store.intend(key, token, fingerprint, price)
        self._out.add(token)

    async def settle(self, key: str, attempt: Attempt) -> None:
        try:
            item = await self._store.settle(key, attempt, step_of(attempt))
        finally:
            self._out.discard(attempt.token)
            if not self._out:
                self._settled.set()
        self._changes.put_nowait(item)


class _Writer:
    """A `Recorder` for one item: the intent is on the disk before the first byte of the POST."""

    def __init__(self, run: Run, key: str, price: float | None) -> None:
        self._run = run
        self._key = key
        self._price = price
        self.wrote = False

    async def intend(self, token: str, request: Request) -> None:
        await self._run.intend(self._key, token, request.fingerprint, self._price)
        self.wrote = True

    async def settle(self, outcome: Attempt) -> None:
        await self._run.settle(self._key, outcome)


def step_of(attempt: Attempt) -> Step:
    """The step that an attempt's outcome means for its item."""
    if attempt.verdict is Verdict.ACCEPTED:
        return Step(Event.ACCEPT, task_id=attempt.task_id)
    event = {
        Verdict.THROTTLED: Event.THROTTLE,
        Verdict.UNSENT: Event.UNSENT,
        Verdict.UNCERTAIN: Event.DOUBT,
    }.get(attempt.verdict, Event.REFUSE)
    if event is Event.REFUSE and attempt.code in NOT_THIS_FILM:
        event = Event.POSTPONE
    return Step(event, cause=attempt.cause)


def summed(path: Path) -> File:
    """What is on the disk, with its SHA-256. Blocks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(path.absolute(), file.tell(), digest)


async def restore_window(store: Store, limiter: object, clock: Clock) -> None:
    """Let a limiter remember the attempts of the last run: a restart is no new window."""
    if isinstance(limiter, RateLimiter):
        now = clock.wall()
        ends = await store.ends(now - 60.0)
        limiter.remember((max(0.0, now - at), uncertain) for at, uncertain in ends)
