"""Tasks that are paid already: waited for, or saved if they are finished.

Nothing here pays. What is not finished is named at the end, with the command that resumes it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path

import attrs

from apikley_async import (
    ApikleyError,
    Client,
    DownloadError,
    JobFailedError,
    NotFoundError,
    Result,
    ResultExpiredError,
    State,
)
from apikley_async._text import local_and_utc
from apikley_async.cli.exit_codes import OK, RESUME, advice_for, exit_code, worst
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.shell_words import command_line
from apikley_async.cli.output.terminal_text import count
from apikley_async.cli.run_summary import report_failed

__all__ = ["TaskFollower"]


@attrs.define(eq=False)
class FollowedTask:
    """One task, as far as it is known.

    Attributes:
        task_id: its id.
        code: how it ended, as an exit code; None while it has not.
        expires_at: when the service's links to its film end, once they are known.
        saved: whether its film was saved.
        final: whether no later command can change how it ended.
        results: what is printed of it on stdout.
    """

    task_id: str
    code: int | None = None
    expires_at: datetime | None = None
    saved: bool = False
    final: bool = False
    results: list[str | Path] = attrs.Factory(list)


class TaskFollower:
    """The tasks of one command.

    Args:
        task_ids: their ids.
        reporter: prints what happens.
        folder: where the films are saved; None to print their links.
        service: the options that lead a later command to the same service.
        overwrite: whether other files of the films' names are replaced.
    """

    submissions_under_way = 0  # nothing here submits

    def __init__(
        self,
        task_ids: Iterable[str],
        reporter: Reporter,
        *,
        folder: Path | None,
        service: ServiceOptions,
        overwrite: bool = False,
    ) -> None:
        self._tasks = [FollowedTask(task_id) for task_id in task_ids]
        self._reporter = reporter
        self._folder = folder
        self._service = service
        self._overwrite = overwrite

    async def wait(self, client: Client, timeout: float | None) -> int:
        """Wait for all of them, each for *timeout* seconds at most; return the exit code."""
        jobs = {task: client.job(task.task_id) for task in self._tasks}

        async def follow(task: FollowedTask) -> None:
            snapshot = jobs[task].snapshot
            async for snapshot in jobs[task].updates(timeout):
                if not snapshot.done and snapshot.state is not State.UNKNOWN:
                    state, progress = snapshot.state.value, snapshot.progress
                    self._reporter.event(
                        "polled", task_id=task.task_id, state=state, progress=progress
                    )
            await self._deliver(client, task, snapshot.result())

        return await self._each(follow)

    async def download(self, client: Client) -> int:
        """Save the films that are finished, and wait for none; return the exit code."""
        for task in self._tasks:
            _ = client.job(task.task_id)  # refuses what cannot be an id, before any request

        async def fetch(task: FollowedTask) -> None:
            snapshot = await client.poll(task.task_id)
            if snapshot.done:
                await self._deliver(client, task, snapshot.result())
                return
            task.code = RESUME
            message = f"not finished yet, {snapshot.state.value}"
            self._reporter.event(
                "stopped", task_id=task.task_id, error="Unfinished", message=message
            )

        return await self._each(fetch)

    def limit_grace(self, grace: float) -> None:
        """Nothing is under way that would have to be waited for."""

    def report_unfinished(self) -> None:
        """Report what is paid and not finished, and the command that resumes it."""
        for task in self._tasks:
            for result in task.results:  # in the order of the arguments, whenever it came
                self._reporter.result(result, shown=task.saved)
        ids = [task.task_id for task in self._tasks if task.code != OK and not task.final]
        if ids and not self._service.simulate:  # that service ends with this command
            into = ("-o", str(self._folder)) if self._folder else ()
            resume = command_line("wait", *into, *self._service.words, names=ids)
            self._reporter.event("unfinished", task_ids=ids, resume=resume)

    async def _deliver(self, client: Client, task: FollowedTask, result: Result) -> None:
        task.expires_at = result.expires_at
        urls = list(result.urls)
        expires = result.expires_at and result.expires_at.isoformat(timespec="seconds")
        facts = {"task_id": task.task_id}
        ended = {"state": State.SUCCESS.value, "credits": result.credits}
        self._reporter.event("finished", **facts, **ended, urls=urls, expires_at=expires)
        if self._folder is None:
            task.results += urls
        else:
            paths = await client.save(result, self._folder, overwrite=self._overwrite)
            task.saved = True
            self._reporter.event("saved", **facts, paths=[str(path) for path in paths])
            task.results += paths
        task.code = OK

    async def _each(self, act: Callable[[FollowedTask], Awaitable[None]]) -> int:
        """Run *act* on all tasks at once; an error of one does not end the others."""

        async def guarded(task: FollowedTask) -> None:
            try:
                await act(task)
            except ApikleyError as error:
                self._report_failure(task, error)

        began = asyncio.get_running_loop().time()
        ends = await asyncio.gather(*map(guarded, self._tasks), return_exceptions=True)
        self.report_unfinished()
        self._report_summary(asyncio.get_running_loop().time() - began)
        for end in ends:
            if isinstance(end, Exception):
                raise end  # not an error of the library: an internal one
        return worst(task.code or OK for task in self._tasks)

    def _report_failure(self, task: FollowedTask, error: ApikleyError) -> None:
        task.code = exit_code(error)
        task.final = isinstance(error, JobFailedError | NotFoundError | ResultExpiredError)
        if isinstance(error, JobFailedError):
            report_failed(
                self._reporter,
                task_id=task.task_id,
                fail_code=error.fail_code or None,
                fail_message=error.fail_message or None,
            )
        advice = advice_for(error)
        if task.expires_at is not None and isinstance(error, DownloadError) and not task.final:
            advice = f"The film is at the service until {local_and_utc(task.expires_at)}"
        self._reporter.event(
            "stopped" if task.code == RESUME else "failed",
            task_id=task.task_id,
            error=type(error).__name__,
            code=error.code,
            message=error.message,
            advice=advice or None,
        )

    def _report_summary(self, seconds: float) -> None:
        codes = Counter(task.code for task in self._tasks)
        done, later = codes[OK], codes[RESUME]
        failed = len(self._tasks) - done - later
        self._reporter.event(
            "summary",
            films=len(self._tasks),
            ready=done,
            saved=sum(task.saved for task in self._tasks),
            resumable=later,
            failed=failed,
            seconds=round(seconds, 1),
        )
        where = f"saved in {self._folder}" if self._folder else "ready"
        others = [f"{number} {word}" for number, word in ((failed, "failed"), (later, "resumable"))]
        parts = [f"{count(done)} {where}", *(part for part in others if part[0] != "0")]
        self._reporter.message(f"{', '.join(parts)}; {seconds:.0f} s")
