"""`Batch`: a manifest in, films out, nothing paid twice, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import attrs

from apikley_async import Client, Clock, Limiter, SystemClock, Work, images_of, work_faults
from apikley_async._budget import Budget, Price, Prices, Reservation
from apikley_async._disk import check_writable, user_id
from apikley_async._urls import is_loopback, parse_url
from apikley_async.batch.evidence import Balance, Doubt, balances_around, doubt_of
from apikley_async.batch.manifest.fields import (
    digests_of,
    entry_of,
    image_digest,
    key_faults,
    without_words,
    work_of,
)
from apikley_async.batch.manifest.reader import entries_in
from apikley_async.batch.manifest.versions import films_in, version_of
from apikley_async.batch.recorder import restore_window
from apikley_async.batch.run import GRACE, Change, Options, Run, summed
from apikley_async.batch.states import TABLE, Event, NoStepError, State
from apikley_async.batch.store.protocol import Entry, File, Item, Plan, Step, Store
from apikley_async.batch.store.sqlite import Journal
from apikley_async.errors import (
    Blame,
    BudgetExceededError,
    DownloadError,
    JournalError,
    ManifestError,
    StoryboardError,
)

__all__ = ["Batch", "Estimate", "Status"]

DROPPABLE = tuple(state for state, event in TABLE if event is Event.DROP)
TURNS = 5  # of the loop, until Python has noticed that a generator was broken off

Source: TypeAlias = "str | os.PathLike[str] | Iterable[tuple[str, Work]]"


@attrs.frozen
class Status:
    """Where a batch stands.

    Attributes:
        counts: items by state; states without items are left out.
        spent: credits of accepted films, as far as the service or a price says.
        at_risk: credits of uncertain attempts, which may have been charged.
        unpriced: films, accepted or uncertain, whose credits nobody knows.
    """

    counts: Mapping[State, int]
    spent: float
    at_risk: float
    unpriced: int

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def finished(self) -> bool:
        """Whether every item is done or dropped."""
        return set(self.counts) <= {State.DONE, State.DROPPED}


@attrs.frozen
class Estimate:
    """What is still to be paid: films, their credits, and how many have no known price.

    *fitting* of them fit into the bounds that were given, as far as is known before.
    """

    films: int
    credits: float
    unpriced: int
    fitting: int


class Batch:
    """Many films and their journal: `async with Batch.open("campaign.db") as batch:`.

    What is paid is written down before and after every step, so a run can be ended anywhere and
    run again: it goes on where it stopped, and submits nothing a second time.

    Args:
        store: where the batch is written down: an open `Store`, which stays open when the batch
            is closed, or a function without arguments that opens one, which the batch closes.
        clock: time, handed in by tests.
    """

    def __init__(
        self, store: Store | Callable[[], Awaitable[Store]], *, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._opener = store if callable(store) else None
        self._store = None if callable(store) else store
        self._run: Run | None = None
        self._busy = False
        self._stopped: str | None = None
        self._paced: list[Limiter] = []  # they know of the attempts of earlier runs
        self._grace = GRACE

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        read_only: bool = False,
        wait: float = 0.0,
        adopt: bool = False,
        private: bool = False,
    ) -> Self:
        """Name the journal; `async with` opens it, or makes it.

        Args:
            path: the journal's file; its folder must exist.
            clock: time, handed in by tests.
            read_only: only look; another process may run the batch meanwhile.
            wait: how many seconds another process may keep it, before `JournalError`.
            adopt: take a copy for the newest journal although it is older than another one was,
                or has lost its log. Every film without a task id that is not rejected or dropped
                is `uncertain` then, since it may have been paid. Nothing else is overridden.
            private: open a copy of the journal, or an empty one where there is none yet, that is
                gone when it is closed: what would happen is tried, and nothing is left behind.
        """
        return cls(
            lambda: Journal.open(
                path, clock=clock, read_only=read_only, wait=wait, adopt=adopt, private=private
            ),
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        if self._opener is not None:
            self._store = await self._opener()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave a run that is on, wait for its requests that are out, and close the journal.

        A store that was open before is not closed.
        """
        store, self._store = self._store, None
        try:
            if self._run is not None:
                self._run.leave("The batch was closed")
                await self._run.aclose()
        finally:
            if store is not None and self._opener is not None:
                await store.aclose()

    # --- what is to be made ------------------------------------------------------------------

    async def add(
        self, source: Source, *, allow_duplicates: bool = False, allow_outside: bool = False
    ) -> Plan:
        """Plan the films of a manifest, or of (key, storyboard) pairs: all of them, or none.

        Everything is checked before anything is written down; nothing is sent. Adding the same
        again adds nothing. A key may get other content as long as nothing was created for it.

        Args:
            source: a `.yaml`, `.json`, `.jsonl`, `.toml` or `.csv` file, or pairs.
            allow_duplicates: whether the same content may be made under two keys.
            allow_outside: whether images may lie outside of the manifest's folder.

        Raises:
            ManifestError: with every fault and its place.
            ManifestConflictError: a key has other content than before, or two have the same.
        """
        return await self._add(source, allow_duplicates, allow_outside=allow_outside)

    async def _add(
        self,
        source: Source,
        allow_duplicates: bool,
        *,
        allow_outside: bool,
        failed: Collection[str] | None = (),
    ) -> Plan:
        remarks: list[str] = []
        if isinstance(source, str | os.PathLike):
            name = name_of(source)
            entries = entries_in(
                Path(source),
                allow_duplicates=allow_duplicates,
                allow_outside=allow_outside,
                remarks=remarks,
            )
        else:
            name, entries = "", iter(pairs(source))
        plan = await self._plan(entries, name, allow_duplicates=allow_duplicates, failed=failed)
        return attrs.evolve(plan, remarks=tuple(remarks))

    async def _plan(
        self,
        entries: Iterable[Entry],
        name: str,
        *,
        allow_duplicates: bool,
        failed: Collection[str] | None = (),
    ) -> Plan:
        keys: list[str] = []

        def noted() -> Iterable[Entry]:
            for entry in entries:
                keys.append(entry.key)
                yield entry

        plan = await self._open.plan(
            noted(), source=name, allow_duplicates=allow_duplicates, failed=failed
        )
        if self._run is not None:
            self._run.replanned()
        return attrs.evolve(plan, keys=tuple(keys))

    async def add_films(
        self,
        files: Iterable[str | os.PathLike[str]],
        *,
        takes: int | None = None,
        again: bool = False,
        allow_duplicates: bool = False,
    ) -> Plan:
        """Plan one film for each file, named after it: all of them, or none.

        Adding the same again adds nothing; `Plan.keys` names the films for `run(keys=)`.

        Args:
            files: manifests of one film each.
            takes: how many takes there are of each in all; by default what the film says.
            again: whether a file that has changed is a new film, `<key>.v2`. The same content
                is never a new film.
            allow_duplicates: whether the same content may be made under two keys.

        Raises:
            ManifestError: with every fault of every file and its place.
            ManifestConflictError: a file has changed, or two films have the same content.
        """
        remarks: list[str] = []
        paths = [Path(file) for file in files]
        films = await asyncio.to_thread(films_in, paths, takes=takes, remarks=remarks)
        chosen: list[Entry] = []
        for film in films:
            chosen += await version_of(film, self._find, again=again)
        plan = await self._plan(chosen, "", allow_duplicates=allow_duplicates)
        return attrs.evolve(plan, remarks=tuple(remarks))

    async def _find(self, key: str) -> Item | None:
        try:
            return await self._open.item(key)
        except KeyError:
            return None

    # --- making it ---------------------------------------------------------------------------

    async def run(
        self,
        client: Client,
        *,
        folder: str | os.PathLike[str] = "films",
        max_running: int = 100,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        min_balance: float | None = None,
        price: Price = None,
        retry: int = 0,
        overwrite: bool = False,
        every_change: bool = False,
        keys: Collection[str] | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Make what is not made yet; yield each item as it comes to rest.

        Run it again and it goes on where it stopped. What stopped it early is in `stopped`.

        Args:
            client: makes the films; several batches may share one.
            folder: where they are saved, as `<key>.mp4`.
            max_running: films in the making at once, besides the client's own bound.
            max_credits: bound on the credits of all films of this journal, uncertain ones
                included; needs a price.
            max_tasks: the same in films.
            min_balance: leave at least so many credits in the account; needs a price.
            price: credits for a film: a number, a mapping from duration (10, 15, 25) or model,
                or a function of the work. Without it, what earlier films of this journal
                consumed.
            retry: make a failed film again, so many times: each is a new charge.
            overwrite: replace other files of the films' names.
            every_change: yield every change of an item, not only where it comes to rest.
            keys: make, follow and save these items only; None: all that the journal holds.
                The bounds still count what all items of the journal have cost.

        Raises:
            KeyError: one of *keys* is not in the journal; nothing was spent.
            DownloadError: nothing can be written into *folder*; nothing was spent.
            BudgetExceededError: a bound in credits without a price; nothing was spent.
            JournalError: the journal cannot be written; nothing was sent without it.
        """
        chosen = None if keys is None else frozenset(keys)
        options = Options(Path(folder), max_running, retry, overwrite, chosen)
        bounds = (max_credits, max_tasks, min_balance)
        async with contextlib.aclosing(self._running(client, options, price, bounds)) as changes:
            async for change in changes:
                if every_change or change.rests:
                    yield change.item

    async def _running(
        self,
        client: Client,
        options: Options,
        price: Price = None,
        bounds: tuple[float | None, int | None, float | None] = (None, None, None),
    ) -> AsyncGenerator[Change, None]:
        """Every change of one run; *bounds* are max_credits, max_tasks and min_balance."""
        max_credits, max_tasks, min_balance = bounds
        await self._wait_for_the_last()
        self._busy, self._stopped = True, None
        try:
            prices, budget, reserved = await self._money(price, max_credits, max_tasks, options)
            await self._prepare(client, options, prices, budget, min_balance)
            run = Run(
                self._open,
                client,
                options,
                budget=budget,
                prices=prices,
                reserved=reserved,
                clock=self._clock,
            )
            self._run, run.grace = run, self._grace
            async with contextlib.aclosing(run.changes()) as changes:
                async for change in changes:
                    yield change
        finally:
            if self._run is not None:
                self._stopped = self._run.stopped
            self._run, self._busy = None, False

    async def _wait_for_the_last(self) -> None:
        """A loop over an earlier run that was broken off may need a moment to end."""
        for _ in range(TURNS):
            if self._busy and not (self._run and self._run.ending.is_set()):
                await asyncio.sleep(0)
        while self._busy:
            if self._run is None or not self._run.ending.is_set():
                raise JournalError("This batch is running already")
            await self._run.aclose()
            await asyncio.sleep(0)

    async def _prepare(
        self,
        client: Client,
        options: Options,
        prices: Prices,
        budget: Budget,
        min_balance: float | None,
    ) -> None:
        """Everything that can refuse a run before anything is spent."""
        store = self._open
        if options.keys and (unknown := options.keys - {item.key async for item in self.items()}):
            raise KeyError(f"not in the journal: {', '.join(sorted(unknown))}")
        await self.belong_to(client)
        try:
            await asyncio.to_thread(check_writable, options.folder)
        except OSError as error:
            told = f"{options.folder} cannot be written: {error.strerror}; nothing was sent"
            raise DownloadError(told) from None
        await store.keep_folder(options.folder)
        if min_balance is not None:
            budget.spendable = await client.credits() - min_balance
        if budget.needs_prices:
            await self._check_prices(options, prices, paid=budget.max_credits is not None)
        if not any(known is client.limiter for known in self._paced):
            self._paced.append(client.limiter)
            await restore_window(store, client)

    async def belong_to(self, client: Client) -> None:
        """Make sure that the journal's tasks are those of this client; `run` does so by itself.

        Raises:
            JournalError: it was written with another key, or another address.
        """
        account = client.attempts.account(await self._open.salt())
        await self._open.bind(home_of(client.base_url), account)

    @property
    def stopped(self) -> str | None:
        """Why the last run submitted nothing more, in one sentence; None if it went to its end."""
        return self._run.stopped if self._run is not None else self._stopped

    @property
    def grace(self) -> float:
        """Seconds for the answers of submissions that are out when a run is left; then uncertain.

        It may be set while a run goes on.
        """
        return self._grace

    @grace.setter
    def grace(self, seconds: float) -> None:
        self._grace = seconds
        if self._run is not None:
            self._run.grace = seconds

    @property
    def pending(self) -> int:
        """How many submissions of the run are out, and their answers awaited."""
        return 0 if self._run is None else self._run.pending

    def stop(self) -> None:
        """Let the run end: submit nothing more, wait for no film. Running again goes on."""
        if self._run is not None:
            self._run.leave("Asked to stop")

    # --- looking -----------------------------------------------------------------------------

    async def item(self, key: str) -> Item:
        """One item; `KeyError` when there is none of that key."""
        return await self._open.item(key)

    async def items(self, *states: State) -> AsyncIterator[Item]:
        """The items in their order; only those in *states*, if any are named."""
        behind = 0
        while page := await self._open.items(states or None, after=behind):
            for item in page:
                yield item
            behind = page[-1].order

    async def status(self) -> Status:
        """Where the batch stands, and what it has cost."""
        prices = await self._prices(None)
        spent, at_risk, unpriced = 0.0, 0.0, 0
        for charge in await self._open.charges():
            amount = charge.consumed if charge.consumed is not None else charge.reserved
            if amount is None:
                item = await self._open.item(charge.key)
                amount = prices.of(work_of(item))
            if amount is None:
                unpriced += 1
            elif charge.uncertain:
                at_risk += amount
            else:
                spent += amount
        return Status(await self._open.counts(), spent, at_risk, unpriced)

    async def estimate(
        self,
        *,
        price: Price = None,
        keys: Collection[str] | None = None,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        spendable: float | None = None,
    ) -> Estimate:
        """What the planned films would cost, all or those of *keys*. Sends nothing.

        Args:
            price, keys, max_credits, max_tasks: as for `run`.
            spendable: credits that may be taken from the balance.

        Raises:
            BudgetExceededError: a bound in credits without a price, as `run` would.
        """
        options = Options(Path(), keys=None if keys is None else frozenset(keys))
        prices, budget, _ = await self._money(price, max_credits, max_tasks, options)
        budget.spendable = spendable
        if budget.needs_prices:
            await self._check_prices(options, prices, paid=max_credits is not None)
        films, total, unpriced, fitting = 0, 0.0, 0, 0
        async for item in self.items(State.PLANNED):
            if item.gone or not options.chooses(item.key):
                continue
            films += 1
            work = work_of(item)
            amount = prices.of(work)
            total += amount or 0.0
            unpriced += amount is None
            with contextlib.suppress(BudgetExceededError):
                _ = budget.reserve(amount, work.price_key)
                fitting += 1
        return Estimate(films, total, unpriced, fitting)

    async def verify(self) -> list[str]:
        """Check the journal and the saved files, byte by byte; give every fault that is found."""
        faults = [*await self._open.verify()]
        behind = 0
        while page := await self._open.items((State.DONE,), after=behind):
            behind = page[-1].order
            found = [await self.located(item) for item in page]
            saved = [(item.key, file) for item in found for file in item.files]
            faults += await asyncio.to_thread(missing, saved)
        return faults

    async def output_folder(self) -> Path | None:
        """Where films were saved last; None where there was no run yet.

        Raises:
            ManifestError: it lies outside of the journal's own folder: a journal that comes from
                elsewhere decides nothing about where files are written, so a person names it.
        """
        folders = [*await self._open.folders()]
        if not folders:
            return None
        store = self._open
        lies = await asyncio.to_thread(folders[-1].resolve)  # a link may have come with the journal
        if isinstance(store, Journal) and not lies.is_relative_to(store.home):
            told = f"the films were saved in {folders[-1]}, outside of the journal's folder"
            raise ManifestError([f"{told}: name a folder with -o"])
        return folders[-1]

    async def located(self, item: Item) -> Item:
        """The item with its files where they are: a folder of films may have been moved.

        A file that is not where it was saved is looked for, under its name and with its size, in
        the other folders that runs of this journal have had.
        """
        if not item.files:
            return item
        folders = await self._open.folders()
        return await asyncio.to_thread(found_again, item, folders)

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the journal as it is now, also while another process runs it, into a new file.

        A file of `Batch.open` only. Copying the file itself may miss what was paid last.

        Raises:
            JournalError: *target* exists or cannot be written; or the store is no file.
        """
        if not isinstance(self._open, Journal):
            raise JournalError("only a journal in a file is backed up like this")
        await self._open.backup(target)

    # --- what a person decides ---------------------------------------------------------------

    async def note_balance(self, client: Client) -> float:
        """Write down what the account has now: around a run it is evidence for `doubts`."""
        balance = await client.credits()
        await self._open.note_balance(balance)
        return balance

    async def doubts(self, *keys: str) -> tuple[list[Doubt], list[Balance]]:
        """What to know of uncertain films, all or those named, before deciding about them.

        Sends nothing. The balances are those that `note_balance` has written down.

        Raises:
            ManifestError: one that is named is not uncertain.
        """
        chosen = await self._uncertain(keys)
        found = [doubt_of(item, await self._open.attempts(item.key)) for item in chosen]
        notes = await self._open.balances()
        return found, balances_around(await self._open.attempts(), notes) if found else []

    async def _named(self, keys: Sequence[str], *, undecided: bool) -> list[Item]:
        if bool(keys) is undecided:
            raise TypeError("name the items, or say undecided=True for all that are uncertain")
        if undecided:
            return await self._uncertain(())
        return [await self.item(key) for key in keys]

    async def _uncertain(self, keys: Sequence[str]) -> list[Item]:
        chosen = [await self.item(key) for key in keys]
        if not keys:
            chosen = [item async for item in self.items(State.UNCERTAIN)]
        for item in chosen:
            expect(item, State.UNCERTAIN)
        return chosen

    async def resolve(self, key: str, *, task_id: str, client: Client, force: bool = False) -> Item:
        """Say which task an uncertain submission became; confirmed by reading the task.

        Args:
            key: of the item.
            task_id: the task.
            client: asks for the task, once.
            force: a person insists although the task does not tell, or tells something else; what
                was compared is then the item's `cause`, and in its history with the user's name.

        Raises:
            ManifestError: the task was made of something else; each difference is named.
            NotFoundError: the service knows no such task.
        """
        item = await self.item(key)
        expect(item, State.UNCERTAIN)
        unknown = [a for a in await self._open.attempts(key) if a["state"] == "unknown"]
        differences = await client.attempts.compare(
            task_id,
            work_of(item),
            tokens=[attempt["token"] for attempt in unknown],
            fingerprints=[attempt["fingerprint"] for attempt in unknown],
        )
        if differences and not force:
            told = f"{key}: task {task_id} was made of something else; nothing was changed"
            raise ManifestError([told, *(f"  {fault}" for fault in differences)])
        cause = f"insisted on, although: {'; '.join(differences)}" if differences else ""
        return await self._decide(key, Step(Event.RESOLVE, task_id=task_id, cause=cause))

    async def resubmit(self, *keys: str, undecided: bool = False) -> list[Item]:
        """Plan uncertain films again. What was heard after all is paid twice.

        Those of *keys*, or with *undecided* all that are uncertain.
        """
        chosen = await self._named(keys, undecided=undecided)
        for item in chosen:
            expect(item, State.UNCERTAIN)
        step = Step(Event.RESUBMIT, cause="to be submitted again")
        return [await self._decide(item.key, step) for item in chosen]

    async def drop(self, *keys: str, undecided: bool = False) -> list[Item]:
        """Give items up; nothing is asked of the service.

        Those of *keys*, or with *undecided* all that are uncertain.
        """
        chosen = await self._named(keys, undecided=undecided)
        for item in chosen:
            expect(item, *DROPPABLE)
        step = Step(Event.DROP, cause="given up")
        return [await self._decide(item.key, step) for item in chosen]

    async def rename(self, key: str, new: str) -> Item:
        """Give an item another key, as its manifest has it now. Nothing is sent or paid.

        Its attempts, its history and its files stay with it; files keep their names.

        Raises:
            KeyError: there is no item of that key.
            ManifestError: *new* cannot be a key, another item has it, or the item is being sent.
        """
        if faults := [*key_faults(new)]:
            raise ManifestError(faults)
        try:
            item = await self._open.rename(key, new, by=who())
        except NoStepError as error:
            raise ManifestError([str(error)]) from None
        if self._run is not None:
            self._run.replanned()
        return item

    async def retry_changed(
        self,
        source: Source,
        *keys: str,
        allow_duplicates: bool = False,
        allow_outside: bool = False,
    ) -> list[Item]:
        """Plan failed films again with the content that their manifest has now: new charges.

        All whose content has changed, or those named. The manifest is added as by `add`.

        Raises:
            ManifestError: as `add`; or a film that is named has not failed, or has not changed.
        """
        for key in keys:
            expect(await self.item(key), State.FAILED)
        failed = [item.key async for item in self.items(State.FAILED)]
        await self._add(source, allow_duplicates, allow_outside=allow_outside, failed=keys or None)
        changed = [await self.item(key) for key in failed]
        again = [item for item in changed if item.state is not State.FAILED]
        if left := {*keys} - {item.key for item in again}:
            raise ManifestError([f"{key}: its content has not changed" for key in sorted(left)])
        return again

    async def retry(self, *keys: str) -> list[Item]:
        """Plan failed and rejected films again, all of them if none is named: new charges."""
        chosen = [await self.item(key) for key in keys]
        if not keys:
            chosen = [item async for item in self.items(State.FAILED, State.REJECTED)]
        for item in chosen:
            expect(item, State.FAILED, State.REJECTED)
        step = Step(Event.RETRY, cause="to be made again")
        return [await self._decide(item.key, step) for item in chosen]

    async def save(
        self,
        client: Client,
        *keys: str,
        folder: str | os.PathLike[str] | None = None,
        partial: bool = False,
        overwrite: bool = False,
    ) -> AsyncGenerator[Item, None]:
        """Fetch films again whose files are lost, and those not saved yet; yield where each rests.

        Costs nothing, and makes nothing.

        Args:
            client: fetches them.
            keys: of done or successful items; by default all that are successful, or done without
                all of their files.
            folder: where they go; by default where the journal's films were saved last.
            partial: a film is done although some of its links cannot be used.
            overwrite: replace other files of the films' names.

        Raises:
            KeyError, ManifestError: one that is named is not there, or is not paid and finished.
        """
        chosen = [await self.item(key) for key in keys]
        if not keys:
            chosen = [item async for item in self.items(State.SUCCESS, State.DONE)]
        for item in chosen:
            expect(item, State.SUCCESS, State.DONE)
        wanted = [item.key for item in chosen if item.state is State.SUCCESS]
        for item in chosen:
            found = await self.located(item)
            if item.state is State.DONE and await asyncio.to_thread(is_lost, found, bool(keys)):
                await self._decide(item.key, Step(Event.REFETCH, cause="to be saved again"))
                wanted.append(item.key)
        if not wanted:
            return
        place = Path(folder) if folder is not None else await self.output_folder()
        options = Options(
            place or Path("films"),
            overwrite=overwrite,
            keys=frozenset(wanted),
            partial=partial,
        )
        async with contextlib.aclosing(self._running(client, options)) as changes:
            async for change in changes:
                if change.rests:
                    yield change.item

    async def purge(self, *keys: str) -> list[Item]:
        """Remove the words and images of films from the journal; prompts are personal data.

        Of those named, or of all that are done or dropped: no other could do without. What is
        paid is still known by its digest. Copies of the journal keep what they have.

        Raises:
            ManifestError: one that is named is neither done nor dropped.
        """
        chosen = [await self.item(key) for key in keys]
        if not keys:
            chosen = [item async for item in self.items(State.DONE, State.DROPPED)]
        for item in chosen:
            expect(item, State.DONE, State.DROPPED)
        await self._open.purge({item.key: without_words(item) for item in chosen}, by=who())
        return [await self.item(item.key) for item in chosen]

    async def revive(self, *keys: str) -> list[Item]:
        """Try once more to save films whose links were dead. Costs nothing."""
        chosen = [await self.item(key) for key in keys]
        if not keys:
            chosen = [item async for item in self.items(State.EXPIRED)]
        return [await self._decide(item.key, Step(Event.RESUME)) for item in chosen]

    # --- helpers -----------------------------------------------------------------------------

    @property
    def _open(self) -> Store:
        if self._store is None:
            raise JournalError("This batch is not open; use `async with Batch.open(...)`")
        return self._store

    async def _decide(self, key: str, step: Step) -> Item:
        try:
            return await self._open.step(key, attrs.evolve(step, by=who()))
        except NoStepError as error:
            raise ManifestError([f"{key}: {error}"]) from None

    async def _prices(self, price: Price) -> Prices:
        """What films cost, as far as is known."""
        prices = Prices(price)
        async for item in self.items(State.DONE, State.SUCCESS, State.EXPIRED):
            if item.credits:
                prices.learn(work_of(item).price_key, item.credits)
        return prices

    async def _money(
        self, price: Price, max_credits: float | None, max_tasks: int | None, options: Options
    ) -> tuple[Prices, Budget, dict[str, Reservation]]:
        """What films cost, what earlier runs have used up, and by key what this run will know.

        The costs of films that it does not follow are not waited for: nobody would bring them.
        """
        prices = await self._prices(price)
        budget = Budget(max_credits=max_credits, max_tasks=max_tasks)
        flying = {
            item.key
            async for item in self.items(State.SUBMITTED, State.STALLED)
            if options.chooses(item.key)
        }
        reserved: dict[str, Reservation] = {}
        for charge in await self._open.charges():
            known = charge.consumed if charge.consumed is not None else charge.reserved
            if charge.consumed is not None or max_credits is None:
                budget.count(known)
                continue
            work = work_of(await self._open.item(charge.key))
            amounts = (known or 0.0, prices.of(work) or 0.0)
            counted = budget.count(max(amounts), work.price_key)
            if charge.key in flying - reserved.keys() and not charge.uncertain:
                budget.follow(counted)
                reserved[charge.key] = counted
        return prices, budget, reserved

    async def _check_prices(self, options: Options, prices: Prices, *, paid: bool) -> None:
        """A bound in credits that cannot be kept is refused before anything is spent."""
        unpriced = [
            item
            async for item in self.items(State.PLANNED)
            if not item.gone and options.chooses(item.key)
        ]
        charges = await self._open.charges() if paid else ()
        unpriced += [
            await self._open.item(charge.key)
            for charge in charges
            if charge.consumed is None and charge.reserved is None
        ]
        works = map(work_of, unpriced)
        unknown = {str(work.price_key) for work in works if prices.of(work) is None}
        if unknown:
            raise BudgetExceededError(
                "A bound in credits needs a price for every film, and nobody knows it for: "
                f"{', '.join(sorted(unknown))}; say price=, nothing was spent",
                resumable=False,
                blames=Blame.INPUT,
            )


def name_of(manifest: str | os.PathLike[str]) -> str:
    """What tells a manifest from others: its place."""
    return str(Path(manifest).absolute())


def home_of(base_url: str) -> str:
    """Which service a journal's tasks live at; on this machine its port may be another each day."""
    return "this machine" if is_loopback(parse_url(base_url).host) else base_url


def pairs(source: Iterable[tuple[str, Work]]) -> Iterable[Entry]:
    """Entries from Python: keys and works."""
    faults: list[str] = []
    for number, (key, work) in enumerate(source, start=1):
        where = f"pair {number}"
        faults += [f"{where}: {fault}" for fault in key_faults(key)]
        faults += [f"{where}: {fault}" for fault in work_faults(work)]
        if faults:
            continue
        try:
            digests = digests_of(
                images_of(work.images),
                lambda image: image_digest(Path.cwd(), image, allow_outside=True),
            )
        except StoryboardError as error:
            faults += [f"{where}: {fault}" for fault in error.faults]
            continue
        yield entry_of(work, key, base=Path.cwd(), where=where, digests=digests)
    if faults:
        raise ManifestError(faults)


def missing(saved: Iterable[tuple[str, File]]) -> list[str]:
    """Say which saved files are not as they were. Blocks."""
    faults = []
    for key, file in saved:
        if not file.path.is_file():
            faults.append(f"{key}: {file.path} is gone")
        elif file.path.stat().st_size != file.size:
            faults.append(f"{key}: {file.path} has changed its size")
        elif summed(file.path) != file:
            faults.append(f"{key}: {file.path} has changed: it is not the film that was saved")
    return faults


def found_again(item: Item, folders: Sequence[Path]) -> Item:
    """The item with each file where it is; where it was saved, if it is in none of *folders*."""

    def now(file: File) -> File:
        if file.path.is_file():
            return file
        for place in (folder / file.path.name for folder in folders):
            if place.is_file() and place.stat().st_size == file.size:
                return attrs.evolve(file, path=place)
        return file

    return attrs.evolve(item, files=tuple(map(now, item.files)))


def is_lost(item: Item, changed: bool) -> bool:
    """Whether a file of a done item is gone, or *changed* where that is asked for. Blocks."""
    if changed:
        return bool(missing((item.key, file) for file in item.files))
    return not all(file.path.is_file() for file in item.files)


def expect(item: Item, *states: State) -> None:
    """Refuse a decision about an item that stands elsewhere."""
    if item.state not in states:
        names = " or ".join(state.value for state in states)
        raise ManifestError([f"{item.key}: {names}, and it is {item.state.value}"])


def who() -> str:
    """Who decides, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(user_id())
