"""`_clock`: time that is handed in."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from rows import failing

from apikley_async import Clock, SystemClock
from apikley_async._clock import Stopwatch, Wake
from apikley_async.testing import FakeClock, LoopClock


def test_every_clock_keeps_the_protocol() -> None:
    """Whatever is offered as a clock can be handed in as one."""

    def check(kind: type) -> None:
        assert isinstance(kind(), Clock)

    assert failing(check, [SystemClock, FakeClock, LoopClock]) == []


def test_outside_a_loop_the_clock_is_the_machines() -> None:
    """A client may be made before there is a loop."""
    before = time.monotonic()

    assert before <= SystemClock().now() <= time.monotonic()
    assert abs(SystemClock().wall() - time.time()) < 5


class TwoClocks(SystemClock):
    """A machine whose two clocks are set by hand."""

    ticks = calendar = 1000.0

    def now(self) -> float:
        return self.ticks

    def wall(self) -> float:
        return self.calendar


def test_a_stopwatch_counts_while_the_machine_is_suspended() -> None:
    """One clock stands still then; the other one may be set back at any time."""
    clock = TwoClocks()
    stopwatch = Stopwatch(clock)
    clock.ticks, clock.calendar = 1001.0, 1061.0
    assert stopwatch.seconds == 61.0

    clock.ticks, clock.calendar = 1002.0, 400.0
    assert stopwatch.seconds == 2.0


def test_a_stopwatch_of_the_machine_runs() -> None:
    assert 0.0 <= Stopwatch().seconds < 5.0


@pytest.mark.virtual
async def test_inside_a_loop_the_clock_is_the_loops() -> None:
    """A loop with virtual time needs no clock of its own."""
    clock = SystemClock()

    await clock.sleep(600)

    assert clock.now() == asyncio.get_running_loop().time() == 600


@pytest.mark.virtual
@pytest.mark.parametrize("woken_after", [None, 3.0])
async def test_a_sleep_ends_with_the_delay_or_the_event(woken_after: float | None) -> None:
    """`sleep` ends with the delay or with the event, whichever comes first."""
    clock, wake = SystemClock(), asyncio.Event()
    if woken_after is not None:
        asyncio.get_running_loop().call_later(woken_after, wake.set)

    await clock.sleep(10, wake)

    assert clock.now() == pytest.approx(woken_after or 10)


@pytest.mark.virtual
@pytest.mark.parametrize("with_event", [False, True])
async def test_a_sleeper_can_be_cancelled(with_event: bool) -> None:
    """A cancel is never taken for the end of the sleep (C3, C15)."""
    clock = SystemClock()
    sleeper = asyncio.create_task(clock.sleep(10, asyncio.Event() if with_event else None))
    await asyncio.sleep(1)

    sleeper.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert clock.now() == 1


@pytest.mark.virtual
@pytest.mark.parametrize("order", ["cancelled first", "woken first"])
async def test_a_cancel_in_the_moment_of_waking_is_kept(order: str) -> None:
    """Cancelled and woken in one turn: the cancel is not swallowed (C3)."""
    clock, wake = SystemClock(), asyncio.Event()
    sleeper = asyncio.create_task(clock.sleep(10, wake))
    await asyncio.sleep(1)

    for act in (
        (sleeper.cancel, wake.set) if order == "cancelled first" else (wake.set, sleeper.cancel)
    ):
        act()

    with pytest.raises(asyncio.CancelledError):
        await sleeper


@pytest.mark.virtual
async def test_it_sleeps_after_a_cancel_that_was_swallowed() -> None:
    """A task that once survived a cancel still gets its time-outs as time-outs."""
    clock = SystemClock()

    async def stubborn() -> float:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await clock.sleep(5, asyncio.Event())
        return clock.now()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(1)
    task.cancel()

    assert await task == pytest.approx(6)


@pytest.mark.virtual
@pytest.mark.parametrize("with_event", [False, True])
async def test_the_shortest_sleep_moves_time(with_event: bool) -> None:
    """A timer at "now" fires before now on some loops, and whoever looks again spins (R14)."""
    clock = SystemClock()

    await clock.sleep(1e-12, asyncio.Event() if with_event else None)

    assert clock.now() == pytest.approx(0.001)


@pytest.mark.virtual
@pytest.mark.parametrize("delay", [0, -5])
@pytest.mark.parametrize("with_event", [False, True])
async def test_no_delay_takes_no_time(delay: float, with_event: bool) -> None:
    """Nothing to wait for takes no time."""
    clock = SystemClock()

    await clock.sleep(delay, asyncio.Event() if with_event else None)

    assert clock.now() == 0


def test_the_clock_has_a_repr() -> None:
    assert repr(SystemClock()) == "SystemClock()"


@pytest.mark.virtual
async def test_a_wake_wakes_all_who_sleep_and_stays_set() -> None:
    """As an event of asyncio, which it replaces: for clocks of one's own too."""
    wake, clock = Wake(), SystemClock()
    early = [asyncio.create_task(clock.sleep(60, wake)) for _ in range(3)]
    early += [asyncio.ensure_future(wake.wait())]
    gone = asyncio.create_task(clock.sleep(60, wake))
    await asyncio.sleep(1)
    gone.cancel()
    await asyncio.sleep(0)

    wake.set()
    wake.set()
    await asyncio.gather(*early)
    await clock.sleep(60, wake)
    async with asyncio.timeout(1):
        await wake.wait()

    assert clock.now() == 1
    assert wake.is_set()
    assert repr(wake) == "<Wake set, 0 sleep>"


@pytest.mark.virtual
async def test_a_wake_that_was_cleared_is_slept_on_again() -> None:
    wake, clock = Wake(), SystemClock()
    wake.set()
    wake.clear()

    await clock.sleep(60, wake)

    assert clock.now() == 60
