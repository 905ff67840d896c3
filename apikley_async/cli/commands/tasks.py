"""Tasks that are bought already, named by their ids: followed to their end, saved, or read once.

Nothing here pays. What is bought and not finished is named at the end, with the line to go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import attrs

from apikley_async import (
    ApikleyError,
    Client,
    JobFailedError,
    NotFoundError,
    Result,
    ResultExpiredError,
    State,
)
from apikley_async.cli.exit_codes import OK, RESUME, advice, exit_code, worst
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import Telling, count
from apikley_async.cli.output.shell_words import call

__all__ = ["Tasks"]


@attrs.define(eq=False)
class Task:
    """One task, as far as we know. *code* is how it ended, as an exit code; None while it has not.

    *hopeless* is what no later command can bring to an end.
    """

    task_id: str
    code: int | None = None
    saved: bool = False
    hopeless: bool = False
    answers: list[str | Path] = attrs.Factory(list)


class Tasks:
    """The tasks of one command, and the films they make."""

    def __init__(
        self,
        task_ids: Iterable[str],
        tell: Telling,
        *,
        folder: Path | None,
        settings: Settings,
        overwrite: bool = False,
    ) -> None:
        self.out = 0  # submissions whose answer is awaited: there are none
        self._tasks = [Task(task_id) for task_id in task_ids]
        self._tell = tell
        self._folder = folder
        self._settings = settings
        self._overwrite = overwrite

    async def wait(self, client: Client) -> int:
        """Follow them all to their end."""
        jobs = {task: client.job(task.task_id) for task in self._tasks}

        async def follow(task: Task) -> None:
            snapshot = jobs[task].snapshot
            async for snapshot in jobs[task].updates(self._settings.timeout):
                if not snapshot.done and snapshot.state is not State.UNKNOWN:
                    state, progress = snapshot.state.value, snapshot.progress
                    self._tell("state", task_id=task.task_id, state=state, progress=progress)
            await self._deliver(client, task, snapshot.result())

        return await self._each(follow)

    async def download(self, client: Client) -> int:
        """Save the films that are finished, without waiting for the others."""
        for task in self._tasks:
            _ = client.job(task.task_id)  # refuses what cannot be an id, before any request

        async def fetch(task: Task) -> None:
            snapshot = await client.poll(task.task_id)
            if snapshot.done:
                await self._deliver(client, task, snapshot.result())
                return
            task.code = RESUME
            message = f"not finished yet, {snapshot.state.value}"
            self._tell("stopped", task_id=task.task_id, error="Unfinished", message=message)

        return await self._each(fetch)

    def hurry(self, grace: float) -> None:
        """Nothing is out that would have to be waited for."""

    def tell_left(self) -> None:
        """Name what is bought and not finished."""
        for task in self._tasks:
            for answer in task.answers:  # in the order of the input, whenever it came
                self._tell.answer(answer, told=task.saved)
        ids = [task.task_id for task in self._tasks if task.code != OK and not task.hopeless]
        if ids and not self._settings.simulate:  # that service ends with this command
            into = ("-o", str(self._folder)) if self._folder else ()
            resume = call("wait", *into, *self._settings.words, names=ids)
            self._tell("unfinished", task_ids=ids, resume=resume)

    async def _deliver(self, client: Client, task: Task, result: Result) -> None:
        urls = list(result.urls)
        expires = result.expires_at and result.expires_at.isoformat(timespec="seconds")
        facts = {"task_id": task.task_id}
        self._tell("ready", **facts, urls=urls, credits=result.credits, expires_at=expires)
        if self._folder is None:
            task.answers += urls
        else:
            paths = await client.save(result, self._folder, overwrite=self._overwrite)
            task.saved = True
            self._tell("saved", **facts, paths=[str(path) for path in paths])
            task.answers += paths
        task.code = OK

    async def _each(self, act: Callable[[Task], Awaitable[None]]) -> int:
        """Let *act* happen to all at once; no task's trouble is another's."""

        async def guarded(task: Task) -> None:
            try:
                await act(task)
            except ApikleyError as error:
                self._tell_failed(task, error)

        began = asyncio.get_running_loop().time()
        ends = await asyncio.gather(*map(guarded, self._tasks), return_exceptions=True)
        self.tell_left()
        self._sum_up(asyncio.get_running_loop().time() - began)
        for end in ends:
            if isinstance(end, Exception):
                raise end  # not an error of the family: ours
        return worst(task.code or OK for task in self._tasks)

    def _tell_failed(self, task: Task, error: ApikleyError) -> None:
        task.code = exit_code(error)
        task.hopeless = isinstance(error, JobFailedError | NotFoundError | ResultExpiredError)
        self._tell(
            "stopped" if task.code == RESUME else "failed",
            task_id=task.task_id,
            error=type(error).__name__,
            code=error.code,
            message=error.message,
            advice=advice(error) or None,
        )

    def _sum_up(self, seconds: float) -> None:
        codes = Counter(task.code for task in self._tasks)
        done, later = codes[OK], codes[RESUME]
        failed = len(self._tasks) - done - later
        self._tell(
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
        self._tell.say(f"{', '.join(parts)}; {seconds:.0f} s")
