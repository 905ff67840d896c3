"""`testing`: the fake clock and the scripted transport that users test with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apikley_async import Client, Environment, ModelTask, RateLimiter
from apikley_async._wire.requests import get_credits
from apikley_async.errors import UnreachableError
from apikley_async.testing import FakeClock, LoopClock, Request, ScriptedTransport, exactly, reply

ASK = get_credits()


async def together(*tasks: Awaitable[object]) -> list[object]:
    return await asyncio.gather(*tasks)


# --- the clock --------------------------------------------------------------------------------


async def test_a_fake_sleep_takes_no_time() -> None:
    """An hour is over at once, and the clock says an hour."""
    clock = FakeClock(wall=1000)
    began = asyncio.get_running_loop().time()

    await clock.sleep(3600)

    assert clock.now() == 3600
    assert clock.wall() == 4600
    assert asyncio.get_running_loop().time() - began < 5
    assert clock.slept == [3600]


@given(delays=st.lists(st.integers(0, 50), max_size=12))
@settings(max_examples=30)
def test_sleepers_wake_in_their_order(delays: list[int]) -> None:
    """Whoever sleeps less wakes first; those who wake together do so in the order they slept."""
    clock, woken = FakeClock(), list[tuple[float, int]]()

    async def sleeper(number: int, delay: int) -> None:
        await clock.sleep(delay)
        assert clock.now() == delay
        woken.append((delay, number))

    async def main() -> None:
        await together(*(sleeper(number, delay) for number, delay in enumerate(delays)))

    asyncio.run(main())

    assert woken == sorted(woken)


async def test_time_waits_for_whoever_works() -> None:
    """Time stands still as long as somebody has something to do, however many turns it takes."""
    clock = FakeClock()

    async def worker() -> float:
        for _ in range(3000):
            await asyncio.sleep(0)
        return clock.now()

    _, seen = await together(clock.sleep(5), worker())

    assert seen == 0
    assert clock.now() == 5


async def test_a_long_hand_over_takes_no_time() -> None:
    """Five hundred tasks pass a baton on, one a turn: nobody is asleep, so no time passes."""
    clock, lock = FakeClock(), asyncio.Lock()

    async def runner() -> float:
        async with lock:
            await asyncio.sleep(0)
            return clock.now()

    _, *seen = await together(clock.sleep(5), *(runner() for _ in range(500)))

    assert set(seen) == {0}


async def test_whoever_only_polls_does_not_stop_time() -> None:
    """A test that turns round and round until something has happened gets there."""
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(5))

    while not sleeper.done():  # noqa: ASYNC110 - polling is what this test is about
        await asyncio.sleep(0)

    assert clock.now() == 5


async def test_two_clocks_in_one_loop_do_not_stop_each_other() -> None:
    """Each has a time of its own."""
    one, two = FakeClock(), FakeClock()

    await together(one.sleep(5), two.sleep(7))

    assert (one.now(), two.now()) == (5, 7)


async def test_an_event_ends_a_fake_sleep() -> None:
    """Woken early, no time has passed."""
    clock, wake = FakeClock(), asyncio.Event()
    asyncio.get_running_loop().call_soon(wake.set)

    await clock.sleep(5, wake)

    assert clock.now() == 0


async def test_advancing_wakes_whoever_is_due() -> None:
    """Time that passes by hand counts for sleepers too, and never runs backwards."""
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)

    clock.advance(60)
    await sleeper

    assert clock.now() == 60


async def test_a_cancelled_sleeper_leaves_nothing() -> None:
    """No task of the clock is there, neither while somebody sleeps nor after a cancel."""
    clock = FakeClock()
    me = asyncio.current_task()
    sleeper = asyncio.create_task(clock.sleep(5, asyncio.Event()))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {me, sleeper}

    sleeper.cancel()
    await asyncio.wait({sleeper})

    assert asyncio.all_tasks() == {me}
    assert sleeper.cancelled()
    assert clock.now() == 0


def test_a_fake_clock_goes_on_in_the_next_loop() -> None:
    """Two runs one after another share its time; who slept in the first does not trouble it."""
    clock = FakeClock()

    async def first() -> None:
        forgotten = asyncio.create_task(clock.sleep(1000))
        await clock.sleep(5)
        assert not forgotten.done()

    asyncio.run(first())
    asyncio.run(clock.sleep(5))

    assert clock.now() == 10


async def test_real_waiting_between_fake_sleeps_works() -> None:
    """A thread's answer may be awaited beside a fake clock."""
    clock = FakeClock()

    assert await asyncio.to_thread(lambda: 7) == 7
    await clock.sleep(5)

    assert clock.now() == 5


