"""The way into the engine for the commands that pay: `generate` and `batch run`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs

from apikley_async._disk import nearest_folder, try_folder
from apikley_async.batch import Batch, Plan, State, work_of
from apikley_async.cli.client_factory import has_key, prepare
from apikley_async.cli.engine import BatchRun, Bounds, Order, make_folder
from apikley_async.cli.exit_codes import Refused
from apikley_async.cli.options import HookOptions, Settings, Spending
from apikley_async.cli.output.reporter import Telling, plain
from apikley_async.cli.placement import Place
from apikley_async.cli.runner import alone, play, telling
from apikley_async.errors import JournalError, ManifestError

__all__ = ["make", "make_folder", "rehearse"]


def make(
    place: Callable[[], Place],
    plan: Callable[[Batch], Awaitable[Plan]] | None,
    *,
    named: str,
    folder: Path | None,
    timeout: float | None,
    spending: Spending,
    settings: Settings,
    hooks: HookOptions,
    repeats: bool = False,
) -> int:
    """Plan films, have the spending agreed to, make them, and give the exit code.

    Nothing is written down before consent. A dry run tries everything on a private copy of the
    journal; what a simulated one plans is kept by nobody.

    Args:
        place: says where the journal is; asked when the folder for the films is there.
        plan, named, repeats: see `Order`.
    """
    bounds = Bounds(**spending.bounds)
    if settings.simulate and plan is None and not spending.dry_run:
        plan = planned_in(place())
    if folder is None:
        folder = Path("films") if settings.simulate else folder_of(place())
    tell = telling(as_json=settings.as_json, films=None if spending.dry_run else 0)
    order = Order(
        place=Place(None),
        plan=plan,
        named=named,
        folder=folder,
        bounds=bounds,
        only=plan is not None,
        repeats=repeats,
        ask=not (settings.simulate or spending.agreed),
    )
    probe_folder(folder)
    if spending.dry_run:
        return rehearse(attrs.evolve(order, place=place()), settings, tell)
    calls = None
    if hooks != HookOptions():
        from apikley_async.cli.callback_options import hooks_of

        calls = hooks_of(hooks)
    settings = settings._replace(
        max_running=bounds.max_running, timeout=timeout, not_created=spending.not_created
    )
    opening = prepare(settings, hooks=calls)
    if not settings.simulate:
        order = attrs.evolve(order, place=place())
    running = BatchRun(order, settings, tell)
    return play(opening, running.flow, tell, running)


def folder_of(place: Place) -> Path:
    """Where the films of a journal were saved last; the usual folder where that is not known."""
    journal = place.journal

    async def look() -> Path | None:
        if journal is None or not journal.exists():
            return None
        try:
            async with Batch.open(journal, private=True) as batch:
                return await batch.output_folder()
        except ManifestError as error:
            raise Refused(plain(error)) from None
        except JournalError:  # the run will tell
            return None

    found = asyncio.run(look()) or Path("films")
    here = Path.cwd()
    return found.relative_to(here) if found.is_relative_to(here) else found


def planned_in(place: Place) -> Callable[[Batch], Awaitable[Plan]]:
    """What plans the films that a journal has still to send, for a rehearsal of them."""

    async def plan(films: Batch) -> Plan:
        if place.journal is None:
            return Plan()
        async with Batch.open(place.journal, private=True) as batch:
            planned = [item async for item in batch.items(State.PLANNED) if not item.gone]
            works = [(item.key, work_of(item)) for item in planned]
            return await films.add(works, allow_duplicates=True)

    return plan


def rehearse(order: Order, settings: Settings, tell: Telling) -> int:
    """Plan, check and estimate on a private copy of the journal; nothing of that is left.

    With a key the service is asked for the balance, and for nothing else.
    """
    running = BatchRun(order, settings, tell)
    if settings.simulate or not has_key(settings.key_file):
        return alone(running.rehearse, tell)
    return play(prepare(settings), running.rehearse, tell)


def probe_folder(folder: Path) -> None:
    """Make sure that the films could have their place; nothing is made yet."""
    try:
        try_folder(nearest_folder(folder))
    except OSError as error:
        raise Refused(f"-o {plain(folder)}: cannot be written: {error.strerror}") from None
