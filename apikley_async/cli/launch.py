"""Starts a run of films from the options of `generate` and `batch run`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from apikley_async._postgres import Dsn
from apikley_async.batch import Batch, ItemState, PlanResult, work_of
from apikley_async.cli.client_factory import OpenClient, client_for
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.film_run import FilmRun, PlanFilms, RunRequest
from apikley_async.cli.journal_location import JournalLocation
from apikley_async.cli.key_files import has_api_key
from apikley_async.cli.option_types import Place
from apikley_async.cli.options import (
    Bounds,
    CallbackOptions,
    RunOptions,
    ServiceOptions,
    SpendingOptions,
)
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output_folder import check_folder, last_folder
from apikley_async.cli.runner import new_reporter, run_with_client, run_without_client

__all__ = ["launch"]


def launch(
    locate: Callable[[Path | None], JournalLocation],
    plan: PlanFilms | None,
    options: RunOptions,
    *,
    source: str,
    folder: Path | None,
    repeat_results: bool = False,
    named: Place | None = None,
    here: bool = False,
) -> int:
    """Plan films, ask for consent, make them, and return the exit code.

    A dry run checks everything on a private copy of the journal. A simulated run keeps no journal.

    Args:
        locate: says where the journal is, given the folder of the films where that is known.
        plan, source, repeat_results, named: see `RunRequest`.
        options: what may be spent, and on which service.
        folder: where the films go; None for where they were saved last.
        here: whether this process makes the films of a shared journal, and not its workers.
    """
    service, spending = options.service, options.spending
    if service.simulate and plan is None and not spending.dry_run:
        plan = _plan_from(locate(folder))
    folder = folder or _usual_folder(service, locate)
    reporter = _reporter_of(options)
    check_folder(folder)
    # The client comes before the journal: without a key no journal is looked for or made.
    open_client = None if spending.dry_run else _client_of(options)
    keeps_journal = spending.dry_run or not service.simulate
    location = locate(folder) if keeps_journal else JournalLocation(None)
    request = RunRequest(
        location=location,
        plan=plan,
        source=source,
        folder=folder,
        bounds=spending.bounds,
        planned_only=plan is not None,
        repeat_results=repeat_results,
        named=named,
        ask=not (service.simulate or spending.agreed),
        follows=None if here else _followed(location, spending),
    )
    run = FilmRun(request, service, reporter)
    if open_client is None:
        return _estimate(run, service, reporter)
    return run_with_client(open_client, run.make_films, reporter, run)


def _usual_folder(
    service: ServiceOptions, locate: Callable[[Path | None], JournalLocation]
) -> Path:
    """Where the films go when no folder is named."""
    if service.simulate:
        return Path("films")
    return last_folder(locate(None).journal, service.profile.folder)


def _followed(location: JournalLocation, spending: SpendingOptions) -> Dsn | None:
    """The shared journal whose workers make the films; None where this process makes them."""
    if not isinstance(location.journal, Dsn):
        return None
    if not spending.dry_run:
        _refuse_bounds_of_others(spending.bounds)
    return location.journal


def _estimate(run: FilmRun, service: ServiceOptions, reporter: Reporter) -> int:
    """Say what the films would cost; the account is looked at where there is a key to it."""
    if service.simulate or not has_api_key(service.key_file):
        return run_without_client(run.estimate, reporter)
    return run_with_client(client_for(service), run.estimate, reporter)


def _reporter_of(options: RunOptions) -> Reporter:
    """The reporter of a run; it has said what a provider's guarantee may cost."""
    service, spending = options.service, options.spending
    reporter = new_reporter(
        as_json=service.as_json, films=None if spending.dry_run else 0, plain=service.plain
    )
    if spending.not_created:
        codes = " or ".join(map(str, spending.not_created))
        reporter.message(
            f"--not-created {codes}: a film that is answered so is sent again, three times at "
            "most, and each time is paid if your provider's guarantee does not hold"
        )
    return reporter


def _refuse_bounds_of_others(bounds: Bounds) -> None:
    """Refuse bounds that nobody would keep: the workers pay, and know only their own."""
    if any((bounds.max_credits, bounds.max_tasks, bounds.min_balance, bounds.retry)):
        raise RefusedError(
            "--max-credits, --max-tasks, --min-balance and --retry bind whoever pays, and those "
            "are the workers of this journal: give them to `apikley worker`, or say --here to make "
            "the films in this process"
        )


def _client_of(options: RunOptions) -> OpenClient:
    """The client of a run, and the server that takes its callbacks."""
    server = None
    if options.callbacks != CallbackOptions():
        # Imported only here: aiohttp's server takes long to load, and most runs need none.
        from apikley_async.cli.callback_server import callback_server

        server = callback_server(options.callbacks)
    open_client = client_for(
        options.service,
        max_running=options.spending.bounds.max_running,
        timeout=options.timeout,
        not_created=options.spending.not_created,
        callback=server.callback if server else None,
    )
    if server is None or options.service.simulate:
        return open_client
    return functools.partial(server.serve_with, open_client)


def _plan_from(location: JournalLocation) -> PlanFilms:
    """Plans for a rehearsal what a journal has still to submit."""

    async def plan(batch: Batch) -> PlanResult:
        if location.journal is None:
            return PlanResult()
        async with Batch.open(location.journal, private=True) as journal:
            planned = [item async for item in journal.items(ItemState.PLANNED) if not item.gone]
            works = [(item.key, work_of(item)) for item in planned]
            return await batch.add(works, allow_duplicates=True)

    return plan
