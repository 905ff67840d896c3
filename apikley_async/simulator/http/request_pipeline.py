"""What every request passes: latency, the ledger, the fault schedule, and the response sender."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs
from aiohttp import web

from apikley_async import Clock
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import FaultSchedule
from apikley_async.simulator.http.response_sender import ResponseSender
from apikley_async.simulator.service.responses import ResponseBuilder, ServiceResponse
from apikley_async.simulator.service.service import Service
from apikley_async.simulator.service.terms import Endpoint

__all__ = ["Process", "RequestPipeline"]

Process = Callable[[], Awaitable[ServiceResponse]]
"""Processes one request and returns the true response."""


class RequestPipeline:
    """Lets faults strike between a request, its processing and its response.

    Args:
        service: notes arrivals and draws latencies.
        clock: the callers' time.
        schedule: which fault strikes the next request.
    """

    def __init__(self, service: Service, clock: Clock, schedule: FaultSchedule) -> None:
        self.service = service
        self.responses: ResponseBuilder = ResponseBuilder(service.terms, service.clock)
        self._schedule = schedule
        self._sender = ResponseSender(clock)
        self._queued: dict[asyncio.Task[ServiceResponse], None] = {}

    async def receive(self, endpoint: Endpoint, task_id: str | None = None) -> Fault:
        """Wait until a request has arrived; the fault that strikes it or its response."""
        half = self.service.latency(endpoint) / 2
        if half and not await self._sender.pause(half):
            return Fault.RESET
        fault = self._schedule.next(endpoint, task_id, now=self.service.clock.now())
        self.service.note_arrival(endpoint, fault.name)
        return attrs.evolve(fault, delay=fault.delay + half) if half else fault

    async def respond(
        self, request: web.Request, fault: Fault, process: Process
    ) -> web.StreamResponse:
        """Process a request unless *fault* drops it, and send what is left of the response."""
        response = await self._process(fault, process) if fault.processed else None
        if fault.throttle is not None:
            changed = self.responses.throttled(fault.throttle, float(fault.value))
        else:
            changed = fault.apply(response)
        return await self.send(request, changed, fault)

    async def send(
        self, request: web.Request, response: ServiceResponse, fault: Fault = Fault.OK
    ) -> web.StreamResponse:
        """Send *response* in the way of *fault*."""
        now = self.service.clock.timestamp(self.service.clock.now())
        return await self._sender.send(request, response, fault, date=now)

    async def _process(self, fault: Fault, process: Process) -> ServiceResponse:
        for _ in range(fault.times - 1):
            await process()
        if not fault.hold:
            return await process()
        # A queued request is processed even if its caller has gone meanwhile.
        queued = asyncio.create_task(self._process_later(fault.hold, process))
        self._queued[queued] = None
        queued.add_done_callback(self._queued.pop)
        return await asyncio.shield(queued)

    async def _process_later(self, seconds: float, process: Process) -> ServiceResponse:
        await self._sender.pause(seconds)
        return await process()

    async def aclose(self) -> None:
        """End every waiting request and drop the queued ones."""
        queued = list(self._queued)
        for task in queued:
            task.cancel()
        await asyncio.gather(*queued, return_exceptions=True)
        self._sender.close()
