"""Latencies, and time that is skipped."""

from __future__ import annotations

import asyncio
import json
import statistics
from random import Random

import aiohttp
import pytest
from manual_clock import ManualClock

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


# -- distributions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "median", "most"),
    [(Constant(0.2), 0.2, 0.2), (Uniform(0.1, 0.5), 0.3, 0.5), (Lognormal(0.2, 1.0), 0.2, 9.0)],
    ids=repr,
)
def test_latencies_follow_their_distribution(latency, median, most):
    """Always the same, anything between two values, or small with a long tail."""
    rng = Random(1)
    terms = Terms(latency=latency)
    drawn = [terms.draw_latency("create", rng) for _ in range(4000)]

    assert statistics.median(drawn) == pytest.approx(median, rel=0.1)
    assert 0 < min(drawn) <= max(drawn) <= most
    assert (max(drawn) > 2) is isinstance(latency, Lognormal)


def test_each_endpoint_may_have_its_own():
    """An endpoint without one has none, and none is negative."""
    terms = Terms(latency={"create": Constant(1), "record": Uniform(-5, -1)})

    assert [terms.draw_latency(e, Random(1)) for e in ("create", "record", "file")] == [1, 0, 0]
    assert Terms().draw_latency("create", Random(1)) == 0


def test_one_more_poll_does_not_delay_the_next_creation():
    """Each endpoint has a generator of its own."""
    quiet, busy = (Service(Terms(latency=Uniform(0, 1)), rng=Random(5)) for _ in range(2))
    for _ in range(13):
        busy.latency("record")

    assert [quiet.latency("create") for _ in range(9)] == [busy.latency("create") for _ in range(9)]


# -- on the network ---------------------------------------------------------------------------


async def post(simulator, session, path="/api/v1/jobs/createTask"):
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    async with session.post(simulator.base_url + path, json=BODY, headers=headers) as answer:
        return json.loads(await answer.text())


@pytest.mark.virtual
async def test_half_of_the_latency_passes_before_the_request_arrives():
    """In the caller's seconds, whatever the speed; delays of faults are added."""
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
async def test_a_request_arrives_although_its_caller_has_given_up():
    """It is processed and charged (A2)."""
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


async def test_a_request_in_transit_never_arrives_when_the_simulator_closes():
    """Nothing is charged by a service that has ended."""
    terms = Terms(latency=Constant(3600))
    async with aiohttp.ClientSession() as session:
        async with Simulator(terms, renderer=FixedRenderer()) as simulator:
            posting = asyncio.create_task(post(simulator, session))
            for _ in range(20):
                await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientError):
            await posting
    assert not simulator.ledger.paid


# -- skipping ----------------------------------------------------------------------------------


def test_skipped_time_passes_for_the_service_and_not_on_the_calendar():
    """Timestamps that were sent stay as they were, and none is in the future."""
    clock = ManualClock()
    service_clock = ServiceClock(clock, speed=2)
    service_clock.now()
    clock.time += 10
    before = service_clock.now()
    stamp = service_clock.timestamp(before)

    service_clock.skip(3600)

    assert (before, service_clock.now()) == (20, 3620)
    assert service_clock.timestamp(before) == stamp == service_clock.timestamp(3620) == clock.wall()
    clock.time += 5
    assert service_clock.now() == 3630
    assert service_clock.timestamp(3630) == clock.wall()
    service_clock.restart()
    assert service_clock.now() == 0


def test_time_cannot_be_skipped_backwards():
    """What has happened cannot be undone."""
    with pytest.raises(ValueError, match="seconds"):
        ServiceClock(ManualClock()).skip(-1)


def test_a_service_can_be_reset():
    """With the same randomness: equal requests get equal tasks, under new ids."""
    service = Service(
        Terms(duration=Lognormal(), fail_rate=0.3), clock=ServiceClock(ManualClock()), rng=Random(2)
    )
    service.files.base_url = "http://files.test"
    raw = json.dumps(BODY).encode()

    def create_ten():
        tasks = [service.create(raw) for _ in range(10)]
        return [(t.due_at, t.failure, t.seed) for t in tasks], {t.task_id for t in tasks}

    first, ids = create_ten()
    service.advance(500)
    service.reset()

    assert (service.clock.now(), service.credits, service.tasks) == (0, Terms().credits, ())
    assert service.files.base_url == "http://files.test"
    second, others = create_ten()
    assert second == first
    assert not ids & others
