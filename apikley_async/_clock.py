"""Time: the `Clock` protocol, and the clock of the running event loop.

A clock is handed in and never reached for. Everything in this package that waits does so here,
so a test that hands in another clock, or another event loop, controls the time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal, Protocol, runtime_checkable

__all__ = ["Clock", "Stopwatch", "SystemClock", "Wake"]

MIN_SLEEP = 0.001  # a timer at "now" may fire before now, and a loop around it would spin


class Wake(asyncio.Event):
    """An event that thousands may hold: light, and a sleep on it that nothing ends is cheap.

    Its base holds a deque of 760 bytes, and is slept on by cancelling the sleeper. Everything of
    the base that holds state is replaced here.
    """

    def __init__(self) -> None:
        self._sleepers: list[asyncio.Future[None]] = []
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for sleeper in self._sleepers:
            end_sleep(sleeper)

    def clear(self) -> None:
        self._is_set = False

    def add_sleeper(self) -> asyncio.Future[None]:
        """A future that is done when it is time to wake; `remove_sleeper` it in any case."""
        sleeper = asyncio.get_running_loop().create_future()
        if self._is_set:
            sleeper.set_result(None)
        self._sleepers.append(sleeper)
        return sleeper

    def remove_sleeper(self, sleeper: asyncio.Future[None]) -> None:
        self._sleepers.remove(sleeper)

    async def wait(self) -> Literal[True]:
        sleeper = self.add_sleeper()
        try:
            await sleeper
        finally:
            self.remove_sleeper(sleeper)
        return True

    def __repr__(self) -> str:
        return f"<Wake {'set' if self._is_set else 'unset'}, {len(self._sleepers)} sleep>"


def end_sleep(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


@runtime_checkable
class Clock(Protocol):
    """What time it is, and how to wait; all in seconds."""

    def now(self) -> float:
        """Return the time of a clock that never jumps; only differences have a meaning."""
        ...

    def wall(self) -> float:
        """Return the seconds since 1970 (UTC); this clock may be set and jump."""
        ...

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        """Wait *delay* seconds, or until *wake* is set."""
        ...


class Stopwatch:
    """Seconds since it was made; those count in which the machine was suspended.

    The clock that never jumps stands still in a suspended machine, and the calendar's goes on.
    While that one is set back, the other one counts.

    Args:
        clock: time; None for the machine's, in any thread.
    """

    __slots__ = ("_began", "_clocks")

    def __init__(self, clock: Clock | None = None) -> None:
        self._clocks = (time.monotonic, time.time) if clock is None else (clock.now, clock.wall)
        self._began = (self._clocks[0](), self._clocks[1]())

    @property
    def seconds(self) -> float:
        now, wall = self._clocks
        return max(now() - self._began[0], wall() - self._began[1])


class SystemClock:
    """The clock of the running event loop; outside a loop, the machine's monotonic clock.

    On a loop with virtual time it is virtual too, except for `wall`.
    """

    def now(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        pause = max(delay, MIN_SLEEP) if delay > 0 else 0
        if wake is None:
            await asyncio.sleep(pause)
            return
        if isinstance(wake, Wake):
            sleeper = wake.add_sleeper()
            timer = sleeper.get_loop().call_later(pause, end_sleep, sleeper)
            try:
                await sleeper
            finally:
                timer.cancel()
                wake.remove_sleeper(sleeper)
            return
        try:
            async with asyncio.timeout(pause):
                await wake.wait()
        except TimeoutError:
            pass

    def __repr__(self) -> str:
        return "SystemClock()"
