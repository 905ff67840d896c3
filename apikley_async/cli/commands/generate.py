"""`apikley generate`: one film of each file."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from apikley_async.batch import Batch, PlanResult
from apikley_async.cli import options
from apikley_async.cli.events import RUN_EVENTS
from apikley_async.cli.help_format import command
from apikley_async.cli.journal_location import (
    JournalLocation,
    compared_with_earlier,
    locate_journal,
    locate_named_journal,
    locate_profile_journal,
)
from apikley_async.cli.launch import launch
from apikley_async.cli.option_types import Whole
from apikley_async.cli.options import RunOptions

__all__ = ["generate"]

FOLDER = Path("films")
LOCK_WAIT = 60.0  # seconds to wait for another `generate` in the same folder


@command(events=RUN_EVENTS)
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path),  # not `exists`: all missing files are named, not only one
)
@options.output_folder(FOLDER, "Where the films go, named after their files.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The journal of what is paid.  [default: apikley.db beside the films]",
)
@click.option(
    "--takes", type=Whole(1, 100), metavar="N", help="Films of each FILE, in all; each is paid."
)
@click.option("--again", is_flag=True, help="A file that has changed becomes a new film.")
@options.run_options
def generate(
    files: tuple[Path, ...],
    folder: Path,
    journal: Path | None,
    takes: int | None,
    again: bool,
    run_options: RunOptions,
) -> int:
    """Make one film of each FILE, and save it.

    \b
    A FILE is a storyboard, or a task of any model, as .json, .yaml, .toml, .csv:
      {"shots": [{"scene": "A kitten eats cake.", "duration": 7.5}],
       "duration": 15, "aspect_ratio": "landscape", "image": "kitten.png"}
      {"task": {"model": "kling-2.6/text-to-video",
                "input": {"prompt": "A lighthouse at dawn.", "duration": 5}}}

    The image lies beside its FILE; a URL is used as it is. All files are checked before the first
    film is paid.

    The same command again resumes where it stopped, and pays nothing twice: what was paid is in a
    journal, films/apikley.db. A FILE that has changed since is refused; --again makes another
    film of it (kitten.v2), once.
    """
    source = click.get_current_context().get_parameter_source("folder")
    named = source is ParameterSource.COMMANDLINE

    def locate(_: Path | None) -> JournalLocation:
        if journal is not None:
            return locate_named_journal(journal, folder, wait=LOCK_WAIT)
        if (profile := run_options.folder_from) is not None:
            return locate_profile_journal(folder, profile, usual=FOLDER, wait=LOCK_WAIT)
        location = locate_journal(folder, wait=LOCK_WAIT)
        return location if named else compared_with_earlier(location)

    async def plan(batch: Batch) -> PlanResult:
        duplicates = run_options.spending.allow_duplicates
        return await batch.add_films(files, takes=takes, again=again, allow_duplicates=duplicates)

    return launch(
        locate,
        plan,
        run_options,
        source=", ".join(map(str, files)) if len(files) < 4 else f"{len(files)} files",
        folder=folder,
        repeat_results=True,
    )
