"""One test's service and what belongs to it: opened in the loop of the test, and closed there."""

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
from apikley_async.pytest_plugin.marker_options import Wishes
from apikley_async.testing import LoopClock
from apikley_async.virtual import VirtualLoop

if TYPE_CHECKING:  # as in `_wishes`
    from apikley_async.simulator import Faults, Simulator, Terms

__all__ = ["STAGE", "Stage", "set_up"]

TOLD = 10  # creations that a failed test shows


class _TestClock(LoopClock):
    """Tells the time of one loop, also to whoever looks at the world when the test is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(wall=time.time() - loop.time())
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()


@attrs.frozen(eq=False)
class Stage:
    """A running simulator, its clock, and what is to be closed before it."""

    simulator: Simulator
    wishes: Wishes
    clock: LoopClock
    virtual: bool
    closing: AsyncExitStack

    def client(self) -> Client:
        """Make a client that keeps the world's time, and is closed with it."""
        pace, clock, rng = self.wishes.pace, self.clock, Random(f"{self.wishes.seed} client")
        client = Client(
            self.simulator.api_key,
            base_url=self.simulator.base_url,
            limiter=RateLimiter(per=10 / pace, clock=clock, rng=rng),
            polling=Backoff(initial=2 / pace, maximum=20 / pace),
            environment=Environment(clock=clock, rng=rng),
        )
        self.closing.push_async_callback(client.aclose)
        return client

    def tell(self) -> str:
        """What the service saw, in a few lines."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        world, ledger = self.simulator.world, self.simulator.ledger
        now = world.time.now()
        kind = "virtual" if self.virtual else "the service's"
        yield f"{now:.1f} s of {kind} time, seed {self.wishes.seed}"
        yield f"{len(ledger.paid)} paid, {ledger.credits_spent:g} credits; tasks: " + _counted(
            task.state(now) for task in world.tasks
        )
        yield "creations: " + _counted(
            each.verdict + (f" ({each.code})" if each.verdict == "refused" else "")
            for each in ledger.creations
        )
        if len(ledger.creations) > TOLD:
            yield f"  ... and {len(ledger.creations) - TOLD} before these:"
        for each in ledger.creations[-TOLD:]:
            yield f"  {each.at:8.1f} s  {each.verdict}  {each.task_id or each.code}  {each.fault}"
        yield f"looks: {ledger.looks.total()}; file requests: {len(ledger.files)}"
        yield "faults: " + _counted(f"{each.endpoint} {each.fault}" for each in ledger.mishaps)


def _counted(words: Iterator[str]) -> str:
    counts = Counter(words)
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"


STAGE = pytest.StashKey[Stage]()


@asynccontextmanager
async def set_up(wishes: Wishes, terms: Terms, faults: Faults | None) -> AsyncIterator[Stage]:
    """Start a simulator in the running loop; close it, and whatever was added, at the end."""
    from apikley_async.simulator import Simulator

    loop = asyncio.get_running_loop()
    clock = _TestClock(loop)
    simulator = Simulator(
        wishes.terms or terms,
        # The dice of a marker would roll on from test to test.
        faults=copy.deepcopy(wishes.faults or faults),
        films=wishes.films,
        webhook_key=wishes.webhook_key,
        hosts=("localhost",),  # the receivers of the test itself
        speed=wishes.pace,
        clock=clock,
        rng=Random(f"{wishes.seed} world"),
    )
    async with AsyncExitStack() as closing:
        await closing.enter_async_context(simulator)
        yield Stage(simulator, wishes, clock, isinstance(loop, VirtualLoop), closing)
