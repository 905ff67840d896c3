"""For tests of code that uses this package: a fake clock and a scripted transport.

Neither sleeps nor opens a socket. For whole journeys there is `apikley_async.simulator`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from apikley_async._clock import SystemClock
from apikley_async._policy import exactly
from apikley_async._wire import Reply, Request
from apikley_async.errors import ApikleyError

__all__ = ["FakeClock", "LoopClock", "Reply", "Request", "ScriptedTransport", "exactly", "reply"]

QUIET_STEPS = 100


class FakeClock:
    """A clock that moves only when everybody sleeps, and then at once to the next who wakes.

    `slept` lists the delays asked for, in their order. *wall* is the calendar's time at the
    start, in seconds since 1970.
    """

    def __init__(self, *, wall: float = 1_790_000_000.0) -> None:
        self.slept: list[float] = []
        self._now = 0.0
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._numbers = itertools.count()
        self._driver: asyncio.Task[None] | None = None

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall + self._now

    def advance(self, seconds: float) -> None:
        """Let time pass although nobody sleeps."""
        self._now += seconds

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        self.slept.append(delay)
        over = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now + max(delay, 0.0), next(self._numbers), over))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
        waits = [asyncio.ensure_future(event.wait()) for event in (over, wake) if event]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.set()
            for waiting in waits:
                waiting.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _drive(self) -> None:
        """Wait until nothing moves any more, then jump to the next who wakes."""
        while self._sleepers:
            seen = next(self._numbers)
            for _ in range(QUIET_STEPS):
                await asyncio.sleep(0)
            if next(self._numbers) != seen + 1:
                continue  # someone fell asleep meanwhile: look again
            while self._sleepers and self._sleepers[0][2].is_set():
                heapq.heappop(self._sleepers)
            if self._sleepers:
                when, _, over = heapq.heappop(self._sleepers)
                self._now = max(self._now, when)
                over.set()


class LoopClock(SystemClock):
    """The running loop's time as the calendar's too: for event loops with virtual time."""

    def __init__(self, *, wall: float = 1_790_000_000.0) -> None:
        self._wall = wall

    def wall(self) -> float:
        return self._wall + self.now()


Turn: TypeAlias = "Reply | ApikleyError | Callable[[Request], Reply]"


def reply(data: Any = None, *, code: int = 200, msg: str = "success", status: int = 200) -> Reply:
    """An answer of the service in its usual frame."""
    return Reply(status, json.dumps({"code": code, "msg": msg, "data": data}))


class ScriptedTransport:
    """Answers requests from a script, one turn each, and keeps them in `requests`.

    A turn is a `Reply`, an error to raise, or a function of the request. When the script is at
    its end the last turn is not repeated: an `AssertionError` says so.
    """

    def __init__(self, script: Iterable[Turn]) -> None:
        self.requests: list[Request] = []
        self._script: Iterator[Turn] = iter(script)

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        self.requests.append(request)
        turn = next(self._script, None)
        if turn is None:
            raise AssertionError(f"the script has no turn for {request!r}")
        if on_sent is not None:
            on_sent()
        await asyncio.sleep(0)
        if isinstance(turn, ApikleyError):
            raise turn
        return turn(request) if callable(turn) else turn

    async def aclose(self) -> None:
        return
