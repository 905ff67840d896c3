"""`Batch`: many films and their journal; a run of it can be ended anywhere and run again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

from apikley_async import Client, Clock, Expected, Limiter
from apikley_async._budget import Price
from apikley_async._disk import check_writable
from apikley_async._tasks import CancelScope
from apikley_async.batch.budget import RunBudget
from apikley_async.batch.decisions import BatchDecisions, check_state
from apikley_async.batch.destination import Destination, DestinationWriter
from apikley_async.batch.more_work import MoreWork
from apikley_async.batch.recorder import restore_limits
from apikley_async.batch.reports import BatchReports
from apikley_async.batch.run import GRACE, STORING_END, BatchRun
from apikley_async.batch.run_options import BatchRunOptions, ItemUpdate
from apikley_async.batch.saved_files import is_lost
from apikley_async.batch.states import ItemEvent, ItemState
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.values import Item, Transition
from apikley_async.batch.stored_runs import store_run
from apikley_async.errors import DownloadError, JournalError, ManifestError

__all__ = ["Batch"]

ASKED = "Asked to stop"
LOOP_TURNS = 5  # until Python has noticed that a generator was abandoned


class Batch(BatchReports, BatchDecisions):
    """Many films and their journal: `async with Batch.open("campaign.db") as batch:`.

    What is paid is stored before and after every step, so a run can be ended anywhere. Run it again
    and it resumes where it stopped, and submits nothing a second time.

    Args:
        store: where the batch is stored: an open `Store`, which stays open when the batch is
            closed, or a function without arguments that opens one, which the batch closes.
        clock: time, handed in by tests.
    """

    def __init__(
        self, store: Store | Callable[[], Awaitable[Store]], *, clock: Clock | None = None
    ) -> None:
        super().__init__(store, clock=clock)
        self._busy = self._asked_to_stop = False
        self._preparing: CancelScope | None = None  # before there is a run
        self._stopped: str | None = None
        self._restored: list[Limiter] = []  # they know of the attempts of earlier runs
        self._grace = GRACE

    async def run(
        self,
        client: Client,
        *,
        folder: str | os.PathLike[str] = "films",
        max_running: int = 100,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        min_balance: float | None = None,
        prices: Price = None,
        retry: int = 0,
        overwrite: bool = False,
        every_change: bool = False,
        keys: Collection[str] | None = None,
        expected: Expected = None,
        destination: Destination | None = None,
        more: MoreWork | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Make what is not made yet; yield each item when the run has done what it can for it.

        Run it again and it resumes where it stopped. What stopped it early is in `stopped`.

        Args:
            client: makes the films; several batches may share one.
            folder: where they are saved, as `<key>.mp4`.
            max_running: films in the making at once, besides the client's own bound.
            max_credits: bound on the credits of all films of this journal, uncertain ones
                included; needs a price.
            max_tasks: the same in films.
            min_balance: leave at least so many credits in the account; needs a price.
            prices: credits for a film: a number, a mapping from duration (10, 15, 25) or model,
                or a function of the work. Without it, what earlier films of this journal
                consumed.
            retry: make a failed film again, so many times: each is a new charge.
            overwrite: replace other files of the films' names.
            every_change: yield every change of an item, not only the last one of the run.
            keys: make, poll and save these items only; None: all that the journal holds.
                The bounds still count what all items of the journal have cost.
            expected: seconds that a film is expected to take: one number, or a mapping by duration
                (10, 15, 25) or model. It says when polls begin, until five films of the kind have
                shown better, in this run or an earlier one.
            destination: where the films go instead of *folder*, such as an object store. A film is
                done when its `put` has returned.
            more: keeps the run going when nothing is left to make; `stop` ends it.

        Raises:
            KeyError: one of *keys* is not in the journal; nothing was spent.
            ValueError: *expected* is no number of seconds; nothing was spent.
            DownloadError: nothing can be written into *folder*, or put into *destination*; nothing
                was spent.
            BudgetExceededError: a bound in credits without a price; nothing was spent.
            JournalError: the journal cannot be written; nothing was sent without it.
        """
        client.attempts.durations.expect(expected)
        chosen = None if keys is None else frozenset(keys)
        options = BatchRunOptions(
            Path(folder),
            max_running,
            retry,
            overwrite,
            chosen,
            destination=destination,
            more=more,
        )
        updates = self._updates(
            client,
            options,
            prices=prices,
            max_credits=max_credits,
            max_tasks=max_tasks,
            min_balance=min_balance,
        )
        async with contextlib.aclosing(updates):
            async for update in updates:
                if every_change or update.is_last:
                    yield update.item

    async def save(
        self,
        client: Client,
        *keys: str,
        folder: str | os.PathLike[str] | None = None,
        partial: bool = False,
        overwrite: bool = False,
        destination: Destination | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Fetch films again whose files are lost, and those not saved yet; yield each at its end.

        Costs nothing, and makes nothing.

        Args:
            client: fetches them.
            keys: of done or successful items; by default all that are successful, or done without
                all of their files.
            folder: where they go; by default where the journal's films were saved last.
            destination: where they go instead. Of films that were put into one, those are lost that
                it does not have; without it they are not looked for, and only those named are
                fetched, into *folder*.
            partial: a film is done although some of its links cannot be used.
            overwrite: replace other files of the films' names.

        Raises:
            KeyError: one of *keys* is not in the journal.
            ManifestError: one of *keys* is not paid and finished, or was put into a destination,
                and neither *destination* nor *folder* is given.
        """
        writer = None if destination is None else DestinationWriter(destination, client)
        wanted, lost = await self._to_be_saved(keys, writer, moved=folder is not None)
        if not wanted:
            return
        target = Path(folder) if folder is not None else await self.output_folder()
        options = BatchRunOptions(
            target or Path("films"),
            overwrite=overwrite,
            keys=wanted,
            partial=partial,
            destination=destination,
            owner=secrets.token_hex(16),
            claimed=lost,
        )
        async with contextlib.aclosing(self._save_claimed(client, options)) as saved:
            async for item in saved:
                yield item

    async def _save_claimed(
        self, client: Client, options: BatchRunOptions
    ) -> AsyncGenerator[Item, None]:
        """Fetch the films of a run, and give back what it has claimed."""
        try:
            async with contextlib.aclosing(self._updates(client, options)) as updates:
                async for update in updates:
                    if update.is_last:
                        yield update.item
        finally:  # also where one of several decisions was refused
            with contextlib.suppress(JournalError, TimeoutError):
                async with asyncio.timeout(STORING_END):  # a lease ends by itself
                    await self.store.release(options.owner or "")

    async def _to_be_saved(
        self, keys: tuple[str, ...], writer: DestinationWriter | None, *, moved: bool
    ) -> tuple[frozenset[str], Sequence[str]]:
        """The keys of the films that `save` fetches, and of those of them that are done.

        Args:
            keys: that the user has named; empty for all.
            writer: of the destination that was given.
            moved: whether the user has named a folder.
        """
        finished = (ItemState.SUCCESS, ItemState.DONE)
        chosen = await self._chosen(keys, *finished)
        for item in chosen:
            check_state(item, *finished)
        wanted = {item.key for item in chosen if item.state is ItemState.SUCCESS}
        lost = [
            item.key
            for item in chosen
            if item.key not in wanted
            and await self._is_lost(item, writer, named=bool(keys), moved=moved)
        ]
        return frozenset([*wanted, *lost]), lost

    async def _is_lost(
        self, item: Item, writer: DestinationWriter | None, *, named: bool, moved: bool
    ) -> bool:
        """Whether a done film is to be fetched again.

        Args:
            item: the film.
            writer: of the destination that was given.
            named: whether the user has named it.
            moved: whether the user has named a folder.
        """
        if not item.stored:
            found = await self.locate_files(item)
            return await asyncio.to_thread(is_lost, found, or_changed=named)
        if writer is not None:
            return not all([await writer.exists(file.name) for file in item.stored])
        if named and not moved:
            place = item.stored[0].location or item.stored[0].name
            raise ManifestError(
                f"{item.key} was put into a destination ({place}), and only a program that has it "
                "can look there, with Batch.save(destination=...): to fetch the film into a "
                "folder, name one (-o)"
            )
        return named

    async def record_balance(self, client: Client) -> float:
        """Store the credits that the account has now: evidence for `uncertain_items`.

        While a film of this journal is being submitted or made, by whatever process, they are
        evidence of nothing, as it is not known when the service takes credits, or gives those of a
        failed film back: they are not stored then.

        Raises:
            JournalError: they are those of another account.
        """
        await self.check_account(client)
        attempts = await self.store.at_rest()
        balance = await client.credits()
        if attempts is not None:
            await self.store.record_balance(balance, attempts=attempts)
        return balance

    def stop(self) -> None:
        """Let the run end: submit nothing more, wait for no film. Running again resumes."""
        self._asked_to_stop = True  # also a run that is about to begin
        if self._preparing is not None:
            self._preparing.cancel()
        if self._run is not None:
            self._run.interrupt(ASKED)

    @property
    def stopped(self) -> str | None:
        """Why the last run submitted nothing more, in one sentence; None if it went to its end."""
        return self._run.stopped if self._run is not None else self._stopped

    @property
    def pending(self) -> int:
        """How many submissions of the run are out, their answers awaited."""
        return 0 if self._run is None else self._run.pending

    @property
    def held_back(self) -> int:
        """How many films of the run wait for a bound: others may turn out to cost less."""
        return 0 if self._run is None else self._run.held_back

    @property
    def grace(self) -> float:
        """Seconds for the answers of submissions that are out when a run ends; then uncertain.

        It may be set while a run goes on.
        """
        return self._grace

    @grace.setter
    def grace(self, seconds: float) -> None:
        self._grace = seconds
        if self._run is not None:
            self._run.grace = seconds

    # --- one run -----------------------------------------------------------------------------

    async def _updates(
        self,
        client: Client,
        options: BatchRunOptions,
        *,
        prices: Price = None,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        min_balance: float | None = None,
    ) -> AsyncGenerator[ItemUpdate, None]:
        """Every update of one run."""
        await self._wait_for_earlier_run()
        self._busy, self._stopped, self._asked_to_stop = True, None, False
        try:
            with CancelScope() as self._preparing:
                budget = await RunBudget.load(
                    self.store,
                    options,
                    price=prices,
                    max_credits=max_credits,
                    max_tasks=max_tasks,
                    min_balance=min_balance,
                )
                await self._prepare(client, options, budget)
            if self._asked_to_stop:
                self._stopped = ASKED
                return
            await self._refetch(options)
            run = BatchRun(self.store, client, options, budget, self._clock)
            self._run, run.grace = run, self._grace
            async with contextlib.aclosing(run.updates()) as updates:
                async for update in updates:
                    yield update
        finally:
            if self._run is not None:
                self._stopped = self._run.stopped
            self._run, self._preparing, self._busy = None, None, False

    async def _refetch(self, options: BatchRunOptions) -> None:
        """Let a run fetch films again that were done, when nothing can refuse it any more.

        They are claimed as they are decided about. Otherwise a run beside it, which saves
        elsewhere, would take them.
        """
        owner = options.owner or ""
        refetch = Transition(ItemEvent.REFETCH, cause="to be saved again", owner=owner)
        for key in options.claimed:
            await self._decide(key, refetch)

    async def _wait_for_earlier_run(self) -> None:
        """Wait for an earlier run to end whose loop was left: its generator may end a bit later.

        Raises:
            JournalError: the earlier run goes on.
        """
        for _ in range(LOOP_TURNS):
            if self._busy and not (self._run and self._run.ending.is_set()):
                await asyncio.sleep(0)
        while self._busy:
            if self._run is None or not self._run.ending.is_set():
                raise JournalError("This batch is running already")
            await self._run.aclose()
            await asyncio.sleep(0)

    async def _prepare(self, client: Client, options: BatchRunOptions, budget: RunBudget) -> None:
        """Do everything that can refuse a run before anything is spent."""
        store = self.store
        if options.keys and (unknown := options.keys - {item.key async for item in self.items()}):
            raise KeyError(f"not in the journal: {', '.join(sorted(unknown))}")
        await self.check_account(client)
        if options.destination is not None:
            await DestinationWriter(options.destination, client).check()
        else:
            try:
                await asyncio.to_thread(check_writable, options.folder)
            except OSError as error:
                message = f"{options.folder} cannot be written: {error.strerror}"
                raise DownloadError.before_paying(message) from None
            await store.add_folder(options.folder)
        await budget.look_at_balance(client)
        await budget.check_prices()
        if not any(known is client.limiter for known in self._restored):
            await restore_limits(store, client)
            self._restored.append(client.limiter)
        await store_run(store, self._clock)
