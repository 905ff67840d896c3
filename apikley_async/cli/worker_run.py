"""A worker of the command line: its client, what it reports, and how it ends."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator
from pathlib import Path

from apikley_async import Client
from apikley_async._postgres import Dsn
from apikley_async.batch import Destination, Item, ItemState
from apikley_async.cli.callback_server import callback_server
from apikley_async.cli.client_factory import OpenClient, client_for
from apikley_async.cli.exit_codes import OK, RefusedError
from apikley_async.cli.options import Bounds, CallbackOptions, RunOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import plain
from apikley_async.cli.output_folder import make_folder
from apikley_async.cli.run_summary import paths_of, report_item
from apikley_async.cli.runner import new_reporter, run_with_client
from apikley_async.distributed import SharedLimiter, Worker

__all__ = ["work"]

FIRST_SIGNAL = 128  # exit codes above it: a signal has ended the worker, as it should


def work(
    journal: Dsn,
    folder: Path,
    destination: str | None,
    rate: tuple[int, float],
    options: RunOptions,
) -> int:
    """Work until a signal ends it, which is a success.

    Args:
        journal: the DSN of the journal.
        folder: where the films go.
        destination: names what the films are put into instead, as `module:name`.
        rate: submissions of all workers together, and the seconds of their span.
        options: what may be spent, and on which service.
    """
    if options.service.simulate or options.spending.dry_run:
        raise RefusedError("a worker makes films for good: --simulate and --dry-run are for runs")
    bounds = options.spending.bounds
    target = None if destination is None else destination_named(destination)
    if target is None:
        make_folder(folder)
    reporter = new_reporter(as_json=options.service.as_json, plain=True)
    limiter = SharedLimiter(journal, *rate)
    run = WorkerRun(journal, folder, target, bounds, limiter, reporter)
    code = run_with_client(_client_of(limiter, options), run.work, reporter, run)
    return OK if code > FIRST_SIGNAL else code


class WorkerRun:
    """One worker, from its first claim to a signal.

    Args:
        journal: the DSN of the journal.
        folder: where the films go.
        destination: where they go instead.
        bounds: what may be spent.
        limiter: of all workers.
        reporter: prints what happens.
    """

    def __init__(
        self,
        journal: Dsn,
        folder: Path,
        destination: Destination | None,
        bounds: Bounds,
        limiter: SharedLimiter,
        reporter: Reporter,
    ) -> None:
        self._journal = journal
        self._folder = folder
        self._destination = destination
        self._bounds = bounds
        self._limiter = limiter
        self._reporter = reporter
        self._worker: Worker | None = None

    async def work(self, client: Client) -> int:
        """Make films until cancelled."""
        rate = {"limit": self._limiter.limit, "per": self._limiter.per}
        facts = {"journal": str(self._journal), "folder": str(self._folder), **rate}
        self._reporter.event("working", **facts)
        bounds = self._bounds
        self._worker = Worker(
            self._journal,
            client,
            folder=self._folder,
            destination=self._destination,
            max_running=bounds.max_running,
            max_credits=bounds.max_credits,
            max_tasks=bounds.max_tasks,
            min_balance=bounds.min_balance,
            prices=bounds.price,
            retry=bounds.retry,
            overwrite=bounds.overwrite,
            expected=bounds.expected,
        )
        async with contextlib.aclosing(self._worker.items(every_change=True)) as items:
            async for item in items:
                self._report(item)
        return OK

    def _report(self, item: Item) -> None:
        if item.state is ItemState.UNCERTAIN:
            self._reporter.event("uncertain", key=item.key, cause=item.cause)
        report_item(self._reporter, item, paths_of(item, self._folder))

    @property
    def submissions_under_way(self) -> int:
        return 0 if self._worker is None else self._worker.pending

    def limit_grace(self, grace: float) -> None:
        if self._worker is not None:
            self._worker.grace = grace

    def report_unfinished(self) -> None:
        """Say who goes on: nothing of the journal is this worker's own."""
        self._reporter.message("Stopped. Other workers go on with what this one has left.")


def _client_of(limiter: SharedLimiter, options: RunOptions) -> OpenClient:
    """The client of a worker, its limiter, and the server that takes its callbacks."""
    server = callback_server(options.callbacks) if options.callbacks != CallbackOptions() else None
    open_client = client_for(
        options.service,
        max_running=options.spending.bounds.max_running,
        timeout=options.timeout,
        not_created=options.spending.not_created,
        callback=server.callback if server else None,
        limiter=limiter,
    )

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Client]:
        async with limiter, server.serve_with(open_client) if server else open_client() as client:
            yield client

    return opened


def destination_named(name: str) -> Destination:
    """The destination that *name* says: an object of a module, or what a function of it returns."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        # A class of destinations looks like one: what is made of it is meant.
        made = found if isinstance(found, Destination) and not isinstance(found, type) else found()
    except Exception as error:  # noqa: BLE001 - it is the user's own module, whatever it raises
        said = f"{type(error).__name__}: {error}"
        raise RefusedError(f"--destination {plain(name)}: {plain(said)}") from None
    if not isinstance(made, Destination):
        raise RefusedError(f"--destination {plain(name)}: it has no `put` and `exists`")
    return made
