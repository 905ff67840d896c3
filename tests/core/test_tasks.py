"""`TaskScope`: closing interrupts waits and ends tasks. `FairLock`: in order, at any size."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from comparisons import ComparingLoop
from turns import StrikingLoop, at_every_turn

from apikley_async import ClientClosedError
from apikley_async._tasks import CancelScope, FairLock, Limit, Nested, TaskScope

pytestmark = pytest.mark.virtual


async def visit(house: TaskScope, stay: Callable[[], Awaitable[Any]]) -> Any:
    async with house.inside():
        return await stay()


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def end_of(task: asyncio.Task[Any]) -> Any:
    return (await asyncio.gather(task, return_exceptions=True))[0]


# --- inside --------------------------------------------------------------------------------------


async def test_a_visit_that_is_over_in_time_is_not_disturbed() -> None:
    house = TaskScope()

    async def stay() -> str:
        await asyncio.sleep(1)
        return "tea"

    assert await visit(house, stay) == "tea"
    await house.shut()


async def test_everyone_inside_is_sent_home() -> None:
    """Each of them learns that the client was closed; nobody waits for ever (C5)."""
    house = TaskScope()
    visits = [asyncio.create_task(visit(house, for_ever)) for _ in range(3)]
    await asyncio.sleep(1)

    house.interrupt()
    await house.shut()

    ends = [await end_of(task) for task in visits]
    assert all(isinstance(end, ClientClosedError) for end in ends)
    assert not any(task.cancelled() or task.cancelling() for task in visits)


async def test_nobody_is_let_in_any_more() -> None:
    house = TaskScope()
    house.interrupt()

    with pytest.raises(ClientClosedError, match="closed"):
        await visit(house, for_ever)
    await house.shut()
    with pytest.raises(ClientClosedError, match="closed"):
        house.check()


async def test_a_visit_within_a_visit_is_sent_home_once() -> None:
    """An upload is inside, and so is the question it asks."""
    house = TaskScope()

    async def stay() -> None:
        await visit(house, for_ever)

    task = asyncio.create_task(visit(house, stay))
    await asyncio.sleep(1)

    house.interrupt()
    end = await end_of(task)

    assert isinstance(end, ClientClosedError)
    assert task.cancelling() == 0
    await house.shut()


@pytest.mark.parametrize("closing_first", [True, False])
@pytest.mark.parametrize("between", range(4))
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_cancel_wins_over_the_closing(
    depth: int, between: int, closing_first: bool
) -> None:
    """Cancelled and sent home at once, a task is cancelled: a cancel is never swallowed (C15)."""
    house = TaskScope()

    async def stay() -> None:
        await (visit(house, for_ever) if depth == 2 else for_ever())

    task = asyncio.create_task(visit(house, stay))
    await asyncio.sleep(1)

    too_late = False
    if closing_first:
        house.interrupt()
        await steps(between)
        too_late = not task.cancel()
    else:
        task.cancel()
        await steps(between)
        house.interrupt()
    end = await end_of(task)

    assert isinstance(end, ClientClosedError if too_late else asyncio.CancelledError)
    assert not (too_late and between < 2)
    await house.shut()


@pytest.mark.parametrize("between", range(-3, 4))
async def test_a_users_timeout_around_it_keeps_its_meaning(between: int) -> None:
    """A time-out of the user's that strikes together with the closing is one or the other."""
    house = TaskScope()

    async def hurry() -> str:
        try:
            async with asyncio.timeout(None) as hurried:
                timeouts.append(hurried)
                await visit(house, for_ever)
        except TimeoutError:
            return "hurried"
        except ClientClosedError:
            return "closed"
        return "done"

    timeouts: list[asyncio.Timeout] = []
    task = asyncio.create_task(hurry())
    await asyncio.sleep(1)

    now = asyncio.get_running_loop().time()
    strikes = [lambda: timeouts[0].reschedule(now), house.interrupt]
    for strike in strikes if between < 0 else reversed(strikes):
        if not task.done():
            strike()
            await steps(abs(between) - 1)

    assert await end_of(task) in ("hurried", "closed")
    assert task.cancelling() == 0
    await house.shut()


async def test_a_users_timeout_alone_is_a_timeout() -> None:
    house = TaskScope()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await visit(house, for_ever)

    await visit(house, lambda: asyncio.sleep(1))  # and the house is as open as before
    await house.shut()


@pytest.mark.parametrize(
    "error", [TimeoutError("its own"), OSError("its own"), KeyError("its own")]
)
async def test_what_goes_wrong_inside_comes_out_as_it_is(error: Exception) -> None:
    """A time-out that happens inside is not taken for the closing."""
    house = TaskScope()

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await visit(house, fail)

    assert caught.value is error
    await house.shut()


async def test_in_a_task_that_was_cancelled_before_it_still_works() -> None:
    """Cleaning up after a cancel may need the client, and may be sent home too."""
    house = TaskScope()

    async def clean_up() -> str:
        try:
            await for_ever()
        except asyncio.CancelledError:
            await visit(house, lambda: asyncio.sleep(1))
            try:
                await visit(house, for_ever)
            except ClientClosedError:
                return "sent home"
        return "?"

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(5)

    house.interrupt()

    assert await end_of(task) == "sent home"
    await house.shut()


