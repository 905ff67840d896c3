"""`distributed.shared_state`: what processes share keeps the rate, whoever of them does what."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import math
import random
from collections.abc import Awaitable, Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import KINDS, Pace, Scene, paced
from shared_limits import MemoryLimiter, MemoryStore
from volume import volume

from apikley_async import Limiter
from apikley_async._rate import OTHER, PASSED
from apikley_async.distributed.shared_state import Ended, Granted
from apikley_async.errors import (
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
    UnreachableError,
)
from apikley_async.virtual import VirtualLoop


def now() -> float:
    return asyncio.get_running_loop().time()


def virtually(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def most_in_a_span(arrivals: list[float], per: float) -> int:
    arrivals = sorted(arrivals)
    return max(bisect.bisect_left(arrivals, at + per) - n for n, at in enumerate(arrivals))


# --- the rate -------------------------------------------------------------------------------------


@pytest.mark.timeout(volume(180, 1800))
@given(
    processes=st.integers(1, 4),
    limit=st.integers(1, 8),
    per=st.sampled_from([0.5, 1.0, 10.0]),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    killed=st.booleans(),
)
@settings(max_examples=volume(25, 1000))
@pytest.mark.slow
def test_no_span_holds_too_many_whatever_becomes_of_attempts(
    processes: int, limit: int, per: float, seed: int, count: int, killed: bool
) -> None:
    """Answered, refused, lost, unsent, late; processes that die: never too many in a span."""
    rng, arrivals = random.Random(seed), list[float]()

    async def attempt(limiter: MemoryLimiter) -> None:
        kind = rng.choice(["passed"] * 6 + ["refused", "lost", "unsent", "error"])
        with contextlib.suppress(SubmissionUncertainError, UnreachableError, ServerError):
            async with limiter.slot():
                if limiter.killed or kind == "unsent":
                    raise UnreachableError("nobody there")
                await asyncio.sleep(rng.uniform(0, 0.3))
                if kind == "lost":
                    asyncio.get_running_loop().call_later(rng.uniform(0, 30), arrive)
                    raise SubmissionUncertainError("no answer")
                arrive()
                await asyncio.sleep(rng.uniform(0, 0.3))
                if kind == "error":
                    raise ServerError("oh")

    def arrive() -> None:
        arrivals.append(now())

    async def main() -> None:
        store = MemoryStore(rng)
        limiters = [MemoryLimiter(store, limit, per) for _ in range(processes)]
        over = False
        beats = [asyncio.create_task(each.beat(lambda: not over)) for each in limiters]
        if killed and processes > 1:
            victim = limiters[0]
            asyncio.get_running_loop().call_later(
                rng.uniform(0, 5), lambda: setattr(victim, "killed", True)
            )
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                await asyncio.sleep(rng.uniform(0, 2) if rng.random() < 0.2 else 0)
                living = [each for each in limiters if not each.killed]
                group.create_task(attempt(rng.choice(living)))
        over = True
        for beat in beats:
            beat.cancel()

    virtually(main)

    assert not arrivals or most_in_a_span(arrivals, per) <= limit


@pytest.mark.slow
def test_three_processes_are_as_fast_as_one_may_be() -> None:
    """20 per 10 s: 95 % of it, with nothing refused, in every kind of window."""
    failures = []
    for kind in KINDS:
        pace = shared(Scene(limit=20, kind=kind, clients=3, count=160))
        if pace.refused or pace.ratio > 1.05:
            failures.append((kind, pace.ratio, len(pace.refused)))

    assert failures == []


def shared(scene: Scene) -> Pace:
    """Play a scene with processes that share one state."""

    def make(rngs: list[random.Random]) -> list[Limiter]:
        store = MemoryStore(rngs[0])
        return [MemoryLimiter(store) for _ in rngs]

    return paced(scene, make=make)


@pytest.mark.timeout(volume(180, 1800))
@pytest.mark.slow
def test_two_processes_learn_what_the_service_takes() -> None:
    """Less than the limit: the pace is that of one limiter, 1.10, and refusals are 1 in 20."""
    failures = []
    scenes = [
        Scene(limit=limit, kind=kind, clients=2, count=10 * limit + 120)
        for kind, limit in itertools.product(KINDS, range(2, 20))
    ]
    for scene in scenes[:: volume(26, 1)]:
        pace = shared(scene)
        if pace.ratio > 1.10 or pace.late_refusals > scene.count / 20:
            failures.append((scene, pace.ratio, pace.late_refusals))

    assert failures == []


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("farther", [0.0, 0.015, 0.1])
@pytest.mark.virtual
async def test_who_is_farther_away_gets_as_many(farther: float, film: bool) -> None:
    """And no second is lost by it: permits at the whole rate, running slots always in use."""
    store = MemoryStore()
    bounds = {"limit": 1000, "per": 0.0, "max_running": 4} if film else {"limit": 20, "per": 10.0}
    limiters = [MemoryLimiter(store, **bounds, distance=at) for at in (0.0, farther)]
    got = [0, 0]

    async def use(number: int) -> None:
        limiter = limiters[number]
        while True:
            async with limiter.running_slot() if film else limiter.slot():
                got[number] += 1
                await asyncio.sleep(2.0 if film else 0.1)

    users = [asyncio.create_task(use(number)) for number in [0, 1] * 20]
    await asyncio.sleep(100)
    for user in users:
        user.cancel()
    await asyncio.wait(users)

    assert min(got) >= 0.45 * sum(got)
    assert sum(got) >= 0.95 * 200


@pytest.mark.virtual
async def test_nothing_is_kept_for_long_for_one_that_waits_no_more() -> None:
    """Killed while it waits: the others lose seconds, once."""
    store = MemoryStore()
    dead, living = MemoryLimiter(store, 2), MemoryLimiter(store, 2)
    await enter(living)
    await enter(living)
    dead.exchange(permits=(f"{dead.name}-w",))
    await asyncio.sleep(9)
    dead.exchange(permits=(f"{dead.name}-w",))

    entered = [await enter(living) for _ in range(4)]
    assert entered == pytest.approx([10.01, 10.01, 20.02, 20.02], abs=1.1)


@pytest.mark.virtual
async def test_one_that_comes_to_wait_has_missed_nothing() -> None:
    """A process that begins when another one has sent a hundred gets half of what is free then."""
    store = MemoryStore()
    early, late = MemoryLimiter(store), MemoryLimiter(store)
    got = {early: list[float](), late: list[float]()}

    async def use(limiter: MemoryLimiter) -> None:
        while True:
            got[limiter].append(await enter(limiter))

    users = [asyncio.create_task(use(early)) for _ in range(30)]
    await asyncio.sleep(55)
    users += [asyncio.create_task(use(late)) for _ in range(30)]
    await asyncio.sleep(100)
    for user in users:
        user.cancel()
    await asyncio.wait(users)

    since = {limiter: sum(at > 55 for at in times) for limiter, times in got.items()}
    assert min(since.values()) >= 0.4 * sum(since.values())


# --- one thing at a time --------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_permit_is_back_a_span_after_its_attempt_has_ended() -> None:
    store = MemoryStore()
    one, other = MemoryLimiter(store, 1), MemoryLimiter(store, 1)
    async with one.slot():
        await asyncio.sleep(5)

    async with other.slot():
        assert now() == pytest.approx(15.01, abs=0.01)


@pytest.mark.virtual
async def test_an_attempt_that_was_never_sent_gives_its_permit_back_at_once() -> None:
    store = MemoryStore()
    with pytest.raises(UnreachableError):
        async with MemoryLimiter(store, 1).slot():
            raise UnreachableError("nobody there")

    async with MemoryLimiter(store, 1).slot():
        assert now() == 0


@pytest.mark.virtual
async def test_the_permit_of_an_uncertain_attempt_is_back_after_a_minute() -> None:
    store, error = MemoryStore(), SubmissionUncertainError("no answer")
    error.waited = 15.0
    with pytest.raises(SubmissionUncertainError):
        async with MemoryLimiter(store, 1).slot():
            raise error

    async with MemoryLimiter(store, 1).slot():
        assert now() == pytest.approx(45, abs=0.01)


@pytest.mark.virtual
async def test_the_permit_of_a_dead_process_is_back_a_span_after_its_lease() -> None:
    """And not before; its running slot after the lease (at the latest look of others)."""
    store = MemoryStore()
    dead, living = MemoryLimiter(store, 1, max_running=1), MemoryLimiter(store, 1, max_running=1)
    await dead.slot().__aenter__()
    await dead.running_slot().__aenter__()
    dead.killed = True

    async with living.running_slot():
        assert 60 <= now() <= 60.1
    async with living.slot():
        assert 70 <= now() <= 70.2


@pytest.mark.virtual
async def test_a_process_that_says_it_is_alive_keeps_its_permit() -> None:
    store = MemoryStore()
    slow, other = MemoryLimiter(store, 1), MemoryLimiter(store, 1)
    beat = asyncio.create_task(slow.beat(lambda: now() < 300))
    async with slow.slot():
        waiting = asyncio.create_task(enter(other))
        await asyncio.sleep(200)
        assert not waiting.done()

    assert await waiting == pytest.approx(210.01, abs=0.01)
    await beat


async def enter(limiter: MemoryLimiter) -> float:
    async with limiter.slot():
        return now()


@pytest.mark.virtual
async def test_an_attempt_that_outlived_its_lease_takes_a_permit_at_its_end() -> None:
    """Its process was stopped and went on: what it sent late counts all the same."""
    store = MemoryStore()
    stopped, other = MemoryLimiter(store, 1), MemoryLimiter(store, 1)
    slot = stopped.slot()
    await slot.__aenter__()
    await asyncio.sleep(75)
    with pytest.raises(UnreachableError):
        async with other.slot():  # the lease is over, and so is a span after it
            raise UnreachableError("nobody there")
    await slot.__aexit__(None, None, None)

    assert await enter(other) == pytest.approx(85.01, abs=0.01)


@pytest.mark.virtual
async def test_a_refusal_of_one_is_a_pause_for_all() -> None:
    store = MemoryStore()
    one, other = MemoryLimiter(store), MemoryLimiter(store)
    with pytest.raises(RateLimitError):
        async with one.slot():
            raise RateLimitError("too many", retry_after=30)

    entered = await asyncio.gather(*(enter(each) for each in [one, other] * 5))

    assert 30 <= min(entered) <= 33.1


@pytest.mark.virtual
async def test_of_different_settings_the_stricter_hold_while_their_process_is_at_work() -> None:
    store = MemoryStore()
    strict, lax = MemoryLimiter(store, 2, 20.0), MemoryLimiter(store, 8, 10.0)
    await enter(strict)
    began = now()

    entered = [await enter(lax) for _ in range(4)]
    assert entered == pytest.approx([began, 20.01, 20.01, 40.02], abs=0.05)

    await asyncio.sleep(100)  # nothing was heard of the strict one for longer than a lease
    began = now()
    entered = [await enter(lax) for _ in range(9)]
    assert entered[:8] == pytest.approx([began] * 8, abs=0.05)
    assert entered[8] == pytest.approx(began + 10.01, abs=0.05)


@pytest.mark.virtual
async def test_a_process_that_leaves_binds_nobody() -> None:
    store = MemoryStore()
    strict, lax = MemoryLimiter(store, 1), MemoryLimiter(store, 2)
    outcome = strict.exchange(permits=(f"{strict.name}-1",))
    granted = outcome.granted[f"{strict.name}-1"]
    strict.exchange(ends=(Ended(f"{strict.name}-1", PASSED, 0.0, granted),))
    assert store.state.rate.limit == 1

    strict.leave()
    await enter(lax)
    assert store.state.rate.limit == 2


@pytest.mark.virtual
async def test_running_films_of_all_processes_are_bounded_together() -> None:
    """An uncertain one keeps its slot for half an hour."""
    store = MemoryStore()
    one, other = MemoryLimiter(store, max_running=2), MemoryLimiter(store, max_running=2)
    beats = [asyncio.create_task(each.beat(lambda: now() < 3000)) for each in (one, other)]
    running = most = 0

    async def film(limiter: MemoryLimiter) -> None:
        nonlocal running, most
        async with limiter.running_slot():
            running += 1
            most = max(most, running)
            await asyncio.sleep(100)
            running -= 1

    await asyncio.gather(*(film(each) for each in [one, other] * 3))
    assert (most, now()) == (2, pytest.approx(300, abs=1))

    with pytest.raises(SubmissionUncertainError):
        async with one.running_slot():
            raise SubmissionUncertainError("no answer")
    began = now()
    async with other.running_slot(), one.running_slot():
        assert now() - began == pytest.approx(1800, abs=1)
    for each in (one, other):
        with pytest.raises(SubmissionUncertainError):
            async with each.running_slot():
                raise SubmissionUncertainError("no answer")
    assert one.exchange().running_free_in == pytest.approx(1800, abs=1)
    await asyncio.gather(*beats)


@pytest.mark.virtual
async def test_work_whose_answer_was_lost_is_done_once() -> None:
    """Repeated with the same number: the same permits, and no end counts twice."""
    store = MemoryStore()
    process = MemoryLimiter(store, 3)
    uses = tuple(f"{process.name}-u{n}" for n in range(2))

    first = process.exchange(permits=uses, batch=1)
    again = process.exchange(permits=uses, batch=1)
    assert first.granted.keys() == again.granted.keys() == {*uses}
    assert len(store.state.permits) == 2

    ends = tuple(Ended(use, PASSED, 0.0, first.granted[use]) for use in uses)
    process.exchange(ends=ends, batch=2)
    process.exchange(ends=ends, batch=2)
    assert store.state.rate.passed == 2
    assert sum(at > now() + store.ahead for at in store.state.rate.slots.free_at) == 2


@pytest.mark.virtual
async def test_a_database_whose_clock_is_set_back_keeps_all_spans() -> None:
    """An hour back in mid-span: the permit is free when it was to be, not an hour later."""
    store = MemoryStore()
    limiter = MemoryLimiter(store, 1)
    await enter(limiter)
    await asyncio.sleep(4)
    limiter.exchange(permits=(f"{limiter.name}-w",))  # nothing is stored by this
    store.ahead -= 3600

    assert 10 <= await enter(limiter) <= 14.1


@pytest.mark.virtual
async def test_waiting_asks_seldom() -> None:
    """Two wait ten minutes for two others: a question of each every few seconds at most."""
    store = MemoryStore()
    one, other = MemoryLimiter(store, 2), MemoryLimiter(store, 2)
    beat = asyncio.create_task(one.beat(lambda: now() < 600))
    async with one.slot(), one.slot():
        waiting = [asyncio.create_task(enter(other)) for _ in range(2)]
        await asyncio.sleep(600)
        assert store.exchanges < 600

    await asyncio.gather(*waiting, beat)


@pytest.mark.virtual
async def test_what_ended_while_the_database_was_away_is_dated_back() -> None:
    """Its span began when it ended, not when that was known."""
    store = MemoryStore()
    one, other = MemoryLimiter(store, 1), MemoryLimiter(store, 1)
    use = f"{one.name}-1"
    granted = one.exchange(permits=(use,)).granted[use]
    await asyncio.sleep(30)
    one.exchange(ends=(Ended(use, OTHER, 25.0, granted),))

    assert await enter(other) == 30


def test_a_permit_says_what_it_is() -> None:
    assert attrs.asdict(Granted(1.5)) == {"at": 1.5, "film": False, "filled": False}
    assert math.isfinite(Granted(1.5).at)
