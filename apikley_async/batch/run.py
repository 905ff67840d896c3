"""One run of a batch: resume what is in flight, submit what is planned, save what is ready.

Everything durable happens in the store before anybody learns of it. A run can end at any step,
by a person, a crash or an error; the next run goes on from what the store holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeAlias

import attrs

from apikley_async import Client, Clock, Job, Work
from apikley_async._budget import FilmBudget
from apikley_async._retry import Maintenance
from apikley_async.batch.budget import RunBudget
from apikley_async.batch.endings import LAST_STATES, failed, found, succeeded
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.recorder import (
    CALLBACK_TIMEOUT,
    JournalRecorder,
    StoredCallbacks,
    cause_of_wait,
    leave_behind,
)
from apikley_async.batch.run_claims import RunClaims
from apikley_async.batch.run_options import BatchRunOptions, ItemUpdate
from apikley_async.batch.running_slots import SHORT_WAIT, RunningSlots
from apikley_async.batch.saving import FilmSaver
from apikley_async.batch.states import ItemEvent, ItemState, NoTransitionError
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.values import Item, Transition
from apikley_async.batch.stored_durations import StoredDurations
from apikley_async.batch.stored_pace import StoredPace
from apikley_async.batch.stored_polls import StoredPolls
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    Blame,
    BudgetExceededError,
    ClientClosedError,
    JobFailedError,
    JournalError,
    MaintenanceError,
    SubmissionUncertainError,
)

__all__ = ["GRACE", "STORING_END", "BatchRun"]

UncertainAttempt: TypeAlias = tuple[str, float]
"""An attempt's token, and for how many seconds a callback about it is waited for."""

logger: logging.Logger = logging.getLogger("apikley_async.batch")

STORING_END = 5.0  # seconds for what is stored at the end of a run
GRACE = 30.0  # seconds for the answers of POSTs that are out when the run is interrupted
RECOVERY_INTERVAL = 60.0  # seconds until a run without an end looks for uncertain films again
SAVED_BESIDES = 16  # films that may be saved besides those that are made


