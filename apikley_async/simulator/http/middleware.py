"""What every request to the simulator passes: the road, the books, the faults, the courier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs
from aiohttp import web

from apikley_async import Clock
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import Director
from apikley_async.simulator.http.delivery import Courier
from apikley_async.simulator.service.responses import Answer, Speller
from apikley_async.simulator.service.service import World
from apikley_async.simulator.service.terms import Endpoint

__all__ = ["Act", "Front"]

Act = Callable[[], Awaitable[Answer]]
"""Does what a request asks for, and says what came of it."""


class Front:
    """Lets the faults in between requests and what is done about them."""

    def __init__(self, world: World, clock: Clock, director: Director) -> None:
        self.world = world
        self.speller = Speller(world.terms, world.time)
        self.director = director
        self.courier = Courier(clock)
        self._queue: dict[asyncio.Task[Answer], None] = {}

    async def arrival(self, endpoint: Endpoint, task_id: str | None = None) -> Fault:
        """Wait until a request has arrived; what happens to it there, and on its way back."""
        half = self.world.travel(endpoint) / 2
        if half and not await self.courier.pause(half):
            return Fault.RESET
        fault = self.director.next(endpoint, task_id, now=self.world.time.now())
        self.world.note_arrival(endpoint, fault.name)
        return attrs.evolve(fault, seconds=fault.seconds + half) if half else fault

    async def answer(self, request: web.Request, fault: Fault, act: Act) -> web.StreamResponse:
        """Let *act* answer, as far as *fault* permits, and send what is left of the answer."""
        answer = await self._acted(fault, act) if fault.acted else None
        if fault.throttle is not None:
            bent = self.speller.throttled(fault.throttle, float(fault.value))
        else:
            bent = fault.bend(answer)
        return await self.send(request, bent, fault)

    async def send(
        self, request: web.Request, answer: Answer, fault: Fault = Fault.OK
    ) -> web.StreamResponse:
        """Send *answer* in the way that *fault* says."""
        now = self.world.time.stamp(self.world.time.now())
        return await self.courier.deliver(request, answer, fault, date=now)

    async def _acted(self, fault: Fault, act: Act) -> Answer:
        for _ in range(fault.times - 1):
            await act()
        if not fault.hold:
            return await act()
        # What lies in a queue is done even if the caller has gone meanwhile.
        queued = asyncio.create_task(self._held(fault.hold, act))
        self._queue[queued] = None
        queued.add_done_callback(self._queue.pop)
        return await asyncio.shield(queued)

    async def _held(self, seconds: float, act: Act) -> Answer:
        await self.courier.pause(seconds)
        return await act()

    async def aclose(self) -> None:
        """Let go of every request that waits, and forget what is still queued."""
        queued = list(self._queue)
        for task in queued:
            task.cancel()
        await asyncio.gather(*queued, return_exceptions=True)
        self.courier.close()