async def test_an_error_inside_while_it_closes_is_that_error() -> None:
    house = TaskScope()

    async def stubborn() -> None:
        try:
            await for_ever()
        finally:
            raise KeyError("its own")

    task = asyncio.create_task(visit(house, stubborn))
    await asyncio.sleep(1)

    house.interrupt()

    assert isinstance(await end_of(task), KeyError)
    await house.shut()


def test_another_loop_is_told_so() -> None:
    """One client, two loops at once: a clear error instead of a hang (C12)."""
    loop = asyncio.new_event_loop()

    async def open_house() -> TaskScope:
        return TaskScope()

    house = loop.run_until_complete(open_house())

    async def elsewhere() -> None:
        with pytest.raises(ClientClosedError, match="another event loop"):
            house.check()
        with pytest.raises(ClientClosedError, match="another event loop"):
            await house.wait_closed()
        with pytest.raises(ClientClosedError, match="another event loop"):
            await visit(house, for_ever)

    asyncio.run(elsewhere())
    assert not house.gone
    loop.close()
    assert house.gone


# --- shutting ------------------------------------------------------------------------------------


async def test_what_it_spawned_ends_with_it() -> None:
    house = TaskScope()
    ended: list[str] = []

    async def work() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(3)
            ended.append("cleaned up")

    tasks = [house.spawn(work()) for _ in range(2)]
    await asyncio.sleep(1)

    house.interrupt()
    await house.shut()

    assert ended == ["cleaned up"] * 2
    assert all(task.cancelled() for task in tasks)


async def test_the_last_things_are_done_after_everyone_left_and_in_order() -> None:
    house = TaskScope()
    seen: list[str] = []

    async def stay() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(2)
            seen.append("left")

    async def act(name: str) -> None:
        await asyncio.sleep(1)
        seen.append(name)

    task = asyncio.create_task(visit(house, stay))
    await asyncio.sleep(1)

    house.interrupt()
    await house.shut(lambda: act("first"), lambda: act("second"))

    assert seen == ["left", "first", "second"]
    assert isinstance(await end_of(task), ClientClosedError)


@pytest.mark.parametrize("broken", range(3))
async def test_one_thing_that_fails_does_not_keep_the_others_from_being_done(broken: int) -> None:
    """Every connection is closed even if closing another one failed, and the error is raised."""
    house = TaskScope()
    seen: list[int] = []

    async def act(number: int) -> None:
        if number == broken:
            raise OSError("stuck")
        seen.append(number)

    house.interrupt()
    with pytest.raises(OSError, match="stuck"):
        await house.shut(*(lambda number=number: act(number) for number in range(3)))

    assert seen == [number for number in range(3) if number != broken]
    assert house.gone


@pytest.mark.parametrize("moments", [*itertools.product([0, 0.5, 1.5], [0, 0.7], [0, 0.1])])
async def test_it_is_shut_whoever_is_cancelled_meanwhile(moments: tuple[float, ...]) -> None:
    """Cancelled once, twice or three times, it finishes, and then the cancel goes on (C5)."""
    house = TaskScope()
    seen: list[str] = []

    async def act() -> None:
        await asyncio.sleep(2)
        seen.append("done")

    house.interrupt()
    shutting = asyncio.create_task(house.shut(act, act))
    await steps(1)
    for moment in moments:
        await asyncio.sleep(moment)
        shutting.cancel()

    assert isinstance(await end_of(shutting), asyncio.CancelledError)
    assert seen == ["done", "done"]
    assert house.gone


async def test_others_can_wait_until_it_is_shut() -> None:
    house = TaskScope()
    waiting = [asyncio.create_task(house.wait_closed()) for _ in range(3)]
    await asyncio.sleep(1)
    waiting[0].cancel()

    house.interrupt()
    await house.shut(lambda: asyncio.sleep(2))
    await asyncio.gather(*waiting[1:])

    assert house.gone
    assert waiting[0].cancelled()


# --- a lock that is given on in order ------------------------------------------------------------