class BatchRun:
    """One run of a batch. `updates()` does all the work and yields what happens.

    Args:
        store: of the batch.
        client: makes the films.
        options: what the run may do.
        budget: what it may spend.
        clock: time.

    Attributes:
        ending: set when nobody follows the updates any more.
        grace: seconds for the answers of POSTs that are out when the run is interrupted.
        stopped: why nothing more is submitted, in one sentence; None while all is well.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        options: BatchRunOptions,
        budget: RunBudget,
        clock: Clock,
    ) -> None:
        self._store = store
        self._client = client
        self._options = options
        self._budget = budget
        self._clock = clock
        self._claims = RunClaims(
            store, options, lambda: budget.bounds, clock, on_lost=self._lost, on_error=self._fail
        )
        self._films: dict[asyncio.Task[None], str] = {}
        self._submissions = client.attempts.group()
        self._callbacks = StoredCallbacks(store, client)
        self._saver = FilmSaver(store, client, options)
        self._durations = StoredDurations(store, client, clock)
        self._pace = StoredPace(store, client)
        self._polls = StoredPolls(store, client)
        self._item_slots = asyncio.Semaphore(options.max_running + SAVED_BESIDES)
        self._film_slots = RunningSlots(client, options.max_running, self._publish)
        self._updates: asyncio.Queue[ItemUpdate | None] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._stopping = asyncio.Event()
        self._maintenance = Maintenance()
        self._error: Exception | None = None
        self.ending: asyncio.Event = asyncio.Event()
        self.grace = GRACE
        self.stopped: str | None = None

    async def updates(self) -> AsyncGenerator[ItemUpdate, None]:
        """Run, and yield each item whenever it has changed."""
        self._claims.begin()
        _ = self._start(self._run_all())
        try:
            while (update := await self._updates.get()) is not None:
                yield update
        finally:
            await self.aclose()
        while not self._updates.empty():  # of POSTs that were out at the end
            if (update := self._updates.get_nowait()) is not None:
                yield update
        if self._error is not None:
            raise self._error

    @property
    def pending(self) -> int:
        """How many submissions are out, their answers awaited."""
        return self._submissions.in_flight

    @property
    def held_back(self) -> int:
        """How many films wait for a bound on what may be spent."""
        return self._budget.waiting

    def journal_changed(self) -> None:
        """The journal has other items from here on."""
        self._saver.names.journal_changed()

    def stop(self, reason: str) -> None:
        """Submit nothing more; what was submitted is polled to its end and saved."""
        if self.stopped is None:
            self.stopped = reason
            self._stopping.set()
            self._budget.close()
            self._claims.close()
            self._submissions.stop()
            logger.info("nothing more is submitted: %s", reason)

    def interrupt(self, reason: str) -> None:
        """Submit nothing more, and poll nothing more: the next run goes on."""
        self.stop(reason)
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """End every task, and wait for the POSTs that are out: their answers are worth money."""
        self.ending.set()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))
        try:
            await self._submissions.drain(self.grace)
            await self._briefly(self._polls.save())
        finally:
            self._callbacks.release()
            await self._briefly(self._claims.end())

    async def _briefly(self, storing: Coroutine[Any, Any, object]) -> None:
        """Store something at the end, unless the journal's database is away: nothing depends on it.

        What is not given back is free again when the run's lease is over.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORING_END):
                await storing

    # --- all items ---------------------------------------------------------------------------

    async def _run_all(self) -> None:
        try:
            expected = await self._store.expected_callbacks()
            await self._durations.recall(expected)
            await self._callbacks.show_late(expected)
            await self._pace.recall()
            _ = self._start(self._budget.watch_balance(self._client, self._clock))
            await self._wait_for_callbacks()
            if self._options.more is not None and self._client.attempts.receives_callbacks:
                _ = self._start(self._keep_waiting_for_callbacks())
            async for item in self._claims.items():
                await self._item_slots.acquire()
                self._start_film(item).add_done_callback(lambda _: self._item_slots.release())
            while self._films:
                await asyncio.wait(set(self._films))
            await self._durations.save()
            await self._pace.save(again=True)
        except Exception as error:  # noqa: BLE001 - `updates` raises it
            self._fail(error)
        finally:
            self._updates.put_nowait(None)

    async def _wait_for_callbacks(self) -> None:
        """Let callbacks resolve what other runs have left uncertain, where they still may.

        Such a film only waits, and needs no slot.
        """
        known = {*self._films.values()}
        for attempt, timeout in await self._callbacks.uncertain():
            if self._options.includes(attempt.key) and attempt.key not in known:
                item = await self._store.item(attempt.key)
                _ = self._start_film(item, (attempt.token, timeout))

    async def _keep_waiting_for_callbacks(self) -> None:
        try:
            while True:
                await self._clock.sleep(RECOVERY_INTERVAL)
                await self._wait_for_callbacks()
        except JournalError as error:
            self._fail(error)

    def _start_film(
        self, item: Item, uncertain: UncertainAttempt | None = None
    ) -> asyncio.Task[None]:
        film = self._start(self._run_item(item, uncertain))
        self._films[film] = item.key
        film.add_done_callback(self._films.pop)
        return film

    # --- one item ----------------------------------------------------------------------------

    async def _run_item(self, item: Item, uncertain: UncertainAttempt | None = None) -> None:
        """Bring one item as far as it can go today; its errors do not touch other items."""
        claimed, elsewhere = uncertain is None, False
        try:
            if uncertain is not None:
                self._report_callback_wait(item, uncertain[1])
                item = await self._recover(item, *uncertain)
                claimed = item.state is ItemState.SUBMITTED and await self._claims.claim(item.key)
                if not claimed:  # whoever has claimed it meanwhile makes it: perhaps this very run
                    return
            self._budget.follow(item)
            item = await self._make(item)
            for _ in range(self._options.retry):
                if item.state is not ItemState.FAILED or self.stopped is not None:
                    break
                item = await self._apply(item, Transition(ItemEvent.RETRY, by="retry"))
                item = await self._make(item)
            if item.state is ItemState.SUCCESS:
                await self._durations.film_is_ready()
                item = await self._save(item)
        except NoTransitionError:
            logger.info("%s was decided elsewhere meanwhile", item.key)
            elsewhere = True
        except asyncio.CancelledError:
            if uncertain is not None or self._claims.holds(item.key):
                raise
            self._publish(attrs.evolve(item, cause="another run makes it now"), is_last=True)
        except ClientClosedError:
            self.stop("The client was closed")
        except Exception as error:  # noqa: BLE001 - `updates` raises it
            self._fail(error)
        finally:
            if claimed:
                self._budget.settle(item, ended=True)
                self._claims.ended(item, elsewhere=elsewhere)

    def _lost(self, key: str) -> None:
        """Another run makes this film: nothing more is done for it here."""
        for film in [film for film, its_key in self._films.items() if its_key == key]:
            film.cancel()

    def _fail(self, error: Exception) -> None:
        """Keep the first error for the caller; without a journal nothing at all can go on."""
        self._error = self._error or error
        if isinstance(error, JournalError):
            self.interrupt(error.message)
        else:
            self.stop(f"An error that was not foreseen: {type(error).__name__}")

    async def _make(self, item: Item) -> Item:
        """From where the item stands until the service has finished it, within a running slot."""
        if item.state not in (ItemState.PLANNED, ItemState.SUBMITTED, ItemState.STALLED):
            return item
        job: Job | None = None
        try:
            async with self._film_slots.slot(item):
                if item.state is ItemState.PLANNED:
                    item, job = await self._submit_or_recover(item)
                if item.state is ItemState.STALLED:
                    item = await self._apply(item, Transition(ItemEvent.RESUME))
                if item.state is ItemState.SUBMITTED:
                    item = await self._follow(item, job)
        except SubmissionUncertainError as error:
            # Raised through the slot on purpose: the film may be running, so the slot stays taken.
            self._film_slots.report_waits()
            return await self._callbacks.item_of(error.token, item)
        return item

    # --- submitting --------------------------------------------------------------------------

    async def _submit_or_recover(self, item: Item) -> tuple[Item, Job | None]:
        """Submit; an uncertain submission waits in its slot for a callback that resolves it."""
        try:
            return await self._submit(item)
        except SubmissionUncertainError as error:
            uncertain = error
        item = await self._recover(await self._store.item(item.key), uncertain, CALLBACK_TIMEOUT)
        if item.state is not ItemState.SUBMITTED:
            raise uncertain
        return item, None

    async def _submit(self, item: Item) -> tuple[Item, Job | None]:
        """Submit if that is allowed, and give the job; an item that stays planned has none."""
        work, refused = work_of(item), None
        while await self._may_submit(item) and (film_budget := await self._reserve(work)):
            recorder = JournalRecorder(
                self._store, self._claims, item, self._callbacks, film_budget, self._publish
            )
            try:
                job = await self._client.attempts.submit(
                    work, recorder=recorder, group=self._submissions, learned=True
                )
            except (asyncio.CancelledError, SubmissionUncertainError):
                self._budget.keep(item.key, film_budget, cost_will_be_known=False)
                raise
            except MaintenanceError as error:
                self._budget.release(film_budget)
                if self._maintenance.refused(self._clock.now()) is None:
                    self.stop(str(error))
                self._publish(recorder.item or item)
            except (ClientClosedError, JournalError, NoTransitionError) as error:
                self._budget.release(film_budget)
                if self.stopped is None or not isinstance(error, ClientClosedError):
                    raise
            except BudgetExceededError as error:
                # The film has become dearer while it waited, or other runs have spent: it waits for
                # the budget once more.
                self._budget.release(film_budget)
                await self._budget.count_others()
                refused = error
            except ApikleyError as error:
                self._budget.release(film_budget)
                return await self._refused(item, error), None
            else:
                self._budget.keep(item.key, film_budget)
                self._maintenance.ended()
                await self._pace.save()
                return self._submitted(recorder.item or item, job)
        if refused is not None and self.stopped is not None:
            item = await self._refused(item, refused)
        return item, None

    async def _may_submit(self, item: Item) -> bool:
        """Wait while the service is under maintenance; False when the item is not submitted."""
        while self.stopped is None and (wait := self._maintenance.opens_at - self._clock.now()) > 0:
            await self._clock.sleep(wait, self._stopping)
        if self.stopped is not None:
            return False
        if (obstacle := await self._saver.obstacle(item)) is not None:
            self._publish(attrs.evolve(item, cause=obstacle), is_last=True)
        return obstacle is None

    async def _reserve(self, work: Work) -> FilmBudget | None:
        """Set the film's price aside; None when nothing more is submitted."""
        try:
            return await self._budget.reserve(work)
        except BudgetExceededError as error:
            self.stop(error.message)
            return None

    def _submitted(self, item: Item, job: Job) -> tuple[Item, Job | None]:
        """Go on with an item as its attempt's answer has left it."""
        if item.state is ItemState.UNCERTAIN:  # the answer named another film's task
            self._budget.settle(item, ended=True)
            self._publish(item, is_last=True)
            return item, None
        leave_behind(self._client, item, job)
        return item, job

    async def _refused(self, item: Item, error: ApikleyError) -> Item:
        """Nothing was created: decide whether that is about this film or about the account."""
        item = await self._store.item(item.key)
        if item.state is not ItemState.PLANNED:  # its attempt has decided it
            return item
        if error.affects_all:
            self.stop(str(error))
        elif error.blames is Blame.INPUT and not error.resumable:
            return await self._apply(item, Transition(ItemEvent.REFUSE, cause=str(error)))
        self._publish(attrs.evolve(item, cause=str(error)), is_last=True)
        return item

    async def _recover(
        self, item: Item, attempt: str | SubmissionUncertainError, timeout: float
    ) -> Item:
        """Wait *timeout* seconds for a callback that says which task an uncertain item became.

        Args:
            attempt: the token of an earlier run's attempt, or the error of this run's.
        """
        if not self._client.attempts.receives_callbacks or item.state is not ItemState.UNCERTAIN:
            return item
        token = attempt if isinstance(attempt, str) else attempt.token
        try:
            job = await self._client.attempts.recover(attempt, timeout=timeout)
        except (SubmissionUncertainError, AuthenticationError) as error:
            if isinstance(error, AuthenticationError):
                self.stop(str(error))
            item = await self._as_it_is(item, token)
            self._publish(item, is_last=item.state is not ItemState.SUBMITTED)
            return item
        except asyncio.CancelledError:
            self._publish(item, is_last=True)
            raise
        with contextlib.suppress(JournalError):  # a store that has failed notes the task elsewhere
            item = await self._as_it_is(item, token)
        try:
            return await self._apply(item, found(job, token))
        except (NoTransitionError, JournalError):
            with contextlib.suppress(JournalError):
                item = await self._store.item(item.key)
            leave_behind(self._client, item, job)
            raise

    async def _as_it_is(self, item: Item, token: str) -> Item:
        """An item whose callback was waited for: a person may have renamed it, or decided."""
        known, item = item.key, await self._callbacks.item_of(token, item)
        self._claims.rename(known, item.key)
        self._budget.rename(known, item.key)
        films = [film for film, key in self._films.items() if key == known]
        self._films.update(dict.fromkeys(films, item.key))
        return item

    # --- polling and saving ------------------------------------------------------------------

    async def _follow(self, item: Item, job: Job | None) -> Item:
        """Poll a paid film to its end; only what the service says ends it."""
        job = job or self._durations.resumed_job(item)
        try:
            result = await job
        except JobFailedError as error:
            if error.affects_all:  # about the account, not about the film
                self.stop(str(error))
            transition = failed(job, error)
        except ClientClosedError:
            raise
        except ApikleyError as error:
            if not error.affects_all:
                return await self._apply(item, Transition(ItemEvent.STALL, cause=error.message))
            self.stop(str(error))
            self._publish(attrs.evolve(item, cause=str(error)), is_last=True)
            return item
        else:
            transition = succeeded(job, result)
        return await self._apply(item, transition)

    async def _save(self, item: Item) -> Item:
        try:
            transition = await self._saver.save(item)
        except (ClientClosedError, JournalError):
            raise
        except (ApikleyError, OSError) as error:
            if isinstance(error, ApikleyError) and (
                error.blames is Blame.ACCOUNT or error.affects_all
            ):
                self.stop(str(error))
            self._publish(attrs.evolve(item, cause=str(error)), is_last=True)
        else:
            item = await self._apply(item, transition)
            self._saver.names.add_files(item.key, transition)
        return item

    # --- reports -----------------------------------------------------------------------------

    async def _apply(self, item: Item, transition: Transition) -> Item:
        changed = await self._store.apply(item.key, transition)
        self._budget.settle(changed, ended=False)
        self._publish(changed)
        return changed

    def _publish(self, item: Item, *, is_last: bool = False) -> None:
        waits = item.state is ItemState.UNCERTAIN and self._client.attempts.receives_callbacks
        is_last = is_last or (item.state in LAST_STATES and not waits)
        self._updates.put_nowait(ItemUpdate(item, is_last))

    def _report_callback_wait(self, item: Item, timeout: float) -> None:
        if timeout >= SHORT_WAIT:
            cause = cause_of_wait(timeout)
            logger.info("%s is uncertain, %s", item.key, cause)
            self._publish(attrs.evolve(item, cause=cause))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task
