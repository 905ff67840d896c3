"""What a run says at its end, and its exit code: where the films stand, and how to resume."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from apikley_async.batch import Batch, Item, ItemState
from apikley_async.cli.exit_codes import FAILED, OK, RESUME, worst
from apikley_async.cli.option_types import Place
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.shell_words import command_line, same_command
from apikley_async.cli.output.terminal_text import count
from apikley_async.cli.output.uncertain import report_evidence, report_ways
from apikley_async.cli.run_summary import (
    STATE_CODES,
    Counts,
    RunSummary,
    exit_code_of,
    paths_of,
    report_counts,
    report_unsaved,
)

__all__ = ["ClosingReport"]

BOUNDS = {
    "max_credits": "Raise --max-credits",
    "max_tasks": "Raise --max-tasks",
    "min_balance": "Lower --min-balance, or buy credits,",
}
MAX_OTHERS = 3  # films that are named though the run was not about them


class ClosingReport:
    """Reports the end of a run.

    Args:
        reporter: prints it.
        journal: how commands name the batch; None for a rehearsal, which keeps no journal.
        service: the options that lead those commands to the same service.
        repeat_results: whether the paths of all films are results, those of earlier runs too.

    Attributes:
        resume: the command that resumes the run.
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        journal: Place | None,
        service: ServiceOptions,
        repeat_results: bool,
    ) -> None:
        self._reporter = reporter
        self._journal = journal
        self._service = service
        self._repeat_results = repeat_results
        self._said_stop = False
        self.resume: str = same_command()  # now: the context of click is known only in this thread

    async def report(self, batch: Batch, keys: Collection[str] | None, folder: Path) -> int:
        """Report the films in *keys* (None: all), saved in *folder*; return the exit code."""
        stopped = batch.stopped
        if stopped:
            self._reporter.message(f"Nothing more was submitted: {stopped}")
        summary = RunSummary(None if keys is None else frozenset(keys))
        async for item in batch.items():
            summary.add(item)
        report_counts(
            self._reporter,
            summary.counts,
            await batch.status(keys=keys),
            stopped=stopped,
            simulated=self._service.simulate,
        )
        done = [await batch.locate_files(item) for item in summary.done]
        lost = [item for item in done if not await asyncio.to_thread(self._exists, item, folder)]
        if self._repeat_results:
            saved = {item.key: item for item in done if item not in lost}
            for key in keys or saved:
                if key in saved:
                    self.report_paths(saved[key], folder)
        await self._report_uncertain(batch, [item.key for item in summary.uncertain])
        if self._journal is not None:
            words = self._service.words
            report_unsaved(self._reporter, summary.unsaved, self._journal, words)
        self._report_next_steps(summary.counts, stopped)
        self._report_others(summary.others)
        return worst([exit_code_of(summary.counts), FAILED if lost else OK])

    def report_stop(self, stopped: str) -> None:
        """Say once why nothing more is submitted, while films go on that were."""
        if not self._said_stop:
            self._reporter.message(f"Nothing more is submitted: {stopped}")
        self._said_stop = True

    def report_paths(self, item: Item, folder: Path) -> None:
        """Print the files of a film that is done as results."""
        for path in paths_of(item, folder) if item.state is ItemState.DONE else ():
            self._reporter.result(path, shown=True)

    def report_resume(self) -> None:
        """Show the command that resumes the run."""
        self._reporter.message(f"To go on: {self.resume}")

    def _exists(self, item: Item, folder: Path) -> bool:
        """Whether a saved film is still there; reports it if not. Blocks."""
        lost = [file.path for file in item.files if not file.path.is_file()]
        if not lost:
            return True
        self._reporter.message(
            f"{item.key}: {lost[0]} is gone; the film was saved there, and is paid"
        )
        if item.task_id and not self._service.simulate:
            options = ("-o", str(folder), *self._service.words)
            download = command_line("download", *options, names=[item.task_id])
            self._reporter.message(f"  Within a day after it was made: {download}")
        return False

    def _report_next_steps(self, counts: Counts, stopped: str | None) -> None:
        """Show the commands that make failed films again, and that resume what is unfinished.

        The second has the bounds of this run: where one of them has *stopped* it, that is said.
        """
        failed = [state for state in (ItemState.FAILED, ItemState.REJECTED) if counts.get(state)]
        if failed and self._journal is not None:
            retry = command_line("batch", "retry", names=[self._journal])
            self._reporter.message(f"To make failed films again, each at a new charge: {retry}")
        if any(STATE_CODES.get(state) == RESUME for state in counts):
            for bound, change in BOUNDS.items():
                if bound in (stopped or ""):
                    self._reporter.message(f"{change} to make the rest.")
            self.report_resume()

    def _report_others(self, others: Sequence[Item]) -> None:
        """Name what else the journal holds and is not finished."""
        if not others:
            return
        named = ", ".join(f"{item.key} ({item.state.value})" for item in others[:MAX_OTHERS])
        more = ", ..." if len(others) > MAX_OTHERS else ""
        journal = self._journal
        look_up = f": {command_line('batch', 'status', names=[journal])}" if journal else ""
        self._reporter.message(
            f"The journal also holds {count(len(others))}: {named}{more}{look_up}"
        )

    async def _report_uncertain(self, batch: Batch, keys: Sequence[str]) -> None:
        """Report what is known of each uncertain film, and once the ways to decide."""
        if not keys:
            return
        # A rehearsal keeps no journal: there is nothing to decide.
        journal, words = self._journal, self._service.words
        films, balances = await batch.uncertain_items(*keys)
        report_evidence(
            self._reporter, films, balances, event="undecided", journal=journal, words=words
        )
        if journal is not None:
            counts = await batch.store.counts()
            everything = counts.get(ItemState.UNCERTAIN, 0) == len(films)
            report_ways(self._reporter, films, journal, words, everything=everything)
