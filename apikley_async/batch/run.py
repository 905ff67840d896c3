"""One run of a batch: take up what is under way, submit what is planned, save what is ready.

Everything durable happens in the store, before anybody hears of it. A run can be ended at any
step, by a person, a crash or an error; the next one goes on where the store says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from apikley_async import Client, Clock, Job, RateLimiter, Result, Work
from apikley_async._budget import Budget, Prices, Reservation, Stake
from apikley_async._retry import Maintenance
from apikley_async.batch.filenames import Names
from apikley_async.batch.manifest.fields import name_fault, work_of
from apikley_async.batch.recorder import JournalRecorder, KeptCallbacks
from apikley_async.batch.rehearsal import is_rehearsal
from apikley_async.batch.states import Event, NoStepError, State
from apikley_async.batch.store.protocol import Expected, File, Item, Step, Store
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    Blame,
    BudgetExceededError,
    ClientClosedError,
    JobFailedError,
    JournalError,
    MaintenanceError,
    ResultExpiredError,
    SubmissionUncertainError,
)

__all__ = ["Change", "Options", "Run", "summed"]

Uncertain: TypeAlias = tuple[str, float]
"""An attempt's token, and for how many seconds a callback is waited for."""

logger = logging.getLogger("apikley_async.batch")

GRACE = 30.0  # for a POST that is out when the run is left
LISTENING = 1800.0  # seconds in which a callback may say what became of a submission
WORTH_TELLING = 10.0  # seconds: a longer wait is told
CONFIRMING = 120.0  # at the least, where a callback has named the task
SAVING = 16  # films that may be saved besides those that are made
LATEST = datetime.max.replace(tzinfo=UTC)
RESTING = (State.DONE, State.FAILED, State.REJECTED, State.UNCERTAIN, State.STALLED, State.EXPIRED)


@attrs.frozen
class Options:
    """What a run may do.

    Attributes:
        folder: where the films go.
        max_running: films in the making at once, besides the client's own bound.
        retry: how often a failed film is made again, each a new charge.
        overwrite: whether a stranger's file may be replaced.
        keys: the only items that are made, followed and saved; None: all of them.
        partial: whether a film is done without the links that cannot be used.
    """

    folder: Path
    max_running: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    retry: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    overwrite: bool = False
    keys: frozenset[str] | None = None
    partial: bool = False

    def chooses(self, key: str) -> bool:
        """Whether the run is about the item of that key."""
        return self.keys is None or key in self.keys


@attrs.frozen
class Change:
    """An item that has changed, and whether this run has done with it for now."""

    item: Item
    rests: bool


