"""What commands do with a journal besides running it: read it, decide about films, fetch files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from apikley_async import Client
from apikley_async.batch import Batch, Item, ItemState, TaskMatch, is_manifest
from apikley_async.batch.decisions import DROPPABLE, check_state
from apikley_async.cli.client_factory import client_for
from apikley_async.cli.consent import ask_about_decision, note_balance
from apikley_async.cli.exit_codes import DECIDE, OK, RESUME, RefusedError, worst
from apikley_async.cli.key_files import has_api_key
from apikley_async.cli.next_run import go_on_line
from apikley_async.cli.option_types import Place
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import count, plain
from apikley_async.cli.output.uncertain import report_evidence, report_pairs, report_ways
from apikley_async.cli.run_summary import RunSummary, exit_code_of, report_item
from apikley_async.cli.runner import new_reporter, run_with_client, run_without_client
from apikley_async.errors import JournalError, ManifestError

__all__ = [
    "adopt_journal",
    "as_list",
    "decide",
    "decide_at_risk",
    "existing_journal",
    "fetch_films",
    "journal_of",
    "names_manifest",
    "read_journal",
    "report_decision",
    "report_elsewhere",
    "report_next_run",
    "resolve_films",
]

MAYBE_PAID = (ItemState.UNCERTAIN, ItemState.STALLED, ItemState.EXPIRED)
GOES_ON = (ItemState.PLANNED, ItemState.SUBMITTED)  # after a decision


def names_manifest(path: Place) -> TypeGuard[Path]:
    """Whether *path* is a manifest and not a journal."""
    return isinstance(path, Path) and is_manifest(path)


def journal_of(path: Place, journal: Place | None = None) -> Place:
    """The journal of a manifest or journal: the one named, else itself, else the one beside it."""
    if journal is not None:
        return journal
    return path.with_suffix(".db") if names_manifest(path) else path


def existing_journal(path: Place) -> Place:
    """The journal of *path*.

    Raises:
        RefusedError: it does not exist.
    """
    journal = journal_of(path)
    if isinstance(journal, Path) and not journal.exists():
        text = f"{plain(journal)}: there is no such journal"
        if names_manifest(path):
            text += f". {plain(path)} was never run, or its journal is elsewhere: name that one"
        raise RefusedError(text)
    return journal


def read_journal(
    path: Place,
    read: Callable[[Batch, Reporter], Awaitable[int]],
    *,
    as_json: bool,
    films: int | None = None,
    plain: bool = False,
) -> int:
    """Open a journal read only, also while another process runs it; return the exit code.

    Args:
        path: the journal, or its manifest.
        read: reads it and reports.
        as_json, films, plain: see `new_reporter`.
    """
    reporter = new_reporter(as_json=as_json, films=films, plain=plain)

    async def act() -> int:
        async with Batch.open(existing_journal(path), read_only=True) as batch:
            return await read(batch, reporter)

    return run_without_client(act, reporter)


def decide(
    path: Place, decision: Callable[[Batch], Awaitable[list[Item]]], *, as_json: bool
) -> int:
    """Carry out a person's decision about films, and report their new states.

    Args:
        path: the journal, or its manifest.
        decision: changes the films, and returns them.
        as_json: whether events are printed on stdout.
    """
    reporter = new_reporter(as_json=as_json)

    async def act() -> int:
        async with Batch.open(existing_journal(path)) as batch:
            items = await report_decision(decision(batch), reporter)
            await report_next_run(reporter, batch, items, path)
        return OK

    return run_without_client(act, reporter)


def decide_at_risk(
    decision: str, path: Place, keys: Sequence[str], service: ServiceOptions, *, agreed: bool
) -> int:
    """Submit films again, or give them up, although they may have been paid.

    What is known of them is shown first, and the user asked. Where there is a key, the balance is
    read once more: a run that was killed has read none after it.

    Args:
        decision: "resubmit" or "drop".
        path: the journal, or its manifest.
        keys: the films; without any, all that are uncertain.
        service: which service has the account.
        agreed: whether nobody has to be asked.
    """
    reporter = new_reporter(as_json=service.as_json)
    again = decision == "resubmit"
    allowed = (ItemState.UNCERTAIN,) if again else DROPPABLE

    async def act(client: Client | None = None) -> int:
        async with Batch.open(existing_journal(path)) as batch:
            chosen = await _chosen(batch, keys, allowed)
            uncertain = [item.key for item in chosen if item.state is ItemState.UNCERTAIN]
            if uncertain and client is not None:
                await _read_balance(client, batch, reporter)
            known = await batch.uncertain_items(*uncertain) if uncertain else ([], [])
            films, balances = known
            report_evidence(reporter, films, balances)
            at_risk = sum(item.state in MAYBE_PAID for item in chosen)
            if at_risk and not agreed:
                try:
                    await ask_about_decision(decision, at_risk, balances)
                except asyncio.CancelledError:
                    reporter.message("Interrupted: nothing was changed.")
                    raise
            # Those that were shown, and no others: a shared journal goes on meanwhile.
            act_on = batch.resubmit if again else batch.drop
            decided = [item.key for item in chosen]
            items = await report_decision(act_on(*decided) if decided else _nothing(), reporter)
            await report_next_run(reporter, batch, items, path, service.words)
        return OK

    if not has_api_key(service.key_file):
        return run_without_client(act, reporter)
    return run_with_client(client_for(service), act, reporter)


async def _read_balance(client: Client, batch: Batch, reporter: Reporter) -> None:
    """Read the balance, if the key is that of the journal's account."""
    try:
        await note_balance(client, batch)
    except JournalError as error:
        reporter.message(f"The balance is not read: {error.message}")


