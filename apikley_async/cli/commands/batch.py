"""`apikley batch ...`: the commands for manifests and their journals."""

from __future__ import annotations

from pathlib import Path

import click

from apikley_async.batch import Batch, PlanResult
from apikley_async.cli import options
from apikley_async.cli.batch_status import Selection, report_status
from apikley_async.cli.events import RUN_EVENTS
from apikley_async.cli.exit_codes import FAILED, OK, RefusedError
from apikley_async.cli.film_run import FilmRun, RunRequest
from apikley_async.cli.help_format import HelpGroup
from apikley_async.cli.journal_actions import (
    adopt_journal,
    as_list,
    decide,
    decide_at_risk,
    existing_journal,
    fetch_films,
    journal_of,
    names_manifest,
    read_journal,
    report_elsewhere,
    resolve_films,
)
from apikley_async.cli.journal_location import JournalLocation, locate_batch_journal
from apikley_async.cli.launch import launch
from apikley_async.cli.option_types import PLACE, PerKind, Place, read_task_ids
from apikley_async.cli.options import Bounds, Option, RunOptions, ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.runner import new_reporter, run_without_client

__all__ = ["batch"]

PATH = click.Path(path_type=Path)
path_argument: Option = click.argument("path", metavar="FILE", type=PLACE)
keys_argument: Option = click.argument("keys", nargs=-1, metavar="[KEY...]")
undecided_option: Option = click.option(
    "--undecided",
    is_flag=True,
    help="All uncertain films (sent, and no answer came), instead of KEYs.",
)
agree_option: Option = click.option(
    "--yes", "agreed", is_flag=True, help="Do not ask; needed where there is no terminal."
)


SECTIONS: dict[str, tuple[str, ...]] = {
    "Make": ("run", "estimate"),
    "Look": ("status", "report", "verify"),
    "Decide": ("retry", "resolve", "resubmit", "drop"),
    "Keep": ("save", "revive", "rename", "purge", "backup", "adopt"),
}


@click.group(cls=HelpGroup, sections=SECTIONS)
def batch() -> None:
    """Make many films from a manifest; each is paid once, whatever happens.

    The manifest lists the films. The journal beside it (campaign.db for campaign.yaml) records
    what was sent, paid and saved, so that every command knows where the films stand. A film is
    uncertain when it was sent and no answer came: it may have been paid, and you decide.
    """


@batch.command(events=RUN_EVENTS)
@path_argument
@options.output_folder(None, "Where the films go.  [default: where they were saved last, or films]")
@click.option(
    "--journal",
    metavar="FILE|DSN",
    type=PLACE,
    help="The journal of what is paid; DSN is that of PostgreSQL.  [default: beside FILE, .db]",
)
@click.option(
    "--here", is_flag=True, help="Make the films of a DSN in this process, without its workers."
)
@options.run_options
def run(
    path: Place, folder: Path | None, journal: Place | None, here: bool, run_options: RunOptions
) -> int:
    """Make the films of a manifest, or resume those of its journal.

    FILE is .yaml, .json, .jsonl, .toml or .csv, or the journal itself (.db, or the DSN of a
    database that several machines share). Stop it as you like and run it again: it resumes, and
    pays nothing twice. With a DSN the films are added, and the workers of that journal make them
    (`apikley worker`); this command shows how far they are.
    """

    async def plan(films: Batch) -> PlanResult:
        return await films.add(str(path), allow_duplicates=run_options.spending.allow_duplicates)

    if not names_manifest(path):
        _ = existing_journal(path)  # a misspelled journal must not begin a new one
    return launch(
        lambda films: locate_batch_journal(journal_of(path, journal), films),
        plan if names_manifest(path) else None,
        run_options,
        source=str(path),
        folder=folder,
        named=path if journal is None else journal,
        here=here,
    )


# --- read only ------------------------------------------------------------------------------------


@batch.command()
@path_argument
@keys_argument
@click.option(
    "--failed", is_flag=True, help="Only films that failed, were refused, or have expired."
)
@click.option("--undecided", is_flag=True, help="Only uncertain films, and those being sent.")
@click.option("--ids", is_flag=True, help="Print the ids of their tasks only.")
@click.option("--follow", is_flag=True, help="Print what changes, until all have ended.")
@options.as_json
@options.plain
def status(
    path: Place,
    keys: tuple[str, ...],
    failed: bool,
    undecided: bool,
    ids: bool,
    follow: bool,
    as_json: bool,
    plain: bool,
) -> int:
    """Print the films that are not done, and what all have cost.

    For each KEY it prints everything that is known: attempts, their times and ids, and files; the
    totals are then of these films only. Uncertain films (sent, and no answer came: they may have
    been paid) are shown with what is needed to decide about them, and the commands for it. Another
    process may be running the batch; --follow goes on printing what that one does.
    """
    selection = Selection(keys, failed, undecided, ids)
    if follow and ids:
        raise click.UsageError("--follow or --ids")

    async def read(films: Batch, reporter: Reporter) -> int:
        return await report_status(films, reporter, selection, named=path, follow=follow)

    return read_journal(path, read, as_json=as_json, films=0 if follow else None, plain=plain)


