"""The tour: six storyboards as a batch on the embedded service; stop it anywhere, run it again.

The journal lies with the films. Since the embedded service ends with the command, the next run
lets a new one know of the tasks that were bought, and the batch goes on as with the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import attrs

from apikley_async._disk import open_own
from apikley_async.batch import Batch, Plan, State, work_of
from apikley_async.cli.client_factory import Session
from apikley_async.cli.embedded import Known, Stage
from apikley_async.cli.engine import BatchRun, Order
from apikley_async.cli.exit_codes import Refused
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import Telling, count, plain
from apikley_async.cli.placement import Place
from apikley_async.errors import JournalError

__all__ = ["Tour"]

BOUGHT = (State.SUBMITTED, State.STALLED, State.SUCCESS)


def key_beside(journal: Path) -> str:
    """The embedded service's key, which its journal belongs to: made once, kept with it. Blocks.

    Raises:
        Refused: the file is not ours, or cannot be read or written.
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
        raise Refused(f"{plain(path)}: {error.strerror}") from None


class Tour:
    """The films of the shipped storyboards *files*, in *folder*."""

    def __init__(self, files: Sequence[Path], folder: Path, stage: Stage, tell: Telling) -> None:
        self._files = files
        self._stage = stage
        self._tell = tell
        self._folder = folder
        self._journal = folder / "demo.db"
        self._finished = False
        order = Order(
            place=Place(self._journal),
            plan=self._plan,
            named=f"The demo, in {folder}",
            folder=folder,
        )
        self.running = BatchRun(order, Settings(simulate=True), tell)

    @contextlib.asynccontextmanager
    async def opening(self) -> AsyncIterator[Session]:
        """Serve, knowing of the tasks that an earlier run has bought."""
        key = await asyncio.to_thread(key_beside, self._journal)
        stage = attrs.evolve(self._stage, key=key)
        async with stage.session(await self._bought()) as session:
            yield session

    async def flow(self, own: Session) -> int:
        """Make the films that are not made yet, and give the exit code."""
        code = await self.running.flow(own)
        if self._finished:
            code = await self._tell_finished()
        return code

    async def _plan(self, batch: Batch) -> Plan:
        plan = await batch.add_films(self._files)
        status = await batch.status()
        self._finished = status.finished
        if plan.known:
            stands = (f"{count(number)} {state.value}" for state, number in status.counts.items())
            self._tell.say(f"{self._journal} knows of an earlier run: {', '.join(stands)}.")
        return plan

    async def _tell_finished(self) -> int:
        """Nothing is made twice: not even where the film itself has been removed since."""
        async with Batch.open(self._journal, read_only=True) as batch:
            faults = await batch.verify()
        for fault in faults:
            self._tell.say(fault)
        self._tell.say("The batch was finished, so nothing was submitted.")
        self._tell.say(f"To see it again: another folder (-o), or remove {self._folder}")
        return 1 if faults else 0

    async def _bought(self) -> list[Known]:
        if not self._journal.exists():
            return []
        try:
            async with Batch.open(self._journal, read_only=True) as batch:
                return [
                    Known(item.task_id, work_of(item), item.state is State.SUCCESS)
                    async for item in batch.items(*BOUGHT)
                    if item.task_id
                ]
        except JournalError:  # of an older version, or none: the run will tell
            return []