async def _chosen(batch: Batch, keys: Sequence[str], allowed: Collection[ItemState]) -> list[Item]:
    """The films of *keys*, or all that are uncertain.

    Raises:
        RefusedError: there is none of a key, or one is in no state that is *allowed*.
    """
    if not keys:
        return [item async for item in batch.items(ItemState.UNCERTAIN)]
    try:
        chosen = [await batch.item(key) for key in dict.fromkeys(keys)]
        for item in chosen:
            check_state(item, *allowed)
    except KeyError as error:
        raise _no_such_film(error) from None
    except ManifestError as error:
        raise RefusedError(plain(error)) from None
    return chosen


async def _nothing() -> list[Item]:
    return []


def adopt_journal(path: Place, *, as_json: bool) -> int:
    """Open a copy that is older than its journal; report what is uncertain, and how to decide."""
    reporter = new_reporter(as_json=as_json)

    async def act() -> int:
        async with Batch.open(existing_journal(path), adopt=True) as batch:
            films, balances = await batch.uncertain_items()
        if not films:
            reporter.message("No film of it is uncertain.")
        report_evidence(reporter, films, balances, event="undecided", journal=path)
        report_ways(reporter, films, path, everything=True)
        return OK

    return run_without_client(act, reporter)


async def report_decision(
    deciding: Awaitable[list[Item]], reporter: Reporter, *, forced: bool = False
) -> list[Item]:
    """Report the films' states after a decision, and return them.

    Args:
        deciding: carries the decision out, and returns the films.
        reporter: gets an event for each of them.
        forced: whether it was made against the evidence; that is then its cause.

    Raises:
        RefusedError: the decision does not apply to them.
    """
    try:
        items = await deciding
    except KeyError as error:
        raise _no_such_film(error) from None
    except (LookupError, ManifestError) as error:
        raise RefusedError(plain(error)) from None
    if not items:
        reporter.message("There is no film that this applies to: nothing was changed.")
    for item in items:
        cause = item.cause or None if forced else None
        report_decided(reporter, item, cause)
    return items


def report_decided(reporter: Reporter, item: Item, cause: str | None = None) -> None:
    """Report a film's state after a decision."""
    task_id = item.task_id if item.state is ItemState.SUBMITTED else None
    reporter.event(
        "decided", key=item.key, item_state=item.state.value, task_id=task_id, cause=cause
    )


async def report_next_run(
    reporter: Reporter,
    batch: Batch,
    items: Iterable[Item],
    named: Place,
    words: Sequence[str] = (),
) -> None:
    """Show the command that goes on with films after a decision, if one of them wants a run.

    Args:
        reporter: prints it.
        batch: has them.
        items: the films.
        named: how commands name the batch.
        words: options that lead them to the same service.
    """
    if any(item.state in GOES_ON for item in items):
        reporter.message(f"To go on: {await go_on_line(batch, named, words)}")


