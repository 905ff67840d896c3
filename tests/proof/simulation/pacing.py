"""Many submissions under a service's window, with answers that are late in a long tail."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Literal

from simulation.loop import SimLoop

from apikley_async import Client, Environment, RateLimiter, Shot, Storyboard
from apikley_async.simulator import Constant, Lognormal, Simulator, Terms
from apikley_async.testing import LoopClock

__all__ = ["paced"]

LIMIT, PER = 20, 10.0


def paced(count: int, window: Literal["fixed", "sliding"]) -> dict[str, Any]:
    """Submit *count* films; how many were refused, and which share of the limit was used."""
    loop = SimLoop(random.Random(1))
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_paced(count, window))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


async def _paced(count: int, window: Literal["fixed", "sliding"]) -> dict[str, Any]:
    terms = Terms(
        limit=LIMIT,
        per=PER,
        window=window,
        max_running=None,
        duration=Constant(1),
        latency={"create": Lognormal(0.15, 1.0)},
    )
    work = Storyboard([Shot("A lighthouse.", 5)], duration=10)
    simulator = Simulator(terms, clock=LoopClock(), rng=random.Random(2))
    async with simulator:
        client = Client(
            simulator.api_key,
            base_url=simulator.base_url,
            limiter=RateLimiter(LIMIT, PER, clock=LoopClock(), rng=random.Random(3)),
            environment=Environment(clock=LoopClock(), rng=random.Random(4)),
        )
        async with client:
            left = iter(range(count))

            async def submit() -> None:
                for _ in left:
                    await client.submit(work)

            await asyncio.gather(*(submit() for _ in range(3 * LIMIT)))
        ledger = simulator.ledger
        # Whole windows, without the first, when all leave at once, and the end, when few are left.
        took = ledger.creations[count - LIMIT].at - ledger.creations[LIMIT].at
        return {
            "window": window,
            "submitted": len(ledger.paid),
            "refused": len(ledger.refused),
            "share": round((count - 2 * LIMIT) / took * PER / LIMIT, 4),
        }
