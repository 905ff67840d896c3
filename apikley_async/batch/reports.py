"""What a batch says about itself: status, cost, uncertain films, and whether all is as it was."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from apikley_async._budget import Price, Prices
from apikley_async.batch.budget import RunBudget, known_prices
from apikley_async.batch.decisions import check_state
from apikley_async.batch.destination import Destination, is_stored
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.open_batch import OpenBatch
from apikley_async.batch.run_options import BatchRunOptions
from apikley_async.batch.saved_files import file_faults, locate
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.journal import Journal
from apikley_async.batch.store.values import Item
from apikley_async.batch.stored_pace import ServicePace, read_pace
from apikley_async.batch.uncertain import (
    BalanceEvidence,
    UncertainItem,
    balance_evidence,
    uncertain_item,
)
from apikley_async.errors import JournalError, ManifestError

__all__ = ["BatchReports", "BatchStatus", "CostEstimate"]

FILES_AT_ONCE = 1000  # items whose files are compared in one piece


@attrs.frozen
class BatchStatus:
    """Where a batch stands.

    Attributes:
        counts: items by state; states without items are left out.
        spent: credits of accepted films, as far as the service or a price says.
        at_risk: credits of uncertain attempts, which may have been charged.
        unpriced: films, accepted or uncertain, whose credits nobody knows.
        pace: how many submissions the service takes, where that is less than the limiter's limit.
    """

    counts: Mapping[ItemState, int]
    spent: float
    at_risk: float
    unpriced: int
    pace: ServicePace | None = None

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def finished(self) -> bool:
        """Whether every item is done or dropped."""
        return set(self.counts) <= {ItemState.DONE, ItemState.DROPPED}


@attrs.frozen
class CostEstimate:
    """What is still to be paid.

    Attributes:
        films: planned films.
        credits: what they cost, as far as prices are known.
        unpriced: how many of them have no known price.
        fitting: how many of them fit into the bounds, as far as is known beforehand.
    """

    films: int
    credits: float
    unpriced: int
    fitting: int


class BatchReports(OpenBatch):
    """The part of a batch that reports. Nothing here is sent, and nothing is changed."""

    async def status(self, *, keys: Collection[str] | None = None) -> BatchStatus:
        """How many items are in which state, and what they have cost.

        Args:
            keys: only these items; by default all.
        """
        chosen = None if keys is None else frozenset(keys)
        amounts = {True: 0.0, False: 0.0}  # of uncertain attempts, and of the others
        unknown = []
        for cost in await self.store.attempt_costs():
            if chosen is not None and cost.key not in chosen:
                continue
            amount = cost.consumed if cost.consumed is not None else cost.reserved
            if amount is None:
                unknown.append(cost)
            else:
                amounts[cost.uncertain] += amount
        # Films are read only where a price is missing: it is what others of their kind have cost.
        prices = await known_prices(self.store) if unknown else Prices()
        unpriced = 0
        for cost in unknown:
            known = prices.of(work_of(await self.store.item(cost.key))) if prices.learned else None
            if known is None:
                unpriced += 1
            else:
                amounts[cost.uncertain] += known
        counts: Mapping[ItemState, int] = (
            await self.store.counts()
            if chosen is None
            else Counter([item.state async for item in self.items() if item.key in chosen])
        )
        pace = await read_pace(self.store)
        return BatchStatus(counts, amounts[False], amounts[True], unpriced, pace)

    async def estimate(
        self,
        *,
        prices: Price = None,
        keys: Collection[str] | None = None,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        spendable: float | None = None,
    ) -> CostEstimate:
        """What the planned films would cost.

        Args:
            prices: as for `run`.
            keys: only these items; by default all.
            max_credits: as for `run`.
            max_tasks: as for `run`.
            spendable: credits that may be taken from the balance.

        Raises:
            BudgetExceededError: a bound in credits without a price, as `run` would.
        """
        options = BatchRunOptions(Path(), keys=None if keys is None else frozenset(keys))
        budget = await RunBudget.load(
            self.store, options, price=prices, max_credits=max_credits, max_tasks=max_tasks
        )
        budget.limit_to(spendable)
        await budget.check_prices()
        films, total, unpriced, fitting = 0, 0.0, 0, 0
        async for item in self.items(ItemState.PLANNED):
            if item.gone or not options.includes(item.key):
                continue
            films += 1
            work = work_of(item)
            amount = budget.prices.of(work)
            total += amount or 0.0
            unpriced += amount is None
            fitting += budget.fits(work)
        return CostEstimate(films, total, unpriced, fitting)

    async def verify(self, *, destination: Destination | None = None) -> list[str]:
        """Check the journal, and every saved file byte by byte; list the faults that are found.

        Args:
            destination: is asked whether it has the films that were put into one; without it they
                are not looked for.

        Raises:
            DownloadError: the destination cannot say.
        """
        faults = [*await self.store.verify()]
        last = 0
        done = (ItemState.DONE,)
        while page := await self.store.items(done, after=last, count=FILES_AT_ONCE):
            last = page[-1].order
            located = [await self.locate_files(item) for item in page]
            saved = [(item.key, file) for item in located for file in item.files]
            faults += await asyncio.to_thread(file_faults, saved)
            if destination is not None:
                stored = [(item.key, file) for item in page for file in item.stored]
                faults += [
                    f"{key}: {file.name} is not in the destination"
                    for key, file in stored
                    if not await is_stored(destination, file.name)
                ]
        return faults

    async def output_folder(self) -> Path | None:
        """The folder that films were saved in last; None where there was no run yet.

        Raises:
            ManifestError: it lies outside of the journal's own folder; for a journal in a database,
                of the current one. A journal may come from elsewhere, and must not decide where
                files are written; a person names the folder.
        """
        folders = [*await self.store.folders()]
        if not folders:
            return None
        store = self.store
        # Resolved, since a link may have come with the journal.
        target = await asyncio.to_thread(folders[-1].resolve)
        home = store.home or Path.cwd() if isinstance(store, Journal) else None
        if home is not None and not target.is_relative_to(home):
            message = f"the films were saved in {folders[-1]}, outside of the journal's folder"
            raise ManifestError([f"{message}: name a folder with -o"])
        return folders[-1]

    async def locate_files(self, item: Item) -> Item:
        """The item with its files where they are now: their folder may have been moved.

        A file that is not where it was saved is looked for, by its name and size, in the other
        folders that runs of this journal have had.
        """
        if not item.files:
            return item
        folders = await self.store.folders()
        return await asyncio.to_thread(locate, item, folders)

    async def uncertain_items(
        self, *keys: str
    ) -> tuple[list[UncertainItem], list[BalanceEvidence]]:
        """What should be known of uncertain films before a decision about them.

        Args:
            keys: of the items; by default all that are uncertain.

        Returns:
            The films, and what the balances that `record_balance` has stored show about them.

        Raises:
            ManifestError: one that is named is not uncertain.
        """
        chosen = await self._chosen(keys, ItemState.UNCERTAIN)
        for item in chosen:
            check_state(item, ItemState.UNCERTAIN)
        films = [uncertain_item(item, await self.store.attempts(item.key)) for item in chosen]
        if not films:
            return [], []
        found = balance_evidence(await self.store.attempts(), await self.store.balances())
        return films, [balance for balance in found if any(map(balance.covers, films))]

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the journal as it is now, also while another process runs it, into a new file.

        For a batch of `Batch.open` only. A copy of the file itself may miss what was paid last.

        Raises:
            JournalError: *target* exists or cannot be written; or the store is no file.
        """
        if not isinstance(self.store, Journal):
            raise JournalError("only a journal in a file is backed up like this")
        await self.store.backup(target)
