"""The tour: six storyboards as a batch on the embedded service; stop it anywhere, run it again.

The journal lies with the films. Since the embedded service ends with the command, the next run
lets a new one know of the tasks that were bought, and the batch goes on as with the real one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from apikley_async import ModelTask, Storyboard
from apikley_async.batch import Batch, State
from apikley_async.cli._batches import BatchRun, Bounds
from apikley_async.cli._films import call
from apikley_async.cli._options import Settings
from apikley_async.cli._session import Session
from apikley_async.cli._stage import Known, Stage
from apikley_async.cli._telling import Telling, count
from apikley_async.errors import JournalError

__all__ = ["Tour"]

BOUGHT = (State.SUBMITTED, State.STALLED, State.SUCCESS)


class Tour:
    """The films of *works*, by key, in *folder*."""

    def __init__(
        self, works: Mapping[str, Storyboard | ModelTask], folder: Path, stage: Stage
    ) -> None:
        self._works = works
        self._folder = folder
        self._stage = stage
        self._journal = folder / "demo.db"
        self._running = BatchRun(
            self._journal,
            folder,
            Settings(simulate=True),
            resume=call("demo", "-o", str(folder)),
        )

    @property
    def running(self) -> BatchRun:
        """What is asked when the tour is stopped."""
        return self._running

    @contextlib.asynccontextmanager
    async def opening(self) -> AsyncIterator[Session]:
        """Serve, knowing of the tasks that an earlier run has bought."""
        async with self._stage.session(await self._bought()) as session:
            yield session

    async def run(self, own: Session, tell: Telling) -> int:
        """Make the films that are not made yet, and give the exit code."""
        async with Batch.open(self._journal) as batch:
            plan = await batch.add(self._works.items())
            if plan.known:
                tell.say(f"{self._journal} knows of an earlier run: {await standing(batch)}.")
            finished = (await batch.status()).finished
            code = await self._running.run(own, batch, Bounds(), tell)
            if finished:
                code = await self._tell_finished(batch, tell)
        return code

    async def _tell_finished(self, batch: Batch, tell: Telling) -> int:
        """Nothing is made twice: not even where the film itself has been removed since."""
        faults = await batch.verify()
        for fault in faults:
            tell.say(fault)
        tell.say("The batch was finished, so nothing was submitted.")
        tell.say(f"To see it again: another folder (-o), or remove {self._folder}")
        return 1 if faults else 0

    async def _bought(self) -> list[Known]:
        if not self._journal.exists():
            return []
        try:
            async with Batch.open(self._journal, read_only=True) as batch:
                return [
                    Known(item.task_id, self._works[item.key], item.state is State.SUCCESS)
                    async for item in batch.items(*BOUGHT)
                    if item.task_id and item.key in self._works
                ]
        except JournalError:  # of an older version, or none: the run will tell
            return []


async def standing(batch: Batch) -> str:
    """Where the films of a batch stand, in words."""
    counts = (await batch.status()).counts
    return ", ".join(f"{count(number)} {state.value}" for state, number in counts.items())
