"""`apikley preview --sheet`: all storyboards of a manifest on one page, before anything is paid."""

from __future__ import annotations

import asyncio
from pathlib import Path

from apikley_async._disk import private_folder
from apikley_async.batch import Batch
from apikley_async.cli.exit_codes import OK, RefusedError
from apikley_async.cli.film_run import faults_as_refusal
from apikley_async.cli.output.shell_words import command_line
from apikley_async.cli.output.terminal_text import plain
from apikley_async.cli.output_folder import make_folder
from apikley_async.cli.report_files import ReportRequest, write_report
from apikley_async.cli.runner import new_reporter, run_without_client

__all__ = ["write_sheet"]

PAGE = "sheet.html"


def write_sheet(manifest: Path, folder: Path, *, as_json: bool) -> int:
    """Write the page, and return the exit code.

    It is the report of a batch of which nothing is made yet; its journal is gone afterwards.
    """
    reporter = new_reporter(as_json=as_json)
    request = ReportRequest(
        journal=manifest.with_suffix(".db"),  # pictures beside the manifest may be shown
        name=manifest,
        resume=command_line("batch", "run", names=[manifest]),
        folder=folder,
        target=folder / PAGE,
        sheet=True,
    )

    async def write() -> int:
        await asyncio.to_thread(make_folder, folder)
        with private_folder() as place:
            async with Batch.open(Path(place, "sheet.db"), private=True) as batch:
                plan = await faults_as_refusal(batch.add(manifest, allow_duplicates=True))
                for remark in plan.remarks:
                    reporter.event("remark", message=remark)
                try:
                    page = await write_report(batch, request)
                except OSError as error:
                    raise RefusedError(f"-o {plain(folder)}: {error.strerror}") from None
        reporter.event("sheet", path=str(page), url=page.resolve().as_uri())
        reporter.result(page)
        return OK

    return run_without_client(write, reporter)