@batch.command()
@path_argument
@options.price
@options.as_json
def estimate(path: Place, price: PerKind, as_json: bool) -> int:
    """Print what the films that are not yet submitted would cost. Sends nothing, keeps nothing.

    FILE may be a manifest, for its films, or a journal (.db), for all that it holds. It works
    before the first run too.
    """

    async def plan(films: Batch) -> PlanResult:
        return await films.add(str(path))

    reporter = new_reporter(as_json=as_json)
    of_manifest = names_manifest(path)
    request = RunRequest(
        location=JournalLocation(journal_of(path) if of_manifest else existing_journal(path)),
        plan=plan if of_manifest else None,
        source=str(path),
        folder=Path(),
        bounds=Bounds(price=price),
        planned_only=of_manifest,
    )
    films = FilmRun(request, ServiceOptions(as_json=as_json), reporter)
    return run_without_client(films.estimate, reporter)


@batch.command()
@path_argument
@options.as_json
def verify(path: Place, as_json: bool) -> int:
    """Check a journal and its films, byte by byte; exit 1 if anything is wrong."""

    async def read(films: Batch, reporter: Reporter) -> int:
        faults = await films.verify()
        for fault in faults:
            reporter.result(fault)
        reporter.event("verified", faults=faults)
        await report_elsewhere(films, reporter)
        if not faults:
            reporter.message("The journal and its films are as they should be.")
        return FAILED if faults else OK

    return read_journal(path, read, as_json=as_json)


@batch.command()
@click.argument("path", metavar="[FILE|JOURNAL]", type=PLACE, required=False)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="REPORT",
    type=PATH,
    help="The page; JSON and CSV go beside it.  [default: report.html beside the films]",
)
@options.as_json
def report(path: Place | None, target: Path | None, as_json: bool) -> int:
    """Write a page about a batch, to look at in a browser.

    It shows what needs you, every film to play, and how the run went. It needs no network, and
    is put beside the films; report.json and report.csv have the same as data. Without FILE it
    is about the only journal in this folder, or in the folder films.
    """
    # Imported only here: no other command needs a page.
    from apikley_async.cli.report_command import report_batch

    return report_batch(path, target, as_json=as_json)


@batch.command()
@path_argument
@click.argument("target", metavar="COPY", type=PATH)
@options.as_json
def backup(path: Place, target: Path, as_json: bool) -> int:
    """Copy a journal, also during a run. A plain copy of the file may miss what was paid."""

    async def read(films: Batch, reporter: Reporter) -> int:
        await films.backup(target)
        reporter.event("backed_up", path=str(target))
        reporter.message(f"The journal as it is now is in {target}.")
        return OK

    return read_journal(path, read, as_json=as_json)


# --- decisions ------------------------------------------------------------------------------------


@batch.command()
@path_argument
@keys_argument
@click.option("--changed", is_flag=True, help="Take the content that FILE has now.")
@click.option(
    "--journal",
    metavar="FILE|DSN",
    type=PLACE,
    help="With --changed: the journal.  [default: beside FILE, .db]",
)
@options.as_json
def retry(
    path: Place, keys: tuple[str, ...], changed: bool, journal: Place | None, as_json: bool
) -> int:
    """Make failed and rejected films again in the next run, which pays for them.

    All of them, or those named.
    """
    if changed:
        if not names_manifest(path):
            raise RefusedError("--changed: FILE is the manifest with the new content")
        manifest = path
        return decide(
            journal or path, lambda films: films.retry_changed(manifest, *keys), as_json=as_json
        )
    if journal is not None:
        raise RefusedError("--journal goes with --changed; else FILE is the journal")
    return decide(path, lambda films: films.retry(*keys), as_json=as_json)


@batch.command()
@path_argument
@keys_argument
@undecided_option
@agree_option
@options.real_service_options
def resubmit(
    path: Place, keys: tuple[str, ...], undecided: bool, agreed: bool, service: ServiceOptions
) -> int:
    """Submit uncertain films again, in the next run.

    One that was received after all is paid twice. Each is shown first: when it was sent, to which
    model, its first words, why nobody knows, and what the account's balance says of that time
    (it is read again if there is a key). Then you are asked.
    """
    _check_selection(keys, undecided=undecided)
    return decide_at_risk("resubmit", path, keys, service, agreed=agreed)