def resolve_films(
    path: Place,
    keys: Sequence[str],
    task_ids: Sequence[str],
    service: ServiceOptions,
    *,
    force: bool,
) -> int:
    """Say which tasks uncertain films became; return the exit code.

    Args:
        path: the journal, or its manifest.
        keys: the films, in the order of the tasks; without any, tasks find theirs by content.
        task_ids: the tasks.
        service: polls them.
        force: bind each although its task shows other content.
    """
    reporter = new_reporter(as_json=service.as_json)
    journal = existing_journal(path)

    async def act(client: Client) -> int:
        async with Batch.open(journal) as batch:
            if not keys:
                matches = await batch.resolve_tasks(*task_ids, client=client)
                return await report_matches(batch, reporter, matches, path, service.words)
            items: list[Item] = []
            for key, task_id in zip(keys, task_ids, strict=True):
                resolving = batch.resolve(key, task_id=task_id, client=client, force=force)
                items += await report_decision(as_list(resolving), reporter, forced=force)
            await report_next_run(reporter, batch, items, path, service.words)
        return OK

    return run_with_client(client_for(service, list(task_ids)), act, reporter)


async def report_matches(
    batch: Batch,
    reporter: Reporter,
    matches: Sequence[TaskMatch],
    named: Place,
    words: Sequence[str],
) -> int:
    """Report which films some tasks became, and how to bind the others; return the exit code.

    Args:
        batch: has them.
        reporter: gets an event for each task.
        matches: the tasks.
        named: how commands name the batch.
        words: options that lead them to the same service.
    """
    bound: list[Item] = []
    for match in matches:
        if match.key and not match.reason:
            bound.append(await batch.item(match.key))
            report_decided(reporter, bound[-1])
            continue
        reporter.event(
            "unmatched",
            task_id=match.task_id,
            key=match.key or None,
            candidates=list(match.candidates) or None,
            message=match.reason,
        )
    left = [match for match in matches if not match.key]
    report_pairs(reporter, left, named, words)
    await report_next_run(reporter, batch, bound, named, words)
    return worst(RESUME if match.unanswered else DECIDE for match in left)


async def as_list(deciding: Awaitable[Item]) -> list[Item]:
    """What a decision about one film returns, as a list."""
    return [await deciding]


def fetch_films(
    path: Place,
    keys: Sequence[str],
    service: ServiceOptions,
    *,
    expired: bool = False,
    **options: Any,
) -> int:
    """Download films that are paid: lost ones, or *expired* ones; return the exit code.

    Args:
        path: the journal, or its manifest.
        keys: the films; without any, all that need it.
        service: which service.
        expired: whether expired films are revived first.
        options: further arguments of `Batch.save`.
    """
    # Imported only here: a decision needs no report.
    from apikley_async.cli.report_files import PosterMaker

    reporter = new_reporter(as_json=service.as_json, films=0, plain=service.plain)

    async def act(client: Client) -> int:
        summary = RunSummary(None)
        async with Batch.open(existing_journal(path)) as batch:
            chosen = list(keys)
            try:
                if expired:
                    await batch.check_account(client)  # before any film is changed
                    chosen = [item.key for item in await batch.revive(*keys)]
                    if not chosen:
                        reporter.message("no film is expired")
                        return OK
                saving = batch.save(client, *chosen, **options)
                async with contextlib.aclosing(saving) as items, PosterMaker() as posters:
                    async for item in items:
                        summary.add(item)
                        report_item(reporter, item, [file.path for file in item.files])
                        if item.state is ItemState.DONE:
                            posters.add(item.files)
            except KeyError as error:
                raise _no_such_film(error) from None
            except ManifestError as error:
                raise RefusedError(plain(error)) from None
            if not chosen:
                await report_elsewhere(batch, reporter)
        reporter.message(f"{count(len(summary.done))} fetched")
        return exit_code_of(summary.counts)

    return run_with_client(client_for(service, finished=True), act, reporter)


async def report_elsewhere(batch: Batch, reporter: Reporter) -> None:
    """Say how many films are in a destination: a command has none, and cannot look there."""
    number = 0
    async for item in batch.items(ItemState.DONE):
        number += bool(item.stored)
    if number:
        reporter.message(
            f"{count(number)} in a destination: only the program that has it can look there, with "
            "Batch.verify(destination=...) and Batch.save(destination=...)"
        )


def _no_such_film(error: KeyError) -> RefusedError:
    return RefusedError(f"there is no film {plain(error.args[0])!r} in the journal")