@pytest.mark.virtual
async def test_the_loops_clock_makes_a_calendar_of_the_loops_time() -> None:
    clock = LoopClock(wall=1000)

    await clock.sleep(60)

    assert (clock.now(), clock.wall()) == (60, 1060)


def test_exactly_is_no_jitter() -> None:
    assert exactly(2.5, random.Random(1)) == 2.5


# --- the transport ----------------------------------------------------------------------------


async def test_a_script_is_played_turn_by_turn() -> None:
    """A turn is a reply, an error or a function of the request; every request is kept."""

    def by_path(request: Request) -> object:
        return reply({"asked": request.path})

    transport = ScriptedTransport([reply(1), UnreachableError("no route"), by_path])  # type: ignore[list-item]

    first = await transport.send(ASK)
    with pytest.raises(UnreachableError, match="no route"):
        await transport.send(ASK)
    third = await transport.send(ASK)

    assert (first.status, ASK.path in third.text) == (200, True)
    assert transport.requests == [ASK, ASK, ASK]


async def test_a_script_that_is_over_says_so() -> None:
    """The last turn is not repeated: one request too many is a defect of somebody's code."""
    transport = ScriptedTransport([reply(1)])
    await transport.send(ASK)

    with pytest.raises(AssertionError, match="no turn"):
        await transport.send(ASK)


@pytest.mark.parametrize(
    ("turn", "leaves"), [(reply(1), True), (UnreachableError("no route"), False)]
)
async def test_it_tells_what_has_left(turn: object, leaves: bool) -> None:
    """What never left this machine is never reported as sent (A15)."""
    sent = list[bool]()
    transport = ScriptedTransport([turn])  # type: ignore[list-item]

    await asyncio.gather(
        transport.send(ASK, on_sent=lambda: sent.append(True)), return_exceptions=True
    )

    assert sent == [True] * leaves


async def test_a_client_runs_on_fakes_alone() -> None:
    """A user's test needs no socket and no second of waiting."""
    clock = FakeClock()
    transport = ScriptedTransport(
        [
            reply({"taskId": "task_1"}),
            reply({"taskId": "task_1", "state": "generating"}),
            reply(
                {
                    "taskId": "task_1",
                    "state": "success",
                    "resultJson": '{"resultUrls": ["https://films.test/1.mp4"]}',
                }
            ),
        ]
    )
    async with Client(
        "nothing-secret", environment=Environment(transport=transport, clock=clock)
    ) as client:
        result = await client.generate(ModelTask("a-model", {"prompt": "a lighthouse"}))

    assert result.urls == ("https://films.test/1.mp4",)
    assert 3 < clock.now() < 6
    assert len(transport.requests) == 3


async def test_a_limiter_runs_on_the_fake_clock() -> None:
    """Sixty attempts at twenty in ten seconds: two rests, no real waiting."""
    clock = FakeClock()
    limiter = RateLimiter(clock=clock)

    async def attempt() -> None:
        async with limiter.slot():
            await clock.sleep(0.2)

    await together(*(attempt() for _ in range(60)))

    assert clock.now() == pytest.approx(20.62)