async def test_a_fair_lock_is_given_on_in_order() -> None:
    """One at a time, in the order in which they asked, whoever leaves the queue meanwhile."""
    lock, entered = FairLock(), list[int]()

    async def hold(number: int) -> None:
        async with lock:
            entered.append(number)
            await asyncio.sleep(1)
            assert entered[-1] == number

    tasks = [asyncio.create_task(hold(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert entered == [0, 2, 4, 5]
    assert not lock.locked()


def test_a_cancel_at_any_turn_leaves_a_fair_lock_usable() -> None:
    """Whether it waits, is about to hold it, or holds it: the next one gets it. (C3)"""

    async def scenario(loop: StrikingLoop) -> None:
        lock, entered = FairLock(), list[str]()

        async def hold(name: str) -> None:
            async with lock:
                entered.append(name)
                await steps(2)

        first, struck, last = (asyncio.create_task(hold(name)) for name in ("a", "b", "c"))
        loop.strike = struck.cancel
        await asyncio.wait_for(asyncio.gather(first, last), 60)
        await asyncio.wait({struck})
        assert entered in (["a", "b", "c"], ["a", "c"])
        assert not lock.locked()

    at_every_turn(scenario)


def test_the_queue_of_a_fair_lock_is_left_in_one_step() -> None:
    """However many wait, and in whichever order they are cancelled, none of them is searched for.

    The futures of the loop count how often they are compared: a search would compare them.
    """

    async def scenario() -> None:
        lock = FairLock()

        async def hold() -> None:
            async with lock:
                await for_ever()

        tasks = [asyncio.create_task(hold()) for _ in range(1000)]
        await asyncio.sleep(1)
        for task in random.Random(1).sample(tasks, len(tasks)):
            task.cancel()
        await asyncio.wait(tasks)
        assert not lock.locked()

    loop = ComparingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(scenario())
    assert loop.compared < 100  # asyncio.Lock: 250,000


# --- Limit, CancelScope --------------------------------------------------------------------------


async def limited(seconds: float, block: Callable[[], Awaitable[Any]]) -> Any:
    limit = Limit(seconds)
    with limit:
        return await block()
    assert limit.caught
    raise TimeoutError


async def timed(seconds: float, block: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(seconds):
        return await block()


Way = Callable[[float, Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def deaf() -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(20)
    await asyncio.sleep(1)
    return "deaf"


async def fails() -> None:
    await asyncio.sleep(1)
    raise KeyError


async def fails_when_cancelled() -> None:
    try:
        await asyncio.sleep(20)
    finally:
        raise KeyError


BLOCKS: dict[str, Callable[[Way], Callable[[], Awaitable[Any]]]] = {
    "at once": lambda way: lambda: asyncio.sleep(0, "done"),
    "in time": lambda way: lambda: asyncio.sleep(9, "done"),
    "too long": lambda way: lambda: asyncio.sleep(11),
    "at the same moment": lambda way: lambda: asyncio.sleep(10, "done"),
    "swallows its end": lambda way: deaf,
    "fails": lambda way: fails,
    "fails at its end": lambda way: fails_when_cancelled,
    "a longer one inside": lambda way: lambda: way(12, for_ever),
    "a shorter one inside": lambda way: lambda: way(8, for_ever),
    "an equal one inside": lambda way: lambda: way(10, for_ever),
    "another kind inside": lambda way: lambda: timed(10, for_ever),
}


@pytest.mark.parametrize("cancelled_at", [None, 0.0, 5.0, 8.0, 10.0, 11.5])
async def test_a_limit_ends_what_a_timeout_of_asyncio_ends(cancelled_at: float | None) -> None:
    """The same results at the same times, also where somebody else cancels the task."""

    async def outcome(way: Way, name: str) -> tuple[object, ...]:
        began = asyncio.get_running_loop().time()
        task = asyncio.ensure_future(way(10, BLOCKS[name](way)))
        if cancelled_at is not None:
            asyncio.get_running_loop().call_later(cancelled_at, task.cancel)
        end = await end_of(task)
        took = asyncio.get_running_loop().time() - began
        return type(end), str(end), task.cancelling(), round(took, 6)

    ours = {name: await outcome(limited, name) for name in BLOCKS}
    theirs = {name: await outcome(timed, name) for name in BLOCKS}

    assert ours == theirs
    assert ours["too long"][0] is (
        TimeoutError if cancelled_at is None or cancelled_at > 10 else asyncio.CancelledError
    )


async def test_a_limit_can_be_given_anew() -> None:
    """An upload that makes progress is not cut off."""
    loop = asyncio.get_running_loop()
    with Limit(10) as limit:
        loop.call_later(9, limit.restart, 60)
        await for_ever()

    assert limit.caught
    assert (loop.time(), limit.seconds) == (69, 60)


async def test_a_block_that_has_ended_is_not_cancelled_any_more() -> None:
    """A callback that comes late strikes nobody."""
    with CancelScope() as scope:
        await asyncio.sleep(1)
    scope.cancel()

    await asyncio.sleep(1)
    assert not scope.caught


# --- Nested --------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["", "outer enter", "inner enter", "inner exit", "block"])
async def test_two_managers_as_one_are_left_as_two(broken: str) -> None:
    """The outer one is left exactly when it was entered, and is told of each error."""
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def manager(name: str) -> AsyncIterator[None]:
        if broken == f"{name} enter":
            raise KeyError(broken)
        seen.append(f"{name} entered")
        try:
            yield
        except KeyError as error:
            seen.append(f"{name} left: {error.args[0]}")
            raise
        else:
            seen.append(f"{name} left")
        finally:
            if broken == f"{name} exit":
                raise KeyError(broken)

    async def way(entered: AbstractAsyncContextManager[Any]) -> list[str]:
        seen.clear()
        with contextlib.suppress(KeyError):
            async with entered:
                if broken == "block":
                    raise KeyError(broken)
        return [*seen]

    @contextlib.asynccontextmanager
    async def expected() -> AsyncIterator[None]:
        async with manager("outer"), manager("inner"):
            yield

    assert await way(Nested(manager("outer"), manager("inner"))) == await way(expected())
