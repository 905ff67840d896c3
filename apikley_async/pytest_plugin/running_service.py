"""The test service: one test's simulator and its clients.

Both live in the loop of an async test, and are closed there. For any other test the simulator
runs in a thread, in real time, and a client in whatever loop the test gives it.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from random import Random
from typing import TYPE_CHECKING, Self

import attrs
import pytest

from apikley_async import Backoff, Client, Clock, Environment, RateLimiter, SystemClock
from apikley_async.pytest_plugin.marker_options import MarkerOptions
from apikley_async.testing import LoopClock
from apikley_async.virtual import VirtualLoop

if TYPE_CHECKING:  # as in `marker_options`
    from apikley_async.simulator import RandomFaults, Simulator, Terms

__all__ = ["RUNNING_SERVICE", "RunningService", "run_service", "run_service_in_thread"]

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
    """A running simulator, its clock, and what must be closed before it; None in a thread."""

    simulator: Simulator
    options: MarkerOptions
    clock: Clock
    virtual: bool
    closing: AsyncExitStack | None

    def enter(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Lead the clients that the program makes itself here, without a real key; report."""
        monkeypatch.setenv("APIKLEY_API_KEY", self.simulator.api_key)
        monkeypatch.setenv("APIKLEY_BASE_URL", self.simulator.base_url)
        request.node.stash[RUNNING_SERVICE] = self
        return self

    def client(self) -> Client:
        """Make a client with the service's clock and speed.

        It is closed with the service, unless that runs in a thread: the loop that uses it is the
        test's, and only there it can be closed.
        """
        speed, clock = self.options.service_speed, self.clock
        rng = Random(f"{self.options.seed} client")
        client = Client(
            self.simulator.api_key,
            base_url=self.simulator.base_url,
            limiter=RateLimiter(per=10 / speed, clock=clock, rng=rng),
            polling=Backoff(initial=2 / speed, maximum=20 / speed),
            environment=Environment(clock=clock, rng=rng),
        )
        if self.closing is not None:
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
    loop = asyncio.get_running_loop()
    clock = _LoopTime(loop)
    async with AsyncExitStack() as closing:
        simulator = await closing.enter_async_context(_simulator(options, terms, faults, clock))
        virtual = isinstance(loop, VirtualLoop)
        yield RunningService(simulator, options, clock, virtual, closing)


@contextmanager
def run_service_in_thread(
    options: MarkerOptions, terms: Terms, faults: RandomFaults | None
) -> Iterator[RunningService]:
    """Start a simulator in a thread, in real time; at the end close it."""
    options, clock = attrs.evolve(options, virtual=False), SystemClock()
    with _simulator(options, terms, faults, clock) as simulator:
        yield RunningService(simulator, options, clock, virtual=False, closing=None)


def _simulator(
    options: MarkerOptions, terms: Terms, faults: RandomFaults | None, clock: Clock
) -> Simulator:
    from apikley_async.simulator import Simulator

    return Simulator(
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
