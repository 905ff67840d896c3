"""One run of films: planned, agreed to, made by `Batch.run`, and reported.

`generate`, `batch run`, `demo` and `preview` differ in what they plan, where their journal is and
what they may spend. All else is `FilmRun`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
import click

from apikley_async import Client, RateLimiter, SavedFile
from apikley_async._disk import private_folder
from apikley_async._postgres import Dsn
from apikley_async.batch import Batch, Item, ItemState, PlanResult
from apikley_async.cli.batch_status import Selection, follow_films
from apikley_async.cli.closing_report import ClosingReport
from apikley_async.cli.consent import (
    ask_consent,
    changed_since,
    films_to_pay,
    note_balance,
    refuse_sent_elsewhere,
    refuse_unagreed,
)
from apikley_async.cli.exit_codes import OK, RefusedError
from apikley_async.cli.journal_location import JournalLocation
from apikley_async.cli.next_run import store_bounds
from apikley_async.cli.option_types import Place
from apikley_async.cli.options import Bounds, ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.shell_words import typed_options
from apikley_async.cli.output.terminal_text import count, in_credits, plain
from apikley_async.cli.output_folder import make_folder, rehearsal_folder
from apikley_async.cli.run_summary import paths_of, report_estimate, report_item, report_written
from apikley_async.errors import ApikleyError, ManifestError

__all__ = ["FilmRun", "PlanFilms", "RunRequest", "faults_as_refusal"]

UNFINISHED = (ItemState.PLANNED, ItemState.SUBMITTED, ItemState.STALLED, ItemState.SUCCESS)
MAX_WATCHED = 20  # jobs whose progress is shown; no terminal has room for more
WATCH_INTERVAL = 0.25  # seconds
LAST_LOOK = 5.0  # seconds into the journal of a run that was stopped
LOCK_NOTICE = 1.0  # seconds of waiting for the journal's lock before the user is told

PlanFilms: TypeAlias = Callable[[Batch], Awaitable[PlanResult]]
"""Adds the films of a command to a journal."""


@attrs.frozen(kw_only=True)
class RunRequest:
    """What a command asks of a run.

    Attributes:
        location: where the journal is; without a path it is temporary.
        plan: adds the films to the journal; None for those that it holds.
        source: what the films come from, for a message.
        folder: where the films go.
        bounds: what may be spent.
        planned_only: whether the run is about the planned films and not the journal's others.
        ask: whether the user has to agree before anything is paid.
        repeat_results: whether the paths of films that were made before are printed too.
        follows: the shared journal whose workers make the films; None: this run makes them.
        named: how commands name the batch, as the user has; None for a run without a report, whose
            commands name the journal.
    """

    location: JournalLocation
    plan: PlanFilms | None
    source: str
    folder: Path
    bounds: Bounds = attrs.field(factory=Bounds)
    planned_only: bool = False
    ask: bool = False
    repeat_results: bool = False
    named: Place | None = None
    follows: Dsn | None = None


class FilmRun:
    """One run of films.

    Args:
        request: which films, and what may be spent.
        service: the options that lead to the service.
        reporter: prints what happens.
    """

    def __init__(self, request: RunRequest, service: ServiceOptions, reporter: Reporter) -> None:
        self._request = request
        self._service = service
        self._reporter = reporter
        self._batch: Batch | None = None  # while it is running
        self._folder = request.folder
        self._takes: int | None = None  # what was reported of the pace
        self._typed = typed_options()  # now: the context of click is known only in this thread
        journal = request.location.journal
        self._closing = ClosingReport(
            reporter,
            journal=None if journal is None else request.named or journal,
            service=service,
            repeat_results=request.repeat_results,
        )

    async def make_films(self, client: Client) -> int:
        """Plan, ask, make and report; return the exit code.

        Nothing is written before consent: until then a private copy of the journal is used.
        """
        agreed: dict[str, str] | None = None
        if self._request.ask:
            async with self._planned(private=True) as (batch, keys):
                await batch.check_account(client)
                await self._ask(client, batch, keys)
                agreed = await films_to_pay(batch, keys)
        elif self._request.location.compared:  # may refuse, which must happen before writing
            async with self._planned(private=True, silent=True):
                pass
        await asyncio.to_thread(make_folder, self._folder)
        if self._request.follows is not None:  # what is planned there, its workers pay at once
            async with Batch.open(self._request.follows) as shared:
                await shared.check_account(client)
        # Planned again, now in the journal itself. What is to be paid is compared with what the
        # user has agreed to, since another process may have changed the journal meanwhile.
        async with self._planned(agreed=agreed) as (batch, keys):
            to_pay = await films_to_pay(batch, keys)
            if agreed is not None and self._request.follows is None:
                refuse_unagreed(agreed, to_pay)
            return await self._run_and_report(client, batch, keys, pays=bool(to_pay))

    async def _ask(self, client: Client, batch: Batch, keys: Collection[str] | None) -> None:
        """Ask the user to agree to what is to be paid."""
        estimate = await batch.estimate(prices=self._request.bounds.price, keys=keys)
        try:
            await ask_consent(estimate, client, bounded=self._request.follows is None)
        except asyncio.CancelledError:
            self._reporter.message("Interrupted: nothing was sent, nothing was paid.")
            raise

    async def _run_and_report(
        self, client: Client, batch: Batch, keys: Collection[str] | None, *, pays: bool
    ) -> int:
        stopped: asyncio.CancelledError | None = None
        self._batch = batch
        try:
            # What an earlier run has left uncertain is decided by what the account says now.
            await self._note_balance(client, batch, pays=pays)
            if self._request.follows is None:
                await self._run_batch(client, batch, keys)
            else:
                await self._follow_workers(batch, keys, self._request.follows)
            await self._note_balance(client, batch, pays=pays)
        except asyncio.CancelledError as error:  # a user who stops it wants the report too
            stopped = error
        self._batch = None
        if stopped is None:
            return await self._report(batch, keys)
        with contextlib.suppress(TimeoutError):  # the database of a shared journal may be away
            async with asyncio.timeout(LAST_LOOK):
                await self._report(batch, keys)
        raise stopped

    async def _report(self, batch: Batch, keys: Collection[str] | None) -> int:
        code = await self._closing.report(batch, keys, self._folder)
        await self._write_report(batch)
        return code

    async def estimate(self, client: Client | None = None) -> int:
        """Plan, check and estimate on a private copy of the journal; nothing is kept or sent.

        With a client the service is asked for the balance.
        """
        bounds = self._request.bounds
        async with self._planned(private=True) as (batch, keys):
            spendable = None
            if client is not None:
                await batch.check_account(client)
                balance = await client.credits()
                self._reporter.message(f"Balance: {in_credits(balance)} credits")
                if bounds.min_balance is not None:
                    spendable = balance - bounds.min_balance
            estimate = await batch.estimate(
                prices=bounds.price,
                keys=keys,
                max_credits=bounds.max_credits,
                max_tasks=bounds.max_tasks,
                spendable=spendable,
            )
            report_estimate(self._reporter, estimate)
        return OK

    # --- planning -----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _planned(
        self,
        *,
        private: bool = False,
        silent: bool = False,
        agreed: Mapping[str, str] | None = None,
    ) -> AsyncIterator[tuple[Batch, Collection[str] | None]]:
        """Open the journal and plan; yield the batch and the run's films (None: all).

        Args:
            private: do it in a copy of the journal, which is gone afterwards.
            silent: print nothing; it was printed before.
            agreed: the films that the user has agreed to, after the plan was printed.
        """
        silent = silent or agreed is not None
        location = self._request.location
        with contextlib.ExitStack() as folders:
            journal = location.journal
            if journal is None:
                folder = folders.enter_context(private_folder())
                journal, private = Path(folder, "rehearsal.db"), True
            async with self._open_journal(journal, private=private) as batch:
                if not private:  # before the first attempt, or it could not be found again
                    await asyncio.to_thread(location.write_marker)
                if location.note and not silent:
                    self._reporter.message(location.note)
                plan = None
                if self._request.plan is not None:
                    plan = await self._plan(batch, self._request.plan, agreed)
                keys = plan.keys if plan is not None and self._request.planned_only else None
                for other in location.compared:
                    names = other in location.others
                    await refuse_sent_elsewhere(other, await films_to_pay(batch, keys), names=names)
                if not silent:
                    self._report_plan(plan)
                yield batch, keys

    async def _plan(
        self, batch: Batch, plan: PlanFilms, agreed: Mapping[str, str] | None
    ) -> PlanResult:
        """Add the films. Workers pay what is in a shared journal: only what was agreed to is."""
        if agreed is None or self._request.follows is None:
            return await faults_as_refusal(plan(batch))
        batch.add_only(agreed)
        try:
            return await plan(batch)
        except ManifestError:
            raise changed_since() from None

    def _report_plan(self, plan: PlanResult | None) -> None:
        text = "resumed from its journal" if plan is None else str(plan)
        self._reporter.message(f"{self._request.source}: {text}")
        for remark in plan.remarks if plan is not None else ():
            self._reporter.event("remark", message=remark)

    @contextlib.asynccontextmanager
    async def _open_journal(self, journal: Place, *, private: bool) -> AsyncIterator[Batch]:
        """Open the journal; tell the user when another process has it locked."""
        wait = self._request.location.wait
        text = f"Another process uses {journal}; waiting {wait:g} s at most"
        notice = None
        if wait > LOCK_NOTICE and not private:
            loop = asyncio.get_running_loop()
            notice = loop.call_later(LOCK_NOTICE, self._reporter.message, text)
        async with contextlib.AsyncExitStack() as stack:
            try:
                opening = Batch.open(journal, wait=wait, private=private)
                batch = await stack.enter_async_context(opening)
            finally:
                if notice is not None:
                    notice.cancel()
            yield batch

    async def _note_balance(self, client: Client, batch: Batch, *, pays: bool) -> None:
        """Note the balance, as evidence for uncertain films; a rehearsal needs none.

        Args:
            client: asks for it.
            batch: keeps it.
            pays: whether films may become uncertain in this run.
        """
        if self._request.location.journal is None:
            return
        if pays or (await batch.store.counts()).get(ItemState.UNCERTAIN):
            await note_balance(client, batch)

    # --- the run ------------------------------------------------------------------------------

    async def _run_batch(self, client: Client, batch: Batch, keys: Collection[str] | None) -> None:
        bounds = self._request.bounds
        if self._service.simulate and keys is not None:
            self._folder = await asyncio.to_thread(rehearsal_folder, self._folder, keys)
        await store_bounds(batch, self._typed)  # a run that is killed says nothing at its end
        changes = batch.run(
            client,
            folder=self._folder,
            max_running=bounds.max_running,
            max_credits=bounds.max_credits,
            max_tasks=bounds.max_tasks,
            min_balance=bounds.min_balance,
            prices=bounds.price,
            retry=bounds.retry,
            expected=bounds.expected,
            overwrite=bounds.overwrite,
            every_change=True,
            keys=keys,
        )
        running = await self._expect(batch, keys)  # task ids by keys
        submitted_before = {*running.values()}
        watching = asyncio.create_task(self._watch_progress(client, running))
        try:
            async with contextlib.aclosing(changes), self._posters() as add_poster:
                async for item in changes:
                    running.pop(item.key, None)
                    if item.state is ItemState.SUBMITTED and item.task_id:
                        running[item.key] = item.task_id
                        if item.task_id in submitted_before:
                            continue  # an earlier run has reported it
                    if batch.stopped and running:  # their end may be far
                        self._closing.report_stop(batch.stopped)
                    self._report_change(client, item, stopped=batch.stopped)
                    if item.state is ItemState.DONE:
                        add_poster(item.files)
        finally:
            watching.cancel()

    async def _follow_workers(
        self, batch: Batch, keys: Collection[str] | None, journal: Dsn
    ) -> None:
        """Let the workers of a shared journal make the films, and report what they do."""
        # Imported only here: it needs an extra, and no other run does.
        from apikley_async.distributed import wake_workers

        await wake_workers(journal, await batch.store.claimable())
        chosen = Selection(() if keys is None else tuple(keys))
        _ = await follow_films(batch, self._reporter, chosen, journal=journal)

    @contextlib.asynccontextmanager
    async def _posters(self) -> AsyncIterator[Callable[[Sequence[SavedFile]], None]]:
        """Make posters of what is saved, where a report will show them."""
        if self._request.named is None or self._request.location.journal is None:
            yield lambda files: None
            return
        from apikley_async.cli.report_files import PosterMaker

        async with PosterMaker() as maker:
            yield maker.add

    async def _expect(self, batch: Batch, keys: Collection[str] | None) -> dict[str, str]:
        """Tell the view how many films are to come; return the tasks submitted before, by key."""
        films, submitted = 0, {}
        async for item in batch.items(*UNFINISHED):
            if keys is not None and item.key not in keys:
                continue
            films += not item.gone or item.state is not ItemState.PLANNED
            if item.task_id and item.state in (ItemState.SUBMITTED, ItemState.STALLED):
                submitted[item.key] = item.task_id
        self._reporter.view.expect(
            films,
            self._request.bounds.max_running,
            running=[plain(key) for key in submitted],
            hindrance=partial(_hindrance, batch),
        )
        return submitted

    async def _watch_progress(self, client: Client, running: Mapping[str, str]) -> None:
        """Report how far the films are, if the view shows it; polls nothing itself."""
        reported: dict[str, tuple[str, float | None]] = {}
        while self._reporter.view.shows_progress:
            for key, task_id in [*running.items()][:MAX_WATCHED]:
                snapshot = client.job(task_id).snapshot
                state, progress = snapshot.state.value, snapshot.progress
                if reported.get(key) != (state, progress) and not snapshot.done:
                    reported[key] = state, progress
                    facts = {"key": key, "task_id": task_id}
                    self._reporter.event("polled", **facts, state=state, progress=progress)
            await asyncio.sleep(WATCH_INTERVAL)

    def _report_change(self, client: Client, item: Item, *, stopped: str | None) -> None:
        if item.state is ItemState.UNCERTAIN:
            event = "listening" if client.attempts.receives_callbacks else "uncertain"
            self._reporter.event(event, key=item.key, cause=item.cause)
        self._report_pace(client)
        simulated = self._service.simulate
        report_item(
            self._reporter,
            item,
            paths_of(item, self._folder),
            simulated=simulated,
            stopped=stopped,
        )
        if not self._request.repeat_results:
            self._closing.report_paths(item, self._folder)

    async def _write_report(self, batch: Batch) -> None:
        """Write the report. It may fail: the films are there, and so is the journal."""
        journal, named = self._request.location.journal, self._request.named
        if journal is None or named is None:
            return
        # Imported only here: a run that writes no report needs none of it.
        from apikley_async.cli.report_files import ReportRequest, write_report

        request = ReportRequest(
            journal=journal,
            name=named,
            resume=self._closing.resume,
            words=self._service.words,
            folder=self._folder,
        )
        try:
            report_written(self._reporter, await write_report(batch, request))
        except (ApikleyError, click.ClickException, OSError) as error:
            self._reporter.message(f"There is no report: {plain(error)}")

    def _report_pace(self, client: Client) -> None:
        """Report how much the service takes, whenever the limiter has learned something new."""
        limiter = client.limiter
        takes = limiter.takes if isinstance(limiter, RateLimiter) else None
        if isinstance(limiter, RateLimiter) and takes is not None and takes != self._takes:
            self._reporter.event("pace", takes=takes, per=limiter.per)
        self._takes = takes

    # --- when it is stopped -------------------------------------------------------------------

    @property
    def submissions_under_way(self) -> int:
        """Submissions whose answer is awaited."""
        return 0 if self._batch is None else self._batch.pending

    def limit_grace(self, grace: float) -> None:
        """Wait *grace* seconds at most for those answers."""
        if self._batch is not None:
            self._batch.grace = grace

    def report_unfinished(self) -> None:
        """Report how to resume. Nothing is lost: all is in the journal."""
        if self._batch is None:  # the run has ended, and its closing report was printed
            return
        out = self.submissions_under_way
        if out:
            submissions = count(out, "submission")
            self._reporter.message(f"{submissions} may be out: the next run says what needs you")
        self._closing.report_resume()


def _hindrance(batch: Batch) -> str:
    """What keeps films of a running batch from being submitted that no time ends."""
    if batch.stopped:
        return "not submitted"
    return "waiting for a bound" if batch.held_back else ""


async def faults_as_refusal(planning: Awaitable[PlanResult]) -> PlanResult:
    """The plan, or a refusal that lists every fault of the manifest."""
    try:
        return await planning
    except ManifestError as error:
        faults: Sequence[str] = [f"  {plain(fault)}" for fault in error.faults]
        listed = "\n".join(faults)
        raise RefusedError(
            f"{count(len(faults), 'fault')}, so nothing was sent:\n{listed}"
        ) from None
