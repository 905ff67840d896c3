"""Part 3: the limiter beside other ways to keep a rate, where the service's limit is not ours.

In virtual time: 200 submissions, each way set to 20 per 10 s, and a service that takes 20, or
fewer, in any span of 10 s, and answers after some tens of milliseconds. A way that does not handle
a 429 by itself is given a retry with exponential backoff, 1 to 60 s with jitter.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any, TypeAlias

import attrs
from bench.tables import Grid

from apikley_async import RateLimiter
from apikley_async.errors import RateLimitError
from apikley_async.simulator.service.rate_windows import WindowKind, make_window
from apikley_async.testing import LoopClock
from apikley_async.virtual import VirtualLoop

__all__ = ["limits", "paced"]

LIMIT, PER = 20, 10.0
SUBMISSIONS = 200
TAKEN = (20, 18, 15, 10, 5, 2)  # by the service, in PER seconds

Slot: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


@attrs.frozen
class Paced:
    """How it went.

    Attributes:
        seconds: until the last submission was accepted.
        ideal: the same, had every submission come as early as the service takes it.
        refusals: how many 429s there were.
    """

    seconds: float
    ideal: float
    refusals: int


class Endpoint:
    """Takes *limit* submissions in PER seconds, each on its way for 10 to 40 ms."""

    def __init__(self, limit: int, window: WindowKind, rng: random.Random) -> None:
        self.refusals = 0
        self.accepted_at = 0.0
        self._window = make_window(window, limit, PER)
        self._rng = rng

    async def submit(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.01, 0.04))
        now = asyncio.get_running_loop().time()
        refused = self._window.delay(now) > 0
        if refused:
            self.refusals += 1
        else:
            self._window.count(now)
            self.accepted_at = now
        await asyncio.sleep(self._rng.uniform(0.01, 0.04))
        if refused:
            raise RateLimitError("too many", code=429)


class Loop(VirtualLoop):
    """Timers take a tenth of a millisecond at least, as on any machine.

    aiolimiter sets timers of less than a rounding error; exact time never passes those.
    """

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        return super().call_at(max(when, self.time() + 1e-4), callback, *args, **options)


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


def ours(rng: random.Random) -> Slot:
    return RateLimiter(LIMIT, PER, clock=LoopClock(), rng=rng).slot


def retry_only(_rng: random.Random) -> Slot:
    return nothing


def aiolimiter(_rng: random.Random) -> Slot:
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(LIMIT, PER)
    return lambda: limiter


def pyrate(_rng: random.Random) -> Slot:
    from pyrate_limiter import InMemoryBucket, Limiter, Rate
    from pyrate_limiter.limiter import SingleBucketFactory

    class Bucket(InMemoryBucket):
        """Its time is the loop's."""

        def now(self) -> int:
            return int(asyncio.get_running_loop().time() * 1000)

    bucket = Bucket([Rate(LIMIT, int(PER * 1000))])
    limiter = Limiter(SingleBucketFactory(bucket, schedule_leak=False))

    @asynccontextmanager
    async def slot() -> AsyncIterator[None]:
        await limiter.try_acquire_async("submissions")
        yield

    return slot


WAYS: dict[str, tuple[str, Callable[[random.Random], Slot]]] = {
    "this limiter": ("apikley_async", ours),
    "aiolimiter, then retry": ("aiolimiter", aiolimiter),
    "pyrate-limiter, then retry": ("pyrate_limiter", pyrate),
    "retry on 429 alone": ("asyncio", retry_only),
}


async def submit_all(slot: Slot, endpoint: Endpoint, rng: random.Random, *, waits: bool) -> None:
    """Submit all at once, each until it is accepted; *waits* after a 429 if the slot does not."""

    async def one() -> None:
        delay = 1.0
        while True:
            try:
                async with slot():
                    await endpoint.submit()
            except RateLimitError:
                if waits:
                    await asyncio.sleep(delay * rng.uniform(0.5, 1.0))
                    delay = min(60.0, 2 * delay)
            else:
                return

    await asyncio.gather(*(one() for _ in range(SUBMISSIONS)))


def paced(way: str, taken: int, *, window: WindowKind = "sliding", seed: int = 1) -> Paced:
    """Submit everything in one way, to a service that takes so many."""
    rng = random.Random(seed)
    endpoint = Endpoint(taken, window, rng)

    async def main() -> None:
        await submit_all(WAYS[way][1](rng), endpoint, rng, waits=way != "this limiter")

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    spans = -(-SUBMISSIONS // min(taken, LIMIT)) - 1
    return Paced(endpoint.accepted_at, spans * PER, endpoint.refusals)


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def limits(rounds: int, scale: float) -> Iterator[Grid]:
    """Time and refusals of each way, by what the service takes."""
    taken = TAKEN if scale >= 1 else TAKEN[:1]
    for window in ("sliding", "fixed"):
        rows: dict[str, list[tuple[float, float]]] = {}
        for way, (module, _) in WAYS.items():
            if not find_spec(module):
                continue
            rows[way] = []
            for limit in taken:
                runs = [paced(way, limit, window=window, seed=seed) for seed in range(rounds)]
                time = middle([run.seconds / run.ideal for run in runs])
                rows[way].append((time, middle([float(run.refusals) for run in runs])))
        yield Grid(
            f"Limiter set to {LIMIT} per {PER:g} s, {window} windows",
            "time / ideal; refusals, where the service takes",
            [str(limit) for limit in taken],
            rows,
        )
