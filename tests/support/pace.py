"""Submissions through `RateLimiter`s to one service, in virtual time: how long, how many refused.

The service counts with the simulator's windows. Clients share a list of submissions, and each
works at many of them at once, as a batch does.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs

from apikley_async import RateLimiter
from apikley_async._gate import PROBE_SPACING, probe_step
from apikley_async.errors import RateLimitError
from apikley_async.simulator.service.rate_windows import WindowKind, make_window
from apikley_async.virtual import VirtualLoop

__all__ = ["KINDS", "LATENCIES", "RETRY_AFTER", "Pace", "Scene", "ideal", "paced", "probing_ideal"]

Make: TypeAlias = Callable[[list[random.Random]], Sequence[Any]]
"""Gives one limiter for each source of chance; they begin with nothing known."""
PER = 10.0
AT_ONCE = 25  # submissions that each client works at
KINDS: tuple[WindowKind, ...] = ("sliding", "fixed", "bucket")

LATENCIES: dict[str, Callable[[random.Random], float]] = {
    "even": lambda rng: 0.15,
    "jittered": lambda rng: rng.uniform(0.0, 0.2),
    "long-tailed": lambda rng: rng.lognormvariate(math.log(0.05), 0.8),
    "now and then very slow": lambda rng: 8.0 if rng.random() < 0.005 else 0.02,
}
RETRY_AFTER: dict[str, Callable[[float], float | None]] = {
    "absent": lambda delay: None,
    "exact": lambda delay: delay,
    "whole seconds": lambda delay: float(math.ceil(delay)),
    "a span": lambda delay: PER,
    "0": lambda delay: 0.0,
    "negative": lambda delay: -5.0,
    "five minutes": lambda delay: 300.0,
}


@attrs.frozen(kw_only=True)
class Scene:
    """One service and its clients.

    Attributes:
        limit: submissions that the service takes in a span of 10 s.
        kind: how it counts them.
        latency: of each way of a request.
        retry_after: what its refusals ask for.
        changes: pairs of a time and the service's limit from then on.
        count_refused: whether it counts refused requests too.
        clients: how many limiters share the key.
        count: submissions of all clients together.
        takes: what the limiters begin with, if they know something.
        apart: seconds between the starts of two clients.
        seed: of all that is random.
    """

    limit: int
    kind: WindowKind = "sliding"
    latency: str = "jittered"
    retry_after: str = "absent"
    changes: tuple[tuple[float, int], ...] = ()
    count_refused: bool = False
    clients: int = 1
    count: int = 200
    takes: int | None = None
    apart: float = 0.0
    seed: int = 1


@attrs.frozen
class Pace:
    """What came of it.

    Attributes:
        passed: by client, when its submissions were accepted.
        refused: when submissions were refused.
        ended_at: when the last submission was taken from the list.
        sent_at: when the last attempt was sent.
        scene: what was played.
        limiters: as they were at the end.
    """

    passed: tuple[tuple[float, ...], ...]
    refused: tuple[float, ...]
    ended_at: float
    sent_at: float
    scene: Scene
    limiters: tuple[Any, ...] = attrs.field(repr=False)

    @property
    def ratio(self) -> float:
        """Time / ideal, the last answer's own latency apart.

        After the list is empty, unequal clients finish at different times.
        """
        passed = sorted(itertools.chain(*self.passed))
        if self.scene.clients == 1:
            return self.sent_at / ideal(self.scene, len(passed))
        return self.ended_at / ideal(self.scene, sum(at <= self.ended_at for at in passed))

    @property
    def late_refusals(self) -> int:
        """Refusals after the first burst."""
        return sum(at >= PER * 0.99 for at in self.refused)

    @property
    def smallest_share(self) -> float:
        """What the client with the fewest got, in parts of an equal share."""
        return min(map(len, self.passed)) * self.scene.clients / self.scene.count

    @property
    def longest_wait(self) -> float:
        """The longest time in which a client got nothing."""
        return max(
            later - earlier
            for times in self.passed
            for earlier, later in itertools.pairwise([0.0, *times])
        )


def ideal(scene: Scene, count: int) -> float:
    """Seconds from the first submission to the last, for one who knows the limit at each time."""
    if not scene.changes:
        return max((count - 1) // scene.limit * PER, 0.001)
    left = float(count - scene.limit)
    steps = [(0.0, scene.limit), *scene.changes, (math.inf, 0)]
    for (begins, limit), (ends, _) in itertools.pairwise(steps):
        if left <= (ends - begins) * limit / PER:
            return begins + left * PER / limit
        left -= (ends - begins) * limit / PER
    raise AssertionError("the last step has no end")


def probing_ideal(scene: Scene) -> float:
    """Seconds for one who knows the limit, but may follow it upwards by spaced probes only.

    The first comes 40 submissions after the limit has risen, since the one before it may have been
    refused just then; the next ones, of the steps that `Gate` takes, as many later. Larger steps
    would be refused more often than once in 20 submissions where clients share a key. The pauses
    that a real one needs are not in it.
    """
    now, width, since, again = 0.0, scene.limit, 0, False
    for _ in range(scene.count - scene.limit):
        limit = next((limit for at, limit in reversed(scene.changes) if at <= now), scene.limit)
        if width >= limit:
            width, since, again = limit, 0, False
        elif since >= PROBE_SPACING:
            width, since, again = min(width + probe_step(width, again=again), limit), 0, True
        now, since = now + PER / width, since + 1
    return now


class Service:
    """Accepts what its window takes."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self._window = make_window(scene.kind, scene.limit, PER)
        self._changes = scene.changes
        self._count_refused = scene.count_refused
        self._phase = rng.uniform(0, PER)  # the service's clock is not ours
        self.refused: list[float] = []

    def delay(self, now: float) -> float:
        """0 accepts a request; else how long it is too early."""
        for at, limit in self._changes:
            if at <= now:
                self._window.limit = limit
        delay = self._window.delay(now + self._phase)
        if delay > 0:
            self.refused.append(now)
        if delay <= 0 or self._count_refused:
            self._window.count(now + self._phase)
        return delay


