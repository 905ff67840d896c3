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
from apikley_async._polling import exactly
from apikley_async._wire.envelope import Reply
from apikley_async._wire.requests import Request
from apikley_async.errors import ApikleyError, UnreachableError

__all__ = ["FakeClock", "LoopClock", "Reply", "Request", "ScriptedTransport", "exactly", "reply"]

PATIENCE = 10_000  # turns of the loop in which somebody else may still have something to do;
IDLE = 100  # one in which nobody else had counts so many, so that sockets and threads get a chance


class FakeClock:
    """A clock that moves only when everybody sleeps, and then at once to the next who wakes.

    `slept` lists the delays asked for, in their order. *wall* is the calendar's time at the
    start, in seconds since 1970.
    """

    def __init__(self, *, wall: float = 1_790_000_000.0) -> None:
        self.slept: list[float] = []
        self._now = 0.0
        self._wall = wall
        self._numbers = itertools.count()
        self._alarms: list[tuple[float, int]] = []  # a heap: when to wake which sleeper
        self._sleepers: dict[int, asyncio.Timeout] = {}
        self._quiet = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turning = False

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall + self._now

    def advance(self, seconds: float) -> None:
        """Let time pass although nobody sleeps."""
        self._now += seconds

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        self.slept.append(delay)
        self._watch_over(asyncio.get_running_loop())
        number = next(self._numbers)
        heapq.heappush(self._alarms, (self._now + max(delay, 0.0), number))
        try:
            async with asyncio.timeout(None) as alarm:
                self._sleepers[number] = alarm
                try:
                    await (wake or asyncio.Event()).wait()
                finally:
                    self._sleepers.pop(number, None)
        except TimeoutError:
            pass

    def _watch_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quiet = 0
        if loop is not self._loop:
            self._loop, self._turning = loop, False
            self._alarms.clear()
            self._sleepers.clear()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Once in each turn of the loop, while anybody sleeps: jump if nothing else moves."""
        self._turning = bool(self._sleepers)
        if not self._turning:
            return
        # Not every loop shows who is ready; on such a loop only the number of turns decides.
        ready = getattr(loop, "_ready", True)
        self._quiet += 1 if ready else IDLE
        if self._quiet >= PATIENCE:
            self._jump(loop)
        loop.call_soon(self._turn, loop)

    def _jump(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the next sleeper, and whoever else wakes at the same time."""
        self._quiet = 0
        while self._alarms and self._alarms[0][1] not in self._sleepers:
            heapq.heappop(self._alarms)
        self._now = max(self._now, self._alarms[0][0])
        while self._alarms and self._alarms[0][0] <= self._now:
            alarm = self._sleepers.get(heapq.heappop(self._alarms)[1])
            if alarm is not None:
                alarm.reschedule(loop.time())


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
        if on_sent is not None and not isinstance(turn, UnreachableError):
            on_sent()
        await asyncio.sleep(0)
        if isinstance(turn, ApikleyError):
            raise turn
        return turn(request) if callable(turn) else turn

    async def aclose(self) -> None:
        return
