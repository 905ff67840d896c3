"""The test service: one test's simulator and its clients, opened and closed in the test's loop."""

from __future__ import annotations

import asyncio
import copy
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest

from apikley_async import Backoff, Client, Environment, RateLimiter
from apikley_async.pytest_plugin.marker_options import MarkerOptions
from apikley_async.testing import LoopClock
from apikley_async.virtual import VirtualLoop

if TYPE_CHECKING:  # as in `marker_options`
    from apikley_async.simulator import RandomFaults, Simulator, Terms

__all__ = ["RUNNING_SERVICE", "RunningService", "run_service"]

SHOWN_CREATIONS = 10  # in the report of a failed test


class _LoopTime(LoopClock):
    """Reads the time of one loop, also outside of it: the report is made after the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(wall=time.time() - loop.time())
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()


@attrs.frozen(eq=False)
class RunningService:
    """A running simulator, its clock, and what must be closed before it."""

    simulator: Simulator
    options: MarkerOptions
    clock: LoopClock
    virtual: bool
    closing: AsyncExitStack

    def client(self) -> Client:
        """Make a client with the service's clock and speed. It is closed with the service."""
        speed, clock = self.options.service_speed, self.clock
        rng = Random(f"{self.options.seed} client")
        client = Client(
            self.simulator.api_key,
            base_url=self.simulator.base_url,
            limiter=RateLimiter(per=10 / speed, clock=clock, rng=rng),
            polling=Backoff(initial=2 / speed, maximum=20 / speed),
            environment=Environment(clock=clock, rng=rng),
        )
        self.closing.push_async_callback(client.aclose)
        return client

    def report(self) -> str:
        """What the service recorded, in a few lines."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        service, ledger = self.simulator.service, self.simulator.ledger
        now = service.clock.now()
        kind = "virtual" if self.virtual else "the service's"
        yield f"{now:.1f} s of {kind} time, seed {self.options.seed}"
        yield f"{len(ledger.paid)} paid, {ledger.credits_spent:g} credits; tasks: " + _counted(
            task.state(now) for task in service.tasks
        )
        yield "creations: " + _counted(
            each.outcome + (f" ({each.code})" if each.outcome == "refused" else "")
            for each in ledger.creations
        )
        if len(ledger.creations) > SHOWN_CREATIONS:
            yield f"  ... and {len(ledger.creations) - SHOWN_CREATIONS} before these:"
        for each in ledger.creations[-SHOWN_CREATIONS:]:
            yield f"  {each.at:8.1f} s  {each.outcome}  {each.task_id or each.code}  {each.fault}"
        yield f"polls: {ledger.polls.total()}; file requests: {len(ledger.files)}"
        yield "faults: " + _counted(f"{each.endpoint} {each.fault}" for each in ledger.faults)


def _counted(words: Iterator[str]) -> str:
    counts = Counter(words)
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"


RUNNING_SERVICE = pytest.StashKey[RunningService]()


@asynccontextmanager
async def run_service(
    options: MarkerOptions, terms: Terms, faults: RandomFaults | None
) -> AsyncIterator[RunningService]:
    """Start a simulator in the running loop; at the end close it and its clients."""
    from apikley_async.simulator import Simulator

    loop = asyncio.get_running_loop()
    clock = _LoopTime(loop)
    simulator = Simulator(
        options.terms or terms,
        # A copy, because a marker's value is shared by tests and its generators have a state.
        faults=copy.deepcopy(options.faults or faults),
        renderer=options.renderer,
        webhook_key=options.webhook_key,
        hosts=("localhost",),  # the receivers of the test itself
        speed=options.service_speed,
        clock=clock,
        rng=Random(f"{options.seed} world"),
    )
    async with AsyncExitStack() as closing:
        await closing.enter_async_context(simulator)
        virtual = isinstance(loop, VirtualLoop)
        yield RunningService(simulator, options, clock, virtual, closing)
