"""The way into the engine for the commands that pay: `generate` and `batch run`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs

from apikley_async._disk import try_folder
from apikley_async.batch import Batch, Plan
from apikley_async.cli._batches import BatchRun, Bounds, Order
from apikley_async.cli._exit import Refused
from apikley_async.cli._options import HookOptions, Settings, Spending
from apikley_async.cli._placement import Place
from apikley_async.cli._run import alone, play, telling
from apikley_async.cli._session import prepare
from apikley_async.cli._telling import plain

__all__ = ["make", "make_folder"]


def make(
    place: Callable[[], Place],
    plan: Callable[[Batch], Awaitable[Plan]] | None,
    *,
    named: str,
    folder: Path,
    timeout: float | None,
    spending: Spending,
    settings: Settings,
    hooks: HookOptions,
    repeats: bool = False,
) -> int:
    """Plan films, have the spending agreed to, make them, and give the exit code.

    A dry run and a simulated one are rehearsals: what they plan is kept by nobody.

    Args:
        place: says where the journal is; asked when the folder for the films is there.
        plan, named, repeats: see `Order`.
    """
    bounds = Bounds(**spending.bounds)
    rehearsal = spending.dry_run or settings.simulate
    tell = telling(as_json=settings.as_json, films=None if spending.dry_run else 0)
    order = Order(
        place=Place(None),
        plan=plan,
        named=named,
        folder=folder,
        bounds=bounds,
        only=plan is not None,
        repeats=repeats,
        ask=not (rehearsal or spending.agreed),
    )
    if spending.dry_run:
        return alone(BatchRun(order, settings, tell).rehearse, tell)
    calls = None
    if hooks != HookOptions():
        from apikley_async.cli._hooks import hooks_of

        calls = hooks_of(hooks)
    settings = settings._replace(max_running=bounds.max_running, timeout=timeout)
    opening = prepare(settings, hooks=calls)
    make_folder(folder)
    if not rehearsal:
        order = attrs.evolve(order, place=place())
    running = BatchRun(order, settings, tell)
    return play(opening, running.flow, tell, running)


def make_folder(folder: Path) -> None:
    """Make sure that the films will have a place before they are paid."""
    try:
        try_folder(folder)
    except OSError as error:
        raise Refused(f"-o {plain(folder)}: cannot be written: {error.strerror}") from None
