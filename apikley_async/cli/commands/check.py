"""`apikley check` and `apikley preview`: a manifest before anything is paid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import attrs
import click

from apikley_async._disk import private_folder
from apikley_async.batch import Batch, ManifestSummary, PlanResult, is_rehearsal, summarize_manifest
from apikley_async.cli import options
from apikley_async.cli.exit_codes import OK, USAGE, RefusedError
from apikley_async.cli.film_run import FilmRun, RunRequest
from apikley_async.cli.help_format import command
from apikley_async.cli.journal_location import JournalLocation
from apikley_async.cli.option_types import PerKind
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import count, in_credits, plain
from apikley_async.cli.output_folder import make_folder
from apikley_async.cli.runner import new_reporter, run_with_client

__all__ = ["check", "preview"]

PREVIEW_SIDE = 720  # pixels, the shorter one


@command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@options.price
@options.as_json
def check(files: tuple[Path, ...], price: PerKind, as_json: bool) -> int:
    """Report everything that is wrong with manifests, images included.

    It also prints what they ask for: films, shots, seconds, and with --price what that costs.
    It sends nothing. The exit code is 2 if there are faults.
    """
    return check_files(files, price, new_reporter(as_json=as_json))


def check_files(files: Sequence[Path], price: PerKind, reporter: Reporter) -> int:
    """Report every fault of every manifest, and what it asks for; return the exit code."""
    faulty = 0
    for file in files:
        found = summarize_manifest(file)
        faulty += bool(found.faults)
        priced = price is not None and not found.faults
        cost = asyncio.run(_cost_of(file, price)) if priced else None
        reporter.event("checked", file=str(file), **attrs.asdict(found), credits=cost)
        for fault in found.faults:
            reporter.result(fault)
        for remark in found.remarks:
            reporter.message(f"Note: {remark}")
        if not found.faults:
            size = _size_of(found) + (f", {in_credits(cost)} credits" if cost is not None else "")
            reporter.message(f"{file}: nothing is wrong with it: {size}")
    reporter.close()
    return USAGE if faulty else OK


async def _cost_of(file: Path, price: PerKind) -> float | None:
    """What the films of a manifest cost in all; None if a price is missing."""
    with private_folder() as folder:
        async with Batch.open(Path(folder, "check.db"), private=True) as batch:
            _ = await batch.add(file, allow_duplicates=True)
            estimate = await batch.estimate(prices=price)
    return None if estimate.unpriced else estimate.credits


def _size_of(found: ManifestSummary) -> str:
    """How much a manifest asks for: films, shots, seconds."""
    films = count(found.films)
    return f"{films}, {count(found.shots, 'shot')}, {found.seconds} s" if found.shots else films


@command()
@click.argument("manifest", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@options.output_folder(Path("preview"), "Where the previews go, named after their keys.")
@options.rendered_films
@click.option(
    "--sheet", is_flag=True, help="One page with all storyboards instead, in seconds: sheet.html."
)
@options.as_json
@options.plain
def preview(
    manifest: Path, folder: Path, kind: str, sheet: bool, as_json: bool, plain: bool
) -> int:
    """Render the films of a manifest on this machine, before they are paid.

    Each film shows the text of its shots over its image or a landscape, in the right
    length and aspect ratio. With --sheet nothing is rendered: one page shows all storyboards,
    with their pictures, their shots and how long each shot is.
    """
    if sheet:
        # Imported only here: no other preview needs a page.
        from apikley_async.cli.contact_sheet import write_sheet

        return write_sheet(manifest, folder, as_json=as_json)
    # Imported only here: the simulator takes longer to load than all the rest.
    from apikley_async.cli.simulated_service import SPEED, SimulatedService, check_rendering

    check_rendering(kind, "apikley preview FILE --films placeholder")
    make_folder(folder)
    reporter = new_reporter(as_json=as_json, films=0, plain=plain)
    simulated = SimulatedService(SPEED, films=kind, short_side=PREVIEW_SIDE, fps=24)

    async def plan(batch: Batch) -> PlanResult:
        planned = await batch.add(manifest, allow_duplicates=True)
        await _refuse_other_files(batch, folder)
        return planned

    request = RunRequest(
        location=JournalLocation(None),
        plan=plan,
        source=f"{manifest}, rendered here, unpaid",
        folder=folder,
    )
    run = FilmRun(request, ServiceOptions(simulate=True), reporter)
    return run_with_client(simulated.open_client, run.make_films, reporter, run)


async def _refuse_other_files(batch: Batch, folder: Path) -> None:
    """Earlier previews may be replaced; other files of the films' names may not."""
    async for item in batch.items():
        name = folder / f"{item.key}.mp4"
        if name.exists() and not is_rehearsal(name):
            raise RefusedError(f"{plain(name)} is no preview; choose another folder with -o")