def paced(scene: Scene, *, ours: int = 20, make: Make | None = None) -> Pace:
    """Play a scene, with limiters of *ours* per 10 s, or with those that *make* gives."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_paced(scene, make or apart(ours)))


def apart(limit: int) -> Make:
    """Limiters that know nothing of each other."""
    return lambda rngs: [RateLimiter(limit, PER, rng=rng) for rng in rngs]


async def _paced(scene: Scene, make: Make) -> Pace:
    rng = random.Random(repr(scene))
    loop, service = asyncio.get_running_loop(), Service(scene, rng)
    latency, retry_after = LATENCIES[scene.latency], RETRY_AFTER[scene.retry_after]
    limiters = make([random.Random(rng.random()) for _ in range(scene.clients)])
    passed: list[list[float]] = [[] for _ in limiters]
    left, ended_at, last_sent_at = iter(range(scene.count)), 0.0, 0.0

    async def attempt(client: int) -> None:
        nonlocal last_sent_at
        async with limiters[client].slot():
            last_sent_at = loop.time()
            await asyncio.sleep(latency(rng))
            now = loop.time()
            delay = service.delay(now)
            await asyncio.sleep(latency(rng))
            if delay > 0:
                raise RateLimitError("too many", retry_after=retry_after(delay))
            passed[client].append(now)

    async def work(client: int) -> None:
        nonlocal ended_at
        await asyncio.sleep(scene.apart * client)
        for _ in left:
            ended_at = loop.time()
            while True:
                try:
                    await attempt(client)
                except RateLimitError:
                    continue
                break

    for limiter in limiters if scene.takes else ():
        limiter.assume(scene.takes or 0)
    clients = range(scene.clients)
    await asyncio.gather(*(work(client) for client in clients for _ in range(AT_ONCE)))
    times = tuple(tuple(sorted(times)) for times in passed)
    return Pace(times, tuple(service.refused), ended_at, last_sent_at, scene, tuple(limiters))
