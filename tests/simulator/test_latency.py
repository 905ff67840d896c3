"""How long requests travel, and how time can be skipped."""

from __future__ import annotations

import asyncio
import json
import statistics
from random import Random

import aiohttp
import pytest

from apikley_async.simulator import (
    Constant,
    Fault,
    FixedRenderer,
    Lognormal,
    Service,
    ServiceClock,
    Simulator,
    Terms,
    Uniform,
)
from apikley_async.testing import LoopClock

BODY = {
    "model": "sora-2-pro-storyboard",
    "input": {"shots": [{"Scene": "Rain.", "duration": 5}]},
}


class HandClock:
    """Time that passes only when it is told to."""

    time = 1000.0

    def now(self):
        return self.time

    def wall(self):
        return 1_790_000_000.0 + self.time

    async def sleep(self, delay, wake=None):
        self.time += delay


# -- distributions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "median", "most"),
    [(Constant(0.2), 0.2, 0.2), (Uniform(0.1, 0.5), 0.3, 0.5), (Lognormal(0.2, 1.0), 0.2, 9.0)],
    ids=repr,
)
def test_latencies_have_a_shape(latency, median, most):
    """Always the same, anything between two values, or small with a long tail."""
    rng = Random(1)
    terms = Terms(latency=latency)
    drawn = [terms.draw_latency("create", rng) for _ in range(4000)]

    assert statistics.median(drawn) == pytest.approx(median, rel=0.1)
    assert 0 < min(drawn) <= max(drawn) <= most
    assert (max(drawn) > 2) is isinstance(latency, Lognormal)


def test_each_endpoint_may_have_its_own():
    """Where none is given there is none, and none is negative."""
    terms = Terms(latency={"create": Constant(1), "record": Uniform(-5, -1)})

    assert [terms.draw_latency(e, Random(1)) for e in ("create", "record", "file")] == [1, 0, 0]
    assert Terms().draw_latency("create", Random(1)) == 0


def test_one_more_look_does_not_delay_the_next_creation():
    """Each endpoint has dice of its own."""
    quiet, busy = (Service(Terms(latency=Uniform(0, 1)), rng=Random(5)) for _ in range(2))
    for _ in range(13):
        busy.latency("record")

    assert [quiet.latency("create") for _ in range(9)] == [busy.latency("create") for _ in range(9)]


# -- on the road -------------------------------------------------------------------------------


async def post(simulator, session, path="/api/v1/jobs/createTask"):
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    async with session.post(simulator.base_url + path, json=BODY, headers=headers) as answer:
        return json.loads(await answer.text())


@pytest.mark.virtual
async def test_half_of_it_passes_before_the_request_arrives():
    """In the caller's seconds, whatever the speed; faults add to it."""
    loop = asyncio.get_running_loop()
    terms = Terms(latency={"create": Constant(8)})
    async with (
        Simulator(terms, renderer=FixedRenderer(), speed=10, clock=LoopClock()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        simulator.script("create", [Fault.OK, Fault.late(5)])
        begin = loop.time()
        await post(simulator, session)
        assert loop.time() - begin == pytest.approx(8, abs=0.1)
        await post(simulator, session)
        assert loop.time() - begin == pytest.approx(8 + 13, abs=0.2)

        first, second = simulator.ledger.arrivals("create")
        assert (second - first) / 10 == pytest.approx(4 + 4, abs=0.1)
        assert [c.at for c in simulator.ledger.paid] == [first, second]


@pytest.mark.virtual
async def test_a_caller_who_gives_up_may_have_been_heard():
    """What is on its way arrives all the same, and is charged (A2)."""
    terms = Terms(latency={"create": Constant(8)})
    async with (
        Simulator(terms, renderer=FixedRenderer(), clock=LoopClock()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await post(simulator, session)
        assert not simulator.ledger.paid
        await asyncio.sleep(4)
        assert len(simulator.ledger.paid) == 1


async def test_what_is_on_its_way_when_it_closes_never_arrives():
    """Nothing is charged by a service that is no longer there."""
    terms = Terms(latency=Constant(3600))
    async with aiohttp.ClientSession() as session:
        async with Simulator(terms, renderer=FixedRenderer()) as simulator:
            asking = asyncio.create_task(post(simulator, session))
            for _ in range(20):
                await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert not simulator.ledger.paid


# -- skipping ----------------------------------------------------------------------------------


def test_skipped_time_passes_in_the_world_and_not_on_the_calendar():
    """Stamps that were told stay as they were, and no stamp lies in the future."""
    clock = HandClock()
    time = ServiceClock(clock, speed=2)
    time.now()
    clock.time += 10
    before = time.now()
    stamp = time.timestamp(before)

    time.skip(3600)

    assert (before, time.now()) == (20, 3620)
    assert time.timestamp(before) == stamp == time.timestamp(3620) == clock.wall()
    clock.time += 5
    assert time.now() == 3630
    assert time.timestamp(3630) == clock.wall()
    time.restart()
    assert time.now() == 0


def test_time_is_skipped_forwards():
    """Nothing that has happened can be undone."""
    with pytest.raises(ValueError, match="seconds"):
        ServiceClock(HandClock()).skip(-1)


def test_a_world_can_begin_again():
    """With the same chance: equal requests meet an equal world, under new ids."""
    world = Service(
        Terms(duration=Lognormal(), fail_rate=0.3), clock=ServiceClock(HandClock()), rng=Random(2)
    )
    world.files.base_url = "http://files.test"
    raw = json.dumps(BODY).encode()

    def fates():
        tasks = [world.create(raw) for _ in range(10)]
        return [(t.due_at, t.failure, t.seed) for t in tasks], {t.task_id for t in tasks}

    first, ids = fates()
    world.advance(500)
    world.reset()

    assert (world.clock.now(), world.credits, world.tasks) == (0, Terms().credits, ())
    assert world.files.base_url == "http://files.test"
    second, others = fates()
    assert second == first
    assert not ids & others
