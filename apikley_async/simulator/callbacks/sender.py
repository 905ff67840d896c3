"""Sends the callbacks of a world: sees when a task ends, and tells who wanted to know.

Every delivery is a task of its own that ends with the simulator. Where nobody has to be told,
nothing runs and nothing waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Literal

import attrs

from apikley_async import Clock
from apikley_async.simulator.callbacks.messages import letter
from apikley_async.simulator.faults.catalogue import Delivery, Fault
from apikley_async.simulator.http.middleware import Front
from apikley_async.simulator.outbound import Outside
from apikley_async.simulator.service.ledger import Callback
from apikley_async.simulator.service.lifecycle import Task
from apikley_async.simulator.service.responses import Answer

__all__ = ["Postman"]

logger = logging.getLogger("apikley_async")

SHORTEST = 0.001
"""Seconds: whoever waits for what is due by a rounding would otherwise spin."""

OVERTAKING = 60.0
"""Seconds after which a callback that waits to be overtaken leaves all the same."""


class Postman:
    """Delivers until it is closed. *key* signs; without one nothing is signed."""

    def __init__(
        self, front: Front, outside: Outside, *, clock: Clock, key: str | None = None
    ) -> None:
        self._front, self._outside, self._clock, self._key = front, outside, clock, key
        self._world = world = front.world
        self._awaited: set[str] = set()
        self._warned = False
        self._work: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._passing = asyncio.Event()
        self._earlier = world.on_finished, world.on_foreseen
        world.on_finished, world.on_foreseen = self._finished, self._foreseen

    def expect(self, task: Task) -> None:
        """See to it that the end of *task* is noticed in time, if anybody has to be told of it."""
        if not self._reachable(task):
            return
        if task.ended(self._world.time.now()):
            self._world.settle()
            return
        self._awaited.add(task.task_id)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look_out(), name="the ends of films")
        self._news.set()

    async def delivered(self, task_id: str) -> None:
        """Wait until the callback of a task has been answered, or given up."""
        if (work := self._work.get(task_id)) is not None:
            await asyncio.wait([work])

    async def clear(self) -> None:
        """Drop everything that is on its way, or to be sent."""
        self._awaited.clear()
        ending = [*self._work.values(), *([self._watch] if self._watch else [])]
        self._work.clear()
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def aclose(self) -> None:
        """End all of it."""
        self._world.on_finished, self._world.on_foreseen = self._earlier
        await self.clear()

    # -- noticing ----------------------------------------------------------------------------

    async def _look_out(self) -> None:
        world = self._world
        while self._awaited:
            self._news.clear()
            end = world.next_finish()
            if end is None:  # a film is being made, nobody knows how long
                await self._news.wait()
            else:
                wait = world.time.outside(end - world.time.now())
                await self._clock.sleep(max(SHORTEST, wait), self._news)
            world.settle()

    def _foreseen(self) -> None:
        self._news.set()

    def _finished(self, task: Task) -> None:
        if self._earlier[0] is not None:
            self._earlier[0](task)
        self._awaited.discard(task.task_id)
        self._news.set()
        if task.order.callback_url is None or self._world.terms.callbacks == "none":
            return
        if not self._reachable(task):
            if not self._warned:
                self._warned = True
                logger.warning("a callback was not sent: its host is not among the named ones")
            self._world.ledger.callbacks.append(_unsent(task, "forbidden", self._world.time.now()))
            return
        # What it says is the truth of this moment, however late it is said.
        urls = self._world.files.result_urls(task)
        said = self._front.speller.callback(task, urls, self._world.credits)
        self._begin(task.task_id, self._deliver(task, said))

    def _reachable(self, task: Task) -> bool:
        url = task.order.callback_url
        return (
            url is not None and self._world.terms.callbacks != "none" and self._outside.allows(url)
        )

    def _begin(self, task_id: str, delivery: Coroutine[Any, Any, None]) -> None:
        work = self._work[task_id] = asyncio.create_task(delivery, name=f"callback of {task_id}")
        work.add_done_callback(lambda done: self._work.pop(task_id, None))

    # -- sending -----------------------------------------------------------------------------

    async def _deliver(self, task: Task, said: Answer) -> None:
        world = self._world
        fault = self._front.director.next("callback", task.task_id, now=world.time.now())
        world.note_arrival("callback", fault.name)
        if not fault.acted:
            lost = _unsent(task, "lost", world.time.now(), fault)
            world.ledger.callbacks.append(lost)
            return
        if fault.twist == "other task":
            fault = attrs.evolve(fault, value=world.neighbour(task.task_id))
        await self._front.courier.pause(world.travel("callback") + fault.hold + fault.seconds)
        if fault.twist == "overtaken":
            await self._clock.sleep(OVERTAKING, self._passing)
        for copy in range(fault.times):
            await self._bring(task, said, fault, copy)

    async def _bring(self, task: Task, said: Answer, fault: Fault, copy: int) -> None:
        """Send one callback, and again while it is not answered with 2xx."""
        world, terms = self._world, self._world.terms
        url = task.order.callback_url or ""
        for attempt, pause in enumerate((0.0, *terms.callback_retries), start=1):
            await self._front.courier.pause(world.time.outside(pause))
            at = world.time.now()
            if fault.twist == "missed":  # on its way; whoever sends it tries again, as ever
                missed = attrs.evolve(_unsent(task, "lost", at, fault), attempt=attempt)
                world.ledger.callbacks.append(missed)
                fault = self._front.director.next("callback", task.task_id, now=at)
                continue
            sent = letter(
                said,
                fault,
                task_id=task.task_id,
                key=self._key,
                now=world.time.stamp(at),
                copy=copy,
            )
            status = await self._outside.post(
                url, sent.body, dict(sent.headers), timeout=terms.callback_timeout
            )
            if attempt == 1 and fault.delivery is not Delivery.WHOLE:
                status = None
            outcome: Outcome = "unanswered" if status is None else "answered"
            entry = Callback(at, task.task_id, outcome, url, sent.told, attempt, status, fault.name)
            world.ledger.callbacks.append(entry)
            if attempt == 1 and fault.twist != "overtaken":
                self._passing.set()
                self._passing = asyncio.Event()
            if status is not None and 200 <= status < 300:
                return


Outcome = Literal["answered", "unanswered"]


def _unsent(
    task: Task, outcome: Literal["lost", "forbidden"], now: float, fault: Fault = Fault.OK
) -> Callback:
    url = task.order.callback_url or ""
    return Callback(now, task.task_id, outcome, url, task.task_id, fault=fault.name)
