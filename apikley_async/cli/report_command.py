"""`apikley batch report`: which batch it is about, and where its report goes."""

from __future__ import annotations

from pathlib import Path

from apikley_async._disk import read_own
from apikley_async.batch import Batch
from apikley_async.cli.exit_codes import OK, RefusedError
from apikley_async.cli.journal_actions import existing_journal, read_journal
from apikley_async.cli.next_run import go_on_line
from apikley_async.cli.option_types import Place
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import plain
from apikley_async.cli.report_files import ReportRequest, write_report
from apikley_async.cli.run_summary import report_written
from apikley_async.errors import ManifestError

__all__ = ["report_batch"]

PLACES = (Path(), Path("films"))  # where a journal is looked for
APPLICATION_AT = 68  # bytes into an SQLite file: the number that names the program
APPLICATION = b"APkl"


def report_batch(path: Place | None, target: Path | None, *, as_json: bool) -> int:
    """Write the report of a batch; return the exit code.

    Args:
        path: the batch's manifest or journal; None for the only one that is here.
        target: the page; None for `report.html` beside the films.
        as_json: whether events are printed on stdout.
    """
    named = path if path is not None else only_journal()
    journal = existing_journal(named)

    async def write(batch: Batch, reporter: Reporter) -> int:
        places = [None] if target else [*filter(None, (await films_folder(batch), Path()))]
        reasons = []
        resume = await go_on_line(batch, named)
        for place in places:
            request = ReportRequest(
                journal=journal,
                name=named,
                resume=resume,
                folder=place or Path(),
                target=target,
            )
            try:
                page = await write_report(batch, request)
            except OSError as error:  # a disk that is full or read only
                reasons.append(error.strerror)
                continue
            report_written(reporter, page)
            reporter.result(page)
            return OK
        raise RefusedError(f"the report cannot be written: {reasons[-1]}; name a file with -o")

    return read_journal(named, write, as_json=as_json)


async def films_folder(batch: Batch) -> Path | None:
    """The folder of the films, if a report may be written there; None for the current one."""
    try:
        return await batch.output_folder()
    except ManifestError:  # outside of the journal's folder: a journal does not decide that
        return None


def only_journal() -> Path:
    """The only journal in the current folder or in `films`.

    Raises:
        RefusedError: there is none, or there are several.
    """
    found = [path for place in PLACES for path in sorted(place.glob("*.db")) if is_journal(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RefusedError("there is no journal here or in films: name a manifest or a journal")
    raise RefusedError(f"several journals: name one of {', '.join(map(plain, found))}")


def is_journal(path: Path) -> bool:
    """Whether a file of ours is a journal, by its first bytes."""
    try:
        return read_own(path, APPLICATION_AT + 4)[APPLICATION_AT:] == APPLICATION
    except OSError:
        return False