@batch.command()
@path_argument
@keys_argument
@undecided_option
@agree_option
@options.real_service_options
def drop(
    path: Place, keys: tuple[str, ...], undecided: bool, agreed: bool, service: ServiceOptions
) -> int:
    """Give films up. Nothing is cancelled at the service.

    Later runs do not send, poll or save them. What may have been paid is shown first, and you are
    asked.
    """
    _check_selection(keys, undecided=undecided)
    return decide_at_risk("drop", path, keys, service, agreed=agreed)


@batch.command()
@path_argument
@keys_argument
@click.option(
    "--task-id",
    "task_ids",
    required=True,
    multiple=True,
    callback=read_task_ids,
    metavar="ID",
    help="A task that an uncertain film became, or several, separated by blanks, commas or "
    "lines; may be given again. With KEYs one for each, in their order.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Bind the task to the film although it shows other content; your name is kept with it.",
)
@options.real_service_options
def resolve(
    path: Place,
    keys: tuple[str, ...],
    task_ids: tuple[str, ...],
    force: bool,
    service: ServiceOptions,
) -> int:
    """Name the tasks that uncertain films became; each task is compared with its film.

    You find the ids in the service's list of tasks (https://app.apikley.ru), by the time and the
    model that `apikley batch status` shows. Without KEY each task finds its film by its content,
    among all that are uncertain; where that is not certain you choose (exit code 3). Where a task
    cannot be looked up, the others are bound, and the same command goes on later (exit code 4).
    Ids that the journal has already are left out. A name after `--` is never taken for an option.
    """
    if keys and len(keys) != len(task_ids):
        raise RefusedError(
            f"{len(keys)} KEY and {len(task_ids)} --task-id: one for each, or no KEY at all, and "
            "each task finds its film by its content"
        )
    if force and not keys:
        raise RefusedError("--force: name the KEY of each film")
    return resolve_films(path, keys, task_ids, service, force=force)


@batch.command()
@path_argument
@keys_argument
@options.as_json
def purge(path: Place, keys: tuple[str, ...], as_json: bool) -> int:
    """Remove prompts and images of done and dropped films from the journal: personal data.

    What is paid is still known. Copies of the journal keep what they have.
    """
    return decide(path, lambda films: films.purge(*keys), as_json=as_json)


@batch.command()
@path_argument
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@options.as_json
def rename(path: Place, old: str, new: str, as_json: bool) -> int:
    """Give a film another key, as its manifest has it now. Nothing is sent or paid.

    Its attempts and files stay with it; the files keep their names.
    """
    return decide(path, lambda films: as_list(films.rename(old, new)), as_json=as_json)


@batch.command()
@path_argument
@options.as_json
def adopt(path: Place, as_json: bool) -> int:
    """Use an old copy of a journal, where the newest one is lost for good.

    Other commands refuse a copy that is older than what was sent from this machine, or that has
    lost its log (.db-wal) after a crash. This one takes it. Every film that has no task in it may
    have been paid since, so it becomes uncertain, and you decide about it. Nothing is sent.
    """
    return adopt_journal(path, as_json=as_json)


# --- files ----------------------------------------------------------------------------------------


@batch.command()
@path_argument
@keys_argument
@options.output_folder(None, "Where the films go.  [default: where they were saved last]")
@click.option("--partial", is_flag=True, help="Save a film although some links cannot be used.")
@click.option("--overwrite", is_flag=True, help="Replace files that have the films' names.")
@options.real_service_options
def save(
    path: Place,
    keys: tuple[str, ...],
    folder: Path | None,
    partial: bool,
    overwrite: bool,
    service: ServiceOptions,
) -> int:
    """Download films that are paid and not on the disk: lost, or not saved yet. Costs nothing."""
    return fetch_films(path, keys, service, folder=folder, partial=partial, overwrite=overwrite)


@batch.command()
@path_argument
@keys_argument
@options.output_folder(None, "Where the films go.  [default: where they were saved last]")
@options.real_service_options
def revive(path: Place, keys: tuple[str, ...], folder: Path | None, service: ServiceOptions) -> int:
    """Try once more to download films whose links have expired. Costs nothing.

    All of them, or those named.
    """
    return fetch_films(path, keys, service, folder=folder, expired=True)


def _check_selection(keys: tuple[str, ...], *, undecided: bool) -> None:
    """Keys, or all that are undecided: never all because none was named."""
    if bool(keys) is undecided:
        raise click.UsageError("name the films, or say --undecided for all that are uncertain")