class Run:
    """One run. `changes()` does it all and yields what happens."""

    def __init__(
        self,
        store: Store,
        client: Client,
        options: Options,
        *,
        budget: Budget,
        prices: Prices,
        reserved: dict[str, Reservation],
        clock: Clock,
    ) -> None:
        self._store = store
        self._client = client
        self._options = options
        self._budget = budget
        self._prices = prices
        self._reserved = reserved  # by key: what is in flight, and whose cost is not known yet
        self._clock = clock
        self._submissions = client.attempts.group()
        self._callbacks = KeptCallbacks(store, client)
        self._names = Names(store, options.folder)
        self._seats = asyncio.Semaphore(options.max_running + SAVING)
        self._making = asyncio.Semaphore(options.max_running)
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.ending = asyncio.Event()  # nobody hears of changes any more
        self._stopping = asyncio.Event()
        self._wait_is_told = False
        self._waiting: dict[str, Item] = {}  # for a slot
        self._decided = asyncio.Event()  # a reservation was kept or given back
        self._maintenance = Maintenance()
        self._error: Exception | None = None
        self.grace = GRACE
        self.stopped: str | None = None
        """Why nothing more is submitted, in one sentence; None while all is well."""

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Run, and yield each item whenever it has changed."""
        self._driver = self._start(self._drive())
        try:
            while (change := await self._changes.get()) is not None:
                yield change
        finally:
            await self.aclose()
        while not self._changes.empty():  # of what was out at the end
            if (change := self._changes.get_nowait()) is not None:
                yield change
        if self._error is not None:
            raise self._error

    @property
    def pending(self) -> int:
        """How many submissions are out, and their answers awaited."""
        return self._submissions.out

    def replanned(self) -> None:
        """Other items are in the journal from here on."""
        self._names.forget()

    def stop(self, reason: str) -> None:
        """Submit nothing more; what is in the making is followed to its end."""
        if self.stopped is None:
            self.stopped = reason
            self._stopping.set()
            self._decided.set()
            self._submissions.stop()
            logger.info("nothing more is submitted: %s", reason)

    def leave(self, reason: str) -> None:
        """Submit nothing more, and follow nothing: the next run goes on."""
        self.stop(reason)
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """End every task; wait for the POSTs that are out, since their answers are worth money."""
        self.ending.set()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))
        try:
            await self._submissions.drain(self.grace)
        finally:
            self._callbacks.release()

    # --- the driver --------------------------------------------------------------------------

    async def _drive(self) -> None:
        films: set[asyncio.Task[None]] = set()
        try:
            for item, uncertain in await self._uncertain():  # they only wait, and need no seat
                film = self._start(self._film(item, uncertain))
                films.add(film)
                film.add_done_callback(films.discard)
            async for item in self._worklist():
                await self._seats.acquire()
                film = self._start(self._film(item))
                films.add(film)
                film.add_done_callback(films.discard)
                film.add_done_callback(lambda _: self._seats.release())
            while films:
                await asyncio.wait(films)
        except Exception as error:  # noqa: BLE001 - it is raised where the changes are heard
            self._fail(error)
        finally:
            self._changes.put_nowait(None)

    async def _uncertain(self) -> list[tuple[Item, Uncertain]]:
        """What earlier runs left uncertain, where callbacks may still say what became of it."""
        if not self._client.attempts.receives_callbacks:
            return []
        found = []
        await self._client.attempts.catch_up()
        for attempt in await self._store.expected():
            known = {"task_id": attempt.task_id, "named": attempt.named}
            named = self._callbacks.expect(attempt.token, **known)
            if attempt.task_id is None and self._options.chooses(attempt.key):
                timeout = self._timeout(attempt, named=named)
                found.append((await self._store.item(attempt.key), (attempt.token, timeout)))
        return found

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
                chosen = not item.gone and self._options.chooses(item.key)
                if chosen and self.stopped is None:
                    yield item

    async def _all(self, states: tuple[State, ...]) -> list[Item]:
        found: list[Item] = []
        behind = 0
        while page := await self._store.items(states, after=behind):
            found += [item for item in page if self._options.chooses(item.key)]
            behind = page[-1].order
        return found

    # --- one film ----------------------------------------------------------------------------

    async def _film(self, item: Item, uncertain: Uncertain | None = None) -> None:
        """Bring one item as far as it can go today; its troubles are not the others'."""
        try:
            if uncertain is not None:
                self._tell_listening(item, uncertain[1])
                item = await self._recover(item, *uncertain)
            for _ in range(1 + self._options.retry):
                if item.state is State.FAILED and self.stopped is None:
                    item = await self._step(item, Step(Event.RETRY, by="retry"))
                item = await self._make(item)
                if item.state is not State.FAILED:
                    break
            if item.state is State.SUCCESS:
                await self._save(item)
        except NoStepError:
            logger.info("%s was decided elsewhere meanwhile", item.key)
        except ClientClosedError:
            self.stop("The client was closed")
        except Exception as error:  # noqa: BLE001 - it is raised where the changes are heard
            self._fail(error)
        finally:
            self._settle(item, ended=True)

    def _fail(self, error: Exception) -> None:
        """Remember the first error; without a journal there is no going on at all."""
        self._error = self._error or error
        if isinstance(error, JournalError):
            self.leave(error.message)
        else:
            self.stop(f"An error that was not foreseen: {type(error).__name__}")

    def _tell_listening(self, item: Item, timeout: float) -> None:
        """Say that a callback of an earlier run is waited for, for how long, and what to do."""
        if timeout < WORTH_TELLING:
            return
        cause = (
            f"of an earlier run; its callback is waited for, {timeout:.0f} s at most. To cut it "
            "short, stop, decide about it, and run again"
        )
        logger.info("%s is uncertain, %s", item.key, cause)
        self._tell(attrs.evolve(item, cause=cause))

    async def _make(self, item: Item) -> Item:
        """From wherever it is until the service has finished it."""
        if item.state not in (State.PLANNED, State.SUBMITTED, State.STALLED):
            return item
        job: Job | None = None
        try:
            async with contextlib.AsyncExitStack() as held:
                await held.enter_async_context(self._making)
                if item.state is State.PLANNED or not self._resting:
                    await self._take_slot(item, held)
                if item.state is State.PLANNED:
                    item, job = await self._submit_or_recover(item)
                if item.state is State.STALLED:
                    item = await self._step(item, Step(Event.RESUME))
                if item.state is State.SUBMITTED:
                    item = await self._follow(item, job)
        except SubmissionUncertainError:  # it had to pass the slot: its film may be running
            for waiting in self._waiting.values():
                self._tell_wait(waiting)
            return await self._store.item(item.key)
        return item

    async def _take_slot(self, item: Item, held: contextlib.AsyncExitStack) -> None:
        """Wait for a slot of a film that is not running yet, or while none rests."""
        self._waiting[item.key] = item
        self._tell_wait(item)
        try:
            await held.enter_async_context(self._client.attempts.running_slot())
        finally:
            del self._waiting[item.key]

    @property
    def _resting(self) -> float:
        """Seconds for which all slots rest, after uncertain films; 0 while one is used or free."""
        limiter = self._client.limiter
        shared = limiter.running_free_in if isinstance(limiter, RateLimiter) else 0.0
        return max(self._client.attempts.running.free_in, shared)

    def _tell_wait(self, item: Item) -> None:
        """Say once that films wait for slots of uncertain ones, for how long, and what to do."""
        wait = self._resting
        if wait < WORTH_TELLING or self._wait_is_told:
            return
        self._wait_is_told = True
        cause = (
            f"all slots rest for up to {wait:.0f} s, since uncertain films may be running; to cut "
            "it short, stop, decide about them, and run again, or raise max_running"
        )
        logger.warning("%s waits: %s", item.key, cause)
        self._tell(attrs.evolve(item, cause=cause))

    async def _submit_or_recover(self, item: Item) -> tuple[Item, Job | None]:
        """Submit; where callbacks are received, let one say what became of it, in its slot."""
        try:
            return await self._submit(item)
        except SubmissionUncertainError as error:
            uncertain = error
        item = await self._recover(await self._store.item(item.key), uncertain, LISTENING)
        if item.state is State.UNCERTAIN:
            raise uncertain
        return item, None

    def _timeout(self, attempt: Expected, *, named: bool) -> float:
        """How long a callback may still come, or be read, for what an earlier run has left."""
        left = LISTENING - attempt.age
        return min(LISTENING, max(left, CONFIRMING if named else 0.0))

    async def _recover(
        self, item: Item, attempt: str | SubmissionUncertainError, timeout: float
    ) -> Item:
        """Wait until a callback says which task an uncertain item became, if one does."""
        if not self._client.attempts.receives_callbacks or item.state is not State.UNCERTAIN:
            return item
        try:
            job = await self._client.attempts.recover(attempt, timeout=timeout)
        except SubmissionUncertainError:
            self._tell(item, rests=True)
            return item
        except asyncio.CancelledError:
            self._tell(item, rests=True)
            raise
        except AuthenticationError as error:
            self.stop(str(error))
            self._tell(item, rests=True)
            return item
        token = attempt if isinstance(attempt, str) else attempt.token
        step = Step(Event.RESOLVE, task_id=job.task_id, token=token, by="callback")
        try:
            return await self._step(item, attrs.evolve(step, cause="found by its callback"))
        except NoStepError:
            self._report(await self._store.item(item.key), job)
            raise

    async def _submit(self, item: Item) -> tuple[Item, Job | None]:
        """Submit, if we may, and give the job; an item that stays planned has none."""
        work, refused = work_of(item), None
        while await self._may_submit(item) and (reserved := await self._reserve(work)):
            stake = Stake(self._budget, reserved, functools.partial(self._prices.of, work))
            recorder = JournalRecorder(self._store, item.key, self._callbacks, stake, self._tell)
            try:
                job = await self._client.attempts.submit(
                    work, recorder=recorder, group=self._submissions
                )
            except (asyncio.CancelledError, SubmissionUncertainError):
                self._keep(item, stake, known=False)
                raise
            except MaintenanceError as error:
                self._release(stake)
                self._pause(error)
            except (ClientClosedError, JournalError, NoStepError) as error:
                self._release(stake)
                if self.stopped is None or not isinstance(error, ClientClosedError):
                    raise
            except BudgetExceededError as error:  # dearer than when it began to wait: again, later
                self._release(stake)
                refused = error
            except ApikleyError as error:
                self._release(stake)
                return await self._refused(item, error), None
            else:
                self._keep(item, stake)
                self._maintenance.ended()
                item = await self._store.item(item.key)
                if item.state is State.UNCERTAIN:  # the answer named another film's task
                    self._settle(item, ended=True)
                    self._tell(item, rests=True)
                    return item, None
                self._report(item, job)
                return item, job
        if refused is not None and self.stopped is not None:
            item = await self._refused(item, refused)
        return item, None

    async def _may_submit(self, item: Item) -> bool:
        """Wait while the service is under maintenance; say no when nothing more is submitted."""
        while self.stopped is None and (wait := self._maintenance.opens_at - self._clock.now()) > 0:
            await self._clock.sleep(wait, self._stopping)
        return self.stopped is None and not await self._is_hindered(item)

    # --- money -------------------------------------------------------------------------------

    async def _reserve(self, work: Work) -> Reservation | None:
        """Set the price aside; wait while one that is out may still turn out to cost less."""
        while self.stopped is None:
            try:
                return self._budget.reserve(self._prices.of(work), work.price_key, sent=False)
            except BudgetExceededError as error:
                if not self._budget.may_free:
                    self.stop(error.message)
                    return None
            self._decided.clear()
            await self._decided.wait()
        return None

    def _keep(self, item: Item, stake: Stake, *, known: bool = True) -> None:
        """The film is paid, or may be; nobody waits for the cost of one that is not *known*."""
        if stake.reservation is not None:
            self._budget.keep()
            if not known:
                self._budget.settle(stake.reservation, None)
            self._reserved[item.key] = stake.reservation
        self._decided.set()

    def _release(self, stake: Stake) -> None:
        if stake.reservation is not None:
            self._budget.release(stake.reservation)
        self._decided.set()

    def _settle(self, item: Item, *, ended: bool) -> None:
        """Let what a film has cost take the place of its price, as soon as that is known.

        A film that was dearer than its price makes its kind dearer, for what is in flight too.
        When the run is done with it, what is not known by then stays what was reserved.
        """
        known = item.state in (State.SUCCESS, State.FAILED)
        if not known and not ended:
            return
        reserved = self._reserved.pop(item.key, None)
        if reserved is None:
            return
        self._budget.settle(reserved, item.credits if known else None)
        if known and item.credits:
            work = work_of(item)
            self._prices.learn(work.price_key, item.credits)
            self._budget.reprice(work.price_key, self._prices.of(work) or 0.0)
        self._decided.set()

    async def _refused(self, item: Item, error: ApikleyError) -> Item:
        """Nothing was created: say whether that is this film's fault or everybody's."""
        item = await self._store.item(item.key)
        if item.state is not State.PLANNED:  # its attempt has decided it
            return item
        if error.affects_all:
            self.stop(str(error))
        elif error.blames is Blame.INPUT and not error.resumable:
            return await self._step(item, Step(Event.REFUSE, cause=str(error)))
        self._tell(attrs.evolve(item, cause=str(error)), rests=True)
        return item

    async def _follow(self, item: Item, job: Job | None) -> Item:
        """Wait for a paid film; only the service's own word ends it."""
        job = job or self._client.job(item.task_id or "", known=True)
        try:
            result = await job
        except JobFailedError as error:
            if error.affects_all:  # the account's trouble, not the film's
                self.stop(str(error))
            step = Step(
                Event.FAIL,
                cause=error.message,
                fail_code=error.fail_code,
                fail_message=error.fail_message,
                credits=job.snapshot.credits,
            )
        except ClientClosedError:
            raise
        except ApikleyError as error:
            if not error.affects_all:
                return await self._step(item, Step(Event.STALL, cause=error.message))
            self.stop(str(error))
            self._tell(attrs.evolve(item, cause=str(error)), rests=True)
            return item
        else:
            expires = result.expires_at.timestamp() if result.expires_at else None
            said = {"urls": result.urls, "expires_at": expires, "content": dict(result.raw)}
            said |= {"unusable": result.unusable} if result.unusable else {}
            step = Step(
                Event.SUCCEED,
                credits=result.credits,
                success_at=job.snapshot.completed_at,
                result=json.dumps(said),
            )
        return await self._step(item, step)

    async def _save(self, item: Item) -> None:
        """Save the film; it is done when its bytes are on the disk and its sum is written down."""
        result = result_of(item)
        if self._options.partial and result.urls:
            result = attrs.evolve(result, unusable=())
        if not result.urls:  # another model's answer without a file: its words are in the journal
            await self._step(item, Step(Event.SAVE))
            return
        target = await self._target(item, len(result.urls))
        overwrite = self._options.overwrite or is_rehearsal
        try:
            paths = await self._client.save(result, target, overwrite=overwrite)
            files = await asyncio.to_thread(lambda: tuple(map(summed, paths)))
        except ResultExpiredError as error:
            await self._step(item, Step(Event.EXPIRE, cause=error.message))
        except ClientClosedError:
            raise
        except (ApikleyError, OSError) as error:
            if isinstance(error, ApikleyError) and error.blames is Blame.ACCOUNT:
                self.stop(str(error))
            self._tell(attrs.evolve(item, cause=str(error)), rests=True)
        else:
            await self._step(item, Step(Event.SAVE, files=files))
            self._names.hold(item.key, files)

    # --- helpers -----------------------------------------------------------------------------

    async def _target(self, item: Item, files: int) -> Path:
        """Where a film's files go: under its key, if no other item has or wants such a name."""
        stem = await self._names.stem(item.key, files)
        return self._options.folder / f"{stem}.mp4"

    async def _is_hindered(self, item: Item) -> bool:
        """Refuse to pay for a film whose name is taken (it may be there already) or too long."""
        target = await self._target(item, 1)
        fault = name_fault(target.stem, self._names.longest)
        taken = [target, target.with_stem(f"{target.stem}-1")]
        there = [name for name in taken if name.exists() and not is_rehearsal(name)]
        foreign = [name for name in there if not await self._names.holds(name)]
        if fault is not None:
            cause = f"{fault}; nothing was paid"
        elif foreign and not self._options.overwrite:
            cause = f"{foreign[0]} exists already; nothing was paid. Move it, or say overwrite"
        else:
            return False
        self._tell(attrs.evolve(item, cause=cause), rests=True)
        return True

    def _report(self, item: Item, job: Job) -> None:
        """Leave in `unclaimed` what was paid for an item that was decided otherwise meanwhile."""
        if item.task_id != job.task_id and job not in self._client.unclaimed:
            told = "%s was decided otherwise, and film %s is paid all the same: see unclaimed"
            logger.warning(told, item.key, job.task_id)
            self._client.attempts.leave_behind(job)

    async def _step(self, item: Item, step: Step) -> Item:
        changed = await self._store.step(item.key, step)
        self._settle(changed, ended=False)
        self._tell(changed)
        return changed

    def _tell(self, item: Item, *, rests: bool = False) -> None:
        listens = item.state is State.UNCERTAIN and self._client.attempts.receives_callbacks
        rests = rests or (item.state in RESTING and not listens)
        self._changes.put_nowait(Change(item, rests))

    def _pause(self, error: MaintenanceError) -> None:
        """The service is under maintenance: nobody submits for some minutes."""
        if self._maintenance.refused(self._clock.now()) is None:
            self.stop(str(error))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task


def result_of(item: Item) -> Result:
    """The result as the journal keeps it."""
    said = json.loads(item.result)
    expires = said.get("expires_at")
    return Result(
        item.task_id or "",
        tuple(said.get("urls", ())),
        expires_at=datetime.fromtimestamp(expires, UTC) if expires else None,
        unusable=tuple(said.get("unusable", ())),
    )


def summed(path: Path) -> File:
    """What is on the disk, with its SHA-256. Blocks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(path.absolute(), file.tell(), digest)
