"""The demo as a batch on a simulated service, which can be stopped anywhere and run again.

The journal lies with the films. The simulated service ends with the command; the next run starts
a new one that knows the tasks paid before, so the batch resumes as with the real service.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import attrs

from apikley_async import Client
from apikley_async._disk import open_own
from apikley_async.batch import Batch, ItemState, PlanResult, work_of
from apikley_async.cli.exit_codes import FAILED, OK, RefusedError
from apikley_async.cli.film_run import FilmRun, RunRequest
from apikley_async.cli.journal_location import JournalLocation
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import count, plain
from apikley_async.cli.simulated_service import KnownTask, SimulatedService
from apikley_async.errors import JournalError

__all__ = ["DemoRun"]

PAID = (ItemState.SUBMITTED, ItemState.STALLED, ItemState.SUCCESS)


def key_beside(journal: Path) -> str:
    """The simulated service's API key, made once and kept beside its journal. Blocks.

    A journal belongs to one key, so every run of the demo needs the same.

    Raises:
        RefusedError: the file is not ours, or cannot be read or written.
    """
    path = journal.with_suffix(".key")
    try:
        with os.fdopen(open_own(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            if key := file.read(100).decode("ascii", errors="replace").strip():
                return key
            key = f"simulated-{secrets.token_hex(16)}"
            file.write(key.encode())
            return key
    except OSError as error:
        raise RefusedError(f"{plain(path)}: {error.strerror}") from None


class DemoRun:
    """The films of the shipped storyboards.

    Args:
        files: the storyboards.
        folder: where the films and the journal go.
        service: the simulated service.
        reporter: prints what happens.
    """

    def __init__(
        self, files: Sequence[Path], folder: Path, service: SimulatedService, reporter: Reporter
    ) -> None:
        self._files = files
        self._service = service
        self._reporter = reporter
        self._folder = folder
        self._journal = folder / "demo.db"
        self._was_finished = False
        request = RunRequest(
            location=JournalLocation(self._journal),
            plan=self._plan,
            source=f"The demo, in {folder}",
            folder=folder,
            named=self._journal,
        )
        self.film_run: FilmRun = FilmRun(request, ServiceOptions(simulate=True), reporter)

    @contextlib.asynccontextmanager
    async def open_client(self) -> AsyncIterator[Client]:
        """Run the service, which knows the tasks that an earlier run has paid."""
        # The same key in every run: a journal refuses the key of another account.
        key = await asyncio.to_thread(key_beside, self._journal)
        service = attrs.evolve(self._service, key=key)
        async with service.open_client(await self._paid_tasks()) as client:
            yield client

    async def make_films(self, client: Client) -> int:
        """Make the films that are not made yet; return the exit code."""
        code = await self.film_run.make_films(client)
        if self._was_finished:
            code = await self._report_finished()
        return code

    async def _plan(self, batch: Batch) -> PlanResult:
        plan = await batch.add_films(self._files)
        status = await batch.status()
        self._was_finished = status.finished
        if plan.known:
            states = (f"{count(number)} {state.value}" for state, number in status.counts.items())
            self._reporter.message(f"{self._journal} knows an earlier run: {', '.join(states)}.")
        return plan

    async def _report_finished(self) -> int:
        """Report that nothing was made: not even a film whose file has been removed since."""
        async with Batch.open(self._journal, read_only=True) as batch:
            faults = await batch.verify()
        for fault in faults:
            self._reporter.message(fault)
        self._reporter.message("The batch was finished, so nothing was submitted.")
        self._reporter.message(f"To see it again: another folder (-o), or remove {self._folder}")
        return FAILED if faults else OK

    async def _paid_tasks(self) -> list[KnownTask]:
        if not self._journal.exists():
            return []
        try:
            async with Batch.open(self._journal, read_only=True) as batch:
                return [
                    KnownTask(item.task_id, work_of(item), item.state is ItemState.SUCCESS)
                    async for item in batch.items(*PAID)
                    if item.task_id
                ]
        except JournalError:  # the run will open it again, and report this
            return []
