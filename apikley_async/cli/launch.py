"""Starts a run of films from the options of `generate` and `batch run`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from apikley_async.batch import Batch, Plan, State, work_of
from apikley_async.cli.client_factory import client_for
from apikley_async.cli.film_run import FilmRun, PlanFilms, RunRequest
from apikley_async.cli.journal_location import JournalLocation
from apikley_async.cli.key_files import has_api_key
from apikley_async.cli.options import CallbackOptions, ServiceOptions, SpendingOptions
from apikley_async.cli.output_folder import check_folder, last_folder
from apikley_async.cli.runner import new_reporter, run_with_client, run_without_client

__all__ = ["launch"]


def launch(
    locate: Callable[[], JournalLocation],
    plan: PlanFilms | None,
    *,
    source: str,
    folder: Path | None,
    timeout: float | None,
    spending: SpendingOptions,
    service: ServiceOptions,
    callbacks: CallbackOptions,
    repeat_results: bool = False,
) -> int:
    """Plan films, ask for consent, make them, and return the exit code.

    A dry run checks everything on a private copy of the journal. A simulated run keeps no journal.

    Args:
        locate: says where the journal is; called when *folder* is known to be writable.
        plan, source, repeat_results: see `RunRequest`.
        folder: where the films go; None for where they were saved last.
        timeout: seconds for which each job is polled.
        spending: what may be paid.
        service: which service.
        callbacks: how the service calls back.
    """
    if service.simulate and plan is None and not spending.dry_run:
        plan = _plan_from(locate())
    if folder is None:
        folder = Path("films") if service.simulate else last_folder(locate().journal)
    reporter = new_reporter(as_json=service.as_json, films=None if spending.dry_run else 0)
    check_folder(folder)

    def request(location: JournalLocation) -> RunRequest:
        return RunRequest(
            location=location,
            plan=plan,
            source=source,
            folder=folder,
            bounds=spending.bounds,
            planned_only=plan is not None,
            repeat_results=repeat_results,
            ask=not (service.simulate or spending.agreed),
        )

    if spending.dry_run:
        run = FilmRun(request(locate()), service, reporter)
        if service.simulate or not has_api_key(service.key_file):
            return run_without_client(run.estimate, reporter)
        return run_with_client(client_for(service), run.estimate, reporter)
    server = None
    if callbacks != CallbackOptions():
        # Imported only here: aiohttp's server takes long to load, and most runs need none.
        from apikley_async.cli.callback_server import callback_server

        server = callback_server(callbacks)
    open_client = client_for(
        service,
        max_running=spending.bounds.max_running,
        timeout=timeout,
        not_created=spending.not_created,
        callback=server.callback if server else None,
    )
    if server is not None and not service.simulate:
        open_client = functools.partial(server.serve_with, open_client)
    location = JournalLocation(None) if service.simulate else locate()
    run = FilmRun(request(location), service, reporter)
    return run_with_client(open_client, run.make_films, reporter, run)


def _plan_from(location: JournalLocation) -> PlanFilms:
    """Plans for a rehearsal what a journal has still to submit."""

    async def plan(batch: Batch) -> Plan:
        if location.journal is None:
            return Plan()
        async with Batch.open(location.journal, private=True) as journal:
            planned = [item async for item in journal.items(State.PLANNED) if not item.gone]
            works = [(item.key, work_of(item)) for item in planned]
            return await batch.add(works, allow_duplicates=True)

    return plan
