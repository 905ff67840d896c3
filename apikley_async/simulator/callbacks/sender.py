"""Sends callbacks: notices when a task ends and reports it to the task's callback URL.

Each callback is sent by an asyncio task of its own that ends with the simulator. While no task
has a callback URL, nothing runs and nothing waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Literal

import attrs

from apikley_async import Clock
from apikley_async.simulator.callbacks.signed_request import sign_callback
from apikley_async.simulator.faults.catalogue import Fault, ResponseDelivery
from apikley_async.simulator.faults.schedule import FaultSchedule
from apikley_async.simulator.outbound import OutboundClient
from apikley_async.simulator.service.ledger import CallbackDelivery
from apikley_async.simulator.service.lifecycle import SimulatedTask
from apikley_async.simulator.service.responses import ResponseBuilder, ServiceResponse
from apikley_async.simulator.service.service import Service

__all__ = ["CallbackSender"]

logger: logging.Logger = logging.getLogger("apikley_async")

SHORTEST_WAIT = 0.001
"""Seconds. Without it, a wait for an end that rounding puts at now would spin."""

OVERTAKEN_AFTER = 60.0
"""Seconds after which a callback that waits to be overtaken is sent all the same."""


class CallbackSender:
    """Sends callbacks until it is closed.

    Args:
        service: whose tasks are watched.
        schedule: which fault strikes the next callback.
        outbound: sends the requests.
        clock: the receivers' time.
        key: signs the callbacks; without one they are not signed.
    """

    def __init__(
        self,
        service: Service,
        schedule: FaultSchedule,
        outbound: OutboundClient,
        *,
        clock: Clock,
        key: str | None = None,
    ) -> None:
        self._service, self._schedule, self._outbound = service, schedule, outbound
        self._clock, self._key = clock, key
        self._responses = ResponseBuilder(service.terms, service.clock)
        self._awaited: set[str] = set()
        self._warned = False
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._another_sent = asyncio.Event()
        self._earlier_hooks = service.on_finished, service.on_end_known
        service.on_finished, service.on_end_known = self._on_finished, self._on_end_known

    def watch(self, task: SimulatedTask) -> None:
        """Notice the end of *task* in time, if it has a callback URL that may be called."""
        if not self._reachable(task):
            return
        if task.ended(self._service.clock.now()):
            self._service.update()
            return
        self._awaited.add(task.task_id)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch_ends(), name="watch for ended films")
        self._changed.set()

    async def wait_until_sent(self, task_id: str) -> None:
        """Wait until the callback of a task has been answered, or given up."""
        if (sending := self._sending.get(task_id)) is not None:
            await asyncio.wait([sending])

    async def clear(self) -> None:
        """Drop every callback that is being sent or still due."""
        self._awaited.clear()
        ending = [*self._sending.values(), *([self._watcher] if self._watcher else [])]
        self._sending.clear()
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def aclose(self) -> None:
        """Stop watching and drop every callback."""
        self._service.on_finished, self._service.on_end_known = self._earlier_hooks
        await self.clear()

    # -- watching ----------------------------------------------------------------------------

    async def _watch_ends(self) -> None:
        service = self._service
        while self._awaited:
            self._changed.clear()
            end = service.next_end()
            if end is None:  # a film is being rendered, which takes nobody knows how long
                await self._changed.wait()
            else:
                wait = service.clock.caller_seconds(end - service.clock.now())
                await self._clock.sleep(max(SHORTEST_WAIT, wait), self._changed)
            service.update()

    def _on_end_known(self) -> None:
        self._changed.set()

    def _on_finished(self, task: SimulatedTask) -> None:
        if self._earlier_hooks[0] is not None:
            self._earlier_hooks[0](task)
        self._awaited.discard(task.task_id)
        self._changed.set()
        if task.request.callback_url is None or self._service.terms.callbacks == "none":
            return
        if not self._reachable(task):
            if not self._warned:
                self._warned = True
                logger.warning("a callback was not sent: its host is not one of the allowed hosts")
            now = self._service.clock.now()
            self._service.ledger.callbacks.append(_unsent(task, "forbidden", now))
            return
        # The body describes this moment, however late the callback is sent.
        urls = self._service.files.result_urls(task)
        report = self._responses.callback(task, urls, self._service.credits)
        self._start(task.task_id, self._send(task, report))

    def _reachable(self, task: SimulatedTask) -> bool:
        url = task.request.callback_url
        return (
            url is not None
            and self._service.terms.callbacks != "none"
            and self._outbound.allows(url)
        )

    def _start(self, task_id: str, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending, name=f"callback of {task_id}")
        self._sending[task_id] = task
        task.add_done_callback(lambda done: self._sending.pop(task_id, None))

    # -- sending -----------------------------------------------------------------------------

    async def _send(self, task: SimulatedTask, report: ServiceResponse) -> None:
        service = self._service
        fault = self._schedule.next("callback", task.task_id, now=service.clock.now())
        service.note_arrival("callback", fault.name)
        if not fault.processed:
            lost = _unsent(task, "lost", service.clock.now(), fault)
            service.ledger.callbacks.append(lost)
            return
        if fault.mutation == "other task":
            fault = attrs.evolve(fault, value=service.other_task_id(task.task_id))
        await self._pause(service.latency("callback") + fault.hold + fault.delay)
        if fault.mutation == "overtaken":
            await self._clock.sleep(OVERTAKEN_AFTER, self._another_sent)
        for copy in range(fault.times):
            await self._send_copy(task, report, fault, copy)

    async def _send_copy(
        self, task: SimulatedTask, report: ServiceResponse, fault: Fault, copy: int
    ) -> None:
        """Send one copy, and retry until it is answered with 2xx or the retries are used up."""
        service, terms = self._service, self._service.terms
        url = task.request.callback_url or ""
        for attempt, delay in enumerate((0.0, *terms.callback_retries), start=1):
            await self._pause(service.clock.caller_seconds(delay))
            at = service.clock.now()
            if fault.mutation == "missed":  # lost in transit, so it is retried like any other
                missed = attrs.evolve(_unsent(task, "lost", at, fault), attempt=attempt)
                service.ledger.callbacks.append(missed)
                fault = self._schedule.next("callback", task.task_id, now=at)
                continue
            request = sign_callback(
                report,
                fault,
                task_id=task.task_id,
                key=self._key,
                now=service.clock.timestamp(at),
                copy=copy,
            )
            status = await self._outbound.post(
                url, request.body, dict(request.headers), timeout=terms.callback_timeout
            )
            if attempt == 1 and fault.delivery is not ResponseDelivery.WHOLE:
                status = None
            service.ledger.callbacks.append(
                CallbackDelivery(
                    at,
                    task.task_id,
                    "unanswered" if status is None else "answered",
                    url,
                    request.task_id,
                    attempt,
                    status,
                    fault.name,
                )
            )
            if attempt == 1 and fault.mutation != "overtaken":
                self._another_sent.set()
                self._another_sent = asyncio.Event()
            if status is not None and 200 <= status < 300:
                return

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await self._clock.sleep(seconds)


def _unsent(
    task: SimulatedTask, outcome: Literal["lost", "forbidden"], now: float, fault: Fault = Fault.OK
) -> CallbackDelivery:
    url = task.request.callback_url or ""
    return CallbackDelivery(now, task.task_id, outcome, url, task.task_id, fault=fault.name)
