"""A run of single calls: several callers wait for one film, and some of them are cancelled.

The others must get the real outcome of the film (I14), and each saved file must be whole (I11).
There is no journal here and no machine dies; only single tasks are cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from simulation.plans import Plan
from simulation.promises import small_film
from simulation.simulation_run import SimulationRun, serving, storyboards

from apikley_async import Client, Job, Result
from apikley_async.errors import (
    ApikleyError,
    DownloadError,
    JobFailedError,
    JobTimeoutError,
    SubmissionUncertainError,
)
from apikley_async.simulator.service.file_store import changed_bytes, with_label_box

__all__ = ["CallersRun"]

AWAITERS = 3  # of each film, who are not cancelled
SHORT_TIMEOUT = 30.0  # seconds, where a film takes 40


class CallersRun(SimulationRun):
    """The run of one plan, with callers instead of a batch."""

    def __init__(self, plan: Plan, root: Path) -> None:
        super().__init__(plan, root)
        self.victims: list[asyncio.Task[Any]] = []
        self.refused: dict[str, ApikleyError] = {}  # by scene

    async def play(self) -> None:
        """One life, in which some of the waiting callers are cancelled."""
        await self.on("service", self.simulator.start())
        await self.life(None, {self.plan.cancel_at or 0: self._cancel}, ends=False)
        self._check_ledger()
        await self.on("service", self.simulator.aclose())

    def arrived(self, creation: Any) -> None:
        """Without a journal there is no intent to check."""

    def _cancel(self) -> None:
        """Cancel some of the waiting callers at random."""
        for task in self.victims:
            if self.rng.random() < 0.7:
                task.cancel()

    async def live(self) -> None:
        """The user's program."""
        client, callback = self.new_client()
        async with client, serving(callback):
            films = [self._film(client, board) for _, board in storyboards(self.plan.films)]
            await asyncio.gather(*films)

    async def _film(self, client: Client, board: Any) -> None:
        try:
            job = await client.submit(board)
        except SubmissionUncertainError:
            return  # it may be paid; it must not be paid again
        except ApikleyError as error:
            self.refused[board.shots[0].scene] = error  # then it is not paid
            return
        left, hasty = [], []
        kinds = ["stays"] * AWAITERS + ["hurries", "waits", "saves", "watches"]
        self.rng.shuffle(kinds)  # the first one polls for all
        for kind in kinds:
            if kind == "stays":
                left.append(asyncio.create_task(self._wait(client, job)))
            elif kind == "hurries":
                hasty.append(asyncio.create_task(job.wait(timeout=SHORT_TIMEOUT)))
            elif kind == "waits":
                self.victims.append(asyncio.create_task(job.wait()))
            elif kind == "saves":
                self.victims.append(asyncio.create_task(self._wait(client, job)))
            else:
                self.victims.append(asyncio.create_task(self._watch(job)))
        for end in await asyncio.gather(*left, return_exceptions=True):
            self._check_outcome(job, end)
        [end] = await asyncio.gather(*hasty, return_exceptions=True)
        if not isinstance(end, JobTimeoutError):
            self._check_outcome(job, end)

    async def _wait(self, client: Client, job: Job) -> Result:
        """Wait and save, while others save the same film under the same name."""
        result = await job
        with contextlib.suppress(DownloadError):  # links expire, and files change
            for path in await client.save(result, self.disk.place / "films", overwrite=True):
                self._check_file(job, path)
        return result

    async def _watch(self, job: Job) -> None:
        async for _ in job.updates():
            pass

    # --- checks -----------------------------------------------------------------------------------

    def _broken(self, promise: str) -> None:
        self.report.broken.append(promise)

    def _check_outcome(self, job: Job, end: Any) -> None:
        """The outcome of a caller is the outcome of the film at the service."""
        task = self.simulator.service.task(job.task_id)
        failed = task is None or task.failure is not None
        if isinstance(end, Result if not failed else JobFailedError):
            return
        lies = any(name in ("fail for now", "another's failure") for name in self.struck)
        if isinstance(end, JobFailedError) and lies:
            return  # two polls have reported it
        lies_or_late = (JobFailedError, JobTimeoutError)  # half an hour, for a film of 40 seconds
        troubled = isinstance(end, ApikleyError) and not isinstance(end, lies_or_late)
        if troubled and self.struck:
            return  # no link for minutes, and the like
        shown = f"{type(end).__name__}: {end}"
        self._broken(
            f"I14: {job.task_id} is {'failed' if failed else 'made'}; a caller got {shown}"
        )

    @property
    def struck(self) -> set[str]:
        """The faults that struck."""
        return {entry.fault for entry in self.simulator.ledger.faults}

    def _check_file(self, job: Job, path: Path) -> None:
        film = with_label_box(small_film(), f"{job.task_id} 1")
        changed = sum(entry.fault == "changed" for entry in self.simulator.ledger.faults)
        data = path.read_bytes()
        if "odd tail" in self.struck:
            data = data.removesuffix(b"\r\n")
        if data not in [changed_bytes(film, n) for n in range(changed + 1)]:
            self._broken(f"I11: {path.name} has other bytes than its film")

    def _check_ledger(self) -> None:
        ledger: Any = self.simulator.ledger
        scenes = [str(charge.body["input"]) for charge in ledger.paid]
        if len({*scenes}) != len(scenes):
            self._broken("I1: a film was paid twice")
        for charge in ledger.paid:
            scene = charge.body["input"]["shots"][0]["Scene"]
            if scene in self.refused:
                self._broken(f"I2: {charge.task_id} is paid, and reported as refused")
        if ledger.leaks:
            self._broken("I8: a file host was sent the key")
        self.report.paid = len(ledger.paid)
